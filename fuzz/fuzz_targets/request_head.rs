//! A request head is understood the same way in one piece and in two, and written again it is
//! understood as the same request.

#![no_main]

use atlas::buffer::Buffer;
use atlas::http::h1::client::Outgoing;
use atlas::http::h1::{encode, parse};
use atlas::http::{BodyLength, RequestHead};
use libfuzzer_sys::fuzz_target;

const LIMITS: parse::Limits = parse::Limits {
    head_bytes_max: 4096,
    fields_max: 32,
    request_line_bytes_max: 1024,
};

/// What is written may be a little longer: a space after each colon, Host, Content-Length.
const WRITTEN: parse::Limits = parse::Limits {
    head_bytes_max: 8192,
    fields_max: 64,
    ..LIMITS
};

fuzz_target!(|data: &[u8]| {
    let Some((cut, data)) = data.split_first() else {
        return;
    };
    let whole = understood(&[data], &LIMITS);
    let (first, second) = data.split_at(usize::from(*cut).min(data.len()));
    let pieces = understood(&[first, second], &LIMITS);
    match (&whole, &pieces) {
        (Some(whole), Some(pieces)) => same(whole, pieces),
        (None, None) => {}
        _ => panic!("it matters in what pieces a head comes"),
    }
    if let Some(mut head) = whole {
        let again = understood(&[&written(&mut head)], &WRITTEN);
        same(&head, &again.expect("what is written is good"));
    }
});

fn understood(pieces: &[&[u8]], limits: &parse::Limits) -> Option<RequestHead> {
    let mut input = Buffer::with_size(pieces.iter().map(|piece| piece.len()).sum());
    let mut scan = parse::Scan::default();
    for piece in pieces {
        input.push(piece);
        if let Some(head) = parse::request(&mut input, &mut scan, limits).ok()? {
            return Some(head);
        }
    }
    None
}

fn written(head: &mut RequestHead) -> Vec<u8> {
    head.fields.remove("expect"); // HTTP/1.0 clients may expect anything
    let mut out = Buffer::small();
    let outgoing = Outgoing {
        method: head.method(),
        target: head.path_and_query(),
        fields: &head.fields,
        body: head.body(),
        asks_upgrade: head.asks_upgrade(),
    };
    encode::request(&mut out, &outgoing);
    if !head.fields.has("host") {
        let end = out.len() - 2;
        out.truncate(end);
        out.push(b"Host: added\r\n\r\n");
    }
    out.filled().to_vec()
}

fn same(one: &RequestHead, other: &RequestHead) {
    assert_eq!(one.method(), other.method());
    assert_eq!(one.path_and_query(), other.path_and_query());
    assert_eq!(one.asks_upgrade(), other.asks_upgrade());
    // A request that anticipates content says that it has none.
    let length = |head: &RequestHead| match head.body() {
        BodyLength::None => BodyLength::Exact(0),
        length => length,
    };
    assert_eq!(length(one), length(other));
    assert!(one.authority().is_none() || one.authority() == other.authority() || !one.fields.has("host"));
}
