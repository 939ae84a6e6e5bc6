//! Binds listeners: for TCP one SO_REUSEPORT socket a worker, for a Unix path one for all.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use rustix::fs::Access;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::runtime::Address;

/// Connections that may wait to be accepted; the kernel cuts it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// A listener that cannot be had.
#[derive(Debug)]
pub struct BindError {
    address: Address,
    error: io::Error,
}

impl BindError {
    /// Whether somebody else listens there.
    pub fn is_in_use(&self) -> bool {
        self.kind() == io::ErrorKind::AddrInUse
    }

    /// What is the matter.
    pub fn kind(&self) -> io::ErrorKind {
        self.error.kind()
    }
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot listen on {}: {}", self.address, self.error)?;
        let is_unix = matches!(self.address, Address::Unix(_));
        f.write_str(match self.error.kind() {
            io::ErrorKind::AddrInUse if is_unix => {
                "; another program listens there (`ss -lxp` tells which), or the path is no socket"
            }
            io::ErrorKind::AddrInUse => "; another program listens there (`ss -ltnp` tells which)",
            io::ErrorKind::NotFound => "; make the folder first",
            io::ErrorKind::PermissionDenied if is_unix => {
                "; let the user that runs Atlas write to the folder"
            }
            io::ErrorKind::PermissionDenied => {
                "; ports below 1024 need root or CAP_NET_BIND_SERVICE (AmbientCapabilities= in systemd)"
            }
            io::ErrorKind::AddrNotAvailable => "; no interface of this machine has that address",
            _ => "",
        })
    }
}

impl std::error::Error for BindError {}

/// Binds an address and listens on it: one descriptor a worker.
///
/// # Errors
///
/// When the address is taken, not allowed or not there.
pub fn bind(address: &Address, workers: usize) -> Result<Vec<OwnedFd>, BindError> {
    match address {
        Address::Tcp(at) => bind_tcp(*at, workers),
        Address::Unix(path) => bind_unix(path, workers),
    }
    .map_err(|error| BindError {
        address: address.clone(),
        error,
    })
}

/// Whether an address could be listened on now, without doing it: nobody can connect meanwhile.
///
/// # Errors
///
/// As [`bind`], as far as it can be told.
pub fn try_address(address: &Address) -> Result<(), BindError> {
    match address {
        Address::Tcp(at) => tcp_socket(*at, false).map(drop),
        Address::Unix(path) => try_path(path),
    }
    .map_err(|error| BindError {
        address: address.clone(),
        error,
    })
}

fn try_path(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(io::ErrorKind::AddrInUse.into()),
        // One that nobody listens on is removed when the time comes.
        Ok(_) if !is_stale(path)? => return Err(io::ErrorKind::AddrInUse.into()),
        _ => {}
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let wanted = Access::WRITE_OK | Access::EXEC_OK;
    Ok(rustix::fs::access(
        folder.unwrap_or_else(|| Path::new(".")),
        wanted,
    )?)
}

fn bind_tcp(at: SocketAddr, workers: usize) -> io::Result<Vec<OwnedFd>> {
    // SO_REUSEPORT would let a second Atlas share the port in silence, and each would get half of
    // the connections. A socket without it is refused where anybody listens.
    drop(tcp_socket(at, false)?);
    let mut sockets = Vec::with_capacity(workers);
    let mut at = at;
    for _ in 0..workers {
        let socket = tcp_socket(at, true)?;
        if let Some(bound) = socket.local_addr()?.as_socket() {
            at = bound; // port 0: all workers take the port the first one got
        }
        sockets.push(socket);
    }
    // All are bound before the first one listens: a connection must not be hashed to a socket that
    // is about to get company.
    for socket in &sockets {
        socket.listen(BACKLOG)?;
    }
    Ok(sockets.into_iter().map(OwnedFd::from).collect())
}

fn tcp_socket(at: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, None)?;
    if at.is_ipv6() {
        // Each listener is what it says, as in nginx: `::` is IPv6, `0.0.0.0` IPv4.
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_tcp_nodelay(true)?; // accepted sockets inherit it
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::from(at))?;
    Ok(socket)
}

fn bind_unix(path: &Path, workers: usize) -> io::Result<Vec<OwnedFd>> {
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(path)?)?;
    // As nginx does: who may connect is said by the folder.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
    socket.listen(BACKLOG)?;
    let mut sockets = Vec::with_capacity(workers);
    for _ in 1..workers {
        sockets.push(socket.try_clone()?.into());
    }
    sockets.push(socket.into());
    Ok(sockets)
}

/// Removes a socket that a program left behind when it died. One that answers stays.
fn remove_stale(path: &Path) -> io::Result<()> {
    let Ok(found) = std::fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !found.file_type().is_socket() {
        return Ok(()); // bind says "address in use", and the file is kept
    }
    match is_stale(path) {
        Ok(true) => std::fs::remove_file(path),
        _ => Ok(()), // bind says what is the matter
    }
}

/// Whether nobody listens on a socket. Without a wait: who does not accept may be asked by many.
fn is_stale(path: &Path) -> io::Result<bool> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    let connected = socket.connect(&SockAddr::unix(path)?);
    Ok(connected.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local() -> Address {
        Address::Tcp("127.0.0.1:0".parse().unwrap())
    }

    fn port(socket: &OwnedFd) -> SocketAddr {
        rustix::net::getsockname(socket).unwrap().try_into().unwrap()
    }

    #[test]
    fn all_workers_share_one_port() {
        let sockets = bind(&local(), 3).unwrap();
        assert_eq!(port(&sockets[0]), port(&sockets[2]));
    }

    #[test]
    fn a_port_that_is_taken_is_an_error_even_where_it_is_shared() {
        let sockets = bind(&local(), 1).unwrap();
        let error = bind(&Address::Tcp(port(&sockets[0])), 1).unwrap_err();
        assert!(
            error.to_string().contains("another program listens there"),
            "{error}"
        );
    }

    #[test]
    fn a_program_that_does_not_accept_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        let program = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        program.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        program.listen(0).unwrap();
        let _queued = std::os::unix::net::UnixStream::connect(&path).unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let address = Address::Unix(path);
            let both = [try_address(&address).err(), bind(&address, 1).err()];
            tell.send(both.map(|error| error.is_some_and(|error| error.is_in_use())))
        });
        let in_use = told.recv_timeout(std::time::Duration::from_secs(10));
        assert_eq!(in_use, Ok([true, true]));
    }

    #[test]
    fn an_address_is_tried_without_a_trace() {
        let sockets = bind(&local(), 1).unwrap();
        assert!(try_address(&local()).is_ok());
        assert!(
            try_address(&Address::Tcp(port(&sockets[0])))
                .unwrap_err()
                .is_in_use()
        );
        assert!(try_address(&Address::Tcp("192.0.2.1:0".parse().unwrap())).is_err());
        let folder = tempfile::tempdir().unwrap();
        let address = Address::Unix(folder.path().join("a.sock"));
        assert!(try_address(&address).is_ok());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        let sockets = bind(&address, 1).unwrap();
        assert!(try_address(&address).unwrap_err().is_in_use());
        drop(sockets);
        assert!(try_address(&address).is_ok());
        let file = Address::Unix(folder.path().join("file"));
        std::fs::write(folder.path().join("file"), "").unwrap();
        assert!(try_address(&file).unwrap_err().is_in_use());
        assert!(try_address(&Address::Unix(folder.path().join("no/a.sock"))).is_err());
    }

    #[test]
    fn a_socket_left_behind_is_replaced_and_one_in_use_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let address = Address::Unix(folder.path().join("a.sock"));
        drop(bind(&address, 1).unwrap());
        let sockets = bind(&address, 2).unwrap();
        assert_eq!(sockets.len(), 2);
        assert!(bind(&address, 1).is_err());
    }
}
