//! Which segments are worth cleaning: the dead share of samples of each, and runs of neighbours that are rewritten as one.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::compact::{JUDGED_MAX, fills};
use super::judge::Judge;
use super::units::rest;
use super::{Cleaner, Pace, Thinned};
use crate::codec::REPLACED_MAX;
use crate::error::Result;
use crate::index::{Entry, Footer};
use crate::log::SegmentState;
use crate::types::SegmentNo;

/// Entries looked at in all: some 20 MB of memory, whatever the history.
const SAMPLES: usize = 1 << 17;
/// At least this part, in percent, of what is rewritten has to be dead: then no more than 1.5 bytes are written for one that is freed.
const DEAD_PERCENT: u64 = 40;
/// What part of a segment has to be freed to be worth the trouble.
const FREED_PART: u64 = 1024;
/// So many small neighbours are joined although nothing of them is dead.
const JOINED_MIN: usize = 8;
/// What a segment takes besides what is in it.
const FRAME_OF_FILE: u64 = 6 * 1024;
/// What a version takes besides its data: its record, its rank and its entry.
const VERSION_BYTES: u64 = 48 + 12 + 56;
/// What a unit takes besides its bytes: its place, its checksums twice, and its part of the frame.
const UNIT_BYTES: u64 = 256;
/// What an event takes: its record and its rank, its record once more in the index, and a short note in both.
const EVENT_BYTES: u64 = 256;

/// Neighbours that one compacted segment is to stand for.
#[derive(Clone, Debug)]
pub struct CompactPlan {
    pub(super) segments: Vec<Thinned>,
    /// Of each segment: versions in it, bytes, what will be left.
    each: Vec<(usize, u64, u64)>,
    /// Versions in them.
    pub entries: usize,
    /// Bytes of their files.
    pub bytes: u64,
    /// What will be left of these, about.
    pub kept_bytes: u64,
}

#[cfg(test)]
impl Cleaner {
    /// Everything that may be compacted, in runs of the lengths that `length` says: worth it or not.
    pub(in super::super) fn everything(&self, mut length: impl FnMut() -> usize) -> Vec<CompactPlan> {
        let Some(kept) = self.kept() else { return Vec::new() };
        let mut plans = Vec::new();
        for chain in self.thinned(kept) {
            let mut rest = chain.as_slice();
            while !rest.is_empty() {
                let (run, later) = rest.split_at(length().clamp(1, REPLACED_MAX).min(rest.len()));
                rest = later;
                plans.push(CompactPlan {
                    segments: run.to_vec(),
                    each: Vec::new(),
                    entries: 0,
                    bytes: 0,
                    kept_bytes: 0,
                });
            }
        }
        plans
    }
}

impl CompactPlan {
    /// The same one by one: less has to be written at a time, where there is little room.
    pub fn split(&self) -> Vec<Self> {
        let one = |(thinned, &(entries, bytes, kept_bytes)): (&Thinned, &(usize, u64, u64))| Self {
            segments: vec![thinned.clone()],
            each: vec![(entries, bytes, kept_bytes)],
            entries,
            bytes,
            kept_bytes,
        };
        self.segments.iter().zip(&self.each).map(one).collect()
    }

    /// Which segments it is about.
    pub fn numbers(&self) -> impl Iterator<Item = SegmentNo> + '_ {
        self.segments.iter().map(|thinned| thinned.segment.header.number)
    }
}

/// What there is to clean.
#[derive(Clone, Debug, Default)]
pub struct Surveyed {
    /// Bytes of all segments where history was thinned.
    pub bytes: u64,
    /// How many of them nobody can see, about.
    pub dead_bytes: u64,
    /// What to do, oldest first.
    pub plans: Vec<CompactPlan>,
}

/// A segment, and what of it is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Share {
    bytes: u64,
    kept: u64,
    /// Versions in it.
    entries: u64,
    is_readable: bool,
}

impl Cleaner {
    /// Looks at everything where history was thinned; `None` if `pace` stops it.
    pub fn survey(&self, segment_bytes: u64, pace: Pace<'_>) -> Result<Option<Surveyed>> {
        let Some(kept) = self.kept().map(Arc::clone) else { return Ok(Some(Surveyed::default())) };
        let chains = self.thinned(&kept);
        let count: usize = chains.iter().map(Vec::len).sum();
        let each = (SAMPLES / count.max(1)).max(16);
        let mut judge = Judge::new(&kept);
        let mut samples = Vec::with_capacity(count);
        for thinned in chains.iter().flatten() {
            let footer = thinned.segment.footer()?;
            let birth = |entry: &Entry| thinned.sealed.map_or(entry.rank.seq, |sealed| sealed.number());
            let accuse = |entry: Entry| (entry, judge.accuse(&entry, birth(&entry)));
            samples.push((
                footer.run.entries().len(),
                Sample::of(&footer, each, self.kept_events(&footer).count(), accuse),
            ));
            if pace(0).is_break() {
                return Ok(None);
            }
        }
        if self.confront(&kept, &mut judge, pace)? == ControlFlow::Break(()) {
            return Ok(None);
        }
        let mut found = Surveyed::default();
        let mut samples = samples.into_iter();
        for chain in &chains {
            let looked: Vec<(Share, usize)> = chain
                .iter()
                .zip(samples.by_ref())
                .map(|(thinned, (entries, sample))| (sample.share(thinned, &judge), entries))
                .collect();
            let shares: Vec<Share> = looked.iter().map(|(share, _)| *share).collect();
            found.bytes += shares.iter().map(|share| share.bytes).sum::<u64>();
            found.dead_bytes += shares.iter().map(|share| share.bytes.saturating_sub(share.kept)).sum::<u64>();
            for run in choose(&shares, segment_bytes) {
                let of_run = looked.get(run.clone()).unwrap_or_default().iter();
                let each: Vec<_> = of_run.map(|(share, entries)| (*entries, share.bytes, share.kept)).collect();
                found.plans.push(CompactPlan {
                    segments: chain.get(run).unwrap_or_default().to_vec(),
                    entries: each.iter().map(|(entries, ..)| entries).sum(),
                    bytes: each.iter().map(|(_, bytes, _)| bytes).sum(),
                    kept_bytes: each.iter().map(|(.., kept)| kept).sum(),
                    each,
                });
            }
        }
        Ok(Some(found))
    }
}

/// Some versions of a segment, and how much of their kind there is. What is neither a version nor an event is not kept by cleaning.
struct Sample {
    units: Vec<Vec<(Entry, usize)>>,
    fills: Vec<(Entry, usize)>,
    whole: Amount,
    /// Bytes of the events that are kept.
    events: u64,
}

/// What there is in a segment, or what is left of it.
#[derive(Clone, Copy, Debug, Default)]
struct Amount {
    /// Stored bytes.
    data: u64,
    units: u64,
    /// Versions in units.
    writes: u64,
    /// Versions without stored data.
    fills: u64,
}

impl Sample {
    /// Whole units, and fills, evenly from all of a segment: about `most` entries.
    fn of(footer: &Footer, most: usize, events: usize, mut accuse: impl FnMut(Entry) -> (Entry, usize)) -> Self {
        let stored = stored(footer);
        let writes = stored.len();
        let fills = fills(footer).count();
        let data = units(&stored).filter_map(<[Entry]>::first).map(|first| u64::from(first.stored)).sum();
        let whole = Amount { data, units: units(&stored).count() as u64, writes: writes as u64, fills: fills as u64 };
        let most = if writes == 0 || fills == 0 { most } else { most / 2 };
        let units = units(&stored).enumerate().filter(|(at, _)| is_chosen(*at, writes, most));
        Self {
            units: units.map(|(_, unit)| unit.iter().copied().map(&mut accuse).collect()).collect(),
            fills: (0..)
                .zip(self::fills(footer))
                .filter(|(at, _)| is_chosen(*at, fills, most))
                .map(|(_, fill)| accuse(*fill))
                .collect(),
            whole,
            events: events as u64 * EVENT_BYTES,
        }
    }

    fn share(&self, thinned: &Thinned, judge: &Judge<'_>) -> Share {
        let bytes = thinned.segment.sealed.map_or(0, |sealed| sealed.file_bytes);
        let (mut looked, mut left) = (Amount::default(), Amount::default());
        for unit in &self.units {
            let Some((first, _)) = unit.first() else { continue };
            let rest = rest(unit.iter().map(|(entry, number)| (entry, judge.verdict(*number))));
            looked.add(first.stored.into(), 1, unit.len());
            left.add(rest.bytes(first), u64::from(!rest.parts.is_empty()), rest.parts.len());
        }
        looked.fills = self.fills.len() as u64;
        left.fills =
            self.fills.iter().map(|(fill, number)| judge.verdict(*number).parts(fill.extent()).len() as u64).sum();
        let kept = self.whole.part(&left, &looked).bytes() + self.events;
        let kept = match thinned.segment.header.replaces {
            None => kept,
            // Nothing else is in it: what it takes is known better than what it would take again.
            Some(_) => scaled(bytes, kept, self.whole.bytes() + self.events),
        };
        Share {
            bytes,
            kept: (kept + FRAME_OF_FILE).min(bytes),
            entries: self.whole.writes + self.whole.fills,
            is_readable: thinned.segment.state == SegmentState::Good,
        }
    }
}

impl Amount {
    fn add(&mut self, data: u64, units: u64, writes: usize) {
        self.data += data;
        self.units += units;
        self.writes += writes as u64;
    }

    /// As much of it as is left of what was looked at.
    fn part(&self, left: &Self, looked: &Self) -> Self {
        Self {
            data: scaled(self.data, left.data, looked.data),
            units: scaled(self.units, left.units, looked.units),
            writes: scaled(self.writes, left.writes, looked.writes),
            fills: scaled(self.fills, left.fills, looked.fills),
        }
    }

    /// What it takes in a compacted segment, about.
    fn bytes(&self) -> u64 {
        self.data + self.units * UNIT_BYTES + (self.writes + self.fills) * VERSION_BYTES
    }
}

/// `part / all` of `whole`; the whole where nothing was looked at.
fn scaled(whole: u64, part: u64, all: u64) -> u64 {
    let scaled = u128::from(whole) * u128::from(part);
    scaled.checked_div(u128::from(all)).map_or(whole, |scaled| u64::try_from(scaled).unwrap_or(whole))
}

/// Whether the one at `at` is of a sample of about `most` of `count`. It must not depend on a rhythm in how they were written.
fn is_chosen(at: usize, count: usize, most: usize) -> bool {
    let step = count.div_ceil(most.max(1)).max(1);
    step == 1 || (at.wrapping_mul(0x9e37_79b9) >> 7).is_multiple_of(step)
}

/// Versions with stored data, in the order of the file.
pub(super) fn stored(footer: &Footer) -> Vec<Entry> {
    let mut entries: Vec<Entry> = footer.run.entries().iter().filter(|entry| entry.stored > 0).copied().collect();
    entries.sort_unstable_by_key(|entry| (entry.at, entry.rank, entry.sector));
    entries
}

/// By unit.
pub(super) fn units(stored: &[Entry]) -> impl Iterator<Item = &[Entry]> {
    stored.chunk_by(|a, b| a.at == b.at)
}

/// Runs of neighbours that are worth it.
fn choose(shares: &[Share], segment_bytes: u64) -> Vec<std::ops::Range<usize>> {
    let is_small = |share: &Share| share.kept <= segment_bytes / 8;
    let is_dead = |bytes: u64, kept: u64| bytes.saturating_sub(kept) * 100 >= bytes * DEAD_PERCENT;
    let freed_min = segment_bytes / FREED_PART;
    let mut runs = Vec::new();
    let mut at = 0;
    while let Some(first) = shares.get(at) {
        let begins = first.is_readable && (is_dead(first.bytes, first.kept) || is_small(first));
        let (mut end, mut bytes, mut kept, mut entries) = (at, 0, 0, 0);
        while let Some(next) = shares.get(end).filter(|_| begins) {
            let joins = next.is_readable
                && end - at < REPLACED_MAX
                && (end == at || kept + next.kept <= segment_bytes && entries + next.entries <= JUDGED_MAX as u64)
                && (is_dead(next.bytes, next.kept) || is_small(next));
            if !joins {
                break;
            }
            (end, bytes, kept) = (end + 1, bytes + next.bytes, kept + next.kept);
            entries += next.entries;
        }
        let is_worth_it = is_dead(bytes, kept) && bytes - kept >= freed_min;
        if end > at && (is_worth_it || end - at >= JOINED_MIN) {
            runs.push(at..end);
            at = end;
        } else if begins && is_dead(first.bytes, first.kept) && first.bytes - first.kept >= freed_min {
            // What came along was too much alive.
            runs.push(at..at + 1);
            at += 1;
        } else {
            at += 1;
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn shares(list: &[(u64, u64)]) -> Vec<Share> {
        list.iter()
            .map(|&(bytes, kept)| Share { bytes: bytes * MIB, kept: kept * MIB, entries: 1000, is_readable: true })
            .collect()
    }

    #[test]
    fn neighbours_that_are_mostly_dead_become_one() {
        let choose = |list: &[(u64, u64)]| {
            let runs = choose(&shares(list), 64 * MIB);
            runs.into_iter().map(|run| (run.start, run.end)).collect::<Vec<_>>()
        };
        assert_eq!(choose(&[(64, 60), (64, 30), (64, 20), (64, 60)]), [(1, 3)]);
        assert_eq!(
            choose(&[(64, 38), (64, 38), (64, 38)]),
            [(0, 1), (1, 2), (2, 3)],
            "no more than a segment becomes of a run"
        );
        assert_eq!(choose(&[(64, 39)]), [], "too much alive");
        assert_eq!(choose(&[(64, 30), (5, 5), (64, 20)]), [(0, 3)], "a small one comes along");
        assert_eq!(choose(&[(4, 4); 7]), []);
        assert_eq!(choose(&[(4, 4); 8]), [(0, 8)]);
        assert_eq!(choose(&[(64, 0); 40]), [(0, 32), (32, 40)]);
    }

    #[test]
    fn a_run_has_no_more_versions_than_are_judged_together() {
        let mut shares = shares(&[(64, 0); 6]);
        let most = JUDGED_MAX as u64;
        let counts = [most / 2, most / 2, 1, most * 5, most, 1];
        shares.iter_mut().zip(counts).for_each(|(share, entries)| share.entries = entries);
        assert_eq!(choose(&shares, 64 * MIB), [0..2, 2..3, 3..4, 4..5, 5..6]);
    }

    #[test]
    fn no_run_costs_more_than_it_may() {
        let mut rng = crate::disk::sim::Rng::new(4);
        for _ in 0..500 {
            let mut one = || {
                let bytes = 1 + rng.below(64);
                (bytes, rng.below(bytes + 1))
            };
            let list: Vec<_> = (0..40).map(|_| one()).collect();
            let mut shares = shares(&list);
            shares.iter_mut().for_each(|share| share.is_readable = rng.chance(9, 10));
            let mut last = 0;
            for run in choose(&shares, 64 * MIB) {
                assert!(run.start >= last && run.len() <= REPLACED_MAX);
                last = run.end;
                let of_run = &shares[run.clone()];
                assert!(of_run.iter().all(|share| share.is_readable));
                let kept: u64 = of_run.iter().map(|share| share.kept).sum();
                let freed = of_run.iter().map(|share| share.bytes).sum::<u64>() - kept;
                assert!(kept <= 64 * MIB && (kept * 2 <= freed * 3 || run.len() >= JOINED_MIN), "{of_run:?}");
            }
        }
    }
}
