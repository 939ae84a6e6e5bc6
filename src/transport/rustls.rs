//! TLS records made and opened in this process, by rustls through monoio-rustls.

use std::io;

use rustls::{ClientConnection, ServerConnection};

use crate::buffer::{self, Buffer};
use crate::runtime::Socket;
use crate::sys::tls_stream::TlsStream;

/// One connection's records.
pub(super) struct Rustls {
    stream: TlsStream,
    /// How much of the stream's outgoing queue the kernel has.
    sent: usize,
    /// The last read filled its buffer; so the next one gets a large one.
    bulk: bool,
}

impl Rustls {
    pub(super) fn server(connection: ServerConnection, unread: Buffer) -> Self {
        Self {
            stream: TlsStream::server(connection, unread),
            sent: 0,
            bulk: false,
        }
    }

    pub(super) fn client(connection: ClientConnection, unread: Buffer) -> Self {
        Self {
            stream: TlsStream::client(connection, unread),
            sent: 0,
            bulk: false,
        }
    }

    pub(super) fn try_read(&mut self, socket: &Socket, into: &mut [u8]) -> io::Result<usize> {
        let result = loop {
            match self.stream.read(into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if let Err(error) = self.fetch(socket) {
                        break Err(error);
                    }
                }
                Ok(count @ 1..) => break Ok(count + self.read_more(&mut into[count..])),
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

    /// Takes records from the socket. Called when the incoming queue is empty.
    fn fetch(&mut self, socket: &Socket) -> io::Result<()> {
        if !socket.maybe_readable() {
            self.stream.incoming().rest();
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut incoming = self.stream.incoming();
        if incoming.capacity() == 0 || (self.bulk && incoming.capacity() < buffer::LARGE) {
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
                self.bulk = incoming.space().is_empty();
            }
            Err(_) => incoming.rest(),
        }
        drop(incoming);
        if received? == 0 {
            self.stream.end_incoming();
        }
        Ok(())
    }

    /// Takes at most 64 KiB, and nothing while earlier records wait for the socket: that bounds what
    /// a peer that does not read can make this side hold.
    pub(super) fn try_write(&mut self, socket: &Socket, from: &[u8]) -> io::Result<usize> {
        self.send(socket)?;
        if self.stream.outgoing().capacity() == 0 {
            *self.stream.outgoing() = buffer::take_vec();
        }
        let count = self.stream.write(from)?;
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
