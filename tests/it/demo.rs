//! `atlas demo`: one command, and there is something to look at.

use std::process::{Child, Command, Stdio};

use rustix::process::Signal;

use crate::support::{atlas, command, has, wait_until};

struct Demo(Child);

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_demo_serves_its_page_its_echo_and_its_files() {
    if !has("curl") {
        return;
    }
    // Free a moment ago; the demo takes it a moment later.
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let port = free.unwrap().port().to_string();
    let demo = Command::new(env!("CARGO_BIN_EXE_atlas"))
        .args(["demo", "--port", &port])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut demo = Demo(demo);
    let curl = |arguments: &[&str], path: &str| {
        let url = format!("https://localhost:{port}{path}");
        let words = [&["-sk", "--max-time", "60"], arguments, &[&url]].concat();
        String::from_utf8_lossy(&command("curl", &words, b"").stdout).into_owned()
    };
    wait_until("the demo serves", || (!curl(&[], "/").is_empty()).then_some(()));
    let page = curl(&[], "/");
    for part in ["TLS", "AES", "process", "Why not the kernel"] {
        assert!(page.contains(part), "no {part} on the page:\n{page}");
    }
    let sent = "Bytes sent through this process so far</th><td>0<";
    let alone = curl(&["--http1.1"], "/");
    assert!(alone.contains(sent), "{alone}");
    // Whatever this kernel refuses, or that no body was large enough.
    let why = alone.split("Why not the kernel</th><td>").nth(1);
    let (word, meaning) = why.and_then(|why| why.split_once(": ")).expect("it is told");
    assert!(
        !word.contains('<') && meaning.starts_with(char::is_alphabetic),
        "{alone}"
    );
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
