//! Listeners: addresses, names, what is spoken on them.

use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use super::super::error::Diagnostic;
use super::super::file::{Listen, ListenTls, Route, Tls};
use super::super::read::At;
use super::super::values::{ListenAddress, Mode};
use super::{Resolver, is_on, to_usize};
use crate::runtime::Address;
use crate::{generation, listener, tls};

/// Where the certificates of one listener stand.
pub(super) type CertificatePlaces = Vec<Vec<Range<usize>>>;

impl<'a> Resolver<'a> {
    /// The tables, in the order of the file.
    pub(super) fn listens(&self) -> &'a [Listen] {
        self.file.listen.as_ref().map_or(&[], |listen| &listen.value.0)
    }

    /// The listeners and the places of their certificates, if nothing is wrong with them.
    pub(super) fn listeners(&mut self) -> Option<Vec<(generation::Listener, CertificatePlaces)>> {
        let is_empty = self
            .file
            .listen
            .as_ref()
            .is_some_and(|listen| listen.value.0.is_empty());
        if is_empty || !self.file.has("listen") {
            let help = "write: [listen], and below it, each in a line: address = \"0.0.0.0\" and port = 443";
            let diagnostic = Diagnostic::whole_file("missing-key", "there is no [listen]");
            self.found.push(diagnostic.help(help));
            return None;
        }
        self.duplicates();
        let listeners: Vec<_> = self
            .listens()
            .iter()
            .map(|listen| self.listener(listen))
            .collect();
        self.unused_tls();
        self.listeners_without_routes();
        listeners.into_iter().collect()
    }

    /// Where it is written how many connections a listener may hold, for each.
    pub(super) fn connections_max_places(&self) -> Vec<Option<Range<usize>>> {
        let place_of = |listen: &Listen| Some(listen.connections_max.as_ref()?.key.clone());
        self.listens().iter().map(place_of).collect()
    }

    fn listener(&mut self, listen: &Listen) -> Option<(generation::Listener, CertificatePlaces)> {
        self.check_address(listen);
        let tls = self.listener_tls(listen);
        let mode = self.mode(listen);
        let (tls, places) = tls?;
        let connections_max = listen.connections_max.as_ref();
        let listener = generation::Listener {
            settings: listener::Settings {
                name: name(listen)?.into(),
                address: address(listen)?,
                proxy_protocol: is_on(listen.proxy_protocol.as_ref(), false),
                connections_max: connections_max.map_or(65_536, |most| to_usize(most.value.0)),
            },
            speaks_http2: speaks_http2(listen),
            tls,
            mode: mode?,
        };
        Some((listener, places))
    }

    fn check_address(&mut self, listen: &Listen) {
        if !listen.has("address") {
            self.missing(
                "address",
                "[listen]",
                listen.span.clone(),
                "address = \"0.0.0.0\"",
            );
        }
        let is_unix = listen
            .address
            .as_ref()
            .is_some_and(|address| matches!(address.value, ListenAddress::Unix(_)));
        match &listen.port {
            Some(port) if is_unix => {
                let help = "leave `port` out";
                self.error(
                    "misplaced-key",
                    port.key.clone(),
                    "a Unix socket has no port",
                    help,
                );
            }
            None if !is_unix && !listen.has("port") => {
                self.missing("port", "[listen]", listen.span.clone(), "port = 443");
            }
            _ => {}
        }
    }

    fn mode(&mut self, listen: &Listen) -> Option<generation::Mode> {
        if let (Mode::Tcp, Some(http2)) = (mode(listen), &listen.http2) {
            let message = "`http2` in a listener is for http mode";
            let help = "leave it out: in tcp mode bytes are passed on as they are";
            self.error("misplaced-key", http2.key.clone(), message, help);
        }
        if listen.has("mode") && listen.mode.is_none() {
            return None; // told already; which rules hold is not known
        }
        match (mode(listen), &listen.upstream) {
            (Mode::Http, None) => Some(generation::Mode::Http),
            (Mode::Http, Some(upstream)) => {
                let message = "`upstream` in a listener is for tcp mode";
                let help = format!(
                    "write a route: [[route]], and below it: upstream = \"{}\"; or add to the listener: mode = \"tcp\"",
                    upstream.value.names().next().unwrap_or("app")
                );
                self.error("misplaced-key", upstream.key.clone(), message, help);
                None
            }
            (Mode::Tcp, Some(upstream)) => self.split(upstream).map(generation::Mode::Tcp),
            (Mode::Tcp, None) => {
                if !listen.has("upstream") {
                    let message = "a listener in tcp mode needs an upstream";
                    let help = "write: upstream = \"NAME\"";
                    self.error("missing-key", listen.span.clone(), message, help);
                }
                None
            }
        }
    }

    fn listener_tls(&mut self, listen: &Listen) -> Option<(Option<Arc<tls::Settings>>, CertificatePlaces)> {
        let table = match listen.tls.as_ref().map(|tls| (&tls.value, &tls.span)) {
            Some((ListenTls::Short(false), _)) => return Some((None, Vec::new())),
            Some((ListenTls::Short(true), span)) => {
                let message = "`tls = true` says nothing: a listener has TLS anyway";
                let help = "leave it out, and [tls] is used; or give this listener a table of its own";
                self.error("bad-value", span.clone(), message, help);
                return None;
            }
            Some((ListenTls::Table(own), _)) => own,
            None if listen.has("tls") => return None,
            None => self.top_tls(listen)?,
        };
        let settings = self.server_tls(table, mode(listen), speaks_http2(listen))?;
        Some((Some(settings), certificate_places(table)))
    }

    fn top_tls(&mut self, listen: &Listen) -> Option<&'a Tls> {
        if !self.file.has("tls") {
            let message = "this listener speaks TLS, but there is no [tls]";
            let help =
                "write: [tls], and below it `cert` and `key`; or, for no TLS, in the listener: tls = false";
            self.error("missing-key", listen.span.clone(), message, help);
        }
        self.file.tls.as_ref().map(|tls| &tls.value)
    }

    fn duplicates(&mut self) {
        let listens = self.listens();
        for (index, listen) in listens.iter().enumerate() {
            let same = |is_same: fn(&Listen, &Listen) -> bool| {
                listens[..index].iter().find(|earlier| is_same(earlier, listen))
            };
            let (code, place, what, other) = if let Some(other) = same(have_one_address) {
                let place = span_or_table(listen.port.as_ref().map(|port| &port.span), listen);
                ("duplicate-listener", place, "address", other)
            } else if let Some(other) = same(have_one_name) {
                let place = span_or_table(listen.name.as_ref().map(|name| &name.span), listen);
                ("duplicate-name", place, "name", other)
            } else {
                continue;
            };
            let shown = match what {
                "address" => address(listen).map(|address| address.to_string()),
                _ => name(listen),
            };
            let shown = shown.unwrap_or_default();
            let message = match address(listen) == address(other) || what == "name" {
                true => format!("two listeners have the {what} `{shown}`"),
                false => format!("`{shown}` and the address of another listener take the same connections"),
            };
            let diagnostic = Diagnostic::error(code, place, message)
                .help(format!("give one of them another {what}, or leave it out"))
                .related(other.span.clone(), "the other one");
            self.found.push(diagnostic);
        }
    }

    fn unused_tls(&mut self) {
        let Some(tls) = &self.file.tls else {
            return;
        };
        if self.listens().iter().all(|listen| listen.has("tls")) {
            self.server_tls(&tls.value, Mode::Tcp, true); // its files are checked all the same
            let help = "leave it out, or take `tls` out of a listener";
            self.warning(
                "unused-tls",
                tls.value.span.clone(),
                "no listener uses this table",
                help,
            );
        }
    }

    fn listeners_without_routes(&mut self) {
        let routes = self.route_tables();
        for listen in self.listens().iter().filter(|listen| mode(listen) == Mode::Http) {
            let is_for = |route: &Route| match &route.listen {
                None => true,
                Some(wanted) => name(listen).is_none_or(|name| name == wanted.value),
            };
            if !listen.has("upstream") && !routes.iter().any(is_for) {
                let message = "no route is for this listener: every request gets 404";
                let help = "write: [[route]], and below it `upstream`, `files`, `redirect` or `respond`";
                self.warning("no-route", listen.span.clone(), message, help);
            }
        }
    }
}

/// Where a table's certificates stand, the default first.
fn certificate_places(table: &Tls) -> CertificatePlaces {
    let places = |both: [&Option<At<PathBuf>>; 2]| {
        let written = both.into_iter().flatten();
        written.map(|at| at.key.start..at.span.end).collect()
    };
    let more = table.certificate.iter().flat_map(|more| &more.value.0);
    std::iter::once(places([&table.cert, &table.key]))
        .chain(more.map(|one| places([&one.cert, &one.key])))
        .collect()
}

/// What is spoken on a listener.
pub(super) fn mode(listen: &Listen) -> Mode {
    listen.mode.as_ref().map_or(Mode::Http, |mode| mode.value)
}

/// Whether HTTP/2 is spoken on a listener, where HTTP is.
fn speaks_http2(listen: &Listen) -> bool {
    is_on(listen.http2.as_ref(), true)
}

/// Where a listener listens, if that is written well.
pub(super) fn address(listen: &Listen) -> Option<Address> {
    match &listen.address.as_ref()?.value {
        ListenAddress::Unix(path) => Some(Address::Unix(path.clone())),
        ListenAddress::Ip(ip) => {
            let port = u16::try_from(listen.port.as_ref()?.value.0).ok()?;
            Some(Address::Tcp(SocketAddr::new(*ip, port)))
        }
    }
}

/// What routes and records call a listener.
pub(super) fn name(listen: &Listen) -> Option<String> {
    match &listen.name {
        Some(name) => Some(name.value.clone()),
        None if listen.has("name") => None,
        None => address(listen).map(|address| address.to_string()),
    }
}

/// A listener whose port somebody else has cannot be told, at the start, from one of our own.
fn have_one_address(a: &Listen, b: &Listen) -> bool {
    address(a).zip(address(b)).is_some_and(|(a, b)| a.overlaps(&b))
}

fn have_one_name(a: &Listen, b: &Listen) -> bool {
    name(a).is_some() && name(a) == name(b)
}

fn span_or_table(span: Option<&Range<usize>>, listen: &Listen) -> Range<usize> {
    span.unwrap_or(&listen.span).clone()
}
