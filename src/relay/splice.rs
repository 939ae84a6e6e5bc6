//! One piece of a relay inside the kernel: out of one socket into a pipe, out of it into another.

use std::io;

use crate::pipe::Pipe;
use crate::transport::Transport;

/// Takes what is there into the pipe, without waiting; a pipe that stays empty is the end.
pub(super) fn try_read(from: &Transport, mut pipe: Pipe) -> io::Result<Pipe> {
    pipe.fill(|fd, max| from.try_splice_in(fd, max))?;
    Ok(pipe)
}

/// Lets out what fits.
pub(super) fn try_write(pipe: &mut Pipe, to: &Transport) -> io::Result<()> {
    pipe.empty(|fd, len| to.try_splice_out(fd, len, false))?;
    Ok(())
}
