//! The owner of a group's journal: takes what is queued, appends it, one fdatasync, then says so. On a thread of its own, or step by
//! step as somebody calls it.
//!
//! Group commit needs no timer: while the disk works on one batch, the next one gathers in the queue.
//!
//! Live frames go first. Frames of bases wait here and are written a little at a time, so that what comes live never waits for more than that:
//!
//! ```text
//!   queue ──┬ live ─▶ all of it, fdatasync ─┐
//!           └ base ─▶ waiting ─▶ a slice, fdatasync ─▶ again
//! ```

use std::collections::VecDeque;
use std::sync::Arc;

use journal::disk::{Disk, Reserve};
use journal::error::{Error as JournalError, ErrorKind};
use journal::failpoint::{self, Step};
use journal::frame::Frame;
use journal::log::{BaseHead, Entropy, Finding, Head};
use journal::store::Store;
use journal::types::{ResyncId, SegmentNo, SessionId, WallTime};
use journal::wire::{Refusal, RefusalCode};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tracing::{error, info, warn};

use super::ingest::{Command, superseded};
use super::{Fault, Group};

/// What has to be free before an agent that found none is let in again.
const SOME_BYTES: u64 = 4 << 20;
/// What of a base is written at once while live frames come: a few milliseconds.
const SLICE_BYTES: usize = 2 << 20;
/// Slices after a live frame that are as small: others may follow.
const SLICES: u32 = 64;

/// What a journal is opened with.
#[derive(Clone, Debug)]
pub struct Opening {
    /// Its directory.
    pub disk: Arc<dyn Disk>,
    /// What is there when that is full.
    pub reserve: Option<Arc<Reserve>>,
    /// Content after which a segment is sealed.
    pub segment_bytes: u64,
    /// Random numbers.
    pub entropy: Entropy,
    /// The receiver's wall clock.
    pub now: fn() -> WallTime,
}

/// The owner of the journal.
#[derive(Debug)]
pub struct Writer {
    group: Group,
    commands: mpsc::Receiver<Command>,
    opening: Opening,
    store: Option<Store>,
    /// A session whose frames are passed over, for it was refused.
    refused: Option<SessionId>,
    /// Of bases, not written yet.
    waiting: VecDeque<Waiting>,
    /// So many more slices are small.
    slices: u32,
    /// The last number given out for a file beside the journal: no other opening of it gives it out again.
    numbers: SegmentNo,
}

/// A frame of a base.
#[derive(Debug)]
struct Waiting {
    session: SessionId,
    resync: ResyncId,
    frame: Frame,
    /// Given back when it is written.
    room: OwnedSemaphorePermit,
}

impl Writer {
    /// Opens the journal and publishes what there is. A damaged one is published too, for reading.
    pub(super) fn open(group: Group, opening: Opening, commands: mpsc::Receiver<Command>) -> Self {
        let (waiting, slices, numbers) = (VecDeque::new(), 0, SegmentNo(0));
        let mut writer = Self { group, commands, opening, store: None, refused: None, waiting, slices, numbers };
        writer.reopen();
        writer
    }

    /// Works until told to stop.
    pub(super) fn run(mut self) {
        loop {
            let first = match self.waiting.is_empty() {
                true => self.commands.blocking_recv(),
                false => self.commands.try_recv().ok(),
            };
            if (first.is_none() && self.waiting.is_empty()) || self.turn(first) {
                break;
            }
        }
        self.stop();
    }

    /// Does what waits, or a part of it; whether anything did.
    pub fn step(&mut self) -> bool {
        let first = self.commands.try_recv().ok();
        let waited = first.is_some() || !self.waiting.is_empty();
        if waited {
            self.turn(first);
        }
        waited
    }

    /// All live frames that wait, then some of bases; whether it is the last.
    fn turn(&mut self, first: Option<Command>) -> bool {
        let mut commands: Vec<_> = first.into_iter().collect();
        while let Ok(next) = self.commands.try_recv() {
            commands.push(next);
        }
        let is_last = self.work(commands);
        let bytes = if self.slices > 0 { SLICE_BYTES } else { usize::MAX };
        self.slices = self.slices.saturating_sub(1);
        self.write_waiting(bytes);
        is_last
    }

    /// Notes a clean stop.
    pub fn stop(mut self) {
        let now = (self.opening.now)();
        if let Some(store) = self.store.as_mut().filter(|store| store.closed().is_none())
            && let Err(error) = store.stop(now)
        {
            error!(group = %self.group.name(), %error, "cannot note the clean stop");
        }
    }

    /// What was queued together; whether it is the last.
    fn work(&mut self, commands: Vec<Command>) -> bool {
        let mut live = Live::default();
        let mut stop = false;
        for command in commands {
            match command {
                Command::Live { session, frame, room } if self.takes(session) => {
                    live.session = session;
                    live.frames.push(frame);
                    live.rooms.push(room);
                }
                Command::Base { session, resync, frame, room } if self.takes(session) => {
                    self.waiting.push_back(Waiting { session, resync, frame, room });
                }
                Command::Live { .. } | Command::Base { .. } => {}
                Command::Attach { session, reply } => {
                    self.write_all(std::mem::take(&mut live));
                    let answer = self.attach(session);
                    // Who asked may have gone.
                    let _ = reply.send(answer);
                }
                Command::OpenBase { session, resync, reply } => {
                    self.write_all(std::mem::take(&mut live));
                    let _ = reply.send(self.open_base(session, resync));
                }
                Command::RenewRuns { made, reply } => {
                    if let Some(store) = &mut self.store {
                        store.renew_runs(made);
                    }
                    let _ = reply.send(());
                }
                Command::TakeNumber { reply } => {
                    let taken = self.beside(|store, beyond| Ok(store.take_number(beyond)));
                    self.numbers = taken.as_ref().map_or(self.numbers, |number| *number);
                    let _ = reply.send(taken);
                }
                Command::Thin { list, reply } => {
                    self.write_all(std::mem::take(&mut live));
                    let _ = reply.send(self.beside(|store, _| store.thin(&list)));
                }
                Command::Replace { new, reply } => {
                    self.write_all(std::mem::take(&mut live));
                    let _ = reply.send(self.beside(|store, _| store.replace(new)));
                }
                Command::Mend { reply } => {
                    self.write_all(std::mem::take(&mut live));
                    let _ = reply.send(self.mend());
                }
                Command::Stop => stop = true,
            }
        }
        if stop {
            self.write_all(live);
        } else {
            self.write(live);
        }
        stop
    }

    /// Something that thinning or cleaning asks for. A failure of the disk closes the journal, as any other.
    fn beside<T>(
        &mut self,
        work: impl FnOnce(&mut Store, SegmentNo) -> journal::error::Result<T>,
    ) -> journal::error::Result<T> {
        let beyond = self.numbers;
        let open = self.store.as_mut().filter(|store| store.closed().is_none());
        let store = open.ok_or_else(|| JournalError::invalid("the journal is not written to now"))?;
        let result = work(store, beyond);
        if let Err(error) = &result
            && self.store.as_ref().is_some_and(|store| store.closed().is_some())
        {
            self.fail(SessionId(0), error);
        }
        self.publish();
        result
    }

    fn takes(&self, session: SessionId) -> bool {
        self.group.is_current(session) && self.refused != Some(session)
    }

    fn attach(&mut self, session: SessionId) -> Result<Option<Head>, Refusal> {
        if !self.group.is_current(session) {
            return Err(superseded());
        }
        self.refused = None;
        let fault = self.group.shared.progress.borrow().fault.clone();
        match fault {
            // What is damaged stays so until a person has looked.
            Some(Fault::Damaged(_)) | None => {}
            // Opening reads much: an agent that asks every other second would keep the disk busy.
            Some(Fault::Full(_)) if !self.has_room_for(SOME_BYTES) => {}
            // Nothing was written of what found no room.
            Some(Fault::Full(_)) if self.store.as_ref().is_some_and(|store| store.closed().is_none()) => {
                self.group.shared.progress.send_modify(|now| now.fault = None);
            }
            Some(Fault::Disk(_) | Fault::Full(_)) => self.reopen(),
        }
        self.group.shared.progress.send_modify(|now| {
            now.session = session;
            now.refused = None;
            now.bases.clear();
        });
        if let Some(fault) = &self.group.shared.progress.borrow().fault {
            return Err(fault.refusal());
        }
        // What recovery read is in the file, but only what was promised is known to be on the disk.
        self.sync()?;
        Ok(self.store.as_ref().and_then(|store| store.head()))
    }

    fn open_base(&mut self, session: SessionId, resync: ResyncId) -> Result<Option<BaseHead>, Refusal> {
        if !self.takes(session) {
            return Err(superseded());
        }
        let Some(store) = &mut self.store else { return Err(nothing_open()) };
        // One base at a time: what an agent began and does not go on with is of no use any more.
        let synced = match store.base_head(resync) {
            Some(_) => store.sync_base(resync),
            None => store.drop_unsealed_bases(Some(resync)).map(|()| None),
        };
        let head = synced.map_err(|error| self.fail(session, &error));
        match &head {
            Ok(_) => failpoint::passed(Step::BaseMadeWay),
            // Nothing else may be on its way that would end the session, and only a new one opens the journal anew.
            Err(refusal) => self.refuse(session, refusal.clone()),
        }
        self.publish();
        head
    }

    /// Writes all that came so far.
    fn write_all(&mut self, live: Live) {
        self.write(live);
        while !self.waiting.is_empty() {
            self.write_waiting(usize::MAX);
        }
    }

    /// Appends live frames and makes them durable.
    fn write(&mut self, live: Live) {
        if live.frames.is_empty() {
            return;
        }
        self.slices = SLICES;
        // The order may say that a base is whole: what came of it came before.
        if live.frames.iter().any(|frame| frame.header().notes_bytes > 0) {
            while !self.waiting.is_empty() {
                self.write_waiting(usize::MAX);
            }
        }
        let Live { session, frames, rooms } = live;
        if self.takes(session) {
            let written = self.check_room(&frames).and_then(|()| self.write_live(session, &frames));
            self.wrote(session, written);
        }
        drop(rooms);
    }

    /// Appends frames of one base, about so many bytes or all that wait, and makes them durable.
    fn write_waiting(&mut self, bytes: usize) {
        let Some(&Waiting { session, resync, .. }) = self.waiting.front() else { return };
        let (mut frames, mut rooms, mut taken) = (Vec::new(), Vec::new(), 0);
        let is_one = |next: &mut Waiting| next.session == session && next.resync == resync;
        while taken < bytes
            && let Some(next) = self.waiting.pop_front_if(is_one)
        {
            taken += next.frame.bytes().len();
            frames.push(next.frame);
            rooms.push(next.room);
        }
        if self.takes(session) {
            let written = self.check_room(&frames).and_then(|()| self.write_base(session, resync, &frames));
            self.wrote(session, written);
        }
        drop(rooms);
    }

    /// Says what became of it.
    fn wrote(&mut self, session: SessionId, written: Result<(), Refusal>) {
        if let Err(refusal) = written {
            self.refuse(session, refusal);
        }
        self.publish();
    }

    /// Refuses what the disk has no room for, before any of it is written: what is left is for manifests and the like, and for frames
    /// without data: marks, gaps, the end of a base.
    fn check_room(&self, frames: &[Frame]) -> Result<(), Refusal> {
        let has_data = frames.iter().any(|frame| !frame.payload().is_empty());
        let bytes = frames.iter().map(|frame| frame.bytes().len()).sum::<usize>();
        if !has_data || self.has_room_for(u64::try_from(bytes).unwrap_or(u64::MAX)) {
            return Ok(());
        }
        let why = "no space left on the store's disk: nothing that was durable is lost, and the agent goes on when there is room";
        error!(group = %self.group.name(), why);
        let fault = Fault::Full(why.to_owned());
        let refusal = fault.refusal();
        self.group.shared.progress.send_modify(|now| now.fault = Some(fault));
        Err(refusal)
    }

    fn has_room_for(&self, bytes: u64) -> bool {
        self.opening.reserve.as_ref().is_none_or(|reserve| reserve.has_room_for(bytes))
    }

    /// Takes nothing more of this session, and ends it.
    fn refuse(&mut self, session: SessionId, refusal: Refusal) {
        self.refused = Some(session);
        self.group.shared.progress.send_modify(|now| now.refused = Some(refusal));
    }

    fn write_base(&mut self, session: SessionId, resync: ResyncId, frames: &[Frame]) -> Result<(), Refusal> {
        let now = (self.opening.now)();
        let Some(store) = &mut self.store else { return Err(nothing_open()) };
        let written = store.append_base(resync, frames, session, now).and_then(|()| store.sync_base(resync));
        written.map(drop).map_err(|error| self.fail(session, &error))
    }

    fn write_live(&mut self, session: SessionId, frames: &[Frame]) -> Result<(), Refusal> {
        let now = (self.opening.now)();
        let Some(store) = &mut self.store else { return Err(nothing_open()) };
        store.append(frames, session, now).map_err(|error| self.fail(session, &error))?;
        self.sync()
    }

    /// The one fdatasync of a batch. What it covered is visible to readers from then on.
    fn sync(&mut self) -> Result<(), Refusal> {
        let Some(store) = &mut self.store else { return Err(nothing_open()) };
        let synced = store.sync();
        synced.map(drop).map_err(|error| self.fail(SessionId(0), &error))
    }

    /// What a failed operation means for the session, and for the group.
    fn fail(&mut self, session: SessionId, error: &JournalError) -> Refusal {
        let name = self.group.name();
        let text = error.to_string();
        let closed = self.store.as_ref().and_then(|store| store.closed().map(str::to_owned));
        let Some(why) = closed else {
            // Nothing was written: the frame is wrong, not the disk.
            info!(group = %name, ?session, %error, "a frame was refused");
            let code = match error.kind() {
                ErrorKind::NotFound => RefusalCode::BaseLost,
                ErrorKind::Corrupt => RefusalCode::Malformed,
                _ => RefusalCode::ChainBroken,
            };
            return Refusal::new(code, text);
        };
        error!(group = %name, %error, "the journal is not written to any more");
        let fault = match error.kind() {
            ErrorKind::NoSpace => Fault::Full(format!("no space left: {why}")),
            _ => Fault::Disk(why),
        };
        let refusal = fault.refusal();
        self.group.shared.progress.send_modify(|now| now.fault = Some(fault));
        refusal
    }

    /// Mends the journal if it is damaged. Nobody has it open meanwhile.
    fn mend(&mut self) -> journal::error::Result<Vec<Finding>> {
        if !matches!(self.group.shared.progress.borrow().fault, Some(Fault::Damaged(_))) {
            return Ok(Vec::new());
        }
        self.store = None;
        let Opening { disk, segment_bytes, entropy, .. } = self.opening.clone();
        let mended = Store::mend(disk, self.group.id(), segment_bytes, entropy);
        // What was published before is not what there is.
        self.group.shared.progress.send_modify(|now| now.head = None);
        self.reopen();
        mended
    }

    /// Opens the journal anew: recovery decides what of the last batch is there.
    fn reopen(&mut self) {
        self.store = None;
        let Opening { disk, segment_bytes, entropy, .. } = self.opening.clone();
        let name = self.group.name().clone();
        let fault = match Store::open(disk, self.group.id(), segment_bytes, entropy) {
            Ok((mut store, findings)) => {
                // Who cleans may be writing a file of such a number now, and removes it when it is refused.
                store.skip_numbers(self.numbers);
                for Finding { place, what, mended } in &findings {
                    warn!(group = %name, place, what, mended, "found while opening the journal");
                }
                let hint = format!("`backspool verify {name}` sets aside what cannot be read, and the agent goes on");
                let fault = store.closed().map(|why| match store.lacks_room() {
                    true => Fault::Full(why.to_owned()),
                    false => Fault::Damaged(format!("{why}; {hint}")),
                });
                let mut state = self.group.state();
                state.library = Some(store.library());
                state.findings = findings;
                self.store = Some(store);
                fault
            }
            Err(error) => {
                error!(group = %name, %error, "the journal cannot be opened");
                let why = error.to_string();
                Some(match error.kind() {
                    ErrorKind::NoSpace => Fault::Full(why),
                    ErrorKind::Io => Fault::Disk(why),
                    // Its directory: who opened that can sync it no more, and knows of no damage.
                    ErrorKind::Poisoned => {
                        Fault::Disk(format!("{why}; when the disk is well, start the receiver again"))
                    }
                    _ => Fault::Damaged(why),
                })
            }
        };
        self.group.shared.progress.send_modify(|now| now.fault = fault);
        self.publish();
    }

    fn publish(&self) {
        let Some(store) = &self.store else { return };
        let version = store.library().now();
        let head = version.head();
        let open = store.log().bases().filter(|&resync| version.timeline().sealed(resync).is_none());
        let bases: Vec<_> =
            open.filter_map(|resync| store.log().base_durable(resync).map(|head| (resync, head))).collect();
        self.group.shared.progress.send_modify(|now| {
            if now.head.map(|h| h.seq) > head.map(|h| h.seq) && now.fault.is_none() {
                now.fault = Some(Fault::Damaged(format!("what was published up to {:?} is gone", now.head)));
            }
            now.head = head;
            now.bases = bases;
        });
    }
}

/// Live frames that were queued together. All of it is of one session: an older one's frames are passed over.
#[derive(Debug, Default)]
struct Live {
    session: SessionId,
    frames: Vec<Frame>,
    /// Given back when the frames are written.
    rooms: Vec<OwnedSemaphorePermit>,
}

fn nothing_open() -> Refusal {
    Refusal::new(RefusalCode::Damaged, "the journal cannot be opened")
}
