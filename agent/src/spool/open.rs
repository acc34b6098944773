//! Finds what the last run left in the spool.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use journal::disk::FileDisk;
use journal::limits::SEGMENT_BYTES;
use journal::log::{Entropy, Finding, Head, Log, LogOptions};
use journal::types::{GroupId, WallTime};

use super::unsynced::Unsynced;
use crate::Result;

/// Even of a small spool a segment has room for a frame.
const SEGMENT_BYTES_MIN: u64 = 1 << 20;

/// The spool as the last run left it.
#[derive(Debug)]
pub struct Found {
    pub(super) log: Log,
    pub(super) dir: PathBuf,
    options: LogOptions,
    pub(super) limit_bytes: u64,
    entropy: Entropy,
    /// Where the order stands in it; `None`: it is empty.
    pub head: Option<Head>,
    /// Time of the last record.
    pub time: WallTime,
    /// What was not as it should be.
    pub findings: Vec<Finding>,
}

impl Found {
    /// Opens the spool in `dir`, or makes it, for a run that may keep `limit_bytes` in it. A damaged one is emptied: after a
    /// power cut it may be, and then its end is not where the order went on from anyway. What of it was not sent is found again
    /// by comparing.
    pub fn open(dir: &Path, group: GroupId, limit_bytes: u64, entropy: Entropy) -> Result<Self> {
        let options = options(group, limit_bytes);
        let disk = Arc::new(Unsynced(FileDisk::create(dir)?));
        let (log, findings) = match Log::open(disk, options, entropy) {
            Ok((log, findings)) if log.closed().is_none() => (log, findings),
            opened => {
                let (what, findings) = match opened {
                    Ok((log, findings)) => (log.closed().unwrap_or_default().to_owned(), findings),
                    Err(error) => (format!("{error:?}"), Vec::new()),
                };
                tracing::warn!(dir = %dir.display(), %what, "the spool is damaged: it is emptied");
                (empty(dir, options, entropy)?, findings)
            }
        };
        let (head, mut time) = (log.head(), WallTime(0));
        if let Some(head) = head
            && let Some(place) = log.locate(head.seq)?
        {
            time = place.read()?.records().last().map_or(time, |record| record.time);
        }
        Ok(Self { log, dir: dir.to_owned(), options, limit_bytes, entropy, head, time, findings })
    }

    /// The same, without its frames, unless it ends at `parent`: the order goes on there, elsewhere.
    pub(super) fn continuing(mut self, parent: Option<Head>) -> Result<Self> {
        if self.head != parent && self.head.is_some() {
            self.log = empty(&self.dir, self.options, self.entropy)?;
            self.head = None;
        }
        Ok(self)
    }
}

/// Only whole segments are dropped: they are small beside the limit, or what a receiver has long had would fill it.
fn options(group: GroupId, limit_bytes: u64) -> LogOptions {
    let segment_bytes = (limit_bytes / 8).clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES);
    LogOptions { group, segment_bytes, entries: false }
}

fn empty(dir: &Path, options: LogOptions, entropy: Entropy) -> Result<Log> {
    std::fs::remove_dir_all(dir)?;
    let disk = Arc::new(Unsynced(FileDisk::create(dir)?));
    Ok(Log::open(disk, options, entropy)?.0)
}
