//! Static files: path → file, ranges, conditions, types.

mod body;
mod cache;
mod conditions;
mod encoding;
mod facts;
mod kind;
mod listing;
mod open;
mod path;
mod ranges;
mod reply;
mod value;
mod warm;

use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Instant;

use ::http::Method;
use rustix::io::Errno;

use self::body::{Body, Broken};
use self::cache::{Cache, FRESH};
use self::encoding::Coding;
use self::listing::Wanted;
use self::open::{Folder, Found, Shared, is_not_there, on_disk};
use self::path::Target;
use self::reply::{Reply, Variant};
use self::warm::Warm;
use crate::http::{Fields, RequestHead, Responder};
use crate::outcome::{Cause, End, Phase, Side};
use crate::time::{now, wall};

/// The methods a file answers to, as Allow writes them.
pub const ALLOW: &str = "GET, HEAD, OPTIONS";

/// How often a file is looked at anew that changes while its first bytes are read.
const LOOKS_MAX: usize = 3;

/// How much of a file is brought into memory at once: the way to another thread and back is some 30
/// µs, a tenth of what sending this costs.
const WINDOW: u64 = 2 * 1024 * 1024;

/// Lists of folders that may be on their way at once, for each worker and root: clients that read
/// slowly keep megabytes waiting.
const LISTS_MAX: usize = 32;

/// What a root of static files needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The folder; nothing outside it is ever served. Links are followed as long as they stay
    /// below it; absolute ones count as leading out. (Before Linux 5.6, or where openat2 is
    /// denied, none is followed.)
    pub root: PathBuf,
    /// Names tried for a folder, in order (`["index.html"]`).
    pub index: Vec<String>,
    /// List folders that have no index (`false`).
    pub listing: bool,
    /// Served with status 200 where no file is found: single-page applications.
    pub fallback: Option<String>,
    /// Neighbours `.br`, `.zst` and `.gz` are served to clients that accept them (`true`).
    pub precompressed: bool,
    /// Names that begin with a dot are served (`false`).
    pub dotfiles: bool,
}

/// A folder of static files, as one worker serves it.
///
/// A change on disk is seen within a second: that long a small file stays open for the next
/// request, and the folder itself (which may be a link that a deployment swaps).
pub struct Root {
    settings: Settings,
    folder: RefCell<Option<Kept>>,
    cache: Cache,
    complained: Cell<Option<Instant>>,
    warm: Warm,
    /// Held once for every list that is being sent, and once by the root.
    lists: Rc<()>,
}

struct Kept {
    folder: Rc<Folder>,
    since: Instant,
}

/// Nothing was sent: the caller answers from the catalogue of errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed {
    /// Why, with side `Atlas` and phase `File`.
    pub end: End,
    /// What the answer has to say in Allow (405).
    pub allow: Option<&'static str>,
}

impl Failed {
    const fn of(cause: Cause) -> Self {
        Self {
            end: End::new(Side::Atlas, Phase::File, cause),
            allow: None,
        }
    }
}

/// What a file has to know of a request.
struct Asked<'r> {
    method: &'r Method,
    /// Below the root, still encoded.
    path: &'r str,
    /// As the client wrote it, with a prefix that a route may have taken off.
    wire_path: &'r str,
    query: Option<&'r str>,
    fields: &'r Fields,
}

impl Root {
    /// Opens nothing yet: the first request does.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            folder: RefCell::default(),
            cache: Cache::default(),
            complained: Cell::default(),
            warm: Warm::default(),
            lists: Rc::default(),
        }
    }

    /// What it was made from.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Answers a request with a file: the whole response, errors that need fields of their own
    /// (304, 412, 416) and redirects included.
    ///
    /// `path` is the encoded path below the root: the request's, perhaps without a prefix.
    ///
    /// Returns how the exchange ended; where it ended amid the response, the response is left
    /// unfinished, which closes the connection.
    ///
    /// # Errors
    ///
    /// Why there is no file to send, before anything was sent: `NotFound`, `MethodNotAllowed`
    /// (with Allow), `FileChanged` for a file that never holds still, `TimedOut` for a disk that
    /// does not answer, `LimitReached` for more than 32 lists of folders at once, `System`.
    pub async fn answer(
        &self,
        request: &RequestHead,
        path: &str,
        response: &mut Responder<'_>,
    ) -> Result<End, Failed> {
        let asked = Asked {
            method: request.method(),
            path,
            wire_path: request.path(),
            query: request.query(),
            fields: &request.fields,
        };
        let promote = |bytes| {
            response.promote(bytes);
            response.is_kernel_stream()
        };
        let reply = self.begin(&asked, promote).await?;
        let sent = self.send(reply, path, response).await;
        Ok(sent.unwrap_or_else(|end| end))
    }

    /// Makes the answer, with its first bytes read: what fails up to here can still be said.
    /// `promote`: is told how long the body is, and whether the kernel takes files on then.
    async fn begin(&self, asked: &Asked<'_>, promote: impl Fn(u64) -> bool) -> Result<Reply, Failed> {
        let mut may_be_kept = !asked.fields.has("range");
        for _ in 0..LOOKS_MAX {
            let mut reply = self.reply(asked, may_be_kept).await?;
            if reply.length().is_some_and(&promote) && reply.body().is_long() {
                reply.body().go_straight();
            }
            match reply.advance().await {
                Ok(()) => return Ok(reply),
                Err(Broken::Changed) => may_be_kept = false,
                Err(Broken::Unreadable(error)) => return Err(self.failed(asked.path, error)),
            }
        }
        Err(Failed::of(Cause::FileChanged))
    }

    async fn send(&self, mut reply: Reply, path: &str, response: &mut Responder<'_>) -> Result<End, End> {
        response.start(&reply.head).await?;
        while let Some(piece) = reply.piece() {
            response.write(piece).await?;
            while response.takes_files() && reply.body().stretch().is_some() {
                self.send_stretch(reply.body(), path, response).await?;
            }
            let advanced = reply.advance().await;
            advanced.map_err(|broken| self.broken(path, broken))?;
        }
        response.finish(None).await?;
        Ok(End::finished(Side::Atlas))
    }

    /// Sends some of the rest of a part by sendfile, once it is in memory.
    async fn send_stretch(
        &self,
        body: &mut Body,
        path: &str,
        response: &mut Responder<'_>,
    ) -> Result<(), End> {
        let Some((file, part)) = body.stretch() else {
            return Ok(());
        };
        let file = file.clone();
        let mut window = part.start..part.end.min(part.start + WINDOW);
        let there = self.warm.bring_in(&file, window.clone()).await;
        there.map_err(|error| self.broken(path, Broken::Unreadable(error)))?;
        while !window.is_empty() {
            // The last bytes of a part come only when the file is still what it was.
            let good = || window.end < part.end || body::unchanged(&file).is_ok();
            let sent = response.write_file(file.fd.as_fd(), window.clone(), good).await?;
            if sent == 0 {
                // If it is what it was, it has ended before the end it had.
                let broken = body::unchanged(&file).err().unwrap_or(Broken::Changed);
                return Err(self.broken(path, broken));
            }
            window.start += sent;
            body.passed(sent);
        }
        Ok(())
    }

    fn broken(&self, path: &str, broken: Broken) -> End {
        match broken {
            Broken::Changed => Failed::of(Cause::FileChanged).end,
            Broken::Unreadable(error) => self.failed(path, error).end,
        }
    }

    /// What a request gets, from its path to the head of its answer.
    async fn reply(&self, asked: &Asked<'_>, may_be_kept: bool) -> Result<Reply, Failed> {
        match *asked.method {
            Method::GET | Method::HEAD => {}
            Method::OPTIONS => return Ok(Reply::options()),
            _ => {
                return Err(Failed {
                    allow: Some(ALLOW),
                    ..Failed::of(Cause::MethodNotAllowed)
                });
            }
        }
        let not_found = Failed::of(Cause::NotFound);
        let target = Target::parse(asked.path, self.settings.dotfiles).ok_or(not_found)?;
        let failed = |error| self.failed(asked.path, error);
        let folder = self.folder().await?;
        let look = Look {
            root: self,
            folder: &folder,
            may_be_kept,
            now: now(),
        };
        if let Some(reply) = look.target(asked, &target).await.map_err(failed)? {
            return Ok(reply);
        }
        let fallback = match &self.settings.fallback {
            Some(name) => look.file(name.trim_start_matches('/').as_bytes(), asked).await,
            None => Ok(None),
        };
        fallback.map_err(failed)?.ok_or(not_found)
    }

    /// The folder, looked for anew every [`FRESH`].
    async fn folder(&self) -> Result<Rc<Folder>, Failed> {
        let now = now();
        if let Some(kept) = &mut *self.folder.borrow_mut()
            && now.saturating_duration_since(kept.since) < FRESH
        {
            return Ok(kept.folder.clone());
        }
        let opened = Folder::open(&self.settings.root).await;
        let opened = Rc::new(opened.map_err(|error| {
            self.complain("", error);
            Failed::of(cause_of(error))
        })?);
        let kept = Kept {
            folder: opened.clone(),
            since: now,
        };
        let before = self.folder.replace(Some(kept));
        if before.is_some_and(|before| !before.folder.is_same(&opened)) {
            self.cache.clear();
        }
        Ok(opened)
    }

    /// The end for an error of the kernel; what an operator can mend is logged.
    fn failed(&self, path: &str, error: Errno) -> Failed {
        let cause = cause_of(error);
        if matches!(cause, Cause::System | Cause::TimedOut) || matches!(error, Errno::ACCESS | Errno::XDEV) {
            self.complain(path, error);
        }
        Failed::of(cause)
    }

    /// A line in the log, at most once a second.
    fn complain(&self, path: &str, error: Errno) {
        let now = now();
        let is_quiet = self
            .complained
            .get()
            .is_some_and(|last| now.saturating_duration_since(last) < FRESH);
        if !is_quiet {
            self.complained.set(Some(now));
            let root = self.settings.root.display();
            match error {
                // openat2's word for it says nothing to anybody else.
                Errno::XDEV => {
                    tracing::warn!(%root, path, "not served: a link is absolute, or leads out of the root")
                }
                _ => tracing::warn!(%root, path, %error, "a file cannot be served"),
            }
        }
    }
}

fn cause_of(error: Errno) -> Cause {
    match error {
        error if is_not_there(error) => Cause::NotFound,
        Errno::TIMEDOUT => Cause::TimedOut,
        Errno::BUSY => Cause::LimitReached,
        _ => Cause::System,
    }
}

/// One look at a root for one request.
struct Look<'l> {
    root: &'l Root,
    folder: &'l Folder,
    may_be_kept: bool,
    now: Instant,
}

impl Look<'_> {
    /// What is at the target: a file, a folder's index or list, or the way to a folder.
    async fn target(&self, asked: &Asked<'_>, target: &Target) -> Result<Option<Reply>, Errno> {
        // A prefix may have been taken off with nothing left behind it: `/docs` is `` then.
        if !target.folder || !asked.wire_path.ends_with('/') {
            return Ok(match self.open(&target.name).await? {
                Opened::File(file) => Some(self.variant(&target.name, file, asked).await),
                Opened::Folder(_) => Some(Reply::redirect(asked.wire_path, asked.query)),
                Opened::Nothing => None,
            });
        }
        for index in &self.root.settings.index {
            if let Some(reply) = self.file(&target.inside(index), asked).await? {
                return Ok(Some(reply));
            }
        }
        if !self.root.settings.listing {
            return Ok(None);
        }
        let Opened::Folder(folder) = self.open(&target.name).await? else {
            return Ok(None);
        };
        let wanted = Wanted {
            title: percent_encoding::percent_decode_str(asked.wire_path).collect(),
            has_parent: !target.name.is_empty(),
            dotfiles: self.root.settings.dotfiles,
        };
        let slot = self.root.lists.clone();
        if Rc::strong_count(&slot) > 1 + LISTS_MAX {
            return Err(Errno::BUSY);
        }
        let page = on_disk(move || listing::page(&folder, &wanted)).await?;
        Ok(Some(Reply::listing(asked.method, page, slot)))
    }

    /// The answer with the file of this name, if there is one.
    async fn file(&self, name: &[u8], asked: &Asked<'_>) -> Result<Option<Reply>, Errno> {
        Ok(match self.open(name).await? {
            Opened::File(file) => Some(self.variant(name, file, asked).await),
            _ => None,
        })
    }

    /// The answer with a file, or with the neighbour the client would rather have.
    async fn variant(&self, name: &[u8], file: Shared, asked: &Asked<'_>) -> Reply {
        let kind = *file.kind.get_or_init(|| kind::of(name));
        let mut variant = Variant { file, coding: None };
        if self.root.settings.precompressed {
            for coding in encoding::wanted(asked.fields.get_all("accept-encoding")) {
                if let Some(file) = self.neighbour(name, coding).await {
                    variant = Variant {
                        file,
                        coding: Some(coding),
                    };
                    break;
                }
            }
        }
        let varies = self.root.settings.precompressed;
        Reply::file(asked, kind, variant, varies, wall())
    }

    async fn neighbour(&self, name: &[u8], coding: Coding) -> Option<Shared> {
        let name = Target::with(name, coding.suffix());
        if let Some(kept) = self.kept(&name) {
            return kept;
        }
        // One that must not be read is as good as none: there is the file itself.
        let file = match self.find(&name).await {
            Ok(Opened::File(file)) => Some(file),
            _ => None,
        };
        // That there is none is worth knowing as well: it is what most files say thrice.
        self.root.cache.keep(name, file.as_ref(), self.now);
        file
    }

    /// What has this name: a small file perhaps as it was a moment ago.
    async fn open(&self, name: &[u8]) -> Result<Opened, Errno> {
        if let Some(Some(file)) = self.kept(name) {
            return Ok(Opened::File(file));
        }
        let opened = self.find(name).await?;
        if let Opened::File(file) = &opened {
            self.root.cache.keep(name.to_owned(), Some(file), self.now);
        }
        Ok(opened)
    }

    fn kept(&self, name: &[u8]) -> Option<Option<Shared>> {
        self.may_be_kept
            .then(|| self.root.cache.find(name, self.now))
            .flatten()
    }

    async fn find(&self, name: &[u8]) -> Result<Opened, Errno> {
        let mut found = self.folder.find(name).await;
        if matches!(found, Err(Errno::MFILE | Errno::NFILE)) {
            self.root.cache.clear(); // gives descriptors back
            found = self.folder.find(name).await;
        }
        match found {
            Ok(Found::File(file)) => Ok(Opened::File(Rc::new(file))),
            Ok(Found::Folder(fd)) => Ok(Opened::Folder(fd)),
            // Not found, but worth a line in the log.
            Err(error @ (Errno::ACCESS | Errno::XDEV)) => Err(error),
            Err(error) if is_not_there(error) => Ok(Opened::Nothing),
            Err(error) => Err(error),
        }
    }
}

/// What a name leads to.
enum Opened {
    File(Shared),
    Folder(OwnedFd),
    Nothing,
}

#[cfg(test)]
mod tests;
