//! What a manifest says there is, once all its entries are read.

use std::collections::{BTreeMap, BTreeSet};

use crate::codec::{ManifestEntry, REPLACED_MAX, Replaced, SegmentCreated, SegmentSealed, Stopped, Thinned};
use crate::types::{Salt, SegmentNo, Seq};

/// What the manifest says there is.
#[derive(Default)]
pub(super) struct Named {
    /// By where they stand.
    pub(super) segments: BTreeMap<SegmentNo, (SegmentCreated, Option<SegmentSealed>)>,
    pub(super) dropped: BTreeSet<SegmentNo>,
    /// Live head at the last clean stop.
    pub(super) stopped: Option<Seq>,
    /// The same as an entry.
    pub(super) last_stop: Option<Stopped>,
    /// Where history was thinned.
    pub(super) thinned: Option<Thinned>,
    pub(super) next: u64,
}

impl Named {
    pub(super) fn of(entries: &[ManifestEntry]) -> Self {
        let mut named = Self { next: 1, ..Self::default() };
        for entry in entries {
            match entry {
                ManifestEntry::Header { .. } => {}
                ManifestEntry::Created(created) => {
                    named.next = named.next.max(created.number.0 + 1);
                    named.segments.insert(created.place, (*created, None));
                }
                ManifestEntry::Sealed(sealed) => {
                    if let Some(segment) = named.segments.get_mut(&sealed.number) {
                        segment.1 = Some(*sealed);
                    }
                }
                ManifestEntry::Dropped(number) => named.drop(*number),
                ManifestEntry::Replaced(Replaced { created, sealed, numbers }) => {
                    numbers.iter().filter(|number| number.0 > 0).for_each(|number| named.drop(*number));
                    named.next = named.next.max(created.number.0 + 1);
                    named.segments.insert(created.place, (*created, Some(*sealed)));
                }
                ManifestEntry::Thinned(thinned) => {
                    named.next = named.next.max(thinned.list.0 + 1);
                    named.thinned = Some(*thinned);
                }
                ManifestEntry::Stopped(stopped) => {
                    named.stopped = stopped.seq;
                    named.last_stop = Some(*stopped);
                }
            }
        }
        named
    }

    fn drop(&mut self, number: SegmentNo) {
        // A compacted one stands elsewhere than its number says.
        let is_there = self.segments.get(&number).is_some_and(|(created, _)| created.number == number);
        let place = if is_there { Some(number) } else { self.find(number).map(|(created, _)| created.place) };
        place.map(|place| self.segments.remove(&place));
        self.dropped.insert(number);
    }

    /// The segment of this number.
    pub(super) fn find(&self, number: SegmentNo) -> Option<&(SegmentCreated, Option<SegmentSealed>)> {
        self.segments.values().find(|(created, _)| created.number == number)
    }

    /// Whether no later segment is of the same chain.
    pub(super) fn is_last(&self, created: &SegmentCreated) -> bool {
        let mut later = self.segments.range(SegmentNo(created.place.0 + 1)..);
        !later.any(|(_, (other, _))| other.resync == created.resync)
    }

    /// The entries that still mean something. The highest number ever used stays known through a dropped one.
    pub(super) fn current(&self) -> Vec<ManifestEntry> {
        let highest = SegmentNo(self.next - 1);
        let mut entries = Vec::new();
        for (created, sealed) in self.segments.values() {
            if let Some(sealed) = sealed.filter(|_| created.place != created.number) {
                let numbers = [SegmentNo(0); REPLACED_MAX];
                entries.push(ManifestEntry::Replaced(Replaced { created: *created, sealed, numbers }));
                continue;
            }
            entries.push(ManifestEntry::Created(*created));
            entries.extend(sealed.map(ManifestEntry::Sealed));
        }
        entries.extend(self.thinned.map(ManifestEntry::Thinned));
        if self.next > 1 && self.find(highest).is_none() {
            let (salt, first) = (Salt([0; 16]), Some(Seq::FIRST));
            let created = SegmentCreated { number: highest, salt, resync: None, first, place: highest };
            entries.extend([ManifestEntry::Created(created), ManifestEntry::Dropped(highest)]);
        }
        entries.extend(self.last_stop.map(ManifestEntry::Stopped));
        entries
    }
}
