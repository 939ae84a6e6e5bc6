//! TLS with clients: versions, certificates, protocols, resumption, deadlines, endings.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustls::HandshakeKind;
use rustls::version::{TLS12, TLS13};

use crate::support::{
    Connection, Ending, Kind, Tls, atlas, cert, command, expired_cert, has, origin, rsa_cert, wait_until,
};

const HELLO: &str = "[[route]]\nrespond = { status = 200, body = \"hello\" }";

#[test]
fn both_versions_are_spoken() {
    let atlas = atlas().listens_tls("a.test").text(HELLO).start();
    for (version, name) in [(&TLS12, "1.2"), (&TLS13, "1.3")] {
        let mut client = Connection::tls(atlas.address(), &atlas.tls().version(version)).unwrap();
        assert_eq!(client.get(&format!("/{name}")).text(), "hello");
        let record = atlas.exchange(&format!("/{name}"));
        assert!(record["tls_version"].as_str().unwrap().contains(name), "{record}");
    }
}

#[test]
fn the_hybrid_key_exchange_is_preferred() {
    let atlas = atlas().listens_tls("a.test").text(HELLO).start();
    let client = atlas.connect();
    let group = client.session().negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);
}

#[test]
fn a_minimum_version_is_kept() {
    let atlas = atlas()
        .listens_tls("a.test")
        .tls_lines("min_version = \"1.3\"")
        .text(HELLO)
        .expects_log("handshake")
        .start();
    let refused = Connection::tls(atlas.address(), &atlas.tls().version(&TLS12));
    let error = refused.err().expect("the handshake fails").to_string();
    assert!(error.contains("ProtocolVersion"), "{error}");
    assert_eq!(atlas.get("/").status, 200);
    let record = atlas.record("the refused handshake", |record| record["phase"] == "handshake");
    assert_eq!(record["cause"], "no_common_version", "{record}");
}

#[test]
fn a_client_of_tls_1_1_is_told_apart_by_its_version() {
    let atlas = atlas()
        .listens_tls("a.test")
        .text(HELLO)
        .expects_log("handshake")
        .start();
    let mut client = TcpStream::connect(atlas.address()).unwrap();
    // Version 1.1, 32 random bytes, no session, one suite, no compression, no extensions.
    let hello = [&[3, 2][..], &[7; 32], &[0, 0, 2, 0, 0x2f, 1, 0]].concat();
    let size = u8::try_from(hello.len()).unwrap();
    client
        .write_all(&[&[22, 3, 1, 0, size + 4, 1, 0, 0, size], &hello[..]].concat())
        .unwrap();
    let record = atlas.record("the refused handshake", |record| record["phase"] == "handshake");
    assert_eq!(record["cause"], "no_common_version", "{record}");
}

#[test]
fn certificates_are_chosen_by_name() {
    let (exact, wild) = (cert(&["b.test"]), cert(&["*.b.test"]));
    let default = cert(&["a.test"]);
    let atlas = atlas()
        .listener(true, "")
        .certificate("a.test", default.clone())
        .certificate("b.test", exact.clone())
        .certificate("*.b.test", wild.clone())
        .text(HELLO)
        .start();
    let shown = |tls: Tls| Connection::tls(atlas.address(), &tls).map(|client| client.certificate());
    assert_eq!(shown(Tls::to("b.test")).unwrap(), exact.der());
    assert_eq!(shown(Tls::to("x.b.test")).unwrap(), wild.der());
    assert_eq!(shown(Tls::to("a.test")).unwrap(), default.der());
    assert_eq!(shown(Tls::to("a.test").without_name()).unwrap(), default.der());
}

#[test]
fn a_wildcard_stands_for_one_label() {
    let atlas = atlas()
        .listens_tls("a.test")
        .certificate("*.b.test", cert(&["*.b.test"]))
        .text(HELLO)
        .expects_log("handshake")
        .start();
    // The default certificate is shown, which this client does not accept.
    assert!(Connection::tls(atlas.address(), &Tls::to("x.y.b.test")).is_err());
    assert!(Connection::tls(atlas.address(), &Tls::to("b.test")).is_err());
}

#[test]
fn ecdsa_and_rsa_stand_side_by_side() {
    let (ecdsa, rsa) = (cert(&["a.test"]), rsa_cert(&["a.test"]));
    let atlas = atlas()
        .listener(true, "")
        .certificate("a.test", rsa.clone())
        .certificate("a.test", ecdsa.clone())
        .text(HELLO)
        .start();
    for (kind, leaf) in [(Kind::Ecdsa, &ecdsa), (Kind::Rsa, &rsa)] {
        let client = Connection::tls(atlas.address(), &Tls::to("a.test").only(kind)).unwrap();
        assert_eq!(client.certificate(), leaf.der(), "{kind:?}");
    }
    let client = Connection::tls(atlas.address(), &Tls::to("a.test")).unwrap();
    assert_eq!(
        client.certificate(),
        ecdsa.der(),
        "who understands both gets the cheaper one"
    );
}

#[test]
fn an_application_protocol_is_agreed_on() {
    let atlas = atlas()
        .listens_tls("a.test")
        .text(HELLO)
        .expects_log("handshake")
        .start();
    let connect = |protocols: &[&str]| Connection::tls(atlas.address(), &atlas.tls().alpn(protocols));
    assert_eq!(
        connect(&["http/1.1"]).unwrap().protocol().as_deref(),
        Some("http/1.1")
    );
    assert_eq!(
        connect(&["smtp", "http/1.1"]).unwrap().protocol().as_deref(),
        Some("http/1.1")
    );
    assert_eq!(connect(&[]).unwrap().protocol(), None);
    let error = connect(&["smtp"]).err().expect("nothing in common").to_string();
    assert!(error.contains("NoApplicationProtocol"), "{error}");
    let record = atlas.record("the refused handshake", |record| record["phase"] == "handshake");
    assert_eq!(record["cause"], "no_common_protocol", "{record}");
}

#[test]
fn sessions_are_resumed() {
    let atlas = atlas().listens_tls("a.test").text(HELLO).start();
    for version in [&TLS12, &TLS13] {
        let tls = atlas.tls().version(version);
        for wanted in [
            HandshakeKind::Full,
            HandshakeKind::Resumed,
            HandshakeKind::Resumed,
        ] {
            let mut client = Connection::tls(atlas.address(), &tls).unwrap();
            assert_eq!(client.get("/").status, 200);
            assert_eq!(client.session().handshake_kind(), Some(wanted), "{version:?}");
            client.finish();
            client.ends();
        }
    }
    atlas.record("a resumed one", |record| record["resumed"] == true);
}

/// A client comes by IPv4 and by IPv6, each of which has a listener of its own.
#[test]
fn sessions_are_resumed_at_another_listener_and_after_a_reload() {
    let atlas = atlas().listens_tls("a.test").listens(true).text(HELLO).start();
    let tls = atlas.tls().version(&TLS13);
    let comes_to = |listener: usize| {
        let mut client = Connection::tls(atlas.address_of(listener), &tls).unwrap();
        assert_eq!(client.get("/").status, 200);
        let kind = client.session().handshake_kind();
        client.finish();
        client.ends();
        kind
    };
    assert_eq!(comes_to(0), Some(HandshakeKind::Full));
    assert_eq!(comes_to(1), Some(HandshakeKind::Resumed));
    atlas.reload();
    assert_eq!(comes_to(1), Some(HandshakeKind::Resumed));
    assert_eq!(comes_to(0), Some(HandshakeKind::Resumed));
}

#[test]
fn a_resumed_session_is_not_taken_over_to_another_name() {
    let atlas = atlas()
        .listens_tls("a.test")
        .certificate("b.test", cert(&["b.test"]))
        .text("[[route]]\nhost = \"a.test\"\nrespond = { status = 200, body = \"a\" }")
        .text("[[route]]\nhost = \"b.test\"\nrespond = { status = 200, body = \"b\" }")
        .start();
    let mut client = Connection::tls(atlas.address(), &Tls::to("a.test")).unwrap();
    assert_eq!(client.get("/").text(), "a");
    // RFC 9110 §15.5.20: a server answers 421 for an authority this connection does not stand for.
    let answer = client.request("GET", "/", &[("Host", "b.test")], b"");
    assert_eq!(answer.status, 421);
    let mut client = Connection::tls(atlas.address(), &Tls::to("b.test")).unwrap();
    assert_eq!(client.request("GET", "/", &[("Host", "b.test")], b"").text(), "b");
}

#[test]
fn a_silent_client_meets_the_handshake_deadline() {
    let atlas = atlas()
        .listens_tls("a.test")
        .text(HELLO)
        .text("[timeouts]\nhandshake = \"300ms\"")
        .expects_log("handshake")
        .start();
    let started = Instant::now();
    let mut client = Connection::plain(atlas.address()).unwrap();
    assert!(matches!(client.ends().0, Ending::Closed | Ending::Reset));
    let after = started.elapsed();
    assert!(
        after >= Duration::from_millis(290) && after < Duration::from_secs(9),
        "{after:?}"
    );
    let record = atlas.record("the silent client", |record| record["phase"] == "handshake");
    assert_eq!(
        (&record["side"], &record["cause"]),
        (&"downstream".into(), &"timed_out".into()),
        "{record}"
    );
}

#[test]
fn bytes_that_trickle_do_not_extend_the_handshake_deadline() {
    const LONG: Duration = Duration::from_secs(9); // less than the deadline is by itself
    let atlas = atlas()
        .listens_tls("a.test")
        .text(HELLO)
        .text("[timeouts]\nhandshake = \"500ms\"")
        .expects_log("handshake")
        .start();
    let mut client = TcpStream::connect(atlas.address()).unwrap();
    let started = Instant::now();
    // A hello of 16 KiB that never comes whole.
    let mut hello = vec![0x16, 3, 1, 0x3f, 0xff, 1, 0, 0x3f, 0xfb, 3, 3];
    hello.resize(1000, 0);
    for byte in hello {
        if client.write_all(&[byte]).is_err() {
            break;
        }
        // Each byte comes by itself, well before the deadline.
        std::thread::sleep(Duration::from_millis(20));
        if started.elapsed() > LONG {
            break;
        }
    }
    let after = started.elapsed();
    assert!(after < LONG, "the trickle held the place for {after:?}");
}

#[test]
fn a_hello_in_single_bytes_is_understood() {
    /// Hands everything on byte by byte.
    struct Trickle(TcpStream);
    impl Read for Trickle {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            self.0.read(into)
        }
    }
    impl Write for Trickle {
        fn write(&mut self, from: &[u8]) -> std::io::Result<usize> {
            self.0.write(&from[..from.len().min(1)])
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let atlas = atlas()
        .listens_tls("a.test")
        .text(HELLO)
        .text("[timeouts]\nhandshake = \"60s\"")
        .start();
    let stream = TcpStream::connect(atlas.address()).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut tls = atlas.tls().client();
    let mut stream = Trickle(stream);
    while tls.is_handshaking() {
        tls.complete_io(&mut stream).unwrap();
    }
    let mut stream = rustls::Stream::new(&mut tls, &mut stream);
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("hello"), "{answer}");
}

#[test]
fn plain_http_on_a_tls_port_is_told_from_tls() {
    let atlas = atlas()
        .listens_tls("a.test")
        .text(HELLO)
        .expects_log("handshake")
        .start();
    let mut client = Connection::plain(atlas.address()).unwrap();
    client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    client.read_to_end();
    let record = atlas.record("the plain client", |record| record["phase"] == "handshake");
    assert_eq!(record["cause"], "not_tls", "{record}");
    assert!(
        atlas.metric("atlas_downstream_handshakes_total", &["not_tls"]) >= 1.0,
        "{}",
        atlas.metrics()
    );
}

#[test]
fn a_failed_handshake_is_logged_with_what_the_client_offered() {
    let atlas = atlas()
        .listens_tls("a.test")
        .tls_lines("min_version = \"1.3\"")
        .text(HELLO)
        .expects_log("handshake")
        .start();
    let tls = Tls::to("other.test").version(&TLS12).alpn(&["http/1.1"]);
    assert!(Connection::tls(atlas.address(), &tls).is_err());
    let line = atlas.log_line(&["handshake", "other.test"]);
    for part in ["http/1.1", "1.2", "TLS_ECDHE", "protocol_version"] {
        assert!(
            line.to_lowercase().contains(&part.to_lowercase()),
            "no {part} in {line}"
        );
    }
}

#[test]
fn a_client_that_rejects_the_certificate_is_recorded_so() {
    let atlas = atlas()
        .listens_tls("a.test")
        .text(HELLO)
        .expects_log("handshake")
        .start();
    assert!(Connection::tls(atlas.address(), &Tls::to("elsewhere.test")).is_err());
    let record = atlas.record("the client that left", |record| record["phase"] == "handshake");
    let cause = record["cause"].as_str().unwrap();
    assert!(
        ["certificate_rejected", "alert", "closed"].contains(&cause),
        "{record}"
    );
}

#[test]
fn close_notify_is_answered() {
    let atlas = atlas().listens_tls("a.test").text(HELLO).start();
    let mut client = atlas.connect();
    assert_eq!(client.get("/").status, 200);
    client.finish();
    assert_eq!(client.ends().0, Ending::Closed);
    let record = atlas.record("its connection", |record| record["kind"] == "connection");
    assert_eq!(record["side"], "downstream", "{record}");
    assert!(
        ["finished", "idle"].contains(&record["cause"].as_str().unwrap()),
        "{record}"
    );
}

#[test]
fn an_end_without_close_notify_within_a_body_is_told_from_an_end_in_order() {
    let origin = origin().start();
    let atlas = atlas().listens_tls("a.test").forwards_to(&origin).start();
    for (path, in_order) in [("/cut", false), ("/ended", true)] {
        let mut client = atlas.connect();
        client.send(format!(
            "POST {path} HTTP/1.1\r\nHost: a.test\r\nContent-Length: 10\r\n\r\nhello"
        ));
        wait_until("the request has reached the origin", || {
            origin
                .requests()
                .iter()
                .find(|seen| seen.head.word(1) == path)
                .map(drop)
        });
        if in_order {
            client.finish()
        } else {
            client.truncate()
        }
        client.read_to_end();
        let cause = atlas.exchange(path)["cause"].as_str().unwrap().to_owned();
        assert_eq!(cause, if in_order { "closed" } else { "truncated" });
    }
}

#[test]
fn an_expired_certificate_is_a_warning_and_a_metric() {
    let atlas = atlas()
        .listener(true, "")
        .certificate("a.test", expired_cert(&["a.test"]))
        .text(HELLO)
        .expects_log("expired")
        .expects_log("handshake")
        .start();
    atlas.log_line(&["WARN", "expired"]);
    let metrics = atlas.metrics();
    let line = metrics
        .lines()
        .find(|line| line.contains("expir") && line.contains(" -"));
    assert!(
        line.is_some(),
        "no certificate that expired in the past:\n{metrics}"
    );
}

#[test]
fn curl_is_served() {
    if !has("curl") {
        return;
    }
    let atlas = atlas().listens_tls("a.test").text(HELLO).start();
    for version in ["--tlsv1.3", "--tls-max=1.2"] {
        let arguments: Vec<_> = version.split('=').collect();
        let output = atlas.curl("/", &arguments);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert_eq!(output.stdout, b"hello", "{version}");
    }
}

#[test]
fn openssl_is_served_and_sees_an_end_in_order() {
    if !has("openssl") {
        return;
    }
    let atlas = atlas().listens_tls("a.test").text(HELLO).start();
    let authority = atlas.folder().join("ca.pem");
    std::fs::write(&authority, crate::support::ca().pem()).unwrap();
    for version in ["-tls1_2", "-tls1_3"] {
        let output = command(
            "openssl",
            &[
                "s_client",
                "-connect",
                &atlas.address().to_string(),
                "-servername",
                "a.test",
                version,
                "-CAfile",
                authority.to_str().unwrap(),
                "-verify_return_error",
                "-verify_hostname",
                "a.test",
                "-ign_eof",
                "-alpn",
                "http/1.1",
            ],
            b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n",
        );
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(text.contains("Verify return code: 0 (ok)"), "{text}");
        assert!(text.contains("ALPN protocol: http/1.1"), "{text}");
        // s_client says "closed" after close_notify and an error after a bare FIN.
        assert!(text.trim_end().ends_with("closed"), "{text}");
    }
}
