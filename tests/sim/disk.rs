//! A simulated disk as the product gets it: it can be full, and syncs may do nothing, as those of the spool.

use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use agent::spool::Home;
use journal::disk::sim::{CrashMode, Fault, Rng};
use journal::disk::{Disk, File, Open, SimDisk};
use journal::error::{Error, Result};

/// No space left on device.
const ENOSPC: i32 = 28;

/// A disk that is there again after its machine's power went.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    disk: Arc<Mutex<SimDisk>>,
    is_full: Arc<AtomicBool>,
    /// Syncs reach the disk; else they end in the page cache.
    syncs: bool,
    /// A fault was asked for since the last power cut.
    was_hurt: bool,
}

/// A [`SimDisk`] that may be full.
#[derive(Debug)]
struct Shell {
    disk: SimDisk,
    is_full: Arc<AtomicBool>,
    syncs: bool,
}

#[derive(Debug)]
struct ShellFile {
    file: Arc<dyn File>,
    is_full: Arc<AtomicBool>,
    syncs: bool,
}

impl Machine {
    pub(crate) fn new(seed: u64, syncs: bool) -> Self {
        let disk = Arc::new(Mutex::new(SimDisk::new(seed)));
        Self { disk, is_full: Arc::default(), syncs, was_hurt: false }
    }

    /// As a process that starts sees it.
    pub(crate) fn disk(&self) -> Arc<dyn Disk> {
        let disk = self.disk.lock().unwrap().clone();
        Arc::new(Shell { disk, is_full: Arc::clone(&self.is_full), syncs: self.syncs })
    }

    /// The process ends, the machine goes on: what was written is in the page cache.
    pub(crate) fn kill(&mut self, rng: &mut Rng) {
        // What a failed sync left is for the process that saw it; the next one finds a disk.
        if std::mem::take(&mut self.was_hurt) || self.is_off() {
            self.replace(CrashMode::KeepAll, rng);
        }
    }

    /// The power goes.
    pub(crate) fn crash(&mut self, rng: &mut Rng) {
        let mode = [CrashMode::LoseAll, CrashMode::KeepAll, CrashMode::Random, CrashMode::Random][rng.below_len(4)];
        self.was_hurt = false;
        self.replace(mode, rng);
    }

    fn replace(&self, mode: CrashMode, rng: &mut Rng) {
        let mut disk = self.disk.lock().unwrap();
        let after = disk.crash(mode, rng);
        *disk = after;
    }

    /// During one of the next operations the power goes, or the process ends.
    pub(crate) fn cut_soon(&self, rng: &mut Rng) -> u64 {
        let disk = self.disk.lock().unwrap();
        let op = disk.ops() + 1 + rng.below(16);
        disk.stop_at(op);
        op
    }

    /// That has happened: nothing that was said since was heard.
    pub(crate) fn is_off(&self) -> bool {
        self.disk.lock().unwrap().list().is_err()
    }

    /// It does not happen any more.
    pub(crate) fn stays_on(&self) {
        if !self.is_off() {
            self.disk.lock().unwrap().stop_at(u64::MAX);
        }
    }

    /// One of the next operations fails.
    pub(crate) fn hurt(&mut self, rng: &mut Rng) -> String {
        let disk = self.disk.lock().unwrap();
        let fault = if rng.chance(1, 4) { Fault::NoSpace } else { Fault::Io };
        let op = disk.ops() + 1 + rng.below(8);
        disk.fail_nth(op, fault);
        self.was_hurt = true;
        format!("{fault:?} at {op}")
    }

    pub(crate) fn set_full(&self, is_full: bool) {
        self.is_full.store(is_full, Ordering::Relaxed);
    }

    /// An empty one in its place.
    fn anew(&self) {
        let mut disk = self.disk.lock().unwrap();
        *disk = SimDisk::new(disk.ops());
    }
}

impl Home for Machine {
    fn open(&self) -> Result<Arc<dyn Disk>> {
        Ok(self.disk())
    }

    fn put_aside(&self) -> Result<()> {
        self.anew();
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        if self.is_off() {
            return Err(Error::unavailable("the power is off"));
        }
        // As all that is on it: the clean stop of a spool survives a power cut.
        let mut disk = self.disk.lock().unwrap();
        let after = disk.crash(CrashMode::KeepAll, &mut Rng::new(disk.ops()));
        *disk = after;
        Ok(())
    }
}

fn full(is_full: &AtomicBool) -> Result<()> {
    match is_full.load(Ordering::Relaxed) {
        true => Err(io::Error::from_raw_os_error(ENOSPC).into()),
        false => Ok(()),
    }
}

impl Disk for Shell {
    fn open(&self, name: &str, mode: Open) -> Result<Arc<dyn File>> {
        if mode == Open::CreateNew {
            full(&self.is_full)?;
        }
        let file = self.disk.open(name, mode)?;
        Ok(Arc::new(ShellFile { file, is_full: Arc::clone(&self.is_full), syncs: self.syncs }))
    }

    fn list(&self) -> Result<Vec<String>> {
        self.disk.list()
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.disk.remove(name)
    }

    fn sync_dir(&self) -> Result<()> {
        if self.syncs { self.disk.sync_dir() } else { Ok(()) }
    }
}

impl File for ShellFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.file.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, bufs: &[IoSlice<'_>]) -> Result<()> {
        full(&self.is_full)?;
        self.file.write_at(offset, bufs)
    }

    fn sync(&self) -> Result<()> {
        if self.syncs { self.file.sync() } else { Ok(()) }
    }

    fn len(&self) -> Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> Result<()> {
        if len > self.file.len()? {
            full(&self.is_full)?;
        }
        self.file.set_len(len)
    }
}
