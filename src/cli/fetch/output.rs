//! Where the answer goes: standard output or a file, which is opened before anything is asked.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use super::Trouble;

/// Where the answer goes.
pub(super) struct Output {
    file: File,
    /// Missing for standard output.
    path: Option<PathBuf>,
    /// The file was not there before; nothing shall be there if nothing comes.
    is_new: bool,
    has_begun: bool,
}

impl Output {
    /// Makes sure that it can be written to. What a file held stays until the answer begins.
    pub(super) fn open(path: Option<&Path>) -> Result<Self, Trouble> {
        let of = |file, is_new| Self {
            file,
            path: path.map(Path::to_owned),
            is_new,
            has_begun: false,
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

    /// Writes all of a piece. Whether more is wanted: not when nobody reads it.
    pub(super) fn write(&mut self, piece: &[u8]) -> Result<bool, Trouble> {
        match self.file.write_all(piece) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe && self.path.is_none() => Ok(false),
            Err(error) => Err(self.trouble(&error)),
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
