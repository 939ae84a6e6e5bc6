//! A response head is understood the same way in one piece and in two, and what is written of it
//! holds exactly one framing.

#![no_main]

use atlas::buffer::Buffer;
use atlas::http::h1::encode::{self, Recipient};
use atlas::http::h1::parse::{self, Asked};
use atlas::http::{ResponseHead, Version};
use libfuzzer_sys::fuzz_target;

const LIMITS: parse::Limits = parse::Limits {
    head_bytes_max: 4096,
    fields_max: 32,
    request_line_bytes_max: 1024,
};

/// What is written may be a little longer: a space after each colon, Date, framing, Connection.
const WRITTEN: parse::Limits = parse::Limits {
    head_bytes_max: 8192,
    fields_max: 64,
    ..LIMITS
};

fuzz_target!(|data: &[u8]| {
    let [cut, flags, data @ ..] = data else {
        return;
    };
    let asked = Asked { head: flags & 1 == 1 };
    let whole = understood(&[data], asked, &LIMITS);
    let (first, second) = data.split_at(usize::from(*cut).min(data.len()));
    let pieces = understood(&[first, second], asked, &LIMITS);
    assert_eq!(
        whole.as_ref().map(|head| (head.status, head.body)),
        pieces.map(|head| (head.status, head.body))
    );
    let Some(head) = whole else {
        return;
    };
    let version = if flags & 2 == 2 {
        Version::Http10
    } else {
        Version::Http11
    };
    let to = Recipient {
        version,
        head: asked.head,
    };
    let mut out = Buffer::small();
    encode::response(&mut out, &head, to, flags & 4 == 4);
    if let Some(again) = understood(&[out.filled()], asked, &WRITTEN) {
        assert_eq!(again.status, head.status);
    } else {
        panic!("what is written is good");
    }
});

fn understood(pieces: &[&[u8]], asked: Asked, limits: &parse::Limits) -> Option<ResponseHead> {
    let mut input = Buffer::with_size(pieces.iter().map(|piece| piece.len()).sum());
    let mut scan = parse::Scan::default();
    for piece in pieces {
        input.push(piece);
        if let Some((head, _)) = parse::response(&mut input, &mut scan, asked, limits).ok()? {
            return Some(head);
        }
    }
    None
}
