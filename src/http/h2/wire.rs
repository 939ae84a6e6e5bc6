//! A connection's bytes as the `h2` crate wants them: tokio's traits over a transport, on
//! nonblocking calls and waits that may be dropped at any time.
//!
//! Frames are gathered and go out at the end of a round, in one piece; the crate flushes after each.

use std::borrow::Borrow;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io::{self, IoSlice};
use std::ops::Deref;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::super::Settings;
use super::super::h1::wire::Pace;
use super::ends::Ends;
use super::guard::{Guard, Heard, Sent};
use super::held::Held;
use crate::buffer::{Buffer, LARGE, SMALL};
use crate::outcome::Cause;
use crate::runtime;
use crate::time::{Deadline, now};
use crate::transport::Transport;

/// What the crate finds to be too much, in the words its GOAWAY ends with. It does not tell us.
const EXCESSES: [(&[u8], Cause); 5] = [
    (b"too_many_continuations", Cause::ContinuationFlood),
    (b"too_many_data_frames", Cause::EmptyFrames),
    (b"too_many_internal_resets", Cause::ProvokedResets),
    (b"too_many_resets", Cause::RapidReset),
    (b"header_list_way_too_large", Cause::LimitReached),
];

/// How often a stream's time may pass while its client is busy with others.
pub(super) const BUSY_TIMEOUTS_MAX: u32 = 10;

type Rest = Pin<Box<dyn Future<Output = ()>>>;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// From the client.
    In,
    /// To the client.
    Out,
}

/// A transport, borrowed or owned, with what is on its way in and out. Both directions are used by
/// one task.
pub(super) struct Wire<T> {
    transport: T,
    write_timeout: Duration,
    min_rate: u64,
    /// What was read before it was known to be HTTP/2.
    input: RefCell<Buffer>,
    /// Frames that wait for the end of the round. No memory while there are none.
    output: RefCell<Buffer>,
    guard: RefCell<Guard>,
    ends: RefCell<Ends>,
    /// Bodies of a client.
    held: RefCell<Held>,
    /// A turn that is over.
    rest: RefCell<Option<Rest>>,
    pace: RefCell<Pace>,
    /// Since when the peer takes nothing.
    stuck: Cell<Option<Instant>>,
    failed: Cell<Option<Cause>>,
    excess: Cell<Option<Cause>>,
    has_ended: Cell<bool>,
    is_deaf: Cell<bool>,
    /// Nothing more can be read in this round: what comes wakes the task for the next one. The crate asks again
    /// for each request it hands out.
    is_dry: Cell<bool>,
    /// Bytes of responses that nobody waits for, since the crate was last looked at.
    leaving: Cell<usize>,
}

impl<T: Borrow<Transport>> Wire<T> {
    /// One to a client. `input`: what was read of it already.
    pub(super) fn to_client(transport: T, input: Buffer, settings: &Settings) -> Self {
        let guard = Guard::of_client(&settings.h2);
        let ends = Ends::of_client();
        let pace = (settings.write_timeout, settings.min_rate);
        let window = usize::try_from(settings.h2.window()).unwrap_or(usize::MAX);
        Self {
            held: RefCell::new(Held::new(window)),
            ..Self::new(transport, input, pace, guard, ends)
        }
    }

    /// One to an endpoint, which has to take something every `write_timeout`.
    pub(super) fn to_endpoint(transport: T, write_timeout: Duration, limits: &super::Settings) -> Self {
        let guard = Guard::of_endpoint(limits);
        let ends = Ends::of_endpoint();
        Self::new(transport, Buffer::none(), (write_timeout, 0), guard, ends)
    }

    fn new(
        transport: T,
        input: Buffer,
        (write_timeout, min_rate): (Duration, u64),
        guard: Guard,
        ends: Ends,
    ) -> Self {
        Self {
            transport,
            write_timeout,
            min_rate,
            input: RefCell::new(input),
            output: RefCell::default(),
            guard: RefCell::new(guard),
            ends: RefCell::new(ends),
            held: RefCell::new(Held::new(usize::MAX)),
            rest: RefCell::default(),
            pace: RefCell::default(),
            stuck: Cell::default(),
            failed: Cell::default(),
            excess: Cell::default(),
            has_ended: Cell::default(),
            is_deaf: Cell::default(),
            is_dry: Cell::default(),
            leaving: Cell::default(),
        }
    }

    /// The byte stream.
    pub(super) fn transport(&self) -> &Transport {
        self.transport.borrow()
    }

    /// Why it cannot be used any more, or must not.
    pub(super) fn failed(&self) -> Option<Cause> {
        self.failed.get()
    }

    /// What the crate found to be too much, if that is what it has ended the connection for.
    pub(super) fn excess(&self) -> Option<Cause> {
        self.excess.get()
    }

    /// Whether the peer has said in order that it sends no more.
    pub(super) fn has_ended(&self) -> bool {
        self.has_ended.get()
    }

    /// Whether frames wait to be sent.
    pub(super) fn is_sending(&self) -> bool {
        !self.output.borrow().is_empty()
    }

    /// Lets a response leave that the crate has whole and may send: nobody waits for its end. False where that
    /// is not sure to go out, `size` bytes at the most, when the connection is next looked at.
    pub(super) fn lets_leave(&self, size: u64) -> bool {
        let leaving =
            usize::try_from(size).map_or(usize::MAX, |size| self.leaving.get().saturating_add(size));
        if self.stuck.get().is_some() || self.output.borrow().len().saturating_add(leaving) > LARGE {
            return false;
        }
        self.leaving.set(leaving);
        true
    }

    /// What was let leave is with the frames that wait to be sent.
    pub(super) fn has_left(&self) {
        self.leaving.set(0);
    }

    /// Reads nothing more: what the peer sends from here on is not wanted.
    pub(super) fn close_ears(&self) {
        self.is_deaf.set(true);
    }

    /// Bytes that went one way so far: of bodies that came, of all that was sent.
    pub(super) fn moved(&self, way: Way) -> u64 {
        match way {
            Way::In => self.guard.borrow().content(),
            Way::Out => self.transport().bytes_out(),
        }
    }

    /// A request's body begins to be read, so much of which has come in whole frames.
    pub(super) fn holds(&self, stream: u32, bytes: usize) {
        let bytes = bytes + self.guard.borrow().under_way(stream);
        self.held.borrow_mut().begin(stream, bytes, now());
    }

    /// So much of it was passed on.
    pub(super) fn passed_on(&self, stream: u32, bytes: usize) {
        self.held.borrow_mut().taken(stream, bytes, now);
    }

    /// Nobody wants what is left of it.
    pub(super) fn holds_no_more(&self, stream: u32) {
        self.held.borrow_mut().end(stream, now);
    }

    /// For how long nothing could go that way so far, in all, because of what waits in Atlas.
    pub(super) fn shut_for(&self, way: Way) -> Duration {
        match way {
            Way::In => self.held.borrow().shut_for(now()),
            Way::Out => Duration::ZERO,
        }
    }

    /// An endpoint was asked for one more answer.
    pub(super) fn asked(&self) {
        self.guard.borrow_mut().asked();
    }

    /// A request was let finish.
    pub(super) fn finished(&self) {
        self.guard.borrow_mut().finished();
    }

    /// A request under way was cancelled for what the client had sent with it.
    pub(super) fn provoked(&self) {
        if let Err(cause) = self.guard.borrow_mut().provoked() {
            self.stop(cause);
        }
    }

    /// To be called before the crate looks at the connection anew: whom something came for has taken it, and more may
    /// have come.
    pub(super) fn begin_round(&self) {
        self.guard.borrow_mut().taken();
        self.is_dry.set(false);
    }

    /// A request has come on this stream.
    pub(super) fn begin(&self, stream: u32) {
        self.ends.borrow_mut().begin(stream);
    }

    /// Streams the crate has refused since this was last asked, and why.
    pub(super) fn take_refused(&self) -> Vec<(u32, Cause)> {
        self.ends.borrow_mut().take_refused()
    }

    /// The last piece of a stream is on its way to [`Self::poll_take`].
    pub(super) fn expect_end(&self, stream: u32) {
        self.ends.borrow_mut().expect(stream);
    }

    /// Waits until the end of a stream has gone out.
    pub(super) fn poll_end(&self, stream: u32, cx: &mut Context<'_>) -> Poll<()> {
        self.ends.borrow_mut().poll(stream, cx)
    }

    /// Nobody waits for the end of a stream any more, which goes out all the same.
    pub(super) fn leave_end(&self, stream: u32) {
        self.ends.borrow_mut().leave(stream);
    }

    /// Nobody waits for the end of a stream any more.
    pub(super) fn forget_end(&self, stream: u32) {
        self.ends.borrow_mut().forget(stream);
    }

    /// A share of this connection's turn.
    pub(super) fn worked(&self) {
        self.transport().socket().worked();
    }

    /// When the peer has to have sent the rest of a frame, and to have taken something.
    pub(super) fn deadlines(&self, header_timeout: Duration) -> (Option<Deadline>, Option<Deadline>) {
        let frame = self.guard.borrow().unfinished();
        let left = self.ends.borrow_mut().left_since();
        let stuck = self.stuck.get();
        let stuck = stuck.map(|since| Deadline::after(since, self.write_timeout));
        let left = left.map(|since| Deadline::after(since, self.write_timeout * BUSY_TIMEOUTS_MAX));
        (
            frame.map(|since| Deadline::after(since, header_timeout)),
            stuck.into_iter().chain(left).min(),
        )
    }

    /// Sends what was gathered.
    pub(super) fn poll_send(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut output = self.output.borrow_mut();
        loop {
            ready!(self.poll_space(cx))?;
            if output.is_empty() {
                output.rest();
                match self.transport().try_flush() {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.stuck.set(Some(now())),
                    result => return Poll::Ready(result.map_err(|error| self.fail(error))),
                }
                continue;
            }
            ready!(self.poll_turn(cx));
            match self.transport().try_write(output.filled()) {
                Ok(count) => {
                    self.pace.borrow_mut().count(count);
                    output.consume(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.stuck.set(Some(now())),
                Err(error) => return Poll::Ready(Err(self.fail(error))),
            }
        }
    }

    /// Lets others go first if this connection has done its share.
    fn poll_turn(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut rest = self.rest.borrow_mut();
        if rest.is_none() && self.transport().socket().turn_is_over() {
            *rest = Some(Box::pin(runtime::turn()));
        }
        if let Some(turn) = &mut *rest {
            ready!(turn.as_mut().poll(cx));
            *rest = None;
        }
        Poll::Ready(())
    }

    /// Waits until the peer takes bytes again, if it has stopped to.
    fn poll_space(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(since) = self.stuck.get() else {
            return Poll::Ready(Ok(()));
        };
        ready!(self.transport().socket().poll_writable(cx)).map_err(|error| self.fail(error))?;
        self.stuck.set(None);
        let is_fast_enough = self.pace.borrow_mut().keeps(now() - since, self.min_rate);
        Poll::Ready(match is_fast_enough {
            true => Ok(()),
            false => Err(self.fail(Cause::TooSlow.into_error(io::ErrorKind::TimedOut))),
        })
    }

    fn poll_read(&self, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.is_deaf.get() || self.is_dry.get() {
            return Poll::Pending;
        }
        if self.guard.borrow().is_ahead() {
            cx.waker().wake_by_ref(); // again, once those it came for have taken it
            return Poll::Pending;
        }
        let mut input = self.input.borrow_mut();
        if !input.is_empty() {
            let count = input.len().min(into.remaining());
            into.put_slice(&input.filled()[..count]);
            input.consume(count);
            input.rest();
            return self.observe(into);
        }
        loop {
            ready!(self.poll_turn(cx));
            // By way of a buffer of the worker's: the crate offers space that nobody has written to yet, and
            // to zero kilobytes for each read costs more than to copy what came (1 % of a small request).
            let mut buffer = Buffer::small();
            let space = into.remaining().min(SMALL);
            match self.transport().try_read(&mut buffer.space()[..space]) {
                Ok(0) => {
                    self.has_ended.set(true);
                    return Poll::Ready(Ok(()));
                }
                Ok(count) => {
                    into.put_slice(&buffer.space()[..count]);
                    return self.observe(into);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.is_dry.set(true);
                    ready!(self.transport().socket().poll_readable(cx)).map_err(|error| self.fail(error))?;
                    self.is_dry.set(false);
                }
                Err(error) => return Poll::Ready(Err(self.fail(error))),
            }
        }
    }

    /// Counts what came. Of what there is too much nothing is passed on.
    fn observe(&self, into: &ReadBuf<'_>) -> Poll<io::Result<()>> {
        let sent = Sent {
            bytes: self.transport().bytes_out(),
            messages: self.ends.borrow().messages(),
        };
        let hear = |heard| match heard {
            Heard::Reset(stream) => self.ends.borrow_mut().given_up(stream),
            Heard::Content(stream, bytes) => self.held.borrow_mut().came(stream, bytes, now),
        };
        match self.guard.borrow_mut().observe(into.filled(), sent, hear) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(cause) => {
                self.stop(cause);
                Poll::Pending // whoever has polled looks at `failed`
            }
        }
    }

    /// There was too much of something: nothing more is read, and the connection is to end.
    fn stop(&self, cause: Cause) {
        self.failed.set(self.failed.get().or(Some(cause)));
        self.is_deaf.set(true);
    }

    /// Takes frames; waits for the peer only when there are more than a large buffer of them.
    fn poll_take(&self, pieces: &[IoSlice<'_>], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.output.borrow().len() >= LARGE {
            ready!(self.poll_send(cx))?;
        }
        let mut output = self.output.borrow_mut();
        let wanted: usize = pieces.iter().map(|piece| piece.len()).sum();
        if output.space().len() < wanted {
            output.compact();
            let size = (output.len() + wanted).clamp(SMALL, LARGE);
            output.grow(size);
        }
        let before = output.len();
        let taken = pieces.iter().map(|piece| output.push(piece)).sum();
        self.ends.borrow_mut().observe(&output.filled()[before..]);
        Poll::Ready(Ok(taken))
    }

    /// What the last frame says, which is the crate's goodbye.
    fn note_last_words(&self) {
        let output = self.output.borrow();
        let said = EXCESSES
            .iter()
            .find(|(words, _)| output.filled().ends_with(words));
        if let Some((_, cause)) = said {
            self.excess.set(Some(*cause));
        }
    }

    fn fail(&self, error: io::Error) -> io::Error {
        if self.failed.get().is_none() {
            self.failed.set(Some(Cause::of(&error)));
        }
        error
    }
}

/// A wire, as the `h2` crate holds it.
pub(super) struct Io<W>(pub(super) W);

impl<W: Deref<Target = Wire<T>> + Unpin, T: Borrow<Transport>> AsyncRead for Io<W> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.0.poll_read(cx, into)
    }
}

impl<W: Deref<Target = Wire<T>> + Unpin, T: Borrow<Transport>> AsyncWrite for Io<W> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        self.0.poll_take(&[IoSlice::new(from)], cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.poll_take(from, cx)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Does nothing: whoever drives the connection sends at the end of a round.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Sends what is left. The transport is closed by whoever owns it.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.note_last_words();
        self.0.poll_send(cx)
    }
}
