//! Which request goes where.

use std::sync::Arc;

use http::{Method, StatusCode};

/// One route: what it asks of a request, and what is done with it.
#[derive(Clone, Debug)]
pub struct Route {
    /// The name it has in records: its number in the file, from 1.
    pub number: usize,
    /// Which host.
    pub host: HostPattern,
    /// Which path.
    pub path: PathPattern,
    /// Which methods; empty: any.
    pub methods: Vec<Method>,
    /// Fields that must be there with this value.
    pub headers: Vec<(String, String)>,
    /// The listener (its index in the generation) it is for; `None`: all in http mode.
    pub listener: Option<usize>,
    /// What is done.
    pub action: Action,
    /// Take the prefix off the path before it is used.
    pub strip_prefix: bool,
}

/// Which host a route asks for; lower case, without port and final dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// This one.
    Exact(String),
    /// `*.example` is kept as `example`: one label before it.
    Wildcard(String),
    /// Any.
    Any,
}

/// Which path a route asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PathPattern {
    /// This one.
    Exact(String),
    /// This one and all below it, on borders of segments; `/` is any.
    Prefix(String),
}

/// What is done with a request.
#[derive(Clone, Debug)]
pub enum Action {
    /// Ask an upstream: its index in the generation.
    Forward(usize),
    /// Send a file below a root: its index in the generation.
    Serve(usize),
    /// Send the client elsewhere. `to` may hold `{host}`, `{uri}`, `{path}` and `{query}`.
    Redirect {
        /// The template of Location.
        to: Arc<str>,
        /// 301, 302, 303, 307 or 308.
        status: StatusCode,
    },
    /// Answer without asking anyone.
    Respond {
        /// The status.
        status: StatusCode,
        /// The body.
        body: Arc<str>,
        /// Its Content-Type.
        content_type: Arc<str>,
    },
    /// Show what Atlas does for this very connection (the demo's page).
    About,
}

/// All routes of a generation, ready to be searched.
#[derive(Default)]
pub struct Table;
