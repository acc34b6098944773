//! What the order says of itself: covered stretches, gaps, marks, volumes.

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
}

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
            Body::Sealed(_) if self.covered().is_none() => {
                self.stretches.push(Stretch { from: event.seq, from_time: event.record.time, to: None });
            }
            Body::Gap(_) | Body::EpochBegin(EpochBegin { continues: false, .. }) => {
                if let Some(open) = self.stretches.last_mut().filter(|stretch| stretch.to.is_none()) {
                    open.to = event.seq.before();
                }
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
