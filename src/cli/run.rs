//! `atlas run`: serve by a file until told to stop.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use crate::config;
use crate::metrics::Process;
use crate::runtime::Preference;
use crate::supervisor::{self, Failure, Source};

/// Serves by the file at `path`.
pub(super) fn run(path: &Path) -> ExitCode {
    let path = path.to_owned();
    supervise(move |earlier| config::load_after(&path, earlier), || {})
}

/// Serves by what `source` gives; calls `started` once it does.
pub(super) fn supervise(source: impl Source, started: impl FnOnce() + 'static) -> ExitCode {
    let preference = match driver_preference() {
        Ok(preference) => preference,
        Err(wrong) => {
            super::complain(wrong);
            return super::WRONG.into();
        }
    };
    let process = Arc::new(Process::default());
    let _log = match super::log::start(&process) {
        Ok(log) => log,
        Err(error) => {
            super::complain(format_args!("cannot write an error log: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match supervisor::run(source, preference, process, started) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Configuration(errors)) => {
            super::complain(errors);
            super::WRONG.into()
        }
        Err(Failure::Failed(why)) => {
            tracing::error!("{why}");
            ExitCode::FAILURE
        }
        Err(Failure::Interrupted) => {
            tracing::warn!("ended at once by a second signal");
            ExitCode::FAILURE
        }
    }
}

/// Which driver the environment asks for.
///
/// # Errors
///
/// A sentence.
pub(super) fn driver_preference() -> Result<Preference, String> {
    match std::env::var("ATLAS_DRIVER").as_deref() {
        Err(_) | Ok("" | "auto") => Ok(Preference::Auto),
        Ok("epoll") => Ok(Preference::Epoll),
        Ok(other) => Err(format!(
            "ATLAS_DRIVER is {other:?}; it may be \"auto\" or \"epoll\""
        )),
    }
}
