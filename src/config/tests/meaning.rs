//! What configurations mean.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{Method, StatusCode};

use super::super::{Loaded, load, load_after, parse};
use super::folder;
use crate::access_log::Format;
use crate::generation::{Generation, Mode};
use crate::route::{Action, HostPattern, Mirror, PathPattern, Route, Share, Split};
use crate::runtime::Address;
use crate::upstream::{self, EndpointAddress, EndpointSettings};

/// The smallest configuration, which stays valid for ever.
const SMALLEST: &str = r#"
[listen]
address = "0.0.0.0"
port = 443
mode = "http"

[tls]
cert = "good.crt"
key = "good.key"
prefer_ktls = true

[[route]]
upstream = "app"

[upstream.app]
endpoints = ["127.0.0.1:3000"]
"#;

fn good(text: &str, folder: &Path) -> Loaded {
    parse("atlas.toml", text, folder).unwrap_or_else(|report| panic!("{report}"))
}

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[test]
fn the_smallest_configuration_has_all_defaults() {
    let folder = folder();
    let loaded = good(SMALLEST, folder.path());
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
    let generation = loaded.generation;
    assert_eq!((generation.number, generation.workers), (1, None));
    assert!(generation.trusted_proxies.is_empty() && generation.roots.is_empty());
    assert_eq!(generation.http, crate::http::Settings::default());
    assert_eq!(generation.handshake_timeout, seconds(10));
    assert_eq!(generation.drain_timeout, seconds(30));
    assert!(generation.access_log.enabled && generation.access_log.path.is_none());
    assert_eq!(generation.access_log.format, Format::Combined);
    assert_eq!(generation.admin, None);
}

#[test]
fn the_smallest_configuration_listens_with_tls_and_forwards() {
    let folder = folder();
    let generation = good(SMALLEST, folder.path()).generation;
    let [listener] = generation.listeners.as_slice() else {
        panic!("one listener");
    };
    assert_eq!(
        listener.settings.address,
        Address::Tcp("0.0.0.0:443".parse().unwrap())
    );
    assert_eq!(&*listener.settings.name, "0.0.0.0:443");
    assert_eq!(
        (
            listener.settings.connections_max,
            listener.settings.proxy_protocol
        ),
        (65_536, false)
    );
    assert_eq!(listener.mode, Mode::Http);
    let tls = listener.tls.as_ref().unwrap();
    assert_eq!((tls.prefer_ktls, tls.ktls_threshold), (true, 1024 * 1024));
    assert_eq!(tls.server.alpn_protocols, [b"h2".to_vec(), b"http/1.1".to_vec()]);
    let [route] = generation.routes.routes() else {
        panic!("one route");
    };
    assert_eq!(
        (&route.host, &route.path),
        (&HostPattern::Any, &PathPattern::Prefix("/".into()))
    );
    assert!(route.methods.is_empty() && route.headers.is_empty() && !route.strip_prefix);
    assert!(matches!(route.action, Action::Forward(ref split) if split.only() == Some(0)));
    let [upstream] = generation.upstreams.as_slice() else {
        panic!("one upstream");
    };
    assert_eq!(
        upstream.endpoints,
        [EndpointSettings::at(EndpointAddress::Socket(Address::Tcp(
            "127.0.0.1:3000".parse().unwrap()
        )))]
    );
    assert_eq!(upstream.connect_timeout, seconds(5));
    assert_eq!(
        (upstream.response_timeout, upstream.idle_timeout),
        (seconds(60), seconds(60))
    );
    assert_eq!(
        (upstream.pool_idle_max, upstream.pool_idle_timeout),
        (1024, seconds(60))
    );
    assert!(upstream.tls.is_none() && upstream.host.is_none());
}

/// Every key, each with another value than its default.
const EVERY_KEY: &str = r#"
workers = 3
trusted_proxies = ["10.0.0.0/8", "::1"]
[[listen]]
address = "::"
port = 80
name = "plain"
tls = false
proxy_protocol = true
connections_max = 7
[[listen]]
address = "unix:/run/atlas.sock"
mode = "tcp"
upstream = "z"
[listen.tls]
cert = "other.crt"
key = "other.key"
prefer_ktls = false
ktls_threshold = 0
min_version = "1.3"
alpn = ["imap"]
[[route]]
host = "*.A.example"
path = "/x/"
method = ["GET", "POST"]
header = { X-A = "b" }
listen = "plain"
strip_prefix = true
upstream = "z"
mirror = { upstream = "y", percent = 5, body = "1KiB", timeout = "2s" }
[[route]]
path_exact = "/f"
files = { root = "www", index = ["i.htm"], listing = true, fallback = "a/b", precompressed = false, dotfiles = true }
[[route]]
path_exact = "/r"
redirect = { to = "/new", status = 301 }
[[route]]
path_exact = "/s"
respond = { status = 418, body = "tea", type = "text/x" }
[upstream.z]
endpoints = ["unix:/run/z.sock", { address = "z.internal:1", weight = 3, backup = true, drain = true, connections_max = 9 }]
requests_max = 8
queue_max = 0
queue_timeout = "5ms"
balance = "hash"
hash = "client_address"
hash_balance_factor = 200
host = "h:1"
connect_timeout = "1s"
response_timeout = "2s"
idle_timeout = "3s"
pool_idle_max = 0
pool_idle_timeout = "4s"
tls = { ca = "good.crt", cert = "good.crt", key = "good.key", server_name = "n.example", verify = true, prefer_ktls = false, ktls_threshold = "2KiB" }
[upstream.y]
endpoints = ["127.0.0.1:9"]
[timeouts]
handshake = "1s"
header = "2s"
body = "3s"
idle = "4s"
write = "5s"
tunnel = "7s"
drain = "6s"
[limits]
head = "16KiB"
fields = 9
request_line = "1KiB"
body = "1MiB"
min_rate = "0B"
[access_log]
enabled = true
format = "json"
path = "access.log"
[admin]
address = "127.0.0.1:9901"
"#;

#[test]
fn every_key_has_its_effect() {
    let folder = folder();
    let loaded = good(EVERY_KEY, folder.path());
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
    let generation = loaded.generation;
    listeners_are_as_written(&generation);
    routes_are_as_written(generation.routes.routes());
    upstream_is_as_written(&generation.upstreams[0]);
    let root = &generation.roots[0];
    assert_eq!(
        (&root.root, &*root.index),
        (&folder.path().join("www"), &["i.htm".to_owned()][..])
    );
    assert!(root.listing && root.dotfiles && !root.precompressed);
    assert_eq!(root.fallback.as_deref(), Some("a/b"));
    assert_eq!(
        (generation.handshake_timeout, generation.drain_timeout),
        (seconds(1), seconds(6))
    );
    let http = &generation.http;
    assert_eq!((http.header_timeout, http.body_timeout), (seconds(2), seconds(3)));
    assert_eq!((http.idle_timeout, http.write_timeout), (seconds(4), seconds(5)));
    assert_eq!(http.tunnel_timeout, seconds(7));
    assert_eq!(
        (http.head_bytes_max, http.fields_max, http.request_line_bytes_max),
        (16_384, 9, 1024)
    );
    assert_eq!((http.body_bytes_max, http.min_rate), (Some(1024 * 1024), 0));
    assert_eq!(generation.access_log.format, Format::Json);
    assert_eq!(generation.access_log.path, Some(folder.path().join("access.log")));
    assert_eq!(generation.admin, Some("127.0.0.1:9901".parse().unwrap()));
}

fn listeners_are_as_written(generation: &Generation) {
    assert_eq!(
        (generation.workers, generation.trusted_proxies.len()),
        (Some(3), 2)
    );
    let [plain, tcp] = generation.listeners.as_slice() else {
        panic!("two listeners");
    };
    assert!(plain.tls.is_none() && plain.settings.proxy_protocol);
    assert_eq!(
        (&*plain.settings.name, plain.settings.connections_max),
        ("plain", 7)
    );
    assert_eq!(tcp.mode, Mode::Tcp(Split::one(0)));
    assert_eq!(&*tcp.settings.name, "unix:/run/atlas.sock");
    let tls = tcp.tls.as_ref().unwrap();
    assert_eq!((tls.prefer_ktls, tls.ktls_threshold), (false, 0));
    assert_eq!(tls.server.alpn_protocols, [b"imap".to_vec()]);
}

fn routes_are_as_written(routes: &[Route]) {
    assert_eq!(routes[0].host, HostPattern::Wildcard("a.example".into()));
    assert_eq!(routes[0].path, PathPattern::Prefix("/x/".into()));
    assert_eq!(routes[0].methods, [Method::GET, Method::POST]);
    assert_eq!(routes[0].headers, [("x-a".to_owned(), "b".to_owned())]);
    assert_eq!((routes[0].listener, routes[0].strip_prefix), (Some(0), true));
    let mirror = Mirror {
        upstream: 1,
        percent: 5,
        body_bytes_max: 1024,
        timeout: seconds(2),
    };
    assert_eq!(routes[0].mirror, Some(mirror));
    assert_eq!(
        routes.iter().map(|route| route.number).collect::<Vec<_>>(),
        [1, 2, 3, 4]
    );
    assert_eq!(routes[1].path, PathPattern::Exact("/f".into()));
    assert!(matches!(routes[1].action, Action::Serve(0)));
    let Action::Redirect { to, status } = &routes[2].action else {
        panic!("a redirect");
    };
    assert_eq!((&**to, *status), ("/new", StatusCode::MOVED_PERMANENTLY));
    let Action::Respond {
        status,
        body,
        content_type,
    } = &routes[3].action
    else {
        panic!("an answer");
    };
    assert_eq!(
        (status.as_u16(), &**body, &**content_type),
        (418, "tea", "text/x")
    );
}

fn upstream_is_as_written(upstream: &upstream::Settings) {
    assert_eq!((&*upstream.name, upstream.host.as_deref()), ("z", Some("h:1")));
    assert_eq!(
        (upstream.connect_timeout, upstream.response_timeout),
        (seconds(1), seconds(2))
    );
    assert_eq!(
        (upstream.idle_timeout, upstream.pool_idle_timeout),
        (seconds(3), seconds(4))
    );
    assert_eq!(upstream.pool_idle_max, 0);
    let [socket, named] = upstream.endpoints.as_slice() else {
        panic!("two endpoints");
    };
    assert_eq!(
        (socket.address.to_string(), socket.weight),
        ("unix:/run/z.sock".to_owned(), 1)
    );
    assert_eq!(
        (named.address.to_string(), named.weight),
        ("z.internal:1".to_owned(), 3)
    );
    assert!(named.is_backup && named.is_drained);
    assert!(!socket.is_backup && !socket.is_drained);
    assert_eq!(upstream.balance, Some(upstream::balance::Method::Hash));
    assert_eq!((named.connections_max, socket.connections_max), (Some(9), None));
    assert_eq!(
        (upstream.requests_max, upstream.queue_max, upstream.queue_timeout),
        (Some(8), 0, Duration::from_millis(5))
    );
    let hash = upstream.hash.as_ref().unwrap();
    assert_eq!(
        (&hash.by, hash.load_max),
        (&upstream::HashKey::ClientAddress, Some(200))
    );
    let tls = upstream.tls.as_ref().unwrap();
    assert!(tls.server_name.is_some() && tls.client.client_auth_cert_resolver.has_certs());
    assert_eq!((tls.prefer_ktls, tls.ktls_threshold), (false, 2048));
    assert!(!tls.client.enable_secret_extraction, "nobody asks for the keys");
}

#[test]
fn relative_paths_begin_at_the_folder_of_the_file() {
    let folder = folder();
    let path = folder.path().join("atlas.toml");
    std::fs::write(&path, SMALLEST).unwrap();
    let generation = load(&path).unwrap().generation;
    let tls = generation.listeners[0].tls.clone().unwrap();
    let read_from = |index: usize| -> PathBuf { tls.certificates()[index].path.clone() };
    assert_eq!(read_from(0), folder.path().join("good.crt"));
}

#[test]
fn a_reload_keeps_the_ticket_keys_of_certificates_that_stay() {
    let folder = folder();
    let path = folder.path().join("atlas.toml");
    std::fs::write(&path, SMALLEST).unwrap();
    let first = load(&path).unwrap().generation;
    let second = load_after(&path, Some(&first)).unwrap().generation;
    let stranger = load(&path).unwrap().generation;
    let ticketer = |generation: &Generation| {
        generation.listeners[0]
            .tls
            .as_ref()
            .unwrap()
            .server
            .ticketer
            .clone()
    };
    let ticket = ticketer(&first).encrypt(b"session").unwrap();
    assert_eq!(
        ticketer(&second).decrypt(&ticket).as_deref(),
        Some(&b"session"[..])
    );
    assert_eq!(ticketer(&stranger).decrypt(&ticket), None);
}

#[test]
fn lines_tell_where_everything_stands() {
    let folder = folder();
    let lines = good(SMALLEST, folder.path()).lines;
    assert_eq!(lines.numbers(&lines.listeners[0]), [2, 3, 4, 5]);
    assert_eq!(lines.numbers(&lines.certificates[0][0]), [8, 9]);
    assert_eq!(lines.numbers(&lines.routes[0]), [12, 13]);
    assert_eq!(lines.numbers(&lines.upstreams[0]), [15, 16]);
    assert_eq!(lines.source.line(16), "endpoints = [\"127.0.0.1:3000\"]");
    let asked = lines.listener_ktls[0].clone().unwrap();
    assert_eq!(lines.numbers(&[asked]), [10]);
    assert_eq!(lines.upstream_ktls, [None]);
    assert_eq!(lines.connections_max, [None]);
    assert_eq!(lines.workers, None);
    let workers = |value: &str| {
        good(&format!("\nworkers = {value}\n{SMALLEST}"), folder.path())
            .lines
            .workers
    };
    assert_eq!(workers("\"auto\""), None);
    assert_eq!(workers("3"), Some(1..8));
}

#[test]
fn kernel_tls_is_asked_for_where_it_is_written_for_a_listener_or_an_upstream() {
    let folder = folder();
    let text = r#"
[[listen]]
port = 1
address = "127.0.0.1"
[[listen]]
port = 2
address = "127.0.0.1"
tls = { cert = "good.crt", key = "good.key", prefer_ktls = false }
[[listen]]
port = 3
address = "127.0.0.1"
tls = false
[[listen]]
port = 4
address = "127.0.0.1"
tls = { cert = "good.crt", key = "good.key" }
[tls]
cert = "good.crt"
key = "good.key"
prefer_ktls = true
[[route]]
upstream = [{ name = "a", weight = 1 }, { name = "b", weight = 1 }, { name = "c", weight = 1 }]
[upstream.a]
endpoints = ["127.0.0.1:3000"]
tls = true
[upstream.b]
endpoints = ["127.0.0.1:3000"]
[upstream.c]
endpoints = ["127.0.0.1:3000"]
tls = { prefer_ktls = true, server_name = "a.test" }
"#;
    let lines = good(text, folder.path()).lines;
    let numbers = |places: &[Option<_>]| -> Vec<_> {
        let number = |place: &Option<_>| place.clone().map(|place| lines.numbers(&[place])[0]);
        places.iter().map(number).collect()
    };
    assert_eq!(numbers(&lines.listener_ktls), [Some(20), None, None, None]);
    assert_eq!(numbers(&lines.upstream_ktls), [None, None, Some(30)]);
}

#[test]
fn a_second_endpoint_is_asked_only_where_that_is_written() {
    let folder = folder();
    let retry = |text: &str| {
        good(text, folder.path()).generation.routes.routes()[0]
            .retry
            .clone()
    };
    assert_eq!(retry(SMALLEST).hedge_after, None);
    let written = "upstream = \"app\"\nretry = { hedge_after = \"200ms\" }";
    let retry = retry(&SMALLEST.replace("upstream = \"app\"", written));
    assert_eq!(retry.hedge_after, Some(Duration::from_millis(200)));
    assert!(retry.on_connect && retry.on_reset && !retry.on_timeout);
}

#[test]
fn upstreams_share_what_comes_to_a_route_or_a_listener() {
    let folder = folder();
    let more = "\n[upstream.new]\nendpoints = [\"127.0.0.1:3001\"]\n";
    let list = "[{ name = \"app\", weight = 9 }, \"new\"]";
    let share = |upstream, weight| Share { upstream, weight };
    let wanted = Split::new(vec![share(0, 9), share(1, 1)]).unwrap();
    let of_route = SMALLEST.replace("upstream = \"app\"", &format!("upstream = {list}")) + more;
    let generation = good(&of_route, folder.path()).generation;
    let Action::Forward(split) = &generation.routes.routes()[0].action else {
        panic!("it forwards");
    };
    assert_eq!(*split, wanted);
    let of_listener = SMALLEST
        .replace("mode = \"http\"", &format!("mode = \"tcp\"\nupstream = {list}"))
        .replace("[[route]]\nupstream = \"app\"\n", "");
    let generation = good(&(of_listener + more), folder.path()).generation;
    assert_eq!(generation.listeners[0].mode, Mode::Tcp(wanted));
}

#[test]
fn a_tcp_listener_offers_no_protocol_unless_asked() {
    let folder = folder();
    let text = SMALLEST
        .replace("mode = \"http\"", "mode = \"tcp\"\nupstream = \"app\"")
        .replace("[[route]]\nupstream = \"app\"\n", "");
    let generation = good(&text, folder.path()).generation;
    let tls = generation.listeners[0].tls.clone().unwrap();
    assert!(tls.server.alpn_protocols.is_empty());
}

#[test]
fn a_smaller_head_makes_the_request_line_smaller() {
    let folder = folder();
    let text = format!("{SMALLEST}[limits]\nhead = \"4KiB\"\n");
    let http = good(&text, folder.path()).generation.http;
    assert_eq!((http.head_bytes_max, http.request_line_bytes_max), (4096, 4096));
}

#[test]
fn nothing_panics_on_pieces_of_a_configuration() {
    let folder = folder();
    for end in (0..SMALLEST.len()).filter(|end| SMALLEST.is_char_boundary(*end)) {
        let _ = parse("atlas.toml", &SMALLEST[..end], folder.path()).map_err(|report| report.to_string());
        let _ = parse("atlas.toml", &SMALLEST[end..], folder.path()).map_err(|report| report.to_string());
    }
}
