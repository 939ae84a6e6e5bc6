//! What the operating system lets the process have: descriptors and cores.

use rustix::process::{Resource, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity};

/// Raises the number of open files to what the hard limit allows; the number in force.
pub(super) fn raise_open_files() -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    let before = limit.current;
    limit.current = limit.maximum;
    match setrlimit(Resource::Nofile, limit) {
        Ok(()) => limit.current,
        Err(_) => before,
    }
    .unwrap_or(u64::MAX)
}

/// The cores the process may use, in order; as many as its CPU quota allows.
pub(super) fn cores() -> Vec<usize> {
    let set = sched_getaffinity(None).unwrap_or_else(|_| CpuSet::new());
    let mut cores: Vec<_> = (0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect();
    // Counts a container's quota too, which the affinity does not show.
    let quota = std::thread::available_parallelism().map_or(1, usize::from);
    cores.truncate(quota.max(1));
    if cores.is_empty() {
        cores.push(0);
    }
    cores
}
