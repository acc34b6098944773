//! The journal as of one place in the order. Everything that is read was checked.

use std::sync::{Arc, Mutex, PoisonError};

use super::resolve::{Candidate, Piece, joined, resolve};
use super::timeline::VolumeInfo;
use super::version::Version;
use crate::codec::Codec;
use crate::error::{Error, Result};
use crate::index::{Entry, Footer, Rank};
use crate::limits::CRC_CHUNK_BYTES;
use crate::log::Segment;
use crate::types::{Extent, SECTOR_BYTES, Sector, Sectors, SegmentNo, Seq, VolumeNo};

/// Decoded units kept: sequential reads come back to the last one, random ones to the hot ones.
const UNITS_KEPT: usize = 32;

/// All volumes of the group as of one `Seq`. Shared by any number of threads.
#[derive(Debug)]
pub struct View {
    version: Arc<Version>,
    seq: Seq,
    volumes: Vec<VolumeInfo>,
    units: Mutex<Vec<Decoded>>,
}

#[derive(Debug)]
struct Decoded {
    segment: SegmentNo,
    at: u64,
    bytes: Arc<Vec<u8>>,
}

/// Where candidates come from.
type Source = (Arc<Segment>, Arc<Footer>);

impl View {
    pub(super) fn new(version: Arc<Version>, seq: Seq) -> Self {
        let volumes = version.timeline().volumes(seq);
        Self { version, seq, volumes, units: Mutex::default() }
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
        let (pieces, sources) = self.pieces(volume, asked)?;
        let mut filled = 0;
        for piece in &pieces {
            let at = index(piece.extent.byte() - asked.byte());
            buf[filled..at].fill(0);
            filled = at + index(piece.extent.bytes());
            self.read_piece(piece, &sources, &mut buf[at..filled])?;
        }
        buf[filled..].fill(0);
        Ok(())
    }

    /// The extents within `within` that hold data, in order and not touching; the rest reads as zeroes.
    pub fn data(&self, volume: VolumeNo, within: Extent) -> Result<Vec<Extent>> {
        let (pieces, _) = self.pieces(volume, within)?;
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
        let newest = Rank { seq: self.seq.number(), base: u32::MAX };
        let oldest = Seq::encode(from);
        let mut keep = |entry: &Entry| entry.extent().overlap(within).into_iter().for_each(&mut changed);
        self.version.live_indexes(Seq::following(from), self.seq, |_, footer| {
            footer.run.find(volume, within, newest, |entry| {
                if entry.rank.seq > oldest {
                    keep(entry);
                }
            });
        })?;
        for (segment, _) in self.version.bases.iter().filter(|(_, sealed)| Some(*sealed) > from && *sealed <= self.seq)
        {
            self.version.cache.footer(segment)?.run.find(volume, within, newest, &mut keep);
        }
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

    /// Which part of `asked` is where.
    fn pieces(&self, volume: VolumeNo, asked: Extent) -> Result<(Vec<Piece>, Vec<Source>)> {
        let newest = Rank { seq: self.seq.number(), base: u32::MAX };
        let (mut candidates, mut sources) = (Vec::new(), Vec::new());
        let mut look = |segment: &Arc<Segment>, footer: &Arc<Footer>| {
            let before = candidates.len();
            let source = sources.len();
            footer.run.find(volume, asked, newest, |&entry| candidates.push(Candidate { entry, source }));
            if candidates.len() > before {
                sources.push((segment.clone(), footer.clone()));
            }
        };
        for (segment, _) in self.version.bases.iter().filter(|(_, sealed)| *sealed <= self.seq) {
            look(segment, &self.version.cache.footer(segment)?);
        }
        self.version.live_indexes(Seq::FIRST, self.seq, look)?;
        Ok((resolve(asked, candidates), sources))
    }

    fn read_piece(&self, piece: &Piece, sources: &[Source], buf: &mut [u8]) -> Result<()> {
        let entry = &piece.candidate.entry;
        if entry.stored == 0 {
            let fill = entry.at.to_le_bytes();
            buf.chunks_mut(fill.len()).for_each(|chunk| chunk.copy_from_slice(&fill[..chunk.len()]));
            return Ok(());
        }
        let (segment, footer) = &sources[piece.candidate.source];
        let skipped = (piece.extent.start().index() - entry.sector) * SECTOR_BYTES;
        let start = index(u64::from(entry.offset) + skipped);
        match entry.codec {
            Codec::Raw => read_raw(segment, footer, entry, start, buf),
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
        let number = segment.header.number;
        let same = |unit: &Decoded| unit.segment == number && unit.at == entry.at;
        if let Some(unit) = self.kept().iter().find(|unit| same(unit)) {
            return Ok(unit.bytes.clone());
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
        let mut kept = self.kept();
        if kept.len() >= UNITS_KEPT {
            kept.remove(0);
        }
        kept.push(Decoded { segment: number, at: entry.at, bytes: bytes.clone() });
        Ok(bytes)
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Vec<Decoded>> {
        self.units.lock().unwrap_or_else(PoisonError::into_inner)
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

/// Reads bytes `start..` of a raw unit into `buf`, checking each chunk that it touches.
fn read_raw(segment: &Segment, footer: &Footer, entry: &Entry, start: usize, buf: &mut [u8]) -> Result<()> {
    let unit_bytes = index(entry.stored.into());
    let crc_of = |chunk: usize| match entry.has_many_crcs() {
        false => Some(entry.crc),
        true => footer.pool.get(index(entry.crc.into()) + chunk).copied(),
    };
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
