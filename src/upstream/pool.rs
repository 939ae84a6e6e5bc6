//! This worker's idle connections to one endpoint, the one used last on top.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use crate::http::h1::client::Connection;
use crate::runtime::Address;

/// A connection that waits for its next exchange.
pub(super) struct Idle {
    pub(super) connection: Box<Connection>,
    /// Where it leads, if the endpoint is a name and its addresses may change.
    pub(super) address: Option<Address>,
    pub(super) since: Instant,
}

impl Idle {
    pub(super) fn new(connection: Box<Connection>, address: Option<Address>, since: Instant) -> Self {
        let idle = Self {
            connection,
            address,
            since,
        };
        // Asks the driver to watch: the wait stays asked, and is the next exchange's wait for its
        // response as well, so that watching costs nothing. A readiness of before is used up first.
        let _ = idle.poll() && idle.poll();
        idle
    }

    /// Whether its peer has neither closed nor said anything, as far as the driver has heard.
    fn is_quiet(&self) -> bool {
        !self.poll() || !self.connection.is_stale()
    }

    fn poll(&self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        let socket = self.connection.transport().socket();
        socket.poll_readable(&mut context).is_ready()
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
    pub(super) fn take(&self, now: Instant, timeout: Duration) -> Option<Idle> {
        loop {
            let idle = self.idle.borrow_mut().pop_back()?;
            if is_old(&idle, now, timeout) {
                self.idle.borrow_mut().clear(); // the ones below are older still
                return None;
            }
            if idle.is_quiet() {
                return Some(idle);
            }
        }
    }

    /// Keeps a connection; when there are too many, the oldest goes.
    pub(super) fn give_back(&self, idle: Idle, idle_max: usize) {
        let mut all = self.idle.borrow_mut();
        // Asked now, the driver watches it from here on.
        if idle_max == 0 || idle.connection.is_stale() {
            return;
        }
        while all.len() >= idle_max {
            all.pop_front();
        }
        all.push_back(idle);
    }

    /// Drops the connections that are too old, and those their peer has closed.
    pub(super) fn sweep(&self, now: Instant, timeout: Duration) {
        self.retain(|idle| !is_old(idle, now, timeout) && idle.is_quiet());
    }

    pub(super) fn retain(&self, keep: impl Fn(&Idle) -> bool) {
        self.idle.borrow_mut().retain(keep);
    }

    pub(super) fn len(&self) -> usize {
        self.idle.borrow().len()
    }
}

fn is_old(idle: &Idle, now: Instant, timeout: Duration) -> bool {
    now.saturating_duration_since(idle.since) >= timeout
}
