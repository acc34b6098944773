//! From what a person says of a time to a point.

use std::sync::Arc;

use super::records::Records;
use super::version::Version;
use crate::codec::{Body, GapReason, KeptPoint, PointClass};
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

/// Points without one between them that is none.
struct Run {
    from: Seq,
    to: Seq,
    /// `None`: it has to be looked up.
    from_time: Option<WallTime>,
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
        let first = match self.runs().next() {
            Some(run) => Some(self.first_time(&run)?),
            None => None,
        };
        Ok(first.zip(self.newest()?.map(|(_, time)| time)))
    }

    /// The points with `from` ≤ time ≤ `to`, newest `limit` of them, oldest first; and whether there were more.
    pub fn points(&self, from: Option<WallTime>, to: Option<WallTime>, limit: usize) -> Result<(Vec<PointInfo>, bool)> {
        let mut points = Vec::new();
        let last = match to {
            Some(to) => self.seq_at(to)?,
            None => self.head.map(|head| head.seq),
        };
        let upto = self.timeline.kept().map(|kept| kept.upto);
        let mut next = last.and_then(|last| self.last_point(last)).filter(|last| Some(*last) >= upto);
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
            next =
                next.and_then(|_| first.before()).and_then(|seq| self.last_point(seq)).filter(|seq| Some(*seq) >= upto);
        }
        let listed = self.timeline.kept().map(|kept| kept.points.as_slice()).unwrap_or_default();
        let in_time = |time: WallTime| from.is_none_or(|from| from <= time) && to.is_none_or(|to| time <= to);
        for point in
            listed.iter().rev().filter(|point| in_time(point.time)).take((limit + 1).saturating_sub(points.len()))
        {
            points.push(self.listed(point));
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
        for &(seq, time, target) in self.timeline.interrupted() {
            let to = self.timeline.stretches().iter().find(|stretch| stretch.from > seq);
            let to = to.map(|stretch| (stretch.from, stretch.from_time));
            let text = format!("the sources were taken back to seq {target}");
            let text = if to.is_some() { text } else { format!("{text}, and that is not over") };
            gaps.push(self.gap(seq, time, to, WhyNoPoints::Rollback, text)?);
        }
        for (seq, time, gap, to) in self.timeline.gaps() {
            let found = self.gap(seq, time, to, WhyNoPoints::Gap(gap.reason), gap.text.clone())?;
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
        time: WallTime,
        to: Option<(Seq, WallTime)>,
        why: WhyNoPoints,
        text: String,
    ) -> Result<GapInfo> {
        let last = self.timeline.stretches().iter().filter_map(|stretch| stretch.to).rfind(|&to| to < seq);
        let from_time = last.map(|last| self.time_of(last)).transpose()?.flatten().unwrap_or(time);
        Ok(GapInfo { from: last.map_or(seq, |last| last.after(1)), from_time, to, why, text })
    }

    /// Time of the record at `seq`.
    pub fn time_of(&self, seq: Seq) -> Result<Option<WallTime>> {
        if let Some(kept) = self.timeline.kept().filter(|kept| seq < kept.upto) {
            let event = || self.timeline.events().iter().find(|event| event.seq == seq);
            let listed = kept.listed(seq).map(|point| point.time);
            return Ok(listed.or_else(|| event().map(|event| event.record.time)));
        }
        let Some(Records { first, records }) = self.records_of(seq)? else { return Ok(None) };
        let place = usize::try_from(seq.number() - first.number()).unwrap_or(usize::MAX);
        Ok(records.get(place).map(|record| record.time))
    }

    /// The newest record not after `time`; where history was thinned, the newest point.
    pub fn seq_at(&self, time: WallTime) -> Result<Option<Seq>> {
        if let Some(kept) = self.timeline.kept().filter(|kept| time < kept.upto_time) {
            return Ok(kept.before_time(time).map(|point| point.seq));
        }
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
            look(segment, &self.cache.frames(segment)?);
        }
        if let Some((segment, footers)) = &self.tail {
            footers.iter().for_each(|footer| look(segment, &footer.frames));
        }
        // What is compacted does not know times: only where the list of points is lost is it asked.
        let Some((segment, spot)) = place.filter(|(segment, _)| segment.header.replaces.is_none()) else {
            return Ok(None);
        };
        let Records { first, records } = Records::read(&segment, &spot)?;
        let count = records.partition_point(|record| record.time <= time);
        Ok(first.after(count as u64).before())
    }

    fn point_at(&self, seq: Seq) -> bool {
        self.head.is_some_and(|head| seq <= head.seq) && self.timeline.is_point(seq)
    }

    /// A point that is left where history was thinned.
    fn listed(&self, point: &KeptPoint) -> PointInfo {
        let mark = self.timeline.marks().find(|(at, ..)| *at == point.seq).map(|(.., mark)| mark.name.clone());
        PointInfo { seq: point.seq, time: point.time, class: point.class, mark }
    }

    /// Runs of points, oldest first: those that are left one by one, then what is left of each stretch.
    fn runs(&self) -> impl Iterator<Item = Run> + '_ {
        let kept = self.timeline.kept();
        let listed = kept.map(|kept| kept.points.as_slice()).unwrap_or_default();
        let listed = listed.iter().map(|point| Run { from: point.seq, to: point.seq, from_time: Some(point.time) });
        let head = self.head.map(|head| head.seq);
        let upto = kept.map(|kept| kept.upto);
        let whole = self.timeline.stretches().iter().filter_map(move |stretch| {
            let to = stretch.to.or(head).filter(|to| Some(*to) >= upto)?;
            let is_cut = Some(stretch.from) < upto;
            let from = upto.filter(|_| is_cut).unwrap_or(stretch.from);
            Some(Run { from, to, from_time: (!is_cut).then_some(stretch.from_time) })
        });
        listed.chain(whole)
    }

    fn first_time(&self, run: &Run) -> Result<WallTime> {
        Ok(match run.from_time {
            Some(time) => time,
            None => self.time_of(run.from)?.unwrap_or_default(),
        })
    }

    fn point(&self, seq: Seq) -> Result<PointInfo> {
        let time = self.time_of(seq)?.unwrap_or(self.head_time);
        let mark = self.timeline.marks().find(|(at, ..)| *at == seq).map(|(.., mark)| mark.name.clone());
        Ok(PointInfo { seq, time, class: PointClass::Write, mark })
    }

    /// The newest point that is not after `seq`.
    fn last_point(&self, seq: Seq) -> Option<Seq> {
        let seq = self.head.map_or(seq, |head| seq.min(head.seq));
        if let Some(kept) = self.timeline.kept().filter(|kept| seq < kept.upto) {
            let after = kept.points.partition_point(|point| point.seq <= seq);
            return kept.points.get(after.checked_sub(1)?).map(|point| point.seq);
        }
        let stretch = self.timeline.stretches().iter().rfind(|stretch| stretch.from <= seq)?;
        Some(stretch.to.unwrap_or(seq).min(seq))
    }

    /// The place of the newest point.
    pub fn newest_place(&self) -> Option<Seq> {
        self.head.and_then(|head| self.last_point(head.seq))
    }

    /// The newest point.
    fn newest(&self) -> Result<Option<(Seq, WallTime)>> {
        let Some(seq) = self.newest_place() else { return Ok(None) };
        Ok(self.time_of(seq)?.map(|time| (seq, time)))
    }

    /// The newest record not after `time`, if its stretch reaches up to `time`.
    fn covered_at(&self, time: WallTime) -> Result<Option<Seq>> {
        if let Some(kept) = self.timeline.kept().filter(|kept| time < kept.upto_time) {
            let point = kept.before_time(time).map(|point| point.seq);
            return Ok(point.filter(|&seq| self.point_at(seq) && !self.is_gap(time)));
        }
        let Some(seq) = self.seq_at(time)?.filter(|&seq| self.point_at(seq)) else { return Ok(None) };
        let to = self.timeline.stretch_of(seq).and_then(|stretch| stretch.to);
        let until = match to {
            Some(to) => self.time_of(to)?.unwrap_or_default(),
            None => self.head_time,
        };
        Ok((time <= until).then_some(seq))
    }

    /// Whether, where history was thinned, the last stretch that had begun by `time` had ended, too: with a point of it or without.
    fn is_gap(&self, time: WallTime) -> bool {
        let begun = self.timeline.stretches().iter().rfind(|stretch| stretch.from_time <= time);
        let Some(end) = begun.map(|stretch| stretch.to) else { return false };
        match end {
            Some(end) => self
                .timeline
                .events()
                .iter()
                .find(|event| event.seq > end)
                .is_some_and(|event| event.record.time <= time),
            // Beyond a head that is below what was thinned, after damage, nothing is known.
            None => self.head_time < time,
        }
    }

    fn around(&self, when: &When) -> Result<NotCovered> {
        let covered = self.covered()?;
        let (mut before, mut after) = (None, None);
        for run in self.runs() {
            let from_time = self.first_time(&run)?;
            let to_time = if run.to == run.from { from_time } else { self.time_of(run.to)?.unwrap_or(from_time) };
            let (is_before, is_after) = match when {
                When::At(time) => (to_time <= *time, from_time > *time),
                When::Seq(seq) => (run.to < *seq, run.from > *seq),
                When::Latest | When::Mark(_) => (false, false),
            };
            if is_before {
                before = Some((run.to, to_time));
            }
            if is_after && after.is_none() {
                after = Some((run.from, from_time));
            }
        }
        Ok(NotCovered { before, after, covered })
    }
}
