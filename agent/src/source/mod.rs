//! The protected file or block device.
//!
//! Clients' I/O goes through the page cache, whose only user they are; a flush takes it to the disk. Whatever else reads a source (first
//! copy, comparison) does so with `O_DIRECT`, for which the kernel writes back what is in the cache first. Who may open a source,
//! and why not, is in `open`; whether anybody wrote to it while the agent was stopped, in `proof`.

mod identity;
mod open;
mod proof;
mod ring;
mod stack;
#[cfg(test)]
mod tests;

use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use journal::disk::{AlignedBuf, next_data};
use journal::types::{SECTOR_BYTES, Sectors};
use nbd::Transfer;
use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate};
use rustix::io::{Errno, retry_on_intr};

pub use identity::Identity;
pub use open::refuse_inside;
pub use proof::FileProof;

/// What the tap needs of a source: small, so that tests can put a faulty one in its place.
///
/// Offsets and lengths are bytes inside the size and multiples of [`block_bytes`](Self::block_bytes). After an error any part
/// of the range may have been changed.
pub trait Storage: Send + Sync + Debug {
    /// Size.
    fn size(&self) -> Sectors;

    /// The smallest request in bytes: a power of two, 512 to 4096.
    fn block_bytes(&self) -> u32;

    /// Fills `buffer`.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// Writes all of `data`.
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Performs all of `batch` as the two above would, in any order; its parts do not overlap. One outcome each.
    fn transfer(&self, batch: &mut [Transfer<'_>]) -> Vec<io::Result<()>> {
        let one = |one: &mut Transfer<'_>| match one {
            Transfer::Read { offset, buffer } => self.read_at(*offset, buffer),
            Transfer::Write { offset, data } => self.write_at(*offset, data),
        };
        batch.iter_mut().map(one).collect()
    }

    /// Makes what was written before durable.
    fn sync(&self) -> io::Result<()>;

    /// Gives the space back. `true`: it reads as zeroes now; `false`: this source cannot, and nothing changed.
    fn discard(&self, offset: u64, length: u64) -> io::Result<bool>;

    /// Makes the range read as zeroes; with `keep_space` the space stays allocated.
    fn zero(&self, offset: u64, length: u64, keep_space: bool) -> io::Result<()>;

    /// Whether it ends before its size: somebody else cut it.
    fn was_cut(&self) -> bool {
        false
    }

    /// The first range of data at or after `offset`; the rest reads as zeroes.
    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>>;
}

/// An open source, held against every other agent, and a device against everybody who opens it exclusively.
#[derive(Debug)]
pub struct Source {
    /// Opened with `O_DIRECT`; holds the lock.
    file: File,
    /// The same, through the page cache.
    cached: File,
    path: PathBuf,
    /// In sectors: whoever owns it may change it while it is served.
    size: AtomicU64,
    /// What `O_DIRECT` asks of offsets and lengths, in bytes.
    block_bytes: u32,
    is_device: bool,
    /// A flush failed: nothing that a clean stop says of this source can be believed.
    flush_failed: AtomicBool,
}

impl Source {
    /// The name it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is a block device.
    pub fn is_device(&self) -> bool {
        self.is_device
    }

    /// Which file or device it is; `None`: nothing tells it from another.
    pub fn identity(&self) -> crate::Result<Option<Identity>> {
        if self.is_device {
            return Ok(Identity::of_device(&self.file.metadata()?));
        }
        Identity::of_file(&self.file).map(Some).map_err(|error| error.with_path(&self.path))
    }

    /// What its path leads to, if that is not it any more, for people.
    pub fn displaced(&self) -> Option<String> {
        let path = self.path.display();
        let goes_on = "what is written through the tap goes to the one that was opened, and is captured; put it back before the next start";
        match identity::leads_to(&self.path, &self.file) {
            Some(true) => None,
            Some(false) => Some(format!("{path} is another file or device now: {goes_on}")),
            None => Some(format!("{path} is no longer there: {goes_on}")),
        }
    }

    /// How large it is now, in whole sectors: somebody else may have changed that.
    pub fn measure(&self) -> crate::Result<Sectors> {
        let bytes = open::bytes_of(&self.file).map_err(|error| error.with_path(&self.path))?;
        Ok(Sectors::of_bytes(bytes / SECTOR_BYTES * SECTOR_BYTES).unwrap_or_default())
    }

    /// It is served with this size from now on.
    pub fn set_size(&self, size: Sectors) {
        self.size.store(size.count(), Ordering::Release);
    }

    /// A name of this very file or device, whatever its path means by now. Lives as long as this value.
    pub fn handle_path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }

    /// What will prove at the next start that nobody wrote in between. Waits until a later change must show in the file's
    /// times. `None` for a device, which keeps no such times, and after a failed flush.
    pub fn proof(&self) -> crate::Result<Option<FileProof>> {
        if self.is_device || self.flush_failed() {
            return Ok(None);
        }
        FileProof::take(&self.file).map(Some).map_err(|error| error.with_path(&self.path))
    }

    /// Whether a flush of it ever failed: a later one that works says nothing of what was written before.
    pub(crate) fn flush_failed(&self) -> bool {
        self.flush_failed.load(Ordering::Acquire)
    }

    /// Whether it is as it was when `proof` was taken.
    pub fn is_unchanged_since(&self, proof: &FileProof) -> crate::Result<bool> {
        let now = FileProof::look(&self.file).map_err(|error| error.with_path(&self.path))?;
        Ok(!self.is_device && now == *proof)
    }

    /// Makes what was written before durable, for the agent itself: a failure is still the clients' to hear of at their next flush, for
    /// the kernel tells each open file of it once.
    pub fn sync_aside(&self) -> io::Result<()> {
        self.synced(self.file.sync_data())
    }

    /// After a failure the cache shows, as clean, what the disk does not have; it must not get there later with the rest of a page.
    fn synced(&self, result: io::Result<()>) -> io::Result<()> {
        result.inspect_err(|_| {
            self.flush_failed.store(true, Ordering::Release);
            // Where that fails, each comparison does it again.
            let _ = fadvise(&self.cached, 0, None, Advice::DontNeed);
        })
    }

    fn fallocate(&self, how: FallocateFlags, offset: u64, length: u64) -> io::Result<bool> {
        match retry_on_intr(|| fallocate(&self.file, how | FallocateFlags::KEEP_SIZE, offset, length)) {
            Ok(()) => Ok(true),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NODEV) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl AsFd for Source {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Storage for Source {
    fn size(&self) -> Sectors {
        Sectors::new(self.size.load(Ordering::Acquire)).unwrap_or_default()
    }

    fn block_bytes(&self) -> u32 {
        self.block_bytes
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.cached.read_exact_at(buffer, offset)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.cached.write_all_at(data, offset)
    }

    /// Writes are copies into the page cache, one after the other. Reads may have to wait for the disk: all of them at once.
    fn transfer(&self, batch: &mut [Transfer<'_>]) -> Vec<io::Result<()>> {
        let read = ring::read(&self.cached, batch);
        let finish = |(one, read): (&mut Transfer<'_>, usize)| match one {
            Transfer::Read { offset, buffer } => self.read_at(*offset + bytes(read), &mut buffer[read..]),
            Transfer::Write { offset, data } => self.write_at(*offset, data),
        };
        batch.iter_mut().zip(read).map(finish).collect()
    }

    fn sync(&self) -> io::Result<()> {
        self.synced(self.cached.sync_data())
    }

    // `fallocate` means the same on a file and on a device: punched and zeroed ranges read as zeroes, or it is refused.
    fn discard(&self, offset: u64, length: u64) -> io::Result<bool> {
        self.fallocate(FallocateFlags::PUNCH_HOLE, offset, length)
    }

    fn zero(&self, offset: u64, length: u64, keep_space: bool) -> io::Result<()> {
        let done = (!keep_space && self.fallocate(FallocateFlags::PUNCH_HOLE, offset, length)?)
            || self.fallocate(FallocateFlags::ZERO_RANGE, offset, length)?;
        if done {
            return Ok(());
        }
        let zeroes = zeroes()?;
        let end = offset + length;
        (offset..end).step_by(zeroes.len()).try_for_each(|at| {
            let count = usize::try_from(end - at).map_or(zeroes.len(), |left| left.min(zeroes.len()));
            self.write_at(at, &zeroes[..count])
        })
    }

    fn was_cut(&self) -> bool {
        self.measure().is_ok_and(|now| now < self.size())
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        next_data(&self.file, offset).map_err(io::Error::other)
    }
}

/// A megabyte of nothing, for sources that cannot be told to be zero.
fn zeroes() -> io::Result<&'static AlignedBuf> {
    static ZEROES: OnceLock<AlignedBuf> = OnceLock::new();
    if let Some(zeroes) = ZEROES.get() {
        return Ok(zeroes);
    }
    let fresh = AlignedBuf::new(1 << 20).map_err(io::Error::other)?;
    Ok(ZEROES.get_or_init(|| fresh))
}

/// A length in memory as one on disk.
pub(crate) fn bytes(length: usize) -> u64 {
    u64::try_from(length).expect("a usize has at most 64 bits")
}
