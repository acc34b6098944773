//! What both trees have in common: how the kernel is answered.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{Errno, FileAttr, FileType, INodeNo, InitFlags, KernelConfig, ReplyData, ReplyLseek};
use journal::types::WallTime;
use rustix::process::{getegid, geteuid};

use crate::error::{Code, Error};
use crate::export::Served;

/// How long attributes are good that never change.
pub(super) const IMMUTABLE: Duration = Duration::from_secs(3600);
/// How long a name is good that may mean something else at once.
pub(super) const NOT_KEPT: Duration = Duration::ZERO;

/// What the kernel asks for at once, in bytes: as much as it can.
const REQUEST_BYTES: u32 = 1 << 20;
/// Reads ahead that are under way at a time.
const BACKGROUND: u16 = 64;

/// Whose the files are: this process's user's, and nobody else's, for there is everything in them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owner {
    uid: u32,
    gid: u32,
    /// When the mount began.
    pub(super) begun: SystemTime,
}

impl Owner {
    /// This process.
    pub(super) fn us() -> Self {
        Self { uid: geteuid().as_raw(), gid: getegid().as_raw(), begun: SystemTime::now() }
    }

    pub(super) fn attr(self, ino: INodeNo, kind: FileType, perm: u16, time: SystemTime) -> FileAttr {
        FileAttr {
            ino,
            size: 0,
            blocks: 0,
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind,
            perm,
            nlink: if kind == FileType::Directory { 2 } else { 1 },
            uid: self.uid,
            gid: self.gid,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

/// Large requests, several at once.
pub(super) fn configure(config: &mut KernelConfig) {
    // What a kernel does not have it does without.
    for capability in [InitFlags::FUSE_ASYNC_READ, InitFlags::FUSE_PARALLEL_DIROPS] {
        let _ = config.add_capabilities(capability);
    }
    let _ = config.set_max_write(REQUEST_BYTES);
    if let Err(most) = config.set_max_readahead(REQUEST_BYTES) {
        let _ = config.set_max_readahead(most);
    }
    let _ = config.set_max_background(BACKGROUND);
}

/// Answers a read: what lies beyond the end is not there.
pub(super) fn read(served: &Served, offset: u64, size: u32, reply: ReplyData) {
    let length = u64::from(size).min(served.size_bytes().saturating_sub(offset));
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    if bytes.is_empty() {
        return reply.data(&[]);
    }
    match served.read(offset, &mut bytes) {
        Ok(()) => reply.data(&bytes),
        Err(error) => reply.error(errno(&error)),
    }
}

/// Answers where data, or a hole, begins; there is a hole behind the end.
pub(super) fn seek(served: &Served, offset: i64, whence: i32, reply: ReplyLseek) {
    const DATA: i32 = 3;
    const HOLE: i32 = 4;
    let size = served.size_bytes();
    let Some(from) = u64::try_from(offset).ok().filter(|&from| from < size) else { return reply.error(Errno::ENXIO) };
    let found = match whence {
        DATA => served.seek(from, true),
        HOLE => served.seek(from, false).map(|hole| hole.or(Some(size))),
        _ => return reply.error(Errno::EINVAL),
    };
    match found.map(|found| found.and_then(|found| i64::try_from(found).ok())) {
        Ok(Some(found)) => reply.offset(found),
        Ok(None) => reply.error(Errno::ENXIO),
        Err(error) => reply.error(errno(&error)),
    }
}

/// As a program is told.
pub(super) fn errno(error: &Error) -> Errno {
    match error.code() {
        Code::NO_SPACE => Errno::ENOSPC,
        Code::NOT_COVERED | Code::NO_VOLUME => Errno::ENOENT,
        Code::USAGE => Errno::EINVAL,
        _ => Errno::EIO,
    }
}

pub(super) fn system_time(time: WallTime) -> SystemTime {
    // What a hostile agent says is no reason to panic.
    UNIX_EPOCH.checked_add(Duration::from_micros(time.0)).unwrap_or(UNIX_EPOCH)
}
