//! Connections that switch protocols: what is asked, what may be answered, how a tunnel ends.

mod connect;
mod websocket;

use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::client::PATIENCE;
use crate::support::wire::Wire;
use crate::support::{
    Atlas, Connection, Digest, Ending, Origin, Then, atlas, noise, on_both_drivers, origin, wait_until,
};

const MEMORY_KIB_MAX: u64 = 64 * 1024;

/// A request for another protocol.
const ASKS: &str = "GET /up HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: echo/1\r\n\r\n";

/// An endpoint's consent.
const SWITCHES: &str = "HTTP/1.1 101 Of course\r\nConnection: Upgrade\r\nUpgrade: echo/1\r\nX-A: b\r\n\r\n";

/// Switches to a protocol that says everything again; what it says first comes with its 101.
fn echoes(first: &'static str) -> Origin {
    origin()
        .handles("/up", move |exchange| {
            exchange.read_body()?;
            exchange.send([SWITCHES, first].concat())?;
            exchange.echo()
        })
        .start()
}

/// Without TLS, and with it.
const PLAIN: usize = 0;
const TLS: usize = 1;

fn in_front_of(origin: &Origin, lines: &str) -> Atlas {
    atlas()
        .listens_plain()
        .listens_tls("a.test")
        .forwards_to(origin)
        .text(lines)
        .start()
}

/// A client that has got its 101.
fn switched(atlas: &Atlas, listener: usize) -> Connection {
    try_switched(atlas, listener).unwrap()
}

fn try_switched(atlas: &Atlas, listener: usize) -> io::Result<Connection> {
    let mut client = atlas.try_connect_to(listener)?;
    client.try_send(ASKS)?;
    assert_eq!(client.head()?.word(1), "101");
    Ok(client)
}

fn says(client: &mut Connection, words: &str) {
    client.send(words);
    assert_eq!(client.read_exactly(words.len()), words.as_bytes());
}

#[test]
fn what_was_sent_ahead_on_either_side_arrives() {
    on_both_drivers(|driver| {
        let origin = echoes("first");
        let atlas = atlas()
            .listens_plain()
            .listens_tls("a.test")
            .forwards_to(&origin)
            .driver(driver)
            .start();
        let early = noise(300_000);
        for listener in [PLAIN, TLS] {
            for count in [1, 1000, early.len()] {
                let mut client = atlas.connect_to(listener);
                let asks = [ASKS.as_bytes(), &early[..count]].concat();
                client.send(asks);
                let head = client.head().unwrap();
                assert_eq!(
                    (head.word(1), head.all("upgrade"), head.all("connection")),
                    ("101", vec!["echo/1"], vec!["upgrade"])
                );
                assert_eq!(head.field("x-a"), Some("b"), "{head:?}");
                assert_eq!(client.read_exactly(5), b"first");
                assert!(client.read_exactly(count) == early[..count]);
                says(&mut client, "and more");
                client.finish();
                assert_eq!(client.ends().0, Ending::Closed);
            }
        }
        let seen = origin.request().head;
        assert_eq!(
            (seen.all("upgrade"), seen.all("connection")),
            (vec!["echo/1"], vec!["upgrade"])
        );
    });
}

#[test]
fn a_record_tells_of_a_tunnel_and_a_gauge_counts_it() {
    let origin = echoes("");
    let atlas = in_front_of(&origin, "");
    let open = || atlas.metric("atlas_tunnels_open", &[]);
    let mut client = switched(&atlas, TLS);
    wait_until("it is counted", || (open() == 1.0).then_some(()));
    says(&mut client, "hello");
    client.finish();
    assert_eq!(client.ends().0, Ending::Closed);
    let record = atlas.exchange("/up");
    assert_eq!(
        (&record["status"], &record["bytes_in"], &record["bytes_out"]),
        (&101.into(), &5.into(), &5.into()),
        "{record}"
    );
    assert_eq!(
        (&record["side"], &record["phase"], &record["cause"]),
        (&"downstream".into(), &"done".into(), &"finished".into()),
        "{record}"
    );
    wait_until("it is counted off", || (open() == 0.0).then_some(()));
    assert_eq!(atlas.metric("atlas_responses_total", &["1xx"]), 1.0);
}

#[test]
fn each_side_may_have_said_all_and_still_listen() {
    let (tell, told) = std::sync::mpsc::channel();
    let speaks_first = origin()
        .raw(move |stream| {
            let mut wire = Wire::new(stream);
            wire.head().unwrap();
            wire.send([SWITCHES, "all"].concat()).unwrap();
            wire.stream.tcp().shutdown(Shutdown::Write).unwrap();
            let mut heard = Vec::new();
            while let Some(piece) = wire.piece(u64::MAX).unwrap() {
                heard.extend_from_slice(piece);
            }
            tell.send(heard).unwrap();
        })
        .start();
    let hears_first = origin()
        .handles("/up", |exchange| {
            exchange.read_body()?;
            exchange.send(SWITCHES)?;
            assert!(exchange.wait_for_close());
            exchange.send(noise(2_000_000))?;
            Ok(Then::Close)
        })
        .start();
    let (one, other) = (in_front_of(&speaks_first, ""), in_front_of(&hears_first, ""));
    for listener in [PLAIN, TLS] {
        let mut client = switched(&one, listener);
        assert_eq!(client.read_to_end(), (b"all".to_vec(), Ending::Closed));
        client.send(noise(100_000)).finish();
        assert!(told.recv_timeout(PATIENCE).unwrap() == noise(100_000));

        let mut client = switched(&other, listener);
        client.finish();
        let (rest, ending) = client.read_to_end();
        assert!(rest == noise(2_000_000) && ending == Ending::Closed);
    }
}

#[test]
fn an_origin_that_does_not_switch_answers_as_ever() {
    let required = "HTTP/1.1 426 Upgrade Required\r\nConnection: upgrade\r\nUpgrade: echo/2\r\n\
                    Content-Length: 2\r\n\r\nno";
    let refused = "HTTP/1.1 403 No\r\nUpgrade: echo/2\r\nContent-Length: 2\r\n\r\nno";
    let origin = origin()
        .sends("/required", required, Then::Keep)
        .sends("/refused", refused, Then::Keep)
        .handles("/late", |exchange| {
            exchange.send("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")?;
            exchange.answer(200, &[], b"no")
        })
        .start();
    let atlas = in_front_of(&origin, "");
    for listener in [PLAIN, TLS] {
        let mut client = atlas.connect_to(listener);
        for (path, status, upgrade, connection) in [
            ("/required", 426, Some("echo/2"), Some("upgrade")),
            ("/refused", 403, None, None),
            ("/late", 200, None, None),
        ] {
            let answer = client.send(ASKS.replace("/up", path)).answer();
            assert_eq!((answer.status, answer.text().as_str()), (status, "no"), "{path}");
            assert_eq!(
                (answer.field("upgrade"), answer.field("connection")),
                (upgrade, connection),
                "{path}"
            );
        }
        assert_eq!(client.get("/after").status, 200, "the connection is kept");
    }
}

/// What is asked, what comes of it at the origin, and what is said there.
#[rustfmt::skip]
const ANSWERED: &[(&str, &str, u16)] = &[
    ("websocket", "Connection: Upgrade\r\nUpgrade: websocket\r\n", 101),
    ("websocket", "Connection: upgrade, x\r\nUpgrade: WebSocket\r\n", 101),
    ("a/1, b/2", "Connection: Upgrade\r\nUpgrade: b/2\r\n", 101),
    ("h2c, tcp", "Connection: Upgrade\r\nUpgrade: tcp\r\n", 101),
    ("websocket", "Connection: Upgrade\r\nUpgrade: h2c\r\n", 502),
    ("websocket", "Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n", 502),
    ("a/1", "Connection: Upgrade\r\nUpgrade: a/2\r\n", 502),
    ("a/1", "Connection: Upgrade\r\nUpgrade:\r\n", 502),
    ("a/1", "Connection: Upgrade\r\n", 502),
    ("a/1", "Upgrade: a/1\r\n", 502),
    ("a/1", "", 502),
    // Never asked for, and so never switched to.
    ("h2c", "Connection: Upgrade\r\nUpgrade: h2c\r\n", 502),
    ("HTTP/2.0", "Connection: Upgrade\r\nUpgrade: HTTP/2.0\r\n", 502),
    ("TLS/1.3", "Connection: Upgrade\r\nUpgrade: TLS/1.3\r\n", 502),
];

#[test]
fn an_origin_may_switch_to_what_was_asked_only() {
    for (asked, fields, status) in ANSWERED {
        let switches = format!("HTTP/1.1 101 Yes\r\n{fields}\r\n");
        let origin = origin().sends("/up", switches, Then::Close).start();
        let atlas = in_front_of(&origin, "");
        let mut client = atlas.connect_to(PLAIN);
        client.send(ASKS.replace("echo/1", asked));
        let answer = client.answer();
        assert_eq!(answer.status, *status, "{asked:?}, {fields:?}: {answer:?}");
        if *status == 502 {
            assert!(
                answer.text().contains("upstream_response_malformed"),
                "{answer:?}"
            );
        }
    }
}

#[test]
fn a_body_goes_before_the_other_protocol() {
    let origin = origin()
        .handles("/up", |exchange| {
            let asked = exchange.read_body()?;
            exchange.send([SWITCHES.as_bytes(), &asked.body].concat())?;
            exchange.echo()
        })
        .handles("/hasty", |exchange| {
            exchange.send(SWITCHES)?;
            exchange.echo()
        })
        .start();
    let atlas = in_front_of(&origin, "");
    let asks = |lines: &str| {
        ASKS.replace("GET", "POST")
            .replace("Connection:", &format!("{lines}\r\nConnection:"))
    };
    for (lines, body) in [
        ("Content-Length: 5", "hello"),
        ("Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n"),
        ("Content-Length: 0", ""),
    ] {
        let mut client = atlas.connect_to(TLS);
        client.send([&asks(lines), body, "behind it"].concat());
        assert_eq!(client.head().unwrap().word(1), "101", "{lines}");
        if !body.is_empty() {
            assert_eq!(client.read_exactly(5), b"hello");
        }
        assert_eq!(client.read_exactly(9), b"behind it", "{lines}");
    }
    // RFC 9110 §7.8: the protocol cannot change in the middle of a message.
    let mut client = atlas.connect_to(TLS);
    client.send(asks("Content-Length: 500000").replace("/up", "/hasty"));
    client.send("hello");
    assert_eq!(client.answer().status, 502);
}

fn ends_by(atlas: &Atlas, path: &str, words: [&str; 3]) {
    let record = atlas.exchange(path);
    let ended = [&record["side"], &record["phase"], &record["cause"]];
    assert_eq!(ended, words, "{record}");
    assert_eq!(record["status"], 101, "{record}");
}

#[test]
fn an_origin_that_dies_is_not_taken_for_one_that_is_done() {
    let origin = origin()
        .handles("/up", |exchange| {
            exchange.send([SWITCHES, "half a fr"].concat())?;
            exchange.read_some()?;
            Ok(Then::Reset)
        })
        .start();
    let atlas = in_front_of(&origin, "");
    for listener in [PLAIN, TLS] {
        let mut client = switched(&atlas, listener);
        assert_eq!(client.read_exactly(9), b"half a fr");
        client.send("x");
        assert_eq!(client.ends().0, Ending::Reset);
        assert_eq!(origin.requests().len(), listener + 1, "it is never asked twice");
    }
    ends_by(&atlas, "/up", ["upstream", "relay", "reset"]);
}

#[test]
fn a_client_that_vanishes_frees_the_origin() {
    let origin = echoes("");
    let atlas = in_front_of(&origin, "");
    for listener in [PLAIN, TLS] {
        let mut client = switched(&atlas, listener);
        says(&mut client, "hello");
        client.reset();
        wait_until("it is freed", || (origin.open() == 0).then_some(()));
    }
    ends_by(&atlas, "/up", ["downstream", "relay", "reset"]);
}

#[test]
fn a_tunnel_in_which_nothing_moves_ends() {
    let origin = echoes("");
    let atlas = in_front_of(&origin, "[timeouts]\ntunnel = \"6s\"\nidle = \"300ms\"");
    // A client that asks too late is closed before it does.
    let mut clients =
        [TLS, PLAIN].map(|listener| wait_until("it asks in time", || try_switched(&atlas, listener).ok()));
    for _ in 0..13 {
        // Longer than a connection without a request may be silent, and less than a tunnel may; in all more.
        std::thread::sleep(Duration::from_millis(500));
        for client in &mut clients {
            says(client, "still there");
        }
    }
    for client in &mut clients {
        assert_eq!(client.ends().0, Ending::Closed);
    }
    wait_until("the origin hears of it", || (origin.open() == 0).then_some(()));
    ends_by(&atlas, "/up", ["atlas", "relay", "idle"]);
}

#[test]
fn a_drain_waits_for_tunnels_and_then_cuts_them() {
    on_both_drivers(|driver| {
        let origin = echoes("");
        let drains = |deadline: &str| {
            atlas()
                .listens_plain()
                .forwards_to(&origin)
                .text(&format!("[timeouts]\ndrain = \"{deadline}\""))
                .driver(driver)
        };
        let patient = drains("20s").start();
        let mut client = switched(&patient, PLAIN);
        patient.signal(Signal::TERM);
        wait_until("it drains", || {
            patient.admin("/-/ready").filter(|answer| answer.status == 503)
        });
        says(&mut client, "goes on");
        client.finish();
        assert_eq!(client.ends().0, Ending::Closed);
        assert_eq!(patient.exit_code(), 0);
        ends_by(&patient, "/up", ["downstream", "done", "finished"]);

        let hasty = drains("500ms").expects_log("cut").start();
        let mut client = switched(&hasty, PLAIN);
        says(&mut client, "hello");
        assert_eq!(hasty.stop(), 0);
        assert_eq!(client.ends().0, Ending::Reset, "it is not taken for its end");
        ends_by(&hasty, "/up", ["atlas", "relay", "cut"]);
        wait_until("the origin hears of it", || (origin.open() == 0).then_some(()));
    });
}

#[test]
fn a_reload_leaves_tunnels_alone() {
    let origin = echoes("");
    let atlas = atlas()
        .listens_plain()
        .listens_tls("a.test")
        .forwards_to(&origin)
        .text("[timeouts]\ndrain = \"300ms\"")
        .expects_log("cut at the drain timeout") // its tunnel is open to the end
        .start();
    let mut client = switched(&atlas, TLS);
    atlas.rewrite(|text| text.replace("300ms", "200ms"));
    atlas.reload();
    let elsewhere = "path = \"/elsewhere\"\nupstream = \"app\"\n[[route]]\nrespond = 204";
    atlas.rewrite(|text| text.replace("upstream = \"app\"", elsewhere));
    atlas.reload();
    assert_eq!(atlas.connect_to(PLAIN).get("/").status, 204);
    assert!(client.is_silent_for(Duration::from_millis(500)));
    says(&mut client, "hello");
}

#[test]
fn a_tunnel_is_a_connection_among_those_that_may_be_open() {
    let origin = echoes("");
    let atlas = atlas()
        .top("workers = 1")
        .listener(false, "connections_max = 1")
        .forwards_to(&origin)
        .start();
    let mut client = switched(&atlas, PLAIN);
    let mut waiting = atlas.connect();
    waiting.send(ASKS);
    assert!(waiting.is_silent_for(Duration::from_millis(300)));
    says(&mut client, "hello");
    drop(client);
    assert_eq!(waiting.head().unwrap().word(1), "101");
}

#[test]
fn a_pooled_connection_can_switch_and_is_not_used_again() {
    let origin = echoes("");
    let atlas = atlas()
        .top("workers = 1")
        .listens_plain()
        .forwards_to(&origin)
        .start();
    assert_eq!(atlas.get("/").status, 200);
    let mut client = switched(&atlas, PLAIN);
    says(&mut client, "hello");
    assert_eq!(origin.accepted(), 1, "the idle one is asked");
    client.finish();
    assert_eq!(client.ends().0, Ending::Closed);
    assert_eq!(atlas.get("/").status, 200);
    assert_eq!(origin.accepted(), 2);
    // One that has closed in its idle time costs nothing: the request is sent again.
    origin.closes_all();
    says(&mut switched(&atlas, PLAIN), "hello");
}

#[test]
fn bytes_flow_both_ways_at_once_in_bounded_memory() {
    const COUNT: usize = 64 << 20;
    on_both_drivers(|driver| {
        let origin = echoes("");
        let atlas = atlas()
            .listens_plain()
            .forwards_to(&origin)
            .driver(driver)
            .start();
        let client = switched(&atlas, PLAIN);
        let piece = noise(1 << 20);
        let (mut sent, mut came) = (Digest::new(), Digest::new());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut tcp = client.tcp();
                for _ in 0..COUNT / piece.len() {
                    sent.update(&piece);
                    tcp.write_all(&piece).unwrap();
                }
                tcp.shutdown(Shutdown::Write).unwrap();
            });
            let (mut tcp, mut buffer) = (client.tcp(), vec![0; 1 << 16]);
            while let count @ 1.. = tcp.read(&mut buffer).unwrap() {
                came.update(&buffer[..count]);
            }
        });
        assert_eq!(came.hex(), sent.hex());
        assert!(
            atlas.memory_peak_kib() < MEMORY_KIB_MAX,
            "{}",
            atlas.memory_peak_kib()
        );
        let record = atlas.exchange("/up");
        let moved = |name: &str| record[name].as_u64().unwrap_or_default();
        assert_eq!(
            (moved("bytes_in"), moved("bytes_out")),
            (COUNT as u64, COUNT as u64)
        );
        assert!(
            moved("bytes_spliced") > COUNT as u64,
            "plain to plain it stays in the kernel: {record}"
        );
        assert_eq!(moved("bytes_spliced") + moved("bytes_copied"), 2 * COUNT as u64);
    });
}
