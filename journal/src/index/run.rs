//! An immutable sorted run of entries, and how to look into it.

use super::entry::{Entry, Rank};
use super::merged::{Query, Work};
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

    /// Calls `found` with each entry of `volume` that overlaps `extent` and whose rank is not above `newest`: all its versions.
    pub fn versions(&self, volume: VolumeNo, extent: Extent, newest: Rank, mut found: impl FnMut(&Entry)) {
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

    /// Calls `found` with all that can matter to `query`: of each start and class the newest version, and older ones where they reach
    /// further; how much was looked at.
    pub fn search(&self, query: &Query, mut found: impl FnMut(&Entry)) -> Work {
        let mut work = Work { places: 1, ..Work::default() };
        let (start, end) = (query.extent.start().index(), query.extent.end().index());
        let newest = Rank { seq: query.newest.number(), base: u32::MAX };
        let mut from = 0;
        for &(class, to) in &self.classes {
            let mut entries = self.entries.get(from..to).unwrap_or_default();
            from = to;
            let reach = 1u64.checked_shl(class).unwrap_or(u64::MAX);
            let lowest = (start + 1).saturating_sub(reach);
            let place = |e: &Entry| (e.volume, e.sector);
            entries =
                entries.get(entries.partition_point(|e| place(e) < (query.volume.0, lowest))..).unwrap_or_default();
            while let Some(first) = entries.first().filter(|e| e.volume == query.volume.0 && e.sector < end) {
                let (versions, rest) = entries.split_at(entries.partition_point(|e| place(e) <= place(first)));
                entries = rest;
                let limit = end.min(first.sector.saturating_add(reach));
                let mut covered = start;
                for entry in versions.iter().take(versions.partition_point(|e| e.rank <= newest)).rev() {
                    work.entries += 1;
                    if query.is_before(entry.rank) || covered >= limit {
                        break;
                    }
                    let end = entry.sector + entry.sectors;
                    if end > covered {
                        found(entry);
                        covered = end;
                    }
                }
            }
        }
        work
    }
}
