//! One exchange with an upstream: both bodies at once in one task, with bounded memory.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::{Either, select};
use http::StatusCode;

use super::account::{Account, count_upstream};
use super::headers::{self, RequestId};
use super::hedge::{Hedge, Raced};
use super::http::path_below;
use super::retry::{Course, Leash, Resend, Taken};
use super::{Proxy, Visit, affinity, upgrade};
use crate::buffer;
use crate::http::client::{RequestWriter, ResponseReader};
use crate::http::h1::client::Outgoing;
use crate::http::{BodyLength, RequestBody, RequestHead, Responder, ResponseHead, Version};
use crate::outcome::{Cause, End, Phase, Side};
use crate::pipe::Pipe;
use crate::route::{Retry, Route};
use crate::time::{Deadline, now};
use crate::upstream::health::Outcome;
use crate::upstream::retry::{is_gone, is_late};
use crate::upstream::{Attempts, Endpoint, Lease, Live, Moved, Upstream};

impl<F> Visit<'_, F> {
    /// Asks an upstream and passes its answer on.
    ///
    /// # Errors
    ///
    /// How it ended where that is no good end; an answer can be given if none was started.
    pub(super) async fn forward<'d>(
        &self,
        upstream: &Upstream,
        route: &Route,
        account: &mut Account<'_>,
        body: &mut RequestBody<'d>,
        response: &mut Responder<'d>,
    ) -> Result<End, End> {
        if let Some(record) = account.record() {
            record.upstream = Some(upstream.settings().name.clone());
        }
        let live = upstream.live()?;
        let asks_upgrade = self.rewrite(upstream, &mut account.request, &account.id);
        let target = changed_target(route, &account.request);
        let attempts = self.search(upstream, &route.retry, &account.request, asks_upgrade);
        let mut course = Course::new(&route.retry, attempts);
        if !asks_upgrade {
            course.copied = self.copy(route, account, target.as_deref());
        }
        let asked = Asked {
            upstream,
            retry: &route.retry,
            live: &live,
            target: target.as_deref(),
            asks_upgrade,
        };
        let mut reached = None;
        loop {
            let lease = next_lease(upstream, reached.take(), &mut course, account, body).await?;
            let head = asked.head(&account.request);
            let attempt = if let Some(after) = course.hedge_after(upstream, &head) {
                // Boxed: few are hedged.
                Box::pin(self.hedged((&asked, after), lease, &mut course, account, body, response)).await
            } else {
                self.attempt((&asked, &head), lease, &mut course, account, body, response)
                    .await
            };
            note(upstream, &attempt, response);
            tell_attempts(&mut course.attempts, account);
            tell_carrier(&attempt.lease, account);
            match attempt.exchanged {
                Ok(Exchanged { end, .. }) => {
                    attempt.lease.give_back();
                    course.kept.give_back();
                    return Ok(end);
                }
                Err(broken) => {
                    reached = broken.reached;
                    if reached.is_some() {
                        course.has_gone_on(broken.end);
                    } else {
                        let is_unseen = !broken.has_begun && !response.has_started();
                        course.go_on(broken.end, is_unseen, &attempt.resend, &attempt.lease, &live)?;
                    }
                    upstream.retried(broken.end.cause);
                }
            }
        }
    }

    /// Asks one endpoint.
    async fn attempt<'u, 'd>(
        &self,
        (asked, head): (&Asked<'u>, &Outgoing<'_>),
        mut lease: Lease<'u>,
        course: &mut Course<'_>,
        account: &Account<'_>,
        body: &mut RequestBody<'d>,
        response: &mut Responder<'d>,
    ) -> Attempt<'u> {
        let resend = course.begin(&lease, head.method);
        let others = (asked.upstream, &mut course.attempts);
        let leash = Leash::new(asked.retry, head.method, asked.live, others);
        let mut taken = Taken {
            bytes: &account.bytes_in,
            spliced: &account.spliced_in,
            kept: &mut course.kept,
            is_lost: &course.is_lost,
            copied: &mut course.copied,
        };
        let exchanged = self
            .exchange(
                &mut lease,
                (asked.upstream, leash),
                head,
                body,
                response,
                &mut taken,
            )
            .await;
        Attempt {
            lease,
            resend,
            exchanged,
        }
    }

    /// Asks one endpoint, and another beside it if that one has not begun to answer `after` some time.
    async fn hedged<'u, 'd>(
        &self,
        (asked, after): (&Asked<'u>, Duration),
        lease: Lease<'u>,
        course: &mut Course<'_>,
        account: &mut Account<'_>,
        body: &mut RequestBody<'d>,
        response: &mut Responder<'d>,
    ) -> Attempt<'u> {
        let hedge = Hedge {
            upstream: asked.upstream,
            retry: asked.retry,
            live: asked.live,
            after,
            head: &asked.head(&account.request),
        };
        let race = self.race(
            asked.upstream,
            &hedge,
            lease,
            &mut course.attempts,
            body,
            response,
        );
        let Raced {
            lease,
            exchanged,
            lost,
        } = race.await;
        tell_race(&lease, lost, course, account);
        let resend = course.begin(&lease, account.request.method()).sent();
        Attempt {
            lease,
            resend,
            exchanged,
        }
    }

    /// What decides which endpoints a request may be sent to.
    fn search(
        &self,
        upstream: &Upstream,
        retry: &Retry,
        request: &RequestHead,
        asks_upgrade: bool,
    ) -> Attempts {
        let repeatable = request.method().is_idempotent() && request.body() == BodyLength::None;
        let mut attempts = upstream.begin(repeatable);
        let endpoints_max = retry.attempts_max.and_then(|most| usize::try_from(most).ok());
        attempts.limit(endpoints_max.unwrap_or(usize::MAX), retry.on_connect);
        attempts.on_behalf_of(self.facts.client.zip(self.facts.local));
        if asks_upgrade {
            attempts.over_http1();
        }
        affinity::apply(upstream, &request.fields, request.path(), &mut attempts);
        attempts
    }

    /// Makes a client's request into one for an endpoint; whether it asks for another protocol.
    fn rewrite(&self, upstream: &Upstream, request: &mut RequestHead, id: &RequestId) -> bool {
        let protocols = upgrade::offered(request);
        let via = headers::via(request.version());
        if request.version() == Version::Http10 {
            // RFC 9110 §10.1.1: "A server that receives a 100-continue expectation in an HTTP/1.0
            // request MUST ignore that expectation." Passed on it would be one of HTTP/1.1.
            request.fields.remove("expect");
        }
        // The authority lies in the bytes the fields are pushed to, and has to be kept apart.
        let mut kept = buffer::take_vec();
        kept.extend_from_slice(request.authority().unwrap_or_default().as_bytes());
        let host = upstream.settings().host.as_deref();
        let host = host.or_else(|| kept.is_empty().then(|| upstream.endpoints()[0].authority()));
        headers::to_endpoint(&mut request.fields, &self.client, &kept, host, via, id);
        buffer::give_vec(kept);
        if let Some(protocols) = &protocols {
            request.fields.push("Upgrade", protocols);
            if request.connects() {
                request.fields.set("Sec-WebSocket-Key", upgrade::fresh_key());
            }
        }
        protocols.is_some()
    }

    async fn exchange<'u, 'd>(
        &self,
        lease: &mut Lease<'u>,
        (upstream, leash): (&'u Upstream, Leash<'_>),
        head: &Outgoing<'_>,
        body: &mut RequestBody<'d>,
        response: &mut Responder<'d>,
        taken: &mut Taken<'_>,
    ) -> Result<Exchanged, Broken<'u>> {
        let (before, endpoint) = (lease.moved_before(), lease.endpoint());
        let set_cookie = lease.binding(self.client.scheme() == "https");
        let (writer, reader) = lease.exchange();
        let mut passage = Passage {
            proxy: self.proxy,
            upstream,
            endpoint,
            reader,
            response,
            connects: body.is_tunnel(),
            leash,
            came: None,
            is_slow: false,
            refused: None,
            set_cookie,
        };
        let result = passage.run(writer, head, body, taken).await;
        let exchanged = passage.settle(result, (upstream, endpoint), body).await;
        let end = exchanged.as_ref().err().map(|broken| broken.end);
        self.count_moved(lease, &before, end);
        exchanged
    }

    /// Counts what an attempt has moved since a moment, and how it ended if not well.
    pub(super) fn count_moved(&self, lease: &Lease<'_>, before: &Moved, end: Option<End>) {
        let moved = lease.moved_since(before);
        count_upstream(&self.proxy.counters, before.tally, &moved, end);
    }
}

/// What an exchange said of its endpoint, noted where all is that decides who is asked.
fn note(upstream: &Upstream, attempt: &Attempt<'_>, response: &Responder<'_>) {
    let Attempt { lease, exchanged, .. } = attempt;
    match (exchanged, response.status()) {
        (Ok(Exchanged { is_slow, .. }), Some(status)) => {
            upstream.note_answer(lease.endpoint(), status.as_u16(), *is_slow);
        }
        (Ok(_), None) => {}
        // That another endpoint is asked does not yet make it a failure.
        (
            Err(Broken {
                refused: Some(status),
                ..
            }),
            _,
        ) => upstream.note_answer(lease.endpoint(), status.as_u16(), false),
        (Err(broken), _) => {
            let outcome = Outcome::of_broken(broken.end, broken.has_begun, lease.is_reused());
            upstream.note(lease.endpoint(), outcome);
        }
    }
}

/// What is asked, the same in every attempt.
struct Asked<'u> {
    upstream: &'u Upstream,
    retry: &'u Retry,
    live: &'u Live<'u>,
    /// Where it is not the client's.
    target: Option<&'u str>,
    asks_upgrade: bool,
}

impl Asked<'_> {
    fn head<'h>(&'h self, request: &'h RequestHead) -> Outgoing<'h> {
        Outgoing {
            method: request.method(),
            target: self.target.unwrap_or_else(|| request.path_and_query()),
            fields: &request.fields,
            body: request.body(),
            asks_upgrade: self.asks_upgrade,
        }
    }
}

/// An attempt that is over: what came of it, and what may follow.
struct Attempt<'u> {
    lease: Lease<'u>,
    resend: Resend,
    exchanged: Result<Exchanged, Broken<'u>>,
}

/// The target sent to the endpoint, if it is not the client's.
fn changed_target(route: &Route, request: &RequestHead) -> Option<String> {
    if !route.strip_prefix {
        return None;
    }
    let sent = request.path();
    let path = path_below(route, sent);
    (path != sent).then(|| match request.query() {
        Some(query) => [&*path, "?", query].concat(),
        None => path.into_owned(),
    })
}

/// After a race: the record is told who was heard, and how the other one was lost.
fn tell_race(
    lease: &Lease<'_>,
    lost: Option<(Arc<str>, End)>,
    course: &mut Course<'_>,
    account: &mut Account<'_>,
) {
    account.endpoint = Some(lease.endpoint().shared_name());
    // One that died counts; one that was only slower does not.
    course.died = lost
        .as_ref()
        .map(|(_, end)| *end)
        .filter(|end| end.cause != Cause::Hedged);
    tell_attempts(&mut course.attempts, account);
    if let Some(record) = account.record() {
        record.failed.extend(lost);
    }
}

/// The record is told how the search for an endpoint went so far.
fn tell_attempts(attempts: &mut Attempts, account: &mut Account<'_>) {
    if let Some(record) = account.record() {
        record.attempts = attempts.count();
    }
    account.failed(attempts.take_failed());
}

/// The record is told who makes the TLS records to the endpoint, as it stands.
fn tell_carrier(lease: &Lease<'_>, account: &mut Account<'_>) {
    if let Some(record) = account.record() {
        record.upstream_carrier = lease.carrier();
    }
}

/// The connection of the next attempt, which is `reached` already or leased now; the record is told how the search
/// for it went.
async fn next_lease<'u>(
    upstream: &'u Upstream,
    reached: Option<Box<Lease<'u>>>,
    course: &mut Course<'_>,
    account: &mut Account<'_>,
    body: &RequestBody<'_>,
) -> Result<Lease<'u>, End> {
    let leased = match reached {
        Some(lease) => Ok(*lease),
        None => lease(upstream, &mut course.attempts, body).await,
    };
    tell_attempts(&mut course.attempts, account);
    let lease = match (leased, course.died) {
        // Nobody else could be asked: how the first one ended tells more.
        (Err(end), Some(first)) if end.side != Side::Downstream => return Err(first),
        (leased, _) => leased?,
    };
    account.endpoint = Some(lease.endpoint().shared_name());
    tell_carrier(&lease, account);
    Ok(lease)
}

/// Leases a connection, unless the client goes away meanwhile.
async fn lease<'u>(
    upstream: &'u Upstream,
    attempts: &mut Attempts,
    body: &RequestBody<'_>,
) -> Result<Lease<'u>, End> {
    let take = upstream.take(attempts);
    if !body.is_finished() {
        return take.await; // what the client sends is its body, and waits
    }
    match select(pin!(take), pin!(body.client_gone())).await {
        Either::Left((leased, _)) => leased,
        Either::Right((gone, _)) => Err(gone),
    }
}

/// An exchange that went through.
pub(super) struct Exchanged {
    pub(super) end: End,
    /// The response took longer to begin than an endpoint that is well may take.
    pub(super) is_slow: bool,
}

/// An exchange that did not go through, and whether a byte of a response had come.
pub(super) struct Broken<'u> {
    pub(super) end: End,
    pub(super) has_begun: bool,
    /// The answer's status, where the route has another endpoint asked for that.
    pub(super) refused: Option<StatusCode>,
    /// The connection to that one. Boxed: few have one.
    pub(super) reached: Option<Box<Lease<'u>>>,
}

/// The endpoint's answer is none.
pub(super) const MALFORMED: End = End::new(Side::Upstream, Phase::Response, Cause::Malformed);

/// A request on its way up and its response on its way down.
pub(super) struct Passage<'e, 'c, 'd> {
    pub(super) proxy: &'e Proxy,
    pub(super) upstream: &'e Upstream,
    pub(super) endpoint: &'e Endpoint,
    pub(super) reader: ResponseReader<'c>,
    pub(super) response: &'e mut Responder<'d>,
    /// The client has asked for a tunnel in a stream of its connection.
    pub(super) connects: bool,
    pub(super) leash: Leash<'e>,
    /// A head that has come already.
    pub(super) came: Option<ResponseHead>,
    pub(super) is_slow: bool,
    /// The status of an answer that is not passed on, if another endpoint can be reached.
    pub(super) refused: Option<StatusCode>,
    /// What binds the client to the endpoint.
    pub(super) set_cookie: Option<String>,
}

impl<'d> Passage<'_, '_, 'd> {
    async fn run(
        &mut self,
        mut writer: RequestWriter<'_>,
        head: &Outgoing<'_>,
        body: &mut RequestBody<'d>,
        taken: &mut Taken<'_>,
    ) -> Result<End, End> {
        let sent = if head.body == BodyLength::None {
            writer.start(head).await?;
            writer.finish(None).await
        } else {
            // Boxed: most requests have no body, and none of this.
            match Box::pin(self.send_all(&mut writer, head, body, taken)).await? {
                Sent::Answered => return Ok(End::finished(Side::Upstream)),
                Sent::All => Ok(()),
                Sent::Refused(end) => Err(end),
            }
        };
        if taken.is_lost.get() {
            self.leash = Leash::LOOSE; // it cannot be sent again
        }
        // An endpoint that takes no more may have said why before.
        match (self.receive(body).await, sent) {
            (Err(end), Err(refused)) if end.side == Side::Upstream && !self.reader.has_begun() => {
                Err(match end.cause {
                    Cause::Unprocessed => end,
                    _ => refused,
                })
            }
            (Ok(Some(switching)), Ok(())) => {
                // Boxed: most exchanges end as they began.
                Box::pin(self.tunnel(switching, head.fields, body, taken)).await
            }
            (Ok(Some(_)), Err(refused)) => Err(refused),
            (Ok(None), _) => Ok(End::finished(Side::Upstream)),
            (Err(end), _) => Err(end),
        }
    }

    async fn send_all(
        &mut self,
        writer: &mut RequestWriter<'_>,
        head: &Outgoing<'_>,
        body: &mut RequestBody<'_>,
        taken: &mut Taken<'_>,
    ) -> Result<Sent, End> {
        let is_lost = taken.is_lost;
        let sent = {
            let upload = pin!(upload(writer, head, body, taken));
            self.until_sent(upload, is_lost).await?
        };
        if matches!(sent, Sent::Answered) && !body.is_finished() {
            self.response.close_after(); // what is left of the body is nobody's
        }
        Ok(sent)
    }

    /// Sends the body, and answers meanwhile if the endpoint does.
    async fn until_sent(
        &mut self,
        mut upload: Pin<&mut impl Future<Output = Result<(), End>>>,
        is_lost: &Cell<bool>,
    ) -> Result<Sent, End> {
        // The time for an answer begins when the request is sent; until then its pieces have theirs.
        let no_deadline = Deadline::within(Duration::MAX);
        loop {
            let head = match select(upload.as_mut(), pin!(self.reader.head(no_deadline))).await {
                Either::Left((Ok(()), _)) => return Ok(Sent::All),
                Either::Left((Err(end), _)) if is_gone(end) => return Ok(Sent::Refused(end)),
                Either::Left((Err(end), _)) => return Err(end),
                Either::Right((head, _)) => head?,
            };
            if !head.status.is_informational() {
                let head = match is_lost.get() {
                    true => head,
                    false => self.unless_refused(head)?,
                };
                return self.answer_early(head, upload).await.map(|()| Sent::Answered);
            }
            if head.status == StatusCode::SWITCHING_PROTOCOLS {
                // Not in the middle of a message.
                return Err(MALFORMED);
            }
            self.inform(head).await?;
        }
    }

    /// Passes an answer on that began before the request was sent. What is left of the request is
    /// sent on if the answer is a success: RFC 9112 §9.3 wants it read before the connection can
    /// be used again, and a client that is cut off while it sends may lose the answer.
    async fn answer_early(
        &mut self,
        head: ResponseHead,
        mut upload: Pin<&mut impl Future<Output = Result<(), End>>>,
    ) -> Result<(), End> {
        let is_wanted = head.status.is_success();
        if !is_wanted {
            // Whoever refuses does not want the rest of the body: tell the client to stop.
            self.response.close_after();
        }
        let is_over = {
            let download = pin!(self.answer(head));
            match select(upload.as_mut(), download).await {
                Either::Left((Err(end), _)) if end.side != Side::Upstream => Err(end),
                Either::Left((_, download)) => download.await.map(|()| true),
                Either::Right((answered, _)) => answered.map(|()| false),
            }?
        };
        if !is_over && is_wanted {
            match select(upload, pin!(self.reader.let_go())).await {
                Either::Left((Err(end), _)) if end.side != Side::Upstream => return Err(end),
                // Sent, or it has read as much as it wants.
                _ => {}
            }
        }
        Ok(())
    }

    /// Waits for the answer to a request that is sent, and passes it on, unless the client goes away;
    /// but gives a 101 back.
    pub(super) async fn receive(&mut self, body: &RequestBody<'_>) -> Result<Option<ResponseHead>, End> {
        if !body.is_finished() {
            return self.receive_in_time(false).await;
        }
        match select(pin!(self.receive_in_time(true)), pin!(body.client_gone())).await {
            Either::Left((result, _)) => result,
            Either::Right((gone, _)) => Err(gone),
        }
    }

    async fn receive_in_time(&mut self, has_all: bool) -> Result<Option<ResponseHead>, End> {
        let timeout = self.upstream.settings().response_timeout;
        let last = Deadline::within(timeout);
        let mut deadline = Deadline::within(self.leash.timeout(timeout));
        loop {
            let head = match self.came.take() {
                Some(head) => head,
                None => self.head(&mut deadline, last).await?,
            };
            if !head.status.is_informational() {
                self.is_slow |= self.upstream.is_slow(|| timeout.saturating_sub(last.left(now())));
                let head = self.unless_refused(head)?;
                if !has_all {
                    self.response.close_after(); // what is left of the body is nobody's
                }
                return self.answer(head).await.map(|()| None);
            }
            if head.status == StatusCode::SWITCHING_PROTOCOLS {
                return Ok(Some(head));
            }
            self.inform(head).await?;
        }
    }

    /// The next head by a deadline; where nobody else can be asked then, by the last.
    async fn head(&mut self, deadline: &mut Deadline, last: Deadline) -> Result<ResponseHead, End> {
        match self.reader.head(*deadline).await {
            Err(end) if is_late(end) && *deadline < last && !self.leash.gives_up() => {
                *deadline = last;
                self.reader.head(last).await
            }
            came => came,
        }
    }

    /// Keeps the head of an answer that is not to be passed on, if another endpoint can be reached.
    fn unless_refused(&mut self, head: ResponseHead) -> Result<ResponseHead, End> {
        if !self.leash.refuses(head.status) {
            return Ok(head);
        }
        self.refused = Some(head.status);
        self.came = Some(head);
        Err(End::new(Side::Upstream, Phase::Response, Cause::BadStatus))
    }

    /// What came of it. An answer that is not wanted is given up once there is a connection to another endpoint; it
    /// is passed on if there is none to be had.
    pub(super) async fn settle<'u>(
        mut self,
        result: Result<End, End>,
        asked: (&'u Upstream, &Endpoint),
        body: &RequestBody<'d>,
    ) -> Result<Exchanged, Broken<'u>> {
        let (result, reached) = match (result, self.refused) {
            // Boxed: few answers are unwanted.
            (Err(end), Some(_)) => Box::pin(self.replace(end, asked, body)).await,
            (result, _) => (result, None),
        };
        let (has_begun, is_slow) = (self.reader.has_begun(), self.is_slow);
        let refused = self.refused;
        result
            .map(|end| Exchanged { end, is_slow })
            .map_err(|end| Broken {
                end,
                has_begun,
                refused,
                reached,
            })
    }

    /// Looks for another endpoint than this, which has answered what is not wanted.
    async fn replace<'u>(
        &mut self,
        end: End,
        (upstream, endpoint): (&'u Upstream, &Endpoint),
        body: &RequestBody<'d>,
    ) -> (Result<End, End>, Option<Box<Lease<'u>>>) {
        if let Some(attempts) = self.leash.loosen() {
            attempts.elsewhere(endpoint, end);
            match lease(upstream, attempts, body).await {
                Ok(lease) => return (Err(end), Some(Box::new(lease))),
                Err(gone) if gone.side == Side::Downstream => return (Err(gone), None),
                Err(_) => {}
            }
        }
        self.refused = None;
        let answered = self.receive(body).await;
        (answered.map(|_| End::finished(Side::Upstream)), None)
    }

    async fn inform(&mut self, mut head: ResponseHead) -> Result<(), End> {
        headers::to_client(&mut head.fields, self.reader.version());
        self.response.inform(&head).await
    }

    /// The answer that is passed on has begun with this.
    pub(super) fn note_begun(&self, status: StatusCode) {
        self.upstream
            .note_begun(self.endpoint, Some(status.as_u16()), self.is_slow);
    }

    /// Binds the client to the endpoint that answers, if it is not yet.
    pub(super) fn bind(&self, head: &mut ResponseHead) {
        if let Some(set_cookie) = &self.set_cookie {
            head.fields.push("Set-Cookie", set_cookie);
        }
    }

    /// Passes the final head and the body on.
    async fn answer(&mut self, mut head: ResponseHead) -> Result<(), End> {
        if self.connects && head.status.is_success() {
            // To the client it would say that the tunnel is open.
            return Err(MALFORMED);
        }
        self.note_begun(head.status);
        match head.status {
            // RFC 9110 §15.5.22: it tells by Upgrade what it wants.
            StatusCode::UPGRADE_REQUIRED => headers::to_client_with_upgrade(&mut head.fields),
            _ => headers::to_client(&mut head.fields, self.reader.version()),
        }
        self.bind(&mut head);
        self.response.start(&head).await?;
        drop(head);
        match self.pass_body().await {
            Err(end) if end.side == Side::Upstream => {
                // What came before it died is the client's; that it is not all, the end tells.
                let _: Result<(), End> = self.response.flush().await;
                Err(end)
            }
            result => result,
        }
    }

    async fn pass_body(&mut self) -> Result<(), End> {
        let mut passed = 0;
        loop {
            if self.response.may_move() {
                let moved = moved(self.reader.to_come(), passed);
                self.reader.promote(moved);
                self.response.promote(moved);
            }
            let is_bulk = self.response.takes_pipes() && worth(self.reader.ahead(), passed) >= BULK_MIN;
            let piece = {
                let mut next = pin!(next_of_response(&mut self.reader, is_bulk));
                // What is there goes with the head; only a wait is a reason to send.
                match at_once(next.as_mut()).await {
                    Some(piece) => piece,
                    None => {
                        self.response.flush().await?;
                        next.await
                    }
                }?
            };
            passed += piece.len();
            match piece {
                Piece::Copied(piece) => self.response.write(piece).await?,
                Piece::Spliced(pipe) => self.response.write_piped(pipe).await?,
                Piece::End => break,
            }
        }
        self.response.finish(self.reader.trailers()).await
    }
}

/// A body, or the rest of it, that is worth a pipe. Between plain sockets over loopback a splice
/// costs as much as a copy at 8 KiB, 0.8 of it at 64 KiB and 0.6 from 256 KiB on; the first bytes
/// are copied anyway, together with the head.
const BULK_MIN: u64 = 64 * 1024;

/// How long a body is taken for: as long as what is to come; where nobody knows how much that is,
/// as long as what has passed.
fn worth(to_come: u64, passed: u64) -> u64 {
    match to_come {
        u64::MAX => passed,
        known => known,
    }
}

/// How long a body is taken for when its connections may move into the kernel. Of one in chunks only the chunk
/// at hand is known: what has passed makes it long, once.
fn moved(to_come: u64, passed: u64) -> u64 {
    worth(to_come, passed).max(passed)
}

/// A piece of a body on its way.
enum Piece<'b> {
    Copied(&'b [u8]),
    Spliced(Pipe),
    End,
}

impl Piece<'_> {
    fn len(&self) -> u64 {
        match self {
            Self::Copied(bytes) => bytes.len() as u64,
            Self::Spliced(pipe) => pipe.len() as u64,
            Self::End => 0,
        }
    }
}

/// In a pipe, if it `is_bulk` and one can be had.
async fn next_of_response<'b>(reader: &'b mut ResponseReader<'_>, is_bulk: bool) -> Result<Piece<'b>, End> {
    if is_bulk && let Some(pipe) = reader.read_piped().await? {
        return Ok(Piece::Spliced(pipe));
    }
    Ok(reader.read().await?.map_or(Piece::End, Piece::Copied))
}

async fn next_of_request<'b>(body: &'b mut RequestBody<'_>, is_bulk: bool) -> Result<Piece<'b>, End> {
    if is_bulk && let Some(pipe) = body.read_piped().await? {
        return Ok(Piece::Spliced(pipe));
    }
    Ok(body.read().await?.map_or(Piece::End, Piece::Copied))
}

/// What a future has to say without waiting. It is polled with the task's own waker: timers of
/// this runtime wake whoever has polled them first.
async fn at_once<T>(mut future: Pin<&mut impl Future<Output = T>>) -> Option<T> {
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// How far a request's body came.
enum Sent {
    All,
    /// The response is finished already.
    Answered,
    /// The endpoint takes no more.
    Refused(End),
}

/// Sends the head and the body, as it comes.
async fn upload(
    writer: &mut RequestWriter<'_>,
    head: &Outgoing<'_>,
    body: &mut RequestBody<'_>,
    taken: &mut Taken<'_>,
) -> Result<(), End> {
    writer.start(head).await?;
    writer.write(&taken.kept.bytes).await?;
    let mut passed = 0;
    loop {
        if writer.may_move() {
            let moved = moved(body.to_come(), passed);
            writer.promote(moved)?; // before any of the body is taken
            body.promote(moved);
        }
        let is_bulk = writer.takes_pipes() && taken.copied.is_none() && body.ahead() >= BULK_MIN;
        let piece = {
            let mut next = pin!(next_of_request(body, is_bulk));
            match at_once(next.as_mut()).await {
                Some(piece) => piece,
                None => {
                    writer.flush().await?;
                    next.await
                }
            }?
        };
        passed += piece.len();
        match piece {
            Piece::Copied(piece) => {
                taken.note(piece);
                writer.write(piece).await?;
            }
            Piece::Spliced(pipe) => {
                taken.note_spliced(pipe.len() as u64);
                writer.write_piped(pipe).await?;
            }
            Piece::End => break,
        }
    }
    taken.ended();
    let trailers = body.trailers();
    let cleaned = trailers.and_then(headers::without_told);
    writer.finish(cleaned.as_ref().or(trailers)).await
}
