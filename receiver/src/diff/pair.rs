//! One volume as of two points.

use journal::store::{View, VolumeInfo};
use journal::types::{Extent, Sector, Sectors};

use crate::error::Result;
use crate::rollback::plan::candidates;

/// Sectors looked at together: bounds the memory for lists of extents. 1 GiB.
const WINDOW_SECTORS: u64 = 2 * 1024 * 1024;

/// A volume as of a point; a volume that is not there has no sectors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Side<'a> {
    view: &'a View,
    volume: Option<&'a VolumeInfo>,
}

/// The same volume as of two points, in no order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair<'a> {
    pub(crate) from: Side<'a>,
    pub(crate) to: Side<'a>,
}

impl Side<'_> {
    /// How large it is.
    pub(crate) fn size(&self) -> Sectors {
        self.volume.map_or_else(Sectors::default, |volume| volume.size)
    }

    /// Fills `buf` with what it holds at `extent`; zeroes beyond its end.
    pub(crate) fn read(&self, extent: Extent, buf: &mut [u8]) -> Result<()> {
        let inside = self.inside(extent);
        let length = inside.map_or(0, |inside| usize::try_from(inside.bytes()).unwrap_or(buf.len())).min(buf.len());
        let (held, beyond) = buf.split_at_mut(length);
        beyond.fill(0);
        match self.volume {
            Some(volume) if !held.is_empty() => Ok(self.view.read(volume.number, extent.byte(), held)?),
            _ => Ok(()),
        }
    }

    /// What of `within` holds data.
    fn data(&self, within: Extent) -> Result<Vec<Extent>> {
        match self.volume.zip(self.inside(within)) {
            Some((volume, inside)) => Ok(self.view.data(volume.number, inside)?),
            None => Ok(Vec::new()),
        }
    }

    fn inside(&self, extent: Extent) -> Option<Extent> {
        extent.overlap(whole(self.size())?)
    }
}

impl<'a> Pair<'a> {
    /// The volume as of each of two points.
    pub(crate) fn new(from: (&'a View, Option<&'a VolumeInfo>), to: (&'a View, Option<&'a VolumeInfo>)) -> Self {
        Self { from: Side { view: from.0, volume: from.1 }, to: Side { view: to.0, volume: to.1 } }
    }

    /// The larger of the two sizes.
    pub(crate) fn size(&self) -> Sectors {
        self.from.size().max(self.to.size())
    }

    /// All of it, a window after the other.
    pub(crate) fn windows(&self) -> impl Iterator<Item = Extent> + use<> {
        whole(self.size()).into_iter().flat_map(|whole| whole.chunks(WINDOW_SECTORS))
    }

    /// Where within a window the two may differ: in order, apart, whole blocks but for the end.
    pub(crate) fn candidates(&self, window: Extent) -> Result<Vec<Extent>> {
        let both = self.from.inside(window).zip(self.to.inside(window)).and_then(|(from, to)| from.overlap(to));
        let mut extents = match (self.from.volume, self.to.volume, both) {
            (Some(from), Some(to), Some(both)) if from.number == to.number => {
                self.from.view.touched_between(self.to.view, from.number, both)?
            }
            (_, _, Some(both)) => [self.from.data(both)?, self.to.data(both)?].concat(),
            (_, _, None) => Vec::new(),
        };
        let beyond = Extent::between(both.map_or_else(|| window.start(), Extent::end), window.end());
        for side in [self.from, self.to] {
            extents.extend(beyond.map(|beyond| side.data(beyond)).transpose()?.unwrap_or_default());
        }
        Ok(candidates(&extents, self.size(), self.size()))
    }
}

fn whole(size: Sectors) -> Option<Extent> {
    Extent::new(Sector::default(), size)
}
