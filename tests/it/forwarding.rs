//! Atlas in front of origins: fields, large bodies, origins that answer early, late, or die.

use std::time::Duration;

use crate::support::{Digest, Ending, Then, atlas, has, nginx, noise, origin};

const GIB: u64 = 1024 * 1024 * 1024;
const MEMORY_KIB_MAX: u64 = 64 * 1024;

#[test]
fn forwarding_fields_are_set_and_a_strangers_are_not_believed() {
    let origin = origin().start();
    let atlas = atlas().listens_tls("a.test").forwards_to(&origin).start();
    atlas.connect().request(
        "GET",
        "/",
        &[
            ("X-Forwarded-For", "6.6.6.6"),
            ("X-Forwarded-Proto", "gopher"),
            ("X-Forwarded-Host", "evil.test"),
            ("X-Forwarded-Port", "1"),
            ("X-Real-IP", "6.6.6.6"),
            ("Forwarded", "for=6.6.6.6"),
            ("X-Request-Id", "mine"),
            ("Via", "1.1 before"),
        ],
        b"",
    );
    let head = origin.request().head;
    let port = atlas.address().port().to_string();
    assert_eq!(head.all("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(head.all("x-forwarded-proto"), ["https"]);
    assert_eq!(head.all("x-forwarded-host"), ["a.test"]);
    assert_eq!(head.all("x-forwarded-port"), [port.as_str()]);
    assert_eq!(head.all("x-real-ip"), ["127.0.0.1"]);
    let forwarded = head.field("forwarded").unwrap();
    assert!(
        forwarded.contains("for=127.0.0.1") && forwarded.contains("proto=https"),
        "{forwarded}"
    );
    assert!(!forwarded.contains("6.6.6.6"), "{forwarded}");
    let via = head.all("via").join(", ");
    assert!(via.starts_with("1.1 before, 1.1 "), "{via}");
    assert_eq!(head.all("x-request-id").len(), 1);
    assert_ne!(head.field("x-request-id"), Some("mine"));
    assert_eq!(head.field("host"), Some("a.test"));
}

#[test]
fn forwarding_fields_are_not_smuggled_in_behind_the_body() {
    let origin = origin().start();
    let atlas = atlas().listens_plain().forwards_to(&origin).start();
    let told = [
        "X-Real-IP",
        "X_Real_IP",
        "X_Forwarded_For",
        "X-Request-Id",
        "Forwarded",
    ];
    let trailers: String = told.map(|name| format!("{name}: 6.6.6.6\r\n")).concat();
    atlas.send(format!(
        "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n\
         2\r\nhi\r\n0\r\n{trailers}X-Sum: 1\r\n\r\n"
    ));
    let trailers = origin.request().trailers;
    assert_eq!(trailers, [("X-Sum".to_owned(), "1".to_owned())]);
}

#[test]
fn forwarding_fields_of_a_trusted_proxy_are_believed() {
    let origin = origin().start();
    let atlas = atlas()
        .top("trusted_proxies = [\"127.0.0.0/8\"]")
        .listens_plain()
        .forwards_to(&origin)
        .start();
    atlas.connect().request(
        "GET",
        "/trusted",
        &[
            ("X-Real-IP", "10.0.0.1"), // let through: the proxy adds to the next one only
            ("X-Forwarded-For", "192.0.2.7"),
            ("X-Forwarded-Proto", "https"),
            ("X-Request-Id", "theirs-1"),
        ],
        b"",
    );
    let head = origin.request().head;
    assert_eq!(head.field("x-forwarded-for"), Some("192.0.2.7, 127.0.0.1"));
    assert_eq!(head.field("x-forwarded-proto"), Some("https"));
    assert_eq!(head.all("x-real-ip"), ["192.0.2.7"]);
    assert_eq!(head.field("x-request-id"), Some("theirs-1"));
}

#[test]
fn a_request_has_one_id_from_end_to_end() {
    let origin = origin().start();
    let atlas = atlas().listens_plain().forwards_to(&origin).start();
    atlas.get("/one");
    atlas.get("/two");
    let ids: Vec<_> = origin
        .requests()
        .iter()
        .map(|s| s.head.field("x-request-id").unwrap().to_owned())
        .collect();
    assert_ne!(ids[0], ids[1]);
    assert_eq!(atlas.exchange("/one")["request_id"], ids[0].as_str());
}

#[test]
fn the_host_can_be_set() {
    let origin = origin().start();
    let atlas = atlas()
        .listens_plain()
        .forwards_to_with(&origin, "host = \"inner.test\"")
        .start();
    atlas.get("/");
    let head = origin.request().head;
    assert_eq!(
        (head.field("host"), head.field("x-forwarded-host")),
        (Some("inner.test"), Some("a.test"))
    );
}

#[test]
fn hop_by_hop_fields_of_an_origin_do_not_reach_the_client() {
    let origin = origin()
        .sends(
            "/",
            "HTTP/1.1 200 OK\r\nConnection: x-inner, keep-alive\r\nX-Inner: 1\r\nX-Outer: 2\r\n\
             Keep-Alive: timeout=9\r\nProxy-Authenticate: Basic\r\nContent-Length: 2\r\n\r\nhi",
            Then::Keep,
        )
        .start();
    let atlas = atlas().listens_plain().forwards_to(&origin).start();
    let answer = atlas.get("/");
    for name in ["x-inner", "keep-alive"] {
        assert_eq!(answer.field(name), None, "{name}");
    }
    assert_eq!(answer.field("x-outer"), Some("2"));
}

#[test]
fn a_gibibyte_goes_down_in_bounded_memory() {
    let piece = noise(1024 * 1024);
    let expected = hash_of_a_gibibyte(&piece);
    let origin = origin()
        .handles("/", move |exchange| {
            exchange.read_body()?;
            exchange.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {GIB}\r\n\r\n"))?;
            for _ in 0..1024 {
                exchange.send(&piece)?;
            }
            Ok(Then::Keep)
        })
        .start();
    let atlas = atlas().listens_tls("a.test").forwards_to(&origin).start();
    let mut client = atlas.connect();
    client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    let mut digest = Digest::new();
    client.stream_answer("GET", |piece| digest.update(piece)).unwrap();
    assert_eq!(digest.hex(), expected);
    assert!(
        atlas.memory_peak_kib() < MEMORY_KIB_MAX,
        "{} KiB",
        atlas.memory_peak_kib()
    );
}

#[test]
fn a_gibibyte_goes_up_in_bounded_memory() {
    let piece = noise(1024 * 1024);
    let origin = origin().start();
    let atlas = atlas().listens_tls("a.test").forwards_to(&origin).start();
    let mut client = atlas.connect();
    client.send(format!(
        "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: {GIB}\r\n\r\n"
    ));
    for _ in 0..1024 {
        client.send(&piece);
    }
    assert_eq!(client.answer().status, 200);
    let seen = origin.request();
    assert_eq!((seen.body_bytes, seen.sha256), (GIB, hash_of_a_gibibyte(&piece)));
    assert!(
        atlas.memory_peak_kib() < MEMORY_KIB_MAX,
        "{} KiB",
        atlas.memory_peak_kib()
    );
}

fn hash_of_a_gibibyte(piece: &[u8]) -> String {
    let mut digest = Digest::new();
    for _ in 0..1024 {
        digest.update(piece);
    }
    digest.hex()
}

#[test]
fn a_client_that_does_not_read_holds_the_origin_back() {
    // The origin counts what it could send: no more than buffers hold.
    let origin = origin()
        .handles("/", |exchange| {
            exchange.read_body()?;
            exchange.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {GIB}\r\n\r\n"))?;
            let piece = vec![0; 1024 * 1024];
            while exchange.send(&piece).is_ok() {}
            Ok(Then::Close)
        })
        .start();
    let atlas = atlas()
        .listens_tls("a.test")
        .forwards_to(&origin)
        .text("[timeouts]\nwrite = \"1s\"")
        .start();
    let mut client = atlas.connect();
    client.send("GET /never-read HTTP/1.1\r\nHost: a.test\r\n\r\n");
    client.head().unwrap();
    // For as long it takes in what nobody reads; without a bound that were hundreds of MiB.
    std::thread::sleep(Duration::from_millis(400));
    assert!(atlas.memory_kib() < MEMORY_KIB_MAX, "{} KiB", atlas.memory_kib());
}

#[test]
fn a_real_nginx_is_an_origin() {
    if !has("nginx") {
        return;
    }
    let nginx = nginx(
        "location /text { default_type text/plain; return 200 \"from nginx\"; }
         location /chunks { proxy_pass http://{address}/file; proxy_http_version 1.0; proxy_buffering off;
                            sub_filter x x; sub_filter_once off; sub_filter_types *; }
         location /sink { proxy_pass http://{address}/text; }
         location /gone { return 410; }
         location /head { add_header X-From nginx; return 204; }",
    );
    let file = noise(300_000);
    std::fs::write(nginx.folder.path().join("file"), &file).unwrap();
    let atlas = atlas()
        .listens_tls("a.test")
        .text("[[route]]\nupstream = \"app\"")
        .upstream("app", &[&nginx.address], "")
        .start();
    let mut client = atlas.connect();
    assert_eq!(client.get("/text").text(), "from nginx");
    assert_eq!(client.get("/file").body, file);
    let answer = client.request("GET", "/file", &[("Range", "bytes=10-19")], b"");
    assert_eq!((answer.status, answer.body), (206, file[10..20].to_vec()));
    let answer = client.get("/file");
    let tag = answer.field("etag").unwrap().to_owned();
    let answer = client.request("GET", "/file", &[("If-None-Match", &tag)], b"");
    assert_eq!((answer.status, answer.body.len()), (304, 0));
    let answer = client.request("HEAD", "/file", &[], b"");
    assert_eq!(
        (answer.field("content-length"), answer.body.len()),
        (Some("300000"), 0)
    );
    let answer = client.request("POST", "/sink", &[], &file);
    assert_eq!(answer.text(), "from nginx");
    assert_eq!(client.get("/gone").status, 410);
    let answer = client.get("/head");
    assert_eq!((answer.status, answer.field("x-from")), (204, Some("nginx")));
    assert_eq!(client.get("/missing").status, 404);
}

#[test]
fn an_early_answer_ends_the_upload() {
    // RFC 9112 §9.5: an origin may answer before the request has ended, and close.
    let origin = origin()
        .handles("/", |exchange| {
            exchange.read_some()?;
            exchange.send("HTTP/1.1 413 Too much\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig")?;
            Ok(Then::Close)
        })
        .start();
    for tls in [false, true] {
        let atlas = atlas().listens(tls).forwards_to(&origin).start();
        let mut client = atlas.connect();
        client.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 100000000\r\n\r\n");
        // The client goes on sending; it may be cut off behind the answer, not before it.
        for _ in 0..20 {
            if client.try_send(vec![b'x'; 16 * 1024]).is_err() {
                break;
            }
        }
        let answer = client.answer();
        assert_eq!((answer.status, answer.text().as_str()), (413, "big"));
    }
}

#[test]
fn an_early_answer_of_a_kept_connection_lets_the_upload_go_on() {
    let origin = origin()
        .handles("/", |exchange| {
            exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nearly")?;
            exchange.read_body()?;
            Ok(Then::Keep)
        })
        .start();
    let atlas = atlas().listens_tls("a.test").forwards_to(&origin).start();
    let mut client = atlas.connect();
    client.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 10\r\n\r\nhello");
    assert_eq!(client.answer().text(), "early");
    // What comes after is either the rest of the body, or the connection has been closed.
    if client.try_send("world").is_ok() {
        let _ = client.try_send("GET /again HTTP/1.1\r\nHost: a.test\r\n\r\n");
        match client.try_answer() {
            Ok(answer) => assert_eq!(answer.status, 200),
            Err(_) => assert_eq!(client.ends().0, Ending::Closed),
        }
    }
}

#[test]
fn a_client_that_closes_its_direction_gets_its_answer() {
    let origin = origin()
        .handles("/", |exchange| {
            exchange.read_body()?;
            // The client's FIN is to come first.
            std::thread::sleep(Duration::from_millis(200));
            exchange.answer(200, &[], b"late")
        })
        .start();
    for tls in [false, true] {
        let atlas = atlas().listens(tls).forwards_to(&origin).start();
        let mut client = atlas.connect();
        client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
        client.finish();
        assert_eq!(client.answer().text(), "late");
    }
}
