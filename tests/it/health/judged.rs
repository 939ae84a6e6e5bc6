//! What a check makes of everything an origin may do, and the line that tells it.

use std::io::{Read as _, Write as _};

use super::{full, until_up};
use crate::support::{Origin, Then, atlas, ca, cert, free_port, origin, wait_until};

/// An origin that answers the check by these bytes.
fn saying(bytes: &'static str) -> Origin {
    origin()
        .raw(move |mut stream| {
            let mut head = [0; 4096];
            if stream.read(&mut head).is_ok_and(|count| count > 0) {
                let _ = stream.write_all(bytes.as_bytes());
            }
            stream.finish();
        })
        .start()
}

/// One upstream for each, so that none is spared for being the last; all are down.
#[test]
fn whatever_an_origin_does_wrong_takes_it_out_with_a_reason() {
    let stuck = full();
    let silent = origin()
        .handles_all(|exchange| {
            exchange.wait_for_close();
            Ok(Then::Close)
        })
        .start();
    let reset = origin().handles_all(|_| Ok(Then::Reset)).start();
    let closing = origin().handles_all(|_| Ok(Then::Close)).start();
    let garbage = saying("220 mail.test ESMTP\r\n");
    let unavailable = saying("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n");
    let other_text = saying("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstart");
    let half = saying("HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nrea");
    let secure = origin().tls(cert(&["elsewhere.test"])).start();
    let dead = format!("127.0.0.1:{}", free_port());
    let stuck_address = stuck.address.to_string();
    let cases: [(&str, &str, &str); 10] = [
        (&dead, "", "does it run, and listen there?"),
        (&stuck_address, "", "it hangs, or a firewall is in between"),
        (silent.address(), "", "it hangs, or has too much to do"),
        (reset.address(), "", "GET /health: it reset the connection"),
        (
            closing.address(),
            "",
            "GET /health: it closed the connection without an answer",
        ),
        (garbage.address(), "", "is not HTTP; is this the right port?"),
        (unavailable.address(), "", "answered with 503, not 200-299, 304"),
        (other_text.address(), "", "\\\"ready\\\" is not in the body"),
        (half.address(), "", "it closed the connection"),
        (
            secure.address(),
            "tls = { ca = \"ca.pem\", server_name = \"inner.test\" }",
            "TLS",
        ),
    ];
    let mut builder = atlas().file("ca.pem", ca().pem()).listens_plain();
    for (index, (endpoint, lines, reason)) in cases.iter().enumerate() {
        let timeout = if reason.contains("it hangs") { "4s" } else { "20s" };
        let health = format!(
            "{lines}\n[upstream.u{index}.health]\npath = \"/health\"\nstatus = [\"2xx\", 304]\nbody = \"ready\"\n\
             interval = \"60s\"\ntimeout = {timeout:?}"
        );
        builder = builder
            .text(&format!(
                "[[route]]\npath = \"/{index}\"\nupstream = \"u{index}\""
            ))
            .upstream(&format!("u{index}"), &[endpoint], &health);
    }
    // Workers hear of it a little after the metrics.
    let builder = builder.expects_log("cannot connect");
    let atlas = builder.expects_log("the endpoint is down").start();
    for (index, (endpoint, _, reason)) in cases.iter().enumerate() {
        until_up(&atlas, endpoint, false);
        let line = atlas.log_line(&["its first check failed", endpoint]);
        assert!(
            line.contains(reason) || line.contains(&reason.replace('\\', "")),
            "{index} {reason}: {line}"
        );
        wait_until("its requests are answered at once", || {
            (atlas.get(&format!("/{index}")).status == 503).then_some(())
        });
    }
}

#[test]
fn a_check_has_a_port_a_host_and_tls_of_its_own() {
    let app = origin().start();
    let checked = origin().answers("/ready", "all is ready now").start();
    let port = checked.port();
    let secure = origin()
        .tls(cert(&["inner.test"]))
        .answers("/ready", "ready")
        .start();
    let atlas = atlas()
        .file("ca.pem", ca().pem())
        .listens_plain()
        .text("[[route]]\nupstream = \"app\"\n[[route]]\npath = \"/s\"\nupstream = \"secure\"")
        .upstream(
            "app",
            &[app.address()],
            &format!(
                "host = \"app.test\"\n[upstream.app.health]\npath = \"/ready?deep=1\"\nbody = \"is ready\"\nport = {port}\n\
                 interval = \"1s\"\ntimeout = \"1s\""
            ),
        )
        .upstream(
            "secure",
            &[secure.address()],
            "tls = { ca = \"ca.pem\", server_name = \"wrong.test\" }\n[upstream.secure.health]\npath = \"/ready\"\n\
             server_name = \"inner.test\"",
        )
        .expects_log("the endpoint is down")
        .start();
    let seen = checked.request();
    assert_eq!(seen.summary(), "GET /ready?deep=1");
    assert_eq!(seen.head.field("host"), Some("app.test"));
    assert!(app.requests().is_empty());
    assert_eq!(secure.request().summary(), "GET /ready");
    wait_until("three checks", || (checked.requests().len() >= 3).then_some(()));
    until_up(&atlas, app.address(), true);
    until_up(&atlas, secure.address(), true);
    // What is checked goes away; what is asked does not know of it.
    drop(checked);
    until_up(&atlas, app.address(), false);
}
