//! What stands in front of each message: which it is and how long, checked before memory is taken for it.

use std::ops::RangeInclusive;

use super::changed::{CHANGED_BYTES, RUN_BYTES};
use super::fields::TEXT_BYTES;
use super::group::{
    BASE_HEAD_BYTES, BLOCK_PAGES, HEAD_BYTES, MAX_COMPARE_BLOCKS, MAX_PAGED_BLOCKS, REPORT_BYTES, VOLUME_REPORT_BYTES,
};
use super::handshake::{HELLO_BYTES, SOFTWARE_BYTES, WELCOME_BYTES};
use super::rollback::{BLOCKS_BYTES, OPEN_BYTES};
use crate::codec::{FRAME_HEADER_BYTES, Malformed, Reader, Writer};
use crate::limits::{CHANGED_RUNS, FRAME_BYTES, GROUP_VOLUMES, NAME_BYTES, ROLLBACK_DATA_BYTES};

/// Bytes in front of each message's body.
pub const MESSAGE_HEADER_BYTES: usize = 8;

macro_rules! tags {
    ($($(#[$doc:meta])+ $name:ident = $number:literal, $min:expr, $max:expr;)+) => {
        /// Which message it is.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Tag {
            $($(#[$doc])+ $name,)+
        }

        impl Tag {
            /// All of them, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// Its number on the wire.
            pub fn number(self) -> u16 {
                match self {
                    $(Self::$name => $number,)+
                }
            }

            /// The shortest and the longest body it can have, in bytes.
            pub fn body_bytes(self) -> RangeInclusive<usize> {
                match self {
                    $(Self::$name => $min..=$max,)+
                }
            }
        }
    };
}

tags! {
    /// The agent's first word.
    Hello = 0x0001, HELLO_BYTES, HELLO_BYTES + SOFTWARE_BYTES;
    /// The receiver's answer to it.
    Welcome = 0x0002, WELCOME_BYTES, WELCOME_BYTES;
    /// No, and why.
    Refused = 0x0003, 4, 4 + TEXT_BYTES;
    /// How the agent is, about one group.
    Report = 0x0004, 16 + REPORT_BYTES, 16 + REPORT_BYTES + TEXT_BYTES + VOLUME_REPORT_BYTES * MAX_VOLUMES;
    /// The agent wants to send a group's order.
    OpenGroup = 0x0010, 18 + 1, 18 + NAME_BYTES;
    /// How far the receiver has it.
    Opened = 0x0011, HEAD_BYTES, HEAD_BYTES;
    /// A frame, of the group's order or of a base.
    Frame = 0x0012, FRAME_HEADER_BYTES, FRAME_BYTES;
    /// The mark is in the order.
    MarkDone = 0x0014, 16, 16;
    /// There will be no mark.
    MarkFailed = 0x0015, 12, 12 + TEXT_BYTES;
    /// The agent stops of its own will, all is sent.
    Bye = 0x0016, 0, 0;
    /// What survived `fdatasync` at the receiver.
    Durable = 0x0017, HEAD_BYTES, HEAD_BYTES;
    /// The receiver asks for a mark.
    MarkRequest = 0x0018, 18 + 1, 18 + NAME_BYTES;
    /// The agent wants to send a base.
    OpenBase = 0x0020, 32, 32;
    /// How far the receiver has it.
    BaseOpened = 0x0021, BASE_HEAD_BYTES, BASE_HEAD_BYTES;
    /// How much of the base survived `fdatasync`.
    BaseDurable = 0x0022, BASE_HEAD_BYTES, BASE_HEAD_BYTES;
    /// The agent wants to compare.
    OpenCompare = 0x0030, 24, 24;
    /// It may.
    CompareReady = 0x0031, 0, 0;
    /// Asks for the hashes of some blocks.
    CompareRange = 0x0032, 16, 16;
    /// The hashes.
    BlockHashes = 0x0033, 8, 8 + 32 * MAX_COMPARE_BLOCKS as usize;
    /// The agent wants to know what changed after a place.
    OpenChanged = 0x0034, 32, 32;
    /// It may ask.
    ChangedReady = 0x0035, 8, 8;
    /// Asks which extents changed.
    ChangedFrom = 0x0036, 8, 8;
    /// Those that did.
    ChangedExtents = 0x0037, CHANGED_BYTES, CHANGED_BYTES + RUN_BYTES * CHANGED_RUNS;
    /// Asks for the hashes of the pages of some blocks.
    ComparePages = 0x0038, 8 + 8, 8 + 8 * MAX_PAGED_BLOCKS;
    /// The hashes of pages.
    PageHashes = 0x0039, 8, 8 + 32 * BLOCK_PAGES * MAX_PAGED_BLOCKS;
    /// The receiver wants to take the sources back.
    OpenRollback = 0x0040, OPEN_BYTES, OPEN_BYTES + NAME_BYTES;
    /// It may; nobody else writes to them.
    RollbackReady = 0x0041, 16, 16;
    /// The receiver knows what it will send.
    RollbackBegin = 0x0042, 16, 16;
    /// That it has begun is durable.
    RollbackBegun = 0x0043, 8, 8;
    /// What blocks are to hold.
    RollbackBlocks = 0x0044, BLOCKS_BYTES, BLOCKS_BYTES + ROLLBACK_DATA_BYTES;
    /// How much of it is on the sources.
    RollbackDone = 0x0045, 8, 8;
    /// All was sent.
    RollbackEnd = 0x0046, 16, 16;
    /// The sources are back there, durably.
    RollbackSealed = 0x0047, 8, 8;
    /// No, and why.
    RollbackRefused = 0x0048, 4, 4 + TEXT_BYTES;
}

const MAX_VOLUMES: usize = GROUP_VOLUMES as usize;

impl Tag {
    /// The message with this number.
    pub fn from_number(number: u16) -> Result<Self, Malformed> {
        Self::ALL.iter().copied().find(|tag| tag.number() == number).ok_or(Malformed("a message of an unknown kind"))
    }
}

/// The first 8 bytes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageHeader {
    /// Which message.
    pub tag: Tag,
    /// Bytes that follow.
    pub body_bytes: u32,
}

impl MessageHeader {
    /// The header of a body of `len` bytes.
    ///
    /// # Panics
    /// If no such message has a body of that length: it must not be sent.
    pub fn new(tag: Tag, len: usize) -> Self {
        assert!(tag.body_bytes().contains(&len), "{tag:?} with {len} bytes");
        Self { tag, body_bytes: u32::try_from(len).expect("every limit is below 4 GiB") }
    }

    /// Its bytes.
    pub fn encode(self) -> [u8; MESSAGE_HEADER_BYTES] {
        let mut w = Writer::with_capacity(MESSAGE_HEADER_BYTES);
        w.u16(self.tag.number()).u16(0).u32(self.body_bytes);
        w.finish().try_into().expect("the fields add up to 8 bytes")
    }

    /// Checked: a known tag, and a length that such a message can have. Only then is there memory for the body.
    pub fn decode(bytes: &[u8; MESSAGE_HEADER_BYTES]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        let tag = Tag::from_number(r.u16()?)?;
        r.reserved(2)?;
        let body_bytes = r.u32()?;
        match usize::try_from(body_bytes).is_ok_and(|len| tag.body_bytes().contains(&len)) {
            true => Ok(Self { tag, body_bytes }),
            false => Err(Malformed("a message of a length it cannot have")),
        }
    }

    /// Bytes of the body.
    pub fn body_len(self) -> usize {
        usize::try_from(self.body_bytes).unwrap_or(usize::MAX)
    }
}
