use std::sync::atomic::{AtomicU64, Ordering};

use journal::disk::sim::Rng;
use journal::types::Seq;

use super::*;
use crate::testing::History;

fn go(_: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// What a model says: numbers of the blocks in which the two differ, zeroes beyond their ends.
fn blocks(from: &[u8], to: &[u8]) -> Vec<u64> {
    let block = |bytes: &[u8], at: usize| {
        let mut block = [0; 4096];
        let held = bytes.get(at..).unwrap_or_default();
        let length = held.len().min(4096);
        block[..length].copy_from_slice(&held[..length]);
        block
    };
    let starts = (0..from.len().max(to.len())).step_by(4096);
    starts.filter(|at| block(from, *at) != block(to, *at)).map(|at| at as u64 / 4096).collect()
}

fn diff(history: &History, from: Seq, to: Seq) -> (Vec<Differing>, Vec<(usize, Extent)>, u64) {
    let version = history.version();
    let diff = Diff::new(version.view(from).unwrap(), version.view(to).unwrap(), None);
    let (heard, mut extents) = (AtomicU64::new(0), Vec::new());
    let tick = |bytes| {
        heard.fetch_add(bytes, Ordering::Relaxed);
        go(bytes)
    };
    let found = |volume, extent| {
        extents.push((volume, extent));
        Ok(())
    };
    let differing = diff.run(&tick, found).unwrap();
    assert_eq!(heard.into_inner(), diff.bytes(), "all of it is told");
    (differing, extents, diff.bytes())
}

#[test]
fn exactly_the_blocks_that_differ_are_found_between_any_two_points() {
    for seed in 0..4 {
        let mut history = History::new(100 + seed, &[2600, 90]);
        history.run(40);
        let mut rng = Rng::new(seed);
        let points: Vec<Seq> = history.points.keys().copied().collect();
        for _ in 0..60 {
            let (from, to) = (points[rng.below_len(points.len())], points[rng.below_len(points.len())]);
            let (differing, extents, _) = diff(&history, from, to);
            for (volume, differing) in differing.iter().enumerate() {
                let (then, now) = (&history.points[&from][volume], &history.points[&to][volume]);
                let here: Vec<Extent> = extents.iter().filter(|(v, _)| *v == volume).map(|(_, e)| *e).collect();
                let told = here.iter().flat_map(|e| e.byte() / 4096..(e.byte() + e.bytes()).div_ceil(4096));
                assert_eq!(told.collect::<Vec<_>>(), blocks(then, now), "{from} and {to}, volume {volume}");
                assert!(here.is_sorted_by(|a, b| a.end() < b.start()), "apart: {here:?}");
                let bytes = here.iter().map(|extent| extent.bytes()).sum::<u64>();
                assert_eq!((differing.bytes, differing.extents), (bytes, here.len() as u64));
                assert_eq!(differing.blocks, blocks(then, now).len() as u64);
            }
            assert_eq!(diff(&history, to, from).1, extents, "it is the same the other way round");
            assert_eq!(diff(&history, from, from).1, [], "and nothing differs from itself");
        }
    }
}

#[test]
fn sizes_are_told_beside_the_blocks() {
    let mut history = History::new(5, &[600]);
    history.run(60);
    let version = history.version();
    let size = |seq: &Seq| history.points[seq][0].len() as u64;
    let points: Vec<Seq> = history.points.keys().copied().collect();
    let first = points[0];
    let other = *points.iter().find(|seq| size(seq) != size(&first)).expect("a resize");
    let diff = Diff::new(version.view(first).unwrap(), version.view(other).unwrap(), Some("vol0"));
    let bytes = |size: Option<Sectors>| size.map(Sectors::bytes);
    let sizes = diff.volumes();
    assert_eq!((bytes(sizes[0].from), bytes(sizes[0].to)), (Some(size(&first)), Some(size(&other))));
    let none = Diff::new(version.view(first).unwrap(), version.view(other).unwrap(), Some("other"));
    assert_eq!(none.volumes(), []);
}

#[test]
fn whoever_stops_it_is_heard() {
    let mut history = History::new(6, &[600]);
    history.run(20);
    let version = history.version();
    let (first, last) = (*history.points.keys().next().unwrap(), *history.points.keys().last().unwrap());
    let diff = Diff::new(version.view(first).unwrap(), version.view(last).unwrap(), None);
    assert_eq!(diff.run(&|_| ControlFlow::Break(()), |_, _| Ok(())).unwrap_err().code(), Code::FAILED);
}
