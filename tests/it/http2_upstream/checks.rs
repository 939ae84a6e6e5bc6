//! Health checks of endpoints that speak HTTP/2: in the version that requests come in.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::session::{Session, plays};
use crate::support::frames::headers;
use crate::support::{Atlas, Driver, atlas, origin, wait_until};

/// The first check is made at once.
const CHECK: &str =
    "[upstream.app.health]\npath = \"/health\"\ninterval = \"10s\"\ntimeout = \"10s\"\nfall = 1\nrise = 1";

fn is_up(atlas: &Atlas) -> bool {
    atlas.metric("atlas_endpoint_up", &["app"]) > 0.0
}

fn until_up(atlas: &Atlas, wanted: bool) {
    wait_until(&format!("the endpoint is up: {wanted}"), || {
        (is_up(atlas) == wanted).then_some(())
    });
}

#[test]
fn one_without_tls_is_asked_by_http2() {
    let (is_well, seen) = (Arc::new(AtomicBool::new(true)), Arc::new(Mutex::new(Vec::new())));
    let (well, asked) = (is_well.clone(), seen.clone());
    let endpoint = plays(move |session: &mut Session| {
        while let Some((stream, fields)) = session.request() {
            asked.lock().unwrap().push(fields);
            match well.load(Ordering::SeqCst) {
                true => session.answer(stream, "ready"),
                false => session.send(headers(stream, &[(":status", "500")], true)),
            };
        }
    });
    let atlas = super::towards(
        &endpoint,
        &format!("{}\nbody = \"ready\"", CHECK.replace("10s", "4s")),
        &["the endpoint is down"],
    );
    wait_until("a check", || (!seen.lock().unwrap().is_empty()).then_some(()));
    let fields = seen.lock().unwrap()[0].clone();
    let field = |name: &str| {
        fields
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| &**value)
    };
    assert_eq!((field(":method"), field(":path")), (Some("GET"), Some("/health")));
    assert_eq!(field(":authority"), Some(endpoint.address()));
    assert!(field("user-agent").unwrap().starts_with("atlas-check/"));
    assert!(is_up(&atlas));
    is_well.store(false, Ordering::SeqCst);
    until_up(&atlas, false);
    atlas.log_line(&[
        "the endpoint is down",
        "GET /health: answered with 500, not 200-399",
    ]);
    is_well.store(true, Ordering::SeqCst);
    until_up(&atlas, true);
    // Its worker hears of it after those who ask for the metrics.
    wait_until("it is asked again", || {
        (atlas.get("/").text() == "ready").then_some(())
    });
}

#[test]
fn one_that_speaks_http1_alone_is_down_with_a_reason() {
    let endpoint = origin().start();
    let atlas = super::towards(&endpoint, CHECK, &["the endpoint is down"]);
    until_up(&atlas, false);
    atlas.log_line(&["the endpoint is down", "GET /health: it does not speak HTTP/2"]);
}

#[test]
fn on_a_port_of_its_own_http1_is_spoken() {
    let (endpoint, health) = (plays(Session::serve), origin().start());
    let lines = format!("{CHECK}\nport = {}", health.port());
    let atlas = super::towards(&endpoint, &lines, &[]);
    assert_eq!(health.request().summary(), "GET /health");
    assert!(is_up(&atlas));
}

#[test]
fn over_tls_what_the_endpoint_chooses_is_spoken() {
    for protocol in ["h2", "http/1.1"] {
        let endpoint = atlas()
            .listens_tls("a.test")
            .tls_lines(&format!("alpn = [{protocol:?}]"))
            .text("[[route]]\nrespond = 200")
            .start();
        let atlas = super::before(&endpoint, Driver::Auto, CHECK);
        let record = endpoint.exchange("/health");
        assert_eq!(record["alpn"], protocol, "{record}");
        assert_eq!(record["status"], 200, "{record}");
        assert!(is_up(&atlas));
    }
}
