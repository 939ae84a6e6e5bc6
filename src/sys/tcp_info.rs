//! What the kernel knows of a TCP connection.

use std::os::fd::{AsRawFd, BorrowedFd};

/// Where `tcpi_bytes_acked` lies in `struct tcp_info` (since Linux 4.1); the struct only grows.
const BYTES_ACKED_AT: usize = 120;

/// How many bytes the peer has acknowledged since the connection began; `None` if this is no TCP
/// socket.
///
/// Bytes that were not acknowledged may have been read all the same where the connection was reset: Linux looks at
/// a reset before the acknowledgement that comes with it. Where the peer's FIN has come, what it had taken before
/// that is acknowledged.
pub fn tcp_bytes_acked(socket: BorrowedFd<'_>) -> Option<u64> {
    let mut info = [0u8; BYTES_ACKED_AT + 8];
    let mut length = libc::socklen_t::try_from(info.len()).ok()?;
    // SAFETY: `socket` is open for the whole call because it is borrowed; `info` is writable for
    // the `length` bytes the kernel is told of, and it writes at most so many; both outlive the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    let is_whole = result == 0 && usize::try_from(length).is_ok_and(|length| length >= info.len());
    let bytes = info[BYTES_ACKED_AT..].try_into().ok()?;
    is_whole.then(|| u64::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn what_a_closed_peer_did_not_take_is_not_acknowledged() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut theirs, _) = listener.accept().unwrap();
        ours.write_all(b"taken").unwrap();
        theirs.read_exact(&mut [0; 5]).unwrap();
        theirs.write_all(b"answer").unwrap();
        ours.read_exact(&mut [0; 6]).unwrap();
        let before = tcp_bytes_acked(ours.as_fd()).unwrap();
        assert!(before >= 5);
        drop(theirs);
        assert_eq!(ours.read(&mut [0; 1]).unwrap(), 0);
        ours.write_all(b"never taken").unwrap();
        // Over loopback its reset is mostly there before `write` returns, before Linux 6.5 a little later where
        // ksoftirqd has work; then no more can be written.
        let is_reset = (0..3000).any(|_| {
            std::thread::park_timeout(Duration::from_millis(10));
            ours.write_all(b"x").is_err()
        });
        assert!(is_reset, "the peer resets");
        assert_eq!(tcp_bytes_acked(ours.as_fd()), Some(before));
        assert_eq!(ours.read(&mut [0; 1]).unwrap(), 0, "its FIN is told all the same");
    }

    #[test]
    fn what_a_peer_had_read_before_it_reset_is_not_acknowledged_either() {
        let (before, ours) = (0..100)
            .find_map(|_| reset_by_a_peer_that_has_read())
            .expect("one of a hundred is quick");
        assert_eq!(tcp_bytes_acked(ours.as_fd()), before);
    }

    /// What was acknowledged before the peer read, and the socket behind its reset; `None` if the peer took so long
    /// that the kernel may have acknowledged in its stead, which it does after 40 ms.
    #[expect(
        clippy::disallowed_methods,
        reason = "the kernel's timer goes by the real clock"
    )]
    fn reset_by_a_peer_that_has_read() -> Option<(Option<u64>, TcpStream)> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut theirs, _) = listener.accept().unwrap();
        rustix::net::sockopt::set_tcp_quickack(&theirs, false).unwrap(); // as after an exchange or two
        rustix::net::sockopt::set_socket_linger(&theirs, Some(Duration::ZERO)).unwrap();
        let before = tcp_bytes_acked(ours.as_fd());
        let sent = Instant::now();
        ours.write_all(b"taken").unwrap();
        theirs.read_exact(&mut [0; 5]).unwrap();
        drop(theirs);
        let was_quick = sent.elapsed() < Duration::from_millis(20);
        let told = ours.read(&mut [0; 1]).unwrap_err();
        assert_eq!(told.kind(), ErrorKind::ConnectionReset);
        was_quick.then_some((before, ours))
    }

    #[test]
    fn a_unix_socket_knows_nothing_of_it() {
        let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(tcp_bytes_acked(ours.as_fd()), None);
    }
}
