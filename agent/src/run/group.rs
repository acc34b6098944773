//! One group that is being protected, as the sender, the control socket and the end of the process see it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use journal::codec::{Body, Sealed};
use journal::disk::Reserve;
use journal::failpoint::{self, Step};
use journal::frame::Frame;
use journal::types::{BootId, Durable, EpochId, GroupId, Head, ResyncId, Seq, VolumeNo, VolumeUuid, WallTime};
use journal::wire::Refusal;
use tokio::sync::{Notify, watch};

use super::alarm::{Alarm, Rpo};
use super::crash::Crash;
use super::hot::HotLogs;
use super::lineage::{Said, go_on, is_lost};
use super::rates::Rates;
use super::rollback::{Allowed, Rolling};
use super::rungs::again;
use super::switch::Switch;
use crate::base::{BaseSpec, BaseVolume};
use crate::capture::{Capture, Terms};
use crate::sender::state::{FAST_BYTES, Next, Stream};
use crate::sender::{Base, Limit};
use crate::source::{Source, Storage};
use crate::spool::{Spool, SpoolStatus};
use crate::state;
use crate::{Error, ErrorKind, Result};

/// How long the first frame of an epoch may take to be spooled.
const FIRST_FRAME: Duration = Duration::from_secs(10);

/// A group, its sources, and the run that captures them.
#[derive(Debug)]
pub(crate) struct Group {
    pub(super) id: GroupId,
    pub(super) name: String,
    pub(super) boot: BootId,
    pub(super) spool_limit_bytes: u64,
    /// Of the state directory, for all groups of the process.
    pub(super) reserve: Arc<Reserve>,
    pub(super) terms: Terms,
    pub(super) limit: Limit,
    pub(super) rpo: Rpo,
    pub(super) alarm: Mutex<Alarm>,
    /// The last place that was sent to the receiver; 0: none.
    pub(super) sent: AtomicU64,
    pub(super) volumes: Vec<Volume>,
    pub(super) state: Mutex<state::Group>,
    pub(super) run: RwLock<Run>,
    /// The receiver has taken it in this process.
    pub(super) was_connected: AtomicBool,
    /// Something is to be sent, or to be looked at by who sends.
    pub(super) wake: Arc<Notify>,
    pub(super) base_changed: Notify,
    pub(super) link: watch::Sender<Link>,
    pub(super) stopping: AtomicBool,
    pub(super) link_is_fast: AtomicBool,
    pub(super) rates: Mutex<Rates>,
    /// A person said that this agent goes on with the group, whoever wrote it last.
    pub(super) take_over: AtomicBool,
    pub(super) trouble: Mutex<Trouble>,
    /// What an unclean end left, until the receiver was met.
    pub(super) crash: Mutex<Option<Crash>>,
    /// Whether a receiver may write to the sources.
    pub(super) allowed: Mutex<Allowed>,
    /// A rollback of the sources that is not over, as the state says.
    pub(super) rolling: Mutex<Option<Rolling>>,
    /// Somebody has the turn to take them back.
    pub(super) rollback_is_taken: AtomicBool,
    /// Whether it may write; held while it does.
    pub(super) writes_blocks: Mutex<bool>,
}

/// Nothing replaces the run meanwhile.
pub(super) type RunGuard<'a> = RwLockReadGuard<'a, Run>;

/// What is wrong with the sources.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    /// For people; capture goes on.
    concern: Option<String>,
    /// Once the receiver has this gap, everything is compared.
    gap: Option<Seq>,
}

/// A volume and its export.
#[derive(Debug)]
pub(crate) struct Volume {
    pub(crate) number: VolumeNo,
    pub(super) uuid: VolumeUuid,
    pub(crate) name: String,
    pub(crate) source: Arc<Source>,
    pub(super) switch: Arc<Switch>,
}

/// What a rebase replaces.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) epoch: EpochId,
    pub(super) parent: Option<Head>,
    /// `None`: a rebase failed, or all is over.
    pub(super) spool: Option<Spool>,
    pub(super) capture: Arc<Capture>,
    pub(super) stage: Stage,
    pub(super) hot: HotLogs,
    /// The place whose view a base may be compared with: no change since was missed.
    pub(super) compared_with: Option<Seq>,
    /// Why the base does not come to its end.
    pub(super) unread: Option<String>,
}

/// How far the base of this run is.
#[derive(Debug)]
pub(super) enum Stage {
    /// There is none to be sent, or it is sealed.
    Sealed,
    /// These have to be read.
    Wanted(Vec<BaseVolume>),
    /// They are being read.
    Sending(Arc<Base>, Vec<BaseVolume>),
}

/// What is known of the receiver.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Link {
    /// The group is open there.
    pub(crate) connected: bool,
    /// The end of what it has durably.
    pub(crate) durable: Option<Head>,
    /// Why it is not open.
    pub(crate) refused: Option<Refusal>,
    /// Why there is no session at all, for people.
    pub(crate) no_session: Option<String>,
}

impl Group {
    pub(crate) fn id(&self) -> GroupId {
        self.id
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn volumes(&self) -> &[Volume] {
        &self.volumes
    }

    /// What is known of the receiver, and every change of that.
    pub(crate) fn link(&self) -> watch::Receiver<Link> {
        self.link.subscribe()
    }

    /// The frame after `seq`, if there is one.
    pub(crate) fn next_after(&self, seq: Option<Seq>) -> Result<Option<Frame>> {
        self.spool(|spool| spool.next_after(seq))?
    }

    /// Decides how to go on with a receiver that is at `receiver`. Reads the spool.
    pub(crate) fn on_opened(&self, receiver: Option<Head>, stream: &mut Stream) -> Result<Next> {
        let run = self.read();
        let spool = run.spool.as_ref().ok_or_else(no_spool)?;
        let parent = run.parent.map(|head| head.seq);
        // An epoch counts from its first frame on, also when that was sent and dropped long ago.
        match spool.wait_after(parent, FIRST_FRAME) {
            Ok(None) => return Err(Error::unavailable("the spool takes nothing")),
            Err(error) if !is_lost(&error) => return Err(error),
            Ok(Some(_)) | Err(_) => {}
        }
        // Not kept: what was decided is remembered.
        let (copied, state) = {
            let state = self.state();
            (state.is_copied(), state.state().clone())
        };
        let acked = self.link.borrow().durable;
        let take_over = self.take_over.load(Ordering::Acquire);
        let disturbed = self.begins_anew(receiver.map(|head| head.seq));
        let said = Said { copied, disturbed, take_over };
        let next = go_on(spool, &state, acked, receiver, said, stream)?;
        if matches!(next, Next::Send { .. }) {
            self.decided();
        }
        Ok(next)
    }

    /// The group is open at the receiver, which has all up to `durable`.
    pub(crate) fn connected(&self, durable: Option<Head>) {
        self.link.send_modify(|link| *link = Link { connected: true, durable, ..Link::default() });
        self.no_crash_any_more();
        self.was_connected.store(true, Ordering::Relaxed);
        self.sent.store(Seq::encode(durable.map(|head| head.seq)), Ordering::Relaxed);
        self.acked(durable);
    }

    /// Whether the receiver has taken it at all, in this process.
    pub(crate) fn was_connected(&self) -> bool {
        self.was_connected.load(Ordering::Relaxed)
    }

    /// The receiver has all up to `durable`.
    pub(crate) fn acknowledged(&self, durable: Head) {
        self.link.send_modify(|link| link.durable = Some(durable));
        self.acked(Some(durable));
    }

    fn acked(&self, durable: Option<Head>) {
        if let Some(head) = durable {
            // Without a spool there is nothing to let go of.
            let _ = self.spool(|spool| spool.acked(Durable(head.seq)));
        }
    }

    /// It is not open any more.
    pub(crate) fn disconnected(&self) {
        self.link.send_if_modified(|link| std::mem::take(&mut link.connected));
    }

    /// The receiver does not take it.
    pub(crate) fn refused(&self, refusal: Refusal) {
        self.link.send_if_modified(|link| {
            let is_new = link.refused.as_ref() != Some(&refusal);
            if is_new {
                tracing::error!(group = self.name, %refusal, "the receiver does not take the group");
                link.refused = Some(refusal);
            }
            is_new
        });
    }

    /// There is no session with a receiver, or there is one again.
    pub(crate) fn no_session(&self, why: Option<&str>) {
        self.link.send_if_modified(|link| {
            let is_new = link.no_session.as_deref() != why;
            if is_new {
                link.no_session = why.map(str::to_owned);
            }
            is_new
        });
    }

    /// All up to `seq` was sent.
    pub(crate) fn sent(&self, seq: Seq) {
        self.sent.store(seq.number(), Ordering::Relaxed);
    }

    /// The end of what was sent, or was there before it.
    pub(crate) fn sent_to(&self) -> Option<Seq> {
        Seq::new(self.sent.load(Ordering::Relaxed))
    }

    /// What its frames may take of the link.
    pub(crate) fn limit(&self) -> &Limit {
        &self.limit
    }

    /// Room for what has to be written when the disk of the state directory is full.
    pub(crate) fn reserve(&self) -> &Reserve {
        &self.reserve
    }

    /// From when on a person wants to hear what is exposed.
    pub(crate) fn rpo(&self) -> Rpo {
        self.rpo
    }

    /// Whether compressing pays; below a low limit it does, however fast the link is.
    pub(crate) fn link_is_fast(&self, fast: bool) {
        let fast = fast && self.limit.bytes_per_second().is_none_or(|limit| limit >= FAST_BYTES);
        self.link_is_fast.store(fast, Ordering::Relaxed);
        // Without a spool there is nothing to compress.
        let _ = self.spool(|spool| spool.set_link_is_fast(fast));
    }

    /// Waits until the receiver has all up to `seq`.
    pub(crate) async fn durable_to(&self, seq: Seq) {
        // The sender of the watch is in `self`.
        let _ = self.link().wait_for(|link| link.durable.is_some_and(|head| head.seq >= seq)).await;
    }

    /// The time of a record that was spooled not long ago. Waits for it.
    pub(crate) fn time_of(&self, seq: Seq) -> Result<Option<WallTime>> {
        let frame = self.spool(|spool| spool.wait_after(seq.before(), FIRST_FRAME))??;
        let Some((frame, first)) = frame.and_then(|frame| frame.first_seq().map(|first| (frame, first))) else {
            return Ok(None);
        };
        let index = usize::try_from(seq.number().saturating_sub(first.number())).unwrap_or(usize::MAX);
        Ok(frame.records().nth(index).map(|record| record.time))
    }

    /// Waits for something to be looked at.
    pub(crate) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Lets whoever waits look.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Whether the agent is to send what it has and say goodbye.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Whether all that was captured is spooled, and durable there.
    pub(crate) fn is_drained(&self, durable: Option<Seq>) -> bool {
        self.spool_status().is_some_and(|spool| spool.captured.0 == spool.spooled && spool.spooled <= durable)
    }

    /// Numbers of the spool.
    pub(crate) fn spool_status(&self) -> Option<SpoolStatus> {
        self.spool(Spool::status).ok()
    }

    /// Waits until there is a base to be sent.
    pub(crate) async fn base_wanted(&self) {
        while matches!(self.read().stage, Stage::Sealed) {
            self.base_changed.notified().await;
        }
    }

    /// The base to be sent, which begins to be read if it was not; `None`: there is none.
    pub(crate) fn base(&self) -> Result<Option<Arc<Base>>> {
        let run = &mut *self.write();
        let volumes = match &mut run.stage {
            Stage::Sealed => return Ok(None),
            Stage::Sending(base, _) => return Ok(Some(Arc::clone(base))),
            Stage::Wanted(volumes) => volumes,
        };
        let resync = ResyncId::new(link::random()).ok_or_else(|| Error::unavailable("no random identity"))?;
        let spec = BaseSpec { group: self.id, epoch: run.epoch, boot: self.boot, resync };
        let capture = Arc::clone(&run.capture);
        let link_is_fast = self.link_is_fast.load(Ordering::Relaxed);
        let base = Arc::new(Base::start(spec, volumes.clone(), run.compared_with, capture, link_is_fast)?);
        run.stage = Stage::Sending(Arc::clone(&base), std::mem::take(volumes));
        failpoint::passed(Step::BaseBegun);
        Ok(Some(base))
    }

    /// How sending a base ended: whole, or to be started over (`None`), or to be tried again.
    pub(crate) fn base_ended(&self, base: &Base, ended: Result<Option<Sealed>>) -> Result<()> {
        let run = &mut *self.write();
        let Stage::Sending(current, volumes) = &mut run.stage else { return Ok(()) };
        if current.resync() != base.resync() {
            return Ok(());
        }
        let ended = match ended {
            Ok(Some(_)) => {
                failpoint::passed(Step::BaseWhole);
                // What changed unrecorded meanwhile is read first: then it is whole another time. It cannot be sealed while nothing is
                // recorded; a run that ends now has sealed nothing, the next one reads it all again.
                let sealed = base.whole().and_then(|sealed| run.capture.record_at_once(Body::Sealed(sealed)));
                if sealed.is_some() {
                    failpoint::passed(Step::SealedRecorded);
                    tracing::info!(group = self.name, "all was read, and points go on");
                    (run.stage, run.unread) = (Stage::Sealed, None);
                }
                return Ok(());
            }
            Ok(None) => Ok(()),
            // It is compared anew at its new size.
            Err(error) if self.is_disturbed() || self.volumes.iter().any(|volume| volume.source.was_cut()) => {
                Err(error)
            }
            Err(error) if error.kind() == ErrorKind::Io => {
                run.unread = Some(error.to_string());
                Err(error)
            }
            Err(error) => return Err(error),
        };
        run.stage = Stage::Wanted(again(std::mem::take(volumes)));
        ended
    }

    /// Something about a source that a person should know, or nothing.
    pub(super) fn set_concern(&self, concern: Option<String>) {
        let mut trouble = self.trouble();
        if trouble.concern == concern {
            return;
        }
        match &concern {
            Some(concern) => tracing::error!(group = self.name, concern, "a source needs to be looked at"),
            None => tracing::info!(group = self.name, "the sources are as they were"),
        }
        trouble.concern = concern;
        drop(trouble);
        self.wake();
    }

    /// Everything is to be compared once the receiver has the order up to `gap`: until then what was captured before is sent.
    pub(super) fn begin_anew_after(&self, gap: Seq) {
        self.trouble().gap = Some(gap);
        self.wake();
    }

    /// Whether a receiver that has all up to `durable` is to be opened anew, to compare everything.
    pub(crate) fn begins_anew(&self, durable: Option<Seq>) -> bool {
        self.trouble().gap.is_some_and(|gap| durable >= Some(gap))
    }

    pub(super) fn is_disturbed(&self) -> bool {
        self.trouble().gap.is_some()
    }

    /// A run that compares everything has begun.
    pub(super) fn compared_anew(&self) {
        self.trouble().gap = None;
    }

    /// Something about a source that a person should know.
    pub(super) fn concern(&self) -> Option<String> {
        self.trouble().concern.clone()
    }

    fn trouble(&self) -> MutexGuard<'_, Trouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers how far the receiver is.
    pub(super) fn save_durable(&self) -> Result<()> {
        let durable = self.link.borrow().durable;
        durable.map_or(Ok(()), |head| self.state().note_durable(head))
    }

    fn spool<T>(&self, look: impl FnOnce(&Spool) -> T) -> Result<T> {
        self.read().spool.as_ref().map(look).ok_or_else(no_spool)
    }

    pub(super) fn read(&self) -> RunGuard<'_> {
        self.run.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Run> {
        self.run.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn rates(&self) -> MutexGuard<'_, Rates> {
        self.rates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, state::Group> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn no_spool() -> Error {
    Error::unavailable("capture has ended")
}
