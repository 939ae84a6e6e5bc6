//! The driver over real sockets, on both drivers of the runtime, against origins made of bytes.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::thread;

use super::*;
use crate::runtime::{Preference, Socket, sleep, start};

/// What a connection is asked for, and what came of it.
struct Asking {
    connection: Connection,
    /// Statuses of the heads, the body, trailers.
    heard: String,
}

impl Asking {
    /// Sends a request without a body and reads the whole response.
    async fn ask(&mut self, method: Method) -> Result<(), End> {
        let (mut writer, mut reader) = self.connection.exchange();
        let mut fields = Fields::new();
        fields.push("Host", "h");
        let head = Outgoing {
            method: &method,
            target: "/",
            fields: &fields,
            body: BodyLength::None,
        };
        writer.start(&head).await?;
        writer.finish(None).await?;
        hear(&mut reader, &mut self.heard).await
    }
}

async fn hear(reader: &mut ResponseReader<'_>, heard: &mut String) -> Result<(), End> {
    loop {
        let head = reader.head(Deadline::within(Duration::from_secs(1))).await?;
        *heard += head.status.as_str();
        *heard += " ";
        if !head.status.is_informational() {
            break;
        }
    }
    while let Some(piece) = reader.read().await? {
        *heard += &String::from_utf8_lossy(piece);
    }
    for (name, value) in reader.trailers().iter().flat_map(|trailers| trailers.iter()) {
        *heard += &format!(" {name}={}", String::from_utf8_lossy(value));
    }
    Ok(())
}

fn settings() -> Settings {
    Settings {
        idle_timeout: Duration::from_millis(300),
        head_bytes_max: 1024,
        fields_max: 8,
    }
}

/// Asks once; what was heard, how it ended, whether the connection could be used again.
fn asked(method: &Method, answer: &'static str, then: Then) -> (String, Result<(), End>, bool) {
    let [epoll, ring] = [Preference::Epoll, Preference::Auto].map(|preference| {
        with_origin(preference, answer, then, async |mut asking| {
            let result = asking.ask(method.clone()).await;
            (asking.heard, result, asking.connection.is_reusable())
        })
    });
    assert_eq!(epoll, ring, "the two drivers differ");
    epoll
}

/// What an origin does after its answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    Close,
    Stay,
}

fn with_origin<T>(
    preference: Preference,
    answer: &'static str,
    then: Then,
    ask: impl AsyncFnOnce(Asking) -> T,
) -> T {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut origin, _) = listener.accept().unwrap();
    origin.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let origin = thread::spawn(move || {
        let mut request = [0; 4096];
        assert!(origin.read(&mut request).unwrap() > 0);
        for piece in answer.split_inclusive('~') {
            origin.write_all(piece.trim_end_matches('~').as_bytes()).unwrap();
            if piece.ends_with('~') {
                thread::park_timeout(Duration::from_millis(20));
            }
        }
        if then == Then::Stay {
            // Until the other side has closed.
            let _ = origin.read(&mut request);
        }
    });
    let result = start(preference, async |_| {
        let transport = Transport::plain(Socket::new(OwnedFd::from(stream)).unwrap());
        let asking = Asking {
            connection: Connection::new(transport, settings()),
            heard: String::new(),
        };
        let result = ask(asking).await;
        // A ring closes sockets in its next turn, of which there must be one.
        sleep(Duration::from_millis(5)).await;
        result
    })
    .unwrap();
    origin.join().unwrap();
    result
}

fn upstream(phase: Phase, cause: Cause) -> Result<(), End> {
    Err(End::new(Side::Upstream, phase, cause))
}

#[test]
fn responses_are_read_to_their_end() {
    use Then::{Close, Stay};
    let table = [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
            Stay,
            "200 abc",
            true,
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Stay, "200 ", true),
        (
            "HTTP/1.1 200 OK\r\n~Content-~Length: 3\r\n\r~\na~bc",
            Stay,
            "200 abc",
            true,
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3~\r\nabc\r\n0\r\nX: y\r\n\r~\n",
            Stay,
            "200 abc X=y",
            true,
        ),
        ("HTTP/1.1 200 OK\r\n\r\nab~c", Close, "200 abc", false),
        ("HTTP/1.0 200 OK\r\n\r\nabc", Close, "200 abc", false),
        (
            "HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc",
            Stay,
            "200 abc",
            false,
        ),
        (
            "HTTP/1.0 200 OK\r\nContent-Length: 3\r\nConnection: keep-alive\r\n\r\nabc",
            Stay,
            "200 abc",
            true,
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc",
            Stay,
            "200 abc",
            false,
        ),
        ("HTTP/1.1 204 No Content\r\n\r\n", Stay, "204 ", true),
        (
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
            Stay,
            "304 ",
            true,
        ),
        (
            "HTTP/1.1 100 Continue\r\n\r\n~HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na",
            Stay,
            "100 103 200 a",
            true,
        ),
        // Bytes nobody asked for.
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcd",
            Stay,
            "200 abc",
            false,
        ),
        ("HTTP/1.1 204 No Content\r\n\r\nabc", Stay, "204 ", false),
    ];
    for (answer, then, expected, reusable) in table {
        let (heard, result, is_reusable) = asked(&Method::GET, answer, then);
        assert_eq!(result, Ok(()), "{answer:?}");
        assert_eq!((heard.as_str(), is_reusable), (expected, reusable), "{answer:?}");
    }
}

#[test]
fn a_response_to_head_has_no_body() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n";
    assert_eq!(
        asked(&Method::HEAD, answer, Then::Stay),
        ("200 ".to_owned(), Ok(()), true)
    );
}

#[test]
fn what_is_wrong_with_a_response_is_told_by_its_end() {
    use Then::{Close, Stay};
    let head = |cause| upstream(Phase::Response, cause);
    let body = |cause| upstream(Phase::ResponseBody, cause);
    let table = [
        ("", Close, head(Cause::Closed)),
        ("HTTP/1.1 200 OK\r\n", Close, head(Cause::Closed)),
        ("", Stay, head(Cause::TimedOut)),
        ("HTTP/1.1 200 OK\r\n", Stay, head(Cause::TimedOut)),
        ("SSH-2.0-x", Stay, head(Cause::Malformed)),
        (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
            Stay,
            head(Cause::Malformed),
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
            Stay,
            head(Cause::Malformed),
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab",
            Close,
            body(Cause::Closed),
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab",
            Stay,
            body(Cause::TimedOut),
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab",
            Close,
            body(Cause::Closed),
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
            Close,
            body(Cause::Closed),
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
            Stay,
            body(Cause::Malformed),
        ),
    ];
    for (answer, then, expected) in table {
        let (_, result, reusable) = asked(&Method::GET, answer, then);
        assert_eq!((result, reusable), (expected, false), "{answer:?}");
    }
}

#[test]
fn informational_responses_without_end_are_not_taken() {
    let endless = "HTTP/1.1 103 Early\r\n\r\n".repeat(INFORMATIONAL_MAX + 1).leak();
    let (_, result, _) = asked(&Method::GET, endless, Then::Stay);
    assert_eq!(result, upstream(Phase::Response, Cause::LimitReached));
}

#[test]
fn a_response_head_that_is_too_large_is_not_taken() {
    let large = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "y".repeat(1024)).leak();
    let (_, result, _) = asked(&Method::GET, large, Then::Stay);
    assert_eq!(result, upstream(Phase::Response, Cause::LimitReached));
}

#[test]
fn an_answer_that_comes_early_is_read_and_the_connection_is_not_used_again() {
    let answer = "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno";
    with_origin(Preference::Auto, answer, Then::Stay, async |mut asking| {
        let (mut writer, mut reader) = asking.connection.exchange();
        let head = Outgoing {
            method: &Method::POST,
            target: "/",
            fields: &Fields::new(),
            body: BodyLength::Exact(10),
        };
        writer.start(&head).await.unwrap();
        writer.write(b"abc").await.unwrap();
        writer.flush().await.unwrap();
        hear(&mut reader, &mut asking.heard).await.unwrap();
        assert!(reader.has_begun());
        let broken = writer.finish(None).await;
        assert_eq!(
            broken,
            Err(End::new(Side::Atlas, Phase::RequestBody, Cause::System))
        );
        drop((writer, reader));
        assert_eq!(asking.heard, "413 no");
        assert!(!asking.connection.is_reusable());
    });
}

#[test]
fn a_connection_the_origin_has_closed_is_stale() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n~";
    with_origin(Preference::Auto, answer, Then::Close, async |mut asking| {
        asking.ask(Method::GET).await.unwrap();
        assert!(asking.connection.is_reusable());
        let socket = asking.connection.transport().socket();
        assert!(!asking.connection.is_stale());
        socket.readable().await.unwrap();
        assert!(asking.connection.is_stale());
    });
}
