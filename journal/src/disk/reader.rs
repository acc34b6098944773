//! Bulk reads of a live source: `O_DIRECT`, many in flight, into a fixed pool of buffers.
//!
//! ```text
//!   submit ──▶ in flight (≤ depth) ──wait──▶ Completion{ Block } ──drop──▶ free ─┐
//!      ▲                                                                        │
//!      └──────────────────────── the pool: `buffers` of `buffer_len` ◀──────────┘
//! ```
//!
//! `O_DIRECT` is not a choice: a buffered read of a mounted device can return old data even after an fsync.
//!
//! **Invariant:** each buffer is free, in flight, or in one [`Block`]: what the kernel writes to, nobody else can see.

#![expect(unsafe_code, reason = "the kernel is handed pointers into the pool")]

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use io_uring::types::Fd;
use io_uring::{IoUring, opcode};
use rustix::fs::{SeekFrom, seek};

use super::uring::{is_busy, new_ring, to_result};
use super::{AlignedBuf, bytes, is_interrupted};
use crate::error::{Error, Result};

/// What every device accepts as alignment of places and lengths, in bytes.
const ALIGN: usize = 4096;

/// How much a [`DirectReader`] does at once. Memory: `buffers * buffer_len`.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Buffers in all: in flight and in [`Block`]s that are still held.
    pub buffers: usize,
    /// Bytes in each: the longest read. A multiple of 4096; 1 MiB is fastest.
    pub buffer_len: usize,
    /// Reads in flight at most; 8 keep a disk busy.
    pub depth: u32,
}

/// Reads one file or device. Which read ends first is the disk's choice; what to do then is the caller's.
pub struct DirectReader {
    // Dropped in this order, after `drop` has waited: the ring before what it points to.
    ring: IoUring,
    file: File,
    pool: Arc<Pool>,
    /// What each buffer of the pool is being filled for.
    reads: Vec<Option<Read>>,
    in_flight: u32,
    depth: u32,
    /// Whether the pool is registered with the ring.
    fixed: bool,
    /// Bytes in the source when it was opened.
    len: u64,
}

#[derive(Clone, Copy)]
struct Read {
    tag: u64,
    offset: u64,
    /// Bytes asked for.
    want: usize,
    /// Bytes read so far.
    done: usize,
}

/// One read that has ended.
#[derive(Debug)]
pub struct Completion {
    /// As given to [`DirectReader::submit`].
    pub tag: u64,
    /// As given to [`DirectReader::submit`], in bytes.
    pub offset: u64,
    /// What was read, shorter than asked for only at the end of the source; or why it could not be.
    pub data: Result<Block>,
}

/// What one read brought. Its buffer is free again when this is dropped, on whatever thread that is.
pub struct Block {
    pool: Arc<Pool>,
    index: usize,
    len: usize,
}

struct Pool {
    memory: AlignedBuf,
    buffer_len: usize,
    free: Mutex<Vec<usize>>,
}

impl DirectReader {
    /// Opens a file or a block device. Unsupported if it refuses `O_DIRECT`, or the kernel io_uring.
    pub fn open(path: impl AsRef<Path>, shape: Shape) -> Result<Self> {
        let path = path.as_ref();
        Self::open_inner(path, shape).map_err(|error| error.context("cannot open the source").with_path(path))
    }

    fn open_inner(path: &Path, shape: Shape) -> Result<Self> {
        let Shape { buffers, buffer_len, depth } = shape;
        assert!(buffer_len > 0 && buffer_len.is_multiple_of(ALIGN), "{buffer_len} is no length for a buffer");
        assert!(depth > 0 && buffers > 0, "no reads of {buffers} buffers, {depth} in flight");
        let file = open_direct(path)?;
        let len = seek(&file, SeekFrom::End(0))?;
        let pool = Pool::new(buffers, buffer_len)?;
        let ring = new_ring(depth, &[opcode::Read::CODE, opcode::ReadFixed::CODE])?;
        let memory = libc::iovec { iov_base: pool.memory.as_mut_ptr().cast(), iov_len: pool.memory.len() };
        // Refused beyond RLIMIT_MEMLOCK: plain reads are about as fast.
        // SAFETY: the memory outlives the ring: the pool is dropped after it, or leaked.
        let fixed = unsafe { ring.submitter().register_buffers(&[memory]) }.is_ok();
        Ok(Self { ring, file, pool: Arc::new(pool), reads: vec![None; buffers], in_flight: 0, depth, fixed, len })
    }

    /// Bytes in the source when it was opened.
    pub fn source_len(&self) -> u64 {
        self.len
    }

    /// Reads in flight.
    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Starts to read `len` bytes, at most one buffer, at `offset`, a multiple of the device's block size (4096 always is).
    ///
    /// `false`, and nothing started, if there are `depth` reads in flight or no buffer is free.
    pub fn submit(&mut self, offset: u64, len: usize, tag: u64) -> bool {
        assert!(len <= self.pool.buffer_len, "{len} bytes asked for, a buffer has {}", self.pool.buffer_len);
        if self.in_flight == self.depth {
            return false;
        }
        let Some(index) = self.pool.take() else { return false };
        self.in_flight += 1;
        self.start(index, Read { tag, offset, want: len, done: 0 });
        // What the kernel does not take now, `wait` offers again.
        let _ = self.ring.submit();
        true
    }

    /// Waits until some read has ended; `None` if none is in flight. An error is the ring's, not of one read.
    pub fn wait(&mut self) -> Result<Option<Completion>> {
        loop {
            let ended = self.ring.completion().next().map(|entry| (entry.user_data(), entry.result()));
            if let Some((index, result)) = ended {
                let index = usize::try_from(index).expect("an index of `reads`");
                if let Some(completion) = self.end(index, to_result(result)) {
                    return Ok(Some(completion));
                }
            } else if self.in_flight == 0 {
                return Ok(None);
            } else {
                match self.ring.submit_and_wait(1) {
                    Ok(_) => {}
                    Err(error) if is_busy(&error) => std::thread::yield_now(),
                    Err(error) => return Err(Error::from(error).context("cannot wait for reads")),
                }
            }
        }
    }

    /// Queues what is still missing of `read`.
    fn start(&mut self, index: usize, read: Read) {
        self.reads[index] = Some(read);
        // To whole blocks, as O_DIRECT wants it: the end is cut off again, and the buffer has room.
        let len = read.want.next_multiple_of(ALIGN) - read.done;
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        // SAFETY: `done` is less than the length of buffer `index`.
        let target = unsafe { self.pool.buffer(index).add(read.done) };
        let (fd, offset) = (Fd(self.file.as_raw_fd()), read.offset.saturating_add(bytes(read.done)));
        let entry = if self.fixed {
            opcode::ReadFixed::new(fd, target, len, 0).offset(offset).build()
        } else {
            opcode::Read::new(fd, target, len).offset(offset).build()
        };
        // SAFETY: buffer `index` is in flight, so that nobody else has it, until `end`; the pool and the file outlive the
        // ring, and `drop` waits.
        unsafe { self.ring.submission().push(&entry.user_data(bytes(index))) }.expect("the ring has room for `depth`");
    }

    /// Takes the result of a read; `None` if it goes on.
    fn end(&mut self, index: usize, result: io::Result<usize>) -> Option<Completion> {
        let mut read = self.reads[index].take().expect("a read that ended was in flight");
        match result {
            Ok(count) => {
                read.done += count;
                // Nothing: the source has been cut since it was opened.
                let at_end = count == 0 || read.offset.saturating_add(bytes(read.done)) >= self.len;
                if read.done < read.want && !at_end {
                    self.start(index, read);
                    return None;
                }
            }
            Err(error) if is_interrupted(&error) => {
                self.start(index, read);
                return None;
            }
            Err(_) => {}
        }
        self.in_flight -= 1;
        // From here the buffer is free again when `block` is dropped.
        let block = Block { pool: Arc::clone(&self.pool), index, len: read.done.min(read.want) };
        let failed = |error| Error::from(error).context("cannot read the source").with_offset(read.offset);
        Some(Completion { tag: read.tag, offset: read.offset, data: result.map(|_| block).map_err(failed) })
    }
}

impl Drop for DirectReader {
    fn drop(&mut self) {
        while self.in_flight > 0 {
            if self.wait().is_err() {
                // The kernel may go on writing to the pool: it must never be used for anything else.
                std::mem::forget(Arc::clone(&self.pool));
                break;
            }
        }
    }
}

impl AsFd for DirectReader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl fmt::Debug for DirectReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirectReader")
            .field("file", &self.file)
            .field("in_flight", &self.in_flight)
            .finish_non_exhaustive()
    }
}

impl Deref for Block {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: buffer `index` belongs to this block alone, `len` is at most its length, and it was zeroed once.
        unsafe { std::slice::from_raw_parts(self.pool.buffer(self.index), self.len) }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.pool.free().push(self.index);
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Block({} bytes)", self.len)
    }
}

impl Pool {
    fn new(buffers: usize, buffer_len: usize) -> Result<Self> {
        let len = buffers.checked_mul(buffer_len).ok_or_else(|| Error::invalid("a pool beyond the address space"))?;
        let mut memory = AlignedBuf::new(len)?;
        memory.touch();
        Ok(Self { memory, buffer_len, free: Mutex::new((0..buffers).collect()) })
    }

    fn free(&self) -> std::sync::MutexGuard<'_, Vec<usize>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Option<usize> {
        self.free().pop()
    }

    /// The first byte of a buffer.
    fn buffer(&self, index: usize) -> *mut u8 {
        // SAFETY: indices come from `free`, where `new` put those that lie inside the memory.
        unsafe { self.memory.as_mut_ptr().add(index * self.buffer_len) }
    }
}

fn open_direct(path: &Path) -> Result<File> {
    // Before it is opened: opening a pipe would hang.
    let kind = std::fs::metadata(path)?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(Error::invalid("neither a regular file nor a block device"));
    }
    OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path).map_err(|error| match error.raw_os_error() {
        Some(libc::EINVAL) => Error::unsupported("its file system refuses O_DIRECT").with_source(error),
        _ => error.into(),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::disk::next_data;
    use crate::error::ErrorKind;

    const MIB: usize = 1 << 20;
    const SMALL: Shape = Shape { buffers: 4, buffer_len: 8192, depth: 2 };

    /// A directory that is not on tmpfs, whose O_DIRECT is not the real one.
    fn dir() -> tempfile::TempDir {
        tempfile::tempdir_in("/var/tmp").unwrap()
    }

    /// A file of `sectors` zeroed sectors and `data` at some places.
    fn source(dir: &tempfile::TempDir, sectors: u64, data: &[(u64, &[u8])]) -> std::path::PathBuf {
        let path = dir.path().join("source");
        let file = File::create(&path).unwrap();
        file.set_len(sectors * 512).unwrap();
        data.iter().for_each(|(offset, data)| file.write_all_at(data, *offset).unwrap());
        file.sync_all().unwrap();
        path
    }

    /// Reads `range` in pieces of 1 MiB; returns every block that is not all zeroes, and the bytes read.
    fn copy(reader: &mut DirectReader, range: std::ops::Range<u64>) -> (BTreeMap<u64, Vec<u8>>, u64) {
        let (mut next, mut total, mut blocks) = (range.start, 0, BTreeMap::new());
        loop {
            while next < range.end {
                let len = MIB.min(usize::try_from(range.end - next).unwrap());
                if !reader.submit(next, len, next / 512) {
                    break;
                }
                next += bytes(len);
            }
            let Some(Completion { tag, offset, data }) = reader.wait().unwrap() else { return (blocks, total) };
            assert_eq!(tag, offset / 512);
            let data = data.unwrap();
            total += bytes(data.len());
            if data.iter().any(|byte| *byte != 0) {
                blocks.insert(offset, data.to_vec());
            }
        }
    }

    #[test]
    fn a_sparse_file_of_odd_size_is_read_whole() {
        let dir = dir();
        let (sectors, tail) = (1_000_003, 1_000_003 * 512 - 512);
        let path = source(&dir, sectors, &[(0, &[1; 4096]), (300 << 20, &[2; 100]), (tail, &[3; 512])]);
        let mut reader = DirectReader::open(&path, Shape { buffers: 8, buffer_len: MIB, depth: 8 }).unwrap();
        assert_eq!(reader.source_len(), sectors * 512);
        let (all, total) = copy(&mut reader, 0..sectors * 512);
        assert_eq!(total, sectors * 512);
        let last = tail / bytes(MIB) * bytes(MIB);
        assert_eq!(all.keys().copied().collect::<Vec<_>>(), [0, 300 << 20, last]);
        assert_eq!((&all[&0][..4096], &all[&(300 << 20)][..100]), (&[1; 4096][..], &[2; 100][..]));
        assert_eq!(all[&last][usize::try_from(tail - last).unwrap()..], [3; 512]);

        // Only the data: the same is found, and hardly anything is read.
        let (mut at, mut found, mut read) = (0, BTreeMap::new(), 0);
        while let Some(range) = next_data(&reader, at).unwrap() {
            at = range.end;
            let (blocks, total) = copy(&mut reader, range);
            found.extend(blocks);
            read += total;
        }
        assert_eq!(found.values().flatten().map(|byte| u64::from(*byte)).sum::<u64>(), 4096 + 200 + 3 * 512);
        assert!(read < 1 << 20, "{read} bytes read");
    }

    #[test]
    fn it_is_full_when_depth_is_reached_or_buffers_are_held() {
        let dir = dir();
        let path = source(&dir, 64, &[(0, &[7; 64 * 512])]);
        let mut reader = DirectReader::open(path, SMALL).unwrap();
        assert!(reader.wait().unwrap().is_none());
        let mut held = Vec::new();
        for _ in 0..2 {
            assert!(reader.submit(0, 8192, 1) && reader.submit(8192, 8192, 2));
            assert!(!reader.submit(0, 8192, 3), "two in flight");
            held.extend([reader.wait().unwrap().unwrap(), reader.wait().unwrap().unwrap()]);
        }
        assert!(!reader.submit(0, 8192, 4), "four buffers held");
        assert!(reader.wait().unwrap().is_none());
        held.pop();
        assert!(reader.submit(0, 8192, 5));
        drop(reader);
        assert!(held.iter().all(|completion| completion.data.as_deref().unwrap() == [7; 8192]));
    }

    #[test]
    fn a_read_that_fails_says_so_and_the_others_go_on() {
        let dir = dir();
        let path = source(&dir, 64, &[(0, &[7; 64 * 512])]);
        let mut reader = DirectReader::open(&path, SMALL).unwrap();
        for _ in 0..10 {
            assert!(reader.submit(1, 4096, 1), "a failed read gives its buffer back");
            let failed = reader.wait().unwrap().unwrap();
            let error = failed.data.unwrap_err();
            assert_eq!((failed.tag, error.kind(), error.offset()), (1, ErrorKind::Invalid, Some(1)));
        }
        // Cut behind its back, in the middle of a sector.
        OpenOptions::new().write(true).open(&path).unwrap().set_len(8192 + 100).unwrap();
        for (offset, len) in [(0, 8192), (4096, 4196), (8192, 100), (16384, 0)] {
            assert!(reader.submit(offset, 8192, 0));
            assert_eq!(reader.wait().unwrap().unwrap().data.unwrap()[..], vec![7; len]);
        }
    }

    #[test]
    fn dropping_it_waits_for_what_is_in_flight() {
        let dir = dir();
        let path = source(&dir, 8192, &[(0, &[7; 4096])]);
        let mut reader = DirectReader::open(path, Shape { buffers: 4, buffer_len: MIB, depth: 4 }).unwrap();
        let pool = Arc::downgrade(&reader.pool);
        (0..4).for_each(|index| assert!(reader.submit(index * bytes(MIB), MIB, 0)));
        let first = reader.wait().unwrap().unwrap();
        drop(reader);
        assert_eq!(pool.upgrade().unwrap().free().len(), 3);
        drop(first);
        assert!(pool.upgrade().is_none());
    }

    #[test]
    fn what_is_no_source_is_refused() {
        let dir = dir();
        let open = |path: &Path| DirectReader::open(path, SMALL).expect_err("it has to fail").kind();
        assert_eq!(open(&dir.path().join("missing")), ErrorKind::NotFound);
        assert_eq!(open(dir.path()), ErrorKind::Invalid);
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
        assert_eq!(open(&pipe), ErrorKind::Invalid);
    }
}
