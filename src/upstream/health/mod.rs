//! Which endpoints are well: what a worker knows of each, from its own exchanges and from checks.
//!
//! Machines without sockets or clock; `Upstream` tells them what happened, and asks them. Only the
//! `checker`, on a thread of its own, and what it `ask`s have sockets.

mod ask;
mod check;
mod checker;
mod outlier;
mod settings;
mod slow_start;

use std::cell::Cell;
use std::fmt;
use std::time::{Duration, Instant};

pub use self::check::{Check, Request};
pub use self::checker::{Checked, Checker};
use self::outlier::{Grounds, Outlier};
pub use self::settings::{Outliers, Settings, Statuses};
use super::retry::is_gone;
use crate::outcome::{Cause, End, Phase, Side};

/// What an exchange, or an attempt at one, says of its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It answers.
    Well,
    /// It failed, for this cause.
    Failed(Cause),
    /// Nothing: the client went away, say.
    Nothing,
}

impl Outcome {
    /// What an exchange says that was not finished; `has_begun` tells whether the endpoint had said
    /// anything, and `is_reused` whether its connection had served another exchange before.
    pub fn of_broken(end: End, has_begun: bool, is_reused: bool) -> Self {
        match (end.side, end.phase) {
            (Side::Upstream, Phase::Relay) => Self::Nothing,
            // It may have closed an idle connection just when it was used again.
            _ if is_reused && is_gone(end) && !has_begun => Self::Nothing,
            // It has gone away in order, or lets us know that it has enough.
            (Side::Upstream, _) if end.cause == Cause::Unprocessed => Self::Nothing,
            // One client's cookies, or one page.
            (Side::Upstream, _) if end.cause == Cause::LimitReached => Self::Nothing,
            // This machine's doing, not the endpoint's.
            (Side::Upstream, _) if is_of_this_machine(end.cause) => Self::Nothing,
            (Side::Upstream, _) => Self::Failed(end.cause),
            _ if has_begun => Self::Well,
            _ => Self::Nothing,
        }
    }
}

fn is_of_this_machine(cause: Cause) -> bool {
    matches!(
        cause,
        Cause::KernelRefusedKeys | Cause::KeyWornOut | Cause::System
    )
}

/// One endpoint's health, as one worker knows it.
#[derive(Debug, Default)]
pub(in crate::upstream) struct Health {
    outlier: Outlier,
    /// Checks have proved that it is.
    is_down: Cell<bool>,
    /// When it came back; `None`: it has its whole share.
    back: Cell<Option<Instant>>,
}

/// What a failure leads to.
#[derive(Debug, PartialEq)]
pub(in crate::upstream) enum Verdict {
    /// It is asked as before.
    Stays,
    /// It should be left alone; [`Health::eject`] does it.
    ToEject(Reason),
}

/// Why an endpoint is ejected; displayed, it completes "ejected for 10s after …".
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::upstream) struct Reason(Grounds);

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Grounds::InRow(1) => f.write_str("a failure"),
            Grounds::InRow(count) => write!(f, "{count} failures in a row"),
            Grounds::Rate(failures, all) => write!(f, "{failures} failures of {all} exchanges"),
            Grounds::Trial => f.write_str("a failure when it was tried again"),
        }
    }
}

impl Health {
    /// Whether it may be asked like the others.
    pub(in crate::upstream) fn is_available(&self, now: Instant) -> bool {
        !self.is_down.get() && self.outlier.is_available(now)
    }

    /// Whether checks have proved that it is down.
    pub(in crate::upstream) fn is_down(&self) -> bool {
        self.is_down.get()
    }

    /// Checks found it up or down; whether that is news.
    pub(in crate::upstream) fn set_down(&self, is_down: bool, now: Instant) -> bool {
        let is_news = self.is_down.replace(is_down) != is_down;
        if is_news && !is_down {
            // What live exchanges told before is of before.
            self.outlier.forgive();
            self.back.set(Some(now));
        }
        is_news
    }

    /// Whether it is left alone, or waits for the exchange that tries it.
    pub(in crate::upstream) fn is_ejected(&self) -> bool {
        !self.outlier.is_in()
    }

    /// Whether it is neither down nor ejected.
    pub(in crate::upstream) fn is_well(&self) -> bool {
        !self.is_down.get() && self.outlier.is_in()
    }

    /// The part of its share of requests it should get, above 0 up to 1: less than all while it is
    /// fresh.
    pub(in crate::upstream) fn share(&self, settings: &Settings, now: Instant) -> f64 {
        match (self.back.get(), settings.slow_start) {
            (Some(back), Some(slow_start)) => slow_start::share(back, slow_start, now),
            _ => 1.0,
        }
    }

    /// It is asked.
    pub(in crate::upstream) fn begin(&self, settings: &Settings, now: Instant) {
        if let Some(outliers) = &settings.outliers {
            self.outlier.begin(outliers, now);
        }
    }

    /// It is asked because nobody else is left.
    pub(in crate::upstream) fn resort(&self) {
        self.outlier.resort();
    }

    /// An exchange went well. Whether it is asked again from here on, and was not before.
    pub(in crate::upstream) fn succeeded(&self, clock: impl Fn() -> Instant) -> bool {
        let is_back = self.outlier.succeeded(&clock);
        if is_back {
            self.back.set(Some(clock()));
        }
        is_back
    }

    /// It has begun to answer. Whether it is asked again from here on, and was not before.
    pub(in crate::upstream) fn answered(&self, clock: impl Fn() -> Instant) -> bool {
        let is_back = self.outlier.answered(&clock);
        if is_back {
            self.back.set(Some(clock()));
        }
        is_back
    }

    /// Whether an exchange is under way that decides whether it is asked again.
    pub(in crate::upstream) fn is_tried(&self) -> bool {
        self.outlier.is_tried()
    }

    /// An exchange failed.
    pub(in crate::upstream) fn failed(&self, settings: &Settings, now: Instant) -> Verdict {
        let outliers = settings.outliers.as_ref();
        match outliers.and_then(|outliers| self.outlier.failed(outliers, now)) {
            Some(grounds) => Verdict::ToEject(Reason(grounds)),
            None => Verdict::Stays,
        }
    }

    /// An exchange ended that says nothing of it.
    pub(in crate::upstream) fn learnt_nothing(&self, clock: impl Fn() -> Instant) {
        self.outlier.learnt_nothing(clock);
    }

    /// Leaves it alone; for how long.
    pub(in crate::upstream) fn eject(&self, outliers: &Outliers, now: Instant) -> Duration {
        self.back.set(None);
        self.outlier.eject(outliers, now)
    }

    /// It should be ejected, but too few would be left.
    pub(in crate::upstream) fn spare(&self) {
        self.outlier.spare();
    }

    /// It is new in an upstream that runs: it begins with a small share.
    pub(in crate::upstream) fn is_new(&self, now: Instant) {
        self.back.set(Some(now));
    }

    /// Whether nothing sets it apart from one that has always been well. It forgets that it came
    /// back when its share is whole.
    pub(in crate::upstream) fn is_settled(&self, settings: &Settings, now: Instant) -> bool {
        if self.share(settings, now) >= 1.0 {
            self.back.set(None);
        }
        !self.is_down.get() && self.outlier.is_in() && self.back.get().is_none()
    }
}

#[cfg(test)]
mod tests;
