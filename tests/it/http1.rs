//! HTTP/1.1 as a conversation: what is kept, what waits, what streams.

use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use crate::support::{Then, atlas, origin, wait_until};

#[test]
fn a_connection_serves_one_request_after_another() {
    let origin = origin().answers("/a", "one").answers("/b", "two").start();
    let atlas = atlas()
        .top("workers = 1")
        .listens_tls("a.test")
        .forwards_to(&origin)
        .start();
    let mut client = atlas.connect();
    for _ in 0..50 {
        assert_eq!(client.get("/a").text(), "one");
        assert_eq!(client.get("/b").text(), "two");
    }
    assert_eq!(origin.accepted(), 1, "the origin's connection is used again");
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let origin = origin()
        .handles("/slow", |exchange| {
            std::thread::sleep(Duration::from_millis(200));
            exchange.answer(200, &[], b"slow")
        })
        .answers("/quick", "quick")
        .start();
    let atlas = atlas().listens_tls("a.test").forwards_to(&origin).start();
    let mut client = atlas.connect();
    let one = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n");
    client.send([one("/slow"), one("/quick"), one("/slow"), one("/quick")].concat());
    for expected in ["slow", "quick", "slow", "quick"] {
        assert_eq!(client.answer().text(), expected);
    }
}

#[test]
fn a_head_may_come_byte_by_byte() {
    let origin = origin().answers("/", "hello").start();
    let atlas = atlas().listens_plain().forwards_to(&origin).start();
    let mut client = atlas.connect();
    for byte in
        b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n"
    {
        client.send([*byte]);
    }
    assert_eq!(client.answer().text(), "hello");
    assert_eq!(origin.request().body, b"abc");
}

#[test]
fn expect_100_continue_is_passed_through() {
    let origin = origin()
        .handles("/yes", |exchange| {
            assert_eq!(exchange.head.field("expect"), Some("100-continue"));
            exchange.send("HTTP/1.1 100 Continue\r\n\r\n")?;
            let seen = exchange.read_body()?;
            assert_eq!(seen.body, b"hello");
            exchange.answer(200, &[], b"thanks")
        })
        .sends("/no", "", Then::Keep)
        .handles("/no", |exchange| {
            exchange.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")?;
            Ok(Then::Close)
        })
        .start();
    let atlas = atlas().listens_tls("a.test").forwards_to(&origin).start();
    let head = |path: &str| {
        format!("POST {path} HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
    };
    let mut client = atlas.connect();
    client.send(head("/yes"));
    assert_eq!(
        client.head().unwrap().word(1),
        "100",
        "before any byte of the body"
    );
    assert_eq!(client.send("hello").answer().text(), "thanks");
    let mut client = atlas.connect();
    let answer = client.send(head("/no")).answer();
    assert_eq!((answer.status, answer.text().as_str()), (403, "no"));
    assert!(answer.informational.is_empty());
}

#[test]
fn informational_responses_are_forwarded() {
    let origin = origin()
        .handles("/", |exchange| {
            exchange.read_body()?;
            exchange.send("HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n")?;
            exchange.send("HTTP/1.1 102 Processing\r\n\r\n")?;
            exchange.answer(200, &[], b"done")
        })
        .start();
    let atlas = atlas().listens_tls("a.test").forwards_to(&origin).start();
    let answer = atlas.get("/");
    let words: Vec<_> = answer.informational.iter().map(|head| head.word(1)).collect();
    assert_eq!((words, answer.text().as_str()), (vec!["103", "102"], "done"));
    assert_eq!(
        answer.informational[0].field("link"),
        Some("</a.css>; rel=preload")
    );
    // RFC 9110 §15.2: none of them to a client of HTTP/1.0.
    let answer = atlas.send("GET / HTTP/1.0\r\nHost: a.test\r\n\r\n");
    assert!(answer.informational.is_empty());
}

#[test]
fn trailers_go_both_ways() {
    let origin = origin()
        .handles("/", |exchange| {
            exchange.read_body()?;
            exchange.send(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
                 2\r\nhi\r\n0\r\nX-Sum: 42\r\n\r\n",
            )?;
            Ok(Then::Keep)
        })
        .start();
    let atlas = atlas().listens_tls("a.test").forwards_to(&origin).start();
    let mut client = atlas.connect();
    client.send(
        "POST / HTTP/1.1\r\nHost: a.test\r\nTE: trailers\r\nConnection: TE\r\nTransfer-Encoding: chunked\r\n\r\n\
         5\r\nhello\r\n0\r\nX-Mine: 7\r\n\r\n",
    );
    let answer = client.answer();
    assert_eq!(answer.text(), "hi");
    assert_eq!(answer.trailers, [("X-Sum".to_owned(), "42".to_owned())]);
    assert_eq!(origin.request().trailers, [("X-Mine".to_owned(), "7".to_owned())]);
}

#[test]
fn a_body_of_unknown_length_is_framed_for_who_gets_it() {
    let origin = origin()
        .sends("/", "HTTP/1.1 200 OK\r\n\r\nuntil the close", Then::Close)
        .start();
    let atlas = atlas().listens_tls("a.test").forwards_to(&origin).start();
    let mut client = atlas.connect();
    let answer = client.get("/");
    assert_eq!(answer.text(), "until the close");
    assert_eq!(answer.field("transfer-encoding"), Some("chunked"));
    assert_eq!(client.get("/").status, 200, "the client's connection goes on");
    let answer = atlas.send("GET / HTTP/1.0\r\nHost: a.test\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(
        (answer.text().as_str(), answer.field("transfer-encoding")),
        ("until the close", None)
    );
}

#[test]
fn bodies_stream_in_both_directions_at_once() {
    // Each piece is sent only when the one before has come back, so nothing may be held.
    let origin = origin()
        .handles("/", |exchange| {
            exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")?;
            let mut left = 1000;
            while left > 0 {
                let count = exchange.read_some()?;
                exchange.send(vec![b'x'; count])?;
                left -= count;
            }
            Ok(Then::Keep)
        })
        .start();
    for tls in [false, true] {
        let atlas = atlas().listens(tls).forwards_to(&origin).start();
        let mut client = atlas.connect();
        client.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1000\r\n\r\n");
        assert_eq!(client.head().unwrap().word(1), "200");
        for _ in 0..10 {
            client.send([b'y'; 100]);
            assert_eq!(client.read_exactly(100), [b'x'; 100]);
        }
        assert_eq!(atlas.connect().get("/other").status, 200);
    }
}

#[test]
fn an_idle_connection_is_closed_in_order() {
    let origin = origin().start();
    let atlas = atlas()
        .listens_tls("a.test")
        .forwards_to(&origin)
        .text("[timeouts]\nidle = \"3s\"")
        .start();
    let mut client = atlas.connect();
    let started = Instant::now();
    client.get("/");
    assert_eq!(client.ends().0, crate::support::Ending::Closed);
    let after = started.elapsed();
    assert!(
        after >= Duration::from_millis(2_900) && after < Duration::from_secs(15),
        "{after:?}"
    );
    let record = atlas.record("its connection", |record| record["kind"] == "connection");
    assert_eq!(record["cause"], "idle", "{record}");
}

#[test]
fn a_response_head_is_answered_before_its_body_comes() {
    let has_head = Arc::new(Barrier::new(2));
    let waits = has_head.clone();
    let origin = origin()
        .handles("/", move |exchange| {
            exchange.read_body()?;
            exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n")?;
            waits.wait();
            exchange.send("late")?;
            Ok(Then::Keep)
        })
        .start();
    let atlas = atlas().listens_tls("a.test").forwards_to(&origin).start();
    let mut client = atlas.connect();
    client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    assert_eq!(client.head().unwrap().word(1), "200");
    has_head.wait();
    assert_eq!(client.read_exactly(4), b"late");
}

#[test]
fn the_origins_fields_arrive_as_they_are() {
    let origin = origin()
        .handles("/", |exchange| {
            exchange.answer(
                200,
                &[
                    ("Set-Cookie", "a=1"),
                    ("X-Empty", ""),
                    ("Set-Cookie", "b=2"),
                    ("Server", "mine"),
                ],
                b"",
            )
        })
        .start();
    let atlas = atlas().listens_tls("a.test").forwards_to(&origin).start();
    let answer = atlas.get("/");
    assert_eq!(answer.head.all("set-cookie"), ["a=1", "b=2"]);
    assert_eq!(
        (answer.field("x-empty"), answer.field("server")),
        (Some(""), Some("mine"))
    );
    wait_until("its record", || {
        atlas.records().iter().find(|r| r["kind"] == "exchange").map(drop)
    });
}
