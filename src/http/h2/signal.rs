//! A waker that remembers: which part of a connection has something to do, so that only that one is
//! polled, and the task is not woken by what it does itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Context, Wake, Waker};

use futures_util::task::AtomicWaker;

/// Whether a part has something to do.
pub(super) struct Signal {
    state: Arc<State>,
    waker: Waker,
}

/// Shared with whoever wakes, which may be the thread that has read a file. So that no call is missed
/// between the last look and the wait, either of the two sees what the other has stored first.
struct State {
    is_set: AtomicBool,
    /// The task looks at the signal before it waits.
    is_awake: AtomicBool,
    task: AtomicWaker,
}

impl Wake for State {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let was_set = self.is_set.swap(true, SeqCst);
        if !was_set && !self.is_awake.load(SeqCst) {
            self.task.wake();
        }
    }
}

impl Signal {
    /// One that is set.
    pub(super) fn new() -> Self {
        let state = Arc::new(State {
            is_set: AtomicBool::new(true),
            is_awake: AtomicBool::new(false),
            task: AtomicWaker::new(),
        });
        Self {
            waker: state.clone().into(),
            state,
        }
    }

    /// The task begins to work, and will look at the signal before it waits.
    pub(super) fn begin(&self, cx: &Context<'_>) {
        self.state.task.register(cx.waker());
        self.state.is_awake.store(true, SeqCst);
    }

    /// The task is about to wait. Whether it must not: somebody has called meanwhile.
    pub(super) fn end(&self) -> bool {
        self.state.is_awake.store(false, SeqCst);
        self.state.is_set.load(SeqCst)
    }

    /// Whether it was set; it is not any more.
    pub(super) fn take(&self) -> bool {
        self.state.is_set.swap(false, SeqCst)
    }

    pub(super) fn set(&self) {
        self.state.is_set.store(true, SeqCst);
    }

    /// What sets it, and wakes the task where it waits.
    pub(super) fn waker(&self) -> Waker {
        self.waker.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    #[test]
    fn the_task_is_woken_once_and_only_where_it_waits() {
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let task = count.clone().into();
        let signal = Signal::new();
        signal.begin(&Context::from_waker(&task));
        assert!(signal.take(), "a new one is set");
        signal.waker().wake();
        assert!(signal.end(), "called while it worked");
        assert_eq!(count.0.load(SeqCst), 0);
        assert!(signal.take());
        assert!(!signal.end());
        signal.waker().wake();
        signal.waker().wake();
        assert_eq!(count.0.load(SeqCst), 1);
    }
}
