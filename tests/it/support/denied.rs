//! Programs to which the kernel denies some system calls, as a container's seccomp profile does.

use std::process::{Child, Command};
use std::thread;

use rustix::io::Errno;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// A system call that is not made, and what the kernel answers.
#[derive(Clone)]
pub struct Denied {
    number: i64,
    /// What its arguments have to be, by their place.
    arguments: Vec<(u8, SeccompCmpOp, i32)>,
    error: Errno,
}

impl Denied {
    /// Who has so many connections open gets later sockets.
    pub const LATER: usize = 128;

    /// EPERM to this one.
    pub const fn call(number: i64) -> Self {
        Self {
            number,
            arguments: Vec::new(),
            error: Errno::PERM,
        }
    }

    /// This error to who wants the kernel's TLS for a socket.
    pub fn kernel_tls(error: Errno) -> Self {
        let attaches = [(1, libc::IPPROTO_TCP), (2, libc::TCP_ULP)];
        Self {
            number: libc::SYS_setsockopt,
            arguments: attaches.map(|(place, is)| (place, SeccompCmpOp::Eq, is)).into(),
            error,
        }
    }

    /// EINVAL to who hands the kernel the keys of a later socket: what a program does as it starts succeeds.
    pub fn keys_of_later_sockets() -> Self {
        Self {
            number: libc::SYS_setsockopt,
            arguments: vec![
                (0, SeccompCmpOp::Ge, Self::LATER as i32),
                (1, SeccompCmpOp::Eq, libc::SOL_TLS),
            ],
            error: Errno::INVAL,
        }
    }

    fn rules(&self) -> Vec<SeccompRule> {
        let conditions = self.arguments.iter().map(|(place, compare, value)| {
            let value = value.unsigned_abs().into();
            SeccompCondition::new(*place, SeccompCmpArgLen::Dword, compare.clone(), value)
                .expect("a system call has so many arguments")
        });
        match self.arguments[..] {
            [] => Vec::new(),
            _ => vec![SeccompRule::new(conditions.collect()).expect("it has conditions")],
        }
    }

    /// From now on, for this thread and what it starts.
    pub fn deny(&self) {
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
