//! The map against a set of blocks, and what it costs.

use std::collections::BTreeSet;

use super::*;
use crate::testing::Rng;

const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;

fn extent(byte: u64, bytes: u64) -> Extent {
    Extent::of_bytes(byte, bytes).unwrap()
}

/// All runs, each at most `max` long: ascending, on the grid, and apart unless they were cut.
fn runs(map: &DirtyMap, max: u64) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    let mut at = 0;
    while let Some(run) = map.next(at, max) {
        assert!(run.start >= at && run.start < run.end && run.end - run.start <= max);
        if let Some(last) = runs.last() {
            assert!(last.end < run.start || last.end - last.start == max, "{last:?} and {run:?} are one");
        }
        at = run.end;
        runs.push(run);
    }
    runs
}

fn blocks(map: &DirtyMap, max: u64) -> BTreeSet<u64> {
    let runs = runs(map, max).into_iter();
    runs.flat_map(|run| run.start / DIRTY_BLOCK_BYTES..run.end / DIRTY_BLOCK_BYTES).collect()
}

/// Marks at random, of all lengths and next to the borders of leaves, into the map and into a set.
fn mark(map: &mut DirtyMap, model: &mut BTreeSet<u64>, rng: &mut Rng, leaves: u64) {
    let length = match rng.below(20) {
        0 => 512 * (1 + rng.below(3 * LEAF_BYTES / 512)),
        1..5 => 512 * (1 + rng.below(4 * MIB / 512)),
        _ => 512 * (1 + rng.below(40)),
    };
    let at = match rng.below(4) {
        0 => (rng.below(leaves) * LEAF_BYTES).saturating_sub(512 * rng.below(20)),
        _ => 512 * rng.below(leaves * LEAF_BYTES / 512),
    };
    map.mark(extent(at, length));
    model.extend(at / DIRTY_BLOCK_BYTES..(at + length).div_ceil(DIRTY_BLOCK_BYTES));
}

#[test]
fn a_map_is_a_set_of_blocks() {
    for seed in 1..=40 {
        let (mut rng, mut map, mut model) = (Rng(seed), DirtyMap::default(), BTreeSet::new());
        for round in 0..60 {
            mark(&mut map, &mut model, &mut rng, 8);
            if round % 20 == 19 {
                let max = [u64::MAX, 64 << 10, 4096][round / 20];
                assert!(blocks(&map, max) == model, "seed {seed}");
                assert_eq!(map.bytes(), model.len() as u64 * DIRTY_BLOCK_BYTES);
            }
        }
        // From any place on, also within a run.
        for _ in 0..50 {
            let block = rng.below(9 * LEAF_BYTES / DIRTY_BLOCK_BYTES);
            let found = map.next(block * DIRTY_BLOCK_BYTES, u64::MAX).map(|run| run.start / DIRTY_BLOCK_BYTES);
            assert_eq!(found, model.range(block..).next().copied(), "seed {seed}");
        }
    }
}

/// Exchanged under a lock again and again, put back now and then: no mark is in neither map.
#[test]
fn what_is_exchanged_and_put_back_is_all_there() {
    let (mut rng, mut map, mut model) = (Rng(7), DirtyMap::default(), BTreeSet::new());
    for _ in 0..20 {
        (0..10).for_each(|_| mark(&mut map, &mut model, &mut rng, 6));
        let taken = std::mem::take(&mut map);
        assert!(map.is_empty() && map.bytes() == 0);
        (0..5).for_each(|_| mark(&mut map, &mut model, &mut rng, 6));
        map.merge(&taken);
        assert!(blocks(&map, u64::MAX) == model);
    }
}

/// Beyond the bounds whole grains are dirty of which a part is, and nothing is forgotten.
#[test]
fn a_coarser_map_forgets_nothing_and_says_little_more() {
    for seed in 1..=20 {
        let bounds = Bounds { fine: 1, medium: 2 };
        let (mut rng, mut map, mut model) = (Rng(seed), DirtyMap::new(bounds), BTreeSet::new());
        (0..60).for_each(|_| mark(&mut map, &mut model, &mut rng, 12));
        let found = blocks(&map, u64::MAX);
        assert!(found.is_superset(&model), "seed {seed}");
        let grain = 2 * MIB / DIRTY_BLOCK_BYTES;
        let grains: BTreeSet<u64> = model.iter().map(|block| block / grain).collect();
        assert!(found.iter().all(|block| grains.contains(&(block / grain))), "seed {seed}");
        assert!(map.fine <= bounds.fine && map.medium <= bounds.medium);
        assert_eq!(map.bytes(), found.len() as u64 * DIRTY_BLOCK_BYTES);
    }
}

/// The worst that can be done to it: a block in each leaf of 16 TiB, then all of it.
#[test]
fn sixteen_tebibytes_take_little_memory() {
    let mut map = DirtyMap::default();
    for leaf in 0..16 * TIB / LEAF_BYTES {
        map.mark(extent(leaf * LEAF_BYTES + 4096 * (leaf % 1000), 4096));
    }
    println!("16 TiB, a block in every 128 MiB: {} MiB", map.memory_bytes() as u64 / MIB);
    assert!(map.memory_bytes() as u64 <= 192 * MIB);
    assert!(map.bytes() <= 16 * TIB / LEAF_BYTES * (64 << 10));
    map.mark(extent(0, 16 * TIB));
    println!("16 TiB, all of it: {} MiB", map.memory_bytes() as u64 / MIB);
    assert!(map.memory_bytes() as u64 <= 16 * MIB);
    assert_eq!(map.next(0, u64::MAX), Some(0..16 * TIB));
    let mut sparse = DirtyMap::default();
    (0..1000).for_each(|n| sparse.mark(extent(n * 17 * (MIB << 10), 4096)));
    println!("16 TiB, 1000 blocks far apart: {} KiB", sparse.memory_bytes() >> 10);
    assert!(sparse.memory_bytes() as u64 <= 5 * MIB);
}
