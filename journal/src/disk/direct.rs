//! Large writes and reads, past the page cache.
//!
//! What is written once, made durable at once and perhaps never read again gains nothing from the page cache, and pays for it: a page that
//! was not in use costs several times the copy into it, and is written back all the same. So the middle of a large write, from
//! block boundary to block boundary, goes to the disk from a buffer of ours. Its ends go through the cache, as small writes do;
//! they never share a page with the middle.
//!
//! ```text
//!  │ page │ page │ page │ page │ page │ page │
//!      ├cached┤─────── direct ───────┤cached┤
//! ```
//!
//! A large read takes from the cache what is there, and does not bring there what is not.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, ReadWriteFlags};

use super::{AlignedBuf, bytes, is_interrupted, total, write_all};

/// The middle of a write starts and ends at multiples of this: pages, and blocks of every file system.
const ALIGN: u64 = 4096;
const ALIGN_BYTES: usize = 4096;
/// A middle of fewer bytes goes through the cache with the rest: waiting for the disk costs more than the copy.
const MIDDLE_BYTES_MIN: u64 = 56 * 1024;
/// A shorter read goes through the cache.
const READ_BYTES_MIN: usize = 64 * 1024;
/// Bytes written or read at a time: a huge page.
const BUFFER_BYTES: usize = 2 << 20;
/// Buffers kept for the next large write, of whichever file.
const BUFFERS_KEPT: usize = 4;

static BUFFERS: Mutex<Vec<AlignedBuf>> = Mutex::new(Vec::new());

/// A second way into a file, opened when it is first needed.
#[derive(Debug)]
pub struct Direct {
    access: OFlags,
    /// Whether writes may take it.
    for_writes: AtomicBool,
    /// `None`: its file system has no such way.
    fd: OnceLock<Option<OwnedFd>>,
}

impl Direct {
    /// For a file that is open for writing, or only for reading.
    pub fn new(writable: bool) -> Self {
        let access = if writable { OFlags::RDWR } else { OFlags::RDONLY };
        Self { access, for_writes: AtomicBool::new(true), fd: OnceLock::new() }
    }

    pub(super) fn set_for_writes(&self, for_writes: bool) {
        self.for_writes.store(for_writes, Ordering::Relaxed);
    }

    /// Writes all of `bufs` from `offset`, all of it through `cached`, the same file opened the ordinary way, where it is small.
    pub fn write(&self, cached: impl AsFd, offset: u64, bufs: &[IoSlice<'_>]) -> io::Result<()> {
        let end = offset + total(bufs);
        let middle = offset.next_multiple_of(ALIGN)..end / ALIGN * ALIGN;
        let through_cache =
            |at, bufs: &[IoSlice<'_>]| write_all(at, bufs, |at, part| Ok(rustix::io::pwritev(&cached, part, at)?));
        if middle.end.saturating_sub(middle.start) < MIDDLE_BYTES_MIN || !self.for_writes.load(Ordering::Relaxed) {
            return through_cache(offset, bufs);
        }
        let Some(direct) = self.open(&cached) else { return through_cache(offset, bufs) };
        let mut buffer = take_buffer()?;
        let mut rest = Gather { bufs, skip: 0 };
        let mut at = offset;
        while at < end {
            let is_middle = middle.contains(&at);
            let stop = if at < middle.start {
                middle.start
            } else if is_middle {
                middle.end
            } else {
                end
            };
            let count = usize::try_from(stop - at).map_or(BUFFER_BYTES, |count| count.min(BUFFER_BYTES));
            let part = &mut buffer[..count];
            rest.fill(part);
            let done = if is_middle { write_some(direct, at, part)? } else { 0 };
            // What the disk did not take as it is goes the ordinary way.
            through_cache(at + bytes(done), &[IoSlice::new(&part[done..])])?;
            at += bytes(count);
        }
        give_back(buffer);
        Ok(())
    }

    /// Reads what it can of a large `buf` from `offset` without filling the cache; how many bytes. The rest is for who asked to
    /// read the ordinary way.
    pub(super) fn read(&self, cached: impl AsFd, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        if buf.len() < READ_BYTES_MIN {
            return Ok(0);
        }
        // Where the kernel cannot tell what is in the cache, nothing is.
        let now = &mut [IoSliceMut::new(buf)];
        let mut done = rustix::io::preadv2(&cached, now, offset, ReadWriteFlags::NOWAIT).unwrap_or(0);
        if buf.len() - done < READ_BYTES_MIN {
            return Ok(done);
        }
        let Some(direct) = self.open(&cached) else { return Ok(done) };
        let mut buffer = take_buffer()?;
        while done < buf.len() {
            let at = offset + bytes(done);
            let before = usize::try_from(at % ALIGN).unwrap_or(0);
            let count = (buf.len() - done).min(BUFFER_BYTES - before);
            let whole = (before + count).next_multiple_of(ALIGN_BYTES);
            let got = read_some(direct, at - bytes(before), &mut buffer[..whole])?.saturating_sub(before).min(count);
            buf[done..done + got].copy_from_slice(&buffer[before..before + got]);
            done += got;
            if got < count {
                break;
            }
        }
        give_back(buffer);
        Ok(done)
    }

    fn open(&self, cached: impl AsFd) -> Option<&OwnedFd> {
        self.fd.get_or_init(|| reopen(cached, self.access)).as_ref()
    }
}

/// Writes once. 0 if such a write is not possible here: file systems differ in what they allow where.
fn write_some(direct: &OwnedFd, at: u64, part: &[u8]) -> io::Result<usize> {
    loop {
        match rustix::io::pwrite(direct, part, at) {
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(0),
            Err(errno) if is_interrupted(&errno.into()) => {}
            done => return Ok(done?),
        }
    }
}

/// Reads once. 0 at the end of the file, and if such a read is not possible here.
fn read_some(direct: &OwnedFd, at: u64, into: &mut [u8]) -> io::Result<usize> {
    loop {
        match rustix::io::pread(direct, &mut *into, at) {
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(0),
            Err(errno) if is_interrupted(&errno.into()) => {}
            done => return Ok(done?),
        }
    }
}

/// The same file, whatever its name is by now.
fn reopen(cached: impl AsFd, access: OFlags) -> Option<OwnedFd> {
    let path = format!("/proc/self/fd/{}", cached.as_fd().as_raw_fd());
    rustix::fs::open(path, access | OFlags::DIRECT | OFlags::CLOEXEC, Mode::empty()).ok()
}

fn take_buffer() -> io::Result<AlignedBuf> {
    let kept = BUFFERS.lock().unwrap_or_else(PoisonError::into_inner).pop();
    kept.map_or_else(|| AlignedBuf::new(BUFFER_BYTES).map_err(io::Error::other), Ok)
}

fn give_back(buffer: AlignedBuf) {
    let mut kept = BUFFERS.lock().unwrap_or_else(PoisonError::into_inner);
    if kept.len() < BUFFERS_KEPT {
        kept.push(buffer);
    }
}

/// What is left of several buffers.
struct Gather<'a> {
    bufs: &'a [IoSlice<'a>],
    /// Bytes of the first one that are gone.
    skip: usize,
}

impl Gather<'_> {
    /// Moves the next bytes into all of `part`.
    fn fill(&mut self, mut part: &mut [u8]) {
        while let Some(first) = self.bufs.first()
            && !part.is_empty()
        {
            let left = &first[self.skip..];
            let count = left.len().min(part.len());
            let (now, later) = part.split_at_mut(count);
            now.copy_from_slice(&left[..count]);
            part = later;
            self.skip += count;
            if self.skip == first.len() {
                (self.bufs, self.skip) = (&self.bufs[1..], 0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    /// Writes and reads of all lengths at all alignments, over each other, against plain memory. Where the directory for temporary
    /// files has no direct way, the same goes through the cache.
    #[test]
    fn what_is_written_past_the_cache_and_through_it_is_one_file() {
        let file = tempfile::tempfile().unwrap();
        let direct = Direct::new(true);
        let mut image: Vec<u8> = Vec::new();
        let mut random = 1u64;
        let mut below = |n: usize| {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            usize::try_from(random >> 33).unwrap() % n
        };
        for round in 0..300u64 {
            let length = 1 + below(if round % 3 == 0 { 3 << 20 } else { 70_000 });
            let at = if round % 5 == 0 { image.len() } else { below(image.len() + 1) };
            let data: Vec<u8> = (0..length).map(|n| (n as u64 * 31 + round).to_le_bytes()[0]).collect();
            let (first, rest) = data.split_at(below(length));
            let (second, third) = rest.split_at(rest.len() / 2);
            let bufs = [first, second, &[], third].map(IoSlice::new);
            direct.write(&file, bytes(at), &bufs).unwrap();
            image.resize(image.len().max(at + length), 0);
            image[at..at + length].copy_from_slice(&data);

            if round % 7 == 0 {
                // So that there is something that is not in the cache.
                file.sync_all().unwrap();
                rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
            }
            let from = below(image.len());
            let mut buf = vec![0xAA; 1 + below(3 << 20)];
            let done = direct.read(&file, bytes(from), &mut buf).unwrap();
            assert!(done <= image.len() - from && buf[..done] == image[from..from + done], "round {round}");
        }
        let mut all = vec![0; image.len()];
        file.read_exact_at(&mut all, 0).unwrap();
        assert!(all == image && file.metadata().unwrap().len() == bytes(image.len()));
    }
}
