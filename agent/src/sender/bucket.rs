//! What a group may send under its limit, live frames and a base together. Pure: the time is handed in.
//!
//! ```text
//!   limit ──▶ all     taken by live frames first; a base takes what they leave
//!      └─/16▶ base    taken by a base whatever live frames want; it is taken from `all` as well
//! ```
//!
//! **Invariant:** in any stretch of time no more is let go than the limit times its length, one burst and one piece.

use std::time::Duration;

/// What is let go at once after a pause, as a time at the limit: longer than a timer is late.
const BURST_MS: u64 = 50;
/// What is let go at least, as a time at the limit: a shorter piece costs more than it helps.
const PIECE_MS: u64 = 5;
const PIECE_MIN: u64 = 4 * 1024;
const PIECE_MAX: u64 = 64 * 1024;
/// What a base gets of it while live frames want all, as a part of all.
const BASE_PART: u64 = 16;
/// What QUIC, UDP and IP add to what they carry, as a part of it, at the smallest datagrams.
const OVERHEAD_PART: u64 = 16;
/// Timers are not finer.
const WAIT_MIN: Duration = Duration::from_millis(1);
/// Tokens are counted in parts of a byte, so that short stretches of time are not lost at a low limit.
const PARTS: i128 = 1_000_000_000;

/// Whose frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// The group's order.
    Live,
    /// A first copy, comparison or resync.
    Base,
}

/// Whether something may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// So many bytes, at once.
    Send(usize),
    /// Nothing; to be asked again after this time.
    Wait(Duration),
}

/// Bytes a second for one group.
#[derive(Clone, Debug)]
pub struct Bucket {
    bytes_per_second: u64,
    all: Tokens,
    base: Tokens,
    /// Live frames were refused, and nothing was let go of them since.
    live_waits: bool,
}

/// What may be let go, filled at a rate up to a most.
#[derive(Clone, Debug)]
struct Tokens {
    bytes_per_second: u64,
    most: i128,
    /// In [`PARTS`] of a byte; negative: it was let go too early.
    left: i128,
    at: Duration,
}

impl Bucket {
    /// Full at `now`, by a clock that never goes back.
    pub fn new(bytes_per_second: u64, now: Duration) -> Self {
        let of = |bytes_per_second: u64| {
            let burst = (bytes_per_second.saturating_mul(BURST_MS) / 1000).max(cost(piece(bytes_per_second)));
            let most = i128::from(burst) * PARTS;
            Tokens { bytes_per_second, most, left: most, at: now }
        };
        let (all, part) = (of(bytes_per_second), (bytes_per_second / BASE_PART).max(1));
        // A base is let go the same pieces, less often.
        let base =
            Tokens { bytes_per_second: part, most: i128::from(cost(piece(bytes_per_second))) * PARTS, ..of(part) };
        Self { bytes_per_second, all, base, live_waits: false }
    }

    /// Whether `stream`, which has so many bytes to send, may send some of them.
    pub fn ask(&mut self, stream: Stream, bytes: usize, now: Duration) -> Turn {
        self.all.fill(now);
        self.base.fill(now);
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let piece = piece(self.bytes_per_second).min(bytes);
        match stream {
            Stream::Live => {
                self.live_waits = !self.all.has(cost(piece));
                match self.live_waits {
                    true => Turn::Wait(self.all.until(cost(piece))),
                    false => self.send(bytes),
                }
            }
            Stream::Base if self.base.has(cost(piece)) => {
                self.base.take(cost(piece));
                self.all.take(cost(piece));
                Turn::Send(usize::try_from(piece).unwrap_or(usize::MAX))
            }
            Stream::Base if !self.live_waits && self.all.has(cost(piece)) => self.send(bytes),
            Stream::Base => Turn::Wait(self.base.until(cost(piece)).min(self.all.until(cost(piece)))),
        }
    }

    /// Live frames do not wait: their stream has ended.
    pub fn live_ended(&mut self) {
        self.live_waits = false;
    }

    /// As much as there is, of so many bytes.
    fn send(&mut self, bytes: u64) -> Turn {
        let left = u64::try_from(self.all.left / PARTS).unwrap_or(0);
        // What `cost` adds is left out first.
        let bytes = bytes.min(left / (OVERHEAD_PART + 1) * OVERHEAD_PART).max(piece(self.bytes_per_second).min(bytes));
        self.all.take(cost(bytes));
        Turn::Send(usize::try_from(bytes).unwrap_or(usize::MAX))
    }
}

impl Tokens {
    fn fill(&mut self, now: Duration) {
        let nanos = now.saturating_sub(self.at).as_nanos();
        self.at = self.at.max(now);
        // Longer than it takes to be full changes nothing: 2^64 ns are centuries.
        let nanos = i128::from(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.left = self.left.saturating_add(nanos.saturating_mul(self.bytes_per_second.into())).min(self.most);
    }

    fn has(&self, bytes: u64) -> bool {
        self.left >= i128::from(bytes) * PARTS
    }

    fn take(&mut self, bytes: u64) {
        self.left -= i128::from(bytes) * PARTS;
    }

    /// How long until there are so many.
    fn until(&self, bytes: u64) -> Duration {
        let missing = (i128::from(bytes) * PARTS - self.left).max(0);
        let nanos = missing / i128::from(self.bytes_per_second.max(1));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)).max(WAIT_MIN)
    }
}

/// What is let go at least, if there is so much to be sent.
fn piece(bytes_per_second: u64) -> u64 {
    (bytes_per_second.saturating_mul(PIECE_MS) / 1000).clamp(PIECE_MIN, PIECE_MAX)
}

/// What so many bytes are on the wire.
fn cost(bytes: u64) -> u64 {
    bytes.saturating_add(bytes.div_ceil(OVERHEAD_PART))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u64 = 1 << 20;

    /// What was let go of each stream in `seconds`, if each wants so much of the limit in percent, asking whenever it may.
    fn run(limit: u64, wants: [u64; 2], seconds: u64) -> [u64; 2] {
        let mut bucket = Bucket::new(limit, Duration::ZERO);
        let streams = [Stream::Live, Stream::Base];
        let (mut let_go, mut again) = ([0; 2], [Duration::ZERO; 2]);
        for micros in (0..seconds * 1_000_000).step_by(250) {
            let now = Duration::from_micros(micros);
            for (index, stream) in streams.into_iter().enumerate() {
                let wanted = (limit * wants[index] / 100) as u128 * u128::from(micros) / 1_000_000;
                let left = u64::try_from(wanted).unwrap().saturating_sub(let_go[index]);
                if left == 0 || now < again[index] {
                    continue;
                }
                match bucket.ask(stream, usize::try_from(left).unwrap(), now) {
                    Turn::Send(bytes) => let_go[index] += bytes as u64,
                    Turn::Wait(pause) => again[index] = now + pause,
                }
            }
            let all = let_go.map(cost).iter().sum::<u64>();
            let most = u128::from(limit) * u128::from(micros) / 1_000_000;
            let burst = (limit * BURST_MS / 1000).max(cost(piece(limit))) + cost(piece(limit)) + 64;
            // `cost` rounds each piece up: a byte for each.
            assert!(u128::from(all) <= most + u128::from(burst), "{all} after {micros} µs");
        }
        let_go
    }

    /// Of the limit, in percent.
    fn percent(bytes: u64, limit: u64, seconds: u64) -> u64 {
        100 * bytes / (limit * seconds)
    }

    #[test]
    fn alone_each_gets_all_of_it() {
        for limit in [64 << 10, LIMIT, 400 << 20] {
            for wants in [[200, 0], [0, 200]] {
                let all = run(limit, wants, 10).iter().sum::<u64>();
                // What the wire adds is within the limit, too.
                assert!((92..=95).contains(&percent(all, limit, 10)), "{all} of {limit}");
            }
        }
    }

    #[test]
    fn live_frames_go_first_but_for_a_small_part() {
        for limit in [64 << 10, LIMIT, 400 << 20] {
            let [live, base] = run(limit, [200, 200], 10).map(|bytes| percent(bytes, limit, 10));
            assert!((85..=90).contains(&live) && (5..=7).contains(&base), "live {live} %, base {base} % of {limit}");
        }
    }

    #[test]
    fn a_base_gets_what_live_frames_leave() {
        for wanted in [10, 50, 80] {
            let [live, base] = run(LIMIT, [wanted, 200], 10).map(|bytes| percent(bytes, LIMIT, 10));
            assert!(live >= wanted - 1 && live + base >= 92, "live {live} % of {wanted}, base {base} %");
        }
    }

    #[test]
    fn live_frames_that_come_while_a_base_takes_all_wait_for_one_piece() {
        let mut bucket = Bucket::new(LIMIT, Duration::ZERO);
        let mut now = Duration::ZERO;
        while let Turn::Send(_) = bucket.ask(Stream::Base, 1 << 20, now) {}
        let one = Duration::from_secs_f64(cost(piece(LIMIT)) as f64 / LIMIT as f64);
        for _ in 0..1000 {
            now += Duration::from_millis(1);
            let Turn::Wait(pause) = bucket.ask(Stream::Live, 1 << 20, now) else { continue };
            assert!(pause <= 2 * one, "{pause:?}");
            assert!(matches!(bucket.ask(Stream::Base, 1 << 20, now), Turn::Wait(_)) || bucket.live_waits);
        }
    }

    #[test]
    fn a_stream_that_has_ended_leaves_all_to_the_other() {
        let mut bucket = Bucket::new(LIMIT, Duration::ZERO);
        while let Turn::Send(_) = bucket.ask(Stream::Live, 1 << 20, Duration::ZERO) {}
        while let Turn::Send(_) = bucket.ask(Stream::Base, 1 << 20, Duration::ZERO) {}
        bucket.live_ended();
        let Turn::Wait(pause) = bucket.ask(Stream::Base, 1 << 20, Duration::ZERO) else { panic!("nothing is left") };
        assert!(pause < Duration::from_millis(20), "{pause:?}");
    }

    #[test]
    fn small_ones_and_long_pauses_are_nothing_special() {
        let mut bucket = Bucket::new(1, Duration::ZERO);
        assert_eq!(bucket.ask(Stream::Live, 1, Duration::ZERO), Turn::Send(1));
        let mut bucket = Bucket::new(u64::MAX, Duration::ZERO);
        assert_eq!(bucket.ask(Stream::Live, 9 << 20, Duration::MAX), Turn::Send(9 << 20));
        // A clock that stands still or goes back gives nothing.
        let mut bucket = Bucket::new(LIMIT, Duration::from_secs(9));
        while let Turn::Send(_) = bucket.ask(Stream::Live, 1 << 20, Duration::from_secs(9)) {}
        assert!(matches!(bucket.ask(Stream::Live, 1 << 20, Duration::from_secs(1)), Turn::Wait(_)));
    }
}
