//! What is said on the stream by which a receiver takes an agent's sources back.

use bytes::Bytes;

use super::fields::{self, put_text, put_time, text};
use crate::codec::{Malformed, Reader, Writer};
use crate::limits::{NAME_BYTES, ROLLBACK_DATA_BYTES, ROLLBACK_ZERO_BYTES};
use crate::types::{Extent, GroupId, Hash, SECTOR_BYTES, Seq, VolumeNo, WallTime};

pub(super) const OPEN_BYTES: usize = 42;
pub(super) const BLOCKS_BYTES: usize = 48;

const LOOKS_ONLY: u32 = 1;
const EVEN_IF_ATTACHED: u32 = 2;
const GOES_ON: u32 = 4;

/// The receiver wants to take the sources of a group back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RollbackOpening {
    /// Which group.
    pub group: GroupId,
    /// To which place in the order.
    pub target: Seq,
    /// It is only asked whether that could be done: nothing changes.
    pub looks_only: bool,
    /// Clients of the tap are put out.
    pub even_if_attached: bool,
    /// One has begun and is not over, whatever its target was: this goes on from there.
    pub goes_on: bool,
    /// Until when retention must not touch the mark.
    pub locked_until: Option<WallTime>,
    /// What the state before is called. Empty for a look, and while another one is not over: then there is no point to be named.
    pub mark: String,
}

impl RollbackOpening {
    pub(super) fn encode(&self, w: &mut Writer) {
        let flags = [(self.looks_only, LOOKS_ONLY), (self.even_if_attached, EVEN_IF_ATTACHED), (self.goes_on, GOES_ON)];
        let flags = flags.into_iter().filter(|(set, _)| *set).fold(0, |flags, (_, flag)| flags | flag);
        w.put(&self.group.0).u64(self.target.number()).u32(flags).u32(0);
        put_time(w, self.locked_until);
        put_text(w, &self.mark, NAME_BYTES);
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (group, target, flags) = (fields::group(r)?, fields::seq(r)?, r.u32()?);
        r.reserved(4)?;
        if flags & !(LOOKS_ONLY | EVEN_IF_ATTACHED | GOES_ON) != 0 {
            return Err(Malformed("a rollback of an unknown kind"));
        }
        let is = |flag| flags & flag != 0;
        let (locked_until, mark) = (fields::time(r)?, text(r, NAME_BYTES)?);
        if mark.is_empty() != (is(LOOKS_ONLY) || is(GOES_ON)) {
            return Err(Malformed("a mark where none can be, or none where one has to be"));
        }
        let (looks_only, even_if_attached, goes_on) = (is(LOOKS_ONLY), is(EVEN_IF_ATTACHED), is(GOES_ON));
        Ok(Self { group, target, looks_only, even_if_attached, goes_on, locked_until, mark })
    }
}

/// What a run of blocks is to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RollbackBlocks {
    /// Of which volume.
    pub volume: VolumeNo,
    /// From which byte on.
    pub offset: u64,
    /// How many bytes.
    pub length: u32,
    /// BLAKE3 of the data; zero of zeroes.
    pub hash: Hash,
    /// All of it, or nothing: zeroes.
    pub data: Bytes,
}

impl RollbackBlocks {
    /// These bytes, at most [`ROLLBACK_DATA_BYTES`] of them.
    pub fn data(volume: VolumeNo, offset: u64, data: Bytes) -> Self {
        let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
        Self { volume, offset, length, hash: Hash::of(&data), data }
    }

    /// So many zeroes, at most [`ROLLBACK_ZERO_BYTES`].
    pub fn zeroes(volume: VolumeNo, offset: u64, length: u32) -> Self {
        Self { volume, offset, length, hash: Hash([0; 32]), data: Bytes::new() }
    }

    /// Where they are.
    pub fn extent(&self) -> Option<Extent> {
        Extent::of_bytes(self.offset, self.length.into())
    }

    /// Whether the data is what was sent.
    pub fn is_whole(&self) -> bool {
        self.data.is_empty() || Hash::of(&self.data) == self.hash
    }

    pub(super) fn encode(&self, w: &mut Writer) {
        w.u32(self.volume.0).u32(self.length).u64(self.offset).put(&self.hash.0).put(&self.data);
    }

    pub(super) fn decode(body: Bytes) -> Result<Self, Malformed> {
        let mut r = Reader::new(&body);
        let (volume, length, offset) = (VolumeNo(r.u32()?), r.u32()?, r.u64()?);
        let hash = Hash(r.array()?);
        let data = body.slice(BLOCKS_BYTES.min(body.len())..);
        let is_whole = match data.is_empty() {
            true => length <= ROLLBACK_ZERO_BYTES && hash == Hash([0; 32]),
            false => usize::try_from(length) == Ok(data.len()) && data.len() <= ROLLBACK_DATA_BYTES,
        };
        let blocks = Self { volume, offset, length, hash, data };
        let is_aligned = u64::from(length).is_multiple_of(SECTOR_BYTES) && offset.is_multiple_of(SECTOR_BYTES);
        match is_whole && is_aligned && blocks.extent().is_some() {
            true => Ok(blocks),
            false => Err(Malformed("blocks that are none")),
        }
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])+ $name:ident = $number:literal;)+) => {
        /// Why sources do not go back.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum NoRollback {
            $($(#[$doc])+ $name = $number,)+
        }

        impl NoRollback {
            pub(super) fn number(self) -> u8 {
                self as u8
            }

            pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
                match r.u16()? {
                    $($number => Ok(Self::$name),)+
                    _ => Err(Malformed("an unknown reason")),
                }
            }
        }
    };
}

reasons! {
    /// Nobody said `allow` on the agent's machine, or its time is over.
    NotAllowed = 1;
    /// Clients are attached to the tap.
    Attached = 2;
    /// There are no points now, or not all is durable.
    NotLive = 3;
    /// Another one is under way.
    Busy = 4;
    /// One is to be gone on with, and the agent knows of none.
    NothingBegun = 5;
    /// What was sent makes no sense for these volumes.
    Senseless = 6;
    /// Something failed here: it is gone on with later.
    Failed = 7;
}
