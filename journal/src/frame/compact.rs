//! Frames of what is left of others: stored units are taken over as they are, with their checksums.

use bytes::Bytes;

use super::{Frame, size};
use crate::codec::{Body, Codec, FRAME_HEADER_BYTES, FrameHeader, FrameKind, Record, UnitEntry, UnitPlace, Writer};
use crate::limits::{
    COMPACTED_RECORDS, CRC_CHUNK_BYTES, FRAME_NOTES_BYTES, FRAME_PAYLOAD_TARGET, FRAME_UNITS, NOTE_BYTES, UNIT_BYTES,
};
use crate::types::{BootId, ChainHead, EpochId, FrameNo, GroupId, Hash, WallTime};

/// Stored data after which a frame is full.
const FULL_BYTES: usize = if cfg!(test) { 4096 } else { FRAME_PAYLOAD_TARGET };

/// Collects records with their ranks and stored data.
#[derive(Debug, Default)]
pub(crate) struct CompactBuilder {
    payload: Vec<u8>,
    units: Vec<(UnitEntry, Vec<u32>)>,
    /// The last unit may take more chunks.
    is_open: bool,
    records: Writer,
    ranks: Writer,
    count: usize,
    notes: Vec<u8>,
}

impl CompactBuilder {
    /// Takes over chunks of a raw unit, each with its CRC; all but the last are whole. Where they are now.
    ///
    /// # Panics
    /// If they are more than a unit.
    pub(crate) fn raw(&mut self, bytes: &[u8], crcs: &[u32]) -> UnitPlace {
        assert!(bytes.len() <= UNIT_BYTES && crcs.len() == bytes.len().div_ceil(CRC_CHUNK_BYTES), "chunks of one unit");
        let open = self.units.last().filter(|(unit, _)| self.is_open && size(unit.stored) + bytes.len() <= UNIT_BYTES);
        if open.is_none() {
            let offset = narrow(self.payload.len());
            self.units.push((UnitEntry { offset, stored: 0, decoded: 0, codec: Codec::Raw }, Vec::new()));
        }
        let unit = self.units.len() - 1;
        let (entry, known) = &mut self.units[unit];
        let place = UnitPlace { unit: narrow(unit), offset: entry.stored };
        entry.stored += narrow(bytes.len());
        entry.decoded = entry.stored;
        known.extend_from_slice(crcs);
        self.payload.extend_from_slice(bytes);
        // Only what ends in a whole chunk can be gone on with.
        self.is_open = bytes.len().is_multiple_of(CRC_CHUNK_BYTES);
        place
    }

    /// Takes over a whole compressed unit.
    pub(crate) fn packed(&mut self, bytes: &[u8], decoded: u32, crc: u32) -> UnitPlace {
        let entry =
            UnitEntry { offset: narrow(self.payload.len()), stored: narrow(bytes.len()), decoded, codec: Codec::Lz4 };
        self.units.push((entry, vec![crc]));
        self.payload.extend_from_slice(bytes);
        self.is_open = false;
        UnitPlace { unit: narrow(self.units.len() - 1), offset: 0 }
    }

    /// Adds a record of this rank.
    pub(crate) fn push(&mut self, (seq, base): (u64, u32), time: WallTime, body: Body) {
        Record { time, body }.encode(&mut self.records, &mut self.notes);
        self.ranks.u64(seq).u32(base);
        self.count += 1;
    }

    /// Whether what is left of another unit, in `records` records, might not fit.
    pub(crate) fn is_full_for(&self, records: usize) -> bool {
        self.payload.len() >= FULL_BYTES
            || self.count + records > COMPACTED_RECORDS
            // What does not fit into the open unit fits into another one.
            || self.units.len() + 2 > FRAME_UNITS
            || self.notes.len() + NOTE_BYTES > FRAME_NOTES_BYTES
    }

    /// Whether it holds nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Closes the frame; the builder is empty again.
    pub(crate) fn finish(
        &mut self,
        (group, epoch): (GroupId, EpochId),
        (number, prev): (FrameNo, ChainHead),
        now: WallTime,
    ) -> Frame {
        let Self { payload, units, records, ranks, count, notes, .. } = std::mem::take(self);
        let crc_count: usize = units.iter().map(|(_, crcs)| crcs.len()).sum();
        let mut tables = Writer::default();
        units.iter().for_each(|(unit, _)| unit.encode(&mut tables));
        for crc in units.iter().flat_map(|(_, crcs)| crcs) {
            tables.u32(*crc);
        }
        tables.put(&records.finish()).put(&ranks.finish()).put(&notes);
        let mut header = FrameHeader {
            kind: FrameKind::Compacted,
            group,
            epoch,
            number,
            records: narrow(count),
            units: narrow(units.len()),
            crcs: narrow(crc_count),
            notes_bytes: narrow(notes.len()),
            payload_bytes: narrow(payload.len()),
            durable: None,
            wall: now,
            boottime: WallTime(0),
            boot: BootId([0; 16]),
            tables_hash: Hash([0; 32]),
            payload_hash: Hash::of(&payload),
            prev,
        };
        tables.pad_to(size(header.tables_bytes()));
        let tables = tables.finish();
        header.tables_hash = Hash::of(&tables);
        let encoded = header.encode();
        let mut bytes = Vec::with_capacity(FRAME_HEADER_BYTES + tables.len() + payload.len());
        bytes.extend_from_slice(&encoded);
        bytes.extend_from_slice(&tables);
        bytes.extend_from_slice(&payload);
        Frame { header, head: ChainHead(Hash::of(&encoded)), bytes: Bytes::from(bytes) }
    }
}

/// A length within a frame, which is bounded far below 4 GiB.
fn narrow(length: usize) -> u32 {
    u32::try_from(length).expect("a frame is smaller than 4 GiB")
}
