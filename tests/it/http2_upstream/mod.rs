//! HTTP/2 towards endpoints: what passes, how many connections it takes, and what endpoints may do.

mod checks;
mod hostile;
mod idle;
mod messages;
mod session;
mod streams;

use crate::support::{Atlas, Driver, Origin, atlas, ca};

/// An Atlas that speaks HTTP/2 before this origin, with TLS or without.
fn endpoint(origin: &Origin, tls: bool) -> Atlas {
    atlas().listens(tls).forwards_to(origin).start()
}

/// Atlas with TLS and without, before an endpoint that speaks HTTP/2.
fn before(endpoint: &Atlas, driver: Driver, lines: &str) -> Atlas {
    let folder = endpoint.folder().join("ca.pem");
    std::fs::write(&folder, ca().pem()).expect("the folder is writable");
    let tls = match endpoint.is_tls(0) {
        true => format!("tls = {{ ca = {folder:?}, server_name = \"a.test\" }}"),
        false => String::new(),
    };
    let address = endpoint.address().to_string();
    atlas()
        .listens_tls("a.test")
        .listens_plain()
        .text("[[route]]\nupstream = \"app\"")
        .upstream("app", &[&address], &format!("http2 = true\n{tls}\n{lines}"))
        .top("workers = 1")
        .driver(driver)
        .start()
}

/// Atlas without TLS before this one.
fn towards(endpoint: &Origin, lines: &str, expected: &[&str]) -> Atlas {
    let atlas = atlas()
        .listens_plain()
        .top("workers = 1")
        .forwards_to_with(endpoint, &format!("http2 = true\n{lines}"));
    let expected = expected.iter();
    expected
        .fold(atlas, |atlas, part| atlas.expects_log(part))
        .start()
}
