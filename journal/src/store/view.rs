//! The journal as of one place in the order. Everything that is read was checked.

use std::ops::Range;
use std::sync::Arc;

use super::indexes::{Crcs, Hit};
use super::resolve::{Candidate, Piece, joined, resolve};
use super::timeline::VolumeInfo;
use super::version::Version;
use crate::codec::Codec;
use crate::error::{Error, Result};
use crate::index::{Entry, Query, Work};
use crate::limits::CRC_CHUNK_BYTES;
use crate::log::Segment;
use crate::types::{Extent, SECTOR_BYTES, Sector, Sectors, Seq, VolumeNo};

/// All volumes of the group as of one `Seq`. Shared by any number of threads.
#[derive(Debug)]
pub struct View {
    version: Arc<Version>,
    seq: Seq,
    volumes: Vec<VolumeInfo>,
}

/// Where a candidate is stored.
#[derive(Debug)]
struct Source {
    segment: Arc<Segment>,
    crcs: Crcs,
}

impl View {
    pub(super) fn new(version: Arc<Version>, seq: Seq) -> Self {
        let volumes = version.timeline().volumes(seq);
        Self { version, seq, volumes }
    }

    /// As of when.
    pub fn seq(&self) -> Seq {
        self.seq
    }

    /// The volumes that there were.
    pub fn volumes(&self) -> &[VolumeInfo] {
        &self.volumes
    }

    /// Fills `buf` with what the volume held at `offset` bytes; what nothing wrote is zero. Offset and length are multiples of 512.
    ///
    /// # Errors
    /// `Invalid` for bytes outside the volume. `Corrupt` when what is stored is not what was written: nothing of it is served.
    pub fn read(&self, volume: VolumeNo, offset: u64, buf: &mut [u8]) -> Result<()> {
        if buf.is_empty() {
            return Ok(());
        }
        let asked = Extent::of_bytes(offset, buf.len() as u64).ok_or_else(|| Error::invalid("not a run of sectors"))?;
        self.check_inside(volume, asked)?;
        let (pieces, sources, _) = self.pieces(volume, asked)?;
        let place =
            |piece: &Piece| index(piece.extent.byte() - asked.byte())..index(piece.extent.end().byte() - asked.byte());
        let (mut filled, mut rest) = (0, pieces.as_slice());
        while let [first, ..] = rest {
            // What was written together lies together: one read for all of it.
            let count = together(rest, &sources).max(1);
            let (now, later) = rest.split_at(count);
            let Range { start, .. } = place(first);
            buf[filled..start].fill(0);
            filled = now.last().map_or(start, |last| place(last).end);
            match now {
                [only] => self.read_piece(only, &sources, &mut buf[start..filled])?,
                many => read_together(many, &sources, &mut buf[start..filled])?,
            }
            rest = later;
        }
        buf[filled..].fill(0);
        Ok(())
    }

    /// How much is looked at to find where `within` is stored.
    ///
    /// # Errors
    /// As [`data`](Self::data).
    pub fn looks(&self, volume: VolumeNo, within: Extent) -> Result<Work> {
        self.pieces(volume, within).map(|(.., work)| work)
    }

    /// The extents within `within` that hold data, in order and not touching; the rest reads as zeroes.
    pub fn data(&self, volume: VolumeNo, within: Extent) -> Result<Vec<Extent>> {
        let (pieces, ..) = self.pieces(volume, within)?;
        let data = pieces.iter().filter(|piece| piece.candidate.entry.stored > 0 || piece.candidate.entry.at != 0);
        Ok(joined(data.map(|piece| piece.extent).collect()))
    }

    /// The extents within `within` that records after `from` and up to this view's place, or bases sealed there, have touched.
    pub fn changed_since(&self, from: Option<Seq>, volume: VolumeNo, within: Extent) -> Result<Vec<Extent>> {
        let mut extents = Vec::new();
        self.each_changed_since(from, volume, within, |extent| extents.push(extent))?;
        Ok(joined(extents))
    }

    /// Calls `changed` with each of them, in no order and as often as it was touched.
    pub(super) fn each_changed_since(
        &self,
        from: Option<Seq>,
        volume: VolumeNo,
        within: Extent,
        mut changed: impl FnMut(Extent),
    ) -> Result<()> {
        let query = Query { volume, extent: within, newest: self.seq, after: Seq::encode(from) };
        let mut keep = |entry: &Entry| entry.extent().overlap(within).into_iter().for_each(&mut changed);
        for footer in self.version.tail.iter().flat_map(|(_, footers)| footers) {
            footer.run.search(&query, &mut keep);
        }
        self.version.indexes.search(&self.version.cache, &query, None, |hit| keep(&hit.entry))?;
        Ok(())
    }

    fn check_inside(&self, volume: VolumeNo, asked: Extent) -> Result<()> {
        let info = self.volumes.iter().find(|info| info.number == volume);
        let size =
            info.map(|info| info.size).ok_or_else(|| Error::invalid(format!("no volume {volume} at {}", self.seq)))?;
        if asked.end().index() > size.count() {
            return Err(Error::invalid(format!("{asked} is beyond the volume's {} sectors", size.count())));
        }
        Ok(())
    }

    /// Which part of `asked` is where, and how much was looked at to know.
    fn pieces(&self, volume: VolumeNo, asked: Extent) -> Result<(Vec<Piece>, Vec<Source>, Work)> {
        let query = Query { volume, extent: asked, newest: self.seq, after: 0 };
        let (mut candidates, mut sources, mut covered) = (Vec::new(), Vec::new(), 0);
        let mut work = Work::default();
        let mut found = |Hit { entry, segment, crcs }: Hit| {
            if entry.extent().overlap(asked) == Some(asked) {
                covered = entry.rank.seq.max(covered);
            }
            candidates.push(Candidate { entry, source: sources.len() });
            sources.push(Source { segment, crcs });
        };
        let tail =
            self.version.tail.iter().flat_map(|(segment, footers)| footers.iter().rev().map(move |f| (segment, f)));
        for (segment, footer) in tail {
            let hit = |&entry: &Entry| Hit { entry, segment: segment.clone(), crcs: Crcs::Footer(footer.clone()) };
            work += footer.run.search(&query, |entry| found(hit(entry)));
        }
        let before = covered;
        work += self.version.indexes.search(&self.version.cache, &query, Some(before), |hit| {
            candidates.push(Candidate { entry: hit.entry, source: sources.len() });
            sources.push(Source { segment: hit.segment, crcs: hit.crcs });
        })?;
        Ok((resolve(asked, candidates), sources, work))
    }

    fn read_piece(&self, piece: &Piece, sources: &[Source], buf: &mut [u8]) -> Result<()> {
        let entry = &piece.candidate.entry;
        if entry.stored == 0 {
            let fill = entry.at.to_le_bytes();
            buf.chunks_mut(fill.len()).for_each(|chunk| chunk.copy_from_slice(&fill[..chunk.len()]));
            return Ok(());
        }
        let Source { segment, crcs } = &sources[piece.candidate.source];
        let skipped = (piece.extent.start().index() - entry.sector) * SECTOR_BYTES;
        let start = index(u64::from(entry.offset) + skipped);
        match entry.codec {
            Codec::Raw => read_raw(segment, crcs, entry, start, buf),
            Codec::Lz4 => {
                let unit = self.decoded(segment, entry)?;
                let wanted =
                    unit.get(start..start + buf.len()).ok_or_else(|| lost(segment, entry, "it is too short"))?;
                buf.copy_from_slice(wanted);
                Ok(())
            }
        }
    }

    /// A compressed unit, decoded.
    fn decoded(&self, segment: &Segment, entry: &Entry) -> Result<Arc<Vec<u8>>> {
        let is_it = |unit: &Arc<Vec<u8>>| unit.len() == index(entry.decoded.into());
        if let Some(unit) = self.version.cache.unit(segment, entry.at).filter(is_it) {
            return Ok(unit);
        }
        let mut stored = vec![0; index(entry.stored.into())];
        segment.file.read_exact_at(entry.at, &mut stored)?;
        if crc32fast::hash(&stored) != entry.crc {
            return Err(lost(segment, entry, "its checksum does not match"));
        }
        let decoded = lz4_flex::block::decompress(&stored, index(entry.decoded.into()));
        let bytes = decoded.map_err(|error| lost(segment, entry, "it does not decode").with_source(error))?;
        if bytes.len() != index(entry.decoded.into()) {
            return Err(lost(segment, entry, "it decodes to another length"));
        }
        let bytes = Arc::new(bytes);
        self.version.cache.keep_unit(segment, entry.at, &bytes);
        Ok(bytes)
    }

    /// The sectors of `within` that this view and `other` may hold differently, as far as the journal tells without reading data.
    pub fn touched_between(&self, other: &Self, volume: VolumeNo, within: Extent) -> Result<Vec<Extent>> {
        let (older, newer) = if self.seq <= other.seq { (self, other) } else { (other, self) };
        newer.changed_since(Some(older.seq), volume, within)
    }

    /// The whole of a volume; `None` when it has no sectors.
    pub fn whole(&self, volume: VolumeNo) -> Option<Extent> {
        let size: Sectors = self.volumes.iter().find(|info| info.number == volume)?.size;
        Extent::new(Sector::default(), size)
    }
}

/// Where a piece is in its segment's file, if whole chunks of a raw unit are all of it.
fn chunks(piece: &Piece) -> Option<Range<u64>> {
    let entry = &piece.candidate.entry;
    if entry.stored == 0 || entry.codec != Codec::Raw {
        return None;
    }
    let start = u64::from(entry.offset) + (piece.extent.start().index() - entry.sector) * SECTOR_BYTES;
    let end = start + piece.extent.bytes();
    let is_chunk = |at: u64| at.is_multiple_of(CRC_CHUNK_BYTES as u64);
    let is_whole = is_chunk(start) && (is_chunk(end) || end == u64::from(entry.stored));
    is_whole.then_some(entry.at + start..entry.at + end)
}

/// How many of the pieces, from the first on, follow each other in the volume and in one segment as well, in whole chunks.
fn together(pieces: &[Piece], sources: &[Source]) -> usize {
    let segment = |piece: &Piece| &sources[piece.candidate.source].segment;
    let follows = |pair: &[Piece]| {
        let [a, b] = pair else { return false };
        a.extent.end() == b.extent.start()
            && Arc::ptr_eq(segment(a), segment(b))
            && chunks(a).zip(chunks(b)).is_some_and(|(a, b)| a.end == b.start)
    };
    1 + pieces.windows(2).take_while(|pair| follows(pair)).count()
}

/// Reads pieces that lie together, and checks each.
fn read_together(pieces: &[Piece], sources: &[Source], buf: &mut [u8]) -> Result<()> {
    let Some(first) = pieces.first() else { return Ok(()) };
    let at = chunks(first).map_or(first.candidate.entry.at, |range| range.start);
    sources[first.candidate.source].segment.file.read_exact_at(at, buf)?;
    let mut rest = &*buf;
    for piece in pieces {
        let (now, later) = rest.split_at(index(piece.extent.bytes()));
        rest = later;
        let entry = &piece.candidate.entry;
        let Source { segment, crcs } = &sources[piece.candidate.source];
        let skipped = (piece.extent.start().index() - entry.sector) * SECTOR_BYTES;
        let chunk = index(u64::from(entry.offset) + skipped) / CRC_CHUNK_BYTES;
        check_chunks(now, chunk, |chunk| crc_of(entry, crcs, chunk))
            .ok_or_else(|| lost(segment, entry, "its checksum does not match"))?;
    }
    Ok(())
}

/// The CRC of a chunk of a raw unit.
fn crc_of(entry: &Entry, crcs: &Crcs, chunk: usize) -> Option<u32> {
    match entry.has_many_crcs() {
        false => Some(entry.crc),
        true => crcs.get(index(entry.crc.into()) + chunk),
    }
}

/// Reads bytes `start..` of a raw unit into `buf`, checking each chunk that it touches.
fn read_raw(segment: &Segment, crcs: &Crcs, entry: &Entry, start: usize, buf: &mut [u8]) -> Result<()> {
    let unit_bytes = index(entry.stored.into());
    let crc_of = |chunk: usize| crc_of(entry, crcs, chunk);
    let aligned = start.is_multiple_of(CRC_CHUNK_BYTES)
        && (buf.len().is_multiple_of(CRC_CHUNK_BYTES) || start + buf.len() == unit_bytes);
    if aligned {
        segment.file.read_exact_at(entry.at + start as u64, buf)?;
        return check_chunks(buf, start / CRC_CHUNK_BYTES, crc_of)
            .ok_or_else(|| lost(segment, entry, "its checksum does not match"));
    }
    // What is wanted starts or ends within a chunk: read whole chunks, hand out the part.
    let from = start / CRC_CHUNK_BYTES * CRC_CHUNK_BYTES;
    let to = (start + buf.len()).next_multiple_of(CRC_CHUNK_BYTES).min(unit_bytes);
    let mut chunks = vec![0; to.saturating_sub(from)];
    segment.file.read_exact_at(entry.at + from as u64, &mut chunks)?;
    check_chunks(&chunks, from / CRC_CHUNK_BYTES, crc_of)
        .ok_or_else(|| lost(segment, entry, "its checksum does not match"))?;
    let wanted =
        chunks.get(start - from..start - from + buf.len()).ok_or_else(|| lost(segment, entry, "it is too short"))?;
    buf.copy_from_slice(wanted);
    Ok(())
}

fn check_chunks(bytes: &[u8], first: usize, crc_of: impl Fn(usize) -> Option<u32>) -> Option<()> {
    let good = |(i, chunk): (usize, &[u8])| crc_of(first + i) == Some(crc32fast::hash(chunk));
    bytes.chunks(CRC_CHUNK_BYTES).enumerate().all(good).then_some(())
}

fn lost(segment: &Segment, entry: &Entry, why: &str) -> Error {
    let name = segment.header.number.file_name();
    Error::corrupt(format!("the data of {} as of {}: {why}", entry.extent(), entry.rank.seq))
        .with_path(name)
        .with_offset(entry.at)
}

/// A length or offset within a unit or a caller's buffer: it fits in memory.
fn index(bytes: u64) -> usize {
    usize::try_from(bytes).expect("what is in memory is indexed by usize")
}
