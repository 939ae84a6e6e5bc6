//! Which bytes of files are known to be in memory, and bringing in those that are not.
//!
//! `sendfile` waits for the disk where bytes are not in the page cache, and with it would all of a
//! worker's connections. No question to the kernel finds that out for less than it costs: mincore
//! and cachestat answer only to the file's owner, preadv2 with RWF_NOWAIT copies what it finds and
//! is refused by overlayfs and tmpfs. So a thread beside the worker sends a stretch to /dev/null
//! first, which copies nothing and leaves it in memory; and a stretch that this worker has seen
//! there a moment ago is believed to be there still.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use rustix::fs::{Advice, CWD, Mode, OFlags, fadvise, openat, sendfile};
use rustix::io::{Errno, pread};

use super::cache::FRESH;
use super::open::{Shared, on_disk};
use crate::buffer::Buffer;
use crate::time::now;

/// How many files are remembered.
const FILES_MAX: usize = 512;

/// What is in memory, of files by device and inode.
#[derive(Default)]
pub(super) struct Warm(RefCell<HashMap<(u64, u64), Seen>>);

struct Seen {
    stretch: Range<u64>,
    since: Instant,
}

impl Warm {
    /// Sees to it that this stretch of a file is in memory, as far as the file reaches.
    pub(super) async fn bring_in(&self, file: &Shared, stretch: Range<u64>) -> Result<(), Errno> {
        let began = now();
        if self.knows(file.inode, &stretch, began) {
            return Ok(());
        }
        let fd = file.fd.try_clone();
        let fd = fd.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        let wanted = stretch.clone();
        on_disk(move || touch(fd.as_fd(), wanted)).await?;
        self.note(file.inode, stretch, began);
        Ok(())
    }

    fn knows(&self, inode: (u64, u64), stretch: &Range<u64>, now: Instant) -> bool {
        self.0.borrow().get(&inode).is_some_and(|seen| {
            seen.is_fresh(now) && seen.stretch.start <= stretch.start && stretch.end <= seen.stretch.end
        })
    }

    fn note(&self, inode: (u64, u64), stretch: Range<u64>, now: Instant) {
        let mut files = self.0.borrow_mut();
        if let Some(seen) = files.get_mut(&inode)
            && seen.is_fresh(now)
            && seen.stretch.end == stretch.start
        {
            seen.stretch.end = stretch.end;
            return;
        }
        if files.len() >= FILES_MAX {
            files.retain(|_, seen| seen.is_fresh(now));
        }
        if files.len() < FILES_MAX {
            files.insert(inode, Seen { stretch, since: now });
        }
    }
}

impl Seen {
    fn is_fresh(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) < FRESH
    }
}

/// Reads a stretch without looking at it, and lets the disk begin with what comes behind it.
fn touch(file: BorrowedFd<'_>, stretch: Range<u64>) -> Result<(), Errno> {
    let length = stretch.end - stretch.start;
    // Only a hint.
    let _ = fadvise(
        file,
        stretch.end,
        std::num::NonZero::new(length),
        Advice::WillNeed,
    );
    let nowhere = openat(CWD, "/dev/null", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
    let mut at = stretch.start;
    let mut scrap = Buffer::none();
    while at < stretch.end {
        let left = usize::try_from(stretch.end - at).unwrap_or(usize::MAX);
        let read = match &nowhere {
            Ok(nowhere) => sendfile(nowhere, file, Some(&mut at), left).map(|count| (count, 0)),
            Err(_) => {
                if scrap.capacity() == 0 {
                    scrap = Buffer::large();
                }
                let most = left.min(scrap.capacity());
                pread(file, &mut scrap.space()[..most], at).map(|count| (count, count as u64))
            }
        };
        match read {
            Err(Errno::INTR) => {}
            Ok((0, _)) => return Ok(()), // the file ends here now; whoever sends it will see
            read => at += read?.1,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::Duration;

    use super::*;

    #[test]
    fn touching_goes_on_to_the_end_of_the_file_and_no_further() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 100_000]).unwrap();
        touch(file.as_fd(), 10..50_000).unwrap();
        touch(file.as_fd(), 90_000..1_000_000).unwrap();
        touch(file.as_fd(), 200_000..1_000_000).unwrap();
    }

    #[test]
    fn stretches_grow_together_and_are_forgotten() {
        let warm = Warm::default();
        let start = now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        warm.note((1, 1), 0..10, at(0));
        warm.note((1, 1), 10..20, at(500));
        assert!(warm.knows((1, 1), &(5..20), at(900)));
        assert!(!warm.knows((1, 1), &(5..21), at(900)));
        assert!(!warm.knows((1, 2), &(5..20), at(900)));
        assert!(!warm.knows((1, 1), &(15..20), at(1000)), "the first of it counts");
        warm.note((1, 1), 20..30, at(1000));
        assert!(!warm.knows((1, 1), &(10..30), at(1001)), "what was before is old");
        assert!(warm.knows((1, 1), &(20..30), at(1001)));
        for inode in 0..2 * FILES_MAX as u64 {
            warm.note((2, inode), 0..10, at(1100));
        }
        assert_eq!(warm.0.borrow().len(), FILES_MAX);
    }
}
