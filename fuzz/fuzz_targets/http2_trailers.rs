//! Trailers of HTTP/1.1 leave as trailers of HTTP/2 that are read as the same, and the other way round.

#![no_main]

use atlas::buffer::Buffer;
use atlas::http::h1::body::{Decoder, Step};
use atlas::http::h1::{encode, parse};
use atlas::http::h2::translate;
use atlas::http::{BodyLength, Fields};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

/// As many as a chunked body may have.
const FIELDS_MAX: usize = 64;

#[derive(Arbitrary, Debug)]
struct Message<'a> {
    /// As they come by HTTP/1.1, behind the last chunk.
    lines: &'a [u8],
    /// As they come by HTTP/2.
    fields: Vec<(&'a [u8], &'a [u8])>,
}

fuzz_target!(|message: Message<'_>| {
    if let Ok(trailers) = parse::trailers(message.lines, FIELDS_MAX) {
        by_http2(&trailers);
    }
    let Some(said) = said(&message.fields) else {
        return;
    };
    if let Ok(trailers) = translate::trailers(&said) {
        by_http1(&trailers);
        by_http2(&trailers);
    }
});

/// The trailers, as far as the `h2` crate would take them.
fn said(fields: &[(&[u8], &[u8])]) -> Option<HeaderMap> {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        let name = HeaderName::from_lowercase(name).ok()?;
        map.append(name, HeaderValue::from_bytes(value).ok()?);
    }
    Some(map)
}

/// Written behind the last chunk they are read as the same, and nothing is left.
fn by_http1(trailers: &Fields) {
    if trailers.len() > FIELDS_MAX {
        return;
    }
    let mut out = Buffer::small();
    encode::chunks_end(&mut out, Some(trailers));
    let mut decoder = Decoder::new(BodyLength::Chunked);
    match decoder.next(&mut out) {
        Ok(Step::End) => {}
        _ => panic!("what is written is no end"),
    }
    assert!(out.is_empty(), "something is left behind the trailers");
    let none = Fields::new();
    assert_eq!(all(decoder.trailers().unwrap_or(&none)), all(trailers));
}

/// Said in HTTP/2 they are read as the same.
fn by_http2(trailers: &Fields) {
    let said = translate::trailer_map(Some(trailers)).unwrap_or_default();
    let again = translate::trailers(&said).expect("what is said is good");
    assert_eq!(all(&again), all(trailers));
}

/// Names and values; those of one name in their order.
fn all(trailers: &Fields) -> Vec<(String, Vec<u8>)> {
    let field = |(name, value): (&str, &[u8])| (name.to_ascii_lowercase(), value.trim_ascii().to_vec());
    let mut all: Vec<_> = trailers.iter().map(field).collect();
    all.sort_by(|(one, _), (other, _)| one.cmp(other)); // stable
    all
}
