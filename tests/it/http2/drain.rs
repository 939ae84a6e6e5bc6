//! Going away: clients hear GOAWAY, what they have asked is answered, nothing is lost.

use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::Signal;

use crate::drain::slow;
use crate::support::frames::*;
use crate::support::{Ending, Origin, atlas, on_both_drivers, origin, wait_until};

fn drains(origin: &Origin, timeout: &str) -> crate::support::Builder {
    atlas()
        .listens_tls("a.test")
        .forwards_to(origin)
        .text(&format!("[timeouts]\ndrain = \"{timeout}\""))
}

#[test]
fn what_was_asked_is_answered_and_the_client_hears_that_it_shall_go() {
    on_both_drivers(|driver| {
        let origin = slow();
        let atlas = drains(&origin, "60s").driver(driver).start();
        let mut http2 = atlas.http2();
        let streams: Vec<_> = (0..10).map(|_| http2.begin(&get("/slow", &[]), true)).collect();
        wait_until("the origin has them", || {
            (origin.requests().len() == 10).then_some(())
        });
        let mut idle = atlas.http2();
        idle.settled();
        atlas.signal(Signal::TERM);
        // GOAWAY that refuses nothing yet, so that what crosses it is served (RFC 9113 §6.8).
        http2.until("GOAWAY", |http2| http2.goaways.first().cloned());
        let crossed = http2.begin(&get("/slow", &[]), true);
        origin.go_on();
        for stream in streams.into_iter().chain([crossed]) {
            let got = http2.answer(stream);
            assert_eq!((got.status(), got.text()), (200, "ababababab".to_owned()));
        }
        let last = http2.end().expect("it says goodbye");
        assert_eq!((last.code, http2.goaways[0].last_stream), (NO_ERROR, 0x7fff_ffff));
        assert_eq!(http2.ending, Some(Ending::Closed));
        assert_eq!(idle.end().map(|goaway| goaway.code), Some(NO_ERROR));
        assert_eq!(atlas.exit_code(), 0);
    });
}

#[test]
fn the_deadline_cuts_streams_that_do_not_end_and_tells_so() {
    on_both_drivers(|driver| {
        let origin = slow();
        let atlas = drains(&origin, "500ms").driver(driver).expects_log("cut").start();
        let mut http2 = atlas.http2();
        let stream = http2.begin(&get("/never", &[]), true);
        wait_until("the origin has it", || {
            (origin.requests().len() == 1).then_some(())
        });
        assert_eq!(atlas.stop(), 0);
        assert_eq!(atlas.exchange("/never")["cause"], "cut");
        let last = http2.end().expect("it says goodbye");
        assert_eq!((last.code, last.last_stream), (NO_ERROR, stream));
        assert_eq!(http2.so_far(stream).reset, Some(CANCEL));
    });
}

#[test]
fn after_a_reload_clients_come_over_with_their_next_connection() {
    let origin = slow();
    let atlas = drains(&origin, "60s").start();
    let mut http2 = atlas.http2();
    let slow = http2.begin(&get("/slow", &[]), true);
    wait_until("the origin has it", || {
        (origin.requests().len() == 1).then_some(())
    });
    atlas.rewrite(|text| text.replace("[timeouts]", "[timeouts]\nidle = \"50s\""));
    atlas.reload();
    origin.go_on();
    assert_eq!(http2.answer(slow).text(), "ababababab");
    assert_eq!(http2.end().map(|goaway| goaway.code), Some(NO_ERROR));
    assert_eq!(atlas.http2().get("/").status(), 200);
}

#[test]
fn no_request_is_lost_while_it_drains() {
    on_both_drivers(|driver| {
        let origin = origin().start();
        let atlas = drains(&origin, "10s").driver(driver).start();
        let in_flow = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut served = 0;
                    while let Ok(mut http2) = atlas.try_http2() {
                        loop {
                            let stream = http2.begin(&get("/", &[]), true);
                            loop {
                                let got = http2.so_far(stream);
                                if got.has_ended {
                                    assert_eq!(got.status(), 200);
                                    served += 1;
                                    in_flow.fetch_add(usize::from(served == 10), Ordering::SeqCst);
                                    break;
                                }
                                if !http2.read_frame() {
                                    break;
                                }
                            }
                            let Some(goaway) = http2.goaways.last() else {
                                assert_eq!(http2.ending, None, "ended without a word after {served}");
                                continue;
                            };
                            // What a goodbye does not count in was not looked at, and may be sent again.
                            let is_answered = http2.so_far(stream).has_ended;
                            assert!(is_answered || stream > goaway.last_stream, "{goaway:?}, {stream}");
                            break;
                        }
                    }
                });
            }
            wait_until("all are in full flow", || {
                (in_flow.load(Ordering::SeqCst) == 4).then_some(())
            });
            atlas.signal(Signal::TERM);
        });
        assert_eq!(atlas.exit_code(), 0);
    });
}
