//! Threads beside a worker for calls that block: opening and reading files that are not in memory.

use std::cell::Cell;

use async_channel::{Receiver, Sender};
use monoio::blocking::{BlockingTask, ThreadPool};

/// Threads beside each worker; a disk that is busy is not made faster by more.
const THREADS_MAX: usize = 4;

/// Starts its threads when they are first needed: a worker that serves no files has none.
pub(super) struct Pool {
    tasks: Sender<BlockingTask>,
    /// The threads take from here; its length is what waits for them.
    waiting: Receiver<BlockingTask>,
    threads: Cell<usize>,
}

impl Pool {
    pub(super) fn new() -> Self {
        // Bounded by those who wait: each connection has one call under way at a time.
        let (tasks, waiting) = async_channel::unbounded();
        Self {
            tasks,
            waiting,
            threads: Cell::new(0),
        }
    }

    fn start_thread(&self) {
        let waiting = self.waiting.clone();
        let thread = std::thread::Builder::new().name("blocking".to_owned());
        let started = thread.spawn(move || {
            while let Ok(task) = waiting.recv_blocking() {
                task.run();
            }
        });
        match started {
            Ok(_) => self.threads.set(self.threads.get() + 1),
            Err(error) => {
                tracing::warn!(%error, "cannot start a thread for calls that block");
                self.run_here();
            }
        }
    }

    /// Without any thread a slow worker is better than one whose callers wait for ever.
    fn run_here(&self) {
        if self.threads.get() == 0
            && let Ok(task) = self.waiting.try_recv()
        {
            task.run();
        }
    }
}

impl ThreadPool for Pool {
    fn schedule_task(&self, task: BlockingTask) {
        // The channel is open for as long as `waiting` is.
        let _ = self.tasks.try_send(task);
        let is_short = self.threads.get() == 0 || !self.waiting.is_empty();
        if is_short && self.threads.get() < THREADS_MAX {
            self.start_thread();
        }
    }
}
