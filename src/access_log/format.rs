//! Records as lines: the combined format of nginx and Apache, and JSON.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::record::{ConnectionFacts, ConnectionRecord, ExchangeRecord, Moved, Request, RequestFacts};
use crate::outcome::{Carrier, End};
use crate::time::wall;

/// How many bytes of a value are written; a record must not fill a batch by itself.
const VALUE_BYTES_MAX: usize = 8 * 1024;

/// The date as both formats write it, made anew once a second.
#[derive(Debug)]
pub(super) struct Clock {
    second: u64,
    combined: String,
    json: String,
}

impl Clock {
    pub(super) fn new() -> Self {
        Self {
            second: u64::MAX,
            combined: String::new(),
            json: String::new(),
        }
    }

    /// Sets it to a moment and gives the milliseconds in its second.
    fn set(&mut self, moment: SystemTime) -> u32 {
        let since = moment.duration_since(UNIX_EPOCH).unwrap_or_default();
        if since.as_secs() != self.second {
            self.second = since.as_secs();
            let second = i64::try_from(self.second).unwrap_or_default();
            let date = jiff::Timestamp::from_second(second).unwrap_or_default();
            self.combined.clear();
            self.json.clear();
            // Writing into a `String` cannot fail, and the format is a constant.
            let _ = write!(self.combined, "{}", date.strftime("%d/%b/%Y:%H:%M:%S +0000"));
            let _ = write!(self.json, "{}", date.strftime("%Y-%m-%dT%H:%M:%S"));
        }
        since.subsec_millis()
    }
}

/// `$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer"
/// "$http_user_agent"`. The user is never written: it is half of a password. The time is UTC.
pub(super) fn combined(
    into: &mut Vec<u8>,
    clock: &mut Clock,
    record: &ExchangeRecord,
    facts: &ConnectionFacts,
    request: &RequestFacts<'_>,
) {
    clock.set(wall());
    match facts.client {
        Some(client) => push_ip(into, client.ip()),
        None => into.extend_from_slice(b"unix:"),
    }
    into.extend_from_slice(b" - - [");
    into.extend_from_slice(clock.combined.as_bytes());
    into.extend_from_slice(b"] \"");
    push_request_line(into, request.request);
    into.extend_from_slice(b"\" ");
    push_padded(into, record.status.unwrap_or(0));
    into.push(b' ');
    push_number(into, record.bytes_out);
    for value in [request.referer, request.user_agent] {
        into.extend_from_slice(b" \"");
        match value {
            Some(value) => push_escaped(into, value),
            None => into.push(b'-'),
        }
        into.push(b'"');
    }
    into.push(b'\n');
}

fn push_request_line(into: &mut Vec<u8>, request: Request<'_>) {
    match request {
        Request::Parsed {
            method,
            path,
            protocol,
        } => {
            push_escaped(into, method.as_bytes());
            into.push(b' ');
            push_escaped(into, path.as_bytes());
            into.push(b' ');
            push_escaped(into, protocol.as_bytes());
        }
        Request::Line(line) => push_escaped(into, line),
    }
}

/// Writes a value as nginx does: quotes, backslashes, control bytes and what is not ASCII as `\xHH`.
fn push_escaped(into: &mut Vec<u8>, value: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut rest = &value[..value.len().min(VALUE_BYTES_MAX)];
    while let Some(at) = rest
        .iter()
        .position(|byte| !matches!(byte, b' '..=b'~') || matches!(byte, b'"' | b'\\'))
    {
        into.extend_from_slice(&rest[..at]);
        let byte = usize::from(rest[at]);
        into.extend_from_slice(&[b'\\', b'x', HEX[byte >> 4], HEX[byte & 15]]);
        rest = &rest[at + 1..];
    }
    into.extend_from_slice(rest);
}

/// One connection as a JSON object.
pub(super) fn json_connection(
    into: &mut Vec<u8>,
    clock: &mut Clock,
    record: &ConnectionRecord,
    facts: &ConnectionFacts,
    end: End,
) {
    let mut object = Object::start(into, clock, "connection");
    object.connection(facts);
    object.bytes(record.bytes_in, record.bytes_out, record.moved);
    object.duration("duration_ms", record.took());
    object.text_if("upstream", record.upstream.as_deref());
    object.text_if("endpoint", record.endpoint.as_deref());
    object.upstream_carrier(record.upstream_carrier);
    object.number_if("attempts", u64::from(record.attempts));
    object.number_if("streams_refused", facts.streams_refused.get());
    object.finish(end);
}

/// One exchange as a JSON object.
pub(super) fn json_exchange(
    into: &mut Vec<u8>,
    clock: &mut Clock,
    record: &ExchangeRecord,
    facts: &ConnectionFacts,
    request: &RequestFacts<'_>,
    end: End,
) {
    let kind = if record.is_mirror { "mirror" } else { "exchange" };
    let mut object = Object::start(into, clock, kind);
    object.connection(facts);
    object.request(request);
    if let Some(status) = record.status {
        object.number("status", u64::from(status));
    }
    object.bytes(record.bytes_in, record.bytes_out, record.moved);
    object.duration("duration_ms", record.took());
    object.text_if("upstream", record.upstream.as_deref());
    if let Some(endpoint) = request.endpoint {
        object.key("endpoint");
        object.displayed(endpoint);
    }
    object.upstream_carrier(record.upstream_carrier);
    object.number_if("attempts", u64::from(record.attempts));
    object.attempts(&record.failed);
    object.text_if("request_id", request.request_id);
    object.finish(end);
}

/// A JSON object on its way into a buffer.
struct Object<'b>(&'b mut Vec<u8>);

impl<'b> Object<'b> {
    fn start(into: &'b mut Vec<u8>, clock: &mut Clock, kind: &str) -> Self {
        let millis = clock.set(wall());
        into.extend_from_slice(b"{\"time\":\"");
        into.extend_from_slice(clock.json.as_bytes());
        into.push(b'.');
        push_padded(into, u16::try_from(millis).unwrap_or_default());
        into.extend_from_slice(b"Z\"");
        let mut object = Self(into);
        object.text("kind", kind.as_bytes());
        object
    }

    fn connection(&mut self, facts: &ConnectionFacts) {
        self.number("worker", facts.worker as u64);
        self.text("listener", facts.listener.as_bytes());
        self.address("client", facts.client);
        if facts.peer != facts.client {
            self.address("peer", facts.peer);
        }
        self.text_if("server_name", facts.server_name.as_deref());
        self.text_if("tls_version", facts.tls_version);
        self.text_if("cipher", facts.cipher);
        self.text_if("alpn", facts.alpn.as_deref());
        if facts.tls_version.is_some() {
            self.key("resumed");
            let text = if facts.resumed { "true" } else { "false" };
            self.0.extend_from_slice(text.as_bytes());
        }
        let carrier = facts.carriage.carrier.get();
        self.text("carrier", carrier.as_str().as_bytes());
        self.text_if("refusal", carrier.refusal().map(|refusal| refusal.as_str()));
        let tally = facts.carriage.tally();
        self.number_if("key_updates_received", tally.key_updates_received.into());
        self.number_if("key_updates_sent", tally.key_updates_sent.into());
        self.number_if("records_received", facts.carriage.records_received.get());
        self.number_if("records_sent", facts.carriage.records_sent.get());
    }

    /// Nothing where there is no TLS.
    fn upstream_carrier(&mut self, carrier: Carrier) {
        if carrier != Carrier::None {
            self.text("upstream_carrier", carrier.as_str().as_bytes());
            self.text_if(
                "upstream_refusal",
                carrier.refusal().map(|refusal| refusal.as_str()),
            );
        }
    }

    fn request(&mut self, request: &RequestFacts<'_>) {
        match request.request {
            Request::Parsed {
                method,
                path,
                protocol,
            } => {
                self.text("method", method.as_bytes());
                self.text_if("host", request.host);
                self.text("path", path.as_bytes());
                self.text("protocol", protocol.as_bytes());
            }
            Request::Line([]) => {}
            Request::Line(line) => self.text("line", line),
        }
        if let Some(referer) = request.referer {
            self.text("referer", referer);
        }
        if let Some(user_agent) = request.user_agent {
            self.text("user_agent", user_agent);
        }
    }

    fn bytes(&mut self, bytes_in: u64, bytes_out: u64, moved: Moved) {
        self.number("bytes_in", bytes_in);
        self.number("bytes_out", bytes_out);
        self.number_if("bytes_spliced", moved.spliced);
        self.number_if("bytes_sendfile", moved.sendfile);
        self.number_if("bytes_copied", moved.copied);
    }

    /// Attempts that failed, in order.
    fn attempts(&mut self, failed: &[(Arc<str>, End)]) {
        if failed.is_empty() {
            return;
        }
        self.key("failed_attempts");
        for (index, (endpoint, end)) in failed.iter().enumerate() {
            self.0.extend_from_slice(if index == 0 { b"[{" } else { b",{" });
            self.0.extend_from_slice(b"\"endpoint\":\"");
            push_json(self.0, endpoint.as_bytes());
            self.0.push(b'"');
            self.end(*end);
            self.0.push(b'}');
        }
        self.0.push(b']');
    }

    fn end(&mut self, end: End) {
        self.text("side", end.side.as_str().as_bytes());
        self.text("phase", end.phase.as_str().as_bytes());
        self.text("cause", end.cause.as_str().as_bytes());
    }

    fn finish(mut self, end: End) {
        self.end(end);
        self.0.extend_from_slice(b"}\n");
    }

    fn key(&mut self, key: &str) {
        self.0.extend_from_slice(b",\"");
        self.0.extend_from_slice(key.as_bytes());
        self.0.extend_from_slice(b"\":");
    }

    fn text(&mut self, key: &str, value: &[u8]) {
        self.key(key);
        self.0.push(b'"');
        push_json(self.0, value);
        self.0.push(b'"');
    }

    fn text_if(&mut self, key: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(key, value.as_bytes());
        }
    }

    fn number(&mut self, key: &str, value: u64) {
        self.key(key);
        push_number(self.0, value);
    }

    /// Zero means that it does not apply.
    fn number_if(&mut self, key: &str, value: u64) {
        if value > 0 {
            self.number(key, value);
        }
    }

    fn address(&mut self, key: &str, address: Option<SocketAddr>) {
        if let Some(address) = address {
            self.key(key);
            self.0.push(b'"');
            push_address(self.0, address);
            self.0.push(b'"');
        }
    }

    fn duration(&mut self, key: &str, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.number(key, micros / 1000);
        self.0.push(b'.');
        push_padded(self.0, u16::try_from(micros % 1000).unwrap_or_default());
    }

    fn displayed(&mut self, value: &dyn std::fmt::Display) {
        struct Escaping<'b>(&'b mut Vec<u8>);
        impl std::fmt::Write for Escaping<'_> {
            fn write_str(&mut self, text: &str) -> std::fmt::Result {
                push_json(self.0, text.as_bytes());
                Ok(())
            }
        }
        self.0.push(b'"');
        // Writing into a vector cannot fail.
        let _ = write!(Escaping(self.0), "{value}");
        self.0.push(b'"');
    }
}

/// Writes any bytes as the inside of a JSON string; what is not UTF-8 becomes U+FFFD.
fn push_json(into: &mut Vec<u8>, value: &[u8]) {
    let value = &value[..value.len().min(VALUE_BYTES_MAX)];
    // Nearly every value is plain: copied whole.
    if value
        .iter()
        .all(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\'))
    {
        into.extend_from_slice(value);
        return;
    }
    for chunk in value.utf8_chunks() {
        for letter in chunk.valid().chars() {
            match letter {
                '"' | '\\' => into.extend_from_slice(&[b'\\', letter as u8]),
                // Those of C1, too: who reads a log on a terminal is not to obey it.
                '\0'..='\x1f' | '\x7f'..='\u{9f}' => push_unicode_escape(into, letter as u8),
                _ => into.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        if !chunk.invalid().is_empty() {
            into.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

fn push_unicode_escape(into: &mut Vec<u8>, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    into.extend_from_slice(b"\\u00");
    into.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
}

fn push_address(into: &mut Vec<u8>, address: SocketAddr) {
    let bracketed = address.ip().to_canonical().is_ipv6();
    if bracketed {
        into.push(b'[');
    }
    push_ip(into, address.ip());
    if bracketed {
        into.push(b']');
    }
    into.push(b':');
    push_number(into, u64::from(address.port()));
}

fn push_ip(into: &mut Vec<u8>, ip: IpAddr) {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            for (at, octet) in ip.octets().into_iter().enumerate() {
                if at > 0 {
                    into.push(b'.');
                }
                push_number(into, u64::from(octet));
            }
        }
        // Writing into a vector cannot fail.
        IpAddr::V6(ip) => drop(write!(into, "{ip}")),
    }
}

/// Writes a number in decimal, without the standard formatter.
fn push_number(into: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(number % 10).unwrap_or_default();
        number /= 10;
        if number == 0 {
            break;
        }
    }
    into.extend_from_slice(&digits[at..]);
}

/// Writes a number below 1000 with three digits.
fn push_padded(into: &mut Vec<u8>, number: u16) {
    for unit in [100, 10] {
        if number < unit {
            into.push(b'0');
        }
    }
    push_number(into, u64::from(number));
}
