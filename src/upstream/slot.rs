//! A place at an endpoint: counted from the moment an endpoint is chosen until whoever chose it is
//! done.

use super::{Endpoint, Upstream};

/// One exchange, or one connection in tcp mode, that is under way with an endpoint.
pub struct Slot<'u> {
    upstream: &'u Upstream,
    index: usize,
}

impl<'u> Slot<'u> {
    /// One more.
    pub(super) fn take(upstream: &'u Upstream, index: usize) -> Self {
        upstream.endpoints[index].began();
        upstream.load_changed(index);
        Self { upstream, index }
    }

    /// The endpoint.
    pub fn endpoint(&self) -> &'u Endpoint {
        &self.upstream.endpoints[self.index]
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.upstream.endpoints[self.index].ended();
        self.upstream.load_changed(self.index);
    }
}
