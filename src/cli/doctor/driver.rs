//! How workers learn of their sockets on this machine.

use super::finding::{Finding, Findings};
use super::machine::read_sysctl;
use crate::cli::run::driver_preference;
use crate::runtime::{self, Driver};

const TOPIC: &str = "driver";

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
        // 1 leaves it to those in kernel.io_uring_group, 2 to nobody.
        (Driver::Epoll(_), Some(1..)) => Finding::advice(
            TOPIC,
            what,
            "kernel.io_uring_disabled takes it away; epoll serves as well, and costs more",
        )
        .command("sysctl -w kernel.io_uring_disabled=0"),
        (Driver::Epoll(why), _) if why == "asked for" => {
            Finding::advice(TOPIC, what, "ATLAS_DRIVER=epoll asks for it")
        }
        (Driver::Epoll(_), _) => Finding::advice(TOPIC, what, "epoll serves as well, and costs more"),
    }
}
