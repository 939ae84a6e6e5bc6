//! The worker's runtime: monoio, used the way that is safe on it. Nothing else names monoio's I/O.
//!
//! The rules, each measured on the released version: wait for readiness and then make a
//! nonblocking system call, so that no dropped future ever loses bytes; take a [`turn`] after a
//! bounded amount of work, because timers and other sockets are looked at only when every task
//! waits; catch panics at every task.

mod alarms;
mod gate;
mod pool;
mod socket;
mod start;
mod wheel;

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use pin_project_lite::pin_project;

use alarms::Alarm;
pub use gate::turn;
pub use socket::{Address, Listener, Socket, is_lost};
pub use start::{Driver, Preference, RING_BYTES, charges_rings, start, tells_readers_of_errors};

use crate::time::{Deadline, now};

/// A deadline passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimedOut;

/// Runs a future on this worker, to its end or its panic.
///
/// `panicked` is told what a panic said; the panic ends this task and nothing else.
pub fn spawn(future: impl Future<Output = ()> + 'static, panicked: impl FnOnce(String) + 'static) {
    // Not an async block: one would hold the future twice, before and after its first poll.
    monoio::spawn(AssertUnwindSafe(future).catch_unwind().map(|ended| {
        if let Err(panic) = ended {
            panicked(panic_text(&*panic));
        }
    }));
}

/// Waits for a future, but not longer than until `deadline`.
///
/// Only futures that may be dropped at any time belong here; those of [`Socket`] may. The deadline
/// is noticed some milliseconds late, never early.
pub fn before<T, F: Future<Output = T>>(deadline: Deadline, future: F) -> Before<F> {
    Before {
        future,
        alarm: Alarm::new(deadline),
    }
}

pin_project! {
    /// See [`before`].
    #[must_use = "futures do nothing unless polled"]
    pub struct Before<F> {
        #[pin]
        future: F,
        alarm: Alarm,
    }
}

impl<F: Future> Future for Before<F> {
    type Output = Result<F::Output, TimedOut>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        match this.future.poll(cx) {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending => this.alarm.poll(cx).map(|()| Err(TimedOut)),
        }
    }
}

/// Waits until `deadline`, to the millisecond. All polls must come from one task: monoio's timers
/// keep the waker of their first, and would wake nobody if that one belonged to nobody (as
/// `now_or_never`'s does).
pub async fn sleep_until(deadline: Deadline) {
    let deadline = monoio::time::Instant::from_std(deadline.instant());
    // Boxed: it has most of a kilobyte, which nobody is to hold who does not sleep.
    Box::pin(monoio::time::sleep_until(deadline)).await;
}

/// Waits for a time.
pub async fn sleep(time: Duration) {
    sleep_until(Deadline::after(now(), time)).await;
}

/// Runs a blocking call on a thread beside the worker and waits for its answer.
///
/// # Errors
///
/// What the panic said, if the call panicked.
pub async fn blocking<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    // A panic inside monoio's pool would leave the awaiter waiting for ever.
    let caught =
        move || std::panic::catch_unwind(AssertUnwindSafe(call)).map_err(|panic| panic_text(&*panic));
    monoio::spawn_blocking(caught)
        .await
        .unwrap_or_else(|_| Err("the thread pool has stopped".to_owned()))
}

/// As [`blocking`], on a thread of its own, for a call that may hang for ever: it takes none of the few threads
/// from others, and ends by itself when nobody waits any more.
///
/// # Errors
///
/// What the panic said, if the call panicked; that no thread can be started.
pub async fn blocking_apart<T: Send + 'static>(
    name: &str,
    call: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    let (done, result) = async_channel::bounded(1);
    let run = move || {
        let caught = std::panic::catch_unwind(AssertUnwindSafe(call));
        let _ = done.try_send(caught.map_err(|panic| panic_text(&*panic)));
    };
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run);
    thread.map_err(|error| format!("cannot start a thread: {error}"))?;
    let told = result.recv().await;
    told.unwrap_or_else(|_| Err("the thread has ended without a word".to_owned()))
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without words".to_owned())
}

#[cfg(test)]
pub(crate) mod tests;
