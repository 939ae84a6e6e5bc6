//! An upstream and its endpoints as configured.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::affinity::{Hashing, Sticky};
use super::balance::Method;
use super::discovery::Source;
use super::health::{self, Check};
use super::introduction::ProxyProtocol;
use super::pool::Times;
use crate::metrics::EndpointCounters;
use crate::runtime::Address;
use crate::tls::ClientSettings;

/// What an upstream needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its name in the file.
    pub name: Arc<str>,
    /// Where it can be reached, as the file writes it.
    pub written: Arc<[EndpointSettings]>,
    /// More of them, of a file of their own.
    pub from_file: Option<FromFile>,
    /// Who is asked: as written, with what was found in the place of names and services. Not empty.
    pub endpoints: Vec<EndpointSettings>,
    /// Where each of them is counted, by its name.
    pub counted: Counted,
    /// How they are chosen; `None`: as fits the number of workers.
    pub balance: Option<Method>,
    /// By what they are chosen, for [`Method::Hash`].
    pub hash: Option<Hashing>,
    /// How clients are bound to them.
    pub sticky: Option<Arc<Sticky>>,
    /// How many requests, or connections of tcp mode, may be under way with it, on all workers together;
    /// `None`: any number.
    pub requests_max: Option<usize>,
    /// How many may wait for a place at an endpoint, on all workers together.
    pub queue_max: usize,
    /// How long each may wait.
    pub queue_timeout: Duration,
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
    /// How long a connection is used at all.
    pub pool_lifetime: Duration,
    /// How many of the requests under way, in percent, may be retries that repeat work.
    pub retry_budget: u8,
    /// How the health of its endpoints is judged.
    pub health: health::Settings,
    /// HTTP/2 is spoken to it: over TLS where the endpoint chooses it, else always.
    pub http2: bool,
    /// Bytes of all responses on a connection of HTTP/2 that may wait for their clients.
    pub http2_window_bytes: u32,
    /// How they are checked, beside the workers and their upstreams.
    pub check: Option<Arc<Check>>,
    /// The header each connection begins with, which tells of the client: none serves another.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// TLS towards it.
    pub tls: Option<Arc<ClientSettings>>,
}

impl Settings {
    /// All its endpoints as they are written, here and in a file of their own.
    pub fn listed(&self) -> impl Iterator<Item = &EndpointSettings> {
        let from_file = self.from_file.iter().flat_map(|file| &*file.endpoints);
        self.written.iter().chain(from_file)
    }

    /// Whether some of its endpoints are looked up.
    pub fn is_looked_up(&self) -> bool {
        self.listed().any(|one| Source::of(one).is_some())
    }

    /// Whether there may be a choice.
    pub fn may_have_several(&self) -> bool {
        self.listed().nth(1).is_some() || self.is_looked_up() || self.from_file.is_some()
    }

    /// How endpoints are chosen by each of so many workers.
    pub fn method(&self, workers: usize) -> Method {
        // Side by side, workers that take turns, or look for the least of their own load, may all
        // ask the same endpoint at once.
        self.balance.unwrap_or(match workers {
            0 | 1 => Method::RoundRobin,
            _ => Method::TwoChoices,
        })
    }

    /// How long connections are kept.
    pub(super) fn pool_times(&self) -> Times {
        Times {
            idle: self.pool_idle_timeout,
            lifetime: self.pool_lifetime,
        }
    }

    /// Whether connections made under the one serve the other as well.
    pub(super) fn connects_like(&self, other: &Self) -> bool {
        is_same_tls(self.tls.as_ref(), other.tls.as_ref())
            && self.proxy_protocol == other.proxy_protocol
            && self.http2 == other.http2
            && self.http2_window_bytes == other.http2_window_bytes
            && self.idle_timeout == other.idle_timeout
    }

    /// Whether the one can go on in the other's place.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.endpoints == other.endpoints && self.sticky == other.sticky && self.is_written_like(other)
    }

    /// Whether both are of the same text, whatever was found since.
    pub(super) fn is_written_like(&self, other: &Self) -> bool {
        let cookie = |settings: &Self| settings.sticky.as_ref().map(|sticky| sticky.cookie().clone());
        let path = |settings: &Self| settings.from_file.as_ref().map(|file| file.path.clone());
        self.connects_like(other)
            && self.name == other.name
            && path(self) == path(other)
            && self.written == other.written
            && self.balance == other.balance
            && self.hash == other.hash
            && cookie(self) == cookie(other)
            && self.requests_max == other.requests_max
            && self.queue_max == other.queue_max
            && self.queue_timeout == other.queue_timeout
            && self.host == other.host
            && self.connect_timeout == other.connect_timeout
            && self.response_timeout == other.response_timeout
            && self.pool_idle_max == other.pool_idle_max
            && self.pool_idle_timeout == other.pool_idle_timeout
            && self.pool_lifetime == other.pool_lifetime
            && self.health == other.health
            && self.retry_budget == other.retry_budget
    }
}

/// Whether both are the same that was read once: certificates and roots may have changed with the file.
pub(super) fn is_same_tls(one: Option<&Arc<ClientSettings>>, other: Option<&Arc<ClientSettings>>) -> bool {
    match (one, other) {
        (None, None) => true,
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        _ => false,
    }
}

/// Where endpoints are counted, each by all workers; one that is missing is counted for nobody.
pub type Counted = Arc<HashMap<Arc<str>, Arc<[EndpointCounters]>>>;

/// Endpoints of a file of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FromFile {
    /// The file.
    pub path: Arc<Path>,
    /// What it says.
    pub endpoints: Arc<[EndpointSettings]>,
}

/// One endpoint as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSettings {
    /// Where it can be reached.
    pub address: EndpointAddress,
    /// Its share of what comes, beside the weights of the others; 0 is none.
    pub weight: u32,
    /// It is asked when no other can be.
    pub is_backup: bool,
    /// Nothing new goes to it.
    pub is_drained: bool,
    /// How many exchanges, or connections of tcp mode, may be under way with it, on all workers
    /// together; `None`: any number.
    pub connections_max: Option<usize>,
}

impl EndpointSettings {
    /// One of which nothing but its address was written.
    pub fn at(address: EndpointAddress) -> Self {
        Self {
            address,
            weight: 1,
            is_backup: false,
            is_drained: false,
            connections_max: None,
        }
    }

    /// Its share among the backups, or among the others: 0 if it is asked with the other ones, or
    /// not at all.
    pub(super) fn weight_among(&self, backups: bool) -> u32 {
        match self.is_backup == backups && !self.is_drained {
            true => self.weight,
            false => 0,
        }
    }
}

/// Where an endpoint can be reached.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum EndpointAddress {
    /// An address that needs no look-up.
    Socket(Address),
    /// A name that is looked up, again and again, and a port.
    Name(Arc<str>, u16),
    /// A service whose hosts and ports are looked up (SRV): `_http._tcp.example.org`.
    Service(Arc<str>),
    /// What one of these was found to be.
    Found(Arc<Found>),
}

/// One server behind a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Found {
    /// The name that was looked up: what TLS asks for and verifies.
    pub host: Arc<str>,
    /// The same as Host is to say it.
    pub authority: Arc<str>,
    /// Its addresses in the order they are tried, one of each family at the most; not empty.
    pub addresses: Vec<SocketAddr>,
}

impl fmt::Display for Found {
    /// The address it is known by: that of IPv4, if it has one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let v4 = self.addresses.iter().find(|address| address.is_ipv4());
        match v4.or_else(|| self.addresses.first()) {
            Some(address) => address.fmt(f),
            None => f.write_str(&self.authority),
        }
    }
}

impl fmt::Display for EndpointAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(address) => address.fmt(f),
            Self::Name(host, port) => write!(f, "{host}:{port}"),
            Self::Service(name) => write!(f, "srv:{name}"),
            Self::Found(found) => found.fmt(f),
        }
    }
}
