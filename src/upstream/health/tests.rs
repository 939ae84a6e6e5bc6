//! The machines of health by data: what happened, when, and what follows.

use super::check::Tally;
use super::*;
use crate::time::now;

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn outliers() -> Outliers {
    Outliers {
        ejection_time: ms(100),
        ejection_time_max: ms(400),
        ..Outliers::default()
    }
}

fn settings() -> Settings {
    Settings {
        outliers: Some(outliers()),
        slow_start: Some(ms(1000)),
        panic_below: 0,
    }
}

/// Fails until it should be ejected, and ejects it; for how long.
fn eject(health: &Health, at: Instant) -> Duration {
    for _ in 0..100 {
        if let Verdict::ToEject(_) = health.failed(&settings(), at) {
            return health.eject(&outliers(), at);
        }
    }
    panic!("it is never ejected");
}

#[test]
fn failures_in_a_row_eject_and_one_success_between_them_does_not() {
    let (health, at) = (Health::default(), now());
    for _ in 0..10 {
        assert_eq!(health.failed(&settings(), at), Verdict::Stays);
        assert_eq!(health.failed(&settings(), at), Verdict::Stays);
        assert!(!health.succeeded(|| at));
        // Or the rate of failures would be too high.
        (0..3).for_each(|_| assert!(!health.succeeded(|| at)));
    }
    for _ in 0..2 {
        assert_eq!(health.failed(&settings(), at), Verdict::Stays);
    }
    let Verdict::ToEject(reason) = health.failed(&settings(), at) else {
        panic!("the third in a row ejects");
    };
    assert_eq!(reason.to_string(), "3 failures in a row");
    assert!(health.is_available(at), "until it is ejected");
    health.eject(&outliers(), at);
    assert!(!health.is_available(at));
}

#[test]
fn a_high_rate_of_failures_ejects_once_there_are_enough_exchanges() {
    let (health, at) = (Health::default(), now());
    let mut failures = 0;
    let reason = loop {
        failures += 1;
        match health.failed(&settings(), at) {
            Verdict::ToEject(reason) => break reason,
            Verdict::Stays => assert!(!health.succeeded(|| at)),
        }
        assert!(failures < 50, "half of all fail");
    };
    assert_eq!(reason.to_string(), "11 failures of 21 exchanges");
}

#[test]
fn a_window_that_is_over_counts_no_more() {
    let (health, start) = (Health::default(), now());
    for second in 0..60 {
        let at = start + Duration::from_secs(2 * second);
        assert_eq!(health.failed(&settings(), at), Verdict::Stays);
        health.succeeded(|| at);
    }
}

#[test]
fn ejections_grow_up_to_the_longest_and_shrink_with_the_time_it_is_well() {
    let (health, mut at) = (Health::default(), now());
    let again = |at: &mut Instant, well: Duration| {
        let time = eject(&health, *at);
        *at += time;
        assert!(health.is_available(*at), "its time is over");
        health.begin(&settings(), *at);
        assert!(health.succeeded(|| *at));
        *at += well;
        time
    };
    let no_time = ms(0);
    let times: Vec<_> = (0..5).map(|_| again(&mut at, no_time)).collect();
    assert_eq!(times, [ms(100), ms(200), ms(400), ms(400), ms(400)]);
    // Five are held against it; each time of 400 ms that it is well forgives one.
    assert_eq!(again(&mut at, ms(1700)), ms(400));
    assert_eq!(again(&mut at, ms(3600)), ms(400), "6 less 4, and this one");
    assert_eq!(again(&mut at, no_time), ms(100), "all are forgiven");
}

/// A tunnel, say, that goes on for hours.
#[test]
fn one_that_has_answered_the_exchange_that_tries_it_is_back_before_that_ends() {
    let (health, start) = (Health::default(), now());
    assert!(!health.answered(|| start), "nobody has doubts");
    let at = start + eject(&health, start);
    health.begin(&settings(), at);
    assert!(!health.is_available(at));
    assert!(health.answered(|| at));
    assert!(health.is_available(at) && !health.is_ejected() && health.is_well());
    // Until an exchange has ended well one failure is enough.
    assert!(matches!(health.failed(&settings(), at), Verdict::ToEject(_)));
    assert_eq!(health.eject(&outliers(), at), ms(200));
    let at = at + ms(200);
    health.begin(&settings(), at);
    assert!(health.answered(|| at));
    assert!(!health.succeeded(|| at), "it has been told");
    assert_eq!(health.failed(&settings(), at), Verdict::Stays);
}

#[test]
fn one_exchange_tries_an_endpoint_whose_ejection_is_over() {
    let (health, start) = (Health::default(), now());
    let time = eject(&health, start);
    assert!(!health.is_available(start + time - ms(1)));
    let at = start + time;
    assert!(health.is_available(at));
    health.begin(&settings(), at);
    assert!(!health.is_available(at), "somebody tries it");
    // It fails: out again, twice as long.
    let Verdict::ToEject(reason) = health.failed(&settings(), at) else {
        panic!("one failure is enough");
    };
    assert_eq!(reason.to_string(), "a failure when it was tried again");
    assert_eq!(health.eject(&outliers(), at), ms(200));
    let at = at + ms(200);
    health.begin(&settings(), at);
    // The client went away: the next one may try.
    health.learnt_nothing(|| at);
    assert!(health.is_available(at));
    health.begin(&settings(), at);
    assert!(health.is_available(at + ms(200)), "nobody told how it went");
    assert!(health.succeeded(|| at));
    assert!(health.is_available(at));
    assert!(!health.succeeded(|| at), "it is back already");
}

#[test]
fn what_was_asked_before_an_ejection_changes_nothing() {
    let (health, at) = (Health::default(), now());
    let time = eject(&health, at);
    assert!(!health.succeeded(|| at));
    assert_eq!(health.failed(&settings(), at), Verdict::Stays);
    assert!(!health.is_available(at + time - ms(1)));
    assert!(health.succeeded(|| at + time), "its time is over");
}

#[test]
fn one_that_answers_as_the_last_resort_is_back_and_one_that_fails_loses_nothing() {
    let (health, at) = (Health::default(), now());
    let time = eject(&health, at);
    for _ in 0..10 {
        health.resort();
        assert!(!health.is_available(at), "the others come first");
        assert_eq!(health.failed(&settings(), at), Verdict::Stays);
        // The same moment as before.
        assert!(!health.is_available(at + time - ms(1)) && health.is_available(at + time));
    }
    health.resort();
    health.learnt_nothing(|| at);
    assert!(!health.succeeded(|| at), "nobody asked it");
    health.resort();
    assert!(health.succeeded(|| at));
    assert!(health.is_available(at));
}

#[test]
fn the_room_for_ejections_is_bounded_and_one_is_always_left() {
    let table = [
        // percent, endpoints, ejected already, well: may one more go?
        (50, 1, 0, 1, false),
        (100, 1, 0, 1, false),
        (50, 2, 0, 2, true),
        (50, 2, 1, 1, false),
        (50, 3, 1, 2, true),
        (50, 3, 2, 1, false),
        (10, 3, 0, 3, true),
        (10, 3, 1, 2, false),
        (0, 3, 0, 3, false),
        (100, 4, 2, 2, true),
        (100, 4, 3, 1, false),
        // One is ejected, two are known to be down: the last is not taken away.
        (100, 4, 1, 1, false),
    ];
    for (percent, count, ejected, well, may) in table {
        let outliers = Outliers {
            ejected_max: percent,
            ..Outliers::default()
        };
        let has_room = outliers.has_room(count, ejected, well);
        assert_eq!(has_room, may, "{percent}% of {count}, {ejected} out, {well} well");
    }
}

#[test]
fn one_that_is_spared_is_asked_on() {
    let (health, at) = (Health::default(), now());
    for _ in 0..3 {
        health.failed(&settings(), at);
    }
    health.spare();
    assert!(health.is_available(at));
    assert_ne!(
        health.failed(&settings(), at),
        Verdict::Stays,
        "there may be room now"
    );
}

#[test]
fn the_share_grows_after_it_came_back() {
    let (health, start) = (Health::default(), now());
    assert_eq!(health.share(&settings(), start), 1.0);
    let at = start + eject(&health, start);
    health.begin(&settings(), at);
    health.succeeded(|| at);
    let shares = [0, 50, 100, 500, 900, 1000, 5000].map(|after| health.share(&settings(), at + ms(after)));
    assert_eq!(shares, [0.1, 0.1, 0.1, 0.5, 0.9, 1.0, 1.0]);
    let without = Settings {
        slow_start: None,
        ..settings()
    };
    assert_eq!(health.share(&without, at), 1.0);
    assert!(!health.is_settled(&settings(), at));
    assert!(health.is_settled(&settings(), at + ms(1000)));
}

fn check(rise: u32, fall: u32) -> Check {
    Check {
        proxy_protocol: None,
        request: None,
        http2: false,
        port: None,
        tls: None,
        interval: ms(1000),
        jitter: 10,
        timeout: ms(500),
        rise,
        fall,
    }
}

/// A reload reads all anew.
#[test]
fn a_check_that_is_read_anew_is_the_same_until_something_in_it_changes() {
    assert!(check(2, 3).is_same(&check(2, 3)));
    assert!(!check(2, 3).is_same(&check(2, 4)));
    let on_another_port = Check {
        port: Some(80),
        ..check(2, 3)
    };
    assert!(!check(2, 3).is_same(&on_another_port));
}

#[test]
fn checks_turn_an_endpoint_by_rise_and_fall_and_the_first_one_at_once() {
    // What each check found, and whether the endpoint is up after it.
    let table = [
        (2, 3, "+--- --++ +-+-", "+++- ---+ ++++"),
        (2, 3, "- + - + + - - -", "- - - - + + + -"),
        (1, 1, "+-+-", "+-+-"),
        (3, 1, "- + + - + + +", "- - - - - - +"),
        (2, 2, "+ - + - + - -", "+ + + + + + -"),
    ];
    for (rise, fall, found, wanted) in table {
        let signs = |text: &str| -> Vec<bool> {
            let signs = text.chars().filter(|sign| *sign != ' ');
            signs.map(|sign| sign == '+').collect()
        };
        let mut tally = Tally::UNKNOWN;
        assert!(tally.is_up(), "until proved down");
        let mut was = true;
        let mut is = Vec::new();
        for passed in signs(found) {
            let turns = tally.note(passed, &check(rise, fall));
            assert_eq!(turns, tally.is_up() != was, "{found}");
            was = tally.is_up();
            is.push(was);
        }
        assert_eq!(is, signs(wanted), "rise {rise}, fall {fall}: {found}");
    }
}

#[test]
fn the_time_between_checks_is_the_interval_more_or_less() {
    let check = check(1, 1);
    assert_eq!(check.pause(0.0), ms(900));
    assert_eq!(check.pause(0.5), ms(1000));
    assert!(check.pause(0.999_999) < ms(1100));
}

#[test]
fn one_that_checks_find_down_is_not_asked_and_comes_back_fresh() {
    let (health, at) = (Health::default(), now());
    eject(&health, at);
    assert!(health.set_down(true, at) && !health.set_down(true, at));
    let later = at + Duration::from_secs(3600);
    assert!(!health.is_available(later) && !health.is_settled(&settings(), later));
    assert!(health.set_down(false, later));
    assert!(
        health.is_available(later),
        "what live exchanges told before is forgotten"
    );
    assert_eq!(health.share(&settings(), later), 0.1);
}

#[test]
fn all_are_asked_where_too_few_are_well() {
    let table = [
        (0, 0, 3, false),
        (1, 0, 3, true),
        (1, 1, 3, false),
        (50, 1, 3, true),
        (50, 2, 4, false),
    ];
    for (panic_below, well, count, panics) in table {
        let settings = Settings {
            panic_below,
            ..settings()
        };
        assert_eq!(
            settings.panics(well, count),
            panics,
            "{well} of {count}, below {panic_below}%"
        );
    }
}

#[test]
fn what_a_broken_exchange_says_depends_on_who_broke_it_and_when() {
    let end = |side, phase, cause| End::new(side, phase, cause);
    let table = [
        (
            end(Side::Upstream, Phase::Response, Cause::TimedOut),
            false,
            false,
            Outcome::Failed(Cause::TimedOut),
        ),
        (
            end(Side::Upstream, Phase::Response, Cause::Reset),
            false,
            false,
            Outcome::Failed(Cause::Reset),
        ),
        // An idle connection that was closed meanwhile.
        (
            end(Side::Upstream, Phase::Response, Cause::Reset),
            false,
            true,
            Outcome::Nothing,
        ),
        (
            end(Side::Upstream, Phase::Response, Cause::Closed),
            false,
            true,
            Outcome::Nothing,
        ),
        (
            end(Side::Upstream, Phase::ResponseBody, Cause::Closed),
            true,
            true,
            Outcome::Failed(Cause::Closed),
        ),
        (
            end(Side::Upstream, Phase::Response, Cause::TimedOut),
            false,
            true,
            Outcome::Failed(Cause::TimedOut),
        ),
        (
            end(Side::Upstream, Phase::Response, Cause::LimitReached),
            true,
            false,
            Outcome::Nothing,
        ),
        (
            end(Side::Upstream, Phase::Relay, Cause::Reset),
            true,
            false,
            Outcome::Nothing,
        ),
        // The client, or Atlas.
        (
            end(Side::Downstream, Phase::Response, Cause::Closed),
            false,
            false,
            Outcome::Nothing,
        ),
        (
            end(Side::Downstream, Phase::ResponseBody, Cause::Reset),
            true,
            false,
            Outcome::Well,
        ),
        (
            end(Side::Atlas, Phase::Response, Cause::System),
            false,
            false,
            Outcome::Nothing,
        ),
        (
            end(Side::Upstream, Phase::RequestBody, Cause::KernelRefusedKeys),
            false,
            false,
            Outcome::Nothing,
        ),
        (
            end(Side::Upstream, Phase::ResponseBody, Cause::KeyWornOut),
            true,
            false,
            Outcome::Nothing,
        ),
        (
            end(Side::Upstream, Phase::Response, Cause::System),
            false,
            true,
            Outcome::Nothing,
        ),
    ];
    for (end, has_begun, is_reused, outcome) in table {
        assert_eq!(Outcome::of_broken(end, has_begun, is_reused), outcome, "{end}");
    }
}
