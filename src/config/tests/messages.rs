//! `tests/config_errors`: each configuration with the whole message it has to get.

use std::fs;

use super::super::{Severity, load, parse};
use super::{folder, project, same_as_file};

#[test]
fn each_wrong_configuration_gets_its_message() {
    let folder = folder();
    let mut cases: Vec<_> = fs::read_dir(project("tests/config_errors"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "toml"))
        .collect();
    cases.sort();
    assert!(cases.len() >= 45, "only {} cases", cases.len());
    let mut wrong = Vec::new();
    for path in &cases {
        let text = fs::read_to_string(path).unwrap();
        let report = match parse("atlas.toml", &text, folder.path()) {
            Ok(loaded) => loaded.warnings,
            Err(report) => report,
        };
        assert!(!report.is_empty(), "nothing is wrong with {}", path.display());
        let message = report
            .to_string()
            .replace(&folder.path().display().to_string(), "/etc/atlas");
        wrong.extend(same_as_file(&path.with_extension("txt"), &message).err());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_message_says_what_to_write_instead() {
    let folder = folder();
    for entry in fs::read_dir(project("tests/config_errors")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|kind| kind != "toml") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let report = match parse("atlas.toml", &text, folder.path()) {
            Ok(loaded) => loaded.warnings,
            Err(report) => report,
        };
        for one in &report {
            assert!(one.help.is_some(), "{}: {}", path.display(), one.message);
            assert!(!one.message.is_empty(), "{}", path.display());
        }
    }
}

#[test]
fn a_private_key_never_stands_in_a_message() {
    let folder = folder();
    let key = fs::read_to_string(folder.path().join("good.key")).unwrap();
    let secret = key.lines().nth(1).unwrap();
    for name in ["good.key", "both.pem"] {
        let text =
            format!("[listen]\naddress = \"::\"\nport = 1\n[tls]\ncert = \"other.crt\"\nkey = \"{name}\"\n");
        let report = parse("atlas.toml", &text, folder.path()).unwrap_err();
        assert!(!report.to_string().contains(secret));
        assert!(!report.to_json().to_string().contains(secret));
    }
}

#[test]
fn a_file_that_is_not_there_is_told_by_its_name() {
    let report = load("/nonexistent/atlas.toml".as_ref()).unwrap_err();
    assert_eq!(
        report.to_string(),
        "/nonexistent/atlas.toml: error: there is no such file [missing-file]\n  \
         = help: name the configuration file with `-c FILE`; `atlas demo` needs none\n"
    );
}

#[test]
fn a_file_that_is_no_text_or_no_file_is_told() {
    let folder = folder();
    let code = |path: &std::path::Path| load(path).unwrap_err().iter().next().unwrap().code;
    let binary = folder.path().join("binary.toml");
    fs::write(&binary, [0xff, 0xfe, 0x00]).unwrap();
    assert_eq!(code(&binary), "bad-file");
    assert_eq!(code(folder.path()), "bad-file");
}

#[test]
fn a_file_in_another_encoding_is_told_by_the_place_it_shows() {
    let folder = folder();
    let path = folder.path().join("latin1.toml");
    fs::write(&path, b"[listen]\n# caf\xe9 au lait\n").unwrap();
    let text = load(&path).unwrap_err().to_string();
    assert!(
        text.contains("latin1.toml:2:6: error: the file is not UTF-8 text"),
        "{text}"
    );
    assert!(text.contains("save it as UTF-8"), "{text}");
    fs::write(&path, b"\xff\xfe[\0l\0").unwrap();
    let text = load(&path).unwrap_err().to_string();
    assert!(
        text.contains("UTF-16") && text.contains("save it as UTF-8"),
        "{text}"
    );
    fs::write(&path, b"\x7fELF\xff\0\0").unwrap();
    let text = load(&path).unwrap_err().to_string();
    assert!(text.contains("the file is not text"), "{text}");
}

#[test]
fn a_file_of_another_kind_does_not_flood_the_terminal() {
    let text = "worker_connections 768;\n".repeat(3000);
    let report = parse("nginx.conf", &text, "".as_ref()).unwrap_err();
    assert_eq!(report.iter().filter(|one| one.code == "syntax").count(), 21);
    assert!(
        report.to_string().contains("more places that are not TOML"),
        "{report}"
    );
}

#[test]
fn of_very_many_errors_and_warnings_the_first_are_shown_and_all_are_counted() {
    let route = "[[route]]\nrespond = 200\nretry = true\n";
    let text = format!(
        "[listen]\naddress = \"::\"\nport = 1\ntls = false\n{}",
        route.repeat(301)
    );
    let report = parse("atlas.toml", &text, "".as_ref()).unwrap_err();
    let counts = [Severity::Error, Severity::Warning].map(|severity| report.count(severity));
    assert_eq!(counts, [300, 301]);
    assert_eq!(report.iter().count(), 202);
    let shown = report.to_string();
    assert!(
        shown.contains("atlas.toml: error: and 200 more errors [more]"),
        "{shown}"
    );
    assert!(
        shown.contains("atlas.toml: warning: and 201 more warnings [more]"),
        "{shown}"
    );
    assert!(shown.len() < 200_000, "{} bytes", shown.len());
}

#[test]
fn programs_get_lines_and_columns() {
    let text = "[listen]\naddress = \"::\"\nport = 1\ntls = false\n[[route]]\nrespond = { body = \"é\", status = 1 }\n";
    let report = parse("atlas.toml", text, "".as_ref()).unwrap_err();
    let all = report.to_json();
    let one = &all[0];
    assert_eq!(one["file"], "atlas.toml");
    assert_eq!(one["severity"], "error");
    let place = ["line", "column", "end_line", "end_column"].map(|key| one[key].as_u64().unwrap());
    assert_eq!(place, [6, 34, 6, 35], "{all}");
}

#[test]
fn a_value_does_not_rule_the_terminal() {
    let text = "[listen]\naddress = \"::\"\nport = 1\ntls = false\n[[route]]\nupstream = \"app\"\n\
                [upstream.app]\nendpoints = [\"\\u001b[31mRED:1\", \"a\\u0000b\", \"\u{9b}31mRED:1\"]\n";
    let report = parse("atlas.toml", text, "".as_ref()).unwrap_err();
    let shown = report.to_string();
    assert!(shown.contains(r"`\u{1b}[31mRED` is not a host name"), "{shown:?}");
    assert!(shown.contains("\"¿31mRED:1\""), "{shown:?}");
    assert!(
        !shown.contains(|letter: char| letter.is_control() && letter != '\n'),
        "{shown:?}"
    );
}

/// What is said of an upstream whose `endpoints_file` holds this.
fn said_of_endpoints(bytes: &str) -> String {
    let folder = folder();
    fs::write(folder.path().join("e.json"), bytes).unwrap();
    let text = "[listen]\naddress = \"::\"\nport = 1\ntls = false\n[[route]]\nupstream = \"app\"\n\
                [upstream.app]\nendpoints_file = \"e.json\"\n";
    match parse("atlas.toml", text, folder.path()) {
        Ok(loaded) => loaded.generation.upstreams[0]
            .from_file
            .as_ref()
            .unwrap()
            .endpoints
            .len()
            .to_string(),
        Err(report) => report.to_string(),
    }
}

#[test]
fn endpoints_in_json_may_begin_with_a_byte_order_mark() {
    assert_eq!(said_of_endpoints("\u{feff}[\"127.0.0.1:1\"]"), "1");
}

#[test]
fn endpoints_in_json_that_are_no_list_get_one_to_write() {
    let said = said_of_endpoints("\"127.0.0.1:1\"");
    assert!(
        said.contains("must be a list or a table with `endpoints`, not a string"),
        "{said}"
    );
    assert!(
        said.contains(r#"write: { "endpoints": ["127.0.0.1:3000"] }"#),
        "{said}"
    );
}
