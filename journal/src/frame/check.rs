//! What ingest checks of a frame before it believes it.

use bytes::Bytes;

use super::{Frame, Tables, Unit, size, unit_crcs};
use crate::codec::{
    Body, ClockKind, FRAME_HEADER_BYTES, FrameHeader, FrameKind, Malformed, Reader, Record, UnitEntry, UnitPlace,
};
use crate::limits::COMPACTED_RECORDS;
use crate::types::{ChainHead, Hash, VolumeNo, WallTime};

impl Frame {
    /// The length of the frame that starts with these bytes, which may be trusted: CRC and limits were checked.
    pub fn length(header: &[u8; FRAME_HEADER_BYTES]) -> Result<usize, Malformed> {
        FrameHeader::decode(header).map(|header| header.frame_bytes())
    }

    /// A frame from its bytes: header CRC, limits, tables hash, every unit and record, and the CRC of every unit. Not the payload
    /// hash: the agent hashed it once, scrub compares it.
    pub fn check(bytes: Bytes) -> Result<Self, Malformed> {
        Self::check_with(bytes, Data::Checked)
    }

    /// The same but for its data, which may be damaged: whoever reads it checks it again.
    pub(crate) fn check_but_data(bytes: Bytes) -> Result<Self, Malformed> {
        Self::check_with(bytes, Data::Unchecked)
    }

    fn check_with(bytes: Bytes, data: Data) -> Result<Self, Malformed> {
        let (first, body) = bytes.split_first_chunk::<FRAME_HEADER_BYTES>().ok_or(Malformed("it ends too early"))?;
        let header = FrameHeader::decode(first)?;
        if bytes.len() != header.frame_bytes() {
            return Err(Malformed("a frame that is not as long as it says"));
        }
        let tables = Tables::of(&header, body);
        if Hash::of(tables.all) != header.tables_hash {
            return Err(Malformed("the tables do not match their hash"));
        }
        if tables.padding.iter().any(|&byte| byte != 0) {
            return Err(Malformed("reserved bytes are not zero: made by a newer version?"));
        }
        let units = check_units(&header, &tables, data)?;
        check_records(&header, &tables, &units)?;
        let head = ChainHead(Hash::of(first));
        Ok(Self { header, head, bytes })
    }
}

/// Whether bytes that [`Frame::check`] refuses are whole: a frame of a newer version, which must not be taken for a torn one.
pub(crate) fn is_newer(bytes: &[u8]) -> bool {
    let Some((first, body)) = bytes.split_first_chunk::<FRAME_HEADER_BYTES>() else { return false };
    if !FrameHeader::is_intact(first) {
        return false;
    }
    let Ok(header) = FrameHeader::decode(first) else { return true };
    let tables = Tables::of(&header, body);
    Hash::of(tables.all) == header.tables_hash && Hash::of(tables.payload) == header.payload_hash
}

/// Whether data has to match its checksums.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Data {
    Checked,
    Unchecked,
}

fn check_units(header: &FrameHeader, tables: &Tables<'_>, data: Data) -> Result<Vec<UnitEntry>, Malformed> {
    let (mut units, mut crcs) = (Reader::new(tables.units), Reader::new(tables.crcs));
    let mut payload = Reader::new(tables.payload);
    let mut at = 0;
    let mut entries = Vec::with_capacity(size(header.units));
    for _ in 0..header.units {
        let Unit { entry, crcs: stored_crcs } = Unit::decode(&mut units, &mut crcs)?;
        if entry.offset != at {
            return Err(Malformed("units that do not stand one after the other"));
        }
        let stored = payload.bytes(size(entry.stored))?;
        if data == Data::Checked && !unit_crcs(entry.codec, stored).eq(stored_crcs) {
            return Err(Malformed("data that does not match its checksum"));
        }
        at += entry.stored;
        entries.push(entry);
    }
    crcs.end()?;
    payload.end()?;
    Ok(entries)
}

fn check_records(header: &FrameHeader, tables: &Tables<'_>, units: &[UnitEntry]) -> Result<(), Malformed> {
    let mut r = Reader::new(tables.records);
    let mut time = WallTime(0);
    let mut read_up_to = (VolumeNo(0), 0);
    let is_compacted = header.kind == FrameKind::Compacted;
    if is_compacted && size(header.records) > COMPACTED_RECORDS {
        return Err(Malformed("a compacted frame with more in it than such frames hold"));
    }
    for _ in 0..header.records {
        let record = Record::decode(&mut r, tables.notes)?;
        if record.time < time && !is_compacted {
            return Err(Malformed("records whose times go back"));
        }
        if is_compacted && matches!(record.body, Body::Clock(ClockKind::Report) | Body::Ignored) {
            return Err(Malformed("a compacted frame with what is not kept"));
        }
        time = record.time;
        if let Body::Write { extent, place: UnitPlace { unit, offset }, .. } = record.body {
            let unit = units.get(size(unit)).ok_or(Malformed("a write into a unit that is not there"))?;
            if u64::from(offset) + extent.bytes() > u64::from(unit.decoded) {
                return Err(Malformed("a write whose data lies outside its unit"));
            }
        }
        if matches!(header.kind, FrameKind::Base { .. }) {
            let (Body::Write { volume, extent, .. } | Body::Pattern { volume, extent, .. }) = record.body else {
                return Err(Malformed("a base holds nothing but what was read"));
            };
            if (volume, extent.start().index()) < read_up_to {
                return Err(Malformed("a base frame whose records are out of order or overlap"));
            }
            read_up_to = (volume, extent.end().index());
        }
    }
    Ok(())
}
