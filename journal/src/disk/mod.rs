//! Everything below the journal: one directory of flat files, on a real disk or a simulated one.
//!
//! Knows bytes, not records. What is durable when is part of the contract:
//!
//! | after | survives a power cut |
//! |---|---|
//! | [`File::write_at`], [`File::set_len`] | any part of it, in any order, or nothing |
//! | [`File::sync`] | every earlier completed write of that file, and its length |
//! | [`Disk::open`] with [`Open::CreateNew`], [`Disk::rename`], [`Disk::remove`] | whole or not at all |
//! | [`Disk::sync_dir`] | every earlier change of names |

mod buf;
mod direct;
mod durable;
mod file;
mod holes;
mod reader;
mod reserve;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
mod uring;

#[cfg(test)]
mod tests;

use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub use buf::AlignedBuf;
pub use direct::Direct;
pub use durable::{durable_rename, read_file, replace_file};
pub use file::{FileDisk, PlainFile};
pub use holes::next_data;
pub use reader::{Block, Completion, DirectReader, Shape};
pub use reserve::{RESERVE_BYTES, Reserve};
#[cfg(any(test, feature = "sim"))]
pub use sim::SimDisk;
pub use uring::UringDisk;

use crate::error::{Error, Result};

/// One open file. Offsets and lengths are bytes.
#[expect(clippy::len_without_is_empty, reason = "a file is not a collection, and len can fail")]
pub trait File: Send + Sync + Debug {
    /// Reads into `buf` from `offset`; returns how much, which is short only at the end of the file.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize>;

    /// Writes all of `bufs`, one after the other, from `offset`. After an error any part may have been written.
    fn write_at(&self, offset: u64, bufs: &[IoSlice<'_>]) -> Result<()>;

    /// Makes every write that completed before the call durable, and the length.
    ///
    /// The kernel forgets a failed write-back once it has reported it, and a second call would wrongly say that all is
    /// well. So after one failure this handle is poisoned for good: every later change of the file through it, and every
    /// later `sync`, is [`ErrorKind::Poisoned`](crate::error::ErrorKind::Poisoned).
    fn sync(&self) -> Result<()>;

    /// Length now.
    fn len(&self) -> Result<u64>;

    /// Cuts the file, or lengthens it with zeroes.
    fn set_len(&self, len: u64) -> Result<()>;

    /// Fills `buf` from `offset`, or fails as corrupt: the caller knows that these bytes were written once.
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let got = self.read_at(offset, buf)?;
        if got < buf.len() {
            let message = format!("the file ends {} bytes early", buf.len() - got);
            return Err(Error::corrupt(message).with_offset(offset));
        }
        Ok(())
    }
}

/// How to open a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// Read and write; it has to exist. What is read through any handle afterwards comes from the disk: a cache may still show what a
    /// failed sync has lost.
    Existing,
    /// Read only; it has to exist.
    ReadOnly,
    /// Read and write; it must not exist. The name is durable only after [`Disk::sync_dir`].
    CreateNew,
}

/// One directory of flat files. Names are ours, never a user's: letters, digits, `.`, `_`, `-`, no leading dot.
pub trait Disk: Send + Sync + Debug {
    /// Opens a file.
    fn open(&self, name: &str, mode: Open) -> Result<Arc<dyn File>>;

    /// The names of all files, sorted. Names that could not be ours are left out.
    fn list(&self) -> Result<Vec<String>>;

    /// Gives a file another name, replacing what had that name. Durable only after [`sync_dir`](Self::sync_dir).
    fn rename(&self, from: &str, to: &str) -> Result<()>;

    /// Removes a name. Durable only after [`sync_dir`](Self::sync_dir).
    fn remove(&self, name: &str) -> Result<()>;

    /// Makes earlier creations, renames and removals durable. Poisoned for good after one failure, as [`File::sync`].
    fn sync_dir(&self) -> Result<()>;
}

fn is_name(name: &str) -> bool {
    let ours = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=255).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(ours)
}

/// Refuses a name that could leave the directory, hide in it, or be none.
fn check_name(name: &str) -> Result<()> {
    if is_name(name) { Ok(()) } else { Err(Error::invalid(format!("not a name for a file of ours: {name:?}"))) }
}

/// Remembers that a write-back failed.
#[derive(Debug, Default)]
struct Poison(AtomicBool);

impl Poison {
    fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Acquire) {
            return Err(Error::poisoned("an earlier sync failed, what is on disk is unknown"));
        }
        Ok(())
    }

    /// Runs `sync` unless poisoned; poisons if it fails.
    fn guard(&self, sync: impl FnOnce() -> Result<()>) -> Result<()> {
        self.check()?;
        sync().inspect_err(|_| self.0.store(true, Ordering::Release))
    }
}

/// What every backend's handle refuses in the same way.
#[derive(Debug)]
struct Handle {
    writable: bool,
    poison: Poison,
}

impl Handle {
    fn new(mode: Open) -> Self {
        Self { writable: mode != Open::ReadOnly, poison: Poison::default() }
    }

    /// Whether `len` bytes may be written at `offset` through this handle.
    fn check_write(&self, offset: u64, len: u64) -> Result<()> {
        self.poison.check()?;
        if !self.writable {
            return Err(Error::invalid("the file is open for reading only"));
        }
        match offset.checked_add(len) {
            Some(end) if i64::try_from(end).is_ok() => Ok(()),
            _ => Err(Error::invalid("beyond the largest file")),
        }
    }
}

/// Bytes in `bufs`.
fn total(bufs: &[IoSlice<'_>]) -> u64 {
    bufs.iter().map(|buf| bytes(buf.len())).sum()
}

/// A length in memory as a length on disk.
fn bytes(len: usize) -> u64 {
    u64::try_from(len).expect("a usize has at most 64 bits")
}

/// Calls `write(offset, some of bufs)` until every byte is out: writes may be short, interrupted or cancelled.
fn write_all(
    mut offset: u64,
    mut bufs: &[IoSlice<'_>],
    mut write: impl FnMut(u64, &[IoSlice<'_>]) -> io::Result<usize>,
) -> io::Result<()> {
    /// The kernel's limit (UIO_MAXIOV).
    const MAX_BUFS: usize = 1024;
    // Bytes of `bufs[0]` that are out already.
    let mut skip = 0;
    loop {
        while let Some(first) = bufs.first()
            && skip >= first.len()
        {
            skip -= first.len();
            bufs = &bufs[1..];
        }
        let Some(first) = bufs.first() else { return Ok(()) };
        let tail = [IoSlice::new(&first[skip..])];
        let part = if skip == 0 { &bufs[..bufs.len().min(MAX_BUFS)] } else { &tail };
        match write(offset, part) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                offset += bytes(count);
                skip += count;
            }
            Err(error) if is_interrupted(&error) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Whether the call did nothing and may simply be made again.
fn is_interrupted(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::ECANCELED))
}
