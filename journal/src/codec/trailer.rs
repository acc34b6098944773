//! The last sector of a sealed segment: where its index is.

use super::bytes::{Malformed, Reader, Writer, check_crc};
use crate::limits::FOOTER_BYTES;
use crate::types::{ChainHead, FrameNo, Hash, Salt, Seq};

/// Bytes of a trailer.
pub const TRAILER_BYTES: usize = 512;
const MAGIC: [u8; 8] = *b"BSPLEND1";

/// One of the four parts of a footer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Section {
    /// Its length.
    pub bytes: u64,
    /// Its checksum.
    pub crc: u32,
}

/// Where the parts of the footer are, and what the segment ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// The segment's salt.
    pub salt: Salt,
    /// Where the footer starts.
    pub footer_at: u64,
    /// Entries, CRC pool, frame directory, events.
    pub sections: [Section; 4],
    /// One past the last `Seq`; base: none.
    pub end: Option<Seq>,
    /// Chain head after the last frame.
    pub head: ChainHead,
    /// Number of the last frame.
    pub last_frame: FrameNo,
}

/// Bytes of an item in each section; events have no fixed length.
const ITEM_BYTES: [u64; 4] = [56, 4, 40, 1];

impl Trailer {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(TRAILER_BYTES);
        w.put(&MAGIC).u32(0).u32(0).put(&self.salt.0).u64(self.footer_at);
        for (section, item) in self.sections.iter().zip(ITEM_BYTES) {
            w.u64(section.bytes / item);
        }
        for section in &self.sections {
            w.u32(section.crc);
        }
        w.u64(Seq::encode(self.end)).put(&self.head.0.0).u64(self.last_frame.number()).pad_to(TRAILER_BYTES);
        w.finish_with_crc(8, 12)
    }

    /// Checked: CRC, and that no part is larger than footers are.
    pub fn decode(bytes: &[u8; TRAILER_BYTES]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        r.magic(MAGIC)?;
        check_crc(bytes, 8, 12)?;
        r.u32()?;
        r.reserved(4)?;
        let salt = Salt(r.array()?);
        let footer_at = r.u64()?;
        let mut sections = [Section::default(); 4];
        for (section, item) in sections.iter_mut().zip(ITEM_BYTES) {
            section.bytes = r
                .u64()?
                .checked_mul(item)
                .filter(|&bytes| bytes <= FOOTER_BYTES)
                .ok_or(Malformed("an index larger than indexes are"))?;
        }
        for section in &mut sections {
            section.crc = r.u32()?;
        }
        let end = Seq::new(r.u64()?);
        let head = ChainHead(Hash(r.array()?));
        let last_frame = FrameNo::new(r.u64()?).ok_or(Malformed("a sealed segment without frames"))?;
        r.reserved(r.rest().len())?;
        Ok(Self { salt, footer_at, sections, end, head, last_frame })
    }

    /// Bytes of the footer.
    pub fn footer_bytes(&self) -> u64 {
        self.sections.iter().map(|section| section.bytes).sum()
    }
}
