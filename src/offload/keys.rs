//! From rustls's secrets to the kernel's keys. Nothing else sees a secret of a connection that moves: what
//! leaves here is a [`Key`], which only the kernel reads.
//!
//! Each copy that is made here is overwritten when it is dropped, and what is passed on lies behind a
//! pointer, so that none stays where it was moved from. Out of reach are the nonce as rustls hands it out,
//! which opens nothing without its key (that one rustls overwrites), and what rustls leaves on the stack
//! where it moves its own.

use std::io;
use std::os::fd::AsFd;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::kernel::KernelConnection;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::{ConnectionTrafficSecrets, Error, ExtractedSecrets, ProtocolVersion, SupportedCipherSuite};
use zeroize::Zeroizing;

use super::{cipher_of, version_of};
use crate::sys::ktls::{self, Cipher, Direction, Key, NONCE_BYTES, Version};

/// What rustls keeps of a connection the kernel carries: the way from one key to the next.
pub enum Keys {
    /// Of a connection with a client.
    Server(KernelConnection<ServerConnectionData>),
    /// Of a connection with an endpoint.
    Client(KernelConnection<ClientConnectionData>),
}

/// Both keys of a connection on its way into the kernel.
#[derive(Debug)]
pub struct FirstKeys {
    pub(super) send: Key,
    pub(super) receive: Key,
}

impl Keys {
    /// Takes the keys of a connection with a client out of rustls.
    ///
    /// # Errors
    ///
    /// Of rustls: the handshake is not over, or it has something to say. The connection is lost.
    pub fn of_server(connection: UnbufferedServerConnection) -> Result<(FirstKeys, Self), Error> {
        let (secrets, rest) = connection.dangerous_into_kernel_connection()?;
        Ok((first_keys(rest.protocol_version(), secrets)?, Self::Server(rest)))
    }

    /// As [`Self::of_server`], of a connection with an endpoint.
    ///
    /// # Errors
    ///
    /// As [`Self::of_server`].
    pub fn of_client(connection: UnbufferedClientConnection) -> Result<(FirstKeys, Self), Error> {
        let (secrets, rest) = connection.dangerous_into_kernel_connection()?;
        Ok((first_keys(rest.protocol_version(), secrets)?, Self::Client(rest)))
    }

    /// The next key of a direction, after a KeyUpdate (TLS 1.3).
    ///
    /// # Errors
    ///
    /// Of rustls: there is none.
    pub fn next(&mut self, direction: Direction) -> Result<Key, Error> {
        let version = self.version();
        let (sequence, secrets) = match (self, direction) {
            (Self::Server(connection), Direction::Send) => connection.update_tx_secret(),
            (Self::Server(connection), Direction::Receive) => connection.update_rx_secret(),
            (Self::Client(connection), Direction::Send) => connection.update_tx_secret(),
            (Self::Client(connection), Direction::Receive) => connection.update_rx_secret(),
        }?;
        key(version, &secrets, sequence)
    }

    /// Keeps a ticket for the next connection to this server.
    ///
    /// # Errors
    ///
    /// Of rustls: it cannot be read, or it came from a client.
    pub fn keep_ticket(&mut self, ticket: &[u8]) -> Result<(), Error> {
        match self {
            Self::Server(_) => Err(Error::General("a client has sent a ticket".to_owned())),
            Self::Client(connection) => connection.handle_new_session_ticket(ticket),
        }
    }

    /// Whether the peer is an endpoint.
    pub fn is_client(&self) -> bool {
        matches!(self, Self::Client(_))
    }

    /// Whether keys can be renewed.
    pub fn is_tls13(&self) -> bool {
        self.version() == ProtocolVersion::TLSv1_3
    }

    /// How many records may be sent under one key.
    pub fn records_max(&self) -> u64 {
        match self.suite() {
            SupportedCipherSuite::Tls12(suite) => suite.common.confidentiality_limit,
            SupportedCipherSuite::Tls13(suite) => suite.common.confidentiality_limit,
        }
    }

    /// How many records the kernel has sent or received under its present key, rustls's before it
    /// included if it is the first.
    ///
    /// # Errors
    ///
    /// `Unsupported` for a cipher the kernel knows nothing of; else the socket's error.
    pub fn records(&self, socket: &impl AsFd, direction: Direction) -> io::Result<u64> {
        let cipher = cipher_of(self.suite().suite()).ok_or(io::ErrorKind::Unsupported)?;
        ktls::sequence(socket.as_fd(), direction, cipher)
    }

    fn version(&self) -> ProtocolVersion {
        match self {
            Self::Server(connection) => connection.protocol_version(),
            Self::Client(connection) => connection.protocol_version(),
        }
    }

    fn suite(&self) -> SupportedCipherSuite {
        match self {
            Self::Server(connection) => connection.negotiated_cipher_suite(),
            Self::Client(connection) => connection.negotiated_cipher_suite(),
        }
    }
}

pub(super) fn first_keys(version: ProtocolVersion, secrets: ExtractedSecrets) -> Result<FirstKeys, Error> {
    let ExtractedSecrets { tx, rx } = secrets;
    Ok(FirstKeys {
        send: key(version, &tx.1, tx.0)?,
        receive: key(version, &rx.1, rx.0)?,
    })
}

/// One direction's key for the kernel, which goes on at record number `sequence`. An error for a
/// cipher or a version the kernel knows nothing of.
fn key(version: ProtocolVersion, secrets: &ConnectionTrafficSecrets, sequence: u64) -> Result<Key, Error> {
    let unknown = || Error::General("the kernel has no such cipher".to_owned());
    let version = version_of(version).ok_or_else(unknown)?;
    let (cipher, key, iv) = match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (Cipher::Aes128Gcm, key, iv),
        ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (Cipher::Aes256Gcm, key, iv),
        ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (Cipher::Chacha20Poly1305, key, iv),
        _ => return Err(unknown()),
    };
    let mut nonce = Zeroizing::new([0; NONCE_BYTES]);
    nonce.copy_from_slice(iv.as_ref());
    if version == Version::Tls12 && cipher != Cipher::Chacha20Poly1305 {
        first_explicit_nonce(&mut nonce, sequence);
    }
    Key::new(version, cipher, key.as_ref(), &nonce, sequence).ok_or_else(unknown)
}

/// Moves the explicit nonce of TLS 1.2 with AES-GCM past those that rustls has used.
///
/// rustls gives record `k` the nonce `E ^ k`; the kernel counts up by one from the one it is given.
/// Starting from `E` again, as others do, gives the record after Finished the nonce of Finished
/// itself, and with AES-GCM two records under one nonce lay open the key that authenticates them.
/// `E ^ k` lies within `k` of `E`, so what begins at `E + sequence` meets no `k` below `sequence`,
/// not even when it wraps around.
fn first_explicit_nonce(nonce: &mut [u8; NONCE_BYTES], sequence: u64) {
    let explicit = &mut nonce[4..];
    let mut start = [0; 8];
    start.copy_from_slice(explicit);
    let next = u64::from_be_bytes(start).wrapping_add(sequence);
    explicit.copy_from_slice(&next.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn explicit_nonces_of_the_kernel_are_none_of_those_rustls_used() {
        for start in [0, 1, 0xff, 0x1234_5678_9abc_def0, u64::MAX - 3, u64::MAX] {
            for sequence in [1, 2, 7, 255, 256, 1000] {
                let used: HashSet<u64> = (0..sequence).map(|record| start ^ record).collect();
                let mut nonce = [9; 12];
                nonce[4..].copy_from_slice(&start.to_be_bytes());
                first_explicit_nonce(&mut nonce, sequence);
                assert_eq!(nonce[..4], [9; 4], "the salt stays");
                let first = u64::from_be_bytes(nonce[4..].try_into().unwrap());
                for record in 0..2000 {
                    assert!(
                        !used.contains(&first.wrapping_add(record)),
                        "{start:x} {sequence}"
                    );
                }
            }
        }
    }
}
