//! The life of one downstream connection, from accept to close. Start reading here.

use std::cell::Cell;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{Either, select};

use crate::access_log::{self, ConnectionFacts, ConnectionRecord, Log, Moved};
use crate::buffer::Buffer;
use crate::drain::Drain;
use crate::generation::{Generation, Listener, Mode};
use crate::http::h1::server::Served;
use crate::http::{h1, h2};
use crate::listener::{Slot, proxy_protocol};
use crate::metrics::{Counters, Direction, Peer};
use crate::outcome::{Carriage, Carrier, Cause, End, Phase, Side, Tally};
use crate::proxy::Proxy;
use crate::runtime::{Address, Socket};
use crate::time::Deadline;
use crate::tls;
use crate::transport::Transport;

/// How long a peer may take to answer our close_notify and FIN with its own.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection as the kernel handed it over.
pub struct Accepted {
    /// The socket.
    pub socket: Socket,
    /// Who is at its other end; unknown on Unix sockets.
    pub peer: Option<SocketAddr>,
    /// The listener: its place in the generation.
    pub listener: usize,
    /// When it came.
    pub at: Instant,
    /// One of the connections the listener may have open, until this is dropped.
    pub slot: Slot,
}

/// What a connection is served by: a worker, and the generation in force when it came.
pub struct Serving {
    /// The worker's number.
    pub worker: usize,
    /// The worker's driver, in words.
    pub driver: Rc<str>,
    /// The configuration.
    pub generation: Arc<Generation>,
    /// Its routes, upstreams and roots, ready to answer.
    pub proxy: Proxy,
    /// Where records go.
    pub log: Rc<Log>,
    /// Where is counted.
    pub counters: Arc<Counters>,
    /// Whether this worker, or this generation, is going away.
    pub drain: Drain,
}

/// Serves one accepted connection to its end, and leaves one record.
pub async fn serve(accepted: Accepted, serving: &Serving) {
    let mut record = ConnectionRecord::start(accepted.at);
    let mut facts = Rc::new(facts(&accepted, serving));
    let counters = serving.counters.listener(&facts.listener);
    counters.connection_opened();
    let end = {
        let run = pin!(run(accepted, serving, &mut facts, &mut record));
        end_of(run, &serving.drain).await
    };
    counters.connection_closed();
    serving.counters.connection_ended(end);
    if !matches!(end.phase, Phase::Accept | Phase::Handshake) {
        serving
            .counters
            .carried(Peer::Downstream, facts.carriage.carrier.get());
    }
    serving.counters.carried_since(
        Peer::Downstream,
        Tally::default(),
        facts.carriage.tally(),
        Some(end),
    );
    serving.counters.records_moved(Peer::Downstream, &facts.carriage);
    record.finish(end, &facts, &serving.log);
}

/// How a connection ends: by itself, by a panic, which ends nothing else, or cut by a drain.
async fn end_of(run: Pin<&mut impl Future<Output = Result<End, End>>>, drain: &Drain) -> End {
    match select(AssertUnwindSafe(run).catch_unwind(), pin!(drain.cut())).await {
        Either::Left((Ok(end), _)) => end.unwrap_or_else(|end| end),
        // The panic hook has told what, and where.
        Either::Left((Err(_), _)) => End::new(Side::Atlas, Phase::Done, Cause::Panicked),
        Either::Right(_) => End::new(Side::Atlas, Phase::Close, Cause::Cut),
    }
}

async fn run(
    accepted: Accepted,
    serving: &Serving,
    facts: &mut Rc<ConnectionFacts>,
    record: &mut ConnectionRecord,
) -> Result<End, End> {
    let Accepted {
        socket,
        listener,
        at,
        slot,
        ..
    } = accepted;
    let listener = &serving.generation.listeners[listener];
    let deadline = Deadline::after(at, serving.generation.handshake_timeout);
    if listener.settings.proxy_protocol {
        let header = proxy_protocol::read(&socket, deadline).await?;
        learn_addresses(Rc::make_mut(facts), header);
    }
    // A panic is told with the connection it happened on, as far as that is known by then. And what an idle HTTP
    // connection does not need is boxed: this future is what it costs.
    let known = facts.clone();
    let secured = secure(socket, listener, deadline, serving, Rc::make_mut(facts));
    let transport = Box::pin(access_log::on_behalf_of(known, secured)).await?;
    let end = match &listener.mode {
        Mode::Http => {
            let served = pin!(http(&transport, listener, serving, facts));
            let served = pin!(access_log::on_behalf_of(facts.clone(), served));
            // Polled in this order: HTTP/2 says its last words at that step, and ends by itself.
            match select(served, pin!(serving.drain.cut())).await {
                Either::Left((end, _)) => end,
                Either::Right(_) => End::new(Side::Atlas, Phase::Close, Cause::Cut),
            }
        }
        Mode::Tcp(upstream) => {
            let client = facts.client.zip(facts.local);
            let pass = serving
                .proxy
                .pass(upstream, &transport, client, &serving.drain, record);
            Box::pin(access_log::on_behalf_of(facts.clone(), pass)).await
        }
    };
    if listener.mode == Mode::Http {
        record.moved = sent(&transport);
    }
    count(&transport, &serving.counters, record);
    if ends_in_order(end) {
        // What the kernel's TLS has accepted and not yet sent would be lost with the connection.
        let write_timeout = serving.generation.http.write_timeout;
        Box::pin(transport.close_after(write_timeout, CLOSE_TIMEOUT)).await;
    }
    drop(slot); // held to here: a connection that is closing still is one
    Ok(end)
}

/// What came and went, for the record and the counters.
fn count(transport: &Transport, counters: &Counters, record: &mut ConnectionRecord) {
    transport.count_records();
    record.bytes_in = transport.bytes_in();
    record.bytes_out = transport.bytes_out();
    counters.bytes_moved(Direction::FromDownstream, record.bytes_in);
    counters.bytes_moved(Direction::ToDownstream, record.bytes_out);
}

/// How the client's bytes went to it; where they came from the exchanges tell.
fn sent(transport: &Transport) -> Moved {
    let Tally {
        spliced, sendfile, ..
    } = transport.carriage().tally();
    Moved {
        spliced,
        sendfile,
        copied: transport.bytes_out().saturating_sub(spliced + sendfile),
    }
}

/// TLS, where the listener speaks it.
async fn secure(
    socket: Socket,
    listener: &Listener,
    deadline: Deadline,
    serving: &Serving,
    facts: &mut ConnectionFacts,
) -> Result<Transport, End> {
    let Some(settings) = &listener.tls else {
        let transport = Transport::plain(socket);
        facts.carriage = transport.carriage().clone();
        return Ok(transport);
    };
    match tls::accept(socket, settings, &serving.generation.offload, deadline).await {
        Ok(secured) => {
            serving
                .counters
                .handshake_finished(secured.facts.version, secured.facts.resumed);
            facts.server_name = secured.facts.server_name;
            facts.tls_version = Some(secured.facts.version);
            facts.cipher = Some(secured.facts.cipher);
            facts.alpn = secured.facts.alpn;
            facts.resumed = secured.facts.resumed;
            facts.carriage = secured.transport.carriage().clone();
            Ok(secured.transport)
        }
        Err(failed) => {
            serving.counters.handshake_failed(failed.end.cause);
            if failed.end.cause == Cause::KernelRefusedKeys {
                serving.counters.promotion_failed(Peer::Downstream);
            }
            // Scanners and health checks connect and go: that is no news.
            if failed.offered.is_some() || failed.end.cause != Cause::Closed {
                tracing::info!(client = who(facts.client), listener = %facts.listener, "TLS handshake failed: {failed}");
            }
            Err(failed.end)
        }
    }
}

async fn http(
    transport: &Transport,
    listener: &Listener,
    serving: &Serving,
    facts: &Rc<ConnectionFacts>,
) -> End {
    // A client that has one certificate before it must not get another name's content under it.
    let is_misdirected = |host: &str| match (&listener.tls, &facts.server_name) {
        (Some(tls), Some(name)) => {
            !Arc::ptr_eq(&tls.certificate_for(name).key, &tls.certificate_for(host).key)
        }
        _ => false,
    };
    let visit = serving.proxy.visit(facts.clone(), is_misdirected);
    let (settings, drain) = (&serving.generation.http, &serving.drain);
    let input = match facts.alpn.as_deref() {
        Some("h2") => Buffer::none(),
        _ => {
            let takes_http2 = listener.tls.is_none() && listener.speaks_http2;
            match h1::server::serve_unless_http2(transport, settings, &visit, drain, takes_http2).await {
                Served::End(end) => return end,
                Served::Http2(input) => input,
            }
        }
    };
    // Boxed: what HTTP/2 needs, connections of HTTP/1 do not pay for.
    Box::pin(h2::server::serve(transport, input, settings, &visit, drain)).await
}

/// Whether the peer still hears a goodbye. One that reset, or stopped reading, does not; nor does
/// one that was cut off, as its time is over.
fn ends_in_order(end: End) -> bool {
    let has_stopped_reading = end.cause == Cause::TimedOut
        && end.side == Side::Downstream
        && matches!(end.phase, Phase::Response | Phase::ResponseBody | Phase::Relay);
    !has_stopped_reading
        && !matches!(
            end.cause,
            Cause::Reset | Cause::TooSlow | Cause::Panicked | Cause::System | Cause::Cut
        )
}

/// What is known before the first byte.
fn facts(accepted: &Accepted, serving: &Serving) -> ConnectionFacts {
    let settings = &serving.generation.listeners[accepted.listener].settings;
    let local = match settings.address {
        Address::Tcp(address) if !address.ip().is_unspecified() && address.port() != 0 => Some(address),
        Address::Tcp(_) => accepted.socket.local(),
        Address::Unix(_) => None,
    };
    ConnectionFacts {
        worker: serving.worker,
        listener: settings.name.clone(),
        listener_index: accepted.listener,
        client: accepted.peer,
        peer: accepted.peer,
        local,
        server_name: None,
        tls_version: None,
        cipher: None,
        alpn: None,
        resumed: false,
        carriage: Rc::new(Carriage::new(Carrier::None)),
        streams_refused: Cell::new(0),
        driver: serving.driver.clone(),
    }
}

/// Whom the load balancer speaks for; itself, if it says nothing.
fn learn_addresses(facts: &mut ConnectionFacts, header: proxy_protocol::Header) {
    if let Some((client, local)) = header.addresses {
        facts.client = Some(client);
        facts.local = Some(local);
    }
}

fn who(address: Option<SocketAddr>) -> String {
    address.map_or_else(|| "unix".to_owned(), |address| address.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a future of this function would take, without making one.
    fn size_of_future<A, B, F: Future>(_: impl FnOnce(A, B) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_panic_ends_its_connection_by_name_and_nothing_else() {
        let panics = pin!(async { panic!("as the test wants") });
        let end = end_of(panics, &Drain::new()).now_or_never();
        assert_eq!(end, Some(End::new(Side::Atlas, Phase::Done, Cause::Panicked)));
        let other = pin!(async { Err(End::finished(Side::Downstream)) });
        let end = end_of(other, &Drain::new()).now_or_never();
        assert_eq!(end, Some(End::finished(Side::Downstream)));
    }

    #[test]
    fn a_connection_future_stays_small() {
        let bytes = size_of_future(|accepted, serving: &'static Serving| serve(accepted, serving));
        assert!(bytes <= 4096, "one connection costs {bytes} bytes of future");
    }
}
