//! A server of names that says what the test wants, by UDP and by TCP, and counts what it is asked.

use std::collections::{HashMap, HashSet};
use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread;

use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, SRV};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use crate::support::free_port;

/// How questions are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// As the records say.
    Well,
    /// By nothing but TCP: datagrams say there is more.
    Truncates,
    /// With SERVFAIL.
    Fails,
    /// By nothing, in datagrams.
    Silent,
}

struct State {
    mood: Mood,
    ttl: u32,
    records: HashMap<(String, RecordType), Vec<RData>>,
    /// With SERVFAIL, whatever the mood.
    failing: HashSet<String>,
    asked: Vec<(String, RecordType, &'static str)>,
}

/// One that runs, for as long as the test does.
pub struct Names {
    port: u16,
    state: Arc<Mutex<State>>,
}

/// Starts one that knows nothing; its answers are good for so many seconds.
pub fn names(ttl: u32) -> Names {
    let state = Arc::new(Mutex::new(State {
        mood: Mood::Well,
        ttl,
        records: HashMap::new(),
        failing: HashSet::new(),
        asked: Vec::new(),
    }));
    let port = free_port();
    let socket = UdpSocket::bind(("127.0.0.1", port)).expect("the port is free");
    let listener = TcpListener::bind(("127.0.0.1", port)).expect("the port is free");
    let known = state.clone();
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((count, from)) = socket.recv_from(&mut buffer) {
            let answer = answer(&known, &buffer[..count], "udp");
            if known.lock().expect("no holder panics").mood != Mood::Silent {
                let _ = socket.send_to(&answer, from);
            }
        }
    });
    let known = state.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let known = known.clone();
            thread::spawn(move || serve(stream, &known));
        }
    });
    Names { port, state }
}

fn serve(mut stream: TcpStream, state: &Mutex<State>) -> Option<()> {
    loop {
        let mut length = [0; 2];
        stream.read_exact(&mut length).ok()?;
        let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut question).ok()?;
        let answer = answer(state, &question, "tcp");
        let length = u16::try_from(answer.len()).expect("it is short");
        stream.write_all(&length.to_be_bytes()).ok()?;
        stream.write_all(&answer).ok()?;
    }
}

fn answer(state: &Mutex<State>, question: &[u8], way: &'static str) -> Vec<u8> {
    let question = Message::from_vec(question).expect("Atlas asks in order");
    let query = question.queries.first().expect("there is a question").clone();
    let mut state = state.lock().expect("no holder panics");
    let host = query.name().to_string().to_ascii_lowercase();
    state.asked.push((host.clone(), query.query_type(), way));
    let mut answer = Message::response(question.metadata.id, OpCode::Query);
    answer.metadata.recursion_desired = true;
    answer.metadata.recursion_available = true;
    match state.mood {
        _ if state.failing.contains(&host) => answer.metadata.response_code = ResponseCode::ServFail,
        Mood::Fails => answer.metadata.response_code = ResponseCode::ServFail,
        Mood::Truncates if way == "udp" => answer.metadata.truncation = true,
        Mood::Well | Mood::Truncates | Mood::Silent => {
            let is_known = state.records.keys().any(|(known, _)| *known == host);
            if !is_known {
                answer.metadata.response_code = ResponseCode::NXDomain;
            }
            let found = state.records.get(&(host, query.query_type()));
            answer.add_answers(
                found
                    .into_iter()
                    .flatten()
                    .map(|data| Record::from_rdata(query.name().clone(), state.ttl, data.clone())),
            );
        }
    }
    answer.add_query(query);
    answer.to_vec().expect("it can be written")
}

impl Names {
    /// As it stands in `resolver`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// From here on a host has these addresses, and no others.
    pub fn set(&self, host: &str, ips: &[&str]) {
        let ips = || {
            ips.iter()
                .map(|ip| ip.parse::<IpAddr>().expect("it is an address"))
        };
        let v4 = ips().filter_map(|ip| match ip {
            IpAddr::V4(ip) => Some(RData::A(A(ip))),
            IpAddr::V6(_) => None,
        });
        let v6 = ips().filter_map(|ip| match ip {
            IpAddr::V6(ip) => Some(RData::AAAA(AAAA(ip))),
            IpAddr::V4(_) => None,
        });
        self.say(host, RecordType::A, v4.collect());
        self.say(host, RecordType::AAAA, v6.collect());
    }

    /// From here on a service has these servers: priority, weight, port and host.
    pub fn set_service(&self, name: &str, servers: &[(u16, u16, u16, &str)]) {
        let servers = servers.iter().map(|(priority, weight, port, host)| {
            let host = Name::from_ascii(format!("{host}.")).expect("it is a name");
            RData::SRV(SRV::new(*priority, *weight, *port, host))
        });
        self.say(name, RecordType::SRV, servers.collect());
    }

    fn say(&self, name: &str, kind: RecordType, records: Vec<RData>) {
        let mut state = self.state.lock().expect("no holder panics");
        state.records.insert((format!("{name}."), kind), records);
    }

    pub fn set_mood(&self, mood: Mood) {
        self.state.lock().expect("no holder panics").mood = mood;
    }

    /// Questions for this host fail from here on, or not any more.
    pub fn set_failing(&self, host: &str, fails: bool) {
        let mut state = self.state.lock().expect("no holder panics");
        match fails {
            true => state.failing.insert(format!("{host}.")),
            false => state.failing.remove(&format!("{host}.")),
        };
    }

    /// How often a name was asked for, in a way.
    pub fn asked(&self, name: &str, way: &str) -> usize {
        let state = self.state.lock().expect("no holder panics");
        let name = format!("{name}.");
        let asked = state.asked.iter();
        asked.filter(|(host, _, by)| *host == name && *by == way).count()
    }
}
