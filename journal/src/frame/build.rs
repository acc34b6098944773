//! Collects records and their data, and closes them into a frame.
//!
//! The buffer has room in front for header and tables, which are written right before the payload when the frame is closed:
//! a large frame is never copied.
//!
//! ```text
//!  │ unused room │ header │ tables │ payload … │ unused │
//!                                  ▲ ROOM
//! ```

use bytes::Bytes;

use super::pool::{Pool, Pooled};
use super::{Frame, size, unit_crcs};
use crate::codec::{Body, Codec, FRAME_HEADER_BYTES, FrameHeader, FrameKind, Record, UnitEntry, UnitPlace, Writer};
use crate::limits::{
    FRAME_NOTES_BYTES, FRAME_PAYLOAD_BYTES, FRAME_PAYLOAD_TARGET, FRAME_RECORDS, FRAME_TABLES_BYTES, NOTE_BYTES,
    UNIT_BYTES,
};
use crate::types::{BootId, ChainHead, EpochId, Extent, FrameNo, GroupId, Hash, Seq, VolumeNo, WallTime};

/// Room for header and tables in front of the payload.
const ROOM: usize = FRAME_HEADER_BYTES + FRAME_TABLES_BYTES;
/// A frame up to this size is copied into memory of its own, so that it does not hold a whole buffer.
const COPY_BYTES: usize = 128 * 1024;
/// Buffers kept: frames on their way are bounded elsewhere, this is only what is not given back to the system.
const BUFFERS_KEPT: usize = 24;

/// What a frame says of itself besides its records.
#[derive(Clone, Copy, Debug)]
pub struct FrameSeal {
    /// Live or base.
    pub kind: FrameKind,
    /// Its group.
    pub group: GroupId,
    /// The agent's run.
    pub epoch: EpochId,
    /// Its number in the chain.
    pub number: FrameNo,
    /// The chain head before it.
    pub prev: ChainHead,
    /// What the agent knows to be durable.
    pub durable: Option<Seq>,
    /// Now, by the wall clock.
    pub wall: WallTime,
    /// Now, since boot.
    pub boottime: WallTime,
    /// Which boot.
    pub boot: BootId,
    /// Whether units are compressed where that makes them smaller.
    pub compress: bool,
}

/// Records on their way into a frame.
#[derive(Debug)]
pub struct FrameBuilder {
    pool: Pool,
    buffer: Pooled,
    payload_bytes: usize,
    /// End of each closed unit, in payload bytes.
    unit_ends: Vec<usize>,
    records: Writer,
    record_count: usize,
    notes: Vec<u8>,
}

impl Default for FrameBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl FrameBuilder {
    /// An empty one with a pool of its own.
    pub fn new() -> Self {
        Self::with_pool(&Pool::new(ROOM + FRAME_PAYLOAD_BYTES, BUFFERS_KEPT))
    }

    /// An empty one that shares its buffers with others of the same pool.
    pub fn with_pool(pool: &Pool) -> Self {
        Self {
            pool: pool.clone(),
            buffer: pool.take(),
            payload_bytes: 0,
            unit_ends: Vec::new(),
            records: Writer::default(),
            record_count: 0,
            notes: Vec::new(),
        }
    }

    /// Another empty one, of the same pool.
    pub fn sibling(&self) -> Self {
        Self::with_pool(&self.pool)
    }

    /// Adds a write and copies its data.
    ///
    /// # Panics
    /// If the extent is longer than a write may be, `data` is not its length, or the frame [is full](Self::is_full).
    pub fn write(&mut self, time: WallTime, volume: VolumeNo, extent: Extent, data: &[u8]) {
        assert!(extent.bytes() == data.len() as u64 && data.len() <= UNIT_BYTES, "{extent}: {} bytes", data.len());
        assert!(!self.is_full(), "the frame is full");
        let mut unit_at = self.unit_ends.last().copied().unwrap_or(0);
        if self.payload_bytes - unit_at + data.len() > UNIT_BYTES {
            self.unit_ends.push(self.payload_bytes);
            unit_at = self.payload_bytes;
        }
        let at = ROOM + self.payload_bytes;
        self.buffer[at..at + data.len()].copy_from_slice(data);
        let place = UnitPlace { unit: narrow(self.unit_ends.len()), offset: narrow(self.payload_bytes - unit_at) };
        self.payload_bytes += data.len();
        self.add(time, Body::Write { volume, extent, place });
    }

    /// Adds a record that has no data.
    ///
    /// # Panics
    /// If it is a write, or the frame [is full](Self::is_full).
    pub fn push(&mut self, time: WallTime, body: Body) {
        assert!(!matches!(body, Body::Write { .. }), "writes have data");
        assert!(!self.is_full(), "the frame is full");
        self.add(time, body);
    }

    fn add(&mut self, time: WallTime, body: Body) {
        Record { time, body }.encode(&mut self.records, &mut self.notes);
        self.record_count += 1;
    }

    /// Whether another record might not fit.
    pub fn is_full(&self) -> bool {
        self.payload_bytes >= FRAME_PAYLOAD_TARGET
            || self.record_count >= FRAME_RECORDS
            || self.notes.len() + NOTE_BYTES > FRAME_NOTES_BYTES
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.record_count == 0
    }

    /// Records so far.
    pub fn records(&self) -> usize {
        self.record_count
    }

    /// Bytes of data so far.
    pub fn payload_bytes(&self) -> usize {
        self.payload_bytes
    }

    /// Closes the frame; the builder is empty again.
    ///
    /// # Panics
    /// If it is empty.
    pub fn finish(&mut self, seal: &FrameSeal) -> Frame {
        assert!(!self.is_empty(), "a frame has records");
        if self.payload_bytes > self.unit_ends.last().copied().unwrap_or(0) {
            self.unit_ends.push(self.payload_bytes);
        }
        let (units, crcs, unit_count) = self.close_units(seal.compress);
        let mut header = FrameHeader {
            kind: seal.kind,
            group: seal.group,
            epoch: seal.epoch,
            number: seal.number,
            records: narrow(self.record_count),
            units: narrow(unit_count),
            crcs: narrow(crcs.len() / 4),
            notes_bytes: narrow(self.notes.len()),
            payload_bytes: narrow(self.payload_bytes),
            durable: seal.durable,
            wall: seal.wall,
            boottime: seal.boottime,
            boot: seal.boot,
            tables_hash: Hash([0; 32]),
            payload_hash: Hash::of(&self.buffer[ROOM..ROOM + self.payload_bytes]),
            prev: seal.prev,
        };
        let tables_at = ROOM - size(header.tables_bytes());
        self.buffer[tables_at..ROOM].fill(0);
        let records = std::mem::take(&mut self.records).finish();
        let mut at = tables_at;
        for part in [&units, &crcs, &records, &self.notes] {
            self.buffer[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        header.tables_hash = Hash::of(&self.buffer[tables_at..ROOM]);
        let encoded = header.encode();
        let start = tables_at - encoded.len();
        self.buffer[start..tables_at].copy_from_slice(&encoded);
        let bytes = self.take_bytes(start, ROOM + self.payload_bytes);
        self.payload_bytes = 0;
        self.unit_ends.clear();
        self.record_count = 0;
        self.notes.clear();
        Frame { header, head: ChainHead(Hash::of(&encoded)), bytes }
    }

    /// Compresses the units in place where asked and worth it; returns unit table, CRC table and the number of units.
    fn close_units(&mut self, compress: bool) -> (Vec<u8>, Vec<u8>, usize) {
        let ends = std::mem::take(&mut self.unit_ends);
        let (mut units, mut crcs) = (Writer::default(), Writer::default());
        let (mut from, mut to) = (0, 0);
        for end in &ends {
            let decoded = end - from;
            let packed = if compress { pack(&self.buffer[ROOM + from..ROOM + end]) } else { None };
            let (codec, stored) = match packed {
                Some(packed) => {
                    self.buffer[ROOM + to..ROOM + to + packed.len()].copy_from_slice(&packed);
                    (Codec::Lz4, packed.len())
                }
                None => {
                    self.buffer.copy_within(ROOM + from..ROOM + end, ROOM + to);
                    (Codec::Raw, decoded)
                }
            };
            UnitEntry { offset: narrow(to), stored: narrow(stored), decoded: narrow(decoded), codec }
                .encode(&mut units);
            for crc in unit_crcs(codec, &self.buffer[ROOM + to..ROOM + to + stored]) {
                crcs.u32(crc);
            }
            from = *end;
            to += stored;
        }
        self.payload_bytes = to;
        (units.finish(), crcs.finish(), ends.len())
    }

    fn take_bytes(&mut self, start: usize, end: usize) -> Bytes {
        if end - start <= COPY_BYTES {
            return Bytes::copy_from_slice(&self.buffer[start..end]);
        }
        let full = std::mem::replace(&mut self.buffer, self.pool.take());
        Bytes::from_owner(full).slice(start..end)
    }
}

/// LZ4, if it saves at least an eighth: less is not worth the reader's time.
fn pack(bytes: &[u8]) -> Option<Vec<u8>> {
    let packed = lz4_flex::block::compress(bytes);
    (packed.len() <= bytes.len() - bytes.len() / 8).then_some(packed)
}

/// A length within a frame, which is bounded far below 4 GiB.
fn narrow(length: usize) -> u32 {
    u32::try_from(length).expect("a frame is smaller than 4 GiB")
}
