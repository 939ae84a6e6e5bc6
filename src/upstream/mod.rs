//! Named groups of endpoints: which one is asked next, over which connection.

mod connect;
mod endpoint;
mod pool;
pub mod resolve;

use std::cell::{Cell, RefCell};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use self::endpoint::Endpoint;
use self::pool::Idle;
pub use self::resolve::Resolved;
use crate::http;
use crate::http::h1::client::Connection;
use crate::metrics::UpstreamCounters;
use crate::offload::Offload;
use crate::outcome::{Cause, End, Phase, Side};
use crate::runtime::Address;
use crate::sys;
use crate::time::{Deadline, now};
use crate::tls::ClientSettings;
use crate::transport::Transport;

/// How often idle connections are looked at; each look is a system call.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// What an upstream needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its name in the file.
    pub name: Arc<str>,
    /// Where it can be reached; not empty.
    pub endpoints: Vec<EndpointSettings>,
    /// The Host sent; `None`: the client's.
    pub host: Option<Arc<str>>,
    /// For TCP and TLS together.
    pub connect_timeout: Duration,
    /// From the end of the request to the response's head.
    pub response_timeout: Duration,
    /// Between two pieces of a body, in either direction.
    pub idle_timeout: Duration,
    /// Idle connections kept, per worker and endpoint.
    pub pool_idle_max: usize,
    /// How long an idle connection is kept.
    pub pool_idle_timeout: Duration,
    /// TLS towards it.
    pub tls: Option<Arc<ClientSettings>>,
}

impl Settings {
    /// The names and ports among the endpoints, to be looked up.
    pub fn names(&self) -> impl Iterator<Item = (Arc<str>, u16)> {
        self.endpoints.iter().filter_map(|endpoint| match endpoint {
            EndpointSettings::Name(host, port) => Some((host.clone(), *port)),
            EndpointSettings::Address(_) => None,
        })
    }

    /// Whether connections made under the one serve the other as well.
    fn is_same(&self, other: &Self) -> bool {
        let tls = match (&self.tls, &other.tls) {
            (None, None) => true,
            // Certificates and roots may have changed with the file.
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            _ => false,
        };
        tls && self.name == other.name
            && self.endpoints == other.endpoints
            && self.host == other.host
            && self.connect_timeout == other.connect_timeout
            && self.response_timeout == other.response_timeout
            && self.idle_timeout == other.idle_timeout
            && self.pool_idle_max == other.pool_idle_max
            && self.pool_idle_timeout == other.pool_idle_timeout
    }
}

/// One endpoint as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointSettings {
    /// An address that needs no look-up.
    Address(Address),
    /// A name that is looked up, again and again, and a port.
    Name(Arc<str>, u16),
}

/// An upstream as one worker uses it: endpoints in turn, and the idle connections to each.
pub struct Upstream {
    settings: Settings,
    limits: http::h1::client::Settings,
    tls: Option<ClientSettings>,
    offload: RefCell<Arc<Offload>>,
    endpoints: Vec<Endpoint>,
    turn: Cell<usize>,
    swept: Cell<Instant>,
    counters: Arc<UpstreamCounters>,
}

impl Upstream {
    /// One without connections. `http` limits what an endpoint may answer; `offload` is what the
    /// kernel's TLS can do. From `previous`, the
    /// upstream of this name in the generation before, it takes the addresses found so far.
    pub fn new(
        settings: Settings,
        http: &http::Settings,
        offload: Arc<Offload>,
        counters: Arc<UpstreamCounters>,
        previous: Option<&Self>,
    ) -> Self {
        let endpoints: Vec<_> = settings.endpoints.iter().map(Endpoint::new).collect();
        if let Some(previous) = previous {
            for endpoint in &endpoints {
                endpoint.inherit(&previous.endpoints);
            }
        }
        Self {
            limits: http::h1::client::Settings {
                idle_timeout: settings.idle_timeout,
                head_bytes_max: http.head_bytes_max,
                fields_max: http.fields_max,
            },
            tls: settings.tls.as_ref().map(|tls| tls.for_worker()),
            offload: RefCell::new(offload),
            endpoints,
            turn: Cell::new(0),
            swept: Cell::new(now()),
            counters,
            settings,
        }
    }

    /// What the kernel's TLS can do, found out anew: for connections from now on.
    pub fn set_offload(&self, offload: Arc<Offload>) {
        self.offload.replace(offload);
    }

    /// What it was made from.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Whether it may go on, connections and all, for a next generation that has these settings.
    pub fn fits(&self, settings: &Settings, http: &http::Settings) -> bool {
        self.settings.is_same(settings)
            && self.limits.head_bytes_max == http.head_bytes_max
            && self.limits.fields_max == http.fields_max
    }

    /// Its endpoints.
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// Takes over what a look-up found. Idle connections to addresses that are gone are closed.
    pub fn set_addresses(&self, resolved: &Resolved) {
        for endpoint in &self.endpoints {
            endpoint.set_addresses(resolved);
        }
    }

    /// Closes the connections that have been idle for too long, and those their endpoint has
    /// closed. To be called now and then; looks once a second at most.
    pub fn sweep(&self, now: Instant) {
        if now.saturating_duration_since(self.swept.get()) < SWEEP_INTERVAL {
            return;
        }
        self.swept.set(now);
        for endpoint in &self.endpoints {
            endpoint.pool.sweep(now, self.settings.pool_idle_timeout);
        }
    }

    /// Begins to look for an endpoint: the next one in turn is asked first. What is not
    /// `repeatable` could not be sent again on another connection, so that idle ones are looked at
    /// once more before one is leased.
    pub fn begin(&self, repeatable: bool) -> Attempts {
        let first = self.turn.get();
        self.turn.set((first + 1) % self.endpoints.len().max(1));
        Attempts {
            first,
            tried: 0,
            count: 0,
            fresh: false,
            repeatable,
        }
    }

    /// Leases a connection: an idle one, or a new one to the first endpoint that can be reached.
    ///
    /// # Errors
    ///
    /// `Upstream Connect …` of the last endpoint tried, when all were.
    pub async fn take(&self, attempts: &mut Attempts) -> Result<Lease<'_>, End> {
        let mut last = End::new(Side::Upstream, Phase::Connect, Cause::Unresolved);
        while let Some(endpoint) = self.next(attempts) {
            if !attempts.fresh
                && let Some(idle) =
                    endpoint
                        .pool
                        .take(now(), self.settings.pool_idle_timeout, attempts.repeatable)
            {
                attempts.count += 1;
                self.counters.connection_reused();
                // Should it fail, the same endpoint is connected to.
                attempts.tried -= 1;
                attempts.fresh = true;
                return Ok(Lease::new(self, endpoint, idle.connection, idle.address, true));
            }
            attempts.fresh = false;
            attempts.count += 1;
            // Boxed: most requests find an idle connection.
            match Box::pin(self.connect_to(endpoint)).await {
                Ok((transport, address)) => {
                    let connection = Box::new(Connection::new(transport, self.limits.clone()));
                    return Ok(Lease::new(self, endpoint, connection, address, false));
                }
                Err(end) => last = end,
            }
        }
        Err(last)
    }

    /// Connects to the first endpoint that can be reached, for bytes that are not HTTP.
    ///
    /// # Errors
    ///
    /// As [`Self::take`].
    pub async fn connect(&self, attempts: &mut Attempts) -> Result<(Transport, &Endpoint), End> {
        let mut last = End::new(Side::Upstream, Phase::Connect, Cause::Unresolved);
        while let Some(endpoint) = self.next(attempts) {
            attempts.count += 1;
            match self.connect_to(endpoint).await {
                Ok((transport, _)) => return Ok((transport, endpoint)),
                Err(end) => last = end,
            }
        }
        Err(last)
    }

    /// The next endpoint in turn; each once.
    fn next(&self, attempts: &mut Attempts) -> Option<&Endpoint> {
        let count = self.endpoints.len();
        if attempts.tried >= count {
            return None;
        }
        let at = (attempts.first + attempts.tried) % count;
        attempts.tried += 1;
        Some(&self.endpoints[at])
    }

    async fn connect_to(&self, endpoint: &Endpoint) -> Result<(Transport, Option<Address>), End> {
        let started = now();
        let deadline = Deadline::after(started, self.settings.connect_timeout);
        let offload = self.offload.borrow().clone();
        let connected = connect::connect(endpoint, self.tls.as_ref(), &offload, deadline).await;
        if connected.is_ok() {
            self.counters.connected(now().saturating_duration_since(started));
        }
        connected.map_err(|failed| {
            self.counters.connect_failed(failed.end.cause);
            if endpoint.may_complain(now()) {
                tracing::warn!(
                    upstream = &*self.settings.name,
                    endpoint = endpoint.name(),
                    "cannot connect: {failed}"
                );
            }
            failed.end
        })
    }
}

/// How far the search for an endpoint has come, for one exchange.
#[derive(Debug)]
pub struct Attempts {
    first: usize,
    tried: usize,
    count: u32,
    /// The next one has to be connected anew.
    fresh: bool,
    repeatable: bool,
}

impl Attempts {
    /// How many connections were tried, idle ones included.
    pub fn count(&self) -> u32 {
        self.count
    }
}

/// A connection to an endpoint, held for one exchange; closed when dropped.
pub struct Lease<'u> {
    upstream: &'u Upstream,
    endpoint: &'u Endpoint,
    connection: Box<Connection>,
    address: Option<Address>,
    is_reused: bool,
}

impl<'u> Lease<'u> {
    fn new(
        upstream: &'u Upstream,
        endpoint: &'u Endpoint,
        connection: Box<Connection>,
        address: Option<Address>,
        is_reused: bool,
    ) -> Self {
        Self {
            upstream,
            endpoint,
            connection,
            address,
            is_reused,
        }
    }

    /// The connection.
    pub fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// The endpoint it leads to.
    pub fn endpoint(&self) -> &'u Endpoint {
        self.endpoint
    }

    /// Whether it has served another exchange before.
    pub fn is_reused(&self) -> bool {
        self.is_reused
    }

    /// How much of what was sent the endpoint's kernel has taken, as far as that is known: not
    /// where the connection is a Unix socket.
    pub fn acknowledged(&self) -> Option<u64> {
        sys::tcp_bytes_acked(self.connection.transport().socket().as_fd())
    }

    /// Leaves the connection to the next exchange, if it can serve one.
    pub fn give_back(self) {
        let settings = &self.upstream.settings;
        if self.connection.is_reusable() && self.endpoint.still_has(self.address.as_ref()) {
            self.endpoint.pool.give_back(
                Idle {
                    connection: self.connection,
                    address: self.address,
                    since: now(),
                },
                settings.pool_idle_max,
            );
        }
    }
}

#[cfg(test)]
mod tests;
