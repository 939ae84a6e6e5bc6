//! One end of a run: does what its plan says, and notes what came.

use std::cell::Cell;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::pin::pin;
use std::time::Duration;

use atlas::pipe::Pipe;
use atlas::runtime;
use atlas::time::Deadline;
use atlas::transport::Transport;
use futures_util::future::{join, select};

use super::LONG;
use super::plan::{Act, Goodbye, Half, fill};

/// The most a pipe of a test is filled with: what any pipe holds.
const PIPE_BYTES_MAX: usize = 32 * 1024;

/// Reads that are as small and as slow as the plan wants them.
const PATIENT_STEPS: usize = 100;

/// How an end fared.
pub(crate) struct Fared {
    written: io::Result<()>,
    /// Bytes that came, all of them right.
    received: u64,
    /// How the other's bytes ended.
    ended: io::Result<()>,
}

impl Fared {
    /// Compares with what had to come of both plans.
    pub(crate) fn check(&self, own: &Half, other: &Half) {
        if [own, other].iter().all(|half| half.goodbye == Goodbye::Finish) {
            self.written.as_ref().expect("everything is written");
            self.ended.as_ref().expect("an end in order");
            assert_eq!(self.received, other.total(), "all bytes come");
        }
        assert!(
            self.received <= other.total(),
            "nothing comes that was not written"
        );
        if other.goodbye == Goodbye::Abort {
            assert!(self.ended.is_err(), "a reset is no end in order");
        }
    }
}

/// Does all that `own` says, while what comes must be what `other` writes. `may_renew`: no kernel
/// is on the way that cannot follow a key update.
pub(crate) async fn run(transport: Transport, own: &Half, other: &Half, may_renew: bool) -> Fared {
    let received = Cell::new(0);
    let reading = read(&transport, own, other.seed, &received);
    let writing = write(&transport, own, may_renew);
    match own.goodbye {
        Goodbye::Finish => {
            let finishing = async {
                writing.await?;
                transport.finish(LONG).await
            };
            let (written, ended) = join(finishing, reading).await;
            if written.is_ok() && ended.is_ok() {
                transport.close(Deadline::within(LONG)).await;
            }
            Fared {
                written,
                received: received.get(),
                ended,
            }
        }
        Goodbye::Abort => {
            // It stops in the middle of whatever it reads.
            let done = async {
                let _ = writing.await;
            };
            select(pin!(done), pin!(async { drop(reading.await) })).await;
            transport.abort();
            Fared {
                written: Ok(()),
                received: received.get(),
                ended: Err(io::ErrorKind::ConnectionAborted.into()),
            }
        }
    }
}

async fn write(transport: &Transport, plan: &Half, may_renew: bool) -> io::Result<()> {
    let mut offset = 0;
    for act in &plan.writes {
        transport.promote(offset)?;
        match *act {
            Act::Copy(count) => copy_out(transport, plan.seed, offset, count).await?,
            Act::Splice(count) => splice_out(transport, plan.seed, offset, count).await?,
            Act::File(count) => send_file(transport, plan.seed, offset, count).await?,
            Act::Flush => transport.flush(LONG).await?,
            Act::Renew if may_renew => _ = transport.renew_keys()?,
            Act::Renew => {}
            Act::Turn => runtime::turn().await,
            Act::Stall(millis) => runtime::sleep(Duration::from_millis(millis)).await,
        }
        offset += act.bytes() as u64;
    }
    transport.flush(LONG).await
}

async fn copy_out(transport: &Transport, seed: u64, offset: u64, count: usize) -> io::Result<()> {
    let mut bytes = vec![0; count];
    fill(seed, offset, &mut bytes);
    transport.write_all(&bytes, LONG).await
}

async fn splice_out(transport: &Transport, seed: u64, mut offset: u64, mut count: usize) -> io::Result<()> {
    while count > 0 {
        let part = count.min(PIPE_BYTES_MAX);
        let pipe = transport.is_kernel_stream().then(Pipe::take).flatten();
        match pipe {
            None => copy_out(transport, seed, offset, part).await?,
            Some(mut pipe) => {
                let mut bytes = vec![0; part];
                fill(seed, offset, &mut bytes);
                let written = pipe.fill(|end, _| rustix::io::write(end, &bytes))?;
                assert_eq!(written, part, "a pipe holds that much");
                while !pipe.is_empty() {
                    let moved = pipe.empty(|end, count| transport.try_splice_out(end, count, false));
                    waited(moved, transport.socket().writable()).await?;
                }
            }
        }
        offset += part as u64;
        count -= part;
    }
    Ok(())
}

async fn send_file(transport: &Transport, seed: u64, offset: u64, count: usize) -> io::Result<()> {
    if !transport.is_kernel_stream() {
        return copy_out(transport, seed, offset, count).await;
    }
    let mut bytes = vec![0; count];
    fill(seed, offset, &mut bytes);
    let mut file = tempfile::tempfile()?;
    file.write_all(&bytes)?;
    let mut sent = 0;
    while sent < count {
        let moved = transport.try_sendfile(file.as_fd(), sent as u64, count - sent);
        sent += waited(moved, transport.socket().writable()).await?;
    }
    Ok(())
}

/// What was moved; nothing, after a wait, if there was no space.
async fn waited(moved: io::Result<usize>, wait: impl Future<Output = io::Result<()>>) -> io::Result<usize> {
    match moved {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait.await.map(|()| 0),
        result => result,
    }
}

/// Reads to the end, comparing.
async fn read(transport: &Transport, plan: &Half, seed: u64, received: &Cell<u64>) -> io::Result<()> {
    let mut bytes = Vec::new();
    for (step, act) in plan.reads.iter().cycle().enumerate() {
        // Small pieces and pauses for a while; then it has to come to an end.
        let is_patient = step < PATIENT_STEPS;
        let count = match *act {
            Act::Copy(count) | Act::Splice(count) if !is_patient => {
                bytes.resize(count.max(PIPE_BYTES_MAX), 0);
                transport.read(&mut bytes).await?
            }
            _ if !is_patient => continue,
            Act::Copy(count) => {
                bytes.resize(count, 0);
                transport.read(&mut bytes).await?
            }
            Act::Splice(count) => splice_in(transport, count, &mut bytes).await?,
            Act::Stall(millis) => {
                runtime::sleep(Duration::from_millis(millis)).await;
                continue;
            }
            _ => {
                runtime::turn().await;
                continue;
            }
        };
        if count == 0 {
            return Ok(());
        }
        transport.promote(received.get())?;
        let mut expected = vec![0; count];
        fill(seed, received.get(), &mut expected);
        assert!(bytes[..count] == expected, "wrong bytes after {}", received.get());
        received.set(received.get() + count as u64);
    }
    Ok(())
}

/// Reads through a pipe where the carrier allows it.
async fn splice_in(transport: &Transport, count: usize, into: &mut Vec<u8>) -> io::Result<usize> {
    let count = count.min(PIPE_BYTES_MAX);
    into.resize(count, 0);
    loop {
        let pipe = transport.is_kernel_stream().then(Pipe::take).flatten();
        let Some(mut pipe) = pipe else {
            return transport.read(into).await;
        };
        match pipe.fill(|end, _| transport.try_splice_in(end, count)) {
            Ok(0) => return Ok(0),
            Ok(moved) => {
                let mut read = 0;
                while !pipe.is_empty() {
                    read += pipe.empty(|end, _| rustix::io::read(end, &mut into[read..]))?;
                }
                assert_eq!(read, moved);
                return Ok(moved);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => transport.readable().await?,
            Err(error) => return Err(error),
        }
    }
}
