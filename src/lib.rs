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
