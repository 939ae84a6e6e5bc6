//! HTTP/1.0 and 1.1: strict, framed once, written again from what was understood.

pub mod client;
pub mod server;
