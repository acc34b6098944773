//! Lets changes of one volume pass once their extents are durably said to be hot, and closes extents that are no longer.

use std::ops::RangeInclusive;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use journal::disk::Disk;
use journal::log::Entropy;
use journal::types::{BootId, Extent, Sectors, Seq, WallTime};

use super::codec::{Change, ROOM};
use super::evidence::LATE_BOOT_US;
use super::file::{self, LogFile};
use super::ledger::{Job, Ledger, Ticket, covering};
use super::marks::{Generation, Marks};
use super::{EXTENT_BYTES, ExtentNo, HOT_MAX, Head, Left, Subject, extents_in, extents_of, ranges};
use crate::capture::Clock;
use crate::{Error, Result};

/// How often what is covered is looked at: it costs a flush of the source. An extent turns cold after one to two of these.
const TURN_US: u64 = 10_000_000;
/// The same while there is too much, or everything, in the log.
const TURN_SOON_US: u64 = 1_000_000;

/// The gate in front of one volume.
#[derive(Debug)]
pub struct Hot {
    marks: Marks,
    book: Mutex<Book>,
    /// A batch has ended.
    said: Condvar,
    /// Locked while it is written to.
    shelf: Mutex<Shelf>,
    turns: Mutex<Turns>,
    disk: Arc<dyn Disk>,
    name: String,
    subject: Subject,
    boot: BootId,
    clock: Arc<dyn Clock>,
    entropy: Entropy,
    /// How long a note is good for.
    lease_us: u64,
}

/// A change that is under way.
#[derive(Debug)]
pub struct Pass<'a> {
    hot: &'a Hot,
    extents: Vec<RangeInclusive<ExtentNo>>,
}

/// What a log is begun with, beside what it is about.
#[derive(Clone, Debug)]
pub struct Place {
    /// The directory of logs.
    pub disk: Arc<dyn Disk>,
    /// This boot.
    pub boot: BootId,
    /// The clocks.
    pub clock: Arc<dyn Clock>,
    /// Random numbers.
    pub entropy: Entropy,
}

#[derive(Debug)]
struct Book {
    ledger: Ledger,
    /// A batch is on its way.
    is_writing: bool,
    /// The log is not written any more, in this run.
    is_over: bool,
    /// Whatever may be changed or uncovered is open in the marks, also while the log says "all".
    is_known: bool,
}

#[derive(Debug)]
struct Shelf {
    /// `None`: there is no log.
    file: Option<LogFile>,
    /// When the last note says that all was well.
    noted: WallTime,
    changed: WallTime,
}

#[derive(Debug, Default)]
struct Turns {
    /// What ended in this generation or before is on the source, durably, and captured up to there.
    flushed: Option<(Generation, Seq)>,
    /// When the generation was last turned, since boot.
    last: WallTime,
}

impl Hot {
    /// Begins the log of a run that has `left` to compare, in place of what the last one left. `changed`: when the source was last
    /// changed.
    ///
    /// # Errors
    /// If the log cannot be written, and what is there cannot be removed; and for a volume that is too large for it.
    pub fn begin(place: Place, subject: Subject, left: &Left, changed: WallTime) -> Result<Self> {
        Self::begin_with(place, subject, left, changed, (HOT_MAX, LATE_BOOT_US))
    }

    pub(super) fn begin_with(
        place: Place,
        subject: Subject,
        left: &Left,
        changed: WallTime,
        (hot_max, lease_us): (usize, u64),
    ) -> Result<Self> {
        let extents = extents_of(subject.size).ok_or_else(|| Error::unsupported("too large for a hot-extent log"))?;
        let mut ledger = Ledger::new(extents, hot_max, ROOM);
        let marks = Marks::new(extents);
        let mut is_known = false;
        if let Left::Only(ranges) = left {
            let left: Vec<_> = extents_in(ranges).collect();
            if left.len() <= hot_max {
                left.iter().for_each(|extent| marks.open(*extent));
                ledger.list(left);
                is_known = true;
            }
        }
        let Place { disk, boot, clock, entropy } = place;
        let hot = Self {
            marks,
            book: Mutex::new(Book { ledger, is_writing: false, is_over: false, is_known }),
            said: Condvar::new(),
            shelf: Mutex::new(Shelf { file: None, noted: clock.wall(), changed }),
            turns: Mutex::default(),
            disk,
            name: subject.file_name(),
            subject,
            boot,
            clock,
            entropy,
            lease_us,
        };
        // 1. What is there is about an earlier run, and so means "all" by now. 2. The new log takes its place, whole.
        let is_all = hot.book().ledger.is_all();
        let begun = match is_all {
            true => hot.create(true, &[]),
            false => match hot.book().ledger.begin() {
                Job::Rewrite(runs) => hot.create(false, &runs),
                job => unreachable!("a list begins with {job:?}"),
            },
        };
        // 3. Or none: then all is hot as well.
        if let Err(error) = begun {
            tracing::error!(?error, "the hot-extent log cannot be written: after a crash all will be compared");
            file::remove(&*hot.disk, &hot.name)?;
            hot.shelf().file = None;
            if is_all {
                return Ok(hot);
            }
            hot.book().ledger.ended(false);
        } else if !is_all {
            hot.book().ledger.ended(true);
        }
        Ok(hot)
    }

    /// Waits until all of `extents` may be changed. They are being changed until the pass is dropped, which is after what was done
    /// has been captured.
    pub fn enter(&self, extents: impl IntoIterator<Item = Extent>) -> Pass<'_> {
        let extents: Vec<_> = extents.into_iter().map(covering).collect();
        let closed: Vec<ExtentNo> =
            extents.iter().cloned().flatten().filter(|extent| !self.marks.enter(*extent)).collect();
        if !closed.is_empty() {
            self.admit(&closed);
        }
        Pass { hot: self, extents }
    }

    fn admit(&self, closed: &[ExtentNo]) {
        let mut book = self.book();
        // Between the end of a batch and here, what was said may have been replaced: by a list without these.
        while !closed.iter().all(|extent| book.ledger.is_hot(*extent)) {
            let ticket = book.ledger.ask(closed.iter().copied());
            book = self.redeem(book, ticket);
        }
        closed.iter().for_each(|extent| self.marks.open(*extent));
        drop(book);
    }

    /// Waits until what the ticket stands for is durable: for whoever writes, or by writing.
    fn redeem<'a>(&'a self, mut book: MutexGuard<'a, Book>, ticket: Ticket) -> MutexGuard<'a, Book> {
        while !book.ledger.is_redeemed(ticket) {
            book = match book.is_writing {
                true => self.said.wait(book).unwrap_or_else(PoisonError::into_inner),
                false => self.say(book),
            };
        }
        book
    }

    /// Writes one batch.
    fn say<'a>(&'a self, mut book: MutexGuard<'a, Book>) -> MutexGuard<'a, Book> {
        let job = book.ledger.begin();
        if book.is_over {
            // Nothing is written any more, and so all is hot, or not ours to say.
            book.ledger.ended(false);
            return book;
        }
        book.is_writing = true;
        drop(book);
        let written = self.write(&job);
        let mut book = self.book();
        book.is_writing = false;
        let is_durable = match written {
            Ok(()) => true,
            Err(is_over) => {
                book.is_over |= is_over;
                false
            }
        };
        book.ledger.ended(is_durable);
        if let Job::Append(runs) = &job {
            // Also what nobody has asked for yet.
            let hot = runs.iter().filter(|run| run.hot).flat_map(|run| run.first..run.first + run.count);
            hot.filter(|extent| book.ledger.is_hot(*extent)).for_each(|extent| self.marks.open(extent));
        }
        self.said.notify_all();
        book
    }

    /// Does a job. If it cannot be done, all is hot on disk when this returns; the error says whether that is for good.
    fn write(&self, job: &Job) -> std::result::Result<(), bool> {
        let written = match job {
            Job::Nothing => return Ok(()),
            Job::Append(runs) => self.append(file::changes(runs)),
            Job::All => self.append(vec![Change::All]),
            Job::Rewrite(runs) => self.create(false, runs),
        };
        let Err(error) = written else { return Ok(()) };
        tracing::error!(?error, "the hot-extent log cannot be written: after a crash all will be compared");
        let mut shelf = self.shelf();
        shelf.file = None;
        let Err(error) = file::remove(&*self.disk, &self.name) else { return Err(false) };
        // Whatever is on that disk must not be believed: nobody does once its last note is too old for what was written since.
        tracing::error!(?error, "nor can it be removed: changes wait until it has expired");
        let until = shelf.noted.0.saturating_add(self.lease_us);
        let left = until.saturating_sub(self.clock.wall().0).min(self.lease_us);
        std::thread::sleep(Duration::from_micros(left));
        Err(true)
    }

    fn append(&self, changes: Vec<Change>) -> Result<()> {
        let mut shelf = self.shelf();
        let file = shelf.file.as_mut().ok_or_else(|| Error::unavailable("there is no log"))?;
        file.append(changes)
    }

    fn create(&self, is_all: bool, runs: &[super::codec::Run]) -> Result<()> {
        let mut shelf = self.shelf();
        let head = Head { subject: self.subject, boot: self.boot, salt: (self.entropy)(), is_all };
        shelf.file = None;
        let (at, changed) = (shelf.noted, shelf.changed);
        shelf.file = Some(LogFile::create(&*self.disk, &self.name, &head, runs, at, changed)?);
        Ok(())
    }

    /// Notes that the agent runs, and lets cold what is: to be called about once a second.
    ///
    /// `changed`: when the source was last changed. `flush` flushes the source. `captured` says where the order stands, or `None` if
    /// any change of the source may not be in it, nor in a base that it calls sealed. `durable`: how far a receiver has it.
    pub fn tend(
        &self,
        changed: WallTime,
        flush: impl FnOnce() -> bool,
        captured: impl FnOnce() -> Option<Seq>,
        durable: Option<Seq>,
    ) {
        self.note(changed);
        let turns = &mut *self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((generation, seq)) = turns.flushed
            && durable >= Some(seq)
        {
            turns.flushed = None;
            self.cool(generation);
        }
        let (due, is_idle) = {
            let book = self.book();
            let is_idle = book.is_over || (book.ledger.count() == 0 && !book.ledger.is_all());
            (if book.ledger.is_crowded() { TURN_SOON_US } else { TURN_US }, is_idle)
        };
        let now = self.clock.boottime();
        if is_idle || turns.flushed.is_some() || now.since(turns.last).0 < due {
            return;
        }
        turns.last = now;
        // 1. What ended until now ended in this generation. 2. So all of it is captured up to there. 3. And flushed.
        let generation = self.marks.turn();
        let Some(seq) = captured() else { return };
        if flush() {
            turns.flushed = Some((generation, seq));
        }
    }

    fn note(&self, changed: WallTime) {
        let shelf = &mut *self.shelf();
        let now = self.clock.wall();
        let Some(file) = &mut shelf.file else { return };
        match file.note(now, changed) {
            Ok(()) => (shelf.noted, shelf.changed) = (now, changed),
            // It grows old, and is believed no more.
            Err(error) => tracing::warn!(?error, "the hot-extent log takes no note"),
        }
    }

    /// All that ended in `through` or before is durable at a receiver, and on the source.
    fn cool(&self, through: Generation) {
        let mut book = self.book();
        if book.is_over {
            return;
        }
        // What was just changed will be again.
        let idle = if book.ledger.is_crowded() { Some(through) } else { through.0.checked_sub(1).map(Generation) };
        if let Some(idle) = idle {
            for extent in self.marks.all_open() {
                if self.marks.close(extent, idle) {
                    book.ledger.cool(extent);
                }
            }
        }
        if book.ledger.fits(self.marks.all_open().count()) {
            book.ledger.list(self.marks.all_open());
            book.is_known = true;
        }
        // Whoever writes right now leaves it to the next.
        if book.ledger.has_more() && !book.is_writing {
            drop(self.say(book));
        }
    }

    /// What may differ from what a receiver has durably, while no change is in progress. It does not matter whether the log is
    /// written.
    pub fn left(&self) -> Left {
        match self.book().is_known {
            true => Left::Only(ranges(self.marks.all_open(), self.subject.size)),
            false => Left::All { why: "nothing is known of what was being written".to_owned() },
        }
    }

    /// Says that only this may differ, with what was changed since this log was begun as one that says "all".
    pub fn narrow(&self, left: &Left) {
        let (Left::Only(ranges), mut book) = (left, self.book()) else { return };
        let left: Vec<_> = extents_in(ranges).collect();
        if !book.ledger.is_all() || book.is_over || !book.ledger.fits(left.len() + self.marks.all_open().count()) {
            return;
        }
        left.iter().for_each(|extent| self.marks.open(*extent));
        book.ledger.list(self.marks.all_open());
        book.is_known = true;
        if !book.is_writing {
            drop(self.say(book));
        }
    }

    /// How large the volume was when it was begun.
    pub fn size(&self) -> Sectors {
        self.subject.size
    }

    /// Writes no more: another log takes its place. What is asked for from now on is granted.
    pub fn retire(&self) {
        let mut book = self.book();
        book.is_over = true;
        while book.is_writing {
            book = self.said.wait(book).unwrap_or_else(PoisonError::into_inner);
        }
        self.shelf().file = None;
    }

    /// Bytes that are hot now; `None`: all of them.
    pub fn bytes(&self) -> Option<u64> {
        let book = self.book();
        let count = crate::source::bytes(book.ledger.count());
        (!book.ledger.is_all()).then(|| (count * EXTENT_BYTES).min(self.subject.size.bytes()))
    }

    #[cfg(test)]
    pub(super) fn open_now(&self) -> std::collections::BTreeSet<ExtentNo> {
        self.marks.all_open().collect()
    }

    #[cfg(test)]
    pub(super) fn is_over(&self) -> bool {
        self.book().is_over
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.extents.iter().cloned().flatten().for_each(|extent| self.hot.marks.leave(extent));
    }
}
