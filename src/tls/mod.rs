//! From a TCP connection to a secured transport: accept (downstream) and connect (upstream).

pub mod certificates;
mod choice;
mod handshake;
mod hello;
mod offered;
mod settings;

use std::fmt;
use std::time::{Duration, UNIX_EPOCH};

use httpdate::HttpDate;
use rustls::pki_types::UnixTime;

pub use handshake::{accept, connect};
pub use offered::Offered;
pub use settings::{Build, ClientBuild, ClientSettings, KTLS_THRESHOLD, Settings, Version};

use crate::outcome::{Cause, End};
use crate::transport::Transport;

/// A connection whose handshake went through.
pub struct Secured {
    /// Its byte stream.
    pub transport: Transport,
    /// What was agreed on.
    pub facts: TlsFacts,
}

/// What was agreed on in a handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFacts {
    /// The name the client asked for, in lower case.
    pub server_name: Option<String>,
    /// `TLSv1.3` or `TLSv1.2`.
    pub version: &'static str,
    /// The cipher suite's IANA name, as `TLS_AES_128_GCM_SHA256`.
    pub cipher: &'static str,
    /// The application protocol, as `http/1.1`.
    pub alpn: Option<String>,
    /// A session of before was taken up again.
    pub resumed: bool,
}

/// A handshake that did not go through. Displayed, it is one line for a person: the end, the
/// reason, the alert and what the client offered.
#[derive(Debug)]
pub struct Failed {
    /// How it ended.
    pub end: End,
    /// What the client offered, where a ClientHello came.
    pub offered: Option<Offered>,
    /// The alert that ended it, where there was one.
    pub alert: Option<Alert>,
    /// The reason in the words of rustls, where it is rustls that refused.
    pub reason: Option<rustls::Error>,
}

impl Failed {
    /// The failure of a client that had offered this.
    fn after(mut self, offered: Offered) -> Self {
        // rustls misses the extensions of TLS 1.2 before it looks at the version.
        if self.end.cause == Cause::NoCommonCipher && offered.is_before_tls12() {
            self.end.cause = Cause::NoCommonVersion;
        }
        self.offered = Some(offered);
        self
    }
}

impl From<End> for Failed {
    fn from(end: End) -> Self {
        Self {
            end,
            offered: None,
            alert: None,
            reason: None,
        }
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.end.fmt(f)?;
        if let Some(reason) = &self.reason {
            f.write_str(": ")?;
            tell_refusal(reason, f)?;
        }
        if let Some(alert) = &self.alert {
            write!(f, "; {alert}")?;
        }
        if let Some(offered) = &self.offered {
            write!(f, "; the client offered {offered}")?;
        }
        Ok(())
    }
}

/// In the words of rustls, but moments as dates: it has them as seconds since 1970.
fn tell_refusal(error: &rustls::Error, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    use rustls::CertificateError::{ExpiredContext, NotValidYetContext};
    let date = |time: &UnixTime| HttpDate::from(UNIX_EPOCH + Duration::from_secs(time.as_secs()));
    match error {
        rustls::Error::InvalidCertificate(ExpiredContext { not_after, .. }) => {
            write!(f, "the certificate expired on {}", date(not_after))
        }
        rustls::Error::InvalidCertificate(NotValidYetContext { not_before, .. }) => {
            write!(
                f,
                "the certificate is not valid before {}; is the clock right?",
                date(not_before)
            )
        }
        _ => write!(f, "{error}"),
    }
}

/// A fatal alert, displayed as RFC 8446 §6 names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alert {
    /// Atlas sent it.
    Sent(rustls::AlertDescription),
    /// The peer sent it.
    Received(rustls::AlertDescription),
}

impl fmt::Display for Alert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (verb, description) = match self {
            Self::Sent(description) => ("sent", description),
            Self::Received(description) => ("received", description),
        };
        write!(f, "{verb} alert ")?;
        match description.as_str() {
            Some(name) => write_snake(f, name),
            None => write!(f, "{}", u8::from(*description)),
        }
    }
}

/// rustls says `UnknownCA`, RFC 8446 says `unknown_ca`.
fn write_snake(f: &mut fmt::Formatter<'_>, name: &str) -> fmt::Result {
    use fmt::Write;
    let letters: Vec<char> = name.chars().collect();
    for (at, letter) in letters.iter().enumerate() {
        let after_lower = at > 0 && letters[at - 1].is_ascii_lowercase();
        let before_lower = at > 0 && letters.get(at + 1).is_some_and(char::is_ascii_lowercase);
        if letter.is_ascii_uppercase() && (after_lower || before_lower) {
            f.write_char('_')?;
        }
        f.write_char(letter.to_ascii_lowercase())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
