//! What tests share: clocks by script, a source in memory that fails when told, and a replay that is as simple as can be.

#![expect(clippy::cast_possible_truncation, reason = "numbers made in the test, far below any limit")]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use journal::codec::{Body, Codec, FrameKind, Record};
use journal::frame::Frame;
use journal::log::Head;
use journal::types::{BootId, EpochId, Extent, GroupId, Sectors, Seq, VolumeNo, WallTime};

use crate::capture::{Capture, Clock, SystemClock, Terms};
use crate::source::Storage;
use crate::spool::{Epoch, Found, Spool};

pub(crate) const GROUP: GroupId = GroupId([7; 16]);
pub(crate) const BOOT: BootId = BootId([8; 16]);
pub(crate) const VOLUME: VolumeNo = VolumeNo(0);

/// Numbers that repeat with their seed.
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 11) % end
    }
}

pub(crate) fn entropy() -> [u8; 16] {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let mut rng = Rng(0x9e37_79b9 * NEXT.fetch_add(1, Ordering::Relaxed));
    let mut bytes = [0; 16];
    bytes.chunks_mut(8).for_each(|half| half.copy_from_slice(&rng.next().to_le_bytes()));
    bytes
}

/// Clocks that say what they are told.
#[derive(Debug, Default)]
pub(crate) struct TestClock {
    pub(crate) wall: AtomicU64,
    pub(crate) boottime: AtomicU64,
}

impl TestClock {
    /// Both clocks say so.
    pub(crate) fn set(&self, seconds: u64) {
        for clock in [&self.wall, &self.boottime] {
            clock.store(seconds * 1_000_000, Ordering::Relaxed);
        }
    }
}

impl Clock for TestClock {
    fn wall(&self) -> WallTime {
        WallTime(self.wall.load(Ordering::Relaxed))
    }

    fn boottime(&self) -> WallTime {
        WallTime(self.boottime.load(Ordering::Relaxed))
    }
}

pub(crate) fn extent(sector: u64, sectors: u64) -> Extent {
    Extent::of_bytes(sector * 512, sectors * 512).unwrap()
}

/// A file of these bytes.
pub(crate) fn file_of(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.join(name);
    File::create_new(&path).unwrap().write_all_at(bytes, 0).unwrap();
    path
}

/// An epoch on the spool in `dir`, which continues what is there.
pub(crate) fn begin(dir: &Path, limit_bytes: u64) -> (Spool, Arc<Capture>) {
    begin_with(dir, limit_bytes, Arc::new(SystemClock))
}

pub(crate) fn begin_with(dir: &Path, limit_bytes: u64, clock: Arc<dyn Clock>) -> (Spool, Arc<Capture>) {
    let found = Found::open(dir, GROUP, limit_bytes, entropy).unwrap();
    let epoch = epoch(found.head);
    Spool::begin(found, &epoch, clock, Box::new(|| {})).unwrap()
}

pub(crate) fn epoch(parent: Option<Head>) -> Epoch {
    Epoch { group: GROUP, id: EpochId(entropy()), boot: BOOT, parent, continues: false, terms: Terms::default() }
}

/// Every frame up to the last record captured so far, checked as a receiver does.
pub(crate) fn frames(spool: &Spool, capture: &Capture) -> Vec<Frame> {
    let last = capture.last_seq();
    let mut frames: Vec<Frame> = Vec::new();
    while frames.last().and_then(Frame::last_seq) < last {
        let after = frames.last().and_then(Frame::last_seq);
        let frame = spool.wait_after(after, std::time::Duration::from_secs(60)).unwrap().expect("frames go on");
        let FrameKind::Live { first } = frame.header().kind else { panic!("not a live frame") };
        assert_eq!(first, Seq::following(after));
        if let Some(before) = frames.last() {
            assert_eq!(frame.header().prev, before.head());
        }
        frames.push(Frame::check(frame.bytes().clone()).unwrap());
    }
    frames
}

/// All records of these frames, with their places.
pub(crate) fn records(frames: &[Frame]) -> Vec<(Seq, Record)> {
    let of = |frame: &Frame| {
        let FrameKind::Live { first } = frame.header().kind else { panic!("not a live frame") };
        frame.records().enumerate().map(|(n, record)| (first.after(n as u64), record)).collect::<Vec<_>>()
    };
    frames.iter().flat_map(of).collect()
}

/// A journal replayed in memory: each change with its rank.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    changes: Vec<Change>,
}

#[derive(Debug)]
struct Change {
    /// `Seq` and 0, or `as_of` and the frame's number.
    rank: (u64, u64),
    volume: VolumeNo,
    extent: Extent,
    data: Vec<u8>,
}

impl Replay {
    pub(crate) fn of(frames: &[Frame]) -> Self {
        let mut replay = Self::default();
        frames.iter().for_each(|frame| replay.add(frame));
        replay
    }

    pub(crate) fn add(&mut self, frame: &Frame) {
        let as_of = match frame.header().kind {
            FrameKind::Base { as_of, .. } => as_of,
            FrameKind::Live { .. } | FrameKind::Compacted => None,
        };
        self.add_as_of(frame, as_of);
    }

    /// As [`add`](Self::add), a base frame with another tag than its own.
    pub(crate) fn add_as_of(&mut self, frame: &Frame, as_of: Option<Seq>) {
        let units = units(frame);
        for (n, record) in frame.records().enumerate() {
            let rank = match frame.header().kind {
                FrameKind::Live { first } => (first.number() + n as u64, 0),
                FrameKind::Base { .. } => (Seq::encode(as_of), frame.header().number.number()),
                FrameKind::Compacted => panic!("an agent never makes one"),
            };
            let (volume, extent, data) = match record.body {
                Body::Write { volume, extent, place } => {
                    let at = place.offset as usize;
                    let data = units[place.unit as usize][at..at + extent.bytes() as usize].to_vec();
                    (volume, extent, data)
                }
                Body::Pattern { volume, extent, fill } => {
                    assert_eq!(fill, [0; 8]);
                    (volume, extent, vec![0; extent.bytes() as usize])
                }
                Body::Discard { volume, extent } => (volume, extent, vec![0; extent.bytes() as usize]),
                _ => continue,
            };
            self.changes.push(Change { rank, volume, extent, data });
        }
    }

    /// What a volume holds, on top of `image`.
    pub(crate) fn onto(&mut self, volume: VolumeNo, mut image: Vec<u8>) -> Vec<u8> {
        self.changes.sort_by_key(|change| change.rank);
        for change in self.changes.iter().filter(|change| change.volume == volume) {
            let at = change.extent.byte() as usize;
            image[at..at + change.data.len()].copy_from_slice(&change.data);
        }
        image
    }
}

fn units(frame: &Frame) -> Vec<Vec<u8>> {
    let decode = |unit: journal::frame::Unit| {
        let entry = unit.entry;
        let stored = &frame.payload()[entry.offset as usize..][..entry.stored as usize];
        match entry.codec {
            Codec::Raw => stored.to_vec(),
            Codec::Lz4 => lz4_flex::block::decompress(stored, entry.decoded as usize).unwrap(),
        }
    };
    frame.units().map(decode).collect()
}

/// A source in memory that fails when told.
#[derive(Debug)]
pub(crate) struct FaultySource {
    pub(crate) image: Mutex<Vec<u8>>,
    /// The next change does only so many bytes of what is asked, then fails.
    pub(crate) fail_after: Mutex<Option<usize>>,
    pub(crate) fail_reads: Mutex<bool>,
    pub(crate) can_discard: bool,
}

impl FaultySource {
    pub(crate) fn new(sectors: usize) -> Self {
        Self {
            image: Mutex::new(vec![0xEE; sectors * 512]),
            fail_after: Mutex::new(None),
            fail_reads: Mutex::new(false),
            can_discard: true,
        }
    }

    fn change(&self, offset: u64, length: usize, byte: impl Fn(usize) -> u8) -> io::Result<()> {
        let fail = self.fail_after.lock().unwrap().take();
        let mut image = self.image.lock().unwrap();
        for n in 0..fail.unwrap_or(length).min(length) {
            image[offset as usize + n] = byte(n);
        }
        if fail.is_some() { Err(io::Error::from_raw_os_error(libc::EIO)) } else { Ok(()) }
    }
}

impl Storage for FaultySource {
    fn size(&self) -> Sectors {
        Sectors::of_bytes(self.image.lock().unwrap().len() as u64).unwrap()
    }

    fn block_bytes(&self) -> u32 {
        512
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        if *self.fail_reads.lock().unwrap() {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        buffer.copy_from_slice(&self.image.lock().unwrap()[offset as usize..][..buffer.len()]);
        Ok(())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(offset, data.len(), |n| data[n])
    }

    fn sync(&self) -> io::Result<()> {
        self.change(0, 0, |_| 0)
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<bool> {
        if self.can_discard {
            self.change(offset, length as usize, |_| 0)?;
        }
        Ok(self.can_discard)
    }

    fn zero(&self, offset: u64, length: u64, _keep_space: bool) -> io::Result<()> {
        self.change(offset, length as usize, |_| 0)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        Ok(Some(offset..self.size().bytes()))
    }
}
