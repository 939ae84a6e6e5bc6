//! How workers learn of their sockets on this machine.

use super::finding::{Finding, Findings};
use super::machine::read_sysctl;
use super::remedy::{self, Limit};
use crate::cli::run::driver_preference;
use crate::runtime::{self, Driver};

const TOPIC: &str = "driver";

const COSTS_MORE: &str = "epoll serves as well, and costs more";

/// Starts a runtime as a worker does.
pub(super) fn look(found: &mut Findings) {
    let started = driver_preference().and_then(|preference| runtime::start(preference, std::future::ready));
    found.add(match started {
        Ok(driver) => judge(&driver, read_sysctl("kernel.io_uring_disabled")),
        Err(error) => Finding::wrong(TOPIC, error, "no worker can start"),
    });
}

pub(super) fn judge(driver: &Driver, disabled: Option<u64>) -> Finding {
    let what = driver.to_string();
    match (driver, disabled) {
        (Driver::IoUring(_), _) => Finding::fine(TOPIC, what),
        (Driver::Epoll(why), _) if why == "asked for" => {
            Finding::advice(TOPIC, what, "ATLAS_DRIVER=epoll asks for it")
        }
        (Driver::Epoll(why), _) if why.contains("RLIMIT_MEMLOCK") => {
            Finding::advice(TOPIC, what, COSTS_MORE).command(remedy::raise(Limit::LockedMemory))
        }
        // 1 leaves it to those in kernel.io_uring_group, 2 to nobody.
        (Driver::Epoll(_), Some(1..)) => Finding::advice(
            TOPIC,
            what,
            "kernel.io_uring_disabled takes it away; epoll serves as well, and costs more",
        )
        .command("sudo sysctl -w kernel.io_uring_disabled=0"),
        (Driver::Epoll(_), _) => Finding::advice(TOPIC, what, COSTS_MORE),
    }
}
