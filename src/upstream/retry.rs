//! Whether a request is sent again after what became of it, and where. Free of connections and of the clock, so
//! that the simulation decides as the proxy does.

use super::Live;
use crate::outcome::{Cause, End, Phase, Side};

/// How many connections may go away before a request is let go.
const OVERTAKEN_MAX: u32 = 16;

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
    /// The endpoint takes no more on this connection.
    pub is_going_away: bool,
    /// How many connections had gone away before it.
    pub overtaken: u32,
    /// An endpoint had died of it before.
    pub has_died: bool,
    /// Nothing of it was written on the connection.
    pub is_unsent: bool,
    /// The kernel had refused the keys of a connection it was to go over before.
    pub was_lost: bool,
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
            // retry them, even those with non-idempotent methods." A connection that goes away tells nothing of the
            // next one, and endpoints let each have so many requests only; who waits behind others may find
            // several full. An endpoint that refuses twice has too much to do, and so may the others.
            Cause::Unprocessed if ended.is_going_away && ended.overtaken < OVERTAKEN_MAX => Next::Same,
            Cause::Unprocessed if !ended.is_going_away && !ended.was_refused => Next::Same,
            Cause::Unprocessed if self.on_connect && live.retry() => Next::Other,
            Cause::Unprocessed => Next::None,
            // It is the connection that is lost; the endpoint knows nothing of it.
            Cause::KernelRefusedKeys if ended.is_unsent && !ended.was_lost => Next::Same,
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

#[cfg(test)]
pub(super) mod tests {
    use super::super::budget::Budget;
    use super::*;

    /// A route that says nothing, and a GET.
    const GET: Rules = Rules {
        may_repeat: true,
        on_connect: true,
        on_reset: true,
        on_timeout: false,
        is_counted: false,
    };
    const POST: Rules = Rules {
        may_repeat: false,
        ..GET
    };
    /// A route with `attempts` and `timeout`.
    pub(in crate::upstream) const COUNTED: Rules = Rules {
        on_timeout: true,
        is_counted: true,
        ..GET
    };
    const NEVER: Rules = Rules {
        on_connect: false,
        on_reset: false,
        ..GET
    };

    /// A first attempt on a connection of its own.
    pub(in crate::upstream) fn ended(cause: Cause) -> Ended {
        Ended {
            end: End::new(Side::Upstream, Phase::Response, cause),
            is_reused: false,
            was_idle: false,
            is_untaken: false,
            is_left_alone: false,
            was_refused: false,
            is_going_away: false,
            overtaken: 0,
            has_died: false,
            is_unsent: false,
            was_lost: false,
        }
    }

    fn after(rules: &Rules, ended: &Ended, percent: u8) -> Next {
        let budget = Budget::default();
        let live = Live::new(&budget, usize::MAX, percent).unwrap();
        rules.after(ended, &live)
    }

    #[test]
    fn what_is_sent_again_and_where_depends_on_what_is_known_and_on_the_budget() {
        use Next::{None, Other, Same};
        let (reset, late) = (ended(Cause::Reset), ended(Cause::TimedOut));
        let unprocessed = ended(Cause::Unprocessed);
        let refused_again = Ended {
            was_refused: true,
            ..unprocessed
        };
        let overtaken = Ended {
            is_going_away: true,
            overtaken: OVERTAKEN_MAX - 1,
            ..refused_again
        };
        let overtaken_again = Ended {
            overtaken: OVERTAKEN_MAX,
            was_refused: false,
            ..overtaken
        };
        let reused = Ended {
            is_reused: true,
            ..reset
        };
        let idle = Ended {
            was_idle: true,
            ..reused
        };
        let untaken = Ended {
            end: ended(Cause::Closed).end,
            is_untaken: true,
            ..idle
        };
        let died_before = Ended {
            has_died: true,
            ..reset
        };
        let lost = Ended {
            is_unsent: true,
            ..ended(Cause::KernelRefusedKeys)
        };
        let lost_amid = Ended {
            is_unsent: false,
            ..lost
        };
        let lost_again = Ended {
            was_lost: true,
            ..lost
        };
        let left_alone = Ended {
            is_left_alone: true,
            ..died_before
        };
        // Without room in the budget, and with it.
        for (what, rules, ended, without, with) in [
            ("a refused GET", GET, unprocessed, Same, Same),
            ("a refused POST", POST, unprocessed, Same, Same),
            ("one that is never tried again", NEVER, unprocessed, Same, Same),
            ("a POST that is refused again", POST, refused_again, None, Other),
            (
                "that of a route with attempts",
                COUNTED,
                refused_again,
                None,
                Other,
            ),
            ("that of one without retries", NEVER, refused_again, None, None),
            ("a POST whose connection goes away", POST, overtaken, Same, Same),
            ("that of a route without retries", NEVER, overtaken, Same, Same),
            ("as many as may", POST, overtaken_again, None, Other),
            ("an idle connection", GET, idle, Same, Same),
            ("that with attempts", COUNTED, idle, Same, Same),
            ("that without retries", NEVER, idle, Same, Same),
            ("that of a POST", POST, idle, None, None),
            ("that of a POST, untouched", POST, untaken, Same, Same),
            ("a connection in use", GET, reused, Same, Same),
            ("that with attempts", COUNTED, reused, None, Same),
            ("a new connection", GET, reset, Other, Other),
            ("that with attempts", COUNTED, reset, None, Other),
            ("that without retries", NEVER, reset, None, None),
            ("that of a POST", POST, reset, None, None),
            ("the second endpoint", GET, died_before, None, None),
            ("that with attempts", COUNTED, died_before, None, Other),
            ("that is left alone now", COUNTED, left_alone, Other, Other),
            ("a timeout", GET, late, None, None),
            ("a timeout that is tried again", COUNTED, late, None, Other),
            ("a POST whose keys are refused", POST, lost, Same, Same),
            ("that without retries", NEVER, lost, Same, Same),
            ("that has begun", GET, lost_amid, None, None),
            ("that a second time", COUNTED, lost_again, None, None),
            ("what is malformed", COUNTED, ended(Cause::Malformed), None, None),
        ] {
            let found = [0, 20].map(|percent| after(&rules, &ended, percent));
            assert_eq!(found, [without, with], "{what}: {rules:?} {ended:?}");
        }
    }
}
