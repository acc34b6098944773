//! What both ends of a connection share: identity, pins, invitations, QUIC settings, messages on streams.
//!
//! `docs/PROTOCOL.md` says what goes over it. Errors are [`journal::error::Error`]; a refusal by the other side keeps its
//! [`Refusal`](journal::wire::Refusal) as the source, a certificate that is not the pinned one a [`NotTrusted`].

mod connection;
mod endpoint;
mod enrol;
mod error;
mod identity;
mod invitation;
mod stream;
mod tls;

pub use connection::{Peer, connect, refuse};
pub use endpoint::{FLIGHT_BYTES, GROUPS, client_endpoint, server_endpoint};
pub use enrol::{JoinAttempt, join};
pub use error::{NotTrusted, connection_error, is_not_trusted, refusal_of};
pub use identity::{Identity, random};
pub use invitation::Invitation;
pub use stream::{MessageReader, MessageWriter, Room, message_stream, message_stream_in};
pub use tls::Purpose;

#[cfg(test)]
mod tests;
