//! Who waits for a stream to be had: woken one by one, in the order they came.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// Rung when a stream may be had.
#[derive(Default)]
pub struct Bell {
    /// By number, the oldest first; as many as there are requests that wait.
    waiting: RefCell<BTreeMap<u64, Waker>>,
    next: Cell<u64>,
}

impl Bell {
    /// Calls that many of those who wait.
    pub fn ring(&self, count: usize) {
        for _ in 0..count {
            let Some((_, waker)) = self.waiting.borrow_mut().pop_first() else {
                return;
            };
            waker.wake();
        }
    }

    /// Calls everybody.
    pub fn ring_all(&self) {
        for waker in std::mem::take(&mut *self.waiting.borrow_mut()).into_values() {
            waker.wake();
        }
    }

    /// Waits to be called. Who is called and does not listen any more lets the next one be called.
    pub fn called(&self) -> Called<'_> {
        Called {
            bell: self,
            number: None,
        }
    }
}

/// See [`Bell::called`].
#[must_use = "futures do nothing unless polled"]
pub struct Called<'b> {
    bell: &'b Bell,
    number: Option<u64>,
}

impl Future for Called<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut waiting = self.bell.waiting.borrow_mut();
        let number = match self.number {
            Some(number) if !waiting.contains_key(&number) => {
                drop(waiting);
                self.number = None;
                return Poll::Ready(());
            }
            Some(number) => number,
            None => {
                let number = self.bell.next.get();
                self.bell.next.set(number + 1);
                number
            }
        };
        waiting.insert(number, cx.waker().clone());
        drop(waiting);
        self.number = Some(number);
        Poll::Pending
    }
}

impl Drop for Called<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number
            && self.bell.waiting.borrow_mut().remove(&number).is_none()
        {
            self.bell.ring(1); // it was called, and did not hear
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::task::Wake;

    use super::*;

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    #[test]
    fn who_waits_longest_is_called_first_and_no_call_is_lost() {
        let bell = Bell::default();
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = count.clone().into();
        let cx = &mut Context::from_waker(&waker);
        let mut third = pin!(bell.called());
        {
            let (mut first, mut second) = (pin!(bell.called()), pin!(bell.called()));
            assert!(first.as_mut().poll(cx).is_pending());
            assert!(second.as_mut().poll(cx).is_pending());
            assert!(third.as_mut().poll(cx).is_pending());
            bell.ring(1);
            assert_eq!(count.0.load(SeqCst), 1);
            assert!(second.as_mut().poll(cx).is_pending());
            assert!(first.as_mut().poll(cx).is_ready());
            bell.ring(1);
            assert!(third.as_mut().poll(cx).is_pending());
        }
        assert!(third.as_mut().poll(cx).is_ready(), "the second did not hear");
        bell.ring_all();
        assert!(bell.waiting.borrow().is_empty());
    }
}
