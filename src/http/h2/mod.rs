//! HTTP/2 (RFC 9113): frames, streams and windows are the `h2` crate's; the bytes below them, what a
//! message means, and how much a peer may do are decided here.

pub mod client;
mod ends;
mod frame;
mod guard;
mod held;
pub mod server;
mod signal;
mod timer;
pub mod translate;
mod wire;

use std::borrow::Borrow;

use h2::Reason;

use crate::outcome::Cause;
use crate::transport::Transport;

/// What the crate counts for each field beyond its bytes (RFC 9113 §10.5.1).
const FIELD_OVERHEAD: usize = 32;

/// What stands before every connection's first frame (RFC 9113 §3.4), up to where it cannot be
/// HTTP/1 any more.
pub const PREFACE_LINE: &[u8] = b"PRI * HTTP/2.0\r\n";

/// How much a client may do on one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Requests that may be under way at a time.
    pub streams_max: u32,
    /// Bytes of request bodies that may be on their way, or wait for the endpoints, at a time.
    pub window_bytes: u32,
    /// Requests that may be cancelled at once, beyond one for each that was let finish; by the client,
    /// or by what it sends behind their heads.
    pub resets_max: u32,
    /// Frames of each kind that carries nothing by itself that may come at once.
    pub overhead_max: u32,
}

/// What RFC 9113 §6.5.2 lets a window be at the least that is not tiny: what all begin with.
const WINDOW_BYTES_MIN: u32 = 65_535;

impl Settings {
    /// The window for all bodies.
    fn window(&self) -> u32 {
        self.window_bytes.max(WINDOW_BYTES_MIN)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            streams_max: 128,
            window_bytes: 1024 * 1024,
            resets_max: 500,
            overhead_max: 1000,
        }
    }
}

/// Why the crate has ended a connection.
fn cause_of<T: Borrow<Transport>>(error: &h2::Error, wire: &wire::Wire<T>) -> Cause {
    if let Some(error) = error.get_io() {
        return Cause::of(error);
    }
    if error.is_remote() {
        return Cause::Reset; // a GOAWAY with an error
    }
    match error.reason() {
        Some(Reason::ENHANCE_YOUR_CALM) => wire.excess().unwrap_or(Cause::LimitReached),
        _ => Cause::Malformed,
    }
}
