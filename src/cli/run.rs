//! `atlas run`: serves as the configuration says.

use std::path::Path;
use std::process::ExitCode;

use super::{WRONG, complain};
use crate::config;

/// Serves until it is told to stop.
pub(super) fn run(path: &Path) -> ExitCode {
    match config::load(path) {
        Ok(loaded) => {
            if !loaded.warnings.is_empty() {
                complain(&loaded.warnings);
            }
            ExitCode::SUCCESS
        }
        Err(report) => {
            complain(report);
            WRONG.into()
        }
    }
}
