//! The way to a receiver: `state` and `window` decide, `quic` is the only file that names quinn.

pub mod state;
