//! Where the instructions went: perf beside a measurement, for people to look at.

use std::fs;
use std::process::{Child, Command};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// perf samples by a clock here, which counts instructions; this is one in 50,000.
const SAMPLES_A_SECOND: &str = "20000";

/// How long perf takes to begin.
const BEGINS: Duration = Duration::from_millis(1500);

/// Lets perf sample as often as it is asked to, and leaves the kernel's symbols for its report.
pub(crate) fn prepare() {
    fs::write("/proc/sys/kernel/perf_event_max_sample_rate", "100000").unwrap();
    fs::write("/proc/sys/kernel/perf_cpu_time_max_percent", "0").unwrap();
    fs::copy("/proc/kallsyms", format!("{}/kallsyms", folder())).unwrap();
}

fn folder() -> String {
    std::env::var("OUT").unwrap()
}

/// A recording of everything that runs, until it is dropped.
pub(crate) struct Recording(Child);

impl Recording {
    pub(crate) fn start(case: &str, server: &str) -> Self {
        let file = format!("{}/{case}.{}.data", folder(), server.replace([' ', ','], "-"));
        let perf = Command::new("/bin/perf")
            .args([
                "record",
                "-q",
                "-a",
                "-g",
                "-e",
                "cpu-clock",
                "-F",
                SAMPLES_A_SECOND,
                "-o",
                &file,
            ])
            .spawn()
            .unwrap();
        std::thread::sleep(BEGINS);
        Self(perf)
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        if let Some(perf) = Pid::from_raw(self.0.id().cast_signed()) {
            let _ = kill_process(perf, Signal::INT);
        }
        let _ = self.0.wait();
    }
}
