//! gRPC from end to end: a client and a service that know nothing of Atlas, and Atlas between them.

mod calls;
mod many;
mod service;

use self::service::{Calls, serve};
use crate::support::{Atlas, Driver, atlas, ca, on_both_drivers};

/// An Atlas before this service, with these lines in its upstream.
fn before(service: &str, driver: Driver, lines: &str) -> Atlas {
    atlas()
        .listens_plain()
        .listens_tls("a.test")
        .top("workers = 1")
        .text("[[route]]\nupstream = \"app\"")
        .upstream("app", &[service], &format!("http2 = true\n{lines}"))
        .driver(driver)
        .start()
}

/// Runs a test before the service, and before another Atlas that it is reached by over TLS.
fn on_all_ways(test: impl Fn(&Atlas, &Calls)) {
    on_both_drivers(|driver| {
        let calls = Calls::default();
        let service = serve(&calls);
        let near = before(&service, driver, "");
        test(&near, &calls);
        eprintln!("through two");
        let authority = near.folder().join("ca.pem");
        std::fs::write(&authority, ca().pem()).expect("the folder is writable");
        let tls = format!("tls = {{ ca = {authority:?}, server_name = \"a.test\" }}");
        let calls = Calls { ..calls };
        let far = before(&near.address_of(1).to_string(), driver, &tls);
        test(&far, &calls);
    });
}
