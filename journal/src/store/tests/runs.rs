//! Views through merged runs: the same as without, whatever moment they are merged at, wherever the power goes, whatever bit flips.

use std::sync::Arc;

use super::super::{Merger, Merging, Store};
use super::crash::{check_opened, go_on};
use super::history::{GROUP, History, SECTORS, VOLUME};
use super::model::{Promised, check_view, entropy, open, perform, play};
use crate::disk::sim::{CrashMode, Fault, Rng};
use crate::disk::{Disk, SimDisk};
use crate::error::{ErrorKind, Result};
use crate::types::*;

fn merger(disk: &SimDisk, fan_in: usize) -> Merger {
    Merger::with_fan_in(Arc::new(disk.clone()), GROUP, entropy, fan_in)
}

/// One step; whether there is more to do.
fn step(merger: &mut Merger, store: &mut Store) -> Result<bool> {
    match merger.step(&store.library().now(), |_| true)? {
        Merging::Idle => return Ok(false),
        Merging::Goes => {}
        Merging::Renew(made) => store.renew_runs(made),
    }
    Ok(true)
}

/// Merges all there is.
pub(super) fn merge(disk: &SimDisk, store: &mut Store, fan_in: usize) -> Result<()> {
    let mut merger = merger(disk, fan_in);
    for _ in 0..10_000 {
        if !step(&mut merger, store)? {
            return Ok(());
        }
    }
    panic!("merging does not end");
}

fn runs_on(disk: &SimDisk) -> Vec<String> {
    disk.list().unwrap().into_iter().filter(|name| name.contains(".run")).collect()
}

/// Every point, and what changed since every few.
fn check_all(store: &Store, history: &History) {
    for n in 2..=history.last().number() {
        check_view(store, history, Seq::new(n).unwrap());
    }
    let view = store.library().now().view(history.last()).unwrap();
    let last = history.image(history.last());
    for n in (2..history.last().number()).step_by(7) {
        let from = Seq::new(n).unwrap();
        let changed = view.changed_since(Some(from), VOLUME, view.whole(VOLUME).unwrap()).unwrap();
        let old = history.image(from);
        for sector in 0..SECTORS {
            let at = usize::try_from(sector * 512).unwrap();
            let told = changed.iter().any(|e| (e.start().index()..e.end().index()).contains(&sector));
            assert!(told || old[at..at + 512] == last[at..at + 512], "sector {sector} changed since {from}");
        }
    }
}

#[test]
fn every_point_equals_the_model_whenever_runs_are_merged() {
    let mut most = 0;
    for seed in 0..40 {
        let history = History::random(seed, 60);
        let (disk, mut rng) = (SimDisk::new(seed), Rng::new(seed));
        let fan_in = usize::try_from(2 + rng.below(3)).unwrap();
        let (mut store, mut merger) = (open(&disk).unwrap().0, merger(&disk, fan_in));
        for (i, done) in history.steps.iter().enumerate() {
            perform(&mut store, done, &mut Promised::default(), &|| Ok(open(&disk)?.0)).unwrap();
            let mut steps = rng.below(6);
            while steps > 0 && step(&mut merger, &mut store).unwrap() {
                steps -= 1;
            }
            // A reader looks at all of it while a merge is under way.
            if i % 16 == 15
                && let Some(head) = store.library().now().head().filter(|head| head.seq.number() > 1)
            {
                check_view(&store, &history, head.seq);
            }
        }
        while step(&mut merger, &mut store).unwrap() {}
        check_all(&store, &history);
        most = most.max(store.library().now().indexes.runs().count());
        // The same from what is on the disk.
        let (again, findings) = open(&disk).unwrap();
        assert_eq!(findings, []);
        let names = |store: &Store| {
            let mut names: Vec<_> = store.library().now().indexes.runs().map(|run| run.number().file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(names(&again), names(&store));
        assert_eq!(runs_on(&disk), names(&store), "files of no use are gone");
        check_all(&again, &history);
        let verified = again.library().now().verify(|_| std::ops::ControlFlow::Continue(())).unwrap();
        assert_eq!(verified.findings, []);
    }
    assert!(most >= 2, "too short a history for runs");
}

/// Of a history ten times as long not ten times as many places are looked into.
#[test]
fn places_are_a_logarithm_of_segments() {
    let mut history = History::new(5);
    let disk = SimDisk::new(5);
    let (mut store, _) = open(&disk).unwrap();
    let mut merger = merger(&disk, 3);
    let (mut segments, mut most) = (0, 0);
    let mut frames = history.frames(8);
    while segments < 243 {
        store.append(&frames, SessionId(1), WallTime(1)).unwrap();
        store.sync().unwrap();
        frames = history.frames_more(8);
        while step(&mut merger, &mut store).unwrap() {}
        let version = store.library().now();
        segments = version.live.len();
        most = most.max(version.indexes.places().len());
        // Two of each level, and no more than were sealed since.
        let levels = usize::try_from(segments.max(1).ilog(3)).unwrap() + 1;
        assert!(version.indexes.places().len() <= 2 * levels, "{} of {segments}", version.indexes.places().len());
    }
    assert!(most > 5, "{most}");
    let looks = store.library().now().view(store.head().unwrap().seq).unwrap();
    let work = looks.looks(VOLUME, looks.whole(VOLUME).unwrap()).unwrap();
    assert!(work.places <= 2 * 6 + 20, "{work:?}");
    let head = store.head().unwrap().seq.number();
    for n in (2..=head).rev().take(20) {
        check_view(&store, &history, Seq::new(n).unwrap());
    }
}

/// The power goes at each operation of a run with merges in it: nothing of the journal is lost, merging goes on, and no file is left over.
#[test]
fn power_cuts_at_every_operation_of_a_merge() {
    let wanted = std::env::var("BACKSPOOL_CRASH_STATES").ok().and_then(|n| n.parse().ok()).unwrap_or(3_000);
    let (mut states, mut seed, mut with_runs) = (0, 0, 0);
    while states < wanted {
        seed += 1;
        let history = History::random(seed, 22);
        let run = |disk: &SimDisk, promised: &mut Promised| -> Result<()> {
            let mut store = open(disk)?.0;
            let mut merger = merger(disk, 2);
            for done in &history.steps {
                perform(&mut store, done, promised, &|| Ok(open(disk)?.0))?;
                while step(&mut merger, &mut store)? {}
            }
            Ok(())
        };
        let whole = SimDisk::new(seed);
        run(&whole, &mut Promised::default()).unwrap();
        for op in 0..whole.ops() {
            let disk = SimDisk::new(seed);
            disk.stop_at(op);
            let mut promised = Promised::default();
            let _ = run(&disk, &mut promised);
            let mut rng = Rng::new(seed * 1000 + op);
            for mode in [CrashMode::LoseAll, CrashMode::KeepAll, CrashMode::Random, CrashMode::Random] {
                let case = format!("seed {seed}, operation {op}, {mode:?}");
                let after = disk.crash(mode, &mut rng);
                with_runs += usize::from(!runs_on(&after).is_empty());
                check_opened(&|| open(&after), &history, &promised, &mut rng, &case);
                states += 1;
                if rng.chance(1, 8) {
                    let (mut store, _) = open(&after).unwrap();
                    merge(&after, &mut store, 2).unwrap();
                    go_on(&mut store, &history, &case);
                    merge(&after, &mut store, 2).unwrap();
                    check_view(&store, &history, history.last());
                    let known = store.library().now().indexes.runs().count();
                    assert_eq!(runs_on(&after).len(), known, "{case}: {:?}", runs_on(&after));
                    let verified = store.library().now().verify(|_| std::ops::ControlFlow::Continue(())).unwrap();
                    assert_eq!(verified.findings, [], "{case}");
                }
            }
        }
    }
    assert!(with_runs > states / 8, "{with_runs} of {states}");
}

/// Each operation of a merge fails, for want of room or otherwise: the journal goes on as if nothing was, and merging does later.
#[test]
fn a_merge_that_fails_harms_nothing() {
    let history = History::random(31, 150);
    let before = SimDisk::new(1);
    drop(play(&before, &history.steps, &mut Promised::default()).unwrap());
    let mut rng = Rng::new(1);
    let fresh = |rng: &mut Rng| before.crash(CrashMode::KeepAll, rng);
    let whole = fresh(&mut rng);
    let (mut store, _) = open(&whole).unwrap();
    let first = whole.ops() + 1;
    merge(&whole, &mut store, 2).unwrap();
    assert!(whole.ops() - first > 9, "too little is merged: {first} to {}", whole.ops());
    for op in first..=whole.ops() {
        for fault in [Fault::NoSpace, Fault::Io] {
            let disk = fresh(&mut rng);
            let (mut store, _) = open(&disk).unwrap();
            let mut merger = merger(&disk, 2);
            disk.fail_nth(op, fault);
            let error = loop {
                match step(&mut merger, &mut store) {
                    Ok(true) => {}
                    Ok(false) => break None,
                    Err(error) => break Some(error),
                }
            };
            assert!(error.is_some(), "operation {op} does not fail");
            assert_eq!(store.closed(), None);
            check_view(&store, &history, history.last());
            // A directory that could not be synced is not tried again: what opened it is opened anew.
            if error.is_some_and(|error| error.kind() != ErrorKind::Poisoned) {
                let disk = disk.crash(CrashMode::KeepAll, &mut rng);
                let (mut store, _) = open(&disk).unwrap();
                merge(&disk, &mut store, 2).unwrap();
                check_all(&store, &history);
                assert_eq!(runs_on(&disk).len(), store.library().now().indexes.runs().count());
            }
        }
    }
}

/// Without room nothing is begun; with some, it is.
#[test]
fn a_merge_waits_for_room() {
    let history = History::random(31, 60);
    let disk = SimDisk::new(1);
    let mut store = play(&disk, &history.steps, &mut Promised::default()).unwrap();
    let mut merger = merger(&disk, 2);
    let mut asked = 0;
    for _ in 0..10 {
        let refuse = |bytes| {
            asked = bytes;
            false
        };
        if matches!(merger.step(&store.library().now(), refuse).unwrap(), Merging::Idle) {
            break;
        }
    }
    assert!(asked > 1000 && runs_on(&disk).is_empty(), "{asked}");
    while step(&mut merger, &mut store).unwrap() {}
    assert!(!runs_on(&disk).is_empty());
}

/// One flipped bit anywhere in a run, while it is open or before: reads are right, the run is dropped, and made again.
#[test]
fn a_flipped_bit_in_a_run_is_never_served() {
    let history = History::random(11, 60);
    let disk = SimDisk::new(1);
    let mut store = play(&disk, &history.steps, &mut Promised::default()).unwrap();
    merge(&disk, &mut store, 2).unwrap();
    let names = runs_on(&disk);
    assert!(!names.is_empty());
    let mut rng = Rng::new(12);
    for round in 0..400 {
        let disk = disk.crash(CrashMode::KeepAll, &mut rng);
        let name = &names[usize::try_from(rng.below(names.len() as u64)).unwrap()];
        let length = disk.open(name, crate::disk::Open::ReadOnly).unwrap().len().unwrap();
        // Most of a small run is empty pages: half of the flips go to where something is.
        let byte = if rng.chance(1, 2) { rng.below(length) } else { rng.below(4000) };
        let is_open = rng.chance(1, 2);
        let early = is_open.then(|| open(&disk).unwrap().0);
        disk.flip_bit(name, byte * 8 + rng.below(8)).unwrap();
        let (mut store, findings) = early.map_or_else(|| open(&disk).unwrap(), |store| (store, Vec::new()));
        assert_eq!((store.closed(), findings.as_slice()), (None, [].as_slice()), "a run is not the journal");
        let seq = Seq::new(2 + rng.below(history.last().number() - 1)).unwrap();
        check_view(&store, &history, seq);
        check_view(&store, &history, history.last());
        let verified = store.library().now().verify(|_| std::ops::ControlFlow::Continue(())).unwrap();
        assert!(verified.findings.iter().all(|finding| finding.mended && finding.place == *name), "{verified:?}");
        let spoilt = store.library().now().indexes.runs().filter(|run| run.is_spoilt()).count();
        let known = store.library().now().indexes.runs().count();
        assert!(spoilt == 1 || known < names.len() || is_open, "round {round}: byte {byte} of {name} is not noticed");
        merge(&disk, &mut store, 2).unwrap();
        assert!(!store.library().now().indexes.runs().any(|run| run.is_spoilt()));
        check_view(&store, &history, history.last());
        let verified = store.library().now().verify(|_| std::ops::ControlFlow::Continue(())).unwrap();
        assert_eq!(verified.findings, [], "round {round}");
    }
}

/// A run that tells of other versions than its segments do is found by whoever compares them.
#[test]
fn a_run_that_lies_is_found_and_dropped() {
    let history = History::random(13, 60);
    let disk = SimDisk::new(1);
    let mut store = play(&disk, &history.steps, &mut Promised::default()).unwrap();
    merge(&disk, &mut store, 2).unwrap();
    let (name, other) = (runs_on(&disk)[0].clone(), SimDisk::new(2));
    // The same segments, with one entry that was never there.
    let version = store.library().now();
    let run = version.indexes.runs().find(|run| run.number().file_name() == name).unwrap();
    let sources = run.sources().to_vec();
    let all = (0..u32::try_from(sources.len()).unwrap()).map(Some).collect();
    let mut lie = crate::index::Footer::default();
    let segments = || version.live.iter().chain(version.bases.iter().map(|(segment, _)| segment));
    let first = segments().find(|segment| segment.header.number == sources[0].number).unwrap();
    let entry = first.footer().unwrap().run.entries()[0];
    lie.run = crate::index::Run::new(vec![crate::index::Entry { stored: 0, at: 0, crc: 0, ..entry }]);
    let inputs = vec![crate::index::Input::run(run.clone(), all), crate::index::Input::footer(lie, 0)];
    let of = (GROUP, run.kind());
    let mut forged = crate::index::Merge::begin(&other, (run.number(), Salt([9; 16])), of, sources, inputs).unwrap();
    while !forged.step().unwrap() {}
    forged.finish(&other).unwrap();
    let bytes = crate::disk::read_file(&other, &name, 1 << 30).unwrap().unwrap();
    crate::disk::replace_file(&disk, &name, &bytes).unwrap();
    let (mut store, _) = open(&disk).unwrap();
    let verified = store.library().now().verify(|_| std::ops::ControlFlow::Continue(())).unwrap();
    assert!(matches!(verified.findings.as_slice(), [one] if one.place == name && one.mended), "{verified:?}");
    merge(&disk, &mut store, 2).unwrap();
    check_all(&store, &history);
}

/// A segment that a run covers is gone, and another is there in its place: what the run says of it counts no more, the rest does.
#[test]
fn of_a_segment_that_is_gone_nothing_is_found() {
    let history = History::random(14, 80);
    let disk = SimDisk::new(1);
    let mut store = play(&disk, &history.steps, &mut Promised::default()).unwrap();
    merge(&disk, &mut store, 2).unwrap();
    let version = store.library().now();
    let runs: Vec<_> = version.indexes.runs().cloned().collect();
    let extent = Extent::new(Sector::default(), Sectors::new(SECTORS).unwrap()).unwrap();
    let query = crate::index::Query { volume: VOLUME, extent, newest: history.last(), after: 0 };
    for gone in 0..version.live.len() {
        let mut live = version.live.to_vec();
        let gone = live.remove(gone);
        let with = super::super::indexes::Indexes::of(&runs, &live, &version.bases, true);
        let without = super::super::indexes::Indexes::of(&[], &live, &version.bases, true);
        assert!(with.places().len() < without.places().len());
        let told = |indexes: &super::super::indexes::Indexes| {
            let mut newest = vec![None; usize::try_from(SECTORS).unwrap()];
            let found = indexes.search(&version.cache, &query, None, |hit| {
                assert_ne!(hit.segment.header.number, gone.header.number);
                for sector in hit.entry.sector..hit.entry.sector + hit.entry.sectors {
                    let best = &mut newest[usize::try_from(sector).unwrap()];
                    *best = (*best).max(Some((hit.entry.rank, hit.segment.header.number)));
                }
            });
            found.unwrap();
            newest
        };
        assert_eq!(told(&with), told(&without));
        // The same number with another salt is another segment.
        let mut other = live.clone();
        let mut header = gone.header;
        header.salt = Salt([0x55; 16]);
        let (file, sealed, state) = (gone.file.clone(), gone.sealed, gone.state.clone());
        other.push(Arc::new(crate::log::Segment { header, file, sealed, state }));
        let indexes = super::super::indexes::Indexes::of(&runs, &other, &version.bases, true);
        assert_eq!(indexes.places().len(), with.places().len() + 1);
    }
}

/// A journal that may not be written to is not merged in, and runs that there are serve it.
#[test]
fn a_damaged_journal_is_read_through_its_runs_and_not_merged() {
    let history = History::random(15, 60);
    let disk = SimDisk::new(1);
    let mut store = play(&disk, &history.steps, &mut Promised::default()).unwrap();
    let mut merger = merger(&disk, 2);
    // One merge, not all of them.
    while store.library().now().indexes.runs().count() == 0 {
        assert!(step(&mut merger, &mut store).unwrap());
    }
    let before = runs_on(&disk);
    disk.flip_bit("manifest", 512 * 8 + 100).unwrap();
    let (mut store, findings) = open(&disk).unwrap();
    assert!(store.closed().is_some() && !findings.is_empty());
    merge(&disk, &mut store, 2).unwrap();
    assert_eq!(runs_on(&disk), before);
    assert!(store.library().now().indexes.runs().count() > 0);
    check_view(&store, &history, Seq::new(5).unwrap());
}

#[test]
fn runs_that_are_not_trusted_are_made_again() {
    let history = History::random(16, 60);
    let disk = SimDisk::new(1);
    let mut store = play(&disk, &history.steps, &mut Promised::default()).unwrap();
    let mut merger = merger(&disk, 2);
    while step(&mut merger, &mut store).unwrap() {}
    let before = runs_on(&disk);
    store.library().now().distrust_runs();
    check_view(&store, &history, history.last());
    while step(&mut merger, &mut store).unwrap() {}
    let after = runs_on(&disk);
    assert!(!after.is_empty() && after.iter().all(|name| !before.contains(name)), "{before:?} {after:?}");
    check_all(&store, &history);
}
