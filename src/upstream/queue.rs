//! Exchanges that wait for a place at an endpoint, while all have as many as they may: in their order,
//! so many at the most, and for so long at the most.
//!
//! A place that becomes free is handed to who has waited longest of those that may have it, so that none
//! is lost between two of them, and nobody who comes later is faster.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use super::slot::Slot;
use super::{Attempts, Upstream};
use crate::outcome::{Cause, End};
use crate::runtime::before;
use crate::time::{Deadline, now};

/// Who waits, the first in front.
#[derive(Default)]
pub(super) struct Queue {
    waiting: RefCell<VecDeque<Rc<Waiter>>>,
}

/// One exchange that waits.
struct Waiter {
    wants: Wants,
    /// The endpoint at which it has a place now.
    given: Cell<Option<usize>>,
    waker: RefCell<Option<Waker>>,
}

/// Where an exchange may go.
#[derive(Clone, Debug, Default)]
pub(super) struct Wants {
    /// Nowhere else: its client is bound to it.
    pub(super) only: Option<usize>,
    /// Not there: they were asked before.
    pub(super) tried: Vec<usize>,
    /// As [`Attempts`] have it.
    pub(super) key: Option<u64>,
    /// It waits for a backup, because there is no other.
    pub(super) backup: bool,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.borrow().is_empty()
    }

    fn len(&self) -> usize {
        self.waiting.borrow().len()
    }

    fn join(&self, wants: Wants, most: usize) -> Option<Rc<Waiter>> {
        let mut all = self.waiting.borrow_mut();
        if all.len() >= most {
            return None;
        }
        let waiter = Rc::new(Waiter {
            wants,
            given: Cell::new(None),
            waker: RefCell::new(None),
        });
        all.push_back(waiter.clone());
        Some(waiter)
    }

    fn leave(&self, waiter: &Rc<Waiter>) {
        self.waiting
            .borrow_mut()
            .retain(|other| !Rc::ptr_eq(other, waiter));
    }

    /// Gives a place to the first of whom this holds; whether there is one.
    fn give(&self, index: usize, may: impl Fn(&Wants) -> bool) -> bool {
        let at = self.waiting.borrow().iter().position(|waiter| may(&waiter.wants));
        at.is_some_and(|at| self.give_at(at, index))
    }

    fn give_at(&self, at: usize, index: usize) -> bool {
        let Some(waiter) = self.waiting.borrow_mut().remove(at) else {
            return false;
        };
        waiter.given.set(Some(index));
        if let Some(waker) = waiter.waker.take() {
            waker.wake();
        }
        true
    }

    fn wants_at(&self, at: usize) -> Option<Wants> {
        self.waiting.borrow().get(at).map(|waiter| waiter.wants.clone())
    }
}

/// A place in the queue; whoever drops it leaves, and what it was given meanwhile goes on to the next.
struct Waiting<'u> {
    upstream: &'u Upstream,
    waiter: Rc<Waiter>,
}

impl<'u> Waiting<'u> {
    async fn called(&self) -> Slot<'u> {
        let index = poll_fn(|cx| match self.waiter.given.take() {
            Some(index) => Poll::Ready(index),
            None => {
                *self.waiter.waker.borrow_mut() = Some(cx.waker().clone());
                Poll::Pending
            }
        });
        Slot::of(self.upstream, index.await)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let upstream = self.upstream;
        match self.waiter.given.take() {
            Some(index) => drop(Slot::of(upstream, index)),
            None => upstream.queue.leave(&self.waiter),
        }
        upstream.counters.set_queued(upstream.queue.len());
    }
}

impl Upstream {
    /// Waits for a place.
    pub(super) async fn wait(&self, wants: Wants, attempts: &mut Attempts) -> Result<Slot<'_>, End> {
        let most = self.settings.queue_max.div_ceil(self.workers);
        // However often it has to wait, its time is not longer.
        let timeout = self.settings.queue_timeout;
        let deadline = *attempts
            .waits_until
            .get_or_insert_with(|| Deadline::after(now(), timeout));
        let Some(waiter) = self.queue.join(wants, most) else {
            return Err(self.refused(Cause::QueueFull));
        };
        let waiting = Waiting {
            upstream: self,
            waiter,
        };
        self.counters.set_queued(self.queue.len());
        match before(deadline, waiting.called()).await {
            Ok(slot) => Ok(slot),
            Err(_) => Err(self.refused(Cause::QueueTimedOut)),
        }
    }

    /// Hands a place that becomes free to who waits for it; whether somebody does.
    pub(super) fn hand_over(&self, index: usize) -> bool {
        if self.queue.is_empty() || !self.may_be_handed_over(index) {
            return false;
        }
        let is_backup = self.endpoints[index].is_backup();
        let is_shut = self.endpoints[index].is_shut();
        self.queue.give(index, |wants| match wants.only {
            Some(only) => only == index,
            None => !is_shut && wants.backup == is_backup && !wants.tried.contains(&index),
        })
    }

    /// Gives places to those who wait that have become free without anybody leaving them: an endpoint
    /// has come back, or was left by the generation before.
    pub(super) fn serve_queue(&self) {
        let mut at = 0;
        while let Some(wants) = self.queue.wants_at(at) {
            let index = match wants.only {
                Some(index) => Some(index).filter(|index| !self.endpoints[*index].is_full()),
                None => self.choose(&wants.tried, wants.key),
            };
            match index {
                Some(index) => {
                    let slot = Slot::take(self, index);
                    if self.queue.give_at(at, index) {
                        slot.keep();
                    }
                }
                // Who is bound to a busy endpoint stands in nobody's way.
                None if wants.only.is_some() => at += 1,
                None => return,
            }
        }
    }
}
