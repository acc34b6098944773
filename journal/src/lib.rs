//! The journal: records, frames, segments, index, views and the messages that carry them.
//!
//! Bytes are defined in `docs/FORMAT.md`. No tokio, no network, no thread and no clock of its own.

pub mod codec;
pub mod disk;
pub mod error;
pub mod failpoint;
pub mod frame;
pub mod index;
pub mod limits;
pub mod log;
pub mod retention;
pub mod store;
pub mod types;
pub mod wire;
