//! PROXY protocol: who the client really is, when a balancer stands before Atlas.

use std::time::Duration;

use crate::support::{Builder, Connection, Ending, Origin, atlas, origin, wait_until};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A header of version 2: command, family, and what follows.
fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let mut header = SIGNATURE.to_vec();
    header.extend([0x20 | command, family]);
    header.extend(u16::try_from(rest.len()).unwrap().to_be_bytes());
    header.extend(rest);
    header
}

fn ipv4() -> Vec<u8> {
    [&[192, 0, 2, 7, 192, 0, 2, 1][..], &[0x30, 0x39, 0x01, 0xbb][..]].concat()
}

fn expects_proxy(origin: &Origin) -> Builder {
    atlas()
        .listener(false, "proxy_protocol = true")
        .forwards_to(origin)
}

#[test]
fn the_client_of_the_header_is_believed() {
    let origin = origin().start();
    let atlas = expects_proxy(&origin).start();
    let v6 = [&[0u8; 15][..], &[1], &[0; 15], &[2], &[0x30, 0x39, 0x01, 0xbb]].concat();
    let with_tlv = [&ipv4()[..], &[0x04, 0, 3, 1, 2, 3]].concat();
    for (name, header, client) in [
        (
            "/v1",
            b"PROXY TCP4 192.0.2.7 192.0.2.1 12345 443\r\n".to_vec(),
            "192.0.2.7",
        ),
        (
            "/v1six",
            b"PROXY TCP6 2001:db8::7 2001:db8::1 12345 443\r\n".to_vec(),
            "2001:db8::7",
        ),
        ("/v1unknown", b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        ("/v1more", b"PROXY UNKNOWN a b c d\r\n".to_vec(), "127.0.0.1"),
        ("/v2", v2(1, 0x11, &ipv4()), "192.0.2.7"),
        ("/v2six", v2(1, 0x21, &v6), "::1"),
        ("/v2local", v2(0, 0x00, &[]), "127.0.0.1"),
        ("/v2tlv", v2(1, 0x11, &with_tlv), "192.0.2.7"),
        ("/v2unspec", v2(1, 0x00, &[1, 2, 3]), "127.0.0.1"),
    ] {
        let mut connection = atlas.connect();
        connection.send(&header);
        assert_eq!(connection.get(name).status, 200, "{name}");
        let head = origin.request().head;
        assert_eq!(head.field("x-real-ip"), Some(client), "{name}");
        let record = atlas.exchange(name);
        assert!(
            record["client"].as_str().unwrap().contains(client),
            "{name}: {record}"
        );
    }
}

#[test]
fn a_header_may_come_in_pieces() {
    let origin = origin().start();
    let atlas = expects_proxy(&origin).start();
    for header in [
        b"PROXY TCP4 192.0.2.7 192.0.2.1 1 2\r\n".to_vec(),
        v2(1, 0x11, &ipv4()),
    ] {
        let mut connection = atlas.connect();
        for byte in header {
            connection.send([byte]);
        }
        assert_eq!(connection.get("/").status, 200);
        assert_eq!(
            origin.requests().last().unwrap().head.field("x-real-ip"),
            Some("192.0.2.7")
        );
    }
}

#[test]
fn what_is_no_header_is_refused() {
    let origin = origin().start();
    let atlas = expects_proxy(&origin).start();
    let mut version_one = v2(1, 0x11, &ipv4());
    version_one[12] = 0x11;
    for (name, bytes) in [
        ("none", b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n".to_vec()),
        (
            "v1 without an address",
            b"PROXY TCP4\r\nGET / HTTP/1.1\r\nHost: a.test\r\n\r\n".to_vec(),
        ),
        (
            "v1 of a bad address",
            b"PROXY TCP4 1.2.3 4.5.6.7 1 2\r\nGET / HTTP/1.1\r\nHost: a.test\r\n\r\n".to_vec(),
        ),
        (
            "v1 of a bad port",
            b"PROXY TCP4 1.2.3.4 4.5.6.7 1 99999\r\nGET / HTTP/1.1\r\nHost: a.test\r\n\r\n".to_vec(),
        ),
        (
            "v1 in bare LF",
            b"PROXY TCP4 1.2.3.4 4.5.6.7 1 2\nGET / HTTP/1.1\r\nHost: a.test\r\n\r\n".to_vec(),
        ),
        (
            "v1 longer than 107 bytes",
            [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; 200], b"\r\n".to_vec()].concat(),
        ),
        ("v2 of another version", version_one),
        ("v2 of another command", v2(7, 0x11, &ipv4())),
        ("v2 too short for its family", v2(1, 0x11, &[1, 2, 3])),
        (
            "TLS",
            vec![0x16, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3, 0, 0, 0, 0, 0, 0],
        ),
    ] {
        let mut connection = atlas.connect();
        let _ = connection.try_send(&bytes);
        let (rest, _) = connection.read_to_end();
        assert!(rest.is_empty(), "{name}: {:?}", String::from_utf8_lossy(&rest));
    }
    assert!(origin.requests().is_empty());
    let record = atlas.record("a refused one", |record| record["phase"] == "accept");
    assert_eq!(record["cause"], "malformed", "{record}");
}

#[test]
fn a_header_that_never_comes_meets_the_deadline() {
    let origin = origin().start();
    let atlas = expects_proxy(&origin)
        .text("[timeouts]\nhandshake = \"500ms\"")
        .start();
    let mut connection = atlas.connect();
    connection.send("PROXY TCP4 ");
    let (ending, after) = connection.ends();
    assert!(matches!(ending, Ending::Closed | Ending::Reset));
    assert!(after < Duration::from_secs(9), "{after:?}"); // 10 s if nobody says otherwise
}

#[test]
fn tls_may_follow_the_header() {
    let origin = origin().start();
    let atlas = atlas()
        .certificate("a.test", crate::support::cert(&["a.test"]))
        .listener(true, "proxy_protocol = true")
        .forwards_to(&origin)
        .start();
    let header = v2(1, 0x11, &ipv4());
    let mut connection = Connection::tls_after(atlas.address(), &header, &atlas.tls()).unwrap();
    assert_eq!(connection.get("/").status, 200);
    assert_eq!(origin.request().head.field("x-real-ip"), Some("192.0.2.7"));
}

#[test]
fn a_header_nobody_asked_for_is_not_believed() {
    let origin = origin().start();
    let atlas = atlas().listens_plain().forwards_to(&origin).start();
    let mut connection = atlas.connect();
    connection.send("PROXY TCP4 192.0.2.7 192.0.2.1 1 2\r\nGET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    assert_eq!(connection.answer().status, 400);
    assert!(origin.requests().is_empty());
}

#[test]
fn endpoints_are_told_who_the_client_is() {
    let origin = origin().start();
    for version in ["v1", "v2"] {
        // An Atlas that expects the header plays the endpoint, for requests, bytes and checks.
        let inner = atlas()
            .listener(false, "proxy_protocol = true")
            .forwards_to(&origin)
            .start();
        let inner_address = inner.address().to_string();
        let lines = format!(
            "proxy_protocol = \"{version}\"\nhealth = {{ path = \"/check\", interval = \"10s\", timeout = \"10s\" }}"
        );
        let outer = atlas()
            .listener(false, "proxy_protocol = true")
            .listener(false, "mode = \"tcp\"\nupstream = \"inner\"")
            .text("[[route]]\nupstream = \"inner\"")
            .upstream("inner", &[&inner_address], &lines)
            .start();
        let mut client = outer.connect();
        client.send("PROXY TCP4 192.0.2.7 192.0.2.1 12345 443\r\n");
        for path in ["/one", "/two"] {
            assert_eq!(client.get(path).status, 200, "{version}");
            let record = inner.exchange(path);
            assert_eq!(record["client"], "192.0.2.7:12345", "{version}: {record}");
        }
        // Each request has had a connection of its own.
        wait_until("they have ended", || {
            let records = inner.records();
            let ended = records
                .iter()
                .filter(|record| record["client"] == "192.0.2.7:12345");
            (ended.filter(|record| record["kind"] == "connection").count() == 2).then_some(())
        });
        let mut client = outer.connect_to(1);
        assert_eq!(client.get("/bytes").status, 200, "{version}");
        let record = inner.exchange("/bytes");
        assert_eq!(
            record["client"],
            client.tcp().local_addr().unwrap().to_string(),
            "{version}: {record}"
        );
        let check = inner.exchange("/check");
        assert_eq!(
            (&check["status"], &check["cause"]),
            (&200.into(), &"finished".into()),
            "{check}"
        );
    }
}
