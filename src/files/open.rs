//! Opens what lies below a folder, and never anything else, without blocking the worker.

use std::cell::OnceCell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, fstat, openat, openat2};
use rustix::io::Errno;

use super::facts::Facts;
use super::value::Value;
use crate::runtime::{before, blocking};
use crate::time::Deadline;

/// How long a disk may take to answer. A call that hangs (a dead network file system) cannot be
/// ended and keeps its thread; the exchange need not wait for it.
const DISK_TIMEOUT: Duration = Duration::from_secs(30);

/// How often a lookup is made that the kernel asks to repeat: something above was renamed meanwhile.
const ATTEMPTS_MAX: usize = 8;

// Without O_NONBLOCK the open of a FIFO would wait for a writer.
const READ: OFlags = OFlags::RDONLY
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Links may be followed as long as they stay below the folder; those of /proc lead anywhere.
const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS);

/// An open folder, and how this kernel opens what is below it.
pub(super) struct Folder {
    fd: OwnedFd,
    way: Way,
    /// Device and inode: another folder may take its path.
    identity: (u64, u64),
}

/// What the kernel has, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// openat2 tells without waiting when it would have to wait (Linux 5.12).
    Cached,
    /// openat2 (Linux 5.6).
    Beneath,
    /// One segment after the other, no link followed: before Linux 5.6, or where a seccomp
    /// filter denies openat2.
    Walk,
}

/// Something that was found.
#[expect(
    clippy::large_enum_variant,
    reason = "lives for a moment, and is a file nearly always"
)]
pub(super) enum Found {
    /// A regular file, open for reading.
    File(File),
    /// A folder, open for reading.
    Folder(OwnedFd),
}

/// An open regular file and what the kernel said of it.
pub(super) struct File {
    pub(super) fd: OwnedFd,
    pub(super) facts: Facts,
    /// Its device and inode.
    pub(super) inode: (u64, u64),
    /// All of it, where it is small and was read before; good as long as the facts are.
    pub(super) content: OnceCell<Box<[u8]>>,
    /// Its Content-Type, once somebody asked.
    pub(super) kind: OnceCell<Value>,
}

impl Folder {
    /// Opens a folder.
    pub(super) async fn open(path: &Path) -> Result<Self, Errno> {
        let path = path.to_owned();
        on_disk(move || Self::open_blocking(&path)).await
    }

    fn open_blocking(path: &Path) -> Result<Self, Errno> {
        let fd = openat(CWD, path, FOLDER, Mode::empty())?;
        let stat = fstat(&fd)?;
        Ok(Self {
            way: Way::probe(fd.as_fd()),
            identity: (stat.st_dev, stat.st_ino),
            fd,
        })
    }

    /// Whether both are the same folder.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.identity == other.identity
    }

    /// Opens what has this name, if it is a file or a folder. An empty name is the folder itself.
    ///
    /// # Errors
    ///
    /// The kernel's, for a name that leads out of the folder too; `ENXIO` for what is neither.
    pub(super) async fn find(&self, name: &[u8]) -> Result<Found, Errno> {
        let name = if name.is_empty() { b"." } else { name };
        if self.way == Way::Cached {
            let resolve = BENEATH.union(ResolveFlags::CACHED);
            match openat2(&self.fd, name, READ, Mode::empty(), resolve) {
                Err(Errno::AGAIN) => {}
                opened => return Found::of(opened?),
            }
        }
        let (folder, way, name) = (self.fd.try_clone(), self.way, name.to_owned());
        let folder = folder.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        on_disk(move || Found::of(way.open(folder.as_fd(), &name)?)).await
    }
}

impl File {
    /// Whether it is still what it was when it was opened.
    pub(super) fn is_unchanged(&self) -> Result<bool, Errno> {
        Ok(Facts::of(&fstat(&self.fd)?) == self.facts)
    }
}

impl Way {
    /// Asks the kernel for the folder itself, which is there.
    fn probe(folder: BorrowedFd<'_>) -> Self {
        let ask = |resolve| openat2(folder, ".", FOLDER, Mode::empty(), resolve);
        match ask(BENEATH.union(ResolveFlags::CACHED)) {
            // EINVAL: a flag it does not know. Anything but a yes to the plain question (ENOSYS,
            // EPERM from seccomp) leaves the walk.
            Ok(_) | Err(Errno::AGAIN) => Self::Cached,
            Err(_) if ask(BENEATH).is_ok() => Self::Beneath,
            Err(_) => Self::Walk,
        }
    }

    fn open(self, folder: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
        if self == Self::Walk {
            return walk(folder, name);
        }
        let mut last = Errno::AGAIN;
        for _ in 0..ATTEMPTS_MAX {
            match openat2(folder, name, READ, Mode::empty(), BENEATH) {
                Err(error @ (Errno::AGAIN | Errno::INTR)) => last = error,
                opened => return opened,
            }
        }
        Err(last)
    }
}

/// Opens segment by segment. A link, which could lead anywhere, is as good as not there.
fn walk(folder: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let (above, last) = match name.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&name[..slash], &name[slash + 1..]),
        None => (&b""[..], name),
    };
    let mut inner: Option<OwnedFd> = None;
    for segment in above
        .split(|byte| *byte == b'/')
        .filter(|segment| !segment.is_empty())
    {
        refuse_dots(segment)?;
        let from = inner.as_ref().map_or(folder, AsFd::as_fd);
        inner = Some(openat(from, segment, FOLDER | OFlags::NOFOLLOW, Mode::empty())?);
    }
    if last != b"." {
        refuse_dots(last)?;
    }
    let from = inner.as_ref().map_or(folder, AsFd::as_fd);
    openat(from, last, READ | OFlags::NOFOLLOW, Mode::empty())
}

/// Names from paths have none; this keeps those of the configuration (`index`) inside as well.
fn refuse_dots(segment: &[u8]) -> Result<(), Errno> {
    match segment {
        b"." | b".." => Err(Errno::XDEV), // what openat2 says of a way out
        _ => Ok(()),
    }
}

impl Found {
    /// `ENXIO` for a FIFO, a device, a socket: they are no files to serve.
    fn of(fd: OwnedFd) -> Result<Self, Errno> {
        let stat = fstat(&fd)?;
        let facts = Facts::of(&stat);
        if facts.is_file() {
            Ok(Self::File(File {
                fd,
                facts,
                inode: (stat.st_dev, stat.st_ino),
                content: OnceCell::new(),
                kind: OnceCell::new(),
            }))
        } else if facts.is_folder() {
            Ok(Self::Folder(fd))
        } else {
            Err(Errno::NXIO)
        }
    }
}

/// Makes a call that may wait for a disk, beside the worker.
///
/// # Errors
///
/// The call's; `ETIMEDOUT` where the disk does not answer.
pub(super) async fn on_disk<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, Errno> + Send + 'static,
) -> Result<T, Errno> {
    match before(Deadline::within(DISK_TIMEOUT), blocking(call)).await {
        Ok(Ok(result)) => result,
        Ok(Err(panic)) => {
            tracing::error!(panic, "a call for a file panicked");
            Err(Errno::IO)
        }
        Err(_) => Err(Errno::TIMEDOUT),
    }
}

/// Whether an error says that nothing to be served has this name.
pub(super) fn is_not_there(error: Errno) -> bool {
    // EXDEV: out of the folder. ENXIO: a socket, or nothing to be served. ELOOP: a circle of
    // links, or one that must not be followed.
    matches!(
        error,
        Errno::NOENT
            | Errno::NOTDIR
            | Errno::NAMETOOLONG
            | Errno::LOOP
            | Errno::XDEV
            | Errno::NXIO
            | Errno::ACCESS
    )
}

/// A file that several answers of this worker may be reading.
pub(super) type Shared = Rc<File>;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use rustix::fs::{FileType, mknodat};

    use super::*;
    use crate::runtime::{Preference, start};

    const SECRET: &[u8] = b"secret";

    /// A root in which every kind of thing lies, beside a secret.
    fn tree() -> tempfile::TempDir {
        let above = tempfile::tempdir().unwrap();
        let at = |name: &str| above.path().join(name);
        std::fs::write(at("secret"), SECRET).unwrap();
        std::fs::create_dir_all(at("root/a/b")).unwrap();
        for name in ["root/file", "root/a/file", "root/a/b/file"] {
            std::fs::write(at(name), "public").unwrap();
        }
        for (to, name) in [
            ("a/file", "root/inside"),
            ("../file", "root/a/up"),
            ("a", "root/folder"),
            ("../secret", "root/outside"),
            ("../../secret", "root/a/outside"),
            ("..", "root/above"),
            ("/", "root/slash"),
            ("/proc/self/root", "root/magic"),
            ("circle", "root/circle"),
            ("nowhere", "root/dangling"),
        ] {
            symlink(to, at(name)).unwrap();
        }
        symlink(at("secret"), at("root/absolute")).unwrap();
        mknodat(CWD, at("root/fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        UnixListener::bind(at("root/socket")).unwrap();
        // A device needs rights that a test may not have.
        let zero = rustix::fs::makedev(1, 5);
        let _ = mknodat(
            CWD,
            at("root/device"),
            FileType::CharacterDevice,
            Mode::RUSR,
            zero,
        );
        above
    }

    fn folder(above: &tempfile::TempDir, way: Way) -> Folder {
        let folder = Folder::open_blocking(&above.path().join("root")).unwrap();
        Folder { way, ..folder }
    }

    fn run<T>(test: impl AsyncFnOnce() -> T) -> T {
        start(Preference::Epoll, async |_| test().await).unwrap()
    }

    async fn content(folder: &Folder, name: &[u8]) -> Result<Vec<u8>, Errno> {
        match folder.find(name).await? {
            Found::Folder(_) => Ok(b"folder".to_vec()),
            Found::File(file) => {
                let mut bytes = vec![0; 64];
                let count = rustix::io::pread(&file.fd, &mut bytes, 0)?;
                bytes.truncate(count);
                Ok(bytes)
            }
        }
    }

    fn ways() -> Vec<Way> {
        let above = tree();
        match folder(&above, Way::Walk).fd {
            fd if Way::probe(fd.as_fd()) == Way::Cached => vec![Way::Cached, Way::Beneath, Way::Walk],
            fd if Way::probe(fd.as_fd()) == Way::Beneath => vec![Way::Beneath, Way::Walk],
            _ => vec![Way::Walk],
        }
    }

    #[test]
    fn files_and_folders_below_are_found_on_every_way() {
        let above = tree();
        run(async || {
            for way in ways() {
                let folder = folder(&above, way);
                for name in ["file", "a/file", "a/b/file"] {
                    assert_eq!(
                        content(&folder, name.as_bytes()).await.unwrap(),
                        b"public",
                        "{name} {way:?}"
                    );
                }
                for name in ["", "a", "a/b"] {
                    assert_eq!(
                        content(&folder, name.as_bytes()).await.unwrap(),
                        b"folder",
                        "{name} {way:?}"
                    );
                }
                for name in ["inside", "a/up", "folder/file"] {
                    let found = content(&folder, name.as_bytes()).await;
                    match way {
                        Way::Walk => assert!(is_not_there(found.unwrap_err()), "{name}"),
                        _ => assert_eq!(found.unwrap(), b"public", "{name} {way:?}"),
                    }
                }
            }
        });
    }

    #[test]
    fn everything_else_is_not_there() {
        let above = tree();
        let long = "x".repeat(300);
        let deep = "a/".repeat(3000);
        run(async || {
            for way in ways() {
                let folder = folder(&above, way);
                for name in [
                    "nothing",
                    "file/x",
                    "outside",
                    "a/outside",
                    "absolute",
                    "above/secret",
                    "slash/etc/passwd",
                    "magic/etc/passwd",
                    "circle",
                    "circle/x",
                    "dangling",
                    "fifo",
                    "socket",
                    "device",
                    "..",
                    "../secret",
                    "a/../../secret",
                    "/etc/passwd",
                    "//etc/passwd",
                    &long,
                    &deep,
                    "\u{0}",
                    "file\u{0}",
                ] {
                    let error = content(&folder, name.as_bytes()).await.err();
                    let refused = error.is_some_and(|error| is_not_there(error) || error == Errno::INVAL);
                    let is_inside = name.starts_with('/') && way == Way::Walk; // taken for a relative name
                    assert!(refused || is_inside, "{name} {way:?} {error:?}");
                }
            }
        });
    }

    #[test]
    fn no_name_opens_anything_outside() {
        let above = tree();
        let words: [&[u8]; 18] = [
            b"..",
            b".",
            b"a",
            b"b",
            b"file",
            b"inside",
            b"folder",
            b"outside",
            b"above",
            b"slash",
            b"magic",
            b"absolute",
            b"secret",
            b"etc",
            b"passwd",
            b"",
            b"\xff",
            b"root",
        ];
        let mut random = fastrand::Rng::with_seed(11);
        run(async || {
            for way in ways() {
                let folder = folder(&above, way);
                for _ in 0..3000 {
                    let segments: Vec<_> = (0..random.usize(1..6))
                        .map(|_| words[random.usize(..words.len())])
                        .collect();
                    let name = segments.join(&b'/');
                    if let Ok(found) = content(&folder, &name).await {
                        let shown = String::from_utf8_lossy(&name);
                        assert!(found == b"public" || found == b"folder", "{shown} {way:?}");
                        if let Ok(Found::Folder(fd)) = folder.find(&name).await {
                            let at = std::fs::read_link(format!("/proc/self/fd/{}", raw(&fd))).unwrap();
                            assert!(
                                at.starts_with(above.path().join("root")),
                                "{shown} {way:?} {at:?}"
                            );
                        }
                    }
                }
            }
        });
    }

    fn raw(fd: &OwnedFd) -> i32 {
        std::os::fd::AsRawFd::as_raw_fd(fd)
    }
}
