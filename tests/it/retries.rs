//! Requests that are tried again at another endpoint: after what, how often, and what may never be.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use crate::support::{Atlas, Origin, Then, atlas, free_port, origin, wait_until};

/// Endpoints that are asked in this order, by a route that says this of retries.
fn in_front_of(origins: &[&Origin], retry: &str, upstream: &str) -> Atlas {
    let endpoints: Vec<_> = origins.iter().map(|origin| origin.address()).collect();
    in_front_of_endpoints(&endpoints, retry, upstream)
}

fn in_front_of_endpoints(endpoints: &[&str], retry: &str, upstream: &str) -> Atlas {
    start(&format!("{endpoints:?}"), retry, upstream)
}

/// The same, where more is said of the endpoints than where they are.
fn start(endpoints: &str, retry: &str, upstream: &str) -> Atlas {
    atlas()
        .top("workers = 1")
        .listens_plain()
        .text(&format!("[[route]]\nupstream = \"app\"\nretry = {retry}"))
        .text(&format!("[upstream.app]\nendpoints = {endpoints}"))
        .text(&format!(
            "balance = \"round_robin\"\noutliers = false\n{upstream}"
        ))
        .expects_log("cannot connect")
        .expects_log("the endpoint is down")
        .start()
}

/// Answers everything with this status, and says who it is.
fn says(status: u16, name: &'static str) -> Origin {
    origin()
        .handles_all(move |exchange| exchange.answer(status, &[], name.as_bytes()))
        .start()
}

/// Takes requests and never answers.
fn silent() -> Origin {
    origin()
        .handles_all(|exchange| {
            exchange.read_body()?;
            exchange.wait_for_close();
            Ok(Then::Close)
        })
        .start()
}

/// Ends each connection without an answer.
fn breaks_off() -> Origin {
    origin()
        .handles_all(|exchange| {
            exchange.read_body()?;
            Ok(Then::Close)
        })
        .start()
}

#[test]
fn an_answer_with_a_status_that_is_not_wanted_is_asked_for_elsewhere() {
    let (bad, good) = (says(503, "bad"), says(200, "good"));
    let atlas = in_front_of(&[&bad, &good], "{ on = [\"502-504\"] }", "");
    let answer = atlas.get("/first");
    assert_eq!((answer.status, &answer.text()[..]), (200, "good"));
    assert_eq!((bad.requests().len(), good.requests().len()), (1, 1));
    let record = atlas.exchange("/first");
    let failed = &record["failed_attempts"][0];
    assert_eq!(failed["endpoint"], bad.address(), "{record}");
    assert_eq!(
        (&failed["side"], &failed["phase"], &failed["cause"]),
        (&"upstream".into(), &"response".into(), &"bad_status".into()),
        "{record}"
    );
    assert_eq!(record["endpoint"], good.address(), "{record}");
    assert_eq!(atlas.metric("atlas_upstream_retries_total", &["bad_status"]), 1.0);
}

#[test]
fn the_last_endpoints_answer_is_the_clients_whatever_it_is() {
    let (one, two) = (says(503, "one"), says(503, "two"));
    let atlas = in_front_of(&[&one, &two], "{ on = [503] }", "");
    let answer = atlas.get("/");
    assert_eq!((answer.status, &answer.text()[..]), (503, "two"));
    // Three may be asked, but there is one.
    let alone = in_front_of(&[&one], "{ on = [503], attempts = 3 }", "");
    assert_eq!(alone.get("/").text(), "one");
}

#[test]
fn one_that_does_not_answer_in_time_is_left_for_another() {
    let (slow, good) = (silent(), says(200, "good"));
    let atlas = in_front_of(&[&slow, &good], "{ timeout = \"300ms\" }", "");
    let started = Instant::now();
    assert_eq!(atlas.get("/first").text(), "good");
    assert!(started.elapsed() >= Duration::from_millis(300));
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );
    let record = atlas.exchange("/first");
    assert_eq!(record["failed_attempts"][0]["cause"], "timed_out", "{record}");
    wait_until("the slow one is let go", || (slow.open() == 0).then_some(()));
    // The last one has the upstream's time.
    let late = origin()
        .handles_all(|exchange| {
            std::thread::sleep(Duration::from_millis(600)); // longer than the others have
            exchange.answer(200, &[], b"late")
        })
        .start();
    let silent = silent();
    let atlas = in_front_of(&[&silent, &late], "{ timeout = \"200ms\" }", "");
    assert_eq!(atlas.get("/").text(), "late");
}

#[test]
fn what_would_be_done_twice_is_not_unless_the_route_says_so() {
    let (bad, good) = (says(503, "bad"), says(200, "good"));
    let body = vec![b'x'; 10_000];
    let post = |atlas: &Atlas| {
        let answer = atlas.connect().request("POST", "/", &[], &body);
        (answer.status, answer.text())
    };
    let atlas = in_front_of(&[&bad, &good], "{ on = [503] }", "");
    assert_eq!(post(&atlas), (503, "bad".to_owned()));
    assert_eq!(good.requests().len(), 0);
    let atlas = in_front_of(&[&bad, &good], "{ on = [503], non_idempotent = true }", "");
    assert_eq!(post(&atlas), (200, "good".to_owned()));
    assert_eq!(good.request().body, body, "sent again whole");
    // A body that is too long to be kept is sent once; PUT could have been sent again.
    let atlas = in_front_of(&[&bad, &good], "{ on = [503], body = \"9999B\" }", "");
    let answer = atlas.connect().request("PUT", "/", &[], &body);
    assert_eq!((answer.status, &answer.text()[..]), (503, "bad"));
    let answer = atlas.connect().request("PUT", "/", &[], &body[..9999]);
    assert_eq!((answer.status, &answer.text()[..]), (200, "good"));
}

#[test]
fn the_route_says_after_what_and_how_often() {
    let good = says(200, "good");
    let [dead, gone] = [free_port(), free_port()].map(|port| format!("127.0.0.1:{port}"));
    let breaking = [breaks_off(), breaks_off(), breaks_off()];
    let [one, two, three] = breaking.each_ref().map(Origin::address);
    let good_address = good.address();
    for (endpoints, retry, expected) in [
        (vec![&*dead, &gone, good_address], "true", 200),
        (vec![&dead, good_address], "false", 502),
        (vec![&dead, good_address], "{ on = [\"reset\"] }", 502),
        (vec![&dead, &gone, good_address], "{ attempts = 2 }", 502),
        (vec![one, good_address], "true", 200),
        (vec![one, good_address], "false", 502),
        (vec![one, good_address], "{ on = [\"connect\"] }", 502),
        // What kills one must not kill all, unless the route says so.
        (vec![one, two, good_address], "true", 502),
        (vec![one, two, three, good_address], "{ attempts = 4 }", 200),
        (vec![one, two, three, good_address], "{ attempts = 3 }", 502),
    ] {
        let atlas = in_front_of_endpoints(&endpoints, retry, "");
        let answer = atlas.get("/");
        assert_eq!(answer.status, expected, "{endpoints:?} {retry}: {answer:?}");
    }
}

#[test]
fn retries_of_an_overload_are_a_share_of_it() {
    const CLIENTS: usize = 60;
    let all_there = Arc::new(Barrier::new(CLIENTS));
    let [asked, again, most] = [(); 3].map(|()| Arc::new(AtomicUsize::new(0)));
    // Overloaded: each first attempt waits until all have come, and then all get 503.
    let overloaded = || {
        let (all_there, asked) = (all_there.clone(), asked.clone());
        let (again, most) = (again.clone(), most.clone());
        origin()
            .handles_all(move |exchange| {
                if asked.fetch_add(1, Ordering::SeqCst) < CLIENTS {
                    all_there.wait();
                } else {
                    most.fetch_max(again.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_millis(500));
                    again.fetch_sub(1, Ordering::SeqCst);
                }
                exchange.answer(503, &[], b"too much")
            })
            .start()
    };
    let origins = [overloaded(), overloaded(), overloaded()];
    let atlas = in_front_of(
        &origins.each_ref(),
        "{ on = [503], attempts = 3 }",
        "retry_budget = 20",
    );
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| assert_eq!(atlas.get("/").status, 503));
        }
    });
    let most = most.load(Ordering::SeqCst);
    assert!(most > 3, "{most}: some are tried again");
    // A fifth of those under way; without a budget it would be all of them.
    assert!(
        most <= CLIENTS / 5,
        "{most} retries at a time for {CLIENTS} requests"
    );
    let (bad, good) = (says(503, "bad"), says(200, "good"));
    let none = in_front_of(&[&bad, &good], "{ on = [503] }", "retry_budget = 0");
    assert_eq!(none.get("/").text(), "bad");
}

/// Takes its time, and says then that it is busy.
fn busy(after: Duration) -> Origin {
    origin()
        .handles_all(move |exchange| {
            exchange.read_body()?;
            std::thread::sleep(after);
            exchange.answer(503, &[], b"busy")
        })
        .start()
}

/// What an Atlas answers whose first endpoint takes longer than it may while others can be asked, and is busy.
fn answers_busy_in_all_its_time(atlas: &Atlas, what: &str) {
    let answer = atlas.get("/busy");
    assert_eq!((answer.status, &answer.text()[..]), (503, "busy"), "{what}");
}

const LATE_OR_BUSY: &str = "{ on = [\"timeout\", 503], timeout = \"200ms\" }";
const LATE: Duration = Duration::from_millis(500);

#[test]
fn no_answer_is_given_up_for_an_endpoint_that_takes_nothing_new() {
    for shut in ["drain = true", "weight = 0"] {
        let (busy, other) = (busy(LATE), says(200, "other"));
        let endpoints = format!(
            "[{:?}, {{ address = {:?}, {shut} }}]",
            busy.address(),
            other.address()
        );
        for retry in [LATE_OR_BUSY, "{ on = [503], hedge_after = \"50ms\" }"] {
            let atlas = start(&endpoints, retry, "");
            answers_busy_in_all_its_time(&atlas, shut);
            assert!(other.requests().is_empty());
        }
    }
}

#[test]
fn no_answer_is_given_up_for_an_endpoint_that_checks_found_down() {
    let busy = origin()
        .answers("/health", "well")
        .handles_all(|exchange| {
            std::thread::sleep(LATE);
            exchange.answer(503, &[], b"busy")
        })
        .start();
    let down = says(500, "down");
    let check = "[upstream.app.health]\npath = \"/health\"\ninterval = \"5s\"\ntimeout = \"5s\"\nfall = 1";
    let atlas = in_front_of(&[&busy, &down], LATE_OR_BUSY, check);
    wait_until("one is down", || {
        (atlas.metric("atlas_upstream_endpoints_down", &["app"]) == 1.0).then_some(())
    });
    let asked = || {
        down.requests()
            .iter()
            .filter(|seen| seen.head.word(1) != "/health")
            .count()
    };
    // The worker hears of it a little after the metrics.
    wait_until("the worker does not ask it", || {
        let before = asked();
        (0..2).for_each(|_| assert!(atlas.get("/").status >= 500));
        (asked() == before).then_some(())
    });
    answers_busy_in_all_its_time(&atlas, "down");
}

#[test]
fn no_answer_is_given_up_to_wait_for_an_endpoint_that_is_full() {
    for retry in [LATE_OR_BUSY, "{ on = [503], hedge_after = \"50ms\" }"] {
        let (busy, full) = (busy(LATE), silent());
        let endpoints = format!(
            "[{{ address = {:?}, connections_max = 1 }}, {:?}]",
            full.address(),
            busy.address()
        );
        let atlas = start(&endpoints, retry, "queue_timeout = \"60s\""); // longer than a client waits
        let mut holds = atlas.connect();
        holds.send("POST /holds HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n");
        wait_until("it has what it may", || {
            (full.requests().len() == 1).then_some(())
        });
        answers_busy_in_all_its_time(&atlas, retry);
        assert_eq!(full.requests().len(), 1);
    }
}

#[test]
fn no_answer_is_given_up_for_an_endpoint_that_cannot_be_reached() {
    let long = "x".repeat(1024 * 1024);
    let body = long.clone();
    let bad = origin()
        .handles_all(move |exchange| {
            exchange.read_body()?;
            exchange.answer(503, &[], body.as_bytes())
        })
        .start();
    let good = says(200, "good");
    let [dead, gone] = [free_port(), free_port()].map(|port| format!("127.0.0.1:{port}"));
    for retry in [
        "{ on = [\"connect\", 503] }",
        "{ on = [503] }",
        "{ on = [503], attempts = 2 }",
        "{ on = [\"connect\", 503], hedge_after = \"5s\" }",
    ] {
        let atlas = in_front_of_endpoints(&[bad.address(), &dead, &gone], retry, "");
        let answer = atlas.get("/first");
        assert_eq!(answer.status, 503, "{retry}: {}", answer.text());
        assert!(answer.text() == long, "{retry}: it is whole");
        let record = atlas.exchange("/first");
        assert_eq!(record["endpoint"], bad.address(), "{retry}: {record}");
        assert_eq!(record["cause"], "finished", "{retry}: {record}");
        let causes: Vec<_> = record["failed_attempts"].as_array().unwrap().iter().collect();
        assert_eq!(causes[0]["cause"], "bad_status", "{retry}: {record}");
        assert_eq!(causes[1]["cause"], "refused", "{retry}: {record}");
        assert_eq!(atlas.metric("atlas_upstream_retries_total", &["bad_status"]), 0.0);
    }
    let one_is_left = [bad.address(), &dead, good.address()];
    let atlas = in_front_of_endpoints(&one_is_left, "{ on = [\"connect\", 503] }", "");
    assert_eq!(atlas.get("/").text(), "good");
}

#[test]
fn without_room_in_the_budget_an_endpoint_has_all_its_time() {
    let (busy, other) = (busy(LATE), says(200, "other"));
    let atlas = in_front_of(&[&busy, &other], LATE_OR_BUSY, "retry_budget = 0");
    answers_busy_in_all_its_time(&atlas, "no budget");
    assert!(other.requests().is_empty());
}

/// Answers what it is sent first on each connection, and then does this with what comes.
fn second_time(then: Then) -> Origin {
    let ends = AtomicUsize::new(0);
    origin()
        .handles("/first", |exchange| exchange.answer(200, &[], b"first"))
        .handles_all(move |exchange| {
            exchange.read_body()?;
            match ends.fetch_add(1, Ordering::SeqCst) {
                0 => Ok(then),
                _ => exchange.answer(200, &[], b"again"),
            }
        })
        .start()
}

#[test]
fn what_an_endpoint_may_have_done_before_it_reset_the_connection_is_not_done_twice() {
    let origin = second_time(Then::Reset);
    let atlas = in_front_of(&[&origin], "true", "");
    assert_eq!(atlas.get("/first").text(), "first");
    let answer = atlas.connect().request("POST", "/pay", &[], b"100");
    assert_eq!(answer.status, 502);
    let seen: Vec<_> = origin.requests().iter().map(|seen| seen.summary()).collect();
    assert_eq!(seen, ["GET /first", "POST /pay 100"]);
    assert_eq!(origin.accepted(), 1, "it came on the connection that was kept");
}

#[test]
fn an_attempt_on_a_connection_that_was_closed_meanwhile_is_in_the_record() {
    let origin = second_time(Then::Close);
    let atlas = in_front_of(&[&origin], "true", "");
    assert_eq!(atlas.get("/first").text(), "first");
    assert_eq!(atlas.get("/second").text(), "again");
    let record = atlas.exchange("/second");
    let failed = &record["failed_attempts"];
    assert_eq!(record["attempts"], 2, "{record}");
    assert_eq!(failed.as_array().map(Vec::len), Some(1), "{record}");
    assert_eq!(
        (&failed[0]["endpoint"], &failed[0]["cause"]),
        (&origin.address().into(), &"closed".into()),
        "{record}"
    );
}

#[test]
fn retries_after_connections_that_broke_off_are_within_the_budget() {
    const CLIENTS: usize = 60;
    let all_there = Arc::new(Barrier::new(CLIENTS));
    let [asked, again, most] = [(); 3].map(|()| Arc::new(AtomicUsize::new(0)));
    // Each first attempt waits until all have come, and then all are broken off.
    let breaking = || {
        let (all_there, asked) = (all_there.clone(), asked.clone());
        let (again, most) = (again.clone(), most.clone());
        origin()
            .handles_all(move |_| {
                if asked.fetch_add(1, Ordering::SeqCst) < CLIENTS {
                    all_there.wait();
                } else {
                    most.fetch_max(again.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_millis(500));
                    again.fetch_sub(1, Ordering::SeqCst);
                }
                Ok(Then::Reset)
            })
            .start()
    };
    let origins = [breaking(), breaking(), breaking()];
    let atlas = in_front_of(&origins.each_ref(), "{ attempts = 3 }", "retry_budget = 20");
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| assert_eq!(atlas.get("/").status, 502));
        }
    });
    let most = most.load(Ordering::SeqCst);
    assert!(most > 3, "{most}: some are tried again");
    assert!(
        most <= CLIENTS / 5,
        "{most} retries at a time for {CLIENTS} requests"
    );
    let (one, good) = (breaks_off(), says(200, "good"));
    let none = in_front_of(&[&one, &good], "{ attempts = 2 }", "retry_budget = 0");
    assert_eq!(none.get("/").status, 502);
    // One other is asked by itself: an endpoint that dies costs no client its answer.
    let none = in_front_of(&[&one, &good], "true", "retry_budget = 0");
    assert_eq!(none.get("/").text(), "good");
    // What could not be connected to has begun nothing: it is moved, whatever the budget.
    let dead = format!("127.0.0.1:{}", free_port());
    let none = in_front_of_endpoints(&[&dead, good.address()], "true", "retry_budget = 0");
    assert_eq!(none.get("/").text(), "good");
}

#[test]
fn in_a_panic_retries_at_endpoints_that_are_down_are_within_the_budget() {
    // All are found down by checks, and all are asked: nobody is left alone.
    let origins: Vec<_> = (0..4).map(|_| breaks_off()).collect();
    let addresses: Vec<_> = origins.iter().map(Origin::address).collect();
    let check =
        "retry_budget = 0\npanic_below = 1\n[upstream.app.health]\npath = \"/health\"\ninterval = \"100ms\"";
    let atlas = atlas()
        .top("workers = 1")
        .listens_plain()
        .text("[[route]]\nupstream = \"app\"\nretry = { attempts = 4 }")
        .upstream("app", &addresses, check)
        .expects_log("the endpoint is down")
        .expects_log("all are asked")
        .start();
    atlas.log_line(&["only 0 endpoints are well"]);
    assert_eq!(atlas.get("/").status, 502);
    let seen = origins.iter().flat_map(Origin::requests);
    assert_eq!(seen.filter(|seen| seen.head.word(1) != "/health").count(), 1);
}

#[test]
fn an_answer_that_comes_before_the_whole_request_is_asked_for_elsewhere_too() {
    let hasty = |reads_some: bool| {
        origin()
            .handles_all(move |exchange| {
                if reads_some {
                    exchange.read_some()?;
                }
                exchange.send("HTTP/1.1 503 Said\r\nContent-Length: 4\r\n\r\nbusy")?;
                exchange.wait_for_close();
                Ok(Then::Close)
            })
            .start()
    };
    let upload = |atlas: &Atlas, asked: &Origin, body: usize| {
        let mut client = atlas.connect();
        client.send(format!(
            "PUT / HTTP/1.1\r\nHost: a.test\r\nContent-Length: {body}\r\n\r\n{}",
            "x".repeat(body / 2)
        ));
        wait_until("it is asked", || (!asked.requests().is_empty()).then_some(()));
        (client, vec![b'x'; body - body / 2])
    };
    let (bad, good) = (hasty(false), says(200, "good"));
    let atlas = in_front_of(&[&bad, &good], "{ on = [503] }", "");
    let (mut client, rest) = upload(&atlas, &good, 1000);
    client.send(rest);
    assert_eq!(client.answer().text(), "good");
    assert_eq!(good.request().body, [b'x'; 1000]);
    // It is the client's where nobody else can be reached.
    let (bad, dead) = (hasty(false), format!("127.0.0.1:{}", free_port()));
    let atlas = in_front_of_endpoints(&[bad.address(), &dead], "{ on = [503] }", "");
    let (mut client, _) = upload(&atlas, &bad, 1000);
    let answer = client.answer();
    assert_eq!((answer.status, &answer.text()[..]), (503, "busy"));
    // What is not kept cannot be sent again.
    let (bad, good) = (hasty(true), says(200, "good"));
    let atlas = in_front_of(&[&bad, &good], "{ on = [503], body = \"99B\" }", "");
    let (mut client, _) = upload(&atlas, &bad, 1000);
    let answer = client.answer();
    assert_eq!((answer.status, &answer.text()[..]), (503, "busy"));
    assert!(good.requests().is_empty());
}
