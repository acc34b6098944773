//! Recovers one segment: a sealed one from its end, one that was being written from its frames.

use std::sync::Arc;

use super::header::resync_of;
use super::open::Opening;
use super::recover::{Decision, Facts, decide};
use super::scan::{Scanned, place, scan};
use super::segment::{Segment, SegmentState, Writer};
use super::{Base, BaseHead, Head, Log};
use crate::codec::{ENVELOPE_BYTES, FrameHeader, SegmentHeader, SegmentKind, SegmentSealed};
use crate::disk::File;
use crate::error::{Error, Result};
use crate::index::{Builder, times};
use crate::types::{Durable, ResyncId, Seq, WallTime};

impl Opening {
    pub(super) fn sealed_segment(
        &mut self,
        log: &mut Log,
        name: &str,
        file: Arc<dyn File>,
        header: SegmentHeader,
        sealed: SegmentSealed,
    ) -> Result<()> {
        let mut segment = Segment { header, file, sealed: Some(sealed), state: SegmentState::Good };
        let last = match segment.last_frame() {
            Ok(last) => Some(last),
            Err(error) if segment.stored_footer().is_ok() => {
                // The index finds everything, and every unit is checked when it is read: only its last frame is lost.
                self.report(name, format!("its last frame cannot be read: {error}"), false);
                self.advance_to(log, &header, &sealed);
                None
            }
            Err(error) => self.scan_sealed(name, &mut segment, &error),
        };
        match header.replaces {
            // What is left of it is not the beginning of what it stands for: the order ends before it.
            Some(_) if matches!(segment.state, SegmentState::Damaged(_)) => {
                if resync_of(&header).is_none() {
                    return Ok(());
                }
            }
            Some(_) => self.advance_to(log, &header, &sealed),
            None => self.advance(log, &header, last, true),
        }
        log.segments.insert(header.place(), Arc::new(segment));
        Ok(())
    }

    /// A sealed segment without a readable index: its frames are what there is. Returns the last readable one.
    fn scan_sealed(&mut self, name: &str, segment: &mut Segment, error: &Error) -> Option<FrameHeader> {
        segment.state = SegmentState::NoIndex;
        let (mut last, limit) = (None, segment.sealed.map_or(0, |sealed| sealed.file_bytes));
        let found = scan(&*segment.file, &segment.header, limit, segment.promised(), |visit| {
            last = Some(*visit.frame.header());
        });
        if last.as_ref().map(FrameHeader::chain_head) == segment.sealed.map(|sealed| sealed.head) {
            self.report(name, format!("its index cannot be read and is made again when asked for: {error}"), true);
            return last;
        }
        let what = match found {
            Ok(found) => {
                format!("damaged at byte {}: {}", found.end, found.why.unwrap_or_else(|| "frames are missing".into()))
            }
            Err(error) => format!("cannot be read: {error}"),
        };
        segment.state = SegmentState::Damaged(what.clone());
        self.damage(name, resync_of(&segment.header), what);
        last
    }

    /// Moves the head of the segment's chain to where the manifest says that it ended.
    fn advance_to(&mut self, log: &mut Log, header: &SegmentHeader, sealed: &SegmentSealed) {
        let (frame, chain) = match header.replaces {
            Some(replaces) => (replaces.last_frame, replaces.chain_out),
            None => (sealed.last_frame, sealed.head),
        };
        match (header.kind, sealed.end.and_then(Seq::before)) {
            (SegmentKind::Live { .. }, Some(seq)) => {
                log.live.head = Some(Head { epoch: header.epoch, seq, frame, chain });
                log.live.durable = Some(Durable(seq));
            }
            (SegmentKind::Live { .. }, None) => {}
            (SegmentKind::Base { resync }, _) => {
                advance_base(log, resync, BaseHead { frame, chain }, true);
            }
        }
    }

    /// A segment that was being written when the log was last closed, cleanly or not. Only the last one of a chain can be, unless the
    /// manifest has lost where another one ended.
    pub(super) fn open_segment(
        &mut self,
        log: &mut Log,
        name: &str,
        file: Arc<dyn File>,
        header: SegmentHeader,
        (stopped, is_last): (Option<Seq>, bool),
    ) -> Result<()> {
        let latest = if resync_of(&header).is_none() { log.latest() } else { WallTime(0) };
        let entries = self.options.entries;
        let mut run = Run::read(&*file, &header, latest, (0, entries))?;
        let (before, noted) = match header.kind {
            SegmentKind::Live { first } => (first.number() - 1, Seq::encode(stopped)),
            SegmentKind::Base { .. } => (header.first_frame.number() - 1, 0),
        };
        let mut facts = run.facts(before, noted);
        // Damaged data hides nothing of the order. A spool only ever sends whole frames: there it ends all the same.
        if entries && decide(facts) == Decision::Damaged {
            run = Run::read(&*file, &header, latest, (facts.durable, entries))?;
            facts = run.facts(before, noted);
        }
        let end = run.found.end;
        let why = run.found.why.take().unwrap_or_else(|| "frames are missing".into());
        for at in &run.damaged {
            self.report(name, format!("byte {at}: data of a frame does not match its checksum, and is refused"), false);
        }
        let mut state = SegmentState::Good;
        match decide(facts) {
            Decision::Clean => {}
            // Where the manifest cannot be believed nothing is cut: it may know of more.
            Decision::Cut if self.read_only => {}
            Decision::Cut => {
                // What was cut must not come back behind frames that are written later.
                file.set_len(end)?;
                file.sync()?;
                let what = format!("a torn tail at byte {end} was cut: {why}; {} was promised", facts.durable);
                self.report(name, what, true);
            }
            Decision::Damaged => {
                let what = format!(
                    "damaged at byte {end}: {why}; readable up to {}, {} was promised",
                    facts.head, facts.durable
                );
                state = SegmentState::Damaged(what.clone());
                self.damage(name, resync_of(&header), what);
            }
        }
        self.advance(log, &header, run.last, false);
        if let Some(sealed) = run.sealed(&header).filter(|_| !is_last && state == SegmentState::Good) {
            let segment = Segment { header, file, sealed: Some(sealed), state: SegmentState::NoIndex };
            log.segments.insert(header.place(), Arc::new(segment));
            return Ok(());
        }
        let segment = Arc::new(Segment { header, file, sealed: None, state });
        let writer = Writer { segment: segment.clone(), end, index: run.index, last: run.last };
        match header.kind {
            SegmentKind::Live { .. } => log.live.writer = Some(writer),
            SegmentKind::Base { resync } => log.bases.entry(resync).or_default().writer = Some(writer),
        }
        log.segments.insert(header.place(), segment);
        Ok(())
    }

    /// Moves the head of the segment's chain to its last frame. What a scan read is on disk; that it is durable is known only
    /// of what was promised, so it is synced before anything new is promised.
    fn advance(&mut self, log: &mut Log, header: &SegmentHeader, last: Option<FrameHeader>, durable: bool) {
        let Some(last) = last else { return };
        match header.kind {
            SegmentKind::Live { .. } => {
                let Some(seq) = last.last_seq() else { return };
                log.live.head = Some(Head { epoch: last.epoch, seq, frame: last.number, chain: last.chain_head() });
                if durable {
                    log.live.durable = Some(Durable(seq));
                }
            }
            SegmentKind::Base { resync } => {
                advance_base(log, resync, BaseHead { frame: last.number, chain: last.chain_head() }, durable);
            }
        }
    }
}

fn advance_base(log: &mut Log, resync: ResyncId, head: BaseHead, durable: bool) {
    let base: &mut Base = log.bases.entry(resync).or_default();
    base.head = Some(head);
    if durable {
        base.durable = base.head;
    }
}

/// The readable run of a segment that was being written.
struct Run {
    found: Scanned,
    index: Builder,
    last: Option<FrameHeader>,
    /// Envelopes of the frames in it whose data is damaged.
    damaged: Vec<u64>,
}

impl Run {
    fn read(
        file: &dyn File,
        header: &SegmentHeader,
        latest: WallTime,
        (promised, entries): (u64, bool),
    ) -> Result<Self> {
        let (mut index, mut last, mut damaged) = (Builder { latest, ..Builder::default() }, None, Vec::new());
        let found = scan(file, header, file.len()?, promised, |visit| {
            index.add(&visit.frame, visit.at, visit.at + ENVELOPE_BYTES as u64, entries);
            last = Some(*visit.frame.header());
            damaged.extend(visit.is_data_damaged.then_some(visit.at));
        })?;
        Ok(Self { found, index, last, damaged })
    }

    /// What recovery decides on; `before` is the place before the segment, `noted` what the manifest says was promised.
    fn facts(&self, before: u64, noted: u64) -> Facts {
        let head = self.last.as_ref().map_or(before, place);
        Facts { head, durable: self.found.durable.max(noted).max(before), tail: self.found.tail }
    }

    /// How the segment would have ended, had it been sealed here; `None`: it holds nothing.
    fn sealed(&self, header: &SegmentHeader) -> Option<SegmentSealed> {
        let last = self.last.as_ref()?;
        Some(SegmentSealed {
            number: header.number,
            file_bytes: self.found.end,
            end: last.last_seq().map(|seq| seq.after(1)),
            head: last.chain_head(),
            last_frame: last.number,
            times: times(&self.index.frames),
        })
    }
}
