//! Connection → upstream, bytes untouched.

use std::future::pending;
use std::io::ErrorKind;
use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, select};

use super::Proxy;
use super::account::count_upstream;
use crate::access_log::ConnectionRecord;
use crate::drain::Drain;
use crate::metrics::Peer;
use crate::outcome::{Cause, End, Phase, Side, Tally};
use crate::relay::{self, Ahead};
use crate::route::Split;
use crate::runtime::sleep;
use crate::transport::Transport;
use crate::upstream::balance::hash;
use crate::upstream::health::Outcome;
use crate::upstream::{Addresses, Attempts, Moved, Slot, Upstream};

impl Proxy {
    /// Relays a downstream connection to one of these upstreams until it ends, or the drain's deadline cuts it.
    /// `client`: who came, and where to. The caller closes the downstream transport, unless it was marked to be
    /// reset.
    pub async fn pass(
        &self,
        split: &Split,
        downstream: &Transport,
        client: Option<Addresses>,
        drain: &Drain,
        record: &mut ConnectionRecord,
    ) -> End {
        let upstream = self.upstream(split.only().unwrap_or_else(|| split.pick(fastrand::u64(..))));
        record.upstream = Some(upstream.settings().name.clone());
        let _live = match upstream.live() {
            Ok(live) => live,
            Err(end) => {
                downstream.abort();
                return end;
            }
        };
        let mut attempts = search(&upstream, client);
        let connected = reach(&upstream, &mut attempts, downstream).await;
        record.attempts = attempts.count();
        let failed = attempts.take_failed();
        self.counters.attempts_failed(failed.iter().map(|(_, end)| *end));
        let (transport, slot) = match connected {
            Ok(connected) => connected,
            Err(end) => {
                // Not a byte was answered: a FIN would look like an answer without content.
                downstream.abort();
                return end;
            }
        };
        record.endpoint = Some(slot.endpoint().name().into());
        let idle_timeout = upstream.settings().idle_timeout;
        let relayed = relay_until_cut(Ahead::default(), downstream, &transport, idle_timeout, drain);
        let end = match upstream.is_tried(slot.endpoint()) {
            false => relayed.await,
            // Boxed: one connection tries an endpoint.
            true => Box::pin(until_over(relayed, first_byte(&upstream, &slot, &transport))).await,
        };
        let moved = Moved {
            bytes_in: transport.bytes_in(),
            bytes_out: transport.bytes_out(),
            tally: transport.carriage().tally(),
        };
        // A reset after its first byte is its goodbye, or what it thinks of the client.
        let has_failed = end.side == Side::Upstream && end.cause == Cause::Reset && moved.bytes_in == 0;
        let outcome = match has_failed {
            true => Outcome::Failed(end.cause),
            false => Outcome::Well,
        };
        upstream.note(slot.endpoint(), outcome);
        count_upstream(&self.counters, Tally::default(), &moved, Some(end));
        record.upstream_carrier = moved.tally.carrier;
        transport.count_records();
        self.counters.records_moved(Peer::Upstream, transport.carriage());
        let spliced = |transport: &Transport| transport.carriage().spliced.get();
        record.moved.spliced = spliced(downstream) + spliced(&transport);
        record.moved.copied = (moved.bytes_in + moved.bytes_out).saturating_sub(record.moved.spliced);
        end
    }
}

/// How often an endpoint that is tried is looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Tells of an endpoint that is tried once it has said something: the connection may last for hours.
async fn first_byte(upstream: &Upstream, slot: &Slot<'_>, transport: &Transport) {
    while transport.bytes_in() == 0 {
        sleep(LOOK_AGAIN).await;
    }
    upstream.note_begun(slot.endpoint(), None, false);
}

/// Does something beside what runs until it is over.
async fn until_over<T>(runs: impl Future<Output = T>, beside: impl Future<Output = ()>) -> T {
    match select(pin!(runs), pin!(beside)).await {
        Either::Left((result, _)) => result,
        Either::Right(((), runs)) => runs.await,
    }
}

/// Connects to an endpoint; a client that may have to wait for that is watched meanwhile.
async fn reach<'u>(
    upstream: &'u Upstream,
    attempts: &mut Attempts,
    downstream: &Transport,
) -> Result<(Transport, Slot<'u>), End> {
    if !upstream.is_limited() {
        return upstream.connect(attempts).await;
    }
    match select(pin!(upstream.connect(attempts)), pin!(gone(downstream))).await {
        Either::Left((connected, _)) => connected,
        Either::Right((end, _)) => Err(end),
    }
}

/// What decides which endpoints a connection may be relayed to.
fn search(upstream: &Upstream, client: Option<Addresses>) -> Attempts {
    let mut attempts = upstream.begin(true);
    attempts.on_behalf_of(client);
    if upstream.settings().hash.is_some() {
        let address = client.map(|(client, _)| client.ip().to_canonical().to_string());
        attempts.belongs_to(address.map(|address| hash(address.as_bytes())));
    }
    attempts
}

/// How the client ended its connection before it had said anything, while it waits for its turn.
async fn gone(downstream: &Transport) -> End {
    let socket = downstream.socket();
    let end = |cause| End::new(Side::Downstream, Phase::Connect, cause);
    if let Err(error) = socket.readable().await {
        return end(Cause::of(&error));
    }
    match socket.try_peek(&mut [0]) {
        Ok(0) => end(Cause::Closed),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => end(Cause::Reset),
        // It has said something: what it does behind that is seen when it is read.
        _ => pending().await,
    }
}

/// Relays until it ends, or until the drain's deadline cuts it: then both sides are reset.
pub(super) async fn relay_until_cut(
    ahead: Ahead,
    downstream: &Transport,
    upstream: &Transport,
    idle_timeout: Duration,
    drain: &Drain,
) -> End {
    let relayed = relay::both_ways_after(ahead, downstream, upstream, idle_timeout);
    match select(pin!(relayed), pin!(drain.cut())).await {
        Either::Left((end, _)) => end,
        Either::Right(_) => {
            downstream.abort();
            upstream.abort();
            End::new(Side::Atlas, Phase::Relay, Cause::Cut)
        }
    }
}
