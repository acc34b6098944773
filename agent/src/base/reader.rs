//! Reads volumes one after the other, many reads in flight, and makes frames of what is to be sent.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use journal::codec::{Body, FrameKind, Sealed};
use journal::disk::{DirectReader, Shape};
use journal::frame::{Frame, FrameBuilder, FrameSeal};
use journal::types::{ChainHead, Extent, FrameNo, Hash, Seq, WallTime};

use super::cursor::{Cursor, Piece};
use super::theirs::Theirs;
use super::{BLOCK_BYTES, BaseSpec, BaseVolume, HASHES_MAX, Hashes, Known, Progress};
use crate::capture::Capture;
use crate::source::bytes;
use crate::spool::Adaptive;
use crate::{Error, Result};

/// Reads of 1 MiB, 8 at a time: what keeps a disk busy.
const SHAPE: Shape = Shape { buffers: 8, buffer_len: 1 << 20, depth: 8 };
/// The longest read, in bytes.
const READ_BYTES: u64 = 1 << 20;
/// Frames that may wait: holes need no read, and yet may have to be sent.
const READY_FRAMES: usize = 4;
/// [`BLOCK_BYTES`] as a step.
const BLOCK: usize = 64 * 1024;

/// The frames of one base, one after the other.
pub struct BaseReader {
    spec: BaseSpec,
    capture: Arc<Capture>,
    hashes: Box<dyn Hashes>,
    volumes: VecDeque<BaseVolume>,
    scan: Option<Scan>,
    frames: Frames,
    ready: VecDeque<Frame>,
    progress: Progress,
}

/// A volume that is being read.
struct Scan {
    volume: BaseVolume,
    reader: DirectReader,
    cursor: Cursor,
    theirs: Theirs,
    /// Reads in flight, by offset: their lengths in bytes, and what the receiver has there. Empty: nothing.
    expected: BTreeMap<u64, (usize, Vec<Option<Hash>>)>,
}

/// The frame that is being filled, and the chain behind it.
struct Frames {
    builder: FrameBuilder,
    /// The earliest tag of all that is in it.
    as_of: Option<Seq>,
    number: Option<FrameNo>,
    prev: ChainHead,
    time: WallTime,
    adaptive: Adaptive,
    link_is_fast: bool,
}

impl BaseReader {
    /// Reads `volumes` in this order. `hashes` are asked of those whose state is known.
    pub fn new(
        spec: BaseSpec,
        volumes: Vec<BaseVolume>,
        capture: Arc<Capture>,
        hashes: Box<dyn Hashes>,
        link_is_fast: bool,
    ) -> Self {
        let total_bytes = volumes.iter().map(|volume| volume.size.bytes()).sum();
        let frames = Frames {
            builder: FrameBuilder::new(),
            as_of: None,
            number: None,
            prev: ChainHead::START,
            time: WallTime(0),
            adaptive: Adaptive::default(),
            link_is_fast,
        };
        let progress = Progress { total_bytes, ..Progress::default() };
        let (volumes, ready) = (volumes.into(), VecDeque::new());
        Self { spec, capture, hashes, volumes, scan: None, frames, ready, progress }
    }

    /// The next frame; `None` when all was read. Blocks on the source and on the hashes. After an error there are no more.
    pub fn next_frame(&mut self) -> Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                return Ok(Some(frame));
            }
            if self.scan.is_none() {
                let Some(volume) = self.volumes.pop_front() else {
                    self.finish_frame();
                    return Ok(self.ready.pop_front());
                };
                self.scan = Some(Scan::open(volume)?);
            }
            self.submit()?;
            self.collect()?;
        }
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// What the order has to say once a receiver has all frames durably.
    pub fn sealed(&self) -> Sealed {
        let frames = FrameNo::encode(self.frames.number);
        Sealed { resync: self.spec.resync, head: self.frames.prev, frames }
    }

    /// Starts reads until no more may be in flight; deals with holes on the way.
    fn submit(&mut self) -> Result<()> {
        while let Some(scan) = &mut self.scan
            && scan.reader.in_flight() < SHAPE.depth
            && self.ready.len() < READY_FRAMES
        {
            // The tag comes first: what is recorded from here on may or may not be in what is found.
            let as_of = self.capture.last_seq();
            let hole_max = HASHES_MAX * BLOCK_BYTES;
            let Some(piece) = scan.cursor.peek(&scan.reader, READ_BYTES, hole_max)? else { return Ok(()) };
            let (Piece::Data(range) | Piece::Hole(range)) = &piece;
            let expected = match scan.volume.known {
                Known::Nothing => Vec::new(),
                Known::Compare => {
                    let (volume, size) = (scan.volume.number, scan.volume.size.bytes());
                    scan.theirs.of(&mut *self.hashes, volume, size, range)?
                }
            };
            scan.cursor.pass(range);
            if matches!(piece, Piece::Hole(_)) {
                let range = range.clone();
                self.hole(range, &expected, as_of);
                continue;
            }
            let length = usize::try_from(range.end - range.start).unwrap_or(SHAPE.buffer_len);
            scan.expected.insert(range.start, (length, expected));
            let started = scan.reader.submit(range.start, length, Seq::encode(as_of));
            assert!(started, "fewer reads than buffers are in flight");
        }
        Ok(())
    }

    /// Waits for a read and deals with what it brought; ends the volume when none is left.
    fn collect(&mut self) -> Result<()> {
        let Some(scan) = &mut self.scan else { return Ok(()) };
        let Some(completion) = scan.reader.wait()? else {
            if scan.cursor.is_at_end() {
                self.scan = None;
            }
            return Ok(());
        };
        let offset = completion.offset;
        let (length, expected) = scan.expected.remove(&offset).unwrap_or_default();
        let block = completion.data.map_err(|error| error.context("cannot read the source"))?;
        let as_of = Seq::new(completion.tag);
        if block.len() < length {
            return Err(Error::invalid("the source became smaller").with_offset(offset + bytes(block.len())));
        }
        for (index, piece) in block.chunks(BLOCK).enumerate() {
            let theirs = expected.get(index);
            self.block(offset + bytes(index) * BLOCK_BYTES, piece, theirs, as_of);
        }
        Ok(())
    }

    /// One block that was read; `theirs`: what the receiver has there, if that is known.
    fn block(&mut self, offset: u64, data: &[u8], theirs: Option<&Option<Hash>>, as_of: Option<Seq>) {
        let length = bytes(data.len());
        if is_zero(data) {
            return self.zeroes(offset..offset + length, theirs, as_of);
        }
        self.progress.done_bytes += length;
        if theirs.is_some_and(|theirs| *theirs == Some(Hash::of(data))) {
            return;
        }
        let (volume, extent) = self.place(offset, length);
        let time = self.frames.at(as_of, self.capture.clock().wall());
        self.frames.builder.write(time, volume, extent, data);
        self.progress.sent_bytes += length;
        self.roll();
    }

    fn hole(&mut self, range: Range<u64>, expected: &[Option<Hash>], as_of: Option<Seq>) {
        if expected.is_empty() {
            self.progress.done_bytes += range.end - range.start;
            return;
        }
        for (start, theirs) in range.clone().step_by(BLOCK).zip(expected) {
            self.zeroes(start..range.end.min(start + BLOCK_BYTES), Some(theirs), as_of);
        }
    }

    /// A block of nothing: it is sent only where the receiver has something.
    fn zeroes(&mut self, range: Range<u64>, theirs: Option<&Option<Hash>>, as_of: Option<Seq>) {
        self.progress.done_bytes += range.end - range.start;
        if theirs.is_none_or(Option::is_none) {
            return;
        }
        let (volume, extent) = self.place(range.start, range.end - range.start);
        let time = self.frames.at(as_of, self.capture.clock().wall());
        self.frames.builder.push(time, Body::Pattern { volume, extent, fill: [0; 8] });
        self.roll();
    }

    /// # Panics
    /// Never: volumes are whole sectors, blocks start at sectors and are not empty.
    fn place(&self, offset: u64, length: u64) -> (journal::types::VolumeNo, Extent) {
        let scan = self.scan.as_ref().expect("a block is of the volume that is being read");
        (scan.volume.number, Extent::of_bytes(offset, length).expect("whole sectors of a volume"))
    }

    fn roll(&mut self) {
        if self.frames.builder.is_full() {
            self.finish_frame();
        }
    }

    fn finish_frame(&mut self) {
        if !self.frames.builder.is_empty() {
            let frame = self.frames.finish(&self.spec, &self.capture);
            self.ready.push_back(frame);
        }
    }
}

impl Scan {
    fn open(volume: BaseVolume) -> Result<Self> {
        let reader = DirectReader::open(&volume.path, SHAPE)?;
        if reader.source_len() < volume.size.bytes() {
            return Err(Error::invalid("the source became smaller").with_path(&volume.path));
        }
        let cursor = Cursor::new(volume.size.bytes());
        Ok(Self { volume, reader, cursor, theirs: Theirs::default(), expected: BTreeMap::new() })
    }
}

impl Frames {
    /// The time for a record that was read as of `as_of`, which becomes the frame's tag if it is earlier.
    fn at(&mut self, as_of: Option<Seq>, now: WallTime) -> WallTime {
        self.as_of = if self.builder.is_empty() { as_of } else { self.as_of.min(as_of) };
        self.time = self.time.max(now);
        self.time
    }

    fn finish(&mut self, spec: &BaseSpec, capture: &Capture) -> Frame {
        let clock = capture.clock();
        let before = self.builder.payload_bytes();
        let compress = before > 0 && self.adaptive.compress(self.link_is_fast);
        let frame = self.builder.finish(&FrameSeal {
            kind: FrameKind::Base { resync: spec.resync, as_of: self.as_of },
            group: spec.group,
            epoch: spec.epoch,
            number: FrameNo::following(self.number),
            prev: self.prev,
            durable: None,
            wall: clock.wall(),
            boottime: clock.boottime(),
            boot: spec.boot,
            compress,
        });
        if compress {
            self.adaptive.learn(before, frame.payload().len());
        }
        self.number = Some(frame.header().number);
        self.prev = frame.head();
        frame
    }
}

impl fmt::Debug for BaseReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BaseReader").field("spec", &self.spec).field("progress", &self.progress).finish_non_exhaustive()
    }
}

/// Looks at a page at a time: data differs early, and within a page there is nothing to branch on.
fn is_zero(data: &[u8]) -> bool {
    data.chunks(4096).all(|page| page.iter().fold(0, |any, byte| any | byte) == 0)
}
