//! Endpoints that are found: by names, by services.

mod names;
mod server;
mod services;
