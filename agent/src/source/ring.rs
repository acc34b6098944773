//! One small io_uring per thread: submit one operation, wait for it.
//!
//! A request of a client has a thread of its own already, so that there is nothing to overlap within one. As every call
//! waits for its own completion, a write and a later sync need no link, and buffers stay borrowed while the kernel uses them.

#![expect(unsafe_code, reason = "the kernel is handed pointers to the caller's buffers")]

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use io_uring::types::{Fd, FsyncFlags};
use io_uring::{IoUring, Probe, opcode, squeue};

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
    let entry = opcode::Read::new(fd(&file), buffer.as_mut_ptr(), length(buffer)).offset(offset).build();
    // SAFETY: `buffer` is borrowed exclusively, and `file` open, until `complete` returns.
    unsafe { complete(&entry) }
}

/// Writes once; returns how many bytes.
pub(super) fn write(file: impl AsFd, offset: u64, data: &[u8]) -> io::Result<usize> {
    let entry = opcode::Write::new(fd(&file), data.as_ptr(), length(data)).offset(offset).build();
    // SAFETY: `data` is borrowed, and `file` open, until `complete` returns.
    unsafe { complete(&entry) }
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
    // The thread waits for its completions itself: no interrupt, no other submitter. Older kernels do not know the flags.
    IoUring::builder().setup_single_issuer().setup_coop_taskrun().build(1).or_else(|_| IoUring::new(1))
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
            None => new_ring()?,
        };
        // SAFETY: the caller's promise, and this returns only when the kernel is done with the entry or never took it.
        unsafe { ring.submission().push(entry) }.map_err(io::Error::other)?;
        let mut submitted = false;
        let result = loop {
            match ring.submit_and_wait(1) {
                Ok(_) => submitted = true,
                Err(error) if is_busy(&error) || submitted => std::thread::yield_now(),
                // The kernel took nothing. The entry dies with the ring, which is not put back.
                Err(error) => return Err(error),
            }
            if let Some(done) = ring.completion().next() {
                break done.result();
            }
        };
        *slot = Some(ring);
        usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(result.saturating_neg()))
    })
}

fn is_busy(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY))
}
