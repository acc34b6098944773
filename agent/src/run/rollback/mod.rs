//! The sources of a group go back to an earlier point, as the receiver says: writes in the order, between *begin* and *sealed*.
//!
//! ```text
//!   1 shut ─▶ 2 mark, durable ─▶ 3 the receiver's plan ─▶ 4 noted, begin, durable ─▶ 5 blocks ─▶ 6 flush, sealed, durable, forgotten ─▶ open
//!   └──────── whatever ends: open, nothing was changed ──┘└─────── whatever ends: it stays shut, and is gone on with ───────┘
//! ```
//!
//! **Invariant:** no block is written before the state says durably, and the receiver has durably, that it has begun.
//! **Invariant:** while the state says so, the tap is shut: from the start of a run on, before it listens.
//! **Invariant:** whoever holds the [`Turn`] is the only one; what it started on another thread holds it too.

mod admit;

use std::ops::Deref;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use journal::codec::{Body, Gap, GapReason};
use journal::disk::AlignedBuf;
use journal::failpoint::{self, Step};
use journal::types::{EpochId, Seq};
use journal::wire::{AgentState, NoRollback, RollbackBlocks, RollbackOpening};
use nbd::Export;

use super::group::{Group, Run, RunGuard, Volume};
use super::mark::Unmarked;
use crate::Error;
use crate::capture::{Clock, SystemClock};
use crate::source::Storage;

pub use admit::ALLOW_MAX;
pub(crate) use admit::{Allowed, Denied};
use admit::{Facts, admit};

/// One that has begun and is not over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rolling {
    /// To which place in the order.
    pub(crate) target: Seq,
    /// The order says so. Otherwise no block was written, and what the state may say of it is to be taken back.
    pub(super) begun: bool,
    /// Bytes that were written in this process, and that were to be.
    pub(crate) done_bytes: u64,
    /// 0: the receiver has not said yet.
    pub(crate) total_bytes: u64,
    /// Where the order says that it is over, in which run; nobody has heard yet that this is durable.
    pub(crate) sealed: Option<(EpochId, Seq)>,
}

impl Rolling {
    /// One that an earlier run, or process, had begun.
    pub(super) fn of_before(target: Seq) -> Self {
        Self { target, begun: true, done_bytes: 0, total_bytes: 0, sealed: None }
    }
}

/// The right to take the sources back. Given up, clients are let in, unless what was begun is not over.
#[derive(Debug)]
pub(crate) struct Turn {
    group: Arc<Group>,
    epoch: EpochId,
}

/// Clients that were put out, and the place as of which the order says what the sources hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ready {
    pub(crate) clients: u32,
    pub(crate) seq: Option<Seq>,
}

impl Group {
    /// A receiver may write to the sources for so long from now on.
    pub(crate) fn allow(&self, time: Duration) {
        *self.allowed.lock().unwrap_or_else(PoisonError::into_inner) =
            Allowed::for_another(SystemClock.boottime(), time);
    }

    /// For how much longer it may.
    pub(crate) fn allowed_for(&self) -> Option<Duration> {
        self.allowed.lock().unwrap_or_else(PoisonError::into_inner).left(SystemClock.boottime())
    }

    /// The one that is not over.
    pub(crate) fn rolling(&self) -> Option<Rolling> {
        *self.rolling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change_rolling(&self, change: impl FnOnce(&mut Rolling)) {
        self.rolling.lock().unwrap_or_else(PoisonError::into_inner).as_mut().map(change);
    }

    fn set_rolling(&self, rolling: Option<Rolling>) {
        *self.rolling.lock().unwrap_or_else(PoisonError::into_inner) = rolling;
    }

    /// Clients of all taps.
    pub(crate) fn clients(&self) -> u32 {
        self.volumes().iter().map(|volume| volume.switch.clients()).sum()
    }

    /// From here on no block is written any more: what is captured after it would be lost.
    pub(super) fn end_rollback(&self) {
        *self.writes_blocks.lock().unwrap_or_else(PoisonError::into_inner) = false;
    }

    /// Why not all that the sources hold is within a point that can be made now.
    fn why_not_live(&self) -> Option<String> {
        if !self.link().borrow().connected {
            return Some("there is no session with the receiver".to_owned());
        }
        let condition = self.condition_of_run();
        let is_whole = matches!(condition.state, AgentState::Running | AgentState::Spooling);
        let has_points = is_whole && !self.is_disturbed() && !self.read().capture.has_gap();
        (!has_points).then(|| Unmarked::why_no_points(&condition))
    }

    /// The right to take the sources back, if nobody has it.
    pub(crate) fn take_turn(self: &Arc<Self>) -> Option<Turn> {
        let is_taken = self.rollback_is_taken.swap(true, Ordering::AcqRel);
        (!is_taken).then(|| Turn { group: Arc::clone(self), epoch: self.read().epoch })
    }

    /// What was begun and is not over: where to.
    pub(super) fn rolling_back_to(&self) -> Option<Seq> {
        self.rolling().filter(|rolling| rolling.begun).map(|rolling| rolling.target)
    }

    /// Ends what is over, or was not begun, if whoever carried it out has gone before he heard that, or could not forget it.
    pub(super) fn end_what_is_over(self: &Arc<Self>) -> crate::Result<()> {
        let Some(Rolling { begun, sealed, .. }) = self.rolling() else { return Ok(()) };
        if !begun {
            return self.take_turn().map_or(Ok(()), |turn| turn.take_back());
        }
        let Some((epoch, sealed)) = sealed else { return Ok(()) };
        let is_durable = self.link().borrow().durable.is_some_and(|head| head.seq >= sealed);
        match self.take_turn() {
            Some(turn) if is_durable && turn.epoch == epoch => turn.forget(),
            _ => Ok(()),
        }
    }

    fn open_taps(&self) {
        self.volumes().iter().for_each(|volume| volume.switch.open());
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.rolling().is_none() {
            self.open_taps();
        }
        self.rollback_is_taken.store(false, Ordering::Release);
    }
}

impl Deref for Turn {
    type Target = Group;

    fn deref(&self) -> &Group {
        &self.group
    }
}

impl Turn {
    /// Whether what is asked may be done.
    pub(crate) fn admit(&self, asked: &RollbackOpening) -> Result<(), Denied> {
        let facts = Facts {
            unfinished: self.rolling_back_to().is_some(),
            allowed: self.allowed_for().is_some(),
            not_live: self.why_not_live(),
        };
        admit(asked, &facts)
    }

    /// Puts clients out, and names the state before; the place that has to be durable then. Waits for requests in progress.
    pub(crate) fn shut(&self, asked: &RollbackOpening) -> Result<Ready, Denied> {
        if asked.looks_only {
            return Ok(Ready { clients: self.clients(), seq: self.read().capture.last_seq() });
        }
        let mut clients = 0;
        for volume in self.volumes() {
            match volume.switch.shut(asked.even_if_attached || asked.goes_on) {
                Ok(count) => clients += count,
                Err(count) => {
                    let (are, name) = (if count == 1 { "client is" } else { "clients are" }, &volume.name);
                    return Err(Denied::new(
                        NoRollback::Attached,
                        format!("{count} {are} attached to the tap of {name}"),
                    ));
                }
            }
        }
        tracing::warn!(group = self.name(), clients, target = %asked.target, "the tap is closed: the sources are taken back");
        failpoint::passed(Step::RollbackShut);
        if asked.goes_on {
            return Ok(Ready { clients, seq: self.read().capture.last_seq() });
        }
        let marked = self.mark(&asked.mark, asked.locked_until).map_err(|unmarked| match unmarked {
            Unmarked::NoPoints { why, .. } => Denied::new(NoRollback::NotLive, why),
            Unmarked::Failed(error) => Denied::failed(&error),
        })?;
        failpoint::passed(Step::RollbackMarked);
        Ok(Ready { clients, seq: Some(marked) })
    }

    /// Until the receiver has all up to `seq`, of this run.
    pub(crate) async fn heard(&self, seq: Seq) -> crate::Result<()> {
        let mut link = self.link();
        let known = link.wait_for(|link| !link.connected || link.durable.is_some_and(|head| head.seq >= seq)).await;
        let is_durable = known.is_ok_and(|link| link.durable.is_some_and(|head| head.seq >= seq));
        // A run that began meanwhile gives out the same places for something else.
        match is_durable && self.read().epoch == self.epoch {
            true => Ok(()),
            false => Err(Error::unavailable("the receiver did not confirm it")),
        }
    }

    /// It begins, or goes on perhaps elsewhere: noted durably, then recorded.
    pub(crate) fn begin(&self, asked: &RollbackOpening, total_bytes: u64) -> Result<Seq, Denied> {
        self.admit(asked)?;
        let run = self.of_this_run()?;
        let goes_on = self.rolling_back_to().is_some();
        let rolling = Rolling { target: asked.target, begun: goes_on, done_bytes: 0, total_bytes, sealed: None };
        if !goes_on {
            self.set_rolling(Some(rolling));
        }
        let begun = self.note_and_record(&run, rolling);
        drop(run);
        match &begun {
            Ok(_) => failpoint::passed(Step::RollbackBegun),
            Err(_) if goes_on => {}
            // Tried again until it can be.
            Err(_) => self.take_back().unwrap_or_else(|error| {
                tracing::error!(group = self.name(), %error, "what was not begun is noted still: the tap stays closed until it is not");
            }),
        }
        begun
    }

    fn note_and_record(&self, run: &Run, rolling: Rolling) -> Result<Seq, Denied> {
        let target = rolling.target;
        failpoint::reached(Step::RollbackNoting)?;
        self.state().note_rollback(Some(target))?;
        failpoint::passed(Step::RollbackNoted);
        self.set_rolling(Some(rolling));
        let begun = run.capture.record_if_whole(Body::RollbackBegin { target });
        let begun = begun.ok_or_else(|| Denied::new(NoRollback::NotLive, "a gap opened"))?;
        self.set_rolling(Some(Rolling { begun: true, ..rolling }));
        Ok(begun)
    }

    /// Forgets what was noted and not begun: no block was written. The tap opens with the end of the turn.
    fn take_back(&self) -> crate::Result<()> {
        if self.rolling().is_some_and(|rolling| !rolling.begun) {
            failpoint::reached(Step::RollbackForgetting)?;
            self.state().note_rollback(None)?;
            self.set_rolling(None);
        }
        Ok(())
    }

    /// Puts blocks on their source, through the tap.
    pub(crate) fn write(&self, blocks: &RollbackBlocks) -> Result<(), Denied> {
        let (volume, data) = self.check(blocks)?;
        let going = self.writes_blocks.lock().unwrap_or_else(PoisonError::into_inner);
        if !*going {
            return Err(Denied::new(NoRollback::Failed, "the agent stops"));
        }
        failpoint::reached(Step::RollbackWriting)?;
        let (offset, length) = (blocks.offset, u64::from(blocks.length));
        let written = volume.switch.with(|tap| match &data {
            Some(data) => tap.write(offset, data, false),
            None => tap.write_zeroes(offset, length, false, false),
        });
        drop(going);
        written.map_err(|error| {
            let name = &volume.name;
            Denied::new(NoRollback::Failed, format!("the source of {name} failed a write at byte {offset}: {error:?}"))
        })?;
        self.change_rolling(|rolling| rolling.done_bytes = rolling.done_bytes.saturating_add(length));
        failpoint::passed(Step::RollbackWritten);
        Ok(())
    }

    /// What is written where, of what a receiver sent.
    fn check(&self, blocks: &RollbackBlocks) -> Result<(&Volume, Option<AlignedBuf>), Denied> {
        let senseless = |what: &str| Denied::new(NoRollback::Senseless, what);
        let volume = self.group.volumes().iter().find(|volume| volume.number == blocks.volume);
        let volume = volume.ok_or_else(|| senseless("blocks of a volume that is not protected here"))?;
        let extent = blocks.extent().ok_or_else(|| senseless("blocks that are none"))?;
        let block = u64::from(volume.source.block_bytes());
        let is_aligned = extent.byte().is_multiple_of(block) && extent.bytes().is_multiple_of(block);
        if !is_aligned || extent.byte() + extent.bytes() > volume.source.size().bytes() {
            return Err(senseless("blocks beyond the end of their volume, or between its blocks"));
        }
        if !blocks.is_whole() {
            return Err(senseless("blocks that are not what was sent"));
        }
        if blocks.data.is_empty() {
            return Ok((volume, None));
        }
        // Sources are written past the page cache: from whole pages.
        let mut data = AlignedBuf::new(blocks.data.len())?;
        data.copy_from_slice(&blocks.data);
        Ok((volume, Some(data)))
    }

    /// All blocks are there: the sources are flushed, and the order says so.
    pub(crate) fn seal(&self) -> Result<Seq, Denied> {
        for volume in self.volumes() {
            volume.switch.with(|tap| tap.flush()).map_err(|error| {
                Denied::new(NoRollback::Failed, format!("the source of {} failed a flush: {error:?}", volume.name))
            })?;
        }
        failpoint::passed(Step::RollbackFlushed);
        let run = self.of_this_run()?;
        let rolling = self.rolling().ok_or_else(|| Denied::new(NoRollback::NothingBegun, "nothing has begun"))?;
        let sealed = run.capture.record_if_whole(Body::RollbackSealed { target: rolling.target });
        let sealed = sealed.ok_or_else(|| {
            Denied::new(NoRollback::NotLive, "a gap opened meanwhile: it is gone on with when all was read")
        })?;
        self.change_rolling(|rolling| rolling.sealed = Some((self.epoch, sealed)));
        failpoint::passed(Step::RollbackSealed);
        Ok(sealed)
    }

    /// The receiver knows that it is over. Then nobody has to, and clients come in.
    pub(crate) fn forget(&self) -> crate::Result<()> {
        failpoint::passed(Step::RollbackSealHeard);
        let run = self.of_this_run()?;
        failpoint::reached(Step::RollbackForgetting)?;
        self.state().note_rollback(None)?;
        failpoint::passed(Step::RollbackForgotten);
        self.set_rolling(None);
        drop(run);
        self.open_taps();
        tracing::warn!(group = self.name(), "the sources are back there: the tap is open again");
        Ok(())
    }

    /// Nobody goes on with what was begun: clients come in to a mix of now and then, and all of it is compared. The place it was to go to.
    ///
    /// # Errors
    /// `NotFound`: nothing was begun. Otherwise it is as it was, but for a gap.
    pub(crate) fn give_up(&self) -> crate::Result<Seq> {
        let name = self.name();
        let nothing =
            || Error::not_found(format!("the sources of {name} are not being taken back: there is nothing to give up"));
        let target = self.rolling_back_to().ok_or_else(nothing)?;
        let run = self.of_this_run()?;
        // First: whatever ends from here on, the order ends it with a run that compares everything, and does not continue this one.
        let text = format!("taking the sources back to seq {target} was given up");
        let gap = run.capture.record_at_once(Body::Gap(Gap { reason: GapReason::SourceError, text }));
        // While changes are only tracked a gap is open already.
        if let Some(gap) = gap.or_else(|| run.capture.last_seq()) {
            self.begin_anew_after(gap);
        }
        failpoint::reached(Step::RollbackForgetting)?;
        self.state().note_rollback(None)?;
        failpoint::passed(Step::RollbackForgotten);
        self.set_rolling(None);
        drop(run);
        self.open_taps();
        tracing::warn!(group = name, %target, "taking the sources back was given up: they are a mix until they are written anew; the tap is open");
        Ok(target)
    }

    /// Another run has not taken its place, and does not while this is held.
    fn of_this_run(&self) -> crate::Result<RunGuard<'_>> {
        let run = self.read();
        match run.epoch == self.epoch {
            true => Ok(run),
            false => Err(Error::unavailable("another run has begun meanwhile")),
        }
    }

    /// Whether more can be written without filling the spool: the receiver takes it as it comes.
    pub(crate) fn has_room(&self) -> bool {
        self.spool_status().is_some_and(|spool| spool.bytes <= spool.limit_bytes / 2)
    }
}
