//! The spool under load, behind, full, damaged, and after its agent was killed.

#![expect(clippy::cast_possible_truncation, reason = "numbers made in the test, far below any limit")]

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use std::io::IoSlice;

use journal::codec::{ClockKind, GapReason};
use journal::disk::{Disk, File, FileDisk, Open};
use journal::log::LogOptions;
use journal::types::VolumeNo;
use journal::wire::LagReport;

use super::*;
use crate::capture::SystemClock;
use crate::testing::{
    BOOT, GROUP, Replay, Rng, TestClock, VOLUME, begin, begin_with, entropy, epoch, extent, frames, records,
};

const SECTORS: u64 = 4096;

/// Writes at random places, and the image they make.
fn write(capture: &Capture, rng: &mut Rng, image: &mut [u8], count: usize) {
    for _ in 0..count {
        let sectors = 1 + rng.below(64);
        let at = rng.below(SECTORS - sectors);
        let mut data = vec![0; sectors as usize * 512];
        data.iter_mut().for_each(|byte| *byte = rng.next() as u8);
        image[at as usize * 512..][..data.len()].copy_from_slice(&data);
        capture.record_write(VOLUME, extent(at, sectors), &data).unwrap();
    }
}

fn image() -> Vec<u8> {
    vec![0; SECTORS as usize * 512]
}

#[test]
fn frames_begin_with_the_epoch_and_hold_every_write() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, capture) = begin(dir.path(), u64::MAX);
    let (mut rng, mut image) = (Rng(1), image());
    write(&capture, &mut rng, &mut image, 3000);
    let frames = frames(&spool, &capture);
    assert!(matches!(records(&frames)[0].1.body, Body::EpochBegin(EpochBegin { parent: None, seq: None, .. })));
    // Far more than memory keeps: the first ones came from the log.
    assert!(frames.iter().map(|frame| frame.bytes().len()).sum::<usize>() > 2 * RECENT_BYTES);
    assert!(Replay::of(&frames).onto(VOLUME, self::image()) == image);
    assert!(spool.next_after(capture.last_seq()).unwrap().is_none());
}

/// What can be compressed is, and reads the same.
#[test]
fn data_that_shrinks_is_compressed_unless_the_link_is_fast() {
    for fast in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (spool, capture) = begin(dir.path(), u64::MAX);
        spool.set_link_is_fast(fast);
        for n in 0..100 {
            capture.record_write(VOLUME, extent(n * 16, 16), &[n as u8; 16 * 512]);
        }
        let frames = frames(&spool, &capture);
        let payload: usize = frames.iter().map(|frame| frame.payload().len()).sum();
        assert_eq!(payload < 100 * 16 * 512 / 10, !fast, "{payload} bytes");
        let image = Replay::of(&frames).onto(VOLUME, image());
        assert!((0..100).all(|n| image[n * 8192..][..8192] == [n as u8; 8192]));
    }
}

/// The story: the agent is killed, as by SIGKILL: nothing is flushed, stopped or said. What a sender saw is there again.
#[test]
fn a_spool_whose_agent_was_killed_has_all_that_was_sent() {
    let dir = tempfile::tempdir().unwrap();
    let (mut rng, mut image) = (Rng(5), image());
    for run in 0..4 {
        let (spool, capture) = begin(dir.path(), u64::MAX);
        write(&capture, &mut rng, &mut image, 300);
        let frames = frames(&spool, &capture);
        assert_eq!(frames.iter().filter(|frame| frame.records().next().unwrap().time.0 == 0).count(), 0);
        assert!(Replay::of(&frames).onto(VOLUME, self::image()) == image, "run {run}");
        let heads = frames.iter().map(|frame| frame.header().epoch).collect::<std::collections::BTreeSet<_>>();
        assert_eq!(heads.len(), run + 1, "an epoch for each run");
        // A copy of the directory is what a killed agent leaves.
        let copy = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(dir.path()).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
        let found = Found::open(copy.path(), GROUP, u64::MAX, entropy).unwrap();
        assert_eq!(found.findings.len(), 0);
        // A report that nothing happened may have come since.
        assert!(found.head.map(|head| head.seq) >= frames.last().unwrap().last_seq());
        if run % 2 == 0 {
            let ending = spool.stop().unwrap();
            assert!(ending.complete);
            assert!(ending.head.map(|head| head.seq) >= found.head.map(|head| head.seq));
        }
    }
}

/// After a power cut the order goes on from what the receiver has; frames of ours that are elsewhere are no part of it.
#[test]
fn an_epoch_that_continues_another_place_begins_an_empty_spool() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, capture) = begin(dir.path(), u64::MAX);
    capture.record(Body::Flush);
    let head = spool.stop().unwrap().head.unwrap();
    let ahead = Head { seq: head.seq.after(10), frame: journal::types::FrameNo::new(99).unwrap(), ..head };

    let found = Found::open(dir.path(), GROUP, u64::MAX, entropy).unwrap();
    let begun = Spool::begin(found, &epoch(Some(ahead)), Arc::new(SystemClock), Box::new(|| {}));
    let (spool, capture) = begun.unwrap();
    let first = spool.wait_after(Some(ahead.seq), Duration::from_secs(60)).unwrap().unwrap();
    assert_eq!((first.header().number.number(), first.header().prev), (100, ahead.chain));
    let begin = EpochBegin { parent: Some(ahead.epoch), seq: Some(ahead.seq), head: ahead.chain, continues: false };
    assert_eq!(first.records().next().unwrap().body, Body::EpochBegin(begin));
    assert_eq!(spool.next_after(None).unwrap_err().kind(), ErrorKind::NotFound);
    capture.record(Body::Flush);
    assert!(spool.stop().unwrap().complete);
}

#[test]
fn a_damaged_spool_is_emptied() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, capture) = begin(dir.path(), u64::MAX);
    write(&capture, &mut Rng(1), &mut image(), 10);
    spool.stop().unwrap();
    let segment = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
    let segment = segment.into_iter().find(|path| path.extension().is_some_and(|end| end == "seg")).unwrap();
    let mut bytes = fs::read(&segment).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&segment, bytes).unwrap();
    let found = Found::open(dir.path(), GROUP, u64::MAX, entropy).unwrap();
    assert_eq!(found.head, None);
    assert!(!found.findings.is_empty());
    let (spool, capture) = begin(dir.path(), u64::MAX);
    assert_eq!(frames(&spool, &capture).len(), 1);
}

fn bytes_in(dir: &Path) -> u64 {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

/// The receiver is away and the spool fills: capture ends with a gap, the host's writes do not.
#[test]
fn a_full_spool_ends_capture_with_a_gap_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, capture) = begin(dir.path(), 10 << 20);
    let data = [0x5a; 65536].map({
        let mut rng = Rng(1);
        move |_| rng.next() as u8
    });
    let mut captured = 0;
    while capture.record_write(VOLUME, extent(0, 128), &data).is_some() {
        captured += 1;
    }
    let frames = frames(&spool, &capture);
    let all = records(&frames);
    assert_eq!(all.iter().filter(|(_, record)| matches!(record.body, Body::Write { .. })).count(), captured);
    let (last, record) = all.last().unwrap();
    assert!(matches!(&record.body, Body::Gap(gap) if gap.reason == GapReason::SpoolFull), "{record:?}");
    let status = spool.status();
    assert!(
        matches!(&status.capture, CaptureState::Tracking { reason: GapReason::SpoolFull, why } if why.contains("full"))
    );
    assert_eq!((status.spooled, status.captured.0), (Some(*last), Some(*last)));
    // Over by what memory held when it was noticed, at most.
    assert!(status.bytes > 10 << 20 && bytes_in(dir.path()) < 90 << 20);
    // Room again does not bring capture back.
    spool.acked(Durable(*last));
    assert_eq!(capture.record_write(VOLUME, extent(0, 1), &[0; 512]), None);
    assert!(!spool.stop().unwrap().complete);
}

/// The spool's directory refuses to grow: what it lacks stays in memory until it is sent.
#[test]
fn a_spool_that_cannot_be_written_ends_capture_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, capture) = begin(dir.path(), u64::MAX);
    write(&capture, &mut Rng(1), &mut image(), 100);
    frames(&spool, &capture);
    // The log needs a new segment and cannot name it: the directory is gone.
    fs::remove_dir_all(dir.path()).unwrap();
    let mut image = image();
    let mut rng = Rng(2);
    let mut written = Vec::new();
    while capture.state() == CaptureState::Running {
        let mut data = vec![0; 65536];
        data.iter_mut().for_each(|byte| *byte = rng.next() as u8);
        if capture.record_write(VOLUME, extent(0, 128), &data).is_some() {
            written = data;
        }
    }
    image[..65536].copy_from_slice(&written);
    let last = frames_after(&spool, Seq::new(1), capture.last_seq());
    let all = records(&last);
    assert!(matches!(&all.last().unwrap().1.body, Body::Gap(gap) if gap.reason == GapReason::SpoolFull));
    assert!(Replay::of(&last).onto(VOLUME, self::image())[..65536] == image[..65536]);
}

fn frames_after(spool: &Spool, after: Option<Seq>, last: Option<Seq>) -> Vec<Frame> {
    let mut frames: Vec<Frame> = Vec::new();
    loop {
        let seq = frames.last().map_or(after, Frame::last_seq);
        if seq >= last {
            return frames;
        }
        match spool.wait_after(seq, Duration::from_secs(60)) {
            Ok(frame) => frames.push(frame.expect("frames go on")),
            // Segments that were in the directory are readable all the same: their files are open.
            Err(error) => panic!("after {seq:?}: {error:?}"),
        }
    }
}

#[test]
fn what_is_durable_elsewhere_is_dropped_and_status_tells_what_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(TestClock::default());
    clock.wall.store(1_000_000, Ordering::Relaxed);
    clock.boottime.store(500_000, Ordering::Relaxed);
    let woken = Arc::new(AtomicU64::new(0));
    let found = Found::open(dir.path(), GROUP, u64::MAX, entropy).unwrap();
    let on_new = {
        let woken = woken.clone();
        Box::new(move || {
            woken.fetch_add(1, Ordering::Relaxed);
        })
    };
    let (spool, capture) = Spool::begin(found, &epoch(None), clock.clone(), on_new).unwrap();
    let (mut rng, mut image) = (Rng(1), image());
    write(&capture, &mut rng, &mut image, 8000);
    let all = frames(&spool, &capture);
    assert_eq!(spool.status().oldest, Some(Micros(0)));
    let full = spool.status().bytes;
    assert!(full > 2 * journal::limits::SEGMENT_BYTES);
    spool.acked(Durable(capture.last_seq().unwrap()));
    let status = spool.status();
    assert_eq!((status.oldest, status.durable), (None, capture.last_seq()));
    // The next frames tell the receiver what we know, and make room.
    write(&capture, &mut rng, &mut image, 1);
    let last = all.last().unwrap().last_seq();
    let next = spool.wait_after(last, Duration::from_secs(60)).unwrap().unwrap();
    assert_eq!(next.header().durable, last);
    while spool.status().bytes > journal::limits::SEGMENT_BYTES + 4096 {
        std::thread::yield_now();
    }
    assert_eq!(spool.next_after(None).unwrap_err().kind(), ErrorKind::NotFound);
    assert!(woken.load(Ordering::Relaxed) > 0);
    assert!(spool.stop().unwrap().complete);
    // It goes on from there.
    let (spool, capture) = begin_with(dir.path(), u64::MAX, clock);
    capture.record(Body::Flush);
    let first = spool.wait_after(next.last_seq(), Duration::from_secs(60)).unwrap().unwrap();
    assert_eq!(first.header().prev, next.head());
}

/// An idle agent says once a second that nothing happened; a clock that was set is said too.
#[test]
fn idle_reports_and_clock_steps_are_records() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(TestClock::default());
    clock.wall.store(5_000_000, Ordering::Relaxed);
    let (spool, capture) = begin_with(dir.path(), u64::MAX, clock.clone());
    let first = spool.wait_after(None, Duration::from_secs(60)).unwrap().unwrap();
    let report = spool.wait_after(first.last_seq(), Duration::from_secs(60)).unwrap().unwrap();
    let bodies = |frame: &Frame| frame.records().map(|record| record.body).collect::<Vec<_>>();
    assert_eq!(bodies(&report), [Body::Clock(ClockKind::Report)]);
    assert_eq!(spool.status().oldest, Some(Micros(0)), "the beginning of the epoch");
    spool.acked(Durable(first.last_seq().unwrap()));
    assert_eq!(spool.status().oldest, None, "a report is not a change");

    clock.wall.store(9_000_000, Ordering::Relaxed);
    capture.record(Body::Flush);
    let step = |wanted: ClockKind| {
        let all = records(&frames_after(&spool, report.last_seq(), capture.last_seq()));
        all.iter().filter(|(_, record)| record.body == Body::Clock(wanted)).count()
    };
    while step(ClockKind::Step) == 0 {
        std::thread::yield_now();
    }
    assert_eq!(step(ClockKind::Step), 1);
}

#[test]
fn volumes_of_a_group_share_one_order() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, capture) = begin(dir.path(), u64::MAX);
    std::thread::scope(|scope| {
        for volume in 0..3 {
            let capture = &capture;
            scope.spawn(move || {
                for n in 0..2000 {
                    capture.record_write(VolumeNo(volume), extent(n % 8, 1), &[n as u8; 512]).unwrap();
                }
            });
        }
    });
    let mut replay = Replay::of(&frames(&spool, &capture));
    let last: Vec<u8> = (1992..2000u32).flat_map(|n| [n as u8; 512]).collect();
    for volume in 0..3 {
        assert!(replay.onto(VolumeNo(volume), vec![0; 4096]) == last);
    }
    assert_eq!(frames(&spool, &capture)[0].header().boot, BOOT);
}

/// A directory whose files are written only while nobody holds the gate, and not any more once it fails.
#[derive(Debug)]
struct Gated(FileDisk, Arc<Gate>);

#[derive(Debug)]
struct GatedFile(Arc<dyn File>, Arc<Gate>);

#[derive(Debug, Default)]
struct Gate {
    closed: Mutex<()>,
    fails: AtomicBool,
}

impl Disk for Gated {
    fn open(&self, name: &str, mode: Open) -> Result<Arc<dyn File>> {
        Ok(Arc::new(GatedFile(self.0.open(name, mode)?, self.1.clone())))
    }

    fn list(&self) -> Result<Vec<String>> {
        self.0.list()
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.0.rename(from, to)
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.0.remove(name)
    }

    fn sync_dir(&self) -> Result<()> {
        self.0.sync_dir()
    }
}

impl File for GatedFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.0.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, bufs: &[IoSlice<'_>]) -> Result<()> {
        let _open = self.1.closed.lock().unwrap();
        if self.1.fails.load(Ordering::Relaxed) {
            return Err(std::io::Error::from_raw_os_error(libc::EIO).into());
        }
        self.0.write_at(offset, bufs)
    }

    fn sync(&self) -> Result<()> {
        self.0.sync()
    }

    fn len(&self) -> Result<u64> {
        self.0.len()
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.0.set_len(len)
    }
}

/// A spool behind a gate, the first frame in its log.
fn gated(dir: &Path, gate: &Arc<Gate>) -> (Spool, Arc<Capture>) {
    let disk = Gated(FileDisk::create(dir.join("gated")).unwrap(), gate.clone());
    let options = LogOptions { group: GROUP, segment_bytes: journal::limits::SEGMENT_BYTES, entries: false };
    let mut found = Found::open(&dir.join("spool"), GROUP, u64::MAX, entropy).unwrap();
    found.log = Log::open(Arc::new(disk), options, entropy).unwrap().0;
    let (spool, capture) = Spool::begin(found, &epoch(None), Arc::new(SystemClock), Box::new(|| {})).unwrap();
    while spool.shared.log().head().is_none() {
        std::thread::yield_now();
    }
    (spool, capture)
}

/// What a sender had seen, and no log has, would be another history after a kill.
#[test]
fn nobody_sees_a_frame_before_it_is_in_the_log() {
    let (dir, gate) = (tempfile::tempdir().unwrap(), Arc::new(Gate::default()));
    let (spool, capture) = gated(dir.path(), &gate);
    let begun = spool.wait_after(None, Duration::from_secs(60)).unwrap().unwrap().last_seq();
    let closed = gate.closed.lock().unwrap();
    capture.record(Body::Flush);
    assert!(spool.wait_after(begun, Duration::from_millis(500)).unwrap().is_none(), "it is not in the log yet");
    drop(closed);
    assert!(spool.wait_after(begun, Duration::from_secs(60)).unwrap().is_some());
}

/// More than memory keeps of what the log has: all of it was captured before the log failed, and is nowhere else.
#[test]
fn what_the_log_lacks_stays_in_memory() {
    let (dir, gate) = (tempfile::tempdir().unwrap(), Arc::new(Gate::default()));
    let (spool, capture) = gated(dir.path(), &gate);
    let closed = gate.closed.lock().unwrap();
    let mut rng = Rng(1);
    let mut image = image();
    for n in 0..(2 * RECENT_BYTES / 65536) {
        let at = n % 16 * 65536;
        image[at..at + 65536].fill_with(|| rng.next() as u8);
        capture.record_write(VOLUME, extent(at as u64 / 512, 128), &image[at..at + 65536]).unwrap();
    }
    gate.fails.store(true, Ordering::Relaxed);
    drop(closed);
    while capture.state() == CaptureState::Running {
        std::thread::yield_now();
    }
    let frames = frames(&spool, &capture);
    assert!(frames.iter().map(|frame| frame.bytes().len()).sum::<usize>() > 2 * RECENT_BYTES);
    assert!(Replay::of(&frames).onto(VOLUME, self::image()) == image);
}

/// Whatever a receiver has: the frame that follows is in the log, for the agent that comes after this one.
#[test]
fn what_follows_the_durable_end_stays_in_the_log() {
    let dir = tempfile::tempdir().unwrap();
    // Segments of a mebibyte, frames of one record.
    let (spool, capture) = begin(dir.path(), 8 << 20);
    let mut rng = Rng(1);
    let mut next = |after: Option<Seq>| {
        let data: Vec<u8> = (0..65536).map(|_| rng.next() as u8).collect();
        capture.record_write(VOLUME, extent(0, 128), &data).unwrap();
        spool.wait_after(after, Duration::from_secs(60)).unwrap().unwrap().last_seq()
    };
    let mut last = spool.wait_after(None, Duration::from_secs(60)).unwrap().unwrap().last_seq();
    let mut dropped = 0;
    for _ in 0..60 {
        let durable = last;
        let following = next(durable);
        spool.acked(Durable(durable.unwrap()));
        // When the second is there, the spooler is done with the first, and with what it drops after it.
        let second = next(following);
        last = next(second);
        let log = spool.shared.log();
        assert!(log.locate(durable.unwrap().after(1)).unwrap().is_some(), "what follows {durable:?} is gone");
        dropped += u32::from(log.locate(Seq::FIRST).unwrap().is_none());
    }
    assert!(dropped > 0, "nothing was ever dropped");
}

#[test]
fn what_a_receiver_lost_is_not_durable_until_it_has_it_again() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(TestClock::default());
    clock.set(1);
    let (spool, capture) = begin_with(dir.path(), u64::MAX, clock.clone());
    let (mut rng, mut image) = (Rng(1), image());
    let mut after = |second: u64| {
        clock.set(second);
        write(&capture, &mut rng, &mut image, 1);
        frames(&spool, &capture).last().unwrap().last_seq()
    };
    let (early, late) = (after(2), after(9));
    clock.set(12);
    spool.acked(Durable(late.unwrap()));
    assert_eq!(spool.status().oldest, None);
    spool.goes_on_from(early).unwrap();
    let status = spool.status();
    assert_eq!((status.durable, status.oldest), (early, Some(Micros(3_000_000))));
    // All of it is lost: as old as its beginning.
    spool.goes_on_from(None).unwrap();
    assert_eq!((spool.status().durable, spool.status().oldest), (None, Some(Micros(11_000_000))));
    spool.acked(Durable(early.unwrap()));
    assert_eq!(spool.status().oldest, Some(Micros(3_000_000)));
    spool.acked(Durable(late.unwrap()));
    assert_eq!(spool.status().oldest, None);
    assert!(spool.stop().unwrap().complete);
    // Of what an earlier run left the age is that of the first that is missing.
    clock.set(20);
    let (spool, _capture) = begin_with(dir.path(), u64::MAX, clock);
    spool.goes_on_from(early).unwrap();
    assert_eq!(spool.status().oldest, Some(Micros(11_000_000)));
}

/// Times of records never go back, so that they say nothing of ages while the clock is behind them.
#[test]
fn a_clock_that_is_set_changes_no_age() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(TestClock::default());
    clock.set(100);
    let (spool, capture) = begin_with(dir.path(), u64::MAX, clock.clone());
    let first = frames(&spool, &capture).last().unwrap().last_seq();
    clock.set(102);
    clock.wall.store(40_000_000, Ordering::Relaxed);
    capture.record(Body::Flush);
    let second = frames(&spool, &capture).last().unwrap().last_seq();
    clock.boottime.store(105_000_000, Ordering::Relaxed);
    assert_eq!(spool.status().oldest, Some(Micros(5_000_000)));
    spool.acked(Durable(first.unwrap()));
    assert_eq!(spool.status().oldest, Some(Micros(3_000_000)));
    clock.wall.store(900_000_000, Ordering::Relaxed);
    assert_eq!(spool.status().oldest, Some(Micros(3_000_000)));
    spool.acked(Durable(second.unwrap()));
    assert_eq!(spool.status().oldest.filter(|age| age.0 > 0), None);
    let seconds = |lag: LagReport| [lag.p50, lag.p99, lag.max].map(|lag| (lag.seconds() * 10.0).round() / 10.0);
    assert_eq!(seconds(spool.status().lag), [3.0, 5.0, 5.0]);
    // A new session.
    spool.goes_on_from(second).unwrap();
    assert_eq!(spool.status().lag, LagReport::default());
}
