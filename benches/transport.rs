//! What TLS costs a worker: CPU for each GB in either direction and for each small exchange, and
//! memory for each idle connection; plain, over monoio-rustls and over our own stream.
//!
//! `cargo bench --bench transport [bulk|small|idle] [epoll]`; half a minute, on loopback.
#![expect(clippy::print_stdout, reason = "a bench prints")]
#![expect(clippy::unwrap_used, reason = "a bench may end in a panic")]
#![expect(
    clippy::disallowed_methods,
    reason = "the clients run in threads of their own"
)]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use atlas::offload::Offload;
use atlas::outcome::Refusal;
use atlas::runtime::{self, Preference, Socket};
use atlas::time::Deadline;
use atlas::tls::certificates::Certificate;
use atlas::tls::{self, Build, ClientBuild, ClientSettings, Settings};
use atlas::transport::Transport;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};
use rustls::{ClientConnection, StreamOwned};

const GB: f64 = 1e9;
const BULK_BYTES: usize = 2_000_000_000;
const PIECE: usize = 64 * 1024;
const SMALL_BYTES: usize = 1024;
const EXCHANGES: usize = 100_000;
const IDLE_CONNECTIONS: usize = 5000;
const LONG: Duration = Duration::from_secs(60);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let has = |word: &str| arguments.iter().any(|argument| argument == word);
    let preference = if has("epoll") {
        Preference::Epoll
    } else {
        Preference::Auto
    };
    if has("clients") {
        hold_clients(arguments.last().unwrap().parse().unwrap());
        return;
    }
    let all = !has("bulk") && !has("small") && !has("idle");
    for way in [Way::Plain, Way::Rustls, Way::Sealed] {
        if all || has("bulk") {
            bulk(preference, way, true);
            bulk(preference, way, false);
        }
        if all || has("small") {
            small(preference, way);
        }
        if (all || has("idle")) && way != Way::Plain {
            idle(preference, way);
        }
    }
}

/// Who makes the records of this side.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Plain,
    Rustls,
    Sealed,
}

impl Way {
    fn offload(self) -> Arc<Offload> {
        match self {
            Self::Plain | Self::Rustls => Offload::absent(Refusal::NoUlp).into(),
            Self::Sealed => Offload::assumed().into(),
        }
    }

    async fn transport(self, socket: Socket, settings: &Settings) -> Transport {
        if self == Self::Plain {
            return Transport::plain(socket);
        }
        let offload = self.offload();
        let secured = tls::accept(socket, settings, &offload, Deadline::within(LONG));
        secured.await.unwrap().transport
    }
}

/// A request of 1 KiB and an answer of 1 KiB, one after the other.
fn small(preference: Preference, way: Way) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let client = std::thread::spawn(move || {
        let socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
        socket.set_nodelay(true).unwrap();
        match way {
            Way::Plain => ask(socket),
            _ => ask(secure(socket)),
        }
    });
    let settings = settings();
    runtime::start(preference, |driver| async move {
        let socket = Socket::new(OwnedFd::from(listener.accept().unwrap().0)).unwrap();
        let transport = way.transport(socket, &settings).await;
        let started = cpu_seconds();
        let (mut request, answer) = (vec![0; PIECE], [7; SMALL_BYTES]);
        for _ in 0..EXCHANGES {
            let mut count = 0;
            while count < SMALL_BYTES {
                count += transport.read(&mut request).await.unwrap();
            }
            transport.write_all(&answer, LONG).await.unwrap();
            transport.flush(LONG).await.unwrap();
        }
        let spent = (cpu_seconds() - started) / EXCHANGES as f64 * 1e6;
        println!(
            "{way:?} exchange of 1 KiB {spent:.2} CPU µs ({})",
            driver.as_str()
        );
        transport.close(Deadline::within(LONG)).await;
    })
    .unwrap();
    client.join().unwrap();
}

fn ask(mut peer: impl Read + Write) {
    let mut answer = [0; SMALL_BYTES];
    for _ in 0..EXCHANGES {
        peer.write_all(&[7; SMALL_BYTES]).unwrap();
        peer.flush().unwrap();
        peer.read_exact(&mut answer).unwrap();
    }
}

fn bulk(preference: Preference, way: Way, sending: bool) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let client = std::thread::spawn(move || {
        let socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
        match way {
            Way::Plain => drive(socket, sending),
            _ => drive(secure(socket), sending),
        }
    });
    let settings = settings();
    runtime::start(preference, |driver| async move {
        let socket = Socket::new(OwnedFd::from(listener.accept().unwrap().0)).unwrap();
        let transport = way.transport(socket, &settings).await;
        let started = cpu_seconds();
        let mut piece = vec![7; PIECE];
        for _ in 0..BULK_BYTES / PIECE {
            if sending {
                transport.write_all(&piece, LONG).await.unwrap();
            }
        }
        while !sending && transport.read(&mut piece).await.unwrap() > 0 {}
        transport.flush(LONG).await.unwrap();
        let spent = (cpu_seconds() - started) / (BULK_BYTES as f64 / GB);
        let what = if sending { "sent" } else { "received" };
        println!("{way:?} {what} {spent:.3} CPU s/GB ({})", driver.as_str());
        transport.close(Deadline::within(LONG)).await;
    })
    .unwrap();
    client.join().unwrap();
}

fn drive(mut peer: impl Read + Write, sending: bool) {
    let mut piece = vec![7; PIECE];
    if sending {
        let mut rest = BULK_BYTES / PIECE * PIECE;
        while rest > 0 {
            rest -= peer.read(&mut piece).unwrap();
        }
    } else {
        for _ in 0..BULK_BYTES / PIECE {
            peer.write_all(&piece).unwrap();
        }
    }
}

/// TLS by rustls alone; says goodbye when dropped.
fn secure(mut socket: TcpStream) -> Goodbye {
    let name = ClientSettings::parse_name("a.test").unwrap();
    let mut connection = ClientConnection::new(client().client, name).unwrap();
    while connection.is_handshaking() {
        connection.complete_io(&mut socket).unwrap();
    }
    Goodbye(StreamOwned::new(connection, socket))
}

struct Goodbye(StreamOwned<ClientConnection, TcpStream>);

impl Read for Goodbye {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(into)
    }
}

impl Write for Goodbye {
    fn write(&mut self, from: &[u8]) -> std::io::Result<usize> {
        self.0.write(from)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

impl Drop for Goodbye {
    fn drop(&mut self) {
        self.0.conn.send_close_notify();
        let _ = self.0.flush();
        // What is closed with tickets unread is reset.
        let _ = self.0.read_to_end(&mut Vec::new());
    }
}

fn idle(preference: Preference, way: Way) {
    raise_descriptors();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut clients = Command::new(std::env::current_exe().unwrap())
        .args(["clients", &port.to_string()])
        .spawn()
        .unwrap();
    let settings = Rc::new(settings());
    runtime::start(preference, |driver| async move {
        // One first, so that what every process needs once is not counted.
        let (mut before, mut held) = (0, Vec::new());
        for number in 0..=IDLE_CONNECTIONS {
            let socket = Socket::new(OwnedFd::from(listener.accept().unwrap().0)).unwrap();
            let transport = Rc::new(way.transport(socket, &settings).await);
            let waiting = transport.clone();
            held.push(transport);
            let wait = async move {
                let _ = waiting.read(&mut [0; 1]).await;
            };
            runtime::spawn(wait, |_| {});
            runtime::sleep(Duration::from_micros(100)).await;
            if number == 0 {
                before = resident();
            }
        }
        let each = (resident() - before) / IDLE_CONNECTIONS;
        println!(
            "{way:?} idle {each} bytes of memory a connection, of {IDLE_CONNECTIONS} ({})",
            driver.as_str()
        );
    })
    .unwrap();
    clients.kill().unwrap();
    clients.wait().unwrap();
}

/// The other ends, in a process of their own: sockets alone, after their handshakes.
fn hold_clients(port: u16) {
    raise_descriptors();
    let settings = client();
    let mut sockets = Vec::new();
    for _ in 0..=IDLE_CONNECTIONS {
        let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let name = ClientSettings::parse_name("a.test").unwrap();
        let mut connection = ClientConnection::new(settings.client.clone(), name).unwrap();
        while connection.is_handshaking() {
            connection.complete_io(&mut socket).unwrap();
        }
        sockets.push(socket);
    }
    std::thread::sleep(LONG);
}

fn settings() -> Settings {
    let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
    let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let path = Path::new("made for the bench");
    Settings::build(Build {
        certificates: vec![Certificate::from_pem(chain.as_bytes(), path, key.as_bytes(), path).unwrap()],
        min_version: tls::Version::Tls12,
        alpn: Vec::new(),
        speaks: true,
        prefer_ktls: true,
        ktls_threshold: u64::MAX,
        earlier: &[],
    })
    .unwrap()
}

fn client() -> ClientSettings {
    ClientSettings::build(ClientBuild {
        roots: None,
        certificate: None,
        server_name: None,
        alpn: Vec::new(),
        prefer_ktls: true,
        ktls_threshold: u64::MAX,
    })
    .unwrap()
}

fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * rustix::param::page_size()
}

fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let all = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, all).unwrap();
}
