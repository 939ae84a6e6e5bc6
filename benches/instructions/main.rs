//! Instructions of Atlas and nginx, each with and without kernel TLS, counted in a virtual machine.
//!
//!     cargo build --profile dist && cargo bench --bench instructions
//!
//! QEMU runs a Debian kernel with `-icount`: time in the guest is the number of instructions
//! executed, whatever else this machine does, so what a server's tasks took by the scheduler's
//! account is what they executed, in the kernel and outside. One processor, the client and the
//! origin (a plain nginx) on it too; their instructions are not counted. Every instruction counts
//! one: this compares servers and builds, it is no measure of seconds. Medians of interleaved
//! rounds; small requests repeat within 1.5 %, large bodies within 6 % (the median of 4: 2.5 %).
//!
//! `--atlas FILE`, `--kernel cloud-newest`, `--rounds 8`, `--cases static-10m,static-1k`, `--threshold 0`
//! (Atlas's `ktls_threshold`).
//! `--perf FOLDER` leaves there what perf saw of each case and server (the figures are spoilt by it):
//! `perf report --kallsyms FOLDER/kallsyms -i FOLDER/static-1k.Atlas--without.data`.
//! Needs what `tests/vm` needs for QEMU, and nginx.
#![expect(clippy::print_stdout, reason = "a bench prints")]
#![expect(clippy::unwrap_used, reason = "a bench may end in a panic")]
#![expect(clippy::disallowed_methods, reason = "the client is a thread that may wait")]
#![expect(clippy::cast_precision_loss, reason = "figures for people")]

mod client;
mod guest;
mod host;
mod perf;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    match arguments.first().map(String::as_str) {
        Some("guest") => guest::measure(),
        _ => host::run(&arguments),
    }
}
