//! How old the oldest change is that is not durable at a receiver, in bounded memory.

use std::collections::VecDeque;

use journal::types::{Seq, WallTime};

/// Changes of so many microseconds are told apart while there are few of them, and when there are many.
const GRAIN: u64 = 10_000;
const COARSE: u64 = 1_000_000;
/// How many are few.
const FEW: usize = 1000;

/// Runs of changes: last place, and the time of the oldest.
#[derive(Debug, Default)]
pub(super) struct Ages(VecDeque<(Seq, WallTime)>);

impl Ages {
    /// Changes up to `last`, the oldest of them made at `time`.
    pub(super) fn add(&mut self, last: Seq, time: WallTime) {
        let grain = if self.0.len() < FEW { GRAIN } else { COARSE };
        match self.0.back_mut() {
            Some((end, oldest)) if time.since(*oldest).0 < grain => *end = last,
            _ => self.0.push_back((last, time)),
        }
    }

    /// Changes up to `last`, the oldest of them made at `time`, are not durable, whatever was known of them: the age of the oldest
    /// is that of all of them until then.
    pub(super) fn recall(&mut self, last: Seq, time: WallTime) {
        let oldest = self.oldest().map_or(time, |oldest| oldest.min(time));
        self.forget(last);
        self.0.push_front((last, oldest));
    }

    /// All up to `durable` need not be thought of any more.
    pub(super) fn forget(&mut self, durable: Seq) {
        while self.0.front().is_some_and(|(last, _)| *last <= durable) {
            self.0.pop_front();
        }
    }

    /// The time of the oldest change left; a grain too early at worst.
    pub(super) fn oldest(&self) -> Option<WallTime> {
        self.0.front().map(|(_, time)| *time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_receiver_lost_counts_again_until_it_has_it() {
        let seq = |number| Seq::new(number).unwrap();
        let mut ages = Ages::default();
        (1..=10).for_each(|second| ages.add(seq(second), WallTime(second * 1_000_000)));
        ages.forget(seq(8));
        ages.recall(seq(8), WallTime(3_000_000));
        assert_eq!(ages.oldest(), Some(WallTime(3_000_000)));
        ages.forget(seq(7));
        assert_eq!(ages.oldest(), Some(WallTime(3_000_000)));
        ages.forget(seq(8));
        assert_eq!(ages.oldest(), Some(WallTime(9_000_000)));
        // All of it is lost, more than was ever durable; and what was older stays the oldest.
        ages.recall(seq(10), WallTime(9_500_000));
        assert_eq!(ages.oldest(), Some(WallTime(9_000_000)));
        ages.forget(seq(10));
        assert_eq!(ages.oldest(), None);
    }

    #[test]
    fn the_oldest_change_that_is_not_durable_is_known() {
        let seq = |number| Seq::new(number).unwrap();
        let mut ages = Ages::default();
        assert_eq!(ages.oldest(), None);
        for second in 1..=100_000 {
            ages.add(seq(2 * second - 1), WallTime(second * 1_000_000));
            ages.add(seq(2 * second), WallTime(second * 1_000_000 + 500_000));
        }
        assert!(ages.0.len() < 101_000, "a second each");
        assert_eq!(ages.oldest(), Some(WallTime(1_000_000)));
        ages.forget(seq(1));
        assert_eq!(ages.oldest(), Some(WallTime(1_500_000)));
        // The true time is 100 000 s: a grain too early, never too late.
        ages.forget(seq(199_998));
        assert_eq!(ages.oldest(), Some(WallTime(99_999_500_000)));
        ages.forget(seq(200_000));
        assert_eq!(ages.oldest(), None);
    }
}
