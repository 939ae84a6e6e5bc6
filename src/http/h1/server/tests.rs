//! The driver over real sockets, on both drivers of the runtime.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::thread;

use super::*;
use crate::drain;
use crate::http::RequestBody as AnyBody;
use crate::runtime::{self, Preference, Socket};
use crate::time::now;

/// What came of a connection.
struct Served {
    end: End,
    /// Request line, status and end of what never became an exchange.
    refused: Vec<(String, u16, End)>,
    /// What each exchange ended with.
    ends: Vec<End>,
}

/// A service that answers by path.
struct Site {
    refused: RefCell<Vec<(String, u16, End)>>,
    ends: RefCell<Vec<End>>,
    drain: Drain,
}

impl Service for Site {
    async fn answer(&self, exchange: Exchange<'_>) -> End {
        let Exchange {
            request,
            mut body,
            mut response,
        } = exchange;
        let answered = self.route(&request, &mut body, &mut response).await;
        let end = match answered {
            Ok(()) => End::finished(Side::Downstream),
            Err(end) if response.has_started() || end.phase == Phase::Response => end,
            Err(end) => {
                let (head, text) = Fault::of(end).response();
                let sent = send(&mut response, &head, text.as_bytes()).await;
                sent.err().unwrap_or(end)
            }
        };
        self.ends.borrow_mut().push(end);
        end
    }

    fn stream_refused(&self, _cause: Cause) {}

    fn refused(&self, line: &[u8], status: StatusCode, _bytes: u64, end: End) {
        let line = String::from_utf8_lossy(line).into_owned();
        self.refused.borrow_mut().push((line, status.as_u16(), end));
    }
}

type Response<'c> = super::super::super::Responder<'c>;

async fn send(response: &mut Response<'_>, head: &ResponseHead, body: &[u8]) -> Result<(), End> {
    response.start(head).await?;
    response.write(body).await?;
    response.finish(None).await
}

/// Answers with a text.
async fn say(response: &mut Response<'_>, text: &str) -> Result<(), End> {
    let head = ResponseHead::new(StatusCode::OK, BodyLength::Exact(text.len() as u64));
    send(response, &head, text.as_bytes()).await
}

impl Site {
    async fn route(
        &self,
        request: &RequestHead,
        body: &mut AnyBody<'_>,
        response: &mut Response<'_>,
    ) -> Result<(), End> {
        let ok = |length| ResponseHead::new(StatusCode::OK, length);
        match request.path() {
            "/echo" => echo(body, response).await,
            "/count" => {
                let mut count = 0;
                while let Some(piece) = body.read().await? {
                    count += piece.len();
                }
                say(response, &format!("{count}\n")).await
            }
            "/inform" => {
                let go_on = ResponseHead::new(StatusCode::CONTINUE, BodyLength::None);
                response.inform(&go_on).await?;
                echo(body, response).await
            }
            "/break" => {
                response.start(&ok(BodyLength::Chunked)).await?;
                response.write(b"half").await?;
                response.flush().await?;
                Err(End::new(Side::Upstream, Phase::ResponseBody, Cause::Closed))
            }
            "/short" => send(response, &ok(BodyLength::Exact(10)), b"short").await,
            "/long" => send(response, &ok(BodyLength::Exact(3)), b"longer").await,
            "/gone" => Err(body.client_gone().await),
            "/look" => {
                let gone = pin!(body.client_gone());
                let wait = before(Deadline::within(Duration::from_millis(50)), gone);
                let is_gone = wait.await.is_ok();
                say(response, if is_gone { "gone" } else { "here" }).await
            }
            "/large" => send(response, &ok(BodyLength::UntilClose), &vec![b'x'; 3_000_000]).await,
            "/drain" => {
                self.drain.advance(drain::Step::Started);
                say(response, "hello").await
            }
            "/silent" => Ok(()),
            "/panic-free" => Err(End::new(Side::Upstream, Phase::Connect, Cause::Refused)),
            _ => say(response, &format!("{} {}", request.method(), request.path())).await,
        }
    }
}

async fn echo(body: &mut AnyBody<'_>, response: &mut Response<'_>) -> Result<(), End> {
    response
        .start(&ResponseHead::new(StatusCode::OK, BodyLength::Chunked))
        .await?;
    while let Some(piece) = body.read().await? {
        response.write(piece).await?;
    }
    response.finish(body.trailers()).await
}

/// Serves one connection to `client` on both drivers.
fn served(settings: &Settings, client: impl Fn(TcpStream) + Clone + Send + 'static) -> Served {
    served_on(Preference::Epoll, settings, client.clone());
    served_on(Preference::Auto, settings, client)
}

fn served_on(
    preference: Preference,
    settings: &Settings,
    client: impl FnOnce(TcpStream) + Send + 'static,
) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let client = thread::spawn(move || {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        client(stream);
    });
    let (stream, _) = listener.accept().unwrap();
    let site = Site {
        refused: RefCell::default(),
        ends: RefCell::default(),
        drain: Drain::new(),
    };
    let end = runtime::start(preference, async |_| {
        let transport = Transport::plain(Socket::new(OwnedFd::from(stream)).unwrap());
        let end = serve(&transport, settings, &site, &site.drain).await;
        client.thread().unpark();
        transport.close(Deadline::within(Duration::from_secs(5))).await;
        end
    })
    .unwrap();
    client.join().unwrap();
    Served {
        end,
        refused: site.refused.take(),
        ends: site.ends.take(),
    }
}

/// Sends all of it, says nothing more, and reads to the end: dates taken out.
fn conversation(mut stream: &TcpStream, text: &str) -> String {
    stream.write_all(text.as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    rest(stream)
}

/// All that comes until the end.
fn rest(mut stream: &TcpStream) -> String {
    let mut bytes = Vec::new();
    let read = stream.read_to_end(&mut bytes);
    let mut text: String = String::from_utf8_lossy(&bytes)
        .split_inclusive("\r\n")
        .filter(|line| !line.starts_with("Date: "))
        .collect();
    if read.is_err() {
        text += "<reset>";
    }
    text
}

/// Sends, and checks what comes until the end.
fn gets(input: &'static str, expected: &'static str) -> Served {
    served(&Settings::default(), move |stream| {
        assert_eq!(conversation(&stream, input), expected, "{input:?}");
    })
}

const CLOSE: &str = "Connection: close\r\n";

#[test]
fn requests_in_a_row_are_answered_in_their_order() {
    let served = gets(
        "GET /a HTTP/1.1\r\nHost: h\r\n\r\nPOST /count HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc\
         HEAD /c HTTP/1.1\r\nHost: h\r\n\r\nGET /d HTTP/1.0\r\n\r\nGET /never HTTP/1.1\r\nHost: h\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nGET /a\
         HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n3\n\
         HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n\
         HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nGET /d",
    );
    assert_eq!(served.end, End::finished(Side::Downstream));
    assert_eq!(served.ends.len(), 4);
}

#[test]
fn an_end_between_requests_is_an_end_in_order() {
    let served = gets(
        "GET /a HTTP/1.1\r\nHost: h\r\n\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nGET /a",
    );
    assert_eq!(served.end, client_end(Phase::Idle, Cause::Finished));
    assert_eq!(gets("", "").end, client_end(Phase::Idle, Cause::Finished));
}

#[test]
fn old_clients_are_answered_in_their_way() {
    gets(
        "GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\nPOST /echo HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: keep-alive\r\n\r\nGET /a\
         HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhi",
    );
    gets(
        "POST /inform HTTP/1.0\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhi",
    );
}

#[test]
fn chunks_and_trailers_go_both_ways() {
    gets(
        "POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1;x=y\r\nd\r\n0\r\nX-Sum: 1\r\nHost: x\r\n\r\nGET /b HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\nX-Sum: 1\r\n\r\n",
    );
}

#[test]
fn a_client_that_sends_byte_by_byte_is_served() {
    served(&Settings::default(), |mut stream| {
        let text = "\r\nPOST /count HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nA: b\r\n\r\n";
        stream.set_nodelay(true).unwrap();
        for byte in text.bytes() {
            stream.write_all(&[byte]).unwrap();
            thread::yield_now();
        }
        stream.shutdown(Shutdown::Write).unwrap();
        assert!(rest(&stream).ends_with("\r\n\r\n5\n"));
    });
}

#[test]
fn a_client_that_waits_for_100_gets_it_from_the_service() {
    served(&Settings::default(), |mut stream| {
        let head = "POST /inform HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        let mut interim = [0; 25];
        stream.read_exact(&mut interim).unwrap();
        assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
        stream.write_all(b"hi").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert!(rest(&stream).ends_with("\r\n2\r\nhi\r\n0\r\n\r\n"));
    });
}

#[test]
fn what_is_no_request_is_refused_and_told() {
    let table = [
        ("GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n", 400, Cause::Malformed),
        ("GET / HTTP/1.1\nHost: h\n\n", 400, Cause::Malformed),
        ("\u{16}\u{3}\u{1}\u{2}", 400, Cause::Malformed),
        ("GET / HTTP/2.0\r\n\r\n", 505, Cause::Unsupported),
        (
            "CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\n\r\n",
            405,
            Cause::MethodNotAllowed,
        ),
    ];
    for (input, status, cause) in table {
        let served = served(&Settings::default(), move |stream| {
            let answer = conversation(&stream, input);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
            assert!(answer.contains(CLOSE) && answer.contains("\r\nProxy-Status: atlas; error="));
            assert_eq!(answer.contains("\r\nAllow: "), status == 405);
        });
        let line = input.split(['\r', '\n']).next().unwrap_or_default().to_owned();
        let end = client_end(Phase::Request, cause);
        assert_eq!(served.refused, [(line, status, end)]);
        assert_eq!((served.end, served.ends.len()), (end, 0));
    }
}

#[test]
fn a_request_that_stops_half_way_is_told_from_one_that_never_came() {
    let served = gets("GET / HTTP/1.1\r\nHost", "");
    assert_eq!(served.end, client_end(Phase::Request, Cause::Closed));
}

#[test]
fn a_head_that_does_not_come_in_time_is_answered() {
    let settings = Settings {
        header_timeout: Duration::from_millis(100),
        ..Settings::default()
    };
    let served = served(&settings, |mut stream| {
        stream.write_all(b"GET / HTTP/1.1\r\n").unwrap();
        assert!(rest(&stream).starts_with("HTTP/1.1 408 "));
    });
    assert_eq!(served.end, client_end(Phase::Request, Cause::TimedOut));
}

#[test]
fn an_idle_connection_ends_without_a_word() {
    let settings = Settings {
        idle_timeout: Duration::from_millis(100),
        ..Settings::default()
    };
    let served = served(&settings, |stream| assert_eq!(rest(&stream), ""));
    assert_eq!(served.end, End::new(Side::Atlas, Phase::Idle, Cause::Idle));
}

#[test]
fn a_body_that_stops_is_timed_out() {
    let settings = Settings {
        body_timeout: Duration::from_millis(100),
        ..Settings::default()
    };
    let served = served(&settings, |mut stream| {
        stream
            .write_all(b"POST /count HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nabc")
            .unwrap();
        let answer = rest(&stream);
        assert!(
            answer.starts_with("HTTP/1.1 408 ") && answer.contains(CLOSE),
            "{answer}"
        );
    });
    assert_eq!(served.ends, [client_end(Phase::RequestBody, Cause::TimedOut)]);
}

#[test]
fn a_body_that_is_too_large_is_refused_before_and_while_it_comes() {
    let settings = Settings {
        body_bytes_max: Some(4),
        ..Settings::default()
    };
    let announced = served(&settings, |stream| {
        let head = "POST /count HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n";
        let answer = conversation(&stream, head);
        assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains(CLOSE));
    });
    let end = client_end(Phase::RequestBody, Cause::LimitReached);
    assert_eq!(announced.refused, [("POST /count HTTP/1.1".to_owned(), 413, end)]);
    let chunked = served(&settings, |stream| {
        let text = "POST /count HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
        let answer = conversation(&stream, text);
        assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains(CLOSE));
    });
    assert_eq!(chunked.ends, [end]);
}

#[test]
fn a_small_body_nobody_reads_does_not_cost_the_connection() {
    gets(
        "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabcGET /b HTTP/1.1\r\nHost: h\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nPOST /aHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nGET /b",
    );
}

#[test]
fn a_body_of_unknown_length_nobody_reads_ends_the_connection() {
    gets(
        "POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET /b HTTP/1.1\r\nHost: h\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\nPOST /a",
    );
    gets(
        "POST /a HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\nPOST /a",
    );
}

#[test]
fn a_malformed_body_ends_the_connection() {
    let served = served(&Settings::default(), |stream| {
        let text = "POST /count HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nx\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n";
        let answer = conversation(&stream, text);
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains(CLOSE));
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1);
    });
    assert_eq!(served.ends, [client_end(Phase::RequestBody, Cause::Malformed)]);
}

#[test]
fn a_response_that_breaks_off_cannot_be_taken_for_a_whole_one() {
    let served = gets(
        "GET /break HTTP/1.1\r\nHost: h\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    );
    let broken = End::new(Side::Upstream, Phase::ResponseBody, Cause::Closed);
    assert_eq!(served.end, broken);
    let old = gets_reset("GET /break HTTP/1.0\r\n\r\n");
    assert_eq!(old.end, broken);
}

/// Checks that the connection is reset, whatever came before.
fn gets_reset(input: &'static str) -> Served {
    served(&Settings::default(), move |mut stream| {
        stream.write_all(input.as_bytes()).unwrap();
        assert!(rest(&stream).ends_with("<reset>"));
    })
}

#[test]
fn a_promise_of_length_is_kept_or_the_connection_ends() {
    let wrong = End::new(Side::Atlas, Phase::ResponseBody, Cause::System);
    for input in [
        "GET /short HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET /long HTTP/1.1\r\nHost: h\r\n\r\n",
    ] {
        assert_eq!(
            served(&Settings::default(), move |stream| {
                let answer = conversation(&stream, input);
                assert!(
                    !answer.ends_with("short") && !answer.ends_with("longer"),
                    "{answer}"
                );
            })
            .end,
            wrong
        );
    }
    let silent = gets("GET /silent HTTP/1.1\r\nHost: h\r\n\r\n", "");
    assert_eq!(silent.end, End::new(Side::Atlas, Phase::Response, Cause::System));
}

#[test]
fn a_client_that_goes_away_is_noticed_while_nothing_is_read() {
    let served = gets("GET /gone HTTP/1.1\r\nHost: h\r\n\r\n", "");
    assert_eq!(served.ends, [client_end(Phase::Response, Cause::Closed)]);
    let behind = gets("GET /gone HTTP/1.1\r\nHost: h\r\n\r\nGET /next HTTP/1.1\r\n", "");
    assert_eq!(behind.ends, [client_end(Phase::Response, Cause::Closed)]);
}

#[test]
fn requests_that_come_while_the_client_is_watched_are_answered_afterwards() {
    served(&Settings::default(), |mut stream| {
        stream
            .write_all(b"GET /look HTTP/1.1\r\nHost: h\r\n\r\nGET /b HTTP/1.1\r\nHost: h\r\n\r\nGET /c")
            .unwrap();
        let mut answers = [0; 86 + 41 * 2];
        stream.read_exact(&mut answers[..60]).unwrap();
        stream.write_all(b" HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let text = rest(&stream);
        assert!(text.contains("GET /b") && text.ends_with("GET /c"), "{text}");
    });
}

#[test]
fn a_watched_client_that_floods_is_not_read_without_end() {
    served(&Settings::default(), |mut stream| {
        let many = "GET /x HTTP/1.1\r\nHost: h\r\n\r\n".repeat(2000);
        stream
            .write_all(b"GET /look HTTP/1.1\r\nHost: h\r\n\r\n")
            .unwrap();
        let mut writing = stream.try_clone().unwrap();
        let writer = thread::spawn(move || {
            writing.write_all(many.as_bytes()).unwrap();
            writing.shutdown(Shutdown::Write).unwrap();
        });
        let text = rest(&stream);
        writer.join().unwrap();
        assert!(text.contains("here") && text.matches("GET /x").count() == 2000);
    });
}

#[test]
fn a_large_answer_arrives_whole() {
    served(&Settings::default(), |stream| {
        let answer = conversation(&stream, "GET /large HTTP/1.0\r\n\r\n");
        assert_eq!(answer.matches('x').count(), 3_000_000);
    });
    served(&Settings::default(), |stream| {
        let answer = conversation(&stream, "GET /large HTTP/1.1\r\nHost: h\r\n\r\n");
        assert_eq!(answer.matches('x').count(), 3_000_000);
        assert!(answer.contains("\r\n2dc6c0\r\nxxx") && answer.ends_with("xxx\r\n0\r\n\r\n"));
    });
}

#[test]
fn a_client_that_never_reads_is_let_go() {
    let settings = Settings {
        write_timeout: Duration::from_millis(200),
        ..Settings::default()
    };
    let began = now();
    let served = served_on(Preference::Auto, &settings, |mut stream| {
        let head = "GET /large HTTP/1.1\r\nHost: h\r\n\r\n".repeat(10);
        stream.write_all(head.as_bytes()).unwrap();
        thread::park_timeout(Duration::from_secs(20)); // until it is let go
    });
    assert_eq!(served.end, client_end(Phase::ResponseBody, Cause::TimedOut));
    assert!(now() - began < Duration::from_secs(8));
}

#[test]
fn a_drain_closes_after_the_answer() {
    let served = gets(
        "GET /drain HTTP/1.1\r\nHost: h\r\n\r\nGET /b HTTP/1.1\r\nHost: h\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello",
    );
    assert_eq!(served.end, End::new(Side::Atlas, Phase::Done, Cause::Drained));
}

#[test]
fn a_drain_ends_idle_connections() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (stream, _) = listener.accept().unwrap();
    let site = Site {
        refused: RefCell::default(),
        ends: RefCell::default(),
        drain: Drain::new(),
    };
    let end = runtime::start(Preference::Auto, async |_| {
        let transport = Transport::plain(Socket::new(OwnedFd::from(stream)).unwrap());
        let settings = Settings::default();
        let drain = site.drain.clone();
        runtime::spawn(
            async move {
                runtime::sleep(Duration::from_millis(50)).await;
                drain.advance(drain::Step::IdleEnds);
            },
            |_| {},
        );
        serve(&transport, &settings, &site, &site.drain).await
    });
    drop(client);
    assert_eq!(end.unwrap(), End::new(Side::Atlas, Phase::Idle, Cause::Drained));
}

#[test]
fn an_error_before_the_response_is_answered_and_the_connection_goes_on() {
    served(&Settings::default(), |stream| {
        let answer = conversation(
            &stream,
            "GET /panic-free HTTP/1.1\r\nHost: h\r\n\r\nGET /b HTTP/1.1\r\nHost: h\r\n\r\n",
        );
        assert!(
            answer.starts_with("HTTP/1.1 502 ") && answer.ends_with("GET /b"),
            "{answer}"
        );
        assert!(answer.contains("error=connection_refused; details=\"upstream_refused\""));
    });
}

#[test]
fn a_large_body_comes_whole_and_bounded() {
    served(&Settings::default(), |mut stream| {
        let head = "POST /count HTTP/1.1\r\nHost: h\r\nContent-Length: 5000000\r\nConnection: close\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&vec![b'x'; 5_000_000]).unwrap();
        assert!(rest(&stream).ends_with("\r\n\r\n5000000\n"));
    });
}
