//! Key updates of both sides, worn keys, and tickets that reach the kernel.

use super::*;

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
