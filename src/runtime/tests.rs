//! The runtime's promises, on both drivers.

use std::cell::Cell;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnix;
use std::rc::Rc;
use std::time::Duration;

use super::*;
use crate::time::now;

/// Runs a test body on io_uring, where this machine has it, and on epoll.
fn on_both_drivers<F: Future<Output = ()>>(body: impl Fn() -> F) {
    for preference in [Preference::Auto, Preference::Epoll] {
        start(preference, |_| body()).expect("a runtime starts");
    }
}

/// An address nobody listens on, nor will: the port stays taken until the tests have ended.
pub(crate) fn nobody() -> SocketAddr {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(&any.into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    std::mem::forget(socket);
    address
}

fn pair() -> (Socket, StdUnix) {
    let (ours, theirs) = StdUnix::pair().unwrap();
    (Socket::new(OwnedFd::from(ours)).unwrap(), theirs)
}

#[test]
fn a_read_waits_until_something_comes() {
    on_both_drivers(|| async {
        let (socket, mut peer) = pair();
        let mut bytes = [0; 8];
        assert_eq!(
            socket.try_recv(&mut bytes).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        let writer = std::thread::spawn(move || {
            std::thread::park_timeout(Duration::from_millis(20));
            peer.write_all(b"hello").unwrap();
            peer
        });
        socket.readable().await.unwrap();
        assert_eq!(socket.try_recv(&mut bytes).unwrap(), 5);
        drop(writer.join());
        socket.readable().await.unwrap();
        assert_eq!(socket.try_recv(&mut bytes).unwrap(), 0);
    });
}

#[test]
fn what_is_dropped_last_is_closed_when_the_runtime_has_ended() {
    for preference in [Preference::Auto, Preference::Epoll] {
        for _ in 0..50 {
            let (ours, mut peer) = StdUnix::pair().unwrap();
            start(preference, |_| async move {
                let socket = Socket::new(OwnedFd::from(ours)).unwrap();
                let _ = before(Deadline::within(Duration::ZERO), socket.readable()).await;
            })
            .expect("a runtime starts");
            // The kernel may let go of it a little later, on a thread of its own.
            peer.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            assert_eq!(peer.read(&mut [0; 8]).unwrap(), 0);
        }
    }
}

#[test]
fn a_wait_that_is_dropped_loses_nothing() {
    on_both_drivers(|| async {
        let (socket, mut peer) = pair();
        for round in 0..100u8 {
            let deadline = Deadline::after(now(), Duration::from_micros(200));
            let _ = before(deadline, socket.readable()).await;
            peer.write_all(&[round]).unwrap();
            let mut byte = [0];
            while socket.try_recv(&mut byte).is_err() {
                socket.readable().await.unwrap();
            }
            assert_eq!(byte[0], round);
        }
    });
}

#[test]
fn timers_and_sockets_have_their_turn_beside_two_that_never_wait() {
    const LONG: Duration = Duration::from_secs(30);
    on_both_drivers(|| async {
        let started = now();
        let stop = Rc::new(Cell::new(false));
        for _ in 0..2 {
            let stop = stop.clone();
            let future = async move {
                while !stop.get() && started.elapsed() < LONG {
                    turn().await;
                }
            };
            spawn(future, |text| panic!("{text}"));
        }
        let (socket, mut peer) = pair();
        for _ in 0..20 {
            peer.write_all(b"x").unwrap();
            socket.readable().await.unwrap();
            assert_eq!(socket.try_recv(&mut [0; 2]).unwrap(), 1);
            sleep(Duration::from_millis(1)).await;
        }
        let took = now() - started;
        stop.set(true);
        sleep(Duration::from_millis(5)).await;
        assert!(took < LONG, "20 rounds took {took:?}");
    });
}

#[test]
fn a_panic_ends_its_task_and_is_told() {
    on_both_drivers(|| async {
        let told = Rc::new(Cell::new(false));
        let heard = told.clone();
        spawn(async { panic!("as the test wants") }, move |text| {
            heard.set(text == "as the test wants")
        });
        sleep(Duration::from_millis(2)).await;
        assert!(told.get());
        assert_eq!(blocking(|| 7).await, Ok(7));
        assert_eq!(
            blocking(|| -> u8 { panic!("there too") }).await,
            Err("there too".to_owned())
        );
    });
}

#[test]
fn connecting_tells_refusal_from_success_and_can_be_given_up() {
    on_both_drivers(|| async {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        let socket = Socket::connect(&address).await.unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        assert_eq!(socket.try_send(b"hi").unwrap(), 2);
        let mut bytes = [0; 2];
        peer.read_exact(&mut bytes).unwrap();
        let refused = Socket::connect(&Address::Tcp(nobody())).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    });
}

#[test]
fn a_reset_that_the_writer_was_told_of_is_no_end_in_order_for_the_reader() {
    on_both_drivers(|| async {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        let socket = Socket::connect(&address).await.unwrap();
        let (peer, _) = listener.accept().unwrap();
        let peer = socket2::Socket::from(peer);
        peer.set_linger(Some(Duration::ZERO)).unwrap();
        drop(peer);
        socket.readable().await.unwrap();
        let reset = io::ErrorKind::ConnectionReset;
        assert_eq!(socket.try_send(b"hi").unwrap_err().kind(), reset);
        for _ in 0..2 {
            assert_eq!(socket.try_recv(&mut [0; 1]).unwrap_err().kind(), reset);
        }
    });
}

#[test]
fn a_dropped_socket_closes_its_descriptor() {
    on_both_drivers(|| async {
        let (socket, mut peer) = pair();
        let _ = before(
            Deadline::after(now(), Duration::from_millis(1)),
            socket.readable(),
        )
        .await;
        drop(socket);
        peer.set_nonblocking(true).unwrap();
        // Soon: its last hold may be the ring's, which lets go of it when it is looked after.
        for _ in 0..1000 {
            match peer.read(&mut [0; 1]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    sleep(Duration::from_millis(5)).await;
                }
                read => return assert_eq!(read.unwrap(), 0),
            }
        }
        panic!("it is open after 5 s");
    });
}
