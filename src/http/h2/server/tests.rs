//! The driver over real sockets, on both drivers of the runtime: what cannot be provoked from outside.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::thread;

use http::StatusCode;

use super::*;
use crate::http::{BodyLength, Exchange, ResponseHead};
use crate::runtime::{self, Preference, Socket};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Answers, panics, breaks off or answers nothing, by path.
#[derive(Default)]
struct Site {
    ends: RefCell<Vec<End>>,
}

impl Service for Site {
    async fn answer(&self, exchange: Exchange<'_>) -> End {
        let Exchange {
            request,
            mut response,
            ..
        } = exchange;
        let length = if request.path() == "/short" { 10 } else { 2 };
        let head = ResponseHead::new(StatusCode::OK, BodyLength::Exact(length));
        match request.path() {
            "/panics" => panic!("as the test wants"),
            "/nothing" => return End::finished(Side::Atlas),
            _ => response.start(&head).await.unwrap(),
        }
        let end = match response.write(b"ok").await {
            Ok(()) => response.finish(None).await.err(),
            Err(end) => Some(end),
        };
        let end = end.unwrap_or(End::finished(Side::Atlas));
        self.ends.borrow_mut().push(end);
        end
    }

    fn stream_refused(&self, _cause: Cause) {}

    fn refused(&self, _line: &[u8], _status: StatusCode, _bytes: u64, end: End) {
        self.ends.borrow_mut().push(end);
    }
}

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
}

/// A GET: `:method` and `:scheme` of the static table, `:authority` and `:path` as literals.
fn get(stream: u8, path: &str) -> Vec<u8> {
    let mut block = vec![0x82, 0x87];
    for (name, value) in [(0x01, "a.test"), (0x04, path)] {
        block.extend([name, u8::try_from(value.len()).unwrap()]);
        block.extend(value.as_bytes());
    }
    frame(1, 0x5, stream, &block)
}

/// What came: kind, flags, stream, payload.
type Came = Vec<(u8, u8, u8, Vec<u8>)>;

fn read_until(mut stream: &TcpStream, is_last: impl Fn(&Came) -> bool) -> Came {
    let mut came = Came::new();
    let mut header = [0; 9];
    while !is_last(&came) && stream.read_exact(&mut header).is_ok() {
        let mut payload = vec![0; usize::from(header[1]) << 8 | usize::from(header[2])];
        stream.read_exact(&mut payload).unwrap();
        came.push((header[3], header[4], header[8], payload));
    }
    came
}

/// Serves one connection; how it ended, and how its exchanges did.
fn served(preference: Preference, client: impl FnOnce(TcpStream) + Send + 'static) -> (End, Vec<End>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let client = thread::spawn(move || {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        client(stream);
    });
    let (stream, _) = listener.accept().unwrap();
    let site = Site::default();
    let drain = Drain::new();
    let end = runtime::start(preference, async |_| {
        let transport = Transport::plain(Socket::new(OwnedFd::from(stream)).unwrap());
        serve(&transport, Buffer::none(), &Settings::default(), &site, &drain).await
    });
    client.join().unwrap();
    (end.unwrap(), site.ends.take())
}

#[test]
fn a_panic_ends_its_stream_and_no_other() {
    for preference in [Preference::Auto, Preference::Epoll] {
        let (end, ends) = served(preference, |mut stream| {
            let requests = [
                get(1, "/panics"),
                get(3, "/short"),
                get(5, "/nothing"),
                get(7, "/ok"),
            ]
            .concat();
            let settings = frame(4, 0, 0, b"");
            stream
                .write_all(&[PREFACE, &settings, &requests].concat())
                .unwrap();
            let is_over = |came: &Came| {
                let resets = came.iter().filter(|(kind, ..)| *kind == 3).count();
                let ends = came
                    .iter()
                    .filter(|(kind, flags, ..)| *kind == 0 && *flags == 1)
                    .count();
                (resets, ends) == (3, 1)
            };
            let came = read_until(&stream, is_over);
            let resets: Vec<_> = came
                .iter()
                .filter(|(kind, ..)| *kind == 3)
                .map(|(_, _, stream, reason)| (*stream, reason[3]))
                .collect();
            let internal_error = 2;
            assert_eq!(
                resets,
                [(1, internal_error), (3, internal_error), (5, internal_error)]
            );
        });
        assert_eq!(end, End::new(Side::Downstream, Phase::Idle, Cause::Finished));
        let broken = End::new(Side::Atlas, Phase::ResponseBody, Cause::System);
        assert_eq!(ends, [broken, End::finished(Side::Atlas)]);
    }
}
