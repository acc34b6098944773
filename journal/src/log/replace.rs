//! Puts a compacted segment into the place of those that it stands for.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Log;
use super::header::resync_of;
use super::named::Named;
use super::segment::{Segment, SegmentState, Stamp, Writer};
use crate::codec::{
    ManifestEntry, REPLACED_MAX, Replaced, SEGMENT_HEADER_BYTES, SegmentCreated, SegmentHeader, SegmentKind,
    SegmentSealed, Thinned,
};
use crate::disk::{Disk, Open};
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint::{self, Step};
use crate::frame::Frame;
use crate::index::{Builder, Ending, Footer};
use crate::types::{ChainHead, FrameNo, ResyncId, SegmentNo, Seq, SessionId, WallTime};

/// Entries of a manifest that may mean nothing any more, besides some for each segment.
const MANIFEST_SPARE: u64 = if cfg!(test) { 64 } else { 4096 };

/// A compacted segment that is durable, and that no manifest names yet.
#[derive(Debug)]
pub struct Compacted {
    segment: Segment,
    old: Vec<SegmentNo>,
}

/// A compacted segment that is being written.
#[derive(Debug)]
pub(crate) struct CompactedWriter {
    writer: Writer,
    old: Vec<Arc<Segment>>,
}

impl Compacted {
    /// Its number.
    pub fn number(&self) -> SegmentNo {
        self.segment.header.number
    }

    /// Bytes of its file.
    pub fn bytes(&self) -> u64 {
        self.segment.sealed.map_or(0, |sealed| sealed.file_bytes)
    }
}

impl CompactedWriter {
    /// Makes the file. `header` is that of the new segment: durable before anything else, so that what a crash leaves is known for what it is.
    pub(crate) fn create(disk: &dyn Disk, header: SegmentHeader, old: Vec<Arc<Segment>>) -> Result<Self> {
        let name = header.number.file_name();
        let file = disk.open(&name, Open::CreateNew)?;
        let begun = file.write_at(0, &[std::io::IoSlice::new(&header.encode())]);
        if let Err(error) = begun.and_then(|()| file.sync()).and_then(|()| disk.sync_dir()) {
            // What cannot be removed now is when the log is opened next.
            let _ = disk.remove(&name);
            return Err(error);
        }
        let segment = Arc::new(Segment { header, file, sealed: None, state: SegmentState::Good });
        let writer = Writer { segment, end: SEGMENT_HEADER_BYTES as u64, index: Builder::default(), last: None };
        Ok(Self { writer, old })
    }

    /// Appends a frame.
    pub(crate) fn append(&mut self, frame: &Frame, now: WallTime) -> Result<()> {
        let stamp = Stamp { session: SessionId(0), now, durable: 0, entries: true };
        self.writer.append(std::slice::from_ref(frame), stamp)
    }

    /// Number and chain that the next frame goes on with.
    pub(crate) fn next(&self) -> (FrameNo, ChainHead) {
        let last = self.writer.last.as_ref();
        (FrameNo::following(last.map(|last| last.number)), last.map_or(ChainHead::START, |last| last.chain_head()))
    }

    /// Writes the index, and makes all of it durable.
    pub(crate) fn finish(self, disk: &dyn Disk) -> Result<Compacted> {
        let Self { writer: Writer { segment, end: footer_at, index, last }, old } = self;
        let last = last.ok_or_else(|| Error::invalid("a compacted segment without frames"))?;
        let replaces = segment.header.replaces.ok_or_else(|| Error::invalid("a segment that stands for nothing"))?;
        let (head, last_frame, end) = (last.chain_head(), last.number, replaces.end);
        let bytes = Footer::from(index).encode(&Ending { salt: segment.header.salt, footer_at, end, head, last_frame });
        segment.file.write_at(footer_at, &[std::io::IoSlice::new(&bytes)])?;
        failpoint::reached(Step::CompactedWritten)?;
        segment.file.sync()?;
        disk.sync_dir()?;
        failpoint::reached(Step::CompactedDurable)?;
        let times_of =
            |segment: Option<&Arc<Segment>>| segment.and_then(|segment| segment.sealed).map(|sealed| sealed.times);
        let (from, to) = (times_of(old.first()), times_of(old.last()));
        let times = (from.map_or(WallTime(0), |times| times.0), to.map_or(WallTime(0), |times| times.1));
        let number = segment.header.number;
        let file_bytes = footer_at + bytes.len() as u64;
        let sealed = Some(SegmentSealed { number, file_bytes, end, head, last_frame, times });
        let (header, file) = (segment.header, Arc::clone(&segment.file));
        let old = old.iter().map(|segment| segment.header.number).collect();
        Ok(Compacted { segment: Segment { header, file, sealed, state: SegmentState::Good }, old })
    }
}

impl Log {
    /// A number for a file that is made beside the log, above `beyond`. It is of no use once the log was opened anew: then what has it
    /// is a stray, and gone.
    pub(crate) fn take_number(&mut self, beyond: SegmentNo) -> SegmentNo {
        let number = self.next.max(SegmentNo(beyond.0 + 1));
        self.next = SegmentNo(number.0 + 1);
        self.taken.insert(number);
        number
    }

    /// Numbers up to this one belong to others: an opening before this one gave them out, and who has one may still use its name.
    pub(crate) fn skip_numbers(&mut self, last: SegmentNo) {
        self.next = self.next.max(SegmentNo(last.0 + 1));
    }

    /// Uses a number that was given out, once.
    pub(super) fn use_number(&mut self, number: SegmentNo) -> Result<()> {
        let known = self.taken.remove(&number).then_some(());
        known.ok_or_else(|| Error::invalid("what was made for a journal that has been opened anew"))
    }

    /// Writes the manifest anew once most of its entries mean nothing any more.
    pub(super) fn shorten_manifest(&mut self) -> Result<()> {
        if self.manifest.len() < MANIFEST_SPARE + 8 * self.segments.len() as u64 {
            return Ok(());
        }
        // A file that it calls dropped has to be gone before it forgets that: frames that nobody names would be damage.
        let gone = self.forgotten_are_gone();
        if !self.close_on_error(gone)? {
            return Ok(());
        }
        let mut named = Named { next: self.next.0, last_stop: self.last_stop, ..Named::default() };
        let kept = self.kept.as_ref().zip(self.list);
        named.thinned = kept.map(|(kept, list)| Thinned { list, upto: kept.upto });
        for (place, segment) in &self.segments {
            let (resync, first) = chain_of(&segment.header);
            let (number, salt) = (segment.header.number, segment.header.salt);
            let created = SegmentCreated { number, salt, resync, first, place: *place };
            named.segments.insert(*place, (created, segment.sealed));
        }
        let written = self.manifest.rewrite(&*self.disk, self.entropy, &named.current());
        self.close_on_error(written)
    }

    fn forgotten_are_gone(&self) -> Result<bool> {
        self.disk.sync_dir()?;
        let known: BTreeSet<SegmentNo> = self.segments.values().map(|segment| segment.header.number).collect();
        let there = self.disk.list()?;
        let mut numbers = there.iter().filter_map(|name| SegmentNo::of_file(name));
        Ok(numbers.all(|number| known.contains(&number) || self.taken.contains(&number)))
    }

    /// Lets a compacted segment stand for the old ones: with one entry of the manifest. The names of the files that are of no use any more;
    /// readers may still have them open. A crash before they are removed leaks space until the next open.
    ///
    /// # Errors
    /// `Invalid` if they are not what they were, `Corrupt` if it is not known which points are left: then nothing has changed. Any other
    /// closes the log.
    pub(crate) fn replace(&mut self, new: Compacted) -> Result<Vec<String>> {
        self.check_open()?;
        self.check_points()?;
        let Compacted { segment, old } = new;
        let (header, Some(sealed)) = (segment.header, segment.sealed) else {
            return Err(Error::invalid("a compacted segment without an end"));
        };
        let chain: Vec<&Arc<Segment>> = self
            .segments
            .range(header.place()..)
            .map(|(_, segment)| segment)
            .filter(|s| resync_of(&s.header) == resync_of(&header))
            .take(old.len())
            .collect();
        let is_same = !old.is_empty()
            && old.len() <= REPLACED_MAX
            && chain.iter().map(|segment| segment.header.number).eq(old.iter().copied())
            && chain.iter().all(|segment| segment.sealed.is_some() && segment.state == SegmentState::Good);
        if !is_same {
            return Err(Error::invalid("what was compacted is not there any more as it was"));
        }
        self.shorten_manifest()?;
        self.use_number(header.number)?;
        let mut numbers = [SegmentNo(0); REPLACED_MAX];
        numbers.iter_mut().zip(&old).for_each(|(to, from)| *to = *from);
        let (resync, first) = chain_of(&header);
        let created = SegmentCreated { number: header.number, salt: header.salt, resync, first, place: header.place() };
        let entry = ManifestEntry::Replaced(Replaced { created, sealed, numbers });
        let named = self.manifest.append(entry).and_then(|()| failpoint::reached(Step::SegmentReplaced));
        self.close_on_error(named)?;
        self.segments.retain(|_, segment| !old.contains(&segment.header.number));
        self.segments.insert(header.place(), Arc::new(segment));
        self.changed = true;
        Ok(old.iter().map(|number| number.file_name()).collect())
    }
}

fn chain_of(header: &SegmentHeader) -> (Option<ResyncId>, Option<Seq>) {
    match header.kind {
        SegmentKind::Live { first } => (None, Some(first)),
        SegmentKind::Base { resync } => (Some(resync), None),
    }
}

/// Removes files that nothing names any more.
///
/// # Errors
/// When the disk fails: then they are removed when the log is opened next.
pub fn remove_replaced(disk: &dyn Disk, names: &[String]) -> Result<()> {
    for name in names {
        match disk.remove(name) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            removed => removed?,
        }
    }
    disk.sync_dir()?;
    failpoint::reached(Step::ReplacedRemoved)
}
