//! Bodies by data: what comes, what of it is content, and what is left.

use super::*;

/// Content, then `|` and what is left after the end; `…` if more is needed; `!` and why not.
fn decoded(length: BodyLength, pieces: &[&[u8]]) -> String {
    let mut decoder = Decoder::new(length);
    let mut input = Buffer::small();
    let mut content = Vec::new();
    for piece in pieces {
        input.push(piece);
        loop {
            match decoder.next(&mut input) {
                Ok(Step::Content(count)) => {
                    content.extend_from_slice(&input.filled()[..count]);
                    input.consume(count);
                }
                Ok(Step::More) => {
                    input.compact();
                    break;
                }
                Ok(Step::End) => break,
                Err(_) => return format!("{}!", String::from_utf8_lossy(&content)),
            }
        }
    }
    let content = String::from_utf8_lossy(&content);
    if !decoder.is_finished() {
        return format!("{content}…");
    }
    let mut words = format!("{content}|{}", String::from_utf8_lossy(input.filled()));
    for (name, value) in decoder.trailers().iter().flat_map(|trailers| trailers.iter()) {
        words += &format!(" {name}={}", String::from_utf8_lossy(value));
    }
    words
}

const CHUNKED: &[(&str, &str)] = &[
    ("0\r\n\r\n", "|"),
    ("5\r\nhello\r\n0\r\n\r\n", "hello|"),
    ("5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", "hello world|"),
    ("0\r\n\r\nGET / HTTP/1.1\r\n", "|GET / HTTP/1.1\r\n"),
    ("00005\r\nhello\r\n000\r\n\r\n", "hello|"),
    ("a\r\n0123456789\r\n0\r\n\r\n", "0123456789|"),
    ("A\r\n0123456789\r\n0\r\n\r\n", "0123456789|"),
    ("2\r\n\r\n\r\n0\r\n\r\n", "\r\n|"),
    // Trailers.
    ("0\r\nX: y\r\n\r\n", "| X=y"),
    ("1\r\na\r\n0\r\nX: y\r\nZ: \r\n\r\nrest", "a|rest X=y Z="),
    ("0\r\nContent-Length: 5\r\n\r\n", "|"),
    ("0\r\nTransfer-Encoding: chunked\r\nX: y\r\n\r\n", "| X=y"),
    ("0\r\nX : y\r\n\r\n", "!"),
    ("0\r\nX: y\n\r\n\r\n", "!"),
    ("0\r\nX: y\r\n z\r\n\r\n", "!"),
    ("0\r\n X: y\r\n\r\n", "!"),
    ("0\r\nX\r\n\r\n", "!"),
    ("0\r\nX: \0\r\n\r\n", "!"),
    ("0\r\n\n\r\n\r\n", "!"),
    // Extensions are dropped.
    ("5;a\r\nhello\r\n0\r\n\r\n", "hello|"),
    ("5;a=b;c=\"d\"\r\nhello\r\n0;e\r\n\r\n", "hello|"),
    ("5; a\t\r\nhello\r\n0\r\n\r\n", "hello|"),
    ("5;a\nb\r\nhello\r\n0\r\n\r\n", "!"),
    ("5;a\rb\r\nhello\r\n0\r\n\r\n", "!"),
    ("5;a\r\r\nhello\r\n0\r\n\r\n", "!"),
    ("5;\0\r\nhello\r\n0\r\n\r\n", "!"),
    // Sizes that are none.
    ("\r\n", "!"),
    ("\n", "!"),
    (";a\r\n", "!"),
    (" 5\r\nhello\r\n", "!"),
    ("5 \r\nhello\r\n0\r\n\r\n", "!"),
    ("5\t;a\r\nhello\r\n0\r\n\r\n", "!"),
    ("+5\r\nhello\r\n", "!"),
    ("-1\r\n", "!"),
    ("0x5\r\nhello\r\n", "!"),
    ("5h\r\nhello\r\n", "!"),
    ("g\r\n", "!"),
    ("5,5\r\nhello\r\n", "!"),
    ("5\0\r\nhello\r\n", "!"),
    ("\u{665}\r\nhello\r\n", "!"),
    ("5_0\r\nhello\r\n", "!"),
    // Sizes that overflow or hide.
    ("7fffffffffffffff\r\na", "a…"),
    ("8000000000000000\r\na", "!"),
    ("ffffffffffffffff\r\na", "!"),
    ("10000000000000000\r\na", "!"),
    ("00000000000000005\r\nhello\r\n0\r\n\r\n", "!"),
    ("100000000000000005\r\nhello\r\n0\r\n\r\n", "!"),
    ("fffffffffffffffff\r\na", "!"),
    // Ends of lines.
    ("5\nhello\r\n0\r\n\r\n", "!"),
    ("5\rhello\r\n0\r\n\r\n", "!"),
    ("5\r\r\nhello\r\n0\r\n\r\n", "!"),
    ("5\n\rhello\r\n0\r\n\r\n", "!"),
    ("5\r\nhello0\r\n\r\n", "hello!"),
    ("5\r\nhello\n0\r\n\r\n", "hello!"),
    ("5\r\nhello\r0\r\n\r\n", "hello!"),
    ("5\r\nhello\r\r\n0\r\n\r\n", "hello!"),
    ("4\r\nhello\r\n0\r\n\r\n", "hell!"),
    ("6\r\nhello\r\n0\r\n\r\n", "hello\r!"),
    ("5\r\nhello\r\n\r\n0\r\n\r\n", "hello!"),
    ("0\n\n", "!"),
    ("0\r\n\n", "!"),
    ("0\r\n\rx", "…"),
    // Not yet.
    ("", "…"),
    ("5", "…"),
    ("5\r\nhel", "hel…"),
    ("5\r\nhello\r\n0\r\n", "hello…"),
    ("0\r\nX: y\r\n", "…"),
];

#[test]
fn chunks_are_taken_or_refused_as_the_table_says() {
    for (input, expected) in CHUNKED {
        let whole = decoded(BodyLength::Chunked, &[input.as_bytes()]);
        assert_eq!(whole, *expected, "{input:?}");
    }
}

#[test]
fn it_does_not_matter_in_what_pieces_chunks_come() {
    for (input, expected) in CHUNKED {
        let pieces: Vec<_> = input.as_bytes().chunks(1).collect();
        assert_eq!(decoded(BodyLength::Chunked, &pieces), *expected, "{input:?}");
    }
}

#[test]
fn framing_that_grows_without_content_is_refused() {
    let long = format!("1;{}\r\na\r\n", "x".repeat(EXTENSION_BYTES_MAX));
    let longer = format!("1;{}\r\na\r\n", "x".repeat(EXTENSION_BYTES_MAX + 1));
    assert_eq!(decoded(BodyLength::Chunked, &[long.as_bytes()]), "a…");
    assert_eq!(decoded(BodyLength::Chunked, &[longer.as_bytes()]), "!");
    let many: Vec<_> = std::iter::repeat_n(long.as_bytes(), 100).collect();
    assert!(decoded(BodyLength::Chunked, &many).ends_with('!'));
    let honest: Vec<_> = std::iter::repeat_n(&b"1\r\na\r\n"[..], 100_000).collect();
    assert!(decoded(BodyLength::Chunked, &honest).ends_with('…'));
}

#[test]
fn trailers_are_bounded() {
    let fields = format!("0\r\nX: {}", "y".repeat(TRAILER_BYTES_MAX));
    assert_eq!(decoded(BodyLength::Chunked, &[fields.as_bytes()]), "!");
    let many = format!("0\r\n{}\r\n", "X: y\r\n".repeat(TRAILERS_MAX + 1));
    assert_eq!(decoded(BodyLength::Chunked, &[many.as_bytes()]), "!");
}

#[test]
fn a_length_is_kept_to_the_byte() {
    assert_eq!(decoded(BodyLength::Exact(3), &[b"ab", b"cd"]), "abc|d");
    assert_eq!(decoded(BodyLength::Exact(3), &[b"ab"]), "ab…");
    assert_eq!(decoded(BodyLength::Exact(0), &[b"ab"]), "|ab");
    assert_eq!(decoded(BodyLength::None, &[b"ab"]), "|ab");
    assert_eq!(decoded(BodyLength::UntilClose, &[b"ab", b"cd"]), "abcd…");
}

#[test]
fn what_is_left_is_told_where_it_is_known() {
    let mut decoder = Decoder::new(BodyLength::Exact(3));
    assert_eq!(decoder.left(), Some(3));
    let mut input = Buffer::small();
    input.push(b"ab");
    assert_eq!(decoder.next(&mut input), Ok(Step::Content(2)));
    assert_eq!(decoder.left(), Some(1));
    assert_eq!(Decoder::new(BodyLength::Chunked).left(), None);
}
