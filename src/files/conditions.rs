//! Conditions: whether a request still wants the file as it is (RFC 9110 §13).

use super::facts::{Validators, seconds_of};
use crate::http::Fields;
use crate::http::message::tokens;

/// What the conditions of a request come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Send it; of Range only what If-Range leaves.
    Send {
        /// Whether Range counts.
        ranges: bool,
    },
    /// The client has it: 304.
    NotModified,
    /// The client asked for another: 412.
    Failed,
}

/// Weighs the conditions of a GET or HEAD in the order of RFC 9110 §13.2.2.
pub(super) fn weigh(fields: &Fields, file: &Validators) -> Verdict {
    // Most requests have none; one look tells.
    if !fields.iter().any(|(name, _)| is_condition(name)) {
        return Verdict::Send { ranges: true };
    }
    if fields.has("if-match") {
        if !matches_any(fields.get_all("if-match"), file, Compare::Strong) {
            return Verdict::Failed;
        }
    } else if date(fields, "if-unmodified-since").is_some_and(|at| !unmodified_since(file, at)) {
        return Verdict::Failed;
    }
    if fields.has("if-none-match") {
        if matches_any(fields.get_all("if-none-match"), file, Compare::Weak) {
            return Verdict::NotModified;
        }
    } else if date(fields, "if-modified-since").is_some_and(|at| unmodified_since(file, at)) {
        return Verdict::NotModified;
    }
    Verdict::Send {
        ranges: fields.get("if-range").is_none_or(|value| is_same(value, file)),
    }
}

fn is_condition(name: &str) -> bool {
    name.get(..3)
        .is_some_and(|start| start.eq_ignore_ascii_case("if-"))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Compare {
    Strong,
    Weak,
}

/// Whether `*` or one of the tags is the file's.
///
/// Tags are told apart by commas, which RFC 9110 allows inside a tag: ours have none, and half a
/// tag has not both its quotes, so that it cannot be taken for one.
fn matches_any<'a>(values: impl Iterator<Item = &'a [u8]>, file: &Validators, compare: Compare) -> bool {
    tokens(values).any(|tag| match tag.strip_prefix(b"W/") {
        _ if tag == b"*" => true,
        Some(_) if compare == Compare::Strong => false,
        opaque => is_tag(opaque.unwrap_or(tag), file),
    })
}

fn is_tag(tag: &[u8], file: &Validators) -> bool {
    file.etag.as_ref().is_some_and(|known| known.as_ref() == tag)
}

fn unmodified_since(file: &Validators, at: u64) -> bool {
    file.modified.is_some_and(|modified| modified <= at)
}

/// If-Range: the very same, by a strong tag or by a date that is strong.
fn is_same(value: &[u8], file: &Validators) -> bool {
    if value.starts_with(b"\"") || value.starts_with(b"W/") {
        return is_tag(value, file);
    }
    // RFC 9110 §13.1.5: an exact match, not "not later"; §8.8.2.2: a date is strong when it is at
    // least a second before the moment it was sent, since a file can change twice in one.
    parse_date(value).is_some_and(|at| file.modified == Some(at) && at < file.now)
}

fn date(fields: &Fields, name: &str) -> Option<u64> {
    // RFC 9110 §13.1.3: "A recipient MUST ignore" a date that is not valid, or one of several.
    let mut values = fields.get_all(name);
    let value = values.next()?;
    values.next().is_none().then(|| parse_date(value)).flatten()
}

fn parse_date(value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value).ok()?;
    httpdate::parse_http_date(text).ok().map(seconds_of)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::super::facts::Facts;
    use super::*;

    const TAG: &str = "\"2ebc98a1.0-3\"";
    const EARLIER: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
    const MODIFIED: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const LATER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

    fn weighed(lines: &[(&str, &str)], age: u64) -> Verdict {
        let mut fields = Fields::new();
        for (name, value) in lines {
            fields.push(name, value);
        }
        let now = UNIX_EPOCH + Duration::from_secs(784_111_777 + age);
        weigh(
            &fields,
            &Facts::made_up(3, (784_111_777, 0)).validators(None, now),
        )
    }

    const SEND: Verdict = Verdict::Send { ranges: true };
    const WHOLE: Verdict = Verdict::Send { ranges: false };

    const FAILED: Verdict = Verdict::Failed;
    const SAME: Verdict = Verdict::NotModified;

    fn are_weighed(cases: &[(&[(&str, &str)], Verdict)]) {
        for (lines, expected) in cases {
            assert_eq!(weighed(lines, 60), *expected, "{lines:?}");
        }
    }

    #[test]
    fn a_tag_or_a_date_the_client_has_is_weighed_as_rfc_9110_says() {
        let weak = format!("W/{TAG}");
        let weak_list = format!("\"x\",W/{TAG}");
        are_weighed(&[
            (&[], SEND),
            (&[("If-None-Match", TAG)], SAME),
            (&[("If-None-Match", &weak)], SAME),
            (&[("If-None-Match", &weak_list)], SAME),
            (&[("If-None-Match", "*")], SAME),
            (&[("If-None-Match", "\"x\"")], SEND),
            (&[("If-None-Match", "")], SEND),
            (&[("If-None-Match", TAG.trim_matches('"'))], SEND),
            (&[("If-None-Match", "\"x\""), ("if-none-match", TAG)], SAME),
            (&[("If-Modified-Since", MODIFIED)], SAME),
            (&[("If-Modified-Since", LATER)], SAME),
            (&[("If-Modified-Since", EARLIER)], SEND),
            (&[("If-Modified-Since", "yesterday")], SEND),
            (
                &[("If-Modified-Since", LATER), ("If-Modified-Since", LATER)],
                SEND,
            ),
            (&[("If-Modified-Since", "Sunday, 06-Nov-94 08:49:37 GMT")], SAME),
            (&[("If-Modified-Since", "Sun Nov  6 08:49:37 1994")], SAME),
            // The tag outweighs the date.
            (&[("If-None-Match", "\"x\""), ("If-Modified-Since", LATER)], SEND),
            (&[("If-None-Match", TAG), ("If-Modified-Since", EARLIER)], SAME),
        ]);
    }

    #[test]
    fn what_has_to_be_unchanged_is_weighed_as_rfc_9110_says() {
        let weak = format!("W/{TAG}");
        let list = format!("\"x\", {TAG} ,\"y\"");
        are_weighed(&[
            (&[("If-Match", TAG)], SEND),
            (&[("If-Match", &list)], SEND),
            (&[("If-Match", "*")], SEND),
            (&[("If-Match", &weak)], FAILED),
            (&[("If-Match", "\"x\"")], FAILED),
            (&[("If-Match", "")], FAILED),
            (&[("If-Unmodified-Since", MODIFIED)], SEND),
            (&[("If-Unmodified-Since", EARLIER)], FAILED),
            (&[("If-Unmodified-Since", "never")], SEND),
            (&[("If-Match", TAG), ("If-Unmodified-Since", EARLIER)], SEND),
            (&[("If-Match", "\"x\""), ("If-None-Match", TAG)], FAILED),
            (&[("If-Match", TAG), ("If-None-Match", TAG)], SAME),
            (&[("If-Range", TAG)], SEND),
            (&[("If-Range", &weak)], WHOLE),
            (&[("If-Range", "\"x\"")], WHOLE),
            (&[("If-Range", MODIFIED)], SEND),
            (&[("If-Range", LATER)], WHOLE),
            (&[("If-Range", EARLIER)], WHOLE),
            (&[("If-Range", "x")], WHOLE),
            (&[("If-Range", "")], WHOLE),
        ]);
    }

    #[test]
    fn a_date_of_this_very_second_is_too_weak_for_if_range() {
        assert_eq!(weighed(&[("If-Range", MODIFIED)], 0), WHOLE);
        assert_eq!(weighed(&[("If-Range", MODIFIED)], 1), SEND);
        assert_eq!(weighed(&[("If-Range", TAG)], 0), SEND);
    }
}
