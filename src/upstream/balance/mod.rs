//! Which endpoint is asked next: choices among weights and what is known right now, without a clock
//! and without sockets.
//!
//! Endpoints are named by their index. No choice looks at all of them unless most cannot be chosen.

mod hashed;
mod least_connections;
mod ring;
mod round_robin;
mod two_choices;

use std::fmt;
use std::sync::Arc;

use fastrand::Rng;

pub use self::hashed::Hashed;
pub use self::least_connections::LeastConnections;
pub use self::ring::{Ring, hash};
pub use self::round_robin::RoundRobin;
pub use self::two_choices::TwoChoices;

/// What is known of the endpoints at the moment of a choice.
pub trait Candidates {
    /// How ready an endpoint is for one exchange more: 0 not at all, 1 as its weight says, between
    /// them for that part of its weight, as one that has just come back.
    fn readiness(&self, index: usize) -> f64;

    /// How many exchanges are under way with it.
    fn load(&self, index: usize) -> u32;
}

/// How endpoints are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// In turn, smoothly by weight.
    RoundRobin,
    /// The one with the fewest exchanges for its weight; of equal ones in turn.
    LeastConnections,
    /// Two drawn by weight, of which the one with fewer exchanges for its weight is taken. Nearly
    /// as even as the least of all, and unlike it no herd: several who choose side by side, each
    /// knowing its own exchanges only, do not all choose the same.
    TwoChoices,
    /// The one that a key of the exchange belongs to, by consistent hashing.
    Hash,
}

impl fmt::Display for Method {
    /// As the file writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RoundRobin => "round_robin",
            Self::LeastConnections => "least_connections",
            Self::TwoChoices => "two_choices",
            Self::Hash => "hash",
        })
    }
}

/// Chooses among some endpoints, by one method.
pub struct Balancer {
    weights: Vec<u32>,
    way: Way,
    random: Rng,
}

/// How it is done.
enum Way {
    Nobody,
    Only(usize),
    RoundRobin(RoundRobin),
    LeastConnections(LeastConnections),
    TwoChoices(TwoChoices),
    Hashed(Hashed),
}

impl Balancer {
    /// One for endpoints with these weights; those with the weight 0 are never chosen. By
    /// [`Method::Hash`] it chooses as [`Self::hashing`] does for exchanges without a key.
    pub fn new(method: Method, weights: Vec<u32>, random: Rng) -> Self {
        Self::of(weights, random, |weights| match method {
            Method::RoundRobin => Way::RoundRobin(RoundRobin::new(weights)),
            Method::LeastConnections => Way::LeastConnections(LeastConnections::new(weights)),
            Method::TwoChoices | Method::Hash => Way::TwoChoices(TwoChoices::new(weights)),
        })
    }

    /// One that chooses by key, on a ring made with these weights. No endpoint gets more than
    /// `load_max` times its share of what is under way, but for a few exchanges.
    pub fn hashing(ring: Arc<Ring>, load_max: Option<f64>, weights: Vec<u32>, random: Rng) -> Self {
        Self::of(weights, random, |weights| {
            Way::Hashed(Hashed::new(ring, load_max, weights))
        })
    }

    fn of(weights: Vec<u32>, random: Rng, way: impl FnOnce(&[u32]) -> Way) -> Self {
        let mut weighty = weights.iter().enumerate().filter(|(_, weight)| **weight > 0);
        let way = match (weighty.next(), weighty.next()) {
            (None, _) => Way::Nobody,
            (Some((only, _)), None) => Way::Only(only),
            (Some(_), Some(_)) => way(&weights),
        };
        Self { weights, way, random }
    }

    /// Begins at any endpoint, instead of the first. Workers that take turns and begin at the same one
    /// go on side by side, and the endpoints they pass get all of what comes meanwhile: with a
    /// thousand endpoints it takes a million requests until chance has spread them.
    #[must_use]
    pub fn begin_anywhere(mut self) -> Self {
        let turns = self.random.usize(..self.weights.len().max(1));
        match &mut self.way {
            Way::RoundRobin(way) => way.skip(turns),
            Way::LeastConnections(way) => way.skip(turns),
            Way::Nobody | Way::Only(_) | Way::TwoChoices(_) | Way::Hashed(_) => {}
        }
        self
    }

    /// The endpoint for one exchange more; `None` if none is ready for it.
    /// What it has to do with is told by `key`, where endpoints are chosen by that.
    pub fn pick(&mut self, candidates: &impl Candidates, key: Option<u64>) -> Option<usize> {
        let random = &mut self.random;
        let chosen = match &mut self.way {
            Way::Nobody => return None,
            Way::Only(index) => return Some(*index).filter(|index| candidates.readiness(*index) > 0.0),
            Way::RoundRobin(turns) => turns.pick(|index| admits(candidates.readiness(index), random)),
            Way::LeastConnections(least) => least.pick(candidates, random),
            Way::TwoChoices(drawn) => drawn.pick(&self.weights, candidates, random),
            Way::Hashed(hashed) => hashed.pick(key, &self.weights, candidates, random),
        };
        chosen.or_else(|| draw_from_all(&self.weights, candidates, random))
    }

    /// Whether [`Self::load_changed`] does anything.
    pub fn minds_loads(&self) -> bool {
        matches!(self.way, Way::LeastConnections(_) | Way::Hashed(_))
    }

    /// To be told when an exchange with an endpoint has begun or ended.
    pub fn load_changed(&mut self, index: usize, candidates: &impl Candidates) {
        match &mut self.way {
            Way::LeastConnections(least) => least.look_at(index, candidates),
            Way::Hashed(hashed) => hashed.look_at(index, candidates),
            Way::Nobody | Way::Only(_) | Way::RoundRobin(_) | Way::TwoChoices(_) => {}
        }
    }
}

/// Whether one that is as ready as this takes part in a choice: if it is half ready, in every
/// second one.
fn admits(readiness: f64, random: &mut Rng) -> bool {
    readiness >= 1.0 || random.f64() < readiness
}

/// Load for the weight, of one that is as ready as this.
fn relative(load: u32, weight: u32, readiness: f64) -> f64 {
    f64::from(load) / (f64::from(weight) * readiness)
}

/// One drawn by weight from all that are ready: looks at each, so it is for when few are.
fn draw_from_all(weights: &[u32], candidates: &impl Candidates, random: &mut Rng) -> Option<usize> {
    let (mut sum, mut drawn) = (0.0, None);
    for (index, weight) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0) {
        let share = f64::from(*weight) * candidates.readiness(index);
        if share > 0.0 {
            sum += share;
            if random.f64() * sum < share {
                drawn = Some(index);
            }
        }
    }
    drawn
}

#[cfg(test)]
mod hash_tests;
#[cfg(test)]
mod tests;
