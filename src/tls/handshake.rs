//! Drives a handshake of rustls over a socket, under one deadline, to a transport or an alert.

use std::io;
use std::sync::Arc;

use rustls::client::ClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::Accepted;
use rustls::{
    AlertDescription, CipherSuite, CommonState, ConnectionCommon, Error, HandshakeKind, InvalidMessage,
    PeerIncompatible, ProtocolVersion, SideData,
};

use super::hello::{self, Hello};
use super::{Alert, ClientSettings, Failed, Secured, Settings, TlsFacts};
use crate::buffer::{self, Buffer};
use crate::offload::Offload;
use crate::outcome::{Cause, End, Phase, Refusal, Side};
use crate::runtime::{Socket, before};
use crate::time::Deadline;
use crate::transport::{Promotion, Sealed, Transport};

/// Does a server's handshake with a client, its ClientHello included. `offload`: what the kernel can
/// do, so that a connection which may go there later begins in the right way.
///
/// # Errors
///
/// See [`Failed`]; the alert was sent, and the socket is closed.
pub async fn accept(
    socket: Socket,
    settings: &Settings,
    offload: &Arc<Offload>,
    deadline: Deadline,
) -> Result<Secured, Failed> {
    let hello = hello::peek(socket, deadline).await?;
    let server_name = hello.server_name();
    let Hello {
        socket,
        accepted,
        unread,
        offered,
    } = hello;
    let done = match refusal(&socket, settings.prefer_ktls, offload) {
        Some(refusal) => accept_rustls(socket, accepted, unread, settings, refusal, deadline).await,
        None => {
            // The same bytes once more, for one who hides none; only they were parsed twice.
            drop((accepted, unread));
            accept_sealed(socket, offered.records(), settings, offload, deadline).await
        }
    };
    match done {
        Ok(mut secured) => {
            secured.facts.server_name = server_name;
            Ok(secured)
        }
        Err(stop) => Err(stop.into_failed(Peer::Client).after(offered)),
    }
}

/// Why this connection cannot go to the kernel, whatever is agreed on with its peer.
fn refusal(socket: &Socket, prefer_ktls: bool, offload: &Offload) -> Option<Refusal> {
    if !prefer_ktls {
        return Some(Refusal::NotPreferred);
    }
    // TCP_ULP is an option of TCP; its failure would be found out, and told, for every connection.
    offload
        .refusal()
        .or_else(|| (!socket.is_tcp()).then_some(Refusal::UnixSocket))
}

async fn accept_rustls(
    socket: Socket,
    accepted: Accepted,
    mut unread: Buffer,
    settings: &Settings,
    refusal: Refusal,
    deadline: Deadline,
) -> Result<Secured, Stop> {
    let mut connection = match accepted.into_connection(settings.server.clone()) {
        Ok(connection) => connection,
        Err((error, mut alert)) => {
            let mut bytes = Vec::new();
            let _ = alert.write_all(&mut bytes); // into memory: cannot fail
            let _ = send(&socket, &bytes, deadline).await;
            return Err(Stop::refused(error, &bytes));
        }
    };
    drive(&mut connection, &socket, &mut unread, deadline).await?;
    Ok(Secured {
        facts: facts(&connection),
        transport: Transport::rustls_server(socket, connection, unread, refusal),
    })
}

async fn accept_sealed(
    socket: Socket,
    records: &[u8],
    settings: &Settings,
    offload: &Arc<Offload>,
    deadline: Deadline,
) -> Result<Secured, Stop> {
    let mut sealed = Sealed::server(settings.server.clone(), records).map_err(Stop::ours)?;
    drive_sealed(&mut sealed, &socket, deadline).await?;
    let promotion = Promotion {
        offload: offload.clone(),
        threshold: settings.ktls_threshold,
    };
    secured(socket, sealed, promotion, settings.speaks)
}

/// A connection on our own stream; where everything is to be in the kernel, it moves there now. `speaks`: what was
/// agreed on by ALPN is spoken here.
fn secured(socket: Socket, sealed: Sealed, promotion: Promotion, speaks: bool) -> Result<Secured, Stop> {
    let facts = facts(sealed.agreed());
    let transport = Transport::sealed(socket, sealed, promotion);
    match facts.alpn.as_deref() {
        // Its frames are written by this process, some of each kilobyte: nothing could be spliced, and
        // copied to the kernel's TLS 10 MiB took 11 to 13 % more instructions than by our own (Linux 6.12).
        Some("h2") if speaks => transport.stay(Refusal::Http2),
        _ => transport.promote(0)?,
    }
    Ok(Secured { transport, facts })
}

/// Does a client's handshake with an endpoint. `host` is the endpoint's name or address; it is
/// what the certificate has to stand for, unless the settings name another. `offload` as in
/// [`accept`].
///
/// # Errors
///
/// See [`Failed`]; the alert was sent, and the socket is closed.
pub async fn connect(
    socket: Socket,
    settings: &ClientSettings,
    host: &str,
    offload: &Arc<Offload>,
    deadline: Deadline,
) -> Result<Secured, Failed> {
    let done = async {
        let name = match &settings.server_name {
            Some(name) => name.clone(),
            None => ClientSettings::parse_name(host).map_err(|_| Stop::Cause(Cause::Unresolved))?,
        };
        match refusal(&socket, settings.prefer_ktls, offload) {
            Some(refusal) => connect_rustls(socket, settings, name, refusal, deadline).await,
            None => connect_sealed(socket, settings, name, offload, deadline).await,
        }
    };
    done.await.map_err(|stop: Stop| stop.into_failed(Peer::Endpoint))
}

async fn connect_rustls(
    socket: Socket,
    settings: &ClientSettings,
    name: ServerName<'static>,
    refusal: Refusal,
    deadline: Deadline,
) -> Result<Secured, Stop> {
    let mut connection = ClientConnection::new(settings.client.clone(), name).map_err(Stop::ours)?;
    let mut unread = Buffer::none();
    drive(&mut connection, &socket, &mut unread, deadline).await?;
    Ok(Secured {
        facts: facts(&connection),
        transport: Transport::rustls_client(socket, connection, unread, refusal),
    })
}

async fn connect_sealed(
    socket: Socket,
    settings: &ClientSettings,
    name: ServerName<'static>,
    offload: &Arc<Offload>,
    deadline: Deadline,
) -> Result<Secured, Stop> {
    let mut sealed = Sealed::client(settings.client.clone(), name).map_err(Stop::ours)?;
    drive_sealed(&mut sealed, &socket, deadline).await?;
    let promotion = Promotion {
        offload: offload.clone(),
        threshold: settings.ktls_threshold,
    };
    secured(socket, sealed, promotion, true)
}

/// As [`drive`], on our own stream.
async fn drive_sealed(sealed: &mut Sealed, socket: &Socket, deadline: Deadline) -> Result<(), Stop> {
    loop {
        match sealed.shake() {
            Ok(false) => {
                flush(sealed, socket, deadline).await?;
                fetch(sealed, socket, deadline).await?;
            }
            Ok(true) if sealed.agreed().protocol_version() == Some(ProtocolVersion::TLSv1_3) => {
                return Ok(());
            }
            Ok(true) => return flush(sealed, socket, deadline).await,
            Err(error) => {
                let stop = Stop::refused(error, sealed.outgoing());
                // If the peer does not take the alert the connection ends all the same.
                let _ = flush(sealed, socket, deadline).await;
                return Err(stop);
            }
        }
    }
}

async fn flush(sealed: &mut Sealed, socket: &Socket, deadline: Deadline) -> Result<(), Stop> {
    loop {
        match sealed.try_flush(socket) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                before(deadline, socket.writable())
                    .await
                    .map_err(|_| Stop::Cause(Cause::TimedOut))??;
            }
            result => return Ok(result?),
        }
    }
}

/// Waits for more of the peer's records; while it waits, only what has begun is held.
async fn fetch(sealed: &mut Sealed, socket: &Socket, deadline: Deadline) -> Result<(), Stop> {
    let wait = async {
        socket.turn().await;
        loop {
            match sealed.fetch(socket) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => socket.readable().await?,
                // What rustls refuses is told by the next step, with its alert.
                Err(error) if error.kind() == io::ErrorKind::InvalidData => return Ok(()),
                result => return result,
            }
        }
    };
    Ok(before(deadline, wait)
        .await
        .map_err(|_| Stop::Cause(Cause::TimedOut))??)
}

/// Everything between the ClientHello and the last Finished.
///
/// In TLS 1.3 the last flight (a client's Finished, a server's tickets) is left in `connection`:
/// the transport sends it together with the first bytes of data, or before it first waits.
async fn drive<D: SideData>(
    connection: &mut ConnectionCommon<D>,
    socket: &Socket,
    unread: &mut Buffer,
    deadline: Deadline,
) -> Result<(), Stop> {
    while connection.is_handshaking() {
        send_flight(connection, socket, deadline).await?;
        if unread.is_empty() {
            *unread = Buffer::none();
            *unread = receive(socket, deadline).await?;
        }
        // All that came in one go, so that what rustls has to say to it goes out in one go too.
        while connection.is_handshaking() && !unread.is_empty() {
            let count = connection.read_tls(&mut unread.filled())?;
            unread.consume(count);
            if let Err(error) = connection.process_new_packets() {
                return Err(refuse(connection, socket, error, deadline).await);
            }
        }
    }
    if connection.protocol_version() == Some(ProtocolVersion::TLSv1_3) {
        return Ok(());
    }
    send_flight(connection, socket, deadline).await
}

/// Sends all that rustls wants to say, as one piece.
async fn send_flight<D: SideData>(
    connection: &mut ConnectionCommon<D>,
    socket: &Socket,
    deadline: Deadline,
) -> Result<(), Stop> {
    if !connection.wants_write() {
        return Ok(());
    }
    let flight = take_flight(connection);
    let sent = send(socket, &flight, deadline).await;
    buffer::give_vec(flight);
    sent
}

fn take_flight<D: SideData>(connection: &mut ConnectionCommon<D>) -> Vec<u8> {
    let mut flight = buffer::take_vec();
    while connection.wants_write() && connection.write_tls(&mut flight).is_ok() {}
    flight
}

/// Ends a handshake that rustls refuses; its alert goes out first.
async fn refuse<D: SideData>(
    connection: &mut ConnectionCommon<D>,
    socket: &Socket,
    error: Error,
    deadline: Deadline,
) -> Stop {
    let flight = take_flight(connection);
    // If the peer does not take the alert the connection ends all the same.
    let _ = send(socket, &flight, deadline).await;
    let stop = Stop::refused(error, &flight);
    buffer::give_vec(flight);
    stop
}

/// Sends all of `bytes`.
pub(super) async fn send(socket: &Socket, mut bytes: &[u8], deadline: Deadline) -> Result<(), Stop> {
    while !bytes.is_empty() {
        match socket.try_send(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                before(deadline, socket.writable())
                    .await
                    .map_err(|_| Stop::Cause(Cause::TimedOut))??;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Receives something, never nothing. While it waits it holds no buffer.
pub(super) async fn receive(socket: &Socket, deadline: Deadline) -> Result<Buffer, Stop> {
    let wait = async {
        socket.turn().await;
        loop {
            if socket.maybe_readable() {
                let mut buffer = Buffer::small();
                match socket.try_recv(buffer.space()) {
                    Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok(count) => {
                        buffer.fill(count);
                        return Ok(buffer);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
            socket.readable().await?;
        }
    };
    Ok(before(deadline, wait)
        .await
        .map_err(|_| Stop::Cause(Cause::TimedOut))??)
}

/// What was agreed on; the name is for the caller to add.
fn facts(connection: &CommonState) -> TlsFacts {
    TlsFacts {
        server_name: None,
        version: match connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            _ => "TLSv1.2",
        },
        cipher: connection
            .negotiated_cipher_suite()
            .and_then(|suite| suite_name(suite.suite()))
            .unwrap_or("unknown"),
        alpn: connection
            .alpn_protocol()
            .map(|name| String::from_utf8_lossy(name).into_owned()),
        resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
    }
}

/// A cipher suite's name in the registry of IANA.
pub(super) fn suite_name(suite: CipherSuite) -> Option<&'static str> {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => Some("TLS_AES_128_GCM_SHA256"),
        CipherSuite::TLS13_AES_256_GCM_SHA384 => Some("TLS_AES_256_GCM_SHA384"),
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => Some("TLS_CHACHA20_POLY1305_SHA256"),
        CipherSuite::TLS13_AES_128_CCM_SHA256 => Some("TLS_AES_128_CCM_SHA256"),
        CipherSuite::TLS13_AES_128_CCM_8_SHA256 => Some("TLS_AES_128_CCM_8_SHA256"),
        other => other.as_str(),
    }
}

/// Whom the handshake is with.
#[derive(Clone, Copy)]
pub(super) enum Peer {
    Client,
    Endpoint,
}

/// Why a handshake does not go on.
#[derive(Debug)]
pub(super) enum Stop {
    /// The socket.
    Io(io::Error),
    /// rustls.
    Refused { error: Error, alert: Option<Alert> },
    /// A rule of Atlas.
    Cause(Cause),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Stop {
    /// A configuration that rustls does not take; nothing was sent.
    fn ours(error: Error) -> Self {
        Self::Refused { error, alert: None }
    }

    /// An error of rustls, and what was sent because of it.
    pub(super) fn refused(error: Error, sent: &[u8]) -> Self {
        let alert = match &error {
            Error::AlertReceived(description) => Some(Alert::Received(*description)),
            error => alert_in(sent).or_else(|| alert_for(error)).map(Alert::Sent),
        };
        Self::Refused { error, alert }
    }

    pub(super) fn into_failed(self, peer: Peer) -> Failed {
        let (side, phase) = match peer {
            Peer::Client => (Side::Downstream, Phase::Handshake),
            Peer::Endpoint => (Side::Upstream, Phase::Connect),
        };
        let (cause, alert, reason) = match self {
            Self::Io(error) => (cause_of_io(&error), None, None),
            Self::Refused { error, alert } => (cause_of(&error), alert, Some(error)),
            Self::Cause(cause) => (cause, None, None),
        };
        let side = match cause {
            Cause::System | Cause::KernelRefusedKeys => Side::Atlas,
            _ => side,
        };
        Failed {
            alert,
            reason,
            ..End::new(side, phase, cause).into()
        }
    }
}

/// The alert at the end of a flight that is not encrypted.
fn alert_in(flight: &[u8]) -> Option<AlertDescription> {
    const ALERT: u8 = 21;
    match flight.get(flight.len().checked_sub(7)?..)? {
        [ALERT, 3, _, 0, 2, _level, description] => Some(AlertDescription::from(*description)),
        _ => None,
    }
}

/// The alert rustls sends for an error, where it went out encrypted.
fn alert_for(error: &Error) -> Option<AlertDescription> {
    match error {
        Error::InvalidCertificate(error) => Some(AlertDescription::from(error.clone())),
        Error::NoApplicationProtocol => Some(AlertDescription::NoApplicationProtocol),
        Error::DecryptError => Some(AlertDescription::BadRecordMac),
        Error::InvalidMessage(_) => Some(AlertDescription::DecodeError),
        Error::PeerMisbehaved(_) => Some(AlertDescription::IllegalParameter),
        Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
            Some(AlertDescription::UnexpectedMessage)
        }
        _ => None,
    }
}

fn cause_of_io(error: &io::Error) -> Cause {
    use io::ErrorKind;
    match error.kind() {
        _ if Cause::of(error) == Cause::KernelRefusedKeys => Cause::KernelRefusedKeys,
        ErrorKind::UnexpectedEof => Cause::Closed,
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe => Cause::Reset,
        ErrorKind::TimedOut => Cause::TimedOut,
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Cause::Unreachable,
        // rustls' own words for a message that is longer than it takes.
        ErrorKind::InvalidData | ErrorKind::Other => Cause::Malformed,
        _ => Cause::System,
    }
}

fn cause_of(error: &Error) -> Cause {
    match error {
        Error::NoApplicationProtocol => Cause::NoCommonProtocol,
        Error::PeerIncompatible(reason) => cause_of_incompatible(reason),
        Error::AlertReceived(description) => cause_of_alert(*description),
        Error::InvalidCertificate(_) | Error::NoCertificatesPresented => Cause::CertificateUntrusted,
        // Another protocol: HTTP without TLS, mostly.
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => Cause::NotTls,
        Error::InvalidMessage(_)
        | Error::DecryptError
        | Error::PeerMisbehaved(_)
        | Error::PeerSentOversizedRecord
        | Error::InvalidEncryptedClientHello(_)
        | Error::InappropriateMessage { .. }
        | Error::InappropriateHandshakeMessage { .. } => Cause::Malformed,
        _ => Cause::System,
    }
}

fn cause_of_incompatible(reason: &PeerIncompatible) -> Cause {
    match reason {
        PeerIncompatible::ServerDoesNotSupportTls12Or13
        | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
        | PeerIncompatible::SupportedVersionsExtensionRequired
        | PeerIncompatible::Tls12NotOffered
        | PeerIncompatible::Tls12NotOfferedOrEnabled => Cause::NoCommonVersion,
        PeerIncompatible::KeyShareExtensionRequired
        | PeerIncompatible::NamedGroupsExtensionRequired
        | PeerIncompatible::SignatureAlgorithmsExtensionRequired
        | PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon
        | PeerIncompatible::NoCipherSuitesInCommon
        | PeerIncompatible::NoEcPointFormatsInCommon
        | PeerIncompatible::NoKxGroupsInCommon
        | PeerIncompatible::NoSignatureSchemesInCommon => Cause::NoCommonCipher,
        _ => Cause::Unsupported,
    }
}

fn cause_of_alert(description: AlertDescription) -> Cause {
    match description {
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnknownCA => Cause::CertificateRejected,
        AlertDescription::ProtocolVersion => Cause::NoCommonVersion,
        AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity => Cause::NoCommonCipher,
        AlertDescription::NoApplicationProtocol => Cause::NoCommonProtocol,
        AlertDescription::UserCanceled | AlertDescription::CloseNotify => Cause::Closed,
        _ => Cause::Alert,
    }
}
