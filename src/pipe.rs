//! Bytes on their way inside the kernel: pipes from a pool each worker has for itself.
//!
//! What a [`Buffer`](crate::buffer::Buffer) is to bytes that are copied, a pipe is to bytes that
//! are not. It is taken when there is something to move and dropped when it is empty, so that an
//! idle connection holds none.

use std::cell::RefCell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::pipe::{PipeFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with};

/// What a pipe is asked to hold.
const SIZE: usize = 512 * 1024;

/// The least that is worth having: eight of the kernel's slots, of a page each. A pipe with fewer
/// can lose the rest of a TLS record on some kernels; a user who has opened too many is given two.
const SIZE_MIN: usize = 8 * 4096;

/// Pipes a worker keeps for the next user; more are closed. Users other than root may have 64 MiB
/// of pipes in all (`fs.pipe-user-pages-soft`).
const KEPT: usize = 16;

/// Pipes of one worker that may hold bytes at once, for receivers that are slow; whoever comes
/// then copies.
const HELD_MAX: usize = 512;

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool { kept: Vec::new(), out: 0 }) };
}

struct Pool {
    kept: Vec<Ends>,
    /// How many are in use.
    out: usize,
}

struct Ends {
    read: OwnedFd,
    write: OwnedFd,
    size: usize,
}

impl Ends {
    /// `None` where the system gives no more pipes, or only such as are of no use.
    fn open() -> Option<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        // Past the user's limit the pipe stays as small as it is.
        let _ = fcntl_setpipe_size(&write, SIZE);
        let size = fcntl_getpipe_size(&write).ok()?;
        (size >= SIZE_MIN).then_some(Self { read, write, size })
    }
}

/// A pipe and how many bytes are in it.
pub struct Pipe {
    /// Always there; taken when dropped.
    ends: Option<Ends>,
    len: usize,
}

impl Pipe {
    /// An empty one; `None` if none can be had now: then bytes are copied.
    pub fn take() -> Option<Self> {
        let ends = POOL.with_borrow_mut(|pool| {
            if pool.out >= HELD_MAX {
                return None;
            }
            let ends = pool.kept.pop().or_else(Ends::open)?;
            pool.out += 1;
            Some(ends)
        });
        ends.map(|ends| Self {
            ends: Some(ends),
            len: 0,
        })
    }

    /// Takes bytes in by `fill`, which is given the end to write to and the most it may move, and
    /// says how many it moved.
    ///
    /// # Errors
    ///
    /// Those of `fill`.
    ///
    /// # Panics
    ///
    /// If something is in it: a TLS record would not fit, and some kernels lose its rest.
    pub fn fill<E>(
        &mut self,
        fill: impl FnOnce(BorrowedFd<'_>, usize) -> Result<usize, E>,
    ) -> Result<usize, E> {
        assert!(self.is_empty(), "only an empty pipe is filled");
        let Some(ends) = &self.ends else {
            return Ok(0);
        };
        let count = fill(ends.write.as_fd(), ends.size)?;
        self.len = count;
        Ok(count)
    }

    /// Lets bytes out by `empty`, which is given the end to read from and how many bytes there
    /// are, and says how many it moved.
    ///
    /// # Errors
    ///
    /// Those of `empty`.
    pub fn empty<E>(
        &mut self,
        empty: impl FnOnce(BorrowedFd<'_>, usize) -> Result<usize, E>,
    ) -> Result<usize, E> {
        let Some(ends) = &self.ends else {
            return Ok(0);
        };
        let count = empty(ends.read.as_fd(), self.len)?;
        self.len -= count.min(self.len);
        Ok(count)
    }

    /// How many bytes are in it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// How many this thread has in use, for tests.
#[cfg(test)]
pub fn in_use() -> usize {
    POOL.with_borrow(|pool| pool.out)
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let ends = self.ends.take();
        // At the end of a thread the pool may be gone before the last pipe.
        let _ = POOL.try_with(|pool| {
            let Ok(mut pool) = pool.try_borrow_mut() else {
                return;
            };
            pool.out -= 1;
            // One that still holds bytes is closed, and they with it.
            if let Some(ends) = ends
                && self.len == 0
                && pool.kept.len() < KEPT
            {
                pool.kept.push(ends);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    fn write(pipe: &mut Pipe, bytes: &[u8]) -> usize {
        pipe.fill(|fd, max| rustix::io::write(fd, &bytes[..bytes.len().min(max)]))
            .unwrap()
    }

    fn read_all(pipe: &mut Pipe) -> Vec<u8> {
        let mut bytes = vec![0; pipe.len()];
        let count = pipe.empty(|fd, _| rustix::io::read(fd, &mut bytes)).unwrap();
        bytes.truncate(count);
        bytes
    }

    fn number(pipe: &Pipe) -> i32 {
        pipe.ends.as_ref().unwrap().read.as_raw_fd()
    }

    #[test]
    fn what_goes_in_comes_out() {
        let mut pipe = Pipe::take().unwrap();
        assert_eq!(write(&mut pipe, b"some bytes"), 10);
        assert_eq!(pipe.len(), 10);
        assert_eq!(read_all(&mut pipe), b"some bytes");
        assert!(pipe.is_empty());
    }

    #[test]
    fn an_empty_pipe_serves_the_next_user_and_a_full_one_nobody() {
        let mut pipe = Pipe::take().unwrap();
        let first = number(&pipe);
        write(&mut pipe, b"left over");
        drop(pipe);
        let mut pipe = Pipe::take().unwrap();
        let end = pipe
            .empty(|fd, _| rustix::io::read(fd, &mut [0; 16]))
            .unwrap_err();
        assert_eq!(end, rustix::io::Errno::AGAIN, "nothing of before is in it");
        let again = number(&pipe);
        drop(pipe);
        assert_eq!(number(&Pipe::take().unwrap()), again, "{first}");
    }

    #[test]
    fn there_are_so_many_and_no_more() {
        let held: Vec<_> = std::iter::from_fn(Pipe::take).take(HELD_MAX + 1).collect();
        assert!(held.len() <= HELD_MAX);
        assert!(Pipe::take().is_none() || held.len() < HELD_MAX);
        drop(held);
        let kept = POOL.with_borrow(|pool| (pool.kept.len(), pool.out));
        assert!(kept.0 <= KEPT, "{kept:?}");
        assert_eq!(kept.1, 0);
        assert!(Pipe::take().is_some());
    }
}
