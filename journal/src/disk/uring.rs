//! Files through io_uring: writes and syncs go through one small ring per thread, the rest as in [`FileDisk`].
//!
//! Every call waits for its own completion before it returns: a write and a later sync need no link or drain, and buffers
//! stay borrowed for as long as the kernel uses them.

#![expect(unsafe_code, reason = "the kernel is handed pointers to the caller's buffers")]

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use io_uring::types::{Fd, FsyncFlags};
use io_uring::{IoUring, Probe, opcode, squeue};

use super::file::PlainFile;
use super::{Disk, File, FileDisk, Open, is_interrupted, total, write_all};
use crate::error::{Error, Result};

/// What a kernel has to offer.
const OPCODES: [u8; 2] = [opcode::Writev::CODE, opcode::Fsync::CODE];

/// A directory of a real file system, written to through io_uring.
#[derive(Debug)]
pub struct UringDisk {
    plain: FileDisk,
}

impl UringDisk {
    /// Writes the files of `disk` through io_uring. Unsupported where the kernel has none, or forbids it: the caller may
    /// use `disk` as it is then.
    pub fn new(disk: FileDisk) -> Result<Self> {
        new_ring(1, &OPCODES)?;
        Ok(Self { plain: disk })
    }

    /// Whether [`new`](Self::new) would work here.
    pub fn available() -> bool {
        new_ring(1, &OPCODES).is_ok()
    }
}

impl Disk for UringDisk {
    fn open(&self, name: &str, mode: Open) -> Result<Arc<dyn File>> {
        Ok(Arc::new(UringFile { plain: self.plain.open_file(name, mode)? }))
    }

    fn list(&self) -> Result<Vec<String>> {
        self.plain.list()
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.plain.rename(from, to)
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.plain.remove(name)
    }

    fn sync_dir(&self) -> Result<()> {
        self.plain.sync_dir()
    }
}

/// One open file of a [`UringDisk`].
#[derive(Debug)]
struct UringFile {
    plain: PlainFile,
}

impl UringFile {
    fn fd(&self) -> Fd {
        Fd(self.plain.as_fd().as_raw_fd())
    }

    fn write_some(&self, offset: u64, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let count = u32::try_from(bufs.len()).map_err(io::Error::other)?;
        // `IoSlice` is an `iovec` by its documentation.
        let entry = opcode::Writev::new(self.fd(), bufs.as_ptr().cast(), count).offset(offset).build();
        // SAFETY: `bufs` and what they point to are borrowed until `complete` returns, and the file is open.
        unsafe { complete(&entry) }
    }

    fn sync_once(&self) -> io::Result<()> {
        let entry = opcode::Fsync::new(self.fd()).flags(FsyncFlags::DATASYNC).build();
        loop {
            // SAFETY: the entry points to no memory, and the file is open until `complete` returns.
            match unsafe { complete(&entry) } {
                Err(error) if is_interrupted(&error) => {}
                other => return other.map(|_| ()),
            }
        }
    }
}

impl File for UringFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.plain.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, bufs: &[IoSlice<'_>]) -> Result<()> {
        self.plain
            .handle
            .check_write(offset, total(bufs))
            .and_then(|()| Ok(write_all(offset, bufs, |at, part| self.write_some(at, part))?))
            .map_err(|error| self.plain.failed(error, "cannot write").with_offset(offset))
    }

    fn sync(&self) -> Result<()> {
        let sync = || Ok(self.sync_once()?);
        self.plain.handle.poison.guard(sync).map_err(|error| self.plain.failed(error, "cannot sync"))
    }

    fn len(&self) -> Result<u64> {
        self.plain.len()
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.plain.set_len(len)
    }
}

/// A ring for `depth` operations, if the kernel knows all of `opcodes`.
pub(super) fn new_ring(depth: u32, opcodes: &[u8]) -> Result<IoUring> {
    let unsupported = |error: io::Error| Error::unsupported("io_uring is not available").with_source(error);
    // Completions need no interrupt of a thread that is going to ask for them; older kernels do not know the flag.
    let ring = IoUring::builder().setup_coop_taskrun().build(depth).or_else(|_| IoUring::new(depth));
    let ring = ring.map_err(unsupported)?;
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(unsupported)?;
    match opcodes.iter().find(|code| !probe.is_supported(**code)) {
        None => Ok(ring),
        Some(code) => Err(Error::unsupported(format!("io_uring of this kernel lacks operation {code}"))),
    }
}

thread_local! {
    static RING: RefCell<Option<IoUring>> = const { RefCell::new(None) };
}

/// Runs one operation on this thread's ring and waits for its result.
///
/// # Safety
/// What `entry` points to stays valid, and its file open, until this returns.
unsafe fn complete(entry: &squeue::Entry) -> io::Result<usize> {
    RING.with_borrow_mut(|slot| {
        let mut ring = match slot.take() {
            Some(ring) => ring,
            None => new_ring(1, &[]).map_err(io::Error::other)?,
        };
        // SAFETY: the caller's promise, and this returns only when the kernel is done with the entry or never took it.
        unsafe { ring.submission().push(entry) }.map_err(io::Error::other)?;
        let mut submitted = false;
        let result = loop {
            match ring.submit_and_wait(1) {
                Ok(_) => submitted = true,
                Err(error) if is_busy(&error) => std::thread::yield_now(),
                // The kernel says so only when it took nothing. The entry dies with the ring, which is not put back.
                Err(error) if !submitted => return Err(error),
                // It has the entry, and uses what it points to: there is no way but to wait on.
                Err(_) => std::thread::yield_now(),
            }
            if let Some(done) = ring.completion().next() {
                break done.result();
            }
        };
        *slot = Some(ring);
        to_result(result)
    })
}

/// Whether a submission is to be tried again as it is.
pub(super) fn is_busy(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY))
}

/// The result of a completion: a count, or an errno below 0.
pub(super) fn to_result(result: i32) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(result.saturating_neg()))
}
