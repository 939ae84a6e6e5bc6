//! What is answered, without sockets.

use std::time::UNIX_EPOCH;

use super::*;

fn admin() -> Admin {
    let facts = metrics::Facts {
        started: UNIX_EPOCH,
        generation: 1,
        reloads_finished: 0,
        reloads_failed: 0,
        drivers: Vec::new(),
        certificates: Vec::new(),
    };
    Admin::new(vec![Arc::new(Counters::new())], Arc::default(), facts)
}

#[test]
fn ready_only_while_connections_are_taken() {
    let admin = admin();
    let ready = || admin.answer_to(&Method::GET, "/-/ready").status.as_u16();
    assert_eq!(ready(), 503);
    admin.set_readiness(Readiness::Ready);
    assert_eq!(ready(), 200);
    admin.set_readiness(Readiness::Draining);
    assert_eq!(ready(), 503);
    assert_eq!(admin.answer_to(&Method::HEAD, "/-/healthy").status, 200);
}

#[test]
fn who_asks_for_something_else_learns_what_there_is() {
    let answer = admin().answer_to(&Method::GET, "/metricz");
    assert_eq!(answer.status, 404);
    for path in ["/metrics", "/-/healthy", "/-/ready"] {
        assert!(answer.body.contains(path));
    }
}

#[test]
fn only_reading_is_allowed() {
    let answer = admin().answer_to(&Method::POST, "/metrics");
    assert_eq!(answer.status, 405);
    assert_eq!(answer.head().fields.get("allow"), Some(&b"GET, HEAD"[..]));
}

#[test]
fn metrics_are_those_of_now() {
    let admin = admin();
    admin.change_facts(|facts| facts.generation = 7);
    let answer = admin.answer_to(&Method::GET, "/metrics");
    assert!(
        answer.body.contains("atlas_generation_number 7\n"),
        "{}",
        answer.body
    );
}
