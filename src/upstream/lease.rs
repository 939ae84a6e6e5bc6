//! A connection held for one exchange, and how far the search for it has come.

use std::os::fd::AsFd;

use super::pool::Idle;
use super::{Endpoint, Upstream};
use crate::http::h1::client::Connection;
use crate::runtime::Address;
use crate::sys;
use crate::time::now;

/// How far the search for an endpoint has come, for one exchange.
#[derive(Debug)]
pub struct Attempts {
    /// The endpoint asked last.
    pub(super) asked: Option<usize>,
    /// Those asked before it.
    pub(super) tried: Vec<usize>,
    pub(super) count: u32,
    /// The one asked last is asked once more, over a connection made anew.
    pub(super) fresh: bool,
    pub(super) repeatable: bool,
}

impl Attempts {
    /// None was asked yet.
    pub(super) fn new(repeatable: bool) -> Self {
        Self {
            asked: None,
            tried: Vec::new(), // takes memory once there is something in it
            count: 0,
            fresh: false,
            repeatable,
        }
    }

    /// How many connections were tried, idle ones included.
    pub fn count(&self) -> u32 {
        self.count
    }
}

/// A connection to an endpoint, held for one exchange; closed when dropped.
pub struct Lease<'u> {
    upstream: &'u Upstream,
    endpoint: &'u Endpoint,
    connection: Box<Connection>,
    address: Option<Address>,
    is_reused: bool,
}

impl<'u> Lease<'u> {
    pub(super) fn new(
        upstream: &'u Upstream,
        endpoint: &'u Endpoint,
        connection: Box<Connection>,
        address: Option<Address>,
        is_reused: bool,
    ) -> Self {
        Self {
            upstream,
            endpoint,
            connection,
            address,
            is_reused,
        }
    }

    /// The connection.
    pub fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// The endpoint it leads to.
    pub fn endpoint(&self) -> &'u Endpoint {
        self.endpoint
    }

    /// Whether it has served another exchange before.
    pub fn is_reused(&self) -> bool {
        self.is_reused
    }

    /// How much of what was sent the endpoint's kernel has taken, as far as that is known: not
    /// where the connection is a Unix socket.
    pub fn acknowledged(&self) -> Option<u64> {
        sys::tcp_bytes_acked(self.connection.transport().socket().as_fd())
    }

    /// Leaves the connection to the next exchange, if it can serve one.
    pub fn give_back(self) {
        let settings = &self.upstream.settings;
        if self.connection.is_reusable() && self.endpoint.still_has(self.address.as_ref()) {
            self.endpoint.pool.give_back(
                Idle {
                    connection: self.connection,
                    address: self.address,
                    since: now(),
                },
                settings.pool_idle_max,
            );
        }
    }
}
