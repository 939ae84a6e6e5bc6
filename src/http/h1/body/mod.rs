//! Bodies: finds them in the bytes that come, by length, in chunks or until the end. Free of waits.

use super::super::{BodyLength, Fields};
use super::parse;
use crate::buffer::Buffer;

/// Hexadecimal digits a chunk's size may have; more could not be counted.
const SIZE_DIGITS_MAX: u32 = 16;

/// The largest size of a chunk: what every other implementation can count to.
const SIZE_MAX: u64 = i64::MAX as u64;

/// Bytes of extensions a chunk may have. They are dropped; nobody is known to use them.
const EXTENSION_BYTES_MAX: usize = 256;

/// Bytes of framing a body may have beyond one for each byte of content and [`FRAMING_FREE`] for
/// each chunk: chunks of one byte with long extensions would cost us far more than their sender.
const FRAMING_EXCESS_MAX: u64 = 16 * 1024;
const FRAMING_FREE: u64 = 16;

/// Bytes the trailers may have in all.
pub const TRAILER_BYTES_MAX: usize = 8 * 1024;

/// Trailers there may be.
const TRAILERS_MAX: usize = 64;

const _: () = assert!(TRAILER_BYTES_MAX < crate::buffer::SMALL);

/// What the next bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The first so many filled bytes of the buffer are content; the caller consumes them.
    Content(usize),
    /// More bytes are needed.
    More,
    /// The body has ended; what is left in the buffer is not part of it.
    End,
}

/// Finds the content of one body, without copying it.
pub struct Decoder {
    state: State,
    excess: u64,
    trailers: Option<Fields>,
}

enum State {
    Length(u64),
    UntilClose,
    /// A chunk's size: digits seen, value.
    Size(u32, u64),
    /// Extensions: the chunk's size, bytes seen.
    Extension(u64, usize),
    SizeLf(u64),
    Chunk(u64),
    ChunkCr,
    ChunkLf,
    /// Trailers: bytes searched for their end.
    Trailers(usize),
    End,
}

impl Decoder {
    /// For a body of this length.
    pub fn new(length: BodyLength) -> Self {
        let state = match length {
            BodyLength::None | BodyLength::Exact(0) => State::End,
            BodyLength::Exact(length) => State::Length(length),
            BodyLength::Chunked => State::Size(0, 0),
            BodyLength::UntilClose => State::UntilClose,
        };
        Self {
            state,
            excess: 0,
            trailers: None,
        }
    }

    /// Takes framing out of the buffer and says what comes then. Content it has told of counts as
    /// consumed: the caller consumes it before the next call.
    ///
    /// # Errors
    ///
    /// What is wrong with the framing.
    pub fn next(&mut self, input: &mut Buffer) -> Result<Step, &'static str> {
        loop {
            match &mut self.state {
                State::End => return Ok(Step::End),
                State::Trailers(_) => return self.take_trailers(input),
                State::UntilClose if input.is_empty() => return Ok(Step::More),
                State::UntilClose => return Ok(Step::Content(input.len())),
                State::Length(left) | State::Chunk(left) if *left > 0 => {
                    let count = input.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    if count == 0 {
                        return Ok(Step::More);
                    }
                    *left -= count as u64;
                    self.excess = self.excess.saturating_sub(count as u64);
                    return Ok(Step::Content(count));
                }
                State::Length(_) => self.state = State::End,
                State::Chunk(_) => self.state = State::ChunkCr,
                _ => {
                    let Some(&byte) = input.filled().first() else {
                        return Ok(Step::More);
                    };
                    self.take_framing(byte)?;
                    self.count_framing()?;
                    input.consume(1);
                }
            }
        }
    }

    /// Content that is certainly still to come; `None`: that is not known.
    pub fn left(&self) -> Option<u64> {
        match self.state {
            State::Length(left) => Some(left),
            State::End => Some(0),
            _ => None,
        }
    }

    /// Content that comes next with no framing in between; `u64::MAX`: to the end of the stream.
    pub fn ahead(&self) -> u64 {
        match self.state {
            State::Length(left) => left,
            State::UntilClose => u64::MAX,
            _ => 0,
        }
    }

    /// So much of what is [`Self::ahead`] went another way than through the buffer.
    pub fn passed(&mut self, count: u64) {
        if let State::Length(left) = &mut self.state {
            *left = left.saturating_sub(count);
        }
    }

    /// Whether the end has been seen.
    pub fn is_finished(&self) -> bool {
        matches!(self.state, State::End | State::Length(0))
    }

    /// Whether the end of the stream is the end of the body.
    pub fn ends_with_stream(&self) -> bool {
        matches!(self.state, State::UntilClose)
    }

    /// The stream has ended, and so the body.
    pub fn finish(&mut self) {
        self.state = State::End;
    }

    /// The trailers, after the end.
    pub fn trailers(&self) -> Option<&Fields> {
        self.trailers.as_ref()
    }

    /// One byte between chunks.
    fn take_framing(&mut self, byte: u8) -> Result<(), &'static str> {
        self.state = match (&self.state, byte) {
            (State::Size(0, _), b'\r' | b';') => return Err("a chunk has no size"),
            (State::Size(_, size), b'\r') => State::SizeLf(*size),
            (State::Size(_, size), b';') => State::Extension(*size, 0),
            (State::Size(SIZE_DIGITS_MAX, _), _) => return Err("a chunk's size is too long"),
            (State::Size(digits, size), byte) => {
                let digit = char::from(byte)
                    .to_digit(16)
                    .ok_or("a chunk's size is not hexadecimal")?;
                State::Size(digits + 1, (size << 4) | u64::from(digit))
            }
            (State::Extension(size, _), b'\r') => State::SizeLf(*size),
            (State::Extension(_, EXTENSION_BYTES_MAX), _) => return Err("a chunk's extensions are too long"),
            (State::Extension(size, seen), b'\t' | b' '..=0x7e | 0x80..) => State::Extension(*size, seen + 1),
            (State::Extension(..), _) => return Err("a chunk's extensions hold a control byte"),
            (State::SizeLf(size), b'\n') => return self.begin_chunk(*size),
            (State::ChunkCr, b'\r') => State::ChunkLf,
            (State::ChunkLf, b'\n') => State::Size(0, 0),
            (State::SizeLf(_), _) => return Err("a carriage return stands alone in a chunk's size"),
            _ => return Err("a chunk is not followed by an end of line"),
        };
        Ok(())
    }

    /// Every byte of framing counts; every byte of content, and every chunk's first few, buy one.
    fn count_framing(&mut self) -> Result<(), &'static str> {
        self.excess += 1;
        if matches!(self.state, State::Chunk(_)) {
            self.excess = self.excess.saturating_sub(FRAMING_FREE);
        }
        if self.excess > FRAMING_EXCESS_MAX {
            return Err("there is far more framing than content");
        }
        Ok(())
    }

    fn begin_chunk(&mut self, size: u64) -> Result<(), &'static str> {
        if size > SIZE_MAX {
            return Err("a chunk's size is too large");
        }
        self.state = match size {
            0 => State::Trailers(0),
            size => State::Chunk(size),
        };
        Ok(())
    }

    /// The trailers, once all of them are in the buffer.
    fn take_trailers(&mut self, input: &mut Buffer) -> Result<Step, &'static str> {
        let State::Trailers(searched) = self.state else {
            return Ok(Step::More);
        };
        let bytes = input.filled();
        if bytes.starts_with(b"\r\n") {
            input.consume(2);
            self.state = State::End;
            return Ok(Step::End);
        }
        // The end may lie across the border of what was searched.
        let from = searched.saturating_sub(3);
        let end = memchr::memmem::find(&bytes[from..], b"\r\n\r\n").map(|at| from + at + 4);
        if end.unwrap_or(bytes.len()) > TRAILER_BYTES_MAX {
            return Err("the trailers are too long");
        }
        let Some(end) = end else {
            // A peer that ends its lines otherwise would wait for ever for what it has sent.
            let mut ends = memchr::memchr_iter(b'\n', &bytes[searched..]).map(|at| searched + at);
            if ends.any(|at| at == 0 || bytes[at - 1] != b'\r') {
                return Err("a line of the trailers ends in a bare line feed");
            }
            self.state = State::Trailers(bytes.len());
            return Ok(Step::More);
        };
        let trailers = parse::trailers(&bytes[..end], TRAILERS_MAX)?;
        self.trailers = Some(trailers).filter(|trailers| !trailers.is_empty());
        input.consume(end);
        self.state = State::End;
        Ok(Step::End)
    }
}

#[cfg(test)]
mod tests;
