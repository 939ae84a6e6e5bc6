//! What `/metrics` says, and health.

use crate::support::{Connection, atlas, origin};

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
    let metrics = atlas.metrics();
    for (name, labels, least) in [
        ("atlas_downstream_connections_total", &[][..], 2.0),
        ("atlas_downstream_connections_open", &[], 1.0),
        ("atlas_downstream_handshakes_total", &["finished", "TLSv1.3"], 1.0),
        ("atlas_downstream_handshakes_total", &["not_tls"], 1.0),
        ("atlas_exchanges_total", &["finished"], 10.0),
        ("atlas_upstream_connections_total", &[], 1.0),
    ] {
        assert!(
            atlas.metric(name, labels) >= least,
            "{name} {labels:?} is below {least}:\n{metrics}"
        );
    }
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
