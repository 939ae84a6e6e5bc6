//! What `-v` tells on standard error: `*` what happens, `>` what is asked, `<` what is answered.

use std::cell::Cell;
use std::fmt::{self, Write};
use std::net::SocketAddr;

use http::StatusCode;

use super::super::complain;
use super::{Trouble, Url};
use crate::http::h1::client::Outgoing;
use crate::http::{BodyLength, Fields, ResponseHead};
use crate::outcome::Carrier;
use crate::runtime::Driver;
use crate::tls::TlsFacts;
use crate::transport::Transport;

/// Tells, if it was asked for.
pub(super) struct Voice {
    is_wanted: bool,
    /// Bytes that were received without passing through memory.
    received_spliced: Cell<u64>,
}

impl Voice {
    pub(super) fn new(is_wanted: bool) -> Self {
        Self {
            is_wanted,
            received_spliced: Cell::new(0),
        }
    }

    fn say(&self, mark: char, text: impl fmt::Display) {
        if self.is_wanted {
            for line in text.to_string().lines() {
                complain(format_args!("{mark} {}", Harmless(line)));
            }
        }
    }

    pub(super) fn driver(&self, driver: &Driver) {
        self.say('*', format_args!("driver: {driver}"));
    }

    pub(super) fn addresses(&self, url: &Url, addresses: &[SocketAddr]) {
        if url.host.parse::<std::net::IpAddr>().is_err() {
            let addresses: Vec<_> = addresses.iter().map(|address| address.ip().to_string()).collect();
            self.say('*', format_args!("{} is {}", url.host, addresses.join(", ")));
        }
    }

    pub(super) fn connected(&self, address: &SocketAddr) {
        self.say('*', format_args!("connected to {address}"));
    }

    pub(super) fn trouble(&self, trouble: &Trouble) {
        self.say('*', trouble);
    }

    pub(super) fn redirect(&self, to: &Url) {
        self.say('*', format_args!("redirected to {}", to.text));
    }

    pub(super) fn secured(&self, facts: &TlsFacts) {
        let session = if facts.resumed { "resumed" } else { "new session" };
        let alpn = facts.alpn.as_deref().unwrap_or("no application protocol");
        self.say(
            '*',
            format_args!("{}, {}, {session}, {alpn}", facts.version, facts.cipher),
        );
    }

    pub(super) fn request(&self, request: &Outgoing<'_>) {
        self.say(
            '>',
            format_args!("{} {} HTTP/1.1", request.method, request.target),
        );
        self.fields('>', request.fields, request.body);
    }

    pub(super) fn head(&self, head: &ResponseHead) {
        self.say('<', format_args!("HTTP/1.1 {}", status(head.status)));
        self.fields('<', &head.fields, head.body);
    }

    fn fields(&self, mark: char, fields: &Fields, body: BodyLength) {
        for (name, value) in fields.iter() {
            self.say(mark, format_args!("{name}: {}", String::from_utf8_lossy(value)));
        }
        if let Some((name, value)) = framing(body) {
            self.say(mark, format_args!("{name}: {value}"));
        }
    }

    /// So many bytes of the answer did not pass through memory.
    pub(super) fn received_spliced(&self, count: u64) {
        self.received_spliced.set(self.received_spliced.get() + count);
    }

    /// Who made the TLS records, and how the bytes went.
    pub(super) fn moved(&self, transport: &Transport) {
        transport.count_records();
        let carriage = transport.carriage();
        match carriage.carrier.get() {
            Carrier::None => {}
            Carrier::Kernel => {
                let (sent, received) = (carriage.records_sent.get(), carriage.records_received.get());
                self.say(
                    '*',
                    format_args!(
                        "TLS was made by the kernel on this side: {sent} records sent, {received} received"
                    ),
                );
            }
            Carrier::Process(refusal) => self.say(
                '*',
                format_args!(
                    "TLS was made by this process: {} ({})",
                    refusal.meaning(),
                    refusal.as_str()
                ),
            ),
        }
        let sent = transport.bytes_out();
        let sendfile = carriage.sendfile.get();
        self.say(
            '*',
            format_args!(
                "sent {sent} bytes: {} copied, {sendfile} by sendfile",
                sent.saturating_sub(sendfile)
            ),
        );
        let received = transport.bytes_in();
        let spliced = self.received_spliced.take();
        self.say(
            '*',
            format_args!(
                "received {received} bytes: {} copied, {spliced} spliced",
                received.saturating_sub(spliced)
            ),
        );
        if carriage.carrier.get() != Carrier::None {
            let (received, sent) = (
                carriage.key_updates_received.get(),
                carriage.key_updates_sent.get(),
            );
            self.say('*', format_args!("key updates: {sent} sent, {received} received"));
        }
    }
}

/// A status and its words.
pub(super) fn status(status: StatusCode) -> String {
    let reason = status.canonical_reason().unwrap_or_default();
    format!("{} {reason}", status.as_str()).trim_end().to_owned()
}

/// A head as it would be sent.
pub(super) fn head_bytes(head: &ResponseHead) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 {}\r\n", status(head.status)).into_bytes();
    for (name, value) in head.fields.iter() {
        bytes.extend_from_slice(name.as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value);
        bytes.extend_from_slice(b"\r\n");
    }
    if let Some((name, value)) = framing(head.body) {
        bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}

/// The field that tells how long a body is; it is no part of the fields.
fn framing(body: BodyLength) -> Option<(&'static str, String)> {
    match body {
        BodyLength::Exact(length) => Some(("content-length", length.to_string())),
        BodyLength::Chunked => Some(("transfer-encoding", "chunked".to_owned())),
        BodyLength::None | BodyLength::UntilClose => None,
    }
}

/// A line with nothing in it that a terminal would obey.
pub(super) struct Harmless<'a>(pub(super) &'a str);

impl fmt::Display for Harmless<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|letter| match letter {
            letter if letter.is_control() => write!(f, "{}", letter.escape_default()),
            letter => f.write_char(letter),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_obeys_nothing_that_is_told() {
        assert_eq!(Harmless("a\x1b[2Jb\u{9b}c").to_string(), "a\\u{1b}[2Jb\\u{9b}c");
    }

    #[test]
    fn a_head_is_written_with_what_frames_its_body() {
        let mut head = ResponseHead::new(StatusCode::OK, BodyLength::Exact(5));
        head.fields.push("x-a", "b");
        assert_eq!(
            head_bytes(&head),
            b"HTTP/1.1 200 OK\r\nx-a: b\r\ncontent-length: 5\r\n\r\n"
        );
    }
}
