//! Connections to endpoints that are kept: how long, and what is told of them.

use std::io::{Read, Write};

use rustix::net::sockopt::set_tcp_cork;

use crate::support::origin::Stream;
use crate::support::*;

#[test]
fn a_connection_that_is_too_old_takes_no_request() {
    let origin = origin().start();
    let atlas = atlas()
        .top("workers = 1")
        .listens_plain()
        .forwards_to_with(&origin, "pool_lifetime = \"5s\"\npool_idle_timeout = \"10m\"")
        .start();
    let mut requests = 0;
    wait_until("another connection is made", || {
        assert_eq!(atlas.get("/").status, 200);
        requests += 1;
        (origin.accepted() == 2).then_some(())
    });
    assert!(requests > 2, "it is used until then");
    wait_until("the old one is closed", || (origin.open() <= 1).then_some(()));
    // Nobody asks: it is closed all the same, long before it has been idle for too long.
    wait_until("the idle one is closed", || (origin.open() == 0).then_some(()));
}

#[test]
fn a_connection_of_http2_that_is_too_old_finishes_what_it_has() {
    let origin = origin().start();
    let endpoint = atlas().listens_plain().forwards_to(&origin).start();
    let atlas = atlas()
        .top("workers = 1")
        .listens_plain()
        .text("[[route]]\nupstream = \"app\"")
        .upstream(
            "app",
            &[&endpoint.address().to_string()],
            "http2 = true\npool_lifetime = \"1s\"",
        )
        .start();
    let connections = || endpoint.metric("atlas_downstream_connections_total", &[]);
    wait_until("a third connection is made", || {
        assert_eq!(atlas.get("/").status, 200);
        (connections() == 3.0).then_some(())
    });
    wait_until("those before are closed", || {
        (endpoint.metric("atlas_downstream_connections_open", &[]) <= 1.0).then_some(())
    });
}

#[test]
fn each_endpoint_and_each_workers_reuse_are_told() {
    let (one, other) = (origin().start(), origin().start());
    let atlas = atlas()
        .top("workers = 1")
        .listens_plain()
        .text("[[route]]\nupstream = \"app\"")
        .upstream(
            "app",
            &[one.address(), other.address()],
            "balance = \"round_robin\"",
        )
        .start();
    for _ in 0..20 {
        assert_eq!(atlas.get("/").status, 200);
    }
    let of = |name: &str, origin: &Origin, label: &str| {
        atlas.metric(
            name,
            &[
                "upstream=\"app\"",
                &format!("endpoint={:?}", origin.address()),
                label,
            ],
        )
    };
    for origin in [&one, &other] {
        wait_until("none of its requests is under way", || {
            (of("atlas_endpoint_requests_open", origin, "") == 0.0).then_some(())
        });
        assert_eq!(of("atlas_endpoint_requests_total", origin, "new"), 1.0);
        assert_eq!(of("atlas_endpoint_requests_total", origin, "reused"), 9.0);
        assert_eq!(of("atlas_endpoint_ejected", origin, ""), 0.0);
        wait_until("its idle connection is seen", || {
            (of("atlas_endpoint_connections_idle", origin, "") == 1.0).then_some(())
        });
    }
    let reused = atlas.metric(
        "atlas_worker_upstream_connections_total",
        &["worker=\"0\"", "reused"],
    );
    let ratio = atlas.metric("atlas_worker_upstream_reuse_ratio", &["worker=\"0\""]);
    assert_eq!((reused, ratio), (18.0, 0.9));
    // One that goes is told no more; the counts of one that stays go on through a reload.
    atlas.rewrite(|text| text.replace(&format!(", {:?}", other.address()), ""));
    atlas.reload();
    assert_eq!(of("atlas_endpoint_requests_total", &other, ""), 0.0);
    assert_eq!(atlas.get("/").status, 200);
    assert_eq!(of("atlas_endpoint_requests_total", &one, ""), 11.0);
    assert_eq!(one.accepted(), 1, "its connection went on");
}

const SURPLUS: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";

/// TLS may have opened more than was asked for, which no look at the socket shows: taken for the response to the
/// next request, it could be an answer of the endpoint's choice to somebody else's.
#[test]
fn what_comes_behind_a_response_is_not_taken_for_the_next_one() {
    let tls = |more: &str| format!("tls = {{ ca = \"ca.pem\", server_name = \"inner.test\"{more} }}");
    for lines in [String::new(), tls(""), tls(", prefer_ktls = false")] {
        for size in [4, 8_000, 16_384, 16_385, 100_000] {
            let origin = match lines.is_empty() {
                true => origin(),
                false => origin().tls(cert(&["inner.test"])),
            };
            let origin = origin.raw(move |stream| answer_too_much(stream, size)).start();
            let atlas = atlas()
                .top("workers = 1")
                .file("ca.pem", ca().pem())
                .listens_plain()
                .text("[[route]]\nupstream = \"app\"")
                .upstream("app", &[origin.address()], &lines)
                .start();
            for _ in 0..3 {
                let answer = atlas.get("/");
                assert_eq!((answer.status, answer.body.len()), (200, size), "{lines}");
            }
            assert_eq!(origin.accepted(), 3, "{lines}, {size} bytes");
        }
    }
}

/// Answers each request, and adds an answer that nobody has asked for, in records of their own that come together.
fn answer_too_much(mut stream: Stream, size: usize) {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n");
    let body = vec![b'a'; size];
    let mut request = Vec::new();
    let mut byte = [0];
    while matches!(stream.read(&mut byte), Ok(1)) {
        request.push(byte[0]);
        if request.ends_with(b"\r\n\r\n") {
            request.clear();
            set_tcp_cork(stream.tcp(), true).unwrap();
            for piece in [head.as_bytes(), &body, SURPLUS] {
                if stream.write_all(piece).is_err() {
                    return;
                }
            }
            set_tcp_cork(stream.tcp(), false).unwrap();
        }
    }
}
