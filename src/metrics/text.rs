//! The sum of what the workers counted, with what the supervisor knows, as Prometheus text.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::counters::{
    ACCEPT_ERRORS, CONNECT_BOUNDS_US, Counter, Counters, Direction, EndpointCounters, Mirrored, PROTOCOLS,
    Peer, Process, STATUS_CLASSES, TLS_VERSIONS, UpstreamCounters, carriers, ends,
};
use crate::offload::Offload;
use crate::outcome::Cause;

/// What the supervisor knows and no worker counts.
#[derive(Clone, Debug)]
pub struct Facts {
    /// When the process started.
    pub started: SystemTime,
    /// The number of the running generation.
    pub generation: u64,
    /// Reloads that brought a new generation.
    pub reloads_finished: u64,
    /// Reloads that changed nothing because the configuration was wrong.
    pub reloads_failed: u64,
    /// The driver of each worker, in their order, as `io_uring`, and the whole sentence about it.
    pub drivers: Vec<(&'static str, String)>,
    /// What the kernel's TLS can do, for the running generation.
    pub offload: Arc<Offload>,
    /// The certificates of the running generation.
    pub certificates: Vec<Certificate>,
    /// The endpoints of the running generation that are checked.
    pub endpoints: Vec<EndpointFact>,
    /// The names that endpoints are found by.
    pub names: Vec<NameFact>,
    /// How many endpoints each upstream has now.
    pub upstreams: Vec<(Arc<str>, usize)>,
    /// The upstreams that have a file of endpoints, and whether it is wrong.
    pub files: Vec<(Arc<str>, bool)>,
    /// The endpoints there are now, with what workers count of each.
    pub counted: Vec<CountedEndpoint>,
}

#[cfg(test)]
impl Facts {
    /// Of a process that does nothing, for tests of others.
    pub fn of_nothing() -> Self {
        Self {
            started: UNIX_EPOCH,
            generation: 1,
            reloads_finished: 0,
            reloads_failed: 0,
            drivers: Vec::new(),
            offload: Offload::absent(crate::outcome::Refusal::NotPreferred).into(),
            certificates: Vec::new(),
            endpoints: Vec::new(),
            names: Vec::new(),
            upstreams: Vec::new(),
            files: Vec::new(),
            counted: Vec::new(),
        }
    }
}

/// A certificate that is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The listener's name.
    pub listener: Arc<str>,
    /// The names it stands for, with commas between them.
    pub names: String,
    /// Its serial number in hexadecimal.
    pub serial: String,
    /// The last moment it is good.
    pub not_after: SystemTime,
}

/// What checks have found of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointFact {
    /// The upstream's name.
    pub upstream: Arc<str>,
    /// The endpoint as the file writes it.
    pub endpoint: Arc<str>,
    /// Whether it is asked.
    pub is_up: bool,
}

/// An endpoint, and what workers count of it.
#[derive(Clone, Debug)]
pub struct CountedEndpoint {
    /// The upstream's name.
    pub upstream: Arc<str>,
    /// The endpoint, as records have it.
    pub endpoint: Arc<str>,
    /// Those of each worker.
    pub counters: Arc<[EndpointCounters]>,
}

/// What look-ups have found of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameFact {
    /// As the file writes it.
    pub name: String,
    /// Whether the last look-up failed.
    pub is_failing: bool,
}

/// All metrics, in the text format of OpenMetrics 1.0, which Prometheus reads.
pub fn text(workers: &[Arc<Counters>], process: &Process, facts: &Facts, now: SystemTime) -> String {
    let mut families = Families::default();
    connections(&mut families, workers);
    handshakes(&mut families, workers);
    exchanges(&mut families, workers);
    carriage(&mut families, workers);
    upstreams(&mut families, workers);
    logs(&mut families, workers, process);
    control_plane(&mut families, facts);
    kernel_tls(&mut families, &facts.offload);
    certificates(&mut families, &facts.certificates, now);
    checks(&mut families, &facts.endpoints);
    discovery(&mut families, process, facts);
    endpoints(&mut families, &facts.counted);
    reuse(&mut families, workers);
    let mut registry = Registry::default();
    registry.register_collector(Box::new(families));
    let mut text = String::new();
    // Writing into a `String` cannot fail.
    let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
    text
}

fn connections(families: &mut Families, workers: &[Arc<Counters>]) {
    for (listener, counters) in workers.iter().flat_map(|worker| worker.listeners()) {
        let labels = vec![("listener", listener.to_string())];
        families.gauge(
            "atlas_downstream_connections_open",
            "Connections of clients that are open",
            labels.clone(),
            counters.open(),
        );
        families.counter(
            "atlas_downstream_connections",
            "Connections accepted",
            labels.clone(),
            counters.total(),
        );
        for (error, count) in ACCEPT_ERRORS.iter().zip(counters.accept_errors()) {
            let mut labels = labels.clone();
            labels.push(("error", (*error).to_owned()));
            families.counter(
                "atlas_accept_errors",
                "Accepts that failed",
                labels,
                count.value(),
            );
        }
    }
    for worker in workers {
        by_end(
            families,
            "atlas_downstream_connections_ended",
            "Connections of clients, by how they ended",
            worker.connections_by_end(),
        );
    }
}

fn handshakes(families: &mut Families, workers: &[Arc<Counters>]) {
    let kinds = TLS_VERSIONS
        .iter()
        .flat_map(|version| Cause::ALL.iter().map(move |cause| (*version, *cause)));
    for worker in workers {
        for ((version, cause), count) in kinds.clone().zip(worker.handshakes_by_version_and_cause()) {
            let labels = vec![
                ("result", cause.as_str().to_owned()),
                ("tls_version", version.to_owned()),
            ];
            families.counter_if_any(
                "atlas_downstream_handshakes",
                "TLS handshakes with clients, by result",
                labels,
                count.value(),
            );
        }
        families.gauge(
            "atlas_tunnels_open",
            "Connections that have switched protocols, as WebSocket does, and are open",
            Vec::new(),
            worker.open_tunnels(),
        );
        families.counter(
            "atlas_downstream_handshakes_resumed",
            "TLS handshakes with clients that took up a session of before",
            Vec::new(),
            worker.handshakes_resumed(),
        );
        by_carrier(
            families,
            "atlas_downstream_carriers",
            "Connections of clients, by who makes their TLS records and why not the kernel",
            worker.carried_by(Peer::Downstream),
        );
        by_carrier(
            families,
            "atlas_upstream_carriers",
            "Exchanges with endpoints, connections in tcp mode among them, by who made their TLS records and why not the kernel",
            worker.carried_by(Peer::Upstream),
        );
    }
}

fn by_carrier(families: &mut Families, name: &'static str, help: &'static str, counts: &[Counter]) {
    for (carrier, count) in carriers().into_iter().zip(counts) {
        let refusal = carrier.refusal().map_or("", |refusal| refusal.as_str());
        let labels = [("carrier", carrier.as_str()), ("refusal", refusal)];
        let labels = labels.map(|(name, value)| (name, value.to_owned()));
        families.counter(name, help, labels.into(), count.value());
    }
}

fn exchanges(families: &mut Families, workers: &[Arc<Counters>]) {
    for worker in workers {
        by_end(
            families,
            "atlas_exchanges",
            "Requests with their responses, by how they ended",
            worker.exchanges_by_end(),
        );
        for (cause, count) in Cause::ALL.iter().zip(worker.streams_refused_by_cause()) {
            families.counter_if_any(
                "atlas_downstream_streams_refused",
                "Streams of HTTP/2 that were refused before they became exchanges, by cause",
                vec![("cause", cause.as_str().to_owned())],
                count.value(),
            );
        }
        for (protocol, count) in PROTOCOLS.iter().zip(worker.requests_by_protocol()) {
            families.counter(
                "atlas_requests",
                "Requests that became exchanges, by the version of HTTP they came by",
                vec![("protocol", (*protocol).to_owned())],
                count.value(),
            );
        }
        for (class, count) in STATUS_CLASSES.iter().zip(worker.responses_by_class()) {
            families.counter(
                "atlas_responses",
                "Exchanges, by the class of the status the client got",
                vec![("class", (*class).to_owned())],
                count.value(),
            );
        }
        for (direction, count) in Direction::ALL.iter().zip(worker.bytes_by_direction()) {
            families.counter(
                "atlas_bytes",
                "Bytes inside TLS, by direction",
                vec![("direction", direction.as_str().to_owned())],
                count.value(),
            );
        }
    }
}

fn carriage(families: &mut Families, workers: &[Arc<Counters>]) {
    for (worker, peer) in workers
        .iter()
        .flat_map(|worker| Peer::ALL.map(|peer| (worker, peer)))
    {
        let carried = worker.carried_to(peer);
        let (spliced, sendfile) = (carried.spliced.value(), carried.sendfile.value());
        let all = worker.bytes_by_direction()[peer.direction() as usize].value();
        for (way, count) in [
            ("copied", all.saturating_sub(spliced).saturating_sub(sendfile)),
            ("spliced", spliced),
            ("sendfile", sendfile),
        ] {
            families.counter(
                "atlas_bytes_sent",
                "Bytes written, inside TLS, by how they came there: through memory, or inside the kernel",
                vec![("peer", peer.as_str().to_owned()), ("way", way.to_owned())],
                count,
            );
        }
        for (name, help, received, sent) in [
            (
                "atlas_tls_key_updates",
                "Key updates on connections",
                &carried.key_updates_received,
                &carried.key_updates_sent,
            ),
            (
                "atlas_kernel_tls_records",
                "TLS records of connections that the kernel carried, added when they end",
                &carried.records_received,
                &carried.records_sent,
            ),
        ] {
            for (direction, count) in [("received", received), ("sent", sent)] {
                let labels = [("peer", peer.as_str()), ("direction", direction)];
                let labels = labels.map(|(name, value)| (name, value.to_owned()));
                families.counter(name, help, labels.into(), count.value());
            }
        }
        for (result, count) in [
            ("finished", &carried.promotions_done),
            ("failed", &carried.promotions_failed),
        ] {
            families.counter(
                "atlas_kernel_tls_promotions",
                "Connections whose TLS was handed to the kernel, and those that were lost by it",
                vec![("peer", peer.as_str().to_owned()), ("result", result.to_owned())],
                count.value(),
            );
        }
    }
}

fn kernel_tls(families: &mut Families, offload: &Offload) {
    let refusal = offload.refusal();
    let labels = vec![
        ("usable", if refusal.is_none() { "yes" } else { "no" }.to_owned()),
        (
            "refusal",
            refusal.map_or_else(String::new, |refusal| refusal.as_str().to_owned()),
        ),
    ];
    families.gauge(
        "atlas_kernel_tls_info",
        "Always 1; whether the kernel makes TLS records here, and why not, is in the labels",
        labels,
        1,
    );
    families.gauge(
        "atlas_kernel_tls_breaker_open",
        "1 while no connection goes to the kernel because it has refused keys of others",
        Vec::new(),
        u64::from(offload.allows().is_err()),
    );
}

fn by_end(families: &mut Families, name: &'static str, help: &'static str, counters: &[Counter]) {
    for (end, count) in ends().zip(counters) {
        let labels = vec![
            ("side", end.side.as_str().to_owned()),
            ("phase", end.phase.as_str().to_owned()),
            ("cause", end.cause.as_str().to_owned()),
        ];
        families.counter_if_any(name, help, labels, count.value());
    }
}

fn upstreams(families: &mut Families, workers: &[Arc<Counters>]) {
    for (upstream, counters) in workers.iter().flat_map(|worker| worker.upstreams()) {
        let labels = vec![("upstream", upstream.to_string())];
        for (source, count) in [("reused", counters.reused()), ("new", counters.fresh())] {
            let mut labels = labels.clone();
            labels.push(("source", source.to_owned()));
            families.counter(
                "atlas_upstream_connections",
                "Connections to endpoints put to use: reused from the pool, or new",
                labels,
                count,
            );
        }
        for (name, help, counts) in [
            (
                "atlas_upstream_connect_failures",
                "Connections to endpoints that could not be had",
                counters.connect_failures_by_cause(),
            ),
            (
                "atlas_upstream_retries",
                "Requests sent again after an endpoint had been connected to, by what had become of them there",
                counters.retries_by_cause(),
            ),
            (
                "atlas_upstream_ejections",
                "Endpoints a worker left alone for a while because live exchanges failed, by the last cause",
                counters.ejections_by_cause(),
            ),
            (
                "atlas_upstream_refusals",
                "Requests, or connections in tcp mode, turned away because too much was under way, by the bound",
                counters.refusals_by_cause(),
            ),
        ] {
            by_cause(families, name, help, &labels, counts);
        }
        upstream_now(families, labels, counters);
    }
}

/// What became of mirrored requests, what waits and who is left alone now, and how long connecting took.
fn upstream_now(families: &mut Families, labels: Labels, counters: &UpstreamCounters) {
    for ((_, result), count) in Mirrored::ALL.iter().zip(counters.mirrored_by_result()) {
        let mut labels = labels.clone();
        labels.push(("result", (*result).to_owned()));
        families.counter_if_any(
            "atlas_upstream_mirrored",
            "Requests sent here as a mirror, or left out, by what became of them",
            labels,
            count.value(),
        );
    }
    families.gauge(
        "atlas_upstream_queue_length",
        "Exchanges that wait because every endpoint has its connections_max",
        labels.clone(),
        counters.queued_now(),
    );
    families.gauge(
        "atlas_upstream_endpoints_ejected",
        "Endpoints that are left alone now, counted once for each worker that does so",
        labels.clone(),
        counters.ejected_now(),
    );
    families.add(
        "atlas_upstream_connect_seconds",
        "How long new connections to endpoints took, TLS included",
        MetricType::Histogram,
        labels,
        Value::Histogram(Histogram::of(counters)),
    );
}

/// One counter for each cause that there was.
fn by_cause(
    families: &mut Families,
    name: &'static str,
    help: &'static str,
    labels: &[(&'static str, String)],
    counts: &[Counter],
) {
    for (cause, count) in Cause::ALL.iter().zip(counts) {
        let mut labels = labels.to_vec();
        labels.push(("cause", cause.as_str().to_owned()));
        families.counter_if_any(name, help, labels, count.value());
    }
}

fn logs(families: &mut Families, workers: &[Arc<Counters>], process: &Process) {
    let dropped: u64 = workers.iter().map(|worker| worker.dropped_records()).sum();
    for (log, count) in [
        ("access", dropped + process.lost_records()),
        ("error", process.dropped_lines()),
    ] {
        families.counter(
            "atlas_log_lines_dropped",
            "Lines of a log thrown away because they could not be written in time",
            vec![("log", log.to_owned())],
            count,
        );
    }
    families.counter(
        "atlas_panics",
        "Faults in Atlas that ended a connection or a thread",
        Vec::new(),
        process.panics(),
    );
}

fn control_plane(families: &mut Families, facts: &Facts) {
    families.gauge(
        "atlas_start_time_seconds",
        "When the process started, in seconds since 1970",
        Vec::new(),
        seconds(facts.started),
    );
    families.gauge(
        "atlas_build_info",
        "Always 1; the version is in the label",
        vec![("version", env!("CARGO_PKG_VERSION").to_owned())],
        1,
    );
    families.gauge(
        "atlas_generation_number",
        "How often a configuration was taken, the first included",
        Vec::new(),
        facts.generation,
    );
    for (result, count) in [
        ("finished", facts.reloads_finished),
        ("failed", facts.reloads_failed),
    ] {
        families.counter(
            "atlas_reloads",
            "Reloads of the configuration",
            vec![("result", result.to_owned())],
            count,
        );
    }
    for (worker, (driver, detail)) in facts.drivers.iter().enumerate() {
        let labels = vec![
            ("worker", worker.to_string()),
            ("driver", (*driver).to_owned()),
            ("detail", detail.clone()),
        ];
        families.gauge(
            "atlas_worker_driver_info",
            "Always 1; how a worker learns of its sockets is in the labels",
            labels,
            1,
        );
    }
}

fn certificates(families: &mut Families, certificates: &[Certificate], now: SystemTime) {
    for certificate in certificates {
        let labels = vec![
            ("listener", certificate.listener.to_string()),
            ("names", certificate.names.clone()),
            ("serial", certificate.serial.clone()),
        ];
        let not_after = seconds(certificate.not_after);
        families.gauge(
            "atlas_tls_certificate_not_after_seconds",
            "The last moment a certificate is good, in seconds since 1970",
            labels.clone(),
            not_after,
        );
        families.gauge(
            "atlas_tls_certificate_expires_in_seconds",
            "How long a certificate is still good; below zero: it has expired",
            labels,
            not_after - seconds(now),
        );
    }
}

/// Endpoints that are told one by one; who has more looks at the sums.
const ENDPOINTS_TOLD_MAX: usize = 1000;

fn checks(families: &mut Families, endpoints: &[EndpointFact]) {
    for fact in endpoints.iter().take(ENDPOINTS_TOLD_MAX) {
        let labels = vec![
            ("upstream", fact.upstream.to_string()),
            ("endpoint", fact.endpoint.to_string()),
        ];
        families.gauge(
            "atlas_endpoint_up",
            "1 where checks find the endpoint up, else 0; of the first 1000 endpoints that are checked",
            labels,
            u64::from(fact.is_up),
        );
    }
    for fact in endpoints {
        families.gauge(
            "atlas_upstream_endpoints_down",
            "Endpoints that checks have found down",
            vec![("upstream", fact.upstream.to_string())],
            u64::from(!fact.is_up),
        );
    }
}

fn endpoints(families: &mut Families, all: &[CountedEndpoint]) {
    for one in all.iter().take(ENDPOINTS_TOLD_MAX) {
        let labels = || {
            let endpoint = one.endpoint.to_string();
            vec![("upstream", one.upstream.to_string()), ("endpoint", endpoint)]
        };
        for counters in &*one.counters {
            for (source, count) in counters.sources() {
                let mut labels = labels();
                labels.push(("source", source.to_owned()));
                families.counter(
                    "atlas_endpoint_requests",
                    "Requests to an endpoint, by whether their connection was reused or new; of the first 1000 endpoints",
                    labels,
                    count,
                );
            }
            for (name, help, count) in [
                (
                    "atlas_endpoint_requests_open",
                    "Requests under way with an endpoint; of the first 1000",
                    counters.open_now(),
                ),
                (
                    "atlas_endpoint_connections_idle",
                    "Idle connections to an endpoint; of the first 1000",
                    counters.idle_now(),
                ),
                (
                    "atlas_endpoint_ejected",
                    "Workers that leave an endpoint alone now; of the first 1000",
                    counters.ejected_now(),
                ),
            ] {
                families.gauge(name, help, labels(), count);
            }
        }
    }
}

fn reuse(families: &mut Families, workers: &[Arc<Counters>]) {
    for (worker, counters) in workers.iter().enumerate() {
        let of = |count: fn(&UpstreamCounters) -> u64| -> u64 {
            counters.upstreams().map(|(_, upstream)| count(upstream)).sum()
        };
        let (reused, fresh) = (of(UpstreamCounters::reused), of(UpstreamCounters::fresh));
        for (source, count) in [("reused", reused), ("new", fresh)] {
            families.counter(
                "atlas_worker_upstream_connections",
                "Connections to endpoints put to use by a worker: reused from its pools, or new",
                vec![("worker", worker.to_string()), ("source", source.to_owned())],
                count,
            );
        }
        families.add(
            "atlas_worker_upstream_reuse_ratio",
            "The part of these that was reused, from 0 to 1, since the start",
            MetricType::Gauge,
            vec![("worker", worker.to_string())],
            Value::Ratio(ratio(reused, reused + fresh)),
        );
    }
}

#[expect(clippy::cast_precision_loss, reason = "a ratio of counts, for people")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

fn discovery(families: &mut Families, process: &Process, facts: &Facts) {
    for (upstream, count) in &facts.upstreams {
        families.gauge(
            "atlas_upstream_endpoints",
            "Endpoints of an upstream, those found by names included",
            vec![("upstream", upstream.to_string())],
            *count as u64,
        );
    }
    for (upstream, is_wrong) in &facts.files {
        families.gauge(
            "atlas_upstream_endpoints_file_failing",
            "1 while an upstream's file of endpoints is wrong and what it said before is kept, else 0",
            vec![("upstream", upstream.to_string())],
            u64::from(*is_wrong),
        );
    }
    for (result, was_well) in [("finished", true), ("failed", false)] {
        families.counter(
            "atlas_resolver_lookups",
            "Look-ups of names of endpoints",
            vec![("result", result.to_owned())],
            process.lookups(was_well),
        );
    }
    for fact in &facts.names {
        families.gauge(
            "atlas_resolver_name_failing",
            "1 while the last look-up of a name failed and the answer before it is kept, else 0",
            vec![("name", fact.name.clone())],
            u64::from(fact.is_failing),
        );
    }
}

/// Seconds since 1970, negative before.
fn seconds(moment: SystemTime) -> i64 {
    match moment.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_secs()).map_or(i64::MIN, |seconds| -seconds),
    }
}

type Labels = Vec<(&'static str, String)>;

/// The families in the order they were first named; samples with the same labels are added up.
#[derive(Debug, Default)]
struct Families(Vec<Family>);

#[derive(Debug)]
struct Family {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    samples: BTreeMap<Labels, Value>,
}

#[derive(Debug)]
enum Value {
    Counter(u64),
    Gauge(i64),
    Ratio(f64),
    Histogram(Histogram),
}

impl Families {
    fn counter(&mut self, name: &'static str, help: &'static str, labels: Labels, value: u64) {
        self.add(name, help, MetricType::Counter, labels, Value::Counter(value));
    }

    /// For families with so many labels that those nothing happened to are left out.
    fn counter_if_any(&mut self, name: &'static str, help: &'static str, labels: Labels, value: u64) {
        if value > 0 {
            self.counter(name, help, labels, value);
        }
    }

    fn gauge(&mut self, name: &'static str, help: &'static str, labels: Labels, value: impl TryInto<i64>) {
        let value = value.try_into().unwrap_or(i64::MAX);
        self.add(name, help, MetricType::Gauge, labels, Value::Gauge(value));
    }

    fn add(
        &mut self,
        name: &'static str,
        help: &'static str,
        kind: MetricType,
        labels: Labels,
        value: Value,
    ) {
        let at = match self.0.iter().position(|family| family.name == name) {
            Some(at) => at,
            None => {
                self.0.push(Family {
                    name,
                    help,
                    kind,
                    samples: BTreeMap::new(),
                });
                self.0.len() - 1
            }
        };
        match self.0[at].samples.entry(labels) {
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(value);
            }
            std::collections::btree_map::Entry::Occupied(mut entry) => entry.get_mut().add(value),
        }
    }
}

impl Value {
    fn add(&mut self, other: Self) {
        match (self, other) {
            (Self::Counter(sum), Self::Counter(more)) => *sum = sum.wrapping_add(more),
            (Self::Gauge(sum), Self::Gauge(more)) => *sum = sum.saturating_add(more),
            (Self::Histogram(sum), Self::Histogram(more)) => sum.add(&more),
            _ => debug_assert!(false, "a family has one kind"),
        }
    }
}

impl Value {
    fn encode(&self, sample: &mut MetricEncoder<'_>) -> fmt::Result {
        match self {
            Self::Counter(value) => sample.encode_counter::<NoLabelSet, _, u64>(value, None),
            Self::Gauge(value) => sample.encode_gauge(value),
            Self::Ratio(value) => sample.encode_gauge(value),
            Self::Histogram(value) => sample.encode_histogram::<NoLabelSet>(
                micros_as_seconds(value.sum_us),
                value.counts.iter().sum(),
                &value.buckets(),
                None,
            ),
        }
    }
}

/// How many were within each bound, and their sum in microseconds.
#[derive(Debug)]
struct Histogram {
    counts: Vec<u64>,
    sum_us: u64,
}

impl Histogram {
    fn of(counters: &UpstreamCounters) -> Self {
        Self {
            counts: counters.connect_buckets().iter().map(Counter::value).collect(),
            sum_us: counters.connect_us(),
        }
    }

    fn add(&mut self, other: &Self) {
        self.sum_us = self.sum_us.wrapping_add(other.sum_us);
        for (sum, more) in self.counts.iter_mut().zip(&other.counts) {
            *sum = sum.wrapping_add(*more);
        }
    }

    /// Bounds in seconds with their counts; the library adds them up.
    fn buckets(&self) -> Vec<(f64, u64)> {
        let bounds = CONNECT_BOUNDS_US
            .iter()
            .map(|bound| micros_as_seconds(*bound))
            .chain([f64::INFINITY]);
        bounds.zip(self.counts.iter().copied()).collect()
    }
}

#[expect(clippy::cast_precision_loss, reason = "285 years of microseconds are exact")]
fn micros_as_seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for family in &self.0 {
            let mut metric = encoder.encode_descriptor(family.name, family.help, None, family.kind)?;
            for (labels, value) in &family.samples {
                if labels.is_empty() {
                    value.encode(&mut metric)?; // else it would have empty braces
                } else {
                    value.encode(&mut metric.encode_family(labels)?)?;
                }
            }
        }
        Ok(())
    }
}
