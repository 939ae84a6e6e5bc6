//! HTTP/2 towards clients: what the RFC asks, what other programs see, and what hostile ones get.

mod browser;
mod conformance;
mod drain;
mod floods;
mod h2spec;
mod hpack;
mod malformed;
mod messages;
mod programs;
mod sequences;
mod streams;
mod windows;

use crate::support::frames::{ENHANCE_YOUR_CALM, Goaway, Got, Http2};
use crate::support::{Atlas, Origin, atlas, origin};

/// An origin that answers everything, and an Atlas before it.
fn plain() -> (Origin, Atlas) {
    let origin = origin().answers("/ten", "0123456789").start();
    let atlas = atlas().listens_plain().forwards_to(&origin).start();
    (origin, atlas)
}

/// A request behind everything that was sent before is answered.
fn works(http2: &mut Http2) -> Result<(), String> {
    let stream = 100_001;
    http2.send(crate::support::frames::headers(
        stream,
        &crate::support::frames::get("/works", &[]),
        true,
    ));
    loop {
        let got = http2.so_far(stream);
        if got.has_ended {
            return match got.status() {
                200 => Ok(()),
                status => Err(format!("the request behind it got {status}")),
            };
        }
        if got.reset.is_some() || !http2.read_frame() {
            return Err(format!(
                "the connection does not go on: {:?} {:?}",
                http2.goaways, http2.ending
            ));
        }
    }
}

/// What the connection was ended with, if it was.
fn calm(goaway: Option<Goaway>) -> Goaway {
    let goaway = goaway.expect("Atlas says why");
    assert_eq!(goaway.code, ENHANCE_YOUR_CALM, "{goaway:?}");
    goaway
}

fn is_answered(got: &Got) -> bool {
    got.has_ended && got.status() == 200
}
