//! RFC 9113 §8: messages that are malformed are errors of their stream, PROTOCOL_ERROR, or are answered
//! 400; what they would smuggle never reaches an origin.

use super::conformance::then;
use super::sequences::{Case, Outcome, case};
use crate::support::frames::*;

const MALFORMED: Outcome = Outcome::Reset(&[PROTOCOL_ERROR]);

pub(super) fn cases() -> Vec<Case> {
    let bad = |fields: &[(&str, &str)]| headers(1, fields, true);
    let bad_with = |more: &[(&str, &str)]| headers(1, &get("/bad", more), true);
    let post = |more: &[(&str, &str)], frames: Vec<u8>| {
        then(headers(1, &request("POST", "/length", more), false), frames)
    };
    let method = (":method", "GET");
    let scheme = (":scheme", "https");
    let authority = (":authority", "a.test");
    let path = (":path", "/bad");
    vec![
        case(
            "a name in capitals",
            bad_with(&[("X-Name", "1")]),
            Outcome::Refused(&[PROTOCOL_ERROR]),
        ),
        case(
            "a pseudo-header field nobody knows",
            bad_with(&[(":test", "1")]),
            Outcome::Refused(&[PROTOCOL_ERROR]),
        ),
        case("one of responses", bad_with(&[(":status", "200")]), MALFORMED),
        case(
            "one behind the fields",
            bad(&[method, scheme, authority, ("x", "1"), path]),
            MALFORMED,
        ),
        case("no :method", bad(&[scheme, authority, path]), MALFORMED),
        case("no :scheme", bad(&[method, authority, path]), MALFORMED),
        case(
            "no :path",
            bad(&[method, scheme, authority]),
            Outcome::Refused(&[PROTOCOL_ERROR]),
        ),
        case(
            "an empty :path",
            bad(&[method, scheme, authority, (":path", "")]),
            MALFORMED,
        ),
        case(
            "two :method",
            bad(&[method, method, scheme, authority, path]),
            MALFORMED,
        ),
        case(
            "two :scheme",
            bad(&[method, scheme, scheme, authority, path]),
            MALFORMED,
        ),
        case(
            "two :path",
            bad(&[method, scheme, authority, path, path]),
            MALFORMED,
        ),
        case(
            "two :authority",
            bad(&[method, scheme, authority, authority, path]),
            MALFORMED,
        ),
        case("Connection", bad_with(&[("connection", "keep-alive")]), MALFORMED),
        case(
            "Transfer-Encoding",
            bad_with(&[("transfer-encoding", "chunked")]),
            MALFORMED,
        ),
        case("Upgrade", bad_with(&[("upgrade", "websocket")]), MALFORMED),
        case("Keep-Alive", bad_with(&[("keep-alive", "1")]), MALFORMED),
        case(
            "Proxy-Connection",
            bad_with(&[("proxy-connection", "close")]),
            MALFORMED,
        ),
        case(
            "TE that wants more than trailers",
            bad_with(&[("te", "trailers, deflate")]),
            MALFORMED,
        ),
        // RFC 9113 §8.1 has it malformed; the crate forgets such fields, so that nobody behind it sees them.
        case(
            "a pseudo-header field behind the body",
            post(&[], headers(1, &[(":path", "/bad")], true)),
            Outcome::Answered(200),
        ),
        case(
            "a quotation mark in the name of a trailer",
            post(
                &[],
                then(frame(DATA, 0, 1, b"x"), headers(1, &[("x\"y", "1")], true)),
            ),
            Outcome::Answered(400),
        ),
        case(
            "a pseudo-header field behind a body, and no end",
            post(
                &[],
                then(frame(DATA, 0, 1, b"x"), headers(1, &[(":method", "POST")], false)),
            ),
            Outcome::Refused(&[PROTOCOL_ERROR]),
        ),
        case(
            "HEADERS behind a body that do not end it",
            post(
                &[],
                then(frame(DATA, 0, 1, b"x"), headers(1, &[("x", "1")], false)),
            ),
            Outcome::Refused(&[PROTOCOL_ERROR]),
        ),
        case(
            "a body longer than content-length",
            post(&[("content-length", "1")], frame(DATA, END_STREAM, 1, b"xy")),
            MALFORMED,
        ),
        case(
            "a body shorter than content-length",
            post(&[("content-length", "5")], frame(DATA, END_STREAM, 1, b"xy")),
            MALFORMED,
        ),
        case(
            "a body shorter than content-length, in two frames",
            post(
                &[("content-length", "5")],
                then(frame(DATA, 0, 1, b"x"), frame(DATA, END_STREAM, 1, b"y")),
            ),
            MALFORMED,
        ),
        case(
            "a content-length without a body",
            headers(1, &request("POST", "/bad", &[("content-length", "5")]), true),
            MALFORMED,
        ),
        case(
            "two lengths that differ",
            headers(
                1,
                &request(
                    "POST",
                    "/bad",
                    &[("content-length", "1"), ("content-length", "2")],
                ),
                false,
            ),
            MALFORMED,
        ),
        case(
            "a length that is none",
            headers(1, &request("POST", "/bad", &[("content-length", "1x")]), false),
            MALFORMED,
        ),
        case(
            "a body as long as content-length",
            post(&[("content-length", "2")], frame(DATA, END_STREAM, 1, b"xy")),
            Outcome::Answered(200),
        ),
        case(
            "an end of line in a value",
            bad_with(&[("x", "1\r\nGET /bad HTTP/1.1")]),
            Outcome::Refused(&[PROTOCOL_ERROR, COMPRESSION_ERROR]),
        ),
        case(
            "a line feed in a value",
            bad_with(&[("x", "1\nx: 2")]),
            Outcome::Refused(&[PROTOCOL_ERROR, COMPRESSION_ERROR]),
        ),
        case(
            "a NUL in a value",
            bad_with(&[("x", "1\0")]),
            Outcome::Refused(&[PROTOCOL_ERROR, COMPRESSION_ERROR]),
        ),
        case(
            "a colon in a name",
            bad_with(&[("x:y", "1")]),
            Outcome::Refused(&[PROTOCOL_ERROR, COMPRESSION_ERROR]),
        ),
        case(
            "a space in a name",
            bad_with(&[("x y", "1")]),
            Outcome::Refused(&[PROTOCOL_ERROR, COMPRESSION_ERROR]),
        ),
        case(
            "an end of line in a name",
            bad_with(&[("x\r\ny", "1")]),
            Outcome::Refused(&[PROTOCOL_ERROR, COMPRESSION_ERROR]),
        ),
        case(
            "an empty name",
            bad_with(&[("", "1")]),
            Outcome::Refused(&[PROTOCOL_ERROR, COMPRESSION_ERROR]),
        ),
        case(
            "a space in :path",
            bad(&[method, scheme, authority, (":path", "/bad HTTP/1.1")]),
            MALFORMED,
        ),
        case(
            "an end of line in :path",
            bad(&[method, scheme, authority, (":path", "/bad\r\nx: 1")]),
            Outcome::Refused(&[PROTOCOL_ERROR, COMPRESSION_ERROR]),
        ),
        case(
            "an end of line in :method",
            bad(&[(":method", "GET /bad HTTP/1.1\r\nx:"), scheme, authority, path]),
            Outcome::Refused(&[PROTOCOL_ERROR, COMPRESSION_ERROR]),
        ),
        case(
            "a space in :method",
            bad(&[(":method", "GET /bad"), scheme, authority, path]),
            Outcome::Refused(&[PROTOCOL_ERROR, COMPRESSION_ERROR]),
        ),
        case(
            "a space in :authority",
            bad(&[method, scheme, (":authority", "a test"), path]),
            MALFORMED,
        ),
        case(
            "a path in :authority",
            bad(&[method, scheme, (":authority", "a.test/bad"), path]),
            Outcome::Refused(&[PROTOCOL_ERROR]),
        ),
        case(
            "user information in :authority",
            bad(&[method, scheme, (":authority", "user@a.test"), path]),
            Outcome::Answered(400),
        ),
        case(
            "a :path without a slash",
            bad(&[method, scheme, authority, (":path", "bad")]),
            Outcome::Refused(&[PROTOCOL_ERROR]),
        ),
        case(
            "a whole URL as :path",
            bad(&[method, scheme, authority, (":path", "http://b.test/bad")]),
            Outcome::Refused(&[PROTOCOL_ERROR]),
        ),
        case(
            "a Host that says another",
            bad_with(&[("host", "b.test")]),
            Outcome::Answered(400),
        ),
        case(
            "two Hosts",
            bad_with(&[("host", "a.test"), ("host", "a.test")]),
            Outcome::Answered(400),
        ),
        case(
            "neither :authority nor Host",
            bad(&[method, scheme, path]),
            Outcome::Answered(400),
        ),
        case(
            "white space before a value",
            bad_with(&[("x", " 1")]),
            Outcome::Answered(400),
        ),
        case(
            "white space behind a value",
            bad_with(&[("x", "1 ")]),
            Outcome::Answered(400),
        ),
        case(
            "CONNECT",
            headers(1, &[(":method", "CONNECT"), (":authority", "b.test:443")], false),
            Outcome::Answered(405),
        ),
        case(
            "extended CONNECT to what is no WebSocket",
            headers(
                1,
                &[
                    (":method", "CONNECT"),
                    (":protocol", "connect-udp"),
                    scheme,
                    authority,
                    (":path", "/bad"),
                ],
                false,
            ),
            Outcome::Answered(405),
        ),
        case(
            "TRACE",
            bad(&[(":method", "TRACE"), scheme, authority, path]),
            Outcome::Answered(405),
        ),
        case(
            "TE: trailers",
            headers(1, &get("/good", &[("te", "trailers")]), true),
            Outcome::Answered(200),
        ),
        case(
            "a Host that says the same",
            headers(1, &get("/good", &[("host", "a.test")]), true),
            Outcome::Answered(200),
        ),
        case(
            "Host instead of :authority",
            headers(1, &[method, scheme, (":path", "/good"), ("host", "a.test")], true),
            Outcome::Answered(200),
        ),
    ]
}
