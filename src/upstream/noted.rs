//! The one place where results of live exchanges are noted, and what follows for the endpoint.

use std::time::Instant;

use super::health::{Outcome, Verdict};
use super::{Endpoint, Upstream};
use crate::outcome::Cause;
use crate::time::now;

impl Upstream {
    /// What an exchange, or an attempt at one, said of its endpoint.
    pub fn note(&self, endpoint: &Endpoint, outcome: Outcome) {
        match outcome {
            Outcome::Well => {
                if endpoint.health.succeeded(now) {
                    self.tell_back(endpoint);
                }
            }
            Outcome::Nothing => endpoint.health.learnt_nothing(now),
            Outcome::Failed(cause) => self.failed(endpoint, cause, now()),
        }
    }

    /// Whether an exchange is under way that decides whether the endpoint is asked again. It may be told by
    /// [`Self::note_begun`] before it ends.
    pub fn is_tried(&self, endpoint: &Endpoint) -> bool {
        endpoint.health.is_tried()
    }

    /// The endpoint has begun to answer; what follows may take hours. `status`: where it has one.
    pub fn note_begun(&self, endpoint: &Endpoint, status: Option<u16>, is_slow: bool) {
        if endpoint.health.is_tried()
            && !is_slow
            && !status.is_some_and(|status| self.is_bad(status))
            && endpoint.health.answered(now)
        {
            self.tell_back(endpoint);
        }
    }

    fn tell_back(&self, endpoint: &Endpoint) {
        tracing::info!(
            upstream = &*self.settings.name,
            endpoint = endpoint.name(),
            "the endpoint is well again and asked like the others"
        );
    }

    fn is_bad(&self, status: u16) -> bool {
        let outliers = self.settings.health.outliers.as_ref();
        outliers.is_some_and(|outliers| outliers.statuses.contain(status))
    }

    /// As [`Self::note`], that the endpoint answered with this status.
    pub fn note_answer(&self, endpoint: &Endpoint, status: u16, is_slow: bool) {
        self.note(
            endpoint,
            match (self.is_bad(status), is_slow) {
                (true, _) => Outcome::Failed(Cause::BadStatus),
                (false, true) => Outcome::Failed(Cause::TooSlow),
                (false, false) => Outcome::Well,
            },
        );
    }

    /// Whether a response whose head came after this time is a failure by that.
    pub fn is_slow(&self, took: impl FnOnce() -> std::time::Duration) -> bool {
        let outliers = self.settings.health.outliers.as_ref();
        let most = outliers.and_then(|outliers| outliers.slow_after);
        most.is_some_and(|most| took() > most)
    }

    fn failed(&self, endpoint: &Endpoint, cause: Cause, now: Instant) {
        let Verdict::ToEject(reason) = endpoint.health.failed(&self.settings.health, now) else {
            return;
        };
        let Some(outliers) = &self.settings.health.outliers else {
            return;
        };
        // Rare, so that all may be looked at.
        let is_other = |other: &&Endpoint| other.has_weight() && !std::ptr::eq(*other, endpoint);
        let others = || self.endpoints.iter().filter(is_other);
        let ejected = others().filter(|other| other.health.is_ejected()).count();
        let well = others().filter(|other| other.health.is_well()).count();
        if !outliers.has_room(1 + others().count(), ejected, 1 + well) {
            endpoint.health.spare();
            return;
        }
        let time = endpoint.health.eject(outliers, now);
        self.disturbed(now);
        self.counters.ejected(cause);
        tracing::warn!(
            upstream = &*self.settings.name,
            endpoint = endpoint.name(),
            cause = cause.as_str(),
            "the endpoint is ejected for {time:?} after {reason}; look at it, the others are asked meanwhile"
        );
    }

    /// Whether all endpoints are asked like each other, as far as it was last looked at.
    pub(super) fn is_calm(&self) -> bool {
        self.is_calm.get()
    }

    /// Checks found an endpoint down, or not.
    pub(super) fn set_down(&self, endpoint: &Endpoint, is_down: bool) {
        let now = now();
        if endpoint.health.set_down(is_down, now) {
            if is_down {
                endpoint.pool.retain(|_| false);
            }
            self.disturbed(now);
        }
    }

    /// An endpoint is not like the others any more, or is on its way back.
    fn disturbed(&self, now: Instant) {
        self.is_calm.set(false);
        self.look_at_health(now);
    }

    /// Exchanges of the upstream before, which shares its endpoints' health, eject without telling this one.
    pub(super) fn look_at_inherited_health(&self) {
        if self.follows && !self.endpoints.iter().all(|one| one.health.is_well()) {
            self.is_calm.set(false);
        }
    }

    /// Looks whether all endpoints are asked like each other again, counts those that are not, and
    /// finds out whether too few are left.
    pub(super) fn look_at_health(&self, now: Instant) {
        if self.is_calm.get() {
            return;
        }
        let settings = &self.settings.health;
        let all = self.endpoints.iter();
        let settled = all.filter(|endpoint| endpoint.health.is_settled(settings, now));
        self.is_calm.set(settled.count() == self.endpoints.len());
        let ejected = self.endpoints.iter().filter(|one| one.health.is_ejected());
        self.counters.set_ejected(ejected.count() as u64);
        let takers = || self.endpoints.iter().filter(|one| one.has_weight());
        let well = takers().filter(|one| one.health.is_well()).count();
        let panics = settings.panics(well, takers().count());
        if self.panics.replace(panics) != panics && panics {
            tracing::warn!(
                upstream = &*self.settings.name,
                "only {well} endpoints are well, less than `panic_below` says: all are asked"
            );
        }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        // Should another of its name have some, it says so within a second.
        self.counters.set_ejected(0);
    }
}
