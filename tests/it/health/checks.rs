//! Active checks: made once for the process, they take endpoints out and bring them back.

use std::collections::HashSet;
use std::io::Read as _;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{is_up, live, origin_with_health, until_up};
use crate::support::{atlas, free_port, origin, wait_until};

const QUICK: &str = "[upstream.app.health]\npath = \"/health\"\ninterval = \"100ms\"\ntimeout = \"100ms\"\n";

#[test]
fn a_check_takes_an_endpoint_out_and_brings_it_back() {
    // In time for what it is to say also where the machine is busy.
    let unhurried = QUICK.replace("100ms", "2500ms");
    let (one, is_well) = origin_with_health("one");
    let (other, _) = origin_with_health("other");
    let atlas = atlas()
        .top("workers = 4")
        .listens_plain()
        .text("[[route]]\nupstream = \"app\"")
        .upstream("app", &[one.address(), other.address()], &unhurried)
        .expects_log("the endpoint is down")
        .start();
    wait_until("both have been checked", || {
        let checked = one.requests().len() > live(&one) && other.requests().len() > live(&other);
        checked.then_some(())
    });
    assert!(is_up(&atlas, one.address()) && is_up(&atlas, other.address()));
    is_well.store(false, Ordering::SeqCst);
    until_up(&atlas, one.address(), false);
    let line = atlas.log_line(&["the endpoint is down", "3 times in a row", one.address()]);
    assert!(
        line.contains("GET /health: answered with 500, not 200-399"),
        "{line}"
    );
    assert_eq!(atlas.metric("atlas_upstream_endpoints_down", &["app"]), 1.0);
    // Workers hear of it a little after the metrics.
    wait_until("nobody asks it any more", || {
        let before = live(&one);
        (0..20).for_each(|_| assert_eq!(atlas.get("/").status, 200));
        (live(&one) == before).then_some(())
    });
    is_well.store(true, Ordering::SeqCst);
    until_up(&atlas, one.address(), true);
    atlas.log_line(&["the endpoint is up", "2 times in a row", one.address()]);
    wait_until("it is asked again", || {
        (atlas.get("/").text() == "one").then_some(())
    });
}

#[test]
fn checks_are_made_once_for_four_workers_each_on_a_connection_of_its_own() {
    let (origin, _) = origin_with_health("one");
    let _atlas = atlas()
        .top("workers = 4")
        .listens_plain()
        .forwards_to_with(
            &origin,
            "[upstream.app.health]\npath = \"/health\"\ninterval = \"1s\"\ntimeout = \"1s\"\nhost = \"check.test\"",
        )
        .expects_log("the endpoint is down") // a busy machine can be late for one
        .start();
    wait_until("a check", || (!origin.requests().is_empty()).then_some(()));
    let (started, before) = (Instant::now(), origin.requests().len());
    wait_until("ten checks more", || {
        (origin.requests().len() >= before + 10).then_some(())
    });
    // Jitter is a tenth. Four workers would have come to ten in two and a half seconds.
    let took = started.elapsed();
    assert!(took >= Duration::from_secs(5), "ten checks took {took:?}");
    let seen = wait_until("each connection has brought its check", || {
        let (accepted, seen) = (origin.accepted(), origin.requests());
        (accepted == seen.len()).then_some(seen)
    });
    let connections: HashSet<_> = seen.iter().map(|check| check.connection).collect();
    assert_eq!(connections.len(), seen.len());
    for check in &seen {
        assert_eq!(check.summary(), "GET /health");
        assert_eq!(check.head.field("host"), Some("check.test"));
        assert!(
            check
                .head
                .field("user-agent")
                .unwrap()
                .starts_with("atlas-check/")
        );
    }
}

#[test]
fn where_all_endpoints_are_down_the_answer_is_503_at_once() {
    let endpoints = [free_port(), free_port()].map(|port| format!("127.0.0.1:{port}"));
    let endpoints = endpoints.each_ref().map(String::as_str);
    let atlas = atlas()
        .top("workers = 1")
        .listens_plain()
        .listener(false, "mode = \"tcp\"\nupstream = \"app\"\n")
        .text("[[route]]\nupstream = \"app\"")
        .upstream("app", &endpoints, "health = true")
        .expects_log("the endpoint is down")
        .expects_log("cannot connect")
        .expects_log("is ejected")
        .start();
    endpoints
        .iter()
        .for_each(|endpoint| until_up(&atlas, endpoint, false));
    let line = atlas.log_line(&["first check failed", endpoints[0]]);
    assert!(line.contains("refused") && line.contains("does it run"), "{line}");
    // Its worker hears of it a little after the metrics.
    wait_until("they are not asked any more", || {
        (atlas.get("/").status == 503).then_some(())
    });
    let started = Instant::now();
    let answer = atlas.get("/down");
    let took = started.elapsed();
    assert_eq!(answer.status, 503);
    let status = answer.field("proxy-status").unwrap();
    assert!(
        status.contains("destination_unavailable") && status.contains("upstream_down"),
        "{status}"
    );
    assert!(took < Duration::from_secs(15), "{took:?}");
    let record = atlas.exchange("/down");
    assert_eq!(
        (
            &record["side"],
            &record["phase"],
            &record["cause"],
            &record["attempts"]
        ),
        (
            &"upstream".into(),
            &"connect".into(),
            &"all_down".into(),
            &serde_json::Value::Null
        ),
        "{record}"
    );
    // In tcp mode there is nobody to be answered: the connection is reset.
    let mut client = std::net::TcpStream::connect(atlas.address_of(1)).unwrap();
    assert!(client.read(&mut [0; 1]).is_err());
    atlas.record("the connection's", |record| {
        record["kind"] == "connection" && record["cause"] == "all_down"
    });
}

#[test]
fn below_the_panic_threshold_endpoints_that_are_down_are_asked() {
    let (one, is_well) = origin_with_health("one");
    let (other, is_other_well) = origin_with_health("other");
    is_well.store(false, Ordering::SeqCst);
    is_other_well.store(false, Ordering::SeqCst);
    let lines = format!("panic_below = 1\n{QUICK}");
    let atlas = atlas()
        .top("workers = 1")
        .listens_plain()
        .text("[[route]]\nupstream = \"app\"")
        .upstream("app", &[one.address(), other.address()], &lines)
        .expects_log("the endpoint is down")
        .expects_log("all are asked")
        .start();
    atlas.log_line(&["only 0 endpoints are well"]);
    for _ in 0..4 {
        assert_eq!(atlas.get("/").status, 200);
    }
    assert_eq!((live(&one), live(&other)), (2, 2));
    is_well.store(true, Ordering::SeqCst);
    until_up(&atlas, one.address(), true);
    wait_until("the one that is well is asked alone", || {
        let before = live(&other);
        (0..4).for_each(|_| assert_eq!(atlas.get("/").status, 200));
        (live(&other) == before).then_some(())
    });
}

#[test]
fn a_reload_keeps_what_checks_have_found() {
    let unhurried = QUICK.replace("100ms", "2500ms"); // the first check is made at once
    let (one, is_well) = origin_with_health("one");
    let (other, _) = origin_with_health("other");
    is_well.store(false, Ordering::SeqCst);
    let atlas = atlas()
        .top("workers = 2")
        .listens_plain()
        .text("[[route]]\nupstream = \"app\"")
        .upstream("app", &[one.address(), other.address()], &unhurried)
        .expects_log("the endpoint is down")
        .start();
    until_up(&atlas, one.address(), false);
    wait_until("nobody asks it", || {
        let before = live(&one);
        (0..10).for_each(|_| assert_eq!(atlas.get("/").status, 200));
        (live(&one) == before).then_some(())
    });
    let before = live(&one);
    // No check comes for an hour; the upstream is another object of the worker's.
    atlas.rewrite(|text| {
        text.replace("interval = \"2500ms\"", "interval = \"1h\"")
            .replace("[upstream.app]", "[upstream.app]\npool_idle_max = 7")
    });
    atlas.reload();
    assert!(!is_up(&atlas, one.address()) && is_up(&atlas, other.address()));
    for _ in 0..10 {
        assert_eq!(atlas.get("/").text(), "other");
    }
    assert_eq!(live(&one), before);
    // Without checks nothing is down.
    atlas.rewrite(|text| text.replace(&unhurried.replacen("2500ms", "1h", 1), ""));
    atlas.reload();
    assert!(!atlas.metrics().contains("atlas_endpoint_up{"));
    wait_until("it is asked again", || {
        (atlas.get("/").text() == "one").then_some(())
    });
}

#[test]
fn an_endpoint_added_by_a_reload_is_checked() {
    let (one, _) = origin_with_health("one");
    let atlas = atlas()
        .listens_plain()
        .forwards_to(&one)
        .expects_log("the endpoint is down")
        .start();
    let dead = format!("127.0.0.1:{}", free_port());
    let own = one.address().to_owned();
    atlas.rewrite(|text| {
        text.replace(
            &format!("[{own:?}]"),
            &format!("[{own:?}, {dead:?}]\nhealth = true"),
        )
    });
    atlas.reload();
    until_up(&atlas, &dead, false);
    assert!(is_up(&atlas, &own));
}

#[test]
fn a_unix_socket_is_checked() {
    let folder = tempfile::tempdir().unwrap();
    let origin = origin().on_unix(folder.path().join("app.sock")).start();
    let gone = format!("unix:{}", folder.path().join("gone.sock").display());
    let atlas = atlas()
        .listens_plain()
        .text("[[route]]\nupstream = \"app\"")
        .upstream(
            "app",
            &[origin.address(), &gone],
            "health = { path = \"/health\" }",
        )
        .expects_log("the endpoint is down")
        .start();
    until_up(&atlas, &gone, false);
    assert!(is_up(&atlas, origin.address()));
    assert_eq!(origin.request().head.field("host"), Some("localhost"));
}
