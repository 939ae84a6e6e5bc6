//! Clients in one loop, so many requests under way at a time.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::epoll;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};
use rustls::{ClientConnection, StreamOwned};

use super::servers::{Atlas, NAME, Origin};

/// How long a server takes to fall asleep, so that its account is exact.
const SETTLES: Duration = Duration::from_millis(2);

/// What proxies tell an endpoint besides what they were told.
const FORWARDED: &str = "X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: bench.test\r\n\
                         X-Request-Id: 0123456789abcdef0123456789abcdef\r\n";

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// Connections to one server that all ask for the same.
pub(crate) struct Load {
    connections: Vec<Connection>,
    epoll: OwnedFd,
    request: String,
    flight: usize,
    /// Those that nothing is under way on, the one that has waited longest first.
    idle: VecDeque<usize>,
}

struct Connection {
    stream: Box<dyn Stream>,
    /// Bytes of an answer.
    answer: usize,
    /// How many of them have not come yet.
    left: usize,
}

/// Over which connection the next request goes, when one is answered.
#[derive(Clone, Copy)]
pub(crate) enum Turns {
    Same,
    Next,
}

impl Load {
    /// Clients of Atlas, over TLS.
    pub(crate) fn of_atlas(atlas: &Atlas, endpoints: usize, flight: usize) -> Self {
        let request = format!("GET /endpoints-{endpoints}/1k HTTP/1.1\r\nHost: {NAME}\r\n\r\n");
        let connect = |_| {
            let socket = connect((Ipv4Addr::LOCALHOST, atlas.port).into());
            let connection = ClientConnection::new(atlas.tls.clone(), NAME.try_into().unwrap()).unwrap();
            let cloned = socket.try_clone().unwrap();
            (
                cloned,
                Box::new(StreamOwned::new(connection, socket)) as Box<dyn Stream>,
            )
        };
        Self::new(request, flight, flight, connect)
    }

    /// What a proxy without anything else would keep: a connection to each endpoint, and as many as requests are
    /// under way.
    pub(crate) fn of_origin(origin: &Origin, endpoints: usize, flight: usize) -> Self {
        let request = format!("GET /1k HTTP/1.1\r\nHost: {NAME}\r\n{FORWARDED}\r\n");
        let connect = |index| {
            let socket = connect(origin.endpoint(index % endpoints));
            (socket.try_clone().unwrap(), Box::new(socket) as Box<dyn Stream>)
        };
        Self::new(request, endpoints.max(flight), flight, connect)
    }

    fn new(
        request: String,
        connections: usize,
        flight: usize,
        connect: impl Fn(usize) -> (TcpStream, Box<dyn Stream>),
    ) -> Self {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let connections = (0..connections).map(|index| {
            let (socket, stream) = connect(index);
            let connection = Connection::begin(stream, &request);
            socket.set_nonblocking(true).unwrap();
            let data = epoll::EventData::new_u64(index as u64);
            epoll::add(&epoll, &socket, data, epoll::EventFlags::IN).unwrap();
            std::mem::forget(socket); // a duplicate, open as long as the process
            connection
        });
        let connections: Vec<_> = connections.collect();
        Self {
            idle: (0..connections.len()).collect(),
            connections,
            epoll,
            request,
            flight,
        }
    }

    /// Asks for so long, and until all is answered; microseconds of `cpu` seconds for a request.
    pub(crate) fn slice(&mut self, long: Duration, turns: Turns, cpu: impl Fn() -> f64) -> f64 {
        std::thread::sleep(SETTLES);
        let (before, ends) = (cpu(), Instant::now() + long);
        let (mut under_way, mut done) = (0, 0);
        while under_way < self.flight {
            self.ask();
            under_way += 1;
        }
        let mut events = Vec::with_capacity(self.flight);
        while under_way > 0 {
            events.clear();
            epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None).unwrap();
            let goes_on = Instant::now() < ends;
            for event in &events {
                let index = usize::try_from(event.data.u64()).unwrap();
                if !self.connections[index].has_answer() {
                    continue;
                }
                (under_way, done) = (under_way - 1, done + 1);
                match turns {
                    Turns::Same => self.idle.push_front(index),
                    Turns::Next => self.idle.push_back(index),
                }
                if goes_on {
                    self.ask();
                    under_way += 1;
                }
            }
        }
        std::thread::sleep(SETTLES);
        (cpu() - before) * 1e6 / f64::from(done)
    }

    fn ask(&mut self) {
        let index = self.idle.pop_front().unwrap();
        self.connections[index].ask(&self.request);
    }
}

impl Connection {
    /// Asks once, to see how long an answer is.
    fn begin(mut stream: Box<dyn Stream>, request: &str) -> Self {
        stream.write_all(request.as_bytes()).unwrap();
        stream.flush().unwrap();
        let (mut answer, mut piece) = (Vec::new(), [0; 8192]);
        let size = loop {
            let count = stream.read(&mut piece).unwrap();
            assert!(count > 0, "a server closed before it answered");
            answer.extend_from_slice(&piece[..count]);
            if let Some(head) = answer.windows(4).position(|four| four == b"\r\n\r\n") {
                let text = String::from_utf8_lossy(&answer[..head]).to_ascii_lowercase();
                assert!(text.starts_with("http/1.1 200 "), "{text}");
                let (_, length) = text.split_once("content-length: ").unwrap();
                break head + 4 + length.lines().next().unwrap().parse::<usize>().unwrap();
            }
        };
        while answer.len() < size {
            let count = stream.read(&mut piece).unwrap();
            answer.extend_from_slice(&piece[..count]);
        }
        Self {
            stream,
            answer: size,
            left: 0,
        }
    }

    fn ask(&mut self, request: &str) {
        self.left = self.answer;
        self.stream.write_all(request.as_bytes()).unwrap();
        self.stream.flush().unwrap();
    }

    /// Reads what has come; whether it is all.
    fn has_answer(&mut self) -> bool {
        let mut piece = [0; 8192];
        while self.left > 0 {
            match self.stream.read(&mut piece) {
                Ok(count) => {
                    assert!(count > 0, "a server closed before it answered");
                    self.left = self.left.checked_sub(count).expect("as long as the first answer");
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                Err(error) => panic!("{error}"),
            }
        }
        true
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(address).unwrap();
    socket.set_nodelay(true).unwrap();
    socket
}

/// Seconds this thread has had.
pub(crate) fn own_cpu() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// This thread goes on there.
pub(crate) fn move_to(core: usize) {
    let mut cores = CpuSet::new();
    cores.set(core);
    sched_setaffinity(None, &cores).expect("the machine has two cores");
}

pub(crate) fn raise_descriptor_limit() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let all = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, all).unwrap();
}
