//! The connections a listener may hold at a time, per worker.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// A worker's share of a listener's connections. Cheap to clone.
#[derive(Clone)]
pub struct Slots(Rc<State>);

struct State {
    max: Cell<usize>,
    taken: Cell<usize>,
    waiting: RefCell<Option<Waker>>,
}

impl Slots {
    /// A share of `max`.
    pub fn new(max: usize) -> Self {
        Self(Rc::new(State {
            max: Cell::new(max),
            taken: Cell::new(0),
            waiting: RefCell::default(),
        }))
    }

    /// Changes the share; connections above it live on.
    pub fn resize(&self, max: usize) {
        self.0.max.set(max);
        self.0.wake();
    }

    /// Whether no connection more may be accepted.
    pub fn is_full(&self) -> bool {
        self.0.taken.get() >= self.0.max.get()
    }

    /// Waits until one is free. For one waiter: the listener's accept loop.
    pub async fn free(&self) {
        poll_fn(|cx| {
            if !self.is_full() {
                return Poll::Ready(());
            }
            self.0.waiting.replace(Some(cx.waker().clone()));
            Poll::Pending
        })
        .await;
    }

    /// Takes one; it is given back when the slot is dropped.
    pub fn take(&self) -> Slot {
        self.0.taken.set(self.0.taken.get() + 1);
        Slot(self.0.clone())
    }
}

impl State {
    fn wake(&self) {
        if let Some(waker) = self.waiting.take() {
            waker.wake();
        }
    }
}

/// One of the connections a listener may have open at a time.
pub struct Slot(Rc<State>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.taken.set(self.0.taken.get() - 1);
        self.0.wake();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_full_listener_waits_until_a_connection_ends() {
        let slots = Slots::new(1);
        let slot = slots.take();
        assert_eq!(slots.free().now_or_never(), None);
        drop(slot);
        assert_eq!(slots.free().now_or_never(), Some(()));
    }

    #[test]
    fn a_larger_share_counts_at_once_and_a_smaller_one_keeps_connections() {
        let slots = Slots::new(1);
        let held = [slots.take()];
        slots.resize(2);
        assert!(!slots.is_full());
        slots.resize(0);
        assert!(slots.is_full());
        assert_eq!(slots.0.taken.get(), held.len());
    }
}
