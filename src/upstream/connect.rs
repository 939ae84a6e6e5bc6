//! Connects to an endpoint: at whichever of its addresses answers first, then TLS where asked.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};

use super::Endpoint;
use crate::offload::Offload;
use crate::outcome::{Cause, End, Phase, Side};
use crate::runtime::{Address, Socket, before};
use crate::time::Deadline;
use crate::tls::{self, ClientSettings};
use crate::transport::Transport;

/// A connection that did not come about; displayed, it says why in a line.
pub(super) struct Failed {
    pub(super) end: End,
    reason: String,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl Failed {
    /// The endpoint was reached, and then did not speak as it should.
    pub(super) fn to_speak(end: End) -> Self {
        let reason = match end.cause {
            Cause::Malformed => "it does not speak HTTP/2".to_owned(),
            Cause::TimedOut => "it does not say in time how many streams of HTTP/2 it takes".to_owned(),
            cause => format!("HTTP/2: {}", cause.as_str()),
        };
        Self { end, reason }
    }
}

/// A connection to an endpoint, after any handshake.
pub(super) struct Connected {
    pub(super) transport: Transport,
    /// Where it leads.
    pub(super) address: Address,
    /// What TLS has agreed on.
    pub(super) has_chosen_http2: bool,
}

/// What a connection begins with.
#[derive(Clone, Copy)]
pub(super) struct How<'h> {
    /// What is said before anything else; may be empty.
    pub(super) introduction: &'h [u8],
    pub(super) tls: Option<&'h ClientSettings>,
    pub(super) offload: &'h Arc<Offload>,
}

/// Connects by the deadline.
pub(super) async fn connect(
    endpoint: &Endpoint,
    how: How<'_>,
    deadline: Deadline,
) -> Result<Connected, Failed> {
    let addresses = endpoint.addresses();
    let (place, socket) = reach(&addresses, deadline).await?;
    endpoint.prefer(place);
    introduce(&socket, how.introduction)?;
    let secured = secure(socket, how.tls, endpoint.host(), how.offload, deadline).await?;
    Ok(Connected {
        transport: secured.0,
        address: addresses[place].clone(),
        has_chosen_http2: secured.1,
    })
}

/// RFC 8305 §5: "the Connection Attempt Delay [...] One recommended value for a default delay is 250
/// milliseconds."
const NEXT_AFTER: Duration = Duration::from_millis(250);

/// The first address that can be connected to, and its place. Each is tried once the one before it has
/// failed or kept quiet for a while, which it goes on with beside the next; the slower ones are closed.
async fn reach(addresses: &[Address], deadline: Deadline) -> Result<(usize, Socket), Failed> {
    if let [only] = addresses {
        return attempt(0, only, deadline).await;
    }
    let mut failed = Failed {
        end: End::new(Side::Upstream, Phase::Connect, Cause::Unresolved),
        reason: "its name has no address yet".to_owned(),
    };
    let mut trying = FuturesUnordered::new();
    let mut left = addresses.iter().enumerate();
    loop {
        match left.next() {
            Some((place, address)) => trying.push(attempt(place, address, deadline)),
            None if trying.is_empty() => return Err(failed),
            None => {}
        }
        let patience = match left.len() {
            0 => deadline, // of each by itself
            _ => Deadline::within(NEXT_AFTER).or(deadline),
        };
        match before(patience, trying.next()).await {
            Ok(Some(Ok(reached))) => return Ok(reached),
            Ok(Some(Err(why))) => failed = why,
            Ok(None) => {}
            Err(_) if left.len() == 0 => return Err(silent(&addresses[addresses.len() - 1])),
            Err(_) => {}
        }
    }
}

async fn attempt(place: usize, address: &Address, deadline: Deadline) -> Result<(usize, Socket), Failed> {
    match before(deadline, Socket::connect(address)).await {
        Ok(Ok(socket)) => Ok((place, socket)),
        Ok(Err(error)) => Err(Failed {
            end: end_of(&error),
            reason: format!("{address}: {error}"),
        }),
        Err(_) => Err(silent(address)),
    }
}

fn silent(address: &Address) -> Failed {
    Failed {
        end: End::new(Side::Upstream, Phase::Connect, Cause::TimedOut),
        reason: format!("{address}: it does not answer in time"),
    }
}

/// Says what comes before anything else. A socket that was just connected has room for it.
fn introduce(socket: &Socket, introduction: &[u8]) -> Result<(), Failed> {
    if introduction.is_empty() {
        return Ok(());
    }
    match socket.try_send(introduction) {
        Ok(count) if count == introduction.len() => Ok(()),
        Ok(_) => Err(Failed {
            end: End::new(Side::Atlas, Phase::Connect, Cause::System),
            reason: "the socket does not take the PROXY header".to_owned(),
        }),
        Err(error) => Err(Failed {
            end: end_of(&error),
            reason: format!("it does not take the PROXY header: {error}"),
        }),
    }
}

/// TLS where asked; whether HTTP/2 was agreed on in it.
async fn secure(
    socket: Socket,
    settings: Option<&ClientSettings>,
    host: &str,
    offload: &Arc<Offload>,
    deadline: Deadline,
) -> Result<(Transport, bool), Failed> {
    let Some(settings) = settings else {
        return Ok((Transport::plain(socket), false));
    };
    match tls::connect(socket, settings, host, offload, deadline).await {
        Ok(secured) => Ok((secured.transport, secured.facts.alpn.as_deref() == Some("h2"))),
        Err(failed) => Err(Failed {
            end: End::new(failed.end.side, Phase::Connect, failed.end.cause),
            reason: format!("TLS: {failed}{}", advice(failed.end.cause)),
        }),
    }
}

/// What to look at in the upstream's `tls`.
fn advice(cause: Cause) -> &'static str {
    match cause {
        Cause::CertificateUntrusted => {
            "; `ca` says who signs for the upstream's endpoints, `server_name` what they are called"
        }
        Cause::NotTls => "; if it speaks without TLS on this port, leave out the upstream's `tls`",
        _ => "",
    }
}

fn end_of(error: &io::Error) -> End {
    use io::ErrorKind as Kind;
    let (side, cause) = match error.kind() {
        // Of a Unix socket: its queue is full.
        Kind::ConnectionRefused | Kind::WouldBlock => (Side::Upstream, Cause::Refused),
        // Of a Unix socket: there is none, or it may not be opened. A firewall may say the latter, too.
        Kind::NotFound | Kind::PermissionDenied => (Side::Upstream, Cause::Unreachable),
        Kind::HostUnreachable | Kind::NetworkUnreachable | Kind::NetworkDown => {
            (Side::Upstream, Cause::Unreachable)
        }
        Kind::TimedOut => (Side::Upstream, Cause::TimedOut),
        Kind::ConnectionReset | Kind::ConnectionAborted => (Side::Upstream, Cause::Reset),
        // No descriptors, no ports, no memory.
        _ => (Side::Atlas, Cause::System),
    };
    End::new(side, Phase::Connect, cause)
}
