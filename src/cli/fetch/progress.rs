//! How far a long body is, in one line of a terminal that is written over.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::time::{Duration, Instant};

use crate::time::now;

/// Bodies that are through sooner show nothing.
const GRACE: Duration = Duration::from_millis(500);

/// How often the line changes.
const INTERVAL: Duration = Duration::from_millis(100);

/// Marks of the bar.
const WIDTH: usize = 24;

/// How far a body is.
pub(super) struct Progress {
    verb: &'static str,
    total: Option<u64>,
    done: u64,
    began: Instant,
    shown: Option<Instant>,
    is_wanted: bool,
}

impl Progress {
    /// Of a body with `total` bytes, where that is known.
    pub(super) fn new(verb: &'static str, total: Option<u64>, is_wanted: bool) -> Self {
        Self {
            verb,
            total,
            done: 0,
            began: now(),
            shown: None,
            is_wanted: is_wanted && std::io::stderr().is_terminal(),
        }
    }

    /// So many more bytes are through.
    pub(super) fn add(&mut self, count: u64) {
        self.done += count;
        if !self.is_wanted {
            return;
        }
        let now = now();
        let since = match self.shown {
            Some(shown) => now.saturating_duration_since(shown) >= INTERVAL,
            None => now.saturating_duration_since(self.began) >= GRACE,
        };
        if since {
            self.shown = Some(now);
            let took = now.saturating_duration_since(self.began);
            // A terminal that has gone away needs no progress.
            let _ = write!(
                std::io::stderr(),
                "\r{}\x1b[K",
                line(self.verb, self.done, self.total, took)
            );
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown.is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

fn line(verb: &str, done: u64, total: Option<u64>, took: Duration) -> String {
    let millis = took.as_millis().max(1);
    let rate = u64::try_from(u128::from(done) * 1000 / millis).unwrap_or(u64::MAX);
    let mut line = verb.to_owned();
    let total = total.filter(|total| *total > 0);
    if let Some(total) = total {
        let part = |of: u64| u64::try_from(u128::from(done.min(total)) * u128::from(of) / u128::from(total));
        let marks = usize::try_from(part(WIDTH as u64).unwrap_or(0)).unwrap_or(WIDTH);
        let (bar, percent) = ("=".repeat(marks), part(100).unwrap_or(0));
        let _ = write!(line, " [{bar:<WIDTH$}] {percent:>3} %"); // into memory: cannot fail
    }
    let _ = write!(line, "  {}, {}/s", size(done), size(rate));
    if let Some(total) = total
        && rate > 0
    {
        let left = total.saturating_sub(done) / rate;
        let _ = write!(line, ", {}:{:02} left", left / 60, left % 60);
    }
    line
}

/// A number of bytes for people.
pub(super) fn size(bytes: u64) -> String {
    let mut unit = "KiB";
    let mut tenths = u128::from(bytes) * 10 / 1024;
    for next in ["MiB", "GiB", "TiB"] {
        if tenths < 10_240 {
            break;
        }
        (unit, tenths) = (next, tenths / 1024);
    }
    match bytes {
        0..1024 => format!("{bytes} B"),
        _ if tenths >= 1000 => format!("{} {unit}", tenths / 10),
        _ => format!("{}.{} {unit}", tenths / 10, tenths % 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_how_far_it_is_and_how_long_it_takes() {
        let second = Duration::from_secs(1);
        assert_eq!(
            line("received", 25 << 20, Some(100 << 20), second),
            "received [======                  ]  25 %  25.0 MiB, 25.0 MiB/s, 0:03 left"
        );
        assert_eq!(line("sent", 2048, None, second), "sent  2.0 KiB, 2.0 KiB/s");
        assert_eq!(
            line("sent", 0, Some(9), Duration::ZERO),
            "sent [                        ]   0 %  0 B, 0 B/s"
        );
        let over = line("received", 20, Some(10), second);
        assert!(over.contains("100 %"), "{over}");
    }

    #[test]
    fn sizes_are_short() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (150 * 1024, "150 KiB"),
            (1 << 20, "1.0 MiB"),
            (u64::MAX, "16777215 TiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
