//! Leaves the kernel alone for a while when it begins to refuse keys.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// For how long no connection goes to the kernel.
const PAUSE: Duration = Duration::from_secs(60);

/// One connection lost weighs as much as so many that went well.
const FAILURE: u32 = 8;

/// So many lost connections in a row, or one in so many for longer, open it.
const LIMIT: u32 = 3 * FAILURE;

/// The only thing workers share here; written at most once for each connection that is handed
/// over. Where two do so at once, one of them may not count.
#[derive(Debug)]
pub(super) struct Breaker {
    made: Instant,
    weight: AtomicU32,
    /// Milliseconds after `made`.
    open_until: AtomicU64,
}

impl Breaker {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            made: now,
            weight: AtomicU32::new(0),
            open_until: AtomicU64::new(0),
        }
    }

    pub(super) fn is_open(&self, now: Instant) -> bool {
        self.millis(now) < self.open_until.load(Ordering::Relaxed)
    }

    pub(super) fn failed(&self, now: Instant) {
        let weight = self.weight.load(Ordering::Relaxed) + FAILURE;
        if weight < LIMIT {
            self.weight.store(weight, Ordering::Relaxed);
            return;
        }
        // After the pause the first failure opens it again.
        self.weight.store(LIMIT - FAILURE, Ordering::Relaxed);
        self.open_until.store(self.millis(now + PAUSE), Ordering::Relaxed);
        tracing::warn!(
            seconds = PAUSE.as_secs(),
            "the kernel keeps refusing the keys of connections; for a while none goes there"
        );
    }

    pub(super) fn succeeded(&self) {
        let weight = self.weight.load(Ordering::Relaxed);
        if weight > 0 {
            self.weight.store(weight - 1, Ordering::Relaxed);
        }
    }

    fn millis(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.made).as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::now;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn three_refusals_open_it_for_a_minute() {
        let start = now();
        let breaker = Breaker::new(start);
        assert!(!breaker.is_open(start));
        breaker.failed(start);
        breaker.failed(start);
        assert!(!breaker.is_open(start));
        breaker.failed(start + SECOND);
        assert!(breaker.is_open(start + SECOND));
        assert!(breaker.is_open(start + PAUSE));
        assert!(!breaker.is_open(start + PAUSE + SECOND));
    }

    #[test]
    fn after_the_pause_one_refusal_is_enough_until_enough_went_well() {
        let start = now();
        let breaker = Breaker::new(start);
        for _ in 0..3 {
            breaker.failed(start);
        }
        let later = start + 2 * PAUSE;
        breaker.failed(later);
        assert!(breaker.is_open(later + SECOND));
        for _ in 0..LIMIT {
            breaker.succeeded();
        }
        let much_later = later + 2 * PAUSE;
        breaker.failed(much_later);
        assert!(!breaker.is_open(much_later + SECOND));
    }

    #[test]
    fn a_refusal_now_and_then_does_not_open_it() {
        let start = now();
        let breaker = Breaker::new(start);
        for _ in 0..100 {
            breaker.failed(start);
            for _ in 0..FAILURE {
                breaker.succeeded();
            }
        }
        assert!(!breaker.is_open(start));
    }
}
