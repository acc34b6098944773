//! Reads volumes one after the other, many reads in flight, and makes frames of what is to be sent.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use journal::codec::{Body, FrameKind, Sealed};
use journal::failpoint::{self, Step};
use journal::frame::{Frame, FrameBuilder, FrameSeal};
use journal::types::{ChainHead, Extent, FrameNo, Hash, Seq, WallTime};

use super::cursor::{Compared, Cursor, Piece};
use super::differing::{Batch, Block, Differing, Run, Verdict, is_zero, runs};
use super::reads::{Data, Opener, Reads, direct};
use super::theirs::Theirs;
use super::{BLOCK_BYTES, BaseSpec, BaseVolume, Hashes, Known, Progress};
use crate::capture::Capture;
use crate::source::bytes;
use crate::spool::Adaptive;
use crate::{Error, Result};

/// Pieces of a volume looked at ahead of the one that is next.
pub(super) const PIECES: usize = 16;
/// The longest read, in bytes.
const READ_BYTES: u64 = 1 << 20;
/// The longest hole that is dealt with as one: hashes of it are 512 KiB.
const HOLE_BYTES: u64 = 1 << 30;
/// A shorter dirty run is sent as it is: asking takes a round trip, and what was written mostly differs.
const COMPARED_BYTES: u64 = 1 << 20;

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
    /// What comes before them and is not in a frame yet.
    differing: Differing,
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
            let Some(piece) = scan.cursor.peek(|at| scan.reader.next_data(at), READ_BYTES, HOLE_BYTES)? else {
                return Ok(());
            };
            let (range, found) = match piece {
                Piece::Data(range) => (range, Found::Reading),
                Piece::Hole(range) => (range, Found::Hole),
            };
            let expected = match worth(&scan.volume.known) {
                Some(worth) if scan.cursor.is_comparable(&range, worth) => {
                    Expected::Blocks(scan.theirs.of(&mut *self.hashes, &range)?)
                }
                None if scan.volume.known == Known::Nothing => Expected::Zeroes,
                _ => Expected::Unknown,
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
        let Some(piece) = scan.pieces.pop_front() else {
            self.settle(true)?;
            self.scan = None;
            return Ok(());
        };
        self.sift(piece)?;
        self.settle(false)
    }

    /// Makes frames of what of a piece is to be sent, at once where nothing has to be asked first.
    fn sift(&mut self, Ahead { range, as_of, expected, found }: Ahead) -> Result<()> {
        self.progress.done_bytes += range.end - range.start;
        // A hole of which nothing is known block by block is one.
        let step = match (&found, &expected) {
            (Found::Hole, Expected::Zeroes | Expected::Unknown) => range.end - range.start,
            _ => BLOCK_BYTES,
        };
        let read = if let Found::Data(read) = &found { &read[..] } else { &[] };
        let mut places = Vec::new();
        let mut start = range.start;
        while start < range.end {
            let place = start..range.end.min(start + step);
            let data = read.get(within(&range, &place)).unwrap_or_default();
            let verdict = expected.verdict(blocks(start - range.start), data);
            start = place.end;
            places.extend(verdict.map(|verdict| (place, data, verdict)));
        }
        let Some(scan) = self.scan.as_mut().filter(|_| !places.is_empty()) else { return Ok(()) };
        let asked: Vec<_> =
            places.iter().filter(|(.., verdict)| *verdict == Verdict::Asked).map(|(place, ..)| extent(place)).collect();
        if asked.is_empty() && scan.differing.is_empty() {
            places.into_iter().for_each(|(place, data, verdict)| self.send(&place, data, verdict, None, as_of));
            return Ok(());
        }
        let answer = match asked.is_empty() {
            true => None,
            false => Some(self.hashes.pages(scan.volume.number, &asked)?),
        };
        let blocks =
            places.into_iter().map(|(place, data, verdict)| Block { place, verdict, data: data.to_vec() }).collect();
        scan.differing.push(Batch { as_of, blocks, answer });
        Ok(())
    }

    /// Makes frames of what was asked about: of what is too much to wait, or of all.
    fn settle(&mut self, all: bool) -> Result<()> {
        while let Some(mut batch) = self.scan.as_mut().and_then(|scan| scan.differing.pop(all)) {
            let mut pages = batch.pages()?;
            for Block { place, verdict, data } in &batch.blocks {
                self.send(place, data, *verdict, pages.as_mut(), batch.as_of);
            }
        }
        Ok(())
    }

    /// Sends of a block what its kind says; `pages` are the receiver's, from those of this block on.
    fn send(
        &mut self,
        place: &Range<u64>,
        data: &[u8],
        verdict: Verdict,
        mut pages: Option<&mut VecDeque<Option<Hash>>>,
        as_of: Option<Seq>,
    ) {
        let whole = || vec![Run { within: 0..data.len(), is_zero: false }];
        let runs = match (verdict, &mut pages) {
            (Verdict::Zeroes, _) => return self.push(place, None, as_of),
            (Verdict::Sparse, _) => runs(data, || None),
            (Verdict::Asked, Some(pages)) => runs(data, || pages.pop_front().flatten()),
            (Verdict::Whole | Verdict::Asked, _) => whole(),
        };
        for Run { within, is_zero } in runs {
            let place = place.start + bytes(within.start)..place.start + bytes(within.end);
            self.push(&place, data.get(within).filter(|_| !is_zero), as_of);
        }
    }

    /// A record of this data, or of zeroes.
    fn push(&mut self, place: &Range<u64>, data: Option<&[u8]>, as_of: Option<Seq>) {
        let Some(scan) = &self.scan else { return };
        let (volume, extent) = (scan.volume.number, extent(place));
        let time = self.frames.at(as_of, self.capture.clock().wall());
        match data {
            Some(data) => {
                self.frames.builder.write(time, volume, extent, data);
                self.progress.sent_bytes += bytes(data.len());
            }
            None => self.frames.builder.push(time, Body::Pattern { volume, extent, fill: [0; 8] }),
        }
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
        let (size, part) = (volume.size.bytes(), volume.looked_at());
        let compared = Compared::new(size, part.clone(), worth(&volume.known).unwrap_or(u64::MAX));
        let theirs = Theirs::new(volume.number, compared);
        let (cursor, pieces) = (Cursor::new(size, part), VecDeque::new());
        Ok(Self { volume, reader, cursor, theirs, pieces, differing: Differing::default() })
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
    /// What of block number `index` of the piece is to be sent, which holds `data`, or nothing if it is a hole; `None`: nothing.
    fn verdict(&self, index: usize, data: &[u8]) -> Option<Verdict> {
        let is_zero = is_zero(data);
        match self {
            Self::Zeroes => (!is_zero).then_some(Verdict::Whole),
            Self::Unknown if is_zero => Some(Verdict::Zeroes),
            Self::Unknown => Some(Verdict::Whole),
            Self::Blocks(hashes) => match hashes.get(index).copied().flatten() {
                None => (!is_zero).then_some(Verdict::Sparse),
                Some(_) if is_zero => Some(Verdict::Zeroes),
                Some(hash) => (hash != Hash::of(data)).then_some(Verdict::Asked),
            },
        }
    }
}

/// How long a run has to be that is compared; `None`: none is.
fn worth(known: &Known) -> Option<u64> {
    match known {
        Known::Nothing | Known::Unknown => None,
        Known::Compare => Some(COMPARED_BYTES),
        Known::AllBut(_) => Some(0),
    }
}

/// # Panics
/// Never: volumes are whole sectors, blocks and pages start at sectors and are not empty.
fn extent(place: &Range<u64>) -> Extent {
    Extent::of_bytes(place.start, place.end - place.start).expect("whole sectors of a volume")
}

/// Where in a piece a part of it is; a hole has nothing there.
fn within(piece: &Range<u64>, part: &Range<u64>) -> Range<usize> {
    let index = |at: u64| usize::try_from(at - piece.start).unwrap_or(usize::MAX);
    index(part.start)..index(part.end)
}

fn blocks(bytes: u64) -> usize {
    usize::try_from(bytes / BLOCK_BYTES).unwrap_or(usize::MAX)
}

fn length(range: &Range<u64>) -> usize {
    usize::try_from(range.end - range.start).expect("a read is of at most 1 MiB")
}
