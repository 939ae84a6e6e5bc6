//! Messages by data: what is meant, and what is written.

use super::BodyLength as B;
use super::*;

fn text(write: impl FnOnce(&mut Buffer)) -> String {
    let mut out = Buffer::small();
    write(&mut out);
    String::from_utf8_lossy(out.filled()).replace("\r\n", "\n")
}

const V11: Recipient = Recipient {
    version: Version::Http11,
    head: false,
};
const V10: Recipient = Recipient {
    version: Version::Http10,
    head: false,
};
const HEAD: Recipient = Recipient {
    version: Version::Http11,
    head: true,
};

/// Status, body, to whom, whether the connection persists; then the lines after Date, and the framing.
type Framed = (u16, B, Recipient, bool, &'static str, Framing);

const CLOSE: &str = "Connection: close\n";
const CHUNKS: &str = "Transfer-Encoding: chunked\n";
const FIVE: &str = "Content-Length: 5\n";
const FIVE_CLOSE: &str = "Content-Length: 5\nConnection: close\n";
const FIVE_KEPT: &str = "Content-Length: 5\nConnection: keep-alive\n";
const ZERO: &str = "Content-Length: 0\n";
const MOST: &str = "Content-Length: 18446744073709551615\n";

#[rustfmt::skip]
const FRAMED: &[Framed] = &[
    (200, B::Exact(5), V11, true, FIVE, Framing::Exact(5)),
    (200, B::Exact(u64::MAX), V11, true, MOST, Framing::Exact(u64::MAX)),
    (200, B::None, V11, true, ZERO, Framing::Exact(0)),
    (200, B::Chunked, V11, true, CHUNKS, Framing::Chunked),
    (200, B::UntilClose, V11, true, CHUNKS, Framing::Chunked),
    (200, B::Exact(5), V11, false, FIVE_CLOSE, Framing::Exact(5)),
    (200, B::Exact(5), V10, true, FIVE_KEPT, Framing::Exact(5)),
    (200, B::Exact(5), V10, false, FIVE_CLOSE, Framing::Exact(5)),
    (200, B::Chunked, V10, false, CLOSE, Framing::UntilClose),
    (200, B::UntilClose, V10, false, CLOSE, Framing::UntilClose),
    (200, B::Exact(5), HEAD, true, FIVE, Framing::Suppressed),
    (200, B::Exact(0), HEAD, true, ZERO, Framing::Suppressed),
    (200, B::None, HEAD, true, "", Framing::Suppressed),
    (200, B::Chunked, HEAD, true, "", Framing::Suppressed),
    (204, B::None, V11, true, "", Framing::Suppressed),
    (204, B::Exact(5), V11, true, "", Framing::Suppressed),
    (204, B::Chunked, V11, true, "", Framing::Suppressed),
    (205, B::None, V11, true, ZERO, Framing::Exact(0)),
    (304, B::None, V11, true, "", Framing::Suppressed),
    (304, B::Exact(5), V11, true, FIVE, Framing::Suppressed),
    (304, B::Chunked, V11, true, "", Framing::Suppressed),
];

#[test]
fn responses_are_framed_by_body_status_method_and_version() {
    for &(status, body, to, persists, expected, expected_framing) in FRAMED {
        let mut head = ResponseHead::new(StatusCode::from_u16(status).expect("it is one"), body);
        head.fields.push("date", "D");
        let written = text(|out| response(out, &head, to, persists));
        let after_date = written.split_once("date: D\n").expect("there is a date").1;
        assert_eq!(after_date, format!("{expected}\n"), "{status} {body:?} {to:?}");
        assert_eq!(framing(&head, to), expected_framing, "{status} {body:?} {to:?}");
    }
}

#[test]
fn fields_that_frame_or_concern_the_connection_are_never_copied() {
    let mut head = ResponseHead::new(StatusCode::OK, BodyLength::Exact(1));
    for name in [
        "Content-Length",
        "transfer-encoding",
        "CONNECTION",
        "Keep-Alive",
        "Proxy-Connection",
        "Date",
        "X",
    ] {
        head.fields.push(name, "9");
    }
    assert_eq!(
        text(|out| response(out, &head, V11, true)),
        "HTTP/1.1 200 OK\nDate: 9\nX: 9\nContent-Length: 1\n\n"
    );
}

#[test]
fn a_response_without_a_date_gets_one() {
    let head = ResponseHead::new(StatusCode::NOT_FOUND, BodyLength::None);
    let written = text(|out| response(out, &head, V11, true));
    let date = written
        .strip_prefix("HTTP/1.1 404 Not Found\nDate: ")
        .and_then(|rest| rest.split_once('\n'))
        .map(|(date, _)| date)
        .expect("there is a date");
    assert!(httpdate::parse_http_date(date).is_ok(), "{date}");
}

#[test]
fn informational_responses_are_bare() {
    let mut head = ResponseHead::new(StatusCode::EARLY_HINTS, BodyLength::None);
    head.fields.push("Link", "</a>");
    assert_eq!(
        text(|out| response(out, &head, V11, false)),
        "HTTP/1.1 103 Early Hints\nLink: </a>\n\n"
    );
}

#[test]
fn a_status_nobody_knows_has_no_phrase() {
    let mut head = ResponseHead::new(StatusCode::from_u16(599).expect("it is one"), BodyLength::None);
    head.fields.push("Date", "D");
    let written = text(|out| response(out, &head, V11, true));
    assert!(written.starts_with("HTTP/1.1 599 \nDate: D\n"), "{written}");
}

#[test]
fn requests_are_framed_by_body_and_method() {
    let mut fields = Fields::new();
    fields.push("Host", "a");
    fields.push("Content-Length", "99");
    fields.push("Transfer-Encoding", "x");
    fields.push("Connection", "close");
    let table = [
        (Method::GET, BodyLength::None, "", Framing::Exact(0)),
        (
            Method::GET,
            BodyLength::Exact(0),
            "Content-Length: 0\n",
            Framing::Exact(0),
        ),
        (
            Method::GET,
            BodyLength::Exact(7),
            "Content-Length: 7\n",
            Framing::Exact(7),
        ),
        (
            Method::POST,
            BodyLength::None,
            "Content-Length: 0\n",
            Framing::Exact(0),
        ),
        (
            Method::PUT,
            BodyLength::Chunked,
            "Transfer-Encoding: chunked\n",
            Framing::Chunked,
        ),
        (Method::DELETE, BodyLength::None, "", Framing::Exact(0)),
    ];
    for (method, body, expected, expected_framing) in table {
        let head = Outgoing {
            asks_upgrade: false,
            method: &method,
            target: "/x?y",
            fields: &fields,
            body,
        };
        let mut framing = Framing::Suppressed;
        let written = text(|out| framing = request(out, &head));
        assert_eq!(written, format!("{method} /x?y HTTP/1.1\nHost: a\n{expected}\n"));
        assert_eq!(framing, expected_framing);
    }
}

#[test]
fn fields_of_one_connection_are_named_by_it() {
    let table = [
        (false, "X", ""),
        (true, "X", "Connection: upgrade\n"),
        (false, "TE", "Connection: te\n"),
        (true, "te", "Connection: upgrade, te\n"),
    ];
    for (asks_upgrade, name, expected) in table {
        let mut fields = Fields::new();
        fields.push(name, "trailers");
        let head = Outgoing {
            asks_upgrade,
            method: &Method::GET,
            target: "/",
            fields: &fields,
            body: BodyLength::None,
        };
        let written = text(|out| _ = request(out, &head));
        assert_eq!(written, format!("GET / HTTP/1.1\n{name}: trailers\n{expected}\n"));
    }
}

#[test]
fn chunks_are_written_as_they_are_read() {
    for (size, expected) in [(1, "1\r\n"), (10, "a\r\n"), (16, "10\r\n"), (65536, "10000\r\n")] {
        assert_eq!(ChunkSize::of(size).as_bytes(), expected.as_bytes());
    }
    assert_eq!(ChunkSize::of(usize::MAX).as_bytes(), b"ffffffffffffffff\r\n");
    let mut trailers = Fields::new();
    trailers.push("X", "y");
    trailers.push("Content-Length", "5");
    assert_eq!(text(|out| chunks_end(out, None)), "0\n\n");
    assert_eq!(text(|out| chunks_end(out, Some(&trailers))), "0\nX: y\n\n");
}

#[test]
fn a_head_may_be_larger_than_the_buffer() {
    let mut head = ResponseHead::new(StatusCode::OK, BodyLength::None);
    for _ in 0..50 {
        head.fields.push("X", "y".repeat(1000));
    }
    let written = text(|out| response(out, &head, V11, true));
    assert!(written.len() > 50_000 && written.ends_with("Content-Length: 0\n\n"));
}
