//! Static files: path → file, ranges, conditions, types.

use std::path::PathBuf;

use crate::http::{RequestHead, Responder};
use crate::outcome::End;

/// What a root of static files needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The folder; nothing outside it is ever served.
    pub root: PathBuf,
    /// Names tried for a folder, in order (`["index.html"]`).
    pub index: Vec<String>,
    /// List folders that have no index (`false`).
    pub listing: bool,
    /// Served with status 200 where no file is found: single-page applications.
    pub fallback: Option<String>,
    /// Neighbours `.br`, `.zst` and `.gz` are served to clients that accept them (`true`).
    pub precompressed: bool,
    /// Names that begin with a dot are served (`false`).
    pub dotfiles: bool,
}

/// The methods a file answers to, as Allow writes them.
pub const ALLOW: &str = "GET, HEAD, OPTIONS";

/// A folder of static files, as one worker serves it.
pub struct Root {
    settings: Settings,
}

/// Nothing was sent: the caller answers from the catalogue of errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed {
    /// Why, with side `Atlas` and phase `File`.
    pub end: End,
    /// What the answer has to say in Allow (405).
    pub allow: Option<&'static str>,
}

impl Root {
    /// Opens nothing yet: the first request does.
    pub fn new(settings: Settings) -> Self {
        Self { settings }
    }

    /// What it was made from.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Answers a request with a file: the whole response, errors that need fields of their own
    /// (304, 412, 416) and redirects included.
    ///
    /// `path` is the encoded path below the root: the request's, perhaps without a prefix.
    ///
    /// Returns how the exchange ended; where it ended amid the response, the response is left
    /// unfinished, which closes the connection.
    ///
    /// # Errors
    ///
    /// Why there is no file to send, before anything was sent.
    pub async fn answer(
        &self,
        _request: &RequestHead,
        _path: &str,
        _response: &mut Responder<'_>,
    ) -> Result<End, Failed> {
        todo!()
    }
}
