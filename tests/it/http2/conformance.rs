//! What RFC 9113 asks of a server, section by section, in the order of its text.
//!
//! Where the RFC names one code and the `h2` crate says another error than that, both are listed.

use super::sequences::{ALL, Case, Outcome, case, run};
use super::{hpack, malformed, plain, windows};
use crate::support::frames::*;

pub(super) const PROTOCOL: Outcome = Outcome::Goaway(&[PROTOCOL_ERROR]);
/// RFC 9113 §4.2 wants FRAME_SIZE_ERROR; the crate says PROTOCOL_ERROR for the frames it parses whole.
pub(super) const FRAME_SIZE: Outcome = Outcome::Goaway(&[FRAME_SIZE_ERROR, PROTOCOL_ERROR]);
pub(super) const IGNORED: Outcome = Outcome::Ignored;

pub(super) fn all() -> Vec<Case> {
    let mut all = connection();
    all.extend(states());
    all.extend(frames());
    all.extend(windows::cases());
    all.extend(hpack::cases());
    all.extend(malformed::cases());
    all
}

#[test]
fn every_sequence_has_a_name_of_its_own() {
    let all = all();
    let names: std::collections::BTreeSet<_> = all.iter().map(|case| case.name).collect();
    assert_eq!(names.len(), all.len(), "two cases of one name");
    assert!(all.len() >= 190, "only {} cases", all.len());
}

#[test]
fn every_sequence_gets_what_the_rfc_wants() {
    let (origin, atlas) = plain();
    run(&atlas, &origin, &all());
}

/// An open stream 1: HEADERS without END_STREAM.
pub(super) fn open() -> Vec<u8> {
    headers(1, &request("POST", "/open", &[]), false)
}

/// Stream 1, on which the client has said all.
fn half_closed() -> Vec<u8> {
    headers(1, &get("/half", &[]), true)
}

/// That a stream depends on another, and with what weight; above [`EXCLUSIVE`]: alone.
pub(super) fn priority(stream: u32, on: u32, weight: u8) -> Vec<u8> {
    frame(PRIORITY, 0, stream, [&on.to_be_bytes()[..], &[weight]].concat())
}

const EXCLUSIVE: u32 = 1 << 31;

pub(super) fn then(first: Vec<u8>, second: Vec<u8>) -> Vec<u8> {
    [first, second].concat()
}

/// §3.4 the preface, §4 frames in general, §5.5 extensions.
fn connection() -> Vec<Case> {
    let big = vec![0; 16_385];
    vec![
        case("a preface that is none", b"", Outcome::Closed)
            .begins(b"PRI * HTTP/2.0\r\n\r\nSM\r\nXX\r\n\r\n"),
        case("a frame before SETTINGS", b"", Outcome::Answered(200)).begins(then(
            PREFACE.to_vec(),
            then(frame(SETTINGS, 0, 0, b""), half_closed()),
        )),
        case("a preface, and nothing behind it", b"", IGNORED),
        case("a GET", half_closed(), Outcome::Answered(200)),
        case(
            "a HEAD",
            headers(1, &request("HEAD", "/half", &[]), true),
            Outcome::Answered(200),
        ),
        case(
            "a POST",
            then(open(), frame(DATA, END_STREAM, 1, b"test")),
            Outcome::Answered(200),
        ),
        case(
            "a POST in two frames",
            then(
                open(),
                then(frame(DATA, 0, 1, b"test"), frame(DATA, END_STREAM, 1, b"test")),
            ),
            Outcome::Answered(200),
        ),
        case(
            "a POST with trailers",
            then(
                open(),
                then(frame(DATA, 0, 1, b"test"), headers(1, &[("x-sum", "1")], true)),
            ),
            Outcome::Answered(200),
        ),
        case(
            "a frame of an unknown kind",
            frame(0xfa, 0xff, 0, b"12345"),
            IGNORED,
        ),
        case(
            "one on a stream that is idle",
            frame(0xfa, 0, 77, b"12345"),
            IGNORED,
        ),
        case("flags that nobody knows", frame(PING, 0xfe, 0, [0; 8]), IGNORED),
        case(
            "the reserved bit of a stream",
            frame(PING, 0, 0x8000_0000, [0; 8]),
            IGNORED,
        ),
        case(
            "DATA as large as a frame may be",
            then(open(), frame(DATA, END_STREAM, 1, &big[1..])),
            Outcome::Answered(200),
        ),
        case(
            "DATA larger than a frame may be",
            then(open(), frame(DATA, 0, 1, &big)),
            Outcome::Refused(&[FRAME_SIZE_ERROR]),
        ),
        case(
            "HEADERS larger than a frame may be",
            frame(HEADERS, END_HEADERS | END_STREAM, 1, &big),
            Outcome::Goaway(&[FRAME_SIZE_ERROR]),
        ),
        case(
            "a block of fields that is none",
            frame(HEADERS, END_HEADERS | END_STREAM, 1, [0xff; 20]),
            hpack::WRONG,
        ),
        case(
            "PRIORITY inside a block",
            then(
                frame(HEADERS, END_STREAM, 1, block(&get("/bad", &[]))),
                frame(PRIORITY, 0, 1, [0, 0, 0, 3, 1]),
            ),
            PROTOCOL,
        ),
        case(
            "HEADERS of another stream inside a block",
            then(
                frame(HEADERS, END_STREAM, 1, block(&get("/bad", &[]))),
                headers(3, &get("/bad", &[]), true),
            ),
            PROTOCOL,
        ),
        case(
            "an unknown frame inside a block",
            then(
                frame(HEADERS, END_STREAM, 1, block(&get("/bad", &[]))),
                frame(0xfa, 0, 1, b""),
            ),
            PROTOCOL,
        ),
        case(
            "DATA inside a block",
            then(
                frame(HEADERS, 0, 1, block(&get("/bad", &[]))),
                frame(DATA, 1, 1, b"x"),
            ),
            PROTOCOL,
        ),
    ]
}

/// §5.1 the states of a stream.
fn states() -> Vec<Case> {
    let reset = || frame(RST_STREAM, 0, 1, CANCEL.to_be_bytes());
    let closed = |second: Vec<u8>| then(then(half_closed(), reset()), second);
    let gone = Outcome::Refused(&[STREAM_CLOSED, PROTOCOL_ERROR]);
    vec![
        case(
            "DATA on an idle stream",
            frame(DATA, END_STREAM, 1, b"x"),
            PROTOCOL,
        ),
        case(
            "RST_STREAM on an idle stream",
            frame(RST_STREAM, 0, 1, [0; 4]),
            PROTOCOL,
        ),
        case(
            "WINDOW_UPDATE on an idle stream",
            frame(WINDOW_UPDATE, 0, 1, [0, 0, 0, 1]),
            PROTOCOL,
        ),
        case(
            "CONTINUATION on an idle stream",
            frame(CONTINUATION, END_HEADERS, 1, b""),
            PROTOCOL,
        ),
        case(
            "PRIORITY on an idle stream",
            frame(PRIORITY, 0, 1, [0, 0, 0, 0, 1]),
            IGNORED,
        ),
        case(
            "DATA behind END_STREAM",
            then(half_closed(), frame(DATA, END_STREAM, 1, b"x")),
            gone.clone(),
        ),
        case(
            "HEADERS behind END_STREAM",
            then(half_closed(), headers(1, &get("/bad", &[]), true)),
            gone.clone(),
        ),
        case(
            "CONTINUATION behind END_STREAM",
            then(half_closed(), frame(CONTINUATION, END_HEADERS, 1, b"")),
            PROTOCOL,
        ),
        case(
            "RST_STREAM behind END_STREAM",
            then(half_closed(), reset()),
            IGNORED,
        ),
        case("RST_STREAM before END_STREAM", then(open(), reset()), IGNORED),
        case(
            "RST_STREAM with a code nobody knows",
            then(open(), frame(RST_STREAM, 0, 1, 0xff_u32.to_be_bytes())),
            IGNORED,
        ),
        case("DATA behind the answer", half_closed(), gone.clone())
            .later(ALL, frame(DATA, END_STREAM, 1, b"x")),
        case("HEADERS behind the answer", half_closed(), gone.clone())
            .later(ALL, headers(1, &get("/bad", &[]), true)),
        case("CONTINUATION behind the answer", half_closed(), PROTOCOL)
            .later(ALL, frame(CONTINUATION, END_HEADERS, 1, b"")),
        case("PRIORITY behind the answer", half_closed(), IGNORED).later(ALL, priority(1, 0, 255)),
        case(
            "CONTINUATION behind END_HEADERS",
            then(open(), frame(CONTINUATION, END_HEADERS, 1, b"")),
            PROTOCOL,
        ),
        case(
            "DATA behind RST_STREAM",
            closed(frame(DATA, END_STREAM, 1, b"x")),
            gone.clone(),
        ),
        case(
            "HEADERS behind RST_STREAM",
            closed(headers(1, &get("/bad", &[]), true)),
            gone,
        ),
        case(
            "CONTINUATION behind RST_STREAM",
            closed(frame(CONTINUATION, END_HEADERS, 1, b"")),
            PROTOCOL,
        ),
        case("RST_STREAM behind RST_STREAM", closed(reset()), IGNORED),
        case(
            "WINDOW_UPDATE behind RST_STREAM",
            closed(frame(WINDOW_UPDATE, 0, 1, [0, 0, 0, 1])),
            IGNORED,
        ),
        case(
            "PRIORITY behind RST_STREAM",
            closed(frame(PRIORITY, 0, 1, [0, 0, 0, 3, 1])),
            IGNORED,
        ),
        case(
            "a stream of an even number",
            headers(2, &get("/bad", &[]), true),
            PROTOCOL,
        ),
        case(
            "a stream with a lower number than before",
            then(
                headers(5, &get("/five", &[]), true),
                headers(3, &get("/bad", &[]), true),
            ),
            PROTOCOL,
        ),
        case(
            "HEADERS on stream 0",
            headers(0, &get("/bad", &[]), true),
            PROTOCOL,
        ),
        case(
            "a stream that depends on itself",
            frame(
                HEADERS,
                END_HEADERS | END_STREAM | WITH_PRIORITY,
                1,
                [&[0, 0, 0, 1, 9][..], &block(&get("/bad", &[]))].concat(),
            ),
            Outcome::Refused(&[PROTOCOL_ERROR]),
        ),
        case(
            "PRIORITY of a stream on itself",
            then(open(), frame(PRIORITY, 0, 1, [0, 0, 0, 1, 1])),
            Outcome::Refused(&[PROTOCOL_ERROR]),
        ),
        case(
            "HEADERS with a priority",
            frame(
                HEADERS,
                END_HEADERS | END_STREAM | WITH_PRIORITY,
                1,
                [&[0x80, 0, 0, 3, 9][..], &block(&get("/good", &[]))].concat(),
            ),
            Outcome::Answered(200),
        ),
        case(
            "HEADERS with padding",
            frame(
                HEADERS,
                END_HEADERS | END_STREAM | PADDED,
                1,
                [&[3][..], &block(&get("/good", &[])), &[0; 3]].concat(),
            ),
            Outcome::Answered(200),
        ),
        case(
            "a block in two frames",
            {
                let all = block(&get("/good", &[]));
                let (first, rest) = all.split_at(5);
                then(
                    frame(HEADERS, END_STREAM, 1, first),
                    frame(CONTINUATION, END_HEADERS, 1, rest),
                )
            },
            Outcome::Answered(200),
        ),
        case(
            "a block in three frames",
            {
                let all = block(&get("/good", &[]));
                let (first, rest) = all.split_at(5);
                let (second, third) = rest.split_at(9);
                [
                    frame(HEADERS, END_STREAM, 1, first),
                    frame(CONTINUATION, 0, 1, second),
                    frame(CONTINUATION, END_HEADERS, 1, third),
                ]
                .concat()
            },
            Outcome::Answered(200),
        ),
    ]
}

/// §6.1–6.4, 6.6–6.8, 6.10: DATA, HEADERS, PRIORITY, RST_STREAM, PUSH_PROMISE, PING, GOAWAY,
/// CONTINUATION.
fn frames() -> Vec<Case> {
    vec![
        case("DATA on stream 0", frame(DATA, 0, 0, b"x"), PROTOCOL),
        case(
            "DATA with more padding than there is",
            then(open(), frame(DATA, PADDED | END_STREAM, 1, [9, 1, 2])),
            PROTOCOL,
        ),
        case(
            "DATA with padding",
            then(open(), frame(DATA, PADDED | END_STREAM, 1, [2, b'x', 0, 0])),
            Outcome::Answered(200),
        ),
        case(
            "padded DATA without a length of it",
            then(open(), frame(DATA, PADDED | END_STREAM, 1, b"")),
            FRAME_SIZE,
        ),
        case(
            "HEADERS with more padding than there is",
            frame(HEADERS, END_HEADERS | END_STREAM | PADDED, 1, [250, 0x82]),
            PROTOCOL,
        ),
        case(
            "PRIORITY of the least weight",
            then(priority(1, 0, 0), half_closed()),
            Outcome::Answered(200),
        ),
        case(
            "PRIORITY of the greatest weight",
            then(priority(1, 0, 255), half_closed()),
            Outcome::Answered(200),
        ),
        case(
            "PRIORITY on another stream",
            then(priority(3, 1, 0), half_closed()),
            Outcome::Answered(200),
        ),
        case(
            "PRIORITY alone",
            then(priority(1, EXCLUSIVE, 0), half_closed()),
            Outcome::Answered(200),
        ),
        case(
            "PRIORITY of a stream beyond the one that is opened",
            then(priority(3, 0, 255), half_closed()),
            Outcome::Answered(200),
        ),
        case(
            "PRIORITY on stream 0",
            frame(PRIORITY, 0, 0, [0, 0, 0, 1, 1]),
            PROTOCOL,
        ),
        case(
            "PRIORITY that is too short",
            frame(PRIORITY, 0, 1, [0; 4]),
            Outcome::Refused(&[FRAME_SIZE_ERROR, PROTOCOL_ERROR]),
        ),
        case(
            "RST_STREAM on stream 0",
            frame(RST_STREAM, 0, 0, [0; 4]),
            PROTOCOL,
        ),
        case(
            "RST_STREAM that is too short",
            then(open(), frame(RST_STREAM, 0, 1, [0; 3])),
            FRAME_SIZE,
        ),
        case(
            "RST_STREAM that is too long",
            then(open(), frame(RST_STREAM, 0, 1, [0; 5])),
            FRAME_SIZE,
        ),
        case(
            "PUSH_PROMISE from a client",
            then(open(), frame(PUSH_PROMISE, END_HEADERS, 1, [0, 0, 0, 2, 0x82])),
            PROTOCOL,
        ),
        case(
            "PING",
            frame(PING, 0, 0, b"question"),
            Outcome::Acknowledged {
                settings: 1,
                pings: 1,
            },
        ),
        case("PING on a stream", frame(PING, 0, 1, [0; 8]), PROTOCOL),
        case("PING that is too short", frame(PING, 0, 0, [0; 7]), FRAME_SIZE),
        case("PING that is too long", frame(PING, 0, 0, [0; 9]), FRAME_SIZE),
        case("an answer to no PING", frame(PING, ACK, 0, [9; 8]), IGNORED),
        case(
            "GOAWAY, and a PING",
            then(frame(GOAWAY, 0, 0, [0; 8]), frame(PING, 0, 0, [7; 8])),
            Outcome::Closed,
        ),
        case(
            "GOAWAY with a code nobody knows, and a PING",
            then(
                frame(GOAWAY, 0, 0, [0, 0, 0, 0, 0, 0, 0, 0xff]),
                frame(PING, 0, 0, [7; 8]),
            ),
            Outcome::Closed,
        ),
        case("GOAWAY on a stream", frame(GOAWAY, 0, 1, [0; 8]), PROTOCOL),
        case(
            "GOAWAY that is too short",
            frame(GOAWAY, 0, 0, [0; 7]),
            FRAME_SIZE,
        ),
        case(
            "CONTINUATION on stream 0",
            then(
                frame(HEADERS, END_STREAM, 1, block(&get("/bad", &[]))),
                frame(CONTINUATION, END_HEADERS, 0, b""),
            ),
            PROTOCOL,
        ),
        case(
            "CONTINUATION of another stream",
            then(
                frame(HEADERS, END_STREAM, 1, block(&get("/bad", &[]))),
                frame(CONTINUATION, END_HEADERS, 3, b""),
            ),
            PROTOCOL,
        ),
        case(
            "CONTINUATION behind the last one",
            then(
                frame(HEADERS, END_STREAM, 1, block(&get("/half", &[]))),
                frame(CONTINUATION, END_HEADERS, 1, b"").repeat(2),
            ),
            PROTOCOL,
        ),
        case(
            "DATA behind CONTINUATION that is not the last",
            then(
                frame(HEADERS, 0, 1, block(&get("/bad", &[]))),
                then(frame(CONTINUATION, 0, 1, b""), frame(DATA, END_STREAM, 1, b"x")),
            ),
            PROTOCOL,
        ),
        case(
            "CONTINUATION behind DATA",
            then(
                open(),
                then(frame(DATA, 0, 1, b"x"), frame(CONTINUATION, END_HEADERS, 1, b"")),
            ),
            PROTOCOL,
        ),
    ]
}
