//! Workers: how many, on which driver, and what they do when the machine runs short.

use std::time::{Duration, Instant};

use crate::support::{Atlas, Builder, Connection, Driver, alone, atlas, on_both_drivers, origin, wait_until};

const HELLO: &str = "[[route]]\nrespond = { status = 200, body = \"hello\" }";

#[test]
fn the_driver_is_said_in_the_first_lines_and_in_a_metric() {
    let atlas = atlas().listens_plain().text(HELLO).driver(Driver::Epoll).start();
    let line = atlas.log_line(&["epoll"]);
    assert!(line.contains("asked for"), "{line}");
    assert!(atlas.metrics().contains("epoll"), "{}", atlas.metrics());
}

#[test]
fn where_io_uring_is_denied_epoll_serves_and_one_line_says_why() {
    let atlas = atlas()
        .listens_tls("a.test")
        .text(HELLO)
        .without_system_call(libc::SYS_io_uring_setup)
        .expects_log("io_uring")
        .start();
    assert_eq!(atlas.get("/").text(), "hello");
    atlas.log_line(&["io_uring"]); // written by a thread of its own
    let about: Vec<_> = atlas
        .log()
        .into_iter()
        .filter(|line| line.contains("io_uring"))
        .collect();
    assert_eq!(about.len(), 1, "{about:#?}");
    assert!(
        about[0].contains("epoll") && about[0].contains("denied"),
        "{about:?}"
    );
}

#[test]
fn a_worker_is_started_for_every_core_it_may_use() {
    let cores = std::thread::available_parallelism().unwrap().get();
    let started = |builder: Builder, workers: usize| {
        let atlas = builder.listens_plain().text(HELLO).start();
        atlas.log_line(&["Atlas serves", &format!("workers={workers} ")]);
    };
    started(atlas(), cores);
    started(atlas().top("workers = 3"), 3);
    if crate::support::has("taskset") {
        started(atlas().by_way_of(&["taskset", "-c", "0"]), 1);
    }
}

#[test]
fn workers_have_a_core_each_only_where_they_take_all_of_them() {
    let cores = std::thread::available_parallelism().unwrap().get();
    // Where each may run, as the kernel writes it.
    let allowed = |builder: Builder| {
        let atlas = builder.listens_plain().text(HELLO).start();
        let threads = format!("/proc/{}/task", atlas.pid());
        let threads = std::fs::read_dir(threads)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let is_worker = |path: &std::path::PathBuf| {
            let name = std::fs::read_to_string(path.join("comm")).unwrap_or_default();
            name.starts_with("worker")
        };
        let all: Vec<_> = threads
            .filter(is_worker)
            .map(|path| {
                let status = std::fs::read_to_string(path.join("status")).unwrap();
                let line = status.lines().find(|line| line.starts_with("Cpus_allowed_list:"));
                line.unwrap().split_whitespace().nth(1).unwrap().to_owned()
            })
            .collect();
        all
    };
    let mut own = allowed(atlas());
    own.sort();
    own.dedup();
    assert_eq!(own.len(), cores, "one each: {own:?}");
    if cores > 1 {
        let all = std::fs::read_to_string("/proc/self/status").unwrap();
        let few = allowed(atlas().top("workers = 1"));
        assert_eq!(few.len(), 1);
        assert!(
            all.contains(&format!("Cpus_allowed_list:\t{}\n", few[0])),
            "{few:?}"
        );
    }
}

#[test]
fn running_out_of_descriptors_neither_spins_nor_kills() {
    if !crate::support::has("prlimit") {
        return;
    }
    on_both_drivers(|driver| {
        let atlas = atlas()
            .top("workers = 1")
            .listens_plain()
            .text(HELLO)
            .driver(driver)
            .by_way_of(&["prlimit", "--nofile=64:64"])
            .expects_log("descriptor")
            .expects_log("os error 24")
            .start();
        let mut held: Vec<_> = (0..100)
            .filter_map(|_| Connection::plain(atlas.address()).ok())
            .collect();
        // What it did for those it took is not what is measured.
        std::thread::sleep(Duration::from_millis(300));
        rests(&atlas, Duration::from_millis(300));
        // Those who got in are served.
        assert_eq!(held[0].get("/").text(), "hello", "{driver:?}");
        held.truncate(1);
        wait_until("others are served again", || {
            let mut client = Connection::plain(atlas.address()).ok()?;
            client.patience(Duration::from_secs(3));
            client.try_send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").ok()?;
            client.try_answer().ok()
        });
    });
}

#[test]
fn both_drivers_serve_the_same() {
    on_both_drivers(|driver| {
        let origin = origin().answers("/", "hello").start();
        let atlas = atlas()
            .listens_tls("a.test")
            .forwards_to(&origin)
            .driver(driver)
            .start();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let mut client = atlas.connect();
                    for _ in 0..50 {
                        assert_eq!(client.get("/").text(), "hello");
                    }
                });
            }
        });
        assert_eq!(atlas.stop(), 0);
    });
}

#[test]
fn an_idle_atlas_uses_no_cpu() {
    on_both_drivers(|driver| {
        let atlas = atlas().listens_tls("a.test").text(HELLO).driver(driver).start();
        let mut client = atlas.connect();
        client.get("/");
        rests(&atlas, Duration::from_millis(30));
    });
}

/// Fails if Atlas uses more than this in each of five seconds. A clock that ticks every 10 ms charges each tick to
/// whoever runs just then, and where the machine has other things to do waking up alone costs milliseconds: what a
/// thread uses that does nothing else is added a few times.
fn rests(atlas: &Atlas, allowed: Duration) {
    let is_idle = |(spent, waking): &(Duration, Duration)| *spent <= allowed + *waking * 5;
    let mut seconds = Vec::new();
    while seconds.len() < 5 && !seconds.iter().any(is_idle) {
        let used = atlas.cpu_time();
        let waking = second_of_waking();
        seconds.push((atlas.cpu_time() - used, waking));
    }
    assert!(
        seconds.iter().any(is_idle),
        "it spins: {seconds:?} in a second each, of Atlas and of waking up"
    );
}

/// What it costs to wake up about as often in a second as the threads of the logs do.
fn second_of_waking() -> Duration {
    let used = || {
        let clock = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::try_from(clock).expect("it counts up")
    };
    let before = used();
    (0..40).for_each(|_| std::thread::sleep(Duration::from_millis(25)));
    used() - before
}

#[test]
fn small_answers_are_not_held_back_by_nagle() {
    let _alone = alone();
    let origin = origin()
        .handles_all(|exchange| {
            exchange.read_body()?;
            // Each goes on by itself.
            for piece in [
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n",
                "1\r\nb\r\n",
                "0\r\n\r\n",
            ] {
                std::thread::sleep(Duration::from_millis(2));
                exchange.send(piece)?;
            }
            Ok(crate::support::Then::Keep)
        })
        .start();
    let atlas = atlas().listens_tls("a.test").forwards_to(&origin).start();
    let mut client = atlas.connect();
    // Nagle and delayed acknowledgements together would cost 40 ms each, in every round.
    let is_prompt = |took: &Duration| *took < Duration::from_millis(800);
    let mut rounds = Vec::new();
    while rounds.len() < 10 && !rounds.iter().any(is_prompt) {
        let started = Instant::now();
        for _ in 0..25 {
            assert_eq!(client.get("/").text(), "ab");
        }
        rounds.push(started.elapsed());
    }
    assert!(rounds.iter().any(is_prompt), "{rounds:?} for 25 each");
}
