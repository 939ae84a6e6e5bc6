//! An endpoint of HTTP/2 as the tests play it: frames byte by byte, none of them checked on the way out.

use std::io::{Read, Write};

use crate::support::frames::*;
use crate::support::origin::Stream;
use crate::support::{Origin, origin};

/// A connection that Atlas has opened.
pub struct Session {
    stream: Stream,
    decoder: loona_hpack::Decoder<'static>,
    /// Which one it is, from 0.
    pub number: usize,
    /// Frames other than those of [`Self::request`], as they came.
    pub came: Vec<(u8, u8, u32, Vec<u8>)>,
    /// Answers PINGs.
    pub answers: bool,
}

/// An endpoint whose connections are handed to a function once both sides have said their preface.
pub fn plays(script: impl Fn(&mut Session) + Send + Sync + 'static) -> Origin {
    plays_with(&[], script)
}

/// The same with settings.
pub fn plays_with(settings: &[(u16, u32)], script: impl Fn(&mut Session) + Send + Sync + 'static) -> Origin {
    plays_over(origin(), settings, script)
}

/// The same over TLS of one's own.
pub fn plays_over(
    origin: origin::Builder,
    settings: &[(u16, u32)],
    script: impl Fn(&mut Session) + Send + Sync + 'static,
) -> Origin {
    let settings: Vec<u8> = settings
        .iter()
        .flat_map(|(id, value)| setting(*id, *value))
        .collect();
    let count = std::sync::atomic::AtomicUsize::new(0);
    origin
        .raw(move |stream| {
            let number = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let mut session = Session {
                stream,
                decoder: loona_hpack::Decoder::new(),
                number,
                came: Vec::new(),
                answers: true,
            };
            let mut preface = [0; 24];
            if session.stream.read_exact(&mut preface).is_ok() {
                assert_eq!(preface, PREFACE);
                session.send(frame(SETTINGS, 0, 0, &settings));
                script(&mut session);
                session.stream.finish();
            }
        })
        .start()
}

impl Session {
    /// Sends bytes as they are; whether Atlas still takes them.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).is_ok()
    }

    /// Sends a TLS record that no key opens.
    pub fn damage(&self) {
        let record = [&[23, 3, 3, 0, 32][..], &[0; 32]].concat();
        let _ = self.stream.tcp().write_all(&record);
    }

    /// The next frame; `None` at the end of the connection.
    pub fn frame(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let mut header = [0; 9];
        self.stream.read_exact(&mut header).ok()?;
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
        let mut payload = vec![0; length as usize];
        self.stream.read_exact(&mut payload).ok()?;
        let (kind, flags) = (header[3], header[4]);
        let stream = u32::from_be_bytes([header[5], header[6], header[7], header[8]]);
        match kind {
            SETTINGS if flags & ACK == 0 => {
                self.send(frame(SETTINGS, ACK, 0, b""));
            }
            PING if flags & ACK == 0 && self.answers => {
                self.send(frame(PING, ACK, 0, &payload));
            }
            _ => {}
        }
        Some((kind, flags, stream, payload))
    }

    /// The next request's stream and fields; `None` at the end of the connection.
    pub fn request(&mut self) -> Option<(u32, Vec<(String, String)>)> {
        loop {
            let (kind, flags, stream, payload) = self.frame()?;
            if kind == HEADERS {
                let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("fields are text");
                let fields = self.decoder.decode(&payload).expect("the block is good");
                let fields = fields.into_iter();
                return Some((
                    stream,
                    fields.map(|(name, value)| (text(name), text(value))).collect(),
                ));
            }
            self.came.push((kind, flags, stream, payload));
        }
    }

    /// Reads frames until one is as wanted; false at the end of the connection.
    pub fn until(&mut self, is: impl Fn(u8, u8, u32) -> bool) -> bool {
        while let Some((kind, flags, stream, payload)) = self.frame() {
            let found = is(kind, flags, stream);
            self.came.push((kind, flags, stream, payload));
            if found {
                return true;
            }
        }
        false
    }

    /// Ends the connection with a reset, whatever is on its way.
    pub fn reset_connection(&self) {
        rustix::net::connect_unspec(self.stream.tcp()).expect("a connection can be taken apart");
    }

    /// 200 and a body.
    pub fn answer(&mut self, stream: u32, body: &str) -> bool {
        self.send(headers(stream, &[(":status", "200")], false));
        self.send(frame(DATA, END_STREAM, stream, body))
    }

    /// Answers all that comes with `ok`.
    pub fn serve(&mut self) {
        while let Some((stream, _)) = self.request() {
            self.answer(stream, "ok");
        }
    }
}

/// RST_STREAM.
pub fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, code.to_be_bytes())
}

/// GOAWAY.
pub fn goaway(last: u32, code: u32) -> Vec<u8> {
    frame(GOAWAY, 0, 0, [last.to_be_bytes(), code.to_be_bytes()].concat())
}
