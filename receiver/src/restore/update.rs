//! Takes an image from one point to another: what is there is verified first, then only what differs is written.
//!
//! Each sector of the image has to be that of the one point or of the other; a block that is not the target's will be written. So an
//! interrupted update, which leaves some blocks at either point, is carried on by the same call:
//!
//! 1. every byte is read and judged; nothing is written if one is neither
//! 2. a file that is too short is lengthened
//! 3. the blocks are written
//! 4. fdatasync
//! 5. a file that is too long is cut, and synced again
//!
//! Whatever of this a crash leaves behind has one of the two lengths, and in each sector one of the two contents.

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use journal::store::{View, VolumeInfo};
use journal::types::{Extent, SECTOR_BYTES, Sector, Sectors};

use super::existing::Existing;
use super::hash::{Piece, Tree, hash_piece};
use super::{HOLE_BYTES, Restored, file_name};
use crate::diff::{PIECE_BYTES, PIECE_SECTORS, Pair, Tick, go_on};
use crate::error::{Code, Error, Result};
use crate::image::is_zero;
use crate::pieces;
use crate::rollback::plan::{Plan, Runs};

const SECTOR: usize = 512;
const BLOCK: usize = 4096;
/// More places of a piece than this are read with all that is between them.
const READS_MAX: usize = 16;

/// What is to become what.
#[derive(Debug)]
pub struct Update {
    since: View,
    at: View,
    images: Vec<Image>,
}

#[derive(Debug)]
struct Image {
    since: VolumeInfo,
    at: VolumeInfo,
    place: Existing,
}

/// What will be written: it was verified that nothing else has to be.
#[derive(Debug)]
pub struct Verified {
    images: Vec<(Plan, blake3::Hash)>,
}

impl Verified {
    /// Bytes to write.
    pub fn bytes(&self) -> u64 {
        self.images.iter().map(|(plan, _)| plan.bytes()).sum()
    }

    /// Blocks to write.
    pub fn blocks(&self) -> u64 {
        self.images.iter().map(|(plan, _)| plan.blocks()).sum()
    }
}

/// What judging a piece tells.
#[derive(Debug, Default)]
struct Judged {
    to_write: Runs,
    /// Of the target, with the piece's number.
    hash: Option<(u64, Piece)>,
}

#[derive(Debug)]
struct Buffers {
    here: Vec<u8>,
    since: Vec<u8>,
    at: Vec<u8>,
}

impl Buffers {
    fn new() -> Self {
        Self { here: vec![0; PIECE_BYTES], since: vec![0; PIECE_BYTES], at: vec![0; PIECE_BYTES] }
    }
}

impl Update {
    /// The image of one volume at `to`, or those of all of them, each `VOLUME.img` in the directory `to`. They are opened and locked;
    /// nothing is changed.
    pub fn open(since: View, at: View, volume: Option<VolumeInfo>, to: &Path, store: &Path) -> Result<Self> {
        let volumes: Vec<(VolumeInfo, PathBuf)> = match volume {
            Some(volume) => vec![(volume, to.to_owned())],
            None => at.volumes().iter().map(|volume| (volume.clone(), to.join(file_name(volume)))).collect(),
        };
        let images = volumes.into_iter().map(|(volume, path)| {
            let then = since.volumes().iter().find(|then| then.uuid == volume.uuid).cloned().ok_or_else(|| {
                Error::new(Code::NO_VOLUME, format!("there was no volume {} at --since", volume.name))
                    .hint("restore it without --since")
            })?;
            let place = Existing::open(&path, then.size, volume.size, store)?;
            Ok(Image { since: then, at: volume, place })
        });
        let images = images.collect::<Result<_>>()?;
        Ok(Self { since, at, images })
    }

    /// Bytes to verify.
    pub fn bytes(&self) -> u64 {
        self.images.iter().map(|image| image.span().bytes()).sum()
    }

    /// Reads all of it. `tick` hears of the bytes.
    ///
    /// # Errors
    /// `OTHER_IMAGE` with the first place that is neither as of the one point nor as of the other.
    pub fn verify(&self, tick: Tick<'_>) -> Result<Verified> {
        let images = self.images.iter().map(|image| image.verify(&self.pair(image), tick)).collect::<Result<_>>()?;
        Ok(Verified { images })
    }

    /// Writes what differs; when this returns it is durable. `tick` hears of the bytes. Stopped in the middle, it can be done again.
    pub fn write(&self, verified: &Verified, tick: Tick<'_>) -> Result<Restored> {
        let mut restored = Restored { bytes: verified.bytes(), blocks: verified.blocks(), hashes: Vec::new() };
        for (image, (plan, hash)) in self.images.iter().zip(&verified.images) {
            image.write(&self.pair(image), plan, tick)?;
            restored.hashes.push((image.at.name.clone(), hash.to_string()));
        }
        Ok(restored)
    }

    fn pair<'a>(&'a self, image: &'a Image) -> Pair<'a> {
        Pair::new((&self.since, Some(&image.since)), (&self.at, Some(&image.at)))
    }
}

impl Image {
    /// What is looked at: all that either point has. A file that was cut already has no more than the target.
    fn span(&self) -> Sectors {
        let since = if self.place.is_device() { self.since.size } else { length(self.place.length()) };
        since.max(self.at.size)
    }

    fn verify(&self, pair: &Pair<'_>, tick: Tick<'_>) -> Result<(Plan, blake3::Hash)> {
        let (mut runs, mut tree) = (Runs::default(), Tree::default());
        let span = Extent::new(Sector::default(), self.span());
        for window in pair.windows() {
            let Some(window) = span.and_then(|span| window.overlap(span)) else { break };
            let differing = pair.candidates(window)?;
            let pieces: Vec<Extent> = window.chunks(PIECE_SECTORS).collect();
            let judged = pieces::each(pieces.len() as u64, Buffers::new, |number, buffers| {
                let piece = usize::try_from(number).ok().and_then(|number| pieces.get(number));
                piece.map_or_else(|| Ok(Judged::default()), |piece| self.judge(pair, *piece, &differing, buffers, tick))
            })?;
            for judged in judged {
                runs.append(judged.to_write);
                if let Some((index, piece)) = judged.hash {
                    tree.add(index, piece);
                }
            }
        }
        let at = Extent::new(Sector::default(), self.at.size);
        let within = |extent: Extent| extent.overlap(at?);
        Ok((Plan { extents: runs.extents().into_iter().filter_map(within).collect() }, tree.finish()))
    }

    fn judge(
        &self,
        pair: &Pair<'_>,
        piece: Extent,
        differing: &[Extent],
        buffers: &mut Buffers,
        tick: Tick<'_>,
    ) -> Result<Judged> {
        let bytes = usize::try_from(piece.bytes()).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
        let (here, since, at) = (&mut buffers.here[..bytes], &mut buffers.since[..bytes], &mut buffers.at[..bytes]);
        self.place.read(piece.byte(), here)?;
        pair.from.read(piece, since)?;
        at.copy_from_slice(since);
        read_changed(pair, piece, differing, at)?;
        let held = within(piece, self.at.size, bytes);
        // What is beyond the target's end stays what it is until it is cut off.
        at[held..].copy_from_slice(&since[held..]);
        // What a device holds beyond the volume is nobody's.
        let judged = if self.place.is_device() { within(piece, self.since.size, bytes) } else { bytes };
        let mut to_write = Runs::default();
        let blocks = here.chunks(BLOCK).zip(since.chunks(BLOCK)).zip(at.chunks(BLOCK)).enumerate();
        for (block, ((here, since), at)) in blocks {
            if here == at {
                continue;
            }
            let offset = block * BLOCK;
            let strange = |sector: usize| {
                let sector_bytes = sector * SECTOR..((sector + 1) * SECTOR).min(here.len());
                let is = |other: &[u8]| here[sector_bytes.clone()] == other[sector_bytes.clone()];
                offset + sector * SECTOR < judged && !is(since) && !is(at)
            };
            if let Some(sector) = (0..here.len().div_ceil(SECTOR)).find(|sector| strange(*sector)) {
                return Err(self.other_image(piece.byte() + (offset + sector * SECTOR) as u64));
            }
            let start = piece.start().index() + (offset / SECTOR) as u64;
            to_write.push(start, start + (here.len() / SECTOR) as u64);
        }
        let pieces = self.at.size.count().div_ceil(PIECE_SECTORS);
        let index = piece.start().index() / PIECE_SECTORS;
        let hash = (index < pieces).then(|| (index, hash_piece(index, pieces, &at[..held])));
        go_on(tick(piece.bytes()))?;
        Ok(Judged { to_write, hash })
    }

    fn other_image(&self, offset: u64) -> Error {
        let path = self.place.path().display();
        let message = format!("{path} is not that image: byte {offset} is neither as of --since nor as of --at");
        Error::new(Code::OTHER_IMAGE, message).hint(
            "nothing was written; if an earlier call was interrupted, name the same points again, as seq:… of its plan",
        )
    }

    fn write(&self, pair: &Pair<'_>, plan: &Plan, tick: Tick<'_>) -> Result<()> {
        let target = self.at.size.bytes();
        let is_file = !self.place.is_device();
        if is_file && self.place.length() < target {
            self.place.set_length(target)?;
        }
        let pieces: Vec<Extent> = plan.extents.iter().flat_map(|extent| extent.chunks(PIECE_SECTORS)).collect();
        pieces::each(
            pieces.len() as u64,
            || vec![0; PIECE_BYTES],
            |number, buf| {
                let piece = usize::try_from(number).ok().and_then(|number| pieces.get(number));
                piece.map_or(Ok(()), |piece| self.write_piece(pair, *piece, buf, tick))
            },
        )?;
        self.place.sync()?;
        if is_file && self.place.length() > target {
            self.place.set_length(target)?;
            self.place.sync()?;
        }
        Ok(())
    }

    fn write_piece(&self, pair: &Pair<'_>, piece: Extent, buf: &mut [u8], tick: Tick<'_>) -> Result<()> {
        let bytes = usize::try_from(piece.bytes()).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
        let data = &mut buf[..bytes];
        pair.to.read(piece, data)?;
        if bytes >= HOLE_BYTES && is_zero(data) {
            self.place.zero(piece)?;
        } else {
            self.place.write(piece.byte(), data)?;
        }
        go_on(tick(piece.bytes()))
    }
}

/// Brings `buf`, which holds `piece` as of the one point, to the other.
fn read_changed(pair: &Pair<'_>, piece: Extent, differing: &[Extent], buf: &mut [u8]) -> Result<()> {
    let first = differing.partition_point(|extent| extent.end() <= piece.start());
    let rest = differing.get(first..).unwrap_or_default();
    let changed: Vec<Extent> = rest.iter().map_while(|extent| extent.overlap(piece)).collect();
    if changed.len() > READS_MAX {
        return pair.to.read(piece, buf);
    }
    for extent in changed {
        let start = usize::try_from(extent.byte() - piece.byte()).unwrap_or(buf.len());
        let end = start.saturating_add(usize::try_from(extent.bytes()).unwrap_or(buf.len())).min(buf.len());
        pair.to.read(extent, buf.get_mut(start..end).unwrap_or_default())?;
    }
    Ok(())
}

/// How many of the `bytes` of `piece` lie within `size`.
fn within(piece: Extent, size: Sectors, bytes: usize) -> usize {
    usize::try_from(size.bytes().saturating_sub(piece.byte())).unwrap_or(bytes).min(bytes)
}

/// The sectors of a file's length: it is that of one of the two sizes.
fn length(bytes: u64) -> Sectors {
    Sectors::of_bytes(bytes / SECTOR_BYTES * SECTOR_BYTES).unwrap_or_default()
}
