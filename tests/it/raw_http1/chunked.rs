//! Chunks: sizes, extensions, ends, trailers. Of a body that is not well framed no whole request
//! reaches the origin.

use super::{Case, case, post};

/// A POST in chunks.
fn chunks(body: &str) -> String {
    post("Transfer-Encoding: chunked\r\n", body)
}

pub fn cases() -> Vec<Case> {
    let mut all = good();
    all.extend(sizes());
    all.extend(ends());
    all.extend(trailers());
    all
}

fn good() -> Vec<Case> {
    vec![
        case(
            "several chunks",
            chunks("1\r\na\r\n2\r\nbc\r\n3\r\ndef\r\n0\r\n\r\n"),
        )
        .reaches("POST / abcdef"),
        case("no chunk but the last", chunks("0\r\n\r\n")).reaches("POST /"),
        case("a size in capitals", chunks("A\r\n0123456789\r\n0\r\n\r\n")).reaches("POST / 0123456789"),
        case("a size in small letters", chunks("a\r\n0123456789\r\n0\r\n\r\n")).reaches("POST / 0123456789"),
        case("zeros before the size", chunks("0005\r\nhello\r\n0000\r\n\r\n")).reaches("POST / hello"),
        case("an extension", chunks("5;a\r\nhello\r\n0\r\n\r\n")).reaches("POST / hello"),
        case(
            "an extension with a value",
            chunks("5;a=b;c=d\r\nhello\r\n0;e=f\r\n\r\n"),
        )
        .reaches("POST / hello"),
        case(
            "an extension in quotes",
            chunks("5;a=\"b c\"\r\nhello\r\n0\r\n\r\n"),
        )
        .reaches("POST / hello"),
        case(
            "data that looks like a chunk",
            chunks("7\r\n0\r\n\r\nGE\r\n0\r\n\r\n"),
        )
        .reaches("POST / 0\r\n\r\nGE"),
    ]
}

fn sizes() -> Vec<Case> {
    let size = |text: &str| chunks(&format!("{text}\r\nhello\r\n0\r\n\r\n"));
    vec![
        case("a size of letters", size("five")),
        case("an empty size", size("")),
        case("a size below zero", size("-5")),
        case("a size with a plus", size("+5")),
        case("a size with 0x", size("0x5")),
        case("a size of two numbers", size("5 5")),
        case("a space before the size", size(" 5")),
        case("an underscore in the size", size("0_5")),
        case("a size of 2^64", size("10000000000000000")),
        case("a size of 2^64 and 5", size("10000000000000005")),
        case("a size of seventeen digits", size("fffffffffffffffff")),
        case("a size of 2^63", size("8000000000000000")).finishes_too_early(),
        case(
            "a hundred zeros before the size",
            size(&format!("{}5", "0".repeat(100))),
        ),
        case("an extension without a size", size(";a=b")),
        case(
            "an extension of 20 KiB",
            size(&format!("5;{}", "a".repeat(20 * 1024))),
        ),
        case(
            "a size line that ends in a bare LF",
            chunks("5\nhello\r\n0\r\n\r\n"),
        ),
        case(
            "an extension that ends in a bare LF",
            chunks("5;a\nhello\r\n0\r\n\r\n"),
        ),
        case(
            "a bare CR in an extension",
            chunks("5;a\rb\r\nhello\r\n0\r\n\r\n"),
        ),
        case("a NUL in an extension", size("5;a\0")),
        case(
            "a size line that ends in CR CR LF",
            chunks("5\r\r\nhello\r\n0\r\n\r\n"),
        ),
        case("a comma behind the size", size("5,")),
    ]
}

fn ends() -> Vec<Case> {
    vec![
        case("more data than the size says", chunks("5\r\nhello!\r\n0\r\n\r\n")),
        case("less data than the size says", chunks("6\r\nhello\r\n0\r\n\r\n")),
        case("no CRLF behind the data", chunks("5\r\nhello0\r\n\r\n")),
        case("a bare LF behind the data", chunks("5\r\nhello\n0\r\n\r\n")),
        case("a bare CR behind the data", chunks("5\r\nhello\r0\r\n\r\n")),
        case(
            "two bytes that are no CRLF behind the data",
            chunks("5\r\nhelloXX0\r\n\r\n"),
        ),
        case("the end in bare LF", chunks("5\r\nhello\r\n0\r\n\n")),
        case(
            "the last chunk ends in a bare LF",
            chunks("5\r\nhello\r\n0\n\r\n"),
        ),
        case("a client that closes within a chunk", chunks("5\r\nhel")).finishes_too_early(),
        case("a client that closes between chunks", chunks("5\r\nhello\r\n")).finishes_too_early(),
        case(
            "a client that closes before the last line",
            chunks("5\r\nhello\r\n0\r\n"),
        )
        .finishes_too_early(),
        case(
            "a client that closes within a body of known length",
            post("Content-Length: 9\r\n", "hello"),
        )
        .finishes_too_early(),
    ]
}

fn trailers() -> Vec<Case> {
    let trailer = |lines: &str| chunks(&format!("5\r\nhello\r\n0\r\n{lines}\r\n"));
    vec![
        case("a trailer", trailer("X-Sum: 1\r\n")).reaches("POST / hello"),
        case(
            "a trailer with a space before the colon",
            trailer("X-Sum : 1\r\n"),
        ),
        case("a trailer that is folded", trailer("X-Sum: 1\r\n 2\r\n")),
        case(
            "a trailer that ends in a bare LF",
            trailer("X-Sum: 1\nX-B: 2\r\n"),
        ),
        case("a trailer with a NUL", trailer("X-Sum: \0\r\n")),
        case("a trailer without a colon", trailer("X-Sum\r\n")),
        case("a trailer that frames", trailer("Content-Length: 5\r\n")).tolerated(),
        case("a trailer that routes", trailer("Host: b.test\r\n")).tolerated(),
        case(
            "a trailer of 40 KiB",
            trailer(&format!("X-A: {}\r\n", "a".repeat(40 * 1024))),
        )
        .gets_one_of(&[400, 431]),
        case("three hundred trailers", trailer(&"X-A: 1\r\n".repeat(300))).gets_one_of(&[400, 431]),
    ]
}
