//! What an endpoint answers by HTTP/2 leaves as a response of HTTP/1.1, or of HTTP/2, that is read as the
//! same response.

#![no_main]

use atlas::buffer::Buffer;
use atlas::http::h1::encode::{self, Recipient};
use atlas::http::h1::parse::{self, Asked};
use atlas::http::h2::translate;
use atlas::http::{BodyLength, ResponseHead, Version};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

const LIMITS: parse::Limits = parse::Limits {
    head_bytes_max: 4096,
    fields_max: 32,
    request_line_bytes_max: usize::MAX,
};

/// What is written may be a little longer: Date, framing.
const WRITTEN: parse::Limits = parse::Limits {
    head_bytes_max: 8192,
    fields_max: 64,
    ..LIMITS
};

#[derive(Arbitrary, Debug)]
struct Message<'a> {
    status: u16,
    fields: Vec<(&'a [u8], &'a [u8])>,
    ends: bool,
    to_head: bool,
}

fuzz_target!(|message: Message<'_>| {
    let Some(response) = said(&message) else {
        return;
    };
    let (parts, ()) = response.into_parts();
    let asked = Asked { head: message.to_head };
    let Ok(head) = translate::endpoint::response(&parts, message.ends, asked, &LIMITS) else {
        return;
    };
    assert_eq!(head.status, parts.status);
    assert_ne!(head.status, StatusCode::SWITCHING_PROTOCOLS);
    // Without an end nothing can be cut off unseen, and behind the end nothing is owed.
    assert_ne!(head.body, BodyLength::UntilClose);
    let owes = matches!(head.body, BodyLength::Exact(1..) | BodyLength::Chunked);
    let may = !message.to_head && head.status != StatusCode::NOT_MODIFIED;
    assert!(!(owes && may && message.ends), "{:?} at the end", head.body);
    by_http1(&head, &parts.headers, asked);
    by_http2(&head, &parts.headers, asked);
});

/// The response, as far as the `h2` crate would take it.
fn said(message: &Message<'_>) -> Option<Response<()>> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(message.status).ok()?;
    for (name, value) in &message.fields {
        let name = HeaderName::from_lowercase(name).ok()?;
        let value = HeaderValue::from_bytes(value).ok()?;
        response.headers_mut().append(name, value);
    }
    Some(response)
}

/// What is written for a client of HTTP/1.1 is one response, and the same.
fn by_http1(head: &ResponseHead, said: &HeaderMap, asked: Asked) {
    let to = Recipient {
        version: Version::Http11,
        head: asked.head,
    };
    let mut out = Buffer::small();
    encode::response(&mut out, head, to, true);
    let again = parse::response(&mut out, &mut parse::Scan::default(), asked, &WRITTEN);
    let (again, _) = again.expect("what is written is good").expect("it is whole");
    assert!(out.is_empty(), "something is left behind the response");
    assert_eq!(again.status, head.status);
    for (name, value) in said {
        let is_there = || {
            let mut known = again.fields.get_all(name.as_str());
            known.any(|known| known == value.as_bytes())
        };
        assert!(name == "content-length" || is_there(), "{name} has got lost");
    }
}

/// And so is what is said to one of HTTP/2.
fn by_http2(head: &ResponseHead, said: &HeaderMap, asked: Asked) {
    let Ok((response, _)) = translate::response(head, asked.head) else {
        return;
    };
    assert_eq!(response.status(), head.status);
    for (name, value) in said {
        let is_there = || response.headers().get_all(name).iter().any(|known| known == value);
        assert!(name == "content-length" || is_there(), "{name} has got lost");
    }
}
