//! Finds out over loopback what this kernel's TLS does: every kernel of the last years calls itself
//! able, and they differ in what keeps bytes and threads safe.

use std::fmt::{self, Display, Formatter};
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ioctl_fionread};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

use super::{ALERT, Consequence, HANDSHAKE, Row};
use crate::outcome::Refusal;
use crate::sys::ktls::{self, Cipher, Direction, Key, NONCE_BYTES, RECORD_BYTES_MAX, Version};
use crate::time::{Deadline, now};

/// For the whole probe. Some 20 ms are usual; but a machine that has just started is busy, and where
/// ciphers are modules the kernel loads them on the way. Who starts Atlas would rather wait than do
/// without kernel TLS from then on.
pub(super) const TIME_MAX: Duration = Duration::from_secs(10);

/// How long to wait for bytes over loopback that only a broken kernel keeps back.
const ARRIVAL_MAX: Duration = Duration::from_secs(1);

/// How long to wait for what kernels are known to lose.
const LOSS_MAX: Duration = Duration::from_millis(if cfg!(test) { 500 } else { 50 });

const _: () = assert!(ARRIVAL_MAX.as_millis() * 5 <= TIME_MAX.as_millis());

/// What a pipe holds unless asked for more, and the least one can hold.
const PIPE_BYTES: usize = 64 * 1024;
const SMALL_PIPE_BYTES: usize = 4096;

const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];
const CLOSE_NOTIFY: [u8; 2] = [1, 0];

pub(super) const VERSIONS: [Version; 2] = [Version::Tls12, Version::Tls13];
pub(super) const CIPHERS: [Cipher; 3] = [Cipher::Aes128Gcm, Cipher::Aes256Gcm, Cipher::Chacha20Poly1305];
pub(super) const DIRECTIONS: [Direction; 2] = [Direction::Send, Direction::Receive];

/// What a step came to; the error is for people.
type Step = Result<(), String>;

/// What a try came to.
pub(super) type Finding = Result<(), Fault>;

/// Why a try came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// A step failed; for people.
    Failed(String),
    /// There was no time left: nothing is known.
    OutOfTime,
}

impl Display for Fault {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(why) => f.write_str(why),
            Self::OutOfTime => f.write_str("no time was left to try it"),
        }
    }
}

/// All that was found out.
#[derive(Debug)]
pub(super) struct Findings {
    /// By version, cipher and direction, in the order of the lists above.
    pub(super) carried: [[[Finding; 2]; 3]; 2],
    /// Half a record does not wake the reader.
    pub(super) half_record: Finding,
    /// An alert can be told from data, also while splicing, and nothing around it is lost.
    pub(super) control_record: Finding,
    /// What had come before the key was set is opened with it.
    pub(super) early_data: Finding,
    /// A record goes whole through an empty pipe of the usual size.
    pub(super) delivery: Finding,
    /// A record goes whole through a pipe too small for it.
    pub(super) small_pipe: Finding,
    /// Keys can be renewed both ways (TLS 1.3).
    pub(super) rekey: Finding,
}

impl Fault {
    /// The refusal that follows where failing would mean `otherwise`.
    const fn refusal(&self, otherwise: Refusal) -> Refusal {
        match self {
            Self::Failed(_) => otherwise,
            Self::OutOfTime => Refusal::ProbeTimedOut,
        }
    }
}

impl Findings {
    /// As if nothing had failed.
    pub(super) fn assumed() -> Self {
        Self {
            carried: std::array::from_fn(|_| std::array::from_fn(|_| [Ok(()), Ok(())])),
            half_record: Ok(()),
            control_record: Ok(()),
            early_data: Ok(()),
            delivery: Ok(()),
            small_pipe: Ok(()),
            rekey: Ok(()),
        }
    }

    /// Why no connection can go to the kernel.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        let must = [
            (&self.control_record, Refusal::ProbeControlRecord),
            (&self.early_data, Refusal::ProbeEarlyData),
            (&self.delivery, Refusal::ProbeDelivery),
        ];
        let is_carried = |version| {
            CIPHERS
                .iter()
                .any(|cipher| self.carries(version, *cipher).is_ok())
        };
        let mut carried = self.carried.iter().flatten().flatten();
        if !VERSIONS.into_iter().any(is_carried) {
            let is_late = carried.any(|finding| finding == &Err(Fault::OutOfTime));
            return Some(if is_late {
                Refusal::ProbeTimedOut
            } else {
                Refusal::Cipher
            });
        }
        must.into_iter()
            .find_map(|(finding, refusal)| finding.as_ref().err().map(|fault| fault.refusal(refusal)))
    }

    /// Whether both directions of this version and cipher are carried.
    ///
    /// # Errors
    ///
    /// [`Refusal::Version`] where no cipher of the version is.
    pub(super) fn carries(&self, version: Version, cipher: Cipher) -> Result<(), Refusal> {
        let is_whole = |findings: &[Finding; 2]| findings.iter().all(Result::is_ok);
        let row = &self.carried[version as usize];
        if is_whole(&row[cipher as usize]) {
            Ok(())
        } else if row.iter().any(is_whole) {
            Err(Refusal::Cipher)
        } else {
            Err(Refusal::Version)
        }
    }

    /// A line for each finding.
    pub(super) fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for (version, ciphers) in VERSIONS.iter().zip(&self.carried) {
            for (cipher, directions) in CIPHERS.iter().zip(ciphers) {
                for (direction, finding) in DIRECTIONS.iter().zip(directions) {
                    rows.push(Row {
                        what: format!("{version} {cipher}, {direction}"),
                        finding: finding.clone().map_err(|fault| fault.to_string()),
                        otherwise: None,
                    });
                }
            }
        }
        let behaviours = [
            ("half a record", &self.half_record, Consequence::Pauses),
            (
                "records that are not data",
                &self.control_record,
                Consequence::Refused(Refusal::ProbeControlRecord),
            ),
            (
                "data before the keys",
                &self.early_data,
                Consequence::Refused(Refusal::ProbeEarlyData),
            ),
            (
                "splicing",
                &self.delivery,
                Consequence::Refused(Refusal::ProbeDelivery),
            ),
            (
                "splicing into a small pipe",
                &self.small_pipe,
                Consequence::Avoided,
            ),
            ("renewing keys", &self.rekey, Consequence::EndsAtKeyUpdate),
        ];
        rows.extend(behaviours.map(|(what, finding, otherwise)| Row {
            what: what.to_owned(),
            finding: finding.clone().map_err(|fault| fault.to_string()),
            otherwise: Some(match (finding, otherwise) {
                (Err(fault), Consequence::Refused(refusal)) => Consequence::Refused(fault.refusal(refusal)),
                _ => otherwise,
            }),
        }));
        rows
    }
}

/// Tries everything; what it has not come to by the deadline is not known.
///
/// # Errors
///
/// Why no socket can be given the kernel's TLS at all, for programs and for people.
pub(super) fn run(deadline: Deadline) -> Result<Findings, (Refusal, String)> {
    let (socket, _peer) = pair(deadline).map_err(|error| {
        let fault = in_time(deadline, told("loopback")(error));
        (fault.refusal(Refusal::AttachFailed), fault.to_string())
    })?;
    ktls::attach(socket.as_fd()).map_err(|error| (refusal_of(&error), told("TCP_ULP")(error)))?;
    let carried = VERSIONS.map(|version| {
        CIPHERS.map(|cipher| {
            let prober = Prober {
                version,
                cipher,
                deadline,
            };
            let failed = |why| in_time(deadline, why);
            prober.both_directions().map(|step| step.map_err(failed))
        })
    });
    let best = Prober::of_the_best(&carried, deadline);
    let with = |behaviour: fn(&Prober) -> Step| {
        let step = best.as_ref().map_err(Clone::clone).and_then(behaviour);
        step.map_err(|why| in_time(deadline, why))
    };
    Ok(Findings {
        half_record: with(Prober::half_record),
        control_record: with(Prober::control_record),
        early_data: with(Prober::early_data),
        delivery: with(|prober| prober.through_pipe(PIPE_BYTES, ARRIVAL_MAX)),
        small_pipe: with(|prober| prober.through_pipe(SMALL_PIPE_BYTES, LOSS_MAX)),
        rekey: with(Prober::rekey),
        carried,
    })
}

/// What a step failed by; behind the deadline that tells nothing.
fn in_time(deadline: Deadline, why: String) -> Fault {
    match deadline.passed(now()) {
        true => Fault::OutOfTime,
        false => Fault::Failed(why),
    }
}

/// Why `TCP_ULP` failed.
fn refusal_of(error: &io::Error) -> Refusal {
    match Errno::from_io_error(error) {
        Some(Errno::NOENT) if may_be_there_to_load() => Refusal::NoPermission,
        Some(Errno::NOENT) => Refusal::NoUlp,
        _ => super::refusal_of(error),
    }
}

/// Whether the module may exist and was not tried: the kernel loads it by itself, but only for
/// processes with CAP_NET_ADMIN outside any user namespace.
fn may_be_there_to_load() -> bool {
    let is_capable = rustix::thread::capabilities(None)
        .is_ok_and(|sets| sets.effective.contains(rustix::thread::CapabilitySet::NET_ADMIN));
    // "0 0 4294967295" where there is no namespace.
    let users = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let is_outermost = users.split_whitespace().eq(["0", "0", "4294967295"]);
    if is_capable && is_outermost {
        return false;
    }
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let modules = Path::new("/lib/modules").join(release);
    // In a container they cannot be seen, and that tells nothing.
    !modules.is_dir()
        || ["tls.ko", "tls.ko.xz", "tls.ko.zst", "tls.ko.gz"]
            .iter()
            .any(|name| modules.join("kernel/net/tls").join(name).exists())
}

/// Two connected sockets over loopback.
fn pair(deadline: Deadline) -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0").or_else(|_| TcpListener::bind("[::1]:0"))?;
    listener.set_nonblocking(true)?;
    if deadline.passed(now()) {
        return Err(io::ErrorKind::TimedOut.into());
    }
    let ours = TcpStream::connect_timeout(&listener.local_addr()?, ARRIVAL_MAX)?;
    ours.set_nodelay(true)?;
    let address = ours.local_addr()?;
    while wait(listener.as_fd(), PollFlags::IN, deadline) {
        let (theirs, from) = listener.accept()?;
        // Anybody on this machine may have come first.
        if from == address {
            theirs.set_nodelay(true)?;
            return Ok((ours, theirs));
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

/// Whether a descriptor becomes ready within [`ARRIVAL_MAX`] and before `deadline`.
fn wait(fd: BorrowedFd<'_>, flags: PollFlags, deadline: Deadline) -> bool {
    let time = Timespec::try_from(deadline.left(now()).min(ARRIVAL_MAX)).unwrap_or_default();
    let mut fds = [PollFd::from_borrowed_fd(fd, flags)];
    matches!(poll(&mut fds, Some(&time)), Ok(1))
}

/// An error of a step, for people.
fn told<E: Display>(step: &str) -> impl Fn(E) -> String {
    move |error| format!("{step}: {error}")
}

fn ensure(is_so: bool, otherwise: &str) -> Step {
    is_so.then_some(()).ok_or_else(|| otherwise.to_owned())
}

const fn option_of(direction: Direction) -> &'static str {
    match direction {
        Direction::Send => "TLS_TX",
        Direction::Receive => "TLS_RX",
    }
}

/// Tries of one version and cipher. What is sent lies behind keys that everybody may know.
struct Prober {
    version: Version,
    cipher: Cipher,
    deadline: Deadline,
}

impl Prober {
    /// For the behaviours, which do not depend on the cipher.
    fn of_the_best(carried: &[[[Finding; 2]; 3]; 2], deadline: Deadline) -> Result<Self, String> {
        for (version, row) in VERSIONS.into_iter().zip(carried).rev() {
            for (cipher, findings) in CIPHERS.into_iter().zip(row) {
                if findings.iter().all(Result::is_ok) {
                    return Ok(Self {
                        version,
                        cipher,
                        deadline,
                    });
                }
            }
        }
        Err("no cipher is taken in both directions".to_owned())
    }

    /// Sets the keys of both directions at both ends, and passes a record each way.
    fn both_directions(&self) -> [Step; 2] {
        let (ours, theirs) = match self.attached_pair() {
            Ok(pair) => pair,
            Err(error) => return [Err(error.clone()), Err(error)],
        };
        // Sending first at each end, as it is done with connections.
        let sends = self
            .set(&ours, Direction::Send, 1)
            .and_then(|()| self.set(&theirs, Direction::Send, 2));
        let receives = self
            .set(&theirs, Direction::Receive, 1)
            .and_then(|()| self.set(&ours, Direction::Receive, 2));
        let passed = || {
            self.pass(&ours, &theirs, b"there")?;
            self.pass(&theirs, &ours, b"and back again")
        };
        match (&sends, &receives) {
            (Ok(()), Ok(())) => {
                let passed = passed();
                [passed.clone(), passed]
            }
            _ => [sends, receives],
        }
    }

    /// Half a record has to be no reason to wake who waits for a record.
    fn half_record(&self) -> Step {
        let record = self.sealed(&[7; 1000])?;
        let (from, to) = self.pair()?;
        self.attach(&to)?;
        self.set(&to, Direction::Receive, 1)?;
        let (half, rest) = record.split_at(record.len() / 2);
        self.send(&from, half)?;
        self.arrived(&to, half.len());
        let is_quiet = !is_ready(to.as_fd());
        let nothing = recv_now(&to, &mut [0; 2000]);
        ensure(nothing == Err(Errno::AGAIN), "half a record was given out")?;
        self.send(&from, rest)?;
        self.expect(&to, &[7; 1000])?;
        ensure(is_quiet, "half a record wakes the reader")
    }

    /// An alert between data: read as data it has to be EIO, spliced EINVAL, again and again.
    fn control_record(&self) -> Step {
        let (from, to) = self.receiving_pair()?;
        let (_end, pipe) = pipe_of(PIPE_BYTES)?;
        for _ in 0..2 {
            self.send(&from, b"before")?;
            self.send_record(&from, ALERT, &CLOSE_NOTIFY)?;
        }
        self.send(&from, b"behind")?;
        self.expect(&to, b"before")?;
        self.await_readiness(&to);
        for _ in 0..2 {
            ensure(
                recv_now(&to, &mut [0; 64]) == Err(Errno::IO),
                "an alert is not EIO when read",
            )?;
        }
        self.expect_record(&to, ALERT, &CLOSE_NOTIFY)?;
        self.await_readiness(&to);
        ensure(
            splice_now(&to, pipe.as_fd(), PIPE_BYTES) == Ok(6),
            "data before an alert is not spliced by itself",
        )?;
        self.await_readiness(&to);
        for _ in 0..2 {
            let refused = splice_now(&to, pipe.as_fd(), PIPE_BYTES);
            ensure(
                refused == Err(Errno::INVAL),
                "an alert is not EINVAL when spliced",
            )?;
        }
        self.expect_record(&to, ALERT, &CLOSE_NOTIFY)?;
        self.expect(&to, b"behind")
    }

    /// A record that came before the key has to wake the reader and to be opened.
    fn early_data(&self) -> Step {
        let record = self.sealed(b"early")?;
        let (from, to) = self.pair()?;
        self.send(&from, &record)?;
        self.arrived(&to, record.len());
        self.attach(&to)?;
        self.set(&to, Direction::Receive, 1)?;
        ensure(
            is_ready(to.as_fd()),
            "what came before the key does not wake the reader",
        )?;
        self.expect(&to, b"early")
    }

    /// A full record through a pipe of that size, which is emptied whenever it is full.
    fn through_pipe(&self, size: usize, patience: Duration) -> Step {
        let (from, to) = self.receiving_pair()?;
        let (out, pipe) = pipe_of(size)?;
        let sent: Vec<u8> = (0..=250).cycle().take(RECORD_BYTES_MAX).collect();
        self.send(&from, &sent)?;
        let mut received = vec![0; RECORD_BYTES_MAX];
        let mut count = 0;
        let more_comes = || {
            let patience = Deadline::within(patience).or(self.deadline);
            wait(to.as_fd(), PollFlags::IN, patience)
        };
        while count < received.len() && more_comes() {
            splice_now(&to, pipe.as_fd(), size).map_err(told("splice"))?;
            while let Ok(more @ 1..) = rustix::io::read(&out, &mut received[count..]) {
                count += more;
            }
        }
        ensure(
            count == sent.len(),
            &format!("{} of {} bytes were lost", sent.len() - count, sent.len()),
        )?;
        ensure(received == sent, "bytes were changed")
    }

    /// KeyUpdate, and the next keys at both ends.
    fn rekey(&self) -> Step {
        ensure(self.version == Version::Tls13, "no TLS 1.3")?;
        let (from, to) = self.receiving_pair()?;
        self.send_record(&from, HANDSHAKE, &KEY_UPDATE)?;
        self.set(&from, Direction::Send, 2)?;
        self.send(&from, b"under the next key")?;
        self.await_readiness(&to);
        let told = recv_now(&to, &mut [0; 64]);
        ensure(
            matches!(told, Err(Errno::IO | Errno::KEYEXPIRED)),
            "a key update is not EIO when read",
        )?;
        self.expect_record(&to, HANDSHAKE, &KEY_UPDATE)?;
        self.set(&to, Direction::Receive, 2)?;
        self.expect(&to, b"under the next key")
    }

    fn pair(&self) -> Result<(TcpStream, TcpStream), String> {
        pair(self.deadline).map_err(told("loopback"))
    }

    fn attached_pair(&self) -> Result<(TcpStream, TcpStream), String> {
        let (ours, theirs) = self.pair()?;
        self.attach(&ours)?;
        self.attach(&theirs)?;
        Ok((ours, theirs))
    }

    /// Keys from the first to the second.
    fn receiving_pair(&self) -> Result<(TcpStream, TcpStream), String> {
        let (from, to) = self.attached_pair()?;
        self.set(&from, Direction::Send, 1)?;
        self.set(&to, Direction::Receive, 1)?;
        Ok((from, to))
    }

    /// A record as it lies on the wire.
    fn sealed(&self, plain: &[u8]) -> Result<Vec<u8>, String> {
        let (from, to) = self.pair()?;
        self.attach(&from)?;
        self.set(&from, Direction::Send, 1)?;
        self.send(&from, plain)?;
        let mut record = vec![0; plain.len() + 256];
        let count = self.receive(&to, &mut record).map_err(told("recv"))?;
        record.truncate(count);
        Ok(record)
    }

    fn attach(&self, socket: &TcpStream) -> Step {
        ktls::attach(socket.as_fd()).map_err(told("TCP_ULP"))
    }

    /// Sets the key that `number` stands for.
    fn set(&self, socket: &TcpStream, direction: Direction, number: u8) -> Step {
        ensure(!self.deadline.passed(now()), "no time was left")?;
        let bytes = [number; 32];
        let bytes = &bytes[..self.cipher.key_bytes()];
        let key = Key::new(self.version, self.cipher, bytes, &[number; NONCE_BYTES], 0).ok_or("no key")?;
        ktls::set_key(socket.as_fd(), direction, &key).map_err(told(option_of(direction)))
    }

    fn pass(&self, from: &TcpStream, to: &TcpStream, bytes: &[u8]) -> Step {
        self.send(from, bytes)?;
        self.expect(to, bytes)
    }

    fn send(&self, to: &TcpStream, bytes: &[u8]) -> Step {
        let count = send(to, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).map_err(told("send"))?;
        ensure(count == bytes.len(), "an empty socket takes no record")
    }

    fn send_record(&self, to: &TcpStream, kind: u8, bytes: &[u8]) -> Step {
        ktls::send_record(to.as_fd(), kind, bytes)
            .map(drop)
            .map_err(told("sendmsg"))
    }

    fn expect(&self, socket: &TcpStream, bytes: &[u8]) -> Step {
        let mut received = vec![0; bytes.len()];
        let mut count = 0;
        while count < bytes.len() {
            match self
                .receive(socket, &mut received[count..])
                .map_err(told("recv"))?
            {
                0 => return Err("an end where none was".to_owned()),
                more => count += more,
            }
        }
        ensure(received == bytes, "bytes were changed")
    }

    fn expect_record(&self, socket: &TcpStream, kind: u8, bytes: &[u8]) -> Step {
        let mut received = [0; 64];
        let record = ktls::receive_record(socket.as_fd(), &mut received).map_err(told("recvmsg"))?;
        let is_it = record.kind == Some(kind) && received[..record.count] == *bytes;
        ensure(is_it, "a record that is not data comes as another")
    }

    fn receive(&self, from: &TcpStream, into: &mut [u8]) -> Result<usize, Errno> {
        loop {
            match recv_now(from, into) {
                Err(Errno::AGAIN) if wait(from.as_fd(), PollFlags::IN, self.deadline) => {
                    // Ready for ever with nothing to read it must not be.
                    ensure(!self.deadline.passed(now()), "").map_err(|_| Errno::TIMEDOUT)?;
                }
                other => return other,
            }
        }
    }

    /// Waits until a record is there; if none comes, the next step tells.
    fn await_readiness(&self, socket: &TcpStream) {
        wait(socket.as_fd(), PollFlags::IN, self.deadline);
    }

    /// Waits until so many bytes, as they were on the wire, lie in the socket's queue.
    fn arrived(&self, socket: &TcpStream, count: usize) {
        let until = Deadline::within(ARRIVAL_MAX).or(self.deadline);
        let is_there = || ioctl_fionread(socket).is_ok_and(|queued| queued >= count as u64);
        while !is_there() && !until.passed(now()) {
            std::thread::yield_now();
        }
    }
}

fn is_ready(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    matches!(poll(&mut fds, Some(&Timespec::default())), Ok(1))
}

fn recv_now(from: &TcpStream, into: &mut [u8]) -> Result<usize, Errno> {
    recv(from, into, RecvFlags::DONTWAIT).map(|(count, _)| count)
}

fn splice_now(from: &TcpStream, pipe: BorrowedFd<'_>, max: usize) -> Result<usize, Errno> {
    splice(
        from,
        None,
        pipe,
        None,
        max,
        SpliceFlags::MOVE | SpliceFlags::NONBLOCK,
    )
}

/// The end to read from, and the one to write to.
fn pipe_of(size: usize) -> Result<(std::os::fd::OwnedFd, std::os::fd::OwnedFd), String> {
    let ends = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).map_err(told("pipe"))?;
    fcntl_setpipe_size(&ends.1, size).map_err(told("F_SETPIPE_SZ"))?;
    Ok(ends)
}
