//! What a writable view has of its own: a file without a name, so that nothing of it outlives this process.
//!
//! ```text
//!   read   ── block written? ──▶ scratch ── discarded? ──▶ zeroes ── else ──▶ what lies below
//!   write  ── room? ── slots ── rest of the first and last block from below ── data ── then the map
//! ```
//!
//! It costs no `fdatasync`: a machine that goes down takes the view with it.
//!
//! **Invariant:** a slot that some reader may still read is not given to another block: readers hold the map while they read slots.

use std::fs::{self, File};
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use std::os::unix::fs::{FileExt, OpenOptionsExt};

use rustix::fs::{FallocateFlags, fallocate, fstatvfs};

use super::blocks::{BLOCK_BYTES, BlockMap, Full, Piece, Place};
use crate::error::{Code, Error, Result};

/// What a scratch leaves free on its disk for what has to be kept: a twentieth, but no more than this.
const LEAVE_BYTES_MAX: u64 = 1 << 30;
const LEAVE_SHARE: u64 = 20;

/// What is read where nothing was changed.
pub trait Below {
    /// Its size in bytes: a multiple of 512.
    fn size_bytes(&self) -> u64;

    /// Fills `buf` with what is at `offset`; both any number of bytes, inside the size.
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()>;
}

/// The changes of a writable view. Shared by any number of threads.
#[derive(Debug)]
pub struct Scratch {
    file: File,
    map: RwLock<BlockMap>,
    /// One change at a time.
    writing: Mutex<()>,
}

impl Scratch {
    /// A new one in `dir`, of at most so many bytes.
    pub fn new(dir: &Path, limit_bytes: u64) -> Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        fs::create_dir_all(dir)?;
        let path = dir.join(format!("{}.{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
        let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        fs::remove_file(&path)?;
        let map = BlockMap::new(limit_bytes / BLOCK_BYTES);
        Ok(Self { file, map: RwLock::new(map), writing: Mutex::new(()) })
    }

    /// Removes what a process left that was killed between making a file and taking its name.
    pub fn clear(dir: &Path) -> Result<()> {
        match fs::read_dir(dir) {
            Ok(entries) => entries.into_iter().try_for_each(|entry| Ok(fs::remove_file(entry?.path())?)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// How much of it is used, and how much there may be, in bytes.
    pub fn bytes(&self) -> (u64, u64) {
        let map = self.map();
        (map.used() * BLOCK_BYTES, map.limit() * BLOCK_BYTES)
    }

    /// Where the blocks are that hold these bytes.
    pub(super) fn pieces(&self, bytes: Range<u64>) -> Vec<Piece> {
        self.map().find(blocks_of(&bytes))
    }

    /// Fills `buf` with what the view holds at `offset` now.
    pub fn read(&self, below: &impl Below, offset: u64, buf: &mut [u8]) -> Result<()> {
        let asked = offset..offset + buf.len() as u64;
        let mut unchanged = Vec::new();
        {
            let map = self.map();
            for piece in map.find(blocks_of(&asked)) {
                let part = within(&asked, &piece.blocks);
                let target = &mut buf[index(part.start - offset)..index(part.end - offset)];
                match piece.place {
                    Place::View => unchanged.push(part),
                    Place::Zero => target.fill(0),
                    Place::Slot(slot) => {
                        let skipped = part.start - piece.blocks.start * BLOCK_BYTES;
                        self.file.read_exact_at(target, slot * BLOCK_BYTES + skipped)?;
                    }
                }
            }
        }
        for part in unchanged {
            below.read(part.start, &mut buf[index(part.start - offset)..index(part.end - offset)])?;
        }
        Ok(())
    }

    /// Writes `data` at `offset`. A write that fails may have changed part of it.
    pub fn write(&self, below: &impl Below, offset: u64, data: &[u8]) -> Result<()> {
        let _alone = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        self.write_alone(below, offset, data)
    }

    /// Makes `length` bytes at `offset` zero. Blocks that are zero as a whole take no room.
    pub fn zero(&self, below: &impl Below, offset: u64, length: u64) -> Result<()> {
        let _alone = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let end = offset + length;
        let whole = self.whole_blocks(below, offset..end);
        if whole.is_empty() {
            return self.zero_part(below, offset..end);
        }
        self.zero_part(below, offset..whole.start * BLOCK_BYTES)?;
        self.zero_part(below, (whole.end * BLOCK_BYTES).min(end)..end)?;
        self.drop_blocks(whole)
    }

    /// Forgets `length` bytes at `offset`: blocks that are covered as a whole read as zeroes then.
    pub fn trim(&self, below: &impl Below, offset: u64, length: u64) -> Result<()> {
        let _alone = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        self.drop_blocks(self.whole_blocks(below, offset..offset + length))
    }

    /// The blocks that lie in these bytes as a whole; the volume's last one may be short.
    fn whole_blocks(&self, below: &impl Below, bytes: Range<u64>) -> Range<u64> {
        let size = below.size_bytes();
        let end = if bytes.end == size { size.div_ceil(BLOCK_BYTES) } else { bytes.end / BLOCK_BYTES };
        bytes.start.div_ceil(BLOCK_BYTES)..end
    }

    fn drop_blocks(&self, blocks: Range<u64>) -> Result<()> {
        if blocks.is_empty() {
            return Ok(());
        }
        let left = {
            let mut map = self.map_mut();
            map.check_room(1).map_err(|Full| self.full())?;
            map.put(blocks, Place::Zero)
        };
        for slots in left {
            self.release(slots);
        }
        Ok(())
    }

    /// Less than two blocks: they are written, unless all of it is zero already.
    fn zero_part(&self, below: &impl Below, bytes: Range<u64>) -> Result<()> {
        static ZEROES: [u8; 8192] = [0; 8192];
        if bytes.is_empty() {
            return Ok(());
        }
        if self.pieces(bytes.clone()).iter().all(|piece| piece.place == Place::Zero) {
            return Ok(());
        }
        self.write_alone(below, bytes.start, &ZEROES[..index(bytes.end - bytes.start)])
    }

    fn write_alone(&self, below: &impl Below, offset: u64, data: &[u8]) -> Result<()> {
        let bytes = offset..offset + data.len() as u64;
        let pieces = self.pieces(bytes.clone());
        let is_new = |piece: &&Piece| !matches!(piece.place, Place::Slot(_));
        let new: u64 = pieces.iter().filter(is_new).map(|piece| piece.blocks.end - piece.blocks.start).sum();
        let mut slots = if new > 0 {
            self.check_disk(new * BLOCK_BYTES)?;
            self.map_mut().take(new, pieces.len()).map_err(|Full| self.full())?
        } else {
            Vec::new()
        };
        let taken = slots.clone();
        let mut placed = Vec::new();
        let change = Change { scratch: self, bytes, data };
        let written = pieces.iter().try_for_each(|piece| match piece.place {
            Place::Slot(slot) => change.overwrite(piece, slot),
            _ => change.copy(below, piece, &mut slots, &mut placed),
        });
        if let Err(error) = written {
            taken.into_iter().for_each(|slots| self.release(slots));
            return Err(error);
        }
        let mut map = self.map_mut();
        for (blocks, slot) in placed {
            map.put(blocks, Place::Slot(slot));
        }
        Ok(())
    }

    /// These slots hold nothing any more. Where the file system can, their space is free again, too.
    fn release(&self, slots: Range<u64>) {
        let (start, length) = (slots.start * BLOCK_BYTES, (slots.end - slots.start) * BLOCK_BYTES);
        let _ = fallocate(&self.file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, start, length);
        self.map_mut().give_back(slots);
    }

    /// What comes from the agent goes first: a scratch leaves room for it.
    fn check_disk(&self, more: u64) -> Result<()> {
        let disk = fstatvfs(&self.file)?;
        let (free, all) = (disk.f_bavail.saturating_mul(disk.f_frsize), disk.f_blocks.saturating_mul(disk.f_frsize));
        let leave = (all / LEAVE_SHARE).min(LEAVE_BYTES_MAX);
        if free < leave.saturating_add(more) {
            let message = format!("the scratch leaves {leave} bytes of the store's disk free, and {free} are left");
            return Err(Error::new(Code::NO_SPACE, message));
        }
        Ok(())
    }

    fn full(&self) -> Error {
        Error::new(Code::NO_SPACE, "the scratch is full").hint("a larger one: --scratch-size")
    }

    fn map(&self) -> RwLockReadGuard<'_, BlockMap> {
        self.map.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn map_mut(&self) -> RwLockWriteGuard<'_, BlockMap> {
        self.map.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A write under way.
struct Change<'a> {
    scratch: &'a Scratch,
    bytes: Range<u64>,
    data: &'a [u8],
}

impl Change<'_> {
    /// Into blocks that are the view's own already.
    fn overwrite(&self, piece: &Piece, slot: u64) -> Result<()> {
        let part = within(&self.bytes, &piece.blocks);
        self.put(&part, slot * BLOCK_BYTES + (part.start - piece.blocks.start * BLOCK_BYTES))
    }

    /// Into new ones, whole, with what was in the rest of the first and the last.
    fn copy(
        &self,
        below: &impl Below,
        piece: &Piece,
        slots: &mut Vec<Range<u64>>,
        placed: &mut Vec<(Range<u64>, u64)>,
    ) -> Result<()> {
        let mut blocks = piece.blocks.clone();
        while !blocks.is_empty() {
            let Some(range) = slots.first_mut() else { return Err(self.scratch.full()) };
            let count = (blocks.end - blocks.start).min(range.end - range.start);
            let (part, slot) = (blocks.start..blocks.start + count, range.start);
            range.start += count;
            if range.is_empty() {
                slots.remove(0);
            }
            self.fill(below, piece.place, &part, slot)?;
            blocks.start += count;
            placed.push((part, slot));
        }
        Ok(())
    }

    fn fill(&self, below: &impl Below, was: Place, blocks: &Range<u64>, slot: u64) -> Result<()> {
        let (first, end) = (blocks.start * BLOCK_BYTES, (blocks.end * BLOCK_BYTES).min(below.size_bytes()));
        let part = within(&self.bytes, blocks);
        for rest in [first..part.start, part.end..end] {
            if rest.is_empty() {
                continue;
            }
            let mut bytes = vec![0; index(rest.end - rest.start)];
            if was == Place::View {
                below.read(rest.start, &mut bytes)?;
            }
            self.scratch.file.write_all_at(&bytes, slot * BLOCK_BYTES + (rest.start - first))?;
        }
        self.put(&part, slot * BLOCK_BYTES + (part.start - first))
    }

    fn put(&self, part: &Range<u64>, at: u64) -> Result<()> {
        let data = &self.data[index(part.start - self.bytes.start)..index(part.end - self.bytes.start)];
        Ok(self.scratch.file.write_all_at(data, at)?)
    }
}

/// The blocks that hold any of these bytes.
fn blocks_of(bytes: &Range<u64>) -> Range<u64> {
    if bytes.is_empty() {
        return 0..0;
    }
    bytes.start / BLOCK_BYTES..bytes.end.div_ceil(BLOCK_BYTES)
}

/// The bytes that lie in these blocks.
fn within(bytes: &Range<u64>, blocks: &Range<u64>) -> Range<u64> {
    bytes.start.max(blocks.start * BLOCK_BYTES)..bytes.end.min(blocks.end * BLOCK_BYTES)
}

/// An offset within a caller's buffer.
fn index(bytes: u64) -> usize {
    usize::try_from(bytes).expect("what is in memory is indexed by usize")
}

#[cfg(test)]
#[path = "scratch_tests.rs"]
mod tests;
