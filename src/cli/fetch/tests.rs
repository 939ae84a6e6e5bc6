//! What is sent by itself, and what never is.

use clap::Parser;

use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    arguments: Arguments,
}

fn arguments(line: &str) -> Arguments {
    Line::parse_from(line.split(' ')).arguments
}

/// Method and fields of the request for the URL of the line, and for another one after it.
fn asked(line: &str, url: &str) -> (Method, Vec<String>) {
    let arguments = arguments(line);
    let fetch = Fetch::prepare(&arguments).unwrap();
    let url = parse_url(url).unwrap();
    let fields = fetch.fields(&url, url.is_same_origin(&arguments.url));
    let lines = fields
        .iter()
        .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value)))
        .filter(|line| !line.starts_with("user-agent") && !line.starts_with("accept"))
        .collect();
    (fetch.method(), lines)
}

#[test]
fn data_makes_a_post_of_a_form() {
    let (method, fields) = asked("fetch -d a=b http://a.test:8080/x", "http://a.test:8080/x");
    assert_eq!(method, Method::POST);
    assert_eq!(
        fields,
        [
            "host: a.test:8080",
            "content-type: application/x-www-form-urlencoded"
        ]
    );
}

#[test]
fn what_is_given_replaces_what_would_be_sent() {
    let (method, fields) = asked(
        "fetch -X PUT -d {} -H Host:b.test -H Content-Type:a/b -H X:1 -H X:2 http://a.test/",
        "http://a.test/",
    );
    assert_eq!(method, Method::PUT);
    assert_eq!(fields, ["host: b.test", "content-type: a/b", "x: 1", "x: 2"]);
    let (_, fields) = asked("fetch -d x -H Content-Type: http://a.test/", "http://a.test/");
    assert_eq!(fields, ["host: a.test"]);
}

#[test]
fn secrets_are_not_shown_to_others() {
    let line = "fetch -H Authorization:secret -H Cookie:secret -H Host:x.test -H X:1 http://a.test/";
    let (_, fields) = asked(line, "http://a.test/other");
    assert_eq!(
        fields,
        ["authorization: secret", "cookie: secret", "host: x.test", "x: 1"]
    );
    for other in ["http://b.test/", "http://a.test:81/", "https://a.test/"] {
        let (_, fields) = asked(line, other);
        let host = parse_url(other).unwrap().authority;
        assert_eq!(fields, [format!("host: {host}"), "x: 1".to_owned()], "{other}");
    }
}

#[test]
fn an_authority_that_cannot_be_read_gets_help_that_fits() {
    let help = |path: &str| {
        let arguments = arguments(&format!("fetch --cacert {path} https://a.test/"));
        let trouble = Secrecy::prepare(&arguments).err().unwrap();
        trouble.help.unwrap()
    };
    let missing = help("/nonexistent.pem");
    assert!(missing.contains("the folder you are in"), "{missing}");
    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().join("other");
    std::fs::write(&other, "root:x:0:0").unwrap();
    let none = help(other.to_str().unwrap());
    assert!(none.contains("of the authority"), "{none}");
}
