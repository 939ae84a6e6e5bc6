//! A client that asks for one thing after the other, over TLS or without.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// How the server is reached.
#[derive(Clone)]
pub(crate) enum Way {
    Plain,
    Tls(Arc<ClientConfig>),
}

/// TLS 1.3 with AES-128-GCM and X25519, and no session taken up again: the same work for everybody.
pub(crate) fn tls(certificate: &Path) -> Way {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256];
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
    let mut roots = RootCertStore::empty();
    let pem = std::fs::read(certificate).unwrap();
    for der in rustls_pemfile::certs(&mut pem.as_slice()) {
        roots.add(der.unwrap()).unwrap();
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    Way::Tls(Arc::new(config))
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// One connection.
pub(crate) struct Client {
    stream: Box<dyn Stream>,
    buffer: Vec<u8>,
    /// The stream of the next request, where HTTP/2 is spoken.
    next_stream: Option<u32>,
}

/// Frames of HTTP/2: kinds, flags and sizes of RFC 9113.
const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const SETTINGS: u8 = 0x4;
const WINDOW_UPDATE: u8 = 0x8;
const END_STREAM: u8 = 0x1;
const ACK: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const HEADER_BYTES: usize = 9;
/// The largest window there is, so that none has to be opened again.
const WINDOW: u32 = (1 << 31) - 1;
const FIRST_WINDOW: u32 = 65_535;

impl Client {
    pub(crate) fn connect(port: u16, way: &Way) -> Self {
        let socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
        socket.set_nodelay(true).unwrap();
        let stream: Box<dyn Stream> = match way {
            Way::Plain => Box::new(socket),
            Way::Tls(config) => {
                let name = super::guest::NAME.try_into().unwrap();
                let connection = ClientConnection::new(config.clone(), name).unwrap();
                Box::new(StreamOwned::new(connection, socket))
            }
        };
        Self {
            stream,
            buffer: vec![0; 128 * 1024],
            next_stream: None,
        }
    }

    pub(crate) fn connect_http2(port: u16, way: &Way) -> Self {
        let way = match way {
            Way::Plain => Way::Plain,
            Way::Tls(config) => {
                let mut config = ClientConfig::clone(config);
                config.alpn_protocols = vec![b"h2".to_vec()];
                Way::Tls(Arc::new(config))
            }
        };
        let mut client = Self::connect(port, &way);
        let mut first = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        let initial_window_size = [&[0, 4][..], &WINDOW.to_be_bytes()].concat();
        first.extend(frame(SETTINGS, 0, 0, &initial_window_size));
        let more = (WINDOW - FIRST_WINDOW).to_be_bytes();
        first.extend(frame(WINDOW_UPDATE, 0, 0, &more));
        client.stream.write_all(&first).unwrap();
        client.next_stream = Some(1);
        client
    }

    /// Asks for a path and reads the answer, whose body has so many bytes.
    pub(crate) fn get(&mut self, path: &str, expected: usize) {
        match self.next_stream {
            Some(stream) => {
                self.next_stream = Some(stream + 2);
                self.get_http2(stream, path, expected);
            }
            None => self.get_http1(path, expected),
        }
    }

    fn get_http2(&mut self, stream: u32, path: &str, expected: usize) {
        // HPACK: GET and https from the static table, :path and :authority as literals (RFC 7541 §6.2.2).
        let mut block = vec![0x82, 0x87];
        for (name, value) in [(4, path), (1, super::guest::NAME)] {
            block.extend([name, u8::try_from(value.len()).unwrap()]);
            block.extend(value.as_bytes());
        }
        let head = frame(HEADERS, END_HEADERS | END_STREAM, stream, &block);
        self.stream.write_all(&head).unwrap();
        self.stream.flush().unwrap();
        let mut body = 0;
        loop {
            let mut header = [0; HEADER_BYTES];
            self.stream.read_exact(&mut header).unwrap();
            let [a, b, c, kind, flags, ..] = header;
            let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
            let payload = &mut self.buffer[..length];
            self.stream.read_exact(payload).unwrap();
            match kind {
                SETTINGS if flags & ACK == 0 => {
                    self.stream.write_all(&frame(SETTINGS, ACK, 0, &[])).unwrap();
                }
                // :status 200 is one byte, an index of the static table.
                HEADERS => assert_eq!(payload[0] & 0x7f, 8, "{payload:?}"),
                DATA => body += length,
                SETTINGS | WINDOW_UPDATE => {}
                _ => panic!("frame {kind:#x}: {payload:?}"),
            }
            if kind == DATA && flags & END_STREAM != 0 {
                break;
            }
        }
        assert_eq!(body, expected, "not all has come, or more");
    }

    fn get_http1(&mut self, path: &str, expected: usize) {
        // In one piece: write! would make five, each a record and a segment of its own.
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", super::guest::NAME);
        self.stream.write_all(request.as_bytes()).unwrap();
        self.stream.flush().unwrap();
        let mut head = Vec::new();
        let mut body = loop {
            let count = self.stream.read(&mut self.buffer).unwrap();
            assert!(count > 0, "the server closed before it answered");
            head.extend_from_slice(&self.buffer[..count]);
            if let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") {
                assert!(
                    head.starts_with(b"HTTP/1.1 200 "),
                    "{}",
                    String::from_utf8_lossy(&head[..end])
                );
                break head.len() - end - 4;
            }
        };
        while body < expected {
            let count = self.stream.read(&mut self.buffer).unwrap();
            assert!(count > 0, "the server closed after {body} of {expected} bytes");
            body += count;
        }
        assert_eq!(body, expected, "more came than was asked for");
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}
