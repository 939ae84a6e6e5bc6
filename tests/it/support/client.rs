//! The tests' client: exact bytes out, HTTP/1.1 strictly read back, TLS with every option a test
//! may want to turn.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, SupportedProtocolVersion};

use super::certs::{Kind, ca};
use super::wire::{Framing, Head, Wire};

/// How long a client waits for bytes before its test fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A response, whole.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub head: Head,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    /// The informational responses (1xx) before it.
    pub informational: Vec<Head>,
}

impl Answer {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.head.field(name)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// How the peer ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// FIN, after close_notify where there is TLS.
    Closed,
    /// FIN without close_notify.
    Truncated,
    Reset,
}

/// What a client wants of TLS.
#[derive(Clone)]
pub struct Tls {
    name: String,
    config: Arc<ClientConfig>,
}

impl Tls {
    /// TLS with this name, trusting the tests' authority.
    pub fn to(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            config: Arc::new(config(rustls::ALL_VERSIONS, None)),
        }
    }

    /// Only this version.
    pub fn version(mut self, version: &'static SupportedProtocolVersion) -> Self {
        self.config = Arc::new(config(&[version], None));
        self
    }

    /// Understands only certificates of this kind.
    pub fn only(mut self, kind: Kind) -> Self {
        self.config = Arc::new(config(rustls::ALL_VERSIONS, Some(kind)));
        self
    }

    /// Offers these application protocols.
    pub fn alpn(mut self, protocols: &[&str]) -> Self {
        let config = Arc::make_mut(&mut self.config);
        config.alpn_protocols = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
        self
    }

    /// Sends no server name.
    pub fn without_name(mut self) -> Self {
        Arc::make_mut(&mut self.config).enable_sni = false;
        self
    }

    /// A connection that has not begun yet.
    pub fn client(&self) -> ClientConnection {
        let name = ServerName::try_from(self.name.clone()).expect("this is a name");
        ClientConnection::new(self.config.clone(), name).expect("the configuration is good")
    }
}

fn config(versions: &[&'static SupportedProtocolVersion], only: Option<Kind>) -> ClientConfig {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    if let Some(kind) = only {
        let wanted = match kind {
            Kind::Ecdsa => "ECDSA",
            Kind::Rsa => "RSA",
        };
        // A certificate is chosen by the signature schemes offered; in TLS 1.2 by the suites too.
        let mapping: Vec<_> = provider
            .signature_verification_algorithms
            .mapping
            .iter()
            .filter(|(scheme, _)| format!("{scheme:?}").starts_with(wanted))
            .copied()
            .collect();
        provider.signature_verification_algorithms.mapping = Box::leak(mapping.into_boxed_slice());
    }
    ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)
        .expect("the provider has these versions")
        .with_root_certificates(ca().roots())
        .with_no_client_auth()
}

/// A byte stream to Atlas.
pub struct Stream {
    tcp: TcpStream,
    tls: Option<Box<ClientConnection>>,
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match &mut self.tls {
            Some(tls) => rustls::Stream::new(&mut **tls, &mut self.tcp).read(into),
            None => self.tcp.read(into),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        match &mut self.tls {
            Some(tls) => rustls::Stream::new(&mut **tls, &mut self.tcp).write(from),
            None => self.tcp.write(from),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.tls {
            Some(tls) => rustls::Stream::new(&mut **tls, &mut self.tcp).flush(),
            None => Ok(()),
        }
    }
}

/// A connection to Atlas.
pub struct Connection {
    wire: Wire<Stream>,
}

impl Connection {
    /// Without TLS.
    pub fn plain(address: SocketAddr) -> io::Result<Self> {
        Ok(Self {
            wire: Wire::new(Stream {
                tcp: tcp(address)?,
                tls: None,
            }),
        })
    }

    /// With TLS; the handshake is done when this returns.
    pub fn tls(address: SocketAddr, tls: &Tls) -> io::Result<Self> {
        Self::tls_after(address, b"", tls)
    }

    /// Sends bytes first, a PROXY header say, and then shakes hands.
    pub fn tls_after(address: SocketAddr, first: &[u8], tls: &Tls) -> io::Result<Self> {
        let mut tcp = tcp(address)?;
        tcp.write_all(first)?;
        let mut connection = Box::new(tls.client());
        while connection.is_handshaking() {
            connection.complete_io(&mut tcp)?;
        }
        Ok(Self {
            wire: Wire::new(Stream {
                tcp,
                tls: Some(connection),
            }),
        })
    }

    /// The byte stream, if nothing more was read from it than was used.
    pub fn into_stream(self) -> Stream {
        self.wire.stream
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.wire.send(bytes).expect("Atlas takes the bytes");
        self
    }

    /// Sends bytes as they are, to a peer that may have gone.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.wire.send(bytes)
    }

    /// The answer to a request with this method.
    pub fn answer_to(&mut self, method: &str) -> Answer {
        self.try_answer_to(method)
            .unwrap_or_else(|error| panic!("no answer: {error}"))
    }

    /// The answer to a GET.
    pub fn answer(&mut self) -> Answer {
        self.answer_to("GET")
    }

    pub fn try_answer(&mut self) -> io::Result<Answer> {
        self.try_answer_to("GET")
    }

    pub fn try_answer_to(&mut self, method: &str) -> io::Result<Answer> {
        let mut body = Vec::new();
        let mut answer = self.stream_answer(method, |piece| body.extend_from_slice(piece))?;
        answer.body = body;
        Ok(answer)
    }

    /// As [`Self::try_answer_to`], with the body handed to `take`.
    pub fn stream_answer(&mut self, method: &str, take: impl FnMut(&[u8])) -> io::Result<Answer> {
        let mut informational = Vec::new();
        let head = loop {
            let head = self.head()?;
            if head.word(1).starts_with('1') && head.word(1) != "101" {
                informational.push(head);
            } else {
                break head;
            }
        };
        let framing = match head.word(1) {
            "101" => Framing::None,
            _ => Framing::of_response(&head, method),
        };
        let trailers = self.wire.body(framing, take)?;
        Ok(Answer {
            status: head.word(1).parse().expect("a status is a number"),
            head,
            body: Vec::new(),
            trailers,
            informational,
        })
    }

    /// The next head, of whatever kind.
    pub fn head(&mut self) -> io::Result<Head> {
        self.wire
            .head()?
            .ok_or_else(|| io::ErrorKind::ConnectionAborted.into())
    }

    /// `GET path`, on this connection.
    pub fn get(&mut self, path: &str) -> Answer {
        self.request("GET", path, &[], b"")
    }

    /// A request with a body of known length, and its answer.
    pub fn request(&mut self, method: &str, path: &str, fields: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut head = format!("{method} {path} HTTP/1.1\r\n");
        if !fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            head.push_str("Host: a.test\r\n");
        }
        for (name, value) in fields {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        // At once: who answers without a look at the body does not find it missing.
        self.send([head.as_bytes(), body].concat()).answer_to(method)
    }

    /// Reads what comes until the peer ends the connection.
    pub fn read_to_end(&mut self) -> (Vec<u8>, Ending) {
        let mut all = Vec::new();
        loop {
            match self.wire.piece(u64::MAX) {
                Ok(Some(piece)) => all.extend_from_slice(piece),
                Ok(None) => return (all, Ending::Closed),
                Err(error) => {
                    eprintln!("so far {} bytes", all.len());
                    let still_open = || panic!("the connection is still open ({error})");
                    return (all, ending(&error).unwrap_or_else(still_open));
                }
            }
        }
    }

    /// Reads exactly so many bytes.
    pub fn read_exactly(&mut self, count: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < count {
            let most = (count - all.len()) as u64;
            match self.wire.piece(most).expect("more comes") {
                Some(piece) => all.extend_from_slice(piece),
                None => panic!("the end came after {} of {count} bytes", all.len()),
            }
        }
        all
    }

    /// Reads exactly so many bytes, or how the peer ended the connection before; `None`: it has not,
    /// but nothing comes.
    pub fn try_read_exactly(&mut self, count: usize) -> Result<Vec<u8>, Option<Ending>> {
        let mut all = Vec::new();
        while all.len() < count {
            let most = (count - all.len()) as u64;
            match self.wire.piece(most) {
                Ok(Some(piece)) => all.extend_from_slice(piece),
                Ok(None) => return Err(Some(Ending::Closed)),
                Err(error) => return Err(ending(&error)),
            }
        }
        Ok(all)
    }

    /// How the peer ends the connection, and how long that takes; nothing more may come.
    pub fn ends(&mut self) -> (Ending, Duration) {
        let started = Instant::now();
        let (rest, ending) = self.read_to_end();
        assert!(rest.is_empty(), "unasked: {}", String::from_utf8_lossy(&rest));
        (ending, started.elapsed())
    }

    /// Whether nothing comes for this long: the connection is open and silent.
    pub fn is_silent_for(&mut self, time: Duration) -> bool {
        self.patience(time);
        let silent = matches!(
            self.wire.piece(1),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
        );
        self.patience(PATIENCE);
        silent
    }

    /// How long a read waits.
    pub fn patience(&self, time: Duration) {
        self.tcp()
            .set_read_timeout(Some(time))
            .expect("the time is not zero");
    }

    /// Says that nothing more will be sent, with close_notify where there is TLS.
    pub fn finish(&mut self) {
        if let Some(tls) = &mut self.wire.stream.tls {
            tls.send_close_notify();
            tls.write_tls(&mut self.wire.stream.tcp)
                .expect("Atlas takes close_notify");
        }
        self.tcp().shutdown(Shutdown::Write).expect("the socket is open");
    }

    /// FIN without close_notify.
    pub fn truncate(&self) {
        self.tcp().shutdown(Shutdown::Write).expect("the socket is open");
    }

    /// Ends the connection with a reset.
    pub fn reset(self) {
        let socket = socket2::SockRef::from(self.tcp());
        socket
            .set_linger(Some(Duration::ZERO))
            .expect("the socket is open");
    }

    pub fn tcp(&self) -> &TcpStream {
        &self.wire.stream.tcp
    }

    /// The TLS connection.
    pub fn session(&self) -> &ClientConnection {
        self.wire.stream.tls.as_ref().expect("this connection has TLS")
    }

    /// The certificate Atlas showed.
    pub fn certificate(&self) -> CertificateDer<'static> {
        let chain = self.session().peer_certificates().expect("the handshake is done");
        chain[0].clone().into_owned()
    }

    /// The protocol that was agreed on.
    pub fn protocol(&self) -> Option<String> {
        let protocol = self.session().alpn_protocol();
        protocol.map(|name| String::from_utf8_lossy(name).into_owned())
    }
}

/// How the peer has ended a connection that gives this error, if it has.
fn ending(error: &io::Error) -> Option<Ending> {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Some(Ending::Truncated),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Some(Ending::Reset),
        _ => None,
    }
}

fn tcp(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}
