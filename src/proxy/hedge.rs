//! A second attempt beside a first that is slow: who answers first is heard, the other is let go.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{Either, select};
use http::StatusCode;

use super::Visit;
use super::forward::{Broken, Exchanged, MALFORMED, Passage};
use super::retry::Leash;
use crate::http::client::{RequestWriter, ResponseReader};
use crate::http::h1::client::Outgoing;
use crate::http::{RequestBody, Responder, ResponseHead};
use crate::outcome::{Cause, End, Phase, Side};
use crate::route::Retry;
use crate::runtime::{TimedOut, before};
use crate::time::{Deadline, now};
use crate::upstream::health::Outcome;
use crate::upstream::retry::{is_gone, is_late};
use crate::upstream::{Attempts, Endpoint, Lease, Live, Moved, Upstream};

/// A request that may be sent to a second endpoint.
pub(super) struct Hedge<'h> {
    pub(super) upstream: &'h Upstream,
    pub(super) retry: &'h Retry,
    pub(super) live: &'h Live<'h>,
    /// So long the first one has for itself.
    pub(super) after: Duration,
    pub(super) head: &'h Outgoing<'h>,
}

/// What became of it.
pub(super) struct Raced<'u> {
    /// Who was heard, or failed last.
    pub(super) lease: Lease<'u>,
    pub(super) exchanged: Result<Exchanged, Broken<'u>>,
    /// The attempt beside that one.
    pub(super) lost: Option<(Arc<str>, End)>,
}

/// How an attempt was lost.
#[derive(Clone, Copy)]
struct Lost {
    end: End,
    /// Its answer's, where that is none for the client.
    status: Option<StatusCode>,
}

impl Lost {
    /// Another was faster.
    const HEDGED: Self = Self {
        end: End::new(Side::Atlas, Phase::Response, Cause::Hedged),
        status: None,
    };
}

/// What comes of an attempt first.
type Came = Result<ResponseHead, End>;

/// One attempt that was sent.
struct Runner<'l> {
    reader: ResponseReader<'l>,
    _writer: RequestWriter<'l>,
    /// How sending it ended, if not well; the endpoint may have answered before.
    refused: Option<End>,
    /// When it was sent.
    since: Instant,
    /// For its answer to begin, as long as somebody else may be asked.
    deadline: Deadline,
    /// The same if nobody can.
    last: Deadline,
    set_cookie: Option<String>,
    moved_before: Moved,
}

impl<'l> Runner<'l> {
    async fn start(lease: &'l mut Lease<'_>, hedge: &Hedge<'_>, leash: &Leash<'_>, is_https: bool) -> Self {
        let (set_cookie, moved_before) = (lease.binding(is_https), lease.moved_before());
        let (mut writer, reader) = lease.exchange();
        let sent = match writer.start(hedge.head).await {
            Ok(()) => writer.finish(None).await,
            Err(end) => Err(end),
        };
        let timeout = hedge.upstream.settings().response_timeout;
        let last = Deadline::within(timeout);
        Self {
            reader,
            _writer: writer,
            refused: sent.err(),
            since: now(),
            deadline: last.min(Deadline::within(leash.timeout(timeout))),
            last,
            set_cookie,
            moved_before,
        }
    }

    /// May be dropped while it waits, and be called again.
    async fn head(&mut self) -> Came {
        if let Some(end) = self.refused.filter(|end| !is_gone(*end)) {
            return Err(end);
        }
        match self.reader.head(self.deadline).await {
            Err(end) if end.side == Side::Upstream && !self.reader.has_begun() => {
                Err(self.refused.unwrap_or(end))
            }
            came => came,
        }
    }

    /// Whether it was told to be late although it has time left, should nobody else be asked.
    fn is_early(&self, came: &Came) -> bool {
        self.deadline < self.last && came.as_ref().is_err_and(|end| is_late(*end))
    }

    /// What is needed to count it, once it is over.
    fn stop(self) -> (Moved, Instant) {
        (self.moved_before, self.since)
    }
}

/// Who is heard of two.
enum Heard {
    First(Came),
    Second(Came),
}

/// Who is heard of two, and how the other was lost.
async fn first_of(first: &mut Runner<'_>, second: &mut Runner<'_>, retry: &Retry) -> (Heard, Lost) {
    let (came, is_first) = match select(pin!(first.head()), pin!(second.head())).await {
        Either::Left((came, _)) => (came, true),
        Either::Right((came, _)) => (came, false),
    };
    match (lost_by(&came, retry), is_first) {
        (Some(lost), true) => (Heard::Second(second.head().await), lost),
        (Some(lost), false) => (Heard::First(first.head().await), lost),
        (None, true) => (Heard::First(came), Lost::HEDGED),
        (None, false) => (Heard::Second(came), Lost::HEDGED),
    }
}

/// Whether this is not what the client waits for, as long as there is another.
fn lost_by(came: &Came, retry: &Retry) -> Option<Lost> {
    match came {
        Err(end) => Some(Lost {
            end: *end,
            status: None,
        }),
        Ok(head) if retry.is_unwanted(head.status) => Some(Lost {
            end: End::new(Side::Upstream, Phase::Response, Cause::BadStatus),
            status: Some(head.status),
        }),
        Ok(_) => None,
    }
}

/// Waits for it, unless the client goes away.
async fn unless_gone<T>(body: &RequestBody<'_>, wait: impl Future<Output = T>) -> Result<T, End> {
    match select(pin!(wait), pin!(body.client_gone())).await {
        Either::Left((done, _)) => Ok(done),
        Either::Right((gone, _)) => Err(gone),
    }
}

/// A second endpoint, if there is one and need for it.
enum Second<'u> {
    /// The first has something to say that is heard, or the client has gone; or no other can be asked.
    Needless(Came),
    /// The first is still at it, unless it was lost.
    Found(Lease<'u>, Option<Lost>),
}

impl Hedge<'_> {
    /// What an endpoint is held to, after these attempts.
    fn leash<'l>(&'l self, attempts: &'l mut Attempts) -> Leash<'l> {
        Leash::new(self.retry, self.head.method, self.live, (self.upstream, attempts))
    }

    /// Looks for a second endpoint once the first has had its time.
    async fn second<'u>(
        &self,
        upstream: &'u Upstream,
        first: &mut Runner<'_>,
        attempts: &mut Attempts,
        body: &RequestBody<'_>,
    ) -> Second<'u> {
        let alone = Deadline::within(self.after);
        match unless_gone(body, before(alone, first.head())).await {
            Ok(Err(TimedOut)) => {}
            Ok(Ok(came)) => return Second::Needless(came),
            Err(gone) => return Second::Needless(Err(gone)),
        }
        if !upstream.has_another(attempts) || !self.live.retry() {
            return Second::Needless(unless_gone(body, first.head()).await.unwrap_or_else(Err));
        }
        attempts.beside();
        let found = {
            let take = pin!(upstream.take(attempts));
            let found = async {
                match select(pin!(first.head()), take).await {
                    Either::Left((came, take)) => match lost_by(&came, self.retry) {
                        Some(lost) => match take.await {
                            Ok(lease) => Some(Second::Found(lease, Some(lost))),
                            Err(_) => Some(Second::Needless(came)),
                        },
                        None => Some(Second::Needless(came)),
                    },
                    Either::Right((taken, _)) => taken.ok().map(|lease| Second::Found(lease, None)),
                }
            };
            unless_gone(body, found).await
        };
        match found {
            Err(gone) => Second::Needless(Err(gone)),
            Ok(Some(found)) => found,
            Ok(None) => Second::Needless(unless_gone(body, first.head()).await.unwrap_or_else(Err)),
        }
    }
}

impl<F> Visit<'_, F> {
    /// Sends a request without a body to the endpoint of a lease, and to another one too if that does not
    /// begin to answer in time; passes on what comes first.
    pub(super) async fn race<'u, 'd>(
        &self,
        upstream: &'u Upstream,
        hedge: &Hedge<'_>,
        mut first_lease: Lease<'u>,
        attempts: &mut Attempts,
        body: &RequestBody<'d>,
        response: &mut Responder<'d>,
    ) -> Raced<'u> {
        let is_https = self.client.scheme() == "https";
        let first_asked = (upstream, first_lease.endpoint());
        let leash = hedge.leash(attempts);
        let mut first = Runner::start(&mut first_lease, hedge, &leash, is_https).await;
        let (mut second_lease, lost) = match hedge.second(upstream, &mut first, attempts, body).await {
            Second::Found(lease, lost) => (lease, lost),
            Second::Needless(came) => {
                let how = (hedge.leash(attempts), first_asked);
                let heard = self.hear(hedge, how, first, came, body, response).await;
                return self.raced(first_lease, heard, None);
            }
        };
        upstream.retried(Cause::Hedged);
        let second_asked = (upstream, second_lease.endpoint());
        let leash = hedge.leash(attempts);
        let mut second = Runner::start(&mut second_lease, hedge, &leash, is_https).await;
        let heard = match lost {
            Some(lost) => {
                let came = unless_gone(body, second.head()).await;
                came.map(|came| (Heard::Second(came), lost))
            }
            None => unless_gone(body, first_of(&mut first, &mut second, hedge.retry)).await,
        };
        let (heard, lost) = heard.unwrap_or_else(|end| {
            let lost = Lost { end, status: None };
            (Heard::First(Err(end)), lost)
        });
        // Who is not heard is let go first: its connection is closed, or its stream reset.
        match heard {
            Heard::First(came) => {
                let lost = self.let_go(upstream, (second.stop(), second_lease), lost);
                let how = (leash, first_asked);
                let heard = self.hear(hedge, how, first, came, body, response).await;
                self.raced(first_lease, heard, Some(lost))
            }
            Heard::Second(came) => {
                let lost = self.let_go(upstream, (first.stop(), first_lease), lost);
                let how = (leash, second_asked);
                let heard = self.hear(hedge, how, second, came, body, response).await;
                self.raced(second_lease, heard, Some(lost))
            }
        }
    }

    /// Passes on what an attempt says, of which this came first.
    async fn hear<'u, 'd>(
        &self,
        hedge: &Hedge<'_>,
        (leash, asked): (Leash<'_>, (&'u Upstream, &Endpoint)),
        mut runner: Runner<'_>,
        mut came: Came,
        body: &RequestBody<'d>,
        response: &mut Responder<'d>,
    ) -> (Result<Exchanged, Broken<'u>>, Moved) {
        if runner.is_early(&came) && !leash.gives_up() {
            runner.deadline = runner.last;
            came = unless_gone(body, runner.head()).await.unwrap_or_else(Err);
        }
        let moved_before = runner.moved_before;
        let exchanged = match came {
            Ok(head) => {
                let took = || now().saturating_duration_since(runner.since);
                let is_slow = hedge.upstream.is_slow(took);
                let mut passage = Passage {
                    proxy: self.proxy,
                    upstream: hedge.upstream,
                    endpoint: asked.1,
                    reader: runner.reader,
                    response,
                    connects: false,
                    leash,
                    came: Some(head),
                    is_slow,
                    refused: None,
                    set_cookie: runner.set_cookie,
                };
                let result = match passage.receive(body).await {
                    Ok(None) => Ok(End::finished(Side::Upstream)),
                    Ok(Some(_)) => Err(MALFORMED), // no upgrade was asked for
                    Err(end) => Err(end),
                };
                passage.settle(result, asked, body).await
            }
            Err(end) => Err(Broken {
                end,
                has_begun: runner.reader.has_begun(),
                refused: None,
                reached: None,
            }),
        };
        (exchanged, moved_before)
    }

    /// Counts the attempt that was heard.
    fn raced<'u>(
        &self,
        lease: Lease<'u>,
        (exchanged, moved_before): (Result<Exchanged, Broken<'u>>, Moved),
        lost: Option<(Arc<str>, End)>,
    ) -> Raced<'u> {
        let end = exchanged.as_ref().err().map(|broken| broken.end);
        self.count_moved(&lease, &moved_before, end);
        Raced {
            lease,
            exchanged,
            lost,
        }
    }

    /// Ends an attempt that is not heard, and notes what it says of its endpoint.
    fn let_go(
        &self,
        upstream: &Upstream,
        ((moved_before, since), lease): ((Moved, Instant), Lease<'_>),
        lost: Lost,
    ) -> (Arc<str>, End) {
        self.count_moved(&lease, &moved_before, Some(lost.end));
        let took = || now().saturating_duration_since(since);
        let endpoint = lease.endpoint();
        match lost {
            Lost {
                status: Some(status), ..
            } => upstream.note_answer(endpoint, status.as_u16(), false),
            Lost { end, .. } if end.cause == Cause::Hedged && upstream.is_slow(took) => {
                upstream.note(endpoint, Outcome::Failed(Cause::TooSlow));
            }
            Lost { end, .. } => {
                upstream.note(endpoint, Outcome::of_broken(end, false, lease.is_reused()));
            }
        }
        (endpoint.shared_name(), lost.end)
    }
}
