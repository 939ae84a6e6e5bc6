//! `atlas check`: whether a configuration can be run, and what is hardly meant in it.

use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::{Format, WRONG, answer, complain};
use crate::config::{self, Loaded, Report, Severity};

/// Reads the file as `run` would, says what it finds, and ends.
pub(super) fn check(path: &Path, format: Format) -> ExitCode {
    let loaded = config::load(path);
    let code = if loaded.is_ok() {
        ExitCode::SUCCESS
    } else {
        WRONG.into()
    };
    match format {
        Format::Json => answer(json(path, &loaded)),
        Format::Text => text(path, &loaded),
    }
    code
}

fn text(path: &Path, loaded: &Result<Loaded, Report>) {
    let path = path.display();
    match loaded {
        Ok(loaded) => {
            let warnings = &loaded.warnings;
            if !warnings.is_empty() {
                complain(warnings);
            }
            let generation = &loaded.generation;
            answer(format_args!(
                "atlas: configuration {path} is valid: {}, {}, {}{}",
                count(generation.listeners.len(), "listener"),
                count(generation.routes.routes().len(), "route"),
                count(generation.upstreams.len(), "upstream"),
                match warnings.count(Severity::Warning) {
                    0 => String::new(),
                    some => format!(" ({})", count(some, "warning")),
                }
            ));
        }
        Err(report) => {
            complain(report);
            let errors = count(report.count(Severity::Error), "error");
            complain(format_args!("atlas: configuration {path} is not valid: {errors}"));
        }
    }
}

pub(super) fn json(path: &Path, loaded: &Result<Loaded, Report>) -> Value {
    let report = match loaded {
        Ok(loaded) => &loaded.warnings,
        Err(report) => report,
    };
    let mut document = json!({
        "file": path.display().to_string(),
        "valid": loaded.is_ok(),
        "errors": report.count(Severity::Error),
        "warnings": report.count(Severity::Warning),
        "diagnostics": report.to_json(),
    });
    if let Ok(Loaded { generation, .. }) = loaded {
        document["listeners"] = generation.listeners.len().into();
        document["routes"] = generation.routes.routes().len().into();
        document["upstreams"] = generation.upstreams.len().into();
    }
    document
}

/// A number and its noun.
fn count(number: usize, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        _ => format!("{number} {noun}s"),
    }
}
