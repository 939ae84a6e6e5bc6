//! Connections whose records the kernel makes, with a peer that may say anything at any time. Need a
//! kernel with TLS.

use std::hash::{DefaultHasher, Hasher};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ::rustls::client::UnbufferedClientConnection;
use ::rustls::crypto::aws_lc_rs::cipher_suite as suites;
use ::rustls::pki_types::ServerName;
use ::rustls::server::UnbufferedServerConnection;
use ::rustls::unbuffered::ConnectionState;
use ::rustls::{
    ClientConfig, ExtractedSecrets, ServerConfig, SupportedCipherSuite, SupportedProtocolVersion, version,
};
use rustix::event::{PollFd, PollFlags, poll};
use socket2::SockRef;

use super::tests::{
    Client, LONG, SECOND, configs_of, configs_of_suite, connect, hash, into_socket, listen, pattern, pause,
    read_count, read_to_end, run, set_tiny,
};
use super::*;
use crate::offload;
use crate::outcome::Cause;
use crate::pipe::Pipe;
use crate::runtime::Preference;
use crate::sys::ktls as kernel;
use crate::time::now;

const TLS_1_2: &[&SupportedProtocolVersion] = &[&version::TLS12];
const TLS_1_3: &[&SupportedProtocolVersion] = &[&version::TLS13];
const BOTH: [&[&SupportedProtocolVersion]; 2] = [TLS_1_2, TLS_1_3];

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;
const CLOSE_NOTIFY: [u8; 2] = [1, 0];

const SUITES: [SupportedCipherSuite; 6] = [
    suites::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    suites::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    suites::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    suites::TLS13_AES_128_GCM_SHA256,
    suites::TLS13_AES_256_GCM_SHA384,
    suites::TLS13_CHACHA20_POLY1305_SHA256,
];

/// What this kernel can do; `None` says that the test is skipped.
pub(crate) fn offload() -> Option<Arc<Offload>> {
    static PROBED: OnceLock<Arc<Offload>> = OnceLock::new();
    let offload = PROBED.get_or_init(|| Arc::new(Offload::probe())).clone();
    if let Some(refusal) = offload.refusal() {
        #[expect(clippy::print_stderr, reason = "who reads the test's output has to know")]
        {
            eprintln!("skipped: this kernel has no TLS ({})", refusal.as_str());
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
                break connection.dangerous_into_kernel_connection().unwrap();
            }
        }
    }};
}

fn hand_over(socket: &TcpStream, keys: &Keys, secrets: ExtractedSecrets) {
    let version = match keys {
        Keys::Server(connection) => connection.protocol_version(),
        Keys::Client(connection) => connection.protocol_version(),
    };
    offload::attach(socket).unwrap();
    offload::install(socket, version, secrets).unwrap();
}

fn accept(listener: &TcpListener, config: &Arc<ServerConfig>, offload: &Arc<Offload>) -> Transport {
    into_transport(accept_keys(listener, config), offload)
}

fn accept_keys(listener: &TcpListener, config: &Arc<ServerConfig>) -> (TcpStream, Keys) {
    let (mut socket, _) = listener.accept().unwrap();
    socket.set_nodelay(true).unwrap();
    let connection = UnbufferedServerConnection::new(config.clone()).unwrap();
    let (secrets, rest) = shake!(connection, &mut socket);
    let keys = Keys::Server(rest);
    hand_over(&socket, &keys, secrets);
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
    let (secrets, rest) = shake!(connection, &mut socket);
    let keys = Keys::Server(rest);
    hand_over(&socket, &keys, secrets);
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
        let (secrets, rest) = shake!(connection, &mut socket);
        let keys = Keys::Client(rest);
        hand_over(&socket, &keys, secrets);
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

    /// The next record that is none of the tickets.
    fn record(&self) -> (Option<u8>, Vec<u8>) {
        loop {
            self.wait(PollFlags::IN);
            let mut bytes = vec![0; kernel::RECORD_BYTES_MAX];
            match kernel::receive_record(self.socket.as_fd(), &mut bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
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
        let Keys::Client(connection) = &mut self.keys else {
            unreachable!("a peer is a client");
        };
        let (_, secrets) = connection.update_tx_secret().unwrap();
        offload::renew_tx(&self.socket, secrets).unwrap();
    }

    /// Follows a key update that was just received.
    fn follow_key_update(&mut self) {
        let Keys::Client(connection) = &mut self.keys else {
            unreachable!("a peer is a client");
        };
        let (_, secrets) = connection.update_rx_secret().unwrap();
        offload::renew_rx(&self.socket, secrets).unwrap();
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
        let (tell, told) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let connected = connect(port, &client_config);
            told.recv().unwrap();
            peer(connected);
        });
        run(preference, async {
            let transport = accept(&listener, &config, offload);
            tell.send(()).unwrap();
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

#[test]
fn bytes_cross_whole_and_both_sides_end_in_order() {
    let Some(offload) = offload() else { return };
    for versions in BOTH {
        let client = |mut client: Client| {
            client.write_all(&pattern(300_000, 1)).unwrap();
            client.conn.send_close_notify();
            client.flush().unwrap();
            let answer = read_to_end(&mut client).unwrap();
            assert_eq!(hash(&answer), hash(&pattern(1_000_000, 2)));
        };
        with_rustls(versions, &offload, client, async |ours: Transport| {
            assert_eq!(ours.carriage().carrier.get(), Carrier::Kernel);
            assert!(ours.is_kernel_stream());
            let request = read_count(&ours, 300_000).await;
            assert_eq!(hash(&request), hash(&pattern(300_000, 1)));
            assert_eq!(ours.read(&mut [0; 10]).await.unwrap(), 0);
            ours.write_all(&pattern(1_000_000, 2), LONG).await.unwrap();
            assert!(ours.close(Deadline::within(SECOND)).await);
            assert_eq!(ours.read(&mut [0; 10]).await.unwrap(), 0, "the end stays the end");
        });
    }
}

#[test]
fn what_was_opened_before_is_read_first_and_not_spliced() {
    let Some(offload) = offload() else { return };
    let client = |mut client: Client| {
        client.write_all(b" and late").unwrap();
        let _ = read_to_end(&mut client);
    };
    with_rustls(TLS_1_3, &offload, client, async |ours: Transport| {
        if let Layer::Ktls(tls) = &mut *ours.layer.borrow_mut() {
            tls.put_before(b"early");
        }
        assert!(!ours.is_kernel_stream());
        let mut pipe = Pipe::take().unwrap();
        let refused = pipe.fill(|fd, max| ours.try_splice_in(fd, max)).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::Unsupported);
        assert_eq!(read_count(&ours, 5).await, b"early");
        assert!(ours.is_kernel_stream());
        assert_eq!(splice_in(&ours, &mut pipe).await.unwrap(), 9);
        assert_eq!(empty(&mut pipe), b" and late");
        assert_eq!(ours.held(), 0);
        ours.close(Deadline::within(SECOND)).await;
    });
}

#[test]
fn an_alert_while_splicing_ends_it_in_order_or_by_name() {
    let Some(offload) = offload() else { return };
    for versions in BOTH {
        let peer = |mut peer: Peer| {
            peer.send(b"before");
            peer.send_record(ALERT, &[1, 90]);
            peer.send(b"between");
            peer.send_record(ALERT, &CLOSE_NOTIFY);
            peer.send(b"ignored");
            assert_eq!(peer.record(), (Some(ALERT), CLOSE_NOTIFY.to_vec()));
        };
        with_peer(versions, &offload, peer, async |ours: Transport| {
            let mut pipe = Pipe::take().unwrap();
            let mut received = Vec::new();
            while splice_in(&ours, &mut pipe).await.unwrap() > 0 {
                received.extend(empty(&mut pipe));
            }
            assert_eq!(received, b"beforebetween");
            ours.close(Deadline::within(SECOND)).await;
        });
        let peer = |mut peer: Peer| {
            peer.send(b"before");
            peer.send_record(ALERT, &[2, 80]);
            let mut rest = [0; 64];
            assert_eq!(
                peer.socket.read(&mut rest).unwrap_or(0),
                0,
                "alerts are not answered"
            );
        };
        with_peer(versions, &offload, peer, async |ours: Transport| {
            let mut pipe = Pipe::take().unwrap();
            assert_eq!(splice_in(&ours, &mut pipe).await.unwrap(), 6);
            empty(&mut pipe);
            assert_eq!(cause_of(splice_in(&ours, &mut pipe).await), Cause::Alert);
            assert_eq!(cause_of(ours.read(&mut [0; 9]).await), Cause::Alert);
            assert_eq!(cause_of(ours.try_write(b"x")), Cause::Alert);
        });
    }
}

#[test]
fn close_notify_comes_before_the_fin_also_behind_a_full_send_buffer() {
    let Some(offload) = offload() else { return };
    const SIZE: usize = 1_000_000;
    for versions in BOTH {
        let client = |mut client: Client| {
            set_tiny(&client.sock);
            pause(Duration::from_millis(100));
            let answer = read_to_end(&mut client).expect("close_notify");
            assert_eq!(hash(&answer), hash(&pattern(SIZE, 3)));
            client.conn.send_close_notify();
            client.flush().unwrap();
        };
        with_rustls(versions, &offload, client, async |ours: Transport| {
            SockRef::from(ours.socket())
                .set_send_buffer_size(32 * 1024)
                .unwrap();
            // Odd pieces, so that the socket fills up inside a record.
            for piece in pattern(SIZE, 3).chunks(40_001) {
                ours.write_all(piece, LONG).await.unwrap();
            }
            ours.finish(LONG).await.unwrap();
            let late = ours.try_write(b"x").unwrap_err();
            assert_eq!(late.kind(), io::ErrorKind::BrokenPipe);
            assert_eq!(ours.read(&mut [0; 10]).await.unwrap(), 0);
        });
    }
}

#[test]
fn a_fin_without_close_notify_is_a_truncation_also_inside_a_record() {
    let Some(offload) = offload() else { return };
    for versions in BOTH {
        for half in [&[][..], &[23, 3], &[23, 3, 3, 1, 0, 7, 7, 7]] {
            let client = move |mut client: Client| {
                client.write_all(b"half a").unwrap();
                client.sock.write_all(half).unwrap();
                client.sock.shutdown(Shutdown::Write).unwrap();
                let _ = client.sock.read_to_end(&mut Vec::new());
            };
            with_rustls(versions, &offload, client, async |ours: Transport| {
                let mut pipe = Pipe::take().unwrap();
                assert_eq!(splice_in(&ours, &mut pipe).await.unwrap(), 6);
                empty(&mut pipe);
                assert_eq!(cause_of(splice_in(&ours, &mut pipe).await), Cause::Truncated);
                assert_eq!(cause_of(ours.read(&mut [0; 10]).await), Cause::Truncated);
            });
        }
    }
}

#[test]
fn a_reset_is_one() {
    let Some(offload) = offload() else { return };
    let peer = |peer: Peer| {
        assert_eq!(peer.read(1), b"x");
        SockRef::from(&peer.socket)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
    };
    with_peer(TLS_1_3, &offload, peer, async |ours: Transport| {
        ours.write_all(b"x", LONG).await.unwrap();
        assert_eq!(cause_of(ours.read(&mut [0; 10]).await), Cause::Reset);
        assert!(!ours.close(Deadline::within(SECOND)).await);
    });
}

#[test]
fn records_that_are_not_good_end_by_name_and_are_answered_with_an_alert() {
    let Some(offload) = offload() else { return };
    let damaged = [&[23, 3, 3, 0, 64][..], &[7; 64]].concat();
    let too_long = [&[23, 3, 3, 0x48, 0][..], &[7; 0x4800]].concat();
    let plain = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n".to_vec();
    let cases = [
        (damaged, Cause::RecordDamaged, 20),
        (too_long, Cause::Malformed, 22),
        (plain, Cause::NotTls, 10),
    ];
    for versions in BOTH {
        for (bytes, cause, alert) in &cases {
            for is_spliced in [false, true] {
                let (bytes, alert) = (bytes.clone(), *alert);
                let client = move |mut client: Client| {
                    // Together: of a record that is none by its header, the kernel tells whoever
                    // waits by an error alone, which monoio's epoll driver does not tell a reader.
                    let mut wire = Vec::new();
                    client.conn.writer().write_all(b"good").unwrap();
                    client.conn.write_tls(&mut wire).unwrap();
                    wire.extend(&bytes);
                    client.sock.write_all(&wire).unwrap();
                    let error = read_to_end(&mut client).unwrap_err();
                    let told = error.get_ref().unwrap().downcast_ref::<::rustls::Error>();
                    let expected = ::rustls::Error::AlertReceived(alert.into());
                    assert_eq!(told, Some(&expected));
                };
                with_rustls(versions, &offload, client, async |ours: Transport| {
                    assert_eq!(read_count(&ours, 4).await, b"good");
                    let mut pipe = Pipe::take().unwrap();
                    let result = match is_spliced {
                        true => splice_in(&ours, &mut pipe).await,
                        false => ours.read(&mut [0; 100]).await,
                    };
                    assert_eq!(cause_of(result), *cause, "spliced: {is_spliced}");
                    assert_eq!(cause_of(ours.read(&mut [0; 100]).await), *cause, "it stays");
                    assert_eq!(cause_of(ours.try_write(b"x")), *cause);
                    ours.close(Deadline::within(SECOND)).await;
                });
            }
        }
    }
}

#[test]
fn a_key_update_in_mid_upload_is_followed_or_ends_it_by_name() {
    let Some(offload) = offload() else { return };
    for is_spliced in [false, true] {
        let client = |mut client: Client| {
            client.write_all(&pattern(100_000, 4)).unwrap();
            client.conn.refresh_traffic_keys().unwrap();
            let _ = client.write_all(&pattern(100_000, 5));
            let told = client.flush().and_then(|()| read_to_end(&mut client));
            match told {
                Ok(answer) => assert_eq!(answer, b"thanks"),
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    assert!(error.to_string().contains("InternalError"), "{error}");
                }
                Err(_) => {} // it was told while this side was still writing
            }
        };
        with_rustls(TLS_1_3, &offload, client, async |ours: Transport| {
            let mut received = Vec::new();
            let mut pipe = Pipe::take().unwrap();
            let mut buffer = vec![0; 20_000];
            let end = loop {
                let result = match is_spliced {
                    true => splice_in(&ours, &mut pipe)
                        .await
                        .map(|_| received.extend(empty(&mut pipe))),
                    false => ours
                        .read(&mut buffer)
                        .await
                        .map(|count| received.extend_from_slice(&buffer[..count])),
                };
                if result.is_err() || received.len() == 200_000 {
                    break result;
                }
            };
            assert_eq!(ours.carriage().key_updates_received.get(), 1);
            assert_eq!(hash(&received[..100_000]), hash(&pattern(100_000, 4)));
            if offload.can_rekey() {
                end.unwrap();
                assert_eq!(hash(&received[100_000..]), hash(&pattern(100_000, 5)));
                ours.write_all(b"thanks", LONG).await.unwrap();
            } else {
                assert_eq!(cause_of(end), Cause::KeyUpdate);
            }
            ours.close(Deadline::within(SECOND)).await;
        });
    }
}

#[test]
fn a_key_update_in_mid_download_is_answered_before_more_data() {
    let Some(offload) = offload().filter(|offload| offload.can_rekey()) else {
        return;
    };
    let peer = |mut peer: Peer| {
        set_tiny(&peer.socket);
        let mut count = peer.read(100_000).len();
        peer.update_keys(true);
        peer.send(b"go on");
        // Data that was on its way, then the answer, then data under the next key.
        loop {
            let (kind, bytes) = peer.record();
            if kind == Some(HANDSHAKE) {
                assert_eq!(bytes, [24, 0, 0, 1, 0]);
                break;
            }
            count += bytes.len();
        }
        peer.follow_key_update();
        while count < 2_000_000 {
            count += peer.read(1).len();
        }
        peer.send(b"enough");
    };
    with_peer(TLS_1_3, &offload, peer, async |ours: Transport| {
        SockRef::from(ours.socket())
            .set_send_buffer_size(32 * 1024)
            .unwrap();
        let body = vec![7; 2_000_000];
        let (sent, received) =
            futures_util::future::join(ours.write_all(&body, LONG), read_count(&ours, 11)).await;
        sent.unwrap();
        assert_eq!(received, b"go onenough");
        let carriage = ours.carriage();
        assert_eq!(carriage.key_updates_received.get(), 1);
        assert_eq!(carriage.key_updates_sent.get(), 1);
    });
}

#[test]
fn a_storm_of_key_updates_ends_by_name() {
    let Some(offload) = offload().filter(|offload| offload.can_rekey()) else {
        return;
    };
    for is_requested in [false, true] {
        let peer = move |mut peer: Peer| {
            for _ in 0..40 {
                peer.update_keys(is_requested);
            }
            peer.drain();
        };
        with_peer(TLS_1_3, &offload, peer, async |ours: Transport| {
            assert_eq!(cause_of(ours.read(&mut [0; 10]).await), Cause::KeyUpdateStorm);
            assert_eq!(ours.carriage().key_updates_received.get(), 33);
        });
    }
}

#[test]
fn a_storm_of_warnings_ends_by_name() {
    let Some(offload) = offload() else { return };
    let peer = |mut peer: Peer| {
        peer.send(b"a");
        for _ in 0..40 {
            peer.send_record(ALERT, &[1, 90]);
        }
        peer.drain();
    };
    with_peer(TLS_1_3, &offload, peer, async |ours: Transport| {
        assert_eq!(read_count(&ours, 1).await, b"a");
        assert_eq!(cause_of(ours.read(&mut [0; 10]).await), Cause::LimitReached);
    });
}

#[test]
fn many_key_updates_with_data_between_are_followed() {
    let Some(offload) = offload().filter(|offload| offload.can_rekey()) else {
        return;
    };
    const ROUNDS: u32 = 40;
    const PIECE: usize = 64 * 1024;
    let peer = |mut peer: Peer| {
        for round in 0..u64::from(ROUNDS) {
            peer.update_keys(false);
            peer.send(&pattern(PIECE, round));
        }
        peer.send_record(ALERT, &CLOSE_NOTIFY);
        peer.drain();
    };
    with_peer(TLS_1_3, &offload, peer, async |ours: Transport| {
        for round in 0..u64::from(ROUNDS) {
            let received = read_count(&ours, PIECE).await;
            assert_eq!(hash(&received), hash(&pattern(PIECE, round)));
        }
        assert_eq!(ours.read(&mut [0; 10]).await.unwrap(), 0);
        assert_eq!(ours.carriage().key_updates_received.get(), ROUNDS);
        ours.close(Deadline::within(SECOND)).await;
    });
}

#[test]
fn a_worn_key_is_renewed_or_ends_the_connection_by_name() {
    let Some(offload) = offload() else { return };
    for versions in BOTH {
        let client = |mut client: Client| {
            let answer = read_to_end(&mut client);
            if let Ok(answer) = answer {
                assert_eq!(answer.len(), 100_000);
            }
        };
        let can_renew = offload.can_rekey() && versions == TLS_1_3;
        with_rustls(versions, &offload, client, async |ours: Transport| {
            if let Layer::Ktls(tls) = &mut *ours.layer.borrow_mut() {
                tls.wear_out_after(50);
            }
            let mut sent = Ok(());
            for _ in 0..100 {
                sent = ours.write_all(&[7; 1000], LONG).await;
                if sent.is_err() {
                    break;
                }
            }
            if can_renew {
                sent.unwrap();
                assert!(ours.carriage().key_updates_sent.get() >= 3);
            } else {
                assert_eq!(cause_of(sent), Cause::KeyWornOut);
                assert!(
                    (40_000..=50_000).contains(&ours.bytes_out()),
                    "{}",
                    ours.bytes_out()
                );
            }
            ours.close(Deadline::within(SECOND)).await;
        });
    }
}

#[test]
fn records_without_data_are_no_end() {
    let Some(offload) = offload() else { return };
    for is_spliced in [false, true] {
        let client = |client: Client| {
            // By hand, for nobody sends such records.
            let mut socket = client.sock;
            let mut sealer = Sealer::new(client.conn.dangerous_extract_secrets().unwrap());
            let mut bytes = sealer.seal(DATA, b"");
            bytes.extend(sealer.seal(DATA, b"one"));
            bytes.extend(sealer.seal(DATA, b""));
            bytes.extend(sealer.seal(DATA, b""));
            socket.write_all(&bytes).unwrap();
            pause(Duration::from_millis(30));
            bytes = sealer.seal(DATA, b"two");
            bytes.extend(sealer.seal(DATA, b""));
            bytes.extend(sealer.seal(ALERT, &CLOSE_NOTIFY));
            socket.write_all(&bytes).unwrap();
            let _ = socket.read_to_end(&mut Vec::new());
        };
        with_rustls(TLS_1_3, &offload, client, async |ours: Transport| {
            let mut received = Vec::new();
            let mut pipe = Pipe::take().unwrap();
            let mut buffer = [0; 100];
            loop {
                let count = match is_spliced {
                    true => splice_in(&ours, &mut pipe).await.unwrap(),
                    false => ours.read(&mut buffer).await.unwrap(),
                };
                match is_spliced {
                    _ if count == 0 => break,
                    true => received.extend(empty(&mut pipe)),
                    false => received.extend_from_slice(&buffer[..count]),
                }
            }
            assert_eq!(received, b"onetwo", "spliced: {is_spliced}");
        });
    }
}

/// Makes records of TLS 1.3 with AES-256-GCM by hand.
struct Sealer {
    key: aws_lc_rs::aead::LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
}

impl Sealer {
    fn new(secrets: ExtractedSecrets) -> Self {
        use aws_lc_rs::aead::{AES_256_GCM, LessSafeKey, UnboundKey};
        let (sequence, ::rustls::ConnectionTrafficSecrets::Aes256Gcm { key, iv }) = secrets.tx else {
            panic!("another cipher is preferred now");
        };
        let key = UnboundKey::new(&AES_256_GCM, key.as_ref()).unwrap();
        Self {
            key: LessSafeKey::new(key),
            iv: iv.as_ref().try_into().unwrap(),
            sequence,
        }
    }

    fn seal(&mut self, kind: u8, plain: &[u8]) -> Vec<u8> {
        use aws_lc_rs::aead::{Aad, Nonce};
        let mut nonce = self.iv;
        for (byte, number) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= number;
        }
        self.sequence += 1;
        let mut inner = [plain, &[kind]].concat();
        let size = u16::try_from(inner.len() + 16).unwrap().to_be_bytes();
        let header = [23, 3, 3, size[0], size[1]];
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.key
            .seal_in_place_append_tag(nonce, Aad::from(header), &mut inner)
            .unwrap();
        [&header[..], &inner].concat()
    }
}

#[test]
fn messages_that_must_not_come_end_by_name() {
    let Some(offload) = offload() else { return };
    let cases: [(u8, &[u8]); 4] = [
        (HANDSHAKE, &[1, 0, 0, 0]),
        (HANDSHAKE, &[4, 0, 0, 1, 0]),
        (HANDSHAKE, &[24, 0, 0, 1, 7]),
        (99, b"what is this?"),
    ];
    for (kind, bytes) in cases {
        let peer = move |mut peer: Peer| {
            peer.send(b"good");
            peer.send_record(kind, bytes);
            let (answer, alert) = peer.record();
            assert_eq!((answer, alert[0]), (Some(ALERT), 2));
        };
        with_peer(TLS_1_3, &offload, peer, async |ours: Transport| {
            assert_eq!(read_count(&ours, 4).await, b"good");
            assert_eq!(cause_of(ours.read(&mut [0; 10]).await), Cause::Malformed);
        });
    }
}

#[test]
fn renegotiation_is_declined_and_the_connection_goes_on() {
    let Some(offload) = offload() else { return };
    let peer = |mut peer: Peer| {
        peer.send_record(HANDSHAKE, &[1, 0, 0, 0]);
        peer.send(b"as before");
        assert_eq!(peer.record(), (Some(ALERT), vec![1, 100]));
        assert_eq!(peer.read(4), b"fine");
    };
    with_peer(TLS_1_2, &offload, peer, async |ours: Transport| {
        assert_eq!(read_count(&ours, 9).await, b"as before");
        ours.write_all(b"fine", LONG).await.unwrap();
    });
}

#[test]
fn tickets_that_reach_the_kernel_resume_the_next_connection() {
    let Some(offload) = offload() else { return };
    let (config, client_config) = configs_of(TLS_1_3);
    for preference in [Preference::Auto, Preference::Epoll] {
        let (listener, port) = listen();
        let config = config.clone();
        let server = std::thread::spawn(move || {
            let mut resumed = Vec::new();
            for _ in 0..2 {
                let (socket, _) = listener.accept().unwrap();
                let connection = ::rustls::ServerConnection::new(config.clone()).unwrap();
                let mut server = ::rustls::StreamOwned::new(connection, socket);
                server.write_all(b"hello").unwrap();
                resumed.push(server.conn.handshake_kind().unwrap());
                server.conn.send_close_notify();
                let _ = server.flush();
                let _ = server.read_to_end(&mut Vec::new());
            }
            resumed
        });
        run(preference, async {
            for _ in 0..2 {
                let peer = Peer::connect(port, &client_config);
                let socket = into_socket(peer.socket);
                let ours = Transport::ktls(socket, peer.keys, Buffer::none(), offload.clone());
                assert_eq!(read_count(&ours, 5).await, b"hello");
                assert_eq!(ours.read(&mut [0; 10]).await.unwrap(), 0);
                assert_eq!(ours.held(), 0);
                ours.close(Deadline::within(SECOND)).await;
            }
        });
        let kinds = server.join().unwrap();
        assert_eq!(kinds[1], ::rustls::HandshakeKind::Resumed);
    }
}

#[test]
fn two_hundred_senders_of_half_a_record_cost_nearly_nothing() {
    const SENDERS: usize = 200;
    const WATCHED: Duration = Duration::from_secs(5);
    let Some(offload) = offload() else { return };
    let (config, client_config) = configs_of(TLS_1_3);
    let (listener, port) = listen();
    let (tell, told) = std::sync::mpsc::channel::<()>();
    let senders = std::thread::spawn(move || {
        let mut clients = Vec::new();
        for _ in 0..SENDERS {
            let mut client = connect(port, &client_config);
            client.sock.write_all(&[23, 3, 3, 16, 0]).unwrap();
            client.sock.write_all(&[7; 1000]).unwrap();
            clients.push(client);
        }
        let _ = told.recv();
    });
    let accepted: Vec<_> = (0..SENDERS).map(|_| accept_keys(&listener, &config)).collect();
    run(Preference::Auto, async {
        for keys in accepted {
            let ours = into_transport(keys, &offload);
            let waits = async move {
                let _ = ours.read(&mut [0; 100]).await;
                unreachable!("half a record is never read");
            };
            runtime::spawn(waits, |_| ());
        }
        runtime::sleep(Duration::from_secs(1)).await;
        let before = cpu_time();
        runtime::sleep(WATCHED).await;
        let spent = cpu_time() - before;
        #[expect(clippy::print_stdout, reason = "the figure is what the test is for")]
        {
            println!("{spent:?} of {WATCHED:?}, threads {:?}", threads());
        }
        assert!(
            threads().iter().all(|name| !name.starts_with("iou-wrk")),
            "{:?}",
            threads()
        );
        assert!(spent <= WATCHED / 100, "{spent:?}");
    });
    drop(tell);
    senders.join().unwrap();
}

/// What this thread has used of a processor, in steps of 10 ms; other tests run beside it.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let ticks = |nth| {
        fields
            .split_whitespace()
            .nth(nth)
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    Duration::from_millis(10 * (ticks(11) + ticks(12)))
}

/// Names of this process's threads, those of the kernel's that work for it included.
fn threads() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    tasks
        .filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok())
        .collect()
}

#[test]
fn records_that_come_in_pieces_are_read_as_soon_as_they_are_whole() {
    const RECORDS: usize = 30;
    let Some(offload) = offload() else { return };
    let client = |mut client: Client| {
        for round in 0..RECORDS {
            let mut wire = Vec::new();
            let body = pattern(if round % 2 == 0 { 10 } else { 9000 }, round as u64);
            client.conn.writer().write_all(&body).unwrap();
            client.conn.write_tls(&mut wire).unwrap();
            for piece in wire.chunks(wire.len() / 3) {
                client.sock.write_all(piece).unwrap();
                pause(Duration::from_millis(10));
            }
            let mut answer = [0];
            client.read_exact(&mut answer).unwrap();
        }
    };
    with_rustls(TLS_1_3, &offload, client, async |ours: Transport| {
        let started = now();
        for round in 0..RECORDS {
            let size = if round % 2 == 0 { 10 } else { 9000 };
            let received = read_count(&ours, size).await;
            assert_eq!(hash(&received), hash(&pattern(size, round as u64)));
            ours.write_all(b"x", LONG).await.unwrap();
        }
        assert!(started.elapsed() < 6 * SECOND, "{:?}", started.elapsed());
    });
}

/// How much goes each way in each test of bulk: 2 MiB, or as many as `ATLAS_BULK_MIB` says.
fn bulk() -> usize {
    let mib = std::env::var("ATLAS_BULK_MIB").map_or(2, |mib| mib.parse().unwrap());
    mib * 1024 * 1024
}

/// Hashes bytes as they come.
#[derive(Default)]
struct Sum {
    hasher: DefaultHasher,
    count: usize,
}

impl Sum {
    fn add(&mut self, bytes: &[u8]) {
        self.hasher.write(bytes);
        self.count += bytes.len();
    }

    fn of_bulk() -> u64 {
        let mut sum = Self::default();
        send_bulk(|piece| sum.add(piece));
        sum.hasher.finish()
    }
}

/// The bytes of the tests of bulk, piece by piece.
fn send_bulk(mut send: impl FnMut(&[u8])) {
    const PIECE: usize = 70_001;
    let mut rest = bulk();
    for seed in 0.. {
        let size = rest.min(PIECE);
        send(&pattern(size, seed));
        rest -= size;
        if rest == 0 {
            return;
        }
    }
}

fn receive_bulk(from: &mut impl Read) {
    let mut sum = Sum::default();
    let mut buffer = vec![0; 64 * 1024];
    while sum.count < bulk() {
        let wanted = buffer.len().min(bulk() - sum.count);
        let count = from.read(&mut buffer[..wanted]).unwrap();
        assert!(count > 0, "an end after {}", sum.count);
        sum.add(&buffer[..count]);
    }
    assert_eq!(sum.hasher.finish(), Sum::of_bulk());
}

#[test]
fn bulk_crosses_whole_each_way_in_all_suites() {
    let Some(offload) = offload() else { return };
    let mut file = tempfile::tempfile().unwrap();
    send_bulk(|piece| file.write_all(piece).unwrap());
    for suite in SUITES {
        let (config, client_config) = configs_of_suite(suite);
        let (listener, port) = listen();
        let client = std::thread::spawn(move || {
            let mut client = connect(port, &client_config);
            for _ in ["read", "splice"] {
                send_bulk(|piece| client.write_all(piece).unwrap());
                client.read_exact(&mut [0]).unwrap();
            }
            for _ in ["write", "sendfile", "splice"] {
                receive_bulk(&mut client);
                client.write_all(b"x").unwrap();
            }
        });
        let keys = accept_keys(&listener, &config);
        run_long(async {
            let ours = into_transport(keys, &offload);
            upload_by_read(&ours).await;
            ours.write_all(b"x", LONG).await.unwrap();
            upload_by_splice(&ours).await;
            ours.write_all(b"x", LONG).await.unwrap();
            download_by_write(&ours).await;
            assert_eq!(read_count(&ours, 1).await, b"x");
            download_by_sendfile(&ours, &file).await;
            assert_eq!(read_count(&ours, 1).await, b"x");
            download_by_splice(&ours).await;
            assert_eq!(read_count(&ours, 1).await, b"x");
            let total = bulk() as u64;
            assert_eq!(ours.carriage().sendfile.get(), total);
            assert_eq!(ours.carriage().spliced.get(), total);
            assert_eq!(ours.bytes_out(), 3 * total + 2);
            assert_eq!(ours.bytes_in(), 2 * total + 3);
        });
        client.join().unwrap();
    }
}

async fn upload_by_read(ours: &Transport) {
    let mut sum = Sum::default();
    let mut buffer = vec![0; 64 * 1024];
    while sum.count < bulk() {
        let count = ours.read(&mut buffer).await.unwrap();
        assert!(count > 0, "an end after {}", sum.count);
        sum.add(&buffer[..count]);
    }
    assert_eq!(sum.hasher.finish(), Sum::of_bulk());
}

async fn upload_by_splice(ours: &Transport) {
    let mut sum = Sum::default();
    let mut pipe = Pipe::take().unwrap();
    while sum.count < bulk() {
        ours.socket().turn().await;
        let count = splice_in(ours, &mut pipe).await.unwrap();
        assert!(count > 0, "an end after {}", sum.count);
        sum.add(&empty(&mut pipe));
    }
    assert_eq!(sum.hasher.finish(), Sum::of_bulk());
}

async fn download_by_write(ours: &Transport) {
    let mut pieces = Vec::new();
    send_bulk(|piece| pieces.push(piece.to_vec()));
    for piece in pieces {
        ours.write_all(&piece, LONG).await.unwrap();
    }
}

async fn download_by_sendfile(ours: &Transport, file: &std::fs::File) {
    let mut at = 0;
    while at < bulk() {
        match ours.try_sendfile(file.as_fd(), at as u64, bulk() - at) {
            Ok(count) => at += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                ours.socket().writable().await.unwrap();
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// From a plain socket.
async fn download_by_splice(ours: &Transport) {
    let (listener, port) = listen();
    let origin = std::thread::spawn(move || {
        let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
        send_bulk(|piece| socket.write_all(piece).unwrap());
    });
    let from = Transport::plain(into_socket(listener.accept().unwrap().0));
    let mut pipe = Pipe::take().unwrap();
    while splice_in(&from, &mut pipe).await.unwrap() > 0 {
        while !pipe.is_empty() {
            match pipe.empty(|fd, len| ours.try_splice_out(fd, len, false)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ours.socket().writable().await.unwrap();
                }
                result => _ = result.unwrap(),
            }
        }
    }
    origin.join().unwrap();
}

/// Without the limit of time of [`run`].
fn run_long(test: impl Future<Output = ()>) {
    runtime::start(Preference::Auto, |_| test).expect("a driver");
}

#[test]
fn a_thousand_connections_leave_nothing_behind() {
    const NAME: &str = "transport::kernel_tls::a_thousand_connections_leave_nothing_behind";
    const ALONE: &str = "ATLAS_TEST_ALONE";
    let Some(offload) = offload() else { return };
    // In a process of its own, where nobody else opens anything.
    if std::env::var_os(ALONE).is_none() {
        let alone = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", NAME, "--nocapture"])
            .env(ALONE, "1")
            .output()
            .unwrap();
        assert!(
            alone.status.success(),
            "{}",
            String::from_utf8_lossy(&alone.stderr)
        );
        return;
    }
    let (config, client_config) = configs_of(TLS_1_3);
    let (listener, port) = listen();
    let clients = std::thread::spawn(move || {
        for _ in 0..1000 {
            let mut client = connect(port, &client_config);
            client.write_all(b"splice me").unwrap();
            client.read_exact(&mut [0; 9]).unwrap();
            client.conn.send_close_notify();
            client.flush().unwrap();
            let _ = read_to_end(&mut client);
        }
    });
    run_long(async {
        let mut first = None;
        for _ in 0..20 {
            for _ in 0..50 {
                echo_spliced(accept(&listener, &config, &offload)).await;
            }
            // io_uring closes what was dropped at its next turn.
            runtime::sleep(Duration::from_millis(20)).await;
            let (open, memory) = (descriptors(), resident_kib());
            let first = *first.get_or_insert((open, memory));
            // The client's of its next connection may be one of them.
            assert!(open <= first.0 + 1, "{open} descriptors, first {}", first.0);
            let grown = memory.saturating_sub(first.1);
            assert!(grown < 8 * 1024, "{grown} KiB more than after the first fifty");
        }
    });
    clients.join().unwrap();
}

async fn echo_spliced(ours: Transport) {
    let mut pipe = Pipe::take().unwrap();
    assert_eq!(splice_in(&ours, &mut pipe).await.unwrap(), 9);
    while !pipe.is_empty() {
        pipe.empty(|fd, len| ours.try_splice_out(fd, len, false)).unwrap();
    }
    assert!(ours.close(Deadline::within(SECOND)).await);
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Memory of this process.
fn resident_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// OpenSSL's client says "K" as a key update that asks for one.
#[test]
fn key_updates_of_openssl_are_followed_or_end_it_by_name() {
    use std::process::{Command, Stdio};
    let Some(offload) = offload() else { return };
    if Command::new("openssl").arg("version").output().is_err() {
        #[expect(clippy::print_stderr, reason = "who reads the test's output has to know")]
        {
            eprintln!("skipped: this machine has no openssl");
        }
        return;
    }
    let (config, _) = configs_of(TLS_1_3);
    let (listener, port) = listen();
    let mut openssl = Command::new("openssl")
        .args(["s_client", "-tls1_3", "-connect", &format!("127.0.0.1:{port}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = openssl.stdin.take().unwrap();
    // Each line by itself: what is not at the beginning of a read is no command.
    let mut say = move |line: &str| input.write_all(line.as_bytes()).unwrap();
    let keys = accept_keys(&listener, &config);
    run(Preference::Auto, async {
        let ours = into_transport(keys, &offload);
        say("hello\n");
        assert_eq!(read_count(&ours, 6).await, b"hello\n");
        for round in 1..=3 {
            say("K\n");
            runtime::sleep(Duration::from_millis(100)).await;
            say("again\n");
            if !offload.can_rekey() {
                assert_eq!(cause_of(ours.read(&mut [0; 10]).await), Cause::KeyUpdate);
                return;
            }
            assert_eq!(read_count(&ours, 6).await, b"again\n");
            ours.write_all(b"and back\n", LONG).await.unwrap();
            assert_eq!(ours.carriage().key_updates_received.get(), round);
            assert_eq!(ours.carriage().key_updates_sent.get(), round);
        }
        say("Q\n");
        assert_eq!(ours.read(&mut [0; 10]).await.unwrap(), 0, "close_notify");
    });
    let _ = openssl.kill();
    openssl.wait().unwrap();
}
