//! What the service's unit keeps from Atlas, whatever the user may do who runs it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::finding::{Finding, Findings};
use crate::cli::DEFAULT_FILE;
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
    /// What its command names, the configuration among it.
    named: Vec<PathBuf>,
    homes: Homes,
    has_own_temporary: bool,
    is_strict: bool,
    writable: Vec<PathBuf>,
}

/// What is to be seen of homes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Homes {
    #[default]
    Open,
    ReadOnly,
    Hidden,
}

pub(super) fn look(found: &mut Findings, loaded: &Loaded) {
    let name = Path::new(&loaded.lines.source.name);
    let Some(unit) = Unit::find().filter(|unit| unit.reads(name)) else {
        return;
    };
    let (made_in, mut read) = (made_in(&loaded.generation), read(&loaded.generation));
    read.insert(name);
    let protected = made_in.into_iter().filter_map(|folder| unit.protects(folder));
    let hidden = read.into_iter().filter_map(|path| unit.hides(path));
    let kept: Vec<_> = protected.chain(hidden).collect();
    if kept.is_empty() {
        let what = "the unit atlas.service lets Atlas have its log, sockets, certificates and files";
        found.add(Finding::fine(TOPIC, what));
    }
    kept.into_iter().for_each(|one| found.add(one));
}

/// Folders in which Atlas makes something: its log, its sockets.
fn made_in(generation: &Generation) -> BTreeSet<&Path> {
    let log = &generation.access_log;
    let log = log.path.as_deref().filter(|_| log.enabled);
    let addresses = generation.listeners.iter().map(|one| &one.settings.address);
    let made = log.into_iter().chain(addresses.filter_map(socket));
    made.filter_map(Path::parent).collect()
}

/// What Atlas reads, or connects to.
fn read(generation: &Generation) -> BTreeSet<&Path> {
    let endpoints = generation.upstreams.iter().flat_map(|one| &one.endpoints);
    let sockets = endpoints.filter_map(|endpoint| match &endpoint.address {
        EndpointAddress::Socket(address) => socket(address),
        _ => None,
    });
    let lists = generation
        .upstreams
        .iter()
        .filter_map(|one| one.from_file.as_ref());
    let lists = lists.map(|list| &*list.path);
    let tls = generation.listeners.iter().filter_map(|one| one.tls.as_ref());
    let certificates = tls.flat_map(|tls| tls.certificates()).map(|one| &*one.path);
    let roots = generation.roots.iter().map(|one| &*one.root);
    sockets.chain(lists).chain(certificates).chain(roots).collect()
}

fn socket(address: &Address) -> Option<&Path> {
    match address {
        Address::Unix(path) => Some(path),
        Address::Tcp(_) => None,
    }
}

impl Unit {
    /// Atlas's own, with what was added to it. `None` where it is not installed as a service.
    fn find() -> Option<Self> {
        let unit = files().find_map(|unit| fs::read_to_string(unit).ok())?;
        let folders = files().map(|unit| unit.with_extension("service.d"));
        let entries = folders.filter_map(|folder| fs::read_dir(folder).ok()).flatten();
        let more = entries.flatten().map(|entry| entry.path());
        let more = more.filter(|path| path.extension().is_some_and(|kind| kind == "conf"));
        let mut more: Vec<_> = more.collect();
        // As systemd reads them: by name, and of two with one name the first folder's.
        more.sort_by(|one, other| one.file_name().cmp(&other.file_name()));
        more.dedup_by(|one, before| one.file_name() == before.file_name());
        let more = more.iter().filter_map(|path| fs::read_to_string(path).ok());
        Some(Self::parse(&more.fold(unit, |all, text| all + "\n" + &text)))
    }

    /// By its text; of what is written twice the last holds.
    pub(super) fn parse(text: &str) -> Self {
        let mut unit = Self::default();
        let text = text.replace("\\\n", " ").replace('"', "");
        for (key, value) in text.lines().filter_map(|line| line.trim().split_once('=')) {
            let value = value.trim();
            let words = value.split_whitespace();
            match key.trim_end() {
                "ExecStart" if value.is_empty() => unit.named.clear(),
                "ExecStart" => unit.names(words),
                "ProtectHome" => unit.homes = Homes::parse(value),
                "PrivateTmp" => unit.has_own_temporary = is_on(value) || value == "disconnected",
                "ProtectSystem" => unit.is_strict = value == "strict",
                "ReadWritePaths" if value.is_empty() => unit.writable.clear(),
                "ReadWritePaths" => unit.makes("/", words.map(|word| word.trim_start_matches(['-', '+']))),
                "LogsDirectory" => unit.makes("/var/log", words),
                "RuntimeDirectory" => unit.makes("/run", words),
                "StateDirectory" => unit.makes("/var/lib", words),
                "CacheDirectory" => unit.makes("/var/cache", words),
                _ => {}
            }
        }
        unit
    }

    /// Of a command without `-c` the usual file.
    fn names<'t>(&mut self, words: impl Iterator<Item = &'t str>) {
        let mut has_choice = false;
        for word in words {
            let choice = word.strip_prefix("--config=").or_else(|| word.strip_prefix("-c"));
            has_choice |= choice.is_some() || word == "--config";
            self.named.push(choice.unwrap_or(word).into());
        }
        if !has_choice {
            self.named.push(DEFAULT_FILE.into());
        }
    }

    fn makes<'t>(&mut self, root: &str, names: impl Iterator<Item = &'t str>) {
        self.writable.extend(names.map(|name| Path::new(root).join(name)));
    }

    /// Whether it starts Atlas with this configuration.
    pub(super) fn reads(&self, configuration: &Path) -> bool {
        let is_it = |path: &PathBuf| path.is_absolute() && resolved(path) == resolved(configuration);
        self.named.iter().any(is_it)
    }

    /// Where it does not show this at all.
    pub(super) fn hides(&self, path: &Path) -> Option<Finding> {
        let path = resolved(path)?;
        let (how, line) = self.hiding(&path)?;
        Some(keeps(how, &path, &[line.to_owned()]))
    }

    /// Where nothing can be made in this folder.
    pub(super) fn protects(&self, folder: &Path) -> Option<Finding> {
        let folder = resolved(folder)?;
        let hiding = self.hiding(&folder);
        let is_guarded = self.is_strict || (self.homes != Homes::Open && is_below(&folder, &HOMES));
        let is_writable = is_below(&folder, &NEVER_PROTECTED) || is_below(&folder, &self.writable);
        let write = (is_guarded && !is_writable).then(|| format!("ReadWritePaths={}", folder.display()));
        let lines: Vec<_> = hiding
            .map(|(_, line)| line.to_owned())
            .into_iter()
            .chain(write)
            .collect();
        let how = hiding.map_or("lets nothing be written in", |(how, _)| how);
        (!lines.is_empty()).then(|| keeps(how, &folder, &lines))
    }

    /// How it hides this, and the line that lets it be seen.
    fn hiding(&self, path: &Path) -> Option<(&'static str, &'static str)> {
        if self.homes == Homes::Hidden && is_below(path, &HOMES) {
            Some(("does not show", "ProtectHome=read-only"))
        } else if self.has_own_temporary && is_below(path, &TEMPORARY) {
            Some(("has another folder for", "PrivateTmp=no"))
        } else {
            None
        }
    }
}

impl Homes {
    fn parse(value: &str) -> Self {
        match value {
            "read-only" => Self::ReadOnly,
            "tmpfs" => Self::Hidden,
            value if is_on(value) => Self::Hidden,
            _ => Self::Open,
        }
    }
}

fn is_on(value: &str) -> bool {
    ["1", "yes", "y", "true", "t", "on"].contains(&&*value.to_ascii_lowercase())
}

/// Whether Atlas is installed as a service here.
pub(super) fn is_installed() -> bool {
    files().any(|unit| unit.exists())
}

/// Adds lines to the unit's `[Service]`; they hold from the next start on.
pub(super) fn add(lines: &[String]) -> String {
    let (folder, lines) = ("/etc/systemd/system/atlas.service.d", lines.join("\\n"));
    format!(
        "sudo mkdir -p {folder} && printf '[Service]\\n{lines}\\n' | sudo tee -a {folder}/doctor.conf && sudo systemctl \
         daemon-reload"
    )
}

fn files() -> impl Iterator<Item = PathBuf> {
    let roots = ROOTS.iter().map(Path::new);
    roots.map(|root| root.join("systemd/system/atlas.service"))
}

fn is_below(path: &Path, folders: &[impl AsRef<Path>]) -> bool {
    folders.iter().any(|folder| path.starts_with(folder))
}

/// Without links, as far as it is there.
fn resolved(path: &Path) -> Option<PathBuf> {
    let path = std::path::absolute(path).ok()?;
    path.ancestors().find_map(|there| {
        let mut whole = there.canonicalize().ok()?;
        whole.extend(path.strip_prefix(there).ok()?);
        Some(whole)
    })
}

fn keeps(how: &str, path: &Path, lines: &[String]) -> Finding {
    let what = format!("the unit atlas.service {how} {}", path.display());
    let advice = "if it is the service that shall use it: name another place, or have the unit allow it";
    // What systemd or printf would read otherwise than it stands there is not told to be typed.
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-=".contains(letter);
    let all_plain = lines.iter().all(|line| line.chars().all(is_plain));
    Finding::advice(TOPIC, what, advice).maybe(all_plain.then(|| add(lines)))
}
