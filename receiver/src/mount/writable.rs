//! One writable view as a regular file: what a drill's command works on.
//!
//! Writes go through to the scratch, so that whoever reads the same view over NBD sees them at once. The other way round the kernel may
//! still have pages of before: a file that is read is to be written here, too.

use std::ffi::OsStr;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, KernelConfig, LockOwner,
    OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use super::reply::{IMMUTABLE, Owner, configure, errno, seek, system_time};
use crate::error::Result;
use crate::export::Served;

const FILE: INodeNo = INodeNo(2);
/// `st_blocks` grows with what is written: not for long.
const FRESH: Duration = Duration::from_secs(1);

/// A directory with one file in it.
#[derive(Debug)]
pub(super) struct Writable {
    served: Arc<Served>,
    name: String,
    owner: Owner,
}

impl Writable {
    pub(super) fn new(served: Arc<Served>, name: String) -> Self {
        Self { served, name, owner: Owner::us() }
    }

    fn attr(&self, ino: INodeNo) -> Option<FileAttr> {
        match ino {
            INodeNo::ROOT => Some(self.owner.attr(ino, FileType::Directory, 0o700, self.owner.begun)),
            FILE => {
                let size = self.served.size_bytes();
                let time = system_time(self.served.point().time);
                let file = self.owner.attr(ino, FileType::RegularFile, 0o600, time);
                Some(FileAttr { size, blocks: size.saturating_sub(1) / 512, ..file })
            }
            _ => None,
        }
    }

    fn allocate(&self, offset: u64, length: u64, mode: i32) -> std::result::Result<Result<()>, Errno> {
        const KEEP_SIZE: i32 = 0x01;
        const PUNCH_HOLE: i32 = 0x02;
        const ZERO_RANGE: i32 = 0x10;
        let end = offset.checked_add(length).ok_or(Errno::EFBIG)?;
        let size = self.served.size_bytes();
        if mode & !(KEEP_SIZE | PUNCH_HOLE | ZERO_RANGE) != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        if end > size && mode & KEEP_SIZE == 0 {
            return Err(Errno::EFBIG);
        }
        let length = end.min(size).saturating_sub(offset);
        if mode & (PUNCH_HOLE | ZERO_RANGE) == 0 || length == 0 {
            return Ok(Ok(()));
        }
        Ok(self.served.zero(offset, length))
    }
}

impl Filesystem for Writable {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        configure(config);
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let is_it = parent == INodeNo::ROOT && name == OsStr::new(&self.name);
        match self.attr(FILE).filter(|_| is_it) {
            Some(attr) => reply.entry_with_ttls(&FRESH, &IMMUTABLE, &attr, Generation(1)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _request: &Request, ino: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        match self.attr(ino) {
            Some(attr) => reply.attr(&FRESH, &attr),
            None => reply.error(Errno::ESTALE),
        }
    }

    fn setattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let other_size = size.is_some_and(|size| size != self.served.size_bytes());
        match self.attr(ino) {
            // It is a volume: its size is what it is.
            Some(_) if other_size || mode.is_some() || uid.is_some() || gid.is_some() => reply.error(Errno::EPERM),
            Some(attr) => reply.attr(&FRESH, &attr),
            None => reply.error(Errno::ESTALE),
        }
    }

    fn open(&self, _request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match ino {
            FILE => reply.opened(FileHandle(0), FopenFlags::empty()),
            _ => reply.error(Errno::EISDIR),
        }
    }

    fn read(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        super::reply::read(&self.served, offset, size, reply);
    }

    fn write(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let room = usize::try_from(self.served.size_bytes().saturating_sub(offset)).unwrap_or(usize::MAX);
        if room == 0 {
            return reply.error(Errno::ENOSPC);
        }
        let data = &data[..data.len().min(room)];
        match self.served.write(offset, data) {
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX)),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn fallocate(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        match self.allocate(offset, length, mode) {
            Ok(Ok(())) => reply.ok(),
            Ok(Err(error)) => reply.error(errno(&error)),
            Err(refused) => reply.error(refused),
        }
    }

    fn lseek(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        seek(&self.served, offset, whence, reply);
    }

    fn flush(&self, _request: &Request, _ino: INodeNo, _handle: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _request: &Request, _ino: INodeNo, _handle: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        // What was answered is in the scratch, which is as durable as the view is.
        reply.ok();
    }

    fn readdir(&self, _request: &Request, _ino: INodeNo, _handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let dots = [".", ".."].map(|name| (INodeNo::ROOT, FileType::Directory, name));
        let all = dots.into_iter().chain([(FILE, FileType::RegularFile, self.name.as_str())]);
        for ((ino, kind, name), next) in all.zip(1..).skip(usize::try_from(offset).unwrap_or(usize::MAX)) {
            if reply.add(ino, next, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let (used, limit) = self.served.scratch_bytes().unwrap_or((0, 0));
        let free = limit.saturating_sub(used) / 4096;
        reply.statfs(limit / 4096, free, free, 1, 0, 4096, 255, 4096);
    }
}
