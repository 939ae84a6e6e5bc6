//! Which request goes where, and what answers it.

use crate::support::{Atlas, atlas, origin};

/// Routes that answer with their own name.
fn says(conditions: &str, name: &str) -> String {
    format!("[[route]]\n{conditions}\nrespond = {{ status = 200, body = \"{name}\" }}\n")
}

fn asks(atlas: &Atlas, method: &str, host: &str, path: &str, field: Option<(&str, &str)>) -> (u16, String) {
    let mut fields = vec![("Host", host)];
    fields.extend(field);
    let answer = atlas.connect().request(method, path, &fields, b"");
    (answer.status, answer.text())
}

#[test]
fn the_most_specific_host_wins() {
    let atlas = atlas()
        .listens_plain()
        .text(&says("host = \"*.a.test\"", "wildcard"))
        .text(&says("", "any"))
        .text(&says("host = \"b.a.test\"", "exact"))
        .start();
    for (host, name) in [
        ("b.a.test", "exact"),
        ("B.A.Test", "exact"),
        ("b.a.test:8080", "exact"),
        ("b.a.test.", "exact"),
        ("c.a.test", "wildcard"),
        ("a.test", "any"),
        ("x.c.a.test", "any"),
        ("other", "any"),
        ("[::1]:80", "any"),
    ] {
        assert_eq!(
            asks(&atlas, "GET", host, "/", None),
            (200, name.to_owned()),
            "{host}"
        );
    }
}

#[test]
fn the_longest_path_wins_on_borders_of_segments() {
    let atlas = atlas()
        .listens_plain()
        .text(&says("path = \"/a\"", "a"))
        .text(&says("path = \"/a/b\"", "ab"))
        .text(&says("path_exact = \"/a/b/c\"", "abc exactly"))
        .text(&says("path = \"/\"", "root"))
        .start();
    for (path, name) in [
        ("/", "root"),
        ("/a", "a"),
        ("/a?x=/a/b", "a"),
        ("/a/", "a"),
        ("/ab", "root"),
        ("/a/x", "a"),
        ("/a/b", "ab"),
        ("/a/bc", "a"),
        ("/a/b/c", "abc exactly"),
        ("/a/b/c?q", "abc exactly"),
        ("/a/b/c/", "ab"),
        ("/A", "root"),
    ] {
        assert_eq!(
            asks(&atlas, "GET", "a.test", path, None),
            (200, name.to_owned()),
            "{path}"
        );
    }
}

#[test]
fn more_conditions_win_over_fewer() {
    let atlas = atlas()
        .listens_plain()
        .text(&says("path = \"/a\"", "plain"))
        .text(&says("path = \"/a\"\nmethod = [\"POST\", \"PUT\"]", "method"))
        .text(&says(
            "path = \"/a\"\nmethod = [\"POST\"]\nheader = { x-beta = \"1\" }",
            "both",
        ))
        .start();
    let beta = Some(("X-Beta", "1"));
    for (method, field, name) in [
        ("GET", None, "plain"),
        ("PUT", None, "method"),
        ("GET", beta, "plain"),
        ("POST", beta, "both"),
        ("POST", Some(("X-Beta", "2")), "method"),
    ] {
        assert_eq!(
            asks(&atlas, method, "a.test", "/a", field),
            (200, name.to_owned()),
            "{method} {field:?}"
        );
    }
}

#[test]
fn what_no_route_takes_is_404_and_a_method_none_takes_405() {
    let atlas = atlas()
        .listens_plain()
        .text(&says(
            "host = \"a.test\"\npath = \"/a\"\nmethod = [\"GET\", \"PUT\"]",
            "a",
        ))
        .start();
    assert_eq!(asks(&atlas, "GET", "a.test", "/a", None).0, 200);
    assert_eq!(asks(&atlas, "GET", "a.test", "/b", None).0, 404);
    assert_eq!(asks(&atlas, "GET", "b.test", "/a", None).0, 404);
    let answer = atlas.connect().request("DELETE", "/a", &[], b"");
    assert_eq!(answer.status, 405);
    let allow = answer
        .field("allow")
        .expect("RFC 9110 §15.5.6: 405 says what is allowed");
    assert!(allow.contains("GET") && allow.contains("PUT"), "{allow}");
}

#[test]
fn dot_segments_do_not_lead_round_a_route() {
    let origin = origin().start();
    let atlas = atlas()
        .listens_plain()
        .text("[[route]]\npath = \"/admin\"\nrespond = 403")
        .forwards_to(&origin)
        .start();
    for path in [
        "/admin",
        "/x/../admin",
        "/x/%2e%2e/admin",
        "/./admin",
        "/%61dmin",
        "/x/..//admin/",
    ] {
        atlas.connect().get(path);
    }
    for seen in origin.requests() {
        // Whatever reaches the origin must not be what the route keeps from it.
        let target = seen.head.word(1);
        assert!(
            !target.contains("..") && !target.contains("%2e"),
            "{target} reached the origin"
        );
        assert!(
            !target.starts_with("/admin") && !target.contains("%61"),
            "{target} reached the origin"
        );
    }
}

#[test]
fn a_redirect_keeps_host_path_and_query() {
    let atlas = atlas()
        .listens_plain()
        .text("[[route]]\npath = \"/old\"\nredirect = \"https://{host}{uri}\"")
        .text("[[route]]\npath = \"/see\"\nredirect = { to = \"/other{path}?from={query}\", status = 303 }")
        .start();
    let answer = atlas
        .connect()
        .request("GET", "/old/x?y=%20z", &[("Host", "a.test:8080")], b"");
    assert_eq!(answer.status, 308);
    let location = answer.field("location").unwrap();
    assert!(location == "https://a.test/old/x?y=%20z" || location == "https://a.test:8080/old/x?y=%20z");
    let answer = atlas.get("/see/x?y=1");
    assert_eq!(
        (answer.status, answer.field("location")),
        (303, Some("/other/see/x?from=y=1"))
    );
}

#[test]
fn a_response_of_the_configuration_is_given() {
    let atlas = atlas()
        .listens_plain()
        .text("[[route]]\npath = \"/gone\"\nrespond = 410")
        .text("[[route]]\npath = \"/json\"\nrespond = { status = 200, body = \"{}\", type = \"application/json\" }")
        .start();
    assert_eq!(atlas.get("/gone").status, 410);
    let answer = atlas.get("/json");
    assert_eq!(
        (answer.text().as_str(), answer.field("content-type")),
        ("{}", Some("application/json"))
    );
    let mut client = atlas.connect();
    let answer = client.request("HEAD", "/json", &[], b"");
    assert_eq!(
        (answer.field("content-length"), answer.body.len()),
        (Some("2"), 0)
    );
    // A body nobody asked for is read away, or the connection ends; the next request is safe.
    let answer = atlas.connect().request("POST", "/json", &[], b"unasked");
    assert_eq!(answer.status, 200);
}

#[test]
fn a_prefix_is_stripped() {
    let origin = origin().start();
    let atlas = atlas()
        .listens_plain()
        .text("[[route]]\npath = \"/api\"\nupstream = \"app\"\nstrip_prefix = true")
        .upstream("app", &[origin.address()], "")
        .start();
    for (path, target) in [
        ("/api", "/"),
        ("/api/", "/"),
        ("/api/x", "/x"),
        ("/api?y", "/?y"),
        ("/api/api/x?y=z", "/api/x?y=z"),
    ] {
        assert_eq!(atlas.get(path).status, 200);
        assert_eq!(origin.requests().last().unwrap().head.word(1), target, "{path}");
    }
}

#[test]
fn a_route_can_be_of_one_listener() {
    let atlas = atlas()
        .listener(false, "name = \"inside\"")
        .listener(false, "name = \"outside\"")
        .text(&says("listen = \"inside\"", "inside"))
        .text(&says("", "anywhere"))
        .start();
    assert_eq!(atlas.connect_to(0).get("/").text(), "inside");
    assert_eq!(atlas.connect_to(1).get("/").text(), "anywhere");
}

#[test]
fn ipv6_is_listened_on() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        eprintln!("skipped: this machine has no IPv6 loopback");
        return;
    }
    let atlas = atlas()
        .listener(false, "address = \"::1\"")
        .text(&says("", "six"))
        .start();
    let address = std::net::SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], atlas.address().port()));
    let mut client = crate::support::Connection::plain(address).unwrap();
    assert_eq!(client.get("/six").text(), "six");
    assert!(atlas.exchange("/six")["client"].as_str().unwrap().contains("::1"));
}

#[test]
fn a_unix_socket_is_listened_on() {
    use std::io::{Read, Write};
    let atlas = atlas()
        .listener(false, "address = \"unix:{folder}/atlas.sock\"")
        .text(&says("", "unix"))
        .start();
    let mut client = std::os::unix::net::UnixStream::connect(atlas.folder().join("atlas.sock")).unwrap();
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("unix"), "{answer}");
}
