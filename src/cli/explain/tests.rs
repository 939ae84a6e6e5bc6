//! Requests that are only thought of.

use std::path::Path;

use serde_json::Value;

use super::*;

const FILE: &str = r#"
[[listen]]
address = "127.0.0.1"
port = 443

[[listen]]
address = "0.0.0.0"
port = 80
name = "plain"
tls = false

[[listen]]
address = "::"
port = 8883
tls = false
mode = "tcp"
upstream = "app"

[tls]
cert = "a.crt"
key = "a.key"
[[tls.certificate]]
cert = "b.crt"
key = "b.key"

[[route]]
upstream = "app"

[[route]]
listen = "plain"
redirect = "https://{host}{uri}"

[[route]]
host = "b.example"
path = "/api"
method = ["GET"]
header = { X-Beta = "1" }
upstream = "app"
strip_prefix = true

[[route]]
host = "b.example"
path_exact = "/form"
method = ["POST"]
respond = { status = 201, body = "ok" }

[[route]]
host = "b.example"
path = "/static"
files = "www"

[[route]]
host = "c.example"
upstream = [{ name = "app", weight = 2 }, "next"]
mirror = { upstream = "bound", percent = 3 }

[upstream.app]
endpoints = ["127.0.0.1:3000", { address = "app.internal:80", weight = 3, backup = true }]
balance = "round_robin"

[upstream.next]
endpoints = ["127.0.0.1:3001"]
requests_max = 7

[[route]]
host = "b.example"
path = "/bound"
upstream = "bound"

[upstream.bound]
endpoints = [{ address = "127.0.0.1:3000", connections_max = 5 }, "127.0.0.1:3001"]
balance = "hash"
hash = "header:X-User"
queue_max = 10
slow_start = "5s"
connect_timeout = "1s"
sticky = { cookie = "srv", ttl = "1h", secret = "the cat sat on the mat" }

[upstream.bound.health]
path = "/health"
status = [200]

[upstream.bound.outliers]
failures = 5
status = ["502-504"]
"#;

fn loaded(text: &str, folder: &Path) -> Loaded {
    for (name, host) in [("a", "a.example"), ("b", "*.b.example")] {
        let pair = rcgen::generate_simple_self_signed(
            [host.to_owned(), "b.example".to_owned()][..1 + usize::from(name == "b")].to_vec(),
        )
        .unwrap();
        std::fs::write(folder.join(format!("{name}.crt")), pair.cert.pem()).unwrap();
        std::fs::write(
            folder.join(format!("{name}.key")),
            pair.signing_key.serialize_pem(),
        )
        .unwrap();
    }
    std::fs::create_dir(folder.join("www")).unwrap();
    config::parse("atlas.toml", text, folder).unwrap_or_else(|report| panic!("{report}"))
}

fn explained(options: &[&str]) -> (Value, String) {
    explained_by(FILE, options)
}

fn explained_by(text: &str, options: &[&str]) -> (Value, String) {
    use clap::Parser;
    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }
    let folder = tempfile::tempdir().unwrap();
    let loaded = loaded(text, folder.path());
    let line = Line::parse_from([&["explain"], options].concat());
    let explanation = Request::new(&line.arguments, &loaded).explain();
    let text = explanation
        .to_string()
        .replace(&folder.path().display().to_string(), "/etc/atlas");
    (json!(explanation), text)
}

fn numbers(lines: &Value) -> Vec<u64> {
    let lines = lines.as_array().unwrap().iter();
    lines.map(|line| line["number"].as_u64().unwrap()).collect()
}

#[test]
fn a_request_is_told_with_the_lines_that_decide() {
    let (_, text) = explained(&["-H", "x-beta: 1", "https://b.example/api/x?q=1"]);
    assert_eq!(
        text,
        r#"GET https://b.example/api/x?q=1

listener: 127.0.0.1:443 (HTTP over TLS)
  atlas.toml:2
  2 | [[listen]]
  3 | address = "127.0.0.1"
  4 | port = 443

certificate: /etc/atlas/b.crt (*.b.example, b.example)
  atlas.toml:23
  23 | cert = "b.crt"
  24 | key = "b.key"

route: 3
  atlas.toml:33
  33 | [[route]]
  34 | host = "b.example"
  35 | path = "/api"
  36 | method = ["GET"]
  37 | header = { X-Beta = "1" }
  38 | upstream = "app"
  39 | strip_prefix = true

upstream: app: 127.0.0.1:3000, app.internal:80 (weight 3, backup) by round_robin, asked for /x
  names are looked up as /etc/resolv.conf says, and answers kept from 1s to 60s
  ejected for 10s up to 300s after 3 failures in a row, or if 50% of 20 or more fail within 10s; 50% of the endpoints at most
  tried again after connect, reset
  atlas.toml:57
  57 | [upstream.app]
  58 | endpoints = ["127.0.0.1:3000", { address = "app.internal:80", weight = 3, backup = true }]
  59 | balance = "round_robin""#
    );
}

#[test]
fn upstreams_that_share_are_told_with_their_shares() {
    let (json, text) = explained(&["https://c.example/x"]);
    let (_, told) = text
        .split_once("upstream: app, 66.67 %: 127.0.0.1:3000")
        .expect(&text);
    assert!(told.contains("\n  57 | [upstream.app]\n"), "{text}");
    let (_, told) = told.split_once("\n\nupstream: next, 33.33 %: ").expect(&text);
    assert!(told.starts_with("127.0.0.1:3001, asked for /x\n"), "{text}");
    assert!(
        told.contains("\n  3% of the requests are sent to bound as well\n"),
        "{text}"
    );
    assert!(
        told.contains("\n  at most 7 requests at a time\n") && told.ends_with("\n  63 | requests_max = 7"),
        "{text}"
    );
    let result = &json["result"];
    assert_eq!(
        (&result["kind"], &result["upstreams"][1]["name"]),
        (&"split".into(), &"next".into())
    );
}

#[test]
fn all_that_decides_who_of_an_upstream_is_asked_is_told_but_the_secret() {
    let (json, text) = explained(&["https://b.example/bound"]);
    let (_, upstream) = text.split_once("\n\nupstream: ").unwrap();
    assert_eq!(
        upstream,
        r#"bound: 127.0.0.1:3000 (at most 5 at a time), 127.0.0.1:3001 by hash of header:X-User, each at most 125% of its share, asked for /bound
  clients are bound to an endpoint by the cookie srv for 3600s; Secure by HTTPS, HttpOnly, SameSite=Lax
  while all are busy 10 requests wait, each up to 5s
  checked by GET /health expects 200 every 5s within 2s, down after 3, up after 2
  ejected for 10s up to 300s after 5 failures in a row, or if 50% of 20 or more fail within 10s; 502-504 is a failure; 50% of the endpoints at most
  its share grows for 5s after it came back
  tried again after connect, reset
  atlas.toml:70
  70 | [upstream.bound]
  71 | endpoints = [{ address = "127.0.0.1:3000", connections_max = 5 }, "127.0.0.1:3001"]
  72 | balance = "hash"
  73 | hash = "header:X-User"
  74 | queue_max = 10
  75 | slow_start = "5s"
  76 | connect_timeout = "1s"
  77 | sticky = { cookie = "srv", ttl = "1h", secret = "**********************" }
  79 | [upstream.bound.health]
  80 | path = "/health"
  81 | status = [200]
  83 | [upstream.bound.outliers]
  84 | failures = 5
  85 | status = ["502-504"]"#
    );
    assert!(!json.to_string().contains("the cat"), "{json}");
    assert_eq!(
        json["result"]["queue"],
        "while all are busy 10 requests wait, each up to 5s"
    );
}

#[test]
fn conditions_that_do_not_hold_lead_elsewhere() {
    let (json, _) = explained(&["https://b.example/api/x"]);
    assert_eq!(
        (&json["route"]["name"], &json["result"]["path"]),
        (&"1".into(), &"/api/x".into())
    );
    let (json, _) = explained(&["https://a.example/"]);
    assert_eq!(json["certificate"]["is_default"], true);
    assert_eq!(json["certificate"]["names_the_host"], true);
    assert_eq!(numbers(&json["certificate"]["lines"]), [20, 21]);
}

#[test]
fn every_end_of_a_request_is_told() {
    let result = |options: &[&str]| explained(options).0["result"].clone();
    let one = result(&["http://b.example/x?y=z"]);
    assert_eq!((&one["kind"], &one["status"]), (&"redirect".into(), &308.into()));
    assert_eq!(one["location"], "https://b.example/x?y=z");
    let one = result(&["-X", "POST", "https://b.example/form"]);
    assert_eq!(
        (&one["kind"], &one["status"], &one["bytes"]),
        (&"respond".into(), &201.into(), &2.into())
    );
    let one = result(&["b.example/static/a.css"]);
    assert_eq!(
        (&one["kind"], &one["path"]),
        (&"files".into(), &"/static/a.css".into())
    );
    let one = result(&["https://b.example/%2e%2e/x"]);
    assert_eq!((&one["kind"], &one["status"]), (&"refused".into(), &400.into()));
    let one = result(&["http://b.example:8883/"]);
    assert_eq!((&one["kind"], &one["name"]), (&"upstream".into(), &"app".into()));
}

#[test]
fn a_url_nobody_listens_for_is_told() {
    let why = |url: &str| explained(&[url]).0["result"]["why"].as_str().unwrap().to_owned();
    assert!(why("https://a.example:444/").contains("listeners are: 127.0.0.1:443, plain"));
    assert!(why("http://a.example:443/").contains("try https://"));
    assert!(why("https://a.example:80/").contains("try http://"));
    assert!(why("https://192.0.2.1/").contains("nothing listens for TLS on 192.0.2.1:443; "));
    assert!(why("https://[::1]/").contains("nothing listens for TLS on [::1]:443; "));
    assert!(why("https://a.example:444/").contains("nothing listens for TLS on port 444; "));
    assert!(explained(&["https://127.0.0.1/"]).0["listener"].is_object());
}

#[test]
fn the_host_field_decides_the_route_and_not_the_certificate() {
    let (json, text) = explained(&["-X", "POST", "-H", "Host: b.example", "https://c.example/form"]);
    assert_eq!(json["route"]["name"], "4");
    assert!(text.contains("the default: none names this host"), "{text}");
}

#[test]
fn where_no_route_matches_it_is_told_what_the_nearest_ones_ask_for() {
    let text = r#"
[[listen]]
address = "127.0.0.1"
port = 80
tls = false
[[listen]]
address = "127.0.0.1"
port = 81
name = "inner"
tls = false
[[route]]
host = "a.test"
path_exact = "/x"
respond = 200
[[route]]
host = "*.a.test"
path = "/api"
listen = "inner"
header = { X-Key = "k" }
respond = 200
[[route]]
host = "b.test"
path = "/api"
respond = 200
"#;
    let many = "[[route]]\nhost = \"c.test\"\npath = \"/NUMBER\"\nrespond = 200\n";
    let many = (0..9).map(|number| many.replace("NUMBER", &number.to_string()));
    let text = format!("{text}{}", many.collect::<String>());
    let (json, told) = explained_by(&text, &["http://b.test/z"]);
    let (_, answer) = told.split_once("answer: ").expect(&told);
    assert_eq!(
        answer.lines().take(3).collect::<Vec<_>>(),
        [
            "404: no route matches",
            "  nor does route 3 of line 21: the path is not /api or below it",
            "  nor does route 1 of line 11: the host is not a.test, and the path is not /x",
        ]
    );
    assert_eq!(json["result"]["near"].as_array().map(Vec::len), Some(5));
    assert_eq!(numbers(&json["result"]["near"][0]["lines"]), [21, 22, 23, 24]);
    let (_, told) = explained_by(&text, &["http://x.a.test/api"]);
    assert!(
        told.contains("route 2 of line 15: the listener is not inner, and there is no field x-key: k\n"),
        "{told}"
    );
    let (json, _) = explained_by(&text, &["-X", "PUT", "http://b.test/api/../../"]);
    assert!(json["result"].get("near").is_none(), "{json}");
}
