//! What is damaged, lost or somebody else's where history was thinned and cleaned.

use std::sync::Arc;

use super::super::{Cleaner, Output, Store, When};
use super::clean::*;
use super::history::{GROUP, History, Step};
use super::model::{Promised, check_view, entropy, open};
use crate::disk::sim::{ReadFault, Rng};
use crate::disk::{Disk, Open, SimDisk};
use crate::error::ErrorKind;
use crate::log::{PointsFile, remove_replaced};
use crate::retention::Kept;
use crate::types::*;

/// A manifest that is gone: segments and lists say the same of themselves, whether or not what was replaced is still there.
#[test]
fn a_lost_manifest_brings_back_nothing_that_is_gone() {
    for (seed, keep_old) in [(1, false), (2, true), (3, false), (4, true)] {
        let history = History::slow(seed, 60, PACE);
        let disk = SimDisk::new(seed);
        let mut store = super::model::play(&disk, &history.steps, &mut Promised::default()).unwrap();
        let now = WallTime(store.library().now().head_time().unwrap().0 + 1);
        let kept = thin(&mut store, &disk, &rule(), now, &[]).unwrap().unwrap();
        let cleaner = Cleaner::new(store.library().now());
        let plans = cleaner.everything(|| 3);
        for one in &cleaner.examine(&plans, &mut go_on).unwrap().unwrap() {
            let output = Output { disk: &disk, number: store.take_number(SegmentNo(0)), salt: entropy(), now };
            let new = cleaner.compact(one, output, &mut go_on).unwrap().unwrap();
            let old = store.replace(new).unwrap();
            if !keep_old {
                remove_replaced(&disk, &old).unwrap();
            }
        }
        drop(store);
        disk.remove("manifest").unwrap();
        let (store, findings) = open(&disk).unwrap();
        assert!(store.closed().is_some() && !findings.is_empty());
        check_lists(&store, &history, &kept);
        drop(store);
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        Store::mend(shared, GROUP, super::model::SEGMENT_BYTES, entropy).unwrap();
        let (store, findings) = open(&disk).unwrap();
        assert_eq!((findings.as_slice(), store.closed()), ([].as_slice(), None), "mended");
        check_lists(&store, &history, &kept);
    }
}

/// A compacted segment that is gone or cut short ends the order before it: below it every point that is left is right, and what is beyond is
/// none, before mending and after, until the place is reached up to which history was thinned.
#[test]
fn a_damaged_compacted_segment_ends_the_order_before_it() {
    let mut partly = 0;
    for (seed, part) in [(8, 0), (8, 1), (8, 2), (9, 1), (10, 1), (11, 1), (12, 2)] {
        let case = format!("seed {seed}, part {part}");
        let history = History::slow(seed, 60, PACE);
        let disk = SimDisk::new(seed);
        let mut store = super::model::play(&disk, &history.steps, &mut Promised::default()).unwrap();
        let now = WallTime(store.library().now().head_time().unwrap().0 + 1);
        let kept = thin(&mut store, &disk, &rule(), now, &[]).unwrap().unwrap();
        clean(&mut store, &disk, &mut Rng::new(1)).unwrap();
        let is_compacted = |segment: &&Arc<crate::log::Segment>| {
            let crate::codec::SegmentHeader { kind, replaces, .. } = segment.header;
            matches!(kind, crate::codec::SegmentKind::Live { .. }) && replaces.is_some()
        };
        let lost = store.log().segments().filter(is_compacted).last().unwrap().clone();
        let crate::codec::SegmentKind::Live { first } = lost.header.kind else { unreachable!() };
        let frames = lost.footer().unwrap().frames;
        drop(store);
        let name = lost.header.number.file_name();
        match part {
            0 => Disk::remove(&disk, &name).unwrap(),
            // In its last frame: what is before can be read.
            1 => {
                let file = Disk::open(&disk, &name, Open::Existing).unwrap();
                file.set_len(frames.last().unwrap().at + 100).unwrap();
                partly += usize::from(frames.len() > 1);
            }
            // The index, and the header of its last frame.
            _ => {
                disk.flip_bit(&name, 8 * (lost.sealed.unwrap().file_bytes - 20)).unwrap();
                let header = frames.last().unwrap().at + crate::codec::ENVELOPE_BYTES as u64;
                disk.flip_bit(&name, 8 * (header + 20)).unwrap();
                partly += usize::from(frames.len() > 1);
            }
        }
        let end = first.before();
        let mut points = Points::default();
        for step in &history.steps {
            if let Step::Append(frames) = step {
                points.hear(frames);
            }
        }
        points.offered.retain(|&seq| Seq::new(seq).is_some_and(|seq| Some(seq) <= end && kept.offers(seq)));
        points.marks.retain(|seq, _| points.offered.contains(seq));
        let (store, findings) = open(&disk).unwrap();
        assert!(store.closed().is_some() && findings.iter().any(|one| !one.mended), "{case}: {findings:?}");
        assert_eq!(store.head().map(|head| head.seq), end, "{case}");
        if end.is_some() {
            check_offered(&store, &history, &points);
            check_times(&store, &points, &mut Rng::new(seed));
        }
        drop(store);
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        Store::mend(shared, GROUP, super::model::SEGMENT_BYTES, entropy).unwrap();
        let (mut store, findings) = open(&disk).unwrap();
        // A base that was cleaned and does not count any more is dropped.
        assert!(store.closed().is_none() && findings.iter().all(|one| one.mended), "{case}: {findings:?}");
        assert_eq!(store.head().map(|head| head.seq), end, "{case}");
        if let Some(end) = end {
            check_offered(&store, &history, &points);
            let version = store.library().now();
            // A source can be compared with what there is, whether or not it is offered.
            assert!(version.view_to_compare(end).is_ok(), "{case}");
            let later = Cleaner::new(version).thinning(&rule(), WallTime(now.0 + HOUR), &[]).unwrap();
            let is_same = |later: &Kept| (later.upto, later.upto_time) == (kept.upto, kept.upto_time);
            assert!(later.is_none_or(|later| is_same(&later)), "{case}");
        }
        super::crash::go_on(&mut store, &history, &case);
        let left = points.offered.clone();
        let mut points = Points::default();
        for step in &history.steps {
            if let Step::Append(frames) = step {
                points.hear(frames);
            }
        }
        points.offered.retain(|seq| *seq >= kept.upto.number() || left.contains(seq));
        points.marks.retain(|seq, _| points.offered.contains(seq));
        check_offered(&store, &history, &points);
    }
    assert!(partly > 3, "{partly} were readable in part");
}

/// A list that cannot be read is told, nothing before it is offered, and nothing is thinned or cleaned on top of it.
#[test]
fn a_damaged_list_is_damage() {
    let history = History::slow(5, 60, PACE);
    let disk = SimDisk::new(5);
    let mut store = super::model::play(&disk, &history.steps, &mut Promised::default()).unwrap();
    let now = WallTime(store.library().now().head_time().unwrap().0 + 1);
    let kept = thin(&mut store, &disk, &rule(), now, &[]).unwrap().unwrap();
    let before = Cleaner::new(store.library().now());
    let plans = before.everything(|| 2);
    let examined = before.examine(&plans, &mut go_on).unwrap().unwrap();
    let output = Output { disk: &disk, number: store.take_number(SegmentNo(0)), salt: entropy(), now };
    let new = before.compact(&examined[0], output, &mut go_on).unwrap().unwrap();
    remove_replaced(&disk, &store.replace(new).unwrap()).unwrap();
    drop(store);
    let files = disk.list().unwrap();
    let name = files.iter().find(|name| name.ends_with(".points")).unwrap();
    disk.flip_bit(name, 8 * 520).unwrap();
    let (mut store, findings) = open(&disk).unwrap();
    assert!(findings.iter().any(|finding| !finding.mended && finding.place == "points"), "{findings:?}");
    let version = store.library().now();
    assert!(kept.points.iter().all(|point| version.find(&When::Seq(point.seq)).unwrap().is_err()));
    // What was not thinned is offered as before.
    assert_eq!(version.timeline().kept().map(|known| known.upto), Some(kept.upto));
    check_view(&store, &history, kept.upto);
    let later = WallTime(now.0 + 20 * HOUR);
    let _ = version.find(&When::At(WallTime(1))).unwrap().unwrap_err();
    assert_eq!(thin(&mut store, &disk, &rule(), later, &[]).unwrap(), None);
    let cleaner = Cleaner::new(store.library().now());
    let surveyed = cleaner.survey(super::model::SEGMENT_BYTES, &mut go_on).unwrap().unwrap();
    assert!(surveyed.plans.is_empty() && cleaner.everything(|| 3).is_empty());
    assert!(cleaner.examine(&plans, &mut go_on).unwrap().unwrap().is_empty());
    // Not even what was written by a list that could be read.
    let output = Output { disk: &disk, number: store.take_number(SegmentNo(0)), salt: entropy(), now };
    let new = before.compact(&examined[1], output, &mut go_on).unwrap().unwrap();
    assert_eq!(store.replace(new).unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(store.closed(), None, "what comes in is taken");
}

/// A file that is there already under the name of a new one is somebody else's: what cannot be made removes nothing.
#[test]
fn a_file_of_somebody_else_is_left_alone() {
    let history = History::slow(6, 60, PACE);
    let disk = SimDisk::new(6);
    let mut store = super::model::play(&disk, &history.steps, &mut Promised::default()).unwrap();
    let now = WallTime(store.library().now().head_time().unwrap().0 + 1);
    let kept = thin(&mut store, &disk, &rule(), now, &[]).unwrap().unwrap();
    let number = store.take_number(SegmentNo(0));
    let names = [number.file_name(), number.points_name()];
    for name in &names {
        drop(disk.open(name, Open::CreateNew).unwrap());
    }
    let cleaner = Cleaner::new(store.library().now());
    let examined = cleaner.examine(&cleaner.everything(|| 3), &mut go_on).unwrap().unwrap();
    let output = Output { disk: &disk, number, salt: entropy(), now };
    cleaner.compact(&examined[0], output, &mut go_on).unwrap_err();
    PointsFile::write(&disk, GROUP, number, kept).unwrap_err();
    let files = disk.list().unwrap();
    assert!(names.iter().all(|name| files.contains(name)), "{files:?}");
}

/// A disk that fails while a list is read has not damaged it: the journal does not open, and the list counts once the disk works again.
#[test]
fn a_disk_that_fails_loses_no_list() {
    let history = History::slow(7, 60, PACE);
    let disk = SimDisk::new(7);
    let mut store = super::model::play(&disk, &history.steps, &mut Promised::default()).unwrap();
    let now = WallTime(store.library().now().head_time().unwrap().0 + 1);
    let kept = thin(&mut store, &disk, &rule(), now, &[]).unwrap().unwrap();
    store.stop(now).unwrap();
    drop(store);
    let mut refused = 0;
    for read in 1..8 {
        disk.fail_nth_read(disk.reads() + read, ReadFault::Io);
        match open(&disk) {
            Ok((store, _)) => assert!(!store.library().now().has_lost_points(), "read {read}"),
            Err(error) => refused += usize::from(error.kind() == ErrorKind::Io),
        }
    }
    assert!(refused > 0);
    while open(&disk).is_err() {}
    let (store, _) = open(&disk).unwrap();
    assert_eq!(store.library().now().timeline().kept().map(|known| &**known), Some(&kept));
}
