//! The command line: check, explain, version; exit codes; what programs may read.

use std::path::{Path, PathBuf};
use std::process::Output;

use crate::support::{cert, command};

fn run(arguments: &[&str]) -> Output {
    command(env!("CARGO_BIN_EXE_atlas"), arguments, b"")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A folder with a configuration and the certificate it names.
fn written(configuration: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    cert(&["a.test"]).write(folder.path(), "server");
    let file = folder.path().join("atlas.toml");
    std::fs::write(&file, configuration).unwrap();
    (folder, file)
}

fn check(file: &Path, more: &[&str]) -> Output {
    let mut arguments = vec!["check", "-c", file.to_str().unwrap()];
    arguments.extend(more);
    run(&arguments)
}

const SMALLEST: &str = r#"[listen]
address = "0.0.0.0"
port = 443
mode = "http"

[tls]
cert = "server.crt"
key = "server.key"
prefer_ktls = true

[[route]]
upstream = "app"

[upstream.app]
endpoints = ["127.0.0.1:3000"]
"#;

#[test]
fn the_smallest_file_is_fine() {
    let (_folder, file) = written(SMALLEST);
    for arguments in [vec!["check", "-c"], vec!["-t", "-c"]] {
        let output = run(&[arguments, vec![file.to_str().unwrap()]].concat());
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    }
}

#[test]
fn every_mistake_is_shown_at_once_with_its_place() {
    let wrong = SMALLEST
        .replace("endpoints =", "endpoint =")
        .replace("port = 443", "port = 70000")
        .replace("mode = \"http\"", "mode = \"htpp\"");
    let (_folder, file) = written(&wrong);
    let output = check(&file, &[]);
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output.stderr);
    for part in [
        "atlas.toml:3:",
        "atlas.toml:4:",
        "atlas.toml:15:",
        "did you mean `endpoints`",
        "70000",
        "^",
    ] {
        assert!(said.contains(part), "no {part} in\n{said}");
    }
}

#[test]
fn mistakes_that_only_the_whole_file_shows_point_at_their_line() {
    for (name, wrong, parts) in [
        (
            "a missing certificate",
            SMALLEST.replace("server.crt", "gone.crt"),
            vec![":7:", "gone.crt"],
        ),
        (
            "a missing key",
            SMALLEST.replace("server.key", "gone.key"),
            vec![":8:", "gone.key"],
        ),
        (
            "an unknown upstream",
            SMALLEST.replace("upstream = \"app\"", "upstream = \"ap\""),
            vec![":12:", "\"app\""],
        ),
        (
            "two routes that tie",
            SMALLEST.replace("[upstream.app]", "[[route]]\nrespond = 404\n\n[upstream.app]"),
            vec![":14:", "route"],
        ),
        (
            "no certificate at all",
            SMALLEST.replace("cert = \"server.crt\"", ""),
            vec!["cert"],
        ),
        (
            "an endpoint without a port",
            SMALLEST.replace(":3000", ""),
            vec![":15:", "port"],
        ),
        (
            "the same listener twice",
            SMALLEST.replace(
                "[listen]",
                "[[listen]]\naddress = \"0.0.0.0\"\nport = 443\n\n[[listen]]",
            ),
            vec!["443"],
        ),
    ] {
        let (_folder, file) = written(&wrong);
        let output = check(&file, &[]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{name}: {said}");
        for part in parts {
            assert!(said.contains(part), "{name}: no {part} in\n{said}");
        }
    }
}

#[test]
fn a_key_of_another_certificate_is_an_error() {
    let (folder, file) = written(SMALLEST);
    std::fs::write(folder.path().join("server.key"), cert(&["a.test"]).key).unwrap();
    let output = check(&file, &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        text(&output.stderr).contains("server.key"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn programs_may_read_what_check_says() {
    let (_folder, file) = written(&SMALLEST.replace("endpoints =", "endpoint ="));
    let output = check(&file, &["--format", "json"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stderr.is_empty(), "{}", text(&output.stderr));
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one document");
    let said = document.to_string();
    for part in ["\"line\":15", "endpoints"] {
        assert!(said.contains(part), "no {part} in {said}");
    }
    let (_folder, file) = written(SMALLEST);
    let output = check(&file, &["--format", "json"]);
    assert_eq!(output.status.code(), Some(0));
    let _: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one document");
}

#[test]
fn explain_tells_what_would_serve_a_url() {
    let configuration = SMALLEST.replace(
        "[upstream.app]",
        "[[route]]\npath = \"/static\"\nfiles = \"/srv\"\n\n[upstream.app]",
    );
    let (_folder, file) = written(&configuration);
    let explain = |url: &str| {
        let output = run(&["explain", "-c", file.to_str().unwrap(), url]);
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    };
    let (code, said) = explain("https://a.test/x");
    assert_eq!(code, Some(0), "{said}");
    for part in [":443", "server.crt", "app", "127.0.0.1:3000", "11 | [[route]]"] {
        assert!(said.contains(part), "no {part} in\n{said}");
    }
    let (_, said) = explain("https://a.test/static/y.css");
    assert!(said.contains("/srv"), "{said}");
    let (code, said) = explain("not a url");
    assert_eq!(code, Some(2), "{said}");
}

#[test]
fn wrong_usage_is_two() {
    for arguments in [
        &["frobnicate"][..],
        &["run", "--nonsense"],
        &["check", "-c", "/nonexistent/atlas.toml"],
        &["run", "-c", "/nonexistent/atlas.toml"],
    ] {
        let output = run(arguments);
        assert_eq!(
            output.status.code(),
            Some(2),
            "{arguments:?}: {}",
            text(&output.stderr)
        );
        assert!(!output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_wrong_file_does_not_start() {
    let (_folder, file) = written(&SMALLEST.replace("endpoints =", "endpoint ="));
    let output = run(&["run", "-c", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        text(&output.stderr).contains("did you mean"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn a_port_that_is_taken_is_said_with_its_number() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let configuration = SMALLEST
        .replace("0.0.0.0", "127.0.0.1")
        .replace("443", &port.to_string());
    let (_folder, file) = written(&configuration);
    let output = run(&["run", "-c", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(
        text(&output.stderr).contains(&port.to_string()),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn the_version_is_told() {
    let output = run(&["version"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(
        text(&output.stdout).contains(env!("CARGO_PKG_VERSION")),
        "{}",
        text(&output.stdout)
    );
}

#[test]
fn the_example_is_a_good_configuration_but_for_its_files() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("atlas.toml.example");
    let text_of = std::fs::read_to_string(&example).expect("the example is there");
    assert!(text_of.contains("[upstream"), "it shows every table");
}

/// A word that is no level would be a module's name, and silence all others.
#[test]
fn a_level_that_is_none_does_not_silence_errors() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let (_folder, file) = written(&SMALLEST.replace("0.0.0.0", "127.0.0.1").replace("443", &port));
    for (level, complains) in [
        ("warning", true),
        ("inof,h2=off", true),
        ("error", false),
        ("warn,h2=off", false),
    ] {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_atlas"))
            .args(["run", "-c"])
            .arg(&file)
            .env("ATLAS_LOG", level)
            .output()
            .unwrap();
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.contains("another program listens there"), "{level}: {told}");
        assert_eq!(told.contains("is not understood"), complains, "{level}: {told}");
        assert!(!told.contains('\x1b'), "{level}: {told}");
    }
}
