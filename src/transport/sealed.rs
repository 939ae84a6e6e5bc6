//! TLS records made and opened in this process, by rustls, with no byte hidden: what came from the
//! socket is here until it is opened, so that another can go on from any record.

use std::io;
use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic,
};
use rustls::{
    ClientConfig, CommonState, Error, InvalidMessage, PeerMisbehaved, ProtocolVersion, ServerConfig,
};

use super::limits::{Storm, Wear};
use crate::buffer::{Buffer, LARGE, RECORDS, SMALL};
use crate::offload::{FirstKeys, Keys};
use crate::outcome::Cause;
use crate::runtime::Socket;
use crate::time::now;

/// What stands before each record: type, version, length.
const HEADER: usize = 5;

/// Plaintext of one record at the most, RFC 8446 §5.1.
const RECORD_PLAINTEXT_MAX: usize = 16 * 1024;

/// What a cipher adds to a record at the most, its header included: the explicit nonce and the tag
/// of AES-GCM in TLS 1.2.
const OVERHEAD_MAX: usize = HEADER + 8 + 16;

/// The records of one connection, from the ClientHello on.
pub struct Sealed {
    connection: Connection,
    /// Records from the peer.
    incoming: Buffer,
    /// How much of `incoming` rustls has looked at and wants to see again: the first part of a
    /// handshake message that goes on in the next record. Nearly always nothing.
    seen: usize,
    /// Plaintext for which the reader had no space.
    plain: Buffer,
    /// Records for the peer.
    outgoing: Buffer,
    /// The socket took a part of `outgoing`.
    is_stuck: bool,
    /// The last read filled its buffer; so the next one gets a large one.
    bulk: bool,
    /// The peer's FIN came.
    ended: bool,
    /// The peer's close_notify came.
    closed: bool,
    /// What rustls does not go on after.
    failed: Option<Error>,
    /// Our close_notify was made.
    said_goodbye: bool,
    /// Somebody wants to go on from the end of a record: the one that has begun is read to its end
    /// and no further.
    stop_at_end: bool,
    storm: Storm,
    /// Tickets that were counted.
    tickets: u32,
    /// Since the handshake.
    wear: Option<Wear>,
}

/// What keeps a connection from being handed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// It will pass: a record that has only half come, a socket that is full.
    Passing,
    /// The peer has ended it, or we have.
    Ended,
}

impl Sealed {
    /// A server's side. `hello`: what came of the client's records.
    ///
    /// # Errors
    ///
    /// A configuration that rustls does not take.
    pub fn server(config: Arc<ServerConfig>, hello: &[u8]) -> Result<Self, Error> {
        let mut sealed = Self::new(Connection::Server(UnbufferedServerConnection::new(config)?));
        sealed.incoming = Buffer::with_size(hello.len());
        sealed.incoming.push(hello);
        Ok(sealed)
    }

    /// A client's side.
    ///
    /// # Errors
    ///
    /// A configuration that rustls does not take.
    pub fn client(config: Arc<ClientConfig>, name: ServerName<'static>) -> Result<Self, Error> {
        let connection = UnbufferedClientConnection::new(config, name)?;
        Ok(Self::new(Connection::Client(connection)))
    }

    fn new(connection: Connection) -> Self {
        Self {
            connection,
            incoming: Buffer::none(),
            seen: 0,
            plain: Buffer::none(),
            outgoing: Buffer::none(),
            is_stuck: false,
            bulk: false,
            ended: false,
            closed: false,
            failed: None,
            said_goodbye: false,
            stop_at_end: false,
            storm: Storm::default(),
            tickets: 0,
            wear: None,
        }
    }

    /// What was agreed on so far.
    pub fn agreed(&self) -> &CommonState {
        self.connection.common()
    }

    /// Goes on with the handshake as far as what came allows. Whether it is done: the records
    /// behind it stay as they are.
    ///
    /// What is to be said then waits for [`Self::try_flush`]; the last flight of TLS 1.3 may as well
    /// be left to go together with the first data.
    ///
    /// # Errors
    ///
    /// What rustls refuses; its alert waits too.
    pub fn shake(&mut self) -> Result<bool, Error> {
        self.say()?;
        while self.agreed().is_handshaking() && self.failed.is_none() && self.has_record() {
            let _ = self.open(&mut []); // an error stays and is told below, after the alert was taken
            self.say()?;
        }
        match &self.failed {
            Some(error) => Err(error.clone()),
            None => Ok(!self.agreed().is_handshaking()),
        }
    }

    /// Records that wait to be sent.
    pub fn outgoing(&self) -> &[u8] {
        self.outgoing.filled()
    }

    /// Takes records from the socket. Holds no buffer when nothing was there, nor waits.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when nothing is there; `UnexpectedEof` when nothing will come; `InvalidData` when
    /// a handshake message is too long; else the socket's error.
    pub fn fetch(&mut self, socket: &Socket) -> io::Result<()> {
        if !self.ended && !socket.maybe_readable() {
            self.incoming.rest();
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.receive(socket)
    }

    /// As [`Self::fetch`], whether or not the driver has told of anything.
    fn receive(&mut self, socket: &Socket) -> io::Result<()> {
        if self.ended {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.make_room()?;
        let missing = self.missing();
        let space = self.incoming.space();
        let limit = missing.unwrap_or(space.len());
        match socket.try_recv(&mut space[..limit]) {
            Ok(0) => {
                self.ended = true;
                self.incoming.rest();
                Err(io::ErrorKind::UnexpectedEof.into())
            }
            Ok(count) => {
                self.incoming.fill(count);
                self.bulk = missing.is_none() && self.incoming.space().is_empty();
                self.glance().map_err(refused)
            }
            Err(error) => {
                self.incoming.rest();
                Err(error)
            }
        }
    }

    /// Makes space for the rest of the record that has begun, and more.
    fn make_room(&mut self) -> io::Result<()> {
        let wanted = self.seen + self.record_size().unwrap_or(HEADER);
        if self.bulk || wanted > SMALL {
            self.incoming.compact();
            self.incoming.grow(RECORDS);
        } else if self.incoming.capacity() == 0 {
            self.incoming = Buffer::small();
        } else {
            self.incoming.compact();
        }
        if wanted > self.incoming.capacity() || self.incoming.space().is_empty() {
            return Err(refused(
                self.fail(InvalidMessage::HandshakePayloadTooLarge.into()),
            ));
        }
        Ok(())
    }

    /// How much is missing of a record that has begun, or of its header, if it shall be read to its
    /// end and no further.
    fn missing(&self) -> Option<usize> {
        let begun = self.incoming.len() - self.seen;
        let is_wanted = self.stop_at_end && begun > 0;
        is_wanted.then(|| self.record_size().unwrap_or(HEADER) - begun)
    }

    /// Shows rustls the header of a record that has only begun, lest what is no record be waited for.
    fn glance(&mut self) -> Result<(), Error> {
        if self.record_size().is_some() && !self.has_record() {
            self.look(self.incoming.len(), &mut [], Wish::Nothing)?;
        }
        Ok(())
    }

    /// Size of the first record that was not yet opened, as far as its header has come.
    fn record_size(&self) -> Option<usize> {
        match &self.incoming.filled()[self.seen..] {
            [_, _, _, high, low, ..] => Some(HEADER + usize::from(u16::from_be_bytes([*high, *low]))),
            _ => None,
        }
    }

    /// Whether the first record that was not yet opened is all there.
    fn has_record(&self) -> bool {
        self.record_size()
            .is_some_and(|size| self.seen + size <= self.incoming.len())
    }

    /// Opens one record, which is all there. Says how much of its plaintext is in `into`; what does
    /// not fit is kept.
    fn open(&mut self, into: &mut [u8]) -> Result<usize, Error> {
        let mut end = self.seen + self.record_size().unwrap_or(0);
        let mut count = 0;
        loop {
            let before = self.incoming.len();
            let (event, taken) = self.look(end, &mut into[count..], Wish::Nothing)?;
            count += taken;
            end = end.saturating_sub(before - self.incoming.len());
            match event {
                // Nothing of the record is left: one more look would find nothing.
                Event::Opened if end == 0 => break,
                Event::Opened | Event::Said => {}
                Event::Closed | Event::Done | Event::Quiet => break,
            }
        }
        self.seen = end;
        Ok(count)
    }

    /// One look of rustls at the first `end` bytes that came, and what it does for us then.
    fn look(&mut self, end: usize, into: &mut [u8], wish: Wish<'_>) -> Result<(Event, usize), Error> {
        let mut desk = Desk {
            into,
            count: 0,
            plain: &mut self.plain,
            outgoing: &mut self.outgoing,
            wish,
        };
        let records = &mut self.incoming.filled_mut()[..end];
        let (discard, event) = self.connection.look(records, &mut desk);
        let count = desk.count;
        let event = event.map_err(|error| self.fail(error))?;
        self.incoming.consume(discard);
        if event == Event::Closed {
            // What follows is ignored, RFC 8446 §6.1.
            self.closed = true;
            self.forget_incoming();
        }
        Ok((event, count))
    }

    fn fail(&mut self, error: Error) -> Error {
        self.failed = Some(error.clone());
        self.forget_incoming();
        error
    }

    fn forget_incoming(&mut self) {
        self.incoming = Buffer::none();
        self.seen = 0;
    }

    /// Takes what rustls wants to say by itself: flights, tickets, alerts.
    fn say(&mut self) -> Result<(), Error> {
        while self.agreed().wants_write() {
            self.look(self.seen, &mut [], Wish::Nothing)?;
        }
        Ok(())
    }

    /// Has rustls do something. Whether it could: not after both sides have said goodbye.
    fn ask(&mut self, wish: Wish<'_>) -> Result<bool, Error> {
        loop {
            match self.look(self.seen, &mut [], wish)?.0 {
                Event::Done => return Ok(true),
                Event::Quiet => return Ok(false),
                Event::Opened | Event::Said | Event::Closed => {}
            }
        }
    }

    pub(super) fn try_read(&mut self, socket: &Socket, into: &mut [u8]) -> io::Result<usize> {
        let result = self.read(socket, into);
        if result.is_err() {
            // Before the caller waits: the last flight of the handshake, which was kept back to go
            // with the first data. Before it gives up: the alert for a record that is not good. If
            // the socket is full they go with the next write, and if it is broken the next one tells.
            let _ = self.try_flush(socket);
        }
        result
    }

    /// Opens what has come as far as there is space: the reader writes it on in one piece, where
    /// each record by itself would be a system call.
    fn read(&mut self, socket: &Socket, into: &mut [u8]) -> io::Result<usize> {
        let mut count = self.take_plain(into);
        loop {
            while self.has_record() && self.is_worth_opening(count, into.len()) {
                let opened = self.open(&mut into[count..]).and_then(|more| match more {
                    0 => self.bear().map(|()| 0),
                    more => Ok(more),
                });
                match opened {
                    Ok(more) => {
                        self.storm.moved(more);
                        count += more;
                    }
                    Err(_) if count > 0 => return Ok(count), // it is told by the next read
                    Err(error) => return Err(refused(error)),
                }
            }
            if count > 0 || into.is_empty() {
                return Ok(count);
            }
            if let Some(error) = &self.failed {
                return Err(refused(error.clone()));
            }
            if self.closed {
                return Ok(0);
            }
            self.glance().map_err(refused)?; // also at what came with the end of the handshake
            self.fetch(socket)?;
        }
    }

    /// A record gave no data, as those do that renew keys, bring tickets, or are empty. rustls bounds each kind by
    /// itself, some of them until the next of another, and tickets not at all.
    fn bear(&mut self) -> Result<(), Error> {
        let tickets = self.connection.tickets();
        let new = tickets - std::mem::replace(&mut self.tickets, tickets);
        let now = now();
        if !self.closed && (0..new.max(1)).any(|_| self.storm.control(now)) {
            return Err(self.fail(PeerMisbehaved::TooManyEmptyFragments.into()));
        }
        Ok(())
    }

    /// Whether the next record should be opened for a reader that has got `count` of `wanted` bytes:
    /// if it has got none, or if nothing worth mentioning would have to be kept.
    fn is_worth_opening(&self, count: usize, wanted: usize) -> bool {
        let space = wanted - count;
        let is_fitting = || {
            self.record_size()
                .is_some_and(|size| size <= space + OVERHEAD_MAX)
        };
        space > 0 && (count == 0 || is_fitting())
    }

    fn take_plain(&mut self, into: &mut [u8]) -> usize {
        let count = self.plain.len().min(into.len());
        into[..count].copy_from_slice(&self.plain.filled()[..count]);
        self.plain.consume(count);
        self.plain.rest();
        count
    }

    /// Takes at most 64 KiB, and nothing while earlier records wait for the socket: that bounds what
    /// a peer that does not read can make this side hold.
    pub(super) fn try_write(&mut self, socket: &Socket, from: &[u8]) -> io::Result<usize> {
        if self.is_stuck || self.outgoing.len() > SMALL {
            self.send(socket)?;
        }
        if let Some(error) = &self.failed {
            return Err(refused(error.clone()));
        }
        self.say().map_err(refused)?;
        let max = if self.outgoing.is_empty() {
            LARGE
        } else {
            LARGE - SMALL
        };
        let from = &from[..from.len().min(max)];
        let records = from.len().div_ceil(RECORD_PLAINTEXT_MAX);
        if !self.wear().allows(records) {
            return Err(refused(Error::EncryptError));
        }
        self.outgoing.reserve(from.len() + records * OVERHEAD_MAX);
        if !self.ask(Wish::Write(from)).map_err(refused)? {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.wear().made(records);
        self.storm.moved(from.len());
        match self.send(socket) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(from.len()),
        }
    }

    fn wear(&mut self) -> &mut Wear {
        let agreed = self.connection.common();
        self.wear.get_or_insert_with(|| Wear::of_rustls(agreed))
    }

    pub(super) fn is_worn(&self) -> bool {
        self.wear.as_ref().is_some_and(Wear::is_half_over)
    }

    /// Sends what waits.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when something is left; else the socket's error.
    pub fn try_flush(&mut self, socket: &Socket) -> io::Result<()> {
        self.say().map_err(refused)?;
        self.send(socket)
    }

    fn send(&mut self, socket: &Socket) -> io::Result<()> {
        while !self.outgoing.is_empty() {
            self.is_stuck = true;
            let count = socket.try_send(self.outgoing.filled())?;
            self.outgoing.consume(count);
        }
        self.is_stuck = false;
        self.outgoing.rest();
        Ok(())
    }

    pub(super) fn renew_keys(&mut self) -> io::Result<bool> {
        if self.agreed().protocol_version() != Some(ProtocolVersion::TLSv1_3) {
            return Ok(false);
        }
        let is_granted = self.ask(Wish::Renew).map_err(refused)?;
        self.say().map_err(refused)?;
        Ok(is_granted)
    }

    pub(super) fn close_notify(&mut self) -> io::Result<()> {
        self.said_goodbye = true;
        if self.failed.is_none() {
            self.ask(Wish::CloseNotify).map_err(refused)?;
        }
        self.say().map_err(refused)
    }

    /// Gets ready to be handed on, as far as that goes without waiting: what came is opened, what was
    /// written is sent. If half a record stands in the way, reading stops at its end from now on, so
    /// that the next time may do better.
    pub(super) fn settle(&mut self, socket: &Socket) -> Result<(), Obstacle> {
        self.settle_incoming(socket)?;
        self.ask(Wish::Answer).map_err(|_| Obstacle::Ended)?;
        match self.try_flush(socket) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(Obstacle::Passing),
            Err(_) => Err(Obstacle::Ended), // the next write tells why
        }
    }

    /// Whether a reader would not have to wait.
    pub(super) fn has_news(&self) -> bool {
        !self.plain.is_empty() || self.failed.is_some() || self.closed || self.ended
    }

    fn settle_incoming(&mut self, socket: &Socket) -> Result<(), Obstacle> {
        loop {
            while self.has_record() && self.plain.len() < LARGE {
                let _ = self.open(&mut []); // an error stays and is told to the reader
            }
            if self.failed.is_some() || self.closed || self.ended || self.said_goodbye {
                return Err(Obstacle::Ended);
            }
            if self.incoming.is_empty() {
                self.incoming.rest();
                self.stop_at_end = false;
                return Ok(());
            }
            self.stop_at_end = true;
            if self.has_record() || self.seen == self.incoming.len() {
                return Err(Obstacle::Passing); // a handshake message goes on, or nobody reads
            }
            match self.receive(socket) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(Obstacle::Passing),
                Err(_) => return Err(Obstacle::Ended), // the next read tells why
            }
        }
    }

    /// Hands the keys out, and what was opened and not yet read. Only after [`Self::settle`].
    pub(super) fn hand_on(self) -> Result<(FirstKeys, Keys, Buffer), Error> {
        let (first, keys) = match self.connection {
            Connection::Server(connection) => Keys::of_server(connection),
            Connection::Client(connection) => Keys::of_client(connection),
        }?;
        Ok((first, keys, self.plain))
    }

    /// As if a key were good for so many records, for tests.
    #[cfg(test)]
    pub(super) fn wear_out_after(&mut self, records: u64) {
        self.wear().set_max(records);
    }

    /// Bytes of the buffers it holds, for tests.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.incoming.capacity() + self.plain.capacity() + self.outgoing.capacity()
    }
}

/// An error of rustls as one of the byte stream.
fn refused(error: Error) -> io::Error {
    match error {
        Error::EncryptError => Cause::KeyWornOut.into_error(io::ErrorKind::ConnectionAborted),
        error => io::Error::new(io::ErrorKind::InvalidData, error),
    }
}

enum Connection {
    Server(UnbufferedServerConnection),
    Client(UnbufferedClientConnection),
}

impl Connection {
    fn common(&self) -> &CommonState {
        match self {
            Self::Server(connection) => connection,
            Self::Client(connection) => connection,
        }
    }

    /// Tickets that have come.
    fn tickets(&self) -> u32 {
        match self {
            Self::Server(_) => 0,
            Self::Client(connection) => connection.tls13_tickets_received(),
        }
    }

    /// Says of how many bytes rustls has no more need, and what it did.
    fn look(&mut self, records: &mut [u8], desk: &mut Desk<'_>) -> (usize, Result<Event, Error>) {
        match self {
            Self::Server(connection) => desk.serve(connection.process_tls_records(records)),
            Self::Client(connection) => desk.serve(connection.process_tls_records(records)),
        }
    }
}

/// What rustls did at one look.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Event {
    /// It opened a record of data.
    Opened,
    /// It said something.
    Said,
    /// It found the peer's close_notify.
    Closed,
    /// It found nothing more, and did what was wished.
    Done,
    /// It found nothing more, and does nothing at this time.
    Quiet,
}

/// What is wished of rustls once it has nothing to do by itself.
#[derive(Clone, Copy)]
enum Wish<'a> {
    Nothing,
    /// To make records of this.
    Write(&'a [u8]),
    /// To answer a key update: rustls puts that off until it has something to write, where nothing
    /// shows it, and the answer would be lost when the connection is handed on.
    Answer,
    /// To renew the keys of what is sent, and to ask the peer to do so, too.
    Renew,
    /// To say goodbye.
    CloseNotify,
}

/// Where what rustls hands out is put.
struct Desk<'a> {
    into: &'a mut [u8],
    /// How much of `into` is filled.
    count: usize,
    plain: &'a mut Buffer,
    outgoing: &'a mut Buffer,
    wish: Wish<'a>,
}

impl Desk<'_> {
    fn serve<D>(&mut self, status: UnbufferedStatus<'_, '_, D>) -> (usize, Result<Event, Error>) {
        let mut discard = status.discard;
        let event = status.state.and_then(|state| match state {
            ConnectionState::ReadTraffic(mut traffic) => {
                while let Some(record) = traffic.next_record() {
                    let record = record?;
                    discard += record.discard;
                    self.put(record.payload);
                }
                Ok(Event::Opened)
            }
            ConnectionState::EncodeTlsData(said) => {
                self.encode(said);
                Ok(Event::Said)
            }
            ConnectionState::TransmitTlsData(said) => {
                said.done();
                Ok(Event::Said)
            }
            ConnectionState::WriteTraffic(traffic) => self.grant(traffic),
            ConnectionState::PeerClosed => Ok(Event::Closed),
            _ => Ok(Event::Quiet),
        });
        (discard, event)
    }

    fn put(&mut self, plaintext: &[u8]) {
        let space = &mut self.into[self.count..];
        let (now, later) = plaintext.split_at(plaintext.len().min(space.len()));
        space[..now.len()].copy_from_slice(now);
        self.count += now.len();
        if !later.is_empty() {
            self.plain.reserve(later.len());
            self.plain.push(later);
        }
    }

    fn encode<D>(&mut self, mut said: EncodeTlsData<'_, D>) {
        let mut encoded = said.encode(self.outgoing.space());
        if let Err(EncodeError::InsufficientSize(needs)) = &encoded {
            self.outgoing.reserve(needs.required_size);
            encoded = said.encode(self.outgoing.space());
        }
        self.outgoing.fill(encoded.unwrap_or(0)); // there is space now, and it is encoded once
    }

    fn grant<D>(&mut self, mut traffic: WriteTraffic<'_, D>) -> Result<Event, Error> {
        match self.wish {
            Wish::Nothing => {}
            Wish::Write(from) => {
                let mut written = traffic.encrypt(from, self.outgoing.space());
                if let Err(EncryptError::InsufficientSize(needs)) = &written {
                    self.outgoing.reserve(needs.required_size);
                    written = traffic.encrypt(from, self.outgoing.space());
                }
                self.outgoing.fill(written.map_err(|_| Error::EncryptError)?);
            }
            // Without space for it a byte is not written, but the answer before it becomes one of the
            // things rustls has to say.
            Wish::Answer => _ = traffic.encrypt(&[0], &mut []),
            Wish::Renew => traffic.refresh_traffic_keys()?,
            // Without space for it the alert stays with the rest of what rustls has to say.
            Wish::CloseNotify => _ = traffic.queue_close_notify(&mut []),
        }
        Ok(Event::Done)
    }
}
