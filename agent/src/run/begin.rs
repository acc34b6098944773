//! How a run on a group begins, begins anew at another head, and ends.
//!
//! ```text
//!  open sources ─▶ proof of the last stop? ─▶ plan ─▶ spool ─▶ "interrupted" durable ─▶ epoch, gap ─▶ taps
//! ```
//!
//! **Invariant:** what a clean stop proved is forgotten durably before a tap accepts anything.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use journal::codec::{Body, Gap, GapReason};
use journal::disk::Reserve;
use journal::failpoint::{self, Step};
use journal::types::{BootId, ChainHead, EpochId, GroupId, Head, Sectors, Seq, VolumeNo, VolumeUuid};
use journal::wire::RebaseReason;
use tokio::sync::{Notify, watch};

use super::alarm::{Alarm, Rpo};
use super::crash::{Crash, Verdicts};
use super::group::{Group, Link, Run, Stage, Volume};
use super::hot::{HotLogs, Logs};
use super::opening::{Doubt, LastRun, Told, declare, left, parent, wanted};
use super::rollback::Rolling;
use super::switch::Switch;
use super::unread::unread;
use crate::capture::{SystemClock, Terms, boot_id};
use crate::hot::{Claim, Left};
use crate::sender::Limit;
use crate::source::{Source, Storage, refuse_inside};
use crate::spool::{Epoch, Found, Room, Spool, sweep};
use crate::state::{self, Action, Facts, GroupState, Groups, OpenedEpoch, Plan, Stopped, plan};
use crate::tap::Tap;
use crate::{Error, Result};

/// What a group is made of.
#[derive(Clone, Debug)]
pub struct GroupOptions {
    /// What it is called.
    pub name: String,
    /// Its volumes: name, and file or block device.
    pub volumes: Vec<(String, PathBuf)>,
    /// Bytes its spool may take.
    pub spool_limit_bytes: u64,
    /// What capture may ask of the host.
    pub terms: Terms,
    /// Bytes a second that all its frames may take of the link; `None`: as many as go through.
    pub limit_bytes_per_second: Option<u64>,
    /// From when on a person wants to hear what is exposed.
    pub rpo: Rpo,
    /// This agent goes on with the group, whoever wrote it last.
    pub take_over: bool,
    /// A source may be another file or device than before.
    pub replaced: bool,
}

/// What is the same for all runs of a group in one process.
struct Parts<'a> {
    id: GroupId,
    boot: BootId,
    terms: Terms,
    wake: &'a Arc<Notify>,
    /// Where the sources are being taken back to, if that is not over.
    rollback: Option<Seq>,
}

/// A volume and what has to be said and read of it.
pub(super) struct Subject<'a> {
    number: VolumeNo,
    uuid: VolumeUuid,
    name: &'a str,
    source: &'a Source,
    action: Action,
    /// What of it may differ from what the order has.
    left: Left,
    /// What of it may differ from what the receiver is remembered to have: what its log begins with.
    hot: Left,
    /// What the last run claims of it.
    claim: Option<Claim>,
}

impl Group {
    /// Takes the group, opens its sources, and begins to capture; what its exports are given is captured from then on.
    pub(super) fn start(state_dir: &Path, reserve: &Arc<Reserve>, options: &GroupOptions) -> Result<Self> {
        // Sources first: of what cannot be protected nothing is remembered.
        let mut sources = Vec::new();
        for (name, path) in &options.volumes {
            let source = Source::open(path).map_err(|error| error.context(format!("volume {name}")))?;
            refuse_inside(state_dir, &source)?;
            sources.push(source);
        }
        let mut state =
            Groups::open(state_dir)?.with_reserve(Arc::clone(reserve)).claim(&options.name, link::random)?;
        let facts = facts(state.state(), &options.volumes, &sources)?;
        // Beside a copied state stands a copied source; whether they may go on is decided with the receiver.
        let mut plan = plan(state.state(), &facts, options.replaced || state.is_copied())?;
        warn_of_changes(&plan);
        sweep(&state.spool_dir());
        let room = Room { limit_bytes: options.spool_limit_bytes, reserve: Some(Arc::clone(reserve)) };
        let found = Found::open(&state.spool_dir(), state.state().id, room, link::random)?;
        let parent = parent(state.state(), found.head);
        let (id, boot, wake) = (state.state().id, boot_id()?, Arc::new(Notify::new()));
        let names = options.volumes.iter().map(|(name, _)| name.as_str());
        let logs = Logs::beside(&state.spool_dir(), boot, reserve)?;
        let subjects = subjects(&state, &plan, names, &sources, (&logs, parent))?;
        if let Some(gap) = &mut plan.gap {
            say_what_is_compared(gap, &subjects);
        }
        let durable = state.state().durable.map(|head| head.seq);
        let unbelieved = |it: &Subject<'_>| match (&it.claim, &it.hot) {
            (None, Left::All { why }) => Some((it.number, Err(why.clone()))),
            _ => None,
        };
        let crash = Crash {
            durable,
            claims: subjects.iter().filter_map(|it| it.claim.clone()).collect(),
            unbelieved: subjects.iter().filter_map(unbelieved).collect(),
        };
        let rollback = state.state().rollback;
        let parts = Parts { id, boot, terms: options.terms, wake: &wake, rollback };
        let epoch = open_epoch(&mut state, parent, remembered(&subjects)?)?;
        let hot = hot_logs(&logs, id, epoch, &subjects)?;
        let run = begin(&parts, (epoch, hot), found, parent, &subjects, (&plan.removed, plan.gap.as_ref()))?;
        sweep(&state.spool_dir());
        let described: Vec<_> = subjects.iter().map(|it| (it.number, it.uuid, it.name.to_owned())).collect();
        let volumes = described.into_iter().zip(sources).map(|((number, uuid, name), source)| {
            let source = Arc::new(source);
            let hot = run.hot.get(&number).cloned();
            let tap = Tap::new(number, source.clone(), Arc::clone(&run.capture)).behind(hot);
            Volume { number, uuid, name, source, switch: Arc::new(Switch::new(tap)) }
        });
        let volumes: Vec<Volume> = volumes.collect();
        if let Some(target) = rollback {
            let group = &options.name;
            tracing::warn!(group, %target, "the sources were being taken back, which is not over: the tap is closed until it is");
            // Nobody is attached yet.
            volumes.iter().for_each(|volume| _ = volume.switch.shut(true));
        }
        Ok(Self {
            id,
            name: options.name.clone(),
            boot,
            spool_limit_bytes: options.spool_limit_bytes,
            reserve: Arc::clone(reserve),
            terms: options.terms,
            limit: Limit::new(options.limit_bytes_per_second),
            rpo: options.rpo,
            alarm: Mutex::new(Alarm::default()),
            sent: AtomicU64::new(0),
            volumes,
            state: Mutex::new(state),
            run: RwLock::new(run),
            was_connected: AtomicBool::new(false),
            wake,
            base_changed: Notify::new(),
            link: watch::Sender::new(Link::default()),
            stopping: AtomicBool::new(false),
            link_is_fast: AtomicBool::new(false),
            rates: Mutex::default(),
            take_over: AtomicBool::new(options.take_over),
            trouble: Mutex::default(),
            crash: Mutex::new(Some(crash)),
            allowed: Mutex::default(),
            rolling: Mutex::new(rollback.map(Rolling::of_before)),
            rollback_is_taken: AtomicBool::new(false),
            writes_blocks: Mutex::new(true),
        })
    }

    /// Begins anew at the receiver's head: what is in the spool is given up, and everything is compared; but of a volume of whose log
    /// `verdicts` say that the receiver agrees with it, only what may differ. The host waits only for what happens in memory.
    pub(crate) fn rebase(&self, parent: Option<Head>, reason: RebaseReason, verdicts: &Verdicts) -> Result<()> {
        let action = if parent.is_some() { Action::Compare } else { Action::FirstCopy };
        let subjects: Vec<Subject<'_>> = self.volumes.iter().map(|volume| Subject::of(volume, action)).collect();
        let text = match reason {
            RebaseReason::Ahead => "the receiver has more than this agent remembers",
            RebaseReason::Behind => "the receiver lacks what is not in the spool any more",
            RebaseReason::TakenOver => "this agent took over what another had written",
            RebaseReason::Disturbed => "a source was changed by somebody else",
        };
        let gap = Gap { reason: GapReason::UncleanStart, text: text.to_owned() };
        self.replace(parent, subjects, gap, verdicts, |_, _| {})?;
        self.no_crash_any_more();
        self.decided();
        self.compared_anew();
        Ok(())
    }

    /// Begins a run that continues `parent` in place of the one there is; `carry` takes over from that what goes on. The host waits
    /// only for what happens in memory.
    pub(super) fn replace(
        &self,
        parent: Option<Head>,
        mut subjects: Vec<Subject<'_>>,
        mut gap: Gap,
        verdicts: &Verdicts,
        carry: impl FnOnce(&mut Run, &mut Run),
    ) -> Result<()> {
        // 1. What takes time, while the old run goes on beside it: an empty spool, and that there is a new epoch, durably. After a
        //    crash from here on the receiver is found ahead, behind or strange again.
        let old_logs: Vec<_> = self.read().hot.values().cloned().collect();
        let (mut found, epoch, hot, dir) = {
            let mut state = self.state();
            let dir = state.spool_dir();
            let room = Room { limit_bytes: self.spool_limit_bytes, reserve: Some(Arc::clone(&self.reserve)) };
            let found = Found::anew(&dir, self.id, room, link::random)?;
            let epoch = open_epoch(&mut state, parent, remembered(&subjects)?)?;
            failpoint::passed(Step::EpochOpened);
            state.set_durable(parent)?;
            // The old logs are of an epoch that is not the last any more: they mean that all is to be compared, and so do the new ones.
            old_logs.iter().for_each(|hot| hot.retire());
            let hot = hot_logs(&Logs::beside(&dir, self.boot, &self.reserve)?, self.id, epoch, &subjects)?;
            (found, epoch, hot, dir)
        };
        let (old, narrowed) = {
            // 2. Nobody writes in between: a change is in the old run, or in the new one. Nor waits for what the old one will never
            //    have.
            self.end_waiting();
            let mut paused: Vec<_> = self.volumes.iter().map(|volume| volume.switch.pause()).collect();
            let mut run = self.write();
            if self.is_stopping() {
                return Err(Error::unavailable("the agent stops"));
            }
            // 3. The new run takes the old one's place. What that captured is on the sources.
            (_, found.time) = run.capture.last();
            for (it, volume) in subjects.iter_mut().zip(&self.volumes) {
                let source = (volume.source.size(), volume.source.flush_failed());
                it.left = left(verdicts.get(&it.number), run.hot.get(&it.number).map(Arc::as_ref), source);
            }
            say_what_is_compared(&mut gap, &subjects);
            let rollback = self.rolling_back_to();
            let parts = Parts { id: self.id, boot: self.boot, terms: self.terms, wake: &self.wake, rollback };
            let mut new = begin(&parts, (epoch, hot), found, parent, &subjects, (&[], Some(&gap)))?;
            let hots = subjects.iter().filter_map(|it| Some((Arc::clone(new.hot.get(&it.number)?), it.left.clone())));
            let narrowed: Vec<_> = hots.collect();
            for (volume, tap) in self.volumes.iter().zip(&mut paused) {
                let hot = new.hot.get(&volume.number).cloned();
                **tap = Tap::new(volume.number, volume.source.clone(), Arc::clone(&new.capture)).behind(hot);
            }
            if let Stage::Sending(base, _) = &run.stage {
                base.end();
            }
            carry(&mut run, &mut new);
            (std::mem::replace(&mut *run, new), narrowed)
        };
        failpoint::passed(Step::RunReplaced);
        // 4. Until here the logs say that all is hot.
        narrowed.iter().for_each(|(hot, left)| hot.narrow(left));
        // 5. The old one ends, and then its spool goes.
        drop(old);
        sweep(&dir);
        self.base_changed.notify_one();
        Ok(())
    }

    /// What a person said at the start was carried out, and what is remembered is the only one of its kind again.
    pub(super) fn decided(&self) {
        self.take_over.store(false, Ordering::Release);
        if let Err(error) = self.state().settle_here() {
            tracing::error!(?error, "the state cannot be written");
        }
    }

    /// Captures no more: what was captured is sent while there is time.
    pub(super) fn close(&self) {
        self.end_rollback();
        self.read().capture.close();
        self.stopping.store(true, Ordering::Release);
        self.wake();
    }

    /// Ends the run. If all of it is in the spool and on the sources, or is known to be still to be read there, that is proven and
    /// remembered.
    pub(super) fn finish(&self) -> Result<()> {
        self.save_durable()?;
        let mut run = self.write();
        let stage = std::mem::replace(&mut run.stage, Stage::Sealed);
        let Some(spool) = run.spool.take() else { return Ok(()) };
        let ending = spool.stop()?;
        let (false, true, Some(head)) = (self.is_disturbed(), ending.recorded, ending.head) else { return Ok(()) };
        let is_whole = matches!(stage, Stage::Sealed) && ending.complete;
        let unread = (!is_whole).then(|| {
            let wanted = match stage {
                Stage::Sealed => Vec::new(),
                Stage::Wanted(volumes) | Stage::Sending(_, volumes) => volumes,
            };
            let sizes: Vec<_> = self.volumes.iter().map(|volume| (volume.number, volume.source.size())).collect();
            unread(&sizes, wanted, run.capture.hand_over())
        });
        let mut proofs = BTreeMap::new();
        for volume in &self.volumes {
            if let Err(error) = volume.source.sync() {
                tracing::error!(volume = volume.name, %error, "the source cannot be flushed: it will be compared");
                continue;
            }
            if let Some(proof) = volume.source.proof()? {
                proofs.insert(volume.number, proof);
            }
        }
        self.state().note_stopped(Stopped { head, proofs, unread })
    }
}

impl<'a> Subject<'a> {
    pub(super) fn of(volume: &'a Volume, action: Action) -> Self {
        // Whatever the log says: the receiver is not where it was when that was written.
        let left = || Left::All { why: String::new() };
        Self {
            number: volume.number,
            uuid: volume.uuid,
            name: &volume.name,
            source: &volume.source,
            action,
            left: left(),
            hot: left(),
            claim: None,
        }
    }

    fn told(&self) -> Told<'_> {
        let Self { number, uuid, name, source, action, ref left, .. } = *self;
        Told { number, uuid, name, path: source.handle_path(), size: source.size(), action, left }
    }
}

/// The volumes as they are found.
fn facts(state: &GroupState, volumes: &[(String, PathBuf)], sources: &[Source]) -> Result<Vec<Facts>> {
    let facts = volumes.iter().zip(sources).map(|((name, path), source)| {
        let known = state.volumes.iter().find(|(_, volume)| volume.name == *name);
        let proof = known.and_then(|(number, _)| state.stopped.as_ref()?.proofs.get(number));
        let unchanged = proof.map(|proof| source.is_unchanged_since(proof)).transpose()?;
        let (size, identity) = (source.size(), source.identity()?);
        Ok(Facts { name: name.clone(), path: path.clone(), size, identity, unchanged })
    });
    facts.collect()
}

fn subjects<'a>(
    group: &state::Group,
    plan: &Plan,
    names: impl Iterator<Item = &'a str>,
    sources: &'a [Source],
    (logs, parent): (&Logs, Option<Head>),
) -> Result<Vec<Subject<'a>>> {
    let state = group.state();
    let last = LastRun { state, parent, is_copied: group.is_copied() };
    let planned = plan.volumes.iter().zip(names).zip(sources);
    let subjects = planned.map(|((planned, name), source)| {
        let known = state.volumes.get(&planned.number).map(|volume| volume.uuid);
        let uuid = known.unwrap_or_else(|| VolumeUuid(link::random()));
        let testimony = || logs.left(state, uuid, source);
        let Doubt { left, hot, claim } = last.doubt((planned.number, source.size()), planned.action, testimony)?;
        Ok(Subject { number: planned.number, uuid, name, source, action: planned.action, left, hot, claim })
    });
    subjects.collect()
}

/// How much, and if it is all, why: for whoever waits for it.
fn say_what_is_compared(gap: &mut Gap, subjects: &[Subject<'_>]) {
    for it in subjects.iter().filter(|it| it.action.compares()) {
        let what = match &it.left {
            Left::Only(ranges) => {
                let bytes: u64 = ranges.iter().map(|range| range.end - range.start).sum();
                format!("{bytes} of {} bytes of {} are compared", it.source.size().bytes(), it.name)
            }
            Left::All { why } if why.is_empty() => continue,
            Left::All { why } => format!("all of {} is compared: {why}", it.name),
        };
        tracing::info!("{what}");
        state::add_to_gap(gap, &what);
    }
}

/// The logs of a run, in place of those of the last one.
fn hot_logs(logs: &Logs, group: GroupId, epoch: EpochId, subjects: &[Subject<'_>]) -> Result<HotLogs> {
    logs.keep(&subjects.iter().map(|it| it.uuid).collect::<Vec<_>>())?;
    let begun = subjects.iter().filter_map(|it| {
        let begun = logs.begin(group, epoch, it.uuid, it.source, &it.hot);
        begun.transpose().map(|hot| Ok((it.number, hot?)))
    });
    begun.collect()
}

fn remembered(subjects: &[Subject<'_>]) -> Result<BTreeMap<VolumeNo, state::Volume>> {
    let volumes = subjects.iter().map(|it| {
        let (path, size): (PathBuf, Sectors) = (it.source.path().to_owned(), it.source.size());
        let (uuid, name, identity) = (it.uuid, it.name.to_owned(), it.source.identity()?);
        Ok((it.number, state::Volume { uuid, name, path, size, identity }))
    });
    volumes.collect()
}

/// What is an event for the journal may be a surprise for a person.
fn warn_of_changes(plan: &Plan) {
    if plan.volumes.iter().any(|volume| volume.resized) {
        let why = plan.gap.as_ref().map_or("", |gap| &gap.text);
        tracing::warn!(why, "a volume has another size than before: older points keep theirs");
    }
}

/// An epoch that continues `parent`, of these volumes: durable on return.
fn open_epoch(
    state: &mut state::Group,
    parent: Option<Head>,
    volumes: BTreeMap<VolumeNo, state::Volume>,
) -> Result<EpochId> {
    let epoch = EpochId::new(link::random()).ok_or_else(|| Error::unavailable("no random identity"))?;
    let chain = parent.map_or(ChainHead::START, |head| head.chain);
    let (before, seq) = (parent.map(|head| head.epoch), parent.map(|head| head.seq));
    state.begin(OpenedEpoch { id: epoch, parent: before, seq, chain }, volumes)?;
    Ok(epoch)
}

/// Begins a run and records what is to be known from its beginning.
fn begin(
    parts: &Parts<'_>,
    (epoch, hot): (EpochId, HotLogs),
    found: Found,
    parent: Option<Head>,
    subjects: &[Subject<'_>],
    (removed, gap): (&[VolumeNo], Option<&Gap>),
) -> Result<Run> {
    let wake = Arc::clone(parts.wake);
    let opened =
        Epoch { group: parts.id, id: epoch, boot: parts.boot, parent, continues: gap.is_none(), terms: parts.terms };
    let on_new = Box::new(move || wake.notify_one());
    let (spool, capture) = Spool::begin(found, &opened, Arc::new(SystemClock), on_new)?;
    let told: Vec<Told<'_>> = subjects.iter().map(Subject::told).collect();
    declare(&capture, &told, removed, gap);
    // Said again: a run that does not continue the one before ends what that had begun.
    parts.rollback.into_iter().for_each(|target| _ = capture.record(Body::RollbackBegin { target }));
    let wanted = wanted(&told, parent);
    let stage = if wanted.is_empty() {
        Stage::Sealed
    } else {
        capture.lacks_base();
        Stage::Wanted(wanted)
    };
    let compared_with = parent.map(|head| head.seq);
    Ok(Run { epoch, parent, spool: Some(spool), capture, stage, hot, compared_with, unread: None })
}
