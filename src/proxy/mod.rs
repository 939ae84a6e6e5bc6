//! What Atlas does with a request or a connection: the policy.

mod about;
mod account;
mod affinity;
mod forward;
mod headers;
mod hedge;
mod http;
mod mirror;
mod retry;
mod tcp;
pub mod template;
mod tunnel;
mod upgrade;

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Instant;

use self::headers::Client;
pub use self::http::path_below;
pub use self::mirror::Mirrors;
use crate::access_log::{ConnectionFacts, Log};
use crate::files;
use crate::generation::Generation;
use crate::metrics::Counters;
use crate::outcome::Carrier;
use crate::upstream::health::Checked;
use crate::upstream::{self, Upstream};

/// A generation's routes, upstreams and roots, as one worker answers with them.
pub struct Proxy {
    generation: Arc<Generation>,
    upstreams: Vec<RefCell<Rc<Upstream>>>,
    /// Those that others have taken the place of, while exchanges are under way with them.
    replaced: RefCell<Vec<Weak<Upstream>>>,
    roots: Vec<Rc<files::Root>>,
    log: Rc<Log>,
    counters: Arc<Counters>,
    mirrors: Rc<Mirrors>,
}

impl Proxy {
    /// For a generation, on one of so many workers, which has this log and these counters.
    ///
    /// From `previous`, the proxy of the generation before, it takes over what did not change:
    /// upstreams with their idle connections, roots with their open folders, found addresses.
    pub fn new(
        generation: Arc<Generation>,
        workers: usize,
        log: Rc<Log>,
        counters: Arc<Counters>,
        previous: Option<&Self>,
    ) -> Self {
        let upstreams = generation.upstreams.iter().map(|settings| {
            let before = previous.and_then(|previous| previous.upstream_named(&settings.name));
            match before {
                Some(before) if before.fits(settings, &generation.http) => {
                    before.set_offload(generation.offload.clone());
                    before
                }
                _ => Rc::new(Upstream::new(
                    settings.clone(),
                    &generation.http,
                    workers,
                    generation.offload.clone(),
                    counters.upstream(&settings.name),
                    before.as_deref(),
                )),
            }
        });
        let roots = generation.roots.iter().map(|settings| {
            let mut before = previous.into_iter().flat_map(|previous| &previous.roots);
            match before.find(|root| root.settings() == settings) {
                Some(root) => root.clone(),
                None => Rc::new(files::Root::new(settings.clone())),
            }
        });
        Self {
            upstreams: upstreams.map(RefCell::new).collect(),
            replaced: RefCell::default(),
            roots: roots.collect(),
            mirrors: previous.map_or_else(Rc::default, |previous| previous.mirrors.clone()),
            generation,
            log,
            counters,
        }
    }

    /// The generation it answers for.
    pub fn generation(&self) -> &Arc<Generation> {
        &self.generation
    }

    /// The worker's mirrored requests, those of generations before included.
    pub fn mirrors(&self) -> &Mirrors {
        &self.mirrors
    }

    /// An upstream by its place in the generation, with the endpoints it has now. Who asks keeps it to the
    /// end of the exchange.
    pub fn upstream(&self, index: usize) -> Rc<Upstream> {
        self.upstreams[index].borrow().clone()
    }

    fn upstreams(&self) -> impl Iterator<Item = Rc<Upstream>> {
        self.upstreams.iter().map(|upstream| upstream.borrow().clone())
    }

    /// Gives an upstream other endpoints, if they were found for what this generation says of it.
    pub fn set_found(&self, settings: &upstream::Settings) {
        for place in &self.upstreams {
            let before = place.borrow().clone();
            if let Some(after) = before.with_found(settings) {
                place.replace(Rc::new(after));
                let mut replaced = self.replaced.borrow_mut();
                replaced.retain(|known| known.strong_count() > 0);
                replaced.push(Rc::downgrade(&before));
            }
        }
    }

    /// Takes over what checks found of an endpoint.
    pub fn set_checked(&self, checked: &Checked) {
        for upstream in self.upstreams() {
            upstream.set_checked(checked);
        }
    }

    /// Takes over all that checks have found.
    pub fn set_all_checked(&self, down: &[Checked]) {
        for upstream in self.upstreams() {
            upstream.set_all_checked(down);
        }
    }

    /// Closes connections to endpoints that have been idle for too long. To be called once a second
    /// or more often.
    pub fn sweep(&self, now: Instant) {
        for upstream in self.upstreams() {
            upstream.sweep(now);
        }
        for upstream in self.replaced.borrow().iter().filter_map(Weak::upgrade) {
            upstream.sweep_replaced();
        }
    }

    /// What answers the exchanges of one downstream connection.
    ///
    /// `is_misdirected` tells whether a host needs another certificate than the one this
    /// connection was made with; it is asked where the client named one host to TLS and another in
    /// a request.
    pub fn visit<F: Fn(&str) -> bool>(&self, facts: Rc<ConnectionFacts>, is_misdirected: F) -> Visit<'_, F> {
        let is_secure = facts.carriage.carrier.get() != Carrier::None;
        let trusted = &self.generation.trusted_proxies;
        Visit {
            proxy: self,
            client: Client::new(facts.client, facts.local, is_secure, trusted),
            facts,
            is_misdirected,
        }
    }

    fn upstream_named(&self, name: &str) -> Option<Rc<Upstream>> {
        self.upstreams()
            .find(|upstream| &*upstream.settings().name == name)
    }
}

/// The proxy as one downstream connection sees it.
pub struct Visit<'p, F> {
    proxy: &'p Proxy,
    facts: Rc<ConnectionFacts>,
    client: Client,
    is_misdirected: F,
}

#[cfg(test)]
mod tests;
