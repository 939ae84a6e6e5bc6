//! Endpoints that are found: by names, by services.

mod files;
mod names;
mod server;
mod services;
