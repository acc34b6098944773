//! Which extents of a volume changed: coarse, in pages.

use super::Sectors;

/// Sectors of an extent here: 4 MiB, as in an agent's log of hot extents.
pub const CHANGED_EXTENT_SECTORS: u64 = 8192;

/// Neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtentRun {
    /// The first extent's number on its volume.
    pub first: u32,
    /// At least 1; the numbers do not go beyond 32 bits.
    pub count: u32,
}

/// One page of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// How large the volume is; `None`: it is not there.
    pub size: Option<Sectors>,
    /// From which extent on nothing is said yet; `None`: that was all.
    pub next: Option<u32>,
    /// In order and apart, all before `next`; at most [`CHANGED_RUNS`](crate::limits::CHANGED_RUNS).
    pub runs: Vec<ExtentRun>,
}
