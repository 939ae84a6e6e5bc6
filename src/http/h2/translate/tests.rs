//! What means one thing goes through, what could mean two does not.

use http::{HeaderValue, Request};

use super::*;

const LIMITS: Limits = Limits {
    head_bytes_max: 4096,
    fields_max: 20,
    request_line_bytes_max: 1024,
};

fn parts(method: &str, uri: &str, fields: &[(&str, &str)]) -> request::Parts {
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in fields {
        request = request.header(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    request.body(()).unwrap().into_parts().0
}

fn get(uri: &str, fields: &[(&str, &str)]) -> Result<RequestHead, Refused> {
    request(&parts("GET", uri, fields), true, &LIMITS)
}

fn lines(fields: &Fields) -> Vec<String> {
    let line = |(name, value): (&str, &[u8])| format!("{name}: {}", String::from_utf8_lossy(value));
    fields.iter().map(line).collect()
}

#[test]
fn a_request_means_what_it_would_in_http_1() {
    let fields = [
        ("accept", "*/*"),
        ("cookie", "a=1"),
        ("x-a", "1"),
        ("cookie", "b=2"),
        ("x-a", "2"),
    ];
    let head = get("https://a.test:8443/x%20y?q=1", &fields).unwrap();
    assert_eq!(head.method(), Method::GET);
    assert_eq!(head.version(), Version::Http2);
    assert_eq!((head.path(), head.query()), ("/x%20y", Some("q=1")));
    assert_eq!(head.authority(), Some("a.test:8443"));
    assert_eq!(head.body(), BodyLength::None);
    assert_eq!(
        lines(&head.fields),
        [
            "Host: a.test:8443",
            "accept: */*",
            "cookie: a=1; b=2",
            "x-a: 1",
            "x-a: 2"
        ]
    );
}

#[test]
fn a_body_is_as_long_as_is_said_or_as_it_comes() {
    let body = |fields: &[(&str, &str)], ends| {
        request(&parts("POST", "https://a.test/", fields), ends, &LIMITS)
            .unwrap()
            .body()
    };
    assert_eq!(body(&[], true), BodyLength::None);
    assert_eq!(body(&[], false), BodyLength::Chunked);
    assert_eq!(body(&[("content-length", "5")], false), BodyLength::Exact(5));
    assert_eq!(body(&[("content-length", "0")], false), BodyLength::Exact(0));
    assert_eq!(body(&[("content-length", "0")], true), BodyLength::Exact(0));
}

/// What is wrong, the URI, and the fields.
type Sent = (
    &'static str,
    &'static str,
    &'static [(&'static str, &'static str)],
);

const REFUSED: &[Sent] = &[
    (
        ":authority and Host differ",
        "https://a.test/",
        &[("host", "b.test")],
    ),
    (
        "two Hosts",
        "https://a.test/",
        &[("host", "a.test"), ("host", "a.test")],
    ),
    ("a Host that is none", "/", &[("host", "a.test/b")]),
    ("a space before Host", "/", &[("host", " a.test")]),
    ("neither :authority nor Host", "/", &[]),
    ("user information in :authority", "https://u@a.test/", &[]),
    ("Connection", "https://a.test/", &[("connection", "close")]),
    ("Keep-Alive", "https://a.test/", &[("keep-alive", "5")]),
    (
        "Proxy-Connection",
        "https://a.test/",
        &[("proxy-connection", "close")],
    ),
    (
        "Transfer-Encoding",
        "https://a.test/",
        &[("transfer-encoding", "chunked")],
    ),
    ("Upgrade", "https://a.test/", &[("upgrade", "h2c")]),
    ("TE: gzip", "https://a.test/", &[("te", "gzip")]),
    (
        "TE: trailers and more",
        "https://a.test/",
        &[("te", "trailers, gzip")],
    ),
    ("a space before a value", "https://a.test/", &[("x", " 1")]),
    ("a tab behind a value", "https://a.test/", &[("x", "1\t")]),
    (
        "a space before a cookie",
        "https://a.test/",
        &[("cookie", " a=1")],
    ),
    (
        "two lengths",
        "https://a.test/",
        &[("content-length", "1"), ("content-length", "2")],
    ),
    (
        "a length that is none",
        "https://a.test/",
        &[("content-length", "+1")],
    ),
    ("a path with a broken escape", "https://a.test/%zz", &[]),
    ("a path that is not ASCII", "https://a.test/\u{e4}", &[]),
    ("an asterisk for GET", "*", &[("host", "a.test")]),
    (
        "another expectation",
        "https://a.test/",
        &[("expect", "miracles")],
    ),
];

#[test]
fn what_could_mean_something_else_behind_us_is_refused() {
    for (name, uri, fields) in REFUSED {
        assert!(get(uri, fields).is_err(), "{name}");
    }
    let connect = parts("CONNECT", "a.test:443", &[]);
    let refused = request(&connect, false, &LIMITS).err().unwrap();
    assert_eq!(refused.fault, &Fault::METHOD_UNSUPPORTED);
    let trace = request(&parts("TRACE", "https://a.test/", &[]), true, &LIMITS);
    assert_eq!(trace.err().unwrap().fault, &Fault::METHOD_UNSUPPORTED);
}

#[test]
fn what_says_the_same_twice_goes_through() {
    let head = get("https://a.test/", &[("host", "A.test"), ("te", "trailers")]).unwrap();
    assert_eq!(lines(&head.fields), ["Host: a.test", "te: trailers"]);
    let head = get("/only-host", &[("host", "b.test")]).unwrap();
    assert_eq!(head.authority(), Some("b.test"));
    let options = request(&parts("OPTIONS", "*", &[("host", "a.test")]), true, &LIMITS).unwrap();
    assert_eq!(options.path(), "*");
}

#[test]
fn limits_hold_as_for_http_1() {
    let long = "a".repeat(5000);
    let refused = |uri: &str, fields: &[(&str, &str)]| get(uri, fields).err().unwrap().fault;
    assert_eq!(
        refused("https://a.test/", &[("x", &long)]),
        &Fault::REQUEST_HEAD_TOO_LARGE
    );
    let path = format!("https://a.test/{}", &long[..2000]);
    assert_eq!(refused(&path, &[]), &Fault::REQUEST_LINE_TOO_LONG);
    let many: Vec<_> = (0..21).map(|_| ("x", "1")).collect();
    assert_eq!(refused("https://a.test/", &many), &Fault::REQUEST_HEAD_TOO_LARGE);
}

#[test]
fn a_response_says_how_long_it_is_and_when_it_was_made() {
    let translated = |status: StatusCode, body, to_head| {
        let mut head = ResponseHead::new(status, body);
        head.fields.push("X-Name", "1");
        head.fields.push("Connection", "close");
        let (response, framing) = response(&head, to_head).unwrap();
        let length = response
            .headers()
            .get("content-length")
            .map(|v| v.to_str().unwrap().to_owned());
        assert_eq!(response.headers().get("x-name").unwrap(), "1");
        assert!(!response.headers().contains_key("connection"));
        (framing, length, response.headers().contains_key("date"))
    };
    let ok = StatusCode::OK;
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(
        translated(ok, BodyLength::Exact(5), false),
        (Framing::Exact(5), some("5"), true)
    );
    assert_eq!(
        translated(ok, BodyLength::None, false),
        (Framing::Exact(0), None, true)
    );
    assert_eq!(
        translated(ok, BodyLength::Exact(0), false),
        (Framing::Exact(0), some("0"), true)
    );
    assert_eq!(
        translated(ok, BodyLength::Chunked, false),
        (Framing::Chunked, None, true)
    );
    assert_eq!(
        translated(ok, BodyLength::UntilClose, false),
        (Framing::Chunked, None, true)
    );
    assert_eq!(
        translated(ok, BodyLength::Exact(5), true),
        (Framing::Suppressed, some("5"), true)
    );
    let not_modified = StatusCode::NOT_MODIFIED;
    assert_eq!(
        translated(not_modified, BodyLength::Exact(5), false),
        (Framing::Suppressed, some("5"), true)
    );
    let no_content = StatusCode::NO_CONTENT;
    assert_eq!(
        translated(no_content, BodyLength::Exact(0), false),
        (Framing::Suppressed, None, true)
    );
    let hints = StatusCode::EARLY_HINTS;
    assert_eq!(
        translated(hints, BodyLength::None, false),
        (Framing::Suppressed, None, false)
    );
}

#[test]
fn trailers_hold_nothing_that_belongs_in_a_head() {
    let mut map = HeaderMap::new();
    for name in ["grpc-status", "content-length", "host", "x-sum"] {
        map.append(name, HeaderValue::from_static("1"));
    }
    assert_eq!(lines(&trailers(&map).unwrap()), ["grpc-status: 1", "x-sum: 1"]);
    // As the `h2` crate makes names. It is no token (RFC 9110 §5.6.2), and HTTP/1.1 could not say it.
    let name = HeaderName::from_lowercase(b"x\"y").unwrap();
    map.append(name, HeaderValue::from_static("1"));
    assert_eq!(trailers(&map).err(), Some(Cause::Malformed));
    let mut fields = Fields::new();
    fields.push("Grpc-Status", "0");
    fields.push("Content-Length", "5");
    let map = trailer_map(Some(&fields)).unwrap();
    assert_eq!(map.len(), 1);
    assert_eq!(map.get("grpc-status").unwrap(), "0");
    assert!(trailer_map(None).is_none());
}

/// Pieces that could mean something to one reader and nothing to another.
const PIECES: [&str; 40] = [
    "/",
    "a",
    "b.test",
    "?",
    "#",
    "%",
    "%2e",
    "%00",
    "..",
    " ",
    "\t",
    "\r",
    "\n",
    "\0",
    ":",
    "443",
    "@",
    "*",
    "[",
    "]",
    "::1",
    "{",
    "\"",
    "\\",
    "\u{e4}",
    "\x7f",
    ",",
    ";",
    "=",
    "trailers",
    "chunked",
    "close",
    "0",
    "5",
    "HTTP/1.1",
    "GET",
    "OPTIONS",
    "100-continue",
    "http://",
    "x",
];

const NAMES: [&str; 16] = [
    "host",
    "cookie",
    "te",
    "content-length",
    "transfer-encoding",
    "connection",
    "upgrade",
    "expect",
    "x",
    "x_y",
    "keep-alive",
    "via",
    "trailer",
    "http2-settings",
    "x-forwarded-for",
    "accept",
];

fn some(random: &mut fastrand::Rng, pieces_max: usize) -> String {
    let count = random.usize(..=pieces_max);
    (0..count).map(|_| PIECES[random.usize(..PIECES.len())]).collect()
}

/// A request as far as the `h2` crate takes one: names are tokens, values hold no control bytes, and
/// path and authority are what the `http` crate takes for such.
fn any_request(random: &mut fastrand::Rng) -> Option<request::Parts> {
    let methods = ["GET", "POST", "OPTIONS", "CONNECT", "TRACE", "x", "GE T"];
    let mut request = Request::builder().method(methods[random.usize(..methods.len())]);
    let slash = if random.u8(..8) > 0 { "/" } else { "" };
    let mut uri = http::Uri::builder().path_and_query(format!("{slash}{}", some(random, 4)));
    if random.bool() {
        uri = uri.scheme("https").authority(some(random, 2));
    }
    request = request.uri(uri.build().ok()?);
    for _ in 0..random.usize(..4) {
        let name = NAMES[random.usize(..NAMES.len())];
        let value = HeaderValue::from_bytes(some(random, 2).as_bytes()).ok()?;
        request = request.header(name, value);
    }
    Some(request.body(()).ok()?.into_parts().0)
}

#[test]
fn whatever_comes_leaves_as_one_request_that_means_the_same() {
    use crate::http::h1::client::Outgoing;

    let mut random = fastrand::Rng::with_seed(9113);
    let mut passed = 0;
    for _ in 0..60_000 {
        let ends = random.bool();
        let Some(parts) = any_request(&mut random) else {
            continue;
        };
        let Ok(head) = request(&parts, ends, &LIMITS) else {
            continue;
        };
        passed += 1;
        let mut out = Buffer::small();
        let outgoing = Outgoing {
            method: head.method(),
            target: head.path_and_query(),
            fields: &head.fields,
            body: head.body(),
            asks_upgrade: false,
        };
        encode::request(&mut out, &outgoing);
        let text = String::from_utf8_lossy(out.filled()).into_owned();
        let limits = Limits {
            head_bytes_max: 8192,
            ..LIMITS
        };
        let again = parse::request(&mut out, &mut Scan::default(), &limits);
        let again = again
            .ok()
            .flatten()
            .unwrap_or_else(|| panic!("not one request:\n{text}"));
        assert!(out.is_empty(), "something is left behind it:\n{text}");
        assert_eq!(again.method(), parts.method);
        let path = parts.uri.path_and_query().map(|path| path.as_str());
        assert_eq!(Some(again.path_and_query()), path, "{text}");
        let said = parts.uri.authority().map(|authority| authority.as_str());
        let host = || parts.headers.get("host").and_then(|host| host.to_str().ok());
        let said = said.or_else(host).filter(|said| !said.is_empty());
        assert_eq!(again.authority(), said, "{text}");
        let length = |head: &RequestHead| match head.body() {
            BodyLength::None => BodyLength::Exact(0),
            length => length,
        };
        assert_eq!(length(&again), length(&head), "{text}");
        let names = ["keep-alive", "upgrade", "transfer-encoding"];
        assert!(names.iter().all(|name| !again.fields.has(name)), "{text}");
        let options: Vec<_> = again.fields.get_all("connection").collect();
        let expected: &[&[u8]] = if head.fields.has("te") { &[b"te"] } else { &[] };
        assert_eq!(options, expected, "{text}");
    }
    assert!(passed > 500, "only {passed} were good");
}
