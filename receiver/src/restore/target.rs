//! Where an image may be written, and how it gets there: a new file appears whole under its name, or not at all.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, IoSlice, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use journal::disk::Direct;
use journal::types::{Extent, Sectors};
use rustix::fs::{CWD, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::error::{Code, Error, Result};
use crate::image::zero;

/// What is at a path.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    File,
    Device,
}

/// A place that an image is being written to.
#[derive(Debug)]
pub(super) struct Target {
    path: PathBuf,
    file: File,
    direct: Direct,
    /// A new file's name until it is whole; `None` for a device.
    part: Option<PathBuf>,
    force: bool,
}

/// Whether `size` bytes may be written to `path`, without changing anything.
pub(super) fn check(path: &Path, size: Sectors, force: bool, store: &Path) -> Result<()> {
    match look(path, force, store)? {
        Found::Nothing => {}
        Found::File => drop(unused_file(path)?),
        Found::Device => drop(open_device(path, size)?),
    }
    Ok(())
}

impl Target {
    /// Opens it, after the same checks.
    pub(super) fn create(path: &Path, size: Sectors, force: bool, store: &Path) -> Result<Self> {
        let found = look(path, force, store)?;
        if found == Found::Device {
            let file = open_device(path, size)?;
            return Ok(Self { path: path.to_owned(), file, direct: Direct::new(true), part: None, force });
        }
        let mode =
            if found == Found::File { unused_file(path)?.metadata()?.permissions().mode() & 0o777 } else { 0o600 };
        let unique = journal::types::Hash::of(&link::random::<16>()).to_string();
        let part = directory(path).join(format!(".backspool-{unique:.16}.part"));
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).mode(0o600).open(&part).map_err(|error| {
            Error::from(error).context(format!("cannot create a file in {}", directory(path).display()))
        })?;
        let target = Self { path: path.to_owned(), file, direct: Direct::new(true), part: Some(part), force };
        target.file.set_permissions(Permissions::from_mode(mode)).map_err(|error| target.failed(error))?;
        target.file.set_len(size.bytes()).map_err(|error| target.failed(error))?;
        Ok(target)
    }

    /// Whether what is not written reads as zeroes.
    pub(super) fn is_fresh(&self) -> bool {
        self.part.is_some()
    }

    /// Writes `data` at `offset`: past the page cache where it is large, for a page's first touch costs more than all else.
    pub(super) fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.direct.write(&self.file, offset, &[IoSlice::new(data)]).map_err(|error| self.failed(error))
    }

    /// Makes a range of a device read as zeroes.
    pub(super) fn zero(&self, extent: Extent) -> Result<()> {
        zero(&self.file, extent).map_err(|error| self.failed(error))
    }

    /// Makes it durable. A new file gets its name now:
    ///
    /// 1. fdatasync of its contents
    /// 2. the name, in one step
    /// 3. fsync of the directory
    pub(super) fn commit(mut self) -> Result<()> {
        self.file.sync_all().map_err(|error| self.failed(error))?;
        let Some(part) = self.part.take() else { return Ok(()) };
        let result = self.name(&part);
        if result.is_err() {
            // It failed already; what is left over is only in the way.
            let _ = fs::remove_file(&part);
        }
        result?;
        let dir = directory(&self.path);
        let synced = File::open(dir).and_then(|dir| dir.sync_all());
        synced.map_err(|error| Error::from(error).context(format!("cannot sync {}", dir.display())))
    }

    fn name(&self, part: &Path) -> Result<()> {
        let flags = if self.force { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
        match rustix::fs::renameat_with(CWD, part, CWD, &self.path, flags) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => Err(exists(&self.path)),
            // Some file systems cannot promise that nothing is replaced.
            Err(Errno::INVAL) if !self.path.exists() => Ok(rustix::fs::renameat(CWD, part, CWD, &self.path)?),
            Err(errno) => Err(self.failed(errno.into())),
        }
    }

    fn failed(&self, error: io::Error) -> Error {
        Error::from(error).context(format!("cannot write {}", self.path.display()))
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Some(part) = &self.part {
            // Not whole: nothing is left of it.
            let _ = fs::remove_file(part);
        }
    }
}

fn look(path: &Path, force: bool, store: &Path) -> Result<Found> {
    if !path.is_absolute() || path.file_name().is_none() {
        return Err(Error::usage(format!("{} is not an absolute path of a file", path.display())));
    }
    let dir = directory(path)
        .canonicalize()
        .map_err(|error| Error::from(error).context(format!("the directory of {} is not there", path.display())))?;
    let inside = |path: &Path| store.canonicalize().is_ok_and(|store| path.starts_with(store));
    if inside(&dir) || path.canonicalize().is_ok_and(|path| inside(&path)) {
        return Err(Error::usage(format!("{} is inside the store", path.display())));
    }
    let kind = match fs::metadata(path) {
        Ok(metadata) => metadata.file_type(),
        // A link to nowhere is there all the same.
        Err(error) if error.kind() == io::ErrorKind::NotFound && fs::symlink_metadata(path).is_err() => {
            return Ok(Found::Nothing);
        }
        Err(error) => return Err(Error::from(error).context(format!("cannot look at {}", path.display()))),
    };
    match () {
        () if kind.is_file() && force => Ok(Found::File),
        () if kind.is_block_device() && force => Ok(Found::Device),
        () if kind.is_file() || kind.is_block_device() => Err(exists(path)),
        () => Err(Error::usage(format!("{} is neither a file nor a block device", path.display()))),
    }
}

/// An existing file that nobody is using, as far as one can see: no lock on it, no loop device on it.
fn unused_file(path: &Path) -> Result<File> {
    let file =
        File::open(path).map_err(|error| Error::from(error).context(format!("cannot open {}", path.display())))?;
    // Shared is enough: whoever writes to it has it locked for himself.
    match file.try_lock_shared() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(in_use(path, "another process has it locked")),
        Err(TryLockError::Error(error)) => return Err(error.into()),
    }
    match loop_device(path) {
        Some(device) => Err(in_use(path, &format!("{device} stands on it"))),
        None => Ok(file),
    }
}

/// The loop device that stands on this file.
pub(super) fn loop_device(path: &Path) -> Option<String> {
    let path = path.canonicalize().ok()?;
    fs::read_dir("/sys/block").ok()?.flatten().find_map(|entry| {
        let backing = fs::read_to_string(entry.path().join("loop/backing_file")).ok()?;
        let name = entry.file_name().to_string_lossy().into_owned();
        (Path::new(backing.trim_end_matches('\n')) == path).then_some(name)
    })
}

/// For us alone: the kernel refuses that while it is mounted, swapped to, or part of another device.
pub(super) fn open_device(path: &Path, size: Sectors) -> Result<File> {
    let flags = OFlags::EXCL.bits().cast_signed();
    let opened = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path);
    let mut file = opened.map_err(|error| match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::BUSY) => in_use(path, "it is mounted or used by another device"),
        _ => Error::from(error).context(format!("cannot open {}", path.display())),
    })?;
    let room = file.seek(SeekFrom::End(0))?;
    if room < size.bytes() {
        let message = format!("{} holds {room} bytes, {} are needed", path.display(), size.bytes());
        return Err(Error::new(Code::TOO_SMALL, message));
    }
    Ok(file)
}

fn exists(path: &Path) -> Error {
    Error::new(Code::TARGET_EXISTS, format!("{} exists", path.display()))
        .hint("choose another, or say --force to overwrite it")
}

pub(super) fn in_use(path: &Path, why: &str) -> Error {
    Error::new(Code::TARGET_IN_USE, format!("{} is in use: {why}", path.display())).hint("choose another target")
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| *parent != OsStr::new("")).unwrap_or_else(|| Path::new("/"))
}
