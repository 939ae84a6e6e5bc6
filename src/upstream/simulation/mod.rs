//! Health and balancing over thousands of endpoints and several workers, in a time that only the
//! simulation moves, from seeds: `ATLAS_SIMULATION_SEED=7` runs that one again, `ATLAS_SIMULATION_SEEDS=100`
//! so many. `ATLAS_PLOTS=docs/plots` draws what is in the documentation.

mod choices;
mod outages;
mod plots;
mod retries;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::{Ipv4Addr, SocketAddr};

use futures_util::FutureExt;

use super::balance::Method;
use super::health::{Outliers, Statuses};
use super::retry::tests::{COUNTED, ended};
use super::retry::{Ended, Next, Rules};
use super::*;
use crate::outcome::Refusal;
use crate::runtime::Address;
use crate::time::simulated;

/// How an endpoint is, in truth.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Condition {
    Well,
    /// It refuses connections.
    Dead,
    /// It takes requests and does not answer.
    Hangs,
    /// It answers 503.
    Broken,
    /// It resets seven exchanges in ten.
    Flaky,
}

const ILL: [Condition; 4] = [
    Condition::Dead,
    Condition::Hangs,
    Condition::Broken,
    Condition::Flaky,
];

/// From a request to its answer, where all is well.
const ANSWER: Duration = Duration::from_millis(20);

/// Until a request that hangs is given up.
const PATIENCE: Duration = Duration::from_secs(1);

const SLOW_START: Duration = Duration::from_secs(10);

/// A request that is under way, by the moment of its end; the number makes the order complete.
type UnderWay = Reverse<(Duration, u64, usize, usize)>;

struct Simulation {
    workers: Vec<Upstream>,
    conditions: Vec<Condition>,
    random: fastrand::Rng,
    begin: Instant,
    /// Since `begin`.
    now: Duration,
    under_way: BinaryHeap<UnderWay>,
    asked: u64,
    /// Requests that reached each endpoint since they were last looked at.
    reached: Vec<u32>,
    /// Attempts of all requests.
    attempts: u64,
    /// Requests nobody was left for.
    unserved: u64,
    /// One answer in ten takes ten times as long as the others.
    varies: bool,
}

impl Simulation {
    fn new(seed: u64, workers: usize, endpoints: usize) -> Self {
        Self::with(seed, workers, settings(endpoints))
    }

    fn with(seed: u64, workers: usize, settings: Settings) -> Self {
        let endpoints = settings.endpoints.len();
        let begin = now();
        simulated::set(begin);
        fastrand::seed(seed); // the balancers begin with this thread's
        let upstream = |_| {
            let offload = Offload::absent(Refusal::NoUlp).into();
            let http = http::Settings::default();
            Upstream::new(settings.clone(), &http, workers, offload, Arc::default(), None)
        };
        Self {
            workers: (0..workers).map(upstream).collect(),
            conditions: vec![Condition::Well; endpoints],
            random: fastrand::Rng::with_seed(seed),
            begin,
            now: Duration::ZERO,
            under_way: BinaryHeap::new(),
            asked: 0,
            reached: vec![0; endpoints],
            attempts: 0,
            unserved: 0,
            varies: false,
        }
    }

    /// Lets time pass until then; each worker is asked so often in a second.
    fn run(&mut self, until: Duration, per_second: u64) {
        let every = Duration::from_secs(1) / u32::try_from(per_second).unwrap();
        while self.now < until {
            for worker in 0..self.workers.len() {
                self.ask(worker);
            }
            self.pass(every);
        }
    }

    fn pass(&mut self, time: Duration) {
        let (before, then) = (self.now, self.now + time);
        while let Some(Reverse((at, _, worker, index))) = self.under_way.peek().copied() {
            if at > then {
                break;
            }
            self.under_way.pop();
            self.set_clock(at);
            self.end(worker, index);
        }
        self.set_clock(then);
        if before.as_secs() < then.as_secs() {
            for worker in &self.workers {
                worker.look_at_health(now());
                self.keeps_its_bounds(worker);
            }
        }
    }

    fn set_clock(&mut self, moment: Duration) {
        self.now = moment;
        simulated::set(self.begin + moment);
    }

    /// One request: endpoints are asked until one takes it.
    fn ask(&mut self, worker: usize) {
        let answer = match (self.varies, self.random.u8(..10)) {
            (false, _) => ANSWER,
            (true, 0) => ANSWER * 100 / 19,
            (true, _) => ANSWER * 10 / 19,
        };
        let upstream = &self.workers[worker];
        let key = upstream.settings.hash.as_ref().map(|_| self.random.u64(..));
        let mut tried = Vec::new();
        while let Some(index) = upstream.choose(&tried, key) {
            tried.push(index);
            self.attempts += 1;
            self.reached[index] += 1;
            let lasts = match self.conditions[index] {
                Condition::Dead => {
                    upstream.note(&upstream.endpoints[index], Outcome::Failed(Cause::Refused));
                    continue;
                }
                Condition::Hangs => PATIENCE,
                _ => answer,
            };
            self.asked += 1;
            upstream.endpoints[index].began();
            upstream.load_changed(index);
            self.under_way
                .push(Reverse((self.now + lasts, self.asked, worker, index)));
            return;
        }
        self.unserved += 1;
    }

    /// It ends as the endpoint is now: one that has recovered meanwhile answers.
    fn end(&mut self, worker: usize, index: usize) {
        let upstream = &self.workers[worker];
        let endpoint = &upstream.endpoints[index];
        endpoint.ended();
        upstream.load_changed(index);
        match self.conditions[index] {
            Condition::Well => upstream.note_answer(endpoint, 200, false),
            Condition::Broken => upstream.note_answer(endpoint, 503, false),
            Condition::Hangs => upstream.note(endpoint, Outcome::Failed(Cause::TimedOut)),
            Condition::Dead => upstream.note(endpoint, Outcome::Failed(Cause::Closed)),
            Condition::Flaky if self.random.f64() < 0.7 => {
                upstream.note(endpoint, Outcome::Failed(Cause::Reset));
            }
            Condition::Flaky => upstream.note_answer(endpoint, 200, false),
        }
    }

    /// Ejections never take more than their part of a pool, and never the last.
    fn keeps_its_bounds(&self, worker: &Upstream) {
        let count = worker.endpoints.len();
        let available = self.available(worker);
        assert!(
            available >= count / 2,
            "at {:?} {available} of {count} are left",
            self.now
        );
        assert!(available > 0);
    }

    fn available(&self, worker: &Upstream) -> usize {
        let all = worker.endpoints.iter();
        all.filter(|endpoint| endpoint.is_available(now())).count()
    }

    /// Requests that reached an endpoint since this was asked last.
    fn reached(&mut self, index: usize) -> f64 {
        let count = f64::from(self.reached[index]);
        self.reached.fill(0);
        count
    }

    /// Every endpoint is asked by every worker, with its whole share.
    fn is_calm(&self) -> bool {
        self.workers.iter().all(Upstream::is_calm)
    }
}

fn settings(endpoints: usize) -> Settings {
    let address = |index: usize| {
        let [_, high, middle, low] = u32::try_from(index).unwrap().to_be_bytes();
        let address = SocketAddr::from((Ipv4Addr::new(10, high, middle, low), 80));
        EndpointSettings::at(EndpointAddress::Socket(Address::Tcp(address)))
    };
    Settings {
        health: health::Settings {
            outliers: Some(Outliers {
                statuses: Statuses(vec![503..=503]),
                ejection_time: Duration::from_secs(2),
                ejection_time_max: Duration::from_secs(16),
                ..Outliers::default()
            }),
            slow_start: Some(SLOW_START),
            panic_below: 0,
        },
        ..tests::settings((0..endpoints).map(address).collect())
    }
}

/// The seed of what is drawn.
fn seed() -> u64 {
    number_in("ATLAS_SIMULATION_SEED").unwrap_or(1)
}

/// The seeds every promise is held to.
fn seeds() -> std::ops::RangeInclusive<u64> {
    match number_in("ATLAS_SIMULATION_SEED") {
        Some(one) => one..=one,
        // A guest of `tests/vm` is too slow for more.
        None if std::env::var_os("KTLS_VM").is_some() => 1..=1,
        None => 1..=number_in("ATLAS_SIMULATION_SEEDS").unwrap_or(1),
    }
}

fn number_in(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().expect("it is a number"))
}

/// A place at the endpoint that is asked next, if there is one. Nobody has to wait for it.
fn next<'u>(worker: &'u Upstream, attempts: &mut Attempts) -> Option<Slot<'u>> {
    let found = worker.next(attempts).now_or_never();
    found.expect("it does not wait").expect("it is not refused")
}

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[test]
fn of_two_thousand_endpoints_a_third_falls_ill_and_all_come_back() {
    seeds().for_each(a_third_falls_ill_and_comes_back);
}

fn a_third_falls_ill_and_comes_back(seed: u64) {
    let (endpoints, per_second) = (2000, 2000);
    let mut simulation = Simulation::new(seed, 3, endpoints);
    simulation.run(seconds(1), per_second);
    assert!(simulation.is_calm());
    assert_eq!(simulation.attempts, simulation.asked);
    for index in 0..endpoints {
        if simulation.random.u8(..3) == 0 {
            let at = simulation.random.usize(..ILL.len());
            simulation.conditions[index] = ILL[at];
        }
    }
    simulation.run(seconds(10), per_second);
    // Those that refuse are found out: hardly a request asks one in vain.
    let (attempts, asked) = (simulation.attempts, simulation.asked);
    simulation.run(seconds(12), per_second);
    let in_vain = (simulation.attempts - attempts) as f64 / (simulation.asked - asked) as f64 - 1.0;
    assert!(in_vain < 0.04, "{in_vain} of the requests asked in vain");
    assert_eq!(simulation.unserved, 0);
    simulation.conditions.fill(Condition::Well);
    // The longest ejection, and a slow start.
    simulation.run(seconds(12 + 16 + 10 + 3), per_second);
    assert!(simulation.is_calm(), "not all came back");
    for worker in &simulation.workers {
        assert_eq!(simulation.available(worker), endpoints);
    }
}

#[test]
fn where_all_endpoints_die_half_are_left_and_all_come_back() {
    for (seed, count) in seeds().flat_map(|seed| [1, 2, 3, 30].map(|count| (seed, count))) {
        let mut simulation = Simulation::new(seed, 4, count);
        for kind in ILL {
            simulation.conditions.fill(kind);
            let until = simulation.now + seconds(5);
            simulation.run(until, 100); // looks at the bounds every second
            simulation.conditions.fill(Condition::Well);
            let until = simulation.now + seconds(16 + 10 + 3);
            simulation.run(until, 100);
            assert!(
                simulation.is_calm(),
                "seed {seed}: {count} endpoints after {kind:?}"
            );
        }
    }
}

#[test]
fn an_endpoint_that_comes_back_is_not_overrun() {
    for seed in seeds() {
        // The least of what each knows is the danger: it has nothing to do.
        for method in [Method::TwoChoices, Method::LeastConnections, Method::RoundRobin] {
            is_not_overrun(seed, method);
        }
    }
}

fn is_not_overrun(seed: u64, method: Method) {
    let (endpoints, per_second) = (20, 400);
    let mut settings = settings(endpoints);
    settings.balance = Some(method);
    let mut simulation = Simulation::with(seed, 8, settings);
    simulation.conditions[7] = Condition::Hangs;
    simulation.run(seconds(9), per_second);
    simulation.conditions[7] = Condition::Well;
    while !simulation
        .workers
        .iter()
        .all(|worker| worker.endpoints[7].is_available(now()))
    {
        let until = simulation.now + Duration::from_millis(100);
        simulation.run(until, per_second);
    }
    // All eight workers take it back within their ejections; from here on its share only grows.
    simulation.reached(7);
    let fair = (8 * per_second) as f64 / endpoints as f64;
    let mut shares = Vec::new();
    for _ in 0..SLOW_START.as_secs() + 8 {
        let until = simulation.now + seconds(1);
        simulation.run(until, per_second);
        shares.push(simulation.reached(7) / fair);
    }
    let told = format!("seed {seed}, {method}: {shares:?}");
    assert!(shares[0] < 0.6, "{told}");
    // Chance makes a tenth more or less of a second, and half as much of three.
    assert!(shares.iter().all(|share| *share < 1.5), "overrun: {told}");
    let threes: Vec<_> = shares
        .chunks(3)
        .map(|three| three.iter().sum::<f64>() / 3.0)
        .collect();
    assert!(threes.iter().all(|share| *share < 1.25), "overrun: {told}");
    assert!(threes[threes.len() - 1] > 0.8, "{told}");
    let falls = |pair: &[f64]| pair[1] < pair[0] - 0.3;
    assert!(!threes.windows(2).any(falls), "its share grows: {told}");
}
