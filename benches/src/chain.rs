//! An agent in one struct: gives out the order and closes frames, so that a store can be fed without a process.

use journal::codec::{Body, EpochBegin, FrameKind, Sealed, VolumeAdd};
use journal::frame::{Frame, FrameBuilder, FrameSeal};
use journal::types::{
    BootId, ChainHead, EpochId, Extent, FrameNo, GroupId, ResyncId, Sectors, Seq, VolumeNo, VolumeUuid, WallTime,
};

/// The group of every benchmark.
pub const GROUP: GroupId = GroupId([7; 16]);
/// Its only volume.
pub const VOLUME: VolumeNo = VolumeNo(0);
/// When the first record was made.
const START: WallTime = WallTime(1_700_000_000_000_000);

/// A chain of live frames.
#[derive(Debug)]
pub struct Chain {
    builder: FrameBuilder,
    compress: bool,
    next: Seq,
    last: Option<FrameNo>,
    head: ChainHead,
    time: WallTime,
}

impl Chain {
    /// Begins with a volume of `volume_bytes`, a multiple of 512.
    ///
    /// # Panics
    /// If no volume can have that size.
    pub fn new(volume_bytes: u64, compress: bool) -> Self {
        let mut builder = FrameBuilder::new();
        let begin = EpochBegin::FIRST;
        builder.push(START, Body::EpochBegin(begin));
        let size = Sectors::of_bytes(volume_bytes).expect("a size that volumes have");
        let add = VolumeAdd { uuid: VolumeUuid([9; 16]), name: "bench".to_owned() };
        builder.push(START, Body::VolumeAdd { volume: VOLUME, size, add });
        Self { builder, compress, next: Seq::FIRST, last: None, head: ChainHead::START, time: START }
    }

    /// An empty base: from here on every record is a point.
    pub fn cover(&mut self) {
        let sealed = Sealed { resync: ResyncId([3; 16]), head: ChainHead::START, frames: 0 };
        self.builder.push(self.time, Body::Sealed(sealed));
    }

    /// When the last record was made.
    pub fn time(&self) -> WallTime {
        self.time
    }

    /// A write, a microsecond after the last.
    ///
    /// # Panics
    /// If it is not a run of sectors of at most 64 KiB.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        let extent = Extent::of_bytes(offset, data.len() as u64).expect("a run of sectors");
        self.time = WallTime(self.time.0 + 1);
        self.builder.write(self.time, VOLUME, extent, data);
    }

    /// A base that was empty is whole: from here on every record is a point.
    pub fn sealed(&mut self) {
        let sealed = Sealed { resync: ResyncId([255; 16]), head: ChainHead::START, frames: 0 };
        self.builder.push(self.time, Body::Sealed(sealed));
    }

    /// A run of the same eight bytes, a microsecond after the last record: an entry of the index without data.
    ///
    /// # Panics
    /// If it is not a run of sectors.
    pub fn fill(&mut self, offset: u64, bytes: u64, fill: [u8; 8]) {
        let extent = Extent::of_bytes(offset, bytes).expect("a run of sectors");
        self.time = WallTime(self.time.0 + 1);
        self.builder.push(self.time, Body::Pattern { volume: VOLUME, extent, fill });
    }

    /// Place of the record that was made last.
    ///
    /// # Panics
    /// Never: a chain begins with two.
    pub fn last(&self) -> Seq {
        self.next.after(self.builder.records() as u64).before().expect("a chain begins with a record")
    }

    /// Whether the frame has to be closed before anything else is written.
    pub fn is_full(&self) -> bool {
        self.builder.is_full()
    }

    /// Whether there is nothing in the frame yet.
    pub fn is_empty(&self) -> bool {
        self.builder.is_empty()
    }

    /// Closes the frame.
    pub fn close(&mut self) -> Frame {
        let number = FrameNo::following(self.last);
        let frame = self.builder.finish(&FrameSeal {
            kind: FrameKind::Live { first: self.next },
            group: GROUP,
            epoch: EpochId([1; 16]),
            number,
            prev: self.head,
            durable: None,
            wall: self.time,
            boottime: self.time,
            boot: BootId([1; 16]),
            compress: self.compress,
        });
        self.next = self.next.after(u64::from(frame.header().records));
        (self.last, self.head) = (Some(number), frame.head());
        frame
    }

    /// Frames that hold `data` as writes of `block` bytes one after the other, closed when full.
    pub fn frames(&mut self, data: &[u8], block: usize) -> Vec<Frame> {
        let mut frames = Vec::new();
        let mut at = 0;
        for chunk in data.chunks(block) {
            self.write(at, chunk);
            at += chunk.len() as u64;
            if self.is_full() {
                frames.push(self.close());
            }
        }
        if !self.builder.is_empty() {
            frames.push(self.close());
        }
        frames
    }
}

/// Time of the first record.
pub fn start_time() -> WallTime {
    START
}
