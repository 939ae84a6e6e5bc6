//! Heads and chunks: from what they mean to bytes. Free of waits.

use std::cell::RefCell;
use std::time::UNIX_EPOCH;

use http::{Method, StatusCode};

use super::super::{BodyLength, Fields, ResponseHead, Version};
use super::client::Outgoing;
use super::parse;
use crate::buffer::Buffer;
use crate::time;

/// How a message's body is put on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// No body is sent, whatever is written.
    Suppressed,
    /// So many bytes.
    Exact(u64),
    /// In chunks.
    Chunked,
    /// Its end is the connection's.
    UntilClose,
}

/// What a response goes to.
#[derive(Clone, Copy, Debug)]
pub struct Recipient {
    /// The version the client speaks.
    pub version: Version,
    /// It asked with HEAD.
    pub head: bool,
}

/// How a response's body has to be put on the wire (RFC 9112 §6.3).
pub fn framing(head: &ResponseHead, to: Recipient) -> Framing {
    let bodiless = head.status.is_informational()
        || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    match head.body {
        _ if bodiless || to.head => Framing::Suppressed,
        BodyLength::None => Framing::Exact(0),
        BodyLength::Exact(length) => Framing::Exact(length),
        BodyLength::Chunked | BodyLength::UntilClose if to.version == Version::Http11 => Framing::Chunked,
        BodyLength::Chunked | BodyLength::UntilClose => Framing::UntilClose,
    }
}

/// Writes a response's head. `persists`: the connection can be used again.
pub fn response(out: &mut Buffer, head: &ResponseHead, to: Recipient, persists: bool) {
    status_line(out, head.status);
    let dated = fields(out, &head.fields);
    if is_upgrade(head) {
        // RFC 9110 §7.8: "A sender of Upgrade MUST also send an "Upgrade" connection option".
        put(out, UPGRADES);
    }
    if head.status.is_informational() {
        put(out, b"\r\n");
        return;
    }
    if !dated {
        put(out, b"Date: ");
        with_date(|date| put(out, date));
        put(out, b"\r\n");
    }
    match framing(head, to) {
        Framing::Exact(length) => content_length(out, length),
        Framing::Chunked => put(out, b"Transfer-Encoding: chunked\r\n"),
        Framing::UntilClose => {}
        // What a GET would have had, where that is known (RFC 9110 §8.6); never for 204.
        Framing::Suppressed => match head.body {
            BodyLength::Exact(length) if head.status != StatusCode::NO_CONTENT => content_length(out, length),
            _ => {}
        },
    }
    match (to.version, persists) {
        (_, false) => put(out, b"Connection: close\r\n"),
        (Version::Http10, true) => put(out, b"Connection: keep-alive\r\n"),
        (_, true) => {}
    }
    put(out, b"\r\n");
}

const UPGRADES: &[u8] = b"Connection: upgrade\r\n";

/// Whether a response names a protocol to go on in: from here on, or if the client asks again.
fn is_upgrade(head: &ResponseHead) -> bool {
    match head.status {
        StatusCode::SWITCHING_PROTOCOLS => true,
        StatusCode::UPGRADE_REQUIRED => head.fields.has("upgrade"),
        _ => false,
    }
}

/// Writes a request's head and says how its body has to be put on the wire.
pub fn request(out: &mut Buffer, head: &Outgoing<'_>) -> Framing {
    put(out, head.method.as_str().as_bytes());
    put(out, b" ");
    put(out, head.target.as_bytes());
    put(out, b" HTTP/1.1\r\n");
    fields(out, head.fields);
    put(out, options(head));
    let framing = match head.body {
        BodyLength::None => Framing::Exact(0),
        BodyLength::Exact(length) => Framing::Exact(length),
        BodyLength::Chunked | BodyLength::UntilClose => Framing::Chunked,
    };
    match framing {
        Framing::Chunked => put(out, b"Transfer-Encoding: chunked\r\n"),
        // RFC 9110 §8.6: Content-Length is sent where "the method semantics" anticipate content,
        // or where the client had sent it.
        Framing::Exact(0) if head.body == BodyLength::None && !anticipates_content(head.method) => {}
        Framing::Exact(length) => content_length(out, length),
        Framing::Suppressed | Framing::UntilClose => {}
    }
    put(out, b"\r\n");
    framing
}

/// RFC 9110 §10.1.4: "A sender of TE MUST also send a "TE" connection option"; and §7.8 the same of Upgrade.
fn options(head: &Outgoing<'_>) -> &'static [u8] {
    match (head.asks_upgrade, head.fields.has("te")) {
        (false, false) => b"",
        (true, false) => UPGRADES,
        (false, true) => b"Connection: te\r\n",
        (true, true) => b"Connection: upgrade, te\r\n",
    }
}

fn anticipates_content(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}

/// What comes before a chunk's content: its size and an end of line.
pub struct ChunkSize {
    text: [u8; 18],
    from: usize,
}

impl ChunkSize {
    /// For a chunk of this size, which is not 0.
    pub fn of(size: usize) -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0; 18];
        text[16..].copy_from_slice(b"\r\n");
        let (mut from, mut rest) = (16, size);
        while rest > 0 {
            from -= 1;
            text[from] = DIGITS[rest & 15];
            rest >>= 4;
        }
        Self { text, from }
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.text[self.from..]
    }
}

/// Writes the last chunk and the trailers.
pub fn chunks_end(out: &mut Buffer, trailers: Option<&Fields>) {
    put(out, b"0\r\n");
    for (name, value) in trailers.iter().flat_map(|trailers| trailers.iter()) {
        if parse::is_good_trailer(name) {
            field(out, name.as_bytes(), value);
        }
    }
    put(out, b"\r\n");
}

fn status_line(out: &mut Buffer, status: StatusCode) {
    put(out, b"HTTP/1.1 ");
    put(out, status.as_str().as_bytes());
    put(out, b" ");
    put(out, status.canonical_reason().unwrap_or_default().as_bytes());
    put(out, b"\r\n");
}

/// Writes the fields but those that this module makes; whether Date is among them.
fn fields(out: &mut Buffer, fields: &Fields) -> bool {
    let mut dated = false;
    let mut run = (0, 0); // lines that lie one behind the other go out in one piece
    for (name, value, line) in fields.wire_lines() {
        // The first letter tells nearly all others apart.
        let is = |known: &str| {
            name[0] | 0x20 == known.as_bytes()[0] && name.eq_ignore_ascii_case(known.as_bytes())
        };
        match name.len() {
            4 if is("date") => dated = true,
            10 if is("connection") || is("keep-alive") => continue,
            14 if is("content-length") => continue,
            16 if is("proxy-connection") => continue,
            17 if is("transfer-encoding") => continue,
            _ => {}
        }
        match line {
            Some((from, end)) if from == run.1 => run.1 = end,
            Some(line) => {
                put(out, fields.value(run));
                run = line;
            }
            None => {
                put(out, fields.value(run));
                run = (0, 0);
                field(out, name, fields.value(value));
            }
        }
    }
    put(out, fields.value(run));
    dated
}

fn field(out: &mut Buffer, name: &[u8], value: &[u8]) {
    let length = name.len() + value.len() + 4;
    make_space(out, length);
    out.push(name);
    out.push(b": ");
    out.push(value);
    out.push(b"\r\n");
}

fn content_length(out: &mut Buffer, length: u64) {
    let mut text = [0; 20];
    let mut at = text.len();
    let mut rest = length;
    loop {
        at -= 1;
        text[at] = b'0' + u8::try_from(rest % 10).unwrap_or_default();
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    put(out, b"Content-Length: ");
    put(out, &text[at..]);
    put(out, b"\r\n");
}

/// Appends bytes, whatever space there is.
fn put(out: &mut Buffer, bytes: &[u8]) {
    make_space(out, bytes.len());
    out.push(bytes);
}

fn make_space(out: &mut Buffer, count: usize) {
    if out.space().len() < count {
        out.compact();
        out.grow(out.len() + count);
    }
}

const DATE_BYTES: usize = "Sun, 06 Nov 1994 08:49:37 GMT".len();

thread_local! {
    /// The second, and how it is written.
    static DATE: RefCell<(u64, [u8; DATE_BYTES])> = const { RefCell::new((0, [0; DATE_BYTES])) };
}

/// Calls `with` with the date as HTTP writes it; formatted once a second.
pub(in crate::http) fn with_date(with: impl FnOnce(&[u8])) {
    let now = time::wall();
    let second = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    DATE.with_borrow_mut(|(known, text)| {
        if *known != second {
            *known = second;
            text.copy_from_slice(httpdate::fmt_http_date(now).as_bytes());
        }
        with(text);
    });
}

#[cfg(test)]
mod tests;
