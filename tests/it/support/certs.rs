//! Certificates of the tests: one authority for the whole run, and leaves of every kind.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

/// The kinds of key a leaf may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Ecdsa,
    Rsa,
}

/// A certificate chain and its key, as PEM.
#[derive(Clone, Debug)]
pub struct Leaf {
    pub chain: String,
    pub key: String,
}

/// An ECDSA leaf for these names, signed by the tests' authority.
pub fn cert(names: &[&str]) -> Leaf {
    leaf(names, Kind::Ecdsa, |_| {})
}

/// A leaf with an RSA key.
pub fn rsa_cert(names: &[&str]) -> Leaf {
    leaf(names, Kind::Rsa, |_| {})
}

/// A leaf whose time is over.
pub fn expired_cert(names: &[&str]) -> Leaf {
    leaf(names, Kind::Ecdsa, |params| {
        params.not_before = rcgen::date_time_ymd(2019, 1, 1);
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    })
}

fn leaf(names: &[&str], kind: Kind, change: impl FnOnce(&mut CertificateParams)) -> Leaf {
    let key = match kind {
        Kind::Ecdsa => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
        Kind::Rsa => KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256),
    }
    .expect("a key can be made");
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names.clone()).expect("these are names");
    params
        .distinguished_name
        .push(DnType::CommonName, names[0].clone());
    change(&mut params);
    let signed = params
        .signed_by(&key, ca().issuer())
        .expect("the authority signs");
    Leaf {
        chain: signed.pem(),
        key: key.serialize_pem(),
    }
}

impl Leaf {
    /// Writes both files into a folder; their paths.
    pub fn write(&self, folder: &Path, name: &str) -> (PathBuf, PathBuf) {
        let cert = folder.join(format!("{name}.crt"));
        let key = folder.join(format!("{name}.key"));
        std::fs::write(&cert, &self.chain).expect("the folder is writable");
        std::fs::write(&key, &self.key).expect("the folder is writable");
        (cert, key)
    }

    /// The leaf's key.
    pub fn private_key(&self) -> rustls::pki_types::PrivateKeyDer<'static> {
        use rustls::pki_types::pem::PemObject;
        rustls::pki_types::PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("it is PEM")
    }

    /// The leaf's certificate as DER.
    pub fn der(&self) -> rustls::pki_types::CertificateDer<'static> {
        use rustls::pki_types::pem::PemObject;
        rustls::pki_types::CertificateDer::from_pem_slice(self.chain.as_bytes()).expect("it is PEM")
    }
}

/// The authority that all tests trust.
pub struct Ca(CertifiedIssuer<'static, KeyPair>);

/// The authority of this run.
pub fn ca() -> &'static Ca {
    static CA: OnceLock<Ca> = OnceLock::new();
    CA.get_or_init(|| {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key can be made");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "Atlas tests");
        Ca(CertifiedIssuer::self_signed(params, key).expect("an authority can be made"))
    })
}

impl Ca {
    fn issuer(&self) -> &CertifiedIssuer<'static, KeyPair> {
        &self.0
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// What a rustls client is told to trust.
    pub fn roots(&self) -> rustls::RootCertStore {
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(self.0.der().clone())
            .expect("the authority is well formed");
        roots
    }
}
