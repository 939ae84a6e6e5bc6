//! Who makes the TLS records of every Atlas of these tests, and what its records say of it.
//!
//! `ATLAS_TEST_CARRIER` chooses for all of them: `kernel` hands every connection to the kernel right
//! after its handshake, `sealed` keeps it on Atlas's own stream, `process` on monoio-rustls. Without
//! it Atlas does what it does by itself.

use crate::guest;

/// What `[tls]` says for it, and the `tls` of an upstream, where a test does not say it itself.
pub fn lines() -> &'static str {
    match std::env::var("ATLAS_TEST_CARRIER").as_deref() {
        Err(_) => "",
        Ok("kernel") => "ktls_threshold = \"0B\"\n",
        Ok("sealed") => "ktls_threshold = \"1TiB\"\n",
        Ok("process") => "prefer_ktls = false\n",
        Ok(other) => panic!("ATLAS_TEST_CARRIER is kernel, sealed or process, not {other}"),
    }
}

/// An upstream's lines, with the same in its `tls`.
pub fn in_upstream(upstream: &str) -> String {
    let own = lines().trim_end();
    if own.is_empty() || upstream.contains("ktls") {
        return upstream.to_owned();
    }
    let with_own = |line: &str| match line.strip_prefix("tls = ") {
        Some("true") => format!("tls = {{ {own} }}\n"),
        Some(table) if table.starts_with('{') => format!("tls = {{ {own}, {}\n", &table[1..]),
        _ => format!("{line}\n"),
    };
    // What follows is of other tables.
    let end = upstream.find("\n[").map_or(upstream.len(), |at| at + 1);
    let (of_it, others) = upstream.split_at(end);
    of_it.lines().map(with_own).collect::<String>() + others
}

/// The carrier of a connection that did what is asked of it in the words of `[tls]`, and the refusal.
/// `large` is one that moved more than the threshold that is there by itself.
pub fn expected(tls_lines: &str, large: bool) -> (&'static str, Option<&'static str>) {
    if tls_lines.contains("prefer_ktls = false") {
        return ("process", Some("not_preferred"));
    }
    if let Some(refusal) = guest::refusal_of_this_kernel() {
        return ("process", Some(refusal));
    }
    let is_promoted = match tls_lines.contains("ktls_threshold") {
        true => tls_lines.contains("\"0B\""),
        false => large,
    };
    match is_promoted {
        true => ("kernel", None),
        false => ("process", Some("below_threshold")),
    }
}
