//! What is sent: a text, a file or standard input, piece by piece.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Trouble;
use crate::http::BodyLength;
use crate::runtime::blocking;

/// Bytes that are read at once.
const PIECE: usize = 256 * 1024;

/// Less of a file than this goes with the head, copied.
const UNCOPIED_MIN: u64 = 64 * 1024;

/// What is sent.
pub(super) enum Source {
    /// Nothing.
    None,
    /// A text of the command line; how much of it was taken.
    Text(Arc<[u8]>, usize),
    /// A file whose size is known: from where, to where, and how far it was taken.
    File {
        file: Arc<File>,
        path: PathBuf,
        from: u64,
        to: u64,
        at: u64,
    },
    /// Whatever comes.
    Stream {
        file: Arc<File>,
        path: PathBuf,
        has_begun: bool,
    },
}

impl Source {
    /// Opens what stands behind `-d`.
    pub(super) fn open(data: Option<&str>) -> Result<Self, Trouble> {
        let Some(data) = data else {
            return Ok(Self::None);
        };
        match data.strip_prefix('@') {
            None => Ok(Self::Text(data.as_bytes().into(), 0)),
            Some("-") => {
                let file = io::stdin().as_fd().try_clone_to_owned();
                Self::of_file(file.map(File::from), "standard input".into())
            }
            Some(path) => Self::of_file(File::options().read(true).open(path), path.into()),
        }
    }

    fn of_file(opened: io::Result<File>, path: PathBuf) -> Result<Self, Trouble> {
        let fault = |error| Trouble::file("read", &path, &error);
        let mut file = opened.map_err(fault)?;
        let facts = file.metadata().map_err(fault)?;
        if facts.is_dir() {
            let what = format!("cannot send {}: it is a folder", path.display());
            return Err(Trouble::wrong(what));
        }
        // Standard input may have been read from by others before.
        let from = match facts.is_file() {
            true => file.stream_position().map_err(fault)?,
            false => 0,
        };
        let to = facts.len().max(from);
        let file = Arc::new(file);
        Ok(match facts.is_file() {
            true => Self::File {
                file,
                path,
                from,
                to,
                at: from,
            },
            false => Self::Stream {
                file,
                path,
                has_begun: false,
            },
        })
    }

    pub(super) fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }

    /// How the request's head tells of it.
    pub(super) fn length(&self) -> BodyLength {
        match self {
            Self::None => BodyLength::None,
            Self::Text(text, _) => BodyLength::Exact(text.len() as u64),
            Self::File { from, to, .. } => BodyLength::Exact(to - from),
            Self::Stream { .. } => BodyLength::Chunked,
        }
    }

    /// Begins again, for another server.
    pub(super) fn rewind(&mut self) -> Result<(), Trouble> {
        match self {
            Self::None => {}
            Self::Text(_, at) => *at = 0,
            Self::File { from, at, .. } => *at = *from,
            Self::Stream { has_begun, path, .. } if *has_begun => {
                return Err(Trouble::failed(format!(
                    "the redirect wants {} again, which can be read once only",
                    path.display()
                )));
            }
            Self::Stream { .. } => {}
        }
        Ok(())
    }

    /// What is left of a file, where it is worth sending without reading it.
    pub(super) fn uncopied(&self) -> Option<(Arc<File>, Range<u64>)> {
        match self {
            Self::File {
                file, from, at, to, ..
            } if to - from >= UNCOPIED_MIN && at < to => Some((file.clone(), *at..*to)),
            _ => None,
        }
    }

    /// So much of it was sent.
    pub(super) fn sent(&mut self, count: u64) -> Result<(), Trouble> {
        match self {
            Self::File { path, .. } if count == 0 => Err(shorter(path)),
            Self::File { at, .. } => {
                *at += count;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The next piece; an empty one at the end. Reads beside this thread, so that an answer which
    /// comes meanwhile is seen.
    pub(super) async fn read(&mut self) -> Result<Vec<u8>, Trouble> {
        match self {
            Self::None => Ok(Vec::new()),
            Self::Text(text, at) => {
                let piece = &text[*at..];
                *at = text.len();
                Ok(piece.to_vec())
            }
            Self::File {
                file, path, to, at, ..
            } => {
                let wanted = usize::try_from(*to - *at).unwrap_or(usize::MAX).min(PIECE);
                let (file, offset) = (file.clone(), *at);
                let piece = piece(path, wanted, move |into| file.read_at(into, offset)).await?;
                if piece.is_empty() && wanted > 0 {
                    return Err(shorter(path));
                }
                *at += piece.len() as u64;
                Ok(piece)
            }
            Self::Stream {
                file,
                path,
                has_begun,
            } => {
                *has_begun = true;
                let file = file.clone();
                piece(path, PIECE, move |into| (&*file).read(into)).await
            }
        }
    }
}

fn shorter(path: &Path) -> Trouble {
    Trouble::failed(format!("{} has become shorter while it was sent", path.display()))
}

async fn piece(
    path: &Path,
    wanted: usize,
    read: impl Fn(&mut [u8]) -> io::Result<usize> + Send + 'static,
) -> Result<Vec<u8>, Trouble> {
    let call = move || {
        let mut piece = vec![0; wanted];
        loop {
            match read(&mut piece) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(count) => {
                    piece.truncate(count);
                    return Ok(piece);
                }
                Err(error) => return Err(error),
            }
        }
    };
    let failed = |why: String| Trouble::failed(format!("cannot read {}: {why}", path.display()));
    blocking(call)
        .await
        .map_err(failed)?
        .map_err(|error| failed(error.to_string()))
}
