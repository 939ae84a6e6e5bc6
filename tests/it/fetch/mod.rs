//! `atlas fetch` against origins of the tests, nginx, openssl and Atlas itself.

mod bodies;

use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};

use crate::guest;
use crate::support::{
    Atlas, Digest, Origin, Then, atlas, ca, cert, command, expired_cert, free_port, has, nginx, noise,
    origin, wait_until,
};

const MIB: usize = 1024 * 1024;

fn fetch(arguments: &[&str]) -> Output {
    fetch_with(arguments, b"")
}

fn fetch_with(arguments: &[&str], input: &[u8]) -> Output {
    let words = [&["fetch"], arguments].concat();
    command(env!("CARGO_BIN_EXE_atlas"), &words, input)
}

/// What it wrote, when it went well.
fn body(output: &Output) -> Vec<u8> {
    assert_eq!(output.status.code(), Some(0), "{}", said(output));
    output.stdout.clone()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What it complained about, when it failed.
fn failure(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{}", said(output));
    said(output)
}

/// As [`fetch`], and it tells who made the TLS records: the kernel wherever it can, however little is moved.
fn fetch_carried(ca: &str, arguments: &[&str]) -> Output {
    carried(fetch(&[&["-v", "--cacert", ca], arguments].concat()), arguments)
}

fn carried(output: Output, arguments: &[&str]) -> Output {
    let said = said(&output);
    let told: Vec<_> = said
        .lines()
        .filter_map(|line| line.strip_prefix("* TLS was made by "))
        .collect();
    let is_tls = arguments.iter().any(|word| word.starts_with("https://"));
    let is_right = match (is_tls, guest::refusal_of_this_kernel(), &told[..]) {
        (false, _, told) => told.is_empty(),
        (true, None, [one]) => one.starts_with("the kernel on this side: "),
        (true, Some(refusal), [one]) => {
            one.starts_with("this process: ") && one.ends_with(&format!("({refusal})"))
        }
        _ => false,
    };
    assert!(is_right, "{arguments:?}\n{said}");
    output
}

/// A folder with the tests' authority in `ca.pem`.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), ca().pem()).unwrap();
        Self(folder)
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    fn ca(&self) -> String {
        self.path("ca.pem")
    }

    fn file(&self, name: &str, content: &[u8]) -> String {
        let path = self.path(name);
        std::fs::write(&path, content).unwrap();
        path
    }
}

fn plain(origin: &Origin, path: &str) -> String {
    format!("http://{}{path}", origin.address())
}

fn secure(port: u16, path: &str) -> String {
    format!("https://localhost:{port}{path}")
}

/// Says back the method and the body.
fn echo() -> origin::Builder {
    origin().handles_all(|exchange| {
        let seen = exchange.read_body()?;
        let said = [exchange.head.word(0).as_bytes(), b" ", &seen.body].concat();
        exchange.answer(200, &[("X-Mark", "42")], &said)
    })
}

const METHODS: [&str; 5] = ["GET", "POST", "PUT", "PATCH", "DELETE"];

/// With a body and without; the head that HEAD gets.
fn every_method_is_echoed(ca: &str, url: &str) -> String {
    for method in METHODS {
        let with = fetch_carried(ca, &["-X", method, "-d", "some data", url]);
        assert_eq!(body(&with), format!("{method} some data").as_bytes());
        let without = fetch_carried(ca, &["-X", method, url]);
        assert_eq!(body(&without), format!("{method} ").as_bytes());
    }
    String::from_utf8(body(&fetch_carried(ca, &["-I", url]))).unwrap()
}

#[test]
fn every_method_goes_both_ways_in_clear_and_in_tls() {
    let place = Place::new();
    let ca = place.ca();
    let clear = echo().start();
    let secured = echo().tls(cert(&["localhost"])).start();
    for url in [plain(&clear, "/x?y"), secure(secured.port(), "/x?y")] {
        let head = every_method_is_echoed(&ca, &url);
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(
            head.contains("X-Mark: 42\r\n") && head.contains("content-length: 5\r\n"),
            "{head}"
        );
        let both = body(&fetch_carried(&ca, &["-i", "-d", "", &url]));
        assert!(both.ends_with(b"\r\n\r\nPOST "), "{both:?}");
    }
    let seen = &clear.requests()[0];
    assert_eq!(seen.head.word(1), "/x?y");
    assert_eq!(seen.head.field("host"), Some(clear.address()));
}

#[test]
fn atlas_is_spoken_to_as_any_other() {
    let app = echo().start();
    let server = atlas()
        .listens_tls("localhost")
        .listens_plain()
        .forwards_to(&app)
        .start();
    let place = Place::new();
    for url in [
        secure(server.address().port(), "/x"),
        format!("http://{}/x", server.address_of(1)),
    ] {
        for method in METHODS {
            let output = fetch_carried(&place.ca(), &["-X", method, "-d", "data", &url]);
            assert_eq!(body(&output), format!("{method} data").as_bytes());
        }
        let head = body(&fetch_carried(&place.ca(), &["-I", &url]));
        assert!(String::from_utf8_lossy(&head).contains("content-length: 5\r\n"));
    }
    let record = server.exchange("/x");
    assert_eq!(record["user_agent"], concat!("atlas/", env!("CARGO_PKG_VERSION")));
}

#[test]
fn nginx_gives_takes_and_deletes_files() {
    if !has("nginx") {
        return;
    }
    let place = Place::new();
    let (certificate, key) = cert(&["localhost"]).write(place.0.path(), "leaf");
    let port = free_port();
    let server = nginx(&format!(
        "listen 127.0.0.1:{port} ssl;
         ssl_certificate {}; ssl_certificate_key {};
         location /put {{ dav_methods PUT DELETE; create_full_put_path on; }}
         location /text {{ default_type text/plain; return 200 \"$request_method of nginx\"; }}",
        certificate.display(),
        key.display()
    ));
    let folder = server.folder.path();
    std::fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let ca = place.ca();
    let file = noise(3 * MIB + 17);
    std::fs::write(folder.join("file"), &file).unwrap();
    let sent = place.file("sent", &file);
    for base in [
        format!("http://{}", server.address),
        format!("https://localhost:{port}"),
    ] {
        let at = |path: &str| format!("{base}{path}");
        assert!(body(&fetch_carried(&ca, &[&at("/file")])) == file);
        let from_file = format!("@{sent}");
        body(&fetch_carried(
            &ca,
            &["-f", "-X", "PUT", "-d", &from_file, &at("/put/a")],
        ));
        assert!(std::fs::read(folder.join("put/a")).unwrap() == file);
        // Of unknown length, in chunks.
        let arguments = [
            "-v",
            "--cacert",
            &ca,
            "-f",
            "-X",
            "PUT",
            "-d",
            "@-",
            &at("/put/b"),
        ];
        body(&carried(fetch_with(&arguments, &file), &arguments));
        assert!(std::fs::read(folder.join("put/b")).unwrap() == file);
        body(&fetch_carried(&ca, &["-f", "-X", "DELETE", &at("/put/a")]));
        assert!(!folder.join("put/a").exists());
        for method in ["POST", "PATCH"] {
            let output = fetch_carried(&ca, &["-X", method, "-d", "x", &at("/text")]);
            assert_eq!(body(&output), format!("{method} of nginx").as_bytes());
        }
        let head = body(&fetch_carried(&ca, &["-I", &at("/file")]));
        let length = format!("content-length: {}", file.len());
        assert!(String::from_utf8_lossy(&head).contains(&length));
    }
}

/// `openssl s_server` on a free port.
struct OpenSsl(Child);

impl Drop for OpenSsl {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn s_server(place: &Place, arguments: &[&str]) -> (OpenSsl, u16) {
    let (certificate, key): (PathBuf, PathBuf) = cert(&["localhost"]).write(place.0.path(), "leaf");
    let port = free_port();
    let server = Command::new("openssl")
        .args(["s_server", "-accept", &format!("127.0.0.1:{port}"), "-cert"])
        .arg(certificate)
        .arg("-key")
        .arg(key)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("openssl starts");
    let server = OpenSsl(server);
    wait_until("openssl listens", || {
        std::net::TcpStream::connect(("127.0.0.1", port)).ok()
    });
    (server, port)
}

#[test]
fn openssl_tells_what_was_agreed_on() {
    if !has("openssl") {
        return;
    }
    let place = Place::new();
    for (flags, version, suite) in [
        (
            &["-www", "-tls1_3", "-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256"][..],
            "TLSv1.3",
            "TLS_CHACHA20_POLY1305_SHA256",
        ),
        (
            &["-www", "-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"],
            "TLSv1.2",
            "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        ),
    ] {
        let (_server, port) = s_server(&place, flags);
        // Its page has no length: its end is the connection's, and TLS has to say so.
        let output = fetch_carried(&place.ca(), &[&secure(port, "/")]);
        let page = String::from_utf8_lossy(&body(&output)).into_owned();
        assert!(page.contains(version) && page.contains("</pre>"), "{page}");
        let told = said(&output);
        assert!(
            told.contains(&format!("* {version}, {suite}, new session")),
            "{told}"
        );
    }
}

#[test]
fn openssl_gets_every_method() {
    if !has("openssl") {
        return;
    }
    let place = Place::new();
    let ca = place.ca();
    for version in ["-tls1_3", "-tls1_2"] {
        let (mut server, port) = s_server(&place, &["-quiet", version]);
        let (requests, answers) = (server.0.stdout.take().unwrap(), server.0.stdin.take().unwrap());
        std::thread::spawn(|| say_back(requests, answers));
        let url = secure(port, "/x");
        let head = every_method_is_echoed(&ca, &url);
        assert!(head.ends_with("content-length: 5\r\n\r\n"), "{head}");
    }
}

/// Answers what openssl writes of its clients with their method and body. It sends what it is given.
fn say_back(requests: ChildStdout, mut answers: ChildStdin) {
    let mut requests = BufReader::new(requests);
    let mut line = String::new();
    while requests.read_line(&mut line).is_ok_and(|count| count > 0) {
        let method = line.split(' ').next().unwrap().to_owned();
        let mut length = 0;
        while line != "\r\n" {
            line.clear();
            requests.read_line(&mut line).unwrap();
            if let Some(told) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
                length = told.trim_end().parse().unwrap();
            }
        }
        let mut seen = vec![0; length];
        requests.read_exact(&mut seen).unwrap();
        let body = match &*method {
            "HEAD" => Vec::new(),
            _ => [method.as_bytes(), b" ", &seen].concat(),
        };
        let length = method.len() + 1 + seen.len();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
        answers.write_all(&[head.as_bytes(), &body].concat()).unwrap();
        line.clear();
    }
}

#[test]
fn verbose_tells_who_made_the_records_and_how_the_bytes_went() {
    let place = Place::new();
    let server = echo().tls(cert(&["localhost"])).start();
    let output = fetch(&[
        "-v",
        "--no-ktls",
        "--cacert",
        &place.ca(),
        "-d",
        "12345",
        &secure(server.port(), "/"),
    ]);
    assert_eq!(body(&output), b"POST 12345");
    let told = said(&output);
    for part in [
        "* driver: ",
        "* connected to 127.0.0.1:",
        "* TLSv1.3, TLS_",
        "> POST / HTTP/1.1",
        "> content-length: 5",
        "< HTTP/1.1 200 OK",
        "< X-Mark: 42",
        "* TLS was made by this process: ",
        "copied, 0 spliced",
        "copied, 0 by sendfile",
        "* key updates: 0 sent, 0 received",
    ] {
        assert!(told.contains(part), "no `{part}` in\n{told}");
    }
}

#[test]
fn a_certificate_that_is_not_good_is_refused_with_what_to_do() {
    let place = Place::new();
    let ca = place.ca();
    let good = echo().tls(cert(&["localhost"])).start();
    let expired = echo().tls(expired_cert(&["localhost"])).start();
    let named = echo().tls(cert(&["a.test", "b.test"])).start();
    let self_signed = {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.self_signed(&key).unwrap().pem()
    };
    let other = place.file("other.pem", self_signed.as_bytes());
    for (server, trusted, parts) in [
        (
            &good,
            &other,
            &["vouched for by nobody", "--cacert FILE", "-k"][..],
        ),
        (&expired, &ca, &["has expired on 2020-01-01", "-k"]),
        (&named, &ca, &["not one for localhost", "a.test", "b.test"]),
    ] {
        let url = secure(server.port(), "/");
        let refused = failure(&fetch(&["--cacert", trusted, &url]));
        for part in parts {
            assert!(refused.contains(part), "no `{part}` in\n{refused}");
        }
        assert!(server.requests().is_empty());
        assert_eq!(body(&fetch(&["-k", &url])), b"GET ");
    }
    let missing = fetch(&["--cacert", "/nonexistent.pem", &secure(good.port(), "/")]);
    assert_eq!(missing.status.code(), Some(2), "{}", said(&missing));
    assert!(said(&missing).contains("/nonexistent.pem"));
}

#[test]
fn a_server_that_is_not_there_or_speaks_otherwise_is_told_of() {
    let port = free_port();
    let refused = failure(&fetch(&[&format!("http://127.0.0.1:{port}/")]));
    assert!(
        refused.contains(&format!("127.0.0.1:{port} refuses connections")),
        "{refused}"
    );
    let unknown = failure(&fetch(&["http://name.invalid/"]));
    assert!(unknown.contains("cannot look up name.invalid"), "{unknown}");
    let clear = origin()
        .raw(|mut stream| {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
        })
        .start();
    let not_tls = failure(&fetch(&["-k", &format!("https://{}/x", clear.address())]));
    assert!(
        not_tls.contains("not TLS") && not_tls.contains(" http://"),
        "{not_tls}"
    );
    let closes = origin().raw(|_| ()).start();
    let closed = failure(&fetch(&["-k", &format!("https://{}/x", closes.address())]));
    assert!(closed.contains("instead of speaking TLS"), "{closed}");
    let odd = origin()
        .raw(|mut stream| drop(stream.write_all(b"SSH-2.0-x\r\n\r\n")))
        .start();
    let not_http = failure(&fetch(&[&plain(&odd, "/")]));
    assert!(
        not_http.contains("not HTTP") && not_http.contains("https://"),
        "{not_http}"
    );
    let silent = origin()
        .raw(|mut stream| drop(std::io::copy(&mut stream, &mut std::io::sink())))
        .start();
    let late = failure(&fetch(&["--timeout", "300ms", &plain(&silent, "/")]));
    assert!(late.contains("silent for 300ms before it answered"), "{late}");
    let late = failure(&fetch(&[
        "-k",
        "--connect-timeout",
        "300ms",
        &format!("https://{}/", silent.address()),
    ]));
    assert!(late.contains("not through in time"), "{late}");
}

#[test]
fn a_status_is_a_failure_if_it_is_asked_to_be() {
    let server = origin()
        .handles_all(|exchange| exchange.answer(404, &[], b"no such thing"))
        .start();
    let url = plain(&server, "/");
    assert_eq!(body(&fetch(&[&url])), b"no such thing");
    let output = fetch(&["-f", &url]);
    assert!(output.stdout.is_empty());
    assert!(failure(&output).contains("404 Not Found"));
}

#[test]
fn redirects_are_followed_when_asked_and_sessions_are_resumed() {
    let place = Place::new();
    let ca = place.ca();
    let server = origin()
        .tls(cert(&["localhost"]))
        .handles_all(|exchange| {
            let (path, method) = (exchange.head.word(1).to_owned(), exchange.head.word(0).to_owned());
            let said = exchange.read_body()?;
            let to = |status, location| (status, [("Location", location)]);
            let (status, fields) = match &*path {
                "/301" => to(301, "/end"),
                "/303" => to(303, "end"),
                "/307" => to(307, "/end"),
                "/ring" => to(302, "/ring"),
                _ => (200, [("X-Mark", "1")]),
            };
            let body = [method.as_bytes(), b" ", &said.body].concat();
            exchange.answer(status, &fields, &body)?;
            Ok(Then::Close)
        })
        .start();
    let at = |path: &str| secure(server.port(), path);
    for (path, method, answer) in [
        ("/301", "POST", &b"GET "[..]),
        ("/301", "PUT", b"PUT data"),
        ("/303", "PUT", b"GET "),
        ("/307", "POST", b"POST data"),
    ] {
        let output = fetch(&["-vL", "--cacert", &ca, "-X", method, "-d", "data", &at(path)]);
        assert_eq!(body(&output), answer, "{path} {method}");
        let told = said(&output);
        assert!(told.contains("* redirected to https://localhost"), "{told}");
        assert!(
            told.contains(", new session, ") && told.contains(", resumed, "),
            "{told}"
        );
    }
    assert_eq!(body(&fetch(&["--cacert", &ca, &at("/301")])), b"GET ");
    let ring = failure(&fetch(&["-L", "--cacert", &ca, &at("/ring")]));
    assert!(ring.contains("more than 10 redirects"), "{ring}");
    let once = fetch_with(&["-L", "--cacert", &ca, "-d", "@-", &at("/307")], b"data");
    assert!(failure(&once).contains("once only"), "{}", said(&once));
}
