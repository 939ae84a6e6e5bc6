//! One core: its thread, its runtime, its listeners, its connections.
//!
//! A worker shares nothing with the others. It hears of the supervisor by commands, and tells it
//! events; everything its connections share is `Rc`.

mod accept;
mod state;

use std::os::fd::OwnedFd;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;

use async_channel::{Receiver, Sender};

pub use self::accept::QUEUE_TIMEOUT;
use self::state::State;
use crate::access_log;
use crate::drain::Step;
use crate::generation::Generation;
use crate::metrics::Counters;
use crate::runtime::{self, Address, Driver, Preference};
use crate::upstream;
use crate::upstream::health::Checked;

/// What the supervisor tells a worker.
pub enum Command {
    /// This generation is in force for new connections.
    Adopt(Adopt),
    /// Other endpoints were found for an upstream.
    Found(Arc<upstream::Settings>),
    /// Checks have found an endpoint down, or up again.
    Checked(Checked),
    /// Go away, a step further.
    Drain(Step),
}

/// A generation, and the worker's sockets for those of its listeners that are new.
pub struct Adopt {
    /// The generation.
    pub generation: Arc<Generation>,
    /// Address and listening socket of each new listener.
    pub sockets: Vec<(Address, OwnedFd)>,
    /// Endpoints that checks have found down.
    pub down: Vec<Checked>,
}

/// What a worker tells the supervisor.
#[derive(Debug)]
pub enum Event {
    /// It runs, on this driver.
    Started(usize, Driver),
    /// It serves new connections by the generation of this number.
    Adopted(usize, u64),
    /// All its connections have ended since the drain began; so many were cut.
    Drained(usize, usize),
    /// It ended where it should not.
    Died(usize, String),
}

/// What a worker is started with.
pub struct Start {
    /// Its number, from 0.
    pub number: usize,
    /// How many workers there are.
    pub workers: usize,
    /// The core it stays on; `None`: wherever the kernel likes.
    pub core: Option<usize>,
    /// Which driver.
    pub preference: Preference,
    /// Where its records go.
    pub log: (access_log::Settings, access_log::Sender),
    /// Where it counts.
    pub counters: Arc<Counters>,
    /// The first generation.
    pub adopt: Adopt,
}

/// The supervisor's hold on a worker.
pub struct Worker {
    commands: Sender<Command>,
}

impl Worker {
    /// Starts a thread, its runtime and its listeners; it says so by an event.
    ///
    /// # Errors
    ///
    /// When no thread can be had.
    pub fn start(start: Start, told: impl Fn(Event) + Clone + Send + 'static) -> std::io::Result<Self> {
        let (commands, heard) = async_channel::unbounded();
        let number = start.number;
        std::thread::Builder::new()
            .name(format!("worker-{number}"))
            .spawn(move || {
                if let Some(core) = start.core {
                    pin(core);
                }
                let tell = told.clone();
                let preference = start.preference;
                let run = || runtime::start(preference, |driver| State::run(start, driver, heard, tell));
                let why = match std::panic::catch_unwind(AssertUnwindSafe(run)) {
                    Ok(Err(why)) => why,
                    Ok(Ok(())) => "it ended by itself".to_owned(),
                    Err(_) => "it panicked".to_owned(),
                };
                told(Event::Died(number, why));
            })?;
        Ok(Self { commands })
    }

    /// Tells it something. What a worker that has died is told is lost; its death was an event.
    pub fn tell(&self, command: Command) {
        let _ = self.commands.try_send(command);
    }
}

fn pin(core: usize) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(core);
    if let Err(error) = rustix::thread::sched_setaffinity(None, &set) {
        tracing::warn!(core, %error, "cannot stay on one core");
    }
}

/// Hears commands until the worker is drained.
async fn obey(state: &Rc<State>, commands: Receiver<Command>) {
    while let Ok(command) = commands.recv().await {
        match command {
            Command::Adopt(adopt) => state.adopt(adopt),
            Command::Found(upstream) => state.found(&upstream),
            Command::Checked(checked) => state.checked(&checked),
            Command::Drain(step) => state.drain(step),
        }
    }
}
