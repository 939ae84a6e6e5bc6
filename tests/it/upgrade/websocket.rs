//! WebSocket by a library that others use, on both sides of Atlas.

use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tungstenite::{Error, Message, WebSocket};

use super::{MEMORY_KIB_MAX, PLAIN, TLS};
use crate::support::carrier;
use crate::support::client::Stream;
use crate::support::{Atlas, Digest, Origin, atlas, ca, cert, noise, origin, wait_until};

/// Says every message again, and tells of nothing else.
pub(super) fn repeats(builder: origin::Builder) -> Origin {
    builder
        .raw(|stream| {
            let Ok(mut socket) = tungstenite::accept(stream) else {
                return;
            };
            while let Ok(message) = socket.read() {
                if (message.is_text() || message.is_binary()) && socket.send(message).is_err() {
                    return;
                }
            }
        })
        .start()
}

/// A listener without TLS and one with it, in front of an origin without TLS or with it.
fn in_front_of(origin: &Origin, has_tls: bool) -> Atlas {
    let lines = match has_tls {
        true => "tls = { ca = \"ca.pem\", server_name = \"inner.test\" }",
        false => "",
    };
    atlas()
        .file("ca.pem", ca().pem())
        .listens_plain()
        .listens_tls("a.test")
        .forwards_to_with(origin, lines)
        .start()
}

fn connect(atlas: &Atlas, listener: usize) -> WebSocket<Stream> {
    let stream = atlas.connect_to(listener).into_stream();
    let (socket, response) = tungstenite::client("ws://a.test/chat?x=1", stream).expect("it is accepted");
    assert!(response.headers().contains_key("sec-websocket-accept"));
    socket
}

/// On either listener, before origins without TLS and with it.
fn on_all_ways(test: impl Fn(&Atlas, usize)) {
    for has_tls in [false, true] {
        let origin = match has_tls {
            true => repeats(origin().tls(cert(&["inner.test"]))),
            false => repeats(origin()),
        };
        let atlas = in_front_of(&origin, has_tls);
        for listener in [PLAIN, TLS] {
            test(&atlas, listener);
        }
        wait_until("every connection is freed", || (origin.open() == 0).then_some(()));
    }
}

#[test]
fn messages_of_many_sizes_come_back_as_they_were() {
    on_all_ways(|atlas, listener| {
        let mut socket = connect(atlas, listener);
        for size in [0, 1, 125, 126, 127, 128, 65_535, 65_536, 65_537, 1 << 20, 1, 0] {
            let bytes = noise(size);
            socket.send(Message::binary(bytes.clone())).unwrap();
            assert!(socket.read().unwrap() == Message::binary(bytes), "{size} bytes");
            let text = "ä€𝄞x".repeat(size / 8);
            socket.send(Message::text(text.clone())).unwrap();
            assert!(
                socket.read().unwrap() == Message::text(text),
                "{size} bytes of text"
            );
        }
        socket.close(None).unwrap();
        while socket.read().is_ok() {}
    });
}

#[test]
fn pings_pass_and_fragments_stay_fragments() {
    on_all_ways(|atlas, listener| {
        let mut socket = connect(atlas, listener);
        for payload in [&b""[..], b"hello", &[0xff; 125]] {
            socket.send(Message::Ping(payload.to_vec().into())).unwrap();
            assert_eq!(socket.read().unwrap(), Message::Pong(payload.to_vec().into()));
        }
        let part = |kind, bytes: &str, is_last| {
            let frame = Frame::message(bytes.as_bytes().to_vec(), OpCode::Data(kind), is_last);
            Message::Frame(frame)
        };
        socket.send(part(Data::Text, "one, ", false)).unwrap();
        socket.send(part(Data::Continue, "two, ", false)).unwrap();
        // A control frame may stand between them.
        socket.send(Message::Ping(b"now".to_vec().into())).unwrap();
        assert_eq!(socket.read().unwrap(), Message::Pong(b"now".to_vec().into()));
        socket.send(part(Data::Continue, "three", true)).unwrap();
        assert_eq!(socket.read().unwrap(), Message::text("one, two, three"));
        for _ in 0..2000 {
            socket.write(part(Data::Binary, "", false)).unwrap();
            socket.write(part(Data::Continue, "x", true)).unwrap();
        }
        socket.flush().unwrap();
        for _ in 0..2000 {
            assert_eq!(socket.read().unwrap(), Message::binary(&b"x"[..]));
        }
    });
}

#[test]
fn close_codes_and_reasons_pass_either_way() {
    let codes = [
        1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999,
    ];
    let origin = origin()
        .raw(|stream| {
            let Ok(mut socket) = tungstenite::accept(stream) else {
                return;
            };
            // A number asks for a close by that code.
            while let Ok(message) = socket.read() {
                if let Message::Text(text) = message {
                    let frame = CloseFrame {
                        code: CloseCode::from(text.parse::<u16>().unwrap()),
                        reason: "as you wish".into(),
                    };
                    socket.close(Some(frame)).unwrap();
                }
            }
        })
        .start();
    let atlas = in_front_of(&origin, false);
    for listener in [PLAIN, TLS] {
        for code in codes {
            let mut socket = connect(&atlas, listener);
            socket.send(Message::text(code.to_string())).unwrap();
            let Message::Close(Some(frame)) = socket.read().unwrap() else {
                panic!("a close frame");
            };
            assert_eq!(
                (u16::from(frame.code), frame.reason.as_str()),
                (code, "as you wish")
            );
            while socket.read().is_ok() {}

            let mut socket = connect(&atlas, listener);
            let frame = CloseFrame {
                code: CloseCode::from(code),
                reason: "enough".into(),
            };
            socket.close(Some(frame)).unwrap();
            let Message::Close(Some(frame)) = socket.read().unwrap() else {
                panic!("a close frame");
            };
            assert_eq!(u16::from(frame.code), code);
            assert!(matches!(socket.read(), Err(Error::ConnectionClosed)));
        }
    }
    wait_until("all are freed", || (origin.open() == 0).then_some(()));
}

#[test]
fn sixty_four_mebibytes_each_way_keep_their_hash_in_bounded_memory() {
    on_all_ways(|atlas, listener| {
        let mut socket = connect(atlas, listener);
        let (mut sent, mut came) = (Digest::new(), Digest::new());
        let mut bytes = noise(1 << 20);
        for round in 0..64_u8 {
            bytes[0] = round;
            sent.update(&bytes);
            socket.send(Message::binary(bytes.clone())).unwrap();
            came.update(&socket.read().unwrap().into_data());
        }
        assert_eq!(came.hex(), sent.hex());
        socket.close(None).unwrap();
        while socket.read().is_ok() {}
        assert!(
            atlas.memory_peak_kib() < MEMORY_KIB_MAX,
            "{}",
            atlas.memory_peak_kib()
        );
    });
}

#[test]
fn a_tunnel_that_carries_much_moves_into_the_kernel_amid_it() {
    let lines = "prefer_ktls = true"; // with the threshold that is there by itself
    let origin = repeats(origin());
    let atlas = atlas()
        .listens_tls("a.test")
        .tls_lines(lines)
        .forwards_to(&origin)
        .start();
    let bytes = noise(1 << 20);
    for (rounds, is_large) in [(100, false), (64, true)] {
        let mut socket = connect(&atlas, PLAIN);
        let message = if is_large { &bytes[..] } else { &bytes[..100] };
        for _ in 0..rounds {
            socket.send(Message::binary(message.to_vec())).unwrap();
            assert!(socket.read().unwrap().into_data() == message);
        }
        socket.close(None).unwrap();
        while socket.read().is_ok() {}
        drop(socket);
        let record = atlas.record("its exchange", |record| {
            record["status"] == 101 && (record["bytes_in"].as_u64() > Some(1 << 20)) == is_large
        });
        let said = (record["carrier"].as_str().unwrap(), record["refusal"].as_str());
        assert_eq!(said, carrier::expected(lines, is_large), "{record}");
        let is_spliced = record["bytes_spliced"].as_u64() > Some(0);
        assert_eq!(is_spliced, said.0 == "kernel", "{record}");
    }
}

#[test]
fn the_fields_of_the_handshake_pass_unchanged() {
    let origin = origin()
        .handles("/chat", |exchange| {
            exchange.answer(403, &[("Sec-WebSocket-Version", "13, 8")], b"no")
        })
        .start();
    let atlas = in_front_of(&origin, false);
    let fields = [
        ("Connection", "keep-alive, Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Protocol", "chat, superchat"),
        (
            "Sec-WebSocket-Extensions",
            "permessage-deflate; client_max_window_bits",
        ),
        ("Origin", "https://a.test"),
    ];
    let mut client = atlas.connect_to(TLS);
    let answer = client.request("GET", "/chat", &fields, b"");
    assert_eq!(
        (answer.status, answer.field("sec-websocket-version")),
        (403, Some("13, 8"))
    );
    let seen = origin.request().head;
    for (name, value) in &fields[1..] {
        assert_eq!(seen.all(name), [*value], "{name}");
    }
    assert_eq!(seen.all("connection"), ["upgrade"]);
    assert_eq!(seen.field("x-forwarded-proto"), Some("https"));
}

/// Frames as RFC 6455 §5.2 lays them out, masked with zeros: bit for bit what is wanted, right or not.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).expect("they are short here");
    assert!(length < 126);
    [&[first, 0x80 | length, 0, 0, 0, 0], payload].concat()
}

/// First bytes and payloads.
type Frames = &'static [(u8, &'static [u8])];

/// What a proxy could spoil, by the groups of the Autobahn test suite: it must not look into any.
#[rustfmt::skip]
const FRAMES: &[(&str, Frames)] = &[
    ("1 text and binary", &[(0x81, b"hello"), (0x82, b"\0\xff")]),
    ("2 pings with and without payload, and a pong nobody asked for", &[(0x89, b""), (0x89, b"x"), (0x8a, b"y")]),
    ("3 reserved bits", &[(0xc1, b"a"), (0xa1, b"b"), (0x91, b"c"), (0xf1, b"d")]),
    ("4 reserved opcodes", &[(0x83, b""), (0x87, b"x"), (0x8b, b""), (0x8f, b"y")]),
    ("5 fragments, and control frames that are", &[(0x01, b"a"), (0x80, b"b"), (0x09, b"c"), (0x80, b"d")]),
    ("6 text that is not UTF-8", &[(0x81, b"\xce\xba\xe1\xbd"), (0x81, b"\xed\xa0\x80")]),
    ("7 closes of every kind", &[(0x88, b""), (0x88, b"\x03"), (0x88, b"\x03\xe8ok"), (0x88, b"\x03\xed"), (0x81, b"after")]),
    ("10 many small ones", &[(0x82, b"1"), (0x82, b"2"), (0x82, b"3"), (0x82, b"4"), (0x82, b"5")]),
    ("12 and 13 compressed", &[(0xc1, b"\xf2\x48\xcd\xc9\xc9\x07\x00"), (0xc2, b"\x02\x00")]),
];

#[test]
fn frames_pass_bit_for_bit_however_they_are_cut() {
    let origin = super::echoes("");
    let atlas = super::in_front_of(&origin, "");
    for (name, frames) in FRAMES {
        let all: Vec<u8> = frames
            .iter()
            .flat_map(|(first, payload)| frame(*first, payload))
            .collect();
        for listener in [PLAIN, TLS] {
            for size in [1, 2, 7, all.len()] {
                let mut client = super::switched(&atlas, listener);
                for piece in all.chunks(size) {
                    client.send(piece);
                }
                assert!(
                    client.read_exactly(all.len()) == all,
                    "{name} in pieces of {size}"
                );
            }
        }
    }
}

#[test]
fn four_hundred_sockets_talk_beside_each_other() {
    let origin = repeats(origin());
    let atlas = in_front_of(&origin, false);
    // As many as a slow guest can serve before its origin gives up on the first.
    let listener = |at| if at % 10 == 0 { TLS } else { PLAIN };
    let mut sockets: Vec<_> = (0..400).map(|at| connect(&atlas, listener(at))).collect();
    for round in 0..3 {
        for (at, socket) in sockets.iter_mut().enumerate() {
            socket.send(Message::text(format!("{round} {at}"))).unwrap();
        }
        for (at, socket) in sockets.iter_mut().enumerate() {
            assert_eq!(socket.read().unwrap(), Message::text(format!("{round} {at}")));
        }
    }
    assert_eq!(atlas.metric("atlas_tunnels_open", &[]), 400.0);
    drop(sockets);
    wait_until("all are freed", || {
        (origin.open() == 0 && atlas.metric("atlas_tunnels_open", &[]) == 0.0).then_some(())
    });
}
