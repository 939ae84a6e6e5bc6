//! Which request goes where: of all routes that match, the most specific one.
//!
//! Host before path before conditions: a route for this very host beats one for `*.example`, which
//! beats one for any host; then an exact path beats a prefix and a longer prefix a shorter one;
//! then more conditions (methods, header, listener) beat fewer, and of as many a listener beats
//! methods and methods beat headers. Two routes that would still be equal for some request are a
//! [`Tie`], refused when the table is built.

mod near;
pub mod normal;
mod retry;
mod split;

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};

pub use self::near::Unmet;
pub use self::retry::Retry;
pub use self::split::{Share, Split};
use crate::http::{Fields, RequestHead};

/// One route: what it asks of a request, and what is done with it.
#[derive(Clone, Debug)]
pub struct Route {
    /// The name it has in records: its number in the file, from 1.
    pub number: usize,
    /// Which host.
    pub host: HostPattern,
    /// Which path.
    pub path: PathPattern,
    /// Which methods; empty: any. GET stands for HEAD too, unless another route asks for HEAD.
    pub methods: Vec<Method>,
    /// Fields that must be there with this value.
    pub headers: Vec<(String, String)>,
    /// The listener (its index in the generation) it is for; `None`: all in http mode.
    pub listener: Option<usize>,
    /// What is done.
    pub action: Action,
    /// Take the prefix off the path before it is used.
    pub strip_prefix: bool,
    /// When a request is tried again.
    pub retry: Retry,
    /// Where it is sent as well.
    pub mirror: Option<Mirror>,
}

/// An upstream that gets some of a route's requests as well, and whose answers nobody sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Its index in the generation.
    pub upstream: usize,
    /// How many of the requests, from 1 to 100.
    pub percent: u8,
    /// A request with a longer body is not mirrored.
    pub body_bytes_max: usize,
    /// How long it may take in all, from its last byte to that of the answer.
    pub timeout: Duration,
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
    /// Ask an upstream, or one of several.
    Forward(Split),
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

/// Two routes that some request would match equally well: their indexes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tie {
    /// The one that comes first in the file.
    pub first: usize,
    /// The other.
    pub second: usize,
}

/// What a request asks for, as far as routes look at it.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    /// The index of the listener it came to.
    pub listener: usize,
    /// Its method.
    pub method: &'a Method,
    /// Host and perhaps port.
    pub authority: Option<&'a str>,
    /// The path as it was sent.
    pub path: &'a str,
    /// Its fields.
    pub fields: &'a Fields,
}

/// Where a request goes.
#[derive(Debug)]
pub enum Found<'t> {
    /// Here.
    Route(&'t Route),
    /// Nowhere.
    NoRoute,
    /// Nowhere with this method, but with these.
    MethodNotAllowed(Vec<Method>),
    /// Its path climbs above the root by `..`: not a path anything could be found at.
    Outside,
}

/// All routes of a generation, ready to be searched.
#[derive(Debug, Default)]
pub struct Table {
    routes: Vec<Route>,
    exact: HashMap<String, Paths>,
    wildcard: HashMap<String, Paths>,
    any: Paths,
}

impl Table {
    /// Sorts routes for searching.
    ///
    /// # Errors
    ///
    /// Each route that ties, with the first one it ties with.
    pub fn new(routes: Vec<Route>) -> Result<Self, Vec<Tie>> {
        let mut table = Self::default();
        for (index, route) in routes.iter().enumerate() {
            let paths = match &route.host {
                HostPattern::Exact(host) => table.exact.entry(normal::host(host).into_owned()).or_default(),
                HostPattern::Wildcard(rest) => {
                    table.wildcard.entry(normal::host(rest).into_owned()).or_default()
                }
                HostPattern::Any => &mut table.any,
            };
            paths.add(&route.path, index);
        }
        let mut ties = Vec::new();
        for paths in table.all_paths() {
            paths.finish(&routes, &mut ties);
        }
        if !ties.is_empty() {
            ties.sort_by_key(|tie| (tie.second, tie.first));
            return Err(ties);
        }
        table.routes = routes;
        Ok(table)
    }

    /// The routes, in the order of the file.
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// The routes, to be taken over.
    pub fn into_routes(self) -> Vec<Route> {
        self.routes
    }

    /// Where a request goes that came to a listener.
    pub fn find(&self, listener: usize, request: &RequestHead) -> Found<'_> {
        self.find_for(&Asked {
            listener,
            method: request.method(),
            authority: request.authority(),
            path: request.path(),
            fields: &request.fields,
        })
    }

    /// As [`Self::find`], for a request that is only thought of.
    pub fn find_for(&self, asked: &Asked<'_>) -> Found<'_> {
        let Some(path) = normal::path(asked.path) else {
            return Found::Outside;
        };
        let mut allowed = Vec::new();
        for paths in self.hosts(asked.authority).into_iter().flatten() {
            let mut lists = paths.matching(&path);
            if let Some(route) = lists.find_map(|list| self.pick(list, asked, &mut allowed)) {
                return Found::Route(route);
            }
        }
        if allowed.is_empty() {
            Found::NoRoute
        } else {
            Found::MethodNotAllowed(allowed)
        }
    }

    /// The routes a host may take, the more specific ones first.
    fn hosts(&self, authority: Option<&str>) -> [Option<&Paths>; 3] {
        let mut found = [None, None, Some(&self.any)];
        let named = !(self.exact.is_empty() && self.wildcard.is_empty());
        if let Some(authority) = authority.filter(|_| named) {
            let host = normal::host(authority);
            found[0] = self.exact.get(&*host);
            // One label, and not an empty one.
            found[1] = host
                .split_once('.')
                .filter(|(label, _)| !label.is_empty())
                .and_then(|(_, rest)| self.wildcard.get(rest));
        }
        found
    }

    /// The first route of a list that takes the request; those that would but for the method add
    /// theirs to `allowed`.
    fn pick(&self, list: &[usize], asked: &Asked<'_>, allowed: &mut Vec<Method>) -> Option<&Route> {
        let mut as_get: Option<&Route> = None;
        for route in list.iter().map(|&index| &self.routes[index]) {
            // A route that takes HEAD as it takes GET gives way only to an equal that asks for HEAD.
            if as_get.is_some_and(|found| rank(found) > rank(route)) {
                break;
            }
            if !takes_all_but_method(route, asked) {
                continue;
            }
            if route.methods.is_empty() || route.methods.contains(asked.method) {
                return Some(route);
            }
            if asked.method == Method::HEAD && route.methods.contains(&Method::GET) {
                as_get = as_get.or(Some(route));
            } else {
                allow(&route.methods, allowed);
            }
        }
        as_get
    }

    fn all_paths(&mut self) -> impl Iterator<Item = &mut Paths> {
        self.exact
            .values_mut()
            .chain(self.wildcard.values_mut())
            .chain(Some(&mut self.any))
    }
}

/// The routes of one host by path; lists of routes are sorted, more conditions first.
#[derive(Debug, Default)]
struct Paths {
    exact: HashMap<String, Vec<usize>>,
    /// Sorted, so that the longest prefix of a path is the last one not behind it, or an ancestor
    /// of that one.
    prefixes: Vec<Prefix>,
}

#[derive(Debug)]
struct Prefix {
    text: String,
    /// The longest other prefix this one begins with.
    parent: Option<usize>,
    routes: Vec<usize>,
}

impl Paths {
    fn add(&mut self, pattern: &PathPattern, route: usize) {
        match pattern {
            PathPattern::Exact(path) => self.exact.entry(normal::pattern(path)).or_default().push(route),
            PathPattern::Prefix(path) => {
                let text = normal::pattern(path);
                match self.prefixes.iter_mut().find(|known| known.text == text) {
                    Some(known) => known.routes.push(route),
                    None => self.prefixes.push(Prefix {
                        text,
                        parent: None,
                        routes: vec![route],
                    }),
                }
            }
        }
    }

    /// Sorts everything and finds the ties.
    fn finish(&mut self, routes: &[Route], ties: &mut Vec<Tie>) {
        self.prefixes.sort_by(|a, b| a.text.cmp(&b.text));
        for at in 0..self.prefixes.len() {
            // What comes just before either is the parent or has the same one, or a child of it.
            let mut parent = at.checked_sub(1);
            while let Some(known) = parent {
                if self.prefixes[at].text.starts_with(&self.prefixes[known].text) {
                    break;
                }
                parent = self.prefixes[known].parent;
            }
            self.prefixes[at].parent = parent;
        }
        let prefixed = self.prefixes.iter_mut().map(|prefix| &mut prefix.routes);
        for list in self.exact.values_mut().chain(prefixed) {
            list.sort_by_key(|&index| (Reverse(rank(&routes[index])), index));
            for (place, &second) in list.iter().enumerate() {
                let mut before = list[..place].iter().copied();
                let first = before.find(|&first| may_tie(&routes[first], &routes[second]));
                ties.extend(first.map(|first| Tie { first, second }));
            }
        }
    }

    /// The lists of routes a path may take, the more specific ones first.
    fn matching<'p>(&'p self, path: &'p str) -> impl Iterator<Item = &'p [usize]> {
        let exact = self.exact.get(path).map(Vec::as_slice);
        let last = self
            .prefixes
            .partition_point(|prefix| prefix.text.as_str() <= path)
            .checked_sub(1);
        let chain = std::iter::successors(last, |&at| self.prefixes[at].parent);
        let prefixed = chain
            .map(|at| &self.prefixes[at])
            .filter(move |prefix| is_below(path, &prefix.text))
            .map(|prefix| prefix.routes.as_slice());
        exact.into_iter().chain(prefixed)
    }
}

/// Whether a path is this prefix or below it, on a border of segments.
pub fn is_below(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || prefix.ends_with('/'))
}

/// How much a route asks beside host and path; of as many conditions, which kinds decides.
fn rank(route: &Route) -> (usize, bool, bool) {
    let (of_listener, of_method) = (route.listener.is_some(), !route.methods.is_empty());
    let conditions = usize::from(of_method) + route.headers.len() + usize::from(of_listener);
    (conditions, of_listener, of_method)
}

fn takes_all_but_method(route: &Route, asked: &Asked<'_>) -> bool {
    route.listener.is_none_or(|listener| listener == asked.listener)
        && route
            .headers
            .iter()
            .all(|(name, wanted)| asked.fields.get_all(name).any(|value| value == wanted.as_bytes()))
}

fn allow(methods: &[Method], allowed: &mut Vec<Method>) {
    let head = methods.contains(&Method::GET).then_some(&Method::HEAD);
    for method in methods.iter().chain(head) {
        if !allowed.contains(method) {
            allowed.push(method.clone());
        }
    }
}

/// Whether some request matches both of two routes with the same host and path, and neither
/// is more specific.
fn may_tie(a: &Route, b: &Route) -> bool {
    let listeners = match (a.listener, b.listener) {
        (Some(a), Some(b)) => a == b,
        _ => true,
    };
    let methods = a.methods.is_empty()
        || b.methods.is_empty()
        || a.methods.iter().any(|method| b.methods.contains(method));
    // Nobody sends one field with two values where values choose; who does gets the first route.
    let headers = a.headers.iter().all(|(name, value)| {
        b.headers
            .iter()
            .all(|(other, wanted)| !other.eq_ignore_ascii_case(name) || wanted == value)
    });
    rank(a) == rank(b) && listeners && methods && headers
}

#[cfg(test)]
mod tests;
