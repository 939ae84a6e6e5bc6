//! Connections on their way into the kernel: what keeps them from it, what they lose if it fails, and
//! that no byte is lost where they arrive.

use std::cell::Cell;
use std::os::fd::AsFd;
use std::sync::Barrier;
use std::sync::mpsc::channel;

use ::rustls::SupportedCipherSuite;
use ::rustls::crypto::aws_lc_rs::{cipher_suite as suites, default_provider};

use super::*;
use crate::offload::tests::{SUITES, answer_who_attaches, probe, refuse_keys_of};
use crate::sys::ktls::{self, Cipher, Direction, Key, Version};

/// What a large body is.
const LARGE_BODY: u64 = 1000;

/// A client that hands its records to the test, so that they can be cut and glued together.
struct Cutter {
    connection: ClientConnection,
    socket: TcpStream,
    /// Records that were made and not yet sent.
    held: Vec<u8>,
}

impl Cutter {
    /// Shakes hands; its last flight is held where it is the last of all.
    fn connect(port: u16, config: &Arc<ClientConfig>) -> Self {
        let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
        socket.set_nodelay(true).unwrap();
        let name = ServerName::try_from("a.test").unwrap();
        let mut connection = ClientConnection::new(config.clone(), name).unwrap();
        while connection.is_handshaking() {
            while connection.wants_write() {
                connection.write_tls(&mut socket).unwrap();
            }
            connection.read_tls(&mut socket).unwrap();
            connection.process_new_packets().unwrap();
        }
        Self {
            connection,
            socket,
            held: Vec::new(),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> &mut Self {
        self.connection.writer().write_all(bytes).unwrap();
        self.take()
    }

    fn take(&mut self) -> &mut Self {
        while self.connection.wants_write() {
            self.connection.write_tls(&mut self.held).unwrap();
        }
        self
    }

    /// Sends what is held but for the last `keep` bytes, at once.
    fn send_but(&mut self, keep: usize) {
        let rest = self.held.split_off(self.held.len() - keep);
        self.socket.write_all(&self.held).unwrap();
        self.held = rest;
    }

    fn read(&mut self, count: usize) -> io::Result<Vec<u8>> {
        let mut received = vec![0; count];
        let mut stream = ::rustls::Stream::new(&mut self.connection, &mut self.socket);
        stream.read_exact(&mut received)?;
        Ok(received)
    }

    fn close(&mut self) {
        self.connection.send_close_notify();
        self.take().send_but(0);
        while self
            .connection
            .read_tls(&mut self.socket)
            .is_ok_and(|count| count > 0)
        {
            self.connection.process_new_packets().unwrap();
        }
    }
}

/// As [`configs`], of one suite, whose secrets may be had.
fn configs_with(suite: SupportedCipherSuite) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
    let chain = vec![made.cert.der().clone()];
    let mut roots = RootCertStore::empty();
    roots.add(chain[0].clone()).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let mut provider = default_provider();
    provider.cipher_suites = vec![suite];
    let provider = Arc::new(provider);
    let mut server = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[suite.version()])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    server.ticketer = ::rustls::crypto::aws_lc_rs::Ticketer::new().unwrap();
    server.enable_secret_extraction = true;
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[suite.version()])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.enable_secret_extraction = true;
    (Arc::new(server), Arc::new(client))
}

/// A server of ours and a client that cuts, once on each driver.
fn meet(
    suite: SupportedCipherSuite,
    offload: impl Fn() -> Offload,
    client: impl Fn(Cutter) + Clone + Send + 'static,
    server: impl AsyncFn(Transport),
) {
    let (config, client_config) = configs_with(suite);
    for preference in [Preference::Auto, Preference::Epoll] {
        let (listener, port) = listen();
        let (client, client_config) = (client.clone(), client_config.clone());
        let thread = std::thread::spawn(move || client(Cutter::connect(port, &client_config)));
        run(preference, async {
            let promotion = Promotion {
                offload: offload().into(),
                threshold: LARGE_BODY,
            };
            server(accept_as(&listener, &config, promotion).await).await;
        });
        thread.join().unwrap();
    }
}

async fn accept_as(listener: &TcpListener, config: &Arc<ServerConfig>, promotion: Promotion) -> Transport {
    let socket = into_socket(listener.accept().unwrap().0);
    let sealed = Sealed::server(config.clone(), &[]).unwrap();
    shake_sealed(socket, sealed, promotion).await.0
}

fn carrier(transport: &Transport) -> Carrier {
    transport.carriage().carrier.get()
}

/// The client asks, and is answered; on whatever carries the connection.
async fn answer(transport: &Transport) {
    assert_eq!(read_count(transport, 7).await, b"request");
    transport.write_all(b"answer", LONG).await.unwrap();
    transport.flush(LONG).await.unwrap();
}

fn ask(client: &mut Cutter) {
    client.write(b"request").send_but(0);
    assert_eq!(client.read(6).unwrap(), b"answer");
}

/// The connection is not promoted, for this reason, and the request is answered.
async fn stays(transport: &Transport, refusal: Refusal) {
    transport.promote(LARGE_BODY).unwrap();
    assert_eq!(carrier(transport), Carrier::Process(refusal));
    assert!(!transport.is_kernel_stream());
    answer(transport).await;
    transport.promote(LARGE_BODY).unwrap();
    assert_eq!(carrier(transport), Carrier::Process(refusal));
    transport.close(Deadline::within(SECOND)).await;
}

fn asks_and_closes(mut client: Cutter) {
    ask(&mut client);
    client.close();
}

#[test]
fn what_is_too_small_stays() {
    let suite = suites::TLS13_AES_128_GCM_SHA256;
    meet(
        suite,
        Offload::assumed,
        asks_and_closes,
        async |transport: Transport| {
            transport.promote(LARGE_BODY - 1).unwrap();
            assert_eq!(carrier(&transport), Carrier::Process(Refusal::BelowThreshold));
            answer(&transport).await;
            transport.close(Deadline::within(SECOND)).await;
        },
    );
}

/// The ciphers that kernels know, as [`SUITES`] has them in each version.
const CIPHERS: [Cipher; 3] = [Cipher::Aes128Gcm, Cipher::Aes256Gcm, Cipher::Chacha20Poly1305];

#[test]
fn a_version_that_the_kernel_does_not_take_stays() {
    for (version, suite) in [(Version::Tls12, SUITES[0]), (Version::Tls13, SUITES[3])] {
        let offload = || Offload::assumed_without(version, &CIPHERS);
        meet(suite, offload, asks_and_closes, async |transport: Transport| {
            assert_eq!(carrier(&transport), Carrier::Process(Refusal::Version));
            stays(&transport, Refusal::Version).await;
        });
    }
}

#[test]
fn a_cipher_that_the_kernel_does_not_take_stays_and_the_others_may_go() {
    let [of_tls12, of_tls13] = [&SUITES[..3], &SUITES[3..]];
    for (version, suites, other) in [
        (Version::Tls12, of_tls12, of_tls13),
        (Version::Tls13, of_tls13, of_tls12),
    ] {
        for (at, cipher) in CIPHERS.into_iter().enumerate() {
            let offload = || Offload::assumed_without(version, &[cipher]);
            meet(
                suites[at],
                offload,
                asks_and_closes,
                async |transport: Transport| {
                    assert_eq!(carrier(&transport), Carrier::Process(Refusal::Cipher));
                    stays(&transport, Refusal::Cipher).await;
                },
            );
            // Neither another cipher of this version, nor this one of the other version.
            for suite in [suites[(at + 1) % 3], other[at]] {
                meet(suite, offload, asks_and_closes, async |transport: Transport| {
                    assert_eq!(carrier(&transport), Carrier::Process(Refusal::BelowThreshold));
                    answer(&transport).await;
                    transport.close(Deadline::within(SECOND)).await;
                });
            }
        }
    }
}

/// A kernel short of memory, one that a profile keeps from it, one without: each by a filter on the
/// one system call.
#[test]
fn a_kernel_that_does_not_take_the_socket_leaves_the_connection_where_it_is() {
    for (error, refusal) in [
        (libc::ENOMEM, Refusal::AttachNoMemory),
        (libc::ENOBUFS, Refusal::AttachNoMemory),
        (libc::EPERM, Refusal::AttachNotPermitted),
        (libc::EACCES, Refusal::AttachNotPermitted),
        (libc::ENOPROTOOPT, Refusal::AttachUnknown),
        (libc::EIO, Refusal::AttachFailed),
        (libc::ENOENT, Refusal::NoUlp),
        (libc::ENOTCONN, Refusal::PeerClosedEarly),
    ] {
        let meeting = std::thread::spawn(move || {
            answer_who_attaches(error);
            for suite in [SUITES[0], SUITES[3]] {
                meet(
                    suite,
                    Offload::assumed,
                    asks_and_closes,
                    async |transport: Transport| stays(&transport, refusal).await,
                );
            }
        });
        meeting.join().unwrap();
    }
}

#[test]
fn while_the_breaker_is_open_connections_stay() {
    let offload = || {
        let offload = Offload::assumed();
        (0..3).for_each(|_| offload.failed());
        offload
    };
    let suite = suites::TLS13_AES_128_GCM_SHA256;
    meet(suite, offload, asks_and_closes, async |transport: Transport| {
        stays(&transport, Refusal::Breaker).await;
    });
}

#[test]
fn a_socket_that_cannot_be_attached_stays() {
    let (_, is_missing) = kernel();
    if !is_missing {
        return; // this kernel attaches; the machine without a ULP runs it
    }
    let suite = suites::TLS13_AES_128_GCM_SHA256;
    meet(
        suite,
        Offload::assumed,
        asks_and_closes,
        async |transport: Transport| {
            stays(&transport, Refusal::NoUlp).await;
        },
    );
}

#[test]
fn a_peer_that_has_said_goodbye_is_served_where_it_is() {
    let client = |mut client: Cutter| {
        client.write(b"request");
        client.connection.send_close_notify();
        client.take().send_but(0);
        assert_eq!(client.read(6).unwrap(), b"answer");
    };
    for suite in [SUITES[3], SUITES[0]] {
        meet(suite, Offload::assumed, client, async |transport: Transport| {
            let mut first = [0];
            assert_eq!(transport.read(&mut first).await.unwrap(), 1);
            transport.promote(LARGE_BODY).unwrap();
            assert_eq!(carrier(&transport), Carrier::Process(Refusal::PeerClosedEarly));
            assert_eq!(read_count(&transport, 6).await, b"equest");
            assert_eq!(transport.read(&mut first).await.unwrap(), 0);
            transport.write_all(b"answer", LONG).await.unwrap();
            transport.close(Deadline::within(SECOND)).await;
        });
    }
}

#[test]
fn a_peer_that_is_gone_without_a_goodbye_is_told_where_it_is() {
    let client = |mut client: Cutter| {
        client.write(b"request").send_but(0);
        client.socket.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(client.read(6).unwrap(), b"answer");
    };
    meet(
        SUITES[3],
        Offload::assumed,
        client,
        async |transport: Transport| {
            assert_eq!(read_count(&transport, 7).await, b"request");
            while transport.socket().peek() != Some(0) {
                transport.socket().readable().await.unwrap();
            }
            transport.promote(LARGE_BODY).unwrap();
            let refusal = carrier(&transport).refusal();
            assert!(
                matches!(refusal, Some(Refusal::PeerClosedEarly | Refusal::NoUlp)),
                "{refusal:?}"
            );
            transport.write_all(b"answer", LONG).await.unwrap();
            let error = transport.read(&mut [0]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
            transport.close(Deadline::within(SECOND)).await;
        },
    );
}

#[test]
fn half_a_record_is_read_to_its_end_and_no_further() {
    let client = |mut client: Cutter| {
        client.write(b"request").write(&pattern(3000, 9)).send_but(1500);
        assert_eq!(client.read(2).unwrap(), b"go");
        client.write(&pattern(4000, 10)).send_but(0);
        assert_eq!(client.read(6).unwrap(), b"answer");
        client.close();
    };
    for suite in [SUITES[3], SUITES[0]] {
        meet(suite, kernel_or_assumed, client, async |transport: Transport| {
            assert_eq!(read_count(&transport, 7).await, b"request");
            transport.promote(LARGE_BODY).unwrap();
            assert_eq!(carrier(&transport), Carrier::Process(Refusal::NoBoundary));
            transport.write_all(b"go", LONG).await.unwrap();
            let mut first = vec![0; 64 * 1024];
            let count = transport.read(&mut first).await.unwrap();
            assert_eq!(first[..count], pattern(3000, 9), "this record and nothing else");
            transport.promote(LARGE_BODY).unwrap();
            let (_, is_missing) = kernel();
            let expected = match is_missing {
                true => Carrier::Process(Refusal::NoUlp),
                false => Carrier::Kernel,
            };
            assert_eq!(carrier(&transport), expected);
            assert_eq!(read_count(&transport, 4000).await, pattern(4000, 10));
            transport.write_all(b"answer", LONG).await.unwrap();
            transport.close(Deadline::within(SECOND)).await;
        });
    }
}

#[test]
fn a_full_socket_is_waited_for_by_others() {
    let is_full = Arc::new(Barrier::new(2));
    let told = is_full.clone();
    let client = move |mut client: Cutter| {
        set_tiny(&client.socket);
        client.write(b"request").send_but(0);
        told.wait();
        let answer = client.read(4 * 1024 * 1024).unwrap();
        assert_eq!(hash(&answer), hash(&pattern(4 * 1024 * 1024, 11)));
        client.close();
    };
    meet(
        SUITES[3],
        kernel_or_assumed,
        client,
        async |transport: Transport| {
            SockRef::from(transport.socket())
                .set_send_buffer_size(TINY_SOCKET)
                .unwrap();
            assert_eq!(read_count(&transport, 7).await, b"request");
            let body = pattern(4 * 1024 * 1024, 11);
            let mut sent = 0;
            loop {
                let count = write_what_fits(&transport, &body[sent..]);
                sent += count;
                if count == 0 {
                    break;
                }
                // The client's kernel may acknowledge some of it only now, which makes space.
                runtime::sleep(Duration::from_millis(250)).await;
            }
            transport.promote(LARGE_BODY).unwrap();
            assert_eq!(carrier(&transport), Carrier::Process(Refusal::NoBoundary));
            is_full.wait();
            transport.flush(LONG).await.unwrap();
            transport.promote(LARGE_BODY).unwrap();
            assert_ne!(carrier(&transport), Carrier::Process(Refusal::NoBoundary));
            transport.write_all(&body[sent..], LONG).await.unwrap();
            transport.close(Deadline::within(LONG)).await;
        },
    );
}

fn write_what_fits(transport: &Transport, body: &[u8]) -> usize {
    let mut sent = 0;
    loop {
        match transport.try_write(&body[sent..]) {
            Ok(count) => sent += count,
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                return sent;
            }
        }
    }
}

/// What this kernel does, and whether it has no TLS.
fn kernel() -> (Offload, bool) {
    let offload = probe();
    let is_missing = offload.refusal().is_some();
    (offload, is_missing)
}

fn kernel_or_assumed() -> Offload {
    match kernel() {
        (_, true) => Offload::assumed(),
        (offload, false) => offload,
    }
}

/// Those that need a kernel with TLS.
mod kernel_tls {
    use super::*;

    fn is_missing() -> bool {
        let (_, is_missing) = kernel();
        if is_missing {
            #[expect(clippy::print_stderr, reason = "who reads the test's output has to know")]
            {
                eprintln!("skipped: this kernel has no TLS");
            }
        }
        is_missing
    }

    fn promote(transport: &Transport) {
        transport.promote(LARGE_BODY).unwrap();
        assert_eq!(carrier(transport), Carrier::Kernel);
    }

    #[test]
    fn what_comes_with_finished_and_what_comes_after_is_read_in_order() {
        if is_missing() {
            return;
        }
        let client = |mut client: Cutter| {
            client.write(&pattern(40_000, 1)).send_but(0);
            assert_eq!(client.read(50_000).unwrap(), pattern(50_000, 2));
            ask(&mut client);
            client.close();
        };
        for suite in SUITES {
            meet(suite, probe, client, async |transport: Transport| {
                let mut first = [0];
                assert_eq!(transport.read(&mut first).await.unwrap(), 1);
                let deadline = Deadline::within(LONG);
                while carrier(&transport) != Carrier::Kernel {
                    transport.promote(LARGE_BODY).unwrap();
                    assert!(!deadline.passed(now()), "{:?}", carrier(&transport));
                    runtime::sleep(Duration::from_millis(1)).await;
                }
                assert!(
                    !transport.is_kernel_stream(),
                    "what was opened has to be read first"
                );
                let rest = read_count(&transport, 39_999).await;
                assert!(transport.is_kernel_stream());
                assert_eq!([&first[..], &rest].concat(), pattern(40_000, 1));
                transport.write_all(&pattern(50_000, 2), LONG).await.unwrap();
                answer(&transport).await;
                assert!(transport.close(Deadline::within(LONG)).await);
            });
        }
    }

    #[test]
    fn a_key_update_glued_to_finished_is_answered() {
        if is_missing() {
            return;
        }
        let client = |mut client: Cutter| {
            client.connection.refresh_traffic_keys().unwrap();
            client.write(b"request").send_but(0);
            assert_eq!(client.read(6).unwrap(), b"answer");
            ask(&mut client);
            client.close();
        };
        for suite in &SUITES[3..] {
            meet(*suite, probe, client, async |transport: Transport| {
                let mut first = [0];
                assert_eq!(transport.read(&mut first).await.unwrap(), 1);
                promote(&transport);
                assert_eq!(read_count(&transport, 6).await, b"equest");
                transport.write_all(b"answer", LONG).await.unwrap();
                answer(&transport).await;
                assert!(transport.close(Deadline::within(LONG)).await);
            });
        }
    }

    #[test]
    fn connections_move_amid_their_bodies_in_both_directions() {
        if is_missing() {
            return;
        }
        const SIZE: usize = 1024 * 1024;
        let client = |client: Cutter| {
            let Cutter {
                connection, socket, ..
            } = client;
            let received = duplex(StreamOwned::new(connection, socket), &pattern(SIZE, 1), SIZE);
            assert_eq!(hash(&received), hash(&pattern(SIZE, 2)));
        };
        for suite in SUITES {
            meet(suite, probe, client, async |transport: Transport| {
                let write = async {
                    for (number, piece) in pattern(SIZE, 2).chunks(50_001).enumerate() {
                        transport.write_all(piece, LONG).await.unwrap();
                        if number > 5 {
                            transport.promote(LARGE_BODY).unwrap();
                        }
                    }
                    transport.flush(LONG).await.unwrap();
                };
                let (received, ()) = futures_util::future::join(read_count(&transport, SIZE), write).await;
                assert_eq!(hash(&received), hash(&pattern(SIZE, 1)));
                assert_eq!(carrier(&transport), Carrier::Kernel);
                assert_eq!(transport.bytes_in(), SIZE as u64);
                assert_eq!(transport.bytes_out(), SIZE as u64);
            });
        }
    }

    #[test]
    fn a_connection_to_a_server_moves_and_keeps_its_tickets() {
        if is_missing() {
            return;
        }
        for suite in SUITES {
            let (config, client_config) = configs_with(suite);
            for resumed in [false, true] {
                let (listener, port) = listen();
                let config = config.clone();
                let server = std::thread::spawn(move || {
                    let (mut socket, _) = listener.accept().unwrap();
                    let connection = shake_hands(&mut socket, &config);
                    let mut server = StreamOwned::new(connection, socket);
                    server.read_exact(&mut [0; 7]).unwrap();
                    server.write_all(&pattern(500_000, 7)).unwrap();
                    server.conn.send_close_notify();
                    server.flush().unwrap();
                    let _ = server.read_to_end(&mut Vec::new());
                });
                run(Preference::Auto, async {
                    let socket = into_socket(TcpStream::connect(("127.0.0.1", port)).unwrap());
                    let name = ServerName::try_from("a.test").unwrap();
                    let sealed = Sealed::client(client_config.clone(), name).unwrap();
                    let promotion = Promotion {
                        offload: probe().into(),
                        threshold: LARGE_BODY,
                    };
                    let (transport, kind) = shake_sealed(socket, sealed, promotion).await;
                    assert_eq!(kind == Some(HandshakeKind::Resumed), resumed, "{suite:?}");
                    promote(&transport);
                    transport.write_all(b"request", LONG).await.unwrap();
                    let answer = read_count(&transport, 500_000).await;
                    assert_eq!(hash(&answer), hash(&pattern(500_000, 7)));
                    assert_eq!(transport.read(&mut [0; 10]).await.unwrap(), 0);
                    transport.close(Deadline::within(SECOND)).await;
                });
                server.join().unwrap();
            }
        }
    }

    /// Gives one direction another key, so that the kernel refuses the right one: TLS 1.2 has no
    /// second key, on no kernel.
    fn spoil(transport: &Transport, direction: Direction) {
        let key = Key::new(Version::Tls12, Cipher::Aes128Gcm, &[1; 16], &[2; 12], 1).unwrap();
        ktls::attach(transport.socket().as_fd()).unwrap();
        ktls::set_key(transport.socket().as_fd(), direction, &key).unwrap();
    }

    async fn is_lost(transport: &Transport) {
        let error = transport.promote(LARGE_BODY).unwrap_err();
        assert_eq!(Cause::of(&error), Cause::KernelRefusedKeys);
        stays_lost(transport).await;
    }

    async fn stays_lost(transport: &Transport) {
        for _ in 0..2 {
            let error = transport.read(&mut [0]).await.unwrap_err();
            assert_eq!(Cause::of(&error), Cause::KernelRefusedKeys);
            let error = transport.write_all(b"x", LONG).await.unwrap_err();
            assert_eq!(Cause::of(&error), Cause::KernelRefusedKeys);
        }
        assert!(!transport.close(Deadline::within(SECOND)).await);
        transport.promote(LARGE_BODY).unwrap();
    }

    /// The kernel refuses the key of a direction.
    fn loses(direction: Direction, client: fn(Cutter)) {
        meet(SUITES[0], probe, client, async |transport: Transport| {
            assert_eq!(read_count(&transport, 7).await, b"request");
            spoil(&transport, direction);
            is_lost(&transport).await;
        });
    }

    #[test]
    fn a_refused_sending_key_is_a_named_end() {
        if is_missing() {
            return;
        }
        loses(Direction::Send, |mut client| {
            client.write(b"request").send_but(0);
            assert!(client.read(1).is_err());
        });
    }

    #[test]
    fn a_refused_receiving_key_is_a_named_end_and_the_peer_hears_it() {
        if is_missing() {
            return;
        }
        loses(Direction::Receive, |mut client| {
            client.write(b"request").send_but(0);
            let error = client.read(1).unwrap_err();
            assert!(error.to_string().contains("InternalError"), "{error}");
        });
    }

    #[test]
    fn three_lost_connections_keep_the_others_where_they_are() {
        if is_missing() {
            return;
        }
        for direction in [Direction::Receive, Direction::Send] {
            let (config, client_config) = configs_with(SUITES[0]);
            let (listener, port) = listen();
            let clients = std::thread::spawn(move || {
                for _ in 0..3 {
                    let mut client = Cutter::connect(port, &client_config);
                    client.write(b"request").send_but(0);
                    assert!(client.read(1).is_err());
                }
                asks_and_closes(Cutter::connect(port, &client_config));
            });
            run(Preference::Auto, async {
                let promotion = Promotion {
                    offload: probe().into(),
                    threshold: LARGE_BODY,
                };
                for number in 0..4 {
                    let transport = accept_as(&listener, &config, promotion.clone()).await;
                    if number < 3 {
                        assert_eq!(read_count(&transport, 7).await, b"request");
                        spoil(&transport, direction);
                        assert!(transport.promote(LARGE_BODY).is_err());
                        drop(transport);
                        // io_uring closes at its next turn, and the next client waits for that.
                        runtime::sleep(Duration::from_millis(20)).await;
                    } else {
                        stays(&transport, Refusal::Breaker).await;
                    }
                }
            });
            clients.join().unwrap();
        }
    }

    /// Linux before 6.14 takes no second key by itself; of a later one a filter makes such a kernel. The
    /// client asks for a next key of ours, too.
    #[test]
    fn a_next_key_that_is_refused_is_a_named_end_and_opens_the_breaker() {
        if is_missing() {
            return;
        }
        let can_rekey = probe().can_rekey();
        for refused in [Direction::Receive, Direction::Send] {
            let offload = Arc::new(Offload::assumed());
            // They are lost after they went well, which makes up for some of it: it takes four.
            for preference in [Preference::Auto, Preference::Epoll].repeat(2) {
                offload.allows().expect("it is not open yet");
                let offload = offload.clone();
                // The filter is the thread's, for good.
                let alone = std::thread::spawn(move || {
                    let answered = loses_at_the_next_key(preference, offload, refused);
                    assert_eq!(answered, u32::from(can_rekey && refused == Direction::Send));
                });
                alone.join().unwrap();
            }
            assert_eq!(offload.allows(), Err(Refusal::Breaker), "{refused:?}");
        }
    }

    /// A connection that moves, and then has its keys renewed; how often that was answered.
    fn loses_at_the_next_key(preference: Preference, offload: Arc<Offload>, refused: Direction) -> u32 {
        let (config, client_config) = configs_with(SUITES[3]);
        let (listener, port) = listen();
        let client = std::thread::spawn(move || {
            let mut client = Cutter::connect(port, &client_config);
            ask(&mut client);
            client.connection.refresh_traffic_keys().unwrap();
            client.write(b"more").send_but(0);
            assert!(client.read(1).is_err());
        });
        let answered = Cell::new(0);
        run(preference, async {
            let promotion = Promotion {
                offload,
                threshold: LARGE_BODY,
            };
            let transport = accept_as(&listener, &config, promotion).await;
            let mut first = [0];
            assert_eq!(transport.read(&mut first).await.unwrap(), 1);
            promote(&transport);
            refuse_keys_of(refused, libc::EINVAL);
            assert_eq!(read_count(&transport, 6).await, b"equest");
            transport.write_all(b"answer", LONG).await.unwrap();
            stays_lost(&transport).await;
            let carriage = transport.carriage();
            assert_eq!(carriage.key_updates_received.get(), 1);
            answered.set(carriage.key_updates_sent.get());
        });
        client.join().unwrap();
        answered.get()
    }
}

#[test]
fn a_reader_that_waits_is_told_of_what_a_promotion_has_read() {
    let (tell, told) = channel();
    let client = move |mut client: Cutter| {
        client.write(b"request").send_but(3);
        tell.send(()).unwrap();
        assert_eq!(client.read(3).unwrap(), b"got");
        client.send_but(0);
        tell.send(()).unwrap();
        let _ = client.read(1);
    };
    meet(
        suites::TLS13_AES_128_GCM_SHA256,
        Offload::assumed,
        client,
        async |transport: Transport| {
            told.recv_timeout(LONG).unwrap();
            let mut received = [0; 7];
            let reading = transport.read(&mut received);
            let promoting = async {
                transport.write_all(b"got", LONG).await.unwrap();
                // The driver, which would tell of the rest, does not get to it.
                told.recv_timeout(LONG).unwrap();
                promote_behind_the_record(&transport);
                transport.socket().turn().await;
                std::future::pending::<()>().await;
            };
            let (reading, promoting) = (std::pin::pin!(reading), std::pin::pin!(promoting));
            let both = select(reading, promoting);
            let ended = before(Deadline::within(LONG), both).await;
            assert!(ended.is_ok(), "the reader still waits");
        },
    );
}

/// Tries until the rest of a record that was sent has come, without letting anybody else run.
fn promote_behind_the_record(transport: &Transport) {
    let deadline = Deadline::within(LONG);
    loop {
        let _ = transport.promote(LARGE_BODY); // this kernel may have no TLS, or refuse the keys
        if carrier(transport) != Carrier::Process(Refusal::NoBoundary) {
            return;
        }
        assert!(!deadline.passed(now()), "half a record is there");
        pause(Duration::from_millis(1));
    }
}
