//! Clients others have written: curl, nghttp, h2load.

use crate::support::{Atlas, Digest, Origin, atlas, command, has, is_guest, noise, origin};

fn proxy() -> (Origin, Atlas) {
    let origin = origin()
        .handles("/large", |exchange| exchange.answer(200, &[], &noise(8_000_000)))
        .handles("/echo", |exchange| {
            let seen = exchange.read_body()?;
            exchange.answer(200, &[], seen.sha256.as_bytes())
        })
        .answers("/hello", "hello")
        .start();
    let atlas = atlas()
        .listens_tls("a.test")
        .listens_plain()
        .forwards_to(&origin)
        .start();
    (origin, atlas)
}

#[test]
fn curl_speaks_http2_in_all_its_ways() {
    if !has("curl") {
        return;
    }
    let (_origin, atlas) = proxy();
    let file = atlas.folder().join("large");
    std::fs::write(&file, noise(8_000_000)).unwrap();
    let upload = file.display().to_string();
    let version = ["-o", "/dev/null", "-w", "%{http_version}"];
    let text = |path: &str, more: &[&str]| {
        let output = atlas.curl(path, more);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert_eq!(text("/hello", &version), "2", "by itself");
    assert_eq!(text("/hello", &[&version[..], &["--http1.1"]].concat()), "1.1");
    for how in ["--http2", "--http2-prior-knowledge"] {
        assert_eq!(text("/hello", &[&version[..], &[how]].concat()), "2", "{how}");
        let body = atlas.curl("/large", &[how]).stdout;
        assert_eq!(Digest::of(&body), Digest::of(&noise(8_000_000)), "{how}");
        assert_eq!(
            text("/echo", &[how, "-T", &upload]),
            Digest::of(&noise(8_000_000)),
            "{how}"
        );
        let chunked = ["-T", &upload, "-H", "content-length:", "-X", "POST"];
        assert_eq!(
            text("/echo", &[&[how][..], &chunked].concat()),
            Digest::of(&noise(8_000_000)),
            "{how}"
        );
    }
    let url = format!("http://{}/large", atlas.address_of(1));
    let output = command(
        "curl",
        &["-sS", "--max-time", "280", "--http2-prior-knowledge", &url],
        b"",
    );
    assert_eq!(
        Digest::of(&output.stdout),
        Digest::of(&noise(8_000_000)),
        "without TLS"
    );
}

#[test]
fn nghttp_gets_many_at_once() {
    if !has("nghttp") {
        return;
    }
    let (_origin, atlas) = proxy();
    for (listener, scheme) in [(0, "https"), (1, "http")] {
        let url = format!("{scheme}://{}/hello", atlas.address_of(listener));
        let output = command(
            "nghttp",
            &["-nsy", "-m", "50", "-H", ":authority: a.test", &url],
            b"",
        );
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}");
        assert_eq!(
            text.lines().filter(|line| line.contains(" 200 ")).count(),
            50,
            "{text}"
        );
    }
}

fn load(url: &str, requests: usize, clients: usize, streams: usize) -> String {
    let [requests, clients, streams] = [requests, clients, streams].map(|number| number.to_string());
    let words = [
        "-n",
        &requests,
        "-c",
        &clients,
        "-m",
        &streams,
        "-H",
        ":authority: a.test",
        url,
    ];
    let output = command("h2load", &words, b"");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.contains(&format!("{requests} succeeded, 0 failed, 0 errored, 0 timeout")),
        "{text}"
    );
    assert!(
        text.contains(&format!("status codes: {requests} 2xx, 0 3xx, 0 4xx, 0 5xx")),
        "{text}"
    );
    text
}

#[test]
fn ten_thousand_streams_over_a_hundred_connections() {
    // Atlas comes to 360 MiB, more than user-mode-linux has for a process for long.
    if is_guest() || !has("h2load") {
        return;
    }
    let atlas = atlas()
        .listens_tls("a.test")
        .listens_plain()
        .file("site/file", noise(20_000))
        .text("[[route]]\nfiles = \"{folder}/site\"")
        .start();
    for (listener, scheme) in [(0, "https"), (1, "http")] {
        let url = format!("{scheme}://{}/file", atlas.address_of(listener));
        // All of them are open at a time.
        let text = load(&url, 10_000, 100, 100);
        assert!(text.contains("(200000000) data"), "every body came whole: {text}");
    }
}

#[test]
fn streams_share_an_origin() {
    if !has("h2load") {
        return;
    }
    let (origin, atlas) = proxy();
    for (listener, scheme) in [(0, "https"), (1, "http")] {
        let url = format!("{scheme}://{}/hello", atlas.address_of(listener));
        load(&url, 2_000, 4, 20);
    }
    assert_eq!(origin.requests().len(), 4_000);
}

#[test]
fn h2spec_finds_nothing() {
    if !has("h2spec") {
        return;
    }
    let (_origin, atlas) = proxy();
    for (listener, tls) in [(0, &["--tls", "--insecure"][..]), (1, &[])] {
        let port = atlas.address_of(listener).port().to_string();
        let words = ["--strict", "--timeout", "5", "--port", &port, "--path", "/hello"];
        let output = command("h2spec", &[&words, tls].concat(), b"");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains(" 0 skipped, "), "{text}");
        // Without TLS what does not begin as HTTP/2 is HTTP/1.1, and is answered so.
        let is_known = |line: &str| listener == 1 && line.ends_with("2: Sends invalid connection preface");
        let failed = text.lines().filter(|line| line.contains('×') && !is_known(line));
        assert_eq!(failed.count(), 0, "{text}");
    }
}
