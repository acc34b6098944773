//! How long a change takes from being captured until this agent knows that it is durable at the receiver, by a clock that nobody sets.
//!
//! Counted for each run of records that are told apart, from the oldest of them; those of an idle agent too. It begins anew with each session, with
//! what waited for it.

use hdrhistogram::Histogram;
use journal::types::Micros;
use journal::wire::LagReport;

/// Longest lag told apart: an hour. More is an hour.
const MAX: u64 = 3_600_000_000;

/// A histogram of lags.
#[derive(Clone, Debug)]
pub(super) struct Lag(Histogram<u64>);

impl Default for Lag {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, MAX, 2).expect("the bounds are constants, and fit"))
    }
}

impl Lag {
    /// Notes one.
    pub(super) fn note(&mut self, lag: Micros) {
        self.0.saturating_record(lag.0);
    }

    /// All of them, in short.
    pub(super) fn report(&self) -> LagReport {
        let [p50, p99] = [0.5, 0.99].map(|quantile| Micros(self.0.value_at_quantile(quantile)));
        LagReport { p50, p99, max: Micros(self.0.max()) }
    }
}
