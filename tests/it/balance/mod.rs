//! Balancing: which of an upstream's endpoints a client comes to.

mod affinity;
mod queue;
mod shares;

use crate::support::{Atlas, Origin, Then, atlas, origin, wait_until};

/// Origins that answer with their names: `a`, `b` and so on.
fn named(count: usize) -> Vec<Origin> {
    let names = "abcdefghij".chars().take(count);
    names.map(|name| named_at(name, None)).collect()
}

/// One that answers with its name, on this port or on any. It lets `/hold` wait until it is closed.
fn named_at(name: char, port: Option<u16>) -> Origin {
    let origin = origin()
        .handles("/hold", |exchange| {
            exchange.wait_for_close();
            Ok(Then::Close)
        })
        .handles_all(move |exchange| exchange.answer(200, &[], name.to_string().as_bytes()));
    match port {
        Some(port) => origin.on_port(port).start(),
        None => origin.start(),
    }
}

/// An Atlas of one worker, whose upstream `app` has these origins with what else is said of each,
/// and these lines.
fn balanced(origins: &[Origin], said: &[&str], lines: &str) -> Atlas {
    start("workers = 1", origins, said, lines)
}

fn start(top: &str, origins: &[Origin], said: &[&str], lines: &str) -> Atlas {
    let endpoints = endpoints(origins, said);
    atlas()
        .top(top)
        .listens_plain()
        .text("[[route]]\nupstream = \"app\"")
        .text(&format!("[upstream.app]\n{endpoints}\n{lines}"))
        .expects_log("cannot connect")
        .expects_log("is ejected")
        .start()
}

fn endpoints(origins: &[Origin], said: &[&str]) -> String {
    let said = said.iter().copied().chain(std::iter::repeat(""));
    let tables = origins
        .iter()
        .zip(said)
        .map(|(origin, said)| format!("{{ address = {:?}, {said} }}", origin.address()));
    format!("endpoints = [{}]", tables.collect::<Vec<_>>().join(", "))
}

/// Stops an origin; from then on it refuses connections.
pub fn stop(origin: Origin) {
    let port = origin.port();
    drop(origin);
    wait_until("the origin's port is free", || {
        std::net::TcpStream::connect(("127.0.0.1", port)).err()
    });
}

/// Who answers so many requests, each on a connection of its own.
fn asked(atlas: &Atlas, count: usize) -> String {
    (0..count).map(|_| atlas.get("/").text()).collect()
}

fn count(answers: &str, name: char) -> usize {
    answers.chars().filter(|answer| *answer == name).count()
}
