//! Active health: what is asked of an endpoint, and how often it has to go well or wrong.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::Statuses;
use crate::tls::ClientSettings;
use crate::upstream::ProxyProtocol;
use crate::upstream::settings::is_same_tls;

/// How the endpoints of an upstream are checked, once for the whole process.
#[derive(Clone, Debug)]
pub struct Check {
    /// What is asked; `None`: a connection, with its TLS, is enough.
    pub request: Option<Request>,
    /// The port, where it is not the endpoint's.
    pub port: Option<u16>,
    /// HTTP/2 is spoken: over TLS where the endpoint chooses it, else always.
    pub http2: bool,
    /// The header the check's connections begin with.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// TLS of the check's connections.
    pub tls: Option<Arc<ClientSettings>>,
    /// From one check of an endpoint to its next.
    pub interval: Duration,
    /// Percent by which an interval may be longer or shorter, at random.
    pub jitter: u8,
    /// For the whole check; not above `interval`.
    pub timeout: Duration,
    /// Checks that pass one after the other before an endpoint that is down is up; at least 1.
    pub rise: u32,
    /// Checks that fail one after the other before an endpoint that is up is down; at least 1.
    pub fall: u32,
}

/// What is asked of an endpoint, and what it has to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Path and query.
    pub target: Arc<str>,
    /// The Host; `None`: the endpoint's.
    pub host: Option<Arc<str>>,
    /// The statuses that are good.
    pub statuses: Statuses,
    /// What the first 64 KiB of the body have to hold.
    pub body: Option<Arc<str>>,
}

impl Check {
    /// Whether the same is asked as often. TLS read anew is another, as its files may have changed.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let others = |check: &Self| {
            let asked = (
                check.request.clone(),
                check.port,
                check.http2,
                check.proxy_protocol,
            );
            let times = (check.interval, check.jitter, check.timeout);
            (asked, times, check.rise, check.fall)
        };
        is_same_tls(self.tls.as_ref(), other.tls.as_ref()) && others(self) == others(other)
    }

    /// The time to the next check; `random` is from 0 up to 1.
    pub(super) fn pause(&self, random: f64) -> Duration {
        let jitter = f64::from(self.jitter) / 100.0;
        self.interval.mul_f64(1.0 + jitter * (2.0 * random - 1.0))
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.request {
            Some(request) => {
                write!(f, "GET {} expects {}", request.target, request.statuses)?;
                if let Some(body) = &request.body {
                    write!(f, " and {body:?}")?;
                }
            }
            None => f.write_str("a connection")?,
        }
        if let Some(port) = self.port {
            write!(f, " on port {port}")?;
        }
        let (interval, timeout) = (self.interval, self.timeout);
        write!(f, " every {interval:?} within {timeout:?}")?;
        write!(f, ", down after {}, up after {}", self.fall, self.rise)
    }
}

/// What the checks of one endpoint have come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tally {
    is_up: bool,
    /// The first check decides at once: before it nothing is known.
    is_known: bool,
    /// Checks one after the other that say otherwise.
    against: u32,
}

impl Tally {
    /// Up until proved down.
    pub(super) const UNKNOWN: Self = Self {
        is_up: true,
        is_known: false,
        against: 0,
    };

    /// Whether it is up.
    pub(super) fn is_up(self) -> bool {
        self.is_up
    }

    /// A check passed or failed; whether that turned it.
    pub(super) fn note(&mut self, has_passed: bool, check: &Check) -> bool {
        let is_first = !std::mem::replace(&mut self.is_known, true);
        if has_passed == self.is_up {
            self.against = 0;
            return false;
        }
        self.against += 1;
        let enough = if has_passed { check.rise } else { check.fall };
        let turns = is_first || self.against >= enough;
        if turns {
            self.is_up = has_passed;
            self.against = 0;
        }
        turns
    }
}
