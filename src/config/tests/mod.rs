//! Configurations that are right, and what is said of those that are wrong.

mod documents;
mod meaning;
mod messages;

use std::fs;
use std::path::Path;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;

use crate::time::wall;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A folder with certificates and files for configurations to name.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    let good = pair(&["a.example"], 1, 90);
    write(
        "endpoints.json",
        r#"["10.0.0.1:80", {"address": "10.0.0.2:80", "weight": 3}]"#,
    );
    write(
        "wrong.json",
        "{\"endpoints\": [\n  {\"address\": \"10.0.0.1\", \"weihgt\": 2},\n  7\n]}",
    );
    write("good.crt", &good.0);
    write("good.key", &good.1);
    write("both.pem", &format!("{}{}", good.0, good.1));
    let other = pair(&["b.example", "*.b.example"], 1, 90);
    write("other.crt", &other.0);
    write("other.key", &other.1);
    let expired = pair(&["a.example"], 100, -10);
    write("expired.crt", &expired.0);
    write("expired.key", &expired.1);
    let early = pair(&["a.example"], -10, 90);
    write("early.crt", &early.0);
    write("early.key", &early.1);
    let nameless = pair(&[], 1, 90);
    write("nameless.crt", &nameless.0);
    write("nameless.key", &nameless.1);
    write("empty.pem", "");
    write("torn.pem", &good.0[..good.0.len() / 2]);
    write(
        "garbled.crt",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    );
    write(
        "locked.key",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
    );
    fs::create_dir(folder.path().join("www")).unwrap();
    folder
}

/// A certificate signed by itself and its key, valid from days ago until days ahead.
fn pair(names: &[&str], since: i64, until: i64) -> (String, String) {
    let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    let half = DAY / 2;
    let ahead = |days: i64| {
        let distance = DAY * u32::try_from(days.unsigned_abs()).unwrap();
        match days < 0 {
            true => wall() - distance - half,
            false => wall() + distance + half,
        }
    };
    params.not_before = ahead(-since).into();
    params.not_after = ahead(until).into();
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    (certificate.pem(), key.serialize_pem())
}

/// A file of the project.
fn project(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Compares a file of the project with what it should hold; writes it instead if `ATLAS_BLESS` is set.
fn same_as_file(path: &Path, wanted: &str) -> Result<(), String> {
    if std::env::var_os("ATLAS_BLESS").is_some() {
        fs::write(path, wanted).unwrap();
        return Ok(());
    }
    let found = fs::read_to_string(path).unwrap_or_default();
    match found == wanted {
        true => Ok(()),
        false => Err(format!(
            "{} differs; ATLAS_BLESS=1 writes it\n--- it is\n{found}--- it should be\n{wanted}",
            path.display()
        )),
    }
}
