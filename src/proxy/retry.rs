//! Requests that are sent again: when, and what is kept for it.

use std::cell::Cell;

use http::Method;

use crate::buffer;
use crate::outcome::{Cause, End, Side};
use crate::upstream::Lease;

/// Whether a request may be sent again whose connection ended without a byte of an answer: an idle
/// connection may have been closed just when it was used again, an endpoint may have died.
pub(super) enum Resend {
    /// The connection is fresh: its end is the endpoint's answer.
    Never,
    /// RFC 9110 §9.2.2: doing it twice is doing it once.
    Idempotent,
    /// If the endpoint's kernel has not taken a byte of it since then.
    Unacknowledged(u64),
}

impl Resend {
    pub(super) fn of(lease: &Lease<'_>, method: &Method, has_died: bool) -> Self {
        match lease.is_reused() {
            // A second endpoint is asked, no third: what kills one must not kill all.
            false if has_died || !method.is_idempotent() => Self::Never,
            _ if method.is_idempotent() => Self::Idempotent,
            _ => lease.acknowledged().map_or(Self::Never, Self::Unacknowledged),
        }
    }

    pub(super) fn after(&self, end: End, lease: &Lease<'_>) -> bool {
        if end.cause == Cause::Unprocessed {
            return true; // nobody has looked at it
        }
        is_gone(end)
            && match self {
                Self::Never => false,
                Self::Idempotent => true,
                Self::Unacknowledged(before) => lease.acknowledged() == Some(*before),
            }
    }
}

/// Bytes of a body that are kept to be sent again: forms and calls, not uploads.
const KEPT_BYTES_MAX: usize = 16 * 1024;

/// What was taken of the client's body. It can be read once only, but may have to be sent twice.
#[derive(Default)]
pub(super) struct Kept {
    /// All of it so far, unless it `is_lost`.
    pub(super) bytes: Vec<u8>,
    /// The connection it goes to has served before, and may turn out to be closed.
    pub(super) keeps: bool,
    pub(super) is_lost: bool,
}

/// Where pieces of the client's body are noted.
pub(super) struct Taken<'a> {
    pub(super) bytes: &'a Cell<u64>,
    /// How many of them went by splice.
    pub(super) spliced: &'a Cell<u64>,
    pub(super) kept: &'a mut Kept,
}

impl Taken<'_> {
    /// Nobody has seen these bytes: they cannot be sent again.
    pub(super) fn note_spliced(&mut self, count: u64) {
        self.bytes.set(self.bytes.get() + count);
        self.spliced.set(self.spliced.get() + count);
        self.kept.is_lost = true;
    }

    /// So much was passed on after 101.
    pub(super) fn note_tunnel(&self, count: u64, spliced: u64) {
        self.bytes.set(self.bytes.get() + count);
        self.spliced.set(self.spliced.get() + spliced);
    }

    pub(super) fn note(&mut self, piece: &[u8]) {
        self.bytes.set(self.bytes.get() + piece.len() as u64);
        let kept = &mut *self.kept;
        kept.is_lost |= !kept.keeps || kept.bytes.len() + piece.len() > KEPT_BYTES_MAX;
        if kept.is_lost {
            return;
        }
        if kept.bytes.capacity() == 0 {
            kept.bytes = buffer::take_vec();
        }
        kept.bytes.extend_from_slice(piece);
    }
}

/// Whether the endpoint has closed, in order or not.
pub(super) fn is_gone(end: End) -> bool {
    end.side == Side::Upstream && matches!(end.cause, Cause::Closed | Cause::Reset | Cause::Truncated)
}
