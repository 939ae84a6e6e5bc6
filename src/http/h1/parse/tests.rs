//! Heads by data: what comes, and what is understood or refused.

use super::*;

const LIMITS: Limits = Limits {
    head_bytes_max: 1024,
    fields_max: 8,
    request_line_bytes_max: 128,
};

/// What a request is taken for: `method target authority body`, then `close` if it ends the
/// connection and `continue` if it waits; or the status it is refused with; or `more`.
fn understood(input: &[u8]) -> String {
    let mut buffer = Buffer::with_size(input.len());
    buffer.push(input);
    match request(&mut buffer, &mut Scan::default(), &LIMITS) {
        Ok(Some(head)) => in_words(&head),
        Ok(None) => "more".to_owned(),
        Err(refused) => refused.fault.status.as_u16().to_string(),
    }
}

fn in_words(head: &RequestHead) -> String {
    let body = match head.body() {
        BodyLength::None => "none".to_owned(),
        BodyLength::Exact(length) => length.to_string(),
        BodyLength::Chunked => "chunked".to_owned(),
        BodyLength::UntilClose => "?".to_owned(),
    };
    let authority = head.authority().unwrap_or("-");
    let mut words = format!("{} {} {authority} {body}", head.method(), head.path_and_query());
    if !head.persists {
        words += " close";
    }
    if head.expects_continue() {
        words += " continue";
    }
    words
}

/// `G:` stands for a good request line and Host before it, and a blank line after it.
const REQUESTS: &[(&str, &str)] = &[
    // Request lines and targets.
    ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET / a none"),
    ("GET /a/b?c=d HTTP/1.1\r\nHost: a\r\n\r\n", "GET /a/b?c=d a none"),
    ("GET /? HTTP/1.1\r\nHost: a\r\n\r\n", "GET /? a none"),
    ("GET /a?b?c HTTP/1.1\r\nHost: a\r\n\r\n", "GET /a?b?c a none"),
    ("GET //x HTTP/1.1\r\nHost: a\r\n\r\n", "GET //x a none"),
    ("GET /%41%2f HTTP/1.1\r\nHost: a\r\n\r\n", "GET /%41%2f a none"),
    ("GET /a?100% HTTP/1.1\r\nHost: a\r\n\r\n", "GET /a?100% a none"),
    ("GET /% HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("GET /%4 HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("GET /%?a HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("GET /#a HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("GET /a?b#c HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("GET /\tHTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("GET /  HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", "400"),
    (" GET / HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("GET / \r\nHost: a\r\n\r\n", "400"),
    ("GET a HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("GET ../a HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("GET /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("GET /\u{7f} HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("get / HTTP/1.1\r\nHost: a\r\n\r\n", "get / a none"),
    ("PURGE /a HTTP/1.1\r\nHost: a\r\n\r\n", "PURGE /a a none"),
    ("M-SEARCH /a HTTP/1.1\r\nHost: a\r\n\r\n", "M-SEARCH /a a none"),
    ("G(T / HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("G\u{e9}T / HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", "HEAD / a none"),
    ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS * a none"),
    ("OPTIONS /x HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS /x a none"),
    ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("OPTIONS ** HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", "405"),
    ("CONNECT /a HTTP/1.1\r\nHost: a\r\n\r\n", "405"),
    ("CONNECT a@b HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", "405"),
    // Absolute form.
    ("GET http://b/x?y HTTP/1.1\r\nHost: a\r\n\r\n", "GET /x?y b none"),
    (
        "GET HTTPS://b:8443/x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /x b:8443 none",
    ),
    ("GET http://b HTTP/1.1\r\nHost: a\r\n\r\n", "GET / b none"),
    ("GET http://b?q HTTP/1.1\r\nHost: a\r\n\r\n", "GET /?q b none"),
    ("OPTIONS http://b HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS * b none"),
    (
        "OPTIONS http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "OPTIONS / b none",
    ),
    (
        "GET http://[::1]:80/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / [::1]:80 none",
    ),
    ("GET http://b HTTP/1.1\r\n\r\n", "400"),
    ("GET http://b HTTP/1.0\r\n\r\n", "GET / b none close"),
    ("GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("GET http://:80/x HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("GET http://u@b/x HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("GET http://b:99999/ HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("GET http://b#x HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("GET ftp://b/x HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("GET http:/b/x HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    // Versions.
    ("GET / HTTP/1.0\r\n\r\n", "GET / - none close"),
    ("GET / HTTP/1.0\r\nHost: a\r\n\r\n", "GET / a none close"),
    ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", "505"),
    ("GET / HTTP/3.0\r\nHost: a\r\n\r\n", "505"),
    ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", "505"),
    ("GET / HTTP/0.9\r\nHost: a\r\n\r\n", "505"),
    ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "505"),
    ("GET /\r\n", "505"),
    ("GET /\r\n\r\n", "505"),
    ("POST /\r\n", "400"),
    ("GET / HTTP/2\r\nHost: a\r\n\r\n", "400"),
    ("GET / HTTP/1.1a\r\nHost: a\r\n\r\n", "400"),
    ("GET / http/1.1\r\nHost: a\r\n\r\n", "400"),
    ("GET / HTTP/11\r\nHost: a\r\n\r\n", "400"),
    ("GET / FTP/1.1\r\nHost: a\r\n\r\n", "400"),
    // Lines.
    ("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET / a none"),
    ("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("GET / HTTP/1.1\nHost: a\n\n", "400"),
    ("GET / HTTP/1.1\r\nHost: a\n\r\n", "400"),
    ("GET / HTTP/1.1\nHost: a\r\n\r\n", "400"),
    ("GET / HTTP/1.1\r\nHost: a\r\n\n", "400"),
    ("GET / HTTP/1.1\rHost: a\r\n\r\n", "400"),
    ("GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", "400"),
    ("GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", "400"),
    ("G:X: a\rb", "400"),
    ("G:X: a\r\r", "400"),
    ("G:X: a\0b", "400"),
    ("G:X: a\u{1}b", "400"),
    ("G:X: a\u{1b}[0m", "400"),
    ("G:X: a\u{7f}b", "400"),
    ("G:X: a\tb", "GET / a none"),
    ("G:X: \u{fc}", "GET / a none"),
    ("G:X:", "GET / a none"),
    ("G:X:a", "GET / a none"),
    ("G:X: \t a \t ", "GET / a none"),
    ("G:X : a", "400"),
    ("G:X\t: a", "400"),
    ("G: X: a", "400"),
    ("G:X: a\r\n folded", "400"),
    ("G:X: a\r\n\tfolded", "400"),
    ("G:X: a\r\n \r\nY: b", "400"),
    ("G:X", "400"),
    ("G:: a", "400"),
    ("G:X Y: a", "400"),
    ("G:X(: a", "400"),
    ("G:X\u{e9}: a", "400"),
    ("G:X\0: a", "400"),
    ("G:\"X\": a", "400"),
    ("G:X/Y: a", "400"),
    ("G:@X: a", "400"),
    ("GET / HTTP/1.1\r\n Host: a\r\n\r\n", "400"),
    ("GET / HTTP/1.1\r\n\tX: b\r\nHost: a\r\n\r\n", "400"),
    // Host.
    ("GET / HTTP/1.1\r\n\r\n", "400"),
    ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", "400"),
    ("GET / HTTP/1.1\r\nHost: a\r\nhOST: b\r\n\r\n", "400"),
    ("GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", "400"),
    ("GET / HTTP/1.1\r\nHost:\r\n\r\n", "GET / - none"),
    (
        "GET / HTTP/1.1\r\nHOST: A.Example:8080\r\n\r\n",
        "GET / A.Example:8080 none",
    ),
    ("GET / HTTP/1.1\r\nHost: a:\r\n\r\n", "GET / a: none"),
    ("GET / HTTP/1.1\r\nHost: [::1]\r\n\r\n", "GET / [::1] none"),
    ("GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", "GET / [::1]:80 none"),
    ("GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", "400"),
    ("GET / HTTP/1.1\r\nHost: [::1]a\r\n\r\n", "400"),
    ("GET / HTTP/1.1\r\nHost: [a]\r\n\r\n", "400"),
    ("GET / HTTP/1.1\r\nHost: ::1\r\n\r\n", "400"),
    ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", "400"),
    ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", "400"),
    ("GET / HTTP/1.1\r\nHost: a?b\r\n\r\n", "400"),
    ("GET / HTTP/1.1\r\nHost: a\\b\r\n\r\n", "400"),
    ("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", "400"),
    ("GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", "400"),
    ("GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n", "400"),
    ("GET / HTTP/1.1\r\nHost: a:+80\r\n\r\n", "400"),
    ("GET / HTTP/1.1\r\nHost: a%4\r\n\r\n", "400"),
    ("GET / HTTP/1.1\r\nHost: \u{e9}\r\n\r\n", "400"),
    // Content-Length.
    ("G:Content-Length: 0", "GET / a 0"),
    ("G:Content-Length: 5", "GET / a 5"),
    ("G:content-LENGTH:5", "GET / a 5"),
    ("G:Content-Length: 00005", "GET / a 5"),
    ("G:Content-Length: 5\r\nContent-Length: 5", "GET / a 5"),
    ("G:Content-Length: 5, 5", "GET / a 5"),
    ("G:Content-Length: 5\r\nContent-Length: 6", "400"),
    ("G:Content-Length: 5, 6", "400"),
    ("G:Content-Length: 5,", "400"),
    ("G:Content-Length: ,5", "400"),
    ("G:Content-Length:", "400"),
    ("G:Content-Length: +5", "400"),
    ("G:Content-Length: -5", "400"),
    ("G:Content-Length: 5 5", "400"),
    ("G:Content-Length: 0x5", "400"),
    ("G:Content-Length: 5a", "400"),
    ("G:Content-Length: 5.0", "400"),
    ("G:Content-Length: 1e3", "400"),
    ("G:Content-Length: \"5\"", "400"),
    ("G:Content-Length: 5;", "400"),
    (
        "G:Content-Length: 9223372036854775807",
        "GET / a 9223372036854775807",
    ),
    ("G:Content-Length: 9223372036854775808", "400"),
    ("G:Content-Length: 18446744073709551616", "400"),
    ("G:Content-Length: 100000000000000000000000000000005", "400"),
    ("G:Content-Length : 5", "400"),
    // Transfer-Encoding.
    ("G:Transfer-Encoding: chunked", "GET / a chunked"),
    ("G:transfer-encoding: CHUNKED", "GET / a chunked"),
    ("G:Transfer-Encoding: , chunked", "GET / a chunked"),
    ("G:Transfer-Encoding: chunked\r\nContent-Length: 5", "400"),
    ("G:Content-Length: 5\r\nTransfer-Encoding: chunked", "400"),
    ("G:Content-Length: 0\r\nTransfer-Encoding: identity", "400"),
    ("G:Transfer-Encoding: gzip, chunked", "501"),
    ("G:Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked", "501"),
    ("G:Transfer-Encoding: xchunked, chunked", "501"),
    ("G:Transfer-Encoding: gzip", "400"),
    ("G:Transfer-Encoding: identity", "400"),
    ("G:Transfer-Encoding: chunked, identity", "400"),
    ("G:Transfer-Encoding: chunked, chunked", "400"),
    (
        "G:Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "400",
    ),
    (
        "G:Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "400",
    ),
    ("G:Transfer-Encoding:", "400"),
    ("G:Transfer-Encoding: xchunked", "400"),
    ("G:Transfer-Encoding: chunked;q=1", "400"),
    ("G:Transfer-Encoding: \"chunked\"", "400"),
    ("G:Transfer-Encoding: chun ked", "400"),
    ("G:Transfer-Encoding: \u{b}chunked", "400"),
    ("G:Transfer-Encoding\u{b}: chunked", "400"),
    ("G:Transfer-Encoding : chunked", "400"),
    ("GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", "400"),
    ("POST / HTTP/1.0\r\n\r\n", "411"),
    ("PUT / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "411"),
    (
        "POST / HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc",
        "POST / - 3 close",
    ),
    ("POST / HTTP/1.1\r\nHost: a\r\n\r\n", "POST / a none"),
    // Connection.
    ("G:Connection: close", "GET / a none close"),
    ("G:connection: Close", "GET / a none close"),
    ("G:Connection: x, close", "GET / a none close"),
    ("G:Connection: x\r\nConnection: close", "GET / a none close"),
    ("G:Connection: keep-alive", "GET / a none"),
    ("G:Connection: keep-alive, close", "GET / a none close"),
    ("G:Connection:", "GET / a none"),
    ("G:Connection: upgrade\r\nUpgrade: websocket", "GET / a none"),
    ("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "GET / - none"),
    (
        "GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n",
        "GET / - none close",
    ),
    ("G:Connection: content-length", "400"),
    ("G:Connection: close, Transfer-Encoding", "400"),
    ("G:Connection: Host", "400"),
    ("G:Connection: Connection", "400"),
    ("G:Connection: a b", "400"),
    ("G:Connection: \"close\"", "400"),
    // Expect.
    (
        "G:Expect: 100-continue\r\nContent-Length: 3",
        "GET / a 3 continue",
    ),
    (
        "G:Expect: 100-Continue\r\nContent-Length: 3",
        "GET / a 3 continue",
    ),
    ("G:Expect: 200-ok", "417"),
    ("G:Expect: 100-continue, x", "417"),
    (
        "GET / HTTP/1.0\r\nExpect: 100-continue\r\n\r\n",
        "GET / - none close",
    ),
    // What is not there yet, and what never will be.
    ("", "more"),
    ("\r", "more"),
    ("\r\n", "more"),
    ("G", "more"),
    ("GET", "more"),
    ("GET ", "more"),
    ("GET / HT", "more"),
    ("GET / HTTP/1.1\r\n", "more"),
    ("GET / HTTP/1.1\r\nHost: a\r\n", "more"),
    ("GET / HTTP/1.1\r\nHost: a\r\n\r", "more"),
    ("\u{16}\u{3}\u{1}", "400"),
    ("\0", "400"),
    ("(", "400"),
    (" ", "400"),
    ("GET / FTP/1.1\r\n", "400"),
    ("GET / HTTP/2.0\r\n", "505"),
];

#[test]
fn requests_are_understood_or_refused_as_the_table_says() {
    for (input, expected) in REQUESTS {
        let whole = match input.strip_prefix("G:") {
            Some(fields) => format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n"),
            None => (*input).to_owned(),
        };
        assert_eq!(understood(whole.as_bytes()), *expected, "{whole:?}");
    }
    assert!(REQUESTS.len() >= 200);
}

#[test]
fn it_does_not_matter_in_what_pieces_a_request_comes() {
    for (input, expected) in REQUESTS {
        let whole = match input.strip_prefix("G:") {
            Some(fields) => format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n"),
            None => (*input).to_owned(),
        };
        let mut buffer = Buffer::small();
        let mut scan = Scan::default();
        let mut outcome = "more".to_owned();
        for byte in whole.bytes() {
            buffer.push(&[byte]);
            match request(&mut buffer, &mut scan, &LIMITS) {
                Ok(Some(head)) => outcome = in_words(&head),
                Ok(None) => continue,
                Err(refused) => outcome = refused.fault.status.as_u16().to_string(),
            }
            break;
        }
        // HTTP/0.9 is known by its first line; all else must be the same.
        assert_eq!(outcome, *expected, "{whole:?}");
    }
}

#[test]
fn limits_have_their_own_answers() {
    let line = |length: usize| {
        let path = "x".repeat(length - "GET / HTTP/1.1".len());
        format!("GET /{path} HTTP/1.1\r\nHost: a\r\n\r\n")
    };
    assert!(understood(line(128).as_bytes()).ends_with("a none"));
    assert_eq!(understood(line(129).as_bytes()), "414");
    assert_eq!(understood(&line(200).as_bytes()[..150]), "414");
    let head = |length: usize| {
        let start = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
        let value = "x".repeat(length - start.len() - 4);
        format!("{start}{value}\r\n\r\n")
    };
    assert_eq!(understood(head(1024).as_bytes()), "GET / a none");
    assert_eq!(understood(head(1025).as_bytes()), "431");
    assert_eq!(understood(&head(2000).as_bytes()[..1025]), "431");
    let fields = |count: usize| {
        format!(
            "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
            "X: y\r\n".repeat(count - 1)
        )
    };
    assert_eq!(understood(fields(8).as_bytes()), "GET / a none");
    assert_eq!(understood(fields(9).as_bytes()), "431");
}

#[test]
fn what_follows_a_head_stays_in_the_input() {
    for rest in ["", "x", &"GET / HTTP/1.1\r\nHost: b\r\n\r\n".repeat(20)] {
        let mut buffer = Buffer::small();
        buffer.push(b"\r\nPOST / HTTP/1.1\r\nHost: a\r\nX: 1\r\n\r\n");
        buffer.push(rest.as_bytes());
        let head = request(&mut buffer, &mut Scan::default(), &LIMITS).ok().flatten();
        let mut head = head.expect("it is good");
        assert_eq!(buffer.filled(), rest.as_bytes());
        assert_eq!(head.fields.get("x"), Some(&b"1"[..]));
        head.fields.set("Y", "2".repeat(20_000));
        assert_eq!((head.path(), head.authority()), ("/", Some("a")));
        assert_eq!(head.fields.get("y").map(<[u8]>::len), Some(20_000));
    }
}

#[test]
fn what_is_sent_on_names_the_authority_of_the_target() {
    let mut buffer = Buffer::small();
    buffer.push(b"GET http://b/ HTTP/1.1\r\nhost: a\r\nContent-Length: 1\r\nX: y\r\n\r\n");
    let head = request(&mut buffer, &mut Scan::default(), &LIMITS).ok().flatten();
    let head = head.expect("it is good");
    let fields: Vec<_> = head.fields.iter().collect();
    assert_eq!(fields, [("host", &b"b"[..]), ("X", b"y")]);
}

#[test]
fn a_connection_has_few_options() {
    let head = |first: &str, options: usize| {
        let options = "a,".repeat(options - 1);
        format!("{first}\r\nHost: a\r\nConnection: {options}\r\nConnection: close\r\n\r\n")
    };
    let request = |options| understood(head("GET / HTTP/1.1", options).as_bytes());
    assert_eq!(request(OPTIONS_MAX), "GET / a none close");
    assert_eq!(request(OPTIONS_MAX + 1), "400");
    let response = |options| response_understood(&head("HTTP/1.1 204 Yes", options), Asked::default());
    assert_eq!(response(OPTIONS_MAX), "204 none close");
    assert_eq!(response(OPTIONS_MAX + 1), "malformed");
}

#[test]
fn what_is_refused_stays_for_the_record() {
    let mut buffer = Buffer::small();
    buffer.push(b"GET / HTTP/1.1\r\n\r\n");
    assert!(request(&mut buffer, &mut Scan::default(), &LIMITS).is_err());
    assert_eq!(buffer.filled(), b"GET / HTTP/1.1\r\n\r\n");
}

/// What a response to GET is taken for: `status body`, `close`; `malformed`, `limit`; `more`.
fn response_understood(input: &str, asked: Asked) -> String {
    let mut buffer = Buffer::with_size(input.len());
    buffer.push(input.as_bytes());
    match response(&mut buffer, &mut Scan::default(), asked, &LIMITS) {
        Ok(None) => "more".to_owned(),
        Ok(Some((head, persists))) => {
            let body = match head.body {
                BodyLength::None => "none".to_owned(),
                BodyLength::Exact(length) => length.to_string(),
                BodyLength::Chunked => "chunked".to_owned(),
                BodyLength::UntilClose => "until_close".to_owned(),
            };
            let close = if persists.0 { "" } else { " close" };
            format!("{} {body}{close}", head.status.as_u16())
        }
        Err((Cause::LimitReached, _)) => "limit".to_owned(),
        Err(_) => "malformed".to_owned(),
    }
}

const RESPONSES: &[(&str, &str)] = &[
    ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", "200 3"),
    ("HTTP/1.1 200 \r\nContent-Length: 3\r\n\r\n", "200 3"),
    ("HTTP/1.1 200\r\nContent-Length: 3\r\n\r\n", "200 3"),
    (
        "HTTP/1.1 200 All is well \u{e9}\r\nContent-Length: 3\r\n\r\n",
        "200 3",
    ),
    ("HTTP/1.1 200 OK\r\n\r\n", "200 until_close close"),
    ("HTTP/1.0 200 OK\r\n\r\n", "200 until_close close"),
    ("HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\n", "200 3 close"),
    (
        "HTTP/1.0 200 OK\r\nContent-Length: 3\r\nConnection: keep-alive\r\n\r\n",
        "200 3",
    ),
    (
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\n",
        "200 3 close",
    ),
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "200 chunked",
    ),
    ("HTTP/1.1 204 No Content\r\n\r\n", "204 none"),
    ("HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", "204 none"),
    (
        "HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\n",
        "204 none close",
    ),
    (
        "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n",
        "204 none close",
    ),
    ("HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n", "304 3"),
    ("HTTP/1.1 304 Not Modified\r\n\r\n", "304 none"),
    ("HTTP/1.1 100 Continue\r\n\r\n", "100 none"),
    ("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", "103 none"),
    (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        "101 none",
    ),
    ("HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n", "999 0"),
    (
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n",
        "200 3",
    ),
    (
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
        "malformed",
    ),
    (
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        "malformed",
    ),
    ("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "malformed"),
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        "malformed",
    ),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "malformed"),
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n",
        "malformed",
    ),
    (
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "malformed",
    ),
    ("HTTP/1.1 20 OK\r\n\r\n", "malformed"),
    ("HTTP/1.1 2000 OK\r\n\r\n", "malformed"),
    ("HTTP/1.1 099 OK\r\n\r\n", "malformed"),
    ("HTTP/1.1  200 OK\r\n\r\n", "malformed"),
    ("HTTP/1.1 2x0 OK\r\n\r\n", "malformed"),
    ("HTTP/2.0 200 OK\r\n\r\n", "malformed"),
    ("HTTP/1.2 200 OK\r\n\r\n", "malformed"),
    ("ICY 200 OK\r\n\r\n", "malformed"),
    ("http/1.1 200 OK\r\n\r\n", "malformed"),
    ("SSH-2.0-x", "malformed"),
    ("\r\nHTTP/1.1 200 OK\r\n\r\n", "malformed"),
    ("HTTP/1.1 200 OK\n\n", "malformed"),
    ("HTTP/1.1 200 OK\r\nX: a\n\r\n", "malformed"),
    ("HTTP/1.1 200 O\rK\r\n\r\n", "malformed"),
    ("HTTP/1.1 200 O\0K\r\n\r\n", "malformed"),
    ("HTTP/1.1 200 OK\r\nX : a\r\n\r\n", "malformed"),
    ("HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n", "malformed"),
    ("HTTP/1.1 200 OK\r\nX: a\0\r\n\r\n", "malformed"),
    (
        "HTTP/1.1 200 OK\r\nConnection: content-length\r\n\r\n",
        "malformed",
    ),
    ("HTTP/1", "more"),
    ("HTTP/1.1 200 OK\r\nX: a\r\n", "more"),
];

#[test]
fn responses_are_understood_or_refused_as_the_table_says() {
    for (input, expected) in RESPONSES {
        assert_eq!(
            response_understood(input, Asked::default()),
            *expected,
            "{input:?}"
        );
    }
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(9));
    assert_eq!(response_understood(&many, Asked::default()), "limit");
    let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "y".repeat(1024));
    assert_eq!(response_understood(&long, Asked::default()), "limit");
}

#[test]
fn a_response_to_head_has_no_body_whatever_it_says() {
    let asked = Asked { head: true };
    let length = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n";
    assert_eq!(response_understood(length, asked), "200 3");
    assert_eq!(response_understood("HTTP/1.1 200 OK\r\n\r\n", asked), "200 none");
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(response_understood(chunked, asked), "200 none");
}

#[test]
fn trailers_that_would_change_the_message_are_dropped() {
    let section = b"X-Sum: 1\r\nContent-Length: 5\r\nhost: b\r\nAuthorization: x\r\nX-Forwarded-For: y\r\n\
        Content_Type: z\r\nTRANSFER_ENCODING: z\r\nY: 2\r\n\r\n";
    let fields = trailers(section, 16).expect("they are good");
    let kept: Vec<_> = fields.iter().map(|(name, _)| name).collect();
    assert_eq!(kept, ["X-Sum", "Y"]);
    for bad in [
        "X: a\n\r\n",
        "X : a\r\n\r\n",
        "X: a\r\n b\r\n\r\n",
        "X: \0\r\n\r\n",
        "X: a\r\n",
    ] {
        assert!(trailers(bad.as_bytes(), 16).is_err(), "{bad:?}");
    }
    assert!(trailers(&[&b"X: y\r\n".repeat(17)[..], b"\r\n"].concat(), 16).is_err());
}
