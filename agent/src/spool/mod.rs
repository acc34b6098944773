//! The agent's own journal: frames wait here until a receiver has them durably.
//!
//! ```text
//!   capture ──take──► spooler ──append──► log on disk ──locate──► sender, when behind
//!                        └──────publish──► recent frames ───────► sender
//! ```
//!
//! **Invariant:** a frame is in the log before a sender can see it, unless the log failed; so an agent that was killed knows all
//! that it sent.
//! **Invariant:** what the log lacks is in memory.

mod adaptive;
mod ages;
mod disk;
#[cfg(test)]
mod full_tests;
mod lag;
mod open;
mod spooler;
#[cfg(test)]
mod tests;
mod thread;

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use journal::codec::{Body, EpochBegin};
use journal::disk::Reserve;
use journal::failpoint::{self, Step};
use journal::frame::Frame;
use journal::log::{Head, Log};
use journal::types::{BootId, ChainHead, Durable, EpochId, GroupId, Micros, Seq, WallTime};
use journal::wire::LagReport;

pub(crate) use adaptive::Adaptive;
use ages::{Ages, Moment};
use lag::Lag;
pub use open::{Found, Home, Room};
pub(crate) use open::{give_up, sweep};
use spooler::Chain;
pub use spooler::{Spooler, Then};

use crate::capture::{Capture, CaptureState, Clock, Start, Terms};
use crate::{Error, ErrorKind, Result};

/// Memory for frames that the log has too, so that a sender that keeps up never reads from disk.
const RECENT_BYTES: usize = 16 << 20;

/// How a run of the agent on a group begins.
#[derive(Debug)]
pub struct Epoch {
    /// The group.
    pub group: GroupId,
    /// This run.
    pub id: EpochId,
    /// Which boot of the machine it is.
    pub boot: BootId,
    /// What it continues. Unless it is the spool's own head, frames in the spool that were not sent are given up.
    pub parent: Option<Head>,
    /// Whether it is proven that nothing wrote the volumes since.
    pub continues: bool,
    /// What capture may ask of the host.
    pub terms: Terms,
}

/// Frames on their way to a receiver, in order.
pub struct Spool {
    capture: Arc<Capture>,
    shared: Arc<Shared>,
    limit_bytes: u64,
    home: Arc<dyn Home>,
    boot: BootId,
    thread: Option<JoinHandle<()>>,
}

/// Numbers for people and programs.
#[derive(Clone, Debug)]
pub struct SpoolStatus {
    /// Whether capture runs.
    pub capture: CaptureState,
    /// The last record, and its time.
    pub captured: (Option<Seq>, WallTime),
    /// The last record that a sender can get.
    pub spooled: Option<Seq>,
    /// The last record that is durable at a receiver.
    pub durable: Option<Seq>,
    /// Age of the oldest change that is not durable at a receiver, whatever was done to the wall clock since; `None`: there is none.
    pub oldest: Option<Micros>,
    /// How long changes took until they were known to be durable, in this session.
    pub lag: LagReport,
    /// Bytes on disk.
    pub bytes: u64,
    /// Bytes that are allowed.
    pub limit_bytes: u64,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Where the order stands.
    pub head: Option<Head>,
    /// Whether everything that happened is in it, durably.
    pub complete: bool,
    /// All that was recorded is in it; what changed while nothing could be is tracked.
    pub recorded: bool,
}

/// What the spooler's thread and its users share.
struct Shared {
    log: Mutex<Log>,
    recent: Mutex<Recent>,
    /// Frames became available.
    published: Condvar,
    link_is_fast: AtomicBool,
    reserve: Option<Arc<Reserve>>,
}

#[derive(Debug, Default)]
struct Recent {
    frames: VecDeque<Frame>,
    bytes: usize,
    /// Changes that are not durable.
    ages: Ages,
    /// All records that are not, also those that say that nothing happened: their lag is the link's as well.
    waiting: Ages,
    lag: Lag,
    /// The last record of all frames published.
    spooled: Option<Seq>,
    /// The last record of the runs before this one.
    inherited: Option<Seq>,
    /// What the log has: frames beyond it stay in memory.
    logged: Option<Seq>,
    durable: Option<Seq>,
    /// Through where segments were dropped.
    dropped: Option<Seq>,
}

impl Spool {
    /// Opens an epoch: its beginning is the first record. `on_new` is called on the spooler's thread whenever there are new
    /// frames, to wake a sender; it must not block.
    pub fn begin(
        found: Found,
        epoch: &Epoch,
        clock: Arc<dyn Clock>,
        on_new: Box<dyn Fn() + Send>,
    ) -> Result<(Self, Arc<Capture>)> {
        let (mut spool, capture, spooler) = Self::begin_stepped(found, epoch, clock, on_new)?;
        spool.thread = Some(thread::start(spooler, Arc::clone(&capture))?);
        Ok((spool, capture))
    }

    /// The same without a thread: whoever has the spooler steps it.
    pub fn begin_stepped(
        found: Found,
        epoch: &Epoch,
        clock: Arc<dyn Clock>,
        on_new: Box<dyn Fn() + Send>,
    ) -> Result<(Self, Arc<Capture>, Spooler)> {
        let &Epoch { group, id, boot, parent, continues, terms } = epoch;
        let found = found.continuing(parent)?;
        let limit_bytes = found.room.limit_bytes;
        // What an earlier run left is on its way out: a start that found its spool full must be able to get anywhere.
        let allowed_bytes = limit_bytes.max(found.log.bytes().saturating_add(limit_bytes / 8));
        let last = parent.map(|head| head.seq);
        let capture = Arc::new(Capture::new(Start { last, time: found.time }, clock, terms));
        let head = parent.map_or(ChainHead::START, |head| head.chain);
        let parent_epoch = parent.map(|head| head.epoch);
        capture.record(Body::EpochBegin(EpochBegin { parent: parent_epoch, seq: last, head, continues }));
        let mut recent = Recent { spooled: last, inherited: last, logged: last, ..Recent::default() };
        if let Some(head) = found.head {
            recent.ages.add(head.seq, long_ago(capture.clock(), found.time));
        }
        let shared = Arc::new(Shared {
            log: Mutex::new(found.log),
            recent: Mutex::new(recent),
            published: Condvar::new(),
            link_is_fast: AtomicBool::new(false),
            reserve: found.room.reserve,
        });
        let spooler = Spooler {
            capture: capture.clone(),
            shared: shared.clone(),
            chain: Chain::new(group, id, boot, parent),
            adaptive: Adaptive::default(),
            limit_bytes: allowed_bytes,
            rests: terms.flush_wait.is_none(),
            on_new,
        };
        let spool = Self { capture: capture.clone(), shared, limit_bytes, home: found.home, boot, thread: None };
        Ok((spool, capture, spooler))
    }

    /// The frame with the record after `seq`; `None` if there is none yet. May read from disk.
    ///
    /// # Errors
    /// `NotFound` if it was dropped: a receiver had it durably once.
    pub fn next_after(&self, seq: Option<Seq>) -> Result<Option<Frame>> {
        let next = Seq::following(seq);
        {
            let recent = self.shared.recent();
            if recent.spooled < Some(next) {
                return Ok(None);
            }
            let at = recent.frames.partition_point(|frame| frame.last_seq() < Some(next));
            let frame = recent.frames.get(at).filter(|frame| frame.first_seq() <= Some(next));
            if let Some(frame) = frame {
                return Ok(Some(frame.clone()));
            }
        }
        let place = self.shared.log().locate(next)?;
        let gone = || Error::not_found(format!("the frame with record {next} is no longer in the spool"));
        place.ok_or_else(gone)?.read().map(Some)
    }

    /// As [`next_after`](Self::next_after), but waits for it, at most for `patience`.
    pub fn wait_after(&self, seq: Option<Seq>, patience: Duration) -> Result<Option<Frame>> {
        let next = Seq::following(seq);
        let waits = |recent: &mut Recent| recent.spooled < Some(next);
        drop(self.shared.published.wait_timeout_while(self.shared.recent(), patience, waits));
        self.next_after(seq)
    }

    /// A receiver has all up to here durably: it may be dropped.
    pub fn acked(&self, durable: Durable) {
        let now = self.capture.clock().boottime();
        let mut recent = self.shared.recent();
        recent.say_passed(durable.0);
        recent.durable = recent.durable.max(Some(durable.0));
        recent.ages.forget(durable.0, drop);
        let Recent { waiting, lag, .. } = &mut *recent;
        waiting.forget(durable.0, |made| lag.note(made.age(now)));
        drop(recent);
        self.capture.acked(durable.0);
    }

    /// Why it cannot be written any more.
    pub fn broken(&self) -> Option<String> {
        self.shared.log().closed().map(str::to_owned)
    }

    /// Why it must not be written now.
    pub(crate) fn has_no_room(&self) -> Option<String> {
        self.shared.has_no_room()
    }

    /// A receiver goes on from `durable`: what follows is not durable there, whatever it or another one said before. May read
    /// from disk.
    pub fn goes_on_from(&self, durable: Option<Seq>) -> Result<()> {
        self.shared.recent().lag = Lag::default();
        let Some(frame) = self.next_after(durable)? else { return Ok(()) };
        let first = frame.records().next().map(|record| self.made(&frame, record.time));
        let mut recent = self.shared.recent();
        // What an earlier run left, and what was acknowledged: of neither the age is known here any more.
        let last = recent.durable.max(recent.inherited);
        if let (Some(last), Some(time)) = (last.filter(|last| Some(*last) > durable), first) {
            recent.ages.recall(last, time);
        }
        recent.durable = durable;
        Ok(())
    }

    /// Compressing does not pay on this link.
    pub fn set_link_is_fast(&self, fast: bool) {
        self.shared.link_is_fast.store(fast, Ordering::Relaxed);
    }

    /// Numbers as of now.
    pub fn status(&self) -> SpoolStatus {
        let bytes = self.shared.log().bytes();
        let (capture, captured) = (self.capture.state(), self.capture.last());
        let now = self.capture.clock().boottime();
        let recent = self.shared.recent();
        SpoolStatus {
            capture,
            captured,
            spooled: recent.spooled,
            durable: recent.durable,
            lag: recent.lag.report(),
            oldest: recent.ages.oldest().map(|oldest| oldest.age(now)),
            bytes,
            limit_bytes: self.limit_bytes,
        }
    }

    /// Ends capture and makes all of it durable on this machine.
    pub fn stop(mut self) -> Result<Ending> {
        self.close();
        let mut log = self.shared.log();
        if log.closed().is_some() {
            return Ok(Ending { head: log.head(), complete: false, recorded: false });
        }
        log.stop(self.capture.clock().wall())?;
        self.home.sync()?;
        let recorded = log.head().map(|head| head.seq) == self.capture.last_seq();
        let complete = recorded && self.capture.state() == CaptureState::Running;
        Ok(Ending { head: log.head(), complete, recorded })
    }

    /// When a record of this frame was made that bears `time`.
    fn made(&self, frame: &Frame, time: WallTime) -> Moment {
        if frame.header().boot == self.boot { made(frame, time) } else { long_ago(self.capture.clock(), time) }
    }

    fn close(&mut self) {
        self.capture.close();
        if let Some(thread) = self.thread.take() {
            // If it panicked, the log lacks records, and that is seen.
            let _ = thread.join();
        }
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn durable(&self) -> Option<Seq> {
        self.recent().durable
    }

    fn link_is_fast(&self) -> bool {
        self.link_is_fast.load(Ordering::Relaxed)
    }

    /// Lets senders see the frames.
    fn publish(&self, frames: Vec<Frame>) {
        let logged = self.log().head().map(|head| head.seq);
        let mut recent = self.recent();
        recent.logged = recent.logged.max(logged);
        for frame in frames {
            recent.push(frame);
        }
        recent.evict();
        self.published.notify_all();
    }

    /// Whether the disk beneath is full, so that what is left is for what cannot wait.
    fn has_no_room(&self) -> Option<String> {
        let reserve = self.reserve.as_ref().filter(|reserve| !reserve.is_whole() && !reserve.has_room_for(0))?;
        Some(format!("the disk of the spool is full: make room on the one with {}", reserve.path().display()))
    }

    /// Drops whole segments that a receiver has.
    fn drop_durable(&self) {
        let durable = {
            let mut recent = self.recent();
            if recent.durable == recent.dropped {
                return;
            }
            recent.dropped = recent.durable;
            recent.durable
        };
        let Some(durable) = durable else { return };
        // It is only space: a spool that cannot be written is noticed when it has to be.
        match self.log().drop_through(durable) {
            Err(error) if error.kind() != ErrorKind::Poisoned => tracing::warn!(?error, "cannot drop spool segments"),
            _ => {}
        }
    }
}

impl Recent {
    fn push(&mut self, frame: Frame) {
        if let (Some(first), Some(last)) = (frame.records().next(), frame.last_seq()) {
            self.waiting.add(last, made(&frame, first.time));
            let change = frame.records().find(|record| !matches!(record.body, Body::Clock(_)));
            if let Some(change) = change {
                self.ages.add(last, made(&frame, change.time));
            }
        }
        self.spooled = frame.last_seq();
        self.bytes += weight(&frame);
        self.frames.push_back(frame);
    }

    /// All up to `durable` has just become so.
    fn say_passed(&self, durable: Seq) {
        if failpoint::is_armed(Step::SealedAcknowledged) {
            let new = |frame: &&Frame| frame.last_seq() > self.durable && frame.last_seq() <= Some(durable);
            let sealed = |frame: &Frame| frame.records().any(|record| matches!(record.body, Body::Sealed(_)));
            if self.frames.iter().filter(new).any(sealed) {
                failpoint::passed(Step::SealedAcknowledged);
            }
        }
    }

    fn evict(&mut self) {
        while self.bytes > RECENT_BYTES
            && let Some(frame) = self.frames.pop_front_if(|frame| frame.last_seq() <= self.logged)
        {
            self.bytes -= weight(&frame);
        }
    }
}

impl fmt::Debug for Spool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spool").field("home", &self.home).finish_non_exhaustive()
    }
}

/// When a record was made that bears `time`, in a frame of this boot: so long before the frame was closed as the wall clock says. That
/// is hardly any time; a clock that is set later changes nothing any more.
fn made(frame: &Frame, time: WallTime) -> Moment {
    let header = frame.header();
    Moment::before(header.boottime, header.wall.since(time))
}

/// When a record was made that bears `time`, perhaps before the machine was started: only the wall clock tells.
fn long_ago(clock: &dyn Clock, time: WallTime) -> Moment {
    Moment::before(clock.boottime(), clock.wall().since(time))
}

/// Something was done with this frame: that is a step, if a gap or `sealed` is in it.
pub(crate) fn say_passed(frame: &Frame, gap: Step, sealed: Step) {
    if !failpoint::is_armed(gap) && !failpoint::is_armed(sealed) {
        return;
    }
    for record in frame.records() {
        match record.body {
            Body::Gap(_) => failpoint::passed(gap),
            Body::Sealed(_) => failpoint::passed(sealed),
            _ => {}
        }
    }
}

/// Memory that a frame holds: a large one the whole buffer that it was built in.
fn weight(frame: &Frame) -> usize {
    const LARGE: usize = 128 * 1024;
    let bytes = frame.bytes().len();
    if bytes > LARGE { bytes.max(3 << 19) } else { bytes }
}
