//! The one spelling of a host and of a path that routes are compared in, so that another spelling
//! of the same thing cannot dodge a route. What is forwarded stays as it was sent.

use std::borrow::Cow;
use std::net::Ipv6Addr;

/// A host in lower case, without port and final dot; an IPv6 literal in its shortest form.
pub fn host(authority: &str) -> Cow<'_, str> {
    if let Some(literal) = authority.strip_prefix('[') {
        let inner = literal.split(']').next().unwrap_or(literal);
        return Cow::Owned(match inner.parse::<Ipv6Addr>() {
            Ok(address) => format!("[{address}]"),
            Err(_) => format!("[{}]", inner.to_ascii_lowercase()),
        });
    }
    let name = match authority.rsplit_once(':') {
        // More than one colon and no brackets: an IPv6 address somebody forgot to bracket.
        Some((name, port)) if !name.contains(':') && port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => authority,
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}

/// A path with everything decoded that means the same encoded, `.` and `..` resolved and repeated
/// slashes merged; `None` if `..` climbs above the root.
///
/// `%2F` stays: it is not a border of segments. `*` (of `OPTIONS *`) is taken for `/`.
pub fn path(sent: &str) -> Option<Cow<'_, str>> {
    if sent == "*" {
        return Some(Cow::Borrowed("/"));
    }
    if is_normal(sent.as_bytes()) {
        return Some(Cow::Borrowed(sent));
    }
    resolve(&decode(sent)).map(Cow::Owned)
}

/// A path of the configuration; one that climbs above the root stays as it is and matches nothing.
pub(super) fn pattern(written: &str) -> String {
    path(written).map_or_else(|| written.to_owned(), Cow::into_owned)
}

/// Whether nothing is to be done: the common case, told in one pass.
fn is_normal(path: &[u8]) -> bool {
    let mut after_slash = false;
    path.first() == Some(&b'/')
        && path.iter().all(|&byte| {
            let is_slash = byte == b'/';
            let is_dots = after_slash && (is_slash || byte == b'.');
            after_slash = is_slash;
            (is_slash || is_plain(byte)) && !is_dots
        })
}

/// Characters a segment may hold as they are (RFC 3986 `pchar` without percent). Encoded or not,
/// everybody takes them for the same.
fn is_plain(byte: u8) -> bool {
    PLAIN[usize::from(byte)]
}

/// Looked up, as every byte of every path is asked for.
const PLAIN: [bool; 256] = {
    let marks = b"-._~!$&'()*+,;=:@";
    let mut plain = [false; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        plain[byte as usize] = byte.is_ascii_alphanumeric();
        byte += 1;
    }
    let mut at = 0;
    while at < marks.len() {
        plain[marks[at] as usize] = true;
        at += 1;
    }
    plain
};

/// Each byte in its one spelling: plain where it may be, else percent and two upper-case digits.
fn decode(sent: &str) -> String {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let bytes = sent.as_bytes();
    let mut out = String::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let encoded = match bytes[at..] {
            [b'%', high, low, ..] => hex(high).zip(hex(low)).map(|(high, low)| high << 4 | low),
            _ => None,
        };
        let byte = encoded.unwrap_or(bytes[at]);
        if is_plain(byte) || (byte == b'/' && encoded.is_none()) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(char::from(DIGITS[usize::from(byte >> 4)]));
            out.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
        at += if encoded.is_some() { 3 } else { 1 };
    }
    out
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}

/// Resolves `.` and `..` and merges slashes.
fn resolve(path: &str) -> Option<String> {
    let mut out = String::with_capacity(path.len() + 1);
    let mut segments = path.split('/').peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            "" | "." => {}
            ".." => out.truncate(out.rfind('/')?),
            name => {
                out.push('/');
                out.push_str(name);
                continue;
            }
        }
        // `/a/`, `/a/.` and `/a/b/..` name a folder.
        if is_last {
            out.push('/');
        }
    }
    Some(out)
}
