//! Requests that are sent again: when, and what is kept for it.

use std::cell::Cell;
use std::time::Duration;

use http::{Method, StatusCode};

use super::mirror::Copied;
use crate::buffer;
use crate::http::BodyLength;
use crate::http::h1::client::Outgoing;
use crate::outcome::{Cause, End};
use crate::route::Retry;
use crate::upstream::retry::{Ended, Next, Rules};
use crate::upstream::{Attempts, Lease, Live, Upstream};

/// How far a request has come, over all its attempts.
pub(super) struct Course<'r> {
    retry: &'r Retry,
    pub(super) attempts: Attempts,
    pub(super) kept: Kept,
    /// What was taken of the body is not kept, or not all of it.
    pub(super) is_lost: Cell<bool>,
    /// For the mirror, until it is sent.
    pub(super) copied: Option<Copied>,
    /// How an endpoint ended it that another was asked after.
    pub(super) died: Option<End>,
}

impl<'r> Course<'r> {
    pub(super) fn new(retry: &'r Retry, attempts: Attempts) -> Self {
        let kept = Kept {
            bytes_max: retry.body_bytes_max,
            ..Kept::default()
        };
        Self {
            retry,
            attempts,
            kept,
            is_lost: Cell::new(false),
            copied: None,
            died: None,
        }
    }

    /// An attempt begins: what may follow it.
    pub(super) fn begin(&mut self, lease: &Lease<'_>, method: &Method) -> Resend {
        self.kept.keeps = lease.may_be_refused() || self.retry.may_repeat(method);
        // What has refused it has not died of it.
        let has_died = self.died.is_some_and(|end| end.cause != Cause::Unprocessed);
        Resend::of(self.retry, lease, method, (&self.attempts, has_died))
    }

    /// How long the next endpoint has for itself before another is asked beside it; `None`: for ever.
    pub(super) fn hedge_after(&self, upstream: &Upstream, head: &Outgoing<'_>) -> Option<Duration> {
        let may_be_twice = head.method.is_idempotent() && head.body == BodyLength::None && !head.asks_upgrade;
        self.retry.hedge_after.filter(|_| {
            // A session lies with the endpoint the client is bound to.
            may_be_twice
                && self.died.is_none()
                && !self.attempts.is_bound()
                && upstream.has_another(&self.attempts)
        })
    }

    /// Another endpoint is reached already, in place of one whose answer is not wanted.
    pub(super) fn has_gone_on(&mut self, end: End) {
        self.died = Some(end);
    }

    /// Goes on after an attempt that broke off, of which the client has seen nothing if it `is_unseen`.
    ///
    /// # Errors
    ///
    /// That end, where nothing may follow it.
    pub(super) fn go_on(
        &mut self,
        end: End,
        is_unseen: bool,
        resend: &Resend,
        lease: &Lease<'_>,
        live: &Live<'_>,
    ) -> Result<(), End> {
        let next = match is_unseen && !self.is_lost.get() {
            true => resend.after(end, lease, live),
            false => Next::None,
        };
        match next {
            Next::None => return Err(end),
            Next::Same if end.cause == Cause::Unprocessed => match lease.is_going_away() {
                true => self.attempts.overtaken(lease.endpoint(), end),
                false => self.attempts.refused(lease.endpoint(), end),
            },
            Next::Same if end.cause == Cause::KernelRefusedKeys => self.attempts.lost(lease.endpoint(), end),
            Next::Same => self.attempts.again(lease.endpoint(), end),
            Next::Other => self.attempts.elsewhere(lease.endpoint(), end),
        }
        if end.cause == Cause::Unprocessed {
            self.died.get_or_insert(end);
        } else if next == Next::Other {
            self.died = Some(end);
        }
        Ok(())
    }
}

/// Whether a request may be sent again, and where, after what becomes of it on one connection.
pub(super) struct Resend {
    rules: Rules,
    /// As [`Ended`] has it.
    is_reused: bool,
    /// What the endpoint's kernel had taken before, where that decides.
    acknowledged: Option<u64>,
    /// As [`Ended`] has it.
    was_refused: bool,
    /// As [`Ended`] has it.
    overtaken: u32,
    /// As [`Ended`] has it.
    has_died: bool,
    /// As [`Ended`] has it.
    was_lost: bool,
    /// What had been written on the connection before; `None`: it was sent already.
    written: Option<u64>,
}

impl Resend {
    fn of(
        retry: &Retry,
        lease: &Lease<'_>,
        method: &Method,
        (attempts, has_died): (&Attempts, bool),
    ) -> Self {
        let rules = rules(retry, method);
        let is_reused = lease.is_reused() && attempts.is_asked_again();
        Self {
            rules,
            is_reused,
            acknowledged: match is_reused && !rules.may_repeat {
                true => lease.acknowledged(),
                false => None,
            },
            was_refused: attempts.was_refused(),
            overtaken: attempts.times_overtaken(),
            has_died,
            was_lost: attempts.was_lost(),
            written: Some(lease.written()),
        }
    }

    /// Of a request that was sent before this was known.
    pub(super) fn sent(self) -> Self {
        Self {
            written: None,
            ..self
        }
    }

    fn after(&self, end: End, lease: &Lease<'_>, live: &Live<'_>) -> Next {
        let ended = Ended {
            end,
            is_reused: self.is_reused,
            was_idle: lease.was_idle(),
            is_untaken: self.is_untaken(end, lease),
            is_left_alone: lease.is_left_alone(),
            was_refused: self.was_refused,
            is_going_away: lease.is_going_away(),
            overtaken: self.overtaken,
            has_died: self.has_died,
            is_unsent: self.written == Some(lease.written()),
            was_lost: self.was_lost,
        };
        self.rules.after(&ended, live)
    }

    /// Whether the endpoint had closed before it took a byte of it: what comes in order, its FIN,
    /// acknowledges all that was taken before it was sent.
    ///
    /// A reset proves nothing. Linux looks at RST before the acknowledgement of the same segment
    /// (`tcp_validate_incoming`), and delays those of small requests by 40 ms: an endpoint may have read one,
    /// done what it says, and reset the connection (`SO_LINGER` 0, or bytes it had not read), and nothing of
    /// that is in `tcpi_bytes_acked`.
    fn is_untaken(&self, end: End, lease: &Lease<'_>) -> bool {
        end.cause != Cause::Reset && self.acknowledged.is_some() && lease.acknowledged() == self.acknowledged
    }
}

/// What a route says for requests with this method.
fn rules(retry: &Retry, method: &Method) -> Rules {
    Rules {
        may_repeat: retry.may_repeat(method),
        on_connect: retry.on_connect,
        on_reset: retry.on_reset,
        on_timeout: retry.on_timeout,
        is_counted: retry.attempts_max.is_some(),
    }
}

/// What an endpoint is held to while another may be asked in its place. Whether one may is looked at when it
/// matters: until then endpoints go down, fill up, and come back.
pub(super) struct Leash<'r> {
    /// `None`: nobody else would be asked.
    held: Option<Others<'r>>,
}

/// Who else there is.
struct Others<'r> {
    retry: &'r Retry,
    live: &'r Live<'r>,
    upstream: &'r Upstream,
    attempts: &'r mut Attempts,
}

impl Others<'_> {
    /// Whether one can be asked, and within the budget; if so this is a retry from here on.
    fn can_be_asked(&self) -> bool {
        self.upstream.has_another(self.attempts) && self.live.retry()
    }
}

impl<'r> Leash<'r> {
    /// Nobody else would be asked: whatever this endpoint says is the answer.
    pub(super) const LOOSE: Self = Self { held: None };

    /// For a request with this method, of which these attempts were made.
    pub(super) fn new(
        retry: &'r Retry,
        method: &Method,
        live: &'r Live<'r>,
        (upstream, attempts): (&'r Upstream, &'r mut Attempts),
    ) -> Self {
        let others = Others {
            retry,
            live,
            upstream,
            attempts,
        };
        Self {
            held: retry.may_repeat(method).then_some(others),
        }
    }

    /// How long it may take to begin its response before somebody else is looked for.
    pub(super) fn timeout(&self, timeout: Duration) -> Duration {
        match &self.held {
            Some(others) if others.retry.on_timeout => {
                others.retry.timeout.map_or(timeout, |one| one.min(timeout))
            }
            _ => timeout,
        }
    }

    /// Whether another is asked rather than to wait for this one until the upstream's time is over.
    pub(super) fn gives_up(&self) -> bool {
        self.held.as_ref().is_some_and(Others::can_be_asked)
    }

    /// Whether another is asked rather than to pass on an answer with this status.
    pub(super) fn refuses(&self, status: StatusCode) -> bool {
        let held = self.held.as_ref();
        held.is_some_and(|others| others.retry.is_unwanted(status) && others.can_be_asked())
    }

    /// Looses it; the attempts that were made, if another may be asked.
    pub(super) fn loosen(&mut self) -> Option<&'r mut Attempts> {
        self.held.take().map(|others| others.attempts)
    }
}

/// What was taken of the client's body. It can be read once only, but may have to be sent twice.
#[derive(Default)]
pub(super) struct Kept {
    /// All of it so far, unless it is lost.
    pub(super) bytes: Vec<u8>,
    /// It may have to be sent again.
    pub(super) keeps: bool,
    /// So many of them at most.
    pub(super) bytes_max: usize,
}

impl Kept {
    /// Nothing more has to be sent: its buffer goes back.
    pub(super) fn give_back(self) {
        if self.bytes.capacity() > 0 {
            buffer::give_vec(self.bytes);
        }
    }
}

/// Where pieces of the client's body are noted.
pub(super) struct Taken<'a> {
    pub(super) bytes: &'a Cell<u64>,
    /// How many of them went by splice.
    pub(super) spliced: &'a Cell<u64>,
    pub(super) kept: &'a mut Kept,
    /// As [`Course::is_lost`].
    pub(super) is_lost: &'a Cell<bool>,
    /// Until all of it is there, or too much.
    pub(super) copied: &'a mut Option<Copied>,
}

impl Taken<'_> {
    /// Nobody has seen these bytes: they cannot be sent again.
    pub(super) fn note_spliced(&mut self, count: u64) {
        self.bytes.set(self.bytes.get() + count);
        self.spliced.set(self.spliced.get() + count);
        self.is_lost.set(true);
    }

    /// The body has come whole.
    pub(super) fn ended(&mut self) {
        if let Some(copied) = self.copied.take() {
            copied.send();
        }
    }

    /// So much was passed on after 101.
    pub(super) fn note_tunnel(&self, count: u64, spliced: u64) {
        self.bytes.set(self.bytes.get() + count);
        self.spliced.set(self.spliced.get() + spliced);
    }

    pub(super) fn note(&mut self, piece: &[u8]) {
        self.bytes.set(self.bytes.get() + piece.len() as u64);
        if self.copied.as_mut().is_some_and(|copied| !copied.add(piece)) {
            *self.copied = None;
        }
        let kept = &mut *self.kept;
        if !kept.keeps || kept.bytes.len() + piece.len() > kept.bytes_max {
            self.is_lost.set(true);
        }
        if self.is_lost.get() {
            return;
        }
        if kept.bytes.capacity() == 0 {
            kept.bytes = buffer::take_vec();
        }
        kept.bytes.extend_from_slice(piece);
    }
}
