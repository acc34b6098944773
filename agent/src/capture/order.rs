//! Where in the group's write order the next record stands, and at what time. Pure: who reads a clock is the caller.

use journal::types::{Seq, WallTime};

/// The one source of `Seq`.
///
/// **Invariant:** places follow each other without a hole, and times never go back.
#[derive(Debug)]
pub(super) struct Order {
    last: Option<Seq>,
    time: WallTime,
}

impl Order {
    /// Goes on after `last`, whose time was `time`.
    pub(super) fn after(last: Option<Seq>, time: WallTime) -> Self {
        Self { last, time }
    }

    /// The next place.
    pub(super) fn next(&mut self) -> Seq {
        let next = Seq::following(self.last);
        self.last = Some(next);
        next
    }

    /// The time of what happens when the clock says `now`: raised to that of the last record.
    pub(super) fn time(&mut self, now: WallTime) -> WallTime {
        self.time = self.time.max(now);
        self.time
    }

    /// The last place given out.
    pub(super) fn last(&self) -> Option<Seq> {
        self.last
    }

    /// The time last given out.
    pub(super) fn last_time(&self) -> WallTime {
        self.time
    }
}
