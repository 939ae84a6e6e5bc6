//! The kernel, limits and sysctls.

use std::path::Path;

use rustix::process::{Resource, getrlimit};
use rustix::thread::{CapabilitySet, capabilities};

use super::finding::{Finding, Findings, Verdict};
use super::remedy::{self, Limit};
use crate::config::Loaded;
use crate::generation::Generation;
use crate::runtime;

/// Descriptors that are enough for a server nobody has told more about.
const OPEN_FILES_ENOUGH: u64 = 65_536;

/// Pages of 4 KiB a worker's pipes want: 64 of 512 KiB, for as many bodies at a time.
const PIPE_PAGES_PER_WORKER: u64 = 64 * 128;

pub(super) fn look(found: &mut Findings, loaded: Option<&Loaded>) {
    let generation = loaded.map(|loaded| &loaded.generation);
    found.add(kernel());
    found.add(cores(loaded));
    found.add(open_files(getrlimit(Resource::Nofile).maximum, generation));
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

/// Atlas raises its own limit to the hard one. A connection may need two: its own, and the
/// endpoint's or the file's.
pub(super) fn open_files(limit: Option<u64>, generation: Option<&Generation>) -> Finding {
    let Some(limit) = limit else {
        return Finding::fine("machine", "any number of open files");
    };
    let what = format!("{limit} open files");
    let asked: u64 = generation.map_or(0, |generation| {
        let listeners = generation.listeners.iter();
        listeners
            .map(|listener| listener.settings.connections_max as u64)
            .sum()
    });
    let command = remedy::raise(Limit::OpenFiles);
    if limit >= OPEN_FILES_ENOUGH.max(asked.saturating_mul(2)) {
        Finding::fine("machine", what)
    } else if asked > 0 {
        Finding::advice(
            "machine",
            what,
            format!("the listeners may hold {asked} connections, and each may need two"),
        )
        .command(command)
    } else {
        Finding::advice("machine", what, "each proxied connection needs two").command(command)
    }
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
