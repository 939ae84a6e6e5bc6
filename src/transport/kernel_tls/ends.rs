//! How connections end, in order or by name: alerts, FINs, resets, and records that are not good.

use super::*;

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
        // The kernel would take it.
        for _ in 0..3 {
            assert_eq!(cause_of(ours.try_write(&[0; 50_000])), Cause::Reset);
        }
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
        (too_long, Cause::RecordTooLong, 22),
        (plain, Cause::NotTls, 10),
    ];
    for versions in BOTH {
        for (bytes, cause, alert) in &cases {
            for (is_spliced, is_late) in [(false, false), (true, false), (false, true)] {
                let (bytes, alert) = (bytes.clone(), *alert);
                let client = move |mut client: Client| {
                    let mut wire = Vec::new();
                    client.conn.writer().write_all(b"good").unwrap();
                    client.conn.write_tls(&mut wire).unwrap();
                    if is_late {
                        // The other side waits by then; of a record that is none by its header the
                        // kernel tells it by an error alone.
                        client.sock.write_all(&wire).unwrap();
                        wire.clear();
                        pause(Duration::from_millis(30));
                    }
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
                    assert_eq!(cause_of(result), *cause, "spliced: {is_spliced}, late: {is_late}");
                    assert_eq!(cause_of(ours.read(&mut [0; 100]).await), *cause, "it stays");
                    assert_eq!(cause_of(ours.try_write(b"x")), *cause);
                    ours.close(Deadline::within(SECOND)).await;
                });
            }
        }
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
    fn new(secrets: ::rustls::ExtractedSecrets) -> Self {
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
