//! Sockets and QUIC settings, the same for both sides.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use journal::error::{Error, Result};
use quinn::congestion::CubicConfig;
use quinn::{
    ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, ServerConfig,
    TokioRuntime, TransportConfig, VarInt,
};
use rustix::net::sockopt;

use crate::identity::{Identity, random};
use crate::tls;

/// Groups of one agent: each costs a directory, files and threads at a receiver, so that there is a bound.
pub const GROUPS: u32 = 128;
/// Streams that a receiver may have open towards an agent: one for each group, to take its sources back.
pub(crate) const STREAMS_TO_AGENT: u32 = GROUPS;
/// Streams that an agent may have open: control, and for each group its own, a base's and a comparison's.
const STREAMS: u32 = 1 + 3 * GROUPS;
/// Unread bytes of one stream: 16 MiB at 100 ms of round trip are 1.3 Gbit/s.
const STREAM_WINDOW: u32 = 16 * 1024 * 1024;
/// Unread bytes of a connection, however many streams it has: twice what an agent has on its way, so that the control stream and what
/// answers never wait behind frames that nobody reads.
const CONNECTION_WINDOW: u32 = 2 * FLIGHT_BYTES;
/// Bytes kept until they are acknowledged. More than the other side lets us send, for they are kept by whole frames: here
/// nothing of the control stream may wait either. How much is sent without an answer is bounded where frames are sent.
const SEND_WINDOW: u64 = 2 * CONNECTION_WINDOW as u64;
/// Bytes of frames that an agent sends on all streams of a connection before it is told that they are durable.
pub const FLIGHT_BYTES: u32 = 128 * 1024 * 1024;
/// Largest datagram looked for. quinn hands the kernel 10 at once, which must stay below 64 KiB together: with larger
/// ones every send fails and the connection falls back to the smallest.
const MTU_MAX: u16 = 6500;
/// An idle peer says so this often.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// Silence after which the other is dead. It counts from our last question too, so that this and one [`KEEP_ALIVE`] make
/// the 5 s within which a dead peer is noticed.
const IDLE_MS: u32 = 4000;
/// Kernel buffers of a socket: with the usual 208 KiB thousands of packets are lost at full speed.
const SOCKET_BUFFER_BYTES: usize = 4 * 1024 * 1024;
/// Connections not yet accepted, and bytes kept for them: strangers cost no more than this.
const INCOMING: usize = 64;
const INCOMING_BYTES: u64 = 64 * 1024;

/// An endpoint to connect from, to peers of `remote`'s address family.
pub fn client_endpoint(identity: &Identity, remote: SocketAddr) -> Result<Endpoint> {
    let local = match remote {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    endpoint(identity, None, local)
}

/// An endpoint that accepts on `listen`.
pub fn server_endpoint(identity: &Identity, listen: SocketAddr) -> Result<Endpoint> {
    let mut config = ServerConfig::with_crypto(Arc::new(tls::server_config(identity)?));
    config.transport_config(Arc::new(transport(STREAMS)));
    config.max_incoming(INCOMING).incoming_buffer_size(INCOMING_BYTES);
    config.incoming_buffer_size_total(INCOMING_BYTES * INCOMING as u64);
    endpoint(identity, Some(config), listen)
}

fn endpoint(identity: &Identity, server: Option<ServerConfig>, local: SocketAddr) -> Result<Endpoint> {
    let at = |error: Error| error.context(format!("cannot open UDP {local}"));
    let socket = UdpSocket::bind(local).map_err(|error| at(error.into()))?;
    grow_buffers(&socket);
    let mut config = EndpointConfig::new(Arc::new(identity.reset_key()));
    config.max_udp_payload_size(MTU_MAX).expect("within what UDP carries");
    config.cid_generator(|| Box::new(RandomIds));
    Endpoint::new(config, server, socket, Arc::new(TokioRuntime)).map_err(|error| at(error.into()))
}

/// As far as the kernel lets us: root may exceed `net.core.rmem_max`, others get that much, and `doctor` says so.
fn grow_buffers(socket: &UdpSocket) {
    let size = SOCKET_BUFFER_BYTES;
    let _ = sockopt::set_socket_recv_buffer_size_force(socket, size)
        .or_else(|_| sockopt::set_socket_recv_buffer_size(socket, size));
    let _ = sockopt::set_socket_send_buffer_size_force(socket, size)
        .or_else(|_| sockopt::set_socket_send_buffer_size(socket, size));
}

/// `streams`: how many the other side may open here.
pub(crate) fn transport(streams: u32) -> TransportConfig {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(MTU_MAX);
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(streams))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(SEND_WINDOW)
        .datagram_receive_buffer_size(None)
        .datagram_send_buffer_size(0)
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_MS))))
        .mtu_discovery_config(Some(mtu))
        .congestion_controller_factory(Arc::new(cubic()));
    config
}

/// A first window that the probe for the path's MTU does not fill: quinn holds back even a CONNECTION_CLOSE while it does, and the
/// peer would never hear why it was refused.
fn cubic() -> CubicConfig {
    let mut cubic = CubicConfig::default();
    cubic.initial_window(10 * u64::from(MTU_MAX));
    cubic
}

/// Random connection ids. quinn's own are signed with a key of the process: after a restart those of before would not be
/// known as ours, and no stateless reset would be sent for them.
struct RandomIds;

const ID_BYTES: usize = 8;

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&random::<ID_BYTES>())
    }

    fn cid_len(&self) -> usize {
        ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}
