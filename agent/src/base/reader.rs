//! Reads volumes one after the other, many reads in flight, and makes frames of what is to be sent.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use journal::codec::{Body, FrameKind, Sealed};
use journal::failpoint::{self, Step};
use journal::frame::{Frame, FrameBuilder, FrameSeal};
use journal::types::{ChainHead, Extent, FrameNo, Hash, Seq, VolumeNo, WallTime};

use super::cursor::{Cursor, Piece};
use super::reads::{Data, Opener, Reads, direct};
use super::theirs::Theirs;
use super::{BLOCK_BYTES, BaseSpec, BaseVolume, HASHES_MAX, Hashes, Known, Progress};
use crate::capture::Capture;
use crate::source::bytes;
use crate::spool::Adaptive;
use crate::{Error, Result};

/// Pieces of a volume looked at ahead of the one that is next.
pub(super) const PIECES: usize = 16;
/// The longest read, in bytes.
const READ_BYTES: u64 = 1 << 20;
/// A shorter dirty run is sent as it is: asking takes a round trip, and what was written mostly differs.
const COMPARED_BYTES: u64 = 1 << 20;
/// [`BLOCK_BYTES`] as a step.
const BLOCK: usize = 64 * 1024;

/// The frames of one base, one after the other.
pub struct BaseReader {
    spec: BaseSpec,
    capture: Arc<Capture>,
    hashes: Box<dyn Hashes>,
    open: Opener,
    volumes: VecDeque<BaseVolume>,
    scan: Option<Scan>,
    frames: Frames,
    ready: VecDeque<Frame>,
    progress: Progress,
}

/// A volume that is being read.
struct Scan {
    volume: BaseVolume,
    reader: Box<dyn Reads>,
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
    expected: Expected,
    found: Found,
}

/// What the receiver has in a piece.
enum Expected {
    Zeroes,
    /// Hashes of its blocks; `None`: zeroes.
    Blocks(Vec<Option<Hash>>),
    Unknown,
}

/// What the receiver has in a block.
#[derive(Clone, Copy, PartialEq)]
enum Has {
    Zeroes,
    Data(Hash),
    Unknown,
}

enum Found {
    Reading,
    Data(Data),
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
    /// Reads `volumes`, by number. `hashes` are asked of those that are to be compared.
    pub fn new(
        spec: BaseSpec,
        volumes: Vec<BaseVolume>,
        capture: Arc<Capture>,
        hashes: Box<dyn Hashes>,
        link_is_fast: bool,
    ) -> Self {
        Self::through(Box::new(direct), spec, volumes, capture, hashes, link_is_fast)
    }

    /// The same, of sources that are read in a way of their own.
    pub fn through(
        open: Opener,
        spec: BaseSpec,
        volumes: Vec<BaseVolume>,
        capture: Arc<Capture>,
        hashes: Box<dyn Hashes>,
        link_is_fast: bool,
    ) -> Self {
        let frames = Frames {
            builder: FrameBuilder::new(),
            as_of: None,
            number: None,
            prev: ChainHead::START,
            time: WallTime(0),
            adaptive: Adaptive::default(),
            link_is_fast,
        };
        let (none, ready, progress) = (VecDeque::new(), VecDeque::new(), Progress::default());
        let mut reader = Self { spec, capture, hashes, open, volumes: none, scan: None, frames, ready, progress };
        reader.add(volumes);
        reader
    }

    /// Reads these as well, after all that was to be read. What is read later ranks above what was read before.
    pub fn add(&mut self, mut volumes: Vec<BaseVolume>) {
        // A frame holds its records in the order of volumes and sectors.
        volumes.sort_by_key(|volume| volume.number);
        self.progress.total_bytes += volumes.iter().map(BaseVolume::to_read_bytes).sum::<u64>();
        self.volumes.extend(volumes);
    }

    /// The next frame; `None` when all was read, until something is [added](Self::add). Blocks on the source and on the hashes. After an error there are no more.
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
                // What of a volume is read again is no part of the frame with its end.
                if volume.part.is_some() {
                    self.finish_frame();
                }
                self.scan = Some(Scan::open(volume, &self.open)?);
                continue;
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
            && scan.reader.has_room()
            && scan.pieces.len() < PIECES
        {
            // The tag comes first: what is recorded from here on may or may not be in what is found.
            let as_of = self.capture.last_seq();
            let hole_max = HASHES_MAX * BLOCK_BYTES;
            let Some(piece) = scan.cursor.peek(|at| scan.reader.next_data(at), READ_BYTES, hole_max)? else {
                return Ok(());
            };
            let (range, found) = match piece {
                Piece::Data(range) => (range, Found::Reading),
                Piece::Hole(range) => (range, Found::Hole),
            };
            let comparable = match scan.volume.known {
                Known::Nothing | Known::Unknown => None,
                Known::Compare => scan.cursor.comparable(&range, COMPARED_BYTES),
                Known::AllBut(_) => scan.cursor.comparable(&range, 0),
            };
            let expected = match (&scan.volume.known, comparable) {
                (Known::Nothing, _) => Expected::Zeroes,
                (_, Some(end)) => {
                    Expected::Blocks(scan.theirs.of(&mut *self.hashes, scan.volume.number, end, &range)?)
                }
                (_, None) => Expected::Unknown,
            };
            scan.cursor.pass(&range);
            if matches!(found, Found::Reading) {
                let started = scan.reader.submit(range.start, length(&range));
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
        let places = places.map(|(index, start)| (start..range.end.min(start + BLOCK_BYTES), expected.block(index)));
        match (found, &expected) {
            (Found::Data(read), _) => {
                for ((place, has), data) in places.zip(read.chunks(BLOCK)) {
                    self.block(place, data, has, as_of);
                }
            }
            (Found::Hole, Expected::Blocks(_)) => {
                places.for_each(|(place, has)| self.zeroes(place, has, as_of));
            }
            (Found::Hole, _) => self.zeroes(range, expected.block(0), as_of),
            (Found::Reading, _) => unreachable!("it was waited for"),
        }
        Ok(())
    }

    /// One block that was read, or a part of one.
    fn block(&mut self, place: Range<u64>, data: &[u8], has: Has, as_of: Option<Seq>) {
        if is_zero(data) {
            return self.zeroes(place, has, as_of);
        }
        self.progress.done_bytes += bytes(data.len());
        if let Has::Data(hash) = has
            && hash == Hash::of(data)
        {
            return;
        }
        let (volume, extent) = self.place(&place);
        let time = self.frames.at(as_of, self.capture.clock().wall());
        self.frames.builder.write(time, volume, extent, data);
        self.progress.sent_bytes += bytes(data.len());
        self.roll();
    }

    /// Nothing is there: that is sent only where the receiver has something.
    fn zeroes(&mut self, place: Range<u64>, has: Has, as_of: Option<Seq>) {
        self.progress.done_bytes += place.end - place.start;
        if has == Has::Zeroes {
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
    fn open(volume: BaseVolume, open: &Opener) -> Result<Self> {
        let reader = open(&volume)?;
        if reader.len_bytes() < volume.size.bytes() {
            return Err(Error::invalid("the source became smaller").with_path(&volume.path));
        }
        let cursor = Cursor::new(volume.size.bytes(), volume.looked_at());
        Ok(Self { volume, reader, cursor, theirs: Theirs::default(), pieces: VecDeque::new() })
    }

    /// Waits until some read has ended.
    fn wait(&mut self) -> Result<()> {
        let (offset, data) = self.reader.wait()?.ok_or_else(|| Error::unavailable("an earlier read failed"))?;
        let data = data.and_then(|data| failpoint::reached(Step::ExtentRead).map(|()| data));
        let data = data.map_err(|error| error.context("cannot read the source"))?;
        let piece = self.pieces.iter_mut().find(|piece| piece.range.start == offset);
        let piece = piece.expect("what is read is a piece");
        if data.len() < length(&piece.range) {
            let end = offset + bytes(data.len());
            return Err(Error::invalid("the source became smaller").with_offset(end));
        }
        piece.found = Found::Data(data);
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

impl Expected {
    fn block(&self, index: usize) -> Has {
        match self {
            Self::Zeroes => Has::Zeroes,
            Self::Unknown => Has::Unknown,
            Self::Blocks(hashes) => hashes.get(index).copied().flatten().map_or(Has::Zeroes, Has::Data),
        }
    }
}

fn length(range: &Range<u64>) -> usize {
    usize::try_from(range.end - range.start).expect("a read is of at most 1 MiB")
}

/// Looks at a page at a time: data differs early, and within a page there is nothing to branch on.
fn is_zero(data: &[u8]) -> bool {
    data.chunks(4096).all(|page| page.iter().fold(0, |any, byte| any | byte) == 0)
}
