//! Live exchanges with an endpoint that misbehaves: what clients see, for how long, and what is left
//! behind; two others are well, and nothing checks.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::full;
use crate::balance::stop;
use crate::support::{Atlas, Builder, Origin, Then, atlas, free_port, origin, wait_until};

/// One worker, so that the endpoints take turns.
fn upstream(endpoints: &[&str], lines: &str) -> Builder {
    atlas()
        .top("workers = 1")
        .listens_plain()
        .text("[[route]]\nupstream = \"app\"")
        .upstream("app", endpoints, lines)
        .expects_log("is ejected")
        .expects_log("cannot connect")
}

/// What came of a bad endpoint.
struct Seen {
    /// The statuses clients saw until it was ejected.
    statuses: Vec<u16>,
    /// The longest one took, before and after.
    slowest: [Duration; 2],
}

/// Asks until the endpoint is ejected, and 12 times after that.
fn ask(atlas: &Atlas, path: &str) -> Seen {
    let mut seen = Seen {
        statuses: Vec::new(),
        slowest: [Duration::ZERO; 2],
    };
    let asked = |slowest: &mut Duration| {
        let started = Instant::now();
        let status = atlas.get(path).status;
        *slowest = (*slowest).max(started.elapsed());
        status
    };
    while atlas.metric("atlas_upstream_ejections_total", &["app"]) == 0.0 {
        assert!(
            seen.statuses.len() < 30,
            "it is never ejected: {:?}",
            seen.statuses
        );
        let status = asked(&mut seen.slowest[0]);
        seen.statuses.push(status);
    }
    for _ in 0..12 {
        assert_eq!(asked(&mut seen.slowest[1]), 200, "the others are well");
    }
    seen
}

/// Runs it with one bad endpoint among three: how often clients see this status, which cause ejects
/// it, and how long an exchange with it may take.
fn one_of_three(bad: &str, lines: &str, failing: (u16, usize), cause: &str, may_take: Duration) {
    let wells = [origin().start(), origin().start()];
    let atlas = upstream(&[wells[0].address(), bad, wells[1].address()], lines).start();
    let Seen { statuses, slowest } = ask(&atlas, "/bad");
    let (status, count) = failing;
    let failed: Vec<_> = statuses.iter().filter(|one| **one != 200).copied().collect();
    assert_eq!(failed, vec![status; count], "{cause}: {statuses:?}");
    assert!(
        slowest[0] < may_take + Duration::from_secs(15),
        "{cause}: {slowest:?}"
    );
    let ejections = atlas.metric("atlas_upstream_ejections_total", &[&format!("cause=\"{cause}\"")]);
    assert_eq!(ejections, 1.0, "{cause}");
    assert_eq!(atlas.metric("atlas_upstream_endpoints_ejected", &["app"]), 1.0);
    let line = atlas.log_line(&["the endpoint is ejected for 10s", bad]);
    assert!(line.contains("3 failures in a row"), "{line}");
    // Each failure has its record; one that the next endpoint made good shows by its attempts.
    let wanted = |record: &&serde_json::Value| match count {
        0 => record["attempts"] == 2,
        _ => record["endpoint"] == bad && record["status"] == status,
    };
    wait_until("the records are written", || {
        (atlas.records().iter().filter(wanted).count() == 3).then_some(())
    });
}

#[test]
fn one_that_refuses_costs_no_client_anything() {
    let dead = format!("127.0.0.1:{}", free_port());
    one_of_three(&dead, "", (200, 0), "refused", Duration::ZERO);
}

#[test]
fn one_that_hangs_before_it_accepts_costs_its_connect_timeout() {
    let stuck = full();
    let bad = stuck.address.to_string();
    let lines = "connect_timeout = \"2s\"";
    one_of_three(&bad, lines, (200, 0), "timed_out", Duration::from_secs(2));
}

#[test]
fn one_that_hangs_after_it_accepted_is_504() {
    let silent = origin()
        .handles_all(|exchange| {
            exchange.wait_for_close();
            Ok(Then::Close)
        })
        .start();
    let lines = "response_timeout = \"2s\"";
    one_of_three(
        silent.address(),
        lines,
        (504, 3),
        "timed_out",
        Duration::from_secs(2),
    );
    assert_eq!(
        silent.requests().len(),
        3,
        "a request that may be processed is not sent twice"
    );
}

#[test]
fn one_that_resets_or_closes_without_an_answer_costs_idempotent_requests_nothing() {
    for (then, cause) in [(Then::Reset, "reset"), (Then::Close, "closed")] {
        let bad = origin().handles_all(move |_| Ok(then)).start();
        one_of_three(bad.address(), "", (200, 0), cause, Duration::ZERO);
    }
}

#[test]
fn one_that_answers_garbage_is_502() {
    let garbage = origin()
        .raw(|mut stream| {
            let _ = stream.write_all(b"220 mail.test ESMTP\r\n");
            // Open until Atlas has enough of it.
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
        })
        .start();
    one_of_three(garbage.address(), "", (502, 3), "malformed", Duration::ZERO);
}

#[test]
fn statuses_are_failures_where_that_is_asked_for() {
    let bad = origin()
        .handles_all(|exchange| exchange.answer(503, &[], b"no"))
        .start();
    let lines = "outliers = { status = [502, \"503-504\"] }";
    one_of_three(bad.address(), lines, (503, 3), "bad_status", Duration::ZERO);
}

#[test]
fn a_status_for_which_another_endpoint_is_asked_is_no_failure_by_that_alone() {
    let bad = origin()
        .handles_all(|exchange| exchange.answer(503, &[], b"no"))
        .start();
    let well = origin().start();
    for (lines, is_ejected) in [("", false), ("outliers = { status = [503] }", true)] {
        let atlas = upstream(&[bad.address(), well.address()], lines)
            .text("[[route]]\npath = \"/retried\"\nupstream = \"app\"\nretry = { on = [503] }")
            .start();
        for _ in 0..12 {
            assert_eq!(atlas.get("/retried").status, 200);
        }
        let ejections = atlas.metric("atlas_upstream_ejections_total", &["app"]);
        assert_eq!(ejections > 0.0, is_ejected, "{lines}");
    }
}

#[test]
fn slowness_is_a_failure_where_that_is_asked_for() {
    let bad = origin()
        .handles_all(|exchange| {
            // What it does takes so long.
            std::thread::sleep(Duration::from_millis(1_200));
            exchange.answer(200, &[], b"late")
        })
        .start();
    let wells = [origin().start(), origin().start()];
    let endpoints = [wells[0].address(), bad.address(), wells[1].address()];
    let atlas = upstream(&endpoints, "outliers = { slow_after = \"1s\" }").start();
    let seen = ask(&atlas, "/slow");
    assert!(seen.statuses.iter().all(|status| *status == 200));
    assert_eq!(
        atlas.metric("atlas_upstream_ejections_total", &["cause=\"too_slow\""]),
        1.0
    );
}

#[test]
fn statuses_and_single_endpoints_are_left_alone_by_default() {
    let bad = || {
        origin()
            .handles_all(|exchange| exchange.answer(503, &[], b"no"))
            .start()
    };
    let (one, other) = (bad(), bad());
    let dead = format!("127.0.0.1:{}", free_port());
    let atlas = upstream(&[one.address(), other.address()], "")
        .text("[[route]]\npath = \"/one\"\nupstream = \"one\"")
        .upstream("one", &[&dead], "")
        .start();
    for _ in 0..10 {
        assert_eq!(atlas.get("/").status, 503);
        assert_eq!(atlas.get("/one").status, 502);
    }
    assert_eq!(atlas.metric("atlas_upstream_ejections_total", &[]), 0.0);
    assert_eq!(one.requests().len(), 5);
}

#[test]
fn in_tcp_mode_one_that_refuses_or_resets_is_ejected_too() {
    for refuses in [true, false] {
        let resetting = origin()
            .raw(|stream| rustix::net::connect_unspec(stream.tcp()).unwrap())
            .start();
        let dead = format!("127.0.0.1:{}", free_port());
        let bad = if refuses {
            dead.as_str()
        } else {
            resetting.address()
        };
        let well = origin()
            .raw(|mut stream| {
                let _ = stream.write_all(b"welcome");
                stream.finish();
            })
            .start();
        let atlas = atlas()
            .top("workers = 1")
            .listener(false, "mode = \"tcp\"\nupstream = \"app\"\n")
            .upstream("app", &[bad, well.address()], "")
            .expects_log("is ejected")
            .expects_log("cannot connect")
            .start();
        let is_welcome = || {
            let mut text = Vec::new();
            let mut client = TcpStream::connect(atlas.address()).unwrap();
            client.read_to_end(&mut text).is_ok_and(|_| text == b"welcome")
        };
        let ejected = || atlas.metric("atlas_upstream_ejections_total", &["app"]) == 1.0;
        let mut lost = 0;
        wait_until("it is ejected", || {
            lost += usize::from(!is_welcome());
            ejected().then_some(())
        });
        // A reset may come before the connection stands: then the next endpoint is asked.
        assert!(
            lost <= if refuses { 0 } else { 3 },
            "{lost} connections were lost"
        );
        for _ in 0..6 {
            assert!(is_welcome(), "the other one is well");
        }
    }
}

#[test]
fn an_endpoint_that_was_ejected_is_back_while_the_connection_that_tried_it_goes_on() {
    // It resets what comes, until it greets and stays.
    let is_well = Arc::new(AtomicBool::new(false));
    let flag = is_well.clone();
    let long = origin()
        .raw(move |mut stream| match flag.load(Ordering::SeqCst) {
            true => {
                let _ = stream.write_all(b"welcome");
                let _ = stream.read_to_end(&mut Vec::new());
            }
            false => rustix::net::connect_unspec(stream.tcp()).unwrap(),
        })
        .start();
    let short = origin().raw(|mut stream| stream.finish()).start();
    let atlas = atlas()
        .top("workers = 1")
        .listener(false, "mode = \"tcp\"\nupstream = \"app\"\n")
        .upstream(
            "app",
            &[long.address(), short.address()],
            "outliers = { ejection_time = \"1s\", ejected_max = 50 }\nbalance = \"round_robin\"",
        )
        .expects_log("is ejected")
        .expects_log("cannot connect")
        .start();
    let connect = || TcpStream::connect(atlas.address()).unwrap();
    let is_ejected = || atlas.metric("atlas_upstream_endpoints_ejected", &["app"]) == 1.0;
    wait_until("it is ejected", || {
        let _ = connect().read_to_end(&mut Vec::new());
        is_ejected().then_some(())
    });
    is_well.store(true, Ordering::SeqCst);
    let held = wait_until("somebody gets to it", || {
        let mut client = connect();
        let mut text = [0; 7];
        client.read_exact(&mut text).is_ok().then_some(client)
    });
    wait_until("it is back while that client stays", || {
        (!is_ejected()).then_some(())
    });
    drop(held);
}

#[test]
fn clients_that_go_away_say_nothing_of_the_endpoint() {
    let slow = || {
        origin()
            .handles("/slow", |exchange| {
                exchange.wait_for_close();
                Ok(Then::Close)
            })
            .start()
    };
    let (one, other) = (slow(), slow());
    let atlas = upstream(&[one.address(), other.address()], "")
        .text("[timeouts]\nidle = \"60s\"")
        .start();
    for count in 1..=8 {
        let mut client = atlas.connect();
        client.send("GET /slow HTTP/1.1\r\nHost: a.test\r\n\r\n");
        wait_until("it is asked", || {
            (one.requests().len() + other.requests().len() == count).then_some(())
        });
        client.reset();
        wait_until("its record is there", || {
            let gone = |record: &&serde_json::Value| record["side"] == "downstream";
            (atlas.records().iter().filter(gone).count() >= count).then_some(())
        });
    }
    assert_eq!(atlas.metric("atlas_upstream_ejections_total", &[]), 0.0);
}

#[test]
fn one_that_comes_back_is_tried_once_and_then_asked_like_the_others() {
    let is_well = Arc::new(AtomicBool::new(false));
    let flag = is_well.clone();
    let bad = origin()
        .handles_all(move |exchange| match flag.load(Ordering::SeqCst) {
            true => exchange.answer(200, &[], b"back"),
            false => exchange.answer(502, &[], b"bad"),
        })
        .start();
    let well = origin().start();
    let lines = "outliers = { status = [502], ejection_time = \"1s\", ejection_time_max = \"2s\" }";
    let atlas = upstream(&[bad.address(), well.address()], lines).start();
    wait_until("it is ejected", || {
        atlas.get("/");
        (atlas.metric("atlas_upstream_ejections_total", &["app"]) > 0.0).then_some(())
    });
    // Each time one exchange tries it, and it is left alone for longer.
    let before = bad.requests().len();
    atlas.log_line(&["is ejected for 1s after 3 failures in a row"]);
    wait_until("it is tried, and ejected again", || {
        atlas.get("/");
        let line = |line: &String| line.contains("is ejected for 2s after a failure when it was tried again");
        atlas.log().iter().any(line).then_some(())
    });
    assert_eq!(bad.requests().len(), before + 1);
    is_well.store(true, Ordering::SeqCst);
    wait_until("it is back", || {
        atlas.get("/");
        let line = |line: &String| line.contains("the endpoint is well again");
        atlas.log().iter().any(line).then_some(())
    });
    let before = bad.requests().len();
    (0..10).for_each(|_| assert_eq!(atlas.get("/").status, 200));
    assert_eq!(bad.requests().len(), before + 5, "they take turns");
}

#[test]
fn a_reload_keeps_what_was_learnt_and_the_last_resort_is_better_than_nobody() {
    let port = free_port();
    let dead = format!("127.0.0.1:{port}");
    let well = origin().start();
    let atlas = upstream(&[&dead, well.address()], "").start();
    ask(&atlas, "/");
    atlas.rewrite(|text| text.replace("[upstream.app]", "[upstream.app]\npool_idle_max = 7"));
    atlas.reload();
    let refused = |atlas: &Atlas| atlas.metric("atlas_upstream_connect_failures_total", &["app"]);
    let before = refused(&atlas);
    (0..10).for_each(|_| assert_eq!(atlas.get("/").status, 200));
    assert_eq!(refused(&atlas), before, "it is still ejected");
    // The other one dies, and the one that is ejected is back: nobody else is left.
    stop(well);
    let _back: Origin = origin().on_port(port).answers("/", "back").start();
    assert_eq!(atlas.get("/").text(), "back");
    atlas.log_line(&["the endpoint is well again", &dead]);
}
