//! A byte stream to a peer, after any handshake: plain, or TLS in this process or in the kernel.
//!
//! All operations take `&self`, so that one task can drive both directions of a connection at
//! once; nothing is borrowed while it waits. Every operation may be dropped while it waits without
//! losing a byte.

mod ktls;
mod limits;
mod promote;
mod rustls;
mod sealed;

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ::rustls::{ClientConnection, ServerConnection};

use self::ktls::Ktls;
pub use self::promote::Promotion;
use self::rustls::Rustls;
pub use self::sealed::Sealed;
use crate::buffer::Buffer;
pub use crate::offload::Keys;
use crate::offload::Offload;
use crate::outcome::{Carriage, Carrier, Cause, Refusal};
use crate::runtime::{self, Socket, before};
use crate::time::Deadline;

/// What a closing connection may still send before it is dropped: enough for a request whose
/// answer came early, too little to keep a worker busy.
const LINGER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// How soon a connection in the kernel is looked at again where nobody tells of its errors.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A byte stream to a peer.
pub struct Transport {
    socket: Socket,
    layer: RefCell<Layer>,
    carriage: Rc<Carriage>,
    bytes_in: Cell<u64>,
    bytes_out: Cell<u64>,
    aborted: Cell<bool>,
}

enum Layer {
    Plain,
    Rustls(Box<Rustls>),
    Sealed(Box<Sealed>, Option<Promotion>),
    Ktls(Box<Ktls>),
    /// It was lost on its way into the kernel.
    Lost(Cause),
}

impl Transport {
    /// Without TLS.
    pub fn plain(socket: Socket) -> Self {
        Self::new(socket, Layer::Plain, Carrier::None)
    }

    /// TLS with a client, after the handshake. `unread`: what came behind it and was not yet fed;
    /// `refusal`: why it stays in this process.
    pub fn rustls_server(
        socket: Socket,
        connection: ServerConnection,
        unread: Buffer,
        refusal: Refusal,
    ) -> Self {
        let layer = Layer::Rustls(Box::new(Rustls::server(connection, unread)));
        Self::new(socket, layer, Carrier::Process(refusal))
    }

    /// TLS with an endpoint, after the handshake.
    pub fn rustls_client(
        socket: Socket,
        connection: ClientConnection,
        unread: Buffer,
        refusal: Refusal,
    ) -> Self {
        let layer = Layer::Rustls(Box::new(Rustls::client(connection, unread)));
        Self::new(socket, layer, Carrier::Process(refusal))
    }

    /// TLS whose keys the kernel has. `opened`: what was opened before and not yet read.
    pub fn ktls(socket: Socket, keys: Keys, opened: Buffer, offload: Arc<Offload>) -> Self {
        let carriage = Rc::new(Carriage::new(Carrier::Kernel));
        let layer = Layer::Ktls(Box::new(Ktls::new(keys, opened, offload, carriage.clone())));
        Self {
            carriage,
            ..Self::new(socket, layer, Carrier::Kernel)
        }
    }

    fn new(socket: Socket, layer: Layer, carrier: Carrier) -> Self {
        Self {
            socket,
            layer: RefCell::new(layer),
            carriage: Rc::new(Carriage::new(carrier)),
            bytes_in: Cell::new(0),
            bytes_out: Cell::new(0),
            aborted: Cell::new(false),
        }
    }

    /// The socket below: for its addresses, its options and its readiness, not for its bytes.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Who carries the connection and what was moved on it.
    pub fn carriage(&self) -> &Rc<Carriage> {
        &self.carriage
    }

    /// Plaintext bytes read so far.
    pub fn bytes_in(&self) -> u64 {
        self.bytes_in.get()
    }

    /// Plaintext bytes taken for writing so far.
    pub fn bytes_out(&self) -> u64 {
        self.bytes_out.get()
    }

    /// Reads what is there, waiting until something is. `Ok(0)` is an end in order: a FIN on a
    /// plain connection, close_notify on TLS.
    ///
    /// # Errors
    ///
    /// `UnexpectedEof` for a FIN without close_notify; `InvalidData` with the `rustls::Error`
    /// inside for records that are not good; else the socket's error.
    pub async fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        self.socket.turn().await;
        loop {
            match self.try_read(into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable().await?,
                result => return result,
            }
        }
    }

    /// As [`Self::read`], without waiting.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when nothing is there; else as [`Self::read`].
    pub fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        let result = match &mut *self.layer.borrow_mut() {
            Layer::Plain if !self.socket.maybe_readable() => Err(io::ErrorKind::WouldBlock.into()),
            Layer::Plain => self.socket.try_recv(into),
            Layer::Rustls(tls) => tls.try_read(&self.socket, into),
            Layer::Sealed(tls, _) => tls.try_read(&self.socket, into),
            Layer::Ktls(tls) => tls.try_read(&self.socket, into),
            Layer::Lost(cause) => Err(lost(*cause)),
        };
        if let Ok(count) = result {
            self.bytes_in.set(self.bytes_in.get() + count as u64);
        }
        result
    }

    /// Waits until the peer has sent something or has closed. Bytes already taken from the socket
    /// but not yet read are not seen: call it only after a read that found nothing.
    ///
    /// May return though nothing has come.
    pub async fn readable(&self) -> io::Result<()> {
        // A read may have stopped because others have to go first.
        self.socket.turn().await;
        let (pause, is_watched) = match &*self.layer.borrow() {
            Layer::Ktls(tls) => (tls.pause(), !runtime::tells_readers_of_errors()),
            _ => (None, false),
        };
        if let Some(moment) = pause {
            // Boxed: every wait on every connection would have its size.
            Box::pin(runtime::sleep_until(moment)).await;
        }
        if is_watched {
            let look = Deadline::within(LOOK_AGAIN);
            return match Box::pin(before(look, self.socket.readable())).await {
                Ok(result) => result,
                Err(runtime::TimedOut) => {
                    self.socket.look_again();
                    Ok(())
                }
            };
        }
        self.socket.readable().await
    }

    /// Writes all of `from`. What is written is on its way when [`Self::flush`] has returned.
    ///
    /// # Errors
    ///
    /// `TimedOut` when nothing could be written for `timeout`; else the socket's error.
    pub async fn write_all(&self, mut from: &[u8], timeout: Duration) -> io::Result<()> {
        while !from.is_empty() {
            self.socket.turn().await;
            match self.try_write(from) {
                Ok(count) => from = &from[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.space(timeout).await?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes what fits, without waiting.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when nothing fits.
    pub fn try_write(&self, from: &[u8]) -> io::Result<usize> {
        let count = match &mut *self.layer.borrow_mut() {
            Layer::Plain => self.socket.try_send(from),
            Layer::Rustls(tls) => self.cut_where_worn(tls.try_write(&self.socket, from)),
            Layer::Sealed(tls, _) => self.cut_where_worn(tls.try_write(&self.socket, from)),
            Layer::Ktls(tls) => tls.try_write(&self.socket, from),
            Layer::Lost(cause) => Err(lost(*cause)),
        }?;
        self.bytes_out.set(self.bytes_out.get() + count as u64);
        Ok(count)
    }

    /// A key that must not be used any longer cannot even tell the peer so.
    fn cut_where_worn(&self, written: io::Result<usize>) -> io::Result<usize> {
        written.inspect_err(|error| {
            if Cause::of(error) == Cause::KeyWornOut {
                self.abort();
            }
        })
    }

    /// Hands everything that was written to the kernel.
    ///
    /// # Errors
    ///
    /// As [`Self::write_all`].
    pub async fn flush(&self, timeout: Duration) -> io::Result<()> {
        loop {
            match self.try_flush() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.space(timeout).await?,
                result => return result,
            }
        }
    }

    /// As [`Self::flush`], without waiting.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when something is left.
    pub fn try_flush(&self) -> io::Result<()> {
        match &mut *self.layer.borrow_mut() {
            Layer::Plain => Ok(()),
            Layer::Rustls(tls) => tls.try_flush(&self.socket),
            Layer::Sealed(tls, _) => tls.try_flush(&self.socket),
            Layer::Ktls(tls) => tls.try_flush(&self.socket),
            Layer::Lost(cause) => Err(lost(*cause)),
        }
    }

    /// Whether bytes may go in and out without passing through this process: there is no TLS, or
    /// the kernel makes it, and nothing that was read or written waits here.
    pub fn is_kernel_stream(&self) -> bool {
        match &*self.layer.borrow() {
            Layer::Plain => true,
            Layer::Rustls(_) | Layer::Sealed(..) | Layer::Lost(_) => false,
            Layer::Ktls(tls) => tls.is_bare(),
        }
    }

    /// Moves at most `max` bytes into a pipe, which has to be empty, without waiting. `Ok(0)` is an
    /// end in order.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when nothing is there; `Unsupported` unless [`Self::is_kernel_stream`]; else as
    /// [`Self::read`].
    pub fn try_splice_in(&self, pipe: BorrowedFd<'_>, max: usize) -> io::Result<usize> {
        let count = match &mut *self.layer.borrow_mut() {
            Layer::Plain if !self.socket.maybe_readable() => Err(io::ErrorKind::WouldBlock.into()),
            Layer::Plain => self.socket.try_splice_in(pipe, max),
            Layer::Ktls(tls) => tls.try_splice_in(&self.socket, pipe, max),
            Layer::Lost(cause) => Err(lost(*cause)),
            Layer::Rustls(_) | Layer::Sealed(..) => Err(io::ErrorKind::Unsupported.into()),
        }?;
        self.bytes_in.set(self.bytes_in.get() + count as u64);
        Ok(count)
    }

    /// Moves at most `max` bytes out of a pipe, which holds as many, without waiting. `more`: bytes
    /// that follow at once may be waited for; whoever says so must send them.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when nothing fits; `Unsupported` unless [`Self::is_kernel_stream`].
    pub fn try_splice_out(&self, pipe: BorrowedFd<'_>, max: usize, more: bool) -> io::Result<usize> {
        let count = match &mut *self.layer.borrow_mut() {
            Layer::Plain => self.socket.try_splice_out(pipe, max, more),
            Layer::Ktls(tls) => tls.try_splice_out(&self.socket, pipe, max, more),
            Layer::Lost(cause) => Err(lost(*cause)),
            Layer::Rustls(_) | Layer::Sealed(..) => Err(io::ErrorKind::Unsupported.into()),
        }?;
        self.count_out(count, &self.carriage.spliced);
        Ok(count)
    }

    /// Writes at most `max` bytes of a file from `offset` on, without waiting for the peer, but
    /// for the disk where they are not in memory. `Ok(0)`: the file ends there.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when nothing fits; `Unsupported` unless [`Self::is_kernel_stream`].
    pub fn try_sendfile(&self, file: BorrowedFd<'_>, offset: u64, max: usize) -> io::Result<usize> {
        let count = match &mut *self.layer.borrow_mut() {
            Layer::Plain => self.socket.try_sendfile(file, offset, max),
            Layer::Ktls(tls) => tls.try_sendfile(&self.socket, file, offset, max),
            Layer::Lost(cause) => Err(lost(*cause)),
            Layer::Rustls(_) | Layer::Sealed(..) => Err(io::ErrorKind::Unsupported.into()),
        }?;
        self.count_out(count, &self.carriage.sendfile);
        Ok(count)
    }

    fn count_out(&self, count: usize, way: &Cell<u64>) {
        way.set(way.get() + count as u64);
        self.bytes_out.set(self.bytes_out.get() + count as u64);
    }

    async fn space(&self, timeout: Duration) -> io::Result<()> {
        before(Deadline::within(timeout), self.socket.writable())
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Renews the keys of what is sent from now on, by a KeyUpdate of TLS 1.3 that goes out with the
    /// next bytes or flush; whether that can be done. Where a key is used as often as it may, it is
    /// done without being asked for.
    ///
    /// # Errors
    ///
    /// What ended the connection before.
    pub fn renew_keys(&self) -> io::Result<bool> {
        match &mut *self.layer.borrow_mut() {
            Layer::Sealed(tls, _) => tls.renew_keys(),
            Layer::Ktls(tls) => Ok(tls.renew_keys()),
            _ => Ok(false),
        }
    }

    /// Says that nothing more will be written: close_notify where there is TLS, then FIN. The
    /// other direction stays open.
    ///
    /// # Errors
    ///
    /// As [`Self::write_all`].
    pub async fn finish(&self, timeout: Duration) -> io::Result<()> {
        match &mut *self.layer.borrow_mut() {
            Layer::Plain => {}
            Layer::Rustls(tls) => tls.close_notify()?,
            Layer::Sealed(tls, _) => tls.close_notify()?,
            Layer::Ktls(tls) => tls.close_notify(),
            Layer::Lost(cause) => return Err(lost(*cause)),
        }
        self.flush(timeout).await?;
        self.socket.shutdown_write()
    }

    /// Whether its keys have been used for half of what they are good for, and cannot be renewed: nothing new
    /// should be begun on it.
    pub fn is_worn(&self) -> bool {
        match &*self.layer.borrow() {
            Layer::Rustls(tls) => tls.is_worn(),
            Layer::Sealed(tls, _) => tls.is_worn(),
            Layer::Ktls(tls) => tls.is_worn(),
            Layer::Plain | Layer::Lost(_) => false,
        }
    }

    /// As if its keys were good for so many records, for tests.
    #[cfg(test)]
    pub fn wear_out_after(&self, records: u64) {
        match &mut *self.layer.borrow_mut() {
            Layer::Rustls(tls) => tls.wear_out_after(records),
            Layer::Sealed(tls, _) => tls.wear_out_after(records),
            Layer::Ktls(tls) => tls.wear_out_after(records),
            Layer::Plain | Layer::Lost(_) => unreachable!("it has no keys"),
        }
    }

    /// Has [`Self::carriage`] tell how many TLS records there were up to now, where the kernel makes them.
    pub fn count_records(&self) {
        if let Layer::Ktls(tls) = &*self.layer.borrow() {
            tls.count_records(&self.socket);
        }
    }

    /// Makes sure that the peer cannot take what it got for all there was: the connection will end
    /// with a reset and without close_notify, whoever closes it.
    pub fn abort(&self) {
        self.aborted.set(true);
        self.socket.reset_on_close();
    }

    /// Ends the connection in order: [`Self::finish`], then waits for the peer's end so that the
    /// kernel does not throw our last bytes away with a reset. Whether the peer's end came.
    pub async fn close(&self, deadline: Deadline) -> bool {
        matches!(
            before(deadline, self.close_after(Duration::MAX, Duration::MAX)).await,
            Ok(true)
        )
    }

    /// As [`Self::close`]: of a peer that is slow what was written is still to be taken, for which it has `timeout`
    /// whenever nothing moves, and `linger` for its own end.
    pub async fn close_after(&self, timeout: Duration, linger: Duration) -> bool {
        if self.aborted.get() || self.finish(timeout).await.is_err() {
            return false;
        }
        matches!(before(Deadline::within(linger), self.linger()).await, Ok(Ok(())))
    }

    /// Says close_notify before the connection is dropped, if the socket takes it at once: for a connection on which
    /// nothing is under way, and whose peer nobody will hear any more.
    pub fn part(&self) {
        if self.aborted.get() {
            return;
        }
        let said = match &mut *self.layer.borrow_mut() {
            Layer::Plain | Layer::Lost(_) => return,
            Layer::Rustls(tls) => tls.close_notify(),
            Layer::Sealed(tls, _) => tls.close_notify(),
            Layer::Ktls(tls) => {
                tls.close_notify();
                Ok(())
            }
        };
        // Where it cannot be said, the peer finds that out by itself.
        let _ = said.and_then(|()| self.try_flush());
    }

    /// Reads and forgets until the peer's end. While it waits it holds no buffer.
    async fn linger(&self) -> io::Result<()> {
        let mut total = 0;
        while total <= LINGER_BYTES_MAX {
            self.socket.turn().await;
            let found = self.try_read(Buffer::small().space());
            match found {
                Ok(0) => return Ok(()),
                Ok(count) => total += count,
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => self.readable().await?,
                    // A FIN without close_notify: what may be cut off is not wanted any more.
                    io::ErrorKind::UnexpectedEof => return Ok(()),
                    _ => return Err(error),
                },
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    /// Bytes of the buffers this connection holds, for tests.
    #[cfg(test)]
    fn held(&self) -> usize {
        match &mut *self.layer.borrow_mut() {
            Layer::Plain => 0,
            Layer::Rustls(tls) => tls.held(),
            Layer::Sealed(tls, _) => tls.held(),
            Layer::Ktls(tls) => tls.held(),
            Layer::Lost(_) => 0,
        }
    }
}

fn lost(cause: Cause) -> io::Error {
    cause.into_error(io::ErrorKind::ConnectionAborted)
}

#[cfg(test)]
pub(crate) mod kernel_tls;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod uncopied_tests;
