//! Clients that come to the same endpoint again: by hash, by a cookie.

use std::collections::BTreeMap;

use super::{asked, balanced, endpoints, named, named_at, start, stop};
use crate::support::{Atlas, atlas, has, wait_until};

fn asked_with(atlas: &Atlas, path: &str, field: (&str, &str)) -> String {
    atlas.connect().request("GET", path, &[field], b"").text()
}

/// Who answers each of many users.
fn homes(atlas: &Atlas) -> BTreeMap<usize, String> {
    let users = 0..200;
    users
        .map(|user| (user, asked_with(atlas, "/", ("X-User", &format!("user-{user}")))))
        .collect()
}

#[test]
fn a_user_stays_with_an_endpoint_and_few_move_when_one_goes() {
    let mut origins = named(5);
    let lines = "balance = \"hash\"\nhash = \"header:X-User\"";
    let atlas = start("workers = 2", &origins, &[], lines);
    let before = homes(&atlas);
    assert_eq!(homes(&atlas), before);
    for name in ["a", "b", "c", "d", "e"] {
        let count = before.values().filter(|home| *home == name).count();
        assert!((15..=75).contains(&count), "{name} has {count} of 200");
    }
    // One cannot be reached: its users move, the others do not.
    let port = origins[2].port();
    stop(origins.remove(2));
    let without = homes(&atlas);
    for (user, home) in &before {
        assert!(
            home == "c" || without[user] == *home,
            "{user} had no need to move"
        );
        assert_ne!(without[user], "c");
    }
    // It is taken out of the file: the same.
    let all = format!("{{ address = \"127.0.0.1:{port}\",  }}, ");
    atlas.rewrite(|text| {
        assert!(text.contains(&all), "{text}");
        text.replace(&all, "")
    });
    atlas.reload();
    assert_eq!(homes(&atlas), without);
}

#[test]
fn paths_cookies_and_addresses_decide_where_they_are_asked_to() {
    let origins = named(4);
    let by = |hash: &str| balanced(&origins, &[], &format!("balance = \"hash\"\nhash = {hash:?}"));
    let atlas = by("path");
    let of = |number: usize| atlas.get(&format!("/{number}?{number}")).text();
    let first: Vec<_> = (0..40).map(of).collect();
    assert!(first.iter().any(|home| *home != first[0]));
    assert_eq!(first, (0..40).map(of).collect::<Vec<_>>());
    assert_eq!(atlas.get("/7?other").text(), first[7], "the query does not count");
    let atlas = by("cookie:session");
    let of = |number: usize| {
        let cookies = format!("a={}; session={number}", fastrand::u32(..));
        asked_with(&atlas, "/", ("Cookie", &cookies))
    };
    let first: Vec<_> = (0..40).map(of).collect();
    assert!(first.iter().any(|home| *home != first[0]));
    assert_eq!(first, (0..40).map(of).collect::<Vec<_>>());
    let without = asked(&atlas, 40);
    assert!(
        without.chars().any(|home| !without.starts_with(home)),
        "{without}"
    );
    let atlas = by("client_address");
    let all = asked(&atlas, 10);
    assert!(all.chars().all(|home| all.starts_with(home)), "{all}");
}

#[test]
fn in_tcp_mode_an_address_stays_with_its_endpoint() {
    let origins = named(4);
    let atlas = atlas()
        .top("workers = 1")
        .listener(false, "mode = \"tcp\"\nupstream = \"app\"\n")
        .text(&format!("[upstream.app]\n{}", endpoints(&origins, &[])))
        .text("balance = \"hash\"\nhash = \"client_address\"")
        .start();
    let all = asked(&atlas, 10);
    assert!(all.chars().all(|home| all.starts_with(home)), "{all}");
}

const STICKY: &str = "sticky = { cookie = \"srv\", ttl = \"1h\", secret = \"0123456789abcdef\" }";

/// The cookie Atlas sets, as it is sent back.
fn cookie_of(answer: &crate::support::Answer) -> String {
    let set = answer.field("set-cookie").expect("a cookie is set");
    assert!(
        set.ends_with("; Path=/; Max-Age=3600; HttpOnly; SameSite=Lax"),
        "{set}"
    );
    set.split(';').next().unwrap().to_owned()
}

#[test]
fn a_cookie_brings_a_client_back_also_after_a_reload_and_to_another_atlas() {
    let origins = named(4);
    let atlas = balanced(&origins, &[], STICKY);
    let mut bound = BTreeMap::new();
    for _ in 0..4 {
        let answer = atlas.get("/");
        bound.insert(answer.text(), cookie_of(&answer));
    }
    assert_eq!(bound.len(), 4, "{bound:?}");
    let stays = |atlas: &Atlas, homes: &str| {
        for (home, cookie) in bound.iter().filter(|(home, _)| homes.contains(home.as_str())) {
            for _ in 0..3 {
                let cookies = format!("x=y; {cookie}");
                let answer = atlas.connect().request("GET", "/", &[("Cookie", &cookies)], b"");
                assert_eq!(answer.text(), *home);
                assert_eq!(answer.field("set-cookie"), None);
            }
        }
    };
    stays(&atlas, "abcd");
    for origin in &origins {
        let shown = format!("{bound:?}");
        assert!(!shown.contains(&origin.port().to_string()), "{shown}");
    }
    // Drained it still has its own; one that is new changes nothing.
    let said = ["", "drain = true", "weight = 5"];
    atlas.rewrite(|text| text.replace(&endpoints(&origins, &[]), &endpoints(&origins, &said)));
    atlas.reload();
    stays(&atlas, "abcd");
    assert!(!asked(&atlas, 20).contains('b'));
    // Another Atlas, with the endpoints in another order and one less.
    let mut origins = origins;
    origins.reverse();
    origins.truncate(3);
    stays(&balanced(&origins, &[], STICKY), "bcd");
}

#[test]
fn a_client_whose_endpoint_is_gone_is_bound_to_another() {
    let mut origins = named(2);
    let atlas = balanced(&origins, &[], STICKY);
    let answer = atlas.get("/");
    assert_eq!(answer.text(), "a");
    let old = cookie_of(&answer);
    let port = origins[0].port();
    stop(origins.remove(0));
    let answer = atlas.connect().request("GET", "/", &[("Cookie", &old)], b"");
    assert_eq!(answer.text(), "b");
    let new = cookie_of(&answer);
    assert_eq!(asked_with(&atlas, "/", ("Cookie", &new)), "b");
    // It comes back: whoever has a new cookie stays, whoever has the old one returns.
    let _back = named_at('a', Some(port));
    wait_until("a is asked", || (asked(&atlas, 1) == "a").then_some(()));
    assert_eq!(asked_with(&atlas, "/", ("Cookie", &new)), "b");
    assert_eq!(asked_with(&atlas, "/", ("Cookie", &old)), "a");
    // What Atlas never gave binds to nobody.
    let answer = atlas
        .connect()
        .request("GET", "/", &[("Cookie", "srv=nonsense")], b"");
    assert!(answer.field("set-cookie").is_some());
}

#[test]
fn clients_of_http2_are_bound_by_a_cookie_for_https() {
    if !has("curl") {
        return;
    }
    let origins = named(3);
    let atlas = atlas()
        .top("workers = 1")
        .listens_tls("a.test")
        .text("[[route]]\nupstream = \"app\"")
        .text(&format!("[upstream.app]\n{}\n{STICKY}", endpoints(&origins, &[])))
        .start();
    let ask = |arguments: &[&str]| {
        let output = atlas.curl("/", &[&["-si", "--http2"], arguments].concat());
        String::from_utf8(output.stdout).unwrap()
    };
    let first = ask(&[]);
    let set = first
        .lines()
        .find_map(|line| line.strip_prefix("set-cookie: "))
        .expect(&first);
    assert!(
        first.starts_with("HTTP/2 200") && set.contains("; Secure; HttpOnly"),
        "{first}"
    );
    let home = first.chars().last();
    let cookie = format!("Cookie: {}", set.split(';').next().unwrap());
    for _ in 0..4 {
        // In a field of its own, as HTTP/2 allows.
        let again = ask(&["-H", "Cookie: x=y", "-H", &cookie]);
        assert!(
            again.chars().last() == home && !again.contains("set-cookie"),
            "{again}"
        );
    }
}
