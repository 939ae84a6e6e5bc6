//! What the kernel says of an open file, and the validators a client gets from it.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use httpdate::HttpDate;
use rustix::fs::{FileType, Stat};

use super::encoding::Coding;
use super::value::Value;

/// The last second that an HTTP date can write: the end of the year 9999.
const DATE_MAX: u64 = 253_402_300_799;

/// A file at one moment. The same facts at two moments: the same content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// Bytes.
    pub(super) size: u64,
    /// Seconds since 1970; and nanoseconds.
    modified: (i64, u32),
    kind: FileType,
}

impl Facts {
    pub(super) fn of(stat: &Stat) -> Self {
        Self {
            size: u64::try_from(stat.st_size).unwrap_or(0),
            modified: (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0)),
            kind: FileType::from_raw_mode(stat.st_mode),
        }
    }

    pub(super) fn is_file(&self) -> bool {
        self.kind == FileType::RegularFile
    }

    pub(super) fn is_folder(&self) -> bool {
        self.kind == FileType::Directory
    }

    pub(super) fn is_link(&self) -> bool {
        self.kind == FileType::Symlink
    }

    /// When it was modified, in whole seconds, where the file system says so.
    ///
    /// Stores that keep no times (Nix, some container images) write 0 or 1: two contents of one
    /// length would have the same validators there.
    pub(super) fn modified_seconds(&self) -> Option<u64> {
        u64::try_from(self.modified.0)
            .ok()
            .filter(|seconds| (2..=DATE_MAX).contains(seconds))
    }

    /// What a client may hold against the file later.
    ///
    /// The inode's number is not part of the tag, so that two machines which hold the same copy
    /// (with its times) give it the same.
    pub(super) fn validators(&self, coding: Option<Coding>, now: SystemTime) -> Validators {
        let seconds = self.modified_seconds();
        let now = seconds_of(now);
        let etag = seconds.map(|seconds| {
            let tag = Value::new().text("\"").hex(seconds).text(".");
            let tag = tag.hex(self.modified.1.into()).text("-").hex(self.size);
            match coding {
                Some(coding) => tag.text("-").text(coding.as_str()).text("\""),
                None => tag.text("\""),
            }
        });
        Validators {
            etag,
            // RFC 9110 §8.8.2.1: a date in the future is replaced by the message's own.
            modified: seconds.map(|seconds| seconds.min(now)),
            now,
        }
    }
}

/// What a client may hold against a file: its entity tag, always strong, and its date.
#[derive(Clone, Copy)]
pub(super) struct Validators {
    pub(super) etag: Option<Value>,
    /// Seconds since 1970.
    pub(super) modified: Option<u64>,
    /// The moment of the answer, in seconds since 1970.
    pub(super) now: u64,
}

impl Validators {
    /// As Last-Modified writes it.
    pub(super) fn last_modified(&self) -> Option<Value> {
        self.modified.map(date)
    }
}

/// A date as HTTP writes it.
pub(super) fn date(seconds: u64) -> Value {
    let mut value = Value::new();
    let at = UNIX_EPOCH + Duration::from_secs(seconds.min(DATE_MAX));
    // A value takes all it is given.
    let _ = write!(value, "{}", HttpDate::from(at));
    value
}

/// Whole seconds since 1970.
pub(super) fn seconds_of(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
impl Facts {
    /// A file that is not there.
    pub(super) fn made_up(size: u64, modified: (i64, u32)) -> Self {
        Self {
            size,
            modified,
            kind: FileType::RegularFile,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: SystemTime = UNIX_EPOCH;

    fn tag(facts: Facts, coding: Option<Coding>) -> Option<String> {
        let etag = facts.validators(coding, NOW).etag?;
        Some(String::from_utf8(etag.as_ref().to_vec()).unwrap())
    }

    #[test]
    fn each_content_and_each_coding_has_its_own_tag() {
        let tags = [
            tag(Facts::made_up(10, (1_700_000_000, 5)), None),
            tag(Facts::made_up(10, (1_700_000_000, 6)), None),
            tag(Facts::made_up(11, (1_700_000_000, 5)), None),
            tag(Facts::made_up(10, (1_700_000_001, 5)), None),
            tag(Facts::made_up(10, (1_700_000_000, 5)), Some(Coding::Gzip)),
            tag(Facts::made_up(10, (1_700_000_000, 5)), Some(Coding::Brotli)),
        ];
        assert_eq!(tags[0].as_deref(), Some("\"6553f100.5-a\""));
        assert_eq!(tags[4].as_deref(), Some("\"6553f100.5-a-gzip\""));
        for (at, tag) in tags.iter().enumerate() {
            assert!(!tags[..at].contains(tag), "{tag:?} twice");
        }
    }

    #[test]
    fn a_file_without_a_usable_time_has_no_validators() {
        for seconds in [i64::MIN, -1, 0, 1, 253_402_300_800, i64::MAX] {
            let validators = Facts::made_up(1, (seconds, 0)).validators(None, NOW);
            assert!(
                validators.etag.is_none() && validators.last_modified().is_none(),
                "{seconds}"
            );
        }
    }

    #[test]
    fn a_date_in_the_future_becomes_now() {
        let now = UNIX_EPOCH + Duration::from_secs(784_111_777);
        let validators = Facts::made_up(1, (900_000_000, 0)).validators(None, now);
        let text = validators.last_modified().unwrap();
        assert_eq!(text.as_ref(), b"Sun, 06 Nov 1994 08:49:37 GMT");
    }
}
