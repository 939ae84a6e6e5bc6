//! HUP: files are read on a thread beside the loop, then the next generation is put into force as a whole;
//! what is wrong changes nothing.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_channel::Receiver;
use futures_util::future::{Either, select};

use super::checks::Checks;
use super::discovery::Discovery;
use super::signals::Signal;
use super::sockets::{PerWorker, Sockets};
use super::{
    Event, Source, Supervisor, cannot_log, certificates, find_out, listening, notify, tell_verdict, warn,
};
use crate::access_log::{Opened, Target};
use crate::config::Loaded;
use crate::generation::Generation;
use crate::offload::Offload;
use crate::runtime::{self, TimedOut, before};
use crate::time::Deadline;
use crate::worker::{self, Adopt, Command};

/// How long the files may be read, and the kernel be tried (10 s at most). A mount that hangs has to be told.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// Threads that may hang in reads nobody waits for any more, until that is told instead of one more being started.
const READS_MAX: usize = 8;

/// Whether a reload reads its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    No,
    Yes,
    /// The files may have changed since it began: they are read again after it.
    OnceMore,
}

/// What a reload has read and opened.
pub(super) struct Read {
    loaded: Loaded,
    offload: Offload,
    /// Where the access log goes, if that is another place than before.
    log: Option<Opened>,
}

impl<S: Source> Supervisor<S> {
    /// Has the next configuration read. That may take as long as disks and mounts like: whatever else the
    /// supervisor hears of is done meanwhile.
    pub(super) fn begin_reload(&mut self) {
        if self.reading != Reading::No {
            self.reading = Reading::OnceMore;
            return;
        }
        self.reading = Reading::Yes;
        notify::reloading();
        if Arc::strong_count(&self.reads) > READS_MAX {
            let why =
                format!("{READS_MAX} earlier reloads still read their files: look for a mount that hangs");
            drop(self.tell.try_send(Event::Read(Err(why).into())));
            return;
        }
        let (source, earlier) = (self.source.clone(), self.generation.clone());
        let (tell, tell_panic) = (self.tell.clone(), self.tell.clone());
        let place = self.reads.clone();
        let reading = async move {
            let read = runtime::blocking_apart("reload", move || {
                let _place = place;
                read(&*source, &earlier)
            });
            let read = match before(Deadline::within(READ_TIMEOUT), read).await {
                Ok(read) => read.and_then(|read| read),
                Err(TimedOut) => Err(format!(
                    "its files could not be read in {READ_TIMEOUT:?}: look for a mount that hangs"
                )),
            };
            drop(tell.try_send(Event::Read(read.into())));
        };
        runtime::spawn(reading, move |panic| {
            drop(tell_panic.try_send(Event::Read(Err(panic).into())));
        });
    }

    /// Puts what was read into force, or says why not.
    pub(super) async fn end_reload(&mut self, read: Result<Read, String>, events: &Receiver<Event>) {
        if std::mem::replace(&mut self.reading, Reading::No) == Reading::OnceMore {
            self.later.push_back(Event::Signal(Signal::Reload));
        }
        let handed_over = match read {
            Ok(read) => self.hand_over(read, events).await,
            Err(why) => Err(why),
        };
        if let Err(why) = handed_over {
            tracing::error!("the configuration was not reloaded, the old one stays in force:\n{why}");
            self.admin.change_facts(|facts| facts.reloads_failed += 1);
            notify::ready(&format!("Serving {}", listening(&self.generation)));
        }
    }

    /// What can fail comes first: up to there nothing has changed.
    async fn hand_over(&mut self, read: Read, events: &Receiver<Event>) -> Result<(), String> {
        let Read { loaded, offload, log } = read;
        warn(&loaded.warnings);
        if offload.refusal() != self.generation.offload.refusal() {
            tell_verdict(&offload);
        }
        let mut next = Generation {
            number: self.generation.number + 1,
            offload: offload.into(),
            ..loaded.generation
        };
        self.warn_of_restarts(&next);
        let Some(shares) = self.prepare(&mut next, events).await? else {
            return Ok(());
        };
        let next = Arc::new(next);
        if let Some(log) = log {
            self.writer.set(log);
        }
        self.checks.watch(&next.upstreams);
        self.tell_of_endpoints();
        let down = self.checks.down();
        for (worker, sockets) in self.workers.iter().zip(shares) {
            let (generation, down) = (next.clone(), down.clone());
            worker.tell(Command::Adopt(Adopt {
                generation,
                sockets,
                down,
            }));
        }
        self.sockets.keep(&next);
        self.generation = next;
        self.adopting = self.workers.len();
        Ok(())
    }

    /// What a reload cannot change is said, not silently left.
    fn warn_of_restarts(&self, next: &Generation) {
        if next.workers.is_some_and(|count| count != self.workers.len()) {
            tracing::warn!(
                workers = self.workers.len(),
                "`workers` changes with the next restart, not with a reload"
            );
        }
        if next.admin != self.admin_address {
            tracing::warn!("`[admin] address` changes with the next restart, not with a reload");
        }
    }

    /// Gets what a generation needs, which takes some seconds where an address is in use or a name is not
    /// found. Most of what is heard meanwhile is kept for [`Self::later`], since it concerns what is about to
    /// change; `None`: something has come that ends everything, and is next.
    async fn prepare(
        &mut self,
        next: &mut Generation,
        events: &Receiver<Event>,
    ) -> Result<Option<PerWorker>, String> {
        let workers = self.workers.len();
        let mut got = pin!(get(
            &self.sockets,
            &mut self.checks,
            &mut self.discovery,
            workers,
            next
        ));
        loop {
            match select(got.as_mut(), pin!(events.recv())).await {
                Either::Left((got, _)) => return got.map(Some),
                Either::Right((Ok(Event::Signal(Signal::Reopen)), _)) => self.writer.reopen(),
                Either::Right((Ok(event), _)) if is_the_end(&event) => {
                    self.later.push_front(event);
                    return Ok(None);
                }
                Either::Right((Ok(event), _)) => self.later.push_back(event),
                Either::Right((Err(_), _)) => return Ok(None), // never: `tell` is ours
            }
        }
    }

    /// A worker serves new connections by a generation. The reload is done when all do.
    pub(super) fn adopted(&mut self, number: u64) {
        if number != self.generation.number || self.adopting == 0 {
            return; // a generation that was replaced before all had taken it
        }
        self.adopting -= 1;
        if self.adopting == 0 {
            let certificates = certificates(&self.generation);
            let offload = self.generation.offload.clone();
            self.admin.change_facts(|facts| {
                facts.offload = offload;
                facts.reloads_finished += 1;
                facts.generation = number;
                facts.certificates = certificates;
            });
            let listening = listening(&self.generation);
            tracing::info!(generation = number, "reloaded; Atlas serves {listening}");
            notify::ready(&format!("Serving {listening}"));
        }
    }
}

/// Reads files, checks keys, tries the kernel, opens the log.
fn read(source: &impl Source, earlier: &Generation) -> Result<Read, String> {
    let loaded = source(Some(earlier)).map_err(|errors| errors.to_string().trim_end().to_owned())?;
    let settings = &loaded.generation.access_log;
    let target = Target::of(settings);
    let is_other = target != Target::of(&earlier.access_log);
    let log = is_other.then(|| target.open()).transpose();
    Ok(Read {
        log: log.map_err(|error| cannot_log(settings, &error))?,
        offload: find_out(&loaded.generation),
        loaded,
    })
}

async fn get(
    sockets: &Sockets,
    checks: &mut Checks,
    discovery: &mut Discovery,
    workers: usize,
    next: &mut Generation,
) -> Result<PerWorker, String> {
    let shares = sockets.bind_missing(next, workers).await?;
    checks.start(&next.upstreams)?;
    discovery.start(&next.upstreams)?;
    discovery.watch(next).await;
    Ok(shares)
}

/// Whether this process is to end, or has to.
fn is_the_end(event: &Event) -> bool {
    matches!(
        event,
        Event::Signal(Signal::Stop) | Event::Worker(worker::Event::Died(..))
    )
}
