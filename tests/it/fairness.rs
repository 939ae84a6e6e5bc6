//! No client can slow another: the worst answer to a third client, beside clients that do their
//! worst, on both drivers.

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::frames::{WINDOW_UPDATE, frame, get, headers};
use crate::support::{Atlas, Driver, alone, atlas, measures_time, noise, on_both_drivers};

const WORST: Duration = Duration::from_millis(50);

/// What the machine does can only make answers slower, and what Atlas does wrong makes them slow each time.
const ROUNDS: usize = 5;

/// One worker, so that all clients meet on it.
fn one_worker(driver: Driver) -> Atlas {
    atlas()
        .top("workers = 1")
        .listens_plain()
        .listens_tls("a.test")
        .file("site/big", noise(50_000_000))
        .text("[[route]]\npath = \"/site\"\nfiles = \"{folder}/site\"\nstrip_prefix = true")
        .text("[[route]]\nrespond = { status = 200, body = \"hello\" }")
        .driver(driver)
        .start()
}

/// The worst of many answers, new connections among them.
fn worst_answer(atlas: &Atlas) -> Duration {
    let mut worst = Duration::ZERO;
    let mut kept = atlas.connect_to(1);
    for turn in 0..60 {
        let took = atlas.time_of(|| {
            if turn % 3 == 0 {
                assert_eq!(atlas.connect_to(0).get("/").text(), "hello");
            } else {
                assert_eq!(kept.get("/").text(), "hello");
            }
        });
        worst = worst.max(took);
        // Spread over the time the others disturb.
        std::thread::sleep(Duration::from_millis(10));
    }
    worst
}

fn stays_fair(disturb: impl Fn(&Atlas, &AtomicBool) + Sync, disturbers: usize) {
    if !measures_time() {
        return;
    }
    let _alone = alone();
    on_both_drivers(|driver| {
        let atlas = one_worker(driver);
        let mut worst = Vec::new();
        while worst.len() < ROUNDS && worst.last().is_none_or(|took| *took >= WORST) {
            worst.push(worst_beside(&atlas, &disturb, disturbers));
        }
        eprintln!("{driver:?}: the worst answers took {worst:?}");
        assert!(
            worst.last() < Some(&WORST),
            "{driver:?}: the worst answers took {worst:?}"
        );
    });
}

fn worst_beside(
    atlas: &Atlas,
    disturb: &(impl Fn(&Atlas, &AtomicBool) + Sync),
    disturbers: usize,
) -> Duration {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..disturbers {
            scope.spawn(|| disturb(atlas, &stop));
        }
        // The disturbers are to be at full speed; nothing tells when they are.
        std::thread::sleep(Duration::from_millis(200));
        let worst = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| worst_answer(atlas)));
        stop.store(true, Ordering::SeqCst);
        worst.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[test]
fn beside_two_that_pipeline_without_pause() {
    stays_fair(
        |atlas, stop| {
            let client = atlas.connect_to(0);
            let mut reader = client.tcp().try_clone().unwrap();
            let mut writer = client.tcp().try_clone().unwrap();
            writer
                .set_write_timeout(Some(Duration::from_millis(200)))
                .unwrap();
            let requests = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n".repeat(500);
            std::thread::scope(|scope| {
                scope.spawn(move || {
                    let mut sink = vec![0; 1 << 20];
                    while matches!(std::io::Read::read(&mut reader, &mut sink), Ok(count) if count > 0) {}
                });
                let mut rest = requests.as_bytes();
                while !stop.load(Ordering::SeqCst) {
                    match writer.write(rest) {
                        Ok(count) if count == rest.len() => rest = requests.as_bytes(),
                        Ok(count) => rest = &rest[count..],
                        Err(_) => {}
                    }
                }
                let _ = writer.shutdown(std::net::Shutdown::Both);
            });
        },
        2,
    );
}

#[test]
fn beside_one_that_sends_a_byte_at_a_time() {
    stays_fair(
        |atlas, stop| {
            let mut slow = TcpStream::connect(atlas.address()).unwrap();
            let mut head = b"GET / HTTP/1.1\r\nHost: a.test\r\nX-Slow: "
                .iter()
                .chain(std::iter::repeat(&b'x'));
            while !stop.load(Ordering::SeqCst) {
                let _ = slow.write_all(&[*head.next().unwrap()]);
                // The pace of a client that attacks by slowness.
                std::thread::sleep(Duration::from_millis(100));
            }
        },
        2,
    );
}

#[test]
fn beside_one_that_never_reads() {
    stays_fair(
        |atlas, stop| {
            let mut client = atlas.connect_to(0);
            client.send("GET /site/big HTTP/1.1\r\nHost: a.test\r\n\r\n");
            while !stop.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(20));
            }
        },
        2,
    );
}

#[test]
fn beside_one_that_downloads_as_fast_as_it_can() {
    stays_fair(
        |atlas, stop| {
            while !stop.load(Ordering::SeqCst) {
                let client = atlas.connect_to(0);
                let mut tcp = client.tcp().try_clone().unwrap();
                tcp.write_all(b"GET /site/big HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")
                    .unwrap();
                let mut sink = vec![0; 1 << 20];
                while !stop.load(Ordering::SeqCst)
                    && matches!(std::io::Read::read(&mut tcp, &mut sink), Ok(count) if count > 0)
                {
                }
            }
        },
        1,
    );
}

/// Each of their ranges is brought into memory by threads beside the worker, which wake it from outside: it is to
/// look after its sockets all the same.
#[test]
fn beside_eight_whose_files_are_brought_in_by_other_threads() {
    stays_fair(
        |atlas, stop| {
            let client = atlas.connect_to(0);
            let mut tcp = client.tcp().try_clone().unwrap();
            let mut sink = vec![0; 1 << 20];
            for turn in 0_u64.. {
                // Never next to the one before, so that what is remembered of it is of no use.
                let from = (turn * 7 % 16) * 3_000_000;
                let to = from + 1_999_999;
                let asks =
                    format!("GET /site/big HTTP/1.1\r\nHost: a.test\r\nRange: bytes={from}-{to}\r\n\r\n");
                tcp.write_all(asks.as_bytes()).unwrap();
                let mut left = 2_000_000;
                while left > 0 {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    match std::io::Read::read(&mut tcp, &mut sink) {
                        Ok(count) if count > 0 => left -= count.min(left),
                        ended => panic!("{ended:?}"),
                    }
                }
            }
        },
        8,
    );
}

#[test]
fn beside_many_that_only_connect() {
    stays_fair(
        |atlas, stop| {
            while !stop.load(Ordering::SeqCst) {
                let silent: Vec<_> = (0..50)
                    .filter_map(|_| TcpStream::connect(atlas.address()).ok())
                    .collect();
                // They stay for a moment, so that they are accepted.
                std::thread::sleep(Duration::from_millis(20));
                drop(silent);
            }
        },
        1,
    );
}

#[test]
fn beside_two_that_ask_for_a_hundred_things_at_a_time_by_http2() {
    stays_fair(
        |atlas, stop| {
            let mut http2 = atlas.http2();
            http2.settled();
            while !stop.load(Ordering::SeqCst) {
                let streams: Vec<_> = (0..100).map(|_| http2.stream()).collect();
                let heads = streams
                    .iter()
                    .map(|stream| headers(*stream, &get("/", &[]), true));
                http2.send(heads.collect::<Vec<_>>().concat());
                for stream in streams {
                    assert_eq!(http2.answer(stream).status(), 200);
                }
            }
        },
        2,
    );
}

#[test]
fn beside_two_that_read_long_files_by_http2_with_windows_wide_open() {
    stays_fair(
        |atlas, stop| {
            let mut http2 = atlas.http2_with(&[(4, 0x7fff_ffff)]);
            http2.send(frame(WINDOW_UPDATE, 0, 0, 0x7fff_0000_u32.to_be_bytes()));
            for _ in 0..20 {
                http2.begin(&get("/site/big", &[]), true);
            }
            let mut reader = http2.connection.tcp().try_clone().unwrap();
            let mut sink = vec![0; 1 << 20];
            while !stop.load(Ordering::SeqCst)
                && matches!(std::io::Read::read(&mut reader, &mut sink), Ok(count) if count > 0)
            {}
        },
        2,
    );
}
