//! What the service's unit keeps from Atlas, whatever the user may do who runs it.

use std::fs;
use std::path::{Path, PathBuf};

use super::finding::{Finding, Findings};
use crate::config::Loaded;
use crate::generation::Generation;
use crate::runtime::Address;
use crate::upstream::EndpointAddress;

const TOPIC: &str = "service";

/// Where systemd looks for units, the first first.
const ROOTS: [&str; 5] = ["/etc", "/run", "/usr/local/lib", "/usr/lib", "/lib"];

/// Below these `ProtectHome` hides everything.
const HOMES: [&str; 3] = ["/home", "/root", "/run/user"];

/// Of these `PrivateTmp` makes folders of the service's own.
const TEMPORARY: [&str; 2] = ["/tmp", "/var/tmp"];

/// Writable under `ProtectSystem=strict`, too.
const NEVER_PROTECTED: [&str; 3] = ["/dev", "/proc", "/sys"];

/// What a unit says of files and folders.
#[derive(Debug, Default)]
pub(super) struct Unit {
    /// What its commands name, the configuration among it.
    named: Vec<PathBuf>,
    hides_homes: bool,
    has_own_temporary: bool,
    is_strict: bool,
    writable: Vec<PathBuf>,
}

pub(super) fn look(found: &mut Findings, loaded: &Loaded) {
    let Some(unit) = Unit::find().filter(|unit| unit.reads(&loaded.lines.source.name)) else {
        return;
    };
    let folders = made_in(&loaded.generation).into_iter();
    let kept = folders.filter_map(|folder| unit.protects(folder));
    let read = read(&loaded.generation).into_iter();
    let mut kept: Vec<_> = kept.chain(read.filter_map(|path| unit.hides(path))).collect();
    kept.dedup();
    if kept.is_empty() {
        let what = "the unit atlas.service lets Atlas have each file and folder the configuration names";
        found.add(Finding::fine(TOPIC, what));
    }
    kept.into_iter().for_each(|one| found.add(one));
}

/// Folders in which Atlas makes something: its log, its sockets.
fn made_in(generation: &Generation) -> Vec<&Path> {
    let log = &generation.access_log;
    let log = log.path.as_deref().filter(|_| log.enabled);
    let addresses = generation.listeners.iter().map(|one| &one.settings.address);
    log.into_iter()
        .chain(addresses.filter_map(socket))
        .filter_map(Path::parent)
        .collect()
}

/// What Atlas reads, or connects to.
fn read(generation: &Generation) -> Vec<&Path> {
    let endpoints = generation.upstreams.iter().flat_map(|one| &one.endpoints);
    let sockets = endpoints.filter_map(|endpoint| match &endpoint.address {
        EndpointAddress::Socket(address) => socket(address),
        _ => None,
    });
    let tls = generation.listeners.iter().filter_map(|one| one.tls.as_ref());
    let certificates = tls.flat_map(|tls| tls.certificates()).map(|one| &*one.path);
    let roots = generation.roots.iter().map(|one| &*one.root);
    sockets.chain(certificates).chain(roots).collect()
}

fn socket(address: &Address) -> Option<&Path> {
    match address {
        Address::Unix(path) => Some(path),
        Address::Tcp(_) => None,
    }
}

impl Unit {
    /// Atlas's own, with what was added to it. `None` where it is not installed as a service.
    pub(super) fn find() -> Option<Self> {
        let unit = files().find_map(|unit| fs::read_to_string(unit).ok())?;
        let folders = files().map(|unit| unit.with_extension("service.d"));
        let entries = folders.filter_map(|folder| fs::read_dir(folder).ok()).flatten();
        let more = entries.flatten().map(|entry| entry.path());
        let mut more: Vec<_> = more
            .filter(|path| path.extension().is_some_and(|kind| kind == "conf"))
            .collect();
        more.sort_by(|one, other| one.file_name().cmp(&other.file_name())); // so systemd reads them
        let more = more.iter().filter_map(|path| fs::read_to_string(path).ok());
        Some(Self::parse(&more.fold(unit, |all, text| all + "\n" + &text)))
    }

    pub(super) fn parse(text: &str) -> Self {
        let mut unit = Self::default();
        let lines = text.lines().filter_map(|line| line.trim().split_once('='));
        for (key, value) in lines {
            let words = value.split_whitespace();
            let is_on = matches!(value.trim(), "yes" | "true" | "on" | "1");
            match key.trim_end() {
                // With `read-only` everything is to be seen.
                "ProtectHome" => unit.hides_homes = is_on || value.trim() == "tmpfs",
                "PrivateTmp" => unit.has_own_temporary = is_on || value.trim() == "disconnected",
                "ExecStart" => unit.named.extend(words.map(PathBuf::from)),
                "ProtectSystem" => unit.is_strict = value.trim() == "strict",
                "ReadWritePaths" if value.trim().is_empty() => unit.writable.clear(),
                "ReadWritePaths" => {
                    let paths = words.map(|word| word.trim_start_matches(['-', '+']).trim_matches('"'));
                    unit.writable.extend(paths.map(PathBuf::from));
                }
                "LogsDirectory" => unit.makes("/var/log", words),
                "RuntimeDirectory" => unit.makes("/run", words),
                "StateDirectory" => unit.makes("/var/lib", words),
                "CacheDirectory" => unit.makes("/var/cache", words),
                _ => {}
            }
        }
        unit
    }

    fn makes<'t>(&mut self, root: &str, names: impl Iterator<Item = &'t str>) {
        self.writable.extend(names.map(|name| Path::new(root).join(name)));
    }

    /// Whether it starts Atlas with this configuration.
    fn reads(&self, configuration: &str) -> bool {
        let is_it = |path: &PathBuf| path.is_absolute() && resolved(path) == resolved(configuration.as_ref());
        self.named.iter().any(is_it)
    }

    /// Where it does not show this at all.
    pub(super) fn hides(&self, path: &Path) -> Option<Finding> {
        let path = resolved(path)?;
        if self.hides_homes && is_below(&path, &HOMES) {
            Some(keeps("does not show", &path, "ProtectHome=read-only"))
        } else if self.has_own_temporary && is_below(&path, &TEMPORARY) {
            Some(keeps("has another folder for", &path, "PrivateTmp=no"))
        } else {
            None
        }
    }

    /// Where nothing can be made in this folder.
    pub(super) fn protects(&self, folder: &Path) -> Option<Finding> {
        let hidden = self.hides(folder);
        if hidden.is_some() {
            return hidden;
        }
        let folder = resolved(folder)?;
        let is_writable = is_below(&folder, &NEVER_PROTECTED) || is_below(&folder, &self.writable);
        let line = format!("ReadWritePaths={}", folder.to_str()?);
        (self.is_strict && !is_writable).then(|| keeps("lets nothing be written in", &folder, &line))
    }
}

/// Whether Atlas is installed as a service here.
pub(super) fn is_installed() -> bool {
    files().any(|unit| unit.exists())
}

/// Adds a line to the unit's `[Service]`; holds from the next start on.
pub(super) fn add(name: &str, line: &str) -> String {
    let folder = "/etc/systemd/system/atlas.service.d";
    format!(
        "sudo mkdir -p {folder} && printf '[Service]\\n{line}\\n' | sudo tee {folder}/{name}.conf && sudo systemctl \
         daemon-reload"
    )
}

fn files() -> impl Iterator<Item = PathBuf> {
    ROOTS
        .iter()
        .map(|root| Path::new(root).join("systemd/system/atlas.service"))
}

fn is_below(path: &Path, folders: &[impl AsRef<Path>]) -> bool {
    folders.iter().any(|folder| path.starts_with(folder))
}

/// Without its links, where it is there.
fn resolved(path: &Path) -> Option<PathBuf> {
    path.canonicalize().or_else(|_| std::path::absolute(path)).ok()
}

fn keeps(how: &str, path: &Path, line: &str) -> Finding {
    let what = format!("the unit atlas.service {how} {}", path.display());
    let advice = "if it is the service that shall use it: name another place, or have the unit allow it";
    // What systemd or printf would read otherwise than it stands there is not told to be typed.
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-=".contains(letter);
    let name = line.replace(['/', '='], "-");
    let command = line.chars().all(is_plain).then(|| add(&name, line));
    Finding::advice(TOPIC, what, advice).maybe(command)
}
