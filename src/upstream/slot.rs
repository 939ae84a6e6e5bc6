//! A place at an endpoint: counted from the moment an endpoint is chosen until whoever chose it is
//! done.

use super::{Endpoint, Upstream};

/// One exchange, or one connection in tcp mode, that is under way with an endpoint.
pub struct Slot<'u> {
    upstream: &'u Upstream,
    index: usize,
    /// It has been handed to another one.
    is_kept: bool,
}

impl<'u> Slot<'u> {
    /// One more.
    pub(super) fn take(upstream: &'u Upstream, index: usize) -> Self {
        upstream.endpoints[index].began();
        upstream.load_changed(index);
        Self::of(upstream, index)
    }

    /// One that is counted already.
    pub(super) fn of(upstream: &'u Upstream, index: usize) -> Self {
        Self {
            upstream,
            index,
            is_kept: false,
        }
    }

    /// Leaves it to whoever was given it.
    pub(super) fn keep(mut self) {
        self.is_kept = true;
    }

    /// The endpoint's index.
    pub(super) fn index(&self) -> usize {
        self.index
    }

    /// The endpoint.
    pub fn endpoint(&self) -> &'u Endpoint {
        &self.upstream.endpoints[self.index]
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        if self.is_kept || self.upstream.hand_over(self.index) {
            return;
        }
        self.upstream.endpoints[self.index].ended();
        self.upstream.load_changed(self.index);
    }
}
