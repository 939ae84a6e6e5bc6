//! The error log: one line a person can act on, written by a thread of its own.
//!
//! Whoever logs never waits: lines go over a bounded queue, and what does not fit is counted. A
//! place in the code that has much to say is cut short every second, so that an attack cannot fill
//! a disk.

use std::collections::hash_map::DefaultHasher;
use std::fmt::{self, Write as _};
use std::hash::{Hash, Hasher};
use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer as Text};
use tracing_subscriber::fmt::{FmtContext, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

use crate::access_log::{self, Batch, Sender, Target, Writer};
use crate::metrics::Process;
use crate::time::{Deadline, now, wall};

/// Lines that may wait for standard error.
const LINES_MAX: usize = 1024;

/// Lines a second from one place in the code.
const LINES_PER_SECOND_MAX: u64 = 20;

/// How long the end of the process waits for standard error.
const FINISH_TIMEOUT: Duration = Duration::from_secs(1);

/// What is logged when neither ATLAS_LOG nor RUST_LOG says. The `h2` crate warns of what clients do, those
/// of `hickory` of what servers of names do: that is told in our own words.
const DEFAULT_FILTER: &str = "info,h2=error,hickory_net=error,hickory_proto=error,hickory_resolver=error";

/// The running error log. Dropping it writes what waits, for a second at most.
#[must_use = "dropped at once, it would lose the last lines"]
pub struct ErrorLog(Option<Writer>);

/// Sends everything that is traced to standard error, and panics too.
///
/// # Errors
///
/// When standard error cannot be had, or no thread.
pub fn start(process: &Arc<Process>) -> io::Result<ErrorLog> {
    let writer = Writer::start(Target::Stderr, LINES_MAX, process.clone())?;
    let (filter, complaint) = filter();
    let style = Style::of_stderr();
    let subscriber = subscriber(filter, style, writer.sender(), process.clone());
    // An error means that there is one already, which then goes on.
    let _ = tracing::subscriber::set_global_default(subscriber);
    if let Some(complaint) = complaint {
        tracing::warn!("{complaint}");
    }
    tell_of_panics(process.clone());
    Ok(ErrorLog(Some(writer)))
}

impl Drop for ErrorLog {
    fn drop(&mut self) {
        if let Some(writer) = self.0.take() {
            writer.finish(Deadline::within(FINISH_TIMEOUT));
        }
    }
}

fn subscriber(
    filter: EnvFilter,
    style: Style,
    sender: Sender,
    process: Arc<Process>,
) -> impl Subscriber + Send + Sync {
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false) // the lines are ours, colours included
        .with_writer(Lines { sender, process })
        .event_format(Format {
            style,
            cap: Cap::new(now()),
        })
        .finish()
}

/// What is logged, and what is wrong with what was asked for.
fn filter() -> (EnvFilter, Option<String>) {
    let asked = ["ATLAS_LOG", "RUST_LOG"]
        .into_iter()
        .find_map(|name| Some((name, std::env::var(name).ok().filter(|text| !text.is_empty())?)));
    let Some((name, text)) = asked else {
        return (EnvFilter::new(DEFAULT_FILTER), None);
    };
    let understood = match no_level(&text) {
        Some(word) => Err(format!("`{word}` is none of error, warn, info, debug")),
        None => EnvFilter::try_new(&text).map_err(|error| error.to_string()),
    };
    match understood {
        Ok(filter) => (filter, None),
        Err(error) => {
            let complaint = format!("{name}={text} is not understood ({error}); logging {DEFAULT_FILTER}");
            (EnvFilter::new(DEFAULT_FILTER), Some(complaint))
        }
    }
}

/// A word that stands where a level should. The filter would take it for the name of a module, and log nothing but
/// of that: one letter too many, and errors are not told.
fn no_level(text: &str) -> Option<&str> {
    let mut words = text.split(',').map(str::trim);
    words.find(|word| !word.is_empty() && !word.contains(['=', '[']) && word.parse::<LevelFilter>().is_err())
}

/// Logs every panic with the connection it happened on, and counts it.
fn tell_of_panics(process: Arc<Process>) {
    std::panic::set_hook(Box::new(move |panic| {
        process.panicked();
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("?");
        let at = panic.location().map(ToString::to_string).unwrap_or_default();
        let what = said(panic.payload());
        let backtrace = std::backtrace::Backtrace::force_capture();
        match access_log::current() {
            Some(facts) => tracing::error!(
                thread, at, listener = &*facts.listener, client = ?facts.client, server_name = ?facts.server_name,
                "a fault in Atlas ended a connection; please report it: {what}\n{backtrace}"
            ),
            None => tracing::error!(
                thread,
                at,
                "a fault in Atlas; please report it: {what}\n{backtrace}"
            ),
        }
    }));
}

fn said(payload: &dyn std::any::Any) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without words")
}

/// Gives each line to the writer's thread.
struct Lines {
    sender: Sender,
    process: Arc<Process>,
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(self)
    }
}

struct Line<'a>(&'a Lines);

impl io::Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if !line.is_empty() {
            let batch = Batch {
                bytes: line.to_vec(),
                records: 1,
            };
            if self.0.sender.offer(batch).is_err() {
                self.0.process.lines_dropped(1);
            }
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How a line begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    /// Time and level.
    Plain,
    /// Time and a coloured level, for people.
    Colours,
    /// The level as journald reads it (sd-daemon(3)); it writes the time itself.
    Journal,
}

impl Style {
    fn of_stderr() -> Self {
        let stderr = io::stderr();
        if stderr.is_terminal() {
            let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
            return if wanted { Self::Colours } else { Self::Plain };
        }
        // systemd.exec(5): device and inode, so that one who redirects standard error can be told
        // from one who has inherited it.
        let is_journal = rustix::fs::fstat(&stderr).is_ok_and(|stat| {
            let stream = format!("{}:{}", stat.st_dev, stat.st_ino);
            std::env::var("JOURNAL_STREAM").is_ok_and(|known| known == stream)
        });
        if is_journal { Self::Journal } else { Self::Plain }
    }

    fn begin(self, line: &mut impl fmt::Write, level: Level) -> fmt::Result {
        if self == Self::Journal {
            let priority = match level {
                Level::ERROR => 3,
                Level::WARN => 4,
                Level::INFO => 6,
                _ => 7,
            };
            return write!(line, "<{priority}>");
        }
        let time = jiff::Timestamp::try_from(wall()).unwrap_or_default();
        write!(line, "{time:.3} ")?;
        let colour = match level {
            Level::ERROR => 31,
            Level::WARN => 33,
            Level::INFO => 32,
            _ => 34,
        };
        match self {
            Self::Colours => write!(line, "\x1b[{colour}m{level:>5}\x1b[0m "),
            _ => write!(line, "{level:>5} "),
        }
    }
}

struct Format {
    style: Style,
    cap: Cap,
}

impl<S, F> FormatEvent<S, F> for Format
where
    S: Subscriber + for<'s> LookupSpan<'s>,
    F: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, F>,
        mut line: Text<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let Some(suppressed) = self.cap.admit(event.metadata(), now()) else {
            return Ok(()); // nothing is written
        };
        let mut text = String::new();
        context.format_fields(Text::new(&mut text), event)?;
        if suppressed > 0 {
            write!(text, " (and {suppressed} more like this, not written)")?;
        }
        self.style.begin(&mut line, *event.metadata().level())?;
        write_safely(&mut line, &text)?;
        line.write_char('\n')
    }
}

/// Writes text that strangers may have had a part in: no control bytes, and what has several
/// lines is indented, so that nobody can forge one.
fn write_safely(line: &mut impl fmt::Write, text: &str) -> fmt::Result {
    for letter in text.chars() {
        match letter {
            '\n' => line.write_str("\n    ")?,
            letter if letter.is_control() => write!(line, "{}", letter.escape_default())?,
            letter => line.write_char(letter)?,
        }
    }
    Ok(())
}

/// Counts what each place in the code has said in the running second.
struct Cap {
    started: Instant,
    places: Box<[Place]>,
}

/// A place in the code; two may share one, and then its allowance.
#[derive(Default)]
struct Place {
    /// The running second in the upper half, the lines said in it in the lower.
    said: AtomicU64,
    suppressed: AtomicU64,
}

const PLACES: u64 = 256;

impl Cap {
    fn new(started: Instant) -> Self {
        Self {
            started,
            places: (0..PLACES).map(|_| Place::default()).collect(),
        }
    }

    /// `None`: too much. Else how many lines before this one were too much.
    fn admit(&self, place: &Metadata<'_>, now: Instant) -> Option<u64> {
        let mut hasher = DefaultHasher::new();
        place.callsite().hash(&mut hasher);
        let at = usize::try_from(hasher.finish() % PLACES).unwrap_or_default();
        self.places[at].admit(now.saturating_duration_since(self.started).as_secs())
    }
}

impl Place {
    fn admit(&self, second: u64) -> Option<u64> {
        // Threads may race here; a line more or less does no harm.
        let said = self.said.load(Relaxed);
        let count = if said >> 32 == second {
            said & u64::from(u32::MAX)
        } else {
            0
        };
        if count >= LINES_PER_SECOND_MAX {
            self.suppressed.fetch_add(1, Relaxed);
            return None;
        }
        self.said.store(second << 32 | (count + 1), Relaxed);
        Some(self.suppressed.swap(0, Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_says_much_is_cut_short_and_says_by_how_much() {
        let place = Place::default();
        let written = (0..100).filter(|_| place.admit(5).is_some()).count();
        assert_eq!(written as u64, LINES_PER_SECOND_MAX);
        assert_eq!(place.admit(6), Some(80));
        assert_eq!(place.admit(6), Some(0));
    }

    #[test]
    fn nobody_can_forge_a_line() {
        let mut line = String::new();
        write_safely(&mut line, "name a\nERROR \x1b[31mforged\r\0").unwrap();
        assert_eq!(line, "name a\n    ERROR \\u{1b}[31mforged\\r\\u{0}");
    }

    #[test]
    fn journald_gets_a_priority_and_no_time() {
        let mut line = String::new();
        Style::Journal.begin(&mut line, Level::WARN).unwrap();
        assert_eq!(line, "<4>");
        line.clear();
        Style::Plain.begin(&mut line, Level::WARN).unwrap();
        assert!(line.ends_with("Z  WARN "), "{line}");
    }

    #[test]
    fn a_line_has_its_message_first_and_then_its_fields() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let process = Arc::new(Process::default());
        let writer = Writer::start(Target::File(path.clone()), 8, process.clone()).unwrap();
        let subscriber = subscriber(EnvFilter::new("info"), Style::Journal, writer.sender(), process);
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(client = "a b", count = 3, "something is wrong");
            tracing::debug!("not asked for");
        });
        assert_eq!(writer.finish(Deadline::within(Duration::from_secs(5))), Some(0));
        let text = std::fs::read_to_string(path).unwrap();
        assert_eq!(text, "<4>something is wrong client=\"a b\" count=3\n");
    }
}
