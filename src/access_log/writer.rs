//! The thread that writes: it alone waits for disks and for pipes that nobody reads.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, channel, sync_channel};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::Settings;
use crate::metrics::Process;
use crate::time::{Deadline, now};

/// How long the thread waits before it looks for something it was told.
const LISTEN_EVERY: Duration = Duration::from_millis(50);

/// How long after its deadline the thread may say that it has finished.
const FINISH_GRACE: Duration = LISTEN_EVERY.saturating_mul(if cfg!(test) { 600 } else { 2 });

/// What a pipe, a terminal or a socket takes at once without waiting, if it takes anything.
const PIPE_BYTES: usize = 4096;

/// Whole lines, and how many records they are.
#[derive(Debug, Default)]
pub struct Batch {
    /// The lines; the last one ends with a line feed too.
    pub bytes: Vec<u8>,
    /// How many records.
    pub records: u64,
}

/// What is written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Standard output.
    Stdout,
    /// Standard error: the error log. Its own troubles are counted and not spoken of.
    Stderr,
    /// A file, added to at its end and made if it is missing; or a FIFO somebody reads.
    File(PathBuf),
}

impl Target {
    /// Where the access log goes.
    pub fn of(settings: &Settings) -> Self {
        settings.path.clone().map_or(Self::Stdout, Self::File)
    }

    /// Opens it, for [`Writer::set`].
    ///
    /// # Errors
    ///
    /// When that cannot be done; a FIFO that nobody reads is one.
    pub fn open(self) -> io::Result<Opened> {
        let file = self.file()?;
        Ok(Opened(self, file))
    }

    fn file(&self) -> io::Result<OwnedFd> {
        use std::os::fd::AsFd;
        match self {
            Self::Stdout => io::stdout().as_fd().try_clone_to_owned(),
            Self::Stderr => io::stderr().as_fd().try_clone_to_owned(),
            Self::File(path) => {
                // O_NONBLOCK: opening a FIFO without a reader fails instead of waiting for one.
                let flags = OFlags::WRONLY
                    | OFlags::APPEND
                    | OFlags::CREATE
                    | OFlags::CLOEXEC
                    | OFlags::NOCTTY
                    | OFlags::NONBLOCK;
                Ok(rustix::fs::open(path, flags, Mode::from_raw_mode(0o640))?)
            }
        }
    }
}

/// A target that can be written to.
#[derive(Debug)]
pub struct Opened(Target, OwnedFd);

/// What gives batches to the writer, from any thread, without ever waiting.
#[derive(Clone, Debug)]
pub struct Sender(SyncSender<Batch>);

impl Sender {
    /// Hands a batch over.
    ///
    /// # Errors
    ///
    /// The batch, when the writer has as many waiting as it may have.
    pub fn offer(&self, batch: Batch) -> Result<(), Batch> {
        self.0.try_send(batch).map_err(|error| match error {
            TrySendError::Full(batch) | TrySendError::Disconnected(batch) => batch,
        })
    }
}

enum Control {
    Set(Opened),
    Reopen,
    Finish(Deadline),
}

/// The supervisor's hold on the thread.
#[derive(Debug)]
pub struct Writer {
    sender: Sender,
    control: std::sync::mpsc::Sender<Control>,
    finished: Receiver<u64>,
}

impl Writer {
    /// Opens the target and starts the thread; `batches_max` may wait for it at a time.
    ///
    /// # Errors
    ///
    /// When the target cannot be opened, or no thread can be had.
    pub fn start(target: Target, batches_max: usize, process: Arc<Process>) -> io::Result<Self> {
        let (sender, batches) = sync_channel(batches_max);
        let (control, told) = channel();
        let (done, finished) = sync_channel(1);
        let file = Some(target.file()?);
        let name = if target == Target::Stderr {
            "error-log"
        } else {
            "access-log"
        };
        let writing = Writing {
            target,
            file,
            torn: false,
            trouble: None,
            ends: None,
            told,
            process,
        };
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            // The supervisor may have stopped to wait; then nobody wants to know.
            let _ = done.try_send(writing.run(&batches));
        })?;
        Ok(Self {
            sender: Sender(sender),
            control,
            finished,
        })
    }

    /// For a worker's [`super::Log`].
    pub fn sender(&self) -> Sender {
        self.sender.clone()
    }

    /// Opens the file of that name anew: it has been renamed.
    pub fn reopen(&self) {
        // The thread ends only after `finish`.
        let _ = self.control.send(Control::Reopen);
    }

    /// Writes to something else from now on.
    pub fn set(&self, opened: Opened) {
        let _ = self.control.send(Control::Set(opened));
    }

    /// Writes what was handed over and ends the thread. How many records could not be written by
    /// `deadline`; `None` if even that is not known because the thread hangs in a system call.
    pub fn finish(self, deadline: Deadline) -> Option<u64> {
        let _ = self.control.send(Control::Finish(deadline));
        let left = deadline.left(now()) + FINISH_GRACE;
        self.finished.recv_timeout(left).ok()
    }
}

/// The thread's own.
struct Writing {
    target: Target,
    file: Option<OwnedFd>,
    /// The file ends within a line.
    torn: bool,
    trouble: Option<Trouble>,
    ends: Option<Deadline>,
    told: Receiver<Control>,
    process: Arc<Process>,
}

/// Writing has failed, was spoken of, and has not worked since.
struct Trouble {
    since: Instant,
    lost: u64,
}

impl Writing {
    /// Writes until it is told to finish. How many records were left when it had to go.
    fn run(mut self, batches: &Receiver<Batch>) -> u64 {
        loop {
            self.listen();
            let wait = if self.ends.is_some() {
                Duration::ZERO
            } else {
                LISTEN_EVERY
            };
            match batches.recv_timeout(wait) {
                Ok(batch) if self.out_of_time() => {
                    let left = batch.records + batches.try_iter().map(|batch| batch.records).sum::<u64>();
                    self.count_lost(left);
                    return left;
                }
                Ok(batch) => self.write(&batch),
                Err(RecvTimeoutError::Timeout) if self.ends.is_none() => {}
                Err(_) => return 0,
            }
        }
    }

    fn out_of_time(&self) -> bool {
        self.ends.is_some_and(|ends| ends.passed(now()))
    }

    /// Does what it was told; whether the file is another one now.
    fn listen(&mut self) -> bool {
        let mut changed = false;
        while let Ok(told) = self.told.try_recv() {
            match told {
                Control::Finish(deadline) => self.ends = Some(deadline),
                Control::Set(Opened(target, file)) => {
                    self.target = target;
                    self.take(file);
                    changed = true;
                }
                Control::Reopen if matches!(self.target, Target::File(_)) => match self.target.file() {
                    Ok(file) => {
                        self.take(file);
                        changed = true;
                    }
                    // The old file is better than none.
                    Err(error) => self.say(
                        &error,
                        "cannot open the access log anew; going on with the old file",
                    ),
                },
                Control::Reopen => {}
            }
        }
        changed
    }

    fn take(&mut self, file: OwnedFd) {
        self.file = Some(file);
        self.torn = false;
    }

    /// Writes a batch, or says and counts that it could not.
    fn write(&mut self, batch: &Batch) {
        let mut written = 0;
        match self.write_all(&batch.bytes, &mut written) {
            Ok(()) => self.recover(),
            Err(error) => {
                let lost = match written {
                    0 => batch.records,
                    written => count_lines(&batch.bytes[written..]),
                };
                self.torn |= written > 0 && batch.bytes[written - 1] != b'\n';
                self.lose(&error, lost);
            }
        }
    }

    fn write_all(&mut self, bytes: &[u8], written: &mut usize) -> io::Result<()> {
        while *written < bytes.len() {
            if self.listen() {
                // A line begun in another file is not gone on with in this one.
                *written += unfinished(bytes, *written);
                continue;
            }
            let file = match &self.file {
                Some(file) => file,
                None => self.file.insert(self.target.file()?),
            };
            if !may_write(file)? {
                if self.out_of_time() {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                continue;
            }
            if self.torn {
                self.torn = !matches!(write_some(file, b"\n")?, 1..);
                continue;
            }
            *written += write_some(file, &bytes[*written..])?;
        }
        Ok(())
    }

    fn lose(&mut self, error: &io::Error, lost: u64) {
        self.count_lost(lost);
        if matches!(self.target, Target::File(_)) && error.kind() != io::ErrorKind::TimedOut {
            // Tried anew with the next batch: a full disk, a FIFO whose reader comes back.
            self.file = None;
        }
        match &mut self.trouble {
            Some(trouble) => trouble.lost += lost,
            None => {
                self.trouble = Some(Trouble { since: now(), lost });
                self.say(
                    error,
                    "cannot write the access log; records are lost until it works again",
                );
            }
        }
    }

    fn recover(&mut self) {
        if let Some(trouble) = self.trouble.take()
            && self.target != Target::Stderr
        {
            let seconds = now().saturating_duration_since(trouble.since).as_secs();
            tracing::info!(lost = trouble.lost, seconds, "the access log is written again");
        }
    }

    fn count_lost(&self, lost: u64) {
        match self.target {
            Target::Stderr => self.process.lines_dropped(lost),
            _ => self.process.records_lost(lost),
        }
    }

    fn say(&self, error: &io::Error, what: &str) {
        match &self.target {
            Target::Stderr => {}
            Target::Stdout => tracing::error!(%error, "{what}"),
            Target::File(path) => tracing::error!(path = %path.display(), %error, "{what}"),
        }
    }
}

/// Waits a little until something fits; whether it does.
fn may_write(file: &OwnedFd) -> io::Result<bool> {
    let wait = Timespec::try_from(LISTEN_EVERY).map_err(io::Error::other)?;
    match rustix::event::poll(&mut [PollFd::new(file, PollFlags::OUT)], Some(&wait)) {
        Ok(count) => Ok(count > 0),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Writes what fits, without waiting where it is not a file.
fn write_some(file: &OwnedFd, bytes: &[u8]) -> io::Result<usize> {
    // Standard output is shared with others, who may not want it nonblocking; but when poll says
    // that a pipe can be written, 4096 bytes fit (pipe(7), PIPE_BUF), and no more is promised.
    let kind = FileType::from_raw_mode(rustix::fs::fstat(file)?.st_mode);
    let most = if kind == FileType::RegularFile {
        bytes.len()
    } else {
        bytes.len().min(PIPE_BYTES)
    };
    match rustix::io::write(file, &bytes[..most]) {
        Ok(0) => Err(io::ErrorKind::WriteZero.into()),
        Ok(count) => Ok(count),
        Err(Errno::INTR | Errno::AGAIN) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

/// How many bytes from `written` on belong to a line that was begun before.
fn unfinished(bytes: &[u8], written: usize) -> usize {
    if written == 0 || bytes[written - 1] == b'\n' {
        return 0;
    }
    let rest = &bytes[written..];
    memchr::memchr(b'\n', rest).map_or(rest.len(), |end| end + 1)
}

fn count_lines(bytes: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', bytes).count() as u64
}
