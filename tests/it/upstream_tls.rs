//! TLS towards endpoints: whom Atlas believes, what it shows of itself, what it asks for, and what it keeps.

use std::io::{ErrorKind, Read, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;

use crate::support::certs::Leaf;
use crate::support::origin::{Stream, Then};
use crate::support::{Atlas, Ending, Origin, atlas, ca, cert, expired_cert, origin, wait_until};

/// An origin that tells what its handshake came to, and closes.
fn telling(leaf: &Leaf, clients: Option<Arc<dyn ClientCertVerifier>>) -> Origin {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match clients {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder
        .with_single_cert(vec![leaf.der()], leaf.private_key())
        .unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec(), b"h2".to_vec()];
    origin().tls_as(config).raw(tell).start()
}

/// Answers one request with what is known of the connection.
fn tell(mut stream: Stream) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if !matches!(stream.read(&mut byte), Ok(1)) {
            return; // the handshake has failed
        }
        request.push(byte[0]);
    }
    let tls = stream.tls();
    let body = format!(
        "name {}, {:?}, certificates {}",
        tls.server_name().unwrap_or("none"),
        tls.handshake_kind().unwrap(),
        tls.peer_certificates().map_or(0, <[_]>::len),
    );
    let head = format!(
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let _ = stream.write_all(format!("{head}{body}").as_bytes());
    stream.finish();
}

/// Atlas before an endpoint called so, with these words of `tls` and these expected in its log.
fn before(endpoint: &str, tls: &str, expected: &[&str]) -> Atlas {
    let one = cert(&["atlas.test"]);
    let atlas = atlas()
        .top("workers = 1")
        .file("ca.pem", ca().pem())
        .file("own.crt", &one.chain)
        .file("own.key", &one.key)
        .listens_plain()
        .text("[[route]]\nupstream = \"app\"")
        .upstream("app", &[endpoint], &format!("tls = {tls}"));
    let expected = expected.iter();
    expected
        .fold(atlas, |atlas, part| atlas.expects_log(part))
        .start()
}

/// The one answer there is when the endpoint cannot be believed; what the log says of it.
fn refused(atlas: &Atlas, id: &str, cause: &str) -> String {
    let answer = atlas.get("/refused");
    assert_eq!(answer.status, 502, "{answer:?}");
    let status = answer.field("proxy-status").unwrap();
    assert!(status.contains(id), "{status}");
    let record = atlas.exchange("/refused");
    let told = ["side", "phase", "cause"].map(|key| record[key].as_str().unwrap());
    assert_eq!(told, ["upstream", "connect", cause], "{record}");
    atlas.log_line(&["cannot connect", "TLS"])
}

const UNTRUSTED: (&str, &str) = ("upstream_certificate_rejected", "certificate_untrusted");

#[test]
fn an_endpoint_is_verified_unless_that_is_turned_off() {
    let endpoint = telling(&cert(&["localhost", "127.0.0.1"]), None);
    let atlas = before(endpoint.address(), "true", &["cannot connect"]);
    let line = refused(&atlas, UNTRUSTED.0, UNTRUSTED.1);
    assert!(line.contains("`ca` says"), "it tells what to write: {line}");
    let atlas = before(endpoint.address(), "{ verify = false }", &["verif"]);
    assert_eq!(atlas.get("/").text(), "name none, Full, certificates 0");
}

#[test]
fn an_authority_of_this_machine_is_believed_for_the_name_it_vouches_for() {
    let before = |endpoint: &str, expected: Option<&str>| {
        let atlas = atlas()
            .top("workers = 1")
            .file("roots.pem", ca().pem())
            .listens_plain()
            .text("[[route]]\nupstream = \"app\"")
            .upstream("app", &[endpoint], "tls = true");
        // Where OpenSSL is told to find the machine's authorities, too.
        let roots = format!("SSL_CERT_FILE={}/roots.pem", atlas.folder().display());
        let expected = expected.into_iter();
        expected
            .fold(atlas, |atlas, part| atlas.expects_log(part))
            .by_way_of(&["env", &roots])
            .start()
    };
    let endpoint = telling(&cert(&["localhost"]), None);
    let atlas = before(&format!("localhost:{}", endpoint.port()), None);
    let answer = wait_until("the name is known", || {
        Some(atlas.get("/")).filter(|answer| answer.status == 200)
    });
    assert_eq!(answer.text(), "name localhost, Full, certificates 0");
    // The same certificate, and not its name.
    let atlas = before(endpoint.address(), Some("cannot connect"));
    let line = refused(&atlas, UNTRUSTED.0, UNTRUSTED.1);
    assert!(line.contains("localhost"), "{line}");
}

#[test]
fn a_private_authority_is_believed_where_it_is_named() {
    let endpoint = telling(&cert(&["127.0.0.1"]), None);
    let atlas = before(endpoint.address(), "{ ca = \"ca.pem\" }", &[]);
    // An address is verified, and not asked for: RFC 6066 §3 knows names alone.
    assert_eq!(atlas.get("/").text(), "name none, Full, certificates 0");
}

#[test]
fn a_certificate_that_is_out_of_date_or_of_another_name_is_refused() {
    let tls = "{ ca = \"ca.pem\", server_name = \"inner.test\" }";
    let endpoint = telling(&expired_cert(&["inner.test"]), None);
    let line = refused(
        &before(endpoint.address(), tls, &["cannot connect"]),
        UNTRUSTED.0,
        UNTRUSTED.1,
    );
    assert!(
        line.contains("the certificate expired on Wed, 01 Jan 2020 00:00:00 GMT"),
        "{line}"
    );
    let endpoint = telling(&cert(&["elsewhere.test"]), None);
    let line = refused(
        &before(endpoint.address(), tls, &["cannot connect"]),
        UNTRUSTED.0,
        UNTRUSTED.1,
    );
    assert!(
        line.contains("inner.test") && line.contains("elsewhere.test"),
        "{line}"
    );
}

#[test]
fn the_endpoints_own_name_is_asked_for_unless_another_is_written() {
    let endpoint = telling(&cert(&["localhost"]), None);
    let address = format!("localhost:{}", endpoint.port());
    let atlas = before(&address, "{ ca = \"ca.pem\" }", &[]);
    let answer = wait_until("the name is known", || {
        Some(atlas.get("/")).filter(|answer| answer.status == 200)
    });
    assert!(answer.text().starts_with("name localhost, "), "{answer:?}");
    let endpoint = telling(&cert(&["inner.test"]), None);
    let atlas = before(
        endpoint.address(),
        "{ ca = \"ca.pem\", server_name = \"inner.test\" }",
        &[],
    );
    assert!(atlas.get("/").text().starts_with("name inner.test, "));
}

#[test]
fn a_certificate_of_its_own_is_shown_to_endpoints_that_ask() {
    let mut roots = RootCertStore::empty();
    roots.roots.extend(ca().roots().roots);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build();
    let endpoint = telling(&cert(&["127.0.0.1"]), Some(verifier.unwrap()));
    let tls = "{ ca = \"ca.pem\", cert = \"own.crt\", key = \"own.key\" }";
    assert_eq!(
        before(endpoint.address(), tls, &[]).get("/").text(),
        "name none, Full, certificates 1"
    );
    // In TLS 1.3 it hears of it only after its own handshake, instead of an answer.
    let atlas = before(endpoint.address(), "{ ca = \"ca.pem\" }", &[]);
    let answer = atlas.get("/unknown");
    assert_eq!(answer.status, 502, "{answer:?}");
    let status = answer.field("proxy-status").unwrap();
    assert!(status.contains("upstream_tls_alert"), "{status}");
    let record = atlas.exchange("/unknown");
    let told = ["side", "phase", "cause"].map(|key| record[key].as_str().unwrap());
    assert_eq!(told, ["upstream", "response", "alert"], "{record}");
}

#[test]
fn sessions_are_resumed_and_verified_no_less() {
    let endpoint = telling(&cert(&["127.0.0.1"]), None);
    let atlas = before(endpoint.address(), "{ ca = \"ca.pem\" }", &[]);
    assert_eq!(atlas.get("/").text(), "name none, Full, certificates 0");
    for _ in 0..3 {
        assert_eq!(atlas.get("/").text(), "name none, Resumed, certificates 0");
    }
}

#[test]
fn http2_is_offered_where_it_is_wanted_and_chosen_by_the_endpoint() {
    let offered = |lines: &str| {
        let endpoint = atlas()
            .listens_tls("a.test")
            .text("[[route]]\nrespond = 200")
            .start();
        let front = before(
            &endpoint.address().to_string(),
            &format!("{{ ca = \"ca.pem\", server_name = \"a.test\" }}\n{lines}"),
            &[],
        );
        assert_eq!(front.get("/offered").status, 200);
        endpoint.exchange("/offered")["alpn"].clone()
    };
    assert_eq!(offered(""), "http/1.1");
    assert_eq!(offered("http2 = true"), "h2");
}

#[test]
fn an_endpoint_that_speaks_without_tls_is_told_apart() {
    // As nginx does where it is not told to speak TLS.
    let answers = |mut stream: Stream| {
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        stream.finish();
    };
    let endpoint = origin().raw(answers).start();
    let atlas = before(endpoint.address(), "true", &["cannot connect"]);
    let line = refused(&atlas, "upstream_tls_failed", "not_tls");
    assert!(
        line.contains("leave out the upstream's `tls`"),
        "it tells what to write: {line}"
    );
}

const PATIENCE: Duration = Duration::from_secs(60);

/// An origin that tells when it was asked, and how the connection ended after its answer with `more` fields in it. It
/// answers no POST.
fn ending(more: &'static str) -> (Origin, Receiver<Result<usize, ErrorKind>>) {
    let (told, ends) = channel();
    let handler = move |mut stream: Stream| {
        let mut request = Vec::new();
        let mut piece = [0; 1024];
        while !request.windows(4).any(|end| end == b"\r\n\r\n") {
            match stream.read(&mut piece) {
                Ok(count @ 1..) => request.extend_from_slice(&piece[..count]),
                _ => return,
            }
        }
        told.send(Ok(request.len())).unwrap();
        if !request.starts_with(b"POST") {
            let head = format!("HTTP/1.1 200 OK\r\n{more}Content-Length: 2\r\n\r\n");
            stream.write_all(format!("{head}ok").as_bytes()).unwrap();
        }
        let end = loop {
            match stream.read(&mut piece) {
                Ok(1..) => {}
                end => break end,
            }
        };
        let _ = told.send(end.map_err(|error| error.kind()));
    };
    let endpoint = origin().tls(cert(&["127.0.0.1"])).raw(handler).start();
    (endpoint, ends)
}

/// RFC 8446 §6.1: who closes says so, and an end without it is an attack as far as the other can tell.
#[test]
fn an_endpoint_is_told_that_there_will_be_no_other_request() {
    let tls = "{ ca = \"ca.pem\" }";
    let idle = format!("{tls}\npool_idle_timeout = \"100ms\"");
    for (what, lines, more) in [
        ("it was idle", idle.as_str(), ""),
        ("it would not go on", tls, "Connection: close\r\n"),
    ] {
        let (endpoint, ends) = ending(more);
        let atlas = before(endpoint.address(), lines, &[]);
        assert_eq!(atlas.get("/").text(), "ok");
        ends.recv_timeout(PATIENCE).unwrap().unwrap();
        assert_eq!(ends.recv_timeout(PATIENCE).unwrap(), Ok(0), "{what}");
    }
}

#[test]
fn an_endpoint_does_not_take_half_a_request_for_all_of_it() {
    let (endpoint, ends) = ending("");
    let atlas = before(endpoint.address(), "{ ca = \"ca.pem\" }", &[]);
    let mut client = atlas.connect();
    client.send("POST /half HTTP/1.1\r\nHost: a.test\r\nContent-Length: 10\r\n\r\nhalf");
    ends.recv_timeout(PATIENCE).unwrap().unwrap();
    drop(client);
    let end = ends.recv_timeout(PATIENCE).unwrap();
    assert!(end.is_err(), "{end:?}");
}

/// RFC 9112 §9.8: "A response that has neither chunked transfer coding nor Content-Length is complete
/// only if a valid closure alert has been received."
#[test]
fn an_answer_that_ends_with_its_connection_is_whole_by_close_notify_alone() {
    const ANSWER: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello";
    let origin = origin()
        .tls(cert(&["127.0.0.1"]))
        .sends("/whole", ANSWER, Then::Close)
        .sends("/cut", ANSWER, Then::Truncate)
        .start();
    for carrier in [
        "prefer_ktls = false",
        "ktls_threshold = \"1TiB\"",
        "ktls_threshold = \"0B\"",
    ] {
        let atlas = atlas()
            .file("ca.pem", ca().pem())
            .listens_tls("a.test")
            .forwards_to_with(&origin, &format!("tls = {{ ca = \"ca.pem\", {carrier} }}"))
            .start();
        for version in ["1.1", "1.0"] {
            // Whether its client has it whole: by the last chunk, or by close_notify in its turn.
            let ask = |path: &str| {
                let path = format!("{path}?{version}");
                let mut client = atlas.connect();
                client.send(format!(
                    "GET {path} HTTP/{version}\r\nHost: a.test\r\nConnection: close\r\n\r\n"
                ));
                let (answer, ending) = client.read_to_end();
                let answer = String::from_utf8(answer).unwrap();
                let is_whole = match version {
                    "1.1" => answer.ends_with("\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
                    _ => answer.ends_with("\r\n\r\nhello") && ending == Ending::Closed,
                };
                let record = atlas.exchange(&path);
                let told = ["side", "phase", "cause"].map(|key| record[key].as_str().unwrap());
                (
                    is_whole,
                    told.join(" "),
                    format!("{carrier}, {answer}, {ending:?}"),
                )
            };
            let (is_whole, told, answer) = ask("/whole");
            assert!(is_whole, "{answer}");
            assert_eq!(told, "upstream done finished", "{answer}");
            let (is_whole, told, answer) = ask("/cut");
            assert!(!is_whole, "{answer}");
            assert_eq!(told, "upstream response_body truncated", "{answer}");
        }
    }
}
