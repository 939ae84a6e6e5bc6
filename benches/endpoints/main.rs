//! What a request costs Atlas with 1, 10 and 1,000 endpoints, and what so many connections cost a bare client.
//!
//!     cargo build --release && cargo bench --bench endpoints
//!
//! HTTPS keep-alive on 64 connections, 1 KiB proxied, endpoints in turn; Atlas with one worker on the first
//! core, the load and the origin (nginx) on the second. The cases alternate every 50 ms, faster than a machine
//! changes its speed, and a slice ends when all is answered, so that the account of a worker that sleeps is
//! exact. Ratios are geometric means of those within a cycle, with their standard error.
//!
//! The bare client is this program on Atlas's core: an epoll loop that sends the same requests to the same
//! origin over as many connections, and does nothing else. What a thousand connections cost it more than 64 is
//! the kernel's price for keeping them; whoever keeps as many pays it.
//!
//! `--atlas FILE` (target/release/atlas), `--seconds 60`. Needs nginx and taskset.
#![expect(clippy::print_stdout, reason = "a bench prints")]
#![expect(clippy::unwrap_used, reason = "a bench may end in a panic")]
#![expect(clippy::disallowed_methods, reason = "the client is a thread that may wait")]
#![expect(clippy::cast_precision_loss, reason = "figures for people")]

mod load;
mod servers;

use std::time::{Duration, Instant};

use self::load::{Load, Turns};
use self::servers::{Atlas, Origin};

/// How many endpoints there are.
const CASES: [usize; 3] = [1, 10, 1000];

/// Requests under way at a time.
const FLIGHT: usize = 64;

/// How long a case runs before the next one does.
const SLICE: Duration = Duration::from_millis(50);

/// Cycles that are not counted: connections are opened, caches filled.
const WARM_UP: usize = 5;

/// Atlas's core, and everybody else's.
const SERVER_CORE: usize = 0;
const LOAD_CORE: usize = 1;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let atlas = option(&arguments, "--atlas")
        .unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/target/release/atlas").to_owned());
    let seconds = option(&arguments, "--seconds").map_or(60, |seconds| seconds.parse().unwrap());

    load::raise_descriptor_limit();
    load::move_to(LOAD_CORE);
    let folder = tempfile::tempdir().unwrap();
    let origin = Origin::start(folder.path(), LOAD_CORE);
    let atlas = Atlas::start(&atlas, folder.path(), &origin, &CASES, SERVER_CORE);
    let mut proxied = CASES.map(|endpoints| Load::of_atlas(&atlas, endpoints, FLIGHT));
    let mut bare = CASES.map(|endpoints| Load::of_origin(&origin, endpoints, FLIGHT));

    let mut costs: Vec<[f64; 2 * CASES.len()]> = Vec::new();
    let ends = Instant::now() + Duration::from_secs(seconds);
    for cycle in 0.. {
        let mut cost = [0.0; 2 * CASES.len()];
        for place in 0..CASES.len() {
            let case = (place + cycle) % CASES.len(); // nobody is always the one after another
            cost[case] = proxied[case].slice(SLICE, Turns::Same, || atlas.cpu());
            load::move_to(SERVER_CORE);
            cost[CASES.len() + case] = bare[case].slice(SLICE, Turns::Next, load::own_cpu);
            load::move_to(LOAD_CORE);
        }
        if cycle >= WARM_UP {
            costs.push(cost);
        }
        if Instant::now() > ends {
            break;
        }
    }
    println!("{}", table(&costs));
}

fn table(costs: &[[f64; 2 * CASES.len()]]) -> String {
    use std::fmt::Write as _;
    let mut table = format!(
        "{} cycles of {} ms a case\n\n\
         | endpoints | Atlas, µs/request | to one endpoint | bare client, µs/request | more than for one |\n\
         |---:|---:|---:|---:|---:|",
        costs.len(),
        SLICE.as_millis()
    );
    for (case, endpoints) in CASES.iter().enumerate() {
        let (proxied, bare) = (case, CASES.len() + case);
        let (ratio, ratio_error) = mean(costs.iter().map(|cost| (cost[proxied] / cost[0]).ln()));
        let (more, more_error) = mean(costs.iter().map(|cost| cost[bare] - cost[CASES.len()]));
        write!(
            table,
            "\n| {endpoints} | {:.2} | {:.3} ±{:.3} | {:.2} | {:+.2} ±{:.2} µs |",
            mean(costs.iter().map(|cost| cost[proxied])).0,
            ratio.exp(),
            ratio_error,
            mean(costs.iter().map(|cost| cost[bare])).0,
            more,
            more_error,
        )
        .unwrap();
    }
    table
}

/// The mean, and its standard error.
fn mean(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let values: Vec<f64> = values.collect();
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
    (mean, (variance / count).sqrt())
}

fn option(arguments: &[String], name: &str) -> Option<String> {
    let at = arguments.iter().position(|argument| argument == name)?;
    arguments.get(at + 1).cloned()
}
