//! What a manifest says there is, once all its entries are read.

use std::collections::{BTreeMap, BTreeSet};

use crate::codec::{ManifestEntry, SegmentCreated, SegmentSealed, Stopped};
use crate::types::{Salt, SegmentNo, Seq};

/// What the manifest says there is.
#[derive(Default)]
pub(super) struct Named {
    pub(super) segments: BTreeMap<SegmentNo, (SegmentCreated, Option<SegmentSealed>)>,
    pub(super) dropped: BTreeSet<SegmentNo>,
    /// Live head at the last clean stop.
    pub(super) stopped: Option<Seq>,
    /// The same as an entry.
    pub(super) last_stop: Option<Stopped>,
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
                    named.segments.insert(created.number, (*created, None));
                }
                ManifestEntry::Sealed(sealed) => {
                    if let Some(segment) = named.segments.get_mut(&sealed.number) {
                        segment.1 = Some(*sealed);
                    }
                }
                ManifestEntry::Dropped(number) => {
                    named.segments.remove(number);
                    named.dropped.insert(*number);
                }
                ManifestEntry::Stopped(stopped) => {
                    named.stopped = stopped.seq;
                    named.last_stop = Some(*stopped);
                }
            }
        }
        named
    }

    /// Whether no later segment is of the same chain.
    pub(super) fn is_last(&self, created: &SegmentCreated) -> bool {
        let mut later = self.segments.range(SegmentNo(created.number.0 + 1)..);
        !later.any(|(_, (other, _))| other.resync == created.resync)
    }

    /// The entries that still mean something. The highest number ever used stays known through a dropped one.
    pub(super) fn current(&self) -> Vec<ManifestEntry> {
        let highest = SegmentNo(self.next - 1);
        let mut entries = Vec::new();
        for (created, sealed) in self.segments.values() {
            entries.push(ManifestEntry::Created(*created));
            entries.extend(sealed.map(ManifestEntry::Sealed));
        }
        if self.next > 1 && !self.segments.contains_key(&highest) {
            let created =
                SegmentCreated { number: highest, salt: Salt([0; 16]), resync: None, first: Some(Seq::FIRST) };
            entries.extend([ManifestEntry::Created(created), ManifestEntry::Dropped(highest)]);
        }
        entries.extend(self.last_stop.map(ManifestEntry::Stopped));
        entries
    }
}
