//! Mends a damaged log so that it can be gone on with: its order ends where it can be read, and what is beyond is set aside.
//!
//! ```text
//!  before   │ frames ─────────┤ damage ┆ frames nobody can prove │
//!  after    │ frames ─────────┤ set aside, never read            │ index, end │   the order ends at the last frame before
//! ```
//!
//! Only ever done because a person asked for it: whoever sent what is set aside sends it again, or compares. Nothing is removed.

use std::collections::BTreeSet;
use std::io::IoSlice;
use std::sync::Arc;

use super::named::Named;
use super::open::{Finding, LogOptions};
use super::points::PointsFile;
use super::segment::{FRAME_ALIGN, Segment, SegmentState};
use super::{Entropy, Log};
use crate::codec::{SegmentKind, SegmentSealed, Stopped, Thinned};
use crate::disk::{Disk, Open};
use crate::error::{Error, Result};
use crate::index::{Ending, Footer, times};
use crate::retention::Kept;
use crate::types::{ChainHead, SegmentNo, Seq};

/// Behind the name of a file that is set aside.
const ASIDE: &str = ".damaged";

impl Log {
    /// Mends what keeps the log in `disk` from being written to. Nothing is changed if nothing does.
    ///
    /// 1. Segments without an end that are not gone on with get their index, behind all that is in their file.
    /// 2. Files of the order that are not part of it any more are renamed.
    /// 3. The manifest is written anew, in one step: from then on all of that counts. A crash before leaves the damage as it was.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn mend(disk: Arc<dyn Disk>, options: LogOptions, entropy: Entropy) -> Result<Vec<Finding>> {
        let (mut log, _, mut named) = Self::open_named(Arc::clone(&disk), options, entropy)?;
        let Some(why) = log.closed.clone() else { return Ok(Vec::new()) };
        let mut findings =
            vec![Finding::mended("manifest", format!("written anew with what is left, because of {why}"))];
        // 1.
        let is_live = |segment: &&Arc<Segment>| matches!(segment.header.kind, SegmentKind::Live { .. });
        for segment in log.segments.values().filter(is_live).cloned().collect::<Vec<_>>() {
            let number = segment.header.number;
            let is_whole = segment.state == SegmentState::Good
                && (segment.sealed.is_some()
                    || log.live.writer.as_ref().is_some_and(|w| Arc::ptr_eq(&w.segment, &segment)));
            let has_end = named.find(number).is_some_and(|(_, sealed)| *sealed == segment.sealed);
            if is_whole || (segment.state == SegmentState::NoIndex && has_end) {
                continue;
            }
            // What is left of one that stands for others is not the beginning of what they held.
            let ended = if segment.header.replaces.is_none() { log.end_here(&segment)? } else { None };
            let Some(sealed) = ended else {
                log.segments.remove(&segment.header.place());
                continue;
            };
            if let Some((_, end)) = named.segments.get_mut(&number) {
                *end = Some(sealed);
            }
            let last = Seq::encode(sealed.end.and_then(Seq::before));
            findings
                .push(Finding::mended(number.file_name(), format!("it ends at {last}; what is behind is set aside")));
        }
        // 2.
        for name in log.set_aside(&mut named)? {
            findings.push(Finding::mended(&name, format!("set aside as {name}{ASIDE}")));
        }
        // 3. What a manifest has not said to be durable is made so before it does.
        for (created, _) in named.segments.values() {
            drop(log.disk.open(&created.number.file_name(), Open::Existing)?);
        }
        log.forget_later_stop(&mut named);
        log.forget_later_points(&mut named)?;
        log.manifest.rewrite(&*log.disk, log.entropy, &named.current())?;
        Ok(findings)
    }

    /// Writes the index of what can be read of a segment, behind all that is in its file; `None`: nothing can be.
    fn end_here(&self, segment: &Segment) -> Result<Option<SegmentSealed>> {
        let number = segment.header.number;
        let writer = self.live.writer.as_ref().filter(|writer| writer.segment.header.number == number);
        let footer = match writer {
            Some(writer) => Footer::from(writer.index.clone()),
            None => segment.rebuild()?,
        };
        if footer.frames.is_empty() {
            return Ok(None);
        }
        let (end, head, last_frame) = match (&segment.state, segment.sealed, self.live.head) {
            (SegmentState::NoIndex, Some(sealed), _) => (sealed.end, sealed.head, sealed.last_frame),
            // Damage ends the order: its head is the last frame before.
            (_, _, Some(head)) => (Some(head.seq.after(1)), head.chain, head.frame),
            _ => return Err(Error::corrupt("frames without an order").with_path(number.file_name())),
        };
        let file = self.disk.open(&number.file_name(), Open::Existing)?;
        let footer_at = file.len()?.next_multiple_of(FRAME_ALIGN);
        let ending = Ending { salt: segment.header.salt, footer_at, end, head, last_frame };
        let bytes = footer.encode(&ending);
        file.write_at(footer_at, &[IoSlice::new(&bytes)])?;
        file.sync()?;
        let file_bytes = footer_at + bytes.len() as u64;
        Ok(Some(SegmentSealed { number, file_bytes, end, head, last_frame, times: times(&footer.frames) }))
    }

    /// Renames the files of the order that are not part of it any more; which.
    fn set_aside(&self, named: &mut Named) -> Result<Vec<String>> {
        let used: BTreeSet<SegmentNo> = self.segments.values().map(|segment| segment.header.number).collect();
        let is_aside = |number: &SegmentNo| {
            let is_base = named.find(*number).is_some_and(|(created, _)| created.resync.is_some());
            !is_base && !named.dropped.contains(number) && !used.contains(number)
        };
        let files: Vec<String> = self.disk.list()?.into_iter().filter(|name| name.ends_with(".seg")).collect();
        let mut aside = Vec::new();
        for name in files {
            if SegmentNo::of_file(&name).is_none_or(|number| is_aside(&number)) {
                self.disk.rename(&name, &format!("{name}{ASIDE}"))?;
                aside.push(name);
            }
        }
        self.disk.sync_dir()?;
        let segments = &self.segments;
        named.segments.retain(|place, (created, _)| created.resync.is_some() || segments.contains_key(place));
        Ok(aside)
    }

    /// Points beyond the end are no points of what comes anew. Up to where history was thinned stays as it was: what is left of what is
    /// older was chosen for the points that there were.
    fn forget_later_points(&self, named: &mut Named) -> Result<()> {
        let end = Seq::following(self.live.head.map(|head| head.seq));
        let Some(kept) = self.kept.as_ref().filter(|kept| end < kept.upto && !self.lost_points) else { return Ok(()) };
        let list = SegmentNo(named.next);
        named.next += 1;
        PointsFile::write(&*self.disk, self.options.group, list, Kept::clone(kept))?;
        named.thinned = Some(Thinned { list, upto: kept.upto });
        Ok(())
    }

    /// What a clean stop promised beyond the end is set aside with it.
    fn forget_later_stop(&self, named: &mut Named) {
        let seq = self.live.head.map(|head| head.seq);
        if named.stopped > seq {
            let head = self.live.head.map_or(ChainHead::START, |head| head.chain);
            named.last_stop = Some(Stopped { seq, head, wall: self.latest() });
        }
    }
}
