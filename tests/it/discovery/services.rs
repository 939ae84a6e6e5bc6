//! Services: hosts, ports, weights and backups told by SRV records.

use std::time::Duration;

use super::names::{asks, atlas_with, endpoints};
use super::server::names;
use crate::support::*;

const SERVICE: &str = "srv:_http._tcp.app.test";

/// How many of so many requests each port answered.
fn shares(atlas: &Atlas, origins: &[&Origin], count: usize) -> Vec<usize> {
    let before: Vec<_> = origins.iter().map(|origin| origin.requests().len()).collect();
    for _ in 0..count {
        assert_eq!(atlas.get("/").status, 200);
    }
    let after = origins.iter().zip(before);
    after
        .map(|(origin, before)| origin.requests().len() - before)
        .collect()
}

#[test]
fn the_records_of_a_service_are_its_endpoints_with_their_weights_and_backups() {
    let (large, small, spare) = (origin().start(), origin().start(), origin().start());
    let names = names(0);
    names.set("node.test", &["127.0.0.1"]);
    let service = "_http._tcp.app.test";
    names.set_service(
        service,
        &[
            (10, 30, large.port(), "node.test"),
            (10, 10, small.port(), "node.test"),
            (20, 0, spare.port(), "node.test"),
        ],
    );
    let atlas = atlas_with(&names, &[SERVICE], "balance = \"round_robin\"").start();
    assert_eq!(endpoints(&atlas), 3.0);
    assert_eq!(shares(&atlas, &[&large, &small, &spare], 40), [30, 10, 0]);

    names.set_service(service, &[(20, 0, spare.port(), "node.test")]);
    wait_until("the others are gone", || (endpoints(&atlas) == 1.0).then_some(()));
    wait_until("the spare one is asked", || {
        (shares(&atlas, &[&spare], 1) == [1]).then_some(())
    });
}

#[test]
fn the_hosts_of_a_service_are_asked_for_by_their_domain() {
    let origin = origin().start();
    let names = names(0);
    names.set("node.test", &["127.0.0.1"]);
    names.set_service("_http._tcp.app.test", &[(0, 0, origin.port(), "node.test")]);
    let atlas = atlas_with(
        &names,
        &[SERVICE],
        "health = { path = \"/health\", interval = \"5s\" }",
    )
    .start();
    wait_until("it is checked", || {
        let all = origin.requests();
        all.iter()
            .any(|seen| seen.head.field("host") == Some("app.test"))
            .then_some(())
    });
    assert_eq!(atlas.get("/").status, 200);
    assert_eq!(atlas.exchange("/")["endpoint"], origin.address());
}

#[test]
fn a_host_of_a_service_that_cannot_be_looked_up_keeps_its_last_address() {
    let (first, spare) = (origin().start(), origin().start());
    let names = names(0);
    names.set("first.test", &["127.0.0.1"]);
    names.set("spare.test", &["127.0.0.1"]);
    names.set_service(
        "_http._tcp.app.test",
        &[
            (10, 1, first.port(), "first.test"),
            (20, 1, spare.port(), "spare.test"),
        ],
    );
    let atlas = atlas_with(&names, &[SERVICE], "")
        .expects_log("cannot look up an endpoint")
        .start();
    let is_failing = || atlas.metric("atlas_resolver_name_failing", &[SERVICE]);
    assert_eq!((endpoints(&atlas), is_failing()), (2.0, 0.0));
    names.set_failing("first.test", true);
    wait_until("it is told", || (is_failing() == 1.0).then_some(()));
    let line = atlas.log_line(&["cannot look up an endpoint", "first.test"]);
    assert!(line.contains("its last addresses are kept"), "{line}");
    assert_eq!(endpoints(&atlas), 2.0);
    assert_eq!(
        shares(&atlas, &[&first, &spare], 6),
        [6, 0],
        "the spare one stays a backup"
    );
    names.set_failing("first.test", false);
    wait_until("it is looked up again", || (is_failing() == 0.0).then_some(()));
    // A host that is gone is no endpoint any more.
    names.set("first.test", &[]);
    wait_until("it is gone", || (endpoints(&atlas) == 1.0).then_some(()));
    assert_eq!(is_failing(), 0.0, "that is a good answer");
    wait_until("the spare one is asked", || {
        (shares(&atlas, &[&spare], 1) == [1]).then_some(())
    });
}

#[test]
fn a_host_of_a_service_that_has_no_address_yet_is_asked_for_again_before_the_service_would_be() {
    let (first, late) = (origin().start(), origin().start());
    let names = names(3600);
    names.set("first.test", &["127.0.0.1"]);
    let service = "_http._tcp.app.test";
    names.set_service(
        service,
        &[
            (10, 1, first.port(), "first.test"),
            (10, 1, late.port(), "late.test"),
        ],
    );
    let atlas = asks(
        &names,
        "ttl_max = \"1h\"",
        &[SERVICE],
        "balance = \"round_robin\"",
    )
    .start();
    assert_eq!(endpoints(&atlas), 1.0);
    names.set("late.test", &["127.0.0.1"]);
    // Half a minute, not the hour for which the answers are good.
    wait_long_until("it is there", Duration::from_secs(90), || {
        (endpoints(&atlas) == 2.0).then_some(())
    });
    let asked = names.asked(service, "udp") + names.asked(service, "tcp");
    assert!(asked <= 3, "the service was asked for {asked} times");
    assert_eq!(shares(&atlas, &[&first, &late], 10), [5, 5]);
}

#[test]
fn a_service_that_is_not_offered_says_so() {
    let names = names(0);
    // RFC 2782: a target of "." means that it is decidedly not there.
    names.set_service("_http._tcp.app.test", &[(0, 0, 0, "")]);
    let atlas = atlas_with(&names, &[SERVICE], "")
        .expects_log("SRV")
        .expects_log("has no address yet")
        .start();
    assert_eq!(atlas.get("/").status, 503);
    atlas.log_line(&["cannot look up an endpoint", SERVICE, "it has no such service"]);
}
