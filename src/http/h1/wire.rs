//! The waits of both sides: fills an input buffer, empties an output buffer, with deadlines.

use std::cell::Cell;
use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use super::super::{Fields, MIN_RATE_GRACE};
use super::encode::{self, Framing};
use crate::buffer::{Buffer, LARGE, SMALL};
use crate::outcome::{Cause, End, Phase, Side};
use crate::pipe::Pipe;
use crate::runtime::before;
use crate::time::{Deadline, now};
use crate::transport::Transport;

/// A piece of a body at least this long goes out without being copied, if nothing waits before it.
const DIRECT_BYTES_MIN: usize = 4 * 1024;

/// The most of a file that goes out in one call: a turn's worth, some 50 µs without TLS.
const FILE_PIECE_MAX: usize = 512 * 1024;

/// How fast a peer is while it is waited for.
///
/// Only time spent waiting for the peer counts, so that nobody is blamed for another's slowness.
#[derive(Default)]
pub(in crate::http) struct Pace {
    waited: Duration,
    bytes: u64,
}

impl Pace {
    /// Counts a wait and what it brought; whether the peer is fast enough.
    pub(in crate::http) fn keeps(&mut self, waited: Duration, min_rate: u64) -> bool {
        self.waited += waited;
        if min_rate == 0 || self.waited <= MIN_RATE_GRACE {
            return true;
        }
        let owed = self.waited.as_millis().saturating_mul(u128::from(min_rate)) / 1000;
        u128::from(self.bytes) >= owed
    }

    pub(in crate::http) fn count(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }
}

/// Lets a transport move into the kernel, if so many bytes are worth it.
pub(super) fn promote(transport: &Transport, bytes: u64) {
    // A connection that is lost by it says so, and why, to whoever uses it next.
    let _ = transport.promote(bytes);
}

/// What came of trying to read.
pub(super) enum Filled {
    /// Bytes are in the buffer.
    Some,
    /// The peer has ended in order.
    End,
}

/// Reads into `input` what is there, without waiting; takes memory for it only if needed.
/// `None`: nothing is there.
pub(super) fn try_fill(
    transport: &Transport,
    input: &mut Buffer,
    bulk: bool,
) -> Option<Result<Filled, Cause>> {
    if bulk && input.is_empty() && input.capacity() < LARGE {
        *input = Buffer::large();
    }
    if input.space().is_empty() {
        input.compact();
    }
    if input.space().is_empty() {
        input.grow(SMALL.max(input.capacity() * 2));
    }
    match transport.try_read(input.space()) {
        Ok(0) => {
            input.rest();
            Some(Ok(Filled::End))
        }
        Ok(count) => {
            input.fill(count);
            Some(Ok(Filled::Some))
        }
        Err(error) => {
            input.rest();
            match error.kind() {
                io::ErrorKind::WouldBlock => None,
                _ => Some(Err(Cause::of(&error))),
            }
        }
    }
}

/// Reads into `input`, waiting until `deadline` if nothing is there.
pub(super) async fn fill(
    transport: &Transport,
    input: &mut Buffer,
    deadline: Deadline,
) -> Result<Filled, Cause> {
    transport.socket().turn().await;
    loop {
        if let Some(result) = try_fill(transport, input, false) {
            return result;
        }
        readable(transport, deadline).await?;
    }
}

async fn readable(transport: &Transport, deadline: Deadline) -> Result<(), Cause> {
    match before(deadline, transport.readable()).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Cause::of(&error)),
        Err(_) => Err(Cause::TimedOut),
    }
}

/// What a peer hears while its own body comes: it may wait for that, and has nothing to say meanwhile.
#[derive(Default)]
pub(in crate::http) struct Answering {
    is_under_way: Cell<bool>,
    ended: Cell<Option<Instant>>,
}

impl Answering {
    pub(in crate::http) fn begin(&self) {
        self.is_under_way.set(true);
    }

    pub(in crate::http) fn end(&self) {
        if self.is_under_way.replace(false) {
            self.ended.set(Some(now()));
        }
    }

    /// How much of a wait for the peer, up to now, was its slowness.
    pub(in crate::http) fn slowness(&self, waited: Duration) -> Duration {
        match (self.is_under_way.get(), self.ended.get()) {
            (true, _) => Duration::ZERO,
            (false, Some(ended)) => waited.min(now() - ended),
            (false, None) => waited,
        }
    }
}

/// Reads a body's bytes into `input`, with a deadline for each piece and a least rate.
pub(super) struct BodyFill<'e> {
    pub(super) timeout: Duration,
    pub(super) min_rate: u64,
    pub(super) pace: Pace,
    /// The last read filled the buffer, or much is known to come: the next gets a large one.
    pub(super) bulk: bool,
    /// The peer waits for somebody's word: what it takes to come is not its slowness.
    pub(super) excused: bool,
    pub(super) answering: Option<&'e Answering>,
}

impl BodyFill<'_> {
    pub(super) fn new(timeout: Duration, min_rate: u64, left: Option<u64>) -> Self {
        Self {
            timeout,
            min_rate,
            pace: Pace::default(),
            bulk: left.is_some_and(|left| left >= LARGE as u64),
            excused: false,
            answering: None,
        }
    }

    /// Reads into `input`, waiting if nothing is there.
    pub(super) async fn fill(&mut self, transport: &Transport, input: &mut Buffer) -> Result<Filled, Cause> {
        transport.socket().turn().await;
        let before = input.len();
        let mut waited = Duration::ZERO;
        loop {
            if let Some(result) = try_fill(transport, input, self.bulk) {
                self.bulk |= input.space().is_empty();
                self.judge(input.len().saturating_sub(before), waited)?;
                return result;
            }
            waited += self.wait(transport).await?;
        }
    }

    /// As [`Self::fill`], but into a pipe, and at most `most` bytes. It stays empty when the peer
    /// has ended; `None`: no pipe can be had.
    pub(super) async fn fill_pipe(
        &mut self,
        transport: &Transport,
        most: u64,
    ) -> Result<Option<Pipe>, Cause> {
        transport.socket().turn().await;
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let mut waited = Duration::ZERO;
        loop {
            let Some(mut pipe) = Pipe::take() else {
                return Ok(None);
            };
            match pipe.fill(|fd, max| transport.try_splice_in(fd, max.min(most))) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => drop(pipe),
                Err(error) => return Err(Cause::of(&error)),
                Ok(count) => return self.judge(count, waited).map(|()| Some(pipe)),
            }
            waited += self.wait(transport).await?;
        }
    }

    /// Waits for the peer; how long that was its slowness.
    async fn wait(&mut self, transport: &Transport) -> Result<Duration, Cause> {
        let began = now();
        readable(transport, Deadline::after(began, self.timeout)).await?;
        let waited = now() - began;
        Ok(match (std::mem::take(&mut self.excused), self.answering) {
            (true, _) => Duration::ZERO,
            (false, Some(answering)) => answering.slowness(waited),
            (false, None) => waited,
        })
    }

    /// Judges a wait with what it has brought: a pause before much is not slowness.
    fn judge(&mut self, count: usize, waited: Duration) -> Result<(), Cause> {
        self.pace.count(count);
        match waited.is_zero() || self.pace.keeps(waited, self.min_rate) {
            true => Ok(()),
            false => Err(Cause::TooSlow),
        }
    }
}

/// Bytes on their way out: joined while they are small, sent as they lie when they are not.
pub(super) struct Output<'c> {
    transport: &'c Transport,
    side: Side,
    pub(super) phase: Phase,
    timeout: Duration,
    min_rate: u64,
    pub(super) buffer: Buffer,
    pace: Pace,
    /// What does not fill a packet waits.
    joins_packets: bool,
}

impl<'c> Output<'c> {
    pub(super) fn new(
        transport: &'c Transport,
        (side, phase): (Side, Phase),
        timeout: Duration,
        min_rate: u64,
    ) -> Self {
        Self {
            transport,
            side,
            phase,
            timeout,
            min_rate,
            buffer: Buffer::none(),
            pace: Pace::default(),
            joins_packets: false,
        }
    }

    /// The buffer, with memory.
    pub(super) fn open(&mut self) -> &mut Buffer {
        if self.buffer.capacity() == 0 {
            self.buffer = Buffer::small();
        }
        &mut self.buffer
    }

    /// As [`promote`], of a connection that must not be lost unnoticed.
    pub(super) fn promote(&self, bytes: u64) -> Result<(), End> {
        let promoted = self.transport.promote(bytes);
        promoted.map_err(|error| self.end(Cause::of(&error)))
    }

    /// Adds bytes; waits only if they are more than the buffer holds.
    pub(super) async fn add(&mut self, mut bytes: &[u8]) -> Result<(), End> {
        while !bytes.is_empty() {
            if self.buffer.is_empty() && bytes.len() >= DIRECT_BYTES_MIN {
                return self.send(bytes).await;
            }
            let taken = self.open().push(bytes);
            bytes = &bytes[taken..];
            if self.buffer.space().is_empty() {
                self.send_buffer().await?;
            }
        }
        Ok(())
    }

    /// Sends everything and gives the memory back.
    pub(super) async fn flush(&mut self) -> Result<(), End> {
        self.transport.socket().turn().await;
        self.send_buffer().await?;
        let flushed = match self.transport.try_flush() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.transport.flush(self.timeout).await
            }
            result => result,
        };
        if std::mem::take(&mut self.joins_packets) {
            self.transport.socket().join_packets(false);
        }
        flushed.map_err(|error| self.end(Cause::of(&error)))
    }

    /// More follows at once, and a flush after it: packets go out full.
    fn join_packets(&mut self) {
        if !std::mem::replace(&mut self.joins_packets, true) {
            self.transport.socket().join_packets(true);
        }
    }

    async fn send_buffer(&mut self) -> Result<(), End> {
        // Bytes are consumed as they go, so that a flush that was dropped can be entered again.
        while !self.buffer.is_empty() {
            match self.transport.try_write(self.buffer.filled()) {
                Ok(count) => {
                    self.pace.count(count);
                    self.buffer.consume(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.space().await?,
                Err(error) => return Err(self.end(Cause::of(&error))),
            }
        }
        self.buffer.rest();
        Ok(())
    }

    async fn send(&mut self, mut bytes: &[u8]) -> Result<(), End> {
        while !bytes.is_empty() {
            self.transport.socket().turn().await;
            match self.transport.try_write(bytes) {
                Ok(count) => {
                    self.pace.count(count);
                    bytes = &bytes[count..];
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.space().await?,
                Err(error) => return Err(self.end(Cause::of(&error))),
            }
        }
        Ok(())
    }

    /// Sends everything, and then what is in the pipe.
    async fn send_pipe(&mut self, mut pipe: Pipe) -> Result<(), End> {
        self.send_buffer().await?;
        while !pipe.is_empty() {
            self.transport.socket().turn().await;
            match pipe.empty(|fd, len| self.transport.try_splice_out(fd, len, false)) {
                Ok(count) => self.pace.count(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.space().await?,
                Err(error) => return Err(self.end(Cause::of(&error))),
            }
        }
        Ok(())
    }

    /// Sends everything, and then some of a file, as far as it reaches, unless it is not `good` any more; how much.
    async fn send_file(
        &mut self,
        file: BorrowedFd<'_>,
        part: Range<u64>,
        good: impl Fn() -> bool,
    ) -> Result<u64, End> {
        self.send_buffer().await?;
        let most = usize::try_from(part.end - part.start).unwrap_or(FILE_PIECE_MAX);
        loop {
            self.transport.socket().turn().await;
            // Looked at behind each wait: what it was before does not tell.
            if !good() {
                return Ok(0);
            }
            match self
                .transport
                .try_sendfile(file, part.start, most.min(FILE_PIECE_MAX))
            {
                Ok(count) => {
                    self.pace.count(count);
                    return Ok(count as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.space().await?,
                Err(error) => return Err(self.end(Cause::of(&error))),
            }
        }
    }

    /// Waits until the peer takes bytes again.
    async fn space(&mut self) -> Result<(), End> {
        let began: Instant = now();
        let deadline = Deadline::after(began, self.timeout);
        match before(deadline, self.transport.socket().writable()).await {
            Ok(Ok(())) if self.pace.keeps(now() - began, self.min_rate) => Ok(()),
            Ok(Ok(())) => Err(self.end(Cause::TooSlow)),
            Ok(Err(error)) => Err(self.end(Cause::of(&error))),
            Err(_) => Err(self.end(Cause::TimedOut)),
        }
    }

    fn end(&self, cause: Cause) -> End {
        End::new(self.side, self.phase, cause)
    }
}

/// Writes one message's body after its head, in its framing.
pub(super) struct Sender<'c> {
    pub(super) output: Output<'c>,
    framing: Framing,
    /// Bytes still owed, if their number was promised.
    left: u64,
    sent: u64,
}

impl<'c> Sender<'c> {
    pub(super) fn new(output: Output<'c>) -> Self {
        Self {
            output,
            framing: Framing::Suppressed,
            left: 0,
            sent: 0,
        }
    }

    /// The head is in the buffer; from here on the body follows.
    pub(super) fn begin(&mut self, framing: Framing) {
        self.framing = framing;
        if let Framing::Exact(length) = framing {
            self.left = length;
        }
    }

    /// Bytes of the body so far, without framing.
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    pub(super) async fn write(&mut self, piece: &[u8]) -> Result<(), End> {
        if piece.is_empty() || self.framing == Framing::Suppressed {
            return Ok(());
        }
        self.count(piece.len() as u64)?;
        if self.framing == Framing::Chunked {
            self.output
                .add(encode::ChunkSize::of(piece.len()).as_bytes())
                .await?;
            self.output.add(piece).await?;
            self.output.add(b"\r\n").await
        } else {
            self.output.add(piece).await
        }
    }

    /// Whether nothing is added to the content.
    fn is_bare(&self) -> bool {
        matches!(self.framing, Framing::Exact(_) | Framing::UntilClose)
    }

    /// Whether there is content to write.
    pub(super) fn has_content(&self) -> bool {
        self.is_bare() || self.framing == Framing::Chunked
    }

    /// Whether what is in a pipe may be written: nothing is added to the content, and the kernel
    /// takes it on.
    pub(super) fn takes_pipes(&self) -> bool {
        self.is_bare() && self.output.transport.is_kernel_stream()
    }

    /// As [`Self::write`]. To be called only if it [`Self::takes_pipes`].
    pub(super) async fn write_piped(&mut self, pipe: Pipe) -> Result<(), End> {
        self.count(pipe.len() as u64)?;
        self.output.send_pipe(pipe).await
    }

    /// Writes some of a part of a file, at least a byte unless the file ends there or is not `good` any more when there
    /// is space for it; how much. To be called only if it [`Self::takes_pipes`].
    pub(super) async fn write_file(
        &mut self,
        file: BorrowedFd<'_>,
        part: Range<u64>,
        good: impl Fn() -> bool,
    ) -> Result<u64, End> {
        if self.has_length() && part.end - part.start > self.left {
            return Err(self.promise_broken());
        }
        if self.left > FILE_PIECE_MAX as u64 {
            self.output.join_packets(); // else each piece would end in the middle of one
        }
        let count = self.output.send_file(file, part, good).await?;
        self.count(count).map(|()| count)
    }

    /// So much content is being written.
    fn count(&mut self, length: u64) -> Result<(), End> {
        if self.has_length() && length > self.left {
            return Err(self.promise_broken());
        }
        self.left = self.left.saturating_sub(length);
        self.sent += length;
        Ok(())
    }

    pub(super) async fn finish(&mut self, trailers: Option<&Fields>) -> Result<(), End> {
        if self.has_length() && self.left > 0 {
            return Err(self.promise_broken());
        }
        if self.framing == Framing::Chunked {
            encode::chunks_end(self.output.open(), trailers);
        }
        self.framing = Framing::Suppressed;
        self.output.flush().await
    }

    fn has_length(&self) -> bool {
        matches!(self.framing, Framing::Exact(_))
    }

    /// Whoever writes bodies has counted wrongly; what went out so far cannot be mended.
    fn promise_broken(&self) -> End {
        End::new(Side::Atlas, self.output.phase, Cause::System)
    }
}
