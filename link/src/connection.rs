//! Connections: made to a pinned receiver, accepted from any key, closed with a reason.

use std::net::SocketAddr;
use std::sync::Arc;

use journal::error::{Error, Result};
use journal::wire::{Pin, Refusal};
use quinn::crypto::rustls::HandshakeData;
use quinn::{ClientConfig, Connection, Endpoint, Incoming};
use rustls::pki_types::CertificateDer;

use crate::endpoint::{STREAMS_TO_AGENT, transport};
use crate::error::{close_code, connection_error};
use crate::identity::Identity;
use crate::tls::{self, Purpose};

/// Longest reason that a close carries: with it, the packet fits any path.
const REASON_BYTES: usize = 512;

/// Connects to the receiver that holds `pin`. Anybody else at that address is refused as
/// [`NotTrusted`](crate::NotTrusted), before a byte of ours is sent.
///
/// An enrolled agent's session is refused, if at all, by closing the connection: the first read or write reports it.
pub async fn connect(
    endpoint: &Endpoint,
    remote: SocketAddr,
    identity: &Identity,
    pin: Pin,
    purpose: Purpose,
) -> Result<Connection> {
    let mut config = ClientConfig::new(Arc::new(tls::client_config(identity, pin, purpose)?));
    config.transport_config(Arc::new(transport(STREAMS_TO_AGENT)));
    let connecting = endpoint
        .connect_with(config, remote, "backspool")
        .map_err(|error| Error::invalid(format!("cannot connect to {remote}")).with_source(error))?;
    connecting.await.map_err(|error| connection_error(error).context(format!("cannot reach {remote}")))
}

/// Somebody who has connected and proven to hold the key with `pin`. Who that is has to be asked, before a byte is read.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The connection.
    pub connection: Connection,
    /// What the peer is known by.
    pub pin: Pin,
    /// What it wants.
    pub purpose: Purpose,
}

impl Peer {
    /// Ends the TLS handshake of somebody who knocks.
    pub async fn accept(incoming: Incoming) -> Result<Self> {
        let remote = incoming.remote_address();
        let connection =
            incoming.await.map_err(|error| connection_error(error).context(format!("{remote} did not connect")))?;
        let pin = peer_pin(&connection).ok_or_else(|| Error::invalid("a peer without a key"))?;
        let purpose = purpose(&connection).ok_or_else(|| Error::unsupported("a peer without a purpose"))?;
        Ok(Self { connection, pin, purpose })
    }
}

/// The pin of the key that the other side has proven to hold.
fn peer_pin(connection: &Connection) -> Option<Pin> {
    let certificates = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    tls::pin_of(certificates.first()?).ok()
}

fn purpose(connection: &Connection) -> Option<Purpose> {
    let data = connection.handshake_data()?.downcast::<HandshakeData>().ok()?;
    Purpose::from_alpn(&data.protocol?)
}

/// Closes a connection with the reason: the other side gets the same [`Refusal`].
pub fn refuse(connection: &Connection, refusal: &Refusal) {
    let end = refusal.text.floor_char_boundary(REASON_BYTES);
    let reason = refusal.text.get(..end).unwrap_or_default();
    connection.close(close_code(refusal.code), reason.as_bytes());
}
