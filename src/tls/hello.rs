//! Looks at a ClientHello before it is answered: the name asked for.

use rustls::server::{Accepted, Acceptor};

use super::handshake::{Peer, Stop, receive, send};
use super::{Failed, Offered};
use crate::buffer::Buffer;
use crate::outcome::Cause;
use crate::runtime::Socket;
use crate::time::Deadline;

/// A connection whose ClientHello came and was not yet answered.
pub(super) struct Hello {
    pub(super) socket: Socket,
    pub(super) accepted: Accepted,
    /// What came behind the ClientHello.
    pub(super) unread: Buffer,
    pub(super) offered: Offered,
}

impl Hello {
    /// The name the client asks for, in lower case.
    pub(super) fn server_name(&self) -> Option<String> {
        let hello = self.accepted.client_hello();
        hello.server_name().map(str::to_ascii_lowercase)
    }
}

/// Waits for a ClientHello and reads it.
///
/// A request in plain HTTP is answered with `400` and a hint; a ClientHello that is not good, with
/// its alert.
///
/// # Errors
///
/// `NotTls`, `Malformed`, `TimedOut`, `Closed`, `Reset`, and what rustls finds to refuse so early.
pub(super) async fn peek(socket: Socket, deadline: Deadline) -> Result<Hello, Failed> {
    let mut offered = Offered::default();
    match read_hello(&socket, &mut offered, deadline).await {
        Ok((accepted, unread)) => Ok(Hello {
            socket,
            accepted,
            unread,
            offered,
        }),
        Err(Stop::Cause(Cause::NotTls)) => {
            if offered.starts_like_http() {
                let _ = send(&socket, HTTPS_IS_SPOKEN_HERE, deadline).await;
                let _ = socket.shutdown_write();
            }
            Err(Stop::Cause(Cause::NotTls).into_failed(Peer::Client))
        }
        Err(stop) if offered.is_empty() => Err(stop.into_failed(Peer::Client)),
        Err(stop) => Err(stop.into_failed(Peer::Client).after(offered)),
    }
}

/// The record type of a handshake, which a TLS connection starts with.
const HANDSHAKE: u8 = 22;

const HTTPS_IS_SPOKEN_HERE: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\
    Connection: close\r\n\
    Content-Type: text/plain\r\n\
    Content-Length: 49\r\n\
    \r\n\
    This port speaks HTTPS; ask with https:// for it\n";

async fn read_hello(
    socket: &Socket,
    offered: &mut Offered,
    deadline: Deadline,
) -> Result<(Accepted, Buffer), Stop> {
    let mut acceptor = Acceptor::default();
    loop {
        let mut unread = receive(socket, deadline).await?;
        let is_first = offered.is_empty();
        offered.push(unread.filled());
        if is_first && unread.filled()[0] != HANDSHAKE {
            return Err(Stop::Cause(Cause::NotTls));
        }
        while !unread.is_empty() {
            // rustls takes some 4 KiB at a time; nothing at all only if the message is too long.
            let count = acceptor.read_tls(&mut unread.filled()).unwrap_or(0);
            unread.consume(count);
            match acceptor.accept() {
                Ok(Some(accepted)) => return Ok((accepted, unread)),
                Ok(None) if count == 0 => return Err(Stop::Cause(Cause::Malformed)),
                Ok(None) => {}
                Err((error, mut alert)) => {
                    let mut bytes = Vec::new();
                    let _ = alert.write_all(&mut bytes); // into memory: cannot fail
                    let _ = send(socket, &bytes, deadline).await;
                    return Err(Stop::refused(error, &bytes));
                }
            }
        }
    }
}
