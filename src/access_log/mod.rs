//! What is written down: one record for every connection, one for every exchange on it.

mod format;
mod log;
mod record;
mod writer;

use std::path::PathBuf;

pub use log::{BATCH_BYTES, Log};
pub use record::{
    ConnectionFacts, ConnectionRecord, ExchangeRecord, Moved, Request, RequestFacts, current, on_behalf_of,
};
pub use writer::{Batch, Opened, Sender, Target, Writer};

/// What the access log needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Nothing is written if not.
    pub enabled: bool,
    /// How a record is written.
    pub format: Format,
    /// The file; `None`: standard output.
    pub path: Option<PathBuf>,
}

/// How a record is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The format nginx and Apache call combined; exchanges only.
    Combined,
    /// One JSON object a line; connections, exchanges, and what was sent to mirrors.
    Json,
}

#[cfg(test)]
mod tests;
