//! Health of upstreams: what live exchanges tell, and checks.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::super::file::{self, HealthValue, OutliersValue, Percent};
use super::super::read::At;
use super::super::values::{StatusRange, Time};
use super::{Resolver, is_on, number, seconds, values};
use crate::runtime::Address;
use crate::tls::ClientSettings;
use crate::upstream::EndpointAddress;
use crate::upstream::health::{Check, Outliers, Request, Settings, Statuses};

impl Resolver<'_> {
    /// What live exchanges tell; `None` if something is wrong with it.
    pub(super) fn health(&mut self, table: &file::Upstream) -> Option<Settings> {
        let default = Outliers::default();
        let outliers = match table.outliers.as_ref().map(|outliers| &outliers.value) {
            Some(OutliersValue::Short(false)) => None,
            Some(OutliersValue::Table(table)) => Some(self.outliers(table, &default)?),
            Some(OutliersValue::Short(true)) | None => Some(default),
        };
        Some(Settings {
            outliers,
            slow_start: table.slow_start.as_ref().map(|time| time.value.0),
            panic_below: percent(table.panic_below.as_ref(), 0),
        })
    }

    fn outliers(&mut self, table: &file::OutlierTable, default: &Outliers) -> Option<Outliers> {
        let time = |time: Option<&At<_>>, default: Duration| seconds(time, default.as_secs());
        let ejection_time = time(table.ejection_time.as_ref(), default.ejection_time);
        let longest = time(table.ejection_time_max.as_ref(), default.ejection_time_max);
        let is_explicit = table.ejection_time_max.as_ref();
        if let Some(written) = is_explicit.filter(|_| longest < ejection_time) {
            let message = "the longest ejection is shorter than the first";
            let help = format!("write: ejection_time_max = \"{}\" or more", Time(ejection_time));
            self.error("limit-conflict", written.span.clone(), message, help);
            return None;
        }
        let rate = percent(table.failure_rate.as_ref(), default.failure_rate.unwrap_or(0));
        Some(Outliers {
            failures: number(table.failures.as_ref(), default.failures),
            statuses: statuses(table.status.as_ref()),
            failure_rate: (rate > 0).then_some(rate),
            requests_min: number(table.requests_min.as_ref(), default.requests_min),
            window: time(table.window.as_ref(), default.window),
            slow_after: table.slow_after.as_ref().map(|time| time.value.0),
            ejection_time,
            ejection_time_max: longest.max(ejection_time),
            ejected_max: percent(table.ejected_max.as_ref(), default.ejected_max),
        })
    }

    /// How endpoints are checked, if they are.
    #[expect(
        clippy::option_option,
        reason = "outer: right or wrong; inner: checked or not"
    )]
    pub(super) fn check(
        &mut self,
        upstream: &file::Upstream,
        tls: Option<&Arc<ClientSettings>>,
    ) -> Option<Option<Arc<Check>>> {
        let nothing = file::Health::default();
        let table = match upstream.health.as_ref().map(|health| &health.value) {
            None if upstream.has("health") => return None,
            None | Some(HealthValue::Short(false)) => return Some(None),
            Some(HealthValue::Short(true)) => &nothing,
            Some(HealthValue::Table(table)) => &**table,
        };
        let told = self.found.len();
        let (interval, timeout) = self.check_times(table);
        self.needs_a_path(table);
        self.has_a_port(upstream, table);
        let tls = self.check_tls(table, tls);
        if self.found.len() > told {
            return None;
        }
        let host = table.host.as_ref().or(upstream.host.as_ref());
        let request = table.path.as_ref().map(|path| Request {
            target: path.value.0.clone(),
            host: host.map(|host| host.value.0.clone()),
            statuses: match &table.status {
                Some(written) => statuses(Some(written)),
                None => Statuses(vec![200..=399]),
            },
            body: table.body.as_ref().map(|text| text.value.as_str().into()),
        });
        Some(Some(Arc::new(Check {
            // Another port is not what clients come to.
            proxy_protocol: upstream
                .proxy_protocol
                .as_ref()
                .filter(|_| table.port.is_none())
                .map(|version| version.value.0),
            request,
            port: table
                .port
                .as_ref()
                .and_then(|port| u16::try_from(port.value.0).ok()),
            // Another port, without TLS to agree on it, is taken for one of HTTP/1.1.
            http2: is_on(upstream.http2.as_ref(), false) && (tls.is_some() || table.port.is_none()),
            tls,
            interval,
            jitter: percent(table.jitter.as_ref(), 10),
            timeout,
            rise: number(table.rise.as_ref(), 2),
            fall: number(table.fall.as_ref(), 3),
        })))
    }

    /// The default timeout gives way to a shorter interval that is written.
    fn check_times(&mut self, table: &file::Health) -> (Duration, Duration) {
        let interval = seconds(table.interval.as_ref(), 5);
        let Some(written) = &table.timeout else {
            return (interval, interval.min(Duration::from_secs(2)));
        };
        let timeout = written.value.0;
        if timeout > interval {
            let message = format!("a check may take {timeout:?}, and the next begins after {interval:?}");
            let help = format!(
                "write: timeout = \"{}\" or less, or raise `interval`",
                Time(interval)
            );
            self.error("limit-conflict", written.span.clone(), message, help);
        }
        (interval, timeout)
    }

    fn needs_a_path(&mut self, table: &file::Health) {
        let asked = ["status", "body", "host"];
        let mut stray = table.written.iter().filter(|(key, _)| asked.contains(key));
        if let Some((key, place)) = stray.next().cloned().filter(|_| !table.has("path")) {
            let message = format!("`{key}` is about an answer, and without `path` nothing is asked");
            self.error("misplaced-key", place, message, "write: path = \"/health\"");
        }
        let told = |place: &Range<usize>| {
            let mut places = self.found.iter().filter_map(|one| one.span.as_ref());
            places.any(|one| place.contains(&one.start))
        };
        // Those that could not be read were told already.
        let empty = table.status.as_ref().filter(|list| list.value.is_empty());
        if let Some(list) = empty.filter(|list| !told(&list.span)) {
            let help = "write: status = [\"200-399\"]";
            self.error("bad-status", list.span.clone(), "no status is good", help);
        }
    }

    fn has_a_port(&mut self, upstream: &file::Upstream, table: &file::Health) {
        let mut endpoints = upstream.endpoints.iter().flat_map(|list| &list.value);
        let is_unix = |endpoint: &At<file::EndpointValue>| {
            let address = endpoint.value.address().map(|endpoint| &endpoint.0);
            matches!(address, Some(EndpointAddress::Socket(Address::Unix(_))))
        };
        if let Some(port) = table.port.as_ref().filter(|_| endpoints.any(is_unix)) {
            let message = "an endpoint is a Unix socket, which has no port";
            let help = "leave `port` out: the check asks the socket itself";
            self.error("conflicting-keys", port.key.start..port.span.end, message, help);
        }
    }

    fn check_tls(
        &mut self,
        table: &file::Health,
        tls: Option<&Arc<ClientSettings>>,
    ) -> Option<Arc<ClientSettings>> {
        let speaks = is_on(table.tls.as_ref(), tls.is_some());
        match (speaks, tls) {
            (true, Some(tls)) => {
                let name = table.server_name.as_ref();
                let name = name.and_then(|name| self.server_name(name));
                Some(Arc::new(tls.for_checks(name)))
            }
            (true, None) => {
                let place = table
                    .tls
                    .as_ref()
                    .map_or_else(|| table.span.clone(), |tls| tls.span.clone());
                let message = "checks speak TLS as the upstream does, and this one has none";
                let help = "write in the upstream: tls = true";
                self.error("misplaced-key", place, message, help);
                None
            }
            (false, _) => {
                if let Some(name) = &table.server_name {
                    let message = "`server_name` is asked for in TLS, which this check does not speak";
                    let help = "write `host` for the Host of the request";
                    self.error("misplaced-key", name.key.start..name.span.end, message, help);
                }
                None
            }
        }
    }
}

fn statuses(list: Option<&At<Vec<At<StatusRange>>>>) -> Statuses {
    Statuses(values(list, |range| range.0.clone()))
}

pub(super) fn percent(written: Option<&At<Percent>>, default: u8) -> u8 {
    written.map_or(default, |number| u8::try_from(number.value.0).unwrap_or(u8::MAX))
}
