//! Random histories with a model beside them, for the tests of this crate.

use std::collections::BTreeMap;
use std::sync::Arc;

use journal::codec::{Body, EpochBegin, FrameKind, Gap, GapReason, Mark, Sealed, VolumeAdd};
use journal::disk::SimDisk;
use journal::disk::sim::Rng;
use journal::frame::{Frame, FrameBuilder, FrameSeal};
use journal::store::{Store, Version};
use journal::types::{
    BootId, ChainHead, EpochId, Extent, FrameNo, GroupId, Micros, ResyncId, Sector, Sectors, Seq, SessionId, VolumeNo,
    VolumeUuid, WallTime,
};
use journal::wire::{AgentState, LagReport, Progress, Report};

pub(crate) const GROUP: GroupId = GroupId([7; 16]);
pub(crate) const EPOCH: EpochId = EpochId([9; 16]);
const BOOT: BootId = BootId([1; 16]);
/// Small, so that histories have several segments.
const SEGMENT_BYTES: u64 = 256 * 1024;

pub(crate) fn extent(start: u64, count: u64) -> Extent {
    Extent::new(Sector::new(start).unwrap(), Sectors::new(count).unwrap()).unwrap()
}

pub(crate) fn uuid(volume: u32) -> VolumeUuid {
    VolumeUuid([u8::try_from(volume + 1).unwrap(); 16])
}

/// The frames of an agent that runs for the first time.
#[derive(Debug)]
pub(crate) struct Frames {
    builder: FrameBuilder,
    pub(crate) next: u64,
    number: u64,
    prev: ChainHead,
    time: u64,
}

impl Frames {
    pub(crate) fn new() -> Self {
        Self { builder: FrameBuilder::new(), next: 1, number: 0, prev: ChainHead::START, time: 1_000_000 }
    }

    fn tick(&mut self) -> WallTime {
        self.time += 1000;
        WallTime(self.time)
    }

    /// The `Seq` of the next record.
    pub(crate) fn seq(&self) -> Seq {
        Seq::new(self.next + self.builder.records() as u64).unwrap()
    }

    pub(crate) fn push(&mut self, body: Body) {
        let now = self.tick();
        self.builder.push(now, body);
    }

    pub(crate) fn write(&mut self, volume: u32, at: Extent, data: &[u8]) {
        let now = self.tick();
        self.builder.write(now, VolumeNo(volume), at, data);
    }

    pub(crate) fn finish(&mut self) -> Frame {
        let kind = FrameKind::Live { first: Seq::new(self.next).unwrap() };
        self.next += self.builder.records() as u64;
        self.number += 1;
        let frame = seal(&mut self.builder, kind, self.number, self.prev, self.time);
        self.prev = frame.head();
        frame
    }

    /// The first frame: the epoch, volumes of these sizes in sectors, and an empty base.
    pub(crate) fn begin(&mut self, sizes: &[u64]) -> Frame {
        self.push(Body::EpochBegin(EpochBegin::FIRST));
        for (number, &size) in (0..).zip(sizes) {
            let (size, name) = (Sectors::new(size).unwrap(), format!("vol{number}"));
            let add = VolumeAdd { uuid: uuid(number), name };
            self.push(Body::VolumeAdd { volume: VolumeNo(number), size, add });
        }
        self.push(Body::Sealed(Sealed { resync: ResyncId([255; 16]), head: ChainHead::START, frames: 0 }));
        self.finish()
    }
}

/// A base frame with one write.
pub(crate) fn base_frame(resync: ResyncId, as_of: Option<Seq>, volume: u32, at: Extent, data: &[u8]) -> Frame {
    let mut builder = FrameBuilder::new();
    builder.write(WallTime(5), VolumeNo(volume), at, data);
    seal(&mut builder, FrameKind::Base { resync, as_of }, 1, ChainHead::START, 5)
}

/// Frames of a base of a megabyte each, one after the other.
pub(crate) fn base_frames(resync: ResyncId, count: u64) -> Vec<Frame> {
    let mut rng = Rng::new(count);
    let mut prev = ChainHead::START;
    let frame = |number| {
        let mut builder = FrameBuilder::new();
        for block in 0..16 {
            let data: Vec<u8> = (0..8192).flat_map(|_| rng.u64().to_le_bytes()).collect();
            builder.write(WallTime(5), VolumeNo(0), extent(128 * (16 * number + block), 128), &data);
        }
        let frame = seal(&mut builder, FrameKind::Base { resync, as_of: None }, number, prev, 5);
        prev = frame.head();
        frame
    };
    (1..=count).map(frame).collect()
}

fn seal(builder: &mut FrameBuilder, kind: FrameKind, number: u64, prev: ChainHead, time: u64) -> Frame {
    builder.finish(&FrameSeal {
        kind,
        group: GROUP,
        epoch: EPOCH,
        number: FrameNo::new(number).unwrap(),
        prev,
        durable: None,
        wall: WallTime(time),
        boottime: WallTime(time),
        boot: BOOT,
        compress: number.is_multiple_of(2),
    })
}

/// A journal, and what each volume held at each point.
#[derive(Debug)]
pub(crate) struct History {
    store: Store,
    frames: Frames,
    rng: Rng,
    now: Vec<Vec<u8>>,
    /// By point; within a gap there is nothing.
    pub(crate) points: BTreeMap<Seq, Vec<Vec<u8>>>,
    bases: u8,
}

impl History {
    pub(crate) fn new(seed: u64, sizes: &[u64]) -> Self {
        let disk = Arc::new(SimDisk::new(seed));
        let (store, findings) = Store::open(disk, GROUP, SEGMENT_BYTES, || [3; 16]).unwrap();
        assert_eq!(findings, []);
        let now = sizes.iter().map(|&size| vec![0; usize::try_from(size * 512).unwrap()]).collect();
        let rng = Rng::new(seed);
        let mut history = Self { store, frames: Frames::new(), rng, now, points: BTreeMap::new(), bases: 0 };
        let first = history.frames.begin(sizes);
        history.note(Seq::new(history.frames.next - 1).unwrap());
        history.append(first);
        history
    }

    /// What readers see.
    pub(crate) fn version(&self) -> Arc<Version> {
        self.store.library().now()
    }

    /// A random point.
    pub(crate) fn any_point(&mut self) -> Seq {
        let at = self.rng.below_len(self.points.len());
        *self.points.keys().nth(at).unwrap()
    }

    /// Appends `count` frames of anything.
    pub(crate) fn run(&mut self, count: usize) {
        for _ in 0..count {
            match self.rng.below(12) {
                0 => self.resync(),
                1 => self.resize(),
                _ => self.writes(),
            }
        }
    }

    fn writes(&mut self) {
        for _ in 0..=self.rng.below(6) {
            let volume = self.rng.below_len(self.now.len());
            let sectors = self.now[volume].len() as u64 / 512;
            let start = self.rng.below(sectors);
            let count = 1 + self.rng.below((sectors - start).min(100));
            let at = extent(start, count);
            let (from, to) = (usize::try_from(at.byte()).unwrap(), usize::try_from(at.byte() + at.bytes()).unwrap());
            let number = u32::try_from(volume).unwrap();
            let seq = self.frames.seq();
            match self.rng.below(5) {
                0 => {
                    self.frames.push(Body::Discard { volume: VolumeNo(number), extent: at });
                    self.now[volume][from..to].fill(0);
                }
                1 => {
                    self.frames.push(Body::Pattern { volume: VolumeNo(number), extent: at, fill: [0xab; 8] });
                    self.now[volume][from..to].fill(0xab);
                }
                2 => self.frames.push(Body::Mark(Mark { locked_until: None, name: format!("m{}", seq.number()) })),
                _ => {
                    let mut data = vec![0; to - from];
                    self.rng.fill(&mut data);
                    self.frames.write(number, at, &data);
                    self.now[volume][from..to].copy_from_slice(&data);
                }
            }
            self.note(seq);
        }
        let frame = self.frames.finish();
        self.append(frame);
    }

    /// A volume gets shorter, or longer again; what was written behind its end comes back with it.
    fn resize(&mut self) {
        let volume = self.rng.below_len(self.now.len());
        let old = self.now[volume].len() as u64 / 512;
        let size = if self.rng.chance(1, 2) { old - self.rng.below(old.min(64)) } else { old + self.rng.below(64) };
        let seq = self.frames.seq();
        let number = VolumeNo(u32::try_from(volume).unwrap());
        self.frames.push(Body::Resize { volume: number, size: Sectors::new(size).unwrap() });
        let frame = self.frames.finish();
        self.append(frame);
        let mut bytes = vec![0; usize::try_from(size * 512).unwrap()];
        self.version().view(seq).unwrap().read(number, 0, &mut bytes).unwrap();
        self.now[volume] = bytes;
        self.note(seq);
    }

    /// A gap, a base that brings something new, and its seal.
    fn resync(&mut self) {
        self.bases += 1;
        let resync = ResyncId([self.bases; 16]);
        self.frames.push(Body::Gap(Gap { reason: GapReason::UncleanStart, text: "test".into() }));
        let as_of = self.frames.seq().before();
        let (start, mut data) = (self.rng.below(self.now[0].len() as u64 / 512), vec![0; 512]);
        self.rng.fill(&mut data);
        let base = base_frame(resync, as_of, 0, extent(start, 1), &data);
        let sealed = Sealed { resync, head: base.head(), frames: 1 };
        self.store.append_base(resync, &[base], SessionId(1), WallTime(1)).unwrap();
        self.store.sync_base(resync).unwrap();
        let at = usize::try_from(start * 512).unwrap();
        self.now[0][at..at + 512].copy_from_slice(&data);
        let seq = self.frames.seq();
        self.frames.push(Body::Sealed(sealed));
        self.note(seq);
        let frame = self.frames.finish();
        self.append(frame);
    }

    fn note(&mut self, seq: Seq) {
        self.points.insert(seq, self.now.clone());
    }

    fn append(&mut self, frame: Frame) {
        self.store.append(&[frame], SessionId(1), WallTime(1)).unwrap();
        self.store.sync().unwrap();
    }
}

/// What an agent says of a group that has captured so much.
pub(crate) fn report(time: WallTime, state: AgentState, captured: u64, oldest: Option<Micros>) -> Report {
    Report {
        time,
        state,
        captured: Seq::new(captured),
        sent: None,
        oldest,
        lag: LagReport::default(),
        spool_bytes: 0,
        spool_limit_bytes: 0,
        progress: Progress::default(),
        limit_bytes_per_second: None,
        rpo_warn: None,
        rpo_error: None,
        why: String::new(),
        volumes: Vec::new(),
    }
}
