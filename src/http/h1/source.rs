//! One message's body as it comes: content found in the input, piece by piece, or moved in pipes.

use super::super::{BodyLength, Fields};
use super::body::{Decoder, Step};
use super::wire::{BodyFill, Filled};
use crate::buffer::Buffer;
use crate::outcome::{Cause, End};
use crate::pipe::Pipe;
use crate::transport::Transport;

/// A body that is read from a transport. The input is the caller's, who may look at what comes
/// meanwhile.
pub(super) struct Source<'e> {
    decoder: Decoder,
    fill: BodyFill<'e>,
    /// Bytes of the input the last call told of, done with at the next.
    told: usize,
    content: u64,
    content_max: u64,
    failed: Option<End>,
}

impl<'e> Source<'e> {
    /// `content_max`: bytes of content there may be.
    pub(super) fn new(decoder: Decoder, fill: BodyFill<'e>, content_max: u64) -> Self {
        Self {
            decoder,
            fill,
            told: 0,
            content: 0,
            content_max,
            failed: None,
        }
    }

    /// The next piece, which lies at the beginning of the input: how many bytes; 0 at the end. May
    /// be dropped while it waits. It fails by `end` with its cause; the same again if it is called
    /// again.
    pub(super) async fn read(
        &mut self,
        transport: &Transport,
        input: &mut Buffer,
        end: fn(Cause) -> End,
    ) -> Result<usize, End> {
        self.settle(input);
        if let Some(end) = self.failed {
            return Err(end);
        }
        match self.next(transport, input).await {
            Ok(count) => {
                self.told = count;
                Ok(count)
            }
            Err(cause) => Err(*self.failed.insert(end(cause))),
        }
    }

    async fn next(&mut self, transport: &Transport, input: &mut Buffer) -> Result<usize, Cause> {
        loop {
            match self.decoder.next(input).map_err(|_| Cause::Malformed)? {
                Step::Content(count) => return self.count(count as u64).map(|()| count),
                Step::End => return Ok(0),
                Step::More => match self.fill.fill(transport, input).await? {
                    Filled::Some => {}
                    Filled::End => self.stream_ended()?,
                },
            }
        }
    }

    /// As [`Self::read`], in a pipe, where there is something [`Self::ahead`]; an empty one at the
    /// end of the stream. `None`: no pipe can be had now.
    pub(super) async fn read_piped(
        &mut self,
        transport: &Transport,
        input: &mut Buffer,
        end: fn(Cause) -> End,
    ) -> Result<Option<Pipe>, End> {
        let ahead = self.ahead(transport, input);
        input.rest();
        let filled = match self.fill.fill_pipe(transport, ahead).await {
            Ok(Some(pipe)) => self.passed(&pipe).map(|()| Some(pipe)),
            other => other,
        };
        filled.map_err(|cause| *self.failed.insert(end(cause)))
    }

    fn passed(&mut self, pipe: &Pipe) -> Result<(), Cause> {
        if pipe.is_empty() {
            return self.stream_ended();
        }
        self.decoder.passed(pipe.len() as u64);
        self.count(pipe.len() as u64)
    }

    fn stream_ended(&mut self) -> Result<(), Cause> {
        if !self.decoder.ends_with_stream() {
            return Err(Cause::Closed);
        }
        self.decoder.finish();
        Ok(())
    }

    /// So much content has come.
    fn count(&mut self, length: u64) -> Result<(), Cause> {
        self.content += length;
        match self.content > self.content_max {
            true => Err(Cause::LimitReached),
            false => Ok(()),
        }
    }

    /// Content that can be read by [`Self::read_piped`] now: none of it has been read, and no
    /// framing lies in between. `u64::MAX`: all there is until the end of the stream; 0: it is read
    /// by [`Self::read`].
    pub(super) fn ahead(&mut self, transport: &Transport, input: &mut Buffer) -> u64 {
        self.settle(input);
        let is_next = input.is_empty() && self.failed.is_none();
        match is_next && transport.is_kernel_stream() {
            true => self.decoder.ahead(),
            false => 0,
        }
    }

    /// As [`Self::ahead`], whether or not some of it has been read.
    pub(super) fn to_come(&self) -> u64 {
        self.decoder.ahead()
    }

    /// Takes out of the input what the last call told of.
    pub(super) fn settle(&mut self, input: &mut Buffer) {
        input.consume(std::mem::take(&mut self.told));
    }

    /// Whether the end has been seen.
    pub(super) fn is_finished(&self) -> bool {
        self.decoder.is_finished()
    }

    /// Whether any content has come.
    pub(super) fn has_begun(&self) -> bool {
        self.content > 0
    }

    /// The trailers, after the end.
    pub(super) fn trailers(&self) -> Option<&Fields> {
        self.decoder.trailers()
    }

    /// What is left to be found, for whoever reads it over; `None` if it has failed.
    pub(super) fn take_rest(&mut self) -> Option<Decoder> {
        let nothing = Decoder::new(BodyLength::None);
        let rest = std::mem::replace(&mut self.decoder, nothing);
        self.failed.is_none().then_some(rest)
    }
}
