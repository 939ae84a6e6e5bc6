//! What a client says by HTTP/2 leaves as a request of HTTP/1.1 that is read as the same request; and
//! what an endpoint answers by HTTP/1.1 leaves as a response of HTTP/2 that says the same.

#![no_main]

use atlas::buffer::Buffer;
use atlas::http::h1::client::Outgoing;
use atlas::http::h1::{encode, parse};
use atlas::http::h2::translate;
use atlas::http::{BodyLength, RequestHead};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Uri};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

const LIMITS: parse::Limits = parse::Limits {
    head_bytes_max: 4096,
    fields_max: 32,
    request_line_bytes_max: 1024,
};

/// What is written may be a little longer: Content-Length.
const WRITTEN: parse::Limits = parse::Limits {
    head_bytes_max: 8192,
    fields_max: 64,
    ..LIMITS
};

#[derive(Arbitrary, Debug)]
struct Message<'a> {
    method: &'a [u8],
    authority: Option<&'a str>,
    path: &'a [u8],
    fields: Vec<(&'a [u8], &'a [u8])>,
    ends: bool,
    response: &'a [u8],
    to_head: bool,
    protocol: Option<&'a str>,
}

fuzz_target!(|message: Message<'_>| {
    if let Some(request) = said(&message) {
        let (parts, ()) = request.into_parts();
        if let Ok(mut head) = translate::request(&parts, message.ends, &LIMITS) {
            passes_on(&mut head, &parts.headers);
        }
    }
    answers(message.response, message.to_head);
});

/// The request, as far as the `h2` crate would take it.
fn said(message: &Message<'_>) -> Option<Request<()>> {
    let mut uri = Uri::builder().path_and_query(message.path);
    if let Some(authority) = message.authority {
        uri = uri.scheme("https").authority(authority);
    }
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(message.method).ok()?;
    *request.uri_mut() = uri.build().ok()?;
    if let Some(protocol) = message.protocol {
        request.extensions_mut().insert(h2::ext::Protocol::from(protocol));
    }
    for (name, value) in &message.fields {
        let name = HeaderName::from_lowercase(name).ok()?;
        let value = HeaderValue::from_bytes(value).ok()?;
        request.headers_mut().append(name, value);
    }
    Some(request)
}

/// What is written for the endpoint is one request, and the same.
fn passes_on(head: &mut RequestHead, said: &HeaderMap) {
    let mut out = Buffer::small();
    let outgoing = Outgoing {
        method: head.method(),
        target: head.path_and_query(),
        fields: &head.fields,
        body: head.body(),
        asks_upgrade: head.asks_upgrade(),
    };
    encode::request(&mut out, &outgoing);
    let again = parse::request(&mut out, &mut parse::Scan::default(), &WRITTEN);
    let again = again.expect("what is written is good").expect("it is whole");
    assert!(out.is_empty(), "something is left behind the request");
    assert_eq!(again.method(), head.method());
    assert_eq!(again.path_and_query(), head.path_and_query());
    assert_eq!(again.authority(), head.authority());
    let length = |head: &RequestHead| match head.body() {
        BodyLength::None => BodyLength::Exact(0),
        length => length,
    };
    assert_eq!(length(&again), length(head));
    let joined = usize::from(said.contains_key("cookie"));
    let cookies = again.fields.get_all("cookie").count();
    assert_eq!(cookies, joined, "cookies are one field");
    for (name, value) in said {
        let is_framing = ["content-length", "cookie", "host"].contains(&name.as_str());
        let is_there = || {
            again
                .fields
                .get_all(name.as_str())
                .any(|known| known == value.as_bytes())
        };
        assert!(is_framing || is_there(), "{name} has got lost");
    }
}

/// A response's fields and status are said again, but for those of its connection.
fn answers(bytes: &[u8], to_head: bool) {
    let mut input = Buffer::with_size(bytes.len());
    input.push(bytes);
    let asked = parse::Asked { head: to_head };
    let parsed = parse::response(&mut input, &mut parse::Scan::default(), asked, &LIMITS);
    let Ok(Some((head, _))) = parsed else {
        return;
    };
    let Ok((response, _)) = translate::response(&head, to_head) else {
        return;
    };
    assert_eq!(response.status(), head.status);
    for name in [
        "connection",
        "transfer-encoding",
        "keep-alive",
        "upgrade",
        "proxy-connection",
    ] {
        assert!(!response.headers().contains_key(name));
    }
    assert!(response.headers().get_all("content-length").iter().count() <= 1);
}
