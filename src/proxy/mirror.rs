//! Requests that are sent to another upstream as well, whose answers nobody sees.
//!
//! A request goes there once all of it has come, in a task of its own: the client waits for nothing of it
//! and hears nothing of it. What cannot be had in time, or is too much, is left out and counted.

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};
use http::{Method, StatusCode};

use super::account::{Account, count_upstream};
use super::{Visit, affinity};
use crate::access_log::{ExchangeRecord, Log, Request, RequestFacts};
use crate::drain::{Drain, Step};
use crate::http::h1::client::Outgoing;
use crate::http::{BodyLength, Fields};
use crate::metrics::{Counters, Mirrored};
use crate::outcome::{Carrier, Cause, End, Phase, Side};
use crate::route::{Mirror, Route};
use crate::runtime::{self, before};
use crate::time::{Deadline, now};
use crate::upstream::health::Outcome;
use crate::upstream::{Addresses, Lease, Upstream};

/// Mirrored requests at a time, for each worker, those included whose bodies are still to come: a mirror that
/// hangs takes no more connections and bodies than these.
const MIRRORED_MAX: usize = 256;

/// Those whose bodies are still to come: clients who are slow, or stream for hours, leave room for others.
const COPIED_MAX: usize = 128;

/// The mirrored requests of one worker, whatever generation they belong to.
#[derive(Default)]
pub struct Mirrors {
    live: Cell<usize>,
    copied: Cell<usize>,
    drain: Drain,
}

impl Mirrors {
    /// Whether none is under way.
    pub fn is_empty(&self) -> bool {
        self.live.get() == 0
    }

    /// The worker goes away, a step further: they end when idle connections do, because nobody waits for them.
    pub fn drain(&self, step: Step) {
        self.drain.advance(step);
    }
}

/// One of them.
struct Place(Rc<Mirrors>);

impl Place {
    /// `is_copied`: as one whose body is to come.
    fn take(mirrors: &Rc<Mirrors>, is_copied: bool) -> Option<Self> {
        let live = mirrors.live.get();
        let has_room = !is_copied || mirrors.copied.get() < COPIED_MAX;
        (live < MIRRORED_MAX && has_room).then(|| {
            mirrors.live.set(live + 1);
            Self(mirrors.clone())
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.live.set(self.0.live.get() - 1);
    }
}

/// One whose body is to come, until it has, or is not wanted any more.
struct Coming(Rc<Mirrors>);

impl Coming {
    fn new(mirrors: &Rc<Mirrors>) -> Self {
        mirrors.copied.set(mirrors.copied.get() + 1);
        Self(mirrors.clone())
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        self.0.copied.set(self.0.copied.get() - 1);
    }
}

/// A request on its way to its upstream, copied for the mirror as it passes.
pub(super) struct Copied {
    _coming: Coming,
    body_bytes_max: usize,
    /// Why it is not sent, should it be dropped.
    left_out: Mirrored,
    /// Taken when it is sent.
    request: Option<Box<Mirroring>>,
    upstream: Rc<Upstream>,
}

impl<F> Visit<'_, F> {
    /// A copy of a request, if it is one of those that are mirrored. The fields are those for an endpoint.
    /// One without a body is on its way already.
    pub(super) fn copy(&self, route: &Route, account: &Account<'_>, target: Option<&str>) -> Option<Copied> {
        let mirror = route.mirror.as_ref()?;
        if fastrand::u8(..100) >= mirror.percent {
            return None;
        }
        let (body, mirrors) = (account.request.body(), &self.proxy.mirrors);
        let left_out = match (body, Place::take(mirrors, body != BodyLength::None)) {
            (BodyLength::Exact(length), _) if length > mirror.body_bytes_max as u64 => Mirrored::TooLong,
            (_, None) => Mirrored::TooMany,
            (body, Some(place)) => {
                let copied = Copied::new(mirrors, mirror, self.mirroring((mirror, place), account, target));
                if body != BodyLength::None {
                    return Some(copied);
                }
                copied.send();
                return None;
            }
        };
        self.proxy.upstream(mirror.upstream).mirrored(left_out);
        None
    }

    fn mirroring(
        &self,
        (mirror, place): (&Mirror, Place),
        account: &Account<'_>,
        target: Option<&str>,
    ) -> Mirroring {
        let request = &account.request;
        let upstream = self.proxy.upstream(mirror.upstream);
        let mut fields = Fields::new();
        for (name, value) in request.fields.iter() {
            // Nobody waits to be told to go on.
            if !name.eq_ignore_ascii_case("expect") && !name.eq_ignore_ascii_case("host") {
                fields.push(name, value);
            }
        }
        let host = upstream
            .settings()
            .host
            .as_deref()
            .or_else(|| request.authority());
        fields.push(
            "Host",
            host.unwrap_or_else(|| upstream.endpoints()[0].authority()),
        );
        let mut record = ExchangeRecord::start(self.facts.clone(), now());
        record.is_mirror = true;
        record.upstream = Some(upstream.settings().name.clone());
        Mirroring {
            place,
            upstream,
            log: self.proxy.log.clone(),
            counters: self.proxy.counters.clone(),
            client: self.facts.client.zip(self.facts.local),
            timeout: mirror.timeout,
            method: request.method().clone(),
            path: request.path_and_query().to_owned(),
            target: target.map(str::to_owned),
            protocol: request.version().as_str(),
            host: request.authority().map(str::to_owned),
            id: account.id.as_str().to_owned(),
            fields,
            has_body: request.body() != BodyLength::None,
            body: Vec::new(),
            record,
        }
    }
}

impl Copied {
    fn new(mirrors: &Rc<Mirrors>, mirror: &Mirror, request: Mirroring) -> Self {
        Self {
            _coming: Coming::new(mirrors),
            body_bytes_max: mirror.body_bytes_max,
            left_out: Mirrored::Incomplete,
            upstream: request.upstream.clone(),
            request: Some(Box::new(request)),
        }
    }

    /// Adds to the body; whether there may be more of it.
    pub(super) fn add(&mut self, piece: &[u8]) -> bool {
        let Some(request) = &mut self.request else {
            return false;
        };
        if request.body.len() + piece.len() > self.body_bytes_max {
            self.left_out = Mirrored::TooLong;
            return false;
        }
        request.body.extend_from_slice(piece);
        true
    }

    /// All of it is there.
    pub(super) fn send(mut self) {
        if let Some(request) = self.request.take() {
            let upstream = self.upstream.clone();
            // The panic hook has told what, and where.
            runtime::spawn(request.run(), move |_| upstream.mirrored(Mirrored::Failed));
        }
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        if self.request.is_some() {
            self.upstream.mirrored(self.left_out);
        }
    }
}

/// A request for the mirror, and what its record is made of.
struct Mirroring {
    place: Place,
    upstream: Rc<Upstream>,
    log: Rc<Log>,
    counters: Arc<Counters>,
    client: Option<Addresses>,
    /// For all of it.
    timeout: Duration,
    method: Method,
    path: String,
    /// What is asked for, where that is not the path.
    target: Option<String>,
    protocol: &'static str,
    host: Option<String>,
    id: String,
    fields: Fields,
    has_body: bool,
    body: Vec<u8>,
    record: ExchangeRecord,
}

/// What became of it.
#[derive(Default)]
struct Answered {
    endpoint: Option<Arc<str>>,
    status: Option<StatusCode>,
    bytes: u64,
    carrier: Carrier,
    attempts: u32,
    failed: Vec<(Arc<str>, End)>,
}

impl Mirroring {
    async fn run(self: Box<Self>) {
        let mut answered = Answered::default();
        let asked = {
            let ask = pin!(self.ask(&mut answered));
            match select(ask, pin!(self.place.0.drain.idle_ends())).await {
                Either::Left((asked, _)) => asked,
                Either::Right(_) => Err(End::new(Side::Atlas, Phase::Response, Cause::Cut)),
            }
        };
        self.upstream.mirrored(match asked {
            Ok(_) => Mirrored::Finished,
            Err(_) => Mirrored::Failed,
        });
        self.write_record(answered, asked.unwrap_or_else(|end| end));
    }

    async fn ask(&self, answered: &mut Answered) -> Result<End, End> {
        let late = End::new(Side::Upstream, Phase::Response, Cause::TimedOut);
        let deadline = Deadline::within(self.timeout);
        let _live = self.upstream.live()?;
        let mut attempts = self.upstream.begin(false);
        attempts.on_behalf_of(self.client);
        affinity::apply(&self.upstream, &self.fields, &self.path, &mut attempts);
        let taken = before(deadline, self.upstream.take(&mut attempts)).await;
        answered.attempts = attempts.count();
        answered.failed = attempts.take_failed();
        let ends = answered.failed.iter().map(|(_, end)| *end);
        self.counters.attempts_failed(ends);
        let mut lease = taken.unwrap_or(Err(late))?;
        answered.endpoint = Some(lease.endpoint().shared_name());
        let moved_before = lease.moved_before();
        let exchanged = before(deadline, self.exchange(&mut lease, answered)).await;
        let exchanged = exchanged.unwrap_or(Err(late));
        let moved = lease.moved_since(&moved_before);
        count_upstream(&self.counters, moved_before.tally, &moved, exchanged.err());
        answered.carrier = moved.tally.carrier;
        match (exchanged, answered.status) {
            (Ok(()), Some(status)) => {
                self.upstream
                    .note_answer(lease.endpoint(), status.as_u16(), false);
                lease.give_back();
                Ok(End::finished(Side::Upstream))
            }
            (exchanged, status) => {
                let end = exchanged.err().unwrap_or(late);
                let outcome = Outcome::of_broken(end, status.is_some(), lease.is_reused());
                self.upstream.note(lease.endpoint(), outcome);
                Err(end)
            }
        }
    }

    /// Sends the request, and reads the answer to its end.
    async fn exchange(&self, lease: &mut Lease<'_>, answered: &mut Answered) -> Result<(), End> {
        let head = Outgoing {
            method: &self.method,
            target: self.target.as_deref().unwrap_or(&self.path),
            fields: &self.fields,
            body: match self.has_body {
                true => BodyLength::Exact(self.body.len() as u64),
                false => BodyLength::None,
            },
            asks_upgrade: false,
        };
        let (mut writer, mut reader) = lease.exchange();
        writer.start(&head).await?;
        writer.write(&self.body).await?;
        writer.finish(None).await?;
        let deadline = Deadline::within(self.upstream.settings().response_timeout);
        loop {
            let head = reader.head(deadline).await?;
            if !head.status.is_informational() {
                answered.status = Some(head.status);
                break;
            }
        }
        while let Some(piece) = reader.read().await? {
            answered.bytes += piece.len() as u64;
        }
        Ok(())
    }

    fn write_record(self: Box<Self>, answered: Answered, end: End) {
        if !self.log.is_enabled() {
            return;
        }
        let mut record = self.record;
        record.status = answered.status.map(|status| status.as_u16());
        record.bytes_in = self.body.len() as u64;
        record.bytes_out = answered.bytes;
        record.upstream_carrier = answered.carrier;
        record.attempts = answered.attempts;
        record.failed = answered.failed;
        let facts = RequestFacts {
            request: Request::Parsed {
                method: self.method.as_str(),
                path: &self.path,
                protocol: self.protocol,
            },
            host: self.host.as_deref(),
            referer: None,
            user_agent: None,
            endpoint: answered.endpoint.as_ref().map(|name| name as _),
            request_id: Some(&self.id),
        };
        record.finish(end, &facts, &self.log);
    }
}
