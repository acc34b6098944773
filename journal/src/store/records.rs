//! The records of a frame without its data: who asks what happened when reads a hundredth of what is there.

use crate::codec::{
    ENVELOPE_BYTES, Envelope, FRAME_HEADER_BYTES, FrameHeader, FrameKind, Malformed, RECORD_BYTES, Reader, Record,
    UNIT_ENTRY_BYTES,
};
use crate::error::{Error, Result};
use crate::index::FrameSpot;
use crate::log::Segment;
use crate::types::{Hash, Seq};

/// The records of a live frame, in order.
#[derive(Debug)]
pub(super) struct Records {
    /// `Seq` of the first.
    pub(super) first: Seq,
    pub(super) records: Vec<Record>,
}

impl Records {
    /// Reads those of the frame at `spot`, checked by everything in the frame but the checksums of its data. Their times are those that
    /// they count from: none is before the one before it.
    pub(super) fn read(segment: &Segment, spot: &FrameSpot) -> Result<Self> {
        let at = spot.at;
        let mut envelope = [0; ENVELOPE_BYTES];
        segment.file.read_exact_at(at, &mut envelope)?;
        let envelope = Envelope::decode(&envelope)?;
        let mut header = [0; FRAME_HEADER_BYTES];
        let header_at = at + ENVELOPE_BYTES as u64;
        segment.file.read_exact_at(header_at, &mut header)?;
        let header = FrameHeader::decode(&header)?;
        let FrameKind::Live { first } = header.kind else { return Err(Malformed("not a live frame").into()) };
        if envelope.salt != segment.header.salt || envelope.offset != at || header.group != segment.header.group {
            return Err(Error::corrupt("a frame that belongs elsewhere").with_offset(at));
        }
        let mut tables = vec![0; size(header.tables_bytes())];
        segment.file.read_exact_at(header_at + FRAME_HEADER_BYTES as u64, &mut tables)?;
        if Hash::of(&tables) != header.tables_hash {
            return Err(Error::corrupt("the tables of a frame do not match their hash").with_offset(at));
        }
        let mut r = Reader::new(&tables);
        r.bytes(UNIT_ENTRY_BYTES * size(header.units) + 4 * size(header.crcs))?;
        let mut records = Reader::new(r.bytes(RECORD_BYTES * size(header.records))?);
        let notes = r.bytes(size(header.notes_bytes))?;
        let mut latest = spot.from;
        let mut next = || {
            let mut record = Record::decode(&mut records, notes)?;
            latest = latest.max(record.time);
            record.time = latest;
            Ok::<_, Malformed>(record)
        };
        let records = (0..header.records).map(|_| next()).collect::<std::result::Result<_, _>>()?;
        Ok(Self { first, records })
    }
}

fn size(length: u32) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}
