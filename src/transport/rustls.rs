//! TLS records made and opened in this process, by rustls through monoio-rustls.

use std::io;

use rustls::{ClientConnection, ServerConnection};

use super::limits::Wear;
use crate::buffer::{self, Buffer};
use crate::outcome::Cause;
use crate::runtime::Socket;
use crate::sys::tls_stream::TlsStream;

/// Plaintext of one record at the most, RFC 8446 §5.1.
const RECORD_PLAINTEXT_MAX: usize = 16 * 1024;

/// A record may come in two pieces: so many bytes without data among them mean nothing.
const RECORD_MAX: usize = 17 * 1024;

/// Bytes that may come without one of data among them: tickets and key updates of a peer that is well are a
/// hundredth of that.
const IN_VAIN_MAX: usize = 512 * 1024;

/// A byte that came in vain counts as so many that were copied: records that are no data have some 27 bytes
/// at the least, and cost some 5 µs each.
const IN_VAIN_COST: usize = 16;

/// One connection's records.
pub(super) struct Rustls {
    stream: TlsStream,
    /// How much of the stream's outgoing queue the kernel has.
    sent: usize,
    /// The last read filled its buffer; so the next one gets a large one.
    bulk: bool,
    /// Bytes that came since the last one of data.
    in_vain: usize,
    wear: Wear,
}

impl Rustls {
    pub(super) fn server(connection: ServerConnection, unread: Buffer) -> Self {
        let wear = Wear::of_rustls(&connection);
        Self::new(TlsStream::server(connection, unread), wear)
    }

    pub(super) fn client(connection: ClientConnection, unread: Buffer) -> Self {
        let wear = Wear::of_rustls(&connection);
        Self::new(TlsStream::client(connection, unread), wear)
    }

    fn new(stream: TlsStream, wear: Wear) -> Self {
        Self {
            stream,
            sent: 0,
            bulk: false,
            in_vain: 0,
            wear,
        }
    }

    pub(super) fn is_worn(&self) -> bool {
        self.wear.is_half_over()
    }

    pub(super) fn try_read(&mut self, socket: &Socket, into: &mut [u8]) -> io::Result<usize> {
        let mut fetched = 0;
        let result = loop {
            match self.stream.read(into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if fetched > 0 && self.in_vain > RECORD_MAX && socket.maybe_readable() {
                        socket.charge(fetched * IN_VAIN_COST);
                        if socket.turn_is_due() {
                            break Err(error); // there is more, and others go first
                        }
                    }
                    match self.fetch(socket) {
                        Ok(count) => fetched = count,
                        Err(error) => break Err(error),
                    }
                }
                Ok(count @ 1..) => {
                    self.in_vain = 0;
                    break Ok(count + self.read_more(&mut into[count..]));
                }
                result => break result,
            }
        };
        if result.is_err() {
            // Before the caller waits: the last flight of the handshake, which was kept back to go
            // with the first data. Before it gives up: the alert for a record that is not good. If
            // the socket is full they go with the next write, and if it is broken the next one tells.
            let _ = self.try_flush(socket);
        }
        result
    }

    /// Opens what else has come, as far as there is space: the reader writes it on in one piece,
    /// where each record by itself would be a system call. An end or an error shows again.
    fn read_more(&mut self, into: &mut [u8]) -> usize {
        let mut total = 0;
        while total < into.len() && !self.stream.incoming().is_empty() {
            match self.stream.read(&mut into[total..]) {
                Ok(count @ 1..) => total += count,
                _ => break,
            }
        }
        total
    }

    /// Takes records from the socket. Called when the incoming queue is empty, and what was in it held no data
    /// or only half a record.
    fn fetch(&mut self, socket: &Socket) -> io::Result<usize> {
        if !socket.maybe_readable() {
            self.stream.incoming().rest();
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if self.in_vain > IN_VAIN_MAX {
            return Err(Cause::LimitReached.into_error(io::ErrorKind::InvalidData));
        }
        let mut incoming = self.stream.incoming();
        let is_large = incoming.capacity() >= buffer::LARGE;
        if incoming.capacity() == 0 || self.bulk != is_large {
            *incoming = if self.bulk {
                Buffer::large()
            } else {
                Buffer::small()
            };
        }
        let received = socket.try_recv(incoming.space());
        match received {
            Ok(count) => {
                incoming.fill(count);
                self.bulk = incoming.space().is_empty() && self.in_vain <= RECORD_MAX;
                self.in_vain += count;
            }
            Err(_) => incoming.rest(),
        }
        drop(incoming);
        let count = received?;
        if count == 0 {
            self.stream.end_incoming();
        }
        Ok(count)
    }

    /// Takes at most 64 KiB, and nothing while earlier records wait for the socket: that bounds what
    /// a peer that does not read can make this side hold.
    pub(super) fn try_write(&mut self, socket: &Socket, from: &[u8]) -> io::Result<usize> {
        self.send(socket)?;
        if self.stream.outgoing().capacity() == 0 {
            *self.stream.outgoing() = buffer::take_vec();
        }
        if !self.wear.allows(from.len().div_ceil(RECORD_PLAINTEXT_MAX)) {
            return Err(Cause::KeyWornOut.into_error(io::ErrorKind::ConnectionAborted));
        }
        let count = self.stream.write(from)?;
        self.wear.made(count.div_ceil(RECORD_PLAINTEXT_MAX));
        match self.send(socket) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(count),
        }
    }

    pub(super) fn try_flush(&mut self, socket: &Socket) -> io::Result<()> {
        self.stream.flush()?;
        self.send(socket)
    }

    pub(super) fn close_notify(&mut self) -> io::Result<()> {
        self.stream.close_notify()
    }

    /// As if a key were good for so many records, for tests.
    #[cfg(test)]
    pub(super) fn wear_out_after(&mut self, records: u64) {
        self.wear.set_max(records);
    }

    /// Bytes of the queues in both directions, for tests.
    #[cfg(test)]
    pub(super) fn held(&mut self) -> usize {
        let incoming = self.stream.incoming().capacity();
        incoming + self.stream.outgoing().capacity()
    }

    fn send(&mut self, socket: &Socket) -> io::Result<()> {
        let mut outgoing = self.stream.outgoing();
        while self.sent < outgoing.len() {
            self.sent += socket.try_send(&outgoing[self.sent..])?;
        }
        self.sent = 0;
        outgoing.clear();
        if outgoing.capacity() > 0 {
            buffer::give_vec(std::mem::take(&mut *outgoing));
        }
        Ok(())
    }
}
