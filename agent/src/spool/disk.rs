//! The directory of a spool: files that are handed to the kernel and no further, and used again and again.
//!
//! What is here survives the end of the agent, not a power cut: after one of those the source is compared anyway. A segment that was dropped
//! keeps its file and its place in memory for the next one: to touch fresh memory costs several times the copy into it. A few files live in
//! the page cache, and are used first; the others, which only a long spool needs, are on the disk, so that the memory stays the host's.
//!
//! ```text
//!   create ──► in use ──remove──► spare ──create──► in use …          the end of the run: spares are removed
//! ```

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io::IoSlice;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use journal::disk::{Disk, File, FileDisk, Open, PlainFile};

use crate::Result;

/// Bytes of files in the page cache.
const MEMORY_BYTES: u64 = 256 << 20;
/// Names of spares begin with this.
const SPARE: &str = "spare-";
/// Overwritten when a file becomes a spare: a segment's header, so that a crash leaves no segment under a wrong name.
const HEADER: [u8; 4096] = [0; 4096];

/// A [`FileDisk`] that does not sync, and removes nothing before it is dropped.
#[derive(Debug)]
pub(super) struct SpoolDisk {
    disk: FileDisk,
    segment_bytes: u64,
    files: Mutex<Files>,
}

#[derive(Debug, Default)]
struct Files {
    in_use: BTreeMap<String, Slot>,
    spares: Vec<(String, Slot)>,
    /// Spares were there before.
    made: u64,
}

/// A file, and whether it lives in the page cache.
#[derive(Debug)]
struct Slot {
    file: Arc<PlainFile>,
    in_memory: bool,
    /// Not so the segments that an earlier run sealed.
    is_writable: bool,
}

#[derive(Debug)]
struct Unsynced(Arc<PlainFile>);

impl SpoolDisk {
    /// Spares that a killed agent left are removed.
    pub(super) fn new(disk: FileDisk, segment_bytes: u64) -> Result<Self> {
        for name in disk.list()?.iter().filter(|name| name.starts_with(SPARE)) {
            disk.remove(name)?;
        }
        Ok(Self { disk, segment_bytes, files: Mutex::default() })
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A spare that nobody reads any more, by its new name: one in memory if there is any.
    fn reuse(&self, files: &mut Files, name: &str) -> Result<Option<Slot>> {
        let idle = files.spares.iter().enumerate().filter(|(_, (_, slot))| Arc::strong_count(&slot.file) == 1);
        let Some((at, _)) = idle.max_by_key(|(_, (_, slot))| slot.in_memory) else { return Ok(None) };
        let (old, slot) = files.spares.remove(at);
        self.disk.rename(&old, name)?;
        Ok(Some(slot))
    }

    fn create(&self, files: &Files, name: &str, mode: Open) -> Result<Slot> {
        let file = self.disk.open_file(name, mode)?;
        let slots = files.in_use.values().chain(files.spares.iter().map(|(_, slot)| slot));
        let in_memory = slots.filter(|slot| slot.in_memory).map(|_| self.segment_bytes).sum::<u64>() < MEMORY_BYTES;
        file.set_bypass(!in_memory);
        Ok(Slot { file: Arc::new(file), in_memory, is_writable: mode != Open::ReadOnly })
    }
}

impl Disk for SpoolDisk {
    fn open(&self, name: &str, mode: Open) -> Result<Arc<dyn File>> {
        let files = &mut *self.files();
        let reused = if mode == Open::CreateNew { self.reuse(files, name)? } else { None };
        let slot = match reused {
            Some(slot) => slot,
            None => self.create(files, name, mode)?,
        };
        let file = Arc::clone(&slot.file);
        files.in_use.insert(name.to_owned(), slot);
        Ok(Arc::new(Unsynced(file)))
    }

    fn list(&self) -> Result<Vec<String>> {
        let names = self.disk.list()?;
        Ok(names.into_iter().filter(|name| !name.starts_with(SPARE)).collect())
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.disk.rename(from, to)?;
        let files = &mut *self.files();
        if let Some(slot) = files.in_use.remove(from) {
            files.in_use.insert(to.to_owned(), slot);
        }
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<()> {
        let files = &mut *self.files();
        let Some(slot) = files.in_use.remove(name) else { return self.disk.remove(name) };
        if !slot.is_writable || slot.file.len()? < self.segment_bytes {
            return self.disk.remove(name);
        }
        slot.file.write_at(0, &[IoSlice::new(&HEADER)])?;
        let spare = format!("{SPARE}{}", files.made);
        files.made += 1;
        self.disk.rename(name, &spare)?;
        files.spares.push((spare, slot));
        Ok(())
    }

    fn sync_dir(&self) -> Result<()> {
        Ok(())
    }
}

impl Drop for SpoolDisk {
    fn drop(&mut self) {
        for (name, _) in &self.files().spares {
            // What is left is removed at the next start.
            let _ = self.disk.remove(name);
        }
    }
}

impl File for Unsynced {
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

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: u64 = 64 << 20;

    fn disk(dir: &tempfile::TempDir) -> SpoolDisk {
        SpoolDisk::new(FileDisk::create(dir.path()).unwrap(), SEGMENT).unwrap()
    }

    fn names(dir: &tempfile::TempDir) -> Vec<String> {
        FileDisk::open(dir.path()).unwrap().list().unwrap()
    }

    fn create(disk: &SpoolDisk, name: &str) -> Arc<dyn File> {
        disk.open(name, Open::CreateNew).unwrap()
    }

    #[test]
    fn a_removed_segment_is_the_next_one_without_its_header() {
        let dir = tempfile::tempdir().unwrap();
        let disk = disk(&dir);
        let first = create(&disk, "1.seg");
        first.write_at(0, &[IoSlice::new(&[7; 8192])]).unwrap();
        first.set_len(SEGMENT).unwrap();
        disk.remove("1.seg").unwrap();
        assert_eq!((disk.list().unwrap().len(), names(&dir)), (0, vec!["spare-0".to_owned()]));

        // Somebody may still be reading the first: its file stays as it is.
        create(&disk, "2.seg");
        let mut bytes = [0; 4096];
        first.read_exact_at(4096, &mut bytes).unwrap();
        assert_eq!((bytes, names(&dir)), ([7; 4096], vec!["2.seg".to_owned(), "spare-0".to_owned()]));

        drop(first);
        let third = create(&disk, "3.seg");
        assert_eq!(names(&dir), ["2.seg", "3.seg"]);
        third.read_exact_at(0, &mut bytes).unwrap();
        assert_eq!((bytes, third.len().unwrap()), ([0; 4096], SEGMENT));
        // One that never grew is not worth keeping.
        disk.remove("2.seg").unwrap();
        assert_eq!(names(&dir), ["3.seg"]);
    }

    #[test]
    fn a_segment_that_an_earlier_run_sealed_is_no_spare() {
        let dir = tempfile::tempdir().unwrap();
        let killed = disk(&dir);
        create(&killed, "1.seg").set_len(SEGMENT).unwrap();
        std::mem::forget(killed);
        let next = disk(&dir);
        drop(next.open("1.seg", Open::ReadOnly).unwrap());
        next.remove("1.seg").unwrap();
        assert_eq!(names(&dir).len(), 0);
    }

    #[test]
    fn spares_go_with_the_run_and_a_killed_ones_at_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let spare = |disk: &SpoolDisk| {
            create(disk, "1.seg").set_len(SEGMENT).unwrap();
            disk.remove("1.seg").unwrap();
        };
        let killed = disk(&dir);
        spare(&killed);
        std::mem::forget(killed);
        assert_eq!(names(&dir), ["spare-0"]);
        let next = disk(&dir);
        assert_eq!(names(&dir).len(), 0);
        spare(&next);
        drop(next);
        assert_eq!(names(&dir).len(), 0);
    }
}
