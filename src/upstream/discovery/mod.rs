//! From what the file says of endpoints to who is there now: names and services become the servers that
//! a look-up finds. [`Watcher`] looks, this is what follows.

mod dns;
mod reactor;
mod watcher;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

pub use self::watcher::{News, Watcher};
use super::endpoint::domain;
use super::settings::{EndpointAddress, EndpointSettings, Found, Settings};

/// Servers that one look-up may find; those beyond are left out.
pub const SERVERS_MAX: usize = 1000;

/// How names are looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolver {
    /// Who is asked; empty: those of /etc/resolv.conf.
    pub servers: Vec<SocketAddr>,
    /// How long an answer is kept at least.
    pub ttl_min: Duration,
    /// How long an answer is kept at most.
    pub ttl_max: Duration,
}

impl Default for Resolver {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            ttl_min: Duration::from_secs(1),
            ttl_max: Duration::from_secs(60),
        }
    }
}

impl fmt::Display for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.servers.is_empty() {
            true => f.write_str("as /etc/resolv.conf says")?,
            false => {
                let all: Vec<_> = self.servers.iter().map(ToString::to_string).collect();
                write!(f, "at {}", all.join(", "))?;
            }
        }
        write!(
            f,
            ", and answers kept from {:?} to {:?}",
            self.ttl_min, self.ttl_max
        )
    }
}

impl Resolver {
    /// How long an answer is kept that says so of itself.
    fn keeps(&self, ttl: Duration) -> Duration {
        ttl.max(self.ttl_min).min(self.ttl_max)
    }
}

/// What is looked up.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// A host's addresses; its port is known.
    Name(Arc<str>, u16),
    /// A service's hosts and ports.
    Service(Arc<str>),
}

impl Source {
    /// What an endpoint is found by; `None`: its address is written.
    pub fn of(endpoint: &EndpointSettings) -> Option<Self> {
        match &endpoint.address {
            EndpointAddress::Name(host, port) => Some(Self::Name(host.clone(), *port)),
            EndpointAddress::Service(name) => Some(Self::Service(name.clone())),
            EndpointAddress::Socket(_) | EndpointAddress::Found(_) => None,
        }
    }

    /// All that endpoints are found by.
    pub fn all_of(upstreams: &[Settings]) -> impl Iterator<Item = Self> {
        upstreams
            .iter()
            .flat_map(|upstream| upstream.listed().filter_map(Self::of))
    }
}

impl fmt::Display for Source {
    /// As the file writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(host, port) => write!(f, "{host}:{port}"),
            Self::Service(name) => write!(f, "srv:{name}"),
        }
    }
}

/// One server that was found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Server {
    /// Its addresses in the order they are tried; not empty.
    pub addresses: Vec<SocketAddr>,
    /// Its share, if the answer tells one.
    pub weight: Option<u16>,
    /// The answer wants others asked first.
    pub is_backup: bool,
}

/// The last good answer for each that has had one.
pub type Answers = BTreeMap<Source, Arc<[Server]>>;

/// The same upstream with the endpoints that these answers give it.
///
/// What has no answer yet is left out while there are others, else kept as it is written: then a request
/// ends with the name that is missing.
pub fn expand(upstream: &Settings, answers: &Answers) -> Settings {
    let mut endpoints = Vec::new();
    let mut unknown = Vec::new();
    for written in upstream.listed() {
        match Source::of(written) {
            None => endpoints.push(written.clone()),
            Some(source) => match answers.get(&source) {
                Some(servers) => endpoints.extend(servers.iter().map(|server| found(written, server))),
                None => unknown.push(written.clone()),
            },
        }
    }
    if !endpoints.iter().any(|one| one.weight > 0 && !one.is_drained) {
        endpoints.append(&mut unknown);
    }
    // Two names may lead to the same place. What is written twice was warned of and stays so.
    let mut seen = HashSet::new();
    endpoints.retain(|one| {
        let is_new = seen.insert(one.address.to_string());
        is_new || !matches!(one.address, EndpointAddress::Found(_))
    });
    let (hash, sticky) = (upstream.hash.as_ref(), upstream.sticky.as_ref());
    Settings {
        hash: hash.map(|hash| hash.among(&endpoints)),
        sticky: sticky.map(|sticky| sticky.among(&upstream.name, &endpoints).into()),
        endpoints,
        ..upstream.clone()
    }
}

fn found(written: &EndpointSettings, server: &Server) -> EndpointSettings {
    let host: Arc<str> = match &written.address {
        EndpointAddress::Name(host, _) => host.clone(),
        EndpointAddress::Service(name) => domain(name).into(),
        other => other.to_string().into(),
    };
    let authority = match &written.address {
        EndpointAddress::Service(_) => host.clone(),
        other => other.to_string().into(),
    };
    EndpointSettings {
        address: EndpointAddress::Found(Arc::new(Found {
            host,
            authority,
            addresses: server.addresses.clone(),
        })),
        weight: server.weight.map_or(written.weight, u32::from),
        is_backup: written.is_backup || server.is_backup,
        ..written.clone()
    }
}

/// Servers out of a host's addresses.
///
/// Each address is a server of its own, but that one of IPv6 and one of IPv4 go together, in their order:
/// a host that has both has them for the same servers (RFC 8305 §1), and whoever connects takes the one that
/// answers first.
fn servers(addresses: &[IpAddr], port: u16) -> Vec<Vec<SocketAddr>> {
    let family = |is_v6: bool| {
        let mut all: Vec<_> = addresses.iter().filter(|ip| ip.is_ipv6() == is_v6).collect();
        all.sort_unstable(); // the order of answers changes, and means nothing
        all.dedup();
        all
    };
    let (v6, v4) = (family(true), family(false));
    let count = v6.len().max(v4.len()).min(SERVERS_MAX);
    let one = |index: usize| {
        let both = v6.get(index).into_iter().chain(v4.get(index));
        both.map(|ip| SocketAddr::new(**ip, port)).collect()
    };
    (0..count).map(one).collect()
}

#[cfg(test)]
mod tests;
