//! Reads volumes one after the other, many reads in flight, and makes frames of what is to be sent.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use journal::codec::{Body, FrameKind, Sealed};
use journal::disk::{Block, DirectReader, Shape};
use journal::frame::{Frame, FrameBuilder, FrameSeal};
use journal::types::{ChainHead, Extent, FrameNo, Hash, Seq, VolumeNo, WallTime};

use super::cursor::{Cursor, Piece};
use super::theirs::Theirs;
use super::{BLOCK_BYTES, BaseSpec, BaseVolume, HASHES_MAX, Hashes, Known, Progress};
use crate::capture::Capture;
use crate::source::bytes;
use crate::spool::Adaptive;
use crate::{Error, Result};

/// Reads of 1 MiB, 8 at a time: what keeps a disk busy. As many again may have ended before an earlier one did.
const SHAPE: Shape = Shape { buffers: PIECES, buffer_len: 1 << 20, depth: 8 };
/// Pieces of a volume looked at ahead of the one that is next.
const PIECES: usize = 16;
/// The longest read, in bytes.
const READ_BYTES: u64 = 1 << 20;
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
    /// In the order of the volume, and so of the records: reads end as they like.
    pieces: VecDeque<Ahead>,
}

/// A piece that is not in a frame yet.
struct Ahead {
    range: Range<u64>,
    /// The last `Seq` given out before anybody looked.
    as_of: Option<Seq>,
    /// What the receiver has there. Empty: nothing is known.
    expected: Vec<Option<Hash>>,
    found: Found,
}

enum Found {
    Reading,
    Data(Block),
    Hole,
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
    /// Reads `volumes`, or what of them has to be looked at, by number. `hashes` are asked of what is to be compared.
    pub fn new(
        spec: BaseSpec,
        mut volumes: Vec<BaseVolume>,
        capture: Arc<Capture>,
        hashes: Box<dyn Hashes>,
        link_is_fast: bool,
    ) -> Self {
        let total_bytes = volumes.iter().map(BaseVolume::to_read_bytes).sum();
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
        // A frame holds its records in the order of volumes and sectors.
        volumes.sort_by_key(|volume| volume.number);
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

    /// Looks ahead: starts reads until no more may be in flight.
    fn submit(&mut self) -> Result<()> {
        while let Some(scan) = &mut self.scan
            && scan.reader.in_flight() < SHAPE.depth
            && scan.pieces.len() < PIECES
        {
            // The tag comes first: what is recorded from here on may or may not be in what is found.
            let as_of = self.capture.last_seq();
            let hole_max = HASHES_MAX * BLOCK_BYTES;
            let Some(piece) = scan.cursor.peek(&scan.reader, READ_BYTES, hole_max)? else { return Ok(()) };
            let (range, found) = match piece {
                Piece::Data(range) => (range, Found::Reading),
                Piece::Hole(range) => (range, Found::Hole),
            };
            let expected = match scan.volume.known {
                Known::Nothing => Vec::new(),
                Known::Compare | Known::AllBut(_) => {
                    let end = scan.cursor.region_end(range.start);
                    scan.theirs.of(&mut *self.hashes, scan.volume.number, end, &range)?
                }
            };
            scan.cursor.pass(&range);
            if matches!(found, Found::Reading) {
                let started = scan.reader.submit(range.start, length(&range), 0);
                assert!(started, "there is a buffer for every piece");
            }
            scan.pieces.push_back(Ahead { range, as_of, expected, found });
        }
        Ok(())
    }

    /// Waits for the next piece and deals with it; ends the volume when none is left.
    fn collect(&mut self) -> Result<()> {
        let Some(scan) = &mut self.scan else { return Ok(()) };
        while scan.pieces.front().is_some_and(|piece| matches!(piece.found, Found::Reading)) {
            scan.wait()?;
        }
        let Some(Ahead { range, as_of, expected, found }) = scan.pieces.pop_front() else {
            self.scan = None;
            return Ok(());
        };
        let places = range.clone().step_by(BLOCK).enumerate();
        let places = places.map(|(index, start)| (start..range.end.min(start + BLOCK_BYTES), expected.get(index)));
        match found {
            Found::Data(block) => {
                for ((place, theirs), data) in places.zip(block.chunks(BLOCK)) {
                    self.block(place, data, theirs, as_of);
                }
            }
            Found::Hole if expected.is_empty() => self.progress.done_bytes += range.end - range.start,
            Found::Hole => places.for_each(|(place, theirs)| self.zeroes(place, theirs, as_of)),
            Found::Reading => unreachable!("it was waited for"),
        }
        Ok(())
    }

    /// One block that was read; `theirs`: what the receiver has there, if that is known.
    fn block(&mut self, place: Range<u64>, data: &[u8], theirs: Option<&Option<Hash>>, as_of: Option<Seq>) {
        if is_zero(data) {
            return self.zeroes(place, theirs, as_of);
        }
        self.progress.done_bytes += bytes(data.len());
        if theirs.is_some_and(|theirs| *theirs == Some(Hash::of(data))) {
            return;
        }
        let (volume, extent) = self.place(&place);
        let time = self.frames.at(as_of, self.capture.clock().wall());
        self.frames.builder.write(time, volume, extent, data);
        self.progress.sent_bytes += bytes(data.len());
        self.roll();
    }

    /// A block of nothing: it is sent only where the receiver has something.
    fn zeroes(&mut self, place: Range<u64>, theirs: Option<&Option<Hash>>, as_of: Option<Seq>) {
        self.progress.done_bytes += place.end - place.start;
        if theirs.is_none_or(Option::is_none) {
            return;
        }
        let (volume, extent) = self.place(&place);
        let time = self.frames.at(as_of, self.capture.clock().wall());
        self.frames.builder.push(time, Body::Pattern { volume, extent, fill: [0; 8] });
        self.roll();
    }

    /// # Panics
    /// Never: volumes are whole sectors, blocks start at sectors and are not empty.
    fn place(&self, range: &Range<u64>) -> (VolumeNo, Extent) {
        let scan = self.scan.as_ref().expect("a block is of the volume that is being read");
        (scan.volume.number, Extent::of_bytes(range.start, range.end - range.start).expect("whole sectors of a volume"))
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
        let cursor = Cursor::new(volume.size.bytes(), volume.known.only());
        Ok(Self { volume, reader, cursor, theirs: Theirs::default(), pieces: VecDeque::new() })
    }

    /// Waits until some read has ended.
    fn wait(&mut self) -> Result<()> {
        let completion = self.reader.wait()?.ok_or_else(|| Error::unavailable("an earlier read failed"))?;
        let block = completion.data.map_err(|error| error.context("cannot read the source"))?;
        let piece = self.pieces.iter_mut().find(|piece| piece.range.start == completion.offset);
        let piece = piece.expect("what is read is a piece");
        if block.len() < length(&piece.range) {
            let end = completion.offset + bytes(block.len());
            return Err(Error::invalid("the source became smaller").with_offset(end));
        }
        piece.found = Found::Data(block);
        Ok(())
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

fn length(range: &Range<u64>) -> usize {
    usize::try_from(range.end - range.start).expect("a read is of at most 1 MiB")
}

/// Looks at a page at a time: data differs early, and within a page there is nothing to branch on.
fn is_zero(data: &[u8]) -> bool {
    data.chunks(4096).all(|page| page.iter().fold(0, |any, byte| any | byte) == 0)
}
