//! Where things are: the volumes of the group, and the few places of them that are ever written to. To clients, the oracle and the judge
//! all these places in a row are one volume, so that a point is judged as one instant of the whole group.
//!
//! ```text
//!   in a row:    [ 0 ......... ][ 1 .... ][ 2 ....... ]
//!   volumes:   0 [ 0 ......... ]     4 MiB [ 1 .... ]       1 [ 2 ....... ]
//! ```
//!
//! Places of one volume are as far apart as extents of the log of what is hot are long.

use journal::disk::sim::Rng;
use journal::types::{Sectors, VolumeNo};

use agent::hot::EXTENT_BYTES;

/// A part of a volume.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) volume: VolumeNo,
    /// Where it is on its volume.
    pub(crate) at: u64,
    /// Where it is in the row.
    pub(crate) row: u64,
    pub(crate) bytes: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) windows: Vec<Window>,
    pub(crate) volumes: u32,
}

impl Layout {
    pub(crate) fn new(rng: &mut Rng) -> Self {
        let volumes = if rng.chance(1, 3) { 2 } else { 1 };
        let places = if rng.chance(1, 2) { 1 } else { 2 + rng.below(2) };
        let (mut windows, mut row) = (Vec::new(), 0);
        for volume in 0..volumes {
            for place in 0..places {
                // In steps of 8 KiB, 64 to 128 KiB in all.
                let bytes = (8 + rng.below(9)) * 8192 / (u64::from(volumes) * places) / 8192 * 8192;
                let bytes = bytes.max(8192);
                windows.push(Window { volume: VolumeNo(volume), at: place * EXTENT_BYTES, row, bytes });
                row += bytes;
            }
        }
        Self { windows, volumes }
    }

    /// Bytes of all of it.
    pub(crate) fn bytes(&self) -> u64 {
        self.windows.iter().map(|window| window.bytes).sum()
    }

    pub(crate) fn numbers(&self) -> impl Iterator<Item = VolumeNo> + use<> {
        (0..self.volumes).map(VolumeNo)
    }

    pub(crate) fn of(&self, volume: VolumeNo) -> Vec<Window> {
        self.windows.iter().copied().filter(|window| window.volume == volume).collect()
    }

    /// The window with this byte of the row.
    pub(crate) fn window(&self, row: u64) -> Window {
        *self.windows.iter().find(|window| row - window.row < window.bytes).expect("a place in the row")
    }

    /// The whole of a volume, once it has grown as far as it ever does.
    pub(crate) fn size(&self, volume: VolumeNo) -> Sectors {
        let last = self.of(volume).pop().expect("a volume has a window");
        Sectors::of_bytes(last.at + last.bytes).unwrap()
    }
}

impl Window {
    /// What of it a volume of this size has.
    pub(crate) fn within(&self, size: Sectors) -> u64 {
        size.bytes().saturating_sub(self.at).min(self.bytes)
    }
}
