//! Routes: what they ask for, what they do, and whether two of them tie.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::StatusCode;

use super::super::error::{Diagnostic, nearest};
use super::super::file::{self, FilesAction, MirrorValue, RedirectAction, RespondAction, RetryValue};
use super::super::read::At;
use super::super::values::{Mode, RetryOn, Size};
use super::{KEPT_BODY_BYTES_MAX, Resolver, is_on, listen, number, seconds, to_usize, values};
use crate::files;
use crate::route::{Action, HostPattern, Mirror, PathPattern, Retry, Route, Table};

/// The keys of which a route has exactly one.
const ACTIONS: [&str; 4] = ["upstream", "files", "redirect", "respond"];

/// The statuses that send a client elsewhere.
const REDIRECTS: [u64; 5] = [301, 302, 303, 307, 308];

/// The roots of files, and where each stands in the file.
pub(super) type Roots = (Vec<files::Settings>, Vec<Vec<Range<usize>>>);

impl<'a> Resolver<'a> {
    /// The tables, in the order of the file.
    pub(super) fn route_tables(&self) -> &'a [file::Route] {
        self.file.route.as_ref().map_or(&[], |routes| &routes.value.0)
    }

    /// All routes, if nothing is wrong with them; the roots they name, and where those stand.
    pub(super) fn routes(&mut self) -> Option<(Table, Roots)> {
        self.routes_without_listener();
        let tables = self.route_tables();
        let mut roots = Roots::default();
        let (mut routes, mut good) = (Vec::new(), Vec::new());
        for (index, table) in tables.iter().enumerate() {
            if let Some(route) = self.route(index + 1, table, &mut roots) {
                routes.push(route);
                good.push(table);
            }
        }
        match Table::new(routes) {
            Ok(table) => (good.len() == tables.len()).then_some((table, roots)),
            Err(ties) => {
                for tie in ties {
                    self.tie(good[tie.first], good[tie.second]);
                }
                None
            }
        }
    }

    fn route(&mut self, number: usize, table: &file::Route, roots: &mut Roots) -> Option<Route> {
        let action = self.action(table, roots);
        let listener = table.listen.as_ref().map(|name| self.listener_index(name));
        let path = self.path_pattern(table);
        self.check_strip(table);
        let retry = self.retry(table);
        let mirror = self.mirror(table);
        if !is_read(table) {
            return None;
        }
        let headers = table.header.as_ref().map(|header| header.value.0.clone());
        Some(Route {
            number,
            host: table
                .host
                .as_ref()
                .map_or(HostPattern::Any, |host| host.value.0.clone()),
            path: path?,
            methods: values(table.method.as_ref(), |method| method.0.clone()),
            headers: headers.unwrap_or_default().into_iter().collect(),
            listener: match listener {
                Some(index) => Some(index?),
                None => None,
            },
            action: action?,
            strip_prefix: is_on(table.strip_prefix.as_ref(), false),
            retry: retry?,
            mirror: mirror?,
        })
    }

    fn path_pattern(&mut self, table: &file::Route) -> Option<PathPattern> {
        match (&table.path, &table.path_exact) {
            (Some(prefix), Some(exact)) => {
                let message = "a route has `path` or `path_exact`, not both";
                let diagnostic = Diagnostic::error("conflicting-keys", exact.key.clone(), message)
                    .help("write two routes")
                    .related(prefix.key.clone(), "the other one");
                self.found.push(diagnostic);
                None
            }
            (None, Some(exact)) => Some(PathPattern::Exact(exact.value.0.clone())),
            (Some(prefix), None) => Some(PathPattern::Prefix(prefix.value.0.clone())),
            (None, None) => Some(PathPattern::Prefix("/".to_owned())),
        }
    }

    fn check_strip(&mut self, table: &file::Route) {
        let Some(strip) = table.strip_prefix.as_ref().filter(|strip| strip.value) else {
            return;
        };
        let message = if !table.has("path") && !table.has("path_exact") {
            "`strip_prefix` takes `path` off, and this route has none"
        } else if !table.has("upstream") && !table.has("files") {
            "`strip_prefix` is for `upstream` and `files`"
        } else {
            return;
        };
        self.warning("no-effect", strip.key.clone(), message, "leave it out");
    }

    /// When requests are tried again; `None` if something is wrong with it.
    fn retry(&mut self, route: &file::Route) -> Option<Retry> {
        let default = Retry::default();
        let Some(written) = &route.retry else {
            return (!route.has("retry")).then_some(default);
        };
        if !route.has("upstream") {
            let message = "`retry` is for `upstream`: nobody else can be asked";
            self.warning("no-effect", written.key.clone(), message, "leave it out");
        }
        let table = match &written.value {
            RetryValue::Short(true) => return Some(default),
            RetryValue::Short(false) => return Some(Retry::never()),
            RetryValue::Table(table) => &**table,
        };
        self.check_hedge(table);
        let on: Vec<RetryOn> = match &table.on {
            Some(on) => on.value.iter().map(|one| one.value.clone()).collect(),
            None => vec![RetryOn::Connect, RetryOn::Reset],
        };
        let statuses = on.iter().filter_map(|one| match one {
            RetryOn::Status(range) => Some(range.clone()),
            _ => None,
        });
        Some(Retry {
            on_connect: on.contains(&RetryOn::Connect),
            on_reset: on.contains(&RetryOn::Reset),
            on_timeout: on.contains(&RetryOn::Timeout) || table.timeout.is_some(),
            statuses: statuses.collect(),
            attempts_max: table
                .attempts
                .as_ref()
                .map(|_| number(table.attempts.as_ref(), 1)),
            timeout: table.timeout.as_ref().map(|time| time.value.0),
            hedge_after: table.hedge_after.as_ref().map(|time| time.value.0),
            non_idempotent: is_on(table.non_idempotent.as_ref(), false),
            body_bytes_max: self.kept_body(table.body.as_ref(), default.body_bytes_max),
        })
    }

    /// How much of a body is held in memory.
    fn kept_body(&mut self, written: Option<&At<Size>>, default: usize) -> usize {
        let Some(size) = written else { return default };
        if size.value.0 > KEPT_BODY_BYTES_MAX {
            let help = "write a size up to \"64MiB\": so much is held in memory for each request";
            self.error("out-of-range", size.span.clone(), "`body` is out of range", help);
        }
        to_usize(size.value.0)
    }

    /// Whether there is time, and an endpoint, for a second attempt.
    fn check_hedge(&mut self, table: &file::Retry) {
        let Some(after) = &table.hedge_after else {
            return;
        };
        let timeout = table
            .timeout
            .as_ref()
            .filter(|time| time.value.0 <= after.value.0);
        let attempts = table.attempts.as_ref().filter(|most| most.value.0 == 1);
        let (other, message, help) = match (timeout, attempts) {
            (Some(timeout), _) => (
                timeout.key.clone(),
                "an endpoint is given up before `hedge_after`",
                "make it shorter than `timeout`",
            ),
            (None, Some(attempts)) => (
                attempts.key.clone(),
                "`hedge_after` asks a second endpoint, and only one may be asked",
                "write: attempts = 2, or more",
            ),
            (None, None) => return,
        };
        let diagnostic = Diagnostic::error("conflicting-keys", after.key.clone(), message).help(help);
        self.found.push(diagnostic.related(other, "the other one"));
    }

    /// Where requests are sent as well; the outer `None` if something is wrong with it.
    #[expect(clippy::option_option, reason = "outer: right or wrong; inner: there or not")]
    fn mirror(&mut self, route: &file::Route) -> Option<Option<Mirror>> {
        let Some(written) = &route.mirror else {
            return (!route.has("mirror")).then_some(None);
        };
        if !route.has("upstream") {
            let message = "`mirror` is for `upstream`: nothing else is mirrored";
            self.warning("no-effect", written.key.clone(), message, "leave it out");
        }
        let nothing = file::Mirror::default();
        let (name, table) = match &written.value {
            MirrorValue::Short(name) => (Some((name, &written.span)), &nothing),
            MirrorValue::Table(table) => {
                if !table.has("upstream") {
                    let header = file::Mirror::TABLE.header;
                    self.missing("upstream", header, table.span.clone(), "upstream = \"shadow\"");
                }
                let name = table.upstream.as_ref().map(|name| (&name.value, &name.span));
                (name, &**table)
            }
        };
        let (name, place) = name?;
        if let Some(own) = &route.upstream
            && own.value.names().any(|own| own == name)
        {
            let message = format!("`{name}` would get each request twice");
            let help = "name another upstream to mirror to; it may have the same endpoints";
            let diagnostic = Diagnostic::error("mirror-to-itself", place.clone(), message).help(help);
            self.found
                .push(diagnostic.related(own.span.clone(), "it answers them already"));
            return None;
        }
        Some(Some(Mirror {
            upstream: self.upstream_index(name, place)?,
            percent: u8::try_from(number(table.percent.as_ref(), 100)).unwrap_or(100),
            body_bytes_max: self.kept_body(table.body.as_ref(), 16 * 1024),
            timeout: seconds(table.timeout.as_ref(), 10),
        }))
    }

    fn listener_index(&mut self, wanted: &At<String>) -> Option<usize> {
        let listens = self.listens();
        let names: Vec<_> = listens
            .iter()
            .map(|listen| listen::name(listen).unwrap_or_default())
            .collect();
        let Some(index) = names.iter().position(|name| *name == wanted.value) else {
            let help = match nearest(&wanted.value, names.iter().map(String::as_str)) {
                Some(name) => format!("did you mean \"{name}\"?"),
                None => format!(
                    "listeners are called: {}; `name` gives one another name",
                    names.join(", ")
                ),
            };
            let message = format!("there is no listener `{}`", wanted.value);
            self.error("unknown-listener", wanted.span.clone(), message, help);
            return None;
        };
        if listen::mode(&listens[index]) == Mode::Tcp {
            let message = format!(
                "the listener `{}` is in tcp mode, where nothing is routed",
                wanted.value
            );
            let diagnostic = Diagnostic::error("bad-listener", wanted.span.clone(), message)
                .help("name a listener in http mode")
                .related(listens[index].span.clone(), "this one");
            self.found.push(diagnostic);
            return None;
        }
        Some(index)
    }

    /// All actions are looked at, so that all that is wrong with them is told at once.
    fn action(&mut self, table: &file::Route, roots: &mut Roots) -> Option<Action> {
        let is_one = self.check_one_action(table);
        let upstream = table
            .upstream
            .as_ref()
            .map(|upstreams| self.split(upstreams).map(Action::Forward));
        let redirect = table.redirect.as_ref().map(|redirect| self.redirect(redirect));
        let respond = table.respond.as_ref().map(|respond| self.respond(respond));
        let files = table.files.as_ref().map(|files| {
            roots.0.push(self.root(files)?);
            roots.1.push(match &files.value {
                FilesAction::Short(_) => std::iter::once(files.key.start..files.span.end).collect(),
                FilesAction::Table(own) => own.places(),
            });
            Some(Action::Serve(roots.0.len() - 1))
        });
        let action = upstream.or(redirect).or(respond).or(files).flatten();
        action.filter(|_| is_one)
    }

    fn check_one_action(&mut self, table: &file::Route) -> bool {
        let written = table.written.iter().filter(|(key, _)| ACTIONS.contains(key));
        let mut written: Vec<_> = written.collect();
        written.sort_by_key(|(_, place)| place.start);
        match written.as_slice() {
            [_] => return true,
            [] => {
                let message = "this route does nothing";
                let help = "write one of: upstream = \"NAME\", files = \"/dir\", redirect = \"https://…\", respond = 404";
                self.error("no-action", table.span.clone(), message, help);
            }
            [first, second, ..] => {
                let message = format!(
                    "a route does one thing, this one `{}` and `{}`",
                    first.0, second.0
                );
                let diagnostic = Diagnostic::error("two-actions", second.1.clone(), message)
                    .help("leave one of them out, or write two routes")
                    .related(first.1.clone(), "the other one");
                self.found.push(diagnostic);
            }
        }
        false
    }

    fn redirect(&mut self, redirect: &At<RedirectAction>) -> Option<Action> {
        let (to, status) = match &redirect.value {
            RedirectAction::Short(to) => (Some(to), None),
            RedirectAction::Table(table) => {
                if !table.has("to") {
                    let example = "to = \"https://{host}{uri}\"";
                    self.missing("to", "[route.redirect]", table.span.clone(), example);
                }
                (table.to.as_ref().map(|to| &to.value), table.status.as_ref())
            }
        };
        let code = status.map_or(308, |status| status.value.0);
        if let Some(status) = status.filter(|_| !REDIRECTS.contains(&code)) {
            let message = format!("{code} does not send a client elsewhere");
            self.error(
                "bad-status",
                status.span.clone(),
                message,
                "write 301, 302, 303, 307 or 308",
            );
        }
        Some(Action::Redirect {
            to: to?.0.clone(),
            status: status_code(code)?,
        })
    }

    fn respond(&mut self, respond: &At<RespondAction>) -> Option<Action> {
        let nothing = file::Respond::default();
        let (short, table) = match &respond.value {
            RespondAction::Short(status) => (Some((status.0, &respond.span)), &nothing),
            RespondAction::Table(table) => (None, &**table),
        };
        let written = table.status.as_ref().map(|status| (status.value.0, &status.span));
        let (code, place) = short.or(written).unwrap_or((200, &table.span));
        if !(200..=599).contains(&code) {
            let message = format!("{code} is not a status a request is answered with");
            self.error(
                "bad-status",
                place.clone(),
                message,
                "write a status from 200 to 599",
            );
        }
        let body = table.body.as_ref().filter(|body| !body.value.0.is_empty());
        if let Some(body) = body.filter(|_| matches!(code, 204 | 205 | 304)) {
            let message = format!("an answer with status {code} has no body");
            let help = "leave `body` out, or write another status";
            self.error("bad-status", body.span.clone(), message, help);
        }
        let kind = table.r#type.as_ref();
        Some(Action::Respond {
            status: status_code(code)?,
            body: body.map_or_else(|| Arc::from(""), |body| body.value.0.as_str().into()),
            content_type: kind
                .map_or("text/plain; charset=utf-8", |kind| &kind.value)
                .into(),
        })
    }

    fn root(&mut self, files: &At<FilesAction>) -> Option<files::Settings> {
        let nothing = file::Files::default();
        let (short, table) = match &files.value {
            FilesAction::Short(root) => (Some((root, &files.span)), &nothing),
            FilesAction::Table(table) => (None, &**table),
        };
        let root = short.or_else(|| table.root.as_ref().map(|root| (&root.value, &root.span)));
        if root.is_none() && !table.has("root") {
            self.missing("root", "[route.files]", table.span.clone(), "root = \"/var/www\"");
        }
        let index = match &table.index {
            Some(index) => values(Some(index), |name| name.0.clone()),
            None => vec!["index.html".to_owned()],
        };
        let (written, place) = root?;
        Some(files::Settings {
            root: self.folder(written, place)?,
            index,
            listing: is_on(table.listing.as_ref(), false),
            fallback: table.fallback.as_ref().map(|fallback| fallback.value.0.clone()),
            precompressed: is_on(table.precompressed.as_ref(), true),
            dotfiles: is_on(table.dotfiles.as_ref(), false),
        })
    }

    /// A folder that is there.
    fn folder(&mut self, written: &Path, place: &Range<usize>) -> Option<PathBuf> {
        let path = self.path(written);
        let shown = path.display();
        let (code, message, help) = match std::fs::metadata(&path) {
            Ok(facts) if facts.is_dir() => return Some(path),
            Ok(_) => {
                let message = format!("`{shown}` is not a folder");
                ("not-a-folder", message, "name the folder the files are in")
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let help = "name one that exists; relative paths start at the configuration's folder";
                ("missing-file", format!("there is no folder `{shown}`"), help)
            }
            Err(error) => {
                let message = format!("cannot read the folder `{shown}`: {error}");
                (
                    "unreadable-file",
                    message,
                    "let the user that runs Atlas read this folder",
                )
            }
        };
        self.error(code, place.clone(), message, help);
        None
    }

    fn tie(&mut self, first: &file::Route, second: &file::Route) {
        let message = "two routes take the same requests, and neither is more specific";
        let diagnostic = Diagnostic::error("tie", second.span.clone(), message)
            .help("give one of them another host, path, method, header or listener, or leave it out")
            .related(first.span.clone(), "the other one");
        self.found.push(diagnostic);
    }

    fn routes_without_listener(&mut self) {
        let is_tcp = |listen: &file::Listen| listen::mode(listen) == Mode::Tcp;
        let none_asks = !self.listens().is_empty() && self.listens().iter().all(is_tcp);
        if let Some(first) = self.route_tables().first().filter(|_| none_asks) {
            let message = "no listener is in http mode: no request will come to a route";
            let help = "take `mode = \"tcp\"` out of a listener, or leave the routes out";
            self.warning("unused-route", first.span.clone(), message, help);
        }
    }
}

/// Whether all that a route asks for could be read; else it might seem to tie with another.
fn is_read(table: &file::Route) -> bool {
    [
        ("host", table.host.is_some()),
        ("path", table.path.is_some()),
        ("path_exact", table.path_exact.is_some()),
        ("method", table.method.is_some()),
        ("header", table.header.is_some()),
        ("listen", table.listen.is_some()),
    ]
    .into_iter()
    .all(|(key, is_there)| is_there || !table.has(key))
}

fn status_code(code: u64) -> Option<StatusCode> {
    StatusCode::from_u16(u16::try_from(code).ok()?).ok()
}
