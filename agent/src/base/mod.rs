//! First copy, compare and resync: reads the sources, or what of them is dirty, while they are written to, into frames of a chain
//! of their own.
//!
//! What is read takes no `Seq`. Each frame says as of which it was read: the last one given out before the first of its reads was
//! submitted. A write that raced the read has a later one and wins, so that no range needs a lock; a tag that is too early is
//! never wrong either, as all that happened since is recorded.
//!
//! **Invariant:** the tag of a read is taken before the read is submitted, and before its range is asked for holes.

mod cursor;
mod differing;
mod reader;
mod reads;
mod theirs;

#[cfg(test)]
mod tests;

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use journal::types::{BootId, EpochId, Extent, GroupId, Hash, ResyncId, Sectors, VolumeNo};

pub use reader::BaseReader;
pub use reads::{Data, Opener, Reads};

use crate::Result;
use crate::dirty::DirtyMap;

/// Bytes that are compared, and found to be zero, as one.
pub const BLOCK_BYTES: u64 = 64 * 1024;
/// Of a block that differs, bytes that are compared as one.
pub const PAGE_BYTES: u64 = 4096;

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
    /// What the receiver has of it already.
    pub known: Known,
    /// What of it is to be read; `None`: all.
    pub part: Option<Arc<DirtyMap>>,
}

impl BaseVolume {
    /// What has to be looked at; `None`: all.
    pub(crate) fn looked_at(&self) -> Option<Arc<DirtyMap>> {
        match &self.known {
            Known::AllBut(ranges) => Some(Arc::new(blocks_of(ranges))),
            Known::Nothing | Known::Compare | Known::Unknown => self.part.clone(),
        }
    }

    /// Bytes that have to be looked at.
    pub(crate) fn to_read_bytes(&self) -> u64 {
        let size = self.size.bytes();
        let Some(part) = self.looked_at() else { return size };
        let tail =
            part.next(size / BLOCK_BYTES * BLOCK_BYTES, BLOCK_BYTES).map_or(0, |run| run.end.saturating_sub(size));
        part.bytes() - tail.min(part.bytes())
    }
}

/// What a receiver has of a volume from before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// Nothing at all: all that is not zero is sent. Wrong if the order has any record of the volume from before, or changes were
    /// missed since: what was written then and is zero now would come back.
    Nothing,
    /// Its view at a place in the order, from which on no change was missed: blocks are sent if they differ from it; parts of
    /// one, and short runs of dirty ones, in any case.
    Compare,
    /// All but these bytes, in order and apart: what differs there is sent, the rest is not looked at.
    AllBut(Arc<[Range<u64>]>),
    /// Nothing that could be asked for: all is sent, zeroes too.
    Unknown,
}

/// All blocks that these bytes touch.
fn blocks_of(ranges: &[Range<u64>]) -> DirtyMap {
    let mut blocks = DirtyMap::default();
    for range in ranges {
        let start = range.start / BLOCK_BYTES * BLOCK_BYTES;
        let length = range.end.next_multiple_of(BLOCK_BYTES).saturating_sub(start);
        Extent::of_bytes(start, length).into_iter().for_each(|extent| blocks.mark(extent));
    }
    blocks
}

/// What was asked for; it waits until that is there.
pub type Answer<T> = Box<dyn FnOnce() -> Result<T> + Send>;

/// What the receiver's view at the place of comparison holds. A hash is BLAKE3; `None`: there are zeroes, or the view ends before.
pub trait Hashes: Send {
    /// Asks for that of each block of [`BLOCK_BYTES`] of `extent`, which starts at a block and has at most 16 MiB. The last block of a
    /// volume may be shorter.
    fn blocks(&mut self, volume: VolumeNo, extent: Extent) -> Result<Answer<Vec<Option<Hash>>>>;

    /// Asks for those of each page of [`PAGE_BYTES`] of these blocks, one block's after the other's; `None`: the receiver cannot tell.
    /// They are in order, at most 16, and only the last may be shorter, or end within a page.
    fn pages(&mut self, volume: VolumeNo, blocks: &[Extent]) -> Result<Answer<Option<Vec<Option<Hash>>>>>;
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
