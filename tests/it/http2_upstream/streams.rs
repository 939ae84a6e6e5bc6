//! Streams and connections: how many, where a request goes that was not processed, what stays behind.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use super::session::{Session, goaway, plays, plays_with, reset};
use super::{before, endpoint, towards};
use crate::support::frames::*;
use crate::support::{
    Atlas, Connection, Driver, Ending, Origin, atlas, free_port, noise, on_both_drivers, origin, wait_until,
};

const MAX_CONCURRENT_STREAMS: u16 = 3;

/// That many requests at once, each on a connection of its own; the statuses.
fn at_once(atlas: &Atlas, count: usize) -> Vec<Connection> {
    let begin = |at: usize| {
        let mut client = atlas.connect();
        client.send(format!(
            "POST /{at} HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4\r\n\r\nbody"
        ));
        client
    };
    (0..count).map(begin).collect()
}

fn statuses(clients: Vec<Connection>) -> Vec<u16> {
    let answer = |mut client: Connection| client.answer().status;
    clients.into_iter().map(answer).collect()
}

/// Takes requests until there are so many; their streams.
fn take(session: &mut Session, count: usize) -> Vec<u32> {
    (0..count)
        .map(|_| session.request().expect("it comes").0)
        .collect()
}

/// Takes so many requests, goes away, and answers the first of them.
fn goes_away(session: &mut Session, taken: usize, answered: usize) {
    let streams = take(session, taken);
    session.send(goaway(streams[answered - 1], NO_ERROR));
    for stream in &streams[..answered] {
        session.answer(*stream, "ok");
    }
    assert!(!session.until(|kind, _, _| kind == HEADERS), "nothing new comes");
}

fn with_one_worker(endpoint: &Origin, driver: Driver) -> Atlas {
    let atlas = atlas().listens_plain().top("workers = 1");
    atlas
        .forwards_to_with(endpoint, "http2 = true")
        .driver(driver)
        .start()
}

#[test]
fn what_is_refused_is_sent_again_with_its_body() {
    on_both_drivers(|driver| {
        let endpoint = plays(|session| {
            let streams = take(session, 1);
            session.until(|kind, flags, _| kind == DATA && flags & END_STREAM != 0);
            session.send(reset(streams[0], REFUSED_STREAM));
            let (stream, _) = session.request().expect("it comes again");
            session.until(|kind, flags, of| kind == DATA && flags & END_STREAM != 0 && of == stream);
            let (.., body) = session.came.last().cloned().expect("it has come");
            session.answer(stream, &format!("again: {}", String::from_utf8_lossy(&body)));
            session.serve();
        });
        let atlas = atlas()
            .listens_plain()
            .forwards_to_with(&endpoint, "http2 = true")
            .driver(driver)
            .start();
        let answer = atlas.connect().request("POST", "/it", &[], b"not twice");
        assert_eq!(answer.text(), "again: not twice");
        assert_eq!(endpoint.accepted(), 1);
        let record = atlas.exchange("/it");
        assert_eq!(
            (&record["attempts"], &record["failed_attempts"][0]["cause"]),
            (&2.into(), &"unprocessed".into()),
            "{record}"
        );
    });
}

#[test]
fn what_one_endpoint_refuses_goes_to_the_next() {
    let full = plays(|session| {
        while let Some((stream, _)) = session.request() {
            session.send(reset(stream, REFUSED_STREAM));
        }
    });
    let free = plays(|session| session.serve());
    let atlas = atlas()
        .listens_plain()
        .text("[[route]]\nupstream = \"app\"")
        .upstream("app", &[full.address(), free.address()], "http2 = true")
        .start();
    for _ in 0..10 {
        assert_eq!(atlas.connect().request("POST", "/", &[], b"abc").status, 200);
    }
}

#[test]
fn an_endpoint_that_refuses_first_and_dies_then_costs_no_client_its_answer() {
    let dies = plays(|session| {
        let streams = take(session, 1);
        session.send(reset(streams[0], REFUSED_STREAM));
        take(session, 1);
    });
    let well = plays(|session| session.serve());
    let atlas = atlas()
        .listens_plain()
        .top("workers = 1")
        .text("[[route]]\nupstream = \"app\"")
        .upstream(
            "app",
            &[dies.address(), well.address()],
            "http2 = true\nbalance = \"round_robin\"",
        )
        .start();
    assert_eq!(atlas.get("/it").status, 200);
    let record = atlas.exchange("/it");
    let causes = [0, 1].map(|at| &record["failed_attempts"][at]["cause"]);
    assert_eq!(causes, ["unprocessed", "closed"], "{record}");
}

#[test]
fn an_unwanted_answer_is_the_clients_where_nobody_else_is_reached() {
    let busy = plays(|session| {
        while let Some((stream, _)) = session.request() {
            session.send(headers(stream, &[(":status", "503")], false));
            session.send(frame(DATA, END_STREAM, stream, b"busy"));
        }
    });
    let dead = format!("127.0.0.1:{}", free_port());
    let atlas = atlas()
        .listens_plain()
        .top("workers = 1")
        .text("[[route]]\nupstream = \"app\"\nretry = { on = [503] }")
        .upstream(
            "app",
            &[busy.address(), &dead],
            "http2 = true\nbalance = \"round_robin\"",
        )
        .expects_log("cannot connect")
        .start();
    let answer = atlas.get("/");
    assert_eq!((answer.status, &answer.text()[..]), (503, "busy"));
}

#[test]
fn what_all_endpoints_refuse_is_sent_once_more_and_then_within_attempts_and_budget() {
    let asked = Arc::new(AtomicUsize::new(0));
    let full = || {
        let asked = asked.clone();
        plays(move |session| {
            while let Some((stream, _)) = session.request() {
                asked.fetch_add(1, SeqCst);
                session.send(reset(stream, REFUSED_STREAM));
            }
        })
    };
    let endpoints = [full(), full(), full()];
    let addresses = endpoints.each_ref().map(Origin::address);
    for (retry, percent, expected) in [
        ("true", 20, 4),
        ("true", 0, 2),
        ("false", 20, 2),
        ("{ on = [503] }", 20, 2),
        ("{ attempts = 1 }", 20, 2),
        ("{ attempts = 2 }", 20, 3),
        ("{ attempts = 2 }", 0, 2),
    ] {
        let atlas = atlas()
            .listens_plain()
            .text(&format!("[[route]]\nupstream = \"app\"\nretry = {retry}"))
            .upstream(
                "app",
                &addresses,
                &format!("http2 = true\nretry_budget = {percent}"),
            )
            .start();
        asked.store(0, SeqCst);
        let answer = atlas.connect().request("POST", "/", &[], b"abc");
        assert_eq!(
            (answer.status, asked.load(SeqCst)),
            (502, expected),
            "{retry}, {percent} %"
        );
        assert_eq!(atlas.exchange("/")["cause"], "unprocessed");
    }
}

#[test]
fn no_request_fails_when_an_endpoint_goes_away_in_mid_flight() {
    on_both_drivers(|driver| {
        let endpoint = plays(|session| {
            if session.number > 0 {
                return session.serve();
            }
            goes_away(session, 20, 10);
        });
        let atlas = with_one_worker(&endpoint, driver);
        assert_eq!(statuses(at_once(&atlas, 20)), [200; 20]);
        assert_eq!(endpoint.accepted(), 2);
        wait_until("the first connection is closed", || {
            (endpoint.open() == 1).then_some(())
        });
        let again = |record: &serde_json::Value| record["attempts"] == 2;
        wait_until("ten of them have been asked twice", || {
            (atlas.records().iter().filter(|record| again(record)).count() == 10).then_some(())
        });
    });
}

#[test]
fn no_request_fails_at_an_endpoint_that_has_a_few_for_each_connection() {
    on_both_drivers(|driver| {
        // As nginx with `keepalive_requests 2`: the last of twenty finds nine connections full.
        let endpoint = plays(|session| goes_away(session, 20 - 2 * session.number, 2));
        let atlas = with_one_worker(&endpoint, driver);
        assert_eq!(statuses(at_once(&atlas, 20)), [200; 20]);
        assert_eq!(endpoint.accepted(), 10);
        let attempts = wait_until("all are in the log", || {
            let records = atlas.records();
            let mut attempts: Vec<_> = records.iter().filter_map(|it| it["attempts"].as_u64()).collect();
            attempts.sort();
            (attempts.len() == 20).then_some(attempts)
        });
        assert_eq!(
            attempts,
            (1..=10).flat_map(|count| [count; 2]).collect::<Vec<_>>()
        );
    });
}

#[test]
fn what_waits_for_room_when_the_endpoint_goes_away_is_sent_again() {
    on_both_drivers(|driver| {
        let endpoint = plays_with(&[(INITIAL_WINDOW_SIZE, 0)], |session| {
            let stream = take(session, 1)[0];
            if session.number == 0 {
                session.send(goaway(0, NO_ERROR));
                session.until(|_, _, _| false);
                return;
            }
            session.send(frame(WINDOW_UPDATE, 0, stream, 9_u32.to_be_bytes()));
            session.until(|kind, flags, _| kind == DATA && flags & END_STREAM != 0);
            session.answer(stream, "it has come");
            session.serve();
        });
        let atlas = with_one_worker(&endpoint, driver);
        let answer = atlas.connect().request("POST", "/it", &[], b"not twice");
        assert_eq!((answer.status, &answer.text()[..]), (200, "it has come"));
        let record = atlas.exchange("/it");
        assert_eq!(
            (&record["attempts"], &record["failed_attempts"][0]["cause"]),
            (&2.into(), &"unprocessed".into()),
            "{record}"
        );
    });
}

#[test]
fn a_long_body_that_was_not_processed_ends_by_name() {
    let endpoint = plays(|session| {
        if let Some((stream, _)) = session.request() {
            let mut came = 0;
            while came < 60_000 {
                let (kind, _, _, payload) = session.frame().expect("the body comes");
                came += if kind == DATA { payload.len() } else { 0 };
            }
            session.send(reset(stream, REFUSED_STREAM));
            session.serve();
        }
    });
    let atlas = towards(&endpoint, "", &[]);
    let mut client = atlas.connect();
    client.send("POST /it HTTP/1.1\r\nHost: a.test\r\nContent-Length: 100000\r\n\r\n");
    client.send(noise(60_000));
    assert_eq!(client.answer().status, 502);
    assert_eq!(atlas.exchange("/it")["cause"], "unprocessed");
}

#[test]
fn connections_are_filled_as_far_as_the_endpoint_allows() {
    on_both_drivers(|driver| {
        let together = Arc::new(AtomicUsize::new(0));
        let seen = together.clone();
        // Two streams at a time; more once it has said so.
        let endpoint = plays_with(&[(MAX_CONCURRENT_STREAMS, 2)], move |session| {
            let streams = take(session, 2);
            seen.fetch_add(2, SeqCst);
            while seen.load(SeqCst) < 6 {
                std::thread::yield_now();
            }
            if session.number == 0 {
                let many = setting(MAX_CONCURRENT_STREAMS, 100);
                session.send(frame(SETTINGS, 0, 0, many));
                session.until(|kind, flags, _| kind == SETTINGS && flags & ACK != 0);
            }
            for stream in streams {
                session.answer(stream, "ok");
            }
            if session.number == 0 {
                let streams = take(session, 50);
                for stream in streams {
                    session.answer(stream, "ok");
                }
            }
            session.serve();
        });
        let atlas = atlas()
            .listens_plain()
            .top("workers = 1")
            .forwards_to_with(&endpoint, "http2 = true")
            .driver(driver)
            .start();
        assert_eq!(statuses(at_once(&atlas, 6)), [200; 6]);
        assert_eq!(endpoint.accepted(), 3);
        assert_eq!(statuses(at_once(&atlas, 50)), [200; 50]);
        assert_eq!(endpoint.accepted(), 3);
    });
}

#[test]
fn one_connection_is_opened_for_all_who_come_at_once() {
    on_both_drivers(|driver| {
        let endpoint = plays(|session| {
            let streams = take(session, 50);
            for stream in streams {
                session.answer(stream, "ok");
            }
            session.serve();
        });
        let atlas = atlas()
            .listens_plain()
            .top("workers = 1")
            .forwards_to_with(&endpoint, "http2 = true")
            .driver(driver)
            .start();
        assert_eq!(statuses(at_once(&atlas, 50)), [200; 50]);
        assert_eq!(endpoint.accepted(), 1);
    });
}

#[test]
fn requests_beyond_every_connection_wait_their_turn_or_are_told() {
    let endpoint = plays_with(&[(MAX_CONCURRENT_STREAMS, 1)], |session| {
        while let Some((stream, fields)) = session.request() {
            if field(&fields, ":path") == Some("/last") {
                session.answer(stream, "ok");
            }
        }
    });
    // Long enough for all to be opened, one after the other.
    let atlas = towards(&endpoint, "connect_timeout = \"12s\"", &[]);
    let mut waiting = at_once(&atlas, 64);
    wait_until("all connections are full", || {
        (endpoint.accepted() == 64).then_some(())
    });
    let mut beyond = atlas.connect();
    beyond.patience(std::time::Duration::from_secs(60));
    let told = beyond.get("/told");
    assert_eq!(told.status, 503, "{}", told.text());
    assert_eq!(atlas.exchange("/told")["cause"], "limit_reached");
    let mut last = atlas.connect();
    last.send("GET /last HTTP/1.1\r\nHost: a.test\r\n\r\n");
    waiting.remove(30).reset(); // its stream is reset, and there is room
    assert_eq!(last.answer().status, 200);
    assert_eq!(endpoint.accepted(), 64);
}

#[test]
fn a_connection_that_was_closed_is_not_used_again() {
    on_both_drivers(|driver| {
        let endpoint = plays(|session| {
            let streams = take(session, 1);
            // Whole, or Atlas would end the client's connection, whose request is not read to its end.
            session.until(|kind, flags, _| kind == DATA && flags & END_STREAM != 0);
            session.answer(streams[0], "ok");
        });
        let atlas = atlas()
            .listens_plain()
            .top("workers = 1")
            .forwards_to_with(&endpoint, "http2 = true")
            .driver(driver)
            .start();
        let mut client = atlas.connect();
        for _ in 0..20 {
            // A POST cannot be sent twice.
            assert_eq!(client.request("POST", "/", &[], b"abc").status, 200);
            wait_until("the connection is closed", || {
                (endpoint.open() == 0).then_some(())
            });
        }
    });
}

/// What a settings frame says of the window of each stream.
fn window_in(settings: &[u8]) -> Option<usize> {
    const INITIAL_WINDOW_SIZE: [u8; 2] = [0, 4];
    let mut all = settings.chunks(6);
    let setting = all.find(|setting| setting[..2] == INITIAL_WINDOW_SIZE)?;
    Some(u32::from_be_bytes(setting[2..].try_into().ok()?) as usize)
}

/// What a window update says.
fn room_in(update: Vec<u8>) -> usize {
    u32::from_be_bytes(update.try_into().expect("four bytes")) as usize
}

/// Sends so much of a response.
fn send_noise(session: &mut Session, stream: u32, count: usize) {
    for piece in noise(count).chunks(16_384) {
        session.send(frame(DATA, 0, stream, piece));
    }
}

#[test]
fn what_a_client_holds_that_reads_none_of_its_streams_can_be_bounded() {
    const STREAMS: usize = 128; // on two connections to the endpoint
    let sent = Arc::new(AtomicUsize::new(0));
    let count = sent.clone();
    let endpoint = plays(move |session| {
        let mut window = 0;
        // The connection has a window, too, and what goes beyond it is a fault (RFC 9113 §6.9.1).
        let (mut whole, mut rooms) = (65_535, VecDeque::new());
        while let Some((kind, flags, stream, payload)) = session.frame() {
            match kind {
                SETTINGS if flags & ACK == 0 => window = window_in(&payload).expect("it tells"),
                HEADERS => {
                    session.send(headers(stream, &[(":status", "200")], false));
                    rooms.push_back((stream, window));
                }
                WINDOW_UPDATE if stream > 0 => rooms.push_back((stream, room_in(payload))),
                WINDOW_UPDATE => whole += room_in(payload),
                _ => {}
            }
            while whole > 0
                && let Some((stream, room)) = rooms.pop_front()
            {
                let now = room.min(whole);
                whole -= now;
                send_noise(session, stream, now);
                count.fetch_add(now, SeqCst);
                if room > now {
                    rooms.push_front((stream, room - now));
                }
            }
        }
    });
    let atlas = towards(&endpoint, "http2_window = \"8MiB\"", &[]);
    let before = atlas.memory_kib();
    let mut reader = atlas.http2();
    for _ in 0..STREAMS {
        reader.begin(&get("/", &[]), true);
    }
    wait_until("each has sent what it may", || {
        (sent.load(SeqCst) >= STREAMS * 64 * 1024).then_some(())
    });
    let mut all = 0;
    wait_until("no more is sent", || {
        let before = std::mem::replace(&mut all, sent.load(SeqCst));
        std::thread::sleep(std::time::Duration::from_millis(200)); // nothing tells that nothing comes
        (before == all).then_some(())
    });
    assert!(all <= STREAMS * 192 * 1024, "{all} bytes");
    let grown = atlas.memory_kib().saturating_sub(before);
    assert!(grown < 28 * 1024, "{grown} KiB");
}

#[test]
fn who_reads_slowly_holds_a_window_and_holds_up_nobody() {
    let sent = Arc::new(AtomicUsize::new(0));
    let count = sent.clone();
    let endpoint = plays(move |session| {
        let (mut all, mut window) = (65_535, 0);
        let (slow, _) = session.request().expect("it comes");
        for (kind, flags, stream, payload) in std::mem::take(&mut session.came) {
            match kind {
                SETTINGS if flags & ACK == 0 => window = window_in(&payload).expect("it tells"),
                WINDOW_UPDATE if stream == 0 => all += room_in(payload),
                _ => {}
            }
        }
        assert!(
            all >= 100 * window,
            "others have room: {all}, each of it {window}"
        );
        session.send(headers(slow, &[(":status", "200")], false));
        send_noise(session, slow, window);
        count.fetch_add(window, SeqCst);
        while let Some((kind, _, stream, payload)) = session.frame() {
            match kind {
                HEADERS => {
                    session.answer(stream, "ok");
                }
                WINDOW_UPDATE if stream == slow => {
                    let room = room_in(payload);
                    send_noise(session, slow, room);
                    count.fetch_add(room, SeqCst);
                }
                _ => {}
            }
        }
    });
    let atlas = towards(&endpoint, "", &[]);
    let before = atlas.memory_kib();
    let mut reader = atlas.http2();
    reader.begin(&get("/slow", &[]), true); // its window is 65 535, and is not opened
    wait_until("the endpoint has filled its window", || {
        (sent.load(SeqCst) >= 256 * 1024).then_some(())
    });
    let mut client = atlas.connect();
    for _ in 0..100 {
        assert_eq!(client.get("/").text(), "ok");
    }
    let all = sent.load(SeqCst);
    assert!(
        all <= (256 + 64 + 64) * 1024,
        "{all} bytes for a client that reads none"
    );
    let grown = atlas.memory_kib().saturating_sub(before);
    assert!(grown < 4096, "{grown} KiB for it");
}

#[test]
fn a_client_whose_window_is_filled_by_what_waits_is_not_blamed_for_it() {
    const STUCK: usize = 4;
    const EACH: usize = 256 * 1024; // together they fill the window of all bodies
    let endpoint = plays_with(&[(INITIAL_WINDOW_SIZE, 0)], |session| {
        let streams = take(session, STUCK + 1);
        std::thread::sleep(std::time::Duration::from_secs(10)); // far longer than a client may take
        let much = (1_u32 << 21).to_be_bytes();
        session.send(frame(WINDOW_UPDATE, 0, 0, much));
        for stream in &streams {
            session.send(frame(WINDOW_UPDATE, 0, *stream, much));
        }
        let mut ended = 0;
        while ended < streams.len() {
            let (kind, flags, stream, _) = session.frame().expect("the bodies come");
            if kind == DATA && flags & END_STREAM != 0 {
                session.answer(stream, "ok");
                ended += 1;
            }
        }
        session.serve();
    });
    let atlas = towards(&endpoint, "\n[timeouts]\nbody = \"3s\"", &[]);
    let mut http2 = atlas.http2();
    http2.settled();
    let begin = |http2: &mut Http2, path| http2.begin(&request("POST", path, &[]), false);
    let stuck: Vec<_> = (0..STUCK).map(|_| begin(&mut http2, "/stuck")).collect();
    for stream in &stuck {
        http2.upload(*stream, &noise(EACH), false);
    }
    let waits = begin(&mut http2, "/waits");
    http2.until("there is room", |http2| {
        (http2.room(0, STUCK * EACH) > 0 || http2.so_far(waits).reset.is_some()).then_some(())
    });
    for stream in stuck.iter().chain([&waits]) {
        let sent = if *stream == waits { 0 } else { EACH };
        http2.until("its window is open", |http2| {
            (http2.room(*stream, sent) > 0 || http2.so_far(*stream).reset.is_some()).then_some(())
        });
        http2.upload(*stream, b"end", true);
    }
    for stream in stuck.iter().chain([&waits]) {
        assert_eq!(http2.answer(*stream).status(), 200);
    }
}

#[test]
fn small_pieces_wait_for_a_slow_client_as_large_ones_do() {
    on_both_drivers(|driver| {
        const PIECES: usize = 100_000;
        let endpoint = plays(|session| {
            let (stream, _) = session.request().expect("it comes");
            session.send(headers(stream, &[(":status", "200")], false));
            session.send(frame(DATA, 0, stream, b"x").repeat(PIECES));
            session.send(frame(DATA, END_STREAM, stream, b"y"));
            session.serve();
        });
        let atlas = atlas()
            .listens_plain()
            .top("workers = 1")
            .forwards_to_with(&endpoint, "http2 = true")
            // A slow machine takes its time to read them all, in which this client takes nothing.
            .text("[limits]\nmin_rate = \"0B\"\n[timeouts]\nwrite = \"5m\"")
            .driver(driver)
            .start();
        let mut reader = atlas.http2_with(&[(4, 1)]);
        reader.reads = false;
        let stream = reader.begin(&get("/small", &[]), true);
        let mut client = atlas.connect();
        for _ in 0..10 {
            assert_eq!(client.get("/").text(), "ok"); // answered behind all of them
        }
        for opened in [0, stream] {
            reader.send(frame(WINDOW_UPDATE, 0, opened, 1_000_000_u32.to_be_bytes()));
        }
        let got = reader.answer(stream);
        assert_eq!((got.body.len(), got.reset), (PIECES + 1, None));
        assert_eq!(endpoint.accepted(), 1);
    });
}

#[test]
fn a_drain_lets_requests_end_that_are_under_way() {
    on_both_drivers(|driver| {
        let is_draining = Arc::new(AtomicUsize::new(0));
        let (seen, goes) = (Arc::new(AtomicUsize::new(0)), is_draining.clone());
        let count = seen.clone();
        let endpoint = plays(move |session| {
            let streams = take(session, 20);
            count.store(20, SeqCst);
            while goes.load(SeqCst) == 0 {
                std::thread::yield_now();
            }
            for stream in streams {
                session.answer(stream, "ok");
            }
            assert!(
                !session.until(|kind, _, _| kind == RST_STREAM),
                "none is cancelled"
            );
        });
        let atlas = atlas()
            .listens_plain()
            .top("workers = 1")
            .forwards_to_with(&endpoint, "http2 = true")
            .driver(driver)
            .start();
        let clients = at_once(&atlas, 20);
        wait_until("they are under way", || (seen.load(SeqCst) == 20).then_some(()));
        atlas.signal(rustix::process::Signal::TERM);
        atlas.log_line(&["draining"]);
        is_draining.store(1, SeqCst);
        assert_eq!(statuses(clients), [200; 20]);
        assert_eq!(atlas.exit_code(), 0);
    });
}

#[test]
fn a_reload_that_changes_the_upstream_closes_its_connections() {
    on_both_drivers(|driver| {
        let endpoint = plays(|session| session.serve());
        let atlas = atlas()
            .listens_plain()
            .top("workers = 1")
            .forwards_to_with(&endpoint, "http2 = true\nidle_timeout = \"20s\"")
            .driver(driver)
            .start();
        assert_eq!(atlas.connect().get("/").status, 200);
        atlas.reload();
        assert_eq!(atlas.connect().get("/").status, 200);
        assert_eq!(endpoint.accepted(), 1, "nothing has changed");
        atlas.rewrite(|text| text.replace("20s", "21s"));
        atlas.reload();
        assert_eq!(atlas.connect().get("/").status, 200);
        assert_eq!(endpoint.accepted(), 2);
        wait_until("the old one is closed", || (endpoint.open() == 1).then_some(()));
    });
}

#[test]
fn an_endpoint_on_a_unix_socket_is_spoken_to_as_any_other() {
    let origin = origin().answers("/", "hello").start();
    let folder = tempfile::tempdir().unwrap();
    let socket = format!("unix:{}", folder.path().join("socket").display());
    let endpoint = atlas()
        .listener(false, &format!("address = {socket:?}\n"))
        .forwards_to(&origin)
        .start();
    let atlas = atlas()
        .listens_plain()
        .text("[[route]]\nupstream = \"app\"")
        .upstream("app", &[&socket], "http2 = true")
        .start();
    assert_eq!(atlas.connect().get("/").text(), "hello");
    assert_eq!(endpoint.exchange("/")["protocol"], "HTTP/2.0");
}

#[test]
fn websocket_goes_over_http_1_to_an_endpoint_that_speaks_both() {
    for tls in [true, false] {
        let switches = origin()
            .handles("/chat", |exchange| {
                exchange
                    .send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")?;
                exchange.echo()
            })
            .start();
        let endpoint = endpoint(&switches, tls);
        let atlas = before(&endpoint, Driver::Auto, "");
        let mut client = atlas.connect_to(1);
        assert_eq!(client.get("/").status, 200);
        client.send("GET /chat HTTP/1.1\r\nHost: a.test\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
        assert_eq!(client.head().unwrap().word(1), "101");
        client.send("hello there");
        assert_eq!(client.read_exactly(11), b"hello there");
        client.finish();
        assert_eq!(client.ends().0, Ending::Closed);
        assert_eq!(endpoint.exchange("/chat")["protocol"], "HTTP/1.1");
        assert_eq!(endpoint.exchange("/")["protocol"], "HTTP/2.0");
    }
}
