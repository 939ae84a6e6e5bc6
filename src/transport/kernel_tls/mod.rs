//! Connections whose records the kernel makes, with a peer that may say anything at any time. Need a
//! kernel with TLS.

use std::hash::{DefaultHasher, Hasher};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ::rustls::client::UnbufferedClientConnection;
use ::rustls::pki_types::ServerName;
use ::rustls::server::UnbufferedServerConnection;
use ::rustls::unbuffered::ConnectionState;
use ::rustls::{ClientConfig, ServerConfig, SupportedProtocolVersion, version};
use rustix::event::{PollFd, PollFlags, poll};
use socket2::SockRef;

use super::tests::{
    Client, LONG, SECOND, configs_of, configs_of_suite, connect, hash, into_socket, listen, pattern, pause,
    read_count, read_to_end, run, set_tiny, shake_over, shake_sealed,
};
use super::*;
use crate::offload::tests::{SUITES, probe};
use crate::offload::{self, Direction, FirstKeys};
use crate::outcome::Cause;
use crate::pipe::{self, Pipe};
use crate::runtime::{Driver, Preference};
use crate::sys::ktls as kernel;
use crate::time::now;

mod bulk;
mod ends;
mod keys;
mod pieces;

const TLS_1_2: &[&SupportedProtocolVersion] = &[&version::TLS12];
const TLS_1_3: &[&SupportedProtocolVersion] = &[&version::TLS13];
const BOTH: [&[&SupportedProtocolVersion]; 2] = [TLS_1_2, TLS_1_3];

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;
const CLOSE_NOTIFY: [u8; 2] = [1, 0];

/// What this kernel can do; `None` says that the test is skipped.
pub(crate) fn offload() -> Option<Arc<Offload>> {
    static PROBED: OnceLock<Arc<Offload>> = OnceLock::new();
    let offload = PROBED.get_or_init(|| Arc::new(probe())).clone();
    if let Some(refusal) = offload.refusal() {
        #[expect(clippy::print_stderr, reason = "who reads the test's output has to know")]
        {
            eprintln!("skipped: this kernel has no TLS ({})", refusal.as_str());
        }
        return None;
    }
    Some(offload)
}

/// The same, where the kernel takes the next keys of a connection.
fn rekeying() -> Option<Arc<Offload>> {
    let offload = offload()?;
    if !offload.can_rekey() {
        #[expect(clippy::print_stderr, reason = "who reads the test's output has to know")]
        {
            eprintln!("skipped: this kernel renews no keys");
        }
        return None;
    }
    Some(offload)
}

/// Does a blocking handshake record by record, so that nothing behind it is taken.
macro_rules! shake {
    ($connection:expr, $socket:expr) => {{
        let (mut connection, socket): (_, &mut TcpStream) = ($connection, $socket);
        let (mut incoming, mut outgoing) = (Vec::new(), Vec::new());
        loop {
            let status = connection.process_tls_records(&mut incoming);
            let discard = status.discard;
            let (mut is_done, mut is_short) = (false, false);
            match status.state.unwrap() {
                ConnectionState::EncodeTlsData(mut said) => {
                    let at = outgoing.len();
                    outgoing.resize(at + 20_000, 0);
                    let count = said.encode(&mut outgoing[at..]).unwrap();
                    outgoing.truncate(at + count);
                }
                ConnectionState::TransmitTlsData(said) => {
                    socket.write_all(&outgoing).unwrap();
                    outgoing.clear();
                    said.done();
                }
                ConnectionState::BlockedHandshake => is_short = true,
                ConnectionState::WriteTraffic(_) => is_done = true,
                other => panic!("{other:?}"),
            }
            incoming.drain(..discard);
            if is_short {
                let at = incoming.len();
                incoming.resize(at + 5, 0);
                socket.read_exact(&mut incoming[at..]).unwrap();
                let size = u16::from_be_bytes([incoming[at + 3], incoming[at + 4]]);
                incoming.resize(at + 5 + usize::from(size), 0);
                socket.read_exact(&mut incoming[at + 5..]).unwrap();
            }
            if is_done {
                break connection;
            }
        }
    }};
}

fn hand_over(socket: &TcpStream, (first, keys): (FirstKeys, Keys)) -> Keys {
    offload::attach(socket).unwrap();
    offload::install(socket, first).unwrap();
    keys
}

fn accept(listener: &TcpListener, config: &Arc<ServerConfig>, offload: &Arc<Offload>) -> Transport {
    into_transport(accept_keys(listener, config), offload)
}

fn accept_keys(listener: &TcpListener, config: &Arc<ServerConfig>) -> (TcpStream, Keys) {
    let (mut socket, _) = listener.accept().unwrap();
    socket.set_nodelay(true).unwrap();
    let connection = UnbufferedServerConnection::new(config.clone()).unwrap();
    let shaken = Keys::of_server(shake!(connection, &mut socket)).unwrap();
    let keys = hand_over(&socket, shaken);
    (socket, keys)
}

fn into_transport((socket, keys): (TcpStream, Keys), offload: &Arc<Offload>) -> Transport {
    Transport::ktls(into_socket(socket), keys, Buffer::none(), offload.clone())
}

/// Two ends of one connection over loopback, the server's first, the kernel making the records of
/// both.
pub(crate) fn ends() -> [(TcpStream, Keys); 2] {
    let (config, client_config) = configs_of(TLS_1_3);
    let (listener, port) = listen();
    let client = std::thread::spawn(move || {
        let Peer { socket, keys } = Peer::connect(port, &client_config);
        (socket, keys)
    });
    let (mut socket, _) = listener.accept().unwrap();
    socket.set_nodelay(true).unwrap();
    let connection = UnbufferedServerConnection::new(config).unwrap();
    let shaken = Keys::of_server(shake!(connection, &mut socket)).unwrap();
    let keys = hand_over(&socket, shaken);
    [(socket, keys), client.join().unwrap()]
}

/// A client whose records the kernel makes, too, so that it can send any record it likes.
struct Peer {
    socket: TcpStream,
    keys: Keys,
}

impl Peer {
    fn connect(port: u16, config: &Arc<ClientConfig>) -> Self {
        let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
        socket.set_nodelay(true).unwrap();
        let name = ServerName::try_from("a.test").unwrap();
        let connection = UnbufferedClientConnection::new(config.clone(), name).unwrap();
        let shaken = Keys::of_client(shake!(connection, &mut socket)).unwrap();
        let keys = hand_over(&socket, shaken);
        Self { socket, keys }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).unwrap();
    }

    /// Whether it was taken: not behind the other side's end.
    fn send_record(&self, kind: u8, bytes: &[u8]) -> bool {
        self.wait(PollFlags::OUT);
        kernel::send_record(self.socket.as_fd(), kind, bytes).is_ok()
    }

    /// The next record that is none of the tickets. Looks before it waits: of one that is no data, behind data that was
    /// read, poll does not always tell.
    fn record(&self) -> (Option<u8>, Vec<u8>) {
        loop {
            let mut bytes = vec![0; kernel::RECORD_BYTES_MAX];
            match kernel::receive_record(self.socket.as_fd(), &mut bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait(PollFlags::IN),
                Ok(record) if record.kind == Some(HANDSHAKE) && bytes[0] == 4 => {}
                record => {
                    let record = record.unwrap();
                    bytes.truncate(record.count);
                    return (record.kind, bytes);
                }
            }
        }
    }

    fn read(&self, count: usize) -> Vec<u8> {
        let mut received = Vec::new();
        while received.len() < count {
            let (kind, bytes) = self.record();
            assert_eq!(kind, Some(DATA), "{bytes:?} after {} bytes", received.len());
            received.extend(bytes);
        }
        received
    }

    /// Renews what this side sends under.
    fn update_keys(&mut self, is_requested: bool) {
        if !self.send_record(HANDSHAKE, &[24, 0, 0, 1, u8::from(is_requested)]) {
            return;
        }
        self.renew(Direction::Send);
    }

    /// Follows a key update that was just received.
    fn follow_key_update(&mut self) {
        self.renew(Direction::Receive);
    }

    fn renew(&mut self, direction: Direction) {
        let next = self.keys.next(direction).unwrap();
        offload::renew(&self.socket, direction, next).unwrap();
    }

    /// Until the end, so that no reset overtakes what was sent.
    fn drain(self) {
        let _ = self.socket.shutdown(Shutdown::Write);
        let mut bytes = vec![0; kernel::RECORD_BYTES_MAX];
        loop {
            self.wait(PollFlags::IN);
            match kernel::receive_record(self.socket.as_fd(), &mut bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(record) if record.kind.is_some() => {}
                // Under keys that were not followed.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EBADMSG | libc::EKEYEXPIRED)) => {
                    return pause(Duration::from_millis(500));
                }
                _ => return,
            }
        }
    }

    fn wait(&self, flags: PollFlags) {
        poll(&mut [PollFd::new(&self.socket, flags)], None).unwrap();
    }
}

/// Runs both ends of a connection, ours on each driver. The peer begins when the kernel has our keys.
fn with_peer(
    versions: &[&'static SupportedProtocolVersion],
    offload: &Arc<Offload>,
    peer: impl Fn(Peer) + Clone + Send + 'static,
    ours: impl AsyncFn(Transport),
) {
    let connected = |port, config: &Arc<ClientConfig>| Peer::connect(port, config);
    with(versions, offload, connected, peer, ours);
}

/// As [`with_peer`], with rustls in this process at the other end.
fn with_rustls(
    versions: &[&'static SupportedProtocolVersion],
    offload: &Arc<Offload>,
    client: impl Fn(Client) + Clone + Send + 'static,
    ours: impl AsyncFn(Transport),
) {
    with(versions, offload, connect, client, ours);
}

fn with<P: 'static>(
    versions: &[&'static SupportedProtocolVersion],
    offload: &Arc<Offload>,
    connect: fn(u16, &Arc<ClientConfig>) -> P,
    peer: impl Fn(P) + Clone + Send + 'static,
    ours: impl AsyncFn(Transport),
) {
    let (config, client_config) = configs_of(versions);
    for preference in [Preference::Auto, Preference::Epoll] {
        let (listener, port) = listen();
        let (peer, client_config) = (peer.clone(), client_config.clone());
        // Each begins when both have given their keys away: to a socket with a FIN the kernel gives no TLS.
        let (tell_peer, told_by_us) = std::sync::mpsc::channel();
        let (tell_us, told_by_peer) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let connected = connect(port, &client_config);
            tell_us.send(()).unwrap();
            told_by_us.recv().unwrap();
            peer(connected);
        });
        run(preference, async {
            let transport = accept(&listener, &config, offload);
            tell_peer.send(()).unwrap();
            told_by_peer.recv().unwrap();
            ours(transport).await;
        });
        thread.join().unwrap();
    }
}

fn cause_of<T: std::fmt::Debug>(result: io::Result<T>) -> Cause {
    Cause::of(&result.unwrap_err())
}

async fn splice_in(from: &Transport, pipe: &mut Pipe) -> io::Result<usize> {
    loop {
        match pipe.fill(|fd, max| from.try_splice_in(fd, max)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => from.readable().await?,
            result => return result,
        }
    }
}

/// Splices from one to the other until the first one's end.
async fn splice_all(from: &Transport, to: &Transport) -> io::Result<()> {
    let mut pipe = Pipe::take().unwrap();
    while splice_in(from, &mut pipe).await? > 0 {
        while !pipe.is_empty() {
            match pipe.empty(|fd, len| to.try_splice_out(fd, len, false)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => to.socket().writable().await?,
                result => _ = result?,
            }
        }
    }
    Ok(())
}

/// Sends so many bytes of a file.
async fn sendfile_all(file: &std::fs::File, to: &Transport, count: usize) -> io::Result<()> {
    let mut at = 0;
    while at < count {
        match to.try_sendfile(file.as_fd(), at as u64, count - at) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => to.socket().writable().await?,
            result => at += result?,
        }
    }
    Ok(())
}

/// Takes out what is in it.
fn empty(pipe: &mut Pipe) -> Vec<u8> {
    let mut bytes = vec![0; pipe.len()];
    let mut count = 0;
    while !pipe.is_empty() {
        count += pipe
            .empty(|fd, _| rustix::io::read(fd, &mut bytes[count..]))
            .unwrap();
    }
    bytes
}
