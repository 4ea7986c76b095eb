//! Listening sockets.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use socket2::{Domain, Protocol, Socket, Type};

use super::prepare::StartError;
use crate::config::Listen;
use crate::proxy::listener::ListenSocket;

/// Long enough for bursts of new connections. The kernel caps the backlog at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Owner and group only: any process that can open the socket can use the tokens.
const SOCKET_MODE: u32 = 0o660;

/// A listening socket and the address that it is bound to.
pub(super) struct Opened {
    pub(super) socket: ListenSocket,
    pub(super) address: Listen,
    pub(super) file: Option<SocketFile>,
}

/// The file of a Unix socket; removed when dropped.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    id: (u64, u64),
}

pub(super) fn open(listen: &Listen) -> Result<Opened, StartError> {
    match listen {
        Listen::Tcp(address) => {
            let socket = open_tcp(*address)?;
            let bound = socket.local_addr();
            Ok(Opened {
                address: Listen::Tcp(bound.map_err(|source| failed(listen, source))?),
                socket: ListenSocket::Tcp(socket),
                file: None,
            })
        }
        Listen::Unix(path) => {
            let (socket, file) = open_unix(path).map_err(|source| failed(listen, source))?;
            Ok(Opened {
                socket: ListenSocket::Unix(socket),
                address: listen.clone(),
                file: Some(file),
            })
        }
    }
}

pub(super) fn open_tcp(address: SocketAddr) -> Result<std::net::TcpListener, StartError> {
    bind_tcp(address).map_err(|source| failed(&Listen::Tcp(address), source))
}

fn bind_tcp(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    // Accepted connections inherit both options, which saves a system call for each.
    socket.set_tcp_nodelay(true)?;
    // Keepalive ends connections whose peer has vanished.
    socket.set_keepalive(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn open_unix(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    remove_stale(path)?;
    let listener = UnixListener::bind(path)?;
    let file = SocketFile {
        path: path.to_owned(),
        id: file_id(path)?,
    };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(SOCKET_MODE))?;
    listener.set_nonblocking(true)?;
    Ok((listener, file))
}

/// Removes a socket file that a killed process has left behind: connecting to it is refused.
fn remove_stale(path: &Path) -> io::Result<()> {
    let Ok(metadata) = std::fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !metadata.file_type().is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "a file of this name exists and is not a socket",
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

fn failed(listen: &Listen, source: io::Error) -> StartError {
    StartError::Listen {
        listen: listen.clone(),
        source,
    }
}

fn file_id(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Another process may have replaced the file by its own.
        if file_id(&self.path).is_ok_and(|found| found == self.id) {
            // The next start replaces a file that is left behind.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_named_in_the_error() {
        let first = open_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = first.local_addr().unwrap();
        let error = open_tcp(address).unwrap_err().to_string();
        assert!(error.contains(&address.to_string()), "{error}");
    }

    #[test]
    fn stale_sockets_are_replaced_and_live_ones_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("proxy.sock");
        // A killed process leaves such a file.
        drop(UnixListener::bind(&path).unwrap());
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
        assert!(!path.exists());
        std::fs::write(&path, "mine").unwrap();
        assert!(open_unix(&path).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
    }

    #[test]
    fn a_socket_of_another_process_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("proxy.sock");
        let (_listener, file) = open_unix(&path).unwrap();
        std::fs::rename(&path, folder.path().join("old.sock")).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        drop(file);
        assert!(path.exists());
    }
}
