//! In turn, smoothly: of weights 3 and 1, three turns in four, and not three in a row at once.
//!
//! Each endpoint has the moment of its next turn, in a time of its own that only choices move:
//! turns of a weight of 3 come three times as often. The earliest is chosen, from a heap, so that
//! a choice among a thousand costs a few comparisons. (The well-known way of raising every
//! endpoint's credit by its weight looks at all of them each time.)

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

/// The time between two turns of an endpoint with the weight 1.
const ROUND: u128 = 1 << 32;

/// Turns of endpoints, by their index.
pub struct RoundRobin {
    turns: BinaryHeap<Reverse<Turn>>,
    /// Those passed over in one choice; empty between choices, kept for its memory.
    passed_over: Vec<Turn>,
}

/// When an endpoint has its next turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    at: u128,
    index: usize,
    every: u128,
}

impl RoundRobin {
    /// Turns for endpoints with these weights; those with the weight 0 have none.
    pub fn new(weights: &[u32]) -> Self {
        let turns = weights.iter().enumerate().filter(|(_, weight)| **weight > 0);
        Self {
            turns: turns
                .map(|(index, weight)| {
                    let every = ROUND / u128::from(*weight);
                    // Spread over the round, in their order: those of one weight take turns as
                    // written, and a heavy one does not have all of its turns first.
                    let at = every * (2 * index as u128 + 1) / (2 * weights.len() as u128);
                    Reverse(Turn { at, index, every })
                })
                .collect(),
            passed_over: Vec::new(),
        }
    }

    /// Lets some turns pass, as if all had been chosen.
    pub fn skip(&mut self, turns: usize) {
        for _ in 0..turns {
            self.pick(|_| true);
        }
    }

    /// The one whose turn it is, of those that may be chosen. Those that may not lose this turn:
    /// once they may again they get their share, not what they missed.
    pub fn pick(&mut self, mut may_choose: impl FnMut(usize) -> bool) -> Option<usize> {
        let chosen = loop {
            let Some(mut first) = self.turns.peek_mut() else {
                break None;
            };
            let Reverse(turn) = &mut *first;
            if may_choose(turn.index) {
                let chosen = *turn;
                turn.at += turn.every;
                break Some(chosen);
            }
            self.passed_over.push(PeekMut::pop(first).0);
        };
        for mut turn in self.passed_over.drain(..) {
            if let Some(chosen) = chosen {
                turn.at = chosen.at + turn.every;
            }
            self.turns.push(Reverse(turn));
        }
        chosen.map(|turn| turn.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picks(turns: &mut RoundRobin, count: usize) -> Vec<usize> {
        (0..count).map(|_| turns.pick(|_| true).unwrap()).collect()
    }

    fn shares(picks: &[usize], endpoints: usize) -> Vec<usize> {
        let count = |index| picks.iter().filter(|picked| **picked == index).count();
        (0..endpoints).map(count).collect()
    }

    #[test]
    fn equal_weights_take_turns_in_their_order() {
        let mut turns = RoundRobin::new(&[1, 1, 1]);
        assert_eq!(picks(&mut turns, 7), [0, 1, 2, 0, 1, 2, 0]);
        let mut turns = RoundRobin::new(&[7, 7]);
        assert_eq!(picks(&mut turns, 4), [0, 1, 0, 1]);
    }

    #[test]
    fn weights_are_kept_to_the_turn_and_never_in_one_lump() {
        let weights = [5, 1, 1, 0, 13];
        let (sum, mut turns) = (20, RoundRobin::new(&weights));
        let all = picks(&mut turns, 50 * sum);
        assert_eq!(shares(&all, 5), [250, 50, 50, 0, 650]);
        // In any stretch nobody is more than two turns from its share.
        for (index, weight) in weights.iter().enumerate() {
            for length in 1..=2 * sum {
                for stretch in all[..10 * sum].windows(length) {
                    let had = shares(stretch, 5)[index] as f64;
                    let due = length as f64 * f64::from(*weight) / sum as f64;
                    assert!(
                        (had - due).abs() <= 2.0,
                        "{index} had {had} of {length}, due {due}"
                    );
                }
            }
        }
    }

    #[test]
    fn who_cannot_be_chosen_is_passed_over_and_gets_no_more_than_its_share_later() {
        let mut turns = RoundRobin::new(&[1000, 1, 1]);
        for _ in 0..10 {
            let picked = turns.pick(|index| index != 0);
            assert!(picked.is_some_and(|index| index != 0));
        }
        assert_eq!(turns.pick(|_| false), None);
        let mut turns = RoundRobin::new(&[1, 1, 1, 1]);
        for _ in 0..999 {
            assert_ne!(turns.pick(|index| index != 2), Some(2));
        }
        assert_eq!(shares(&picks(&mut turns, 40), 4), [10, 10, 10, 10]);
    }

    #[test]
    fn nobody_is_chosen_of_none() {
        assert_eq!(RoundRobin::new(&[]).pick(|_| true), None);
        assert_eq!(RoundRobin::new(&[0]).pick(|_| true), None);
    }
}
