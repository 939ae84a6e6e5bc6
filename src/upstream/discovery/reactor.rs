//! What the resolver's library needs of a runtime: sockets and timers of `async-io`, whose reactor sleeps in
//! the thread that looks names up. No worker comes here.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_channel::Sender;
use async_io::{Async, Timer};
use futures_io::{AsyncRead, AsyncWrite};
use futures_util::future::{Either, select};
use hickory_resolver::net::runtime::{DnsTcpStream, DnsUdpSocket, RuntimeProvider, Spawn, Time};

/// How long a connection to a server of names may take if nobody says.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A task of the library's: the other half of a connection.
pub(super) type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Whoever has the other end of this runs the tasks.
#[derive(Clone)]
pub(super) struct Reactor(pub(super) Sender<Task>);

impl Spawn for Reactor {
    fn spawn_bg(&mut self, future: impl Future<Output = ()> + Send + 'static) {
        // Nobody listens any more: nobody waits for what it would do, either.
        let _ = self.0.try_send(Box::pin(future));
    }
}

impl RuntimeProvider for Reactor {
    type Handle = Self;
    type Timer = Timers;
    type Udp = Udp;
    type Tcp = Tcp;

    fn create_handle(&self) -> Self {
        self.clone()
    }

    fn connect_tcp(
        &self,
        server: SocketAddr,
        from: Option<SocketAddr>,
        timeout: Option<Duration>,
    ) -> Pin<Box<dyn Send + Future<Output = io::Result<Tcp>>>> {
        Box::pin(async move {
            if from.is_some() {
                return Err(io::ErrorKind::Unsupported.into()); // nobody asks for it
            }
            let connected = Async::<TcpStream>::connect(server);
            Timers::timeout(timeout.unwrap_or(CONNECT_TIMEOUT), connected)
                .await?
                .map(Tcp)
        })
    }

    fn bind_udp(
        &self,
        from: SocketAddr,
        _server: SocketAddr,
    ) -> Pin<Box<dyn Send + Future<Output = io::Result<Udp>>>> {
        Box::pin(async move { Async::<UdpSocket>::bind(from).map(Udp) })
    }
}

/// A socket for questions.
pub(super) struct Udp(Async<UdpSocket>);

impl DnsUdpSocket for Udp {
    type Time = Timers;

    fn poll_recv_from(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<(usize, SocketAddr)>> {
        loop {
            match self.0.get_ref().recv_from(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(self.0.poll_readable(cx))?,
                result => return Poll::Ready(result),
            }
        }
    }

    fn poll_send_to(&self, cx: &mut Context<'_>, bytes: &[u8], to: SocketAddr) -> Poll<io::Result<usize>> {
        loop {
            match self.0.get_ref().send_to(bytes, to) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(self.0.poll_writable(cx))?,
                result => return Poll::Ready(result),
            }
        }
    }
}

/// A connection for answers that do not fit into a datagram.
pub(super) struct Tcp(Async<TcpStream>);

impl DnsTcpStream for Tcp {
    type Time = Timers;
}

impl AsyncRead for Tcp {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_read(cx, into)
    }
}

impl AsyncWrite for Tcp {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_close(cx)
    }
}

/// Timers.
pub(super) struct Timers;

#[async_trait::async_trait]
impl Time for Timers {
    async fn delay_for(time: Duration) {
        Timer::after(time).await;
    }

    async fn timeout<F: Future + Send + 'static>(time: Duration, future: F) -> io::Result<F::Output> {
        match select(pin!(future), Timer::after(time)).await {
            Either::Left((output, _)) => Ok(output),
            Either::Right(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}
