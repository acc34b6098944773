//! Appends frames, makes them durable, seals segments and drops them.

use std::io::IoSlice;
use std::sync::{Arc, PoisonError};

use super::scan::begins_with;
use super::segment::{Segment, SegmentState, Stamp, Writer};
use super::{BaseHead, Head, Log};
use crate::codec::FrameKind;
use crate::codec::{
    Body, FrameHeader, ManifestEntry, SegmentCreated, SegmentHeader, SegmentKind, SegmentSealed, Stopped,
};
use crate::disk::{File, Open};
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint::{self, Step};
use crate::frame::Frame;
use crate::index::{Builder, Ending, Footer, times};
use crate::types::{ChainHead, Durable, FrameNo, ResyncId, Salt, SegmentNo, Seq, SessionId, WallTime};

/// A chain of frames: where it stands, and where it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chain {
    Live,
    Base(ResyncId),
}

impl Log {
    /// Appends live frames; not durable before [`sync`](Log::sync). Frames that are here already are passed over.
    ///
    /// # Errors
    /// `Invalid` for a frame that does not continue the chain: then nothing was written. Any other error closes the log: reopen it.
    pub fn append(&mut self, frames: &[Frame], session: SessionId, now: WallTime) -> Result<()> {
        let (frames, head) = self.admit(frames)?;
        self.write(Chain::Live, frames, session, now)?;
        self.live.head = head;
        Ok(())
    }

    /// The live frames among these that are not here yet, and where the order stands after them.
    ///
    /// # Errors
    /// `Invalid` for a frame that does not continue the chain, or is another one than the one here.
    pub(crate) fn admit<'f>(&self, frames: &'f [Frame]) -> Result<(&'f [Frame], Option<Head>)> {
        let mut head = self.live.head;
        let is_sibling =
            |frame: &Frame| head.is_some_and(|head| head.frame == frame.header().number && head.chain != frame.head());
        if let Some(frame) = frames.iter().find(|frame| is_sibling(frame)) {
            return Err(Error::invalid(format!("frame {} is another one than the one here", frame.header().number)));
        }
        let frames = new_frames(frames, head.map(|head| head.frame));
        for frame in frames {
            head = Some(self.next_head(head, frame)?);
        }
        Ok((frames, head))
    }

    /// The latest time of any live record: none counts as earlier.
    pub(crate) fn latest(&self) -> WallTime {
        let sealed = || {
            let live = |segment: &&Arc<Segment>| matches!(segment.header.kind, SegmentKind::Live { .. });
            self.segments.values().rev().filter(live).find_map(|segment| segment.sealed).map(|sealed| sealed.times.1)
        };
        self.live.writer.as_ref().map(|writer| writer.index.latest).or_else(sealed).unwrap_or_default()
    }

    /// Appends frames of a base; not durable before [`sync_base`](Log::sync_base).
    ///
    /// # Errors
    /// As [`append`](Log::append).
    pub fn append_base(&mut self, resync: ResyncId, frames: &[Frame], session: SessionId, now: WallTime) -> Result<()> {
        let mut head = self.base_head(resync);
        let frames = new_frames(frames, head.map(|head| head.frame));
        for frame in frames {
            let h = frame.header();
            let ours =
                matches!(h.kind, FrameKind::Base { resync: id, .. } if id == resync) && h.group == self.options.group;
            let follows = h.number == FrameNo::following(head.map(|head| head.frame));
            if !ours || !follows || h.prev != head.map_or(ChainHead::START, |head| head.chain) {
                return Err(Error::invalid(format!("base frame {} does not continue the base", h.number)));
            }
            head = Some(BaseHead { frame: h.number, chain: frame.head() });
        }
        self.write(Chain::Base(resync), frames, session, now)?;
        self.reached(Step::BaseAppended)?;
        self.bases.entry(resync).or_default().head = head;
        Ok(())
    }

    /// Where the order stands after `frame`, if it continues it.
    fn next_head(&self, head: Option<Head>, frame: &Frame) -> Result<Head> {
        let h = frame.header();
        let refused = |why: &str| Error::invalid(format!("frame {} {why}", h.number));
        let (FrameKind::Live { first }, Some(seq)) = (h.kind, frame.last_seq()) else {
            return Err(refused("is not part of the order"));
        };
        if h.group != self.options.group {
            return Err(refused("is of another group"));
        }
        // A spool may begin anywhere: what was before it is at the receiver.
        let is_first = (first, h.number, h.prev) == (Seq::FIRST, FrameNo::FIRST, ChainHead::START);
        let begins = head.is_none() && (!self.options.entries || is_first);
        let continues = head.is_some_and(|head| {
            h.number == FrameNo::following(Some(head.frame)) && first == head.seq.after(1) && h.prev == head.chain
        });
        if !begins && !continues {
            return Err(refused("does not continue the order"));
        }
        if head.is_none_or(|head| head.epoch != h.epoch) {
            let Some(Body::EpochBegin(begin)) = frame.records().next().map(|record| record.body) else {
                return Err(refused("begins an epoch without saying so"));
            };
            if head.is_some() && !begin.follows(head) {
                return Err(refused("begins an epoch that continues another history"));
            }
        }
        Ok(Head { epoch: h.epoch, seq, frame: h.number, chain: frame.head() })
    }

    /// Makes all live frames durable. The one `fdatasync` for everything appended since the last.
    ///
    /// # Errors
    /// Any error closes the log: what is on disk is unknown until it is reopened.
    pub fn sync(&mut self) -> Result<Option<Durable>> {
        self.check_open()?;
        if let Some(writer) = &self.live.writer {
            let result = writer.segment.file.sync();
            self.close_on_error(result)?;
        }
        self.live.durable = self.live.head.map(|head| Durable(head.seq));
        Ok(self.live.durable)
    }

    /// Makes all frames of a base durable.
    ///
    /// # Errors
    /// As [`sync`](Log::sync).
    pub fn sync_base(&mut self, resync: ResyncId) -> Result<Option<BaseHead>> {
        self.check_open()?;
        let Some(base) = self.bases.get(&resync) else { return Ok(None) };
        if let Some(writer) = &base.writer {
            let result = writer.segment.file.sync().and_then(|()| failpoint::reached(Step::BaseDurable));
            self.close_on_error(result)?;
        }
        let Some(base) = self.bases.get_mut(&resync) else { return Ok(None) };
        base.durable = base.head;
        Ok(base.durable)
    }

    /// Seals the last segment of a base that is whole.
    ///
    /// # Errors
    /// As [`sync`](Log::sync).
    pub fn finish_base(&mut self, resync: ResyncId) -> Result<()> {
        self.check_open()?;
        let result = self.seal(Chain::Base(resync));
        self.close_on_error(result)
    }

    /// Drops the segments whose every record is at or before `seq`. The one being written stays.
    ///
    /// # Errors
    /// As [`sync`](Log::sync).
    pub fn drop_through(&mut self, seq: Seq) -> Result<()> {
        let old = self
            .segments
            .values()
            .filter(|segment| segment.sealed.and_then(|s| s.end).is_some_and(|end| end <= seq.after(1)));
        let old: Vec<SegmentNo> = old.map(|segment| segment.header.number).collect();
        self.drop_segments(&old)
    }

    /// Drops a base that will not be sealed. Its end goes first: what a crash leaves is the beginning of a base.
    ///
    /// # Errors
    /// As [`sync`](Log::sync).
    pub fn drop_base(&mut self, resync: ResyncId) -> Result<()> {
        let ours = |segment: &&Arc<Segment>| segment.header.kind == SegmentKind::Base { resync };
        let old: Vec<SegmentNo> =
            self.segments.values().rev().filter(ours).map(|segment| segment.header.number).collect();
        self.drop_segments(&old)?;
        self.bases.remove(&resync);
        Ok(())
    }

    /// 1. the manifest says that they are gone, durably; 2. their files go. A crash between leaks space until the next open.
    fn drop_segments(&mut self, numbers: &[SegmentNo]) -> Result<()> {
        self.check_open()?;
        for &number in numbers {
            let result = self.manifest.append(ManifestEntry::Dropped(number)).and_then(|()| {
                failpoint::reached(Step::SegmentDropped)?;
                match self.disk.remove(&number.file_name()) {
                    Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
                    removed => removed,
                }
            });
            self.close_on_error(result)?;
            self.segments.retain(|_, segment| segment.header.number != number);
            self.changed = true;
        }
        if numbers.is_empty() {
            return Ok(());
        }
        let result = self.disk.sync_dir();
        self.close_on_error(result)
    }

    /// Makes everything durable and notes where the order stands, so that damage to its last frames is told from a torn tail.
    ///
    /// # Errors
    /// As [`sync`](Log::sync).
    pub fn stop(&mut self, now: WallTime) -> Result<()> {
        self.check_open()?;
        let trimmed = self.live.writer.as_ref().map_or(Ok(()), |writer| trim(&*writer.segment.file, writer.end));
        self.close_on_error(trimmed)?;
        self.sync()?;
        for resync in self.bases.keys().copied().collect::<Vec<_>>() {
            self.sync_base(resync)?;
        }
        let (seq, head) =
            (self.live.head.map(|head| head.seq), self.live.head.map_or(ChainHead::START, |head| head.chain));
        let result = self.manifest.append(ManifestEntry::Stopped(Stopped { seq, head, wall: now }));
        self.close_on_error(result)
    }

    fn write(&mut self, chain: Chain, frames: &[Frame], session: SessionId, now: WallTime) -> Result<()> {
        self.check_open()?;
        let mut rest = frames;
        while let Some(first) = rest.first() {
            let result = self.roll(chain, first, now);
            self.close_on_error(result)?;
            let entries = self.options.entries;
            let (durable, limit) = (self.durable_number(chain), self.options.segment_bytes);
            let Some(writer) = self.writer(chain).as_mut() else { break };
            let room = limit.saturating_sub(writer.end);
            let count = fitting(rest, room);
            let (batch, later) = rest.split_at(count);
            let result = writer.append(batch, Stamp { session, now, durable, entries });
            self.close_on_error(result)?;
            rest = later;
        }
        Ok(())
    }

    fn durable_number(&self, chain: Chain) -> u64 {
        match chain {
            Chain::Live => self.live.durable.map_or(0, |durable| durable.0.number()),
            Chain::Base(resync) => self.base_durable(resync).map_or(0, |head| head.frame.number()),
        }
    }

    fn writer(&mut self, chain: Chain) -> &mut Option<Writer> {
        match chain {
            Chain::Live => &mut self.live.writer,
            Chain::Base(resync) => &mut self.bases.entry(resync).or_default().writer,
        }
    }

    /// Makes sure that there is a segment with room for `first`.
    ///
    /// 1. The full one gets its index, fdatasync, and the manifest says `sealed`.
    /// 2. A file with a header is made: fdatasync, directory fsync.
    /// 3. The manifest names it. Only then frames go into it.
    fn roll(&mut self, chain: Chain, first: &Frame, now: WallTime) -> Result<()> {
        let limit = self.options.segment_bytes;
        // An empty one that a crash left may have been meant for another frame than this.
        let unfit = |writer: &mut Writer| writer.last.is_none() && !begins_with(&writer.segment.header, first);
        if let Some(unfit) = self.writer(chain).take_if(unfit) {
            self.drop_segments(&[unfit.segment.header.number])?;
        }
        if self.writer(chain).as_ref().is_some_and(|writer| writer.end < limit) {
            return Ok(());
        }
        self.seal(chain)?;
        let latest = if chain == Chain::Live { self.latest() } else { WallTime(0) };
        let (kind, resync, first_seq) = match first.header().kind {
            FrameKind::Live { first } => (SegmentKind::Live { first }, None, Some(first)),
            FrameKind::Base { resync, .. } => (SegmentKind::Base { resync }, Some(resync), None),
            FrameKind::Compacted => return Err(Error::invalid("a compacted frame is nobody's to send")),
        };
        let header = SegmentHeader {
            group: self.options.group,
            epoch: first.header().epoch,
            salt: Salt((self.entropy)()),
            number: self.next,
            kind,
            chain_in: first.header().prev,
            first_frame: first.header().number,
            created: now,
            replaces: None,
        };
        let bytes = header.encode();
        let file = self.disk.open(&header.number.file_name(), Open::CreateNew)?;
        file.write_at(0, &[IoSlice::new(&bytes)])?;
        file.sync()?;
        self.disk.sync_dir()?;
        base_reached(header.kind, Step::BaseSegmentMade)?;
        let created =
            SegmentCreated { number: header.number, salt: header.salt, resync, first: first_seq, place: header.number };
        self.manifest.append(ManifestEntry::Created(created))?;
        base_reached(header.kind, Step::BaseSegmentNamed)?;
        self.next = SegmentNo(self.next.0 + 1);
        let segment = Arc::new(Segment { header, file, sealed: None, state: SegmentState::Good });
        self.segments.insert(header.number, segment.clone());
        *self.writer(chain) = Some(Writer {
            segment,
            end: bytes.len() as u64,
            index: Builder { latest, ..Builder::default() },
            last: None,
        });
        Ok(())
    }

    /// Gives the segment being written its index and its end. One without frames stays open.
    fn seal(&mut self, chain: Chain) -> Result<()> {
        let Some(writer) = self.writer(chain).take_if(|writer| writer.last.is_some()) else { return Ok(()) };
        let Writer { segment, end, index, last } = writer;
        let Some(last) = last else { return Ok(()) };
        let latest = index.latest;
        let footer = Arc::new(Footer::from(index));
        match self.end_segment(&segment, end, &last, &footer) {
            Ok(sealed) => {
                let (header, file) = (segment.header, segment.file.clone());
                let segment = Segment { header, file, sealed: Some(sealed), state: SegmentState::Good };
                self.segments.insert(header.number, Arc::new(segment));
                *self.last_footer.get_mut().unwrap_or_else(PoisonError::into_inner) = Some((header.number, footer));
                self.changed = true;
                Ok(())
            }
            Err(error) => {
                // Nothing more is written; what is in it is found and read all the same.
                let index = Builder { frames: footer.frames.clone(), latest, ..Builder::default() };
                *self.writer(chain) = Some(Writer { segment, end, index, last: Some(last) });
                Err(error)
            }
        }
    }

    fn end_segment(
        &mut self,
        segment: &Segment,
        footer_at: u64,
        last: &FrameHeader,
        footer: &Footer,
    ) -> Result<SegmentSealed> {
        let times = times(&footer.frames);
        let end = last.last_seq().map(|seq| seq.after(1));
        let (head, last_frame) = (last.chain_head(), last.number);
        let ending = Ending { salt: segment.header.salt, footer_at, end, head, last_frame };
        let bytes = footer.encode(&ending);
        let file_bytes = footer_at + bytes.len() as u64;
        segment.file.write_at(footer_at, &[IoSlice::new(&bytes)])?;
        trim(&*segment.file, file_bytes)?;
        segment.file.sync()?;
        base_reached(segment.header.kind, Step::BaseIndexWritten)?;
        let sealed = SegmentSealed { number: segment.header.number, file_bytes, end, head, last_frame, times };
        self.manifest.append(ManifestEntry::Sealed(sealed))?;
        base_reached(segment.header.kind, Step::BaseSealed)?;
        Ok(sealed)
    }

    pub(super) fn check_open(&self) -> Result<()> {
        match &self.closed {
            None => Ok(()),
            Some(why) => Err(Error::poisoned(format!("the journal may not be written: {why}"))),
        }
    }

    /// A step of whoever uses the log; one that fails closes it, as any other.
    ///
    /// # Errors
    /// As [`failpoint::reached`].
    pub fn reached(&mut self, step: Step) -> Result<()> {
        self.close_on_error(failpoint::reached(step))
    }

    pub(super) fn close_on_error<T>(&mut self, result: Result<T>) -> Result<T> {
        result.inspect_err(|error| {
            self.closed.get_or_insert_with(|| error.to_string());
        })
    }
}

/// A step that is one of a resync only.
fn base_reached(kind: SegmentKind, step: Step) -> Result<()> {
    if matches!(kind, SegmentKind::Base { .. }) { failpoint::reached(step) } else { Ok(()) }
}

/// A file that was another segment before may be longer than what is in it now.
fn trim(file: &dyn File, bytes: u64) -> Result<()> {
    if file.len()? > bytes { file.set_len(bytes) } else { Ok(()) }
}

/// The frames that are not here yet.
fn new_frames(frames: &[Frame], known: Option<FrameNo>) -> &[Frame] {
    let old = frames.iter().take_while(|frame| Some(frame.header().number) <= known).count();
    frames.get(old..).unwrap_or_default()
}

/// How many of the frames go into `room` bytes; at least one.
fn fitting(frames: &[Frame], room: u64) -> usize {
    let mut used = 0;
    let fits = frames.iter().take_while(|frame| {
        let before = used;
        used += frame.bytes().len() as u64;
        before < room
    });
    fits.count().max(1)
}
