//! What a session holds of a group: a way in that is bounded, and that closes when a newer session comes.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use journal::frame::Frame;
use journal::index::MergedRun;
use journal::log::{BaseHead, Compacted, Finding, Head, PointsFile};
use journal::types::{ResyncId, SegmentNo, SessionId};
use journal::wire::{Refusal, RefusalCode, Report};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use super::{Group, Order, Progress, Told};
use crate::error::{Code, Error};

/// Commands that may wait; small ones, for large ones run out of bytes first.
const COMMANDS: usize = 1024;
/// Bytes that may wait, of live frames and again of bases: enough to keep the writer busy through an fdatasync.
const QUEUE_BYTES: u32 = 16 * 1024 * 1024;
/// Orders that may wait for an agent.
const ORDERS: usize = 16;

/// What the writer is told.
#[derive(Debug)]
pub(super) enum Command {
    Live {
        session: SessionId,
        frame: Frame,
        room: OwnedSemaphorePermit,
    },
    Base {
        session: SessionId,
        resync: ResyncId,
        frame: Frame,
        room: OwnedSemaphorePermit,
    },
    /// Where is the order, now that this session is the only one?
    Attach {
        session: SessionId,
        reply: oneshot::Sender<Result<Option<Head>, Refusal>>,
    },
    /// Where is this base?
    OpenBase {
        session: SessionId,
        resync: ResyncId,
        reply: oneshot::Sender<Result<Option<BaseHead>, Refusal>>,
    },
    /// Readers are to look into this merged run, and no longer into those that cannot be read.
    RenewRuns {
        made: Option<Arc<MergedRun>>,
        reply: oneshot::Sender<()>,
    },
    /// A number for a file that is made beside the journal.
    TakeNumber {
        reply: oneshot::Sender<journal::error::Result<SegmentNo>>,
    },
    /// History is thinned.
    Thin {
        list: PointsFile,
        reply: oneshot::Sender<journal::error::Result<()>>,
    },
    /// A compacted segment stands for others; the names of their files.
    Replace {
        new: Compacted,
        reply: oneshot::Sender<journal::error::Result<Vec<String>>>,
    },
    /// A person wants the journal to be mended.
    Mend {
        reply: oneshot::Sender<journal::error::Result<Vec<Finding>>>,
    },
    Stop,
}

/// The way to the writer.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    pub(super) commands: mpsc::Sender<Command>,
    live: Arc<Semaphore>,
    /// Of its own: a live frame does not wait for room behind those of a base.
    base: Arc<Semaphore>,
}

impl Queue {
    pub(super) fn new() -> (Self, mpsc::Receiver<Command>) {
        let (commands, receiver) = mpsc::channel(COMMANDS);
        let room = || Arc::new(Semaphore::new(usize::try_from(QUEUE_BYTES).unwrap_or(Semaphore::MAX_PERMITS)));
        (Self { commands, live: room(), base: room() }, receiver)
    }

    /// Whether frames wait, or are being written.
    pub(super) fn is_busy(&self) -> bool {
        let all = usize::try_from(QUEUE_BYTES).unwrap_or(Semaphore::MAX_PERMITS);
        self.live.available_permits() < all || self.base.available_permits() < all
    }

    /// Tells the writer to end after all that waits before it.
    pub(super) async fn stop(&self) {
        // A writer that has ended already needs no telling.
        let _ = self.commands.send(Command::Stop).await;
    }
}

async fn room(of: &Arc<Semaphore>, frame: &Frame) -> Result<OwnedSemaphorePermit, Refusal> {
    let bytes = u32::try_from(frame.bytes().len()).unwrap_or(QUEUE_BYTES).min(QUEUE_BYTES);
    Arc::clone(of).acquire_many_owned(bytes).await.map_err(|_| gone())
}

/// One session's hold on a group; dropped, the session is gone.
#[derive(Debug)]
pub struct Attachment {
    /// End of the order here, durable: the agent goes on from it.
    pub head: Option<Head>,
    /// How far it is from now on.
    pub progress: watch::Receiver<Progress>,
    /// What to ask the agent for.
    pub orders: mpsc::Receiver<Order>,
    /// The way in.
    pub ingest: Ingest,
}

/// The way in for one session. A clone is the same one; all end with the session.
#[derive(Clone, Debug)]
pub struct Ingest {
    group: Group,
    session: SessionId,
    queue: Queue,
}

impl Group {
    /// Makes `session` the only one that may write. Whatever older one there is gets nothing more in, from this moment on.
    pub async fn attach(&self, session: SessionId) -> Result<Attachment, Refusal> {
        // Only ever forward: of two that come at once the newer one stays.
        if self.shared.session.fetch_max(session.0, Ordering::AcqRel) > session.0 {
            return Err(superseded());
        }
        let queue = self.queue().clone().ok_or_else(gone)?;
        let (reply, answer) = oneshot::channel();
        queue.commands.send(Command::Attach { session, reply }).await.map_err(|_| gone())?;
        let head = answer.await.map_err(|_| gone())??;
        let (sender, orders) = mpsc::channel(ORDERS);
        {
            let mut state = self.state();
            if !self.is_current(session) {
                return Err(superseded());
            }
            state.orders = Some(sender);
            state.report = None;
        }
        let ingest = Ingest { group: self.clone(), session, queue };
        Ok(Attachment { head, progress: self.progress(), orders, ingest })
    }
}

impl Group {
    /// Lets readers look into a merged run; returns when they do. `None`: the group is about to end. For a thread that may wait.
    pub(super) fn renew_runs(&self, made: Option<Arc<MergedRun>>) -> Option<()> {
        let queue = self.queue().clone()?;
        let (reply, done) = oneshot::channel();
        queue.commands.blocking_send(Command::RenewRuns { made, reply }).ok()?;
        done.blocking_recv().ok()
    }

    /// Mends a journal that is damaged, so that its agent can go on with it; what was done, nothing if it is not damaged.
    pub(crate) async fn mend(&self) -> crate::error::Result<Vec<Finding>> {
        let stopping = || Error::new(Code::FAILED, "the receiver is stopping");
        let queue = self.queue().clone().ok_or_else(stopping)?;
        let (reply, answer) = oneshot::channel();
        queue.commands.send(Command::Mend { reply }).await.map_err(|_| stopping())?;
        Ok(answer.await.map_err(|_| stopping())??)
    }
}

impl Ingest {
    /// Hands a live frame to the writer; waits while the queue is full. That it is durable says [`Progress`].
    pub async fn live(&self, frame: Frame) -> Result<(), Refusal> {
        let room = room(&self.queue.live, &frame).await?;
        self.send(Command::Live { session: self.session, frame, room }).await
    }

    /// Where a base stands here, durably; `None`: nothing of it is.
    pub async fn open_base(&self, resync: ResyncId) -> Result<Option<BaseHead>, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::OpenBase { session: self.session, resync, reply }).await?;
        answer.await.map_err(|_| gone())?
    }

    /// Hands a frame of a base to the writer, as [`live`](Self::live).
    pub async fn base(&self, resync: ResyncId, frame: Frame) -> Result<(), Refusal> {
        let room = room(&self.queue.base, &frame).await?;
        self.send(Command::Base { session: self.session, resync, frame, room }).await
    }

    /// Keeps what the agent said of itself.
    pub fn report(&self, report: Report) {
        let mut state = self.group.state();
        if self.group.is_current(self.session) {
            state.report = Some(Told { report, at: Instant::now(), session: self.session });
        }
    }

    /// Its group.
    pub fn group(&self) -> &Group {
        &self.group
    }

    async fn send(&self, command: Command) -> Result<(), Refusal> {
        if !self.group.is_current(self.session) {
            return Err(superseded());
        }
        if let Some(refused) = self.group.shared.progress.borrow().refused.clone() {
            return Err(refused);
        }
        self.queue.commands.send(command).await.map_err(|_| gone())
    }
}

pub(super) fn superseded() -> Refusal {
    Refusal::new(RefusalCode::Superseded, "")
}

fn gone() -> Refusal {
    Refusal::new(RefusalCode::Internal, "the receiver is stopping")
}
