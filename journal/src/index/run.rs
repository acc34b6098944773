//! An immutable sorted run of entries, and how to look into it.

use super::entry::{Entry, Rank};
use crate::types::{Extent, VolumeNo};

/// Entries sorted by (class, volume, sector, rank).
///
/// Extents of one class are at most 2^class sectors long, so a search for sector x starts at x − 2^class and cannot miss one that
/// reaches over x, however long others are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Run {
    entries: Vec<Entry>,
    /// Class and the entry one past its last.
    classes: Vec<(u32, usize)>,
}

impl Run {
    /// Sorts entries into a run.
    pub fn new(mut entries: Vec<Entry>) -> Self {
        entries.sort_unstable_by(Entry::order);
        Self::sorted(entries)
    }

    /// The run of entries that are in order already.
    pub(super) fn sorted(entries: Vec<Entry>) -> Self {
        debug_assert!(entries.is_sorted_by(|a, b| a.order(b).is_le()));
        let mut classes: Vec<(u32, usize)> = Vec::new();
        for (i, entry) in entries.iter().enumerate() {
            match classes.last_mut() {
                Some((class, end)) if *class == entry.class() => *end = i + 1,
                _ => classes.push((entry.class(), i + 1)),
            }
        }
        Self { entries, classes }
    }

    /// All entries.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Calls `found` with each entry of `volume` that overlaps `extent` and whose rank is not above `newest`.
    pub fn find(&self, volume: VolumeNo, extent: Extent, newest: Rank, mut found: impl FnMut(&Entry)) {
        let mut from = 0;
        for &(class, end) in &self.classes {
            let entries = self.entries.get(from..end).unwrap_or_default();
            from = end;
            let reach = 1u64.checked_shl(class).unwrap_or(u64::MAX);
            let lowest = (extent.start().index() + 1).saturating_sub(reach);
            let start = entries.partition_point(|e| (e.volume, e.sector) < (volume.0, lowest));
            let near =
                entries.iter().skip(start).take_while(|e| (e.volume, e.sector) < (volume.0, extent.end().index()));
            near.filter(|e| e.sector + e.sectors > extent.start().index() && e.rank <= newest).for_each(&mut found);
        }
    }
}
