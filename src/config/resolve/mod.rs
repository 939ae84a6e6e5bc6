//! What the tables mean together: names to indexes, paths to files, defaults to values.

mod affinity;
mod health;
mod listen;
mod names;
mod route;
mod split;
mod tls;
mod upstream;

use std::net::SocketAddr;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::Lines;
use super::error::{Diagnostic, nearest};
use super::file::{self, File, Limits, Timeouts};
use super::read::{At, Number};
use super::values::{AddressAndPort, LogFormat, Size, Time};
use crate::generation::Generation;
use crate::offload::Offload;
use crate::outcome::Refusal;
use crate::runtime::Address;
use crate::upstream::EndpointSettings;
use crate::{access_log, http, time};

/// Heads are kept whole in memory, so there is a bound to what can be configured.
const HEAD_BYTES: RangeInclusive<u64> = 1024..=1024 * 1024;

/// What is kept of a request's body, to be sent again or to a mirror, is held once for each request.
const KEPT_BODY_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// RFC 9113 §6.9.1: no window is larger than 2 GiB; and whoever allows one may have to hold as much.
const HTTP2_WINDOW_BYTES: RangeInclusive<u64> = 64 * 1024..=1024 * 1024 * 1024;

/// The keys that decide whether a connection comes to a listener, and what is done with it.
const LISTEN_KEYS: &[&str] = &["address", "port", "name", "mode", "tls", "upstream"];

/// The keys that decide where an upstream is, who of it is asked, and how; beside its tables
/// `sticky`, `health` and `outliers`.
const UPSTREAM_KEYS: &[&str] = &[
    "endpoints",
    "endpoints_file",
    "balance",
    "hash",
    "requests_max",
    "hash_balance_factor",
    "queue_max",
    "queue_timeout",
    "host",
    "connect_timeout",
    "response_timeout",
    "idle_timeout",
    "pool_idle_max",
    "pool_idle_timeout",
    "pool_lifetime",
    "http2",
    "http2_window",
    "tls",
    "proxy_protocol",
    "slow_start",
    "panic_below",
    "retry_budget",
];

/// Makes a generation of the tables; `None` if something is wrong, which `found` then tells.
pub(super) fn resolve(
    file: &File,
    folder: &Path,
    earlier: Option<&Generation>,
    found: &mut Vec<Diagnostic>,
) -> Option<(Generation, Lines)> {
    let mut resolver = Resolver {
        file,
        folder,
        earlier: earlier.map(tls::of_generation).unwrap_or_default(),
        now: time::wall(),
        found,
    };
    resolver.generation()
}

/// The endpoints of a file of their own, for this upstream.
pub(super) fn endpoints(
    file: &file::EndpointsFile,
    upstream: &crate::upstream::Settings,
    found: &mut Vec<Diagnostic>,
) -> Option<Vec<EndpointSettings>> {
    let mut resolver = Resolver {
        file: &File::default(),
        folder: Path::new(""),
        earlier: Vec::new(),
        now: time::wall(),
        found,
    };
    resolver.endpoints_of(file, upstream)
}

struct Resolver<'a> {
    file: &'a File,
    folder: &'a Path,
    /// TLS of the generation before.
    earlier: Vec<Arc<crate::tls::Settings>>,
    now: SystemTime,
    found: &'a mut Vec<Diagnostic>,
}

impl Resolver<'_> {
    /// Everything is looked at before the first `?`, so that all errors are found.
    fn generation(&mut self) -> Option<(Generation, Lines)> {
        let file = self.file;
        let listeners = self.listeners();
        let upstreams = self.upstreams();
        let resolver = self.names();
        let routes = self.routes();
        let http = self.http();
        let access_log = self.access_log();
        let admin = self.admin();
        let (listeners, certificates): (Vec<_>, Vec<_>) = listeners?.into_iter().unzip();
        let (routes, (roots, root_places)) = routes?;
        let lines = Lines {
            source: Arc::default(),
            workers: file
                .workers
                .as_ref()
                .filter(|workers| workers.value.0.is_some())
                .map(|workers| workers.key.clone()),
            listeners: self
                .listens()
                .iter()
                .map(|listen| listen.places_of(LISTEN_KEYS))
                .collect(),
            certificates,
            routes: self.route_tables().iter().map(file::Route::places).collect(),
            upstreams: self.upstream_places(),
            roots: root_places,
            connections_max: self.connections_max_places(),
            listener_ktls: self.listener_ktls_places(),
            upstream_ktls: self.upstream_ktls_places(),
        };
        let timeouts = file.timeouts.as_ref().map(|timeouts| &timeouts.value);
        let generation = Generation {
            number: 1,
            workers: file.workers.as_ref().and_then(|workers| workers.value.0),
            trusted_proxies: values(file.trusted_proxies.as_ref(), |network| network.0),
            listeners,
            routes,
            upstreams: upstreams?,
            resolver,
            roots,
            http,
            // Whoever runs it finds out; to read a file it does not matter.
            offload: Offload::absent(Refusal::NoUlp).into(),
            handshake_timeout: seconds(timeouts.and_then(|timeouts| timeouts.handshake.as_ref()), 10),
            drain_timeout: seconds(timeouts.and_then(|timeouts| timeouts.drain.as_ref()), 30),
            access_log,
            admin,
        };
        Some((generation, lines))
    }

    fn http(&mut self) -> http::Settings {
        let nothing = (Timeouts::default(), Limits::default());
        let timeouts = self
            .file
            .timeouts
            .as_ref()
            .map_or(&nothing.0, |timeouts| &timeouts.value);
        let limits = self
            .file
            .limits
            .as_ref()
            .map_or(&nothing.1, |limits| &limits.value);
        self.check_limits(limits);
        http::Settings {
            header_timeout: seconds(timeouts.header.as_ref(), 10),
            body_timeout: seconds(timeouts.body.as_ref(), 30),
            idle_timeout: seconds(timeouts.idle.as_ref(), 60),
            write_timeout: seconds(timeouts.write.as_ref(), 30),
            tunnel_timeout: seconds(timeouts.tunnel.as_ref(), 3600),
            head_bytes_max: to_usize(head_bytes(limits)),
            fields_max: limits
                .fields
                .as_ref()
                .map_or(100, |fields| to_usize(fields.value.0)),
            request_line_bytes_max: to_usize(request_line_bytes(limits)),
            body_bytes_max: limits.body.as_ref().and_then(|body| body.value.0),
            min_rate: bytes(limits.min_rate.as_ref(), 240),
            h2: self.http2(limits),
        }
    }

    fn http2(&mut self, limits: &Limits) -> http::h2::Settings {
        let default = http::h2::Settings::default();
        let Some(written) = limits.http2.as_ref().map(|http2| &http2.value) else {
            return default;
        };
        let window = bytes(written.window.as_ref(), default.window_bytes.into());
        if !HTTP2_WINDOW_BYTES.contains(&window) {
            let help = "write a size from \"64KiB\" to \"1GiB\"";
            let place = span(written.window.as_ref());
            self.error("out-of-range", place, "`window` is out of range", help);
        }
        http::h2::Settings {
            streams_max: number(written.streams.as_ref(), default.streams_max),
            window_bytes: u32::try_from(window).unwrap_or(default.window_bytes),
            resets_max: number(written.resets.as_ref(), default.resets_max),
            overhead_max: number(written.overhead.as_ref(), default.overhead_max),
        }
    }

    fn check_limits(&mut self, limits: &Limits) {
        let (head, line) = (head_bytes(limits), request_line_bytes(limits));
        if !HEAD_BYTES.contains(&head) {
            let help = "write a size from \"1KiB\" to \"1MiB\"";
            self.error(
                "out-of-range",
                span(limits.head.as_ref()),
                "`head` is out of range",
                help,
            );
        } else if line == 0 {
            let help = "write a size: request_line = \"8KiB\"";
            let place = span(limits.request_line.as_ref());
            self.error("out-of-range", place, "no request has an empty first line", help);
        } else if line > head {
            let place = span(limits.request_line.as_ref().or(limits.head.as_ref()));
            let message = format!("`request_line` ({line} bytes) is a part of `head`, which has only {head}");
            let help = match line <= *HEAD_BYTES.end() {
                true => format!(
                    "write: head = \"{}KiB\" or more, or lower `request_line`",
                    line.div_ceil(1024)
                ),
                false => {
                    "write: request_line = \"8KiB\", or more: up to `head`, which may be \"1MiB\"".to_owned()
                }
            };
            self.error("limit-conflict", place, message, help);
        }
    }

    fn access_log(&mut self) -> access_log::Settings {
        let log = self.file.access_log.as_ref().map(|log| &log.value);
        let enabled = is_on(log.and_then(|log| log.enabled.as_ref()), true);
        let written = log
            .and_then(|log| log.path.as_ref())
            .filter(|path| path.value != Path::new("-"));
        let path = written.map(|written| self.path(&written.value));
        if let (true, Some(written), Some(path)) = (enabled, written, &path) {
            self.check_log_path(written, path);
        }
        let format = log.and_then(|log| log.format.as_ref()).map(|format| format.value);
        access_log::Settings {
            enabled,
            format: match format {
                Some(LogFormat::Json) => access_log::Format::Json,
                Some(LogFormat::Combined) | None => access_log::Format::Combined,
            },
            path,
        }
    }

    fn check_log_path(&mut self, written: &At<PathBuf>, path: &Path) {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        if path.is_dir() {
            let message = format!("`{}` is a folder", path.display());
            let help = "name a file in it: \"access.log\"";
            self.error("not-a-file", written.span.clone(), message, help);
        } else if folder.is_some_and(|folder| !folder.is_dir()) {
            let message = format!("there is no folder for `{}`", path.display());
            let help = "make the folder, and let the user that runs Atlas write to it";
            self.error("missing-file", written.span.clone(), message, help);
        }
    }

    fn admin(&mut self) -> Option<SocketAddr> {
        let table = &self.file.admin.as_ref()?.value;
        if !table.has("address") {
            let example = "address = \"127.0.0.1:9901\"";
            self.missing("address", "[admin]", table.span.clone(), example);
        }
        let written = table.address.as_ref()?;
        let AddressAndPort(address) = written.value;
        let is_taken = |listen: &&file::Listen| {
            listen::address(listen).is_some_and(|taken| taken.overlaps(&Address::Tcp(address)))
        };
        if let Some(taken) = self.listens().iter().find(is_taken) {
            let message = format!("`{address}` is a listener already");
            let diagnostic = Diagnostic::error("duplicate-listener", written.span.clone(), message)
                .help("give metrics and health an address of their own")
                .related(taken.span.clone(), "the listener");
            self.found.push(diagnostic);
        }
        Some(address)
    }

    /// A path of the file: relative ones begin at the file's folder.
    fn path(&self, written: &Path) -> PathBuf {
        self.folder.join(written)
    }

    fn error(
        &mut self,
        code: &'static str,
        span: Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.found.push(Diagnostic::error(code, span, message).help(help));
    }

    fn warning(
        &mut self,
        code: &'static str,
        span: Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.found
            .push(Diagnostic::warning(code, span, message).help(help));
    }

    /// A key that has to be there is not.
    fn missing(&mut self, key: &str, header: &str, table: Range<usize>, example: &str) {
        let message = format!("`{header}` has no `{key}`");
        self.error("missing-key", table, message, format!("write: {example}"));
    }

    /// The index of an upstream; says so if there is none of this name.
    fn upstream_index(&mut self, name: &str, place: &Range<usize>) -> Option<usize> {
        if self.file.has("upstream") && self.file.upstream.is_none() {
            return None; // none of them could be read
        }
        let names: Vec<_> = self.upstream_names().collect();
        let index = names.iter().position(|known| *known == name);
        if index.is_none() {
            let help = match nearest(name, names.iter().copied()) {
                Some(known) => format!("did you mean \"{known}\"?"),
                None if name.contains(':') => {
                    "write a name here, upstream = \"app\", and [upstream.app] with the address in `endpoints`"
                        .to_owned()
                }
                None => format!(
                    "write a table [upstream.{}] with `endpoints`",
                    toml_key(name)
                ),
            };
            let message = format!("there is no upstream `{name}`");
            self.error("unknown-upstream", place.clone(), message, help);
        }
        index
    }
}

fn head_bytes(limits: &Limits) -> u64 {
    bytes(limits.head.as_ref(), 32 * 1024)
}

/// The default gives way to a smaller head that is written.
fn request_line_bytes(limits: &Limits) -> u64 {
    bytes(limits.request_line.as_ref(), head_bytes(limits).min(8 * 1024))
}

/// A name as a key of TOML.
fn toml_key(name: &str) -> String {
    let is_bare = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    match !name.is_empty() && name.bytes().all(is_bare) {
        true => name.to_owned(),
        false => format!("{name:?}"),
    }
}

fn span<T>(at: Option<&At<T>>) -> Range<usize> {
    at.map_or(0..0, |at| at.span.clone())
}

fn seconds(time: Option<&At<Time>>, default: u64) -> Duration {
    time.map_or_else(|| Duration::from_secs(default), |time| time.value.0)
}

fn bytes(size: Option<&At<Size>>, default: u64) -> u64 {
    size.map_or(default, |size| size.value.0)
}

fn number<const MIN: u64, const MAX: u64>(written: Option<&At<Number<MIN, MAX>>>, default: u32) -> u32 {
    written.map_or(default, |number| {
        u32::try_from(number.value.0).unwrap_or(u32::MAX)
    })
}

fn is_on(flag: Option<&At<bool>>, default: bool) -> bool {
    flag.map_or(default, |flag| flag.value)
}

fn values<T, U>(list: Option<&At<Vec<At<T>>>>, value: impl Fn(&T) -> U) -> Vec<U> {
    list.map(|list| list.value.iter().map(|member| value(&member.value)).collect())
        .unwrap_or_default()
}

fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
