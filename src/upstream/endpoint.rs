//! One endpoint: its addresses, as far as they are known, and its idle connections.
//!
//! What must outlive a change of its upstream's endpoints is shared with the [`Endpoint`] before it: its
//! connections, its health, how much is under way.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::health::{self, Health};
use super::pool::Pool;
use super::shared::Shared;
use super::{Counted, EndpointAddress, EndpointSettings};
use crate::metrics::EndpointCounters;
use crate::runtime::Address;
use crate::time::now;

/// How often a failing endpoint may be complained about in the log of errors.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(1);

/// One endpoint of an upstream, as one worker uses it.
pub struct Endpoint {
    /// As the file and records write it.
    name: Arc<str>,
    /// What TLS asks for and verifies.
    host: Arc<str>,
    settings: EndpointSettings,
    /// In the order they are tried; empty while a name is not yet looked up.
    addresses: RefCell<Rc<[Address]>>,
    pub(super) pool: Rc<Pool>,
    pub(super) health: Rc<Health>,
    pub(super) shared: Rc<Shared>,
    complained: Cell<Option<Instant>>,
    /// How many exchanges, or connections of tcp mode, this worker has under way with it.
    open: Rc<Cell<usize>>,
    /// How many there may be on this worker.
    open_max: usize,
    /// Of all workers, of which this one is one.
    counters: Arc<[EndpointCounters]>,
    worker: usize,
}

impl Endpoint {
    pub(super) fn new(settings: &EndpointSettings, workers: usize) -> Self {
        let (host, addresses) = match &settings.address {
            EndpointAddress::Socket(address) => {
                let host = match address {
                    Address::Tcp(address) => address.ip().to_string(),
                    Address::Unix(_) => "localhost".to_owned(),
                };
                (host.into(), vec![address.clone()])
            }
            EndpointAddress::Name(host, _) => (host.clone(), Vec::new()),
            EndpointAddress::Service(name) => (domain(name).into(), Vec::new()),
            EndpointAddress::Found(found) => {
                let addresses = found.addresses.iter().copied().map(Address::Tcp);
                (found.host.clone(), addresses.collect())
            }
        };
        Self {
            name: settings.address.to_string().into(),
            host,
            settings: settings.clone(),
            addresses: RefCell::new(addresses.into()),
            pool: Rc::default(),
            health: Rc::default(),
            shared: Rc::default(),
            complained: Cell::new(None),
            open: Rc::default(),
            open_max: settings
                .connections_max
                .map_or(usize::MAX, |most| most.div_ceil(workers)),
            counters: [EndpointCounters::default()].into(),
            worker: 0,
        }
    }

    /// The same, counted there.
    pub(super) fn counted(mut self, counted: &Counted, worker: usize) -> Self {
        if let Some(counters) = counted.get(&self.name).filter(|all| worker < all.len()) {
            self.counters = counters.clone();
            self.worker = worker;
        }
        self
    }

    pub(super) fn counters(&self) -> &EndpointCounters {
        &self.counters[self.worker]
    }

    /// Tells what is so now.
    pub(super) fn tell(&self) {
        let counters = self.counters();
        counters.set_idle(self.idle());
        counters.set_ejected(self.health.is_ejected());
    }

    /// The endpoint as the file writes it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What Host says where neither the client nor the upstream's settings name one.
    pub fn authority(&self) -> &str {
        match &self.settings.address {
            EndpointAddress::Socket(Address::Unix(_)) | EndpointAddress::Service(_) => &self.host,
            EndpointAddress::Found(found) => &found.authority,
            EndpointAddress::Socket(Address::Tcp(_)) | EndpointAddress::Name(..) => &self.name,
        }
    }

    /// The name, to be kept.
    pub fn shared_name(&self) -> Arc<str> {
        self.name.clone()
    }

    /// How many idle connections there are.
    pub fn idle(&self) -> usize {
        self.pool.len() + self.shared.idle()
    }

    pub(super) fn is_backup(&self) -> bool {
        self.settings.is_backup
    }

    pub(super) fn load(&self) -> u32 {
        u32::try_from(self.open.get()).unwrap_or(u32::MAX)
    }

    pub(super) fn began(&self) {
        self.open.set(self.open.get() + 1);
        self.counters().set_open(self.open.get());
    }

    pub(super) fn ended(&self) {
        self.open.set(self.open.get() - 1);
        self.counters().set_open(self.open.get());
    }

    /// Whether it has as many as it may.
    pub(super) fn is_full(&self) -> bool {
        self.open.get() >= self.open_max
    }

    /// Whether it has more than it may, as after a reload that lowers it.
    pub(super) fn is_overfull(&self) -> bool {
        self.open.get() > self.open_max
    }

    /// Whether nothing new goes to it.
    pub(super) fn is_shut(&self) -> bool {
        !self.has_weight()
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn addresses(&self) -> Rc<[Address]> {
        self.addresses.borrow().clone()
    }

    /// This address could be reached: it is tried first from here on.
    pub(super) fn prefer(&self, place: usize) {
        if place > 0 {
            let mut addresses = self.addresses.borrow().to_vec();
            if place < addresses.len() {
                addresses.swap(0, place);
                *self.addresses.borrow_mut() = addresses.into();
            }
        }
    }

    /// Whom others are told apart from: the same name asked for, at the same place.
    pub(super) fn identity(&self) -> (Arc<str>, Arc<str>) {
        (self.name.clone(), self.host.clone())
    }

    /// Takes over what is known of the same endpoint from before: its health, what is under way, and its
    /// connections if they serve here as well.
    pub(super) fn inherit(&mut self, known: Option<&Self>, keeps_connections: bool) {
        let Some(known) = known else {
            self.health.is_new(now());
            return;
        };
        self.health = known.health.clone();
        self.open = known.open.clone();
        if keeps_connections {
            self.pool = known.pool.clone();
            self.shared = known.shared.clone();
            self.pool.retain(|idle| self.still_has(&idle.address));
            self.shared.retain(|address| self.still_has(address));
        }
        if known.settings.address == self.settings.address {
            self.addresses = known.addresses().into(); // the one that answers comes first
        }
    }

    /// Whether it gets any requests as long as it is well.
    pub(super) fn has_weight(&self) -> bool {
        self.settings.weight > 0 && !self.settings.is_drained
    }

    /// Whether it may be asked like the others: it is neither down nor ejected. One whose ejection is over is
    /// available to the first who asks.
    pub(super) fn is_available(&self, now: Instant) -> bool {
        self.health.is_available(now)
    }

    /// The part of its weight that counts, above 0 up to 1: less than all for a while after it came
    /// back.
    pub fn share(&self, settings: &health::Settings, now: Instant) -> f64 {
        self.health.share(settings, now)
    }

    /// Whether a connection to this address is still one to this endpoint.
    pub(super) fn still_has(&self, address: &Address) -> bool {
        self.addresses.borrow().contains(address)
    }

    /// Whether it is time to say again that it fails.
    pub(super) fn may_complain(&self, now: Instant) -> bool {
        let may = self
            .complained
            .get()
            .is_none_or(|last| now.saturating_duration_since(last) >= COMPLAINT_INTERVAL);
        if may {
            self.complained.set(Some(now));
        }
        may
    }
}

/// The domain whose service this is: `_http._tcp.example.org` is one of `example.org`.
pub(super) fn domain(service: &str) -> &str {
    let mut labels = service.splitn(3, '.');
    labels.nth(2).unwrap_or(service)
}
