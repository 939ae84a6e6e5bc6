//! The words the tests speak: `atlas()`, `origin()`, `cert()`, a client, and the tools of the machine.

pub mod atlas;
pub mod carrier;
pub mod certs;
pub mod client;
pub mod denied;
pub mod frames;
pub mod origin;
pub mod tools;
pub mod wire;

use std::cell::RefCell;
use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

pub use self::atlas::{Atlas, Builder, Driver, atlas, on_both_drivers};
pub use self::certs::{Kind, ca, cert, expired_cert, rsa_cert};
pub use self::client::{Answer, Connection, Ending, Tls};
pub use self::denied::Denied;
pub use self::origin::{Origin, Then, origin};
pub use self::tools::{command, command_without, has, held_up, is_guest, measures_time, nginx};

/// Asks until there is an answer; fails the test when none comes.
pub fn wait_until<T>(what: &str, ask: impl FnMut() -> Option<T>) -> T {
    wait_long_until(what, Duration::from_secs(60), ask)
}

/// The same for what takes its time, as a browser does.
pub fn wait_long_until<T>(what: &str, patience: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(started.elapsed() < patience, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A port nobody listens on, below those the kernel gives to clients, and given out only once.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test programs that run side by side begin at different places.
    let begin = u16::try_from(std::process::id() % 160).expect("it is small") * 128;
    for _ in 0..21_000 {
        let port = 11_000 + begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % 21_000;
        // Both families: a listener on `::` would take the port of IPv4 as well.
        if TcpListener::bind(("::", port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free, or this machine has no IPv6");
}

/// SHA-256 of what is fed to it.
pub struct Digest(aws_lc_rs::digest::Context);

impl Digest {
    pub fn new() -> Self {
        Self(aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256))
    }

    pub fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    pub fn hex(self) -> String {
        let digest = self.0.finish();
        digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    pub fn of(bytes: &[u8]) -> String {
        let mut digest = Self::new();
        digest.update(bytes);
        digest.hex()
    }
}

/// Bytes that look random, the same every time.
pub fn noise(count: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(7);
    let mut bytes = vec![0; count];
    random.fill(&mut bytes);
    bytes
}

/// Tests that measure time run alone; all others side by side.
static MACHINE: RwLock<()> = RwLock::new(());

thread_local! {
    /// What this test holds of the machine, and how many of its things hold it.
    static HELD: RefCell<(Option<RwLockReadGuard<'static, ()>>, usize)> = const { RefCell::new((None, 0)) };
}

/// A share of the machine, held by every Atlas that runs.
pub struct Share(());

impl Share {
    fn take() -> Self {
        HELD.with_borrow_mut(|(guard, count)| {
            if *count == 0 {
                *guard = Some(MACHINE.read().unwrap_or_else(|poisoned| poisoned.into_inner()));
            }
            *count += 1;
        });
        Self(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        HELD.with_borrow_mut(|(guard, count)| {
            *count -= 1;
            if *count == 0 {
                *guard = None;
            }
        });
    }
}

/// The whole machine: taken before the first Atlas of a test that measures time.
pub struct Alone(#[expect(dead_code, reason = "held, not read")] RwLockWriteGuard<'static, ()>);

/// Waits until no other test runs, and keeps others from starting.
pub fn alone() -> Alone {
    let guard = MACHINE.write().unwrap_or_else(|poisoned| poisoned.into_inner());
    HELD.with_borrow_mut(|(_, count)| *count += 1);
    Alone(guard)
}

impl Drop for Alone {
    fn drop(&mut self) {
        HELD.with_borrow_mut(|(_, count)| *count -= 1);
    }
}

/// Lets this process open so many descriptors.
pub fn raise_descriptors(count: u64) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let enough = |has: Option<u64>| has.is_none_or(|has| has >= count);
    if !enough(limit.current) {
        assert!(
            enough(limit.maximum),
            "this machine allows {:?} descriptors",
            limit.maximum
        );
        let raised = Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        };
        setrlimit(Resource::Nofile, raised).expect("up to the maximum is allowed");
    }
}
