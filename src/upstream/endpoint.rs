//! One endpoint: its addresses, as far as they are known, and its idle connections.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::health::{self, Health};
use super::pool::Pool;
use super::shared::Shared;
use super::{EndpointAddress, EndpointSettings, Resolved};
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
    pub(super) pool: Pool,
    pub(super) health: Rc<Health>,
    pub(super) shared: Shared,
    complained: Cell<Option<Instant>>,
    /// How many exchanges, or connections of tcp mode, this worker has under way with it.
    load: Cell<u32>,
    /// The same with those of the generation before.
    open: Rc<Cell<usize>>,
    /// How many there may be on this worker.
    open_max: usize,
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
        };
        Self {
            name: settings.address.to_string().into(),
            host,
            settings: settings.clone(),
            addresses: RefCell::new(addresses.into()),
            pool: Pool::default(),
            health: Rc::default(),
            shared: Shared::default(),
            complained: Cell::new(None),
            load: Cell::new(0),
            open: Rc::default(),
            open_max: settings
                .connections_max
                .map_or(usize::MAX, |most| most.div_ceil(workers)),
        }
    }

    /// The endpoint as the file writes it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What Host says where neither the client nor the upstream's settings name one.
    pub fn authority(&self) -> &str {
        match &self.settings.address {
            EndpointAddress::Socket(Address::Unix(_)) => &self.host,
            _ => &self.name,
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
        self.load.get()
    }

    pub(super) fn began(&self) {
        self.load.set(self.load.get() + 1);
        self.open.set(self.open.get() + 1);
    }

    pub(super) fn ended(&self) {
        self.load.set(self.load.get() - 1);
        self.open.set(self.open.get() - 1);
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

    /// Takes over what an endpoint of the generation before knew: its addresses and its health.
    pub(super) fn inherit(&mut self, previous: &[Self]) {
        let is_same = |known: &&Self| known.settings.address == self.settings.address;
        match previous.iter().find(is_same) {
            Some(known) => {
                self.addresses = known.addresses().into();
                self.health = known.health.clone();
                self.open = known.open.clone();
            }
            None => self.health.is_new(now()),
        }
    }

    /// Takes over the addresses that another one of this name knew.
    pub(super) fn set_known_addresses(&self, known: &Self) {
        if known.settings.address == self.settings.address {
            self.addresses.replace(known.addresses());
        }
    }

    /// Whether it gets any requests as long as it is well.
    pub(super) fn has_weight(&self) -> bool {
        self.settings.weight > 0 && !self.settings.is_drained
    }

    /// Whether it may be asked like the others: it is neither down nor ejected. One whose ejection is over is
    /// available to the first who asks.
    pub fn is_available(&self, now: Instant) -> bool {
        self.health.is_available(now)
    }

    /// The part of its weight that counts, above 0 up to 1: less than all for a while after it came
    /// back.
    pub fn share(&self, settings: &health::Settings, now: Instant) -> f64 {
        self.health.share(settings, now)
    }

    pub(super) fn set_addresses(&self, resolved: &Resolved) {
        let EndpointAddress::Name(host, port) = &self.settings.address else {
            return;
        };
        if *host == resolved.host && *port == resolved.port && !resolved.addresses.is_empty() {
            *self.addresses.borrow_mut() = resolved.addresses.iter().copied().map(Address::Tcp).collect();
            self.pool.retain(|idle| self.still_has(idle.address.as_ref()));
            self.shared.retain(|address| self.still_has(address));
        }
    }

    /// Whether a connection to this address is still one to this endpoint.
    pub(super) fn still_has(&self, address: Option<&Address>) -> bool {
        address.is_none_or(|address| self.addresses.borrow().contains(address))
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
