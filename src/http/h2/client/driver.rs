//! The task of an upstream connection: reads what comes for all streams, sends what they have, and ends
//! when nobody holds the connection or the endpoint has done what it must not.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::Connection;
use h2::{Ping, PingPong};

use super::super::cause_of;
use super::super::signal::Signal;
use super::super::timer::Timer;
use super::super::wire::Io;
use super::{PING_TIMEOUT, State, Wire};
use crate::outcome::{Cause, End, Phase, Side};
use crate::runtime;
use crate::time::{Deadline, now};

/// How long an endpoint may take to answer our close_notify and FIN with its own.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

type H2 = Connection<Io<Rc<Wire>>, Bytes>;

/// Drives a connection to its end.
pub(super) fn start(mut connection: H2, signal: Signal, state: Rc<State>) {
    let on_panic = state.clone();
    let run = async move {
        let mut driver = Driver {
            ping: connection.ping_pong(),
            connection,
            signal,
            state: &state,
            pinged_at: None,
            timer: Timer::default(),
        };
        let end = poll_fn(|cx| driver.poll(cx)).await;
        over(&state, end);
        drop(driver); // and with it what streams still wait for
        if end.is_good() {
            let transport = state.wire.transport();
            transport.close(Deadline::within(CLOSE_TIMEOUT)).await;
        }
    };
    runtime::spawn(run, move |_| {
        // The panic hook has told what, and where.
        over(&on_panic, End::new(Side::Atlas, Phase::Done, Cause::Panicked));
    });
}

/// Tells everybody that it has ended, and how.
fn over(state: &State, end: End) {
    state.gone.set(Some(end));
    if let Some(opener) = state.opener.take() {
        opener.wake();
    }
    state.bell.ring_all();
}

struct Driver<'s> {
    connection: H2,
    signal: Signal,
    state: &'s State,
    ping: Option<PingPong>,
    /// When the endpoint was asked whether it is still there.
    pinged_at: Option<Instant>,
    timer: Timer,
}

impl Driver<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        self.signal.begin(cx);
        if self.signal.take()
            && let Poll::Ready(end) = self.round()
        {
            return Poll::Ready(end);
        }
        if let Poll::Ready(end) = self.poll_time(cx) {
            return Poll::Ready(end);
        }
        if self.signal.end() {
            cx.waker().wake_by_ref(); // once those have run whom the last round has woken
        }
        Poll::Pending
    }

    /// Does all that can be done now.
    fn round(&mut self) -> Poll<End> {
        let waker = self.signal.waker();
        let cx = &mut Context::from_waker(&waker);
        let wire = &self.state.wire;
        wire.begin_round(); // whom something came for has been woken before us
        if let Poll::Ready(result) = Pin::new(&mut self.connection).poll(cx) {
            return Poll::Ready(self.ended(result.err().as_ref()));
        }
        if let Some(cause) = wire.failed() {
            return Poll::Ready(self.endpoint_end(cause));
        }
        self.note_streams();
        self.poll_ping(cx);
        // An error is told by the next look at the connection, which it calls for.
        if let Poll::Ready(Err(_)) = wire.poll_send(cx) {
            self.signal.set();
        }
        Poll::Pending
    }

    /// How many streams the endpoint allows, if that has changed.
    fn note_streams(&self) {
        let allowed = self.connection.max_concurrent_send_streams();
        let before = self.state.streams_max.replace(allowed);
        if allowed > before {
            self.state.bell.ring(allowed - before);
            if let Some(opener) = self.state.opener.take() {
                opener.wake();
            }
        }
    }

    /// Asks an endpoint that has let a deadline pass whether it is still there.
    fn poll_ping(&mut self, cx: &mut Context<'_>) {
        let Some(ping) = &mut self.ping else {
            return;
        };
        if self.pinged_at.is_none() && self.state.is_suspected.get() && ping.send_ping(Ping::opaque()).is_ok()
        {
            self.pinged_at = Some(now());
            self.signal.set(); // it has to go out
        }
        if self.pinged_at.is_some() && ping.poll_pong(cx).is_ready() {
            self.pinged_at = None;
            self.state.is_suspected.set(false);
            self.state.bell.ring(self.state.streams_max.get());
        }
    }

    /// Looks at the next moment by which the endpoint has to have done something.
    fn poll_time(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            let (frame, space) = self.state.wire.deadlines(self.state.settings.idle_timeout);
            let pong = self.pinged_at.map(|at| Deadline::after(at, PING_TIMEOUT));
            let Some(deadline) = [frame, space, pong].into_iter().flatten().min() else {
                return Poll::Pending;
            };
            std::task::ready!(self.timer.poll(deadline, cx));
            if deadline.passed(now()) {
                return Poll::Ready(self.endpoint_end(Cause::TimedOut));
            }
        }
    }

    /// How the connection ended.
    fn ended(&self, error: Option<&h2::Error>) -> End {
        let wire = &self.state.wire;
        match (wire.failed(), error) {
            (Some(cause), _) => self.endpoint_end(cause),
            (None, Some(error)) => self.endpoint_end(cause_of(error, wire)),
            (None, None) if wire.has_ended() && self.state.open.get() > 0 => self.endpoint_end(Cause::Closed),
            (None, None) if wire.has_ended() => self.endpoint_end(Cause::Finished),
            // Nobody holds it any more, or the endpoint had said goodbye.
            (None, None) => End::new(Side::Atlas, Phase::Idle, Cause::Idle),
        }
    }

    fn endpoint_end(&self, cause: Cause) -> End {
        let phase = match self.state.open.get() {
            0 => Phase::Idle,
            _ => Phase::Response,
        };
        End::new(Side::Upstream, phase, cause)
    }
}
