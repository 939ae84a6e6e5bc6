//! Processes that are not there, or do not run: killed, stopped, and back again.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use super::{Process, SLACK, TIMEOUT, beside_others, in_front_of};
use crate::support::client::PATIENCE;
use crate::support::{Atlas, alone};

/// Asks once; status and how long it took.
fn ask(atlas: &Atlas, path: &str) -> (u16, Duration) {
    let started = Instant::now();
    let status = atlas.get(path).status;
    (status, started.elapsed())
}

/// The record tells that the first was asked in vain, so, and who answered.
fn went_on(atlas: &Atlas, path: &str, [phase, cause]: [&str; 2], [first, answered]: [&Process; 2]) {
    let record = atlas.exchange(path);
    let failed = json!([{ "endpoint": first.address, "side": "upstream", "phase": phase, "cause": cause }]);
    assert_eq!(record["failed_attempts"], failed, "{record}");
    assert_eq!(record["endpoint"], *answered.address, "{record}");
    assert_eq!(
        (&record["status"], &record["attempts"]),
        (&json!(200), &json!(2)),
        "{record}"
    );
}

#[test]
fn one_that_was_killed_refuses_and_is_asked_again_once_it_is_back() {
    let _alone = alone();
    let mut bad = Process::start();
    let [well, calm] = [(); 2].map(|()| Process::that_is_well());
    let atlas = in_front_of(&bad.address, &well.address, &calm.address, "");
    assert_eq!(ask(&atlas, "/before").0, 200);
    beside_others(&atlas, &calm, || {
        bad.kill();
        let (status, took) = ask(&atlas, "/killed");
        assert_eq!(status, 200);
        assert!(took < SLACK, "nobody waits for one that refuses: {took:?}");
        went_on(&atlas, "/killed", ["connect", "refused"], [&bad, &well]);
        bad.revive();
        assert_eq!(ask(&atlas, "/revived").0, 200);
        let record = atlas.exchange("/revived");
        assert_eq!(record["endpoint"], *bad.address, "{record}");
        assert!(record["failed_attempts"].is_null(), "{record}");
    });
}

#[test]
fn one_that_never_accepts_costs_its_connect_timeout_and_not_the_answer() {
    let _alone = alone();
    let bad = Process::that_never_accepts();
    let [well, calm] = [(); 2].map(|()| Process::that_is_well());
    let atlas = in_front_of(&bad.address, &well.address, &calm.address, "");
    beside_others(&atlas, &calm, || {
        let (status, took) = ask(&atlas, "/stuck");
        assert_eq!(status, 200);
        assert!(took >= TIMEOUT.mul_f64(0.9) && took < TIMEOUT + SLACK, "{took:?}");
    });
    went_on(&atlas, "/stuck", ["connect", "timed_out"], [&bad, &well]);
}

#[test]
fn one_that_is_stopped_costs_its_response_timeout_and_goes_on_where_it_was() {
    let _alone = alone();
    let bad = Process::start();
    let [well, calm] = [(); 2].map(|()| Process::that_is_well());
    let atlas = in_front_of(&bad.address, &well.address, &calm.address, "");
    beside_others(&atlas, &calm, || {
        bad.signal(Signal::STOP);
        // Its kernel takes connections, and bytes, as if nothing were.
        let (status, took) = ask(&atlas, "/stopped");
        assert_eq!(status, 504);
        assert!(took >= TIMEOUT.mul_f64(0.9) && took < TIMEOUT + SLACK, "{took:?}");
        let record = atlas.exchange("/stopped");
        let told = ["side", "phase", "cause"].map(|key| record[key].as_str().unwrap());
        assert_eq!(told, ["upstream", "response", "timed_out"], "{record}");
        bad.signal(Signal::CONT);
        assert_eq!(ask(&atlas, "/continued").0, 200);
        assert_eq!(atlas.exchange("/continued")["endpoint"], *bad.address);
    });
}

#[test]
fn one_that_is_stopped_costs_a_route_that_retries_timeouts_no_answer() {
    let _alone = alone();
    let bad = Process::start();
    let [well, calm] = [(); 2].map(|()| Process::that_is_well());
    let route = "retry = { timeout = \"300ms\" }";
    let atlas = in_front_of(&bad.address, &well.address, &calm.address, route);
    bad.signal(Signal::STOP);
    beside_others(&atlas, &calm, || {
        let (status, took) = ask(&atlas, "/retried");
        assert_eq!(status, 200);
        assert!(took >= Duration::from_millis(270) && took < TIMEOUT, "{took:?}");
    });
    went_on(&atlas, "/retried", ["response", "timed_out"], [&bad, &well]);
}

#[test]
fn one_that_stops_in_the_body_is_waited_for_as_long_as_it_may_stand_still() {
    let _alone = alone();
    let bad = Process::start();
    let [well, calm] = [(); 2].map(|()| Process::that_is_well());
    let atlas = in_front_of(&bad.address, &well.address, &calm.address, "");
    let mut client = atlas.connect();
    client.send("GET /goes-on HTTP/1.1\r\nHost: a.test\r\n\r\n");
    client.head().unwrap();
    beside_others(&atlas, &calm, || {
        // Shorter than the timeout: nobody notices. What comes after it is not what was on its way before.
        bad.signal(Signal::STOP);
        client.patience(TIMEOUT / 2);
        while client.try_read_exactly(1).is_ok() {}
        client.patience(PATIENCE);
        bad.signal(Signal::CONT);
        client.read_exactly(60);
        let started = Instant::now();
        bad.signal(Signal::STOP);
        client.read_to_end();
        let took = started.elapsed();
        assert!(took >= TIMEOUT.mul_f64(0.6) && took < TIMEOUT + SLACK, "{took:?}");
    });
    is_cut(&atlas, "timed_out");
}

#[test]
fn one_that_is_killed_in_the_body_leaves_a_body_that_is_not_whole() {
    let _alone = alone();
    let mut bad = Process::start();
    let [well, calm] = [(); 2].map(|()| Process::that_is_well());
    let atlas = in_front_of(&bad.address, &well.address, &calm.address, "");
    let mut client = atlas.connect();
    client.send("GET /goes-on HTTP/1.1\r\nHost: a.test\r\n\r\n");
    client.head().unwrap();
    beside_others(&atlas, &calm, || {
        bad.kill();
        let started = Instant::now();
        client.read_to_end();
        assert!(started.elapsed() < SLACK, "{:?}", started.elapsed());
    });
    is_cut(&atlas, "closed");
}

fn is_cut(atlas: &Atlas, cause: &str) {
    let record = atlas.exchange("/goes-on");
    let told = ["side", "phase", "cause"].map(|key| record[key].as_str().unwrap());
    assert_eq!(told, ["upstream", "response_body", cause], "{record}");
}
