//! Room that is kept for what has to be written although the disk is full: a file that holds it, and is emptied when it is needed.
//!
//! ```text
//!   whole ──a write finds no space──▶ given back ──there is room again──▶ whole
//! ```
//!
//! While it is given back, whoever writes much asks first ([`Reserve::has_room_for`]): half of it is for what cannot wait.
//! Nothing of this has to survive a crash: what the file holds is looked up when it is opened.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{FallocateFlags, fallocate, fstatvfs, ftruncate};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::geteuid;

use crate::error::{Error, ErrorKind, Result};

/// What is kept: manifests, catalogs, notes and the ends of segments are some kilobytes each.
pub const RESERVE_BYTES: u64 = 16 << 20;
/// It is taken again when so much is left besides: somebody is making room, it must not be taken away from them.
const BESIDES_BYTES: u64 = 16 << 20;
/// Room that another has just given back is tried as well.
const SOME_BYTES: u64 = 1 << 20;
/// What ext4 keeps for itself, and gives to nobody, but counts as free for the superuser: a fiftieth of all blocks, of which `f_blocks` lacks
/// what the file system takes, or so many.
const OWN_PART: u64 = 40;
const OWN_BLOCKS: u64 = 4096;
const NAME: &str = "reserve";

/// The reserve of one directory, and of all that are on the same file system.
#[derive(Debug)]
pub struct Reserve {
    file: File,
    /// Where it is: of a directory file systems say what its quota leaves, of a file they do not.
    dir: File,
    path: PathBuf,
    is_whole: Mutex<bool>,
}

impl Reserve {
    /// Finds what is there, and takes what is missing if there is room. A file system that cannot keep room has none.
    ///
    /// # Errors
    /// If there cannot even be an empty file.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join(NAME);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        let file = options.open(&path).map_err(|error| failed(error, &path))?;
        let dir = File::open(dir).map_err(|error| failed(error, &path))?;
        let reserve = Self { file, dir, path, is_whole: Mutex::new(false) };
        *reserve.lock() = reserve.holds()? >= RESERVE_BYTES;
        reserve.tend()?;
        Ok(reserve)
    }

    /// Whether nothing of it is in use.
    pub fn is_whole(&self) -> bool {
        *self.lock()
    }

    /// Whether what is left is for what cannot wait: it was given back, and there is no more than it was.
    pub fn is_in_use(&self) -> bool {
        !self.is_whole() && self.free_bytes().is_some_and(|free| free < RESERVE_BYTES)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs what has to be written; if there is no space for it, once more with the reserve.
    pub(super) fn with<T>(&self, mut write: impl FnMut() -> Result<T>) -> Result<T> {
        match write() {
            Err(error) if error.kind() == ErrorKind::NoSpace && self.give_back() => write(),
            written => written,
        }
    }

    /// Whether so much may be written by somebody who can wait.
    pub fn has_room_for(&self, bytes: u64) -> bool {
        let kept = if self.is_whole() { RESERVE_BYTES } else { 0 };
        // Who cannot even ask is told by the write.
        self.free_bytes().is_none_or(|free| free.saturating_add(kept) >= bytes.saturating_add(RESERVE_BYTES / 2))
    }

    /// Takes it again if there is room; whether that is news.
    ///
    /// # Errors
    /// If it could not be looked at; not if there is no room.
    pub fn tend(&self) -> Result<bool> {
        let mut is_whole = self.lock();
        if *is_whole || self.free_bytes().is_none_or(|free| free < RESERVE_BYTES + BESIDES_BYTES) {
            return Ok(false);
        }
        match retry_on_intr(|| fallocate(&self.file, FallocateFlags::empty(), 0, RESERVE_BYTES)) {
            Ok(()) => *is_whole = true,
            // Half of it is none.
            Err(Errno::NOSPC | Errno::DQUOT | Errno::OPNOTSUPP) => self.empty()?,
            Err(errno) => return Err(failed(errno, &self.path)),
        }
        Ok(*is_whole)
    }

    /// Whether there is room now that was not there.
    fn give_back(&self) -> bool {
        let mut is_whole = self.lock();
        if *is_whole {
            *is_whole = false;
            return self.empty().is_ok();
        }
        self.free_bytes().is_some_and(|free| free >= SOME_BYTES)
    }

    fn empty(&self) -> Result<()> {
        retry_on_intr(|| ftruncate(&self.file, 0)).map_err(|errno| failed(errno, &self.path))
    }

    /// Bytes that the file takes on the disk.
    fn holds(&self) -> Result<u64> {
        let meta = self.file.metadata().map_err(|error| failed(error, &self.path))?;
        Ok(meta.blocks().saturating_mul(512).min(meta.len()))
    }

    /// Bytes that are free on its file system, for its directory; `None`: nobody can tell.
    pub fn free_bytes(&self) -> Option<u64> {
        let found = fstatvfs(&self.dir).ok()?;
        // What a file system keeps for the superuser is there for him.
        let held = found.f_bfree.saturating_sub(found.f_bavail);
        let own = held.min(OWN_BLOCKS).min(found.f_blocks / OWN_PART);
        let blocks = if geteuid().is_root() { found.f_bfree - own.min(found.f_bfree) } else { found.f_bavail };
        Some(blocks.saturating_mul(found.f_frsize))
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.is_whole.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn failed(error: impl Into<Error>, path: &Path) -> Error {
    error.into().context("cannot keep a reserve").with_path(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_given_back_once_and_taken_again() {
        let dir = tempfile::tempdir().unwrap();
        let reserve = Reserve::open(dir.path()).unwrap();
        assert!(reserve.is_whole() && reserve.has_room_for(1));
        assert!(reserve.holds().unwrap() >= RESERVE_BYTES);
        let mut tries = 0;
        let full = reserve.with(|| {
            tries += 1;
            if reserve.is_whole() { Err(Error::no_space("full")) } else { Ok(reserve.holds().unwrap()) }
        });
        assert_eq!((full.unwrap(), tries, reserve.is_whole()), (0, 2, false));
        assert!(reserve.tend().unwrap() && reserve.is_whole());
        assert!(!reserve.tend().unwrap(), "no news");
        // Anything else is not its affair.
        let failed = reserve.with(|| Err::<(), _>(Error::invalid("wrong")));
        assert!(failed.is_err() && reserve.is_whole());
    }

    /// A quota that is used up on a disk that has room: what is given back may not help, and that is an answer.
    #[test]
    fn what_giving_it_back_does_not_mend_is_told_once_more() {
        let dir = tempfile::tempdir().unwrap();
        let reserve = Reserve::open(dir.path()).unwrap();
        for _ in 0..2 {
            let mut tries = 0;
            let refused = reserve.with(|| {
                tries += 1;
                Err::<(), _>(std::io::Error::from_raw_os_error(libc::EDQUOT).into())
            });
            assert_eq!((refused.unwrap_err().kind(), tries, reserve.is_whole()), (ErrorKind::NoSpace, 2, false));
        }
        assert!(reserve.tend().unwrap(), "the disk has room");
    }

    #[test]
    fn what_a_crash_left_is_found() {
        let dir = tempfile::tempdir().unwrap();
        drop(Reserve::open(dir.path()).unwrap());
        let reserve = Reserve::open(dir.path()).unwrap();
        assert!(reserve.is_whole());
        let _ = reserve.with(|| if reserve.is_whole() { Err(Error::no_space("full")) } else { Ok(()) });
        drop(reserve);
        // A length alone is no room.
        let path = dir.path().join(NAME);
        OpenOptions::new().write(true).open(&path).unwrap().set_len(RESERVE_BYTES).unwrap();
        let reserve = Reserve::open(dir.path()).unwrap();
        assert!(reserve.is_whole() && reserve.holds().unwrap() >= RESERVE_BYTES, "there was room to take it");
    }
}
