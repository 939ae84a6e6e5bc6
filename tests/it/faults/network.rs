//! Networks that delay, lose and swallow: an endpoint in a network namespace of its own, and `tc netem` on
//! the way there.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use super::{Process, SLACK, TIMEOUT, beside_others, in_front_of};
use crate::guest::{self, Guest};
use crate::support::{Atlas, alone, free_port, has, wait_until};

/// Runs the tests below in a network of their own: here if this kernel can disturb one, else in a guest.
#[test]
fn networks_that_delay_lose_and_swallow() {
    if guest::is_guest() || !["ip", "tc", "unshare", "nsenter"].into_iter().all(has) {
        return;
    }
    let tests = ["--ignored", "faults::network::"];
    if !can_disturb() {
        Guest::with_netem()
            .arguments(tests)
            .limit(Duration::from_secs(1800))
            .run();
        return;
    }
    let me = std::env::current_exe().unwrap();
    let run = Command::new("unshare")
        .args(["-n", "--"])
        .arg(me)
        .args(tests)
        .output()
        .unwrap();
    let said = [run.stdout, run.stderr].map(|all| String::from_utf8_lossy(&all).into_owned());
    assert!(run.status.success(), "{}", said.concat());
}

/// Whether this process may make networks, and the kernel has `sch_netem`.
fn can_disturb() -> bool {
    let words = [
        "-n", "tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms",
    ];
    let tried = Command::new("unshare").args(words).stderr(Stdio::null()).status();
    tried.is_ok_and(|status| status.success())
}

/// Two ends of a wire: `near` is here, `far` in another namespace, which is gone with its process.
struct Wire {
    holder: Child,
    pid: String,
}

const FAR: [u8; 4] = [10, 213, 77, 2];

impl Wire {
    fn new() -> Self {
        let holder = Command::new("unshare")
            .args(["-n", "sleep", "300"])
            .spawn()
            .unwrap();
        let pid = holder.id().to_string();
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        wait_until("there is another namespace", || {
            let there = std::fs::read_link(format!("/proc/{pid}/ns/net")).ok()?;
            (there != own).then_some(())
        });
        let wire = Self { holder, pid };
        run("ip link set lo up");
        run(&format!(
            "ip link add near type veth peer name far netns {}",
            wire.pid
        ));
        run("ip addr add 10.213.77.1/24 dev near");
        run("ip link set near up");
        wire.run_there("ip addr add 10.213.77.2/24 dev far");
        wire.run_there("ip link set far up");
        wire
    }

    fn run_there(&self, words: &str) {
        run(&format!("nsenter -t {} -n {words}", self.pid));
    }

    /// An endpoint at the far end.
    fn endpoint(&self) -> Process {
        let address = SocketAddr::from((FAR, free_port()));
        Process::at(address, &["nsenter", "-t", &self.pid, "-n"])
    }

    /// What comes back from there.
    fn disturb(&self, how: &str) {
        self.run_there(&format!("tc qdisc replace dev far root netem {how}"));
    }

    /// Nothing gets there any more, and nobody is told.
    fn swallow(&self) {
        run("tc qdisc replace dev near root netem loss 100%");
    }

    fn heal(&self) {
        run("tc qdisc del dev near root");
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // The namespace itself goes some time after its last process.
        let _ = Command::new("ip").args(["link", "del", "near"]).status();
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

fn run(words: &str) {
    let mut split = words.split(' ');
    let output = Command::new(split.next().unwrap()).args(split).output().unwrap();
    assert!(
        output.status.success(),
        "{words}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// An endpoint at the end of the wire, those that are here, and Atlas before them.
struct Net {
    wire: Wire,
    far: Process,
    well: Process,
    calm: Process,
    atlas: Atlas,
}

fn net(route: &str, change: impl FnOnce(String) -> String) -> Net {
    let wire = Wire::new();
    let (far, well, calm) = (wire.endpoint(), Process::that_is_well(), Process::that_is_well());
    let atlas = in_front_of(&far.address, &well.address, &calm.address, route);
    atlas.rewrite(change);
    atlas.reload();
    Net {
        wire,
        far,
        well,
        calm,
        atlas,
    }
}

impl Net {
    fn ask(&self, path: &str) -> (u16, Duration) {
        let started = Instant::now();
        let status = self.atlas.get(path).status;
        (status, started.elapsed())
    }

    /// The record tells who answered, after which failures of the far end.
    fn answered(&self, path: &str, by: &Process, failed: &[[&str; 2]]) {
        let record = self.atlas.exchange(path);
        assert_eq!(record["endpoint"], *by.address, "{record}");
        let failed = failed.iter().map(|[phase, cause]| {
            json!({ "endpoint": self.far.address, "side": "upstream", "phase": phase, "cause": cause })
        });
        let failed: Vec<_> = failed.collect();
        let told = record["failed_attempts"].as_array().cloned().unwrap_or_default();
        assert_eq!(told, failed, "{record}");
    }
}

/// That long, and no longer than a machine with other things to do makes it.
fn is_about(took: Duration, wanted: Duration) {
    assert!(
        took >= wanted.mul_f64(0.9) && took < wanted + SLACK,
        "{took:?}, not {wanted:?}"
    );
}

#[test]
#[ignore = "needs a network of its own"]
fn a_delay_is_paid_by_its_own_requests_alone() {
    let _alone = alone();
    let net = net("", |text| text);
    net.wire.disturb("delay 200ms");
    beside_others(&net.atlas, &net.calm, || {
        let (status, took) = net.ask("/delayed");
        assert_eq!(status, 200);
        // Once for the connection, once for the answer.
        is_about(took, Duration::from_millis(400));
    });
    net.answered("/delayed", &net.far, &[]);
}

#[test]
#[ignore = "needs a network of its own"]
fn a_delay_beyond_the_timeout_lets_another_answer() {
    let _alone = alone();
    let net = net("", |text| text);
    // The way there is known: to look for it would be delayed, too.
    assert_eq!(net.ask("/before").0, 200);
    let delay = TIMEOUT * 3 / 2;
    net.wire.disturb(&format!("delay {}ms", delay.as_millis()));
    beside_others(&net.atlas, &net.calm, || {
        let (status, took) = net.ask("/late");
        assert_eq!(status, 200);
        is_about(took, TIMEOUT);
    });
    net.answered("/late", &net.well, &[["connect", "timed_out"]]);
}

#[test]
#[ignore = "needs a network of its own"]
fn loss_costs_time_and_no_bytes() {
    let _alone = alone();
    // Lost segments are sent again after 200 ms, 400 ms and so on.
    let timeout = format!("= \"{}s\"", TIMEOUT.as_secs());
    let net = net("", |text| text.replace(&timeout, "= \"60s\""));
    net.wire.disturb("loss 5%");
    beside_others(&net.atlas, &net.calm, || {
        for _ in 0..10 {
            let answer = net.atlas.get("/long");
            assert_eq!((answer.status, answer.body.len()), (200, 100_000));
        }
    });
    net.answered("/long", &net.far, &[]);
}

#[test]
#[ignore = "needs a network of its own"]
fn a_black_hole_costs_the_connect_timeout_until_it_is_gone() {
    let _alone = alone();
    let net = net("", |text| text);
    assert_eq!(net.ask("/before").0, 200);
    net.wire.swallow();
    beside_others(&net.atlas, &net.calm, || {
        let (status, took) = net.ask("/swallowed");
        assert_eq!(status, 200);
        is_about(took, TIMEOUT);
    });
    net.answered("/swallowed", &net.well, &[["connect", "timed_out"]]);
    net.wire.heal();
    assert_eq!(net.ask("/after").0, 200);
    net.answered("/after", &net.far, &[]);
}

#[test]
#[ignore = "needs a network of its own"]
fn a_black_hole_under_a_pooled_connection_is_504_or_elsewhere_if_the_route_says_so() {
    let _alone = alone();
    for (route, status) in [("", 504), ("retry = { timeout = \"300ms\" }", 200)] {
        let net = net(route, |text| text.replace("pool_idle_max = 0", ""));
        assert_eq!(net.ask("/before").0, 200);
        net.wire.swallow();
        beside_others(&net.atlas, &net.calm, || {
            let (seen, took) = net.ask("/pooled");
            assert_eq!(seen, status);
            match status {
                200 => is_about(took, Duration::from_millis(300)),
                _ => is_about(took, TIMEOUT),
            }
        });
        match status {
            200 => net.answered("/pooled", &net.well, &[["response", "timed_out"]]),
            _ => {
                let record = net.atlas.exchange("/pooled");
                let told = ["side", "phase", "cause"].map(|key| record[key].as_str().unwrap());
                assert_eq!(told, ["upstream", "response", "timed_out"], "{record}");
            }
        }
    }
}

#[test]
#[ignore = "needs a network of its own"]
fn a_black_hole_in_the_body_is_found_out_by_the_silence() {
    let _alone = alone();
    let net = net("", |text| text);
    let mut client = net.atlas.connect();
    client.send("GET /goes-on HTTP/1.1\r\nHost: a.test\r\n\r\n");
    client.head().unwrap();
    client.read_exactly(20);
    let started = Instant::now();
    net.wire.swallow();
    net.wire.disturb("loss 100%");
    beside_others(&net.atlas, &net.calm, || {
        client.read_to_end();
        is_about(started.elapsed(), TIMEOUT);
    });
    let record = net.atlas.exchange("/goes-on");
    let told = ["side", "phase", "cause"].map(|key| record[key].as_str().unwrap());
    assert_eq!(told, ["upstream", "response_body", "timed_out"], "{record}");
}
