//! One small io_uring per thread: submit one operation, or several at once, and wait for all of them.
//!
//! A request of a client, or a batch of them, has a thread of its own already. As every call waits for its own completions, a
//! write and a later sync need no link, and buffers stay borrowed while the kernel uses them.

#![expect(unsafe_code, reason = "the kernel is handed pointers to the caller's buffers")]

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use io_uring::types::{Fd, FsyncFlags};
use io_uring::{IoUring, Probe, opcode, squeue};
use nbd::Transfer;

/// Operations of one call, at most.
pub(super) const ENTRIES: usize = RING_ENTRIES as usize;
const RING_ENTRIES: u32 = 32;

/// Fails where the kernel has no io_uring, forbids it, or lacks an operation used here.
pub(super) fn check() -> io::Result<()> {
    let ring = new_ring()?;
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    let needed = [opcode::Read::CODE, opcode::Write::CODE, opcode::Fsync::CODE];
    match needed.iter().all(|code| probe.is_supported(*code)) {
        true => Ok(()),
        false => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// Reads once; returns how many bytes.
pub(super) fn read(file: impl AsFd, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: `buffer` is borrowed exclusively, and `file` open, until `complete` returns.
    unsafe { complete(&read_entry(fd(&file), offset, buffer)) }
}

/// Writes once; returns how many bytes.
pub(super) fn write(file: impl AsFd, offset: u64, data: &[u8]) -> io::Result<usize> {
    // SAFETY: `data` is borrowed, and `file` open, until `complete` returns.
    unsafe { complete(&write_entry(fd(&file), offset, data)) }
}

/// Reads and writes once each, all at the same time; returns for each how many bytes.
///
/// # Panics
/// If there are more than [`ENTRIES`].
pub(super) fn transfer(file: impl AsFd, batch: &mut [Transfer<'_>]) -> io::Result<Vec<io::Result<usize>>> {
    let file = fd(&file);
    let entry = |one: &mut Transfer<'_>| match one {
        Transfer::Read { offset, buffer } => read_entry(file, *offset, buffer),
        Transfer::Write { offset, data } => write_entry(file, *offset, data),
    };
    let entries: Vec<_> = batch.iter_mut().map(entry).collect();
    // SAFETY: what `batch` refers to is borrowed, and `file` open, until `complete_all` returns.
    unsafe { complete_all(&entries) }
}

fn read_entry(file: Fd, offset: u64, buffer: &mut [u8]) -> squeue::Entry {
    opcode::Read::new(file, buffer.as_mut_ptr(), length(buffer)).offset(offset).build()
}

fn write_entry(file: Fd, offset: u64, data: &[u8]) -> squeue::Entry {
    opcode::Write::new(file, data.as_ptr(), length(data)).offset(offset).build()
}

/// `fdatasync`.
pub(super) fn sync(file: impl AsFd) -> io::Result<()> {
    let entry = opcode::Fsync::new(fd(&file)).flags(FsyncFlags::DATASYNC).build();
    // SAFETY: the entry points to no memory, and `file` is open until `complete` returns.
    unsafe { complete(&entry) }.map(|_| ())
}

fn fd(file: &impl AsFd) -> Fd {
    Fd(file.as_fd().as_raw_fd())
}

/// The kernel moves less than 2 GiB at once anyway.
fn length(buffer: &[u8]) -> u32 {
    u32::try_from(buffer.len()).unwrap_or(1 << 30)
}

fn new_ring() -> io::Result<IoUring> {
    // The thread waits for its completions itself, and is woken once for all: no interrupt, no other submitter. Older kernels
    // do not know the flags.
    let builder = &mut IoUring::builder();
    builder.setup_single_issuer().setup_defer_taskrun().build(RING_ENTRIES).or_else(|_| IoUring::new(RING_ENTRIES))
}

thread_local! {
    static RING: RefCell<Option<IoUring>> = const { RefCell::new(None) };
}

/// As [`complete_all`], for one operation.
///
/// # Safety
/// The same.
unsafe fn complete(entry: &squeue::Entry) -> io::Result<usize> {
    // SAFETY: the caller's promise.
    let mut results = unsafe { complete_all(std::slice::from_ref(entry)) }?;
    results.pop().unwrap_or_else(|| Err(io::Error::other("an operation without a result")))
}

/// Runs operations on this thread's ring and waits for all of their results.
///
/// # Safety
/// What `entries` point to stays valid, and their files open, until this returns.
unsafe fn complete_all(entries: &[squeue::Entry]) -> io::Result<Vec<io::Result<usize>>> {
    assert!(entries.len() <= ENTRIES, "more than the ring holds");
    RING.with_borrow_mut(|slot| {
        let mut ring = match slot.take() {
            Some(ring) => ring,
            None => new_ring()?,
        };
        for (entry, number) in entries.iter().zip(0..) {
            // SAFETY: the caller's promise, and this returns only when the kernel is done with the entries or never took one.
            unsafe { ring.submission().push(&entry.clone().user_data(number)) }.map_err(io::Error::other)?;
        }
        let mut results: Vec<_> = entries.iter().map(|_| Ok(0)).collect();
        let mut left = entries.len();
        let mut submitted = false;
        while left > 0 {
            match ring.submit_and_wait(left) {
                Ok(_) => submitted = true,
                Err(error) if is_busy(&error) || submitted => std::thread::yield_now(),
                // The kernel took nothing. The entries die with the ring, which is not put back.
                Err(error) => return Err(error),
            }
            for done in ring.completion() {
                let number = usize::try_from(done.user_data()).unwrap_or(usize::MAX);
                let result = done.result();
                results[number] =
                    usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(result.saturating_neg()));
                left -= 1;
            }
        }
        *slot = Some(ring);
        Ok(results)
    })
}

fn is_busy(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY))
}
