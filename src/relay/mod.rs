//! Moves bytes between two transports, or a stream and one, both ways at once, until both sides have said their last.
//!
//! What one side closes is closed towards the other and nothing more: half-open connections stay
//! as they are. A side that reads slowly is a side that is read from slowly. While nothing comes,
//! no buffer and no pipe is held.

mod copy;
mod direction;
mod splice;
mod stream;
mod wait;

use std::cell::Cell;
use std::io;
use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::future::{Either, select, try_join};

use self::direction::Direction;
pub use self::stream::{StreamReader, StreamWriter, with_stream};
use crate::buffer::Buffer;
use crate::outcome::{Cause, End, Phase, Side};
use crate::runtime::sleep_until;
use crate::time::{Deadline, now};
use crate::transport::Transport;

/// So many long pieces in a row make a flow that is worth splicing.
const BULK_AFTER: u32 = 4;

/// Relays until both sides have closed, one of them fails, or nothing moves for `idle_timeout`.
///
/// Tells how it ended; where bytes were lost on one side, the other is marked to be reset when it
/// is dropped, so that its peer does not take what it got for all there was. How many bytes went
/// each way the transports know.
pub async fn both_ways(downstream: &Transport, upstream: &Transport, idle_timeout: Duration) -> End {
    both_ways_after(Ahead::default(), downstream, upstream, idle_timeout).await
}

/// What was read before the relay began, and goes first.
#[derive(Default)]
pub struct Ahead {
    /// From the client.
    pub downstream: Buffer,
    /// From the endpoint.
    pub upstream: Buffer,
}

/// As [`both_ways`], after what was read ahead.
pub async fn both_ways_after(
    ahead: Ahead,
    downstream: &Transport,
    upstream: &Transport,
    idle_timeout: Duration,
) -> End {
    both_ways_by(BULK_AFTER, ahead, downstream, upstream, idle_timeout).await
}

async fn both_ways_by(
    bulk_after: u32,
    ahead: Ahead,
    downstream: &Transport,
    upstream: &Transport,
    idle_timeout: Duration,
) -> End {
    let watch = Watch::new();
    let up = Direction::new((downstream, upstream), Side::Downstream, &watch, bulk_after);
    let down = Direction::new((upstream, downstream), Side::Upstream, &watch, bulk_after);
    let work = pin!(try_join(up.run(ahead.downstream), down.run(ahead.upstream)));
    let end = match select(work, pin!(watch.passed(idle_timeout))).await {
        Either::Left((Ok((up, down)), _)) => {
            up.or(down).unwrap_or_else(|| End::finished(watch.first_closed()))
        }
        Either::Left((Err(end), _)) => end,
        Either::Right(((), _)) => idle_end(up.is_writing(), down.is_writing()),
    };
    if !matches!(end.cause, Cause::Finished | Cause::Idle) {
        // The one who failed does not listen any more; the other must not believe in a good end.
        match end.side {
            Side::Downstream => upstream.abort(),
            Side::Upstream => downstream.abort(),
            Side::Atlas => {}
        }
    }
    end
}

/// Nothing moved: because nobody said anything, or because somebody does not take what he gets.
fn idle_end(up_is_writing: bool, down_is_writing: bool) -> End {
    let late = |side| End::new(side, Phase::Relay, Cause::TimedOut);
    match (up_is_writing, down_is_writing) {
        (true, _) => late(Side::Upstream),
        (false, true) => late(Side::Downstream),
        (false, false) => End::new(Side::Atlas, Phase::Relay, Cause::Idle),
    }
}

/// How a side ended whose socket gave this error.
fn end_of(side: Side, error: &io::Error) -> End {
    End::new(side, Phase::Relay, Cause::of(error))
}

/// When bytes last moved in either direction, and who closed first.
struct Watch {
    moved: Cell<Instant>,
    first_closed: Cell<Option<Side>>,
}

impl Watch {
    fn new() -> Self {
        Self {
            moved: Cell::new(now()),
            first_closed: Cell::new(None),
        }
    }

    fn moved(&self) {
        self.moved.set(now());
    }

    fn closed(&self, side: Side) {
        self.moved();
        self.first_closed.set(self.first_closed.get().or(Some(side)));
    }

    fn first_closed(&self) -> Side {
        self.first_closed.get().unwrap_or(Side::Atlas)
    }

    /// Waits until nothing has moved for `timeout`.
    async fn passed(&self, timeout: Duration) {
        loop {
            let deadline = Deadline::after(self.moved.get(), timeout);
            if deadline.passed(now()) {
                return;
            }
            sleep_until(deadline).await;
        }
    }
}

#[cfg(test)]
mod tests;
