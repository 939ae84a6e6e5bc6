//! A response on a stream: as much of it at a time as the client has opened its windows for.

use std::future::poll_fn;

use bytes::Bytes;
use http::{Method, StatusCode};

use super::super::translate;
use super::super::wire::Way;
use super::stream::State;
use crate::http::h1::encode::Framing;
use crate::http::h1::wire::Pace;
use crate::http::{BodyLength, Fields, RequestHead, ResponseHead};
use crate::outcome::{Cause, End, Phase, Side};

/// What the frames of a small response take beside what is in them, and the fields that are added to its own.
const FRAMES_BYTES: usize = 256;

/// The way back on a stream of HTTP/2.
pub struct Responder<'s> {
    state: &'s State<'s>,
    to_head: bool,
    framing: Framing,
    /// Bytes still owed, if their number was promised.
    left: u64,
    /// Trailers were announced: the end is theirs.
    has_trailers: bool,
    sent: u64,
    /// Of the head in a frame, at the most.
    head_bytes: usize,
    status: Option<StatusCode>,
    is_tunnel: bool,
    pace: Pace,
}

impl<'s> Responder<'s> {
    pub(super) fn new(state: &'s State<'s>, request: &RequestHead) -> Self {
        Self::to(state, *request.method() == Method::HEAD)
    }

    /// `to_head`: the request was HEAD.
    pub(super) fn to(state: &'s State<'s>, to_head: bool) -> Self {
        Self {
            state,
            to_head,
            framing: Framing::Suppressed,
            left: 0,
            has_trailers: false,
            sent: 0,
            head_bytes: 0,
            status: None,
            is_tunnel: false,
            pace: Pace::default(),
        }
    }

    /// Sends an informational response (1xx but 101). Does nothing once the response has been
    /// started.
    ///
    /// # Errors
    ///
    /// The client's end, as for the other calls: `Downstream Response …` or `ResponseBody …`:
    /// `Reset`, `Closed`, `TimedOut`, `TooSlow`; `Atlas … System` for a call out of order.
    pub fn inform(&mut self, head: &ResponseHead) -> Result<(), End> {
        let switches = head.status == StatusCode::SWITCHING_PROTOCOLS;
        if !head.status.is_informational() || switches {
            return Err(out_of_order());
        }
        if self.has_started() {
            return Ok(());
        }
        let (response, _) = translate::response(head, self.to_head).map_err(upstreams)?;
        self.state.inform(response)
    }

    /// Begins the response.
    ///
    /// # Errors
    ///
    /// `Atlas Response System` for an informational status or a second start.
    pub fn start(&mut self, head: &ResponseHead) -> Result<(), End> {
        if self.has_started() || head.status.is_informational() {
            return Err(out_of_order());
        }
        let (response, framing) = translate::response(head, self.to_head).map_err(upstreams)?;
        // What ended with its head, as a Trailers-Only response of gRPC, ends with it.
        self.has_trailers = head.body != BodyLength::None && head.fields.get("trailer").is_some();
        let is_all = match framing {
            Framing::Suppressed => true,
            Framing::Exact(0) => !self.has_trailers,
            _ => false,
        };
        self.state.start(response, is_all)?;
        self.head_bytes = head.fields.size() + FRAMES_BYTES;
        self.status = Some(head.status);
        self.framing = framing;
        if let Framing::Exact(length) = framing {
            self.left = length;
        }
        Ok(())
    }

    /// Agrees to the tunnel the client has asked for by CONNECT: what is written from here on is what
    /// the endpoint says in it. `head` is the endpoint's 101.
    ///
    /// # Errors
    ///
    /// The client's end; `Atlas Response System` for another status and after a start.
    pub fn switch(&mut self, head: &ResponseHead) -> Result<(), End> {
        if self.has_started() || head.status != StatusCode::SWITCHING_PROTOCOLS {
            return Err(out_of_order());
        }
        let response = translate::agreement(head).map_err(upstreams)?;
        self.state.start(response, false)?;
        self.state.tunnels();
        self.status = Some(StatusCode::OK);
        self.framing = Framing::Chunked;
        self.is_tunnel = true;
        Ok(())
    }

    /// Adds to the body. Must not be dropped while it waits, unless the exchange ends with that.
    ///
    /// # Errors
    ///
    /// The client's end; `Atlas … System` for more than the head promised.
    pub async fn write(&mut self, mut piece: &[u8]) -> Result<(), End> {
        if !self.has_started() {
            return Err(out_of_order());
        }
        if piece.is_empty() || self.framing == Framing::Suppressed {
            return Ok(());
        }
        self.count(piece.len() as u64)?;
        while !piece.is_empty() {
            let room = self.room(piece.len()).await?;
            let (taken, rest) = piece.split_at(room.min(piece.len()));
            let is_all = self.has_length() && self.left == 0 && !self.has_trailers;
            let is_last = rest.is_empty() && is_all;
            self.state.send(Bytes::copy_from_slice(taken), is_last)?;
            self.pace.count(taken.len());
            piece = rest;
        }
        Ok(())
    }

    /// So much content is being written.
    fn count(&mut self, length: u64) -> Result<(), End> {
        if self.has_length() && length > self.left {
            return Err(promise_broken());
        }
        self.left = self.left.saturating_sub(length);
        self.sent += length;
        Ok(())
    }

    /// How many of `wanted` bytes may be sent now; at least one, after a wait for the client.
    async fn room(&mut self, wanted: usize) -> Result<usize, End> {
        if let Some(room) = self.state.room(wanted) {
            return Ok(room);
        }
        if self.is_tunnel {
            // The relay has the deadline, since it sees both directions.
            return poll_fn(|cx| self.state.poll_room(cx)).await;
        }
        let settings = self.state.settings();
        let end = |cause| self.state.end(Phase::ResponseBody, cause);
        let room = self
            .state
            .wait(Way::Out, settings.write_timeout, |cx| self.state.poll_room(cx));
        let (room, waited) = room.await.map_err(|_| end(Cause::TimedOut))?;
        let room = room?;
        match waited.is_zero() || self.pace.keeps(waited, settings.min_rate) {
            true => Ok(room),
            false => Err(end(Cause::TooSlow)),
        }
    }

    /// Ends the response, and waits until all of it has gone out.
    ///
    /// # Errors
    ///
    /// The client's end; `Atlas … System` for less than the head promised.
    pub async fn finish(&mut self, trailers: Option<&Fields>) -> Result<(), End> {
        if !self.has_started() {
            return Err(out_of_order());
        }
        if self.has_length() && self.left > 0 {
            return Err(promise_broken());
        }
        self.state.finish(translate::trailer_map(trailers))?;
        self.state.is_gone_out(self.head_bytes as u64 + self.sent).await
    }

    fn has_length(&self) -> bool {
        matches!(self.framing, Framing::Exact(_))
    }

    /// Whether [`Self::start`] was called.
    pub fn has_started(&self) -> bool {
        self.status.is_some()
    }

    /// The status of the response, once started.
    pub fn status(&self) -> Option<StatusCode> {
        self.status
    }

    /// Body bytes written so far; none for HEAD, 204 and 304.
    pub fn body_bytes(&self) -> u64 {
        self.sent
    }

    /// How the client ended the exchange from outside, if it did.
    pub fn gone(&self) -> Option<End> {
        self.state.gone()
    }
}

/// The service has called in an order that makes no response.
fn out_of_order() -> End {
    End::new(Side::Atlas, Phase::Response, Cause::System)
}

/// Whoever writes bodies has counted wrongly; what went out so far cannot be mended.
fn promise_broken() -> End {
    End::new(Side::Atlas, Phase::ResponseBody, Cause::System)
}

/// A head that cannot be said in HTTP/2: the endpoint's, since Atlas's own can.
fn upstreams(cause: Cause) -> End {
    End::new(Side::Upstream, Phase::Response, cause)
}
