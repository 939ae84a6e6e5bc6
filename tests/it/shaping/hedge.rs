//! A second attempt beside a first that is slow, and who of the two is heard.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::named;
use crate::support::{Atlas, Origin, Then, alone, atlas, has, origin, wait_until};

/// One that answers nothing until its client goes away.
fn silent() -> Origin {
    origin()
        .handles_all(|exchange| {
            exchange.wait_for_close();
            Ok(Then::Close)
        })
        .start()
}

/// Asks the endpoints in turn, the first one first.
fn hedged(endpoints: &[&str], retry: &str, lines: &str) -> Atlas {
    atlas()
        .top("workers = 1")
        .listens_plain()
        .text(&format!("[[route]]\nupstream = \"app\"\n[route.retry]\n{retry}"))
        .upstream("app", endpoints, &format!("balance = \"round_robin\"\n{lines}"))
        .expects_log("cannot connect")
        .expects_log("is ejected")
        .expects_log("has no `retry_budget`")
        .start()
}

const SOON: &str = "hedge_after = \"50ms\"";

fn lost(record: &Value) -> Vec<(&str, &str)> {
    let attempts = record["failed_attempts"].as_array();
    attempts
        .into_iter()
        .flatten()
        .map(|one| (one["endpoint"].as_str().unwrap(), one["cause"].as_str().unwrap()))
        .collect()
}

fn hedges(atlas: &Atlas) -> f64 {
    atlas.metric("atlas_upstream_retries_total", &["cause=\"hedged\""])
}

#[test]
fn where_the_first_is_slow_another_answers_and_the_first_is_let_go() {
    let _alone = alone();
    let (slow, fast) = (silent(), named("fast"));
    let atlas = hedged(&[slow.address(), fast.address()], SOON, "");
    let started = Instant::now();
    let answer = atlas.get("/x");
    assert_eq!((answer.status, answer.text()), (200, "fast".to_owned()));
    let took = started.elapsed();
    assert!((50..5000).contains(&took.as_millis()), "{took:?}");
    wait_until("the slow one is let go", || (slow.open() == 0).then_some(()));
    assert_eq!((slow.requests().len(), fast.requests().len()), (1, 1));
    assert_eq!(
        slow.requests()[0].head.field("x-request-id"),
        fast.requests()[0].head.field("x-request-id")
    );
    let record = atlas.exchange("/x");
    assert_eq!(
        (&record["endpoint"], &record["attempts"], &record["cause"]),
        (&fast.address().into(), &2.into(), &"finished".into()),
        "{record}"
    );
    assert_eq!(lost(&record), [(slow.address(), "hedged")]);
    assert_eq!(hedges(&atlas), 1.0);
}

#[test]
fn a_first_that_answers_in_time_is_alone() {
    let (one, other) = (named("one"), named("other"));
    let atlas = hedged(&[one.address(), other.address()], "hedge_after = \"30s\"", "");
    let mut client = atlas.connect();
    let answers: Vec<_> = (0..4).map(|_| client.get("/").text()).collect();
    assert_eq!(answers, ["one", "other", "one", "other"]);
    assert_eq!((one.accepted(), other.accepted()), (1, 1), "connections are kept");
    assert_eq!(hedges(&atlas), 0.0);
}

#[test]
fn a_first_that_is_faster_after_all_is_heard() {
    let silent = Arc::new(silent());
    let second = silent.clone();
    let late = origin()
        .handles_all(move |exchange| {
            wait_until("the second is asked", || second.requests().pop());
            exchange.answer(200, &[], b"late")
        })
        .start();
    let atlas = hedged(&[late.address(), silent.address()], SOON, "");
    assert_eq!(atlas.get("/x").text(), "late");
    wait_until("the second is let go", || (silent.open() == 0).then_some(()));
    assert_eq!(silent.requests().len(), 1);
    let record = atlas.exchange("/x");
    assert_eq!(record["endpoint"], late.address(), "{record}");
    assert_eq!(lost(&record), [(silent.address(), "hedged")]);
}

#[test]
fn what_cannot_be_done_twice_or_has_a_body_meets_one_endpoint() {
    let late = origin()
        .handles_all(|exchange| {
            exchange.read_body()?;
            std::thread::sleep(Duration::from_millis(200));
            exchange.answer(200, &[], b"late")
        })
        .start();
    let fast = named("fast");
    for (method, body, cookie) in [("POST", "", ""), ("PUT", "a body", ""), ("GET", "", "bound")] {
        let sticky = "sticky = { cookie = \"srv\", secret = \"0123456789abcdef\" }";
        let atlas = hedged(&[late.address(), fast.address()], SOON, sticky);
        let mut client = atlas.connect();
        let mut cookies = String::new();
        if !cookie.is_empty() {
            // The same secret and address give the same cookie.
            let alone = hedged(&[late.address()], SOON, sticky);
            let set = alone.get("/").field("set-cookie").unwrap().to_owned();
            cookies = set.split(';').next().unwrap().to_owned();
        }
        let fields: Vec<_> = Some(("Cookie", cookies.as_str()))
            .filter(|_| !cookies.is_empty())
            .into_iter()
            .collect();
        let answer = client.request(method, "/", &fields, body.as_bytes());
        assert_eq!(answer.text(), "late", "{method} {cookie}");
        assert_eq!(hedges(&atlas), 0.0);
    }
    assert!(fast.requests().is_empty());
}

#[test]
fn one_that_fails_is_not_heard_while_the_other_may_answer() {
    // Late enough for Atlas to know first that the other has failed, of which nothing tells.
    let late = || {
        origin()
            .handles_all(|exchange| {
                std::thread::sleep(Duration::from_secs(3));
                exchange.answer(200, &[], b"late")
            })
            .start()
    };
    let retry = "hedge_after = \"50ms\"\non = [\"connect\", \"reset\", 503]";
    // The second breaks off, refuses, or answers with a status that is tried again.
    let breaks = origin().sends("/", "", Then::Reset).start();
    let busy = origin()
        .handles_all(|exchange| exchange.answer(503, &[], b"busy"))
        .start();
    let nobody = format!("127.0.0.1:{}", crate::support::free_port());
    let scenes = [
        (breaks.address(), "reset"),
        (busy.address(), "bad_status"),
        (nobody.as_str(), "refused"),
    ];
    let scenes = scenes.map(|(second, cause)| {
        let late = late();
        let atlas = hedged(&[late.address(), second], retry, "");
        let mut client = atlas.connect();
        client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
        (second, cause, late, atlas, client)
    });
    for (second, cause, late, atlas, mut client) in scenes {
        let answer = client.answer();
        assert_eq!(
            (answer.status, answer.text()),
            (200, "late".to_owned()),
            "{cause}"
        );
        let record = atlas.exchange("/");
        assert_eq!(lost(&record), [(second, cause)], "{record}");
        assert_eq!(late.requests().len(), 1);
    }
    // The first breaks off while the second is at it.
    let breaks = origin()
        .handles_all(|_| {
            std::thread::sleep(Duration::from_millis(150));
            Ok(Then::Reset)
        })
        .start();
    let late = late();
    let atlas = hedged(&[breaks.address(), late.address()], retry, "");
    assert_eq!(atlas.get("/").text(), "late");
    let record = atlas.exchange("/");
    assert_eq!(lost(&record), [(breaks.address(), "reset")], "{record}");
    assert_eq!(
        (&record["endpoint"], &record["attempts"]),
        (&late.address().into(), &2.into())
    );
}

#[test]
fn where_both_fail_the_client_hears_of_it() {
    let breaks = || {
        origin()
            .handles_all(|_| {
                std::thread::sleep(Duration::from_millis(200));
                Ok(Then::Reset)
            })
            .start()
    };
    let (one, other) = (breaks(), breaks());
    let atlas = hedged(&[one.address(), other.address()], SOON, "");
    let answer = atlas.get("/x");
    assert_eq!(answer.status, 502);
    let record = atlas.exchange("/x");
    assert_eq!(
        (&record["side"], &record["cause"]),
        (&"upstream".into(), &"reset".into()),
        "{record}"
    );
    assert_eq!((one.requests().len(), other.requests().len()), (1, 1));
}

#[test]
fn without_room_in_the_budget_the_first_is_waited_for() {
    let late = origin()
        .handles_all(|exchange| {
            std::thread::sleep(Duration::from_millis(200));
            exchange.answer(200, &[], b"late")
        })
        .start();
    let fast = named("fast");
    let atlas = hedged(&[late.address(), fast.address()], SOON, "retry_budget = 0");
    assert_eq!(atlas.get("/").text(), "late");
    assert!(fast.requests().is_empty());
}

#[test]
fn a_client_that_goes_away_ends_both() {
    let (one, other) = (silent(), silent());
    let atlas = hedged(&[one.address(), other.address()], SOON, "");
    let mut client = atlas.connect();
    client.send("GET /gone HTTP/1.1\r\nHost: a.test\r\n\r\n");
    wait_until("both are asked", || {
        (one.requests().len() + other.requests().len() == 2).then_some(())
    });
    client.reset();
    wait_until("both are let go", || {
        (one.open() + other.open() == 0).then_some(())
    });
    let record = atlas.exchange("/gone");
    assert_eq!(
        (&record["side"], &record["status"]),
        (&"downstream".into(), &499.into()),
        "{record}"
    );
}

#[test]
fn streams_of_http2_are_hedged_and_the_loser_is_reset() {
    if !has("h2load") {
        return;
    }
    let (slow, fast) = (silent(), named("fast"));
    let behind = |origin: &Origin| {
        atlas()
            .top("workers = 1")
            .listens_plain()
            .forwards_to(origin)
            .start()
    };
    let (slow_behind, fast_behind) = (behind(&slow), behind(&fast));
    let addresses = [
        slow_behind.address().to_string(),
        fast_behind.address().to_string(),
    ];
    let endpoints = [addresses[0].as_str(), addresses[1].as_str()];
    let atlas = hedged(&endpoints, SOON, "http2 = true\nretry_budget = 100");
    let url = atlas.url("/");
    let words = ["-n", "20", "-c", "1", "-m", "4", "-p", "h2c", &url];
    let output = crate::support::command("h2load", &words, b"");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("20 2xx"), "{said}");
    assert_eq!(fast.requests().len(), 20);
    let count = slow.requests().len();
    assert!(
        (1..=20).contains(&count) && hedges(&atlas) >= count as f64,
        "{count}"
    );
    // Streams are cancelled on a connection that goes on.
    wait_until("what was slow is let go", || (slow.open() == 0).then_some(()));
    let opened = atlas.metric("atlas_upstream_connections_total", &["source=\"new\""]);
    assert!(opened <= 2.0, "{opened} connections");
}
