//! Keys stay where they are, few move, and nobody is overrun.

use super::tests::{Pool, assert_shares};
use super::*;

fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("10.0.0.{number}:80")).collect()
}

fn ring(names: &[String], weights: &[u32]) -> Arc<Ring> {
    Ring::new(names.iter().map(String::as_str).zip(weights.iter().copied())).into()
}

fn hashing(ring: &Arc<Ring>, load_max: Option<f64>, weights: &[u32]) -> Balancer {
    Balancer::hashing(ring.clone(), load_max, weights.to_vec(), Rng::with_seed(3))
}

fn keys(count: u32) -> impl Iterator<Item = u64> {
    (0..count).map(|number| hash(format!("key {number}").as_bytes()))
}

fn homes(balancer: &mut Balancer, pool: &Pool, count: u32) -> Vec<usize> {
    keys(count)
        .map(|key| balancer.pick(pool, Some(key)).unwrap())
        .collect()
}

#[test]
fn keys_spread_by_weight_and_each_stays() {
    let weights = [1, 1, 4, 0, 2];
    let (ring, pool) = (ring(&names(5), &weights), Pool::idle(5));
    let mut balancer = hashing(&ring, None, &weights);
    let all = homes(&mut balancer, &pool, 40_000);
    assert_eq!(all, homes(&mut balancer, &pool, 40_000));
    for (index, weight) in weights.iter().enumerate() {
        let count = all.iter().filter(|home| **home == index).count() as f64;
        let due = 40_000.0 * f64::from(*weight) / 8.0;
        assert!((count - due).abs() <= 0.25 * due, "{index}: {count} of {due}");
    }
}

#[test]
fn where_an_endpoint_stands_in_the_list_does_not_matter() {
    let mut names = names(10);
    let before = hashing(&ring(&names, &[1; 10]), None, &[1; 10]).home_names(&names);
    names.reverse();
    let after = hashing(&ring(&names, &[1; 10]), None, &[1; 10]).home_names(&names);
    assert_eq!(before, after);
}

impl Balancer {
    fn home_names(&mut self, names: &[String]) -> Vec<String> {
        let all = homes(self, &Pool::idle(names.len()), 5_000).into_iter();
        all.map(|index| names[index].clone()).collect()
    }
}

#[test]
fn only_the_keys_of_an_endpoint_that_goes_move_and_they_come_back() {
    let count = 20;
    let (all, weights) = (names(count), vec![1; count]);
    let mut balancer = hashing(&ring(&all, &weights), None, &weights);
    let before = homes(&mut balancer, &Pool::idle(count), 20_000);
    // It cannot be asked.
    let mut pool = Pool::idle(count);
    pool.ready[7] = 0.0;
    let without = homes(&mut balancer, &pool, 20_000);
    let mut heirs = vec![0.0; count];
    for (was, is) in before.iter().zip(&without) {
        assert!(was == is || *was == 7);
        if *was == 7 {
            heirs[*is] += 1.0;
        }
    }
    assert!(
        heirs.iter().all(|heir| *heir < 300.0),
        "they go to many: {heirs:?}"
    );
    // It is taken out of the configuration.
    let mut fewer = all.clone();
    fewer.remove(7);
    let weights = vec![1; count - 1];
    let left = hashing(&ring(&fewer, &weights), None, &weights).home_names_of(&fewer, 20_000);
    for ((was, is), removed) in before.iter().zip(&without).zip(&left) {
        assert!(all[*is] == *removed && (*was == 7 || was == is));
    }
    // Half ready, half of its keys are at home; and those stay as it becomes readier.
    pool.ready[7] = 0.5;
    let half = homes(&mut balancer, &pool, 20_000);
    pool.ready[7] = 0.75;
    let more = homes(&mut balancer, &pool, 20_000);
    let at_home = |homes: &[usize]| homes.iter().filter(|home| **home == 7).count() as f64;
    let whole = at_home(&before);
    assert!(
        (at_home(&half) / whole - 0.5).abs() < 0.07,
        "{} of {whole}",
        at_home(&half)
    );
    assert!(
        half.iter()
            .zip(&more)
            .all(|(half, more)| *half != 7 || *more == 7)
    );
    assert_eq!(homes(&mut balancer, &Pool::idle(count), 20_000), before);
}

impl Balancer {
    fn home_names_of(&mut self, names: &[String], count: u32) -> Vec<String> {
        let all = homes(self, &Pool::idle(names.len()), count).into_iter();
        all.map(|index| names[index].clone()).collect()
    }
}

#[test]
fn one_hot_key_does_not_overrun_its_endpoint() {
    let weights = [1, 2, 1, 1];
    let mut pool = Pool::idle(4);
    let mut balancer = hashing(&ring(&names(4), &weights), Some(1.25), &weights);
    let key = hash(b"hot");
    for total in 1..=2_000_u32 {
        let index = balancer.pick(&pool, Some(key)).unwrap();
        pool.load[index] += 1;
        balancer.load_changed(index, &pool);
        for (load, weight) in pool.load.iter().zip(weights) {
            let most = (1.25 * f64::from(total * weight) / 5.0).ceil().max(16.0);
            assert!(f64::from(*load) <= most, "{load} of {total}");
        }
    }
    // Few at a time stay together.
    let mut few = hashing(&ring(&names(4), &weights), Some(1.25), &weights);
    let mut pool = Pool::idle(4);
    let home = few.pick(&pool, Some(key)).unwrap();
    for _ in 0..16 {
        assert_eq!(few.pick(&pool, Some(key)), Some(home));
        pool.load[home] += 1;
        few.load_changed(home, &pool);
    }
    assert_ne!(few.pick(&pool, Some(key)), Some(home));
}

#[test]
fn who_has_no_key_is_spread_by_weight() {
    let weights = [1, 2, 3];
    let mut balancer = hashing(&ring(&names(3), &weights), Some(1.25), &weights);
    let pool = Pool::idle(3);
    let mut counts = [0.0; 3];
    for _ in 0..60_000 {
        counts[balancer.pick(&pool, None).unwrap()] += 1.0;
    }
    assert_shares(&counts, &[1.0, 2.0, 3.0], "without keys");
}

#[test]
fn a_ring_is_bounded_whatever_the_weights() {
    let weights: Vec<u32> = (0..1000).map(|index| 1 + index * 65).collect();
    let pool = Pool::idle(1000);
    let mut balancer = hashing(&ring(&names(1000), &weights), None, &weights);
    assert!(homes(&mut balancer, &pool, 1000).iter().any(|home| *home > 500));
    let mut none = pool;
    none.ready.fill(0.0);
    assert_eq!(balancer.pick(&none, Some(1)), None);
    none.ready[3] = 1.0;
    assert_eq!(balancer.pick(&none, Some(1)), Some(3));
}
