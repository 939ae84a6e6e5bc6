//! Each fault of a process that runs, with all that follows from it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Process, SLACK, TIMEOUT, beside_others, in_front_of};
use crate::support::{Atlas, alone};

/// What a client sees.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Sees {
    /// All of an answer.
    Status(u16),
    /// An answer that is not whole, and looks like that.
    Part,
}

use Sees::{Part, Status};

/// A request, and what has to come of it.
struct Fault {
    method: &'static str,
    path: &'static str,
    sees: Sees,
    /// What has to be waited for.
    takes: Duration,
    /// Side, phase and cause in the record.
    end: [&'static str; 3],
    /// Phase and cause of the attempt that failed, where another was made or could have been.
    failed: Option<[&'static str; 2]>,
}

const FINISHED: [&str; 3] = ["upstream", "done", "finished"];

const fn fault(
    (method, path): (&'static str, &'static str),
    sees: Sees,
    takes: Duration,
    end: [&'static str; 3],
    failed: Option<[&'static str; 2]>,
) -> Fault {
    Fault {
        method,
        path,
        sees,
        takes,
        end,
        failed,
    }
}

const NOTHING: Duration = Duration::ZERO;

const FAULTS: &[Fault] = &[
    fault(("GET", "/well"), Status(200), NOTHING, FINISHED, None),
    fault(
        ("GET", "/says-nothing"),
        Status(504),
        TIMEOUT,
        ["upstream", "response", "timed_out"],
        None,
    ),
    fault(
        ("GET", "/stops-after-the-head"),
        Part,
        TIMEOUT,
        ["upstream", "response_body", "timed_out"],
        None,
    ),
    fault(
        ("GET", "/stops-in-the-body"),
        Part,
        TIMEOUT,
        ["upstream", "response_body", "timed_out"],
        None,
    ),
    fault(
        ("GET", "/closes-in-the-body"),
        Part,
        NOTHING,
        ["upstream", "response_body", "closed"],
        None,
    ),
    fault(
        ("GET", "/resets-in-the-body"),
        Part,
        NOTHING,
        ["upstream", "response_body", "reset"],
        None,
    ),
    fault(
        ("GET", "/closes"),
        Status(200),
        NOTHING,
        FINISHED,
        Some(["response", "closed"]),
    ),
    fault(
        ("GET", "/resets"),
        Status(200),
        NOTHING,
        FINISHED,
        Some(["response", "reset"]),
    ),
    fault(
        ("POST", "/closes"),
        Status(502),
        NOTHING,
        ["upstream", "response", "closed"],
        None,
    ),
    fault(
        ("POST", "/resets"),
        Status(502),
        NOTHING,
        ["upstream", "response", "reset"],
        None,
    ),
    fault(
        ("GET", "/resets-in-the-head"),
        Status(502),
        NOTHING,
        ["upstream", "response", "reset"],
        None,
    ),
    fault(
        ("GET", "/says-garbage"),
        Status(502),
        NOTHING,
        ["upstream", "response", "malformed"],
        None,
    ),
    fault(
        ("GET", "/is-slow"),
        Status(200),
        Duration::from_millis(6250),
        FINISHED,
        None,
    ),
];

#[test]
fn each_fault_costs_its_own_request_what_it_must_and_others_nothing() {
    let _alone = alone();
    let bad = Process::start();
    let [well, calm] = [(); 2].map(|()| Process::that_is_well());
    let atlas = in_front_of(&bad.address, &well.address, &calm.address, "");
    let (mut all, mut wrong) = (Vec::new(), Vec::new());
    let (count, slowest) = beside_others(&atlas, &calm, || all = ask_all(&atlas));
    eprintln!("{count} others, the slowest {slowest:?}");
    for (fault, (path, sees, took)) in FAULTS.iter().zip(all) {
        eprintln!("{path}: {sees:?} after {took:?}");
        assert_eq!(sees, fault.sees, "{path}");
        assert!(took >= fault.takes.mul_f64(0.9), "{path} took {took:?}");
        assert!(took < fault.takes + SLACK, "{path} took {took:?}");
        wrong.extend(differs(&atlas, &path, fault, &bad.address, &well.address));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Asks for all of them at a time: the path of each, what its client sees, and after how long.
fn ask_all(atlas: &Atlas) -> Vec<(String, Sees, Duration)> {
    std::thread::scope(|scope| {
        let asked = FAULTS.iter().enumerate().map(|(number, fault)| {
            scope.spawn(move || {
                let path = format!("{}?{number}", fault.path);
                let started = Instant::now();
                let sees = ask(atlas, fault.method, &path);
                (path, sees, started.elapsed())
            })
        });
        let asked: Vec<_> = asked.collect();
        let join = |one: std::thread::ScopedJoinHandle<'_, _>| one.join().expect("none fails");
        asked.into_iter().map(join).collect()
    })
}

fn ask(atlas: &Atlas, method: &str, path: &str) -> Sees {
    let mut client = atlas.connect();
    client.send(format!(
        "{method} {path} HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n"
    ));
    match client.try_answer() {
        Ok(answer) => Status(answer.status),
        Err(_) => Part,
    }
}

/// What is wrong with the record.
fn differs(atlas: &Atlas, path: &str, fault: &Fault, bad: &str, well: &str) -> Option<String> {
    let record = atlas.exchange(path);
    let failed = fault.failed.map(
        |[phase, cause]| json!([{ "endpoint": bad, "side": "upstream", "phase": phase, "cause": cause }]),
    );
    let wanted = json!({
        "side": fault.end[0], "phase": fault.end[1], "cause": fault.end[2],
        "endpoint": if failed.is_some() { well } else { bad },
        "attempts": 1 + u32::from(failed.is_some()),
        "failed_attempts": failed,
    });
    let keys = wanted.as_object().unwrap().keys();
    let told: Value = keys.map(|key| (key.clone(), record[key].clone())).collect();
    (told != wanted).then(|| format!("{path}: {told} instead of {wanted}"))
}
