//! Going away: nothing new is taken, what runs is finished, and the exit code says how it went.

use std::io::{Read, Write};
use std::ops::Deref;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::{Builder, Connection, Ending, Origin, Then, atlas, on_both_drivers, origin, wait_until};

/// Answers `/slow` in pieces, of which it holds all but the first until it is told to go on, and `/never` never.
pub struct Slow {
    origin: Origin,
    goes_on: Arc<AtomicBool>,
}

impl Slow {
    pub fn go_on(&self) {
        self.goes_on.store(true, Ordering::SeqCst);
    }
}

impl Deref for Slow {
    type Target = Origin;

    fn deref(&self) -> &Origin {
        &self.origin
    }
}

pub fn slow() -> Slow {
    let goes_on = Arc::new(AtomicBool::new(false));
    let may_go_on = goes_on.clone();
    let origin = origin()
        .handles("/slow", move |exchange| {
            exchange.read_body()?;
            exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nab")?;
            wait_until("/slow goes on", || may_go_on.load(Ordering::SeqCst).then_some(()));
            (0..4).try_for_each(|_| exchange.send("ab"))?;
            Ok(Then::Keep)
        })
        .handles("/never", |exchange| {
            exchange.read_body()?;
            exchange.wait_for_close();
            Ok(Then::Close)
        })
        .start();
    Slow { origin, goes_on }
}

/// Answers without an end that could be seen.
fn endless() -> Origin {
    let begin = "HTTP/1.1 200 OK\r\n\r\nhalf";
    origin()
        .handles("/half", move |exchange| {
            exchange.read_body()?;
            exchange.send(begin)?;
            exchange.wait_for_close();
            Ok(Then::Close)
        })
        .start()
}

fn drains(origin: &Origin, timeout: &str) -> Builder {
    atlas()
        .listens_tls("a.test")
        .forwards_to(origin)
        .text(&format!("[timeouts]\ndrain = \"{timeout}\""))
}

#[test]
fn what_runs_is_finished_and_nothing_new_is_taken() {
    on_both_drivers(|driver| {
        for signal in [Signal::TERM, Signal::QUIT, Signal::INT] {
            let origin = slow();
            let atlas = drains(&origin, "60s").driver(driver).start();
            let mut running = atlas.connect();
            let mut idle = atlas.connect();
            assert_eq!(idle.get("/").status, 200);
            running.send("GET /slow HTTP/1.1\r\nHost: a.test\r\n\r\n");
            assert_eq!(running.head().unwrap().word(1), "200");
            atlas.signal(signal);
            wait_until("nobody accepts", || {
                Connection::plain(atlas.address()).is_err().then_some(())
            });
            origin.go_on();
            assert_eq!(running.read_exactly(10), b"ababababab");
            assert_eq!(running.ends().0, Ending::Closed);
            assert_eq!(idle.ends().0, Ending::Closed);
            assert_eq!(atlas.exit_code(), 0, "{signal:?}");
        }
    });
}

#[test]
fn a_log_that_is_rotated_meanwhile_is_reopened() {
    let origin = slow();
    let atlas = drains(&origin, "60s").start();
    let mut running = atlas.connect();
    running.send("GET /slow HTTP/1.1\r\nHost: a.test\r\n\r\n");
    assert_eq!(running.head().unwrap().word(1), "200");
    let current = atlas.folder().join("access.log");
    std::fs::rename(&current, atlas.folder().join("access.log.1")).unwrap();
    atlas.signal(Signal::TERM);
    wait_until("nobody accepts", || {
        Connection::plain(atlas.address()).is_err().then_some(())
    });
    atlas.signal(Signal::USR1);
    wait_until("it is there again", || current.exists().then_some(()));
    origin.go_on();
    assert_eq!(running.read_exactly(10), b"ababababab");
    atlas.exchange("/slow");
    assert_eq!(atlas.exit_code(), 0);
}

#[test]
fn a_request_on_a_kept_connection_is_answered_with_close() {
    // The client does not know yet: its request crosses our goodbye and must not be lost.
    let origin = slow();
    let atlas = drains(&origin, "60s").start();
    let mut client = atlas.connect();
    assert_eq!(client.get("/").status, 200);
    let mut running = atlas.connect();
    running.send("GET /slow HTTP/1.1\r\nHost: a.test\r\n\r\n");
    running.head().unwrap();
    atlas.signal(Signal::TERM);
    wait_until("it drains", || {
        Connection::plain(atlas.address()).is_err().then_some(())
    });
    if client.try_send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").is_ok()
        && let Ok(answer) = client.try_answer()
    {
        assert_eq!((answer.status, answer.field("connection")), (200, Some("close")));
        assert_eq!(client.ends().0, Ending::Closed);
    }
    origin.go_on();
    assert_eq!(atlas.exit_code(), 0);
}

#[test]
fn the_deadline_cuts_what_does_not_end_and_that_is_zero_too() {
    let origin = slow();
    let atlas = drains(&origin, "500ms").expects_log("cut").start();
    let mut client = atlas.connect();
    client.send("GET /never HTTP/1.1\r\nHost: a.test\r\n\r\n");
    wait_until("the origin has it", || {
        (origin.requests().len() == 1).then_some(())
    });
    let started = Instant::now();
    assert_eq!(atlas.stop(), 0);
    let took = started.elapsed();
    assert!(
        took > Duration::from_millis(400) && took < Duration::from_secs(15),
        "{took:?}"
    );
    atlas.log_line(&["1", "cut"]);
    let record = atlas.exchange("/never");
    assert_eq!(record["cause"], "cut", "{record}");
}

#[test]
fn a_second_signal_ends_at_once() {
    for second in [Signal::TERM, Signal::INT] {
        let origin = slow();
        let atlas = drains(&origin, "60s").expects_log("").start();
        let mut client = atlas.connect();
        client.send("GET /never HTTP/1.1\r\nHost: a.test\r\n\r\n");
        wait_until("the origin has it", || {
            (origin.requests().len() == 1).then_some(())
        });
        atlas.signal(Signal::TERM);
        wait_until("it drains", || {
            Connection::plain(atlas.address()).is_err().then_some(())
        });
        let started = Instant::now();
        atlas.signal(second);
        assert_eq!(atlas.exit_code(), 1);
        assert!(
            started.elapsed() < Duration::from_secs(15),
            "{:?}",
            started.elapsed()
        );
    }
}

#[test]
fn it_is_not_ready_while_it_drains() {
    let origin = slow();
    let atlas = drains(&origin, "60s").start();
    assert_eq!(atlas.admin("/-/ready").unwrap().status, 200);
    let mut client = atlas.connect();
    client.send("GET /slow HTTP/1.1\r\nHost: a.test\r\n\r\n");
    client.head().unwrap();
    atlas.signal(Signal::TERM);
    wait_until("it says so", || {
        atlas.admin("/-/ready").filter(|answer| answer.status == 503)
    });
    assert_eq!(atlas.admin("/-/healthy").unwrap().status, 200);
    origin.go_on();
    assert_eq!(atlas.exit_code(), 0);
}

/// A client that has been silent for so long while Atlas drains may find its connection closed: those that are
/// idle are kept for a second.
const LATE: Duration = Duration::from_millis(900);

#[test]
fn no_request_fails_while_it_drains() {
    // Clients that connect again when they are told to close, until nobody accepts.
    on_both_drivers(|driver| {
        let origin = origin().start();
        let atlas = drains(&origin, "10s").driver(driver).start();
        let (in_flow, told) = (AtomicUsize::new(0), OnceLock::<Instant>::new());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut served = 0;
                    while let Ok(mut client) = atlas.try_connect_to(0) {
                        loop {
                            let sent = client.try_send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
                            let is_late = told.get().is_some_and(|at| at.elapsed() > LATE);
                            match sent.and_then(|()| client.try_answer()) {
                                Ok(answer) => {
                                    assert_eq!(answer.status, 200);
                                    served += 1;
                                    in_flow.fetch_add(usize::from(served == 10), Ordering::SeqCst);
                                    if answer.field("connection") == Some("close") {
                                        break;
                                    }
                                }
                                Err(_) if is_late => break,
                                Err(error) => panic!("after {served}: {error}"),
                            }
                        }
                    }
                });
            }
            wait_until("all are in full flow", || {
                (in_flow.load(Ordering::SeqCst) == 4).then_some(())
            });
            told.set(Instant::now()).unwrap();
            atlas.signal(Signal::TERM);
        });
        assert_eq!(atlas.exit_code(), 0);
    });
}

#[test]
fn a_relay_is_let_run_until_the_deadline() {
    let origin = origin()
        .raw(|mut stream| {
            use std::io::{Read, Write};
            let mut byte = [0];
            while matches!(stream.read(&mut byte), Ok(1)) {
                let _ = stream.write_all(&byte);
            }
            stream.finish();
        })
        .start();
    let atlas = atlas()
        .listener(false, "mode = \"tcp\"\nupstream = \"app\"")
        .upstream("app", &[origin.address()], "")
        .text("[timeouts]\ndrain = \"10s\"")
        .start();
    let mut client = atlas.connect();
    client.send("a");
    client.read_exactly(1);
    atlas.signal(Signal::TERM);
    wait_until("nobody accepts", || {
        Connection::plain(atlas.address()).is_err().then_some(())
    });
    client.send("b");
    assert_eq!(client.read_exactly(1), b"b");
    client.finish();
    assert_eq!(client.ends().0, Ending::Closed);
    assert_eq!(atlas.exit_code(), 0);
}

#[test]
fn a_response_that_is_cut_does_not_look_whole() {
    // HTTP/1.0 without a length: the connection's end is the body's end.
    on_both_drivers(|driver| {
        let origin = endless();
        let atlas = atlas()
            .listens_plain()
            .forwards_to(&origin)
            .text("[timeouts]\ndrain = \"300ms\"")
            .driver(driver)
            .expects_log("cut")
            .start();
        let mut client = atlas.connect();
        client.send("GET /half HTTP/1.0\r\nHost: a.test\r\n\r\n");
        client.head().unwrap();
        assert_eq!(client.read_exactly(4), b"half");
        assert_eq!(atlas.stop(), 0);
        assert_eq!(client.ends().0, Ending::Reset);
    });
}

/// As a restart does it where the new process does not wait for the old one.
#[test]
fn the_unix_socket_of_a_successor_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("atlas.sock");
    let origin = slow();
    let start = || {
        atlas()
            .listener(false, &format!("address = \"unix:{}\"", path.display()))
            .forwards_to(&origin)
            .start()
    };
    let ask = |path: &Path, what: &str| {
        let mut client = UnixStream::connect(path).unwrap();
        let request = format!("GET {what} HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n");
        client.write_all(request.as_bytes()).unwrap();
        client
    };
    let answer = |mut client: UnixStream| {
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        answer
    };
    let first = start();
    let running = ask(&path, "/slow");
    wait_until("it is on its way", || {
        (!origin.requests().is_empty() || origin.accepted() > 0).then_some(())
    });
    first.signal(Signal::TERM);
    // A successor does not wait long for the address.
    wait_until("nobody listens there", || UnixStream::connect(&path).err());
    let second = start();
    assert!(answer(ask(&path, "/")).starts_with("HTTP/1.1 200"));
    origin.go_on();
    assert!(answer(running).ends_with("ababababab"));
    assert_eq!(first.exit_code(), 0);
    assert!(answer(ask(&path, "/")).starts_with("HTTP/1.1 200"));
    assert_eq!(second.stop(), 0);
    assert!(!path.exists(), "what is nobody's is taken away");
}
