//! A chunked body has the same content in whatever pieces it comes, and never more than came.

#![no_main]

use atlas::buffer::{Buffer, SMALL};
use atlas::http::BodyLength;
use atlas::http::h1::body::{Decoder, Step};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let [size, data @ ..] = data else {
        return;
    };
    if data.len() > SMALL {
        return;
    }
    let whole = decoded(&[data]);
    let pieces: Vec<_> = data.chunks(usize::from(*size).max(1)).collect();
    assert_eq!(whole, decoded(&pieces));
    assert!(whole.0.len() <= data.len());
});

/// The content, and whether the end was seen (`None`: it is malformed).
fn decoded(pieces: &[&[u8]]) -> (Vec<u8>, Option<bool>) {
    let mut decoder = Decoder::new(BodyLength::Chunked);
    let mut input = Buffer::small();
    let mut content = Vec::new();
    for piece in pieces {
        input.compact();
        input.push(piece);
        loop {
            match decoder.next(&mut input) {
                Ok(Step::Content(count)) => {
                    content.extend_from_slice(&input.filled()[..count]);
                    input.consume(count);
                }
                Ok(Step::More) => break,
                Ok(Step::End) => return (content, Some(true)),
                Err(_) => return (content, None),
            }
        }
    }
    (content, Some(false))
}
