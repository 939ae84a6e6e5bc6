//! Atlas, a TLS-terminating reverse proxy.
//!
//! Read the modules in this order; `ARCHITECTURE.md` tells the same story in prose.

// The data plane: what happens to one connection, in the order it happens.
pub mod connection;
pub mod files;
pub mod http;
pub mod listener;
pub mod offload;
pub mod proxy;
pub mod relay;
pub mod route;
pub mod tls;
pub mod transport;
pub mod upstream;

// What the data plane leaves behind.
pub mod access_log;
pub mod metrics;
pub mod outcome;

// The control plane: one thread that decides what the data plane runs.
pub mod admin;
pub mod cli;
pub mod config;
pub mod generation;
pub mod supervisor;
pub mod worker;

// The ground.
pub mod buffer;
pub mod drain;
pub mod pipe;
pub mod runtime;
pub mod sys;
pub mod time;

#[cfg(test)]
#[path = "../tests/vm/guest.rs"]
mod guest;

/// The tests of this library again, on kernels that have what this machine's may lack: all of them on
/// one, on the others those that the kernel's TLS can make a difference to.
#[cfg(test)]
mod tests {
    use super::guest::Guest;

    /// Where it is decided whether the kernel carries a connection.
    const DECIDE: [&str; 2] = ["offload::", "tls::"];
    /// Where bytes are moved that it carries.
    const SEE_THE_KERNEL: [&str; 5] = ["offload::", "relay::", "sys::", "tls::", "transport::"];

    #[test]
    fn the_tests_pass_on_linux_6_1() {
        Guest::linux_6_1().arguments(SEE_THE_KERNEL).run();
    }

    #[test]
    fn the_tests_pass_on_linux_6_12() {
        Guest::linux_6_12().run();
    }

    #[test]
    fn the_tests_pass_on_the_newest_linux() {
        Guest::newest_linux().arguments(SEE_THE_KERNEL).run();
    }

    #[test]
    fn the_tests_pass_without_kernel_tls() {
        Guest::without_tls().arguments(DECIDE).run();
    }

    #[test]
    fn the_tests_pass_where_the_kernel_refuses_keys() {
        Guest::refusing_keys().arguments(DECIDE).run();
    }
}
