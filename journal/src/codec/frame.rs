//! The header of a frame.

use super::bytes::{Malformed, Reader, Writer, check_crc};
use super::record::RECORD_BYTES;
use super::unit::UNIT_ENTRY_BYTES;
use crate::limits;
use crate::types::{BootId, ChainHead, EpochId, FrameNo, GroupId, Hash, ResyncId, Seq, WallTime};

/// Bytes of a frame header.
pub const FRAME_HEADER_BYTES: usize = 256;
/// Bytes of a record's rank in a compacted frame.
pub const RANK_BYTES: usize = 12;
const MAGIC: [u8; 4] = *b"BSFR";
const VERSION: u16 = 1;

/// What a frame is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// Part of the write order: record i has `Seq` first + i.
    Live {
        /// `Seq` of its first record.
        first: Seq,
    },
    /// Part of what a first copy or resync read, outside the order.
    Base {
        /// Which resync.
        resync: ResyncId,
        /// The last `Seq` given out before the reads in it were submitted.
        as_of: Option<Seq>,
    },
    /// Made by a keeper of what is left of others: each record says its rank.
    Compacted,
}

/// First bytes of a frame. The chain runs over them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Live or base.
    pub kind: FrameKind,
    /// Guards against a frame of another group.
    pub group: GroupId,
    /// The run of the agent that made it.
    pub epoch: EpochId,
    /// Its number in its chain.
    pub number: FrameNo,
    /// Records in it.
    pub records: u32,
    /// Units in it.
    pub units: u32,
    /// CRCs in it.
    pub crcs: u32,
    /// Bytes of notes.
    pub notes_bytes: u32,
    /// Bytes of payload.
    pub payload_bytes: u32,
    /// The head the agent knew durable at a receiver.
    pub durable: Option<Seq>,
    /// When the agent closed it.
    pub wall: WallTime,
    /// The same instant since boot.
    pub boottime: WallTime,
    /// Which boot.
    pub boot: BootId,
    /// Hash of the tables.
    pub tables_hash: Hash,
    /// Hash of the stored payload.
    pub payload_hash: Hash,
    /// Head of the chain before it.
    pub prev: ChainHead,
}

impl FrameHeader {
    /// Whether these bytes are as somebody wrote them. If they cannot be decoded all the same, a newer version did.
    pub fn is_intact(bytes: &[u8; FRAME_HEADER_BYTES]) -> bool {
        bytes.starts_with(&MAGIC) && check_crc(bytes, 4, 8).is_ok()
    }

    /// Its bytes.
    pub fn encode(&self) -> [u8; FRAME_HEADER_BYTES] {
        let (kind, first, count, as_of, resync) = match self.kind {
            FrameKind::Live { first } => (1, first.number(), self.records, 0, [0; 16]),
            FrameKind::Base { resync, as_of } => (2, 0, 0, Seq::encode(as_of), resync.0),
            FrameKind::Compacted => (3, 0, 0, 0, [0; 16]),
        };
        let mut w = Writer::with_capacity(FRAME_HEADER_BYTES);
        w.put(&MAGIC).u32(0).u16(VERSION).u8(kind).zeroes(5).put(&self.group.0).put(&self.epoch.0);
        w.u64(self.number.number()).u64(first).u32(count).u32(self.records).u32(self.units).u32(self.crcs);
        w.u32(self.notes_bytes).u32(self.tables_bytes()).u32(self.payload_bytes).u32(0);
        w.u64(as_of).u64(Seq::encode(self.durable)).u64(self.wall.0).u64(self.boottime.0).put(&self.boot.0);
        w.put(&self.tables_hash.0).put(&self.payload_hash.0).put(&self.prev.0.0).put(&resync);
        let bytes = w.finish_with_crc(4, 8);
        bytes.try_into().expect("the fields add up to 256 bytes")
    }

    /// Checked: CRC first, then every length against its limit.
    pub fn decode(bytes: &[u8; FRAME_HEADER_BYTES]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        r.magic(MAGIC)?;
        check_crc(bytes, 4, 8)?;
        r.u32()?;
        if r.u16()? != VERSION {
            return Err(Malformed("a frame of another version"));
        }
        let kind = r.u8()?;
        r.reserved(5)?;
        let group = GroupId::new(r.array()?).ok_or(Malformed("a frame without a group"))?;
        let epoch = EpochId::new(r.array()?).ok_or(Malformed("a frame without an epoch"))?;
        let number = FrameNo::new(r.u64()?).ok_or(Malformed("a frame without a number"))?;
        let first = Seq::new(r.u64()?);
        let count = r.u32()?;
        let (records, units, crcs, notes_bytes) = (r.u32()?, r.u32()?, r.u32()?, r.u32()?);
        let tables_bytes = r.u32()?;
        let payload_bytes = r.u32()?;
        r.reserved(4)?;
        let as_of = Seq::new(r.u64()?);
        let durable = Seq::new(r.u64()?);
        let (wall, boottime, boot) = (WallTime(r.u64()?), WallTime(r.u64()?), BootId(r.array()?));
        let (tables_hash, payload_hash) = (Hash(r.array()?), Hash(r.array()?));
        let prev = ChainHead(Hash(r.array()?));
        let resync = ResyncId::new(r.array()?);
        r.end()?;
        let kind = match (kind, first, resync) {
            (1, Some(first), None)
                if count == records && as_of.is_none() && first.number().checked_add(count.into()).is_some() =>
            {
                FrameKind::Live { first }
            }
            (2, None, Some(resync)) if count == 0 => FrameKind::Base { resync, as_of },
            (3, None, None) if count == 0 && as_of.is_none() => FrameKind::Compacted,
            _ => return Err(Malformed("a frame of no known kind")),
        };
        let header = Self {
            kind,
            group,
            epoch,
            number,
            records,
            units,
            crcs,
            notes_bytes,
            payload_bytes,
            durable,
            wall,
            boottime,
            boot,
            tables_hash,
            payload_hash,
            prev,
        };
        header.check_lengths(tables_bytes)?;
        Ok(header)
    }

    fn check_lengths(&self, tables_bytes: u32) -> Result<(), Malformed> {
        let within = |value: u32, limit: usize| usize::try_from(value).is_ok_and(|value| value <= limit);
        let fits = within(self.records, limits::FRAME_RECORDS)
            && within(self.units, limits::FRAME_UNITS)
            && within(self.crcs, limits::FRAME_CRCS)
            && within(self.notes_bytes, limits::FRAME_NOTES_BYTES)
            && within(self.payload_bytes, limits::FRAME_PAYLOAD_BYTES);
        if !fits {
            return Err(Malformed("a frame with more in it than frames hold"));
        }
        if self.records == 0 || tables_bytes != self.tables_bytes() {
            return Err(Malformed("a frame whose lengths do not add up"));
        }
        Ok(())
    }

    /// Bytes of its tables, with the padding.
    pub fn tables_bytes(&self) -> u32 {
        let sizes = [UNIT_ENTRY_BYTES, 4, RECORD_BYTES + self.rank_bytes()];
        let [units, crcs, records] = sizes.map(|size| u32::try_from(size).unwrap_or(u32::MAX));
        (units * self.units + crcs * self.crcs + records * self.records + self.notes_bytes).next_multiple_of(8)
    }

    /// Bytes of the rank of each record; only compacted frames say it.
    pub fn rank_bytes(&self) -> usize {
        if self.kind == FrameKind::Compacted { RANK_BYTES } else { 0 }
    }

    /// Bytes of the whole frame.
    pub fn frame_bytes(&self) -> usize {
        let bytes = u32::try_from(FRAME_HEADER_BYTES).unwrap_or(u32::MAX) + self.tables_bytes() + self.payload_bytes;
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    /// The chain head after this frame.
    pub fn chain_head(&self) -> ChainHead {
        ChainHead(Hash::of(&self.encode()))
    }

    /// Live: the `Seq` of the last record in it.
    pub fn last_seq(&self) -> Option<Seq> {
        match self.kind {
            FrameKind::Live { first } => Some(first.after(u64::from(self.records) - 1)),
            FrameKind::Base { .. } | FrameKind::Compacted => None,
        }
    }
}
