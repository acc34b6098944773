//! Sockets that listen: who may connect, what is in the way, what is left behind.

use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::net::sockopt::set_tcp_nodelay;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen, socket_with};

use crate::address::Address;
use crate::socket::Socket;

/// Who may connect over TCP. NBD has no passwords and, here, no encryption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemoteClients {
    /// Only this machine: an address that others reach is refused.
    Refused,
    /// Whoever reaches the address.
    Allowed,
}

/// Why a server cannot be had at an address.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another server lives there: choose another address, or stop it.
    #[error("{0} is in use by another server")]
    InUse(Address),
    /// Something that is no socket has the name: it is left alone.
    #[error("{0} exists and is not a socket")]
    NotASocket(PathBuf),
    /// Others could reach it.
    #[error("{0} can be reached from other machines, and NBD has neither passwords nor encryption")]
    NotLoopback(Address),
    /// The exports cannot be told apart, or their names or blocks are not what the protocol allows.
    #[error("export `{0}`: names differ and have at most 4096 bytes; blocks are a power of two from 512 to 4096")]
    BadExport(String),
    /// The system said no.
    #[error("cannot listen at {address}")]
    Io {
        /// Where.
        address: Address,
        /// What it said.
        source: io::Error,
    },
}

/// A socket that listens. Dropping it closes it and removes its file.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) socket: OwnedFd,
    pub(crate) address: Address,
    /// Path, device and inode of its file.
    file: Option<(PathBuf, u64, u64)>,
}

impl Listener {
    pub(crate) fn bind(address: &Address, remote: RemoteClients) -> Result<Self, BindError> {
        let failed = |source| BindError::Io { address: address.clone(), source };
        match address {
            Address::Unix(path) => {
                let _alone = lock_directory(path).map_err(failed)?;
                make_way(path, address)?;
                bind_unix(path).map_err(failed)
            }
            Address::Tcp { host, port } => {
                let found: Vec<SocketAddr> = (host.as_str(), *port).to_socket_addrs().map_err(failed)?.collect();
                if remote == RemoteClients::Refused && !found.iter().all(|found| found.ip().is_loopback()) {
                    return Err(BindError::NotLoopback(address.clone()));
                }
                let listener = TcpListener::bind(&found[..]).map_err(|source| match source.kind() {
                    io::ErrorKind::AddrInUse => BindError::InUse(address.clone()),
                    _ => failed(source),
                })?;
                let port = listener.local_addr().map_err(failed)?.port();
                listener.set_nonblocking(true).map_err(failed)?;
                Ok(Self { socket: listener.into(), address: Address::Tcp { host: host.clone(), port }, file: None })
            }
        }
    }

    /// The next client, if one waits.
    pub(crate) fn accept(&self) -> io::Result<Option<Socket>> {
        match accept_with(&self.socket, SocketFlags::CLOEXEC) {
            Ok(socket) => {
                if matches!(self.address, Address::Tcp { .. }) {
                    set_tcp_nodelay(&socket, true)?;
                }
                Ok(Some(Socket(socket)))
            }
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let Some((path, device, inode)) = &self.file else { return };
        let _alone = lock_directory(path);
        // Only what is still ours: the name may have been given to another server.
        if fs::symlink_metadata(path).is_ok_and(|found| (found.dev(), found.ino()) == (*device, *inode)) {
            let _ = fs::remove_file(path);
        }
    }
}

/// Between finding a dead socket and having replaced it, nobody else may do the same.
fn lock_directory(path: &Path) -> io::Result<File> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = File::open(parent.unwrap_or_else(|| Path::new(".")))?;
    flock(&directory, FlockOperation::LockExclusive)?;
    Ok(directory)
}

/// Removes what a server that was killed left behind, and nothing else.
fn make_way(path: &Path, address: &Address) -> Result<(), BindError> {
    let failed = |source| BindError::Io { address: address.clone(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(found) if !found.file_type().is_socket() => return Err(BindError::NotASocket(path.to_owned())),
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(failed),
        // Also a server whose queue is full, or one that is not ours to ask.
        _ => Err(BindError::InUse(address.clone())),
    }
}

fn bind_unix(path: &Path) -> io::Result<Listener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    let found = fs::symlink_metadata(path)?;
    let file = Some((path.to_owned(), found.dev(), found.ino()));
    let listener = Listener { socket, address: Address::Unix(path.to_owned()), file };
    // Nobody can connect before `listen`, so nobody connects who may not.
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    listen(&listener.socket, BACKLOG)?;
    Ok(listener)
}

/// Clients that wait to be accepted: more than are served at a time.
const BACKLOG: i32 = 64;
