//! Which operation comes next, and which ranges are taken by others.

use std::sync::{Mutex, PoisonError};

use crate::history::BLOCK_SECTORS;
use crate::op::{Kind, Sectors};
use crate::rng::Rng;
use crate::stamp::SECTOR_BYTES;
use crate::workload::Workload;

/// Where writes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Anywhere.
    Random,
    /// Each connection goes through a part of its own, again and again.
    Sequential,
}

/// One size in a mix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizeShare {
    /// A multiple of 512; placed at multiples of it, or of 4 KiB if it is larger.
    pub bytes: u32,
    /// How often, beside the others' weights.
    pub weight: u32,
}

/// A part of the volume that is written more often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hot {
    /// Its size, from the start of the volume.
    pub bytes: u64,
    /// How many of 100 random writes go there.
    pub percent: u8,
}

/// One connection's source of operations.
#[derive(Debug)]
pub(crate) struct Picker<'a> {
    load: &'a Workload,
    volume_sectors: u64,
    rng: Rng,
    /// Of the pattern `Sequential`.
    own: Sectors,
    cursor: u64,
}

impl<'a> Picker<'a> {
    pub(crate) fn new(load: &'a Workload, volume_sectors: u64, writer: u16) -> Self {
        let share = volume_sectors / u64::from(load.connections.max(1));
        let own = Sectors { first: share * u64::from(writer), count: share };
        let rng = Rng::new(load.seed ^ (u64::from(writer) << 48));
        Self { load, volume_sectors, rng, own, cursor: own.first }
    }

    pub(crate) fn next(&mut self) -> (Kind, Sectors) {
        let roll = self.rng.below(100);
        let zero = u64::from(self.load.zero_percent);
        let kind = match roll {
            _ if roll < zero => Kind::Zero,
            _ if roll < zero + u64::from(self.load.trim_percent) => Kind::Trim,
            _ => Kind::Write,
        };
        (kind, self.place())
    }

    pub(crate) fn fua(&mut self) -> bool {
        self.rng.percent(self.load.fua_percent)
    }

    fn place(&mut self) -> Sectors {
        let count = self.size().min(self.volume_sectors);
        if self.load.pattern == Pattern::Sequential {
            if self.cursor + count > self.own.end() {
                self.cursor = self.own.first;
            }
            let first = self.cursor.min(self.volume_sectors - count);
            self.cursor = first + count;
            return Sectors { first, count };
        }
        let hot = self.load.hot.filter(|hot| self.rng.percent(hot.percent));
        let within = hot.map_or(self.volume_sectors, |hot| hot.bytes / SECTOR_BYTES as u64);
        let within = within.clamp(count, self.volume_sectors);
        let step = count.clamp(1, BLOCK_SECTORS);
        let first = self.rng.below((within - count) / step + 1) * step;
        Sectors { first, count }
    }

    fn size(&mut self) -> u64 {
        let total: u64 = self.load.sizes.iter().map(|share| u64::from(share.weight)).sum();
        let mut roll = self.rng.below(total.max(1));
        for share in &self.load.sizes {
            if roll < u64::from(share.weight) {
                return (u64::from(share.bytes) / SECTOR_BYTES as u64).max(1);
            }
            roll -= u64::from(share.weight);
        }
        BLOCK_SECTORS
    }
}

/// The ranges in flight on all connections.
#[derive(Debug, Default)]
pub(crate) struct InFlight(Mutex<Vec<Sectors>>);

impl InFlight {
    /// Takes the range, unless a part of it is taken.
    pub(crate) fn claim(&self, sectors: Sectors) -> bool {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let free = !taken.iter().any(|other| other.overlaps(sectors));
        if free {
            taken.push(sectors);
        }
        free
    }

    pub(crate) fn release(&self, sectors: Sectors) {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = taken.iter().position(|other| *other == sectors) {
            taken.swap_remove(at);
        }
    }
}
