//! How much a base may have on its way while live frames come. Pure: the time is handed in.
//!
//! Live frames go first wherever there is a choice, but what was sent is sent: a base that has much on its way stands in front of them,
//! in sockets, in the network and at the receiver's disk. So it has as much on its way as the path holds, and little more.
//!
//! ```text
//!   window = 2 MiB + 5/4 of (what arrives in a second × the shortest round trip)
//! ```
//!
//! The quarter is what lets it grow until more does not arrive.

use std::time::Duration;

/// What keeps a near receiver at work: two frames.
const ROOM_BYTES: u64 = 2 << 20;
/// Over so long it is counted what arrives.
const COUNTED: Duration = Duration::from_millis(100);
/// A live frame is followed by others, probably, for so long.
const LIVE: Duration = Duration::from_secs(1);

/// What a base may have on its way.
#[derive(Debug, Default)]
pub(super) struct Share {
    /// Since the last count, and when that was.
    arrived: u64,
    counted_at: Duration,
    bytes_per_second: u64,
    round_trip_min: Option<Duration>,
}

impl Share {
    /// So much is known to be durable over there.
    pub(super) fn arrived(&mut self, bytes: u64, now: Duration) {
        self.arrived = self.arrived.saturating_add(bytes);
        let passed = now.saturating_sub(self.counted_at);
        if passed < COUNTED {
            return;
        }
        let rate = u128::from(self.arrived) * 1_000_000 / passed.as_micros().max(1);
        // It falls slowly: the receiver's disk takes a breath now and then.
        let slower = self.bytes_per_second / 8 * 7;
        self.bytes_per_second = u64::try_from(rate).unwrap_or(u64::MAX).max(slower);
        (self.arrived, self.counted_at) = (0, now);
    }

    /// Whether so many bytes more may be sent, with so many on their way; `live`: when data of a live frame was sent last.
    pub(super) fn has_room(
        &mut self,
        bytes: u64,
        on_way: u64,
        round_trip: Duration,
        live: Option<Duration>,
        now: Duration,
    ) -> bool {
        let round_trip_min = self.round_trip_min.map_or(round_trip, |min| min.min(round_trip));
        self.round_trip_min = Some(round_trip_min);
        let is_alone = live.is_none_or(|at| now.saturating_sub(at) > LIVE);
        // One frame always: it never stands still.
        is_alone || on_way == 0 || on_way.saturating_add(bytes) <= self.window(round_trip_min)
    }

    fn window(&self, round_trip: Duration) -> u64 {
        let path = u128::from(self.bytes_per_second) * round_trip.as_micros() / 1_000_000;
        ROOM_BYTES.saturating_add(u64::try_from(path / 4 * 5).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: u64 = 1 << 20;

    /// What arrives in a second, after ten, and the most that was on its way, over a path of so many bytes a second and this round trip.
    fn run(bytes_per_second: u64, round_trip: Duration, live: bool) -> (u64, u64) {
        let mut share = Share::default();
        let (mut sent, mut free_at) = (std::collections::VecDeque::new(), Duration::ZERO);
        let (mut last, mut most) = (0, 0);
        for millis in 0..10_000 {
            let now = Duration::from_millis(millis);
            while sent.front().is_some_and(|&at| at <= now) {
                sent.pop_front();
                share.arrived(FRAME, now);
                last += if millis >= 9000 { FRAME } else { 0 };
            }
            let live = live.then_some(now);
            // The bottleneck takes one after the other, as many as it is given.
            while sent.len() < 200 && share.has_room(FRAME, sent.len() as u64 * FRAME, round_trip, live, now) {
                free_at = free_at.max(now) + Duration::from_micros(FRAME * 1_000_000 / bytes_per_second);
                sent.push_back(free_at + round_trip);
            }
            most = most.max(sent.len() as u64 * FRAME);
        }
        (last, most)
    }

    #[test]
    fn it_fills_the_path_and_little_more_while_live_frames_come() {
        for (rate, millis) in [(500 << 20, 1), (100 << 20, 10), (100 << 20, 100), (10 << 20, 50)] {
            let round_trip = Duration::from_millis(millis);
            let (arrived, most) = run(rate, round_trip, true);
            assert!(arrived * 10 >= rate * 8, "{arrived} of {rate} at {millis} ms");
            let path = rate * millis / 1000;
            assert!(most <= 3 * FRAME + path * 3 / 2, "{most} on their way at {rate}, {millis} ms");
        }
    }

    #[test]
    fn alone_it_takes_all_there_is() {
        let (arrived, most) = run(100 << 20, Duration::from_millis(10), false);
        assert!(arrived >= 95 << 20 && most == 200 * FRAME);
    }

    #[test]
    fn one_frame_is_let_go_whatever_comes() {
        let mut share = Share::default();
        let now = Duration::from_secs(5);
        assert!(share.has_room(u64::MAX, 0, Duration::ZERO, Some(now), now));
        assert!(!share.has_room(FRAME, 2 * FRAME, Duration::ZERO, Some(now), now));
        assert!(share.has_room(FRAME, 2 * FRAME, Duration::ZERO, Some(now), now + 2 * LIVE));
        // A clock that goes back, or stands still.
        share.arrived(u64::MAX, Duration::ZERO);
        share.arrived(u64::MAX, Duration::MAX);
        assert!(!share.has_room(u64::MAX, 1, Duration::MAX, Some(now), Duration::ZERO) || share.bytes_per_second > 0);
    }
}
