//! Memory for large requests, for all servers of a process together. Who finds none left waits for it, in turn.
//!
//! Holding it is a matter of the client too, whose payload comes over its socket: one that keeps others waiting for longer than
//! [`LARGE_PATIENCE`] is cut off.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::buffer::Buffer;
use crate::limits::{LARGE_BYTES_MAX, LARGE_PATIENCE};

/// The one of this process: servers come and go, memory is the machine's.
pub(crate) static LARGE: Pool = Pool::new(LARGE_BYTES_MAX, LARGE_PATIENCE);

/// Buffers, lent and free, of so many bytes at most.
///
/// **Invariant:** `bytes ≤ bytes_max`.
#[derive(Debug)]
pub(crate) struct Pool {
    bytes_max: usize,
    patience: Duration,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    free: Vec<Buffer>,
    /// Of all of them.
    bytes: usize,
    /// Who asks next, and whose turn it is: a small one does not overtake a large one for ever.
    next: u64,
    turn: u64,
}

impl Pool {
    pub(crate) const fn new(bytes_max: usize, patience: Duration) -> Self {
        let state = State { free: Vec::new(), bytes: 0, next: 0, turn: 0 };
        Self { bytes_max, patience, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// A buffer of at least `length` bytes, as soon as there is room for it; what it holds is of no meaning.
    pub(crate) fn take(&self, length: usize) -> Lent<'_> {
        let size = length.next_power_of_two();
        assert!(size <= self.bytes_max, "{size} bytes, of {} in all", self.bytes_max);
        let mut state = self.lock();
        let ticket = state.next;
        state.next += 1;
        let found = loop {
            if state.turn == ticket
                && let Some(found) = state.find(size, self.bytes_max)
            {
                break found;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        };
        state.turn += 1;
        drop(state);
        self.changed.notify_all();
        let mut buffer = found.unwrap_or_else(Buffer::empty);
        buffer.reserve(size, 0);
        Lent { pool: self, buffer }
    }

    fn is_wanted(&self) -> bool {
        let state = self.lock();
        state.next != state.turn
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// A free buffer, or room for a new one; `None`: neither yet.
    fn find(&mut self, size: usize, bytes_max: usize) -> Option<Option<Buffer>> {
        let fits = self.free.iter().enumerate().filter(|(_, buffer)| buffer.len() >= size);
        if let Some((place, _)) = fits.min_by_key(|(_, buffer)| buffer.len()) {
            return Some(Some(self.free.swap_remove(place)));
        }
        while self.bytes + size > bytes_max {
            self.bytes -= self.free.pop()?.len();
        }
        self.bytes += size;
        Some(None)
    }
}

/// A buffer that goes back when dropped.
#[derive(Debug)]
pub(crate) struct Lent<'a> {
    pool: &'a Pool,
    buffer: Buffer,
}

impl<'a> Lent<'a> {
    /// Its bytes, and who says how long they may be kept.
    pub(crate) fn parts(&mut self) -> (&mut [u8], Keeper<'a>) {
        (self.buffer.as_mut(), Keeper(self.pool))
    }
}

/// Knows whether somebody waits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keeper<'a>(&'a Pool);

impl Keeper<'_> {
    /// Whether a client that has been at it since then may keep its buffer.
    pub(crate) fn may_be_kept(self, since: Instant) -> bool {
        since.elapsed() < self.0.patience || !self.0.is_wanted()
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let buffer = std::mem::replace(&mut self.buffer, Buffer::empty());
        self.pool.lock().free.push(buffer);
        self.pool.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn all_get_what_they_want_and_never_more_than_there_is() {
        let pool = Pool::new(8 * MIB, LARGE_PATIENCE);
        let (held, peak, served) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for thread in 0..16 {
                let (pool, held, peak, served) = (&pool, &held, &peak, &served);
                scope.spawn(move || {
                    for round in 0..50 {
                        let lent = pool.take(MIB << ((thread + round) % 4));
                        let size = lent.buffer.len();
                        let now = held.fetch_add(size, Ordering::SeqCst) + size;
                        peak.fetch_max(now, Ordering::SeqCst);
                        std::thread::yield_now();
                        held.fetch_sub(size, Ordering::SeqCst);
                        drop(lent);
                        served.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        let (peak, served) = (peak.into_inner(), served.into_inner());
        assert!(served == 800 && peak <= 8 * MIB, "{served} served, {peak} bytes at once");
        let state = pool.lock();
        let free: usize = state.free.iter().map(Buffer::len).sum();
        assert!(state.bytes == free && free <= 8 * MIB, "{} bytes, {free} of them free", state.bytes);
    }

    #[test]
    fn what_is_free_is_used_again_and_makes_way() {
        let pool = Pool::new(4 * MIB, LARGE_PATIENCE);
        let (mut first, second) = (pool.take(MIB), pool.take(2 * MIB));
        let place = first.parts().0.as_ptr();
        drop((first, second));
        let mut again = pool.take(MIB / 2);
        assert_eq!(again.parts().0.as_ptr(), place, "the smallest that fits");
        drop(again);
        assert_eq!(pool.take(4 * MIB).buffer.len(), 4 * MIB);
        assert_eq!(pool.lock().bytes, 4 * MIB);
    }

    #[test]
    fn it_may_be_kept_while_nobody_wants_it() {
        let pool = Pool::new(MIB, Duration::ZERO);
        let mut lent = pool.take(MIB);
        let (since, keeper) = (Instant::now(), lent.parts().1);
        assert!(keeper.may_be_kept(since));
        std::thread::scope(|scope| {
            scope.spawn(|| drop(pool.take(MIB)));
            while keeper.may_be_kept(since) {
                std::thread::yield_now();
            }
            drop(lent);
        });
    }
}
