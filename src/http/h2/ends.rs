//! Watches what is sent for the ends of streams: the `h2` crate takes a response's last piece and does
//! not tell when it goes out, which a client can put off by shutting its window. Nor does it tell of the
//! streams that it refuses itself. Counts on the way what belongs to messages.

use std::task::{Context, Poll, Waker};
use std::time::Instant;

use h2::Reason;

use super::frame::{self, DATA, END_STREAM, HEADER_BYTES, HEADERS, PREFACE_BYTES, RESET_BYTES, RST_STREAM};
use crate::outcome::Cause;
use crate::time::now;

/// Streams of a client: whether the end of each has gone out, and those that the crate refuses.
///
/// Of a connection whose streams are ours it knows how many frames of messages went.
#[derive(Default)]
pub(super) struct Ends {
    /// Of the frame that begins; of RST_STREAM all of it.
    header: [u8; RESET_BYTES],
    have: usize,
    /// Bytes of the frame's payload still to come, or of the preface.
    payload: usize,
    /// HEADERS and DATA so far.
    messages: u64,
    /// Those that were begun and are not forgotten. As many as the client may open, and mostly a few: looking
    /// through them costs less than hashing.
    begun: Option<Vec<Stream>>,
    /// How many of them are left.
    left: usize,
    /// Streams that ended without having been begun, and why, since they were last asked for.
    refused: Vec<(u32, Cause)>,
}

#[derive(Debug)]
struct Stream {
    id: u32,
    /// Its end was given to the crate and has not gone out.
    is_owed: bool,
    /// Who waits for that.
    waiting: Option<Waker>,
    /// Nobody does, nor will.
    is_left: bool,
    /// Since when that is known to last.
    left_since: Option<Instant>,
}

impl Ends {
    /// Those of a connection whose streams the client opens.
    pub(super) fn of_client() -> Self {
        Self {
            begun: Some(Vec::new()),
            ..Self::default()
        }
    }

    /// Those of a connection whose streams are ours; it begins with the preface.
    pub(super) fn of_endpoint() -> Self {
        Self {
            payload: PREFACE_BYTES,
            ..Self::default()
        }
    }

    /// A request has come on this stream; what ends it from here on is known to us.
    pub(super) fn begin(&mut self, id: u32) {
        self.refused.retain(|(refused, _)| *refused != id); // reset before it was handed to us
        if let Some(begun) = &mut self.begun {
            begun.push(Stream {
                id,
                is_owed: false,
                waiting: None,
                is_left: false,
                left_since: None,
            });
        }
    }

    /// Why streams were refused that nobody here has seen a request of, since this was last asked.
    pub(super) fn take_refused(&mut self) -> Vec<(u32, Cause)> {
        std::mem::take(&mut self.refused)
    }

    /// The end of this stream is on its way.
    pub(super) fn expect(&mut self, id: u32) {
        if let Some(stream) = self.find(id) {
            stream.is_owed = true;
        }
    }

    /// Whether it has gone out.
    pub(super) fn poll(&mut self, id: u32, cx: &mut Context<'_>) -> Poll<()> {
        match self.find(id).filter(|stream| stream.is_owed) {
            Some(stream) => {
                stream.waiting = Some(cx.waker().clone());
                Poll::Pending
            }
            None => Poll::Ready(()),
        }
    }

    /// Nobody waits for it any more. It is forgotten once it has gone out.
    pub(super) fn leave(&mut self, id: u32) {
        match self.find(id) {
            Some(stream) if stream.is_owed => {
                stream.is_left = true;
                self.left += 1;
            }
            _ => self.forget(id),
        }
    }

    /// Its peer has reset a stream: an end that was left does not go out any more.
    pub(super) fn given_up(&mut self, id: u32) {
        if self.find(id).is_some_and(|stream| stream.is_left) {
            self.left -= 1;
            self.forget(id);
        }
    }

    /// Since when an end that was left has not gone out; to be asked now and then.
    pub(super) fn left_since(&mut self) -> Option<Instant> {
        if self.left == 0 {
            return None;
        }
        let now = now();
        let left = self.begun.iter_mut().flatten().filter(|stream| stream.is_left);
        left.map(|stream| *stream.left_since.get_or_insert(now)).min()
    }

    /// Nobody waits for it any more, and it may not go out.
    pub(super) fn forget(&mut self, id: u32) {
        if let Some(begun) = &mut self.begun {
            begun.retain(|stream| stream.id != id);
        }
    }

    fn find(&mut self, id: u32) -> Option<&mut Stream> {
        self.begun.as_mut()?.iter_mut().find(|stream| stream.id == id)
    }

    /// Frames of messages that went so far.
    pub(super) fn messages(&self) -> u64 {
        self.messages
    }

    /// Looks at bytes as they go.
    pub(super) fn observe(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.payload > 0 {
                let count = self.payload.min(bytes.len());
                self.payload -= count;
                bytes = &bytes[count..];
                continue;
            }
            let wanted = if self.have < HEADER_BYTES {
                HEADER_BYTES
            } else {
                RESET_BYTES
            };
            let count = (wanted - self.have).min(bytes.len());
            self.header[self.have..self.have + count].copy_from_slice(&bytes[..count]);
            self.have += count;
            bytes = &bytes[count..];
            if self.have == wanted {
                self.begin_frame();
            }
        }
    }

    /// RFC 9113 §4.1: length, type, flags, stream; §6.4: of RST_STREAM the error code, too.
    fn begin_frame(&mut self) {
        let [header @ .., e, f, g, h] = self.header;
        let [_, _, _, kind, flags, ..] = header;
        let id = frame::stream(&header);
        if kind == RST_STREAM {
            if self.have == RESET_BYTES {
                self.have = 0;
                self.note_reset(id, u32::from_be_bytes([e, f, g, h]).into());
            }
            return;
        }
        self.have = 0;
        self.payload = frame::payload(&header);
        if !matches!(kind, DATA | HEADERS) {
            return;
        }
        self.messages += 1;
        if self.begun.is_none() || flags & END_STREAM == 0 {
            return;
        }
        match self.find(id) {
            Some(stream) if stream.is_left => self.given_up(id),
            Some(stream) => {
                stream.is_owed = false;
                if let Some(waiting) = stream.waiting.take() {
                    waiting.wake();
                }
            }
            // The crate's own 431, which is all it says to a head far too large.
            None if kind == HEADERS => self.refused.push((id, Cause::LimitReached)),
            None => {}
        }
    }

    /// What the crate says of a request that it does not hand to us. Other codes are ours, or those of streams
    /// that have ended.
    fn note_reset(&mut self, id: u32, reason: Reason) {
        if self.begun.is_none() {
            return;
        }
        self.given_up(id);
        let cause = match reason {
            Reason::PROTOCOL_ERROR => Cause::Malformed,
            Reason::REFUSED_STREAM => Cause::LimitReached,
            _ => return,
        };
        if self.find(id).is_none() {
            self.refused.push((id, cause));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_seen_however_its_bytes_come() {
        // HEADERS, DATA of three bytes with the end, a PING.
        let mut sent = vec![0, 0, 1, HEADERS, 4, 0, 0, 0, 5, b'h'];
        sent.extend([0, 0, 3, DATA, END_STREAM, 0, 0, 0, 5, 1, 2, 3]);
        let before = sent.len() - 4; // the header is whole one byte before its payload
        sent.extend([0, 0, 8, 6, 0, 0, 0, 0, 0, 0, 0, 3, 0, 1, 0, 0, 5]);
        let cx = &mut Context::from_waker(Waker::noop());
        for size in 1..=sent.len() {
            let mut ends = Ends::of_client();
            for stream in [5, 7] {
                ends.begin(stream);
                ends.expect(stream);
            }
            let mut seen = 0;
            for piece in sent.chunks(size) {
                assert_eq!(
                    ends.poll(5, cx).is_ready(),
                    seen > before,
                    "{seen} in pieces of {size}"
                );
                ends.observe(piece);
                seen += piece.len();
            }
            assert!(ends.poll(5, cx).is_ready() && ends.poll(7, cx).is_pending());
            ends.forget(7);
            assert!(ends.poll(7, cx).is_ready());
        }
    }

    #[test]
    fn an_end_that_is_left_is_forgotten_once_it_cannot_be_owed_any_more() {
        let end = |stream: u8, kind: u8| [0, 0, 1, kind, END_STREAM, 0, 0, 0, stream, b'h'];
        let mut ends = Ends::of_client();
        for stream in [1, 3, 5, 7, 9, 11] {
            ends.begin(stream);
            ends.expect(stream);
        }
        ends.observe(&end(1, DATA));
        for stream in [1, 3, 5, 7, 9] {
            ends.leave(stream);
        }
        let since = ends.left_since().expect("four of them are owed");
        ends.observe(&end(3, HEADERS));
        ends.observe(&[0, 0, 4, RST_STREAM, 0, 0, 0, 0, 5, 0, 0, 0, 2]);
        ends.given_up(7);
        ends.given_up(11);
        assert_eq!(ends.left_since(), Some(since), "9 is owed");
        ends.observe(&end(9, DATA));
        assert_eq!(ends.left_since(), None);
        assert_eq!(ends.take_refused(), []);
        let cx = &mut Context::from_waker(Waker::noop());
        assert!(ends.poll(11, cx).is_pending(), "somebody waits for this one");
        ends.forget(11);
        assert!(ends.begun.is_some_and(|begun| begun.is_empty()));
    }

    #[test]
    fn a_stream_that_ends_and_was_not_begun_was_refused() {
        let reset = |stream: u8, code: u8| [0, 0, 4, RST_STREAM, 0, 0, 0, 0, stream, 0, 0, 0, code];
        let mut sent = reset(1, 1).to_vec(); // PROTOCOL_ERROR
        sent.extend(reset(3, 7)); // REFUSED_STREAM
        sent.extend([0, 0, 1, HEADERS, 5, 0, 0, 0, 5, b'h']);
        sent.extend(reset(7, 8)); // CANCEL
        sent.extend(reset(9, 1));
        sent.extend(reset(11, 1));
        sent.extend([0, 0, 1, HEADERS, 5, 0, 0, 0, 13, b'h']);
        for size in 1..=sent.len() {
            let mut ends = Ends::of_client();
            ends.begin(9);
            ends.begin(13);
            sent.chunks(size).for_each(|piece| ends.observe(piece));
            ends.begin(11); // handed to us although it is reset
            let refused = [
                (1, Cause::Malformed),
                (3, Cause::LimitReached),
                (5, Cause::LimitReached),
            ];
            assert_eq!(ends.take_refused(), refused, "in pieces of {size}");
            assert_eq!(ends.take_refused(), []);
            for stream in [9, 11, 13] {
                ends.forget(stream);
            }
            assert!(ends.begun.is_some_and(|begun| begun.is_empty()));
            let mut to_endpoint = Ends::of_endpoint();
            to_endpoint.observe(&[0xff; PREFACE_BYTES]);
            to_endpoint.observe(&sent);
            assert!(to_endpoint.messages() > 0);
            assert_eq!(to_endpoint.take_refused(), [], "its streams are ours");
        }
    }
}
