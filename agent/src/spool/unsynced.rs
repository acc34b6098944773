//! A directory whose files are handed to the kernel and no further: what is there survives the end of the agent, not a power
//! cut. After one of those the source is compared anyway.

use std::fmt::Debug;
use std::io::IoSlice;
use std::sync::Arc;

use journal::disk::{Disk, File, FileDisk, Open};

use crate::Result;

/// A [`FileDisk`] that does not sync.
#[derive(Debug)]
pub(super) struct Unsynced(pub(super) FileDisk);

#[derive(Debug)]
struct UnsyncedFile(Arc<dyn File>);

impl Disk for Unsynced {
    fn open(&self, name: &str, mode: Open) -> Result<Arc<dyn File>> {
        Ok(Arc::new(UnsyncedFile(self.0.open(name, mode)?)))
    }

    fn list(&self) -> Result<Vec<String>> {
        self.0.list()
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.0.rename(from, to)
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.0.remove(name)
    }

    fn sync_dir(&self) -> Result<()> {
        Ok(())
    }
}

impl File for UnsyncedFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.0.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, bufs: &[IoSlice<'_>]) -> Result<()> {
        self.0.write_at(offset, bufs)
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn len(&self) -> Result<u64> {
        self.0.len()
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.0.set_len(len)
    }
}
