//! Keeps the number of places that a reader looks into small: merges indexes of segments into runs, and runs into larger ones.
//!
//! ```text
//!  level 0   ▪▪▪▪▪▪▪▪ indexes of segments, and runs over fewer than the fan-in
//!  level 1   ■■■■■■■■ each over 8 to 63 segments            a full level becomes one run of the next
//!  level 2   █████ …
//! ```
//!
//! A machine without a thread: whoever has it calls [`Merger::step`], and hands what was made to the journal's owner. Runs are derived, so
//! that whatever fails is given up without harm, and tried again.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::indexes::{Index, Indexes, Place};
use super::version::Version;
use crate::codec::{RunKind, RunSource};
use crate::disk::Disk;
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint::{self, Step};
use crate::index::{Input, Merge, MergedRun, RunNo};
use crate::limits::RUN_SOURCES;
use crate::log::{Entropy, Segment, SegmentState};
use crate::types::{GroupId, Salt, SegmentNo};

/// Places of one level that become one of the next: each entry is written a logarithm of times, and read from as many places.
pub const FAN_IN: usize = 8;
/// Places merged at once, at most: each needs a buffer.
const INPUTS: usize = 64;
/// Bytes of indexes of segments merged at once, about: they are in memory as a whole.
const LOOSE_BYTES: u64 = 32 * 1024 * 1024;
/// Bytes of such indexes that are worth a run before there are as many as the fan-in: more would not stay in memory.
const LOOSE_BYTES_MAX: u64 = 12 * 1024 * 1024;
/// What an index that has to be made again counts as.
const UNKNOWN_BYTES: u64 = 8 * 1024 * 1024;

/// Merges in the background of one journal.
#[derive(Debug)]
pub struct Merger {
    disk: Arc<dyn Disk>,
    group: GroupId,
    entropy: Entropy,
    fan_in: usize,
    merging: Option<(Merge, RunNo)>,
    /// For these there is nothing to be done any more.
    done: Option<Arc<Indexes>>,
    /// Files that belong to none of these runs are gone.
    tidied: Option<Arc<Indexes>>,
    /// The highest number of a run so far: none is given twice.
    last: RunNo,
    /// What was handed over last, until it is seen to be of use.
    made: Option<RunNo>,
    /// Neither the index nor the frames can be read.
    unreadable: BTreeSet<SegmentNo>,
}

/// What a step came to.
#[derive(Debug)]
pub enum Merging {
    /// There is nothing to do until something is sealed.
    Idle,
    /// There is more to do.
    Goes,
    /// To be handed to [`Store::renew_runs`](super::Store::renew_runs) before the next step.
    Renew(Option<Arc<MergedRun>>),
}

/// What to merge.
struct Plan<'v> {
    kind: RunKind,
    places: Vec<&'v Place>,
    bytes: u64,
}

impl Merger {
    /// Merges in `disk`: best one that does not use a reserve.
    pub fn new(disk: Arc<dyn Disk>, group: GroupId, entropy: Entropy) -> Self {
        Self::with_fan_in(disk, group, entropy, FAN_IN)
    }

    /// With another [`FAN_IN`].
    pub fn with_fan_in(disk: Arc<dyn Disk>, group: GroupId, entropy: Entropy, fan_in: usize) -> Self {
        let fan_in = fan_in.max(2);
        let unreadable = BTreeSet::new();
        Self {
            disk,
            group,
            entropy,
            fan_in,
            merging: None,
            done: None,
            tidied: None,
            last: RunNo(0),
            made: None,
            unreadable,
        }
    }

    /// Goes on a little for the newest version. A merge begins only if `has_room` for so many bytes.
    ///
    /// # Errors
    /// Any error ends the merge under way, and nothing else: to be tried again some time later.
    pub fn step(&mut self, version: &Version, has_room: impl FnOnce(u64) -> bool) -> Result<Merging> {
        let stepped = self.advance(version, has_room);
        if stepped.is_err() {
            self.give_up();
        }
        stepped
    }

    /// Ends the merge under way, if there is one.
    pub fn give_up(&mut self) {
        // What is left of it is removed before the next.
        (self.merging, self.tidied, self.done) = (None, None, None);
    }

    fn advance(&mut self, version: &Version, has_room: impl FnOnce(u64) -> bool) -> Result<Merging> {
        let indexes = &version.indexes;
        if !indexes.is_writable {
            self.merging = None;
            return Ok(Merging::Idle);
        }
        if let Some((merge, _)) = &mut self.merging {
            if !merge.step()? {
                return Ok(Merging::Goes);
            }
            let Some((merge, number)) = self.merging.take() else { return Ok(Merging::Goes) };
            self.made = Some(merge.finish(&*self.disk)?);
            return Ok(Merging::Renew(Some(Arc::new(MergedRun::open(&*self.disk, number, self.group)?))));
        }
        if indexes.runs().any(|run| run.is_spoilt()) {
            return Ok(Merging::Renew(None));
        }
        let is_same = |known: &Option<Arc<Indexes>>| known.as_ref().is_some_and(|known| Arc::ptr_eq(known, indexes));
        if !is_same(&self.tidied) {
            self.tidy(indexes)?;
            self.tidied = Some(indexes.clone());
            return Ok(Merging::Goes);
        }
        if is_same(&self.done) {
            return Ok(Merging::Idle);
        }
        // What covers nothing that others do not would be made again and again: not before something else is there.
        if self.made.take().is_some_and(|made| !indexes.runs().any(|run| run.number() == made)) {
            self.done = Some(indexes.clone());
            return Ok(Merging::Idle);
        }
        let Some(plan) = self.plan(indexes) else {
            self.done = Some(indexes.clone());
            return Ok(Merging::Idle);
        };
        if !has_room(plan.bytes) {
            return Ok(Merging::Idle);
        }
        self.begin(&plan)?;
        Ok(Merging::Goes)
    }

    /// Removes files of runs that nobody looks into any more. Who has one open goes on reading it.
    fn tidy(&self, indexes: &Indexes) -> Result<()> {
        let known: BTreeSet<String> = indexes.runs().map(|run| run.number().file_name()).collect();
        for name in self.disk.list()?.into_iter().filter(|name| RunNo::is_of(name) && !known.contains(name)) {
            match self.disk.remove(&name) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                removed => removed?,
            }
            failpoint::reached(Step::RunRemoved)?;
        }
        Ok(())
    }

    /// What to merge next, if anything: the oldest of the lowest level that is full.
    fn plan<'v>(&self, indexes: &'v Indexes) -> Option<Plan<'v>> {
        [RunKind::Live, RunKind::Base].into_iter().find_map(|kind| {
            let is_candidate = |place: &&Place| place.kind == kind && !self.is_unfit(place);
            // Newest first there, oldest first here.
            let places: Vec<&Place> = indexes.places().iter().rev().filter(is_candidate).collect();
            let full = (0..usize::BITS).find_map(|level| {
                let mut places = places.clone();
                places.retain(|place| level_of(place, self.fan_in) == level);
                (places.len() >= self.fan_in).then_some(places)
            });
            let loose = || -> Option<Vec<&Place>> {
                let loose: Vec<&Place> = places.iter().copied().filter(|place| is_loose(place)).collect();
                (loose.iter().map(|place| bytes_of(place)).sum::<u64>() > LOOSE_BYTES_MAX).then_some(loose)
            };
            let hollow = || places.iter().find(|place| is_hollow(place)).map(|place| vec![*place]);
            full.or_else(loose).or_else(hollow).map(|places| bounded(kind, places)).filter(Plan::is_of_use)
        })
    }

    /// Whether nothing can be made of it.
    fn is_unfit(&self, place: &Place) -> bool {
        let Index::Loose(loose) = &place.index else { return false };
        matches!(loose.segment.state, SegmentState::Damaged(_))
            || self.unreadable.contains(&loose.segment.header.number)
    }

    fn begin(&mut self, plan: &Plan<'_>) -> Result<()> {
        let (mut sources, mut inputs) = (Vec::new(), Vec::new());
        for place in &plan.places {
            match &place.index {
                Index::Loose(loose) => {
                    let number = loose.segment.header.number;
                    let footer = loose.segment.footer().inspect_err(|error| {
                        if error.kind() == ErrorKind::Corrupt {
                            self.unreadable.insert(number);
                        }
                    })?;
                    inputs.push(Input::footer(footer, add(&mut sources, &loose.segment)?));
                }
                Index::Run(run, segments) => {
                    let map = segments
                        .iter()
                        .map(|known| known.as_ref().map(|known| add(&mut sources, &known.segment)).transpose());
                    inputs.push(Input::run(run.clone(), map.collect::<Result<_>>()?));
                }
            }
        }
        let names = self.disk.list()?;
        let last = names.iter().filter_map(|name| RunNo::of_file(name)).max().max(Some(self.last));
        let number = RunNo(last.map_or(0, |last| last.0).checked_add(1).ok_or_else(too_many)?);
        self.last = number;
        let name = (number, Salt((self.entropy)()));
        self.merging = Some((Merge::begin(&*self.disk, name, (self.group, plan.kind), sources, inputs)?, number));
        Ok(())
    }
}

impl Plan<'_> {
    /// A run by itself becomes nothing better, unless most of it is gone.
    fn is_of_use(&self) -> bool {
        !matches!(self.places.as_slice(), [only] if !is_loose(only) && !is_hollow(only))
    }
}

/// As many of the places as may be merged at once, at least one.
fn bounded(kind: RunKind, places: Vec<&Place>) -> Plan<'_> {
    let mut plan = Plan { kind, places: Vec::new(), bytes: 0 };
    let (mut loose_bytes, mut sources) = (0, 0);
    for place in places {
        let bytes = bytes_of(place);
        loose_bytes += if is_loose(place) { bytes } else { 0 };
        sources += segments_of(place);
        let is_too_much = plan.places.len() == INPUTS
            || loose_bytes > LOOSE_BYTES
            || sources > usize::try_from(RUN_SOURCES).unwrap_or(usize::MAX);
        if is_too_much && !plan.places.is_empty() {
            break;
        }
        plan.places.push(place);
        plan.bytes += bytes + bytes / 8;
    }
    plan
}

/// Adds a segment to the sources of a run; its place among them.
fn add(sources: &mut Vec<RunSource>, segment: &Segment) -> Result<u32> {
    let sealed = segment.sealed.ok_or_else(|| Error::invalid("a segment without an end has no index to merge"))?;
    let place = u32::try_from(sources.len()).map_err(|_| too_many())?;
    sources.push(RunSource { number: segment.header.number, salt: segment.header.salt, head: sealed.head, entries: 0 });
    Ok(place)
}

/// The logarithm of the segments that it covers.
fn level_of(place: &Place, fan_in: usize) -> u32 {
    segments_of(place).max(1).ilog(fan_in)
}

/// Segments that it still covers.
fn segments_of(place: &Place) -> usize {
    match &place.index {
        Index::Loose(_) => 1,
        Index::Run(_, sources) => sources.iter().flatten().count(),
    }
}

fn bytes_of(place: &Place) -> u64 {
    match &place.index {
        Index::Loose(loose) => match loose.segment.index_bytes() {
            0 => UNKNOWN_BYTES,
            bytes => bytes,
        },
        Index::Run(run, _) => run.file_bytes(),
    }
}

fn is_loose(place: &Place) -> bool {
    matches!(place.index, Index::Loose(_))
}

/// Whether most of what a run covered is gone: readers would pass over more than they find.
fn is_hollow(place: &Place) -> bool {
    match &place.index {
        Index::Loose(_) => false,
        Index::Run(_, sources) => sources.iter().flatten().count() * 2 < sources.len(),
    }
}

fn too_many() -> Error {
    Error::unsupported("more runs or segments than can be numbered")
}
