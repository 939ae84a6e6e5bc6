//! Endpoints from a file of their own, which others write while Atlas runs.

use std::io::Write as _;
use std::path::Path;

use super::names::endpoints;
use crate::support::*;

fn atlas_with(name: &str, content: &str, lines: &str) -> Builder {
    atlas()
        .listens_plain()
        .top("workers = 1")
        .file(name, content)
        .text("[[route]]\nupstream = \"app\"")
        .text(&format!("[upstream.app]\nendpoints_file = {name:?}\n{lines}"))
}

/// As others should: all at once.
fn replace(atlas: &Atlas, name: &str, content: &str) {
    let beside = atlas.folder().join("beside");
    std::fs::write(&beside, content).unwrap();
    std::fs::rename(&beside, atlas.folder().join(name)).unwrap();
}

/// Where it is. It is not emptied first, so that nobody reads a file without a word.
fn write_over(atlas: &Atlas, name: &str, content: &str) {
    let path = atlas.folder().join(name);
    assert!(content.len() as u64 >= path.metadata().unwrap().len());
    let mut file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all(content.as_bytes()).unwrap();
}

fn json(origins: &[&Origin]) -> String {
    let all: Vec<_> = origins.iter().map(|origin| origin.address()).collect();
    format!("{{\"endpoints\": {all:?}}}")
}

fn until_endpoints(atlas: &Atlas, count: f64) {
    wait_until(&format!("there are {count} endpoints"), || {
        (endpoints(atlas) == count).then_some(())
    });
}

fn is_failing(atlas: &Atlas) -> bool {
    atlas.metric("atlas_upstream_endpoints_file_failing", &["app"]) > 0.0
}

#[test]
fn a_file_that_is_replaced_is_taken_and_endpoints_that_stay_keep_their_connections() {
    let (one, other) = (origin().start(), origin().start());
    let atlas = atlas_with("app.json", &json(&[&one]), "").start();
    let mut client = atlas.connect();
    assert_eq!(client.get("/").status, 200);
    replace(&atlas, "app.json", &json(&[&one, &other]));
    until_endpoints(&atlas, 2.0);
    wait_until("the new one is asked", || {
        assert_eq!(client.get("/").status, 200, "the client's connection goes on");
        (other.accepted() == 1).then_some(())
    });
    for _ in 0..4 {
        assert_eq!(client.get("/").status, 200);
    }
    assert_eq!((one.accepted(), other.accepted()), (1, 1));
    replace(&atlas, "app.json", &json(&[&other]));
    until_endpoints(&atlas, 1.0);
    wait_until("the other one's connection is closed", || {
        assert_eq!(client.get("/").status, 200);
        (one.open() == 0).then_some(())
    });
    assert_eq!(other.accepted(), 1);
    assert_eq!(atlas.metric("atlas_reloads_total", &[]), 0.0);
}

#[test]
fn a_wrong_file_changes_nothing_and_is_told_with_line_key_and_fix() {
    let origin = origin().start();
    let atlas = atlas_with("app.json", &json(&[&origin]), "")
        .expects_log("stay as they were")
        .start();
    replace(
        &atlas,
        "app.json",
        "{\"endpoints\": [\n  {\"address\": \"127.0.0.1:1\", \"weihgt\": 2}\n]}",
    );
    wait_until("it is told", || is_failing(&atlas).then_some(()));
    for part in ["app.json:2:30", "unknown key `weihgt`", "did you mean `weight`?"] {
        atlas.log_line(&[part]); // it is written a little after the metrics know
    }
    assert_eq!((endpoints(&atlas), atlas.get("/").status), (1.0, 200));
    for wrong in ["{\"endpoints\": [", "[]", "[\"10.0.0.1\"]", "[null]", "7"] {
        let lines = atlas.log().len();
        replace(&atlas, "app.json", wrong);
        wait_until(wrong, || (atlas.log().len() > lines).then_some(()));
        assert_eq!((endpoints(&atlas), atlas.get("/").status), (1.0, 200), "{wrong}");
    }
    std::fs::remove_file(atlas.folder().join("app.json")).unwrap();
    wait_until("it is missed", || {
        atlas
            .log()
            .join("\n")
            .contains("there is no such file")
            .then_some(())
    });
    replace(&atlas, "app.json", &json(&[&origin]));
    wait_until("it is right again", || (!is_failing(&atlas)).then_some(()));
    assert_eq!(atlas.get("/").status, 200);
}

#[test]
fn a_file_of_toml_has_the_words_of_the_configuration() {
    let (large, small, spare) = (origin().start(), origin().start(), origin().start());
    let content = format!(
        "endpoints = [{{ address = {:?}, weight = 3 }}, {:?}]\n",
        large.address(),
        small.address()
    );
    let spare_one = format!(
        "balance = \"round_robin\"\nendpoints = [{{ address = {:?}, backup = true }}]",
        spare.address()
    );
    let atlas = atlas_with("app.toml", &content, &spare_one).start();
    for _ in 0..8 {
        assert_eq!(atlas.get("/").status, 200);
    }
    let asked = [&large, &small, &spare].map(|origin| origin.requests().len());
    assert_eq!(asked, [6, 2, 0]);
    // Written over where it is, and not put in its place.
    let shut = content.replace("weight = 3", "drain = true");
    write_over(&atlas, "app.toml", &shut);
    wait_until("the large one is drained", || {
        let before = large.requests().len();
        (0..4).for_each(|_| assert_eq!(atlas.get("/").status, 200));
        (large.requests().len() == before).then_some(())
    });
}

#[test]
fn a_file_that_is_wrong_at_the_start_is_an_error_of_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("app.json", "[\n  \"10.0.0.1\"\n]");
    write(
        "atlas.toml",
        "[listen]\naddress = \"127.0.0.1\"\nport = 80\ntls = false\n\n[[route]]\nupstream = \"app\"\n\n\
         [upstream.app]\nendpoints_file = \"app.json\"\n",
    );
    let check = |path: &Path| {
        let checked = std::process::Command::new(env!("CARGO_BIN_EXE_atlas"))
            .args(["check", "-c"])
            .arg(path)
            .output()
            .unwrap();
        String::from_utf8_lossy(&checked.stderr).into_owned() + &String::from_utf8_lossy(&checked.stdout)
    };
    let told = check(&folder.path().join("atlas.toml"));
    for part in [
        "atlas.toml:10:18",
        "app.json:2:3",
        "`10.0.0.1` has no port",
        "write the port behind it",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
}
