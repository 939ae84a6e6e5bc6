//! One upstream HTTP/1 connection: writes requests, reads responses.

use std::marker::PhantomData;
use std::time::Duration;

use http::Method;

use super::super::{BodyLength, Fields, ResponseHead};
use crate::outcome::End;
use crate::time::Deadline;
use crate::transport::Transport;

/// A request as it is sent to an endpoint. `fields` holds Host and no framing fields.
pub struct Outgoing<'a> {
    /// The method.
    pub method: &'a Method,
    /// The request target: path and query, or `*`.
    pub target: &'a str,
    /// The fields; those that frame the body are made from `body`.
    pub fields: &'a Fields,
    /// How long the body is.
    pub body: BodyLength,
}

/// What a connection to an endpoint needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Between two pieces, in either direction.
    pub idle_timeout: Duration,
    /// Bytes a response head may have.
    pub head_bytes_max: usize,
    /// Fields a response head may have.
    pub fields_max: usize,
}

/// A connection to an endpoint, used for one exchange after another.
pub struct Connection {
    transport: Transport,
}

impl Connection {
    /// A new one, after any handshake.
    pub fn new(transport: Transport, _settings: Settings) -> Self {
        Self { transport }
    }

    /// The byte stream.
    pub fn transport(&self) -> &Transport {
        &self.transport
    }

    /// The two directions of one exchange, to be driven by one task.
    pub fn exchange(&mut self) -> (RequestWriter<'_>, ResponseReader<'_>) {
        todo!()
    }

    /// Whether the last exchange left it ready for another: both messages were finished in order,
    /// neither side asked to close, and no byte came that nobody asked for.
    pub fn is_reusable(&self) -> bool {
        todo!()
    }

    /// Whether the endpoint has closed it, or sent something nobody asked for, meanwhile.
    pub fn is_stale(&self) -> bool {
        self.transport.socket().peek().is_some()
    }
}

/// The request's direction.
pub struct RequestWriter<'c>(PhantomData<&'c ()>);

impl RequestWriter<'_> {
    /// Writes the head. Nothing may be sent before the first [`Self::flush`] or [`Self::finish`].
    ///
    /// # Errors
    ///
    /// The endpoint's end; as for the other calls.
    pub async fn start(&mut self, _head: &Outgoing<'_>) -> Result<(), End> {
        todo!()
    }

    /// Adds to the body.
    pub async fn write(&mut self, _piece: &[u8]) -> Result<(), End> {
        todo!()
    }

    /// Sends what has been written so far.
    pub async fn flush(&mut self) -> Result<(), End> {
        todo!()
    }

    /// Ends the request and sends all of it.
    pub async fn finish(&mut self, _trailers: Option<&Fields>) -> Result<(), End> {
        todo!()
    }
}

/// The response's direction.
pub struct ResponseReader<'c>(PhantomData<&'c ()>);

impl ResponseReader<'_> {
    /// The next head: informational ones (1xx) first, then the final one.
    ///
    /// # Errors
    ///
    /// `Upstream Response …`: `TimedOut`, `Closed` (nothing came), `Reset`, `Malformed`,
    /// `LimitReached`.
    pub async fn head(&mut self, _deadline: Deadline) -> Result<ResponseHead, End> {
        todo!()
    }

    /// The next piece of the body; `None` at the end.
    ///
    /// # Errors
    ///
    /// `Upstream ResponseBody …`: `TimedOut`, `Closed` where more was owed, `Truncated`, `Reset`,
    /// `Malformed`.
    pub async fn read(&mut self) -> Result<Option<&[u8]>, End> {
        todo!()
    }

    /// The trailers, after the end.
    pub fn trailers(&self) -> Option<&Fields> {
        todo!()
    }

    /// Whether any byte of a response has come.
    pub fn has_begun(&self) -> bool {
        todo!()
    }
}
