//! One direction of a relay, by reading and writing.

use std::cell::Cell;
use std::io;

use super::{Watch, end_of};
use crate::buffer::{Buffer, LARGE, SMALL};
use crate::outcome::{End, Side};
use crate::transport::Transport;

/// From one transport to the other.
pub(super) struct Direction<'r> {
    from: &'r Transport,
    to: &'r Transport,
    side: Side,
    watch: &'r Watch,
    /// Bytes wait for the receiver to take them.
    is_writing: Cell<bool>,
}

impl<'r> Direction<'r> {
    /// `side` is who is read from.
    pub(super) fn new(from: &'r Transport, to: &'r Transport, side: Side, watch: &'r Watch) -> Self {
        Self {
            from,
            to,
            side,
            watch,
            is_writing: Cell::new(false),
        }
    }

    /// Whether bytes wait for the receiver to take them.
    pub(super) fn is_writing(&self) -> bool {
        self.is_writing.get()
    }

    /// Moves bytes until the sender closes, and closes towards the receiver then. When the
    /// receiver takes nothing any more, tells its end: what it sent before may still be read.
    ///
    /// # Errors
    ///
    /// The sender's end, when it cannot be read from: then the other direction is over too.
    pub(super) async fn run(&self) -> Result<Option<End>, End> {
        let mut piece_size = SMALL;
        loop {
            let mut buffer = self
                .read(piece_size)
                .await
                .map_err(|error| end_of(self.side, &error))?;
            self.is_writing.set(true);
            let sent = if buffer.is_empty() {
                self.watch.closed(self.side);
                self.finish().await
            } else {
                self.watch.moved();
                piece_size = next_size(&buffer);
                self.send(&mut buffer).await
            };
            self.is_writing.set(false);
            match sent {
                Ok(()) if buffer.capacity() == 0 => return Ok(None),
                Ok(()) => {}
                Err(error) => return Ok(Some(end_of(self.receiver(), &error))),
            }
        }
    }

    /// The next piece; a buffer without memory at the end.
    async fn read(&self, size: usize) -> io::Result<Buffer> {
        loop {
            self.from.socket().turn().await;
            // Always try first: TLS may hold bytes that the socket no longer shows.
            let mut buffer = Buffer::with_size(size);
            match self.from.try_read(buffer.space()) {
                Ok(0) => return Ok(Buffer::none()),
                Ok(count) => {
                    buffer.fill(count);
                    return Ok(buffer);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            drop(buffer); // nothing is held while nothing comes
            self.from.readable().await?;
        }
    }

    async fn send(&self, buffer: &mut Buffer) -> io::Result<()> {
        while !buffer.is_empty() {
            self.to.socket().turn().await;
            match self.to.try_write(buffer.filled()) {
                Ok(count) => {
                    self.watch.moved();
                    buffer.consume(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.to.socket().writable().await?
                }
                Err(error) => return Err(error),
            }
        }
        self.flush().await
    }

    async fn flush(&self) -> io::Result<()> {
        loop {
            match self.to.try_flush() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.to.socket().writable().await?;
                    self.watch.moved();
                }
                result => return result,
            }
        }
    }

    async fn finish(&self) -> io::Result<()> {
        self.flush().await?;
        match self.to.finish(std::time::Duration::MAX).await {
            // Already gone: there is nobody left to be told.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            result => result,
        }
    }

    fn receiver(&self) -> Side {
        match self.side {
            Side::Downstream => Side::Upstream,
            _ => Side::Downstream,
        }
    }
}

/// Large pieces while they come full, small ones for a conversation.
fn next_size(last: &Buffer) -> usize {
    if last.len() == last.capacity() || last.len() > SMALL {
        LARGE
    } else {
        SMALL
    }
}
