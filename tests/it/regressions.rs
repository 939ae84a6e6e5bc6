//! What once went wrong: each test fails without the fix it came with.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{Ending, Then, atlas, on_both_drivers, origin, wait_until};

#[test]
fn a_worker_with_nothing_to_do_does_not_end_the_drain_of_another() {
    // Each worker says that it is drained once more at each step; said twice, it counted as two.
    on_both_drivers(|driver| {
        let origin = origin()
            .handles("/slow", |exchange| {
                exchange.read_body()?;
                std::thread::sleep(Duration::from_millis(1500)); // longer than idle connections may stay
                exchange.answer(200, &[], b"slow")
            })
            .start();
        let atlas = atlas()
            .top("workers = 2")
            .listens_plain()
            .forwards_to(&origin)
            .driver(driver)
            .start();
        let mut client = atlas.connect();
        client.send("GET /slow HTTP/1.1\r\nHost: a.test\r\n\r\n");
        wait_until("the origin has the request", || {
            (origin.open() == 1).then_some(())
        });
        atlas.signal(Signal::TERM);
        assert_eq!(client.answer().text(), "slow");
        assert_eq!(atlas.exit_code(), 0);
    });
}

#[test]
fn an_answer_behind_which_the_endpoint_resets_tells_a_client_that_still_sends_to_stop() {
    // It promised that the connection would go on, and closed it.
    on_both_drivers(|driver| {
        let (reject, rejects) = std::sync::mpsc::channel();
        let rejects = Mutex::new(rejects);
        let origin = origin()
            .handles_all(move |exchange| {
                let _ = rejects.lock().unwrap().recv();
                exchange.send("HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")?;
                Ok(Then::Reset)
            })
            .start();
        let atlas = atlas()
            .top("workers = 1")
            .listens_plain()
            .forwards_to(&origin)
            .driver(driver)
            .start();
        let mut client = atlas.connect();
        client.send("PUT /much HTTP/1.1\r\nHost: a.test\r\nContent-Length: 100000000\r\n\r\n");
        client.send([0; 1000]);
        wait_until("the origin has it", || (origin.open() == 1).then_some(()));
        // Then Atlas finds all at once: more of the body, the answer and the reset.
        atlas.signal(Signal::STOP);
        client.send([0; 1000]);
        reject.send(()).unwrap();
        wait_until("the origin has reset", || (origin.open() == 0).then_some(()));
        atlas.signal(Signal::CONT);
        let answer = client.answer();
        assert_eq!((answer.status, answer.text().as_str()), (413, "no"));
        assert_eq!(answer.field("connection"), Some("close"));
        drop(client);
        assert_eq!(atlas.exchange("/much")["cause"], "finished");
    });
}

#[test]
fn a_client_that_has_said_all_gets_all_of_a_long_answer() {
    // A FIN alone ended the exchange after a while, in the middle of an answer that was coming.
    let origin = origin()
        .handles("/long", |exchange| {
            exchange.read_body()?;
            exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n")?;
            for _ in 0..7 {
                // In all longer than a client that has closed its direction is waited for.
                std::thread::sleep(Duration::from_secs(1));
                exchange.send("x")?;
            }
            Ok(Then::Keep)
        })
        .start();
    let atlas = atlas().listens_tls("a.test").forwards_to(&origin).start();
    let mut client = atlas.connect();
    client.send("GET /long HTTP/1.1\r\nHost: a.test\r\n\r\n");
    client.finish();
    assert_eq!(client.answer().text(), "xxxxxxx");
    assert_eq!(atlas.exchange("/long")["cause"], "finished");
}

#[test]
fn an_absolute_target_without_host_becomes_one_with_host() {
    // HTTP/1.0 may leave Host out; what Atlas sends on is HTTP/1.1 and must have it.
    let origin = origin().start();
    let atlas = atlas().listens_plain().forwards_to(&origin).start();
    let answer = atlas.send("GET http://a.test/x HTTP/1.0\r\n\r\n");
    assert_eq!(answer.status, 200);
    assert_eq!(origin.request().head.field("host"), Some("a.test"));
}

#[test]
fn a_pause_before_a_body_is_not_slowness() {
    // The least rate was asked before the bytes that ended the pause were counted; and a client
    // that waited for 100 Continue was blamed for the origin's time.
    let pause = Duration::from_secs(6); // longer than the grace
    let origin = origin()
        .handles("/thinks", move |exchange| {
            std::thread::sleep(pause);
            exchange.send("HTTP/1.1 100 Continue\r\n\r\n")?;
            exchange.read_body()?;
            exchange.answer(200, &[], b"")
        })
        .start();
    let atlas = atlas().listens_plain().forwards_to(&origin).start();
    let mut expecting = atlas.connect();
    expecting
        .send("POST /thinks HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    let mut pausing = atlas.connect();
    pausing.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5000\r\n\r\n");
    std::thread::sleep(pause);
    assert_eq!(pausing.send([b'x'; 5000]).answer().status, 200);
    assert_eq!(expecting.head().unwrap().word(1), "100");
    assert_eq!(expecting.send("12345").answer().status, 200);
}

// A body's next piece was first asked for with a waker that belonged to nobody. monoio's timers keep
// the waker of their first poll, so the deadline between two pieces never woke anyone. Unit tests
// had missed it because their sockets were never silent for longer than their deadlines.
#[test]
fn a_body_that_stops_meets_its_deadline_without_another_event() {
    let origin = origin()
        .handles("/down", |exchange| {
            exchange.read_body()?;
            exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")?;
            exchange.wait_for_close();
            Ok(Then::Close)
        })
        .start();
    let atlas = atlas()
        .top("workers = 1")
        .listens_plain()
        .forwards_to_with(&origin, "idle_timeout = \"300ms\"")
        .text("[timeouts]\nbody = \"300ms\"")
        .start();
    for request in [
        "GET /down HTTP/1.1\r\nHost: a.test\r\n\r\n",
        "POST /up HTTP/1.1\r\nHost: a.test\r\nContent-Length: 10\r\n\r\nhalf",
    ] {
        let mut client = atlas.connect();
        let started = Instant::now();
        client.send(request);
        client.read_to_end();
        assert!(
            started.elapsed() < Duration::from_secs(15),
            "{request}: {:?}",
            started.elapsed()
        );
    }
}

#[test]
fn what_is_cut_is_told_as_far_as_it_came_and_does_not_look_whole() {
    // Records of exchanges and connections that a drain's deadline cut knew of no status and no
    // bytes; and an HTTP/1.0 client took the FIN for the end of its answer.
    let origin = origin()
        .handles("/part", |exchange| {
            exchange.read_body()?;
            exchange.send("HTTP/1.1 200 OK\r\n\r\npart")?;
            exchange.wait_for_close();
            Ok(Then::Close)
        })
        .start();
    let atlas = atlas()
        .listens_plain()
        .forwards_to(&origin)
        .text("[timeouts]\ndrain = \"500ms\"")
        .expects_log("cut at the drain timeout")
        .start();
    let mut client = atlas.connect();
    client.send("GET /part HTTP/1.0\r\nHost: a.test\r\n\r\n");
    client.head().unwrap();
    assert_eq!(client.read_exactly(4), b"part");
    atlas.signal(Signal::TERM);
    assert_eq!(client.ends().0, Ending::Reset);
    assert_eq!(atlas.exit_code(), 0);
    let exchange = atlas.exchange("/part");
    assert_eq!(
        [&exchange["status"], &exchange["bytes_out"], &exchange["cause"]],
        [&Value::from(200), &Value::from(4), &Value::from("cut")]
    );
    let connection = atlas.record("the connection", |record| record["kind"] == "connection");
    assert_eq!(connection["cause"], "cut");
    assert!(connection["bytes_out"].as_u64() > Some(4), "{connection}");
}

#[test]
fn a_body_is_sent_again_if_it_met_a_closing_connection() {
    // Requests with a body were answered 502 when the origin had closed the pooled connection
    // while they were on their way, though not a byte of them can have been processed.
    let listener = narrow_listener();
    let endpoint = listener.local_addr().unwrap().to_string();
    let (close, is_to_close) = std::sync::mpsc::channel();
    let origin = std::thread::spawn(move || {
        // It answers what it has hardly read, so that what comes behind it waits at Atlas for space, and does
        // not cross the FIN only by chance.
        let (mut first, _) = listener.accept().unwrap();
        assert!(first.read(&mut [0; 512]).unwrap() > 0);
        first.write_all(ANSWER).unwrap();
        is_to_close.recv().unwrap();
        first.shutdown(Shutdown::Write).unwrap();
        let (mut second, _) = listener.accept().unwrap();
        let (mut request, mut piece) = (Vec::new(), [0; 20_000]);
        while !request.ends_with(b"the end") {
            let count = second.read(&mut piece).unwrap();
            request.extend_from_slice(&piece[..count]);
        }
        second.write_all(ANSWER).unwrap();
    });
    let atlas = atlas()
        .top("workers = 1")
        .listens_plain()
        .upstream("app", &[&endpoint], "")
        .text("[[route]]\nupstream = \"app\"")
        .start();
    let mut client = atlas.connect();
    assert_eq!(
        client.request("PUT", "/first", &[], &[b'x'; 24 * 1024]).status,
        200
    );
    atlas.exchange("/first"); // the upload is over
    // Lets the last delayed acknowledgement of the first come: behind the second it would pass for one of that.
    std::thread::sleep(Duration::from_millis(250));
    client.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 7\r\n\r\nthe end");
    wait_until("it is sent on the same connection", || {
        let labels = ["app", "source=\"reused\""];
        (atlas.metric("atlas_upstream_connections_total", &labels) == 1.0).then_some(())
    });
    close.send(()).unwrap();
    assert_eq!(client.answer().status, 200);
    let record = atlas.exchange("/");
    assert_eq!(record["attempts"], 2, "{record}");
    assert_eq!(record["failed_attempts"][0]["cause"], "closed", "{record}");
    origin.join().unwrap();
}

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

/// One whose connections take a few kilobytes until they are read.
fn narrow_listener() -> TcpListener {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket
        .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .unwrap();
    socket.listen(8).unwrap();
    socket.into()
}

#[test]
fn the_record_of_a_refused_request_has_the_bytes_of_its_answer() {
    let atlas = atlas().listens_plain().text("[[route]]\nrespond = 200").start();
    let answer = atlas.send("nonsense\r\n\r\n");
    assert_eq!(answer.status, 400);
    let record = atlas.record("the refusal", |record| record["kind"] == "exchange");
    assert_eq!(record["bytes_out"], answer.body.len());
}

#[test]
fn a_client_that_sends_far_ahead_and_goes_frees_the_endpoint() {
    // Its end was behind bytes that nobody read, and held an endpoint's connection until the response's
    // deadline. Clients that go away had sent one request in all tests.
    for (is_tls, cause) in [
        (false, "reset"),
        (true, "reset"),
        (false, "closed"),
        (true, "closed"),
    ] {
        let origin = crate::drain::slow();
        let atlas = atlas().listens(is_tls).forwards_to(&origin).start();
        let mut client = atlas.connect();
        client.send("GET /never HTTP/1.1\r\nHost: a.test\r\n\r\n");
        client.send("GET /ahead HTTP/1.1\r\nHost: a.test\r\n\r\n".repeat(1000));
        origin.request();
        match cause {
            "reset" => client.reset(),
            _ => client.finish(),
        }
        wait_until("the endpoint's connection is freed", || {
            (origin.open() == 0).then_some(())
        });
        let record = atlas.exchange("/never");
        assert_eq!(
            (&record["side"], &record["cause"]),
            (&"downstream".into(), &cause.into()),
            "{record}"
        );
    }
}

#[test]
fn a_client_whose_tls_breaks_while_it_waits_is_not_the_endpoints_failure() {
    // It was recorded as a 502 of the endpoint's. Clients that went away while they waited had closed
    // their connections, and those that sent no TLS had no request under way.
    let origin = crate::drain::slow();
    let atlas = atlas().listens_tls("a.test").forwards_to(&origin).start();
    let mut client = atlas.connect();
    client.send("GET /never HTTP/1.1\r\nHost: a.test\r\n\r\n");
    origin.request();
    // Where a record has its length this has one that could be.
    client.tcp().write_all(b"GET /").expect("Atlas takes the bytes");
    let record = atlas.exchange("/never");
    let told = ["side", "phase", "cause"].map(|key| record[key].as_str().unwrap());
    assert_eq!(told, ["downstream", "response", "not_tls"], "{record}");
    assert_eq!(record["status"], 499, "{record}");
    assert_eq!(atlas.metric("atlas_responses_total", &["5xx"]), 0.0);
}
