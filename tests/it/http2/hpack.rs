//! What RFC 7541 (HPACK) asks of a decoder: each way to say a field is understood, and what says none ends
//! the connection.

use super::sequences::{Case, Outcome, case};
use crate::support::frames::*;

/// RFC 9113 §4.3 wants COMPRESSION_ERROR; the `h2` crate says PROTOCOL_ERROR.
pub(super) const WRONG: Outcome = Outcome::Goaway(&[COMPRESSION_ERROR, PROTOCOL_ERROR]);

// RFC 7541 §C.4: the RFC's own examples of strings, Huffman-encoded.
const NO_CACHE: &[u8] = b"\x86\xa8\xeb\x10\x64\x9c\xbf";
const CUSTOM_KEY: &[u8] = b"\x88\x25\xa8\x49\xe9\x5b\xa9\x7d\x7f";
const CUSTOM_VALUE: &[u8] = b"\x89\x25\xa8\x49\xe9\x5b\xb8\xe8\xb4\xbf";

// RFC 7541 §6.2: how a literal begins whose name is new.
const INDEXED: u8 = 0x40;
const NOT_INDEXED: u8 = 0x00;
const NEVER_INDEXED: u8 = 0x10;

// The same where the name is that of cache-control, 24 in the static table (§A). Its number does not fit
// into a prefix of four bits.
const CACHE_CONTROL_INDEXED: &[u8] = b"\x58";
const CACHE_CONTROL_NOT_INDEXED: &[u8] = b"\x0f\x09";
const CACHE_CONTROL_NEVER_INDEXED: &[u8] = b"\x1f\x09";

fn plain(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    string(&mut bytes, text.as_bytes());
    bytes
}

/// A request with something before its block of fields, and something behind.
fn request_with(before: &[u8], path: &str, behind: &[u8]) -> Vec<u8> {
    let fields = [before, &block(&get(path, &[])), behind].concat();
    frame(HEADERS, END_HEADERS | END_STREAM, 1, fields)
}

pub(super) fn cases() -> Vec<Case> {
    let mut all = good();
    all.extend(bad());
    all
}

/// §6: the representations, each with its strings as they are and Huffman-encoded.
fn good() -> Vec<Case> {
    let cache = |name, begins: &[u8], value: &[u8]| {
        let said = request_with(b"", "/good", &[begins, value].concat());
        case(name, said, Outcome::Passed("cache-control", "no-cache"))
    };
    let custom = |name, begins: u8, field: &[&[u8]]| {
        let said = request_with(b"", "/good", &[&[begins][..], &field.concat()].concat());
        case(name, said, Outcome::Passed("custom-key", "custom-value"))
    };
    let as_it_is = [plain("custom-key"), plain("custom-value")];
    let as_it_is: [&[u8]; 2] = [&as_it_is[0], &as_it_is[1]];
    let huffman = [CUSTOM_KEY, CUSTOM_VALUE];
    let no_cache = &plain("no-cache");
    vec![
        case(
            "a field of the static table",
            request_with(b"", "/good", b"\x90"),
            Outcome::Passed("accept-encoding", "gzip, deflate"),
        ),
        cache("a known name, indexed", CACHE_CONTROL_INDEXED, no_cache),
        cache(
            "a known name, indexed, by Huffman",
            CACHE_CONTROL_INDEXED,
            NO_CACHE,
        ),
        custom("a new name, indexed", INDEXED, &as_it_is),
        custom("a new name, indexed, by Huffman", INDEXED, &huffman),
        cache("a known name, not indexed", CACHE_CONTROL_NOT_INDEXED, no_cache),
        cache(
            "a known name, not indexed, by Huffman",
            CACHE_CONTROL_NOT_INDEXED,
            NO_CACHE,
        ),
        custom("a new name, not indexed", NOT_INDEXED, &as_it_is),
        custom("a new name, not indexed, by Huffman", NOT_INDEXED, &huffman),
        cache(
            "a known name, never indexed",
            CACHE_CONTROL_NEVER_INDEXED,
            no_cache,
        ),
        cache(
            "a known name, never indexed, by Huffman",
            CACHE_CONTROL_NEVER_INDEXED,
            NO_CACHE,
        ),
        custom("a new name, never indexed", NEVER_INDEXED, &as_it_is),
        custom("a new name, never indexed, by Huffman", NEVER_INDEXED, &huffman),
        case(
            "a field that was indexed just before",
            {
                let field = [&[INDEXED][..], &huffman.concat(), b"\xbe"].concat();
                request_with(b"", "/good", &field)
            },
            Outcome::Passed("custom-key", "custom-value"),
        ),
        case(
            "a new size of the table",
            request_with(b"\x21", "/good", b""),
            Outcome::Answered(200),
        ),
        case(
            "two new sizes of the table",
            request_with(b"\x20\x3f\xe1\x1f", "/good", b""),
            Outcome::Answered(200),
        ),
    ]
}

/// What has to be a decoding error, and with that one of the connection (RFC 9113 §4.3).
fn bad() -> Vec<Case> {
    let bad = |name, before: &[u8], behind: &[u8]| case(name, request_with(before, "/bad", behind), WRONG);
    let value = |string: &[u8]| [CACHE_CONTROL_INDEXED, string].concat();
    vec![
        // §2.3.3
        bad("an index beyond both tables", b"", b"\xc6"),
        bad("an index of a name beyond both tables", b"", b"\x7f\x07\x00"),
        bad("an index far beyond both tables", b"", b"\xff\xff\xff\x7f"),
        // §4.2
        bad("a new size of the table behind a field", b"", b"\x21"),
        // §5.1
        bad(
            "a number that is too large",
            b"",
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
        ),
        // §5.2
        bad(
            "Huffman padding of more than seven bits",
            b"",
            &value(b"\x87\xa8\xeb\x10\x64\x9c\xbf\xff"),
        ),
        // An "a" is five bits.
        bad("Huffman padding of zeros", b"", &value(b"\x81\x18")),
        bad(
            "the end of a string inside it",
            b"",
            &value(b"\x84\xff\xff\xff\xff"),
        ),
        bad("a string that breaks off", b"", b"\x40\x0acustom"),
        // §6.1
        bad("index 0", b"", b"\x80"),
        // §6.3
        bad("a table larger than it may be", b"\x3f\xe2\x1f", b""),
        // RFC 9113 §4.3
        case(
            "a literal without name and value",
            frame(HEADERS, END_HEADERS | END_STREAM, 1, [INDEXED]),
            WRONG,
        ),
    ]
}
