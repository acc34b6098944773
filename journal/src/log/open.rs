//! Opens a log: reads the manifest, checks each segment, recovers the ones that were being written.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use super::header::{header_from_frame, matches, read_header};
use super::manifest::{Manifest, Opened};
use super::named::Named;
use super::recover::Tail;
use super::salvage::salvage;
use super::scan::scan;
use super::{Entropy, Live, Log};
use crate::codec::{ManifestEntry, SEGMENT_HEADER_BYTES, SegmentCreated, SegmentHeader, SegmentKind, SegmentSealed};
use crate::disk::{Disk, Open};
use crate::error::{ErrorKind, Result};
use crate::types::{FrameNo, GroupId, ResyncId, SegmentNo, Seq};

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
        Self::open_named(disk, options, entropy).map(|(log, findings, _)| (log, findings))
    }

    /// The same, and what was found to be there.
    pub(super) fn open_named(
        disk: Arc<dyn Disk>,
        options: LogOptions,
        entropy: Entropy,
    ) -> Result<(Self, Vec<Finding>, Named)> {
        let Opened { manifest, entries, cut, damage } = Manifest::open(&*disk, options.group, entropy)?;
        let mut opening = Opening {
            disk,
            options,
            findings: Vec::new(),
            closed: None,
            read_only: false,
            live_ends: false,
            lost_bases: BTreeMap::new(),
            lost_points: false,
        };
        if cut {
            opening.report("manifest", "its last entry was torn and was cut", true);
        }
        if let Some(what) = damage {
            opening.names_are_lost("manifest", &what);
        }
        let mut named = Named::of(&entries);
        opening.look_for_strays(&named)?;
        if opening.read_only {
            opening.findings.extend(salvage(&*opening.disk, options.group, &mut named)?);
        }
        let mut log = Self {
            disk: opening.disk.clone(),
            options,
            entropy,
            manifest,
            segments: BTreeMap::new(),
            live: Live::default(),
            bases: BTreeMap::new(),
            next: SegmentNo(named.next),
            taken: BTreeSet::new(),
            closed: None,
            lacks_room: false,
            lost_bases: BTreeMap::new(),
            kept: None,
            last_stop: named.last_stop,
            list: None,
            lost_points: false,
            changed: false,
            last_footer: Mutex::default(),
        };
        log.kept = opening.points(&mut named)?;
        log.list = named.thinned.map(|thinned| thinned.list);
        log.next = SegmentNo(named.next);
        for (created, sealed) in named.segments.values() {
            let is_last = named.is_last(created);
            // Where a clean stop was is said of the last segment.
            let stopped = named.stopped.filter(|_| is_last);
            opening.segment(&mut log, (created, *sealed), (stopped, is_last))?;
        }
        let head = log.live.head.map(|head| head.seq);
        log.kept = log.kept.map(|kept| kept.until(head));
        log.closed = opening.closed;
        log.lost_points = opening.lost_points;
        log.lost_bases = opening.lost_bases;
        if log.closed.is_none() {
            match log.settle(&entries, &named) {
                // What is there can be read all the same, and room can be made.
                Err(error) if error.kind() == ErrorKind::NoSpace => {
                    log.close(&format!("no room for the manifest: {error}"));
                    log.lacks_room = true;
                }
                settled => settled?,
            }
        }
        Ok((log, opening.findings, named))
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

/// A log that is being opened.
pub(super) struct Opening {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) options: LogOptions,
    findings: Vec<Finding>,
    closed: Option<String>,
    /// Nothing may be changed: what there is, is known from the segments themselves.
    pub(super) read_only: bool,
    /// A live segment is damaged or gone: the order ends there, whatever later segments hold.
    live_ends: bool,
    lost_bases: BTreeMap<ResyncId, Vec<SegmentNo>>,
    /// Which points are left where history was thinned is not known.
    pub(super) lost_points: bool,
}

impl Opening {
    pub(super) fn report(&mut self, place: impl Into<String>, what: impl Into<String>, mended: bool) {
        self.findings.push(Finding { place: place.into(), what: what.into(), mended });
    }

    pub(super) fn damage(&mut self, place: &str, resync: Option<ResyncId>, what: impl Into<String>) {
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

    /// The manifest is not what it was: nothing is written, cut or removed until it is mended.
    fn names_are_lost(&mut self, place: &str, what: &str) {
        self.read_only = true;
        self.closed.get_or_insert_with(|| format!("{place}: {what}"));
        self.report(place, what, false);
    }

    /// Removes files of segments that were dropped, or created and never named. One that holds frames is kept: then it is the
    /// manifest that lost something.
    fn look_for_strays(&mut self, named: &Named) -> Result<()> {
        let mut empty = Vec::new();
        let names = self.disk.list()?;
        let known: BTreeSet<SegmentNo> = named.segments.values().map(|(created, _)| created.number).collect();
        let there = names.iter().filter_map(|name| SegmentNo::of_file(name)).filter(|number| known.contains(number));
        let is_complete = there.count() == known.len();
        for name in names {
            let number = SegmentNo::of_file(&name);
            if !name.ends_with(".seg") || number.is_some_and(|number| known.contains(&number)) {
                continue;
            }
            // What it was to stand for is all there: it was never named.
            if is_complete && self.is_compacted(&name)? {
                empty.push(name);
                continue;
            }
            if !number.is_some_and(|number| named.dropped.contains(&number)) && self.holds_frames(&name)? {
                self.names_are_lost(&name, "holds frames, but the manifest does not name it");
            } else {
                empty.push(name);
            }
        }
        if empty.is_empty() || self.read_only {
            return Ok(());
        }
        empty.iter().try_for_each(|name| self.disk.remove(name))?;
        self.disk.sync_dir()
    }

    fn is_compacted(&self, name: &str) -> Result<bool> {
        let header = read_header(&*self.disk.open(name, Open::ReadOnly)?);
        Ok(header.is_ok_and(|header| header.replaces.is_some() && header.group == self.options.group))
    }

    /// Whether a file may hold anything but a header: only what surely holds nothing is removed.
    fn holds_frames(&self, name: &str) -> Result<bool> {
        let file = self.disk.open(name, Open::ReadOnly)?;
        let length = file.len()?;
        let Ok(header) = read_header(&*file) else { return Ok(length > SEGMENT_HEADER_BYTES as u64) };
        let mut frames = 0;
        let found = scan(&*file, &header, length, 0, |_| frames += 1)?;
        Ok(frames > 0 || found.durable > 0 || found.tail != Tail::Nothing)
    }

    fn segment(
        &mut self,
        log: &mut Log,
        (created, sealed): (&SegmentCreated, Option<SegmentSealed>),
        last: (Option<Seq>, bool),
    ) -> Result<()> {
        if created.resync.is_none() && self.live_ends {
            return Ok(());
        }
        let name = created.number.file_name();
        let mode = if sealed.is_some() || self.read_only { Open::ReadOnly } else { Open::Existing };
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
            None if header.replaces.is_some() => {
                self.gone(created, &name, "it stands for others, and where it ends cannot be read");
                Ok(())
            }
            None => self.open_segment(log, &name, file, header, last),
        }
    }

    /// Each segment starts where the one before it in its chain ended.
    fn check_chain(&mut self, log: &Log, created: &SegmentCreated, name: &str, header: &SegmentHeader) -> bool {
        let fits = match header.kind {
            SegmentKind::Live { first } => match log.live.head {
                Some(head) => {
                    head.chain == header.chain_in
                        && head.seq.after(1) == first
                        && FrameNo::following(Some(head.frame)) == header.first_frame
                }
                // What a manifest has lost may have been the beginning.
                None => !self.read_only || header.first_frame == FrameNo::FIRST,
            },
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
}
