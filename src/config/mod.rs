//! From the text of a configuration file to the [`Generation`] the workers run, or to all that is
//! wrong with it.
//!
//! Three steps: TOML with the place of every value (`read`), tables as they are written
//! (`file`), what they mean together (`resolve`). Each step collects all errors it finds.

pub mod endpoints_file;
pub mod error;
pub mod file;
mod json;
pub mod read;
mod resolve;
mod secrets;
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
    /// `workers`, if it has a number.
    pub workers: Option<Range<usize>>,
    /// Header of each listener, and the keys that say what it is.
    pub listeners: Vec<Vec<Range<usize>>>,
    /// For each listener, `cert` and `key` of each of its certificates.
    pub certificates: Vec<Vec<Vec<Range<usize>>>>,
    /// Header and keys of each route.
    pub routes: Vec<Vec<Range<usize>>>,
    /// Header of each upstream, and the keys that say where it is.
    pub upstreams: Vec<Vec<Range<usize>>>,
    /// The `files` of each root.
    pub roots: Vec<Vec<Range<usize>>>,
    /// For each listener, its `connections_max` if it is written.
    pub connections_max: Vec<Option<Range<usize>>>,
    /// For each listener, `prefer_ktls = true` if it is written for it: its default is the same.
    pub listener_ktls: Vec<Option<Range<usize>>>,
    /// For each upstream, likewise.
    pub upstream_ktls: Vec<Option<Range<usize>>>,
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

/// Errors of syntax that are shown. A file with more is hardly TOML, and each of its lines an error.
const SYNTAX_ERRORS_MAX: usize = 20;

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
    let bytes = read_file(path).map_err(|(code, message)| {
        let help = match code {
            "missing-file" => "name the configuration file with `-c FILE`; `atlas demo` needs none",
            "unreadable-file" => "let the user that runs Atlas read this file",
            _ => "name the configuration file with `-c FILE`",
        };
        alone(&name, "", Diagnostic::whole_file(code, message).help(help))
    })?;
    let text = String::from_utf8(bytes).map_err(|error| not_utf8(&name, &error))?;
    let folder = path.parent().unwrap_or_else(|| Path::new(""));
    parse_after(&name, &text, folder, earlier)
}

#[expect(
    clippy::disallowed_methods,
    reason = "read by the supervisor, not by a worker"
)]
fn read_file(path: &Path) -> Result<Vec<u8>, (&'static str, String)> {
    let told = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => ("missing-file", "there is no such file".to_owned()),
        _ => ("unreadable-file", format!("cannot be read: {error}")),
    };
    let facts = std::fs::metadata(path).map_err(told)?;
    if !facts.is_file() {
        return Err(("bad-file", "this is not a file".to_owned()));
    }
    if facts.len() > FILE_BYTES_MAX {
        return Err(("bad-file", "the file is larger than any configuration".to_owned()));
    }
    std::fs::read(path).map_err(told)
}

/// A report of one thing.
fn alone(name: &str, text: &str, what: Diagnostic) -> Report {
    let source = Source {
        name: name.to_owned(),
        text: text.to_owned(),
    };
    Report::new(source.into(), vec![what])
}

/// Says where text of another encoding begins; of what is no text at all, nothing is shown.
fn not_utf8(name: &str, error: &std::string::FromUtf8Error) -> Report {
    let bytes = error.as_bytes();
    let code = "bad-file";
    let is_utf16 = bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff");
    if is_utf16 || bytes.contains(&0) {
        let (message, help) = match is_utf16 {
            true => ("the file is UTF-16 text, not UTF-8", "save it as UTF-8"),
            false => (
                "the file is not text",
                "name the configuration file with `-c FILE`",
            ),
        };
        return alone(name, "", Diagnostic::whole_file(code, message).help(help));
    }
    // Up to here the text is the same, with each of its bytes where it was.
    let start = error.utf8_error().valid_up_to();
    let end = start + char::REPLACEMENT_CHARACTER.len_utf8();
    let what = Diagnostic::error(code, start..end, "the file is not UTF-8 text").help("save it as UTF-8");
    alone(name, &String::from_utf8_lossy(bytes), what)
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
    let mut found = Vec::new();
    let resolved = read(&source, folder, earlier, &mut found);
    if found.iter().any(|one| one.severity == Severity::Error) {
        // They may follow from what is wrong.
        found.retain(|one| !CONSEQUENCES.contains(&one.code));
    }
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

/// Warnings that something has no use.
const CONSEQUENCES: [&str; 4] = ["no-route", "unused-route", "unused-tls", "unused-upstream"];

fn read(
    source: &Source,
    folder: &Path,
    earlier: Option<&Generation>,
    found: &mut Vec<Diagnostic>,
) -> Option<(Generation, Lines)> {
    let (table, errors) = DeTable::parse_recoverable(&source.text);
    let file = read_tables(table.into_inner(), found);
    if errors.is_empty() {
        return resolve::resolve(&file?, folder, earlier, found);
    }
    // What could not be read may be what everything else refers to: no guesses about it.
    let more = errors.len().saturating_sub(SYNTAX_ERRORS_MAX);
    let mut errors: Vec<_> = errors
        .iter()
        .take(SYNTAX_ERRORS_MAX)
        .map(|error| syntax(error, &source.text))
        .collect();
    if more > 0 {
        let message = format!("and {more} more places that are not TOML");
        let help = "the file may be something else: name the configuration file with `-c FILE`";
        errors.push(Diagnostic::whole_file("syntax", message).help(help));
    }
    let spans = errors.iter().filter_map(|error| error.span.as_ref());
    let lines: Vec<_> = spans.map(|span| source.line_of(span.start)).collect();
    found.retain(|one| {
        let place = one.span.as_ref().map(|span| span.start);
        place.is_none_or(|place| lines.iter().all(|line| !line.contains(&place)))
    });
    found.extend(errors);
    None
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
    let mut message = error.message().replace('\n', "; ");
    let is_about = |words: &[&str]| words.iter().any(|word| error.message().contains(word));
    let help = if is_about(&["duplicate"]) {
        message = format!("{message} `{}`", text.get(span.clone()).unwrap_or_default());
        "write each key once; tables that may repeat have double brackets: [[listen]], [[route]]"
    } else if is_about(&["string", "float", "integer", "literal", "date"]) {
        "strings stand in double quotes: key = \"value\""
    } else {
        "the file is TOML: tables as [name], values as key = value"
    };
    Diagnostic::error("syntax", span, message).help(help)
}

#[cfg(test)]
mod tests;
