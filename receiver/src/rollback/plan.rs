//! What a rollback would write: the blocks in which two states differ, and no other. Pure: states are functions.
//!
//! ```text
//!  touched between the two   ████    ██████████      ██     what the index tells, without reading data
//!  compared, 4 KiB each      █  █        ██                 what really differs
//! ```

use journal::types::{Extent, SECTOR_BYTES, Sector, Sectors};

use crate::error::{Error, Result};

/// Unit of comparison and of counting, in bytes.
pub const BLOCK_BYTES: u64 = 4096;
const BLOCK_SECTORS: u64 = BLOCK_BYTES / SECTOR_BYTES;
/// Read at once, in sectors: 1 MiB.
const PIECE_SECTORS: u64 = 2048;

/// The blocks of one volume that differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In order, not touching each other; whole blocks, but for the end of the volume.
    pub extents: Vec<Extent>,
}

impl Plan {
    /// Bytes to write.
    pub fn bytes(&self) -> u64 {
        self.extents.iter().map(|extent| extent.bytes()).sum()
    }

    /// Blocks to write.
    pub fn blocks(&self) -> u64 {
        self.extents.iter().map(|extent| extent.bytes().div_ceil(BLOCK_BYTES)).sum()
    }
}

/// Where two states may differ: what was `touched`, and all of `to` that lies beyond the `from_size` the other state has.
pub fn candidates(touched: &[Extent], from_size: Sectors, to_size: Sectors) -> Vec<Extent> {
    let sector = |index| Sector::new(index).unwrap_or(Sector::MAX);
    let whole = Extent::new(Sector::default(), to_size);
    let beyond = Extent::between(sector(from_size.count()), sector(to_size.count()));
    let mut blocks: Vec<(u64, u64)> = touched
        .iter()
        .filter_map(|extent| extent.overlap(whole?))
        .chain(beyond)
        .map(|extent| {
            let start = extent.start().index() / BLOCK_SECTORS * BLOCK_SECTORS;
            (start, extent.end().index().next_multiple_of(BLOCK_SECTORS).min(to_size.count()))
        })
        .collect();
    blocks.sort_unstable();
    let mut joined: Vec<(u64, u64)> = Vec::new();
    for (start, end) in blocks {
        match joined.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => joined.push((start, end)),
        }
    }
    joined.into_iter().filter_map(|(start, end)| Extent::between(sector(start), sector(end))).collect()
}

/// Compares the two states block by block within `candidates`. `tick` hears of the bytes compared so far, and may stop it.
pub fn differing(
    candidates: &[Extent],
    mut before: impl FnMut(Extent, &mut [u8]) -> Result<()>,
    mut after: impl FnMut(Extent, &mut [u8]) -> Result<()>,
    mut tick: impl FnMut(u64) -> Result<()>,
) -> Result<Plan> {
    let size = usize::try_from(PIECE_SECTORS * SECTOR_BYTES).map_err(|_| Error::usage("no memory"))?;
    let (mut old, mut new) = (vec![0; size], vec![0; size]);
    let mut runs = Runs::default();
    let mut done = 0;
    for piece in candidates.iter().flat_map(|extent| extent.chunks(PIECE_SECTORS)) {
        let len = usize::try_from(piece.bytes()).unwrap_or(size).min(size);
        before(piece, &mut old[..len])?;
        after(piece, &mut new[..len])?;
        runs.compare(piece, &old[..len], &new[..len]);
        done += piece.bytes();
        tick(done)?;
    }
    Ok(Plan { extents: runs.extents() })
}

/// Runs of sectors, in order, joined where they touch.
#[derive(Debug, Default)]
pub(crate) struct Runs(Vec<(u64, u64)>);

impl Runs {
    /// Adds the blocks of `piece`, which begins with a block and comes behind all others, in which the two differ.
    pub(crate) fn compare(&mut self, piece: Extent, old: &[u8], new: &[u8]) {
        let block = usize::try_from(BLOCK_BYTES).unwrap_or(old.len());
        for (at, (old, new)) in
            (0..).map(|i| piece.start().index() + i * BLOCK_SECTORS).zip(old.chunks(block).zip(new.chunks(block)))
        {
            if old != new {
                self.push(at, (at + BLOCK_SECTORS).min(piece.end().index()));
            }
        }
    }

    /// Adds the sectors from `start` to before `end`, behind all others.
    pub(crate) fn push(&mut self, start: u64, end: u64) {
        match self.0.last_mut() {
            Some(last) if last.1 == start => last.1 = end,
            _ => self.0.push((start, end)),
        }
    }

    /// Adds runs that come behind these.
    pub(crate) fn append(&mut self, others: Self) {
        others.0.into_iter().for_each(|(start, end)| self.push(start, end));
    }

    /// Takes the last one off, to which more may be added.
    pub(crate) fn split_last(&mut self) -> Self {
        Self(self.0.pop().into_iter().collect())
    }

    /// All of them.
    pub(crate) fn extents(self) -> Vec<Extent> {
        let extent = |(start, end)| Extent::between(Sector::new(start)?, Sector::new(end)?);
        self.0.into_iter().filter_map(extent).collect()
    }
}

#[cfg(test)]
mod tests {
    use journal::disk::sim::Rng;

    use super::*;

    fn extent(start: u64, count: u64) -> Extent {
        Extent::new(Sector::new(start).unwrap(), Sectors::new(count).unwrap()).unwrap()
    }

    fn sectors(count: u64) -> Sectors {
        Sectors::new(count).unwrap()
    }

    #[test]
    fn candidates_are_whole_blocks_within_the_target() {
        let (from, to) = (sectors(100), sectors(100));
        assert_eq!(candidates(&[extent(3, 1)], from, to), [extent(0, 8)]);
        assert_eq!(candidates(&[extent(3, 1), extent(9, 1)], from, to), [extent(0, 16)]);
        assert_eq!(candidates(&[extent(97, 3)], from, to), [extent(96, 4)], "the last block is short");
        assert_eq!(candidates(&[extent(90, 50)], from, to), [extent(88, 12)]);
        assert_eq!(candidates(&[extent(120, 5)], from, to), []);
        assert_eq!(candidates(&[], sectors(20), to), [extent(16, 84)], "what only the target has");
        assert_eq!(candidates(&[extent(0, 1)], to, sectors(0)), []);
    }

    #[test]
    fn exactly_the_blocks_that_differ_are_found() {
        let mut rng = Rng::new(7);
        for round in 0..200 {
            let size = 1 + rng.below(40) * 7;
            let bytes = usize::try_from(size * 512).unwrap();
            let old = vec![1_u8; bytes];
            let mut new = old.clone();
            let mut touched = Vec::new();
            for _ in 0..rng.below(12) {
                let at = rng.below(size);
                let count = 1 + rng.below(size - at);
                touched.push(extent(at, count));
                // Half of what is touched is written with what was there.
                if rng.chance(1, 2) {
                    let byte = usize::try_from(at * 512).unwrap() + rng.below_len(512);
                    new[byte] = new[byte].wrapping_add(1);
                }
            }
            let copy = |from: &[u8], extent: Extent, buf: &mut [u8]| {
                let at = usize::try_from(extent.byte()).unwrap();
                buf.copy_from_slice(&from[at..at + buf.len()]);
                Ok(())
            };
            let list = candidates(&touched, sectors(size), sectors(size));
            let plan = differing(&list, |e, b| copy(&old, e, b), |e, b| copy(&new, e, b), |_| Ok(())).unwrap();
            let brute: u64 = old.chunks(4096).zip(new.chunks(4096)).filter(|(a, b)| a != b).count() as u64;
            assert_eq!(plan.blocks(), brute, "round {round}");
            let mut rolled = old.clone();
            for extent in &plan.extents {
                let (at, len) = (usize::try_from(extent.byte()).unwrap(), usize::try_from(extent.bytes()).unwrap());
                rolled[at..at + len].copy_from_slice(&new[at..at + len]);
            }
            assert_eq!(rolled, new, "round {round}");
        }
    }
}
