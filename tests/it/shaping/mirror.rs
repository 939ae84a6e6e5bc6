//! Requests that are sent to another upstream as well, and clients who notice nothing of it.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::named;
use crate::support::{Atlas, Builder, Origin, Then, atlas, free_port, has, origin, wait_until};

fn mirrored(builder: Builder, origin: &Origin, shadow: &str, said: &str, lines: &str) -> Atlas {
    builder
        .text(&format!(
            "[[route]]\nupstream = \"app\"\nmirror = {{ upstream = \"shadow\", {said} }}"
        ))
        .upstream("app", &[origin.address()], "")
        .upstream("shadow", &[shadow], lines)
        .expects_log("cannot connect")
        .start()
}

fn plain(origin: &Origin, shadow: &Origin, said: &str) -> Atlas {
    mirrored(atlas().listens_plain(), origin, shadow.address(), said, "")
}

fn results(atlas: &Atlas, result: &str, count: f64) {
    let label = format!("result={result:?}");
    wait_until(&format!("{count} are {result}"), || {
        let labels = ["upstream=\"shadow\"", &label];
        (atlas.metric("atlas_upstream_mirrored_total", &labels) == count).then_some(())
    });
}

fn record_of(atlas: &Atlas, path: &str) -> Value {
    atlas.record(path, |record| {
        record["kind"] == "mirror" && record["path"] == path
    })
}

#[test]
fn both_get_the_request_and_the_client_one_answer() {
    let (app, shadow) = (named("app"), named("a shadow's, and longer"));
    let atlas = plain(&app, &shadow, "percent = 100");
    let mut client = atlas.connect();
    let fields = [("X-Told", "yes"), ("Expect", "100-continue"), ("Cookie", "a=b")];
    assert_eq!(client.get("/get?a=b").text(), "app");
    results(&atlas, "finished", 1.0);
    let answer = client.request("POST", "/post?x", &fields, b"a body");
    assert_eq!((answer.status, answer.text()), (200, "app".to_owned()));
    results(&atlas, "finished", 2.0);
    let mut seen = shadow.requests();
    seen.sort_by_key(|seen| seen.head.word(1).to_owned());
    let summaries: Vec<_> = seen.iter().map(|seen| seen.summary()).collect();
    assert_eq!(summaries, ["GET /get?a=b", "POST /post?x a body"]);
    let of_app = app.requests().pop().unwrap();
    for name in [
        "host",
        "x-told",
        "cookie",
        "x-forwarded-for",
        "x-request-id",
        "via",
    ] {
        assert!(of_app.head.field(name).is_some(), "{name}");
        assert_eq!(seen[1].head.field(name), of_app.head.field(name), "{name}");
    }
    assert_eq!(seen[1].head.field("expect"), None);
    let (record, mirror) = (atlas.exchange("/post?x"), record_of(&atlas, "/post?x"));
    assert_eq!(record["request_id"], mirror["request_id"]);
    assert_eq!(
        (&record["upstream"], &mirror["upstream"], &mirror["endpoint"]),
        (&"app".into(), &"shadow".into(), &shadow.address().into())
    );
    assert_eq!(
        (
            &mirror["status"],
            &mirror["bytes_in"],
            &mirror["bytes_out"],
            &mirror["cause"]
        ),
        (&200.into(), &6.into(), &22.into(), &"finished".into()),
        "{mirror}"
    );
    assert_eq!(atlas.metric("atlas_responses_total", &["class=\"2xx\""]), 2.0);
    assert_eq!(shadow.accepted(), 1, "its connections are kept, too");
}

#[test]
fn a_share_of_the_requests_is_mirrored() {
    let (app, shadow) = (named("app"), named("shadow"));
    let atlas = plain(&app, &shadow, "percent = 20");
    let mut client = atlas.connect();
    for _ in 0..300 {
        assert_eq!(client.get("/").text(), "app");
    }
    let count = shadow.requests().len();
    assert!(count.abs_diff(60) <= 35, "five standard deviations: {count}");
}

#[test]
fn a_mirror_that_hangs_fails_or_is_not_there_is_nothing_to_the_client() {
    let app = named("app");
    let hangs = origin()
        .handles_all(|exchange| {
            exchange.wait_for_close();
            Ok(Then::Close)
        })
        .start();
    let breaks = origin()
        .sends("/", "HTTP/1.1 200 OK\r\nContent-Le", Then::Reset)
        .start();
    let fails = origin()
        .handles_all(|exchange| exchange.answer(500, &[("Set-Cookie", "shadow=1")], b"no"))
        .start();
    let nobody = format!("127.0.0.1:{}", free_port());
    for (shadow, result, cause) in [
        (hangs.address(), "failed", "timed_out"),
        (breaks.address(), "failed", "reset"),
        (fails.address(), "finished", "finished"),
        (&nobody, "failed", "refused"),
    ] {
        let builder = atlas().listens_plain();
        let atlas = mirrored(builder, &app, shadow, "timeout = \"10s\"", "outliers = false");
        let started = Instant::now();
        let answer = atlas.get("/");
        assert_eq!((answer.status, answer.text()), (200, "app".to_owned()));
        assert_eq!(answer.field("set-cookie"), None);
        assert!(
            started.elapsed() < Duration::from_secs(9),
            "it waited for {cause}"
        );
        results(&atlas, result, 1.0);
        let mirror = record_of(&atlas, "/");
        assert_eq!(mirror["cause"], cause, "{mirror}");
        assert_eq!(atlas.exchange("/")["cause"], "finished");
    }
}

#[test]
fn what_is_too_long_or_never_whole_is_left_out_and_counted() {
    let (app, shadow) = (named("app"), named("shadow"));
    let atlas = plain(&app, &shadow, "body = \"1KiB\"");
    let mut client = atlas.connect();
    assert_eq!(client.request("POST", "/1", &[], &[b'x'; 1024]).status, 200);
    results(&atlas, "finished", 1.0);
    assert_eq!(client.request("POST", "/2", &[], &[b'x'; 1025]).status, 200);
    results(&atlas, "too_long", 1.0);
    let chunked = |body: &str| {
        let head = "POST /3 HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n";
        format!("{head}{:x}\r\n{body}\r\n0\r\n\r\n", body.len())
    };
    assert_eq!(client.send(chunked(&"x".repeat(1025))).answer().status, 200);
    results(&atlas, "too_long", 2.0);
    assert_eq!(client.send(chunked("short")).answer().status, 200);
    results(&atlas, "finished", 2.0);
    let mut gone = atlas.connect();
    gone.send("POST /4 HTTP/1.1\r\nHost: a.test\r\nContent-Length: 9\r\n\r\nx");
    wait_until("it is under way", || {
        app.requests()
            .iter()
            .any(|seen| seen.head.word(1) == "/4")
            .then_some(())
    });
    gone.reset();
    results(&atlas, "incomplete", 1.0);
    let seen: Vec<_> = shadow.requests().iter().map(|seen| seen.body_bytes).collect();
    assert_eq!(seen, [1024, 5]);
}

#[test]
fn a_long_body_for_the_mirror_is_whole_though_pipes_would_do() {
    let (app, shadow) = (named("app"), named("shadow"));
    let atlas = plain(&app, &shadow, "body = \"1MiB\"");
    let body = crate::support::noise(700_000);
    assert_eq!(atlas.connect().request("PUT", "/", &[], &body).status, 200);
    results(&atlas, "finished", 1.0);
    let digest = crate::support::Digest::of(&body);
    assert_eq!(
        (app.request().sha256, shadow.request().sha256),
        (digest.clone(), digest)
    );
}

#[test]
fn no_more_are_under_way_than_may() {
    let app = named("app");
    let hangs = origin()
        .handles_all(|exchange| {
            exchange.wait_for_close();
            Ok(Then::Close)
        })
        .start();
    let builder = atlas().top("workers = 1").listens_plain();
    let atlas = mirrored(builder, &app, hangs.address(), "timeout = \"1m\"", "");
    let mut client = atlas.connect();
    for _ in 0..260 {
        assert_eq!(client.get("/").status, 200);
    }
    results(&atlas, "too_many", 4.0);
    wait_until("256 are under way", || {
        (hangs.requests().len() == 256).then_some(())
    });
    // All of them are cut with the idle connections.
    drop(client);
    let started = Instant::now();
    assert_eq!(atlas.stop(), 0);
    assert!(
        started.elapsed() < Duration::from_secs(15),
        "the drain waited for the mirror"
    );
    let cut = atlas.records().into_iter().filter(|one| one["kind"] == "mirror");
    assert!(cut.clone().all(|one| one["cause"] == "cut"));
    assert_eq!(cut.count(), 256);
}

#[test]
fn bodies_that_are_to_come_hold_half_of_the_places_and_leave_the_others() {
    let (app, shadow) = (named("app"), named("shadow"));
    let builder = atlas()
        .top("workers = 1")
        .listens_plain()
        .text("[limits]\nmin_rate = \"0B\"\n[timeouts]\nbody = \"5m\"");
    let atlas = mirrored(builder, &app, shadow.address(), "timeout = \"5m\"", "");
    let uploads = (0..132).map(|_| {
        let mut client = atlas.connect();
        client.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\n\r\nh");
        client
    });
    let uploads: Vec<_> = uploads.collect();
    results(&atlas, "too_many", 4.0);
    assert_eq!(atlas.get("/").status, 200);
    results(&atlas, "finished", 1.0);
    for mut client in uploads {
        assert_eq!(client.send("i").answer().status, 200);
    }
    results(&atlas, "finished", 129.0);
    assert_eq!(shadow.requests().len(), 129);
}

#[test]
fn requests_of_http2_are_mirrored_over_http2() {
    if !has("h2load") {
        return;
    }
    let (app, near) = (named("app"), named("shadow"));
    let behind = atlas().listens_plain().forwards_to(&near).start();
    let shadow = behind.address().to_string();
    let atlas = mirrored(
        atlas().listens_plain(),
        &app,
        &shadow,
        "percent = 100",
        "http2 = true",
    );
    let data = atlas.folder().join("body");
    std::fs::write(&data, "a body").unwrap();
    let data = data.display().to_string();
    let url = atlas.url("/");
    let words = ["-n", "40", "-c", "1", "-m", "8", "-p", "h2c", "-d", &data, &url];
    let output = crate::support::command("h2load", &words, b"");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("40 2xx"), "{said}");
    results(&atlas, "finished", 40.0);
    assert!(
        near.requests()
            .iter()
            .all(|seen| seen.summary() == "POST / a body")
    );
    assert_eq!(near.requests().len(), 40);
    wait_until("all of them are counted", || {
        let count = behind.metric("atlas_requests_total", &["protocol=\"HTTP/2.0\""]);
        (count == 40.0).then_some(())
    });
}

#[test]
fn the_combined_log_tells_of_clients_only() {
    let (app, shadow) = (named("app"), named("shadow"));
    let builder = atlas().listens_plain().log_format("combined");
    let atlas = mirrored(builder, &app, shadow.address(), "percent = 100", "");
    assert_eq!(atlas.get("/").status, 200);
    results(&atlas, "finished", 1.0);
    assert_eq!(atlas.stop(), 0);
    assert_eq!(atlas.access_log().len(), 1, "{:?}", atlas.access_log());
}
