//! One small io_uring per thread: submit several reads at once, and wait for all of them.
//!
//! A batch of a client's requests has a thread of its own already, and its buffers stay borrowed while the kernel uses them. Only reads: a
//! buffered write is a copy, which ext4 hands to a kernel thread when it comes through io_uring, and so is every fsync.

#![expect(unsafe_code, reason = "the kernel is handed pointers to the caller's buffers")]

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use io_uring::types::Fd;
use io_uring::{IoUring, Probe, opcode, squeue};
use nbd::Transfer;

/// Reads in flight of one call, at most.
const ENTRIES: u32 = 32;

/// Fails where the kernel has no io_uring, forbids it, or lacks the operation used here.
pub(super) fn check() -> io::Result<()> {
    let ring = new_ring()?;
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    match probe.is_supported(opcode::Read::CODE) {
        true => Ok(()),
        false => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// Performs the reads of `batch`, all at the same time, once each; how many bytes of each are there. What is left, and why, is
/// for the caller to find out.
pub(super) fn read(file: impl AsFd, batch: &mut [Transfer<'_>]) -> Vec<usize> {
    let file = Fd(file.as_fd().as_raw_fd());
    let mut done = vec![0; batch.len()];
    let reads = batch.iter_mut().zip(&mut done).filter_map(|(one, done)| match one {
        Transfer::Read { offset, buffer } => {
            let length = u32::try_from(buffer.len()).unwrap_or(1 << 30);
            Some((opcode::Read::new(file, buffer.as_mut_ptr(), length).offset(*offset).build(), done))
        }
        Transfer::Write { .. } => None,
    });
    let (entries, mut done_of): (Vec<_>, Vec<_>) = reads.unzip();
    // One alone is an ordinary call.
    if entries.len() > 1 {
        for (entries, done) in entries.chunks(ENTRIES as usize).zip(done_of.chunks_mut(ENTRIES as usize)) {
            // SAFETY: what `batch` refers to is borrowed exclusively, and `file` open, until `complete` returns.
            if unsafe { complete(entries, done) }.is_err() {
                break;
            }
        }
    }
    done
}

fn new_ring() -> io::Result<IoUring> {
    // The thread waits for its completions itself, and is woken once for all: no interrupt, no other submitter. Older kernels
    // do not know the flags.
    let builder = &mut IoUring::builder();
    builder.setup_single_issuer().setup_defer_taskrun().build(ENTRIES).or_else(|_| IoUring::new(ENTRIES))
}

thread_local! {
    static RING: RefCell<Option<IoUring>> = const { RefCell::new(None) };
}

/// Runs reads on this thread's ring, waits for all of them and says in `done` how many bytes of each are there.
///
/// # Safety
/// What `entries` point to stays valid, and their files open, until this returns.
unsafe fn complete(entries: &[squeue::Entry], done: &mut [&mut usize]) -> io::Result<()> {
    RING.with_borrow_mut(|slot| {
        let mut ring = match slot.take() {
            Some(ring) => ring,
            None => new_ring()?,
        };
        for (entry, number) in entries.iter().zip(0..) {
            // SAFETY: the caller's promise, and this returns only when the kernel is done with the entries or never took one.
            unsafe { ring.submission().push(&entry.clone().user_data(number)) }.map_err(io::Error::other)?;
        }
        let mut left = entries.len();
        let mut submitted = false;
        while left > 0 {
            match ring.submit_and_wait(left) {
                Ok(_) => submitted = true,
                Err(error) if is_busy(&error) || submitted => std::thread::yield_now(),
                // The kernel took nothing. The entries die with the ring, which is not put back.
                Err(error) => return Err(error),
            }
            for completed in ring.completion() {
                let number = usize::try_from(completed.user_data()).unwrap_or(usize::MAX);
                *done[number] = usize::try_from(completed.result()).unwrap_or(0);
                left -= 1;
            }
        }
        *slot = Some(ring);
        Ok(())
    })
}

fn is_busy(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY))
}
