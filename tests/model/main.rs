//! Two ends that write, read, stall, splice and close at random, over every pair of carriers.
//!
//! What one end wrote the other must read, in order, and an end in order only where there was
//! one. Each run is made of a seed, which a failure prints: `ATLAS_MODEL_SEED=7 cargo test --test
//! model` runs that one again, `ATLAS_MODEL_SEEDS=500` runs the first 500.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::cast_possible_truncation,
    clippy::print_stderr,
    clippy::unwrap_used,
    missing_docs,
    reason = "tests run beside Atlas, not in it: they may fail"
)]

mod carriers;
mod end;
#[path = "../vm/guest.rs"]
mod guest;
mod plan;

use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use atlas::outcome::{Cause, End};
use atlas::relay;
use atlas::runtime::{self, Preference, before};
use atlas::time::Deadline;
use atlas::transport::Transport;
use futures_util::FutureExt;
use futures_util::future::{join, join_all, join3};

use self::carriers::{Bench, is_tls13};
use self::guest::Guest;
use self::plan::Plan;

/// Longer than any run takes, on the slowest machine.
const LONG: Duration = Duration::from_secs(60);

/// The ends speak to each other.
#[test]
fn what_one_end_writes_the_other_reads() {
    let bench = Bench::new();
    for (server, client) in bench.pairs() {
        let may_renew = bench.may_renew(&[server, client]);
        run(&format!("{server:?} to {client:?}"), async |plan| {
            let suite = plan.suites[0];
            let (left, right) = bench.connect(server, client, suite).await;
            converse(left, right, plan, may_renew && is_tls13(suite)).await;
        });
    }
}

/// The ends speak through a relay, which is to both of them what the other end would be.
#[test]
fn a_relay_changes_nothing() {
    let bench = Bench::new();
    for (downstream, upstream) in bench.relays() {
        let may_renew = bench.may_renew(&[downstream, upstream]);
        run(
            &format!("relay from {downstream:?} to {upstream:?}"),
            async |plan| {
                let [one, other] = plan.suites;
                let (near, left) = bench.connect(downstream, downstream.opposite(), one).await;
                let (right, far) = bench.connect(upstream.opposite(), upstream, other).await;
                let relayed = async {
                    let end = relay::both_ways(&near, &far, LONG).await;
                    finish_relay(near, far, end).await;
                    end
                };
                let (one, other, end) = join3(
                    end::run(left, &plan.left, &plan.right, may_renew && is_tls13(one)),
                    end::run(right, &plan.right, &plan.left, may_renew && is_tls13(other)),
                    relayed,
                )
                .await;
                one.check(&plan.left, &plan.right);
                other.check(&plan.right, &plan.left);
                if plan.is_orderly() {
                    assert_eq!(end.cause, Cause::Finished, "{end}");
                }
            },
        );
    }
}

/// Linux 6.12 ends a connection whose peer renews its keys; there, nobody does.
#[test]
fn the_same_where_the_kernel_has_tls() {
    let limit = Duration::from_secs(120 + 2 * (seeds().end - seeds().start));
    for guest in [Guest::linux_6_12(), Guest::newest_linux()] {
        guest.limit(limit).run();
    }
}

/// What Atlas does after a relay: an end in order on both sides, or a reset.
async fn finish_relay(near: Transport, far: Transport, end: End) {
    if end.is_good() {
        near.close(Deadline::within(LONG)).await;
        far.close(Deadline::within(LONG)).await;
    } else {
        near.abort();
        far.abort();
    }
}

async fn converse(left: Transport, right: Transport, plan: &Plan, may_renew: bool) {
    let (one, other) = join(
        end::run(left, &plan.left, &plan.right, may_renew),
        end::run(right, &plan.right, &plan.left, may_renew),
    )
    .await;
    one.check(&plan.left, &plan.right);
    other.check(&plan.right, &plan.left);
}

/// Runs that share a runtime at a time: much of what they do is wait.
const AT_ONCE: usize = 8;

/// Runs all seeds, three of four on io_uring.
fn run(name: &str, test: impl AsyncFn(&Plan)) {
    for preference in [Preference::Auto, Preference::Epoll] {
        let is_epoll = preference == Preference::Epoll;
        let seeds: Vec<u64> = seeds()
            .filter(|seed| seed.is_multiple_of(4) == is_epoll)
            .collect();
        runtime::start(preference, |_| async {
            for together in seeds.chunks(AT_ONCE) {
                join_all(together.iter().map(|seed| run_one(name, *seed, &test))).await;
            }
        })
        .expect("a driver");
    }
}

async fn run_one(name: &str, seed: u64, test: &impl AsyncFn(&Plan)) {
    let plan = Plan::new(seed);
    let run = AssertUnwindSafe(before(Deadline::within(LONG), test(&plan)));
    if !matches!(run.catch_unwind().await, Ok(Ok(()))) {
        panic!("{name}, seed {seed} failed (or took too long): {plan:?}");
    }
}

fn seeds() -> Range<u64> {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .map(|value| value.parse::<u64>().expect("a number"))
    };
    match number("ATLAS_MODEL_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("ATLAS_MODEL_SEEDS").unwrap_or(25),
    }
}
