//! monoio-rustls without its waits: the stream works on bytes that are there, and nothing else.
//!
//! As released, monoio-rustls panics on a read that is resumed after a drop, sends each full
//! record as two writes, and holds two 16 KiB buffers for each connection. Over an I/O object
//! that is ready at once none of the three can happen: no future of it is ever pending, so none
//! is ever dropped half way; what it writes is joined before it is sent; and its `unsafe_io` mode,
//! which needs no buffers, is sound.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use monoio::BufResult;
use monoio::buf::{IoBuf, IoBufMut, IoVecBuf, IoVecBufMut};
use monoio::io::{AsyncReadRent, AsyncWriteRent};
use monoio_rustls::{ClientTlsStream, ServerTlsStream};
use rustls::{ClientConnection, ServerConnection};

use crate::buffer::Buffer;

/// A TLS stream after its handshake, fed with records and drained of records by its owner.
pub struct TlsStream {
    stream: Either,
    wire: Rc<Queues>,
    /// A record was not good.
    failed: Option<rustls::Error>,
}

enum Either {
    Server(ServerTlsStream<Wire>),
    Client(ClientTlsStream<Wire>),
}

impl TlsStream {
    /// Goes on with a server's connection. `unread` holds records that came and were not yet fed.
    pub fn server(connection: ServerConnection, unread: Buffer) -> Self {
        let (wire, queues) = Wire::new(unread);
        // SAFETY: `new_unsafe` demands that a buffer be valid until the I/O on it has finished and
        // that no future be dropped before. `Wire` does its I/O within the call that starts it, and
        // no future is ever pending (see `at_once`). The buffers are rustls's own: monoio-rustls
        // notes their address in one call of `read_tls` or `write_tls`, does the I/O, and fetches
        // the result in the next call. Between the two nothing else touches the connection, and
        // the next call does not move them before it takes the result: `prepare_read` asks for the
        // size it has already got, `write_to` looks at the same first chunk. That is read off
        // rustls 0.23.46, so Cargo.toml pins it: read the two again before raising it.
        let stream = unsafe { ServerTlsStream::new_unsafe(wire, connection) };
        Self {
            stream: Either::Server(stream),
            wire: queues,
            failed: None,
        }
    }

    /// Goes on with a client's connection. `unread` holds records that came and were not yet fed.
    pub fn client(connection: ClientConnection, unread: Buffer) -> Self {
        let (wire, queues) = Wire::new(unread);
        // SAFETY: as in `server`.
        let stream = unsafe { ClientTlsStream::new_unsafe(wire, connection) };
        Self {
            stream: Either::Client(stream),
            wire: queues,
            failed: None,
        }
    }

    /// Records that came from the peer and were not yet opened: fill it before [`Self::read`].
    pub fn incoming(&mut self) -> std::cell::RefMut<'_, Buffer> {
        self.wire.incoming.borrow_mut()
    }

    /// The peer has closed its side of the socket; nothing more comes.
    pub fn end_incoming(&mut self) {
        self.wire.ended.set(true);
    }

    /// Records for the peer: send them, and take off what was sent.
    pub fn outgoing(&mut self) -> std::cell::RefMut<'_, Vec<u8>> {
        self.wire.outgoing.borrow_mut()
    }

    /// Opens records and reads plaintext.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when [`Self::incoming`] has to be filled first, `UnexpectedEof` when the peer
    /// closed without close_notify, `InvalidData` with the `rustls::Error` inside when a record is
    /// not good: behind what came before it, and as often as it is asked for. `Ok(0)` is the peer's
    /// close_notify.
    pub fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if let Some(error) = self.failed.clone() {
            let refused = || io::Error::new(io::ErrorKind::InvalidData, error);
            return self.read_rest(into).ok_or_else(refused);
        }
        loop {
            match self.read_once(into) {
                // After one `WouldBlock` monoio-rustls hands the same error out once more before
                // it looks at the wire again; so ask until the wire is really empty.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && self.wire.has_more() => {}
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    // Whatever follows is not opened any more.
                    self.wire.incoming.borrow_mut().clear();
                    self.end_incoming();
                    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
                    self.failed = inner.cloned();
                    return self.read_rest(into).ok_or(error);
                }
                result => return result,
            }
        }
    }

    /// Reads what was opened before a record that is not good.
    fn read_rest(&mut self, into: &mut [u8]) -> Option<usize> {
        self.read_once(into).ok().filter(|count| *count > 0)
    }

    fn read_once(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let target = Raw {
            start: into.as_mut_ptr(),
            len: into.len(),
        };
        match &mut self.stream {
            Either::Server(stream) => at_once(stream.read(target)).0,
            Either::Client(stream) => at_once(stream.read(target)).0,
        }
    }

    /// Makes records of plaintext and puts them into [`Self::outgoing`]; says how much was taken.
    pub fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        let source = Raw {
            start: from.as_ptr().cast_mut(),
            len: from.len(),
        };
        match &mut self.stream {
            Either::Server(stream) => at_once(stream.write(source)).0,
            Either::Client(stream) => at_once(stream.write(source)).0,
        }
    }

    /// Puts what rustls wants to say by itself (answers to key updates, tickets) into
    /// [`Self::outgoing`].
    pub fn flush(&mut self) -> io::Result<()> {
        match &mut self.stream {
            Either::Server(stream) => at_once(stream.flush()),
            Either::Client(stream) => at_once(stream.flush()),
        }
    }

    /// Puts a close_notify into [`Self::outgoing`].
    pub fn close_notify(&mut self) -> io::Result<()> {
        match &mut self.stream {
            Either::Server(stream) => at_once(stream.shutdown()),
            Either::Client(stream) => at_once(stream.shutdown()),
        }
    }
}

/// Runs a future that has nothing to wait for.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        // All futures given here are monoio-rustls's own code over `Wire`, which never waits.
        Poll::Pending => unreachable!("a TLS stream over ready bytes does not wait"),
    }
}

/// The two queues between a TLS stream and its socket.
struct Queues {
    incoming: RefCell<Buffer>,
    outgoing: RefCell<Vec<u8>>,
    ended: Cell<bool>,
}

impl Queues {
    fn has_more(&self) -> bool {
        self.ended.get() || !self.incoming.borrow().is_empty()
    }
}

/// What monoio-rustls takes for its socket: reads and writes are done when they return.
struct Wire(Rc<Queues>);

impl Wire {
    fn new(unread: Buffer) -> (Self, Rc<Queues>) {
        let queues = Rc::new(Queues {
            incoming: RefCell::new(unread),
            outgoing: RefCell::default(),
            ended: Cell::new(false),
        });
        (Self(queues.clone()), queues)
    }
}

impl AsyncReadRent for Wire {
    async fn read<T: IoBufMut>(&mut self, mut into: T) -> BufResult<usize, T> {
        let mut incoming = self.0.incoming.borrow_mut();
        if incoming.is_empty() {
            let nothing = match self.0.ended.get() {
                true => Ok(0),
                false => Err(io::ErrorKind::WouldBlock.into()),
            };
            return (nothing, into);
        }
        let count = incoming.len().min(into.bytes_total());
        // SAFETY: `write_ptr` is good for `bytes_total` bytes, `count` is not more than that nor
        // than what is filled, and the two do not overlap since `into` is borrowed elsewhere.
        unsafe { std::ptr::copy_nonoverlapping(incoming.filled().as_ptr(), into.write_ptr(), count) };
        // SAFETY: the first `count` bytes were written just now.
        unsafe { into.set_init(count) };
        incoming.consume(count);
        (Ok(count), into)
    }

    async fn readv<T: IoVecBufMut>(&mut self, into: T) -> BufResult<usize, T> {
        (Err(io::ErrorKind::Unsupported.into()), into) // monoio-rustls does not call it
    }
}

impl AsyncWriteRent for Wire {
    async fn write<T: IoBuf>(&mut self, from: T) -> BufResult<usize, T> {
        let count = from.bytes_init();
        // SAFETY: `read_ptr` is good for `bytes_init` bytes for as long as `from` is held.
        let bytes = unsafe { std::slice::from_raw_parts(from.read_ptr(), count) };
        self.0.outgoing.borrow_mut().extend_from_slice(bytes);
        (Ok(count), from)
    }

    async fn writev<T: IoVecBuf>(&mut self, from: T) -> BufResult<usize, T> {
        (Err(io::ErrorKind::Unsupported.into()), from) // monoio-rustls does not call it
    }

    async fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    async fn shutdown(&mut self) -> io::Result<()> {
        Ok(()) // the owner of the socket sends the FIN
    }
}

/// The caller's slice, for the length of one call of [`at_once`].
struct Raw {
    start: *mut u8,
    len: usize,
}

// SAFETY: `Raw` is made from a slice that its maker borrows until `at_once` has returned, and
// nothing keeps it longer; so the pointer is good for `len` initialised bytes.
unsafe impl IoBuf for Raw {
    fn read_ptr(&self) -> *const u8 {
        self.start
    }

    fn bytes_init(&self) -> usize {
        self.len
    }
}

// SAFETY: as above; `read` makes it from a `&mut` slice, and `write` never calls these.
unsafe impl IoBufMut for Raw {
    fn write_ptr(&mut self) -> *mut u8 {
        self.start
    }

    fn bytes_total(&mut self) -> usize {
        self.len
    }

    unsafe fn set_init(&mut self, _count: usize) {} // the slice was initialised before
}
