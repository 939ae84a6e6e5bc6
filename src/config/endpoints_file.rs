//! Endpoints in a file of their own, which others write: JSON or TOML, read again when it changes.

use std::path::Path;
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::error::{Diagnostic, Report, Severity, Source};
use super::file::EndpointsFile;
use super::json::{self, Translated};
use super::read::{Place, Read, kind};
use super::{alone, not_utf8, read_file, resolve, syntax};
use crate::upstream::{EndpointSettings, Settings};

/// Endpoints of one file; a file with more is a mistake.
pub const ENDPOINTS_MAX: usize = 10_000;

const BYTE_ORDER_MARK: char = '\u{feff}';

/// Reads the endpoints of a file, for this upstream.
///
/// # Errors
///
/// All that is wrong with it.
pub fn load(path: &Path, upstream: &Settings) -> Result<Arc<[EndpointSettings]>, Report> {
    let name = path.display().to_string();
    let bytes = read_file(path).map_err(|(code, message)| {
        let help = "write it, and let the user that runs Atlas read it";
        alone(&name, "", Diagnostic::whole_file(code, message).help(help))
    })?;
    let mut text = String::from_utf8(bytes).map_err(|error| not_utf8(&name, &error))?;
    // Some editors begin a file with it; TOML takes it, JSON does not.
    if text.starts_with(BYTE_ORDER_MARK) {
        text.remove(0);
    }
    let is_json = path
        .extension()
        .is_some_and(|kind| kind.eq_ignore_ascii_case("json"));
    let mut found = Vec::new();
    let endpoints = match is_json {
        true => of_json(&text, upstream, &mut found),
        false => of_toml(&text, upstream, &mut found),
    };
    let source = Source { name, text };
    let report = Report::new(source.into(), found);
    match endpoints {
        Some(endpoints) if report.count(Severity::Error) == 0 => Ok(endpoints.into()),
        _ => Err(report),
    }
}

fn of_toml(text: &str, upstream: &Settings, found: &mut Vec<Diagnostic>) -> Option<Vec<EndpointSettings>> {
    let (table, errors) = DeTable::parse_recoverable(text);
    if let Some(error) = errors.first() {
        found.push(syntax(error, text));
        return None;
    }
    endpoints(&DeValue::Table(table.into_inner()), upstream, found)
}

fn of_json(text: &str, upstream: &Settings, found: &mut Vec<Diagnostic>) -> Option<Vec<EndpointSettings>> {
    let translated = json::translate(text, "endpoints")
        .map_err(|wrong| found.push(wrong))
        .ok()?;
    let mut there = Vec::new();
    let endpoints = of_translated(&translated, upstream, &mut there);
    for one in &mut there {
        one.span = one.span.as_ref().map(|span| translated.place(span));
        one.related
            .iter_mut()
            .for_each(|(span, _)| *span = translated.place(span));
    }
    found.append(&mut there);
    endpoints
}

fn of_translated(
    translated: &Translated,
    upstream: &Settings,
    found: &mut Vec<Diagnostic>,
) -> Option<Vec<EndpointSettings>> {
    let (table, errors) = DeTable::parse_recoverable(&translated.toml);
    if let Some(error) = errors.first() {
        found.push(syntax(error, &translated.toml));
        return None;
    }
    let table = table.into_inner();
    match table.get(json::TOP) {
        Some(top) => endpoints(top.get_ref(), upstream, found),
        None => endpoints(&DeValue::Table(table), upstream, found),
    }
}

fn endpoints(
    value: &DeValue<'_>,
    upstream: &Settings,
    found: &mut Vec<Diagnostic>,
) -> Option<Vec<EndpointSettings>> {
    if !value.is_table() {
        let message = format!(
            "the file must be a list or a table with `endpoints`, not {}",
            kind(value)
        );
        let help = "write: { \"endpoints\": [\"127.0.0.1:3000\"] }";
        found.push(Diagnostic::error("wrong-type", 0..0, message).help(help));
        return None;
    }
    let place = Place {
        key: "endpoints",
        key_span: 0..0,
        span: 0..0,
    };
    let file = EndpointsFile::read(value, &place, found)?;
    resolve::endpoints(&file, upstream, found)
}
