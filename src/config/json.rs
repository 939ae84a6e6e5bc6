//! JSON as TOML, so that one reader reads both; every place is found again.

use std::ops::Range;

use super::error::Diagnostic;

/// A text of TOML that says the same, and where in the JSON each part of it stands.
pub(super) struct Translated {
    pub(super) toml: String,
    /// Where each part begins in the TOML; what it is in the JSON.
    parts: Vec<(usize, Range<usize>)>,
}

/// The key that an object at the top is the value of.
pub(super) const TOP: &str = "top";

impl Translated {
    /// The JSON's place for one in the TOML.
    pub(super) fn place(&self, span: &Range<usize>) -> Range<usize> {
        let part = |at: usize| {
            let after = self.parts.partition_point(|(start, _)| *start <= at);
            self.parts
                .get(after.saturating_sub(1))
                .map_or(0..0, |(_, json)| json.clone())
        };
        let (first, last) = (part(span.start), part(span.end.max(span.start + 1) - 1));
        first.start..last.end.max(first.end)
    }
}

/// Says it in TOML; a list at the top is that of `list`, an object that of [`TOP`].
pub(super) fn translate(json: &str, list: &str) -> Result<Translated, Diagnostic> {
    if let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(json) {
        let at = place_of(json, error.line(), error.column());
        let message = error.to_string();
        let message = message.split(" at line ").next().unwrap_or_default().to_owned();
        return Err(Diagnostic::error("syntax", at, message).help("the file is JSON, as its name says"));
    }
    let is_list = json.trim_start().starts_with('[');
    let mut translated = Translated {
        toml: format!("{} = ", if is_list { list } else { TOP }),
        parts: vec![(0, 0..json.len().min(1))],
    };
    let mut rest = 0;
    while let Some(token) = next_token(json, rest) {
        rest = token.end;
        let text = &json[token.clone()];
        let said = match text.as_bytes()[0] {
            b':' => "=".to_owned(),
            // What JSON writes with `\/` or as halves of a letter, TOML does not know.
            b'"' => {
                let text: String = serde_json::from_str(text).unwrap_or_default();
                serde_json::to_string(&text).unwrap_or_default()
            }
            b'n' => {
                let message = "`null` says nothing here";
                return Err(Diagnostic::error("wrong-type", token, message).help("leave the key out"));
            }
            _ => text.to_owned(),
        };
        translated.parts.push((translated.toml.len(), token));
        translated.toml.push_str(&said);
    }
    Ok(translated)
}

/// The next word, string or mark of text that is known to be JSON.
fn next_token(json: &str, from: usize) -> Option<Range<usize>> {
    let bytes = json.as_bytes();
    let start = from
        + bytes[from..]
            .iter()
            .position(|byte| !byte.is_ascii_whitespace())?;
    let end = match bytes[start] {
        b'"' => {
            let mut at = start + 1;
            while bytes.get(at).is_some_and(|byte| *byte != b'"') {
                at += if bytes[at] == b'\\' { 2 } else { 1 };
            }
            at + 1
        }
        b'{' | b'}' | b'[' | b']' | b',' | b':' => start + 1,
        _ => {
            let is_end = |byte: &u8| byte.is_ascii_whitespace() || b",:]}".contains(byte);
            let length = bytes[start..].iter().position(is_end);
            length.map_or(bytes.len(), |length| start + length)
        }
    };
    Some(start..end)
}

/// A place by line and column, both from 1, columns in bytes.
fn place_of(text: &str, line: usize, column: usize) -> Range<usize> {
    let before: usize = text
        .split_inclusive('\n')
        .take(line.saturating_sub(1))
        .map(str::len)
        .sum();
    let mut at = (before + column.saturating_sub(1)).min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    let length = text[at..].chars().next().map_or(0, char::len_utf8);
    at..at + length
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_the_same_and_places_are_found_again() {
        let json = "{\n \"a\": [ \"x\\/y\", {\"b\" : 1.5e1, \"\\u00e9\": true} ]\n}";
        let translated = translate(json, "list").unwrap();
        assert_eq!(
            translated.toml,
            "top = {\"a\"=[\"x/y\",{\"b\"=1.5e1,\"é\"=true}]}"
        );
        for (there, here) in [
            ("\"x/y\"", "\"x\\/y\""),
            ("1.5e1", "1.5e1"),
            ("\"é\"=true", "\"\\u00e9\": true"),
        ] {
            let start = translated.toml.find(there).unwrap();
            assert_eq!(&json[translated.place(&(start..start + there.len()))], here);
        }
        assert_eq!(translate(" []", "list").unwrap().toml, "list = []");
    }

    #[test]
    fn what_is_no_json_is_told_with_its_place() {
        for (json, at) in [
            ("[1,]", 3),
            ("[\n  \"a\"\n  \"b\"\n]", 10),
            ("", 0),
            ("[null]", 1),
        ] {
            let wrong = translate(json, "list").err().unwrap();
            assert_eq!(
                wrong.span.map(|span| span.start),
                Some(at),
                "{json}: {}",
                wrong.message
            );
        }
    }
}
