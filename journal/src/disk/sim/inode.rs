//! One simulated file: what reads see, what is durable, and what lies between.

use std::ops::Range;
use std::sync::Arc;

use super::{CrashMode, Rng, bytes};
use crate::error::{Error, Result};

/// What a disk writes as one: a power cut may tear it, but never touches its neighbours.
const SECTOR: usize = 512;

/// Contents live in memory: a larger offset is a mistake in a test.
const MAX_LEN: u64 = 1 << 30;

/// The contents are shared with the disks that were crashed from this one, and between `live` and `durable`, until one of
/// them changes: a crash costs nothing for a file without pending changes.
#[derive(Clone, Default)]
pub(super) struct Inode {
    live: Arc<Vec<u8>>,
    durable: Arc<Vec<u8>>,
    /// What makes `live` of `durable`, in order.
    pending: Vec<Change>,
}

#[derive(Clone)]
enum Change {
    Write { offset: usize, data: Vec<u8> },
    Len(usize),
}

impl Inode {
    pub(super) fn len(&self) -> usize {
        self.live.len()
    }

    pub(super) fn read(&self, offset: u64, buf: &mut [u8]) -> usize {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.live.len());
        let count = buf.len().min(self.live.len() - start);
        buf[..count].copy_from_slice(&self.live[start..start + count]);
        count
    }

    pub(super) fn write(&mut self, offset: u64, data: Vec<u8>) -> Result<()> {
        let offset = checked(offset, data.len())?;
        if !data.is_empty() {
            self.change(Change::Write { offset, data });
        }
        Ok(())
    }

    pub(super) fn set_len(&mut self, len: u64) -> Result<()> {
        let len = checked(len, 0)?;
        self.change(Change::Len(len));
        Ok(())
    }

    fn change(&mut self, change: Change) {
        change.apply(Arc::make_mut(&mut self.live));
        self.pending.push(change);
    }

    pub(super) fn sync(&mut self) {
        if !self.pending.is_empty() {
            let durable = Arc::make_mut(&mut self.durable);
            self.pending.drain(..).for_each(|change| change.apply(durable));
        }
    }

    /// As the kernel does: what could not be written counts as clean, is still read, and never reaches the disk.
    pub(super) fn fail_sync(&mut self, rng: &mut Rng) {
        self.durable = Arc::new(self.survivor(rng));
        self.pending.clear();
    }

    /// What is read from now on comes from the disk: what a failed sync lost is gone.
    pub(super) fn forget_cache(&mut self) {
        let mut live = Arc::clone(&self.durable);
        self.pending.iter().for_each(|change| change.apply(Arc::make_mut(&mut live)));
        self.live = live;
    }

    pub(super) fn flip_bit(&mut self, bit: u64) -> Result<()> {
        let index = usize::try_from(bit / 8).ok().filter(|index| *index < self.live.len());
        let index = index.ok_or_else(|| Error::invalid("the file has no such bit"))?;
        for image in [&mut self.live, &mut self.durable] {
            if let Some(byte) = Arc::make_mut(image).get_mut(index) {
                *byte ^= 1 << (bit % 8);
            }
        }
        Ok(())
    }

    /// The file after a power cut.
    pub(super) fn crash(&self, mode: CrashMode, rng: &mut Rng) -> Self {
        let mut image = Arc::clone(&self.durable);
        match mode {
            CrashMode::LoseAll => {}
            // Not `live`: after a failed sync it holds what never reaches the disk.
            CrashMode::KeepAll => self.pending.iter().for_each(|change| change.apply(Arc::make_mut(&mut image))),
            CrashMode::Random if self.pending.is_empty() => {}
            CrashMode::Random => image = Arc::new(self.survivor(rng)),
        }
        Self { live: Arc::clone(&image), durable: image, pending: Vec::new() }
    }

    /// What a power cut leaves: each sector of each pending write decides for itself, in any version it ever had.
    fn survivor(&self, rng: &mut Rng) -> Vec<u8> {
        let mut image = Vec::clone(&self.durable);
        let mut len = image.len();
        let (mut shortest, mut longest) = (len, len);
        for change in &self.pending {
            len = change.len_after(len);
            shortest = shortest.min(len);
            longest = longest.max(len);
            match change {
                Change::Write { offset, data } => write_some(&mut image, *offset, data, rng),
                Change::Len(_) if rng.chance(1, 2) => change.apply(&mut image),
                Change::Len(_) => {}
            }
        }
        // The length is written apart from the data: any length the file passed through may have reached the disk.
        let len = match rng.below(4) {
            0 => self.durable.len(),
            1 | 2 => len,
            _ => shortest + rng.below_len(longest - shortest + 1),
        };
        image.resize(len, 0);
        image
    }
}

impl Change {
    fn apply(&self, image: &mut Vec<u8>) {
        match self {
            Self::Write { offset, data } => put(image, *offset, data),
            Self::Len(len) => image.resize(*len, 0),
        }
    }

    fn len_after(&self, len: usize) -> usize {
        match self {
            Self::Write { offset, data } => len.max(offset + data.len()),
            Self::Len(len) => *len,
        }
    }
}

/// Whole writes survive or vanish more often than by chance per sector: a later frame without an earlier one is the case
/// that finds bugs, and it would almost never come up.
fn write_some(image: &mut Vec<u8>, offset: usize, data: &[u8], rng: &mut Rng) {
    match rng.below(8) {
        0..3 => put(image, offset, data),
        3..5 => {}
        _ => sectors(offset, data.len())
            .for_each(|part| write_sector(image, part.start, &data[part_of(&part, offset)], rng)),
    }
}

fn write_sector(image: &mut Vec<u8>, offset: usize, data: &[u8], rng: &mut Rng) {
    match rng.below(16) {
        0..6 => put(image, offset, data),
        6..12 => {}
        12..15 => {
            let (left, right) = data.split_at(rng.below_len(data.len() + 1));
            if rng.chance(1, 2) {
                put(image, offset, left);
            } else {
                put(image, offset + left.len(), right);
            }
        }
        _ => {
            let mut garbage = [0; SECTOR];
            rng.fill(&mut garbage);
            put(image, offset, &garbage[..data.len()]);
        }
    }
}

/// The part of each sector that a write of `len` bytes at `offset` touches, as places in the file.
fn sectors(offset: usize, len: usize) -> impl Iterator<Item = Range<usize>> {
    let end = offset + len;
    let first = offset / SECTOR;
    (first..end.div_ceil(SECTOR)).map(move |sector| (sector * SECTOR).max(offset)..((sector + 1) * SECTOR).min(end))
}

/// A place in the file as a place in a write at `offset`.
fn part_of(place: &Range<usize>, offset: usize) -> Range<usize> {
    place.start - offset..place.end - offset
}

fn put(image: &mut Vec<u8>, offset: usize, data: &[u8]) {
    let end = offset + data.len();
    if image.len() < end && !data.is_empty() {
        image.resize(end, 0);
    }
    if !data.is_empty() {
        image[offset..end].copy_from_slice(data);
    }
}

fn checked(offset: u64, len: usize) -> Result<usize> {
    match offset.checked_add(bytes(len)) {
        Some(end) if end <= MAX_LEN => Ok(usize::try_from(offset).expect("at most 2^30")),
        _ => Err(Error::no_space("a simulated file ends at 1 GiB")),
    }
}
