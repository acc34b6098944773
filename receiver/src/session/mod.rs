//! Sessions: what agents say to this receiver. `state` decides, the others carry it out; only `quic` names quinn.
//!
//! ```text
//!  accept ─ key known? ─ Hello, Welcome ─┬─ Report, again and again ──▶ Ingest::report
//!     │                                  ├─ stream: a group's order ──▶ Ingest::live
//!     └ join, once                       ├─ stream: a base          ──▶ Ingest::base
//!                                        ├─ stream: compare         ──▶ hashes of a view
//!     │                                  ├─ opened here: rollback   ◀── what the sources are to hold
//!                                        └─ stream: changed         ──▶ extents that records touched
//! ```
//!
//! **Invariant:** nothing of a peer is read before its key is known, but for the one message of an invitation.
//! **Invariant:** a peer holds at most a frame's memory a stream, and what its group's queue lets in.

mod base;
mod changed;
pub mod compare;
mod group;
mod quic;
pub mod state;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use journal::error::{Error, ErrorKind};
use journal::frame::Frame;
use journal::log;
use journal::types::{GroupId, SessionId};
use journal::wire::{self, Message, Pin, Refusal, RefusalCode, Report};

pub use quic::Sessions;

use crate::catalog::Name;
use crate::group::{Groups, Ingest};

/// One connection of an agent that is known and has been welcomed.
#[derive(Debug)]
struct Session {
    id: SessionId,
    agent: Name,
    /// The key that it showed.
    pin: Pin,
    groups: Arc<Groups>,
    /// What was agreed on.
    features: u64,
    /// Groups that this session has opened.
    open: Mutex<HashMap<GroupId, Ingest>>,
}

impl Session {
    /// Whether its key is still the one of its agent: enrolling an agent anew ends what the old key has open.
    fn check_enrolled(&self) -> Result<(), Refusal> {
        match self.groups.catalog().agent(self.pin.0) {
            Some(agent) if agent == self.agent => Ok(()),
            _ => Err(Refusal::new(RefusalCode::NotEnrolled, "this agent was enrolled anew, with another key")),
        }
    }

    fn opened(&self, group: GroupId, ingest: Ingest) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(group, ingest);
    }

    /// The way into a group that this session has opened; nobody else's groups can be named.
    fn ingest(&self, group: GroupId) -> Result<Ingest, Refusal> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.get(&group).cloned().ok_or_else(|| Refusal::new(RefusalCode::UnknownGroup, "open the group first"))
    }

    /// What the agent says of a group of this session. If another session has taken over the group, it says nothing any more.
    fn report(&self, group: GroupId, report: Report) -> Result<(), Refusal> {
        let ingest = self.ingest(group).map_err(|refusal| Refusal::new(RefusalCode::Malformed, refusal.text))?;
        ingest.report(report);
        Ok(())
    }
}

/// Why a stream ends before its time.
#[derive(Debug)]
enum End {
    /// It is refused: the agent is told.
    Refused(Refusal),
    /// The agent is gone: there is nobody to tell.
    Gone,
}

impl From<Refusal> for End {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        match error.kind() {
            ErrorKind::Corrupt => Self::Refused(Refusal::new(RefusalCode::Malformed, error.to_string())),
            _ => Self::Gone,
        }
    }
}

/// A frame as it came, checked.
fn check(bytes: bytes::Bytes) -> Result<Frame, Refusal> {
    Ok(Frame::check(bytes)?)
}

/// Runs what reads files on a thread that may wait.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Refusal> + Send + 'static) -> Result<T, End> {
    // A panic there was reported there.
    Ok(tokio::task::spawn_blocking(work).await.map_err(|_| End::Gone)??)
}

fn internal(error: &dyn std::error::Error) -> Refusal {
    Refusal::new(RefusalCode::Internal, error.to_string())
}

fn out_of_place(message: &Message) -> End {
    state::out_of_place(message).into()
}

/// The end of a base, as it is said.
pub fn wire_base(head: log::BaseHead) -> wire::BaseHead {
    let log::BaseHead { frame, chain } = head;
    wire::BaseHead { frame, chain }
}
