//! Units: runs of payload that are compressed, checksummed and read as one.

use super::bytes::{Malformed, Reader, Writer};
use crate::limits::{CRC_CHUNK_BYTES, UNIT_BYTES};

/// Bytes of an entry in the unit table.
pub const UNIT_ENTRY_BYTES: usize = 16;

/// How a unit is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// As it is.
    Raw,
    /// An LZ4 block, shorter than what it decodes to.
    Lz4,
}

impl Codec {
    /// Its number on disk.
    pub fn number(self) -> u8 {
        match self {
            Self::Raw => 0,
            Self::Lz4 => 1,
        }
    }

    /// The codec with this number.
    pub fn from_number(number: u8) -> Result<Self, Malformed> {
        match number {
            0 => Ok(Self::Raw),
            1 => Ok(Self::Lz4),
            _ => Err(Malformed("a unit of an unknown codec")),
        }
    }

    /// CRCs of a unit that stores `stored` bytes so.
    pub fn crc_count(self, stored: usize) -> usize {
        match self {
            Self::Raw => stored.div_ceil(CRC_CHUNK_BYTES),
            Self::Lz4 => 1,
        }
    }
}

/// An entry of the unit table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnitEntry {
    /// Where it starts in the payload.
    pub offset: u32,
    /// Bytes there.
    pub stored: u32,
    /// Bytes once decoded, a multiple of 512.
    pub decoded: u32,
    /// How.
    pub codec: Codec,
}

impl UnitEntry {
    /// Appends its bytes.
    pub fn encode(&self, w: &mut Writer) {
        let crcs = self.codec.crc_count(usize::try_from(self.stored).unwrap_or(usize::MAX));
        w.u32(self.offset).u32(self.stored).u32(self.decoded).u8(self.codec.number()).u8(0);
        w.u16(u16::try_from(crcs).unwrap_or(u16::MAX));
    }

    /// Checked: lengths that fit the codec and the limits.
    pub fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (offset, stored, decoded) = (r.u32()?, r.u32()?, r.u32()?);
        let codec = Codec::from_number(r.u8()?)?;
        r.reserved(1)?;
        let crcs = usize::from(r.u16()?);
        let size = |bytes: u32| usize::try_from(bytes).unwrap_or(usize::MAX);
        if decoded == 0 || size(decoded) > UNIT_BYTES || !decoded.is_multiple_of(512) {
            return Err(Malformed("a unit of an impossible length"));
        }
        let fits = match codec {
            Codec::Raw => stored == decoded,
            Codec::Lz4 => stored > 0 && stored < decoded,
        };
        if !fits || crcs != codec.crc_count(size(stored)) {
            return Err(Malformed("a unit whose lengths do not fit its codec"));
        }
        Ok(Self { offset, stored, decoded, codec })
    }
}
