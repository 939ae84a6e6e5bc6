//! The endpoint a key belongs to, unless it has far more to do than its share.

use std::sync::Arc;

use fastrand::Rng;

use super::{Candidates, Ring, TwoChoices, relative};

/// How far a key looks for an endpoint with room. With a bound of 125 % at most four endpoints in five
/// are full, so that fewer than one key in a million comes to the end of this.
const STEPS_MAX: usize = 64;

/// So many exchanges with an endpoint are never too many: among few, chance looks like a crowd.
const LOAD_FREE: u32 = 16;

/// Chooses by key.
pub struct Hashed {
    ring: Arc<Ring>,
    /// How many times its share of what is under way an endpoint may have; `None`: any.
    load_max: Option<f64>,
    /// For exchanges that have no key.
    keyless: TwoChoices,
    weights_sum: f64,
    /// As last told.
    loads: Vec<u32>,
    loads_sum: u32,
}

impl Hashed {
    /// On this ring, which was made with these weights.
    pub fn new(ring: Arc<Ring>, load_max: Option<f64>, weights: &[u32]) -> Self {
        Self {
            ring,
            load_max,
            keyless: TwoChoices::new(weights),
            weights_sum: weights.iter().copied().map(f64::from).sum(),
            loads: vec![0; weights.len()],
            loads_sum: 0,
        }
    }

    /// The one the key belongs to; if that is not ready or has too much to do, the next on the ring.
    pub(super) fn pick(
        &self,
        key: Option<u64>,
        weights: &[u32],
        candidates: &impl Candidates,
        random: &mut Rng,
    ) -> Option<usize> {
        let Some(key) = key else {
            return self.keyless.pick(weights, candidates, random);
        };
        let mut least: Option<(f64, usize)> = None;
        for index in self.ring.walk(key).take(STEPS_MAX) {
            let readiness = candidates.readiness(index);
            if !is_home(key, index, readiness) {
                continue;
            }
            let load = candidates.load(index);
            if load < self.bound(weights[index]) {
                return Some(index);
            }
            let load = relative(load, weights[index], 1.0);
            if least.is_none_or(|(least, _)| load < least) {
                least = Some((load, index));
            }
        }
        least.map(|(_, index)| index)
    }

    /// How many exchanges an endpoint of this weight may have before it gets one more.
    fn bound(&self, weight: u32) -> u32 {
        let Some(load_max) = self.load_max else {
            return u32::MAX;
        };
        let share = f64::from(self.loads_sum + 1) * f64::from(weight) / self.weights_sum;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "`as` saturates"
        )]
        let bound = (share * load_max).ceil() as u32;
        bound.max(LOAD_FREE)
    }

    /// Takes the load of an endpoint into account.
    pub fn look_at(&mut self, index: usize, candidates: &impl Candidates) {
        let load = candidates.load(index);
        self.loads_sum = self.loads_sum - self.loads[index] + load;
        self.loads[index] = load;
    }
}

/// Whether a key has come home to an endpoint that is as ready as this: as it becomes readier more of
/// its keys do, and none of those goes away again.
fn is_home(key: u64, index: usize, readiness: f64) -> bool {
    if readiness >= 1.0 || readiness <= 0.0 {
        return readiness > 0.0;
    }
    let mixed = (key ^ index as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    (mixed as f64) < readiness * (1_u64 << 32) as f64
}
