//! TLS records made and opened by the kernel. What is no data is left to this process: alerts, key
//! updates, tickets, and the end.

mod control;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::sync::Arc;

use rustix::io::{Errno, ioctl_fionread};
use rustix::net::sockopt;

use self::control::{ALERT, Alert, Fault, HANDSHAKE, Inbox, Message, NO_RENEGOTIATION, Stop, WARNING};
use super::limits::{Pause, Storm, Wear, Worn};
use crate::buffer::Buffer;
use crate::offload::{self, Direction, Keys, Offload};
use crate::outcome::{Carriage, Cause};
use crate::runtime::{self, Socket};
use crate::sys::ktls;
use crate::time::{Deadline, now};

/// At most this much is taken for writing at once, so that a turn stays short.
const WRITE_MAX: usize = 64 * 1024;

const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];
const CLOSE_NOTIFY: [u8; 2] = [WARNING, 0];

/// One connection whose records the kernel makes and opens.
pub(super) struct Ktls {
    keys: Keys,
    offload: Arc<Offload>,
    carriage: Rc<Carriage>,
    /// Plaintext that was opened before the kernel took over.
    prefix: Buffer,
    inbox: Inbox,
    /// The next read may find something although the driver has told of nothing: one that finds
    /// data stops before a record that is none, and of what is behind a key update the driver is
    /// never told.
    look: bool,
    ended: Option<PeerEnd>,
    failed: Option<Fault>,
    /// What the kernel has told, once, that the connection was lost by.
    lost: Option<Errno>,
    owed: Owed,
    goodbye: Goodbye,
    /// Records under keys that were renewed since.
    earlier_sent: u64,
    earlier_received: u64,
    storm: Storm,
    wear: Wear,
    /// The key for sending should be renewed, and cannot be.
    is_worn: bool,
    pause: Pause,
}

/// How the peer has ended its direction.
#[derive(Clone, Copy)]
enum PeerEnd {
    /// By close_notify.
    InOrder,
    /// By a FIN alone.
    Truncated,
}

/// What has to be said before anything else, and the socket was too full for.
#[derive(Default)]
struct Owed {
    key_update: bool,
    alert: Option<[u8; 2]>,
}

/// How far our own close_notify is.
#[derive(Clone, Copy, PartialEq)]
enum Goodbye {
    Unsaid,
    Owed,
    /// The kernel has it, and may not have sent all of it.
    Taken,
    Sent,
}

impl Ktls {
    /// A connection whose keys the kernel has. `prefix`: what was opened before.
    pub(super) fn new(keys: Keys, prefix: Buffer, offload: Arc<Offload>, carriage: Rc<Carriage>) -> Self {
        Self {
            wear: Wear::new(keys.records_max()),
            pause: Pause::new(offload.must_pause()),
            keys,
            offload,
            carriage,
            prefix,
            inbox: Inbox::default(),
            look: true,
            ended: None,
            failed: None,
            lost: None,
            owed: Owed::default(),
            goodbye: Goodbye::Unsaid,
            earlier_sent: 0,
            earlier_received: 0,
            storm: Storm::default(),
            is_worn: false,
        }
    }

    pub(super) fn is_worn(&self) -> bool {
        self.is_worn
    }

    /// Whether nothing that was opened before waits here.
    pub(super) fn is_bare(&self) -> bool {
        self.prefix.is_empty()
    }

    /// Until when not to wait for the socket: it would say at once that something is there, and
    /// that is half a record.
    pub(super) fn pause(&self) -> Option<Deadline> {
        self.pause.until()
    }

    pub(super) fn try_read(&mut self, socket: &Socket, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        if !self.prefix.is_empty() {
            return Ok(self.take_prefix(into));
        }
        let received = self.receive(socket, |socket| socket.try_recv(into));
        self.settle(socket, received)
    }

    fn take_prefix(&mut self, into: &mut [u8]) -> usize {
        let count = self.prefix.len().min(into.len());
        into[..count].copy_from_slice(&self.prefix.filled()[..count]);
        self.prefix.consume(count);
        self.prefix.rest();
        count
    }

    pub(super) fn try_splice_in(
        &mut self,
        socket: &Socket,
        pipe: BorrowedFd<'_>,
        max: usize,
    ) -> io::Result<usize> {
        if !self.prefix.is_empty() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let received = self.receive(socket, |socket| ciphered(socket, socket.try_splice_in(pipe, max)));
        self.settle(socket, received)
    }

    /// Receives data by `call`, and deals with whatever is none on the way.
    fn receive(
        &mut self,
        socket: &Socket,
        mut call: impl FnMut(&Socket) -> io::Result<usize>,
    ) -> Result<usize, Stop> {
        loop {
            self.still_good()?;
            match self.ended {
                Some(PeerEnd::InOrder) => return Ok(0),
                Some(PeerEnd::Truncated) => return Err(Stop::Socket(io::ErrorKind::UnexpectedEof.into())),
                None if self.look || socket.maybe_readable() => {}
                None => return Err(Stop::Socket(io::ErrorKind::WouldBlock.into())),
            }
            match call(socket) {
                Ok(0) => self.look_behind_nothing(socket)?,
                Ok(count) => {
                    self.look = true;
                    let wake_at = self.pause.found();
                    set_wake_at(socket, wake_at);
                    self.storm.moved(count);
                    return Ok(count);
                }
                Err(error) => self.step_over(socket, error)?,
            }
        }
    }

    /// Deals with what a read failed by, so that it may be tried again.
    fn step_over(&mut self, socket: &Socket, error: io::Error) -> Result<(), Stop> {
        match Errno::from_io_error(&error) {
            Some(Errno::AGAIN) => {
                let is_woken = !std::mem::take(&mut self.look);
                let queued = || ioctl_fionread(socket).map_or(0, |count| u32::try_from(count).unwrap_or(0));
                let wake_at = self.pause.found_nothing(now(), is_woken, queued);
                set_wake_at(socket, wake_at);
                Err(Stop::Socket(error))
            }
            // The next record is no data. It stays until it is taken as what it is. A splice says
            // EINVAL, and it says the same of what is no record; then there is none to be taken.
            Some(Errno::IO | Errno::KEYEXPIRED | Errno::INVAL) => self.take_record(socket),
            _ => Err(error.into()),
        }
    }

    /// A FIN reads as nothing, and a record of data that holds none may do so, too.
    fn look_behind_nothing(&mut self, socket: &Socket) -> Result<(), Stop> {
        match socket.try_peek(&mut [0]) {
            Ok(0) => {
                self.ended = Some(PeerEnd::Truncated);
                Ok(())
            }
            Ok(_) => Ok(self.bear(Cause::LimitReached)?),
            Err(error) => self.step_over(socket, error),
        }
    }

    /// Takes the next record, which is no data.
    fn take_record(&mut self, socket: &Socket) -> Result<(), Stop> {
        let mut buffer = Buffer::small();
        let record = match ktls::receive_record(socket.as_fd(), buffer.space()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(Fault::NOT_TLS.into()),
            // Taken for a key update by its first byte, and none: from then on nothing is read (Linux 6.14).
            Err(error) if Errno::from_io_error(&error) == Some(Errno::KEYEXPIRED) => {
                return Err(Fault::UNEXPECTED.into());
            }
            result => result?,
        };
        buffer.fill(record.count);
        socket.worked();
        self.look = true;
        match record.kind {
            Some(ALERT) => self.alert(buffer.filled()),
            Some(HANDSHAKE) => self.handshake(socket, buffer.filled()),
            None if record.count == 0 => {
                self.ended = Some(PeerEnd::Truncated);
                Ok(())
            }
            _ => Err(Fault::UNEXPECTED.into()),
        }
    }

    fn alert(&mut self, alert: &[u8]) -> Result<(), Stop> {
        match Alert::read(alert, self.keys.is_tls13())? {
            Alert::CloseNotify => self.ended = Some(PeerEnd::InOrder),
            Alert::Warning => self.bear(Cause::LimitReached)?,
        }
        Ok(())
    }

    fn handshake(&mut self, socket: &Socket, record: &[u8]) -> Result<(), Stop> {
        let mut inbox = std::mem::take(&mut self.inbox);
        inbox.push(record)?;
        while let Some(message) = inbox.next(self.keys.is_client(), self.keys.is_tls13())? {
            match message {
                Message::KeyUpdate { is_requested } => self.follow_key_update(socket, is_requested)?,
                Message::Ticket(ticket) => {
                    self.bear(Cause::LimitReached)?;
                    self.keys.keep_ticket(ticket).map_err(|_| Fault::UNREADABLE)?;
                }
                Message::Renegotiation => {
                    self.bear(Cause::LimitReached)?;
                    // Nothing may be said behind our own close_notify.
                    if self.goodbye == Goodbye::Unsaid {
                        self.owed.alert = Some([WARNING, NO_RENEGOTIATION]);
                        self.say_if_it_fits(socket)?;
                    }
                }
            }
        }
        if !inbox.is_empty() {
            self.bear(Cause::LimitReached)?; // a message may be a byte a record
        }
        self.inbox = inbox;
        Ok(())
    }

    /// A record came that is no data.
    ///
    /// # Errors
    ///
    /// `cause`, if there were too many.
    fn bear(&mut self, cause: Cause) -> Result<(), Fault> {
        match self.storm.control(now()) {
            true => Err(Fault::storm(cause)),
            false => Ok(()),
        }
    }

    fn follow_key_update(&mut self, socket: &Socket, is_requested: bool) -> Result<(), Stop> {
        let received = &self.carriage.key_updates_received;
        received.set(received.get() + 1);
        self.bear(Cause::KeyUpdateStorm)?;
        if !self.offload.can_rekey() {
            return Err(Fault::KEY_UPDATE.into());
        }
        self.count(socket, Direction::Receive);
        self.renew(socket, Direction::Receive)?;
        self.earlier_received = self.carriage.records_received.get();
        // RFC 8446 §4.6.3: "the receiver MUST send a KeyUpdate of its own with request_update set
        // to "update_not_requested" prior to sending its next Application Data record". If it does
        // not fit now, whoever writes next finds it owed. Behind our close_notify none will be sent, and what is
        // said behind a FIN makes the kernel end the other direction, too.
        if self.goodbye == Goodbye::Unsaid {
            self.owed.key_update |= is_requested;
            self.say_if_it_fits(socket)?;
        }
        Ok(())
    }

    fn renew(&mut self, socket: &Socket, direction: Direction) -> Result<(), Stop> {
        let next = self.keys.next(direction).map_err(|_| Fault::KEY_UPDATE)?;
        offload::renew(socket, direction, next).map_err(|_| {
            self.offload.failed();
            Fault::KERNEL_REFUSED_KEYS.into()
        })
    }

    pub(super) fn try_write(&mut self, socket: &Socket, from: &[u8]) -> io::Result<usize> {
        let from = &from[..from.len().min(WRITE_MAX)];
        self.send(socket, |socket| socket.try_send(from))
    }

    pub(super) fn try_splice_out(
        &mut self,
        socket: &Socket,
        pipe: BorrowedFd<'_>,
        max: usize,
        more: bool,
    ) -> io::Result<usize> {
        self.send(socket, |socket| {
            ciphered(socket, socket.try_splice_out(pipe, max, more))
        })
    }

    pub(super) fn try_sendfile(
        &mut self,
        socket: &Socket,
        file: BorrowedFd<'_>,
        offset: u64,
        max: usize,
    ) -> io::Result<usize> {
        self.send(socket, |socket| {
            ciphered(socket, socket.try_sendfile(file, offset, max))
        })
    }

    /// Sends data by `call`, behind what is owed.
    fn send(
        &mut self,
        socket: &Socket,
        call: impl FnOnce(&Socket) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let ready = self.make_ready(socket);
        self.settle(socket, ready)?;
        let sent = call(socket).map_err(Stop::from);
        let count = self.settle(socket, sent)?;
        self.wear.wrote(count);
        self.storm.moved(count);
        Ok(count)
    }

    fn make_ready(&mut self, socket: &Socket) -> Result<(), Stop> {
        self.still_good()?;
        // Once the error of a lost connection was told, to a reader perhaps, the kernel's TLS takes
        // whatever is sent, without a word and without a bound, and keeps it (Linux 6.1 to 7.2).
        if let Some(error) = self.lost.or_else(|| socket.lost()) {
            return Err(Stop::Socket(error.into()));
        }
        // What is written behind a FIN is taken by the kernel and lost.
        if self.goodbye != Goodbye::Unsaid {
            return Err(Stop::Socket(io::ErrorKind::BrokenPipe.into()));
        }
        match self.wear.look(|| self.keys.records(socket, Direction::Send)) {
            Worn::Not => {}
            Worn::Soon if self.keys.is_tls13() && self.offload.can_rekey() => self.owed.key_update = true,
            Worn::Soon => self.is_worn = true,
            Worn::Out => return Err(Fault::KEY_WORN_OUT.into()),
        }
        self.say(socket)
    }

    /// Hands over what is owed.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when something is left.
    pub(super) fn try_flush(&mut self, socket: &Socket) -> io::Result<()> {
        let said = self.say(socket).and_then(|()| self.say_goodbye(socket));
        self.settle(socket, said)
    }

    /// Has the carriage tell how many records there were up to now.
    pub(super) fn count_records(&self, socket: &Socket) {
        self.count(socket, Direction::Send);
        self.count(socket, Direction::Receive);
    }

    /// The kernel numbers the records of each key from 0. Where it cannot be asked, what was counted stays.
    fn count(&self, socket: &Socket, direction: Direction) {
        let (earlier, counted) = match direction {
            Direction::Send => (self.earlier_sent, &self.carriage.records_sent),
            Direction::Receive => (self.earlier_received, &self.carriage.records_received),
        };
        if let Ok(records) = self.keys.records(socket, direction) {
            counted.set(earlier + records);
        }
    }

    pub(super) fn renew_keys(&mut self) -> bool {
        let can = self.keys.is_tls13() && self.offload.can_rekey() && self.goodbye == Goodbye::Unsaid;
        self.owed.key_update |= can;
        can
    }

    /// Nothing more will be written; [`Self::try_flush`] says so.
    pub(super) fn close_notify(&mut self) {
        if self.failed.is_none() && self.goodbye == Goodbye::Unsaid {
            self.goodbye = Goodbye::Owed;
        }
    }

    /// A record that the kernel has accepted and not yet sent whole is lost when a FIN comes behind
    /// it, without a word; where the socket has space again it is sent. So that is waited for,
    /// before close_notify and again behind it.
    fn say_goodbye(&mut self, socket: &Socket) -> Result<(), Stop> {
        while matches!(self.goodbye, Goodbye::Owed | Goodbye::Taken) {
            if !socket.is_writable() {
                return Err(Stop::Socket(io::ErrorKind::WouldBlock.into()));
            }
            if self.goodbye == Goodbye::Owed {
                ktls::send_record(socket.as_fd(), ALERT, &CLOSE_NOTIFY)?;
                self.goodbye = Goodbye::Taken;
            } else {
                self.goodbye = Goodbye::Sent;
            }
        }
        Ok(())
    }

    fn say_if_it_fits(&mut self, socket: &Socket) -> Result<(), Stop> {
        match self.say(socket) {
            Err(Stop::Socket(_)) => Ok(()), // the next write tells
            result => result,
        }
    }

    fn say(&mut self, socket: &Socket) -> Result<(), Stop> {
        if self.owed.key_update {
            ktls::send_record(socket.as_fd(), HANDSHAKE, &KEY_UPDATE)?;
            self.owed.key_update = false;
            let sent = &self.carriage.key_updates_sent;
            sent.set(sent.get() + 1);
            self.count(socket, Direction::Send);
            self.renew(socket, Direction::Send)?;
            self.earlier_sent = self.carriage.records_sent.get();
            self.wear.renewed();
        }
        if let Some(alert) = self.owed.alert {
            ktls::send_record(socket.as_fd(), ALERT, &alert)?;
            self.owed.alert = None;
        }
        Ok(())
    }

    fn still_good(&self) -> Result<(), Stop> {
        match self.failed {
            Some(fault) => Err(Stop::Again(fault)),
            None => Ok(()),
        }
    }

    /// Makes an error of what stopped an operation; the first fault is the connection's end, and
    /// the peer is told.
    fn settle<T>(&mut self, socket: &Socket, result: Result<T, Stop>) -> io::Result<T> {
        result.map_err(|stop| match stop {
            Stop::Socket(error) => {
                let errno = Errno::from_io_error(&error);
                self.lost = self.lost.or_else(|| errno.filter(|errno| is_lost(*errno)));
                error
            }
            Stop::Again(fault) => fault.into_error(),
            Stop::Fault(fault) => {
                self.fail(socket, fault);
                fault.into_error()
            }
        })
    }

    fn fail(&mut self, socket: &Socket, fault: Fault) {
        self.failed = Some(fault);
        self.owed = Owed {
            key_update: false,
            alert: fault.alert(),
        };
        // A record that cannot be opened leaves its error in the socket, for whoever sends next.
        let _ = sockopt::socket_error(socket);
        let _ = self.say(socket);
    }

    /// As if this had been opened before, for tests.
    #[cfg(test)]
    pub(super) fn put_before(&mut self, opened: &[u8]) {
        self.prefix = Buffer::small();
        self.prefix.push(opened);
    }

    /// As if a key were good for so many records, for tests.
    #[cfg(test)]
    pub(super) fn wear_out_after(&mut self, records: u64) {
        self.wear = Wear::new(records);
    }

    /// Bytes of the buffers it holds, for tests.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.prefix.capacity() + self.inbox.capacity()
    }
}

/// What stayed inside the kernel went through a cipher there, which takes as long as a copy and longer.
fn ciphered(socket: &Socket, moved: io::Result<usize>) -> io::Result<usize> {
    moved.inspect(|count| socket.touched(*count))
}

/// Whether nothing can be sent any more: after the peer's FIN a reset is EPIPE.
fn is_lost(error: Errno) -> bool {
    error == Errno::PIPE || runtime::is_lost(error)
}

fn set_wake_at(socket: &Socket, bytes: Option<u32>) {
    if let Some(bytes) = bytes {
        let _ = ktls::set_low_water(socket.as_fd(), bytes); // if it cannot be set, the reader pauses
    }
}
