//! Shares, loads and who is left out, from seeds.

use super::*;

/// Endpoints of a test.
pub(super) struct Pool {
    pub(super) ready: Vec<f64>,
    pub(super) load: Vec<u32>,
}

impl Pool {
    pub(super) fn idle(count: usize) -> Self {
        Self {
            ready: vec![1.0; count],
            load: vec![0; count],
        }
    }
}

impl Candidates for Pool {
    fn readiness(&self, index: usize) -> f64 {
        self.ready[index]
    }

    fn load(&self, index: usize) -> u32 {
        self.load[index]
    }
}

const ALL: [Method; 3] = [Method::RoundRobin, Method::LeastConnections, Method::TwoChoices];

fn balancer(method: Method, weights: &[u32]) -> Balancer {
    Balancer::new(method, weights.to_vec(), Rng::with_seed(7))
}

fn counts(balancer: &mut Balancer, pool: &Pool, picks: usize) -> Vec<f64> {
    let mut counts = vec![0.0; pool.load.len()];
    for _ in 0..picks {
        counts[balancer.pick(pool, None).unwrap()] += 1.0;
    }
    counts
}

/// Pearson's test: whether counts differ from shares by no more than chance would make them, but in
/// one case of some ten thousand.
pub(super) fn assert_shares(counts: &[f64], shares: &[f64], what: &str) {
    let (picks, sum): (f64, f64) = (counts.iter().sum(), shares.iter().sum());
    let mut chi_square = 0.0;
    for (count, share) in counts.iter().zip(shares) {
        let due = picks * share / sum;
        assert!(*share > 0.0 || *count == 0.0, "{what}: {counts:?}");
        if due > 0.0 {
            chi_square += (count - due).powi(2) / due;
        }
    }
    let freedom = shares.iter().filter(|share| **share > 0.0).count() as f64 - 1.0;
    let most = freedom + 4.0 * (2.0 * freedom).sqrt() + 5.0;
    assert!(
        chi_square <= most,
        "{what}: χ² {chi_square:.1} of {most:.1}: {counts:?}"
    );
}

#[test]
fn idle_endpoints_are_chosen_by_weight() {
    let thousand: Vec<u32> = (0..1000).map(|index| index % 7).collect();
    let sets: [&[u32]; 6] = [
        &[1, 1],
        &[1, 1, 1, 1, 1],
        &[5, 1, 1, 0, 13],
        &[0, 0, 3],
        &[65_535, 1],
        &thousand,
    ];
    for method in ALL {
        for weights in sets {
            let pool = Pool::idle(weights.len());
            let counts = counts(&mut balancer(method, weights), &pool, 200_000);
            let shares: Vec<_> = weights.iter().copied().map(f64::from).collect();
            assert_shares(
                &counts,
                &shares,
                &format!("{method:?} of {} endpoints", weights.len()),
            );
        }
    }
}

#[test]
fn who_is_not_ready_is_never_chosen_and_its_share_goes_to_the_others_by_weight() {
    for method in ALL {
        let weights = [4, 3, 2, 1, 2, 2];
        let mut pool = Pool::idle(weights.len());
        let mut balancer = balancer(method, &weights);
        pool.ready[0] = 0.0;
        pool.ready[4] = 0.0;
        let counts_now = counts(&mut balancer, &pool, 80_000);
        assert_shares(
            &counts_now,
            &[0.0, 3.0, 2.0, 1.0, 0.0, 2.0],
            &format!("{method:?}"),
        );
        // Back again, they get their share and no more.
        pool.ready.fill(1.0);
        counts(&mut balancer, &pool, 1);
        let counts_now = counts(&mut balancer, &pool, 80_000);
        assert_shares(
            &counts_now,
            &[4.0, 3.0, 2.0, 1.0, 2.0, 2.0],
            &format!("{method:?} after"),
        );
        pool.ready.fill(0.0);
        assert_eq!(balancer.pick(&pool, None), None);
        pool.ready[5] = 0.01;
        assert_eq!(
            balancer.pick(&pool, None),
            Some(5),
            "{method:?}: better one hardly ready than none"
        );
    }
}

#[test]
fn one_of_a_thousand_that_is_ready_is_found() {
    for method in ALL {
        let mut pool = Pool::idle(1000);
        pool.ready.fill(0.0);
        pool.ready[617] = 1.0;
        let mut balancer = balancer(method, &[1; 1000]);
        for _ in 0..100 {
            assert_eq!(balancer.pick(&pool, None), Some(617), "{method:?}");
        }
    }
}

#[test]
fn one_that_is_half_ready_gets_half_of_its_share() {
    for method in [Method::RoundRobin, Method::TwoChoices] {
        let mut pool = Pool::idle(4);
        pool.ready[1] = 0.5;
        let counts = counts(&mut balancer(method, &[1; 4]), &pool, 70_000);
        let share = counts[1] / 70_000.0;
        assert!((0.13..=0.155).contains(&share), "{method:?}: {counts:?}");
    }
    // By load: as many exchanges at a time as half the weight would have.
    let mut pool = Pool::idle(2);
    pool.ready[1] = 0.5;
    let mut least = balancer(Method::LeastConnections, &[1, 1]);
    for _ in 0..300 {
        let index = least.pick(&pool, None).unwrap();
        pool.load[index] += 1;
        least.load_changed(index, &pool);
    }
    assert_eq!(pool.load, [200, 100]);
}

/// Exchanges come and go at random; each lasts as long as its endpoint takes for one.
fn run(method: Method, weights: &[u32], lasts: &[usize], steps: usize) -> Vec<(u32, f64)> {
    let mut pool = Pool::idle(weights.len());
    let mut balancer = balancer(method, weights);
    let mut ends = vec![Vec::new(); steps + lasts.iter().max().unwrap() + 1];
    let (mut most, mut picked) = (vec![0; weights.len()], vec![0.0; weights.len()]);
    for step in 0..steps {
        for index in std::mem::take(&mut ends[step]) {
            pool.load[index] -= 1;
            balancer.load_changed(index, &pool);
        }
        let index = balancer.pick(&pool, None).unwrap();
        pool.load[index] += 1;
        balancer.load_changed(index, &pool);
        ends[step + lasts[index]].push(index);
        most[index] = most[index].max(pool.load[index]);
        picked[index] += 1.0;
    }
    most.into_iter().zip(picked).collect()
}

#[test]
fn a_slow_endpoint_gets_less_from_those_who_count() {
    // One of four takes ten times as long.
    let lasts = [40, 40, 400, 40];
    let slow = |method| run(method, &[1; 4], &lasts, 40_000)[2];
    let (most, picked) = slow(Method::RoundRobin);
    assert!(most >= 100 && (picked - 10_000.0).abs() < 2.0, "{most} {picked}");
    for method in [Method::LeastConnections, Method::TwoChoices] {
        let (most, picked) = slow(method);
        assert!(
            most <= 30 && picked < 5_000.0,
            "{method:?}: {most} at a time, {picked}"
        );
    }
}

#[test]
fn least_connections_has_nobody_with_more_than_one_above_its_share() {
    let weights = [3, 1, 2, 2];
    let mut pool = Pool::idle(4);
    let mut least = balancer(Method::LeastConnections, &weights);
    for total in 1..=800_u32 {
        let index = least.pick(&pool, None).unwrap();
        pool.load[index] += 1;
        least.load_changed(index, &pool);
        for (load, weight) in pool.load.iter().zip(weights) {
            assert!(f64::from(*load) <= f64::from(total * weight) / 8.0 + 1.0 + f64::from(weight));
        }
    }
    assert_eq!(pool.load, [300, 100, 200, 200]);
    // Who has finished is next.
    pool.load[1] = 0;
    least.load_changed(1, &pool);
    assert_eq!(least.pick(&pool, None), Some(1));
}

#[test]
fn workers_that_take_turns_do_not_begin_at_the_same_endpoint() {
    for method in [Method::RoundRobin, Method::LeastConnections] {
        let pool = Pool::idle(100);
        let begins: std::collections::BTreeSet<_> = (0..50)
            .map(|worker| {
                let balancer = Balancer::new(method, vec![1; 100], Rng::with_seed(worker));
                let mut balancer = balancer.begin_anywhere();
                let first = balancer.pick(&pool, None).unwrap();
                assert_eq!(balancer.pick(&pool, None), Some((first + 1) % 100), "{method}");
                first
            })
            .collect();
        assert!(begins.len() > 25, "{method}: {begins:?}");
    }
}

#[test]
fn two_choices_of_many_workers_stay_close_together() {
    // Eight workers that know nothing of one another, a thousand endpoints, ten exchanges for each.
    let endpoints = 1000;
    let mut total = vec![0_u32; endpoints];
    for worker in 0..8 {
        let mut pool = Pool::idle(endpoints);
        let mut balancer = Balancer::new(Method::TwoChoices, vec![1; endpoints], Rng::with_seed(worker));
        for _ in 0..endpoints * 10 / 8 {
            let index = balancer.pick(&pool, None).unwrap();
            pool.load[index] += 1;
            balancer.load_changed(index, &pool);
        }
        for (sum, load) in total.iter_mut().zip(&pool.load) {
            *sum += load;
        }
    }
    // Drawn at random alone the fullest would have some 22.
    assert!(total.iter().max() <= Some(&19), "{:?}", total.iter().max());
}
