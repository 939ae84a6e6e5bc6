//! How much of the window for all bodies is filled by what waits in Atlas, and for how long that has shut it: while it
//! does, no client can send, and none is to be blamed.

use std::time::{Duration, Instant};

/// With so little room left the window is taken for shut: a frame as most clients make them.
const ROOM_MIN: usize = 16 * 1024;

/// The bodies of one connection that have come and were not taken.
pub(super) struct Held {
    window: usize,
    /// As many as the client may open, and mostly a few: looking through them costs less than hashing.
    streams: Vec<(u32, usize)>,
    shut_since: Option<Instant>,
    /// The time before that.
    shut: Duration,
}

impl Held {
    pub(super) fn new(window: usize) -> Self {
        Self {
            window,
            streams: Vec::new(),
            shut_since: None,
            shut: Duration::ZERO,
        }
    }

    /// A body has begun, so much of which has come already.
    pub(super) fn begin(&mut self, stream: u32, bytes: usize, now: Instant) {
        self.streams.push((stream, bytes));
        self.note(now);
    }

    /// More of a body has come. Of one that has not begun it is counted then.
    pub(super) fn came(&mut self, stream: u32, bytes: usize, now: impl FnOnce() -> Instant) {
        if let Some(held) = self.find(stream) {
            *held += bytes;
            if self.shut_since.is_none() && self.is_shut() {
                self.shut_since = Some(now());
            }
        }
    }

    /// So much of a body was taken.
    pub(super) fn taken(&mut self, stream: u32, bytes: usize, now: impl FnOnce() -> Instant) {
        if let Some(held) = self.find(stream) {
            *held = held.saturating_sub(bytes);
            if self.shut_since.is_some() {
                self.note(now());
            }
        }
    }

    /// Nobody wants what is left of a body.
    pub(super) fn end(&mut self, stream: u32, now: impl FnOnce() -> Instant) {
        self.streams.retain(|(known, _)| *known != stream);
        if self.shut_since.is_some() {
            self.note(now());
        }
    }

    /// For how long the window was shut so far, in all.
    pub(super) fn shut_for(&self, now: Instant) -> Duration {
        let since = self.shut_since.map(|since| now.saturating_duration_since(since));
        self.shut + since.unwrap_or_default()
    }

    fn find(&mut self, stream: u32) -> Option<&mut usize> {
        let mut known = self.streams.iter_mut();
        known.find(|(id, _)| *id == stream).map(|(_, held)| held)
    }

    fn is_shut(&self) -> bool {
        let held: usize = self.streams.iter().map(|(_, held)| held).sum();
        held.saturating_add(ROOM_MIN) > self.window
    }

    fn note(&mut self, now: Instant) {
        match (self.is_shut(), self.shut_since) {
            (true, None) => self.shut_since = Some(now),
            (false, Some(_)) => {
                self.shut = self.shut_for(now);
                self.shut_since = None;
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::now;

    #[test]
    fn the_window_is_shut_while_what_waits_fills_it() {
        let start = now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut held = Held::new(100_000);
        held.begin(1, 40_000, start);
        held.begin(3, 0, start);
        held.came(5, 100_000, || start); // nobody knows it
        held.came(3, 40_000, || after(1));
        assert_eq!(
            held.shut_for(after(2)),
            Duration::ZERO,
            "there is room for a frame"
        );
        held.came(3, 10_000, || after(2));
        assert_eq!(held.shut_for(after(5)), Duration::from_secs(3));
        held.taken(1, 40_000, || after(6));
        assert_eq!(held.shut_for(after(9)), Duration::from_secs(4));
        held.came(3, 50_000, || after(10));
        held.end(3, || after(12));
        assert_eq!(held.shut_for(after(20)), Duration::from_secs(6));
    }
}
