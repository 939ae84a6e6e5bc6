//! The bytes of an answer, read piece by piece while they are sent.

use std::io::IoSliceMut;
use std::ops::Range;
use std::rc::Rc;

use rustix::io::{Errno, ReadWriteFlags, pread, preadv2};

use super::open::{Shared, on_disk};
use crate::buffer::{Buffer, SMALL};

/// A body: texts and parts of one file.
#[derive(Default)]
pub(super) struct Body {
    file: Option<Shared>,
    /// What comes after the text and the part at hand.
    pieces: std::vec::IntoIter<Piece>,
    text: Vec<u8>,
    /// What is left of the part at hand.
    part: Range<u64>,
    buffer: Buffer,
    /// The bytes at hand are the file's kept content.
    is_kept: bool,
    /// Long parts need not come through here.
    may_go_straight: bool,
    /// The part at hand does not, but for its first bytes.
    goes_straight: bool,
}

/// A part of a file that is worth sendfile. Against copies, over loopback and without TLS: half of
/// their CPU at 10 MiB and 0.6 at 1 MiB, where the bytes are known to be in memory; 0.6 to 1.0 at 10
/// MiB and as much as them at 1 MiB, where a thread has to bring them in first.
const STRAIGHT_MIN: u64 = 1024 * 1024;

/// What is read of such a part all the same: its head goes out together with it, in one segment or
/// one record.
const FIRST: u64 = 8 * 1024;

/// A piece of a body.
pub(super) enum Piece {
    /// These bytes.
    Text(Vec<u8>),
    /// These bytes of the file.
    Part(Range<u64>),
}

/// Why a body does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// The file is not what it was when the head was made.
    Changed,
    /// It cannot be read.
    Unreadable(Errno),
}

impl Body {
    /// No file, only these bytes.
    pub(super) fn text(text: Vec<u8>) -> Self {
        Self {
            pieces: vec![Piece::Text(text)].into_iter(),
            ..Self::default()
        }
    }

    /// One part of a file.
    pub(super) fn part(file: Shared, part: Range<u64>) -> Self {
        Self {
            file: Some(file),
            part,
            ..Self::default()
        }
    }

    /// Several pieces, in order.
    pub(super) fn pieces(file: Shared, pieces: Vec<Piece>) -> Self {
        Self {
            file: Some(file),
            pieces: pieces.into_iter(),
            ..Self::default()
        }
    }

    /// Reads the next bytes, for [`Self::piece`]; whether there were any.
    ///
    /// The last bytes of a part come only when the file is still what it was: a body that goes on
    /// to its end tells the truth.
    pub(super) async fn advance(&mut self) -> Result<bool, Broken> {
        self.text.clear();
        self.is_kept = false;
        if self.part.is_empty() {
            self.buffer = Buffer::none();
            self.goes_straight = false;
            match self.pieces.next() {
                None => return Ok(false),
                Some(Piece::Part(part)) => self.part = part,
                Some(Piece::Text(text)) => {
                    self.text = text;
                    return Ok(true);
                }
            }
        }
        let Some(file) = &self.file else {
            return Ok(false);
        };
        let is_whole = self.part == (0..file.facts.size);
        if is_whole && file.content.get().is_some() {
            self.part = 0..0;
            self.is_kept = true;
            return unchanged(file).map(|()| true);
        }
        let mut left = self.part.end - self.part.start;
        if self.may_go_straight && !self.goes_straight && left >= STRAIGHT_MIN {
            self.goes_straight = true;
            left = FIRST;
        }
        let buffer = reuse(std::mem::take(&mut self.buffer), left);
        let buffer = read(file, self.part.start, left, buffer).await?;
        self.part.start += buffer.len() as u64;
        self.buffer = buffer;
        if self.part.is_empty() {
            unchanged(file)?;
            // Held by more than this body: it is kept open, and asked for again.
            if is_whole && self.buffer.len() <= SMALL && Rc::strong_count(file) > 1 {
                let _ = file.content.set(self.buffer.filled().into());
            }
        }
        Ok(true)
    }

    /// The bytes at hand.
    pub(super) fn piece(&self) -> &[u8] {
        match &self.file {
            Some(file) if self.is_kept => file.content.get().map_or(&[], |content| content),
            _ if self.text.is_empty() => self.buffer.filled(),
            _ => &self.text,
        }
    }
}

impl Body {
    /// Whether nothing is sent: the answer to HEAD, whatever its length, or no bytes.
    pub(super) fn is_empty(&self) -> bool {
        self.part.is_empty() && self.pieces.as_slice().is_empty()
    }

    /// Whether there is a part so long that it may go straight from its file to the client.
    pub(super) fn is_long(&self) -> bool {
        let is_long = |part: &Range<u64>| part.end - part.start >= STRAIGHT_MIN;
        let mut later = self.pieces.as_slice().iter();
        is_long(&self.part) || later.any(|piece| matches!(piece, Piece::Part(part) if is_long(part)))
    }

    /// Long parts go straight: [`Self::stretch`] says what of them comes next.
    pub(super) fn go_straight(&mut self) {
        self.may_go_straight = true;
    }

    /// What comes next without being read: the rest of a part. Behind the bytes at hand.
    pub(super) fn stretch(&self) -> Option<(&Shared, Range<u64>)> {
        let file = self.file.as_ref().filter(|_| self.goes_straight)?;
        (!self.part.is_empty()).then(|| (file, self.part.clone()))
    }

    /// So many bytes of that have gone out.
    pub(super) fn passed(&mut self, count: u64) {
        self.part.start = self.part.end.min(self.part.start + count);
    }
}

/// Whether the file still is what it was.
pub(super) fn unchanged(file: &Shared) -> Result<(), Broken> {
    match file.is_unchanged() {
        Ok(true) => Ok(()),
        Ok(false) => Err(Broken::Changed),
        Err(error) => Err(Broken::Unreadable(error)),
    }
}

/// An empty buffer, large where there is much to read.
fn reuse(mut buffer: Buffer, left: u64) -> Buffer {
    buffer.clear();
    if buffer.capacity() > 0 {
        buffer
    } else if left <= SMALL as u64 {
        Buffer::small()
    } else {
        Buffer::large()
    }
}

/// Fills the buffer from the file, but for no more than `left` bytes.
async fn read(file: &Shared, from: u64, left: u64, mut buffer: Buffer) -> Result<Buffer, Broken> {
    let wanted = buffer.capacity().min(usize::try_from(left).unwrap_or(usize::MAX));
    while buffer.len() < wanted {
        let at = from + buffer.len() as u64;
        let missing = wanted - buffer.len();
        let space = &mut buffer.space()[..missing];
        // What is in the page cache comes at once; the kernel says so when it would have to wait
        // (EAGAIN), or when the file system cannot tell (EOPNOTSUPP: overlayfs and tmpfs, still
        // on Linux 6.18).
        let count = match preadv2(
            &file.fd,
            &mut [IoSliceMut::new(space)],
            at,
            ReadWriteFlags::NOWAIT,
        ) {
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                let (count, back) = read_cold(file, at, missing, buffer).await?;
                buffer = back;
                count
            }
            result => result.map_err(Broken::Unreadable)?,
        };
        if count == 0 {
            return Err(Broken::Changed); // it ends before the end it had
        }
        buffer.fill(count);
    }
    Ok(buffer)
}

/// Reads what is not in memory, beside the worker.
async fn read_cold(
    file: &Shared,
    at: u64,
    missing: usize,
    mut buffer: Buffer,
) -> Result<(usize, Buffer), Broken> {
    let fd = file
        .fd
        .try_clone()
        .map_err(|error| Broken::Unreadable(Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
    on_disk(move || {
        loop {
            match pread(&fd, &mut buffer.space()[..missing], at) {
                Err(Errno::INTR) => {}
                result => return result.map(|count| (count, buffer)),
            }
        }
    })
    .await
    .map_err(Broken::Unreadable)
}
