//! Writes a run, front to back, in bounded memory.

use std::io::IoSlice;
use std::sync::Arc;

use super::file::{PLACE_BYTES, Place, RunNo};
use super::page::{GUIDE_PAGES, HEAD_BYTES, ITEM_BYTES, Key, PAGE_BYTES, Sign, encode_data, encode_guide};
use crate::codec::{Codec, Malformed, RUN_SOURCE_BYTES, RUN_TRAILER_BYTES, RunKind, RunSource, RunTrailer, Writer};
use crate::disk::{Disk, File, Open, durable_rename};
use crate::error::{ErrorKind, Result};
use crate::failpoint::{self, Step};
use crate::index::entry::Entry;
use crate::limits::CRC_CHUNK_BYTES;
use crate::types::{GroupId, Salt};

/// Written at once: large writes go past the page cache.
const WRITE_BYTES: usize = 1024 * 1024;

/// A run under construction: a file that nobody else knows before it is whole.
#[derive(Debug)]
pub(super) struct RunWriter {
    file: Arc<dyn File>,
    trailer: RunTrailer,
    sources: Vec<RunSource>,
    guides: Vec<Place>,
    /// The page being filled.
    items: Vec<u8>,
    crcs: Vec<u32>,
    sign: Option<Sign>,
    /// The guide being filled.
    signs: Vec<Sign>,
    /// Pages that are not written yet, and where they go.
    out: Vec<u8>,
    at: u64,
}

impl RunWriter {
    /// Begins a run over these segments; their counts of entries are found on the way.
    pub(super) fn begin(
        disk: &dyn Disk,
        (number, salt): (RunNo, Salt),
        (group, kind): (GroupId, RunKind),
        sources: Vec<RunSource>,
    ) -> Result<Self> {
        let name = number.tmp_name();
        match disk.remove(&name) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            other => other?,
        }
        let file = disk.open(&name, Open::CreateNew)?;
        let trailer = RunTrailer {
            kind,
            group,
            salt,
            number: number.0,
            pages: 0,
            entries: 0,
            classes: 0,
            sources: u32::try_from(sources.len()).unwrap_or(u32::MAX),
            guides: 0,
            sources_crc: 0,
            guides_crc: 0,
        };
        let sources = sources.into_iter().map(|source| RunSource { entries: 0, ..source }).collect();
        Ok(Self {
            file,
            trailer,
            sources,
            guides: Vec::new(),
            items: Vec::with_capacity(PAGE_BYTES),
            crcs: Vec::new(),
            sign: None,
            signs: Vec::new(),
            out: Vec::with_capacity(WRITE_BYTES),
            at: 0,
        })
    }

    /// Adds the next entry in order, with the CRCs of what it is stored in.
    pub(super) fn push(&mut self, entry: &Entry, crcs: &[u32], source: u32) -> Result<()> {
        let pooled = if crcs.len() > 1 { crcs.len() } else { 0 };
        if HEAD_BYTES + self.items.len() + ITEM_BYTES + 4 * (self.crcs.len() + pooled) > PAGE_BYTES {
            self.close_page()?;
        }
        let crc = match crcs {
            [] => 0,
            [only] => *only,
            many => {
                let place = u32::try_from(self.crcs.len()).unwrap_or(u32::MAX);
                self.crcs.extend_from_slice(many);
                place
            }
        };
        let entry = Entry { crc, ..*entry };
        let mut w = Writer::onto(std::mem::take(&mut self.items));
        entry.encode(&mut w);
        w.u32(source);
        self.items = w.finish();
        let sign = self.sign.get_or_insert_with(|| Sign { key: Key::of(&entry), longest: 0 });
        sign.longest = sign.longest.max(entry.sectors);
        self.trailer.classes |= 1 << entry.class();
        self.trailer.entries += 1;
        if let Some(source) = self.sources.get_mut(usize::try_from(source).unwrap_or(usize::MAX)) {
            source.entries += 1;
        }
        Ok(())
    }

    /// Bytes written so far.
    pub(super) fn written(&self) -> u64 {
        self.at
    }

    /// Ends the file and gives it its name.
    ///
    /// 1. All that is left, then fdatasync: a name never stands for half a run.
    /// 2. The name, and fsync of the directory: only then what it replaces may go.
    pub(super) fn finish(mut self, disk: &dyn Disk) -> Result<RunNo> {
        if self.sign.is_some() {
            self.close_page()?;
        }
        if !self.signs.is_empty() {
            self.close_guide()?;
        }
        let mut sources = Writer::with_capacity(self.sources.len() * RUN_SOURCE_BYTES);
        self.sources.iter().for_each(|source| source.encode(&mut sources));
        let mut guides = Writer::with_capacity(self.guides.len() * PLACE_BYTES + RUN_TRAILER_BYTES);
        for place in &self.guides {
            place.sign.encode(&mut guides);
            guides.u64(place.page);
        }
        let (sources, guides) = (sources.finish(), guides.finish());
        self.trailer.guides = u32::try_from(self.guides.len()).unwrap_or(u32::MAX);
        (self.trailer.sources_crc, self.trailer.guides_crc) = (crc32fast::hash(&sources), crc32fast::hash(&guides));
        let number = RunNo(self.trailer.number);
        let trailer = self.trailer.encode();
        failpoint::reached(Step::RunWriting)?;
        let bufs = [&self.out, &sources, &guides, &trailer].map(|bytes| IoSlice::new(bytes));
        self.file.write_at(self.at, &bufs)?;
        self.file.sync()?;
        failpoint::reached(Step::RunWritten)?;
        durable_rename(disk, &number.tmp_name(), &number.file_name())?;
        failpoint::reached(Step::RunNamed)?;
        Ok(number)
    }

    fn close_page(&mut self) -> Result<()> {
        let Some(sign) = self.sign.take() else { return Ok(()) };
        self.signs.push(sign);
        let page = encode_data(self.trailer.pages, self.trailer.salt, &self.items, &self.crcs);
        self.items.clear();
        self.crcs.clear();
        self.write(&page)?;
        if self.signs.len() == GUIDE_PAGES { self.close_guide() } else { Ok(()) }
    }

    fn close_guide(&mut self) -> Result<()> {
        let signs = std::mem::take(&mut self.signs);
        let longest = signs.iter().map(|sign| sign.longest).max().unwrap_or(0);
        let first = signs.first().map(|first| Sign { longest, ..*first });
        self.guides.extend(first.map(|sign| Place { sign, page: self.trailer.pages }));
        let page = encode_guide(self.trailer.pages, self.trailer.salt, &signs);
        self.write(&page)
    }

    fn write(&mut self, page: &[u8]) -> Result<()> {
        self.trailer.pages += 1;
        self.out.extend_from_slice(page);
        if self.out.len() < WRITE_BYTES {
            return Ok(());
        }
        failpoint::reached(Step::RunWriting)?;
        self.file.write_at(self.at, &[IoSlice::new(&self.out)])?;
        self.at += self.out.len() as u64;
        self.out.clear();
        Ok(())
    }
}

/// An entry and its CRCs as runs have them: of a raw unit only the chunks that the extent lies in, so that few entries have several.
pub(super) fn normal<'p>(
    entry: &'p Entry,
    crc: impl Fn(usize) -> Option<u32> + 'p,
) -> std::result::Result<(Entry, impl Iterator<Item = u32> + 'p), Malformed> {
    let chunk = CRC_CHUNK_BYTES as u64;
    let stored = u64::from(entry.stored);
    let (first, last) = match entry.codec {
        Codec::Raw if entry.has_many_crcs() => {
            let from = u64::from(entry.offset) / chunk;
            let to = (u64::from(entry.offset) + entry.sectors.saturating_mul(512)).div_ceil(chunk);
            (from, to.min(stored.div_ceil(chunk)))
        }
        _ if stored == 0 => (0, 0),
        _ => (0, 1),
    };
    let place = if entry.has_many_crcs() { u64::from(entry.crc) } else { 0 };
    let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    if first > last || (entry.has_many_crcs() && (first..last).any(|i| crc(count(place + i)).is_none())) {
        return Err(Malformed("an entry outside its unit"));
    }
    let (many, only) = (entry.has_many_crcs(), entry.crc);
    let mut cut = *entry;
    if many {
        let skipped = first * chunk;
        let bytes = u32::try_from((last * chunk).min(stored) - skipped).unwrap_or(u32::MAX);
        (cut.at, cut.stored, cut.decoded) = (entry.at + skipped, bytes, bytes);
        cut.offset = entry.offset - u32::try_from(skipped).unwrap_or(0);
    }
    let crcs = (first..last).map(move |i| if many { crc(count(place + i)).unwrap_or(0) } else { only });
    Ok((cut, crcs))
}
