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

/// The cores the process may use, in order.
pub(super) fn cores() -> Vec<usize> {
    let set = sched_getaffinity(None).unwrap_or_else(|_| CpuSet::new());
    let mut cores: Vec<_> = (0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect();
    if cores.is_empty() {
        cores.push(0);
    }
    cores
}

/// How many of these cores may be busy at a time: a container's quota counts, which the affinity does not show.
pub(super) fn parallelism(cores: &[usize]) -> usize {
    let quota = std::thread::available_parallelism().map_or(1, usize::from);
    quota.clamp(1, cores.len())
}
