//! Opens a source, or says why it cannot be protected.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use journal::disk::AlignedBuf;
use journal::types::Sectors;
use rustix::fs::{AtFlags, FlockOperation, SeekFrom, StatxFlags, flock, seek, statx};
use rustix::io::Errno;

use super::stack::{self, Node};
use super::{Source, ring};
use crate::{Error, ErrorKind, Result};

const RETRIES: u32 = 50;
const RETRY_AFTER: Duration = Duration::from_millis(20);

impl Source {
    /// Opens the file or block device at `path` for the tap and keeps others away from it.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        open(path).map_err(|error| error.with_path(path))
    }
}

fn open(path: &Path) -> Result<Source> {
    // 1. What it is, before anything of it is opened: opening a tape or a FIFO has effects.
    let meta = fs::metadata(path).map_err(|error| Error::from(error).context("cannot find the source"))?;
    let kind = meta.file_type();
    let is_device = kind.is_block_device();
    if kind.is_dir() {
        return Err(Error::invalid("the source is a directory, not a file or block device"));
    }
    if !is_device && !kind.is_file() {
        return Err(Error::invalid("the source is neither a regular file nor a block device"));
    }
    // Root may write to it all the same, but whoever took the permission away meant it. And a device that is read-only opens for
    // writing, but takes none.
    if !is_device && meta.mode() & 0o222 == 0 {
        return Err(Error::invalid("the source is read-only"));
    }
    if is_device && stack::is_read_only(meta.rdev()) {
        return Err(Error::invalid("the source is a read-only device: it may not be written to"));
    }
    // 2. Open it, a device for us alone: the kernel refuses that while it, its disk or a partition is mounted or claimed.
    let file = patiently(|| open_direct(path, is_device))?;
    let again = file.metadata()?;
    if (again.dev(), again.ino()) != (meta.dev(), meta.ino()) {
        return Err(Error::unavailable("the source was replaced while it was opened"));
    }
    // 3. Nobody else may have it.
    if !is_device {
        patiently(|| lock(&file))?;
    }
    refuse_looped(&node_of(&meta))?;
    // 4. Its shape.
    let size = size_of(&file)?;
    ring::check().map_err(|error| Error::unsupported("io_uring is not available").with_source(error))?;
    let block_bytes = block_of(&file, size)?;
    let cached = reopen(&file)?;
    let path = path.to_owned();
    let size = AtomicU64::new(size.count());
    Ok(Source { file, cached, path, size, block_bytes, is_device, flush_failed: AtomicBool::new(false) })
}

/// The same file or device, whatever its name leads to by now, through the page cache.
fn reopen(file: &File) -> Result<File> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let options = &mut OpenOptions::new();
    let reopened = options.read(true).write(true).custom_flags(libc::O_NOCTTY).open(path);
    reopened.map_err(|error| Error::from(error).context("cannot open the source a second time"))
}

pub(super) fn node_of(meta: &fs::Metadata) -> Node {
    match meta.file_type().is_block_device() {
        true => Node::Device(meta.rdev()),
        false => Node::File { dev: meta.dev(), inode: meta.ino() },
    }
}

fn open_direct(path: &Path, is_device: bool) -> Result<File> {
    let exclusive = if is_device { libc::O_EXCL } else { 0 };
    let flags = libc::O_DIRECT | libc::O_NOCTTY | exclusive;
    OpenOptions::new().read(true).write(true).custom_flags(flags).open(path).map_err(|error| {
        let said = match error.raw_os_error() {
            Some(libc::EBUSY) => Error::locked("the source is mounted, or something else has it for itself"),
            Some(libc::EACCES | libc::EPERM | libc::EROFS) => Error::invalid("the source may not be written to"),
            Some(libc::EINVAL) => {
                let name = stack::file_system(path).unwrap_or_else(|| "its file system".to_owned());
                Error::unsupported(format!("{name} refuses O_DIRECT: move the source to one that has it"))
            }
            _ => Error::new(Error::from(io::Error::from(error.kind())).kind(), "cannot open the source"),
        };
        said.with_source(error)
    })
}

/// Tries again for a while: the kernel may hold what a killed agent had open until its last request is over, and that agent's
/// successor starts at once.
fn patiently<T>(mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    for _ in 0..RETRIES {
        match attempt() {
            Err(error) if error.kind() == ErrorKind::Locked => std::thread::sleep(RETRY_AFTER),
            done => return done,
        }
    }
    attempt()
}

/// Held as long as the file is open: a lock, not a file with a process id, so that nothing is left over by a crash.
fn lock(file: &File) -> Result<()> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(Errno::WOULDBLOCK) => Err(Error::locked("the source is held by another agent")),
        Err(errno) => Err(Error::from(errno).context("cannot lock the source")),
    }
}

/// A loop device on the file is a way around the tap.
fn refuse_looped(file: &Node) -> Result<()> {
    match stack::loops().into_iter().find(|(_, backing)| backing == file) {
        None => Ok(()),
        Some((name, _)) => {
            Err(Error::locked(format!("the source is attached to /dev/{name}: detach it, or protect that device")))
        }
    }
}

pub(super) fn bytes_of(file: &File) -> Result<u64> {
    seek(file, SeekFrom::End(0)).map_err(|errno| Error::from(errno).context("cannot measure the source"))
}

fn size_of(file: &File) -> Result<Sectors> {
    let bytes = bytes_of(file)?;
    match Sectors::of_bytes(bytes) {
        Some(size) if size.count() > 0 => Ok(size),
        Some(_) => Err(Error::invalid("the source is empty")),
        None => Err(Error::invalid(format!("the source has {bytes} bytes, which is not a multiple of 512"))),
    }
}

/// What offsets and lengths must be multiples of: as the kernel says, else found out by reading.
fn block_of(file: &File, size: Sectors) -> Result<u32> {
    let known = statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN)
        .ok()
        .filter(|stat| stat.stx_mask & StatxFlags::DIOALIGN.bits() != 0 && stat.stx_dio_offset_align > 0)
        .map(|stat| stat.stx_dio_offset_align.max(512));
    let block = match known {
        Some(block) => block,
        None if reads_by(file, 512, size)? => 512,
        None if reads_by(file, 4096, size)? => 4096,
        None => u32::MAX,
    };
    if block > 4096 {
        return Err(Error::unsupported("the source takes O_DIRECT only in pieces of more than 4096 bytes"));
    }
    if size.bytes() < u64::from(block) {
        return Err(Error::invalid(format!("the source is smaller than the {block} bytes it can be read by")));
    }
    Ok(block)
}

/// Whether it can be read in such pieces.
///
/// # Errors
/// If it cannot be read at all: that says nothing of pieces.
fn reads_by(file: &File, block: u32, size: Sectors) -> Result<bool> {
    let length = usize::try_from(block).unwrap_or(4096);
    let second = if size.bytes() >= u64::from(block) * 2 { u64::from(block) } else { 0 };
    // Memory off the page boundary by one block: what is asked of memory is asked of offsets too.
    let mut memory = AlignedBuf::new(2 * length)?;
    match file.read_exact_at(&mut memory[length..], second) {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::UnexpectedEof) => Ok(false),
        Err(error) => Err(Error::from(error).context("cannot read the source").with_offset(second)),
    }
}

/// Refuses `dir` (state, spool) if it lives on the source, through whatever partitions, maps and loop devices: what the agent
/// writes there would be captured, and written there again. A file beside the directory is fine.
pub fn refuse_inside(dir: impl AsRef<Path>, source: &Source) -> Result<()> {
    let dir = dir.as_ref();
    let below = stack::below(dir).map_err(|error| error.with_path(dir))?;
    match below.contains(&node_of(&source.file.metadata()?)) {
        false => Ok(()),
        true => {
            let what = format!("it is stored on the protected source {}: choose another place", source.path.display());
            Err(Error::invalid(what).with_path(dir))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_not_said_to_be_of_another_block_size() {
        // Nothing is mapped there: that is an I/O error.
        let file = File::open("/proc/self/mem").unwrap();
        let error = reads_by(&file, 512, Sectors::new(8).unwrap()).unwrap_err();
        assert_eq!((error.kind(), error.offset()), (ErrorKind::Io, Some(512)), "{error:?}");
        let short = tempfile::tempfile().unwrap();
        short.set_len(512).unwrap();
        assert!(!reads_by(&short, 4096, Sectors::new(1).unwrap()).unwrap());
        assert!(reads_by(&short, 512, Sectors::new(1).unwrap()).unwrap());
    }
}
