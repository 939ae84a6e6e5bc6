//! How much may be under way with an upstream at a time, and what those beyond are told.

use crate::support::{Atlas, Connection, Origin, Then, atlas, has, origin, wait_until};

/// One that answers `/hold` once the client goes away, and everything else at once.
fn holding() -> Origin {
    origin()
        .handles("/hold", |exchange| {
            exchange.wait_for_close();
            Ok(Then::Close)
        })
        .start()
}

fn bounded(origin: &Origin, lines: &str) -> Atlas {
    atlas()
        .top("workers = 1")
        .listens_plain()
        .forwards_to_with(origin, lines)
        .start()
}

fn hold(atlas: &Atlas, origin: &Origin) -> Connection {
    let before = origin.requests().len();
    let mut client = atlas.connect();
    client.send("GET /hold HTTP/1.1\r\nHost: a.test\r\n\r\n");
    wait_until("it is under way", || {
        (origin.requests().len() > before).then_some(())
    });
    client
}

fn refusals(atlas: &Atlas) -> f64 {
    atlas.metric("atlas_upstream_refusals_total", &["cause=\"requests_full\""])
}

#[test]
fn a_request_beyond_the_bound_gets_503_at_once_and_the_next_goes_through() {
    let origin = holding();
    let atlas = bounded(&origin, "requests_max = 2");
    let held = [hold(&atlas, &origin), hold(&atlas, &origin)];
    let refused = atlas.get("/refused");
    assert_eq!((refused.status, refused.field("retry-after")), (503, Some("1")));
    let told = refused.field("proxy-status").unwrap();
    assert!(told.ends_with("details=\"upstream_requests_full\""), "{told}");
    let record = atlas.exchange("/refused");
    assert_eq!(
        (&record["side"], &record["phase"], &record["cause"]),
        (&"atlas".into(), &"connect".into(), &"requests_full".into()),
        "{record}"
    );
    assert!(
        record["upstream"].is_string() && record.get("endpoint").is_none(),
        "{record}"
    );
    assert_eq!(refusals(&atlas), 1.0);
    assert!(origin.requests().iter().all(|seen| seen.head.word(1) == "/hold"));
    let [first, _second] = held;
    first.reset();
    wait_until("there is room", || {
        (atlas.get("/next").status == 200).then_some(())
    });
    assert_eq!(atlas.get("/next").status, 200);
}

#[test]
fn what_is_under_way_counts_on_after_a_reload() {
    let origin = holding();
    let atlas = bounded(&origin, "requests_max = 2");
    let held = [hold(&atlas, &origin), hold(&atlas, &origin)];
    // An upstream with other settings is a new one.
    atlas.rewrite(|text| text.replace("requests_max = 2", "requests_max = 2\nidle_timeout = \"50s\""));
    atlas.reload();
    assert_eq!(atlas.get("/refused").status, 503);
    held.into_iter().for_each(Connection::reset);
    wait_until("there is room", || {
        (atlas.get("/next").status == 200).then_some(())
    });
}

#[test]
fn those_that_wait_for_an_endpoint_count() {
    let origin = holding();
    let endpoint = format!(
        "[[route]]\nupstream = \"app\"\n[upstream.app]\nrequests_max = 2\nqueue_timeout = \"60s\"\nendpoints = [{{ address = {:?}, connections_max = 1 }}]",
        origin.address()
    );
    let atlas = atlas().top("workers = 1").listens_plain().text(&endpoint).start();
    let held = hold(&atlas, &origin);
    let mut waits = atlas.connect();
    waits.send("GET /waits HTTP/1.1\r\nHost: a.test\r\n\r\n");
    wait_until("it waits", || {
        (atlas.metric("atlas_upstream_queue_length", &[]) == 1.0).then_some(())
    });
    assert_eq!(atlas.get("/refused").status, 503);
    held.reset();
    assert_eq!(waits.answer().status, 200);
}

#[test]
fn streams_of_http2_count_each() {
    if !has("h2load") {
        return;
    }
    let origin = holding();
    let atlas = bounded(&origin, "requests_max = 1");
    let held = hold(&atlas, &origin);
    let url = atlas.url("/");
    let load = || {
        let words = ["-n", "20", "-c", "1", "-m", "5", "-p", "h2c", &url];
        let output = crate::support::command("h2load", &words, b"");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let said = load();
    assert!(said.contains("0 2xx, 0 3xx, 0 4xx, 20 5xx"), "{said}");
    assert_eq!(refusals(&atlas), 20.0);
    held.reset();
    wait_until("there is room", || (atlas.get("/").status == 200).then_some(()));
}

#[test]
fn a_connection_in_tcp_mode_beyond_the_bound_is_reset() {
    let origin = holding();
    let atlas = atlas()
        .top("workers = 1")
        .listener(false, "mode = \"tcp\"\nupstream = \"app\"\n")
        .upstream("app", &[origin.address()], "requests_max = 1")
        .start();
    let mut first = atlas.connect();
    assert_eq!(first.get("/first").status, 200);
    let mut second = atlas.connect();
    assert!(second.try_answer().is_err());
    atlas.record("a refusal", |record| record["cause"] == "requests_full");
    assert_eq!(refusals(&atlas), 1.0);
    assert_eq!(first.get("/first").status, 200);
    drop(first);
    wait_until("there is room", || {
        let mut next = atlas.connect();
        next.try_send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").ok()?;
        next.try_answer().ok()
    });
    assert_eq!(origin.accepted(), 2);
}
