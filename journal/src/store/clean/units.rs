//! What of a stored unit has to be kept for the versions in it that live. Pure.

use super::judge::Lives;
use crate::codec::Codec;
use crate::index::Entry;
use crate::limits::CRC_CHUNK_BYTES;
use crate::types::{Extent, SECTOR_BYTES, Sector};

/// Sectors of a chunk of a raw unit.
const CHUNK_SECTORS: u64 = CRC_CHUNK_BYTES as u64 / SECTOR_BYTES;

/// A part of a version, and where it lies in the decoded unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// Whose.
    pub(super) entry: Entry,
    pub(super) extent: Extent,
    /// Byte in the decoded unit.
    pub(super) offset: u64,
}

/// Chunks that stand one after the other: first, and one past the last.
pub(super) type Chunks = (u64, u64);

/// What is kept of one unit.
#[derive(Debug, Default)]
pub(super) struct Rest {
    pub(super) parts: Vec<Part>,
    /// Raw: the chunks that the parts need, in order.
    pub(super) chunks: Vec<Chunks>,
}

/// What has to be kept of the unit that these versions have in common. A version keeps whole chunks of itself: in more pieces
/// it would only take more room.
pub(super) fn rest<'a>(versions: impl Iterator<Item = (&'a Entry, &'a Lives)>) -> Rest {
    let mut rest = Rest::default();
    let mut needed = 0_u64;
    for (entry, lives) in versions {
        let whole = entry.extent();
        let offset = |sector: Sector| u64::from(entry.offset) + (sector.index() - entry.sector) * SECTOR_BYTES;
        if entry.codec != Codec::Raw || *lives == Lives::Whole {
            let parts = lives.parts(whole).into_iter();
            rest.parts.extend(parts.map(|extent| Part { entry: *entry, extent, offset: offset(extent.start()) }));
            if *lives == Lives::Whole {
                needed |= mask(offset(whole.start()), whole.bytes());
            }
            continue;
        }
        let own = lives.parts(whole).iter().fold(0, |all, part| all | mask(offset(part.start()), part.bytes()));
        needed |= own;
        for (from, to) in runs(own) {
            // The sectors of the version that lie in these chunks.
            let start = (from * CHUNK_SECTORS * SECTOR_BYTES).max(offset(whole.start()));
            let end = (to * CHUNK_SECTORS * SECTOR_BYTES).min(offset(whole.start()) + whole.bytes());
            let sector = |byte: u64| Sector::new(entry.sector + (byte - u64::from(entry.offset)) / SECTOR_BYTES);
            let extent = sector(start).zip(sector(end)).and_then(|(start, end)| Extent::between(start, end));
            rest.parts.extend(extent.map(|extent| Part { entry: *entry, extent, offset: start }));
        }
    }
    rest.chunks = runs(needed);
    rest
}

impl Rest {
    /// Stored bytes that are kept of the unit `of`.
    pub(super) fn bytes(&self, of: &Entry) -> u64 {
        let stored = u64::from(of.stored);
        match of.codec {
            Codec::Raw => {
                let size = CRC_CHUNK_BYTES as u64;
                self.chunks.iter().map(|(from, to)| (to * size).min(stored).saturating_sub(from * size)).sum()
            }
            Codec::Lz4 if self.parts.is_empty() => 0,
            Codec::Lz4 => stored,
        }
    }
}

/// A bit for each chunk that these bytes of a unit touch. Units have at most sixteen.
fn mask(offset: u64, bytes: u64) -> u64 {
    let size = CRC_CHUNK_BYTES as u64;
    (offset / size..(offset + bytes).div_ceil(size).min(64)).fold(0, |mask, chunk| mask | 1 << chunk)
}

fn runs(mask: u64) -> Vec<Chunks> {
    let mut runs: Vec<Chunks> = Vec::new();
    for chunk in (0..64).filter(|chunk| mask & 1 << chunk != 0) {
        match runs.last_mut() {
            Some((_, end)) if *end == chunk => *end += 1,
            _ => runs.push((chunk, chunk + 1)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::Rank;
    use crate::types::Sectors;

    fn entry(offset: u32, sector: u64, sectors: u64, codec: Codec) -> Entry {
        let rank = Rank { seq: 1, base: 0 };
        Entry { volume: 0, sector, sectors, rank, at: 0, stored: 65536 - 1024, decoded: 65536, codec, crc: 0, offset }
    }

    fn parts(extents: &[(u64, u64)]) -> Lives {
        let extent = |&(start, count)| Extent::new(Sector::new(start).unwrap(), Sectors::new(count).unwrap()).unwrap();
        Lives::Parts(extents.iter().map(extent).collect())
    }

    fn told(rest: &Rest) -> Vec<(u64, u64, u64)> {
        rest.parts
            .iter()
            .map(|part| (part.extent.start().index(), part.extent.sectors().count(), part.offset))
            .collect()
    }

    #[test]
    fn raw_units_are_cut_at_their_chunks() {
        // 64 sectors from byte 1024 on: chunks 0 to 8.
        let one = entry(1024, 100, 64, Codec::Raw);
        let whole = rest([(&one, &Lives::Whole)].into_iter());
        assert_eq!((told(&whole), whole.chunks.clone()), (vec![(100, 64, 1024)], vec![(0, 9)]));
        // One sector in chunk 0, one in chunk 2: what of the version lies in these chunks.
        let some = rest([(&one, &parts(&[(101, 1), (115, 1)]))].into_iter());
        assert_eq!((told(&some), some.chunks.clone()), (vec![(100, 6, 1024), (114, 8, 8192)], vec![(0, 1), (2, 3)]));
        assert_eq!(some.bytes(&one), 8192);
        // Neighbours share the chunk between them.
        let other = entry(1024 + 64 * 512, 500, 8, Codec::Raw);
        let both = rest([(&one, &parts(&[])), (&other, &parts(&[(500, 1)]))].into_iter());
        assert_eq!((told(&both), both.chunks.clone()), (vec![(500, 6, 1024 + 64 * 512)], vec![(8, 9)]));
        // The last chunk of a unit is short.
        let last = entry(60 * 1024, 0, 6, Codec::Raw);
        assert_eq!(rest([(&last, &Lives::Whole)].into_iter()).bytes(&last), 3072);
    }

    #[test]
    fn compressed_units_stay_whole_or_go() {
        let one = entry(0, 100, 64, Codec::Lz4);
        let some = rest([(&one, &parts(&[(101, 1), (115, 1)]))].into_iter());
        assert_eq!(told(&some), [(101, 1, 512), (115, 1, 15 * 512)]);
        assert_eq!(some.bytes(&one), u64::from(one.stored));
        assert_eq!(rest([(&one, &parts(&[]))].into_iter()).bytes(&one), 0);
    }
}
