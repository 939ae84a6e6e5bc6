//! The counters. Each has one writer, so that counting is a load and a store, without contention.

use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::outcome::{Carriage, Carrier, Cause, End, Phase, Refusal, Side, Tally};

/// A number that only one thread changes and any thread reads.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    fn add(&self, count: u64) {
        // One writer: no read-modify-write is needed, and none is paid for.
        self.0.store(self.0.load(Relaxed).wrapping_add(count), Relaxed);
    }

    fn subtract(&self, count: u64) {
        self.0.store(self.0.load(Relaxed).saturating_sub(count), Relaxed);
    }

    fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    pub(super) fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

fn counters(count: usize) -> Box<[Counter]> {
    (0..count).map(|_| Counter::default()).collect()
}

/// Which way bytes went, seen from Atlas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Read from clients.
    FromDownstream,
    /// Written to clients.
    ToDownstream,
    /// Read from endpoints.
    FromUpstream,
    /// Written to endpoints.
    ToUpstream,
}

impl Direction {
    pub(super) const ALL: [Self; 4] = [
        Self::FromDownstream,
        Self::ToDownstream,
        Self::FromUpstream,
        Self::ToUpstream,
    ];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::FromDownstream => "from_downstream",
            Self::ToDownstream => "to_downstream",
            Self::FromUpstream => "from_upstream",
            Self::ToUpstream => "to_upstream",
        }
    }
}

/// Who a connection goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A client.
    Downstream,
    /// An endpoint.
    Upstream,
}

impl Peer {
    pub(super) const ALL: [Self; 2] = [Self::Downstream, Self::Upstream];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Downstream => Side::Downstream.as_str(),
            Self::Upstream => Side::Upstream.as_str(),
        }
    }

    /// The way to it.
    pub(super) const fn direction(self) -> Direction {
        match self {
            Self::Downstream => Direction::ToDownstream,
            Self::Upstream => Direction::ToUpstream,
        }
    }

    const fn side(self) -> Side {
        match self {
            Self::Downstream => Side::Downstream,
            Self::Upstream => Side::Upstream,
        }
    }
}

/// What became of the connections to one kind of peer.
#[derive(Debug, Default)]
pub(super) struct Carried {
    pub(super) spliced: Counter,
    pub(super) sendfile: Counter,
    pub(super) key_updates_received: Counter,
    pub(super) key_updates_sent: Counter,
    pub(super) promotions_done: Counter,
    pub(super) promotions_failed: Counter,
    pub(super) records_received: Counter,
    pub(super) records_sent: Counter,
}

/// The TLS versions handshakes are told apart by; the last is for those that agreed on none.
pub(super) const TLS_VERSIONS: [&str; 3] = ["TLSv1.2", "TLSv1.3", "none"];

/// The versions of HTTP requests come by, in their order.
pub(super) const PROTOCOLS: [&str; 3] = ["HTTP/1.0", "HTTP/1.1", "HTTP/2.0"];

/// Classes of response statuses; the first is for exchanges without a response.
pub(super) const STATUS_CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// Every carrier with every refusal it can have.
pub(super) fn carriers() -> Vec<Carrier> {
    let process = Refusal::ALL.iter().map(|refusal| Carrier::Process(*refusal));
    [Carrier::None, Carrier::Kernel]
        .into_iter()
        .chain(process)
        .collect()
}

/// What one worker counts. Only that worker may write; anybody may read.
#[derive(Debug)]
pub struct Counters {
    worker: usize,
    listeners: Named<ListenerCounters>,
    upstreams: Named<UpstreamCounters>,
    handshakes: Box<[Counter]>,
    handshakes_resumed: Counter,
    /// For each kind of peer.
    carriers: [Box<[Counter]>; Peer::ALL.len()],
    connections: Ends,
    exchanges: Ends,
    streams_refused: Box<[Counter]>,
    responses: [Counter; STATUS_CLASSES.len()],
    requests: [Counter; PROTOCOLS.len()],
    bytes: [Counter; Direction::ALL.len()],
    moved: [Carried; Peer::ALL.len()],
    records_dropped: Counter,
    tunnels: Counter,
}

impl Default for Counters {
    fn default() -> Self {
        Self::new()
    }
}

impl Counters {
    /// Everything at zero.
    pub fn new() -> Self {
        Self::of_worker(0)
    }

    /// Those of the worker of this number.
    pub fn of_worker(worker: usize) -> Self {
        Self {
            worker,
            listeners: Named::default(),
            upstreams: Named::default(),
            handshakes: counters(TLS_VERSIONS.len() * Cause::ALL.len()),
            handshakes_resumed: Counter::default(),
            carriers: Peer::ALL.map(|_| counters(carriers().len())),
            connections: Ends::new(),
            exchanges: Ends::new(),
            streams_refused: counters(Cause::ALL.len()),
            responses: Default::default(),
            requests: Default::default(),
            bytes: Default::default(),
            moved: Default::default(),
            records_dropped: Counter::default(),
            tunnels: Counter::default(),
        }
    }

    /// The counters of a listener, made when first asked for. Ask once and keep them: it is a search.
    pub fn listener(&self, name: &Arc<str>) -> Arc<ListenerCounters> {
        self.listeners.find_or_add(name)
    }

    /// The counters of an upstream, made when first asked for. Ask once and keep them: it is a search.
    pub fn upstream(&self, name: &Arc<str>) -> Arc<UpstreamCounters> {
        let counters = self.upstreams.find_or_add(name);
        counters.worker.store(self.worker, Relaxed);
        counters
    }

    /// A handshake with a client went through; `version` as `TLSv1.3`.
    pub fn handshake_finished(&self, version: &str, resumed: bool) {
        self.handshake(version, Cause::Finished);
        if resumed {
            self.handshakes_resumed.add(1);
        }
    }

    /// A handshake with a client did not go through.
    pub fn handshake_failed(&self, cause: Cause) {
        self.handshake("none", cause);
    }

    fn handshake(&self, version: &str, cause: Cause) {
        let last = TLS_VERSIONS.len() - 1;
        let row = TLS_VERSIONS
            .iter()
            .position(|known| *known == version)
            .unwrap_or(last);
        self.handshakes[row * Cause::ALL.len() + cause as usize].add(1);
    }

    /// A client's connection has ended, or what was asked of an endpoint over one, that this one had carried at
    /// that end.
    pub fn carried(&self, peer: Peer, carrier: Carrier) {
        let at = match carrier {
            Carrier::None => 0,
            Carrier::Kernel => 1,
            Carrier::Process(refusal) => 2 + refusal as usize,
        };
        self.carriers[peer as usize][at].add(1);
    }

    /// A downstream connection ended.
    pub fn connection_ended(&self, end: End) {
        self.connections.count(end);
    }

    /// An exchange ended, with the status the client got, if it got one.
    pub fn exchange_ended(&self, end: End, status: Option<u16>) {
        self.exchanges.count(end);
        let class = status.map_or(0, |status| usize::from(status / 100));
        self.responses[class.min(STATUS_CLASSES.len() - 1)].add(1);
    }

    /// A stream of HTTP/2 was refused before it became an exchange.
    pub fn stream_refused(&self, cause: Cause) {
        self.streams_refused[cause as usize].add(1);
    }

    /// A request came by the version of HTTP that has this number in their order, from HTTP/1.0 on.
    pub fn request_came(&self, protocol: usize) {
        if let Some(counter) = self.requests.get(protocol) {
            counter.add(1);
        }
    }

    /// Plaintext bytes went through.
    pub fn bytes_moved(&self, direction: Direction, count: u64) {
        self.bytes[direction as usize].add(count);
    }

    /// How a connection was carried between two moments, and how it ended if it did at the second:
    /// what is told of [`Self::bytes_moved`] besides.
    pub fn carried_since(&self, peer: Peer, before: Tally, now: Tally, end: Option<End>) {
        let carried = &self.moved[peer as usize];
        carried.spliced.add(now.spliced - before.spliced);
        carried.sendfile.add(now.sendfile - before.sendfile);
        let received = now.key_updates_received - before.key_updates_received;
        carried.key_updates_received.add(received.into());
        let sent = now.key_updates_sent - before.key_updates_sent;
        carried.key_updates_sent.add(sent.into());
        if now.carrier == Carrier::Kernel && before.carrier != Carrier::Kernel {
            let is_refused =
                end.is_some_and(|end| end.cause == Cause::KernelRefusedKeys && end.side == peer.side());
            match is_refused {
                true => self.promotion_failed(peer),
                false => carried.promotions_done.add(1),
            }
        }
    }

    /// A connection has ended whose TLS records were counted by the kernel, if it was there.
    pub fn records_moved(&self, peer: Peer, carriage: &Carriage) {
        let carried = &self.moved[peer as usize];
        carried.records_received.add(carriage.records_received.get());
        carried.records_sent.add(carriage.records_sent.get());
    }

    /// A connection was lost because the kernel refused its keys.
    pub fn promotion_failed(&self, peer: Peer) {
        self.moved[peer as usize].promotions_failed.add(1);
    }

    /// Attempts at endpoints have failed; those that were lost because the kernel refused their keys count as
    /// [`Self::promotion_failed`]. In an exchange that is counted with what was carried.
    pub fn attempts_failed(&self, ends: impl IntoIterator<Item = End>) {
        for end in ends {
            if end.phase == Phase::Connect && end.cause == Cause::KernelRefusedKeys {
                self.promotion_failed(Peer::Upstream);
            }
        }
    }

    /// A connection has switched protocols; it counts as open until what is given back is dropped.
    pub fn tunnel(&self) -> Tunnel<'_> {
        self.tunnels.add(1);
        Tunnel(&self.tunnels)
    }

    /// Access log records were thrown away because the writer does not keep up.
    pub fn records_dropped(&self, count: u64) {
        self.records_dropped.add(count);
    }
}

/// A connection that has switched protocols, while it is open.
#[must_use = "it is counted for as long as this lives"]
pub struct Tunnel<'c>(&'c Counter);

impl Drop for Tunnel<'_> {
    fn drop(&mut self) {
        self.0.subtract(1);
    }
}

/// What is read by [`super::text()`].
impl Counters {
    pub(super) fn listeners(&self) -> impl Iterator<Item = (&Arc<str>, &ListenerCounters)> {
        self.listeners.iter()
    }

    pub(super) fn upstreams(&self) -> impl Iterator<Item = (&Arc<str>, &UpstreamCounters)> {
        self.upstreams.iter()
    }

    pub(super) fn handshakes_by_version_and_cause(&self) -> &[Counter] {
        &self.handshakes
    }

    pub(super) fn handshakes_resumed(&self) -> u64 {
        self.handshakes_resumed.value()
    }

    pub(super) fn carried_by(&self, peer: Peer) -> &[Counter] {
        &self.carriers[peer as usize]
    }

    pub(super) fn connections_by_end(&self) -> &[Counter] {
        &self.connections.0
    }

    pub(super) fn exchanges_by_end(&self) -> &[Counter] {
        &self.exchanges.0
    }

    pub(super) fn streams_refused_by_cause(&self) -> &[Counter] {
        &self.streams_refused
    }

    pub(super) fn responses_by_class(&self) -> &[Counter] {
        &self.responses
    }

    pub(super) fn requests_by_protocol(&self) -> &[Counter] {
        &self.requests
    }

    pub(super) fn bytes_by_direction(&self) -> &[Counter] {
        &self.bytes
    }

    pub(super) fn carried_to(&self, peer: Peer) -> &Carried {
        &self.moved[peer as usize]
    }

    pub(super) fn open_tunnels(&self) -> u64 {
        self.tunnels.value()
    }

    pub(super) fn dropped_records(&self) -> u64 {
        self.records_dropped.value()
    }
}

/// A counter for every end there can be: side, then phase, then cause.
#[derive(Debug)]
struct Ends(Box<[Counter]>);

impl Ends {
    fn new() -> Self {
        Self(counters(Side::ALL.len() * Phase::ALL.len() * Cause::ALL.len()))
    }

    fn count(&self, end: End) {
        let row = end.side as usize * Phase::ALL.len() + end.phase as usize;
        self.0[row * Cause::ALL.len() + end.cause as usize].add(1);
    }
}

/// Every end there can be, in the order of their counters.
pub(super) fn ends() -> impl Iterator<Item = End> {
    Side::ALL.iter().flat_map(|side| {
        Phase::ALL.iter().flat_map(move |phase| {
            Cause::ALL
                .iter()
                .map(move |cause| End::new(*side, *phase, *cause))
        })
    })
}

/// Why an accept failed.
pub(super) const ACCEPT_ERRORS: [&str; 4] = ["aborted", "no_descriptors", "no_memory", "other"];

/// What one worker counts of one listener.
#[derive(Debug, Default)]
pub struct ListenerCounters {
    open: Counter,
    total: Counter,
    accept_errors: [Counter; ACCEPT_ERRORS.len()],
}

impl ListenerCounters {
    /// A connection was accepted.
    pub fn connection_opened(&self) {
        self.open.add(1);
        self.total.add(1);
    }

    /// A connection that was accepted is gone.
    pub fn connection_closed(&self) {
        self.open.subtract(1);
    }

    /// `accept` failed.
    pub fn accept_failed(&self, error: &io::Error) {
        let at = match error.raw_os_error() {
            Some(libc::ECONNABORTED) => 0,
            Some(libc::EMFILE | libc::ENFILE) => 1,
            Some(libc::ENOBUFS | libc::ENOMEM) => 2,
            _ => 3,
        };
        self.accept_errors[at].add(1);
    }

    pub(super) fn open(&self) -> u64 {
        self.open.value()
    }

    pub(super) fn total(&self) -> u64 {
        self.total.value()
    }

    pub(super) fn accept_errors(&self) -> &[Counter] {
        &self.accept_errors
    }
}

/// What became of a request that was to be mirrored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mirrored {
    /// The mirror has answered it.
    Finished,
    /// The mirror has not: its record tells why.
    Failed,
    /// Its body was too long to be copied.
    TooLong,
    /// Too many were under way.
    TooMany,
    /// Its body never came whole.
    Incomplete,
}

impl Mirrored {
    pub(super) const ALL: [(Self, &str); 5] = [
        (Self::Finished, "finished"),
        (Self::Failed, "failed"),
        (Self::TooLong, "too_long"),
        (Self::TooMany, "too_many"),
        (Self::Incomplete, "incomplete"),
    ];
}

/// Upper bounds of the connect histogram, in microseconds; one more bucket is without bound.
pub(super) const CONNECT_BOUNDS_US: [u64; 13] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 5_000_000,
];

/// What one worker counts of one upstream.
#[derive(Debug)]
pub struct UpstreamCounters {
    worker: AtomicUsize,
    reused: Counter,
    fresh: Counter,
    connect_failures: Box<[Counter]>,
    connect_buckets: [Counter; CONNECT_BOUNDS_US.len() + 1],
    connect_us: Counter,
    retries: Box<[Counter]>,
    ejections: Box<[Counter]>,
    ejected: Counter,
    queued: Counter,
    refusals: Box<[Counter]>,
    mirrored: [Counter; Mirrored::ALL.len()],
}

impl Default for UpstreamCounters {
    fn default() -> Self {
        Self {
            worker: AtomicUsize::new(0),
            reused: Counter::default(),
            fresh: Counter::default(),
            connect_failures: counters(Cause::ALL.len()),
            connect_buckets: Default::default(),
            connect_us: Counter::default(),
            retries: counters(Cause::ALL.len()),
            ejections: counters(Cause::ALL.len()),
            ejected: Counter::default(),
            queued: Counter::default(),
            refusals: counters(Cause::ALL.len()),
            mirrored: Default::default(),
        }
    }
}

impl UpstreamCounters {
    /// The number of the worker that counts here.
    pub fn worker(&self) -> usize {
        self.worker.load(Relaxed)
    }

    /// A request goes out on a connection from the pool.
    pub fn connection_reused(&self) {
        self.reused.add(1);
    }

    /// A new connection stands, TLS included, after `took`.
    pub fn connected(&self, took: Duration) {
        self.fresh.add(1);
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = CONNECT_BOUNDS_US.partition_point(|bound| *bound < took);
        self.connect_buckets[bucket].add(1);
        self.connect_us.add(took);
    }

    /// A new connection could not be had.
    pub fn connect_failed(&self, cause: Cause) {
        self.connect_failures[cause as usize].add(1);
    }

    /// A request is sent again, to the same endpoint or another, because of this.
    pub fn retried(&self, cause: Cause) {
        self.retries[cause as usize].add(1);
    }

    pub(super) fn retries_by_cause(&self) -> &[Counter] {
        &self.retries
    }

    /// An endpoint is left alone for a while, because its exchanges failed, at last for this cause.
    pub fn ejected(&self, cause: Cause) {
        self.ejections[cause as usize].add(1);
    }

    /// A request, or a connection in tcp mode, was turned away because of this bound.
    pub fn refused(&self, cause: Cause) {
        self.refusals[cause as usize].add(1);
    }

    /// A request was mirrored here, or was to be.
    pub fn mirrored(&self, result: Mirrored) {
        self.mirrored[result as usize].add(1);
    }

    pub(super) fn mirrored_by_result(&self) -> &[Counter] {
        &self.mirrored
    }

    pub(super) fn refusals_by_cause(&self) -> &[Counter] {
        &self.refusals
    }

    /// So many endpoints are left alone now.
    pub fn set_ejected(&self, count: u64) {
        self.ejected.set(count);
    }

    /// So many exchanges wait for a place at an endpoint now.
    pub fn set_queued(&self, count: usize) {
        self.queued.set(count as u64);
    }

    pub(super) fn queued_now(&self) -> u64 {
        self.queued.value()
    }

    pub(super) fn ejections_by_cause(&self) -> &[Counter] {
        &self.ejections
    }

    pub(super) fn ejected_now(&self) -> u64 {
        self.ejected.value()
    }

    pub(super) fn reused(&self) -> u64 {
        self.reused.value()
    }

    pub(super) fn fresh(&self) -> u64 {
        self.fresh.value()
    }

    pub(super) fn connect_failures_by_cause(&self) -> &[Counter] {
        &self.connect_failures
    }

    pub(super) fn connect_buckets(&self) -> &[Counter] {
        &self.connect_buckets
    }

    pub(super) fn connect_us(&self) -> u64 {
        self.connect_us.value()
    }
}

/// What one worker counts of one endpoint, apart from what the others do: two cache lines, as they are
/// fetched in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct EndpointCounters {
    reused: Counter,
    fresh: Counter,
    open: Counter,
    idle: Counter,
    ejected: Counter,
}

impl EndpointCounters {
    /// A request, or a connection in tcp mode, goes to it: over a connection that was used before, or not.
    pub fn leased(&self, is_reused: bool) {
        match is_reused {
            true => self.reused.add(1),
            false => self.fresh.add(1),
        }
    }

    /// So many are under way with it.
    pub fn set_open(&self, count: usize) {
        self.open.set(count as u64);
    }

    /// It has so many idle connections.
    pub fn set_idle(&self, count: usize) {
        self.idle.set(count as u64);
    }

    /// Whether it is left alone.
    pub fn set_ejected(&self, is_ejected: bool) {
        self.ejected.set(u64::from(is_ejected));
    }

    pub(super) fn sources(&self) -> [(&'static str, u64); 2] {
        [("reused", self.reused.value()), ("new", self.fresh.value())]
    }

    pub(super) fn open_now(&self) -> u64 {
        self.open.value()
    }

    pub(super) fn idle_now(&self) -> u64 {
        self.idle.value()
    }

    pub(super) fn ejected_now(&self) -> u64 {
        self.ejected.value()
    }
}

/// What the threads of the process count together; rare things only.
#[derive(Debug, Default)]
pub struct Process {
    panics: AtomicU64,
    records_lost: AtomicU64,
    lines_dropped: AtomicU64,
    lookups: [AtomicU64; 2],
}

impl Process {
    /// A task or a thread panicked.
    pub fn panicked(&self) {
        self.panics.fetch_add(1, Relaxed);
    }

    /// Access log records that had been handed over could not be written.
    pub fn records_lost(&self, count: u64) {
        self.records_lost.fetch_add(count, Relaxed);
    }

    /// Lines of the error log were thrown away because nobody reads them.
    pub fn lines_dropped(&self, count: u64) {
        self.lines_dropped.fetch_add(count, Relaxed);
    }

    /// A name of endpoints was looked up, and an answer came or not.
    pub fn looked_up(&self, is_well: bool) {
        self.lookups[usize::from(is_well)].fetch_add(1, Relaxed);
    }

    pub(super) fn lookups(&self, were_well: bool) -> u64 {
        self.lookups[usize::from(were_well)].load(Relaxed)
    }

    pub(super) fn panics(&self) -> u64 {
        self.panics.load(Relaxed)
    }

    pub(super) fn lost_records(&self) -> u64 {
        self.records_lost.load(Relaxed)
    }

    pub(super) fn dropped_lines(&self) -> u64 {
        self.lines_dropped.load(Relaxed)
    }
}

/// Counters by name: a list that only grows, as long as the names of all configurations so far.
#[derive(Debug)]
struct Named<T>(OnceLock<Box<Node<T>>>);

#[derive(Debug)]
struct Node<T> {
    name: Arc<str>,
    counters: Arc<T>,
    next: Named<T>,
}

impl<T> Default for Named<T> {
    fn default() -> Self {
        Self(OnceLock::new())
    }
}

impl<T: Default> Named<T> {
    fn find_or_add(&self, name: &Arc<str>) -> Arc<T> {
        let mut place = self;
        loop {
            let node = place.0.get_or_init(|| {
                Box::new(Node {
                    name: name.clone(),
                    counters: Arc::default(),
                    next: Self::default(),
                })
            });
            if node.name == *name {
                return node.counters.clone();
            }
            place = &node.next;
        }
    }

    fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &T)> {
        let first = self.0.get();
        std::iter::successors(first, |node| node.next.0.get()).map(|node| (&node.name, &*node.counters))
    }
}
