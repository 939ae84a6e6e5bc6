//! Certificates and keys: PEM files in, names, dates and something to sign with out.
//!
//! Called where configurations are read, never on a worker: it reads files and waits for the disk.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::settings::provider;

/// A certificate with its chain and its key, and what its holder may be called.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The chain and the key, ready to sign handshakes.
    pub key: Arc<CertifiedKey>,
    /// DNS names it stands for, in lower case and without trailing dot, wildcards as `*.a.example`.
    /// Its common name where it has no DNS name. Empty if it has neither.
    pub names: Vec<String>,
    /// Whether it has a subjectAltName. Where there is none, clients believe it no name (RFC 9525 §2): its common name
    /// only chooses it.
    pub has_alternative_names: bool,
    /// Its serial number as openssl prints it: hexadecimal, bytes parted by colons.
    pub serial: String,
    /// Not good before.
    pub not_before: SystemTime,
    /// Not good after.
    pub not_after: SystemTime,
    /// The file it was read from.
    pub path: PathBuf,
}

impl Certificate {
    /// Reads a chain and its key from two PEM files, which may be the same.
    ///
    /// # Errors
    ///
    /// Which of the two files is at fault, and what is wrong with it.
    pub fn read(chain: &Path, key: &Path) -> Result<Self, CertificateError> {
        let chain_pem = read_file(chain).map_err(|problem| CertificateError::chain(chain, problem))?;
        let key_pem = read_file(key).map_err(|problem| CertificateError::key(key, problem))?;
        Self::from_pem(&chain_pem, chain, &key_pem, key)
    }

    /// As [`Self::read`], of PEM text that is in memory; the paths are for messages.
    ///
    /// # Errors
    ///
    /// As [`Self::read`].
    pub fn from_pem(
        chain_pem: &[u8],
        chain_path: &Path,
        key_pem: &[u8],
        key_path: &Path,
    ) -> Result<Self, CertificateError> {
        let chain = parse_chain(chain_pem).map_err(|problem| CertificateError::chain(chain_path, problem))?;
        let facts = Facts::of(&chain[0])
            .ok_or_else(|| CertificateError::chain(chain_path, Problem::MalformedCertificate))?;
        let key = parse_key(key_pem).map_err(|problem| CertificateError::key(key_path, problem))?;
        let key = certify(chain, key).map_err(|problem| match problem {
            Problem::MalformedCertificate => CertificateError::chain(chain_path, problem),
            problem => CertificateError::key(key_path, problem),
        })?;
        Ok(Self {
            key: Arc::new(key),
            names: facts.names,
            has_alternative_names: facts.has_alternative_names,
            serial: facts.serial,
            not_before: facts.not_before,
            not_after: facts.not_after,
            path: chain_path.to_owned(),
        })
    }

    /// Seconds until it expires; negative when it has.
    pub fn seconds_left(&self, now: SystemTime) -> i64 {
        let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        match self.not_after.duration_since(now) {
            Ok(left) => seconds(left),
            Err(over) => -seconds(over.duration()),
        }
    }
}

/// Reads the certificates of authorities from a PEM file.
///
/// # Errors
///
/// When the file cannot be read, or none of its certificates can be used.
pub fn read_roots(path: &Path) -> Result<RootCertStore, CertificateError> {
    roots(path, read_file(path))
}

/// As [`read_roots`], and from a pipe too: for a person's command, which reads it once and may be broken off.
///
/// # Errors
///
/// As [`read_roots`].
pub fn read_roots_once(path: &Path) -> Result<RootCertStore, CertificateError> {
    roots(path, read_anything(path))
}

fn roots(path: &Path, pem: Result<Vec<u8>, Problem>) -> Result<RootCertStore, CertificateError> {
    let fault = |problem| CertificateError {
        is_of_authorities: true,
        ..CertificateError::chain(path, problem)
    };
    let chain = pem.and_then(|pem| parse_chain(&pem)).map_err(fault)?;
    let mut roots = RootCertStore::empty();
    for certificate in chain {
        roots
            .add(certificate)
            .map_err(|_| fault(Problem::MalformedCertificate))?;
    }
    Ok(roots)
}

/// The authorities this machine trusts.
///
/// # Errors
///
/// A sentence, when there are none.
pub fn system_roots() -> Result<RootCertStore, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    match (roots.is_empty(), found.errors.first()) {
        (false, _) => Ok(roots),
        (true, Some(error)) => Err(format!(
            "this machine's certificate authorities cannot be read: {error}"
        )),
        (true, None) => Err(
            "this machine has no certificate authorities; install ca-certificates, or name a `ca` file"
                .to_owned(),
        ),
    }
}

/// What is wrong with which file.
#[derive(Debug)]
pub struct CertificateError {
    /// Whether it is the file of the key, and not that of the certificate.
    pub in_key_file: bool,
    /// Whether it is a file of authorities, which vouch for others.
    pub is_of_authorities: bool,
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: Problem,
}

impl CertificateError {
    fn chain(path: &Path, problem: Problem) -> Self {
        Self {
            in_key_file: false,
            is_of_authorities: false,
            path: path.to_owned(),
            problem,
        }
    }

    fn key(path: &Path, problem: Problem) -> Self {
        Self {
            in_key_file: true,
            ..Self::chain(path, problem)
        }
    }

    /// What to do about it, as one sentence.
    pub fn help(&self) -> &'static str {
        match self.problem {
            Problem::NoCertificate if self.is_of_authorities => {
                "name a PEM file with the `-----BEGIN CERTIFICATE-----` of the authority that signed the other's certificate"
            }
            _ => self.problem.help(),
        }
    }
}

/// What can be wrong with a PEM file.
#[derive(Debug)]
pub enum Problem {
    /// It cannot be read.
    Unreadable(io::Error),
    /// It is a pipe, a socket or a device: reading it may never end, and cannot be done again at a reload.
    NotAFile,
    /// Its PEM armour is broken.
    MalformedPem(String),
    /// There is no certificate in it.
    NoCertificate,
    /// A certificate in it is not well formed.
    MalformedCertificate,
    /// There is no private key in it.
    NoKey,
    /// Its key is protected by a passphrase.
    EncryptedKey,
    /// Its key belongs to another certificate.
    KeyOfAnotherCertificate,
    /// Its key is damaged, or of a type or size that TLS does not use.
    UnusableKey(String),
}

impl Problem {
    fn help(&self) -> &'static str {
        match self {
            Self::Unreadable(error) if error.kind() == io::ErrorKind::NotFound => {
                "write the path of a file that exists; relative paths start at the configuration's folder"
            }
            Self::Unreadable(error) if error.kind() == io::ErrorKind::IsADirectory => {
                "this is a folder: write the path of the file in it"
            }
            Self::Unreadable(_) => "let the user that runs Atlas read this file",
            Self::NotAFile => "write what it gives to a file, and name that one",
            Self::MalformedPem(_) => {
                "copy the file again, from `-----BEGIN` to the end of the `-----END` line"
            }
            Self::NoCertificate => {
                "name a PEM file with `-----BEGIN CERTIFICATE-----`, the server's own certificate first"
            }
            Self::MalformedCertificate => {
                "ask for the certificate again; `openssl x509 -in FILE -text` reads a good one"
            }
            Self::NoKey => "name a PEM file with `-----BEGIN PRIVATE KEY-----`",
            Self::EncryptedKey => "take the passphrase off: `openssl pkey -in FILE -out NEW`",
            Self::KeyOfAnotherCertificate => {
                "name the key that this certificate was asked for with; the server's own certificate comes first in its file"
            }
            Self::UnusableKey(_) => {
                "use an ECDSA P-256, P-384 or P-521, Ed25519, or RSA key of 2048 bits or more"
            }
        }
    }
}

impl fmt::Display for CertificateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match &self.problem {
            Problem::Unreadable(error) => write!(f, "cannot read {path}: {error}"),
            Problem::NotAFile => write!(f, "{path} is a pipe, a socket or a device, and not a file"),
            Problem::MalformedPem(what) => write!(f, "{path} is not good PEM: {what}"),
            Problem::NoCertificate => write!(f, "there is no certificate in {path}"),
            Problem::MalformedCertificate => write!(f, "a certificate in {path} is not well formed"),
            Problem::NoKey => write!(f, "there is no private key in {path}"),
            Problem::EncryptedKey => write!(f, "the key in {path} is protected by a passphrase"),
            Problem::KeyOfAnotherCertificate => write!(f, "the key in {path} belongs to another certificate"),
            Problem::UnusableKey(what) => write!(f, "the key in {path} cannot be used: {what}"),
        }
    }
}

impl std::error::Error for CertificateError {}

/// Larger files are not certificates; one of all public authorities has some 250 KiB.
const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;

fn read_file(path: &Path) -> Result<Vec<u8>, Problem> {
    // Asked before it is opened: opening a FIFO waits for somebody who writes, and some devices do something.
    let kind = std::fs::metadata(path).map_err(Problem::Unreadable)?.file_type();
    if !kind.is_file() && !kind.is_dir() {
        return Err(Problem::NotAFile);
    }
    read_anything(path)
}

#[expect(
    clippy::disallowed_methods,
    reason = "configurations are read beside the workers"
)]
fn read_anything(path: &Path) -> Result<Vec<u8>, Problem> {
    use io::Read;
    let mut text = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut text))
        .map_err(Problem::Unreadable)?;
    Ok(text)
}

fn parse_chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let chain: Vec<_> = rustls_pemfile::certs(&mut &*pem)
        .collect::<Result<_, _>>()
        .map_err(|error| Problem::MalformedPem(error.to_string()))?;
    match chain.is_empty() {
        true => Err(Problem::NoCertificate),
        false => Ok(chain),
    }
}

fn parse_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, Problem> {
    // The library skips one kind of encrypted keys and calls the other one broken.
    if contains(pem, b"-----BEGIN ENCRYPTED PRIVATE KEY-----") || contains(pem, b"Proc-Type: 4,ENCRYPTED") {
        return Err(Problem::EncryptedKey);
    }
    rustls_pemfile::private_key(&mut &*pem)
        .map_err(|error| Problem::MalformedPem(error.to_string()))?
        .ok_or(Problem::NoKey)
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    memchr::memmem::find(text, part).is_some()
}

fn certify(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<CertifiedKey, Problem> {
    use rustls::{Error, InconsistentKeys};
    CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => Problem::KeyOfAnotherCertificate,
        Error::InvalidCertificate(_) => Problem::MalformedCertificate,
        Error::General(what) => Problem::UnusableKey(what),
        error => Problem::UnusableKey(error.to_string()),
    })
}

struct Facts {
    names: Vec<String>,
    has_alternative_names: bool,
    serial: String,
    not_before: SystemTime,
    not_after: SystemTime,
}

impl Facts {
    fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        let validity = certificate.validity();
        Some(Self {
            names: names(&certificate),
            has_alternative_names: matches!(certificate.subject_alternative_name(), Ok(Some(_))),
            serial: certificate.raw_serial_as_string(),
            not_before: moment(validity.not_before.timestamp()),
            not_after: moment(validity.not_after.timestamp()),
        })
    }
}

fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let mut names: Vec<String> = match certificate.subject_alternative_name() {
        Ok(Some(extension)) => extension
            .value
            .general_names
            .iter()
            .filter_map(|name| match name {
                GeneralName::DNSName(name) => Some(canonical(name)),
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    };
    if names.is_empty() {
        let common = certificate.subject().iter_common_name().next();
        names.extend(common.and_then(|name| name.as_str().ok()).map(canonical));
    }
    names
}

/// As names are compared: in lower case, without the root's dot.
pub(super) fn canonical(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

fn moment(seconds: i64) -> SystemTime {
    let distance = Duration::from_secs(seconds.unsigned_abs());
    match seconds {
        0.. => UNIX_EPOCH.checked_add(distance),
        _ => UNIX_EPOCH.checked_sub(distance),
    }
    .unwrap_or(UNIX_EPOCH)
}
