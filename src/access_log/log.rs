//! A worker's log: records are written into one bounded buffer, full buffers go to the writer.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::format::{self, Clock};
use super::record::{ConnectionFacts, ConnectionRecord, ExchangeRecord, RequestFacts};
use super::writer::{Batch, Sender};
use super::{Format, Settings};
use crate::metrics::Counters;
use crate::outcome::End;
use crate::time::now;

/// How many bytes are gathered before they are handed over without waiting for [`Log::flush`].
pub const BATCH_BYTES: usize = 64 * 1024;

/// At most so often it is said that records are being dropped.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// Where a worker's records go. One per worker; never waits.
#[derive(Debug)]
pub struct Log {
    enabled: Cell<bool>,
    format: Cell<Format>,
    batch: RefCell<Batch>,
    /// How long the last batch became: the next one's memory is asked for at once.
    expected: Cell<usize>,
    clock: RefCell<Clock>,
    sender: Sender,
    counters: Arc<Counters>,
    dropped: Dropped,
}

/// Records thrown away and not yet spoken of.
#[derive(Debug, Default)]
struct Dropped {
    count: Cell<u64>,
    said: Cell<Option<Instant>>,
}

impl Log {
    /// An empty log that hands over to `sender`.
    pub fn new(settings: &Settings, sender: Sender, counters: Arc<Counters>) -> Self {
        Self {
            enabled: Cell::new(settings.enabled),
            format: Cell::new(settings.format),
            batch: RefCell::default(),
            expected: Cell::new(4096),
            clock: RefCell::new(Clock::new()),
            sender,
            counters,
            dropped: Dropped::default(),
        }
    }

    /// Takes what a new configuration says of the format; the path is the writer's concern.
    pub fn set(&self, settings: &Settings) {
        self.flush();
        self.enabled.set(settings.enabled);
        self.format.set(settings.format);
    }

    /// Whether records are written at all.
    pub fn is_enabled(&self) -> bool {
        self.enabled.get()
    }

    /// Hands over what was gathered. The worker calls it every 200 ms or so, and before it ends.
    pub fn flush(&self) {
        let mut batch = self.batch.borrow_mut();
        if batch.records > 0 {
            self.hand_over(&mut batch);
        }
        self.say_dropped(now());
    }

    pub(super) fn connection(&self, record: &ConnectionRecord, facts: &ConnectionFacts, end: End) {
        if self.enabled.get() && self.format.get() == Format::Json {
            self.append(|into, clock| format::json_connection(into, clock, record, facts, end));
        }
    }

    pub(super) fn exchange(
        &self,
        record: &ExchangeRecord,
        facts: &ConnectionFacts,
        request: &RequestFacts<'_>,
        end: End,
    ) {
        // The combined format tells of clients only.
        let is_told = !record.is_mirror || self.format.get() == Format::Json;
        if !self.enabled.get() || !is_told {
            return;
        }
        self.append(|into, clock| match self.format.get() {
            Format::Json => format::json_exchange(into, clock, record, facts, request, end),
            Format::Combined => format::combined(into, clock, record, facts, request),
        });
    }

    fn append(&self, write: impl FnOnce(&mut Vec<u8>, &mut Clock)) {
        let mut batch = self.batch.borrow_mut();
        if batch.bytes.len() >= BATCH_BYTES && !self.hand_over(&mut batch) {
            self.counters.records_dropped(1);
            self.dropped.count.set(self.dropped.count.get() + 1);
            return;
        }
        if batch.bytes.capacity() == 0 {
            batch.bytes.reserve(self.expected.get());
        }
        write(&mut batch.bytes, &mut self.clock.borrow_mut());
        batch.records += 1;
        if batch.bytes.len() >= BATCH_BYTES {
            self.hand_over(&mut batch);
        }
    }

    /// Whether the writer took it; if not, it stays and is offered again.
    fn hand_over(&self, batch: &mut Batch) -> bool {
        let expected = batch.bytes.len().next_power_of_two();
        self.expected.set(expected.clamp(4096, 2 * BATCH_BYTES));
        match self.sender.offer(std::mem::take(batch)) {
            Ok(()) => true,
            Err(back) => {
                *batch = back;
                false
            }
        }
    }

    fn say_dropped(&self, now: Instant) {
        let due = |said: Instant| now.saturating_duration_since(said) >= SAY_EVERY;
        if self.dropped.count.get() > 0 && self.dropped.said.get().is_none_or(due) {
            self.dropped.said.set(Some(now));
            let dropped = self.dropped.count.take();
            tracing::warn!(
                dropped,
                "access log records were dropped: what they are written to does not keep up"
            );
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.flush();
        // What the writer does not take now it will never get.
        self.counters.records_dropped(self.batch.borrow().records);
    }
}
