//! The thread that checks endpoints: once for the process, each over connections of its own.

use std::cell::Cell;
use std::collections::{BTreeSet, HashMap};
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use async_channel::{Receiver, Sender};
use futures_util::FutureExt;
use futures_util::future::{Either, select};
use futures_util::stream::{FuturesUnordered, StreamExt};

use super::ask::ask;
use super::check::{Check, Tally};
use crate::offload::Offload;
use crate::outcome::Refusal;
use crate::runtime::{self, Address, Preference};
use crate::time::{Deadline, now};
use crate::upstream::{Endpoint, EndpointAddress, EndpointSettings, Found, Settings};

/// Checks under way at a time. More wait their turn: a network that is gone must not take every
/// descriptor, nor make a storm when it comes back.
const AT_ONCE_MAX: usize = 256;

/// What checks have found of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// The upstream's name.
    pub upstream: Arc<str>,
    /// The endpoint as the file writes it.
    pub endpoint: Arc<str>,
    /// Whether it may be asked.
    pub is_up: bool,
}

/// The supervisor's hold on the thread; it ends when this is dropped.
pub struct Checker {
    orders: Option<Sender<Order>>,
    on_change: Arc<dyn Fn(Checked) + Send + Sync>,
}

/// These are checked from here on, and no others.
type Order = Vec<Planned>;

/// An endpoint that is to be checked.
struct Planned {
    upstream: Arc<str>,
    settings: EndpointSettings,
    check: Arc<Check>,
}

impl Checker {
    /// One that checks nothing yet. `on_change` is told of each endpoint that goes down or up, on
    /// the thread of the checks.
    pub fn new(on_change: impl Fn(Checked) + Send + Sync + 'static) -> Self {
        Self {
            orders: None,
            on_change: Arc::new(on_change),
        }
    }

    /// Starts the thread, if one of these upstreams wants checks and there is none yet.
    ///
    /// # Errors
    ///
    /// When no thread can be started.
    pub fn start(&mut self, upstreams: &[Settings]) -> io::Result<()> {
        let is_wanted = upstreams.iter().any(|upstream| upstream.check.is_some());
        if is_wanted && self.orders.is_none() {
            self.orders = Some(start(self.on_change.clone())?);
        }
        Ok(())
    }

    /// Checks the endpoints of these upstreams, for which it was [started](Self::start), as far as they ask
    /// for it. What is known of those that were checked before is kept, and those that did not change keep
    /// their time.
    pub fn watch(&self, upstreams: &[Settings]) {
        if let Some(orders) = &self.orders {
            // A thread that died has said so.
            let _ = orders.try_send(upstreams.iter().flat_map(planned).collect());
        }
    }
}

fn planned(upstream: &Settings) -> impl Iterator<Item = Planned> {
    upstream.check.iter().flat_map(|check| {
        upstream.endpoints.iter().map(|settings| Planned {
            upstream: upstream.name.clone(),
            settings: settings.clone(),
            check: check.clone(),
        })
    })
}

fn start(on_change: Arc<dyn Fn(Checked) + Send + Sync>) -> io::Result<Sender<Order>> {
    let (tell, orders) = async_channel::unbounded();
    thread::Builder::new().name("health".to_owned()).spawn(move || {
        // Few sockets and no hurry: epoll, whatever the workers use.
        let run = || runtime::start(Preference::Epoll, |_| Round::new(on_change).run(orders));
        let why = match std::panic::catch_unwind(AssertUnwindSafe(run)) {
            Ok(Ok(())) => return,
            Ok(Err(why)) => why,
            Err(_) => "it panicked".to_owned(),
        };
        tracing::error!("endpoints are no longer checked, and stay as they were found: {why}");
    })?;
    Ok(tell)
}

/// Whom a result is about.
type Key = (Arc<str>, Arc<str>);

/// One endpoint and what its checks have come to.
struct Target {
    endpoint: Endpoint,
    settings: EndpointSettings,
    check: Arc<Check>,
    tally: Cell<Tally>,
    is_under_way: Cell<bool>,
}

/// All endpoints that are checked, and when each is due.
struct Round {
    targets: HashMap<Key, Rc<Target>>,
    due: BTreeSet<(Instant, Key)>,
    on_change: Arc<dyn Fn(Checked) + Send + Sync>,
    offload: Arc<Offload>,
}

enum Event {
    Order(Order),
    /// Nobody gives orders any more.
    Over,
    Checked(Key, Rc<Target>, Result<(), String>),
    Due,
}

impl Round {
    fn new(on_change: Arc<dyn Fn(Checked) + Send + Sync>) -> Self {
        Self {
            targets: HashMap::new(),
            due: BTreeSet::new(),
            on_change,
            offload: Offload::absent(Refusal::NotPreferred).into(),
        }
    }

    async fn run(mut self, orders: Receiver<Order>) {
        let mut running = FuturesUnordered::new();
        loop {
            while running.len() < AT_ONCE_MAX
                && let Some((key, target)) = self.next_due(now())
            {
                running.push(checked(key, target, self.offload.clone()));
            }
            let next = self
                .due
                .first()
                .map(|(at, _)| Deadline::after(*at, Default::default()));
            let next = next.filter(|_| running.len() < AT_ONCE_MAX);
            let event = {
                let order = pin!(async { orders.recv().await.map_or(Event::Over, Event::Order) });
                let done = pin!(async {
                    match running.next().await {
                        Some((key, target, result)) => Event::Checked(key, target, result),
                        None => pending().await,
                    }
                });
                let due = pin!(async {
                    match next {
                        Some(at) => runtime::sleep_until(at).await,
                        None => pending().await,
                    }
                    Event::Due
                });
                match select(order, select(done, due)).await {
                    Either::Left((event, _))
                    | Either::Right((Either::Left((event, _)) | Either::Right((event, _)), _)) => event,
                }
            };
            match event {
                Event::Order(plan) => self.watch(plan),
                Event::Over => return,
                Event::Checked(key, target, result) => self.note(key, &target, result),
                Event::Due => {}
            }
        }
    }

    /// An endpoint whose time has come.
    fn next_due(&mut self, now: Instant) -> Option<(Key, Rc<Target>)> {
        while self.due.first().is_some_and(|(at, _)| *at <= now) {
            let (_, key) = self.due.pop_first()?;
            if let Some(target) = self.targets.get(&key).filter(|target| !target.is_under_way.get()) {
                target.is_under_way.set(true);
                return Some((key, target.clone()));
            }
        }
        None
    }

    fn watch(&mut self, plan: Vec<Planned>) {
        let mut before = std::mem::take(&mut self.targets);
        let due = std::mem::take(&mut self.due);
        let due: HashMap<_, _> = due.into_iter().map(|(at, key)| (key, at)).collect();
        for planned in plan {
            let key: Key = (planned.upstream, Arc::from(planned.settings.address.to_string()));
            let known = before.remove(&key);
            let is_same = |known: &&Rc<Target>| {
                known.settings == planned.settings && known.check.is_same(&planned.check)
            };
            if let Some(known) = known.as_ref().filter(is_same) {
                self.due.extend(due.get(&key).map(|at| (*at, key.clone())));
                self.targets.insert(key, known.clone());
                continue;
            }
            let target = Target {
                endpoint: Endpoint::new(&on_port(&planned.settings, planned.check.port), 1),
                settings: planned.settings,
                tally: Cell::new(known.as_ref().map_or(Tally::UNKNOWN, |known| known.tally.get())),
                is_under_way: Cell::new(false),
                check: planned.check,
            };
            // New ones at once; the others are spread over their interval.
            let pause = known.map_or_else(Default::default, |_| {
                target.check.interval.mul_f64(fastrand::f64())
            });
            self.due.insert((now() + pause, key.clone()));
            self.targets.insert(key, Rc::new(target));
        }
    }

    fn note(&mut self, key: Key, target: &Rc<Target>, result: Result<(), String>) {
        // One that is checked no more, or otherwise.
        if !self
            .targets
            .get(&key)
            .is_some_and(|known| Rc::ptr_eq(known, target))
        {
            return;
        }
        target.is_under_way.set(false);
        let mut tally = target.tally.get();
        let is_first = tally == Tally::UNKNOWN;
        let turns = tally.note(result.is_ok(), &target.check);
        target.tally.set(tally);
        if turns {
            tell(&key, target, is_first, &result);
            (self.on_change)(Checked {
                upstream: key.0.clone(),
                endpoint: key.1.clone(),
                is_up: tally.is_up(),
            });
        }
        // After their first check, endpoints that began together go apart.
        let pause = match is_first {
            true => target.check.interval.mul_f64(fastrand::f64()),
            false => target.check.pause(fastrand::f64()),
        };
        self.due.insert((now() + pause, key));
    }
}

/// One line for each change.
fn tell((upstream, endpoint): &Key, target: &Target, is_first: bool, result: &Result<(), String>) {
    let (rise, fall) = (target.check.rise, target.check.fall);
    match result {
        Ok(()) => tracing::info!(
            upstream = &**upstream,
            endpoint = &**endpoint,
            "the endpoint is up: checks passed {rise} times in a row"
        ),
        Err(why) if is_first => tracing::warn!(
            upstream = &**upstream,
            endpoint = &**endpoint,
            "the endpoint is down: its first check failed: {why}"
        ),
        Err(why) => tracing::warn!(
            upstream = &**upstream,
            endpoint = &**endpoint,
            "the endpoint is down: checks failed {fall} times in a row, at last: {why}"
        ),
    }
}

async fn checked(
    key: Key,
    target: Rc<Target>,
    offload: Arc<Offload>,
) -> (Key, Rc<Target>, Result<(), String>) {
    let asked = AssertUnwindSafe(ask(&target.endpoint, &target.check, &offload)).catch_unwind();
    let result = asked.await;
    let result = result.unwrap_or_else(|_| Err("a fault in Atlas; the log above tells where".to_owned()));
    (key, target, result)
}

/// The same on the check's port.
fn on_port(settings: &EndpointSettings, port: Option<u16>) -> EndpointSettings {
    let mut settings = settings.clone();
    match (&mut settings.address, port) {
        (EndpointAddress::Name(_, at), Some(port)) => *at = port,
        (EndpointAddress::Socket(Address::Tcp(at)), Some(port)) => at.set_port(port),
        (EndpointAddress::Found(found), Some(port)) => {
            let addresses = found.addresses.iter();
            *found = Arc::new(Found {
                addresses: addresses.map(|at| SocketAddr::new(at.ip(), port)).collect(),
                ..Found::clone(found)
            });
        }
        _ => {}
    }
    settings
}
