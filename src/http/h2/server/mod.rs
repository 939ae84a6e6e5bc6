//! One downstream HTTP/2 connection: requests side by side, each a future of the connection's task.

mod body;
mod respond;
mod stream;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::FuturesUnordered;
use h2::Reason;
use h2::server::{Builder, Connection};

pub use self::body::RequestBody;
pub use self::respond::Responder;
use self::stream::Shared;
use super::super::{Service, Settings};
use super::signal::Signal;
use super::timer::Timer;
use super::wire;
use super::{FIELD_OVERHEAD, WINDOW_BYTES_MIN, cause_of};
use crate::buffer::Buffer;
use crate::drain::Drain;
use crate::outcome::{Cause, End, Phase, Side};
use crate::runtime::before;
use crate::time::{Deadline, now};
use crate::transport::Transport;

type Wire<'c> = wire::Wire<&'c Transport>;
type Io<'w, 'c> = wire::Io<&'w Wire<'c>>;

/// Bytes of a response that may wait for their turn on the connection, for each stream.
const SEND_BUFFER_BYTES: usize = 64 * 1024;

/// How much of the window for all bodies one of them may fill. So many that nobody takes hold up the others, which is
/// what keeps the memory of a connection in its bound; [`super::held`] sees to it that clients are not blamed for that.
const STREAM_WINDOW_DIVISOR: u32 = 4;

/// How many times the window for all bodies the crate may be owed for frames that are smaller than
/// what they cost it, while they wait: with this a stream of messages of 20 bytes can fill its window
/// and is held up by it, as any other, when the endpoint is slow. All of it is some 5 MiB of memory.
const SMALL_DATA_FACTOR: usize = 4;

/// How long a connection may take to hear our goodbye.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(2);

/// Serves exchanges on a connection until it ends; how and why it ended. `input`: what was read of
/// it already.
///
/// Does not close the transport: the caller does.
pub async fn serve(
    transport: &Transport,
    input: Buffer,
    settings: &Settings,
    service: &impl Service,
    drain: &Drain,
) -> End {
    let wire = Wire::to_client(transport, input, settings);
    let shared = Shared {
        settings,
        wire: &wire,
        gone: Default::default(),
        discarding: Default::default(),
    };
    let connection = match shake(&wire, settings).await {
        Ok(connection) => connection,
        Err(end) => return end,
    };
    let mut driver = Driver {
        shared: &shared,
        connection,
        signal: Signal::new(),
        streams: FuturesUnordered::new(),
        streams_signal: Signal::new(),
        idle_since: Some(now()),
        goodbye: None,
        timer: Timer::default(),
        drain,
        draining: Box::pin(drain.started()),
        is_draining: false,
        is_leaving: false,
        must_end: false,
    };
    poll_fn(|cx| driver.poll(service, cx)).await
}

/// Exchanges the first words: our settings, the client's preface.
async fn shake<'w, 'c>(
    wire: &'w Wire<'c>,
    settings: &Settings,
) -> Result<Connection<Io<'w, 'c>, Bytes>, End> {
    let end = |cause| End::new(Side::Downstream, Phase::Request, cause);
    let mut handshake = pin!(builder(settings).handshake(wire::Io(wire)));
    let shaken = poll_fn(|cx| {
        wire.begin_round();
        let shaken = handshake.as_mut().poll(cx);
        // Our settings go out at once: a client may wait for them.
        match wire.poll_send(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(Cause::of(&error))),
            _ => shaken.map_err(|_| wire.failed().unwrap_or(Cause::Malformed)),
        }
    });
    match before(Deadline::within(settings.header_timeout), shaken).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(_)) if wire.has_ended() => Err(end(Cause::Closed)),
        Ok(Err(cause)) => Err(end(cause)),
        Err(_) => Err(end(Cause::TimedOut)),
    }
}

fn builder(settings: &Settings) -> Builder {
    let limits = &settings.h2;
    let head_bytes = settings.head_bytes_max + settings.fields_max * FIELD_OVERHEAD;
    let resets = usize::try_from(limits.resets_max).unwrap_or(usize::MAX);
    let window = limits.window();
    let small = usize::try_from(window).map_or(usize::MAX, |window| window.saturating_mul(SMALL_DATA_FACTOR));
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(limits.streams_max)
        .initial_connection_window_size(window)
        .initial_window_size((limits.window_bytes / STREAM_WINDOW_DIVISOR).max(WINDOW_BYTES_MIN))
        .max_header_list_size(u32::try_from(head_bytes).unwrap_or(u32::MAX))
        .max_send_buffer_size(SEND_BUFFER_BYTES)
        .data_frame_budget(small)
        .enable_connect_protocol()
        .max_pending_accept_reset_streams(resets)
        .max_local_error_reset_streams(Some(resets));
    builder
}

/// A connection at work: what the client sends, the requests under way, and time.
struct Driver<'d> {
    shared: &'d Shared<'d>,
    connection: Connection<Io<'d, 'd>, Bytes>,
    signal: Signal,
    /// Requests under way; as many as the client was allowed to open.
    streams: FuturesUnordered<LocalBoxFuture<'d, ()>>,
    streams_signal: Signal,
    /// Since when there is no request.
    idle_since: Option<Instant>,
    /// What the connection is being ended by, and until when it may hear so.
    goodbye: Option<(End, Deadline)>,
    timer: Timer,
    drain: &'d Drain,
    /// Waits for the next step of the drain.
    draining: LocalBoxFuture<'d, ()>,
    is_draining: bool,
    /// The client was told to go.
    is_leaving: bool,
    /// Without a request it ends at once.
    must_end: bool,
}

impl<'d> Driver<'d> {
    fn poll<S: Service>(&mut self, service: &'d S, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            self.signal.begin(cx);
            self.streams_signal.begin(cx);
            if let Poll::Ready(end) = self.round(service, cx) {
                return Poll::Ready(end);
            }
            if !(self.signal.end() | self.streams_signal.end()) {
                return Poll::Pending;
            }
        }
    }

    /// Does all that can be done now.
    fn round<S: Service>(&mut self, service: &'d S, cx: &mut Context<'_>) -> Poll<End> {
        if self.poll_drain(cx).is_ready() {
            return Poll::Ready(self.cut());
        }
        loop {
            let (is_called, are_called) = (self.signal.take(), self.streams_signal.take());
            if is_called && let Poll::Ready(end) = self.poll_connection(service) {
                return Poll::Ready(end);
            }
            if is_called || are_called {
                self.poll_streams();
                continue;
            }
            if !self.is_leaving && self.shared.wire.transport().is_worn() {
                self.leave();
                continue;
            }
            // Last, so that what all requests had to say leaves in one record and one call.
            self.send();
            match self.poll_time(cx) {
                Time::Enough => return Poll::Pending,
                Time::Over(end) => return Poll::Ready(end),
                Time::Passed => self.signal.set(), // what was said has to go out
            }
        }
    }

    /// Reads what came, begins requests, and gathers what is ready to be sent.
    fn poll_connection<S: Service>(&mut self, service: &'d S) -> Poll<End> {
        let waker = self.signal.waker();
        let cx = &mut Context::from_waker(&waker);
        self.shared.wire.begin_round();
        let over = loop {
            let accepted = pin!(self.connection.accept()).poll(cx);
            match accepted {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    self.shared.wire.worked();
                    self.shared.wire.begin(respond.stream_id().into());
                    self.idle_since = None;
                    let stream = stream::serve(request, respond, self.shared, service);
                    self.streams.push(Box::into_pin(
                        Box::write(Box::new_uninit(), stream) as Box<dyn Future<Output = ()>>
                    ));
                    self.streams_signal.set();
                }
                Poll::Ready(Some(Err(error))) => break Some(self.ended(Some(&error))),
                Poll::Ready(None) => break Some(self.ended(None)),
                Poll::Pending => break None,
            }
        };
        self.shared.wire.has_left();
        for (_, cause) in self.shared.wire.take_refused() {
            service.stream_refused(cause);
        }
        if let Some(end) = over {
            return Poll::Ready(end);
        }
        if let (Some(cause), None) = (self.shared.wire.failed(), &self.goodbye) {
            self.say_goodbye(Reason::ENHANCE_YOUR_CALM, self.client_end(cause));
        }
        Poll::Pending
    }

    /// Sends what was gathered, as far as the client takes it.
    fn send(&self) {
        let waker = self.signal.waker();
        let sent = self.shared.wire.poll_send(&mut Context::from_waker(&waker));
        // An error is told by the next look at the connection, which it calls for; once a goodbye is said
        // there is nothing more to be told.
        if matches!(sent, Poll::Ready(Err(_))) && self.goodbye.is_none() {
            self.signal.set();
        }
    }

    fn poll_streams(&mut self) {
        let waker = self.streams_signal.waker();
        let cx = &mut Context::from_waker(&waker);
        while let Poll::Ready(Some(())) = self.streams.poll_next_unpin(cx) {
            if self.streams.is_empty() {
                self.idle_since = Some(now());
            }
        }
    }

    /// Tells the client to open no more requests: GOAWAY, which refuses nothing yet, and a PING. What the client
    /// had sent before it heard is served.
    fn leave(&mut self) {
        self.is_leaving = true;
        self.connection.graceful_shutdown();
        self.signal.set();
    }

    /// Tells the client to leave; later, ends a connection without requests; at last is ready, and everything ends.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            std::task::ready!(self.draining.as_mut().poll(cx));
            if !self.is_draining {
                self.is_draining = true;
                self.draining = Box::pin(self.drain.idle_ends());
                self.leave();
            } else if !self.must_end {
                self.must_end = true;
                self.draining = Box::pin(self.drain.cut());
            } else {
                return Poll::Ready(());
            }
        }
    }

    /// Ends what is under way. The client hears of it, as far as its socket takes that at once: nothing is
    /// waited for any more.
    fn cut(&mut self) -> End {
        let cx = &mut Context::from_waker(Waker::noop());
        self.shared.wire.close_ears();
        let end = self.end_streams(End::new(Side::Atlas, Phase::Close, Cause::Cut));
        // The crate resets streams that were dropped when it is looked at, but not behind its GOAWAY.
        let _ = pin!(self.connection.accept()).poll(cx);
        self.connection.abrupt_shutdown(Reason::NO_ERROR);
        let _ = pin!(self.connection.accept()).poll(cx);
        let _ = self.shared.wire.poll_send(cx);
        end
    }

    /// Looks at the next moment by which something has to have happened.
    fn poll_time(&mut self, cx: &mut Context<'_>) -> Time {
        loop {
            let Some((deadline, owed)) = self.next_deadline() else {
                return Time::Enough;
            };
            if self.timer.poll(deadline, cx).is_pending() {
                return Time::Enough;
            }
            if deadline.passed(now()) {
                return self.missed(owed);
            }
        }
    }

    fn next_deadline(&self) -> Option<(Deadline, Owed)> {
        let settings = self.shared.settings;
        if let Some((_, deadline)) = self.goodbye {
            return Some((deadline, Owed::Goodbye));
        }
        let (frame, space) = self.shared.wire.deadlines(settings.header_timeout);
        let is_idle = self.streams.is_empty() && !self.shared.wire.is_sending();
        let idle = self
            .idle_since
            .filter(|_| is_idle)
            .map(|since| match self.must_end {
                true => Deadline::after(since, Duration::ZERO),
                false => Deadline::after(since, settings.idle_timeout),
            });
        let all = [(frame, Owed::Frame), (space, Owed::Space), (idle, Owed::Request)];
        let known = all
            .into_iter()
            .filter_map(|(deadline, owed)| Some((deadline?, owed)));
        known.min_by_key(|(deadline, _)| *deadline)
    }

    /// The client has not done in time what it owed.
    fn missed(&mut self, owed: Owed) -> Time {
        let (reason, end) = match (owed, self.goodbye) {
            (Owed::Goodbye, Some((end, _))) => return Time::Over(self.end_streams(end)),
            // It would not take a goodbye either.
            (Owed::Space | Owed::Goodbye, _) => {
                let end = End::new(Side::Downstream, Phase::Response, Cause::TimedOut);
                return Time::Over(self.end_streams(end));
            }
            (Owed::Frame, _) => (
                Reason::ENHANCE_YOUR_CALM,
                End::new(Side::Downstream, Phase::Request, Cause::TimedOut),
            ),
            (Owed::Request, _) if self.must_end => (
                Reason::NO_ERROR,
                End::new(Side::Atlas, Phase::Idle, Cause::Drained),
            ),
            (Owed::Request, _) => (Reason::NO_ERROR, End::new(Side::Atlas, Phase::Idle, Cause::Idle)),
        };
        self.say_goodbye(reason, end);
        Time::Passed
    }

    /// Ends the connection with a word of why; what is under way ends with it.
    fn say_goodbye(&mut self, reason: Reason, end: End) {
        self.shared.wire.close_ears();
        self.connection.abrupt_shutdown(reason);
        self.signal.set();
        self.goodbye = Some((end, Deadline::within(GOODBYE_TIMEOUT)));
        self.end_streams(end);
    }

    /// The connection is over for the requests that are under way.
    fn end_streams(&mut self, end: End) -> End {
        self.shared.gone.set(Some(end));
        self.streams.clear();
        end
    }

    /// How the connection ended.
    fn ended(&mut self, error: Option<&h2::Error>) -> End {
        let end = match (self.goodbye, self.shared.wire.failed(), error) {
            (Some((end, _)), _, _) => end,
            (None, Some(cause), _) => self.client_end(cause),
            (None, None, Some(error)) => self.client_end(cause_of(error, self.shared.wire)),
            (None, None, None) if self.shared.wire.has_ended() => self.client_end(match self.is_answered() {
                true => Cause::Finished,
                false => Cause::Closed,
            }),
            (None, None, None) if self.is_draining => End::new(Side::Atlas, Phase::Done, Cause::Drained),
            (None, None, None) => End::finished(Side::Downstream),
        };
        self.end_streams(end)
    }

    fn client_end(&self, cause: Cause) -> End {
        let phase = match self.is_answered() {
            true => Phase::Idle,
            false => Phase::Response,
        };
        End::new(Side::Downstream, phase, cause)
    }

    /// Whether nothing is owed to the client.
    fn is_answered(&self) -> bool {
        self.streams.len() <= self.shared.discarding.get()
    }
}

/// What the client has to do by a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owed {
    /// The rest of a frame, or of a block of fields.
    Frame,
    /// To take some of what is sent.
    Space,
    /// A request.
    Request,
    /// To take our goodbye.
    Goodbye,
}

/// What has become of the time.
enum Time {
    /// There is enough of it.
    Enough,
    /// Something was said because of it.
    Passed,
    /// The connection ends.
    Over(End),
}

#[cfg(test)]
mod tests;
