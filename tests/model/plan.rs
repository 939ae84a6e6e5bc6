//! What the two ends of a run shall do, made of its seed.

use fastrand::Rng;

use super::carriers::SUITES;

/// Most bytes an end writes at once: more than any buffer between the two.
const PIECE_MAX: usize = 200_000;

/// Bytes an end writes in all, about: half of the runs move more than a socket holds.
const TOTAL_MAX: usize = 400_000;

#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) left: Half,
    pub(crate) right: Half,
    /// Of [`SUITES`](super::carriers::SUITES), one for each connection.
    pub(crate) suites: [usize; 2],
}

/// One end's part.
#[derive(Clone, Debug)]
pub(crate) struct Half {
    /// What the bytes it writes are made of.
    pub(crate) seed: u64,
    pub(crate) writes: Vec<Act>,
    /// How it ends what it writes.
    pub(crate) goodbye: Goodbye,
    /// Sizes of the buffers it reads into, over and over.
    pub(crate) reads: Vec<Act>,
}

/// A step of a writer or of a reader.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Act {
    /// So many bytes, from or to memory.
    Copy(usize),
    /// So many bytes, through a pipe where the carrier allows it.
    Splice(usize),
    /// So many bytes of a file, where the carrier allows it.
    File(usize),
    /// Everything written shall be on its way.
    Flush,
    /// The keys shall be renewed, where the carrier can.
    Renew,
    /// The others go first.
    Turn,
    /// Milliseconds.
    Stall(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goodbye {
    /// close_notify where there is TLS, FIN.
    Finish,
    /// A reset.
    Abort,
}

impl Plan {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let mut left = Half::new(&mut random);
        let right = Half::new(&mut random);
        if random.u8(..8) == 0 {
            left.goodbye = Goodbye::Abort;
        }
        let suites = [(); 2].map(|()| random.usize(..SUITES.len()));
        Self { left, right, suites }
    }

    /// Both ends say goodbye in order.
    pub(crate) fn is_orderly(&self) -> bool {
        [&self.left, &self.right]
            .into_iter()
            .all(|half| half.goodbye == Goodbye::Finish)
    }
}

impl Half {
    fn new(random: &mut Rng) -> Self {
        let mut writes = Vec::new();
        let mut left = random.usize(..TOTAL_MAX) >> random.u8(..12);
        while left > 0 {
            let count = size(random).min(left);
            writes.push(match random.u8(..8) {
                0 | 1 => Act::Splice(count),
                2 => Act::File(count),
                _ => Act::Copy(count),
            });
            left -= count;
            if random.u8(..16) == 0 {
                writes.push(Act::Renew);
            }
            interlude(random, &mut writes);
        }
        let mut reads = Vec::new();
        for _ in 0..random.usize(1..6) {
            let count = size(random);
            reads.push(match random.u8(..4) {
                0 => Act::Splice(count),
                _ => Act::Copy(count),
            });
            interlude(random, &mut reads);
        }
        Self {
            seed: random.u64(..),
            writes,
            goodbye: Goodbye::Finish,
            reads,
        }
    }

    /// Bytes it writes in all.
    pub(crate) fn total(&self) -> u64 {
        self.writes.iter().map(|act| act.bytes() as u64).sum()
    }
}

impl Act {
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::Copy(count) | Self::Splice(count) | Self::File(count) => count,
            _ => 0,
        }
    }
}

/// Of every order of magnitude.
fn size(random: &mut Rng) -> usize {
    1 + (random.usize(..PIECE_MAX) >> random.u8(..17))
}

fn interlude(random: &mut Rng, acts: &mut Vec<Act>) {
    match random.u8(..32) {
        0 => acts.push(Act::Stall(random.u64(1..4))),
        1..4 => acts.push(Act::Turn),
        4..10 => acts.push(Act::Flush),
        _ => {}
    }
}

/// Fills a buffer with what is at `offset` of the endless stream of `seed`.
pub(crate) fn fill(seed: u64, offset: u64, into: &mut [u8]) {
    for (byte, place) in into.iter_mut().zip(offset..) {
        let mixed = (place ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        *byte = (mixed >> 32) as u8;
    }
}
