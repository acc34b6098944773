//! What a log refuses, drops and recovers, where the store's crash sweep does not come by often.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::codec::{Body, EpochBegin, FrameKind};
use crate::disk::SimDisk;
use crate::disk::sim::{CrashMode, Fault, Rng};
use crate::error::{ErrorKind, Result};
use crate::frame::{Frame, FrameBuilder, FrameSeal};
use crate::types::*;

const GROUP: GroupId = GroupId([7; 16]);
const EPOCH: EpochId = EpochId([1; 16]);
const SESSION: SessionId = SessionId(1);
const NOW: WallTime = WallTime(1);

fn entropy() -> [u8; 16] {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_le_bytes());
    bytes
}

fn open(disk: &SimDisk, entries: bool) -> Result<(Log, Vec<Finding>)> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    Log::open(disk, LogOptions { group: GROUP, segment_bytes: 8192, entries }, entropy)
}

fn seal(kind: FrameKind, number: u64, prev: ChainHead) -> FrameSeal {
    FrameSeal {
        kind,
        group: GROUP,
        epoch: EPOCH,
        number: FrameNo::new(number).unwrap(),
        prev,
        durable: None,
        wall: NOW,
        boottime: NOW,
        boot: BootId([5; 16]),
        compress: false,
    }
}

/// Frames of one record each: an epoch's begin, then writes of 1024 bytes.
fn live(first: u64, count: u64) -> Vec<Frame> {
    let (mut builder, mut prev, mut frames) = (FrameBuilder::new(), ChainHead::START, Vec::new());
    for n in first..first + count {
        if n == first {
            builder.push(NOW, Body::EpochBegin(EpochBegin::FIRST));
        } else {
            write(&mut builder, n);
        }
        let frame = builder.finish(&seal(FrameKind::Live { first: Seq::new(n).unwrap() }, n, prev));
        prev = frame.head();
        frames.push(frame);
    }
    frames
}

fn base(resync: ResyncId, count: u64) -> Vec<Frame> {
    let (mut builder, mut prev, mut frames) = (FrameBuilder::new(), ChainHead::START, Vec::new());
    for n in 1..=count {
        write(&mut builder, n);
        let frame = builder.finish(&seal(FrameKind::Base { resync, as_of: None }, n, prev));
        prev = frame.head();
        frames.push(frame);
    }
    frames
}

fn write(builder: &mut FrameBuilder, n: u64) {
    let extent = Extent::new(Sector::new(n * 2).unwrap(), Sectors::new(2).unwrap()).unwrap();
    builder.write(NOW, VolumeNo(1), extent, &[u8::try_from(n % 251).unwrap(); 1024]);
}

fn head(log: &Log) -> u64 {
    log.head().map_or(0, |head| head.seq.number())
}

#[test]
fn a_frame_that_does_not_continue_the_order_is_refused_and_changes_nothing() {
    let frames = live(1, 4);
    let built = |change: &dyn Fn(&mut FrameSeal)| {
        let mut seal = seal(FrameKind::Live { first: Seq::new(3).unwrap() }, 3, frames[1].head());
        change(&mut seal);
        let mut builder = FrameBuilder::new();
        write(&mut builder, 3);
        builder.finish(&seal)
    };
    let wrong = [
        built(&|seal| seal.prev = frames[0].head()),
        built(&|seal| seal.prev = ChainHead::START),
        built(&|seal| seal.number = FrameNo::new(4).unwrap()),
        built(&|seal| seal.kind = FrameKind::Live { first: Seq::new(4).unwrap() }),
        built(&|seal| seal.kind = FrameKind::Live { first: Seq::new(2).unwrap() }),
        built(&|seal| seal.group = GroupId([8; 16])),
        built(&|seal| seal.epoch = EpochId([2; 16])),
        built(&|seal| seal.kind = FrameKind::Base { resync: ResyncId([1; 16]), as_of: None }),
        frames[3].clone(),
    ];
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk, true).unwrap();
    log.append(&frames[..2], SESSION, NOW).unwrap();
    let (ops, before) = (disk.ops(), log.head());
    for (i, frame) in wrong.into_iter().enumerate() {
        let error = log.append(&[frame], SESSION, NOW).expect_err(&format!("wrong frame {i} was taken"));
        assert_eq!((error.kind(), log.head(), disk.ops()), (ErrorKind::Invalid, before, ops), "wrong frame {i}");
    }
    // What is right comes in, twice, and counts once.
    log.append(&frames[1..], SESSION, NOW).unwrap();
    let ops = disk.ops();
    log.append(&frames, SESSION, NOW).unwrap();
    assert_eq!((head(&log), disk.ops()), (4, ops));
}

#[test]
fn a_groups_first_frame_has_nothing_before_it() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk, true).unwrap();
    let mut builder = FrameBuilder::new();
    builder.push(NOW, Body::EpochBegin(EpochBegin::FIRST));
    let frame = builder.finish(&seal(FrameKind::Live { first: Seq::FIRST }, 1, ChainHead(Hash([9; 32]))));
    assert_eq!(log.append(&[frame], SESSION, NOW).unwrap_err().kind(), ErrorKind::Invalid);
    // A store begins at the beginning; a spool wherever the receiver is.
    assert_eq!(log.append(&live(5, 1), SESSION, NOW).unwrap_err().kind(), ErrorKind::Invalid);
    open(&SimDisk::new(1), false).unwrap().0.append(&live(5, 1), SESSION, NOW).unwrap();
}

/// A failed stop leaves its entry in the cache, looking as if it were written. What comes behind it must not leave a hole.
#[test]
fn a_failed_stop_leaves_no_hole_in_the_manifest() {
    let frames = live(1, 60);
    let mut cases = 0;
    for seed in 0..40 {
        for later in 1..=3 {
            let disk = SimDisk::new(seed);
            let (mut log, _) = open(&disk, true).unwrap();
            log.append(&frames[..3], SESSION, NOW).unwrap();
            disk.fail_nth(disk.ops() + later, Fault::Io);
            log.stop(NOW).unwrap_err();
            drop(log);
            let (mut log, _) = open(&disk, true).unwrap();
            log.append(&frames, SESSION, NOW).unwrap();
            assert_eq!(log.sync().unwrap().map(|durable| durable.0.number()), Some(60));
            let after = disk.crash(CrashMode::LoseAll, &mut Rng::new(seed));
            let (log, findings) = open(&after, true).unwrap_or_else(|error| panic!("seed {seed}: {error:?}"));
            assert_eq!((head(&log), log.closed(), findings.as_slice()), (60, None, [].as_slice()), "seed {seed}");
            cases += 1;
        }
    }
    println!("{cases} failed stops");
}

/// Power cuts while a base of several segments is dropped: what is left of it is a base that is not whole yet, or none.
#[test]
fn a_base_that_is_half_dropped_is_no_damage() {
    let resync = ResyncId([3; 16]);
    let run = |disk: &SimDisk| -> Result<()> {
        let (mut log, _) = open(disk, true)?;
        log.append(&live(1, 3), SESSION, NOW)?;
        log.append_base(resync, &base(resync, 20), SESSION, NOW)?;
        log.sync()?;
        log.sync_base(resync)?;
        assert!(log.segments().count() > 4, "the base lies in one segment");
        log.drop_base(resync)
    };
    let whole = SimDisk::new(1);
    run(&whole).unwrap();
    for op in 1..=whole.ops() {
        let disk = SimDisk::new(1);
        disk.stop_at(op);
        run(&disk).unwrap_err();
        let mut rng = Rng::new(op);
        for mode in [CrashMode::LoseAll, CrashMode::KeepAll, CrashMode::Random, CrashMode::Random] {
            let after = disk.crash(mode, &mut rng);
            let (mut log, findings) = open(&after, true).unwrap();
            assert_eq!(log.closed(), None, "operation {op}, {mode:?}: {findings:?}");
            assert!(findings.iter().all(|finding| finding.mended), "operation {op}, {mode:?}: {findings:?}");
            // It is sent again from wherever it stands.
            log.append_base(resync, &base(resync, 20), SESSION, NOW).unwrap();
            let durable = log.sync_base(resync).unwrap();
            assert_eq!(durable.map(|head| head.frame.number()), Some(20), "operation {op}, {mode:?}");
        }
    }
}

#[test]
fn a_spool_drops_what_is_old_and_keeps_the_rest_through_power_cuts() {
    let frames = live(1, 60);
    let run = |disk: &SimDisk, dropped: &mut bool| -> Result<()> {
        let (mut log, _) = open(disk, false)?;
        log.append(&frames[..40], SESSION, NOW)?;
        log.sync()?;
        log.drop_through(Seq::new(25).unwrap())?;
        *dropped = true;
        log.append(&frames[40..], SESSION, NOW)?;
        log.sync().map(drop)
    };
    let whole = SimDisk::new(1);
    run(&whole, &mut false).unwrap();
    for op in 1..=whole.ops() {
        let disk = SimDisk::new(1);
        disk.stop_at(op);
        let mut dropped = false;
        run(&disk, &mut dropped).unwrap_err();
        let after = disk.crash(CrashMode::Random, &mut Rng::new(op));
        let (log, findings) = open(&after, false).unwrap();
        assert_eq!(log.closed(), None, "operation {op}: {findings:?}");
        assert!(!dropped || head(&log) >= 40, "operation {op}: {}", head(&log));
        let there = |n: u64| log.locate(Seq::new(n).unwrap()).unwrap();
        for n in 26..=head(&log) {
            let frame = there(n).unwrap_or_else(|| panic!("operation {op}: {n} is gone")).read().unwrap();
            assert_eq!(frame.head(), frames[usize::try_from(n - 1).unwrap()].head(), "operation {op}, {n}");
        }
        assert!(!dropped || there(1).is_none(), "operation {op}: what was dropped is back");
    }
}

/// A crash leaves a segment without frames; the next run may begin elsewhere.
#[test]
fn a_spool_that_begins_elsewhere_after_a_crash_is_read_again() {
    for (op, again) in (1..16).flat_map(|op| (1..16).map(move |again| (op, again))) {
        let mut disk = SimDisk::new(1);
        for (first, op) in [(100, op), (90, again)] {
            let (mut log, _) = open(&disk, false).unwrap();
            disk.stop_at(disk.ops() + op);
            // Some stop before the first frame, some behind it.
            let _ = log.append(&live(first, 1), SESSION, NOW);
            disk = disk.crash(CrashMode::LoseAll, &mut Rng::new(op));
        }
        let (mut log, _) = open(&disk, false).unwrap();
        assert_eq!(head(&log), 0, "what was not synced is gone");
        log.append(&live(95, 5), SESSION, NOW).unwrap();
        log.sync().unwrap();
        drop(log);
        let (log, findings) = open(&disk, false).unwrap();
        assert_eq!((head(&log), log.closed(), findings.as_slice()), (99, None, [].as_slice()), "{op}, {again}");
        assert!(log.locate(Seq::new(95).unwrap()).unwrap().is_some());
    }
}

#[test]
fn segment_numbers_are_never_used_twice() {
    let disk = SimDisk::new(1);
    let mut highest = 0;
    for _ in 0..5 {
        let (mut log, _) = open(&disk, true).unwrap();
        let resync = ResyncId(entropy());
        log.append_base(resync, &base(resync, 20), SESSION, NOW).unwrap();
        let numbers: Vec<u64> = log.segments().map(|segment| segment.header.number.0).collect();
        assert!(numbers.iter().all(|&number| number > highest), "{numbers:?} after {highest}");
        highest = *numbers.iter().max().unwrap();
        log.drop_base(resync).unwrap();
        assert_eq!(disk.list().unwrap(), ["manifest"]);
    }
}

/// Whatever the disk fails, also while a segment is given its end: what was appended before is found and read.
#[test]
fn what_a_log_took_before_its_disk_failed_can_be_read() {
    let frames = live(1, 40);
    let mut failed = 0;
    for op in 1..60 {
        let disk = SimDisk::new(op);
        let (mut log, _) = open(&disk, false).unwrap();
        disk.fail_nth(disk.ops() + op, Fault::NoSpace);
        let taken = frames.iter().take_while(|frame| log.append(&[(*frame).clone()], SESSION, NOW).is_ok()).count();
        failed += u64::from(taken < frames.len());
        for frame in &frames[..taken] {
            let place = log.locate(frame.last_seq().unwrap()).unwrap();
            let place =
                place.unwrap_or_else(|| panic!("operation {op}: {:?} of {taken} is not found", frame.last_seq()));
            assert_eq!(place.read().unwrap().head(), frame.head(), "operation {op}");
        }
    }
    assert!(failed > 20, "{failed}");
}

/// What recovery cuts is cut on the disk: the next opening finds nothing of it, also after another power cut.
#[test]
fn what_was_cut_does_not_come_back() {
    let frames = live(1, 4);
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk, true).unwrap();
    log.append(&frames[..2], SESSION, NOW).unwrap();
    log.sync().unwrap();
    let hole = log.bytes();
    log.append(&frames[2..], SESSION, NOW).unwrap();
    drop(log);
    // The power goes: of what nobody promised the first frame is lost, those behind it are whole.
    let after = disk.crash(CrashMode::KeepAll, &mut Rng::new(1));
    after.flip_bit(&SegmentNo(1).file_name(), (hole + 200) * 8).unwrap();
    let (log, findings) = open(&after, true).unwrap();
    assert_eq!((head(&log), findings.len(), findings[0].mended), (2, 1, true), "{findings:?}");
    drop(log);
    let after = after.crash(CrashMode::LoseAll, &mut Rng::new(2));
    let (log, findings) = open(&after, true).unwrap();
    assert_eq!((head(&log), log.closed(), findings.as_slice()), (2, None, [].as_slice()));
    assert_eq!(log.segments().next().map(|segment| segment.file.len().unwrap()), Some(hole));
}
