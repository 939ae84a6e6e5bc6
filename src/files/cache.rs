//! Small files that were asked for a moment ago, still open: the next request need not look again.
//!
//! Nobody is served what was replaced more than [`FRESH`] ago, and nothing stays open much longer
//! than that. What was changed in place is told by its facts, which are asked for every time.
//!
//! For 1 KiB on ext4 this is 0.3 µs of system calls (fstat) for a request instead of 3.1 µs
//! (openat2, fstat, preadv2, fstat, close), and 1.1 µs less for each neighbour that is not there.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use super::open::Shared;
use crate::runtime;

/// How long a look is good for. nginx's `open_file_cache_valid` has 60 s; a deployment that swaps
/// files wants to be seen at once.
pub(super) const FRESH: Duration = Duration::from_secs(1);

/// Names kept by each worker for each root: at most so many descriptors, and as many times
/// [`SMALL`](crate::buffer::SMALL) bytes of content.
const NAMES_MAX: usize = 512;

/// The largest file that is kept open: for larger ones the look is not what costs.
const SIZE_MAX: u64 = crate::buffer::LARGE as u64;

/// What was found under which name.
#[derive(Default)]
pub(super) struct Cache(Rc<RefCell<Table>>);

#[derive(Default)]
struct Table {
    names: HashMap<Vec<u8>, Kept>,
    is_swept: bool,
}

struct Kept {
    /// `None`: there was nothing.
    file: Option<Shared>,
    since: Instant,
}

impl Cache {
    /// What was found under this name a moment ago, if somebody looked.
    pub(super) fn find(&self, name: &[u8], now: Instant) -> Option<Option<Shared>> {
        let table = self.0.borrow();
        let kept = table.names.get(name)?;
        kept.is_fresh(now).then(|| kept.file.clone())
    }

    /// Keeps what was found.
    pub(super) fn keep(&self, name: Vec<u8>, file: Option<&Shared>, now: Instant) {
        let mut table = self.0.borrow_mut();
        let is_small = file.is_none_or(|file| file.facts.size <= SIZE_MAX);
        if !is_small || (table.names.len() >= NAMES_MAX && !table.names.contains_key(&name)) {
            return;
        }
        let kept = Kept {
            file: file.cloned(),
            since: now,
        };
        table.names.insert(name, kept);
        if !std::mem::replace(&mut table.is_swept, true) {
            let table = Rc::downgrade(&self.0);
            runtime::spawn(sweep(table), |panic| {
                tracing::error!(panic, "a file cache is no longer swept")
            });
        }
    }

    /// Forgets everything: the root is another folder now, or descriptors are short.
    pub(super) fn clear(&self) {
        self.0.borrow_mut().names.clear();
    }
}

impl Kept {
    fn is_fresh(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) < FRESH
    }
}

/// Closes what is no longer fresh, so that a deleted file gives its space back, until nothing is
/// left or the root is gone.
async fn sweep(table: Weak<RefCell<Table>>) {
    loop {
        runtime::sleep(FRESH).await;
        let Some(table) = table.upgrade() else {
            return;
        };
        let now = crate::time::now();
        let mut table = table.borrow_mut();
        table.names.retain(|_, kept| kept.is_fresh(now));
        if table.names.is_empty() {
            table.is_swept = false;
            return;
        }
    }
}
