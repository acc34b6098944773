//! Runs on a disk: they tell what a scan tells, look at little, and what is not as it was written is never believed.

use std::sync::Arc;

use super::page::PAGE_BYTES;
use super::*;
use crate::codec::{Codec, RunKind, RunSource};
use crate::disk::sim::Rng;
use crate::disk::{Disk, SimDisk};
use crate::index::tests::{entries, newest, query};
use crate::index::{Entry, Footer, Rank, Run};
use crate::types::*;

const GROUP: GroupId = GroupId([3; 16]);
const SALT: Salt = Salt([5; 16]);

fn source(number: u64) -> RunSource {
    RunSource { number: SegmentNo(number), salt: Salt([6; 16]), head: ChainHead::START, entries: 0 }
}

/// A run over these, the i-th list from source i.
fn merged(disk: &SimDisk, number: u64, lists: Vec<Footer>) -> Arc<MergedRun> {
    let sources = (0..lists.len() as u64).map(source).collect();
    let inputs = lists.into_iter().zip(0..).map(|(footer, source)| Input::footer(footer, source)).collect();
    finish(disk, number, sources, inputs)
}

fn finish(disk: &SimDisk, number: u64, sources: Vec<RunSource>, inputs: Vec<Input>) -> Arc<MergedRun> {
    let mut merge = Merge::begin(disk, (RunNo(number), SALT), (GROUP, RunKind::Live), sources, inputs).unwrap();
    while !merge.step().unwrap() {}
    let number = merge.finish(disk).unwrap();
    Arc::new(MergedRun::open(disk, number, GROUP).unwrap())
}

fn footer(entries: Vec<Entry>) -> Footer {
    Footer { run: Run::new(entries), ..Footer::default() }
}

#[test]
fn a_run_tells_what_a_scan_tells_of_the_sources_that_count() {
    let mut rng = Rng::new(21);
    for round in 0..40 {
        let disk = SimDisk::new(round);
        let longest = if rng.chance(1, 4) { 200 } else { 8 };
        let lists: Vec<Vec<Entry>> = (0..1 + rng.below(4))
            .map(|_| {
                let count = rng.below(if round % 4 == 0 { 4000 } else { 300 });
                entries(&mut rng, count, 3, longest)
            })
            .collect();
        // In two generations, the second without one source of the first.
        let first = merged(&disk, 1, lists.iter().cloned().map(footer).collect());
        let gone = u32::try_from(rng.below(lists.len() as u64)).unwrap();
        let map = (0..u32::try_from(lists.len()).unwrap()).map(|i| (i != gone).then_some(i)).collect();
        let sources = (0..lists.len() as u64).map(source).collect();
        let second = finish(&disk, 2, sources, vec![Input::run(first.clone(), map)]);
        assert_eq!(second.entries(), first.entries() - lists[gone as usize].len() as u64);
        for _ in 0..60 {
            let query = query(&mut rng);
            let left = |i: usize| u32::try_from(i).unwrap() != gone;
            let expect: Vec<&Entry> =
                lists.iter().enumerate().filter(|(i, _)| left(*i)).flat_map(|(_, list)| list).collect();
            let expect = newest(&query, expect);
            for run in [&first, &second] {
                let mut found = Vec::new();
                run.search(
                    &query,
                    |source| source != gone,
                    |entry, source, _| {
                        assert_ne!(source, gone);
                        found.push(entry);
                    },
                )
                .unwrap();
                assert_eq!(newest(&query, &found), expect, "{query:?}");
            }
        }
    }
}

/// Of a million versions of one place, whatever their lengths: two pages for each of two guides, and one page of entries at most.
#[test]
fn of_a_million_versions_few_pages_and_entries_are_looked_at() {
    const VERSIONS: u64 = 1_000_000;
    const HOT: u64 = 1 << 40;
    let disk = SimDisk::new(1);
    let hot = |seq: u64, sectors: u64| Entry {
        volume: 1,
        sector: 64,
        sectors,
        rank: Rank { seq, base: 0 },
        at: seq | HOT,
        stored: 0,
        decoded: 0,
        codec: Codec::Raw,
        crc: 0,
        offset: 0,
    };
    // All of one length that fills its class; of one that does not; longer ones now and then, the longest long ago.
    let lengths: [&dyn Fn(u64) -> u64; 3] =
        [&|_| 8, &|_| 7, &|seq| if seq == 1000 { 8 } else { 5 + u64::from(seq % 1000 == 0) }];
    let mut rng = Rng::new(3);
    for (number, length) in (1..).zip(lengths) {
        let mut all: Vec<Entry> = (1..=VERSIONS).map(|seq| hot(seq, length(seq))).collect();
        all.extend(entries(&mut rng, 5000, 3, 8));
        let run = merged(&disk, number, vec![footer(all)]);
        assert!(run.file_bytes() > 3000 * PAGE_BYTES as u64 && run.memory_bytes() < 1000, "{}", run.memory_bytes());
        let extent = Extent::new(Sector::new(64).unwrap(), Sectors::new(8).unwrap()).unwrap();
        for newest in [1, 999, 1000, 500_001, VERSIONS] {
            let query = Query { volume: VolumeNo(1), extent, newest: Seq::new(newest).unwrap(), after: 0 };
            let mut found = Vec::new();
            let work = run.search(&query, |_| true, |entry, _, _| found.push(entry)).unwrap();
            let best = found.iter().filter(|e| e.sector == 64 && e.at == e.rank.seq | HOT).map(|e| e.rank.seq).max();
            assert_eq!(best, Some(newest));
            let reach = found.iter().filter(|e| e.sector == 64 && e.at == e.rank.seq | HOT).map(|e| e.sectors).max();
            assert_eq!(reach, (1..=newest).map(length).max(), "as of {newest}");
            assert!(work.pages <= 40 && work.entries <= 2500, "{work:?} as of {newest}");
        }
    }
}

#[test]
fn raw_units_keep_the_checksums_of_what_is_read_and_no_more() {
    let disk = SimDisk::new(1);
    let pool: Vec<u32> = (100..116).collect();
    let unit = |sector, sectors, offset| Entry {
        volume: 1,
        sector,
        sectors,
        rank: Rank { seq: 1, base: 0 },
        at: 4096,
        stored: 64 * 1024,
        decoded: 64 * 1024,
        codec: Codec::Raw,
        crc: 0,
        offset,
    };
    // A block of its own, one across two, the whole unit, the last sector.
    let all = vec![unit(0, 8, 4096), unit(8, 8, 2048), unit(200, 128, 0), unit(400, 1, 65024)];
    let run = merged(&disk, 1, vec![Footer { pool, ..footer(all) }]);
    let extent = Extent::new(Sector::new(0).unwrap(), Sectors::new(500).unwrap()).unwrap();
    let mut found = Vec::new();
    let query = Query { volume: VolumeNo(1), extent, newest: Seq::FIRST, after: 0 };
    run.search(
        &query,
        |_| true,
        |entry, _, page| {
            let crcs = match entry.has_many_crcs() {
                true => (0..entry.stored.div_ceil(4096)).map(|i| page.crc((entry.crc + i) as usize).unwrap()).collect(),
                false => vec![entry.crc],
            };
            found.push((entry.sector, entry.at, entry.stored, entry.offset, crcs));
        },
    )
    .unwrap();
    found.sort_unstable();
    let whole: Vec<u32> = (100..116).collect();
    assert_eq!(
        found,
        [
            (0, 8192, 4096, 0, vec![101]),
            (8, 4096, 8192, 2048, vec![100, 101]),
            (200, 4096, 65536, 0, whole),
            (400, 65536, 4096, 3584, vec![115]),
        ]
    );
}

/// Any bit of it: opening, a search or reading all of it finds that something is wrong, or nothing has changed.
#[test]
fn a_flipped_bit_is_found() {
    let mut rng = Rng::new(9);
    let disk = SimDisk::new(1);
    let all = entries(&mut rng, 700, 2, 8);
    let run = merged(&disk, 1, vec![footer(all.clone()), footer(Vec::new())]);
    let (length, name) = (run.file.len().unwrap(), run.number().file_name());
    let (tallies, query) = (run.tallies().unwrap(), query(&mut rng));
    let ends = (length - 1200..length).map(|byte| (byte, byte % 8));
    let anywhere: Vec<(u64, u64)> = (0..3000).map(|_| (rng.below(length), rng.below(8))).collect();
    let heads = (0..3u64).flat_map(|page| (0..80).map(move |byte| (page * PAGE_BYTES as u64 + byte, 3)));
    for (byte, bit) in ends.chain(anywhere).chain(heads) {
        disk.flip_bit(&name, byte * 8 + bit).unwrap();
        let opened = MergedRun::open(&disk, RunNo(1), GROUP);
        if let Ok(run) = opened {
            assert!(run.tallies().is_err(), "byte {byte} bit {bit} is not noticed");
            let mut found = Vec::new();
            if run.search(&query, |_| true, |entry, _, _| found.push(entry)).is_ok() {
                assert_eq!(newest(&query, &found), newest(&query, &all), "byte {byte} bit {bit}");
            }
        }
        disk.flip_bit(&name, byte * 8 + bit).unwrap();
    }
    assert_eq!(MergedRun::open(&disk, RunNo(1), GROUP).unwrap().tallies().unwrap(), tallies);
    assert!(MergedRun::open(&disk, RunNo(1), GroupId([4; 16])).is_err());
    disk.rename(&name, &RunNo(2).file_name()).unwrap();
    assert!(MergedRun::open(&disk, RunNo(2), GROUP).is_err(), "a renamed run");
}

#[test]
fn what_is_kept_in_memory_is_bounded_and_what_is_used_stays() {
    let blocks = Blocks::new(16 * 64 * 1024);
    let block = || Block::Unit(Arc::new(vec![0; 1024]));
    let key = |at| BlockKey { owner: 1, file: 2, at };
    for at in 0..5000 {
        blocks.put(key(at), block(), 1024);
        assert!(blocks.bytes() <= 16 * 64 * 1024);
        // The first is asked for all the time.
        assert!(blocks.get(key(0)).is_some(), "gone after {at}");
    }
    let kept = (0..5000).filter(|&at| blocks.get(key(at)).is_some()).count();
    assert!((700..=1024).contains(&kept), "{kept}");
    blocks.put(key(9999), block(), 64 * 1024 * 1024);
    assert!(blocks.get(key(9999)).is_none(), "larger than all there is room for");
}
