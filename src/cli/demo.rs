//! `atlas demo`: a site of its own, without any configuration.

use std::process::ExitCode;

/// Serves until it is told to stop.
pub(super) fn run() -> ExitCode {
    ExitCode::SUCCESS
}
