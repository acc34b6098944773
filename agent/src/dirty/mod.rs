//! What was written while nothing could be recorded: blocks of 4 KiB of one volume, in bounded memory.
//!
//! ```text
//!   leaf = 128 MiB of the volume     fine   4 KiB a bit, 4 KiB of memory    the first that are touched
//!                                    medium 64 KiB a bit, 256 bytes         when there are many of those
//!                                    coarse 2 MiB a bit, 8 bytes            beyond; and what is dirty all over
//! ```
//!
//! Only what is touched costs memory. A coarser leaf calls clean blocks dirty, never the other way round: more is read, and nothing
//! is missed.
//!
//! **Invariant:** exchange the map, then read; never read, then clear. So a map is never cleared, only taken as a whole.

mod leaf;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::Range;

use journal::types::Extent;
use leaf::{Grain, LEAF_BYTES, Leaf};

/// What is told apart while memory allows.
pub const DIRTY_BLOCK_BYTES: u64 = 4096;

/// How many leaves may be of which kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Those that tell 4 KiB apart.
    pub fine: usize,
    /// Those that tell 64 KiB apart.
    pub medium: usize,
}

/// 128 MiB for 4 TiB of the volume that are touched, and 64 MiB for 32 TiB more.
pub const BOUNDS: Bounds = Bounds { fine: 32 * 1024, medium: 256 * 1024 };

/// The dirty blocks of one volume.
#[derive(Clone, Debug)]
pub struct DirtyMap {
    bounds: Bounds,
    leaves: BTreeMap<u64, Leaf>,
    fine: usize,
    medium: usize,
    bytes: u64,
}

impl Default for DirtyMap {
    fn default() -> Self {
        Self::new(BOUNDS)
    }
}

impl DirtyMap {
    /// Nothing is dirty.
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, leaves: BTreeMap::new(), fine: 0, medium: 0, bytes: 0 }
    }

    /// All blocks that `extent` touches are dirty.
    pub fn mark(&mut self, extent: Extent) {
        let start = extent.byte() / DIRTY_BLOCK_BYTES * DIRTY_BLOCK_BYTES;
        self.mark_bytes(start..(extent.byte() + extent.bytes()).next_multiple_of(DIRTY_BLOCK_BYTES));
    }

    /// What is dirty in `other` is dirty here.
    pub fn merge(&mut self, other: &Self) {
        let mut at = 0;
        while let Some(run) = other.next(at, u64::MAX) {
            at = run.end;
            self.mark_bytes(run);
        }
    }

    /// The first dirty run at or after byte `at`, at most `max` bytes of it. Volumes end where they like: the run may end behind.
    pub fn next(&self, at: u64, max: u64) -> Option<Range<u64>> {
        let mut run: Option<Range<u64>> = None;
        for (&number, leaf) in self.leaves.range(at / LEAF_BYTES..) {
            let base = number * LEAF_BYTES;
            let mut from = run.as_ref().map_or(at, |run| run.end).max(base) - base;
            while let Some(found) = leaf.next(from) {
                let found = base + found.start..base + found.end;
                match &mut run {
                    None => run = Some(found.clone()),
                    Some(run) if run.end == found.start => run.end = found.end,
                    Some(_) => return run.map(|run| capped(run, max)),
                }
                from = found.end - base;
                if run.as_ref().is_some_and(|run| run.end - run.start >= max) {
                    return run.map(|run| capped(run, max));
                }
            }
        }
        run.map(|run| capped(run, max))
    }

    /// Whether nothing is dirty.
    pub fn is_empty(&self) -> bool {
        self.leaves.is_empty()
    }

    /// How much is dirty, as far as it is told apart.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Memory that it takes, about: a tree's nodes are between half and entirely full.
    pub fn memory_bytes(&self) -> usize {
        let node = 2 * (size_of::<u64>() + size_of::<Leaf>());
        self.leaves.len() * node + self.fine * Grain::Fine.memory_bytes() + self.medium * Grain::Medium.memory_bytes()
    }

    fn mark_bytes(&mut self, range: Range<u64>) {
        let mut at = range.start;
        while at < range.end {
            let (number, base) = (at / LEAF_BYTES, at / LEAF_BYTES * LEAF_BYTES);
            let end = range.end.min(base + LEAF_BYTES);
            self.mark_in(number, at - base..end - base);
            at = end;
        }
    }

    /// `range` is within the leaf.
    fn mark_in(&mut self, number: u64, range: Range<u64>) {
        let grain = match (self.fine < self.bounds.fine, self.medium < self.bounds.medium) {
            (true, _) => Grain::Fine,
            (false, true) => Grain::Medium,
            (false, false) => Grain::Coarse,
        };
        let is_whole = range.end - range.start == LEAF_BYTES;
        let mut count = |grain, by: isize| match grain {
            Grain::Fine => self.fine = self.fine.saturating_add_signed(by),
            Grain::Medium => self.medium = self.medium.saturating_add_signed(by),
            Grain::Coarse => {}
        };
        let leaf = self.leaves.entry(number).or_insert_with(|| {
            let grain = if is_whole { Grain::Coarse } else { grain };
            count(grain, 1);
            Leaf::new(grain)
        });
        let before = leaf.dirty_bytes();
        leaf.mark(range);
        // What is dirty all over needs no bits.
        if leaf.dirty_bytes() == LEAF_BYTES && leaf.grain() != Grain::Coarse {
            count(leaf.grain(), -1);
            *leaf = Leaf::full();
        }
        self.bytes += leaf.dirty_bytes() - before;
    }
}

fn capped(run: Range<u64>, max: u64) -> Range<u64> {
    run.start..run.end.min(run.start.saturating_add(max))
}
