//! What is known of an exchange while it runs. It leaves one record and one count, however it ends.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;

use super::Proxy;
use super::headers::RequestId;
use crate::access_log::{ExchangeRecord, Moved, Request, RequestFacts};
use crate::http::{RequestHead, Responder};
use crate::metrics::{Counters, Direction, Peer};
use crate::outcome::{Cause, End, Phase, Side, Tally};
use crate::upstream;

/// The status that stands in records for "the client had gone before there was an answer", as in nginx's.
const CLIENT_GONE: u16 = 499;

/// One exchange's account.
pub(super) struct Account<'p> {
    proxy: &'p Proxy,
    /// The request, as it is from here on.
    pub(super) request: RequestHead,
    pub(super) id: RequestId,
    /// The endpoint asked last.
    pub(super) endpoint: Option<Arc<str>>,
    /// Taken when it is written.
    record: Option<ExchangeRecord>,
    /// Bytes of the request's body so far.
    pub(super) bytes_in: Cell<u64>,
    /// How many of them went to the endpoint by splice.
    pub(super) spliced_in: Cell<u64>,
    /// What had been moved to the client before, by splice and by sendfile.
    moved_before: (u64, u64),
    end: Option<End>,
}

impl<'p> Account<'p> {
    pub(super) fn open(
        proxy: &'p Proxy,
        record: ExchangeRecord,
        request: RequestHead,
        id: RequestId,
    ) -> Self {
        let moved_before = moved_to_client(&record);
        Self {
            proxy,
            request,
            id,
            endpoint: None,
            record: Some(record),
            bytes_in: Cell::new(0),
            spliced_in: Cell::new(0),
            moved_before,
            end: None,
        }
    }

    /// The record, to be added to.
    pub(super) fn record(&mut self) -> Option<&mut ExchangeRecord> {
        self.record.as_mut()
    }

    /// Attempts have failed, and others may follow: which endpoint, how.
    pub(super) fn failed(&mut self, attempts: Vec<(Arc<str>, End)>) {
        let ends = attempts.iter().map(|(_, end)| *end);
        self.proxy.counters.attempts_failed(ends);
        if let Some(record) = &mut self.record {
            record.failed.extend(attempts);
        }
    }

    /// How both bodies went.
    fn moved(&self, record: &ExchangeRecord) -> Moved {
        let (spliced, sendfile) = moved_to_client(record);
        let spliced = spliced - self.moved_before.0 + self.spliced_in.get();
        let sendfile = sendfile - self.moved_before.1;
        Moved {
            spliced,
            sendfile,
            copied: (record.bytes_in + record.bytes_out).saturating_sub(spliced + sendfile),
        }
    }

    /// The exchange has ended; the record is written when the account is dropped.
    pub(super) fn close(&mut self, end: End) {
        self.end = Some(end);
    }
}

/// By splice and by sendfile, on the whole connection.
fn moved_to_client(record: &ExchangeRecord) -> (u64, u64) {
    let carriage = &record.facts().carriage;
    (carriage.spliced.get(), carriage.sendfile.get())
}

/// An account and the response it tells of. Whoever drops them, at a drain's deadline or in a
/// panic: the record knows how far the response came.
pub(super) struct Answering<'p, 'c> {
    pub(super) account: Account<'p>,
    pub(super) response: Responder<'c>,
}

impl Drop for Answering<'_, '_> {
    fn drop(&mut self) {
        if self.account.end.is_none() {
            self.account.end = self.response.gone();
        }
        let is_clients = self.account.end.is_some_and(|end| end.side == Side::Downstream);
        let status = self.response.status().map(|status| status.as_u16());
        if let Some(record) = self.account.record() {
            record.status = status.or_else(|| is_clients.then_some(CLIENT_GONE));
            record.bytes_out = self.response.body_bytes();
        }
    }
}

/// Counts what an attempt at an upstream has moved since a moment, and how it ended if not well.
pub(super) fn count_upstream(counters: &Counters, before: Tally, moved: &upstream::Moved, end: Option<End>) {
    counters.bytes_moved(Direction::FromUpstream, moved.bytes_in);
    counters.bytes_moved(Direction::ToUpstream, moved.bytes_out);
    counters.carried_since(Peer::Upstream, before, moved.tally, end);
    counters.carried(Peer::Upstream, moved.tally.carrier);
}

impl Drop for Account<'_> {
    fn drop(&mut self) {
        let Some(mut record) = self.record.take() else {
            return;
        };
        // Not closed: the connection's task was dropped at a drain's deadline, or panicked.
        let cut = match std::thread::panicking() {
            true => Cause::Panicked,
            false => Cause::Cut,
        };
        let end = self
            .end
            .unwrap_or_else(|| End::new(Side::Atlas, Phase::Response, cut));
        record.bytes_in = self.bytes_in.get();
        record.moved = self.moved(&record);
        let counted = record.status.filter(|status| *status != CLIENT_GONE);
        self.proxy.counters.exchange_ended(end, counted);
        self.proxy.counters.request_came(self.request.version() as usize);
        if !self.proxy.log.is_enabled() {
            return;
        }
        let request = &self.request;
        let facts = RequestFacts {
            request: Request::Parsed {
                method: request.method().as_str(),
                path: request.path_and_query(),
                protocol: request.version().as_str(),
            },
            host: request.authority(),
            referer: request.fields.get("referer"),
            user_agent: request.fields.get("user-agent"),
            endpoint: self.endpoint.as_ref().map(|name| name as &dyn fmt::Display),
            request_id: Some(self.id.as_str()),
        };
        record.finish(end, &facts, &self.proxy.log);
    }
}
