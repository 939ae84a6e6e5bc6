//! HTTP/1.1 as the tests read it: strict, blocking, and with the exact bytes kept.

use std::io::{self, Read, Write};

/// The start line and the fields of a message, with the bytes they came as.
#[derive(Clone, Debug, Default)]
pub struct Head {
    pub start: String,
    pub fields: Vec<(String, String)>,
    pub raw: Vec<u8>,
}

impl Head {
    /// The value of the first field of this name.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The values of all fields of this name.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.fields
            .iter()
            .filter(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .collect()
    }

    /// The word at this place of the start line.
    pub fn word(&self, at: usize) -> &str {
        self.start.split(' ').nth(at).unwrap_or_default()
    }

    fn is_chunked(&self) -> bool {
        self.field("transfer-encoding")
            .is_some_and(|value| value.eq_ignore_ascii_case("chunked"))
    }

    fn content_length(&self) -> Option<u64> {
        self.field("content-length").map(|value| {
            value
                .parse()
                .unwrap_or_else(|_| panic!("Content-Length is not a number: {value:?}"))
        })
    }
}

/// How a body is framed, from its head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    None,
    Length(u64),
    Chunked,
    UntilClose,
}

impl Framing {
    /// Of a request.
    pub fn of_request(head: &Head) -> Self {
        assert!(
            !(head.is_chunked() && head.field("content-length").is_some()),
            "both Transfer-Encoding and Content-Length: {head:?}"
        );
        assert!(
            head.all("content-length").len() <= 1,
            "two Content-Length: {head:?}"
        );
        match head.content_length() {
            _ if head.is_chunked() => Self::Chunked,
            Some(length) => Self::Length(length),
            None => Self::None,
        }
    }

    /// Of the response to a request with this method.
    pub fn of_response(head: &Head, method: &str) -> Self {
        let status: u16 = head.word(1).parse().expect("a status is a number");
        if method == "HEAD" || status < 200 || status == 204 || status == 304 {
            return Self::None;
        }
        match head.content_length() {
            _ if head.is_chunked() => Self::Chunked,
            Some(length) => Self::Length(length),
            None => Self::UntilClose,
        }
    }
}

/// A stream with the bytes that were read from it and not used yet.
pub struct Wire<S> {
    pub stream: S,
    buffer: Vec<u8>,
    at: usize,
}

impl<S: Read> Wire<S> {
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            buffer: Vec::new(),
            at: 0,
        }
    }

    /// The next head; `None` if the peer closed before its first byte.
    pub fn head(&mut self) -> io::Result<Option<Head>> {
        let mut head = Head::default();
        loop {
            let Some(line) = self.line()? else {
                return if head.raw.is_empty() {
                    Ok(None)
                } else {
                    Err(io::ErrorKind::UnexpectedEof.into())
                };
            };
            head.raw.extend_from_slice(&line);
            let text = latin1(&line[..line.len() - 2]);
            if head.start.is_empty() {
                head.start = text;
            } else if text.is_empty() {
                return Ok(Some(head));
            } else {
                head.fields.push(field(&text));
            }
        }
    }

    /// Hands the body to `take`, piece by piece, and returns the trailers.
    pub fn body(
        &mut self,
        framing: Framing,
        mut take: impl FnMut(&[u8]),
    ) -> io::Result<Vec<(String, String)>> {
        match framing {
            Framing::None => {}
            Framing::Length(length) => self.exactly(length, &mut take)?,
            Framing::Chunked => return self.chunks(&mut take),
            Framing::UntilClose => {
                while let Some(piece) = self.piece(u64::MAX)? {
                    take(piece);
                }
            }
        }
        Ok(Vec::new())
    }

    /// One line with its CRLF; `None` at the end of the stream.
    pub fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(end) = self.buffer[self.at..].iter().position(|byte| *byte == b'\n') {
                let line = self.buffer[self.at..=self.at + end].to_vec();
                self.at += end + 1;
                if !line.ends_with(b"\r\n") {
                    return Err(io::Error::other(format!("a bare LF in {:?}", latin1(&line))));
                }
                return Ok(Some(line));
            }
            if self.fill()? == 0 {
                return match self.buffer.len() - self.at {
                    0 => Ok(None),
                    _ => Err(io::ErrorKind::UnexpectedEof.into()),
                };
            }
        }
    }

    /// Up to `most` bytes of what comes next; `None` at the end of the stream.
    pub fn piece(&mut self, most: u64) -> io::Result<Option<&[u8]>> {
        if self.at == self.buffer.len() && self.fill()? == 0 {
            return Ok(None);
        }
        let count = usize::try_from(most)
            .unwrap_or(usize::MAX)
            .min(self.buffer.len() - self.at);
        self.at += count;
        Ok(Some(&self.buffer[self.at - count..self.at]))
    }

    fn exactly(&mut self, mut left: u64, take: &mut impl FnMut(&[u8])) -> io::Result<()> {
        while left > 0 {
            let Some(piece) = self.piece(left)? else {
                return Err(io::ErrorKind::UnexpectedEof.into());
            };
            left -= piece.len() as u64;
            take(piece);
        }
        Ok(())
    }

    fn chunks(&mut self, take: &mut impl FnMut(&[u8])) -> io::Result<Vec<(String, String)>> {
        loop {
            let line = self.line()?.ok_or(io::ErrorKind::UnexpectedEof)?;
            let text = latin1(&line[..line.len() - 2]);
            let size = u64::from_str_radix(&text, 16)
                .map_err(|_| io::Error::other(format!("a chunk size that is none: {text:?}")))?;
            if size == 0 {
                return self.trailers();
            }
            self.exactly(size, take)?;
            let end = self.line()?.ok_or(io::ErrorKind::UnexpectedEof)?;
            if end != b"\r\n" {
                return Err(io::Error::other("a chunk that is longer than it says"));
            }
        }
    }

    fn trailers(&mut self) -> io::Result<Vec<(String, String)>> {
        let mut trailers = Vec::new();
        loop {
            let line = self.line()?.ok_or(io::ErrorKind::UnexpectedEof)?;
            match latin1(&line[..line.len() - 2]) {
                text if text.is_empty() => return Ok(trailers),
                text => trailers.push(field(&text)),
            }
        }
    }

    fn fill(&mut self) -> io::Result<usize> {
        self.buffer.drain(..self.at);
        self.at = 0;
        let before = self.buffer.len();
        self.buffer.resize(before + 64 * 1024, 0);
        let result = loop {
            match self.stream.read(&mut self.buffer[before..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        self.buffer.truncate(before + *result.as_ref().unwrap_or(&0));
        result
    }
}

impl<S: Write> Wire<S> {
    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())?;
        self.stream.flush()
    }
}

/// Bytes as text, each byte the character of its number, so that nothing is lost.
pub fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

/// Strict: a token, a colon, a value without control characters.
fn field(line: &str) -> (String, String) {
    let (name, value) = line
        .split_once(':')
        .unwrap_or_else(|| panic!("a field line without a colon: {line:?}"));
    let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    assert!(
        !name.is_empty() && name.chars().all(token),
        "not a field name: {line:?}"
    );
    assert!(!value.contains(['\r', '\0']), "a control byte in {line:?}");
    (name.to_owned(), value.trim_matches([' ', '\t']).to_owned())
}
