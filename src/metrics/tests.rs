//! Whether what is counted is what is told.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use super::*;
use crate::offload::Offload;
use crate::outcome::{Carriage, Carrier, Cause, End, Phase, Refusal, Side, Tally};

fn facts() -> Facts {
    Facts {
        started: UNIX_EPOCH + Duration::from_secs(1000),
        generation: 3,
        reloads_finished: 2,
        reloads_failed: 1,
        drivers: vec![("io_uring", "io_uring (cooperative)".to_owned())],
        offload: Offload::absent(Refusal::NoUlp).into(),
        certificates: vec![Certificate {
            listener: Arc::from("we\"b\\\n"),
            names: "a.test,*.b.test".to_owned(),
            serial: "0a".to_owned(),
            not_after: UNIX_EPOCH + Duration::from_secs(2000),
        }],
        endpoints: Vec::new(),
        names: vec![NameFact {
            name: "app.test:80".to_owned(),
            is_failing: true,
        }],
        upstreams: vec![("app".into(), 2)],
        files: vec![("app".into(), true)],
        counted: vec![CountedEndpoint {
            upstream: "app".into(),
            endpoint: "10.0.0.1:80".into(),
            counters: [EndpointCounters::default(), EndpointCounters::default()].into(),
        }],
    }
}

/// Samples by name and labels; checks the grammar on the way.
fn parse(text: &str) -> BTreeMap<String, f64> {
    assert!(text.ends_with("# EOF\n"));
    let mut families = BTreeSet::new();
    let mut samples = BTreeMap::new();
    for line in text.lines().filter(|line| *line != "# EOF") {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (kind, name) = (words.next().unwrap(), words.next().unwrap());
            assert!(words.next().is_some_and(|rest| !rest.is_empty()), "{line}");
            assert!(kind == "HELP" || kind == "TYPE", "{line}");
            if kind == "TYPE" {
                assert!(families.insert(name.to_owned()), "{name} comes twice");
            }
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        let name = series.split('{').next().unwrap();
        let is_word = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
        assert!(name.bytes().all(is_word), "{line}");
        let family = ["_total", "_sum", "_count", "_bucket"]
            .iter()
            .find_map(|suffix| name.strip_suffix(suffix))
            .unwrap_or(name);
        assert!(families.contains(family), "{name} has no TYPE");
        let before = samples.insert(series.to_owned(), value.parse().unwrap());
        assert_eq!(before, None, "{series} comes twice");
    }
    samples
}

/// What a worker may have to count, once.
fn count(worker: &Counters) {
    let listener = worker.listener(&Arc::from("web"));
    listener.connection_opened();
    listener.connection_opened();
    listener.connection_closed();
    listener.accept_failed(&io::Error::from_raw_os_error(libc::EMFILE));
    worker.handshake_finished("TLSv1.3", true);
    worker.handshake_failed(Cause::NotTls);
    worker.carried(Peer::Downstream, Carrier::Process(Refusal::NotPreferred));
    worker.carried(Peer::Downstream, Carrier::None);
    worker.carried(Peer::Upstream, Carrier::Kernel);
    worker.connection_ended(End::new(Side::Atlas, Phase::Idle, Cause::Idle));
    worker.exchange_ended(
        End::new(Side::Upstream, Phase::Connect, Cause::TimedOut),
        Some(504),
    );
    worker.exchange_ended(End::finished(Side::Downstream), None);
    worker.stream_refused(Cause::Malformed);
    worker.bytes_moved(Direction::ToDownstream, 100);
    worker.records_dropped(1);
    let upstream = worker.upstream(&Arc::from("app"));
    upstream.connection_reused();
    upstream.connected(Duration::from_micros(400));
    upstream.connected(Duration::from_secs(60));
    upstream.connect_failed(Cause::Refused);
}

/// What was carried, by whom, and what was lost with it.
fn count_carried(worker: &Counters) {
    let tally = |spliced, sendfile, received, sent| Tally {
        carrier: Carrier::Kernel,
        spliced,
        sendfile,
        key_updates_received: received,
        key_updates_sent: sent,
    };
    let lost = End::new(Side::Downstream, Phase::ResponseBody, Cause::KernelRefusedKeys);
    worker.carried_since(Peer::Downstream, Tally::default(), tally(30, 20, 2, 1), None);
    worker.carried_since(
        Peer::Downstream,
        tally(30, 20, 2, 1),
        tally(40, 20, 2, 1),
        Some(lost),
    );
    worker.carried_since(Peer::Downstream, Tally::default(), tally(0, 0, 0, 0), Some(lost));
    worker.carried_since(Peer::Upstream, Tally::default(), tally(0, 0, 0, 0), Some(lost));
    let carriage = Carriage::new(Carrier::Kernel);
    carriage.records_received.set(5);
    carriage.records_sent.set(7);
    worker.records_moved(Peer::Downstream, &carriage);
}

/// What is told of two workers that have counted so.
#[rustfmt::skip]
const TOLD: &[(&str, f64)] = &[
    (r#"atlas_downstream_connections_open{listener="web"}"#, 2.0),
    (r#"atlas_downstream_connections_total{listener="web"}"#, 4.0),
    (r#"atlas_accept_errors_total{listener="web",error="no_descriptors"}"#, 2.0),
    (r#"atlas_downstream_handshakes_total{result="finished",tls_version="TLSv1.3"}"#, 2.0),
    (r#"atlas_downstream_handshakes_total{result="not_tls",tls_version="none"}"#, 2.0),
    ("atlas_downstream_handshakes_resumed_total", 2.0),
    (r#"atlas_downstream_carriers_total{carrier="process",refusal="not_preferred"}"#, 2.0),
    (r#"atlas_downstream_carriers_total{carrier="none",refusal=""}"#, 2.0),
    (r#"atlas_upstream_carriers_total{carrier="kernel",refusal=""}"#, 2.0),
    (r#"atlas_upstream_carriers_total{carrier="none",refusal=""}"#, 0.0),
    (r#"atlas_downstream_connections_ended_total{side="atlas",phase="idle",cause="idle"}"#, 2.0),
    (r#"atlas_exchanges_total{side="upstream",phase="connect",cause="timed_out"}"#, 2.0),
    (r#"atlas_responses_total{class="5xx"}"#, 2.0),
    (r#"atlas_responses_total{class="none"}"#, 2.0),
    (r#"atlas_downstream_streams_refused_total{cause="malformed"}"#, 2.0),
    (r#"atlas_bytes_total{direction="to_downstream"}"#, 200.0),
    (r#"atlas_bytes_sent_total{peer="downstream",way="copied"}"#, 80.0),
    (r#"atlas_bytes_sent_total{peer="downstream",way="spliced"}"#, 80.0),
    (r#"atlas_bytes_sent_total{peer="downstream",way="sendfile"}"#, 40.0),
    (r#"atlas_tls_key_updates_total{peer="downstream",direction="received"}"#, 4.0),
    (r#"atlas_tls_key_updates_total{peer="downstream",direction="sent"}"#, 2.0),
    (r#"atlas_kernel_tls_records_total{peer="downstream",direction="received"}"#, 10.0),
    (r#"atlas_kernel_tls_records_total{peer="downstream",direction="sent"}"#, 14.0),
    (r#"atlas_kernel_tls_promotions_total{peer="downstream",result="finished"}"#, 2.0),
    (r#"atlas_kernel_tls_promotions_total{peer="downstream",result="failed"}"#, 2.0),
    (r#"atlas_kernel_tls_promotions_total{peer="upstream",result="finished"}"#, 2.0),
    (r#"atlas_kernel_tls_info{usable="no",refusal="no_ulp"}"#, 1.0),
    ("atlas_kernel_tls_breaker_open", 0.0),
    (r#"atlas_log_lines_dropped_total{log="access"}"#, 7.0),
    (r#"atlas_log_lines_dropped_total{log="error"}"#, 3.0),
    ("atlas_panics_total", 1.0),
    (r#"atlas_upstream_connections_total{upstream="app",source="reused"}"#, 2.0),
    (r#"atlas_upstream_connections_total{upstream="app",source="new"}"#, 4.0),
    (r#"atlas_upstream_connect_failures_total{upstream="app",cause="refused"}"#, 2.0),
    (r#"atlas_upstream_connect_seconds_bucket{le="0.00025",upstream="app"}"#, 0.0),
    (r#"atlas_upstream_connect_seconds_bucket{le="0.0005",upstream="app"}"#, 2.0),
    (r#"atlas_upstream_connect_seconds_bucket{le="5.0",upstream="app"}"#, 2.0),
    (r#"atlas_upstream_connect_seconds_bucket{le="+Inf",upstream="app"}"#, 4.0),
    (r#"atlas_upstream_connect_seconds_count{upstream="app"}"#, 4.0),
    (r#"atlas_upstream_connect_seconds_sum{upstream="app"}"#, 120.0008),
    (r#"atlas_reloads_total{result="failed"}"#, 1.0),
    (r#"atlas_start_time_seconds"#, 1000.0),
    (r#"atlas_generation_number"#, 3.0),
    (r#"atlas_worker_driver_info{worker="0",driver="io_uring",detail="io_uring (cooperative)"}"#, 1.0),
    (r#"atlas_tls_certificate_expires_in_seconds{listener="we\"b\\\n",names="a.test,*.b.test",serial="0a"}"#, -500.0),
];

#[test]
fn what_the_workers_counted_is_summed_and_told() {
    let workers: Vec<_> = (0..2).map(|_| Arc::new(Counters::new())).collect();
    let process = Process::default();
    for worker in &workers {
        count(worker);
        count_carried(worker);
    }
    process.panicked();
    process.records_lost(5);
    process.lines_dropped(3);
    let now = UNIX_EPOCH + Duration::from_secs(2500);
    let text = text(&workers, &process, &facts(), now);
    let samples = parse(&text);
    for (series, value) in TOLD {
        assert_eq!(samples.get(*series), Some(value), "{series} in\n{text}");
    }
}

#[test]
fn every_end_has_a_counter_of_its_own() {
    let counters = Counters::new();
    for end in counters::ends() {
        counters.exchange_ended(end, Some(200));
        counters.connection_ended(end);
    }
    for carrier in counters::carriers() {
        for peer in Peer::ALL {
            counters.carried(peer, carrier);
        }
    }
    let all = [
        counters.exchanges_by_end(),
        counters.connections_by_end(),
        counters.carried_by(Peer::Downstream),
        counters.carried_by(Peer::Upstream),
    ];
    assert!(
        all.iter()
            .all(|row| row.iter().all(|counter| counter.value() == 1))
    );
}

#[test]
fn counters_of_a_name_are_made_once() {
    let counters = Counters::new();
    let (a, b): (Arc<str>, Arc<str>) = (Arc::from("a"), Arc::from("b"));
    counters.listener(&a).connection_opened();
    counters.listener(&b).connection_opened();
    counters.listener(&a).connection_opened();
    let totals: Vec<_> = counters
        .listeners()
        .map(|(name, listener)| (&**name, listener.total()))
        .collect();
    assert_eq!(totals, [("a", 2), ("b", 1)]);
}

#[test]
fn every_metric_and_every_word_of_an_end_is_documented() {
    let document = include_str!("../../docs/operation.md");
    let names = include_str!("text.rs")
        .split('"')
        .filter(|text| text.starts_with("atlas_"));
    let sides = Side::ALL.iter().map(|side| side.as_str());
    let phases = Phase::ALL.iter().map(|phase| phase.as_str());
    let causes = Cause::ALL.iter().map(|cause| cause.as_str());
    let refusals = Refusal::ALL.iter().map(|refusal| refusal.as_str());
    for word in names.chain(sides).chain(phases).chain(causes).chain(refusals) {
        assert!(
            document.contains(&format!("`{word}`")),
            "no `{word}` in docs/operation.md"
        );
    }
}
