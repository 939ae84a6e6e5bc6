//! Atlas as its users see it: the built binary, real sockets, real clients and origins.
//!
//! `support` holds the words the tests speak; every other module is one subject.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::print_stderr,
    clippy::unwrap_used,
    unreachable_pub,
    missing_docs,
    reason = "tests run beside Atlas, not in it: they may wait, share and fail"
)]

mod access_log;
mod balance;
mod carriers;
mod cli;
mod demo;
mod discovery;
mod doctor;
mod drain;
mod endpoints;
mod fairness;
mod faults;
mod fetch;
mod forwarding;
mod grpc;
#[path = "../vm/guest.rs"]
mod guest;
mod handshake;
mod health;
mod http1;
mod http2;
mod http2_upstream;
mod kernel_tls;
mod limits;
mod long_bodies;
mod metrics;
mod panics;
mod pools;
mod proxy_protocol;
mod raw_http1;
mod refused_keys;
mod regressions;
mod reload;
mod retries;
mod routing;
mod shaping;
mod static_files;
mod support;
mod tcp;
mod upgrade;
mod upstream_tls;
mod workers;
