//! Sessions: what agents say to this receiver. `state` decides, the others drive QUIC.

pub mod state;
