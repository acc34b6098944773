//! Reads a segment from its start for as far as it is whole, and looks at what is behind.

use bytes::Bytes;

use super::recover::Tail;
use super::segment::next_envelope;
use crate::codec::{
    ENVELOPE_BYTES, Envelope, FrameHeader, FrameKind, SEGMENT_HEADER_BYTES, SegmentHeader, SegmentKind,
};
use crate::disk::File;
use crate::error::{Error, ErrorKind, Result};
use crate::frame::{Frame, is_newer};
use crate::types::{ChainHead, FrameNo, Seq};

/// A frame in its place.
#[derive(Debug)]
pub(crate) struct Visit {
    pub(crate) at: u64,
    pub(crate) envelope: Envelope,
    pub(crate) frame: Frame,
    /// Its data does not match its checksums; all else holds.
    pub(crate) is_data_damaged: bool,
}

/// What a scan found.
#[derive(Debug)]
pub(crate) struct Scanned {
    /// End of the readable run.
    pub(crate) end: u64,
    /// Highest durable head named in any envelope, also behind damage.
    pub(crate) durable: u64,
    pub(crate) tail: Tail,
    /// Why the run ended, if not at the end of what was written.
    pub(crate) why: Option<String>,
}

/// Reads frames in order up to `limit` (the end of the file, or where the footer starts), checks that each continues the chain,
/// and calls `visit` with it. Up to the place `promised` (in the chain's own unit) a frame counts even if its data is damaged: its header
/// and tables prove what it did, and every reader checks data for itself. Beyond, that is how a torn frame looks.
pub(crate) fn scan(
    file: &dyn File,
    header: &SegmentHeader,
    limit: u64,
    promised: u64,
    mut visit: impl FnMut(Visit),
) -> Result<Scanned> {
    let mut expect = Expect::start(header);
    let mut at = SEGMENT_HEADER_BYTES as u64;
    let mut durable = 0;
    let why = loop {
        if at >= limit {
            break None;
        }
        match read_one(file, header, limit, at, (&expect, promised))? {
            Ok(seen) => {
                durable = durable.max(seen.envelope.durable);
                expect.advance(&seen.frame);
                at = next_envelope(at, seen.frame.bytes().len());
                visit(seen);
            }
            Err(why) => break Some(why),
        }
    };
    let (tail, behind) = look_behind(file, header, at, limit)?;
    let why = if tail == Tail::Nothing { None } else { why };
    Ok(Scanned { end: at, durable: durable.max(behind), tail, why })
}

/// Whether a segment with this header can begin with this frame.
pub(super) fn begins_with(header: &SegmentHeader, frame: &Frame) -> bool {
    Expect::start(header).fits(header, frame)
}

/// What the next frame of a chain has to be.
struct Expect {
    number: FrameNo,
    prev: ChainHead,
    first: Option<Seq>,
}

impl Expect {
    fn start(header: &SegmentHeader) -> Self {
        if header.replaces.is_some() {
            return Self { number: FrameNo::FIRST, prev: ChainHead::START, first: None };
        }
        let first = match header.kind {
            SegmentKind::Live { first } => Some(first),
            SegmentKind::Base { .. } => None,
        };
        Self { number: header.first_frame, prev: header.chain_in, first }
    }

    fn fits(&self, header: &SegmentHeader, frame: &Frame) -> bool {
        let place = match (frame.header().kind, header.kind) {
            (kind, _) if header.replaces.is_some() => kind == FrameKind::Compacted,
            (FrameKind::Live { first }, SegmentKind::Live { .. }) => self.first == Some(first),
            (FrameKind::Base { resync, .. }, SegmentKind::Base { resync: ours }) => resync == ours,
            _ => false,
        };
        place
            && frame.header().group == header.group
            && frame.header().number == self.number
            && frame.header().prev == self.prev
    }

    fn advance(&mut self, frame: &Frame) {
        self.number = FrameNo::following(Some(frame.header().number));
        self.prev = frame.head();
        self.first = frame.last_seq().map(|last| last.after(1));
    }
}

/// The frame at `at`, or why there is none.
fn read_one(
    file: &dyn File,
    header: &SegmentHeader,
    limit: u64,
    at: u64,
    (expect, promised): (&Expect, u64),
) -> Result<std::result::Result<Visit, String>> {
    let envelope = match read_envelope(file, header, limit, at)? {
        Ok(envelope) => envelope,
        Err(why) => return Ok(Err(why)),
    };
    let mut bytes = vec![0; usize::try_from(envelope.frame_bytes).unwrap_or(usize::MAX)];
    let frame_at = at + ENVELOPE_BYTES as u64;
    if limit - frame_at < bytes.len() as u64 || read_up_to_end(file, frame_at, &mut bytes)? < bytes.len() {
        return Ok(Err("a frame that is cut off".into()));
    }
    let bytes = Bytes::from(bytes);
    let (frame, is_data_damaged) = match Frame::check(bytes.clone()) {
        Ok(frame) => (frame, false),
        Err(why) if is_newer(&bytes) => {
            return Err(Error::unsupported(format!("a frame of a newer version: {why}")).with_offset(at));
        }
        Err(why) => match Frame::check_but_data(bytes).ok().filter(|frame| place(frame.header()) <= promised) {
            Some(frame) => (frame, true),
            None => return Ok(Err(why.to_string())),
        },
    };
    Ok(match expect.fits(header, &frame) {
        true => Ok(Visit { at, envelope, frame, is_data_damaged }),
        false => Err("a frame that does not continue the chain".into()),
    })
}

/// The place of a frame in the unit that its chain counts in.
pub(super) fn place(header: &FrameHeader) -> u64 {
    header.last_seq().map_or_else(|| header.number.number(), Seq::number)
}

fn read_envelope(
    file: &dyn File,
    header: &SegmentHeader,
    limit: u64,
    at: u64,
) -> Result<std::result::Result<Envelope, String>> {
    let mut bytes = [0; ENVELOPE_BYTES];
    if limit.saturating_sub(at) < bytes.len() as u64 || read_up_to_end(file, at, &mut bytes)? < bytes.len() {
        return Ok(Err("an envelope that is cut off".into()));
    }
    Ok(match Envelope::decode(&bytes) {
        Ok(envelope) if envelope.salt == header.salt && envelope.offset == at => Ok(envelope),
        Ok(_) => Err("an envelope that belongs elsewhere".into()),
        Err(why) => Err(why.to_string()),
    })
}

/// What is behind the run, and the highest durable head in the envelopes there.
fn look_behind(file: &dyn File, header: &SegmentHeader, from: u64, limit: u64) -> Result<(Tail, u64)> {
    const WINDOW: usize = 256 * 1024;
    let mut buffer = vec![0; WINDOW];
    let (mut tail, mut durable, mut at) = (Tail::Nothing, 0, from);
    while at < limit {
        let want = usize::try_from(limit - at).unwrap_or(WINDOW).min(WINDOW);
        let got = read_up_to_end(file, at, buffer.get_mut(..want).unwrap_or_default())?;
        if got == 0 {
            break;
        }
        for (place, sector) in (at..).step_by(512).zip(buffer.get(..got).unwrap_or_default().chunks(512)) {
            if sector.iter().all(|&byte| byte == 0) {
                continue;
            }
            let envelope = sector.first_chunk().and_then(|bytes| Envelope::decode(bytes).ok());
            match envelope.filter(|envelope| envelope.salt == header.salt && envelope.offset == place) {
                // At the very start it is the torn frame's own envelope, not one behind a hole.
                Some(envelope) => {
                    durable = durable.max(envelope.durable);
                    tail = if place == from { Tail::Garbage } else { Tail::FrameBehindHole };
                }
                None if tail == Tail::Nothing => tail = Tail::Garbage,
                None => {}
            }
        }
        at += got as u64;
    }
    Ok((tail, durable))
}

/// Reads what there is. Short only where the file ends: a disk that returns less must not pass for a torn tail, which is cut.
fn read_up_to_end(file: &dyn File, at: u64, buf: &mut [u8]) -> Result<usize> {
    let got = file.read_at(at, buf)?;
    if got < buf.len() && at + (got as u64) < file.len()? {
        return Err(Error::new(ErrorKind::Io, "the disk returned less than there is").with_offset(at));
    }
    Ok(got)
}
