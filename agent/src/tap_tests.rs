//! The tap against sources that fail, and against several clients at once.

#![expect(clippy::cast_possible_truncation, reason = "numbers made in the test, far below any limit")]

use std::io;
use std::ops::Range;
use std::sync::{Arc, Barrier};
use std::thread;

use journal::codec::{Body, GapReason};
use journal::types::Sectors;
use nbd::{ErrorCode, Export, Transfer};

use crate::capture::{Capture, CaptureState};
use crate::source::{Source, Storage};
use crate::spool::Spool;
use crate::tap::Tap;
use crate::testing::{FaultySource, Replay, Rng, VOLUME, begin, extent, file_of, frames, records};

struct Rig {
    source: Arc<FaultySource>,
    tap: Tap,
    spool: Spool,
    capture: Arc<Capture>,
    _dir: tempfile::TempDir,
}

fn rig(source: FaultySource) -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let (spool, capture) = begin(&dir.path().join("spool"), u64::MAX);
    let source = Arc::new(source);
    let tap = Tap::new(VOLUME, source.clone(), capture.clone());
    Rig { source, tap, spool, capture, _dir: dir }
}

impl Rig {
    fn bodies(&self) -> Vec<Body> {
        records(&frames(&self.spool, &self.capture)).into_iter().skip(1).map(|(_, record)| record.body).collect()
    }

    /// The journal on top of the first image is the source.
    fn assert_same(&self) {
        let image = self.source.image.lock().unwrap().clone();
        let replayed = Replay::of(&frames(&self.spool, &self.capture)).onto(VOLUME, vec![0xEE; image.len()]);
        assert!(replayed == image, "journal and source differ");
    }
}

/// A source whose writes take a moment to return once they are done, as an interrupt or the scheduler may have it.
#[derive(Debug)]
struct Tardy(Source);

impl Storage for Tardy {
    fn size(&self) -> Sectors {
        self.0.size()
    }

    fn block_bytes(&self) -> u32 {
        self.0.block_bytes()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, data)?;
        tarry(data[0]);
        Ok(())
    }

    /// The last one first: the order within a batch is the source's own.
    fn transfer(&self, batch: &mut [Transfer<'_>]) -> Vec<io::Result<()>> {
        batch.reverse();
        let mut outcomes = self.0.transfer(batch);
        batch.reverse();
        outcomes.reverse();
        batch.iter().for_each(|one| match one {
            Transfer::Write { data, .. } => tarry(data[0]),
            Transfer::Read { .. } => {}
        });
        outcomes
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<bool> {
        self.0.discard(offset, length)
    }

    fn zero(&self, offset: u64, length: u64, keep_space: bool) -> io::Result<()> {
        self.0.zero(offset, length, keep_space)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        self.0.next_data(offset)
    }
}

fn tarry(byte: u8) {
    (0..byte % 8).for_each(|_| thread::yield_now());
}

/// T3: writes in flight to one block have no order of their own, so that the journal may say B over A where the source has A
/// over B. Three clients go through the blocks together, a few thousand times; without the range lock, hundreds end wrong.
#[test]
fn overlapping_writes_end_the_same_in_the_journal_and_on_the_source() {
    const BLOCKS: u64 = 3000;
    const SIZE: usize = 3000 * 4096;
    let dir = tempfile::tempdir().unwrap();
    let path = file_of(dir.path(), "source", &vec![0; SIZE]);
    let source = Arc::new(Tardy(Source::open(&path).unwrap()));
    let (spool, capture) = begin(&dir.path().join("spool"), u64::MAX);
    let tap = Tap::new(VOLUME, source, capture.clone());
    let together = Barrier::new(3);
    thread::scope(|scope| {
        for me in 1..=3 {
            let (tap, together) = (&tap, &together);
            scope.spawn(move || {
                let mut rng = Rng(me);
                for block in 0..BLOCKS {
                    together.wait();
                    let fill = rng.below(256) as u8;
                    // All of the block, or either half of it.
                    let (at, length) = [(0, 4096), (0, 2048), (2048, 2048)][rng.below(3) as usize];
                    tap.write(block * 4096 + at, &vec![fill; length], false).unwrap();
                }
            });
        }
    });
    let replayed = Replay::of(&frames(&spool, &capture)).onto(VOLUME, vec![0; SIZE]);
    let image = std::fs::read(&path).unwrap();
    let wrong = replayed.chunks(4096).zip(image.chunks(4096)).filter(|(journal, source)| journal != source).count();
    assert_eq!(wrong, 0, "of {BLOCKS} blocks");
    assert_eq!(capture.last_seq().unwrap().number(), 3 * BLOCKS + 1);
}

/// The same for batches, on the kernel's own way of doing many at a time: within a batch blocks overlap too.
#[test]
fn overlapping_batches_end_the_same_in_the_journal_and_on_the_source() {
    const ROUNDS: u64 = 300;
    /// Each round has blocks of its own, so that no later one hides what went wrong.
    const ROUND_BYTES: u64 = 8 * 4096;
    const SIZE: usize = 301 * 8 * 4096;
    let dir = tempfile::tempdir().unwrap();
    let path = file_of(dir.path(), "source", &vec![0; SIZE]);
    let (spool, capture) = begin(&dir.path().join("spool"), u64::MAX);
    let tap = Tap::new(VOLUME, Arc::new(Tardy(Source::open(&path).unwrap())), capture.clone());
    let together = Barrier::new(3);
    thread::scope(|scope| {
        for me in 1..=3 {
            let (tap, together) = (&tap, &together);
            scope.spawn(move || {
                let mut rng = Rng(me);
                let mut room = journal::disk::AlignedBuf::new(8 * 4096).unwrap();
                for round in 0..ROUNDS {
                    together.wait();
                    let (reads, writes) = room.split_at_mut(4 * 4096);
                    writes.fill(rng.below(256) as u8);
                    let offset = |rng: &mut Rng| round * ROUND_BYTES + rng.below(8) * 4096;
                    let read = |buffer| Transfer::Read { offset: ROUNDS * ROUND_BYTES, buffer };
                    let write = |data| Transfer::Write { offset: offset(&mut rng), data };
                    let mut batch: Vec<_> = writes.chunks(4096).map(write).collect();
                    batch.extend(reads.chunks_mut(4096).map(read));
                    assert_eq!(tap.transfer(&mut batch), [Ok(()); 8]);
                }
            });
        }
    });
    let replayed = Replay::of(&frames(&spool, &capture)).onto(VOLUME, vec![0; SIZE]);
    assert!(replayed == std::fs::read(&path).unwrap());
    assert_eq!(capture.last_seq().unwrap().number(), 3 * ROUNDS * 4 + 1);
}

/// The parts of a batch that overlap are not given to the source together: it would do them in an order of its own.
#[test]
fn what_overlaps_within_a_batch_is_done_as_it_came() {
    let dir = tempfile::tempdir().unwrap();
    let path = file_of(dir.path(), "source", &[0; 8192]);
    let (spool, capture) = begin(&dir.path().join("spool"), u64::MAX);
    let tap = Tap::new(VOLUME, Arc::new(Tardy(Source::open(&path).unwrap())), capture.clone());
    let data = [[1; 4096], [2; 4096], [3; 4096], [4; 4096]];
    let write = |(offset, data)| Transfer::Write { offset, data };
    let mut batch: Vec<_> = [0, 2048, 4096, 0].into_iter().zip(data.iter().map(|data| &data[..])).map(write).collect();
    assert_eq!(tap.transfer(&mut batch), [Ok(()); 4]);
    let expect = [[4; 4096], [3; 4096]].concat();
    assert!(std::fs::read(&path).unwrap() == expect);
    assert!(Replay::of(&frames(&spool, &capture)).onto(VOLUME, vec![0; 8192]) == expect);
}

/// One that fails between others, one that overlaps it and one that makes no sense: each has its own outcome, and the journal
/// has what is there.
#[test]
fn a_failure_within_a_batch_is_its_own() {
    let rig = rig(FaultySource::new(64));
    *rig.source.fail_after.lock().unwrap() = Some(700);
    let mut found = [0; 1024];
    let mut batch = [
        Transfer::Read { offset: 0, buffer: &mut found },
        Transfer::Write { offset: 4096, data: &[1; 4096] },
        Transfer::Write { offset: 8192, data: &[2; 512] },
        Transfer::Write { offset: 4608, data: &[3; 512] },
        Transfer::Write { offset: 1, data: &[4; 512] },
        Transfer::Write { offset: 8192, data: &[5; 512] },
    ];
    let outcomes = rig.tap.transfer(&mut batch);
    assert_eq!(outcomes, [Ok(()), Err(ErrorCode::Io), Ok(()), Ok(()), Err(ErrorCode::Invalid), Ok(())]);
    assert_eq!(found, [0xEE; 1024]);
    assert_eq!(rig.source.image.lock().unwrap()[8192..8704], [5; 512]);
    assert_eq!(rig.capture.state(), CaptureState::Running);
    rig.assert_same();
}

#[test]
fn every_kind_of_change_is_recorded_as_it_is_on_the_source() {
    let rig = rig(FaultySource::new(1000));
    rig.tap.write(512, &[1; 1024], false).unwrap();
    rig.tap.trim(1024, 512, false).unwrap();
    rig.tap.write_zeroes(4096, 512 * 900, true, true).unwrap();
    rig.tap.flush().unwrap();
    assert!(matches!(rig.bodies()[..], [
        Body::Write { extent: a, .. },
        Body::Discard { extent: b, .. },
        Body::Pattern { extent: c, fill: [0, 0, 0, 0, 0, 0, 0, 0], .. },
        Body::Flush,
    ] if (a, b, c) == (extent(1, 2), extent(2, 1), extent(8, 900))));
    rig.assert_same();
}

#[test]
fn a_trim_that_the_source_cannot_do_changes_nothing() {
    let rig = rig(FaultySource { can_discard: false, ..FaultySource::new(8) });
    rig.tap.trim(0, 4096, false).unwrap();
    assert_eq!(rig.bodies(), []);
    rig.assert_same();
}

/// A write that failed may have changed any part of its range: what is there is recorded, and the client hears of it.
#[test]
fn a_failed_change_is_recorded_as_what_it_left() {
    for done in [0, 1, 511, 512, 100_000, 150_000] {
        let rig = rig(FaultySource::new(400));
        let fail = || *rig.source.fail_after.lock().unwrap() = Some(done);
        fail();
        assert_eq!(rig.tap.write(512, &vec![5; 150_016], false), Err(ErrorCode::Io));
        fail();
        assert_eq!(rig.tap.write_zeroes(0, 512 * 400, false, false), Err(ErrorCode::Io));
        fail();
        assert_eq!(rig.tap.trim(0, 512 * 10, false), Err(ErrorCode::Io));
        assert_eq!(rig.capture.state(), CaptureState::Running);
        rig.assert_same();
    }
}

/// What a failed flush has lost nobody can tell: a gap, no flush in the journal, and all of the volume is to be read again.
#[test]
fn after_a_failed_flush_the_whole_source_is_in_doubt() {
    let rig = rig(FaultySource::new(8));
    *rig.source.fail_after.lock().unwrap() = Some(0);
    assert_eq!(rig.tap.flush(), Err(ErrorCode::Io));
    assert!(matches!(&rig.bodies()[..], [Body::Gap(gap)] if gap.reason == GapReason::SourceError));
    let lost = rig.capture.resume().unwrap();
    assert_eq!(lost.dirty[&VOLUME].bytes(), 8 * 512);
}

/// What cannot be known ends capture with a gap; the host goes on.
#[test]
fn a_source_that_cannot_be_read_again_is_tracked_and_serves_on() {
    let rig = rig(FaultySource::new(8));
    *rig.source.fail_after.lock().unwrap() = Some(100);
    *rig.source.fail_reads.lock().unwrap() = true;
    assert_eq!(rig.tap.write(0, &[5; 512], false), Err(ErrorCode::Io));
    assert!(matches!(rig.capture.state(), CaptureState::Tracking { reason: GapReason::SourceError, .. }));
    rig.tap.write(0, &[6; 512], true).unwrap();
    rig.tap.flush().unwrap();
    rig.tap.trim(512, 512, false).unwrap();
    assert_eq!(rig.source.image.lock().unwrap()[..512], [6; 512]);
    assert!(matches!(&rig.bodies()[..], [Body::Gap(gap)] if gap.reason == GapReason::SourceError));
}

#[test]
fn allocation_tells_data_from_holes() {
    let dir = tempfile::tempdir().unwrap();
    let path = file_of(dir.path(), "source", &[]);
    std::fs::File::options().write(true).open(&path).unwrap().set_len(1 << 20).unwrap();
    let (_spool, capture) = begin(&dir.path().join("spool"), u64::MAX);
    let tap = Tap::new(VOLUME, Arc::new(Source::open(&path).unwrap()), capture);
    tap.write(65536, &[1; 8192], false).unwrap();
    let run = |length_bytes, empty| nbd::Extent { length_bytes, hole: empty, zero: empty };
    let all = tap.allocation(0, 1 << 20).unwrap();
    assert_eq!(all, [run(65536, true), run(8192, false), run((1 << 20) - 73728, true)]);
    assert_eq!(tap.allocation(65536 + 4096, 8192).unwrap(), [run(4096, false), run(4096, true)]);
}
