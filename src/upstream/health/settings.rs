//! What an upstream is told about the health of its endpoints.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

/// How the health of an upstream's endpoints is judged, and what follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What live exchanges tell; `None`: nothing is learnt from them.
    pub outliers: Option<Outliers>,
    /// How long an endpoint that came back takes to get its whole share; `None`: none.
    pub slow_start: Option<Duration>,
    /// Percent of the endpoints: where fewer than these are well, all are asked. 0: never.
    pub panic_below: u8,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            outliers: Some(Outliers::default()),
            slow_start: None,
            panic_below: 0,
        }
    }
}

impl Settings {
    /// Whether all are asked, where so many of `count` endpoints are well.
    pub(in crate::upstream) fn panics(&self, well: usize, count: usize) -> bool {
        well * 100 < usize::from(self.panic_below) * count
    }
}

/// When an endpoint is left alone for a while, judged by the live exchanges of one worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outliers {
    /// Failures one after the other; at least 1.
    pub failures: u32,
    /// Statuses that are failures as well.
    pub statuses: Statuses,
    /// Percent of the exchanges of a window that fail, at least 1; `None`: not looked at.
    pub failure_rate: Option<u8>,
    /// Exchanges a window must have before its rate means something.
    pub requests_min: u32,
    /// How long a window is. It begins with a failure.
    pub window: Duration,
    /// A response whose head takes longer is a failure as well; `None`: however long it takes.
    pub slow_after: Option<Duration>,
    /// For the first ejection; each further one is twice as long.
    pub ejection_time: Duration,
    /// For the longest; not below `ejection_time`.
    pub ejection_time_max: Duration,
    /// Percent of the endpoints that may be ejected at a time, rounded up; never all.
    pub ejected_max: u8,
}

impl Default for Outliers {
    fn default() -> Self {
        Self {
            failures: 3,
            statuses: Statuses::default(),
            failure_rate: Some(50),
            requests_min: 20,
            window: Duration::from_secs(10),
            slow_after: None,
            ejection_time: Duration::from_secs(10),
            ejection_time_max: Duration::from_secs(300),
            ejected_max: 50,
        }
    }
}

impl Outliers {
    /// How long the ejection of this number lasts, from 1.
    pub(super) fn time_of(&self, ejection: u32) -> Duration {
        let doubled = ejection.saturating_sub(1).min(31);
        let time = self.ejection_time.saturating_mul(1 << doubled);
        time.min(self.ejection_time_max)
    }

    /// Whether one more of `count` endpoints may be ejected, where so many are already and so many
    /// are left that are well.
    pub(in crate::upstream) fn has_room(&self, count: usize, ejected: usize, well: usize) -> bool {
        let most = (count * usize::from(self.ejected_max)).div_ceil(100);
        ejected < most && well > 1
    }
}

impl fmt::Display for Outliers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, longest) = (self.ejection_time, self.ejection_time_max);
        write!(f, "ejected for {first:?} up to {longest:?} after ")?;
        write!(f, "{} failures in a row", self.failures)?;
        if let Some(rate) = self.failure_rate {
            let (least, window) = (self.requests_min, self.window);
            write!(f, ", or if {rate}% of {least} or more fail within {window:?}")?;
        }
        if !self.statuses.0.is_empty() {
            write!(f, "; {} is a failure", self.statuses)?;
        }
        if let Some(slow) = self.slow_after {
            write!(f, "; no answer within {slow:?} is a failure")?;
        }
        write!(f, "; {}% of the endpoints at most", self.ejected_max)
    }
}

/// Statuses of HTTP, each range from its first to its last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statuses(pub Vec<RangeInclusive<u16>>);

impl Statuses {
    /// Whether this is one of them.
    pub fn contain(&self, status: u16) -> bool {
        self.0.iter().any(|range| range.contains(&status))
    }
}

impl fmt::Display for Statuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, range) in self.0.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            match range.start() == range.end() {
                true => write!(f, "{comma}{}", range.start())?,
                false => write!(f, "{comma}{}-{}", range.start(), range.end())?,
            }
        }
        Ok(())
    }
}
