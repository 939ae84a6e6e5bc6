//! A request's body on a stream: read piece by piece; what was passed on opens the client's window.

use std::future::{Future, pending, poll_fn};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use http::request;

use super::super::translate;
use super::super::wire::Way;
use super::stream::State;
use crate::http::h1::wire::Pace;
use crate::http::{BodyLength, Fields, RequestHead};
use crate::outcome::{Cause, End, Phase};
use crate::runtime::before;
use crate::time::Deadline;

/// What a stream gives: a piece, its error, or nothing at its end.
type Found = Option<Result<Bytes, h2::Error>>;

fn poll_data(stream: Option<&mut RecvStream>, cx: &mut Context<'_>) -> Poll<Found> {
    stream.map_or(Poll::Ready(None), |stream| stream.poll_data(cx))
}

/// So much was taken, and the client may send as much again.
fn release(stream: Option<&mut RecvStream>, count: usize) -> Result<(), h2::Error> {
    stream.map_or(Ok(()), |stream| stream.flow_control().release_capacity(count))
}

/// Of a body that nobody wants so much is taken, for so long: a client may hear of nothing but the reset of what it
/// was about to say, and lose its answer by it.
const DISCARD_BYTES_MAX: u64 = 1024 * 1024;
const DISCARD_TIMEOUT: Duration = Duration::from_secs(2);

/// Whether the body of a request that was not understood is taken.
pub(super) fn is_worth_discarding(request: &request::Parts, body: &RecvStream) -> bool {
    let announced = request.headers.get(http::header::CONTENT_LENGTH);
    let announced = announced.map(|length| length.to_str().ok().and_then(|text| text.parse().ok()));
    let is_short =
        announced.is_none_or(|length| length.is_some_and(|length: u64| length <= DISCARD_BYTES_MAX));
    is_short && !body.is_end_stream() && !request.headers.contains_key(http::header::EXPECT)
}

/// Takes the rest of a body behind its answer.
pub(super) async fn discard(mut rest: RecvStream) {
    let discarded = async {
        let mut count = 0;
        while let Some(Ok(piece)) = poll_fn(|cx| rest.poll_data(cx)).await {
            count += piece.len();
            if count as u64 > DISCARD_BYTES_MAX || release(Some(&mut rest), piece.len()).is_err() {
                return;
            }
        }
    };
    let _ = before(Deadline::within(DISCARD_TIMEOUT), discarded).await;
}

/// Whether what comes is no body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tunnel {
    None,
    /// It will be a tunnel's if the endpoint agrees to that; until then it waits in the client's window.
    Asked,
    Open,
}

/// A request's body on a stream of HTTP/2.
pub struct RequestBody<'s> {
    state: &'s State<'s>,
    /// Until it is dropped.
    stream: Option<RecvStream>,
    /// What the last call told of. Its place in the client's window is given back at the next: by
    /// then it has been taken.
    piece: Bytes,
    /// Content still to come, if that was said.
    left: Option<u64>,
    content: u64,
    pace: Pace,
    tunnel: Tunnel,
    /// The client waits for somebody's word: what it takes to come is not its slowness.
    excused: bool,
    begun: bool,
    ended: bool,
    failed: Option<End>,
    trailers: Option<Fields>,
}

impl<'s> RequestBody<'s> {
    pub(super) fn new(state: &'s State<'s>, request: &RequestHead, mut stream: RecvStream) -> Self {
        let ended = stream.is_end_stream();
        match ended {
            true => state.request_ended(),
            false => state.holds(stream.flow_control().used_capacity()),
        }
        Self {
            state,
            ended,
            stream: Some(stream),
            piece: Bytes::new(),
            left: match request.body() {
                BodyLength::None => Some(0),
                BodyLength::Exact(length) => Some(length),
                BodyLength::Chunked | BodyLength::UntilClose => None,
            },
            content: 0,
            pace: Pace::default(),
            tunnel: match request.connects() {
                true => Tunnel::Asked,
                false => Tunnel::None,
            },
            excused: request.expects_continue(),
            begun: false,
            failed: None,
            trailers: None,
        }
    }

    /// The next piece; `None` at the end. May be dropped while it waits.
    ///
    /// # Errors
    ///
    /// `Downstream RequestBody …`: `Closed`, `Reset`, `TimedOut`, `TooSlow`, `LimitReached`,
    /// `Malformed`; the same again if it is called again.
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
            Err(cause) => {
                let end = self.state.end(Phase::RequestBody, cause);
                Err(*self.failed.insert(end))
            }
        }
    }

    /// What was told of has been taken: the client may send as much again.
    fn give_back(&mut self) {
        let count = std::mem::take(&mut self.piece).len();
        if count > 0 {
            // It fails only for more than was told of.
            let _ = release(self.stream.as_mut(), count);
            self.state.taken(count);
        }
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Cause> {
        loop {
            let (found, waited) = match self.look().await {
                Some(found) => (found, Duration::ZERO),
                None => self.wait().await?,
            };
            let Some(piece) = found else {
                self.ended = true;
                self.trailers = self.read_trailers().await?;
                self.state.request_ended();
                return Ok(None);
            };
            let piece = piece.map_err(|error| self.state.cause(&error))?;
            if piece.is_empty() {
                continue; // frames that carry nothing are counted elsewhere
            }
            self.begun = true;
            self.content += piece.len() as u64;
            self.left = self.left.map(|left| left.saturating_sub(piece.len() as u64));
            if self.tunnel != Tunnel::None {
                return Ok(Some(piece));
            }
            let settings = self.state.settings();
            if self.content > settings.body_bytes_max.unwrap_or(u64::MAX) {
                return Err(Cause::LimitReached);
            }
            self.pace.count(piece.len());
            return match waited.is_zero() || self.pace.keeps(waited, settings.min_rate) {
                true => Ok(Some(piece)),
                false => Err(Cause::TooSlow),
            };
        }
    }

    /// What is there, without waiting.
    async fn look(&mut self) -> Option<Found> {
        poll_fn(|cx| match poll_data(self.stream.as_mut(), cx) {
            Poll::Ready(found) => Poll::Ready(Some(found)),
            Poll::Pending => Poll::Ready(None),
        })
        .await
    }

    /// Waits for the client; how long that was its slowness.
    async fn wait(&mut self) -> Result<(Found, Duration), Cause> {
        if self.tunnel == Tunnel::Open {
            // The relay has the deadline, since it sees both directions.
            let found = poll_fn(|cx| poll_data(self.stream.as_mut(), cx)).await;
            return Ok((found, Duration::ZERO));
        }
        let timeout = self.state.settings().body_timeout;
        let found = self
            .state
            .wait(Way::In, timeout, |cx| poll_data(self.stream.as_mut(), cx));
        let (found, waited) = found.await.map_err(|_| Cause::TimedOut)?;
        Ok(match std::mem::take(&mut self.excused) {
            true => (found, Duration::ZERO),
            false => (found, self.state.answering.slowness(waited)),
        })
    }

    async fn read_trailers(&mut self) -> Result<Option<Fields>, Cause> {
        // They are there when the content has ended, or there are none.
        let Some(stream) = &mut self.stream else {
            return Ok(None);
        };
        let found = poll_fn(|cx| stream.poll_trailers(cx)).await;
        let found = found.map_err(|error| self.state.cause(&error))?;
        let trailers = found.as_ref().map(translate::trailers).transpose()?;
        Ok(trailers.filter(|trailers| !trailers.is_empty()))
    }

    /// Content that is still to come, if that is known; else 0.
    pub fn to_come(&self) -> u64 {
        self.left.unwrap_or(0)
    }

    /// Whether it is none, but a tunnel's.
    pub fn is_tunnel(&self) -> bool {
        self.tunnel != Tunnel::None
    }

    /// What comes from here on is what the client says in the tunnel it has asked for, to be read as a
    /// body is; it may be as long and as slow as it likes.
    pub fn switch(&mut self) {
        self.tunnel = Tunnel::Open;
    }

    /// Whether all of it has been read, or there is none.
    pub fn is_finished(&self) -> bool {
        let is_read = || self.stream.as_ref().is_none_or(RecvStream::is_end_stream);
        self.tunnel == Tunnel::Asked || self.ended || is_read()
    }

    /// Whether a piece of it has been read.
    pub fn has_begun(&self) -> bool {
        self.begun
    }

    /// The trailers, after the end.
    pub fn trailers(&self) -> Option<&Fields> {
        self.trailers.as_ref()
    }

    /// Waits for ever: a stream that its client gives up is ended from outside.
    pub fn client_gone(&self) -> impl Future<Output = End> {
        pending()
    }
}

impl Drop for RequestBody<'_> {
    fn drop(&mut self) {
        self.give_back();
        // Who waits for 100 may send nothing more, or all of it.
        let may_come = self.begun || !self.excused || self.state.is_invited.get();
        let is_good = self.failed.is_none_or(|end| end.cause == Cause::LimitReached);
        let comes = !self.ended && !self.is_tunnel() && may_come && is_good;
        if comes && self.left.is_none_or(|left| left <= DISCARD_BYTES_MAX) {
            self.state.leave(self.stream.take());
        }
    }
}
