//! What an origin answers, byte by byte, and what the client gets of it.

use crate::support::client::Answer;
use crate::support::{Atlas, Ending, Origin, Then, atlas, origin};

/// What the client gets.
enum Gets {
    /// This status and this body, on a connection that is kept.
    Whole(u16, &'static str),
    /// An answer of Atlas's own.
    Fault(u16),
    /// Less than was promised.
    Cut,
}

struct Case {
    name: &'static str,
    sends: Vec<u8>,
    gets: Gets,
    then: Then,
    method: &'static str,
    /// Fields the client's answer must not have.
    without: Vec<&'static str>,
    /// Whether the origin's connection serves another request.
    reused: Option<bool>,
}

fn case(name: &'static str, sends: impl AsRef<[u8]>, gets: Gets) -> Case {
    Case {
        name,
        sends: sends.as_ref().to_vec(),
        gets,
        then: Then::Keep,
        method: "GET",
        without: Vec::new(),
        reused: None,
    }
}

impl Case {
    fn then(mut self, then: Then) -> Self {
        self.then = then;
        self
    }

    fn to(mut self, method: &'static str) -> Self {
        self.method = method;
        self
    }

    fn without(mut self, name: &'static str) -> Self {
        self.without.push(name);
        self
    }

    fn reused(mut self, reused: bool) -> Self {
        self.reused = Some(reused);
        self
    }
}

use Gets::{Cut, Fault, Whole};

fn cases() -> Vec<Case> {
    let mut all = good();
    all.extend(without_body());
    all.extend(bad_heads());
    all.extend(bad_framing());
    all.extend(broken_off());
    all
}

fn good() -> Vec<Case> {
    let ok = "HTTP/1.1 200 OK\r\n";
    vec![
        case("a body of known length", format!("{ok}Content-Length: 2\r\n\r\nhi"), Whole(200, "hi")).reused(true),
        case("an empty body", format!("{ok}Content-Length: 0\r\n\r\n"), Whole(200, "")).reused(true),
        case("no reason", "HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nhi", Whole(200, "hi")).reused(true),
        case("a status nobody has heard of", "HTTP/1.1 299 Hm\r\nContent-Length: 2\r\n\r\nhi", Whole(299, "hi")),
        case(
            "chunks",
            format!("{ok}Transfer-Encoding: chunked\r\n\r\n1\r\nh\r\n1\r\ni\r\n0\r\n\r\n"),
            Whole(200, "hi"),
        )
        .reused(true),
        case(
            "chunks with extensions",
            format!("{ok}Transfer-Encoding: chunked\r\n\r\n2;a=b\r\nhi\r\n0;c\r\n\r\n"),
            Whole(200, "hi"),
        ),
        case("a body until the close", format!("{ok}\r\nhi"), Whole(200, "hi")).then(Then::Close).reused(false),
        case("HTTP/1.0 until the close", "HTTP/1.0 200 OK\r\n\r\nhi", Whole(200, "hi")).then(Then::Close),
        case("HTTP/1.0 with a length", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", Whole(200, "hi"))
            .then(Then::Close)
            .reused(false),
        case(
            "Connection: close",
            format!("{ok}Connection: close\r\nContent-Length: 2\r\n\r\nhi"),
            Whole(200, "hi"),
        )
        .then(Then::Close)
        .without("connection")
        .reused(false),
        case(
            "hop-by-hop fields",
            format!("{ok}Connection: X-Private\r\nX-Private: 1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: x\r\nContent-Length: 2\r\n\r\nhi"),
            Whole(200, "hi"),
        )
        .without("x-private")
        .without("keep-alive")
        .without("proxy-connection"),
        case("102 before the answer", format!("HTTP/1.1 102 Wait\r\n\r\n{ok}Content-Length: 2\r\n\r\nhi"), Whole(200, "hi")),
        case(
            "103 before the answer",
            format!("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n{ok}Content-Length: 2\r\n\r\nhi"),
            Whole(200, "hi"),
        ),
        case(
            "more than was promised",
            format!("{ok}Content-Length: 2\r\n\r\nhi, and more"),
            Whole(200, "hi"),
        )
        .reused(false),
    ]
}

fn without_body() -> Vec<Case> {
    vec![
        case("204", "HTTP/1.1 204 No Content\r\n\r\n", Whole(204, "")).reused(true),
        case(
            "204 with a length",
            "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
            Whole(204, ""),
        )
        .reused(true),
        case(
            "204 that announces a body",
            "HTTP/1.1 204 No Content\r\nContent-Length: 9\r\n\r\n",
            Whole(204, ""),
        )
        .reused(false),
        case(
            "204 that announces chunks",
            "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n",
            Whole(204, ""),
        )
        .reused(false),
        case(
            "204 with bytes behind it",
            "HTTP/1.1 204 No Content\r\n\r\nhi",
            Whole(204, ""),
        )
        .reused(false),
        case(
            "304 with a length",
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
            Whole(304, ""),
        )
        .reused(true),
        case(
            "HEAD with a length",
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",
            Whole(200, ""),
        )
        .to("HEAD")
        .reused(true),
        case(
            "HEAD with chunks promised",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            Whole(200, ""),
        )
        .to("HEAD")
        .reused(true),
        case(
            "HEAD with a body all the same",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
            Whole(200, ""),
        )
        .to("HEAD")
        .reused(false),
    ]
}

fn bad_heads() -> Vec<Case> {
    let with = |line: &str| format!("HTTP/1.1 200 OK\r\n{line}\r\nContent-Length: 2\r\n\r\nhi");
    vec![
        case("not HTTP at all", "SSH-2.0-OpenSSH_9.2\r\n\r\n", Fault(502)),
        case(
            "HTTP/2.0",
            "HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
            Fault(502),
        ),
        case("HTTP/0.9", "<html>hello</html>", Fault(502)).then(Then::Close),
        case(
            "a status of two digits",
            "HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nhi",
            Fault(502),
        ),
        case(
            "a status of four digits",
            "HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nhi",
            Fault(502),
        ),
        case(
            "a status of letters",
            "HTTP/1.1 abc OK\r\nContent-Length: 2\r\n\r\nhi",
            Fault(502),
        ),
        case(
            "a status below 100",
            "HTTP/1.1 099 OK\r\nContent-Length: 2\r\n\r\nhi",
            Fault(502),
        ),
        case(
            "101 that nobody asked for",
            "HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
            Fault(502),
        ),
        case("a folded field", with("X-A: 1\r\n 2"), Fault(502)),
        case("a space before the colon", with("X-A : 1"), Fault(502)),
        case("a NUL", with("X-A: \0"), Fault(502)),
        case("a bare CR", with("X-A: 1\r2"), Fault(502)),
        case("a bare LF", with("X-A: 1\nX-B: 2"), Fault(502)),
        case("a line without a colon", with("X-A"), Fault(502)),
        case("a name that is none", with("X A: 1"), Fault(502)),
        case(
            "a head of 64 KiB",
            with(&format!("X-A: {}", "a".repeat(64 * 1024))),
            Fault(502),
        ),
        case(
            "a thousand fields",
            with("X-A: 1\r\n".repeat(1000).trim_end()),
            Fault(502),
        ),
    ]
}

fn bad_framing() -> Vec<Case> {
    let with = |lines: &str| format!("HTTP/1.1 200 OK\r\n{lines}\r\n\r\n2\r\nhi\r\n0\r\n\r\n");
    vec![
        case(
            "a coding and a length",
            with("Transfer-Encoding: chunked\r\nContent-Length: 2"),
            Fault(502),
        ),
        case(
            "two lengths that differ",
            with("Content-Length: 2\r\nContent-Length: 3"),
            Fault(502),
        ),
        case(
            "a list of lengths that differ",
            with("Content-Length: 2, 3"),
            Fault(502),
        ),
        case("a length that is none", with("Content-Length: x"), Fault(502)),
        case("a length below zero", with("Content-Length: -2"), Fault(502)),
        case(
            "a length of 2^64",
            with("Content-Length: 18446744073709551616"),
            Fault(502),
        ),
        case("another coding", with("Transfer-Encoding: gzip"), Fault(502)),
        case(
            "another coding before chunked",
            with("Transfer-Encoding: gzip, chunked"),
            Fault(502),
        ),
        case(
            "chunked is not the last",
            with("Transfer-Encoding: chunked, gzip"),
            Fault(502),
        ),
        case(
            "chunked twice",
            with("Transfer-Encoding: chunked, chunked"),
            Fault(502),
        ),
        case(
            "a chunk size that is none",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\nx\r\n",
            Cut,
        ),
        case(
            "a chunk longer than it says",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi!\r\n0\r\n\r\n",
            Cut,
        ),
        case(
            "a chunk size of 2^64",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n10000000000000000\r\n",
            Cut,
        ),
    ]
}

fn broken_off() -> Vec<Case> {
    let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let length = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n";
    vec![
        case("a close without an answer", "", Fault(502))
            .then(Then::Close)
            .to("POST"),
        case("a reset without an answer", "", Fault(502))
            .then(Then::Reset)
            .to("POST"),
        case("a close within the status line", "HTTP/1.1 20", Fault(502)).then(Then::Close),
        case(
            "a close within the fields",
            "HTTP/1.1 200 OK\r\nContent-",
            Fault(502),
        )
        .then(Then::Close),
        case("a close behind 103", "HTTP/1.1 103 Hm\r\n\r\n", Fault(502)).then(Then::Close),
        case("a close within the body", format!("{length}hi"), Cut).then(Then::Close),
        case("a reset within the body", format!("{length}hi"), Cut).then(Then::Reset),
        case("a close within a chunk", format!("{chunks}5\r\nhi"), Cut).then(Then::Close),
        case("a close between chunks", format!("{chunks}2\r\nhi\r\n"), Cut).then(Then::Close),
        case(
            "a close before the last line",
            format!("{chunks}2\r\nhi\r\n0\r\n"),
            Cut,
        )
        .then(Then::Close),
    ]
}

#[test]
fn raw_responses_without_tls() {
    run(false);
}

#[test]
fn raw_responses_inside_tls() {
    run(true);
}

fn run(tls: bool) {
    let mut builder = origin();
    for (at, case) in cases().into_iter().enumerate() {
        builder = builder.sends(&format!("/{at}"), case.sends, case.then);
    }
    let origin = builder.start();
    // One worker, so that whether a connection is used again can be seen.
    let atlas = atlas()
        .top("workers = 1")
        .listens(tls)
        .forwards_to(&origin)
        .start();
    let mut wrong = String::new();
    for (at, case) in cases().iter().enumerate() {
        if let Err(why) = check(&atlas, &origin, at, case) {
            wrong.push_str(&format!("\n{}: {why}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

fn check(atlas: &Atlas, origin: &Origin, at: usize, case: &Case) -> Result<(), String> {
    let mut client = atlas.connect();
    let request = format!(
        "{} /{at} HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n",
        case.method
    );
    client.send(request);
    let answer = client.try_answer_to(case.method);
    match case.gets {
        Whole(status, body) => {
            let answer = answer.map_err(|error| format!("no whole answer: {error}"))?;
            is_as_sent(&answer, status, body, case)?;
        }
        Fault(status) => {
            let answer = answer.map_err(|error| format!("no answer: {error}"))?;
            if answer.status != status || answer.field("proxy-status").is_none() {
                return Err(format!(
                    "got {}, {:?}",
                    answer.status,
                    answer.field("proxy-status")
                ));
            }
        }
        Cut => {
            return match answer {
                Ok(answer) => Err(format!("was whole: {:?}", answer.text())),
                Err(_) => match client.read_to_end() {
                    (_, Ending::Closed | Ending::Reset | Ending::Truncated) => Ok(()),
                },
            };
        }
    }
    let last = origin.requests().last().map_or(0, |seen| seen.connection);
    let again = client.get("/again");
    if again.status != 200 {
        return Err(format!("the request behind it got {}", again.status));
    }
    let reused = origin
        .requests()
        .last()
        .is_some_and(|seen| seen.connection == last);
    match case.reused {
        Some(wanted) if wanted != reused => Err(format!("the origin's connection was reused: {reused}")),
        _ => Ok(()),
    }
}

fn is_as_sent(answer: &Answer, status: u16, body: &str, case: &Case) -> Result<(), String> {
    if answer.status != status || answer.text() != body {
        return Err(format!("got {} {:?}", answer.status, answer.text()));
    }
    match case.without.iter().find(|name| answer.field(name).is_some()) {
        Some(name) => Err(format!("{name} went through")),
        None => Ok(()),
    }
}
