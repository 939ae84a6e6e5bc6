//! One downstream HTTP/1 connection: reads requests, frames bodies, writes responses.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, select};
use http::{Method, StatusCode};

use super::super::errors::Fault;
use super::super::h2::PREFACE_LINE;
use super::super::{
    BodyLength, Exchange, Fields, RequestHead, ResponseHead, Service, Settings, Tunnel, Version,
};
use super::body::{Decoder, Step};
use super::encode::{self, Framing, Recipient};
use super::parse::{self, Refused, Scan};
use super::source::Source;
use super::wire::{self, Answering, BodyFill, Filled, Output, Sender, promote};
use crate::buffer::{Buffer, SMALL};
use crate::drain::Drain;
use crate::outcome::{Cause, End, Phase, Side};
use crate::pipe::Pipe;
use crate::runtime::{self, before};
use crate::time::Deadline;
use crate::transport::Transport;

/// Bytes of a request's body that are read and thrown away after an answer that did not need
/// them, so that the connection can be used again. For more it is cheaper to close it.
const DISCARD_BYTES_MAX: u64 = 64 * 1024;

/// How long that may take.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a client that has closed its direction, and that nothing is sent to, is taken for one
/// that still listens.
const HALF_CLOSED_TIMEOUT: Duration = Duration::from_millis(if cfg!(test) { 300 } else { 5000 });

/// How often it is asked whether a client has gone whose bytes are not read.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

const HEAD_TIMED_OUT: Refused = Refused {
    fault: &Fault::REQUEST_TIMED_OUT,
    cause: Cause::TimedOut,
    why: "the head was not complete in time",
};

/// What became of a connection that may be one of HTTP/2.
pub enum Served {
    /// It ended.
    End(End),
    /// It begins with the preface of HTTP/2, of which this was read.
    Http2(Buffer),
}

/// Serves exchanges on a connection until it ends; how and why it ended.
///
/// Does not close the transport: the caller does, by [`Transport::close`], which a response that
/// broke off has been taught to be rude.
pub async fn serve(transport: &Transport, settings: &Settings, service: &impl Service, drain: &Drain) -> End {
    match serve_unless_http2(transport, settings, service, drain, false).await {
        Served::End(end) => end,
        Served::Http2(_) => client_end(Phase::Request, Cause::Unsupported), // it was refused
    }
}

/// As [`serve`], but where `takes_http2` one that begins with the preface of HTTP/2 (RFC 9113 §3.3,
/// "prior knowledge") is given back.
pub async fn serve_unless_http2(
    transport: &Transport,
    settings: &Settings,
    service: &impl Service,
    drain: &Drain,
    takes_http2: bool,
) -> Served {
    let mut connection = Connection {
        transport,
        settings,
        drain,
        input: Buffer::none(),
        may_be_http2: takes_http2,
    };
    loop {
        let ended = match connection.next_head().await {
            Ok(head) => connection.exchange(head, service).await,
            Err(Ending::Refused(refused)) => Some(connection.refuse(refused, service).await),
            Err(Ending::End(end)) => Some(end),
            Err(Ending::Http2) => return Served::Http2(std::mem::take(&mut connection.input)),
        };
        if let Some(end) = ended {
            return Served::End(end);
        }
    }
}

struct Connection<'c> {
    transport: &'c Transport,
    settings: &'c Settings,
    drain: &'c Drain,
    /// What has come and is not yet taken. No memory while nothing has come.
    input: Buffer,
    /// Nothing has come that is HTTP/1.
    may_be_http2: bool,
}

/// Why there is no next head.
enum Ending {
    Refused(Refused),
    End(End),
    Http2,
}

impl From<End> for Ending {
    fn from(end: End) -> Self {
        Self::End(end)
    }
}

impl<'c> Connection<'c> {
    async fn next_head(&mut self) -> Result<RequestHead, Ending> {
        let limits = self.settings.limits();
        let mut scan = Scan::default();
        let mut deadline = None;
        loop {
            match self.input.is_empty() {
                true => self.first_bytes().await?,
                false => self.transport.socket().turn().await,
            }
            if self.may_be_http2 && self.input.filled().starts_with(PREFACE_LINE) {
                return Err(Ending::Http2);
            }
            match parse::request(&mut self.input, &mut scan, &limits) {
                Ok(Some(head)) => {
                    self.may_be_http2 = false;
                    return Ok(head);
                }
                Ok(None) if self.input.is_empty() => continue, // only the blank line of the last one
                Ok(None) => {}
                Err(refused) => return Err(Ending::Refused(refused)),
            }
            let deadline = *deadline.get_or_insert_with(|| Deadline::within(self.settings.header_timeout));
            match wire::fill(self.transport, &mut self.input, deadline).await {
                Ok(Filled::Some) => {}
                Ok(Filled::End) => return Err(client_end(Phase::Request, Cause::Closed).into()),
                Err(Cause::TimedOut) => return Err(Ending::Refused(HEAD_TIMED_OUT)),
                Err(cause) => return Err(client_end(Phase::Request, cause).into()),
            }
        }
    }

    /// Waits for the first bytes of a request, without memory for them.
    async fn first_bytes(&mut self) -> Result<(), End> {
        let deadline = Deadline::within(self.settings.idle_timeout);
        loop {
            self.transport.socket().turn().await;
            match wire::try_fill(self.transport, &mut self.input, false) {
                Some(Ok(Filled::Some)) => return Ok(()),
                Some(Ok(Filled::End)) => return Err(client_end(Phase::Idle, Cause::Finished)),
                Some(Err(cause)) => return Err(client_end(Phase::Idle, cause)),
                None => {}
            }
            let readable = pin!(before(deadline, self.transport.readable()));
            match select(readable, pin!(self.drain.idle_ends())).await {
                Either::Left((Ok(Ok(())), _)) => {}
                Either::Left((Ok(Err(error)), _)) => {
                    return Err(client_end(Phase::Idle, Cause::of(&error)));
                }
                Either::Left((Err(_), _)) => return Err(End::new(Side::Atlas, Phase::Idle, Cause::Idle)),
                Either::Right(_) => return Err(End::new(Side::Atlas, Phase::Idle, Cause::Drained)),
            }
        }
    }

    /// One exchange; the connection's end, if it cannot be used again.
    async fn exchange(&mut self, request: RequestHead, service: &impl Service) -> Option<End> {
        if self.settings.forbids(request.body) {
            self.input = Buffer::none();
            let line = first_line(request.fields.bytes.filled());
            return Some(self.answer_refused(&Refused::BODY_TOO_LARGE, line, service).await);
        }
        // One read may hold hundreds of requests: each is a share of this connection's turn.
        self.transport.socket().worked();
        let state = State::new(&request);
        let exchange = Exchange {
            body: super::super::RequestBody::H1(RequestBody::new(self, &state, &request)),
            response: super::super::Responder::H1(Responder::new(self, &state, &request)),
            request,
        };
        // Boxed: an idle connection must not hold the memory of an exchange. Made where it lies,
        // as ten kilobytes moved there were a quarter of all instructions of a small exchange.
        let answer = Box::into_pin(Box::write(Box::new_uninit(), service.answer(exchange)));
        let end = answer.await;
        self.after(&state, end).await
    }

    /// What becomes of the connection after an exchange.
    async fn after(&mut self, state: &State, end: End) -> Option<End> {
        match state.progress.get() {
            Progress::Finished => {}
            Progress::Switched | Progress::SwitchedAndEnded => return Some(end),
            Progress::Nothing | Progress::Started(_) => {
                return Some(match end.is_good() {
                    true => End::new(Side::Atlas, Phase::Response, Cause::System),
                    false => end,
                });
            }
        }
        if self.drain.has_started() && !state.persists.get() {
            return Some(End::new(Side::Atlas, Phase::Done, Cause::Drained));
        }
        if !state.persists.get() || !self.take_back(state).await {
            return Some(End::finished(match state.client_persists {
                true => Side::Atlas,
                false => Side::Downstream,
            }));
        }
        None
    }

    /// Takes the input back from the request's body, and reads over what is left of it if that is
    /// little. Whether the next request comes next.
    async fn take_back(&mut self, state: &State) -> bool {
        let Some((input, mut decoder)) = state.rest.take() else {
            return false; // the service keeps the body for itself
        };
        self.input = input;
        if decoder.is_finished() {
            self.input.rest();
            return true;
        }
        let deadline = Deadline::within(DISCARD_TIMEOUT);
        let mut discarded = 0;
        while discarded <= DISCARD_BYTES_MAX {
            match decoder.next(&mut self.input) {
                Ok(Step::Content(count)) => {
                    self.input.consume(count);
                    discarded += count as u64;
                }
                Ok(Step::End) => return true,
                Ok(Step::More) => match wire::fill(self.transport, &mut self.input, deadline).await {
                    Ok(Filled::Some) => {}
                    Ok(Filled::End) | Err(_) => return false,
                },
                Err(_) => return false,
            }
        }
        false
    }

    async fn refuse(&mut self, refused: Refused, service: &impl Service) -> End {
        let input = std::mem::take(&mut self.input);
        self.answer_refused(&refused, first_line(input.filled()), service)
            .await
    }

    /// Answers a request that does not become an exchange. The connection ends with it.
    async fn answer_refused(&self, refused: &Refused, line: &[u8], service: &impl Service) -> End {
        let end = client_end(refused.phase(), refused.cause);
        let (head, body) = refused.fault.response_because(refused.why);
        let to = Recipient {
            version: Version::Http11,
            head: line.starts_with(b"HEAD "),
        };
        let mut output = self.output();
        encode::response(output.open(), &head, to, false);
        let sent = async {
            let body = if to.head { "" } else { &*body };
            output.add(body.as_bytes()).await?;
            output.flush().await?;
            Ok::<_, End>(body.len() as u64)
        };
        // A client that does not take its answer ends all the same, by what it did before.
        let bytes = sent.await.unwrap_or(0);
        service.refused(line, head.status, bytes, end);
        end
    }

    fn output(&self) -> Output<'c> {
        let settings = self.settings;
        let during = (Side::Downstream, Phase::Response);
        Output::new(self.transport, during, settings.write_timeout, settings.min_rate)
    }
}

/// How far a response has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Nothing,
    Started(Framing),
    Finished,
    /// The connection goes on in another protocol.
    Switched,
    /// That has ended, and the connection with it.
    SwitchedAndEnded,
}

/// What an exchange's two halves tell each other, and the connection after them.
struct State {
    progress: Cell<Progress>,
    answering: Answering,
    /// The connection can be used again, as far as is known now.
    persists: Cell<bool>,
    client_persists: bool,
    /// A body that nobody has begun to read could be read over after the response.
    skippable: Cell<bool>,
    /// What is left when the body is dropped.
    rest: RefCell<Option<(Buffer, Decoder)>>,
}

impl State {
    fn new(request: &RequestHead) -> Self {
        let skippable = match request.body {
            BodyLength::None => true,
            // A client that waits for 100 may send the body after all, or not.
            BodyLength::Exact(length) => length <= DISCARD_BYTES_MAX && !request.expects_continue,
            BodyLength::Chunked | BodyLength::UntilClose => false,
        };
        Self {
            progress: Cell::new(Progress::Nothing),
            answering: Answering::default(),
            persists: Cell::new(request.persists),
            client_persists: request.persists,
            skippable: Cell::new(skippable),
            rest: RefCell::default(),
        }
    }

    /// What came of reading the body: what has begun can be read over, what has failed cannot.
    fn note<T>(&self, read: Result<T, End>) -> Result<T, End> {
        match &read {
            Ok(_) => self.skippable.set(true),
            Err(_) => self.persists.set(false),
        }
        read
    }
}

/// A request's body on an HTTP/1 connection.
pub struct RequestBody<'c> {
    transport: &'c Transport,
    state: &'c State,
    /// In a cell, since whoever watches for the client's end keeps what comes meanwhile.
    input: RefCell<Buffer>,
    source: Source<'c>,
}

impl<'c> RequestBody<'c> {
    fn new<'l: 'c>(connection: &mut Connection<'l>, state: &'c State, request: &RequestHead) -> Self {
        let settings = connection.settings;
        let decoder = Decoder::new(request.body);
        let fill = BodyFill {
            excused: request.expects_continue,
            answering: Some(&state.answering),
            ..BodyFill::new(settings.body_timeout, settings.min_rate, decoder.left())
        };
        let content_max = settings.body_bytes_max.unwrap_or(u64::MAX);
        Self {
            transport: connection.transport,
            state,
            input: RefCell::new(std::mem::take(&mut connection.input)),
            source: Source::new(decoder, fill, content_max),
        }
    }

    /// The next piece; `None` at the end. May be dropped while it waits.
    ///
    /// # Errors
    ///
    /// `Downstream RequestBody …`: `Closed`, `Truncated`, `Reset`, `TimedOut`, `TooSlow`,
    /// `LimitReached`, `Malformed`; the same again if it is called again.
    pub async fn read(&mut self) -> Result<Option<&[u8]>, End> {
        let input = self.input.get_mut();
        let read = self.source.read(self.transport, input, body_end).await;
        let count = self.state.note(read)?;
        Ok((count > 0).then(|| &self.input.get_mut().filled()[..count]))
    }

    /// Content that can be read by [`Self::read_piped`] now: none of it has been read, and no
    /// framing lies in between. `u64::MAX`: all there is until the end of the stream; 0: it is read
    /// by [`Self::read`].
    pub fn ahead(&mut self) -> u64 {
        self.source.ahead(self.transport, self.input.get_mut())
    }

    /// Content that is still to come and whose framing is done with: as [`Self::ahead`], whether or
    /// not some of it has been read.
    pub fn to_come(&self) -> u64 {
        self.source.to_come()
    }

    /// So much content is about to be moved: [`Transport::promote`].
    pub fn promote(&self, bytes: u64) {
        promote(self.transport, bytes);
    }

    /// As [`Self::read`], in a pipe, where there is something [`Self::ahead`]. `None`: no pipe can
    /// be had now.
    ///
    /// # Errors
    ///
    /// As [`Self::read`].
    pub async fn read_piped(&mut self) -> Result<Option<Pipe>, End> {
        let input = self.input.get_mut();
        let read = self.source.read_piped(self.transport, input, body_end).await;
        self.state.note(read)
    }

    /// What has come behind the body.
    fn take_ahead(&mut self) -> Buffer {
        let mut input = self.input.take();
        self.source.settle(&mut input);
        input
    }

    /// Whether all of it has been read, or there is none.
    pub fn is_finished(&self) -> bool {
        self.source.is_finished()
    }

    /// Whether a piece of it has been read.
    pub fn has_begun(&self) -> bool {
        self.source.has_begun()
    }

    /// The trailers, after the end.
    pub fn trailers(&self) -> Option<&Fields> {
        self.source.trailers()
    }

    /// Waits until the client has gone away: closed, half-closed or reset. What it sends meanwhile
    /// is kept for later, up to a buffer full; behind more than that its end is seen within a second.
    pub async fn client_gone(&self) -> End {
        loop {
            self.transport.socket().turn().await;
            match self.look() {
                Some(Ok(Filled::Some)) => {}
                Some(Ok(Filled::End)) => {
                    // A FIN does not tell a client that has gone from one that has only said all
                    // it has to say, as `nc -N` does. The second one gets what comes soon, and
                    // all of it: the first one's kernel answers what is sent with a reset.
                    self.nothing_is_sent_for(HALF_CLOSED_TIMEOUT).await;
                    return client_end(Phase::Response, Cause::Closed);
                }
                Some(Err(cause)) => return client_end(Phase::Response, cause),
                None => {
                    if let Err(error) = self.transport.readable().await {
                        return client_end(Phase::Response, Cause::of(&error));
                    }
                }
            }
            if self.input.borrow().len() >= SMALL {
                return self.client_gone_unread().await;
            }
        }
    }

    /// As [`Self::client_gone`], of a client that sends requests ahead, more than are kept: its end is
    /// behind bytes that nobody reads, and the driver tells of nothing else than those.
    async fn client_gone_unread(&self) -> End {
        loop {
            runtime::sleep(LOOK_INTERVAL).await;
            match self.transport.socket().end_of_peer() {
                Ok(false) => {}
                Ok(true) => {
                    self.nothing_is_sent_for(HALF_CLOSED_TIMEOUT).await;
                    return client_end(Phase::Response, Cause::Closed);
                }
                Err(error) => return client_end(Phase::Response, Cause::of(&error)),
            }
        }
    }

    async fn nothing_is_sent_for(&self, time: Duration) {
        loop {
            let sent = self.transport.bytes_out();
            runtime::sleep(time).await;
            if self.transport.bytes_out() == sent {
                return;
            }
        }
    }

    fn look(&self) -> Option<Result<Filled, Cause>> {
        wire::try_fill(self.transport, &mut self.input.borrow_mut(), false)
    }
}

impl Drop for RequestBody<'_> {
    fn drop(&mut self) {
        let input = self.take_ahead();
        let rest = self.source.take_rest().map(|rest| (input, rest));
        self.state.rest.replace(rest);
    }
}

/// The way back on an HTTP/1 connection.
pub struct Responder<'c> {
    transport: &'c Transport,
    state: &'c State,
    drain: &'c Drain,
    to: Recipient,
    sender: Sender<'c>,
    status: Option<StatusCode>,
    /// What had been written on the connection when it switched protocols.
    switched_at: u64,
}

impl<'c> Responder<'c> {
    fn new(connection: &Connection<'c>, state: &'c State, request: &RequestHead) -> Self {
        Self {
            transport: connection.transport,
            state,
            drain: connection.drain,
            to: Recipient {
                version: request.version,
                head: request.method == Method::HEAD,
            },
            sender: Sender::new(connection.output()),
            status: None,
            switched_at: 0,
        }
    }

    /// Sends an informational response (1xx but 101) at once. Does nothing for HTTP/1.0 clients,
    /// which do not know them, and once the response has been started.
    ///
    /// # Errors
    ///
    /// The client's end, as for the other calls: `Downstream Response …` or `ResponseBody …`:
    /// `Reset`, `TimedOut`, `TooSlow`; `Atlas … System` for a call out of order.
    pub async fn inform(&mut self, head: &ResponseHead) -> Result<(), End> {
        let switches = head.status == StatusCode::SWITCHING_PROTOCOLS;
        if !head.status.is_informational() || switches {
            return Err(out_of_order());
        }
        if self.to.version == Version::Http10 || self.has_started() {
            return Ok(());
        }
        encode::response(self.sender.output.open(), head, self.to, true);
        self.sender.output.flush().await
    }

    /// Begins the response. Nothing is sent yet.
    ///
    /// # Errors
    ///
    /// `Atlas Response System` for an informational status or a second start.
    #[expect(
        clippy::unused_async,
        reason = "the same call waits in other versions of HTTP"
    )]
    pub async fn start(&mut self, head: &ResponseHead) -> Result<(), End> {
        if self.has_started() || head.status.is_informational() {
            return Err(out_of_order());
        }
        let framing = encode::framing(head, self.to);
        let ends = framing == Framing::UntilClose || self.drain.has_started() || !self.state.skippable.get();
        let persists = self.state.persists.get() && !ends && !self.transport.is_worn();
        self.state.persists.set(persists);
        self.status = Some(head.status);
        self.state.progress.set(Progress::Started(framing));
        self.state.answering.begin();
        encode::response(self.sender.output.open(), head, self.to, persists);
        self.sender.begin(framing);
        self.sender.output.phase = Phase::ResponseBody;
        Ok(())
    }

    /// Adds to the body. Must not be dropped while it waits, unless the exchange ends with that.
    ///
    /// # Errors
    ///
    /// The client's end; `Atlas … System` for more than the head promised.
    pub async fn write(&mut self, piece: &[u8]) -> Result<(), End> {
        match self.state.progress.get() {
            Progress::Started(_) => self.sender.write(piece).await,
            _ => Err(out_of_order()),
        }
    }

    /// Whether there is content to write, once the response has been started.
    pub fn has_content(&self) -> bool {
        self.sender.has_content()
    }

    /// Has the connection's carriage count its TLS records; how many bytes were written on it so far.
    pub fn count_up(&self) -> u64 {
        self.transport.count_records();
        self.transport.bytes_out()
    }

    /// So much content is about to be moved: [`Transport::promote`].
    pub fn promote(&self, bytes: u64) {
        promote(self.transport, bytes);
    }

    /// Whether the kernel takes on what it is given: pipes and files, once the response has been
    /// started, unless it is in chunks.
    pub fn is_kernel_stream(&self) -> bool {
        self.transport.is_kernel_stream()
    }

    /// Whether what is in a pipe, or a file, may be written now.
    pub fn takes_pipes(&self) -> bool {
        matches!(self.state.progress.get(), Progress::Started(_)) && self.sender.takes_pipes()
    }

    /// As [`Self::write`], what is in a pipe, where it [`Self::takes_pipes`].
    ///
    /// # Errors
    ///
    /// As [`Self::write`].
    pub async fn write_piped(&mut self, pipe: Pipe) -> Result<(), End> {
        match self.takes_pipes() {
            true => self.sender.write_piped(pipe).await,
            false => Err(out_of_order()),
        }
    }

    /// Writes some of a part of a file, where it [`Self::takes_pipes`]: at least a byte, unless the
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
        match self.takes_pipes() {
            true => self.sender.write_file(file, part, good).await,
            false => Err(out_of_order()),
        }
    }

    /// Sends what has been written so far.
    ///
    /// # Errors
    ///
    /// The client's end.
    pub async fn flush(&mut self) -> Result<(), End> {
        self.sender.output.flush().await
    }

    /// Ends the response and sends all of it.
    ///
    /// # Errors
    ///
    /// The client's end; `Atlas … System` for less than the head promised.
    pub async fn finish(&mut self, trailers: Option<&Fields>) -> Result<(), End> {
        match self.state.progress.get() {
            Progress::Nothing | Progress::Switched | Progress::SwitchedAndEnded => Err(out_of_order()),
            Progress::Finished => Ok(()),
            Progress::Started(_) => {
                self.sender.finish(trailers).await?;
                self.state.progress.set(Progress::Finished);
                self.state.answering.end();
                Ok(())
            }
        }
    }

    /// Sends 101: HTTP ends here, and the byte stream with what came behind the request is the
    /// caller's. Whoever lets go of it before [`Self::switched_ended`] resets it.
    ///
    /// # Errors
    ///
    /// The client's end; `Atlas Response System` for another status, after a start, and for a
    /// request whose body was not read.
    pub async fn switch(
        &mut self,
        head: &ResponseHead,
        body: &mut RequestBody<'c>,
    ) -> Result<Tunnel<'c>, End> {
        let switches = head.status == StatusCode::SWITCHING_PROTOCOLS;
        if self.has_started() || !switches || !body.is_finished() {
            return Err(out_of_order());
        }
        self.state.persists.set(false);
        self.state.progress.set(Progress::Switched);
        self.status = Some(head.status);
        encode::response(self.sender.output.open(), head, self.to, true);
        self.sender.output.flush().await?;
        self.switched_at = self.transport.bytes_out();
        Ok(Tunnel::Connection {
            transport: self.transport,
            ahead: body.take_ahead(),
            drain: self.drain,
        })
    }

    /// What followed the 101 has ended, and each side knows how.
    pub fn switched_ended(&mut self) {
        self.state.progress.set(Progress::SwitchedAndEnded);
    }

    /// Whether [`Self::start`] or [`Self::switch`] was called.
    pub fn has_started(&self) -> bool {
        self.status.is_some()
    }

    /// The status of the response, once started.
    pub fn status(&self) -> Option<StatusCode> {
        self.status
    }

    /// Body bytes written so far, without framing; none for HEAD, 204 and 304. After 101, all that
    /// was written since.
    pub fn body_bytes(&self) -> u64 {
        match self.switched_at {
            0 => self.sender.sent(),
            at => self.transport.bytes_out() - at,
        }
    }

    /// The connection shall not be used for another request. Said in the head if that has not
    /// been started yet.
    pub fn close_after(&mut self) {
        self.state.persists.set(false);
    }
}

impl Drop for Responder<'_> {
    fn drop(&mut self) {
        // The end of the connection would be the end of the body: whoever lets go of a response
        // that is not finished, a failure, a panic or a drain's deadline, must not make it look so.
        let progress = self.state.progress.get();
        if matches!(
            progress,
            Progress::Started(Framing::UntilClose) | Progress::Switched
        ) {
            self.transport.abort();
        }
    }
}

fn body_end(cause: Cause) -> End {
    client_end(Phase::RequestBody, cause)
}

fn client_end(phase: Phase, cause: Cause) -> End {
    End::new(Side::Downstream, phase, cause)
}

/// The service has called in an order that makes no response.
fn out_of_order() -> End {
    End::new(Side::Atlas, Phase::Response, Cause::System)
}

/// What is known of a request line, for the record.
fn first_line(bytes: &[u8]) -> &[u8] {
    let bytes = bytes.trim_ascii_start();
    let end = bytes.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
    &bytes[..end.unwrap_or(bytes.len())]
}

#[cfg(test)]
mod tests;
