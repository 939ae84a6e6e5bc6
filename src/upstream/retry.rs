//! Whether a request is sent again after what became of it, and where. Free of connections and of the clock, so
//! that the simulation decides as the proxy does.

use super::Live;
use crate::outcome::{Cause, End, Phase, Side};

/// What a route says of it, for one request.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// It may have been acted on, and sent again all the same.
    pub may_repeat: bool,
    /// To another endpoint if one cannot be connected to.
    pub on_connect: bool,
    /// If one ends the connection without a byte of an answer.
    pub on_reset: bool,
    /// If one does not begin to answer in time.
    pub on_timeout: bool,
    /// How many endpoints may be asked is said.
    pub is_counted: bool,
}

/// An attempt that has ended without an answer, and those before it.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// How.
    pub end: End,
    /// The connection had served before, and the same endpoint was not yet asked over two such.
    pub is_reused: bool,
    /// Nothing had come on the connection since it was idle.
    pub was_idle: bool,
    /// It is proved that the endpoint took nothing of it.
    pub is_untaken: bool,
    /// Others are sent elsewhere now.
    pub is_left_alone: bool,
    /// An endpoint had not looked at it before.
    pub was_refused: bool,
    /// An endpoint had died of it, or refused it, before.
    pub has_died: bool,
}

/// Where a request is sent next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nowhere: this was its end.
    None,
    /// To the same endpoint, over a connection made anew.
    Same,
    /// To another one.
    Other,
}

impl Rules {
    /// Where it is sent next; within the budget, where that is for work that an endpoint may have done already.
    pub fn after(&self, ended: &Ended, live: &Live<'_>) -> Next {
        let end = ended.end;
        match end.cause {
            // RFC 9113 §8.7: "Requests that have not been processed have not failed; clients MAY automatically
            // retry them, even those with non-idempotent methods." At the same endpoint, once: a connection that
            // goes away tells nothing of the next one. An endpoint that refuses again has too much to do, and so
            // may the others.
            Cause::Unprocessed if !ended.was_refused => Next::Same,
            Cause::Unprocessed if self.on_connect && live.retry() => Next::Other,
            Cause::Unprocessed => Next::None,
            _ if is_gone(end) && ended.is_reused => {
                let may_follow = self.may_repeat || ended.is_untaken;
                // What was idle was closed for that, with all that was sent on it at once, and nobody has worked
                // for nothing. One that was heard from, and breaks off with all it carries, tells of an endpoint
                // in trouble.
                match may_follow && (ended.was_idle || !self.is_counted || live.retry()) {
                    true => Next::Same,
                    false => Next::None,
                }
            }
            // A second endpoint is asked, no third unless the route says so: what kills one must not
            // kill all.
            _ if is_gone(end) => {
                let is_first = !ended.has_died && !self.is_counted;
                // From one that is left alone from now on all are sent elsewhere, and so is this.
                let has_more = || self.is_counted && (ended.is_left_alone || live.retry());
                match self.on_reset && self.may_repeat && (is_first || has_more()) {
                    true => Next::Other,
                    false => Next::None,
                }
            }
            _ if is_late(end) && self.on_timeout && self.may_repeat && live.retry() => Next::Other,
            _ => Next::None,
        }
    }
}

/// Whether the endpoint has closed, in order or not.
pub fn is_gone(end: End) -> bool {
    end.side == Side::Upstream && matches!(end.cause, Cause::Closed | Cause::Reset | Cause::Truncated)
}

/// The endpoint has not begun to answer in time.
pub fn is_late(end: End) -> bool {
    end.side == Side::Upstream && end.phase == Phase::Response && end.cause == Cause::TimedOut
}
