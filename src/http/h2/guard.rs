//! Counts what a peer sends beyond messages, frame by frame, as it comes; free of waits.
//!
//! The `h2` crate answers every such frame, whatever their number, and bounds some of what they cost
//! but not how often. Counting is by frame headers alone: what is in the frames is the crate's.

use std::time::Instant;

use super::Settings;
use super::frame::{
    self, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADER_BYTES, HEADERS, PADDED, PING, PREFACE_BYTES,
    RST_STREAM, SETTINGS, WINDOW_UPDATE,
};
use crate::outcome::Cause;
use crate::time::now;

/// Requests a second that may be cancelled for ever. nghttp2 allows as many.
const RESETS_PER_SECOND: u32 = 33;

/// What a bucket loses in a second is this part of what it holds.
const LEAK_DIVISOR: u32 = 10;

/// Settings are changed once or twice in a connection's life.
const SETTINGS_DIVISOR: u32 = 10;

/// So many bytes sent to the client allow it one more WINDOW_UPDATE: less than a frame of one byte
/// and its header, of which a client may acknowledge each on its stream and on the connection.
const BYTES_PER_WINDOW_UPDATE: u64 = 4;

/// So many bytes may have been sent and be acknowledged later, all at once. A client that reads only in
/// the end acknowledges every frame then; one that means harm sends a few megabytes of updates for it.
const UNACKNOWLEDGED_MAX: u64 = 1024 * 1024;

/// DATA of less than this costs the crate about as much as this (a slot in a list), so that is what
/// it counts it as.
const SMALL_DATA_BYTES: usize = 256;

/// Small DATA frames that are read before those they came for are let take them. With what one
/// more read can bring they stay below the crate's bound, which tells a client that sends faster
/// than we look from one that is hostile.
const SMALL_DATA_AHEAD_MAX: u32 = 256;

/// Heads that an endpoint may send at once beyond those it was asked for; the crate keeps those of a
/// stream, whatever their number, until they are read.
const HEADS_AHEAD_MAX: u32 = 200;

/// A response has a head and may have trailers.
const HEADS_PER_REQUEST: u32 = 2;

/// So many requests can be owed something at a time: more than streams are opened on a connection. What is not
/// sent of it must not be saved up.
const REQUESTS_OWED_MAX: u32 = 200;

const HEADS_OWED_MAX: u32 = HEADS_PER_REQUEST * REQUESTS_OWED_MAX;

/// What went the other way so far.
#[derive(Clone, Copy, Default)]
pub(super) struct Sent {
    pub(super) bytes: u64,
    /// Frames that belong to messages.
    pub(super) messages: u64,
}

/// What others want to hear of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// This stream is reset.
    Reset(u32),
    /// So many bytes of a body come on this stream. Not told of those with padding, which the crate gives back.
    Content(u32, usize),
}

/// A connection's frames so far.
pub(super) struct Guard {
    /// Bytes of the preface still to come.
    preface: usize,
    header: [u8; HEADER_BYTES],
    have: usize,
    /// Bytes of the frame's payload still to come.
    payload: usize,
    /// HEADERS came and its END_HEADERS has not.
    in_block: bool,
    /// Since when a frame or a block of fields has begun and not ended; bodies have deadlines of
    /// their own.
    unfinished: Option<Instant>,
    resets: Bucket,
    pings: Bucket,
    settings: Bucket,
    windows: Bucket,
    empty: Bucket,
    others: Bucket,
    /// Heads and trailers that an endpoint was asked for; `None` of a client, whose requests the crate
    /// counts.
    heads_owed: Option<u32>,
    /// Heads beyond those: informational ones.
    heads: Bucket,
    /// Requests that an endpoint may refuse or break off, as it may any: what it was asked for and has not reset.
    resets_owed: u32,
    /// Bytes of all bodies so far.
    content: u64,
    /// Bytes sent that WINDOW_UPDATEs were set off against.
    set_off: u64,
    /// Frames of messages sent that PINGs were set off against, or could have been.
    pinged: u64,
    /// Small DATA frames since bodies were last read.
    small_data: u32,
}

impl Guard {
    pub(super) fn of_client(settings: &Settings) -> Self {
        Self::new(settings, PREFACE_BYTES, None)
    }

    pub(super) fn of_endpoint(settings: &Settings) -> Self {
        Self::new(settings, 0, Some(0))
    }

    fn new(settings: &Settings, preface: usize, heads_owed: Option<u32>) -> Self {
        let now = now();
        let overhead = settings.overhead_max;
        let bucket = |max: u32| Bucket::new(max, (max / LEAK_DIVISOR).max(1), now);
        Self {
            preface,
            header: [0; HEADER_BYTES],
            have: 0,
            payload: 0,
            in_block: false,
            unfinished: None,
            resets: Bucket::new(settings.resets_max, RESETS_PER_SECOND, now),
            pings: bucket(overhead),
            settings: bucket((overhead / SETTINGS_DIVISOR).max(1)),
            windows: bucket(overhead),
            empty: bucket(overhead),
            others: bucket(overhead),
            heads_owed,
            resets_owed: 0,
            heads: Bucket::new(HEADS_AHEAD_MAX, HEADS_AHEAD_MAX / LEAK_DIVISOR, now),
            content: 0,
            set_off: 0,
            pinged: 0,
            small_data: 0,
        }
    }

    /// Looks at bytes as they came; `hear` is told what there is to be heard.
    ///
    /// # Errors
    ///
    /// What there was too much of.
    pub(super) fn observe(
        &mut self,
        mut bytes: &[u8],
        sent: Sent,
        hear: impl Fn(Heard),
    ) -> Result<(), Cause> {
        let skipped = self.preface.min(bytes.len());
        self.preface -= skipped;
        bytes = &bytes[skipped..];
        while !bytes.is_empty() {
            if self.payload > 0 {
                let count = self.payload.min(bytes.len());
                self.payload -= count;
                bytes = &bytes[count..];
            } else {
                let count = (HEADER_BYTES - self.have).min(bytes.len());
                self.header[self.have..self.have + count].copy_from_slice(&bytes[..count]);
                self.have += count;
                bytes = &bytes[count..];
                if self.have < HEADER_BYTES {
                    break;
                }
                self.have = 0;
                self.begin(sent)?;
                self.tell(&hear);
            }
            if self.payload == 0 && !self.in_block {
                self.unfinished = None;
            }
        }
        let is_between = self.have == 0 && self.payload == 0 && !self.in_block;
        let in_body = self.have == 0 && self.payload > 0 && self.header[3] == DATA;
        if !is_between && !in_body {
            self.unfinished.get_or_insert_with(now);
        }
        Ok(())
    }

    /// Since when the peer owes the rest of something that is no body.
    pub(super) fn unfinished(&self) -> Option<Instant> {
        self.unfinished
    }

    /// Bytes of all bodies so far.
    pub(super) fn content(&self) -> u64 {
        self.content
    }

    /// An endpoint was asked for one more answer.
    pub(super) fn asked(&mut self) {
        if let Some(owed) = &mut self.heads_owed {
            *owed = (*owed + HEADS_PER_REQUEST).min(HEADS_OWED_MAX);
            self.resets_owed = (self.resets_owed + 1).min(REQUESTS_OWED_MAX);
        }
    }

    /// A request was let finish.
    pub(super) fn finished(&mut self) {
        self.resets.level = self.resets.level.saturating_sub(1);
    }

    /// A request was cancelled for what the client had sent with it: as good as a reset by the client.
    ///
    /// # Errors
    ///
    /// That there were too many.
    pub(super) fn provoked(&mut self) -> Result<(), Cause> {
        self.resets.add(Cause::ProvokedResets)
    }

    /// Whether bodies should be read before more comes.
    pub(super) fn is_ahead(&self) -> bool {
        self.small_data >= SMALL_DATA_AHEAD_MAX
    }

    /// Bodies were read.
    pub(super) fn taken(&mut self) {
        self.small_data = 0;
    }

    /// The bytes of a frame of a stream's body of which not all has come, and that were told of already.
    pub(super) fn under_way(&self, stream: u32) -> usize {
        let [_, _, _, kind, flags, ..] = self.header;
        let is_it = kind == DATA && flags & PADDED == 0 && frame::stream(&self.header) == stream;
        match self.payload > 0 && is_it {
            true => frame::payload(&self.header),
            false => 0,
        }
    }

    /// A frame begins; its header is there.
    fn begin(&mut self, sent: Sent) -> Result<(), Cause> {
        let [_, _, _, kind, flags, ..] = self.header;
        self.payload = frame::payload(&self.header);
        match kind {
            DATA if self.payload == 0 && flags & END_STREAM == 0 => self.empty.add(Cause::EmptyFrames),
            DATA => {
                self.small_data += u32::from(self.payload < SMALL_DATA_BYTES);
                self.content += self.payload as u64;
                Ok(())
            }
            HEADERS | CONTINUATION => {
                self.in_block = flags & END_HEADERS == 0;
                match (kind, &mut self.heads_owed) {
                    (HEADERS, Some(0)) => self.heads.add(Cause::FrameFlood),
                    (HEADERS, Some(owed)) => {
                        *owed -= 1;
                        Ok(())
                    }
                    _ => Ok(()),
                }
            }
            RST_STREAM if self.resets_owed > 0 => {
                self.resets_owed -= 1;
                Ok(())
            }
            RST_STREAM => self.resets.add(Cause::RapidReset),
            SETTINGS => self.settings.add(Cause::SettingsFlood),
            PING => {
                self.allow_pings(sent.messages);
                self.pings.add(Cause::PingFlood)
            }
            WINDOW_UPDATE => {
                self.allow_window_updates(sent.bytes);
                self.windows.add(Cause::WindowUpdateFlood)
            }
            // PRIORITY, PUSH_PROMISE, GOAWAY, and those the RFC wants ignored.
            _ => self.others.add(Cause::FrameFlood),
        }
    }

    fn tell(&self, hear: impl Fn(Heard)) {
        let [_, _, _, kind, flags, ..] = self.header;
        let stream = frame::stream(&self.header);
        match kind {
            RST_STREAM => hear(Heard::Reset(stream)),
            DATA if flags & PADDED == 0 => hear(Heard::Content(stream, self.payload)),
            _ => {}
        }
    }

    /// Sets WINDOW_UPDATEs off against bytes sent; bytes that are not needed for it now are kept for later.
    fn allow_window_updates(&mut self, sent: u64) {
        if self.windows.level < self.windows.max {
            return;
        }
        self.set_off = self.set_off.max(sent.saturating_sub(UNACKNOWLEDGED_MAX));
        let earned = (sent - self.set_off) / BYTES_PER_WINDOW_UPDATE;
        let used = earned.min(u64::from(self.windows.level));
        self.windows.give_back(used);
        self.set_off += used * BYTES_PER_WINDOW_UPDATE;
    }

    /// Sets PINGs off against frames of messages sent: gRPC's libraries measure the line by a PING for what comes,
    /// one in each round trip. Nothing is kept for later.
    fn allow_pings(&mut self, messages: u64) {
        if self.pings.level >= self.pings.max {
            self.pings.give_back(messages - self.pinged);
            self.pinged = messages;
        }
    }
}

/// Fills by one with each frame and leaks with time; the clock is read only when it is full.
struct Bucket {
    level: u32,
    max: u32,
    per_second: u32,
    since: Instant,
}

impl Bucket {
    fn new(max: u32, per_second: u32, now: Instant) -> Self {
        Self {
            level: 0,
            max,
            per_second,
            since: now,
        }
    }

    fn add(&mut self, cause: Cause) -> Result<(), Cause> {
        if self.level >= self.max {
            self.leak(now());
        }
        if self.level >= self.max {
            return Err(cause);
        }
        self.level += 1;
        Ok(())
    }

    fn leak(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.since).as_millis();
        let leaked = elapsed.saturating_mul(u128::from(self.per_second)) / 1000;
        if leaked > 0 {
            self.give_back(u64::try_from(leaked).unwrap_or(u64::MAX));
            self.since = now;
        }
    }

    fn give_back(&mut self, count: u64) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.level = self.level.saturating_sub(count);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::time::simulated;

    const TOLERANT: Settings = Settings {
        streams_max: 10,
        window_bytes: 65_535,
        resets_max: 5,
        overhead_max: 20,
    };

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap().to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
        frame.resize(HEADER_BYTES + payload, 0);
        frame
    }

    fn observe(guard: &mut Guard, bytes: &[u8], sent: u64) -> Result<(), Cause> {
        let sent = Sent {
            bytes: sent,
            messages: 0,
        };
        guard.observe(bytes, sent, |_| ())
    }

    /// The clock stands still, so that buckets keep what they hold however long a test takes.
    fn of_client() -> Guard {
        simulated::set(now());
        Guard::of_client(&TOLERANT)
    }

    fn of_endpoint() -> Guard {
        simulated::set(now());
        Guard::of_endpoint(&TOLERANT)
    }

    fn guard() -> Guard {
        let mut guard = of_client();
        observe(&mut guard, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0).expect("it is the preface");
        guard
    }

    /// What a client hears that sends a frame again and again, and after how many.
    fn after(kind: u8, flags: u8, payload: usize) -> Option<(usize, Cause)> {
        let mut guard = guard();
        (0..200).find_map(|count| {
            let told = observe(&mut guard, &frame(kind, flags, payload), 0);
            told.err().map(|cause| (count, cause))
        })
    }

    #[test]
    fn each_kind_of_frame_has_its_bound_and_its_name() {
        let table = [
            (RST_STREAM, 0, 4, Some((5, Cause::RapidReset))),
            (PING, 0, 8, Some((20, Cause::PingFlood))),
            (SETTINGS, 0, 0, Some((2, Cause::SettingsFlood))),
            (WINDOW_UPDATE, 0, 4, Some((20, Cause::WindowUpdateFlood))),
            (DATA, 0, 0, Some((20, Cause::EmptyFrames))),
            (DATA, END_STREAM, 0, None),
            (DATA, 0, 1, None),
            (HEADERS, END_HEADERS, 10, None),
            (0x2, 0, 5, Some((20, Cause::FrameFlood))),
            (0xfa, 0, 3, Some((20, Cause::FrameFlood))),
        ];
        for (kind, flags, payload, expected) in table {
            assert_eq!(after(kind, flags, payload), expected, "frame {kind:#x}");
        }
    }

    #[test]
    fn it_does_not_matter_in_what_pieces_frames_come() {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        for _ in 0..6 {
            bytes.extend(frame(HEADERS, END_HEADERS, 17));
            bytes.extend(frame(RST_STREAM, 0, 4));
        }
        for size in [1, 2, 7, 9, 10, 64, 1000] {
            let mut guard = of_client();
            let told = bytes
                .chunks(size)
                .try_for_each(|piece| observe(&mut guard, piece, 0));
            assert_eq!(told, Err(Cause::RapidReset), "in pieces of {size}");
        }
    }

    #[test]
    fn requests_that_were_let_finish_make_up_for_those_that_were_not() {
        let mut guard = guard();
        for _ in 0..100 {
            assert_eq!(observe(&mut guard, &frame(RST_STREAM, 0, 4), 0), Ok(()));
            guard.finished();
        }
    }

    #[test]
    fn whoever_gets_bytes_may_open_its_windows() {
        let mut guard = guard();
        for sent in 0..1000 {
            let told = observe(
                &mut guard,
                &frame(WINDOW_UPDATE, 0, 4),
                sent * BYTES_PER_WINDOW_UPDATE,
            );
            assert_eq!(told, Ok(()), "after {sent}");
        }
    }

    #[test]
    fn whoever_gets_messages_may_ping_for_each_but_not_later_for_all() {
        let mut guard = guard();
        let ping = frame(PING, 0, 8);
        let mut pings = |messages: u64| guard.observe(&ping, Sent { bytes: 0, messages }, |_| ());
        for messages in 0..1000 {
            assert_eq!(pings(messages), Ok(()), "after {messages}");
        }
        let most = 2 * TOLERANT.overhead_max;
        let told = (0..=most).try_for_each(|_| pings(1_000_000));
        assert_eq!(told, Err(Cause::PingFlood));
    }

    #[test]
    fn windows_may_be_opened_late_but_not_for_ever() {
        let mut guard = guard();
        let update = frame(WINDOW_UPDATE, 0, 4);
        let most = UNACKNOWLEDGED_MAX / BYTES_PER_WINDOW_UPDATE;
        for count in 0..most {
            assert_eq!(
                observe(&mut guard, &update, 2 * UNACKNOWLEDGED_MAX),
                Ok(()),
                "after {count}"
            );
        }
        let told = (0..=u64::from(TOLERANT.overhead_max))
            .try_for_each(|_| observe(&mut guard, &update, 2 * UNACKNOWLEDGED_MAX));
        assert_eq!(told, Err(Cause::WindowUpdateFlood));
    }

    #[test]
    fn small_pieces_of_bodies_are_let_be_taken_before_more_comes() {
        let mut guard = guard();
        let mut come = |size: usize, count: u32| {
            for _ in 0..count {
                observe(&mut guard, &frame(DATA, 0, size), 0).unwrap();
            }
            let is_ahead = guard.is_ahead();
            guard.taken();
            is_ahead
        };
        assert!(come(1, SMALL_DATA_AHEAD_MAX));
        assert!(!come(1, SMALL_DATA_AHEAD_MAX - 1));
        assert!(
            !come(SMALL_DATA_BYTES, SMALL_DATA_AHEAD_MAX),
            "they are not small"
        );
    }

    #[test]
    fn an_endpoint_owes_a_head_and_trailers_for_each_request_and_has_some_ahead() {
        let head = frame(HEADERS, END_HEADERS, 1);
        let mut guard = of_endpoint();
        for _ in 0..10_000 {
            guard.asked();
            for _ in 0..HEADS_PER_REQUEST {
                assert_eq!(observe(&mut guard, &head, 0), Ok(()));
            }
        }
        let told = (0..=HEADS_AHEAD_MAX).try_for_each(|_| observe(&mut guard, &head, 0));
        assert_eq!(told, Err(Cause::FrameFlood), "nobody has asked for these");
        // What was not sent is not saved up beyond a bound.
        let mut guard = of_endpoint();
        (0..10_000).for_each(|_| guard.asked());
        let most = HEADS_OWED_MAX + HEADS_AHEAD_MAX;
        let told = (0..=most).try_for_each(|_| observe(&mut guard, &head, 0));
        assert_eq!(told, Err(Cause::FrameFlood));
    }

    #[test]
    fn an_endpoint_may_reset_each_request_once_and_has_some_ahead() {
        let reset = frame(RST_STREAM, 0, 4);
        let mut guard = of_endpoint();
        for _ in 0..10_000 {
            guard.asked();
            assert_eq!(observe(&mut guard, &reset, 0), Ok(()));
        }
        let told = (0..=TOLERANT.resets_max).try_for_each(|_| observe(&mut guard, &reset, 0));
        assert_eq!(told, Err(Cause::RapidReset));
        (0..10_000).for_each(|_| guard.asked());
        let most = REQUESTS_OWED_MAX + TOLERANT.resets_max;
        let told = (0..=most).try_for_each(|_| observe(&mut guard, &reset, 0));
        assert_eq!(told, Err(Cause::RapidReset));
    }

    #[test]
    fn a_bucket_leaks() {
        let start = now();
        let mut bucket = Bucket::new(10, 2, start);
        bucket.level = 10;
        bucket.leak(start + Duration::from_millis(499));
        assert_eq!(bucket.level, 10);
        bucket.leak(start + Duration::from_millis(2500));
        assert_eq!(bucket.level, 5);
    }

    #[test]
    fn what_has_begun_and_is_no_body_is_owed() {
        let mut guard = guard();
        assert_eq!(guard.unfinished(), None);
        let headers = frame(HEADERS, 0, 10);
        observe(&mut guard, &headers[..4], 0).unwrap();
        let since = guard.unfinished();
        assert!(since.is_some());
        simulated::set(now() + Duration::from_secs(1));
        observe(&mut guard, &headers[4..], 0).unwrap();
        assert_eq!(guard.unfinished(), since, "the block has not ended");
        observe(&mut guard, &frame(CONTINUATION, END_HEADERS, 3), 0).unwrap();
        assert_eq!(guard.unfinished(), None);
        observe(&mut guard, &frame(DATA, 0, 100)[..50], 0).unwrap();
        assert_eq!(guard.unfinished(), None, "bodies have deadlines of their own");
    }

    #[test]
    fn a_frame_of_which_half_has_come_is_known_by_its_stream() {
        let mut guard = guard();
        let mut bytes = frame(DATA, 0, 100);
        bytes[5] |= 0x80; // RFC 9113 §4.1: reserved, and to be ignored
        observe(&mut guard, &bytes[..50], 0).unwrap();
        assert_eq!((guard.under_way(1), guard.under_way(3)), (100, 0));
        observe(&mut guard, &bytes[50..], 0).unwrap();
        assert_eq!(guard.under_way(1), 0);
    }

    #[test]
    fn it_tells_which_streams_are_reset_and_have_content() {
        let mut bytes = frame(DATA, 0, 100);
        bytes.extend(frame(RST_STREAM, 0, 4));
        bytes.extend([0, 0, 4, RST_STREAM, 0, 0x80, 1, 2, 3, 0, 0, 0, 8]);
        for size in 1..=bytes.len() {
            let (mut guard, told) = (guard(), std::cell::RefCell::new(Vec::new()));
            for piece in bytes.chunks(size) {
                let looked = guard.observe(piece, Sent::default(), |heard| told.borrow_mut().push(heard));
                assert_eq!(looked, Ok(()));
            }
            let all = [Heard::Content(1, 100), Heard::Reset(1), Heard::Reset(0x01_02_03)];
            assert_eq!(told.into_inner(), all, "in pieces of {size}");
        }
    }
}
