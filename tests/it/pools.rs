//! Connections to endpoints that are kept: how long, and what is told of them.

use crate::support::*;

#[test]
fn a_connection_that_is_too_old_takes_no_request() {
    let origin = origin().start();
    let atlas = atlas()
        .top("workers = 1")
        .listens_plain()
        .forwards_to_with(&origin, "pool_lifetime = \"2s\"")
        .start();
    let mut requests = 0;
    wait_until("another connection is made", || {
        assert_eq!(atlas.get("/").status, 200);
        requests += 1;
        (origin.accepted() == 2).then_some(())
    });
    assert!(requests > 2, "it is used until then");
    wait_until("the old one is closed", || (origin.open() == 1).then_some(()));
    // Nobody asks: it is closed all the same, long before it has been idle for too long.
    wait_until("the idle one is closed", || (origin.open() == 0).then_some(()));
}

#[test]
fn a_connection_of_http2_that_is_too_old_finishes_what_it_has() {
    let origin = origin().start();
    let endpoint = atlas().listens_plain().forwards_to(&origin).start();
    let atlas = atlas()
        .top("workers = 1")
        .listens_plain()
        .text("[[route]]\nupstream = \"app\"")
        .upstream(
            "app",
            &[&endpoint.address().to_string()],
            "http2 = true\npool_lifetime = \"1s\"",
        )
        .start();
    let connections = || endpoint.metric("atlas_downstream_connections_total", &[]);
    wait_until("a third connection is made", || {
        assert_eq!(atlas.get("/").status, 200);
        (connections() == 3.0).then_some(())
    });
    wait_until("those before are closed", || {
        (endpoint.metric("atlas_downstream_connections_open", &[]) <= 1.0).then_some(())
    });
}

#[test]
fn each_endpoint_and_each_workers_reuse_are_told() {
    let (one, other) = (origin().start(), origin().start());
    let atlas = atlas()
        .top("workers = 1")
        .listens_plain()
        .text("[[route]]\nupstream = \"app\"")
        .upstream(
            "app",
            &[one.address(), other.address()],
            "balance = \"round_robin\"",
        )
        .start();
    for _ in 0..20 {
        assert_eq!(atlas.get("/").status, 200);
    }
    let of = |name: &str, origin: &Origin, label: &str| {
        atlas.metric(
            name,
            &[
                "upstream=\"app\"",
                &format!("endpoint={:?}", origin.address()),
                label,
            ],
        )
    };
    for origin in [&one, &other] {
        assert_eq!(of("atlas_endpoint_requests_total", origin, "new"), 1.0);
        assert_eq!(of("atlas_endpoint_requests_total", origin, "reused"), 9.0);
        assert_eq!(of("atlas_endpoint_requests_open", origin, ""), 0.0);
        assert_eq!(of("atlas_endpoint_ejected", origin, ""), 0.0);
        wait_until("its idle connection is seen", || {
            (of("atlas_endpoint_connections_idle", origin, "") == 1.0).then_some(())
        });
    }
    let reused = atlas.metric(
        "atlas_worker_upstream_connections_total",
        &["worker=\"0\"", "reused"],
    );
    let ratio = atlas.metric("atlas_worker_upstream_reuse_ratio", &["worker=\"0\""]);
    assert_eq!((reused, ratio), (18.0, 0.9));
    // One that goes is told no more; the counts of one that stays go on through a reload.
    atlas.rewrite(|text| text.replace(&format!(", {:?}", other.address()), ""));
    atlas.reload();
    assert_eq!(of("atlas_endpoint_requests_total", &other, ""), 0.0);
    assert_eq!(atlas.get("/").status, 200);
    assert_eq!(of("atlas_endpoint_requests_total", &one, ""), 11.0);
    assert_eq!(one.accepted(), 1, "its connection went on");
}
