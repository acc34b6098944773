//! A volume as of a point, as clients get it: over NBD, over FUSE, or both over one scratch.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use journal::store::{PointInfo, View, VolumeInfo};
use journal::types::{Extent, SECTOR_BYTES};

use super::blocks::{BLOCK_BYTES, Place};
use super::scratch::{Below, Scratch};
use crate::error::{Code, Error, Result};

/// What is looked at in one go when asked what holds data: an answer takes as much memory as it has extents.
const WINDOW_BYTES: u64 = 64 << 20;
/// The same behind a hole: a volume of 16 TiB that is empty is looked through in some hundred milliseconds.
const WINDOW_BYTES_MAX: u64 = 1 << 30;

/// A run of bytes that hold data, or that are zero and take no room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Which bytes.
    pub bytes: Range<u64>,
    /// Whether they hold data.
    pub data: bool,
}

/// A view of one volume, read-only or with a scratch of its own. It holds what it stands on until it is dropped.
#[derive(Debug)]
pub struct Served {
    base: Base,
    point: PointInfo,
    scratch: Option<Scratch>,
}

#[derive(Debug)]
struct Base {
    view: View,
    volume: VolumeInfo,
    group: String,
    failures: AtomicU64,
}

impl Served {
    /// `volume` of a view, which is that of `point`; with a scratch clients may write.
    pub fn new(group: &str, view: View, volume: VolumeInfo, point: PointInfo, scratch: Option<Scratch>) -> Arc<Self> {
        let base = Base { view, volume, group: group.to_owned(), failures: AtomicU64::new(0) };
        Arc::new(Self { base, point, scratch })
    }

    /// Which volume.
    pub fn volume(&self) -> &VolumeInfo {
        &self.base.volume
    }

    /// As of which point.
    pub fn point(&self) -> &PointInfo {
        &self.point
    }

    /// Its size in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.base.size_bytes()
    }

    /// Whether clients may write.
    pub fn is_writable(&self) -> bool {
        self.scratch.is_some()
    }

    /// What its scratch holds, and may hold, in bytes; `None` without one.
    pub fn scratch_bytes(&self) -> Option<(u64, u64)> {
        self.scratch.as_ref().map(Scratch::bytes)
    }

    /// Fills `buf` with what is at `offset`: any bytes inside the size.
    pub fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        match &self.scratch {
            Some(scratch) => scratch.read(&self.base, offset, buf),
            None => self.base.read(offset, buf),
        }
    }

    /// Writes into the scratch.
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.change(offset, data.len() as u64, |scratch| scratch.write(&self.base, offset, data))
    }

    /// Makes bytes zero.
    pub fn zero(&self, offset: u64, length: u64) -> Result<()> {
        self.change(offset, length, |scratch| scratch.zero(&self.base, offset, length))
    }

    /// Bytes that are needed no more: those of whole blocks are zero then.
    pub fn trim(&self, offset: u64, length: u64) -> Result<()> {
        self.change(offset, length, |scratch| scratch.trim(&self.base, offset, length))
    }

    fn change(&self, offset: u64, length: u64, with: impl FnOnce(&Scratch) -> Result<()>) -> Result<()> {
        let scratch = self.scratch.as_ref().ok_or_else(|| Error::usage("the view is read-only"))?;
        if offset.checked_add(length).is_none_or(|end| end > self.size_bytes()) {
            return Err(Error::new(Code::NO_SPACE, format!("the volume ends at byte {}", self.size_bytes())));
        }
        if length == 0 { Ok(()) } else { with(scratch) }
    }

    /// What of these bytes holds data, from their start on and in order: all of them, unless there are more than `runs_max` runs.
    pub fn runs(&self, bytes: Range<u64>, runs_max: usize) -> Result<Vec<Run>> {
        let mut runs: Vec<Run> = Vec::new();
        self.each_window(bytes, |found| {
            for run in found {
                match runs.last_mut() {
                    Some(last) if last.data == run.data => last.bytes.end = run.bytes.end,
                    _ => runs.push(run),
                }
            }
            if runs.len() < runs_max { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        runs.truncate(runs_max);
        Ok(runs)
    }

    /// The first byte from `offset` on that is data, or that is none; `None`: there is none up to the end.
    pub fn seek(&self, offset: u64, data: bool) -> Result<Option<u64>> {
        let mut first = None;
        self.each_window(offset..self.size_bytes(), |found| {
            first = found.into_iter().find(|run| run.data == data).map(|run| run.bytes.start);
            if first.is_none() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        Ok(first)
    }

    /// Looks at bytes window by window; where there is nothing at all in longer and longer ones.
    fn each_window(&self, bytes: Range<u64>, mut look: impl FnMut(Vec<Run>) -> ControlFlow<()>) -> Result<()> {
        let (mut at, mut length) = (bytes.start, WINDOW_BYTES);
        while at < bytes.end {
            let window = at..bytes.end.min(at.saturating_add(length));
            at = window.end;
            let found = self.runs_within(window)?;
            length = if found.iter().any(|run| run.data) { WINDOW_BYTES } else { (2 * length).min(WINDOW_BYTES_MAX) };
            if look(found).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn runs_within(&self, bytes: Range<u64>) -> Result<Vec<Run>> {
        let Some(scratch) = &self.scratch else { return self.base.runs(bytes) };
        let mut runs = Vec::new();
        for piece in scratch.pieces(bytes.clone()) {
            let from = bytes.start.max(piece.blocks.start * BLOCK_BYTES);
            let part = from..bytes.end.min(piece.blocks.end * BLOCK_BYTES);
            match piece.place {
                Place::View => runs.extend(self.base.runs(part)?),
                Place::Zero => runs.push(Run { bytes: part, data: false }),
                Place::Slot(_) => runs.push(Run { bytes: part, data: true }),
            }
        }
        Ok(runs)
    }
}

impl Base {
    fn runs(&self, bytes: Range<u64>) -> Result<Vec<Run>> {
        let (start, end) = sectors_around(&bytes);
        let Some(within) = Extent::of_bytes(start, end - start) else { return Ok(Vec::new()) };
        let mut runs = Vec::new();
        let mut at = bytes.start;
        for data in self.view.data(self.volume.number, within).map_err(|error| self.failed(error))? {
            let (from, to) = (data.byte().max(bytes.start), (data.byte() + data.bytes()).min(bytes.end));
            if at < from {
                runs.push(Run { bytes: at..from, data: false });
            }
            runs.push(Run { bytes: from..to, data: true });
            at = to;
        }
        if at < bytes.end {
            runs.push(Run { bytes: at..bytes.end, data: false });
        }
        Ok(runs)
    }

    /// What cannot be read is told in the log, but not for each try of a client that does not give up.
    fn failed(&self, error: journal::error::Error) -> Error {
        let count = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        if count.is_power_of_two() {
            let (group, volume, seq) = (&self.group, &self.volume.name, self.view.seq());
            tracing::error!(group, volume, %seq, count, %error, "a read of a view failed");
        }
        error.into()
    }
}

impl Below for Base {
    fn size_bytes(&self) -> u64 {
        self.volume.size.bytes()
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let bytes = offset..offset + buf.len() as u64;
        let (start, end) = sectors_around(&bytes);
        let read = |offset, buf: &mut [u8]| {
            self.view.read(self.volume.number, offset, buf).map_err(|error| self.failed(error))
        };
        if (start, end) == (bytes.start, bytes.end) {
            return read(offset, buf);
        }
        let mut sectors = vec![0; usize::try_from(end - start).unwrap_or(usize::MAX)];
        read(start, &mut sectors)?;
        let skipped = usize::try_from(offset - start).unwrap_or(0);
        buf.copy_from_slice(&sectors[skipped..skipped + buf.len()]);
        Ok(())
    }
}

fn sectors_around(bytes: &Range<u64>) -> (u64, u64) {
    (bytes.start / SECTOR_BYTES * SECTOR_BYTES, bytes.end.next_multiple_of(SECTOR_BYTES))
}

#[cfg(test)]
#[path = "served_tests.rs"]
mod tests;
