//! Where benchmarks put their files.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use journal::disk::{Disk, File, FileDisk, Open};
use journal::error;
use tempfile::TempDir;

/// A directory on the real disk, in cargo's `target/tmp`; removed when dropped.
pub fn real_disk() -> Result<TempDir> {
    // A benchmark is target/release/deps/NAME.
    let exe = std::env::current_exe()?;
    let tmp = exe.ancestors().nth(3).context("not run by cargo")?.join("tmp");
    fs::create_dir_all(&tmp)?;
    Ok(tempfile::Builder::new().prefix("bench-").tempdir_in(tmp)?)
}

/// A directory in memory; removed when dropped.
pub fn memory() -> Result<TempDir> {
    Ok(tempfile::Builder::new().prefix("backspool-bench-").tempdir_in("/dev/shm")?)
}

/// Bytes that no two calls share; benchmarks need no secrets.
pub fn entropy() -> [u8; 16] {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let mut bytes = [1; 16];
    bytes[..8].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_le_bytes());
    bytes
}

/// A disk whose new segments are files that were written before: what their memory costs the first time is not counted.
#[derive(Debug)]
pub struct Touched {
    disk: FileDisk,
    stock: AtomicU64,
}

impl Touched {
    /// In `dir`, which is empty, with `count` files of `bytes`.
    pub fn new(dir: &Path, count: u64, bytes: usize) -> Result<Self> {
        let disk = FileDisk::create(dir)?;
        let content = vec![0xaa; bytes];
        for number in 0..count {
            fs::write(stocked(dir, number), &content)?;
        }
        Ok(Self { disk, stock: AtomicU64::new(count) })
    }
}

fn stocked(dir: &Path, number: u64) -> PathBuf {
    dir.join(stocked_name(number))
}

fn stocked_name(number: u64) -> String {
    format!("stock-{number}")
}

impl Disk for Touched {
    fn open(&self, name: &str, mode: Open) -> error::Result<Arc<dyn File>> {
        let left = self.stock.load(Ordering::Relaxed);
        if mode != Open::CreateNew || !name.ends_with(".seg") || left == 0 {
            return self.disk.open(name, mode);
        }
        self.stock.store(left - 1, Ordering::Relaxed);
        self.disk.rename(&stocked_name(left - 1), name)?;
        self.disk.open(name, Open::Existing)
    }

    fn list(&self) -> error::Result<Vec<String>> {
        self.disk.list()
    }

    fn rename(&self, from: &str, to: &str) -> error::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> error::Result<()> {
        self.disk.remove(name)
    }

    fn sync_dir(&self) -> error::Result<()> {
        self.disk.sync_dir()
    }
}
