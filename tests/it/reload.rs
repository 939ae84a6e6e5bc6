//! HUP: the next generation, or nothing.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::Signal;

use crate::discovery::server::{Mood, names};
use crate::support::{Atlas, Connection, atlas, ca, carrier, cert, on_both_drivers, origin, wait_until};

#[test]
fn new_connections_get_the_new_configuration() {
    let atlas = atlas()
        .listens_tls("a.test")
        .text("[[route]]\nrespond = { status = 200, body = \"before\" }")
        .start();
    let mut old = atlas.connect();
    assert_eq!(old.get("/").text(), "before");
    atlas.rewrite(|text| text.replace("before", "after"));
    atlas.reload();
    wait_until("the new one serves", || {
        (atlas.get("/").text() == "after").then_some(())
    });
    // The old connection finishes under its own generation, or is told to close.
    if old.try_send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").is_ok()
        && let Ok(answer) = old.try_answer()
    {
        assert_eq!(answer.text(), "before");
    }
}

#[test]
fn a_wrong_file_changes_nothing_and_is_reported_in_full() {
    let atlas = atlas()
        .listens_tls("a.test")
        .text("[[route]]\nrespond = { status = 200, body = \"before\" }")
        .expects_log("")
        .start();
    let good = std::fs::read_to_string(atlas.folder().join("atlas.toml")).unwrap();
    atlas.rewrite(|text| text.replace("before", "after").replace("respond", "repsond") + "\nnonsense = 1\n");
    atlas.reload();
    let log = wait_until("all of it is reported", || {
        let log = atlas.log().join("\n");
        (log.contains("repsond") && log.contains("nonsense")).then_some(log)
    });
    assert!(log.contains("atlas.toml:"), "file and line: {log}");
    assert_eq!(atlas.get("/").text(), "before");
    atlas.rewrite(|_| good.replace("before", "repaired"));
    atlas.reload();
    wait_until("the repaired one serves", || {
        (atlas.get("/").text() == "repaired").then_some(())
    });
}

#[test]
fn what_only_a_restart_changes_is_said_as_long_as_it_waits_for_one() {
    let atlas = atlas()
        .listens_plain()
        .text("[[route]]\nrespond = 204")
        .expects_log("changes with the next restart")
        .start();
    let file = atlas.folder().join("atlas.toml");
    let good = std::fs::read_to_string(&file).unwrap();
    let (before, _) = good.split_once("[admin]\naddress = \"127.0.0.1:").unwrap();
    let (_, after) = good.rsplit_once("\"\n[access_log]").unwrap();
    let other = format!("{before}[admin]\naddress = \"127.0.0.1:1\"\n[access_log]{after}");
    let times_said = || {
        let log = atlas.log();
        log.iter()
            .filter(|line| line.contains("`[admin] address` changes"))
            .count()
    };
    for (text, expected) in [(&other, 1), (&other, 2), (&good, 2)] {
        std::fs::write(&file, text).unwrap();
        atlas.reload();
        wait_until("it is said", || (times_said() >= expected).then_some(()));
        assert_eq!(times_said(), expected);
    }
}

#[test]
fn new_certificates_are_shown() {
    let atlas = atlas()
        .listens_tls("a.test")
        .text("[[route]]\nrespond = 204")
        .start();
    let before = atlas.connect().certificate();
    let next = cert(&["a.test"]);
    next.write(atlas.folder(), "leaf0");
    atlas.reload();
    let after = wait_until("the new one is shown", || {
        let shown = atlas.connect().certificate();
        (shown != before).then_some(shown)
    });
    assert_eq!(after, next.der());
}

#[test]
fn a_certificate_that_does_not_fit_its_key_changes_nothing() {
    let atlas = atlas()
        .listens_tls("a.test")
        .text("[[route]]\nrespond = 204")
        .expects_log("")
        .start();
    let before = atlas.connect().certificate();
    std::fs::write(atlas.folder().join("leaf0.crt"), cert(&["a.test"]).chain).unwrap();
    atlas.reload();
    assert_eq!(atlas.connect().certificate(), before);
    atlas.log_line(&["leaf0"]);
}

#[test]
fn listeners_come_and_go() {
    let port = crate::support::free_port();
    let atlas = atlas()
        .listens_plain()
        .text("[[route]]\nrespond = { status = 200, body = \"hello\" }")
        .start();
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    assert!(Connection::plain(address).is_err());
    let listener = format!("[[listen]]\naddress = \"127.0.0.1\"\nport = {port}\ntls = false\n\n[[route]]");
    atlas.rewrite(|text| text.replacen("[[route]]", &listener, 1));
    atlas.reload();
    let mut client = wait_until("it listens", || Connection::plain(address).ok());
    assert_eq!(client.get("/").text(), "hello");
    atlas.rewrite(|text| text.replacen(&listener, "[[route]]", 1));
    atlas.reload();
    wait_until("nobody listens", || {
        Connection::plain(address).is_err().then_some(())
    });
    assert_eq!(atlas.get("/").text(), "hello");
}

#[test]
fn who_waits_for_a_listener_that_goes_is_served_as_it_would_have_served() {
    // They wait in the kernel's queue, as the listener is full. In the next generation its place is another's,
    // or nobody's.
    for names in [["public", "internal"], ["internal", "public"]] {
        on_both_drivers(|driver| {
            let place = names.iter().position(|name| *name == "public").unwrap();
            let mut built = atlas().top("workers = 1").driver(driver);
            for name in names {
                let route =
                    format!("[[route]]\nlisten = {name:?}\nrespond = {{ status = 200, body = {name:?} }}");
                built = built
                    .listener(false, &format!("name = {name:?}\nconnections_max = 1"))
                    .text(&route);
            }
            let atlas = built.start();
            let mut served = atlas.connect_to(place);
            assert_eq!(served.get("/").text(), "public");
            let mut waiting: Vec<_> = (0..3).map(|_| atlas.connect_to(place)).collect();
            for client in &mut waiting {
                client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
            }
            atlas.rewrite(|text| without(&text, "\"public\""));
            atlas.reload();
            drop(served);
            for mut client in waiting {
                let answer = client.answer();
                assert_eq!(
                    (answer.text().as_str(), answer.field("connection")),
                    ("public", Some("close"))
                );
            }
            wait_until("nobody listens", || {
                atlas.try_connect_to(place).is_err().then_some(())
            });
            assert_eq!(atlas.connect_to(1 - place).get("/").text(), "internal");
        });
    }
}

/// The text without the tables that hold this.
fn without(text: &str, part: &str) -> String {
    let tables = text.split("\n[").filter(|table| !table.contains(part));
    tables.collect::<Vec<_>>().join("\n[")
}

/// With a second listener, "gone", that has room for one client, and that client.
fn beside_one_that_is_full() -> (Atlas, Connection) {
    let atlas = atlas()
        .top("workers = 1")
        .listener(false, "name = \"kept\"")
        .listener(false, "name = \"gone\"\nconnections_max = 1")
        .text("[[route]]\nrespond = { status = 200, body = \"hello\" }")
        .start();
    let mut served = atlas.connect_to(1);
    assert_eq!(served.get("/").text(), "hello");
    (atlas, served)
}

#[test]
fn a_listener_that_was_taken_away_can_come_back_while_its_queue_is_emptied() {
    let (atlas, _served) = beside_one_that_is_full();
    let whole = std::fs::read_to_string(atlas.folder().join("atlas.toml")).unwrap();
    atlas.rewrite(|text| without(&text, "\"gone\""));
    atlas.reload();
    // Its only place is taken: it waits for it, and holds its address.
    atlas.rewrite(|_| whole.clone());
    atlas.reload();
    assert_eq!(atlas.connect_to(1).get("/").text(), "hello");
}

#[test]
fn a_listener_that_goes_takes_no_more_from_its_queue_than_it_may() {
    let (atlas, served) = beside_one_that_is_full();
    let mut waiting = atlas.connect_to(1);
    waiting.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    atlas.rewrite(|text| without(&text, "\"gone\""));
    atlas.reload();
    assert!(waiting.is_silent_for(Duration::from_millis(300)));
    drop(served);
    assert_eq!(waiting.answer().text(), "hello");
}

#[test]
fn a_listener_that_cannot_be_had_changes_nothing() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let atlas = atlas()
        .listens_plain()
        .text("[[route]]\nrespond = { status = 200, body = \"before\" }")
        .expects_log("")
        .start();
    let port = taken.local_addr().unwrap().port();
    atlas.rewrite(|text| {
        let listener =
            format!("[[listen]]\naddress = \"127.0.0.1\"\nport = {port}\ntls = false\n\n[[route]]");
        text.replacen("[[route]]", &listener, 1)
            .replace("before", "after")
    });
    atlas.reload();
    atlas.log_line(&[&port.to_string()]);
    assert_eq!(atlas.get("/").text(), "before");
}

#[test]
fn an_address_that_atlas_itself_holds_in_part_is_told_so() {
    let atlas = atlas()
        .listens_plain()
        .text("[[route]]\nrespond = { status = 200, body = \"before\" }")
        .expects_log("")
        .start();
    atlas.rewrite(|text| {
        text.replacen("\"127.0.0.1\"", "\"0.0.0.0\"", 1)
            .replace("before", "after")
    });
    atlas.reload();
    assert_eq!(atlas.get("/").text(), "before");
    atlas.log_line(&["Atlas itself still listens on 127.0.0.1:"]);
}

#[test]
fn a_hundred_reloads_under_load_fail_no_request() {
    on_both_drivers(|driver| {
        let origin = origin().answers("/", "hello").start();
        let atlas = atlas()
            .listens_tls("a.test")
            .forwards_to(&origin)
            .driver(driver)
            .start();
        let (stop, served) = (AtomicBool::new(false), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for fresh in [false, true, true] {
                let (atlas, stop, served) = (&atlas, &stop, &served);
                scope.spawn(move || {
                    while !stop.load(Ordering::SeqCst) {
                        let mut client = atlas.connect();
                        for _ in 0..if fresh { 1 } else { 1000 } {
                            let answer = client.get("/");
                            assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
                            served.fetch_add(1, Ordering::SeqCst);
                            if stop.load(Ordering::SeqCst) || answer.field("connection") == Some("close") {
                                break;
                            }
                        }
                    }
                });
            }
            let reloads = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                for turn in 0..100 {
                    atlas.rewrite(|text| format!("# {turn}\n{text}"));
                    atlas.reload();
                }
            }));
            stop.store(true, Ordering::SeqCst);
            reloads.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        });
        eprintln!(
            "{driver:?}: {} requests beside 100 reloads",
            served.load(Ordering::SeqCst)
        );
        assert!(served.load(Ordering::SeqCst) > 100);
        // Old generations are let go.
        wait_until("descriptors are back", || {
            (atlas.descriptors() < 100).then_some(())
        });
        assert!(atlas.memory_kib() < 150_000, "{} KiB", atlas.memory_kib());
    });
}

#[test]
fn a_reload_and_a_drain_at_once_are_a_drain() {
    let atlas = atlas().listens_plain().text("[[route]]\nrespond = 204").start();
    atlas.signal(Signal::HUP);
    atlas.signal(Signal::TERM);
    // The second comes amid the drain, wherever that is by then.
    std::thread::sleep(Duration::from_millis(1));
    let _ = rustix::process::Pid::from_raw(atlas.pid().cast_signed())
        .map(|pid| rustix::process::kill_process(pid, Signal::HUP));
    assert_eq!(atlas.exit_code(), 0);
}

#[test]
fn a_certificate_that_is_a_pipe_is_refused_and_a_drain_is_not_kept_waiting() {
    let atlas = atlas()
        .listens_tls("a.test")
        .text("[[route]]\nrespond = 204")
        .expects_log("")
        .start();
    let path = atlas.folder().join("leaf0.crt");
    std::fs::remove_file(&path).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    atlas.signal(Signal::HUP);
    atlas.log_line(&["leaf0.crt is a pipe"]);
    assert_eq!(atlas.get("/").status, 204);
    assert_eq!(atlas.stop(), 0);
}

#[test]
fn signals_are_heard_while_a_reload_reads_its_files() {
    // A file so long that its reading takes seconds is the next best thing to a mount that hangs.
    let atlas = atlas()
        .listens_plain()
        .text("[[route]]\nrespond = 204")
        .expects_log("")
        .start();
    atlas.get("/before");
    atlas.rewrite(|text| text + &routes(100_000));
    atlas.signal(Signal::HUP);
    reopens(&atlas);
    assert_eq!(atlas.stop(), 0);
    assert!(!has_reloaded(&atlas), "it was over before a signal was heard");
}

#[test]
fn what_changes_while_a_reload_reads_its_files_is_read_by_the_next() {
    let atlas = atlas()
        .listens_plain()
        .text("[[route]]\nrespond = { status = 200, body = \"before\" }")
        .start();
    let good = std::fs::read_to_string(atlas.folder().join("atlas.toml")).unwrap();
    atlas.rewrite(|_| good.replace("before", "between") + &routes(5_000));
    atlas.signal(Signal::HUP);
    std::thread::sleep(Duration::from_millis(20)); // so that it has begun, if this machine is fast
    atlas.rewrite(|_| good.replace("before", "after"));
    atlas.signal(Signal::HUP);
    wait_until("the last one serves", || {
        (atlas.get("/").text() == "after").then_some(())
    });
}

fn routes(count: usize) -> String {
    let route = |number| format!("[[route]]\npath = \"/{number}/\"\nrespond = 204\n");
    (0..count).map(route).collect()
}

#[test]
fn signals_are_heard_while_a_reload_looks_names_up() {
    let names = names(0);
    let atlas = atlas()
        .top(&format!("resolver = {{ servers = [{:?}] }}", names.address()))
        .listens_plain()
        .text("[[route]]\nrespond = 204")
        .start();
    atlas.get("/before");
    names.set_mood(Mood::Silent);
    atlas.rewrite(|text| {
        text.replace("respond = 204", "upstream = \"app\"")
            + "\n[upstream.app]\nendpoints = [\"app.test.:80\"]\n"
    });
    atlas.signal(Signal::HUP);
    wait_until("it asks", || (names.asked("app.test", "udp") > 0).then_some(()));
    reopens(&atlas);
    assert_eq!(atlas.get("/").status, 204, "the old generation serves");
    assert_eq!(atlas.stop(), 0);
    assert!(!has_reloaded(&atlas), "it was over before a signal was heard");
}

fn has_reloaded(atlas: &Atlas) -> bool {
    atlas.log().iter().any(|line| line.contains("reloaded"))
}

/// USR1 has it write to a new access log.
fn reopens(atlas: &Atlas) {
    let path = atlas.folder().join("access.log");
    wait_until("it is written", || path.exists().then_some(()));
    std::fs::rename(&path, atlas.folder().join("old.log")).unwrap();
    atlas.signal(Signal::USR1);
    wait_until("it is opened anew", || path.exists().then_some(()));
}

/// What a generation wants of the kernel's TLS; on a kernel without, that the refusal is the kernel's.
mod kernel_tls {
    use super::*;

    /// Larger than the threshold that is there by itself.
    const LARGE: usize = 2 << 20;

    const UNWANTED: &str = "prefer_ktls = false";
    const WANTED: &str = "prefer_ktls = true";

    /// Whether `/metrics` says that the kernel is used, or this reason why not.
    fn tells(atlas: &Atlas, refusal: Option<&str>) {
        let usable = if refusal.is_none() { "yes" } else { "no" };
        let labels = [
            format!("usable=\"{usable}\""),
            format!("refusal=\"{}\"", refusal.unwrap_or_default()),
        ];
        let told = atlas.metric("atlas_kernel_tls_info", &[&labels[0], &labels[1]]);
        assert_eq!(told, 1.0, "{labels:?} in {}", atlas.metrics());
    }

    #[test]
    fn the_kernel_is_tried_when_a_listener_comes_to_want_it() {
        let wanted = format!("{WANTED}\nktls_threshold = \"0B\""); // right after the handshake
        let atlas = atlas()
            .listens_tls("a.test")
            .tls_lines(UNWANTED)
            .file("site/large", vec![b'l'; LARGE])
            .text("[[route]]\nfiles = \"site\"")
            .start();
        for (round, [from, to]) in [[UNWANTED, &wanted], [&wanted, UNWANTED], [UNWANTED, UNWANTED]]
            .into_iter()
            .enumerate()
        {
            let path = format!("/large?{round}");
            assert_eq!(atlas.get(&path).body.len(), LARGE);
            let record = atlas.exchange(&path);
            let said = (record["carrier"].as_str().unwrap(), record["refusal"].as_str());
            assert_eq!(said, carrier::expected(from, true), "{from}: {record}");
            tells(&atlas, said.1);
            atlas.rewrite(|text| text.replace(from, to));
            atlas.reload();
        }
    }

    #[test]
    fn the_kernel_is_tried_when_an_upstream_that_stays_comes_to_want_it() {
        let origin = origin()
            .tls(cert(&["inner.test"]))
            .answers("/", vec![b'l'; LARGE])
            .start();
        let tls = format!("tls = {{ ca = \"ca.pem\", server_name = \"inner.test\", {UNWANTED} }}");
        let atlas = atlas()
            .top("workers = 1")
            .file("ca.pem", ca().pem())
            .listens_plain()
            .forwards_to_with(&origin, &tls)
            .start();
        let promoted = |atlas: &Atlas| {
            let finished = ["peer=\"upstream\"", "result=\"finished\""];
            atlas.metric("atlas_kernel_tls_promotions_total", &finished)
        };
        for (round, [from, to]) in [[UNWANTED, WANTED], [WANTED, UNWANTED], [UNWANTED, UNWANTED]]
            .into_iter()
            .enumerate()
        {
            let before = promoted(&atlas);
            let path = format!("/?{round}");
            assert_eq!(atlas.get(&path).body.len(), LARGE);
            // A plain client's bytes are spliced where the kernel opens the origin's records. A connection
            // that was made when it was not wanted, and is idle, is no longer used.
            let record = atlas.exchange(&path);
            let (carrier, refusal) = carrier::expected(from, true);
            let is_carried = carrier == "kernel";
            let is_spliced = record["bytes_spliced"].as_u64().unwrap_or(0) > LARGE as u64 / 2;
            assert_eq!(is_spliced, is_carried, "{from}: {record}");
            assert_eq!(
                promoted(&atlas) - before,
                f64::from(u8::from(is_carried)),
                "{from}"
            );
            tells(&atlas, refusal);
            assert_eq!(origin.accepted(), round + 1);
            atlas.rewrite(|text| text.replace(from, to));
            atlas.reload();
        }
    }
}
