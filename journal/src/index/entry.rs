//! An entry: this extent, at this rank, is stored there.

use std::cmp::Ordering;

use crate::codec::{Codec, Malformed, Reader, Writer};
use crate::types::{Extent, Sector, Sectors};

/// Which of two versions wins: the higher rank. See "What a view at S holds" in `docs/FORMAT.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    /// Live: the record's `Seq`. Base: `as_of`, 0 = before everything.
    pub seq: u64,
    /// Live: 0. Base: its frame's number, at least 1.
    pub base: u32,
}

/// What an extent holds since a rank, and where that is stored in the segment's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The volume's number.
    pub volume: u32,
    /// First sector.
    pub sector: u64,
    /// How many.
    pub sectors: u64,
    /// Which version.
    pub rank: Rank,
    /// Where the unit starts in the file; without a unit, the fill.
    pub at: u64,
    /// Stored bytes of the unit; 0: no unit, the extent is filled with `at`.
    pub stored: u32,
    /// Bytes of the unit once decoded.
    pub decoded: u32,
    /// How the unit is stored.
    pub codec: Codec,
    /// The unit's CRC; of a unit that has several: the first one's place in the pool.
    pub crc: u32,
    /// Where the extent's data starts in the decoded unit.
    pub offset: u32,
}

impl Entry {
    /// Bytes on disk.
    pub const BYTES: usize = 56;

    /// The extent.
    ///
    /// # Panics
    /// Never: entries are made from checked records, or checked when decoded.
    pub fn extent(&self) -> Extent {
        let start = Sector::new(self.sector).expect("checked");
        Extent::new(start, Sectors::new(self.sectors).expect("checked")).expect("checked")
    }

    /// The smallest c with sectors ≤ 2^c.
    pub fn class(&self) -> u32 {
        self.sectors.max(1).next_power_of_two().trailing_zeros()
    }

    /// The order in a run.
    pub(super) fn order(&self, other: &Self) -> Ordering {
        let key = |e: &Self| (e.class(), e.volume, e.sector, e.rank);
        key(self).cmp(&key(other))
    }

    /// Whether its CRC field is a place in the pool.
    pub fn has_many_crcs(&self) -> bool {
        self.codec.crc_count(usize::try_from(self.stored).unwrap_or(usize::MAX)) > 1
    }

    /// Appends its bytes.
    pub fn encode(&self, w: &mut Writer) {
        w.u64(self.sector).u64(self.rank.seq).u32(self.rank.base).u32(self.volume).u64(self.sectors);
        w.u64(self.at).u32(self.stored);
        // 24 bits of decoded length, 8 of codec: both are bounded far below.
        w.u32(self.decoded | u32::from(self.codec.number()) << 24).u32(self.crc).u32(self.offset);
    }

    /// From its bytes, checked.
    pub fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (sector, seq, base, volume, sectors) = (r.u64()?, r.u64()?, r.u32()?, r.u32()?, r.u64()?);
        let (at, stored, packed, crc, offset) = (r.u64()?, r.u32()?, r.u32()?, r.u32()?, r.u32()?);
        let [d0, d1, d2, codec] = packed.to_le_bytes();
        let codec = Codec::from_number(codec)?;
        let decoded = u32::from_le_bytes([d0, d1, d2, 0]);
        let (start, count) = (Sector::new(sector), Sectors::new(sectors));
        start
            .zip(count)
            .and_then(|(start, count)| Extent::new(start, count))
            .ok_or(Malformed("an entry of an impossible extent"))?;
        Ok(Self { volume, sector, sectors, rank: Rank { seq, base }, at, stored, decoded, codec, crc, offset })
    }
}
