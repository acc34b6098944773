//! Places in a group's write order, and the watermarks over it.

use std::fmt;
use std::num::NonZeroU64;

use super::{ChainHead, EpochId};

/// A place in a group's write order. Counts from 1; "none" is `Option<Seq>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(NonZeroU64);

impl Seq {
    /// The first place of a group.
    pub const FIRST: Self = Self(NonZeroU64::MIN);

    /// The place with this number; `None` for 0.
    pub fn new(number: u64) -> Option<Self> {
        NonZeroU64::new(number).map(Self)
    }

    /// Its number, at least 1.
    pub fn number(self) -> u64 {
        self.0.get()
    }

    /// The place `count` further on.
    ///
    /// # Panics
    /// When the order ends: 2^64 writes do not happen.
    pub fn after(self, count: u64) -> Self {
        Self(self.0.checked_add(count).expect("a group's order does not reach 2^64"))
    }

    /// The place before, `None` for the first.
    pub fn before(self) -> Option<Self> {
        Self::new(self.number() - 1)
    }

    /// The number on disk and on the wire: 0 stands for none.
    pub fn encode(place: Option<Self>) -> u64 {
        place.map_or(0, Self::number)
    }

    /// The place that follows `head`, the first of the order when there is no head.
    pub fn following(head: Option<Self>) -> Self {
        head.map_or(Self::FIRST, |seq| seq.after(1))
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.number())
    }
}

/// Number of a frame in its chain, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameNo(NonZeroU64);

impl FrameNo {
    /// The first frame of a chain.
    pub const FIRST: Self = Self(NonZeroU64::MIN);

    /// The frame with this number; `None` for 0.
    pub fn new(number: u64) -> Option<Self> {
        NonZeroU64::new(number).map(Self)
    }

    /// Its number, at least 1.
    pub fn number(self) -> u64 {
        self.0.get()
    }

    /// The number on disk and on the wire: 0 stands for none.
    pub fn encode(frame: Option<Self>) -> u64 {
        frame.map_or(0, Self::number)
    }

    /// The number that follows `last`.
    ///
    /// # Panics
    /// After 2^64 frames.
    pub fn following(last: Option<Self>) -> Self {
        last.map_or(Self::FIRST, |frame| Self(frame.0.checked_add(1).expect("fewer than 2^64 frames")))
    }
}

impl fmt::Display for FrameNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.number())
    }
}

/// All up to here survived `fdatasync`, with everything needed to find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Durable(pub Seq);

/// Where a group's order stands: its last frame, durable or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Epoch of the last frame.
    pub epoch: EpochId,
    /// `Seq` of its last record.
    pub seq: Seq,
    /// Its number.
    pub frame: FrameNo,
    /// Chain head after it.
    pub chain: ChainHead,
}
