//! Ranges: which parts of a file a request asks for (RFC 9110 §14).

use std::ops::Range;

/// Members a Range field may have before it is ignored, as RFC 9110 §14.2 allows for "many small
/// ranges": reading the list is work too.
const MEMBERS_MAX: usize = 64;

/// Parts an answer may have.
pub(super) const PARTS_MAX: usize = 16;

/// Ranges closer together than this are sent as one: the head of a part costs as much.
const GAP_MAX: u64 = 80;

/// What a Range field asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// The file as a whole: no range, one that is not understood, or more than is reasonable.
    Whole,
    /// Parts: at least one, none empty, in order, apart, at most [`PARTS_MAX`].
    Parts(Vec<Range<u64>>),
    /// Nothing that is there: 416.
    Nothing,
}

/// Reads a Range field for a file of `size` bytes.
pub(super) fn read(field: &[u8], size: u64) -> Asked {
    let Some(members) = members_of(field) else {
        return Asked::Whole;
    };
    let mut parts = Vec::new();
    for (count, member) in members.split(|byte| *byte == b',').enumerate() {
        let member = member.trim_ascii();
        if member.is_empty() {
            continue; // RFC 9110 §5.6.1: empty list members are ignored
        }
        match parse(member, size) {
            Some(Found::Part(part)) if count < MEMBERS_MAX => parts.push(part),
            Some(Found::Beyond) if count < MEMBERS_MAX => {}
            _ => return Asked::Whole,
        }
    }
    if size == 0 {
        // A suffix of nothing is satisfiable, but no Content-Range could say so.
        return if parts.is_empty() {
            Asked::Nothing
        } else {
            Asked::Whole
        };
    }
    coalesce(parts)
}

fn members_of(field: &[u8]) -> Option<&[u8]> {
    let (unit, members) = field.split_at(field.iter().position(|byte| *byte == b'=')?);
    let members = &members[1..];
    let named = members.iter().any(|byte| !matches!(byte, b',' | b' ' | b'\t'));
    (unit.trim_ascii().eq_ignore_ascii_case(b"bytes") && named).then_some(members)
}

enum Found {
    Part(Range<u64>),
    Beyond,
}

/// One member. `None` where it is not a range at all.
fn parse(member: &[u8], size: u64) -> Option<Found> {
    let dash = member.iter().position(|byte| *byte == b'-')?;
    let (first, last) = (&member[..dash], &member[dash + 1..]);
    let part = match (first.is_empty(), last.is_empty()) {
        (true, true) => return None,
        (true, false) => match number(last)? {
            0 => return Some(Found::Beyond),
            count => size.saturating_sub(count)..size,
        },
        (false, true) => number(first)?..size,
        (false, false) => {
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return None; // RFC 9110 §14.1.1: such a range is invalid
            }
            first..last.saturating_add(1).min(size)
        }
    };
    Some(if part.start < size || (size == 0 && first.is_empty()) {
        Found::Part(part)
    } else {
        Found::Beyond
    })
}

/// Decimal digits; a number too large to count is as good as the largest.
fn number(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0_u64, |sum, digit| {
        digit
            .is_ascii_digit()
            .then(|| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0')))
    })
}

fn coalesce(mut parts: Vec<Range<u64>>) -> Asked {
    if parts.len() > 1 {
        parts.sort_unstable_by_key(|part| part.start);
        parts.dedup_by(|next, kept| {
            let close = next.start <= kept.end.saturating_add(GAP_MAX);
            if close {
                kept.end = kept.end.max(next.end);
            }
            close
        });
    }
    match &parts[..] {
        [] => Asked::Nothing,
        parts if parts.len() > PARTS_MAX => Asked::Whole,
        _ => Asked::Parts(parts),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(list: &[(u64, u64)]) -> Asked {
        Asked::Parts(list.iter().map(|&(from, to)| from..to).collect())
    }

    #[test]
    fn ranges_are_read_as_rfc_9110_says() {
        for (field, size, expected) in [
            ("bytes=0-0", 10, parts(&[(0, 1)])),
            ("bytes=0-9", 10, parts(&[(0, 10)])),
            ("bytes=0-", 10, parts(&[(0, 10)])),
            ("bytes=3-", 10, parts(&[(3, 10)])),
            ("bytes=3-100", 10, parts(&[(3, 10)])),
            ("bytes=-4", 10, parts(&[(6, 10)])),
            ("bytes=-400", 10, parts(&[(0, 10)])),
            ("Bytes=1-2", 10, parts(&[(1, 3)])),
            ("bytes= 1-2 ", 10, parts(&[(1, 3)])),
            ("bytes=1-2,", 10, parts(&[(1, 3)])),
            ("bytes=9-99999999999999999999999", 10, parts(&[(9, 10)])),
            // Not there.
            ("bytes=10-", 10, Asked::Nothing),
            ("bytes=10-20", 10, Asked::Nothing),
            ("bytes=-0", 10, Asked::Nothing),
            ("bytes=99999999999999999999999-", 10, Asked::Nothing),
            ("bytes=0-", 0, Asked::Nothing),
            ("bytes=-1", 0, Asked::Whole),
            // Not a range.
            ("bytes=", 10, Asked::Whole),
            ("bytes=,", 10, Asked::Whole),
            ("bytes=-", 10, Asked::Whole),
            ("bytes=5-3", 10, Asked::Whole),
            ("bytes=a-b", 10, Asked::Whole),
            ("bytes=1-2-3", 10, Asked::Whole),
            ("bytes=+1-2", 10, Asked::Whole),
            ("bytes=1 - 2", 10, Asked::Whole),
            ("bytes=--1", 10, Asked::Whole),
            ("bytes 0-1", 10, Asked::Whole),
            ("items=0-1", 10, Asked::Whole),
            ("0-1", 10, Asked::Whole),
            ("bytes=0-1,x", 10, Asked::Whole),
            // Several.
            ("bytes=0-9,200-209", 1000, parts(&[(0, 10), (200, 210)])),
            ("bytes=200-209, 0-9", 1000, parts(&[(0, 10), (200, 210)])),
            ("bytes=0-9,5-19", 1000, parts(&[(0, 20)])),
            ("bytes=0-9,10-19", 1000, parts(&[(0, 20)])),
            ("bytes=0-9,80-89", 1000, parts(&[(0, 90)])),
            ("bytes=0-9,-10", 1000, parts(&[(0, 10), (990, 1000)])),
            ("bytes=0-9,5000-", 1000, parts(&[(0, 10)])),
            ("bytes=2000-,5000-", 1000, Asked::Nothing),
            ("bytes=0-,0-,0-,0-", 1000, parts(&[(0, 1000)])),
        ] {
            assert_eq!(read(field.as_bytes(), size), expected, "{field:?} of {size}");
        }
    }

    #[test]
    fn abusive_sets_get_the_whole_file() {
        let apart = |count: u64| {
            let list: Vec<_> = (0..count)
                .map(|at| format!("{}-{}", at * 1000, at * 1000))
                .collect();
            format!("bytes={}", list.join(","))
        };
        let size = 10_000_000;
        assert!(matches!(read(apart(16).as_bytes(), size), Asked::Parts(found) if found.len() == 16));
        assert_eq!(read(apart(17).as_bytes(), size), Asked::Whole);
        assert_eq!(read(apart(1000).as_bytes(), size), Asked::Whole);
        // CVE-2011-3192: thousands of overlapping ranges.
        let overlapping: Vec<_> = (0..1300).map(|at| format!("5-{}", at + 5)).collect();
        let field = format!("bytes=0-,{}", overlapping.join(","));
        assert_eq!(read(field.as_bytes(), size), Asked::Whole);
    }

    #[test]
    fn parts_are_always_in_order_apart_and_inside() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..20_000 {
            let size = random.u64(0..5000);
            let members: Vec<_> = (0..random.usize(0..20))
                .map(|_| match random.u8(0..3) {
                    0 => format!("-{}", random.u64(0..6000)),
                    1 => format!("{}-", random.u64(0..6000)),
                    _ => format!("{}-{}", random.u64(0..6000), random.u64(0..6000)),
                })
                .collect();
            let field = format!("bytes={}", members.join(","));
            if let Asked::Parts(parts) = read(field.as_bytes(), size) {
                assert!((1..=PARTS_MAX).contains(&parts.len()), "{field}");
                assert!(parts.iter().all(|part| part.start < part.end && part.end <= size));
                assert!(parts.windows(2).all(|pair| pair[0].end < pair[1].start));
            }
        }
    }
}
