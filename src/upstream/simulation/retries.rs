//! What retries add to an overload: a share of it and no more.

use super::*;

/// Attempts for each request where all endpoints answer late, so that each would be tried
/// `attempts_max` times, and `percent` of those under way may be; `live` are at a time on each of four
/// workers.
pub(super) fn overload(seed: u64, percent: u8, attempts_max: usize, live: usize) -> f64 {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut settings = settings(10);
    settings.retry_budget = percent;
    let simulation = Simulation::with(seed, 4, settings);
    let (mut requests, mut attempts) = (0_u64, 0_u64);
    for worker in &simulation.workers {
        let mut under_way = Vec::new();
        for _ in 0..100 * live {
            if under_way.len() < live {
                let mut search = worker.begin(true);
                search.limit(attempts_max, true);
                let slot = next(worker, &mut search).unwrap();
                under_way.push((worker.live().unwrap(), search, slot));
                (requests, attempts) = (requests + 1, attempts + 1);
                continue;
            }
            // One of them has waited long enough: it is tried again, or given up.
            let at = random.usize(..under_way.len());
            let (request, search, slot) = &mut under_way[at];
            let late = ended(Cause::TimedOut);
            if worker.has_another(search) && COUNTED.after(&late, request) == Next::Other {
                search.elsewhere(slot.endpoint(), late.end);
                *slot = next(worker, search).unwrap();
                attempts += 1;
            } else {
                under_way.swap_remove(at);
            }
        }
    }
    attempts as f64 / requests as f64
}

/// Of all attempts under way so many are retries: of a request its part of the others more.
pub(super) fn most(percent: u8, attempts_max: usize) -> f64 {
    let bound = 1.0 / (1.0 - f64::from(percent.min(99)) / 100.0);
    bound.min(attempts_max as f64)
}

#[test]
fn retries_add_their_budget_to_an_overload_and_no_more() {
    for seed in seeds() {
        for (percent, attempts_max) in [(0, 3), (10, 2), (20, 2), (20, 10), (50, 3), (100, 2), (100, 3)] {
            let (made, most) = (
                overload(seed, percent, attempts_max, 200),
                most(percent, attempts_max),
            );
            let told = format!(
                "seed {seed}: {percent} % and {attempts_max} attempts make {made:.3} of each request"
            );
            assert!(made <= most + 0.01, "{told}, not {most:.3}");
            assert!(made > 0.9 * most, "{told}: the budget is not used");
        }
    }
}
