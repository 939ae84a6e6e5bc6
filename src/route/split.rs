//! Upstreams that share what comes to one route, or to one listener in tcp mode, by weight.

use std::num::NonZeroU64;

/// One upstream, or several of which each request goes to one, drawn by weight.
///
/// Drawn, not in turn: workers know nothing of each other, and turns would bring a page's requests, which
/// come in the same order again and again, to the same upstreams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    shares: Vec<Share>,
    /// Of all weights.
    sum: NonZeroU64,
}

/// What an upstream gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Its index in the generation.
    pub upstream: usize,
    /// Its part of the sum of all weights; 0 is nothing.
    pub weight: u32,
}

impl Split {
    /// All for one.
    pub fn one(upstream: usize) -> Self {
        Self {
            shares: vec![Share { upstream, weight: 1 }],
            sum: NonZeroU64::MIN,
        }
    }

    /// So much for each; `None` if all weights are 0.
    pub fn new(shares: Vec<Share>) -> Option<Self> {
        let sum = shares.iter().map(|share| u64::from(share.weight)).sum();
        NonZeroU64::new(sum).map(|sum| Self { shares, sum })
    }

    /// In the order of the file.
    pub fn shares(&self) -> &[Share] {
        &self.shares
    }

    /// How much of all requests a share is, in percent.
    pub fn percent(&self, share: &Share) -> f64 {
        f64::from(share.weight) * 100.0 / self.sum.get() as f64
    }

    /// The only upstream, where nothing has to be drawn.
    pub fn only(&self) -> Option<usize> {
        match self.shares.as_slice() {
            [share] => Some(share.upstream),
            _ => None,
        }
    }

    /// The upstreams that get something.
    pub fn upstreams(&self) -> impl Iterator<Item = usize> {
        let with_weight = self.shares.iter().filter(|share| share.weight > 0);
        with_weight.map(|share| share.upstream)
    }

    /// The upstream of a draw, any number of which are equally likely.
    pub fn pick(&self, draw: u64) -> usize {
        let mut left = draw % self.sum;
        for share in &self.shares {
            let weight = u64::from(share.weight);
            if left < weight {
                return share.upstream;
            }
            left -= weight;
        }
        self.shares[0].upstream // cannot be: what is left is less than the sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(weights: &[u32]) -> Option<Split> {
        let shares = weights.iter().enumerate();
        Split::new(
            shares
                .map(|(upstream, &weight)| Share { upstream, weight })
                .collect(),
        )
    }

    #[test]
    fn each_gets_its_share_of_many_draws() {
        let mut random = fastrand::Rng::with_seed(1);
        for weights in [
            &[9, 1][..],
            &[1, 1],
            &[0, 1, 3],
            &[5, 0, 0],
            &[65_535, 1],
            &[7; 30],
        ] {
            let split = split(weights).unwrap();
            let mut counts = vec![0_u32; weights.len()];
            const DRAWS: u32 = 100_000;
            for _ in 0..DRAWS {
                counts[split.pick(random.u64(..))] += 1;
            }
            let sum: u32 = weights.iter().sum();
            for (count, weight) in counts.iter().zip(weights) {
                let share = f64::from(*weight) / f64::from(sum);
                let due = share * f64::from(DRAWS);
                // Five standard deviations.
                let by = 5.0 * (due * (1.0 - share)).sqrt();
                assert!((f64::from(*count) - due).abs() <= by, "{weights:?}: {counts:?}");
            }
        }
    }

    #[test]
    fn every_draw_has_an_upstream_and_weight_0_has_none() {
        let split = split(&[2, 0, 1]).unwrap();
        let picked: Vec<_> = (0..7).map(|draw| split.pick(draw)).collect();
        assert_eq!(picked, [0, 0, 2, 0, 0, 2, 0]);
        assert_eq!(split.upstreams().collect::<Vec<_>>(), [0, 2]);
        assert_eq!(split.only(), None);
    }

    #[test]
    fn one_gets_all_and_no_weight_is_no_split() {
        let one = Split::one(7);
        assert_eq!((one.only(), one.pick(u64::MAX)), (Some(7), 7));
        assert_eq!((split(&[]), split(&[0, 0])), (None, None));
    }
}
