//! A request on a stream: as much of it at a time as the endpoint has opened its windows for.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Method;

use super::super::translate;
use super::stream::Stream;
use crate::http::h1::client::Outgoing;
use crate::http::h1::parse::Asked;
use crate::http::{BodyLength, Fields};
use crate::outcome::{Cause, End, Phase, Side};
use crate::runtime::before;
use crate::time::Deadline;

/// The request's direction.
pub struct RequestWriter<'s> {
    stream: &'s Stream,
    /// Bytes still owed, if their number was promised.
    left: Option<u64>,
    /// Trailers were announced: the end is theirs.
    has_trailers: bool,
}

impl<'s> RequestWriter<'s> {
    pub(super) fn new(stream: &'s Stream) -> Self {
        Self {
            stream,
            left: None,
            has_trailers: false,
        }
    }

    /// Sends the head; with it ends what has no body.
    ///
    /// # Errors
    ///
    /// `Downstream Request Malformed`: it cannot be said in HTTP/2. `Upstream RequestBody …`:
    /// `Unprocessed`, where the connection takes no more.
    pub fn start(&mut self, head: &Outgoing<'_>) -> Result<(), End> {
        let stream = self.stream;
        let request = translate::endpoint::request(head, stream.state.is_secure)
            .map_err(|cause| End::new(Side::Downstream, Phase::Request, cause))?;
        stream.asked.set(Asked {
            head: *head.method == Method::HEAD,
        });
        self.left = match head.body {
            BodyLength::None => Some(0),
            BodyLength::Exact(length) => Some(length),
            BodyLength::Chunked | BodyLength::UntilClose => None,
        };
        self.has_trailers = head.body != BodyLength::None && head.fields.get("trailer").is_some();
        let is_all = self.is_all();
        let sent = stream.send.clone().send_request(request, is_all);
        let Ok((response, sending)) = sent else {
            stream.retire(); // it is closed, going away, or has no numbers left
            return Err(self.end(Cause::Unprocessed));
        };
        stream.state.wire.asked();
        stream.request_finished.set(is_all);
        stream.awaited.replace(Some(response));
        stream.sending.replace(Some(sending));
        Ok(())
    }

    /// Adds to the body. Must not be dropped while it waits, unless the exchange ends with that.
    ///
    /// # Errors
    ///
    /// `Upstream RequestBody …`: `Unprocessed`, `Reset`, `Closed`, `TimedOut`, `Malformed`; `Atlas …
    /// System` for more than the head promised.
    pub async fn write(&mut self, mut piece: &[u8]) -> Result<(), End> {
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(piece.len() as u64).ok_or(PROMISE_BROKEN)?;
        }
        while !piece.is_empty() {
            let room = self.room(piece.len()).await?;
            let (taken, rest) = piece.split_at(room.min(piece.len()));
            let is_last = rest.is_empty() && self.is_all();
            self.send(Bytes::copy_from_slice(taken), is_last)?;
            piece = rest;
        }
        Ok(())
    }

    /// Whether nothing follows what was given so far.
    fn is_all(&self) -> bool {
        self.left == Some(0) && !self.has_trailers
    }

    /// How many of `wanted` bytes may be sent now; at least one, after a wait for the endpoint.
    async fn room(&self, wanted: usize) -> Result<usize, End> {
        if let Some(sending) = &mut *self.stream.sending.borrow_mut() {
            sending.reserve_capacity(wanted);
            if sending.capacity() > 0 {
                return Ok(sending.capacity());
            }
        }
        let deadline = Deadline::within(self.stream.state.settings.idle_timeout);
        match before(deadline, poll_fn(|cx| self.poll_room(cx))).await {
            Ok(room) => room.map_err(|cause| self.end(cause)),
            Err(_) => {
                self.stream.state.suspect();
                Err(self.end(Cause::TimedOut))
            }
        }
    }

    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<Result<usize, Cause>> {
        if let Poll::Ready(cause) = self.stream.poll_let_go(cx) {
            return Poll::Ready(Err(cause));
        }
        let mut sending = self.stream.sending.borrow_mut();
        let Some(sending) = &mut *sending else {
            return Poll::Ready(Err(Cause::System));
        };
        loop {
            return Poll::Ready(match ready!(sending.poll_capacity(cx)) {
                Some(Ok(0)) => continue,
                Some(Ok(room)) => Ok(room),
                Some(Err(error)) => Err(self.stream.state.cause(&error)),
                None => Err(Cause::Reset),
            });
        }
    }

    fn send(&self, content: Bytes, is_last: bool) -> Result<(), End> {
        if let Some(sending) = &mut *self.stream.sending.borrow_mut() {
            let sent = sending.send_data(content, is_last);
            sent.map_err(|error| self.stream.fail(Phase::RequestBody, &error))?;
        }
        self.stream.request_finished.set(is_last);
        Ok(())
    }

    /// Ends the request.
    ///
    /// # Errors
    ///
    /// As [`Self::write`]; `Atlas … System` for less than the head promised.
    pub fn finish(&mut self, trailers: Option<&Fields>) -> Result<(), End> {
        if self.stream.request_finished.get() {
            return Ok(());
        }
        if self.left.is_some_and(|left| left > 0) {
            return Err(PROMISE_BROKEN);
        }
        let Some(trailers) = translate::trailer_map(trailers) else {
            return self.send(Bytes::new(), true);
        };
        if let Some(sending) = &mut *self.stream.sending.borrow_mut() {
            let sent = sending.send_trailers(trailers);
            sent.map_err(|error| self.stream.fail(Phase::RequestBody, &error))?;
        }
        self.stream.request_finished.set(true);
        Ok(())
    }

    fn end(&self, cause: Cause) -> End {
        End::new(Side::Upstream, Phase::RequestBody, cause)
    }
}

/// Whoever writes bodies has counted wrongly; what went out so far cannot be mended.
const PROMISE_BROKEN: End = End::new(Side::Atlas, Phase::RequestBody, Cause::System);
