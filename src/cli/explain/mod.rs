//! `atlas explain URL`: what would serve a request, and which lines of the file decide it.
//!
//! Listener, certificate and route are found by the code that finds them for real connections.

mod answer;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::process::ExitCode;

use clap::Args;
use http::Method;
use serde_json::json;

use super::url::{Url, parse_field, parse_url};
use super::{File, Format, Output, WRONG, answer, check, complain};
use crate::config::{self, Loaded};
use crate::generation::{Listener, Mode};
use crate::http::Fields;
use crate::proxy::path_below;
use crate::proxy::template::{Parts, fill};
use crate::route::{Action, Asked, Found, HostPattern, PathPattern, Route, Split, Unmet, normal};
use crate::runtime::Address;
use crate::upstream;
use answer::{Certificate, Explanation, Line, Result as Outcome, Served, Upstream};

/// Of so many routes it is told why they do not match.
const NEAREST_MAX: usize = 5;

/// What to explain.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    file: File,
    #[command(flatten)]
    output: Output,
    /// The method of the request.
    #[arg(short = 'X', long = "request", value_name = "METHOD", default_value = "GET")]
    method: Method,
    /// A field of the request, as "Name: value"; may be given several times.
    #[arg(short = 'H', long = "header", value_name = "FIELD", value_parser = parse_field)]
    fields: Vec<(String, String)>,
    /// What is asked for, as https://a.example/path.
    #[arg(value_parser = parse_url)]
    url: Url,
}

/// Says it and ends.
pub(super) fn explain(arguments: &Arguments) -> ExitCode {
    let format = arguments.output.format;
    let loaded = match config::load(&arguments.file.path) {
        Ok(loaded) => loaded,
        Err(report) => {
            match format {
                Format::Json => answer(check::json(&arguments.file.path, &Err(report))),
                Format::Text => complain(report),
            }
            return WRONG.into();
        }
    };
    let explanation = Request::new(arguments, &loaded).explain();
    match format {
        Format::Json => answer(json!(explanation)),
        Format::Text => answer(explanation),
    }
    ExitCode::SUCCESS
}

/// A request that is only thought of.
struct Request<'a> {
    url: &'a Url,
    method: &'a Method,
    fields: Fields,
    loaded: &'a Loaded,
}

impl<'a> Request<'a> {
    fn new(arguments: &'a Arguments, loaded: &'a Loaded) -> Self {
        let mut fields = Fields::new();
        for (name, value) in &arguments.fields {
            fields.push(name, value);
        }
        Self {
            url: &arguments.url,
            method: &arguments.method,
            fields,
            loaded,
        }
    }

    fn explain(&self) -> Explanation {
        let mut explanation = Explanation {
            url: self.url.text.clone(),
            method: self.method.to_string(),
            file: self.loaded.lines.source.name.clone(),
            listener: None,
            also_listening: Vec::new(),
            certificate: None,
            route: None,
            result: Outcome::NotServed { why: String::new() },
        };
        let found = self.listeners();
        let Some((index, listener)) = found.first().copied() else {
            let why = self.why_no_listener();
            explanation.result = Outcome::NotServed { why };
            return explanation;
        };
        let others = found.iter().skip(1);
        explanation.also_listening = others.map(|(_, other)| other.settings.name.to_string()).collect();
        explanation.listener = Some(Served {
            name: listener.settings.name.to_string(),
            what: spoken(listener).to_owned(),
            lines: self.lines(&self.loaded.lines.listeners[index]),
        });
        explanation.certificate = self.certificate(index, listener);
        match &listener.mode {
            Mode::Tcp(split) => explanation.result = self.forwarded(split, None),
            Mode::Http => (explanation.route, explanation.result) = self.routed(index),
        }
        explanation
    }

    /// Those a client that opens the URL may come to, the likeliest first.
    fn listeners(&self) -> Vec<(usize, &'a Listener)> {
        let all = self.loaded.generation.listeners.iter().enumerate();
        let fits =
            |listener: &Listener| self.rank(listener).is_some() && listener.tls.is_some() == self.url.has_tls;
        let mut found: Vec<_> = all.filter(|(_, listener)| fits(listener)).collect();
        found.sort_by_key(|(_, listener)| self.rank(listener));
        found
    }

    /// How well the address of a listener fits the URL, 0 best; TLS is not looked at.
    fn rank(&self, listener: &Listener) -> Option<u8> {
        let Address::Tcp(address) = &listener.settings.address else {
            return None;
        };
        let fits = address.port() == self.url.port;
        let rank = match self.url.host.parse::<IpAddr>() {
            Ok(ip) if *address == SocketAddr::new(ip, self.url.port) => Some(0),
            Ok(ip) if address.ip().is_unspecified() && address.is_ipv4() == ip.is_ipv4() => Some(1),
            Ok(_) => None,
            // Where a name leads is not asked: it may be any address of this machine.
            Err(_) => Some(0),
        };
        rank.filter(|_| fits)
    }

    fn why_no_listener(&self) -> String {
        let generation = &self.loaded.generation;
        let (wanted, other) = match self.url.has_tls {
            true => ("TLS", "no TLS there; try http://"),
            false => ("plain HTTP", "TLS there; try https://"),
        };
        let named = |listener: &Listener| listener.settings.name.to_string();
        if let Some(near) = generation.listeners.iter().find(|one| self.rank(one).is_some()) {
            return format!("the listener {} speaks {other}", named(near));
        }
        let all: Vec<_> = generation.listeners.iter().map(named).collect();
        let port = self.url.port;
        let place = match self.url.host.parse::<IpAddr>() {
            Ok(ip) => SocketAddr::new(ip, port).to_string(),
            Err(_) => format!("port {port}"),
        };
        format!(
            "nothing listens for {wanted} on {place}; listeners are: {}",
            all.join(", ")
        )
    }

    /// The certificate a client gets that can verify any.
    fn certificate(&self, listener_index: usize, listener: &Listener) -> Option<Certificate> {
        let tls = listener.tls.as_ref()?;
        // Clients name no address in the handshake.
        let asked = self.url.host.parse::<IpAddr>().is_err();
        let picked = tls.certificate_for(if asked { &self.url.host } else { "" });
        let index = tls
            .certificates()
            .iter()
            .position(|one| std::ptr::eq(one, picked))?;
        let places = self.loaded.lines.certificates.get(listener_index)?.get(index)?;
        Some(Certificate {
            path: picked.path.display().to_string(),
            names: picked.names.clone(),
            names_the_host: is_named(&picked.names, &self.url.host),
            is_default: index == 0,
            lines: self.lines(places),
        })
    }

    fn routed(&self, listener: usize) -> (Option<Served>, Outcome) {
        let authority = self
            .fields
            .get("host")
            .and_then(|host| std::str::from_utf8(host).ok());
        let asked = Asked {
            listener,
            method: self.method,
            authority: Some(authority.unwrap_or(&self.url.authority)),
            path: &self.url.path,
            fields: &self.fields,
        };
        match self.loaded.generation.routes.find_for(&asked) {
            Found::Route(route) => {
                let served = self.served(route, String::new());
                (Some(served), self.action(route))
            }
            Found::NoRoute => {
                let near = self.nearest(&asked);
                let why = "no route matches".to_owned();
                let status = 404;
                (None, Outcome::Refused { status, why, near })
            }
            Found::Outside => (None, refused(400, "the path climbs above the root")),
            Found::MethodNotAllowed(methods) => {
                let methods: Vec<_> = methods.iter().map(Method::as_str).collect();
                let why = format!("the routes that match are for {}", methods.join(", "));
                (None, refused(405, &why))
            }
        }
    }

    fn served(&self, route: &Route, what: String) -> Served {
        Served {
            name: route.number.to_string(),
            what,
            lines: self.lines(&self.loaded.lines.routes[route.number - 1]),
        }
    }

    /// The routes that come nearest, and what each of them asks beyond.
    fn nearest(&self, asked: &Asked<'_>) -> Vec<Served> {
        let near = self.loaded.generation.routes.nearest(asked, NEAREST_MAX);
        let told = near.into_iter().map(|(route, unmet)| {
            let asks: Vec<_> = unmet.iter().map(|one| self.condition(one)).collect();
            self.served(route, asks.join(", and "))
        });
        told.collect()
    }

    fn condition(&self, unmet: &Unmet<'_>) -> String {
        match unmet {
            Unmet::Host(HostPattern::Exact(host)) => format!("the host is not {host}"),
            Unmet::Host(HostPattern::Wildcard(rest)) => format!("the host is not *.{rest}"),
            // Never said: such a route is for every host.
            Unmet::Host(HostPattern::Any) => "the host is not any".to_owned(),
            Unmet::Path(PathPattern::Exact(path)) => format!("the path is not {path}"),
            Unmet::Path(PathPattern::Prefix(path)) => format!("the path is not {path} or below it"),
            Unmet::Listener(index) => {
                let name = &self.loaded.generation.listeners[*index].settings.name;
                format!("the listener is not {name}")
            }
            Unmet::Header(name, value) => format!("there is no field {name}: {value}"),
        }
    }

    fn action(&self, route: &Route) -> Outcome {
        match &route.action {
            Action::Forward(split) => self.forwarded(split, Some(route)),
            Action::Serve(root) => Outcome::Files {
                root: self.loaded.generation.roots[*root].root.display().to_string(),
                path: path_below(route, &self.url.path).into_owned(),
                lines: self.lines(&self.loaded.lines.roots[*root]),
            },
            Action::Redirect { to, status } => Outcome::Redirect {
                status: status.as_u16(),
                location: self.location(to),
            },
            Action::Respond { status, body, .. } => Outcome::Respond {
                status: status.as_u16(),
                bytes: body.len(),
            },
            Action::About => Outcome::About,
        }
    }

    fn location(&self, template: &str) -> String {
        let query = self.url.query.as_deref();
        let uri = match query {
            Some(query) => format!("{}?{query}", self.url.path),
            None => self.url.path.clone(),
        };
        let parts = Parts {
            host: &normal::host(&self.url.authority),
            uri: &uri,
            path: &self.url.path,
            query: query.unwrap_or_default(),
        };
        fill(template, &parts)
    }

    fn forwarded(&self, split: &Split, route: Option<&Route>) -> Outcome {
        if let Some(only) = split.only() {
            return Outcome::Upstream(self.upstream(only, route).into());
        }
        let upstreams = split.shares().iter().map(|share| Upstream {
            percent: Some(split.percent(share)),
            ..self.upstream(share.upstream, route)
        });
        Outcome::Split {
            upstreams: upstreams.collect(),
        }
    }

    fn upstream(&self, index: usize, route: Option<&Route>) -> Upstream {
        let upstream = &self.loaded.generation.upstreams[index];
        let endpoints = upstream.endpoints.iter().map(answer::endpoint);
        Upstream {
            name: upstream.name.to_string(),
            percent: None,
            endpoints: endpoints.collect(),
            found: self.found(upstream),
            balance: upstream.may_have_several().then(|| self.balance(upstream)),
            sticky: upstream.sticky.as_ref().map(ToString::to_string),
            queue: queue_of(upstream, route.is_some()),
            tls: upstream.tls.is_some(),
            http2: upstream.http2,
            requests_max: upstream.requests_max,
            health: health_of(upstream),
            retries: route.map(|route| route.retry.to_string()),
            mirror: route.and_then(|route| self.mirror(route)),
            path: route.map(|route| path_below(route, &self.url.path).into_owned()),
            lines: self.lines(&self.loaded.lines.upstreams[index]),
        }
    }

    fn mirror(&self, route: &Route) -> Option<String> {
        let mirror = route.mirror.as_ref()?;
        let name = &self.loaded.generation.upstreams[mirror.upstream].name;
        let percent = mirror.percent;
        Some(format!("{percent}% of the requests are sent to {name} as well"))
    }

    fn found(&self, upstream: &upstream::Settings) -> Vec<String> {
        let file = upstream.from_file.as_ref();
        let file = file.map(|file| {
            let (count, path) = (file.endpoints.len(), file.path.display());
            format!("{count} of them are of {path}, which is read again when it changes")
        });
        let resolver = &self.loaded.generation.resolver;
        let names = upstream.is_looked_up();
        let names = names.then(|| format!("names are looked up {resolver}"));
        file.into_iter().chain(names).collect()
    }

    /// How an endpoint is chosen. How many workers there will be is not known here, unless written.
    fn balance(&self, upstream: &upstream::Settings) -> String {
        let is_alone = self.loaded.generation.workers == Some(1);
        match &upstream.hash {
            Some(hashing) => hashing.to_string(),
            None => upstream.method(if is_alone { 1 } else { 2 }).to_string(),
        }
    }

    fn lines(&self, places: &[Range<usize>]) -> Vec<Line> {
        let lines = &self.loaded.lines;
        let (numbers, shown) = (lines.numbers(places).into_iter(), lines.source.to_show());
        numbers
            .map(|number| Line {
                number,
                text: shown.line(number).trim_end().to_owned(),
            })
            .collect()
    }
}

fn queue_of(upstream: &upstream::Settings, is_for_requests: bool) -> Option<String> {
    let is_limited = upstream.endpoints.iter().any(|one| one.connections_max.is_some());
    let who = match is_for_requests {
        true => "requests",
        false => "connections",
    };
    let (most, timeout) = (upstream.queue_max, upstream.queue_timeout);
    is_limited.then(|| format!("while all are busy {most} {who} wait, each up to {timeout:?}"))
}

fn health_of(upstream: &upstream::Settings) -> Vec<String> {
    let health = &upstream.health;
    let mut told = Vec::new();
    told.extend(upstream.check.as_ref().map(|check| format!("checked by {check}")));
    // The only one is never ejected.
    let outliers = health.outliers.as_ref().filter(|_| upstream.may_have_several());
    told.extend(outliers.map(ToString::to_string));
    let slow_start = health.slow_start;
    told.extend(slow_start.map(|time| format!("its share grows for {time:?} after it came back")));
    if health.panic_below > 0 {
        told.push(format!(
            "all are asked where fewer than {}% are well",
            health.panic_below
        ));
    }
    told
}

fn refused(status: u16, why: &str) -> Outcome {
    Outcome::Refused {
        status,
        why: why.to_owned(),
        near: Vec::new(),
    }
}

fn spoken(listener: &Listener) -> &'static str {
    match (&listener.mode, listener.tls.is_some()) {
        (Mode::Http, true) => "HTTP over TLS",
        (Mode::Http, false) => "HTTP",
        (Mode::Tcp(_), true) => "bytes over TLS",
        (Mode::Tcp(_), false) => "bytes",
    }
}

/// Whether a client that asks for this host would take one of these names for it.
fn is_named(names: &[String], host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    let host = host.trim_end_matches('.');
    names.iter().any(|name| match name.strip_prefix("*.") {
        Some(parent) => host
            .split_once('.')
            .is_some_and(|(label, rest)| !label.is_empty() && rest == parent),
        None => name == host,
    })
}
