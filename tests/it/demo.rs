//! `atlas demo`: one command, and there is something to look at.

use std::process::{Child, Command, Stdio};

use rustix::process::Signal;

use crate::guest;
use crate::support::{atlas, command, free_port, has, wait_until};

struct Demo(Child);

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One that serves; its port.
fn start() -> (Demo, String) {
    let port = free_port().to_string();
    let demo = Command::new(env!("CARGO_BIN_EXE_atlas"))
        .args(["demo", "--port", &port])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let demo = Demo(demo);
    wait_until("the demo serves", || {
        (!curl(&port, &[], &["/"]).is_empty()).then_some(())
    });
    (demo, port)
}

/// What curl says of these paths, one after the other.
fn curl(port: &str, arguments: &[&str], paths: &[&str]) -> String {
    let urls = paths.iter().map(|path| format!("https://localhost:{port}{path}"));
    let urls: Vec<String> = urls.collect();
    let urls = urls.iter().map(String::as_str);
    let words = ["-sk", "--max-time", "280"]
        .into_iter()
        .chain(arguments.iter().copied());
    let words: Vec<&str> = words.chain(urls).collect();
    String::from_utf8_lossy(&command("curl", &words, b"").stdout).into_owned()
}

/// What a row of the page says.
fn told<'p>(page: &'p str, row: &str) -> &'p str {
    let cell = page.split_once(&format!("{row}</th><td>"));
    let cell = cell.and_then(|(_, rest)| rest.split_once("</td>"));
    cell.unwrap_or_else(|| panic!("no {row} on the page:\n{page}")).0
}

#[test]
fn the_demo_serves_its_page_its_echo_and_its_files() {
    if !has("curl") {
        return;
    }
    let (mut demo, port) = start();
    let curl = |arguments: &[&str], path: &str| curl(&port, arguments, &[path]);
    let page = curl(&[], "/");
    for part in ["TLS", "AES", "process", "Why not the kernel"] {
        assert!(page.contains(part), "no {part} on the page:\n{page}");
    }
    let alone = curl(&["--http1.1"], "/");
    assert_eq!(
        told(&alone, "Bytes sent through this process so far"),
        "0",
        "{alone}"
    );
    // Whatever this kernel refuses, or that no body was large enough.
    let why = told(&alone, "Why not the kernel").split_once(": ");
    let (word, meaning) = why.expect("it is told");
    assert_eq!(word, guest::refusal_of_this_kernel().unwrap_or("below_threshold"));
    assert!(meaning.starts_with(char::is_alphabetic), "{alone}");
    assert!(page.contains("io_uring") || page.contains("epoll"), "{page}");
    let echo = curl(&["-d", "say it again", "-H", "X-Mark: 42"], "/echo");
    assert!(echo.contains("say it again"), "{echo}");
    let file = curl(&[], "/files/index.html");
    assert!(file.contains("<h1>Static files</h1>"), "{file}");
    let part = curl(&["-r", "0-14"], "/files/index.html");
    assert_eq!(part, "<!doctype html>");
    let large = curl(&["-o", "/dev/null", "-w", "%{size_download}"], "/files/64MiB");
    assert_eq!(large, (64 << 20).to_string());
    atlas::signal(&demo.0, Signal::INT);
    let status = wait_until("the demo ends", || demo.0.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
}

/// The page after a large file, on the file's own connection.
#[test]
fn the_demos_page_tells_what_has_become_of_its_connection() {
    const FILE: u64 = 64 << 20;
    if !has("curl") {
        return;
    }
    let (_demo, port) = start();
    let arguments = ["--http1.1", "-o", "/dev/null"];
    let page = curl(&port, &arguments, &["/files/64MiB", "/"]);
    let carrier = told(&page, "Who makes the TLS records");
    let within = told(&page, "Bytes sent inside the kernel so far");
    let through = told(&page, "Bytes sent through this process so far");
    let (spliced, sent) = within.split_once(" spliced, ").expect("both are told");
    let sent: u64 = sent.strip_suffix(" by sendfile").unwrap().parse().unwrap();
    let through: u64 = through.parse().unwrap();
    assert_eq!(spliced, "0");
    match guest::refusal_of_this_kernel() {
        None => {
            assert_eq!((carrier, told(&page, "Why not the kernel")), ("kernel", "–"));
            assert!(sent > FILE / 2 && sent + through >= FILE, "{page}");
        }
        Some(refusal) => {
            assert_eq!(carrier, "process");
            assert!(told(&page, "Why not the kernel").starts_with(refusal), "{page}");
            assert!(sent == 0 && through >= FILE, "{page}");
        }
    }
}
