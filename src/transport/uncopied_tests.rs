//! Bytes that go from socket to socket, and from file to socket, without passing through here.

use std::io::{Read, Seek, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::thread;

use super::*;
use crate::pipe::Pipe;
use crate::runtime::{self, Preference};

const LONG: Duration = Duration::from_secs(60);
const SIZE: usize = 5_000_000;

/// Two connected sockets over loopback: ours, and the peer's.
fn pair() -> (OwnedFd, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (ours, _) = listener.accept().unwrap();
    (OwnedFd::from(ours), theirs)
}

fn pattern(count: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(7);
    std::iter::repeat_with(|| random.u8(..)).take(count).collect()
}

fn run(preference: Preference, test: impl Future<Output = ()>) {
    runtime::start(preference, |_| async {
        before(Deadline::within(LONG), test).await.expect("in time");
    })
    .expect("a driver");
}

/// What comes next, in a pipe.
async fn splice_in(from: &Transport, pipe: &mut Pipe) -> io::Result<usize> {
    loop {
        match pipe.fill(|fd, max| from.try_splice_in(fd, max)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => from.readable().await?,
            result => return result,
        }
    }
}

async fn splice_out(to: &Transport, pipe: &mut Pipe) -> io::Result<()> {
    while !pipe.is_empty() {
        match pipe.empty(|fd, len| to.try_splice_out(fd, len, false)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => to.socket().writable().await?,
            result => _ = result?,
        }
    }
    Ok(())
}

#[test]
fn bytes_go_through_a_pipe_whole_and_are_counted() {
    for preference in [Preference::Auto, Preference::Epoll] {
        let ((from, mut sender), (to, mut receiver)) = (pair(), pair());
        let sending = thread::spawn(move || {
            for piece in pattern(SIZE).chunks(70_001) {
                sender.write_all(piece).unwrap();
            }
        });
        let receiving = thread::spawn(move || {
            let mut received = Vec::new();
            receiver.read_to_end(&mut received).unwrap();
            assert!(received == pattern(SIZE));
        });
        run(preference, async {
            let from = Transport::plain(Socket::new(from).unwrap());
            let to = Transport::plain(Socket::new(to).unwrap());
            assert!(from.is_kernel_stream() && to.is_kernel_stream());
            let mut pipe = Pipe::take().unwrap();
            while splice_in(&from, &mut pipe).await.unwrap() > 0 {
                splice_out(&to, &mut pipe).await.unwrap();
            }
            assert_eq!(from.bytes_in(), SIZE as u64);
            assert_eq!(to.bytes_out(), SIZE as u64);
            assert_eq!(to.carriage().spliced.get(), SIZE as u64);
            assert_eq!(from.carriage().spliced.get(), 0, "only what is written counts");
        });
        sending.join().unwrap();
        receiving.join().unwrap();
    }
}

#[test]
fn what_stands_in_a_sockets_way_is_an_error_as_when_it_is_copied() {
    let ((from, sender), (to, receiver)) = (pair(), pair());
    run(Preference::Auto, async {
        let from = Transport::plain(Socket::new(from).unwrap());
        let to = Transport::plain(Socket::new(to).unwrap());
        let mut pipe = Pipe::take().unwrap();
        let nothing = pipe.fill(|fd, max| from.try_splice_in(fd, max));
        assert_eq!(nothing.unwrap_err().kind(), io::ErrorKind::WouldBlock);
        (&sender).write_all(b"abc").unwrap();
        assert_eq!(splice_in(&from, &mut pipe).await.unwrap(), 3);
        for socket in [&sender, &receiver] {
            let socket = socket2::SockRef::from(socket);
            socket.set_linger(Some(Duration::ZERO)).unwrap();
        }
        drop((sender, receiver));
        to.readable().await.unwrap();
        let refused = splice_out(&to, &mut pipe).await.unwrap_err();
        assert_eq!(Cause::of(&refused), Cause::Reset);
        drop(pipe);
        let reset = splice_in(&from, &mut Pipe::take().unwrap()).await.unwrap_err();
        assert_eq!(Cause::of(&reset), Cause::Reset);
    });
}

#[test]
fn a_file_goes_out_from_where_it_was_asked_for_to_where_it_ends() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&pattern(SIZE)).unwrap();
    file.rewind().unwrap();
    for preference in [Preference::Auto, Preference::Epoll] {
        let (to, mut receiver) = pair();
        let receiving = thread::spawn(move || {
            let mut received = Vec::new();
            receiver.read_to_end(&mut received).unwrap();
            assert!(received == pattern(SIZE)[1000..]);
        });
        run(preference, async {
            let to = Transport::plain(Socket::new(to).unwrap());
            let mut at = 1000;
            loop {
                match to.try_sendfile(file.as_fd(), at, 100_000) {
                    Ok(0) => break,
                    Ok(count) => at += count as u64,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        to.socket().writable().await.unwrap();
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            assert_eq!(at, SIZE as u64, "zero at the end of the file");
            assert_eq!(to.bytes_out(), at - 1000);
            assert_eq!(to.carriage().sendfile.get(), at - 1000);
        });
        receiving.join().unwrap();
    }
    assert_eq!(file.stream_position().unwrap(), 0, "the file's own place stays");
}

#[test]
fn unix_sockets_move_bytes_in_the_same_way() {
    let (from, mut sender) = std::os::unix::net::UnixStream::pair().unwrap();
    let (to, mut receiver) = std::os::unix::net::UnixStream::pair().unwrap();
    let sending = thread::spawn(move || sender.write_all(&pattern(SIZE)).unwrap());
    let receiving = thread::spawn(move || {
        let mut received = Vec::new();
        receiver.read_to_end(&mut received).unwrap();
        assert!(received == pattern(SIZE));
    });
    run(Preference::Auto, async {
        let from = Transport::plain(Socket::new(from.into()).unwrap());
        let to = Transport::plain(Socket::new(to.into()).unwrap());
        let mut pipe = Pipe::take().unwrap();
        while splice_in(&from, &mut pipe).await.unwrap() > 0 {
            splice_out(&to, &mut pipe).await.unwrap();
        }
    });
    sending.join().unwrap();
    receiving.join().unwrap();
}

#[test]
fn a_fin_is_an_end_and_stays_one() {
    let (from, sender) = pair();
    run(Preference::Auto, async {
        let from = Transport::plain(Socket::new(from).unwrap());
        sender.shutdown(Shutdown::Write).unwrap();
        let mut pipe = Pipe::take().unwrap();
        for _ in 0..2 {
            assert_eq!(splice_in(&from, &mut pipe).await.unwrap(), 0);
        }
    });
}
