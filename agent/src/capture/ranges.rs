//! Gives overlapping writes in flight an order: one after the other, as they came.
//!
//! Without it, the source may hold A over B while the journal says B over A.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use journal::types::Extent;

/// The ranges of one volume that are being written, or waited for.
#[derive(Debug, Default)]
pub struct Ranges {
    queue: Mutex<Queue>,
    left: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    next_ticket: u64,
    /// In the order they came.
    entries: Vec<(u64, Extent)>,
    waiting: usize,
}

/// Ranges that nobody else writes to while this lives.
#[derive(Debug)]
pub struct Held<'a> {
    ranges: &'a Ranges,
    ticket: u64,
}

impl Ranges {
    /// Waits until no earlier request for any part of `extent` is left.
    pub fn hold(&self, extent: Extent) -> Held<'_> {
        self.hold_all(&[extent])
    }

    /// Waits until no earlier request for any part of any of `extents` is left. They queue as one, so that two such requests
    /// never wait for each other.
    pub fn hold_all(&self, extents: &[Extent]) -> Held<'_> {
        let mut queue = self.lock();
        let ticket = queue.next_ticket;
        queue.next_ticket += 1;
        queue.entries.extend(extents.iter().map(|extent| (ticket, *extent)));
        while queue.is_blocked(ticket, extents) {
            queue.waiting += 1;
            queue = self.left.wait(queue).unwrap_or_else(PoisonError::into_inner);
            queue.waiting -= 1;
        }
        Held { ranges: self, ticket }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn is_blocked(&self, ticket: u64, extents: &[Extent]) -> bool {
        let mut earlier = self.entries.iter().take_while(|(other, _)| *other < ticket);
        earlier.any(|(_, other)| extents.iter().any(|extent| other.overlap(*extent).is_some()))
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut queue = self.ranges.lock();
        // Not `swap_remove`: the order is what fairness rests on. There are as many as requests in progress.
        queue.entries.retain(|(ticket, _)| *ticket != self.ticket);
        if queue.waiting > 0 {
            self.ranges.left.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::mpsc::{self, TryRecvError};
    use std::thread;

    use super::*;

    fn extent(start: u64, sectors: u64) -> Extent {
        Extent::of_bytes(start * 512, sectors * 512).unwrap()
    }

    #[test]
    fn ranges_that_are_apart_do_not_wait() {
        let ranges = Ranges::default();
        let _low = ranges.hold(extent(0, 8));
        let _high = ranges.hold(extent(8, 8));
    }

    #[test]
    fn a_range_waits_for_the_earlier_ones_that_overlap() {
        let ranges = Ranges::default();
        let (sender, order) = mpsc::channel();
        thread::scope(|scope| {
            let first = ranges.hold(extent(0, 8));
            let queued = |count| {
                while ranges.lock().waiting < count {
                    thread::yield_now();
                }
            };
            for (number, start) in (1..).zip([4, 6, 12]) {
                let (sender, ranges) = (sender.clone(), &ranges);
                scope.spawn(move || {
                    let _held = ranges.hold(extent(start, 8));
                    sender.send(number).unwrap();
                });
                queued(number);
            }
            // The third overlaps no range that is held, but one that waits, and came later.
            assert_eq!(order.try_recv(), Err(TryRecvError::Empty));
            drop(first);
        });
        assert_eq!(order.try_iter().collect::<Vec<_>>(), [1, 2, 3]);
        assert!(ranges.lock().entries.is_empty());
    }

    #[test]
    fn two_that_want_the_same_in_another_order_do_not_wait_for_each_other() {
        let (ranges, owner) = (Ranges::default(), AtomicU32::new(0));
        thread::scope(|scope| {
            for me in 1..=2 {
                let (ranges, owner) = (&ranges, &owner);
                scope.spawn(move || {
                    let mut both = [extent(0, 8), extent(100, 8)];
                    both.rotate_left(usize::from(me == 1));
                    for _ in 0..20_000 {
                        let _held = ranges.hold_all(&both);
                        assert_eq!(owner.swap(me, Ordering::SeqCst), 0);
                        assert_eq!(owner.swap(0, Ordering::SeqCst), me);
                    }
                });
            }
        });
        assert!(ranges.lock().entries.is_empty());
    }

    #[test]
    fn two_never_hold_the_same_sector() {
        let (ranges, owner) = (Ranges::default(), AtomicU32::new(0));
        thread::scope(|scope| {
            for me in 1..=4 {
                let (ranges, owner) = (&ranges, &owner);
                scope.spawn(move || {
                    for round in 0..20_000 {
                        let _held = ranges.hold(extent(round % 7, 9));
                        assert_eq!(owner.swap(me, Ordering::SeqCst), 0);
                        assert_eq!(owner.swap(0, Ordering::SeqCst), me);
                    }
                });
            }
        });
    }
}
