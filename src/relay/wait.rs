//! Waits between nonblocking calls, a turn before each: what both kinds of relay have in common.

use std::io;

use super::Watch;
use crate::transport::Transport;

/// Calls until there is something. Always tries first: TLS may hold bytes that the socket no longer
/// shows. `to`: where a try may have called a reader of this task ([`crate::runtime::Socket::call_reader`]).
pub(super) async fn until_read<T>(
    from: &Transport,
    to: Option<&Transport>,
    mut try_read: impl FnMut() -> io::Result<T>,
) -> io::Result<T> {
    loop {
        from.socket().turn().await;
        match try_read() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return result,
        }
        if let Some(to) = to {
            to.socket().turn().await;
        }
        from.readable().await?; // nothing is held while nothing comes
    }
}

/// Calls until it says that all was written.
pub(super) async fn until_written(
    to: &Transport,
    watch: &Watch,
    mut try_write: impl FnMut() -> io::Result<bool>,
) -> io::Result<()> {
    loop {
        to.socket().turn().await;
        match try_write() {
            Ok(is_all) => {
                watch.moved();
                if is_all {
                    return flush(to, watch).await;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => to.socket().writable().await?,
            Err(error) => return Err(error),
        }
    }
}

async fn flush(to: &Transport, watch: &Watch) -> io::Result<()> {
    loop {
        match to.try_flush() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                to.socket().writable().await?;
                watch.moved();
            }
            result => return result,
        }
    }
}

/// Sends what is left, and that nothing follows.
pub(super) async fn finish(to: &Transport, watch: &Watch) -> io::Result<()> {
    flush(to, watch).await?;
    match to.finish(std::time::Duration::MAX).await {
        // Already gone: there is nobody left to be told.
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
        result => result,
    }
}
