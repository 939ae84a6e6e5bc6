//! Looks a name up as the C library would: /etc/hosts, then the servers of /etc/resolv.conf or others, with
//! its search list, dots, timeout and attempts. Questions and answers are the business of `hickory-resolver`.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_channel::Sender;
use futures_util::future::join_all;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::NetError;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::{Hosts, system_conf};

use super::reactor::{Reactor, Task};
use super::{Resolver, SERVERS_MAX, Server, Source, servers};
use crate::time::now;

const RESOLV_CONF: &str = "/etc/resolv.conf";
const HOSTS: &str = "/etc/hosts";

/// Hosts of one service whose addresses are asked for: as many as servers can be told.
const HOSTS_MAX: usize = SERVERS_MAX;

/// What hosts were last known to have, one family at a time: for when one of their questions fails.
#[derive(Debug, Default)]
pub(super) struct Memory(HashMap<Name, [Vec<IpAddr>; 2]>);

/// A good answer, and until when it is one.
pub(super) struct Answer {
    pub(super) servers: Vec<Server>,
    pub(super) until: Instant,
    /// A host of a service could not be looked up: what was known of it before stands in.
    pub(super) failure: Option<Failure>,
}

/// Why there is no answer, in words for the operator.
pub(super) type Failure = String;

/// The questions are asked by this, until one of its files changes.
pub(super) struct Dns {
    library: Result<hickory_resolver::Resolver<Reactor>, Failure>,
    hosts: Hosts,
    /// What the files said.
    read: [Vec<u8>; 2],
}

impl Dns {
    /// Asks as the machine's files and these settings say.
    pub(super) fn new(settings: &Resolver, tasks: &Sender<Task>) -> Self {
        let read = [RESOLV_CONF, HOSTS].map(content);
        let mut hosts = Hosts::default();
        let _ = hosts.read_hosts_conf(&*read[1]); // of bytes in memory
        Self {
            library: library(settings, &read[0], tasks),
            hosts,
            read,
        }
    }

    /// Whether the machine's files have changed.
    pub(super) fn is_outdated(&self) -> bool {
        self.read != [RESOLV_CONF, HOSTS].map(content)
    }

    /// Looks it up.
    ///
    /// # Errors
    ///
    /// Why nothing was found.
    pub(super) async fn look_up(&self, source: &Source, memory: &mut Memory) -> Result<Answer, Failure> {
        match source {
            Source::Name(host, port) => {
                let name = Name::from_utf8(host).map_err(|error| error.to_string())?;
                let found = self.addresses(&name, memory.0.entry(name.clone()).or_default());
                let (addresses, until) = found
                    .await
                    .map_err(|why| why.unwrap_or_else(|| NO_ADDRESS.to_owned()))?;
                let server = |addresses| Server {
                    addresses,
                    weight: None,
                    is_backup: false,
                };
                Ok(Answer {
                    servers: servers(&addresses, *port).into_iter().map(server).collect(),
                    until,
                    failure: None,
                })
            }
            Source::Service(name) => self.service(name, memory).await,
        }
    }

    async fn service(&self, name: &Arc<str>, memory: &mut Memory) -> Result<Answer, Failure> {
        let found = self.ask(
            Name::from_utf8(name).map_err(|error| error.to_string())?,
            RecordType::SRV,
        );
        let found = found
            .await
            .map_err(|error| error.unwrap_or_else(|| NO_SERVICE.to_owned()))?;
        let records = found.answers().iter().filter_map(|record| match &record.data {
            // RFC 2782: "A Target of '.' means that the service is decidedly not available at this domain."
            RData::SRV(srv) if !srv.target.is_root() => Some(srv.clone()),
            _ => None,
        });
        let records: Vec<_> = records.take(SERVERS_MAX).collect();
        let wanted: HashSet<_> = records
            .iter()
            .map(|srv| srv.target.clone())
            .take(HOSTS_MAX)
            .collect();
        memory.0.retain(|host, _| wanted.contains(host));
        let asked = wanted.into_iter().map(|host| {
            let mut known = memory.0.remove(&host).unwrap_or_default();
            async move {
                let found = self.addresses(&host, &mut known).await;
                (host, known, found)
            }
        });
        let (mut hosts, mut until) = (HashMap::new(), found.valid_until());
        let (mut failure, mut nothing) = (None, None);
        for (host, known, found) in join_all(asked).await {
            match found {
                Ok((addresses, good_until)) => {
                    until = until.min(good_until);
                    hosts.insert(host.clone(), addresses);
                }
                Err(None) => {
                    // Its record may be younger than the service's.
                    until = until.min(now() + NO_ADDRESS_TTL);
                    nothing = Some(format!("{host}: {NO_ADDRESS}"));
                }
                Err(Some(why)) => {
                    failure = Some(format!("{host}: {why}"));
                    let before = known.concat();
                    if !before.is_empty() {
                        hosts.insert(host.clone(), reachable(before));
                    }
                }
            }
            memory.0.insert(host, known);
        }
        match (of_service(&records, &hosts), failure) {
            (servers, failure) if !servers.is_empty() => Ok(Answer {
                servers,
                until,
                failure,
            }),
            (_, Some(why)) => Err(why),
            (_, None) => Err(nothing.unwrap_or_else(|| NO_SERVICE.to_owned())),
        }
    }

    /// A host's addresses. Where one family's question fails, what was known of it before stands in. `None` for an
    /// error: it has none, by a good answer.
    async fn addresses(
        &self,
        name: &Name,
        known: &mut [Vec<IpAddr>; 2],
    ) -> Result<(Vec<IpAddr>, Instant), Option<Failure>> {
        const TYPES: [RecordType; 2] = [RecordType::A, RecordType::AAAA];
        let written = TYPES.map(|kind| self.hosts.lookup_static_host(&Query::query(name.clone(), kind)));
        if written.iter().any(Option::is_some) {
            let all = written.iter().flatten().flat_map(ips).collect();
            return Ok((reachable(all), now() + Duration::from_secs(u64::from(u16::MAX))));
        }
        let (mut failure, mut until, mut asked) = (None, None, name.clone());
        for (kind, known) in TYPES.into_iter().zip(&mut *known) {
            match self.ask(asked.clone(), kind).await {
                Ok(found) => {
                    let good_until = found.valid_until();
                    until = Some(until.map_or(good_until, |until: Instant| until.min(good_until)));
                    *known = ips(&found).collect();
                    // Not another name of the search list for the other family.
                    asked = found.query().name().clone();
                }
                Err(None) => known.clear(),
                Err(Some(why)) => failure = Some(why),
            }
        }
        match until {
            Some(until) => Ok((reachable(known.concat()), until)),
            None => Err(failure),
        }
    }

    /// One question; `None`: there are no such records.
    async fn ask(&self, name: Name, kind: RecordType) -> Result<Lookup, Option<Failure>> {
        let library = self.library.as_ref().map_err(|why| Some(why.clone()))?;
        library.lookup(name, kind).await.map_err(|error| match error {
            error if error.is_no_records_found() => None,
            NetError::Timeout => Some("no server of names answered in time".to_owned()),
            error => Some(error.to_string()),
        })
    }
}

/// How soon a host of a service that has no address is asked for again.
const NO_ADDRESS_TTL: Duration = Duration::from_secs(30);

const NO_ADDRESS: &str = "it has no address";

const NO_SERVICE: &str = "it has no such service (SRV)";

fn ips(found: &Lookup) -> impl Iterator<Item = IpAddr> {
    found.answers().iter().filter_map(|record| record.data.ip_addr())
}

/// Servers out of the records of a service.
///
/// RFC 2782: "A client MUST attempt to contact the target host with the lowest-numbered priority it can
/// reach": the others are backups.
fn of_service(records: &[SRV], hosts: &HashMap<Name, Vec<IpAddr>>) -> Vec<Server> {
    let there = || records.iter().filter(|srv| hosts.contains_key(&srv.target));
    let first = there().map(|srv| srv.priority).min().unwrap_or_default();
    let mut all: Vec<_> = there()
        .flat_map(|srv| {
            servers(&hosts[&srv.target], srv.port)
                .into_iter()
                .map(|addresses| Server {
                    addresses,
                    // "A very small chance of being selected", or nothing to select by if all have it.
                    weight: Some(srv.weight.max(1)),
                    is_backup: srv.priority > first,
                })
        })
        .collect();
    all.sort();
    all.truncate(SERVERS_MAX);
    all
}

/// Without those of a family this machine has no way to, as long as another is left (RFC 6724 §5, rule 1:
/// "Avoid unusable destinations"). Nothing is sent.
fn reachable(addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let has_both = addresses.iter().any(IpAddr::is_ipv4) && addresses.iter().any(IpAddr::is_ipv6);
    if !has_both {
        return addresses;
    }
    let has_way = |ip: &&IpAddr| {
        let any = match ip {
            IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
        };
        UdpSocket::bind((any, 0)).is_ok_and(|socket| socket.connect((**ip, 9)).is_ok())
    };
    let usable: Vec<_> = addresses.iter().filter(has_way).copied().collect();
    match usable.is_empty() {
        true => addresses,
        false => usable,
    }
}

/// A file's content; of one that cannot be read, nothing, as the C library takes it.
fn content(path: &str) -> Vec<u8> {
    read(Path::new(path)).unwrap_or_default()
}

#[expect(clippy::disallowed_methods, reason = "on the thread that looks names up")]
fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    fs::read(path)
}

fn library(
    settings: &Resolver,
    resolv_conf: &[u8],
    tasks: &Sender<Task>,
) -> Result<hickory_resolver::Resolver<Reactor>, Failure> {
    // resolv.conf(5): "If no nameserver entries are present, the default is to use the name server on the
    // local machine."
    let (config, options) = system_conf::parse_resolv_conf(resolv_conf).unwrap_or_else(|_| {
        let local = NameServerConfig::udp_and_tcp(Ipv4Addr::LOCALHOST.into());
        let config = ResolverConfig::from_parts(None, Vec::new(), vec![local]);
        (config, ResolverOpts::default())
    });
    let servers = match settings.servers.is_empty() {
        true => config.name_servers().to_vec(),
        false => settings.servers.iter().map(server).collect(),
    };
    // The domain of the machine's own name is searched if nothing else is.
    let domain = config.domain().filter(|_| config.search().is_empty()).cloned();
    let config = ResolverConfig::from_parts(domain, config.search().to_vec(), servers);
    let mut builder = hickory_resolver::Resolver::builder_with_config(config, Reactor(tasks.clone()));
    *builder.options_mut() = options;
    builder.options_mut().cache_size = 0; // a question is asked when its last answer is over
    // Those are looked at here, both families together.
    builder.options_mut().use_hosts_file = ResolveHosts::Never;
    builder.build().map_err(|error| error.to_string())
}

fn server(address: &SocketAddr) -> NameServerConfig {
    let on_port = |mut connection: ConnectionConfig| {
        connection.port = address.port();
        connection
    };
    let both = vec![on_port(ConnectionConfig::udp()), on_port(ConnectionConfig::tcp())];
    NameServerConfig::new(address.ip(), true, both)
}
