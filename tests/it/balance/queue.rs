//! Limits of endpoints, and those who wait for a place: in order, not too many, not too long.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::{balanced, named};
use crate::support::{Atlas, Connection, Origin, atlas, origin, wait_until};

/// Lets requests through, one at a time.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<usize>, Condvar)>);

impl Gate {
    fn open(&self, count: usize) {
        *self.0.0.lock().unwrap() += count;
        self.0.1.notify_all();
    }

    fn pass(&self) {
        let mut open = self.0.0.lock().unwrap();
        while *open == 0 {
            let (next, waited) = self.0.1.wait_timeout(open, Duration::from_secs(60)).unwrap();
            assert!(!waited.timed_out(), "the gate stays shut");
            open = next;
        }
        *open -= 1;
    }
}

/// An origin whose requests wait at the gate, and the most it had at a time.
fn gated(gate: &Gate) -> (Origin, Arc<AtomicUsize>) {
    let (gate, most, now) = (gate.clone(), Arc::new(AtomicUsize::new(0)), AtomicUsize::new(0));
    let told = most.clone();
    let origin = origin()
        .handles_all(move |exchange| {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            gate.pass();
            now.fetch_sub(1, Ordering::SeqCst);
            exchange.answer(200, &[], b"ok")
        })
        .start();
    (origin, told)
}

/// Far longer than a test needs to go through its steps.
const PATIENT: &str = "queue_timeout = \"60s\"";

fn ask(atlas: &Atlas, path: &str) -> Connection {
    let mut client = atlas.connect();
    client.send(format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n"));
    client
}

fn paths(origin: &Origin) -> Vec<String> {
    let seen = origin.requests().into_iter();
    seen.map(|seen| seen.summary().trim_start_matches("GET ").to_owned())
        .collect()
}

fn waits(atlas: &Atlas, count: usize) {
    wait_until("so many wait", || {
        (atlas.metric("atlas_upstream_queue_length", &[]) == count as f64).then_some(())
    });
}

#[test]
fn who_waits_is_served_in_order_and_never_more_than_may() {
    let gate = Gate::default();
    let (origin, most) = gated(&gate);
    let atlas = balanced(std::slice::from_ref(&origin), &["connections_max = 2"], PATIENT);
    let mut clients = Vec::new();
    for number in 0..8 {
        clients.push(ask(&atlas, &format!("/{number}")));
        wait_until("it waits, or is asked", || {
            let waiting = atlas.metric("atlas_upstream_queue_length", &[]);
            (origin.requests().len() as f64 + waiting == f64::from(number + 1)).then_some(())
        });
    }
    assert_eq!(origin.requests().len(), 2);
    for done in 1..=8 {
        gate.open(1);
        let asked = (done + 2).min(8);
        wait_until("the next is asked", || {
            (origin.requests().len() == asked).then_some(())
        });
    }
    for client in &mut clients {
        assert_eq!(client.answer().status, 200);
    }
    let mut order = paths(&origin);
    order[..2].sort();
    assert_eq!(order, ["/0", "/1", "/2", "/3", "/4", "/5", "/6", "/7"]);
    assert_eq!(most.load(Ordering::SeqCst), 2);
    assert!(origin.accepted() <= 2, "idle connections count as well");
    waits(&atlas, 0);
}

#[test]
fn who_waits_too_long_or_is_one_too_many_gets_503_by_name() {
    let gate = Gate::default();
    let (origin, _) = gated(&gate);
    // Twice what it is by itself.
    let lines = "queue_max = 1\nqueue_timeout = \"10s\"";
    let atlas = balanced(std::slice::from_ref(&origin), &["connections_max = 1"], lines);
    let mut served = ask(&atlas, "/served");
    wait_until("it is asked", || (origin.requests().len() == 1).then_some(()));
    let started = Instant::now();
    let mut late = ask(&atlas, "/late");
    waits(&atlas, 1);
    let refused = atlas.get("/refused");
    assert_eq!(refused.status, 503);
    let told = refused.field("proxy-status").unwrap();
    assert!(
        told.contains("error=connection_limit_reached; details=\"upstream_queue_full\""),
        "{told}"
    );
    assert_eq!(refused.field("retry-after"), Some("1"));
    assert!(
        started.elapsed() < Duration::from_secs(9),
        "it does not wait as the other does"
    );
    let answer = late.answer();
    let took = started.elapsed();
    assert_eq!(answer.status, 503);
    assert!(
        answer
            .field("proxy-status")
            .unwrap()
            .contains("upstream_queue_timed_out")
    );
    assert!((9..20).contains(&took.as_secs()), "{took:?}");
    gate.open(1);
    assert_eq!(served.answer().status, 200);
    for (path, cause) in [("/late", "queue_timed_out"), ("/refused", "queue_full")] {
        let record = atlas.exchange(path);
        assert_eq!(
            (&record["side"], &record["cause"]),
            (&"atlas".into(), &cause.into()),
            "{record}"
        );
    }
    for cause in ["queue_timed_out", "queue_full"] {
        let labels = ["upstream=\"app\"", &format!("cause={cause:?}")];
        assert_eq!(atlas.metric("atlas_upstream_refusals_total", &labels), 1.0);
    }
    assert_eq!(paths(&origin), ["/served"]);
    gate.open(1);
    assert_eq!(atlas.get("/after").status, 200);
}

#[test]
fn a_client_that_goes_away_leaves_the_queue() {
    let gate = Gate::default();
    let (origin, _) = gated(&gate);
    let atlas = balanced(std::slice::from_ref(&origin), &["connections_max = 1"], PATIENT);
    let mut first = ask(&atlas, "/first");
    wait_until("it is asked", || (origin.requests().len() == 1).then_some(()));
    let gone = ask(&atlas, "/gone");
    waits(&atlas, 1);
    let mut last = ask(&atlas, "/last");
    waits(&atlas, 2);
    gone.reset();
    waits(&atlas, 1);
    gate.open(2);
    assert_eq!((first.answer().status, last.answer().status), (200, 200));
    assert_eq!(paths(&origin), ["/first", "/last"]);
}

#[test]
fn backups_do_not_stand_in_for_those_who_are_busy() {
    let gate = Gate::default();
    let (busy, _) = gated(&gate);
    let origins = [busy, named(1).remove(0)];
    let atlas = balanced(&origins, &["connections_max = 1", "backup = true"], PATIENT);
    let mut first = ask(&atlas, "/1");
    wait_until("it is asked", || (origins[0].requests().len() == 1).then_some(()));
    let mut second = ask(&atlas, "/2");
    waits(&atlas, 1);
    gate.open(2);
    assert_eq!(
        (first.answer().status, second.answer().text()),
        (200, "ok".to_owned())
    );
    assert!(origins[1].requests().is_empty());
}

#[test]
fn in_tcp_mode_connections_wait_too() {
    let origin = origin().start();
    let atlas = atlas()
        .top("workers = 1")
        .listener(false, "mode = \"tcp\"\nupstream = \"app\"\n")
        .text(&format!(
            "[upstream.app]\nendpoints = [{{ address = {:?}, connections_max = 1 }}]\n{PATIENT}",
            origin.address()
        ))
        .start();
    let mut first = atlas.connect();
    assert_eq!(first.get("/first").status, 200);
    let gone = atlas.connect();
    waits(&atlas, 1);
    let mut last = ask(&atlas, "/last");
    waits(&atlas, 2);
    gone.reset();
    waits(&atlas, 1);
    assert_eq!(first.get("/first").status, 200);
    drop(first);
    assert_eq!(last.answer().status, 200);
    assert_eq!(origin.accepted(), 2);
}
