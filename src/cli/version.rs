//! `atlas version`: which Atlas this is, and what it is made of.

use std::process::ExitCode;

use serde_json::json;

use super::{Format, answer};

/// Says it and ends.
pub(super) fn version(format: Format) -> ExitCode {
    let version = env!("CARGO_PKG_VERSION");
    match format {
        Format::Text => answer(format_args!("atlas {version}")),
        Format::Json => answer(json!({ "name": "atlas", "version": version })),
    }
    ExitCode::SUCCESS
}
