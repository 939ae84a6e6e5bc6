//! Clock and deadlines: the one place that reads the clock.

use std::time::{Duration, Instant, SystemTime};

/// A moment by which something has to be done.
///
/// Waits take a `Deadline` and not a `Duration`, so that a wait which is entered again cannot
/// start its time anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// The moment `timeout` after `now`.
    pub fn after(now: Instant, timeout: Duration) -> Self {
        // A timeout of centuries is "never" to the user; the clock cannot count that far.
        const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
        Self(now + timeout.min(NEVER))
    }

    /// The moment `timeout` from now.
    pub fn within(timeout: Duration) -> Self {
        Self::after(now(), timeout)
    }

    /// What is left of it at `now`.
    pub fn left(self, now: Instant) -> Duration {
        self.0.saturating_duration_since(now)
    }

    /// Whether it has passed at `now`.
    pub fn passed(self, now: Instant) -> bool {
        self.0 <= now
    }

    /// The earlier of two.
    pub fn or(self, other: Self) -> Self {
        self.min(other)
    }

    /// The moment itself.
    pub fn instant(self) -> Instant {
        self.0
    }
}

/// Reads the monotonic clock.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
pub fn now() -> Instant {
    #[cfg(test)]
    if let Some(moment) = simulated::NOW.get() {
        return moment;
    }
    Instant::now()
}

/// Reads the wall clock, for dates that people and other programs see.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
pub fn wall() -> SystemTime {
    SystemTime::now()
}

/// Time that only a test moves, on its own thread: hours of it pass in no time, and the same each time.
#[cfg(test)]
pub mod simulated {
    use std::cell::Cell;
    use std::time::Instant;

    thread_local! {
        pub(super) static NOW: Cell<Option<Instant>> = const { Cell::new(None) };
    }

    /// It is this moment, until told otherwise.
    pub fn set(moment: Instant) {
        NOW.set(Some(moment));
    }
}
