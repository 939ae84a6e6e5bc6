//! Limits and timeouts: each is reached with a small value, and costs its client and nobody else.

use std::time::{Duration, Instant};

use crate::support::{Connection, Ending, Then, alone, atlas, origin, wait_long_until, wait_until};

/// How late a deadline of some hundred milliseconds may be on a busy machine; it is 10 s if nobody says otherwise.
const LATE: Duration = Duration::from_secs(9);

#[test]
fn a_head_that_does_not_come_whole_is_408() {
    let origin = origin().start();
    let atlas = atlas()
        .listens_tls("a.test")
        .forwards_to(&origin)
        .text("[timeouts]\nheader = \"400ms\"")
        .start();
    let mut client = atlas.connect();
    let started = Instant::now();
    // Bytes that trickle do not extend it.
    for byte in b"GET / HTTP/1.1\r\n" {
        if client.try_send([*byte]).is_err() {
            break;
        }
        // Each byte comes well before the deadline of the whole.
        std::thread::sleep(Duration::from_millis(40));
    }
    let answer = client.answer();
    assert_eq!((answer.status, answer.field("connection")), (408, Some("close")));
    assert!(started.elapsed() < LATE);
    assert_eq!(client.ends().0, Ending::Closed);
    assert!(origin.requests().is_empty());
}

#[test]
fn a_body_that_stops_is_408() {
    let origin = origin().start();
    let atlas = atlas()
        .listens_tls("a.test")
        .forwards_to(&origin)
        .text("[timeouts]\nbody = \"300ms\"")
        .start();
    let mut client = atlas.connect();
    client.send("POST /stops HTTP/1.1\r\nHost: a.test\r\nContent-Length: 10\r\n\r\nhello");
    assert_eq!(client.answer().status, 408);
    assert_eq!(client.ends().0, Ending::Closed);
    wait_until("the origin's connection is freed", || {
        (origin.open() == 0).then_some(())
    });
    let record = atlas.exchange("/stops");
    assert_eq!(
        (&record["side"], &record["phase"], &record["cause"]),
        (&"downstream".into(), &"request_body".into(), &"timed_out".into()),
        "{record}"
    );
}

#[test]
fn a_body_slower_than_the_least_rate_is_ended() {
    let origin = origin().start();
    let atlas = atlas()
        .listens_plain()
        .forwards_to(&origin)
        .text("[limits]\nmin_rate = \"10KiB\"")
        .start();
    let mut client = atlas.connect();
    client.send("POST /slow HTTP/1.1\r\nHost: a.test\r\nContent-Length: 100000\r\n\r\n");
    let started = Instant::now();
    // The grace is 5 s; a byte every 50 ms is far below the rate.
    while client.try_send("x").is_ok() && started.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(50));
    }
    let took = started.elapsed();
    assert!(
        took > Duration::from_secs(4) && took < Duration::from_secs(25),
        "{took:?}"
    );
    let record = atlas.exchange("/slow");
    assert_eq!(
        (&record["side"], &record["cause"]),
        (&"downstream".into(), &"too_slow".into()),
        "{record}"
    );
}

#[test]
fn a_client_whose_answer_has_begun_may_be_quiet() {
    let origin = origin()
        .handles("/talk", |exchange| {
            exchange.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n")?;
            let seen = exchange.read_body()?;
            assert_eq!(seen.body, b"ab");
            exchange.send("2\r\nab\r\n0\r\n\r\n")?;
            Ok(Then::Keep)
        })
        .start();
    let atlas = atlas().listens_plain().forwards_to(&origin).start();
    let mut client = atlas.connect();
    client.send("POST /talk HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_eq!(client.head().unwrap().word(1), "200");
    assert_eq!(client.read_exactly(7), b"2\r\nhi\r\n");
    for piece in ["1\r\na\r\n", "1\r\nb\r\n0\r\n\r\n"] {
        std::thread::sleep(Duration::from_secs(6)); // longer than a client may be slow at first
        client.send(piece);
    }
    assert_eq!(client.read_exactly(12), b"2\r\nab\r\n0\r\n\r\n");
}

#[test]
fn a_client_that_has_waited_for_its_answer_was_not_slow() {
    let origin = origin()
        .handles("/talk", |exchange| {
            exchange.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n")?;
            std::thread::sleep(Duration::from_secs(6)); // longer than a client may be slow at first
            exchange.send("0\r\n\r\n")?;
            assert_eq!(exchange.read_body()?.body, b"a");
            Ok(Then::Keep)
        })
        .start();
    let atlas = atlas().listens_plain().forwards_to(&origin).start();
    let mut client = atlas.connect();
    client.send("POST /talk HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_eq!(client.head().unwrap().word(1), "200");
    assert_eq!(client.read_exactly(12), b"2\r\nhi\r\n0\r\n\r\n");
    client.send("1\r\na\r\n0\r\n\r\n");
    assert_eq!(atlas.exchange("/talk")["cause"], "finished");
}

#[test]
fn a_body_beyond_its_limit_is_413() {
    let origin = origin().start();
    let atlas = atlas()
        .listens_tls("a.test")
        .forwards_to(&origin)
        .text("[limits]\nbody = \"1KiB\"")
        .start();
    let body = vec![b'x'; 1024];
    assert_eq!(atlas.connect().request("POST", "/fits", &[], &body).status, 200);
    let mut client = atlas.connect();
    client.send("POST /long HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1025\r\n\r\n");
    let answer = client.answer();
    assert_eq!((answer.status, answer.field("connection")), (413, Some("close")));
    assert_eq!(client.ends().0, Ending::Closed);
    assert_eq!(origin.requests().len(), 1, "it was refused by its length alone");
    // In chunks the length is known only when it is too late for the origin.
    let mut client = atlas.connect();
    client.send("POST /chunks HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n");
    for _ in 0..20 {
        if client.try_send(format!("64\r\n{}\r\n", "x".repeat(100))).is_err() {
            break;
        }
    }
    assert_eq!(client.answer().status, 413);
    assert!(origin.requests().iter().filter(|seen| seen.whole).count() == 1);
}

#[test]
fn limits_of_heads_are_configurable() {
    let origin = origin().start();
    let atlas = atlas()
        .listens_plain()
        .forwards_to(&origin)
        .text("[limits]\nhead = \"4KiB\"\nfields = 5\nrequest_line = \"100B\"")
        .start();
    let get = |path: &str, lines: &str| {
        atlas
            .send(format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n{lines}\r\n"))
            .status
    };
    assert_eq!(get("/", "A: 1\r\nB: 1\r\nC: 1\r\nD: 1\r\n"), 200);
    assert_eq!(get("/", "A: 1\r\nB: 1\r\nC: 1\r\nD: 1\r\nE: 1\r\n"), 431);
    assert_eq!(get("/", &format!("A: {}\r\n", "a".repeat(5000))), 431);
    assert_eq!(get(&format!("/{}", "a".repeat(100)), ""), 414);
}

#[test]
fn a_client_that_never_reads_is_ended() {
    let origin = origin()
        .handles("/big", |exchange| {
            exchange.read_body()?;
            exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")?;
            let piece = vec![0; 1_000_000];
            for _ in 0..100 {
                exchange.send(&piece)?;
            }
            Ok(Then::Keep)
        })
        .start();
    let atlas = atlas()
        .listens_tls("a.test")
        .forwards_to(&origin)
        .text("[timeouts]\nwrite = \"500ms\"")
        .start();
    let mut client = atlas.connect();
    client.send("GET /big HTTP/1.1\r\nHost: a.test\r\n\r\n");
    wait_until("the origin's connection is freed", || {
        (origin.accepted() == 1 && origin.open() == 0).then_some(())
    });
    let record = atlas.exchange("/big");
    assert_eq!(
        (&record["side"], &record["cause"]),
        (&"downstream".into(), &"timed_out".into()),
        "{record}"
    );
}

#[test]
fn a_listener_at_its_limit_does_not_accept() {
    let origin = origin().start();
    let atlas = atlas()
        .top("workers = 1")
        .listener(false, "connections_max = 3")
        .forwards_to(&origin)
        .start();
    let mut held: Vec<_> = (0..3)
        .map(|_| {
            let mut client = atlas.connect();
            assert_eq!(client.get("/").status, 200);
            client
        })
        .collect();
    // The kernel takes it into the queue; nobody answers.
    let mut waiting = atlas.connect();
    waiting.send("GET /late HTTP/1.1\r\nHost: a.test\r\n\r\n");
    assert!(waiting.is_silent_for(Duration::from_millis(300)));
    let used = atlas.cpu_time();
    std::thread::sleep(Duration::from_millis(300));
    assert!(
        atlas.cpu_time() - used < Duration::from_millis(100),
        "waiting for a place does not spin"
    );
    held.pop();
    assert_eq!(waiting.answer().status, 200, "a place was free");
}

#[test]
fn five_thousand_connections_at_once() {
    let _alone = alone();
    crate::support::raise_descriptors(5_000 + 500);
    let origin = origin().start();
    let atlas = atlas()
        .listens_plain()
        .listens_tls("a.test")
        .forwards_to(&origin)
        .text("[timeouts]\nidle = \"30m\"")
        .start();
    let before = atlas.memory_kib();
    let mut clients: Vec<Connection> = Vec::new();
    std::thread::scope(|scope| {
        let makers: Vec<_> = [(0, 3_000), (1, 1_000), (1, 1_000)]
            .into_iter()
            .map(|(listener, count)| {
                let atlas = &atlas;
                scope.spawn(move || {
                    (0..count)
                        .map(|_| {
                            let mut client = atlas.connect_to(listener);
                            assert_eq!(client.get("/first").status, 200);
                            client
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        for maker in makers {
            clients.extend(maker.join().unwrap());
        }
    });
    assert_eq!(clients.len(), 5_000);
    assert!(
        atlas.metric("atlas_downstream_connections_open", &[]) >= 5_000.0,
        "{}",
        atlas.metrics()
    );
    let each = (atlas.memory_kib() - before) as f64 / 5_000.0;
    eprintln!("{each:.1} KiB for an idle connection");
    assert!(each < 30.0, "{each:.1} KiB for an idle connection");
    for client in &mut clients {
        assert_eq!(client.get("/second").status, 200);
    }
    drop(clients);
    wait_long_until("all are gone", Duration::from_secs(120), || {
        (atlas.metric("atlas_downstream_connections_open", &[]) == 0.0).then_some(())
    });
}
