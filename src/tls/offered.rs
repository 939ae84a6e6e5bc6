//! What a client offered in its ClientHello, kept as bytes and read only if somebody logs it.

use std::fmt;

use rustls::CipherSuite;

use super::handshake::suite_name;

/// The bytes of a ClientHello; displayed, the parts of it that explain a failed handshake.
#[derive(Clone, Default)]
pub struct Offered {
    records: Vec<u8>,
}

/// Bytes that are kept: more than rustls takes for a ClientHello (64 KiB) and one read behind it. A
/// usual one has 500 to 1,800.
const KEPT_BYTES_MAX: usize = 96 * 1024;

/// Entries of each list that are displayed; browsers offer about 16 ciphers.
const SHOWN_MAX: usize = 40;

impl Offered {
    /// Keeps bytes as they came, record headers included.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        let space = KEPT_BYTES_MAX - self.records.len();
        self.records.extend_from_slice(&bytes[..bytes.len().min(space)]);
    }

    /// All that came, record headers included.
    pub(super) fn records(&self) -> &[u8] {
        &self.records
    }

    /// Whether nothing has come.
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Whether it is a request of HTTP in clear instead.
    pub(super) fn starts_like_http(&self) -> bool {
        let method = self.records.split(|byte| *byte == b' ').next().unwrap_or(&[]);
        METHODS.contains(&method)
    }

    /// Whether it is the ClientHello of one who speaks no version Atlas does.
    pub(super) fn is_before_tls12(&self) -> bool {
        let message = handshake_bytes(&self.records);
        let mut offer = Offer::default();
        let _ = offer.read(&mut Reader(&message)); // such old ones may end before the extensions
        !offer.suites.is_empty() && offer.versions.iter().all(|version| *version < 0x0303)
    }
}

const METHODS: [&[u8]; 8] = [
    b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"PRI",
];

impl fmt::Debug for Offered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Offered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message = handshake_bytes(&self.records);
        let mut offer = Offer::default();
        // What is cut off or not well formed shows as far as it could be read.
        let _ = offer.read(&mut Reader(&message));
        match offer.name {
            Some(name) => write!(f, "name {}", name.escape_ascii())?,
            None => write!(f, "no name")?,
        }
        list(f, ", versions", &offer.versions, |f, version| match version {
            0x0300 => f.write_str("SSLv3"),
            0x0301 => f.write_str("TLSv1.0"),
            0x0302..=0x0304 => write!(f, "TLSv1.{}", version - 0x0301),
            other => write!(f, "{other:#06x}"),
        })?;
        list(f, ", protocols", &offer.protocols, |f, protocol| {
            protocol.escape_ascii().fmt(f)
        })?;
        list(f, ", ciphers", &offer.suites, |f, suite| {
            match suite_name(CipherSuite::from(*suite)) {
                Some(name) => f.write_str(name),
                None => write!(f, "{suite:#06x}"),
            }
        })
    }
}

fn list<T>(
    f: &mut fmt::Formatter<'_>,
    title: &str,
    entries: &[T],
    write: impl Fn(&mut fmt::Formatter<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    f.write_str(if entries.is_empty() { "" } else { title })?;
    for entry in entries.iter().take(SHOWN_MAX) {
        f.write_str(" ")?;
        write(f, entry)?;
    }
    f.write_str(if entries.len() > SHOWN_MAX { " …" } else { "" })
}

/// The handshake message without its record headers.
fn handshake_bytes(mut records: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(records.len());
    while let [_, _, _, high, low, rest @ ..] = records {
        let size = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
        message.extend_from_slice(&rest[..size]);
        records = &rest[size..];
    }
    message
}

#[derive(Default)]
struct Offer<'a> {
    name: Option<&'a [u8]>,
    versions: Vec<u16>,
    protocols: Vec<&'a [u8]>,
    suites: Vec<u16>,
}

const SERVER_NAME: u16 = 0;
const APPLICATION_PROTOCOLS: u16 = 16;
const SUPPORTED_VERSIONS: u16 = 43;

impl<'a> Offer<'a> {
    /// Reads a ClientHello, RFC 8446 §4.1.2. `None`: it ends early.
    fn read(&mut self, message: &mut Reader<'a>) -> Option<()> {
        message.take(4)?; // type and length
        let legacy_version = message.number()?;
        self.versions.push(legacy_version);
        message.take(32)?; // random
        message.block8()?; // session id
        self.suites = numbers(message.block16()?.0);
        message.block8()?; // compression
        let mut extensions = message.block16()?;
        while let Some(kind) = extensions.number() {
            self.read_extension(kind, extensions.block16()?);
        }
        Some(())
    }

    fn read_extension(&mut self, kind: u16, mut body: Reader<'a>) -> Option<()> {
        match kind {
            SERVER_NAME => {
                let mut names = body.block16()?;
                names.take(1)?; // host_name
                self.name = Some(names.block16()?.0);
            }
            APPLICATION_PROTOCOLS => {
                let mut protocols = body.block16()?;
                while let Some(protocol) = protocols.block8() {
                    self.protocols.push(protocol.0);
                }
            }
            SUPPORTED_VERSIONS => self.versions = numbers(body.block8()?.0),
            _ => {}
        }
        Some(())
    }
}

/// Two bytes each, without those that RFC 8701 lets clients make up.
fn numbers(bytes: &[u8]) -> Vec<u16> {
    let pairs = bytes.chunks_exact(2);
    pairs
        .filter(|pair| !(pair[0] == pair[1] && pair[0] & 0x0f == 0x0a))
        .map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
        .collect()
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u16> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// A block after its length in one byte.
    fn block8(&mut self) -> Option<Self> {
        let size = usize::from(self.take(1)?[0]);
        self.take(size).map(Self)
    }

    /// A block after its length in two bytes; what is there, if it was cut off.
    fn block16(&mut self) -> Option<Self> {
        let size = usize::from(self.number()?).min(self.0.len());
        self.take(size).map(Self)
    }
}
