//! Shares by weight and by load; backups; endpoints that are drained.

use super::{asked, balanced, count, endpoints, named, named_at, start, stop};
use crate::support::wait_until;

#[test]
fn one_worker_takes_turns_by_weight() {
    let origins = named(3);
    let atlas = balanced(&origins, &["weight = 3", "", "weight = 0"], "");
    let answers = asked(&atlas, 40);
    assert_eq!(
        (count(&answers, 'a'), count(&answers, 'b')),
        (30, 10),
        "{answers}"
    );
    assert!(!answers.contains("aaaa"), "in one lump: {answers}");
}

#[test]
fn several_workers_draw_by_weight() {
    let origins = named(3);
    let atlas = start("workers = 2", &origins, &["weight = 6", "weight = 3"], "");
    let answers = asked(&atlas, 500);
    let counts = ['a', 'b', 'c'].map(|name| count(&answers, name));
    // Five standard deviations: 54, 51, 34.
    let is_near = |counted: usize, due: usize, by: usize| counted.abs_diff(due) <= by;
    assert!(
        is_near(counts[0], 300, 54) && is_near(counts[1], 150, 51) && is_near(counts[2], 50, 34),
        "{counts:?}"
    );
}

#[test]
fn an_endpoint_with_more_to_do_is_asked_less_by_those_who_count() {
    for balance in ["least_connections", "two_choices"] {
        let origins = named(2);
        let atlas = balanced(&origins, &[], &format!("balance = {balance:?}"));
        let mut held = atlas.connect();
        held.send("GET /hold HTTP/1.1\r\nHost: a.test\r\n\r\n");
        let busy = wait_until("one of them is busy", || {
            origins.iter().position(|origin| !origin.requests().is_empty())
        });
        let idle = if busy == 0 { "b" } else { "a" };
        assert_eq!(asked(&atlas, 20), idle.repeat(20), "{balance}");
        held.reset();
        wait_until("it is idle again", || (origins[busy].open() == 0).then_some(()));
        let answers = asked(&atlas, 40);
        assert!(
            answers.contains('a') && answers.contains('b'),
            "{balance}: {answers}"
        );
    }
}

#[test]
fn turns_do_not_look_at_load() {
    let origins = named(2);
    let atlas = balanced(&origins, &[], "balance = \"round_robin\"");
    let mut held = atlas.connect();
    held.send("GET /hold HTTP/1.1\r\nHost: a.test\r\n\r\n");
    wait_until("the first is busy", || {
        (!origins[0].requests().is_empty()).then_some(())
    });
    assert_eq!(asked(&atlas, 6), "bababa");
    held.reset();
}

#[test]
fn a_backup_takes_over_when_no_other_is_there_and_gives_back() {
    let mut origins = named(3);
    let ports = [origins[0].port(), origins[1].port()];
    let atlas = balanced(&origins, &["", "", "backup = true"], "");
    assert_eq!(asked(&atlas, 4), "abab");
    stop(origins.remove(0));
    assert_eq!(asked(&atlas, 2), "bb");
    stop(origins.remove(0));
    assert_eq!(asked(&atlas, 1), "c");
    let _back = named_at('b', Some(ports[1]));
    wait_until("b is asked", || (asked(&atlas, 1) == "b").then_some(()));
    assert_eq!(asked(&atlas, 4), "bbbb");
    let _back = named_at('a', Some(ports[0]));
    wait_until("a is asked", || (asked(&atlas, 1) == "a").then_some(()));
    let answers = asked(&atlas, 8);
    assert!(!answers.contains('c'), "{answers}");
}

#[test]
fn a_drained_endpoint_gets_nothing_new_and_finishes_what_it_has() {
    let origins = named(2);
    let atlas = balanced(&origins, &[], "");
    let mut held = atlas.connect();
    held.send("GET /hold HTTP/1.1\r\nHost: a.test\r\n\r\n");
    wait_until("the first is busy", || {
        (!origins[0].requests().is_empty()).then_some(())
    });
    atlas.rewrite(|text| text.replace(&endpoints(&origins, &[]), &endpoints(&origins, &["drain = true"])));
    atlas.reload();
    assert_eq!(asked(&atlas, 6), "bbbbbb");
    assert!(
        held.is_silent_for(std::time::Duration::from_millis(50)),
        "it is still under way"
    );
    held.reset();
}
