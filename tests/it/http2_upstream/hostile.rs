//! What endpoints send that they must not, or not so often: each ends by its name, within its time.

use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use super::session::{Session, plays, plays_over, reset};
use super::towards;
use crate::support::frames::*;
use crate::support::{Atlas, Origin, atlas, ca, cert, origin, wait_until};

type Script = Box<dyn Fn(&mut Session, u32) + Send + Sync>;

/// What an endpoint does with a request, and what becomes of that.
struct Case {
    name: &'static str,
    does: Script,
    status: u16,
    cause: &'static str,
}

fn case(
    name: &'static str,
    status: u16,
    cause: &'static str,
    does: impl Fn(&mut Session, u32) + Send + Sync + 'static,
) -> Case {
    Case {
        name,
        does: Box::new(does),
        status,
        cause,
    }
}

/// Answers with this block of fields.
fn answers(name: &'static str, fields: &'static [(&'static str, &'static str)], ends: bool) -> Case {
    case(name, 502, "malformed", move |session, stream| {
        session.send(headers(stream, fields, ends));
    })
}

/// Sends this until Atlas takes no more.
fn floods(
    name: &'static str,
    cause: &'static str,
    piece: impl Fn(u32) -> Vec<u8> + Send + Sync + 'static,
) -> Case {
    case(name, 502, cause, move |session, stream| {
        let many = piece(stream).repeat(50);
        while session.send(&many) {}
    })
}

const OK: &[(&str, &str)] = &[(":status", "200")];

/// Heads that are none, and frames out of order.
fn malformed() -> Vec<Case> {
    let begins = |bytes: fn(u32) -> Vec<u8>| {
        move |session: &mut Session, stream: u32| {
            session.send(bytes(stream));
        }
    };
    vec![
        answers("no status", &[("x-a", "1")], true),
        answers("two statuses", &[(":status", "200"), (":status", "200")], true),
        answers("a status that is none", &[(":status", "2000")], true),
        answers("101", &[(":status", "101")], false),
        answers(
            "a pseudo-field behind a field",
            &[("x-a", "1"), (":status", "200")],
            true,
        ),
        answers("Connection", &[(":status", "200"), ("connection", "close")], true),
        answers(
            "Transfer-Encoding",
            &[(":status", "200"), ("transfer-encoding", "chunked")],
            true,
        ),
        answers("Upgrade", &[(":status", "426"), ("upgrade", "x")], true),
        answers("capitals in a name", &[(":status", "200"), ("X-A", "1")], true),
        answers("a space in a name", &[(":status", "200"), ("x a", "1")], true),
        answers(
            "CR LF in a value",
            &[(":status", "200"), ("x-a", "1\r\nx-b: 2")],
            true,
        ),
        answers(
            "a length and no content",
            &[(":status", "200"), ("content-length", "3")],
            true,
        ),
        answers(
            "a length that is none",
            &[(":status", "200"), ("content-length", "x")],
            false,
        ),
        answers(
            "two lengths",
            &[
                (":status", "200"),
                ("content-length", "1"),
                ("content-length", "2"),
            ],
            false,
        ),
        answers("an informational response that ends", &[(":status", "103")], true),
        case(
            "DATA before a head",
            502,
            "malformed",
            begins(|s| frame(DATA, END_STREAM, s, b"x")),
        ),
        case(
            "DATA on a stream nobody opened",
            502,
            "malformed",
            begins(|_| frame(DATA, 0, 99, b"x")),
        ),
        case(
            "HEADERS on a stream nobody opened",
            502,
            "malformed",
            begins(|_| headers(99, OK, true)),
        ),
        case(
            "PUSH_PROMISE",
            502,
            "malformed",
            begins(|s| {
                let promised = [&[0, 0, 0, 2][..], &block(&get("/", &[]))].concat();
                frame(PUSH_PROMISE, END_HEADERS, s, promised)
            }),
        ),
        case(
            "a frame that is too large",
            502,
            "malformed",
            begins(|s| frame(DATA, 0, s, vec![0; 20_000])),
        ),
        case(
            "a block that is none",
            502,
            "malformed",
            begins(|s| frame(HEADERS, END_HEADERS, s, [0xff; 20])),
        ),
        case(
            "a window of zero more",
            502,
            "malformed",
            begins(|_| frame(WINDOW_UPDATE, 0, 0, [0; 4])),
        ),
        case(
            "a window beyond 2³¹",
            502,
            "malformed",
            begins(|_| frame(WINDOW_UPDATE, 0, 0, [0x7f, 255, 255, 255])),
        ),
        case(
            "garbage",
            502,
            "malformed",
            begins(|_| b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec()),
        ),
    ]
}

/// Too much of what is allowed.
fn excesses() -> Vec<Case> {
    let empty = |kind, flags, payload: &'static [u8]| move |_: u32| frame(kind, flags, 0, payload);
    vec![
        floods("PING", "ping_flood", empty(PING, 0, &[0; 8])),
        floods("SETTINGS", "settings_flood", empty(SETTINGS, 0, b"")),
        floods(
            "WINDOW_UPDATE",
            "window_update_flood",
            empty(WINDOW_UPDATE, 0, &[0, 0, 0, 1]),
        ),
        floods("PRIORITY", "frame_flood", |s| {
            frame(PRIORITY, 0, s, [0, 0, 0, 0, 9])
        }),
        floods("unknown frames", "frame_flood", empty(0xfa, 0, b"hello")),
        floods("informational responses", "limit_reached or frame_flood", |s| {
            headers(s, &[(":status", "103")], false)
        }),
        case(
            "CONTINUATION without end",
            502,
            "continuation_flood",
            |session, stream| {
                session.send(frame(HEADERS, 0, stream, block(OK)));
                while session.send(frame(CONTINUATION, 0, stream, b"").repeat(10)) {}
            },
        ),
        case(
            "a head that is too long",
            502,
            "limit_reached",
            |session, stream| {
                let long = "x".repeat(10_000);
                let mut fields = OK.to_vec();
                fields.extend([("x-a", &*long), ("x-b", &long), ("x-c", &long), ("x-d", &long)]);
                let bytes = block(&fields);
                let mut pieces = bytes.chunks(16_000).enumerate().peekable();
                while let Some((at, piece)) = pieces.next() {
                    let kind = if at == 0 { HEADERS } else { CONTINUATION };
                    let flags = if pieces.peek().is_none() { END_HEADERS } else { 0 };
                    session.send(frame(kind, flags, stream, piece));
                }
                session.serve();
            },
        ),
        case("too many fields", 502, "limit_reached", |session, stream| {
            let mut fields = OK.to_vec();
            fields.extend(std::iter::repeat_n(("x-a", "1"), 101));
            session.send(headers(stream, &fields, true));
            session.serve();
        }),
    ]
}

/// Ends of another kind.
fn ends() -> Vec<Case> {
    vec![
        case("closes", 502, "closed", |_, _| {}),
        case("resets the stream", 502, "reset", |session, stream| {
            session.send(reset(stream, INTERNAL_ERROR));
            session.serve();
        }),
        case(
            "resets it with nothing to complain of",
            502,
            "reset",
            |session, stream| {
                session.send(reset(stream, NO_ERROR));
                session.serve();
            },
        ),
        case("refuses always", 502, "unprocessed", |session, stream| {
            session.send(reset(stream, REFUSED_STREAM));
            while let Some((stream, _)) = session.request() {
                session.send(reset(stream, REFUSED_STREAM));
            }
        }),
        case("stops amid a head", 504, "timed_out", |session, stream| {
            session.send(&headers(stream, &[(":status", "200"), ("x-a", "1")], true)[..20]);
            session.until(|_, _, _| false);
        }),
        case("stops amid a frame's header", 504, "timed_out", |session, _| {
            session.send([0, 0, 8, PING]);
            session.until(|_, _, _| false);
        }),
        case("says nothing", 504, "timed_out", |session, _| {
            session.until(|_, _, _| false);
        }),
    ]
}

/// Where it is what is waited for, or else far longer than anybody takes.
fn timeout(is_missed: bool) -> &'static str {
    if is_missed { "1s" } else { "30s" }
}

fn run(cases: Vec<Case>) {
    for Case {
        name,
        does,
        status,
        cause,
    } in cases
    {
        let does: Arc<Script> = Arc::new(does);
        let endpoint = plays(move |session| {
            if let Some((stream, _)) = session.request() {
                does(session, stream);
            }
        });
        let timeout = timeout(cause == "timed_out");
        let atlas = towards(
            &endpoint,
            &format!("response_timeout = {timeout:?}\nidle_timeout = {timeout:?}"),
            &["a connection of HTTP/2 ended"],
        );
        let before = atlas.memory_kib();
        let started = Instant::now();
        // One that is not repeated for what its endpoint does.
        let answer = atlas.connect().request("POST", "/it", &[], b"");
        assert_eq!(answer.status, status, "{name}: {}", answer.text());
        let record = atlas.exchange("/it");
        let told = record["cause"].as_str().unwrap_or_default();
        assert!(cause.split(" or ").any(|cause| cause == told), "{name}: {record}");
        assert_eq!(record["side"], "upstream", "{name}: {record}");
        assert!(
            started.elapsed() < Duration::from_secs(25),
            "{name}: {:?}",
            started.elapsed()
        );
        let grown = atlas.memory_kib().saturating_sub(before);
        assert!(grown < 20_000, "{name}: {grown} KiB more");
        assert!(endpoint.accepted() <= 2, "{name}: {}", endpoint.accepted());
    }
}

#[test]
fn what_is_no_response_is_refused() {
    run(malformed());
}

#[test]
fn there_can_be_too_much_of_everything() {
    run(excesses());
}

#[test]
fn an_endpoint_may_ask_by_ping_for_each_message_it_gets() {
    // As gRPC measures its line. A tenth of what may come at once comes back in a second.
    const MESSAGES: usize = 2000;
    let endpoint = plays(|session| {
        while let Some((stream, _)) = session.request() {
            session.send(frame(PING, 0, 0, [0; 8]));
            session.answer(stream, "ok");
        }
    });
    let atlas = towards(&endpoint, "", &[]);
    let mut client = atlas.connect();
    for at in 0..MESSAGES {
        assert_eq!(client.get("/it").status, 200, "after {at}");
    }
    assert_eq!(endpoint.accepted(), 1);
}

#[test]
fn an_endpoint_that_sheds_load_keeps_its_connection() {
    let endpoint = plays(|session| {
        while let Some((stream, fields)) = session.request() {
            match field(&fields, ":method") {
                Some("GET") => session.answer(stream, "ok"),
                _ => session.send(reset(stream, REFUSED_STREAM)),
            };
        }
    });
    let atlas = towards(&endpoint, "", &[]);
    let mut client = atlas.connect();
    // Each is sent twice.
    for _ in 0..500 {
        assert_eq!(client.request("POST", "/it", &[], b"").status, 502);
    }
    assert_eq!(client.get("/it").status, 200);
    assert_eq!(endpoint.accepted(), 1);
}

#[test]
fn however_it_ends_the_client_gets_an_answer() {
    run(ends());
}

/// A response has begun when this comes: the client sees it break off.
fn breaks_off(cause: &str, does: impl Fn(&mut Session, u32) + Send + Sync + 'static) {
    let endpoint = plays(move |session| {
        if let Some((stream, _)) = session.request() {
            session.send(headers(stream, &[(":status", "200")], false));
            session.send(frame(DATA, 0, stream, b"begins"));
            does(session, stream);
        }
    });
    let atlas = towards(
        &endpoint,
        &format!("idle_timeout = {:?}", timeout(cause == "timed_out")),
        &["a connection of HTTP/2 ended"],
    );
    let mut client = atlas.connect();
    client.send("GET /it HTTP/1.1\r\nHost: a.test\r\n\r\n");
    assert!(client.try_answer().is_err(), "{cause}: it is not whole");
    let record = atlas.exchange("/it");
    assert_eq!(record["cause"], cause, "{record}");
    assert_eq!(record["phase"], "response_body", "{record}");
}

#[test]
fn an_answer_that_does_not_end_is_never_taken_for_whole() {
    breaks_off("closed", |_, _| {});
    breaks_off("reset", |session, stream| {
        session.send(reset(stream, CANCEL));
        session.serve();
    });
    // RFC 9113 §8.1 has this behind a whole answer only.
    breaks_off("reset", |session, stream| {
        session.send(reset(stream, NO_ERROR));
        session.serve();
    });
    breaks_off("timed_out", |session, _| {
        session.until(|_, _, _| false);
    });
    breaks_off("malformed", |session, stream| {
        session.send(headers(stream, &[("connection", "close")], true));
        session.serve();
    });
    breaks_off("empty_frames", |session, stream| {
        while session.send(frame(DATA, 0, stream, b"").repeat(50)) {}
    });
}

/// Everything goes to an endpoint that cannot be spoken with.
fn cannot_be_opened(endpoint: &Origin, says: &str, status: u16, cause: &str) {
    let timeout = timeout(cause == "timed_out");
    let atlas = towards(endpoint, &format!("connect_timeout = {timeout:?}"), &[says]);
    let answers: Vec<_> = (0..3)
        .map(|_| {
            let mut client = atlas.connect();
            client.send("GET /it HTTP/1.1\r\nHost: a.test\r\n\r\n");
            client
        })
        .map(|mut client| client.answer().status)
        .collect();
    assert_eq!(answers, [status; 3]);
    let record = atlas.exchange("/it");
    assert_eq!(
        (&record["phase"], &record["cause"]),
        (&"connect".into(), &cause.into())
    );
    atlas.log_line(&["cannot connect", says]);
}

#[test]
fn an_endpoint_that_does_not_speak_http_2_is_named() {
    let speaks_http1 = origin()
        .raw(|mut stream| {
            use std::io::{Read, Write};
            let _ = stream.read(&mut [0; 100]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
            stream.finish();
        })
        .start();
    cannot_be_opened(&speaks_http1, "it does not speak HTTP/2", 502, "malformed");
    let is_silent = origin()
        .raw(|mut stream| {
            use std::io::Read;
            while matches!(stream.read(&mut [0; 100]), Ok(count) if count > 0) {}
        })
        .start();
    cannot_be_opened(&is_silent, "how many streams", 504, "timed_out");
    let closes = origin().raw(|mut stream| stream.finish()).start();
    cannot_be_opened(&closes, "HTTP/2: closed", 502, "closed");
}

fn timed_out(atlas: &Atlas) {
    let answer = atlas.connect().get("/slow");
    assert_eq!(answer.status, 504);
}

#[test]
fn an_endpoint_that_lets_its_time_pass_is_asked_whether_it_is_there() {
    // One that is: its connection goes on.
    let slow = plays(|session| {
        while let Some((stream, fields)) = session.request() {
            if field(&fields, ":path") != Some("/slow") {
                session.answer(stream, "ok");
            }
        }
    });
    let atlas = towards(&slow, "response_timeout = \"3s\"", &[]);
    for _ in 0..3 {
        timed_out(&atlas);
        assert_eq!(atlas.connect().get("/").status, 200);
    }
    assert!(
        slow.accepted() <= 2,
        "a request may come before the PING is answered"
    );
    assert_eq!(slow.open(), slow.accepted());
    // One that is not: others are not sent there meanwhile, and in the end it is closed.
    let dead = plays(|session| {
        session.answers = session.number > 0;
        while let Some((stream, _)) = session.request() {
            if session.number > 0 {
                session.answer(stream, "ok");
            }
        }
    });
    let said = "a connection of HTTP/2 ended with what was on it: upstream idle timed_out";
    let atlas = towards(&dead, "response_timeout = \"3s\"", &[said]);
    timed_out(&atlas);
    assert_eq!(atlas.connect().get("/").status, 200);
    assert_eq!(dead.accepted(), 2);
    wait_until("the dead connection is closed", || {
        (dead.open() == 1).then_some(())
    });
    atlas.log_line(&[said]);
}

#[test]
fn an_endpoint_that_shuts_its_window_holds_a_request_for_its_time_only() {
    let endpoint = super::session::plays_with(&[(4, 0)], |session| {
        session.until(|kind, _, _| kind == RST_STREAM);
    });
    let atlas = towards(&endpoint, "idle_timeout = \"500ms\"", &[]);
    let answer = atlas.connect().request("POST", "/it", &[], b"it has no room");
    assert_eq!(answer.status, 504);
    let record = atlas.exchange("/it");
    assert_eq!(
        (&record["phase"], &record["cause"]),
        (&"request_body".into(), &"timed_out".into())
    );
}

#[test]
fn an_endpoint_whose_records_are_damaged_is_named() {
    let over = origin().tls_for(cert(&["a.test"]), "h2");
    let is_idle = Arc::new(Barrier::new(2));
    let then = is_idle.clone();
    let endpoint = plays_over(over, &[], move |session| {
        while let Some((stream, _)) = session.request() {
            session.answer(stream, "ok");
            if session.number == 0 {
                then.wait();
                session.damage();
            }
        }
    });
    let said = "a connection of HTTP/2 ended with what was on it: upstream idle record_damaged";
    let atlas = atlas()
        .listens_plain()
        .file("ca.pem", ca().pem())
        .top("workers = 1")
        .forwards_to_with(
            &endpoint,
            "http2 = true\ntls = { ca = \"ca.pem\", server_name = \"a.test\" }",
        )
        .expects_log(said)
        .start();
    assert_eq!(atlas.connect().get("/").text(), "ok");
    is_idle.wait();
    wait_until("the connection is given up", || {
        (endpoint.open() == 0).then_some(())
    });
    assert_eq!(atlas.connect().get("/").text(), "ok", "on another connection");
    atlas.log_line(&[said]);
}
