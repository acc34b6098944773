//! How fast things change, so that one can say how long something lasts at this rate. Pure: time is handed in.

use journal::types::WallTime;

/// How much of a rate is forgotten in a second, about: a burst is not a rate, and what was a minute ago is none either.
const FORGOTTEN: f64 = 0.2;
/// Two looks that are closer tell nothing, in seconds.
const APART: f64 = 0.2;

/// One number that is looked at now and then.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rate {
    last: Option<(WallTime, u64)>,
    per_second: Option<f64>,
}

/// What is watched of a group.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rates {
    /// Bytes in the spool.
    pub(super) spool: Rate,
    /// Bytes of a base that were dealt with.
    pub(super) base: Rate,
}

impl Rate {
    /// It is `value` at `now`, by a clock that never goes back.
    pub(super) fn observe(&mut self, now: WallTime, value: u64) {
        let Some((then, before)) = self.last else {
            self.last = Some((now, value));
            return;
        };
        let seconds = now.since(then).seconds();
        if seconds < APART {
            return;
        }
        self.last = Some((now, value));
        let now = (as_float(value) - as_float(before)) / seconds;
        let weight = 1.0 - (1.0 - FORGOTTEN).powf(seconds);
        self.per_second = Some(self.per_second.map_or(now, |rate| rate + weight * (now - rate)));
    }

    /// Seconds until it is `value`, if it goes there.
    pub(super) fn reaches(&self, value: u64) -> Option<f64> {
        let (_, now) = self.last?;
        let seconds = (as_float(value) - as_float(now)) / self.per_second?;
        (seconds.is_finite() && seconds >= 0.0).then_some(seconds)
    }
}

/// Not before so many bytes were sent under a limit, whatever was seen so far.
pub(super) fn not_before(seen: Option<f64>, bytes: u64, limit: Option<u64>) -> Option<f64> {
    let least = limit.map(|limit| as_float(bytes) / as_float(limit.max(1)));
    match (seen, least) {
        (Some(seen), Some(least)) => Some(seen.max(least)),
        (seen, least) => seen.or(least),
    }
}

#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn as_float(bytes: u64) -> f64 {
    bytes as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_rate_is_found_and_one_that_goes_away_says_nothing() {
        let mut rate = Rate::default();
        assert_eq!(rate.reaches(100), None);
        for second in 0..60 {
            rate.observe(WallTime(second * 1_000_000), 50 * second);
        }
        let left = rate.reaches(50 * 59 + 500).unwrap();
        assert!((9.9..10.1).contains(&left), "{left}");
        assert_eq!(rate.reaches(0), None);
        for second in 60..120 {
            rate.observe(WallTime(second * 1_000_000), 2950 - 10 * (second - 59));
        }
        let left = rate.reaches(0).unwrap();
        assert!((230.0..240.0).contains(&left), "{left}");
        assert_eq!(rate.reaches(5000), None);
    }

    #[test]
    fn nothing_is_over_before_all_of_it_could_be_sent() {
        assert_eq!(not_before(Some(3.0), 1000, None), Some(3.0));
        assert_eq!(not_before(Some(3.0), 1000, Some(100)), Some(10.0), "what is in memory is read at once");
        assert_eq!(not_before(Some(30.0), 1000, Some(100)), Some(30.0));
        assert_eq!(not_before(None, 1000, Some(100)), Some(10.0));
        assert_eq!(not_before(None, 1000, None), None);
    }
}
