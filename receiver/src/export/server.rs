//! A served view behind an NBD server.

use std::path::Path;
use std::sync::Arc;

use journal::types::WallTime;
use nbd::{Address, AddressError, BindError, RemoteClients, Running, Server};

use super::{HeldView, Served, Views};
use crate::error::{Code, Error, Result};

/// A view that NBD clients can have. Dropped, or ended, it takes its clients and its socket with it.
#[derive(Debug)]
pub struct NbdExport {
    served: Arc<Served>,
    running: Running,
    since: WallTime,
}

impl NbdExport {
    /// Serves at `unix:PATH` or `HOST:PORT`, under the volume's name.
    pub fn start(served: Arc<Served>, address: &str, remote: RemoteClients, since: WallTime) -> Result<Self> {
        let address: Address = address.parse().map_err(|error: AddressError| Error::usage(error.to_string()))?;
        let exports = vec![(served.volume().name.clone(), Arc::clone(&served) as Arc<dyn nbd::Export>)];
        let running = Server::bind(&address, exports, remote).map_err(refused)?.start()?;
        Ok(Self { served, running, since })
    }

    /// What is served.
    pub fn served(&self) -> &Served {
        &self.served
    }

    /// Where, with the port that was chosen if none was asked for.
    pub fn address(&self) -> &Address {
        self.running.address()
    }

    /// What NBD clients take.
    pub fn uri(&self) -> String {
        uri(self.address(), &self.served.volume().name)
    }

    /// Returns once nobody is served any more.
    pub fn end(&self) {
        self.running.stop();
    }
}

impl Views for NbdExport {
    fn held(&self) -> Vec<HeldView> {
        vec![HeldView {
            volume: self.served.volume().name.clone(),
            point: self.served.point().clone(),
            since: self.since,
            clients: self.running.clients(),
            scratch: self.served.scratch_bytes(),
        }]
    }
}

fn refused(error: BindError) -> Error {
    let message = error.to_string();
    match error {
        BindError::InUse(_) => Error::new(Code::LOCKED, message).hint("end that one, or choose another address"),
        BindError::NotASocket(_) => Error::new(Code::TARGET_EXISTS, message).hint("choose another path"),
        BindError::NotLoopback(_) => {
            Error::usage(message).hint("unix:PATH, 127.0.0.1:PORT, or --nbd-remote if the network is trusted")
        }
        BindError::BadExport(_) => Error::usage(message),
        BindError::Io { source, .. } => Error::from(source).context(message),
    }
}

fn uri(address: &Address, export: &str) -> String {
    match address {
        Address::Unix(path) => format!("nbd+unix:///{export}?socket={}", escaped(path)),
        tcp @ Address::Tcp { .. } => format!("nbd://{tcp}/{export}"),
    }
}

fn escaped(path: &Path) -> String {
    let mut text = String::new();
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => text.push(char::from(*byte)),
            other => text.push_str(&format!("%{other:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_is_what_clients_take() {
        let uri = |address: &str| uri(&address.parse().unwrap(), "db");
        assert_eq!(uri("unix:/run/t.sock"), "nbd+unix:///db?socket=/run/t.sock");
        assert_eq!(uri("unix:/run/a b&c.sock"), "nbd+unix:///db?socket=/run/a%20b%26c.sock");
        assert_eq!(uri("127.0.0.1:10809"), "nbd://127.0.0.1:10809/db");
        assert_eq!(uri("[::1]:10809"), "nbd://[::1]:10809/db");
    }
}
