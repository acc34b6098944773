//! A keeper's journal of one group: segments of frames, the manifest that names them, recovery and group commit.
//!
//! The agent's spool is a log; the receiver's store is a log with views over it.

mod append;
mod header;
mod manifest;
mod mend;
mod named;
mod open;
mod points;
mod read;
mod recover;
mod recovery;
mod replace;
mod salvage;
mod scan;
mod segment;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

pub use open::{Finding, LogOptions};
pub use points::PointsFile;
pub use read::FramePlace;
pub use recover::{Decision, Facts, Tail, decide};
pub(crate) use replace::CompactedWriter;
pub use replace::{Compacted, remove_replaced};
pub use segment::{Segment, SegmentState};

use crate::codec::Stopped;
use crate::disk::Disk;
use crate::index::Footer;
use crate::retention::Kept;
use crate::types::{ChainHead, Durable, FrameNo, ResyncId, SegmentNo};

use manifest::Manifest;
use segment::Writer;

pub use crate::types::Head;

/// Where random bytes come from: salts must differ, nothing else depends on them.
pub type Entropy = fn() -> [u8; 16];

/// Where a base's chain stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BaseHead {
    /// Number of the last frame.
    pub frame: FrameNo,
    /// Chain head after it.
    pub chain: ChainHead,
}

/// The journal of one group. One owner; readers use [`FramePlace`]s and the store's versions.
#[derive(Debug)]
pub struct Log {
    disk: Arc<dyn Disk>,
    options: LogOptions,
    entropy: Entropy,
    manifest: Manifest,
    /// Every segment of the group, by where it stands: a compacted one in the place of the first that it stands for.
    segments: BTreeMap<SegmentNo, Arc<Segment>>,
    live: Live,
    bases: BTreeMap<ResyncId, Base>,
    next: SegmentNo,
    /// Numbers given out for files that are made beside the log.
    taken: BTreeSet<SegmentNo>,
    /// Why it may not be written, if so.
    closed: Option<String>,
    /// It was whole when it was opened, and there was no room to go on.
    lacks_room: bool,
    /// Bases of which something cannot be read, each with the segments that cannot be used at all.
    lost_bases: BTreeMap<ResyncId, Vec<SegmentNo>>,
    /// Where history was thinned, and what is left there.
    kept: Option<Arc<Kept>>,
    /// The last clean stop, as long as nothing else says what was promised by it.
    last_stop: Option<Stopped>,
    /// The list that says so.
    list: Option<SegmentNo>,
    /// What is left there cannot be read.
    lost_points: bool,
    /// Segments were sealed, dropped or replaced.
    changed: bool,
    last_footer: Mutex<Option<(SegmentNo, Arc<Footer>)>>,
}

#[derive(Debug, Default)]
struct Live {
    head: Option<Head>,
    durable: Option<Durable>,
    writer: Option<Writer>,
}

#[derive(Debug, Default)]
struct Base {
    head: Option<BaseHead>,
    durable: Option<BaseHead>,
    writer: Option<Writer>,
}

impl Log {
    /// Where the order stands: appended, not necessarily durable.
    pub fn head(&self) -> Option<Head> {
        self.live.head
    }

    /// Up to where the order is durable here.
    pub fn durable(&self) -> Option<Durable> {
        self.live.durable
    }

    /// Where a base stands: appended, not necessarily durable.
    pub fn base_head(&self, resync: ResyncId) -> Option<BaseHead> {
        self.bases.get(&resync).and_then(|base| base.head)
    }

    /// Up to where a base is durable here.
    pub fn base_durable(&self, resync: ResyncId) -> Option<BaseHead> {
        self.bases.get(&resync).and_then(|base| base.durable)
    }

    /// Whether the last segment of a base that has frames is still open.
    pub(crate) fn base_is_open(&self, resync: ResyncId) -> bool {
        let writer = self.bases.get(&resync).and_then(|base| base.writer.as_ref());
        writer.is_some_and(|writer| writer.last.is_some())
    }

    /// The bases that there are.
    pub fn bases(&self) -> impl Iterator<Item = ResyncId> + '_ {
        self.bases.keys().copied()
    }

    /// Bases of which something cannot be read: no view that needs one can be served.
    pub fn lost_bases(&self) -> impl Iterator<Item = ResyncId> + '_ {
        self.lost_bases.keys().copied()
    }

    /// Something of a base is missing: no view that needs it can be served, and nothing is written on top. `None` if that is known.
    pub(crate) fn lose_base(&mut self, resync: ResyncId, what: &str) -> Option<Finding> {
        let place = format!("base {resync}");
        self.close(&format!("{place}: {what}"));
        let new = self.lost_bases.insert(resync, Vec::new()).is_none();
        new.then(|| Finding::damage(place, what))
    }

    /// Where history was thinned, and what is left there.
    pub(crate) fn kept(&self) -> Option<&Arc<Kept>> {
        self.kept.as_ref()
    }

    /// Whether what is left there cannot be read: what it was is not known to be dead.
    pub(crate) fn has_lost_points(&self) -> bool {
        self.lost_points
    }

    /// Its segments, each chain in its order.
    pub fn segments(&self) -> impl Iterator<Item = &Arc<Segment>> {
        self.segments.values()
    }

    /// Why it may not be written: damage found when it was opened, or a failed write since.
    pub fn closed(&self) -> Option<&str> {
        self.closed.as_deref()
    }

    /// Whether it may not be written for want of room only: opened anew, once there is some, it goes on.
    pub fn lacks_room(&self) -> bool {
        self.lacks_room
    }

    /// Bytes of all segments.
    pub fn bytes(&self) -> u64 {
        let open = self.live.writer.iter().chain(self.bases.values().filter_map(|base| base.writer.as_ref()));
        let sealed =
            self.segments.values().filter_map(|segment| segment.sealed.as_ref().map(|sealed| sealed.file_bytes));
        open.map(|writer| writer.end).chain(sealed).sum()
    }
}
