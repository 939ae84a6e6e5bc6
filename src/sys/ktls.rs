//! The kernel's TLS: how a socket gets it, and how records that are not data go in and out.

use std::fmt;
use std::io;
use std::mem::{offset_of, size_of};
use std::os::fd::{AsRawFd, BorrowedFd};

use zeroize::Zeroizing;

/// The largest plaintext of a record (RFC 8446 §5.1).
pub const RECORD_BYTES_MAX: usize = 16 * 1024;

/// `linux/tls.h`; `libc` has only some of it, and not for every target.
const SOL_TLS: libc::c_int = 282;
const TLS_TX: libc::c_int = 1;
const TLS_RX: libc::c_int = 2;
const TLS_SET_RECORD_TYPE: libc::c_int = 1;
const TLS_GET_RECORD_TYPE: libc::c_int = 2;
const CRYPTO_INFO_BYTES_MAX: usize = 56;

/// Bytes of the nonce of each of the ciphers, the salt included.
pub const NONCE_BYTES: usize = 12;

/// A version of TLS the kernel may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// TLS 1.2.
    Tls12,
    /// TLS 1.3.
    Tls13,
}

impl Version {
    const fn number(self) -> u16 {
        match self {
            Self::Tls12 => 0x0303,
            Self::Tls13 => 0x0304,
        }
    }
}

/// A cipher the kernel may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cipher {
    /// AES-128-GCM.
    Aes128Gcm,
    /// AES-256-GCM.
    Aes256Gcm,
    /// ChaCha20-Poly1305.
    Chacha20Poly1305,
}

impl Cipher {
    const fn number(self) -> u16 {
        match self {
            Self::Aes128Gcm => 51,
            Self::Aes256Gcm => 52,
            Self::Chacha20Poly1305 => 54,
        }
    }

    /// Bytes of its key.
    pub const fn key_bytes(self) -> usize {
        match self {
            Self::Aes128Gcm => 16,
            Self::Aes256Gcm | Self::Chacha20Poly1305 => 32,
        }
    }

    /// Bytes of its `struct tls12_crypto_info_…`.
    const fn info_bytes(self) -> usize {
        // Version and cipher, the nonce, the key, the number of the next record.
        2 + 2 + NONCE_BYTES + self.key_bytes() + 8
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tls12 => "TLS 1.2",
            Self::Tls13 => "TLS 1.3",
        })
    }
}

impl fmt::Display for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Aes128Gcm => "AES-128-GCM",
            Self::Aes256Gcm => "AES-256-GCM",
            Self::Chacha20Poly1305 => "ChaCha20-Poly1305",
        })
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Send => "sending",
            Self::Receive => "receiving",
        })
    }
}

/// A direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// What this side sends.
    Send,
    /// What this side receives.
    Receive,
}

impl Direction {
    const fn option(self) -> libc::c_int {
        match self {
            Self::Send => TLS_TX,
            Self::Receive => TLS_RX,
        }
    }
}

/// One direction's key as the kernel takes it; its memory is overwritten when dropped. It stays where it
/// is when the `Key` is moved: a move copies, and nobody overwrites what it copied from.
pub struct Key {
    info: Box<Zeroizing<[u8; CRYPTO_INFO_BYTES_MAX]>>,
    version: Version,
    cipher: Cipher,
}

/// Without what has to stay secret.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({} {})", self.version, self.cipher)
    }
}

impl Key {
    /// Puts `struct tls12_crypto_info_…` together. `nonce`: in TLS 1.3, and with ChaCha20, what
    /// each record's number is mixed into; in TLS 1.2 with AES-GCM the salt (4 bytes) and the
    /// explicit nonce of the next record (8), which the kernel then counts up by one. `sequence`:
    /// the number of the next record.
    ///
    /// `None` unless the key is as long as the cipher's keys are.
    pub fn new(
        version: Version,
        cipher: Cipher,
        key: &[u8],
        nonce: &[u8; NONCE_BYTES],
        sequence: u64,
    ) -> Option<Self> {
        if key.len() != cipher.key_bytes() {
            return None;
        }
        let (salt, explicit) = nonce.split_at(4);
        let parts: [&[u8]; 6] = match cipher {
            Cipher::Aes128Gcm | Cipher::Aes256Gcm => [
                &version.number().to_ne_bytes(),
                &cipher.number().to_ne_bytes(),
                explicit,
                key,
                salt,
                &sequence.to_be_bytes(),
            ],
            Cipher::Chacha20Poly1305 => [
                &version.number().to_ne_bytes(),
                &cipher.number().to_ne_bytes(),
                nonce,
                key,
                &[],
                &sequence.to_be_bytes(),
            ],
        };
        let mut info = Box::new(Zeroizing::new([0; CRYPTO_INFO_BYTES_MAX]));
        let mut at = 0;
        for part in parts {
            info[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        Some(Self {
            info,
            version,
            cipher,
        })
    }
}

/// Gives a connected TCP socket the kernel's TLS (`TCP_ULP`). Until a key is set it stays as it
/// was, but that io_uring's zero-copy sends fail from now on.
///
/// # Errors
///
/// `ENOENT`: this kernel has none, or it is not loaded and this process may not load it.
/// `ENOTCONN`: not connected, or the peer has sent its FIN. `EEXIST`: it has it already.
pub fn attach(socket: BorrowedFd<'_>) -> io::Result<()> {
    set(socket, libc::IPPROTO_TCP, libc::TCP_ULP, b"tls")
}

/// Sets the key of a direction; from now on the kernel makes or opens its records. It cannot be
/// taken back.
///
/// # Errors
///
/// `EINVAL`: no such version or cipher, or not the other direction's. `ENOENT`: the cipher's
/// module is missing. `EBUSY`: there was a key before, and this kernel cannot renew it.
pub fn set_key(socket: BorrowedFd<'_>, direction: Direction, key: &Key) -> io::Result<()> {
    set(
        socket,
        SOL_TLS,
        direction.option(),
        &key.info[..key.cipher.info_bytes()],
    )
}

/// Sets how many bytes have to wait in a socket's queue before it wakes its reader
/// (`SO_RCVLOWAT`). Of records they are bytes as they came; a FIN or an error wakes it anyway.
///
/// # Errors
///
/// As the kernel has them.
pub fn set_low_water(socket: BorrowedFd<'_>, bytes: u32) -> io::Result<()> {
    let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    set(socket, libc::SOL_SOCKET, libc::SO_RCVLOWAT, &bytes.to_ne_bytes())
}

fn set(socket: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int, value: &[u8]) -> io::Result<()> {
    let length = libc::socklen_t::try_from(value.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: `socket` is open for the whole call because it is borrowed; `value` is readable for
    // the `length` bytes the kernel is told of, and it keeps no pointer to them.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value.as_ptr().cast(), length) };
    count(result as isize).map(drop)
}

/// The number of the next record in a direction that has a key, from 0 for each key.
///
/// # Errors
///
/// `EBUSY` where no key was set.
pub fn sequence(socket: BorrowedFd<'_>, direction: Direction, cipher: Cipher) -> io::Result<u64> {
    // The kernel gives the key with it.
    let mut info = Zeroizing::new([0u8; CRYPTO_INFO_BYTES_MAX]);
    let bytes = cipher.info_bytes();
    let mut length = libc::socklen_t::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: `socket` is open for the whole call because it is borrowed; `info` is writable for
    // the `length` bytes the kernel is told of, which are at most its own length, and the kernel
    // writes at most so many; both outlive the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            SOL_TLS,
            direction.option(),
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    count(result as isize)?;
    let mut number = [0; 8];
    number.copy_from_slice(&info[bytes - 8..bytes]);
    Ok(u64::from_be_bytes(number))
}

/// What [`receive_record`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its type: 21 alert, 22 handshake, 23 data. `None` at the peer's FIN.
    pub kind: Option<u8>,
    /// Bytes of it. Records of data that came together are one here.
    pub count: usize,
}

/// Takes the next record, whatever its type, without waiting.
///
/// # Errors
///
/// `WouldBlock` when none is there.
pub fn receive_record(socket: BorrowedFd<'_>, into: &mut [u8]) -> io::Result<Record> {
    let mut control = Control::new(0, 0);
    let mut bytes = libc::iovec {
        iov_base: into.as_mut_ptr().cast(),
        iov_len: into.len(),
    };
    let mut message = message(&mut bytes, &mut control);
    let count = retried(|| {
        // SAFETY: `socket` is open for the whole call because it is borrowed; `message` points to one
        // `iovec` over `into` and to `control`, each writable for as long as is said there and
        // outliving the call; the kernel writes no further and keeps no pointer.
        unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) }
    })?;
    let is_told = message.msg_controllen >= (Control::LENGTH as _)
        && control.header.cmsg_level == SOL_TLS
        && control.header.cmsg_type == TLS_GET_RECORD_TYPE;
    Ok(Record {
        kind: is_told.then_some(control.kind),
        count,
    })
}

/// Sends one record of a type, without waiting. Records of data that were held back go before it.
///
/// # Errors
///
/// `WouldBlock` when it does not fit now.
pub fn send_record(socket: BorrowedFd<'_>, kind: u8, from: &[u8]) -> io::Result<usize> {
    let mut control = Control::new(TLS_SET_RECORD_TYPE, kind);
    let mut bytes = libc::iovec {
        iov_base: from.as_ptr().cast_mut().cast(),
        iov_len: from.len(),
    };
    let message = message(&mut bytes, &mut control);
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    retried(|| {
        // SAFETY: `socket` is open for the whole call because it is borrowed; `message` points to one
        // `iovec` over `from`, which a send only reads, and to `control`, a whole control message;
        // both are readable for as long as is said there and outlive the call; the kernel keeps no
        // pointer.
        unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, flags) }
    })
}

/// A control message that holds one byte: the type of a record.
#[repr(C)]
struct Control {
    header: libc::cmsghdr,
    kind: u8,
    /// To the alignment that `CMSG_SPACE` asks for.
    _fill: [u8; size_of::<usize>() - 1],
}

impl Control {
    /// `CMSG_LEN(1)`.
    const LENGTH: usize = offset_of!(Self, kind) + 1;

    fn new(kind: libc::c_int, record: u8) -> Self {
        // SAFETY: a `cmsghdr` is made of integers, for which zeroes are a value.
        let mut header: libc::cmsghdr = unsafe { std::mem::zeroed() };
        header.cmsg_len = Self::LENGTH as _;
        header.cmsg_level = SOL_TLS;
        header.cmsg_type = kind;
        Self {
            header,
            kind: record,
            _fill: [0; size_of::<usize>() - 1],
        }
    }
}

fn message(bytes: &mut libc::iovec, control: &mut Control) -> libc::msghdr {
    // SAFETY: a `msghdr` is made of integers and pointers, for which zeroes are a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = bytes;
    message.msg_iovlen = 1;
    message.msg_control = std::ptr::from_mut(control).cast();
    message.msg_controllen = size_of::<Control>() as _;
    message
}

/// Makes a system call, again if a signal has interrupted it before it did anything.
fn retried(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        match count(call()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// What a system call returned.
fn count(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(cipher: Cipher) -> Vec<u8> {
        let key: Vec<u8> = (0..32).map(|byte| 0x40 + byte).collect();
        let nonce = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11];
        let key = Key::new(
            Version::Tls13,
            cipher,
            &key[..cipher.key_bytes()],
            &nonce,
            0x0102_0304,
        )
        .unwrap();
        key.info[..cipher.info_bytes()].to_vec()
    }

    #[test]
    fn keys_lie_as_the_kernels_structs_do() {
        let aes = info(Cipher::Aes128Gcm);
        assert_eq!(aes.len(), 40);
        assert_eq!(aes[..2], 0x0304_u16.to_ne_bytes());
        assert_eq!(aes[2..4], 51_u16.to_ne_bytes());
        assert_eq!(aes[4..12], [4, 5, 6, 7, 8, 9, 10, 11]);
        assert_eq!(aes[12], 0x40);
        assert_eq!(aes[28..32], [0, 1, 2, 3]);
        assert_eq!(aes[32..], [0, 0, 0, 0, 1, 2, 3, 4]);
        assert_eq!(info(Cipher::Aes256Gcm).len(), 56);
        let chacha = info(Cipher::Chacha20Poly1305);
        assert_eq!(chacha.len(), 56);
        assert_eq!(chacha[2..4], 54_u16.to_ne_bytes());
        assert_eq!(chacha[4..16], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
        assert_eq!(chacha[16], 0x40);
        assert_eq!(chacha[48..], [0, 0, 0, 0, 1, 2, 3, 4]);
    }

    #[test]
    fn a_key_tells_nobody_what_it_is_and_is_overwritten_when_it_is_dropped() {
        fn overwritten(_: &impl zeroize::ZeroizeOnDrop) {}
        let key = Key::new(Version::Tls13, Cipher::Aes128Gcm, &[171; 16], &[205; 12], 7).unwrap();
        assert_eq!(
            format!("{key:?} {key:#?}"),
            "Key(TLS 1.3 AES-128-GCM) Key(TLS 1.3 AES-128-GCM)"
        );
        // By its type: what was dropped cannot be looked at. The key is in `info` alone.
        let Key {
            info,
            version: Version::Tls13,
            cipher: Cipher::Aes128Gcm,
        } = &key
        else {
            panic!("another key")
        };
        overwritten(&**info);
    }

    #[test]
    fn a_key_that_is_moved_leaves_no_copy_behind() {
        let key = Key::new(Version::Tls13, Cipher::Aes128Gcm, &[171; 16], &[205; 12], 7).unwrap();
        let place = key.info.as_ptr();
        let moved = std::hint::black_box([key]);
        assert_eq!(moved[0].info.as_ptr(), place);
        assert_eq!(size_of::<Key>(), 2 * size_of::<usize>());
    }

    #[test]
    fn a_key_of_another_cipher_is_none() {
        assert!(Key::new(Version::Tls12, Cipher::Aes256Gcm, &[0; 16], &[0; 12], 0).is_none());
    }

    #[test]
    #[cfg(target_pointer_width = "64")]
    fn the_control_message_has_the_kernels_size() {
        assert_eq!(size_of::<Control>(), 24);
        assert_eq!(Control::LENGTH, 17);
    }
}
