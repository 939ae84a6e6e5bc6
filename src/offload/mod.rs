//! What this kernel's TLS can do, and how a connection gets there.
//!
//! Beside `transport`, which knows when a connection may go; here is whether it can, and how. Only
//! `keys` and `sys` see the secrets of a connection; `tests/tidy.rs` looks after that.

mod breaker;
mod keys;
mod probe;

use std::io;
use std::os::fd::AsFd;

use rustix::io::Errno;
use rustls::{CipherSuite, ProtocolVersion};

use self::breaker::Breaker;
pub use self::keys::{FirstKeys, Keys};
use self::probe::Findings;
use crate::outcome::{Cause, Refusal};
use crate::sys::ktls::{self, Cipher, Version};
pub use crate::sys::ktls::{Direction, Key};
use crate::time::{self, Deadline};

/// What this kernel's TLS can do, for all workers; found out once.
#[derive(Debug)]
pub struct Offload {
    findings: Result<Findings, (Refusal, String)>,
    breaker: Breaker,
}

/// A line of what was found out, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// What was tried.
    pub what: String,
    /// What it came to; the error says which step failed, and how.
    pub finding: Result<(), String>,
    /// What follows from it if it failed; `None` where it is looked at for each cipher by itself.
    pub otherwise: Option<Consequence>,
}

/// What follows from a probe that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consequence {
    /// No connection goes to the kernel.
    Refused(Refusal),
    /// Sockets are asked to wake their reader only for more of the record, and where they do not
    /// heed it, the reader pauses.
    Pauses,
    /// A connection whose peer renews its keys ends there.
    EndsAtKeyUpdate,
    /// Nothing: Atlas does it in a way that does not depend on it.
    Avoided,
}

impl Offload {
    /// Finds out over loopback what this kernel does. Blocks for some 20 ms; on a busy machine, or
    /// where the kernel loads its modules on the way, for 10 seconds at most.
    pub fn probe() -> Self {
        Self::probe_until(Deadline::within(probe::TIME_MAX))
    }

    /// As [`Self::probe`]; what has not been tried by then is not known, and [`Refusal::ProbeTimedOut`].
    fn probe_until(deadline: Deadline) -> Self {
        Self::new(probe::run(deadline))
    }

    /// Nothing can go to the kernel, for this reason.
    pub fn absent(refusal: Refusal) -> Self {
        Self::new(Err((refusal, refusal.as_str().to_owned())))
    }

    /// Takes for granted that the kernel does everything: for tests and measurements of what comes
    /// before it is asked, on machines where it cannot.
    pub fn assumed() -> Self {
        Self::new(Ok(Findings::assumed()))
    }

    /// As [`Self::assumed`], without these ciphers of one version.
    #[cfg(test)]
    pub(crate) fn assumed_without(version: Version, ciphers: &[Cipher]) -> Self {
        let mut findings = Findings::assumed();
        for cipher in ciphers {
            let refused = Err(probe::Fault::Failed("as the test wants".to_owned()));
            findings.carried[version as usize][*cipher as usize] = [refused, Ok(())];
        }
        Self::new(Ok(findings))
    }

    fn new(findings: Result<Findings, (Refusal, String)>) -> Self {
        Self {
            findings,
            breaker: Breaker::new(time::now()),
        }
    }

    /// Why no connection at all can go to the kernel; `None`: some can.
    pub fn refusal(&self) -> Option<Refusal> {
        match &self.findings {
            Ok(findings) => findings.refusal(),
            Err((refusal, _)) => Some(*refusal),
        }
    }

    /// Whether the kernel takes connections of this version and cipher suite, both directions.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn carries(&self, version: ProtocolVersion, suite: CipherSuite) -> Result<(), Refusal> {
        if let Some(refusal) = self.refusal() {
            return Err(refusal);
        }
        let findings = self.findings.as_ref().map_err(|(refusal, _)| *refusal)?;
        let version = version_of(version).ok_or(Refusal::Version)?;
        let cipher = cipher_of(suite).ok_or(Refusal::Cipher)?;
        findings.carries(version, cipher)
    }

    /// Whether a connection in the kernel can go on when its keys are renewed (TLS 1.3).
    pub fn can_rekey(&self) -> bool {
        self.findings
            .as_ref()
            .is_ok_and(|findings| findings.rekey.is_ok())
    }

    /// Whether half a record wakes the reader again and again unless that is seen to.
    pub fn must_pause(&self) -> bool {
        self.findings
            .as_ref()
            .is_ok_and(|findings| findings.half_record.is_err())
    }

    /// All that was found out, for people.
    pub fn rows(&self) -> Vec<Row> {
        match &self.findings {
            Ok(findings) => findings.rows(),
            Err((refusal, error)) => vec![Row {
                what: "TLS in the kernel".to_owned(),
                finding: Err(error.clone()),
                otherwise: Some(Consequence::Refused(*refusal)),
            }],
        }
    }

    /// Whether connections may go to the kernel now.
    ///
    /// # Errors
    ///
    /// [`Refusal::Breaker`]: the kernel had refused keys of others shortly before.
    pub fn allows(&self) -> Result<(), Refusal> {
        match self.breaker.is_open(time::now()) {
            true => Err(Refusal::Breaker),
            false => Ok(()),
        }
    }

    /// A connection was lost because the kernel refused its keys.
    pub fn failed(&self) {
        self.breaker.failed(time::now());
    }

    /// A connection has gone to the kernel.
    pub fn succeeded(&self) {
        self.breaker.succeeded();
    }
}

/// Gives a socket the kernel's TLS, without keys: bytes still go as they did. May be done twice.
///
/// # Errors
///
/// Why not. The connection is as it was.
pub fn attach(socket: &impl AsFd) -> Result<(), Refusal> {
    let Err(error) = ktls::attach(socket.as_fd()) else {
        return Ok(());
    };
    match Errno::from_io_error(&error) {
        Some(Errno::EXIST) => Ok(()),
        Some(Errno::NOENT) => Err(Refusal::NoUlp),
        Some(Errno::NOTCONN) => Err(Refusal::PeerClosedEarly),
        _ => {
            let refusal = refusal_of(&error);
            if refusal == Refusal::AttachFailed {
                tracing::warn!(%error, "a socket could not be given to the kernel's TLS");
            }
            Err(refusal)
        }
    }
}

/// Which errors `setsockopt(TCP_ULP)` may have besides those that tell of the module or the socket: the
/// kernel's own, and those of a filter, a security module or a kernel in name only.
fn refusal_of(error: &io::Error) -> Refusal {
    match Errno::from_io_error(error) {
        Some(Errno::NOMEM | Errno::NOBUFS) => Refusal::AttachNoMemory,
        Some(Errno::PERM | Errno::ACCESS) => Refusal::AttachNotPermitted,
        Some(Errno::NOPROTOOPT | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => Refusal::AttachUnknown,
        _ => Refusal::AttachFailed,
    }
}

/// Hands a connection's keys to the kernel, after [`attach`]. From now on it makes and opens the
/// records.
///
/// # Errors
///
/// [`Cause::KernelRefusedKeys`]. The connection is lost; where its sending side had been handed
/// over, the peer was told so by an alert.
pub fn install(socket: &impl AsFd, FirstKeys { send, receive }: FirstKeys) -> io::Result<()> {
    // Sending first: if receiving fails, an alert can still be sent.
    set(socket, Direction::Send, &send)?;
    set(socket, Direction::Receive, &receive).inspect_err(|_| {
        let _ = ktls::send_record(socket.as_fd(), ALERT, &[FATAL, INTERNAL_ERROR]);
    })
}

/// Gives the kernel the next key of a direction, after our KeyUpdate or the peer's ([`Keys::next`]).
///
/// # Errors
///
/// [`Cause::KernelRefusedKeys`]. The connection is lost.
pub fn renew(socket: &impl AsFd, direction: Direction, key: Key) -> io::Result<()> {
    set(socket, direction, &key)
}

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const FATAL: u8 = 2;
const INTERNAL_ERROR: u8 = 80;

fn set(socket: &impl AsFd, direction: Direction, key: &Key) -> io::Result<()> {
    ktls::set_key(socket.as_fd(), direction, key).map_err(|error| {
        tracing::warn!(%error, ?direction, ?key, "the kernel refused a connection's keys");
        Cause::KernelRefusedKeys.into_error(error.kind())
    })
}

fn version_of(version: ProtocolVersion) -> Option<Version> {
    match version {
        ProtocolVersion::TLSv1_2 => Some(Version::Tls12),
        ProtocolVersion::TLSv1_3 => Some(Version::Tls13),
        _ => None,
    }
}

fn cipher_of(suite: CipherSuite) -> Option<Cipher> {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256
        | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
        | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => Some(Cipher::Aes128Gcm),
        CipherSuite::TLS13_AES_256_GCM_SHA384
        | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
        | CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => Some(Cipher::Aes256Gcm),
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
        | CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
        | CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => Some(Cipher::Chacha20Poly1305),
        _ => None,
    }
}

#[cfg(test)]
pub(crate) mod tests;
