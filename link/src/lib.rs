//! What both ends of a connection share: identity, pins, invitations, QUIC settings.
