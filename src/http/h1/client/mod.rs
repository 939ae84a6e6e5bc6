//! One upstream HTTP/1 connection: writes requests, reads responses.

use std::cell::Cell;
use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use http::{Method, StatusCode};

use super::super::{BodyLength, Fields, ResponseHead};
use super::body::Decoder;
use super::encode;
use super::parse::{self, Asked, Persists, Scan};
use super::source::Source;
use super::wire::{self, BodyFill, Filled, Output, Sender, promote};
use crate::buffer::Buffer;
use crate::outcome::{Cause, End, Phase, Side};
use crate::pipe::Pipe;
use crate::time::Deadline;
use crate::transport::Transport;

/// Informational responses taken before the final one.
pub(in crate::http) const INFORMATIONAL_MAX: usize = 16;

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
    /// The fields name protocols to go on in, by Upgrade: [`ResponseReader::head`] may give 101.
    pub asks_upgrade: bool,
}

/// What a connection to an endpoint needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Between two pieces, in either direction.
    pub idle_timeout: Duration,
    /// Bytes a response head may have.
    pub head_bytes_max: usize,
    /// Fields a response head may have.
    pub fields_max: usize,
}

impl Settings {
    pub(in crate::http) fn limits(&self) -> parse::Limits {
        parse::Limits {
            head_bytes_max: self.head_bytes_max,
            fields_max: self.fields_max,
            request_line_bytes_max: usize::MAX,
        }
    }
}

/// A connection to an endpoint, used for one exchange after another; ended in order when it is dropped between two.
pub struct Connection {
    transport: Transport,
    settings: Settings,
    state: State,
    /// What has come and is not yet taken. No memory while nothing has come.
    input: Buffer,
}

/// What the two directions of an exchange leave behind.
struct State {
    asked: Cell<Asked>,
    asks_upgrade: Cell<bool>,
    request_finished: Cell<bool>,
    response_finished: Cell<bool>,
    persists: Cell<bool>,
}

impl Connection {
    /// A new one, after any handshake.
    pub fn new(transport: Transport, settings: Settings) -> Self {
        let state = State {
            asked: Cell::default(),
            asks_upgrade: Cell::default(),
            request_finished: Cell::new(true),
            response_finished: Cell::new(true),
            persists: Cell::new(true),
        };
        Self {
            transport,
            settings,
            state,
            input: Buffer::none(),
        }
    }

    /// The byte stream.
    pub fn transport(&self) -> &Transport {
        &self.transport
    }

    /// The two directions of one exchange, to be driven by one task.
    pub fn exchange(&mut self) -> (RequestWriter<'_>, ResponseReader<'_>) {
        self.state.asked.take();
        self.state.asks_upgrade.set(false);
        self.state.request_finished.set(false);
        self.state.response_finished.set(false);
        let (settings, state) = (&self.settings, &self.state);
        let during = (Side::Upstream, Phase::RequestBody);
        let output = Output::new(&self.transport, during, settings.idle_timeout, 0);
        let writer = RequestWriter {
            state,
            sender: Sender::new(output),
        };
        let reader = ResponseReader {
            transport: &self.transport,
            begun: !self.input.is_empty(),
            input: &mut self.input,
            settings,
            state,
            scan: Scan::default(),
            informational: 0,
            body: None,
        };
        (writer, reader)
    }

    /// Whether the last exchange left it ready for another: both messages were finished in order,
    /// neither side asked to close, no byte came that nobody asked for, and its keys are good for more.
    /// Such a byte is taken: what is not reusable is good for nothing but to be closed.
    pub fn is_reusable(&self) -> bool {
        let state = &self.state;
        let finished = state.request_finished.get() && state.response_finished.get();
        finished
            && state.persists.get()
            && self.input.is_empty()
            && !self.transport.is_worn()
            && self.is_silent()
    }

    /// Whether nothing waits to be read, opened by TLS perhaps, where the socket shows nothing any more: the next
    /// exchange would take it for its response.
    fn is_silent(&self) -> bool {
        let read = self.transport.try_read(&mut [0]);
        let has_more = || self.transport.socket().maybe_readable(); // and others were to go first
        read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) && !has_more()
    }

    /// Whether the endpoint has closed it, or sent something nobody asked for, meanwhile.
    pub fn is_stale(&self) -> bool {
        !self.transport.socket().is_quiet()
    }
}

/// An endpoint that was sent all of a request is told that there will be no other; of one that was not, it is not to
/// think that it was.
impl Drop for Connection {
    fn drop(&mut self) {
        if self.state.request_finished.get() {
            self.transport.part();
        }
    }
}

/// The request's direction.
pub struct RequestWriter<'c> {
    state: &'c State,
    sender: Sender<'c>,
}

impl RequestWriter<'_> {
    /// Writes the head. Nothing is sent before the first [`Self::flush`] or [`Self::finish`],
    /// unless the head or a piece of the body is large.
    ///
    /// # Errors
    ///
    /// `Upstream RequestBody …`: `Reset`, `TimedOut`; as for the other calls, which must not be
    /// dropped while they wait, unless the exchange ends with that.
    #[expect(
        clippy::unused_async,
        reason = "the same call waits in other versions of HTTP"
    )]
    pub async fn start(&mut self, head: &Outgoing<'_>) -> Result<(), End> {
        self.state.asked.set(Asked {
            head: *head.method == Method::HEAD,
        });
        self.state.asks_upgrade.set(head.asks_upgrade);
        let framing = encode::request(self.sender.output.open(), head);
        self.sender.begin(framing);
        Ok(())
    }

    /// Adds to the body.
    pub async fn write(&mut self, piece: &[u8]) -> Result<(), End> {
        self.sender.write(piece).await
    }

    /// Whether there is content to write, once the request has been started.
    pub fn has_content(&self) -> bool {
        self.sender.has_content()
    }

    /// So much content is about to be moved: [`Transport::promote`].
    ///
    /// # Errors
    ///
    /// The connection is lost by it.
    pub fn promote(&self, bytes: u64) -> Result<(), End> {
        self.sender.output.promote(bytes)
    }

    /// Whether what is in a pipe may be written now.
    pub fn takes_pipes(&self) -> bool {
        self.sender.takes_pipes()
    }

    /// As [`Self::write`], what is in a pipe, where it [`Self::takes_pipes`].
    pub async fn write_piped(&mut self, pipe: Pipe) -> Result<(), End> {
        self.sender.write_piped(pipe).await
    }

    /// Writes some of a part of a file, where it [`Self::takes_pipes`]: at least a byte, unless the
    /// file ends there or is not `good` any more when there is space for it; how much. Waits for the disk where bytes are not in memory.
    pub async fn write_file(
        &mut self,
        file: BorrowedFd<'_>,
        part: Range<u64>,
        good: impl Fn() -> bool,
    ) -> Result<u64, End> {
        self.sender.write_file(file, part, good).await
    }

    /// Sends what has been written so far.
    pub async fn flush(&mut self) -> Result<(), End> {
        self.sender.output.flush().await
    }

    /// Ends the request and sends all of it.
    pub async fn finish(&mut self, trailers: Option<&Fields>) -> Result<(), End> {
        self.sender.finish(trailers).await?;
        self.state.request_finished.set(true);
        Ok(())
    }
}

/// The response's direction.
pub struct ResponseReader<'c> {
    transport: &'c Transport,
    settings: &'c Settings,
    state: &'c State,
    input: &'c mut Buffer,
    scan: Scan,
    informational: usize,
    /// After the final head.
    body: Option<Source<'static>>,
    begun: bool,
}

impl<'c> ResponseReader<'c> {
    /// The next head: informational ones (1xx) first, then the final one; or 101, where an upgrade
    /// was asked for, and HTTP ends with it. May be dropped while it waits, and be called again.
    ///
    /// # Errors
    ///
    /// `Upstream Response …`: `TimedOut`, `Closed` (whether anything had come tells
    /// [`Self::has_begun`]), `Truncated`, `Reset`, `Malformed`, `LimitReached`.
    pub async fn head(&mut self, deadline: Deadline) -> Result<ResponseHead, End> {
        let fail = |cause| End::new(Side::Upstream, Phase::Response, cause);
        let (head, persists) = self.next_head(deadline).await.map_err(fail)?;
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            return match self.state.asks_upgrade.get() {
                true => Ok(head),
                false => Err(fail(Cause::Malformed)),
            };
        }
        if head.status.is_informational() {
            self.informational += 1;
            return match self.informational > INFORMATIONAL_MAX {
                true => Err(fail(Cause::LimitReached)),
                false => Ok(head),
            };
        }
        // A request to HEAD, and a 304, tell of a body that does not come.
        let comes = !self.state.asked.get().head && head.status != StatusCode::NOT_MODIFIED;
        let decoder = Decoder::new(if comes { head.body } else { BodyLength::None });
        let fill = BodyFill::new(self.settings.idle_timeout, 0, decoder.left());
        self.state.persists.set(persists.0);
        self.state.response_finished.set(decoder.is_finished());
        self.body = Some(Source::new(decoder, fill, u64::MAX));
        Ok(head)
    }

    async fn next_head(&mut self, deadline: Deadline) -> Result<(ResponseHead, Persists), Cause> {
        let limits = self.settings.limits();
        loop {
            if !self.input.is_empty() {
                let asked = self.state.asked.get();
                match parse::response(self.input, &mut self.scan, asked, &limits) {
                    Ok(Some(found)) => {
                        self.scan = Scan::default();
                        return Ok(found);
                    }
                    Ok(None) => {}
                    Err((cause, _)) => return Err(cause),
                }
            }
            match wire::fill(self.transport, self.input, deadline).await? {
                Filled::Some => self.begun = true,
                Filled::End => return Err(Cause::Closed),
            }
        }
    }

    /// After 101: the byte stream, and what came behind that head.
    pub fn switch(&mut self) -> (&'c Transport, Buffer) {
        self.state.request_finished.set(false); // how that ends is not HTTP's to say
        (self.transport, std::mem::take(self.input))
    }

    /// The next piece of the body; `None` at the end. May be dropped while it waits.
    ///
    /// # Errors
    ///
    /// `Upstream ResponseBody …`: `TimedOut`, `Closed` where more was owed, `Truncated`, `Reset`,
    /// `Malformed`; the same again if it is called again. `Atlas … System` before the final head.
    pub async fn read(&mut self) -> Result<Option<&[u8]>, End> {
        let body = self.body.as_mut().ok_or(OUT_OF_ORDER)?;
        let count = body.read(self.transport, self.input, body_end).await?;
        if count == 0 {
            self.state.response_finished.set(true);
            self.input.rest();
            return Ok(None);
        }
        Ok(Some(&self.input.filled()[..count]))
    }

    /// Content that can be read by [`Self::read_piped`] now: none of it has been read, and no
    /// framing lies in between. `u64::MAX`: all there is until the end of the stream; 0: it is read
    /// by [`Self::read`].
    pub fn ahead(&mut self) -> u64 {
        let body = self.body.as_mut();
        body.map_or(0, |body| body.ahead(self.transport, self.input))
    }

    /// Content that is still to come and whose framing is done with: as [`Self::ahead`], whether or
    /// not some of it has been read.
    pub fn to_come(&self) -> u64 {
        self.body.as_ref().map_or(0, Source::to_come)
    }

    /// So much content is about to be moved: [`Transport::promote`].
    pub fn promote(&self, bytes: u64) {
        promote(self.transport, bytes);
    }

    /// As [`Self::read`], in a pipe, where there is something [`Self::ahead`]; an empty one at the
    /// end of the stream. `None`: no pipe can be had now.
    ///
    /// # Errors
    ///
    /// As [`Self::read`].
    pub async fn read_piped(&mut self) -> Result<Option<Pipe>, End> {
        let body = self.body.as_mut().ok_or(OUT_OF_ORDER)?;
        body.read_piped(self.transport, self.input, body_end).await
    }

    /// The trailers, after the end.
    pub fn trailers(&self) -> Option<&Fields> {
        self.body.as_ref().and_then(Source::trailers)
    }

    /// Whether any byte of a response has come.
    pub fn has_begun(&self) -> bool {
        self.begun
    }
}

impl Drop for ResponseReader<'_> {
    fn drop(&mut self) {
        if let Some(body) = &mut self.body {
            body.settle(self.input);
        }
        self.input.rest();
    }
}

/// The body was asked for before its head.
const OUT_OF_ORDER: End = End::new(Side::Atlas, Phase::ResponseBody, Cause::System);

fn body_end(cause: Cause) -> End {
    End::new(Side::Upstream, Phase::ResponseBody, cause)
}

#[cfg(test)]
mod tests;
