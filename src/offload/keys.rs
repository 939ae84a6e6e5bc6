//! From rustls's secrets to the kernel's keys.

use rustls::ConnectionTrafficSecrets;

use crate::sys::ktls::{Cipher, Key, Version};

/// One direction's key for the kernel, which goes on at record number `sequence`.
///
/// `None` for a cipher the kernel knows nothing of.
pub(super) fn key(version: Version, secrets: &ConnectionTrafficSecrets, sequence: u64) -> Option<Key> {
    let (cipher, key, iv) = match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (Cipher::Aes128Gcm, key, iv),
        ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (Cipher::Aes256Gcm, key, iv),
        ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (Cipher::Chacha20Poly1305, key, iv),
        _ => return None,
    };
    let mut nonce: [u8; 12] = iv.as_ref().try_into().ok()?;
    if version == Version::Tls12 && cipher != Cipher::Chacha20Poly1305 {
        first_explicit_nonce(&mut nonce, sequence);
    }
    Key::new(version, cipher, key.as_ref(), nonce, sequence)
}

/// Moves the explicit nonce of TLS 1.2 with AES-GCM past those that rustls has used.
///
/// rustls gives record `k` the nonce `E ^ k`; the kernel counts up by one from the one it is given.
/// Starting from `E` again, as others do, gives the record after Finished the nonce of Finished
/// itself, and with AES-GCM two records under one nonce lay open the key that authenticates them.
/// `E ^ k` lies within `k` of `E`, so what begins at `E + sequence` meets no `k` below `sequence`,
/// not even when it wraps around.
fn first_explicit_nonce(nonce: &mut [u8; 12], sequence: u64) {
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
