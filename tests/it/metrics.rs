//! What `/metrics` says, and health.

use crate::guest;
use crate::support::{Connection, atlas, noise, origin, wait_until};

#[test]
fn what_happens_is_counted() {
    let origin = origin().start();
    let atlas = atlas()
        .top("workers = 2")
        .listens_tls("a.test")
        .forwards_to(&origin)
        .expects_log("handshake")
        .start();
    let mut client = atlas.connect();
    for _ in 0..10 {
        client.get("/");
    }
    let mut bad = Connection::plain(atlas.address()).unwrap();
    bad.send("not TLS at all\r\n\r\n");
    bad.read_to_end();
    for (name, labels, least) in [
        ("atlas_downstream_connections_total", &[][..], 2.0),
        ("atlas_downstream_connections_open", &[], 1.0),
        ("atlas_downstream_handshakes_total", &["finished", "TLSv1.3"], 1.0),
        ("atlas_downstream_handshakes_total", &["not_tls"], 1.0),
        ("atlas_exchanges_total", &["finished"], 10.0),
        ("atlas_upstream_connections_total", &[], 1.0),
    ] {
        wait_until(&format!("{name} {labels:?} is {least}"), || {
            (atlas.metric(name, labels) >= least).then_some(())
        });
    }
    let metrics = atlas.metrics();
    for part in ["bytes", "reuse", "dropped", "expir", "driver"] {
        assert!(metrics.contains(part), "nothing about {part}:\n{metrics}");
    }
}

#[test]
fn the_text_is_what_prometheus_reads() {
    let atlas = atlas().listens_plain().text("[[route]]\nrespond = 204").start();
    atlas.get("/");
    let answer = atlas.admin("/metrics").unwrap();
    let kind = answer.field("content-type").unwrap();
    assert!(
        kind.starts_with("text/plain") || kind.starts_with("application/openmetrics-text"),
        "{kind}"
    );
    for line in answer.text().lines().filter(|line| !line.starts_with('#')) {
        let (sample, value) = line
            .rsplit_once(' ')
            .unwrap_or_else(|| panic!("no value: {line}"));
        assert!(value.parse::<f64>().is_ok(), "{line}");
        assert!(sample.starts_with("atlas_"), "{line}");
    }
}

#[test]
fn health_is_told_and_nothing_else() {
    let atlas = atlas().listens_plain().text("[[route]]\nrespond = 204").start();
    for (path, status) in [
        ("/-/healthy", 200),
        ("/-/ready", 200),
        ("/", 404),
        ("/other", 404),
    ] {
        assert_eq!(atlas.admin(path).unwrap().status, status, "{path}");
    }
}

#[test]
fn how_bytes_went_is_counted_and_recorded() {
    const SIZE: usize = 8 * 1024 * 1024;
    let body = noise(SIZE);
    let app = origin().answers("/app", body.clone()).start();
    let atlas = atlas()
        .listens_plain()
        .file("site/file", &body)
        .text("[[route]]\npath = \"/file\"\nfiles = \"{folder}/site\"\n[[route]]\nupstream = \"app\"")
        .upstream("app", &[app.address()], "")
        .start();
    let mut client = atlas.connect();
    assert!(client.get("/app").body == body);
    assert!(client.get("/file").body == body);
    client.finish();
    let spliced = atlas.exchange("/app")["bytes_spliced"].as_u64().unwrap_or(0);
    let from_file = atlas.exchange("/file")["bytes_sendfile"].as_u64().unwrap_or(0);
    let record = atlas.record("the connection", |record| record["kind"] == "connection");
    let told = |key: &str| record[key].as_u64().unwrap_or(0);
    assert_eq!(told("bytes_spliced"), spliced);
    assert_eq!(told("bytes_sendfile"), from_file);
    let ways = ["bytes_spliced", "bytes_sendfile", "bytes_copied"].map(told);
    assert_eq!(ways.iter().sum::<u64>(), told("bytes_out"));
    // What came with a head is copied with it.
    assert!(
        spliced + from_file > SIZE as u64,
        "{spliced} spliced, {from_file} by sendfile"
    );
    for (way, count) in [("spliced", ways[0]), ("sendfile", ways[1]), ("copied", ways[2])] {
        let labels = ["peer=\"downstream\"", &format!("way=\"{way}\"")];
        wait_until("the connection is counted", || {
            (atlas.metric("atlas_bytes_sent_total", &labels) == count as f64).then_some(())
        });
    }
    assert!(atlas.metric("atlas_kernel_tls_info", &[]) == 1.0);
}

#[test]
fn who_makes_the_records_is_recorded_and_counted() {
    let body = noise(3 * 1024 * 1024);
    let atlas = atlas()
        .listens_tls("a.test")
        .tls_lines("ktls_threshold = \"0B\"")
        .file("site/file", &body)
        .text("[[route]]\nfiles = \"{folder}/site\"")
        .start();
    let mut client = atlas.connect();
    assert!(client.get("/file").body == body);
    client.finish();
    let record = atlas.record("the connection", |record| record["kind"] == "connection");
    let told = |key: &str| record[key].as_u64().unwrap_or(0);
    let promoted = ["peer=\"downstream\"", "result=\"finished\""];
    match guest::refusal_of_this_kernel() {
        None => {
            assert_eq!(record["carrier"], "kernel");
            assert!(told("bytes_sendfile") > 2 * 1024 * 1024, "{record}");
            wait_until("the connection is counted", || {
                (atlas.metric("atlas_kernel_tls_promotions_total", &promoted) == 1.0).then_some(())
            });
            let sent = ["peer=\"downstream\"", "direction=\"sent\""];
            let records = atlas.metric("atlas_kernel_tls_records_total", &sent);
            assert!(records >= (body.len() >> 14) as f64, "{records}");
            assert_eq!(atlas.metric("atlas_kernel_tls_info", &["usable=\"yes\""]), 1.0);
            assert_eq!(atlas.metric("atlas_downstream_carriers_total", &["kernel"]), 1.0);
        }
        Some(refusal) => {
            assert_eq!(
                (&record["carrier"], &record["refusal"]),
                (&"process".into(), &refusal.into())
            );
            assert_eq!(told("bytes_copied"), told("bytes_out"));
            assert_eq!(atlas.metric("atlas_kernel_tls_promotions_total", &promoted), 0.0);
            assert_eq!(
                atlas.metric("atlas_kernel_tls_info", &["usable=\"no\"", refusal]),
                1.0
            );
            assert_eq!(
                atlas.metric("atlas_downstream_carriers_total", &["process", refusal]),
                1.0
            );
        }
    }
    assert_eq!(atlas.metric("atlas_kernel_tls_breaker_open", &[]), 0.0);
}
