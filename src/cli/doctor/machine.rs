//! The kernel, limits and sysctls.

use std::path::Path;

use rustix::process::{Resource, getrlimit};
use rustix::thread::{CapabilitySet, capabilities};

use super::finding::{Finding, Findings, Verdict};
use super::remedy::{self, Limit};
use crate::config::Loaded;
use crate::generation::Mode;
use crate::runtime;

/// Descriptors that are enough for a server nobody has told more about.
const OPEN_FILES_ENOUGH: u64 = 65_536;

/// What the limit is raised to: as many as Linux gives a process unless it is told to give more (`fs.nr_open`).
const OPEN_FILES_RAISED: u64 = 1_048_576;

/// Pages of 4 KiB a worker's pipes want: 64 of 512 KiB, for as many bodies at a time.
const PIPE_PAGES_PER_WORKER: u64 = 64 * 128;

pub(super) fn look(found: &mut Findings, loaded: Option<&Loaded>) {
    let generation = loaded.map(|loaded| &loaded.generation);
    found.add(kernel());
    found.add(cores(loaded));
    let wanted = loaded.map(Descriptors::of).unwrap_or_default();
    found.add(open_files(getrlimit(Resource::Nofile).maximum, &wanted));
    let workers = generation
        .and_then(|generation| generation.workers)
        .unwrap_or_else(cores_usable);
    let lockable = getrlimit(Resource::Memlock).current;
    found.add(judge_locked_memory(
        lockable,
        runtime::charges_rings(),
        workers as u64,
    ));
    let is_limited = !has(CapabilitySet::SYS_RESOURCE);
    for sysctl in SYSCTLS {
        if let Some(value) = read_sysctl(sysctl.name) {
            found.add(sysctl.judge(value, workers, is_limited));
        }
    }
}

/// Whether this process has a capability.
pub(super) fn has(capability: CapabilitySet) -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.contains(capability))
}

/// Whether the kernel that runs came with this system. In a container, or under one from elsewhere, there are none of
/// its modules.
pub(super) fn has_own_kernel() -> bool {
    Path::new("/lib/modules").join(release()).is_dir()
}

/// The kernel's release, as `uname -r`.
pub(super) fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

fn kernel() -> Finding {
    let machine = rustix::system::uname().machine().to_string_lossy().into_owned();
    Finding::fine("machine", format!("Linux {}, {machine}", release()))
}

fn cores_usable() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn cores(loaded: Option<&Loaded>) -> Finding {
    let told = judge_cores(
        cores_usable(),
        loaded.and_then(|loaded| loaded.generation.workers),
    );
    if told.verdict == Verdict::Fine {
        return told;
    }
    let command = loaded.and_then(|Loaded { lines, .. }| {
        let place = lines.workers.as_ref()?;
        remedy::leave_out(lines, place, "workers")
    });
    told.maybe(command)
}

pub(super) fn judge_cores(cores: usize, workers: Option<usize>) -> Finding {
    let plural = if cores == 1 { "core" } else { "cores" };
    let what = format!("{cores} {plural} to use");
    match workers {
        Some(workers) if workers > cores => Finding::advice(
            "machine",
            format!("{what}, and {workers} workers are configured"),
            "workers that share a core wait for each other: leave `workers` out, and there is one for each \
             from the next start of Atlas on",
        ),
        Some(workers) => Finding::fine("machine", format!("{what}, {workers} by configuration")),
        None => Finding::fine("machine", format!("{what}, a worker on each")),
    }
}

/// What the connections of listeners may take.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Descriptors {
    /// Of all listeners, at most: each connection has its own, and the endpoint's or the file's.
    pub(super) most: u64,
    /// Of those whose `connections_max` is written, at least: in http mode a connection may wait for a request,
    /// or share that to the endpoint; in tcp mode it has both from the start.
    pub(super) asked: u64,
    /// The lines that ask for them.
    pub(super) lines: Vec<usize>,
}

impl Descriptors {
    pub(super) fn of(
        Loaded {
            generation, lines, ..
        }: &Loaded,
    ) -> Self {
        let listeners = generation.listeners.iter().zip(&lines.connections_max);
        let mut all = Self::default();
        let mut places = Vec::new();
        for (listener, place) in listeners {
            let connections = listener.settings.connections_max as u64;
            let least = match listener.mode {
                Mode::Http => connections,
                Mode::Tcp(_) => connections.saturating_mul(2),
            };
            all.most = all.most.saturating_add(connections.saturating_mul(2));
            if let Some(place) = place {
                all.asked = all.asked.saturating_add(least);
                places.push(place.clone());
            }
        }
        all.lines = lines.numbers(&places);
        all
    }
}

/// Atlas raises its own limit to the hard one, starts whatever that is, and accepts nobody while it has no
/// descriptor left.
pub(super) fn open_files(limit: Option<u64>, wanted: &Descriptors) -> Finding {
    let Some(limit) = limit else {
        return Finding::fine("machine", "any number of open files");
    };
    let what = format!("{limit} open files");
    let told = if wanted.asked >= limit {
        let lines: Vec<_> = wanted.lines.iter().map(usize::to_string).collect();
        let plural = if lines.len() == 1 { "line" } else { "lines" };
        Finding::wrong(
            "machine",
            what,
            format!(
                "`connections_max` in {plural} {} needs more than {} of them at least; connections beyond are not \
                 accepted: lower it, or raise the limit and start Atlas anew",
                lines.join(", "),
                wanted.asked
            ),
        )
    } else if limit >= OPEN_FILES_ENOUGH.max(wanted.most) {
        return Finding::fine("machine", what);
    } else if wanted.most > 0 {
        Finding::advice(
            "machine",
            what,
            format!(
                "the connections of all listeners may need {} of them",
                wanted.most
            ),
        )
    } else {
        Finding::advice("machine", what, "each proxied connection needs two")
    };
    let helps = limit < OPEN_FILES_RAISED && wanted.asked < OPEN_FILES_RAISED;
    told.maybe(helps.then(|| remedy::raise(Limit::OpenFiles)))
}

/// All processes of a user share what they may lock, so enough may be too little; whether it was, the
/// driver tells.
pub(super) fn judge_locked_memory(limit: Option<u64>, is_charged: Option<bool>, workers: u64) -> Finding {
    let what = match limit {
        Some(bytes) => format!("{} KiB of locked memory", bytes / 1024),
        None => "any amount of locked memory".to_owned(),
    };
    let wanted = workers.saturating_mul(runtime::RING_BYTES);
    let rings = format!("rings of io_uring want {} KiB of it", wanted / 1024);
    match (is_charged, limit) {
        (Some(true), Some(limit)) if limit < wanted => Finding::advice(
            "machine",
            format!("{what}; {rings}"),
            "a worker that gets none for its ring makes do with a smaller one, or with epoll",
        )
        .command(remedy::raise(Limit::LockedMemory)),
        (Some(true), _) => Finding::fine("machine", format!("{what}; {rings}")),
        (Some(false), _) => Finding::fine("machine", format!("{what}; rings of io_uring want none of it")),
        (None, _) => Finding::fine("machine", what),
    }
}

/// A knob of the kernel.
pub(super) struct Sysctl {
    pub(super) name: &'static str,
    /// What it should be at least; given workers, and whether this user is bound by limits.
    least: fn(usize, bool) -> u64,
    /// What it is for.
    why: &'static str,
}

pub(super) const SYSCTLS: [Sysctl; 4] = [
    Sysctl {
        name: "net.core.somaxconn",
        least: |_, _| 4096,
        why: "so many connections may wait while all workers are busy; more are dropped",
    },
    Sysctl {
        name: "net.ipv4.tcp_max_syn_backlog",
        least: |_, _| 1024,
        why: "so many may be half open on a listener before the kernel answers with cookies",
    },
    Sysctl {
        name: "net.ipv4.tcp_migrate_req",
        least: |_, _| 1,
        why: "when a worker stops listening, clients that wait for it go to another instead of being reset",
    },
    Sysctl {
        name: "fs.pipe-user-pages-soft",
        least: |workers, is_limited| match is_limited {
            true => workers as u64 * PIPE_PAGES_PER_WORKER,
            false => 0,
        },
        why: "beyond it the pipes that bodies are spliced through are too small, and bodies are copied",
    },
];

impl Sysctl {
    /// 0 means without limit where a limit of 0 would make no sense.
    pub(super) fn judge(&self, value: u64, workers: usize, is_limited: bool) -> Finding {
        let least = (self.least)(workers, is_limited);
        let what = format!("{} = {value}", self.name);
        if value >= least || (value == 0 && self.name.starts_with("fs.")) {
            return Finding::fine("sysctls", what);
        }
        Finding::advice("sysctls", what, self.why).command(format!("sudo sysctl -w {}={least}", self.name))
    }
}

pub(super) fn read_sysctl(name: &str) -> Option<u64> {
    let path = Path::new("/proc/sys").join(name.replace('.', "/"));
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}
