//! How a source is read: past the page cache, many reads at a time; or as a test has it.

use std::ops::{Deref, Range};

use journal::disk::{DirectReader, Shape, next_data};
use rustix::fs::{Advice, fadvise};

use super::reader::PIECES;
use super::{BaseVolume, Known};
use crate::{Error, Result};

/// Reads of 1 MiB, 8 at a time: what keeps a disk busy. As many again may have ended before an earlier one did.
const SHAPE: Shape = Shape { buffers: PIECES, buffer_len: 1 << 20, depth: 8 };

/// What a read brought.
pub type Data = Box<dyn Deref<Target = [u8]> + Send>;
/// Opens a volume's source.
pub type Opener = Box<dyn Fn(&BaseVolume) -> Result<Box<dyn Reads>> + Send>;

/// Reads of one source, at most 16 of them not waited for yet. Which ends first is its choice.
pub trait Reads: Send {
    /// How long it is.
    fn len_bytes(&self) -> u64;

    /// The first range of data at or after a place; the rest reads as zeroes.
    fn next_data(&self, at: u64) -> Result<Option<Range<u64>>>;

    /// Whether another read may be submitted.
    fn has_room(&self) -> bool;

    /// Starts to read. False: there is no room.
    fn submit(&mut self, offset: u64, length: usize) -> bool;

    /// Waits until a read has ended: where it was, and what it brought; `None` if none is under way.
    fn wait(&mut self) -> Result<Option<(u64, Result<Data>)>>;
}

impl Reads for DirectReader {
    fn len_bytes(&self) -> u64 {
        self.source_len()
    }

    fn next_data(&self, at: u64) -> Result<Option<Range<u64>>> {
        next_data(self, at)
    }

    fn has_room(&self) -> bool {
        self.in_flight() < SHAPE.depth
    }

    fn submit(&mut self, offset: u64, length: usize) -> bool {
        Self::submit(self, offset, length, 0)
    }

    fn wait(&mut self) -> Result<Option<(u64, Result<Data>)>> {
        let ended = Self::wait(self)?;
        Ok(ended.map(|read| (read.offset, read.data.map(|block| Box::new(block) as Data))))
    }
}

/// With `O_DIRECT`, by its path.
pub(super) fn direct(volume: &BaseVolume) -> Result<Box<dyn Reads>> {
    let reader = DirectReader::open(&volume.path, SHAPE)?;
    if volume.known != Known::Nothing {
        // What a failed write-back left in the cache as clean must not get to the disk after it was read there.
        fadvise(&reader, 0, None, Advice::DontNeed).map_err(Error::from)?;
    }
    Ok(Box::new(reader))
}
