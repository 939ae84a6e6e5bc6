//! When a request is tried again, at another endpoint, as configured.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use http::{Method, StatusCode};

/// What may be tried again, how often, and what is kept for it.
///
/// What the endpoint has not looked at is tried again in any case: a connection from the pool that was
/// closed meanwhile, a stream that HTTP/2 says was not processed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// An endpoint cannot be connected to.
    pub on_connect: bool,
    /// An endpoint ends the connection without a byte of an answer.
    pub on_reset: bool,
    /// An endpoint does not begin to answer in time.
    pub on_timeout: bool,
    /// It answers with one of these.
    pub statuses: Vec<RangeInclusive<u16>>,
    /// Endpoints asked in all. `None`: all that cannot be connected to, and one more where one
    /// breaks off.
    pub attempts_max: Option<u32>,
    /// For each endpoint but the last to begin its response; `None`: as long as for the last.
    pub timeout: Option<Duration>,
    /// Also what an endpoint may have begun to do, and would do twice.
    pub non_idempotent: bool,
    /// How long an endpoint has for itself before another is asked beside it, of idempotent requests without
    /// a body; `None`: for ever.
    pub hedge_after: Option<Duration>,
    /// Bytes of a body that are kept to be sent again.
    pub body_bytes_max: usize,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            on_connect: true,
            on_reset: true,
            on_timeout: false,
            statuses: Vec::new(),
            attempts_max: None,
            timeout: None,
            non_idempotent: false,
            hedge_after: None,
            body_bytes_max: 16 * 1024, // forms and calls, not uploads
        }
    }
}

impl Retry {
    /// None but of what nobody has looked at.
    pub fn never() -> Self {
        Self {
            on_connect: false,
            on_reset: false,
            ..Self::default()
        }
    }

    /// Whether a request may be sent again that an endpoint may have acted on (RFC 9110 §9.2.2).
    pub fn may_repeat(&self, method: &Method) -> bool {
        self.non_idempotent || method.is_idempotent()
    }

    /// Whether an answer with this status is none that the client shall see, if there is a better one.
    pub fn is_unwanted(&self, status: StatusCode) -> bool {
        self.statuses.iter().any(|range| range.contains(&status.as_u16()))
    }
}

/// In the words of the file.
impl fmt::Display for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = [
            (self.on_connect, "connect"),
            (self.on_reset, "reset"),
            (self.on_timeout, "timeout"),
        ];
        let kinds = kinds
            .iter()
            .filter(|(is_on, _)| *is_on)
            .map(|(_, name)| (*name).to_owned());
        let statuses = self
            .statuses
            .iter()
            .map(|range| match range.start() == range.end() {
                true => range.start().to_string(),
                false => format!("{}-{}", range.start(), range.end()),
            });
        let on: Vec<_> = kinds.chain(statuses).collect();
        match on.is_empty() {
            true => f.write_str("never tried again")?,
            false => write!(f, "tried again after {}", on.join(", "))?,
        }
        if let Some(timeout) = self.timeout.filter(|_| self.on_timeout) {
            write!(f, "; each but the last has {timeout:?}")?;
        }
        if self.non_idempotent {
            f.write_str("; also what would be done twice")?;
        }
        if self.body_bytes_max != Self::default().body_bytes_max {
            write!(f, "; bodies are kept up to {} bytes", self.body_bytes_max)?;
        }
        if let Some(after) = self.hedge_after {
            write!(f, "; asked of another endpoint as well after {after:?}")?;
        }
        match self.attempts_max {
            Some(most) if !on.is_empty() => write!(f, "; {most} endpoints are asked at most"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_in_the_words_of_the_file() {
        let hedged = Retry {
            hedge_after: Some(Duration::from_millis(200)),
            attempts_max: Some(3),
            ..Retry::default()
        };
        assert_eq!(
            hedged.to_string(),
            "tried again after connect, reset; asked of another endpoint as well after 200ms; 3 endpoints are asked at most"
        );
        assert_eq!(Retry::never().to_string(), "never tried again");
        let all = Retry {
            on_timeout: true,
            timeout: Some(Duration::from_secs(2)),
            non_idempotent: true,
            body_bytes_max: 1024,
            ..Retry::default()
        };
        assert_eq!(
            all.to_string(),
            "tried again after connect, reset, timeout; each but the last has 2s; also what would be done twice; bodies are kept up to 1024 bytes"
        );
    }
}
