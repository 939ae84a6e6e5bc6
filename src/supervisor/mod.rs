//! The main thread: one loop over a closed list of events. Starts workers, hands them
//! generations, drains them.

mod checks;
mod discovery;
mod drain;
mod files;
mod limits;
mod notify;
mod reload;
mod signals;
mod sockets;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use async_channel::{Receiver, Sender};

use self::checks::Checks;
use self::discovery::Discovery;
use self::reload::{Read, Reading};
use self::signals::{Signal, Signals};
use self::sockets::{PerWorker, Sockets};
use crate::access_log::{self, Target, Writer};
use crate::admin::{self, Admin, Readiness};
use crate::config::{Loaded, Report};
use crate::drain::Drain;
use crate::generation::Generation;
use crate::metrics::{self, Counters, Process};
use crate::offload::Offload;
use crate::outcome::Refusal;
use crate::runtime::{self, Address, Driver, Listener, Preference, TimedOut, before};
use crate::time::{Deadline, wall};
use crate::upstream::health::Checked;
use crate::worker::{self, Adopt, Command, Worker};

/// How long workers may take to start, or to take a new generation.
const WORKERS_TIMEOUT: Duration = Duration::from_secs(10);

/// Batches of access log records, of 64 KiB each, that may wait for the disk.
const BATCHES_MAX: usize = 64;

/// The longest that clients with something to ask are waited for before idle connections close.
const IDLE_GRACE_MAX: Duration = Duration::from_secs(1);

/// How long workers may take to end what the drain's deadline cut, and to write its records.
const CUT_TIMEOUT: Duration = Duration::from_secs(1);

/// Where configurations come from: asked at the start and, with the generation in force, at each
/// reload.
pub trait Source: Fn(Option<&Generation>) -> Result<Loaded, Report> + Send + Sync + 'static {}

impl<S: Fn(Option<&Generation>) -> Result<Loaded, Report> + Send + Sync + 'static> Source for S {}

/// Why Atlas did not run, or ended other than drained.
#[derive(Debug)]
pub enum Failure {
    /// The configuration is wrong; nothing was started.
    Configuration(Report),
    /// Something else, in words for the operator.
    Failed(String),
    /// A second signal ended it before it was drained.
    Interrupted,
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self::Failed(text)
    }
}

/// Everything the supervisor hears of.
enum Event {
    Signal(Signal),
    Worker(worker::Event),
    Found,
    Checked(Checked),
    /// A reload has read its files; or what is wrong with them.
    Read(Box<Result<Read, String>>),
}

/// Runs Atlas until it is drained, on the calling thread, which should be the main one. `started`
/// is called once, when all workers accept.
///
/// # Errors
///
/// See [`Failure`].
pub fn run(
    source: impl Source,
    preference: Preference,
    process: Arc<Process>,
    started: impl FnOnce() + 'static,
) -> Result<(), Failure> {
    let cannot_catch = |error| format!("cannot catch signals: {error}");
    let mut signals = Signals::catch().map_err(cannot_catch)?;
    let loaded = source(None).map_err(Failure::Configuration)?;
    warn(&loaded.warnings);
    let offload = find_out(&loaded.generation);
    tell_verdict(&offload);
    signals.catch_stop().map_err(cannot_catch)?;
    let generation = Generation {
        offload: offload.into(),
        ..loaded.generation
    };
    // The control plane has few sockets and no hurry: epoll, whatever the workers use.
    runtime::start(Preference::Epoll, |_| async move {
        let (tell, events) = async_channel::unbounded();
        let to_signals = tell.clone();
        let mut supervisor = Supervisor::start(source, preference, process, generation, tell).await?;
        signals
            .watch(move |signal| drop(to_signals.try_send(Event::Signal(signal))))
            .map_err(|error| format!("cannot watch for signals: {error}"))?;
        supervisor.started(&events).await?;
        started();
        supervisor.supervise(&events).await
    })?
}

struct Supervisor<S> {
    source: Arc<S>,
    generation: Arc<Generation>,
    sockets: Sockets,
    workers: Vec<Worker>,
    writer: Writer,
    discovery: Discovery,
    checks: Checks,
    admin: Rc<Admin>,
    /// Where that is asked, until the next restart.
    admin_address: Option<SocketAddr>,
    /// For what is done beside the loop.
    tell: Sender<Event>,
    /// What came while a generation was handed over, and comes first.
    later: VecDeque<Event>,
    reading: Reading,
    /// As many as reloads are reading files, those among them that nobody waits for.
    reads: Arc<()>,
    /// Workers that have not yet taken the newest generation.
    adopting: usize,
}

impl<S: Source> Supervisor<S> {
    async fn start(
        source: S,
        preference: Preference,
        process: Arc<Process>,
        mut generation: Generation,
        tell: Sender<Event>,
    ) -> Result<Self, Failure> {
        let open_files = limits::raise_open_files();
        let cores = limits::cores();
        let count = generation.workers.unwrap_or_else(|| limits::parallelism(&cores));
        tracing::debug!(open_files, cores = cores.len(), workers = count, "starting");
        let mut sockets = Sockets::default();
        let shares = sockets.bind_missing(&generation, count).await?;
        sockets.keep(&generation);
        let writer = Writer::start(Target::of(&generation.access_log), BATCHES_MAX, process.clone())
            .map_err(|error| cannot_log(&generation.access_log, &error))?;
        let counters: Vec<_> = (0..count)
            .map(|number| Arc::new(Counters::of_worker(number)))
            .collect();
        let admin = Rc::new(Admin::new(counters.clone(), process.clone(), facts(&generation)));
        let admin_address = generation.admin;
        if let Some(address) = admin_address {
            serve_admin(address, admin.clone()).await?;
        }
        let mut discovery = Discovery::new(&tell, process, count);
        discovery.start(&generation.upstreams)?;
        discovery.watch(&mut generation).await;
        let generation = Arc::new(generation);
        let mut checks = Checks::new(&tell);
        checks.start(&generation.upstreams)?;
        checks.watch(&generation.upstreams);
        let mut supervisor = Self {
            source: Arc::new(source),
            generation,
            sockets,
            workers: Vec::with_capacity(count),
            writer,
            discovery,
            checks,
            admin,
            admin_address,
            tell,
            later: VecDeque::new(),
            reading: Reading::No,
            reads: Arc::default(),
            adopting: 0,
        };
        supervisor.start_workers(preference, &cores, counters, shares)?;
        Ok(supervisor)
    }

    /// One thread for each share of the sockets; on a core of its own where that takes all of them. Fewer are
    /// placed by the kernel: the first cores are not freer than others, and another Atlas would take them, too.
    fn start_workers(
        &mut self,
        preference: Preference,
        cores: &[usize],
        counters: Vec<Arc<Counters>>,
        shares: PerWorker,
    ) -> Result<(), String> {
        let count = shares.len();
        for (number, (sockets, counters)) in shares.into_iter().zip(counters).enumerate() {
            let start = worker::Start {
                number,
                workers: count,
                core: (count == cores.len()).then(|| cores[number]),
                preference,
                log: (self.generation.access_log.clone(), self.writer.sender()),
                counters,
                adopt: Adopt {
                    generation: self.generation.clone(),
                    sockets,
                    down: Vec::new(),
                },
            };
            let tell = self.tell.clone();
            let worker = Worker::start(start, move |event| drop(tell.try_send(Event::Worker(event))))
                .map_err(|error| format!("cannot start a thread for worker {number}: {error}"))?;
            self.workers.push(worker);
        }
        Ok(())
    }

    /// Waits until all workers accept, and says so.
    async fn started(&mut self, events: &Receiver<Event>) -> Result<(), Failure> {
        let deadline = Deadline::within(WORKERS_TIMEOUT);
        let mut drivers: Vec<(usize, Driver)> = Vec::new();
        while drivers.len() < self.workers.len() {
            match before(deadline, events.recv()).await {
                Ok(Ok(Event::Worker(worker::Event::Started(number, driver)))) => {
                    drivers.push((number, driver));
                }
                Ok(Ok(event)) => self.handle_early(event)?,
                Ok(Err(_)) | Err(TimedOut) => {
                    return Err(format!("not all workers started in {WORKERS_TIMEOUT:?}").into());
                }
            }
        }
        drivers.sort_by_key(|(number, _)| *number);
        // One that has no io_uring is the one worth a line.
        let worst = drivers
            .iter()
            .find(|(_, driver)| matches!(driver, Driver::Epoll(_)))
            .or_else(|| drivers.first());
        let driver = worst.map(|(_, driver)| driver.to_string()).unwrap_or_default();
        let drivers = drivers
            .iter()
            .map(|(_, driver)| (driver.as_str(), driver.to_string()))
            .collect();
        self.admin.change_facts(|facts| facts.drivers = drivers);
        self.tell_of_endpoints();
        let listening = listening(&self.generation);
        let workers = self.workers.len();
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            workers,
            driver,
            "Atlas serves {listening}"
        );
        self.admin.set_readiness(Readiness::Ready);
        notify::ready(&format!("Serving {listening}"));
        Ok(())
    }

    fn handle_early(&mut self, event: Event) -> Result<(), Failure> {
        match event {
            Event::Signal(Signal::Stop) => Err("stopped by a signal before it served".to_owned().into()),
            Event::Worker(worker::Event::Died(number, why)) => {
                Err(format!("worker {number} cannot run: {why}").into())
            }
            Event::Found => {
                self.found();
                Ok(())
            }
            Event::Checked(checked) => {
                self.checked(&checked);
                Ok(())
            }
            Event::Signal(Signal::Reopen) => {
                self.writer.reopen();
                Ok(())
            }
            Event::Signal(Signal::Reload) => {
                self.later.push_back(event);
                Ok(())
            }
            Event::Read(_) | Event::Worker(_) => Ok(()),
        }
    }

    /// Look-ups have found something, or nothing.
    fn found(&mut self) {
        let changed = self.discovery.changed();
        for upstream in &changed {
            self.tell_all(|| Command::Found(upstream.clone()));
        }
        if !changed.is_empty() {
            self.checks.watch(self.discovery.upstreams());
        }
        self.tell_of_endpoints();
    }

    fn checked(&mut self, checked: &Checked) {
        if self.checks.note(checked) {
            self.tell_all(|| Command::Checked(checked.clone()));
            self.tell_of_endpoints();
        }
    }

    /// For the metrics.
    fn tell_of_endpoints(&self) {
        let (endpoints, names) = (self.checks.facts(), self.discovery.names());
        let upstreams = self.discovery.upstreams().iter();
        let upstreams = upstreams.map(|upstream| (upstream.name.clone(), upstream.endpoints.len()));
        let upstreams = upstreams.collect();
        let (files, counted) = (self.discovery.files(), self.discovery.counted());
        self.admin.change_facts(|facts| {
            facts.endpoints = endpoints;
            facts.names = names;
            facts.upstreams = upstreams;
            facts.files = files;
            facts.counted = counted;
        });
    }

    fn tell_all(&self, command: impl Fn() -> Command) {
        self.workers.iter().for_each(|worker| worker.tell(command()));
    }

    /// The loop: until a signal says stop, and what ran has ended.
    async fn supervise(mut self, events: &Receiver<Event>) -> Result<(), Failure> {
        loop {
            let event = match self.later.pop_front() {
                Some(event) => Ok(event),
                None => events.recv().await,
            };
            match event {
                Ok(Event::Signal(Signal::Reload)) => self.begin_reload(),
                Ok(Event::Read(read)) => self.end_reload(*read, events).await,
                Ok(Event::Signal(Signal::Reopen)) => self.writer.reopen(),
                Ok(Event::Signal(Signal::Stop)) => return self.drain(events).await,
                Ok(Event::Found) => self.found(),
                Ok(Event::Checked(checked)) => self.checked(&checked),
                Ok(Event::Worker(worker::Event::Died(number, why))) => {
                    // Its listeners still take connections from the kernel, and nobody serves them.
                    return Err(format!("worker {number} died: {why}").into());
                }
                Ok(Event::Worker(worker::Event::Adopted(_, number))) => self.adopted(number),
                Ok(Event::Worker(_)) => {}
                Err(_) => return Err("nobody is left to hear from".to_owned().into()),
            }
        }
    }
}

/// The addresses and names of the listeners, for people.
fn listening(generation: &Generation) -> String {
    let names: Vec<_> = generation
        .listeners
        .iter()
        .map(|listener| listener.settings.address.to_string())
        .collect();
    names.join(", ")
}

/// Finds out what the kernel's TLS can do, if anybody wants it.
fn find_out(generation: &Generation) -> Offload {
    let mut servers = generation.listeners.iter().flat_map(|listener| &listener.tls);
    let mut clients = generation.upstreams.iter().flat_map(|upstream| &upstream.tls);
    let is_wanted = servers.any(|tls| tls.prefer_ktls) || clients.any(|tls| tls.prefer_ktls);
    match is_wanted {
        true => Offload::probe(),
        false => Offload::absent(Refusal::NotPreferred),
    }
}

fn tell_verdict(offload: &Offload) {
    match offload.refusal() {
        None => tracing::info!("TLS connections go to the kernel where that is worth it"),
        Some(Refusal::NotPreferred) => {}
        Some(refusal @ Refusal::ProbeTimedOut) => tracing::warn!(
            refusal = refusal.as_str(),
            "TLS stays in this process: {}",
            refusal.meaning()
        ),
        Some(refusal) => tracing::info!(
            refusal = refusal.as_str(),
            "TLS stays in this process: the kernel does not do it"
        ),
    }
}

fn warn(warnings: &Report) {
    if !warnings.is_empty() {
        tracing::warn!("{}", warnings.to_string().trim_end());
    }
}

fn cannot_log(settings: &access_log::Settings, error: &std::io::Error) -> String {
    let path = settings
        .path
        .as_deref()
        .map_or_else(|| "standard output".into(), std::path::Path::to_string_lossy);
    format!("cannot write the access log to {path}: {error}; see [access_log] path")
}

/// Serves metrics and health beside the supervisor for as long as the process lives.
async fn serve_admin(address: SocketAddr, admin: Rc<Admin>) -> Result<(), String> {
    let at = Address::Tcp(address);
    let sockets = sockets::bind(&at, 1)
        .await
        .map_err(|error| format!("[admin] {error}"))?;
    for socket in sockets {
        let listener = Listener::new(socket).map_err(|error| format!("[admin] {error}"))?;
        let served = admin::serve(listener, admin.clone(), Drain::new());
        runtime::spawn(served, |panic| {
            tracing::error!("metrics and health are no longer served: {panic}")
        });
    }
    Ok(())
}

fn facts(generation: &Generation) -> metrics::Facts {
    metrics::Facts {
        started: wall(),
        generation: generation.number,
        reloads_finished: 0,
        reloads_failed: 0,
        drivers: Vec::new(),
        offload: generation.offload.clone(),
        certificates: certificates(generation),
        endpoints: Vec::new(),
        names: Vec::new(),
        upstreams: Vec::new(),
        files: Vec::new(),
        counted: Vec::new(),
    }
}

/// What is told of certificates: each by its listener and its names.
fn certificates(generation: &Generation) -> Vec<metrics::Certificate> {
    let secure = generation
        .listeners
        .iter()
        .filter_map(|listener| Some((listener, listener.tls.as_ref()?)));
    secure
        .flat_map(|(listener, tls)| {
            tls.certificates().iter().map(|certificate| metrics::Certificate {
                listener: listener.settings.name.clone(),
                names: certificate.names.join(","),
                serial: certificate.serial.clone(),
                not_after: certificate.not_after,
            })
        })
        .collect()
}
