//! What is read from PEM files, and what is said about bad ones.

use std::time::Duration;

use rcgen::{CertificateParams, DnType, KeyPair};

use super::super::certificates::{Certificate, read_roots, read_roots_once};
use super::{Authority, read};

#[test]
fn names_and_dates_are_read() {
    let authority = Authority::new();
    let certificate = authority.certificate(&["A.test", "*.B.test"]);
    assert_eq!(certificate.names, ["a.test", "*.b.test"]);
    let day = Duration::from_secs(24 * 3600);
    assert_eq!(certificate.seconds_left(certificate.not_after - day), 24 * 3600);
    assert_eq!(certificate.seconds_left(certificate.not_after + day), -24 * 3600);
    assert!(certificate.not_before < certificate.not_after);
}

#[test]
fn the_common_name_stands_in_for_missing_names() {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, "Old.test".to_owned());
    let pem = params.self_signed(&key).unwrap().pem();
    assert_eq!(read(&pem, &key.serialize_pem()).unwrap().names, ["old.test"]);
}

#[test]
fn each_fault_of_a_pem_file_is_told_with_the_file_it_is_in() {
    let authority = Authority::new();
    let (chain, key) = authority.leaf(&["a.test"], &rcgen::PKCS_ECDSA_P256_SHA256);
    let (_, other_key) = authority.leaf(&["a.test"], &rcgen::PKCS_ECDSA_P256_SHA256);
    let armour = |kind: &str, body: &str| format!("-----BEGIN {kind}-----\n{body}\n-----END {kind}-----\n");
    let faults = [
        (String::new(), key.clone(), "there is no certificate in chain.pem"),
        (key.clone(), key.clone(), "there is no certificate in chain.pem"),
        (
            armour("CERTIFICATE", "AAAA"),
            key.clone(),
            "a certificate in chain.pem is not well formed",
        ),
        (
            armour("CERTIFICATE", "%%%%"),
            key.clone(),
            "chain.pem is not good PEM",
        ),
        (
            chain.replace("-----END", "----END"),
            key.clone(),
            "chain.pem is not good PEM",
        ),
        (chain.clone(), String::new(), "there is no private key in key.pem"),
        (chain.clone(), chain.clone(), "there is no private key in key.pem"),
        (
            chain.clone(),
            other_key,
            "the key in key.pem belongs to another certificate",
        ),
        (
            chain.clone(),
            armour("ENCRYPTED PRIVATE KEY", "AAAA"),
            "the key in key.pem is protected",
        ),
        (
            chain.clone(),
            armour("RSA PRIVATE KEY", "Proc-Type: 4,ENCRYPTED\n\nAAAA"),
            "the key in key.pem is protected",
        ),
        (
            chain.clone(),
            armour("PRIVATE KEY", "AAAA"),
            "the key in key.pem cannot be used",
        ),
    ];
    for (chain, key, expected) in faults {
        let error = read(&chain, &key).expect_err(expected);
        assert!(error.to_string().starts_with(expected), "{error}");
        assert_eq!(error.in_key_file, expected.contains("key.pem"));
        assert!(!error.help().is_empty());
    }
}

#[test]
fn files_that_cannot_be_read_say_why() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing.pem");
    let error = Certificate::read(&missing, &missing).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("No such file or directory (os error 2)")
    );
    assert!(read_roots(folder.path()).is_err());
}

#[test]
fn a_pipe_is_refused_where_it_would_have_to_be_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    for wrong in [
        Certificate::read(&pipe, &pipe).unwrap_err(),
        read_roots(&pipe).unwrap_err(),
        read_roots(std::path::Path::new("/dev/null")).unwrap_err(),
    ] {
        assert!(wrong.to_string().contains("not a file"), "{wrong}");
    }
    let (pem, _) = Authority::new().leaf(&["a.test"], &rcgen::PKCS_ECDSA_P256_SHA256);
    std::thread::scope(|scope| {
        scope.spawn(|| std::fs::write(&pipe, pem).unwrap());
        assert_eq!(read_roots_once(&pipe).unwrap().len(), 1);
    });
}

#[test]
fn keys_of_each_kind_are_read_from_either_file() {
    let authority = Authority::new();
    for algorithm in [
        &rcgen::PKCS_RSA_SHA256,
        &rcgen::PKCS_ED25519,
        &rcgen::PKCS_ECDSA_P384_SHA384,
    ] {
        let (chain, key) = authority.leaf(&["a.test"], algorithm);
        read(&chain, &key).unwrap();
        let both = format!("{key}{chain}");
        read(&both, &both).unwrap();
    }
}

#[test]
fn sec1_keys_are_read_as_openssl_writes_them() {
    let pair = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, "a.test".to_owned());
    let chain = params.self_signed(&pair).unwrap().pem();
    // A PKCS#8 key of a curve holds a SEC1 key, which starts so: version 1, then 32 bytes.
    let pkcs8 = pair.serialize_der();
    let version = [2, 1, 1, 4, 32];
    let at = pkcs8.windows(5).position(|bytes| bytes == version).unwrap();
    let key = format!(
        "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n\
         -----BEGIN EC PRIVATE KEY-----\n{}\n-----END EC PRIVATE KEY-----\n",
        base64(&pkcs8[at - 2..])
    );
    read(&chain, &key).unwrap();
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let at = |place: usize| u32::from(group.get(place).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for digit in 0..4 {
            let value = (bits >> (18 - 6 * digit)) & 63;
            let is_there = digit <= group.len();
            text.push(if is_there {
                DIGITS[value as usize].into()
            } else {
                '='
            });
        }
    }
    text
}
