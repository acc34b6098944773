//! Opens a log: reads the manifest, checks each segment, recovers the ones that were being written.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use super::header::{header_from_frame, matches, read_header, resync_of};
use super::manifest::{Manifest, Opened};
use super::named::Named;
use super::recover::{Decision, Facts, Tail, decide};
use super::scan::scan;
use super::segment::{Segment, SegmentState, Writer};
use super::{Base, BaseHead, Entropy, Head, Live, Log};
use crate::codec::{
    ENVELOPE_BYTES, FrameHeader, ManifestEntry, SEGMENT_HEADER_BYTES, SegmentCreated, SegmentHeader, SegmentKind,
    SegmentSealed,
};
use crate::disk::{Disk, File, Open};
use crate::error::{Error, ErrorKind, Result};
use crate::index::Builder;
use crate::types::{Durable, FrameNo, GroupId, ResyncId, SegmentNo, Seq, WallTime};

/// What a log is to be like.
#[derive(Clone, Copy, Debug)]
pub struct LogOptions {
    /// Whose.
    pub group: GroupId,
    /// Content after which a segment is sealed.
    pub segment_bytes: u64,
    /// Whether sealed segments say where each version is; a spool needs only to find frames.
    pub entries: bool,
}

/// Something that was not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Where: a file, and a place in it.
    pub place: String,
    /// What, in words.
    pub what: String,
    /// Whether it is as it should be now.
    pub mended: bool,
}

impl Finding {
    /// Something that is as it should be now.
    pub(crate) fn mended(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self { place: place.into(), what: what.into(), mended: true }
    }

    /// Something that is lost.
    pub(crate) fn damage(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self { place: place.into(), what: what.into(), mended: false }
    }
}

impl Log {
    /// Opens the log in `disk`, makes it if there is none, and recovers from whatever a crash left. Findings are what was cut or is damaged.
    ///
    /// A damaged log opens, is [closed](Log::closed) for writing, and readable below the damage.
    ///
    /// # Errors
    /// When the manifest cannot be read: then nothing is known.
    pub fn open(disk: Arc<dyn Disk>, options: LogOptions, entropy: Entropy) -> Result<(Self, Vec<Finding>)> {
        let Opened { manifest, entries, cut } = Manifest::open(&*disk, options.group, entropy)?;
        let mut opening = Opening {
            disk,
            options,
            findings: Vec::new(),
            closed: None,
            live_ends: false,
            lost_bases: BTreeMap::new(),
        };
        if cut {
            opening.report("manifest", "its last entry was torn and was cut", true);
        }
        let named = Named::of(&entries);
        opening.remove_strays(&named)?;
        let mut log = Self {
            disk: opening.disk.clone(),
            options,
            entropy,
            manifest,
            segments: BTreeMap::new(),
            live: Live::default(),
            bases: BTreeMap::new(),
            next: SegmentNo(named.next),
            closed: None,
            lost_bases: BTreeMap::new(),
            changed: false,
            last_footer: Mutex::default(),
        };
        for (created, sealed) in named.segments.values() {
            opening.segment(&mut log, created, *sealed, named.stopped)?;
        }
        log.closed = opening.closed;
        log.lost_bases = opening.lost_bases;
        if log.closed.is_none() {
            match log.settle(&entries, &named) {
                // What is there can be read all the same, and room can be made.
                Err(error) if error.kind() == ErrorKind::NoSpace => {
                    log.close(&format!("no room for the manifest: {error}"));
                }
                settled => settled?,
            }
        }
        Ok((log, opening.findings))
    }

    /// A killed process may have left names and its last entry in memory only: nothing new is promised on top of those.
    fn settle(&mut self, entries: &[ManifestEntry], named: &Named) -> Result<()> {
        // 1. Names that went are gone before the manifest forgets that they were dropped.
        self.disk.sync_dir()?;
        // 2. The manifest as a whole.
        if !matches!(entries.last(), Some(ManifestEntry::Header { .. } | ManifestEntry::Stopped(_))) {
            self.manifest.rewrite(&*self.disk, self.entropy, &named.current())?;
        }
        Ok(())
    }

    /// Takes nothing more until it is opened anew. The first reason counts.
    pub(crate) fn close(&mut self, why: &str) {
        self.closed.get_or_insert_with(|| why.to_owned());
    }
}

struct Opening {
    disk: Arc<dyn Disk>,
    options: LogOptions,
    findings: Vec<Finding>,
    closed: Option<String>,
    /// A live segment is damaged or gone: the order ends there, whatever later segments hold.
    live_ends: bool,
    lost_bases: BTreeMap<ResyncId, Vec<SegmentNo>>,
}

impl Opening {
    fn report(&mut self, place: impl Into<String>, what: impl Into<String>, mended: bool) {
        self.findings.push(Finding { place: place.into(), what: what.into(), mended });
    }

    fn damage(&mut self, place: &str, resync: Option<ResyncId>, what: impl Into<String>) {
        let what = what.into();
        match resync {
            None => {
                self.live_ends = true;
                self.closed.get_or_insert_with(|| format!("{place}: {what}"));
            }
            // Whether that matters is known once it is known whether the base was ever sealed.
            Some(resync) => drop(self.lost_bases.entry(resync).or_default()),
        }
        self.report(place, what, false);
    }

    /// Removes files of segments that were dropped, or created and never named. One that holds frames is kept: then it is the
    /// manifest that lost something.
    fn remove_strays(&mut self, named: &Named) -> Result<()> {
        let names: BTreeSet<String> = named.segments.keys().map(|number| number.file_name()).collect();
        let dropped: BTreeSet<String> = named.dropped.iter().map(|number| number.file_name()).collect();
        let mut removed = false;
        for name in self.disk.list()? {
            if !name.ends_with(".seg") || names.contains(&name) {
                continue;
            }
            if !dropped.contains(&name) && self.holds_frames(&name)? {
                self.closed.get_or_insert_with(|| format!("{name}: frames that the manifest does not name"));
                self.report(&name, "holds frames, but the manifest does not name it", false);
                continue;
            }
            self.disk.remove(&name)?;
            removed = true;
        }
        if removed { self.disk.sync_dir() } else { Ok(()) }
    }

    /// Whether a file may hold anything but a header: only what surely holds nothing is removed.
    fn holds_frames(&self, name: &str) -> Result<bool> {
        let file = self.disk.open(name, Open::ReadOnly)?;
        let length = file.len()?;
        let Ok(header) = read_header(&*file) else { return Ok(length > SEGMENT_HEADER_BYTES as u64) };
        let mut frames = 0;
        let found = scan(&*file, &header, length, |_| frames += 1)?;
        Ok(frames > 0 || found.durable > 0 || found.tail != Tail::Nothing)
    }

    fn segment(
        &mut self,
        log: &mut Log,
        created: &SegmentCreated,
        sealed: Option<SegmentSealed>,
        stopped: Option<Seq>,
    ) -> Result<()> {
        if created.resync.is_none() && self.live_ends {
            return Ok(());
        }
        let name = created.number.file_name();
        let mode = if sealed.is_some() { Open::ReadOnly } else { Open::Existing };
        let file = match self.disk.open(&name, mode) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.gone(created, &name, "the file is gone");
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let header = match read_header(&*file) {
            Ok(header) if matches(&header, created, self.options.group) => header,
            Err(error) if error.kind() == ErrorKind::Unsupported => return Err(error.with_path(&name)),
            read => {
                let why = read.err().map_or_else(|| "it is another segment's".into(), |error| error.to_string());
                let Some(header) = header_from_frame(&*file, created, self.options.group)? else {
                    self.gone(created, &name, format!("neither its header nor its first frame can be read: {why}"));
                    return Ok(());
                };
                let what = format!("its header cannot be read ({why}); the manifest and the first frame say the same");
                self.report(&name, what, true);
                header
            }
        };
        if !self.check_chain(log, created, &name, &header) {
            return Ok(());
        }
        match sealed {
            Some(sealed) => self.sealed_segment(log, &name, file, header, sealed),
            None => self.open_segment(log, &name, file, header, stopped),
        }
    }

    /// Each segment starts where the one before it in its chain ended.
    fn check_chain(&mut self, log: &Log, created: &SegmentCreated, name: &str, header: &SegmentHeader) -> bool {
        let fits = match header.kind {
            SegmentKind::Live { first } => log.live.head.is_none_or(|head| {
                head.chain == header.chain_in
                    && head.seq.after(1) == first
                    && FrameNo::following(Some(head.frame)) == header.first_frame
            }),
            SegmentKind::Base { resync } => match log.base_head(resync) {
                Some(head) => {
                    head.chain == header.chain_in && FrameNo::following(Some(head.frame)) == header.first_frame
                }
                None => header.first_frame == FrameNo::FIRST,
            },
        };
        if !fits {
            self.gone(created, name, "does not continue the segment before it");
        }
        fits
    }

    /// A segment that cannot be used at all.
    fn gone(&mut self, created: &SegmentCreated, name: &str, what: impl Into<String>) {
        self.damage(name, created.resync, what);
        if let Some(resync) = created.resync {
            self.lost_bases.entry(resync).or_default().push(created.number);
        }
    }

    fn sealed_segment(
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
        self.advance(log, &header, last, true);
        log.segments.insert(header.number, Arc::new(segment));
        Ok(())
    }

    /// A sealed segment without a readable index: its frames are what there is. Returns the last readable one.
    fn scan_sealed(&mut self, name: &str, segment: &mut Segment, error: &Error) -> Option<FrameHeader> {
        segment.state = SegmentState::NoIndex;
        let (mut last, limit) = (None, segment.sealed.map_or(0, |sealed| sealed.file_bytes));
        let found = scan(&*segment.file, &segment.header, limit, |visit| last = Some(*visit.frame.header()));
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
        match (header.kind, sealed.end.and_then(Seq::before)) {
            (SegmentKind::Live { .. }, Some(seq)) => {
                log.live.head = Some(Head { epoch: header.epoch, seq, frame: sealed.last_frame, chain: sealed.head });
                log.live.durable = Some(Durable(seq));
            }
            (SegmentKind::Live { .. }, None) => {}
            (SegmentKind::Base { resync }, _) => {
                advance_base(log, resync, BaseHead { frame: sealed.last_frame, chain: sealed.head }, true);
            }
        }
    }

    /// A segment that was being written when the log was last closed, cleanly or not.
    fn open_segment(
        &mut self,
        log: &mut Log,
        name: &str,
        file: Arc<dyn File>,
        header: SegmentHeader,
        stopped: Option<Seq>,
    ) -> Result<()> {
        let latest = if resync_of(&header).is_none() { log.latest() } else { WallTime(0) };
        let (mut index, mut last) = (Builder { latest, ..Builder::default() }, None);
        let found = scan(&*file, &header, file.len()?, |visit| {
            index.add(&visit.frame, visit.at, visit.at + ENVELOPE_BYTES as u64, self.options.entries);
            last = Some(*visit.frame.header());
        })?;
        let (before, durable) = match header.kind {
            SegmentKind::Live { first } => (first.number() - 1, Seq::encode(stopped)),
            SegmentKind::Base { .. } => (header.first_frame.number() - 1, 0),
        };
        let head =
            last.as_ref().map_or(before, |last| last.last_seq().map_or_else(|| last.number.number(), Seq::number));
        let facts = Facts { head, durable: found.durable.max(durable).max(before), tail: found.tail };
        let why = found.why.unwrap_or_else(|| "frames are missing".into());
        let mut state = SegmentState::Good;
        match decide(facts) {
            Decision::Clean => {}
            Decision::Cut => {
                // What was cut must not come back behind frames that are written later.
                file.set_len(found.end)?;
                file.sync()?;
                self.report(
                    name,
                    format!("a torn tail at byte {} was cut: {why}; {} was promised", found.end, facts.durable),
                    true,
                );
            }
            Decision::Damaged => {
                let what = format!(
                    "damaged at byte {}: {why}; readable up to {}, {} was promised",
                    found.end, facts.head, facts.durable
                );
                state = SegmentState::Damaged(what.clone());
                self.damage(name, resync_of(&header), what);
            }
        }
        let segment = Arc::new(Segment { header, file, sealed: None, state });
        self.advance(log, &header, last, false);
        let writer = Writer { segment: segment.clone(), end: found.end, index, last };
        match header.kind {
            SegmentKind::Live { .. } => log.live.writer = Some(writer),
            SegmentKind::Base { resync } => log.bases.entry(resync).or_default().writer = Some(writer),
        }
        log.segments.insert(header.number, segment);
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
