//! Passive health: an endpoint whose live exchanges fail is left alone for a time that grows.
//!
//! Pure: it is told what happened and when. A success costs two writes and reads no clock.

use std::cell::Cell;
use std::time::{Duration, Instant};

use super::Outliers;

/// What one worker has seen of one endpoint.
#[derive(Debug, Default)]
pub(super) struct Outlier {
    /// Failures since the last success.
    in_row: Cell<u32>,
    /// Since the window began; those before are dropped when one begins.
    successes: Cell<u32>,
    failures: Cell<u32>,
    /// When the window began: always with a failure, so that a success need not look at the clock.
    window: Cell<Option<Instant>>,
    standing: Cell<Standing>,
    /// Ejections that are held against it.
    strikes: Cell<u32>,
    /// When it came back last.
    back: Cell<Option<Instant>>,
}

/// Whether it is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Standing {
    /// Like all others.
    #[default]
    In,
    /// Not before this moment.
    Out { until: Instant },
    /// One exchange tries it; if nobody tells how that went, another may from this moment on.
    Trial { until: Instant },
    /// Not before this moment; but an exchange for which nobody else was left asks it meanwhile.
    Resort { until: Instant },
    /// Like all others: it has answered the exchange that tried it. Until one has ended well, a failure is enough.
    Answered,
}

/// Why an endpoint should be ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Grounds {
    /// So many failures one after the other.
    InRow(u32),
    /// So many failures of so many exchanges.
    Rate(u32, u32),
    /// The exchange that tried whether it is well again.
    Trial,
}

impl Outlier {
    /// An exchange went well. Whether that brings it back.
    pub(super) fn succeeded(&self, clock: impl FnOnce() -> Instant) -> bool {
        self.in_row.set(0);
        self.successes.set(self.successes.get().saturating_add(1));
        let now = match self.standing.get() {
            Standing::In => return false,
            Standing::Answered => {
                self.standing.set(Standing::In);
                return false;
            }
            Standing::Trial { .. } | Standing::Resort { .. } => clock(),
            Standing::Out { until } => {
                let now = clock();
                if now < until {
                    return false; // it was asked before it was ejected
                }
                now
            }
        };
        self.standing.set(Standing::In);
        self.back.set(Some(now));
        true
    }

    /// It has begun to answer as one that is well does, and what follows may take hours. Whether that brings it
    /// back.
    pub(super) fn answered(&self, clock: impl FnOnce() -> Instant) -> bool {
        let is_tried = self.is_tried();
        if is_tried {
            self.standing.set(Standing::Answered);
            self.back.set(Some(clock()));
        }
        is_tried
    }

    /// An exchange failed. Why it should be ejected, if so: then the caller ejects or spares it.
    pub(super) fn failed(&self, settings: &Outliers, now: Instant) -> Option<Grounds> {
        match self.standing.get() {
            Standing::In => {}
            // Asked before it was ejected: that it fails is known.
            Standing::Out { .. } => return None,
            // Nobody expected otherwise; that it is left alone for longer would be worse than that.
            Standing::Resort { until } => {
                self.standing.set(Standing::Out { until });
                return None;
            }
            Standing::Trial { .. } | Standing::Answered => return Some(Grounds::Trial),
        }
        let is_over = |began: Instant| now.saturating_duration_since(began) >= settings.window;
        if self.window.get().is_none_or(is_over) {
            self.window.set(Some(now));
            self.successes.set(0);
            self.failures.set(0);
        }
        let (in_row, failures) = (self.in_row.get() + 1, self.failures.get() + 1);
        self.in_row.set(in_row);
        self.failures.set(failures);
        if in_row >= settings.failures {
            return Some(Grounds::InRow(in_row));
        }
        let all = failures.saturating_add(self.successes.get());
        let rate = u64::from(settings.failure_rate?);
        let is_high = u64::from(failures) * 100 >= rate * u64::from(all);
        (all >= settings.requests_min && is_high).then_some(Grounds::Rate(failures, all))
    }

    /// It is asked by nobody until its time is over. One ejection is forgiven for each time, as long
    /// as the last one, that it has been back since.
    pub(super) fn eject(&self, settings: &Outliers, now: Instant) -> Duration {
        let strikes = self.strikes.get();
        let well = self.back.get().map(|back| now.saturating_duration_since(back));
        let last = settings.time_of(strikes).as_millis().max(1);
        let forgiven = well.map_or(0, |well| well.as_millis() / last);
        let left = strikes.saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX));
        self.strikes.set(left.saturating_add(1));
        let time = settings.time_of(self.strikes.get());
        self.standing.set(Standing::Out { until: now + time });
        self.back.set(None);
        self.in_row.set(0);
        self.window.set(None);
        time
    }

    /// It should be ejected, but too few would be left.
    pub(super) fn spare(&self) {
        self.standing.set(Standing::In);
    }

    /// It is back, whatever had been.
    pub(super) fn forgive(&self) {
        self.standing.set(Standing::In);
        self.in_row.set(0);
        self.window.set(None);
    }

    /// Whether it may be asked like the others. Of one whose ejection is over this is true until
    /// somebody begins to try it.
    pub(super) fn is_available(&self, now: Instant) -> bool {
        match self.standing.get() {
            Standing::In | Standing::Answered => true,
            Standing::Out { until } | Standing::Trial { until } | Standing::Resort { until } => now >= until,
        }
    }

    /// It is asked: if its ejection is over, this is the one exchange that tries it.
    pub(super) fn begin(&self, settings: &Outliers, now: Instant) {
        if let Standing::Out { until } | Standing::Trial { until } | Standing::Resort { until } =
            self.standing.get()
            && now >= until
        {
            let until = now + settings.time_of(self.strikes.get());
            self.standing.set(Standing::Trial { until });
        }
    }

    /// It is asked because nobody else is left: should it answer, it is back.
    pub(super) fn resort(&self) {
        if let Standing::Out { until } = self.standing.get() {
            self.standing.set(Standing::Resort { until });
        }
    }

    /// An exchange ended and said nothing about it: if it was to try it, another may.
    pub(super) fn learnt_nothing(&self, clock: impl FnOnce() -> Instant) {
        match self.standing.get() {
            Standing::Trial { .. } => self.standing.set(Standing::Out { until: clock() }),
            Standing::Resort { until } => self.standing.set(Standing::Out { until }),
            Standing::In | Standing::Out { .. } | Standing::Answered => {}
        }
    }

    /// Whether it is asked like one that has always been.
    pub(super) fn is_in(&self) -> bool {
        matches!(self.standing.get(), Standing::In | Standing::Answered)
    }

    /// Whether an exchange is under way that tries it.
    pub(super) fn is_tried(&self) -> bool {
        matches!(
            self.standing.get(),
            Standing::Trial { .. } | Standing::Resort { .. }
        )
    }
}
