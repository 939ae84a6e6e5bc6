//! Which certificate a client gets: by the name it asks for, then by what it can verify.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{SignatureAlgorithm, SignatureScheme};

use super::certificates::{Certificate, canonical};

/// The certificates of a listener, by name.
#[derive(Debug)]
pub(super) struct Choice {
    certificates: Vec<Certificate>,
    /// Places in `certificates`, the cheapest to sign with first.
    exact: HashMap<String, Vec<usize>>,
    /// The same by what follows `*.`; a wildcard stands for one label.
    wildcard: HashMap<String, Vec<usize>>,
    /// For clients that ask for no name, or for one that nobody has.
    default: Vec<usize>,
}

impl Choice {
    /// The first certificate is the default, together with those that have all of its names.
    ///
    /// # Errors
    ///
    /// A sentence, when there is none.
    pub(super) fn new(certificates: Vec<Certificate>) -> Result<Self, String> {
        let first = certificates.first().ok_or("there is no certificate")?;
        let stands_in = |other: &Certificate| first.names.iter().all(|name| other.names.contains(name));
        let mut default = vec![0];
        if !first.names.is_empty() {
            let others = certificates.iter().enumerate().skip(1);
            default.extend(others.filter(|(_, other)| stands_in(other)).map(|(at, _)| at));
        }
        let mut exact: HashMap<_, Vec<_>> = HashMap::new();
        let mut wildcard: HashMap<_, Vec<_>> = HashMap::new();
        for (at, certificate) in certificates.iter().enumerate() {
            for name in &certificate.names {
                match name.strip_prefix("*.") {
                    Some(parent) => wildcard.entry(parent.to_owned()).or_default().push(at),
                    None => exact.entry(name.clone()).or_default().push(at),
                }
            }
        }
        // RSA costs Atlas some ten times as much for each handshake; whoever can shall use the other.
        let slow = |at: &usize| certificates[*at].key.key.algorithm() == SignatureAlgorithm::RSA;
        for group in exact
            .values_mut()
            .chain(wildcard.values_mut())
            .chain([&mut default])
        {
            group.sort_by_key(slow); // stable: else the file's order
        }
        Ok(Self {
            certificates,
            exact,
            wildcard,
            default,
        })
    }

    pub(super) fn certificates(&self) -> &[Certificate] {
        &self.certificates
    }

    /// The certificate for a name, of those that `schemes` can verify (all, where it is `None`).
    pub(super) fn pick(&self, name: Option<&str>, schemes: Option<&[SignatureScheme]>) -> &Certificate {
        let [exact, wildcard] = name.map(|name| self.named(&canonical(name))).unwrap_or_default();
        let group = match exact.is_empty() && wildcard.is_empty() {
            true => [self.default.as_slice(), &[]],
            false => [exact, wildcard],
        };
        let mut places = group.into_iter().flatten();
        let usable = |at: &&usize| {
            let key = &self.certificates[**at].key.key;
            schemes.is_none_or(|schemes| key.choose_scheme(schemes).is_some())
        };
        // If the client can verify none it gets the first: rustls then ends with the right alert.
        let place = places.clone().find(usable).or_else(|| places.next());
        &self.certificates[place.copied().unwrap_or(0)]
    }

    /// Those of this very name, and those of its wildcard.
    fn named(&self, name: &str) -> [&[usize]; 2] {
        let parent = name.split_once('.').filter(|(label, _)| !label.is_empty());
        [
            self.exact.get(name),
            parent.and_then(|(_, parent)| self.wildcard.get(parent)),
        ]
        .map(|group| group.map_or(&[][..], Vec::as_slice))
    }
}

impl ResolvesServerCert for Choice {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let picked = self.pick(hello.server_name(), Some(hello.signature_schemes()));
        Some(picked.key.clone())
    }
}
