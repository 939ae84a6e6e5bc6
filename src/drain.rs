//! "This worker is going away": told in three steps, heard by every connection.
//!
//! First responses say that the connection closes after them; a while later connections without
//! a request are closed; at the deadline everything is. Between the first two, a client that
//! sends requests without pause has had its answer and gone, so that no request meets a closing
//! connection.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// How far a worker, or one of its generations, is on its way out. Cheap to clone.
#[derive(Clone, Default)]
pub struct Drain(Rc<State>);

#[derive(Default)]
struct State {
    step: Cell<Step>,
    waiting: RefCell<Waiting>,
}

/// Who waits, found again by number: thousands of idle connections wait here at a time.
#[derive(Default)]
struct Waiting {
    wakers: Vec<Option<Waker>>,
    free: Vec<usize>,
}

/// How far it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Nobody is going away.
    #[default]
    Open,
    /// Every response closes its connection.
    Started,
    /// Connections without a request close.
    IdleEnds,
    /// Everything ends now.
    Cut,
}

impl Drain {
    /// Nobody is going away yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Goes on to a step, and tells everybody who waits for it. Never goes back.
    pub fn advance(&self, step: Step) {
        if step > self.0.step.get() {
            self.0.step.set(step);
            // Those who wait for a later step wait on: they are asked again, and stay listed.
            for waker in self.0.waiting.borrow().wakers.iter().flatten() {
                waker.wake_by_ref();
            }
        }
    }

    /// Whether responses shall close their connections.
    pub fn has_started(&self) -> bool {
        self.0.step.get() >= Step::Started
    }

    /// Waits until clients are to be told.
    pub async fn started(&self) {
        self.reached(Step::Started).await;
    }

    /// Waits until a connection without a request has to close.
    pub async fn idle_ends(&self) {
        self.reached(Step::IdleEnds).await;
    }

    /// Waits until everything ends.
    pub async fn cut(&self) {
        self.reached(Step::Cut).await;
    }

    fn reached(&self, step: Step) -> Reached<'_> {
        Reached {
            state: &self.0,
            step,
            number: None,
        }
    }
}

/// Waits for a step; takes itself off the list when dropped.
struct Reached<'d> {
    state: &'d State,
    step: Step,
    number: Option<usize>,
}

impl Future for Reached<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.state.step.get() >= self.step {
            return Poll::Ready(());
        }
        let mut waiting = self.state.waiting.borrow_mut();
        let number = self.number.unwrap_or_else(|| waiting.number());
        waiting.wakers[number]
            .get_or_insert_with(|| cx.waker().clone())
            .clone_from(cx.waker());
        drop(waiting);
        self.number = Some(number);
        Poll::Pending
    }
}

impl Drop for Reached<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            let mut waiting = self.state.waiting.borrow_mut();
            waiting.wakers[number] = None;
            waiting.free.push(number);
        }
    }
}

impl Waiting {
    fn number(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            self.wakers.push(None);
            self.wakers.len() - 1
        })
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn each_step_reaches_those_who_wait_for_it_and_no_others() {
        let drain = Drain::new();
        assert_eq!(drain.started().now_or_never(), None);
        assert_eq!(drain.idle_ends().now_or_never(), None);
        drain.advance(Step::Started);
        assert!(drain.has_started());
        assert_eq!(drain.started().now_or_never(), Some(()));
        assert_eq!(drain.idle_ends().now_or_never(), None);
        drain.advance(Step::Cut);
        drain.advance(Step::IdleEnds);
        assert_eq!(drain.idle_ends().now_or_never(), Some(()));
        assert_eq!(drain.cut().now_or_never(), Some(()));
    }

    #[test]
    fn those_who_stop_waiting_leave_their_place_to_others() {
        let drain = Drain::new();
        for _ in 0..100 {
            assert_eq!(drain.cut().now_or_never(), None);
        }
        assert_eq!(drain.0.waiting.borrow().wakers.len(), 1);
    }
}
