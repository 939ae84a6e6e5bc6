//! The driver over real sockets, on both drivers of the runtime: what cannot be provoked from outside.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;

use http::StatusCode;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::version::TLS12;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use super::*;
use crate::http::{BodyLength, Exchange, ResponseHead};
use crate::outcome::Refusal;
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

fn read_until(mut stream: impl Read, is_last: impl Fn(&Came) -> bool) -> Came {
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
    let plain = |stream: TcpStream| Transport::plain(Socket::new(OwnedFd::from(stream)).unwrap());
    served_on(preference, client, plain)
}

fn served_on(
    preference: Preference,
    client: impl FnOnce(TcpStream) + Send + 'static,
    transport: impl FnOnce(TcpStream) -> Transport,
) -> (End, Vec<End>) {
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
        let transport = transport(stream);
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

/// The keys of TLS 1.2 cannot be renewed, and what is under way when they are used up is lost.
#[test]
fn a_client_is_told_to_go_before_the_keys_are_used_up() {
    const RECORDS: u64 = 100;
    let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
    let chain = vec![made.cert.der().clone()];
    let mut roots = RootCertStore::empty();
    roots.add(chain[0].clone()).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let server = ServerConfig::builder_with_protocol_versions(&[&TLS12]).with_no_client_auth();
    let server = Arc::new(server.with_single_cert(chain, key).unwrap());
    let client = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let client = Arc::new(client);

    let ask = move |socket: TcpStream| {
        let name = ServerName::try_from("a.test").unwrap();
        let connection = ClientConnection::new(client, name).unwrap();
        let mut stream = StreamOwned::new(connection, socket);
        stream
            .write_all(&[PREFACE, &frame(4, 0, 0, b"")].concat())
            .unwrap();
        let (ping, goaway, ack) = (6, 7, 1);
        let mut answered = 0;
        let last_words = loop {
            let id = u8::try_from(2 * answered + 1).unwrap();
            stream.write_all(&get(id, "/ok")).unwrap();
            let came = read_until(
                &mut stream,
                |came: &Came| matches!(came.last(), Some((0, 1, stream, _)) if *stream == id),
            );
            answered += 1;
            if came.iter().any(|(kind, ..)| *kind == goaway) {
                break came;
            }
        };
        assert!((10..RECORDS).contains(&answered), "after {answered} answers");
        let (.., word) = last_words.iter().find(|(kind, ..)| *kind == goaway).unwrap();
        assert_eq!(word[..], [0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]); // refuses nothing yet
        let (.., data) = last_words.iter().find(|(kind, ..)| *kind == ping).unwrap();
        stream.write_all(&frame(ping, ack, 0, data)).unwrap();
        let came = read_until(&mut stream, |_| false);
        let (.., word) = came.iter().find(|(kind, ..)| *kind == goaway).unwrap();
        assert_eq!(u64::from(word[3]), 2 * answered - 1);
    };
    let over_tls = |mut socket: TcpStream| {
        let mut connection = ServerConnection::new(server).unwrap();
        while connection.is_handshaking() {
            connection.complete_io(&mut socket).unwrap();
        }
        let socket = Socket::new(OwnedFd::from(socket)).unwrap();
        let transport = Transport::rustls_server(socket, connection, Buffer::none(), Refusal::NotPreferred);
        transport.wear_out_after(RECORDS);
        transport
    };
    let (end, ends) = served_on(Preference::Auto, ask, over_tls);
    assert_eq!(end, End::finished(Side::Downstream));
    assert!(ends.iter().all(|end| *end == End::finished(Side::Atlas)));
}
