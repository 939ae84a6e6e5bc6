//! One immutable configuration, as the workers run it: the contract between the two planes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::offload::Offload;
use crate::{access_log, files, http, listener, route, tls, upstream};

/// Everything the data plane needs to know, checked and complete. It never changes; a connection
/// keeps the one it was accepted under.
pub struct Generation {
    /// Counts up with every reload, from 1.
    pub number: u64,
    /// How many workers; `None`: one for each core the process may use. A reload cannot change it.
    pub workers: Option<usize>,
    /// Networks whose forwarding fields are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Where to listen, and what is spoken there.
    pub listeners: Vec<Listener>,
    /// Which request goes where.
    pub routes: route::Table,
    /// Where it can go.
    pub upstreams: Vec<upstream::Settings>,
    /// How their names are looked up.
    pub resolver: upstream::discovery::Resolver,
    /// Roots of static files.
    pub roots: Vec<files::Settings>,
    /// Limits and timeouts of HTTP.
    pub http: http::Settings,
    /// What the kernel's TLS can do.
    pub offload: Arc<Offload>,
    /// For a TLS handshake, from the first byte, the PROXY header included.
    pub handshake_timeout: Duration,
    /// For everything that runs when a drain begins.
    pub drain_timeout: Duration,
    /// What is written down.
    pub access_log: access_log::Settings,
    /// Where metrics and health are served.
    pub admin: Option<SocketAddr>,
}

/// One listener and what is spoken on it.
pub struct Listener {
    /// The address.
    pub settings: listener::Settings,
    /// TLS, if it is spoken.
    pub tls: Option<Arc<tls::Settings>>,
    /// What is spoken inside.
    pub mode: Mode,
    /// In HTTP's mode, whether HTTP/2 is spoken too: inside TLS where it was agreed on, else where a
    /// client begins with it.
    pub speaks_http2: bool,
}

/// What is spoken on a listener, inside TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// HTTP, by the routes.
    Http,
    /// Bytes, to an upstream, or to one of several.
    Tcp(route::Split),
}
