//! The one writer: appends, makes durable, publishes what readers may see.

use std::sync::Arc;

use super::cache::IndexCache;
use super::indexes::Indexes;
use super::timeline::Timeline;
use super::version::{Library, Version};
use crate::codec::{Body, FrameKind, Sealed, SegmentKind};
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::failpoint::{self, Step};
use crate::frame::Frame;
use crate::index::{Builder, Footer, MergedRun, RunNo};
use crate::log::{BaseHead, Compacted, Entropy, Finding, Head, Log, LogOptions, PointsFile, Segment};
use crate::types::{ChainHead, Durable, GroupId, ResyncId, SegmentNo, Seq, SessionId, WallTime};

/// The journal of one group at a receiver.
#[derive(Debug)]
pub struct Store {
    log: Log,
    library: Library,
    cache: Arc<IndexCache>,
    timeline: Timeline,
    tail: Tail,
    runs: Vec<Arc<MergedRun>>,
    /// Segments were sealed or dropped since the last publication.
    segments_changed: bool,
    /// A base was sealed since the last [`sync`](Self::sync).
    seals: bool,
}

/// Indexes of the live segment being written: small ones, merged as they grow.
#[derive(Debug, Default)]
struct Tail {
    segment: Option<Arc<Segment>>,
    footers: Vec<Arc<Footer>>,
    entries: usize,
    pool: usize,
    frames: usize,
}

impl Store {
    /// Opens the journal in `disk`, makes it if there is none, recovers what a crash left, and makes durable what was kept.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub fn open(
        disk: Arc<dyn Disk>,
        group: GroupId,
        segment_bytes: u64,
        entropy: Entropy,
    ) -> Result<(Self, Vec<Finding>)> {
        let (mut log, mut findings) =
            Log::open(disk.clone(), LogOptions { group, segment_bytes, entries: true }, entropy)?;
        if log.closed().is_none() {
            log.sync()?;
            for resync in log.bases().collect::<Vec<_>>() {
                log.sync_base(resync)?;
            }
        }
        let mut timeline = Timeline::default();
        for segment in log.segments().filter(|segment| is_live(segment)) {
            let events = if segment.sealed.is_some() { segment.events()? } else { open_events(&log, segment) };
            events.into_iter().for_each(|event| timeline.add(event));
        }
        if let Some(kept) = log.kept() {
            timeline.thin(kept);
        }
        findings.extend(check_bases(&mut log, &timeline)?);
        let cache = Arc::new(IndexCache::new());
        let library = Library::new(Version {
            head: None,
            head_time: WallTime(0),
            timeline: Arc::default(),
            live: Arc::default(),
            bases: Arc::default(),
            tail: None,
            lost_from: None,
            has_lost_points: false,
            indexes: Arc::default(),
            cache: cache.clone(),
            bytes: 0,
        });
        let mut store = Self {
            log,
            library,
            cache,
            timeline,
            tail: Tail::default(),
            runs: open_runs(&*disk, group)?,
            segments_changed: true,
            seals: false,
        };
        store.tail.update(&store.log);
        store.publish()?;
        Ok((store, findings))
    }

    /// Mends what keeps the journal in `disk` from being written to: its order ends where it can be read, what is beyond is set aside, and
    /// whoever has sent it sends it again or compares. For a journal that nobody has open, when a person asks for it. What was done.
    ///
    /// # Errors
    /// As [`Log::mend`].
    pub fn mend(disk: Arc<dyn Disk>, group: GroupId, segment_bytes: u64, entropy: Entropy) -> Result<Vec<Finding>> {
        Log::mend(disk, LogOptions { group, segment_bytes, entries: true }, entropy)
    }

    /// What readers use.
    pub fn library(&self) -> Library {
        self.library.clone()
    }

    /// Where the order stands: appended, not necessarily durable.
    pub fn head(&self) -> Option<Head> {
        self.log.head()
    }

    /// Why it may not be written, if so.
    pub fn closed(&self) -> Option<&str> {
        self.log.closed()
    }

    /// Whether it is for want of room only: opened anew, once there is some, it goes on.
    pub fn lacks_room(&self) -> bool {
        self.log.lacks_room()
    }

    /// Appends live frames; not durable before [`sync`](Self::sync). Frames that are here already are passed over.
    ///
    /// # Errors
    /// `Invalid` for a frame that does not continue the order, `NotFound` for one that seals a base that is not durable here,
    /// `Corrupt` for one that seals what cannot be: then nothing was written. Any other error closes the store: reopen it.
    pub fn append(&mut self, frames: &[Frame], session: SessionId, now: WallTime) -> Result<()> {
        let (frames, _) = self.log.admit(frames)?;
        let sealed = self.sealed_in(frames)?;
        for &resync in &sealed {
            self.log.finish_base(resync)?;
            self.segments_changed = true;
        }
        let mut index = Builder { latest: self.log.latest(), ..Builder::default() };
        self.log.append(frames, session, now)?;
        if !sealed.is_empty() {
            self.log.reached(Step::SealedAppended)?;
            self.seals = true;
        }
        frames.iter().for_each(|frame| index.add(frame, 0, 0, false));
        index.events.into_iter().for_each(|event| self.timeline.add(event));
        self.tail.update(&self.log);
        Ok(())
    }

    /// Makes all appended live frames durable and visible to readers.
    ///
    /// # Errors
    /// Any error closes the store: what is on disk is unknown until it is reopened.
    pub fn sync(&mut self) -> Result<Option<Durable>> {
        let durable = self.log.sync()?;
        let seals = std::mem::take(&mut self.seals);
        if seals {
            self.log.reached(Step::SealedDurable)?;
        }
        self.publish()?;
        if seals {
            failpoint::passed(Step::SealedPublished);
        }
        Ok(durable)
    }

    /// Appends frames of a base; not durable before [`sync_base`](Self::sync_base), not visible before its `sealed` record is.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub fn append_base(&mut self, resync: ResyncId, frames: &[Frame], session: SessionId, now: WallTime) -> Result<()> {
        if self.timeline.sealed(resync).is_some() {
            return Err(Error::invalid("this base is sealed already"));
        }
        self.log.append_base(resync, frames, session, now)
    }

    /// Makes all frames of a base durable.
    ///
    /// # Errors
    /// As [`sync`](Self::sync).
    pub fn sync_base(&mut self, resync: ResyncId) -> Result<Option<BaseHead>> {
        self.log.sync_base(resync)
    }

    /// Where a base stands.
    pub fn base_head(&self, resync: ResyncId) -> Option<BaseHead> {
        self.log.base_head(resync)
    }

    /// Drops the bases that were never sealed, except `but`: another has taken their place.
    ///
    /// # Errors
    /// As [`sync`](Self::sync).
    pub fn drop_unsealed_bases(&mut self, but: Option<ResyncId>) -> Result<()> {
        let stale = self.log.bases().filter(|&id| Some(id) != but && self.timeline.sealed(id).is_none());
        for resync in stale.collect::<Vec<_>>() {
            self.log.drop_base(resync)?;
        }
        self.segments_changed = true;
        Ok(())
    }

    /// A number for a file that is made beside the journal, by whoever thins or cleans it: above `beyond`, and of no use once the journal
    /// was opened anew.
    pub fn take_number(&mut self, beyond: SegmentNo) -> SegmentNo {
        self.log.take_number(beyond)
    }

    /// Numbers up to this one were given out before the journal was opened anew: nothing of it gets one of them.
    pub fn skip_numbers(&mut self, last: SegmentNo) {
        self.log.skip_numbers(last);
    }

    /// From now on, below a place, only listed points are points.
    ///
    /// # Errors
    /// `Invalid` for a list that would bring back what is gone; any other closes the store.
    pub fn thin(&mut self, list: &PointsFile) -> Result<()> {
        self.log.thin(list)?;
        if let Some(kept) = self.log.kept() {
            self.timeline.thin(kept);
        }
        // Readers are shown nothing that is not durable.
        self.sync().map(drop)
    }

    /// Lets a compacted segment stand for others. Names of files for [`remove_replaced`](crate::log::remove_replaced): readers may
    /// still have them open.
    ///
    /// # Errors
    /// `Invalid` if they are not what they were; any other closes the store.
    pub fn replace(&mut self, new: Compacted) -> Result<Vec<String>> {
        let old = self.log.replace(new)?;
        self.sync()?;
        Ok(old)
    }

    /// A clean stop.
    ///
    /// # Errors
    /// As [`sync`](Self::sync).
    pub fn stop(&mut self, now: WallTime) -> Result<()> {
        self.log.stop(now)
    }

    /// Lets readers look into a run that a [`Merger`](super::Merger) made, and no longer into those that it replaces or that were found
    /// to be unreadable.
    pub fn renew_runs(&mut self, made: Option<Arc<MergedRun>>) {
        let old = self.library.now();
        let is_known = |run: &Arc<MergedRun>| self.runs.iter().any(|known| known.number() == run.number());
        let made = made.filter(|made| !is_known(made));
        self.runs.extend(made);
        // What is durable is not asked anew: what was appended since is not to be seen.
        let version = Version { indexes: self.indexes(&old.live, &old.bases), ..(*old).clone() };
        self.library.publish(version);
        failpoint::passed(Step::RunPublished);
    }

    /// The whole log, for what walks all of it.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The bases that these frames seal. A `sealed` record counts only when all of its base is durable, with the same chain head, and
    /// only once.
    fn sealed_in(&self, frames: &[Frame]) -> Result<Vec<ResyncId>> {
        let mut bases = Vec::new();
        // Without notes there is none: most frames need not be looked through.
        for frame in frames.iter().filter(|frame| frame.header().notes_bytes > 0) {
            let FrameKind::Live { first } = frame.header().kind else { continue };
            for (place, record) in (first.number()..).zip(frame.records()) {
                let Body::Sealed(Sealed { resync, head, frames }) = record.body else { continue };
                if self.timeline.sealed(resync).is_some() || bases.contains(&resync) {
                    return Err(Error::corrupt(format!("base {resync} is sealed twice")));
                }
                let durable = self.log.base_durable(resync);
                let found = durable.map_or((0, ChainHead::START), |head| (head.frame.number(), head.chain));
                if found != (frames, head) {
                    let why = format!("base {resync} is sealed with {frames} frames, {} are durable", found.0);
                    return Err(Error::not_found(why));
                }
                // It would be in views of what was not written yet.
                let as_of = self.log.base_as_of(resync)?;
                if as_of >= place {
                    let why = format!("base {resync} is sealed at {place} and says that it was read after {as_of}");
                    return Err(Error::corrupt(why));
                }
                bases.push(resync);
            }
        }
        Ok(bases)
    }

    /// Shows readers what is durable now.
    fn publish(&mut self) -> Result<()> {
        let old = self.library.now();
        let changed = self.segments_changed || self.log.take_changed();
        let (live, bases) = if changed { self.segments() } else { (old.live.clone(), old.bases.clone()) };
        self.segments_changed = false;
        let is_writable = self.log.closed().is_none();
        let indexes = match changed || old.indexes.is_writable != is_writable {
            true => self.indexes(&live, &bases),
            false => old.indexes.clone(),
        };
        if let Some((number, footer)) = self.log.last_sealed() {
            self.cache.keep(number, &footer);
        }
        let head = self.log.head();
        let last_time =
            |footers: &[Arc<Footer>]| footers.last().and_then(|footer| footer.frames.last()).map(|frame| frame.to);
        let sealed_time = || live.last().and_then(|segment| segment.sealed).map(|sealed| sealed.times.1);
        let is_thinned = self.timeline.kept().map(Arc::as_ptr) != old.timeline.kept().map(Arc::as_ptr);
        let timeline = if !is_thinned && old.timeline.events().len() == self.timeline.events().len() {
            old.timeline.clone()
        } else {
            Arc::new(self.timeline.clone())
        };
        let version = Version {
            head,
            head_time: last_time(&self.tail.footers).or_else(sealed_time).unwrap_or_default(),
            timeline,
            live,
            bases,
            tail: self.tail.segment.clone().map(|segment| (segment, self.tail.footers.clone())),
            has_lost_points: self.log.has_lost_points(),
            lost_from: self.log.lost_bases().filter_map(|resync| self.timeline.sealed(resync)).min(),
            indexes,
            cache: self.cache.clone(),
            bytes: self.log.bytes(),
        };
        self.library.publish(version);
        Ok(())
    }

    /// Where to look into these segments. Runs of no use are forgotten.
    fn indexes(&mut self, live: &[Arc<Segment>], bases: &[(Arc<Segment>, Seq)]) -> Arc<Indexes> {
        let indexes = Indexes::of(&self.runs, live, bases, self.log.closed().is_none());
        self.runs = indexes.runs().cloned().collect();
        Arc::new(indexes)
    }

    #[expect(clippy::type_complexity, reason = "the two lists of a version")]
    fn segments(&self) -> (Arc<Vec<Arc<Segment>>>, Arc<Vec<(Arc<Segment>, Seq)>>) {
        let (mut live, mut bases) = (Vec::new(), Vec::new());
        for segment in self.log.segments().filter(|segment| segment.sealed.is_some()) {
            match segment.header.kind {
                SegmentKind::Live { .. } => live.push(segment.clone()),
                SegmentKind::Base { resync } => {
                    bases.extend(self.timeline.sealed(resync).map(|seq| (segment.clone(), seq)));
                }
            }
        }
        (Arc::new(live), Arc::new(bases))
    }
}

impl Tail {
    /// Takes in what was appended since the last time.
    fn update(&mut self, log: &Log) {
        let Some((segment, index)) = log.live_index() else {
            *self = Self::default();
            return;
        };
        if self.segment.as_ref().is_none_or(|known| !Arc::ptr_eq(known, segment)) {
            *self = Self { segment: Some(segment.clone()), ..Self::default() };
        }
        if index.frames.len() == self.frames {
            return;
        }
        let added = index.since(self.entries, self.pool, self.frames);
        (self.entries, self.pool, self.frames) = (index.entries.len(), index.pool.len(), index.frames.len());
        self.footers.push(Arc::new(Footer::from(added)));
        // Each at least twice as large as the next: a reader looks into a logarithm of them, and each entry is merged as often.
        while let [.., a, b] = self.footers.as_slice()
            && a.weight() < 2 * b.weight()
        {
            let merged = Arc::new(Footer::merged(a, b));
            self.footers.truncate(self.footers.len() - 2);
            self.footers.push(merged);
        }
    }
}

/// The runs that there are. One that cannot be read is as good as none: it was made from what is here, and is made again.
fn open_runs(disk: &dyn Disk, group: GroupId) -> Result<Vec<Arc<MergedRun>>> {
    let numbers = disk.list()?.into_iter().filter_map(|name| RunNo::of_file(&name));
    Ok(numbers.filter_map(|number| MergedRun::open(disk, number, group).ok()).map(Arc::new).collect())
}

/// A base counts where it is sealed: all of it has to be there, as it was sealed, or views would be wrong. One whose end the manifest
/// has lost gets it again.
fn check_bases(log: &mut Log, timeline: &Timeline) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for resync in log.lost_bases().collect::<Vec<_>>() {
        if timeline.sealed(resync).is_some() {
            log.close(&format!("base {resync} is damaged"));
        } else if log.closed().is_none() {
            log.drop_base(resync)?;
            findings.push(Finding::mended(format!("base {resync}"), "it was never sealed, and is dropped"));
        }
    }
    // What was cleaned of a base is no loss to the points that were left then; where the order ends before its `sealed` now, others come.
    let is_cleaned = |resync: &ResyncId| {
        let kind = SegmentKind::Base { resync: *resync };
        log.segments().any(|segment| segment.header.kind == kind && segment.header.replaces.is_some())
    };
    let unsealed = |resync: &ResyncId| timeline.sealed(*resync).is_none() && log.closed().is_none();
    for resync in log.bases().filter(|resync| unsealed(resync) && is_cleaned(resync)).collect::<Vec<_>>() {
        log.drop_base(resync)?;
        findings.push(Finding::mended(
            format!("base {resync}"),
            "it was cleaned, and the order ends before it counts: it is dropped",
        ));
    }
    for event in timeline.events() {
        let Body::Sealed(Sealed { resync, head, frames }) = event.record.body else { continue };
        let found = log.base_head(resync).map_or((0, ChainHead::START), |head| (head.frame.number(), head.chain));
        if found != (frames, head) || (log.base_is_open(resync) && log.closed().is_some()) {
            findings.extend(log.lose_base(resync, "it is not there as it was sealed"));
        } else if log.base_is_open(resync) {
            log.finish_base(resync)?;
            findings.push(Finding::mended(format!("base {resync}"), "its end was lost and is written again"));
        }
    }
    Ok(findings)
}

fn is_live(segment: &Segment) -> bool {
    matches!(segment.header.kind, SegmentKind::Live { .. })
}

fn open_events(log: &Log, segment: &Arc<Segment>) -> Vec<crate::index::Event> {
    let open = log.open_indexes().find(|(open, _)| open.header.number == segment.header.number);
    open.map_or_else(Vec::new, |(_, index)| index.events.clone())
}
