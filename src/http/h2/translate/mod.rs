//! Messages between HTTP/2 and the rest of Atlas (RFC 9113 §8): what does not mean one thing only is
//! refused. Free of waits.
//!
//! A request becomes a head of HTTP/1.1 and is read by the parser of those, so that what can reach an
//! endpoint is what could have come by HTTP/1.1: no version is a way round a check of another.

pub mod endpoint;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode, request};

use super::super::errors::Fault;
use super::super::h1::encode::{self, Framing, Recipient};
use super::super::h1::parse::{self, Limits, Refused, Scan};
use super::super::{BodyLength, Fields, RequestHead, ResponseHead, Version};
use crate::buffer::{Buffer, SMALL};
use crate::outcome::Cause;

/// RFC 9113 §8.2.2: fields of one connection of HTTP/1.
const OF_CONNECTIONS: [HeaderName; 5] = [
    header::CONNECTION,
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("keep-alive"),
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// What a request means. `ends`: it has no body.
///
/// # Errors
///
/// Why it is not taken; the connection can go on.
pub fn request(parts: &request::Parts, ends: bool, limits: &Limits) -> Result<RequestHead, Refused> {
    let mut text = Buffer::with_size(SMALL);
    let method = method(parts)?;
    write_request(method, parts, &mut text)?;
    let head = parse::request(&mut text, &mut Scan::default(), limits)?;
    let mut head = head.ok_or_else(|| malformed("the head has no end"))?;
    head.version = Version::Http2;
    if let Wanted::WebSocket = method {
        // What comes behind it is no body but the tunnel's.
        return match head.body {
            BodyLength::None => {
                head.connects = true;
                Ok(head)
            }
            _ => Err(malformed("CONNECT has no content")),
        };
    }
    head.body = match (head.body, ends) {
        (BodyLength::Exact(0), true) => BodyLength::Exact(0),
        (_, true) => BodyLength::None,
        // Its length is not said; it goes on in chunks.
        (BodyLength::None, false) => BodyLength::Chunked,
        (length, false) => length,
    };
    Ok(head)
}

/// What is known of a request that was refused, as the line of HTTP/1.1 that it would have been.
pub(super) fn request_line(parts: &request::Parts) -> String {
    let path = parts.uri.path_and_query().map_or("", |path| path.as_str());
    format!("{} {path} HTTP/2.0", parts.method)
}

fn malformed(why: &'static str) -> Refused {
    Refused {
        fault: &Fault::REQUEST_MALFORMED,
        cause: Cause::Malformed,
        why,
    }
}

/// What a request asks for.
#[derive(Clone, Copy)]
enum Wanted<'p> {
    Method(&'p Method),
    /// By extended CONNECT (RFC 8441 §5); in HTTP/1.1 it is asked for by GET and Upgrade.
    WebSocket,
}

impl Wanted<'_> {
    fn method(&self) -> &str {
        match self {
            Self::Method(method) => method.as_str(),
            Self::WebSocket => Method::GET.as_str(),
        }
    }
}

fn method(parts: &request::Parts) -> Result<Wanted<'_>, Refused> {
    let refused = |why| Refused {
        fault: &Fault::METHOD_UNSUPPORTED,
        cause: Cause::MethodNotAllowed,
        why,
    };
    let protocol = parts.extensions.get::<h2::ext::Protocol>().map(AsRef::as_ref);
    match (parts.method == Method::CONNECT, protocol) {
        (false, None) => Ok(Wanted::Method(&parts.method)),
        (true, Some(b"websocket")) => Ok(Wanted::WebSocket),
        (true, Some(_)) => Err(refused(
            "the only :protocol of CONNECT that is served is websocket",
        )),
        (true, None) => Err(refused("CONNECT is not served")),
        (false, Some(_)) => Err(malformed("only CONNECT has a :protocol")),
    }
}

/// Writes a request as a head of HTTP/1.1. None of its parts can hold what would end another.
fn write_request(wanted: Wanted<'_>, parts: &request::Parts, out: &mut Buffer) -> Result<(), Refused> {
    let target = parts.uri.path_and_query().map_or("", |path| path.as_str());
    // RFC 9113 §8.3.1: never empty for http and https; `*` for OPTIONS. An absolute target has no
    // place in :path, though the parser would take it.
    let is_target = match target.as_bytes() {
        [b'/', ..] => true,
        [b'*'] => parts.method == Method::OPTIONS,
        _ => false,
    };
    if !is_target {
        return Err(malformed(":path does not begin with a slash"));
    }
    put_line(
        out,
        &[wanted.method().as_bytes(), b" ", target.as_bytes(), b" HTTP/1.1"],
    )?;
    put_line(out, &[b"Host: ", authority(parts)?])?;
    if let Wanted::WebSocket = wanted {
        put(out, b"Connection: Upgrade\r\nUpgrade: websocket\r\n");
    }
    put_fields(&parts.headers, out)?;
    put_line(out, &[])
}

/// RFC 9113 §8.3.1: :authority stands for Host; where both are there, they have to be the same.
fn authority(parts: &request::Parts) -> Result<&[u8], Refused> {
    let named = parts
        .uri
        .authority()
        .map(|authority| authority.as_str().as_bytes());
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let host = hosts.next().map(|host| checked(host.as_bytes())).transpose()?;
    if hosts.next().is_some() {
        return Err(malformed("there are several Hosts"));
    }
    match (named, host) {
        (Some(named), Some(host)) if !named.eq_ignore_ascii_case(host) => {
            Err(malformed(":authority and Host differ"))
        }
        (Some(authority), _) | (None, Some(authority)) => Ok(authority),
        (None, None) => Err(malformed("there is no :authority")),
    }
}

fn put_fields(fields: &HeaderMap, out: &mut Buffer) -> Result<(), Refused> {
    for name in fields.keys() {
        if OF_CONNECTIONS.contains(name) {
            return Err(malformed("a field belongs to connections of HTTP/1"));
        }
        if name == header::HOST {
            continue;
        }
        if name == header::COOKIE {
            put_cookies(fields, out)?;
            continue;
        }
        for value in fields.get_all(name) {
            let value = checked(value.as_bytes())?;
            if name == header::TE && !value.eq_ignore_ascii_case(b"trailers") {
                return Err(malformed("TE holds something else than `trailers`"));
            }
            put_field(out, name, value);
        }
    }
    Ok(())
}

/// RFC 9113 §8.2.3: before they pass "into a non-HTTP/2 context" cookies "MUST be concatenated into a
/// single octet string" with `; ` between them.
fn put_cookies(fields: &HeaderMap, out: &mut Buffer) -> Result<(), Refused> {
    put(out, b"cookie: ");
    for (at, cookie) in fields.get_all(header::COOKIE).iter().enumerate() {
        if at > 0 {
            put(out, b"; ");
        }
        put(out, checked(cookie.as_bytes())?);
    }
    put_line(out, &[])
}

/// RFC 9113 §8.2.1: a value holds no NUL, LF or CR, and neither begins nor ends with white space.
fn checked(value: &[u8]) -> Result<&[u8], Refused> {
    let is_space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    if is_space(value.first()) || is_space(value.last()) {
        return Err(malformed("a field's value begins or ends with white space"));
    }
    // Without an early end, so that it is done in words of the machine.
    let bad = |bad, byte: &u8| bad | matches!(byte, b'\r' | b'\n' | 0);
    match value.iter().fold(false, bad) {
        true => Err(malformed("a field's value holds a control byte")),
        false => Ok(value),
    }
}

/// Writes a field whose value was checked. A name of the `http` crate holds no end of line; whether it is a token the
/// parser sees.
fn put_field(out: &mut Buffer, name: &HeaderName, checked: &[u8]) {
    let name = name.as_str().as_bytes();
    out.reserve(name.len() + checked.len() + 4);
    out.push(name);
    out.push(b": ");
    out.push(checked);
    out.push(b"\r\n");
}

/// Writes a line, if nothing in it would end it early.
fn put_line(out: &mut Buffer, parts: &[&[u8]]) -> Result<(), Refused> {
    for part in parts {
        if memchr::memchr2(b'\r', b'\n', part).is_some() {
            return Err(malformed("the request holds an end of line"));
        }
        put(out, part);
    }
    put(out, b"\r\n");
    Ok(())
}

fn put(out: &mut Buffer, bytes: &[u8]) {
    out.reserve(bytes.len());
    out.push(bytes);
}

/// A message's trailers, without those that must not stand there.
///
/// # Errors
///
/// What is wrong with them.
pub fn trailers(fields: &HeaderMap) -> Result<Fields, Cause> {
    let mut trailers = Fields::new();
    for (name, value) in fields {
        let value = checked(value.as_bytes()).map_err(|refused| refused.cause)?;
        // No parser reads them behind us, and to the `http` crate a quotation mark is good in a name.
        if OF_CONNECTIONS.contains(name) || !parse::is_token(name.as_str().as_bytes()) {
            return Err(Cause::Malformed);
        }
        if parse::is_good_trailer(name.as_str()) {
            trailers.push(name.as_str(), value);
        }
    }
    Ok(trailers)
}

/// A response's head, and how its body goes. `to_head`: it answers HEAD.
///
/// # Errors
///
/// A field that HTTP/2 has no way to say.
pub fn response(head: &ResponseHead, to_head: bool) -> Result<(http::Response<()>, Framing), Cause> {
    let mut response = http::Response::new(());
    *response.status_mut() = head.status;
    let fields = response.headers_mut();
    *fields = header_map(&head.fields)?;
    let to = Recipient {
        version: Version::Http11, // which bodies there are does not change with the version
        head: to_head,
    };
    let framing = encode::framing(head, to);
    if head.status.is_informational() {
        return Ok((response, framing));
    }
    let length = match (framing, head.body) {
        // An answer without content whose length nobody said, as gRPC has them.
        (_, BodyLength::None) => None,
        (Framing::Exact(length), _) => Some(length),
        // What a GET would have had (RFC 9110 §8.6); never for 204.
        (Framing::Suppressed, BodyLength::Exact(length)) if head.status != StatusCode::NO_CONTENT => {
            Some(length)
        }
        _ => None,
    };
    if let Some(length) = length {
        fields.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    if !fields.contains_key(header::DATE) {
        encode::with_date(|date| {
            if let Ok(date) = HeaderValue::from_bytes(date) {
                fields.insert(header::DATE, date);
            }
        });
    }
    Ok((response, framing))
}

/// What says to a CONNECT what a 101 says to the upgrade it was made into. RFC 8441 §5: the answer is 200,
/// without what stands for the keys of HTTP/1.1.
///
/// # Errors
///
/// As for [`response`].
pub(super) fn agreement(head: &ResponseHead) -> Result<http::Response<()>, Cause> {
    let mut response = http::Response::new(()); // 200
    *response.headers_mut() = header_map(&head.fields)?;
    response.headers_mut().remove(header::SEC_WEBSOCKET_ACCEPT);
    Ok(response)
}

/// A message's trailers as the `h2` crate takes them; `None` if there are none.
pub fn trailer_map(trailers: Option<&Fields>) -> Option<HeaderMap> {
    let mut good = Fields::new();
    for (name, value) in trailers?.iter() {
        if parse::is_good_trailer(name) {
            good.push(name, value);
        }
    }
    header_map(&good).ok().filter(|map| !map.is_empty())
}

/// Fields as the `h2` crate takes them, without those of one connection and without the length, which is known
/// apart from them.
fn header_map(fields: &Fields) -> Result<HeaderMap, Cause> {
    let mut map = HeaderMap::with_capacity(fields.len() + 2);
    for (name, value) in fields.lines() {
        let name = HeaderName::from_bytes(name).map_err(|_| Cause::Malformed)?;
        if name == header::CONTENT_LENGTH || OF_CONNECTIONS.contains(&name) {
            continue;
        }
        let value = Bytes::copy_from_slice(value.trim_ascii());
        let value = HeaderValue::from_maybe_shared(value).map_err(|_| Cause::Malformed)?;
        map.try_append(name, value).map_err(|_| Cause::LimitReached)?;
    }
    Ok(map)
}

#[cfg(test)]
mod tests;
