//! Heads and fields: owned, parsed where they lie, changed in place, written again from here.

use std::cell::RefCell;

use http::{Method, StatusCode};

use crate::buffer::Buffer;

/// Lists of fields a worker keeps the memory of; one for each message on its way is enough.
const SPARE_LISTS_MAX: usize = 64;

/// Lists that have grown beyond this many fields are not kept.
const SPARE_LIST_FIELDS_MAX: usize = 128;

thread_local! {
    static SPARE: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// The versions of HTTP Atlas speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
    /// HTTP/2
    Http2,
}

impl Version {
    /// As the wire and the log write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2.0",
        }
    }
}

/// How long a body is; decided once, from the head (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// There is none.
    None,
    /// Content-Length, which may be zero.
    Exact(u64),
    /// In chunks, with or without trailers.
    Chunked,
    /// All there is until the connection closes. Responses only.
    UntilClose,
}

/// A piece of the bytes of a [`Fields`]: from, to.
pub(in crate::http) type Span = (u32, u32);

/// Where a field lies: its name, its value.
pub(in crate::http) type Line = (Span, Span);

/// The fields of a head or of trailers, in the order they came.
///
/// Names are tokens and values hold no CR, LF or NUL: parsing checks it, and so does
/// [`Self::push`].
#[derive(Default)]
pub struct Fields {
    /// A parsed head lies here whole; what is pushed follows it.
    pub(in crate::http) bytes: Buffer,
    pub(in crate::http) lines: Vec<Line>,
}

impl Fields {
    /// None.
    pub fn new() -> Self {
        Self::lying_in(Buffer::none())
    }

    /// Of a head that lies in `bytes`; the lines are to be told.
    pub(in crate::http) fn lying_in(bytes: Buffer) -> Self {
        let lines = SPARE.with_borrow_mut(Vec::pop).unwrap_or_default();
        Self { bytes, lines }
    }

    /// Name and value of each, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.lines
            .iter()
            .map(|&(name, value)| (self.name(name), self.value(value)))
    }

    /// The value of the first field of this name, in any case.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.lines()
            .find(|(known, _)| known.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| value)
    }

    /// The values of all fields of this name, in any case.
    pub fn get_all<'a>(&'a self, wanted: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.lines()
            .filter(move |(name, _)| name.eq_ignore_ascii_case(wanted.as_bytes()))
            .map(|(_, value)| value)
    }

    /// As [`Self::iter`], with names as bytes: what is only compared and copied need not be shown
    /// to be text first.
    pub(in crate::http) fn lines(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.lines
            .iter()
            .map(|&(name, value)| (self.value(name), self.value(value)))
    }

    /// Each name, where its value lies, and where the whole line does, `Name: value` and CR LF, if
    /// it lies so: almost every line that was parsed, and all that were pushed.
    pub(in crate::http) fn wire_lines(&self) -> impl Iterator<Item = (&[u8], Span, Option<Span>)> {
        let all = self.bytes.filled();
        self.lines.iter().map(move |&(name, value)| {
            let is = |at: u32, byte| all.get(at as usize) == Some(&byte);
            let (colon, end) = (name.1, value.1);
            let is_spaced = value.0 == colon + 2 && is(colon, b':') && is(colon + 1, b' ');
            let lies_so = is_spaced && is(end, b'\r') && is(end + 1, b'\n');
            let line = lies_so.then(|| (name.0, value.1 + 2));
            (&all[name.0 as usize..name.1 as usize], value, line)
        })
    }

    /// Whether there is a field of this name.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Bytes they take as text of HTTP/1.1 or in HPACK, at the most.
    pub(in crate::http) fn size(&self) -> usize {
        const LENGTHS_BYTES: usize = 16;
        self.bytes.len() + LENGTHS_BYTES * self.len()
    }

    /// Adds a field at the end. A value with CR, LF or NUL is not added, since it could not be
    /// written: the caller has checked what it did not make itself.
    pub fn push(&mut self, name: &str, value: impl AsRef<[u8]>) {
        let value = value.as_ref();
        // Without an early end, so that it is done in words of the machine.
        let bad = |bad, byte: &u8| bad | matches!(byte, b'\r' | b'\n' | 0);
        let writable = !value.iter().fold(false, bad);
        debug_assert!(writable && !name.is_empty());
        if writable {
            self.push_line(name.as_bytes(), value);
        }
    }

    /// As a line of the wire, so that it is written again in one piece.
    fn push_line(&mut self, name: &[u8], value: &[u8]) {
        let length = name.len() + value.len() + 4;
        let from = self.reserve(length);
        let (name_to, rest) = self.bytes.space()[..length].split_at_mut(name.len());
        name_to.copy_from_slice(name);
        let (value_to, end) = rest[2..].split_at_mut(value.len());
        value_to.copy_from_slice(value);
        end.copy_from_slice(b"\r\n");
        rest[..2].copy_from_slice(b": ");
        self.bytes.fill(length);
        let behind = from + name.len() + 2;
        self.lines.push((
            (offset(from), offset(from + name.len())),
            (offset(behind), offset(behind + value.len())),
        ));
    }

    /// Adds a block at the end.
    pub fn push_block(&mut self, block: &FieldBlock) {
        let (from, _) = self.store(&block.bytes);
        let moved = |(start, end): Span| (from + start, from + end);
        let lines = block
            .lines
            .iter()
            .map(|&(name, value)| (moved(name), moved(value)));
        self.lines.extend(lines);
    }

    /// Replaces all fields of this name by one.
    pub fn set(&mut self, name: &str, value: impl AsRef<[u8]>) {
        self.remove(name);
        self.push(name, value);
    }

    /// Removes all fields of this name; whether there were any.
    pub fn remove(&mut self, name: &str) -> bool {
        let before = self.len();
        self.retain(|known, _| !known.eq_ignore_ascii_case(name.as_bytes()));
        self.len() < before
    }

    /// Keeps the fields for which `keep` holds; it is given name and value.
    pub fn retain(&mut self, mut keep: impl FnMut(&[u8], &[u8]) -> bool) {
        let mut lines = std::mem::take(&mut self.lines);
        lines.retain(|&(name, value)| keep(self.value(name), self.value(value)));
        self.lines = lines;
    }

    pub(in crate::http) fn value(&self, (from, to): Span) -> &[u8] {
        &self.bytes.filled()[from as usize..to as usize]
    }

    fn name(&self, span: Span) -> &str {
        std::str::from_utf8(self.value(span)).unwrap_or_default() // a token is ASCII
    }

    /// Makes space behind the bytes that are there; where it begins.
    fn reserve(&mut self, count: usize) -> usize {
        let from = self.bytes.len();
        if self.bytes.space().len() < count {
            self.bytes.compact();
            self.bytes.grow(from + count);
        }
        from
    }

    /// Puts bytes behind those that are there.
    pub(in crate::http) fn store(&mut self, bytes: &[u8]) -> Span {
        let from = self.reserve(bytes.len());
        self.bytes.push(bytes);
        (offset(from), offset(from + bytes.len()))
    }
}

impl Drop for Fields {
    fn drop(&mut self) {
        let mut lines = std::mem::take(&mut self.lines);
        if lines.capacity() == 0 || lines.capacity() > SPARE_LIST_FIELDS_MAX {
            return;
        }
        lines.clear();
        // At the end of a thread the spare lists may be gone before the last message.
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < SPARE_LISTS_MAX {
                spare.push(lines);
            }
        });
    }
}

/// Fields that go into many heads, written once.
#[derive(Debug)]
pub struct FieldBlock {
    bytes: Box<[u8]>,
    lines: Box<[Line]>,
}

impl FieldBlock {
    /// Of these fields.
    pub fn of(fields: &Fields) -> Self {
        Self {
            bytes: fields.bytes.filled().into(),
            lines: fields.lines.as_slice().into(),
        }
    }
}

/// Heads are bounded far below 4 GiB by `limits.head`.
pub(in crate::http) fn offset(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

/// A request's head, checked.
pub struct RequestHead {
    pub(in crate::http) method: Method,
    pub(in crate::http) version: Version,
    /// Where in the fields' bytes: path and query; the authority of the target or of Host.
    pub(in crate::http) path: Span,
    pub(in crate::http) query: Option<Span>,
    pub(in crate::http) authority: Option<Span>,
    pub(in crate::http) body: BodyLength,
    /// Whether the client wants to use the connection again.
    pub(in crate::http) persists: bool,
    pub(in crate::http) expects_continue: bool,
    pub(in crate::http) asks_upgrade: bool,
    /// It came as an extended CONNECT.
    pub(in crate::http) connects: bool,
    /// The fields, to be changed on the way: without those that frame the body (Content-Length,
    /// Transfer-Encoding; see [`RequestHead::body`]), and with Host as [`RequestHead::authority`]
    /// says.
    pub fields: Fields,
}

impl RequestHead {
    /// The method.
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// The version the client speaks.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The path as it was sent, still encoded: begins with `/`, or is `*` (OPTIONS only).
    pub fn path(&self) -> &str {
        self.text(self.path)
    }

    /// What follows `?`, if there is one.
    pub fn query(&self) -> Option<&str> {
        self.query.map(|span| self.text(span))
    }

    /// Path, `?` and query.
    pub fn path_and_query(&self) -> &str {
        match self.query {
            Some((_, end)) => self.text((self.path.0, end)),
            None => self.path(),
        }
    }

    /// Host and perhaps port, from an absolute target or else from Host. Missing or empty only in
    /// HTTP/1.0 requests and for `Host:` without a value.
    pub fn authority(&self) -> Option<&str> {
        self.authority
            .map(|span| self.text(span))
            .filter(|authority| !authority.is_empty())
    }

    /// How long the body is.
    pub fn body(&self) -> BodyLength {
        self.body
    }

    /// Whether the client waits for `100 Continue` before it sends the body. HTTP/1.0 clients
    /// never do, whatever they say.
    pub fn expects_continue(&self) -> bool {
        self.expects_continue
    }

    /// Whether the client is ready to go on in another protocol: Connection names Upgrade. RFC 9110
    /// §7.8: "A server MUST ignore an Upgrade header field that is received in an HTTP/1.0 request."
    pub fn asks_upgrade(&self) -> bool {
        self.asks_upgrade
    }

    /// Whether it came as an extended CONNECT of HTTP/2 (RFC 8441), and reads as the upgrade of HTTP/1.1
    /// that means the same: what follows goes on within its stream.
    pub fn connects(&self) -> bool {
        self.connects
    }

    fn text(&self, span: Span) -> &str {
        std::str::from_utf8(self.fields.value(span)).unwrap_or_default() // checked when parsed
    }
}

/// A response's head, checked; or one made by Atlas.
pub struct ResponseHead {
    /// The status.
    pub status: StatusCode,
    /// How long the body is. Of a response to HEAD and of a 304: what Content-Length says of the
    /// body that is not sent, if it was there.
    pub body: BodyLength,
    /// The fields, without those that frame the body.
    pub fields: Fields,
}

impl ResponseHead {
    /// One made by Atlas.
    pub fn new(status: StatusCode, body: BodyLength) -> Self {
        Self {
            status,
            body,
            fields: Fields::new(),
        }
    }
}

/// Whether a field is this one, which is written in small letters. `X_Real_IP` is X-Real-IP, too, to an
/// application that sees fields as CGI variables.
pub fn is_named(name: &[u8], known: &str) -> bool {
    let folded = name.iter().map(|byte| match byte {
        b'_' => b'-',
        byte => byte.to_ascii_lowercase(),
    });
    name.len() == known.len() && folded.eq(known.bytes())
}

/// What proxies tell endpoints of a client, and believe only of those they trust; as is everything that begins
/// with `x-forwarded-`.
const TOLD: [&str; 3] = ["x-real-ip", "forwarded", "x-request-id"];

/// Whether a field tells of a client.
pub fn is_told(name: &[u8]) -> bool {
    const PREFIX: &str = "x-forwarded-";
    let start = name.get(..PREFIX.len());
    start.is_some_and(|start| is_named(start, PREFIX)) || TOLD.iter().any(|known| is_named(name, known))
}

/// Whether one of the values is a list (`a, b`) with this token in it, in any case.
pub fn has_token<'a>(values: impl Iterator<Item = &'a [u8]>, token: &str) -> bool {
    tokens(values).any(|known| known.eq_ignore_ascii_case(token.as_bytes()))
}

/// The members of comma-separated lists, trimmed, without empty ones.
pub fn tokens<'a>(values: impl Iterator<Item = &'a [u8]>) -> impl Iterator<Item = &'a [u8]> {
    values
        .flat_map(|value| value.split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|token| !token.is_empty())
}
