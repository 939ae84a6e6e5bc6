//! Named groups of endpoints.

use std::sync::Arc;
use std::time::Duration;

use crate::runtime::Address;

/// What an upstream needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its name in the file.
    pub name: Arc<str>,
    /// Where it can be reached; not empty.
    pub endpoints: Vec<EndpointSettings>,
    /// The Host sent; `None`: the client's.
    pub host: Option<Arc<str>>,
    /// For TCP and TLS together.
    pub connect_timeout: Duration,
    /// From the end of the request to the response's head.
    pub response_timeout: Duration,
    /// Between two pieces of a body, in either direction.
    pub idle_timeout: Duration,
    /// Idle connections kept, per worker and endpoint.
    pub pool_idle_max: usize,
    /// How long an idle connection is kept.
    pub pool_idle_timeout: Duration,
    /// TLS towards it.
    pub tls: Option<Arc<crate::tls::ClientSettings>>,
}

/// One endpoint as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointSettings {
    /// An address that needs no look-up.
    Address(Address),
    /// A name that is looked up, again and again, and a port.
    Name(Arc<str>, u16),
}
