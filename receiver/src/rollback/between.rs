//! Which blocks two views of a group hold differently, and what one of them has there; in bounded memory, however many they are.

use bytes::Bytes;
use journal::limits::{ROLLBACK_DATA_BYTES, ROLLBACK_ZERO_BYTES};
use journal::store::View;
use journal::types::{Extent, SECTOR_BYTES, VolumeNo};
use journal::wire::RollbackBlocks;

use super::plan::{candidates, differing};
use crate::error::Result;
use crate::image::is_zero;

/// Looked at together, in sectors: 16 GiB, of which at most so many blocks of 4 KiB are remembered apart.
const WINDOW_SECTORS: u64 = 32 << 20;
/// Runs of blocks that are remembered until they are sent: 24 MiB. Of more the views are compared once more.
const RUNS_KEPT: usize = 1 << 20;

/// What the sources hold, and what they are to hold.
#[derive(Debug)]
pub(crate) struct Between {
    pub(crate) now: View,
    pub(crate) then: View,
}

/// How much differs.
#[derive(Debug, Default)]
pub(crate) struct Difference {
    pub(crate) blocks: u64,
    pub(crate) bytes: u64,
    /// `None`: too much to be remembered.
    runs: Option<Vec<(VolumeNo, Extent)>>,
}

impl Between {
    /// Compares them; `go_on` is asked now and then.
    pub(crate) fn compare(&self, mut go_on: impl FnMut() -> Result<()>) -> Result<Difference> {
        let mut difference = Difference { runs: Some(Vec::new()), ..Difference::default() };
        self.windows(&mut go_on, |volume, runs, blocks, bytes| {
            difference.blocks += blocks;
            difference.bytes += bytes;
            difference.runs = difference.runs.take().filter(|known| known.len() + runs.len() <= RUNS_KEPT);
            if let Some(known) = &mut difference.runs {
                known.extend(runs.iter().map(|run| (volume, *run)));
            }
            Ok(())
        })?;
        Ok(difference)
    }

    /// Calls `send` with what the sources are to hold where they differ, in order.
    pub(crate) fn each(
        &self,
        difference: &Difference,
        mut send: impl FnMut(RollbackBlocks) -> Result<()>,
    ) -> Result<()> {
        let mut pieces = Pieces { then: &self.then, zeroes: None };
        match &difference.runs {
            Some(runs) => runs.iter().try_for_each(|(volume, run)| pieces.run(*volume, *run, &mut send))?,
            None => self.windows(&mut || Ok(()), |volume, runs, _, _| {
                runs.iter().try_for_each(|run| pieces.run(volume, *run, &mut send))
            })?,
        }
        pieces.end(&mut send)
    }

    fn windows(
        &self,
        go_on: &mut dyn FnMut() -> Result<()>,
        mut found: impl FnMut(VolumeNo, &[Extent], u64, u64) -> Result<()>,
    ) -> Result<()> {
        for volume in self.then.volumes() {
            let number = volume.number;
            let Some(whole) = self.then.whole(number) else { continue };
            for window in whole.chunks(WINDOW_SECTORS) {
                let touched = self.now.touched_between(&self.then, number, window)?;
                // What is there now is not smaller.
                let list = candidates(&touched, volume.size, volume.size);
                let read = |view: &View, extent: Extent, buf: &mut [u8]| Ok(view.read(number, extent.byte(), buf)?);
                let plan = differing(
                    &list,
                    |extent, buf| read(&self.now, extent, buf),
                    |extent, buf| read(&self.then, extent, buf),
                    |_| go_on(),
                )?;
                found(number, &plan.extents, plan.blocks(), plan.bytes())?;
            }
        }
        Ok(())
    }
}

/// Cuts runs into messages; zeroes that follow one another are one.
struct Pieces<'a> {
    then: &'a View,
    zeroes: Option<(VolumeNo, u64, u64)>,
}

impl Pieces<'_> {
    fn run(
        &mut self,
        volume: VolumeNo,
        run: Extent,
        send: &mut impl FnMut(RollbackBlocks) -> Result<()>,
    ) -> Result<()> {
        for piece in run.chunks(ROLLBACK_DATA_BYTES as u64 / SECTOR_BYTES) {
            let mut data = vec![0; usize::try_from(piece.bytes()).unwrap_or(ROLLBACK_DATA_BYTES)];
            self.then.read(volume, piece.byte(), &mut data)?;
            if !is_zero(&data) {
                self.end(send)?;
                send(RollbackBlocks::data(volume, piece.byte(), Bytes::from(data)))?;
                continue;
            }
            match &mut self.zeroes {
                Some((known, at, length))
                    if *known == volume
                        && *at + *length == piece.byte()
                        && *length + piece.bytes() <= ROLLBACK_ZERO_BYTES.into() =>
                {
                    *length += piece.bytes();
                }
                _ => {
                    self.end(send)?;
                    self.zeroes = Some((volume, piece.byte(), piece.bytes()));
                }
            }
        }
        Ok(())
    }

    fn end(&mut self, send: &mut impl FnMut(RollbackBlocks) -> Result<()>) -> Result<()> {
        let Some((volume, at, length)) = self.zeroes.take() else { return Ok(()) };
        send(RollbackBlocks::zeroes(volume, at, u32::try_from(length).unwrap_or(ROLLBACK_ZERO_BYTES)))
    }
}
