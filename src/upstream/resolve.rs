//! Looks names of endpoints up, on a thread of its own: the system's resolver blocks.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::thread;
use std::time::Duration;

/// How often every name is looked up again. The system's resolver does not tell how long an
/// answer is good for; its cache, where it has one, knows.
const INTERVAL: Duration = Duration::from_secs(30);

/// How soon a name that has no address yet is looked up again.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// What a look-up found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The name.
    pub host: Arc<str>,
    /// The port, which is part of the addresses as well.
    pub port: u16,
    /// Where it can be reached, in the order the system prefers; not empty.
    pub addresses: Arc<[SocketAddr]>,
}

/// A thread that looks names up until this is dropped.
pub struct Resolver {
    _alive: Sender<()>,
}

impl Resolver {
    /// Looks up `names` at once and then every 30 seconds, and tells each first answer and each
    /// change. A look-up that fails changes nothing. Names that repeat are looked up once.
    ///
    /// # Errors
    ///
    /// When no thread can be started.
    pub fn start(
        names: impl IntoIterator<Item = (Arc<str>, u16)>,
        on_change: impl Fn(Resolved) + Send + 'static,
    ) -> io::Result<Self> {
        let mut known: Vec<Name> = Vec::new();
        for (host, port) in names {
            if !known.iter().any(|name| name.host == host && name.port == port) {
                known.push(Name::new(host, port));
            }
        }
        let (alive, is_alive) = mpsc::channel();
        if !known.is_empty() {
            thread::Builder::new()
                .name("resolver".to_owned())
                .spawn(move || run(&mut known, &is_alive, on_change))?;
        }
        Ok(Self { _alive: alive })
    }
}

/// Looks all names up once, for those who can wait; those without an answer are missing.
pub fn once(names: impl IntoIterator<Item = (Arc<str>, u16)>) -> Vec<Resolved> {
    let names: HashMap<(Arc<str>, u16), ()> = names.into_iter().map(|name| (name, ())).collect();
    names
        .into_keys()
        .filter_map(|(host, port)| {
            let mut name = Name::new(host, port);
            name.has_failed = true; // the resolver, which looks again at once, says so
            name.look_up()
        })
        .collect()
}

fn run(names: &mut [Name], is_alive: &Receiver<()>, on_change: impl Fn(Resolved)) {
    loop {
        for name in &mut *names {
            let changed = name.look_up();
            // A look-up may take long; whoever asked may have gone meanwhile.
            if is_alive.try_recv() == Err(TryRecvError::Disconnected) {
                return;
            }
            if let Some(resolved) = changed {
                on_change(resolved);
            }
        }
        let is_missing = names.iter().any(|name| name.last.is_empty());
        let pause = if is_missing { RETRY_INTERVAL } else { INTERVAL };
        if is_alive.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}

struct Name {
    host: Arc<str>,
    port: u16,
    /// The last good answer, sorted: the order of answers changes, and means nothing.
    last: Vec<SocketAddr>,
    has_failed: bool,
}

impl Name {
    fn new(host: Arc<str>, port: u16) -> Self {
        Self {
            host,
            port,
            last: Vec::new(),
            has_failed: false,
        }
    }

    /// What changed since the last look-up.
    fn look_up(&mut self) -> Option<Resolved> {
        let answer = (&*self.host, self.port).to_socket_addrs();
        let addresses: Vec<SocketAddr> = match answer {
            Ok(addresses) => addresses.collect(),
            Err(error) => {
                self.complain(&error.to_string());
                return None;
            }
        };
        if addresses.is_empty() {
            self.complain("it has no address");
            return None;
        }
        self.has_failed = false;
        let mut sorted = addresses.clone();
        sorted.sort_unstable();
        sorted.dedup();
        if sorted == self.last {
            return None;
        }
        self.last = sorted;
        Some(Resolved {
            host: self.host.clone(),
            port: self.port,
            addresses: addresses.into(),
        })
    }

    /// Says once that a name cannot be looked up, until it can.
    fn complain(&mut self, why: &str) {
        if !std::mem::replace(&mut self.has_failed, true) {
            let kept = if self.last.is_empty() {
                "no address is known"
            } else {
                "its last addresses are kept"
            };
            tracing::warn!(
                name = &*self.host,
                "cannot look up the name of an endpoint: {why}; {kept}"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_looked_up_and_told_once() {
        let (tell, told) = mpsc::channel();
        let names = [
            ("localhost".into(), 7),
            ("localhost".into(), 7),
            ("name.invalid".into(), 1),
        ];
        let resolver = Resolver::start(names, move |resolved| drop(tell.send(resolved))).unwrap();
        let resolved = told.recv_timeout(Duration::from_secs(20)).unwrap();
        assert_eq!((&*resolved.host, resolved.port), ("localhost", 7));
        assert!(
            resolved
                .addresses
                .iter()
                .all(|address| address.ip().is_loopback() && address.port() == 7)
        );
        drop(resolver);
        // The thread ends, and with it the one who tells.
        assert!(told.recv_timeout(Duration::from_secs(20)).is_err());
    }
}
