//! One stream: a request, what it means, its answer, and the reset of what does not end in order.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{Either, select};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Response, StatusCode, request};

use super::super::translate;
use super::super::wire::{BUSY_TIMEOUTS_MAX, Way};
use super::Wire;
use super::body::{self, RequestBody};
use super::respond::Responder;
use crate::http::h1::parse::Refused;
use crate::http::h1::wire::Answering;
use crate::http::{Exchange, RequestHead, Service, Settings};
use crate::outcome::{Cause, End, Phase, Side};
use crate::runtime::{self, TimedOut};
use crate::time::{Deadline, now};

/// Whether what the client sent behind its head has undone a request that may have reached an
/// endpoint by then. What the crate finds wrong with a body it counts itself.
fn is_provoked(end: End) -> bool {
    let is_body = end.side == Side::Downstream && end.phase == Phase::RequestBody;
    is_body && matches!(end.cause, Cause::Malformed | Cause::LimitReached)
}

/// What the streams of one connection share.
pub(super) struct Shared<'c> {
    pub(super) settings: &'c Settings,
    pub(super) wire: &'c Wire<'c>,
    /// How the connection ended, once it has.
    pub(super) gone: Cell<Option<End>>,
    /// Streams that were answered, and whose rest is taken.
    pub(super) discarding: Cell<usize>,
}

/// What the two halves of an exchange share.
pub(super) struct State<'s> {
    shared: &'s Shared<'s>,
    id: u32,
    sending: RefCell<Sending>,
    /// The client has given the stream up.
    gone: Cell<Option<End>>,
    /// All of the request has come.
    has_request: Cell<bool>,
    /// It was told 100: who waited for that with its content sends it now.
    pub(super) is_invited: Cell<bool>,
    /// All of the response was given to the crate.
    is_finished: Cell<bool>,
    /// Its end was not waited for.
    is_leaving: Cell<bool>,
    is_tunnel: Cell<bool>,
    pub(super) answering: Answering,
    /// What is still to come of a request that was answered.
    rest: RefCell<Option<RecvStream>>,
}

enum Sending {
    /// The head is still to come.
    Head(SendResponse<Bytes>),
    Body(SendStream<Bytes>),
}

/// Serves one request to its end. Only the stream ends with what goes wrong.
pub(super) async fn serve(
    request: http::Request<RecvStream>,
    respond: SendResponse<Bytes>,
    shared: &Shared<'_>,
    service: &impl Service,
) {
    let (parts, body) = request.into_parts();
    let state = State {
        shared,
        id: respond.stream_id().into(),
        sending: RefCell::new(Sending::Head(respond)),
        gone: Cell::new(None),
        has_request: Cell::new(false),
        is_invited: Cell::new(false),
        is_finished: Cell::new(false),
        is_leaving: Cell::new(false),
        is_tunnel: Cell::new(false),
        answering: Answering::default(),
        rest: RefCell::default(),
    };
    match understood(&parts, &body, shared.settings) {
        Ok(request) => {
            drop(parts);
            let end = state.answer(request, body, service).await;
            state.settle(end, is_provoked(end));
            let rest = state.rest.take();
            // Of a connection that has to end nothing more is read, and its end waits for what is held.
            if let Some(rest) = rest.filter(|_| shared.wire.failed().is_none()) {
                state.discard(rest).await;
            }
        }
        Err(refused) => {
            let end = state.refuse(&refused, &parts, service).await;
            state.settle(end, false);
            if state.is_finished.get() && body::is_worth_discarding(&parts, &body) {
                state.discard(body).await;
            }
        }
    }
    state.forget();
}

fn understood(
    parts: &request::Parts,
    body: &RecvStream,
    settings: &Settings,
) -> Result<RequestHead, Refused> {
    let request = translate::request(parts, body.is_end_stream(), &settings.limits())?;
    match settings.forbids(request.body()) {
        true => Err(Refused::BODY_TOO_LARGE),
        false => Ok(request),
    }
}

impl<'s> State<'s> {
    /// Has the request answered, unless the client gives it up.
    async fn answer(&'s self, request: RequestHead, body: RecvStream, service: &impl Service) -> End {
        let exchange = Exchange {
            body: crate::http::RequestBody::H2(RequestBody::new(self, &request, body)),
            response: crate::http::Responder::H2(Responder::new(self, &request)),
            request,
        };
        // Made where it lies, as for HTTP/1: moving it would cost more than a small exchange.
        let answer = Box::into_pin(Box::write(Box::new_uninit(), service.answer(exchange)));
        match select(AssertUnwindSafe(answer).catch_unwind(), pin!(self.given_up())).await {
            Either::Left((Ok(end), _)) => end,
            // The panic hook has told what, and where; other streams go on.
            Either::Left((Err(_), _)) => End::new(Side::Atlas, Phase::Done, Cause::Panicked),
            Either::Right((end, answer)) => {
                drop(answer); // and with it the endpoint's connection
                end
            }
        }
    }

    /// Answers a request that does not become an exchange.
    async fn refuse(&'s self, refused: &Refused, parts: &request::Parts, service: &impl Service) -> End {
        let end = End::new(Side::Downstream, refused.phase(), refused.cause);
        let (head, body) = refused.fault.response_because(refused.why);
        let mut responder = Responder::to(self, parts.method == http::Method::HEAD);
        let sent = async {
            responder.start(&head)?;
            responder.write(body.as_bytes()).await?;
            responder.finish(None).await
        };
        // A client that does not take its answer ends all the same, by what it did before.
        let _: Result<(), End> = sent.await;
        let line = translate::request_line(parts);
        service.refused(line.as_bytes(), head.status, responder.body_bytes(), end);
        end
    }

    /// Resets a stream whose response did not go through, and counts how it ended.
    fn settle(&self, end: End, is_provoked: bool) {
        self.shared.wire.holds_no_more(self.id);
        match (is_provoked, self.is_finished.get()) {
            (true, _) => self.shared.wire.provoked(),
            (false, true) => self.shared.wire.finished(),
            (false, false) => {}
        }
        if self.is_finished.get() {
            return;
        }
        let reason = match end.side {
            Side::Downstream => Reason::CANCEL,
            // RFC 9113 §8.5: "A proxy treats any error in the TCP connection … as a stream error of type
            // CONNECT_ERROR."
            Side::Upstream if self.is_tunnel.get() => Reason::CONNECT_ERROR,
            Side::Atlas | Side::Upstream => Reason::INTERNAL_ERROR,
        };
        match &mut *self.sending.borrow_mut() {
            Sending::Head(respond) => respond.send_reset(reason),
            Sending::Body(stream) => stream.send_reset(reason),
        }
    }

    /// What the client says of it from here on is not the exchange's any more.
    async fn discard(&self, rest: RecvStream) {
        let count = &self.shared.discarding;
        count.set(count.get() + 1);
        body::discard(rest).await;
        count.set(count.get() - 1);
    }

    /// Nothing more is told of it.
    fn forget(&self) {
        match self.is_leaving.get() {
            true => self.shared.wire.leave_end(self.id),
            false => self.shared.wire.forget_end(self.id),
        }
    }

    pub(super) fn settings(&self) -> &'s Settings {
        self.shared.settings
    }

    /// So much of the request's body has come when it begins to be read.
    pub(super) fn holds(&self, bytes: usize) {
        self.shared.wire.holds(self.id, bytes);
    }

    /// So much of it was passed on.
    pub(super) fn taken(&self, bytes: usize) {
        self.shared.wire.passed_on(self.id, bytes);
    }

    /// All of the request has come.
    pub(super) fn request_ended(&self) {
        self.has_request.set(true);
    }

    /// What nobody has read is discarded behind the answer. If that is still to come, the client's window is more
    /// important.
    pub(super) fn leave(&self, rest: Option<RecvStream>) {
        if self.is_finished.get() {
            self.rest.replace(rest);
        }
    }

    /// How the client ended the exchange from outside, if it did.
    pub(super) fn gone(&self) -> Option<End> {
        self.gone.get().or_else(|| self.shared.gone.get())
    }

    /// The client's end: what is known of its connection goes before what a stream sees of it.
    pub(super) fn end(&self, phase: Phase, cause: Cause) -> End {
        let cause = self.shared.gone.get().map_or(cause, |end| end.cause);
        End::new(Side::Downstream, phase, cause)
    }

    /// Why a stream cannot be used any more.
    pub(super) fn cause(&self, error: &h2::Error) -> Cause {
        match self.shared.wire.failed() {
            Some(cause) => cause,
            None if error.is_library() && error.is_reset() => Cause::Malformed,
            None if error.is_go_away() || error.is_io() => Cause::Closed,
            None => Cause::Reset,
        }
    }

    /// Waits for the client, and tells how much of that was its slowness. While other bodies fill the window of
    /// all, where it can send nothing, or it is busy with other streams of the connection, it gets
    /// [`BUSY_TIMEOUTS_MAX`] times as long in all, and that part of the wait counts: none would let a byte now and
    /// then on each stream hold all of them.
    pub(super) async fn wait<T>(
        &self,
        way: Way,
        timeout: Duration,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Result<(T, Duration), TimedOut> {
        let (began, wire) = (now(), self.shared.wire);
        let (all_before, shut_before) = (wire.moved(way), wire.shut_for(way));
        let latest = Deadline::after(began, timeout.saturating_mul(BUSY_TIMEOUTS_MAX));
        for _ in 1..BUSY_TIMEOUTS_MAX {
            let before = wire.moved(way);
            if let Ok(value) = self.within(way, timeout, latest, &mut poll).await {
                let shut = wire.shut_for(way).saturating_sub(shut_before);
                let waited = (now() - began).saturating_sub(shut);
                let slowness = match self.is_busy(wire.moved(way) - all_before, waited) {
                    true => waited / BUSY_TIMEOUTS_MAX,
                    false => waited,
                };
                return Ok((value, slowness + shut / BUSY_TIMEOUTS_MAX));
            }
            let is_blocked = way == Way::Out && !wire.is_sending();
            if is_blocked || !self.is_busy(wire.moved(way) - before, timeout) {
                break; // its window is closed, or nothing comes
            }
        }
        Err(TimedOut)
    }

    /// Waits so long, and again for as long as the window of all was shut meanwhile, until `latest`: a client may
    /// keep it shut itself, by answers that it does not take.
    async fn within<T>(
        &self,
        way: Way,
        timeout: Duration,
        latest: Deadline,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Result<T, TimedOut> {
        let (wire, mut left) = (self.shared.wire, timeout);
        loop {
            let before = wire.shut_for(way);
            let deadline = Deadline::within(left).or(latest);
            if let Ok(value) = runtime::before(deadline, poll_fn(&mut poll)).await {
                return Ok(value);
            }
            let shut = wire.shut_for(way).saturating_sub(before);
            if shut.is_zero() || latest.passed(now()) {
                return Err(TimedOut);
            }
            left = shut.max(timeout / 8); // not for every moment of it
        }
    }

    /// Whether so many bytes on the whole connection are as many as one body has to have.
    fn is_busy(&self, moved: u64, time: Duration) -> bool {
        let owed = time.as_millis().saturating_mul(self.settings().min_rate.into()) / 1000;
        u128::from(moved) > owed
    }

    fn broken(&self, phase: Phase, error: &h2::Error) -> End {
        self.end(phase, self.cause(error))
    }

    async fn given_up(&self) -> End {
        let cause = poll_fn(|cx| self.poll_given_up(cx)).await;
        let end = End::new(Side::Downstream, Phase::Response, cause);
        self.gone.set(Some(end));
        end
    }

    fn poll_given_up(&self, cx: &mut Context<'_>) -> Poll<Cause> {
        let told = match &mut *self.sending.borrow_mut() {
            Sending::Head(respond) => ready!(respond.poll_reset(cx)),
            Sending::Body(stream) => ready!(stream.poll_reset(cx)),
        };
        Poll::Ready(match told {
            Ok(_) => self.shared.wire.failed().unwrap_or(Cause::Reset),
            Err(error) => self.cause(&error),
        })
    }

    pub(super) fn inform(&self, response: Response<()>) -> Result<(), End> {
        if response.status() == StatusCode::CONTINUE {
            self.is_invited.set(true);
        }
        match &mut *self.sending.borrow_mut() {
            Sending::Head(respond) => respond
                .send_informational(response)
                .map_err(|error| self.broken(Phase::Response, &error)),
            Sending::Body(_) => Ok(()),
        }
    }

    /// Sends the head; with it ends what has no body.
    pub(super) fn start(&self, response: Response<()>, is_all: bool) -> Result<(), End> {
        let mut sending = self.sending.borrow_mut();
        if let Sending::Head(respond) = &mut *sending {
            let stream = respond.send_response(response, is_all);
            *sending = Sending::Body(stream.map_err(|error| self.broken(Phase::Response, &error))?);
            self.answering.begin();
        }
        if is_all {
            self.ended();
        }
        Ok(())
    }

    /// The stream has become a tunnel.
    pub(super) fn tunnels(&self) {
        self.is_tunnel.set(true);
    }

    /// The end of the response was given to the crate.
    fn ended(&self) {
        self.is_finished.set(true);
        self.answering.end();
        self.shared.wire.expect_end(self.id);
    }

    /// Waits until the end of the response, which is so large at the most, has gone out: the client may have
    /// shut its window on it.
    ///
    /// Not where it goes when the connection is next looked at, unless the client shuts its window at that very
    /// moment: to call the stream once more only to hear of that is 3 % of a small exchange. All of the request
    /// has to be there, else the crate takes a stream that is dropped for one that is given up.
    pub(super) async fn is_gone_out(&self, size: u64) -> Result<(), End> {
        let wire = self.shared.wire;
        if self.has_request.get() && wire.lets_leave(size) {
            self.is_leaving.set(true);
            return Ok(());
        }
        let gone = self.wait(Way::Out, self.settings().write_timeout, |cx| {
            wire.poll_end(self.id, cx)
        });
        match gone.await {
            Ok(_) => Ok(()),
            Err(TimedOut) => {
                self.is_finished.set(false); // what the crate still holds of it is reset
                Err(self.end(Phase::ResponseBody, Cause::TimedOut))
            }
        }
    }

    /// How many of `wanted` bytes may be sent at once; `None`: none, and the client is asked for
    /// room.
    pub(super) fn room(&self, wanted: usize) -> Option<usize> {
        let Sending::Body(stream) = &mut *self.sending.borrow_mut() else {
            return None;
        };
        stream.reserve_capacity(wanted);
        Some(stream.capacity()).filter(|room| *room > 0)
    }

    pub(super) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<Result<usize, End>> {
        let Sending::Body(stream) = &mut *self.sending.borrow_mut() else {
            return Poll::Pending;
        };
        loop {
            let told = ready!(stream.poll_capacity(cx));
            return Poll::Ready(match told {
                Some(Ok(0)) => continue,
                Some(Ok(room)) => Ok(room),
                Some(Err(error)) => Err(self.broken(Phase::ResponseBody, &error)),
                None => Err(self.end(Phase::ResponseBody, Cause::Reset)),
            });
        }
    }

    pub(super) fn send(&self, content: Bytes, is_last: bool) -> Result<(), End> {
        if let Sending::Body(stream) = &mut *self.sending.borrow_mut() {
            stream
                .send_data(content, is_last)
                .map_err(|error| self.broken(Phase::ResponseBody, &error))?;
            if is_last {
                self.ended();
            }
        }
        Ok(())
    }

    pub(super) fn finish(&self, trailers: Option<HeaderMap>) -> Result<(), End> {
        if self.is_finished.get() {
            return Ok(());
        }
        if let Sending::Body(stream) = &mut *self.sending.borrow_mut() {
            let sent = match trailers {
                Some(trailers) => stream.send_trailers(trailers),
                None => stream.send_data(Bytes::new(), true),
            };
            sent.map_err(|error| self.broken(Phase::ResponseBody, &error))?;
            self.ended();
        }
        Ok(())
    }
}
