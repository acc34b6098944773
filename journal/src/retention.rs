//! What is kept. Pure: a policy, a time, what is pinned and what points there are; no clock, no disk.
//!
//! ```text
//!            hourly                every_minute        every_write
//!  ──┬─────────┬─────────┬──────┬──┬──┬──┬──┬──┬──┬──┼████████████████  now
//!    ▲ oldest point: the horizon                     X  from here on every place is a point
//! ```
//!
//! *A version stays if a point can see it.* `docs/FORMAT.md` has that in full, `docs/decisions/0019-thinned-then-cleaned.md` says why points go first.

use std::sync::Arc;

use crate::codec::KeptPoint;
use crate::types::{Micros, Seq, WallTime};

const MINUTE: u64 = 60_000_000;
const HOUR: u64 = 60 * MINUTE;

/// How long what is kept. Ages are those of points by the receiver's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// So long, every write is a point.
    pub every_write: Micros,
    /// So long, the last point of each minute is kept.
    pub every_minute: Micros,
    /// So long, the last point of each hour is.
    pub hourly: Micros,
    /// So long, marks are; locked ones until their lock ends, too.
    pub marks: Micros,
}

/// Which points there are below a place, where history was thinned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// From here on nothing was thinned.
    pub upto: Seq,
    /// The time of the record there.
    pub upto_time: WallTime,
    /// Points before it, ascending.
    pub points: Vec<KeptPoint>,
}

/// A point that may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The point.
    pub point: KeptPoint,
    /// It is a mark, and this is how long it is locked.
    pub mark: Option<Option<WallTime>>,
    /// Something stands on it.
    pub pinned: bool,
}

impl Policy {
    /// Whether it keeps no less than `other` of anything.
    pub fn covers(&self, other: &Self) -> bool {
        self.every_write >= other.every_write
            && self.every_minute.max(self.every_write) >= other.every_minute
            && self.hourly.max(self.every_minute).max(self.every_write) >= other.hourly
            && self.marks.max(self.every_write) >= other.marks
    }

    /// The beginning of the time of which every write is kept.
    pub fn window_start(&self, now: WallTime) -> WallTime {
        WallTime(now.0.saturating_sub(self.every_write.0))
    }

    /// Which of the candidates stay. They are all points before X, ascending, or at least the last one of each minute, all marks and all that
    /// is pinned; `next` is the time of the first point that is not before X.
    pub fn kept(&self, now: WallTime, candidates: &[Candidate], next: Option<WallTime>) -> Vec<KeptPoint> {
        let times = candidates.iter().skip(1).map(|candidate| Some(candidate.point.time)).chain([next]);
        let stays = |(candidate, next): (&Candidate, Option<WallTime>)| {
            let time = candidate.point.time;
            let age = now.since(time);
            let is_last_of = |length: u64| next.is_none_or(|next| next.0 / length != time.0 / length);
            candidate.pinned
                || age <= self.every_write
                || age <= self.every_minute && is_last_of(MINUTE)
                || age <= self.hourly && is_last_of(HOUR)
                || candidate.mark.is_some_and(|until| age <= self.marks || until.is_some_and(|until| now < until))
        };
        candidates.iter().zip(times).filter(|pair| stays(*pair)).map(|(candidate, _)| candidate.point).collect()
    }
}

/// Whether both lie in one minute: then only the later one can stay for its time.
pub(crate) fn same_minute(a: WallTime, b: WallTime) -> bool {
    a.0 / MINUTE == b.0 / MINUTE
}

impl Kept {
    /// Whether `seq`, if it is a point by itself, is still offered.
    pub fn offers(&self, seq: Seq) -> bool {
        self.upto <= seq || self.listed(seq).is_some()
    }

    /// What of it there is where the order ends at `head`: after damage, that may be before points that are listed.
    pub(crate) fn until(self: Arc<Self>, head: Option<Seq>) -> Arc<Self> {
        let is_left = |point: &KeptPoint| Some(point.seq) <= head;
        if self.points.iter().all(is_left) {
            return self;
        }
        let points = self.points.iter().copied().filter(is_left).collect();
        Arc::new(Self { upto: self.upto, upto_time: self.upto_time, points })
    }

    /// The listed point at `seq`.
    pub fn listed(&self, seq: Seq) -> Option<&KeptPoint> {
        let at = self.points.binary_search_by_key(&seq, |point| point.seq).ok()?;
        self.points.get(at)
    }

    /// The first place not before `birth` that a view can be asked of: what it does not show of a version that counts from `birth` on
    /// is never shown again. At and behind X that is every place.
    pub fn sees(&self, birth: u64) -> u64 {
        if birth >= self.upto.number() {
            return birth;
        }
        let after = self.points.partition_point(|point| point.seq.number() < birth);
        self.points.get(after).map_or_else(|| self.upto.number(), |point| point.seq.number())
    }

    /// The newest listed point before X that is not after `time`.
    pub fn before_time(&self, time: WallTime) -> Option<&KeptPoint> {
        let after = self.points.partition_point(|point| point.time <= time);
        self.points.get(after.checked_sub(1)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::PointClass;
    use crate::disk::sim::Rng;

    fn candidate(seq: u64, time: u64) -> Candidate {
        let point = KeptPoint { seq: Seq::new(seq).unwrap(), time: WallTime(time), class: PointClass::Write };
        Candidate { point, mark: None, pinned: false }
    }

    fn policy(every_write: u64, every_minute: u64, hourly: u64, marks: u64) -> Policy {
        let [every_write, every_minute, hourly, marks] = [every_write, every_minute, hourly, marks].map(Micros);
        Policy { every_write, every_minute, hourly, marks }
    }

    fn seqs(points: &[KeptPoint]) -> Vec<u64> {
        points.iter().map(|point| point.seq.number()).collect()
    }

    #[test]
    fn each_line_of_the_policy_keeps_what_it_says() {
        let now = WallTime(10 * HOUR);
        let ago = |micros: u64| now.0 - micros;
        let mut all = vec![
            candidate(1, ago(6 * HOUR)),              // last of its hour, too old
            candidate(2, ago(4 * HOUR) - 2 * MINUTE), // not the last of its hour
            candidate(3, ago(4 * HOUR) - MINUTE),     // last of its hour
            candidate(4, ago(40 * MINUTE)),           // not the last of its minute
            candidate(5, ago(40 * MINUTE) + 1),       // last of its minute
            candidate(6, ago(20 * MINUTE)),           // shares its minute with the first that is not thinned
        ];
        let rule = policy(10 * MINUTE, HOUR, 5 * HOUR, 0);
        let next = Some(WallTime(ago(20 * MINUTE) + 5));
        assert_eq!(seqs(&rule.kept(now, &all, next)), [3, 5]);
        assert_eq!(seqs(&rule.kept(now, &all, None)), [3, 5, 6], "nothing follows in its minute");
        all[0].pinned = true;
        all[1].mark = Some(None);
        all[3].mark = Some(Some(WallTime(now.0 + 1)));
        assert_eq!(seqs(&rule.kept(now, &all, next)), [1, 3, 4, 5], "pinned, and locked");
        let rule = Policy { marks: Micros(5 * HOUR), ..rule };
        assert_eq!(seqs(&rule.kept(now, &all, next)), [1, 2, 3, 4, 5]);
        all[3].mark = Some(Some(now));
        assert_eq!(seqs(&Policy { marks: Micros(0), ..rule }.kept(now, &all, next)), [1, 3, 5], "the lock has ended");
    }

    /// What is left after many steps is what one step would have left, and the last of an hour is never lost before its time.
    #[test]
    fn thinning_in_steps_is_thinning_at_once() {
        let mut rng = Rng::new(3);
        for _ in 0..200 {
            let mut time = HOUR;
            let all: Vec<_> = (1..120)
                .map(|seq| {
                    time += rng.below(3 * MINUTE);
                    candidate(seq, time)
                })
                .collect();
            let rule = policy(0, rng.below(2 * HOUR), rng.below(6 * HOUR), 0);
            let mut left = all.clone();
            let mut now = WallTime(time);
            for _ in 0..5 {
                now = WallTime(now.0 + rng.below(HOUR));
                let kept = rule.kept(now, &left, None);
                left.retain(|candidate| kept.contains(&candidate.point));
                assert_eq!(kept, rule.kept(now, &all, None));
            }
        }
    }

    #[test]
    fn what_a_version_is_seen_from() {
        let points = vec![candidate(5, 50).point, candidate(9, 90).point];
        let kept = Kept { upto: Seq::new(12).unwrap(), upto_time: WallTime(120), points };
        let table = [(1, 5), (5, 5), (6, 9), (9, 9), (10, 12), (12, 12), (13, 13)];
        assert!(table.iter().all(|(birth, sees)| kept.sees(*birth) == *sees));
        let offered: Vec<u64> = (1..15).filter(|seq| kept.offers(Seq::new(*seq).unwrap())).collect();
        assert_eq!(offered, [5, 9, 12, 13, 14]);
        assert_eq!(kept.before_time(WallTime(89)).map(|point| point.seq.number()), Some(5));
        assert_eq!(kept.before_time(WallTime(49)), None);
    }

    #[test]
    fn a_policy_that_keeps_less_of_anything_is_told() {
        let rule = policy(10, 20, 30, 40);
        assert!(rule.covers(&rule) && policy(10, 0, 30, 40).covers(&policy(10, 9, 30, 40)));
        for shorter in [policy(9, 20, 30, 40), policy(10, 19, 30, 40), policy(10, 20, 29, 40), policy(10, 20, 30, 39)] {
            assert!(!shorter.covers(&rule) && rule.covers(&shorter));
        }
    }
}
