//! The two records. Each is started once, gathers what becomes known, and is finished once.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::log::Log;
use crate::outcome::{Carriage, Carrier, End};
use crate::time::now;

/// What is known of a client's connection, shared by all records on it.
#[derive(Clone, Debug)]
pub struct ConnectionFacts {
    /// The number of the worker, from 0.
    pub worker: usize,
    /// The listener's name.
    pub listener: Arc<str>,
    /// The listener's place in its generation.
    pub listener_index: usize,
    /// The client: what the PROXY header said, else the peer. `None` on Unix sockets.
    pub client: Option<SocketAddr>,
    /// Who connected to us.
    pub peer: Option<SocketAddr>,
    /// What was connected to: what the PROXY header said, else our own address.
    pub local: Option<SocketAddr>,
    /// The name the client asked for in its ClientHello.
    pub server_name: Option<String>,
    /// `TLSv1.3` or `TLSv1.2`.
    pub tls_version: Option<&'static str>,
    /// The cipher suite's IANA name.
    pub cipher: Option<&'static str>,
    /// The application protocol agreed on.
    pub alpn: Option<String>,
    /// Whether a session of before was taken up again.
    pub resumed: bool,
    /// Who makes the TLS records, why not the kernel, and what was moved how: as it stands now.
    pub carriage: Rc<Carriage>,
    /// Streams of HTTP/2 that were refused before they became exchanges, so far.
    pub streams_refused: Cell<u64>,
    /// How the worker learns of its sockets, in a sentence.
    pub driver: Rc<str>,
}

thread_local! {
    static CURRENT: RefCell<Option<Rc<ConnectionFacts>>> = const { RefCell::new(None) };
}

/// The connection this thread works for at this moment, for whoever has to tell of a panic.
pub fn current() -> Option<Rc<ConnectionFacts>> {
    // A panic may come from where the cell is borrowed, or at the end of the thread.
    CURRENT
        .try_with(|current| current.try_borrow().ok()?.clone())
        .ok()
        .flatten()
}

/// Runs a future on behalf of a connection: [`current`] knows it while the future is polled.
pub async fn on_behalf_of<T>(facts: Rc<ConnectionFacts>, future: impl Future<Output = T>) -> T {
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            CURRENT.take();
        }
    }
    let mut future = pin!(future);
    poll_fn(|cx| {
        CURRENT.set(Some(facts.clone()));
        let _reset = Reset;
        future.as_mut().poll(cx)
    })
    .await
}

/// The record of one downstream connection.
#[must_use = "a connection that is not finished leaves no record"]
#[derive(Debug)]
pub struct ConnectionRecord {
    started: Instant,
    /// Plaintext bytes read from the client.
    pub bytes_in: u64,
    /// Plaintext bytes written to the client.
    pub bytes_out: u64,
    /// How the bytes of the connection were moved, where it is relayed.
    pub moved: Moved,
    /// The upstream's name (TCP mode).
    pub upstream: Option<Arc<str>>,
    /// The endpoint (TCP mode).
    pub endpoint: Option<Box<str>>,
    /// Who makes the TLS records of the connection to it (TCP mode).
    pub upstream_carrier: Carrier,
    /// How many endpoints were tried (TCP mode).
    pub attempts: u32,
}

/// How bytes were moved towards their receivers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Between sockets inside the kernel.
    pub spliced: u64,
    /// From a file, inside the kernel.
    pub sendfile: u64,
    /// Through this process's memory.
    pub copied: u64,
}

impl ConnectionRecord {
    /// A connection was accepted at `now`.
    pub fn start(now: Instant) -> Self {
        Self {
            started: now,
            bytes_in: 0,
            bytes_out: 0,
            moved: Moved::default(),
            upstream: None,
            endpoint: None,
            upstream_carrier: Carrier::None,
            attempts: 0,
        }
    }

    /// The connection is over: writes its line.
    pub fn finish(self, end: End, facts: &ConnectionFacts, log: &Log) {
        log.connection(&self, facts, end);
    }

    pub(super) fn took(&self) -> Duration {
        now().saturating_duration_since(self.started)
    }
}

/// The record of one exchange.
#[must_use = "an exchange that is not finished leaves no record"]
#[derive(Debug)]
pub struct ExchangeRecord {
    started: Instant,
    facts: Rc<ConnectionFacts>,
    /// It is of what was sent to a mirror: no client got anything of it.
    pub is_mirror: bool,
    /// The status the client got.
    pub status: Option<u16>,
    /// Bytes of the request's body, without framing.
    pub bytes_in: u64,
    /// Bytes of the response's body, without framing.
    pub bytes_out: u64,
    /// How the bodies were moved.
    pub moved: Moved,
    /// The upstream's name.
    pub upstream: Option<Arc<str>>,
    /// Who makes the TLS records of the connection to the endpoint asked last.
    pub upstream_carrier: Carrier,
    /// How many connections to endpoints the request was tried on.
    pub attempts: u32,
    /// Attempts that others followed, or that ended it: which endpoint, how.
    pub failed: Vec<(Arc<str>, End)>,
}

impl ExchangeRecord {
    /// A request's first byte, or as near to it as is known, came at `now`.
    pub fn start(facts: Rc<ConnectionFacts>, now: Instant) -> Self {
        Self {
            started: now,
            facts,
            is_mirror: false,
            status: None,
            bytes_in: 0,
            bytes_out: 0,
            moved: Moved::default(),
            upstream: None,
            upstream_carrier: Carrier::None,
            attempts: 0,
            failed: Vec::new(),
        }
    }

    /// The connection this exchange is on.
    pub fn facts(&self) -> &Rc<ConnectionFacts> {
        &self.facts
    }

    /// The exchange is over: writes its line.
    pub fn finish(self, end: End, request: &RequestFacts<'_>, log: &Log) {
        log.exchange(&self, &self.facts, request, end);
    }

    pub(super) fn took(&self) -> Duration {
        now().saturating_duration_since(self.started)
    }
}

/// What is borrowed for a moment to write an exchange's line.
#[derive(Clone, Copy)]
pub struct RequestFacts<'r> {
    /// The request line.
    pub request: Request<'r>,
    /// Host and perhaps port.
    pub host: Option<&'r str>,
    /// The value of Referer.
    pub referer: Option<&'r [u8]>,
    /// The value of User-Agent.
    pub user_agent: Option<&'r [u8]>,
    /// The endpoint the response came from, or the last one tried.
    pub endpoint: Option<&'r dyn fmt::Display>,
    /// The id this request is known by on both sides.
    pub request_id: Option<&'r str>,
}

/// A request line, as far as it is known.
#[derive(Clone, Copy, Debug)]
pub enum Request<'r> {
    /// Understood.
    Parsed {
        /// As `GET`.
        method: &'r str,
        /// Path and query as they came.
        path: &'r str,
        /// As `HTTP/1.1`.
        protocol: &'r str,
    },
    /// Not understood: the bytes that came, perhaps none.
    Line(&'r [u8]),
}

impl<'r> RequestFacts<'r> {
    /// Of a request that was refused before its head was understood.
    pub fn refused(line: &'r [u8]) -> Self {
        Self {
            request: Request::Line(line),
            host: None,
            referer: None,
            user_agent: None,
            endpoint: None,
            request_id: None,
        }
    }
}
