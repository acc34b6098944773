//! The way to a receiver: one connection for all groups of the process.
//!
//! ```text
//!   spool ──frames──▶ live     one stream a group         ◀── durable, requests for marks
//!   group ──reports─▶ control  one stream a session, before all others
//!   base  ──frames──▶ base     one stream a base, after it ◀── durable
//!   base  ──asks────▶ compare  one stream a session        ◀── hashes
//!   tap   ◀─blocks─── rollback one stream, opened there       ──▶ how much is on the source
//!   crash ──asks────▶ changed  one stream, before a rebase ◀── extents that the receiver changed
//! ```
//!
//! `state`, `window`, `bucket` and `share` decide, without I/O; the others carry it out. Only `quic` names quinn.

mod base;
pub mod bucket;
mod changed;
pub mod compare;
mod flight;
mod limit;
mod live;
mod quic;
mod reports;
mod rollback;
mod share;
pub mod state;
pub mod window;

pub(crate) use base::Base;
pub(crate) use limit::Limit;
pub(crate) use quic::{Peer, resolve, run};

/// Both directions of a stream.
type Streams = (link::MessageWriter, link::MessageReader);
