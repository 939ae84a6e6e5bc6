//! Which precompressed neighbour a client would rather have than the file itself.

use crate::http::message::tokens;

/// A content coding a neighbour may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    Brotli,
    Zstd,
    Gzip,
}

impl Coding {
    /// In the order of what they save, which decides between equal wishes.
    const ALL: [Self; 3] = [Self::Brotli, Self::Zstd, Self::Gzip];

    /// As Content-Encoding writes it.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Brotli => "br",
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
        }
    }

    /// What the neighbour's name has behind the file's.
    pub(super) const fn suffix(self) -> &'static str {
        match self {
            Self::Brotli => ".br",
            Self::Zstd => ".zst",
            Self::Gzip => ".gz",
        }
    }
}

/// Thousandths, as many as RFC 9110 §12.4.2 knows: 1000 is `q=1`.
type Quality = u16;

/// The codings to look for before the file itself, the most wanted first.
///
/// A client that gives identity a quality of its own gets no coding it wants less. One that
/// excludes identity still gets it where nothing else is there: RFC 9110 §12.5.3 leaves that to
/// the server, and bytes are more useful than an error.
pub(super) fn wanted<'a>(accept_encoding: impl Iterator<Item = &'a [u8]>) -> impl Iterator<Item = Coding> {
    let mut asked = Asked::default();
    for member in tokens(accept_encoding) {
        asked.read(member);
    }
    let least = asked.identity.unwrap_or(0);
    let mut found = Coding::ALL.map(|coding| {
        let quality = asked.codings[coding as usize].or(asked.any).unwrap_or(0);
        (quality > 0 && quality >= least).then_some((quality, coding))
    });
    // Stable: what is wanted equally stays in the order above.
    found.sort_by_key(|choice| std::cmp::Reverse(choice.map_or(0, |(quality, _)| quality)));
    found.into_iter().flatten().map(|(_, coding)| coding)
}

#[derive(Default)]
struct Asked {
    codings: [Option<Quality>; 3],
    identity: Option<Quality>,
    any: Option<Quality>,
}

impl Asked {
    fn read(&mut self, member: &[u8]) {
        let mut parts = member.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let name = parts.next().unwrap_or_default();
        let Some(quality) = parts.try_fold(1000, |quality, parameter| match parameter {
            [b'q' | b'Q', b'=', value @ ..] => parse_quality(value),
            _ => Some(quality),
        }) else {
            return; // what cannot be understood is not a wish
        };
        let slot = match name {
            b"*" => &mut self.any,
            name if name.eq_ignore_ascii_case(b"br") => &mut self.codings[Coding::Brotli as usize],
            name if name.eq_ignore_ascii_case(b"zstd") => &mut self.codings[Coding::Zstd as usize],
            name if is_gzip(name) => &mut self.codings[Coding::Gzip as usize],
            name if name.eq_ignore_ascii_case(b"identity") => &mut self.identity,
            _ => return,
        };
        *slot = Some(quality);
    }
}

/// RFC 9110 §8.4.1.3: "A recipient SHOULD consider "x-gzip" to be equivalent to "gzip"."
fn is_gzip(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"gzip") || name.eq_ignore_ascii_case(b"x-gzip")
}

/// `0`, `1`, and up to three digits behind the point.
fn parse_quality(value: &[u8]) -> Option<Quality> {
    let (whole, fraction) = match value {
        [whole] | [whole, b'.'] => (whole, &[][..]),
        [whole, b'.', fraction @ ..] if fraction.len() <= 3 => (whole, fraction),
        _ => return None,
    };
    if !matches!(whole, b'0' | b'1') || !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = (0..3).map(|at| fraction.get(at).map_or(0, |digit| Quality::from(digit - b'0')));
    let thousandths = digits.fold(0, |sum, digit| sum * 10 + digit);
    let quality = Quality::from(whole - b'0') * 1000 + thousandths;
    (quality <= 1000).then_some(quality)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codings_are_tried_in_the_order_the_client_wants() {
        for (field, expected) in [
            ("", ""),
            ("gzip", "gzip"),
            ("GZip", "gzip"),
            ("x-gzip", "gzip"),
            ("gzip, deflate, br, zstd", "br zstd gzip"),
            ("gzip;q=1.0, br;q=0.5", "gzip br"),
            ("gzip;q=0.5, br;q=0.501", "br gzip"),
            ("gzip;q=0", ""),
            ("gzip;q=0.000, br", "br"),
            ("*", "br zstd gzip"),
            ("*;q=0.1, gzip", "gzip br zstd"),
            ("*, br;q=0", "zstd gzip"),
            ("*;q=0", ""),
            ("identity", ""),
            ("identity;q=0.5, gzip;q=1", "gzip"),
            ("identity;q=1, gzip;q=0.5", ""),
            ("identity;q=0, gzip;q=0.1", "gzip"),
            ("br ; q=0.9 , gzip ; Q=1", "gzip br"),
            ("gzip;q=2", ""),
            ("gzip;q=-1", ""),
            ("gzip;q=0.1234", ""),
            ("gzip;q=1.5", ""),
            ("gzip;q=", ""),
            ("gzip;q=1.", "gzip"),
            (", ,gzip,,", "gzip"),
            ("gzipped, brotli", ""),
            ("deflate, compress", ""),
        ] {
            let found: Vec<_> = wanted([field.as_bytes()].into_iter())
                .map(Coding::as_str)
                .collect();
            assert_eq!(found.join(" "), expected, "{field:?}");
        }
    }

    #[test]
    fn several_fields_are_one_list() {
        let fields = [&b"gzip;q=0.5"[..], b"br;q=0.1, zstd"];
        let found: Vec<_> = wanted(fields.into_iter()).collect();
        assert_eq!(found, [Coding::Zstd, Coding::Gzip, Coding::Brotli]);
    }
}
