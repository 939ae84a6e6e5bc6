//! What TLS costs a worker: CPU for each GB in either direction, and memory for each idle connection.
//!
//! `cargo bench --bench transport [bulk|idle] [epoll]`; some ten seconds, on loopback.
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
use std::time::Duration;

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
    if !has("idle") {
        for tls in [false, true] {
            for sending in [true, false] {
                bulk(preference, tls, sending);
            }
        }
    }
    if !has("bulk") {
        idle(preference);
    }
}

fn bulk(preference: Preference, with_tls: bool, sending: bool) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let client = std::thread::spawn(move || {
        let socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
        match (with_tls, sending) {
            (true, _) => drive(secure(socket), sending),
            (false, _) => drive(socket, sending),
        }
    });
    let settings = settings();
    runtime::start(preference, |driver| async move {
        let socket = Socket::new(OwnedFd::from(listener.accept().unwrap().0)).unwrap();
        let transport = match with_tls {
            true => {
                tls::accept(socket, &settings, Deadline::within(LONG))
                    .await
                    .unwrap()
                    .transport
            }
            false => Transport::plain(socket),
        };
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
        let how = if with_tls { "TLS" } else { "plain" };
        println!("{how:5} {what:8} {spent:.3} CPU s/GB ({})", driver.as_str());
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
    }
}

fn idle(preference: Preference) {
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
            let deadline = Deadline::within(LONG);
            let transport = Rc::new(tls::accept(socket, &settings, deadline).await.unwrap().transport);
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
            "idle  {each} bytes of memory a TLS connection, of {IDLE_CONNECTIONS} ({})",
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
        prefer_ktls: false,
        ktls_threshold: 0,
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
