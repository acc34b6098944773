//! What all streams of one connection have on their way together: never more than the other side has room for, so that no stream
//! waits for what another one cannot send. And which of them goes first.
//!
//! Live streams go before bases. But QUIC takes that strictly, and a base would stand still for as long as live frames fill the link: so
//! for a part of the time, the same for all streams, a base that there is goes beside them.
//!
//! ```text
//!   live  ███████░░███████░░███████░░      ░ half of the link each, if both want it
//!   base         ░░       ░░       ░░
//! ```

use std::collections::VecDeque;
use std::future::pending;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use link::FLIGHT_BYTES;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::share::Share;
use super::state::MEASURE_EVERY;

/// Of live streams, as QUIC has it: higher ones go first, equal ones in turn.
pub(super) const FIRST: i32 = 0;
/// Of bases, and of live streams while they share.
pub(super) const SHARED: i32 = -1;
/// For how long of each [`MEASURE_EVERY`] live streams share. Half of this part of the link is the least that a base gets beside one
/// live stream: 7 %.
pub(super) const SHARED_FOR: Duration = Duration::from_millis(35);

/// Frames of a connection that are not known to be durable.
#[derive(Clone, Debug)]
pub(super) struct Flight {
    room: Arc<Semaphore>,
    bases: Arc<AtomicUsize>,
    since: Instant,
    /// When data of a live frame was sent last, in microseconds after `since`; 0: never.
    live_at: Arc<AtomicU64>,
}

impl Default for Flight {
    fn default() -> Self {
        Self::of(usize::try_from(FLIGHT_BYTES).unwrap_or(Semaphore::MAX_PERMITS))
    }
}

impl Flight {
    fn of(bytes: usize) -> Self {
        let room = Arc::new(Semaphore::new(bytes));
        Self { room, bases: Arc::default(), since: Instant::now(), live_at: Arc::default() }
    }

    /// The part of one stream; dropped with it, nothing of it is on its way any more.
    pub(super) fn stream(&self) -> OnWay {
        OnWay { flight: self.clone(), state: Mutex::default() }
    }

    /// The part of a base's stream.
    pub(super) fn base(&self) -> BaseOnWay {
        self.bases.fetch_add(1, Ordering::Relaxed);
        BaseOnWay { on_way: self.stream(), share: Mutex::default() }
    }

    fn live_at(&self) -> Option<Duration> {
        Some(self.live_at.load(Ordering::Relaxed)).filter(|at| *at > 0).map(Duration::from_micros)
    }
}

/// What a base has on its way.
#[derive(Debug)]
pub(super) struct BaseOnWay {
    on_way: OnWay,
    share: Mutex<Share>,
}

impl BaseOnWay {
    /// As [`OnWay::enter`]; also false while live frames come and there is [enough](Share) on its way: then something will arrive.
    pub(super) fn enter(&self, number: u64, bytes: usize, round_trip: Duration) -> bool {
        let flight = &self.on_way.flight;
        let (live, now) = (flight.live_at(), flight.since.elapsed());
        let (more, there) = (as_u64(bytes), self.on_way.bytes());
        self.share().has_room(more, there, round_trip, live, now) && self.on_way.enter(number, bytes)
    }

    /// As [`OnWay::arrived`].
    pub(super) fn arrived(&self, number: u64) {
        let bytes = self.on_way.arrived(number);
        self.share().arrived(bytes, self.on_way.flight.since.elapsed());
    }

    /// As [`OnWay::room`].
    pub(super) async fn room(&self) {
        self.on_way.room().await;
    }

    fn share(&self) -> MutexGuard<'_, Share> {
        self.share.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for BaseOnWay {
    fn drop(&mut self) {
        self.on_way.flight.bases.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What one stream has on its way.
#[derive(Debug)]
pub(super) struct OnWay {
    flight: Flight,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The number of each frame, and its room.
    sent: VecDeque<(u64, OwnedSemaphorePermit)>,
    /// What did not find room when it was last tried.
    refused: Option<u32>,
    /// Room that was waited for. It is kept: somebody else would take it.
    kept: Option<OwnedSemaphorePermit>,
}

impl OnWay {
    /// Takes room for a frame, to be sent at once; numbers rise. False: there is none, see [`room`](Self::room).
    pub(super) fn enter(&self, number: u64, bytes: usize) -> bool {
        // Frames are far below 4 GiB.
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let mut state = self.state();
        let kept = state.kept.take().filter(|kept| kept.num_permits() == usize::try_from(bytes).unwrap_or(usize::MAX));
        let taken = kept.or_else(|| Arc::clone(&self.flight.room).try_acquire_many_owned(bytes).ok());
        state.refused = taken.is_none().then_some(bytes);
        taken.map(|taken| state.sent.push_back((number, taken))).is_some()
    }

    /// Until there may be room for what did not find any; for ever if all did.
    pub(super) async fn room(&self) {
        let Some(bytes) = self.state().refused else { return pending().await };
        // The semaphore is never closed.
        let taken = Arc::clone(&self.flight.room).acquire_many_owned(bytes).await.ok();
        let mut state = self.state();
        (state.refused, state.kept) = (None, taken);
    }

    /// All up to this number is durable; how many bytes that were.
    pub(super) fn arrived(&self, number: u64) -> u64 {
        let mut state = self.state();
        let count = state.sent.partition_point(|(sent, _)| *sent <= number);
        state.sent.drain(..count).map(|(_, taken)| as_u64(taken.num_permits())).sum()
    }

    /// How much is on its way.
    fn bytes(&self) -> u64 {
        self.state().sent.iter().map(|(_, taken)| as_u64(taken.num_permits())).sum()
    }

    /// Data of a live frame is sent now: bases make room.
    pub(super) fn is_live(&self) {
        let now = u64::try_from(self.flight.since.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.flight.live_at.store(now.max(1), Ordering::Relaxed);
    }

    /// When to look at how fast the link is, and whether to [share](Self::shares) it: all streams at the same time.
    pub(super) fn looks(&self) -> Interval {
        let since = self.flight.since;
        let passed = since.elapsed().as_nanos().div_ceil(MEASURE_EVERY.as_nanos());
        let next = MEASURE_EVERY.saturating_mul(u32::try_from(passed).unwrap_or(u32::MAX));
        let mut looks = interval_at(since + next, MEASURE_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        looks
    }

    /// Whether there is a base to share the link with, of whatever group.
    pub(super) fn shares(&self) -> bool {
        self.flight.bases.load(Ordering::Relaxed) > 0
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn as_u64(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    #[test]
    fn streams_share_room_and_what_arrived_or_ended_gives_it_back() {
        let flight = Flight::of(100);
        let (one, two) = (flight.stream(), flight.stream());
        assert!(one.enter(7, 40) && one.enter(9, 40) && two.enter(1, 20));
        assert!(!two.enter(2, 20));
        let mut context = Context::from_waker(Waker::noop());
        {
            let mut room = pin!(two.room());
            assert_eq!(room.as_mut().poll(&mut context), Poll::Pending);
            one.arrived(6);
            assert_eq!(room.as_mut().poll(&mut context), Poll::Pending);
            one.arrived(8);
            assert_eq!(room.as_mut().poll(&mut context), Poll::Ready(()));
        }
        assert!(two.enter(2, 20) && two.enter(3, 20) && !two.enter(4, 20));
        drop(one);
        assert!(two.enter(4, 40) && flight.room.available_permits() == 0);
        two.arrived(4);
        assert_eq!(flight.room.available_permits(), 100);
    }
}
