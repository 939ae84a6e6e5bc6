//! The endpoint with the fewest exchanges for its weight.
//!
//! A tournament tree: endpoints are its leaves, each node knows the better one of its two, so that a
//! change of one load is told in a few comparisons, and the best of all stands on top.

use fastrand::Rng;

use super::{Candidates, admits, relative};

/// The time between two turns of an endpoint with the weight 1.
const ROUND: u128 = 1 << 32;

/// No endpoint: a leaf that fills the tree up.
const NOBODY: usize = usize::MAX;

/// Loads of endpoints as they were when last looked at.
pub struct LeastConnections {
    keys: Vec<Key>,
    /// The node `n` has the children `2n` and `2n + 1`; the first leaf stands in the middle.
    best: Vec<usize>,
    /// The moment of the turn taken last.
    now: u128,
    /// Those that were not wholly ready when last looked at. Nobody tells when they are again, so
    /// that each choice looks at one of them.
    unready: Vec<usize>,
    next_unready: usize,
}

/// What endpoints are compared by.
#[derive(Clone, Copy, Debug)]
struct Key {
    /// Exchanges for the weight; infinite while it cannot be chosen.
    load: f64,
    /// Of equal loads, whose turn it is: as in round robin, so that weights count while all idle.
    turn: u128,
    every: u128,
    weight: u32,
    is_unready: bool,
}

impl LeastConnections {
    /// For endpoints with these weights, all of them idle; those with the weight 0 are never chosen.
    pub fn new(weights: &[u32]) -> Self {
        let keys = weights.iter().enumerate().map(|(index, weight)| {
            let every = ROUND / u128::from((*weight).max(1));
            Key {
                load: if *weight > 0 { 0.0 } else { f64::INFINITY },
                turn: every * (2 * index as u128 + 1) / (2 * weights.len() as u128),
                every,
                weight: *weight,
                is_unready: false,
            }
        });
        let keys: Vec<_> = keys.collect();
        let leaves = keys.len().next_power_of_two();
        let mut best = vec![NOBODY; 2 * leaves];
        for index in 0..keys.len() {
            best[leaves + index] = index;
        }
        let mut least = Self {
            keys,
            best,
            now: 0,
            unready: Vec::new(),
            next_unready: 0,
        };
        for node in (1..leaves).rev() {
            least.decide(node);
        }
        least
    }

    /// Lets some turns pass, as if all had been chosen; to be called while all are idle.
    pub fn skip(&mut self, turns: usize) {
        for _ in 0..turns {
            let index = self.best[1];
            if index != NOBODY {
                self.take_turn(index);
                self.changed(index);
            }
        }
    }

    /// The one with the least load, of those that are ready. Those found not to be are set aside.
    pub fn pick(&mut self, candidates: &impl Candidates, random: &mut Rng) -> Option<usize> {
        self.look_at_one_unready(candidates);
        let mut passed_over = Vec::new(); // takes memory once there is something in it
        let picked = loop {
            let index = self.best[1];
            let readiness = match self.keys.get(index) {
                Some(key) if key.load.is_finite() => candidates.readiness(index),
                _ => break None,
            };
            if readiness <= 0.0 {
                self.look_at(index, candidates);
                continue;
            }
            self.take_turn(index);
            // With nothing to do it has the least load of all, however little of it is ready.
            if admits(readiness, random) {
                self.changed(index);
                break Some(index);
            }
            self.keys[index].load = f64::INFINITY;
            self.changed(index);
            passed_over.push(index);
        };
        for index in passed_over {
            self.look_at(index, candidates);
        }
        picked
    }

    fn take_turn(&mut self, index: usize) {
        let key = &mut self.keys[index];
        // One that was busy for long has missed turns; it does not get them all at once.
        let turn = key.turn.max(self.now);
        key.turn = turn + key.every;
        self.now = turn;
    }

    /// Takes load and readiness of an endpoint into account.
    pub fn look_at(&mut self, index: usize, candidates: &impl Candidates) {
        let key = &mut self.keys[index];
        if key.weight == 0 {
            return;
        }
        let readiness = candidates.readiness(index);
        key.load = match readiness > 0.0 {
            true => relative(candidates.load(index), key.weight, readiness),
            false => f64::INFINITY,
        };
        if readiness < 1.0 && !key.is_unready {
            key.is_unready = true;
            self.unready.push(index);
        }
        self.changed(index);
    }

    fn look_at_one_unready(&mut self, candidates: &impl Candidates) {
        if self.unready.is_empty() {
            return;
        }
        let at = self.next_unready % self.unready.len();
        let index = self.unready[at];
        self.look_at(index, candidates);
        if candidates.readiness(index) >= 1.0 {
            self.keys[index].is_unready = false;
            self.unready.swap_remove(at);
        }
        self.next_unready = at + 1;
    }

    /// Tells the nodes above an endpoint.
    fn changed(&mut self, index: usize) {
        let mut node = (self.best.len() / 2 + index) / 2;
        while node > 0 {
            self.decide(node);
            node /= 2;
        }
    }

    fn decide(&mut self, node: usize) {
        let (left, right) = (self.best[2 * node], self.best[2 * node + 1]);
        self.best[node] = match (self.keys.get(left), self.keys.get(right)) {
            (Some(one), Some(other)) if other.is_before(one) => right,
            (None, _) => right,
            _ => left,
        };
    }
}

impl Key {
    fn is_before(&self, other: &Self) -> bool {
        let by_load = self.load.total_cmp(&other.load);
        by_load.then_with(|| self.turn.cmp(&other.turn)).is_lt()
    }
}
