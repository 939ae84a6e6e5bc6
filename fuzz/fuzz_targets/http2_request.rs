//! What a client says by HTTP/1.1 leaves as a request of HTTP/2 that is read as the same request.

#![no_main]

use atlas::buffer::Buffer;
use atlas::http::h1::client::Outgoing;
use atlas::http::h1::parse;
use atlas::http::h2::translate;
use atlas::http::{BodyLength, RequestHead};
use libfuzzer_sys::fuzz_target;

const LIMITS: parse::Limits = parse::Limits {
    head_bytes_max: 4096,
    fields_max: 32,
    request_line_bytes_max: 1024,
};

/// What is read again may be longer: a byte of a target may have become three.
const WRITTEN: parse::Limits = parse::Limits {
    head_bytes_max: 16_384,
    fields_max: 64,
    request_line_bytes_max: 4096,
};

/// RFC 9113 §8.2.2: fields of one connection of HTTP/1.
const OF_CONNECTIONS: [&str; 5] = [
    "connection",
    "proxy-connection",
    "keep-alive",
    "transfer-encoding",
    "upgrade",
];

fuzz_target!(|data: &[u8]| {
    let Some((is_secure, data)) = data.split_first() else {
        return;
    };
    let mut input = Buffer::with_size(data.len());
    input.push(data);
    let Ok(Some(mut head)) = parse::request(&mut input, &mut parse::Scan::default(), &LIMITS) else {
        return;
    };
    head.fields.remove("te"); // which the proxy says anew
    head.fields.remove("expect"); // HTTP/1.0 clients may expect anything
    let outgoing = Outgoing {
        method: head.method(),
        target: head.path_and_query(),
        fields: &head.fields,
        body: head.body(),
        asks_upgrade: false,
    };
    let Ok(request) = translate::endpoint::request(&outgoing, is_secure % 2 == 1) else {
        return;
    };
    let (parts, ()) = request.into_parts();
    for name in OF_CONNECTIONS {
        assert!(!parts.headers.contains_key(name), "{name} is of the connection");
    }
    assert!(!parts.headers.contains_key("host"), ":authority stands for it");
    let ends = matches!(head.body(), BodyLength::None | BodyLength::Exact(0));
    let again = translate::request(&parts, ends, &WRITTEN);
    same(&head, &again.expect("what is said is good"));
});

fn same(head: &RequestHead, again: &RequestHead) {
    assert_eq!(again.method(), head.method());
    let target = head.path_and_query();
    let is_target = again.path_and_query() == target || again.path_and_query() == encoded(target);
    assert!(is_target, "{} instead of {target}", again.path_and_query());
    assert_eq!(again.fields.get("host"), head.fields.get("host"));
    let length = |head: &RequestHead| match head.body() {
        BodyLength::None => BodyLength::Exact(0),
        length => length,
    };
    assert_eq!(length(again), length(head));
    for (name, value) in head.fields.iter() {
        let is = |known: &&str| known.eq_ignore_ascii_case(name);
        let is_left_out = ["cookie", "content-length"].iter().any(is) || OF_CONNECTIONS.iter().any(is);
        let is_there = || again.fields.get_all(name).any(|known| known == value.trim_ascii());
        assert!(is_left_out || is_there(), "{name} has got lost");
    }
    let cookies = |head: &RequestHead| {
        let all: Vec<_> = head.fields.get_all("cookie").map(<[u8]>::trim_ascii).collect();
        all.join(&b"; "[..]).trim_ascii().to_vec() // the last may be empty
    };
    assert_eq!(cookies(again), cookies(head));
}

/// A target as RFC 3986 has it: what HTTP/1.1 takes besides is said in percents, where HTTP/2 has no other way.
fn encoded(target: &str) -> String {
    let must = |character| "\"<>`^\\{|}".contains(character);
    let all = target.chars().map(|character| match must(character) {
        true => format!("%{:02X}", u32::from(character)),
        false => character.to_string(),
    });
    all.collect()
}
