//! Content-Length and Transfer-Encoding: one length for a body, or none of it goes through.

use super::{Case, case, get, post};

pub fn cases() -> Vec<Case> {
    let mut all = lengths();
    all.extend(codings());
    all.extend(both());
    all.extend(pipelines());
    all
}

fn lengths() -> Vec<Case> {
    let length = |value: &str| post(&format!("Content-Length: {value}\r\n"), "hello");
    vec![
        case("a body of known length", length("5")).reaches("POST / hello"),
        case("space round the length", length(" \t5 \t")).reaches("POST / hello"),
        case("an empty body", post("Content-Length: 0\r\n", "")).reaches("POST /"),
        case("a POST without a length has no body", post("", "")).reaches("POST /"),
        case(
            "a GET with a body",
            format!("{}hello", get("Content-Length: 5\r\n")),
        )
        .reaches("GET / hello"),
        case("a length with a plus", length("+5")),
        case("a length below zero", length("-5")),
        case("a length in hexadecimal", length("0x5")),
        case("a length with a fraction", length("5.0")),
        case("a length with an exponent", length("5e0")),
        case("a length of two numbers", length("5 5")),
        case("a length of letters", length("five")),
        case("an empty length", length("")),
        case("a length with an underscore", length("1_0")),
        case("a length in quotes", length("\"5\"")),
        case("a length with a semicolon", length("5;")),
        case("a length in digits beyond ASCII", length("\u{665}")),
        case("a length of 2^64", length("18446744073709551616")),
        case("a length of twenty nines", length("99999999999999999999")),
        case(
            "two lengths that differ",
            post("Content-Length: 5\r\nContent-Length: 6\r\n", "hello!"),
        ),
        case(
            "two lengths that differ, the first is zero",
            post("Content-Length: 0\r\nContent-Length: 5\r\n", "hello"),
        ),
        case("a list of lengths that differ", length("5, 6")),
        case("a list with an empty member", length("5,")),
        case("a list that begins empty", length(",5")),
        case("a length of minus zero", length("-0")),
        case(
            "Content-Length with another name beside it",
            post("Content-Length: 5\r\nContent_Length: 6\r\n", "hello"),
        )
        .reaches("POST / hello"),
    ]
}

fn codings() -> Vec<Case> {
    let coding = |value: &str| {
        post(
            &format!("Transfer-Encoding: {value}\r\n"),
            "5\r\nhello\r\n0\r\n\r\n",
        )
    };
    let refused = &[400, 501];
    vec![
        case("a body in chunks", coding("chunked"))
            .reaches("POST / hello")
            .without("content-length"),
        case("chunked in capitals", coding("CHUNKED")).reaches("POST / hello"),
        case("space round chunked", coding(" \tchunked\t ")).reaches("POST / hello"),
        case("another coding", coding("gzip")).gets_one_of(refused),
        case("another coding before chunked", coding("gzip, chunked")).gets_one_of(refused),
        case("chunked is not the last", coding("chunked, gzip")).gets_one_of(refused),
        case("chunked twice", coding("chunked, chunked")).gets_one_of(refused),
        case("identity", coding("identity")).gets_one_of(refused),
        case("identity behind chunked", coding("chunked, identity")).gets_one_of(refused),
        case("nearly chunked", coding("xchunked")).gets_one_of(refused),
        case("chunked and more", coding("chunkedx")).gets_one_of(refused),
        case("chunked with a parameter", coding("chunked;q=1")).gets_one_of(refused),
        case("chunked in quotes", coding("\"chunked\"")).gets_one_of(refused),
        case("chunked behind a vertical tab", coding("\x0bchunked")).gets_one_of(refused),
        case("chunked behind a form feed", coding("\x0cchunked")).gets_one_of(refused),
        case("chunked behind a no-break space", coding("\u{a0}chunked")).gets_one_of(refused),
        case("an empty coding", coding("")).gets_one_of(refused),
        case("an empty member before chunked", coding(", chunked"))
            .gets_one_of(refused)
            .tolerated(),
        case(
            "two codings in two fields",
            post(
                "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n",
                "0\r\n\r\n",
            ),
        )
        .gets_one_of(refused),
        case(
            "chunked in two fields",
            post(
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
                "0\r\n\r\n",
            ),
        )
        .gets_one_of(refused),
        case(
            "chunked and identity in two fields",
            post(
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
                "0\r\n\r\n",
            ),
        )
        .gets_one_of(refused),
        case(
            "chunks in HTTP/1.0",
            "POST / HTTP/1.0\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        ),
        case(
            "a space before the colon of Transfer-Encoding",
            post("Transfer-Encoding : chunked\r\n", "0\r\n\r\n"),
        ),
    ]
}

fn both() -> Vec<Case> {
    let chunked = "Transfer-Encoding: chunked\r\n";
    vec![
        case(
            "a coding and a length",
            post(
                &format!("{chunked}Content-Length: 5\r\n"),
                "5\r\nhello\r\n0\r\n\r\n",
            ),
        ),
        case(
            "a length and a coding",
            post(
                &format!("Content-Length: 5\r\n{chunked}"),
                "5\r\nhello\r\n0\r\n\r\n",
            ),
        ),
        case(
            "a coding and a length of zero",
            post(&format!("{chunked}Content-Length: 0\r\n"), "0\r\n\r\n"),
        ),
        case(
            "a coding, a length and a request behind",
            post(
                &format!("{chunked}Content-Length: 4\r\n"),
                "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n",
            ),
        ),
        case(
            "another coding and a length",
            post("Transfer-Encoding: gzip\r\nContent-Length: 5\r\n", "hello"),
        )
        .gets_one_of(&[400, 501]),
        case(
            "a length in HTTP/1.0 beside a coding",
            "POST / HTTP/1.0\r\nHost: a.test\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nhello",
        ),
    ]
}

fn pipelines() -> Vec<Case> {
    let one = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n");
    vec![
        case(
            "three requests at once",
            format!("{}{}{}", one("/1"), one("/2"), one("/3")),
        )
        .reaches("GET /1")
        .reaches("GET /2")
        .reaches("GET /3"),
        case(
            "a request behind a body",
            format!("{}{}", post("Content-Length: 5\r\n", "hello"), one("/2")),
        )
        .reaches("POST / hello")
        .reaches("GET /2"),
        case(
            "a request behind chunks",
            format!(
                "{}{}",
                post("Transfer-Encoding: chunked\r\n", "2\r\nhi\r\n0\r\n\r\n"),
                one("/2")
            ),
        )
        .reaches("POST / hi")
        .reaches("GET /2"),
        case(
            "an empty line between requests",
            format!("{}\r\n{}", one("/1"), one("/2")),
        )
        .reaches("GET /1")
        .reaches("GET /2"),
        case(
            "a bad request behind a good one",
            format!("{}BAD\r\n\r\n", one("/1")),
        )
        .reaches("GET /1")
        .then_gets(400),
        case(
            "nothing is read behind a bad request",
            format!("BAD\r\n\r\n{}", one("/smuggled")),
        ),
        case(
            "nothing is read behind Connection: close",
            format!(
                "GET /1 HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n{}",
                one("/2")
            ),
        )
        .reaches("GET /1")
        .closed(),
        case(
            "a body longer than its length is the next request",
            post("Content-Length: 5\r\n", "hello!!\r\n\r\n"),
        )
        .reaches("POST / hello")
        .then_gets(400),
    ]
}
