//! A fault in Atlas ends what it happens in, and nothing else.

use std::path::{Path, PathBuf};

use crate::support::{Atlas, Builder, atlas, command, has, wait_until};

const HELLO: &str = "[[route]]\nrespond = { status = 200, body = \"hello\" }";

const GET: &str = "GET /hit HTTP/1.1\r\nHost: a.test\r\n\r\n";

/// One worker whose clock is to fail; `None` where that cannot be had.
fn with_a_clock_that_fails(builder: Builder) -> Option<(Atlas, PathBuf)> {
    if !has("cc") {
        return None;
    }
    let (library, once) = (builder.folder().join("clock.so"), builder.folder().join("once"));
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/clock.c");
    let made = command(
        "cc",
        &["-O1", "-shared", "-fPIC", "-o", library.to_str()?, source],
        b"",
    );
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let atlas = builder
        .top("workers = 1")
        .by_way_of(&[
            "env",
            &format!("LD_PRELOAD={}", library.display()),
            &format!("CLOCK_FAILS_WITH={}", once.display()),
        ])
        .expects_log("a fault in Atlas")
        .start();
    Some((atlas, once))
}

/// Lets the clock fail when it is asked next, which is for what the test does next: all before has been recorded.
fn arm(atlas: &Atlas, once: &Path, exchanges: usize) {
    wait_until("all is recorded", || {
        let records = atlas.records();
        let all = records.iter().filter(|record| record["kind"] == "exchange");
        (all.count() == exchanges).then_some(())
    });
    std::fs::write(once, "").unwrap();
}

/// It was told, with where and how it came to that, and counted.
fn is_told(atlas: &Atlas, once: &Path) {
    assert!(!once.exists(), "the clock has failed");
    atlas.log_line(&["a fault in Atlas ended a connection"]);
    // The backtrace, a line for each call, then what the connection was.
    atlas.log_line(&["src/connection.rs"]);
    atlas.log_line(&["thread=\"worker-0\"", "client=Some(127.0.0.1"]);
    assert_eq!(atlas.metric("atlas_panics_total", &[]), 1.0);
}

#[test]
fn in_an_exchange_it_ends_that_connection_and_no_other() {
    let Some((atlas, once)) = with_a_clock_that_fails(atlas().listens_plain().text(HELLO)) else {
        return;
    };
    let (mut hit, mut other) = (atlas.connect(), atlas.connect());
    assert_eq!(hit.get("/").text(), "hello");
    assert_eq!(other.get("/").text(), "hello");
    arm(&atlas, &once, 2);
    hit.send(GET);
    assert_eq!(hit.read_to_end().0, b"", "no answer that nobody has made");
    assert_eq!(other.get("/").text(), "hello");
    assert_eq!(atlas.exchange("/hit")["cause"], "panicked");
    is_told(&atlas, &once);
}

#[test]
fn in_a_handshake_it_ends_that_connection_and_no_other() {
    let Some((atlas, once)) = with_a_clock_that_fails(atlas().listens_tls("a.test").text(HELLO)) else {
        return;
    };
    let mut other = atlas.connect();
    assert_eq!(other.get("/").text(), "hello");
    arm(&atlas, &once, 1);
    let hit = atlas.try_connect_to(0);
    let answer = hit.and_then(|mut hit| hit.try_send(GET).and_then(|()| hit.try_answer()));
    assert!(answer.is_err(), "its handshake is not finished");
    assert_eq!(other.get("/").text(), "hello");
    assert_eq!(atlas.get("/").text(), "hello");
    is_told(&atlas, &once);
}

#[test]
fn in_a_stream_it_ends_that_stream_and_no_other() {
    let Some((atlas, once)) = with_a_clock_that_fails(atlas().listens_tls("a.test").text(HELLO)) else {
        return;
    };
    let mut http2 = atlas.http2();
    assert_eq!(http2.get("/").status(), 200);
    arm(&atlas, &once, 1);
    assert_eq!(http2.get("/hit").reset, Some(2), "INTERNAL_ERROR");
    assert_eq!(http2.get("/").status(), 200);
    assert_eq!(atlas.exchange("/hit")["cause"], "panicked");
    is_told(&atlas, &once);
}
