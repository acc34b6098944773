//! The volume and what is on it before the first operation: stamped extents and holes, known from a seed.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::op::Micros;
use crate::rng::mix;
use crate::stamp::{Fill, SECTOR_BYTES, Stamp};

/// What must be known of a volume to judge it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Decides the identity, the initial content and where the holes are.
    pub seed: u64,
    /// A multiple of 512.
    pub size_bytes: u64,
    /// How all its content is generated.
    pub fill: Fill,
    /// Share of extents that are holes at the start; 100 is a blank volume.
    pub holes_percent: u8,
}

impl Volume {
    /// A volume of incompressible content, three extents in ten being holes.
    pub const fn new(seed: u64, size_bytes: u64) -> Self {
        Self { seed, size_bytes, fill: Fill::Random, holes_percent: 30 }
    }

    /// The identity in every stamp.
    pub const fn id(&self) -> u64 {
        mix(self.seed ^ 0x766f_6c75_6d65)
    }

    /// How many sectors there are.
    pub const fn sectors(&self) -> u64 {
        self.size_bytes / SECTOR_BYTES as u64
    }

    /// Is the sector in a hole at the start?
    pub fn is_hole(&self, sector: u64) -> bool {
        let extent = sector / EXTENT_SECTORS;
        mix(self.id() ^ mix(extent)) % 100 < u64::from(self.holes_percent)
    }

    /// The stamp with which the sector starts, if it is not in a hole.
    pub fn initial(&self, sector: u64) -> Option<Stamp> {
        (!self.is_hole(sector)).then(|| self.stamp(sector, 0, Micros(0), 0))
    }

    /// The stamp of a write on this volume.
    pub const fn stamp(&self, sector: u64, number: u64, submitted: Micros, writer: u16) -> Stamp {
        Stamp { volume: self.id(), sector, number, submitted, writer, fill: self.fill }
    }
}

/// Writes the initial content of `volume` to `path`, as a sparse file of exactly its size.
///
/// # Errors
/// What creating and writing the file gives.
pub fn fill_initial(path: &Path, volume: &Volume) -> io::Result<()> {
    let file = File::create(path)?;
    file.set_len(volume.size_bytes)?;
    let mut extent = Vec::new();
    let mut first = 0;
    while first < volume.sectors() {
        let end = (first + EXTENT_SECTORS).min(volume.sectors());
        extent.clear();
        for stamp in (first..end).filter_map(|sector| volume.initial(sector)) {
            let mut bytes = [0; SECTOR_BYTES];
            stamp.render(&mut bytes);
            extent.extend_from_slice(&bytes);
        }
        // An extent is a hole as a whole or not at all.
        file.write_all_at(&extent, first * SECTOR_BYTES as u64)?;
        first = end;
    }
    Ok(())
}

/// Holes come and go in steps of 64 KiB.
const EXTENT_SECTORS: u64 = 128;

#[cfg(test)]
mod tests {
    use super::{Volume, fill_initial};
    use crate::{History, image_of};
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_filled_file_is_legal_and_has_holes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("volume");
        let volume = Volume::new(3, (8 << 20) + 1536);
        fill_initial(&path, &volume).unwrap();
        let file = std::fs::File::open(&path).unwrap();
        let meta = file.metadata().unwrap();
        assert_eq!(meta.len(), volume.size_bytes);
        assert!(meta.blocks() * 512 < volume.size_bytes * 9 / 10, "no holes");
        let history = History::new(volume, Vec::new());
        let verdict = history.judge(crate::Micros(1), &mut image_of(&file)).unwrap();
        assert!(verdict.is_legal(), "{verdict}");
        assert_eq!(verdict.sectors, volume.sectors());
        let other = History::new(Volume::new(4, volume.size_bytes), Vec::new());
        assert!(!other.judge(crate::Micros(1), &mut image_of(&file)).unwrap().is_legal());
    }
}
