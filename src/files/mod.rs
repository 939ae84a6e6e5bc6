//! Static files: path → file, ranges, conditions, types.

use std::path::PathBuf;

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
