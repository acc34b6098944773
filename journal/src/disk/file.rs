//! Files through plain `pread`, `pwritev` and `fdatasync`: works everywhere, and faults can be injected from outside.

use std::fs::{self, DirBuilder};
use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Advice, AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};

use super::direct::Direct;
use super::{Disk, File, Handle, Open, Poison, Reserve, bytes, check_name, is_name, total};
use crate::error::{Error, Result};

/// A directory of a real file system.
#[derive(Debug)]
pub struct FileDisk {
    dir: OwnedFd,
    path: PathBuf,
    poison: Poison,
    reserve: Option<Arc<Reserve>>,
}

impl FileDisk {
    /// Opens a directory that exists.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_owned();
        let dir = open_dir(&path)?;
        Ok(Self { dir: dir.into(), path, poison: Poison::default(), reserve: None })
    }

    /// What finds no space here is written with this reserve.
    #[must_use]
    pub fn with_reserve(self, reserve: Option<Arc<Reserve>>) -> Self {
        Self { reserve, ..self }
    }

    /// Opens a directory; creates it, and the missing ones above it, durably. New ones are for the owner only.
    pub fn create(path: impl AsRef<Path>) -> Result<Self> {
        let path = std::path::absolute(path)?;
        create_dir(&path)?;
        Self::open(path)
    }

    /// Keeps other processes, and other `FileDisk`s of this one, from locking the directory while this one lives.
    ///
    /// Fails at once as [`ErrorKind::Locked`](crate::error::ErrorKind::Locked) when one of them has it.
    pub fn lock(&self) -> Result<()> {
        match retry_on_intr(|| rustix::fs::flock(&self.dir, FlockOperation::NonBlockingLockExclusive)) {
            Ok(()) => Ok(()),
            Err(Errno::WOULDBLOCK) => Err(Error::locked("in use by another process").with_path(&self.path)),
            Err(errno) => Err(Error::from(errno).context("cannot lock").with_path(&self.path)),
        }
    }

    /// Opens a file as its own type, for those that build on this one.
    pub fn open_file(&self, name: &str, mode: Open) -> Result<PlainFile> {
        check_name(name)?;
        let flags = match mode {
            Open::Existing => OFlags::RDWR,
            Open::ReadOnly => OFlags::RDONLY,
            Open::CreateNew => OFlags::RDWR | OFlags::CREATE | OFlags::EXCL,
        };
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = with(self.reserve.as_deref(), || {
            retry_on_intr(|| rustix::fs::openat(&self.dir, name, flags, Mode::RUSR | Mode::WUSR))
                .map_err(|errno| self.failed(errno, "cannot open", name))
        })?;
        let path = self.path.join(name);
        let direct = Direct::new(mode != Open::ReadOnly);
        let file = PlainFile { fd, direct, path, handle: Handle::new(mode), reserve: self.reserve.clone() };
        if mode == Open::Existing {
            file.forget_cache()?;
        }
        Ok(file)
    }

    fn failed(&self, errno: Errno, doing: &'static str, name: &str) -> Error {
        Error::from(errno).context(doing).with_path(self.path.join(name))
    }
}

impl Disk for FileDisk {
    fn open(&self, name: &str, mode: Open) -> Result<Arc<dyn File>> {
        Ok(Arc::new(self.open_file(name, mode)?))
    }

    fn list(&self) -> Result<Vec<String>> {
        let failed = |errno| self.failed(errno, "cannot list", "");
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            // Some file systems do not say the type here; a directory among them fails when it is opened.
            if entry.file_type().is_dir() {
                continue;
            }
            names.extend(entry.file_name().to_str().ok().filter(|name| is_name(name)).map(str::to_owned));
        }
        names.sort_unstable();
        Ok(names)
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        check_name(from)?;
        check_name(to)?;
        with(self.reserve.as_deref(), || {
            rustix::fs::renameat(&self.dir, from, &self.dir, to)
                .map_err(|errno| self.failed(errno, "cannot rename", from))
        })
    }

    fn remove(&self, name: &str) -> Result<()> {
        check_name(name)?;
        rustix::fs::unlinkat(&self.dir, name, AtFlags::empty())
            .map_err(|errno| self.failed(errno, "cannot remove", name))
    }

    fn sync_dir(&self) -> Result<()> {
        self.poison
            .guard(|| Ok(retry_on_intr(|| rustix::fs::fsync(&self.dir))?))
            .map_err(|error| error.context("cannot sync the directory").with_path(&self.path))
    }
}

/// One open file of a [`FileDisk`].
#[derive(Debug)]
pub struct PlainFile {
    fd: OwnedFd,
    direct: Direct,
    path: PathBuf,
    pub(super) handle: Handle,
    reserve: Option<Arc<Reserve>>,
}

impl PlainFile {
    /// Whether large writes go past the page cache, where the file system can. They do, unless told otherwise.
    pub fn set_bypass(&self, bypass: bool) {
        self.direct.set_for_writes(bypass);
    }

    /// Lets what is read from now on come from the disk. After a failed fdatasync the page cache shows, as clean, what the disk does
    /// not have, also to the next process; recovery must not build on that.
    fn forget_cache(&self) -> Result<()> {
        retry_on_intr(|| rustix::fs::fdatasync(&self.fd)).map_err(|errno| self.failed(errno, "cannot sync"))?;
        rustix::fs::fadvise(&self.fd, 0, None, Advice::DontNeed).map_err(|errno| self.failed(errno, "cannot advise"))
    }

    pub(super) fn failed(&self, error: impl Into<Error>, doing: &'static str) -> Error {
        error.into().context(doing).with_path(&self.path)
    }
}

impl AsFd for PlainFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl File for PlainFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let failed = |error: std::io::Error| self.failed(error, "cannot read").with_offset(offset);
        let mut done = self.direct.read(&self.fd, offset, buf).map_err(failed)?;
        while done < buf.len() {
            let at = offset.saturating_add(bytes(done));
            let count = retry_on_intr(|| rustix::io::pread(&self.fd, &mut buf[done..], at))
                .map_err(|errno| self.failed(errno, "cannot read").with_offset(at))?;
            if count == 0 {
                break;
            }
            done += count;
        }
        Ok(done)
    }

    fn write_at(&self, offset: u64, bufs: &[IoSlice<'_>]) -> Result<()> {
        self.handle
            .check_write(offset, total(bufs))
            .and_then(|()| with(self.reserve.as_deref(), || Ok(self.direct.write(&self.fd, offset, bufs)?)))
            .map_err(|error| self.failed(error, "cannot write").with_offset(offset))
    }

    fn sync(&self) -> Result<()> {
        self.handle
            .poison
            .guard(|| Ok(retry_on_intr(|| rustix::fs::fdatasync(&self.fd))?))
            .map_err(|error| self.failed(error, "cannot sync"))
    }

    fn len(&self) -> Result<u64> {
        let stat = rustix::fs::fstat(&self.fd).map_err(|errno| self.failed(errno, "cannot stat"))?;
        u64::try_from(stat.st_size).map_err(|_| Error::corrupt("negative length").with_path(&self.path))
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.handle
            .check_write(len, 0)
            .and_then(|()| {
                with(self.reserve.as_deref(), || Ok(retry_on_intr(|| rustix::fs::ftruncate(&self.fd, len))?))
            })
            .map_err(|error| self.failed(error, "cannot set the length"))
    }
}

/// With the reserve, if there is one, when there is no space.
fn with<T>(reserve: Option<&Reserve>, mut write: impl FnMut() -> Result<T>) -> Result<T> {
    match reserve {
        Some(reserve) => reserve.with(write),
        None => write(),
    }
}

fn open_dir(path: &Path) -> Result<fs::File> {
    fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY)
        .open(path)
        .map_err(|error| Error::from(error).context("cannot open the directory").with_path(path))
}

/// Creates `path` and what is missing above it, each made durable in its parent before anything is put inside.
fn create_dir(path: &Path) -> Result<()> {
    let Some(parent) = path.parent() else { return Ok(()) };
    let failed = |error| Error::from(error).context("cannot create the directory").with_path(path);
    if path.is_dir() {
        // An earlier run of ours may have been killed before it got to this. A parent that we may not read is not ours.
        return open_dir(parent).map_or(Ok(()), |parent| parent.sync_all()).map_err(failed);
    }
    create_dir(parent)?;
    match DirBuilder::new().mode(0o700).create(path) {
        // Another process was faster.
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && path.is_dir() => {}
        other => other.map_err(failed)?,
    }
    open_dir(parent)?.sync_all().map_err(failed)
}
