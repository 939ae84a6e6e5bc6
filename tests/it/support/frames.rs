//! HTTP/2 as the tests speak it: frames byte by byte, none of them checked on the way out.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::client::{Connection, Ending};
use super::{Atlas, wire::latin1};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 0x1;
pub const ACK: u8 = 0x1;
pub const END_HEADERS: u8 = 0x4;
pub const PADDED: u8 = 0x8;
pub const WITH_PRIORITY: u8 = 0x20;

pub const NO_ERROR: u32 = 0;
pub const PROTOCOL_ERROR: u32 = 1;
pub const INTERNAL_ERROR: u32 = 2;
pub const FLOW_CONTROL_ERROR: u32 = 3;
pub const STREAM_CLOSED: u32 = 5;
pub const FRAME_SIZE_ERROR: u32 = 6;
pub const REFUSED_STREAM: u32 = 7;
pub const CANCEL: u32 = 8;
pub const COMPRESSION_ERROR: u32 = 9;
pub const CONNECT_ERROR: u32 = 10;
pub const ENHANCE_YOUR_CALM: u32 = 11;

pub const INITIAL_WINDOW_SIZE: u16 = 4;
pub const ENABLE_CONNECT_PROTOCOL: u16 = 8;

/// What every window begins with, if no setting says otherwise.
const WINDOW: i64 = 65_535;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame as bytes.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Fields as a block of literals that are not indexed, whatever is in them.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        string(&mut block, name.as_bytes());
        string(&mut block, value.as_bytes());
    }
    block
}

/// A string as HPACK has it, without Huffman codes: length with a prefix of 7 bits, bytes.
pub fn string(into: &mut Vec<u8>, bytes: &[u8]) {
    let mut rest = bytes.len();
    if rest < 127 {
        into.push(rest as u8);
    } else {
        into.push(127);
        rest -= 127;
        while rest >= 128 {
            into.push((rest % 128) as u8 | 128);
            rest /= 128;
        }
        into.push(rest as u8);
    }
    into.extend(bytes);
}

/// The fields of a GET, and more.
pub fn get<'f>(path: &'f str, more: &[(&'f str, &'f str)]) -> Vec<(&'f str, &'f str)> {
    request("GET", path, more)
}

pub fn request<'f>(method: &'f str, path: &'f str, more: &[(&'f str, &'f str)]) -> Vec<(&'f str, &'f str)> {
    let mut fields = vec![
        (":method", method),
        (":scheme", "https"),
        (":authority", "a.test"),
        (":path", path),
    ];
    fields.extend(more);
    fields
}

/// HEADERS in one frame.
pub fn headers(stream: u32, fields: &[(&str, &str)], ends: bool) -> Vec<u8> {
    let flags = END_HEADERS | if ends { END_STREAM } else { 0 };
    frame(HEADERS, flags, stream, block(fields))
}

/// One setting.
pub fn setting(id: u16, value: u32) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend(value.to_be_bytes());
    bytes
}

type Fields = Vec<(String, String)>;

/// What has come on a stream.
#[derive(Clone, Debug, Default)]
pub struct Got {
    /// Every block of fields: informational ones, the head, trailers.
    pub blocks: Vec<Fields>,
    pub body: Vec<u8>,
    /// Frames of DATA that were not empty.
    pub pieces: usize,
    pub has_ended: bool,
    pub reset: Option<u32>,
}

impl Got {
    fn is_informational(block: &Fields) -> bool {
        field(block, ":status").is_some_and(|status| status.starts_with('1'))
    }

    fn head(&self) -> Option<&Fields> {
        self.blocks.iter().find(|block| !Self::is_informational(block))
    }

    pub fn status(&self) -> u16 {
        let head = self.head().unwrap_or_else(|| panic!("no head in {self:?}"));
        field(head, ":status")
            .expect("a head has a status")
            .parse()
            .unwrap()
    }

    pub fn field(&self, name: &str) -> Option<&str> {
        field(self.head()?, name)
    }

    /// The statuses of what came before the head.
    pub fn informational(&self) -> Vec<&str> {
        let before = self.blocks.iter().filter(|block| Self::is_informational(block));
        before.filter_map(|block| field(block, ":status")).collect()
    }

    /// The block behind the body.
    pub fn trailers(&self) -> Fields {
        let mut blocks = self.blocks.iter().filter(|block| !Self::is_informational(block));
        blocks.next();
        blocks.next().cloned().unwrap_or_default()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

pub fn field<'f>(fields: &'f Fields, name: &str) -> Option<&'f str> {
    let found = fields.iter().find(|(known, _)| known == name);
    found.map(|(_, value)| value.as_str())
}

/// How Atlas ended a connection in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Goaway {
    pub last_stream: u32,
    pub code: u32,
    pub why: String,
}

/// A connection of HTTP/2 to Atlas.
pub struct Http2 {
    pub connection: Connection,
    decoder: loona_hpack::Decoder<'static>,
    streams: BTreeMap<u32, Got>,
    next: u32,
    /// Opens the windows as bytes come.
    pub reads: bool,
    /// Acknowledges settings and answers PINGs.
    pub answers: bool,
    /// The settings Atlas has sent.
    pub settings: BTreeMap<u16, u32>,
    pub goaways: Vec<Goaway>,
    pub pongs: usize,
    /// By how much Atlas has opened the window of each stream, and that of all (0).
    opened: BTreeMap<u32, i64>,
    acks: usize,
    /// How it ended, once [`Self::read_frame`] gave none; `None`: it is open and nothing comes.
    pub ending: Option<Ending>,
}

impl Atlas {
    /// HTTP/2 on the first listener: the preface and empty settings are sent.
    pub fn http2(&self) -> Http2 {
        self.http2_with(&[])
    }

    /// The same, if Atlas accepts.
    pub fn try_http2(&self) -> std::io::Result<Http2> {
        let mut http2 = self.try_http2_silent(0)?;
        http2.send(PREFACE);
        http2.send(frame(SETTINGS, 0, 0, b""));
        Ok(http2)
    }

    /// The same with settings.
    pub fn http2_with(&self, settings: &[(u16, u32)]) -> Http2 {
        let mut http2 = self.http2_silent(0);
        let settings: Vec<u8> = settings
            .iter()
            .flat_map(|(id, value)| setting(*id, *value))
            .collect();
        http2.send(PREFACE);
        http2.send(frame(SETTINGS, 0, 0, settings));
        http2
    }

    /// As [`Self::http2`], on this listener.
    pub fn http2_on(&self, listener: usize) -> Http2 {
        let mut http2 = self.http2_silent(listener);
        http2.send(PREFACE);
        http2.send(frame(SETTINGS, 0, 0, b""));
        http2
    }

    /// A connection that may become one of HTTP/2: nothing is sent yet.
    pub fn http2_silent(&self, listener: usize) -> Http2 {
        self.try_http2_silent(listener).expect("Atlas accepts")
    }

    fn try_http2_silent(&self, listener: usize) -> std::io::Result<Http2> {
        let connection = match self.is_tls(listener) {
            true => Connection::tls(self.address_of(listener), &self.tls().alpn(&["h2"])),
            false => Connection::plain(self.address_of(listener)),
        };
        Ok(Http2 {
            connection: connection?,
            decoder: loona_hpack::Decoder::new(),
            streams: BTreeMap::new(),
            next: 1,
            reads: true,
            answers: true,
            settings: BTreeMap::new(),
            goaways: Vec::new(),
            pongs: 0,
            opened: BTreeMap::new(),
            acks: 0,
            ending: None,
        })
    }
}

impl Http2 {
    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        // A connection that Atlas has ended shows by what comes.
        let _ = self.connection.try_send(bytes);
        self
    }

    /// A stream that was not used yet.
    pub fn stream(&mut self) -> u32 {
        self.next += 2;
        self.next - 2
    }

    /// Begins a request; its stream.
    pub fn begin(&mut self, fields: &[(&str, &str)], ends: bool) -> u32 {
        let stream = self.stream();
        self.send(headers(stream, fields, ends));
        stream
    }

    /// `GET path` and its answer.
    pub fn get(&mut self, path: &str) -> Got {
        let stream = self.begin(&get(path, &[]), true);
        self.answer(stream)
    }

    /// A request with a body, and its answer.
    pub fn post(&mut self, path: &str, more: &[(&str, &str)], body: &[u8]) -> Got {
        let stream = self.begin(&request("POST", path, more), body.is_empty());
        self.upload(stream, body, true);
        self.answer(stream)
    }

    /// Sends a body as fast as Atlas lets it come. (It counts both windows by what Atlas opens.)
    pub fn upload(&mut self, stream: u32, body: &[u8], ends: bool) {
        let mut pieces = body.chunks(16_384).peekable();
        while let Some(piece) = pieces.next() {
            let flags = if ends && pieces.peek().is_none() {
                END_STREAM
            } else {
                0
            };
            self.send(frame(DATA, flags, stream, piece));
        }
    }

    /// How many bytes may be sent on a stream that `sent` so many already, where no other sends any.
    pub fn room(&self, stream: u32, sent: usize) -> usize {
        let initial = self
            .settings
            .get(&INITIAL_WINDOW_SIZE)
            .map_or(WINDOW, |set| i64::from(*set));
        let opened = |of: u32| self.opened.get(&of).copied().unwrap_or_default();
        let windows = (initial + opened(stream)).min(WINDOW + opened(0));
        usize::try_from(windows - sent as i64).unwrap_or_default()
    }

    /// What has come of a stream's body, which is forgotten.
    pub fn take_body(&mut self, stream: u32) -> Vec<u8> {
        self.streams
            .get_mut(&stream)
            .map(|got| std::mem::take(&mut got.body))
            .unwrap_or_default()
    }

    /// What came on a stream, once it has ended or was reset.
    pub fn answer(&mut self, stream: u32) -> Got {
        self.until(&format!("stream {stream} ends"), |http2| {
            let got = http2.streams.get(&stream)?;
            (got.has_ended || got.reset.is_some()).then(|| got.clone())
        })
    }

    /// What has come on a stream so far.
    pub fn so_far(&self, stream: u32) -> Got {
        self.streams.get(&stream).cloned().unwrap_or_default()
    }

    /// Reads frames until there is an answer; fails the test at the connection's end.
    pub fn until<T>(&mut self, what: &str, mut ask: impl FnMut(&Self) -> Option<T>) -> T {
        let started = Instant::now();
        loop {
            if let Some(answer) = ask(self) {
                return answer;
            }
            assert!(
                started.elapsed() < Duration::from_secs(60),
                "waited in vain until {what}"
            );
            let told = (self.goaways.clone(), self.streams.clone());
            assert!(
                self.read_frame(),
                "the connection ended before {what}: {:?}, {told:?}",
                self.ending
            );
        }
    }

    /// Reads until the connection ends; what it was ended with.
    pub fn end(&mut self) -> Option<Goaway> {
        while self.read_frame() {}
        self.goaways.last().cloned()
    }

    /// Waits until Atlas has answered a PING of ours, and so has read all we sent before.
    pub fn round_trip(&mut self) {
        let before = self.pongs;
        self.send(frame(PING, 0, 0, [7; 8]));
        self.until("the PING is answered", |http2| {
            (http2.pongs > before).then_some(())
        });
    }

    /// Waits until Atlas has taken our settings.
    pub fn settled(&mut self) {
        self.until("the settings are taken", |http2| (http2.acks > 0).then_some(()));
    }

    /// Reads one frame and notes what it says; false at the end of the connection.
    pub fn read_frame(&mut self) -> bool {
        let header = match self.connection.try_read_exactly(9) {
            Ok(header) => header,
            Err(ending) => {
                self.ending = ending;
                return false;
            }
        };
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
        let stream = u32::from_be_bytes([header[5], header[6], header[7], header[8]]) & 0x7fff_ffff;
        match self.connection.try_read_exactly(length as usize) {
            Ok(payload) => self.note(header[3], header[4], stream, &payload),
            Err(ending) => {
                self.ending = ending;
                return false;
            }
        }
        true
    }

    /// Settings of ours that Atlas has acknowledged.
    pub fn acks(&self) -> usize {
        self.acks
    }

    fn note(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        // RFC 9113 §3.4: a server's preface is a SETTINGS frame, "that MUST be the first frame the server sends".
        let is_preface = kind == SETTINGS && flags & ACK == 0;
        assert!(
            is_preface || !self.settings.is_empty(),
            "the first frame is of kind {kind}"
        );
        let number = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().expect("four bytes"));
        let got = self.streams.entry(stream).or_default();
        match kind {
            HEADERS => {
                assert_eq!(
                    flags & END_HEADERS,
                    END_HEADERS,
                    "heads of these tests fit in a frame"
                );
                let fields = self.decoder.decode(payload).expect("the block is good");
                let text = |(name, value): (Vec<u8>, Vec<u8>)| (latin1(&name), latin1(&value));
                got.blocks.push(fields.into_iter().map(text).collect());
                got.has_ended |= flags & END_STREAM != 0;
            }
            DATA => {
                got.body.extend_from_slice(payload);
                got.pieces += usize::from(!payload.is_empty());
                got.has_ended |= flags & END_STREAM != 0;
                if self.reads && !payload.is_empty() {
                    let count = (payload.len() as u32).to_be_bytes();
                    self.send(frame(WINDOW_UPDATE, 0, 0, count));
                    self.send(frame(WINDOW_UPDATE, 0, stream, count));
                }
            }
            RST_STREAM => got.reset = Some(number(0)),
            SETTINGS if flags & ACK != 0 => self.acks += 1,
            SETTINGS => {
                for one in payload.chunks_exact(6) {
                    let id = u16::from_be_bytes([one[0], one[1]]);
                    let value = u32::from_be_bytes([one[2], one[3], one[4], one[5]]);
                    self.settings.insert(id, value);
                }
                if self.answers {
                    self.send(frame(SETTINGS, ACK, 0, b""));
                }
            }
            PING if flags & ACK != 0 => self.pongs += 1,
            PING if !self.answers => {}
            PING => {
                self.send(frame(PING, ACK, 0, payload));
            }
            GOAWAY => self.goaways.push(Goaway {
                last_stream: number(0) & 0x7fff_ffff,
                code: number(4),
                why: latin1(&payload[8..]),
            }),
            WINDOW_UPDATE => *self.opened.entry(stream).or_default() += i64::from(number(0)),
            other => panic!("Atlas sent a frame of kind {other}"),
        }
    }
}
