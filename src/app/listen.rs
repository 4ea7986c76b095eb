//! Listening sockets.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use socket2::{Domain, Protocol, Socket, Type};

use super::StartError;
use crate::config::Listen;
use crate::proxy::accept::ListenSocket;

/// Bursts of new connections wait here, not in a SYN retry. The kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// A Unix socket is for its owner and group: whoever can open it can use the tokens.
const SOCKET_MODE: u32 = 0o660;

/// Opens a listener; the address is the one that it got.
pub(super) fn open(listen: &Listen) -> Result<(ListenSocket, Listen), StartError> {
    match listen {
        Listen::Tcp(address) => {
            let socket = open_tcp(*address)?;
            let bound = socket
                .local_addr()
                .map_err(|source| failed(&address.to_string(), source))?;
            Ok((ListenSocket::Tcp(socket), Listen::Tcp(bound)))
        }
        Listen::Unix(path) => {
            let socket = open_unix(path)
                .map_err(|source| failed(&format!("unix:{}", path.display()), source))?;
            Ok((ListenSocket::Unix(socket), listen.clone()))
        }
    }
}

pub(super) fn open_tcp(address: SocketAddr) -> Result<std::net::TcpListener, StartError> {
    bind_tcp(address).map_err(|source| failed(&address.to_string(), source))
}

fn bind_tcp(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    // Inherited by accepted connections, which saves a system call for each.
    socket.set_tcp_nodelay(true)?;
    // Likewise: a peer that vanished must not hold its place for ever.
    socket.set_keepalive(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn open_unix(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    remove_stale(path)?;
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(SOCKET_MODE))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// A socket file that nobody answers is left over from a process that was killed.
fn remove_stale(path: &Path) -> io::Result<()> {
    let Ok(metadata) = std::fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !metadata.file_type().is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "there is a file of that name, and it is no socket",
        ));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path)
        }
        Err(error) => Err(error),
    }
}

fn failed(what: &str, source: io::Error) -> StartError {
    StartError::Listen {
        what: what.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_named() {
        let first = open_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = first.local_addr().unwrap();
        let error = open_tcp(address).unwrap_err().to_string();
        assert!(error.contains(&address.to_string()), "{error}");
    }

    #[test]
    fn stale_sockets_are_replaced_and_live_ones_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("proxy.sock");
        drop(open_unix(&path).unwrap());
        let live = open_unix(&path).unwrap();
        assert_eq!(
            open_unix(&path).unwrap_err().kind(),
            io::ErrorKind::AddrInUse
        );
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            SOCKET_MODE
        );
        drop(live);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "mine").unwrap();
        assert!(open_unix(&path).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
    }
}
