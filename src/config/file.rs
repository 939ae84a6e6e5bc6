//! The configuration file as it is written: one struct a table, one field a key.
//!
//! What stands here is all there is: the documentation and the example are checked against it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use toml::de::DeValue;

use super::error::Diagnostic;
use super::read::{
    self, At, Many, Named, Number, OneOrMany, Place, Read, Table, short_or_table, table, wrong_type,
};
use super::secrets::Secret;
use super::values::{
    AddressAndPort, Balance, Bound, CheckTarget, CookieName, Endpoint, FileBelow, FileName, HashBy, Host,
    HostSent, ListenAddress, LogFormat, Method, MinVersion, Mode, NameServer, Network, Protocol,
    ProxyVersion, RetryOn, SameSite, Size, StatusRange, Template, Time, UrlPath, Workers,
};

/// All tables, in the order of the documentation.
pub const TABLES: &[Table] = &[
    File::TABLE,
    Listen::TABLE,
    Tls::TABLE,
    Certificate::TABLE,
    Route::TABLE,
    UpstreamShare::TABLE,
    Files::TABLE,
    Redirect::TABLE,
    Respond::TABLE,
    Retry::TABLE,
    Mirror::TABLE,
    Upstream::TABLE,
    UpstreamEndpoint::TABLE,
    Sticky::TABLE,
    UpstreamTls::TABLE,
    Health::TABLE,
    OutlierTable::TABLE,
    ResolverTable::TABLE,
    Timeouts::TABLE,
    Limits::TABLE,
    Http2Limits::TABLE,
    AccessLog::TABLE,
    Admin::TABLE,
];

/// A port.
pub type Port = Number<1, 65_535>;
/// A number of connections.
pub type Connections = Number<1, 10_000_000>;
/// A number of those who wait.
pub type QueueLength = Number<0, 1_000_000>;
/// A number of idle connections.
pub type IdleConnections = Number<0, 65_536>;
/// A number of fields.
pub type FieldCount = Number<1, 1_000>;
/// A number of HTTP/2 streams.
pub type Streams = Number<1, 65_536>;
/// A number of frames.
pub type Frames = Number<1, 1_000_000>;
/// A share of what comes.
pub type Weight = Number<0, 65_535>;

/// How many endpoints are asked for one request.
pub type Attempts = Number<1, 100>;
/// A percentage that is not nothing.
pub type MirrorPercent = Number<1, 100>;
/// A percentage.
pub type Percent = Number<0, 100>;
/// A number of checks or of failures.
pub type Checks = Number<1, 1_000>;
/// A number of requests.
pub type Requests = Number<1, 1_000_000>;
/// A part of a share, in percent.
pub type Factor = Number<0, 100_000>;
/// A status.
pub type Status = Number<0, 65_535>;

table! {
    /// What holds for the whole process.
    File "" {
        /// How many threads serve connections; `"auto"` is one for each core the process may use. Where they take all of those each stays on its own; fewer are placed by the kernel. A reload cannot change it.
        workers: Workers = "\"auto\"",
        /// Networks whose `X-Forwarded-For`, `X-Forwarded-Proto`, `Forwarded` and the like are believed; their `X-Real-IP` only where they send neither `X-Forwarded-For` nor `Forwarded`, which tell who asked the first of them; of those two they have to remove the one they do not write, or both if they write neither. Of who comes by a Unix socket they are not: let it speak the PROXY protocol.
        trusted_proxies: Vec<At<Network>> = "[]",
        /// Where connections are accepted.
        listen: OneOrMany<Listen> = "required",
        /// Certificates and versions for all listeners that have no table of their own.
        tls: Tls = "required if a listener speaks TLS",
        /// Which request goes where.
        route: Many<Route> = "none",
        /// Groups of endpoints, each with a name.
        upstream: Named<Upstream> = "none",
        /// How the names of endpoints are looked up; a list names the servers that are asked.
        resolver: ResolverValue = "as below",
        /// How long Atlas waits.
        timeouts: Timeouts = "as below",
        /// How much Atlas takes.
        limits: Limits = "as below",
        /// What is written down of every request.
        access_log: AccessLog = "as below",
        /// Metrics and health.
        admin: Admin = "none",
    }
}

table! {
    /// Where connections are accepted, and what is spoken there; `[listen]` if there is one.
    Listen "[[listen]]" {
        /// The IP address to listen on; `"0.0.0.0"` is all of IPv4, `"::"` all of IPv6, `"unix:/path"` a Unix socket.
        address: ListenAddress = "required",
        /// The port to listen on; a Unix socket has none.
        port: Port = "required",
        /// What routes and records call it; two listeners have different names.
        name: String = "the address and port",
        /// `"http"` answers requests by the routes, `"tcp"` passes bytes to one upstream.
        mode: Mode = "\"http\"",
        /// `false` for no TLS, or a table like `[tls]` for certificates of its own.
        tls: ListenTls = "the table `[tls]`",
        /// In tcp mode: the upstream the bytes go to, or a list of some that share the connections, as in a route.
        upstream: Upstreams = "required in tcp mode",
        /// In http mode: whether HTTP/2 is spoken: with TLS to clients that choose it, without TLS to those that begin with it.
        http2: bool = "true",
        /// Whether each connection begins with a PROXY protocol header, version 1 or 2, that tells the client's address.
        proxy_protocol: bool = "false",
        /// How many connections may be open at a time, on all workers together; each worker has its part, rounded up. Those beyond wait in the kernel's queue.
        connections_max: Connections = "65536",
    }
}

short_or_table! {
    /// TLS of a listener.
    ListenTls bool, Tls, "`false` or a table"
}

table! {
    /// TLS towards clients.
    Tls "[tls]" {
        /// The certificate and its chain, in PEM; the one used when the client asks for no name, or one that is not known.
        cert: PathBuf = "required",
        /// The certificate's private key, in PEM.
        key: PathBuf = "required",
        /// More certificates; the one that has the name the client asks for is used.
        certificate: Many<Certificate> = "none",
        /// Whether the kernel shall encrypt where it can.
        prefer_ktls: bool = "true",
        /// How large a body must be before its connection is handed to the kernel.
        ktls_threshold: Size = "\"1MiB\"",
        /// The oldest version of TLS that is spoken.
        min_version: MinVersion = "\"1.2\"",
        /// The protocols offered to clients (ALPN), best first; in tcp mode any, and none unless written.
        alpn: Vec<At<Protocol>> = "[\"h2\", \"http/1.1\"]",
    }
}

table! {
    /// One more certificate.
    Certificate "[[tls.certificate]]" {
        /// The certificate and its chain, in PEM.
        cert: PathBuf = "required",
        /// The certificate's private key, in PEM.
        key: PathBuf = "required",
    }
}

table! {
    /// Which requests, and what is done with them. The most specific route wins: first by host, then by path, then by the number of other conditions. Order does not matter, a tie is an error.
    Route "[[route]]" {
        /// The host asked for: `"a.example"`, or `"*.example"` for any one label before it.
        host: Host = "any",
        /// This path and all below it: `"/x"` is `/x` and `/x/y`, not `/xy`; `"/x/"` is what is below only. The longest wins.
        path: UrlPath = "\"/\"",
        /// This path only; wins over `path`.
        path_exact: UrlPath = "none",
        /// The methods it is for.
        method: Vec<At<Method>> = "any",
        /// Fields a request must have with exactly this value.
        header: Headers = "none",
        /// The name of the one listener it is for.
        listen: String = "all in http mode",
        /// Pass requests to this upstream, or to one of several, drawn for each request by weight: `[{ name = "stable", weight = 9 }, { name = "canary", weight = 1 }]`.
        upstream: Upstreams = "one action is required",
        /// Serve files below this folder. Symbolic links are followed as long as they are relative and lead to what is below it.
        files: FilesAction = "one action is required",
        /// Send clients elsewhere; `{host}` (without its port), `{uri}`, `{path}` and `{query}` are those of the request.
        redirect: RedirectAction = "one action is required",
        /// Answer with this status.
        respond: RespondAction = "one action is required",
        /// Whether `path` or `path_exact` is taken off the request's path before it goes to the upstream or to the folder.
        strip_prefix: bool = "false",
        /// When a request is tried again at another endpoint: `false`, or a table to say when. What an endpoint has not looked at is tried again in any case.
        retry: RetryValue = "as below",
        /// Where requests are sent as well, answers thrown away: an upstream's name, or a table to say how many.
        mirror: MirrorValue = "none",
    }
}

short_or_table! {
    /// Where requests are sent as well.
    MirrorValue String, Mirror, "an upstream's name or a table"
}

impl MirrorValue {
    /// The upstream's name; `None` where that could not be read.
    pub fn upstream(&self) -> Option<&str> {
        match self {
            Self::Short(name) => Some(name),
            Self::Table(table) => table.upstream.as_ref().map(|name| &*name.value),
        }
    }
}

table! {
    /// An upstream that gets a route's requests, too, once they have come whole. Clients neither wait for its answers nor see them; what is too much for it is left out. Upgrades (WebSocket) are not mirrored. At most 256 are under way at a time at each worker, 128 of them with bodies that are still coming.
    Mirror "[route.mirror]" {
        /// The upstream's name.
        upstream: String = "required",
        /// How many of the requests, in percent, drawn for each.
        percent: MirrorPercent = "100",
        /// How long a request's body may be, at most 64 MiB; those with a longer one are not mirrored.
        body: Size = "\"16KiB\"",
        /// How long each may take in all, its answer to the last byte included.
        timeout: Time = "\"10s\"",
    }
}

table! {
    /// One of several upstreams that share what comes; in the list as `{ name = "canary", weight = 1 }`. A client that a cookie binds to an endpoint of one of them stays with that one. In a listener in tcp mode the header is `[[listen.upstream]]`.
    UpstreamShare "[[route.upstream]]" {
        /// The upstream's name.
        name: String = "required",
        /// Its share of what comes, beside the weights of the others; 0 is none, also of clients that are bound to it.
        weight: Weight = "1",
    }
}

short_or_table! {
    /// An upstream, with its share or with the share of 1.
    UpstreamShareValue String, UpstreamShare, "a name or a table"
}

/// The upstream something goes to, or some that share it.
#[derive(Debug)]
pub struct Upstreams(pub Vec<At<UpstreamShareValue>>);

impl Upstreams {
    /// The names that could be read.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|share| match &share.value {
            UpstreamShareValue::Short(name) => Some(&**name),
            UpstreamShareValue::Table(table) => table.name.as_ref().map(|name| &*name.value),
        })
    }
}

impl Read for Upstreams {
    const EXPECTS: &'static str = "an upstream's name, or a list";

    fn read(value: &DeValue<'_>, place: &Place<'_>, found: &mut Vec<Diagnostic>) -> Option<Self> {
        match value {
            DeValue::Array(_) => Vec::read(value, place, found).map(Self),
            DeValue::String(_) => read::at(value, place, found).map(|one| Self(vec![one])),
            _ => {
                let help = format!(
                    "write the name of one, {key} = \"app\", or a list: {key} = [{{ name = \"app\", weight = 9 }}, {{ name = \"next\", weight = 1 }}]",
                    key = place.key
                );
                found.push(wrong_type::<Self>(value, place).help(help));
                None
            }
        }
    }
}

short_or_table! {
    /// When a request is tried again.
    RetryValue bool, Retry, "true, false or a table"
}

table! {
    /// When a request is tried again, at another endpoint, before anything of an answer has come to the client.
    Retry "[route.retry]" {
        /// After what: `"connect"` (no connection), `"reset"` (one that ends without a byte of an answer), `"timeout"` (no answer in time), and statuses of answers: `503`, `"502-504"`, `"5xx"`.
        on: Vec<At<RetryOn>> = "[\"connect\", \"reset\"]",
        /// How many endpoints are asked in all.
        attempts: Attempts = "all that cannot be connected to, and one more after another failure",
        /// How long each endpoint but the last may take to begin its response; written, it is as if `on` named `"timeout"`.
        timeout: Time = "the upstream's `response_timeout`",
        /// How long an endpoint may take to begin its response before another is asked beside it; the first answer is the client's, the other is let go. For requests without a body whose method is idempotent (GET, HEAD, PUT, DELETE), within the upstream's `retry_budget`.
        hedge_after: Time = "none",
        /// Whether requests that would be done twice (POST and PATCH) are sent again although an endpoint may have begun to.
        non_idempotent: bool = "false",
        /// How much of a request's body is kept to be sent again, at most 64 MiB; a longer one is sent once.
        body: Size = "\"16KiB\"",
    }
}

short_or_table! {
    /// What is served as files.
    FilesAction PathBuf, Files, "a path or a table"
}

short_or_table! {
    /// Where clients are sent.
    RedirectAction Template, Redirect, "a URL or a table"
}

short_or_table! {
    /// What is answered.
    RespondAction Status, Respond, "a status or a table"
}

table! {
    /// Static files, with more to say than a folder.
    Files "[route.files]" {
        /// The folder; nothing outside it is ever served.
        root: PathBuf = "required",
        /// Names of the files served for a folder, the first that is there.
        index: Vec<At<FileName>> = "[\"index.html\"]",
        /// Whether a folder without an index is listed.
        listing: bool = "false",
        /// The file below the root that is served where none is found, for single-page applications.
        fallback: FileBelow = "none",
        /// Whether `FILE.br`, `FILE.zst` and `FILE.gz` are sent to clients that accept them.
        precompressed: bool = "true",
        /// Whether names that begin with a dot are served.
        dotfiles: bool = "false",
    }
}

table! {
    /// A redirect, with more to say than a URL.
    Redirect "[route.redirect]" {
        /// Where to; `{host}` (without its port), `{uri}`, `{path}` and `{query}` are those of the request.
        to: Template = "required",
        /// 301, 302, 303, 307 or 308.
        status: Status = "308",
    }
}

table! {
    /// An answer, with more to say than a status.
    Respond "[route.respond]" {
        /// The status, from 200 to 599.
        status: Status = "200",
        /// The body.
        body: Text = "\"\"",
        /// The body's Content-Type.
        r#type: String = "\"text/plain; charset=utf-8\"",
    }
}

table! {
    /// A group of endpoints that serve the same; NAME is what routes call it.
    Upstream "[upstream.NAME]" {
        /// Where it can be reached: `"host:port"`, `"unix:/path"`, `"srv:_service._tcp.domain"` or a table with more to say. Each address that is found for a name is an endpoint.
        endpoints: Vec<At<EndpointValue>> = "required unless there is `endpoints_file`",
        /// A file that has more of them, JSON or TOML by its name, as `{"endpoints": ["10.0.0.1:80"]}`; it is read again when it changes, and one that is wrong changes nothing.
        endpoints_file: PathBuf = "none",
        /// How an endpoint is chosen: `"two_choices"` draws two by weight and takes the one with fewer exchanges under way, `"least_connections"` the one with the fewest of all for its weight, `"round_robin"` takes turns by weight, `"hash"` the one that `hash` says.
        balance: Balance = "two_choices; with one worker round_robin",
        /// With `balance = "hash"`: what decides the endpoint: `"client_address"`, `"path"`, `"header:NAME"` or `"cookie:NAME"`. The same goes to the same endpoint, and few go elsewhere when one comes or goes; a request without it goes to any.
        hash: HashBy = "required with `balance = \"hash\"`",
        /// With `balance = "hash"`: the most an endpoint gets, in percent of its share of what is under way, once that is more than 16; what is beyond goes to the next. 0 is no bound.
        hash_balance_factor: Factor = "125",
        /// Sends clients back to the endpoint that served them first, by a cookie that Atlas sets.
        sticky: Sticky = "none",
        /// How many requests, or connections in tcp mode, may be under way with it at a time, those that wait included; each worker has its part, rounded up. Those beyond are answered with 503 at once.
        requests_max: Requests = "unlimited",
        /// How many requests, or connections in tcp mode, may wait while every endpoint has its `connections_max`; each worker has its part. Those beyond are answered with 503.
        queue_max: QueueLength = "1024",
        /// How long each may wait for that.
        queue_timeout: Time = "\"5s\"",
        /// The Host the upstream is sent.
        host: HostSent = "the client's",
        /// How long a connection, with its TLS, may take before the next endpoint is tried.
        connect_timeout: Time = "\"5s\"",
        /// How long the response may take to begin, once the request is sent.
        response_timeout: Time = "\"60s\"",
        /// How long a body, or a connection in tcp mode, may stand still.
        idle_timeout: Time = "\"60s\"",
        /// How many idle connections each worker keeps for an endpoint.
        pool_idle_max: IdleConnections = "1024",
        /// How long an idle connection may be used again; of many that grow old together 32 are closed each second.
        pool_idle_timeout: Time = "\"60s\"",
        /// How long a connection is used; an older one takes no new request. What is under way on it is finished.
        pool_lifetime: Time = "\"1h\"",
        /// Whether HTTP/2 is spoken to the endpoints: over TLS where they choose it, without TLS always. Upgrades (WebSocket) go over HTTP/1.1.
        http2: bool = "false",
        /// How much of all responses on one connection of HTTP/2 may come before their clients take it; a hundredth of it for each, at least 64 KiB. No more requests are under way on a connection than it has room for.
        http2_window: Size = "\"25MiB\"",
        /// TLS towards the endpoints: `true`, or a table.
        tls: UpstreamTlsValue = "false",
        /// Whether each connection begins with a PROXY protocol header that tells the client's address: `"v1"` or `"v2"`. Each request then has a connection of its own.
        proxy_protocol: ProxyVersion = "none",
        /// How many of the requests under way, in percent, may be retries after a timeout or a status, after a second refusal of HTTP/2, or after a reset by a route with `attempts`, at a time, for each worker; 3 always may unless it is 0.
        retry_budget: Percent = "20",
        /// Whether the endpoints are checked, once for the whole process: `true` makes connections, a table can ask for a path.
        health: HealthValue = "false",
        /// Whether endpoints whose live exchanges fail are left alone for a while: `false`, or a table to say when.
        outliers: OutliersValue = "true",
        /// How long an endpoint that came back takes to get its whole share, beginning with a tenth.
        slow_start: Time = "none",
        /// Where less than this percentage of the endpoints is well, all are asked; 0 is never.
        panic_below: Percent = "0",
    }
}

table! {
    /// A file of endpoints.
    EndpointsFile "" {
        /// As in an upstream.
        endpoints: Vec<At<EndpointValue>> = "required",
    }
}

short_or_table! {
    /// An endpoint.
    EndpointValue Endpoint, UpstreamEndpoint, "\"host:port\", \"unix:/path\", \"srv:NAME\" or a table"
}

impl EndpointValue {
    /// Where it is; `None` where that could not be read.
    pub fn address(&self) -> Option<&Endpoint> {
        match self {
            Self::Short(address) => Some(address),
            Self::Table(table) => table.address.as_ref().map(|address| &address.value),
        }
    }
}

table! {
    /// An endpoint, with more to say than its address; in the list as `{ address = "host:port", weight = 3 }`.
    UpstreamEndpoint "[[upstream.NAME.endpoints]]" {
        /// Where it can be reached: `"host:port"`, `"unix:/path"` or `"srv:_service._tcp.domain"`; what is said here holds for each address that is found.
        address: Endpoint = "required",
        /// Its share of what comes, beside the weights of the others; 0 is none. Those of a service are told by its records.
        weight: Weight = "1",
        /// Whether it is asked only when no other endpoint can be.
        backup: bool = "false",
        /// Whether nothing new goes to it, so that it can be taken away once it has finished.
        drain: bool = "false",
        /// How many requests, or connections in tcp mode, may be under way with it at a time, on all workers together; each worker has its part, rounded up. Those beyond wait.
        connections_max: Connections = "unlimited",
    }
}

table! {
    /// The cookie that brings a client back to its endpoint. It tells nobody where that is, and outlives reloads and restarts. A client whose endpoint cannot be asked goes to another, and stays there.
    Sticky "[upstream.NAME.sticky]" {
        /// Its name.
        cookie: CookieName = "required",
        /// How long clients keep it.
        ttl: Time = "until the client is closed",
        /// Whether clients send it by HTTPS only.
        secure: bool = "true if the client came by HTTPS",
        /// Whether it is hidden from scripts.
        http_only: bool = "true",
        /// Whether it is sent with requests that other sites make: `"lax"` when a link is followed, `"strict"` never, `"none"` always.
        same_site: SameSite = "\"lax\"",
        /// What its values are made with: the same in several Atlas gives the same values.
        secret: Secret = "made of /etc/machine-id",
    }
}

short_or_table! {
    /// TLS of an upstream.
    UpstreamTlsValue bool, UpstreamTls, "true, false or a table"
}

short_or_table! {
    /// Checks of an upstream's endpoints.
    HealthValue bool, Health, "true, false or a table"
}

table! {
    /// How the endpoints are checked; those found down are not asked. They are up until the first check.
    Health "[upstream.NAME.health]" {
        /// The path, with a query if need be, that is asked for with GET, in the version of HTTP that requests come in; without it a connection is enough.
        path: CheckTarget = "none",
        /// The statuses that are good: `200`, `"200-299"` or `"2xx"`.
        status: Vec<At<StatusRange>> = "[\"200-399\"]",
        /// Text that has to be in the first 64 KiB of the body.
        body: String = "none",
        /// The Host that is sent.
        host: HostSent = "the upstream's, or the endpoint's",
        /// The port that is checked; with one of its own, and without TLS, HTTP/1.1 is spoken.
        port: Port = "the endpoint's",
        /// Whether the check speaks TLS.
        tls: bool = "the upstream's",
        /// The name to ask for in TLS and to verify.
        server_name: String = "the upstream's",
        /// From one check of an endpoint to its next.
        interval: Time = "\"5s\"",
        /// By how many percent an interval may be longer or shorter, at random, so that checks do not come all at once.
        jitter: Percent = "10",
        /// For a whole check; at most `interval`.
        timeout: Time = "\"2s\"",
        /// How many checks in a row have to pass before an endpoint that is down is up.
        rise: Checks = "2",
        /// How many checks in a row have to fail before an endpoint that is up is down; the very first check decides alone.
        fall: Checks = "3",
    }
}

short_or_table! {
    /// Whether live exchanges are looked at.
    OutliersValue bool, OutlierTable, "true, false or a table"
}

table! {
    /// When an endpoint is ejected, that is left alone for a while, by a worker whose live exchanges with it fail.
    OutlierTable "[upstream.NAME.outliers]" {
        /// How many failures in a row eject it.
        failures: Checks = "3",
        /// Statuses that are failures too, as `[502, "503-504"]`.
        status: Vec<At<StatusRange>> = "[]",
        /// What percentage of the exchanges in a window ejects it when they fail; 0 is none.
        failure_rate: Percent = "50",
        /// How many exchanges a window must have for that.
        requests_min: Requests = "20",
        /// How long a window is.
        window: Time = "\"10s\"",
        /// A response that takes longer to begin is a failure too.
        slow_after: Time = "none",
        /// How long it is left alone at first; each further time is twice as long.
        ejection_time: Time = "\"10s\"",
        /// The longest.
        ejection_time_max: Time = "\"5m\"",
        /// What percentage of the endpoints may be ejected at a time, rounded up; the last one that is well never is.
        ejected_max: Percent = "50",
    }
}

short_or_table! {
    /// How names are looked up.
    ResolverValue Vec<At<NameServer>>, ResolverTable, "a list of addresses or a table"
}

table! {
    /// How the names of endpoints are looked up. /etc/hosts comes first, and `search`, `ndots`, `timeout` and `attempts` are those of /etc/resolv.conf.
    ResolverTable "[resolver]" {
        /// The servers that are asked, as `"10.0.0.53"` or `"127.0.0.1:5353"`.
        servers: Vec<At<NameServer>> = "those of /etc/resolv.conf",
        /// How long an answer is kept at least, if it says less of itself.
        ttl_min: Time = "\"1s\"",
        /// How long an answer is kept at most.
        ttl_max: Time = "\"60s\"",
    }
}

table! {
    /// TLS towards endpoints.
    UpstreamTls "[upstream.NAME.tls]" {
        /// The certificates that may sign those of the endpoints, in PEM.
        ca: PathBuf = "the system's",
        /// The certificate shown to endpoints that ask for one, in PEM.
        cert: PathBuf = "none",
        /// That certificate's private key, in PEM.
        key: PathBuf = "none",
        /// The name to ask for and to verify.
        server_name: String = "the endpoint's host",
        /// Whether the endpoint's certificate is verified; `false` lets anybody on the way read and change everything.
        verify: bool = "true",
        /// Whether the kernel shall encrypt where it can.
        prefer_ktls: bool = "true",
        /// How large a body must be before its connection is handed to the kernel.
        ktls_threshold: Size = "\"1MiB\"",
    }
}

table! {
    /// How long Atlas waits for clients.
    Timeouts "[timeouts]" {
        /// For the TLS handshake, from the connection's first moment.
        handshake: Time = "\"10s\"",
        /// For a request's head, from its first byte.
        header: Time = "\"10s\"",
        /// Between two pieces of a request's body.
        body: Time = "\"30s\"",
        /// For the next request on a connection that is kept.
        idle: Time = "\"60s\"",
        /// Between two moments at which the client takes some of the response.
        write: Time = "\"30s\"",
        /// For a connection that has switched protocols, WebSocket say, while nothing moves on it.
        tunnel: Time = "\"1h\"",
        /// For everything that is under way when Atlas is told to stop.
        drain: Time = "\"30s\"",
    }
}

table! {
    /// How much Atlas takes from clients.
    Limits "[limits]" {
        /// The size of a request's head.
        head: Size = "\"32KiB\"",
        /// The number of fields in a head.
        fields: FieldCount = "100",
        /// The size of a request's first line.
        request_line: Size = "\"8KiB\"",
        /// The size of a request's body, or `"unlimited"`.
        body: Bound = "\"unlimited\"",
        /// How much of a body has to come or go in a second, on average after 5 seconds; `"0B"` is any. A client that is being answered may send as slowly as it likes, within `timeouts.body`.
        min_rate: Size = "\"240B\"",
        /// How much a client may do on one connection of HTTP/2.
        http2: Http2Limits = "as below",
    }
}

table! {
    /// How much a client may do on one connection of HTTP/2; who does more is told ENHANCE_YOUR_CALM.
    Http2Limits "[limits.http2]" {
        /// How many requests may be under way at a time.
        streams: Streams = "128",
        /// How much of all requests' bodies together may come before the upstreams take it; a quarter of it for each. At least 64 KiB.
        window: Size = "\"1MiB\"",
        /// How many requests may be cancelled at once, beyond one for each that is let finish, and 33 a second for ever.
        resets: Frames = "500",
        /// How many frames of each kind that says little (PRIORITY, empty DATA, PING and WINDOW_UPDATE beyond what is sent) may come at once, and a tenth of it a second for ever; of SETTINGS a tenth.
        overhead: Frames = "1000",
    }
}

table! {
    /// What is written down of every request.
    AccessLog "[access_log]" {
        /// Whether it is written at all.
        enabled: bool = "true",
        /// `"combined"` as nginx and Apache write it, or `"json"`, one object a line, with all there is to know.
        format: LogFormat = "\"combined\"",
        /// The file it is written to; `"-"` is standard output.
        path: PathBuf = "\"-\"",
    }
}

table! {
    /// Metrics and health, for programs; nobody else should reach the address.
    Admin "[admin]" {
        /// Where `/metrics`, `/-/healthy` and `/-/ready` are served.
        address: AddressAndPort = "none",
    }
}

/// Text of any kind, which may be empty.
#[derive(Clone, Debug, Default)]
pub struct Text(pub String);

impl Read for Text {
    const EXPECTS: &'static str = "a string";

    fn read(value: &DeValue<'_>, place: &Place<'_>, found: &mut Vec<Diagnostic>) -> Option<Self> {
        match value.as_str() {
            Some(text) => Some(Self(text.to_owned())),
            None => String::read(value, place, found).map(Self), // says what is wrong
        }
    }
}

/// Names of fields, and the value each must have.
#[derive(Debug, Default)]
pub struct Headers(pub BTreeMap<String, String>);

impl Read for Headers {
    const EXPECTS: &'static str = "a table of names and values";

    fn read(value: &DeValue<'_>, place: &Place<'_>, found: &mut Vec<Diagnostic>) -> Option<Self> {
        let DeValue::Table(table) = value else {
            let help = "write: header = { X-Name = \"value\" }";
            found.push(wrong_type::<Self>(value, place).help(help));
            return None;
        };
        let mut read = BTreeMap::new();
        for (name, value) in table.iter() {
            let place = Place {
                key: name.get_ref(),
                key_span: name.span(),
                span: value.span(),
            };
            let wrong = |found: &mut Vec<Diagnostic>, span, message, help: &str| {
                found.push(Diagnostic::error("bad-field", span, message).help(help));
            };
            if http::HeaderName::from_bytes(name.get_ref().as_bytes()).is_err() {
                let message = format!("`{}` cannot be the name of a field", name.get_ref());
                wrong(
                    found,
                    name.span(),
                    message,
                    "a name has letters, digits and `-`: \"X-Name\"",
                );
            }
            let Some(Text(text)) = Text::read(value.get_ref(), &place, found) else {
                continue;
            };
            if text.contains(char::is_control) {
                let message = format!(
                    "no field has this value: `{}` holds a control character",
                    name.get_ref()
                );
                wrong(found, value.span(), message, "write letters and spaces alone");
            }
            if read
                .insert(name.get_ref().to_ascii_lowercase(), text.trim().to_owned())
                .is_some()
            {
                let message = format!("the field `{}` is there twice", name.get_ref());
                wrong(
                    found,
                    name.span(),
                    message,
                    "write it once: upper and lower case are the same",
                );
            }
        }
        Some(Self(read))
    }
}
