//! From the path of a request to a name below the root, and nothing that could be more than that.

use super::value::hex_digit;

/// A name below the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Segments joined by `/`, none of them empty, `.` or `..`; empty for the root itself. Any
    /// bytes but NUL, since that is what Linux takes for a name.
    pub(super) name: Vec<u8>,
    /// The path ended in a slash: a folder is asked for.
    pub(super) folder: bool,
}

impl Target {
    /// Decodes a path once. `None` where no file could ever be served under it.
    ///
    /// Refused are NUL, an encoded slash (what is behind it would be another name to everybody
    /// who looks at the path before us), `.` and `..` in any writing (clients resolve them
    /// before they ask), bad escapes, and names that begin with a dot unless `dotfiles`.
    /// `/.well-known` is not hidden: RFC 8615 put it there for everybody.
    pub(super) fn parse(path: &str, dotfiles: bool) -> Option<Self> {
        let mut target = Self {
            name: Vec::with_capacity(path.len() + LONGEST_SUFFIX),
            folder: true,
        };
        for segment in path.split('/') {
            target.folder = segment.is_empty();
            // As nginx and every file system do: two slashes are one.
            if !segment.is_empty() {
                target.push(segment, dotfiles)?;
            }
        }
        Some(target)
    }

    /// The name with something behind it, to look for a neighbour.
    pub(super) fn with(name: &[u8], suffix: &str) -> Vec<u8> {
        let mut longer = Vec::with_capacity(name.len() + suffix.len());
        longer.extend_from_slice(name);
        longer.extend_from_slice(suffix.as_bytes());
        longer
    }

    /// The name of something in this folder.
    pub(super) fn inside(&self, entry: &str) -> Vec<u8> {
        let slash = if self.name.is_empty() { "" } else { "/" };
        let mut inner = Self::with(&self.name, slash);
        inner.extend_from_slice(entry.trim_start_matches('/').as_bytes());
        inner
    }

    fn push(&mut self, segment: &str, dotfiles: bool) -> Option<()> {
        if !self.name.is_empty() {
            self.name.push(b'/');
        }
        let start = self.name.len();
        decode(segment.as_bytes(), &mut self.name)?;
        let decoded = &self.name[start..];
        let hidden = decoded.first() == Some(&b'.');
        let allowed = match decoded {
            b"" | b"." | b".." => false,
            b".well-known" if start == 0 => true,
            _ => !hidden || dotfiles,
        };
        allowed.then_some(())
    }
}

/// Room kept behind a name, so that most grow only once.
const LONGEST_SUFFIX: usize = 16;

/// Decodes one segment's escapes. `None` for a bad escape, NUL and `/`.
fn decode(segment: &[u8], into: &mut Vec<u8>) -> Option<()> {
    let mut rest = segment;
    while let Some((&first, after)) = rest.split_first() {
        let byte = if first == b'%' {
            let &[high, low, ref after @ ..] = after else {
                return None;
            };
            rest = after;
            (hex_digit(high)? << 4) | hex_digit(low)?
        } else {
            rest = after;
            first
        };
        if matches!(byte, 0 | b'/') {
            return None;
        }
        into.push(byte);
    }
    Some(())
}

/// Where a folder that was asked for without its slash is: path and query, fit for Location.
///
/// A path that begins with two slashes, or with a backslash that browsers take for one, would
/// name another host: RFC 3986 §4.2 calls it a network-path reference.
pub(super) fn with_slash(path: &str, query: Option<&str>) -> Vec<u8> {
    let mut location = Vec::with_capacity(path.len() + query.map_or(0, str::len) + 3);
    location.push(b'/');
    for &byte in path.trim_start_matches('/').as_bytes() {
        escape_unfit(byte, &mut location);
    }
    location.push(b'/');
    if let Some(query) = query {
        location.push(b'?');
        for &byte in query.as_bytes() {
            escape_unfit(byte, &mut location);
        }
    }
    location
}

/// Escapes what has no place in a URI; what is escaped already stays.
fn escape_unfit(byte: u8, into: &mut Vec<u8>) {
    if byte.is_ascii_graphic() && !matches!(byte, b'\\' | b'"' | b'<' | b'>') {
        into.push(byte);
    } else {
        escape(byte, into);
    }
}

/// Writes a byte as `%XX`.
pub(super) fn escape(byte: u8, into: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    into.extend([
        b'%',
        DIGITS[usize::from(byte >> 4)],
        DIGITS[usize::from(byte & 15)],
    ]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(path: &str) -> Option<Vec<u8>> {
        Target::parse(path, false).map(|target| target.name)
    }

    #[test]
    fn ordinary_paths_become_names() {
        for (path, expected, folder) in [
            ("/", "", true),
            ("", "", true),
            ("//", "", true),
            ("/a", "a", false),
            ("a", "a", false),
            ("/a/", "a", true),
            ("/a//b", "a/b", false),
            ("//etc/passwd", "etc/passwd", false),
            ("/a%20b.txt", "a b.txt", false),
            ("/caf%C3%A9", "café", false),
            ("/a...b/..c", "a...b/..c", false),
            ("/a\\..\\b", "a\\..\\b", false),
            ("/a%5c..%5cb", "a\\..\\b", false),
            ("/%2525", "%25", false),
            ("/%252e%252e/x", "%2e%2e/x", false),
            (
                "/.well-known/acme-challenge/x",
                ".well-known/acme-challenge/x",
                false,
            ),
            ("/%2ewell-known/x", ".well-known/x", false),
        ] {
            let dotfiles = path.contains("..c");
            let target = Target::parse(path, dotfiles).unwrap_or_else(|| panic!("{path} is refused"));
            assert_eq!(target.name, expected.as_bytes(), "{path}");
            assert_eq!(target.folder, folder, "{path}");
        }
        assert_eq!(name("/%ff%fe"), Some(vec![0xff, 0xfe]), "names need not be UTF-8");
    }

    #[test]
    fn hostile_paths_are_refused() {
        for path in [
            "/..",
            "/../etc/passwd",
            "/a/../b",
            "/a/..",
            "/.",
            "/a/./b",
            "/%2e%2e/etc/passwd",
            "/%2E%2e/x",
            "/.%2e/x",
            "/a%2fb",
            "/a%2Fb",
            "/..%2f..%2fetc/passwd",
            "/%2e%2e%2fetc",
            "/a%00.txt",
            "/%00",
            "/a%",
            "/a%2",
            "/a%zz",
            "/a%+1",
            "/.env",
            "/.git/config",
            "/a/.htaccess",
            "/%2eenv",
            "/a/.well-known/x",
            "/.well-known/.secret",
            "/.well-known2",
        ] {
            assert_eq!(name(path), None, "{path}");
        }
    }

    #[test]
    fn dotfiles_are_served_when_asked_but_dot_segments_never() {
        assert_eq!(Target::parse("/.env", true).unwrap().name, b".env");
        assert_eq!(Target::parse("/a/.b/...", true).unwrap().name, b"a/.b/...");
        for path in ["/.", "/..", "/a/%2e%2e/b", "/%2e"] {
            assert_eq!(Target::parse(path, true), None, "{path}");
        }
    }

    #[test]
    fn a_redirect_stays_on_this_host() {
        for (path, query, expected) in [
            ("/a", None, "/a/"),
            ("/a", Some("x=1&y=%20"), "/a/?x=1&y=%20"),
            ("/a", Some(""), "/a/?"),
            ("//evil.example", None, "/evil.example/"),
            ("////evil.example/x", None, "/evil.example/x/"),
            ("/\\evil.example", None, "/%5Cevil.example/"),
            ("/a%20b", None, "/a%20b/"),
            ("/a\u{e9}", Some("<\">"), "/a%C3%A9/?%3C%22%3E"),
        ] {
            assert_eq!(with_slash(path, query), expected.as_bytes(), "{path}");
        }
    }
}
