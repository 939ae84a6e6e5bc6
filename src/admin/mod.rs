//! Metrics and health over plain HTTP, on the supervisor's thread and an address of its own.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ::http::{Method, StatusCode};

use crate::drain::Drain;
use crate::http::{BodyLength, Exchange, ResponseHead, Service, Settings, h1};
use crate::listener::{Slot, Slots};
use crate::metrics::{self, Counters, Process};
use crate::outcome::{Cause, End, Side};
use crate::runtime::{self, Listener, Socket};
use crate::time::{Deadline, wall};
use crate::transport::Transport;

/// Connections at a time. Scrapers and probes need a few; more wait in the kernel.
const CONNECTIONS_MAX: usize = 64;

/// How long accepting rests after an error that will not be gone at once.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// For the goodbye of a connection.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

const PLAIN: &str = "text/plain; charset=utf-8";

/// What the text encoder writes.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What there is, told to those who ask for something else.
const OVERVIEW: &str = "Atlas has here:\n  /metrics    counters for Prometheus\n  /-/healthy  200 while the process \
                        lives\n  /-/ready    200 while it takes new connections, else 503\n";

/// Whether new connections are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Readiness {
    /// The workers do not run yet.
    #[default]
    Starting,
    /// They run.
    Ready,
    /// The process is going away.
    Draining,
}

/// What is served, kept up to date by the supervisor.
pub struct Admin {
    workers: Vec<Arc<Counters>>,
    process: Arc<Process>,
    facts: RefCell<metrics::Facts>,
    readiness: Cell<Readiness>,
}

impl Admin {
    /// Not ready yet.
    pub fn new(workers: Vec<Arc<Counters>>, process: Arc<Process>, facts: metrics::Facts) -> Self {
        Self {
            workers,
            process,
            facts: RefCell::new(facts),
            readiness: Cell::default(),
        }
    }

    /// Tells those who probe.
    pub fn set_readiness(&self, readiness: Readiness) {
        self.readiness.set(readiness);
    }

    /// Changes what is known of the process.
    pub fn change_facts(&self, change: impl FnOnce(&mut metrics::Facts)) {
        change(&mut self.facts.borrow_mut());
    }

    fn answer_to(&self, method: &Method, path: &str) -> Answer {
        let is_read = method == Method::GET || method == Method::HEAD;
        match path {
            "/metrics" | "/-/healthy" | "/-/ready" if !is_read => Answer {
                status: StatusCode::METHOD_NOT_ALLOWED,
                content_type: PLAIN,
                body: "Only GET and HEAD are understood here.\n".to_owned(),
            },
            "/metrics" => Answer {
                status: StatusCode::OK,
                content_type: OPENMETRICS,
                body: metrics::text(&self.workers, &self.process, &self.facts.borrow(), wall()),
            },
            "/-/healthy" => Answer::plain(StatusCode::OK, "healthy\n"),
            "/-/ready" => match self.readiness.get() {
                Readiness::Ready => Answer::plain(StatusCode::OK, "ready\n"),
                Readiness::Starting => Answer::plain(StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
                Readiness::Draining => Answer::plain(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
            },
            _ => Answer::plain(StatusCode::NOT_FOUND, OVERVIEW),
        }
    }
}

struct Answer {
    status: StatusCode,
    content_type: &'static str,
    body: String,
}

impl Answer {
    fn plain(status: StatusCode, body: &str) -> Self {
        Self {
            status,
            content_type: PLAIN,
            body: body.to_owned(),
        }
    }

    fn head(&self) -> ResponseHead {
        let mut head = ResponseHead::new(self.status, BodyLength::Exact(self.body.len() as u64));
        head.fields.push("content-type", self.content_type);
        head.fields.push("cache-control", "no-store");
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            head.fields.push("allow", "GET, HEAD");
        }
        head
    }
}

impl Service for Admin {
    async fn answer(&self, mut exchange: Exchange<'_>) -> End {
        let answer = self.answer_to(exchange.request.method(), exchange.request.path());
        let response = &mut exchange.response;
        let sent = async {
            response.start(&answer.head()).await?;
            response.write(answer.body.as_bytes()).await?;
            response.finish(None).await
        };
        match sent.await {
            Ok(()) => End::finished(Side::Downstream),
            Err(end) => end,
        }
    }

    fn refused(&self, _line: &[u8], status: StatusCode, _bytes: u64, end: End) {
        tracing::debug!(status = status.as_u16(), %end, "refused a request to the admin address");
    }

    fn stream_refused(&self, _cause: Cause) {} // it speaks HTTP/1.1 only
}

/// Accepts and answers until it is dropped; connections it has accepted live on until `drain`
/// ends them. Runs beside the supervisor, on its runtime.
pub async fn serve(listener: Listener, admin: Rc<Admin>, drain: Drain) {
    let slots = Slots::new(CONNECTIONS_MAX);
    loop {
        slots.free().await;
        match listener.try_accept() {
            Ok((socket, _)) => {
                let connection = connection(socket, slots.take(), admin.clone(), drain.clone());
                // The panic hook has counted it and told of it.
                runtime::spawn(connection, |_| ());
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if let Err(error) = listener.readable().await {
                    rest_after(&error).await;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => rest_after(&error).await,
        }
    }
}

async fn rest_after(error: &io::Error) {
    tracing::warn!(%error, "cannot accept on the admin address");
    runtime::sleep(ACCEPT_REST).await;
}

async fn connection(socket: Socket, slot: Slot, admin: Rc<Admin>, drain: Drain) {
    let transport = Transport::plain(socket);
    let settings = Settings {
        body_bytes_max: Some(0),
        ..Settings::default()
    };
    let end = h1::server::serve(&transport, &settings, &*admin, &drain).await;
    tracing::debug!(%end, "a connection to the admin address ended");
    transport.close(Deadline::within(CLOSE_TIMEOUT)).await;
    drop(slot);
}

#[cfg(test)]
mod tests;
