//! What differs between two points of a volume.
//!
//! ```text
//!  touched between the two      ████    ██████████      ██       what the journal tells, without reading data
//!  beyond the end of one                                  ░██░   what the other one holds there
//!  compared, 4 KiB each         █  █        ██            ██     what really differs
//! ```
//!
//! A block that was written with what was there does not differ. Beyond its end a volume reads as zeroes: that the sizes differ is told
//! beside the blocks. So the two may change places, and the blocks are the same.

mod pair;
#[cfg(test)]
mod tests;

use std::ops::ControlFlow;

use journal::store::{View, VolumeInfo};
use journal::types::{Extent, Sectors};

use crate::error::{Code, Error, Result};
use crate::pieces;
use crate::rollback::plan::{BLOCK_BYTES, Runs};
pub(crate) use pair::Pair;

/// Read at once of each of the two, in sectors: 1 MiB.
pub(crate) const PIECE_SECTORS: u64 = 2048;
pub(crate) const PIECE_BYTES: usize = 1 << 20;

/// Hears of the bytes dealt with, from several threads, and may stop it.
pub(crate) type Tick<'a> = &'a (dyn Fn(u64) -> ControlFlow<()> + Sync);

/// How much of a volume differs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Differing {
    /// Bytes of all blocks that differ.
    pub bytes: u64,
    /// How many those are.
    pub blocks: u64,
    /// How many runs of them.
    pub extents: u64,
}

/// A volume and its sizes at the two points; `None` where it is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// What it is called.
    pub name: String,
    /// At the first of the two.
    pub from: Option<Sectors>,
    /// At the second.
    pub to: Option<Sectors>,
}

/// Two points of a group, and the volumes to look at.
#[derive(Debug)]
pub struct Diff {
    from: View,
    to: View,
    volumes: Vec<(Option<VolumeInfo>, Option<VolumeInfo>)>,
}

impl Diff {
    /// All volumes that there are at either point, or the one of this name.
    pub fn new(from: View, to: View, only: Option<&str>) -> Self {
        let same = |a: &VolumeInfo, b: &VolumeInfo| a.uuid == b.uuid;
        let then = from.volumes().iter().map(|then| {
            let now = to.volumes().iter().find(|now| same(then, now));
            (Some(then.clone()), now.cloned())
        });
        let new = to.volumes().iter().filter(|now| !from.volumes().iter().any(|then| same(then, now)));
        let all = then.chain(new.map(|now| (None, Some(now.clone()))));
        let named = |pair: &(Option<VolumeInfo>, Option<VolumeInfo>)| {
            only.is_none_or(|name| [&pair.0, &pair.1].into_iter().flatten().any(|volume| volume.name == name))
        };
        let volumes = all.filter(named).collect();
        Self { from, to, volumes }
    }

    /// The volumes, in the order of [`run`](Self::run).
    pub fn volumes(&self) -> Vec<Sizes> {
        let size = |volume: &Option<VolumeInfo>| volume.as_ref().map(|volume| volume.size);
        let name = |(then, now): &(Option<VolumeInfo>, Option<VolumeInfo>)| {
            now.as_ref().or(then.as_ref()).map_or_else(String::new, |volume| volume.name.clone())
        };
        self.volumes.iter().map(|both| Sizes { name: name(both), from: size(&both.0), to: size(&both.1) }).collect()
    }

    /// Bytes that `tick` will hear of.
    pub fn bytes(&self) -> u64 {
        self.volumes().iter().map(|sizes| sizes.from.max(sizes.to).unwrap_or_default().bytes()).sum()
    }

    /// Compares them. `found` gets what differs of a volume, in order and not touching each other.
    pub fn run(&self, tick: Tick<'_>, mut found: impl FnMut(usize, Extent) -> Result<()>) -> Result<Vec<Differing>> {
        let each = self.volumes.iter().enumerate();
        each.map(|(place, (then, now))| {
            let pair = Pair::new((&self.from, then.as_ref()), (&self.to, now.as_ref()));
            volume(&pair, tick, |extent| found(place, extent))
        })
        .collect()
    }
}

fn volume(pair: &Pair<'_>, tick: Tick<'_>, mut found: impl FnMut(Extent) -> Result<()>) -> Result<Differing> {
    let mut differing = Differing::default();
    let mut tell = |extent: Extent| {
        differing.bytes += extent.bytes();
        differing.blocks += extent.bytes().div_ceil(BLOCK_BYTES);
        differing.extents += 1;
        found(extent)
    };
    // The last run of a window may go on in the next one.
    let mut open = Runs::default();
    for window in pair.windows() {
        let pieces: Vec<Extent> =
            pair.candidates(window)?.into_iter().flat_map(|extent| extent.chunks(PIECE_SECTORS)).collect();
        let compared = pieces::each(
            pieces.len() as u64,
            || (vec![0; PIECE_BYTES], vec![0; PIECE_BYTES]),
            |number, (old, new)| {
                let Some(&piece) = usize::try_from(number).ok().and_then(|number| pieces.get(number)) else {
                    return Ok(Runs::default());
                };
                let length = usize::try_from(piece.bytes()).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
                let (old, new) = (&mut old[..length], &mut new[..length]);
                pair.from.read(piece, old)?;
                pair.to.read(piece, new)?;
                go_on(tick(piece.bytes()))?;
                let mut runs = Runs::default();
                runs.compare(piece, old, new);
                Ok(runs)
            },
        )?;
        compared.into_iter().for_each(|runs| open.append(runs));
        let last = open.split_last();
        std::mem::replace(&mut open, last).extents().into_iter().try_for_each(&mut tell)?;
        let skipped = window.bytes() - pieces.iter().map(|piece| piece.bytes()).sum::<u64>().min(window.bytes());
        go_on(tick(skipped))?;
    }
    open.extents().into_iter().try_for_each(&mut tell)?;
    Ok(differing)
}

/// Who asked may have gone.
pub(crate) fn go_on(flow: ControlFlow<()>) -> Result<()> {
    match flow {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::new(Code::FAILED, "interrupted")),
    }
}
