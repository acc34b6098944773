//! Whole frames: built by whoever captures, checked by whoever takes them in, read by views.

mod build;
mod check;
mod compact;
mod pool;
#[cfg(test)]
mod tests;

use bytes::Bytes;

pub use build::{FrameBuilder, FrameSeal};
pub(crate) use check::is_newer;
pub(crate) use compact::CompactBuilder;
pub use pool::{Pool, Pooled};

use crate::codec::{
    Codec, FRAME_HEADER_BYTES, FrameHeader, FrameKind, Malformed, RECORD_BYTES, Reader, Record, UNIT_ENTRY_BYTES,
    UnitEntry,
};
use crate::types::{ChainHead, Hash, Head, Seq};

/// A frame whose header, tables and checksums hold. Immutable; a clone shares its bytes.
#[derive(Clone, Debug)]
pub struct Frame {
    header: FrameHeader,
    head: ChainHead,
    bytes: Bytes,
}

impl Frame {
    /// What its header says.
    pub fn header(&self) -> &FrameHeader {
        &self.header
    }

    /// The chain head after it.
    pub fn head(&self) -> ChainHead {
        self.head
    }

    /// Live: where the order stands after it.
    pub fn end(&self) -> Option<Head> {
        let header = &self.header;
        Some(Head { epoch: header.epoch, seq: self.last_seq()?, frame: header.number, chain: self.head })
    }

    /// Header, tables and payload.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Live: the `Seq` of its first record.
    pub fn first_seq(&self) -> Option<Seq> {
        match self.header.kind {
            FrameKind::Live { first } => Some(first),
            FrameKind::Base { .. } | FrameKind::Compacted => None,
        }
    }

    /// Live: the `Seq` of its last record.
    pub fn last_seq(&self) -> Option<Seq> {
        self.header.last_seq()
    }

    /// Its records, in order.
    ///
    /// # Panics
    /// Never: they were decoded once when the frame was checked.
    pub fn records(&self) -> impl Iterator<Item = Record> + '_ {
        let tables = Tables::of(&self.header, self.body());
        let mut r = Reader::new(tables.records);
        (0..self.header.records).map(move |_| Record::decode(&mut r, tables.notes).expect("checked"))
    }

    /// The rank of each record, in order: `Seq` or `as_of`, and 0 or the base frame's number. Only compacted frames say it.
    ///
    /// # Panics
    /// Never: the table is as long as there are records.
    pub(crate) fn ranks(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        let mut r = Reader::new(Tables::of(&self.header, self.body()).ranks);
        let count = if self.header.kind == FrameKind::Compacted { self.header.records } else { 0 };
        (0..count).map(move |_| (r.u64().expect("checked"), r.u32().expect("checked")))
    }

    /// Its units, in order, each with its CRCs.
    ///
    /// # Panics
    /// Never: they were decoded once when the frame was checked.
    pub fn units(&self) -> impl Iterator<Item = Unit> + '_ {
        let tables = Tables::of(&self.header, self.body());
        let (mut units, mut crcs) = (Reader::new(tables.units), Reader::new(tables.crcs));
        (0..self.header.units).map(move |_| Unit::decode(&mut units, &mut crcs).expect("checked"))
    }

    /// Where its payload starts in the frame.
    pub fn payload_at(&self) -> usize {
        self.header.frame_bytes() - self.payload().len()
    }

    /// Its payload, as stored.
    pub fn payload(&self) -> &[u8] {
        Tables::of(&self.header, self.body()).payload
    }

    /// Whether the payload is what the agent hashed. Ingest does not ask this; scrub does.
    pub fn payload_intact(&self) -> bool {
        Hash::of(self.payload()) == self.header.payload_hash
    }

    fn body(&self) -> &[u8] {
        self.bytes.get(FRAME_HEADER_BYTES..).unwrap_or_default()
    }
}

/// A unit with its CRCs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Where it is in the payload, and how it is stored.
    pub entry: UnitEntry,
    /// One, or for a raw unit one for each started 4096 bytes.
    pub crcs: Vec<u32>,
}

impl Unit {
    fn decode(units: &mut Reader<'_>, crcs: &mut Reader<'_>) -> Result<Self, Malformed> {
        let entry = UnitEntry::decode(units)?;
        let count = entry.codec.crc_count(size(entry.stored));
        Ok(Self { entry, crcs: (0..count).map(|_| crcs.u32()).collect::<Result<_, _>>()? })
    }
}

/// The parts of a frame behind its header. Lengths come from a checked header; a body that is too short yields empty parts.
struct Tables<'a> {
    all: &'a [u8],
    units: &'a [u8],
    crcs: &'a [u8],
    records: &'a [u8],
    ranks: &'a [u8],
    notes: &'a [u8],
    padding: &'a [u8],
    payload: &'a [u8],
}

impl<'a> Tables<'a> {
    fn of(header: &FrameHeader, body: &'a [u8]) -> Self {
        let (all, payload) = body.split_at_checked(size(header.tables_bytes())).unwrap_or_default();
        let (units, rest) = all.split_at_checked(UNIT_ENTRY_BYTES * size(header.units)).unwrap_or_default();
        let (crcs, rest) = rest.split_at_checked(4 * size(header.crcs)).unwrap_or_default();
        let (records, rest) = rest.split_at_checked(RECORD_BYTES * size(header.records)).unwrap_or_default();
        let (ranks, rest) = rest.split_at_checked(header.rank_bytes() * size(header.records)).unwrap_or_default();
        let (notes, padding) = rest.split_at_checked(size(header.notes_bytes)).unwrap_or_default();
        Self { all, units, crcs, records, ranks, notes, padding, payload }
    }
}

/// CRCs of a unit's stored bytes.
fn unit_crcs(codec: Codec, stored: &[u8]) -> impl Iterator<Item = u32> + '_ {
    let chunk = match codec {
        Codec::Raw => crate::limits::CRC_CHUNK_BYTES,
        Codec::Lz4 => stored.len().max(1),
    };
    stored.chunks(chunk).map(crc32fast::hash)
}

fn size(length: u32) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}
