//! What an operation is, and the interval of time in which it took effect.

use std::fmt;
use std::time::SystemTime;

/// Microseconds of `CLOCK_REALTIME` since 1970. Operations have times above 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Micros(pub u64);

impl Micros {
    /// Later than anything.
    pub const MAX: Self = Self(u64::MAX);

    /// The time now.
    ///
    /// # Panics
    /// If the clock shows a time before 1970.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("the clock is after 1970");
        Self(u64::try_from(since.as_micros()).expect("64 bits of microseconds last half a million years"))
    }
}

impl fmt::Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} us", self.0)
    }
}

/// A run of sectors, `first .. first + count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sectors {
    /// The first sector.
    pub first: u64,
    /// How many.
    pub count: u64,
}

impl Sectors {
    /// One behind the last.
    pub const fn end(self) -> u64 {
        self.first.saturating_add(self.count)
    }

    /// Is `sector` one of them?
    pub const fn contains(self, sector: u64) -> bool {
        self.first <= sector && sector < self.end()
    }

    /// Do the two have a sector in common?
    pub const fn overlaps(self, other: Self) -> bool {
        self.first < other.end() && other.first < self.end()
    }
}

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Writes stamped sectors.
    Write,
    /// Writes zeroes.
    Zero,
    /// Discards; judged as writing zeroes, which is what a punched file reads as.
    Trim,
    /// Changes nothing.
    Flush,
}

impl Kind {
    /// Does it leave zeroes behind?
    pub const fn leaves_zeroes(self) -> bool {
        matches!(self, Self::Zero | Self::Trim)
    }
}

/// One operation on the volume. It took effect at one time within `submitted ..= end()`, if it did at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Op {
    /// Unique, counted from 1.
    pub number: u64,
    /// What it does.
    pub kind: Kind,
    /// Connection that sent it.
    pub writer: u16,
    /// Where; empty for a flush.
    pub sectors: Sectors,
    /// Read before it was sent.
    pub submitted: Micros,
    /// Read after success was reported; `None` is in doubt: it may have happened, in part or not at all.
    pub acked: Option<Micros>,
    /// For an operation in doubt: the time from which it was no longer in flight, if that is known.
    pub settled: Option<Micros>,
}

impl Op {
    /// The last time at which it can have taken effect.
    pub fn end(&self) -> Micros {
        self.acked.or(self.settled).unwrap_or(Micros::MAX)
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, kind, sectors, submitted, .. } = self;
        write!(f, "{kind:?} {number} of sectors {}..{}, submitted {submitted}, ", sectors.first, sectors.end())?;
        match self.acked {
            Some(acked) => write!(f, "acknowledged {acked}"),
            None => write!(f, "in doubt"),
        }
    }
}
