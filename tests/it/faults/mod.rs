//! Endpoints that are processes of their own and do wrong, or whose network does: what the client sees,
//! how long that takes, what is written down, and that requests to others suffer nothing.

mod hangs;
mod network;
mod process;
mod table;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use process::Process;

use crate::support::{Answer, Atlas, Connection, atlas};

/// Every timeout of the upstream that is looked at: longer than a machine with other things to do holds up a
/// process.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Beside what has to be waited for, on such a machine; less than one timeout more.
const SLACK: Duration = Duration::from_millis(4500);

/// An Atlas of one worker, on which everybody meets: requests go to the first, to the second when that
/// does not take them, and below `/calm` to the third alone.
fn in_front_of(first: &str, second: &str, calm: &str, route: &str) -> Atlas {
    let endpoints = format!("endpoints = [{first:?}, {{ address = {second:?}, backup = true }}]");
    let timeouts = ["connect_timeout", "response_timeout", "idle_timeout"]
        .map(|key| format!("{key} = \"{}s\"\n", TIMEOUT.as_secs()));
    atlas()
        .top("workers = 1")
        .listens_plain()
        .text(&format!("[[route]]\nupstream = \"app\"\n{route}"))
        .text("[[route]]\npath = \"/calm\"\nupstream = \"calm\"")
        .text(&format!("[upstream.app]\n{endpoints}\n{}", timeouts.concat()))
        .text("outliers = false\npool_idle_max = 0")
        .upstream("calm", &[calm], "")
        .expects_log("cannot connect")
        .start()
}

/// Does this while two others ask for something else of the same worker; none of their requests fails,
/// or waits for what is waited for meanwhile. How many there were, and the slowest. A third asks the same
/// endpoint without Atlas: what that one has to wait is the machine's.
fn beside_others(atlas: &Atlas, calm: &Process, what: impl FnOnce()) -> (usize, Duration) {
    let is_over = AtomicBool::new(false);
    let ask = |get: &mut dyn FnMut() -> Answer| {
        let mut took = Vec::new();
        while !is_over.load(Ordering::Relaxed) {
            let started = Instant::now();
            let answer = get();
            assert_eq!((answer.status, &*answer.text()), (200, "well"));
            took.push(started.elapsed());
            // Beside what is tested, not in its way.
            std::thread::sleep(Duration::from_millis(2));
        }
        took
    };
    let (took, direct) = std::thread::scope(|scope| {
        let mut kept = atlas.connect();
        let kept = scope.spawn(move || ask(&mut || kept.get("/calm")));
        let new = scope.spawn(|| ask(&mut || atlas.get("/calm")));
        let direct = scope.spawn(|| ask(&mut || directly(calm)));
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(what));
        is_over.store(true, Ordering::Relaxed);
        let [mut took, new, direct] = [kept, new, direct].map(|one| one.join().expect("none fails"));
        took.extend(new);
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (took, direct)
    });
    let slowest = |took: &[Duration]| took.iter().max().copied().unwrap_or_default();
    let (count, direct, slowest) = (took.len(), slowest(&direct), slowest(&took));
    let most = TIMEOUT * 9 / 10 + direct;
    assert!(
        slowest < most,
        "one of {count} others took {slowest:?}, and {direct:?} without Atlas"
    );
    (count, slowest)
}

fn directly(calm: &Process) -> Answer {
    let address = calm.address.parse().expect("it is an address");
    Connection::plain(address).expect("it accepts").get("/calm")
}
