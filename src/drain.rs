//! "This worker is going away": told once, heard by every connection.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// Whether a worker, or one generation of its listeners, is going away. Cheap to clone.
#[derive(Clone, Default)]
pub struct Drain(Rc<State>);

#[derive(Default)]
struct State {
    started: Cell<bool>,
    waiting: RefCell<Vec<Waker>>,
}

impl Drain {
    /// Nobody is going away yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Tells everybody who waits, now and from here on.
    pub fn start(&self) {
        self.0.started.set(true);
        for waker in self.0.waiting.take() {
            waker.wake();
        }
    }

    /// Whether it has been told.
    pub fn has_started(&self) -> bool {
        self.0.started.get()
    }

    /// Waits until it is told.
    pub async fn started(&self) {
        poll_fn(|cx| {
            if self.has_started() {
                return Poll::Ready(());
            }
            let mut waiting = self.0.waiting.borrow_mut();
            // A task that polls again and again must not fill the list.
            if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                waiting.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }
}
