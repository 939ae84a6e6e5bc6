//! Bytes on their way: buffers from a pool each worker has for itself, given back when dropped.
//!
//! A connection takes a buffer when there is something to read and drops it when there is not, so
//! that an idle connection holds none.

use std::cell::RefCell;

/// Size of a small buffer: the largest TLS record's plaintext, and what most heads and small
/// bodies fit in.
pub const SMALL: usize = 16 * 1024;

/// Size of a large buffer, for bodies that have shown to be long.
pub const LARGE: usize = 64 * 1024;

/// Size of a buffer that takes the plaintext of a large one as TLS records, or four full records of
/// any cipher.
pub const RECORDS: usize = LARGE + 512;

/// How many buffers of each size a worker keeps for the next user; more are freed.
const KEPT_SMALL: usize = 256;
const KEPT_LARGE: usize = 64;

thread_local! {
    static POOL: RefCell<Pool> = const {
        RefCell::new(Pool { small: Vec::new(), large: Vec::new(), records: Vec::new(), vecs: Vec::new() })
    };
}

struct Pool {
    small: Vec<Box<[u8]>>,
    large: Vec<Box<[u8]>>,
    records: Vec<Box<[u8]>>,
    vecs: Vec<Vec<u8>>,
}

/// A fixed piece of memory, filled at its end and consumed at its start.
#[derive(Default)]
pub struct Buffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// One that holds no memory and has no space.
    pub fn none() -> Self {
        Self::default()
    }

    /// One of [`SMALL`] bytes.
    pub fn small() -> Self {
        Self::with_size(SMALL)
    }

    /// One of [`LARGE`] bytes.
    pub fn large() -> Self {
        Self::with_size(LARGE)
    }

    /// One of at least `size` bytes, from the pool where it fits.
    pub fn with_size(size: usize) -> Self {
        let pooled = with_pool(|pool| match size {
            0..=SMALL => pool.small.pop(),
            size if size <= LARGE => pool.large.pop(),
            size if size <= RECORDS => pool.records.pop(),
            _ => None,
        });
        let bytes = pooled.unwrap_or_else(|| {
            let size = match size {
                0..=SMALL => SMALL,
                size if size <= LARGE => LARGE,
                size if size <= RECORDS => RECORDS,
                more => more,
            };
            vec![0; size].into_boxed_slice()
        });
        Self {
            bytes,
            start: 0,
            end: 0,
        }
    }

    /// What was filled and not yet consumed.
    pub fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// The same, to be changed in place.
    pub fn filled_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.end]
    }

    /// Where the next bytes go; tell with [`Self::fill`] how many came.
    pub fn space(&mut self) -> &mut [u8] {
        &mut self.bytes[self.end..]
    }

    /// The first `count` bytes of the space are filled now.
    pub fn fill(&mut self, count: usize) {
        self.end += count;
        debug_assert!(self.end <= self.bytes.len());
    }

    /// The first `count` filled bytes are done with.
    pub fn consume(&mut self, count: usize) {
        self.start += count;
        debug_assert!(self.start <= self.end);
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    /// Keeps the first `count` filled bytes and forgets the rest.
    pub fn truncate(&mut self, count: usize) {
        self.end = self.end.min(self.start + count);
    }

    /// Forgets what is filled.
    pub fn clear(&mut self) {
        self.start = 0;
        self.end = 0;
    }

    /// How many bytes are filled.
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether nothing is filled.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// How many bytes it can hold in all.
    pub fn capacity(&self) -> usize {
        self.bytes.len()
    }

    /// Appends as much of `from` as there is space for and says how much that was.
    pub fn push(&mut self, from: &[u8]) -> usize {
        let count = from.len().min(self.bytes.len() - self.end);
        self.bytes[self.end..self.end + count].copy_from_slice(&from[..count]);
        self.end += count;
        count
    }

    /// Moves what is filled to the front, so that all free bytes are space.
    pub fn compact(&mut self) {
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
    }

    /// Makes room for at least `size` bytes in all; what is filled stays.
    pub fn grow(&mut self, size: usize) {
        if size > self.bytes.len() {
            let mut larger = Self::with_size(size);
            larger.push(self.filled());
            *self = larger;
        }
    }

    /// Makes [`Self::space`] at least `count` bytes; what is filled stays.
    pub fn reserve(&mut self, count: usize) {
        if self.bytes.len() - self.end < count {
            self.compact();
            self.grow(self.end + count);
        }
    }

    /// Gives the memory back to the pool if nothing is filled.
    pub fn rest(&mut self) {
        if self.is_empty() {
            *self = Self::none();
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.bytes.is_empty() {
            return;
        }
        let bytes = std::mem::take(&mut self.bytes);
        with_pool(|pool| {
            match bytes.len() {
                SMALL if pool.small.len() < KEPT_SMALL => pool.small.push(bytes),
                LARGE if pool.large.len() < KEPT_LARGE => pool.large.push(bytes),
                RECORDS if pool.records.len() < KEPT_LARGE => pool.records.push(bytes),
                _ => {}
            }
            Some(())
        });
    }
}

/// What the worker's pool has; nothing at the end of a thread, where it may be gone before the last buffer.
fn with_pool<T>(ask: impl FnOnce(&mut Pool) -> Option<T>) -> Option<T> {
    let asked = POOL.try_with(|pool| ask(&mut *pool.try_borrow_mut().ok()?));
    asked.ok().flatten()
}

/// An empty vector that grows, with the memory of an earlier one where there is one.
pub fn take_vec() -> Vec<u8> {
    with_pool(|pool| pool.vecs.pop()).unwrap_or_default()
}

/// Gives a vector's memory to the next user.
pub fn give_vec(mut vec: Vec<u8>) {
    vec.clear();
    with_pool(|pool| {
        // One that has grown past a large buffer and its records would be kept for nothing.
        if pool.vecs.len() < KEPT_LARGE && vec.capacity() <= 4 * LARGE {
            pool.vecs.push(vec);
        }
        Some(())
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_filled_can_be_consumed_in_parts() {
        let mut buffer = Buffer::small();
        assert_eq!(buffer.push(b"hello world"), 11);
        buffer.consume(6);
        assert_eq!(buffer.filled(), b"world");
        buffer.compact();
        assert_eq!(buffer.space().len(), SMALL - 5);
    }

    #[test]
    fn growing_keeps_what_is_filled() {
        let mut buffer = Buffer::small();
        buffer.push(b"abc");
        buffer.consume(1);
        buffer.grow(SMALL + 1);
        assert_eq!(buffer.filled(), b"bc");
        assert_eq!(buffer.capacity(), LARGE);
    }

    /// What a thread keeps for itself ends in an order that nobody is told.
    #[test]
    fn whoever_sends_at_the_end_of_a_thread_has_memory() {
        struct Goodbye;
        impl Drop for Goodbye {
            fn drop(&mut self) {
                assert!(Buffer::small().capacity() > 0);
                give_vec(take_vec());
            }
        }
        thread_local! {
            static BEFORE: Goodbye = const { Goodbye };
            static BEHIND: Goodbye = const { Goodbye };
        }
        let thread = std::thread::spawn(|| {
            BEFORE.with(|_| ());
            drop(Buffer::small());
            BEHIND.with(|_| ());
        });
        thread.join().unwrap();
    }

    #[test]
    fn a_dropped_buffer_serves_the_next_user() {
        let at = Buffer::large().bytes.as_ptr();
        assert_eq!(Buffer::large().bytes.as_ptr(), at);
    }
}
