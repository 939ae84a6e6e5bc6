//! System calls and contracts that have no safe wrapper elsewhere; the only unsafe code of Atlas.
//!
//! What may live here: one function a need, safe to call, whose body answers every demand of what
//! it calls. Look for the safe wrapper in `rustix`, `socket2` or `nix` first.
#![expect(
    unsafe_code,
    reason = "this module is the one place that may hold unsafe code"
)]

pub mod ktls;
mod tcp_info;
pub mod tls_stream;

pub use tcp_info::tcp_bytes_acked;

use std::os::fd::{AsRawFd, BorrowedFd};

/// The descriptor of something that owns one and says so only by `AsRawFd`.
pub fn borrow(owner: &monoio::net::TcpStream) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is open for as long as `owner` is, and the result borrows `owner`;
    // monoio closes it only when the stream and every operation on it are gone.
    unsafe { BorrowedFd::borrow_raw(owner.as_raw_fd()) }
}
