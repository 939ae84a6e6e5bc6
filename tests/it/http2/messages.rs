//! Requests and responses: what they say at the origin and at the client, and what is added.

use crate::guest;
use crate::support::frames::*;
use crate::support::{Atlas, Origin, Then, atlas, carrier, origin, wait_until};

fn proxy(origin: &Origin) -> Atlas {
    atlas().listens_tls("a.test").forwards_to(origin).start()
}

#[test]
fn a_request_reaches_an_origin_as_one_of_http_1() {
    let origin = origin().start();
    let atlas = proxy(&origin);
    let mut http2 = atlas.http2();
    let more = [
        ("accept", "*/*"),
        ("cookie", "a=1"),
        ("x-more", "one"),
        ("cookie", "b=2; c=3"),
        ("te", "trailers"),
        ("priority", "u=1, i"),
    ];
    let stream = http2.begin(&get("/page?q=%20", &more), true);
    let got = http2.answer(stream);
    assert_eq!((got.status(), got.text()), (200, "ok".to_owned()));
    let seen = origin.request().head;
    assert_eq!(seen.start, "GET /page?q=%20 HTTP/1.1");
    for (name, value) in [
        ("host", "a.test"),
        ("accept", "*/*"),
        ("cookie", "a=1; b=2; c=3"),
        ("x-more", "one"),
        ("te", "trailers"),
        ("priority", "u=1, i"),
        ("via", "2.0 atlas"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "a.test"),
    ] {
        assert_eq!(seen.all(name), [value], "{name}");
    }
    let record = atlas.exchange("/page?q=%20");
    assert_eq!(
        (&record["protocol"], &record["status"]),
        (&"HTTP/2.0".into(), &200.into()),
        "{record}"
    );
    assert_eq!(record["alpn"], "h2");
    // Whatever else would be done for a connection with so large a body.
    let refusal = match carrier::lines().contains("prefer_ktls = false") {
        true => "not_preferred",
        false => guest::refusal_of_this_kernel().unwrap_or("http2"),
    };
    assert_eq!(
        (&record["carrier"], &record["refusal"]),
        (&"process".into(), &refusal.into()),
        "{record}"
    );
    let protocol = "protocol=\"HTTP/2.0\"";
    assert!((atlas.metric("atlas_requests_total", &[protocol]) - 1.0).abs() < f64::EPSILON);
}

#[test]
fn a_response_loses_what_belongs_to_its_connection() {
    let origin = origin()
        .sends(
            "/fields",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\n\
             Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nX-Upper-Case: Stays\r\n\r\nok",
            Then::Close,
        )
        .start();
    let atlas = proxy(&origin);
    let got = atlas.http2().get("/fields");
    assert_eq!((got.status(), got.text()), (200, "ok".to_owned()));
    for name in ["connection", "x-hop", "keep-alive"] {
        assert_eq!(got.field(name), None);
    }
    assert_eq!(got.field("x-upper-case"), Some("Stays"));
    assert_eq!(got.field("content-length"), Some("2"));
    assert_eq!(got.field("via"), Some("1.1 atlas"));
    assert!(got.field("date").is_some());
    let cookies = got.blocks[0]
        .iter()
        .filter(|(name, _)| name == "set-cookie")
        .count();
    assert_eq!(cookies, 2);
}

#[test]
fn responses_without_a_body_end_with_their_head() {
    let origin = origin()
        .sends("/204", "HTTP/1.1 204 No Content\r\n\r\n", Then::Keep)
        .sends(
            "/304",
            "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n",
            Then::Keep,
        )
        .sends("/0", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Then::Keep)
        .answers("/head", "a body")
        .sends("/close", "HTTP/1.1 200 OK\r\n\r\nuntil the end", Then::Close)
        .start();
    let atlas = proxy(&origin);
    let mut http2 = atlas.http2();
    for (path, status) in [("/204", 204), ("/304", 304), ("/0", 200)] {
        let got = http2.get(path);
        assert_eq!(
            (got.status(), got.pieces, got.text()),
            (status, 0, String::new()),
            "{path}"
        );
    }
    let stream = http2.begin(&request("HEAD", "/head", &[]), true);
    let got = http2.answer(stream);
    assert_eq!(
        (got.status(), got.text(), got.field("content-length")),
        (200, String::new(), Some("6"))
    );
    assert_eq!(http2.get("/close").text(), "until the end");
}

#[test]
fn trailers_go_both_ways_as_calls_of_grpc_need_them() {
    let origin = origin()
        .handles("/pkg.Service/Call", |exchange| {
            let seen = exchange.read_body()?;
            exchange.send(
                "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nTransfer-Encoding: chunked\r\n\r\n",
            )?;
            for piece in seen.body.chunks(3) {
                exchange.send(format!("{:x}\r\n", piece.len()))?;
                exchange.send(piece)?;
                exchange.send("\r\n")?;
            }
            exchange.send("0\r\nGrpc-Status: 0\r\nGrpc-Message: fine\r\nContent-Length: 9\r\n\r\n")?;
            Ok(Then::Keep)
        })
        .start();
    let atlas = proxy(&origin);
    let mut http2 = atlas.http2();
    let fields = [
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("grpc-timeout", "5S"),
    ];
    let stream = http2.begin(&request("POST", "/pkg.Service/Call", &fields), false);
    http2.upload(stream, b"message", false);
    http2.send(headers(stream, &[("x-sum", "42"), ("host", "evil.test")], true));
    let got = http2.answer(stream);
    assert_eq!((got.status(), got.text()), (200, "message".to_owned()));
    let text = |fields: &[(&str, &str)]| -> Vec<(String, String)> {
        fields
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    };
    assert_eq!(
        got.trailers(),
        text(&[("grpc-status", "0"), ("grpc-message", "fine")])
    );
    let seen = origin.request();
    assert_eq!(
        seen.trailers,
        text(&[("x-sum", "42")]),
        "a trailer must not name a host"
    );
    assert_eq!(seen.head.field("grpc-timeout"), Some("5S"));
    assert_eq!(seen.head.field("transfer-encoding"), Some("chunked"));
}

#[test]
fn messages_of_a_call_go_through_one_by_one() {
    // Each side says something only when it has heard the other.
    let origin = origin()
        .handles("/chat", |exchange| {
            exchange.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            for _ in 0..5 {
                exchange.read_some()?;
                exchange.send("4\r\npong\r\n")?;
            }
            exchange.send("0\r\ngrpc-status: 0\r\n\r\n")?;
            Ok(Then::Close)
        })
        .start();
    let atlas = proxy(&origin);
    let mut http2 = atlas.http2();
    let stream = http2.begin(&request("POST", "/chat", &[]), false);
    for heard in 1..=5 {
        http2.upload(stream, b"ping", false);
        http2.until("a pong comes", |http2| {
            (http2.so_far(stream).body.len() == 4 * heard).then_some(())
        });
    }
    http2.send(frame(DATA, END_STREAM, stream, b""));
    let got = http2.answer(stream);
    assert_eq!(got.trailers(), [("grpc-status".to_owned(), "0".to_owned())]);
}

#[test]
fn informational_responses_come_before_the_answer() {
    let origin = origin()
        .handles("/hints", |exchange| {
            exchange.send("HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n")?;
            exchange.answer(200, &[], b"page")
        })
        .handles("/expects", |exchange| {
            assert_eq!(exchange.head.field("expect"), Some("100-continue"));
            exchange.send("HTTP/1.1 100 Continue\r\n\r\n")?;
            let seen = exchange.read_body()?;
            exchange.answer(200, &[], &seen.body)
        })
        .start();
    let atlas = proxy(&origin);
    let mut http2 = atlas.http2();
    let got = http2.get("/hints");
    assert_eq!(
        (got.informational(), got.status(), got.text()),
        (vec!["103"], 200, "page".to_owned())
    );
    assert_eq!(field(&got.blocks[0], "link"), Some("</a.css>; rel=preload"));
    let stream = http2.begin(&request("PUT", "/expects", &[("expect", "100-continue")]), false);
    http2.until("it may go on", |http2| {
        (http2.so_far(stream).informational() == ["100"]).then_some(())
    });
    http2.upload(stream, b"body", true);
    assert_eq!(http2.answer(stream).text(), "body");
}

#[test]
fn an_answer_that_comes_early_is_all_there_and_the_rest_of_the_body_is_not_wanted() {
    let origin = origin()
        .handles("/early", |exchange| {
            exchange.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")?;
            Ok(Then::Close)
        })
        .start();
    let atlas = proxy(&origin);
    let mut http2 = atlas.http2();
    let stream = http2.begin(&request("POST", "/early", &[("content-length", "100000")]), false);
    http2.upload(stream, &[0; 1000], false);
    let got = http2.until("the stream is over", |http2| {
        let got = http2.so_far(stream);
        (got.reset.is_some() && got.has_ended).then_some(got)
    });
    // RFC 9113 §8.1: "RST_STREAM with an error code of NO_ERROR after sending a complete response".
    assert_eq!(
        (got.status(), got.text(), got.reset),
        (403, "no".to_owned(), Some(NO_ERROR))
    );
    assert_eq!(http2.get("/").status(), 200, "other requests go on");
}

/// curl of Debian 12 loses an answer behind which its request is reset.
#[test]
fn a_body_that_nobody_wants_is_taken_behind_its_answer() {
    const SIZE: usize = 300_000;
    let atlas = atlas()
        .listens_tls("a.test")
        .listens_plain()
        .text("[[route]]\nrespond = 200\n[limits]\nbody = \"1MiB\"")
        .start();
    let mut http2 = atlas.http2();
    for (said, status) in [
        (&[][..], 200),
        (&[("content-length", "300000")], 200),
        (&[("content-length", "300000"), ("host", "b.test")], 400),
    ] {
        let stream = http2.begin(&request("POST", "/", said), false);
        let got = http2.answer(stream);
        assert_eq!((got.status(), got.reset), (status, None), "{got:?}");
        let mut sent = 0;
        while sent < SIZE {
            let room = http2.until("more may be sent", |http2| {
                Some(http2.room(stream, sent).min(SIZE - sent)).filter(|room| *room > 0)
            });
            sent += room;
            http2.upload(stream, &vec![0; room], sent == SIZE);
        }
        http2.round_trip();
        assert_eq!(http2.so_far(stream).reset, None, "{said:?}");
    }
    let stream = http2.begin(&request("POST", "/", &[("content-length", "2000000")]), false);
    let got = http2.until("it is reset", |http2| {
        Some(http2.so_far(stream)).filter(|got| got.reset.is_some())
    });
    assert_eq!(
        (got.status(), got.has_ended, got.reset),
        (413, true, Some(NO_ERROR))
    );
    // Who has the answer owes nothing.
    let mut http2 = atlas.http2_on(1);
    let stream = http2.begin(&request("POST", "/", &[]), false);
    assert_eq!(http2.answer(stream).status(), 200);
    http2.round_trip(); // nothing that it has not read is left
    drop(http2);
    let record = atlas.record("the connection", |record| record["kind"] == "connection");
    assert_eq!(
        (&record["phase"], &record["cause"]),
        (&"idle".into(), &"finished".into())
    );
}

#[test]
fn a_body_that_was_asked_for_with_100_is_taken_behind_an_answer_that_overtook_it() {
    let origin = origin()
        .handles("/changes-its-mind", |exchange| {
            exchange
                .send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")?;
            Ok(Then::Close)
        })
        .start();
    let atlas = proxy(&origin);
    let mut http2 = atlas.http2();
    let fields = [("expect", "100-continue"), ("content-length", "1000")];
    let stream = http2.begin(&request("POST", "/changes-its-mind", &fields), false);
    let got = http2.answer(stream);
    assert_eq!((got.informational(), got.status()), (vec!["100"], 403));
    http2.upload(stream, &[0; 1000], true);
    http2.round_trip();
    assert_eq!(http2.so_far(stream).reset, None);
}

#[test]
fn answers_of_atlas_come_from_the_same_catalogue() {
    let atlas = atlas()
        .listens_tls("a.test")
        .text("[[route]]\npath = \"/gone\"\nupstream = \"gone\"\n[[route]]\npath = \"/up\"\nupstream = \"gone\"")
        .upstream("gone", &[&format!("127.0.0.1:{}", crate::support::free_port())], "")
        .expects_log("cannot connect")
        .text("[limits]\nbody = \"1KiB\"\nhead = \"4KiB\"\nfields = 20\nrequest_line = \"1KiB\"")
        .start();
    let mut http2 = atlas.http2();
    let long = "x".repeat(4096);
    let many: Vec<_> = (0..21).map(|_| ("x", "1")).collect();
    let path = format!("/{}", &long[..2000]);
    for (fields, status, id) in [
        (get("/nowhere", &[]), 404, "route_not_found"),
        (get("/gone", &[]), 502, "upstream_refused"),
        (
            get("/gone", &[("x", long.as_str())]),
            431,
            "request_head_too_large",
        ),
        (get("/gone", &many), 431, "request_head_too_large"),
        (get(&path, &[]), 414, "request_line_too_long"),
        (get("/gone", &[("host", "b.test")]), 400, "request_malformed"),
        (get("/gone", &[("expect", "more")]), 417, "expectation_failed"),
    ] {
        let stream = http2.begin(&fields, true);
        let got = http2.answer(stream);
        assert_eq!(got.status(), status, "{id}");
        assert!(
            got.field("proxy-status").is_some_and(|value| value.contains(id)),
            "{got:?}"
        );
        assert!(got.text().contains(id));
    }
    let stream = http2.begin(&request("POST", "/up", &[("content-length", "1025")]), false);
    assert_eq!(http2.answer(stream).status(), 413);
    let record = atlas.record("the 413", |record| record["status"] == 413);
    assert_eq!(record["line"], "POST /up HTTP/2.0");
    assert_eq!(
        (&record["phase"], &record["cause"]),
        (&"request_body".into(), &"limit_reached".into())
    );
}

#[test]
fn a_call_of_grpc_that_atlas_answers_gets_a_status_of_grpc() {
    let atlas = atlas()
        .listens_tls("a.test")
        .expects_log("cannot connect")
        .text("[[route]]\npath = \"/gone\"\nupstream = \"gone\"")
        .upstream(
            "gone",
            &[&format!("127.0.0.1:{}", crate::support::free_port())],
            "",
        )
        .start();
    let mut http2 = atlas.http2();
    for (path, kind, grpc_status) in [
        ("/gone", "application/grpc", Some("14")),
        ("/gone", "application/grpc+proto", Some("14")),
        ("/nowhere", "application/grpc;charset=x", Some("12")),
        ("/nowhere", "application/grpc-web", None),
    ] {
        let stream = http2.begin(&request("POST", path, &[("content-type", kind)]), true);
        let got = http2.answer(stream);
        assert_eq!(got.field("grpc-status"), grpc_status, "{kind}");
        assert_eq!(got.status() == 200, grpc_status.is_some());
        assert_eq!(
            got.pieces == 0,
            grpc_status.is_some(),
            "its status is in the head, which is all"
        );
    }
    let record = atlas.exchange("/gone");
    assert_eq!(
        (&record["side"], &record["cause"]),
        (&"upstream".into(), &"refused".into())
    );
}

#[test]
fn a_name_with_another_certificate_is_misdirected() {
    let origin = origin().start();
    let atlas = atlas()
        .listens_tls("a.test")
        .listens_tls("b.test")
        .forwards_to(&origin)
        .start();
    let mut http2 = atlas.http2();
    let stream = http2.begin(
        &[
            (":method", "GET"),
            (":scheme", "https"),
            (":authority", "b.test"),
            (":path", "/"),
        ],
        true,
    );
    assert_eq!(
        http2.answer(stream).status(),
        421,
        "browsers then open a connection of its own"
    );
    assert_eq!(http2.get("/").status(), 200);
}

#[test]
fn files_come_whole_and_in_parts() {
    let noise = crate::support::noise(700_000);
    let atlas = atlas()
        .listens_tls("a.test")
        .file("site/noise", &noise)
        .text("[[route]]\nfiles = \"{folder}/site\"")
        .start();
    let mut http2 = atlas.http2();
    let got = http2.get("/noise");
    assert_eq!((got.status(), got.body == noise), (200, true));
    let stream = http2.begin(&get("/noise", &[("range", "bytes=1000-300999")]), true);
    let got = http2.answer(stream);
    assert_eq!((got.status(), got.body == noise[1000..301_000]), (206, true));
}

#[test]
fn bodies_beyond_their_limit_are_refused_while_they_come() {
    let origin = origin().start();
    let atlas = atlas()
        .listens_tls("a.test")
        .forwards_to(&origin)
        .text("[limits]\nbody = \"1KiB\"\n[timeouts]\nbody = \"3s\"")
        .start();
    let mut http2 = atlas.http2();
    let stream = http2.begin(&request("POST", "/long", &[]), false);
    http2.upload(stream, &[0; 2000], false);
    assert_eq!(http2.answer(stream).status(), 413);
    let stream = http2.begin(&request("POST", "/stops", &[("content-length", "10")]), false);
    http2.upload(stream, b"hello", false);
    assert_eq!(http2.answer(stream).status(), 408);
    wait_until("the origin's connections are freed", || {
        (origin.open() == 0).then_some(())
    });
    assert!(origin.requests().iter().all(|seen| !seen.whole));
}
