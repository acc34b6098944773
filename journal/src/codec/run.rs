//! The end of a merged run: what it is about, and where its parts are.

use super::bytes::{Malformed, Reader, Writer, check_crc};
use crate::limits::{RUN_GUIDES, RUN_SOURCES};
use crate::types::{ChainHead, GroupId, Hash, Salt, SegmentNo};

/// Bytes of the last part of a run.
pub const RUN_TRAILER_BYTES: usize = 512;
/// Bytes of what a run says of a segment that it covers.
pub const RUN_SOURCE_BYTES: usize = 64;
const MAGIC: [u8; 8] = *b"BSPLRUN1";
const VERSION: u16 = 1;

/// Of which chain the segments are that a run covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RunKind {
    /// The live order.
    Live,
    /// Sealed bases.
    Base,
}

/// What a run ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunTrailer {
    /// Of which chain.
    pub kind: RunKind,
    /// Whose.
    pub group: GroupId,
    /// Also in each page.
    pub salt: Salt,
    /// As its file's name.
    pub number: u64,
    /// Pages of both kinds, from the start of the file.
    pub pages: u64,
    /// Entries in them.
    pub entries: u64,
    /// Bit c: there are entries of class c.
    pub classes: u64,
    /// Segments that it covers.
    pub sources: u32,
    /// Guide pages.
    pub guides: u32,
    /// CRC of the list of the segments.
    pub sources_crc: u32,
    /// CRC of the list of the guide pages.
    pub guides_crc: u32,
}

impl RunTrailer {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let kind = match self.kind {
            RunKind::Live => 1,
            RunKind::Base => 2,
        };
        let mut w = Writer::with_capacity(RUN_TRAILER_BYTES);
        w.put(&MAGIC).u32(0).u16(VERSION).u8(kind).u8(0).u64(0).u64(0).put(&self.group.0).put(&self.salt.0);
        w.u64(self.number).u64(self.pages).u64(self.entries).u64(self.classes).u32(self.sources).u32(self.guides);
        w.u32(self.sources_crc).u32(self.guides_crc).pad_to(RUN_TRAILER_BYTES);
        w.finish_with_crc(8, 12)
    }

    /// Checked: CRC, version, and that no part is larger than they are.
    pub fn decode(bytes: &[u8; RUN_TRAILER_BYTES]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        r.magic(MAGIC)?;
        check_crc(bytes, 8, 12)?;
        r.u32()?;
        if r.u16()? != VERSION {
            return Err(Malformed("a run of another version"));
        }
        let kind = match r.u8()? {
            1 => RunKind::Live,
            2 => RunKind::Base,
            _ => return Err(Malformed("a run of an unknown kind")),
        };
        r.reserved(1)?;
        // Features that it cannot be read without; then those that it can.
        r.reserved(8)?;
        r.u64()?;
        let trailer = Self {
            kind,
            group: GroupId(r.array()?),
            salt: Salt(r.array()?),
            number: r.u64()?,
            pages: r.u64()?,
            entries: r.u64()?,
            classes: r.u64()?,
            sources: r.u32()?,
            guides: r.u32()?,
            sources_crc: r.u32()?,
            guides_crc: r.u32()?,
        };
        r.reserved(r.rest().len())?;
        if trailer.sources > RUN_SOURCES || trailer.guides > RUN_GUIDES || trailer.pages >= 1 << 40 {
            return Err(Malformed("a run larger than runs are"));
        }
        Ok(trailer)
    }
}

/// A segment that a run covers, so that it proves itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunSource {
    /// Which.
    pub number: SegmentNo,
    /// Its salt: none other is meant.
    pub salt: Salt,
    /// Where it ended: one that was mended ends elsewhere.
    pub head: ChainHead,
    /// Entries that are from it.
    pub entries: u64,
}

impl RunSource {
    /// Appends its bytes.
    pub fn encode(&self, w: &mut Writer) {
        w.u64(self.number.0).put(&self.salt.0).put(&self.head.0.0).u64(self.entries);
    }

    /// From its bytes.
    pub fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            number: SegmentNo(r.u64()?),
            salt: Salt(r.array()?),
            head: ChainHead(Hash(r.array()?)),
            entries: r.u64()?,
        })
    }
}
