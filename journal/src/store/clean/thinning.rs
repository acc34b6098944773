//! Which points are left: the rule, asked of what a journal has.

use super::super::records::Records;
use super::super::version::span;
use super::Cleaner;
use crate::codec::{KeptPoint, PointClass};
use crate::error::Result;
use crate::index::FrameSpot;
use crate::log::Segment;
use crate::retention::{Candidate, Kept, Policy, same_minute};
use crate::types::{Seq, WallTime};

impl Cleaner {
    /// What is to be left by `policy`, if that is less than there is. `pins` are points that something stands on.
    pub fn thinning(&self, policy: &Policy, now: WallTime, pins: &[Seq]) -> Result<Option<Kept>> {
        if self.version.has_lost_points {
            return Ok(None);
        }
        let old = self.kept();
        let Some(upto) = self.upto(policy, now) else { return Ok(None) };
        let timeline = &self.version.timeline;
        let pins: Vec<Seq> = pins.iter().copied().chain(timeline.stood_on()).collect();
        let mut points: Vec<KeptPoint> = old.map(|old| old.points.clone()).unwrap_or_default();
        points.extend(self.last_of_minutes(old.map(|old| old.upto), upto)?);
        let marks: Vec<_> = timeline.marks().filter(|(seq, ..)| *seq < upto && timeline.is_point(*seq)).collect();
        for seq in marks.iter().map(|(seq, ..)| *seq).chain(pins.iter().copied().filter(|seq| *seq < upto)) {
            if !timeline.is_point(seq) || points.iter().any(|point| point.seq == seq) {
                continue;
            }
            let time = self.version.time_of(seq)?;
            points.extend(time.map(|time| KeptPoint { seq, time, class: PointClass::Write }));
        }
        points.sort_unstable_by_key(|point| point.seq);
        points.dedup_by_key(|point| point.seq);
        let candidate = |point: KeptPoint| {
            let mark = marks.binary_search_by_key(&point.seq, |(seq, ..)| *seq).ok();
            let mark = mark.and_then(|at| marks.get(at)).map(|(.., mark)| mark.locked_until);
            Candidate { point, mark, pinned: pins.contains(&point.seq) }
        };
        let candidates: Vec<Candidate> = points.into_iter().map(candidate).collect();
        // After mending there may be no record yet where X is.
        let upto_time = match old.filter(|old| old.upto == upto) {
            Some(old) => old.upto_time,
            None => self.version.time_of(upto)?.unwrap_or_default(),
        };
        let next = match timeline.stretch_of(upto) {
            Some(_) => Some(upto_time),
            None => timeline.stretches().iter().find(|stretch| stretch.from > upto).map(|stretch| stretch.from_time),
        };
        let points = policy.kept(now, &candidates, next);
        let is_less = old.is_none_or(|old| old.upto != upto || old.points != points);
        Ok(is_less.then_some(Kept { upto, upto_time, points }))
    }

    /// Where the last segment ends of which nothing is young enough, nor the newest point. Nothing that began to arrive less than
    /// `every_write` ago is thinned, whatever time it claims to be of.
    fn upto(&self, policy: &Policy, now: WallTime) -> Option<Seq> {
        let old = self.kept().map(|kept| kept.upto);
        let newest = self.version.newest_place()?;
        let start = policy.window_start(now);
        let tail = self.version.tail.as_ref().map(|(segment, _)| segment);
        let behind = self.version.live.iter().skip(1).chain(tail);
        let mut upto = old;
        for (segment, next) in self.version.live.iter().zip(behind) {
            let Some(sealed) = segment.sealed else { break };
            if sealed.end <= old {
                continue;
            }
            if sealed.times.1 >= start || next.header.created >= start || sealed.end > Some(newest) {
                break;
            }
            upto = sealed.end;
        }
        upto
    }

    /// The last point of each minute within `[from, to)`, oldest first.
    fn last_of_minutes(&self, from: Option<Seq>, to: Seq) -> Result<Vec<KeptPoint>> {
        let mut points: Vec<KeptPoint> = Vec::new();
        for segment in self.version.live.iter() {
            let (first, end) = span(segment);
            if Some(end) <= from.map(Seq::number) || first >= to.number() {
                continue;
            }
            for frame in &segment.footer()?.frames {
                self.last_in_frame(segment, frame, &mut points)?;
            }
        }
        Ok(points)
    }

    fn last_in_frame(&self, segment: &Segment, frame: &FrameSpot, points: &mut Vec<KeptPoint>) -> Result<()> {
        let mut add = |seq: Seq, time: WallTime| {
            points.pop_if(|last| same_minute(last.time, time));
            points.push(KeptPoint { seq, time, class: PointClass::Write });
        };
        let timeline = &self.version.timeline;
        let Some(first) = Seq::new(frame.first) else { return Ok(()) };
        let last = first.after(u64::from(frame.records).saturating_sub(1));
        let is_within = timeline.stretch_of(last).is_some_and(|stretch| stretch.from <= first);
        if is_within && same_minute(frame.from, frame.to) {
            add(last, frame.to);
            return Ok(());
        }
        let is_apart = timeline.stretches().iter().all(|one| last < one.from || one.to.is_some_and(|to| to < first));
        if is_apart {
            return Ok(());
        }
        let Records { first, records } = Records::read(segment, frame)?;
        for (seq, record) in
            (0..).map(|i| first.after(i)).zip(records).filter(|(seq, _)| timeline.stretch_of(*seq).is_some())
        {
            add(seq, record.time);
        }
        Ok(())
    }
}
