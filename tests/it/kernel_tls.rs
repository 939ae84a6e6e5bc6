//! Peers whose own TLS records the kernel makes, by OpenSSL in its tools and in nginx, as origins and
//! as clients; Atlas's are the kernel's, too. And curl, which makes its own. Need a kernel with TLS.

use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::guest;
use crate::support::{
    Atlas, Connection, Digest, Ending, alone, atlas, ca, cert, command, free_port, has, nginx, noise, origin,
    wait_until,
};

const SIZE: usize = 20_000_003;

const VERSIONS: [&str; 2] = ["TLSv1.2", "TLSv1.3"];

fn is_missing() -> bool {
    let is_missing = guest::refusal_of_this_kernel().is_some();
    if is_missing {
        eprintln!("skipped: this kernel has no TLS");
    }
    is_missing
}

/// Connections of the whole machine whose sending side the kernel has taken so far.
fn taken() -> u64 {
    let counters = std::fs::read_to_string("/proc/net/tls_stat").unwrap();
    let mut numbers = counters.lines().filter_map(|line| line.strip_prefix("TlsTxSw"));
    numbers.next().unwrap().trim().parse().unwrap()
}

/// Of each connection with an endpoint that Atlas has handed to the kernel since, the endpoint's side is there,
/// too: two of Atlas's do not make up for it.
fn both_sides_were_taken(before: u64, atlas: &Atlas, version: &str) {
    let finished = ["peer=\"upstream\"", "result=\"finished\""];
    let promoted = atlas.metric("atlas_kernel_tls_promotions_total", &finished) as u64;
    assert!(promoted > 0, "{version}");
    // More would be those of other tests that have no Atlas.
    let taken = taken() - before;
    assert!(
        taken >= 2 * promoted,
        "{version}: {taken} for {promoted} connections"
    );
}

/// Of what was moved on a plain side, at least this must have come from the kernel's TLS, or gone there.
fn is_spliced(atlas: &Atlas, path: &str) -> bool {
    atlas.exchange(path)["bytes_spliced"].as_u64().unwrap_or(0) > SIZE as u64 / 2
}

/// In tcp mode HTTP/2 is what others speak.
#[test]
fn what_is_passed_on_untouched_moves_whatever_was_agreed_on() {
    if is_missing() {
        return;
    }
    let origin = origin()
        .raw(|mut stream| {
            let _ = stream.write_all(b"welcome");
            stream.finish();
        })
        .start();
    let atlas = atlas()
        .certificate("a.test", cert(&["a.test"]))
        .tls_lines("alpn = [\"h2\"]\nktls_threshold = \"0B\"")
        .listener(true, "mode = \"tcp\"\nupstream = \"app\"\n")
        .upstream("app", &[origin.address()], "")
        .start();
    let tls = atlas.tls().alpn(&["h2"]);
    let mut client = Connection::tls(atlas.address(), &tls).unwrap();
    assert_eq!(client.read_exactly(7), b"welcome");
    drop(client);
    let record = atlas.record("its connection", |record| record["kind"] == "connection");
    let told = (&record["alpn"], &record["carrier"]);
    assert_eq!(told, (&"h2".into(), &"kernel".into()), "{record}");
}

#[test]
fn nginx_is_an_origin() {
    if is_missing() || !has("nginx") {
        return;
    }
    let _alone = alone();
    let file = noise(SIZE);
    for version in VERSIONS {
        let folder = tempfile::tempdir().unwrap();
        let (chain, key) = cert(&["inner.test"]).write(folder.path(), "leaf");
        let port = free_port();
        let nginx = nginx(&format!(
            "listen 127.0.0.1:{port} ssl; sendfile on;
             ssl_certificate {}; ssl_certificate_key {};
             ssl_protocols {version}; ssl_conf_command Options KTLS;
             location /put {{ dav_methods PUT; create_full_put_path on; }}",
            chain.display(),
            key.display()
        ));
        let root = nginx.folder.path();
        std::fs::set_permissions(root, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        std::fs::write(root.join("file"), &file).unwrap();
        let atlas = in_front_of(port);
        let before = taken();
        let mut client = atlas.connect();
        assert!(client.get("/file").body == file, "{version}");
        assert!(is_spliced(&atlas, "/file"));
        assert_eq!(client.request("PUT", "/put/a", &[], &file).status, 201);
        assert!(is_spliced(&atlas, "/put/a"));
        assert!(std::fs::read(root.join("put/a")).unwrap() == file, "{version}");
        both_sides_were_taken(before, &atlas, version);
    }
}

#[test]
fn nginx_is_a_client() {
    if is_missing() || !has("nginx") {
        return;
    }
    let _alone = alone();
    let file = noise(SIZE);
    for version in VERSIONS {
        let (_origin, atlas) = serves(&file);
        let nginx = nginx(&format!(
            "location / {{
                proxy_pass https://{}; proxy_http_version 1.1; proxy_set_header Host a.test;
                proxy_ssl_server_name on; proxy_ssl_name a.test; proxy_ssl_protocols {version};
                proxy_ssl_conf_command Options KTLS;
                proxy_buffering off; proxy_request_buffering off;
            }}",
            atlas.address()
        ));
        let before = taken();
        let mut client = Connection::plain(nginx.address.parse().unwrap()).unwrap();
        assert!(client.get("/file").body == file, "{version}");
        assert_eq!(atlas.exchange("/file")["carrier"], "kernel");
        let answer = client.request("POST", "/up", &[], &file);
        assert_eq!(answer.body, Digest::of(&file).as_bytes(), "{version}");
        assert!(is_spliced(&atlas, "/up"));
        assert!(taken() >= before + 4, "{version}: both sides of two connections");
    }
}

#[test]
fn openssl_is_an_origin() {
    if is_missing() || !has("openssl") {
        return;
    }
    let _alone = alone();
    let file = noise(SIZE);
    for version in VERSIONS {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("file"), &file).unwrap();
        let (_server, port) = s_server(folder.path(), version);
        let atlas = in_front_of(port);
        let before = taken();
        // It tells no length, and what is sent in chunks is copied; HTTP/1.0 knows no chunks.
        let answer = atlas.send("GET /file HTTP/1.0\r\nHost: a.test\r\n\r\n");
        assert!(answer.body == file, "{version}");
        assert!(is_spliced(&atlas, "/file"));
        both_sides_were_taken(before, &atlas, version);
    }
}

#[test]
fn openssl_is_a_client() {
    if is_missing() || !has("openssl") {
        return;
    }
    let _alone = alone();
    let file = noise(SIZE);
    for version in VERSIONS {
        let (_origin, atlas) = serves(&file);
        let said = settings(atlas.folder());
        let (setting, address) = (format!("OPENSSL_CONF={said}"), atlas.address().to_string());
        let ask = |request: Vec<u8>| {
            let arguments = [
                &setting,
                "openssl",
                "s_client",
                "-quiet",
                "-servername",
                "a.test",
                flag(version),
                "-connect",
                &address,
            ];
            command("env", &arguments, &request).stdout
        };
        let before = taken();
        let answer = ask(b"GET /file HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n".to_vec());
        assert!(answer.ends_with(&file), "{version}: {} bytes", answer.len());
        let head = format!(
            "POST /up HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\nContent-Length: {SIZE}\r\n\r\n"
        );
        let answer = ask([head.as_bytes(), &file].concat());
        assert!(answer.ends_with(Digest::of(&file).as_bytes()), "{version}");
        assert_eq!(atlas.exchange("/file")["carrier"], "kernel");
        assert!(is_spliced(&atlas, "/up"));
        assert!(taken() >= before + 4, "{version}: both sides of two connections");
    }
}

/// Its own records it makes by itself; what has to be the kernel's here is Atlas's side.
#[test]
fn curl_is_a_client() {
    if is_missing() || !has("curl") {
        return;
    }
    let file = noise(SIZE);
    let folder = tempfile::tempdir().unwrap();
    let sent = folder.path().join("file");
    std::fs::write(&sent, &file).unwrap();
    let sent = sent.to_str().unwrap();
    for (least, most) in [("--tlsv1.2", "1.2"), ("--tlsv1.3", "1.3")] {
        let (_origin, atlas) = serves(&file);
        // Of HTTP/2, which it would choose, the records stay in the process.
        let curl = |path: &str, arguments: &[&str]| {
            let words = [&["--http1.1", least, "--tls-max", most], arguments].concat();
            let output = atlas.curl(path, &words);
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{most}: {said}");
            let record = atlas.exchange(path);
            assert_eq!(record["carrier"], "kernel", "{record}");
            assert_eq!(record["tls_version"], format!("TLSv{most}"), "{record}");
            output.stdout
        };
        assert!(curl("/file", &[]) == file, "{most}");
        assert!(atlas.exchange("/file")["bytes_sendfile"].as_u64() >= Some(SIZE as u64 / 2));
        assert_eq!(curl("/up", &["-T", sent]), Digest::of(&file).as_bytes(), "{most}");
        assert!(is_spliced(&atlas, "/up"));
    }
}

/// A plain listener before an origin that speaks TLS. Its connections move amid their first large body.
fn in_front_of(port: u16) -> Atlas {
    let tls = "tls = { ca = \"ca.pem\", server_name = \"inner.test\", ktls_threshold = \"1KiB\" }";
    atlas()
        .file("ca.pem", ca().pem())
        .listens_plain()
        .text("[[route]]\nupstream = \"app\"")
        .upstream("app", &[&format!("127.0.0.1:{port}")], tls)
        .start()
}

/// Serves a file, and passes uploads on to an origin that answers with their hash.
fn serves(file: &[u8]) -> (crate::support::Origin, Atlas) {
    let origin = origin()
        .handles_all(|exchange| {
            let digest = exchange.read_body()?.sha256;
            exchange.answer(200, &[], digest.as_bytes())
        })
        .start();
    let atlas = atlas()
        .listens_tls("a.test")
        .tls_lines("ktls_threshold = \"0B\"")
        .file("site/file", file)
        .text("[[route]]\nfiles = \"site\"\n[[route]]\npath = \"/up\"\nupstream = \"app\"")
        .upstream("app", &[origin.address()], "")
        .start();
    (origin, atlas)
}

/// A configuration by which all that OpenSSL does goes to the kernel; its path.
fn settings(folder: &Path) -> String {
    let file = folder.join("openssl.cnf");
    let text = "openssl_conf = all\n[all]\nssl_conf = tls\n[tls]\nsystem_default = default\n[default]\nOptions = KTLS\n";
    std::fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

fn flag(version: &str) -> &'static str {
    match version {
        "TLSv1.2" => "-tls1_2",
        _ => "-tls1_3",
    }
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Serves a folder.
fn s_server(folder: &Path, version: &str) -> (Server, u16) {
    let (chain, key) = cert(&["inner.test"]).write(folder, "leaf");
    let port = free_port();
    let server = Command::new("openssl")
        .args([
            "s_server",
            "-WWW",
            "-http_server_binmode",
            flag(version),
            "-accept",
        ])
        .arg(format!("127.0.0.1:{port}"))
        .args([Path::new("-cert"), &chain, Path::new("-key"), &key])
        .env("OPENSSL_CONF", settings(folder))
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("openssl starts");
    let server = Server(server);
    wait_until("openssl listens", || {
        std::net::TcpStream::connect(("127.0.0.1", port)).ok()
    });
    (server, port)
}

/// What the kernel has accepted it has not yet sent: a connection that is dropped then takes the last record, or
/// the goodbye, with it.
#[test]
fn a_client_that_is_slow_to_read_gets_the_end_too() {
    if is_missing() {
        return;
    }
    let sizes: Vec<usize> = (1..=16).map(|nth| nth * 250_007).collect();
    let mut builder = atlas()
        .listens_tls("a.test")
        .tls_lines("ktls_threshold = 0")
        .text("[[route]]\nfiles = \".\"");
    for size in &sizes {
        builder = builder.file(&format!("{size}"), noise(*size));
    }
    let atlas = builder.start();
    std::thread::scope(|scope| {
        for size in sizes {
            let atlas = &atlas;
            scope.spawn(move || {
                let mut client = atlas.connect();
                client.send(format!(
                    "GET /{size} HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n"
                ));
                // Longer than a goodbye is waited for that nothing keeps back.
                std::thread::sleep(std::time::Duration::from_secs(4));
                let answer = client.answer();
                assert!(
                    answer.body == noise(size),
                    "{} of {size} bytes",
                    answer.body.len()
                );
                assert_eq!(client.ends().0, Ending::Closed, "after {size} bytes");
                assert_eq!(atlas.exchange(&format!("/{size}"))["carrier"], "kernel");
            });
        }
    });
}
