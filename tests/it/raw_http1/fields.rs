//! Fields: names, values, how many and how large; Host.

use super::{Case, case, get};

pub fn cases() -> Vec<Case> {
    let mut all = names();
    all.extend(values());
    all.extend(limits());
    all.extend(hosts());
    all
}

fn names() -> Vec<Case> {
    vec![
        case("a space before the colon", get("X-A : 1\r\n")),
        case("a tab before the colon", get("X-A\t: 1\r\n")),
        case(
            "a space before the colon of a framing field",
            get("Content-Length : 5\r\n"),
        ),
        case("a name without letters", get(": 1\r\n")),
        case("a line without a colon", get("X-A\r\n")),
        case("a space within the name", get("X A: 1\r\n")),
        case("a bracket within the name", get("X(A): 1\r\n")),
        case("a slash within the name", get("X/A: 1\r\n")),
        case("a NUL within the name", get("X\0A: 1\r\n")),
        case("a name beyond ASCII", get("X-\u{e9}: 1\r\n")),
        case("a bare CR within the name", get("X\rA: 1\r\n")),
        case(
            "a fold before the first field",
            "GET / HTTP/1.1\r\n Host: a.test\r\n\r\n",
        ),
        case("a name of every token character", get("A!#$%&'*+-.^_`|~9: 1\r\n"))
            .reaches("GET /")
            .with("A!#$%&'*+-.^_`|~9", "1"),
        case("names in any case", get("x-UPPER-lower: 1\r\n"))
            .reaches("GET /")
            .with("X-Upper-Lower", "1"),
    ]
}

fn values() -> Vec<Case> {
    vec![
        case("an empty value", get("X-A:\r\n"))
            .reaches("GET /")
            .with("x-a", ""),
        case(
            "space round the value is not part of it",
            get("X-A: \t 1 2 \t \r\n"),
        )
        .reaches("GET /")
        .with("x-a", "1 2"),
        case("a tab within the value", get("X-A: 1\t2\r\n"))
            .reaches("GET /")
            .with("x-a", "1\t2"),
        case("a colon within the value", get("X-A: b:c\r\n"))
            .reaches("GET /")
            .with("x-a", "b:c"),
        case(
            "bytes beyond ASCII within the value",
            b"GET / HTTP/1.1\r\nHost: a.test\r\nX-A: \xe9\xff\r\n\r\n",
        )
        .reaches("GET /")
        .with("x-a", "\u{e9}\u{ff}"),
        case("a folded value", get("X-A: 1\r\n 2\r\n")),
        case("a value folded with a tab", get("X-A: 1\r\n\t2\r\n")),
        case("an empty value, folded", get("X-A:\r\n 2\r\n")),
        case("a fold of Content-Length", get("Content-Length:\r\n 5\r\n")),
        case("a NUL within the value", get("X-A: 1\0 2\r\n")),
        case("a bare CR within the value", get("X-A: 1\r2\r\n")),
        case(
            "a bare CR that hides a field",
            get("X-A: 1\rContent-Length: 5\r\n"),
        ),
        case("a bare LF within the value", get("X-A: 1\nX-B: 2\r\n")),
        case("a value that ends in CR CR LF", get("X-A: 1\r\r\n")),
        case("a control byte within the value", get("X-A: 1\x01\r\n")),
        case("an escape within the value", get("X-A: \x1b[31m\r\n")),
        case("a backspace within the value", get("X-A: 1\x08\r\n")),
        case("DEL within the value", get("X-A: 1\x7f\r\n")),
        case(
            "a head that ends in bare LF",
            "GET / HTTP/1.1\r\nHost: a.test\r\n\n",
        ),
        case(
            "a head that ends in LF CR LF",
            "GET / HTTP/1.1\r\nHost: a.test\n\r\n",
        ),
    ]
}

fn limits() -> Vec<Case> {
    let many = |count: usize| get(&(0..count).map(|at| format!("X-{at}: 1\r\n")).collect::<String>());
    vec![
        case("as many fields as may be", many(99))
            .reaches("GET /")
            .with("x-98", "1"),
        case("one field too many", many(100)).gets(431),
        case("ten thousand empty fields", many(3000)).gets(431),
        case(
            "a field of 20 KiB",
            get(&format!("X-A: {}\r\n", "a".repeat(20 * 1024))),
        )
        .reaches("GET /"),
        case(
            "a field of 40 KiB",
            get(&format!("X-A: {}\r\n", "a".repeat(40 * 1024))),
        )
        .gets(431),
        case(
            "a name of 40 KiB",
            get(&format!("{}: 1\r\n", "a".repeat(40 * 1024))),
        )
        .gets(431),
        case(
            "the same field twice, in order",
            get("X-A: 1\r\nX-B: 2\r\nX-A: 3\r\n"),
        )
        .reaches("GET /")
        .with("x-a", "1"),
    ]
}

fn hosts() -> Vec<Case> {
    let host = |value: &str| format!("GET / HTTP/1.1\r\nHost: {value}\r\n\r\n");
    vec![
        case("no Host", "GET / HTTP/1.1\r\n\r\n"),
        case(
            "two Hosts",
            "GET / HTTP/1.1\r\nHost: a.test\r\nHost: b.test\r\n\r\n",
        ),
        case(
            "the same Host twice",
            "GET / HTTP/1.1\r\nHost: a.test\r\nHost: a.test\r\n\r\n",
        ),
        case(
            "two Hosts in HTTP/1.0",
            "GET / HTTP/1.0\r\nHost: a.test\r\nHost: b.test\r\n\r\n",
        ),
        case("an empty Host", host("")).plain_only().reaches("GET /"),
        case("a Host with a port", host("a.test:8443"))
            .reaches("GET /")
            .with("host", "a.test:8443"),
        case("a Host with an empty port", host("a.test:"))
            .plain_only()
            .reaches("GET /"),
        case("a Host in capitals", host("A.TEST")).reaches("GET /"),
        case("a Host with a final dot", host("a.test.")).reaches("GET /"),
        case("a Host of an IPv4 address", host("127.0.0.1"))
            .plain_only()
            .reaches("GET /"),
        case("a Host of an IPv6 address", host("[::1]:80"))
            .plain_only()
            .reaches("GET /"),
        case("an IPv6 address without its end", host("[::1")),
        case("an IPv6 address without brackets", host("::1")),
        case("a Host with a user", host("me@a.test")),
        case("a Host with a path", host("a.test/x")),
        case("a Host with a query", host("a.test?x")),
        case("a Host with a space", host("a.test b.test")),
        case("a Host that is a list", host("a.test, b.test")),
        case("a Host with a port of letters", host("a.test:http")),
        case("a Host with a port beyond 65535", host("a.test:65536")),
        case("a Host with a backslash", host("a.test\\x")),
        case("a Host with quotes", host("\"a.test\"")),
        case("a Host that is a URL", host("http://a.test")),
        case("a Host of dots", host("..")).tolerated(),
        case("a Host with a NUL", host("a.test\0")),
        case("a Host with a percent sign", host("a%2etest")).tolerated(),
    ]
}
