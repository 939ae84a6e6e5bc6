//! How much an upstream may have to do at a time, and how much of that twice: the budget of its retries;
//! for one worker.
//!
//! A retry after a timeout, a bad status, a second refusal of HTTP/2, or a reset where the route asks for several
//! attempts, adds work to an upstream that has too much of it already, or is in trouble. If each request may be tried
//! three times, an overload becomes three; with a budget of a fifth every fifth attempt is a retry at most, and it
//! grows by a quarter. What could not be connected to has done no work that would be done again, and from an endpoint
//! that is ejected all are sent elsewhere: these are moved, and need no budget.

use std::cell::Cell;

/// Retries a worker may have under way however few requests there are: one request alone may be tried
/// again.
const ALWAYS: u32 = 3;

/// Requests under way, and those of them that are being tried again.
#[derive(Debug, Default)]
pub(super) struct Budget {
    live: Cell<u32>,
    retrying: Cell<u32>,
}

impl Budget {
    fn has_room(&self, percent: u8) -> bool {
        let share = u64::from(self.live.get()) * u64::from(percent) / 100;
        u64::from(self.retrying.get()) < share.max(u64::from(ALWAYS)) && percent > 0
    }
}

/// A request under way, until it is dropped.
pub struct Live<'u> {
    budget: &'u Budget,
    percent: u8,
    is_retrying: Cell<bool>,
}

impl<'u> Live<'u> {
    /// One more, of which `percent` may be retries; `None` if there are as many as may.
    pub(super) fn new(budget: &'u Budget, most: usize, percent: u8) -> Option<Self> {
        let live = budget.live.get();
        if usize::try_from(live).is_ok_and(|live| live >= most) {
            return None;
        }
        budget.live.set(live + 1);
        Some(Self {
            budget,
            percent,
            is_retrying: Cell::new(false),
        })
    }

    /// Whether it may be tried again within the budget; if so it counts as a retry from here on.
    pub fn retry(&self) -> bool {
        if !self.is_retrying.get() && self.budget.has_room(self.percent) {
            self.budget.retrying.set(self.budget.retrying.get() + 1);
            self.is_retrying.set(true);
        }
        self.is_retrying.get()
    }
}

impl Drop for Live<'_> {
    fn drop(&mut self) {
        self.budget.live.set(self.budget.live.get() - 1);
        if self.is_retrying.get() {
            self.budget.retrying.set(self.budget.retrying.get() - 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_are_a_share_of_what_is_under_way_and_a_few_in_any_case() {
        for (live, percent, expected) in [
            (1, 20, 1),
            (3, 20, 3),
            (10, 20, 3),
            (16, 20, 3),
            (20, 20, 4),
            (1000, 20, 200),
            (1000, 100, 1000),
            (1000, 0, 0),
        ] {
            let budget = Budget::default();
            let all: Vec<_> = (0..live)
                .filter_map(|_| Live::new(&budget, usize::MAX, percent))
                .collect();
            let retries = all.iter().filter(|one| one.retry()).count();
            assert_eq!(retries, expected, "{live} requests, {percent} %");
            // Once it counts, it may be tried again as often as its route says.
            assert!(all.iter().take(expected).all(Live::retry));
        }
    }

    #[test]
    fn what_has_ended_makes_room() {
        let budget = Budget::default();
        let mut all: Vec<_> = (0..10).filter_map(|_| Live::new(&budget, 10, 20)).collect();
        assert_eq!(all.len(), 10);
        assert!(Live::new(&budget, 10, 20).is_none(), "one too many");
        assert_eq!(all.iter().filter(|one| one.retry()).count(), 3);
        assert!(!all[9].retry());
        all.remove(0);
        assert!(all[8].retry());
        all.extend(Live::new(&budget, 10, 20));
        assert_eq!(all.len(), 10);
        drop(all);
        assert_eq!((budget.live.get(), budget.retrying.get()), (0, 0));
    }
}
