//! Byte streams over real sockets, of each layer and on both drivers, with rustls in blocking threads
//! as the peer.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use ::rustls::crypto::CryptoProvider;
use ::rustls::crypto::aws_lc_rs::default_provider;
use ::rustls::crypto::cipher::{OutboundChunks, OutboundPlainMessage};
use ::rustls::pki_types::{PrivateKeyDer, ServerName};
use ::rustls::{
    ClientConfig, ClientConnection, ConnectionTrafficSecrets, ContentType, HandshakeKind, ProtocolVersion,
    RootCertStore, ServerConfig, ServerConnection, StreamOwned, SupportedCipherSuite,
    SupportedProtocolVersion,
};
use futures_util::future::{Either, select};
use rustix::event::{PollFd, PollFlags, poll};
use socket2::SockRef;

mod promotion;

use super::*;
use crate::offload::Offload;
use crate::runtime::{self, Preference};
use crate::time::now;

pub(super) type Client = StreamOwned<ClientConnection, TcpStream>;

pub(super) const SECOND: Duration = Duration::from_secs(1);

/// Far more than anything here takes, also where a guest gets a tenth of a core.
pub(super) const LONG: Duration = Duration::from_secs(60);

/// Buffers of sockets, so small that every large write has to wait many times; much smaller ones
/// make loopback, whose packets have 64 KiB, wait for timers.
const TINY_SOCKET: usize = 32 * 1024;

#[test]
fn large_bodies_cross_in_both_directions_at_once() {
    const SIZE: usize = 4 * 1024 * 1024;
    let client = |client: Client| {
        set_tiny(&client.sock);
        let received = duplex(client, &pattern(SIZE, 1), SIZE);
        assert_eq!(hash(&received), hash(&pattern(SIZE, 2)));
    };
    serve(client, async |transport: Transport| {
        let write = async {
            for piece in pattern(SIZE, 2).chunks(64 * 1024) {
                transport.write_all(piece, LONG).await.unwrap();
            }
            transport.flush(LONG).await.unwrap();
        };
        let (received, ()) = futures_util::future::join(read_count(&transport, SIZE), write).await;
        assert_eq!(hash(&received), hash(&pattern(SIZE, 1)));
        assert_eq!(transport.bytes_in(), SIZE as u64);
        assert_eq!(transport.bytes_out(), SIZE as u64);
    });
}

#[test]
fn records_of_one_byte_and_packets_of_one_byte_are_read() {
    const RECORDS: usize = 300;
    let client = |mut client: Client| {
        client.sock.set_nodelay(true).unwrap();
        let mut wire = Vec::new();
        for byte in pattern(RECORDS, 3) {
            client.conn.writer().write_all(&[byte]).unwrap();
        }
        while client.conn.wants_write() {
            client.conn.write_tls(&mut wire).unwrap();
        }
        let (slow, fast) = wire.split_at(2000);
        for byte in slow {
            client.sock.write_all(&[*byte]).unwrap();
        }
        client.sock.write_all(fast).unwrap();
        read_to_end(&mut client).unwrap();
    };
    serve(client, async |transport: Transport| {
        let mut received = Vec::new();
        while received.len() < RECORDS {
            let mut byte = [0];
            assert_eq!(transport.read(&mut byte).await.unwrap(), 1);
            received.push(byte[0]);
        }
        assert_eq!(received, pattern(RECORDS, 3));
        transport.close(Deadline::within(SECOND)).await;
    });
}

#[test]
fn a_reader_with_little_space_loses_nothing_of_a_record() {
    const SIZE: usize = 100_000;
    let client = |mut client: Client| {
        client.write_all(&pattern(SIZE, 8)).unwrap();
        read_to_end(&mut client).unwrap();
    };
    serve(client, async |transport: Transport| {
        let mut received = Vec::new();
        for size in [1, 7000, 3, 16 * 1024, 16 * 1024 - 1, 65_000].into_iter().cycle() {
            let mut space = vec![0; size.min(SIZE - received.len())];
            if space.is_empty() {
                break;
            }
            let count = transport.read(&mut space).await.unwrap();
            received.extend_from_slice(&space[..count]);
        }
        assert_eq!(hash(&received), hash(&pattern(SIZE, 8)));
        transport.close(Deadline::within(SECOND)).await;
    });
}

#[test]
fn key_updates_of_the_client_are_followed() {
    let client = |mut client: Client| {
        for round in 0..20_u8 {
            client.conn.refresh_traffic_keys().unwrap();
            client.write_all(&[round; 1000]).unwrap();
            let mut answer = [0; 1000];
            client.read_exact(&mut answer).unwrap();
            assert_eq!(answer, [round; 1000]);
        }
    };
    serve_with(
        &[&::rustls::version::TLS13],
        client,
        &async |transport: Transport| {
            for round in 0..20_u8 {
                let request = read_count(&transport, 1000).await;
                assert_eq!(request, [round; 1000]);
                transport.write_all(&request, LONG).await.unwrap();
                transport.flush(LONG).await.unwrap();
            }
        },
    );
}

#[test]
fn close_notify_is_an_end_in_order() {
    let client = |mut client: Client| {
        client.write_all(b"last words").unwrap();
        client.conn.send_close_notify();
        client.flush().unwrap();
        assert_eq!(read_to_end(&mut client).unwrap(), b"");
    };
    serve(client, async |transport: Transport| {
        assert_eq!(read_count(&transport, 10).await, b"last words");
        assert_eq!(transport.read(&mut [0; 10]).await.unwrap(), 0);
        assert_eq!(
            transport.read(&mut [0; 10]).await.unwrap(),
            0,
            "the end stays the end"
        );
        assert!(transport.close(Deadline::within(LONG)).await);
    });
}

#[test]
fn a_fin_without_close_notify_is_told_from_a_clean_end() {
    let client = |mut client: Client| {
        client.write_all(b"half a").unwrap();
        client.sock.shutdown(std::net::Shutdown::Both).unwrap();
    };
    serve(client, async |transport: Transport| {
        assert_eq!(read_count(&transport, 6).await, b"half a");
        let error = transport.read(&mut [0; 10]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    });
}

#[test]
fn a_reset_is_an_error() {
    let client = |mut client: Client| {
        client.read_exact(&mut [0]).unwrap();
        SockRef::from(&client.sock)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
    };
    serve(client, async |transport: Transport| {
        transport.write_all(b"x", LONG).await.unwrap();
        let error = transport.read(&mut [0; 10]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        let mut written = Ok(());
        for _ in 0..3 {
            written = transport.write_all(b"x", LONG).await;
        }
        assert!(written.is_err());
        assert!(!transport.close(Deadline::within(SECOND)).await);
    });
}

/// The client goes on, often in the middle of a record, only when it is told that a read was dropped.
#[test]
fn reads_dropped_while_they_wait_lose_nothing() {
    const SIZE: usize = 300_000;
    const PIECE: usize = 7_001;
    let client = |mut client: Client| {
        client.conn.set_buffer_limit(None);
        client.conn.writer().write_all(&pattern(SIZE, 4)).unwrap();
        client.conn.send_close_notify();
        let mut wire = Vec::new();
        while client.conn.wants_write() {
            client.conn.write_tls(&mut wire).unwrap();
        }
        for piece in wire.chunks(PIECE) {
            client.read_exact(&mut [0]).unwrap();
            client.sock.write_all(piece).unwrap();
        }
        let _ = read_to_end(&mut client);
    };
    serve(client, async |transport: Transport| {
        let mut received = Vec::new();
        let mut buffer = vec![0; 5000];
        let mut dropped = 0;
        loop {
            let soon = Deadline::within(Duration::from_millis(1));
            match before(soon, transport.read(&mut buffer)).await {
                Ok(Ok(0)) => break,
                Ok(Ok(count)) => received.extend_from_slice(&buffer[..count]),
                Ok(Err(error)) => panic!("{error}"),
                Err(runtime::TimedOut) => {
                    dropped += 1;
                    transport.write_all(b"!", LONG).await.unwrap();
                    transport.flush(LONG).await.unwrap();
                }
            }
        }
        assert!(dropped > SIZE / PIECE, "{dropped}");
        assert_eq!(received.len(), SIZE);
        assert_eq!(hash(&received), hash(&pattern(SIZE, 4)));
    });
}

#[test]
fn a_record_that_is_not_good_is_answered_with_its_alert() {
    let client = |mut client: Client| {
        let mut record = vec![23, 3, 3, 0, 64];
        record.extend([0; 64]);
        client.sock.write_all(&record).unwrap();
        let error = read_to_end(&mut client).unwrap_err();
        assert!(error.to_string().contains("BadRecordMac"), "{error}");
    };
    serve(client, async |transport: Transport| {
        let error = transport.read(&mut [0; 10]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let inner = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<::rustls::Error>());
        assert_eq!(inner, Some(&::rustls::Error::DecryptError));
        assert_eq!(Cause::of(&error), Cause::RecordDamaged);
        let again = transport.read(&mut [0; 10]).await.unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::InvalidData);
        assert!(transport.write_all(b"x", LONG).await.is_err());
    });
}

#[test]
fn what_came_before_a_record_that_is_not_good_is_read_first() {
    let client = |mut client: Client| {
        client.conn.writer().write_all(b"hello").unwrap();
        let mut records = Vec::new();
        while client.conn.wants_write() {
            client.conn.write_tls(&mut records).unwrap();
        }
        records.extend([23, 3, 3, 0, 64]);
        records.extend([0; 64]);
        client.sock.write_all(&records).unwrap();
        assert!(read_to_end(&mut client).is_err());
    };
    serve(client, async |transport: Transport| {
        assert_eq!(read_count(&transport, 5).await, b"hello");
        for _ in 0..3 {
            let error = transport.read(&mut [0; 10]).await.unwrap_err();
            assert_eq!(Cause::of(&error), Cause::RecordDamaged);
        }
    });
}

#[test]
fn a_record_longer_than_any_may_be_is_told_from_a_damaged_one() {
    let client = |mut client: Client| {
        client.sock.write_all(&[23, 3, 3, 0x48, 0]).unwrap();
        let _ = client.sock.write_all(&[7; 0x4800]);
        assert!(read_to_end(&mut client).is_err());
    };
    serve(client, async |transport: Transport| {
        let error = transport.read(&mut [0; 10]).await.unwrap_err();
        assert_eq!(Cause::of(&error), Cause::RecordTooLong);
    });
}

#[test]
fn bytes_that_are_not_records_are_answered_with_an_alert() {
    let client = |mut client: Client| {
        client.sock.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        assert!(read_to_end(&mut client).is_err());
    };
    serve(client, async |transport: Transport| {
        let error = transport.read(&mut [0; 10]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert_eq!(Cause::of(&error), Cause::NotTls);
    });
}

#[test]
fn bytes_that_are_not_records_are_found_behind_the_handshake_as_well() {
    let (config, client_config) = configs();
    for preference in [Preference::Auto, Preference::Epoll] {
        let (listener, port) = listen();
        let client_config = client_config.clone();
        let thread = std::thread::spawn(move || {
            let mut client = connect_and_say(port, &client_config, b"GET / HTTP/1.1\r\n\r\n");
            assert!(read_to_end(&mut client).is_err());
        });
        run(preference, async {
            let transport = accept(Maker::Sealed, &listener, &config).await;
            let error = transport.read(&mut [0; 10]).await.unwrap_err();
            assert_eq!(Cause::of(&error), Cause::NotTls);
        });
        thread.join().unwrap();
    }
}

#[test]
fn a_peer_that_does_not_read_makes_writing_wait_and_little_be_held() {
    let client = |client: Client| {
        set_tiny(&client.sock);
        let mut byte = [0];
        while client.sock.peek(&mut byte).is_err() {}
        await_reset(&client.sock);
    };
    serve(client, async |transport: Transport| {
        SockRef::from(transport.socket())
            .set_send_buffer_size(TINY_SOCKET)
            .unwrap();
        let started = now();
        let body = vec![0; 8 * 1024 * 1024];
        let timeout = Duration::from_millis(300);
        let error = transport.write_all(&body, timeout).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(started.elapsed() >= timeout);
        assert!(transport.held() <= 160 * 1024, "{} bytes held", transport.held());
        assert!(transport.bytes_out() < 6 * 1024 * 1024);
        transport.abort();
    });
}

#[test]
fn an_idle_connection_holds_no_buffer() {
    let client = |mut client: Client| {
        for _ in 0..2 {
            client.write_all(&pattern(200_000, 5)).unwrap();
            let mut answer = vec![0; 200_000];
            client.read_exact(&mut answer).unwrap();
        }
        client.write_all(b"go").unwrap();
        let _ = read_to_end(&mut client);
    };
    serve(client, async |transport: Transport| {
        for _ in 0..2 {
            let request = read_count(&transport, 200_000).await;
            transport.write_all(&request, LONG).await.unwrap();
            transport.flush(LONG).await.unwrap();
            let error = transport.try_read(&mut [0; 10]);
            if error.is_err() {
                assert_eq!(transport.held(), 0);
            }
        }
        assert_eq!(read_count(&transport, 2).await, b"go");
        assert!(transport.try_read(&mut [0; 10]).is_err());
        assert_eq!(transport.held(), 0);
    });
}

#[test]
fn each_side_may_finish_while_the_other_goes_on() {
    let client = |mut client: Client| {
        assert_eq!(read_to_end(&mut client).unwrap(), b"that is all");
        client.write_all(b"but not from me").unwrap();
        client.conn.send_close_notify();
        client.flush().unwrap();
    };
    serve(client, async |transport: Transport| {
        transport.write_all(b"that is all", LONG).await.unwrap();
        transport.finish(LONG).await.unwrap();
        assert_eq!(read_count(&transport, 15).await, b"but not from me");
        assert_eq!(transport.read(&mut [0; 10]).await.unwrap(), 0);
    });
}

#[test]
fn closing_ends_at_its_deadline_if_the_peer_does_not_close() {
    let client = |client: Client| await_reset(&client.sock);
    serve(client, async |transport: Transport| {
        let started = now();
        let deadline = Deadline::within(Duration::from_millis(200));
        assert!(!transport.close(deadline).await);
        assert!(started.elapsed() >= Duration::from_millis(200));
        assert_eq!(transport.held(), 0);
        transport.abort();
    });
}

#[test]
fn closing_bears_with_a_peer_that_goes_on_sending_but_not_for_ever() {
    let client = |mut client: Client| {
        let piece = vec![0; 64 * 1024];
        let sent = (0..).find(|_| client.write_all(&piece).is_err()).unwrap();
        assert!(sent > 10, "{sent} pieces");
    };
    serve(client, async |transport: Transport| {
        transport.write_all(b"enough", LONG).await.unwrap();
        assert!(!transport.close(Deadline::within(LONG)).await);
        assert!(transport.bytes_in() > LINGER_BYTES_MAX as u64);
        assert!(transport.bytes_in() < 2 * LINGER_BYTES_MAX as u64);
    });
}

#[test]
fn tickets_reach_a_client_that_is_not_answered_yet() {
    let (config, client_config) = configs();
    for (maker, preference) in WAYS {
        let (listener, port) = listen();
        let client_config = client_config.clone();
        let client = std::thread::spawn(move || {
            let first = connect(port, &client_config);
            finish_quietly(first);
            let mut second = connect(port, &client_config);
            assert_eq!(second.conn.handshake_kind(), Some(HandshakeKind::Resumed));
            second.conn.send_close_notify();
            let _ = second.flush();
        });
        run(preference, async {
            for _ in 0..2 {
                let transport = match maker {
                    Maker::Rustls => accept_lazily(&listener, &config),
                    Maker::Sealed => accept(maker, &listener, &config).await,
                };
                let end = transport.read(&mut [0; 10]).await;
                assert!(matches!(end, Ok(0)), "{end:?}");
                transport.close(Deadline::within(SECOND)).await;
            }
        });
        client.join().unwrap();
    }
}

#[test]
fn what_came_with_the_handshake_is_read_first() {
    let (config, client_config) = configs();
    for preference in [Preference::Auto, Preference::Epoll] {
        let (listener, port) = listen();
        let client_config = client_config.clone();
        let client = std::thread::spawn(move || {
            let mut client = connect(port, &client_config);
            client.write_all(b"early and late").unwrap();
            let _ = read_to_end(&mut client);
        });
        run(preference, async {
            let (mut socket, _) = listener.accept().unwrap();
            let connection = shake_hands(&mut socket, &config);
            let mut unread = Buffer::small();
            let count = socket.read(&mut unread.space()[..20]).unwrap();
            unread.fill(count);
            let transport =
                Transport::rustls_server(into_socket(socket), connection, unread, Refusal::NotPreferred);
            assert_eq!(read_count(&transport, 14).await, b"early and late");
            transport.close(Deadline::within(SECOND)).await;
        });
        client.join().unwrap();
    }
}

#[test]
fn a_plain_connection_reads_writes_and_ends() {
    for preference in [Preference::Auto, Preference::Epoll] {
        let (listener, port) = listen();
        let client = std::thread::spawn(move || {
            let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
            client.write_all(&pattern(100_000, 6)).unwrap();
            client.shutdown(std::net::Shutdown::Write).unwrap();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).unwrap();
            assert_eq!(hash(&answer), hash(&pattern(100_000, 6)));
        });
        run(preference, async {
            let transport = Transport::plain(into_socket(listener.accept().unwrap().0));
            let request = read_count(&transport, 100_000).await;
            assert_eq!(transport.read(&mut [0; 10]).await.unwrap(), 0);
            transport.write_all(&request, LONG).await.unwrap();
            assert!(transport.close(Deadline::within(LONG)).await);
        });
        client.join().unwrap();
    }
}

#[test]
fn a_transport_speaks_to_a_server_too() {
    let (config, client_config) = configs();
    for (maker, preference) in WAYS {
        let (listener, port) = listen();
        let config = config.clone();
        let server = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let connection = shake_hands(&mut socket, &config);
            let mut server = StreamOwned::new(connection, socket);
            let mut request = [0; 7];
            server.read_exact(&mut request).unwrap();
            server.write_all(&pattern(500_000, 7)).unwrap();
            server.conn.send_close_notify();
            server.flush().unwrap();
        });
        run(preference, async {
            let transport = connect_as(maker, port, &client_config).await;
            transport.write_all(b"request", LONG).await.unwrap();
            let answer = read_count(&transport, 500_000).await;
            assert_eq!(hash(&answer), hash(&pattern(500_000, 7)));
            assert_eq!(transport.read(&mut [0; 10]).await.unwrap(), 0);
        });
        server.join().unwrap();
    }
}

/// An endpoint may send as many as it likes, and each costs as much as a small record.
#[test]
fn tickets_without_end_end_the_connection_and_others_go_first() {
    let (config, client_config) = configs_of(&[&::rustls::version::TLS13]);
    let mut config = Arc::unwrap_or_clone(config);
    config.send_tls13_tickets = 0;
    let config = Arc::new(config);
    for (maker, preference) in WAYS {
        let (listener, port) = listen();
        let config = config.clone();
        let server = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let connection = shake_hands(&mut socket, &config);
            let _ = socket.write_all(&ticket_records(connection, 20_000));
        });
        run(preference, async {
            let transport = connect_as(maker, port, &client_config).await;
            let turns = Cell::new(0);
            let others = async {
                loop {
                    runtime::turn().await;
                    turns.set(turns.get() + 1);
                }
            };
            let mut space = [0; 10];
            let (read, others) = (pin!(transport.read(&mut space)), pin!(others));
            let Either::Left((result, _)) = select(read, others).await;
            let error = result.unwrap_err();
            assert_eq!(Cause::of(&error), Cause::LimitReached, "{maker:?}: {error}");
            // 512 KiB of them, 16 KiB or 64 a turn.
            assert!(
                maker == Maker::Sealed || turns.get() >= 8,
                "{} turns",
                turns.get()
            );
        });
        server.join().unwrap();
    }
}

/// One in each record, as rustls sends none. Those must be the first records under the server's key: the cipher of
/// AWS-LC has them numbered from 0.
fn ticket_records(connection: ServerConnection, count: u64) -> Vec<u8> {
    // Lifetime, age_add, nonce, ticket, no extensions.
    const TICKET: [u8; 20] = [4, 0, 0, 16, 0, 0, 0, 9, 1, 2, 3, 4, 1, 0, 0, 2, 7, 7, 0, 0];
    let Some(SupportedCipherSuite::Tls13(suite)) = connection.negotiated_cipher_suite() else {
        unreachable!("TLS 1.3 was asked for");
    };
    let (first, secrets) = connection.dangerous_extract_secrets().unwrap().tx;
    let mut encrypter = match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv }
        | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
        | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => suite.aead_alg.encrypter(key, iv),
        _ => unreachable!("there is no other suite"),
    };
    let records = (first..first + count).map(|number| {
        let ticket = OutboundPlainMessage {
            typ: ContentType::Handshake,
            version: ProtocolVersion::TLSv1_3,
            payload: OutboundChunks::Single(&TICKET),
        };
        encrypter.encrypt(ticket, number).unwrap().encode()
    });
    records.collect::<Vec<_>>().concat()
}

/// With TLS 1.2, where nothing can renew it, rustls would say goodbye and throw away what it is given.
#[test]
fn what_a_worn_key_does_not_carry_is_an_error_and_no_end_in_order() {
    let client = |mut client: Client| drop(read_to_end(&mut client).unwrap_err());
    serve_with(
        &[&::rustls::version::TLS12],
        client,
        &async |transport: Transport| {
            transport.wear_out_after(50);
            for sent in 0..50 {
                assert_eq!(transport.is_worn(), sent >= 25);
                transport.write_all(&[7; 1000], LONG).await.unwrap();
            }
            let error = transport.write_all(&[7], LONG).await.unwrap_err();
            assert_eq!(Cause::of(&error), Cause::KeyWornOut);
            assert!(!transport.close(Deadline::within(SECOND)).await);
        },
    );
}

/// Who makes the records of this side.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Maker {
    Rustls,
    Sealed,
}

const WAYS: [(Maker, Preference); 4] = [
    (Maker::Rustls, Preference::Auto),
    (Maker::Rustls, Preference::Epoll),
    (Maker::Sealed, Preference::Auto),
    (Maker::Sealed, Preference::Epoll),
];

/// Runs both ends of a connection, of each layer and on each driver.
fn serve(client: fn(Client), server: impl AsyncFn(Transport)) {
    for versions in [::rustls::ALL_VERSIONS, &[&::rustls::version::TLS12]] {
        serve_with(versions, client, &server);
    }
}

fn serve_with(
    versions: &[&'static SupportedProtocolVersion],
    client: fn(Client),
    server: &impl AsyncFn(Transport),
) {
    let (config, client_config) = configs_of(versions);
    for (maker, preference) in WAYS {
        let (listener, port) = listen();
        let client_config = client_config.clone();
        let thread = std::thread::spawn(move || client(connect(port, &client_config)));
        run(preference, async {
            let transport = accept(maker, &listener, &config).await;
            server(transport).await;
        });
        thread.join().unwrap();
    }
}

pub(super) fn run(preference: Preference, test: impl Future<Output = ()>) {
    runtime::start(preference, |_| async {
        before(Deadline::within(LONG), test).await.expect("in time");
    })
    .expect("a driver");
}

pub(super) fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

fn configs() -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    configs_of(::rustls::ALL_VERSIONS)
}

pub(super) fn configs_of(
    versions: &[&'static SupportedProtocolVersion],
) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    configs_with(default_provider(), versions)
}

pub(super) fn configs_of_suite(suite: SupportedCipherSuite) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let mut provider = default_provider();
    provider.cipher_suites = vec![suite];
    configs_with(provider, &[suite.version()])
}

fn configs_with(
    provider: CryptoProvider,
    versions: &[&'static SupportedProtocolVersion],
) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let provider = Arc::new(provider);
    let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
    let chain = vec![made.cert.der().clone()];
    let mut roots = RootCertStore::empty();
    roots.add(chain[0].clone()).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let mut server = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    server.ticketer = ::rustls::crypto::aws_lc_rs::Ticketer::new().unwrap();
    server.enable_secret_extraction = true;
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.enable_secret_extraction = true;
    (Arc::new(server), Arc::new(client))
}

pub(super) fn connect(port: u16, config: &Arc<ClientConfig>) -> Client {
    shake_over(TcpStream::connect(("127.0.0.1", port)).unwrap(), config)
}

pub(super) fn shake_over(mut socket: TcpStream, config: &Arc<ClientConfig>) -> Client {
    let name = ServerName::try_from("a.test").unwrap();
    let mut connection = ClientConnection::new(config.clone(), name).unwrap();
    while connection.is_handshaking() {
        connection.complete_io(&mut socket).unwrap();
    }
    StreamOwned::new(connection, socket)
}

/// Shakes hands, and sends `more` in one piece with the last of that.
fn connect_and_say(port: u16, config: &Arc<ClientConfig>, more: &[u8]) -> Client {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let name = ServerName::try_from("a.test").unwrap();
    let mut connection = ClientConnection::new(config.clone(), name).unwrap();
    loop {
        let mut flight = Vec::new();
        while connection.wants_write() {
            connection.write_tls(&mut flight).unwrap();
        }
        if !connection.is_handshaking() {
            socket.write_all(&[&flight, more].concat()).unwrap();
            return StreamOwned::new(connection, socket);
        }
        socket.write_all(&flight).unwrap();
        connection.read_tls(&mut socket).unwrap();
        connection.process_new_packets().unwrap();
    }
}

async fn connect_as(maker: Maker, port: u16, config: &Arc<ClientConfig>) -> Transport {
    if maker == Maker::Sealed {
        let socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let name = ServerName::try_from("a.test").unwrap();
        let sealed = Sealed::client(config.clone(), name).unwrap();
        return shake_sealed(into_socket(socket), sealed, never()).await.0;
    }
    let client = connect(port, config);
    Transport::rustls_client(
        into_socket(client.sock),
        client.conn,
        Buffer::none(),
        Refusal::NotPreferred,
    )
}

async fn accept(maker: Maker, listener: &TcpListener, config: &Arc<ServerConfig>) -> Transport {
    let (mut socket, _) = listener.accept().unwrap();
    if maker == Maker::Sealed {
        let sealed = Sealed::server(config.clone(), &[]).unwrap();
        return shake_sealed(into_socket(socket), sealed, never()).await.0;
    }
    let connection = shake_hands(&mut socket, config);
    Transport::rustls_server(
        into_socket(socket),
        connection,
        Buffer::none(),
        Refusal::NotPreferred,
    )
}

/// As `tls` does it: the last flight of TLS 1.3 is left to go with the first data.
pub(super) async fn shake_sealed(
    socket: Socket,
    mut sealed: Sealed,
    promotion: Promotion,
) -> (Transport, Option<HandshakeKind>) {
    while !sealed.shake().unwrap() {
        sealed.try_flush(&socket).unwrap();
        match sealed.fetch(&socket) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => socket.readable().await.unwrap(),
            result => result.unwrap(),
        }
    }
    if sealed.agreed().protocol_version() == Some(ProtocolVersion::TLSv1_2) {
        sealed.try_flush(&socket).unwrap();
    }
    let kind = sealed.agreed().handshake_kind();
    (Transport::sealed(socket, sealed, promotion), kind)
}

fn never() -> Promotion {
    Promotion {
        offload: Offload::assumed().into(),
        threshold: u64::MAX,
    }
}

/// The handshake and nothing after it, however soon the client goes on.
fn shake_hands(socket: &mut TcpStream, config: &Arc<ServerConfig>) -> ServerConnection {
    let mut connection = ServerConnection::new(config.clone()).unwrap();
    let mut records = Records { socket, left: 0 };
    while connection.is_handshaking() {
        connection.complete_io(&mut records).unwrap();
    }
    connection
}

/// A socket that gives a reader no bytes of two records at once.
struct Records<'a> {
    socket: &'a mut TcpStream,
    /// Of the record that has begun.
    left: usize,
}

impl Read for Records<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.left > 0 {
            let wanted = into.len().min(self.left);
            let count = self.socket.read(&mut into[..wanted])?;
            self.left -= count;
            return Ok(count);
        }
        let header = &mut into[..5];
        self.socket.read_exact(header)?;
        self.left = usize::from(u16::from_be_bytes([header[3], header[4]]));
        Ok(header.len())
    }
}

impl Write for Records<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

/// As [`accept`], with the tickets left in the connection.
fn accept_lazily(listener: &TcpListener, config: &Arc<ServerConfig>) -> Transport {
    let (mut socket, _) = listener.accept().unwrap();
    let mut connection = ServerConnection::new(config.clone()).unwrap();
    let mut records = Records {
        socket: &mut socket,
        left: 0,
    };
    while connection.is_handshaking() {
        while connection.wants_write() {
            connection.write_tls(&mut records).unwrap();
        }
        connection.read_tls(&mut records).unwrap();
        connection.process_new_packets().unwrap();
    }
    assert!(connection.wants_write());
    Transport::rustls_server(
        into_socket(socket),
        connection,
        Buffer::none(),
        Refusal::NotPreferred,
    )
}

pub(super) fn into_socket(socket: TcpStream) -> Socket {
    Socket::new(OwnedFd::from(socket)).unwrap()
}

pub(super) async fn read_count(transport: &Transport, count: usize) -> Vec<u8> {
    let mut received = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    while received.len() < count {
        let wanted = buffer.len().min(count - received.len());
        let got = transport.read(&mut buffer[..wanted]).await.unwrap();
        assert_ne!(got, 0, "an end after {} of {count} bytes", received.len());
        received.extend_from_slice(&buffer[..got]);
    }
    received
}

/// Sends and receives at once on one thread.
fn duplex(mut client: Client, send: &[u8], expect: usize) -> Vec<u8> {
    client.sock.set_nonblocking(true).unwrap();
    let mut received = Vec::new();
    let mut rest = send;
    let mut buffer = vec![0; 10_000];
    while received.len() < expect || !rest.is_empty() || client.conn.wants_write() {
        if client.conn.wants_write() {
            let _ = client.conn.write_tls(&mut client.sock);
        } else if !rest.is_empty() {
            let count = client
                .conn
                .writer()
                .write(&rest[..rest.len().min(20_000)])
                .unwrap();
            rest = &rest[count..];
        }
        if client.conn.read_tls(&mut client.sock).is_ok() {
            client.conn.process_new_packets().unwrap();
        }
        while let Ok(count @ 1..) = client.conn.reader().read(&mut buffer) {
            received.extend_from_slice(&buffer[..count]);
        }
    }
    received
}

pub(super) fn read_to_end(client: &mut Client) -> io::Result<Vec<u8>> {
    let mut received = Vec::new();
    client.read_to_end(&mut received)?;
    Ok(received)
}

/// Reads until the tickets have come, then says goodbye.
fn finish_quietly(mut client: Client) {
    while client.conn.tls13_tickets_received() == 0 {
        client.conn.read_tls(&mut client.sock).unwrap();
        client.conn.process_new_packets().unwrap();
    }
    client.conn.send_close_notify();
    client.flush().unwrap();
    let _ = read_to_end(&mut client);
}

/// Reads nothing and says nothing until the other end is gone.
fn await_reset(socket: &TcpStream) {
    let mut only_errors = [PollFd::new(socket, PollFlags::empty())];
    let reset = poll(&mut only_errors, Some(&LONG.try_into().unwrap()));
    assert_eq!(reset, Ok(1), "no reset came in time");
}

pub(super) fn set_tiny(socket: &TcpStream) {
    let socket = SockRef::from(socket);
    socket.set_recv_buffer_size(TINY_SOCKET).unwrap();
    socket.set_send_buffer_size(TINY_SOCKET).unwrap();
}

#[expect(clippy::disallowed_methods, reason = "a client in its own thread")]
pub(super) fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Bytes that differ by place and by seed.
pub(super) fn pattern(count: usize, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| random.u8(..)).take(count).collect()
}

pub(super) fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}
