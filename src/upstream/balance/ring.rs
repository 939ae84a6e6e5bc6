//! Consistent hashing: each endpoint has many points on a ring, by its name alone, and a key belongs to
//! the first point behind it. When an endpoint goes, its keys go to many others, and no other key moves.

use twox_hash::XxHash64;

/// Points of an endpoint with the least weight: shares are then some 6 % from what they should be.
const POINTS: u32 = 256;

/// Points on a ring: a thousand endpoints of one weight have a quarter of it.
const POINTS_MAX: u32 = 1 << 20;

/// Points of endpoints, by their index.
#[derive(Debug)]
pub struct Ring {
    points: Vec<(u64, u32)>,
}

/// What a key is on the ring: the same in every worker, on every machine.
pub fn hash(key: &[u8]) -> u64 {
    XxHash64::oneshot(0, key)
}

impl Ring {
    /// One for endpoints with these names and weights; those with the weight 0 have no point.
    pub fn new<'a>(endpoints: impl Iterator<Item = (&'a str, u32)>) -> Self {
        let endpoints: Vec<_> = endpoints.collect();
        let weights = || {
            endpoints
                .iter()
                .map(|(_, weight)| *weight)
                .filter(|weight| *weight > 0)
        };
        let unit = weights().reduce(common_divisor).unwrap_or(1);
        let sum: f64 = weights().map(|weight| f64::from(weight / unit)).sum();
        let each = f64::from(POINTS).min(f64::from(POINTS_MAX) / sum);
        let mut points = Vec::new();
        for (index, (name, weight)) in (0..).zip(&endpoints).filter(|(_, (_, weight))| *weight > 0) {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "bounded above"
            )]
            let count = (f64::from(weight / unit) * each).round().max(1.0) as u64;
            let points_of = (0..count).map(|number| (XxHash64::oneshot(number + 1, name.as_bytes()), index));
            points.extend(points_of);
        }
        points.sort_unstable();
        Self { points }
    }

    /// The endpoints that a key comes to, one after the other, some of them more than once.
    pub fn walk(&self, key: u64) -> impl Iterator<Item = usize> {
        let (before, behind) = self
            .points
            .split_at(self.points.partition_point(|(point, _)| *point < key));
        behind.iter().chain(before).map(|(_, index)| *index as usize)
    }
}

fn common_divisor(one: u32, other: u32) -> u32 {
    match other {
        0 => one,
        _ => common_divisor(other, one % other),
    }
}
