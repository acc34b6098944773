//! What is still to be read of the sources when a run ends cleanly in the middle of a resync, or while changes are only tracked: so
//! that the next one reads no more than that.

use std::collections::BTreeMap;
use std::ops::Range;

use journal::types::{Sectors, VolumeNo};

use super::rungs::again;
use crate::base::{BLOCK_BYTES, BaseVolume};
use crate::capture::Lost;
use crate::dirty::DirtyMap;
use crate::state::{UNREAD_RANGES, Unread};

/// Of a run whose base still had `wanted` to be read when it ended, with `lost` beside it; `volumes` are all of them, with their sizes.
pub fn unread(volumes: &[(VolumeNo, Sectors)], wanted: Vec<BaseVolume>, lost: Lost) -> Unread {
    let mut wanted: BTreeMap<_, _> = again(wanted).into_iter().map(|volume| (volume.number, volume)).collect();
    let mut dirty = lost.dirty;
    // The bound is of all volumes together.
    let max = (UNREAD_RANGES / volumes.len().max(1)).max(1);
    let of = |&(number, size): &(VolumeNo, Sectors)| {
        let mut map = dirty.remove(&number).unwrap_or_default();
        match wanted.remove(&number).map(|wanted| wanted.looked_at()) {
            Some(None) => return (number, std::iter::once(0..size.bytes()).collect()),
            Some(Some(part)) => map.merge(&part),
            None => {}
        }
        (number, ranges(&map, size, max))
    };
    volumes.iter().map(of).collect::<BTreeMap<VolumeNo, _>>()
}

/// What is dirty, in at most `max` ranges of whole blocks: with more than that, of larger ones.
fn ranges(map: &DirtyMap, size: Sectors, max: usize) -> Vec<Range<u64>> {
    let mut grain = BLOCK_BYTES;
    loop {
        match ranges_by(map, size.bytes(), grain, max) {
            Some(ranges) => return ranges,
            None => grain *= 2,
        }
    }
}

fn ranges_by(map: &DirtyMap, size: u64, grain: u64, max: usize) -> Option<Vec<Range<u64>>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    let mut at = 0;
    while let Some(run) = map.next(at, u64::MAX).filter(|run| run.start < size) {
        let (start, end) = (run.start / grain * grain, run.end.next_multiple_of(grain).min(size));
        let is_full = ranges.len() == max;
        match ranges.last_mut() {
            Some(last) if last.end >= start => last.end = end,
            _ if is_full => return None,
            _ => ranges.push(start..end),
        }
        at = end;
    }
    Some(ranges)
}

#[cfg(test)]
mod tests {
    use journal::types::Extent;

    use super::*;

    fn map(blocks: impl IntoIterator<Item = u64>) -> DirtyMap {
        let mut map = DirtyMap::default();
        blocks.into_iter().for_each(|block| map.mark(Extent::of_bytes(block * 4096, 4096).unwrap()));
        map
    }

    #[test]
    fn what_is_dirty_is_in_few_ranges_and_nothing_is_left_out() {
        const BLOCKS: u64 = 1 << 18;
        // A GiB, and a piece of a block.
        let size = Sectors::of_bytes(BLOCKS * 4096 + 512).unwrap();
        let block = |from, to| from * BLOCK_BYTES..to * BLOCK_BYTES;
        assert!(ranges(&map([]), size, 1).is_empty());
        assert_eq!(ranges(&map([1, 16, 100]), size, 2), [block(0, 2), block(6, 7)]);
        assert_eq!(ranges(&map([1, 40, 100]), size, 3), [block(0, 1), block(2, 3), block(6, 7)]);
        assert_eq!(ranges(&map([1, 40, 100]), size, 2), [block(0, 4), block(6, 8)]);
        let last = BLOCKS * 4096 - BLOCK_BYTES..size.bytes();
        assert_eq!(ranges(&map([BLOCKS - 1, BLOCKS]), size, 9), [last]);
        // Behind the end, of a volume that was cut.
        assert!(ranges(&map([BLOCKS + 16]), size, 9).is_empty());
        let mut random = 1_u64;
        for max in [1, 2, 7, 100, 10_000] {
            let blocks: Vec<u64> = std::iter::repeat_with(|| {
                random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (random >> 33) % BLOCKS
            })
            .take(3000)
            .collect();
            let ranges = ranges(&map(blocks.iter().copied()), size, max);
            assert!(ranges.len() <= max && ranges.is_sorted_by(|a, b| a.end < b.start));
            let covers = |block: &u64| ranges.iter().any(|range| range.contains(&(block * 4096)));
            assert!(blocks.iter().all(covers));
        }
    }
}
