//! From a TCP connection to a secured transport: accept (downstream) and connect (upstream).

use std::sync::Arc;

/// TLS towards clients, as one listener speaks it.
pub struct Settings {
    /// The kernel shall carry connections where it can.
    pub prefer_ktls: bool,
    /// Bytes a body must have before its connection is handed to the kernel.
    pub ktls_threshold: u64,
    /// Versions, certificates, tickets, application protocols.
    pub server: Arc<rustls::ServerConfig>,
}

/// TLS towards endpoints, as one upstream speaks it.
#[derive(Debug)]
pub struct ClientSettings {
    /// The name to ask for and to verify, instead of the endpoint's.
    pub server_name: Option<rustls::pki_types::ServerName<'static>>,
    /// Roots, client certificate, versions.
    pub client: Arc<rustls::ClientConfig>,
}
