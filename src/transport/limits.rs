//! How much is too much: records under one key, records that are no data, wake-ups for nothing.

use std::io;
use std::time::{Duration, Instant};

use rustls::{CommonState, SupportedCipherSuite};

use crate::time::Deadline;

/// Records under one key of AES-GCM, whatever rustls may say: RFC 8446 §5.5 allows some 2^24.5 of
/// full size.
const RECORDS_MAX: u64 = 1 << 24;

/// Bytes a record has at the least, so that those of a write are not counted as too few: a pipe may
/// hold the packets of a slow sender.
const RECORD_BYTES_MIN: u64 = 256;

/// Records of rustls's own besides data: of the handshake, alerts, a goodbye.
const OTHERS_MAX: u64 = 64;

/// How worn a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Worn {
    /// It is good for more.
    Not,
    /// Half of what it is good for is over: it should be renewed.
    Soon,
    /// It must not be used any longer.
    Out,
}

/// Counts records sent under one key. The kernel counts its own exactly, and is asked when a guess from
/// above comes to the limit.
pub(super) struct Wear {
    /// `None`: there is no limit.
    max: Option<u64>,
    guess: u64,
}

impl Wear {
    pub(super) fn new(max: u64) -> Self {
        let max = (max < u64::MAX).then(|| max.min(RECORDS_MAX));
        Self {
            max,
            // Some went out before the kernel was there.
            guess: u64::MAX,
        }
    }

    /// Of a key that rustls uses. With TLS 1.3 it renews it by itself; with TLS 1.2 it would say goodbye and throw
    /// away what it is given from then on, so it must not come to that.
    pub(super) fn of_rustls(agreed: &CommonState) -> Self {
        let max = match agreed.negotiated_cipher_suite() {
            Some(SupportedCipherSuite::Tls12(suite)) => suite.common.confidentiality_limit,
            Some(SupportedCipherSuite::Tls13(_)) | None => u64::MAX,
        };
        let max = (max < u64::MAX).then(|| max.min(RECORDS_MAX) - OTHERS_MAX);
        Self { max, guess: 0 }
    }

    /// Whether so many more may be made, as far as they are counted here.
    pub(super) fn allows(&self, records: usize) -> bool {
        self.max.is_none_or(|max| self.guess + records as u64 <= max)
    }

    /// So many were made.
    pub(super) fn made(&mut self, records: usize) {
        self.guess += records as u64;
    }

    /// Whether half of what the key is good for is over, as far as it is counted here.
    pub(super) fn is_half_over(&self) -> bool {
        self.max.is_some_and(|max| self.guess >= max / 2)
    }

    /// As if the key were good for so many records, for tests.
    #[cfg(test)]
    pub(super) fn set_max(&mut self, records: u64) {
        self.max = Some(records);
    }

    pub(super) fn wrote(&mut self, count: usize) {
        let records = 1 + count as u64 / RECORD_BYTES_MIN;
        self.guess = self.guess.saturating_add(records);
    }

    pub(super) fn renewed(&mut self) {
        self.guess = 0;
    }

    pub(super) fn look(&mut self, ask: impl FnOnce() -> io::Result<u64>) -> Worn {
        let Some(max) = self.max else {
            return Worn::Not;
        };
        let soon = max / 2;
        if self.guess < soon {
            return Worn::Not;
        }
        // If it cannot be asked, what was guessed has to do.
        let sent = ask().unwrap_or(self.guess);
        self.guess = sent;
        match sent {
            sent if sent >= max => Worn::Out,
            sent if sent >= soon => Worn::Soon,
            _ => Worn::Not,
        }
    }
}

/// Counts records that are no data.
#[derive(Default)]
pub(super) struct Storm {
    records: u32,
    bytes: usize,
    /// When the first of these records came.
    since: Option<Instant>,
}

impl Storm {
    /// So many may come before so many bytes were moved, or so much time has passed: a peer whose connection
    /// is quiet for hours may well renew its keys every few minutes, and one every two seconds costs nothing.
    const RECORDS_MAX: u32 = 32;
    const BYTES: usize = 1024 * 1024;
    const TIME: Duration = Duration::from_secs(60);

    /// Bytes of data went in or out.
    pub(super) fn moved(&mut self, count: usize) {
        self.bytes += count;
        if self.bytes >= Self::BYTES {
            *self = Self::default();
        }
    }

    /// A record came that is no data; whether that is one too many.
    pub(super) fn control(&mut self, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        if now.saturating_duration_since(since) >= Self::TIME {
            *self = Self {
                since: Some(now),
                ..Self::default()
            };
        }
        self.records += 1;
        self.records > Self::RECORDS_MAX
    }
}

/// Keeps a kernel that wakes the reader for half a record from keeping it awake.
///
/// The socket is asked to wake its reader only when there is more than the half that is known. Where
/// it does so all the same, because its buffer is too small for that, the reader pauses.
pub(super) struct Pause {
    is_needed: bool,
    /// Bytes of a record that has only begun.
    half: u32,
    in_vain: u32,
    until: Option<Deadline>,
}

impl Pause {
    /// The first is so short that the rest of a record which is on its way is not kept waiting.
    const FIRST: Duration = Duration::from_millis(1);
    const MAX: Duration = Duration::from_secs(1);

    pub(super) fn new(is_needed: bool) -> Self {
        Self {
            is_needed,
            half: 0,
            in_vain: 0,
            until: None,
        }
    }

    /// A read found data. Says from how many bytes on the socket has to wake its reader now, if
    /// that has changed.
    pub(super) fn found(&mut self) -> Option<u32> {
        self.in_vain = 0;
        self.until = None;
        (std::mem::take(&mut self.half) > 0).then_some(1)
    }

    /// A read found no whole record. `queued`: how many bytes wait all the same; `is_woken`: the
    /// driver had told of something. Says what [`Self::found`] says.
    pub(super) fn found_nothing(
        &mut self,
        now: Instant,
        is_woken: bool,
        queued: impl FnOnce() -> u32,
    ) -> Option<u32> {
        if !self.is_needed {
            return None;
        }
        let known = std::mem::replace(&mut self.half, queued());
        if self.half != known {
            self.in_vain = 0;
            self.until = None;
            return Some(self.half.saturating_add(1));
        }
        if is_woken && self.half > 0 {
            let length = Self::FIRST.saturating_mul(1 << self.in_vain.min(10));
            self.in_vain += 1;
            self.until = Some(Deadline::after(now, length.min(Self::MAX)));
        }
        None
    }

    /// When the driver may be asked again.
    pub(super) fn until(&self) -> Option<Deadline> {
        self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::now;

    #[test]
    fn a_key_is_renewed_at_half_of_its_limit_and_never_used_beyond() {
        let mut wear = Wear::new(100);
        assert_eq!(wear.look(|| Ok(3)), Worn::Not, "asked at first");
        wear.wrote(1);
        assert_eq!(wear.look(|| panic!("the guess is far away")), Worn::Not);
        wear.wrote(50 * 256);
        assert_eq!(wear.look(|| Ok(49)), Worn::Not);
        wear.wrote(1);
        assert_eq!(wear.look(|| Ok(50)), Worn::Soon);
        assert_eq!(wear.look(|| Ok(99)), Worn::Soon);
        assert_eq!(wear.look(|| Ok(100)), Worn::Out);
        wear.renewed();
        assert_eq!(wear.look(|| panic!("it is new")), Worn::Not);
    }

    #[test]
    fn a_key_without_a_limit_is_never_worn() {
        let mut wear = Wear::new(u64::MAX);
        wear.wrote(usize::MAX);
        assert_eq!(wear.look(|| panic!("there is nothing to ask")), Worn::Not);
    }

    #[test]
    fn records_that_are_no_data_are_allowed_as_long_as_data_moves() {
        let (mut storm, start) = (Storm::default(), now());
        for _ in 0..100 {
            storm.moved(Storm::BYTES);
            for _ in 0..Storm::RECORDS_MAX {
                assert!(!storm.control(start));
            }
        }
        storm.moved(Storm::BYTES - 1);
        assert!(storm.control(start));
    }

    #[test]
    fn records_that_are_no_data_are_allowed_as_long_as_they_take_their_time() {
        let (mut storm, start) = (Storm::default(), now());
        let every = |pause: Duration| (0..1000).map(move |number| start + pause * number);
        for moment in every(Duration::from_secs(2)) {
            assert!(!storm.control(moment));
        }
        let mut storm = Storm::default();
        let storms = |moment| storm.control(moment);
        let first = every(Duration::from_secs(1)).position(storms);
        assert_eq!(first, Some(Storm::RECORDS_MAX as usize));
    }

    #[test]
    fn half_a_record_wakes_again_only_when_there_is_more_of_it() {
        let mut pause = Pause::new(true);
        assert_eq!(pause.found_nothing(now(), false, || 0), None);
        assert_eq!(pause.found_nothing(now(), true, || 100), Some(101));
        assert_eq!(pause.until(), None);
        assert_eq!(pause.found_nothing(now(), true, || 250), Some(251));
        assert_eq!(pause.until(), None);
        assert_eq!(pause.found(), Some(1));
        assert_eq!(pause.found(), None);
        let mut never = Pause::new(false);
        assert_eq!(never.found_nothing(now(), true, || panic!("not asked")), None);
    }

    #[test]
    fn pauses_double_up_to_a_second_and_end_with_data() {
        let start = now();
        let mut pause = Pause::new(true);
        pause.found_nothing(start, true, || 100);
        let mut lengths = Vec::new();
        for _ in 0..20 {
            assert_eq!(pause.found_nothing(start, true, || 100), None);
            lengths.push(pause.until().unwrap().left(start).as_millis());
        }
        assert_eq!(lengths[..4], [1, 2, 4, 8]);
        assert_eq!(
            lengths[9..],
            [512, 1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000]
        );
        pause.found();
        assert_eq!(pause.until(), None);
    }
}
