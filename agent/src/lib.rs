//! The agent: runs beside live storage, captures what is written to it, spools it and sends it.
//!
//! ```text
//!   client ──► tap ──► source            base ── reads ── source
//!               │                          │  as of
//!               ▼                          ▼
//!            capture ──► spool ──► sender ◄─ frames of a chain of their own
//!            gives Seq   frames
//! ```
//!
//! **Invariant:** only `capture` gives out a `Seq`.
//! **Invariant:** a write of the protected system waits for its own source and for memory, never for the link or the receiver,
//! unless that was asked for.
//! **Invariant:** the source is read with `O_DIRECT` only.

pub mod base;
pub mod capture;
pub mod control;
pub mod dirty;
pub mod hot;
pub mod join;
pub mod priority;
pub mod run;
pub mod sender;
pub mod source;
pub mod spool;
pub mod state;
pub mod tap;

pub use journal::error::{Error, ErrorKind, Result};
pub use nbd::{Address, RemoteClients};

#[cfg(test)]
mod tap_tests;
#[cfg(test)]
mod testing;
