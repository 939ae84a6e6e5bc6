//! Relays between real sockets, with std threads on both far ends.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::thread;

use super::*;
use crate::runtime::{self, Preference, Socket};

const IDLE: Duration = Duration::from_secs(10);

/// Two connected sockets over loopback: ours, and the peer's.
fn pair() -> (OwnedFd, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (ours, _) = listener.accept().unwrap();
    (OwnedFd::from(ours), theirs)
}

/// Relays between a client and an origin, on both drivers; the end, and bytes up and down.
fn relay(
    idle: Duration,
    client: impl Fn(TcpStream) + Send + Copy + 'static,
    origin: impl Fn(TcpStream) + Send + Copy + 'static,
) -> Vec<(End, u64, u64)> {
    let mut ends = Vec::new();
    for preference in [Preference::Auto, Preference::Epoll] {
        let (downstream, theirs) = pair();
        let client = thread::spawn(move || client(theirs));
        let (upstream, theirs) = pair();
        let origin = thread::spawn(move || origin(theirs));
        let end = runtime::start(preference, |_| async move {
            let downstream = Transport::plain(Socket::new(downstream).unwrap());
            let upstream = Transport::plain(Socket::new(upstream).unwrap());
            let end = both_ways(&downstream, &upstream, idle).await;
            let result = (end, upstream.bytes_out(), downstream.bytes_out());
            drop((downstream, upstream));
            // The driver closes sockets in its own time, and only while it runs.
            runtime::sleep(Duration::from_millis(20)).await;
            result
        });
        ends.push(end.unwrap());
        client.join().unwrap();
        origin.join().unwrap();
    }
    ends
}

fn read_all(mut stream: &TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn each_side_may_close_its_half_first() {
    let ends = relay(
        IDLE,
        |mut client| {
            client.write_all(b"question").unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!(read_all(&client), b"answer");
        },
        |mut origin| {
            assert_eq!(read_all(&origin), b"question");
            origin.write_all(b"answer").unwrap();
        },
    );
    assert!(
        ends.iter()
            .all(|end| *end == (End::finished(Side::Downstream), 8, 6)),
        "{ends:?}"
    );
    let ends = relay(
        IDLE,
        |mut client| {
            assert_eq!(read_all(&client), b"hello");
            client.write_all(b"bye").unwrap();
        },
        |mut origin| {
            origin.write_all(b"hello").unwrap();
            origin.shutdown(Shutdown::Write).unwrap();
            assert_eq!(read_all(&origin), b"bye");
        },
    );
    assert!(
        ends.iter()
            .all(|end| *end == (End::finished(Side::Upstream), 3, 5)),
        "{ends:?}"
    );
}

/// FNV-1a, so that an exchange of two bytes is seen.
fn checksum(bytes: &[u8], mut sum: u64) -> u64 {
    for byte in bytes {
        sum = (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    }
    sum
}

const BULK: usize = 64 * 1024 * 1024;

fn send_bulk(mut stream: &TcpStream) -> u64 {
    let mut random = fastrand::Rng::with_seed(1);
    let mut block = vec![0; 1 << 20];
    random.fill(&mut block);
    let mut sum = 0;
    for round in 0..BULK >> 20 {
        block[0] = u8::try_from(round).unwrap();
        stream.write_all(&block).unwrap();
        sum = checksum(&block[..1024], sum);
    }
    stream.shutdown(Shutdown::Write).unwrap();
    sum
}

fn take_bulk(mut stream: &TcpStream) -> u64 {
    let mut block = vec![0; 1 << 20];
    let mut sum = 0;
    for _ in 0..BULK >> 20 {
        stream.read_exact(&mut block).unwrap();
        sum = checksum(&block[..1024], sum);
    }
    assert_eq!(stream.read(&mut block).unwrap(), 0);
    sum
}

#[test]
fn what_is_sent_in_bulk_both_ways_arrives_whole() {
    fn far_end(stream: TcpStream) {
        thread::scope(|scope| {
            let sent = scope.spawn(|| send_bulk(&stream));
            let taken = take_bulk(&stream);
            assert_eq!(sent.join().unwrap(), taken);
        });
    }
    let bulk = BULK as u64;
    for (end, up, down) in relay(IDLE, far_end, far_end) {
        assert!(end.is_good(), "{end}");
        assert_eq!((up, down), (bulk, bulk));
    }
}

#[test]
fn a_side_that_never_reads_holds_back_the_other_and_ends_in_time() {
    let ends = relay(
        Duration::from_millis(300),
        |client| {
            // Reads nothing until it is over.
            thread::park_timeout(Duration::from_millis(1500));
            drop(client);
        },
        |mut origin| {
            let block = vec![0; 1 << 20];
            let mut sent = 0;
            while origin.write_all(&block).is_ok() {
                sent += block.len();
                assert!(sent < 256 << 20, "nothing holds the sender back");
            }
        },
    );
    let late = End::new(Side::Downstream, Phase::Relay, Cause::TimedOut);
    assert!(ends.iter().all(|(end, ..)| *end == late), "{ends:?}");
}

#[test]
fn nothing_from_either_side_ends_idle() {
    let wait = |mut stream: TcpStream| {
        let _ = stream.read(&mut [0; 8]);
    };
    let ends = relay(Duration::from_millis(100), wait, wait);
    let idle = End::new(Side::Atlas, Phase::Relay, Cause::Idle);
    assert!(ends.iter().all(|end| *end == (idle, 0, 0)), "{ends:?}");
}

#[test]
fn a_reset_of_one_side_resets_the_other() {
    let ends = relay(
        IDLE,
        |mut client| {
            client.write_all(b"x").unwrap();
            let mut byte = [0];
            client.read_exact(&mut byte).unwrap();
            socket2::SockRef::from(&client)
                .set_linger(Some(Duration::ZERO))
                .unwrap();
        },
        |mut origin| {
            let mut byte = [0];
            origin.read_exact(&mut byte).unwrap();
            origin.write_all(b"y").unwrap();
            let error = origin.read(&mut byte).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        },
    );
    let reset = End::new(Side::Downstream, Phase::Relay, Cause::Reset);
    assert!(ends.iter().all(|(end, ..)| *end == reset), "{ends:?}");
}
