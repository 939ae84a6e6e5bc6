//! One piece of a relay by way of this process's memory.

use std::io;

use crate::buffer::{Buffer, LARGE, SMALL};
use crate::transport::Transport;

/// Reads what is there, at most `size` bytes and without waiting; an empty buffer is the end.
pub(super) fn try_read(from: &Transport, size: usize) -> io::Result<Buffer> {
    let mut buffer = Buffer::with_size(size);
    let count = from.try_read(buffer.space())?;
    buffer.fill(count);
    Ok(buffer)
}

/// Writes what fits.
pub(super) fn try_write(buffer: &mut Buffer, to: &Transport) -> io::Result<()> {
    let count = to.try_write(buffer.filled())?;
    buffer.consume(count);
    Ok(())
}

/// Large pieces while they come full, small ones for a conversation.
pub(super) fn next_size(last: usize, size: usize) -> usize {
    if last == size || last > SMALL {
        LARGE
    } else {
        SMALL
    }
}
