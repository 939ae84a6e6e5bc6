//! One check of one endpoint: a connection of its own, perhaps a request, and what to make of it.

use std::rc::Rc;
use std::sync::Arc;

use http::Method;

use super::check::{Check, Request};
use crate::http::client::{RequestWriter, ResponseReader};
use crate::http::h1::client::{Outgoing, Settings};
use crate::http::{BodyLength, Fields, h1, h2};
use crate::offload::Offload;
use crate::outcome::{Cause, End};
use crate::runtime::before;
use crate::time::{Deadline, now};
use crate::upstream::Endpoint;
use crate::upstream::connect::{self, Connected, Failed, How};

/// How much of a body is searched.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// What the head of an answer may have.
const HEAD_BYTES_MAX: usize = 64 * 1024;
const FIELDS_MAX: usize = 200;

/// Asks once, within the check's timeout.
///
/// # Errors
///
/// Why it is not well, and what to look at, in words for the operator.
pub(super) async fn ask(endpoint: &Endpoint, check: &Check, offload: &Arc<Offload>) -> Result<(), String> {
    let deadline = Deadline::after(now(), check.timeout);
    let introduction = check.proxy_protocol.map(|version| version.header(None));
    let how = How {
        introduction: introduction.as_deref().unwrap_or_default(),
        tls: check.tls.as_deref(),
        offload,
    };
    let connected = connect::connect(endpoint, how, deadline).await;
    let connected = connected.map_err(|failed| unreachable(&failed))?;
    let Some(request) = &check.request else {
        connected.transport.part();
        return Ok(());
    };
    let target = &request.target;
    match before(deadline, speak(connected, check, request, endpoint, deadline)).await {
        Ok(result) => result.map_err(|why| format!("GET {target}: {why}")),
        Err(_) => Err(format!(
            "GET {target}: no answer within {:?}; it hangs, or has too much to do",
            check.timeout
        )),
    }
}

fn unreachable(failed: &Failed) -> String {
    let advice = match failed.end.cause {
        Cause::Refused => "; does it run, and listen there?",
        Cause::TimedOut => "; it hangs, or a firewall is in between",
        Cause::Unresolved => "; look at the name and the machine's resolver",
        _ => "",
    };
    format!("{failed}{advice}")
}

/// In the version of HTTP that requests come in.
async fn speak(
    connected: Connected,
    check: &Check,
    request: &Request,
    endpoint: &Endpoint,
    deadline: Deadline,
) -> Result<(), String> {
    let settings = Settings {
        idle_timeout: check.timeout,
        head_bytes_max: HEAD_BYTES_MAX,
        fields_max: FIELDS_MAX,
    };
    let is_secure = check.tls.is_some();
    let transport = connected.transport;
    if !check.http2 || (is_secure && !connected.has_chosen_http2) {
        let mut connection = h1::client::Connection::new(transport, settings);
        let (writer, reader) = connection.exchange();
        let both = (RequestWriter::H1(writer), ResponseReader::H1(reader));
        return exchange(both, request, endpoint, deadline).await;
    }
    let bell = Rc::default(); // nobody else waits for a stream of it
    let window = h2::client::WINDOW_BYTES;
    let opened = h2::client::Connection::open(transport, settings, window, is_secure, bell, deadline).await;
    let connection = opened.map_err(|end| Failed::to_speak(end).to_string())?;
    let mut stream = connection.take();
    let (writer, reader) = stream.exchange();
    let both = (RequestWriter::H2(writer), ResponseReader::H2(reader));
    exchange(both, request, endpoint, deadline).await
}

async fn exchange(
    (mut writer, mut reader): (RequestWriter<'_>, ResponseReader<'_>),
    request: &Request,
    endpoint: &Endpoint,
    deadline: Deadline,
) -> Result<(), String> {
    let mut fields = Fields::new();
    let host = request.host.as_deref();
    fields.push("Host", host.unwrap_or_else(|| endpoint.authority()));
    fields.push("User-Agent", concat!("atlas-check/", env!("CARGO_PKG_VERSION")));
    let outgoing = Outgoing {
        method: &Method::GET,
        target: &request.target,
        fields: &fields,
        body: BodyLength::None,
        asks_upgrade: false,
    };
    writer.start(&outgoing).await.map_err(words)?;
    writer.finish(None).await.map_err(words)?;
    let head = loop {
        let head = reader.head(deadline).await.map_err(words)?;
        if !head.status.is_informational() {
            break head;
        }
    };
    let status = head.status.as_u16();
    if !request.statuses.contain(status) {
        let wanted = &request.statuses;
        return Err(format!(
            "answered with {status}, not {wanted}; look into the application's log"
        ));
    }
    match &request.body {
        Some(text) => search(&mut reader, text).await,
        None => Ok(()),
    }
}

async fn search(reader: &mut ResponseReader<'_>, text: &str) -> Result<(), String> {
    let mut body = Vec::new();
    while let Some(piece) = reader.read().await.map_err(words)? {
        let room = BODY_BYTES_MAX - body.len();
        body.extend_from_slice(&piece[..piece.len().min(room)]);
        if memchr::memmem::find(&body, text.as_bytes()).is_some() {
            return Ok(());
        }
        if body.len() == BODY_BYTES_MAX {
            break;
        }
    }
    Err(format!("{text:?} is not in the body; look at what it answers"))
}

fn words(end: End) -> String {
    let what = match end.cause {
        Cause::Closed | Cause::Truncated => "it closed the connection without an answer",
        Cause::Reset => "it reset the connection",
        Cause::TimedOut => "no answer in time; it hangs, or has too much to do",
        Cause::Malformed => "what it answers is not HTTP; is this the right port?",
        Cause::LimitReached => "the head of its answer is too large",
        cause => return format!("the connection failed: {}", cause.as_str()),
    };
    what.to_owned()
}
