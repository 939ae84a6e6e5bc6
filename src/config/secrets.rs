//! What of a configuration file is never shown: the values of `secret`, right or wrong, in whatever
//! state the file is.
//!
//! Looked for in the text and not in its tables: what is hardly TOML is shown as well, and its secrets
//! are as good as any.

use std::fmt;
use std::ops::Range;

use toml::de::DeValue;

use super::error::{Diagnostic, nearest};
use super::file::TABLES;
use super::read::{Place, Read, wrong_type};

/// The key whose values are secret.
const KEY: &str = "secret";

/// A value that no message shows.
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Read for Secret {
    const EXPECTS: &'static str = String::EXPECTS;

    fn read(value: &DeValue<'_>, place: &Place<'_>, found: &mut Vec<Diagnostic>) -> Option<Self> {
        if value.as_str().is_none() {
            let help = format!("write it in quotes: {} = \"…\"", place.key);
            found.push(wrong_type::<Self>(value, place).help(help));
            return None;
        }
        String::read(value, place, found).map(Self)
    }
}

/// The text with stars in the place of its secrets; everything else stays at its byte.
pub(super) fn masked(text: &str) -> String {
    let mut masked = text.as_bytes().to_vec();
    for value in values(text) {
        for byte in &mut masked[value] {
            if !matches!(byte, b'\n' | b'\r') {
                *byte = b'*';
            }
        }
    }
    // Whole letters were replaced, so it always is UTF-8.
    String::from_utf8_lossy(&masked).into_owned()
}

/// Where values of secret keys stand, without their quotes.
fn values(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(sign) = text[from..].find('=').map(|at| from + at) {
        from = sign + 1;
        if is_secret(key_before(&text[..sign])) {
            let value = value_at(text, from);
            from = value.end;
            found.push(value);
        }
    }
    found
}

/// The last part of the key that a text ends with.
fn key_before(text: &str) -> &str {
    let text = text.trim_end_matches([' ', '\t']).trim_end_matches(['"', '\'']);
    let is_of_word = |letter: char| letter.is_alphanumeric() || matches!(letter, '_' | '-');
    let start = text.trim_end_matches(is_of_word).len();
    &text[start..]
}

/// It, or what is hardly anything else, misspelled.
fn is_secret(key: &str) -> bool {
    let is_other = || {
        TABLES
            .iter()
            .flat_map(|table| table.keys)
            .any(|known| known.name == key)
    };
    key == KEY || (nearest(key, [KEY]).is_some() && !is_other())
}

/// The value that begins somewhere behind `from`. One that does not end goes to the end of its line, or
/// of the text if it may have several lines.
fn value_at(text: &str, from: usize) -> Range<usize> {
    let start = from + text[from..].len() - text[from..].trim_start_matches([' ', '\t']).len();
    let rest = &text[start..];
    let line = rest.find(['\n', '\r']).unwrap_or(rest.len());
    for quote in ["\"\"\"", "'''"] {
        if let Some(inner) = rest.strip_prefix(quote) {
            let end = inner.find(quote).unwrap_or(inner.len());
            return start + quote.len()..start + quote.len() + end;
        }
    }
    match rest.chars().next() {
        Some(quote @ ('"' | '\'')) => start + 1..start + end_of_string(&rest[..line], quote),
        Some('[') => start..start + rest.find(']').unwrap_or(rest.len()),
        _ => start..start + line,
    }
}

/// Where the quote stands that ends a string of one line.
fn end_of_string(line: &str, quote: char) -> usize {
    let mut is_escaped = false;
    for (at, letter) in line.char_indices().skip(1) {
        match letter {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = quote == '"',
            letter if letter == quote => return at,
            _ => {}
        }
    }
    line.len()
}

#[cfg(test)]
mod tests {
    use super::masked;

    #[test]
    fn secrets_are_masked_however_they_are_written() {
        for (text, shown) in [
            ("secret = \"abc\"\n", "secret = \"***\"\n"),
            ("secret=\"é\"", "secret=\"**\""),
            ("\"secret\" = 'a\\'", "\"secret\" = '**'"),
            ("secret = \"a\\\"b\" # said", "secret = \"****\" # said"),
            ("secret = \"abc\nnext = 1", "secret = \"***\nnext = 1"),
            (
                "secret = \"\"\"a\nb\"\"\"\nx = 1",
                "secret = \"\"\"*\n*\"\"\"\nx = 1",
            ),
            ("secret = '''ab", "secret = '''**"),
            (
                "{ secret = \"abc\", ttl = \"1h\" }",
                "{ secret = \"***\", ttl = \"1h\" }",
            ),
            ("secret = a, b\nx = 1", "secret = ****\nx = 1"),
            ("secret = [\"a\",\n\"b\"]\nx = 1", "secret = *****\n***]\nx = 1"),
            ("secrte = \"abc\"", "secrte = \"***\""),
            ("a.sticky.secret = 12", "a.sticky.secret = **"),
            ("secret =", "secret ="),
        ] {
            assert_eq!(masked(text), shown, "{text}");
        }
    }

    #[test]
    fn everything_else_is_shown_as_it_is() {
        for text in [
            "secure = true\n",
            "cookie = \"secret\"\n",
            "# a secret\nport = 1",
            "é = \"secret\"",
        ] {
            assert_eq!(masked(text), text);
        }
    }
}
