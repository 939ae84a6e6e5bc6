//! A connection held for one exchange, and how far the search for it has come.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

use super::introduction::Addresses;
use super::pool::Idle;
use super::slot::Slot;
use super::{Endpoint, Upstream};
use crate::http::client::{RequestWriter, ResponseReader};
use crate::http::h1::client::Connection;
use crate::http::h2::client::Stream;
use crate::outcome::{Carrier, End, Tally};
use crate::runtime::Address;
use crate::sys;
use crate::time::{Deadline, now};
use crate::transport::Transport;

/// How far the search for an endpoint has come, for one exchange.
#[derive(Debug)]
pub struct Attempts {
    /// The endpoint asked last.
    pub(super) asked: Option<usize>,
    /// Those asked before it.
    pub(super) tried: Vec<usize>,
    pub(super) count: u32,
    /// The one asked last is asked once more, over a connection made anew.
    pub(super) fresh: bool,
    pub(super) repeatable: bool,
    /// See [`Self::over_http1`].
    pub(super) needs_http1: bool,
    /// What it has to do with, where endpoints are chosen by that.
    pub(super) key: Option<u64>,
    /// The endpoint its client is bound to.
    pub(super) bound: Option<usize>,
    /// When it has waited long enough for a place at an endpoint.
    pub(super) waits_until: Option<Deadline>,
    /// An endpoint had refused what it was sent.
    was_refused: bool,
    /// See [`Self::lost`].
    was_lost: bool,
    /// Connections that went away before they had got to it.
    overtaken: u32,
    /// How many endpoints may be asked.
    pub(super) endpoints_max: usize,
    stops_at_failure: bool,
    /// Whom the endpoint is told of, where it is told.
    pub(super) client: Option<Addresses>,
    failed: Vec<(Arc<str>, End)>,
}

impl Attempts {
    /// None was asked yet.
    pub(super) fn new(repeatable: bool) -> Self {
        Self {
            asked: None,
            tried: Vec::new(), // takes memory once there is something in it
            count: 0,
            fresh: false,
            repeatable,
            needs_http1: false,
            key: None,
            bound: None,
            waits_until: None,
            was_refused: false,
            was_lost: false,
            overtaken: 0,
            endpoints_max: usize::MAX,
            stops_at_failure: false,
            client: None,
            failed: Vec::new(),
        }
    }

    /// For this client, which an endpoint that is sent the PROXY header is told of.
    pub fn on_behalf_of(&mut self, client: Option<Addresses>) {
        self.client = client;
    }

    /// Asks so many endpoints at most, and none after one that cannot be connected to unless
    /// `goes_on`.
    pub fn limit(&mut self, endpoints_max: usize, goes_on: bool) {
        self.endpoints_max = endpoints_max;
        self.stops_at_failure = !goes_on;
    }

    /// An attempt has failed; whether another may follow where it could not be connected.
    pub(super) fn failed(&mut self, endpoint: &Endpoint, end: End) -> bool {
        self.failed.push((endpoint.shared_name(), end));
        !self.stops_at_failure
    }

    /// An endpoint that was connected to is given up: the next one is another.
    pub fn elsewhere(&mut self, endpoint: &Endpoint, end: End) {
        self.failed.push((endpoint.shared_name(), end));
        self.fresh = false;
    }

    /// The endpoint asked last is asked once more, because its connection had been closed.
    pub fn again(&mut self, endpoint: &Endpoint, end: End) {
        self.failed.push((endpoint.shared_name(), end));
    }

    /// The endpoint asked last is connected to once more: the kernel refused the connection's keys.
    pub(super) fn reconnects(&mut self, endpoint: &Endpoint, end: End) {
        self.failed.push((endpoint.shared_name(), end));
        self.count += 1;
    }

    /// The kernel refused the connection's keys before anything was sent on it: the endpoint is asked once
    /// more, over one that does not go there.
    pub fn lost(&mut self, endpoint: &Endpoint, end: End) {
        self.failed.push((endpoint.shared_name(), end));
        self.was_lost = true;
        self.fresh = true;
    }

    /// Whether [`Self::lost`] was called.
    pub fn was_lost(&self) -> bool {
        self.was_lost
    }

    /// Whether the endpoint asked last would be asked once more, over another connection.
    pub fn is_asked_again(&self) -> bool {
        self.fresh
    }

    /// Another endpoint is asked beside the one asked last.
    pub fn beside(&mut self) {
        self.fresh = false;
    }

    /// Whether its client was sent to an endpoint before.
    pub fn is_bound(&self) -> bool {
        self.bound.is_some()
    }

    /// The attempts that failed and that nobody was told of yet: which endpoint, how.
    pub fn take_failed(&mut self) -> Vec<(Arc<str>, End)> {
        std::mem::take(&mut self.failed)
    }

    /// Asks over HTTP/1.1, whatever the upstream speaks: for an upgrade, which HTTP/2 has no way to say.
    pub fn over_http1(&mut self) {
        self.needs_http1 = true;
    }

    /// Where endpoints are chosen by hash: by this one.
    pub fn belongs_to(&mut self, key: Option<u64>) {
        self.key = key;
    }

    /// The endpoint the client was sent to before, which is asked first.
    pub fn is_bound_to(&mut self, endpoint: Option<usize>) {
        self.bound = endpoint;
    }

    /// The endpoint asked last has not looked at what it was sent: it is asked once more.
    pub fn refused(&mut self, endpoint: &Endpoint, end: End) {
        self.failed.push((endpoint.shared_name(), end));
        self.was_refused = true;
        self.fresh = true;
    }

    /// Whether an endpoint had not looked at it, and was asked once more.
    pub fn was_refused(&self) -> bool {
        self.was_refused
    }

    /// The connection went away before the endpoint had got to what it was sent: it is asked once more.
    pub fn overtaken(&mut self, endpoint: &Endpoint, end: End) {
        self.failed.push((endpoint.shared_name(), end));
        self.overtaken += 1;
        self.fresh = true;
    }

    /// How often [`Self::overtaken`] was called.
    pub fn times_overtaken(&self) -> u32 {
        self.overtaken
    }

    /// How many connections were tried, idle ones included.
    pub fn count(&self) -> u32 {
        self.count
    }
}

/// A connection to an endpoint, or a stream of one, held for one exchange; closed when dropped.
pub struct Lease<'u> {
    upstream: &'u Upstream,
    endpoint: &'u Endpoint,
    /// Its place at the endpoint, once it is handed out.
    slot: Option<Slot<'u>>,
    /// The endpoint's index, if the client is to be bound to it.
    binds: Option<usize>,
    held: Held,
    address: Address,
    /// When the connection was made.
    opened: Instant,
    is_reused: bool,
}

/// What carries the exchange.
pub(super) enum Held {
    /// A connection for it alone.
    Http1(Box<Connection>),
    /// A stream beside others.
    Http2(Box<Stream>),
}

/// What was moved on a connection up to a moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moved {
    /// Bytes read.
    pub bytes_in: u64,
    /// Bytes written.
    pub bytes_out: u64,
    /// How.
    pub tally: Tally,
}

impl<'u> Lease<'u> {
    pub(super) fn new(
        upstream: &'u Upstream,
        endpoint: &'u Endpoint,
        held: Held,
        address: Address,
        opened: Instant,
        is_reused: bool,
    ) -> Self {
        endpoint.counters().leased(is_reused);
        Self {
            upstream,
            endpoint,
            slot: None,
            binds: None,
            held,
            address,
            opened,
            is_reused,
        }
    }

    /// Hands it out: the exchange has this place for as long as it has the lease.
    pub(super) fn in_slot(mut self, slot: Slot<'u>, attempts: &Attempts) -> Self {
        self.binds = attempts.asked.filter(|asked| attempts.bound != Some(*asked));
        self.slot = Some(slot);
        self
    }

    /// What binds the client to this endpoint, if it is not bound to it yet: the value of Set-Cookie.
    /// `is_https` tells whether it came by that.
    pub fn binding(&self, is_https: bool) -> Option<String> {
        let sticky = self.upstream.settings.sticky.as_ref()?;
        Some(sticky.set_cookie(self.binds?, is_https))
    }

    /// The two directions of the exchange, to be driven by one task.
    pub fn exchange(&mut self) -> (RequestWriter<'_>, ResponseReader<'_>) {
        match &mut self.held {
            Held::Http1(connection) => {
                let (writer, reader) = connection.exchange();
                (RequestWriter::H1(writer), ResponseReader::H1(reader))
            }
            Held::Http2(stream) => {
                let (writer, reader) = stream.exchange();
                (RequestWriter::H2(writer), ResponseReader::H2(reader))
            }
        }
    }

    fn transport(&self) -> &Transport {
        match &self.held {
            Held::Http1(connection) => connection.transport(),
            Held::Http2(stream) => stream.transport(),
        }
    }

    /// The endpoint it leads to.
    pub fn endpoint(&self) -> &'u Endpoint {
        self.endpoint
    }

    /// Whether others are sent elsewhere as long as there are others: its endpoint is down or ejected, and that
    /// is looked at (not in a panic).
    pub fn is_left_alone(&self) -> bool {
        !self.upstream.is_available(self.endpoint)
    }

    /// Whether it has served another exchange before.
    pub fn is_reused(&self) -> bool {
        self.is_reused
    }

    /// Whether it has, and nothing has come on it since it was idle. To be asked once the exchange has broken
    /// off, without an answer.
    pub fn was_idle(&self) -> bool {
        self.is_reused
            && match &self.held {
                Held::Http1(_) => true,
                Held::Http2(stream) => stream.is_unheard(),
            }
    }

    /// Whether the endpoint may turn out not to have looked at what is sent: the connection may be
    /// closed by now, or the stream be refused.
    pub fn may_be_refused(&self) -> bool {
        self.is_reused || matches!(self.held, Held::Http2(_))
    }

    /// Whether the endpoint takes no more on the connection, though others on it are still answered.
    pub fn is_going_away(&self) -> bool {
        match &self.held {
            Held::Http1(_) => false,
            Held::Http2(stream) => stream.is_retired(),
        }
    }

    /// How much was written on it, all exchanges together.
    pub fn written(&self) -> u64 {
        self.transport().bytes_out()
    }

    /// How much of what was sent the endpoint's kernel has taken, as far as that is known: not
    /// where the connection is a Unix socket, or carries other exchanges beside this.
    pub fn acknowledged(&self) -> Option<u64> {
        match &self.held {
            Held::Http1(connection) => sys::tcp_bytes_acked(connection.transport().socket().as_fd()),
            Held::Http2(_) => None,
        }
    }

    /// Who makes its TLS records.
    pub fn carrier(&self) -> Carrier {
        self.transport().carriage().carrier.get()
    }

    /// What was moved before this exchange, which is about to begin: for [`Self::moved_since`]. Nothing on a connection
    /// that was made for it; what became of that in its handshake is the exchange's.
    pub fn moved_before(&self) -> Moved {
        match self.is_reused {
            true => self.moved(),
            false => Moved::default(),
        }
    }

    fn moved(&self) -> Moved {
        let transport = self.transport();
        Moved {
            bytes_in: transport.bytes_in(),
            bytes_out: transport.bytes_out(),
            tally: transport.carriage().tally(),
        }
    }

    /// What was moved since. On a connection that others use at the same time: all that nobody has
    /// been told of yet.
    pub fn moved_since(&self, before: &Moved) -> Moved {
        let after = self.moved();
        let (bytes_in, bytes_out) = match &self.held {
            Held::Http1(_) => (
                after.bytes_in - before.bytes_in,
                after.bytes_out - before.bytes_out,
            ),
            Held::Http2(stream) => stream.take_moved(),
        };
        Moved {
            bytes_in,
            bytes_out,
            tally: after.tally,
        }
    }

    /// Leaves the connection to the next exchange, if it can serve one.
    pub fn give_back(self) {
        let settings = &self.upstream.settings;
        match self.held {
            Held::Http1(connection)
                if connection.is_reusable()
                    && settings.proxy_protocol.is_none() // it is one client's
                    && self.endpoint.still_has(&self.address) =>
            {
                self.endpoint.pool.give_back(
                    Idle {
                        connection,
                        address: self.address,
                        since: now(),
                        opened: self.opened,
                    },
                    settings.pool_idle_max,
                    settings.pool_times(),
                );
            }
            // A stream frees its place when it is dropped.
            Held::Http1(_) | Held::Http2(_) => {}
        }
    }
}
