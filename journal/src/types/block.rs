//! Addresses on a volume: sectors of 512 bytes, 64-bit.

use std::fmt;

/// Bytes of a sector.
pub const SECTOR_BYTES: u64 = 512;

/// A volume's number in its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeNo(pub u32);

impl fmt::Display for VolumeNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Index of a sector on a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sector(u64);

impl Sector {
    /// The highest sector number: byte offsets stay below 2^63.
    pub const MAX: Self = Self((1 << 54) - 1);

    /// The sector with this index; `None` beyond [`Sector::MAX`].
    pub fn new(index: u64) -> Option<Self> {
        (index <= Self::MAX.0).then_some(Self(index))
    }

    /// The sector that starts at this byte; `None` when it is not a multiple of 512.
    pub fn at_byte(offset: u64) -> Option<Self> {
        offset.is_multiple_of(SECTOR_BYTES).then(|| Self::new(offset / SECTOR_BYTES)).flatten()
    }

    /// Its index.
    pub fn index(self) -> u64 {
        self.0
    }

    /// Byte offset of its start.
    pub fn byte(self) -> u64 {
        self.0 * SECTOR_BYTES
    }
}

/// A number of sectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sectors(u64);

impl Sectors {
    /// This many sectors; `None` when no volume can have so many.
    pub fn new(count: u64) -> Option<Self> {
        (count <= Sector::MAX.0).then_some(Self(count))
    }

    /// The sectors of this many bytes; `None` when it is not a multiple of 512.
    pub fn of_bytes(bytes: u64) -> Option<Self> {
        bytes.is_multiple_of(SECTOR_BYTES).then(|| Self::new(bytes / SECTOR_BYTES)).flatten()
    }

    /// How many.
    pub fn count(self) -> u64 {
        self.0
    }

    /// Their length in bytes.
    pub fn bytes(self) -> u64 {
        self.0 * SECTOR_BYTES
    }
}

/// A half-open run of sectors. Never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Extent {
    start: u64,
    end: u64,
}

impl Extent {
    /// `count` sectors from `start`; `None` when empty or beyond [`Sector::MAX`].
    pub fn new(start: Sector, count: Sectors) -> Option<Self> {
        let end = start.0.checked_add(count.0)?;
        (count.0 > 0 && end <= Sector::MAX.0).then_some(Self { start: start.0, end })
    }

    /// The sectors of a byte range; `None` when it is empty, unaligned or too far out.
    pub fn of_bytes(offset: u64, length: u64) -> Option<Self> {
        Self::new(Sector::at_byte(offset)?, Sectors::of_bytes(length)?)
    }

    /// From `start` to before `end`; `None` when empty.
    pub fn between(start: Sector, end: Sector) -> Option<Self> {
        (start < end).then_some(Self { start: start.0, end: end.0 })
    }

    /// First sector.
    pub fn start(self) -> Sector {
        Sector(self.start)
    }

    /// One past the last sector.
    pub fn end(self) -> Sector {
        Sector(self.end)
    }

    /// Length.
    pub fn sectors(self) -> Sectors {
        Sectors(self.end - self.start)
    }

    /// Byte offset of its start.
    pub fn byte(self) -> u64 {
        self.start * SECTOR_BYTES
    }

    /// Length in bytes.
    pub fn bytes(self) -> u64 {
        (self.end - self.start) * SECTOR_BYTES
    }

    /// What both have; `None` when they are apart.
    pub fn overlap(self, other: Self) -> Option<Self> {
        let (start, end) = (self.start.max(other.start), self.end.min(other.end));
        (start < end).then_some(Self { start, end })
    }

    /// Cut into runs of at most `sectors_max` sectors.
    pub fn chunks(self, sectors_max: u64) -> impl Iterator<Item = Self> {
        let Self { mut start, end } = self;
        std::iter::from_fn(move || {
            let next = Self { start, end: end.min(start.saturating_add(sectors_max)) };
            (start < end).then(|| {
                start = next.end;
                next
            })
        })
    }
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.start, self.end - self.start)
    }
}
