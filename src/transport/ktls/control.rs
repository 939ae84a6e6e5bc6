//! Records that are no data: what they say, and what is wrong with them.

use std::io;

use rustix::io::Errno;

use crate::outcome::Cause;

pub(super) const ALERT: u8 = 21;
pub(super) const HANDSHAKE: u8 = 22;

/// Alert levels.
pub(super) const WARNING: u8 = 1;
const FATAL: u8 = 2;

/// Alerts that others send.
const CLOSE_NOTIFY: u8 = 0;
const USER_CANCELED: u8 = 90;

/// Alerts that are sent here.
pub(super) const NO_RENEGOTIATION: u8 = 100;
const UNEXPECTED_MESSAGE: u8 = 10;
const BAD_RECORD_MAC: u8 = 20;
const RECORD_OVERFLOW: u8 = 22;
const ILLEGAL_PARAMETER: u8 = 47;
const DECODE_ERROR: u8 = 50;
const INTERNAL_ERROR: u8 = 80;

/// Handshake messages.
const HELLO_REQUEST: u8 = 0;
const CLIENT_HELLO: u8 = 1;
const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;

/// The largest handshake message that is waited for: a ticket, its label and its extensions have
/// 64 KiB each at the most, and nobody's has a tenth of it.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// What ends a connection, and the alert that tells the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    cause: Cause,
    alert: Option<u8>,
}

impl Fault {
    pub(super) const UNEXPECTED: Self = Self::new(Cause::Malformed, UNEXPECTED_MESSAGE);
    pub(super) const NOT_TLS: Self = Self::new(Cause::NotTls, UNEXPECTED_MESSAGE);
    pub(super) const UNREADABLE: Self = Self::new(Cause::Malformed, DECODE_ERROR);
    pub(super) const KEY_UPDATE: Self = Self::new(Cause::KeyUpdate, INTERNAL_ERROR);
    pub(super) const KEY_WORN_OUT: Self = Self::new(Cause::KeyWornOut, INTERNAL_ERROR);
    /// With keys that do not fit no alert can be read.
    pub(super) const KERNEL_REFUSED_KEYS: Self = Self {
        cause: Cause::KernelRefusedKeys,
        alert: None,
    };

    const fn new(cause: Cause, alert: u8) -> Self {
        Self {
            cause,
            alert: Some(alert),
        }
    }

    /// The peer says too much without saying anything.
    pub(super) const fn storm(cause: Cause) -> Self {
        Self::new(cause, UNEXPECTED_MESSAGE)
    }

    pub(super) fn alert(self) -> Option<[u8; 2]> {
        self.alert.map(|alert| [FATAL, alert])
    }

    pub(super) fn into_error(self) -> io::Error {
        self.cause.into_error(match self.cause {
            Cause::Alert | Cause::KeyWornOut | Cause::KernelRefusedKeys => io::ErrorKind::ConnectionAborted,
            _ => io::ErrorKind::InvalidData,
        })
    }
}

/// Why an operation does not go on.
pub(super) enum Stop {
    /// The socket's own error, `WouldBlock` among them.
    Socket(io::Error),
    /// The connection ends here.
    Fault(Fault),
    /// It ended here before.
    Again(Fault),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<io::Error> for Stop {
    /// The kernel says what is wrong with a record to whoever calls next, also to a sender.
    fn from(error: io::Error) -> Self {
        match Errno::from_io_error(&error) {
            Some(Errno::BADMSG) => Fault::new(Cause::RecordDamaged, BAD_RECORD_MAC).into(),
            Some(Errno::MSGSIZE) => Fault::new(Cause::RecordTooLong, RECORD_OVERFLOW).into(),
            Some(Errno::INVAL) => Fault::NOT_TLS.into(),
            _ => Self::Socket(error),
        }
    }
}

/// An alert that does not end the connection by itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Alert {
    CloseNotify,
    Warning,
}

impl Alert {
    /// # Errors
    ///
    /// [`Cause::Alert`] for a fatal one, which is not answered.
    pub(super) fn read(alert: &[u8], is_tls13: bool) -> Result<Self, Fault> {
        match *alert {
            [_, CLOSE_NOTIFY] => Ok(Self::CloseNotify),
            // RFC 8446 §6.1: "This alert notifies the recipient that the sender is canceling the
            // handshake", followed by close_notify.
            [_, USER_CANCELED] => Ok(Self::Warning),
            // RFC 8446 §6: "The level is implicit in the type of alert being sent, and it can
            // safely be ignored."
            [WARNING, _] if !is_tls13 => Ok(Self::Warning),
            [_, _] => Err(Fault {
                cause: Cause::Alert,
                alert: None,
            }),
            _ => Err(Fault::UNREADABLE),
        }
    }
}

/// A handshake message that may come after the handshake.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message<'i> {
    KeyUpdate { is_requested: bool },
    Ticket(&'i [u8]),
    Renegotiation,
}

/// Handshake messages as they come: several in a record, or one in several.
#[derive(Default)]
pub(super) struct Inbox {
    bytes: Vec<u8>,
    at: usize,
}

impl Inbox {
    /// Takes a record in.
    ///
    /// # Errors
    ///
    /// For an empty one.
    pub(super) fn push(&mut self, record: &[u8]) -> Result<(), Fault> {
        // RFC 8446 §5.1: "Implementations MUST NOT send zero-length fragments of Handshake types".
        if record.is_empty() {
            return Err(Fault::UNEXPECTED);
        }
        self.bytes.drain(..self.at);
        self.at = 0;
        self.bytes.extend_from_slice(record);
        Ok(())
    }

    /// The next whole message.
    ///
    /// # Errors
    ///
    /// For one that must not come, or not in this form.
    pub(super) fn next(&mut self, is_client: bool, is_tls13: bool) -> Result<Option<Message<'_>>, Fault> {
        if self.at == self.bytes.len() {
            *self = Self::default(); // nothing is held between messages
        }
        let [kind, a, b, c, body @ ..] = &self.bytes[self.at..] else {
            return Ok(None);
        };
        let size = usize::try_from(u32::from_be_bytes([0, *a, *b, *c])).map_err(|_| Fault::UNREADABLE)?;
        // Told by its header: what must not come is not waited for.
        let size_max = match (*kind, is_tls13) {
            (KEY_UPDATE, true) => 1,
            (NEW_SESSION_TICKET, true) if is_client => MESSAGE_BYTES_MAX,
            (HELLO_REQUEST, false) if is_client => MESSAGE_BYTES_MAX,
            (CLIENT_HELLO, false) if !is_client => MESSAGE_BYTES_MAX,
            _ => return Err(Fault::UNEXPECTED),
        };
        if size > size_max {
            return Err(Fault::UNREADABLE);
        }
        let Some(body) = body.get(..size) else {
            return Ok(None);
        };
        self.at += 4 + size;
        let is_last = self.at == self.bytes.len();
        match (*kind, is_tls13) {
            (KEY_UPDATE, true) if is_last => key_update(body).map(Some),
            // RFC 8446 §5.1: what precedes a key change "MUST align with a record boundary".
            (NEW_SESSION_TICKET, true) if is_client => Ok(Some(Message::Ticket(body))),
            (HELLO_REQUEST, false) if is_client => Ok(Some(Message::Renegotiation)),
            (CLIENT_HELLO, false) if !is_client => Ok(Some(Message::Renegotiation)),
            _ => Err(Fault::UNEXPECTED),
        }
    }

    /// Whether no message has begun that goes on.
    pub(super) fn is_empty(&self) -> bool {
        self.at == self.bytes.len()
    }

    /// Bytes of memory it holds, for tests.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }
}

fn key_update(body: &[u8]) -> Result<Message<'_>, Fault> {
    match body {
        [0] => Ok(Message::KeyUpdate { is_requested: false }),
        [1] => Ok(Message::KeyUpdate { is_requested: true }),
        [_] => Err(Fault::new(Cause::Malformed, ILLEGAL_PARAMETER)),
        _ => Err(Fault::UNREADABLE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: bool = true;
    const SERVER: bool = false;
    const TLS_1_3: bool = true;
    const TLS_1_2: bool = false;

    #[test]
    fn alerts_end_the_connection_or_do_not() {
        let fatal = |alert, version| Alert::read(alert, version).unwrap_err();
        assert_eq!(Alert::read(&[1, 0], TLS_1_3), Ok(Alert::CloseNotify));
        assert_eq!(Alert::read(&[2, 0], TLS_1_2), Ok(Alert::CloseNotify));
        assert_eq!(Alert::read(&[1, 90], TLS_1_3), Ok(Alert::Warning));
        assert_eq!(Alert::read(&[1, 112], TLS_1_2), Ok(Alert::Warning));
        assert_eq!(fatal(&[1, 112], TLS_1_3).cause, Cause::Alert);
        assert_eq!(fatal(&[2, 20], TLS_1_2).cause, Cause::Alert);
        assert_eq!(fatal(&[2, 20], TLS_1_3).alert(), None, "alerts are not answered");
        assert_eq!(fatal(&[2], TLS_1_3), Fault::UNREADABLE);
        assert_eq!(fatal(&[1, 0, 1, 0], TLS_1_3), Fault::UNREADABLE);
    }

    #[test]
    fn messages_come_together_and_in_parts() {
        let mut inbox = Inbox::default();
        inbox.push(&[4, 0, 0, 2, 7, 8, 4, 0, 0, 3, 1]).unwrap();
        let next = inbox.next(CLIENT, TLS_1_3).unwrap();
        assert_eq!(next, Some(Message::Ticket(&[7, 8])));
        assert_eq!(inbox.next(CLIENT, TLS_1_3), Ok(None));
        inbox.push(&[2]).unwrap();
        assert_eq!(inbox.next(CLIENT, TLS_1_3), Ok(None));
        inbox.push(&[3, 24, 0, 0, 1, 1]).unwrap();
        let next = inbox.next(CLIENT, TLS_1_3).unwrap();
        assert_eq!(next, Some(Message::Ticket(&[1, 2, 3])));
        let next = inbox.next(CLIENT, TLS_1_3).unwrap();
        assert_eq!(next, Some(Message::KeyUpdate { is_requested: true }));
        assert_eq!(inbox.next(CLIENT, TLS_1_3), Ok(None));
        assert_eq!(inbox.capacity(), 0, "it holds nothing in between");
    }

    #[test]
    fn what_must_not_come_is_refused() {
        let refused = |record: &[u8], is_client, is_tls13| {
            let mut inbox = Inbox::default();
            inbox
                .push(record)
                .and_then(|()| inbox.next(is_client, is_tls13).map(|_| ()))
                .unwrap_err()
        };
        let key_update = [24, 0, 0, 1, 0];
        assert_eq!(refused(&[], CLIENT, TLS_1_3), Fault::UNEXPECTED);
        assert_eq!(refused(&key_update, CLIENT, TLS_1_2), Fault::UNEXPECTED);
        assert_eq!(refused(&[4, 0, 0, 0], SERVER, TLS_1_3), Fault::UNEXPECTED);
        assert_eq!(refused(&[1, 0, 0, 0], SERVER, TLS_1_3), Fault::UNEXPECTED);
        assert_eq!(refused(&[1, 0, 0, 0], CLIENT, TLS_1_2), Fault::UNEXPECTED);
        assert_eq!(
            refused(&[24, 0, 0, 1, 0, 24], CLIENT, TLS_1_3),
            Fault::UNEXPECTED,
            "behind it are other keys"
        );
        assert_eq!(refused(&[24, 0, 0, 2, 0, 0], SERVER, TLS_1_3), Fault::UNREADABLE);
        let illegal = refused(&[24, 0, 0, 1, 2], SERVER, TLS_1_3);
        assert_eq!(illegal.alert(), Some([FATAL, ILLEGAL_PARAMETER]));
        assert_eq!(refused(&[4, 1, 0, 1, 0], CLIENT, TLS_1_3), Fault::UNREADABLE);
    }

    #[test]
    fn the_kernels_words_for_bad_records_are_causes() {
        let cause = |errno: Errno| match Stop::from(io::Error::from(errno)) {
            Stop::Fault(fault) => Cause::of(&fault.into_error()),
            Stop::Socket(error) => Cause::of(&error),
            Stop::Again(_) => unreachable!("nothing came before"),
        };
        assert_eq!(cause(Errno::BADMSG), Cause::RecordDamaged);
        assert_eq!(cause(Errno::MSGSIZE), Cause::RecordTooLong);
        assert_eq!(cause(Errno::INVAL), Cause::NotTls);
        assert_eq!(cause(Errno::CONNRESET), Cause::Reset);
    }
}
