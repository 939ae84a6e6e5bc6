//! Endpoints that are processes of their own: killed, stopped, continued, started again, under load.

use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::until_up;
use crate::support::atlas::signal;
use crate::support::{Atlas, atlas, free_port, wait_until};

/// A server that answers everything with its port, as a process; it is killed when dropped.
struct Server {
    file: PathBuf,
    address: String,
    process: Child,
    _folder: tempfile::TempDir,
}

impl Server {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (port, file) = (free_port(), folder.path().join("atlas.toml"));
        let text = format!(
            "workers = 1\n[listen]\naddress = \"127.0.0.1\"\nport = {port}\ntls = false\n[[route]]\n\
             respond = {{ body = \"{port}\" }}\n[access_log]\nenabled = false\n"
        );
        std::fs::write(&file, text).unwrap();
        let server = Self {
            process: run(&file),
            address: format!("127.0.0.1:{port}"),
            file,
            _folder: folder,
        };
        server.until_it_listens();
        server
    }

    fn until_it_listens(&self) {
        wait_until("the server listens", || TcpStream::connect(&self.address).ok());
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    fn revive(&mut self) {
        self.process = run(&self.file);
        self.until_it_listens();
    }

    fn stop(&self) {
        signal(&self.process, Signal::STOP);
    }

    fn go_on(&self) {
        signal(&self.process, Signal::CONT);
    }
}

fn run(file: &PathBuf) -> Child {
    Command::new(env!("CARGO_BIN_EXE_atlas"))
        .args(["run", "-c"])
        .arg(file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn in_front_of(servers: &[Server], lines: &str) -> Atlas {
    let endpoints: Vec<_> = servers.iter().map(|server| server.address.as_str()).collect();
    atlas()
        .top("workers = 2")
        .listens_plain()
        .text("[[route]]\nupstream = \"app\"")
        .upstream("app", &endpoints, lines)
        .expects_log("the endpoint is down")
        .expects_log("is ejected")
        .expects_log("cannot connect")
        .start()
}

#[test]
fn a_process_that_is_stopped_and_continued_goes_down_and_up() {
    let servers = [Server::start(), Server::start()];
    let atlas = in_front_of(
        &servers,
        "response_timeout = \"2s\"\n[upstream.app.health]\npath = \"/\"\ninterval = \"200ms\"\ntimeout = \"200ms\"",
    );
    servers[0].stop();
    // Its kernel still accepts: only an answer proves that it lives.
    until_up(&atlas, &servers[0].address, false);
    atlas.log_line(&["the endpoint is down", "it hangs, or has too much to do"]);
    wait_until("its requests go to the other", || {
        let started = Instant::now();
        let all_well = (0..6).all(|_| atlas.get("/").status == 200);
        (all_well && started.elapsed() < Duration::from_secs(1)).then_some(())
    });
    servers[0].go_on();
    until_up(&atlas, &servers[0].address, true);
    let port = servers[0].address.rsplit(':').next().unwrap();
    wait_until("it is asked again", || {
        (atlas.get("/").text() == port).then_some(())
    });
}

#[test]
fn a_process_that_is_killed_and_started_again_goes_down_and_up() {
    let mut servers = [Server::start(), Server::start()];
    let atlas = in_front_of(
        &servers,
        "health = { interval = \"200ms\", timeout = \"200ms\" }\noutliers = false",
    );
    servers[0].kill();
    for _ in 0..20 {
        assert_eq!(atlas.get("/").status, 200, "the next endpoint is asked");
    }
    until_up(&atlas, &servers[0].address, false);
    servers[0].revive();
    until_up(&atlas, &servers[0].address, true);
}

#[test]
fn over_http2_endpoints_that_die_are_ejected_and_come_back_too() {
    let mut servers = [Server::start(), Server::start()];
    let atlas = in_front_of(
        &servers,
        "http2 = true\noutliers = { ejection_time = \"200ms\", ejection_time_max = \"200ms\" }",
    );
    let port = servers[0].address.rsplit(':').next().unwrap().to_owned();
    wait_until("both are asked", || (atlas.get("/").text() == port).then_some(()));
    servers[0].kill();
    wait_until("it is ejected", || {
        assert_eq!(atlas.get("/").status, 200, "the next endpoint is asked");
        (atlas.metric("atlas_upstream_ejections_total", &["app"]) > 0.0).then_some(())
    });
    servers[0].revive();
    wait_until("it is back", || (atlas.get("/").text() == port).then_some(()));
}

/// How long clients ask; `ATLAS_LOAD_SECONDS` makes it longer.
fn load() -> Duration {
    let seconds = std::env::var("ATLAS_LOAD_SECONDS");
    Duration::from_secs(seconds.map_or(10, |seconds| seconds.parse().expect("a number of seconds")))
}

/// How often one of them is killed.
const EVERY: Duration = Duration::from_secs(2);

#[test]
fn under_load_with_endpoints_killed_and_revived_no_idempotent_request_fails() {
    let mut servers: Vec<_> = (0..3).map(|_| Server::start()).collect();
    let atlas = in_front_of(&servers, "slow_start = \"1s\"");
    let (is_over, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut killed = 0;
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| ask(&atlas, &is_over, &asked)))
            .collect();
        let started = Instant::now();
        while started.elapsed() < load() {
            let server = &mut servers[killed % 3];
            server.kill();
            killed += 1;
            // Requests go on while it is dead, and a while after it is back.
            let before = asked.load(Ordering::Relaxed);
            wait_until("200 requests", || {
                (asked.load(Ordering::Relaxed) > before + 200).then_some(())
            });
            server.revive();
            std::thread::sleep((killed as u32 * EVERY).saturating_sub(started.elapsed()));
        }
        is_over.store(true, Ordering::Relaxed);
        let took = clients.into_iter().flat_map(|client| client.join().unwrap());
        let mut took: Vec<_> = took.collect();
        took.sort_unstable();
        let (count, slowest) = (took.len(), took[took.len() - 1]);
        let [median, most] = [50, 99].map(|percent| took[(count - 1) * percent / 100]);
        eprintln!("{count} requests, {killed} killed; p50 {median:?}, p99 {most:?}, the slowest {slowest:?}");
        assert!(most < Duration::from_secs(1), "p99 {most:?}");
    });
    assert!(killed >= 3);
    let count = asked.load(Ordering::Relaxed);
    wait_until("all records are written", || {
        (atlas.access_log().len() >= count).then_some(())
    });
    let is_slow = |record: &&serde_json::Value| record["duration_ms"].as_f64() > Some(500.0);
    for record in atlas.records().iter().filter(is_slow).take(10) {
        eprintln!("slow: {record}");
    }
    let is_bad = |record: &serde_json::Value| record["kind"] == "exchange" && record["status"] != 200;
    let bad: Vec<_> = atlas.records().into_iter().filter(is_bad).collect();
    assert!(bad.is_empty(), "{bad:#?}");
}

/// Asks until it is over; how long each request took.
fn ask(atlas: &Atlas, is_over: &AtomicBool, asked: &AtomicUsize) -> Vec<Duration> {
    let (mut client, mut took) = (atlas.connect(), Vec::new());
    while !is_over.load(Ordering::Relaxed) {
        let started = Instant::now();
        let answer = client.get("/load");
        assert_eq!(answer.status, 200, "{answer:?}");
        took.push(started.elapsed());
        asked.fetch_add(1, Ordering::Relaxed);
    }
    took
}
