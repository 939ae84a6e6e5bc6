//! What a connection waits for in time.

use std::task::{Context, Poll};

use futures_util::future::LocalBoxFuture;

use crate::runtime::sleep_until;
use crate::time::Deadline;

/// One timer for all that is waited for: set anew only for what is earlier than before, and asked
/// again when it is over.
#[derive(Default)]
pub(super) struct Timer {
    waits: Option<(Deadline, LocalBoxFuture<'static, ()>)>,
}

impl Timer {
    /// Waits until the deadline.
    pub(super) fn poll(&mut self, deadline: Deadline, cx: &mut Context<'_>) -> Poll<()> {
        let is_late = self.waits.as_ref().is_none_or(|(set, _)| deadline < *set);
        if is_late {
            self.waits = Some((deadline, Box::pin(sleep_until(deadline))));
        }
        if let Some((_, sleep)) = &mut self.waits {
            std::task::ready!(sleep.as_mut().poll(cx));
        }
        self.waits = None;
        Poll::Ready(())
    }
}
