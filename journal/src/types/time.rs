//! Wall-clock time in microseconds. Who reads a clock is a driver; here it is only a number.

use std::fmt;

/// Microseconds since 1970 UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WallTime(pub u64);

impl WallTime {
    /// How long after `earlier` this is; zero when it is not.
    pub fn since(self, earlier: Self) -> Micros {
        Micros(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Display for WallTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "@{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

/// A length of time in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Micros(pub u64);

impl Micros {
    /// In seconds.
    #[expect(clippy::cast_precision_loss, reason = "exact for 285 years of microseconds")]
    pub fn seconds(self) -> f64 {
        self.0 as f64 / 1e6
    }
}
