//! TLS records made and opened in this process, by rustls through monoio-rustls.

use std::io;

use rustls::{ClientConnection, ServerConnection};

use crate::buffer::{self, Buffer};
use crate::runtime::Socket;
use crate::sys::tls_stream::TlsStream;

/// Records that may wait for the socket before writing waits too.
const UNSENT_MAX: usize = 64 * 1024;

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
        loop {
            match self.stream.read(into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.fetch(socket)?,
                result => {
                    // Answers to key updates, and the alert for a record that is not good. If the
                    // socket is full they go with the next write.
                    let _ = self.try_flush(socket);
                    return result;
                }
            }
        }
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

    pub(super) fn try_write(&mut self, socket: &Socket, from: &[u8]) -> io::Result<usize> {
        if self.unsent() > UNSENT_MAX {
            self.send(socket)?;
        }
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

    fn unsent(&mut self) -> usize {
        self.stream.outgoing().len() - self.sent
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
