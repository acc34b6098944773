//! A group as the rest of the receiver sees it: one writer thread owns its journal, everybody else holds a [`Group`].
//!
//! ```text
//!  session ──live, base──▶ bounded queue ──▶ writer thread: append … append, one fdatasync, publish
//!     ▲                                            │
//!     └────────── Progress (watch) ◀───────────────┘         readers: Library, never in the way
//! ```

mod all;
mod clean;
mod ingest;
mod merging;
#[cfg(test)]
mod tests;
mod writer;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use journal::log::{BaseHead, Finding, Head};
use journal::store::Library;
use journal::types::{GroupId, ResyncId, Seq, SessionId, WallTime};
use journal::wire::{NoMark, Refusal, RefusalCode, Report};
use link::{MessageReader, MessageWriter};
use tokio::sync::{mpsc, oneshot, watch};

pub use all::{Groups, stepped};
pub(crate) use clean::Pins;
pub use ingest::{Attachment, Ingest};
pub use writer::{Opening, Writer};

use crate::catalog::{GroupEntry, Name};
use crate::error::{Code, Error, Result};
use crate::retention::Cleaned;
use ingest::Queue;

/// How long a mark that is in the order may take to become durable.
const MARK_PATIENCE: Duration = Duration::from_secs(30);

/// A group. A clone is the same one.
#[derive(Clone, Debug)]
pub struct Group {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    entry: GroupEntry,
    /// Newest attached session; frames of any other are not looked at. 0: none yet.
    session: AtomicU64,
    queue: Mutex<Option<Queue>>,
    progress: watch::Sender<Progress>,
    state: Mutex<State>,
    pins: Mutex<Pins>,
}

/// How far a group is, durably. Sessions watch it to acknowledge, and to notice that they are over.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// The session that may write.
    pub session: SessionId,
    /// End of the order.
    pub head: Option<Head>,
    /// End of each base that is being sent.
    pub bases: Vec<(ResyncId, BaseHead)>,
    /// Why the session has to end.
    pub refused: Option<Refusal>,
    /// Why the group is not written to, for people.
    pub fault: Option<Fault>,
}

/// Why a group is not written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// What was promised is gone, or cannot be read: for a person to look at.
    Damaged(String),
    /// The disk failed: opened and recovered anew when the agent comes back.
    Disk(String),
    /// The disk is full: tried again when the agent comes back.
    Full(String),
}

/// What the writer and the sessions tell the status.
#[derive(Debug)]
struct State {
    library: Option<Library>,
    findings: Vec<Finding>,
    report: Option<Told>,
    orders: Option<mpsc::Sender<Order>>,
    last_verified: Option<WallTime>,
    /// Something is being done to the image or the whole journal: one at a time.
    busy: Option<&'static str>,
    /// What thinning and cleaning came to.
    cleaned: Cleaned,
}

/// What the agent said last, and when that was by our clock.
#[derive(Clone, Debug)]
pub struct Told {
    /// What it said.
    pub report: Report,
    /// When it arrived.
    pub at: Instant,
    /// Whose words they are.
    pub session: SessionId,
}

/// What a session has to ask its agent for.
#[derive(Debug)]
pub enum Order {
    /// A named point.
    Mark {
        /// Its name.
        name: String,
        /// Until when retention must not touch it.
        locked_until: Option<WallTime>,
        /// The mark's place, or why there is none.
        reply: oneshot::Sender<MarkReply>,
    },
    /// A stream by which its sources are taken back.
    Rollback {
        /// Both directions of it; `None`: the agent is of a version that knows of no such stream.
        reply: oneshot::Sender<Option<Streams>>,
    },
}

/// Both directions of a stream to the agent.
pub type Streams = (MessageWriter, MessageReader);

/// A mark's place, or why there is none, for programs and for people.
pub type MarkReply = std::result::Result<Seq, (NoMark, String)>;

/// What the status shows of a group, all of one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Reading side of the journal; `None`: it cannot even be opened.
    pub library: Option<Library>,
    /// How far it is.
    pub progress: Progress,
    /// What the agent said last; `None` without a session.
    pub told: Option<Told>,
    /// What was not as it should be when the journal was opened.
    pub findings: Vec<Finding>,
    /// When `verify` last ended well.
    pub last_verified: Option<WallTime>,
    /// What thinning and cleaning came to.
    pub(crate) cleaned: Cleaned,
}

impl Group {
    /// Its identity.
    pub fn id(&self) -> GroupId {
        self.shared.entry.id
    }

    /// What people call it.
    pub fn name(&self) -> &Name {
        &self.shared.entry.name
    }

    /// Whose it is.
    pub fn agent(&self) -> &Name {
        &self.shared.entry.agent
    }

    /// What readers hold. Get it anew for each task: a journal that had to be opened again has a new one.
    pub fn library(&self) -> Result<Library> {
        self.state().library.clone().ok_or_else(|| {
            let why =
                self.shared.progress.borrow().fault.as_ref().map_or_else(String::new, |fault| fault.why().to_owned());
            Error::new(Code::DAMAGED, format!("the journal of {} cannot be opened: {why}", self.name()))
        })
    }

    /// How far it is, and every change of that.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.shared.progress.subscribe()
    }

    /// Whether frames wait to be written, or are being written: whoever can wait does.
    pub fn is_ingesting(&self) -> bool {
        self.queue().as_ref().is_some_and(Queue::is_busy)
    }

    /// All that the status shows.
    pub fn snapshot(&self) -> Snapshot {
        let progress = self.shared.progress.borrow().clone();
        let state = self.state();
        let connected = state.orders.as_ref().is_some_and(|orders| !orders.is_closed());
        Snapshot {
            library: state.library.clone(),
            told: state.report.clone().filter(|told| connected && told.session == progress.session),
            progress,
            findings: state.findings.clone(),
            last_verified: state.last_verified,
            cleaned: state.cleaned.clone(),
        }
    }

    /// Asks the agent for a mark; returns its place once it is durable.
    pub async fn mark(&self, name: &str, locked_until: Option<WallTime>) -> Result<Seq> {
        let gone = || {
            Error::new(Code::NO_SESSION, format!("the agent of {} is not connected", self.name()))
                .hint("a mark needs the agent: start it, or see backspool status")
        };
        let orders = self.state().orders.clone().ok_or_else(gone)?;
        let (reply, answer) = oneshot::channel();
        let order = Order::Mark { name: name.to_owned(), locked_until, reply };
        orders.send(order).await.map_err(|_| gone())?;
        let seq = answer.await.map_err(|_| gone())?.map_err(|(reason, why)| match reason {
            NoMark::NoPoints => {
                let group = self.name();
                let hint = format!("backspool mark {group} {name}, once backspool status {group} says live");
                Error::new(Code::NOT_COVERED, why).hint(hint)
            }
            NoMark::Stops => Error::new(Code::NO_SESSION, why).hint("a mark needs the agent: start it"),
            NoMark::Other => Error::new(Code::FAILED, why),
        })?;
        let session = self.shared.progress.borrow().session;
        let mut progress = self.progress();
        let reached = progress
            .wait_for(|now| now.session != session || now.refused.is_some() || now.head.is_some_and(|h| h.seq >= seq));
        match tokio::time::timeout(MARK_PATIENCE, reached).await {
            Ok(Ok(now)) if now.head.is_some_and(|head| head.seq >= seq) => Ok(seq),
            _ => Err(gone().context("the mark is made, but not known to be durable")),
        }
    }

    /// A new stream to the agent, by which its sources are taken back.
    pub async fn rollback_stream(&self) -> Result<Streams> {
        let gone = || {
            Error::new(Code::NO_SESSION, format!("the agent of {} is not connected", self.name()))
                .hint("the sources are where the agent is: start it, or see backspool status")
        };
        let orders = self.state().orders.clone().ok_or_else(gone)?;
        let (reply, answer) = oneshot::channel();
        orders.send(Order::Rollback { reply }).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?.ok_or_else(|| {
            let what = format!("the agent of {} is of a version without live rollback", self.name());
            Error::new(Code::OLDER, what).hint("update it, and start it again")
        })
    }

    /// Reserves the group for an operation that must be alone; the guard ends it.
    pub fn reserve(&self, what: &'static str) -> Result<Reserved> {
        let mut state = self.state();
        if let Some(running) = state.busy {
            return Err(Error::new(Code::BUSY, format!("{running} of {} is running", self.name())));
        }
        state.busy = Some(what);
        Ok(Reserved(self.clone()))
    }

    /// Why nothing is written until a person has looked.
    pub(crate) fn damage(&self) -> Option<String> {
        match &self.shared.progress.borrow().fault {
            Some(Fault::Damaged(why)) => Some(why.clone()),
            _ => None,
        }
    }

    /// Notes that all of it was checked.
    pub fn verified(&self, when: WallTime) {
        self.state().last_verified = Some(when);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is one assignment: a panic leaves nothing half done.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queue(&self) -> MutexGuard<'_, Option<Queue>> {
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_current(&self, session: SessionId) -> bool {
        self.shared.session.load(Ordering::Acquire) == session.0
    }
}

/// The only operation of its kind on a group, until dropped.
#[derive(Debug)]
pub struct Reserved(Group);

impl Drop for Reserved {
    fn drop(&mut self) {
        self.0.state().busy = None;
    }
}

impl Fault {
    /// As a peer is told.
    pub fn refusal(&self) -> Refusal {
        match self {
            Self::Damaged(why) => Refusal::new(RefusalCode::Damaged, why.clone()),
            Self::Disk(why) => Refusal::new(RefusalCode::Internal, why.clone()),
            Self::Full(why) => Refusal::new(RefusalCode::NoSpace, why.clone()),
        }
    }

    /// In words.
    pub fn why(&self) -> &str {
        match self {
            Self::Damaged(why) | Self::Disk(why) | Self::Full(why) => why,
        }
    }
}
