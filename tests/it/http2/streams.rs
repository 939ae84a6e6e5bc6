//! Streams beside each other: windows, cancelling, ends of one and of all, and how connections begin.

use std::time::{Duration, Instant};

use super::is_answered;
use crate::support::frames::*;
use crate::support::{
    Connection, Digest, Ending, Origin, Then, atlas, measures_time, noise, on_both_drivers, origin,
    wait_until,
};

/// Answers `/never` never, `/big` with 5 MB, `/dies` with half of what it promises.
fn slow() -> Origin {
    origin()
        .handles("/never", |exchange| {
            exchange.read_body()?;
            exchange.wait_for_close();
            Ok(Then::Close)
        })
        .handles("/big", |exchange| {
            exchange.read_body()?;
            exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 5000000\r\n\r\n")?;
            let piece = noise(1_000_000);
            for _ in 0..5 {
                exchange.send(&piece)?;
            }
            Ok(Then::Keep)
        })
        .handles("/piece", |exchange| {
            exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n")?;
            exchange.send(noise(60_000))?;
            Ok(Then::Keep)
        })
        .handles("/dies", |exchange| {
            exchange.read_body()?;
            exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")?;
            Ok(Then::Close)
        })
        .start()
}

#[test]
fn a_slow_answer_holds_up_no_other() {
    on_both_drivers(|driver| {
        let origin = slow();
        let atlas = atlas()
            .listens_tls("a.test")
            .forwards_to(&origin)
            .driver(driver)
            .start();
        let mut http2 = atlas.http2();
        let never = http2.begin(&get("/never", &[]), true);
        let streams: Vec<_> = (0..100).map(|_| http2.begin(&get("/", &[]), true)).collect();
        for stream in streams {
            assert!(is_answered(&http2.answer(stream)));
        }
        let so_far = http2.so_far(never);
        assert!(!so_far.has_ended && so_far.reset.is_none());
    });
}

#[test]
fn a_stream_that_is_cancelled_frees_the_origin_at_once() {
    on_both_drivers(|driver| {
        let origin = slow();
        let atlas = atlas()
            .listens_tls("a.test")
            .forwards_to(&origin)
            .driver(driver)
            .start();
        let mut http2 = atlas.http2();
        // Waiting for the answer, in the middle of it, and in the middle of the request.
        let waits = http2.begin(&get("/never?waits", &[]), true);
        http2.reads = false;
        let amid = http2.begin(&get("/big?amid", &[]), true);
        let sends = http2.begin(&request("POST", "/never?sends", &[]), false);
        http2.upload(sends, b"some", false);
        http2.until("the answer begins", |http2| {
            (http2.so_far(amid).pieces > 0).then_some(())
        });
        wait_until("the origin has all three", || {
            (origin.requests().len() == 3).then_some(())
        });
        for stream in [waits, amid, sends] {
            http2.send(frame(RST_STREAM, 0, stream, CANCEL.to_be_bytes()));
        }
        wait_until("the origin is free", || (origin.open() == 0).then_some(()));
        for path in ["/never?waits", "/big?amid", "/never?sends"] {
            let record = atlas.exchange(path);
            assert_eq!(
                (&record["side"], &record["cause"]),
                (&"downstream".into(), &"reset".into()),
                "{record}"
            );
        }
        assert_eq!(atlas.exchange("/never?waits")["status"], 499);
        http2.send(frame(WINDOW_UPDATE, 0, 0, 65_535_u32.to_be_bytes()));
        assert_eq!(http2.get("/").status(), 200, "the connection goes on");
    });
}

#[test]
fn a_connection_that_is_gone_frees_the_origin_at_once() {
    let origin = slow();
    let atlas = atlas().listens_tls("a.test").forwards_to(&origin).start();
    let mut http2 = atlas.http2();
    for at in 0..10 {
        http2.begin(&get(&format!("/never?{at}"), &[]), true);
    }
    wait_until("the origin has them", || {
        (origin.requests().len() == 10).then_some(())
    });
    http2.connection.finish();
    wait_until("the origin is free", || (origin.open() == 0).then_some(()));
    let record = atlas.exchange("/never?7");
    assert_eq!(
        (&record["side"], &record["cause"], &record["status"]),
        (&"downstream".into(), &"closed".into(), &499.into()),
        "{record}"
    );
}

#[test]
fn what_an_origin_breaks_off_does_not_look_whole() {
    let origin = slow();
    let atlas = atlas().listens_tls("a.test").forwards_to(&origin).start();
    let mut http2 = atlas.http2();
    let got = http2.get("/dies");
    assert_eq!(
        (got.has_ended, got.reset, got.text()),
        (false, Some(INTERNAL_ERROR), "hello".to_owned())
    );
    assert_eq!(atlas.exchange("/dies")["side"], "upstream");
    assert_eq!(http2.get("/").status(), 200);
}

#[test]
fn a_client_that_reads_slowly_holds_no_memory_beyond_its_window() {
    let origin = slow();
    let atlas = atlas()
        .listens_plain()
        .forwards_to(&origin)
        .top("workers = 1")
        .start();
    let mut http2 = atlas.http2();
    http2.reads = false;
    let before = atlas.memory_kib();
    let streams: Vec<_> = (0..40).map(|_| http2.begin(&get("/big", &[]), true)).collect();
    let received = |http2: &Http2| -> usize {
        streams
            .iter()
            .map(|stream| http2.so_far(*stream).body.len())
            .sum()
    };
    http2.until("the window is full", |http2| {
        (received(http2) == 65_535).then_some(())
    });
    let held = atlas.memory_kib().saturating_sub(before);
    assert!(
        held < 16 * 1024,
        "{held} KiB for 200 MB that were asked for and not taken"
    );
    http2.round_trip();
    assert_eq!(received(&http2), 65_535, "nothing goes beyond the window");
    // One of them is wanted after all, and comes whole.
    for stream in &streams[1..] {
        http2.send(frame(RST_STREAM, 0, *stream, CANCEL.to_be_bytes()));
    }
    http2.reads = true;
    for stream in [0, streams[0]] {
        http2.send(frame(WINDOW_UPDATE, 0, stream, 65_535_u32.to_be_bytes()));
    }
    let got = http2.answer(streams[0]);
    assert_eq!(Digest::of(&got.body), Digest::of(&noise(1_000_000).repeat(5)));
}

#[test]
fn a_client_that_never_reads_is_given_up() {
    let origin = slow();
    let atlas = atlas()
        .listens_tls("a.test")
        .forwards_to(&origin)
        .text("[timeouts]\nwrite = \"400ms\"")
        .start();
    let mut http2 = atlas.http2_with(&[(4, 0)]);
    http2.reads = false;
    http2.settled();
    let stream = http2.begin(&get("/big", &[]), true);
    assert_eq!(http2.answer(stream).reset, Some(CANCEL));
    let record = atlas.exchange("/big");
    assert_eq!(
        (&record["side"], &record["cause"]),
        (&"downstream".into(), &"timed_out".into()),
        "{record}"
    );
    wait_until("the origin is free", || (origin.open() == 0).then_some(()));
}

#[test]
fn a_client_busy_with_one_stream_is_not_slow_on_another() {
    if !measures_time() {
        return; // there it is slow
    }
    let origin = slow();
    let atlas = atlas()
        .listens_tls("a.test")
        .forwards_to(&origin)
        .text("[timeouts]\nbody = \"3s\"\nwrite = \"3s\"")
        .start();
    // Bodies that are sent one after the other, as browsers do.
    let mut http2 = atlas.http2();
    let waits = http2.begin(&request("POST", "/waits", &[]), false);
    let sends = http2.begin(&request("POST", "/sends", &[]), false);
    for _ in 0..24 {
        http2.upload(sends, &[1; 1000], false);
        std::thread::sleep(Duration::from_millis(200));
    }
    http2.upload(sends, b"end", true);
    http2.upload(waits, b"at last", true);
    assert_eq!(http2.answer(sends).status(), 200);
    assert_eq!(http2.answer(waits).status(), 200);
    // Answers that share a line which takes far longer than the timeout for a turn of each.
    let mut http2 = atlas.http2_with(&[(4, 0x7fff_ffff)]);
    http2.send(frame(WINDOW_UPDATE, 0, 0, 0x7fff_0000_u32.to_be_bytes()));
    http2.reads = false;
    http2.settled();
    let streams: Vec<_> = (0..40).map(|_| http2.begin(&get("/big", &[]), true)).collect();
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(9) {
        for _ in 0..6 {
            assert!(http2.read_frame());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    for stream in streams {
        assert_eq!(http2.so_far(stream).reset, None);
    }
}

#[test]
fn bodies_that_nobody_read_do_not_use_up_the_connections_window() {
    let origin = origin().start();
    let atlas = atlas()
        .listens_tls("a.test")
        .text("[[route]]\npath = \"/no\"\nrespond = 403\n[[route]]\nupstream = \"app\"")
        .upstream("app", &[origin.address()], "")
        .start();
    let mut http2 = atlas.http2();
    let body = noise(60_000);
    for _ in 0..50 {
        // 3 MB through a window of 1 MiB.
        let stream = http2.begin(&request("POST", "/no", &[]), false);
        http2.upload(stream, &body, true);
        assert_eq!(http2.answer(stream).status(), 403);
    }
    assert_eq!(http2.post("/yes", &[], &body).status(), 200);
    assert_eq!(origin.request().sha256, Digest::of(&body));
}

#[test]
fn more_streams_than_are_allowed_are_refused_and_may_be_tried_again() {
    let origin = slow();
    let atlas = atlas()
        .listens_tls("a.test")
        .forwards_to(&origin)
        .text("[limits.http2]\nstreams = 3")
        .start();
    let mut http2 = atlas.http2();
    http2.settled();
    assert_eq!(http2.settings.get(&3), Some(&3), "the client is told");
    let streams: Vec<_> = (0..4).map(|_| http2.begin(&get("/never", &[]), true)).collect();
    assert_eq!(http2.answer(streams[3]).reset, Some(REFUSED_STREAM));
    http2.send(frame(RST_STREAM, 0, streams[0], CANCEL.to_be_bytes()));
    assert_eq!(http2.get("/").status(), 200, "one has ended");
}

#[test]
fn streams_that_never_became_requests_are_counted_by_why() {
    let origin = slow();
    let atlas = atlas()
        .listens_tls("a.test")
        .forwards_to(&origin)
        .text("[limits.http2]\nstreams = 2")
        .start();
    let mut http2 = atlas.http2();
    http2.settled();
    let malformed = http2.begin(&get("/", &[("connection", "close")]), true);
    assert_eq!(http2.answer(malformed).reset, Some(PROTOCOL_ERROR));
    let value = "x".repeat(12_000);
    let fields: Vec<_> = (0..5).map(|_| ("x", value.as_str())).collect();
    let block = block(&get("/", &fields));
    let large = http2.stream();
    http2.send(frame(HEADERS, END_STREAM, large, &block[..16_000]));
    for piece in block[16_000..].chunks(16_000) {
        http2.send(frame(CONTINUATION, 0, large, piece));
    }
    http2.send(frame(CONTINUATION, END_HEADERS, large, b""));
    assert_eq!(http2.answer(large).status(), 431);
    // These are exchanges, and have records of their own: whatever the crate resets them for.
    let post = request("POST", "/", &[("content-length", "1")]);
    let longer = http2.begin(&post, false);
    http2.send(frame(DATA, END_STREAM, longer, b"xy"));
    assert_eq!(http2.answer(longer).reset, Some(PROTOCOL_ERROR));
    assert_eq!(http2.get("/").status(), 200);
    let streams: Vec<_> = (0..3).map(|_| http2.begin(&get("/never", &[]), true)).collect();
    assert_eq!(http2.answer(streams[2]).reset, Some(REFUSED_STREAM));
    http2.send(frame(RST_STREAM, 0, streams[0], CANCEL.to_be_bytes()));
    http2.round_trip();
    let refused = |cause| atlas.metric("atlas_downstream_streams_refused_total", &[cause]);
    assert_eq!(refused(r#"cause="malformed""#), 1.0);
    assert_eq!(refused(r#"cause="limit_reached""#), 2.0);
    drop(http2);
    let record = atlas.record("of the connection", |record| record["kind"] == "connection");
    assert_eq!(record["streams_refused"], 3);
}

#[test]
fn a_connection_without_requests_is_closed_with_a_word() {
    let origin = origin().start();
    let atlas = atlas()
        .listens_tls("a.test")
        .forwards_to(&origin)
        .text("[timeouts]\nidle = \"3s\"")
        .start();
    let mut http2 = atlas.http2();
    let started = Instant::now();
    assert_eq!(http2.get("/").status(), 200);
    let goaway = http2.end().expect("it says so");
    assert_eq!((goaway.code, goaway.last_stream), (NO_ERROR, 1));
    assert!(started.elapsed() > Duration::from_millis(2_900));
    assert_eq!(http2.ending, Some(Ending::Closed));
    let record = atlas.record("the connection", |record| record["kind"] == "connection");
    assert_eq!(
        (&record["side"], &record["cause"]),
        (&"atlas".into(), &"idle".into()),
        "{record}"
    );
}

#[test]
fn heads_have_a_deadline() {
    let origin = origin().start();
    let atlas = atlas()
        .listens_tls("a.test")
        .forwards_to(&origin)
        .text("[timeouts]\nheader = \"300ms\"")
        .start();
    // Half of a preface, half of a frame, half of a block of fields.
    let half = frame(HEADERS, END_STREAM, 1, block(&get("/", &[])));
    for sends in [
        PREFACE[..10].to_vec(),
        [PREFACE, &frame(SETTINGS, 0, 0, b""), &half[..20]].concat(),
        [PREFACE, &frame(SETTINGS, 0, 0, b""), &half].concat(),
    ] {
        let mut http2 = atlas.http2_silent(0);
        http2.answers = false;
        http2.send(&sends);
        http2.end();
        assert_eq!(http2.ending, Some(Ending::Closed));
    }
    wait_until("all are recorded", || {
        let ended =
            |record: &serde_json::Value| record["cause"] == "timed_out" && record["phase"] == "request";
        (atlas.records().iter().filter(|record| ended(record)).count() == 3).then_some(())
    });
}

#[test]
fn without_tls_a_connection_begins_with_the_preface_in_whatever_pieces() {
    on_both_drivers(|driver| {
        let origin = origin().start();
        let atlas = atlas()
            .listens_plain()
            .listener(false, "http2 = false")
            .forwards_to(&origin)
            .driver(driver)
            .start();
        for pieces in [1, 3, 16, 18, 23] {
            let mut http2 = atlas.http2_silent(0);
            for piece in PREFACE.chunks(pieces) {
                http2.send(piece);
                std::thread::yield_now();
            }
            http2.send(frame(SETTINGS, 0, 0, b""));
            assert_eq!(http2.get("/").status(), 200, "in pieces of {pieces}");
        }
        let whole = [
            PREFACE,
            &frame(SETTINGS, 0, 0, b""),
            &headers(1, &get("/", &[]), true),
        ]
        .concat();
        let mut http2 = atlas.http2_silent(0);
        http2.send(whole);
        assert_eq!(http2.answer(1).status(), 200, "with a request behind it");
        assert_eq!(atlas.get("/").status, 200, "HTTP/1.1 is spoken there, too");
        let mut refused = atlas.connect_to(1);
        refused.send(PREFACE);
        assert_eq!(refused.answer().status, 505, "not where it is turned off");
        let mut late = atlas.connect();
        assert_eq!(late.get("/").status, 200);
        late.send(PREFACE);
        assert_eq!(late.answer().status, 505, "nor behind a request of HTTP/1.1");
    });
}

#[test]
fn what_is_spoken_inside_tls_is_agreed_on_first() {
    let origin = origin().start();
    let atlas = atlas()
        .listens_tls("a.test")
        .listener(true, "http2 = false")
        .forwards_to(&origin)
        .start();
    let agreed = |listener: usize, offered: &[&str]| {
        let tls = atlas.tls().alpn(offered);
        let connection = Connection::tls(atlas.address_of(listener), &tls);
        connection
            .map(|connection| connection.protocol())
            .unwrap_or_default()
    };
    let name = |name: &str| Some(name.to_owned());
    assert_eq!(
        agreed(0, &["http/1.1", "h2"]),
        name("h2"),
        "the server's order counts"
    );
    assert_eq!(agreed(0, &["http/1.1"]), name("http/1.1"));
    assert_eq!(agreed(1, &["h2", "http/1.1"]), name("http/1.1"));
    let mut refused = Connection::tls(atlas.address(), &atlas.tls().alpn(&["http/1.1"])).unwrap();
    refused.send(PREFACE);
    assert_eq!(
        refused.answer().status,
        505,
        "RFC 9113 §3.3: inside TLS it has to be agreed on"
    );
}

#[test]
fn an_answer_that_waits_in_a_window_that_was_shut_is_given_up() {
    let origin = slow();
    let atlas = atlas()
        .listens_plain()
        .forwards_to(&origin)
        .text("[timeouts]\nwrite = \"5s\"\nidle = \"60s\"\n[[route]]\npath = \"/ok\"\nrespond = 200")
        .start();
    // All windows are wide open, nothing is read, and what waits in Atlas is more than it sends at once.
    let mut http2 = atlas.http2_with(&[(4, 1 << 20)]);
    http2.send(frame(WINDOW_UPDATE, 0, 0, 0x7fff_0000_u32.to_be_bytes()));
    http2.settled();
    let streams: Vec<_> = (0..100).map(|_| http2.begin(&get("/piece", &[]), true)).collect();
    wait_until("all are answered", || {
        (origin.requests().len() == 100).then_some(())
    });
    http2.send(frame(SETTINGS, 0, 0, setting(4, 0)));
    let open = |http2: &Http2, stream: u32| {
        let got = http2.so_far(stream);
        !got.has_ended && got.reset.is_none()
    };
    let stuck = |http2: &Http2| streams.iter().filter(|stream| open(http2, **stream)).count();
    // Other requests keep the connection from being idle.
    let started = Instant::now();
    while stuck(&http2) > 0 && started.elapsed() < Duration::from_secs(30) {
        assert_eq!(http2.get("/ok").status(), 200);
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(
        stuck(&http2),
        0,
        "answers are held for a client that does not take them"
    );
}

#[test]
fn a_byte_now_and_then_on_each_stream_holds_none_of_them() {
    let origin = slow();
    let atlas = atlas().listens_plain().forwards_to(&origin).start();
    let mut http2 = atlas.http2_with(&[(4, 0)]);
    http2.reads = false; // opens no window by itself
    http2.settled();
    let mut streams: Vec<_> = (0..50).map(|_| http2.begin(&get("/big", &[]), true)).collect();
    // Five seconds of grace, ten times as long since the connection is busy.
    let started = Instant::now();
    while !streams.is_empty() {
        assert!(
            started.elapsed() < Duration::from_secs(80),
            "{} are held",
            streams.len()
        );
        for stream in &streams {
            http2.send(frame(WINDOW_UPDATE, 0, *stream, 1_u32.to_be_bytes()));
        }
        http2.round_trip();
        streams.retain(|stream| http2.so_far(*stream).reset.is_none());
        std::thread::sleep(Duration::from_millis(200)); // the pace of the attack
    }
    assert!(
        started.elapsed() > Duration::from_secs(20),
        "slow clients get their time"
    );
}
