//! A base beside live writes; the tag that makes it right; what differs and nothing else.

#![expect(clippy::cast_possible_truncation, reason = "numbers made in the test, far below any limit")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use journal::codec::Body;
use journal::frame::Frame;
use journal::types::EpochId;
use nbd::Export;

use super::*;
use crate::Error;
use crate::capture::Capture;
use crate::source::{Source, Storage, bytes};
use crate::spool::Spool;
use crate::tap::Tap;
use crate::testing::{BOOT, GROUP, Replay, Rng, VOLUME, begin, file_of, frames};

/// A receiver that has these images.
#[derive(Default)]
struct View(BTreeMap<VolumeNo, Vec<u8>>);

impl View {
    /// Hashes of a range, in steps of so many bytes.
    fn hashes(&self, volume: VolumeNo, extent: Extent, step: u64) -> Vec<Option<Hash>> {
        let image = &self.0[&volume];
        let (at, end) = (extent.byte() as usize, (extent.byte() + extent.bytes()) as usize);
        let mut range = image.get(at..).unwrap_or_default().to_vec();
        range.resize(end - at, 0);
        let hash = |block: &[u8]| (!block.iter().all(|byte| *byte == 0)).then(|| Hash::of(block));
        range.chunks(step as usize).map(hash).collect()
    }
}

impl Hashes for View {
    fn blocks(&mut self, volume: VolumeNo, extent: Extent) -> Result<Answer<Vec<Option<Hash>>>> {
        assert!(extent.byte().is_multiple_of(BLOCK_BYTES) && extent.bytes() <= 16 << 20);
        let hashes = self.hashes(volume, extent, BLOCK_BYTES);
        Ok(Box::new(|| Ok(hashes)))
    }

    fn pages(&mut self, volume: VolumeNo, blocks: &[Extent]) -> Result<Answer<Option<Vec<Option<Hash>>>>> {
        assert!(blocks.iter().all(|block| block.byte().is_multiple_of(BLOCK_BYTES) && block.bytes() <= BLOCK_BYTES));
        assert!(blocks.is_sorted_by_key(|block| block.byte()) && (1..=16).contains(&blocks.len()));
        let hashes = blocks.iter().flat_map(|block| self.hashes(volume, *block, PAGE_BYTES)).collect();
        Ok(Box::new(|| Ok(Some(hashes))))
    }
}

struct Rig {
    source: Arc<Source>,
    tap: Tap,
    spool: Spool,
    capture: Arc<Capture>,
}

fn rig(dir: &Path, image: &[u8]) -> Rig {
    let source = Arc::new(Source::open(file_of(dir, "source", image)).unwrap());
    let (spool, capture) = begin(&dir.join("spool"), u64::MAX);
    let tap = Tap::new(VOLUME, source.clone(), capture.clone());
    Rig { source, tap, spool, capture }
}

impl Rig {
    fn base(&self, known: Known, hashes: impl Hashes + 'static) -> BaseReader {
        let spec = BaseSpec { group: GROUP, epoch: EpochId([1; 16]), boot: BOOT, resync: ResyncId([2; 16]) };
        let (path, size) = (self.source.handle_path(), self.source.size());
        let volume = BaseVolume { number: VOLUME, path, size, known, part: None };
        BaseReader::new(spec, vec![volume], self.capture.clone(), Box::new(hashes), false)
    }

    fn image(&self) -> Vec<u8> {
        fs::read(self.source.handle_path()).unwrap()
    }
}

/// All frames, checked as a receiver does, and that the seal names the last.
fn all(mut base: BaseReader) -> Vec<Frame> {
    let mut frames: Vec<Frame> = Vec::new();
    while let Some(frame) = base.next_frame().unwrap() {
        assert_eq!(frame.header().prev, frames.last().map_or(journal::types::ChainHead::START, Frame::head));
        frames.push(Frame::check(frame.bytes().clone()).unwrap());
    }
    let sealed = base.sealed();
    assert_eq!((sealed.frames, Some(sealed.head)), (frames.len() as u64, frames.last().map(Frame::head)));
    let progress = base.progress();
    assert_eq!(progress.done_bytes, progress.total_bytes);
    frames
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut rng = Rng(seed);
    (0..length.div_ceil(8)).flat_map(|_| rng.next().to_le_bytes()).take(length).collect()
}

/// The story (DESIGN, trackers): a volume with content is copied for the first time while clients write to it, trim it and zero
/// it. Journal and base together are the volume as it is in the end. The clients stop with the base: what they write later
/// would hide what is wrong.
#[test]
fn a_first_copy_beside_live_writes_is_the_source() {
    const SIZE: u64 = 2 << 20;
    let mut overtaken = 0;
    for seed in 1..=40 {
        let dir = tempfile::tempdir().unwrap();
        let rig = rig(dir.path(), &noise(seed, SIZE as usize));
        let done = AtomicBool::new(false);
        let base = thread::scope(|scope| {
            for me in 0..2 {
                let (tap, done) = (&rig.tap, &done);
                scope.spawn(move || {
                    let mut rng = Rng(seed * 100 + me + 1);
                    while !done.load(Ordering::Relaxed) {
                        let at = rng.below(SIZE / 4096 - 4) * 4096;
                        match rng.below(20) {
                            0 => tap.trim(at, 16384, false).unwrap(),
                            1 => tap.write_zeroes(at, 16384, false, false).unwrap(),
                            _ => tap.write(at, &noise(rng.next(), 4096), false).unwrap(),
                        }
                    }
                });
            }
            while rig.capture.last_seq() < journal::types::Seq::new(50) {
                thread::yield_now();
            }
            let base = panic::catch_unwind(AssertUnwindSafe(|| all(rig.base(Known::Nothing, View::default()))));
            // Also after a failure: the writers wait for it.
            done.store(true, Ordering::Relaxed);
            base.unwrap()
        });
        let mut replay = Replay::of(&frames(&rig.spool, &rig.capture));
        base.iter().for_each(|frame| replay.add(frame));
        assert!(replay.onto(VOLUME, vec![0; SIZE as usize]) == rig.image(), "seed {seed}");
        overtaken += u64::from(base.last().map(as_of) < Some(rig.capture.last_seq()));
    }
    assert!(overtaken > 35, "only {overtaken} of 40 copies had writes beside them");
}

fn as_of(frame: &Frame) -> Option<journal::types::Seq> {
    match frame.header().kind {
        journal::codec::FrameKind::Base { as_of, .. } => as_of,
        other => panic!("not a base frame: {other:?}"),
    }
}

/// Whether base and journal make the source, when each frame is overtaken by a write to what it holds. `late`: the planted
/// bug, a tag that is taken after the read instead of before.
fn is_right_with_tag(late: bool) -> bool {
    const SIZE: u64 = 4 << 20;
    let dir = tempfile::tempdir().unwrap();
    let rig = rig(dir.path(), &noise(1, SIZE as usize));
    let mut base = rig.base(Known::Nothing, View::default());
    let mut replay = Replay::default();
    while let Some(frame) = base.next_frame().unwrap() {
        let first = frame.records().next().unwrap();
        let Body::Write { extent, .. } = first.body else { panic!("{first:?}") };
        rig.tap.write(extent.byte(), &[7; 4096], false).unwrap();
        let tag = if late { rig.capture.last_seq() } else { as_of(&frame) };
        replay.add_as_of(&frame, tag);
    }
    frames(&rig.spool, &rig.capture).iter().for_each(|frame| replay.add(frame));
    replay.onto(VOLUME, vec![0; SIZE as usize]) == rig.image()
}

#[test]
fn a_write_that_overtakes_a_read_wins_and_a_late_tag_would_be_caught() {
    assert!(is_right_with_tag(false));
    assert!(!is_right_with_tag(true));
}

/// A frame of several reads is as old as its oldest.
#[test]
fn a_frame_has_the_tag_of_its_earliest_read() {
    let dir = tempfile::tempdir().unwrap();
    // One block of data in each MiB: many reads go into one frame.
    let mut image = vec![0; 64 << 20];
    image.chunks_mut(1 << 20).for_each(|chunk| chunk[..65536].fill(1));
    let rig = rig(dir.path(), &image);
    let before = rig.capture.last_seq();
    let mut base = rig.base(Known::Nothing, View::default());
    let first = base.next_frame().unwrap().unwrap();
    assert_eq!(as_of(&first), before);
    for _ in 0..100 {
        rig.tap.flush().unwrap();
    }
    // Reads of the next frame are in flight, as of before.
    assert_eq!(as_of(&base.next_frame().unwrap().unwrap()), before);
    let last = std::iter::from_fn(|| base.next_frame().unwrap()).last().unwrap();
    assert_eq!(as_of(&last), rig.capture.last_seq());
}

#[test]
fn holes_and_zeroes_are_not_sent_by_a_first_copy() {
    let dir = tempfile::tempdir().unwrap();
    let mut image = vec![0; 8 << 20];
    image[3 << 20..4 << 20].copy_from_slice(&noise(1, 1 << 20));
    let rig = rig(dir.path(), &image);
    File::options().write(true).open(rig.source.path()).unwrap().write_all_at(&[0; 1 << 20], 6 << 20).unwrap();
    let frames = all(rig.base(Known::Nothing, View::default()));
    assert_eq!(frames.iter().map(|frame| frame.payload().len()).sum::<usize>(), 1 << 20);
    assert!(Replay::of(&frames).onto(VOLUME, vec![0; 8 << 20]) == rig.image());
}

#[test]
fn a_compare_sends_what_differs_and_nothing_else() {
    // Sizes that end within a block, and within what a disk reads at once.
    for (seed, size) in [(1, 5 << 20), (2, (1 << 20) + 512), (3, 512), (4, 65536 * 3 + 4096 * 5 + 512)] {
        let dir = tempfile::tempdir().unwrap();
        let rig = rig(dir.path(), &noise(seed, size));
        let hole = size as u64 / 4 / 4096 * 4096;
        if hole > 0 {
            assert!(rig.source.discard(hole, hole).unwrap());
        }
        let now = rig.image();
        // The same: nothing.
        let view = |image: &[u8]| View(BTreeMap::from([(VOLUME, image.to_vec())]));
        assert!(all_or_none(rig.base(Known::Compare, view(&now))).is_empty());
        // One byte here and there, also where the source has a hole, and the very last one.
        let mut theirs = now.clone();
        let touched: Vec<usize> = (0..4).map(|n| (n * size / 4 + 17).min(size - 1)).chain([size - 1]).collect();
        touched.iter().for_each(|at| theirs[*at] ^= 1);
        let frames = all_or_none(rig.base(Known::Compare, view(&theirs)));
        let pages: std::collections::BTreeSet<_> = touched.iter().map(|at| at / 4096).collect();
        let differing = pages.iter().map(|page| &now[page * 4096..size.min(page * 4096 + 4096)]);
        let data = differing.filter(|page| page.iter().any(|byte| *byte != 0)).map(<[u8]>::len).sum::<usize>();
        let records = frames.iter().flat_map(|frame| frame.records().collect::<Vec<_>>()).count();
        let payload = frames.iter().map(|frame| frame.payload().len()).sum::<usize>();
        assert!(payload == data && records <= pages.len(), "{size} bytes: {payload} of {data} in {records} records");
        assert!(Replay::of(&frames).onto(VOLUME, theirs) == now, "{size} bytes");
        // A view that is smaller than the source is now.
        let mut smaller = now.clone();
        smaller.truncate(size / 2);
        let frames = all_or_none(rig.base(Known::Compare, view(&smaller)));
        smaller.resize(size, 0);
        assert!(Replay::of(&frames).onto(VOLUME, smaller) == now, "{size} bytes");
    }
}

/// Pages here and there, alone and together, something, nothing and back again, holes, other sizes: what is sent is what differs, to the page.
#[test]
fn a_compare_sends_the_pages_that_differ_whatever_they_are() {
    for seed in 1..=12 {
        let mut rng = Rng(seed);
        // More than is asked for at once, and ends of all kinds.
        let size: usize = (17 << 20) + [0, 512, 65536, 4096, 4608][seed as usize % 5];
        let pages = size.div_ceil(4096);
        let page = |n: usize| n * 4096..size.min(n * 4096 + 4096);
        let mut theirs = noise(seed, size);
        let mut ours = theirs.clone();
        for _ in 0..rng.below(200) {
            let from = rng.below(pages as u64) as usize;
            let kind = rng.below(4);
            for n in from..pages.min(from + 1 + rng.below(40) as usize) {
                match kind {
                    0 => ours[page(n)].fill(0),
                    1 => theirs[page(n)].fill(0),
                    2 => ours[page(n).start + rng.below(512) as usize] ^= 1,
                    _ => [&mut ours, &mut theirs].into_iter().for_each(|image| image[page(n)].fill(0)),
                }
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let rig = rig(dir.path(), &ours);
        for n in (0..pages - 1).filter(|&n| ours[page(n)].iter().all(|byte| *byte == 0) && rng.below(4) > 0) {
            assert!(rig.source.discard(n as u64 * 4096, 4096).unwrap());
        }
        let view = View([(VOLUME, theirs.clone())].into());
        let mut base = rig.base(Known::Compare, view);
        let frames: Vec<_> = std::iter::from_fn(|| base.next_frame().unwrap()).collect();
        let differs = |n: &usize| ours[page(*n)] != theirs[page(*n)];
        let is_data = |n: &usize| ours[page(*n)].iter().any(|byte| *byte != 0);
        let expected = (0..pages).filter(differs).filter(is_data).map(|n| page(n).len()).sum::<usize>();
        let progress = base.progress();
        assert_eq!((progress.sent_bytes, progress.done_bytes), (expected as u64, size as u64), "seed {seed}");
        assert!(Replay::of(&frames).onto(VOLUME, theirs) == ours, "seed {seed}");
    }
}

/// Many blocks that differ wait for a receiver that takes its time: no more than may, and what comes after in the volume comes after.
#[test]
fn what_waits_for_hashes_is_bounded_and_stays_in_order() {
    struct Slow(View, Arc<std::sync::atomic::AtomicUsize>, bool);
    impl Hashes for Slow {
        fn blocks(&mut self, volume: VolumeNo, extent: Extent) -> Result<Answer<Vec<Option<Hash>>>> {
            self.0.blocks(volume, extent)
        }

        fn pages(&mut self, volume: VolumeNo, blocks: &[Extent]) -> Result<Answer<Option<Vec<Option<Hash>>>>> {
            let answer = self.0.pages(volume, blocks)?;
            let (waiting, knows) = (self.1.clone(), self.2);
            let most = waiting.fetch_add(1, Ordering::Relaxed);
            assert!(most <= 16, "{most} MiB wait");
            Ok(Box::new(move || {
                waiting.fetch_sub(1, Ordering::Relaxed);
                if knows { answer() } else { Ok(None) }
            }))
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let theirs = noise(1, 40 << 20);
    let mut ours = theirs.clone();
    // One page of each block, and one block in ten is nothing now.
    ours.chunks_mut(65536).for_each(|block| block[5000] ^= 1);
    ours.chunks_mut(655_360).for_each(|block| block[..65536].fill(0));
    let rig = rig(dir.path(), &ours);
    for (knows, sent) in [(true, 4096), (false, 65536)] {
        let view = View([(VOLUME, theirs.clone())].into());
        let frames = all(rig.base(Known::Compare, Slow(view, Arc::default(), knows)));
        let place = |body: &Body| match body {
            Body::Write { extent, .. } | Body::Pattern { extent, .. } => extent.byte(),
            other => panic!("{other:?}"),
        };
        let bodies =
            frames.iter().flat_map(|frame| frame.records().map(|record| place(&record.body)).collect::<Vec<_>>());
        let places: Vec<_> = bodies.collect();
        assert!(places.is_sorted() && places.len() == 640);
        assert_eq!(frames.iter().map(|frame| frame.payload().len()).sum::<usize>(), 576 * sent);
        assert!(Replay::of(&frames).onto(VOLUME, theirs.clone()) == ours);
    }
}

/// What was read is compared when the answer comes, and sent as what it was when it was read: who wrote in between wins.
#[test]
fn a_write_that_overtakes_the_question_wins() {
    struct Overtaken(View, Arc<Tap>);
    impl Hashes for Overtaken {
        fn blocks(&mut self, volume: VolumeNo, extent: Extent) -> Result<Answer<Vec<Option<Hash>>>> {
            self.0.blocks(volume, extent)
        }

        fn pages(&mut self, volume: VolumeNo, blocks: &[Extent]) -> Result<Answer<Option<Vec<Option<Hash>>>>> {
            let (answer, tap) = (self.0.pages(volume, blocks)?, self.1.clone());
            let places: Vec<_> = blocks.iter().map(|block| block.byte()).collect();
            Ok(Box::new(move || {
                places.iter().for_each(|at| tap.write(at + 4096, &[7; 4096], false).unwrap());
                answer()
            }))
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let theirs = noise(1, 4 << 20);
    let mut ours = theirs.clone();
    ours.chunks_mut(65536).for_each(|block| block[5000] ^= 1);
    let Rig { source, tap, spool, capture } = rig(dir.path(), &ours);
    let rig = Rig { tap: Tap::new(VOLUME, source.clone(), capture.clone()), source, spool, capture };
    let view = View([(VOLUME, theirs.clone())].into());
    let base = all(rig.base(Known::Compare, Overtaken(view, Arc::new(tap))));
    let mut replay = Replay::of(&frames(&rig.spool, &rig.capture));
    base.iter().for_each(|frame| replay.add(frame));
    assert!(replay.onto(VOLUME, theirs) == rig.image() && rig.image()[4096..8192] == [7; 4096]);
}

/// As [`all`], of a base that may be empty.
fn all_or_none(mut base: BaseReader) -> Vec<Frame> {
    std::iter::from_fn(|| base.next_frame().unwrap()).collect()
}

#[test]
fn of_a_volume_that_is_known_but_for_some_only_that_is_read_and_asked_for() {
    const MIB: usize = 1 << 20;
    let dir = tempfile::tempdir().unwrap();
    let mut theirs = noise(1, 16 * MIB);
    let mut ours = theirs.clone();
    // Differences inside and outside of what is to be looked at, and one that is nothing now.
    for at in [MIB, 5 * MIB, 9 * MIB, 15 * MIB] {
        ours[at..at + 4096].fill(0xAB);
    }
    ours[6 * MIB..6 * MIB + 65536].fill(0);
    let rig = rig(dir.path(), &ours);
    let only = [4 * MIB..8 * MIB, 12 * MIB..16 * MIB].map(|range| range.start as u64..range.end as u64);

    struct Asked(View, Vec<Range<u64>>);
    impl Hashes for Asked {
        fn blocks(&mut self, volume: VolumeNo, extent: Extent) -> Result<Answer<Vec<Option<Hash>>>> {
            let asked = extent.byte()..extent.byte() + extent.bytes();
            assert!(self.1.iter().any(|only| only.start <= asked.start && asked.end <= only.end), "{asked:?}");
            self.0.blocks(volume, extent)
        }

        fn pages(&mut self, volume: VolumeNo, blocks: &[Extent]) -> Result<Answer<Option<Vec<Option<Hash>>>>> {
            self.0.pages(volume, blocks)
        }
    }
    let spec = BaseSpec { group: GROUP, epoch: EpochId([1; 16]), boot: BOOT, resync: ResyncId([2; 16]) };
    let (path, size) = (rig.source.handle_path(), rig.source.size());
    let volume = BaseVolume { number: VOLUME, path, size, known: Known::AllBut(only.clone().into()), part: None };
    let hashes = Box::new(Asked(View([(VOLUME, theirs.clone())].into()), only.to_vec()));
    let mut base = BaseReader::new(spec, vec![volume], rig.capture.clone(), hashes, false);
    let mut frames = Vec::new();
    while let Some(frame) = base.next_frame().unwrap() {
        frames.push(frame);
    }
    let progress = base.progress();
    assert_eq!((progress.total_bytes, progress.done_bytes, progress.sent_bytes), (8 << 20, 8 << 20, 2 * 4096));
    let after = Replay::of(&frames).onto(VOLUME, theirs.clone());
    for range in [4 * MIB..8 * MIB, 12 * MIB..16 * MIB] {
        theirs[range.clone()].copy_from_slice(&ours[range]);
    }
    assert!(after == theirs, "what was not to be looked at is as it was");
}

#[test]
fn several_volumes_are_one_base_and_an_empty_one_can_be_sealed() {
    let dir = tempfile::tempdir().unwrap();
    let rig = rig(dir.path(), &noise(1, 1 << 20));
    let other = Source::open(file_of(dir.path(), "other", &noise(2, 3 << 20))).unwrap();
    let volume = |number, source: &Source| {
        let (path, size) = (source.handle_path(), source.size());
        BaseVolume { number: VolumeNo(number), path, size, known: Known::Nothing, part: None }
    };
    let spec = BaseSpec { group: GROUP, epoch: EpochId([1; 16]), boot: BOOT, resync: ResyncId([2; 16]) };
    let reader = |volumes| BaseReader::new(spec, volumes, rig.capture.clone(), Box::new(View::default()), true);
    let mut replay = Replay::of(&all(reader(vec![volume(5, &other), volume(0, &rig.source)])));
    assert!(replay.onto(VolumeNo(0), vec![0; 1 << 20]) == noise(1, 1 << 20));
    assert!(replay.onto(VolumeNo(5), vec![0; 3 << 20]) == noise(2, 3 << 20));

    let mut none = reader(Vec::new());
    assert!(none.next_frame().unwrap().is_none());
    assert_eq!((none.sealed().frames, none.sealed().head), (0, journal::types::ChainHead::START));
}

#[test]
fn a_source_that_shrinks_and_a_receiver_that_answers_nonsense_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let rig = rig(dir.path(), &noise(1, 8 << 20));
    let base = rig.base(Known::Nothing, View::default());
    File::options().write(true).open(rig.source.path()).unwrap().set_len(4 << 20).unwrap();
    let mut base = base;
    let error = loop {
        match base.next_frame() {
            Ok(frame) => assert!(frame.is_some(), "the end of it was not missed"),
            Err(error) => break error,
        }
    };
    assert!(error.to_string().contains("became smaller"), "{error}");

    struct Nonsense;
    impl Hashes for Nonsense {
        fn blocks(&mut self, _: VolumeNo, extent: Extent) -> Result<Answer<Vec<Option<Hash>>>> {
            match extent.byte() {
                0 => Ok(Box::new(|| Ok(vec![None]))),
                _ => Err(Error::unavailable("gone")),
            }
        }

        fn pages(&mut self, _: VolumeNo, _: &[Extent]) -> Result<Answer<Option<Vec<Option<Hash>>>>> {
            Err(Error::unavailable("gone"))
        }
    }
    let spec = BaseSpec { group: GROUP, epoch: EpochId([1; 16]), boot: BOOT, resync: ResyncId([2; 16]) };
    let (path, size) = (rig.source.handle_path(), Sectors::of_bytes(bytes(4 << 20)).unwrap());
    let volume = BaseVolume { number: VOLUME, path, size, known: Known::Compare, part: None };
    let mut base = BaseReader::new(spec, vec![volume], rig.capture.clone(), Box::new(Nonsense), false);
    assert!(base.next_frame().unwrap_err().to_string().contains("1 hashes came"));
}

/// The story: what is written while nothing is recorded, all kinds and at random, is read again beside live writes. Journal and both
/// rounds of the base are the source, whatever was recorded, dirty, zeroed and put back in between.
#[test]
fn what_was_only_tracked_is_read_again_and_is_the_source() {
    const SIZE: u64 = 8 << 20;
    for seed in 1..=20 {
        let dir = tempfile::tempdir().unwrap();
        let first = noise(seed, SIZE as usize);
        let rig = rig(dir.path(), &first);
        let mut rng = Rng(seed);
        let mut write = |count| {
            for _ in 0..count {
                let at = rng.below(SIZE / 512 - 8192) * 512;
                match rng.below(12) {
                    0 => rig.tap.trim(at / 4096 * 4096, 2 << 20, false).unwrap(),
                    1 => rig.tap.write_zeroes(at, 16384, false, false).unwrap(),
                    // As it was at first: what differs from the journal need not differ from before.
                    2 => rig.tap.write(at, &first[at as usize..at as usize + 65536], false).unwrap(),
                    _ => rig.tap.write(at, &noise(rng.next(), 512 * (1 + rng.below(20) as usize)), false).unwrap(),
                }
            }
        };
        let part = |lost: crate::capture::Lost, known| {
            let dirty = lost.dirty.into_iter().map(|(number, dirty)| {
                let (path, size) = (rig.source.handle_path(), rig.source.size());
                BaseVolume { number, path, size, known: Known::clone(&known), part: Some(Arc::new(dirty)) }
            });
            dirty.collect::<Vec<_>>()
        };
        write(30);
        rig.capture.track(journal::codec::GapReason::SpoolFull, "full");
        write(30);
        let theirs = Replay::of(&frames(&rig.spool, &rig.capture)).onto(VOLUME, first.clone());
        let volumes = part(rig.capture.resume().unwrap(), Known::Compare);
        let spec = BaseSpec { group: GROUP, epoch: EpochId([1; 16]), boot: BOOT, resync: ResyncId([2; 16]) };
        let hashes = Box::new(View([(VOLUME, theirs)].into()));
        let mut base = BaseReader::new(spec, volumes, rig.capture.clone(), hashes, true);
        let mut read = Vec::new();
        for _ in 0..2 {
            write(10);
            read.extend(std::iter::from_fn(|| base.next_frame().unwrap()));
            // Full again before it is sealed: the same base reads what changed since.
            rig.capture.track(journal::codec::GapReason::SpoolFull, "full");
            write(20);
            base.add(part(rig.capture.resume().unwrap(), Known::Unknown));
            write(10);
        }
        read.extend(std::iter::from_fn(|| base.next_frame().unwrap()));
        let mut replay = Replay::of(&frames(&rig.spool, &rig.capture));
        read.iter().for_each(|frame| replay.add(frame));
        assert!(replay.onto(VOLUME, first) == rig.image(), "seed {seed}");
    }
}
