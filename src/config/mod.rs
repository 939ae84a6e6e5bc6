//! From the text of a configuration file to the [`Generation`] the workers run, or to all that is
//! wrong with it.
//!
//! Three steps: TOML with the place of every value ([`read`]), tables as they are written
//! ([`file`]), what they mean together ([`resolve`]). Each step collects all errors it finds.

pub mod error;
pub mod file;
pub mod read;
mod resolve;
pub mod values;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

pub use error::{Diagnostic, Position, Report, Severity, Source};

use crate::generation::Generation;

/// A configuration that can be run.
pub struct Loaded {
    /// What the workers run; its number is 1 until the caller changes it.
    pub generation: Generation,
    /// What is hardly meant as it is written; no errors.
    pub warnings: Report,
    /// Where in the file everything stands.
    pub lines: Lines,
}

impl std::fmt::Debug for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loaded")
            .field("warnings", &self.warnings)
            .finish_non_exhaustive()
    }
}

/// Where in the file the parts of a [`Generation`] stand; the lists have the order of its lists.
#[derive(Debug, Default)]
pub struct Lines {
    /// The file.
    pub source: Arc<Source>,
    /// Header and keys of each listener.
    pub listeners: Vec<Vec<Range<usize>>>,
    /// For each listener, `cert` and `key` of each of its certificates.
    pub certificates: Vec<Vec<Vec<Range<usize>>>>,
    /// Header and keys of each route.
    pub routes: Vec<Vec<Range<usize>>>,
    /// Header and keys of each upstream.
    pub upstreams: Vec<Vec<Range<usize>>>,
    /// The `files` of each root.
    pub roots: Vec<Vec<Range<usize>>>,
}

impl Lines {
    /// The numbers of the lines that some places cover, each once.
    pub fn numbers(&self, places: &[Range<usize>]) -> Vec<usize> {
        let lines = |place: &Range<usize>| {
            let last = place.end.max(place.start + 1) - 1;
            self.source.position(place.start).line..=self.source.position(last).line
        };
        let mut numbers: Vec<_> = places.iter().flat_map(lines).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }
}

/// A file with more is not a configuration.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Reads a configuration file, and the certificates and folders it names.
///
/// # Errors
///
/// All that is wrong with it, warnings included.
pub fn load(path: &Path) -> Result<Loaded, Report> {
    load_after(path, None)
}

/// As [`load`], for a reload: what can be kept of the generation before (the keys of session
/// tickets) is kept.
///
/// # Errors
///
/// As [`load`].
pub fn load_after(path: &Path, earlier: Option<&Generation>) -> Result<Loaded, Report> {
    let name = path.display().to_string();
    let text = read_file(path).map_err(|(code, message)| {
        let source = Source {
            name: name.clone(),
            text: String::new(),
        };
        let help = "name the configuration file with `-c FILE`";
        Report::new(
            source.into(),
            vec![Diagnostic::whole_file(code, message).help(help)],
        )
    })?;
    let folder = path.parent().unwrap_or(Path::new(""));
    parse_after(&name, &text, folder, earlier)
}

fn read_file(path: &Path) -> Result<String, (&'static str, String)> {
    let told = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => ("missing-file", "there is no such file".to_owned()),
        std::io::ErrorKind::InvalidData => ("bad-file", "the file is not UTF-8 text".to_owned()),
        _ => ("unreadable-file", format!("cannot be read: {error}")),
    };
    let facts = std::fs::metadata(path).map_err(told)?;
    if !facts.is_file() {
        return Err(("bad-file", "this is not a file".to_owned()));
    }
    if facts.len() > FILE_BYTES_MAX {
        return Err(("bad-file", "the file is larger than any configuration".to_owned()));
    }
    std::fs::read_to_string(path).map_err(told)
}

/// As [`load`], of text that is in memory: `name` is for messages, relative paths begin at `folder`.
///
/// # Errors
///
/// As [`load`].
pub fn parse(name: &str, text: &str, folder: &Path) -> Result<Loaded, Report> {
    parse_after(name, text, folder, None)
}

fn parse_after(
    name: &str,
    text: &str,
    folder: &Path,
    earlier: Option<&Generation>,
) -> Result<Loaded, Report> {
    let source = Arc::new(Source {
        name: name.to_owned(),
        text: text.to_owned(),
    });
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut found: Vec<_> = errors.iter().map(|error| syntax(error, text)).collect();
    let is_whole = found.is_empty();
    let file = read_tables(table.into_inner(), &mut found);
    // What could not be read may be what everything else refers to: no guesses about it.
    let resolved = file
        .filter(|_| is_whole)
        .and_then(|file| resolve::resolve(&file, folder, earlier, &mut found));
    let report = Report::new(source.clone(), found);
    match resolved {
        Some((generation, lines)) if report.count(Severity::Error) == 0 => Ok(Loaded {
            generation,
            warnings: report,
            lines: Lines { source, ..lines },
        }),
        _ => Err(report),
    }
}

fn read_tables(table: DeTable<'_>, found: &mut Vec<Diagnostic>) -> Option<file::File> {
    let place = read::Place {
        key: "",
        key_span: 0..0,
        span: 0..0,
    };
    read::Read::read(&DeValue::Table(table), &place, found)
}

fn syntax(error: &toml::de::Error, text: &str) -> Diagnostic {
    let span = error.span().unwrap_or(text.len()..text.len());
    let message = error.message().replace('\n', "; ");
    let help = if message.contains("string") {
        "strings stand in double quotes: key = \"value\""
    } else if message.contains("duplicate") {
        "write each key once; tables that may repeat have double brackets: [[route]]"
    } else {
        "the file is TOML: tables as [name], values as key = value"
    };
    Diagnostic::error("syntax", span, message).help(help)
}

#[cfg(test)]
mod tests;
