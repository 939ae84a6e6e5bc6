//! Signals: TERM, INT and QUIT drain, HUP reloads, USR1 reopens logs.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1};

use crate::runtime::Socket;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// TERM, INT, QUIT: drain; a second one ends at once.
    Stop,
    /// HUP: reload.
    Reload,
    /// USR1: reopen logs.
    Reopen,
}

/// The signals, each with a socket its handler writes to.
pub(super) struct Signals(Vec<(Signal, OwnedFd)>);

impl Signals {
    /// Catches, from here on, those that ask for something of a process that goes on: by default they would end
    /// it. To be called before any thread is started.
    pub(super) fn catch() -> io::Result<Self> {
        let mut signals = Self(Vec::new());
        signals.add(SIGHUP, Signal::Reload)?;
        signals.add(SIGUSR1, Signal::Reopen)?;
        Ok(signals)
    }

    /// The others, too: those that end the process at once until there is something to end in order.
    pub(super) fn catch_stop(&mut self) -> io::Result<()> {
        for number in [SIGTERM, SIGINT, SIGQUIT] {
            self.add(number, Signal::Stop)?;
        }
        Ok(())
    }

    fn add(&mut self, number: i32, meaning: Signal) -> io::Result<()> {
        let (write, read) = UnixStream::pair()?;
        signal_hook::low_level::pipe::register(number, write)?;
        self.0.push((meaning, OwnedFd::from(read)));
        Ok(())
    }

    /// Hands each signal on, for as long as the process lives.
    pub(super) fn watch(self, told: impl Fn(Signal) + Clone + 'static) -> io::Result<()> {
        for (meaning, fd) in self.0 {
            let socket = Socket::new(fd)?;
            let told = told.clone();
            let future = async move {
                while socket.readable().await.is_ok() {
                    let mut bytes = [0; 16];
                    match socket.try_recv(&mut bytes) {
                        // Each byte is one signal; two TERMs that came together are two.
                        Ok(count @ 1..) => (0..count).for_each(|_| told(meaning)),
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        _ => return,
                    }
                }
            };
            crate::runtime::spawn(future, |panic| {
                tracing::error!("the signal watcher panicked: {panic}")
            });
        }
        Ok(())
    }
}
