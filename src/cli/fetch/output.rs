//! Where the answer goes: standard output or a file, which is opened before anything is asked.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::pipe::{SpliceFlags, splice};

use super::Trouble;
use crate::pipe::Pipe;

/// Where the answer goes.
pub(super) struct Output {
    file: File,
    /// Missing for standard output.
    path: Option<PathBuf>,
    /// The file was not there before; nothing shall be there if nothing comes.
    is_new: bool,
    has_begun: bool,
    /// What is in a pipe may be moved there. A terminal does not take it, nor does a file that is
    /// only added to; the first try tells.
    takes_pipes: bool,
}

impl Output {
    /// Makes sure that it can be written to. What a file held stays until the answer begins.
    pub(super) fn open(path: Option<&Path>) -> Result<Self, Trouble> {
        let of = |file, is_new| Self {
            file,
            path: path.map(Path::to_owned),
            is_new,
            has_begun: false,
            takes_pipes: true,
        };
        let Some(path) = path else {
            // Not std's own handle, which looks for the ends of lines in all that it is given.
            let file = io::stdout().as_fd().try_clone_to_owned();
            return file
                .map(|file| of(file.into(), false))
                .map_err(|error| Trouble::wrong(format!("standard output is closed: {error}")));
        };
        let wanted = |is_new| {
            let mut wanted = File::options();
            wanted.write(true).create_new(is_new);
            wanted.open(path)
        };
        match wanted(true) {
            Ok(file) => Ok(of(file, true)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                wanted(false).map(|file| of(file, false))
            }
            Err(error) => Err(error),
        }
        .map_err(|error| Trouble::file("write", path, &error))
    }

    /// Whether a terminal shows what is written.
    pub(super) fn is_terminal(&self) -> bool {
        io::IsTerminal::is_terminal(&self.file)
    }

    /// An answer comes: what a file held before is gone.
    pub(super) fn begin(&mut self) -> Result<(), Trouble> {
        self.has_begun = true;
        let is_file = self.file.metadata().is_ok_and(|facts| facts.is_file());
        if self.path.is_some() && is_file {
            self.file.set_len(0).map_err(|error| self.trouble(&error))?;
        }
        Ok(())
    }

    pub(super) fn takes_pipes(&self) -> bool {
        self.takes_pipes
    }

    /// Writes all that is in a pipe. Whether more is wanted.
    pub(super) fn write_piped(&mut self, mut pipe: Pipe) -> Result<bool, Trouble> {
        while !pipe.is_empty() {
            let moved = pipe.empty(|fd, len| splice(fd, None, &self.file, None, len, SpliceFlags::MOVE));
            match moved {
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.wait_for_space()?,
                Err(Errno::INVAL) if self.takes_pipes => {
                    self.takes_pipes = false;
                    return self.write_read(pipe);
                }
                Err(error) => return self.refused(&error.into()),
            }
        }
        Ok(true)
    }

    /// Writes what is in a pipe by way of memory.
    fn write_read(&mut self, mut pipe: Pipe) -> Result<bool, Trouble> {
        let mut piece = vec![0; pipe.len()];
        while !pipe.is_empty() {
            let count = pipe.empty(|fd, _| rustix::io::read(fd, &mut piece));
            let count = count.map_err(|error| self.trouble(&error.into()))?;
            if !self.write(&piece[..count])? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Writes all of a piece. Whether more is wanted: not when nobody reads it.
    pub(super) fn write(&mut self, mut piece: &[u8]) -> Result<bool, Trouble> {
        while !piece.is_empty() {
            match rustix::io::write(&self.file, piece) {
                Ok(count) => piece = &piece[count..],
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.wait_for_space()?,
                Err(error) => return self.refused(&error.into()),
            }
        }
        Ok(true)
    }

    /// Whoever reads standard output may take his time: the pipe is full, and one that was handed
    /// down may be set not to wait.
    fn wait_for_space(&self) -> Result<(), Trouble> {
        let mut output = [PollFd::new(&self.file, PollFlags::OUT)];
        match poll(&mut output, None) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(self.trouble(&error.into())),
        }
    }

    /// Nobody reads standard output any more, or it is a failure.
    fn refused(&self, error: &io::Error) -> Result<bool, Trouble> {
        match error.kind() {
            io::ErrorKind::BrokenPipe if self.path.is_none() => Ok(false),
            _ => Err(self.trouble(error)),
        }
    }

    fn trouble(&self, error: &io::Error) -> Trouble {
        match &self.path {
            Some(path) => Trouble::failed(format!("cannot write {}: {error}", path.display())),
            None => Trouble::failed(format!("cannot write to standard output: {error}")),
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Some(path) = &self.path
            && self.is_new
            && !self.has_begun
        {
            let _ = std::fs::remove_file(path);
        }
    }
}
