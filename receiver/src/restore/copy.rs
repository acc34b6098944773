//! A volume of a view, written out: a few threads, a megabyte at a time, everything checked and hashed on the way.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use journal::store::{View, VolumeInfo};
use journal::types::{Extent, SECTOR_BYTES, Sector, Sectors};

use super::HOLE_BYTES;
use super::hash::{PIECE_BYTES, Tree, hash_piece};
use super::target::Target;
use crate::error::{Code, Error, Result};
use crate::image::is_zero;

/// Some read, check and hash while others wait for the disk.
const THREADS: usize = 4;
const PIECE_SECTORS: u64 = PIECE_BYTES / SECTOR_BYTES;

/// What was written of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Copied {
    /// Bytes written; zeroes that could be left out are not among them.
    pub(super) bytes: u64,
    /// BLAKE3 of the whole volume.
    pub(super) hash: blake3::Hash,
}

/// Writes all of `volume` to `target`. `tick` hears of the bytes dealt with, from all threads, and may stop it.
pub(super) fn copy(
    view: &View,
    volume: &VolumeInfo,
    target: &Target,
    tick: &(dyn Fn(u64) -> ControlFlow<()> + Sync),
) -> Result<Copied> {
    let job = Job {
        view,
        volume,
        target,
        tick,
        pieces: volume.size.count().div_ceil(PIECE_SECTORS),
        next: AtomicU64::new(0),
        written: AtomicU64::new(0),
        failed: AtomicBool::new(false),
        tree: Mutex::default(),
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(|| job.work())).collect();
        // The first error is the one to tell: the others were stopped by it.
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(result) => result,
            Err(_) => Err(Error::new(Code::FAILED, "a thread of the restore panicked")),
        })
    })?;
    let tree = job.tree.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(Copied { bytes: job.written.into_inner(), hash: tree.finish() })
}

struct Job<'a> {
    view: &'a View,
    volume: &'a VolumeInfo,
    target: &'a Target,
    tick: &'a (dyn Fn(u64) -> ControlFlow<()> + Sync),
    pieces: u64,
    next: AtomicU64,
    written: AtomicU64,
    failed: AtomicBool,
    tree: Mutex<Tree>,
}

impl Job<'_> {
    fn work(&self) -> Result<()> {
        let mut buf = vec![0; usize::try_from(PIECE_BYTES).unwrap_or(HOLE_BYTES)];
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            if index >= self.pieces || self.failed.load(Ordering::Relaxed) {
                return Ok(());
            }
            self.piece(index, &mut buf).inspect_err(|_| self.failed.store(true, Ordering::Relaxed))?;
        }
    }

    fn piece(&self, index: u64, buf: &mut [u8]) -> Result<()> {
        let start = index * PIECE_SECTORS;
        let count = PIECE_SECTORS.min(self.volume.size.count() - start);
        let piece = Sector::new(start).zip(Sectors::new(count)).and_then(|(start, count)| Extent::new(start, count));
        let piece = piece.ok_or_else(|| Error::new(Code::FAILED, "a volume larger than volumes are"))?;
        let len = usize::try_from(piece.bytes()).unwrap_or(buf.len()).min(buf.len());
        let buf = &mut buf[..len];
        self.view.read(self.volume.number, piece.byte(), buf)?;
        self.write(piece, buf)?;
        let hashed = hash_piece(index, self.pieces, buf);
        self.tree.lock().unwrap_or_else(PoisonError::into_inner).add(index, hashed);
        match (self.tick)(piece.bytes()) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::new(Code::FAILED, "the restore was interrupted")),
        }
    }

    fn write(&self, piece: Extent, data: &[u8]) -> Result<()> {
        let mut at = 0;
        while at < data.len() {
            let is_hole = |chunk: &[u8]| is_zero(chunk);
            let hole = is_hole(&data[at..(at + HOLE_BYTES).min(data.len())]);
            let same = data[at..].chunks(HOLE_BYTES).take_while(|chunk| is_hole(chunk) == hole);
            let len: usize = same.map(<[u8]>::len).sum();
            let offset = piece.byte() + at as u64;
            match Extent::of_bytes(offset, len as u64).filter(|_| hole) {
                Some(_) if self.target.is_fresh() => {}
                Some(hole) => self.target.zero(hole)?,
                None => {
                    self.target.write(offset, &data[at..at + len])?;
                    self.written.fetch_add(len as u64, Ordering::Relaxed);
                }
            }
            at += len;
        }
        Ok(())
    }
}
