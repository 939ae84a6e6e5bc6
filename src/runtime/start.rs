//! Starts a worker's runtime on the best driver that this machine allows, and says which.

use std::cell::Cell;
use std::fmt;

use monoio::{IoUringDriver, LegacyDriver, RuntimeBuilder};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::alarms;
use super::gate::{self, turn};
use super::pool::Pool;

/// Ring entries asked for, largest first: a ring is charged to RLIMIT_MEMLOCK on some kernels.
const RING_ENTRIES: [u32; 2] = [1024, 256];

/// What the largest is charged there (Linux 7.2).
pub const RING_BYTES: u64 = 104 * 1024;

/// When the kernel looks after what has completed. With none of these it interrupts the worker for each, which
/// measured 30 to 50 % slower.
#[derive(Clone, Copy)]
enum Completions {
    /// When the worker waits, and at no other time: 3 % of a small proxied request less than the next. Linux 6.1.
    ///
    /// monoio asks for them nowhere else, so a task that stays runnable would starve all sockets and timers.
    /// Here none does: whoever has done its share waits at the gate, and the gate opens only where the
    /// worker waits.
    Deferred,
    /// At any system call of the one thread that submits. Linux 6.0.
    Single,
    /// At any system call. Linux 5.19.
    Cooperative,
}

const COMPLETIONS: [Completions; 3] = [
    Completions::Deferred,
    Completions::Single,
    Completions::Cooperative,
];

impl Completions {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Deferred => "single issuer, deferred",
            Self::Single => "single issuer, cooperative",
            Self::Cooperative => "cooperative",
        }
    }
}

/// Which driver the operator asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preference {
    /// io_uring where it can be had, else epoll.
    #[default]
    Auto,
    /// epoll.
    Epoll,
}

/// How this worker learns of its sockets, and why not better.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Driver {
    /// io_uring, with the named flags.
    IoUring(&'static str),
    /// epoll, with the reason.
    Epoll(String),
}

impl Driver {
    /// The word as logs and metrics write it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::IoUring(_) => "io_uring",
            Self::Epoll(_) => "epoll",
        }
    }
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::IoUring(flags) => write!(f, "io_uring ({flags})"),
            Self::Epoll(why) => write!(f, "epoll ({why})"),
        }
    }
}

thread_local! {
    static IS_EPOLL: Cell<bool> = const { Cell::new(false) };
}

/// Whether a wait for something to read ends by an error that comes alone, EPOLLERR without EPOLLIN: what
/// the kernel tells of bytes that are no TLS record. Of that monoio 0.2.4 on epoll tells writers only, and
/// a wait for both would end at once wherever there is space to write.
pub fn tells_readers_of_errors() -> bool {
    !IS_EPOLL.get()
}

/// Runs `main` on this thread until it is done.
///
/// # Errors
///
/// When neither driver can be had; the text says why.
pub fn start<T, F: Future<Output = T>>(
    preference: Preference,
    main: impl FnOnce(Driver) -> F,
) -> Result<T, String> {
    let refusal = match preference {
        Preference::Epoll => "asked for".to_owned(),
        Preference::Auto => match ring() {
            Ok((mut runtime, flags)) => {
                IS_EPOLL.set(false);
                return runtime.block_on(run(main(Driver::IoUring(flags))));
            }
            Err(refusal) => refusal,
        },
    };
    let mut runtime = RuntimeBuilder::<LegacyDriver>::new()
        .enable_timer()
        .attach_thread_pool(Box::new(Pool::new()))
        .build()
        .map_err(|error| format!("neither io_uring ({refusal}) nor epoll ({error}) can be had"))?;
    IS_EPOLL.set(true);
    runtime.block_on(run(main(Driver::Epoll(refusal))))
}

/// On io_uring, what is dropped is closed by requests of the ring: one that cancels the wait for the
/// socket, then one that closes it, each submitted at a turn. A runtime that ended before would keep the
/// socket open for as long as the process lives, and the peer would never hear of its end.
async fn run<T>(main: impl Future<Output = T>) -> Result<T, String> {
    const LAST_TURNS: usize = 4;
    open()?;
    let ended = main.await;
    for _ in 0..LAST_TURNS {
        turn().await;
    }
    Ok(ended)
}

/// Makes what each worker has beside monoio's own.
fn open() -> Result<(), String> {
    alarms::open();
    gate::open().map_err(|error| format!("cannot make a socket pair: {error}"))
}

type RingRuntime = monoio::Runtime<monoio::time::TimeDriver<IoUringDriver>>;

/// Steps the flags and the size down to what the kernel has.
fn ring() -> Result<(RingRuntime, &'static str), String> {
    if !monoio::utils::detect_uring() {
        return Err(why_no_ring());
    }
    let mut last = String::new();
    for entries in RING_ENTRIES {
        for completions in COMPLETIONS {
            match build(entries, completions) {
                Ok(runtime) => return Ok((runtime, completions.as_str())),
                Err(error) => last = explain(&error),
            }
        }
    }
    Err(last)
}

fn build(entries: u32, completions: Completions) -> std::io::Result<RingRuntime> {
    let mut ring = io_uring::IoUring::builder();
    match completions {
        Completions::Deferred => ring.setup_single_issuer().setup_defer_taskrun(),
        Completions::Single => ring.setup_single_issuer().setup_coop_taskrun(),
        Completions::Cooperative => ring.setup_coop_taskrun(),
    };
    RuntimeBuilder::<IoUringDriver>::new()
        .uring_builder(ring)
        .with_entries(entries)
        .enable_timer()
        .attach_thread_pool(Box::new(Pool::new()))
        .build()
}

/// Whether this kernel charges the rings of this process to what its user may lock in memory
/// (RLIMIT_MEMLOCK). `None`: io_uring cannot be had. For a process that serves nobody: it has no such
/// memory for a moment.
///
/// Versions do not tell. Linux did so up to 5.11, then charged the memory of the control group alone
/// (6.1 and 6.12 do), and does both today (6.18, 7.2); and who has CAP_IPC_LOCK is never charged.
pub fn charges_rings() -> Option<bool> {
    let limit = getrlimit(Resource::Memlock);
    let nothing = Rlimit {
        current: Some(0),
        ..limit
    };
    setrlimit(Resource::Memlock, nothing).ok()?;
    let made = io_uring::IoUring::new(8).map(drop);
    setrlimit(Resource::Memlock, limit).ok()?;
    match made {
        Ok(()) => Some(false),
        Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => Some(true),
        Err(_) => None,
    }
}

/// monoio's probe says only no; a bare ring tells the reason.
fn why_no_ring() -> String {
    match io_uring::IoUring::new(8) {
        Err(error) => explain(&error),
        Ok(_) => "this kernel's io_uring lacks operations Atlas needs; 5.11 or newer has them".to_owned(),
    }
}

fn explain(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM) => {
            "io_uring is denied: kernel.io_uring_disabled, or the container's seccomp profile".to_owned()
        }
        Some(libc::ENOSYS) => {
            "this kernel has no io_uring, or the container's seccomp profile hides it".to_owned()
        }
        Some(libc::ENOMEM) => {
            "no locked memory for io_uring: raise RLIMIT_MEMLOCK (LimitMEMLOCK= in systemd)".to_owned()
        }
        Some(libc::EINVAL) => {
            "this kernel's io_uring has no cooperative task running; 5.19 or newer has it".to_owned()
        }
        _ => format!("io_uring: {error}"),
    }
}
