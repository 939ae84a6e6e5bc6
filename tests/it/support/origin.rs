//! The test server that plays an endpoint: scripted, on threads, and it remembers what it was sent.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::certs::Leaf;
use super::wire::{Framing, Head, Wire};
use super::{Digest, free_port, wait_until};

/// How much of a body is kept; its length and hash always are.
const BODY_KEPT_MAX: usize = 1024 * 1024;

/// What happens to a connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    Keep,
    Close,
    /// FIN without close_notify.
    Truncate,
    Reset,
}

/// A request as it reached the origin.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Which connection it came on, from 0.
    pub connection: usize,
    pub head: Head,
    pub body: Vec<u8>,
    pub body_bytes: u64,
    pub sha256: String,
    pub trailers: Vec<(String, String)>,
    /// Whether its body came whole.
    pub whole: bool,
}

impl Seen {
    /// `GET /path`, and the body behind it if there is one.
    pub fn summary(&self) -> String {
        let mut text = format!("{} {}", self.head.word(0), self.head.word(1));
        if self.body_bytes > 0 {
            text.push(' ');
            text.push_str(&super::wire::latin1(&self.body));
        }
        if !self.whole {
            text.push_str(" …");
        }
        text
    }
}

type Handler = Arc<dyn Fn(&mut OriginExchange<'_>) -> io::Result<Then> + Send + Sync>;
type RawHandler = Arc<dyn Fn(Stream) + Send + Sync>;

/// Starts describing an origin.
pub fn origin() -> Builder {
    Builder::default()
}

#[derive(Default)]
pub struct Builder {
    answers: HashMap<String, Handler>,
    fallback: Option<Handler>,
    raw: Option<RawHandler>,
    unix: Option<PathBuf>,
    tls: Option<Arc<rustls::ServerConfig>>,
    address: Option<SocketAddr>,
}

impl Builder {
    /// Answers this path with 200 and a body.
    pub fn answers(self, path: &str, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        self.handles(path, move |exchange| exchange.answer(200, &[], &body))
    }

    /// Answers this path with these bytes, whatever they are, and then does as told.
    pub fn sends(self, path: &str, bytes: impl Into<Vec<u8>>, then: Then) -> Self {
        let bytes = bytes.into();
        self.handles(path, move |exchange| {
            exchange.read_body()?;
            exchange.send(&bytes)?;
            Ok(then)
        })
    }

    /// Answers this path by a function.
    pub fn handles(
        mut self,
        path: &str,
        handler: impl Fn(&mut OriginExchange<'_>) -> io::Result<Then> + Send + Sync + 'static,
    ) -> Self {
        self.answers.insert(path.to_owned(), Arc::new(handler));
        self
    }

    /// Answers every path that has no answer of its own by a function.
    pub fn handles_all(
        mut self,
        handler: impl Fn(&mut OriginExchange<'_>) -> io::Result<Then> + Send + Sync + 'static,
    ) -> Self {
        self.fallback = Some(Arc::new(handler));
        self
    }

    /// Hands whole connections to a function; nothing is parsed.
    pub fn raw(mut self, handler: impl Fn(Stream) + Send + Sync + 'static) -> Self {
        self.raw = Some(Arc::new(handler));
        self
    }

    /// Listens on a unix socket.
    pub fn on_unix(mut self, path: impl Into<PathBuf>) -> Self {
        self.unix = Some(path.into());
        self
    }

    /// Listens on this port.
    pub fn on_port(self, port: u16) -> Self {
        self.at(SocketAddr::from(([127, 0, 0, 1], port)))
    }

    /// Listens on this address.
    pub fn at(mut self, address: SocketAddr) -> Self {
        self.address = Some(address);
        self
    }

    /// Speaks TLS.
    pub fn tls(self, leaf: Leaf) -> Self {
        self.tls_as(server_config(&leaf))
    }

    /// Speaks TLS and this protocol over it.
    pub fn tls_for(self, leaf: Leaf, protocol: &str) -> Self {
        let mut config = server_config(&leaf);
        config.alpn_protocols = vec![protocol.into()];
        self.tls_as(config)
    }

    /// Speaks TLS in its own way.
    pub fn tls_as(mut self, config: rustls::ServerConfig) -> Self {
        self.tls = Some(config.into());
        self
    }

    pub fn start(self) -> Origin {
        let (listener, address) = match &self.unix {
            Some(path) => (
                Listener::Unix(UnixListener::bind(path).expect("the socket's path is free")),
                format!("unix:{}", path.display()),
            ),
            None => {
                let listener = match self.address {
                    Some(address) => TcpListener::bind(address).expect("the port is free"),
                    // Another test program may be quicker.
                    None => (0..100)
                        .find_map(|_| TcpListener::bind(("127.0.0.1", free_port())).ok())
                        .expect("a port is free"),
                };
                let address = listener.local_addr().expect("it is bound");
                (Listener::Tcp(listener), address.to_string())
            }
        };
        let state = Arc::new(State::default());
        let script = Arc::new(Script {
            answers: self.answers,
            fallback: self
                .fallback
                .unwrap_or_else(|| Arc::new(|exchange| exchange.answer(200, &[], b"ok"))),
            raw: self.raw,
            tls: self.tls,
        });
        let shared = state.clone();
        thread::spawn(move || accept(&listener, &script, &shared));
        Origin { address, state }
    }
}

fn server_config(leaf: &Leaf) -> rustls::ServerConfig {
    rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has the versions")
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der()], leaf.private_key())
        .expect("key and certificate belong together")
}

struct Script {
    answers: HashMap<String, Handler>,
    fallback: Handler,
    raw: Option<RawHandler>,
    tls: Option<Arc<rustls::ServerConfig>>,
}

#[derive(Default)]
struct State {
    stopped: AtomicBool,
    accepted: AtomicUsize,
    open: AtomicUsize,
    seen: Mutex<Vec<Seen>>,
    streams: Mutex<HashMap<usize, Socket>>,
}

/// An origin that runs; it stops when dropped.
pub struct Origin {
    address: String,
    state: Arc<State>,
}

impl Origin {
    /// As it stands in `endpoints`.
    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn port(&self) -> u16 {
        self.address
            .rsplit(':')
            .next()
            .and_then(|port| port.parse().ok())
            .expect("it listens on TCP")
    }

    /// The requests that came so far, in the order their heads came.
    pub fn requests(&self) -> Vec<Seen> {
        self.state.seen.lock().expect("no holder panics").clone()
    }

    /// The last request, when there is one, waited for.
    pub fn request(&self) -> Seen {
        wait_until("the origin has a request", || self.requests().pop())
    }

    /// How many connections it has accepted.
    pub fn accepted(&self) -> usize {
        self.state.accepted.load(Ordering::SeqCst)
    }

    /// How many connections are open now.
    pub fn open(&self) -> usize {
        self.state.open.load(Ordering::SeqCst)
    }

    /// Closes all connections that are open, and goes on accepting.
    pub fn closes_all(&self) {
        for (_, stream) in self.state.streams.lock().expect("no holder panics").drain() {
            stream.shutdown();
        }
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.state.stopped.store(true, Ordering::SeqCst);
        match self.address.strip_prefix("unix:") {
            Some(path) => drop(UnixStream::connect(path)),
            None => drop(TcpStream::connect(
                self.address.parse::<SocketAddr>().expect("it is an address"),
            )),
        }
        self.closes_all();
    }
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

fn accept(listener: &Listener, script: &Arc<Script>, state: &Arc<State>) {
    loop {
        let socket = match listener {
            Listener::Tcp(listener) => listener.accept().map(|(stream, _)| Socket::Tcp(stream)),
            Listener::Unix(listener) => listener.accept().map(|(stream, _)| Socket::Unix(stream)),
        };
        if state.stopped.load(Ordering::SeqCst) {
            return;
        }
        let Ok(socket) = socket else { continue };
        let number = state.accepted.fetch_add(1, Ordering::SeqCst);
        let kept = socket.try_clone().expect("descriptors are not short");
        state
            .streams
            .lock()
            .expect("no holder panics")
            .insert(number, kept);
        state.open.fetch_add(1, Ordering::SeqCst);
        let (script, state) = (script.clone(), state.clone());
        thread::spawn(move || {
            serve(socket, number, &script, &state);
            state.streams.lock().expect("no holder panics").remove(&number);
            state.open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

fn serve(socket: Socket, number: usize, script: &Script, state: &State) {
    let kept = socket.try_clone().expect("descriptors are not short");
    let stream = Stream::new(socket, script.tls.as_ref());
    if let Some(raw) = &script.raw {
        raw(stream);
    } else {
        let mut wire = Wire::new(stream);
        let mut then = Then::Close;
        while let Ok(Some(head)) = wire.head() {
            then = exchange(&mut wire, head, number, script, state).unwrap_or(Then::Close);
            if then != Then::Keep {
                break;
            }
        }
        match then {
            Then::Reset => kept.reset(),
            Then::Truncate => wire.stream.truncate(),
            _ => wire.stream.finish(),
        }
    }
    kept.shutdown();
}

fn exchange(
    wire: &mut Wire<Stream>,
    head: Head,
    connection: usize,
    script: &Script,
    state: &State,
) -> io::Result<Then> {
    let path = head.word(1).split('?').next().unwrap_or_default().to_owned();
    let handler = script.answers.get(&path).unwrap_or(&script.fallback);
    let framing = Framing::of_request(&head);
    let at = {
        let mut seen = state.seen.lock().expect("no holder panics");
        seen.push(Seen {
            connection,
            head: head.clone(),
            whole: framing == Framing::None,
            ..Seen::default()
        });
        seen.len() - 1
    };
    let mut exchange = OriginExchange {
        head,
        framing,
        wire,
        body_read: false,
        state,
        at,
    };
    handler(&mut exchange)
}

/// One request at the origin, and the way to answer it.
pub struct OriginExchange<'a> {
    pub head: Head,
    framing: Framing,
    wire: &'a mut Wire<Stream>,
    body_read: bool,
    state: &'a State,
    at: usize,
}

impl OriginExchange<'_> {
    /// Reads the request's body to its end; what was read.
    pub fn read_body(&mut self) -> io::Result<Seen> {
        if !self.body_read {
            self.body_read = true;
            let mut digest = Digest::new();
            let (mut kept, mut bytes) = (Vec::new(), 0);
            let trailers = self.wire.body(self.framing, |piece| {
                digest.update(piece);
                bytes += piece.len() as u64;
                let room = BODY_KEPT_MAX.saturating_sub(kept.len()).min(piece.len());
                kept.extend_from_slice(&piece[..room]);
            })?;
            let mut seen = self.state.seen.lock().expect("no holder panics");
            let seen = &mut seen[self.at];
            seen.body = kept;
            seen.body_bytes = bytes;
            seen.sha256 = digest.hex();
            seen.trailers = trailers;
            seen.whole = true;
        }
        Ok(self.state.seen.lock().expect("no holder panics")[self.at].clone())
    }

    /// Reads some of the request's body as it lies on the wire, framing and all.
    pub fn read_some(&mut self) -> io::Result<usize> {
        Ok(self.wire.piece(u64::MAX)?.map_or(0, <[u8]>::len))
    }

    /// Reads the request whole, then answers it with a length.
    pub fn answer(&mut self, status: u16, fields: &[(&str, &str)], body: &[u8]) -> io::Result<Then> {
        self.read_body()?;
        let mut head = format!("HTTP/1.1 {status} Said\r\nContent-Length: {}\r\n", body.len());
        for (name, value) in fields {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        if self.head.word(0) != "HEAD" {
            bytes.extend_from_slice(body);
        }
        self.send(&bytes)?;
        Ok(Then::Keep)
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.wire.send(bytes)
    }

    /// Sends back whatever comes from here on, until the peer has said all.
    pub fn echo(&mut self) -> io::Result<Then> {
        while let Some(piece) = self.wire.piece(u64::MAX)? {
            let piece = piece.to_vec();
            self.wire.send(piece)?;
        }
        Ok(Then::Close)
    }

    /// Waits until the peer closes, or a time far beyond a test's; whether it closed.
    pub fn wait_for_close(&mut self) -> bool {
        loop {
            match self.wire.piece(u64::MAX) {
                Ok(Some(_)) => {}
                Ok(None) => return true,
                Err(error) => {
                    return !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
                }
            }
        }
    }

    /// Which connection this is, from 0.
    pub fn connection(&self) -> usize {
        self.state.seen.lock().expect("no holder panics")[self.at].connection
    }
}

enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(stream) => Self::Tcp(stream.try_clone()?),
            Self::Unix(stream) => Self::Unix(stream.try_clone()?),
        })
    }

    fn shutdown(&self) {
        // A socket that is closed already is what is wanted.
        let _ = match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Both),
            Self::Unix(stream) => stream.shutdown(Shutdown::Both),
        };
    }

    /// Ends the connection with a reset, at once: whoever else holds the socket.
    fn reset(&self) {
        if let Self::Tcp(stream) = self {
            rustix::net::connect_unspec(stream).expect("a connection can be taken apart");
        }
    }
}

/// An accepted connection, perhaps inside TLS.
pub struct Stream {
    socket: Socket,
    tls: Option<Box<rustls::ServerConnection>>,
}

impl Stream {
    fn new(socket: Socket, tls: Option<&Arc<rustls::ServerConfig>>) -> Self {
        let limit = Some(Duration::from_secs(300));
        let _ = match &socket {
            Socket::Tcp(stream) => stream
                .set_nodelay(true)
                .and_then(|()| stream.set_read_timeout(limit)),
            Socket::Unix(stream) => stream.set_read_timeout(limit),
        };
        let tls = tls.map(|config| {
            Box::new(rustls::ServerConnection::new(config.clone()).expect("the configuration is good"))
        });
        Self { socket, tls }
    }

    /// The TCP connection below.
    pub fn tcp(&self) -> &TcpStream {
        match &self.socket {
            Socket::Tcp(stream) => stream,
            Socket::Unix(_) => panic!("not a TCP connection"),
        }
    }

    /// Its TLS.
    pub fn tls(&self) -> &rustls::ServerConnection {
        self.tls.as_ref().expect("the origin speaks TLS")
    }

    /// Says that nothing more will be sent.
    pub fn finish(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            let _ = tls.complete_io(&mut self.socket);
        }
        self.truncate();
    }

    /// FIN without close_notify.
    pub fn truncate(&mut self) {
        let _ = match &self.socket {
            Socket::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Socket::Unix(stream) => stream.shutdown(Shutdown::Write),
        };
        // Lets the peer read what is on its way before the socket goes.
        let mut rest = [0; 4096];
        while matches!(self.socket.read(&mut rest), Ok(count) if count > 0) {}
    }
}

impl Read for Socket {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(into),
            Self::Unix(stream) => stream.read(into),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(from),
            Self::Unix(stream) => stream.write(from),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match &mut self.tls {
            Some(tls) => rustls::Stream::new(&mut **tls, &mut self.socket).read(into),
            None => self.socket.read(into),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        match &mut self.tls {
            Some(tls) => rustls::Stream::new(&mut **tls, &mut self.socket).write(from),
            None => self.socket.write(from),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.tls {
            Some(tls) => rustls::Stream::new(&mut **tls, &mut self.socket).flush(),
            None => Ok(()),
        }
    }
}
