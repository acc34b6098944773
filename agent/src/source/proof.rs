//! What a clean stop leaves behind, so that the next start can tell whether anybody wrote in between.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::Result;

/// A file's identity and times: any write, truncation or replacement changes one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileProof {
    dev: u64,
    inode: u64,
    size_bytes: u64,
    /// Seconds and nanoseconds: cannot be set from outside, unlike `mtime`.
    ctime: (i64, i64),
    mtime: (i64, i64),
}

/// File times come from a clock that ticks this seldom at worst (100 Hz), twice over.
const TICK: Duration = Duration::from_millis(20);

impl FileProof {
    /// What it looks like now.
    pub(super) fn look(file: &File) -> Result<Self> {
        let meta = file.metadata()?;
        Ok(Self {
            dev: meta.dev(),
            inode: meta.ino(),
            size_bytes: meta.len(),
            ctime: (meta.ctime(), meta.ctime_nsec()),
            mtime: (meta.mtime(), meta.mtime_nsec()),
        })
    }

    /// As [`look`](Self::look), once a write from now on would get a later `ctime` than the last one got: two within one
    /// tick of the clock look the same.
    pub(super) fn take(file: &File) -> Result<Self> {
        loop {
            let proof = Self::look(file)?;
            match proof.age() {
                Some(age) if age < TICK => std::thread::sleep(TICK - age),
                // Also when the clock was set back: then nothing better can be had by waiting.
                _ => return Ok(proof),
            }
        }
    }

    /// How long ago the file was changed; `None` if that is in the future.
    fn age(&self) -> Option<Duration> {
        let seconds = Duration::from_secs(u64::try_from(self.ctime.0).ok()?);
        let changed = SystemTime::UNIX_EPOCH + seconds + Duration::from_nanos(u64::try_from(self.ctime.1).ok()?);
        changed.elapsed().ok()
    }
}
