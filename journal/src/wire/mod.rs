//! What agent and receiver say to each other, as `docs/PROTOCOL.md` says. Pure: no socket, no clock; encoding cannot fail,
//! decoding checks everything.

#![deny(clippy::indexing_slicing)]

mod changed;
mod fields;
mod group;
mod handshake;
mod header;
mod ident;
mod join;
mod lineage;
mod message;
mod refusal;
mod rollback;

pub use crate::types::Head;
pub use fields::{NAME_RULE, TEXT_BYTES, is_name};
pub use group::{
    AgentState, BLOCK_PAGES, BaseHead, LagReport, MAX_COMPARE_BLOCKS, MAX_PAGED_BLOCKS, NoMark, Progress, Report,
    TrackerKind, VolumeReport,
};
pub use handshake::{
    Agreed, FEATURE_CHANGED, FEATURE_PAGES, FEATURE_ROLLBACK, FEATURES, Hello, Offer, SOFTWARE_BYTES, VERSION, Welcome,
};
pub use header::{MESSAGE_HEADER_BYTES, MessageHeader, Tag};
pub use ident::{AgentId, Pin, ReceiverId};
pub use join::{JOIN_BYTES, JoinOutcome, JoinRefused, JoinReply, JoinRequest, JoinSecret};
pub use lineage::{Decision, Facts, OwnEpoch, RebaseReason, Stranger, decide};
pub use message::Message;
pub use refusal::{Refusal, RefusalCode};
pub use rollback::{NoRollback, RollbackBlocks, RollbackOpening};

#[cfg(test)]
mod tests;
