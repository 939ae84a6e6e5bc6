//! HTTP on the wire; knows no route, no upstream, no configuration.

pub mod client;
pub mod errors;
pub mod h1;
pub mod h2;
pub mod message;

use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::time::Duration;

pub use message::{BodyLength, Fields, RequestHead, ResponseHead, Version};

use crate::buffer::Buffer;
use crate::drain::Drain;
use crate::outcome::{Cause, End, Phase, Side};
use crate::pipe::Pipe;
use crate::transport::Transport;

/// Limits and timeouts of HTTP, towards clients and, where they apply, towards endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// For a request head to come whole, from its first byte.
    pub header_timeout: Duration,
    /// Between two pieces of a request body.
    pub body_timeout: Duration,
    /// For the next request on a connection that has had one; for the first byte of the first.
    pub idle_timeout: Duration,
    /// Between two moments at which the peer took bytes.
    pub write_timeout: Duration,
    /// For as long nothing may move on a connection that has switched protocols.
    pub tunnel_timeout: Duration,
    /// Bytes a head may have, request line included.
    pub head_bytes_max: usize,
    /// Fields a head may have.
    pub fields_max: usize,
    /// Bytes a request line may have.
    pub request_line_bytes_max: usize,
    /// Bytes a request body may have; `None`: any number.
    pub body_bytes_max: Option<u64>,
    /// Bytes per second a peer has to send or take while a body is on its way, averaged after a
    /// grace of [`MIN_RATE_GRACE`]; 0: any.
    pub min_rate: u64,
    /// What a client may do on one connection of HTTP/2.
    pub h2: h2::Settings,
}

/// How long a body may be slower than the least rate.
pub const MIN_RATE_GRACE: Duration = Duration::from_secs(5);

impl Settings {
    fn limits(&self) -> h1::parse::Limits {
        h1::parse::Limits {
            head_bytes_max: self.head_bytes_max,
            fields_max: self.fields_max,
            request_line_bytes_max: self.request_line_bytes_max,
        }
    }

    /// Whether a body is said to be longer than it may be.
    fn forbids(&self, body: BodyLength) -> bool {
        matches!((body, self.body_bytes_max), (BodyLength::Exact(length), Some(max)) if length > max)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(30),
            tunnel_timeout: Duration::from_secs(3600),
            head_bytes_max: 32 * 1024,
            fields_max: 100,
            request_line_bytes_max: 8 * 1024,
            body_bytes_max: None,
            min_rate: 240,
            h2: h2::Settings::default(),
        }
    }
}

/// One request and its response, whatever version of HTTP carries them.
///
/// The three parts are separate, so that the body can be read while the response is written.
pub struct Exchange<'c> {
    /// The request's head.
    pub request: RequestHead,
    /// The request's body.
    pub body: RequestBody<'c>,
    /// The way back.
    pub response: Responder<'c>,
}

/// A request's body, without its framing.
pub enum RequestBody<'c> {
    /// On an HTTP/1 connection.
    H1(h1::server::RequestBody<'c>),
    /// On a stream of an HTTP/2 connection.
    H2(h2::server::RequestBody<'c>),
}

impl RequestBody<'_> {
    /// The next piece; `None` at the end.
    ///
    /// # Errors
    ///
    /// The client's end, if it closed, was too slow, too large or malformed.
    pub async fn read(&mut self) -> Result<Option<&[u8]>, End> {
        match self {
            Self::H1(body) => body.read().await,
            Self::H2(body) => body.read().await,
        }
    }

    /// Content that can be read by [`Self::read_piped`] now: none of it has been read, and no
    /// framing lies in between. `u64::MAX`: all there is until the end of the stream; 0: it is read
    /// by [`Self::read`].
    pub fn ahead(&mut self) -> u64 {
        match self {
            Self::H1(body) => body.ahead(),
            Self::H2(_) => 0,
        }
    }

    /// Content that is still to come and whose framing is done with: as [`Self::ahead`], whether or
    /// not some of it has been read.
    pub fn to_come(&self) -> u64 {
        match self {
            Self::H1(body) => body.to_come(),
            Self::H2(body) => body.to_come(),
        }
    }

    /// So much content is about to be moved: lets the connection move into the kernel, if it is
    /// worth that.
    pub fn promote(&self, bytes: u64) {
        match self {
            Self::H1(body) => body.promote(bytes),
            Self::H2(_) => {}
        }
    }

    /// As [`Self::read`], in a pipe, where there is something [`Self::ahead`]. `None`: no pipe can
    /// be had now.
    ///
    /// # Errors
    ///
    /// As [`Self::read`].
    pub async fn read_piped(&mut self) -> Result<Option<Pipe>, End> {
        match self {
            Self::H1(body) => body.read_piped().await,
            Self::H2(_) => Ok(None),
        }
    }

    /// Whether all of it has been read, or there is none.
    pub fn is_finished(&self) -> bool {
        match self {
            Self::H1(body) => body.is_finished(),
            Self::H2(body) => body.is_finished(),
        }
    }

    /// Whether it is none, but what the client of an extended CONNECT says once that is agreed to.
    pub fn is_tunnel(&self) -> bool {
        match self {
            Self::H1(_) => false,
            Self::H2(body) => body.is_tunnel(),
        }
    }

    /// Whether a piece of it has been read: the request cannot be sent anew from here on.
    pub fn has_begun(&self) -> bool {
        match self {
            Self::H1(body) => body.has_begun(),
            Self::H2(body) => body.has_begun(),
        }
    }

    /// The trailers, after the end.
    pub fn trailers(&self) -> Option<&Fields> {
        match self {
            Self::H1(body) => body.trailers(),
            Self::H2(body) => body.trailers(),
        }
    }

    /// Waits until the client has gone away (closed or reset) without taking anything it sent.
    /// To be used beside a wait for the endpoint, when the body has been read.
    pub async fn client_gone(&self) -> End {
        match self {
            Self::H1(body) => body.client_gone().await,
            Self::H2(body) => body.client_gone().await,
        }
    }
}

/// The way a response goes back.
pub enum Responder<'c> {
    /// On an HTTP/1 connection.
    H1(h1::server::Responder<'c>),
    /// On a stream of an HTTP/2 connection.
    H2(h2::server::Responder<'c>),
}

impl<'c> Responder<'c> {
    /// Sends an informational response (1xx but 101). Does nothing for HTTP/1.0 clients.
    ///
    /// # Errors
    ///
    /// The client's end.
    pub async fn inform(&mut self, head: &ResponseHead) -> Result<(), End> {
        match self {
            Self::H1(responder) => responder.inform(head).await,
            Self::H2(responder) => responder.inform(head),
        }
    }

    /// Begins the response. `head.fields` holds no framing fields; they are made from
    /// `head.body`, the request's method and the client's version. Nothing may be sent before the
    /// first [`Self::flush`] or [`Self::finish`].
    ///
    /// # Errors
    ///
    /// The client's end.
    pub async fn start(&mut self, head: &ResponseHead) -> Result<(), End> {
        match self {
            Self::H1(responder) => responder.start(head).await,
            Self::H2(responder) => responder.start(head),
        }
    }

    /// Adds to the body. For HEAD, 204 and 304 it is thrown away.
    ///
    /// # Errors
    ///
    /// The client's end; `Atlas … System` for more than `head.body` promised.
    pub async fn write(&mut self, piece: &[u8]) -> Result<(), End> {
        match self {
            Self::H1(responder) => responder.write(piece).await,
            Self::H2(responder) => responder.write(piece).await,
        }
    }

    /// Whether [`Self::promote`] is of use, once the response has been started: there is content, and the
    /// connection is one that may move.
    pub fn may_move(&self) -> bool {
        match self {
            Self::H1(responder) => responder.has_content(),
            Self::H2(_) => false,
        }
    }

    /// Has the connection's carriage count its TLS records; how many bytes were written on it so far. `None`
    /// where others use it, too.
    pub fn count_up(&self) -> Option<u64> {
        match self {
            Self::H1(responder) => Some(responder.count_up()),
            Self::H2(_) => None,
        }
    }

    /// So much content is about to be moved: lets the connection move into the kernel, if it is
    /// worth that.
    pub fn promote(&self, bytes: u64) {
        match self {
            Self::H1(responder) => responder.promote(bytes),
            Self::H2(_) => {}
        }
    }

    /// Whether the kernel takes on what it is given: pipes and files, once the response has been
    /// started, unless it is in chunks.
    pub fn is_kernel_stream(&self) -> bool {
        match self {
            Self::H1(responder) => responder.is_kernel_stream(),
            Self::H2(_) => false,
        }
    }

    /// Whether a part of a file may be written now, as [`Self::takes_pipes`].
    pub fn takes_files(&self) -> bool {
        self.takes_pipes()
    }

    /// Writes some of a part of a file, where it [`Self::takes_files`]: at least a byte, unless the
    /// file ends there or is not `good` any more when there is space for it; how much. Waits for the disk where bytes are not in memory.
    ///
    /// # Errors
    ///
    /// As [`Self::write`].
    pub async fn write_file(
        &mut self,
        file: BorrowedFd<'_>,
        part: Range<u64>,
        good: impl Fn() -> bool,
    ) -> Result<u64, End> {
        match self {
            Self::H1(responder) => responder.write_file(file, part, good).await,
            Self::H2(_) => Err(takes_neither()),
        }
    }

    /// Whether what is in a pipe may be written now: the response has been started, its content
    /// goes out as it is, and the kernel takes it on.
    pub fn takes_pipes(&self) -> bool {
        match self {
            Self::H1(responder) => responder.takes_pipes(),
            Self::H2(_) => false,
        }
    }

    /// As [`Self::write`], what is in a pipe, where it [`Self::takes_pipes`].
    ///
    /// # Errors
    ///
    /// As [`Self::write`].
    pub async fn write_piped(&mut self, pipe: Pipe) -> Result<(), End> {
        match self {
            Self::H1(responder) => responder.write_piped(pipe).await,
            Self::H2(_) => Err(takes_neither()),
        }
    }

    /// Sends what has been written so far.
    ///
    /// # Errors
    ///
    /// The client's end.
    pub async fn flush(&mut self) -> Result<(), End> {
        match self {
            Self::H1(responder) => responder.flush().await,
            Self::H2(_) => Ok(()),
        }
    }

    /// Ends the response and sends all of it. A response that is not finished when the exchange
    /// ends closes the connection in a way the client cannot take for an end.
    ///
    /// # Errors
    ///
    /// The client's end; `Atlas … System` for less than `head.body` promised.
    pub async fn finish(&mut self, trailers: Option<&Fields>) -> Result<(), End> {
        match self {
            Self::H1(responder) => responder.finish(trailers).await,
            Self::H2(responder) => responder.finish(trailers).await,
        }
    }

    /// Passes a 101 on, to a CONNECT of HTTP/2 as a 200: HTTP ends here. What follows on a connection has
    /// to be told the end of by [`Self::switched_ended`], or is reset; on a stream by [`Self::finish`].
    ///
    /// # Errors
    ///
    /// The client's end.
    pub async fn switch(
        &mut self,
        head: &ResponseHead,
        body: &mut RequestBody<'c>,
    ) -> Result<Tunnel<'c>, End> {
        match (self, body) {
            (Self::H1(responder), RequestBody::H1(body)) => responder.switch(head, body).await,
            (Self::H2(responder), RequestBody::H2(body)) => {
                responder.switch(head)?;
                body.switch();
                Ok(Tunnel::Stream)
            }
            _ => Err(End::new(Side::Atlas, Phase::Response, Cause::System)),
        }
    }

    /// What followed the 101 has ended, and each side knows how.
    pub fn switched_ended(&mut self) {
        match self {
            Self::H1(responder) => responder.switched_ended(),
            Self::H2(_) => {}
        }
    }

    /// Whether [`Self::start`] was called: no other answer can be given from here on.
    pub fn has_started(&self) -> bool {
        match self {
            Self::H1(responder) => responder.has_started(),
            Self::H2(responder) => responder.has_started(),
        }
    }

    /// The status of the response, once started.
    pub fn status(&self) -> Option<http::StatusCode> {
        match self {
            Self::H1(responder) => responder.status(),
            Self::H2(responder) => responder.status(),
        }
    }

    /// Body bytes written so far, without framing; after 101, all that was written since.
    pub fn body_bytes(&self) -> u64 {
        match self {
            Self::H1(responder) => responder.body_bytes(),
            Self::H2(responder) => responder.body_bytes(),
        }
    }

    /// How the client ended the exchange from outside, where that is known: it has reset its stream,
    /// or the connection is gone. To be asked by whoever is dropped amid an answer.
    pub fn gone(&self) -> Option<End> {
        match self {
            Self::H1(_) => None,
            Self::H2(responder) => responder.gone(),
        }
    }

    /// The connection shall not be used for another request; on HTTP/2 only this one ends.
    pub fn close_after(&mut self) {
        match self {
            Self::H1(responder) => responder.close_after(),
            Self::H2(_) => {}
        }
    }
}

/// What is left of HTTP where protocols were switched.
pub enum Tunnel<'c> {
    /// All of a connection of HTTP/1.1.
    Connection {
        /// The byte stream to the client.
        transport: &'c Transport,
        /// What had come already.
        ahead: Buffer,
        /// Whether the worker is going away.
        drain: &'c Drain,
    },
    /// One stream of HTTP/2: it is read as a body, and written as one.
    Stream,
}

/// Pipes and files were written to what does not take them.
fn takes_neither() -> End {
    End::new(Side::Atlas, Phase::ResponseBody, Cause::System)
}

/// What answers exchanges; the HTTP drivers know nothing else of the proxy.
pub trait Service {
    /// Answers one exchange, writes its record, and says how it ended.
    fn answer(&self, exchange: Exchange<'_>) -> impl Future<Output = End>;

    /// Told of a request that was answered before it became an exchange: its head did not come,
    /// or was not HTTP. `line` is what is known of its request line, `bytes` how many of the
    /// answer's body were sent.
    fn refused(&self, line: &[u8], status: http::StatusCode, bytes: u64, end: End);

    /// Told of a stream of HTTP/2 that was refused before anybody could see the request in it: `Malformed`, or
    /// `LimitReached`.
    fn stream_refused(&self, cause: Cause);
}
