//! Every carrier this machine has, and those of guests: all tests over kernel TLS, and what Atlas says
//! where the kernel has none or refuses.

use std::time::Duration;

use crate::guest::Guest;
use crate::support::{alone, atlas, carrier};

/// Larger than the threshold that is there by itself.
const LARGE: usize = 2 << 20;

#[test]
fn a_record_says_who_carried_its_connection_and_why_not_the_kernel() {
    for lines in ["", "ktls_threshold = \"0B\"", "prefer_ktls = false"] {
        for (path, size) in [("/small", 10), ("/large", LARGE)] {
            let atlas = atlas()
                .listens_tls("a.test")
                .tls_lines(lines)
                .file("site/small", vec![b's'; 10])
                .file("site/large", vec![b'l'; LARGE])
                .text("[[route]]\nfiles = \"site\"")
                .start();
            assert_eq!(atlas.get(path).body.len(), size);
            let record = atlas.exchange(path);
            let said = (record["carrier"].as_str().unwrap(), record["refusal"].as_str());
            let asked = if lines.is_empty() { carrier::lines() } else { lines };
            let expected = carrier::expected(asked, size == LARGE);
            assert_eq!(said, expected, "[tls] {lines}, {path}: {record}");
        }
    }
}

/// The subjects whose bytes go over TLS in quantity, or in a way of their own. `tests/vm/matrix` runs
/// all of them, on every kernel.
const MOVE_BYTES: [&str; 7] = [
    "carriers::",
    "forwarding::",
    "handshake::",
    "http1::",
    "long_bodies::",
    "static_files::",
    "tcp::",
];

#[test]
fn what_moves_bytes_does_so_over_kernel_tls() {
    let _alone = alone();
    Guest::linux_6_12()
        .environment("ATLAS_TEST_CARRIER", "kernel")
        .arguments(MOVE_BYTES)
        .limit(Duration::from_secs(900))
        .run();
}

#[test]
fn a_kernel_that_cannot_is_named_and_all_is_served() {
    let _alone = alone();
    for guest in [Guest::without_tls(), Guest::refusing_keys()] {
        guest.arguments(["carriers::", "handshake::"]).run();
    }
}
