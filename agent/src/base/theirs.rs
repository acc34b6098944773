//! The hashes of the receiver's view, fetched in windows ahead of what is compared with them.

use std::ops::Range;

use journal::types::{Extent, Hash, VolumeNo};

use super::{BLOCK_BYTES, HASHES_MAX, Hashes};
use crate::{Error, Result};

/// Hashes fetched at once where there is data: 64 MiB of it.
const WINDOW_BLOCKS: u64 = 1024;

/// One volume of the receiver's view.
#[derive(Debug, Default)]
pub(super) struct Theirs {
    /// Bytes that `hashes` are of.
    window: Range<u64>,
    hashes: Vec<Option<Hash>>,
}

impl Theirs {
    /// The hashes of a range that starts at a block. Nothing from `end` on is asked for: whole blocks, or the volume's end.
    pub(super) fn of(
        &mut self,
        from: &mut dyn Hashes,
        volume: VolumeNo,
        end: u64,
        range: &Range<u64>,
    ) -> Result<Vec<Option<Hash>>> {
        if range.start < self.window.start || range.end > self.window.end {
            let blocks = (range.end - range.start).div_ceil(BLOCK_BYTES).clamp(WINDOW_BLOCKS, HASHES_MAX);
            let end = end.min(range.start + blocks * BLOCK_BYTES);
            let extent = Extent::of_bytes(range.start, end - range.start);
            let extent = extent.ok_or_else(|| Error::invalid("a range that is none"))?;
            let hashes = from.hashes(volume, extent)?;
            let expected = extent.bytes().div_ceil(BLOCK_BYTES);
            if crate::source::bytes(hashes.len()) != expected {
                let message = format!("{} hashes came, {expected} were asked for", hashes.len());
                return Err(Error::corrupt(message));
            }
            (self.window, self.hashes) = (range.start..end, hashes);
        }
        let first = blocks(range.start - self.window.start);
        let count = blocks((range.end - range.start).next_multiple_of(BLOCK_BYTES));
        Ok(self.hashes.get(first..first + count).unwrap_or_default().to_vec())
    }
}

fn blocks(bytes: u64) -> usize {
    usize::try_from(bytes / BLOCK_BYTES).unwrap_or(usize::MAX)
}
