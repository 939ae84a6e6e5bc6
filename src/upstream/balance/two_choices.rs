//! The better of two endpoints drawn by weight.
//!
//! Drawn from a table as Walker's alias method makes it: one number says which of the endpoints, and
//! whether it or the one it shares its place with.

use fastrand::Rng;

use super::{Candidates, admits, draw_from_all, relative};

/// How many are drawn to find two that are ready. Where few are, all are looked at.
const DRAWS_MAX: u32 = 8;

/// A table to draw from.
pub struct TwoChoices {
    places: Vec<Place>,
}

/// One of as many equal parts as there are endpoints.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// How much of it is the endpoint's own.
    own: f32,
    /// Whose the rest is.
    other: usize,
}

impl TwoChoices {
    /// Draws endpoints as often as these weights say; those with the weight 0 never.
    pub fn new(weights: &[u32]) -> Self {
        let sum: f64 = weights.iter().copied().map(f64::from).sum();
        let mut shares: Vec<f64> = weights
            .iter()
            .map(|weight| f64::from(*weight) * weights.len() as f64 / sum)
            .collect();
        let mut places: Vec<_> = (0..weights.len())
            .map(|index| Place {
                own: 1.0,
                other: index,
            })
            .collect();
        let (mut small, mut large): (Vec<_>, Vec<_>) =
            (0..weights.len()).partition(|index| shares[*index] < 1.0);
        while let (Some(less), Some(more)) = (small.pop(), large.last().copied()) {
            #[expect(clippy::cast_possible_truncation, reason = "a share is not that exact")]
            let own = shares[less] as f32;
            places[less] = Place { own, other: more };
            shares[more] -= 1.0 - shares[less];
            if shares[more] < 1.0 {
                large.pop();
                small.push(more);
            }
        }
        // What rounding leaves over is a whole place, unless it is nobody's.
        for index in small {
            if weights[index] == 0 {
                let heaviest = (0..weights.len()).max_by_key(|index| weights[*index]);
                places[index] = Place {
                    own: 0.0,
                    other: heaviest.unwrap_or(index),
                };
            }
        }
        Self { places }
    }

    /// Of two that are ready the one with less load for its weight, the first drawn if it is the
    /// same: while all idle, weights are kept.
    pub(super) fn pick(
        &self,
        weights: &[u32],
        candidates: &impl Candidates,
        random: &mut Rng,
    ) -> Option<usize> {
        let load = |index: usize| {
            relative(
                candidates.load(index),
                weights[index],
                candidates.readiness(index),
            )
        };
        let mut first = None;
        for _ in 0..DRAWS_MAX {
            let mut index = self.draw(random)?;
            if first == Some(index) {
                // Any other one will do: it is taken only if it has less to do.
                index = (index + 1 + random.usize(..weights.len() - 1)) % weights.len();
            }
            if weights[index] == 0 || !admits(candidates.readiness(index), random) {
                continue;
            }
            match first {
                None => first = Some(index),
                Some(one) if load(index) < load(one) => return Some(index),
                Some(_) => return first,
            }
        }
        first.or_else(|| {
            let one = draw_from_all(weights, candidates, random)?;
            let other = draw_from_all(weights, candidates, random)?;
            Some(if load(other) < load(one) { other } else { one })
        })
    }

    /// An endpoint by weight.
    fn draw(&self, random: &mut Rng) -> Option<usize> {
        if self.places.is_empty() {
            return None;
        }
        let index = random.usize(..self.places.len());
        let Place { own, other } = self.places[index];
        Some(if own >= 1.0 || random.f32() < own {
            index
        } else {
            other
        })
    }
}
