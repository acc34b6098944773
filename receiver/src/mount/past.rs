//! A group's past, served to the kernel. Read-only: what is open is a view, and a name means an instant only while it is looked up.

use std::ffi::OsStr;
use std::io;
use std::sync::Arc;

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, KernelConfig, LockOwner,
    OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs,
    Request,
};

use super::handles::{Handles, TooMany};
use super::history::{Found, History};
use super::node::Node;
use super::reply::{IMMUTABLE, NOT_KEPT, Owner, configure, errno, seek, system_time};
use crate::error::Result;
use crate::export::{HeldView, Views};
use crate::time::now;

/// The tree, and what is open in it.
#[derive(Debug)]
pub(super) struct Past {
    history: History,
    handles: Arc<Handles>,
    owner: Owner,
}

impl Past {
    pub(super) fn new(history: History) -> Self {
        Self { history, handles: Arc::default(), owner: Owner::us() }
    }

    /// Who knows which views are open.
    pub(super) fn views(&self) -> Arc<dyn Views> {
        Arc::<Handles>::clone(&self.handles)
    }

    fn attr(&self, found: &Found) -> Option<FileAttr> {
        let ino = INodeNo(found.node.number()?);
        Some(match found.time {
            // Never all of it, so that whoever copies asks where the holes are.
            Some(time) => FileAttr {
                size: found.size,
                blocks: found.data.saturating_sub(1) / 512,
                ..self.owner.attr(ino, FileType::RegularFile, 0o400, system_time(time))
            },
            None => self.owner.attr(ino, FileType::Directory, 0o500, self.owner.begun),
        })
    }

    fn open_image(&self, node: Node) -> Result<std::result::Result<u64, Errno>> {
        let Node::Image(volume, seq) = node else { return Ok(Err(Errno::EISDIR)) };
        let Some(found) = self.history.attributes(node)? else { return Ok(Err(Errno::ESTALE)) };
        let served = match self.handles.view(node, found.generation) {
            Some(served) => served,
            None => match self.history.open(volume, seq)? {
                Some(served) => served,
                None => return Ok(Err(Errno::ESTALE)),
            },
        };
        Ok(self.handles.add(node, found.generation, served, now()).map_err(|TooMany| Errno::ENFILE))
    }
}

impl Views for Handles {
    fn held(&self) -> Vec<HeldView> {
        self.held()
    }
}

/// What has this number, or the answer that nothing has.
macro_rules! node {
    ($ino:expr, $reply:expr) => {
        match Node::of($ino.0) {
            Some(node) => node,
            None => return $reply.error(Errno::ESTALE),
        }
    };
}

impl Filesystem for Past {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        configure(config);
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let parent = node!(parent, reply);
        match self.history.lookup(parent, name, now()) {
            Ok(Some(found)) => match self.attr(&found) {
                // The name is looked up again the next time: it may mean another instant then.
                Some(attr) => {
                    reply.entry_with_ttls(&IMMUTABLE, &NOT_KEPT, &attr, Generation(found.generation));
                }
                None => reply.error(Errno::ENOENT),
            },
            Ok(None) => reply.error(Errno::ENOENT),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn getattr(&self, _request: &Request, ino: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        let node = node!(ino, reply);
        match self.history.attributes(node).map(|found| found.and_then(|found| self.attr(&found))) {
            Ok(Some(attr)) => reply.attr(&IMMUTABLE, &attr),
            Ok(None) => reply.error(Errno::ESTALE),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn open(&self, _request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let node = node!(ino, reply);
        match self.open_image(node) {
            // What was read of it before is still what it is.
            Ok(Ok(handle)) => reply.opened(FileHandle(handle), FopenFlags::FOPEN_KEEP_CACHE),
            Ok(Err(refused)) => reply.error(refused),
            Err(error) => {
                tracing::error!(?node, %error, "an image cannot be opened");
                reply.error(errno(&error));
            }
        }
    }

    fn read(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.handles.served(handle.0) {
            Some(served) => super::reply::read(&served, offset, size, reply),
            None => reply.error(Errno::EBADF),
        }
    }

    fn lseek(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        match self.handles.served(handle.0) {
            Some(served) => seek(&served, offset, whence, reply),
            None => reply.error(Errno::EBADF),
        }
    }

    fn flush(&self, _request: &Request, _ino: INodeNo, _handle: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.handles.close(handle.0);
        reply.ok();
    }

    fn opendir(&self, _request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let node = node!(ino, reply);
        match self.history.list(node, now()) {
            Ok(listed) => match self.handles.add_listing(listed) {
                Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
                Err(TooMany) => reply.error(Errno::ENFILE),
            },
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn readdir(&self, _request: &Request, ino: INodeNo, handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let Some(listed) = self.handles.listing(handle.0) else { return reply.error(Errno::EBADF) };
        let dots = [(ino, "."), (INodeNo::ROOT, "..")].map(|(ino, name)| (ino, FileType::Directory, name));
        let named = listed.iter().filter_map(|entry| {
            let kind = if matches!(entry.node, Node::Image(..)) { FileType::RegularFile } else { FileType::Directory };
            Some((INodeNo(entry.node.number()?), kind, entry.name.as_str()))
        });
        let skipped = usize::try_from(offset).unwrap_or(usize::MAX);
        for ((ino, kind, name), next) in dots.into_iter().chain(named).zip(1..).skip(skipped) {
            if reply.add(ino, next, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(&self, _request: &Request, _ino: INodeNo, handle: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        self.handles.close(handle.0);
        reply.ok();
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        reply.statfs(0, 0, 0, 0, 0, 4096, 255, 4096);
    }
}
