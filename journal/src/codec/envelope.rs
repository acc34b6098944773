//! What a keeper puts in front of each frame it holds.

use super::bytes::{Malformed, Reader, Writer, check_crc};
use crate::limits;
use crate::types::{Salt, SessionId, WallTime};

/// Bytes of an envelope.
pub const ENVELOPE_BYTES: usize = 64;
const MAGIC: [u8; 4] = *b"BSEV";

/// The keeper's own facts about a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The segment's salt: guards against frames left in recycled space.
    pub salt: Salt,
    /// Where it stands in the file: guards against misdirected writes.
    pub offset: u64,
    /// Bytes of the frame that follows.
    pub frame_bytes: u32,
    /// Which session brought it.
    pub session: SessionId,
    /// When it was appended here.
    pub received: WallTime,
    /// The keeper's durable head of this chain when it was appended: a `Seq` (live) or frame number (base), 0 = none.
    pub durable: u64,
}

impl Envelope {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(ENVELOPE_BYTES);
        w.put(&MAGIC).u32(0).put(&self.salt.0).u64(self.offset).u32(self.frame_bytes).u32(0);
        w.u64(self.session.0).u64(self.received.0).u64(self.durable);
        debug_assert_eq!(w.len(), ENVELOPE_BYTES);
        w.finish_with_crc(4, 8)
    }

    /// Checked: CRC, magic, and a length that a frame can have.
    pub fn decode(bytes: &[u8; ENVELOPE_BYTES]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        r.magic(MAGIC)?;
        check_crc(bytes, 4, 8)?;
        r.u32()?;
        let salt = Salt(r.array()?);
        let offset = r.u64()?;
        let frame_bytes = r.u32()?;
        if usize::try_from(frame_bytes).map_or(true, |len| len > limits::FRAME_BYTES) {
            return Err(Malformed("a frame longer than frames are"));
        }
        r.reserved(4)?;
        let session = SessionId(r.u64()?);
        let received = WallTime(r.u64()?);
        Ok(Self { salt, offset, frame_bytes, session, received, durable: r.u64()? })
    }
}
