//! Messages with an endpoint that speaks HTTP/2. Its responses are read by the parser of HTTP/1.1, as
//! requests of clients are: what reaches a client could have come by HTTP/1.1.

use std::fmt::Write as _;

use http::header::{self, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{Request, StatusCode, response};

use super::{BodyLength, Buffer, Cause, Limits, OF_CONNECTIONS, ResponseHead, SMALL, Scan};
use super::{checked, header_map, parse, put_line};
use crate::http::h1::client::Outgoing;
use crate::http::h1::parse::Asked;

/// Fields that are not put into the table that all requests of a connection share: who sees the lengths
/// of others' requests could guess at them (RFC 7541 §7.1.3).
const SECRET: [header::HeaderName; 2] = [header::AUTHORIZATION, header::COOKIE];

/// A request as the `h2` crate takes it.
///
/// # Errors
///
/// `Malformed`: it has a name that cannot be an authority, or a field that HTTP/2 has no way to say.
pub fn request(head: &Outgoing<'_>, is_secure: bool) -> Result<Request<()>, Cause> {
    let mut request = Request::new(());
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = uri(head, is_secure)?;
    let fields = request.headers_mut();
    *fields = header_map(head.fields)?;
    fields.remove(header::HOST); // RFC 9113 §8.3.1: :authority stands for it
    fields.remove(header::CONTENT_LENGTH);
    if let BodyLength::Exact(length) = head.body {
        fields.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    for (name, value) in fields {
        value.set_sensitive(SECRET.contains(name));
    }
    Ok(request)
}

fn uri(head: &Outgoing<'_>, is_secure: bool) -> Result<Uri, Cause> {
    let host = head.fields.get("host").ok_or(Cause::Malformed)?;
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(match is_secure {
        true => Scheme::HTTPS,
        false => Scheme::HTTP,
    });
    parts.authority = Some(Authority::try_from(host).map_err(|_| Cause::Malformed)?);
    let target = PathAndQuery::try_from(head.target);
    let target = target.or_else(|_| PathAndQuery::try_from(encoded(head.target)));
    parts.path_and_query = Some(target.map_err(|_| Cause::Malformed)?);
    Uri::from_parts(parts).map_err(|_| Cause::Malformed)
}

/// RFC 3986 §2: what a target must not hold as it is and what HTTP/1.1 takes all the same.
fn encoded(target: &str) -> String {
    let mut text = String::with_capacity(target.len() + 8);
    for character in target.chars() {
        match character {
            '"' | '<' | '>' | '`' | '^' | '\\' | '{' | '|' | '}' => {
                let _ = write!(text, "%{:02X}", u32::from(character)); // to a string: it cannot fail
            }
            _ => text.push(character),
        }
    }
    text
}

/// What a response means. `ends`: nothing follows its head. `asked`: what it answers.
///
/// # Errors
///
/// `Malformed` or `LimitReached`.
pub fn response(
    parts: &response::Parts,
    ends: bool,
    asked: Asked,
    limits: &Limits,
) -> Result<ResponseHead, Cause> {
    let mut text = Buffer::with_size(SMALL);
    write_response(parts, &mut text)?;
    let read = parse::response(&mut text, &mut Scan::default(), asked, limits);
    let (mut head, _) = read.map_err(|(cause, _)| cause)?.ok_or(Cause::Malformed)?;
    let has_body = !asked.head && may_have_body(head.status);
    head.body = match (head.body, ends) {
        // RFC 9113 §8.1.1: the length said is that of what comes.
        (BodyLength::Exact(length), true) if has_body && length > 0 => return Err(Cause::Malformed),
        (BodyLength::UntilClose | BodyLength::None, true) => BodyLength::None,
        // Its length is not said; it goes on in chunks.
        (BodyLength::UntilClose, false) => BodyLength::Chunked,
        (length, _) => length,
    };
    Ok(head)
}

/// RFC 9110 §6.4.1: whether there can be content, where it was not HEAD that was asked.
fn may_have_body(status: StatusCode) -> bool {
    !status.is_informational() && !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// Writes a response as a head of HTTP/1.1. None of its parts can hold what would end another.
fn write_response(parts: &response::Parts, out: &mut Buffer) -> Result<(), Cause> {
    // RFC 9113 §8.6: HTTP/2 has no 101.
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Cause::Malformed);
    }
    let put = |out: &mut Buffer, parts: &[&[u8]]| put_line(out, parts).map_err(|refused| refused.cause);
    put(out, &[b"HTTP/1.1 ", parts.status.as_str().as_bytes(), b" "])?;
    for (name, value) in &parts.headers {
        if OF_CONNECTIONS.contains(name) {
            return Err(Cause::Malformed);
        }
        let value = checked(value.as_bytes()).map_err(|refused| refused.cause)?;
        put(out, &[name.as_str().as_bytes(), b": ", value])?;
    }
    put(out, &[])
}

#[cfg(test)]
mod tests {
    use http::{Method, Response};

    use super::*;
    use crate::http::Fields;

    const LIMITS: Limits = Limits {
        head_bytes_max: 4096,
        fields_max: 20,
        request_line_bytes_max: usize::MAX,
    };

    fn sent(method: &Method, target: &str, fields: &[(&str, &str)], body: BodyLength) -> Request<()> {
        let mut all = Fields::new();
        for (name, value) in fields {
            all.push(name, value);
        }
        let head = Outgoing {
            method,
            target,
            fields: &all,
            body,
            asks_upgrade: false,
        };
        request(&head, true).unwrap()
    }

    fn came(status: u16, fields: &[(&str, &str)], ends: bool, head: bool) -> Result<ResponseHead, Cause> {
        let mut response = Response::builder().status(status);
        for (name, value) in fields {
            response = response.header(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let (parts, ()) = response.body(()).unwrap().into_parts();
        response_of(&parts, ends, Asked { head })
    }

    fn response_of(parts: &response::Parts, ends: bool, asked: Asked) -> Result<ResponseHead, Cause> {
        response(parts, ends, asked, &LIMITS)
    }

    #[test]
    fn a_request_is_named_by_its_authority_and_holds_no_field_of_a_connection() {
        let fields = [
            ("Host", "a.test:8443"),
            ("Connection", "close"),
            ("Accept", "*/*"),
            ("TE", "trailers"),
            ("Cookie", "a=1; b=2"),
        ];
        let request = sent(&Method::POST, "/x?q=<1>", &fields, BodyLength::Exact(7));
        assert_eq!(request.uri().to_string(), "https://a.test:8443/x?q=%3C1%3E");
        let mut names: Vec<_> = request.headers().keys().map(|name| name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["accept", "content-length", "cookie", "te"]);
        assert!(request.headers()["cookie"].is_sensitive());
        assert_eq!(request.headers()["content-length"], "7");
        let all = sent(&Method::OPTIONS, "*", &[("Host", "a.test")], BodyLength::None);
        assert_eq!(all.uri().path(), "*");
        let chunked = sent(&Method::PUT, "/", &[("Host", "[::1]:80")], BodyLength::Chunked);
        assert!(!chunked.headers().contains_key("content-length"));
    }

    #[test]
    fn a_response_means_what_it_would_in_http_1() {
        let length = [("content-length", "3"), ("x-a", "1")];
        let head = came(200, &length, false, false).unwrap();
        assert_eq!((head.status, head.body), (StatusCode::OK, BodyLength::Exact(3)));
        let fields: Vec<_> = head.fields.iter().map(|(name, _)| name.to_owned()).collect();
        assert_eq!(fields, ["x-a"]);
        let body =
            |status, fields: &[(&str, &str)], ends, head| came(status, fields, ends, head).unwrap().body;
        assert_eq!(body(200, &[], false, false), BodyLength::Chunked);
        assert_eq!(body(200, &[], true, false), BodyLength::None);
        assert_eq!(
            body(200, &[("content-length", "0")], true, false),
            BodyLength::Exact(0)
        );
        assert_eq!(body(200, &length, true, true), BodyLength::Exact(3));
        assert_eq!(body(304, &length, true, false), BodyLength::Exact(3));
        assert_eq!(body(204, &[], true, false), BodyLength::None);
        assert_eq!(body(103, &[("link", "</a>")], false, false), BodyLength::None);
    }

    #[test]
    fn what_no_response_may_hold_is_refused() {
        for (status, fields, ends) in [
            (101, ("x-a", "1"), false),
            (200, ("connection", "close"), false),
            (200, ("transfer-encoding", "chunked"), false),
            (200, ("upgrade", "websocket"), false),
            (200, ("keep-alive", "1"), false),
            (200, ("content-length", "3"), true),
            (200, ("content-length", "three"), false),
            (200, ("x-a", " 1"), false),
            (200, ("x-a", "1\t"), false),
        ] {
            let refused = came(status, &[fields], ends, false).err();
            assert_eq!(refused, Some(Cause::Malformed), "{status} {fields:?}");
        }
        let long = "x".repeat(5000);
        assert_eq!(
            came(200, &[("x-a", &long)], false, false).err(),
            Some(Cause::LimitReached)
        );
        let many: Vec<_> = (0..21).map(|_| ("x-a", "1")).collect();
        assert_eq!(came(200, &many, false, false).err(), Some(Cause::LimitReached));
    }
}
