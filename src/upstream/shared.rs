//! This worker's HTTP/2 connections to one endpoint: few, each for many exchanges at a time.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::connect::{Connected, Failed};
use super::lease::Held;
use super::pool::has_passed;
use super::{Attempts, Endpoint, Lease, Upstream};
use crate::http::h2::client::{Bell, Connection, Stream};
use crate::outcome::{Cause, End, Phase, Side};
use crate::runtime::{Address, before};
use crate::time::{Deadline, now};

/// Connections to an endpoint at a time, for each worker: with 100 streams on each.
const CONNECTIONS_MAX: usize = 64;

/// The connections, and who waits for a place on one.
#[derive(Default)]
pub(super) struct Shared {
    /// The oldest first: they are filled before others, so that those are idle when there is less to do.
    connections: RefCell<Vec<Known>>,
    /// One is being opened, and no other meanwhile.
    is_opening: Cell<bool>,
    bell: Rc<Bell>,
    /// How many could not be opened, and how the last of these ended.
    failures: Cell<(u64, Option<End>)>,
    /// How a connection ended that should not have ended so, until it is told.
    broken: Cell<Option<End>>,
    /// The endpoint has chosen HTTP/1.1 when it was asked last.
    speaks_http1: Cell<bool>,
}

struct Known {
    connection: Connection,
    address: Address,
    opened: Instant,
}

impl Shared {
    /// A stream of a connection that has a place.
    fn find(&self, repeatable: bool, lifetime: Duration) -> Option<(Stream, Address, bool)> {
        let now = now();
        self.keep_usable(|known| !has_passed(known.opened, now, lifetime));
        let all = self.connections.borrow();
        let mut with_room = all.iter().filter(|known| known.connection.room() > 0);
        let known = with_room.find(|known| repeatable || !known.connection.is_closed_by_now())?;
        let is_reused = known.connection.has_served();
        Some((known.connection.take(), known.address.clone(), is_reused))
    }

    /// Lets go of connections on which no more streams can be opened, and of others. Where one had died while it
    /// was idle the others may have, too, and a request is not to meet one after the other.
    fn keep_usable(&self, keep: impl Fn(&Known) -> bool) {
        let mut all = self.connections.borrow_mut();
        let mut one_was_dead = false;
        all.retain_mut(|known| {
            if let Some(end) = known.connection.end().filter(|end| is_bad(*end)) {
                self.broken.set(Some(end));
            }
            one_was_dead |= known.connection.was_dead();
            keep(known) && known.connection.is_usable()
        });
        if one_was_dead {
            all.iter().for_each(|known| known.connection.doubt());
        }
    }

    /// The right to open a connection, for one at a time.
    fn begin_opening(&self) -> Option<Opening<'_>> {
        let is_full = self.connections.borrow().len() >= CONNECTIONS_MAX;
        if is_full || self.is_opening.replace(true) {
            return None;
        }
        Some(Opening(self))
    }

    fn add(&self, connection: Connection, address: Address) {
        // One of those who wait opens the next, if these are not enough.
        let room = connection.room();
        self.speaks_http1.set(false);
        self.connections.borrow_mut().push(Known {
            connection,
            address,
            opened: now(),
        });
        self.bell.ring(room + 1);
    }

    /// What an endpoint that was offered both has chosen.
    pub(super) fn note_http1(&self, was_chosen: bool) {
        if was_chosen && !self.speaks_http1.replace(true) {
            self.bell.ring_all(); // each has to connect for itself
        }
    }

    /// Those who wait need not try what has just failed.
    fn note_failure(&self, end: End) {
        let (count, _) = self.failures.get();
        self.failures.set((count + 1, Some(end)));
        self.bell.ring_all();
    }

    /// Lets go of connections whose address is none of the endpoint's any more; what is under way on
    /// them goes on.
    pub(super) fn retain(&self, has: impl Fn(&Address) -> bool) {
        self.connections.borrow_mut().retain(|known| has(&known.address));
    }

    /// Connections without a stream.
    pub(super) fn idle(&self) -> usize {
        let all = self.connections.borrow();
        let idle = all.iter().filter(|known| known.connection.idle_since().is_some());
        idle.count()
    }
}

/// Whether an operator should look at an endpoint that ends its connections so.
fn is_bad(end: End) -> bool {
    let is_endpoints = end.cause.is_excess()
        || matches!(
            end.cause,
            Cause::Malformed | Cause::RecordDamaged | Cause::RecordTooLong | Cause::TimedOut
        );
    (end.side == Side::Upstream && is_endpoints) || end.cause == Cause::Panicked
}

/// A connection is being opened.
struct Opening<'s>(&'s Shared);

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.0.is_opening.set(false);
        self.0.bell.ring(1);
    }
}

impl Upstream {
    /// A stream of a connection that has a place, or of a new one. `None`: the endpoint speaks HTTP/1.1.
    pub(super) async fn take_shared<'u>(
        &'u self,
        endpoint: &'u Endpoint,
        attempts: &mut Attempts,
    ) -> Result<Option<Lease<'u>>, End> {
        let shared = &endpoint.shared;
        let deadline = Deadline::within(self.settings.connect_timeout);
        let (failures, _) = shared.failures.get();
        loop {
            let found = shared.find(attempts.repeatable, self.settings.pool_lifetime);
            self.tell_broken(endpoint);
            if let Some((stream, address, is_reused)) = found {
                attempts.count += 1;
                self.counters.connection_reused();
                return Ok(Some(
                    self.lease_stream(endpoint, stream, address, is_reused, attempts),
                ));
            }
            if shared.speaks_http1.get() {
                return Ok(None);
            }
            if let Some(opening) = shared.begin_opening() {
                attempts.count += 1;
                let opened = self.open(endpoint, attempts).await;
                drop(opening);
                return opened.map(Some).inspect_err(|end| {
                    attempts.fresh = false;
                    shared.note_failure(*end);
                });
            }
            let failed = match before(deadline, shared.bell.called()).await {
                Ok(()) => match shared.failures.get() {
                    (count, Some(end)) if count > failures => end,
                    _ => continue,
                },
                Err(_) => End::new(Side::Upstream, Phase::Connect, Cause::LimitReached),
            };
            attempts.count += 1;
            attempts.fresh = false;
            return Err(failed);
        }
    }

    /// Begins to speak HTTP/2 on a connection, and lets others use it.
    pub(super) async fn share<'u>(
        &'u self,
        endpoint: &'u Endpoint,
        connected: Connected,
        attempts: &mut Attempts,
        deadline: Deadline,
    ) -> Result<Lease<'u>, End> {
        let Connected {
            transport, address, ..
        } = connected;
        let (limits, bell) = (self.limits.clone(), endpoint.shared.bell.clone());
        let window = self.settings.http2_window_bytes;
        let opened = Connection::open(transport, limits, window, self.tls.is_some(), bell, deadline).await;
        let connection = opened.map_err(|end| self.complain(endpoint, &Failed::to_speak(end)))?;
        let stream = connection.take();
        endpoint.shared.add(connection, address.clone());
        Ok(self.lease_stream(endpoint, stream, address, false, attempts))
    }

    fn lease_stream<'u>(
        &'u self,
        endpoint: &'u Endpoint,
        stream: Stream,
        address: Address,
        is_reused: bool,
        attempts: &mut Attempts,
    ) -> Lease<'u> {
        // Should an old connection fail, the same endpoint is asked over another.
        attempts.fresh = is_reused && !attempts.fresh;
        let held = Held::Http2(Box::new(stream));
        Lease::new(self, endpoint, held, address, now(), is_reused)
    }

    /// Closes the connections that have had no stream for too long.
    pub(super) fn sweep_shared(&self, endpoint: &Endpoint, at: Instant) {
        let timeout = match self.settings.pool_idle_max {
            0 => Duration::ZERO,
            _ => self.settings.pool_idle_timeout,
        };
        endpoint.shared.keep_usable(|known| {
            let is_idle = known
                .connection
                .idle_since()
                .is_some_and(|since| has_passed(since, at, timeout));
            !is_idle && !has_passed(known.opened, at, self.settings.pool_lifetime)
        });
        self.tell_broken(endpoint);
    }

    fn tell_broken(&self, endpoint: &Endpoint) {
        if let Some(end) = endpoint.shared.broken.take()
            && endpoint.may_complain(now())
        {
            tracing::warn!(
                upstream = &*self.settings.name,
                endpoint = endpoint.name(),
                "a connection of HTTP/2 ended with what was on it: {end}; look at what the endpoint sends"
            );
        }
    }
}
