//! Connections that were idle and turn out to be dead, with all that was sent on them at once.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Barrier};

use super::session::{Session, plays, plays_with};
use crate::support::frames::*;
use crate::support::{Answer, Atlas, Connection, Driver, Origin, atlas, on_both_drivers};

const MAX_CONCURRENT_STREAMS: u16 = 3;
const BURST: usize = 40;

/// No retry is within this budget.
const NO_BUDGET: &str = "http2 = true\nretry_budget = 0";

/// An Atlas whose route counts what is tried again.
fn counts_retries(endpoint: &Origin, driver: Driver) -> Atlas {
    atlas()
        .top("workers = 1")
        .listens_plain()
        .text("[[route]]\nupstream = \"app\"\nretry = { attempts = 2 }")
        .upstream("app", &[endpoint.address()], NO_BUDGET)
        .driver(driver)
        .start()
}

/// That many requests at once, each on a connection of its own; the answers.
fn burst(atlas: &Atlas, count: usize) -> Vec<Answer> {
    let begin = |at: usize| {
        let mut client = atlas.connect();
        client.send(format!("GET /{at} HTTP/1.1\r\nHost: a.test\r\n\r\n"));
        client
    };
    let clients: Vec<Connection> = (0..count).map(begin).collect();
    clients.into_iter().map(|mut client| client.answer()).collect()
}

fn answered(answers: &[Answer]) -> usize {
    answers.iter().filter(|answer| answer.status == 200).count()
}

/// Answers one request, and takes a burst on the connection that was idle then; its streams.
fn takes_a_burst(session: &mut Session) -> Vec<u32> {
    let (stream, _) = session.request().expect("the first comes");
    session.answer(stream, "ok");
    (0..BURST)
        .map(|_| session.request().expect("it comes").0)
        .collect()
}

#[test]
fn a_burst_on_an_idle_connection_that_is_dead_costs_no_client_its_answer() {
    on_both_drivers(|driver| {
        for resets in [false, true] {
            let endpoint = plays(move |session| {
                if session.number > 0 {
                    return session.serve();
                }
                takes_a_burst(session);
                if resets {
                    session.reset_connection();
                }
            });
            let atlas = counts_retries(&endpoint, driver);
            assert_eq!(atlas.get("/").status, 200);
            let answers = burst(&atlas, BURST);
            assert_eq!(answered(&answers), BURST, "reset: {resets}");
            assert_eq!(endpoint.accepted(), 2);
        }
    });
}

#[test]
fn of_a_connection_that_was_heard_from_what_breaks_off_is_within_the_budget() {
    let endpoint = plays(|session| {
        if session.number > 0 {
            return session.serve();
        }
        let streams = takes_a_burst(session);
        session.answer(streams[0], "ok");
    });
    let atlas = counts_retries(&endpoint, Driver::Auto);
    assert_eq!(atlas.get("/").status, 200);
    assert_eq!(answered(&burst(&atlas, BURST)), 1);
}

#[test]
fn no_request_meets_one_dead_connection_after_the_other() {
    on_both_drivers(|driver| {
        let is_dead = Arc::new(AtomicBool::new(false));
        let (dead, all_there) = (is_dead.clone(), Barrier::new(3));
        // As a machine that has come back and knows nothing of its connections: each is reset once
        // something is said on it.
        let endpoint = plays_with(&[(MAX_CONCURRENT_STREAMS, 1)], move |session| {
            if session.number >= 3 {
                return session.serve();
            }
            while let Some((kind, _, stream, _)) = session.frame() {
                match kind {
                    HEADERS | PING if dead.load(SeqCst) => return session.reset_connection(),
                    HEADERS => {
                        all_there.wait(); // each on its own connection
                        session.answer(stream, "ok");
                    }
                    _ => {}
                }
            }
        });
        let atlas = counts_retries(&endpoint, driver);
        assert_eq!(answered(&burst(&atlas, 3)), 3);
        is_dead.store(true, SeqCst);
        let answer = atlas.get("/");
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(endpoint.accepted(), 4);
    });
}
