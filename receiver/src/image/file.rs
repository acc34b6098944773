//! One image file: raw, sparse, and remembered well enough to notice a foreign hand.

use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use journal::disk::Direct;
use journal::types::Extent;
use rustix::fs::FallocateFlags;
use serde::{Deserialize, Serialize};

use crate::error::{Code, Error, Result};

/// What a file looked like when we last touched it. Any write through any door changes ctime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Seen {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// An open image, locked.
#[derive(Debug)]
pub(crate) struct ImageFile {
    path: PathBuf,
    file: File,
    direct: Direct,
    created: bool,
    writable: bool,
}

impl ImageFile {
    /// Opens it for writing, or makes an empty one, for the owner only.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let failed = |error: io::Error| cannot("open", path, error);
        let created = match std::fs::symlink_metadata(path) {
            Ok(found) if !found.is_file() => {
                let message = format!("{} is not a file: move it away", path.display());
                return Err(Error::new(Code::TARGET_EXISTS, message));
            }
            Ok(_) => {
                std::fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(failed)?;
                false
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => return Err(failed(error)),
        };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(created).mode(0o600).custom_flags(NOFOLLOW);
        let file = options.open(path).map_err(failed)?;
        let image = Self { path: path.to_owned(), file, direct: Direct::new(true), created, writable: true };
        image.lock(false)?;
        Ok(image)
    }

    /// Opens one that is held, to keep it locked, and leaves it as it is; `None` if it is not there.
    pub(crate) fn hold(path: &Path) -> Result<Option<Self>> {
        let file = match OpenOptions::new().read(true).custom_flags(NOFOLLOW).open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|error| cannot("open", path, error))?,
        };
        let image = Self { path: path.to_owned(), file, direct: Direct::new(false), created: false, writable: false };
        image.lock(true)?;
        Ok(Some(image))
    }

    /// Whether it was not there before, and nothing was written to it but by us.
    pub(crate) fn is_created(&self) -> bool {
        self.created
    }

    /// It is whole, and others may have seen it: what is in it has to be looked at from now on.
    pub(crate) fn set_whole(&mut self) {
        self.created = false;
    }

    /// Whether its name still leads to it.
    pub(crate) fn is_in_place(&self) -> bool {
        let inode = |found: std::fs::Metadata| (found.dev(), found.ino());
        let named = std::fs::symlink_metadata(&self.path).ok().map(inode);
        named.is_some() && named == self.file.metadata().ok().map(inode)
    }

    /// Whether it was opened for writing.
    pub(crate) fn is_writable(&self) -> bool {
        self.writable
    }

    /// The first range of data at or after `offset`, in bytes.
    pub(crate) fn next_data(&self, offset: u64) -> Result<Option<Range<u64>>> {
        Ok(journal::disk::next_data(&self.file, offset)?)
    }

    /// Fills `buf` from `offset`; zeroes beyond its end.
    pub(crate) fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let mut filled = 0;
        while filled < buf.len() {
            match self.file.read_at(&mut buf[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed("read", error)),
            }
        }
        buf[filled..].fill(0);
        Ok(())
    }

    /// Writes `data` at `offset`.
    pub(crate) fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        let written = self.direct.write(&self.file, offset, &[IoSlice::new(data)]);
        written.map_err(|error| self.failed("write", error))
    }

    /// Makes a range read as zeroes and take no space, as far as the file system can.
    pub(crate) fn zero(&self, extent: Extent) -> Result<()> {
        zero(&self.file, extent).map_err(|error| self.failed("write", error))
    }

    /// Cuts it or lengthens it with zeroes, in bytes.
    pub(crate) fn set_len(&self, bytes: u64) -> Result<()> {
        self.file.set_len(bytes).map_err(|error| self.failed("set the length of", error))
    }

    /// Makes what was written durable.
    pub(crate) fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(|error| self.failed("sync", error))
    }

    /// Read-only while held at a point: nobody writes by mistake, and whoever locks what they write is refused.
    pub(crate) fn set_held(&self, held: bool) -> Result<()> {
        let mode = if held { 0o444 } else { 0o600 };
        self.file.set_permissions(Permissions::from_mode(mode)).map_err(|error| self.failed("change", error))?;
        self.lock(held)
    }

    /// Locks it, shared or for us alone, whichever way it was locked before.
    pub(crate) fn lock(&self, shared: bool) -> Result<()> {
        let locked = if shared { self.file.try_lock_shared() } else { self.file.try_lock() };
        match locked {
            Ok(()) => Ok(()),
            Err(TryLockError::WouldBlock) => {
                let message = format!("the image {} is locked by another process", self.path.display());
                Err(Error::new(Code::LOCKED, message).hint("stop whatever uses it"))
            }
            Err(TryLockError::Error(error)) => Err(self.failed("lock", error)),
        }
    }

    fn failed(&self, doing: &str, error: io::Error) -> Error {
        cannot(doing, &self.path, error)
    }
}

fn cannot(doing: &str, path: &Path, error: io::Error) -> Error {
    Error::from(error).context(format!("cannot {doing} the image {}", path.display()))
}

/// `O_NOFOLLOW`: a link put in the image's place is not written through.
const NOFOLLOW: i32 = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();

impl Seen {
    /// What a file looks like now; `None` if it is not there. By name: what was put in its place is what others see.
    pub(crate) fn look(path: &Path) -> Result<Option<Self>> {
        match std::fs::symlink_metadata(path) {
            Ok(found) => Ok(Some(Self::of(&found))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(cannot("look at", path, error)),
        }
    }

    /// Its length, in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    fn of(metadata: &std::fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// Makes a range of a file or device read as zeroes: a hole where that works, else zeroes.
pub(crate) fn zero(file: &File, extent: Extent) -> io::Result<()> {
    static ZEROES: [u8; 64 * 1024] = [0; 64 * 1024];
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    if rustix::fs::fallocate(file, flags, extent.byte(), extent.bytes()).is_ok() {
        return Ok(());
    }
    let sectors = u64::try_from(ZEROES.len()).unwrap_or(0) / journal::types::SECTOR_BYTES;
    for piece in extent.chunks(sectors) {
        let len = usize::try_from(piece.bytes()).unwrap_or(ZEROES.len());
        file.write_all_at(&ZEROES[..len.min(ZEROES.len())], piece.byte())?;
    }
    Ok(())
}
