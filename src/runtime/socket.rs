//! Sockets that are waited for by readiness and used by nonblocking system calls.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpStream as StdStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use monoio::net::TcpStream;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::sendfile;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use rustix::pipe::{SpliceFlags, splice};

use super::gate;

/// Work a connection may do before it lets the others go first: bytes moved, a system call
/// counting as [`CALL_COST`] of them. 256 KiB are some 60 µs of copying.
const TURN_COST_MAX: u32 = 256 * 1024;

/// What a system call counts beside its bytes.
const CALL_COST: u32 = 8 * 1024;

/// So many bytes that stay inside the kernel count as one that is copied.
const UNCOPIED_DISCOUNT: usize = 4;

/// The socket's own O_NONBLOCK is what counts for plain TCP, this flag where the kernel has TLS.
const NONBLOCK: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);

/// Where a socket listens or connects to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// TCP over IPv4 or IPv6.
    Tcp(SocketAddr),
    /// A Unix stream socket.
    Unix(PathBuf),
}

impl Address {
    /// Whether only one of the two can be listened on: they are the same, or one is all addresses
    /// of a family and the other one of them.
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Tcp(a), Self::Tcp(b)) if a.is_ipv4() == b.is_ipv4() && a.port() == b.port() => {
                a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified()
            }
            _ => self == other,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

type Wait = Pin<Box<dyn Future<Output = io::Result<()>>>>;

fn wait_readable(stream: Rc<TcpStream>) -> Wait {
    Box::pin(async move { stream.readable(false).await })
}

fn wait_writable(stream: Rc<TcpStream>) -> Wait {
    Box::pin(async move { stream.writable(false).await })
}

/// A connected stream socket, TCP or Unix.
///
/// One task may wait for reading and one for writing; both waits survive their future: what was
/// asked of the driver stays asked, so that a `select` which drops a wait costs nothing.
pub struct Socket {
    stream: Rc<TcpStream>,
    reading: RefCell<Option<Wait>>,
    writing: RefCell<Option<Wait>>,
    /// Whether a read may find something without waiting first.
    maybe_readable: Cell<bool>,
    /// The wait of whoever reads is over, whatever the driver tells.
    is_called: Cell<bool>,
    spent: Cell<u32>,
    /// What a call has told that the connection was lost by.
    error: Cell<Option<Errno>>,
}

impl Socket {
    /// Takes over a connected socket and makes it nonblocking.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Self::nonblocking(fd)
    }

    /// Takes over a connected socket that is nonblocking already.
    fn nonblocking(fd: OwnedFd) -> io::Result<Self> {
        // monoio's `TcpStream` asks nothing of the descriptor that a Unix stream could not answer,
        // as long as only its readiness is used.
        let stream = TcpStream::from_std(StdStream::from(fd))?;
        Ok(Self {
            stream: Rc::new(stream),
            reading: RefCell::default(),
            writing: RefCell::default(),
            maybe_readable: Cell::new(true),
            is_called: Cell::new(false),
            spent: Cell::new(0),
            error: Cell::new(None),
        })
    }

    /// Connects. Dropping the future gives the attempt up.
    pub async fn connect(address: &Address) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (fd, started) = match address {
            Address::Tcp(address) => {
                let family = match address {
                    SocketAddr::V4(_) => AddressFamily::INET,
                    SocketAddr::V6(_) => AddressFamily::INET6,
                };
                let fd = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
                sockopt::set_tcp_nodelay(&fd, true)?;
                let started = rustix::net::connect(&fd, address);
                (fd, started)
            }
            Address::Unix(path) => {
                let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
                let started = rustix::net::connect(&fd, &SocketAddrUnix::new(path)?);
                (fd, started)
            }
        };
        match started {
            Ok(()) => Self::nonblocking(fd),
            Err(Errno::INPROGRESS) => {
                let socket = Self::nonblocking(fd)?;
                socket.writable().await?;
                sockopt::socket_error(&socket)??;
                Ok(socket)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Receives what is there. `Ok(0)` is the peer's FIN.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when nothing is there.
    pub fn try_recv(&self, into: &mut [u8]) -> io::Result<usize> {
        let wanted = into.len();
        let received = self.call(|fd| Ok(rustix::net::recv(fd, &mut *into, RecvFlags::DONTWAIT)?.0));
        match received.and_then(|count| self.not_after_an_error(count)) {
            Ok(count) => {
                self.spend(count);
                // Less than asked for: the queue is empty, so the next read waits before it calls.
                self.maybe_readable.set(count == wanted);
                Ok(count)
            }
            Err(error) => {
                self.maybe_readable.set(false);
                Err(error)
            }
        }
    }

    /// Sends what fits.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when nothing fits.
    pub fn try_send(&self, from: &[u8]) -> io::Result<usize> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let count = self.call(|fd| rustix::net::send(fd, from, flags))?;
        self.spend(count);
        Ok(count)
    }

    /// Moves at most `max` bytes of what is there into a pipe. `Ok(0)` is the peer's FIN.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when nothing is there, or nothing fits.
    pub fn try_splice_in(&self, pipe: BorrowedFd<'_>, max: usize) -> io::Result<usize> {
        let moved = self.call(|fd| splice(fd, None, pipe, None, max, NONBLOCK));
        match moved.and_then(|count| self.not_after_an_error(count)) {
            Ok(count) => {
                self.spend(count / UNCOPIED_DISCOUNT);
                // Less than asked for tells nothing: each packet takes a slot of the pipe.
                self.maybe_readable.set(count > 0);
                Ok(count)
            }
            Err(error) => {
                self.maybe_readable.set(false);
                Err(error)
            }
        }
    }

    /// Moves at most `max` bytes, which the pipe holds, out of it. `more`: bytes that follow at
    /// once may be waited for.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when nothing fits.
    pub fn try_splice_out(&self, pipe: BorrowedFd<'_>, max: usize, more: bool) -> io::Result<usize> {
        let flags = if more {
            NONBLOCK | SpliceFlags::MORE
        } else {
            NONBLOCK
        };
        let count = self.call(|fd| splice(pipe, None, fd, None, max, flags))?;
        self.spend(count / UNCOPIED_DISCOUNT);
        Ok(count)
    }

    /// Sends at most `max` bytes of a file. `Ok(0)`: the file ends there. Waits for the disk where
    /// bytes are not in memory.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when nothing fits.
    pub fn try_sendfile(&self, file: BorrowedFd<'_>, mut offset: u64, max: usize) -> io::Result<usize> {
        let count = self.call(|fd| sendfile(fd, file, Some(&mut offset), max))?;
        self.spend(count / UNCOPIED_DISCOUNT);
        Ok(count)
    }

    /// From here on what does not fill a packet waits for what follows, 200 ms at most (tcp(7), TCP_CORK); or no
    /// longer. Nothing changes where it is no TCP.
    pub fn join_packets(&self, join: bool) {
        let _ = sockopt::set_tcp_cork(self, join);
    }

    /// As [`Self::try_recv`], leaving what it finds for the next read.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when nothing is there.
    pub fn try_peek(&self, into: &mut [u8]) -> io::Result<usize> {
        let flags = RecvFlags::DONTWAIT | RecvFlags::PEEK;
        self.call(|fd| Ok(rustix::net::recv(fd, &mut *into, flags)?.0))
    }

    /// Whether the peer has closed, or has sent something, without taking it.
    ///
    /// `None`: it is open and has sent nothing. `Some(0)`: it has closed or reset.
    pub fn peek(&self) -> Option<usize> {
        match self.try_peek(&mut [0]) {
            Ok(count) => Some(count),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                None
            }
            Err(_) => Some(0),
        }
    }

    /// Whether nothing has come since the queue was last emptied, a FIN and an error included, as
    /// far as the driver has told. Asks the driver, not the kernel: the wait it leaves behind is
    /// the next [`Self::readable`]'s, so that an idle connection is watched without a system call.
    pub fn is_quiet(&self) -> bool {
        let mut slot = self.reading.borrow_mut();
        let wait = slot.get_or_insert_with(|| wait_readable(self.stream.clone()));
        if wait
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
            .is_pending()
        {
            return true;
        }
        *slot = None;
        self.maybe_readable.set(true);
        self.peek().is_none() // what woke the wait may have been taken since
    }

    /// Waits until there is something to receive, a FIN and an error included.
    pub async fn readable(&self) -> io::Result<()> {
        poll_fn(|cx| self.poll_readable(cx)).await
    }

    /// Waits until there is space to send.
    pub async fn writable(&self) -> io::Result<()> {
        poll_fn(|cx| self.poll_writable(cx)).await
    }

    /// Whether there is space to send now, or an error to be told. Asks the kernel.
    pub fn is_writable(&self) -> bool {
        let mut fds = [PollFd::new(self, PollFlags::OUT)];
        matches!(poll(&mut fds, Some(&Timespec::default())), Ok(1))
    }

    /// Whether the peer has said that it sends no more, whatever it sent before that nobody has read. Asks the
    /// kernel.
    ///
    /// # Errors
    ///
    /// What the connection was lost by.
    pub fn end_of_peer(&self) -> io::Result<bool> {
        let mut fds = [PollFd::new(self, PollFlags::RDHUP)];
        poll(&mut fds, Some(&Timespec::default()))?;
        let told = fds[0].revents();
        if told.contains(PollFlags::ERR) {
            self.call(|fd| sockopt::socket_error(fd)?.map(|()| 0))?;
        }
        match self.error.get() {
            Some(error) => Err(error.into()),
            None => Ok(told.intersects(PollFlags::RDHUP | PollFlags::HUP)),
        }
    }

    /// Whether it is TCP, and no Unix socket. Asks the kernel.
    pub fn is_tcp(&self) -> bool {
        matches!(
            sockopt::socket_domain(self),
            Ok(AddressFamily::INET | AddressFamily::INET6)
        )
    }

    /// Whether a read may find something: false after one that emptied the queue.
    pub fn maybe_readable(&self) -> bool {
        self.maybe_readable.get()
    }

    /// The next read asks the kernel, whatever the driver has told of.
    pub fn look_again(&self) {
        self.maybe_readable.set(true);
    }

    /// Has whoever waits to read in this task look: what it waits for was taken from the socket for it, and the driver
    /// has nothing to tell of any more. Who calls goes on with [`Self::turn`], where its turn is over by this: the task
    /// is run again, and the reader with it. Its waker is not kept here: it would keep alive what keeps it.
    pub fn call_reader(&self) {
        self.is_called.set(true);
        self.spent.set(TURN_COST_MAX);
    }

    /// As [`Self::readable`], inside another future.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ready = match self.is_called.take() {
            true => Poll::Ready(Ok(())),
            false => self.poll_wait(&self.reading, wait_readable, cx),
        };
        if ready.is_ready() {
            self.maybe_readable.set(true);
        }
        ready
    }

    /// As [`Self::writable`], inside another future.
    pub fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_wait(&self.writing, wait_writable, cx)
    }

    fn poll_wait(
        &self,
        slot: &RefCell<Option<Wait>>,
        make: impl Fn(Rc<TcpStream>) -> Wait,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let mut slot = slot.borrow_mut();
        let wait = slot.get_or_insert_with(|| make(self.stream.clone()));
        match wait.as_mut().poll(cx) {
            Poll::Pending => {
                self.spent.set(0); // this task parks: its turn is over by itself
                Poll::Pending
            }
            Poll::Ready(result) => {
                *slot = None;
                Poll::Ready(result)
            }
        }
    }

    /// Lets others go first if this connection has done its share; else goes on at once.
    pub async fn turn(&self) {
        if self.turn_is_over() {
            gate::turn().await;
        }
    }

    /// Whether this connection has done its share, and its user has to let others go first
    /// ([`super::turn`]); the next turn begins.
    pub fn turn_is_over(&self) -> bool {
        let is_over = self.spent.get() >= TURN_COST_MAX;
        if is_over {
            self.spent.set(0);
        }
        is_over
    }

    /// Whether others should go first, without beginning the next turn.
    pub fn turn_is_due(&self) -> bool {
        self.spent.get() >= TURN_COST_MAX
    }

    /// Counts work that moved few bytes and made no system call, as an answer to one of many
    /// requests that came at once: it costs about as much as a call.
    pub fn worked(&self) {
        self.spend(0);
    }

    /// The bytes of the last call stayed inside the kernel, and were touched there all the same.
    pub fn touched(&self, bytes: usize) {
        self.charge(bytes - bytes / UNCOPIED_DISCOUNT);
    }

    /// Counts work beside that of calls, as so many bytes that are copied.
    pub fn charge(&self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.spent.set(self.spent.get().saturating_add(bytes));
    }

    fn spend(&self, bytes: usize) {
        self.charge(bytes.saturating_add(CALL_COST as usize));
    }

    /// Our own address, of a TCP socket.
    pub fn local(&self) -> Option<SocketAddr> {
        rustix::net::getsockname(self.as_fd()).ok()?.try_into().ok()
    }

    /// Sends a FIN: this side has nothing more to say.
    pub fn shutdown_write(&self) -> io::Result<()> {
        Ok(rustix::net::shutdown(self.as_fd(), rustix::net::Shutdown::Write)?)
    }

    /// Closes with a reset when dropped, instead of a FIN: the peer must not take what it got for
    /// all there was.
    pub fn reset_on_close(&self) {
        let _ = sockopt::set_socket_linger(self.as_fd(), Some(std::time::Duration::ZERO));
    }

    /// Makes a system call, again if a signal has interrupted it.
    fn call(&self, mut call: impl FnMut(BorrowedFd<'_>) -> rustix::io::Result<usize>) -> io::Result<usize> {
        loop {
            match call(self.as_fd()) {
                Err(Errno::INTR) => {}
                Ok(count) => return Ok(count),
                Err(error) => {
                    if is_lost(error) {
                        self.error.set(Some(error));
                    }
                    return Err(error.into());
                }
            }
        }
    }

    /// What the kernel has told that the connection was lost by; it tells it once.
    pub fn lost(&self) -> Option<Errno> {
        self.error.get()
    }

    /// The kernel tells of a reset once, to whoever calls first; from then on a read finds what
    /// looks like the peer's FIN. So a writer's error has to be the reader's, too.
    fn not_after_an_error(&self, count: usize) -> io::Result<usize> {
        match self.error.get() {
            Some(error) if count == 0 => Err(error.into()),
            _ => Ok(count),
        }
    }
}

/// Whether a connection is gone by this error. After the peer's FIN a reset is told as EPIPE, and is none of
/// these: then the end in order had come first.
pub fn is_lost(error: Errno) -> bool {
    matches!(
        error,
        Errno::CONNRESET | Errno::CONNABORTED | Errno::TIMEDOUT | Errno::HOSTUNREACH | Errno::NETUNREACH
    )
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        crate::sys::borrow(&self.stream)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // The waits hold the descriptor open; they go first.
        self.reading.take();
        self.writing.take();
    }
}

/// A socket that accepts: one of a worker's own, bound and listening before the worker started.
pub struct Listener {
    socket: Socket,
}

impl Listener {
    /// Takes over a listening socket.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            socket: Socket::new(fd)?,
        })
    }

    /// Waits until a connection may be accepted.
    pub async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    /// Accepts one connection. The peer's address is missing for Unix sockets.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when none waits.
    pub fn try_accept(&self) -> io::Result<(Socket, Option<SocketAddr>)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (fd, peer) = rustix::net::acceptfrom_with(self.socket.as_fd(), flags)?;
        let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
        Ok((Socket::nonblocking(fd)?, peer))
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Socket({})", self.stream.as_raw_fd())
    }
}
