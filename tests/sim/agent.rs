//! The agent: capture, spool, logs of what is hot, base and sender of one group, stepped by the world.
//!
//! What it decides is the product's; here is only what drives it, as `run`, `sender::live` and `sender::base` do with threads and QUIC.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use agent::base::{BaseVolume, Known};
use agent::capture::{Capture, Lost, Terms};
use agent::hot::Left;
use agent::run::lineage::{Said, go_on, is_lost};
use agent::run::opening::{LastRun, Told, Verdict, declare, left, parent, wanted};
use agent::run::rungs::{self, Climb, Rung, again, parts, rung};
use agent::run::unread::unread;
use agent::sender::state::{Next, Stream as Sending};
use agent::source::Storage;
use agent::spool::{Epoch, Found, Home, Spool, Spooler, Then};
use agent::state::{Action, Facts, GroupState, OpenedEpoch, Stopped, Volume, plan};
use agent::tap::Tap;
use journal::codec::{Body, Gap, GapReason};
use journal::error::{Error, Result};
use journal::frame::Frame;
use journal::log::LogOptions;
use journal::types::{
    BootId, ChainHead, Durable, EpochId, GroupId, Head, ResyncId, Sectors, Seq, VolumeNo, VolumeUuid,
};
use journal::wire::{Message, RebaseReason};

use crate::base::Base;
use crate::client::Client;
use crate::disk::Machine;
use crate::hot::{Asking, Crash, HotLogs};
use crate::layout::Layout;
use crate::source::Source;
use crate::time::{Clocks, entropy};

/// What a host has, whether the agent runs or not.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) clocks: Arc<Clocks>,
    pub(crate) layout: Layout,
    /// By volume.
    pub(crate) sources: Vec<Arc<Source>>,
    /// Where the spool is.
    pub(crate) machine: Machine,
    /// Where the logs of what is hot are; `None`: the sources are of a kind that has none.
    pub(crate) hot: Option<Machine>,
    /// What the state file says.
    pub(crate) state: GroupState,
    /// Volumes of which the last stop took a proof, and whether anything happened to them since.
    pub(crate) proofs: BTreeMap<VolumeNo, bool>,
    pub(crate) client: Arc<Mutex<Client>>,
    pub(crate) limit_bytes: u64,
    pub(crate) segment_bytes: u64,
    pub(crate) terms: Terms,
    pub(crate) boot: BootId,
}

/// A run of the agent's process.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) run: Run,
    /// The end of what the receiver has, as far as this process heard.
    pub(crate) durable: Option<Head>,
    pub(crate) session: Option<Session>,
    /// What an unclean end left, until the receiver was met.
    pub(crate) crash: Option<Crash>,
}

/// What a rebase replaces.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) epoch: EpochId,
    pub(crate) parent: Option<Head>,
    pub(crate) spool: Option<Spool>,
    spooler: Option<Spooler>,
    pub(crate) capture: Arc<Capture>,
    pub(crate) stage: Stage,
    pub(crate) hot: HotLogs,
    pub(crate) compared_with: Option<Seq>,
}

#[derive(Debug)]
pub(crate) enum Stage {
    Sealed,
    Wanted(Vec<BaseVolume>),
    Sending(Box<Base>),
}

/// The agent's end of a connection.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) conn: u64,
    pub(crate) stream: Sending,
    /// The group is open.
    pub(crate) is_open: bool,
    /// The receiver can say what it changed.
    pub(crate) can_say: bool,
    /// It is being asked.
    pub(crate) asking: Option<Asking>,
    /// The base that was opened on it; whether the receiver answered.
    pub(crate) base: Option<(ResyncId, bool)>,
}

/// What is to be said and read of a volume.
struct Subject {
    number: VolumeNo,
    action: Action,
    left: Left,
    hot: Left,
}

impl Host {
    fn options(&self) -> LogOptions {
        LogOptions { group: self.state.id, segment_bytes: self.segment_bytes, entries: false }
    }

    pub(crate) fn empty_state(id: GroupId) -> GroupState {
        GroupState {
            id,
            name: "db".to_owned(),
            volumes: BTreeMap::new(),
            next_volume: VolumeNo(0),
            epochs: Vec::new(),
            durable: None,
            place: None,
            stopped: None,
            rollback: None,
        }
    }

    pub(crate) fn source(&self, volume: VolumeNo) -> &Arc<Source> {
        &self.sources[volume.0 as usize]
    }

    pub(crate) fn sizes(&self) -> Vec<(VolumeNo, Sectors)> {
        self.layout.numbers().map(|number| (number, self.source(number).size())).collect()
    }

    /// `Group::start`: finds what the last run left, and begins to capture.
    pub(crate) fn start(&mut self) -> Result<Agent> {
        self.sources.iter().for_each(|source| source.open());
        let fact = |number: VolumeNo| Facts {
            name: name(number),
            path: PathBuf::new(),
            size: self.source(number).size(),
            identity: None,
            unchanged: self.state.stopped.as_ref().and_then(|_| self.proofs.get(&number).copied()),
        };
        let plan = plan(&self.state, &self.layout.numbers().map(fact).collect::<Vec<_>>(), false)?;
        let home: Arc<dyn Home> = Arc::new(self.machine.clone());
        let found = Found::open_at(home, self.options(), self.limit_bytes, entropy)?;
        let parent = parent(&self.state, found.head);
        let last = LastRun { state: &self.state, parent, is_copied: false };
        let durable = self.state.durable.map(|head| head.seq);
        let mut crash = Crash { durable, claims: Vec::new(), unbelieved: BTreeMap::new() };
        let mut subjects = Vec::new();
        for planned in &plan.volumes {
            let (number, size) = (planned.number, self.source(planned.number).size());
            let doubt = last.doubt((number, size), planned.action, || Ok(self.testimony(number)))?;
            match (&doubt.claim, &doubt.hot) {
                (None, Left::All { why }) => _ = crash.unbelieved.insert(number, Err(why.clone())),
                _ => crash.claims.extend(doubt.claim),
            }
            subjects.push(Subject { number, action: planned.action, left: doubt.left, hot: doubt.hot });
        }
        let run = self.begin(found, parent, &subjects, plan.gap.as_ref())?;
        Ok(Agent { run, durable: None, session: None, crash: Some(crash) })
    }

    /// An epoch that continues `parent`, durably, and its run.
    fn begin(&mut self, found: Found, parent: Option<Head>, subjects: &[Subject], gap: Option<&Gap>) -> Result<Run> {
        let epoch = EpochId::new(entropy()).unwrap();
        let chain = parent.map_or(ChainHead::START, |head| head.chain);
        let (before, seq) = (parent.map(|head| head.epoch), parent.map(|head| head.seq));
        let volume = |(number, size)| {
            let volume = Volume { uuid: uuid(number), name: name(number), path: PathBuf::new(), size, identity: None };
            (number, volume)
        };
        let volumes = self.sizes().into_iter().map(volume).collect();
        self.state.begin(OpenedEpoch { id: epoch, parent: before, seq, chain }, volumes);
        self.proofs.clear();
        let hot =
            subjects.iter().filter_map(|it| Some(self.hot_log(epoch, it.number, &it.hot)?.map(|hot| (it.number, hot))));
        let hot: HotLogs = hot.collect::<Result<_>>()?;
        let (group, boot, terms) = (self.state.id, self.boot, self.terms);
        let opened = Epoch { group, id: epoch, boot, parent, continues: gap.is_none(), terms };
        let clocks: Arc<Clocks> = Arc::clone(&self.clocks);
        let (spool, capture, spooler) = Spool::begin_stepped(found, &opened, clocks, Box::new(|| {}))?;
        let names: Vec<_> = subjects.iter().map(|it| name(it.number)).collect();
        let told = subjects.iter().zip(&names).map(|(it, name)| Told {
            number: it.number,
            uuid: uuid(it.number),
            name,
            path: PathBuf::new(),
            size: self.source(it.number).size(),
            action: it.action,
            left: &it.left,
        });
        let told: Vec<_> = told.collect();
        declare(&capture, &told, &[], gap);
        let wanted = wanted(&told, parent);
        let stage = if wanted.is_empty() { Stage::Sealed } else { Stage::Wanted(wanted) };
        let taps = self.layout.numbers().map(|number| {
            let source: Arc<dyn Storage> = Arc::clone(self.source(number)) as Arc<dyn Storage>;
            let hot = hot.get(&number).cloned();
            (Tap::new(number, source, Arc::clone(&capture)).behind(hot.clone()), hot)
        });
        self.client.lock().unwrap().run_begins(taps.collect(), &capture);
        let compared_with = parent.map(|head| head.seq);
        Ok(Run { epoch, parent, spool: Some(spool), spooler: Some(spooler), capture, stage, hot, compared_with })
    }
}

pub(crate) fn name(volume: VolumeNo) -> String {
    format!("vol{}", volume.0)
}

pub(crate) fn uuid(volume: VolumeNo) -> VolumeUuid {
    VolumeUuid([3 + volume.0 as u8; 16])
}

impl Agent {
    /// The spooler takes what there is; whether anything was.
    pub(crate) fn spool(&mut self) -> bool {
        let Some(spooler) = &mut self.run.spooler else { return false };
        let Some(taken) = spooler.take_now() else { return false };
        if spooler.step(taken) == Then::End {
            self.run.spooler = None;
        }
        true
    }

    /// Nothing happened for a while.
    pub(crate) fn idle(&mut self) {
        if !self.spool()
            && let Some(spooler) = &mut self.run.spooler
        {
            spooler.step(agent::capture::Taken::Idle);
        }
    }

    /// `Group::on_opened` and `Live::open`: the receiver says where it is; what it is asked then.
    pub(crate) fn on_opened(&mut self, host: &mut Host, receiver: Option<Head>) -> Result<(Next, Option<Message>)> {
        while self.spool() {}
        let spool = self.run.spool.as_ref().ok_or_else(|| Error::unavailable("no spool"))?;
        match spool.next_after(self.run.parent.map(|head| head.seq)) {
            Ok(None) => return Err(Error::unavailable("the spool takes nothing")),
            Err(error) if !is_lost(&error) => return Err(error),
            Ok(Some(_)) | Err(_) => {}
        }
        let mut stream = Sending::default();
        stream.connected();
        let next = go_on(spool, &host.state, self.durable, receiver, Said::default(), &mut stream)?;
        let mut asks = None;
        match next {
            Next::Rebase { parent: parent @ Some(at), reason: reason @ RebaseReason::Ahead } => {
                let can_say = self.session.as_ref().is_some_and(|session| session.can_say);
                match self.crash.as_ref().map_or(Ok(BTreeMap::new()), |crash| Asking::of(crash, can_say)) {
                    Ok(verdicts) => self.rebased(host, parent, reason, &verdicts, &mut stream)?,
                    Err(asking) => {
                        let (group, after) = (host.state.id, asking.after);
                        asks = Some(Message::OpenChanged { group, after, at: at.seq });
                        let session = self.session.as_mut().ok_or_else(|| Error::unavailable("no session"))?;
                        session.asking = Some(asking.with(at, stream));
                        return Ok((next, asks));
                    }
                }
            }
            Next::Rebase { parent, reason } => self.rebased(host, parent, reason, &BTreeMap::new(), &mut stream)?,
            Next::Send { .. } | Next::Refuse(_) => {}
        }
        if !matches!(next, Next::Refuse(_)) {
            self.opened(stream, receiver);
        }
        Ok((next, asks))
    }

    fn rebased(
        &mut self,
        host: &mut Host,
        parent: Option<Head>,
        reason: RebaseReason,
        verdicts: &BTreeMap<VolumeNo, Verdict>,
        stream: &mut Sending,
    ) -> Result<()> {
        self.rebase(host, parent, reason, verdicts)?;
        stream.rebased();
        Ok(())
    }

    /// `Group::connected`.
    fn opened(&mut self, stream: Sending, receiver: Option<Head>) {
        if let Some(session) = &mut self.session {
            session.stream = stream;
            session.is_open = true;
        }
        self.crash = None;
        self.durable = receiver;
        self.acked(receiver);
    }

    /// The receiver says something of what it changed: what it is asked next, or `None`: it is known now what is to be compared.
    pub(crate) fn on_changed(&mut self, host: &mut Host, message: &Message) -> Result<Option<Message>> {
        let asking = self.session.as_mut().and_then(|session| session.asking.as_mut());
        let asking = asking.ok_or_else(|| Error::unavailable("nothing was asked"))?;
        if let Some(question) = asking.heard(message) {
            return Ok(Some(question));
        }
        let asking = self.session.as_mut().and_then(|session| session.asking.take());
        let Asking { at, mut stream, verdicts, .. } = asking.ok_or_else(|| Error::unavailable("nothing was asked"))?;
        self.rebased(host, at, RebaseReason::Ahead, &verdicts, &mut stream)?;
        self.opened(stream, at);
        Ok(None)
    }

    fn acked(&self, durable: Option<Head>) {
        if let (Some(spool), Some(head)) = (&self.run.spool, durable) {
            spool.acked(Durable(head.seq));
        }
    }

    /// The receiver has all up to `head`; whether that is news.
    pub(crate) fn on_durable(&mut self, head: Head) -> bool {
        let Some(session) = &mut self.session else { return false };
        let is_news = session.stream.acknowledged(head).unwrap();
        if is_news {
            self.durable = Some(head);
            self.acked(Some(head));
        }
        is_news
    }

    /// The next frame to be sent.
    pub(crate) fn next_frame(&mut self) -> Result<Option<Frame>> {
        let Some(session) = &mut self.session else { return Ok(None) };
        let Some(after) = session.stream.wants_after() else { return Ok(None) };
        let spool = self.run.spool.as_ref().ok_or_else(|| Error::unavailable("no spool"))?;
        let Some(frame) = spool.next_after(after)? else { return Ok(None) };
        session.stream.frame_sent(frame.end().unwrap(), frame.bytes().len());
        Ok(Some(frame))
    }

    /// `Group::rebase`.
    pub(crate) fn rebase(
        &mut self,
        host: &mut Host,
        parent: Option<Head>,
        reason: RebaseReason,
        verdicts: &BTreeMap<VolumeNo, Verdict>,
    ) -> Result<()> {
        let action = if parent.is_some() { Action::Compare } else { Action::FirstCopy };
        let gap = Gap { reason: GapReason::UncleanStart, text: format!("{reason:?}") };
        self.replace(host, parent, action, &gap, verdicts, |_, _| {})?;
        self.crash = None;
        Ok(())
    }

    /// `Group::replace`.
    fn replace(
        &mut self,
        host: &mut Host,
        parent: Option<Head>,
        action: Action,
        gap: &Gap,
        verdicts: &BTreeMap<VolumeNo, Verdict>,
        carry: impl FnOnce(&mut Run, &mut Run),
    ) -> Result<()> {
        let home: Arc<dyn Home> = Arc::new(host.machine.clone());
        let mut found = Found::anew_at(home, host.options(), host.limit_bytes, entropy)?;
        host.state.durable = parent;
        self.run.hot.values().for_each(|hot| hot.retire());
        self.run.capture.end_waiting();
        (_, found.time) = self.run.capture.last();
        let subjects: Vec<_> = host
            .layout
            .numbers()
            .map(|number| {
                let source = host.source(number);
                let hot = self.run.hot.get(&number).map(Arc::as_ref);
                let left = left(verdicts.get(&number), hot, (source.size(), source.flush_failed()));
                Subject { number, action, left, hot: Left::All { why: String::new() } }
            })
            .collect();
        let mut new = host.begin(found, parent, &subjects, Some(gap))?;
        carry(&mut self.run, &mut new);
        self.run = new;
        for it in &subjects {
            self.run.hot.get(&it.number).into_iter().for_each(|hot| hot.narrow(&it.left));
        }
        Ok(())
    }

    /// `Group::climb`; what it did.
    pub(crate) fn climb(&mut self, host: &mut Host) -> Result<Rung> {
        let run = &mut self.run;
        if !run.capture.is_tracking() {
            return Ok(Rung::Stay);
        }
        let stage = match &run.stage {
            Stage::Sealed => rungs::Stage::Sealed,
            Stage::Wanted(_) => rungs::Stage::Wanted,
            Stage::Sending(base) => rungs::Stage::Sending { is_there: base.window.whole(base.read).is_some() },
        };
        let spool_bytes = run.spool.as_ref().filter(|spool| spool.broken().is_none()).map(|spool| spool.status().bytes);
        let is_drained = self.durable.map(|head| head.seq) >= run.capture.last_seq();
        let decided = rung(Climb { stage, spool_bytes, limit_bytes: host.limit_bytes, is_drained });
        match decided {
            Rung::Stay => {}
            Rung::Record => self.record_again(host),
            Rung::Respool => self.respool(host)?,
        }
        Ok(decided)
    }

    fn record_again(&mut self, host: &Host) {
        let run = &mut self.run;
        let Some(lost) = run.capture.resume() else { return };
        run.compared_with = lost.at;
        match &mut run.stage {
            Stage::Sending(base) => {
                let parts = of(host, lost, &Known::Unknown);
                base.volumes.extend(parts.iter().cloned());
                if !parts.is_empty() {
                    base.read = None;
                    base.reader.add(parts);
                }
            }
            stage => *stage = Stage::Wanted(of(host, lost, &Known::Compare)),
        }
    }

    fn respool(&mut self, host: &mut Host) -> Result<()> {
        self.run.spool = None;
        self.run.spooler = None;
        let Some(parent) = self.durable else { return Ok(()) };
        let gap = Gap { reason: GapReason::SpoolFull, text: "the spool could not be written".to_owned() };
        let sizes: BTreeMap<_, _> = host.sizes().into_iter().collect();
        self.replace(host, Some(parent), Action::Continue, &gap, &BTreeMap::new(), |old, new| {
            let place = |number| sizes.get(&number).map(|size| (PathBuf::new(), *size));
            let lost = parts(old.capture.hand_over(), &Known::Compare, place);
            let before = match std::mem::replace(&mut old.stage, Stage::Sealed) {
                Stage::Sealed => Vec::new(),
                Stage::Wanted(volumes) => volumes,
                Stage::Sending(base) => base.volumes,
            };
            new.stage = Stage::Wanted(again(before.into_iter().chain(lost).collect()));
        })
    }

    /// Whether all is quiet: recorded, spooled, sealed and durable.
    pub(crate) fn is_at_rest(&self) -> bool {
        let last = self.run.capture.last_seq();
        let is_sealed = matches!(self.run.stage, Stage::Sealed);
        is_sealed
            && !self.run.capture.is_tracking()
            && self.session.is_some()
            && self.durable.map(|head| head.seq) == last
    }

    /// `Group::save_durable`.
    pub(crate) fn save_durable(&self, host: &mut Host) {
        if let Some(head) = self.durable.filter(|head| host.state.is_news(*head)) {
            host.state.durable = Some(head);
        }
    }

    /// `Group::look_at`, of a source that has become larger, with nothing in the new part. Where that is said.
    pub(crate) fn grew(&self, host: &mut Host, volume: VolumeNo, size: Sectors) -> Option<Seq> {
        let seq = self.run.capture.record_at_once(Body::Resize { volume, size })?;
        host.state.volumes.get_mut(&volume)?.size = size;
        host.source(volume).resize(size);
        Some(seq)
    }

    /// `Group::finish`; whether the next run knows that nothing is missing, and what is left to be read if something is.
    pub(crate) fn stop(mut self, host: &mut Host) -> bool {
        self.run.capture.close();
        while self.spool() {}
        self.save_durable(host);
        let stage = std::mem::replace(&mut self.run.stage, Stage::Sealed);
        let Some(spool) = self.run.spool.take() else { return false };
        let Ok(ending) = spool.stop() else { return false };
        let (true, Some(head)) = (ending.recorded, ending.head) else { return false };
        let is_whole = matches!(stage, Stage::Sealed) && ending.complete;
        let unread = (!is_whole).then(|| {
            let wanted = match stage {
                Stage::Sealed => Vec::new(),
                Stage::Wanted(volumes) => volumes,
                Stage::Sending(base) => base.volumes,
            };
            unread(&host.sizes(), wanted, self.run.capture.hand_over())
        });
        for number in host.layout.numbers() {
            let source = host.source(number);
            let mut client = host.client.lock().unwrap();
            match source.sync() {
                Ok(()) => client.was_flushed(number),
                Err(_) => client.flush_failed(number, Seq::new(u64::MAX)),
            }
            if !source.flush_failed() {
                drop(client);
                host.proofs.insert(number, true);
            }
        }
        host.state.stopped = Some(Stopped { head, proofs: BTreeMap::new(), unread });
        is_whole
    }
}

fn of(host: &Host, lost: Lost, known: &Known) -> Vec<BaseVolume> {
    let sizes: BTreeMap<_, _> = host.sizes().into_iter().collect();
    parts(lost, known, |number| sizes.get(&number).map(|size| (PathBuf::new(), *size)))
}
