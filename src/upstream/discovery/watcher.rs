//! The thread that looks names up: each again when its answer is no longer good, once for the process.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::io;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use async_channel::{Receiver, Sender};
use async_io::Timer;
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::{FuturesUnordered, Stream, StreamExt};

use super::dns::{Answer, Dns, Failure, Memory};
use super::reactor::Task;
use super::{Resolver, Server, Source};
use crate::metrics::Process;
use crate::time::now;

/// Look-ups under way at a time; others wait their turn.
const AT_ONCE_MAX: usize = 64;

/// How soon a look-up that failed is tried again: at first, and at the longest.
const RETRY: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];

/// How often it is asked whether the machine's files have changed.
const FILES_INTERVAL: Duration = Duration::from_secs(1);

/// What has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// Of whom.
    pub source: Source,
    /// The servers there are now; `None`: no others than before.
    pub servers: Option<Arc<[Server]>>,
    /// Whether the last look-up failed.
    pub is_failing: bool,
}

/// The supervisor's hold on the thread; it ends when this is dropped.
pub struct Watcher {
    orders: Sender<Order>,
}

/// These are looked up from here on, and no others.
struct Order {
    sources: BTreeSet<Source>,
    resolver: Resolver,
    /// Dropped when each has been looked up once.
    _waits: Sender<()>,
}

impl Watcher {
    /// Looks nothing up yet. `tell` is called on its thread.
    ///
    /// # Errors
    ///
    /// When no thread can be started.
    pub fn start(process: Arc<Process>, tell: impl Fn(News) + Send + 'static) -> io::Result<Self> {
        let (orders, heard) = async_channel::unbounded();
        thread::Builder::new()
            .name("resolver".to_owned())
            .spawn(move || {
                let run = || async_io::block_on(Round::new(process, Box::new(tell)).run(heard));
                if std::panic::catch_unwind(AssertUnwindSafe(run)).is_err() {
                    tracing::error!(
                        "names are no longer looked up, and stay as they were found: a fault in Atlas"
                    );
                }
            })?;
        Ok(Self { orders })
    }

    /// Looks these up from here on, and no others. What is known of those that were looked up before stays,
    /// unless others are to be asked. The channel closes when each has been looked up once.
    pub fn watch(&self, sources: BTreeSet<Source>, resolver: &Resolver) -> Receiver<()> {
        let (waits, settled) = async_channel::bounded(1);
        // A thread that died has said so.
        let _ = self.orders.try_send(Order {
            sources,
            resolver: resolver.clone(),
            _waits: waits,
        });
        settled
    }
}

/// What is known of one source.
#[derive(Default)]
struct State {
    servers: Option<Arc<[Server]>>,
    memory: Memory,
    /// In a row.
    failures: u32,
    was_looked_up: bool,
    is_under_way: bool,
}

/// A look-up that is over, with what was lent to it.
struct Done {
    dns: Rc<Dns>,
    source: Source,
    memory: Memory,
    result: Result<Answer, Failure>,
}

/// All that is looked up, and when each is due.
struct Round {
    states: BTreeMap<Source, State>,
    due: BTreeSet<(Instant, Source)>,
    /// Who waits for all to be looked up once.
    order: Option<Order>,
    settings: Resolver,
    dns: Rc<Dns>,
    files_at: Instant,
    to_tasks: Sender<Task>,
    tasks: Pin<Box<Receiver<Task>>>,
    process: Arc<Process>,
    tell: Box<dyn Fn(News)>,
}

enum Event {
    Order(Option<Order>),
    Done(Done),
    Due,
}

impl Round {
    fn new(process: Arc<Process>, tell: Box<dyn Fn(News)>) -> Self {
        let (to_tasks, tasks) = async_channel::unbounded();
        let settings = Resolver::default();
        Self {
            states: BTreeMap::new(),
            due: BTreeSet::new(),
            order: None,
            dns: Rc::new(Dns::new(&settings, &to_tasks)),
            settings,
            files_at: now(),
            to_tasks,
            tasks: Box::pin(tasks),
            process,
            tell,
        }
    }

    async fn run(mut self, orders: Receiver<Order>) {
        let mut orders = pin!(orders);
        let mut looking = FuturesUnordered::new();
        let mut running: FuturesUnordered<Task> = FuturesUnordered::new();
        loop {
            while looking.len() < AT_ONCE_MAX
                && let Some(look_up) = self.next_due(now())
            {
                looking.push(look_up);
            }
            let next = self.due.first().map(|(at, _)| *at);
            let mut timer = next.filter(|_| looking.len() < AT_ONCE_MAX).map(Timer::at);
            let event = poll_fn(|cx| {
                if let Poll::Ready(order) = orders.as_mut().poll_next(cx) {
                    return Poll::Ready(Event::Order(order));
                }
                // What is spawned meanwhile is run before anybody waits for it.
                loop {
                    if let Poll::Ready(Some(done)) = looking.poll_next_unpin(cx) {
                        return Poll::Ready(Event::Done(done));
                    }
                    let spawned = running.len();
                    while let Poll::Ready(Some(task)) = self.tasks.as_mut().poll_next(cx) {
                        running.push(task);
                    }
                    let is_new = running.len() > spawned;
                    while let Poll::Ready(Some(())) = running.poll_next_unpin(cx) {}
                    if !is_new {
                        break;
                    }
                }
                match timer.as_mut().map(|timer| timer.poll_unpin(cx)) {
                    Some(Poll::Ready(_)) => Poll::Ready(Event::Due),
                    _ => Poll::Pending,
                }
            });
            match event.await {
                Event::Order(Some(order)) => self.obey(order),
                Event::Order(None) => return,
                Event::Done(done) => self.note(done),
                Event::Due => {}
            }
        }
    }

    fn obey(&mut self, order: Order) {
        let asks_others = order.resolver.servers != self.settings.servers;
        self.settings = order.resolver.clone();
        if asks_others {
            self.dns = Rc::new(Dns::new(&self.settings, &self.to_tasks));
        }
        self.states.retain(|source, _| order.sources.contains(source));
        self.due
            .retain(|(_, source)| !asks_others && order.sources.contains(source));
        for source in &order.sources {
            let is_known = self.states.contains_key(source);
            let state = self.states.entry(source.clone()).or_default();
            if asks_others {
                state.was_looked_up = false;
            }
            if !is_known || (asks_others && !state.is_under_way) {
                self.due.insert((now(), source.clone()));
            }
        }
        self.order = Some(order);
        self.tell_if_settled();
    }

    fn tell_if_settled(&mut self) {
        if self.states.values().all(|state| state.was_looked_up) {
            self.order = None;
        }
    }

    /// The look-up of a source whose time has come.
    fn next_due(&mut self, at: Instant) -> Option<LocalBoxFuture<'static, Done>> {
        while self.due.first().is_some_and(|(due, _)| *due <= at) {
            self.look_at_files(at);
            let (_, source) = self.due.pop_first()?;
            let Some(state) = self.states.get_mut(&source).filter(|state| !state.is_under_way) else {
                continue;
            };
            state.is_under_way = true;
            let mut memory = std::mem::take(&mut state.memory);
            let dns = self.dns.clone();
            return Some(
                async move {
                    let result = dns.look_up(&source, &mut memory).await;
                    Done {
                        dns,
                        source,
                        memory,
                        result,
                    }
                }
                .boxed_local(),
            );
        }
        None
    }

    fn look_at_files(&mut self, at: Instant) {
        if at.saturating_duration_since(self.files_at) >= FILES_INTERVAL {
            self.files_at = at;
            if self.dns.is_outdated() {
                self.dns = Rc::new(Dns::new(&self.settings, &self.to_tasks));
            }
        }
    }

    fn note(&mut self, done: Done) {
        let Some(state) = self.states.get_mut(&done.source) else {
            return; // nobody wants it any more
        };
        let is_outdated = !Rc::ptr_eq(&done.dns, &self.dns);
        state.was_looked_up |= !is_outdated;
        state.is_under_way = false;
        state.memory = done.memory;
        let source = &done.source;
        let (found, failure) = match done.result {
            Ok(answer) => (Some((answer.servers, answer.until)), answer.failure),
            Err(why) => (None, Some(why)),
        };
        self.process.looked_up(failure.is_none());
        let is_failing = failure.is_some();
        let was_failing = std::mem::take(&mut state.failures);
        if let Some(why) = failure {
            state.failures = was_failing.saturating_add(1);
            if was_failing == 0 {
                let kept = match (&state.servers, &found) {
                    (Some(_), _) => "its last addresses are kept",
                    (None, Some(_)) => "the others are asked",
                    (None, None) => "no address is known",
                };
                tracing::warn!(name = %source, "cannot look up an endpoint: {why}; {kept}");
            }
        }
        let mut pause = match is_failing {
            true => retry_after(state.failures),
            false => Duration::MAX,
        };
        let mut news = None;
        if let Some((servers, until)) = found {
            let is_new = state.servers.as_deref() != Some(&servers);
            if is_new || (was_failing > 0 && !is_failing) {
                let servers: Arc<[Server]> = servers.into();
                tracing::info!(name = %source, "found at {}", list(&servers));
                state.servers = Some(servers.clone());
                news = is_new.then_some(servers);
            }
            pause = pause.min(self.settings.keeps(until.saturating_duration_since(now())));
        }
        if news.is_some() || is_failing != (was_failing > 0) {
            (self.tell)(News {
                source: source.clone(),
                servers: news,
                is_failing,
            });
        }
        let pause = if is_outdated { Duration::ZERO } else { pause };
        self.due.insert((now() + pause, done.source));
        self.tell_if_settled();
    }
}

/// When a look-up that has failed so many times is tried again.
fn retry_after(failures: u32) -> Duration {
    let [first, longest] = RETRY;
    first
        .saturating_mul(1 << (failures.saturating_sub(1)).min(10))
        .min(longest)
}

/// So many are told in the log.
const TOLD_MAX: usize = 10;

fn list(servers: &[Server]) -> String {
    let told = servers.iter().take(TOLD_MAX).map(|server| {
        let all: Vec<_> = server.addresses.iter().map(ToString::to_string).collect();
        all.join(" or ")
    });
    let told = told.collect::<Vec<_>>().join(", ");
    match servers.len().saturating_sub(TOLD_MAX) {
        0 => told,
        more => format!("{told} and {more} more"),
    }
}
