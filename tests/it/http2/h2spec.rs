//! Which of our sequences stands for which test of h2spec, the conformance suite of others. Where h2spec is
//! installed, `programs` runs it as well.
//!
//! A row is one of its groups, a name in it one of the group's tests, in their order. The numbers are those of
//! RFC 7540 and RFC 7541; in RFC 9113 §3.5 is §3.4, and §8.1.2 is §8.2 and §8.3.

use super::conformance;

/// A test of ours by its function, where a sequence cannot say it.
const STREAMS: &str = include_str!("streams.rs");

const OURS: [(&str, &[&str]); 49] = [
    ("generic/1", &["a preface, and nothing behind it"]),
    (
        "generic/2",
        &[
            "PRIORITY on an idle stream",
            "a window opened behind END_STREAM",
            "a window opened behind END_STREAM and PRIORITY",
            "RST_STREAM behind END_STREAM",
            "PRIORITY behind the answer",
        ],
    ),
    (
        "generic/3.1",
        &["a POST", "a POST in two frames", "DATA with padding"],
    ),
    (
        "generic/3.2",
        &["a GET", "HEADERS with padding", "HEADERS with a priority"],
    ),
    (
        "generic/3.3",
        &[
            "PRIORITY of the least weight",
            "PRIORITY of the greatest weight",
            "PRIORITY on another stream",
            "PRIORITY alone",
            "PRIORITY of a stream beyond the one that is opened",
        ],
    ),
    ("generic/3.4", &["RST_STREAM before END_STREAM"]),
    ("generic/3.5", &["all settings there are"]),
    ("generic/3.7", &["PING"]),
    ("generic/3.8", &["GOAWAY, and a PING"]),
    (
        "generic/3.9",
        &[
            "the connection's window opened by one byte",
            "a window opened behind END_STREAM",
        ],
    ),
    (
        "generic/3.10",
        &["a block in two frames", "a block in three frames"],
    ),
    (
        "generic/4",
        &["a GET", "a HEAD", "a POST", "a POST with trailers"],
    ),
    (
        "generic/5",
        &[
            "a field of the static table",
            "a known name, indexed",
            "a known name, indexed, by Huffman",
            "a new name, indexed",
            "a new name, indexed, by Huffman",
            "a known name, not indexed",
            "a known name, not indexed, by Huffman",
            "a new name, not indexed",
            "a new name, not indexed, by Huffman",
            "a known name, never indexed",
            "a known name, never indexed, by Huffman",
            "a new name, never indexed",
            "a new name, never indexed, by Huffman",
            "a new size of the table",
            "two new sizes of the table",
        ],
    ),
    (
        "http2/3.5",
        &["a preface, and nothing behind it", "a preface that is none"],
    ),
    (
        "http2/4.1",
        &[
            "a frame of an unknown kind",
            "flags that nobody knows",
            "the reserved bit of a stream",
        ],
    ),
    (
        "http2/4.2",
        &[
            "DATA as large as a frame may be",
            "DATA larger than a frame may be",
            "HEADERS larger than a frame may be",
        ],
    ),
    (
        "http2/4.3",
        &[
            "a literal without name and value",
            "PRIORITY inside a block",
            "HEADERS of another stream inside a block",
        ],
    ),
    (
        "http2/5.1",
        &[
            "DATA on an idle stream",
            "RST_STREAM on an idle stream",
            "WINDOW_UPDATE on an idle stream",
            "CONTINUATION on an idle stream",
            "DATA behind END_STREAM",
            "HEADERS behind END_STREAM",
            "CONTINUATION behind END_STREAM",
            "DATA behind RST_STREAM",
            "HEADERS behind RST_STREAM",
            "CONTINUATION behind RST_STREAM",
            "DATA behind the answer",
            "HEADERS behind the answer",
            "CONTINUATION behind the answer",
        ],
    ),
    (
        "http2/5.1.1",
        &[
            "a stream of an even number",
            "a stream with a lower number than before",
        ],
    ),
    (
        "http2/5.1.2",
        &["more_streams_than_are_allowed_are_refused_and_may_be_tried_again"],
    ),
    (
        "http2/5.3.1",
        &[
            "a stream that depends on itself",
            "PRIORITY of a stream on itself",
        ],
    ),
    ("http2/5.4.1", &["PING on a stream", "PING on a stream"]),
    (
        "http2/5.5",
        &["a frame of an unknown kind", "an unknown frame inside a block"],
    ),
    (
        "http2/6.1",
        &[
            "DATA on stream 0",
            "DATA behind END_STREAM",
            "DATA with more padding than there is",
        ],
    ),
    (
        "http2/6.2",
        &[
            "PRIORITY inside a block",
            "HEADERS of another stream inside a block",
            "HEADERS on stream 0",
            "HEADERS with more padding than there is",
        ],
    ),
    (
        "http2/6.3",
        &["PRIORITY on stream 0", "PRIORITY that is too short"],
    ),
    (
        "http2/6.4",
        &[
            "RST_STREAM on stream 0",
            "RST_STREAM on an idle stream",
            "RST_STREAM that is too short",
        ],
    ),
    (
        "http2/6.5",
        &[
            "an ACK that says something",
            "SETTINGS on a stream",
            "SETTINGS of half a setting",
        ],
    ),
    (
        "http2/6.5.2",
        &[
            "ENABLE_PUSH = 2",
            "INITIAL_WINDOW_SIZE of 2 GiB",
            "MAX_FRAME_SIZE below the least",
            "MAX_FRAME_SIZE beyond the most",
            "a setting nobody knows",
        ],
    ),
    (
        "http2/6.5.3",
        &[
            "the last of two windows in one SETTINGS",
            "all settings there are",
        ],
    ),
    (
        "http2/6.7",
        &[
            "PING",
            "an answer to no PING",
            "PING on a stream",
            "PING that is too short",
        ],
    ),
    ("http2/6.8", &["GOAWAY on a stream"]),
    (
        "http2/6.9",
        &[
            "the connection's window opened by nothing",
            "a stream's window opened by nothing",
            "WINDOW_UPDATE that is too short",
        ],
    ),
    (
        "http2/6.9.1",
        &[
            "an answer that finds a window of one byte",
            "the connection's window beyond the most",
            "a stream's window beyond the most",
        ],
    ),
    (
        "http2/6.9.2",
        &[
            "a window that settings open",
            "a window that settings make less than nothing",
            "INITIAL_WINDOW_SIZE of 2 GiB",
        ],
    ),
    (
        "http2/6.10",
        &[
            "a block in three frames",
            "DATA behind CONTINUATION that is not the last",
            "CONTINUATION on stream 0",
            "CONTINUATION behind END_STREAM",
            "CONTINUATION behind the last one",
            "CONTINUATION behind DATA",
        ],
    ),
    (
        "http2/7",
        &[
            "GOAWAY with a code nobody knows, and a PING",
            "RST_STREAM with a code nobody knows",
        ],
    ),
    ("http2/8.1", &["HEADERS behind a body that do not end it"]),
    ("http2/8.1.2", &["a name in capitals"]),
    (
        "http2/8.1.2.1",
        &[
            "a pseudo-header field nobody knows",
            "one of responses",
            "a pseudo-header field behind a body, and no end",
            "one behind the fields",
        ],
    ),
    (
        "http2/8.1.2.2",
        &["Connection", "TE that wants more than trailers"],
    ),
    (
        "http2/8.1.2.3",
        &[
            "an empty :path",
            "no :method",
            "no :scheme",
            "no :path",
            "two :method",
            "two :scheme",
            "two :path",
        ],
    ),
    (
        "http2/8.1.2.6",
        &[
            "a body shorter than content-length",
            "a body shorter than content-length, in two frames",
        ],
    ),
    ("http2/8.2", &["PUSH_PROMISE from a client"]),
    (
        "hpack/2.3.3",
        &[
            "an index beyond both tables",
            "an index of a name beyond both tables",
        ],
    ),
    ("hpack/4.2", &["a new size of the table behind a field"]),
    (
        "hpack/5.2",
        &[
            "Huffman padding of more than seven bits",
            "Huffman padding of zeros",
            "the end of a string inside it",
        ],
    ),
    ("hpack/6.1", &["index 0"]),
    ("hpack/6.3", &["a table larger than it may be"]),
];

/// As many as h2spec runs with `--strict`.
const TESTS: usize = 147;

#[test]
fn each_test_of_h2spec_has_one_of_ours_that_stands_for_it() {
    let all = conformance::all();
    let is_ours = |name: &str| {
        all.iter().any(|case| case.name == name) || STREAMS.contains(&format!("\nfn {name}() {{"))
    };
    let mut count = 0;
    for (group, names) in OURS {
        for (number, name) in names.iter().enumerate() {
            assert!(is_ours(name), "{group}/{}: no test is named {name:?}", number + 1);
            count += 1;
        }
    }
    assert_eq!(count, TESTS);
}
