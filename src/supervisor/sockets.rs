//! The addresses this process listens on, from the first bind to the last use of each.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use crate::generation::Generation;
use crate::listener::{self, BindError};
use crate::runtime::{self, Address};
use crate::time::{Deadline, now};
use crate::worker::QUEUE_TIMEOUT;

/// How long an address that is in use is tried again at a start, and how often.
const IN_USE_TIMEOUT: Duration = Duration::from_secs(1);

/// The same at a reload: a listener of Atlas's own that the last one has taken away may still empty its queue,
/// and its worker may be busy when that is over.
const STILL_IN_USE_TIMEOUT: Duration = QUEUE_TIMEOUT.saturating_add(Duration::from_secs(5));
const IN_USE_PAUSE: Duration = Duration::from_millis(50);

/// Which addresses are bound. Their sockets belong to the workers.
#[derive(Default)]
pub(super) struct Sockets {
    bound: BTreeMap<Address, Option<File>>,
}

/// The file of a Unix socket: device and inode.
type File = (u64, u64);

/// Sockets for each worker, each with its address.
pub(super) type PerWorker = Vec<Vec<(Address, OwnedFd)>>;

impl Sockets {
    /// Binds what a generation listens on and no earlier one did. Nothing is kept unless all can
    /// be had; [`Self::keep`] says that the generation is in force.
    pub(super) async fn bind_missing(
        &self,
        generation: &Generation,
        workers: usize,
    ) -> Result<PerWorker, String> {
        let mut shares: PerWorker = (0..workers).map(|_| Vec::new()).collect();
        let timeout = match self.bound.is_empty() {
            true => IN_USE_TIMEOUT,
            false => STILL_IN_USE_TIMEOUT,
        };
        for listener in &generation.listeners {
            let address = &listener.settings.address;
            if self.bound.contains_key(address) {
                continue;
            }
            if let Some(own) = self.bound.keys().find(|bound| bound.overlaps(address)) {
                return Err(format!(
                    "cannot listen on {address}: Atlas itself still listens on {own}; a reload cannot \
                     change the one into the other, a restart can"
                ));
            }
            let sockets = bind_within(timeout, address, workers).await;
            let sockets = sockets.map_err(|error| error.to_string())?;
            for (share, socket) in shares.iter_mut().zip(sockets) {
                share.push((address.clone(), socket));
            }
        }
        Ok(shares)
    }

    /// The generation is in force: its addresses are bound, and no others.
    pub(super) fn keep(&mut self, generation: &Generation) {
        let mut before = std::mem::take(&mut self.bound);
        for listener in &generation.listeners {
            let address = &listener.settings.address;
            let file = match before.remove(address) {
                Some(file) => file,
                None => file_of(address),
            };
            self.bound.insert(address.clone(), file);
        }
        before.iter().for_each(remove);
    }
}

/// Binds an address at a start. One that is in use is tried again for a while: the kernel takes a moment to
/// take an io_uring process apart that has just exited, and its sockets go last.
pub(super) async fn bind(address: &Address, workers: usize) -> Result<Vec<OwnedFd>, BindError> {
    bind_within(IN_USE_TIMEOUT, address, workers).await
}

async fn bind_within(
    timeout: Duration,
    address: &Address,
    workers: usize,
) -> Result<Vec<OwnedFd>, BindError> {
    let deadline = Deadline::within(timeout);
    let mut is_told = false;
    loop {
        match listener::bind(address, workers) {
            Err(error) if error.is_in_use() && !deadline.passed(now()) => {
                if !std::mem::replace(&mut is_told, true) {
                    tracing::info!("{address} is in use; waiting {timeout:?} for it to become free");
                }
                runtime::sleep(IN_USE_PAUSE).await;
            }
            result => return result,
        }
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        self.bound.iter().for_each(remove);
    }
}

fn file_of(address: &Address) -> Option<File> {
    match address {
        Address::Unix(path) => file_at(path),
        Address::Tcp(_) => None,
    }
}

fn file_at(path: &Path) -> Option<File> {
    let facts = std::fs::symlink_metadata(path).ok()?;
    Some((facts.dev(), facts.ino()))
}

/// Nobody connects to a Unix socket that nobody accepts on. While this process drained another may have come to
/// listen there: its file stays.
fn remove((address, file): (&Address, &Option<File>)) {
    if let Address::Unix(path) = address
        && file.is_some()
        && file_at(path) == *file
    {
        let _ = std::fs::remove_file(path);
    }
}
