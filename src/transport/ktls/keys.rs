//! What rustls keeps of a connection the kernel carries: the way from one key to the next.

use std::io;

use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{ConnectionTrafficSecrets, ProtocolVersion, SupportedCipherSuite};

use super::control::Fault;
use crate::offload::{self, Direction};
use crate::runtime::Socket;

/// The keys of either side.
pub enum Keys {
    /// Of a connection with a client.
    Server(KernelConnection<ServerConnectionData>),
    /// Of a connection with an endpoint.
    Client(KernelConnection<ClientConnectionData>),
}

impl Keys {
    pub(super) fn is_client(&self) -> bool {
        matches!(self, Self::Client(_))
    }

    pub(super) fn is_tls13(&self) -> bool {
        let version = match self {
            Self::Server(connection) => connection.protocol_version(),
            Self::Client(connection) => connection.protocol_version(),
        };
        version == ProtocolVersion::TLSv1_3
    }

    fn suite(&self) -> SupportedCipherSuite {
        match self {
            Self::Server(connection) => connection.negotiated_cipher_suite(),
            Self::Client(connection) => connection.negotiated_cipher_suite(),
        }
    }

    /// How many records may be sent under one key.
    pub(super) fn records_max(&self) -> u64 {
        match self.suite() {
            SupportedCipherSuite::Tls12(suite) => suite.common.confidentiality_limit,
            SupportedCipherSuite::Tls13(suite) => suite.common.confidentiality_limit,
        }
    }

    /// How many went one way under this one.
    pub(super) fn records(&self, socket: &Socket, direction: Direction) -> io::Result<u64> {
        offload::records(socket, self.suite().suite(), direction)
    }

    pub(super) fn next_tx(&mut self) -> Result<ConnectionTrafficSecrets, Fault> {
        let next = match self {
            Self::Server(connection) => connection.update_tx_secret(),
            Self::Client(connection) => connection.update_tx_secret(),
        };
        next.map(|(_, secrets)| secrets).map_err(|_| Fault::KEY_UPDATE)
    }

    pub(super) fn next_rx(&mut self) -> Result<ConnectionTrafficSecrets, Fault> {
        let next = match self {
            Self::Server(connection) => connection.update_rx_secret(),
            Self::Client(connection) => connection.update_rx_secret(),
        };
        next.map(|(_, secrets)| secrets).map_err(|_| Fault::KEY_UPDATE)
    }

    /// Keeps a ticket for the next connection to this server.
    pub(super) fn keep_ticket(&mut self, ticket: &[u8]) -> Result<(), Fault> {
        match self {
            Self::Server(_) => Err(Fault::UNEXPECTED),
            Self::Client(connection) => connection
                .handle_new_session_ticket(ticket)
                .map_err(|_| Fault::UNREADABLE),
        }
    }
}
