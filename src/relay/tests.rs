//! Relays between real sockets, with std threads on both far ends.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::thread;

use super::*;
use crate::pipe;
use crate::runtime::{self, Preference, Socket};

const IDLE: Duration = Duration::from_secs(10);

/// Two connected sockets over loopback: ours, and the peer's.
fn pair() -> (OwnedFd, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (ours, _) = listener.accept().unwrap();
    (OwnedFd::from(ours), theirs)
}

/// What a relay has done.
#[derive(Debug, PartialEq, Eq)]
struct Relayed {
    end: End,
    up: u64,
    down: u64,
    spliced: u64,
}

/// Ways a relay may go, by the number of long pieces after which it splices.
const COPY: u32 = u32::MAX;
const SPLICE: u32 = 0;
const WAYS: [u32; 3] = [COPY, BULK_AFTER, SPLICE];

/// Relays between a client and an origin, on all ways and both drivers.
fn relay(
    idle: Duration,
    client: impl Fn(TcpStream) + Send + Copy + 'static,
    origin: impl Fn(TcpStream) + Send + Copy + 'static,
) -> Vec<Relayed> {
    let mut ends = Vec::new();
    for way in WAYS {
        for preference in [Preference::Auto, Preference::Epoll] {
            ends.push(relay_by(way, preference, idle, client, origin));
        }
    }
    ends
}

fn relay_by(
    way: u32,
    preference: Preference,
    idle: Duration,
    client: impl Fn(TcpStream) + Send + 'static,
    origin: impl Fn(TcpStream) + Send + 'static,
) -> Relayed {
    let (downstream, theirs) = pair();
    let client = thread::spawn(move || client(theirs));
    let (upstream, theirs) = pair();
    let origin = thread::spawn(move || origin(theirs));
    let relayed = runtime::start(preference, |_| async move {
        let downstream = Transport::plain(Socket::new(downstream).unwrap());
        let upstream = Transport::plain(Socket::new(upstream).unwrap());
        let end = both_ways_by(way, &downstream, &upstream, idle).await;
        let spliced = |transport: &Transport| transport.carriage().spliced.get();
        let relayed = Relayed {
            end,
            up: upstream.bytes_out(),
            down: downstream.bytes_out(),
            spliced: spliced(&upstream) + spliced(&downstream),
        };
        drop((downstream, upstream));
        // The driver closes sockets in its own time, and only while it runs.
        runtime::sleep(Duration::from_millis(20)).await;
        relayed
    });
    client.join().unwrap();
    origin.join().unwrap();
    let relayed = relayed.unwrap();
    match way {
        COPY => assert_eq!(relayed.spliced, 0),
        SPLICE => assert_eq!(relayed.spliced, relayed.up + relayed.down),
        _ => {}
    }
    relayed
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
    for Relayed { end, up, down, .. } in ends {
        assert_eq!((end, up, down), (End::finished(Side::Downstream), 8, 6));
    }
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
    for Relayed { end, up, down, .. } in ends {
        assert_eq!((end, up, down), (End::finished(Side::Upstream), 3, 5));
    }
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
    for way in WAYS {
        for preference in [Preference::Auto, Preference::Epoll] {
            let relayed = relay_by(way, preference, IDLE, far_end, far_end);
            assert!(relayed.end.is_good(), "{relayed:?}");
            assert_eq!((relayed.up, relayed.down), (bulk, bulk));
            if way != COPY {
                assert!(relayed.spliced > bulk, "{relayed:?}");
            }
        }
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
    assert!(ends.iter().all(|relayed| relayed.end == late), "{ends:?}");
}

#[test]
fn nothing_from_either_side_ends_idle() {
    let wait = |mut stream: TcpStream| {
        let _ = stream.read(&mut [0; 8]);
    };
    let ends = relay(Duration::from_millis(100), wait, wait);
    let idle = End::new(Side::Atlas, Phase::Relay, Cause::Idle);
    for Relayed { end, up, down, .. } in ends {
        assert_eq!((end, up, down), (idle, 0, 0));
    }
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
    assert!(ends.iter().all(|relayed| relayed.end == reset), "{ends:?}");
}

#[test]
fn a_conversation_is_copied_and_a_flow_spliced_and_they_take_turns() {
    const ROUNDS: usize = 200;
    const FLOW: usize = 32 << 20;
    fn talk(mut stream: &TcpStream, begins: bool) {
        let mut word = [7; 500];
        for _ in 0..ROUNDS {
            if begins {
                stream.write_all(&word).unwrap();
            }
            stream.read_exact(&mut word).unwrap();
            if !begins {
                stream.write_all(&word).unwrap();
            }
        }
    }
    for preference in [Preference::Auto, Preference::Epoll] {
        let talk_only = |begins| move |stream: TcpStream| talk(&stream, begins);
        let relayed = relay_by(BULK_AFTER, preference, IDLE, talk_only(true), talk_only(false));
        assert_eq!(relayed.spliced, 0, "{relayed:?}");
        let client = |mut stream: TcpStream| {
            talk(&stream, true);
            stream.write_all(&vec![9; FLOW]).unwrap();
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            talk(&stream, true);
        };
        let origin = |mut stream: TcpStream| {
            talk(&stream, false);
            let mut taken = vec![0; FLOW];
            stream.read_exact(&mut taken).unwrap();
            assert!(taken.iter().all(|byte| *byte == 9));
            stream.write_all(b"x").unwrap();
            talk(&stream, false);
        };
        let relayed = relay_by(BULK_AFTER, preference, IDLE, client, origin);
        let words = 2 * ROUNDS * 500;
        assert_eq!(relayed.up, (words + FLOW) as u64);
        assert!(relayed.spliced > (FLOW / 2) as u64, "{relayed:?}");
        // The first word after the flow may still go through the pipe.
        assert!(relayed.spliced <= (FLOW + 500) as u64, "{relayed:?}");
    }
}

/// Sends pieces of odd sizes with pauses between some, by a seed.
fn dribble(mut stream: &TcpStream, bytes: &[u8], seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut rest = bytes;
    while !rest.is_empty() {
        let size = 1 << random.u32(0..18);
        let (piece, left) = rest.split_at(random.usize(1..=size).min(rest.len()));
        stream.write_all(piece).unwrap();
        rest = left;
        if random.u8(..) < 10 {
            thread::park_timeout(Duration::from_millis(1));
        }
    }
    stream.shutdown(Shutdown::Write).unwrap();
}

/// Reads pieces of odd sizes with pauses between some, by a seed.
fn sip(mut stream: &TcpStream, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut taken = Vec::new();
    let mut piece = vec![0; 1 << 18];
    loop {
        let power = random.u32(0..18);
        let size = random.usize(1..=1 << power);
        match stream.read(&mut piece[..size]).unwrap() {
            0 => return taken,
            count => taken.extend_from_slice(&piece[..count]),
        }
        if random.u8(..) < 10 {
            thread::park_timeout(Duration::from_millis(1));
        }
    }
}

fn pattern(seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let count = random.usize(1..3 << 20);
    std::iter::repeat_with(|| random.u8(..)).take(count).collect()
}

#[test]
fn pieces_of_any_size_and_pauses_give_the_same_bytes_on_every_way() {
    for seed in 0..4 {
        let far_end = move |sent: u64, taken: u64| {
            move |stream: TcpStream| {
                thread::scope(|scope| {
                    scope.spawn(|| dribble(&stream, &pattern(sent), sent));
                    assert!(sip(&stream, taken) == pattern(taken), "seed {seed}");
                });
            }
        };
        for way in WAYS {
            let (client, origin) = (far_end(2 * seed, 2 * seed + 1), far_end(2 * seed + 1, 2 * seed));
            let relayed = relay_by(way, Preference::Auto, IDLE, client, origin);
            assert!(relayed.end.is_good(), "{relayed:?}");
        }
    }
}

#[test]
fn a_reset_in_the_middle_of_a_flow_ends_it_by_name() {
    let ends = relay(
        IDLE,
        |mut client| {
            client.read_exact(&mut vec![0; 5 << 20]).unwrap();
            let client = socket2::SockRef::from(&client);
            client.set_linger(Some(Duration::ZERO)).unwrap();
        },
        |mut origin| {
            let block = vec![0; 1 << 20];
            let error = (0..500).find_map(|_| origin.write_all(&block).err()).unwrap();
            let gone = [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe];
            assert!(gone.contains(&error.kind()), "{error}");
        },
    );
    let reset = End::new(Side::Downstream, Phase::Relay, Cause::Reset);
    assert!(ends.iter().all(|relayed| relayed.end == reset), "{ends:?}");
}

#[test]
fn two_flows_that_never_pause_leave_the_timers_their_time() {
    for way in [COPY, SPLICE] {
        for preference in [Preference::Auto, Preference::Epoll] {
            let mut ours = Vec::new();
            let mut threads = Vec::new();
            for _ in 0..2 {
                let ((downstream, mut sender), (upstream, mut receiver)) = (pair(), pair());
                threads.push(thread::spawn(move || {
                    let block = vec![0; 1 << 20];
                    while sender.write_all(&block).is_ok() {}
                }));
                threads.push(thread::spawn(move || {
                    let mut block = vec![0; 1 << 20];
                    while receiver.read(&mut block).is_ok_and(|count| count > 0) {}
                }));
                ours.push((downstream, upstream));
            }
            let nap = runtime::start(preference, |_| async move {
                for (downstream, upstream) in ours {
                    let relay = async move {
                        let downstream = Transport::plain(Socket::new(downstream).unwrap());
                        let upstream = Transport::plain(Socket::new(upstream).unwrap());
                        let stop = pin!(runtime::sleep(Duration::from_millis(600)));
                        let work = pin!(both_ways_by(way, &downstream, &upstream, IDLE));
                        select(work, stop).await;
                    };
                    runtime::spawn(relay, |panic| panic!("{panic}"));
                }
                let mut naps = Vec::new();
                for _ in 0..40 {
                    let began = now();
                    runtime::sleep(Duration::from_millis(5)).await;
                    naps.push(now() - began);
                }
                runtime::sleep(Duration::from_millis(600)).await;
                naps.sort();
                naps[naps.len() / 2]
            });
            // Not the longest: other tests run beside this one.
            let nap = nap.unwrap();
            assert!(nap < Duration::from_millis(50), "{nap:?} for 5 ms");
            for thread in threads {
                thread.join().unwrap();
            }
        }
    }
}

#[test]
fn a_relay_that_is_cut_gives_its_pipe_away() {
    let in_use = runtime::start(Preference::Auto, |_| async move {
        let ((downstream, sender), (upstream, _receiver)) = (pair(), pair());
        let downstream = Transport::plain(Socket::new(downstream).unwrap());
        let upstream = Transport::plain(Socket::new(upstream).unwrap());
        let sending = thread::spawn(move || while (&sender).write(&[0; 1 << 16]).is_ok() {});
        let during = {
            let mut relay = pin!(both_ways_by(SPLICE, &downstream, &upstream, IDLE));
            let deadline = Deadline::within(Duration::from_millis(200));
            assert!(runtime::before(deadline, relay.as_mut()).await.is_err());
            pipe::in_use()
        };
        let after = pipe::in_use();
        drop((downstream, upstream));
        runtime::sleep(Duration::from_millis(20)).await;
        (sending, during, after)
    });
    let (sending, during, after) = in_use.unwrap();
    sending.join().unwrap();
    assert_eq!((during, after), (1, 0), "what nobody takes waits in one");
}
