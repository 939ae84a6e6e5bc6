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
}

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
        }
    }

    /// Asks for a path and reads the answer, whose body has so many bytes.
    pub(crate) fn get(&mut self, path: &str, expected: usize) {
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
