//! Alarms: every deadline of a worker's waits, kept by one timer of the runtime's.
//!
//! monoio's own timers are made to be waited for. Ours are set to be dropped: nearly every wait of a
//! proxy ends by what it waits for, long before its deadline. So setting one and dropping it again
//! costs some hundred instructions and no memory of the future's own (monoio's: 900 bytes in each,
//! on a border of 128), and a deadline may be noticed [`TICK`] late, never early.

use std::cell::RefCell;
use std::future::{pending, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures_util::future::select;

use super::wheel::{Key, Wheel};
use crate::time::{Deadline, now};

/// How exact an alarm is.
const TICK: Duration = Duration::from_millis(4);

const TICKS_A_SECOND: u64 = 1000 / 4;

thread_local! {
    static ALARMS: RefCell<Option<Alarms>> = const { RefCell::new(None) };
}

struct Alarms {
    /// Tick 0.
    began: Instant,
    wheel: Wheel,
    /// When the keeper rings next, if nothing is set before that.
    next: Option<u64>,
    /// The keeper, where it waits for something earlier to be set.
    keeper: Option<Waker>,
}

/// Makes this thread's alarms. To be called inside its runtime.
pub(super) fn open() {
    ALARMS.set(Some(Alarms {
        began: now(),
        wheel: Wheel::new(),
        next: None,
        keeper: None,
    }));
    monoio::spawn(keep());
}

/// Rings the alarms for as long as the runtime lives.
async fn keep() {
    loop {
        let next = with(|alarms| {
            alarms.next = alarms.wheel.next();
            alarms.next.map(|tick| alarms.moment(tick))
        });
        let rings = async {
            match next {
                Some(Some(at)) => monoio::time::sleep_until(monoio::time::Instant::from_std(at)).await,
                _ => pending().await,
            }
        };
        select(pin!(rings), pin!(earlier_is_set(next.flatten()))).await;
        for waker in with(Alarms::ring).unwrap_or_default() {
            waker.wake();
        }
    }
}

/// Waits until an alarm is set that rings before `next`.
async fn earlier_is_set(next: Option<Instant>) {
    poll_fn(|cx| {
        let is_set = with(|alarms| {
            alarms.keeper = Some(cx.waker().clone());
            alarms.next.map(|tick| alarms.moment(tick)) != next
        });
        match is_set {
            Some(true) => Poll::Ready(()),
            _ => Poll::Pending,
        }
    })
    .await;
}

fn with<T>(call: impl FnOnce(&mut Alarms) -> T) -> Option<T> {
    // At the end of a thread they may be gone before the last wait.
    let with = |alarms: &RefCell<Option<Alarms>>| alarms.borrow_mut().as_mut().map(call);
    ALARMS.try_with(with).ok().flatten()
}

impl Alarms {
    /// The tick that `moment` is in or before.
    fn tick_after(&self, moment: Instant) -> u64 {
        let since = moment.saturating_duration_since(self.began);
        let part = since.subsec_nanos().div_ceil(TICK.subsec_nanos());
        since.as_secs() * TICKS_A_SECOND + u64::from(part)
    }

    fn moment(&self, tick: u64) -> Instant {
        let part = u32::try_from(tick % TICKS_A_SECOND).unwrap_or_default();
        self.began + Duration::from_secs(tick / TICKS_A_SECOND) + TICK * part
    }

    fn set(&mut self, deadline: Deadline, waker: &Waker) -> Key {
        let tick = self.tick_after(deadline.instant());
        if self.next.is_none_or(|next| tick < next) {
            self.next = Some(tick);
            if let Some(keeper) = &self.keeper {
                keeper.wake_by_ref();
            }
        }
        self.wheel.set(tick, waker.clone())
    }

    /// Those whose time has come.
    fn ring(&mut self) -> Vec<Waker> {
        let passed = now().saturating_duration_since(self.began);
        let part = passed.subsec_nanos() / TICK.subsec_nanos();
        self.wheel
            .ring(passed.as_secs() * TICKS_A_SECOND + u64::from(part))
    }
}

/// A deadline that wakes whoever polls it; given up when dropped.
pub(super) struct Alarm {
    deadline: Deadline,
    key: Option<Key>,
}

impl Alarm {
    pub(super) fn new(deadline: Deadline) -> Self {
        Self { deadline, key: None }
    }

    /// Whether it has rung. Set by the first poll.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(key) = self.key else {
            self.key = with(|alarms| alarms.set(self.deadline, cx.waker()));
            return Poll::Pending;
        };
        // The waker that was replaced is dropped out here: it may be the last that holds a task,
        // with alarms of its own.
        match with(|alarms| alarms.wheel.poll(key, cx.waker())) {
            Some((true, _)) => Poll::Ready(()),
            Some((false, _)) | None => Poll::Pending,
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            let waker = with(|alarms| alarms.wheel.cancel(key));
            drop(waker);
        }
    }
}
