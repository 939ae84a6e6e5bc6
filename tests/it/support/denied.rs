//! Programs to which the kernel denies some system calls, as a container's seccomp profile does.

use std::process::{Child, Command};
use std::thread;

use rustix::io::Errno;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// A system call that is not made, and what the kernel answers.
#[derive(Clone, Copy)]
pub struct Denied {
    number: i64,
    /// Values of its second and third argument; any, if there are none.
    arguments: Option<(u32, u32)>,
    error: Errno,
}

impl Denied {
    /// EPERM to this one.
    pub const fn call(number: i64) -> Self {
        Self {
            number,
            arguments: None,
            error: Errno::PERM,
        }
    }

    /// This error to who wants the kernel's TLS for a socket.
    pub const fn kernel_tls(error: Errno) -> Self {
        Self {
            number: libc::SYS_setsockopt,
            arguments: Some((libc::IPPROTO_TCP.cast_unsigned(), libc::TCP_ULP.cast_unsigned())),
            error,
        }
    }

    fn rules(&self) -> Vec<SeccompRule> {
        let is = |place, value: u32| {
            SeccompCondition::new(place, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value.into())
                .expect("a system call has so many arguments")
        };
        let rule =
            |(second, third)| SeccompRule::new(vec![is(1, second), is(2, third)]).expect("it has conditions");
        self.arguments.map(rule).into_iter().collect()
    }

    /// From now on, for this thread and what it starts.
    fn deny(&self) {
        let filter = SeccompFilter::new(
            [(self.number, self.rules())].into(),
            SeccompAction::Allow,
            SeccompAction::Errno(self.error.raw_os_error().unsigned_abs()),
            std::env::consts::ARCH
                .try_into()
                .expect("seccomp knows this machine"),
        )
        .expect("the rules are good");
        let program: BpfProgram = filter.try_into().expect("the rules are good");
        seccompiler::apply_filter(&program).expect("the kernel has seccomp");
    }
}

/// Starts a program from a thread that may not make some system calls; children inherit that.
pub fn spawn(mut command: Command, denied: &[Denied]) -> Child {
    thread::scope(|scope| {
        let starting = scope.spawn(|| {
            denied.iter().for_each(Denied::deny);
            command.spawn().expect("the program starts")
        });
        starting.join().expect("starting does not panic")
    })
}
