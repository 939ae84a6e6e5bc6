//! What to type, as it can be pasted into a shell of Debian 12 and 13.

use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::process::getuid;
use rustix::thread::{CapabilitySet, capability_is_in_bounding_set, no_new_privs};

use super::{machine, unit};
use crate::cli::quoted;
use crate::config::Lines;

/// Lets the program that runs listen on ports below 1024.
pub(super) fn low_ports() -> Option<String> {
    // Where a process may never have the capability, a program whose file asks for it does not start.
    if !capability_is_in_bounding_set(CapabilitySet::NET_BIND_SERVICE).ok()? || no_new_privs().ok()? {
        return None;
    }
    let program = std::env::current_exe().ok().filter(|path| path.exists())?;
    Some(format!(
        "sudo setcap cap_net_bind_service=+ep {}",
        shell_path(&program)?
    ))
}

/// Lets who asks do these of `rwx` with a file or folder, and nobody else.
pub(super) fn permit(path: &Path, letters: &str) -> Option<String> {
    let is_owner = path.metadata().ok()?.uid() == getuid().as_raw();
    let what = shell_path(path)?;
    if is_owner {
        return Some(format!("sudo chmod u+{letters} {what}")); // an owner is asked for nothing else
    }
    let is_there = ["/usr/bin/setfacl", "/bin/setfacl"]
        .map(Path::new)
        .iter()
        .any(|path| path.exists());
    let first = if is_there { "" } else { "sudo apt install acl && " };
    Some(format!("{first}sudo setfacl -m u:{}:{letters} {what}", user()))
}

/// Makes an empty file that belongs to who asks.
pub(super) fn make_file(path: &Path) -> Option<String> {
    Some(format!(
        "sudo install -m 640 -o {} /dev/null {}",
        user(),
        shell_path(path)?
    ))
}

/// Makes a folder that belongs to who asks.
pub(super) fn make_folder(folder: &Path) -> Option<String> {
    Some(format!("sudo install -d -o {} {}", user(), shell_path(folder)?))
}

/// Has a running Atlas read its configuration and certificates again.
pub(super) fn reload() -> String {
    let reload = match unit::is_installed() {
        true => "sudo systemctl reload atlas",
        false => "sudo kill -HUP $(pidof atlas)",
    };
    reload.to_owned()
}

/// Gets a new certificate in the place of this one, where certbot keeps it, and has Atlas take it; or the latter
/// alone.
pub(super) fn renew(certificate: &Path) -> String {
    let name = certificate
        .strip_prefix("/etc/letsencrypt/live")
        .ok()
        .and_then(|path| path.iter().next()?.to_str());
    match name {
        Some(name) => format!("sudo certbot renew --cert-name {} && {}", quoted(name), reload()),
        None => reload(),
    }
}

/// A limit the system sets for a process.
#[derive(Clone, Copy, Debug)]
pub(super) enum Limit {
    OpenFiles,
    LockedMemory,
}

/// Raises a limit for the service, or without one for the shell; what is started later has it.
pub(super) fn raise(limit: Limit) -> String {
    let (line, shell) = match limit {
        Limit::OpenFiles => ("LimitNOFILE=1048576", "--nofile=1048576:1048576"),
        Limit::LockedMemory => ("LimitMEMLOCK=64M", "--memlock=67108864:67108864"),
    };
    if !unit::is_installed() {
        return format!("sudo prlimit --pid $$ {shell}");
    }
    unit::add(&[line.to_owned()])
}

/// Makes a comment of a line of the configuration that begins with this key.
pub(super) fn leave_out(lines: &Lines, place: &Range<usize>, key: &str) -> Option<String> {
    let number = lines.source.position(place.start).line;
    lines.source.line(number).starts_with(key).then_some(())?;
    let file = shell_path(Path::new(&lines.source.name))?;
    Some(format!(
        "sudo sed -i --follow-symlinks '{number}s/^{key}/#&/' {file}"
    ))
}

/// What Debian's backports have at least, for each version of Debian that Atlas is built for.
const BACKPORTS: [(&str, (u32, u32)); 2] = [("bookworm", (6, 12)), ("trixie", (7, 3))];

/// Gets a kernel of this version or newer. Nothing where the kernel is not Debian's own, or another's business.
pub(super) fn newer_kernel(least: (u32, u32)) -> Option<String> {
    if !machine::has_own_kernel() {
        return None;
    }
    let system = std::fs::read_to_string("/etc/os-release").ok()?;
    let machine = rustix::system::uname().machine().to_string_lossy().into_owned();
    backport(&system, &machine, &machine::release(), least, &sources())
}

/// Where apt takes packages from. What cannot be read is nothing.
fn sources() -> String {
    let more = std::fs::read_dir("/etc/apt/sources.list.d");
    let more = more.into_iter().flatten().flatten().map(|entry| entry.path());
    let is_one = |path: &PathBuf| {
        path.extension()
            .is_some_and(|kind| kind == "list" || kind == "sources")
    };
    let all = std::iter::once(PathBuf::from("/etc/apt/sources.list")).chain(more.filter(is_one));
    let texts: Vec<_> = all
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .collect();
    texts.join("\n\n")
}

/// As [`newer_kernel`], by the text of `/etc/os-release`, the machine and release of uname, and apt's sources.
pub(super) fn backport(
    system: &str,
    machine: &str,
    release: &str,
    least: (u32, u32),
    sources: &str,
) -> Option<String> {
    let codename = system
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))?;
    let (_, has) = BACKPORTS.iter().find(|(name, _)| *name == codename)?;
    let is_debian = system.lines().any(|line| line == "ID=debian");
    let (major, minor, _) = numbers(release)?;
    if !is_debian || *has < least || *has <= (major, minor) {
        return None;
    }
    let machine = match machine {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        _ => return None,
    };
    let suite = format!("{codename}-backports");
    // apt reads nothing at all where a suite is named twice with different keys.
    let add = match takes_from(sources, &suite) {
        true => String::new(),
        false => format!(
            "echo 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian \
             {suite} main' | sudo tee /etc/apt/sources.list.d/{suite}.list && "
        ),
    };
    Some(format!(
        "{add}sudo apt update && sudo apt install -t {suite} linux-image-{machine}"
    ))
}

/// Whether apt takes packages from this suite, by a line or by a stanza that is not switched off.
fn takes_from(sources: &str, suite: &str) -> bool {
    sources.split("\n\n").any(|stanza| {
        let whole = stanza.replace("\n ", " ").replace("\n\t", " "); // a field goes on in lines that begin so
        let has = |keys: &[&str], wanted: &[&str]| {
            whole.lines().any(|line| {
                let mut words = line.split_whitespace();
                let key = words.next().unwrap_or_default().to_ascii_lowercase();
                keys.contains(&&*key) && words.any(|word| wanted.contains(&word))
            })
        };
        has(&["deb", "suites:"], &[suite]) && !has(&["enabled:"], &["no", "false", "without", "off", "0"])
    })
}

/// The three numbers a version begins with.
pub(super) fn numbers(version: &str) -> Option<(u32, u32, u32)> {
    let end = version
        .find(|letter: char| !letter.is_ascii_digit() && letter != '.')
        .unwrap_or(version.len());
    let mut numbers = version[..end].split('.').map(str::parse);
    let mut next = || numbers.next()?.ok();
    Some((next()?, next()?, next()?))
}

/// A path as a shell reads it, wherever it is typed.
fn shell_path(path: &Path) -> Option<String> {
    Some(quoted(std::path::absolute(path).ok()?.to_str()?))
}

/// Who asks; by number where `/etc/passwd` has no name.
fn user() -> String {
    let number = getuid().to_string();
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == number).then(|| quoted(name))
    });
    name.unwrap_or(number)
}
