//! WebSocket on a stream of HTTP/2 (RFC 8441), before endpoints that speak it over HTTP/1.1.

use std::io::{self, Read, Write};

use tungstenite::protocol::Role;
use tungstenite::{Message, WebSocket};

use super::websocket::repeats;
use super::{MEMORY_KIB_MAX, PLAIN, TLS};
use crate::support::frames::{
    CANCEL, CONNECT_ERROR, DATA, ENABLE_CONNECT_PROTOCOL, END_STREAM, Got, Http2, PREFACE, RST_STREAM,
    SETTINGS, WINDOW_UPDATE, frame,
};
use crate::support::{Atlas, Digest, Origin, Then, atlas, noise, origin, wait_until};

/// The fields of an extended CONNECT.
fn connect<'f>(path: &'f str, more: &[(&'f str, &'f str)]) -> Vec<(&'f str, &'f str)> {
    let mut fields = vec![
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "https"),
        (":authority", "a.test"),
        (":path", path),
        ("sec-websocket-version", "13"),
        ("origin", "https://a.test"),
    ];
    fields.extend(more);
    fields
}

fn http2(atlas: &Atlas, listener: usize) -> Http2 {
    let mut http2 = atlas.http2_silent(listener);
    http2.send(PREFACE);
    http2.send(frame(SETTINGS, 0, 0, b""));
    http2.until("its settings come", |http2| {
        http2
            .settings
            .contains_key(&ENABLE_CONNECT_PROTOCOL)
            .then_some(())
    });
    assert_eq!(http2.settings[&ENABLE_CONNECT_PROTOCOL], 1);
    http2
}

/// The head of the answer.
fn agreed(http2: &mut Http2, stream: u32) -> Got {
    http2.until("the CONNECT is answered", |http2| {
        let got = http2.so_far(stream);
        (!got.blocks.is_empty() || got.reset.is_some()).then_some(got)
    })
}

/// A stream that has become a tunnel, as a program sees it.
struct Tunnel {
    http2: Http2,
    stream: u32,
    sent: usize,
    came: Vec<u8>,
}

impl Tunnel {
    fn open(atlas: &Atlas, listener: usize) -> Self {
        let mut http2 = http2(atlas, listener);
        let stream = http2.begin(&connect("/chat?x=1", &[]), false);
        let got = agreed(&mut http2, stream);
        assert_eq!(got.status(), 200, "{got:?}");
        for name in ["sec-websocket-accept", "upgrade", "connection", "content-length"] {
            assert_eq!(got.field(name), None, "{got:?}");
        }
        Self {
            http2,
            stream,
            sent: 0,
            came: Vec::new(),
        }
    }

    fn has_ended(&self) -> bool {
        let got = self.http2.so_far(self.stream);
        got.has_ended || got.reset.is_some()
    }

    fn finish(&mut self) {
        self.http2.send(frame(DATA, END_STREAM, self.stream, b""));
    }
}

impl Read for Tunnel {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.came.is_empty() {
            self.came = self.http2.take_body(self.stream);
            if self.came.is_empty() && (self.has_ended() || !self.http2.read_frame()) {
                return Ok(0);
            }
        }
        let count = self.came.len().min(into.len());
        into[..count].copy_from_slice(&self.came[..count]);
        self.came.drain(..count);
        Ok(count)
    }
}

impl Write for Tunnel {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        loop {
            let room = self
                .http2
                .room(self.stream, self.sent)
                .min(from.len())
                .min(16_384);
            if room > 0 {
                self.http2.send(frame(DATA, 0, self.stream, &from[..room]));
                self.sent += room;
                return Ok(room);
            }
            if !self.http2.read_frame() {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn in_front_of(origin: &Origin) -> Atlas {
    atlas()
        .listens_plain()
        .listens_tls("a.test")
        .forwards_to(origin)
        .start()
}

fn socket(atlas: &Atlas, listener: usize) -> WebSocket<Tunnel> {
    WebSocket::from_raw_socket(Tunnel::open(atlas, listener), Role::Client, None)
}

#[test]
fn messages_pass_both_ways_until_both_have_closed() {
    let origin = repeats(origin());
    let atlas = in_front_of(&origin);
    for listener in [PLAIN, TLS] {
        let mut socket = socket(&atlas, listener);
        for size in [0, 1, 125, 65_536, 1 << 20, 0] {
            let bytes = noise(size);
            socket.send(Message::binary(bytes.clone())).unwrap();
            assert!(socket.read().unwrap() == Message::binary(bytes), "{size} bytes");
        }
        socket.close(None).unwrap();
        while socket.read().is_ok() {}
        let tunnel = socket.get_mut();
        tunnel.finish();
        let (stream, http2) = (tunnel.stream, &mut tunnel.http2);
        let got = http2.answer(stream);
        assert!(got.has_ended && got.reset.is_none(), "{got:?}");
        // The connection goes on.
        assert_eq!(agreed_again(http2), 200);
        let record = atlas.record("the tunnel", |record| record["bytes_in"].as_u64() > Some(1 << 20));
        assert_eq!(
            (&record["status"], &record["cause"]),
            (&200.into(), &"finished".into()),
            "{record}"
        );
    }
    wait_until("all are freed", || {
        (origin.open() == 0 && atlas.metric("atlas_tunnels_open", &[]) == 0.0).then_some(())
    });
}

fn agreed_again(http2: &mut Http2) -> u16 {
    let stream = http2.begin(&connect("/again", &[]), false);
    let status = agreed(http2, stream).status();
    http2.send(frame(RST_STREAM, 0, stream, CANCEL.to_be_bytes()));
    status
}

#[test]
fn sixteen_mebibytes_each_way_keep_their_hash_in_bounded_memory() {
    let origin = repeats(origin());
    let atlas = in_front_of(&origin);
    let mut socket = socket(&atlas, TLS);
    let (mut sent, mut came) = (Digest::new(), Digest::new());
    let mut bytes = noise(1 << 20);
    for round in 0..16_u8 {
        bytes[0] = round;
        sent.update(&bytes);
        socket.send(Message::binary(bytes.clone())).unwrap();
        came.update(&socket.read().unwrap().into_data());
    }
    assert_eq!(came.hex(), sent.hex());
    assert!(
        atlas.memory_peak_kib() < MEMORY_KIB_MAX,
        "{}",
        atlas.memory_peak_kib()
    );
}

#[test]
fn the_endpoint_is_asked_as_over_http1() {
    let origin = origin()
        .handles("/chat", |exchange| {
            exchange.answer(403, &[("X-Why", "no")], b"not you")
        })
        .start();
    let atlas = in_front_of(&origin);
    let mut http2 = http2(&atlas, TLS);
    let fields = [
        ("sec-websocket-protocol", "chat, superchat"),
        ("sec-websocket-extensions", "permessage-deflate"),
        ("sec-websocket-key", "bm90IHRoZSBjbGllbnQncw=="), // which a client of HTTP/2 has none of
        ("cookie", "a=1"),
        ("cookie", "b=2"),
    ];
    let stream = http2.begin(&connect("/chat?x=1", &fields), false);
    let got = http2.answer(stream);
    assert_eq!(
        (got.status(), got.field("x-why"), &got.text()[..]),
        (403, Some("no"), "not you")
    );
    let seen = origin.request().head;
    assert_eq!((seen.word(0), seen.word(1)), ("GET", "/chat?x=1"));
    for (name, value) in [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-protocol", "chat, superchat"),
        ("sec-websocket-extensions", "permessage-deflate"),
        ("origin", "https://a.test"),
        ("host", "a.test"),
        ("cookie", "a=1; b=2"),
    ] {
        assert_eq!(seen.all(name), [value], "{name}");
    }
    let keys = seen.all("sec-websocket-key");
    assert!(
        keys.len() == 1 && keys[0].len() == 24 && keys[0] != fields[2].1,
        "{keys:?}"
    );
    assert_eq!(seen.field("content-length"), None);
    assert_eq!(seen.field("transfer-encoding"), None);
}

#[test]
fn what_is_no_agreement_opens_no_tunnel() {
    let switches = "HTTP/1.1 101 x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n";
    let wrong_key = format!("{switches}Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n");
    let origin = origin()
        .sends("/wrong", wrong_key, Then::Close)
        .sends("/without", format!("{switches}\r\n"), Then::Close)
        .sends(
            "/ok",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
            Then::Keep,
        )
        .sends("/no-content", "HTTP/1.1 204 None\r\n\r\n", Then::Keep)
        .sends(
            "/elsewhere",
            "HTTP/1.1 302 x\r\nLocation: /ok\r\nContent-Length: 0\r\n\r\n",
            Then::Keep,
        )
        .start();
    let atlas = atlas()
        .listens_plain()
        .file("www/chat", "a file")
        .text("[[route]]\npath = \"/files\"\nfiles = \"www\"\nstrip_prefix = true")
        .text("[[route]]\npath = \"/said\"\nrespond = 200")
        .forwards_to(&origin)
        .start();
    let mut http2 = http2(&atlas, 0);
    for (path, expected) in [
        ("/wrong", 502),
        ("/without", 502),
        ("/ok", 502),
        ("/no-content", 502),
        ("/elsewhere", 302),
        ("/files/chat", 405),
        ("/said", 405),
    ] {
        let stream = http2.begin(&connect(path, &[]), false);
        let got = http2.answer(stream);
        assert_eq!(got.status(), expected, "{path}: {got:?}");
    }
    // With a length it would be a request with a body.
    let stream = http2.begin(&connect("/ok", &[("content-length", "0")]), false);
    assert_eq!(http2.answer(stream).status(), 400);
}

#[test]
fn what_is_said_before_the_answer_and_behind_the_end_arrives() {
    let origin = origin()
        .raw(|mut stream| {
            // It reads the handshake by itself, agrees late, and says all again when the client has ended.
            let Ok(mut socket) = tungstenite::accept(&mut stream) else {
                return;
            };
            let mut said = Vec::new();
            let _ = socket.get_mut().read_to_end(&mut said);
            let _ = socket.get_mut().write_all(&said);
            stream.finish();
        })
        .start();
    let atlas = in_front_of(&origin);
    for listener in [PLAIN, TLS] {
        let mut http2 = http2(&atlas, listener);
        let stream = http2.begin(&connect("/", &[]), false);
        http2.send(frame(DATA, 0, stream, b"early, "));
        http2.send(frame(DATA, END_STREAM, stream, b"and all"));
        let got = http2.answer(stream);
        assert_eq!(
            (got.status(), &got.text()[..], got.reset),
            (200, "early, and all", None)
        );
    }
}

#[test]
fn whoever_breaks_off_breaks_the_other_off() {
    let origin = repeats(origin());
    let atlas = in_front_of(&origin);
    // The client resets its stream: the endpoint's connection goes, the client's stays.
    let mut tunnel = Tunnel::open(&atlas, TLS);
    wait_until("the endpoint is there", || (origin.open() == 1).then_some(()));
    let reset = frame(RST_STREAM, 0, tunnel.stream, CANCEL.to_be_bytes());
    tunnel.http2.send(reset);
    wait_until("the endpoint is let go", || (origin.open() == 0).then_some(()));
    assert_eq!(agreed_again(&mut tunnel.http2), 200);
    wait_until("the other is let go as well", || {
        (origin.open() == 0).then_some(())
    });
}

#[test]
fn an_endpoint_that_breaks_off_is_told_by_its_name() {
    let origin = origin()
        .raw(|mut stream| {
            if let Ok(mut socket) = tungstenite::accept(&mut stream) {
                let _ = socket.read();
                drop(socket);
                rustix::net::connect_unspec(stream.tcp()).expect("a connection can be taken apart");
            }
        })
        .start();
    let atlas = in_front_of(&origin);
    let mut socket = socket(&atlas, TLS);
    socket.send(Message::text("go")).unwrap();
    let tunnel = socket.get_mut();
    let got = tunnel.http2.answer(tunnel.stream);
    // RFC 9113 §8.5 has a word for that.
    assert_eq!(
        (got.reset, got.has_ended),
        (Some(CONNECT_ERROR), false),
        "{got:?}"
    );
    let record = atlas.record("its end", |record| record["side"] == "upstream");
    assert_eq!(
        (&record["phase"], &record["cause"]),
        (&"relay".into(), &"reset".into()),
        "{record}"
    );
}

#[test]
fn a_tunnel_that_is_not_read_holds_no_other_up() {
    let origin = origin()
        .raw(|mut stream| {
            let Ok(mut socket) = tungstenite::accept(&mut stream) else {
                return;
            };
            let first = socket.read();
            if first.is_ok_and(|message| message == Message::text("flood")) {
                // As long as it is taken.
                while socket.get_mut().write_all(&[0; 65_536]).is_ok() {}
            } else {
                let _ = socket.send(Message::text("calm"));
            }
        })
        .start();
    let atlas = in_front_of(&origin);
    let mut flooded = socket(&atlas, PLAIN);
    flooded.send(Message::text("flood")).unwrap();
    let tunnel = flooded.get_mut();
    let stream = tunnel.stream;
    // What comes is taken for the connection's window, but not for the stream's.
    tunnel.http2.reads = false;
    tunnel.http2.until("the stream's window is full", |http2| {
        (http2.so_far(stream).body.len() >= 65_535).then_some(())
    });
    tunnel
        .http2
        .send(frame(WINDOW_UPDATE, 0, 0, 1_000_000_u32.to_be_bytes()));
    let other = tunnel.http2.begin(&connect("/", &[]), false);
    assert_eq!(agreed(&mut tunnel.http2, other).status(), 200);
    tunnel
        .http2
        .send(frame(DATA, 0, other, [0x81, 0x82, 0, 0, 0, 0, b'h', b'i']));
    tunnel.http2.until("the other is answered", |http2| {
        (http2.so_far(other).body == b"\x81\x04calm").then_some(())
    });
    assert!(
        atlas.memory_peak_kib() < MEMORY_KIB_MAX,
        "{}",
        atlas.memory_peak_kib()
    );
}

#[test]
fn a_tunnel_in_which_nothing_moves_is_ended() {
    let origin = repeats(origin());
    let atlas = atlas()
        .listens_plain()
        .text("[timeouts]\ntunnel = \"1s\"")
        .forwards_to(&origin)
        .start();
    let mut tunnel = Tunnel::open(&atlas, 0);
    let stream = tunnel.stream;
    let got = tunnel.http2.answer(stream);
    assert!(got.reset.is_some() && !got.has_ended, "{got:?}");
    let record = atlas.record("its end", |record| record["kind"] == "exchange");
    assert_eq!(
        (&record["side"], &record["cause"]),
        (&"atlas".into(), &"idle".into()),
        "{record}"
    );
    wait_until("the endpoint is let go", || (origin.open() == 0).then_some(()));
}

#[test]
fn a_tunnel_in_which_one_side_speaks_stays_open() {
    const MESSAGES: usize = 13;
    let pause = || std::thread::sleep(std::time::Duration::from_millis(500)); // all of them take longer than the timeout
    let origin = origin()
        .raw(move |stream| {
            let Ok(mut socket) = tungstenite::accept(stream) else {
                return;
            };
            for _ in 0..MESSAGES {
                pause();
                if socket.send(Message::text("tick")).is_err() {
                    return;
                }
            }
            while socket.read().is_ok() {}
        })
        .start();
    let atlas = atlas()
        .listens_plain()
        .text("[timeouts]\ntunnel = \"6s\"")
        .forwards_to(&origin)
        .start();
    let mut socket = socket(&atlas, 0);
    for at in 0..MESSAGES {
        assert_eq!(
            socket.read().ok(),
            Some(Message::text("tick")),
            "it was cut after {at}"
        );
    }
    // The client's turn, while the endpoint says nothing.
    for at in 0..MESSAGES {
        pause();
        assert!(
            socket.send(Message::text("tock")).is_ok(),
            "it was cut after {at}"
        );
    }
    let tunnel = socket.get_mut();
    tunnel.http2.round_trip();
    assert!(!tunnel.has_ended());
}
