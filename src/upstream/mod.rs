//! Named groups of endpoints: which one is asked next, over which connection.

mod affinity;
pub mod balance;
mod budget;
mod connect;
pub mod discovery;
mod endpoint;
pub mod health;
mod introduction;
mod lease;
mod noted;
mod pool;
mod queue;
pub mod retry;
mod settings;
mod shared;
mod slot;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use self::affinity::{HashKey, Hashing, Sticky, StickyCookie};
use self::balance::{Balancer, Candidates};
use self::budget::Budget;
pub use self::budget::Live;
use self::connect::{Connected, Failed, How};
pub use self::endpoint::Endpoint;
use self::health::{Checked, Outcome};
pub use self::introduction::{Addresses, ProxyProtocol};
use self::lease::Held;
pub use self::lease::{Attempts, Lease, Moved};
use self::queue::{Queue, Wants};
pub use self::settings::{Counted, EndpointAddress, EndpointSettings, Found, FromFile, Settings};
pub use self::slot::Slot;
use crate::http;
use crate::http::h1::client::Connection;
use crate::metrics::{Mirrored, UpstreamCounters};
use crate::offload::Offload;
use crate::outcome::{Cause, End, Phase, Refusal, Side};
use crate::time::{Deadline, now};
use crate::tls::ClientSettings;
use crate::transport::Transport;

/// How often idle connections are looked at; each look is a system call.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// An upstream as one worker uses it: choices among its endpoints, and the idle connections to each.
///
/// Its endpoints never change. Where others are found, another [`Upstream`] takes its place; exchanges that
/// are under way end with this one. What both have of an endpoint they share.
pub struct Upstream {
    settings: Settings,
    limits: http::h1::client::Settings,
    tls: Option<ClientSettings>,
    /// The same without HTTP/2, for what can be said in HTTP/1.1 only.
    tls_http1: Option<ClientSettings>,
    offload: RefCell<Arc<Offload>>,
    endpoints: Vec<Endpoint>,
    /// Chooses among those that are no backups.
    first: RefCell<Balancer>,
    /// Chooses among the backups.
    backups: RefCell<Balancer>,
    /// One of the two is to be told of loads; else no endpoint need be looked at for that.
    minds_loads: bool,
    /// How many have one of these.
    workers: usize,
    /// Some endpoint has a limit.
    is_limited: bool,
    queue: Queue,
    swept: Cell<Instant>,
    /// Exchanges of the one before it may be under way with its endpoints.
    follows: bool,
    budget: Rc<Budget>,
    /// No endpoint is ejected or on its way back: nobody need ask.
    is_calm: Cell<bool>,
    /// So few are well that all are asked.
    panics: Cell<bool>,
    counters: Arc<UpstreamCounters>,
}

impl Upstream {
    /// One without connections. `http` limits what an endpoint may answer; `workers` is how many have
    /// one of these; `offload` is what the kernel's TLS can do. From `previous`, the
    /// upstream of this name in the generation before, it takes what is known of endpoints that stay,
    /// their connections if they can serve on, and the count of what is under way.
    pub fn new(
        settings: Settings,
        http: &http::Settings,
        workers: usize,
        offload: Arc<Offload>,
        counters: Arc<UpstreamCounters>,
        previous: Option<&Self>,
    ) -> Self {
        let limits = limits(&settings, http);
        Self::with(settings, limits, workers, offload, counters, previous)
    }

    /// The same with the endpoints of these settings, if those were found for the same text.
    pub fn with_found(&self, settings: &Settings) -> Option<Self> {
        if !self.settings.is_written_like(settings) || self.settings.endpoints == settings.endpoints {
            return None;
        }
        Some(Self::with(
            settings.clone(),
            self.limits.clone(),
            self.workers,
            self.offload.borrow().clone(),
            self.counters.clone(),
            Some(self),
        ))
    }

    fn with(
        settings: Settings,
        limits: http::h1::client::Settings,
        workers: usize,
        offload: Arc<Offload>,
        counters: Arc<UpstreamCounters>,
        previous: Option<&Self>,
    ) -> Self {
        let endpoints = settings.endpoints.iter();
        let (counted, worker) = (&settings.counted, counters.worker());
        let mut endpoints: Vec<_> = endpoints
            .map(|one| Endpoint::new(one, workers).counted(counted, worker))
            .collect();
        if let Some(previous) = previous {
            let keeps_connections = previous.settings.connects_like(&settings) && previous.limits == limits;
            let all = previous.endpoints.iter().rev(); // of two that are the same the first
            let known: HashMap<_, _> = all.map(|one| (one.identity(), one)).collect();
            for endpoint in &mut endpoints {
                endpoint.inherit(known.get(&endpoint.identity()).copied(), keeps_connections);
            }
        }
        let first = balancer(&settings, workers, false);
        let backups = balancer(&settings, workers, true);
        let upstream = Self {
            limits,
            tls: settings.tls.as_ref().map(|tls| tls.for_worker()),
            tls_http1: match settings.http2 {
                true => settings.tls.as_ref().map(|tls| tls.offering(&["http/1.1"])),
                false => None,
            },
            offload: RefCell::new(offload),
            endpoints,
            minds_loads: first.minds_loads() || backups.minds_loads(),
            first: RefCell::new(first),
            backups: RefCell::new(backups),
            workers,
            is_limited: settings.endpoints.iter().any(|one| one.connections_max.is_some()),
            queue: Queue::default(),
            swept: Cell::new(previous.map_or_else(now, |previous| previous.swept.get())),
            follows: previous.is_some(),
            budget: previous.map_or_else(Rc::default, |previous| previous.budget.clone()),
            is_calm: Cell::new(previous.is_none()),
            panics: Cell::new(previous.is_some_and(|previous| previous.panics.get())),
            counters,
            settings,
        };
        upstream.look_at_loads();
        upstream.look_at_health(now());
        upstream
    }

    /// Exchanges of the upstream before end without telling this one.
    fn look_at_loads(&self) {
        if self.follows {
            (0..self.endpoints.len()).for_each(|index| self.load_changed(index));
        }
    }

    /// What the kernel's TLS can do, found out anew: for connections from now on.
    pub fn set_offload(&self, offload: Arc<Offload>) {
        self.offload.replace(offload);
    }

    /// What it was made from.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Whether it may go on, connections and all, for a next generation that has these settings.
    pub fn fits(&self, settings: &Settings, http: &http::Settings) -> bool {
        self.settings.is_same(settings) && self.limits == limits(settings, http)
    }

    /// Its endpoints.
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// Takes over what checks found of an endpoint.
    pub fn set_checked(&self, checked: &Checked) {
        if *self.settings.name == *checked.upstream {
            self.endpoints
                .iter()
                .filter(|endpoint| endpoint.name() == &*checked.endpoint)
                .for_each(|endpoint| self.set_down(endpoint, !checked.is_up));
        }
    }

    /// Takes over all that checks have found: those that are `down`, and all others are up.
    pub fn set_all_checked(&self, down: &[Checked]) {
        let mut down: Vec<_> = down
            .iter()
            .filter(|one| *one.upstream == *self.settings.name)
            .collect();
        down.sort_unstable_by(|one, other| one.endpoint.cmp(&other.endpoint));
        for endpoint in &self.endpoints {
            let found = down.binary_search_by(|one| (*one.endpoint).cmp(endpoint.name()));
            self.set_down(endpoint, found.is_ok());
        }
    }

    /// Closes the connections that have been idle for too long, and those their endpoint has
    /// closed. To be called now and then; looks once a second at most.
    pub fn sweep(&self, now: Instant) {
        self.serve_queue();
        if now.saturating_duration_since(self.swept.get()) < SWEEP_INTERVAL {
            return;
        }
        self.swept.set(now);
        for endpoint in &self.endpoints {
            endpoint.pool.sweep(now, self.settings.pool_times());
            self.sweep_shared(endpoint, now);
            endpoint.tell();
        }
        self.look_at_loads();
        self.look_at_inherited_health();
        self.look_at_health(now);
    }

    /// Serves those who still wait for a place at one of its endpoints, once another has taken its place.
    /// To be called now and then.
    pub fn sweep_replaced(&self) {
        self.serve_queue();
    }

    /// A request, or a connection in tcp mode, is under way until this is dropped.
    ///
    /// # Errors
    ///
    /// `RequestsFull`, where there are as many as may.
    pub fn live(&self) -> Result<Live<'_>, End> {
        let most = self.settings.requests_max;
        let most = most.map_or(usize::MAX, |most| most.div_ceil(self.workers));
        let live = Live::new(&self.budget, most, self.settings.retry_budget);
        live.ok_or_else(|| self.refused(Cause::RequestsFull))
    }

    /// Too much is under way for one more.
    fn refused(&self, cause: Cause) -> End {
        self.counters.refused(cause);
        End::new(Side::Atlas, Phase::Connect, cause)
    }

    /// Whether another endpoint would be asked at this moment that is well and has a place: one that is worth
    /// an answer that is there, or the wait for one. One that is ejected is asked where there is nothing to lose.
    pub fn has_another(&self, attempts: &Attempts) -> bool {
        let mut tried = attempts.tried.clone();
        tried.extend(attempts.asked);
        let known = self.known(&tried, self.wanted(now()));
        let may_be_asked = |backup| {
            self.endpoints.iter().enumerate().any(|(index, endpoint)| {
                endpoint.is_backup() == backup && endpoint.has_weight() && known.readiness(index) > 0.0
            })
        };
        tried.len() < attempts.endpoints_max
            && (may_be_asked(false) || (!self.has_full(&tried, false) && may_be_asked(true)))
    }

    /// Counts a request that was mirrored here, or was to be.
    pub fn mirrored(&self, result: Mirrored) {
        self.counters.mirrored(result);
    }

    /// Counts that a request is tried again, after this.
    pub fn retried(&self, cause: Cause) {
        self.counters.retried(cause);
    }

    /// Begins to look for an endpoint. What is not
    /// `repeatable` could not be sent again on another connection, so that idle ones are looked at
    /// once more before one is leased.
    pub fn begin(&self, repeatable: bool) -> Attempts {
        Attempts::new(repeatable)
    }

    /// Leases a connection: an idle one, or a new one to the first endpoint that can be reached; or a
    /// stream of one.
    ///
    /// # Errors
    ///
    /// `Upstream Connect …` of the last endpoint tried, when all were; `AllDown` when none was, because
    /// checks found them all down.
    pub async fn take(&self, attempts: &mut Attempts) -> Result<Lease<'_>, End> {
        let mut last = End::new(Side::Upstream, Phase::Connect, Cause::AllDown);
        while let Some(slot) = self.next(attempts).await? {
            let endpoint = slot.endpoint();
            if self.settings.http2 && !attempts.needs_http1 {
                // Boxed: most upstreams do without.
                match Box::pin(self.take_shared(endpoint, attempts)).await {
                    Ok(Some(lease)) => return Ok(lease.in_slot(slot, attempts)),
                    Ok(None) => {} // it speaks HTTP/1.1
                    Err(end) => {
                        last = end;
                        if attempts.failed(endpoint, end) {
                            continue;
                        }
                        break;
                    }
                }
            }
            if !attempts.fresh
                && self.settings.proxy_protocol.is_none()
                && let Some(idle) = endpoint
                    .pool
                    .take(now(), self.settings.pool_times(), attempts.repeatable)
            {
                attempts.count += 1;
                self.counters.connection_reused();
                // Should it fail, the same endpoint is connected to.
                attempts.fresh = true;
                let held = Held::Http1(idle.connection);
                let lease = Lease::new(self, endpoint, held, idle.address, idle.opened, true);
                return Ok(lease.in_slot(slot, attempts));
            }
            attempts.fresh = false;
            attempts.count += 1;
            // Boxed: most requests find an idle connection.
            match Box::pin(self.open(endpoint, attempts)).await {
                Ok(lease) => return Ok(lease.in_slot(slot, attempts)),
                Err(end) => last = end,
            }
            if !attempts.failed(endpoint, last) {
                break;
            }
        }
        Err(last)
    }

    /// Connects to the first endpoint that can be reached, for bytes that are not HTTP.
    ///
    /// # Errors
    ///
    /// As [`Self::take`].
    pub async fn connect(&self, attempts: &mut Attempts) -> Result<(Transport, Slot<'_>), End> {
        let mut last = End::new(Side::Upstream, Phase::Connect, Cause::AllDown);
        while let Some(slot) = self.next(attempts).await? {
            attempts.count += 1;
            let deadline = Deadline::within(self.settings.connect_timeout);
            match self
                .connect_to(slot.endpoint(), self.tls.as_ref(), attempts, deadline)
                .await
            {
                Ok(connected) => {
                    slot.endpoint().counters().leased(false);
                    return Ok((connected.transport, slot));
                }
                Err(end) => last = end,
            }
        }
        Err(last)
    }

    /// A place at the endpoint to ask next; each once. Waits for it if it has to.
    async fn next(&self, attempts: &mut Attempts) -> Result<Option<Slot<'_>>, End> {
        // Those who wait were here before.
        if self.is_limited {
            self.serve_queue();
        }
        let mut only = attempts.asked.filter(|_| attempts.fresh);
        if !attempts.fresh {
            attempts.tried.extend(attempts.asked);
            if attempts.tried.len() >= attempts.endpoints_max {
                return Ok(None);
            }
            let bound = attempts.bound.filter(|_| attempts.tried.is_empty());
            only = bound.filter(|index| self.is_well(*index));
        }
        let is_free = |index: &usize| !self.endpoints[*index].is_full();
        attempts.asked = match only {
            Some(index) => Some(index).filter(is_free),
            None => self.choose(&attempts.tried, attempts.key),
        };
        if let Some(index) = attempts.asked {
            return Ok(Some(Slot::take(self, index)));
        }
        let wants = Wants {
            only,
            backup: !self.has_full(&attempts.tried, false),
            tried: Vec::new(),
            key: attempts.key,
        };
        if !self.is_limited || (only.is_none() && wants.backup && !self.has_full(&attempts.tried, true)) {
            return Ok(None);
        }
        let tried = attempts.tried.clone();
        // Boxed: few have to wait.
        let slot = Box::pin(self.wait(Wants { tried, ..wants }, attempts)).await?;
        attempts.asked = Some(slot.index());
        Ok(Some(slot))
    }

    /// Whether somebody may have to wait for a place at an endpoint.
    pub fn is_limited(&self) -> bool {
        self.is_limited
    }

    /// Whether an endpoint would be asked if it had a place.
    fn has_full(&self, tried: &[usize], backup: bool) -> bool {
        self.is_limited
            && self.endpoints.iter().enumerate().any(|(index, endpoint)| {
                endpoint.is_full()
                    && endpoint.is_backup() == backup
                    && endpoint.has_weight()
                    && !tried.contains(&index)
                    && self.is_available(endpoint)
            })
    }

    /// Whether an endpoint is well enough for those who wait.
    fn may_be_handed_over(&self, index: usize) -> bool {
        let endpoint = &self.endpoints[index];
        !endpoint.is_overfull() && self.is_available(endpoint)
    }

    fn is_available(&self, endpoint: &Endpoint) -> bool {
        self.is_calm() || self.panics.get() || endpoint.is_available(now())
    }

    /// One that was not tried yet and has a place: a backup if no other can be asked, and one that live
    /// exchanges found failing if nobody else is left.
    fn choose(&self, tried: &[usize], key: Option<u64>) -> Option<usize> {
        if self.is_calm() {
            return self.choose_from(&self.known(tried, Wanted::Any), key);
        }
        let now = now();
        if let Some(index) = self.choose_from(&self.known(tried, self.wanted(now)), key) {
            self.endpoints[index].health.begin(&self.settings.health, now);
            return Some(index);
        }
        if self.has_full(tried, false) || self.has_full(tried, true) {
            return None; // better to wait for one that is well
        }
        let last_resort = self.choose_from(&self.known(tried, Wanted::NotDown), key);
        last_resort.inspect(|index| self.endpoints[*index].health.resort())
    }

    fn known<'k>(&'k self, tried: &'k [usize], wanted: Wanted) -> Known<'k> {
        Known {
            upstream: self,
            tried,
            wanted,
        }
    }

    /// How well an endpoint has to be, as long as there are such.
    fn wanted(&self, now: Instant) -> Wanted {
        match self.is_calm() || self.panics.get() {
            true => Wanted::Any,
            false => Wanted::Well(now),
        }
    }

    fn choose_from(&self, known: &Known<'_>, key: Option<u64>) -> Option<usize> {
        let chosen = self.first.borrow_mut().pick(known, key);
        // Backups stand in for others that are not there, not for those that are busy.
        chosen.or_else(|| match self.has_full(known.tried, false) {
            true => None,
            false => self.backups.borrow_mut().pick(known, key),
        })
    }

    /// Whether a client that is bound to it may come back.
    fn is_well(&self, index: usize) -> bool {
        self.is_calm() || self.panics.get() || {
            let (now, health) = (now(), &self.endpoints[index].health);
            let is_well = self.endpoints[index].is_available(now);
            if is_well {
                health.begin(&self.settings.health, now);
            }
            is_well
        }
    }

    fn load_changed(&self, index: usize) {
        if !self.minds_loads {
            return;
        }
        let balancer = match self.endpoints[index].is_backup() {
            false => &self.first,
            true => &self.backups,
        };
        let wanted = match self.is_calm() {
            true => Wanted::Any, // looked at for each exchange: without the clock
            false => self.wanted(now()),
        };
        balancer
            .borrow_mut()
            .load_changed(index, &self.known(&[], wanted));
    }

    /// Connects, for an exchange in the version of HTTP that is to be spoken.
    async fn open<'u>(&'u self, endpoint: &'u Endpoint, attempts: &mut Attempts) -> Result<Lease<'u>, End> {
        let deadline = Deadline::within(self.settings.connect_timeout);
        let tls = match attempts.needs_http1 {
            true => self.tls_http1.as_ref().or(self.tls.as_ref()),
            false => self.tls.as_ref(),
        };
        let connected = self.connect_to(endpoint, tls, attempts, deadline).await?;
        let is_http2 = match &self.tls {
            Some(_) => connected.has_chosen_http2,
            None => self.settings.http2 && !attempts.needs_http1,
        };
        if is_http2 {
            return self.share(endpoint, connected, attempts, deadline).await;
        }
        endpoint
            .shared
            .note_http1(self.settings.http2 && !attempts.needs_http1);
        let connection = Box::new(Connection::new(connected.transport, self.limits.clone()));
        let held = Held::Http1(connection);
        Ok(Lease::new(self, endpoint, held, connected.address, now(), false))
    }

    /// Connects, and once more where the kernel refused the connection's keys.
    async fn connect_to(
        &self,
        endpoint: &Endpoint,
        tls: Option<&ClientSettings>,
        attempts: &mut Attempts,
        deadline: Deadline,
    ) -> Result<Connected, End> {
        let started = now();
        let offload = match attempts.was_lost() {
            true => Offload::absent(Refusal::Breaker).into(),
            false => self.offload.borrow().clone(),
        };
        let introduction = self.settings.proxy_protocol;
        let introduction = introduction.map(|version| version.header(attempts.client));
        let how = How {
            introduction: introduction.as_deref().unwrap_or_default(),
            tls,
            offload: &offload,
        };
        let mut connected = connect::connect(endpoint, how, deadline).await;
        if let Err(failed) = &connected
            && failed.end.cause == Cause::KernelRefusedKeys
        {
            // Nothing was asked yet, the endpoint is well, and this process can make the records.
            attempts.reconnects(endpoint, self.complain(endpoint, failed));
            let offload = Offload::absent(Refusal::Breaker).into();
            let how = How {
                offload: &offload,
                ..how
            };
            connected = connect::connect(endpoint, how, deadline).await;
        }
        match connected {
            Ok(connected) => {
                self.counters.connected(now().saturating_duration_since(started));
                Ok(connected)
            }
            Err(failed) => Err(self.complain(endpoint, &failed)),
        }
    }

    /// Counts and tells that an endpoint cannot be spoken with.
    fn complain(&self, endpoint: &Endpoint, failed: &Failed) -> End {
        self.counters.connect_failed(failed.end.cause);
        if failed.end.side == Side::Upstream {
            self.note(endpoint, Outcome::Failed(failed.end.cause));
        }
        if endpoint.may_complain(now()) {
            tracing::warn!(
                upstream = &*self.settings.name,
                endpoint = endpoint.name(),
                "cannot connect: {failed}"
            );
        }
        failed.end
    }
}

/// What is known of the endpoints while one is chosen.
#[derive(Clone, Copy)]
struct Known<'u> {
    upstream: &'u Upstream,
    /// Those that this exchange has asked.
    tried: &'u [usize],
    wanted: Wanted,
}

/// How well an endpoint has to be.
#[derive(Clone, Copy)]
enum Wanted {
    Any,
    /// Checks have not found it down.
    NotDown,
    /// Nothing speaks against it at this moment, or it is on its way back.
    Well(Instant),
}

impl Candidates for Known<'_> {
    fn readiness(&self, index: usize) -> f64 {
        let endpoint = &self.upstream.endpoints[index];
        match self.wanted {
            _ if endpoint.is_full() || self.tried.contains(&index) => 0.0,
            Wanted::NotDown if endpoint.health.is_down() => 0.0,
            Wanted::Well(now) if !endpoint.is_available(now) => 0.0,
            Wanted::Well(now) => endpoint.share(&self.upstream.settings.health, now),
            Wanted::Any | Wanted::NotDown => 1.0,
        }
    }

    fn load(&self, index: usize) -> u32 {
        self.upstream.endpoints[index].load()
    }
}

/// What its connections are made with.
fn limits(settings: &Settings, http: &http::Settings) -> http::h1::client::Settings {
    http::h1::client::Settings {
        idle_timeout: settings.idle_timeout,
        head_bytes_max: http.head_bytes_max,
        fields_max: http.fields_max,
    }
}

/// Chooses among the backups, or among the others.
fn balancer(settings: &Settings, workers: usize, backups: bool) -> Balancer {
    let endpoints = settings.endpoints.iter();
    let weights = endpoints.map(|endpoint| endpoint.weight_among(backups)).collect();
    let random = fastrand::Rng::new();
    let Some(hashing) = &settings.hash else {
        let balancer = Balancer::new(settings.method(workers), weights, random);
        return match workers {
            0 | 1 => balancer,
            _ => balancer.begin_anywhere(),
        };
    };
    let load_max = hashing.load_max.map(|percent| f64::from(percent) / 100.0);
    Balancer::hashing(
        hashing.rings[usize::from(backups)].clone(),
        load_max,
        weights,
        random,
    )
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
