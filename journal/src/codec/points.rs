//! The list of points that are left where history was thinned.

use super::bytes::{Malformed, Reader, Writer, check_crc};
use super::record::PointClass;
use crate::limits::KEPT_POINTS;
use crate::types::{GroupId, SegmentNo, Seq, WallTime};

/// Bytes of the header of a list.
pub const POINTS_HEADER_BYTES: usize = 512;
/// Bytes of a point in it.
pub const KEPT_POINT_BYTES: usize = 24;
const MAGIC: [u8; 8] = *b"BSPLPNTS";
const VERSION: u16 = 1;

/// A point that is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptPoint {
    /// Its place.
    pub seq: Seq,
    /// The time of its record.
    pub time: WallTime,
    /// How it came about.
    pub class: PointClass,
}

/// First bytes of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PointsHeader {
    /// Guards against a list of another group.
    pub group: GroupId,
    /// Its number: guards against a renamed file.
    pub number: SegmentNo,
    /// The first place that was not thinned.
    pub upto: Seq,
    /// The time of its record.
    pub upto_time: WallTime,
    /// How many points follow.
    pub count: usize,
    /// Their checksum.
    pub crc: u32,
}

impl PointsHeader {
    /// Whether these bytes are as somebody wrote them. If they cannot be decoded all the same, a newer version did.
    pub fn is_intact(bytes: &[u8; POINTS_HEADER_BYTES]) -> bool {
        bytes.starts_with(&MAGIC) && check_crc(bytes, 8, 12).is_ok()
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(POINTS_HEADER_BYTES);
        w.put(&MAGIC).u32(0).u16(VERSION).u16(0).put(&self.group.0).u64(self.number.0).u64(self.upto.number());
        w.u64(self.upto_time.0).u64(self.count as u64).u32(self.crc).pad_to(POINTS_HEADER_BYTES);
        w.finish_with_crc(8, 12)
    }

    /// Checked: CRC, version, and how many there can be.
    pub fn decode(bytes: &[u8; POINTS_HEADER_BYTES]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        r.magic(MAGIC)?;
        check_crc(bytes, 8, 12)?;
        r.u32()?;
        if r.u16()? != VERSION {
            return Err(Malformed("a list of points of another version"));
        }
        r.reserved(2)?;
        let group = GroupId::new(r.array()?).ok_or(Malformed("a list of points without a group"))?;
        let number = SegmentNo(r.u64()?);
        let upto = Seq::new(r.u64()?).ok_or(Malformed("history that is thinned up to nowhere"))?;
        let upto_time = WallTime(r.u64()?);
        let count = usize::try_from(r.u64()?).ok().filter(|count| *count <= KEPT_POINTS);
        let count = count.ok_or(Malformed("more points than are kept"))?;
        let crc = r.u32()?;
        r.reserved(r.rest().len())?;
        Ok(Self { group, number, upto, upto_time, count, crc })
    }
}

impl KeptPoint {
    /// Appends its bytes.
    pub fn encode(&self, w: &mut Writer) {
        w.u64(self.seq.number()).u64(self.time.0).u8(u8::try_from(self.class.number()).unwrap_or(0)).zeroes(7);
    }

    /// From its bytes, checked.
    pub fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let seq = Seq::new(r.u64()?).ok_or(Malformed("a point without a place"))?;
        let (time, class) = (WallTime(r.u64()?), PointClass::from_number(r.u8()?.into())?);
        r.reserved(7)?;
        Ok(Self { seq, time, class })
    }
}
