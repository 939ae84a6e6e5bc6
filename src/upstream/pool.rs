//! This worker's idle connections to one endpoint, the one used last on top.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::http::h1::client::Connection;
use crate::runtime::Address;

/// A connection that waits for its next exchange.
pub(super) struct Idle {
    pub(super) connection: Box<Connection>,
    /// Where it leads: the addresses of an endpoint may change.
    pub(super) address: Address,
    pub(super) since: Instant,
    /// When it was made.
    pub(super) opened: Instant,
}

/// So many are let go of in one go, at most. Over TLS each is told goodbye, which takes some 10 µs, and all of a
/// busy hour grow old together.
const LET_GO_MAX: usize = 32;

/// How long connections are kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// Since they were used last.
    pub(super) idle: Duration,
    /// Since they were made.
    pub(super) lifetime: Duration,
}

impl Idle {
    /// Whether its peer has neither closed nor said anything. The driver hears of that a little
    /// late and costs nothing; for a request that cannot be tried again the kernel is asked.
    fn is_quiet(&self, repeatable: bool) -> bool {
        let is_told = self.connection.is_stale();
        !is_told && (repeatable || self.connection.transport().socket().peek().is_none())
    }
}

/// Idle connections, oldest first.
#[derive(Default)]
pub(super) struct Pool {
    idle: RefCell<VecDeque<Idle>>,
}

impl Pool {
    /// The connection used last, if it is young enough and its peer has neither closed it nor
    /// said anything since. The others stay until they are old: a server closes the oldest first.
    /// After [`LET_GO_MAX`] that are not a new connection is better.
    pub(super) fn take(&self, now: Instant, times: Times, repeatable: bool) -> Option<Idle> {
        for _ in 0..LET_GO_MAX {
            let idle = self.idle.borrow_mut().pop_back()?;
            if has_passed(idle.since, now, times.idle) {
                return None; // the ones below have waited longer still
            }
            if !has_passed(idle.opened, now, times.lifetime) && idle.is_quiet(repeatable) {
                return Some(idle);
            }
        }
        None
    }

    /// Keeps a connection; when there are too many, the oldest goes.
    pub(super) fn give_back(&self, idle: Idle, idle_max: usize, times: Times) {
        let mut all = self.idle.borrow_mut();
        // Asked now, the driver watches it from here on.
        let is_old = has_passed(idle.opened, idle.since, times.lifetime);
        if idle_max == 0 || is_old || idle.connection.is_stale() {
            return;
        }
        while all.len() >= idle_max {
            all.pop_front();
        }
        all.push_back(idle);
    }

    /// Drops connections that are too old, and those their peer has closed: [`LET_GO_MAX`] of them, and the
    /// rest at the next call. Until then nothing takes them.
    pub(super) fn sweep(&self, now: Instant, times: Times) {
        let mut left = LET_GO_MAX;
        self.retain(|idle| {
            let is_old =
                has_passed(idle.since, now, times.idle) || has_passed(idle.opened, now, times.lifetime);
            let stays = left == 0 || (!is_old && idle.is_quiet(true));
            left -= usize::from(!stays);
            stays
        });
    }

    pub(super) fn retain(&self, keep: impl FnMut(&Idle) -> bool) {
        self.idle.borrow_mut().retain(keep);
    }

    pub(super) fn len(&self) -> usize {
        self.idle.borrow().len()
    }
}

/// Whether so much time has passed since a moment.
pub(super) fn has_passed(since: Instant, now: Instant, time: Duration) -> bool {
    now.saturating_duration_since(since) >= time
}
