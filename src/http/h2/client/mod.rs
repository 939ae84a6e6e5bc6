//! One upstream HTTP/2 connection: requests side by side, driven by a task of its own.

mod bell;
mod driver;
mod reader;
mod stream;
mod writer;

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::Reason;
use h2::client::{Builder, SendRequest};

pub use self::bell::{Bell, Called};
pub use self::reader::ResponseReader;
pub use self::stream::Stream;
pub use self::writer::RequestWriter;
use super::super::h1::client::Settings;
use super::FIELD_OVERHEAD;
use super::signal::Signal;
use super::wire::Io;
use crate::outcome::{Cause, End, Phase, Side};
use crate::runtime::before;
use crate::time::{Deadline, now};
use crate::transport::Transport;

type Wire = super::wire::Wire<Transport>;

/// Requests under way at a time, if the endpoint takes as many: what RFC 9113 §6.5.2 wants any server
/// to take at the least.
const STREAMS_MAX: u32 = 100;

/// Bytes of all responses on a connection that may wait until their clients take them. A stream's part of it is
/// 256 KiB: with half of that a download over loopback takes a tenth longer, with a quarter a third.
pub const WINDOW_BYTES: u32 = 25 * 1024 * 1024;

/// A stream's part of them at the least: what RFC 9113 §6.9.2 has every stream begin with.
const STREAM_WINDOW_BYTES_MIN: u32 = 65_535;

/// How many times all windows the crate may be owed for frames that are smaller than what they cost it,
/// while they wait: the streams of a service that says little at a time are held up by their windows then,
/// as any other, when its clients are slow.
const SMALL_DATA_FACTOR: usize = 4;

/// The same in bytes, at the least: a frame of one byte costs nearly 1 KiB of it, and one stream may be full of them.
const SMALL_DATA_BYTES_MIN: usize = 100 * 1024 * 1024;

/// Bytes of a request that may wait for their turn on the connection, for each stream.
const SEND_BUFFER_BYTES: usize = 64 * 1024;

/// An upstream HTTP/2 connection; closed when it is dropped and its last stream has ended.
pub struct Connection {
    state: Rc<State>,
    /// Goes with this handle: without it and without streams the driver says goodbye.
    send: SendRequest<Bytes>,
}

/// What the connection's task, its streams and whoever opens them share.
struct State {
    wire: Rc<Wire>,
    settings: Settings,
    is_secure: bool,
    /// Streams that find room in the connection's window.
    room: usize,
    /// Streams the endpoint allows at a time; 0 until it has said so.
    streams_max: Cell<usize>,
    open: Cell<usize>,
    /// Since when no stream is open.
    idle_since: Cell<Instant>,
    /// Bytes read when the first of the streams began that are open.
    heard_when_idle: Cell<u64>,
    served: Cell<bool>,
    is_retired: Cell<bool>,
    /// It has let a deadline pass, or another has turned out to be dead: it has to answer a PING before it is used
    /// again.
    is_suspected: Cell<bool>,
    gone: Cell<Option<End>>,
    /// Bytes read and written that have been counted.
    told: Cell<(u64, u64)>,
    /// Who waits for it to be open.
    opener: RefCell<Option<Waker>>,
    driver: Waker,
    bell: Rc<Bell>,
}

impl Connection {
    /// Says the first words, and waits until the endpoint has said how many streams it allows. Of all
    /// responses so many bytes may wait. The bell is rung when streams may be had that could not before.
    ///
    /// # Errors
    ///
    /// `Upstream Connect …`: `TimedOut`, `Closed`, `Reset`, `Malformed` (it does not speak HTTP/2), or
    /// what there was too much of.
    pub async fn open(
        transport: Transport,
        settings: Settings,
        window_bytes: u32,
        is_secure: bool,
        bell: Rc<Bell>,
        deadline: Deadline,
    ) -> Result<Self, End> {
        let fail = |cause| End::new(Side::Upstream, Phase::Connect, cause);
        let windows = Windows::of(window_bytes);
        let builder = builder(&settings, &windows);
        let limits = super::Settings::default();
        let wire = Rc::new(Wire::to_endpoint(transport, settings.idle_timeout, &limits));
        // It only writes, into memory.
        let shaken = builder.handshake(Io(wire.clone())).await;
        let (send, connection) = shaken.map_err(|_| fail(Cause::System))?;
        let signal = Signal::new();
        let state = Rc::new(State {
            wire,
            settings,
            is_secure,
            room: windows.streams,
            streams_max: Cell::new(0),
            open: Cell::new(0),
            idle_since: Cell::new(now()),
            heard_when_idle: Cell::new(0),
            served: Cell::new(false),
            is_retired: Cell::new(false),
            is_suspected: Cell::new(false),
            gone: Cell::new(None),
            told: Cell::new((0, 0)),
            opener: RefCell::default(),
            driver: signal.waker(),
            bell,
        });
        driver::start(connection, signal, state.clone());
        let opened = Self { state, send };
        match before(deadline, poll_fn(|cx| opened.poll_open(cx))).await {
            Ok(Ok(())) => Ok(opened),
            Ok(Err(cause)) => Err(fail(cause)),
            Err(_) => Err(fail(Cause::TimedOut)),
        }
    }

    fn poll_open(&self, cx: &Context<'_>) -> Poll<Result<(), Cause>> {
        let state = &self.state;
        if let Some(end) = state.gone.get() {
            return Poll::Ready(Err(match end.cause {
                Cause::Finished => Cause::Closed,
                cause => cause,
            }));
        }
        if state.streams_max.get() > 0 {
            return Poll::Ready(Ok(()));
        }
        state.opener.replace(Some(cx.waker().clone()));
        Poll::Pending
    }

    /// How it ended, once it has.
    pub fn end(&self) -> Option<End> {
        self.state.gone.get()
    }

    /// Whether it has ended before anything came that would show that it was still there when it was used
    /// again.
    pub fn was_dead(&self) -> bool {
        self.state.gone.get().is_some() && self.has_served() && self.state.is_unheard()
    }

    /// Where it is idle, or nothing has come since it was: the endpoint has to answer a PING before more streams
    /// are opened on it.
    pub fn doubt(&self) {
        if self.has_served() && (self.state.open.get() == 0 || self.state.is_unheard()) {
            self.state.suspect();
        }
    }

    /// Whether more streams can be opened on it, now or later: the endpoint has neither closed it nor
    /// told that it will, and answers; its keys are good for more.
    pub fn is_usable(&mut self) -> bool {
        let state = &self.state;
        let is_over =
            state.gone.get().is_some() || state.is_retired.get() || state.wire.transport().is_worn();
        let cx = &mut Context::from_waker(Waker::noop());
        !is_over && !matches!(self.send.poll_ready(cx), Poll::Ready(Err(_)))
    }

    /// Whether the endpoint has closed it, by what the kernel knows; the driver hears of that a little
    /// late. To be asked for a request that cannot be sent again.
    pub fn is_closed_by_now(&self) -> bool {
        self.state.wire.transport().socket().peek() == Some(0)
    }

    /// Whether an exchange has ended on it.
    pub fn has_served(&self) -> bool {
        self.state.served.get()
    }

    /// Since when no stream is open; `None` while there is one.
    pub fn idle_since(&self) -> Option<Instant> {
        (self.state.open.get() == 0).then(|| self.state.idle_since.get())
    }

    /// Streams that can be opened now.
    pub fn room(&self) -> usize {
        let state = &self.state;
        match state.is_suspected.get() {
            true => 0,
            false => {
                let max = state.streams_max.get().min(state.room);
                max.saturating_sub(state.open.get())
            }
        }
    }

    /// A stream for one exchange; to be called where there is [`Self::room`].
    pub fn take(&self) -> Stream {
        Stream::new(self.state.clone(), self.send.clone())
    }
}

/// How the window of a connection is parted among its streams: so that those whose clients take nothing do not
/// hold up the others, there are no more than it has room for.
struct Windows {
    connection: u32,
    stream: u32,
    streams: usize,
}

impl Windows {
    fn of(bytes: u32) -> Self {
        let connection = bytes.max(STREAM_WINDOW_BYTES_MIN);
        let stream = (connection / STREAMS_MAX).max(STREAM_WINDOW_BYTES_MIN);
        Self {
            connection,
            stream,
            streams: (connection / stream) as usize,
        }
    }
}

fn builder(settings: &Settings, windows: &Windows) -> Builder {
    // Twice what is taken: of what is above the crate's own limit it says no more than that it is
    // malformed.
    let head_bytes = 2 * (settings.head_bytes_max + settings.fields_max * FIELD_OVERHEAD);
    let small = SMALL_DATA_FACTOR * windows.connection as usize;
    let mut builder = Builder::new();
    builder
        .enable_push(false)
        // None before its settings have come: which tells that it speaks HTTP/2, too.
        .initial_max_send_streams(0)
        .initial_connection_window_size(windows.connection)
        .initial_window_size(windows.stream)
        .max_header_list_size(u32::try_from(head_bytes).unwrap_or(u32::MAX))
        .data_frame_budget(small.max(SMALL_DATA_BYTES_MIN))
        .max_send_buffer_size(SEND_BUFFER_BYTES);
    builder
}

impl State {
    /// Why a stream cannot be used any more.
    fn cause(&self, error: &h2::Error) -> Cause {
        // RFC 9113 §8.7: what is refused, or behind a GOAWAY's last stream, was not processed.
        if error.is_remote() && error.is_go_away() {
            self.is_retired.set(true);
            return Cause::Unprocessed;
        }
        if error.is_remote() && error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM) {
            return Cause::Unprocessed;
        }
        match self.why_gone().or_else(|| self.wire.failed()) {
            Some(cause) => cause,
            None if error.is_library() => Cause::Malformed,
            None if error.is_io() => Cause::Closed,
            None => Cause::Reset,
        }
    }

    /// Why the connection has ended, if it has, for a stream that had not.
    fn why_gone(&self) -> Option<Cause> {
        self.gone.get().map(|end| match end.cause {
            Cause::Finished | Cause::Idle => Cause::Closed,
            cause => cause,
        })
    }

    /// Nothing has come since no stream was open.
    fn is_unheard(&self) -> bool {
        self.wire.transport().bytes_in() == self.heard_when_idle.get()
    }

    /// Is it still there?
    fn suspect(&self) {
        self.is_suspected.set(true);
        self.driver.wake_by_ref();
    }
}

/// How long an endpoint that has let a deadline pass may take to answer a PING.
const PING_TIMEOUT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_streams_are_opened_than_the_window_has_room_for() {
        const MIB: u32 = 1024 * 1024;
        for (bytes, stream, streams) in [
            (WINDOW_BYTES, 262_144, 100),
            (1024 * MIB, 10_737_418, 100),
            (7 * MIB, 73_400, 100),
            (MIB, 65_535, 16),
            (0, 65_535, 1),
        ] {
            let windows = Windows::of(bytes);
            assert_eq!((windows.stream, windows.streams), (stream, streams), "{bytes}");
            assert!(u64::from(stream) * streams as u64 <= u64::from(windows.connection));
        }
    }
}
