//! Heads: from bytes to what they mean, or why they are refused. Strict, and free of waits.

use std::mem::MaybeUninit;
use std::sync::LazyLock;

use http::{Method, StatusCode};
use httparse::Header;
use memchr::memchr;
use memchr::memmem::Finder;

use super::super::errors::Fault;
use super::super::message::{Fields, Line, Span, is_named, offset, tokens};
use super::super::{BodyLength, RequestHead, ResponseHead, Version};
use crate::buffer::Buffer;
use crate::outcome::{Cause, Phase};

/// How much a head may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of the whole head.
    pub head_bytes_max: usize,
    /// Fields in it.
    pub fields_max: usize,
    /// Bytes of the request line.
    pub request_line_bytes_max: usize,
}

/// Why a head is not taken.
#[derive(Clone, Copy, Debug)]
pub struct Refused {
    /// The answer a client gets.
    pub fault: &'static Fault,
    /// The word for the record.
    pub cause: Cause,
    /// What exactly is wrong.
    pub why: &'static str,
}

impl Refused {
    /// Of a body that is said to be longer than it may be.
    pub const BODY_TOO_LARGE: Self = Self {
        fault: &Fault::REQUEST_BODY_TOO_LARGE,
        cause: Cause::LimitReached,
        why: "Content-Length is more than is allowed here",
    };

    /// Which part of the request it is about.
    pub fn phase(&self) -> Phase {
        match self.fault.status {
            StatusCode::PAYLOAD_TOO_LARGE => Phase::RequestBody,
            _ => Phase::Request,
        }
    }

    fn malformed(why: &'static str) -> Self {
        Self::new(&Fault::REQUEST_MALFORMED, Cause::Malformed, why)
    }

    fn new(fault: &'static Fault, cause: Cause, why: &'static str) -> Self {
        Self { fault, cause, why }
    }
}

/// How far an incomplete head has been looked at, so that no byte is looked at again and again.
#[derive(Default)]
pub struct Scan {
    searched: usize,
    first_line: Option<usize>,
    first_line_is_good: bool,
    skipped_blank: bool,
}

/// Parses a request's head, if the whole of it is there, and takes its bytes out of `input`.
///
/// `scan` is new for each head, and the same for each call until that head is whole. `input` must
/// not be consumed or compacted in between by others than this function.
///
/// # Errors
///
/// As soon as it is clear that no good head can come of it; the connection cannot go on, but what
/// was refused is still in `input`, for the record.
pub fn request(input: &mut Buffer, scan: &mut Scan, limits: &Limits) -> Result<Option<RequestHead>, Refused> {
    scan.skip_blank_line(input);
    let found = scan.find_end(input.filled()).map_err(Refused::malformed)?;
    check_sizes(input.len(), found, scan, limits)?;
    let Some(length) = found else {
        scan.check_beginning(input.filled())?;
        return Ok(None);
    };
    parse_request(input, length, limits.fields_max).map(Some)
}

/// What a response answers, as far as it tells how the response is framed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked {
    /// The request was HEAD: no body comes, whatever the head says.
    pub head: bool,
}

/// Whether the sender of a response lets the connection be used again.
pub struct Persists(pub bool);

/// As [`request`], for a response's head, informational ones included.
///
/// # Errors
///
/// What is wrong, and `Malformed` or `LimitReached`.
pub fn response(
    input: &mut Buffer,
    scan: &mut Scan,
    asked: Asked,
    limits: &Limits,
) -> Result<Option<(ResponseHead, Persists)>, (Cause, &'static str)> {
    let found = scan
        .find_end(input.filled())
        .map_err(|why| (Cause::Malformed, why))?;
    if found.unwrap_or(input.len()) > limits.head_bytes_max {
        return Err((Cause::LimitReached, "the head is too long"));
    }
    let Some(length) = found else {
        return match b"HTTP/1."[..].iter().zip(input.filled()).all(|(a, b)| a == b) {
            true => Ok(None),
            false => Err((Cause::Malformed, "this is not an HTTP/1 response")),
        };
    };
    parse_response(take_head(input, length), limits.fields_max, asked).map(Some)
}

/// Parses trailers, blank line included. Those that would change how the message was framed,
/// routed or authorised are dropped (RFC 9110 §6.5.1).
///
/// # Errors
///
/// What is wrong.
pub fn trailers(bytes: &[u8], fields_max: usize) -> Result<Fields, &'static str> {
    let mut scan = Scan::default();
    if scan.find_end(bytes)? != Some(bytes.len()) {
        return Err("the trailers have no end");
    }
    let mut room = vec![httparse::EMPTY_HEADER; fields_max];
    let (_, parsed) = httparse::parse_headers(bytes, &mut room)
        .map_err(why_not)?
        .unwrap_or_end()?;
    let mut fields = Fields::new();
    for field in parsed {
        if is_good_trailer(field.name) {
            fields.push(field.name, field.value);
        }
    }
    Ok(fields)
}

/// Whether a field may come after the body.
pub(in crate::http) fn is_good_trailer(name: &str) -> bool {
    const NEVER: [&str; 24] = [
        "authorization",
        "cache-control",
        "connection",
        "content-encoding",
        "content-length",
        "content-range",
        "content-type",
        "cookie",
        "expect",
        "forwarded",
        "host",
        "keep-alive",
        "max-forwards",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "range",
        "set-cookie",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "via",
        "www-authenticate",
    ];
    let is = |known: &&str| is_named(name.as_bytes(), known);
    let forwards = name
        .get(..12)
        .is_some_and(|start| start.eq_ignore_ascii_case("x-forwarded-"));
    !forwards && !NEVER.iter().any(is)
}

static BLANK_LINE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\r\n\r\n"));

/// Whether a line feed from `from` on has no carriage return before it. Without an early end, so
/// that it is done in words of the machine.
fn has_bare_feed(bytes: &[u8], from: usize) -> bool {
    let (before, from) = match from {
        0 if bytes.first() == Some(&b'\n') => return true,
        0 => (bytes, 1),
        _ => (&bytes[from - 1..], from),
    };
    let pairs = before.iter().zip(bytes.get(from..).unwrap_or_default());
    pairs.fold(false, |bad, (before, byte)| {
        bad | (*byte == b'\n') & (*before != b'\r')
    })
}

impl Scan {
    /// RFC 9112 §2.2: a server "SHOULD ignore at least one empty line (CRLF) received prior to
    /// the request-line". One, not more.
    fn skip_blank_line(&mut self, input: &mut Buffer) {
        if !self.skipped_blank && self.first_line.is_none() && input.filled().starts_with(b"\r\n") {
            input.consume(2);
            self.skipped_blank = true;
            self.searched = 0;
        }
    }

    /// The length of the head, blank line included, once all of it is there.
    fn find_end(&mut self, bytes: &[u8]) -> Result<Option<usize>, &'static str> {
        if bytes.starts_with(b"\r\n") {
            return Err("an empty line comes first");
        }
        // The end may lie across the border of what was searched.
        let from = self.searched.saturating_sub(3);
        let end = BLANK_LINE.find(&bytes[from..]).map(|at| from + at + 4);
        let until = end.unwrap_or(bytes.len());
        if has_bare_feed(&bytes[..until], self.searched) {
            return Err("a line ends in a bare line feed");
        }
        if self.first_line.is_none() {
            let feed = memchr(b'\n', &bytes[self.searched..until]);
            self.first_line = feed.map(|at| self.searched + at + 1);
        }
        self.searched = until;
        Ok(end)
    }

    /// Refuses what cannot become a request, without waiting for its end: a peer that speaks
    /// another protocol waits for our word.
    fn check_beginning(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        if self.first_line_is_good {
            return Ok(());
        }
        if let Some(end) = self.first_line {
            check_request_line(&bytes[..end - 2])?;
            self.first_line_is_good = true;
            return Ok(());
        }
        let method = bytes.split(|byte| *byte == b' ').next().unwrap_or_default();
        let complete = method.len() < bytes.len();
        let crlf_begins = !complete && bytes == b"\r" && !self.skipped_blank;
        if crlf_begins || (is_token(method) || (method.is_empty() && !complete)) {
            Ok(())
        } else {
            Err(Refused::malformed("this does not begin like a request"))
        }
    }
}

fn check_sizes(have: usize, found: Option<usize>, scan: &Scan, limits: &Limits) -> Result<(), Refused> {
    let line = scan.first_line.or(found).unwrap_or(have);
    if line > limits.request_line_bytes_max.saturating_add(2) {
        return Err(Refused::new(
            &Fault::REQUEST_LINE_TOO_LONG,
            Cause::LimitReached,
            "the request line is too long",
        ));
    }
    if found.unwrap_or(have) > limits.head_bytes_max {
        return Err(Refused::new(
            &Fault::REQUEST_HEAD_TOO_LARGE,
            Cause::LimitReached,
            "the head is too long",
        ));
    }
    Ok(())
}

/// Says what is wrong with a request line that the parser does not take, or may not see yet.
fn check_request_line(line: &[u8]) -> Result<(), Refused> {
    let version_unsupported = Err(Refused::new(
        &Fault::VERSION_UNSUPPORTED,
        Cause::Unsupported,
        "HTTP/1.0 and HTTP/1.1 are spoken here",
    ));
    let mut parts = line.split(|byte| *byte == b' ');
    let (method, target, version) = (parts.next(), parts.next(), parts.next());
    if parts.next().is_some() || !method.is_some_and(is_token) {
        return Err(Refused::malformed(
            "the request line is not method, target, version",
        ));
    }
    if !target.is_some_and(|target| !target.is_empty() && target.iter().all(u8::is_ascii_graphic)) {
        return Err(Refused::malformed("the request target holds what it must not"));
    }
    match version {
        Some(b"HTTP/1.0" | b"HTTP/1.1") => Ok(()),
        None if line.starts_with(b"GET ") => version_unsupported, // HTTP/0.9
        Some([b'H', b'T', b'T', b'P', b'/', major, b'.', minor])
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            version_unsupported
        }
        _ => Err(Refused::malformed(
            "the request line does not end in a version of HTTP",
        )),
    }
}

/// Takes a head out of the input. Whichever of the head and what follows it is shorter is copied.
fn take_head(input: &mut Buffer, length: usize) -> Buffer {
    let rest = input.len() - length;
    let mut head = Buffer::none();
    if rest > length {
        head = Buffer::with_size(length);
        head.push(&input.filled()[..length]);
        input.consume(length);
    } else {
        std::mem::swap(&mut head, input);
        if rest > 0 {
            *input = Buffer::with_size(rest);
            input.push(&head.filled()[length..]);
            head.truncate(length);
        }
    }
    head
}

/// Room for as many fields as nearly every configuration allows, without an allocation.
const LINES_ON_STACK: usize = 128;

type Room<'b> = [MaybeUninit<Header<'b>>];

/// Calls `parse` with room for that many fields.
fn with_room<'b, T>(count: usize, parse: impl FnOnce(&mut Room<'b>) -> T) -> T {
    if count <= LINES_ON_STACK {
        let mut room = [const { MaybeUninit::uninit() }; LINES_ON_STACK];
        parse(&mut room[..count])
    } else {
        let mut room = Vec::new();
        room.resize_with(count, MaybeUninit::uninit);
        parse(&mut room)
    }
}

/// Where a part of `all` lies in it.
fn span_in(all: &[u8], part: &[u8]) -> Span {
    let from = part.as_ptr() as usize - all.as_ptr() as usize;
    (offset(from), offset(from + part.len()))
}

/// What httparse's error means in a head whose lines all end in CRLF.
fn why_not(error: httparse::Error) -> &'static str {
    match error {
        httparse::Error::HeaderName => "a field's name is not a token directly followed by a colon",
        httparse::Error::HeaderValue => "a field's value holds a control byte",
        httparse::Error::NewLine => "a carriage return stands alone",
        httparse::Error::Status => "the status is not three digits and a phrase",
        httparse::Error::Token => "the first line holds what it must not",
        httparse::Error::TooManyHeaders => "there are too many fields",
        httparse::Error::Version => "the version is not one of HTTP/1",
    }
}

trait UnwrapOrEnd<T> {
    fn unwrap_or_end(self) -> Result<T, &'static str>;
}

impl<T> UnwrapOrEnd<T> for httparse::Status<T> {
    /// The end was found before parsing; a parser that wants more has read the lines otherwise.
    fn unwrap_or_end(self) -> Result<T, &'static str> {
        match self {
            Self::Complete(value) => Ok(value),
            Self::Partial => Err("the head has no end"),
        }
    }
}

/// A request line and what its fields mean, without a borrow of the bytes.
struct RequestParts {
    method: Method,
    version: Version,
    target: Span,
    facts: Facts,
}

/// Takes the head out of the input, and puts it back if it is refused.
fn parse_request(input: &mut Buffer, length: usize, fields_max: usize) -> Result<RequestHead, Refused> {
    let mut fields = Fields::lying_in(Buffer::none());
    let bytes = take_head(input, length);
    let read = with_room(fields_max, |room| {
        read_request(bytes.filled(), room, &mut fields.lines)
    });
    fields.bytes = bytes;
    let understood = read.and_then(|parts| {
        let target = Target::of(&mut fields, &parts)?;
        let body = parts.facts.request_body(&parts)?;
        parts.facts.check_request(&parts, &target)?;
        Ok((parts, target, body))
    });
    let (parts, target, body) = match understood {
        Ok(understood) => understood,
        Err(refused) => {
            std::mem::swap(input, &mut fields.bytes);
            return Err(refused);
        }
    };
    if let Some(authority) = target.authority {
        state_host(&mut fields, authority);
    }
    Ok(RequestHead {
        method: parts.method,
        version: parts.version,
        path: target.path,
        query: target.query,
        authority: target.authority.or(parts.facts.host),
        body,
        persists: parts.facts.persists(parts.version),
        expects_continue: parts.facts.expects_continue && parts.version == Version::Http11,
        asks_upgrade: parts.facts.upgrades && parts.version == Version::Http11,
        connects: false,
        fields,
    })
}

fn read_request<'b>(
    bytes: &'b [u8],
    room: &mut Room<'b>,
    lines: &mut Vec<Line>,
) -> Result<RequestParts, Refused> {
    let mut request = httparse::Request::new(&mut []);
    let status = match request.parse_with_uninit_headers(bytes, room) {
        Ok(status) => status,
        Err(httparse::Error::TooManyHeaders) => {
            return Err(Refused::new(
                &Fault::REQUEST_HEAD_TOO_LARGE,
                Cause::LimitReached,
                "there are too many fields",
            ));
        }
        Err(error) => {
            // Up to its end, not to a bare CR within it: what follows that is part of the fault.
            let end = memchr::memmem::find(bytes, b"\r\n").unwrap_or(bytes.len());
            check_request_line(&bytes[..end])?;
            return Err(Refused::malformed(why_not(error)));
        }
    };
    if status.unwrap_or_end().map_err(Refused::malformed)? != bytes.len() {
        return Err(Refused::malformed("the head ends early"));
    }
    let target = request.path.unwrap_or_default();
    if !target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return Err(Refused::malformed("the request target holds what it must not"));
    }
    let facts = read_fields(bytes, request.headers, lines).map_err(Refused::malformed)?;
    Ok(RequestParts {
        method: Method::from_bytes(request.method.unwrap_or_default().as_bytes())
            .map_err(|_| Refused::malformed("the method is not a token"))?,
        version: version_of(request.version).ok_or_else(|| Refused::malformed("the version is not known"))?,
        target: span_in(bytes, target.as_bytes()),
        facts,
    })
}

fn parse_response(
    bytes: Buffer,
    fields_max: usize,
    asked: Asked,
) -> Result<(ResponseHead, Persists), (Cause, &'static str)> {
    let mut fields = Fields::lying_in(Buffer::none());
    let (status, version, facts) = with_room(fields_max, |room| {
        read_response(bytes.filled(), room, &mut fields.lines)
    })?;
    fields.bytes = bytes;
    let body = facts
        .response_body(status, version, asked)
        .map_err(|why| (Cause::Malformed, why))?;
    let is_framed = body != BodyLength::UntilClose && !facts.announces_beyond(status);
    let persists = Persists(facts.persists(version) && is_framed);
    let head = ResponseHead { status, body, fields };
    Ok((head, persists))
}

type ResponseParts = (StatusCode, Version, Facts);

fn read_response<'b>(
    bytes: &'b [u8],
    room: &mut Room<'b>,
    lines: &mut Vec<Line>,
) -> Result<ResponseParts, (Cause, &'static str)> {
    let malformed = |why| (Cause::Malformed, why);
    let mut response = httparse::Response::new(&mut []);
    let parsed =
        httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut response, bytes, room);
    let length = match parsed {
        Ok(status) => status.unwrap_or_end().map_err(malformed)?,
        Err(httparse::Error::TooManyHeaders) => {
            return Err((Cause::LimitReached, "there are too many fields"));
        }
        Err(error) => return Err(malformed(why_not(error))),
    };
    if length != bytes.len() {
        return Err(malformed("the head ends early"));
    }
    let facts = read_fields(bytes, response.headers, lines).map_err(malformed)?;
    let status = response.code.unwrap_or_default();
    let status = StatusCode::from_u16(status).map_err(|_| malformed("the status is none of HTTP"))?;
    let version = version_of(response.version).ok_or_else(|| malformed("the version is not known"))?;
    Ok((status, version, facts))
}

fn version_of(minor: Option<u8>) -> Option<Version> {
    match minor {
        Some(0) => Some(Version::Http10),
        Some(1) => Some(Version::Http11),
        _ => None,
    }
}

/// Notes where each field lies, and what those say that matter here. Those that frame the body
/// are not listed: whoever writes the message again makes them anew.
fn read_fields(bytes: &[u8], parsed: &[Header<'_>], lines: &mut Vec<Line>) -> Result<Facts, &'static str> {
    let mut facts = Facts::default();
    lines.reserve(parsed.len());
    for field in parsed {
        let value = span_in(bytes, field.value);
        if facts.learn(field.name, field.value, value)? {
            lines.push((span_in(bytes, field.name.as_bytes()), value));
        }
    }
    Ok(facts)
}

/// Options that Connection may list, in all its fields: each names a field, and each is compared with all
/// fields before a head is sent on. Nobody has named more than a few.
const OPTIONS_MAX: usize = 64;

/// What the fields of a head say of its framing and of the connection.
#[derive(Default)]
struct Facts {
    hosts: usize,
    host: Option<Span>,
    options: usize,
    length: Option<u64>,
    codings: Codings,
    closes: bool,
    keeps_alive: bool,
    upgrades: bool,
    expects_continue: bool,
    expects_else: bool,
}

/// What Transfer-Encoding lists.
#[derive(Default)]
struct Codings {
    listed: bool,
    chunked: usize,
    chunked_is_last: bool,
    others: bool,
}

impl Facts {
    /// Learns from one field; whether it is to be listed.
    fn learn(&mut self, name: &str, value: &[u8], span: Span) -> Result<bool, &'static str> {
        match name.len() {
            4 if name.eq_ignore_ascii_case("host") => {
                self.hosts += 1;
                self.host = Some(span);
                if !is_authority(value) {
                    return Err("Host is not a host with or without a port");
                }
            }
            6 if name.eq_ignore_ascii_case("expect") => self.learn_expectation(value),
            10 if name.eq_ignore_ascii_case("connection") => self.learn_connection(value)?,
            14 if name.eq_ignore_ascii_case("content-length") => {
                self.learn_length(value)?;
                return Ok(false);
            }
            17 if name.eq_ignore_ascii_case("transfer-encoding") => {
                self.codings.learn(value);
                return Ok(false);
            }
            _ => {}
        }
        Ok(true)
    }

    fn learn_expectation(&mut self, value: &[u8]) {
        for expectation in tokens(std::iter::once(value)) {
            match expectation.eq_ignore_ascii_case(b"100-continue") {
                true => self.expects_continue = true,
                false => self.expects_else = true,
            }
        }
    }

    /// RFC 9110 §7.6.1: a sender "MUST NOT send a connection option corresponding to a field that
    /// is intended for all recipients of the content". Whoever names a field that frames or
    /// routes the message wants it to get lost on the way.
    fn learn_connection(&mut self, value: &[u8]) -> Result<(), &'static str> {
        for option in tokens(std::iter::once(value)) {
            self.options += 1;
            if self.options > OPTIONS_MAX {
                return Err("Connection lists too many options");
            }
            let is = |name: &str| option.eq_ignore_ascii_case(name.as_bytes());
            if is("close") {
                self.closes = true;
            } else if is("keep-alive") {
                self.keeps_alive = true;
            } else if is("upgrade") {
                self.upgrades = true;
            } else if is("content-length") || is("transfer-encoding") || is("host") || is("connection") {
                return Err("Connection names a field that belongs to the message");
            } else if !is_token(option) {
                return Err("Connection is not a list of tokens");
            }
        }
        Ok(())
    }

    /// RFC 9112 §6.3: a list of the same number may be taken for that number; all else is an
    /// "unrecoverable error".
    fn learn_length(&mut self, value: &[u8]) -> Result<(), &'static str> {
        for member in value.split(|byte| *byte == b',') {
            let length = decimal(member.trim_ascii()).ok_or("Content-Length is not a number")?;
            if self.length.is_some_and(|known| known != length) {
                return Err("there are several Content-Lengths that differ");
            }
            self.length = Some(length);
        }
        Ok(())
    }

    fn persists(&self, version: Version) -> bool {
        match version {
            Version::Http10 => self.keeps_alive && !self.closes,
            _ => !self.closes,
        }
    }

    fn request_body(&self, parts: &RequestParts) -> Result<BodyLength, Refused> {
        match (self.codings.listed, self.length) {
            (false, None) if needs_length(parts) => Err(Refused::new(
                &Fault::LENGTH_REQUIRED,
                Cause::Malformed,
                "the end of the body cannot be known",
            )),
            (false, None) => Ok(BodyLength::None),
            (false, Some(length)) => Ok(BodyLength::Exact(length)),
            (true, Some(_)) => Err(Refused::malformed(
                "there are Transfer-Encoding and Content-Length",
            )),
            (true, None) if parts.version == Version::Http10 => {
                Err(Refused::malformed("HTTP/1.0 has no Transfer-Encoding"))
            }
            (true, None) if !self.codings.are_framed() => Err(Refused::malformed(
                "Transfer-Encoding does not end in chunked, once",
            )),
            (true, None) if self.codings.others => Err(Refused::new(
                &Fault::TRANSFER_CODING_UNSUPPORTED,
                Cause::Unsupported,
                "chunked is the only transfer coding known here",
            )),
            (true, None) => Ok(BodyLength::Chunked),
        }
    }

    fn response_body(
        &self,
        status: StatusCode,
        version: Version,
        asked: Asked,
    ) -> Result<BodyLength, &'static str> {
        if self.codings.listed && self.length.is_some() {
            return Err("there are Transfer-Encoding and Content-Length");
        }
        if status.is_informational() || status == StatusCode::NO_CONTENT {
            return Ok(BodyLength::None);
        }
        if asked.head || status == StatusCode::NOT_MODIFIED {
            return Ok(self.length.map_or(BodyLength::None, BodyLength::Exact));
        }
        match self.length {
            Some(length) => Ok(BodyLength::Exact(length)),
            None if !self.codings.listed => Ok(BodyLength::UntilClose),
            None if version == Version::Http10 => Err("HTTP/1.0 has no Transfer-Encoding"),
            None if !self.codings.are_framed() || self.codings.others => {
                Err("Transfer-Encoding is not chunked, once")
            }
            None => Ok(BodyLength::Chunked),
        }
    }

    /// Whether a body is announced where none can be: whoever does so may send it, too, and it would be taken
    /// for the next response.
    fn announces_beyond(&self, status: StatusCode) -> bool {
        let is_announced = self.codings.listed || self.length.is_some_and(|length| length > 0);
        // A 304, like what answers HEAD, may tell of the body that another answer would have (RFC 9110 §8.6).
        status == StatusCode::NO_CONTENT && is_announced
    }

    fn check_request(&self, parts: &RequestParts, target: &Target) -> Result<(), Refused> {
        if self.hosts > 1 {
            return Err(Refused::malformed("there are several Hosts"));
        }
        if self.hosts == 0 && parts.version == Version::Http11 {
            return Err(Refused::malformed("there is no Host"));
        }
        if matches!(parts.method, Method::CONNECT | Method::TRACE) || target.is_tunnel {
            return Err(Refused::new(
                &Fault::METHOD_UNSUPPORTED,
                Cause::MethodNotAllowed,
                "CONNECT and TRACE are not served",
            ));
        }
        if self.expects_else && parts.version == Version::Http11 {
            return Err(Refused::new(
                &Fault::EXPECTATION_FAILED,
                Cause::Unsupported,
                "only 100-continue may be expected",
            ));
        }
        Ok(())
    }
}

/// RFC 1945 §8.3: "A valid Content-Length is required on all HTTP/1.0 POST requests."
fn needs_length(parts: &RequestParts) -> bool {
    parts.version == Version::Http10 && matches!(parts.method, Method::POST | Method::PUT | Method::PATCH)
}

impl Codings {
    fn learn(&mut self, value: &[u8]) {
        self.listed = true;
        for coding in tokens(std::iter::once(value)) {
            self.chunked_is_last = coding.eq_ignore_ascii_case(b"chunked");
            self.chunked += usize::from(self.chunked_is_last);
            self.others |= !self.chunked_is_last;
        }
    }

    fn are_framed(&self) -> bool {
        self.chunked_is_last && self.chunked == 1
    }
}

/// What a request asks for, taken apart.
struct Target {
    path: Span,
    query: Option<Span>,
    /// Of an absolute target.
    authority: Option<Span>,
    is_tunnel: bool,
}

impl Target {
    fn of(fields: &mut Fields, parts: &RequestParts) -> Result<Self, Refused> {
        let target = fields.value(parts.target);
        match target.first() {
            Some(b'/') => Self::in_origin_form(fields, parts.target, None),
            Some(b'*') if target.len() == 1 && parts.method == Method::OPTIONS => {
                Ok(Self::plain(parts.target))
            }
            _ if parts.method == Method::CONNECT && is_authority(target) => Ok(Self {
                is_tunnel: true,
                ..Self::plain(parts.target)
            }),
            _ => Self::in_absolute_form(fields, parts),
        }
    }

    fn plain(path: Span) -> Self {
        Self {
            path,
            query: None,
            authority: None,
            is_tunnel: false,
        }
    }

    fn in_origin_form(fields: &Fields, target: Span, authority: Option<Span>) -> Result<Self, Refused> {
        let text = fields.value(target);
        let question = memchr(b'?', text);
        let path = &text[..question.unwrap_or(text.len())];
        if !escapes_are_good(path) {
            return Err(Refused::malformed(
                "the path holds a percent sign without two digits",
            ));
        }
        let (from, to) = target;
        Ok(Self {
            path: (from, from + offset(path.len())),
            query: question.map(|at| (from + offset(at) + 1, to)),
            authority,
            is_tunnel: false,
        })
    }

    /// RFC 9112 §3.2.2: "the origin server MUST ignore the received Host header field (if any) and
    /// instead use the host information of the request-target."
    fn in_absolute_form(fields: &mut Fields, parts: &RequestParts) -> Result<Self, Refused> {
        let (from, to) = parts.target;
        let target = fields.value(parts.target);
        let scheme = [&b"http://"[..], b"https://"].into_iter().find(|scheme| {
            target
                .get(..scheme.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(scheme))
        });
        let after = scheme
            .ok_or_else(|| Refused::malformed("the request target is in no form that is known"))?
            .len();
        let rest = &target[after..];
        let end = rest
            .iter()
            .position(|byte| matches!(byte, b'/' | b'?'))
            .unwrap_or(rest.len());
        if end == 0 || rest[0] == b':' || !is_authority(&rest[..end]) {
            return Err(Refused::malformed("the request target's authority is not one"));
        }
        let start = from + offset(after);
        let authority = Some((start, start + offset(end)));
        let path = (start + offset(end), to);
        match rest.get(end) {
            Some(b'/') => Self::in_origin_form(fields, path, authority),
            None if parts.method == Method::OPTIONS => Ok(Self {
                authority,
                ..Self::plain(fields.store(b"*"))
            }),
            _ => {
                // `http://host?query` has a path all the same.
                let mut whole = b"/".to_vec();
                whole.extend_from_slice(fields.value(path));
                let path = fields.store(&whole);
                Self::in_origin_form(fields, path, authority)
            }
        }
    }
}

/// What is sent on says the same host everywhere, and says one: HTTP/1.0 may leave Host out.
fn state_host(fields: &mut Fields, authority: Span) {
    let mut lines = std::mem::take(&mut fields.lines);
    let host = lines
        .iter_mut()
        .find(|(name, _)| fields.value(*name).eq_ignore_ascii_case(b"host"));
    match host {
        Some((_, value)) => *value = authority,
        None => lines.push((fields.store(b"Host"), authority)),
    }
    fields.lines = lines;
}

/// Digits only, and few enough; no sign, no space.
fn decimal(text: &[u8]) -> Option<u64> {
    const MAX: u64 = i64::MAX as u64; // what every other implementation can count to
    if text.is_empty() || text.len() > 20 {
        return None;
    }
    text.iter()
        .try_fold(0_u64, |value, byte| match byte {
            b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(byte - b'0')),
            _ => None,
        })
        .filter(|value| *value <= MAX)
}

pub(in crate::http) fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|byte| is_token_byte(*byte))
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// `uri-host [ ":" port ]` of RFC 3986 without user information; empty is one too.
pub(super) fn is_authority(text: &[u8]) -> bool {
    let (host, port) = match text.strip_prefix(b"[") {
        Some(rest) => match rest.iter().position(|byte| *byte == b']') {
            Some(end) => {
                let address = std::str::from_utf8(&rest[..end]).unwrap_or_default();
                if address.parse::<std::net::Ipv6Addr>().is_err() {
                    return false;
                }
                (&b""[..], &rest[end + 1..])
            }
            None => return false,
        },
        None => text.split_at(memchr(b':', text).unwrap_or(text.len())),
    };
    let host_byte = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(byte);
    let port_is_good = match port.split_first() {
        None => true,
        Some((b':', digits)) => digits.is_empty() || decimal(digits).is_some_and(|port| port <= 65535),
        Some(_) => false,
    };
    port_is_good && host.iter().all(host_byte) && escapes_are_good(host)
}

/// Whether every percent sign is followed by two hexadecimal digits.
fn escapes_are_good(text: &[u8]) -> bool {
    let mut rest = text;
    while let Some(at) = memchr(b'%', rest) {
        rest = &rest[at + 1..];
        if !(rest.len() >= 2 && rest[0].is_ascii_hexdigit() && rest[1].is_ascii_hexdigit()) {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests;
