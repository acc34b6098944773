//! The header of a segment file.

use super::bytes::{Malformed, Reader, Writer, check_crc};
use crate::types::{ChainHead, EpochId, FrameNo, GroupId, Hash, ResyncId, Salt, SegmentNo, Seq, WallTime};

/// Bytes of a segment header.
pub const SEGMENT_HEADER_BYTES: usize = 4096;
const MAGIC: [u8; 8] = *b"BSPLSEG1";
const VERSION: u16 = 1;

/// What a segment holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentKind {
    /// Frames of the write order.
    Live {
        /// The first `Seq` of its first frame.
        first: Seq,
    },
    /// Frames of one first copy or resync.
    Base {
        /// Which.
        resync: ResyncId,
    },
}

/// What a compacted segment stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replaces {
    /// Number of the first segment it stands for, which is where it stands.
    pub place: SegmentNo,
    /// Live: one past the last `Seq`; base: none.
    pub end: Option<Seq>,
    /// Chain head after the last frame it stands for.
    pub chain_out: ChainHead,
    /// Number of that frame.
    pub last_frame: FrameNo,
}

/// First bytes of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Guards against a file of another group.
    pub group: GroupId,
    /// Of the first frame.
    pub epoch: EpochId,
    /// Random, repeated in each envelope.
    pub salt: Salt,
    /// Its number: guards against a renamed file.
    pub number: SegmentNo,
    /// Live or base.
    pub kind: SegmentKind,
    /// Head of the chain before its first frame.
    pub chain_in: ChainHead,
    /// Number of its first frame.
    pub first_frame: FrameNo,
    /// When it was made, by the keeper's clock.
    pub created: WallTime,
    /// What it stands for, if it is compacted.
    pub replaces: Option<Replaces>,
}

impl SegmentHeader {
    /// Where it stands among the segments: in the place of the first one it stands for.
    pub fn place(&self) -> SegmentNo {
        self.replaces.map_or(self.number, |replaces| replaces.place)
    }

    /// Whether these bytes are as somebody wrote them. If they cannot be decoded all the same, a newer version did.
    pub fn is_intact(bytes: &[u8; SEGMENT_HEADER_BYTES]) -> bool {
        bytes.starts_with(&MAGIC) && check_crc(bytes, 8, 12).is_ok()
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, first, resync) = match self.kind {
            SegmentKind::Live { first } => (1, first.number(), [0; 16]),
            SegmentKind::Base { resync } => (2, 0, resync.0),
        };
        let mut w = Writer::with_capacity(SEGMENT_HEADER_BYTES);
        let kind = if self.replaces.is_some() { 3 } else { kind };
        w.put(&MAGIC).u32(0).u16(VERSION).u8(kind).u8(0).u64(0).u64(0);
        w.put(&self.group.0).put(&self.epoch.0).put(&self.salt.0).u64(self.number.0).u64(first);
        w.u64(Seq::encode(self.replaces.and_then(|replaces| replaces.end))).put(&self.chain_in.0.0);
        w.put(&self.replaces.map_or([0; 32], |replaces| replaces.chain_out.0.0));
        w.put(&resync).zeroes(16).u64(self.created.0).u64(self.first_frame.number());
        if let Some(replaces) = self.replaces {
            w.u64(replaces.last_frame.number()).u64(replaces.place.0);
        }
        w.pad_to(SEGMENT_HEADER_BYTES);
        w.finish_with_crc(8, 12)
    }

    /// Checked: CRC, version, features, key, and that all that is reserved is empty.
    pub fn decode(bytes: &[u8; SEGMENT_HEADER_BYTES]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        r.magic(MAGIC)?;
        check_crc(bytes, 8, 12)?;
        r.u32()?;
        if r.u16()? != VERSION {
            return Err(Malformed("a segment of another version"));
        }
        let kind = r.u8()?;
        r.reserved(1)?;
        if r.u64()? != 0 {
            return Err(Malformed("a segment that requires a feature this version does not have"));
        }
        r.u64()?;
        let group = GroupId::new(r.array()?).ok_or(Malformed("a segment without a group"))?;
        let epoch = EpochId::new(r.array()?).ok_or(Malformed("a segment without an epoch"))?;
        let salt = Salt(r.array()?);
        let number = SegmentNo(r.u64()?);
        let first = Seq::new(r.u64()?);
        let end = Seq::new(r.u64()?);
        let chain_in = ChainHead(Hash(r.array()?));
        let chain_out = ChainHead(Hash(r.array()?));
        let resync = ResyncId::new(r.array()?);
        if r.array::<16>()? != [0; 16] {
            return Err(Malformed("an encrypted segment: this version has no key for it"));
        }
        let created = WallTime(r.u64()?);
        let first_frame = FrameNo::new(r.u64()?).ok_or(Malformed("a segment without a first frame number"))?;
        let (last_frame, place) = (FrameNo::new(r.u64()?), r.u64()?);
        r.reserved(r.rest().len())?;
        let replaces = match (kind, last_frame) {
            (3, Some(last_frame)) if place > 0 && last_frame >= first_frame && end.is_some() == first.is_some() => {
                Some(Replaces { place: SegmentNo(place), end, chain_out, last_frame })
            }
            (3, _) => return Err(Malformed("a compacted segment that stands for nothing")),
            (_, None) if end.is_none() && chain_out == ChainHead::START && place == 0 => None,
            _ => return Err(Malformed("fields of a compacted segment in another kind")),
        };
        let kind = match (kind, first, resync) {
            (1 | 3, Some(first), None) if end.is_none_or(|end| first < end) => SegmentKind::Live { first },
            (2 | 3, None, Some(resync)) => SegmentKind::Base { resync },
            _ => return Err(Malformed("a segment of no known kind")),
        };
        Ok(Self { group, epoch, salt, number, kind, chain_in, first_frame, created, replaces })
    }
}
