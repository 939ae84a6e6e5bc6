//! What is wrong with a configuration file, where, and what to write instead.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use serde_json::{Value, json};

use super::secrets;

/// A file's name and text, for messages.
#[derive(Debug, Default)]
pub struct Source {
    /// As the user named it.
    pub name: String,
    /// All of it.
    pub text: String,
}

/// A place in a [`Source`], as editors count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
}

impl Source {
    /// Which line and column a byte of the text stands at.
    pub fn position(&self, byte: usize) -> Position {
        let before = self.text.get(..byte).unwrap_or(&self.text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Position {
            line: before.bytes().filter(|byte| *byte == b'\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }

    /// The same, as it may be shown to anybody: with stars in the place of what is secret, question marks (`¿`, which
    /// are as long) in that of control characters of C1, and everything else at its byte.
    #[must_use]
    pub fn to_show(&self) -> Self {
        Self {
            name: self.name.clone(),
            text: secrets::masked(&self.text).replace(|letter| matches!(letter, '\u{80}'..='\u{9f}'), "¿"),
        }
    }

    /// The bytes of the line this one stands in.
    pub fn line_of(&self, byte: usize) -> Range<usize> {
        let (before, after) = self.text.split_at_checked(byte).unwrap_or((&self.text, ""));
        let start = before.rfind('\n').map_or(0, |at| at + 1);
        start..byte + after.find('\n').map_or(after.len(), |at| at + 1)
    }

    /// The text of a line, counted from 1, without its end.
    pub fn line(&self, number: usize) -> &str {
        number
            .checked_sub(1)
            .and_then(|index| self.text.lines().nth(index))
            .unwrap_or_default()
    }
}

/// Whether Atlas can run with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// It cannot.
    Error,
    /// It can, but hardly as it was meant.
    Warning,
}

impl Severity {
    /// The word in messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// One thing that is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Whether Atlas can run with it.
    pub severity: Severity,
    /// A word for it that stays the same over versions: `unknown-key`.
    pub code: &'static str,
    /// The bytes it is about; `None`: the file as a whole.
    pub span: Option<Range<usize>>,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub help: Option<String>,
    /// Other places that have to do with it, and what they are.
    pub related: Vec<(Range<usize>, &'static str)>,
}

impl Diagnostic {
    /// Something Atlas cannot run with.
    pub fn error(code: &'static str, span: Range<usize>, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            code,
            span: Some(span),
            message: message.into(),
            help: None,
            related: Vec::new(),
        }
    }

    /// Something that is hardly meant.
    pub fn warning(code: &'static str, span: Range<usize>, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(code, span, message)
        }
    }

    /// Something about the file as a whole.
    pub fn whole_file(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            span: None,
            ..Self::error(code, 0..0, message)
        }
    }

    /// Adds what to write instead.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Adds another place that has to do with it.
    #[must_use]
    pub fn related(mut self, span: Range<usize>, what: &'static str) -> Self {
        self.related.push((span, what));
        self
    }

    /// `FILE:LINE:COLUMN: error: …`, the source line with a caret under it, and the help. `shown` is the
    /// source [as it may be shown](Source::to_show).
    fn write(&self, source: &Source, shown: &Source, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (severity, message) = (self.severity.as_str(), visible(&self.message));
        let help = self.help.as_deref().map(visible);
        let Some(span) = self.span.clone() else {
            writeln!(f, "{}: {severity}: {message} [{}]", source.name, self.code)?;
            return match &help {
                Some(help) => writeln!(f, "  = help: {help}"),
                None => Ok(()),
            };
        };
        let Position { line, column } = source.position(span.start);
        writeln!(
            f,
            "{}:{line}:{column}: {severity}: {message} [{}]",
            source.name, self.code
        )?;
        let places = self
            .related
            .iter()
            .map(|(span, what)| AnnotationKind::Context.span(span.clone()).label(*what));
        let mut group = Group::with_level(Level::ERROR).element(
            Snippet::source(&shown.text)
                .annotation(AnnotationKind::Primary.span(span))
                .annotations(places),
        );
        if let Some(help) = &help {
            group = group.element(Level::HELP.message(&**help));
        }
        writeln!(f, "{}", Renderer::plain().render(&[group]))
    }

    fn to_json(&self, source: &Source) -> Value {
        let mut object = json!({
            "file": source.name,
            "severity": self.severity.as_str(),
            "code": self.code,
            "message": self.message,
            "help": self.help,
        });
        if let Some(span) = &self.span {
            let (start, end) = (source.position(span.start), source.position(span.end));
            object["line"] = start.line.into();
            object["column"] = start.column.into();
            object["end_line"] = end.line.into();
            object["end_column"] = end.column.into();
        }
        object
    }
}

/// How much is told of each severity. What a program wrote may be wrong at each of a thousand places.
const TOLD_MAX: usize = 100;

/// All that is wrong with a file, in the order of its lines; of very much the beginning.
#[derive(Clone, Debug, Default)]
pub struct Report {
    source: Arc<Source>,
    found: Vec<Diagnostic>,
    errors: usize,
    warnings: usize,
}

impl Report {
    /// Puts what was found in the order of the lines.
    pub fn new(source: Arc<Source>, mut found: Vec<Diagnostic>) -> Self {
        found.sort_by_key(|one| {
            let span = one.span.clone().unwrap_or_default();
            (span.start, span.end, one.message.clone())
        });
        found.dedup();
        let errors = leave_out(&mut found, Severity::Error);
        let warnings = leave_out(&mut found, Severity::Warning);
        Self {
            source,
            found,
            errors,
            warnings,
        }
    }

    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// What was found.
    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.found.iter()
    }

    /// What was found, each with its file, line and column.
    pub fn located(&self) -> impl Iterator<Item = (String, &Diagnostic)> {
        self.iter().map(|one| {
            let name = &self.source.name;
            let place = one.span.as_ref().map(|span| self.source.position(span.start));
            let place = place.map(|Position { line, column }| format!("{name}:{line}:{column}"));
            (place.unwrap_or_else(|| name.clone()), one)
        })
    }

    /// How many there are of one severity, told or not.
    pub const fn count(&self, severity: Severity) -> usize {
        match severity {
            Severity::Error => self.errors,
            Severity::Warning => self.warnings,
        }
    }

    /// The same for programs: a list of objects with `file`, `severity`, `code`, `message`, `help`
    /// and, where it stands at a place, `line`, `column`, `end_line`, `end_column` (from 1, columns
    /// in characters, the end is behind the last one).
    pub fn to_json(&self) -> Value {
        self.iter().map(|one| one.to_json(&self.source)).collect()
    }
}

impl<'a> IntoIterator for &'a Report {
    type Item = &'a Diagnostic;
    type IntoIter = std::slice::Iter<'a, Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// One message after the other, with an empty line between them.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.source.to_show();
        for (index, one) in self.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            one.write(&self.source, &shown, f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Report {}

/// A line for a terminal, which would obey the control characters of a value that a program wrote.
fn visible(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return text.into();
    }
    let letters = text.chars().map(|letter| match letter.is_control() {
        true => letter.escape_default().to_string(),
        false => letter.to_string(),
    });
    letters.collect::<String>().into()
}

/// Leaves out what is too much of a severity, says so, and says how many there were.
fn leave_out(found: &mut Vec<Diagnostic>, severity: Severity) -> usize {
    let mut count = 0;
    found.retain(|one| {
        count += usize::from(one.severity == severity);
        one.severity != severity || count <= TOLD_MAX
    });
    let more = count.saturating_sub(TOLD_MAX);
    if more > 0 {
        let message = format!("and {more} more {}s", severity.as_str());
        let what = Diagnostic::whole_file("more", message).help("mend these, and the others are told");
        found.push(Diagnostic { severity, ..what });
    }
    count
}

/// The known word that is most like the one written, if one is.
pub fn nearest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let written = written.to_lowercase();
    known
        .into_iter()
        .map(|word| (strsim::damerau_levenshtein(&written, &word.to_lowercase()), word))
        .filter(|(distance, word)| *distance <= (word.len().min(written.len()) / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}
