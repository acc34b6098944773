//! Measured values, and pairs of them taken in turn.

use std::time::{Duration, Instant};

/// What was measured, a value a round.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<f64>);

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

impl Samples {
    /// The middle one.
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The smallest.
    pub fn min(&self) -> f64 {
        self.quantile(0.0)
    }

    /// The largest.
    pub fn max(&self) -> f64 {
        self.quantile(1.0)
    }

    /// The one with the fraction `q` of all below it; NaN when there are none.
    pub fn quantile(&self, q: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().saturating_sub(1);
        let wanted = (q * last as f64).round();
        let place = (0..last).find(|&place| place as f64 >= wanted).unwrap_or(last);
        sorted.get(place).copied().unwrap_or(f64::NAN)
    }

    /// This to the other, round by round: noise that lasts longer than a round is in both.
    pub fn ratio(&self, other: &Self) -> f64 {
        self.0.iter().zip(&other.0).map(|(a, b)| a / b).collect::<Self>().median()
    }
}

/// Measures ours and its floor in turn, `rounds` times, after one round of each that does not count.
pub fn pairs<E>(
    rounds: usize,
    mut ours: impl FnMut() -> Result<f64, E>,
    mut floor: impl FnMut() -> Result<f64, E>,
) -> Result<(Samples, Samples), E> {
    ours()?;
    floor()?;
    let mut measured = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        measured.0.push(ours()?);
        measured.1.push(floor()?);
    }
    Ok((Samples(measured.0), Samples(measured.1)))
}

/// How long it took.
pub fn timed<T, E>(work: impl FnOnce() -> Result<T, E>) -> Result<(T, Duration), E> {
    let start = Instant::now();
    let done = work()?;
    Ok((done, start.elapsed()))
}

/// 10⁹ bytes a second.
pub fn gigabytes_per_second(bytes: usize, took: Duration) -> f64 {
    bytes as f64 / 1e9 / took.as_secs_f64()
}

/// Seconds that all threads of this process have run so far, in the kernel too. Other processes do not add to it.
pub fn cpu_seconds() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_and_the_ends() {
        let samples: Samples = [5.0, 1.0, 9.0, 2.0, 7.0].into_iter().collect();
        assert_eq!((samples.min(), samples.median(), samples.max()), (1.0, 5.0, 9.0));
        assert!(Samples::default().median().is_nan());
        let hundred: Samples = (1..=101).map(f64::from).collect();
        assert_eq!((hundred.quantile(0.99), hundred.quantile(0.5)), (100.0, 51.0));
    }

    #[test]
    fn a_ratio_is_taken_within_its_round() {
        let ours: Samples = [1.0, 10.0, 100.0].into_iter().collect();
        let floor: Samples = [2.0, 20.0, 100.0].into_iter().collect();
        assert_eq!(ours.ratio(&floor), 0.5);
    }

    #[test]
    fn pairs_alternate_and_the_first_does_not_count() {
        let order = std::cell::RefCell::new(String::new());
        let note = |who| {
            order.borrow_mut().push(who);
            Ok::<_, ()>(1.0)
        };
        let (ours, _) = pairs(2, || note('o'), || note('f')).unwrap();
        assert_eq!((order.borrow().as_str(), ours.0.len()), ("ofofof", 2));
    }
}
