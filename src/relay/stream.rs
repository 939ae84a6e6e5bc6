//! A relay whose client has no connection of its own: one stream beside others on it.

use std::cell::Cell;
use std::io;
use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, select, try_join};

use super::{Watch, copy, end_of, idle_end, wait};
use crate::buffer::{Buffer, SMALL};
use crate::outcome::{End, Side};
use crate::transport::Transport;

/// What a client says on a stream.
pub trait StreamReader {
    /// The next piece; `None` at the end.
    fn read(&mut self) -> impl Future<Output = Result<Option<&[u8]>, End>>;
}

/// What a client is told on a stream.
pub trait StreamWriter {
    /// Says all of it, as fast as the client takes it.
    fn write(&mut self, piece: &[u8]) -> impl Future<Output = Result<(), End>>;

    /// Nothing follows.
    fn finish(&mut self) -> impl Future<Output = Result<(), End>>;
}

/// As [`super::both_ways`], between a stream and an endpoint that has said what is `ahead` already.
/// Where the endpoint fails, the stream is left unfinished.
pub async fn with_stream(
    reader: &mut impl StreamReader,
    writer: &mut impl StreamWriter,
    ahead: Buffer,
    upstream: &Transport,
    idle_timeout: Duration,
) -> End {
    let relay = Relay {
        upstream,
        watch: Watch::new(),
        up_is_writing: Cell::new(false),
        down_is_writing: Cell::new(false),
    };
    let work = pin!(try_join(relay.up(reader), relay.down(ahead, writer)));
    let end = match select(work, pin!(relay.watch.passed(idle_timeout))).await {
        Either::Left((Ok((up, down)), _)) => up
            .or(down)
            .unwrap_or_else(|| End::finished(relay.watch.first_closed())),
        Either::Left((Err(end), _)) => end,
        Either::Right(((), _)) => idle_end(relay.up_is_writing.get(), relay.down_is_writing.get()),
    };
    if end.side == Side::Downstream && !end.is_good() {
        upstream.abort();
    }
    end
}

struct Relay<'r> {
    upstream: &'r Transport,
    watch: Watch,
    /// Bytes wait for the endpoint to take them.
    up_is_writing: Cell<bool>,
    /// Bytes wait for the client to take them.
    down_is_writing: Cell<bool>,
}

impl Relay<'_> {
    /// To the endpoint, until the client has said all. An endpoint that takes no more may still have
    /// something to say: how it failed is told at the end.
    async fn up(&self, reader: &mut impl StreamReader) -> Result<Option<End>, End> {
        loop {
            let piece = reader.read().await?;
            self.up_is_writing.set(true);
            let sent = match piece {
                Some(piece) => {
                    self.watch.moved();
                    self.send(piece).await
                }
                None => {
                    self.watch.closed(Side::Downstream);
                    wait::finish(self.upstream, &self.watch).await
                }
            };
            self.up_is_writing.set(false);
            match sent {
                Ok(()) if piece.is_none() => return Ok(None),
                Ok(()) => {}
                Err(error) => return Ok(Some(end_of(Side::Upstream, &error))),
            }
        }
    }

    async fn send(&self, mut piece: &[u8]) -> io::Result<()> {
        wait::until_written(self.upstream, &self.watch, || {
            let count = self.upstream.try_write(piece)?;
            piece = &piece[count..];
            Ok(piece.is_empty())
        })
        .await
    }

    /// To the client, until the endpoint has said all.
    async fn down(&self, ahead: Buffer, writer: &mut impl StreamWriter) -> Result<Option<End>, End> {
        let mut size = SMALL;
        let mut piece = ahead;
        loop {
            if piece.is_empty() {
                piece = wait::until_read(self.upstream, None, || copy::try_read(self.upstream, size))
                    .await
                    .map_err(|error| end_of(Side::Upstream, &error))?;
                size = copy::next_size(piece.len(), size);
            }
            self.down_is_writing.set(true);
            if piece.is_empty() {
                self.watch.closed(Side::Upstream);
                writer.finish().await?;
                self.down_is_writing.set(false);
                return Ok(None);
            }
            writer.write(piece.filled()).await?;
            self.watch.moved();
            self.down_is_writing.set(false);
            piece = Buffer::none();
        }
    }
}
