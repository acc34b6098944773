//! Finds and reads single frames, and whole segments in order.

use std::ops::ControlFlow;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;

use super::Log;
use super::scan::scan;
use super::segment::{Segment, SegmentState};
use crate::codec::{
    ENVELOPE_BYTES, Envelope, FRAME_HEADER_BYTES, FrameHeader, Malformed, SEGMENT_HEADER_BYTES, SegmentHeader,
    SegmentKind, SegmentSealed,
};
use crate::error::{Error, Result};
use crate::frame::Frame;
use crate::index::{Builder, Footer, FrameSpot, read_events, read_footer, read_frames, read_trailer};
use crate::types::{EpochId, ResyncId, SegmentNo, Seq, WallTime};

/// Where a frame is. Stays readable when its segment is sealed, and even when it is dropped.
#[derive(Clone, Debug)]
pub struct FramePlace {
    segment: Arc<Segment>,
    at: u64,
}

impl FramePlace {
    /// Reads and checks the frame.
    pub fn read(&self) -> Result<Frame> {
        self.segment.read_frame(self.at)
    }
}

impl Log {
    /// Where the live frame with the record `seq` is; `None` if it was dropped or is not there yet.
    pub fn locate(&self, seq: Seq) -> Result<Option<FramePlace>> {
        if let Some(writer) = &self.live.writer
            && writer.index.frames.first().is_some_and(|frame| frame.first <= seq.number())
        {
            return Ok(spot(&writer.index.frames, seq).map(|at| FramePlace { segment: writer.segment.clone(), at }));
        }
        let holds = |segment: &&Arc<Segment>| {
            segment.header.replaces.is_none()
                && match (segment.header.kind, segment.sealed.and_then(|sealed| sealed.end)) {
                    (SegmentKind::Live { first }, Some(end)) => first <= seq && seq < end,
                    _ => false,
                }
        };
        let Some(segment) = self.segments.values().find(holds) else { return Ok(None) };
        let footer = self.footer(segment)?;
        Ok(spot(&footer.frames, seq).map(|at| FramePlace { segment: segment.clone(), at }))
    }

    /// The index of a sealed segment; the last one asked for is remembered, for a reader goes through them in order.
    fn footer(&self, segment: &Arc<Segment>) -> Result<Arc<Footer>> {
        let number = segment.header.number;
        let mut last = self.last_footer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, footer)) = last.as_ref().filter(|(known, _): &&(SegmentNo, _)| *known == number) {
            return Ok(footer.clone());
        }
        let footer = Arc::new(segment.footer()?);
        *last = Some((number, footer.clone()));
        Ok(footer)
    }

    /// The live segment being written, and its index so far.
    pub(crate) fn live_index(&self) -> Option<(&Arc<Segment>, &Builder)> {
        self.live.writer.as_ref().map(|writer| (&writer.segment, &writer.index))
    }

    /// The index of the segment that was sealed or asked for last.
    pub(crate) fn last_sealed(&self) -> Option<(SegmentNo, Arc<Footer>)> {
        self.last_footer.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether segments were sealed or dropped since this was last asked.
    pub(crate) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// The latest place that anything in a base claims to have been read after; 0 = none.
    pub(crate) fn base_as_of(&self, resync: ResyncId) -> Result<u64> {
        let kind = SegmentKind::Base { resync };
        let open = self.open_indexes().filter(|(segment, _)| segment.header.kind == kind);
        let mut latest = open.flat_map(|(_, index)| &index.entries).map(|entry| entry.rank.seq).max().unwrap_or(0);
        for segment in self.segments.values().filter(|segment| segment.header.kind == kind && segment.sealed.is_some())
        {
            let footer = segment.footer()?;
            latest = footer.run.entries().iter().map(|entry| entry.rank.seq).max().unwrap_or(0).max(latest);
        }
        Ok(latest)
    }

    /// Indexes of the segments being written: the live one's, and the bases'.
    pub(crate) fn open_indexes(&self) -> impl Iterator<Item = (&Arc<Segment>, &Builder)> {
        let writers = self.live.writer.iter().chain(self.bases.values().filter_map(|base| base.writer.as_ref()));
        writers.map(|writer| (&writer.segment, &writer.index))
    }
}

fn spot(frames: &[FrameSpot], seq: Seq) -> Option<u64> {
    let after = frames.partition_point(|frame| frame.first <= seq.number());
    let frame = frames.get(after.checked_sub(1)?)?;
    (seq.number() < frame.first + u64::from(frame.records)).then_some(frame.at)
}

impl Segment {
    /// The frame whose envelope is at `at`, checked.
    pub fn read_frame(&self, at: u64) -> Result<Frame> {
        let mut envelope = [0; ENVELOPE_BYTES];
        self.file.read_exact_at(at, &mut envelope)?;
        let envelope = Envelope::decode(&envelope)?;
        if envelope.salt != self.header.salt || envelope.offset != at {
            return Err(Error::corrupt("an envelope that belongs elsewhere").with_offset(at));
        }
        let mut bytes = vec![0; usize::try_from(envelope.frame_bytes).unwrap_or(usize::MAX)];
        self.file.read_exact_at(at + ENVELOPE_BYTES as u64, &mut bytes)?;
        let frame = Frame::check(Bytes::from(bytes)).map_err(|why| Error::from(why).with_offset(at))?;
        if frame.header().group != self.header.group {
            return Err(Error::corrupt("a frame of another group").with_offset(at));
        }
        Ok(frame)
    }

    /// The index of a sealed segment, made again from the frames if it cannot be read.
    pub fn footer(&self) -> Result<Footer> {
        if self.state == SegmentState::Good
            && let Ok(footer) = self.stored_footer()
        {
            return Ok(footer);
        }
        self.rebuild()
    }

    /// Whether the header on disk is the one that is known.
    pub(crate) fn header_holds(&self) -> bool {
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        let read = self.file.read_exact_at(0, &mut bytes);
        read.is_ok() && SegmentHeader::decode(&bytes) == Ok(self.header)
    }

    /// The index as it is stored.
    pub(crate) fn stored_footer(&self) -> Result<Footer> {
        let sealed = self.sealed.ok_or(Malformed("a segment without an end"))?;
        read_footer(&*self.file, &read_trailer(&*self.file, sealed.file_bytes, self.header.salt)?)
    }

    /// The index made from the frames. Of a damaged segment, as far as it is readable.
    ///
    /// # Errors
    /// `Corrupt` when frames are missing from a segment that was not known to be damaged: nothing of an index with holes is served.
    pub fn rebuild(&self) -> Result<Footer> {
        let latest = self.sealed.map_or(WallTime(0), |sealed| sealed.times.0);
        let (mut index, mut head) = (Builder { latest, ..Builder::default() }, None);
        let end = self.sealed.map_or_else(|| self.file.len(), |sealed| Ok(sealed.file_bytes))?;
        let found = scan(&*self.file, &self.header, end, self.promised(), |visit| {
            index.add(&visit.frame, visit.at, visit.at + ENVELOPE_BYTES as u64, true);
            head = Some(visit.frame.head());
        })?;
        let complete = self.sealed.is_none_or(|sealed| head == Some(sealed.head));
        if !complete && !matches!(self.state, SegmentState::Damaged(_)) {
            let why = found.why.unwrap_or_else(|| "frames are missing".into());
            return Err(Error::corrupt(why).with_path(self.header.number.file_name()).with_offset(found.end));
        }
        Ok(Footer::from(index))
    }

    /// Where its frames are, as it is stored: a small part of the index.
    fn stored_frames(&self) -> Result<Vec<FrameSpot>> {
        let sealed = self.sealed.ok_or(Malformed("a segment without an end"))?;
        read_frames(&*self.file, &read_trailer(&*self.file, sealed.file_bytes, self.header.salt)?)
    }

    /// Where its frames are.
    pub(crate) fn frames(&self) -> Result<Vec<FrameSpot>> {
        if self.state == SegmentState::Good
            && let Ok(frames) = self.stored_frames()
        {
            return Ok(frames);
        }
        Ok(self.rebuild()?.frames)
    }

    /// Bytes of the index as it is stored; of one that has to be made again, 0.
    pub(crate) fn index_bytes(&self) -> u64 {
        let trailer = self.sealed.map(|sealed| read_trailer(&*self.file, sealed.file_bytes, self.header.salt));
        trailer.and_then(Result::ok).map_or(0, |trailer| trailer.footer_bytes())
    }

    /// Its events; needs only a small part of the index.
    pub(crate) fn events(&self) -> Result<Vec<crate::index::Event>> {
        let read = || -> Result<_> {
            let sealed = self.sealed.ok_or(Malformed("a segment without an end"))?;
            read_events(&*self.file, &read_trailer(&*self.file, sealed.file_bytes, self.header.salt)?)
        };
        if self.state == SegmentState::Good
            && let Ok(events) = read()
        {
            return Ok(events);
        }
        Ok(self.rebuild()?.events)
    }

    /// Header of the last frame of a sealed segment, which has to be the one the manifest says. Only the header is read, and
    /// where it is: what is wrong with its data, or with entries of its index, is found when those are read.
    pub(super) fn last_frame(&self) -> Result<FrameHeader> {
        let sealed = self.sealed.ok_or(Malformed("a segment without an end"))?;
        let frames = self.stored_frames()?;
        let last = frames.last().ok_or(Malformed("a sealed segment without frames"))?;
        let mut bytes = [0; FRAME_HEADER_BYTES];
        self.file.read_exact_at(last.at + ENVELOPE_BYTES as u64, &mut bytes)?;
        let header = FrameHeader::decode(&bytes)?;
        if header.chain_head() != sealed.head || header.number != sealed.last_frame {
            return Err(Malformed("a sealed segment that ends otherwise than the manifest says").into());
        }
        Ok(header)
    }

    /// The run of the agent that its last frame is of.
    pub(crate) fn last_epoch(&self) -> Result<EpochId> {
        self.last_frame().map(|last| last.epoch)
    }

    /// Up to where frames count whatever became of their data: a sealed segment was promised up to its end, and what may stand behind that
    /// was set aside.
    pub(super) fn promised(&self) -> u64 {
        let last = |sealed: SegmentSealed| match sealed.end.filter(|_| self.header.replaces.is_none()) {
            Some(end) => Seq::encode(end.before()),
            None => sealed.last_frame.number(),
        };
        self.sealed.map_or(0, last)
    }

    /// Calls `visit` with each frame in order, until it breaks or the segment ends; says where and why reading had to stop early. Up to
    /// the place `promised` in the order, and anywhere in a sealed segment, it is called with frames whose data is damaged, too.
    pub fn walk(
        &self,
        promised: Option<Seq>,
        mut visit: impl FnMut(u64, Frame) -> ControlFlow<()>,
    ) -> Result<Option<(u64, String)>> {
        let end = match &self.sealed {
            Some(sealed) => read_trailer(&*self.file, sealed.file_bytes, self.header.salt)
                .map_or(sealed.file_bytes, |t| t.footer_at),
            None => self.file.len()?,
        };
        let mut stopped = false;
        let promised = self.promised().max(Seq::encode(promised));
        let found = scan(&*self.file, &self.header, end, promised, |visited| {
            stopped = stopped || visit(visited.at, visited.frame).is_break();
        })?;
        Ok(found.why.map(|why| (found.end, why)))
    }
}
