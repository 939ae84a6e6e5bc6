//! Upstreams: endpoints, times, pools, TLS towards them.

use std::collections::HashSet;
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use super::super::endpoints_file;
use super::super::error::Diagnostic;
use super::super::file::{self, EndpointValue, HealthValue, OutliersValue, RetryValue, UpstreamTlsValue};
use super::super::read::At;
use super::super::values::{Balance, Mode};
use super::{Resolver, bytes, health, is_on, listen, number, seconds, span, tls, to_usize, toml_key};
use crate::http::h2::client::WINDOW_BYTES;
use crate::runtime::Address;
use crate::tls::ClientSettings;
use crate::upstream::balance::Method;
use crate::upstream::discovery::{Answers, expand};
use crate::upstream::{EndpointAddress, EndpointSettings, FromFile, Settings};

/// Room for some streams, up to what RFC 9113 §6.9.1 lets a window be; whoever allows one may have to hold as much.
const WINDOWS: RangeInclusive<u64> = 1024 * 1024..=1024 * 1024 * 1024;

impl<'a> Resolver<'a> {
    pub(super) fn upstream_tables(&self) -> &'a [(At<String>, file::Upstream)] {
        self.file.upstream.as_ref().map_or(&[], |all| &all.value)
    }

    /// The names of all upstreams, also of those with errors.
    pub(super) fn upstream_names(&self) -> impl Iterator<Item = &'a str> {
        self.upstream_tables().iter().map(|(name, _)| &*name.value)
    }

    /// Where each upstream stands in the file.
    pub(super) fn upstream_places(&self) -> Vec<Vec<Range<usize>>> {
        let tables = self.upstream_tables().iter();
        tables.map(|(_, table)| places(table)).collect()
    }

    /// All upstreams, if nothing is wrong with them.
    pub(super) fn upstreams(&mut self) -> Option<Vec<Settings>> {
        self.unused_upstreams();
        let tables = self.upstream_tables().iter();
        let settings: Vec<_> = tables.map(|(name, table)| self.upstream(name, table)).collect();
        settings.into_iter().collect()
    }

    fn upstream(&mut self, name: &At<String>, table: &file::Upstream) -> Option<Settings> {
        if !table.has("endpoints") && !table.has("endpoints_file") {
            let header = format!("[upstream.{}]", toml_key(&name.value));
            let example = "endpoints = [\"127.0.0.1:3000\"]";
            self.missing("endpoints", &header, table.span.clone(), example);
        }
        let mut endpoints = Vec::new();
        if let Some(list) = &table.endpoints {
            endpoints.extend(list.value.iter().filter_map(|endpoint| self.endpoint(endpoint)));
            self.check_endpoints(list);
            if !table.has("endpoints_file") {
                self.check_shares(list, &endpoints);
            }
        }
        let tls = match &table.tls {
            Some(tls) => self.upstream_tls(name, table, tls)?,
            None if table.has("tls") => return None,
            None => None,
        };
        self.check_http2(name, table);
        self.check_proxy_protocol(table);
        self.check_queue(table);
        self.check_hedges(&name.value, table);
        let (health, check) = (self.health(table), self.check(table, tls.as_ref()));
        let hash = self.hashing(&name.value, table, &endpoints);
        let sticky = self.sticky(&name.value, table, &endpoints);
        let pool_idle_max = table.pool_idle_max.as_ref();
        let settings = Settings {
            name: name.value.as_str().into(),
            written: endpoints.as_slice().into(),
            from_file: None,
            endpoints,
            balance: table.balance.as_ref().map(|balance| method(balance.value)),
            hash,
            sticky,
            requests_max: table.requests_max.as_ref().map(|most| to_usize(most.value.0)),
            queue_max: table
                .queue_max
                .as_ref()
                .map_or(1024, |most| to_usize(most.value.0)),
            queue_timeout: seconds(table.queue_timeout.as_ref(), 5),
            host: table.host.as_ref().map(|host| host.value.0.clone()),
            connect_timeout: seconds(table.connect_timeout.as_ref(), 5),
            response_timeout: seconds(table.response_timeout.as_ref(), 60),
            idle_timeout: seconds(table.idle_timeout.as_ref(), 60),
            pool_idle_max: pool_idle_max.map_or(1024, |most| to_usize(most.value.0)),
            pool_idle_timeout: seconds(table.pool_idle_timeout.as_ref(), 60),
            pool_lifetime: seconds(table.pool_lifetime.as_ref(), 3600),
            counted: Default::default(),
            proxy_protocol: table.proxy_protocol.as_ref().map(|version| version.value.0),
            retry_budget: health::percent(table.retry_budget.as_ref(), 20),
            health: health?,
            check: check?,
            http2: is_on(table.http2.as_ref(), false),
            http2_window_bytes: self.http2_window(table),
            tls,
        };
        self.with_file(table, settings)
    }

    /// With the endpoints of its file, if it has one.
    fn with_file(&mut self, table: &file::Upstream, settings: Settings) -> Option<Settings> {
        let Some(written) = &table.endpoints_file else {
            return Some(settings).filter(|_| !table.has("endpoints_file"));
        };
        let path = self.path(&written.value);
        match endpoints_file::load(&path, &settings) {
            Ok(endpoints) => {
                let settings = Settings {
                    from_file: Some(FromFile {
                        path: path.into(),
                        endpoints,
                    }),
                    ..settings
                };
                Some(expand(&settings, &Answers::new()))
            }
            Err(report) => {
                for (place, one) in report.located() {
                    let help = one.help.clone().unwrap_or_default();
                    self.error(
                        one.code,
                        written.span.clone(),
                        format!("{place}: {}", one.message),
                        help,
                    );
                }
                None
            }
        }
    }

    /// The endpoints of a file of their own.
    pub(super) fn endpoints_of(
        &mut self,
        file: &file::EndpointsFile,
        upstream: &Settings,
    ) -> Option<Vec<EndpointSettings>> {
        let Some(list) = &file.endpoints else {
            if !file.has("endpoints") {
                let example =
                    "endpoints = [\"127.0.0.1:3000\"]; in JSON: { \"endpoints\": [\"127.0.0.1:3000\"] }";
                self.missing("endpoints", "the file", file.span.clone(), example);
            }
            return None;
        };
        let endpoints = list.value.iter().filter_map(|endpoint| self.endpoint(endpoint));
        let endpoints: Vec<_> = endpoints.collect();
        self.check_endpoints(list);
        if list.value.len() > endpoints_file::ENDPOINTS_MAX {
            let message = format!("there are {} endpoints", list.value.len());
            let help = format!("write {} at most", endpoints_file::ENDPOINTS_MAX);
            self.error("out-of-range", list.span.clone(), message, help);
        }
        let all: Vec<_> = upstream.written.iter().chain(&endpoints).cloned().collect();
        self.check_shares(list, &all);
        // As where they are written in the upstream itself.
        let needs_name = upstream.tls.as_ref().is_some_and(|tls| tls.server_name.is_none());
        for endpoint in list.value.iter().filter(|_| needs_name) {
            let address = endpoint.value.address().map(|endpoint| &endpoint.0);
            if let Some(message) = address.and_then(nameless) {
                let help = "write in the upstream: tls = { server_name = \"app.internal\" }";
                self.error("missing-key", endpoint.span.clone(), message, help);
            }
        }
        Some(endpoints)
    }

    /// Bytes are passed on in the protocol of the client, whatever it is.
    fn check_http2(&mut self, name: &At<String>, table: &file::Upstream) {
        let Some(http2) = table.http2.as_ref().filter(|http2| http2.value) else {
            return;
        };
        if self.is_for_listeners(&name.value) {
            let message = "`http2` in an upstream is for routes, and a listener in tcp mode uses this one";
            let help = "leave it out: in tcp mode bytes are passed on as they are; or give the listener an upstream of its own";
            self.error("misplaced-key", http2.key.clone(), message, help);
        }
    }

    fn http2_window(&mut self, table: &file::Upstream) -> u32 {
        let written = table.http2_window.as_ref();
        let window = bytes(written, WINDOW_BYTES.into());
        if !WINDOWS.contains(&window) {
            let help = "write a size from \"1MiB\" to \"1GiB\"";
            self.error(
                "out-of-range",
                span(written),
                "`http2_window` is out of range",
                help,
            );
        }
        u32::try_from(window).unwrap_or(WINDOW_BYTES)
    }

    /// A connection that tells of one client cannot carry another's requests.
    fn check_proxy_protocol(&mut self, table: &file::Upstream) {
        let http2 = table.http2.as_ref().filter(|http2| http2.value);
        if let (Some(version), Some(http2)) = (&table.proxy_protocol, http2) {
            let message = "`proxy_protocol` tells of one client, and connections of HTTP/2 are shared by all";
            let diagnostic = Diagnostic::error("conflicting-keys", version.key.clone(), message)
                .help("leave one of them out; over HTTP/2 the client's address is in X-Forwarded-For")
                .related(http2.key.clone(), "the other one");
            self.found.push(diagnostic);
        }
    }

    /// Nobody waits where no endpoint is ever full. A file of endpoints may bring some that are, by and by.
    fn check_queue(&mut self, table: &file::Upstream) {
        let has_limit = |endpoint: &At<EndpointValue>| match &endpoint.value {
            EndpointValue::Short(_) => false,
            EndpointValue::Table(table) => table.has("connections_max"),
        };
        let mut endpoints = table.endpoints.iter().flat_map(|list| &list.value);
        if table.has("endpoints_file") || endpoints.any(has_limit) {
            return;
        }
        let most = table.queue_max.as_ref().map(|most| &most.key);
        let timeout = table.queue_timeout.as_ref().map(|timeout| &timeout.key);
        for key in most.into_iter().chain(timeout) {
            let message = "nobody waits: no endpoint of this upstream has `connections_max`";
            let help = "write in an endpoint: { address = \"…\", connections_max = 100 }; or leave this out";
            self.warning("no-effect", key.clone(), message, help);
        }
    }

    /// Whether routes that have a second endpoint asked beside a slow one have the time for it, and the budget.
    fn check_hedges(&mut self, name: &str, table: &file::Upstream) {
        let timeout = table.response_timeout.as_ref();
        let patience = seconds(timeout, 60);
        let no_budget = table.retry_budget.as_ref().filter(|budget| budget.value.0 == 0);
        for route in self.route_tables() {
            let mut upstreams = route.upstream.iter().flat_map(|all| all.value.names());
            let after = match route.retry.as_ref().map(|retry| &retry.value) {
                Some(RetryValue::Table(retry)) => retry.hedge_after.as_ref(),
                _ => None,
            };
            let Some(after) = after.filter(|_| upstreams.any(|one| one == name)) else {
                continue;
            };
            let (diagnostic, other) = if after.value.0 >= patience {
                let message = format!("the upstream `{name}` gives an endpoint up before `hedge_after`");
                let help = format!("make it shorter than `response_timeout`, {patience:?}");
                let diagnostic = Diagnostic::error("conflicting-keys", after.key.clone(), message).help(help);
                (diagnostic, timeout.map(|timeout| &timeout.key))
            } else if let Some(budget) = no_budget {
                let message =
                    format!("`hedge_after` asks nobody: the upstream `{name}` has no `retry_budget`");
                let help = "leave it out, or give the upstream a budget: retry_budget = 20";
                let diagnostic = Diagnostic::warning("no-effect", after.key.clone(), message).help(help);
                (diagnostic, Some(&budget.key))
            } else {
                continue;
            };
            self.found.push(match other {
                Some(other) => diagnostic.related(other.clone(), "the other one"),
                None => diagnostic,
            });
        }
    }

    fn endpoint(&mut self, endpoint: &At<EndpointValue>) -> Option<EndpointSettings> {
        let table = match &endpoint.value {
            EndpointValue::Short(address) => return Some(EndpointSettings::at(address.0.clone())),
            EndpointValue::Table(table) => &**table,
        };
        if !table.has("address") {
            let example = "address = \"127.0.0.1:3000\"";
            let header = file::UpstreamEndpoint::TABLE.header;
            self.missing("address", header, table.span.clone(), example);
        }
        let address = table.address.as_ref().map(|address| &address.value.0);
        let is_service = matches!(address, Some(EndpointAddress::Service(_)));
        if let Some(weight) = table.weight.as_ref().filter(|_| is_service) {
            let message = "the records of a service tell the weight of each server";
            let help = "leave `weight` out";
            self.error(
                "conflicting-keys",
                weight.key.start..weight.span.end,
                message,
                help,
            );
        }
        Some(EndpointSettings {
            address: table.address.as_ref()?.value.0.clone(),
            weight: number(table.weight.as_ref(), 1),
            is_backup: is_on(table.backup.as_ref(), false),
            is_drained: is_on(table.drain.as_ref(), false),
            connections_max: table.connections_max.as_ref().map(|most| to_usize(most.value.0)),
        })
    }

    fn check_endpoints(&mut self, list: &At<Vec<At<EndpointValue>>>) {
        // One that could not be read was told already, and leaves the list shorter.
        let is_told = self.found.iter().any(|one| {
            let place = one.span.as_ref();
            place.is_some_and(|place| list.span.contains(&place.start))
        });
        if list.value.is_empty() && !is_told {
            let help = "write at least one: endpoints = [\"127.0.0.1:3000\"]";
            self.error(
                "empty-endpoints",
                list.span.clone(),
                "an upstream needs an endpoint",
                help,
            );
        }
        let mut seen = HashSet::new();
        for endpoint in &list.value {
            let Some(address) = endpoint.value.address() else {
                continue;
            };
            if !seen.insert(address) {
                let help = "leave it out; for more than an equal share write { address = \"…\", weight = 2 }";
                self.warning(
                    "duplicate-endpoint",
                    endpoint.span.clone(),
                    "this endpoint is there twice",
                    help,
                );
            }
        }
    }

    /// Whether there is one that is asked.
    fn check_shares(&mut self, list: &At<Vec<At<EndpointValue>>>, good: &[EndpointSettings]) {
        if good.is_empty() {
            return;
        }
        let (code, message, help) = if good.iter().all(|endpoint| endpoint.weight == 0) {
            (
                "no-weight",
                "every endpoint has the weight 0, so none is ever asked",
                "give one of them a weight: { address = \"127.0.0.1:3000\", weight = 1 }",
            )
        } else if good.iter().all(|endpoint| endpoint.is_drained) {
            (
                "all-drained",
                "every endpoint is drained, so none is ever asked",
                "take `drain` away from one of them, or add another",
            )
        } else if good
            .iter()
            .all(|endpoint| endpoint.is_drained || endpoint.weight == 0)
        {
            (
                "no-weight",
                "every endpoint is drained or has the weight 0, so none is ever asked",
                "take `drain` away from one that has a weight",
            )
        } else if good.iter().all(|endpoint| endpoint.is_backup) {
            (
                "only-backups",
                "every endpoint is a backup, and there is none they stand in for",
                "take `backup` away from those that shall be asked first",
            )
        } else {
            return;
        };
        self.error(code, list.span.clone(), message, help);
    }

    #[expect(clippy::option_option, reason = "outer: right or wrong; inner: TLS or not")]
    fn upstream_tls(
        &mut self,
        name: &At<String>,
        table: &file::Upstream,
        tls: &At<UpstreamTlsValue>,
    ) -> Option<Option<Arc<ClientSettings>>> {
        let nothing = file::UpstreamTls::default();
        let own = match &tls.value {
            UpstreamTlsValue::Short(false) => return Some(None),
            UpstreamTlsValue::Short(true) => &nothing,
            UpstreamTlsValue::Table(own) => &**own,
        };
        let mut endpoints = table.endpoints.iter().flat_map(|list| &list.value);
        let nameless = endpoints.find_map(|endpoint| nameless(&endpoint.value.address()?.0));
        if let Some(message) = nameless.filter(|_| !own.has("server_name")) {
            let help = "write: tls = { server_name = \"app.internal\" }";
            self.error("missing-key", tls.span.clone(), message, help);
        }
        let spoken: &[_] = match (self.is_for_routes(&name.value), &table.http2) {
            (true, Some(http2)) if http2.value => tls::SPOKEN,
            (true, _) => &["http/1.1"],
            (false, _) => &[],
        };
        self.client_tls(own, &tls.span, spoken).map(Some)
    }

    fn unused_upstreams(&mut self) {
        for (name, table) in self.upstream_tables() {
            if !self.is_for_listeners(&name.value) && !self.is_for_routes(&name.value) {
                let message = format!("nothing uses the upstream `{}`", name.value);
                let help = format!(
                    "write in a route: upstream = {:?}; or leave the table out",
                    name.value
                );
                self.warning("unused-upstream", table.span.clone(), message, help);
            }
        }
    }

    fn is_for_routes(&self, name: &str) -> bool {
        self.route_tables().iter().any(|route| {
            let upstreams = route.upstream.as_ref();
            let mirror = route.mirror.as_ref().and_then(|mirror| mirror.value.upstream());
            upstreams.is_some_and(|wanted| wanted.value.names().any(|wanted| wanted == name))
                || mirror == Some(name)
        })
    }

    pub(super) fn is_for_listeners(&self, name: &str) -> bool {
        let mut tcp = self
            .listens()
            .iter()
            .filter(|listen| listen::mode(listen) == Mode::Tcp);
        tcp.any(|listen| {
            listen
                .upstream
                .as_ref()
                .is_some_and(|wanted| wanted.value.names().any(|wanted| wanted == name))
        })
    }
}

/// Where the keys stand that decide where it is and who of it is asked.
fn places(table: &file::Upstream) -> Vec<Range<usize>> {
    let mut places = table.places_of(super::UPSTREAM_KEYS);
    if let Some(sticky) = &table.sticky {
        places.extend(sticky.value.places());
    }
    match table.health.as_ref().map(|health| &health.value) {
        Some(HealthValue::Table(health)) => places.extend(health.places()),
        _ => places.extend(table.places_of(&["health"])),
    }
    match table.outliers.as_ref().map(|outliers| &outliers.value) {
        Some(OutliersValue::Table(outliers)) => places.extend(outliers.places()),
        _ => places.extend(table.places_of(&["outliers"])),
    }
    places.sort_by_key(|place| place.start);
    places
}

/// Why TLS to it needs a name that is written.
fn nameless(address: &EndpointAddress) -> Option<&'static str> {
    match address {
        EndpointAddress::Socket(Address::Unix(_)) => {
            Some("TLS over a Unix socket needs the name to ask for and to verify")
        }
        // RFC 6125 §B.2: nobody vouches for the names in the records.
        EndpointAddress::Service(_) => {
            Some("TLS to a service needs the name to ask for and to verify: its records could name anybody")
        }
        _ => None,
    }
}

fn method(balance: Balance) -> Method {
    match balance {
        Balance::RoundRobin => Method::RoundRobin,
        Balance::LeastConnections => Method::LeastConnections,
        Balance::TwoChoices => Method::TwoChoices,
        Balance::Hash => Method::Hash,
    }
}
