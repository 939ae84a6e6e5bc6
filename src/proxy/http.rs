//! Exchange → route → action → response, and one record at the end of each.

use std::borrow::Cow;
use std::net::IpAddr;
use std::rc::Rc;

use http::{Method, StatusCode};

use super::account::{Account, Answering};
use super::headers::{self, RequestId};
use super::{Visit, about, affinity, template};
use crate::access_log::{ExchangeRecord, RequestFacts};
use crate::files;
use crate::http::errors::Fault;
use crate::http::{
    BodyLength, Exchange, RequestBody, RequestHead, Responder, ResponseHead, Service, Version,
};
use crate::outcome::{Cause, End, Phase, Side};
use crate::route::{Action, Found, PathPattern, Route, Split, is_below, normal};
use crate::time::now;
use crate::upstream::Upstream;

impl<F: Fn(&str) -> bool> Service for Visit<'_, F> {
    async fn answer(&self, exchange: Exchange<'_>) -> End {
        let Exchange {
            request,
            mut body,
            response,
        } = exchange;
        let record = ExchangeRecord::start(self.facts.clone(), now());
        let id = RequestId::of(&request.fields, &self.client);
        let mut answering = Answering {
            account: Account::open(self.proxy, record, request, id),
            response,
        };
        let Answering { account, response } = &mut answering;
        let end = match self.act(account, &mut body, response).await {
            Ok(end) => end,
            Err(refusal) => refuse(refusal, &account.request, &body, response).await,
        };
        account.close(end);
        end
    }

    fn refused(&self, line: &[u8], status: StatusCode, bytes: u64, end: End) {
        let mut record = ExchangeRecord::start(self.facts.clone(), now());
        record.status = Some(status.as_u16());
        record.bytes_out = bytes;
        record.moved.copied = bytes;
        self.proxy.counters.exchange_ended(end, record.status);
        record.finish(end, &RequestFacts::refused(line), &self.proxy.log);
    }

    fn stream_refused(&self, cause: Cause) {
        self.proxy.counters.stream_refused(cause);
        let count = &self.facts.streams_refused;
        count.set(count.get() + 1);
    }
}

/// Why a request gets an answer from the catalogue of errors, if it still can get one.
pub(super) struct Refusal {
    end: End,
    allow: Option<String>,
}

impl From<End> for Refusal {
    fn from(end: End) -> Self {
        Self { end, allow: None }
    }
}

impl From<files::Failed> for Refusal {
    fn from(failed: files::Failed) -> Self {
        Self {
            end: failed.end,
            allow: failed.allow.map(str::to_owned),
        }
    }
}

impl<F: Fn(&str) -> bool> Visit<'_, F> {
    async fn act<'d>(
        &self,
        account: &mut Account<'_>,
        body: &mut RequestBody<'d>,
        response: &mut Responder<'d>,
    ) -> Result<End, Refusal> {
        let unroutable = |cause| Refusal::from(End::new(Side::Atlas, Phase::Route, cause));
        let request = &account.request;
        if self.is_elsewhere(request) {
            return Err(unroutable(Cause::Misdirected));
        }
        let routes = &self.proxy.generation.routes;
        let route = match routes.find(self.facts.listener_index, request) {
            Found::Route(route) => route,
            Found::NoRoute => return Err(unroutable(Cause::NoRoute)),
            Found::MethodNotAllowed(methods) => {
                return Err(Refusal {
                    allow: Some(list(&methods)),
                    ..unroutable(Cause::MethodNotAllowed)
                });
            }
            Found::Outside => return Err(End::new(Side::Downstream, Phase::Request, Cause::Malformed).into()),
        };
        if request.connects() && !matches!(route.action, Action::Forward(_)) {
            // Nobody is there to go on with, and a 200 would say so.
            return Err(Refusal {
                allow: Some("GET, HEAD".to_owned()),
                ..unroutable(Cause::MethodNotAllowed)
            });
        }
        match &route.action {
            Action::Forward(split) => {
                let upstream = self.upstream_of(split, request);
                if !headers::may_go_on(&mut account.request) {
                    return Ok(respond(StatusCode::NO_CONTENT, "", "", response).await?);
                }
                Ok(self.forward(&upstream, route, account, body, response).await?)
            }
            Action::Serve(root) => {
                let path = path_below(route, request.path());
                let root = &self.proxy.roots[*root];
                Ok(root.answer(request, &path, response).await?)
            }
            Action::Redirect { to, status } => {
                let to = template::location(to, request, &self.own_host());
                Ok(redirect(*status, &to, response).await?)
            }
            Action::Respond {
                status,
                body,
                content_type,
            } => Ok(respond(*status, body, content_type, response).await?),
            Action::About => {
                let sent = response.count_up();
                let page = about::page(&self.facts, request, &account.id, self.client.scheme(), sent);
                Ok(show(&page, response).await?)
            }
        }
    }

    /// The upstream a request goes to: the one its client is bound to, or one that is drawn.
    fn upstream_of(&self, split: &Split, request: &RequestHead) -> Rc<Upstream> {
        let index = split.only().unwrap_or_else(|| {
            let mut all = split.upstreams();
            let bound = all.find(|index| affinity::binds(&self.proxy.upstream(*index), request));
            bound.unwrap_or_else(|| split.pick(fastrand::u64(..)))
        });
        self.proxy.upstream(index)
    }

    /// What Atlas is called where a request does not say it (HTTP/1.0).
    fn own_host(&self) -> String {
        let local = self.facts.local.map(|local| match local.ip() {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("[{address}]"),
        });
        let named = self.facts.server_name.clone();
        named.or(local).unwrap_or_else(|| "localhost".to_owned())
    }

    /// Whether the client asked TLS for one host and asks this connection for another, which has
    /// a certificate of its own: what is configured for that one's certificate (versions, client
    /// certificates one day) was not asked of this connection.
    fn is_elsewhere(&self, request: &RequestHead) -> bool {
        let (Some(named), Some(authority)) = (&self.facts.server_name, request.authority()) else {
            return false;
        };
        let host = normal::host(authority);
        *named != *host && (self.is_misdirected)(&host)
    }
}

/// Answers from the catalogue, if nothing was answered yet and somebody is there to be answered.
async fn refuse(
    refusal: Refusal,
    request: &RequestHead,
    body: &RequestBody<'_>,
    response: &mut Responder<'_>,
) -> End {
    let end = refusal.end;
    // A client that owes nothing and yet ends the exchange is gone, or speaks no TLS any more.
    let is_gone = end.side == Side::Downstream && end.phase == Phase::Response;
    if response.has_started() || is_gone {
        return end;
    }
    if body.has_begun() && !body.is_finished() {
        response.close_after();
    }
    if is_call(request) {
        let head = Fault::of(end).response_to_call();
        let _: Result<(), End> = send(&head, "", response).await;
        return end;
    }
    let (mut head, text) = Fault::of(end).response();
    if let Some(allow) = refusal.allow {
        head.fields.set("Allow", allow);
    }
    // A client that does not take its answer ends by what happened before.
    let _: Result<(), End> = send(&head, &text, response).await;
    end
}

/// Whether it is a call of gRPC: `application/grpc`, perhaps with a format (`+proto`), over HTTP/2.
fn is_call(request: &RequestHead) -> bool {
    const TYPE: &[u8] = b"application/grpc";
    request.version() == Version::Http2
        && request.fields.get("content-type").is_some_and(|value| {
            let format = value.get(TYPE.len()..).unwrap_or(b"-");
            value.starts_with(TYPE) && matches!(format.first(), None | Some(b'+' | b';'))
        })
}

async fn send(head: &ResponseHead, body: &str, response: &mut Responder<'_>) -> Result<(), End> {
    response.start(head).await?;
    if !body.is_empty() {
        response.write(body.as_bytes()).await?;
    }
    response.finish(None).await
}

async fn redirect(status: StatusCode, to: &str, response: &mut Responder<'_>) -> Result<End, End> {
    let mut head = ResponseHead::new(status, BodyLength::Exact(0));
    head.fields.push("Location", to);
    send(&head, "", response).await?;
    Ok(End::finished(Side::Atlas))
}

async fn respond(
    status: StatusCode,
    body: &str,
    content_type: &str,
    response: &mut Responder<'_>,
) -> Result<End, End> {
    let mut head = ResponseHead::new(status, BodyLength::Exact(body.len() as u64));
    if !body.is_empty() {
        head.fields.push("Content-Type", content_type);
    }
    send(&head, body, response).await?;
    Ok(End::finished(Side::Atlas))
}

/// Sends the page that is true for this request only.
async fn show(page: &str, response: &mut Responder<'_>) -> Result<End, End> {
    let mut head = ResponseHead::new(StatusCode::OK, BodyLength::Exact(page.len() as u64));
    head.fields.push("Content-Type", about::CONTENT_TYPE);
    head.fields.push("Cache-Control", "no-store");
    send(&head, page, response).await?;
    Ok(End::finished(Side::Atlas))
}

fn list(methods: &[Method]) -> String {
    methods.iter().map(Method::as_str).collect::<Vec<_>>().join(", ")
}

/// The path a route goes on with: without its prefix, if that shall be taken off.
pub fn path_below<'r>(route: &Route, path: &'r str) -> Cow<'r, str> {
    if !route.strip_prefix || path == "*" {
        return Cow::Borrowed(path);
    }
    let PathPattern::Prefix(prefix) = &route.path else {
        return Cow::Borrowed("/");
    };
    let prefix = prefix.trim_end_matches('/');
    match normal::path(path) {
        Some(Cow::Borrowed(path)) if is_below(path, prefix) => match &path[prefix.len()..] {
            "" => Cow::Borrowed("/"),
            rest => Cow::Borrowed(rest),
        },
        // Spelt in another way: the prefix is only there in the one spelling.
        Some(spelt) => {
            let prefix = normal::path(prefix).unwrap_or_default();
            match spelt.strip_prefix(&*prefix) {
                Some(rest) if rest.starts_with('/') => Cow::Owned(rest.to_owned()),
                Some(rest) => Cow::Owned(format!("/{rest}")),
                None => Cow::Owned(spelt.into_owned()),
            }
        }
        None => Cow::Borrowed(path), // cannot be: it was found
    }
}
