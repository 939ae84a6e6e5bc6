//! Every carrier this machine has, and those of guests: all tests over kernel TLS, and what Atlas says
//! where the kernel has none or refuses.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::io::Errno;

use crate::guest::{self, Guest};
use crate::support::{Builder, Then, alone, atlas, ca, carrier, cert, has, origin};

/// Larger than the threshold that is there by itself.
const LARGE: usize = 2 << 20;

#[test]
fn a_record_says_who_carried_its_connection_and_why_not_the_kernel() {
    for lines in ["", "ktls_threshold = \"0B\"", "prefer_ktls = false"] {
        for (path, size) in [("/small", 10), ("/large", LARGE)] {
            let atlas = atlas()
                .listens_tls("a.test")
                .tls_lines(lines)
                .file("site/small", vec![b's'; 10])
                .file("site/large", vec![b'l'; LARGE])
                .text("[[route]]\nfiles = \"site\"")
                .start();
            assert_eq!(atlas.get(path).body.len(), size);
            let record = atlas.exchange(path);
            let said = (record["carrier"].as_str().unwrap(), record["refusal"].as_str());
            let asked = if lines.is_empty() { carrier::lines() } else { lines };
            let expected = carrier::expected(asked, size == LARGE);
            assert_eq!(said, expected, "[tls] {lines}, {path}: {record}");
        }
    }
}

#[test]
fn a_body_is_worth_it_by_its_length_alone() {
    // Not by whether sendfile is worth it, nor by how it is framed.
    let chunk = format!("2000\r\n{}\r\n", "c".repeat(0x2000));
    let chunked = move |count| {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        [head, &chunk.repeat(count), "0\r\n\r\n"].concat()
    };
    let origin = origin()
        .sends("/chunked", chunked(64), Then::Keep)
        .sends("/few-chunks", chunked(2), Then::Keep)
        .start();
    for (path, is_large) in [
        ("/files/large", true),
        ("/files/small", false),
        ("/chunked", true),
        ("/few-chunks", false),
    ] {
        let atlas = atlas()
            .listens_tls("a.test")
            .tls_lines("ktls_threshold = \"64KiB\"")
            .file("site/large", vec![b'l'; 512 << 10])
            .file("site/small", vec![b's'; 32 << 10])
            .text("[[route]]\npath = \"/files/\"\nstrip_prefix = true\nfiles = \"site\"")
            .forwards_to(&origin)
            .start();
        assert_eq!(atlas.get(path).status, 200);
        let record = atlas.exchange(path);
        let said = (record["carrier"].as_str().unwrap(), record["refusal"].as_str());
        let expected = match guest::refusal_of_this_kernel() {
            Some(refusal) => ("process", Some(refusal)),
            None if is_large => ("kernel", None),
            None => ("process", Some("below_threshold")),
        };
        assert_eq!(said, expected, "{path}: {record}");
    }
}

#[test]
fn an_upload_in_chunks_is_worth_it_by_what_has_passed() {
    let origin = origin().tls(cert(&["inner.test"])).start();
    let tls = "tls = { ca = \"ca.pem\", server_name = \"inner.test\", ktls_threshold = \"64KiB\" }";
    let atlas = atlas()
        .file("ca.pem", ca().pem())
        .listens_plain()
        .forwards_to_with(&origin, tls)
        .start();
    let chunk = format!("2000\r\n{}\r\n", "c".repeat(0x2000));
    let head = "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n";
    let answer = atlas.send([head, &chunk.repeat(64), "0\r\n\r\n"].concat());
    assert_eq!(answer.status, 200);
    atlas.exchange("/"); // has ended, so that all of it is counted
    let finished = ["peer=\"upstream\"", "result=\"finished\""];
    let promoted = atlas.metric("atlas_kernel_tls_promotions_total", &finished);
    assert_eq!(
        promoted == 1.0,
        guest::refusal_of_this_kernel().is_none(),
        "{promoted}"
    );
}

#[test]
fn tls_over_unix_sockets_stays_in_this_process_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let body = vec![b'l'; LARGE];
    let origin = origin()
        .on_unix(folder.path().join("origin.sock"))
        .tls(cert(&["inner.test"]))
        .answers("/", body.clone())
        .start();
    let tls = "tls = { ca = \"ca.pem\", server_name = \"inner.test\" }";
    let atlas = atlas()
        .file("ca.pem", ca().pem())
        .listens_tls("a.test")
        .listener(true, "address = \"unix:{folder}/atlas.sock\"")
        .tls_lines("ktls_threshold = \"0B\"")
        .forwards_to_with(&origin, tls)
        .start();
    let socket = UnixStream::connect(atlas.folder().join("atlas.sock")).unwrap();
    let mut client = rustls::StreamOwned::new(atlas.tls().client(), socket);
    let request = b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
    client.write_all(request).unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).unwrap();
    assert!(answer.ends_with(&body));
    let refusal = guest::refusal_of_this_kernel().unwrap_or("unix_socket");
    let record = atlas.exchange("/");
    assert_eq!(
        (&record["carrier"], &record["refusal"]),
        (&"process".into(), &refusal.into())
    );
    // That of the endpoint says it by having nothing to warn of.
    assert_eq!(record["bytes_copied"], LARGE);
}

/// Both sides by themselves: what an origin sends goes to a plain client without being copied only
/// where the kernel opens the origin's records.
#[test]
fn an_upstream_says_for_itself_whether_the_kernel_carries_its_connections() {
    let origin = origin()
        .tls(cert(&["inner.test"]))
        .answers("/", vec![b'l'; LARGE])
        .start();
    // What all tests run over is written for those that do not say it themselves.
    let by_itself = carrier::lines().is_empty() || carrier::lines().contains("\"0B\"");
    for (lines, is_carried) in [
        ("", by_itself),
        (", ktls_threshold = \"0B\"", true),
        (", ktls_threshold = \"3MiB\"", false),
        (", prefer_ktls = false", false),
    ] {
        let tls = format!("tls = {{ ca = \"ca.pem\", server_name = \"inner.test\"{lines} }}");
        let atlas = atlas()
            .file("ca.pem", ca().pem())
            .listens_plain()
            .forwards_to_with(&origin, &tls)
            .start();
        assert_eq!(atlas.get("/").body.len(), LARGE);
        let record = atlas.exchange("/");
        let is_spliced = record["bytes_spliced"].as_u64().unwrap_or(0) > 0;
        let can = guest::refusal_of_this_kernel().is_none();
        assert_eq!(is_spliced, is_carried && can, "{lines}: {record}");
        let said = if lines.is_empty() { carrier::lines() } else { lines };
        let (carrier, refusal) = carrier::expected(said, true);
        assert_eq!(record["upstream_carrier"], carrier, "{record}");
        assert_eq!(record["upstream_refusal"].as_str(), refusal, "{record}");
        let carriers = atlas.metric(
            "atlas_upstream_carriers_total",
            &[&format!("carrier={carrier:?}")],
        );
        assert_eq!(carriers, 1.0);
        let promotions = ["peer=\"upstream\"", "result=\"finished\""];
        let promoted = atlas.metric("atlas_kernel_tls_promotions_total", &promotions);
        assert_eq!(promoted, f64::from(u8::from(carrier == "kernel")), "{lines}");
    }
}

#[test]
fn a_kernel_that_takes_no_socket_on_is_named() {
    for (error, refusal) in [
        (Errno::NOMEM, "attach_no_memory"),
        (Errno::NOBUFS, "attach_no_memory"),
        (Errno::PERM, "attach_not_permitted"),
        (Errno::NOPROTOOPT, "attach_unknown"),
        (Errno::IO, "attach_failed"),
    ] {
        let prefers = serves_large().tls_lines("prefer_ktls = true\nktls_threshold = \"1MiB\"");
        let atlas = prefers.without_kernel_tls(error).start();
        assert_eq!(atlas.get("/large").body.len(), LARGE);
        let record = atlas.exchange("/large");
        assert_eq!(
            (&record["carrier"], &record["refusal"]),
            (&"process".into(), &refusal.into())
        );
        assert_eq!(record["bytes_copied"], LARGE);
    }
}

/// The kernel loads it for those who have CAP_NET_ADMIN.
#[test]
fn who_may_not_load_the_kernels_module_is_told_that_it_is_not_loaded() {
    if !has("setpriv") {
        return;
    }
    let atlas = serves_large();
    let atlas = match rustix::process::geteuid().is_root() {
        true => atlas.by_way_of(&["/usr/bin/setpriv", "--bounding-set=-net_admin"]),
        false => atlas,
    };
    let atlas = atlas.start();
    assert_eq!(atlas.get("/large").body.len(), LARGE);
    let record = atlas.exchange("/large");
    let expected = match guest::refusal_where(false) {
        Some(refusal) if !carrier::lines().contains("prefer_ktls = false") => ("process", Some(refusal)),
        _ => carrier::expected(carrier::lines(), true),
    };
    let said = (record["carrier"].as_str().unwrap(), record["refusal"].as_str());
    assert_eq!(said, expected, "{record}");
}

fn serves_large() -> Builder {
    atlas()
        .listens_tls("a.test")
        .file("site/large", vec![b'l'; LARGE])
        .text("[[route]]\nfiles = \"site\"")
}

/// The subjects whose bytes go over TLS in quantity, or in a way of their own, and those that tell of it.
/// `tests/vm/matrix` runs all there are, on every kernel.
const MOVE_BYTES: [&str; 15] = [
    "carriers::",
    "demo::",
    "doctor::",
    "endpoints::",
    "fetch::",
    "forwarding::",
    "handshake::",
    "http1::",
    "kernel_tls::",
    "long_bodies::",
    "metrics::",
    "static_files::",
    "tcp::",
    "upgrade::",
    "upstream_tls::",
];

#[test]
fn what_moves_bytes_does_so_over_kernel_tls() {
    let _alone = alone();
    Guest::linux_6_12()
        .environment("ATLAS_TEST_CARRIER", "kernel")
        .arguments(MOVE_BYTES)
        .limit(Duration::from_secs(3600))
        .run();
}

#[test]
fn a_kernel_that_cannot_is_named_and_all_is_served() {
    let _alone = alone();
    for guest in [Guest::without_tls(), Guest::refusing_keys()] {
        guest.arguments(["carriers::", "handshake::"]).run();
    }
}
