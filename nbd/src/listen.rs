//! Sockets that listen: who may connect, what is in the way, what is left behind.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use local::{ListenError, SocketFile};
use rustix::io::Errno;
use rustix::net::sockopt::set_tcp_nodelay;
use rustix::net::{SocketFlags, accept_with};

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
    /// Before the socket: who finds the file can connect.
    _file: Option<SocketFile>,
    pub(crate) socket: OwnedFd,
    pub(crate) address: Address,
}

impl Listener {
    pub(crate) fn bind(address: &Address, remote: RemoteClients) -> Result<Self, BindError> {
        let failed = |source| BindError::Io { address: address.clone(), source };
        match address {
            Address::Unix(path) => {
                let (socket, file) = local::listen(path).map_err(|error| match error {
                    ListenError::InUse(_) => BindError::InUse(address.clone()),
                    ListenError::NotASocket(path) => BindError::NotASocket(path),
                    ListenError::Io { source, .. } => failed(source),
                })?;
                Ok(Self { _file: Some(file), socket: socket.into(), address: address.clone() })
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
                let address = Address::Tcp { host: host.clone(), port };
                Ok(Self { _file: None, socket: listener.into(), address })
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
