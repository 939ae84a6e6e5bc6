//! Key updates of both sides, worn keys, and tickets that reach the kernel.

use super::*;

#[test]
fn a_key_update_in_mid_upload_is_followed_or_ends_it_by_name() {
    let Some(offload) = offload() else { return };
    let can_rekey = offload.can_rekey();
    for is_spliced in [false, true] {
        let client = move |mut client: Client| {
            client.write_all(&pattern(100_000, 4)).unwrap();
            client.conn.refresh_traffic_keys().unwrap();
            let _ = client.write_all(&pattern(100_000, 5));
            let told = client.flush().and_then(|()| read_to_end(&mut client));
            match told {
                Ok(answer) => assert_eq!(answer, b"thanks"),
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    assert!(error.to_string().contains("InternalError"), "{error}");
                }
                Err(_) => assert!(!can_rekey), // it was told while this side was still writing
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

/// Ways a body goes out.
#[derive(Clone, Copy, Debug)]
enum Way {
    Write,
    Splice,
    Sendfile,
}

#[test]
fn a_key_update_in_mid_download_is_answered_before_more_data_or_ends_it_by_name() {
    const BODY: usize = 2_000_000;
    let Some(offload) = offload() else { return };
    let can_rekey = offload.can_rekey();
    for way in [Way::Write, Way::Splice, Way::Sendfile] {
        let peer = move |peer: Peer| renew_in_mid_download(peer, BODY, can_rekey);
        with_peer(TLS_1_3, &offload, peer, async |ours: Transport| {
            SockRef::from(ours.socket())
                .set_send_buffer_size(32 * 1024)
                .unwrap();
            let download = async {
                let sent = download(&ours, way, pattern(BODY, 7)).await;
                if sent.is_err() {
                    // The peer is told by whoever reads, and what was on its way is not waited for.
                    ours.close(Deadline::within(SECOND)).await;
                }
                sent
            };
            let told = async {
                match can_rekey {
                    true => Ok(read_count(&ours, 11).await),
                    false => ours.read(&mut [0; 11]).await.map(|_| Vec::new()),
                }
            };
            let (sent, received) = futures_util::future::join(download, told).await;
            let carriage = ours.carriage();
            assert_eq!(carriage.key_updates_received.get(), 1);
            if can_rekey {
                sent.unwrap();
                assert_eq!(received.unwrap(), b"go onenough");
                assert_eq!(carriage.key_updates_sent.get(), 1);
                let uncopied = carriage.spliced.get() + carriage.sendfile.get();
                assert_eq!(uncopied > 0, !matches!(way, Way::Write), "{way:?}");
            } else {
                assert_eq!(cause_of(received), Cause::KeyUpdate);
                assert_eq!(cause_of(sent), Cause::KeyUpdate);
            }
        });
    }
}

/// Reads a download, and renews its keys in the middle of it.
fn renew_in_mid_download(mut peer: Peer, size: usize, can_rekey: bool) {
    set_tiny(&peer.socket);
    let mut received = peer.read(100_000);
    if !can_rekey {
        assert!(peer.send_record(HANDSHAKE, &[24, 0, 0, 1, 1]));
        peer.drain();
        return;
    }
    peer.update_keys(true);
    peer.send(b"go on");
    // Data that was on its way, then the answer, then data under the next key.
    loop {
        let (kind, bytes) = peer.record();
        if kind == Some(HANDSHAKE) {
            assert_eq!(bytes, [24, 0, 0, 1, 0]);
            break;
        }
        received.extend(bytes);
    }
    peer.follow_key_update();
    while received.len() < size {
        received.extend(peer.read(1));
    }
    assert_eq!(hash(&received), hash(&pattern(size, 7)));
    peer.send(b"enough");
}

/// Sends a body.
async fn download(ours: &Transport, way: Way, body: Vec<u8>) -> io::Result<()> {
    match way {
        Way::Write => ours.write_all(&body, LONG).await,
        Way::Splice => {
            let (listener, port) = listen();
            let origin = std::thread::spawn(move || {
                let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
                let _ = socket.write_all(&body);
            });
            let from = Transport::plain(into_socket(listener.accept().unwrap().0));
            let spliced = splice_all(&from, ours).await;
            drop(from);
            origin.join().unwrap();
            spliced
        }
        Way::Sendfile => {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&body).unwrap();
            sendfile_all(&file, ours, body.len()).await
        }
    }
}

#[test]
fn a_storm_of_key_updates_ends_by_name() {
    let Some(offload) = rekeying() else { return };
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
fn many_key_updates_with_data_between_are_followed() {
    let Some(offload) = rekeying() else { return };
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
        // Those of every key: updates, data in full records, close_notify.
        ours.count_records();
        let records = u64::from(ROUNDS) * (1 + PIECE as u64 / 16_384) + 1;
        assert_eq!(ours.carriage().records_received.get(), records);
        ours.close(Deadline::within(SECOND)).await;
    });
}

#[test]
fn a_worn_key_is_renewed_or_ends_the_connection_by_name() {
    let Some(offload) = offload() else { return };
    for versions in BOTH {
        let can_renew = offload.can_rekey() && versions == TLS_1_3;
        let client = move |mut client: Client| match read_to_end(&mut client) {
            Ok(answer) => assert_eq!((can_renew, answer.len()), (true, 100_000)),
            Err(error) => assert!(!can_renew, "{error}"),
        };
        with_rustls(versions, &offload, client, async |ours: Transport| {
            ours.wear_out_after(50);
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
            let told = key_update_comes(&ours, round).await;
            if !offload.can_rekey() {
                assert_eq!(cause_of(told), Cause::KeyUpdate);
                return;
            }
            told.unwrap();
            say("again\n");
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

/// Looks for so many in all, of which the driver need not tell.
async fn key_update_comes(ours: &Transport, count: u32) -> io::Result<()> {
    let deadline = Deadline::within(LONG);
    while ours.carriage().key_updates_received.get() < count {
        assert!(!deadline.passed(now()), "none has come");
        runtime::sleep(Duration::from_millis(5)).await;
        ours.socket().look_again();
        match ours.try_read(&mut [0; 10]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
            Ok(count) => panic!("{count} bytes that nobody has sent"),
        }
    }
    Ok(())
}

#[test]
fn a_key_update_behind_our_own_end_is_followed_and_not_answered() {
    let Some(offload) = rekeying() else { return };
    let peer = |mut peer: Peer| {
        assert_eq!(peer.record(), (Some(ALERT), CLOSE_NOTIFY.to_vec()));
        peer.update_keys(true);
        peer.send(b"still");
        pause(Duration::from_millis(50));
        peer.send(b"there");
        peer.send_record(ALERT, &CLOSE_NOTIFY);
        peer.drain();
    };
    with_peer(TLS_1_3, &offload, peer, async |ours: Transport| {
        ours.finish(LONG).await.unwrap();
        assert_eq!(read_count(&ours, 10).await, b"stillthere");
        assert_eq!(ours.read(&mut [0; 10]).await.unwrap(), 0);
        let carriage = ours.carriage();
        assert_eq!(carriage.key_updates_received.get(), 1);
        assert_eq!(carriage.key_updates_sent.get(), 0);
    });
}

#[test]
fn a_message_that_comes_byte_by_byte_is_not_waited_for() {
    let Some(offload) = offload() else { return };
    // One that may be long, and one that may not.
    for (versions, begins, cause) in [
        (TLS_1_2, [1, 0, 0xff, 0xff], Cause::LimitReached),
        (TLS_1_3, [24, 0, 0xff, 0xff], Cause::Malformed),
    ] {
        let peer = move |peer: Peer| {
            peer.send_record(HANDSHAKE, &begins);
            for _ in 0..1000 {
                if !peer.send_record(HANDSHAKE, &[0]) {
                    break;
                }
            }
            peer.drain();
        };
        with_peer(versions, &offload, peer, async |ours: Transport| {
            assert_eq!(cause_of(ours.read(&mut [0; 10]).await), cause);
            ours.count_records();
            let records = ours.carriage().records_received.get();
            assert!(records <= 40, "{records} records were read");
        });
    }
}

#[test]
fn nothing_new_is_begun_under_a_key_that_cannot_be_renewed() {
    let Some(offload) = offload() else { return };
    for versions in BOTH {
        let can_renew = offload.can_rekey() && versions == TLS_1_3;
        let client = |mut client: Client| drop(read_to_end(&mut client));
        with_rustls(versions, &offload, client, async |ours: Transport| {
            ours.wear_out_after(50);
            for sent in 0..40 {
                assert!(!ours.is_worn() || sent >= 20, "after {sent} records");
                ours.write_all(&[7; 1000], LONG).await.unwrap();
            }
            assert_eq!(ours.is_worn(), !can_renew);
            ours.close(Deadline::within(SECOND)).await;
        });
    }
}

/// The kernel takes it for one by its first byte, and then gives nothing more out.
#[test]
fn a_key_update_in_two_records_is_none() {
    let Some(offload) = offload() else { return };
    if !offload.can_rekey() {
        return; // it would be the end in any case
    }
    let peer = move |peer: Peer| {
        peer.send_record(HANDSHAKE, &[24, 0, 0]);
        peer.send_record(HANDSHAKE, &[1, 0]);
        peer.drain();
    };
    with_peer(TLS_1_3, &offload, peer, async |ours: Transport| {
        assert_eq!(cause_of(ours.read(&mut [0; 10]).await), Cause::Malformed);
    });
}
