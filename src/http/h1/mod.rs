//! HTTP/1.0 and 1.1: strict, framed once, written again from what was understood.

pub mod body;
pub mod client;
pub mod encode;
pub mod parse;
pub mod server;
mod source;
pub(in crate::http) mod wire;
