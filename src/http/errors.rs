//! The answers Atlas gives itself when something is wrong: status, small body, Proxy-Status, and
//! an id that `docs/errors.md` explains.

use http::StatusCode;

use super::{BodyLength, ResponseHead};
use crate::outcome::End;

/// One answer of the catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The id, stable for ever: `docs/errors.md` explains it.
    pub id: &'static str,
    /// The status the client gets.
    pub status: StatusCode,
    /// The RFC 9209 error type, where one fits.
    pub proxy_error: Option<&'static str>,
}

impl Fault {
    /// The answer for an end, where the client can still be answered.
    pub fn of(_end: End) -> Self {
        todo!()
    }

    /// Head and body of the answer. `close`: the connection ends with it.
    pub fn response(&self, _close: bool) -> (ResponseHead, String) {
        let _ = BodyLength::None;
        todo!()
    }
}
