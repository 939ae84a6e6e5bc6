//! Watches what is sent for the ends of streams: the `h2` crate takes a response's last piece and does
//! not tell when it goes out, which a client can put off by shutting its window.

use std::collections::HashMap;
use std::task::{Context, Poll, Waker};

use super::frame::{DATA, END_STREAM, HEADER_BYTES, HEADERS};

/// Streams whose end was given to the crate and has not gone out.
#[derive(Default)]
pub(super) struct Ends {
    header: [u8; HEADER_BYTES],
    have: usize,
    /// Bytes of the frame's payload still to come.
    payload: usize,
    /// Who waits for each; as many as there are streams.
    owed: HashMap<u32, Option<Waker>>,
}

impl Ends {
    /// The end of this stream is on its way.
    pub(super) fn expect(&mut self, stream: u32) {
        self.owed.insert(stream, None);
    }

    /// Whether it has gone out.
    pub(super) fn poll(&mut self, stream: u32, cx: &mut Context<'_>) -> Poll<()> {
        match self.owed.get_mut(&stream) {
            Some(waiting) => {
                *waiting = Some(cx.waker().clone());
                Poll::Pending
            }
            None => Poll::Ready(()),
        }
    }

    /// Nobody waits for it any more.
    pub(super) fn forget(&mut self, stream: u32) {
        self.owed.remove(&stream);
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
            let count = (HEADER_BYTES - self.have).min(bytes.len());
            self.header[self.have..self.have + count].copy_from_slice(&bytes[..count]);
            self.have += count;
            bytes = &bytes[count..];
            if self.have == HEADER_BYTES {
                self.have = 0;
                self.begin_frame();
            }
        }
    }

    /// RFC 9113 §4.1: length, type, flags, stream.
    fn begin_frame(&mut self) {
        let [a, b, c, kind, flags, stream @ ..] = self.header;
        self.payload = u32::from_be_bytes([0, a, b, c]) as usize;
        let is_end = matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0;
        if is_end && let Some(Some(waker)) = self.owed.remove(&u32::from_be_bytes(stream)) {
            waker.wake();
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
            let mut ends = Ends::default();
            ends.expect(5);
            ends.expect(7);
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
}
