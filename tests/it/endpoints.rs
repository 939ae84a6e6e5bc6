//! Endpoints: which one is asked, over which connection, and what becomes of those that fail.

use std::io::Write as _;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use crate::support::{Atlas, Digest, Origin, Then, atlas, ca, cert, free_port, noise, origin, wait_until};

#[test]
fn a_dead_origin_is_502_and_says_why() {
    let port = free_port();
    let endpoint = format!("127.0.0.1:{port}");
    let atlas = atlas()
        .expects_log("cannot connect")
        .listens_tls("a.test")
        .text("[[route]]\nupstream = \"app\"")
        .upstream("app", &[&endpoint], "")
        .expects_log("cannot connect")
        .start();
    let mut client = atlas.connect();
    let answer = client.get("/dead");
    assert_eq!(answer.status, 502);
    assert!(
        answer
            .field("proxy-status")
            .unwrap()
            .contains("connection_refused"),
        "{answer:?}"
    );
    assert_eq!(client.get("/dead").status, 502, "the client's connection goes on");
    let record = atlas.exchange("/dead");
    assert_eq!(
        (&record["side"], &record["phase"], &record["cause"]),
        (&"upstream".into(), &"connect".into(), &"refused".into()),
        "{record}"
    );
    // It comes back, and is asked again.
    let _origin = origin().on_port(port).answers("/", "back").start();
    assert_eq!(client.get("/").text(), "back");
}

#[test]
fn the_next_endpoint_is_asked_when_one_refuses() {
    let origin = origin().start();
    let dead = format!("127.0.0.1:{}", free_port());
    let atlas = atlas()
        .expects_log("cannot connect")
        .top("workers = 1")
        .listens_plain()
        .text("[[route]]\nupstream = \"app\"")
        .upstream("app", &[&dead, origin.address()], "")
        .expects_log("is ejected")
        .start();
    let mut client = atlas.connect();
    for _ in 0..6 {
        assert_eq!(client.request("POST", "/x", &[], b"a body").status, 200);
    }
    assert!(origin.requests().iter().all(|seen| seen.body == b"a body"));
    let record = atlas.record("one that took two", |record| record["attempts"] == 2);
    assert_eq!(record["endpoint"], origin.address(), "{record}");
}

#[test]
fn endpoints_take_turns() {
    let origins: Vec<Origin> = (0..3).map(|_| origin().start()).collect();
    let endpoints: Vec<_> = origins.iter().map(Origin::address).collect();
    let atlas = atlas()
        .top("workers = 1")
        .listens_plain()
        .text("[[route]]\nupstream = \"app\"")
        .upstream("app", &endpoints, "")
        .start();
    let mut client = atlas.connect();
    for _ in 0..9 {
        client.get("/");
    }
    let counts: Vec<_> = origins.iter().map(|origin| origin.requests().len()).collect();
    assert_eq!(counts, [3, 3, 3]);
}

#[test]
fn an_origin_that_does_not_answer_is_504() {
    let origin = origin()
        .handles("/", |exchange| {
            exchange.wait_for_close();
            Ok(Then::Close)
        })
        .start();
    let atlas = atlas()
        .listens_plain()
        .forwards_to_with(&origin, "response_timeout = \"300ms\"")
        .start();
    let started = Instant::now();
    let answer = atlas.get("/");
    assert_eq!(answer.status, 504);
    assert!(started.elapsed() < Duration::from_secs(15));
    assert!(
        answer.field("proxy-status").unwrap().contains("timeout"),
        "{answer:?}"
    );
    wait_until("the origin's connection is freed", || {
        (origin.open() == 0).then_some(())
    });
}

#[test]
fn an_origin_that_stops_within_its_body_is_cut_off() {
    let origin = origin()
        .handles("/stalls", |exchange| {
            exchange.read_body()?;
            exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")?;
            exchange.wait_for_close();
            Ok(Then::Close)
        })
        .start();
    let atlas = atlas()
        .listens_plain()
        .forwards_to_with(&origin, "idle_timeout = \"300ms\"")
        .start();
    let mut client = atlas.connect();
    client.send("GET /stalls HTTP/1.1\r\nHost: a.test\r\n\r\n");
    assert!(client.try_answer().is_err(), "half a body must not look whole");
    let record = atlas.exchange("/stalls");
    assert_eq!(
        (&record["side"], &record["cause"]),
        (&"upstream".into(), &"timed_out".into()),
        "{record}"
    );
}

#[test]
fn a_connect_that_hangs_is_504_within_its_deadline() {
    // A listener whose queue is full: connects to it wait for ever.
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener
        .bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let _filling: Vec<_> = (0..4)
        .map(|_| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            let _ = socket.connect(&address.into());
            socket
        })
        .collect();
    let atlas = atlas()
        .expects_log("cannot connect")
        .listens_plain()
        .text("[[route]]\nupstream = \"app\"")
        .upstream("app", &[&address.to_string()], "connect_timeout = \"300ms\"")
        .expects_log("cannot connect")
        .start();
    let started = Instant::now();
    let answer = atlas.get("/");
    assert_eq!(answer.status, 504, "{answer:?}");
    let took = started.elapsed();
    // What the deadline is by itself.
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn a_pooled_connection_that_the_origin_closed_costs_the_client_nothing() {
    let origin = origin().start();
    let atlas = atlas()
        .top("workers = 1")
        .listens_plain()
        .forwards_to(&origin)
        .start();
    let mut client = atlas.connect();
    for _ in 0..10 {
        assert_eq!(client.get("/").status, 200);
        origin.closes_all();
        // Before anybody has looked at the FIN, and when both sides of it have been through.
        assert_eq!(client.request("POST", "/", &[], b"body").status, 200);
        origin.closes_all();
        wait_until("the origin's side has ended", || {
            (origin.open() == 0).then_some(())
        });
    }
}

#[test]
fn a_request_on_a_pooled_connection_that_dies_unanswered_is_sent_again_if_that_is_safe() {
    // The second request on each connection is read, and the connection closed without a byte.
    let counts = std::sync::Arc::new(std::sync::Mutex::new(std::collections::HashMap::new()));
    let origin = origin()
        .handles_all(move |exchange| {
            exchange.read_body()?;
            let mut counts = counts.lock().unwrap();
            let count = counts.entry(exchange.connection()).or_insert(0);
            *count += 1;
            if *count == 2 {
                Ok(Then::Close)
            } else {
                exchange.answer(200, &[], b"ok")
            }
        })
        .start();
    let atlas = atlas()
        .top("workers = 1")
        .listens_plain()
        .forwards_to(&origin)
        .start();
    let mut client = atlas.connect();
    assert_eq!(client.get("/").status, 200);
    assert_eq!(
        client.get("/").status,
        200,
        "GET is idempotent: it goes to a fresh connection"
    );
    // RFC 9110 §9.2.2: a POST that may have been processed must not be sent twice.
    let before = origin.requests().len();
    let answer = client.request("POST", "/once", &[], b"body");
    assert_eq!(answer.status, 502);
    assert_eq!(origin.requests().len(), before + 1);
}

#[test]
fn a_client_that_vanishes_frees_the_origins_connection() {
    let origin = origin()
        .handles("/hangs", |exchange| {
            exchange.read_body()?;
            exchange.wait_for_close();
            Ok(Then::Close)
        })
        .handles("/streams", |exchange| {
            exchange.read_body()?;
            exchange.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            while exchange.send("4\r\ntick\r\n").is_ok() {
                // The pace of a ticker that nobody waits for.
                std::thread::sleep(Duration::from_millis(10));
            }
            Ok(Then::Close)
        })
        .start();
    for (tls, by_reset) in [(false, true), (true, true), (false, false), (true, false)] {
        let atlas = atlas().listens(tls).forwards_to(&origin).start();
        let paths = if by_reset {
            &["/hangs", "/streams"][..]
        } else {
            &["/streams"]
        };
        for path in paths {
            let mut client = atlas.connect();
            client.send(format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n"));
            wait_until("the origin has the request", || {
                (origin.open() == 1).then_some(())
            });
            if *path == "/streams" {
                client.head().unwrap();
            }
            // A FIN alone may be a client that has said all it had to say: that it is gone shows when
            // it is written to.
            if by_reset {
                client.reset();
            } else {
                drop(client);
            }
            wait_until("the origin's connection is freed", || {
                (origin.open() == 0).then_some(())
            });
            assert_eq!(atlas.exchange(path)["side"], "downstream");
        }
    }
}

/// Answers come from it, and bodies go to it.
fn is_reached(atlas: &Atlas, origin: &Origin) {
    let mut client = atlas.connect();
    assert_eq!(client.get("/").text(), "hello");
    let body = noise(500_000);
    assert_eq!(client.request("POST", "/up", &[], &body).status, 200);
    assert_eq!(origin.request().sha256, Digest::of(&body));
}

#[test]
fn an_endpoint_can_be_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let origin = origin()
        .on_unix(folder.path().join("app.sock"))
        .answers("/", "hello")
        .start();
    let atlas = atlas().listens_tls("a.test").forwards_to(&origin).start();
    is_reached(&atlas, &origin);
}

#[test]
fn a_unix_socket_that_is_not_there_or_may_not_be_opened_is_unreachable() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let shut = folder.path().join("shut.sock");
    let _origin = origin().on_unix(&shut).start();
    std::fs::set_permissions(&shut, PermissionsExt::from_mode(0o0)).unwrap();
    // To root nothing is shut.
    let paths: &[&str] = match rustix::process::geteuid().is_root() {
        true => &["none.sock"],
        false => &["none.sock", "shut.sock"],
    };
    for path in paths {
        let endpoint = format!("unix:{}", folder.path().join(path).display());
        let atlas = atlas()
            .expects_log("cannot connect")
            .listens_plain()
            .text("[[route]]\nupstream = \"app\"")
            .upstream("app", &[&endpoint], "")
            .start();
        let answer = atlas.get("/");
        assert_eq!(answer.status, 502, "{path}");
        assert!(
            answer.text().contains("upstream_unreachable"),
            "{path}: {}",
            answer.text()
        );
    }
}

#[test]
fn an_endpoint_can_speak_tls() {
    let origin = origin().tls(cert(&["inner.test"])).answers("/", "hello").start();
    let atlas = atlas()
        .file("ca.pem", ca().pem())
        .listens_tls("a.test")
        .forwards_to_with(&origin, "tls = { ca = \"ca.pem\", server_name = \"inner.test\" }")
        .start();
    is_reached(&atlas, &origin);
}

#[test]
fn an_endpoints_name_is_looked_up() {
    let origin = origin().answers("/", "by name").start();
    let endpoint = format!("localhost:{}", origin.port());
    let atlas = atlas()
        .listens_plain()
        .text("[[route]]\nupstream = \"app\"")
        .upstream("app", &[&endpoint], "")
        .start();
    wait_until("the name has an address", || {
        (atlas.get("/").status == 200).then_some(())
    });
    assert_eq!(atlas.get("/").text(), "by name");
}

#[test]
fn an_endpoint_whose_name_nobody_knows_is_502() {
    let atlas = atlas()
        .listens_plain()
        .text("[[route]]\nupstream = \"app\"")
        .upstream("app", &["nowhere.invalid:80"], "")
        .expects_log("nowhere.invalid")
        .start();
    let answer = atlas.get("/");
    assert!([502, 503].contains(&answer.status), "{answer:?}");
    assert!(
        answer.field("proxy-status").unwrap().contains("dns"),
        "{answer:?}"
    );
}

#[test]
fn the_pool_is_bounded() {
    let all_have_asked = std::sync::Barrier::new(8);
    let origin = origin()
        .handles_all(move |exchange| {
            all_have_asked.wait();
            exchange.answer(200, &[], b"ok")
        })
        .start();
    let atlas = atlas()
        .top("workers = 1")
        .listens_plain()
        .forwards_to_with(&origin, "pool_idle_max = 2\npool_idle_timeout = \"500ms\"")
        .start();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(atlas.get("/").status, 200));
        }
    });
    wait_until("all but two are closed", || (origin.open() <= 2).then_some(()));
    wait_until("idle ones are closed in time", || {
        (origin.open() == 0).then_some(())
    });
}

#[test]
fn a_port_that_speaks_something_else_is_502() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let _ = stream.write_all(b"220 mail.test ESMTP\r\n");
            // Open until Atlas has enough of it.
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
        }
    });
    let atlas = atlas()
        .listens_plain()
        .text("[[route]]\nupstream = \"app\"")
        .upstream("app", &[&address], "")
        .start();
    assert_eq!(atlas.get("/").status, 502);
}
