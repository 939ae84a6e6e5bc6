//! In turn, smoothly: of weights 3 and 1, three turns in four, and not three in a row at once.
//!
//! Each endpoint has the moment of its next turn, in a time of its own that only choices move:
//! turns of a weight of 3 come three times as often. The earliest is chosen. Those of one weight follow
//! each other in one order for ever: they stand in a circle, and only circles are compared, so that a
//! choice among a thousand of equal weight looks at the next of them and at no other. (The well-known way
//! of raising every endpoint's credit by its weight looks at all of them each time.)

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::mem;

/// The time between two turns of an endpoint with the weight 1.
const ROUND: u64 = 1 << 32;

/// Turns of endpoints, by their index.
pub struct RoundRobin {
    /// One for each weight.
    circles: BinaryHeap<Reverse<Circle>>,
    /// Those nobody of whom may be chosen in one choice; empty between choices, kept for its memory.
    passed_over: Vec<Circle>,
}

/// Endpoints of one weight.
#[derive(Debug)]
struct Circle {
    /// In the order of their turns.
    members: Vec<Member>,
    /// Whose turn it is.
    next: usize,
    /// When it is.
    at: u128,
    /// How long until the same member has its next turn.
    every: u64,
    /// How many might not be chosen in one choice; 0 between choices.
    missed: usize,
}

#[derive(Debug)]
struct Member {
    index: usize,
    /// The moment of its turns, since a lap began.
    phase: u64,
}

impl RoundRobin {
    /// Turns for endpoints with these weights; those with the weight 0 have none.
    pub fn new(weights: &[u32]) -> Self {
        let mut by_weight: Vec<_> = weights
            .iter()
            .enumerate()
            .filter(|(_, weight)| **weight > 0)
            .collect();
        by_weight.sort_by_key(|(_, weight)| **weight); // stable: those of one weight stay as written
        let circles = by_weight.chunk_by(|(_, one), (_, other)| one == other);
        Self {
            circles: circles
                .map(|equals| Reverse(Circle::new(equals, weights.len())))
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
        let mut has_missed = false;
        let chosen = loop {
            let Some(mut first) = self.circles.peek_mut() else {
                break None;
            };
            let Reverse(circle) = &mut *first;
            let (index, at) = circle.take_turn();
            if may_choose(index) {
                break Some((index, at));
            }
            has_missed = true;
            circle.missed += 1;
            if circle.missed == circle.members.len() {
                self.passed_over.push(PeekMut::pop(first).0);
            }
        };
        if has_missed {
            self.settle(chosen.map(|(_, at)| at));
        }
        chosen.map(|(index, _)| index)
    }

    /// After a choice in which some lost their turn: no circle lags behind the moment of what was chosen. If
    /// nothing was, nobody has lost anything.
    fn settle(&mut self, chosen: Option<u128>) {
        let mut circles = mem::take(&mut self.circles).into_vec();
        circles.extend(self.passed_over.drain(..).map(Reverse));
        for Reverse(circle) in &mut circles {
            match chosen {
                Some(at) => circle.catch_up(at),
                None => circle.at -= u128::from(circle.every), // all have missed a lap
            }
            circle.missed = 0;
        }
        self.circles = circles.into();
    }
}

impl Circle {
    fn new(equals: &[(usize, &u32)], endpoints: usize) -> Self {
        let every = ROUND / u64::from(*equals[0].1);
        // Spread over the round, in their order: those of one weight take turns as
        // written, and a heavy one does not have all of its turns first.
        let phase = |index: usize| every * (2 * index as u64 + 1) / (2 * endpoints as u64);
        let members = equals.iter().map(|(index, _)| Member {
            index: *index,
            phase: phase(*index),
        });
        let members: Vec<_> = members.collect();
        Self {
            at: u128::from(members[0].phase),
            members,
            next: 0,
            every,
            missed: 0,
        }
    }

    /// Whose turn it is, and when; the one after it is next.
    fn take_turn(&mut self) -> (usize, u128) {
        let (member, at) = (&self.members[self.next], self.at);
        let lap = at - u128::from(member.phase);
        self.next += 1;
        self.at = match self.members.get(self.next) {
            Some(next) => lap + u128::from(next.phase),
            None => {
                self.next = 0;
                lap + u128::from(self.every) + u128::from(self.members[0].phase)
            }
        };
        (member.index, at)
    }

    /// Turns before this moment have passed.
    fn catch_up(&mut self, now: u128) {
        let (late, every) = (now.saturating_sub(self.at), u128::from(self.every));
        self.at += late.div_ceil(every) * every;
    }

    /// What circles are compared by.
    fn turn(&self) -> (u128, usize) {
        (self.at, self.members[self.next].index)
    }
}

impl Ord for Circle {
    fn cmp(&self, other: &Self) -> Ordering {
        self.turn().cmp(&other.turn())
    }
}

impl PartialOrd for Circle {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Circle {
    fn eq(&self, other: &Self) -> bool {
        self.turn() == other.turn()
    }
}

impl Eq for Circle {}

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
    fn those_who_are_left_share_by_weight_what_the_others_lose() {
        // Of ten with the weight 1 nine are away: the tenth has one turn in eleven, not one in two.
        let mut weights = vec![1; 10];
        weights.push(10);
        let mut turns = RoundRobin::new(&weights);
        let few = |index: usize| index == 4 || index == 10;
        let all: Vec<_> = (0..1100).map(|_| turns.pick(few).unwrap()).collect();
        let shares = shares(&all, 11);
        assert_eq!(shares[4] + shares[10], 1100);
        assert!((99..=101).contains(&shares[4]), "{shares:?}");
    }

    #[test]
    fn a_choice_that_finds_nobody_costs_nobody_a_turn() {
        let (mut turns, mut others) = (RoundRobin::new(&[100, 1, 7]), RoundRobin::new(&[100, 1, 7]));
        for _ in 0..50 {
            assert_eq!(turns.pick(|_| false), None);
        }
        assert_eq!(picks(&mut turns, 500), picks(&mut others, 500));
    }

    #[test]
    fn a_choice_asks_about_each_once() {
        for weights in [vec![1; 100], (1..=100).collect()] {
            let mut turns = RoundRobin::new(&weights);
            for only in [Some(57), None, Some(3)] {
                let mut asked = Vec::new();
                let picked = turns.pick(|index| {
                    asked.push(index);
                    Some(index) == only
                });
                assert_eq!(picked, only);
                asked.sort_unstable();
                let count = asked.len();
                asked.dedup();
                assert_eq!(asked.len(), count, "of {asked:?}");
            }
        }
    }

    /// What is written above, without circles: the earliest turn of those that may be chosen.
    fn earliest_turns(weights: &[u32], may_choose: impl Fn(usize) -> bool, count: usize) -> Vec<usize> {
        let mut turns: Vec<_> = (0..weights.len())
            .filter(|index| weights[*index] > 0 && may_choose(*index))
            .map(|index| {
                let every = u128::from(ROUND / u64::from(weights[index]));
                let phase = every * (2 * index as u128 + 1) / (2 * weights.len() as u128);
                (phase, index, every)
            })
            .collect();
        let mut next = || {
            let first = turns
                .iter_mut()
                .min_by_key(|(at, index, _)| (*at, *index))
                .unwrap();
            first.0 += first.2;
            first.1
        };
        (0..count).map(|_| next()).collect()
    }

    #[test]
    fn circles_choose_as_single_turns_do_whoever_is_away() {
        let weights = [3, 1, 3, 0, 7, 1, 3, 256, 1, 9];
        for away in 0..1 << weights.len() {
            let may_choose = |index: usize| away >> index & 1 == 0;
            if !(0..weights.len()).any(|index| weights[index] > 0 && may_choose(index)) {
                continue;
            }
            let mut turns = RoundRobin::new(&weights);
            let picked: Vec<_> = (0..700).map(|_| turns.pick(may_choose).unwrap()).collect();
            assert_eq!(
                picked,
                earliest_turns(&weights, may_choose, 700),
                "without {away:b}"
            );
        }
    }

    #[test]
    fn nobody_is_chosen_of_none() {
        assert_eq!(RoundRobin::new(&[]).pick(|_| true), None);
        assert_eq!(RoundRobin::new(&[0]).pick(|_| true), None);
    }
}
