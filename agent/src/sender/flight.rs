//! What all streams of one connection have on their way together: never more than the other side has room for, so that no stream
//! waits for what another one cannot send.

use std::collections::VecDeque;
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use link::FLIGHT_BYTES;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Frames of a connection that are not known to be durable.
#[derive(Clone, Debug)]
pub(super) struct Flight(Arc<Semaphore>);

impl Default for Flight {
    fn default() -> Self {
        Self::of(usize::try_from(FLIGHT_BYTES).unwrap_or(Semaphore::MAX_PERMITS))
    }
}

impl Flight {
    fn of(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes)))
    }

    /// The part of one stream; dropped with it, nothing of it is on its way any more.
    pub(super) fn stream(&self) -> OnWay {
        OnWay { flight: self.clone(), state: Mutex::default() }
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
}

impl OnWay {
    /// Takes room for a frame, to be sent at once; numbers rise. False: there is none, see [`room`](Self::room).
    pub(super) fn enter(&self, number: u64, bytes: usize) -> bool {
        // Frames are far below 4 GiB.
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let taken = Arc::clone(&self.flight.0).try_acquire_many_owned(bytes).ok();
        let mut state = self.state();
        state.refused = taken.is_none().then_some(bytes);
        taken.map(|taken| state.sent.push_back((number, taken))).is_some()
    }

    /// Whether a frame waits for room.
    pub(super) fn is_waiting(&self) -> bool {
        self.state().refused.is_some()
    }

    /// Until there may be room for what did not find any; for ever if all did.
    pub(super) async fn room(&self) {
        let Some(bytes) = self.state().refused else { return pending().await };
        // Given back at once: it is taken when the frame is sent.
        drop(self.flight.0.acquire_many(bytes).await);
        self.state().refused = None;
    }

    /// All up to this number is durable.
    pub(super) fn arrived(&self, number: u64) {
        let mut state = self.state();
        let count = state.sent.partition_point(|(sent, _)| *sent <= number);
        state.sent.drain(..count);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
        assert!(!two.enter(2, 20) && two.is_waiting() && !one.is_waiting());
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
        assert!(two.enter(4, 40) && !two.is_waiting() && flight.0.available_permits() == 0);
        two.arrived(4);
        assert_eq!(flight.0.available_permits(), 100);
    }
}
