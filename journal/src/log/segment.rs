//! A segment: its file, what is known of it, and the writer that appends to it.

use std::io::IoSlice;
use std::sync::Arc;

use crate::codec::{ENVELOPE_BYTES, Envelope, FrameHeader, SegmentHeader, SegmentSealed};
use crate::disk::File;
use crate::error::Result;
use crate::frame::Frame;
use crate::index::Builder;
use crate::types::{SessionId, WallTime};

/// Frames start at multiples of this, so that no sector holds bytes of two.
pub(super) const FRAME_ALIGN: u64 = 512;

/// What is known of a segment. Immutable: sealing makes a new one.
#[derive(Debug)]
pub struct Segment {
    /// Its header.
    pub header: SegmentHeader,
    /// Its file, open for reading.
    pub file: Arc<dyn File>,
    /// How it ends; `None` while frames may be appended.
    pub sealed: Option<SegmentSealed>,
    /// Whether it may be read.
    pub state: SegmentState,
}

/// Whether a segment may be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SegmentState {
    /// As far as was looked.
    Good,
    /// Its index cannot be read, but its frames can: the index is made again when it is asked for.
    NoIndex,
    /// Readable up to its damage only, and never written again. Why.
    Damaged(String),
}

/// Appends frames to one segment.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) segment: Arc<Segment>,
    /// Where the next envelope goes.
    pub(super) end: u64,
    /// The index so far.
    pub(super) index: Builder,
    /// Header of the last frame.
    pub(super) last: Option<FrameHeader>,
}

/// How to write a batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamp {
    pub(super) session: SessionId,
    pub(super) now: WallTime,
    /// The chain's durable head, 0 = none.
    pub(super) durable: u64,
    /// Whether entries are indexed; a spool needs only to find frames.
    pub(super) entries: bool,
}

impl Writer {
    /// Appends frames with one write. Not durable before [`File::sync`].
    pub(super) fn append(&mut self, frames: &[Frame], stamp: Stamp) -> Result<()> {
        const PADDING: [u8; 512] = [0; 512];
        let mut at = self.end;
        let mut places = Vec::with_capacity(frames.len());
        let mut envelopes = Vec::with_capacity(frames.len());
        for frame in frames {
            let envelope = Envelope {
                salt: self.segment.header.salt,
                offset: at,
                frame_bytes: u32::try_from(frame.bytes().len()).unwrap_or(u32::MAX),
                session: stamp.session,
                received: stamp.now,
                durable: stamp.durable,
            };
            envelopes.push(envelope.encode());
            places.push(at);
            at = next_envelope(at, frame.bytes().len());
        }
        let mut slices = Vec::with_capacity(3 * frames.len());
        for ((frame, envelope), place) in frames.iter().zip(&envelopes).zip(&places) {
            let end = place + (ENVELOPE_BYTES + frame.bytes().len()) as u64;
            let pad = usize::try_from(end.next_multiple_of(FRAME_ALIGN) - end).unwrap_or(0);
            slices
                .extend([envelope.as_slice(), frame.bytes(), PADDING.get(..pad).unwrap_or_default()].map(IoSlice::new));
        }
        self.segment.file.write_at(self.end, &slices)?;
        for (frame, place) in frames.iter().zip(places) {
            self.index.add(frame, place, place + ENVELOPE_BYTES as u64, stamp.entries);
        }
        self.end = at;
        self.last = frames.last().map(|frame| *frame.header()).or(self.last);
        Ok(())
    }
}

/// Where the envelope after a frame of `frame_bytes` goes whose own envelope is at `at`.
pub(super) fn next_envelope(at: u64, frame_bytes: usize) -> u64 {
    (at + (ENVELOPE_BYTES + frame_bytes) as u64).next_multiple_of(FRAME_ALIGN)
}
