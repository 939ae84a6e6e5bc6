//! HTTP/2 (RFC 9113): frames, streams and windows are the `h2` crate's; the bytes below them, what a
//! request means, and how much a client may do are decided here.

mod ends;
mod frame;
mod guard;
pub mod server;
pub mod translate;
mod wire;

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
