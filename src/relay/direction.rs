//! One direction of a relay: piece after piece, each on the way that costs least.

use std::cell::Cell;
use std::io;

use super::{Watch, copy, end_of, splice, wait};
use crate::buffer::{Buffer, SMALL};
use crate::outcome::{End, Side};
use crate::pipe::Pipe;
use crate::transport::Transport;

/// A piece this long is one of a bulk flow: splicing one costs as much as copying it.
const BULK_MIN: usize = SMALL / 2;

/// A spliced piece shorter than this is one of a conversation again.
const TALK_MAX: usize = 4 * 1024;

/// From one transport to the other.
pub(super) struct Direction<'r> {
    from: &'r Transport,
    to: &'r Transport,
    side: Side,
    watch: &'r Watch,
    flow: Flow,
    /// Bytes wait for the receiver to take them.
    is_writing: Cell<bool>,
}

/// What the last pieces were like.
struct Flow {
    /// How many pieces of a bulk flow there have to be in a row before it is spliced.
    bulk_after: u32,
    bulk: Cell<u32>,
    /// How much is read next, where it is copied.
    size: Cell<usize>,
}

enum Piece {
    Copied(Buffer),
    Spliced(Pipe),
}

impl<'r> Direction<'r> {
    /// `side` is who is read from; `bulk_after` how many long pieces there have to be in a row
    /// before they are spliced.
    pub(super) fn new(
        (from, to): (&'r Transport, &'r Transport),
        side: Side,
        watch: &'r Watch,
        bulk_after: u32,
    ) -> Self {
        Self {
            from,
            to,
            side,
            watch,
            flow: Flow {
                bulk_after,
                bulk: Cell::new(0),
                size: Cell::new(SMALL),
            },
            is_writing: Cell::new(false),
        }
    }

    /// Whether bytes wait for the receiver to take them.
    pub(super) fn is_writing(&self) -> bool {
        self.is_writing.get()
    }

    /// Moves `ahead`, and then bytes until the sender closes, and closes towards the receiver then. When the
    /// receiver takes nothing any more, tells its end: what it sent before may still be read.
    ///
    /// # Errors
    ///
    /// The sender's end, when it cannot be read from: then the other direction is over too.
    pub(super) async fn run(&self, ahead: Buffer) -> Result<Option<End>, End> {
        let mut ahead = Some(ahead).filter(|ahead| !ahead.is_empty());
        loop {
            let piece = match ahead.take() {
                Some(ahead) => Piece::Copied(ahead),
                None => self.read().await.map_err(|error| end_of(self.side, &error))?,
            };
            let is_end = piece.len() == 0;
            self.is_writing.set(true);
            let sent = if is_end {
                self.watch.closed(self.side);
                let finished = wait::finish(self.to, self.watch).await;
                self.to.socket().turn().await; // a reader may have been called, and this is the last look
                finished
            } else {
                self.watch.moved();
                self.flow.note(&piece);
                self.send(piece).await
            };
            self.is_writing.set(false);
            match sent {
                Ok(()) if is_end => return Ok(None),
                Ok(()) => {}
                Err(error) => return Ok(Some(end_of(self.receiver(), &error))),
            }
        }
    }

    /// The next piece; an empty one at the end.
    async fn read(&self) -> io::Result<Piece> {
        wait::until_read(self.from, Some(self.to), || self.try_read()).await
    }

    fn try_read(&self) -> io::Result<Piece> {
        match self.pipe()? {
            Some(pipe) => splice::try_read(self.from, pipe).map(Piece::Spliced),
            None => copy::try_read(self.from, self.flow.size.get()).map(Piece::Copied),
        }
    }

    /// A pipe, if the next piece is to be spliced and can be.
    fn pipe(&self) -> io::Result<Option<Pipe>> {
        if !self.flow.is_bulk() {
            return Ok(None);
        }
        let moved = self.from.bytes_in() + self.to.bytes_in();
        self.from.promote(moved)?;
        // Where that loses the receiver, it says so when it is written to.
        let _ = self.to.promote(moved);
        let can_be = self.from.is_kernel_stream() && self.to.is_kernel_stream();
        Ok(can_be.then(Pipe::take).flatten())
    }

    async fn send(&self, mut piece: Piece) -> io::Result<()> {
        wait::until_written(self.to, self.watch, || {
            piece.try_write(self.to)?;
            Ok(piece.len() == 0)
        })
        .await
    }

    fn receiver(&self) -> Side {
        match self.side {
            Side::Downstream => Side::Upstream,
            _ => Side::Downstream,
        }
    }
}

impl Piece {
    fn len(&self) -> usize {
        match self {
            Self::Copied(buffer) => buffer.len(),
            Self::Spliced(pipe) => pipe.len(),
        }
    }

    fn try_write(&mut self, to: &Transport) -> io::Result<()> {
        match self {
            Self::Copied(buffer) => copy::try_write(buffer, to),
            Self::Spliced(pipe) => splice::try_write(pipe, to),
        }
    }
}

impl Flow {
    fn is_bulk(&self) -> bool {
        self.bulk.get() >= self.bulk_after
    }

    fn note(&self, piece: &Piece) {
        let len = piece.len();
        match piece {
            Piece::Copied(_) => {
                let is_long = len >= BULK_MIN;
                self.bulk.set(if is_long {
                    self.bulk.get().saturating_add(1)
                } else {
                    0
                });
                self.size.set(copy::next_size(len, self.size.get()));
            }
            Piece::Spliced(_) if len < TALK_MAX => self.bulk.set(0),
            Piece::Spliced(_) => {}
        }
    }
}
