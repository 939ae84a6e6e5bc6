//! Names: their addresses, how long they hold, what happens when nobody answers.

use std::time::{Duration, Instant};

use super::server::{Mood, Names, names};
use crate::support::*;

/// Sends everything to one name, looked up there. The search list of this machine is not asked: the name
/// ends with a dot.
pub fn atlas_with(names: &Names, endpoints: &[&str], lines: &str) -> Builder {
    asks(names, "ttl_min = \"100ms\", ttl_max = \"2s\"", endpoints, lines)
}

/// The same with other bounds of an answer's time.
pub fn asks(names: &Names, bounds: &str, endpoints: &[&str], lines: &str) -> Builder {
    atlas()
        .listens_plain()
        .top(&format!(
            "workers = 1\nresolver = {{ servers = [{:?}], {bounds} }}",
            names.address()
        ))
        .text("[[route]]\nupstream = \"app\"")
        .upstream("app", endpoints, lines)
}

/// Two origins on one port, each with its address for an answer.
fn two_origins() -> (Origin, Origin) {
    let one = origin().answers("/", "127.0.0.1").start();
    let other = origin()
        .answers("/", "127.0.0.2")
        .at(([127, 0, 0, 2], one.port()).into())
        .start();
    (one, other)
}

/// Who answers, in so many requests.
fn who(atlas: &Atlas, count: usize) -> Vec<String> {
    let mut all: Vec<_> = (0..count).map(|_| atlas.get("/").text()).collect();
    all.sort();
    all.dedup();
    all
}

pub fn endpoints(atlas: &Atlas) -> f64 {
    atlas.metric("atlas_upstream_endpoints", &["upstream=\"app\""])
}

#[test]
fn each_address_of_a_name_is_an_endpoint_and_follows_its_changes() {
    let (one, other) = two_origins();
    let names = names(0);
    names.set("app.test", &["127.0.0.1"]);
    let atlas = atlas_with(&names, &[&format!("app.test.:{}", one.port())], "").start();
    assert_eq!(who(&atlas, 4), ["127.0.0.1"]);
    assert_eq!(endpoints(&atlas), 1.0);
    assert_eq!(atlas.exchange("/")["endpoint"], one.address());

    names.set("app.test", &["127.0.0.2", "127.0.0.1"]);
    wait_until("the second address is found", || {
        (endpoints(&atlas) == 2.0).then_some(())
    });
    wait_until("both are asked", || (who(&atlas, 8).len() == 2).then_some(()));
    assert_eq!(
        one.accepted(),
        1,
        "the connection of the one that stays is used on"
    );

    names.set("app.test", &["127.0.0.2"]);
    wait_until("the first address is gone", || {
        (endpoints(&atlas) == 1.0).then_some(())
    });
    wait_until("the second alone is asked", || {
        (who(&atlas, 8) == ["127.0.0.2"]).then_some(())
    });
    wait_until("the connection to the first is closed", || {
        (one.open() == 0).then_some(())
    });
    assert_eq!(other.accepted(), 1);
}

#[test]
fn what_is_under_way_with_an_address_that_goes_is_finished() {
    let (go, gone) = (std::sync::Arc::new(std::sync::Barrier::new(2)), names(0));
    let waits = go.clone();
    let one = origin()
        .handles("/slow", move |exchange| {
            waits.wait();
            exchange.answer(200, &[], b"at last")
        })
        .start();
    let other = origin()
        .answers("/", "new")
        .at(([127, 0, 0, 2], one.port()).into())
        .start();
    gone.set("app.test", &["127.0.0.1"]);
    let atlas = atlas_with(&gone, &[&format!("app.test.:{}", other.port())], "").start();
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| atlas.get("/slow"));
        wait_until("it is under way", || (one.accepted() == 1).then_some(()));
        gone.set("app.test", &["127.0.0.2"]);
        wait_until("the new one is asked", || {
            (who(&atlas, 1) == ["new"]).then_some(())
        });
        go.wait();
        assert_eq!(slow.join().unwrap().text(), "at last");
    });
}

#[test]
fn an_answer_is_kept_for_its_time_within_the_bounds() {
    for (ttl, kept) in [(0, 0.1), (3600, 2.0)] {
        let origin = origin().start();
        let names = names(ttl);
        names.set("app.test", &["127.0.0.1"]);
        let started = Instant::now();
        let atlas = atlas_with(&names, &[&format!("app.test.:{}", origin.port())], "").start();
        let looked_up = || atlas.metric("atlas_resolver_lookups_total", &["result=\"finished\""]);
        wait_until("it is looked up for the third time", || {
            (looked_up() >= 3.0).then_some(())
        });
        let (times, asked) = (looked_up(), names.asked("app.test", "udp"));
        let took = started.elapsed();
        let most = took.as_secs_f64() / kept + 1.0;
        assert!(
            times <= most,
            "an answer for {ttl} s: looked up {times} times in {took:?}"
        );
        // Each look-up has two questions, for A and for AAAA, which are sent up to three times.
        assert!(
            (6.0..=6.0 * (most + 1.0)).contains(&(asked as f64)),
            "an answer for {ttl} s: asked {asked} times in {took:?}"
        );
        assert_eq!(
            atlas.metric("atlas_resolver_lookups_total", &["result=\"failed\""]),
            0.0
        );
    }
}

#[test]
fn the_last_good_answer_is_kept_while_the_server_fails() {
    let (one, _other) = two_origins();
    let names = names(0);
    names.set("app.test", &["127.0.0.1"]);
    let name = format!("app.test.:{}", one.port());
    let atlas = atlas_with(&names, &[&name], "")
        .expects_log("cannot look up an endpoint")
        .start();
    let is_failing = || atlas.metric("atlas_resolver_name_failing", &[&name]);
    assert_eq!(
        (who(&atlas, 2), is_failing()),
        (vec!["127.0.0.1".to_owned()], 0.0)
    );
    names.set_mood(Mood::Fails);
    names.set("app.test", &["127.0.0.2"]);
    wait_until("it is told", || (is_failing() == 1.0).then_some(()));
    let line = atlas.log_line(&["cannot look up an endpoint", &name]);
    assert!(line.contains("its last addresses are kept"), "{line}");
    assert_eq!(who(&atlas, 4), ["127.0.0.1"]);
    assert!(atlas.metric("atlas_resolver_lookups_total", &["result=\"failed\""]) >= 1.0);
    names.set_mood(Mood::Well);
    wait_until("it is looked up again", || (is_failing() == 0.0).then_some(()));
    wait_until("the new one is asked", || {
        (who(&atlas, 4) == ["127.0.0.2"]).then_some(())
    });
}

#[test]
fn a_name_that_is_not_known_at_the_start_is_found_when_it_is() {
    let origin = origin().start();
    let names = names(0);
    let atlas = atlas_with(&names, &[&format!("app.test.:{}", origin.port())], "")
        .expects_log("app.test")
        .start();
    let answer = atlas.get("/early");
    assert_eq!(answer.status, 503, "{answer:?}");
    assert_eq!(atlas.exchange("/early")["cause"], "unresolved");
    names.set("app.test", &["127.0.0.1"]);
    wait_until("it is found", || (atlas.get("/").status == 200).then_some(()));
}

#[test]
fn a_long_answer_comes_by_tcp() {
    let (one, _other) = two_origins();
    let names = names(0);
    names.set("app.test", &["127.0.0.1", "127.0.0.2"]);
    names.set_mood(Mood::Truncates);
    let atlas = atlas_with(&names, &[&format!("app.test.:{}", one.port())], "").start();
    assert_eq!(who(&atlas, 8), ["127.0.0.1", "127.0.0.2"]);
    assert!(names.asked("app.test", "tcp") >= 2);
}

#[test]
fn a_family_that_does_not_answer_costs_a_quarter_of_a_second_and_not_the_deadline() {
    // A queue that is full: the kernel drops what comes after it, as a firewall does.
    let hole = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None).unwrap();
    let Ok(()) = hole.bind(&std::net::SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, free_port())).into())
    else {
        eprintln!("skipped: this machine has no IPv6");
        return;
    };
    hole.listen(0).unwrap();
    let silent = hole.local_addr().unwrap().as_socket().unwrap();
    let _in_queue = std::net::TcpStream::connect(silent).unwrap();
    let origin = origin().answers("/", "by IPv4").on_port(silent.port()).start();
    let names = names(0);
    names.set("app.test", &["127.0.0.1", "::1"]);
    let name = format!("app.test.:{}", silent.port());
    let atlas = atlas_with(&names, &[&name], "connect_timeout = \"60s\"").start();
    assert_eq!(endpoints(&atlas), 1.0, "two ways to one endpoint");
    let started = Instant::now();
    assert_eq!(atlas.get("/").text(), "by IPv4");
    let took = started.elapsed();
    assert!(
        (Duration::from_millis(240)..Duration::from_secs(20)).contains(&took),
        "{took:?}"
    );
    assert_eq!(atlas.exchange("/")["attempts"], 1);
    assert_eq!(origin.accepted(), 1);
}

#[test]
fn a_reload_asks_the_servers_it_names_and_keeps_what_stays() {
    let (one, _other) = two_origins();
    let (old, new) = (names(3600), names(3600));
    old.set("app.test", &["127.0.0.1"]);
    new.set("app.test", &["127.0.0.1", "127.0.0.2"]);
    let atlas = atlas_with(&old, &[&format!("app.test.:{}", one.port())], "").start();
    assert_eq!(who(&atlas, 4), ["127.0.0.1"]);
    atlas.rewrite(|text| text.replace(&old.address(), &new.address()));
    atlas.reload();
    assert_eq!(who(&atlas, 8), ["127.0.0.1", "127.0.0.2"]);
    assert_eq!(
        one.accepted(),
        1,
        "the connection of the one that stays is used on"
    );
}
