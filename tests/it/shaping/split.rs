//! Several upstreams that share what comes to one route, or to one listener in tcp mode.

use super::named;
use crate::support::{Answer, Atlas, Builder, Origin, atlas, has, wait_until};

/// So many of each request are drawn, each with its own number in the path.
const COUNT: usize = 300;

/// Five standard deviations of how many of `COUNT` go to a share of a fifth.
const BY: usize = 35;

fn shared(builder: Builder, list: &str, origins: [&Origin; 2], lines: &str) -> Builder {
    let [stable, canary] = origins.map(Origin::address);
    builder
        .text(&format!("[[route]]\nupstream = {list}"))
        .upstream("stable", &[stable], lines)
        .upstream("canary", &[canary], lines)
}

const FOUR_TO_ONE: &str = "[{ name = \"stable\", weight = 4 }, { name = \"canary\", weight = 1 }]";

fn is_a_fifth(part: usize) {
    assert!(
        part.abs_diff(COUNT / 5) <= BY,
        "{part} of {COUNT} are not a fifth"
    );
}

fn records_name_the_upstream(atlas: &Atlas, canary: &Origin, count: usize) {
    let of_canary = || {
        let records = atlas.records();
        let exchanges: Vec<_> = records.iter().filter(|one| one["kind"] == "exchange").collect();
        let of = |name: &str| exchanges.iter().filter(|one| one["upstream"] == name).count();
        (of("stable") + of("canary") == count).then_some(of("canary"))
    };
    assert_eq!(
        wait_until("every record has an upstream", of_canary),
        canary.requests().len()
    );
}

#[test]
fn requests_of_http1_are_drawn_by_weight() {
    let (stable, canary) = (named("stable"), named("canary"));
    let atlas = shared(atlas().listens_plain(), FOUR_TO_ONE, [&stable, &canary], "").start();
    let mut client = atlas.connect();
    let answers: Vec<_> = (0..COUNT).map(|_| client.get("/").text()).collect();
    let of_canary = answers.iter().filter(|name| *name == "canary").count();
    is_a_fifth(of_canary);
    assert_eq!(canary.requests().len(), of_canary);
    assert_eq!(stable.requests().len(), COUNT - of_canary);
    records_name_the_upstream(&atlas, &canary, COUNT);
}

#[test]
fn streams_of_http2_are_drawn_each() {
    if !has("h2load") {
        return;
    }
    let (stable, canary) = (named("stable"), named("canary"));
    let atlas = shared(atlas().listens_plain(), FOUR_TO_ONE, [&stable, &canary], "").start();
    let count = COUNT.to_string();
    let words = ["-n", &count, "-c", "1", "-m", "8", "-p", "h2c", &atlas.url("/")];
    let output = crate::support::command("h2load", &words, b"");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains(&format!("{COUNT} 2xx")), "{said}");
    is_a_fifth(canary.requests().len());
    records_name_the_upstream(&atlas, &canary, COUNT);
}

#[test]
fn a_list_of_names_shares_alike_and_weight_0_is_nothing() {
    let (stable, canary) = (named("stable"), named("canary"));
    let list = "[\"stable\", \"canary\"]";
    let atlas = shared(atlas().listens_plain(), list, [&stable, &canary], "").start();
    let ask = || -> Vec<_> { (0..40).map(|_| atlas.get("/").text()).collect() };
    let answers = ask();
    let of_canary = answers.iter().filter(|name| *name == "canary").count();
    assert!(
        of_canary.abs_diff(20) <= 16,
        "five standard deviations: {of_canary}"
    );
    // The canary is taken back.
    atlas.rewrite(|text| text.replace(list, "[\"stable\", { name = \"canary\", weight = 0 }]"));
    atlas.reload();
    assert!(ask().iter().all(|name| name == "stable"));
}

#[test]
fn connections_in_tcp_mode_are_drawn_by_weight() {
    let (stable, canary) = (named("stable"), named("canary"));
    let atlas = atlas()
        .listener(false, &format!("mode = \"tcp\"\nupstream = {FOUR_TO_ONE}\n"))
        .upstream("stable", &[stable.address()], "")
        .upstream("canary", &[canary.address()], "")
        .start();
    let mut of_canary = 0;
    for _ in 0..COUNT {
        let mut client = atlas.connect();
        let name = client.get("/").text();
        // A connection stays where it is.
        assert_eq!(client.get("/").text(), name);
        of_canary += usize::from(name == "canary");
    }
    is_a_fifth(of_canary);
    assert_eq!(canary.accepted(), of_canary);
    let of = |record: &serde_json::Value| record["upstream"] == "canary";
    atlas.record("of the canary", of);
}

/// Fields a client has, and the name and cookie it gets.
fn ask(atlas: &Atlas, cookie: Option<&str>) -> (String, Option<String>) {
    let fields: Vec<_> = cookie.map(|cookie| ("Cookie", cookie)).into_iter().collect();
    let answer: Answer = atlas.connect().request("GET", "/", &fields, b"");
    let set = answer
        .field("set-cookie")
        .and_then(|set| set.split(';').next())
        .map(str::to_owned);
    (answer.text(), set)
}

/// A client of each upstream: its cookie.
fn bound(atlas: &Atlas) -> [String; 2] {
    ["stable", "canary"].map(|wanted| {
        wait_until("a client is drawn", || {
            let (name, cookie) = ask(atlas, None);
            (name == wanted).then_some(cookie?)
        })
    })
}

#[test]
fn a_client_with_a_cookie_stays_with_its_upstream() {
    let (stable, canary) = (named("stable"), named("canary"));
    let sticky = "sticky = { cookie = \"srv\", secret = \"0123456789abcdef\" }";
    let atlas = shared(atlas().listens_plain(), FOUR_TO_ONE, [&stable, &canary], sticky).start();
    let [of_stable, of_canary] = bound(&atlas);
    for _ in 0..20 {
        assert_eq!(ask(&atlas, Some(&of_stable)), ("stable".to_owned(), None));
        assert_eq!(ask(&atlas, Some(&of_canary)), ("canary".to_owned(), None));
    }
    // Other weights move nobody; a weight of 0 does.
    atlas.rewrite(|text| text.replace("weight = 4", "weight = 60000"));
    atlas.reload();
    assert_eq!(ask(&atlas, Some(&of_canary)), ("canary".to_owned(), None));
    atlas.rewrite(|text| text.replace("weight = 1 }", "weight = 0 }"));
    atlas.reload();
    let (name, new) = ask(&atlas, Some(&of_canary));
    assert_eq!((name.as_str(), new.as_ref()), ("stable", Some(&of_stable)));
}

#[test]
fn a_client_whose_endpoint_is_away_stays_with_its_upstream() {
    let (stable, first, second) = (named("stable"), named("canary"), named("canary"));
    let sticky = "sticky = { cookie = \"srv\", secret = \"0123456789abcdef\" }";
    let atlas = atlas()
        .listens_plain()
        .text("[[route]]\nupstream = [\"stable\", \"canary\"]")
        .upstream("stable", &[stable.address()], sticky)
        .upstream("canary", &[first.address(), second.address()], sticky)
        .expects_log("cannot connect")
        .expects_log("is ejected")
        .start();
    let [_, of_canary] = bound(&atlas);
    ask(&atlas, Some(&of_canary));
    let is_first = first
        .requests()
        .last()
        .is_some_and(|last| last.head.field("cookie") == Some(&of_canary));
    drop(if is_first { first } else { second });
    for _ in 0..10 {
        let (name, new) = ask(&atlas, Some(&of_canary));
        assert_eq!(name, "canary");
        assert!(new.is_some(), "it is bound to the other endpoint now");
    }
}
