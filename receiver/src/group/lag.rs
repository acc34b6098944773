//! How long a change takes from being captured to being durable here.
//!
//! Measured per frame, from the time of its first record (the agent's clock) to the moment after the fdatasync that covered
//! it (this machine's). The two clocks are compared as they are: what NTP leaves between them is in it, and less than
//! nothing counts as nothing. It begins anew with each session.

use hdrhistogram::Histogram;
use journal::types::{Micros, WallTime};

/// Longest lag told apart: an hour. More is an hour.
const MAX: u64 = 3_600_000_000;

/// A histogram of lags.
#[derive(Clone, Debug)]
pub struct Lag(Histogram<u64>);

impl Default for Lag {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, MAX, 2).expect("the bounds are constants, and fit"))
    }
}

impl Lag {
    /// Notes a frame.
    pub fn note(&mut self, captured: WallTime, durable: WallTime) {
        self.0.saturating_record(durable.since(captured).0);
    }

    /// Half of the frames took at most this long.
    pub fn p50(&self) -> Micros {
        Micros(self.0.value_at_quantile(0.5))
    }

    /// 99 of 100 frames took at most this long.
    pub fn p99(&self) -> Micros {
        Micros(self.0.value_at_quantile(0.99))
    }

    /// No frame took longer.
    pub fn max(&self) -> Micros {
        Micros(self.0.max())
    }
}
