//! Which certificate for which name.

use rustls::SignatureScheme;

use super::super::choice::Choice;
use super::Authority;

const ECDSA: &[SignatureScheme] = &[SignatureScheme::ECDSA_NISTP256_SHA256];
const RSA: &[SignatureScheme] = &[SignatureScheme::RSA_PSS_SHA256];
const BOTH: &[SignatureScheme] = &[
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::ECDSA_NISTP256_SHA256,
];
const NEITHER: &[SignatureScheme] = &[SignatureScheme::ED25519];

#[test]
fn a_certificate_is_chosen_by_exact_name_then_wildcard_then_default() {
    let authority = Authority::new();
    let choice = Choice::new(vec![
        authority.certificate(&["default.test"]),
        authority.certificate(&["*.a.test", "a.test"]),
        authority.certificate(&["Exact.A.test"]),
        authority.certificate(&["*.b.test"]),
    ])
    .unwrap();
    let expected = [
        (Some("default.test"), 0),
        (Some("a.test"), 1),
        (Some("x.a.test"), 1),
        (Some("exact.a.test"), 2),
        (Some("EXACT.a.TEST"), 2),
        (Some("exact.a.test."), 2),
        (Some("X.A.Test."), 1),
        (Some("x.b.test"), 3),
        (Some("b.test"), 0),
        (Some("x.y.b.test"), 0),
        (Some(".b.test"), 0),
        (Some("*.b.test"), 3),
        (Some("unknown.test"), 0),
        (Some("test"), 0),
        (Some(""), 0),
        (Some("."), 0),
        (None, 0),
    ];
    for (name, place) in expected {
        let picked = choice.pick(name, Some(BOTH));
        assert_eq!(picked.names, choice.certificates()[place].names, "{name:?}");
        assert_eq!(choice.pick(name, None).names, picked.names);
    }
}

#[test]
fn of_two_certificates_for_one_name_the_client_gets_one_it_can_verify() {
    let authority = Authority::new();
    let rsa = authority.certificate_with(&["a.test"], &rcgen::PKCS_RSA_SHA256);
    let ecdsa = authority.certificate(&["a.test", "b.test"]);
    let wild = authority.certificate(&["*.test"]);
    let choice = Choice::new(vec![rsa, ecdsa, wild]).unwrap();
    let expected = [
        ("a.test", BOTH, 1),
        ("a.test", ECDSA, 1),
        ("a.test", RSA, 0),
        ("a.test", NEITHER, 1),
        ("b.test", RSA, 1),
        ("other.example", BOTH, 1),
        ("other.example", RSA, 0),
        ("c.test", ECDSA, 2),
    ];
    for (name, schemes, place) in expected {
        let picked = choice.pick(Some(name), Some(schemes));
        assert_eq!(
            picked.names,
            choice.certificates()[place].names,
            "{name} {schemes:?}"
        );
    }
}

#[test]
fn a_wildcard_stands_in_where_the_exact_one_cannot_be_verified() {
    let authority = Authority::new();
    let exact = authority.certificate_with(&["a.test"], &rcgen::PKCS_RSA_SHA256);
    let wild = authority.certificate(&["*.test"]);
    let choice = Choice::new(vec![exact, wild]).unwrap();
    assert_eq!(choice.pick(Some("a.test"), Some(ECDSA)).names, ["*.test"]);
    assert_eq!(choice.pick(Some("a.test"), Some(BOTH)).names, ["a.test"]);
}

#[test]
fn there_is_no_choice_without_a_certificate() {
    assert!(Choice::new(Vec::new()).is_err());
}
