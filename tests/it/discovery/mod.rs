//! Endpoints that are found: by names, by services.

mod files;
mod names;
pub mod server;
mod services;
