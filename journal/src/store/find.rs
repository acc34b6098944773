//! From what a person says of a time to a point.

use std::sync::Arc;

use super::records::Records;
use super::version::Version;
use crate::codec::{Body, GapReason, PointClass};
use crate::error::Result;
use crate::index::FrameSpot;
use crate::log::Segment;
use crate::types::{Seq, WallTime};

/// Which point is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum When {
    /// The newest.
    Latest,
    /// The newest not after this instant.
    At(WallTime),
    /// This one.
    Seq(Seq),
    /// The newest mark of this name.
    Mark(String),
}

/// A point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PointInfo {
    /// Its place in the order.
    pub seq: Seq,
    /// When its record was made.
    pub time: WallTime,
    /// How it came about.
    pub class: PointClass,
    /// Its name, if it is a mark.
    pub mark: Option<String>,
}

/// A stretch of the order without points.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GapInfo {
    /// Its first record.
    pub from: Seq,
    /// The last instant before it: nothing after that is covered.
    pub from_time: WallTime,
    /// The `sealed` that ended it; `None` while it goes on.
    pub to: Option<(Seq, WallTime)>,
    /// Why, for programs.
    pub why: WhyNoPoints,
    /// Why, for people.
    pub text: String,
}

/// Why a stretch of the order has no points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhyNoPoints {
    /// Not all that the sources held is known.
    Gap(GapReason),
    /// The sources were being taken back to another point.
    Rollback,
}

/// There is no such point; what there is around it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NotCovered {
    /// The last point before.
    pub before: Option<(Seq, WallTime)>,
    /// The first point after.
    pub after: Option<(Seq, WallTime)>,
    /// First and last instant of all that is covered.
    pub covered: Option<(WallTime, WallTime)>,
}

impl Version {
    /// The point that is meant, or what there is instead.
    pub fn find(&self, when: &When) -> Result<std::result::Result<PointInfo, NotCovered>> {
        let seq = match when {
            When::Latest => self.newest()?.map(|(seq, _)| seq),
            When::Seq(seq) => self.point_at(*seq).then_some(*seq),
            When::Mark(name) => {
                let named = self.timeline.marks().rev().find(|(.., mark)| mark.name == *name);
                named.map(|(seq, ..)| seq).filter(|&seq| self.point_at(seq))
            }
            When::At(time) => self.covered_at(*time)?,
        };
        match seq {
            Some(seq) => Ok(Ok(self.point(seq)?)),
            None => Ok(Err(self.around(when)?)),
        }
    }

    /// What is covered: first and last instant, gaps not taken out; `None` while nothing is.
    pub fn covered(&self) -> Result<Option<(WallTime, WallTime)>> {
        let first = self.timeline.stretches().first().map(|stretch| stretch.from_time);
        Ok(first.zip(self.newest()?.map(|(_, time)| time)))
    }

    /// The points with `from` ≤ time ≤ `to`, newest `limit` of them, oldest first; and whether there were more.
    pub fn points(&self, from: Option<WallTime>, to: Option<WallTime>, limit: usize) -> Result<(Vec<PointInfo>, bool)> {
        let mut points = Vec::new();
        let last = match to {
            Some(to) => self.seq_at(to)?,
            None => self.head.map(|head| head.seq),
        };
        let mut next = last.and_then(|last| self.last_point(last));
        while let Some(Records { first, records }) = next.map(|seq| self.records_of(seq)).transpose()?.flatten() {
            for (seq, record) in (0..).map(|i| first.after(i)).zip(records).collect::<Vec<_>>().into_iter().rev() {
                let in_time = from.is_none_or(|from| from <= record.time);
                if !in_time || points.len() > limit {
                    next = None;
                    break;
                }
                if Some(seq) <= last && self.point_at(seq) {
                    let mark = match record.body {
                        Body::Mark(mark) => Some(mark.name),
                        _ => None,
                    };
                    points.push(PointInfo { seq, time: record.time, class: PointClass::Write, mark });
                }
            }
            next = next.and_then(|_| first.before()).and_then(|seq| self.last_point(seq));
        }
        let truncated = points.len() > limit;
        points.truncate(limit);
        points.reverse();
        Ok((points, truncated))
    }

    /// All gaps and rollbacks, oldest first. One begins behind the last point before it, not at the record that says so; a gap within
    /// a rollback is that one.
    pub fn gaps(&self) -> Result<Vec<GapInfo>> {
        let mut gaps: Vec<GapInfo> = Vec::new();
        for &(seq, target) in self.timeline.interrupted() {
            let to = self.timeline.stretches().iter().find(|stretch| stretch.from > seq);
            let to = to.map(|stretch| (stretch.from, stretch.from_time));
            let text = format!("the sources were taken back to seq {target}");
            let text = if to.is_some() { text } else { format!("{text}, and that is not over") };
            gaps.push(self.gap(seq, None, to, WhyNoPoints::Rollback, text)?);
        }
        for (seq, time, gap, to) in self.timeline.gaps() {
            let found = self.gap(seq, Some(time), to, WhyNoPoints::Gap(gap.reason), gap.text.clone())?;
            if !gaps.iter().any(|known| known.from == found.from) {
                gaps.push(found);
            }
        }
        gaps.sort_by_key(|gap| gap.from);
        Ok(gaps)
    }

    fn gap(
        &self,
        seq: Seq,
        time: Option<WallTime>,
        to: Option<(Seq, WallTime)>,
        why: WhyNoPoints,
        text: String,
    ) -> Result<GapInfo> {
        let last = self.timeline.stretches().iter().filter_map(|stretch| stretch.to).rfind(|&to| to < seq);
        let from_time = match last {
            Some(last) => self.time_of(last)?.or(time),
            None => time,
        };
        let from = last.map_or(seq, |last| last.after(1));
        Ok(GapInfo { from, from_time: from_time.unwrap_or_default(), to, why, text })
    }

    /// Time of the record at `seq`.
    pub fn time_of(&self, seq: Seq) -> Result<Option<WallTime>> {
        let Some(Records { first, records }) = self.records_of(seq)? else { return Ok(None) };
        let place = usize::try_from(seq.number() - first.number()).unwrap_or(usize::MAX);
        Ok(records.get(place).map(|record| record.time))
    }

    /// The newest record not after `time`.
    pub fn seq_at(&self, time: WallTime) -> Result<Option<Seq>> {
        let mut place: Option<(Arc<Segment>, FrameSpot)> = None;
        let mut look = |segment: &Arc<Segment>, frames: &[FrameSpot]| {
            let after = frames.partition_point(|frame| frame.from <= time);
            if let Some(frame) = after.checked_sub(1).and_then(|i| frames.get(i)) {
                place = Some((segment.clone(), *frame));
            }
        };
        let begins = |segment: &Arc<Segment>| segment.sealed.map_or(WallTime(u64::MAX), |sealed| sealed.times.0);
        let after = self.live.partition_point(|segment| begins(segment) <= time);
        if let Some(segment) = after.checked_sub(1).and_then(|i| self.live.get(i)) {
            look(segment, &self.cache.footer(segment)?.frames);
        }
        if let Some((segment, footers)) = &self.tail {
            footers.iter().for_each(|footer| look(segment, &footer.frames));
        }
        let Some((segment, spot)) = place else { return Ok(None) };
        let Records { first, records } = Records::read(&segment, &spot)?;
        let count = records.partition_point(|record| record.time <= time);
        Ok(first.after(count as u64).before())
    }

    fn point_at(&self, seq: Seq) -> bool {
        self.head.is_some_and(|head| seq <= head.seq) && self.timeline.stretch_of(seq).is_some()
    }

    fn point(&self, seq: Seq) -> Result<PointInfo> {
        let time = self.time_of(seq)?.unwrap_or(self.head_time);
        let mark = self.timeline.marks().find(|(at, ..)| *at == seq).map(|(.., mark)| mark.name.clone());
        Ok(PointInfo { seq, time, class: PointClass::Write, mark })
    }

    /// The newest point that is not after `seq`.
    fn last_point(&self, seq: Seq) -> Option<Seq> {
        let seq = self.head.map_or(seq, |head| seq.min(head.seq));
        let stretch = self.timeline.stretches().iter().rfind(|stretch| stretch.from <= seq)?;
        Some(stretch.to.unwrap_or(seq).min(seq))
    }

    /// The newest point.
    fn newest(&self) -> Result<Option<(Seq, WallTime)>> {
        let Some(seq) = self.head.and_then(|head| self.last_point(head.seq)) else { return Ok(None) };
        Ok(self.time_of(seq)?.map(|time| (seq, time)))
    }

    /// The newest record not after `time`, if its stretch reaches up to `time`.
    fn covered_at(&self, time: WallTime) -> Result<Option<Seq>> {
        let Some(seq) = self.seq_at(time)?.filter(|&seq| self.point_at(seq)) else { return Ok(None) };
        let to = self.timeline.stretch_of(seq).and_then(|stretch| stretch.to);
        let until = match to {
            Some(to) => self.time_of(to)?.unwrap_or_default(),
            None => self.head_time,
        };
        Ok((time <= until).then_some(seq))
    }

    fn around(&self, when: &When) -> Result<NotCovered> {
        let covered = self.covered()?;
        let (mut before, mut after) = (None, None);
        let head = self.head.map(|head| head.seq);
        for stretch in self.timeline.stretches() {
            let Some(to) = stretch.to.or(head) else { continue };
            let to_time = self.time_of(to)?.unwrap_or(stretch.from_time);
            let (is_before, is_after) = match when {
                When::At(time) => (to_time <= *time, stretch.from_time > *time),
                When::Seq(seq) => (to < *seq, stretch.from > *seq),
                When::Latest | When::Mark(_) => (false, false),
            };
            if is_before {
                before = Some((to, to_time));
            }
            if is_after && after.is_none() {
                after = Some((stretch.from, stretch.from_time));
            }
        }
        Ok(NotCovered { before, after, covered })
    }
}
