//! Hostile clients: what each may do, what it hears when it does more, and what is written down of it.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::calm;
use crate::support::frames::*;
use crate::support::{Atlas, Origin, alone, atlas, origin, wait_until};

/// A flood: its name, what comes again and again, and the cause that is recorded.
struct Flood {
    name: &'static str,
    piece: fn(u32) -> Vec<u8>,
    cause: &'static str,
}

/// `piece` makes the frames of one round; its number is a stream nobody has used yet.
fn flood(name: &'static str, cause: &'static str, piece: fn(u32) -> Vec<u8>) -> Flood {
    Flood { name, piece, cause }
}

fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, CANCEL.to_be_bytes())
}

fn floods() -> Vec<Flood> {
    vec![
        flood("rapid reset", "rapid_reset", |stream| {
            [headers(stream, &get("/", &[]), true), reset(stream)].concat()
        }),
        flood("rapid reset of requests with bodies", "rapid_reset", |stream| {
            [headers(stream, &request("POST", "/", &[]), false), reset(stream)].concat()
        }),
        flood("resets of one stream", "rapid_reset", |stream| match stream {
            1 => headers(1, &get("/", &[]), true),
            _ => reset(1),
        }),
        // MadeYouReset: Atlas resets the stream, the request behind it goes on elsewhere.
        flood("windows opened too far", "provoked_resets", |stream| {
            let most = frame(WINDOW_UPDATE, 0, stream, 0x7fff_ffff_u32.to_be_bytes());
            [headers(stream, &request("POST", "/", &[]), false), most].concat()
        }),
        flood("malformed requests", "provoked_resets", |stream| {
            headers(stream, &get("/", &[("connection", "close")]), true)
        }),
        flood("bodies longer than was said", "provoked_resets", |stream| {
            let head = headers(stream, &request("POST", "/", &[("content-length", "1")]), false);
            [head, frame(DATA, 0, stream, b"xy")].concat()
        }),
        flood("more streams than are allowed", "provoked_resets", |stream| {
            headers(stream, &request("POST", "/never", &[]), false)
        }),
        flood("PING", "ping_flood", |_| frame(PING, 0, 0, [1; 8])),
        flood("answers to no PING", "ping_flood", |_| {
            frame(PING, ACK, 0, [1; 8])
        }),
        flood("SETTINGS", "settings_flood", |_| frame(SETTINGS, 0, 0, b"")),
        flood("SETTINGS that change a window", "settings_flood", |stream| {
            frame(SETTINGS, 0, 0, setting(4, stream))
        }),
        flood("WINDOW_UPDATE of the connection", "window_update_flood", |_| {
            frame(WINDOW_UPDATE, 0, 0, [0, 0, 0, 1])
        }),
        flood(
            "WINDOW_UPDATE of a stream",
            "window_update_flood",
            |stream| match stream {
                1 => headers(1, &request("POST", "/never", &[]), false),
                _ => frame(WINDOW_UPDATE, 0, 1, [0, 0, 0, 1]),
            },
        ),
        flood("empty DATA", "empty_frames", |stream| match stream {
            1 => headers(1, &request("POST", "/never", &[]), false),
            _ => frame(DATA, 0, 1, b""),
        }),
        flood("DATA of padding alone", "empty_frames", |stream| match stream {
            1 => headers(1, &request("POST", "/never", &[]), false),
            _ => frame(DATA, PADDED, 1, [0]),
        }),
        flood("PRIORITY", "frame_flood", |stream| {
            frame(PRIORITY, 0, stream, [0, 0, 0, 0, 9])
        }),
        flood("frames of unknown kinds", "frame_flood", |_| {
            frame(0xbe, 0, 0, b"grease")
        }),
        flood("PRIORITY_UPDATE", "frame_flood", |stream| {
            frame(0x10, 0, 0, [&stream.to_be_bytes()[..], b"u=1"].concat())
        }),
        flood(
            "CONTINUATION without end",
            "continuation_flood",
            |stream| match stream {
                1 => frame(HEADERS, 0, 1, block(&get("/", &[]))),
                _ => frame(CONTINUATION, 0, 1, block(&[("x", "1")])),
            },
        ),
        flood(
            "empty CONTINUATION",
            "continuation_flood",
            |stream| match stream {
                1 => frame(HEADERS, 0, 1, block(&get("/", &[]))),
                _ => frame(CONTINUATION, 0, 1, b""),
            },
        ),
    ]
}

fn start(lines: &str) -> (Origin, Atlas) {
    let origin = origin()
        .handles("/never", |exchange| {
            exchange.wait_for_close();
            Ok(crate::support::Then::Close)
        })
        .start();
    let atlas = atlas()
        .listens_plain()
        .forwards_to(&origin)
        .top("workers = 1")
        .text(lines)
        .start();
    (origin, atlas)
}

#[test]
fn every_flood_is_bounded_and_called_by_its_name() {
    let (origin, atlas) = start("");
    for flood in floods() {
        let cause = format!("cause=\"{}\"", flood.cause);
        let count = |atlas: &Atlas| atlas.metric("atlas_downstream_connections_ended_total", &[&cause]);
        let before = count(&atlas);
        let mut http2 = atlas.http2();
        let mut rounds = 0;
        while rounds < 20_000 && http2.ending.is_none() {
            let stream = http2.stream();
            rounds += 1;
            if http2.connection.try_send((flood.piece)(stream)).is_err() {
                break;
            }
        }
        assert!(rounds > 1, "{}", flood.name);
        let goaway = http2.end();
        // A client that does not listen may be met by a reset before it hears why.
        if let Some(goaway) = goaway {
            assert_eq!(goaway.code, ENHANCE_YOUR_CALM, "{}: {goaway:?}", flood.name);
        }
        drop(http2);
        wait_until(flood.name, || (count(&atlas) > before).then_some(()));
        wait_until("the origin is free", || (origin.open() <= 1).then_some(()));
    }
}

#[test]
fn floods_end_with_enhance_your_calm_for_those_who_listen() {
    let (_origin, atlas) = start("[limits.http2]\nstreams = 20\nresets = 10\noverhead = 50");
    for flood in floods() {
        let mut http2 = atlas.http2();
        let bytes: Vec<u8> = (0..110).flat_map(|round| (flood.piece)(2 * round + 1)).collect();
        http2.send(bytes);
        let goaway = http2.end();
        assert!(goaway.is_some(), "{}: {:?}", flood.name, http2.ending);
        calm(goaway);
    }
}

#[test]
fn requests_that_their_trailers_undo_are_bounded_as_cancelled_ones_are() {
    // Together, because some are allowed in each second, and a slow machine comes to no more by ones.
    const AT_ONCE: usize = 100;
    let (origin, atlas) = start("[limits.http2]\nresets = 10");
    let mut http2 = atlas.http2();
    for round in 1..10 {
        let streams: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                let stream = http2.begin(&request("POST", "/never", &[]), false);
                http2.upload(stream, b"begun", false);
                stream
            })
            .collect();
        let reached = || origin.requests().len() >= round * AT_ONCE || atlas_ended(&atlas);
        wait_until("the origin has them", || reached().then_some(()));
        let bad = |stream| {
            let trailers = block(&[("x-trailer", " begins with a space")]);
            frame(HEADERS, END_HEADERS | END_STREAM, stream, trailers)
        };
        http2.send(streams.iter().flat_map(|stream| bad(*stream)).collect::<Vec<_>>());
        for stream in streams {
            while !http2.so_far(stream).has_ended && http2.read_frame() {}
        }
        if http2.ending.is_some() {
            break;
        }
    }
    calm(http2.end());
    let reached = origin.requests().len();
    assert!(
        (10..=2 * AT_ONCE).contains(&reached),
        "{reached} requests were begun and undone"
    );
    assert!(atlas_ended(&atlas));
}

/// A connection was ended for what its client made Atlas cancel.
fn atlas_ended(atlas: &Atlas) -> bool {
    atlas.metric(
        "atlas_downstream_connections_ended_total",
        &["cause=\"provoked_resets\""],
    ) > 0.0
}

#[test]
fn a_ping_for_each_answer_is_no_flood() {
    let (_origin, atlas) = start("[limits.http2]\noverhead = 50\n[[route]]\npath = \"/ok\"\nrespond = 200");
    let mut http2 = atlas.http2();
    for at in 0..300 {
        assert_eq!(http2.get("/ok").status(), 200, "after {at}");
        http2.round_trip();
    }
    // What was not used is not saved up.
    http2.send(frame(PING, 0, 0, [1; 8]).repeat(150));
    calm(http2.end());
}

#[test]
fn many_small_messages_are_no_flood() {
    let (_origin, atlas) = start("");
    let mut http2 = atlas.http2();
    http2.settled();
    // As calls of gRPC send them, all that the first windows let through.
    let stream = http2.begin(&request("POST", "/messages", &[]), false);
    let messages: Vec<u8> = (0..20_000).flat_map(|_| frame(DATA, 0, stream, b"abc")).collect();
    http2.send(messages);
    http2.send(frame(DATA, END_STREAM, stream, b""));
    assert_eq!(http2.answer(stream).status(), 200);
    super::works(&mut http2).unwrap();
}

#[test]
fn blocks_of_fields_that_unpack_to_far_more_are_refused() {
    let (origin, atlas) = start("");
    // One entry of the dynamic table, and then an index of one byte for each time it is meant.
    let mut bomb = block(&get("/bomb", &[]));
    bomb.push(0x40);
    string(&mut bomb, b"x");
    string(&mut bomb, "y".repeat(3900).as_bytes());
    bomb.extend(vec![0xbe; 12_000]);
    let before = atlas.memory_kib();
    let mut http2 = atlas.http2();
    let stream = http2.stream();
    http2.send(frame(HEADERS, END_HEADERS | END_STREAM, stream, bomb));
    calm(http2.end());
    // Within the bounds a head is only refused, and the connection goes on.
    let mut http2 = atlas.http2();
    let large = "y".repeat(9_000);
    let fields: Vec<_> = (0..4).map(|_| ("x", large.as_str())).collect();
    let all = block(&get("/large", &fields));
    let mut pieces = all.chunks(16_384);
    http2.send(frame(HEADERS, END_STREAM, 1, pieces.next().unwrap()));
    http2.send(frame(CONTINUATION, 0, 1, pieces.next().unwrap()));
    http2.send(frame(CONTINUATION, END_HEADERS, 1, pieces.next().unwrap()));
    assert_eq!(http2.answer(1).status(), 431);
    super::works(&mut http2).unwrap();
    assert!(origin.requests().iter().all(|seen| seen.head.word(1) == "/works"));
    let held = atlas.memory_kib().saturating_sub(before);
    assert!(held < 8 * 1024, "{held} KiB");
}

/// How long floods last: this, or as long as `ATLAS_FLOOD_SECONDS` says.
fn flood_time(usual: Duration) -> Duration {
    let asked = std::env::var("ATLAS_FLOOD_SECONDS").ok();
    let asked = asked.and_then(|text| text.parse().ok());
    asked.map_or(usual, Duration::from_secs)
}

#[test]
fn each_flood_that_comes_back_again_and_again_finds_as_much_memory_as_before() {
    let _alone = alone();
    let (_origin, atlas) = start("");
    let floods = floods();
    let come = |flood: &Flood| {
        let mut http2 = atlas.http2();
        let all: Vec<u8> = (0..3000).flat_map(|round| (flood.piece)(2 * round + 1)).collect();
        http2.send(all);
        http2.end();
    };
    floods.iter().for_each(come); // what one of each leaves with the allocator is there from now on
    for flood in &floods {
        let (before, started) = (atlas.memory_kib(), Instant::now());
        let mut times = 0;
        while started.elapsed() < flood_time(Duration::from_millis(200)) {
            come(flood);
            times += 1;
        }
        let held = atlas.memory_kib().saturating_sub(before);
        eprintln!("{}: {times} times, {held} KiB more", flood.name);
        assert!(held < 16 * 1024, "{}: {held} KiB after {times}", flood.name);
    }
}

#[test]
fn floods_do_not_slow_another_down() {
    const ROUNDS: usize = 5;
    let _alone = alone();
    let (_origin, atlas) = start("[[route]]\npath = \"/ok\"\nrespond = 200");
    let before = atlas.memory_kib();
    let is_bounded = |(middle, slowest): &(Duration, Duration)| {
        *middle < Duration::from_millis(50) && *slowest < Duration::from_secs(1)
    };
    // What the machine does can only make answers slower, and what Atlas does wrong makes them slow each time.
    let mut rounds = Vec::new();
    while rounds.len() < ROUNDS && !rounds.last().is_some_and(is_bounded) {
        rounds.push(answers_beside_floods(&atlas));
    }
    assert!(rounds.last().is_some_and(is_bounded), "{rounds:?}");
    let held = atlas.memory_kib().saturating_sub(before);
    eprintln!("{held} KiB held behind the floods");
    assert!(held < 64 * 1024, "{held} KiB");
}

/// How long an answer takes beside floods, in the middle and at the most.
fn answers_beside_floods(atlas: &Atlas) -> (Duration, Duration) {
    let stop = AtomicBool::new(false);
    // On one processor they take Atlas's time by making the floods, whatever Atlas makes of them.
    let flooders = match std::thread::available_parallelism() {
        Ok(cores) if cores.get() > 1 => 4,
        _ => 1,
    };
    std::thread::scope(|scope| {
        for at in 0..flooders {
            let stop = &stop;
            scope.spawn(move || {
                let floods = floods();
                let mut round = at;
                while !stop.load(Relaxed) {
                    round += 1;
                    let flood = &floods[round % floods.len()];
                    let mut http2 = atlas.http2();
                    let all: Vec<u8> = (0..3000)
                        .flat_map(|stream| (flood.piece)(2 * stream + 1))
                        .collect();
                    http2.send(all);
                    http2.end();
                }
            });
        }
        let started = Instant::now();
        let mut took = Vec::new();
        let mut good = atlas.http2();
        while started.elapsed() < flood_time(Duration::from_secs(3)) {
            took.push(atlas.time_of(|| assert_eq!(good.get("/ok").status(), 200)));
        }
        stop.store(true, Relaxed);
        took.sort();
        let (middle, slowest) = (took[took.len() / 2], took[took.len() - 1]);
        eprintln!(
            "{} requests beside the floods: {middle:?}, the slowest {slowest:?}",
            took.len()
        );
        (middle, slowest)
    })
}
