//! Finds what the last run left in the spool.

use std::fmt::{self, Debug};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use journal::disk::{Disk, FileDisk, Reserve};
use journal::limits::SEGMENT_BYTES;
use journal::log::{Entropy, Finding, Head, Log, LogOptions};
use journal::types::{GroupId, WallTime};
use rustix::fs::{rename, syncfs};
use rustix::io::Errno;

use super::disk::SpoolDisk;
use crate::{Error, ErrorKind, Result};

/// Between the spool's name and a number, for one that nobody needs any more.
const ASIDE: &str = ".old-";
/// Even of a small spool a segment has room for a frame.
const SEGMENT_BYTES_MIN: u64 = 1 << 20;

/// What a spool may take.
#[derive(Clone, Debug)]
pub struct Room {
    /// Bytes on disk.
    pub limit_bytes: u64,
    /// What is there when the disk is full.
    pub reserve: Option<Arc<Reserve>>,
}

impl From<u64> for Room {
    fn from(limit_bytes: u64) -> Self {
        Self { limit_bytes, reserve: None }
    }
}

/// Where a spool lies.
pub trait Home: Debug + Send + Sync {
    /// The files of it, made if there are none. What is written there survives the end of the process, not a power cut.
    fn open(&self) -> Result<Arc<dyn Disk>>;

    /// What is there is not needed any more, also if a run goes on writing to it: the next one to open it finds nothing.
    fn put_aside(&self) -> Result<()>;

    /// Makes all of it durable: the log's own syncs do nothing.
    fn sync(&self) -> Result<()>;
}

/// A directory.
struct Dir {
    path: PathBuf,
    segment_bytes: u64,
    reserve: Option<Arc<Reserve>>,
    entropy: Entropy,
}

/// The spool as the last run left it.
#[derive(Debug)]
pub struct Found {
    pub(super) log: Log,
    pub(super) home: Arc<dyn Home>,
    options: LogOptions,
    pub(super) room: Room,
    entropy: Entropy,
    /// Where the order stands in it; `None`: it is empty.
    pub head: Option<Head>,
    /// Time of the last record.
    pub time: WallTime,
    /// What was not as it should be.
    pub findings: Vec<Finding>,
}

impl Found {
    /// Opens the spool in `dir`, or makes it, for a run that may take `room` for it. A damaged one is emptied: after a
    /// power cut it may be, and then its end is not where the order went on from anyway. What of it was not sent is found again
    /// by comparing. One whose disk is full is kept: what it has can be sent, and nothing is written to it.
    ///
    /// # Errors
    /// When there is not even room for an empty one.
    pub fn open(dir: &Path, group: GroupId, room: impl Into<Room>, entropy: Entropy) -> Result<Self> {
        let room = room.into();
        let options = options(group, room.limit_bytes);
        Self::open_at(home(dir, options, &room, entropy), options, room, entropy)
    }

    /// The same, wherever it lies.
    pub fn open_at(home: Arc<dyn Home>, options: LogOptions, room: impl Into<Room>, entropy: Entropy) -> Result<Self> {
        let room = room.into();
        let opened = Log::open(home.open()?, options, entropy);
        let (log, time, findings) = match opened.and_then(|(log, findings)| Ok((last_time(&log)?, log, findings))) {
            Ok((time, log, findings)) if log.closed().is_none() => (log, time, findings),
            Ok((time, log, findings)) if log.lacks_room() => {
                let why = log.closed().unwrap_or_default();
                tracing::warn!(
                    ?home,
                    why,
                    "the disk of the spool is full: what the spool has is sent, nothing is added to it"
                );
                (log, time, findings)
            }
            Err(error) if error.kind() == ErrorKind::NoSpace => {
                return Err(error.context("the disk of the spool is full: make room on it"));
            }
            opened => {
                let (what, findings) = match opened {
                    Ok((_, log, findings)) => (log.closed().unwrap_or_default().to_owned(), findings),
                    Err(error) => (format!("{error:?}"), Vec::new()),
                };
                tracing::warn!(?home, %what, "the spool is damaged: it is emptied");
                home.put_aside()?;
                (empty(&*home, options, entropy)?, WallTime(0), findings)
            }
        };
        let head = log.head();
        Ok(Self { log, home, options, room, entropy, head, time, findings })
    }

    /// An empty spool in the place of the one in `dir`, which a run may go on writing to: it is put aside. [`sweep`] removes it.
    pub(crate) fn anew(dir: &Path, group: GroupId, room: Room, entropy: Entropy) -> Result<Self> {
        let options = options(group, room.limit_bytes);
        Self::anew_at(home(dir, options, &room, entropy), options, room, entropy)
    }

    /// An empty spool in the place of the one that lies there.
    pub fn anew_at(home: Arc<dyn Home>, options: LogOptions, room: impl Into<Room>, entropy: Entropy) -> Result<Self> {
        let room = room.into();
        home.put_aside()?;
        let log = empty(&*home, options, entropy)?;
        Ok(Self { log, home, options, room, entropy, head: None, time: WallTime(0), findings: Vec::new() })
    }

    /// The same, without its frames, unless it ends at `parent`: the order goes on there, elsewhere.
    pub(super) fn continuing(mut self, parent: Option<Head>) -> Result<Self> {
        if self.head != parent && self.head.is_some() {
            self.home.put_aside()?;
            self.log = empty(&*self.home, self.options, self.entropy)?;
            self.head = None;
        }
        Ok(self)
    }
}

impl Home for Dir {
    fn open(&self) -> Result<Arc<dyn Disk>> {
        let disk = FileDisk::create(&self.path)?.with_reserve(self.reserve.clone());
        Ok(Arc::new(SpoolDisk::new(disk, self.segment_bytes)?))
    }

    fn put_aside(&self) -> Result<()> {
        put_aside(&self.path, self.entropy)
    }

    fn sync(&self) -> Result<()> {
        let dir = File::open(&self.path)?;
        syncfs(&dir).map_err(|errno| Error::from(errno).context("cannot sync").with_path(&self.path))
    }
}

impl Debug for Dir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.fmt(f)
    }
}

fn home(dir: &Path, options: LogOptions, room: &Room, entropy: Entropy) -> Arc<dyn Home> {
    let (path, reserve) = (dir.to_owned(), room.reserve.clone());
    Arc::new(Dir { path, segment_bytes: options.segment_bytes, reserve, entropy })
}

/// Only whole segments are dropped: they are small beside the limit, or what a receiver has long had would fill it.
fn options(group: GroupId, limit_bytes: u64) -> LogOptions {
    let segment_bytes = (limit_bytes / 8).clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES);
    LogOptions { group, segment_bytes, entries: false }
}

/// Removing gigabytes takes long, and nobody may have to wait for it: what is not needed any more only loses its name.
fn put_aside(dir: &Path, entropy: Entropy) -> Result<()> {
    let mut name = dir.file_name().unwrap_or_default().to_owned();
    name.push(format!("{ASIDE}{:016x}", u128::from_le_bytes(entropy()) >> 64));
    match rename(dir, dir.with_file_name(name)) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(Error::from(errno).context("cannot put the old spool aside").with_path(dir)),
    }
}

/// Nothing in `dir` is of use any more, and nobody writes to it.
pub(crate) fn give_up(dir: &Path, entropy: Entropy) -> Result<()> {
    put_aside(dir, entropy)?;
    sweep(dir);
    Ok(())
}

/// Removes, on a thread of its own, what was put aside of the spool in `dir`. What is still being written to goes as well: it is of
/// no use to anybody.
pub(crate) fn sweep(dir: &Path) {
    let (Some(parent), Some(name)) = (dir.parent(), dir.file_name().and_then(|name| name.to_str())) else { return };
    let (parent, prefix) = (parent.to_owned(), format!("{name}{ASIDE}"));
    let remove = move || {
        let entries = std::fs::read_dir(&parent).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix))) {
            if let Err(error) = std::fs::remove_dir_all(entry.path()) {
                tracing::warn!(path = %entry.path().display(), %error, "an old spool cannot be removed; the next start tries again");
            }
        }
    };
    // Without a thread it is left to the next start.
    let _ = std::thread::Builder::new().name("sweep".to_owned()).spawn(remove);
}

/// The time of the last record, which has to be read: after a power cut the end of a spool may be lost in a segment that was sealed.
fn last_time(log: &Log) -> Result<WallTime> {
    let Some(head) = log.head() else { return Ok(WallTime(0)) };
    let place = log.locate(head.seq)?.ok_or_else(|| Error::corrupt("the end of the spool is not in it"))?;
    Ok(place.read()?.records().last().map_or(WallTime(0), |record| record.time))
}

fn empty(home: &dyn Home, options: LogOptions, entropy: Entropy) -> Result<Log> {
    Ok(Log::open(home.open()?, options, entropy)?.0)
}
