//! An origin that is a process: this test program, run again for a test that is none.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::atlas::signal;
use crate::support::{Then, free_port, origin};

/// In its environment: its address, and what it does.
const TOLD: &str = "ATLAS_TEST_ORIGIN";

/// It says so when it listens.
const READY: &str = "the origin listens";

/// An origin that runs; it is killed when dropped.
pub struct Process {
    child: Child,
    pub address: String,
    word: &'static str,
}

impl Process {
    /// One that answers by what it is asked for.
    pub fn start() -> Self {
        Self::run(loopback(), "answers", &[])
    }

    /// One that answers whatever it is asked for.
    pub fn that_is_well() -> Self {
        Self::run(loopback(), "is well", &[])
    }

    /// One that listens, accepts nobody, and whose queue is full.
    pub fn that_never_accepts() -> Self {
        Self::run(loopback(), "never accepts", &[])
    }

    /// As [`Self::start`], there, by way of another program.
    pub fn at(address: SocketAddr, by_way_of: &[&str]) -> Self {
        Self::run(address, "answers", by_way_of)
    }

    fn run(address: SocketAddr, word: &'static str, by_way_of: &[&str]) -> Self {
        let me = std::env::current_exe().unwrap();
        let mut words: Vec<_> = by_way_of.iter().map(OsStr::new).collect();
        words.push(me.as_os_str());
        let mut child = Command::new(words[0])
            .args(&words[1..])
            .args([
                "--ignored",
                "--exact",
                "faults::process::the_origin",
                "--nocapture",
            ])
            .env(TOLD, format!("{address} {word}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap()).lines();
        let is_ready = said.map_while(Result::ok).any(|line| line.ends_with(READY));
        assert!(is_ready, "the origin ended before it listened");
        Self {
            child,
            address: address.to_string(),
            word,
        }
    }

    /// Ends it as nothing else does.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again where it was.
    pub fn revive(&mut self) {
        *self = Self::run(self.address.parse().unwrap(), self.word, &[]);
    }

    pub fn signal(&self, which: Signal) {
        signal(&self.child, which);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port()))
}

#[test]
#[ignore = "run by the tests beside it, as a process of its own"]
fn the_origin() {
    let told = std::env::var(TOLD).expect("it is told what to do");
    let (address, word) = told.split_once(' ').unwrap();
    let address = address.parse().unwrap();
    match word {
        "answers" => answers(address),
        "is well" => is_well(address),
        _ => never_accepts(address),
    }
}

/// Says that it listens, and lives as long as the test that has started it.
fn until_the_test_ends() {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{READY}").unwrap();
    drop(output);
    let _ = std::io::stdin().read(&mut [0]);
}

fn is_well(address: SocketAddr) {
    let _origin = origin()
        .at(address)
        .handles_all(|exchange| exchange.answer(200, &[], b"well"))
        .start();
    until_the_test_ends();
}

fn never_accepts(address: SocketAddr) {
    let socket = || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let listener = socket();
    listener.bind(&address.into()).unwrap();
    listener.listen(0).unwrap();
    let filling = [(); 4].map(|()| socket());
    for one in &filling {
        one.set_nonblocking(true).unwrap();
        let _ = one.connect(&address.into());
    }
    until_the_test_ends();
}

const HALF: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf";

fn answers(address: SocketAddr) {
    let _origin = origin()
        .at(address)
        .handles_all(|exchange| exchange.answer(200, &[], b"well"))
        .handles("/says-nothing", |exchange| {
            exchange.wait_for_close();
            Ok(Then::Close)
        })
        .handles("/stops-after-the-head", |exchange| {
            exchange.send(&HALF[..HALF.len() - 4])?;
            exchange.wait_for_close();
            Ok(Then::Close)
        })
        .handles("/stops-in-the-body", |exchange| {
            exchange.send(HALF)?;
            exchange.wait_for_close();
            Ok(Then::Close)
        })
        .sends("/closes-in-the-body", HALF, Then::Close)
        .sends("/resets-in-the-body", HALF, Then::Reset)
        .sends("/closes", "", Then::Close)
        .sends("/resets", "", Then::Reset)
        .sends("/resets-in-the-head", "HTTP/1.1 200 OK\r\nConte", Then::Reset)
        .sends("/says-garbage", "220 mail.test ESMTP\r\n\r\n", Then::Close)
        .handles("/is-slow", |exchange| {
            sleep(super::TIMEOUT / 4);
            exchange.send(HALF)?;
            for _ in 0..4 {
                sleep(super::TIMEOUT / 4);
                exchange.send("s")?;
            }
            Ok(Then::Keep)
        })
        .answers("/long", vec![b'.'; 100_000])
        .handles("/goes-on", |exchange| {
            exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")?;
            loop {
                exchange.send(".")?;
                sleep(Duration::from_millis(10));
            }
        })
        .start();
    until_the_test_ends();
}
