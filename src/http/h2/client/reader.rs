//! A response on a stream: read piece by piece; what was passed on opens the endpoint's window.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use http::{StatusCode, response};

use super::super::translate;
use super::stream::Stream;
use crate::http::h1::client::INFORMATIONAL_MAX;
use crate::http::{BodyLength, Fields, ResponseHead};
use crate::outcome::{Cause, End, Phase, Side};
use crate::runtime::before;
use crate::time::Deadline;

/// What a stream gives: a piece, its error, or nothing at its end.
type Found = Option<Result<Bytes, h2::Error>>;

/// The response's direction.
pub struct ResponseReader<'s> {
    stream: &'s Stream,
    body: Option<RecvStream>,
    /// What the last call told of. Its place in the window is given back at the next: by then it has
    /// been taken.
    piece: Bytes,
    /// Content still to come, if that was said.
    left: Option<u64>,
    informational: usize,
    begun: bool,
    ended: bool,
    failed: Option<End>,
    trailers: Option<Fields>,
}

impl<'s> ResponseReader<'s> {
    pub(super) fn new(stream: &'s Stream) -> Self {
        Self {
            stream,
            body: None,
            piece: Bytes::new(),
            left: None,
            informational: 0,
            begun: false,
            ended: false,
            failed: None,
            trailers: None,
        }
    }

    /// The next head: informational ones (1xx) first, then the final one. May be dropped while it
    /// waits, and be called again.
    ///
    /// # Errors
    ///
    /// `Upstream Response …`: `TimedOut`, `Unprocessed`, `Closed`, `Reset`, `Malformed`, `LimitReached`.
    pub async fn head(&mut self, deadline: Deadline) -> Result<ResponseHead, End> {
        let fail = |cause| End::new(Side::Upstream, Phase::Response, cause);
        let found = before(deadline, poll_fn(|cx| self.poll_head(cx))).await;
        let (parts, ends) = match found {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => return Err(self.stream.fail(Phase::Response, &error)),
            Err(_) => {
                self.stream.state.suspect();
                return Err(fail(Cause::TimedOut));
            }
        };
        self.begun = true;
        let limits = self.stream.state.settings.limits();
        let asked = self.stream.asked.get();
        let head = translate::endpoint::response(&parts, ends, asked, &limits).map_err(fail)?;
        if head.status.is_informational() {
            self.informational += 1;
            return match self.informational > INFORMATIONAL_MAX {
                true => Err(fail(Cause::LimitReached)),
                false => Ok(head),
            };
        }
        // A request to HEAD, and a 304, tell of a body that does not come.
        let comes = !asked.head && head.status != StatusCode::NOT_MODIFIED;
        self.left = match head.body {
            BodyLength::Exact(length) if comes => Some(length),
            BodyLength::Chunked | BodyLength::UntilClose if comes => None,
            _ => Some(0),
        };
        Ok(head)
    }

    /// A head, and whether nothing follows it.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<(response::Parts, bool), h2::Error>> {
        let mut awaited = self.stream.awaited.borrow_mut();
        let Some(response) = &mut *awaited else {
            return Poll::Pending; // nothing was asked yet
        };
        if let Poll::Ready(Some(informed)) = response.poll_informational(cx) {
            return Poll::Ready(informed.map(|response| (response.into_parts().0, false)));
        }
        let answered = ready!(Pin::new(response).poll(cx));
        *awaited = None;
        Poll::Ready(answered.map(|response| {
            let (parts, body) = response.into_parts();
            let ends = body.is_end_stream();
            self.body = Some(body);
            (parts, ends)
        }))
    }

    /// The next piece of the body; `None` at the end. May be dropped while it waits.
    ///
    /// # Errors
    ///
    /// `Upstream ResponseBody …`: `TimedOut`, `Closed`, `Reset`, `Malformed`; the same again if it is
    /// called again. `Atlas … System` before the final head.
    pub async fn read(&mut self) -> Result<Option<&[u8]>, End> {
        self.give_back();
        if let Some(end) = self.failed {
            return Err(end);
        }
        if self.ended {
            return Ok(None);
        }
        match self.next().await {
            Ok(piece) => {
                self.piece = piece.unwrap_or_default();
                Ok(Some(&self.piece[..]).filter(|piece| !piece.is_empty()))
            }
            Err(end) => Err(*self.failed.insert(end)),
        }
    }

    /// What was told of has been taken: the endpoint may send as much again.
    fn give_back(&mut self) {
        let count = std::mem::take(&mut self.piece).len();
        if let Some(body) = &mut self.body
            && count > 0
        {
            // It fails only for more than was told of.
            let _ = body.flow_control().release_capacity(count);
        }
    }

    async fn next(&mut self) -> Result<Option<Bytes>, End> {
        let fail = |cause| End::new(Side::Upstream, Phase::ResponseBody, cause);
        loop {
            let Some(piece) = self.wait().await? else {
                if self.left.is_some_and(|left| left > 0) {
                    return Err(fail(Cause::Malformed));
                }
                self.trailers = self.read_trailers().await?;
                self.ended = true;
                self.stream.response_finished.set(true);
                return Ok(None);
            };
            let piece = piece.map_err(|error| self.stream.fail(Phase::ResponseBody, &error))?;
            if piece.is_empty() {
                continue; // frames that carry nothing are counted elsewhere
            }
            if let Some(left) = &mut self.left {
                let rest = left.checked_sub(piece.len() as u64);
                *left = rest.ok_or_else(|| fail(Cause::Malformed))?;
            }
            return Ok(Some(piece));
        }
    }

    /// Waits for the endpoint.
    async fn wait(&mut self) -> Result<Found, End> {
        let body = self.body.as_mut().ok_or(OUT_OF_ORDER)?;
        let deadline = Deadline::within(self.stream.state.settings.idle_timeout);
        let found = before(deadline, poll_fn(|cx| body.poll_data(cx))).await;
        found.map_err(|_| {
            self.stream.state.suspect();
            End::new(Side::Upstream, Phase::ResponseBody, Cause::TimedOut)
        })
    }

    async fn read_trailers(&mut self) -> Result<Option<Fields>, End> {
        let body = self.body.as_mut().ok_or(OUT_OF_ORDER)?;
        // They are there when the content has ended, or there are none.
        let found = poll_fn(|cx| body.poll_trailers(cx)).await;
        let found = found.map_err(|error| self.stream.fail(Phase::ResponseBody, &error))?;
        let trailers = found.as_ref().map(translate::trailers).transpose();
        let fail = |cause| End::new(Side::Upstream, Phase::ResponseBody, cause);
        Ok(trailers.map_err(fail)?.filter(|trailers| !trailers.is_empty()))
    }

    /// Content that is still to come, if that is known; else 0.
    pub fn to_come(&self) -> u64 {
        self.left.unwrap_or(0)
    }

    /// The trailers, after the end.
    pub fn trailers(&self) -> Option<&Fields> {
        self.trailers.as_ref()
    }

    /// Whether a head has come.
    pub fn has_begun(&self) -> bool {
        self.begun
    }

    /// Waits until the endpoint wants no more of the request.
    pub async fn let_go(&self) {
        self.stream.let_go().await;
    }
}

/// The body was asked for before its head.
const OUT_OF_ORDER: End = End::new(Side::Atlas, Phase::ResponseBody, Cause::System);
