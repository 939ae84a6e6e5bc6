//! What a browser does with HTTP/2 by itself: a page of many parts, and WebSocket beside them.

use std::collections::HashSet;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tungstenite::Message;

use crate::support::origin::Stream;
use crate::support::{Origin, Then, atlas, has, is_guest, noise, origin, wait_long_until};

const BROWSER: &str = "chromium-headless-shell";

const PARTS: usize = 100;

/// Loads its parts, talks over a WebSocket, and reports what it saw.
const PAGE: &str = r#"<!doctype html><title>parts</title><script type="module">
const parts = await Promise.all([...Array(100).keys()].map(async at => {
    const answer = await fetch("/part/" + at);
    return (await answer.arrayBuffer()).byteLength;
}));
const echoed = await new Promise((done, failed) => {
    const socket = new WebSocket("wss://" + location.host + "/chat", "parrot");
    const said = [];
    socket.onopen = () => { socket.send("hello"); socket.send("x".repeat(100000)); };
    socket.onmessage = event => {
        said.push(event.data.length);
        if (said.length == 2) socket.close(1000, "done");
    };
    socket.onclose = event => done({ said, clean: event.wasClean, code: event.code, protocol: socket.protocol });
    socket.onerror = failed;
}).catch(() => "failed");
const posted = await fetch("/upload", { method: "POST", body: new Uint8Array(1000000) });
const versions = [...new Set(performance.getEntriesByType("resource").map(entry => entry.nextHopProtocol))];
await fetch("/report", { method: "POST", body: JSON.stringify({
    parts: parts.length, bytes: parts.reduce((sum, one) => sum + one, 0),
    echoed, versions, upload: await posted.text(),
}) });
</script>"#;

/// Serves the page and its parts over HTTP/1.1, and repeats what is said over WebSocket.
fn site() -> (Origin, Origin) {
    let pages = origin()
        .handles("/page", |exchange| {
            exchange.answer(200, &[("Content-Type", "text/html")], PAGE.as_bytes())
        })
        .handles("/upload", |exchange| {
            let seen = exchange.read_body()?;
            exchange.answer(200, &[], seen.body_bytes.to_string().as_bytes())
        })
        .handles_all(|exchange| match exchange.head.word(1).strip_prefix("/part/") {
            Some(at) => {
                let size = 1000 * at.parse::<usize>().unwrap_or_default();
                exchange.answer(200, &[], &noise(size))
            }
            None => {
                exchange.answer(200, &[], b"")?;
                Ok(Then::Keep)
            }
        })
        .start();
    let chat = origin().raw(repeats).start();
    (pages, chat)
}

/// Says all text again, to clients that ask for a parrot.
#[expect(clippy::result_large_err, reason = "the library wants it so")]
fn repeats(stream: Stream) {
    let agrees = |_: &_, mut answer: tungstenite::handshake::server::Response| {
        let parrot = "parrot".parse().expect("it can be a value");
        answer.headers_mut().insert("Sec-WebSocket-Protocol", parrot);
        Ok(answer)
    };
    let Ok(mut socket) = tungstenite::accept_hdr(stream, agrees) else {
        return;
    };
    while let Ok(message) = socket.read() {
        if matches!(message, Message::Text(_)) && socket.send(message).is_err() {
            return;
        }
    }
}

/// A browser without a window; it ends with this.
struct Browser(Child);

impl Browser {
    fn opens(url: &str, profile: &Path) -> Self {
        let child = Command::new(BROWSER)
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-background-networking",
                "--ignore-certificate-errors",
                "--host-resolver-rules=MAP a.test 127.0.0.1",
                "--remote-debugging-port=0", // stays until it is told to go
            ])
            .arg(format!("--user-data-dir={}", profile.display()))
            .arg(url)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("it can be started");
        Self(child)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It is many processes.
        let group = Pid::from_child(&self.0);
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
        let _ = self.0.wait();
    }
}

#[test]
fn a_page_of_many_parts_and_a_websocket_share_one_connection() {
    if is_guest() || !has(BROWSER) {
        return;
    }
    let (pages, chat) = site();
    let atlas = atlas()
        .listens_tls("a.test")
        .upstream("chat", &[chat.address()], "")
        .text("[[route]]\npath = \"/chat\"\nupstream = \"chat\"")
        .forwards_to(&pages)
        .start();
    let profile = tempfile::tempdir().expect("there is room");
    let url = format!("https://a.test:{}/page", atlas.address().port());
    let browser = Browser::opens(&url, profile.path());
    let patience = Duration::from_secs(60);
    let report = wait_long_until("the page reports", patience, || {
        let seen = pages.requests();
        let report = seen
            .iter()
            .find(|seen| seen.head.word(1) == "/report" && seen.whole)?;
        Some(serde_json::from_slice::<serde_json::Value>(&report.body).expect("it is JSON"))
    });
    let bytes = (0..PARTS).sum::<usize>() * 1000;
    let expected = serde_json::json!({
        "parts": PARTS,
        "bytes": bytes,
        "echoed": { "said": [5, 100_000], "clean": true, "code": 1000, "protocol": "parrot" },
        "versions": ["h2"],
        "upload": "1000000",
    });
    assert_eq!(report, expected);
    drop(browser);
    let tunnel = atlas.exchange("/chat");
    assert_eq!(
        (&tunnel["protocol"], &tunnel["status"]),
        (&"HTTP/2.0".into(), &200.into()),
        "{tunnel}"
    );
    let records = atlas.records();
    let exchanges = records.iter().filter(|record| record["kind"] == "exchange");
    let connections: HashSet<_> = exchanges.map(|record| record["client"].as_str()).collect();
    assert_eq!(connections.len(), 1, "{connections:?}");
}
