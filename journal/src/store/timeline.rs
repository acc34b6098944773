//! What the order says of itself: covered stretches, gaps, rollbacks of the sources, marks, volumes.
//!
//! ```text
//!   sealed ███████ gap ░░░░░░ sealed █████ rollback begin ░░░░░░░ rollback sealed █████      █ every record is a point
//! ```
//!
//! Where both are open, points begin with the later end. A run that does not continue the one before ends what that had begun, too: what
//! the sources hold is read then, and an agent whose rollback is not over says so again, first thing.

use std::sync::Arc;

use crate::codec::{Body, EpochBegin, Gap, Mark};
use crate::index::Event;
use crate::retention::Kept;
use crate::types::{ResyncId, Sectors, Seq, VolumeNo, VolumeUuid, WallTime};

/// All events of the order, and what follows from them.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    events: Vec<Event>,
    stretches: Vec<Stretch>,
    /// Where history was thinned, and what is left there.
    kept: Option<Arc<Kept>>,
    rollbacks: Vec<Rollback>,
    /// Where and when one, or one that was gone on with, ended a stretch; and where it was to go.
    interrupted: Vec<(Seq, WallTime, Seq)>,
    /// All that the sources held is known, and what changed since.
    whole: bool,
    /// The last rollback is not over.
    rolling: bool,
}

/// The sources of a group were taken back to another point, or are being.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rollback {
    /// Where it began.
    pub begin: Seq,
    /// To which place.
    pub target: Seq,
    /// The state before it: the mark that was made for it, or else the last point.
    pub before: Option<Seq>,
    /// Where it was over; `None`: it goes on, or nobody ended it.
    pub sealed: Option<Seq>,
}

/// What the mark of a state before a rollback is called, and then when.
pub const BEFORE_ROLLBACK: &str = "before-rollback-";

/// A stretch of the order in which every record is a point, but for where history was thinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// The `sealed` record that opened it.
    pub from: Seq,
    /// When that was.
    pub from_time: WallTime,
    /// The last point before the gap that ended it; `None` while it goes on.
    pub to: Option<Seq>,
}

/// A volume as of some point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeInfo {
    /// Its number in the group.
    pub number: VolumeNo,
    /// Which it is.
    pub uuid: VolumeUuid,
    /// What it is called.
    pub name: String,
    /// How large it is.
    pub size: Sectors,
}

/// A volume has another size from some place on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resized {
    /// Where.
    pub seq: Seq,
    /// When.
    pub time: WallTime,
    /// What the volume is called.
    pub volume: String,
    /// Its size before.
    pub from: Sectors,
    /// Its size from there on.
    pub to: Sectors,
}

impl Timeline {
    /// Adds the next event.
    pub(super) fn add(&mut self, event: Event) {
        match &event.record.body {
            Body::Sealed(_) => self.whole = true,
            Body::Gap(_) => self.whole = false,
            Body::EpochBegin(EpochBegin { continues: false, .. }) => (self.whole, self.rolling) = (false, false),
            Body::RollbackBegin { target } => self.begin_rollback(event.seq, event.record.time, *target),
            Body::RollbackSealed { target } => self.end_rollback(event.seq, *target),
            _ => {}
        }
        let is_covered = self.whole && !self.rolling;
        match self.stretches.last_mut().filter(|stretch| stretch.to.is_none()) {
            Some(open) if !is_covered => open.to = event.seq.before(),
            None if is_covered => {
                self.stretches.push(Stretch { from: event.seq, from_time: event.record.time, to: None });
            }
            _ => {}
        }
        self.events.push(event);
    }

    /// History was thinned: marks that are no points any more are forgotten.
    pub(super) fn thin(&mut self, kept: &Arc<Kept>) {
        self.events.retain(|event| !matches!(event.record.body, Body::Mark(_)) || kept.offers(event.seq));
        self.kept = Some(Arc::clone(kept));
    }

    /// Where history was thinned, and what is left there.
    pub fn kept(&self) -> Option<&Arc<Kept>> {
        self.kept.as_ref()
    }

    /// Whether `seq`, if there is such a place, is a point that is offered.
    pub fn is_point(&self, seq: Seq) -> bool {
        self.stretch_of(seq).is_some() && self.kept.as_ref().is_none_or(|kept| kept.offers(seq))
    }

    /// One goes on, perhaps elsewhere, until there have been points again. And it goes on when it was over, and its agent had not heard that:
    /// then no state before was marked, as it is for each that is begun.
    fn begin_rollback(&mut self, seq: Seq, time: WallTime, target: Seq) {
        let goes_on = std::mem::replace(&mut self.rolling, true);
        if self.covered().is_some() {
            self.interrupted.push((seq, time, target));
        }
        let since = self.stretches.last().map(|stretch| stretch.from);
        let marked = self.marks().rev().find(is_before_rollback).map(|(at, ..)| at);
        let is_same = |last: &&mut Rollback| match last.sealed {
            None => goes_on || since < Some(last.begin),
            Some(sealed) => last.target == target && marked < Some(sealed),
        };
        match self.rollbacks.last_mut().filter(is_same) {
            Some(same) => (same.target, same.sealed) = (target, None),
            None => {
                let before = self.state_before(seq);
                self.rollbacks.push(Rollback { begin: seq, target, before, sealed: None });
            }
        }
    }

    /// Another target's end is none of this one's.
    fn end_rollback(&mut self, seq: Seq, target: Seq) {
        let is_rolling = std::mem::take(&mut self.rolling);
        match self.rollbacks.last_mut().filter(|last| is_rolling && last.target == target) {
            Some(last) => last.sealed = Some(seq),
            None => self.rolling = is_rolling,
        }
    }

    fn state_before(&self, seq: Seq) -> Option<Seq> {
        let stretch = self.stretches.last()?;
        let here = self.marks().rev().take_while(|(at, ..)| *at >= stretch.from);
        let marked = here.into_iter().find(is_before_rollback).map(|(at, ..)| at);
        marked.or(stretch.to).or_else(|| seq.before())
    }

    /// Rollbacks of the sources, oldest first.
    pub fn rollbacks(&self) -> &[Rollback] {
        &self.rollbacks
    }

    /// Where and when stretches ended because the sources were taken back, and to where.
    pub fn interrupted(&self) -> &[(Seq, WallTime, Seq)] {
        &self.interrupted
    }

    /// Points that one which is not over stands on: where it goes, and where it can be taken back to.
    pub fn stood_on(&self) -> impl Iterator<Item = Seq> {
        self.unfinished().into_iter().flat_map(|it| [Some(it.target), it.before]).flatten()
    }

    /// The one that is not over.
    pub fn unfinished(&self) -> Option<&Rollback> {
        self.rollbacks.last().filter(|_| self.rolling)
    }

    /// The stretch that goes on, if one does.
    pub fn covered(&self) -> Option<&Stretch> {
        self.stretches.last().filter(|stretch| stretch.to.is_none())
    }

    /// All stretches, oldest first.
    pub fn stretches(&self) -> &[Stretch] {
        &self.stretches
    }

    /// The stretch that holds `seq`.
    pub fn stretch_of(&self, seq: Seq) -> Option<&Stretch> {
        self.stretches.iter().find(|stretch| stretch.from <= seq && stretch.to.is_none_or(|to| seq <= to))
    }

    /// Marks, oldest first.
    pub fn marks(&self) -> impl DoubleEndedIterator<Item = (Seq, WallTime, &Mark)> {
        self.events.iter().filter_map(|event| match &event.record.body {
            Body::Mark(mark) => Some((event.seq, event.record.time, mark)),
            _ => None,
        })
    }

    /// Gaps, oldest first: where each begins, and the `sealed` that ended it. One that begins within another is that one.
    pub fn gaps(&self) -> impl Iterator<Item = (Seq, WallTime, &Gap, Option<(Seq, WallTime)>)> {
        let all = self.events.iter().filter_map(|event| match &event.record.body {
            Body::Gap(gap) => {
                let end = self.stretches.iter().find(|stretch| stretch.from > event.seq);
                Some((event.seq, event.record.time, gap, end.map(|stretch| (stretch.from, stretch.from_time))))
            }
            _ => None,
        });
        let mut known: Option<Option<Seq>> = None;
        all.filter(move |(seq, .., end)| {
            let is_new = known.is_none_or(|until| until.is_some_and(|until| until <= *seq));
            if is_new {
                known = Some(end.map(|(seq, _)| seq));
            }
            is_new
        })
    }

    /// Where a base began to count.
    pub fn sealed(&self, resync: ResyncId) -> Option<Seq> {
        self.events.iter().find_map(|event| match &event.record.body {
            Body::Sealed(sealed) if sealed.resync == resync => Some(event.seq),
            _ => None,
        })
    }

    /// The volumes there are as of `seq`.
    pub fn volumes(&self, seq: Seq) -> Vec<VolumeInfo> {
        let mut volumes: Vec<VolumeInfo> = Vec::new();
        for event in self.events.iter().take_while(|event| event.seq <= seq) {
            match &event.record.body {
                Body::VolumeAdd { volume, size, add } => {
                    volumes.push(VolumeInfo { number: *volume, uuid: add.uuid, name: add.name.clone(), size: *size });
                }
                Body::Resize { volume, size } => {
                    volumes.iter_mut().filter(|info| info.number == *volume).for_each(|info| info.size = *size);
                }
                Body::VolumeRemove { volume } => volumes.retain(|info| info.number != *volume),
                _ => {}
            }
        }
        volumes
    }

    /// Changes of sizes, oldest first.
    pub fn resizes(&self) -> Vec<Resized> {
        // A volume that is said anew is the one that it was.
        let mut known: Vec<(VolumeNo, &str, Sectors)> = Vec::new();
        let mut found = Vec::new();
        for event in &self.events {
            let (number, new) = match &event.record.body {
                Body::VolumeAdd { volume, size, add } => {
                    if !known.iter().any(|(number, ..)| number == volume) {
                        known.push((*volume, &add.name, *size));
                    }
                    (*volume, *size)
                }
                Body::Resize { volume, size } => (*volume, *size),
                _ => continue,
            };
            if let Some((_, name, size)) = known.iter_mut().find(|(known, ..)| *known == number)
                && *size != new
            {
                let from = std::mem::replace(size, new);
                found.push(Resized {
                    seq: event.seq,
                    time: event.record.time,
                    volume: (*name).to_owned(),
                    from,
                    to: new,
                });
            }
        }
        found
    }

    /// All events, oldest first.
    pub fn events(&self) -> &[Event] {
        &self.events
    }
}

fn is_before_rollback((_, _, mark): &(Seq, WallTime, &Mark)) -> bool {
    mark.name.starts_with(BEFORE_ROLLBACK)
}
