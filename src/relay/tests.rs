//! Relays between real sockets, with std threads on both far ends.

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::SendFlags;

use super::*;
use crate::buffer::Buffer;
use crate::outcome::Carrier;
use crate::pipe;
use crate::runtime::{self, Preference, Socket};
use crate::sys::ktls;
use crate::transport::{Keys, kernel_tls};

const IDLE: Duration = Duration::from_secs(10);

/// Two connected sockets over loopback: ours, and the peer's.
fn pair() -> (OwnedFd, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (ours, _) = listener.accept().unwrap();
    (OwnedFd::from(ours), theirs)
}

/// What carries the two connections of a relay: the client's, the origin's.
type Carriers = [Carrier; 2];

const PLAIN: Carriers = [Carrier::None; 2];

/// Makes a test of each of these for plain connections, and one for all mixtures with such whose
/// records the kernel makes.
macro_rules! over_all_carriers {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            super::$name(super::PLAIN);
        })*

        mod kernel_tls {
            use crate::outcome::Carrier::{Kernel, None};

            $(#[test]
            fn $name() {
                if crate::transport::kernel_tls::offload().is_some() {
                    for carriers in [[Kernel, Kernel], [Kernel, None], [None, Kernel]] {
                        super::super::$name(carriers);
                    }
                }
            })*
        }
    };
}

mod each {
    over_all_carriers! {
        each_side_may_close_its_half_first
        what_is_sent_in_bulk_both_ways_arrives_whole
        a_side_that_never_reads_holds_back_the_other_and_ends_in_time
        nothing_from_either_side_ends_idle
        a_reset_of_one_side_resets_the_other
        a_conversation_is_copied_and_a_flow_spliced_and_they_take_turns
        pieces_of_any_size_and_pauses_give_the_same_bytes_on_every_way
        a_reset_in_the_middle_of_a_flow_ends_it_by_name
        two_flows_that_never_pause_leave_the_timers_their_time
    }
}

/// Our end of a connection.
struct Ours {
    socket: OwnedFd,
    keys: Option<Keys>,
}

impl Ours {
    fn transport(self) -> Transport {
        let socket = Socket::new(self.socket).unwrap();
        match (self.keys, kernel_tls::offload()) {
            (Some(keys), Some(offload)) => Transport::ktls(socket, keys, Buffer::none(), offload),
            _ => Transport::plain(socket),
        }
    }
}

/// The far end of a connection; its records are the kernel's, if there are any.
struct Far {
    socket: TcpStream,
    is_tls: bool,
    ends_in_order: AtomicBool,
}

impl Far {
    fn shutdown(&self, how: Shutdown) {
        if self.is_tls && self.ends_in_order.load(Ordering::SeqCst) {
            let mut wait = [PollFd::new(&self.socket, PollFlags::OUT)];
            poll(&mut wait, None).unwrap();
            let _ = ktls::send_record(self.socket.as_fd(), 21, &[1, 0]);
        }
        let _ = self.socket.shutdown(how);
        self.ends_in_order.store(false, Ordering::SeqCst);
    }

    /// The connection shall end with a reset.
    fn reset(&self) {
        let socket = socket2::SockRef::from(&self.socket);
        socket.set_linger(Some(Duration::ZERO)).unwrap();
        self.ends_in_order.store(false, Ordering::SeqCst);
    }

    /// What stands before the data: a ticket, or the end.
    fn control(&self) -> io::Result<Option<usize>> {
        let mut record = [0; ktls::RECORD_BYTES_MAX];
        let got = ktls::receive_record(self.socket.as_fd(), &mut record)?;
        match (got.kind, &record[..got.count]) {
            (Some(22), _) => Ok(None),
            (Some(21), [_, 0]) => Ok(Some(0)),
            other => panic!("{other:?}"),
        }
    }
}

impl Read for &Far {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match (&self.socket).read(into) {
                Err(error) if self.is_tls && error.raw_os_error() == Some(libc::EIO) => {
                    if let Some(count) = self.control()? {
                        return Ok(count);
                    }
                }
                result => return result,
            }
        }
    }
}

impl Write for &Far {
    /// Waits by poll: a send that waits inside the kernel's TLS loses the error it was woken by, and
    /// takes all that is written from then on.
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let idle = IDLE.try_into().unwrap();
        loop {
            match rustix::net::send(&self.socket, from, flags) {
                Err(Errno::AGAIN) => {
                    let mut space = [PollFd::new(&self.socket, PollFlags::OUT)];
                    if poll(&mut space, Some(&idle))? == 0 {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                }
                result => return Ok(result?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Far {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        (&*self).read(into)
    }
}

impl Write for Far {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        (&*self).write(from)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        if self.ends_in_order.load(Ordering::SeqCst) {
            self.shutdown(Shutdown::Write);
        }
    }
}

/// A connection as its carrier makes it: our end, and the peer's.
fn connection(carrier: Carrier, side: Side) -> (Ours, Far) {
    let (ours, theirs) = match carrier {
        Carrier::Kernel => {
            let [(server, server_keys), (client, client_keys)] = kernel_tls::ends();
            match side {
                Side::Downstream => ((server.into(), Some(server_keys)), client),
                _ => ((client.into(), Some(client_keys)), server),
            }
        }
        _ => {
            let (ours, theirs) = pair();
            ((ours, None), theirs)
        }
    };
    let far = Far {
        socket: theirs,
        is_tls: carrier == Carrier::Kernel,
        ends_in_order: AtomicBool::new(true),
    };
    let (socket, keys) = ours;
    (Ours { socket, keys }, far)
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

/// Relays between a client and an origin, on all ways and both drivers.
fn relay(
    carriers: Carriers,
    idle: Duration,
    client: impl Fn(Far) + Send + Copy + 'static,
    origin: impl Fn(Far) + Send + Copy + 'static,
) -> Vec<Relayed> {
    let mut ends = Vec::new();
    for (way, preference) in runs(carriers) {
        ends.push(relay_by(carriers, way, preference, idle, client, origin));
    }
    ends
}

/// The ways and drivers a relay is tried on. A guest with kernel TLS is slow: fewer there.
fn runs(carriers: Carriers) -> Vec<(u32, Preference)> {
    let ways = [COPY, BULK_AFTER, SPLICE].into_iter();
    let drivers = match carriers {
        PLAIN => {
            return ways
                .flat_map(|way| [(way, Preference::Auto), (way, Preference::Epoll)])
                .collect();
        }
        [Carrier::Kernel, Carrier::Kernel] => [Preference::Epoll, Preference::Auto, Preference::Epoll],
        _ => [Preference::Auto, Preference::Epoll, Preference::Auto],
    };
    ways.zip(drivers).collect()
}

fn relay_by(
    carriers: Carriers,
    way: u32,
    preference: Preference,
    idle: Duration,
    client: impl Fn(Far) + Send + 'static,
    origin: impl Fn(Far) + Send + 'static,
) -> Relayed {
    let (downstream, theirs) = connection(carriers[0], Side::Downstream);
    let client = thread::spawn(move || client(theirs));
    let (upstream, theirs) = connection(carriers[1], Side::Upstream);
    let origin = thread::spawn(move || origin(theirs));
    let relayed = runtime::start(preference, |_| async move {
        let (downstream, upstream) = (downstream.transport(), upstream.transport());
        let end = both_ways_by(way, Ahead::default(), &downstream, &upstream, idle).await;
        let spliced = |transport: &Transport| transport.carriage().spliced.get();
        Relayed {
            end,
            up: upstream.bytes_out(),
            down: downstream.bytes_out(),
            spliced: spliced(&upstream) + spliced(&downstream),
        }
    });
    let relayed = relayed.unwrap();
    client
        .join()
        .unwrap_or_else(|_| panic!("a client failed: {relayed:?}"));
    origin
        .join()
        .unwrap_or_else(|_| panic!("an origin failed: {relayed:?}"));
    match way {
        COPY => assert_eq!(relayed.spliced, 0),
        SPLICE => assert_eq!(relayed.spliced, relayed.up + relayed.down),
        _ => {}
    }
    relayed
}

fn read_all(mut stream: &Far) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

fn each_side_may_close_its_half_first(carriers: Carriers) {
    let ends = relay(
        carriers,
        IDLE,
        |mut client| {
            client.write_all(b"question").unwrap();
            client.shutdown(Shutdown::Write);
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
        carriers,
        IDLE,
        |mut client| {
            assert_eq!(read_all(&client), b"hello");
            client.write_all(b"bye").unwrap();
        },
        |mut origin| {
            origin.write_all(b"hello").unwrap();
            origin.shutdown(Shutdown::Write);
            assert_eq!(read_all(&origin), b"bye");
        },
    );
    for Relayed { end, up, down, .. } in ends {
        assert_eq!((end, up, down), (End::finished(Side::Upstream), 3, 5));
    }
}

/// Sends what a seed gives: no piece of it is like another.
fn send_bulk(mut stream: &Far, bulk: usize, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut block = vec![0; 1 << 20];
    for _ in 0..bulk >> 20 {
        random.fill(&mut block);
        stream.write_all(&block).unwrap();
    }
    stream.shutdown(Shutdown::Write);
}

/// Takes what a seed gives, all of it and in its order.
fn take_bulk(mut stream: &Far, bulk: usize, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut block, mut expected) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    for number in 0..bulk >> 20 {
        stream.read_exact(&mut block).unwrap();
        random.fill(&mut expected);
        assert!(block == expected, "MiB {number} came otherwise");
    }
    assert_eq!(stream.read(&mut block).unwrap(), 0);
}

fn what_is_sent_in_bulk_both_ways_arrives_whole(carriers: Carriers) {
    let size = if carriers == PLAIN { 32 << 20 } else { 8 << 20 };
    let far_end = move |sent: u64, taken: u64| {
        move |stream: Far| {
            thread::scope(|scope| {
                scope.spawn(|| send_bulk(&stream, size, sent));
                take_bulk(&stream, size, taken);
            });
        }
    };
    let bulk = size as u64;
    for (way, preference) in runs(carriers) {
        let relayed = relay_by(carriers, way, preference, IDLE, far_end(1, 2), far_end(2, 1));
        assert!(relayed.end.is_good(), "{relayed:?}");
        assert_eq!((relayed.up, relayed.down), (bulk, bulk));
        if way != COPY {
            assert!(relayed.spliced > bulk, "{relayed:?}");
        }
    }
}

fn a_side_that_never_reads_holds_back_the_other_and_ends_in_time(carriers: Carriers) {
    // At once: each takes its time.
    thread::scope(|scope| {
        for (way, preference) in runs(carriers) {
            scope.spawn(move || never_reads(carriers, way, preference));
        }
    });
}

fn never_reads(carriers: Carriers, way: u32, preference: Preference) {
    // The origin is the one who hears of the end: its connection is reset.
    let over = Arc::new(Barrier::new(2));
    let is_over = over.clone();
    let client = move |client| {
        is_over.wait();
        drop(client);
    };
    let origin = move |mut origin: Far| {
        let block = vec![0; 1 << 20];
        let mut sent = 0;
        while origin.write_all(&block).is_ok() {
            sent += block.len();
            assert!(sent < 256 << 20, "nothing holds the sender back");
        }
        over.wait();
    };
    let idle = Duration::from_secs(5);
    let relayed = relay_by(carriers, way, preference, idle, client, origin);
    let late = End::new(Side::Downstream, Phase::Relay, Cause::TimedOut);
    assert_eq!(relayed.end, late, "{relayed:?}");
}

fn nothing_from_either_side_ends_idle(carriers: Carriers) {
    let wait = |mut stream: Far| {
        let _ = stream.read(&mut [0; 8]);
    };
    let ends = relay(carriers, Duration::from_millis(100), wait, wait);
    let idle = End::new(Side::Atlas, Phase::Relay, Cause::Idle);
    for Relayed { end, up, down, .. } in ends {
        assert_eq!((end, up, down), (idle, 0, 0));
    }
}

fn a_reset_of_one_side_resets_the_other(carriers: Carriers) {
    let ends = relay(
        carriers,
        IDLE,
        |mut client| {
            client.write_all(b"x").unwrap();
            let mut byte = [0];
            client.read_exact(&mut byte).unwrap();
            client.reset();
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

fn a_conversation_is_copied_and_a_flow_spliced_and_they_take_turns(carriers: Carriers) {
    const ROUNDS: usize = 200;
    const FLOW: usize = 8 << 20;
    fn talk(mut stream: &Far, begins: bool) {
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
    let preferences = match carriers {
        PLAIN => &[Preference::Auto, Preference::Epoll][..],
        _ => &[Preference::Auto],
    };
    for &preference in preferences {
        let talk_only = |begins| move |stream: Far| talk(&stream, begins);
        let relayed = relay_by(
            carriers,
            BULK_AFTER,
            preference,
            IDLE,
            talk_only(true),
            talk_only(false),
        );
        assert_eq!(relayed.spliced, 0, "{relayed:?}");
        let client = |mut stream: Far| {
            talk(&stream, true);
            stream.write_all(&vec![9; FLOW]).unwrap();
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            talk(&stream, true);
        };
        let origin = |mut stream: Far| {
            talk(&stream, false);
            let mut taken = vec![0; FLOW];
            stream.read_exact(&mut taken).unwrap();
            assert!(taken.iter().all(|byte| *byte == 9));
            stream.write_all(b"x").unwrap();
            talk(&stream, false);
        };
        let relayed = relay_by(carriers, BULK_AFTER, preference, IDLE, client, origin);
        let words = 2 * ROUNDS * 500;
        assert_eq!(relayed.up, (words + FLOW) as u64);
        assert!(relayed.spliced > (FLOW / 2) as u64, "{relayed:?}");
        // The first word after the flow may still go through the pipe.
        assert!(relayed.spliced <= (FLOW + 500) as u64, "{relayed:?}");
    }
}

/// Sends pieces of odd sizes with pauses between some, by a seed.
fn dribble(mut stream: &Far, bytes: &[u8], seed: u64) {
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
    stream.shutdown(Shutdown::Write);
}

/// Reads pieces of odd sizes with pauses between some, by a seed.
fn sip(mut stream: &Far, seed: u64) -> Vec<u8> {
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

fn pieces_of_any_size_and_pauses_give_the_same_bytes_on_every_way(carriers: Carriers) {
    let seeds = if carriers == PLAIN { 4 } else { 1 };
    for seed in 0..seeds {
        let far_end = move |sent: u64, taken: u64| {
            move |stream: Far| {
                thread::scope(|scope| {
                    scope.spawn(|| dribble(&stream, &pattern(sent), sent));
                    assert!(sip(&stream, taken) == pattern(taken), "seed {seed}");
                });
            }
        };
        for (way, preference) in runs(carriers) {
            let (client, origin) = (far_end(2 * seed, 2 * seed + 1), far_end(2 * seed + 1, 2 * seed));
            let relayed = relay_by(carriers, way, preference, IDLE, client, origin);
            assert!(relayed.end.is_good(), "{relayed:?}");
        }
    }
}

fn a_reset_in_the_middle_of_a_flow_ends_it_by_name(carriers: Carriers) {
    let ends = relay(
        carriers,
        IDLE,
        |mut client| {
            client.read_exact(&mut vec![0; 5 << 20]).unwrap();
            client.reset();
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

fn two_flows_that_never_pause_leave_the_timers_their_time(carriers: Carriers) {
    // A guest with kernel TLS has one CPU, which makes all records of both ends, and a clock of 10 ms.
    let nap_max = match carriers {
        PLAIN => Duration::from_millis(50),
        _ => Duration::from_millis(200),
    };
    let runs = runs(carriers).into_iter();
    for (way, preference) in runs.filter(|(way, _)| *way != BULK_AFTER) {
        let mut ours = Vec::new();
        let mut threads = Vec::new();
        for _ in 0..2 {
            let (downstream, mut sender) = connection(carriers[0], Side::Downstream);
            let (upstream, mut receiver) = connection(carriers[1], Side::Upstream);
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
        let (nap, moved) = runtime::start(preference, |_| async move {
            let patience = Deadline::within(Duration::from_secs(30));
            let moved = Rc::new(Cell::new([0; 2]));
            for (number, (downstream, upstream)) in ours.into_iter().enumerate() {
                let moved = moved.clone();
                let relay = async move {
                    let count = relay_for_a_while(way, downstream, upstream, patience).await;
                    let mut counts = moved.get();
                    counts[number] = count;
                    moved.set(counts);
                };
                runtime::spawn(relay, |panic| panic!("{panic}"));
            }
            let mut naps = Vec::new();
            for _ in 0..40 {
                let began = now();
                runtime::sleep(Duration::from_millis(5)).await;
                naps.push(now() - began);
            }
            while moved.get().contains(&0) && !patience.passed(now()) {
                runtime::sleep(Duration::from_millis(5)).await;
            }
            naps.sort();
            // Not the longest: other tests run beside this one.
            (naps[naps.len() / 2], moved.get())
        })
        .unwrap();
        assert!(nap < nap_max, "{nap:?} for 5 ms");
        assert!(moved.iter().all(|count| *count > 0), "both flow: {moved:?}");
        for thread in threads {
            thread.join().unwrap();
        }
    }
}

/// Relays for 600 ms, and until something has moved; how much that was.
async fn relay_for_a_while(way: u32, downstream: Ours, upstream: Ours, patience: Deadline) -> u64 {
    let (downstream, upstream) = (downstream.transport(), upstream.transport());
    let stop = pin!(async {
        runtime::sleep(Duration::from_millis(600)).await;
        while upstream.bytes_out() == 0 && !patience.passed(now()) {
            runtime::sleep(Duration::from_millis(5)).await;
        }
    });
    let work = pin!(both_ways_by(way, Ahead::default(), &downstream, &upstream, IDLE));
    select(work, stop).await;
    upstream.bytes_out()
}

/// As one is whose record was taken from the socket to its end when the connection moved into the kernel.
#[test]
fn a_reader_that_is_called_is_run_though_the_one_who_called_finds_nothing() {
    let ran = runtime::start(Preference::Auto, |_| async move {
        let ((from, _sender), (to, _receiver)) = (pair(), pair());
        let from = Transport::plain(Socket::new(from).unwrap());
        let to = Transport::plain(Socket::new(to).unwrap());
        let mut has_called = false;
        let finds_nothing = wait::until_read(&from, Some(&to), || {
            if !std::mem::replace(&mut has_called, true) {
                to.socket().call_reader();
            }
            Err::<(), _>(io::ErrorKind::WouldBlock.into())
        });
        // Looked at first, as the direction from the client is.
        let (is_run, finds_nothing) = (pin!(to.readable()), pin!(finds_nothing));
        let both = select(is_run, finds_nothing);
        // The deadline runs the task, too, and looks at it before it says so.
        let started = now();
        let ran = runtime::before(Deadline::within(IDLE), both).await;
        matches!(ran, Ok(Either::Left(_))) && now() - started < IDLE / 2
    });
    assert!(ran.unwrap(), "nobody ran it");
}

#[test]
fn a_relay_that_is_cut_gives_its_pipe_away() {
    let in_use = runtime::start(Preference::Auto, |_| async move {
        let ((downstream, sender), (upstream, _receiver)) = (pair(), pair());
        let downstream = Transport::plain(Socket::new(downstream).unwrap());
        let upstream = Transport::plain(Socket::new(upstream).unwrap());
        let sending = thread::spawn(move || while (&sender).write(&[0; 1 << 16]).is_ok() {});
        let during = {
            let mut relay = pin!(both_ways_by(
                SPLICE,
                Ahead::default(),
                &downstream,
                &upstream,
                IDLE
            ));
            let is_filled = pin!(async {
                while pipe::in_use() == 0 {
                    runtime::sleep(Duration::from_millis(1)).await;
                }
            });
            let filled = select(is_filled, relay.as_mut());
            let filled = runtime::before(Deadline::within(IDLE), filled).await;
            assert!(
                matches!(filled, Ok(Either::Left(_))),
                "nobody takes anything, and it goes on"
            );
            pipe::in_use()
        };
        (sending, during, pipe::in_use())
    });
    let (sending, during, after) = in_use.unwrap();
    sending.join().unwrap();
    assert_eq!((during, after), (1, 0), "what nobody takes waits in one");
}
