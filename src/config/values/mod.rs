//! The words of the configuration file: sizes, times, addresses, patterns, each with its own errors.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use toml::de::DeValue;

use super::error::{Diagnostic, nearest};
use super::read::{Number, Place, Read, Word, Wrong, wrong_type};
use crate::route;
use crate::runtime::Address;
use crate::upstream::{EndpointAddress, HashKey, ProxyProtocol};

/// A time, longer than nothing: `"30s"`, `"1m30s"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time(pub Duration);

/// As it is read.
impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.subsec_nanos() {
            0 => write!(f, "{}s", self.0.as_secs()),
            _ => write!(f, "{}ms", self.0.as_millis()),
        }
    }
}

/// Units of time, in milliseconds.
const TIMES: &[(&str, u64)] = &[
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

impl Word for Time {
    const EXPECTS: &'static str = "a time";
    const EXAMPLE: &'static str = "\"30s\"";
    const CODE: &'static str = "bad-time";

    fn parse(text: &str) -> Result<Self, Wrong> {
        let help = "write a number and a unit (ms, s, m, h, d): \"30s\"";
        let wrong = || Wrong::new(format!("`{text}` is not a time"), help);
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            // What is no time with a unit either is told as that.
            text.parse::<u32>().map_err(|_| wrong())?;
            Self::parse(&format!("{text}s"))?;
            return Err(Wrong::new(
                "a time needs a unit",
                format!("write \"{text}s\" for seconds, or \"{text}ms\""),
            ));
        }
        let (mut rest, mut sum) = (text, 0_u64);
        while !rest.is_empty() {
            let (number, after) = split_number(rest).ok_or_else(wrong)?;
            let end = after
                .find(|letter: char| letter.is_ascii_digit())
                .unwrap_or(after.len());
            let (unit, after) = after.split_at(end);
            let (_, milliseconds) = TIMES
                .iter()
                .find(|(name, _)| *name == unit.trim())
                .ok_or_else(wrong)?;
            sum = number
                .checked_mul(*milliseconds)
                .and_then(|part| sum.checked_add(part))
                .ok_or_else(|| Wrong::new(format!("`{text}` is longer than Atlas can count"), help))?;
            rest = after;
        }
        match (text.is_empty(), sum) {
            (true, _) => Err(wrong()),
            (_, 0) => Err(Wrong::new("a time of zero would end everything at once", help)),
            _ => Ok(Self(Duration::from_millis(sum))),
        }
    }
}

/// A number of bytes: `"64KiB"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

/// Units of size, in bytes.
const SIZES: &[(&str, u64)] = &[
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("KB", 1_000),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

impl Word for Size {
    const EXPECTS: &'static str = "a size";
    const EXAMPLE: &'static str = "\"64KiB\"";
    const CODE: &'static str = "bad-size";

    fn parse(text: &str) -> Result<Self, Wrong> {
        let help = "write a whole number and a unit (B, KiB, MiB, GiB, TiB): \"64KiB\"";
        let wrong = || Wrong::new(format!("`{text}` is not a size"), help);
        let (number, unit) = split_number(text).ok_or_else(wrong)?;
        let unit = unit.trim();
        if unit.is_empty() {
            return Err(Wrong::new(
                "a size needs a unit",
                format!("write \"{number}B\" for bytes, or \"{number}KiB\""),
            ));
        }
        let Some((_, bytes)) = SIZES.iter().find(|(name, _)| *name == unit) else {
            let first = |unit: &str| unit.chars().next().map(|letter| letter.to_ascii_lowercase());
            let meant = SIZES.iter().find(|(name, _)| first(name) == first(unit));
            return Err(match meant {
                Some((name, bytes)) if unit.len() <= 3 && number.checked_mul(*bytes).is_some() => Wrong::new(
                    format!("`{unit}` is not a unit of size"),
                    format!("did you mean \"{number}{name}\"?"),
                ),
                _ => wrong(),
            });
        };
        number
            .checked_mul(*bytes)
            .map(Self)
            .ok_or_else(|| Wrong::new(format!("`{text}` is more than Atlas can count"), help))
    }
}

fn split_number(text: &str) -> Option<(u64, &str)> {
    let end = text
        .find(|letter: char| !letter.is_ascii_digit())
        .unwrap_or(text.len());
    Some((text[..end].parse().ok()?, &text[end..]))
}

/// A number of bytes, or `"unlimited"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound(pub Option<u64>);

impl Word for Bound {
    const EXPECTS: &'static str = "a size or \"unlimited\"";
    const EXAMPLE: &'static str = "\"64KiB\"";
    const CODE: &'static str = "bad-size";

    fn parse(text: &str) -> Result<Self, Wrong> {
        if text == "unlimited" {
            return Ok(Self(None));
        }
        Size::parse(text)
            .map(|Size(bytes)| Self(Some(bytes)))
            .map_err(|wrong| match wrong.help.ends_with('?') {
                true => wrong,
                false => Wrong::new(wrong.message, format!("{}, or \"unlimited\"", wrong.help)),
            })
    }
}

/// How many workers; `None`: one for each core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workers(pub Option<usize>);

/// More threads than cores only cost; this is more than any machine has.
const WORKERS_MAX: u64 = 1024;

impl Read for Workers {
    const EXPECTS: &'static str = "\"auto\" or a whole number";

    fn read(value: &DeValue<'_>, place: &Place<'_>, found: &mut Vec<Diagnostic>) -> Option<Self> {
        match value.as_str() {
            Some("auto") => Some(Self(None)),
            Some(word) if word.parse::<u64>().is_err() => {
                let message = format!("`workers` must be {}, not \"{word}\"", Self::EXPECTS);
                let help = "write: workers = \"auto\"";
                found.push(Diagnostic::error("wrong-type", place.span.clone(), message).help(help));
                None
            }
            _ => Number::<1, WORKERS_MAX>::read(value, place, found)
                .map(|Number(count)| Self(usize::try_from(count).ok())),
        }
    }
}

/// Defines a closed list of words.
macro_rules! one_of {
    ($(#[$meta:meta])* $name:ident $expects:literal, $example:literal { $($(#[$doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$doc])* $variant,)+ }

        impl Word for $name {
            const EXPECTS: &'static str = $expects;
            const EXAMPLE: &'static str = $example;
            const CODE: &'static str = "bad-value";

            fn parse(text: &str) -> Result<Self, Wrong> {
                match text {
                    $($text => Ok(Self::$variant),)+
                    _ => Err(unknown_word(text, $expects, &[$($text),+])),
                }
            }
        }
    };
}

fn unknown_word(text: &str, expects: &str, known: &[&str]) -> Wrong {
    let is_word = text.contains(char::is_alphabetic);
    let help = match nearest(text, known.iter().copied()) {
        Some(word) if is_word => format!("did you mean \"{word}\"?"),
        _ => format!("write {expects}"),
    };
    Wrong::new(format!("\"{text}\" is not known here"), help)
}

one_of! {
    /// What is spoken on a listener.
    Mode "\"http\" or \"tcp\"", "\"http\"" {
        /// Requests, by the routes.
        Http = "http",
        /// Bytes, to one upstream.
        Tcp = "tcp",
    }
}

one_of! {
    /// The least version of TLS.
    MinVersion "\"1.2\" or \"1.3\"", "\"1.2\"" {
        /// TLS 1.2.
        Tls12 = "1.2",
        /// TLS 1.3.
        Tls13 = "1.3",
    }
}

one_of! {
    /// How an endpoint is chosen.
    Balance "\"round_robin\", \"least_connections\", \"two_choices\" or \"hash\"", "\"two_choices\"" {
        /// In turn.
        RoundRobin = "round_robin",
        /// The one with the fewest exchanges.
        LeastConnections = "least_connections",
        /// The better of two.
        TwoChoices = "two_choices",
        /// By a key of the request.
        Hash = "hash",
    }
}

one_of! {
    /// Whether a cookie is sent with requests that other sites make.
    SameSite "\"lax\", \"strict\" or \"none\"", "\"lax\"" {
        /// When a link is followed.
        Lax = "lax",
        /// Never.
        Strict = "strict",
        /// Always.
        None = "none",
    }
}

/// By what endpoints are chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashBy(pub HashKey);

impl Word for HashBy {
    const EXPECTS: &'static str = "\"client_address\", \"path\", \"header:NAME\" or \"cookie:NAME\"";
    const EXAMPLE: &'static str = "\"client_address\"";
    const CODE: &'static str = "bad-value";

    fn parse(text: &str) -> Result<Self, Wrong> {
        let named = |name: &str| match is_token(name) {
            true => Ok(name.into()),
            false => Err(Wrong::new(
                format!("`{name}` cannot be a name there"),
                "write letters, digits and `-`: \"header:X-User\", \"cookie:session\"",
            )),
        };
        match text.split_once(':') {
            _ if text == "client_address" => Ok(Self(HashKey::ClientAddress)),
            _ if text == "path" => Ok(Self(HashKey::Path)),
            Some(("header", name)) => named(name).map(HashKey::Header).map(Self),
            Some(("cookie", name)) => named(name).map(HashKey::Cookie).map(Self),
            _ => {
                let known = ["client_address", "path", "header:NAME", "cookie:NAME"];
                Err(unknown_word(text, <Self as Word>::EXPECTS, &known))
            }
        }
    }
}

/// The name of a cookie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CookieName(pub Arc<str>);

impl Word for CookieName {
    const EXPECTS: &'static str = "a cookie's name";
    const EXAMPLE: &'static str = "\"srv\"";
    const CODE: &'static str = "bad-value";

    fn parse(text: &str) -> Result<Self, Wrong> {
        match is_token(text) {
            true => Ok(Self(text.into())),
            false => Err(Wrong::new(
                format!("`{text}` cannot be the name of a cookie"),
                "write letters, digits, `-` and `_`: \"srv\"",
            )),
        }
    }
}

/// RFC 9110 §5.6.2: what names of fields, and of cookies, are made of.
fn is_token(text: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_letter)
}

one_of! {
    /// How a record is written.
    LogFormat "\"combined\" or \"json\"", "\"combined\"" {
        /// As nginx and Apache call it.
        Combined = "combined",
        /// One object a line.
        Json = "json",
    }
}

/// A network: `"10.0.0.0/8"`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(pub IpNet);

impl Word for Network {
    const EXPECTS: &'static str = "a network";
    const EXAMPLE: &'static str = "\"10.0.0.0/8\"";
    const CODE: &'static str = "bad-network";

    fn parse(text: &str) -> Result<Self, Wrong> {
        let help = "write an address or a network: \"10.0.0.0/8\", \"fd00::/8\", \"192.0.2.7\"";
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self(address.into()));
        }
        let network: IpNet = text
            .parse()
            .map_err(|_| Wrong::new(format!("`{text}` is not a network"), help))?;
        if network.trunc() == network {
            return Ok(Self(network));
        }
        Err(Wrong::new(
            format!("`{text}` is an address inside a network, not the network"),
            format!("did you mean \"{}\", or \"{}\"?", network.trunc(), network.addr()),
        ))
    }
}

/// Where to listen: an IP address, or a Unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// TCP; the port stands in a key of its own.
    Ip(IpAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl Word for ListenAddress {
    const EXPECTS: &'static str = "an IP address or \"unix:/path\"";
    const EXAMPLE: &'static str = "\"0.0.0.0\"";
    const CODE: &'static str = "bad-address";

    fn parse(text: &str) -> Result<Self, Wrong> {
        if let Some(path) = text.strip_prefix("unix:") {
            return unix_path(path).map(Self::Unix);
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::Ip(address));
        }
        let message = format!("`{text}` is not an IP address");
        if let Ok(both) = text.parse::<SocketAddr>() {
            let help = format!(
                "write the port in a line of its own: address = \"{}\", port = {}",
                both.ip(),
                both.port()
            );
            return Err(Wrong::new(message, help));
        }
        let bare = text.trim_start_matches('[').trim_end_matches(']');
        Err(Wrong::new(
            message,
            match bare.parse::<IpAddr>() {
                Ok(address) => format!("write it without brackets: \"{address}\""),
                Err(_) if text.starts_with('/') => format!("for a Unix socket write \"unix:{text}\""),
                Err(_) if text == "localhost" => "write \"127.0.0.1\" or \"::1\"".to_owned(),
                Err(_) => {
                    "write \"0.0.0.0\" for all of IPv4, \"::\" for all of IPv6, or an address of this machine"
                        .to_owned()
                }
            },
        ))
    }
}

/// The longest path the kernel takes for a Unix socket.
const UNIX_PATH_BYTES_MAX: usize = 107;

fn unix_path(path: &str) -> Result<PathBuf, Wrong> {
    let help = "write \"unix:/run/app.sock\"";
    if path.is_empty() || path.contains('\0') {
        return Err(Wrong::new("`unix:` needs a path", help));
    }
    if !path.starts_with('/') {
        // The kernel would begin at the folder Atlas was started in, which is another one under systemd.
        return Err(Wrong::new("the path of a Unix socket begins with `/`", help));
    }
    if path.len() > UNIX_PATH_BYTES_MAX {
        let message = format!(
            "the path of a Unix socket has at most {UNIX_PATH_BYTES_MAX} bytes, this one {}",
            path.len()
        );
        return Err(Wrong::new(message, help));
    }
    Ok(path.into())
}

/// An IP address and a port, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressAndPort(pub SocketAddr);

impl Word for AddressAndPort {
    const EXPECTS: &'static str = "an IP address with a port";
    const EXAMPLE: &'static str = "\"127.0.0.1:9901\"";
    const CODE: &'static str = "bad-address";

    fn parse(text: &str) -> Result<Self, Wrong> {
        if let Some(address) = text
            .parse()
            .ok()
            .filter(|address: &SocketAddr| address.port() != 0)
        {
            return Ok(Self(address));
        }
        let help = match text.parse::<IpAddr>() {
            Ok(IpAddr::V4(address)) => format!("a port is missing: \"{address}:9901\""),
            Ok(IpAddr::V6(address)) => format!("a port is missing: \"[{address}]:9901\""),
            Err(_) => "write an IP address and a port: \"127.0.0.1:9901\"".to_owned(),
        };
        Err(Wrong::new(
            format!("`{text}` is not an IP address with a port"),
            help,
        ))
    }
}

/// A server that knows names, at its usual port or another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameServer(pub SocketAddr);

/// RFC 1035 §4.2: "server port 53".
const NAME_PORT: u16 = 53;

impl Word for NameServer {
    const EXPECTS: &'static str = "an IP address";
    const EXAMPLE: &'static str = "\"10.0.0.53\"";
    const CODE: &'static str = "bad-address";

    fn parse(text: &str) -> Result<Self, Wrong> {
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Self(SocketAddr::new(ip, NAME_PORT)));
        }
        let address = text.parse::<SocketAddr>().ok();
        let address = address.filter(|address| address.port() != 0);
        address.map(Self).ok_or_else(|| {
            Wrong::new(
                format!("`{text}` is not the address of a server"),
                "write an IP address, with a port if it is not 53: \"127.0.0.1:5353\"",
            )
        })
    }
}

/// Where an upstream can be reached.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint(pub EndpointAddress);

impl Word for Endpoint {
    const EXPECTS: &'static str = "\"host:port\", \"unix:/path\" or \"srv:NAME\"";
    const EXAMPLE: &'static str = "\"127.0.0.1:3000\"";
    const CODE: &'static str = "bad-endpoint";

    fn parse(text: &str) -> Result<Self, Wrong> {
        if let Some(path) = text.strip_prefix("unix:") {
            return unix_path(path).map(|path| Self(EndpointAddress::Socket(Address::Unix(path))));
        }
        if let Some(name) = text.strip_prefix("srv:") {
            return service(name).map(|name| Self(EndpointAddress::Service(name)));
        }
        if let Some((scheme, rest)) = text.split_once("://") {
            return Err(url_for_endpoint(scheme, rest));
        }
        if let Some(address) = v6_without_brackets(text) {
            return Err(Wrong::new(
                format!("`{text}` is not an endpoint"),
                format!("write the address in brackets: \"{address}\""),
            ));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            let with_port = SocketAddr::new(address, 3000);
            return Err(Wrong::new(
                format!("`{text}` has no port"),
                format!("write the port behind it: \"{with_port}\""),
            ));
        }
        if let Some(address) = text
            .parse()
            .ok()
            .filter(|address: &SocketAddr| address.port() != 0)
        {
            return Ok(Self(EndpointAddress::Socket(Address::Tcp(address))));
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(|| without_port(text))?;
        let port = port.parse::<u16>().ok().filter(|port| *port != 0);
        match port {
            // No top-level domain is a number; the resolver would be asked for it again and again.
            Some(_) if ends_in_a_number(host) => Err(Wrong::new(
                format!("`{host}` is not an IPv4 address"),
                "write four numbers from 0 to 255: \"127.0.0.1:3000\"",
            )),
            Some(port) if is_host_name(host) => Ok(Self(EndpointAddress::Name(
                host.to_ascii_lowercase().into(),
                port,
            ))),
            Some(_) => Err(Wrong::new(
                format!("`{host}` is not a host name"),
                "write \"app.internal:3000\"",
            )),
            None => Err(Wrong::new(
                format!("`{text}` has no port from 1 to 65535"),
                format!("write {}", or_example::<Self>(&format!("{host}:3000"))),
            )),
        }
    }
}

fn ends_in_a_number(host: &str) -> bool {
    let name = host.strip_suffix('.').unwrap_or(host);
    let last = name.rsplit('.').next().unwrap_or(name);
    !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit())
}

/// The name of a service (RFC 2782: `_Service._Proto.Name`).
fn service(name: &str) -> Result<Arc<str>, Wrong> {
    let help = "write \"srv:_http._tcp.example.org\"";
    if let Some((host, port)) = name.split_once(':') {
        let message = format!("a service tells the port itself, and this is written: {port}");
        let written = service(host).map(|_| format!("write \"srv:{host}\""));
        return Err(Wrong::new(message, written.unwrap_or_else(|_| help.to_owned())));
    }
    let mut labels = name.splitn(3, '.');
    let mut is_marked = || {
        labels
            .next()
            .is_some_and(|label| label.len() > 1 && label.starts_with('_'))
    };
    let is_service = is_marked() && is_marked() && labels.next().is_some_and(|domain| !domain.is_empty());
    match is_service && is_host_name(name) {
        true => Ok(name.to_ascii_lowercase().into()),
        false => Err(Wrong::new(format!("`{name}` is not the name of a service"), help)),
    }
}

/// What is wrong with an endpoint that has a scheme.
fn url_for_endpoint(scheme: &str, rest: &str) -> Wrong {
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    let (port, beside) = match scheme {
        "https" => (443, ", and tls = true in the upstream"),
        _ => (80, ""),
    };
    let written = match Endpoint::parse(authority) {
        Ok(_) => format!("\"{authority}\""),
        Err(_) => or_example::<Endpoint>(&format!("{authority}:{port}")),
    };
    Wrong::new("an endpoint is no URL", format!("write {written}{beside}"))
}

fn without_port(text: &str) -> Wrong {
    match text.starts_with('/') {
        true => Wrong::new(
            format!("`{text}` is not an endpoint"),
            format!("for a Unix socket write \"unix:{text}\""),
        ),
        false => Wrong::new(
            format!("`{text}` has no port"),
            format!(
                "write the port behind it: {}",
                or_example::<Endpoint>(&format!("{text}:3000"))
            ),
        ),
    }
}

/// `::1:3000` is an address of its own, and hardly the one that is meant.
fn v6_without_brackets(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.rsplit_once(':')?;
    let is_port = port.len() > 1 && port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse().ok().filter(|_| is_port)?;
    Some(SocketAddr::new(IpAddr::V6(address.parse().ok()?), port))
}

/// Labels of letters, digits, `-` and `_`, joined by points.
pub fn is_host_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    name.len() <= 253 && name.split('.').all(label)
}

/// Which host a route asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host(pub route::HostPattern);

impl Word for Host {
    const EXPECTS: &'static str = "a host name";
    const EXAMPLE: &'static str = "\"a.example\"";
    const CODE: &'static str = "bad-host";

    fn parse(text: &str) -> Result<Self, Wrong> {
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let bracketed = |name: &str| {
            let inner = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
            inner.is_some_and(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok())
        };
        if is_host_name(&name) || bracketed(&name) {
            return Ok(Self(route::HostPattern::Exact(name)));
        }
        if let Some(rest) = name.strip_prefix("*.").filter(|rest| is_host_name(rest)) {
            return Ok(Self(route::HostPattern::Wildcard(rest.to_owned())));
        }
        let message = format!("`{text}` is not a host a route can ask for");
        let without_port = name
            .rsplit_once(':')
            .filter(|(host, port)| is_host_name(host) && port.parse::<u16>().is_ok());
        Err(Wrong::new(
            message,
            match without_port {
                Some((host, _)) => {
                    format!("write it without the port: \"{host}\" (`listen` binds a route to a listener)")
                }
                None if name == "*" => "leave `host` out: the route is then for any host".to_owned(),
                None if text.contains("://") => "write the name alone: \"a.example\"".to_owned(),
                None if name.contains('*') => "`*` stands for the first label only: \"*.example\"".to_owned(),
                None => "write \"a.example\" or \"*.example\"".to_owned(),
            },
        ))
    }
}

/// Which path a route asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UrlPath(pub String);

impl Word for UrlPath {
    const EXPECTS: &'static str = "a path of URLs";
    const EXAMPLE: &'static str = "\"/api\"";
    const CODE: &'static str = "bad-path";

    fn parse(text: &str) -> Result<Self, Wrong> {
        if !text.starts_with('/') {
            return Err(without_slash::<Self>(text, PATTERN_HELP));
        }
        if let Some(at) = text.find(['?', '#']) {
            let message = format!("a path has no `{}`", &text[at..=at]);
            let help = format!("write {}", or_example::<Self>(&text[..at]));
            return Err(Wrong::new(message, help));
        }
        if let Some(at) = text.find('*') {
            let help = match text[..at].trim_end_matches('/') {
                "" => "write \"/\"".to_owned(),
                above => format!(
                    "a path is for all that is below it anyway: {}",
                    or_example::<Self>(above)
                ),
            };
            return Err(Wrong::new("a path has no wildcards", help));
        }
        if text.split('/').any(|segment| matches!(segment, "." | "..")) || text.contains("//") {
            let help = "requests are compared after `.`, `..` and `//` have gone";
            return Err(Wrong::new("a path has no `.`, `..` or empty segments", help));
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            let help = "write them as %-escapes of their UTF-8 bytes: \"/a%20b\", \"/caf%C3%A9\"";
            return Err(Wrong::new(
                "a path holds no spaces, control characters or letters beyond ASCII",
                help,
            ));
        }
        if let Some(mended) = with_whole_escapes(text) {
            let message =
                "a `%` without two hexadecimal digits: requests with one are refused, and this never matches";
            return Err(Wrong::new(
                message,
                format!("write {}", or_example::<Self>(&mended)),
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

/// The same with an escape for each `%` that no byte is written with; `None` where there is none of those.
fn with_whole_escapes(text: &str) -> Option<String> {
    let is_whole = |rest: &str| {
        let digits = rest.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    let mut pieces = text.split('%');
    let mut mended = pieces.next().unwrap_or_default().to_owned();
    for rest in pieces {
        mended.push_str(if is_whole(rest) { "%" } else { "%25" });
        mended.push_str(rest);
    }
    (mended != text).then_some(mended)
}

/// What other servers write for expressions, or for one path alone.
const PATTERN_HELP: &str =
    "write \"/api\": `path` is for it and all below, `path_exact` for it alone; there are no other patterns";

/// What is wrong with a path that does not begin with a slash.
fn without_slash<T: Word>(text: &str, otherwise: &str) -> Wrong {
    let rooted = format!("/{text}");
    let is_meant = !text.starts_with(['~', '=', '^']) && T::parse(&rooted).is_ok();
    Wrong::new(
        "a path begins with `/`",
        match is_meant {
            true => format!("write \"{rooted}\""),
            false => otherwise.to_owned(),
        },
    )
}

/// A word to write instead, in quotes: this one, unless it would be wrong as well.
fn or_example<T: Word>(text: &str) -> String {
    match T::parse(text) {
        Ok(_) => format!("\"{text}\""),
        Err(_) => T::EXAMPLE.to_owned(),
    }
}

/// A method.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Method(pub http::Method);

impl Word for Method {
    const EXPECTS: &'static str = "a method";
    const EXAMPLE: &'static str = "\"GET\"";
    const CODE: &'static str = "bad-method";

    fn parse(text: &str) -> Result<Self, Wrong> {
        let upper = text.to_ascii_uppercase();
        if upper != text {
            let message = format!("`{text}` would never match: methods are written in capitals");
            return Err(Wrong::new(message, format!("did you mean \"{upper}\"?")));
        }
        text.parse()
            .map(Self)
            .map_err(|_| Wrong::new(format!("`{text}` is not a method"), "write \"GET\""))
    }
}

/// A protocol a listener speaks inside TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protocol(pub String);

impl Word for Protocol {
    const EXPECTS: &'static str = "a protocol";
    const EXAMPLE: &'static str = "\"http/1.1\"";
    const CODE: &'static str = "bad-alpn";

    fn parse(text: &str) -> Result<Self, Wrong> {
        if (1..=255).contains(&text.len()) {
            return Ok(Self(text.to_owned()));
        }
        Err(Wrong::new(
            "the name of a protocol has from 1 to 255 bytes",
            "write \"http/1.1\"",
        ))
    }
}

/// Where a redirect leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(pub Arc<str>);

impl Word for Template {
    const EXPECTS: &'static str = "a URL";
    const EXAMPLE: &'static str = "\"https://{host}{uri}\"";
    const CODE: &'static str = "bad-redirect";

    fn parse(text: &str) -> Result<Self, Wrong> {
        const KNOWN: [&str; 4] = ["host", "uri", "path", "query"];
        let help = "write \"https://{host}{uri}\"; {path} and {query} are known as well";
        // As nginx writes them, which would be sent to clients as they stand.
        const VARIABLES: [&str; 5] = ["$host", "$http_host", "$server_name", "$request_uri", "$uri"];
        if let Some(variable) = VARIABLES.iter().find(|variable| text.contains(**variable)) {
            return Err(Wrong::new(format!("`{variable}` is not known"), help));
        }
        let mut rest = text;
        while let Some((_, after)) = rest.split_once('{') {
            let Some((name, after)) = after.split_once('}') else {
                return Err(Wrong::new("`{` has no `}`", help));
            };
            if !KNOWN.contains(&name) {
                let help = nearest(name, KNOWN)
                    .map_or_else(|| help.to_owned(), |name| format!("did you mean {{{name}}}?"));
                return Err(Wrong::new(format!("`{{{name}}}` is not known"), help));
            }
            rest = after;
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Wrong::new(
                "a URL holds no spaces, control characters or letters beyond ASCII",
                help,
            ));
        }
        if text.starts_with('/') || text.starts_with("http://") || text.starts_with("https://") {
            return Ok(Self(text.into()));
        }
        // The two that begin with a slash themselves; clients would take a host for a path.
        if text.starts_with("{uri}") || text.starts_with("{path}") {
            return Ok(Self(text.into()));
        }
        let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
        let help = match rest.starts_with("{query}") {
            true => help.to_owned(),
            false => format!("write \"https://{rest}\", or a path that begins with `/`"),
        };
        Err(Wrong::new(format!("`{text}` is not a URL"), help))
    }
}

/// The Host an upstream is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostSent(pub Arc<str>);

impl Word for HostSent {
    const EXPECTS: &'static str = "a host, with or without a port";
    const EXAMPLE: &'static str = "\"app.internal\"";
    const CODE: &'static str = "bad-host";

    fn parse(text: &str) -> Result<Self, Wrong> {
        let authority: Option<http::uri::Authority> = text.parse().ok();
        match authority {
            Some(authority) if !text.contains('@') && !authority.host().is_empty() => Ok(Self(text.into())),
            _ => Err(Wrong::new(
                format!("`{text}` is not a host"),
                "write \"app.internal\" or \"app.internal:8080\"",
            )),
        }
    }
}

/// What a check asks for: a path, perhaps with a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckTarget(pub Arc<str>);

impl Word for CheckTarget {
    const EXPECTS: &'static str = "a path of URLs";
    const EXAMPLE: &'static str = "\"/health\"";
    const CODE: &'static str = "bad-path";

    fn parse(text: &str) -> Result<Self, Wrong> {
        if text.contains("://") {
            let help = "write the path alone, \"/health\"; `port`, `host` and `tls` have keys of their own";
            return Err(Wrong::new("a check asks the endpoints, not a URL", help));
        }
        if !text.starts_with('/') {
            return Err(without_slash::<Self>(text, "write \"/health\""));
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
            let help = "write them as %-escapes of their UTF-8 bytes: \"/a%20b\"";
            return Err(Wrong::new(
                "a path holds no spaces, `#` or letters beyond ASCII",
                help,
            ));
        }
        Ok(Self(text.into()))
    }
}

/// Statuses of HTTP: `200`, `"200-299"` or `"2xx"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusRange(pub RangeInclusive<u16>);

impl StatusRange {
    /// Statuses that an answer can end with.
    const ALL: RangeInclusive<u16> = 200..=599;

    fn parse(text: &str) -> Option<Self> {
        let (first, last) = match (text.strip_suffix("xx"), text.split_once('-')) {
            (Some(class), _) => {
                let class: u16 = class.parse().ok()?;
                (class.checked_mul(100)?, class.checked_mul(100)?.checked_add(99)?)
            }
            (None, Some((first, last))) => (first.trim().parse().ok()?, last.trim().parse().ok()?),
            (None, None) => (text.parse().ok()?, text.parse().ok()?),
        };
        let is_good = first <= last && Self::ALL.contains(&first) && Self::ALL.contains(&last);
        is_good.then_some(Self(first..=last))
    }
}

impl Read for StatusRange {
    const EXPECTS: &'static str = "a status or a range of them";

    fn read(value: &DeValue<'_>, place: &Place<'_>, found: &mut Vec<Diagnostic>) -> Option<Self> {
        let text = match value {
            DeValue::Integer(number) => number.to_string(),
            DeValue::String(text) => text.to_string(),
            _ => {
                found.push(wrong_type::<Self>(value, place).help("write: 200, \"200-299\" or \"2xx\""));
                return None;
            }
        };
        let read = Self::parse(&text);
        if read.is_none() {
            let message = format!("`{text}` is no status an answer ends with, and no range of them");
            let help = "write statuses from 200 to 599: 200, \"200-299\" or \"2xx\"";
            found.push(Diagnostic::error("bad-status", place.span.clone(), message).help(help));
        }
        read
    }
}

/// A version of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyVersion(pub ProxyProtocol);

impl Word for ProxyVersion {
    const EXPECTS: &'static str = "a version of the PROXY protocol";
    const EXAMPLE: &'static str = "\"v2\"";
    const CODE: &'static str = "bad-proxy-version";

    fn parse(text: &str) -> Result<Self, Wrong> {
        match text {
            "v1" => Ok(Self(ProxyProtocol::V1)),
            "v2" => Ok(Self(ProxyProtocol::V2)),
            _ => Err(Wrong::new(
                format!("there is no version `{text}` of the PROXY protocol"),
                "write \"v1\" (text) or \"v2\" (binary)",
            )),
        }
    }
}

/// What a request is tried again after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RetryOn {
    /// No connection.
    Connect,
    /// One that ends without an answer.
    Reset,
    /// No answer in time.
    Timeout,
    /// An answer with one of these statuses.
    Status(RangeInclusive<u16>),
}

impl RetryOn {
    /// Statuses by which an endpoint says that it has failed.
    const FAILURES: RangeInclusive<u16> = 400..=599;
}

impl Read for RetryOn {
    const EXPECTS: &'static str = "a kind of failure or a status";

    fn read(value: &DeValue<'_>, place: &Place<'_>, found: &mut Vec<Diagnostic>) -> Option<Self> {
        const HELP: &str =
            "write \"connect\", \"reset\", \"timeout\" or statuses from 400 to 599: 503, \"502-504\"";
        let text = match value {
            DeValue::Integer(number) => number.to_string(),
            DeValue::String(text) => text.to_string(),
            _ => {
                found.push(wrong_type::<Self>(value, place).help(HELP));
                return None;
            }
        };
        let read = match &*text {
            "connect" => Some(Self::Connect),
            "reset" => Some(Self::Reset),
            "timeout" => Some(Self::Timeout),
            _ => StatusRange::parse(&text)
                .map(|range| range.0)
                .filter(|range| Self::FAILURES.contains(range.start()))
                .map(Self::Status),
        };
        if read.is_none() {
            let message = format!("`{text}` is nothing a request could be tried again after");
            let help = match nearest(&text, ["connect", "reset", "timeout"]) {
                Some(word) => format!("did you mean \"{word}\"?"),
                None => HELP.to_owned(),
            };
            found.push(Diagnostic::error("bad-retry", place.span.clone(), message).help(help));
        }
        read
    }
}

/// The name of a file in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileName(pub String);

impl Word for FileName {
    const EXPECTS: &'static str = "a file name";
    const EXAMPLE: &'static str = "\"index.html\"";
    const CODE: &'static str = "bad-file-name";

    fn parse(text: &str) -> Result<Self, Wrong> {
        let help = "write a name alone: \"index.html\"";
        match text {
            "" | "." | ".." => Err(Wrong::new(format!("`{text}` is not the name of a file"), help)),
            _ if text.contains(['/', '\0']) => Err(Wrong::new("a file name has no `/`", help)),
            _ => Ok(Self(text.to_owned())),
        }
    }
}

/// A file below a root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileBelow(pub String);

impl Word for FileBelow {
    const EXPECTS: &'static str = "a file below the root";
    const EXAMPLE: &'static str = "\"index.html\"";
    const CODE: &'static str = "bad-file-name";

    fn parse(text: &str) -> Result<Self, Wrong> {
        let relative = text.trim_start_matches('/');
        if relative != text && !relative.is_empty() {
            return Err(Wrong::new(
                "the file is named from the root on, without `/` before it",
                format!("write {}", or_example::<Self>(relative)),
            ));
        }
        if text.contains('\0') || text.split('/').any(|part| matches!(part, "" | "." | "..")) {
            let message = format!("`{text}` is not a file below the root");
            return Err(Wrong::new(message, "write \"index.html\""));
        }
        Ok(Self(text.to_owned()))
    }
}

#[cfg(test)]
mod tests;
