//! First copy and compare: reads the sources while they are written to, into frames of a chain of their own.
//!
//! What is read takes no `Seq`. Each frame says as of which it was read: the last one given out before the first of its reads was
//! submitted. A write that raced the read has a later one and wins, so that no range needs a lock; a tag that is too early is
//! never wrong either, as all that happened since is recorded.
//!
//! **Invariant:** the tag of a read is taken before the read is submitted, and before its range is asked for holes.

mod cursor;
mod reader;
mod theirs;

#[cfg(test)]
mod tests;

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use journal::types::{BootId, EpochId, Extent, GroupId, Hash, ResyncId, Sectors, VolumeNo};

pub use reader::BaseReader;

use crate::Result;

/// Bytes that are compared, and found to be zero, as one.
pub const BLOCK_BYTES: u64 = 64 * 1024;
/// Blocks whose hashes are asked for at once, at most. Where the source has data, it is far fewer.
pub const HASHES_MAX: u64 = 16 * 1024;

/// What a base is read for.
#[derive(Clone, Copy, Debug)]
pub struct BaseSpec {
    /// The group.
    pub group: GroupId,
    /// The run of the agent that reads it.
    pub epoch: EpochId,
    /// Which boot of the machine it is.
    pub boot: BootId,
    /// This base.
    pub resync: ResyncId,
}

/// One volume to be read.
#[derive(Clone, Debug)]
pub struct BaseVolume {
    /// Its number in the group.
    pub number: VolumeNo,
    /// Where it is: [`Source::handle_path`](crate::source::Source::handle_path).
    pub path: PathBuf,
    /// Its size.
    pub size: Sectors,
    /// Whether the receiver has something of it already, from before this epoch.
    pub known: Known,
}

/// What a receiver has of a volume from before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// Nothing at all: all that is not zero is sent. Wrong if the order has any record of the volume from an earlier epoch: what
    /// was written then and is zero now would come back.
    Nothing,
    /// Something: what differs from it is sent.
    Compare,
    /// All but these bytes, in order and apart: what differs there is sent, the rest is not looked at.
    AllBut(Arc<[Range<u64>]>),
}

impl Known {
    /// What has to be looked at; `None`: all.
    fn only(&self) -> Option<&[Range<u64>]> {
        match self {
            Self::Nothing | Self::Compare => None,
            Self::AllBut(ranges) => Some(ranges),
        }
    }
}

impl BaseVolume {
    /// Bytes that have to be looked at.
    pub(crate) fn to_read_bytes(&self) -> u64 {
        cursor::Cursor::new(self.size.bytes(), self.known.only()).left()
    }
}

/// What the receiver's view at the last `Seq` before this epoch holds.
pub trait Hashes: Send {
    /// BLAKE3 of each block of [`BLOCK_BYTES`] of `extent`, which starts at a block and has at most [`HASHES_MAX`]; `None` for one
    /// that reads as zeroes. The last block of a volume may be shorter; what lies beyond the view's own size is zero.
    fn hashes(&mut self, volume: VolumeNo, extent: Extent) -> Result<Vec<Option<Hash>>>;
}

/// How far it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of all volumes that have to be looked at.
    pub total_bytes: u64,
    /// Bytes looked at, holes included.
    pub done_bytes: u64,
    /// Bytes of data in frames.
    pub sent_bytes: u64,
}
