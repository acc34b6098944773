//! What readers hold: the journal as it was durable at one moment. Immutable.

use std::sync::{Arc, Mutex, PoisonError};

use super::cache::IndexCache;
use super::indexes::Indexes;
use super::records::Records;
use super::timeline::Timeline;
use super::view::View;
use crate::error::{Error, Result};
use crate::index::{Footer, FrameSpot};
use crate::log::{Head, Segment};
use crate::types::{Seq, WallTime};

/// Where readers get the newest version. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Library {
    shared: Arc<Mutex<Arc<Version>>>,
}

impl Library {
    pub(super) fn new(version: Version) -> Self {
        Self { shared: Arc::new(Mutex::new(Arc::new(version))) }
    }

    /// The journal as it is durable now.
    pub fn now(&self) -> Arc<Version> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn publish(&self, version: Version) {
        *self.shared.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(version);
    }
}

/// The journal as it was durable at one moment.
#[derive(Clone, Debug)]
pub struct Version {
    pub(super) head: Option<Head>,
    pub(super) head_time: WallTime,
    pub(super) timeline: Arc<Timeline>,
    /// Sealed live segments, oldest first.
    pub(super) live: Arc<Vec<Arc<Segment>>>,
    /// Sealed segments of sealed bases, each with the `Seq` from which it counts.
    pub(super) bases: Arc<Vec<(Arc<Segment>, Seq)>>,
    /// The live segment being written, and the indexes of what is durable in it, oldest first.
    pub(super) tail: Option<(Arc<Segment>, Vec<Arc<Footer>>)>,
    /// From here on every view would need a base that is damaged.
    pub(super) lost_from: Option<Seq>,
    /// Which points are left where history was thinned cannot be read.
    pub(super) has_lost_points: bool,
    /// Where to look into the sealed segments of both.
    pub(super) indexes: Arc<Indexes>,
    pub(super) cache: Arc<IndexCache>,
    /// Bytes of all segments.
    pub(super) bytes: u64,
}

impl Version {
    /// Where the order stands, durably.
    pub fn head(&self) -> Option<Head> {
        self.head
    }

    /// Time of the last durable record.
    pub fn head_time(&self) -> Option<WallTime> {
        self.head.map(|_| self.head_time)
    }

    /// Stretches, gaps, marks and volumes.
    pub fn timeline(&self) -> &Timeline {
        &self.timeline
    }

    /// Whether it cannot be read which points are left where history was thinned: then nothing may be thinned or cleaned.
    pub fn has_lost_points(&self) -> bool {
        self.has_lost_points
    }

    /// Bytes of all segments.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The journal as of `seq`, point or not: the caller has asked [`find`](Self::find), or knows why it needs this one.
    ///
    /// # Errors
    /// `Invalid` beyond the head, and where history was thinned.
    pub fn view(self: &Arc<Self>, seq: Seq) -> Result<View> {
        if self.timeline.kept().is_some_and(|kept| !kept.offers(seq)) {
            return Err(Error::invalid(format!("{seq} is no point any more: history was thinned there")));
        }
        self.view_to_compare(seq)
    }

    /// What there is as of `seq`, to be compared with what a source holds. Where history was thinned it may be less than there was, and
    /// what is missing is sent again because it differs: nobody is to be given it for what there was.
    ///
    /// # Errors
    /// `Invalid` beyond the head.
    pub fn view_to_compare(self: &Arc<Self>, seq: Seq) -> Result<View> {
        if self.head.is_none_or(|head| head.seq < seq) {
            return Err(Error::invalid(format!("nothing is durable at {seq} yet")));
        }
        if self.lost_from.is_some_and(|lost| lost <= seq) {
            return Err(Error::corrupt(format!("a base that counts at {seq} is damaged: see verify")));
        }
        Ok(View::new(self.clone(), seq))
    }

    /// Places that a reader looks into at most: merged runs, and indexes of single segments.
    pub fn places(&self) -> usize {
        self.indexes.places().len() + self.tail.iter().map(|(_, footers)| footers.len()).sum::<usize>()
    }

    /// Bytes that what is known of the merged runs takes in memory.
    pub fn runs_memory_bytes(&self) -> usize {
        self.indexes.runs().map(|run| run.memory_bytes()).sum()
    }

    /// The records of the frame that holds `seq`.
    pub(super) fn records_of(&self, seq: Seq) -> Result<Option<Records>> {
        let number = seq.number();
        let holds = |frames: &[FrameSpot]| {
            let after = frames.partition_point(|frame| frame.first <= number);
            let frame = after.checked_sub(1).and_then(|i| frames.get(i));
            frame.filter(|frame| number < frame.first + u64::from(frame.records)).copied()
        };
        if let Some((segment, footers)) = &self.tail
            && let Some(spot) = footers.iter().rev().find_map(|footer| holds(&footer.frames))
        {
            return Records::read(segment, &spot).map(Some);
        }
        let after = self.live.partition_point(|segment| span(segment).0 <= number);
        let Some(segment) = after.checked_sub(1).and_then(|i| self.live.get(i)) else { return Ok(None) };
        holds(&self.cache.frames(segment)?).map(|spot| Records::read(segment, &spot)).transpose()
    }
}

/// First `Seq` and one past the last of a sealed live segment.
pub(super) fn span(segment: &Segment) -> (u64, u64) {
    let first = match segment.header.kind {
        crate::codec::SegmentKind::Live { first } => first.number(),
        crate::codec::SegmentKind::Base { .. } => 0,
    };
    (first, segment.sealed.and_then(|sealed| sealed.end).map_or(u64::MAX, Seq::number))
}
