//! The two directions of an exchange with an endpoint, whatever version of HTTP carries it.

use super::h1::client::Outgoing;
use super::{Fields, ResponseHead, Version, h1, h2};
use crate::buffer::Buffer;
use crate::outcome::{Cause, End, Phase, Side};
use crate::pipe::Pipe;
use crate::time::Deadline;
use crate::transport::Transport;

/// The request's direction.
pub enum RequestWriter<'c> {
    /// On an HTTP/1 connection.
    H1(h1::client::RequestWriter<'c>),
    /// On a stream of an HTTP/2 connection.
    H2(h2::client::RequestWriter<'c>),
}

impl RequestWriter<'_> {
    /// Writes the head. On HTTP/1 nothing is sent before the first [`Self::flush`] or
    /// [`Self::finish`], unless the head or a piece of the body is large.
    ///
    /// # Errors
    ///
    /// The endpoint's end, as for the other calls, which must not be dropped while they wait, unless
    /// the exchange ends with that; the client's for what cannot be said in HTTP/2.
    pub async fn start(&mut self, head: &Outgoing<'_>) -> Result<(), End> {
        match self {
            Self::H1(writer) => writer.start(head).await,
            Self::H2(writer) => writer.start(head),
        }
    }

    /// Adds to the body.
    pub async fn write(&mut self, piece: &[u8]) -> Result<(), End> {
        match self {
            Self::H1(writer) => writer.write(piece).await,
            Self::H2(writer) => writer.write(piece).await,
        }
    }

    /// Whether [`Self::promote`] is of use: there is content, and the connection is one that may move.
    pub fn may_move(&self) -> bool {
        match self {
            Self::H1(writer) => writer.has_content(),
            Self::H2(_) => false,
        }
    }

    /// So much content is about to be moved: [`Transport::promote`].
    ///
    /// # Errors
    ///
    /// The connection is lost by it.
    pub fn promote(&self, bytes: u64) -> Result<(), End> {
        match self {
            Self::H1(writer) => writer.promote(bytes),
            Self::H2(_) => Ok(()),
        }
    }

    /// Whether what is in a pipe may be written now.
    pub fn takes_pipes(&self) -> bool {
        match self {
            Self::H1(writer) => writer.takes_pipes(),
            Self::H2(_) => false,
        }
    }

    /// As [`Self::write`], what is in a pipe, where it [`Self::takes_pipes`].
    pub async fn write_piped(&mut self, pipe: Pipe) -> Result<(), End> {
        match self {
            Self::H1(writer) => writer.write_piped(pipe).await,
            Self::H2(_) => Err(End::new(Side::Atlas, Phase::RequestBody, Cause::System)),
        }
    }

    /// Sends what has been written so far.
    pub async fn flush(&mut self) -> Result<(), End> {
        match self {
            Self::H1(writer) => writer.flush().await,
            Self::H2(_) => Ok(()),
        }
    }

    /// Ends the request and sends all of it.
    pub async fn finish(&mut self, trailers: Option<&Fields>) -> Result<(), End> {
        match self {
            Self::H1(writer) => writer.finish(trailers).await,
            Self::H2(writer) => writer.finish(trailers),
        }
    }
}

/// The response's direction.
pub enum ResponseReader<'c> {
    /// On an HTTP/1 connection.
    H1(h1::client::ResponseReader<'c>),
    /// On a stream of an HTTP/2 connection.
    H2(h2::client::ResponseReader<'c>),
}

impl<'c> ResponseReader<'c> {
    /// The version the endpoint speaks.
    pub fn version(&self) -> Version {
        match self {
            Self::H1(_) => Version::Http11,
            Self::H2(_) => Version::Http2,
        }
    }

    /// The next head: informational ones (1xx) first, then the final one; or, on HTTP/1, 101 where an
    /// upgrade was asked for, and HTTP ends with it. May be dropped while it waits, and be called again.
    ///
    /// # Errors
    ///
    /// The endpoint's end.
    pub async fn head(&mut self, deadline: Deadline) -> Result<ResponseHead, End> {
        match self {
            Self::H1(reader) => reader.head(deadline).await,
            Self::H2(reader) => reader.head(deadline).await,
        }
    }

    /// After 101: the byte stream, and what came behind that head. `None`: HTTP/2 has no 101.
    pub fn switch(&mut self) -> Option<(&'c Transport, Buffer)> {
        match self {
            Self::H1(reader) => Some(reader.switch()),
            Self::H2(_) => None,
        }
    }

    /// The next piece of the body; `None` at the end. May be dropped while it waits.
    ///
    /// # Errors
    ///
    /// The endpoint's end; the same again if it is called again.
    pub async fn read(&mut self) -> Result<Option<&[u8]>, End> {
        match self {
            Self::H1(reader) => reader.read().await,
            Self::H2(reader) => reader.read().await,
        }
    }

    /// Content that can be read by [`Self::read_piped`] now: none of it has been read, and no
    /// framing lies in between. `u64::MAX`: all there is until the end of the stream; 0: it is read
    /// by [`Self::read`].
    pub fn ahead(&mut self) -> u64 {
        match self {
            Self::H1(reader) => reader.ahead(),
            Self::H2(_) => 0,
        }
    }

    /// Content that is still to come and whose framing is done with: as [`Self::ahead`], whether or
    /// not some of it has been read.
    pub fn to_come(&self) -> u64 {
        match self {
            Self::H1(reader) => reader.to_come(),
            Self::H2(reader) => reader.to_come(),
        }
    }

    /// So much content is about to be moved: [`Transport::promote`].
    pub fn promote(&self, bytes: u64) {
        match self {
            Self::H1(reader) => reader.promote(bytes),
            Self::H2(_) => {}
        }
    }

    /// As [`Self::read`], in a pipe, where there is something [`Self::ahead`]; an empty one at the
    /// end of the stream. `None`: no pipe can be had now.
    ///
    /// # Errors
    ///
    /// As [`Self::read`].
    pub async fn read_piped(&mut self) -> Result<Option<Pipe>, End> {
        match self {
            Self::H1(reader) => reader.read_piped().await,
            Self::H2(_) => Ok(None),
        }
    }

    /// The trailers, after the end.
    pub fn trailers(&self) -> Option<&Fields> {
        match self {
            Self::H1(reader) => reader.trailers(),
            Self::H2(reader) => reader.trailers(),
        }
    }

    /// Whether any of a response has come.
    pub fn has_begun(&self) -> bool {
        match self {
            Self::H1(reader) => reader.has_begun(),
            Self::H2(reader) => reader.has_begun(),
        }
    }

    /// Waits until the endpoint has said that it wants no more of the request: for ever on HTTP/1,
    /// where it cannot say so but by closing.
    pub async fn let_go(&self) {
        match self {
            Self::H1(_) => std::future::pending().await,
            Self::H2(reader) => reader.let_go().await,
        }
    }
}
