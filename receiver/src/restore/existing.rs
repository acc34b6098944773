//! An image that is already there and is changed in place: a regular file or a device that nobody else is using.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use journal::types::{Extent, Sectors};
use rustix::fs::OFlags;

use super::target::{in_use, loop_device, open_device};
use crate::error::{Code, Error, Result};
use crate::image::zero;

/// It stays locked until it is dropped.
#[derive(Debug)]
pub(super) struct Existing {
    path: PathBuf,
    file: File,
    /// Bytes that there are.
    length: u64,
    is_device: bool,
}

impl Existing {
    /// Opens what is at `path`, or where a link there leads. A file has to be as long as one of these two sizes, a device at least as
    /// long as both.
    pub(super) fn open(path: &Path, since: Sectors, at: Sectors, store: &Path) -> Result<Self> {
        if !path.is_absolute() {
            return Err(Error::usage(format!("{} is not an absolute path", path.display())));
        }
        let real = path.canonicalize().map_err(|error| {
            let missing = error.kind() == io::ErrorKind::NotFound;
            let error = Error::from(error).context(format!("no image at {}", path.display()));
            if missing { error.hint("without --since a new one is written") } else { error }
        })?;
        if store.canonicalize().is_ok_and(|store| real.starts_with(store)) {
            return Err(Error::usage(format!("{} is inside the store", path.display())));
        }
        let kind = fs::metadata(&real)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(Error::usage(format!("{} is neither a file nor a block device", path.display())));
        }
        let is_device = kind.is_block_device();
        let mut file = if is_device { open_device(&real, since.max(at))? } else { open_file(&real)? };
        let length = file.seek(SeekFrom::End(0))?;
        if !is_device && ![since.bytes(), at.bytes()].contains(&length) {
            let message = format!(
                "{} is not that image: it has {length} bytes, the volume had {}",
                path.display(),
                since.bytes()
            );
            return Err(Error::new(Code::OTHER_IMAGE, message).hint("--since says as of when it is"));
        }
        Ok(Self { path: path.to_owned(), file, length, is_device })
    }

    /// How many bytes it has.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Whether it may be longer than a volume, and keeps its length.
    pub(super) fn is_device(&self) -> bool {
        self.is_device
    }

    /// What it is called.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Fills `buf` from `offset`; zeroes beyond its end.
    pub(super) fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let mut filled = 0;
        while filled < buf.len() {
            match self.file.read_at(&mut buf[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::from(error).context(format!("cannot read {}", self.path.display()))),
            }
        }
        buf[filled..].fill(0);
        Ok(())
    }

    /// Writes `data` at `offset`.
    pub(super) fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.file.write_all_at(data, offset).map_err(|error| self.failed(error))
    }

    /// Makes a range read as zeroes.
    pub(super) fn zero(&self, extent: Extent) -> Result<()> {
        zero(&self.file, extent).map_err(|error| self.failed(error))
    }

    /// Lengthens a file with zeroes, or cuts it.
    pub(super) fn set_length(&self, bytes: u64) -> Result<()> {
        self.file.set_len(bytes).map_err(|error| self.failed(error))
    }

    /// Makes what was written durable.
    pub(super) fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(|error| self.failed(error))
    }

    fn failed(&self, error: io::Error) -> Error {
        Error::from(error).context(format!("cannot write {}", self.path.display()))
    }
}

/// A file for us alone, as far as one can see: nobody else has it locked, no loop device is on it.
fn open_file(path: &Path) -> Result<File> {
    let flags = OFlags::NOFOLLOW.bits().cast_signed();
    let opened = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path);
    let file = opened.map_err(|error| Error::from(error).context(format!("cannot open {}", path.display())))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(in_use(path, "another process has it locked")),
        Err(TryLockError::Error(error)) => return Err(error.into()),
    }
    match loop_device(path) {
        Some(device) => Err(in_use(path, &format!("{device} stands on it"))),
        None => Ok(file),
    }
}
