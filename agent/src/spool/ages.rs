//! How old the oldest change is that is not durable at a receiver, in bounded memory.

use std::collections::VecDeque;

use journal::types::{Micros, Seq, WallTime};

/// Changes of so many microseconds are told apart while there are few of them, and when there are many.
const GRAIN: u64 = 1_000;
const COARSE: u64 = 1_000_000;
/// How many are few.
const FEW: usize = 10_000;

/// When something was, in microseconds of the clock that counts from the machine's start and that nobody sets; negative before that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(i64);

impl Moment {
    /// So long before `now`, by that clock.
    pub(super) fn before(now: WallTime, age: Micros) -> Self {
        let [now, age] = [now.0, age.0].map(|micros| i64::try_from(micros).unwrap_or(i64::MAX));
        Self(now.saturating_sub(age))
    }

    /// How long ago it was, `now` by that clock.
    pub(super) fn age(self, now: WallTime) -> Micros {
        let now = i64::try_from(now.0).unwrap_or(i64::MAX);
        Micros(u64::try_from(now.saturating_sub(self.0)).unwrap_or(0))
    }

    fn since(self, earlier: Self) -> u64 {
        u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0)
    }
}

/// Runs of changes: last place, and when the oldest was made.
#[derive(Debug, Default)]
pub(super) struct Ages(VecDeque<(Seq, Moment)>);

impl Ages {
    /// Changes up to `last`, the oldest of them made at `time`.
    pub(super) fn add(&mut self, last: Seq, time: Moment) {
        let grain = if self.0.len() < FEW { GRAIN } else { COARSE };
        match self.0.back_mut() {
            Some((end, oldest)) if time.since(*oldest) < grain => *end = last,
            _ => self.0.push_back((last, time)),
        }
    }

    /// Changes up to `last`, the oldest of them made at `time`, are not durable, whatever was known of them: the age of the oldest
    /// is that of all of them until then.
    pub(super) fn recall(&mut self, last: Seq, time: Moment) {
        let oldest = self.oldest().map_or(time, |oldest| oldest.min(time));
        self.forget(last, drop);
        self.0.push_front((last, oldest));
    }

    /// All up to `durable` need not be thought of any more; `gone` is told when they were made.
    pub(super) fn forget(&mut self, durable: Seq, mut gone: impl FnMut(Moment)) {
        while let Some((_, time)) = self.0.pop_front_if(|(last, _)| *last <= durable) {
            gone(time);
        }
    }

    /// When the oldest change left was made; a grain too early at worst.
    pub(super) fn oldest(&self) -> Option<Moment> {
        self.0.front().map(|(_, time)| *time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: u64) -> Moment {
        Moment::before(WallTime(micros), Micros(0))
    }

    #[test]
    fn what_a_receiver_lost_counts_again_until_it_has_it() {
        let seq = |number| Seq::new(number).unwrap();
        let mut ages = Ages::default();
        (1..=10).for_each(|second| ages.add(seq(second), at(second * 1_000_000)));
        ages.forget(seq(8), drop);
        ages.recall(seq(8), at(3_000_000));
        assert_eq!(ages.oldest(), Some(at(3_000_000)));
        ages.forget(seq(7), drop);
        assert_eq!(ages.oldest(), Some(at(3_000_000)));
        ages.forget(seq(8), drop);
        assert_eq!(ages.oldest(), Some(at(9_000_000)));
        // All of it is lost, more than was ever durable; and what was older stays the oldest.
        ages.recall(seq(10), at(9_500_000));
        assert_eq!(ages.oldest(), Some(at(9_000_000)));
        ages.forget(seq(10), drop);
        assert_eq!(ages.oldest(), None);
    }

    #[test]
    fn the_oldest_change_that_is_not_durable_is_known() {
        let seq = |number| Seq::new(number).unwrap();
        let mut ages = Ages::default();
        assert_eq!(ages.oldest(), None);
        for second in 1..=100_000 {
            ages.add(seq(2 * second - 1), at(second * 1_000_000));
            ages.add(seq(2 * second), at(second * 1_000_000 + 500_000));
        }
        assert!(ages.0.len() < 110_000, "a second each");
        assert_eq!(ages.oldest(), Some(at(1_000_000)));
        ages.forget(seq(1), drop);
        assert_eq!(ages.oldest(), Some(at(1_500_000)));
        // The true time is 100 000 s: a grain too early, never too late.
        ages.forget(seq(199_998), drop);
        assert_eq!(ages.oldest(), Some(at(99_999_500_000)));
        ages.forget(seq(200_000), drop);
        assert_eq!(ages.oldest(), None);
    }

    #[test]
    fn an_age_may_be_longer_than_the_machine_runs() {
        let moment = Moment::before(WallTime(5_000_000), Micros(60_000_000));
        assert_eq!(moment.age(WallTime(7_000_000)), Micros(62_000_000));
        assert_eq!(Moment::before(WallTime(5), Micros(0)).age(WallTime(3)), Micros(0));
    }
}
