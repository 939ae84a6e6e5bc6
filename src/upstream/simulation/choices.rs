//! How evenly each way of choosing spreads what comes, over thousands of endpoints and several workers.

use super::*;

/// What one way of choosing has come to.
pub(super) struct Spread {
    /// Requests of each endpoint, in parts of the mean; the least first.
    pub(super) shares: Vec<f64>,
    /// How often an endpoint had so many under way, on all workers together.
    pub(super) depths: Vec<u64>,
}

impl Spread {
    /// The most that was under way with one endpoint.
    pub(super) fn deepest(&self) -> usize {
        self.depths.len() - 1
    }

    /// How much of the time, in percent, an endpoint had at least so many under way.
    pub(super) fn at_least(&self, depth: usize) -> f64 {
        let all: u64 = self.depths.iter().sum();
        let these: u64 = self.depths.iter().skip(depth).sum();
        100.0 * these as f64 / all as f64
    }
}

/// Asks `per_endpoint` times for each endpoint, by this method, with so many workers. Each endpoint has
/// two requests under way on average.
pub(super) fn spread(
    seed: u64,
    method: Method,
    workers: usize,
    endpoints: usize,
    per_endpoint: usize,
) -> Spread {
    let mut settings = settings(endpoints);
    settings.balance = Some(method);
    settings.hash = (method == Method::Hash)
        .then(|| Hashing::new(HashKey::ClientAddress, Some(125), &settings.endpoints));
    let mut simulation = Simulation::with(seed, workers, settings);
    simulation.varies = true;
    let answers = 1000 / u64::try_from(ANSWER.as_millis()).unwrap();
    let per_second = 2 * endpoints as u64 * answers / workers as u64;
    // Until as many end as begin.
    simulation.run(5 * ANSWER, per_second);
    simulation.reached.fill(0);
    let asked = simulation.asked;
    let mut depths = Vec::new();
    while simulation.asked < asked + (endpoints * per_endpoint) as u64 {
        let until = simulation.now + ANSWER;
        simulation.run(until, per_second);
        for index in 0..endpoints {
            let workers = simulation.workers.iter();
            let depth: u32 = workers.map(|worker| worker.endpoints[index].load()).sum();
            let depth = depth as usize;
            depths.resize(depths.len().max(depth + 1), 0);
            depths[depth] += 1;
        }
    }
    let mean = (simulation.asked - asked) as f64 / endpoints as f64;
    let shares = simulation.reached.iter().map(|count| f64::from(*count) / mean);
    let mut shares: Vec<_> = shares.collect();
    shares.sort_by(f64::total_cmp);
    Spread { shares, depths }
}

/// The least and the most of its share that an endpoint may get of twenty requests for each, and how many
/// may be under way with one where two are on average.
const BOUNDS: [(Method, f64, f64, usize); 4] = [
    (Method::RoundRobin, 0.7, 1.35, 15),
    (Method::LeastConnections, 0.6, 1.4, 11),
    (Method::TwoChoices, 0.2, 2.1, 11),
    (Method::Hash, 0.1, 2.5, 13),
];

#[test]
fn every_method_spreads_requests_over_two_thousand_endpoints() {
    for seed in seeds() {
        for (method, least, most, depth) in BOUNDS {
            let spread = spread(seed, method, 8, 2000, 20);
            let (lowest, highest) = (spread.shares[0], spread.shares[spread.shares.len() - 1]);
            let deepest = spread.deepest();
            let is_even = lowest >= least && highest <= most && deepest <= depth;
            assert!(
                is_even,
                "seed {seed}, {method}: from {lowest:.2} to {highest:.2} of a share, {deepest} at a time"
            );
        }
    }
}
