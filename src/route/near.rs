//! How far a request is from routes that do not take it, for those who ask why.

use super::{Asked, HostPattern, PathPattern, Route, Table, is_below, normal};

/// A condition of a route that a request does not meet. The method is none of them: what fails by it
/// alone is told otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmet<'r> {
    /// It is for another host.
    Host(&'r HostPattern),
    /// It is for another path.
    Path(&'r PathPattern),
    /// It is for another listener.
    Listener(usize),
    /// It asks for a field with this value.
    Header(&'r str, &'r str),
}

impl Table {
    /// The routes that a request misses by the fewest conditions, and these; the first ones of the file
    /// where as many are missed.
    pub fn nearest(&self, asked: &Asked<'_>, most: usize) -> Vec<(&Route, Vec<Unmet<'_>>)> {
        let routes = self.routes.iter();
        let mut near: Vec<_> = routes.map(|route| (route, unmet(route, asked))).collect();
        near.sort_by_key(|(_, unmet)| unmet.len());
        near.truncate(most);
        near
    }
}

fn unmet<'r>(route: &'r Route, asked: &Asked<'_>) -> Vec<Unmet<'r>> {
    let mut unmet = Vec::new();
    if !takes_host(&route.host, asked.authority) {
        unmet.push(Unmet::Host(&route.host));
    }
    if !takes_path(&route.path, asked.path) {
        unmet.push(Unmet::Path(&route.path));
    }
    let other = route.listener.filter(|listener| *listener != asked.listener);
    unmet.extend(other.map(Unmet::Listener));
    let is_there = |name: &str, wanted: &str| {
        let mut values = asked.fields.get_all(name);
        values.any(|value| value == wanted.as_bytes())
    };
    let missing = route
        .headers
        .iter()
        .filter(|(name, value)| !is_there(name, value));
    unmet.extend(missing.map(|(name, value)| Unmet::Header(name, value)));
    unmet
}

fn takes_host(pattern: &HostPattern, authority: Option<&str>) -> bool {
    let host = authority.map(normal::host);
    match (pattern, host.as_deref()) {
        (HostPattern::Any, _) => true,
        (_, None) => false,
        (HostPattern::Exact(wanted), Some(host)) => normal::host(wanted) == host,
        (HostPattern::Wildcard(rest), Some(host)) => host
            .split_once('.')
            .is_some_and(|(label, below)| !label.is_empty() && normal::host(rest) == below),
    }
}

fn takes_path(pattern: &PathPattern, path: &str) -> bool {
    let Some(path) = normal::path(path) else {
        return false;
    };
    match pattern {
        PathPattern::Exact(wanted) => normal::pattern(wanted) == path,
        PathPattern::Prefix(prefix) => is_below(&path, &normal::pattern(prefix)),
    }
}
