//! Whole messages through HTTP/2: from clients of any version, to endpoints with TLS and without.

use super::session::plays;
use super::{before, endpoint, towards};
use crate::support::frames::{self, CANCEL, NO_ERROR, request};
use crate::support::{
    Atlas, Driver, Origin, Then, atlas, ca, cert, free_port, has, nginx, noise, on_both_drivers, origin,
    wait_until,
};

/// Speaks HTTP/1.1 behind the endpoint.
fn site() -> Origin {
    origin()
        .answers("/", "hello")
        .answers("/big", noise(3_000_000))
        .handles("/echo", |exchange| {
            let body = exchange.read_body()?.body;
            exchange.answer(200, &[], &body)
        })
        .handles("/trailers", |exchange| {
            exchange.read_body()?;
            exchange.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            exchange.send("5\r\nhello\r\n0\r\nX-Sum: 7\r\nContent-Length: 3\r\n\r\n")?;
            Ok(Then::Keep)
        })
        .handles("/hints", |exchange| {
            exchange.read_body()?;
            exchange.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")?;
            exchange.send("HTTP/1.1 103 Early Hints\r\nLink: </b>\r\n\r\n")?;
            exchange.answer(200, &[], b"after hints")
        })
        .handles("/refuses", |exchange| {
            exchange.send("HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno")?;
            exchange.wait_for_close();
            Ok(Then::Close)
        })
        .handles("/never", |exchange| {
            exchange.read_body()?;
            exchange.wait_for_close();
            Ok(Then::Close)
        })
        .handles("/dies", |exchange| {
            exchange.read_body()?;
            exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")?;
            Ok(Then::Close)
        })
        .start()
}

/// Runs a test with an endpoint over TLS and without, on both drivers.
fn on_all_ways(test: impl Fn(&Origin, &Atlas, &Atlas)) {
    on_both_drivers(|driver| {
        for tls in [true, false] {
            eprintln!("TLS to the endpoint: {tls}");
            let origin = site();
            let endpoint = endpoint(&origin, tls);
            let atlas = before(&endpoint, driver, "");
            test(&origin, &endpoint, &atlas);
        }
    });
}

/// Connections that have reached the endpoint.
fn connections(endpoint: &Atlas) -> usize {
    endpoint.metric("atlas_downstream_connections_total", &[]) as usize
}

#[test]
fn requests_of_every_version_share_one_connection_of_http_2() {
    on_all_ways(|origin, endpoint, atlas| {
        for listener in [0, 1] {
            let mut client = atlas.connect_to(listener);
            for _ in 0..3 {
                let answer = client.get("/");
                assert_eq!((answer.status, &*answer.text()), (200, "hello"));
                assert_eq!(answer.head.all("via"), ["1.1 atlas", "2.0 atlas"]);
            }
            assert_eq!(
                client.request("HEAD", "/", &[], b"").field("content-length"),
                Some("5")
            );
            let mut http2 = atlas.http2_on(listener);
            let streams: Vec<_> = (0..50)
                .map(|_| http2.begin(&frames::get("/", &[]), true))
                .collect();
            for stream in streams {
                assert_eq!(http2.answer(stream).text(), "hello");
            }
        }
        assert_eq!(connections(endpoint), 1);
        let seen = origin.request();
        assert_eq!(seen.head.field("host"), Some("a.test"));
        let record = endpoint.exchange("/");
        assert_eq!(record["protocol"], "HTTP/2.0", "{record}");
    });
}

#[test]
fn bodies_and_trailers_go_both_ways_as_they_are() {
    on_all_ways(|origin, _, atlas| {
        let big = noise(1_000_000);
        for listener in [0, 1] {
            let mut client = atlas.connect_to(listener);
            assert!(client.get("/big").body == noise(3_000_000));
            assert!(client.request("POST", "/echo", &[], &big).body == big);
            client.send("POST /echo HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n");
            client.send("3\r\nabc\r\n5\r\ndefgh\r\n0\r\nX-Last: 1\r\nHost: b\r\n\r\n");
            assert_eq!(client.answer().text(), "abcdefgh");
            let seen = origin.requests().pop().unwrap();
            assert_eq!(seen.trailers, [("x-last".to_owned(), "1".to_owned())]);
            let answer = client.get("/trailers");
            assert_eq!(answer.text(), "hello");
            assert_eq!(answer.trailers, [("x-sum".to_owned(), "7".to_owned())]);

            let mut http2 = atlas.http2_on(listener);
            let got = http2.get("/trailers");
            assert_eq!(
                (got.text(), got.trailers()[0].1.clone()),
                ("hello".to_owned(), "7".to_owned())
            );
            let stream = http2.begin(&request("POST", "/echo", &[("te", "trailers")]), false);
            http2.upload(stream, b"abc", false);
            http2.send(frames::headers(stream, &[("x-last", "2")], true));
            assert_eq!(http2.answer(stream).text(), "abc");
            let seen = origin.requests().pop().unwrap();
            assert_eq!(seen.trailers, [("x-last".to_owned(), "2".to_owned())]);
        }
    });
}

#[test]
fn heads_mean_the_same_on_the_other_side() {
    on_all_ways(|origin, _, atlas| {
        let mut client = atlas.connect_to(1);
        client.send(
            "GET /echo?q=<1>&x={2} HTTP/1.1\r\nHost: b.test:81\r\nCookie: a=1\r\nCookie: b=2\r\nX-Two: 1\r\n\
             X-Two: 2\r\nTE: trailers, gzip\r\nConnection: x-hop, te\r\nX-Hop: 1\r\nPriority: u=1\r\n\r\n",
        );
        assert_eq!(client.answer().status, 200);
        let head = origin.requests().pop().unwrap().head;
        assert_eq!(head.word(1), "/echo?q=%3C1%3E&x=%7B2%7D");
        assert_eq!(head.field("host"), Some("b.test:81"));
        assert_eq!(head.all("x-two"), ["1", "2"]);
        assert_eq!(head.field("priority"), Some("u=1"));
        assert_eq!(head.field("x-hop"), None);
        assert_eq!(head.field("te"), Some("trailers"));
        assert_eq!(head.all("cookie").join("; "), "a=1; b=2");
        let mut http2 = atlas.http2_on(1);
        http2.begin(&request("OPTIONS", "*", &[]), true);
        assert_eq!(http2.answer(1).status(), 200);
    });
}

#[test]
fn informational_responses_and_early_answers_pass() {
    on_all_ways(|_, _, atlas| {
        let mut client = atlas.connect_to(1);
        let answer = client.get("/hints");
        assert_eq!((answer.informational.len(), &*answer.text()), (2, "after hints"));
        assert_eq!(answer.informational[1].field("link"), Some("</b>"));
        let mut http2 = atlas.http2_on(1);
        assert_eq!(http2.get("/hints").informational(), ["103", "103"]);
        // Refused before the body has come.
        let stream = http2.begin(
            &request("POST", "/refuses", &[("content-length", "100000")]),
            false,
        );
        http2.upload(stream, b"begins", false);
        let got = http2.answer(stream);
        assert_eq!((got.status(), &*got.text()), (403, "no"));
        http2.until("the rest of the body is not wanted", |http2| {
            (http2.so_far(stream).reset == Some(NO_ERROR)).then_some(())
        });
    });
}

#[test]
fn a_cancelled_request_is_cancelled_at_the_endpoint() {
    on_all_ways(|origin, endpoint, atlas| {
        let waits = |count| {
            wait_until("the endpoint waits", || {
                (origin.requests().len() == count).then_some(())
            });
        };
        let cancelled = |count: usize| {
            let ended = |record: &serde_json::Value| record["cause"] == "reset";
            wait_until("its stream is reset", || {
                (endpoint.records().iter().filter(|record| ended(record)).count() == count).then_some(())
            });
            wait_until("the origin is freed", || (origin.open() == 0).then_some(()));
        };
        let mut http2 = atlas.http2_on(1);
        let stream = http2.begin(&frames::get("/never", &[]), true);
        waits(1);
        http2.send(frames::frame(frames::RST_STREAM, 0, stream, CANCEL.to_be_bytes()));
        cancelled(1);
        let mut client = atlas.connect_to(1);
        client.send("GET /never HTTP/1.1\r\nHost: a.test\r\n\r\n");
        waits(2);
        client.reset();
        cancelled(2);
        assert_eq!(http2.get("/").text(), "hello");
        assert_eq!(connections(endpoint), 1);
    });
}

#[test]
fn an_answer_that_breaks_off_is_told_to_the_client() {
    on_all_ways(|_, _, atlas| {
        let mut client = atlas.connect_to(1);
        client.send("GET /dies HTTP/1.1\r\nHost: a.test\r\n\r\n");
        assert!(client.try_answer().is_err(), "it is not whole");
        let got = atlas.http2_on(1).get("/dies");
        assert_eq!(got.reset, Some(frames::INTERNAL_ERROR));
        let record = atlas.exchange("/dies");
        assert_eq!(record["side"], "upstream", "{record}");
        assert_eq!(record["cause"], "reset", "{record}");
    });
}

#[test]
fn both_bodies_go_at_once_piece_by_piece() {
    on_both_drivers(|driver| {
        let origin = origin()
            .handles("/", |exchange| {
                exchange.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
                loop {
                    match exchange.read_some()? {
                        8 => exchange.send("1\r\n3\r\n")?, // a chunk of three bytes
                        _ => {
                            exchange.send("0\r\n\r\n")?;
                            return Ok(Then::Close);
                        }
                    }
                }
            })
            .start();
        let endpoint = endpoint(&origin, false);
        let atlas = before(&endpoint, driver, "");
        let mut http2 = atlas.http2_on(1);
        let stream = http2.begin(&request("POST", "/", &[]), false);
        for turn in 1..=5 {
            http2.upload(stream, b"xyz", false);
            http2.until("the answer to this piece", |http2| {
                (http2.so_far(stream).text() == "3".repeat(turn)).then_some(())
            });
        }
        http2.send(frames::frame(frames::DATA, frames::END_STREAM, stream, b""));
        assert_eq!(http2.answer(stream).text(), "33333");
    });
}

#[test]
fn an_endpoint_that_chooses_http_1_is_spoken_to_in_it() {
    on_both_drivers(|driver| {
        let origin = site();
        let endpoint = atlas()
            .listener(true, "http2 = false\n")
            .certificate("a.test", cert(&["a.test"]))
            .forwards_to(&origin)
            .start();
        let atlas = before(&endpoint, driver, "");
        let mut client = atlas.connect_to(1);
        for _ in 0..5 {
            assert_eq!(client.get("/").text(), "hello");
        }
        assert_eq!(atlas.http2_on(1).get("/").text(), "hello");
        assert_eq!(connections(&endpoint), 1);
        assert_eq!(endpoint.exchange("/")["protocol"], "HTTP/1.1");
    });
}

#[test]
fn endpoints_that_know_http_2_are_offered_none_unless_it_is_wanted() {
    let origin = site();
    let endpoint = endpoint(&origin, true);
    let file = endpoint.folder().join("ca.pem");
    std::fs::write(&file, ca().pem()).unwrap();
    let tls = format!("tls = {{ ca = {file:?}, server_name = \"a.test\" }}");
    let atlas = atlas()
        .listens_plain()
        .text("[[route]]\nupstream = \"app\"")
        .upstream("app", &[&endpoint.address().to_string()], &tls)
        .start();
    assert_eq!(atlas.get("/").text(), "hello");
    assert_eq!(endpoint.exchange("/")["protocol"], "HTTP/1.1");
}

#[test]
fn an_idle_connection_is_closed_and_a_new_one_opened() {
    let origin = site();
    let endpoint = endpoint(&origin, false);
    let atlas = before(&endpoint, Driver::Auto, "pool_idle_timeout = \"1s\"");
    assert_eq!(atlas.connect_to(1).get("/").text(), "hello");
    wait_until("the connection is closed", || {
        (endpoint.metric("atlas_downstream_connections_open", &[]) == 0.0).then_some(())
    });
    assert_eq!(atlas.connect_to(1).get("/").text(), "hello");
    assert_eq!(connections(&endpoint), 2);
}

#[test]
fn requests_go_on_while_the_endpoint_is_reloaded_again_and_again() {
    let origin = site();
    let endpoint = endpoint(&origin, false);
    let atlas = before(&endpoint, Driver::Auto, "");
    let mut client = atlas.connect_to(1);
    for _ in 0..5 {
        endpoint.reload();
        for _ in 0..50 {
            // GOAWAY and the request may cross; a body of this size can be sent again.
            let answer = client.request("POST", "/echo", &[], b"once");
            assert_eq!((answer.status, &*answer.text()), (200, "once"));
        }
    }
    assert_eq!(origin.requests().len(), 250, "none was sent twice");
    assert!(connections(&endpoint) >= 5);
}

#[test]
fn nginx_is_spoken_to_in_http_2() {
    if !has("nginx") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = cert(&["a.test"]).write(folder.path(), "leaf");
    let authority = folder.path().join("ca.pem");
    std::fs::write(&authority, ca().pem()).unwrap();
    let port = free_port();
    let nginx = nginx(&format!(
        "listen 127.0.0.1:{port} ssl http2;
        ssl_certificate {};
        ssl_certificate_key {};
        http2_max_concurrent_streams 7;
        location /said {{ return 200 \"$server_protocol $host $request_method\"; }}",
        cert.display(),
        key.display()
    ));
    let big = noise(2_000_000);
    std::fs::write(nginx.folder.path().join("big"), &big).unwrap();
    on_both_drivers(|driver| {
        let lines = format!("http2 = true\ntls = {{ ca = {authority:?}, server_name = \"a.test\" }}");
        let atlas = atlas()
            .listens_tls("a.test")
            .text("[[route]]\nupstream = \"app\"")
            .upstream("app", &[&format!("127.0.0.1:{port}")], &lines)
            .driver(driver)
            .start();
        let mut client = atlas.connect();
        let said = client.request("POST", "/said", &[], b"nginx reads this and throws it away");
        assert_eq!(said.text(), "HTTP/2.0 a.test POST");
        assert!(client.get("/big").body == big);
        let mut http2 = atlas.http2();
        let streams: Vec<_> = (0..100)
            .map(|_| http2.begin(&frames::get("/said", &[]), true))
            .collect();
        for stream in streams {
            assert_eq!(http2.answer(stream).text(), "HTTP/2.0 a.test GET");
        }
    });
}

#[test]
fn trailers_come_behind_a_body_whose_length_was_said() {
    let endpoint = plays(|session| {
        while let Some((stream, fields)) = session.request() {
            let posts = frames::field(&fields, ":method") == Some("POST");
            if posts {
                let (_, trailers) = session.request().expect("its trailers come");
                assert_eq!(trailers, [("x-sum".to_owned(), "7".to_owned())]);
            }
            // Go's net/http says the length of a small body, whatever follows it.
            let length = if posts { "0" } else { "2" };
            let head = [
                (":status", "200"),
                ("content-length", length),
                ("trailer", "x-sum"),
            ];
            session.send(frames::headers(stream, &head, false));
            if !posts {
                session.send(frames::frame(frames::DATA, 0, stream, b"ok"));
            }
            session.send(frames::headers(stream, &[("x-sum", "8")], true));
        }
    });
    let atlas = towards(&endpoint, "", &[]);
    let mut http2 = atlas.http2();
    let sum = [("x-sum".to_owned(), "8".to_owned())];
    let got = http2.get("/it");
    assert_eq!((got.text(), got.reset), ("ok".to_owned(), None));
    assert_eq!(got.trailers(), sum);
    for body in [&b"body"[..], b""] {
        let length = body.len().to_string();
        let fields = [("content-length", &length[..]), ("trailer", "x-sum")];
        let stream = http2.begin(&request("POST", "/it", &fields), false);
        http2.upload(stream, body, false);
        http2.send(frames::headers(stream, &[("x-sum", "7")], true));
        let got = http2.answer(stream);
        assert_eq!((got.text(), got.reset), (String::new(), None));
        assert_eq!(got.trailers(), sum);
    }
}
