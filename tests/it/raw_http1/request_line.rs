//! Request lines: methods, targets, versions, and what stands between them.

use super::{Case, case};

/// A request with this line and nothing special behind it.
fn line(line: &str) -> String {
    format!("{line}\r\nHost: a.test\r\n\r\n")
}

pub fn cases() -> Vec<Case> {
    let mut all = spacing();
    all.extend(methods());
    all.extend(targets());
    all.extend(absolute());
    all.extend(versions());
    all
}

fn spacing() -> Vec<Case> {
    vec![
        case("a plain request", line("GET / HTTP/1.1")).reaches("GET /"),
        case(
            "an empty line before the request",
            format!("\r\n{}", line("GET /e HTTP/1.1")),
        )
        .reaches("GET /e"),
        case("two spaces before the target", line("GET  / HTTP/1.1")),
        case("two spaces before the version", line("GET /  HTTP/1.1")),
        case("a space before the method", line(" GET / HTTP/1.1")),
        case("a space behind the version", line("GET / HTTP/1.1 ")),
        case("tabs between the words", line("GET\t/\tHTTP/1.1")),
        case("a space in the target", line("GET /a b HTTP/1.1")),
        case("a vertical tab in the target", line("GET /a\x0bb HTTP/1.1")),
        case(
            "a request line that ends in a bare LF",
            "GET / HTTP/1.1\nHost: a.test\r\n\r\n",
        ),
        case("bare LF everywhere", "GET / HTTP/1.1\nHost: a.test\n\n"),
        case("a bare CR in the request line", line("GET /\rx HTTP/1.1")),
        case(
            "a request line that ends in CR CR LF",
            "GET / HTTP/1.1\r\r\nHost: a.test\r\n\r\n",
        ),
        case(
            "a bare LF before the request",
            "\nGET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
        ),
        case("a request line without words", "\x20\r\n\r\n"),
        case("only a method", line("GET")),
        case("no version, as HTTP/0.9 had it", line("GET /")).gets(505),
        case("a fourth word", line("GET / HTTP/1.1 x")),
        case(
            "bytes of a TLS hello",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        )
        .plain_only(),
        case("a client that says nothing and closes", "")
            .gets_nothing()
            .then_finishes(),
        case("a client that closes behind an empty line", "\r\n")
            .gets_nothing()
            .then_finishes(),
        case("a client that closes within the request line", "GET / HT").finishes_too_early(),
        case(
            "a client that closes within the fields",
            "GET / HTTP/1.1\r\nHost: a.te",
        )
        .finishes_too_early(),
    ]
}

fn methods() -> Vec<Case> {
    vec![
        case("a method nobody has heard of", line("BREW /pot HTTP/1.1")).reaches("BREW /pot"),
        case(
            "a method with every kind of token character",
            line("A!#$%&'*+-.^_`|~9 / HTTP/1.1"),
        )
        .reaches("A!#$%&'*+-.^_`|~9 /"),
        case(
            "methods are case-sensitive: get is another one",
            line("get / HTTP/1.1"),
        )
        .reaches("get /"),
        case("a bracket in the method", line("GE(T / HTTP/1.1")),
        case("a colon in the method", line("GET: / HTTP/1.1")),
        case("a NUL in the method", line("GE\0T / HTTP/1.1")),
        case("letters beyond ASCII in the method", line("GÉT / HTTP/1.1")),
        case("HEAD has no body", line("HEAD /h HTTP/1.1"))
            .head()
            .reaches("HEAD /h"),
        case("DELETE without a body", line("DELETE /d HTTP/1.1")).reaches("DELETE /d"),
        case("PATCH without a body", line("PATCH /p HTTP/1.1")).reaches("PATCH /p"),
        case("CONNECT to an authority", line("CONNECT a.test:443 HTTP/1.1")).gets_one_of(&[405, 501]),
        case("CONNECT to a path", line("CONNECT / HTTP/1.1")).gets_one_of(&[400, 405, 501]),
        case("the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").gets_one_of(&[400, 505]),
    ]
}

fn targets() -> Vec<Case> {
    vec![
        case("a query", line("GET /q?a=b&c=%20d HTTP/1.1")).reaches("GET /q?a=b&c=%20d"),
        case("an empty query", line("GET /q? HTTP/1.1")).reaches("GET /q?"),
        case("a question mark in the query", line("GET /q??x HTTP/1.1")).reaches("GET /q??x"),
        case("slashes that follow each other", line("GET //a//b HTTP/1.1")).reaches("GET //a//b"),
        case("encoded slashes stay encoded", line("GET /a%2Fb%2fc HTTP/1.1")).reaches("GET /a%2Fb%2fc"),
        case("a path of sub-delims", line("GET /a;b=c,d!$&'()*+@:~ HTTP/1.1"))
            .reaches("GET /a;b=c,d!$&'()*+@:~"),
        case("OPTIONS of the server", line("OPTIONS * HTTP/1.1")).reaches("OPTIONS *"),
        case("OPTIONS of a path", line("OPTIONS /o HTTP/1.1")).reaches("OPTIONS /o"),
        case("GET of the asterisk", line("GET * HTTP/1.1")),
        case("a target without a slash", line("GET x HTTP/1.1")),
        case(
            "an authority where a path must be",
            line("GET a.test:80 HTTP/1.1"),
        ),
        case("a fragment", line("GET /a#b HTTP/1.1")),
        case("a NUL in the target", line("GET /a\0b HTTP/1.1")),
        case("a control byte in the target", line("GET /a\x01b HTTP/1.1")),
        case("DEL in the target", line("GET /a\x7fb HTTP/1.1")),
        case("a backslash is not a slash", line("GET \\a HTTP/1.1")),
        case(
            "a target longer than 8 KiB",
            line(&format!("GET /{} HTTP/1.1", "a".repeat(9000))),
        )
        .gets(414),
        case("a request line without an end", "a".repeat(40_000)).gets_one_of(&[400, 414, 431]),
        case(
            "a target of 4 KiB",
            line(&format!("GET /{} HTTP/1.1", "b".repeat(4095))),
        )
        .reaches(&format!("GET /{}", "b".repeat(4095))),
    ]
}

fn absolute() -> Vec<Case> {
    vec![
        case("an absolute target", line("GET http://a.test/abs?x=1 HTTP/1.1"))
            .reaches("GET /abs?x=1")
            .with("host", "a.test"),
        case(
            "an absolute target of https",
            line("GET https://a.test/abs HTTP/1.1"),
        )
        .reaches("GET /abs"),
        case("a scheme in capitals", line("GET HTTP://a.test/abs HTTP/1.1")).reaches("GET /abs"),
        case(
            "an absolute target without a path",
            line("GET http://a.test HTTP/1.1"),
        )
        .reaches("GET /"),
        case(
            "an absolute target with a query only",
            line("GET http://a.test?x=1 HTTP/1.1"),
        )
        .reaches("GET /?x=1"),
        case(
            "the absolute target wins over Host",
            "GET http://a.test/abs HTTP/1.1\r\nHost: b.test\r\n\r\n",
        )
        .reaches("GET /abs")
        .with("host", "a.test"),
        case(
            "OPTIONS of an absolute server",
            line("OPTIONS http://a.test HTTP/1.1"),
        )
        .reaches("OPTIONS *"),
        case(
            "an absolute target with a user",
            line("GET http://me@a.test/ HTTP/1.1"),
        ),
        case(
            "an absolute target without a host",
            line("GET http:///x HTTP/1.1"),
        ),
        case("another scheme", line("GET ftp://a.test/x HTTP/1.1")),
        case(
            "an absolute target, but no Host",
            "GET http://a.test/x HTTP/1.1\r\n\r\n",
        ),
    ]
}

fn versions() -> Vec<Case> {
    vec![
        case("HTTP/1.0 without Host", "GET /one HTTP/1.0\r\n\r\n")
            .plain_only()
            .reaches("GET /one")
            .closed(),
        case("HTTP/1.0 with Host", line("GET /one HTTP/1.0"))
            .reaches("GET /one")
            .closed(),
        case("HTTP/2.0", line("GET / HTTP/2.0")).gets(505),
        case("HTTP/3.0", line("GET / HTTP/3.0")).gets(505),
        case("HTTP/0.9", line("GET / HTTP/0.9")).gets(505),
        case("HTTP/1.2", line("GET / HTTP/1.2")).gets(505),
        case("a version in small letters", line("GET / http/1.1")),
        case("a version without a minor number", line("GET / HTTP/1")),
        case("a version of two digits", line("GET / HTTP/1.10")),
        case("a version with a zero before it", line("GET / HTTP/01.1")),
        case("a comma in the version", line("GET / HTTP/1,1")),
        case("another protocol", line("GET / RTSP/1.0")),
    ]
}
