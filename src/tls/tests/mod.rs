//! The TLS room by itself: certificates as data, handshakes over real sockets.

mod certificates;
mod choice;
mod handshake;
mod kernel_tls;
mod refused_keys;

use std::path::Path;

use rcgen::{CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SignatureAlgorithm};

use super::certificates::Certificate;

/// An authority that exists for one test.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, format!("authority {}", fastrand::u64(..)));
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate and its key in PEM.
    fn leaf(&self, names: &[&str], algorithm: &'static SignatureAlgorithm) -> (String, String) {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate_for(algorithm).unwrap();
        let leaf = CertificateParams::new(names)
            .unwrap()
            .signed_by(&key, &self.0)
            .unwrap();
        (leaf.pem(), key.serialize_pem())
    }

    fn certificate(&self, names: &[&str]) -> Certificate {
        self.certificate_with(names, &rcgen::PKCS_ECDSA_P256_SHA256)
    }

    fn certificate_with(&self, names: &[&str], algorithm: &'static SignatureAlgorithm) -> Certificate {
        let (chain, key) = self.leaf(names, algorithm);
        read(&chain, &key).unwrap()
    }
}

fn read(chain: &str, key: &str) -> Result<Certificate, super::certificates::CertificateError> {
    let (chain_path, key_path) = (Path::new("chain.pem"), Path::new("key.pem"));
    Certificate::from_pem(chain.as_bytes(), chain_path, key.as_bytes(), key_path)
}
