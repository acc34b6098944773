//! A run that is open for reading.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::blocks::{Block, BlockKey, Blocks};
use super::page::{Guide, PAGE_BYTES, Page, SIGN_BYTES, Sign, is_guide};
use crate::codec::{Malformed, RUN_SOURCE_BYTES, RUN_TRAILER_BYTES, Reader, RunKind, RunSource, RunTrailer};
use crate::disk::{Disk, File, Open};
use crate::error::Result;
use crate::types::GroupId;

/// Number of a run in its group's directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunNo(pub u64);

impl RunNo {
    /// The name of its file.
    pub fn file_name(self) -> String {
        format!("{:016x}.run", self.0)
    }

    /// The run whose file has this name.
    pub(crate) fn of_file(name: &str) -> Option<Self> {
        let number = u64::from_str_radix(name.strip_suffix(".run")?, 16).ok().map(Self)?;
        (number.file_name() == name).then_some(number)
    }

    /// The name of its file while it is written.
    pub(super) fn tmp_name(self) -> String {
        format!("{}.tmp", self.file_name())
    }

    /// Whether a file of this name is a run, or one that was not finished.
    pub(crate) fn is_of(name: &str) -> bool {
        name.ends_with(".run") || name.ends_with(".run.tmp")
    }
}

impl fmt::Display for RunNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file_name())
    }
}

/// Where a guide page is, and what it leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// First key and longest entry of all its pages.
    pub(super) sign: Sign,
    /// The guide page's number.
    pub(super) page: u64,
}

/// Bytes of a place.
pub(super) const PLACE_BYTES: usize = SIGN_BYTES + 8;

/// A merged run. Immutable; what is read of it is checked.
#[derive(Debug)]
pub struct MergedRun {
    pub(super) file: Arc<dyn File>,
    pub(super) trailer: RunTrailer,
    pub(super) sources: Vec<RunSource>,
    pub(super) guides: Vec<Place>,
    owner: u64,
    /// Something of it could not be read.
    spoilt: AtomicBool,
}

impl MergedRun {
    /// Opens a run, if it is whole as far as can be told from its end, and of this group.
    pub(crate) fn open(disk: &dyn Disk, number: RunNo, group: GroupId) -> Result<Self> {
        let file = disk.open(&number.file_name(), Open::ReadOnly)?;
        let length = file.len()?;
        let elsewhere = || Malformed("a run that belongs elsewhere, or is cut off");
        let trailer_at = length.checked_sub(RUN_TRAILER_BYTES as u64).ok_or_else(elsewhere)?;
        let mut bytes = [0; RUN_TRAILER_BYTES];
        file.read_exact_at(trailer_at, &mut bytes)?;
        let trailer = RunTrailer::decode(&bytes)?;
        let sources_at = trailer.pages * PAGE_BYTES as u64;
        let guides_at = sources_at + u64::from(trailer.sources) * RUN_SOURCE_BYTES as u64;
        let end = guides_at + u64::from(trailer.guides) * PLACE_BYTES as u64;
        if trailer.group != group || trailer.number != number.0 || end != trailer_at {
            return Err(elsewhere().into());
        }
        let sources = section(&*file, (sources_at, guides_at), trailer.sources_crc, RunSource::decode)?;
        let guides = section(&*file, (guides_at, end), trailer.guides_crc, |r| {
            Ok(Place { sign: Sign::decode(r)?, page: r.u64()? })
        })?;
        let is_sound = guides.is_sorted_by(|a, b| a.sign.key <= b.sign.key && a.page < b.page)
            && guides.last().map_or(0, |place| place.page + 1) == trailer.pages;
        if !is_sound {
            return Err(Malformed("a run whose guides are not where its pages are").into());
        }
        Ok(Self { file, trailer, sources, guides, owner: Blocks::owner(), spoilt: AtomicBool::new(false) })
    }

    /// Its number.
    pub fn number(&self) -> RunNo {
        RunNo(self.trailer.number)
    }

    /// Of which chain it is.
    pub(crate) fn kind(&self) -> RunKind {
        self.trailer.kind
    }

    /// The segments that it covers.
    pub(crate) fn sources(&self) -> &[RunSource] {
        &self.sources
    }

    /// Entries in it.
    pub fn entries(&self) -> u64 {
        self.trailer.entries
    }

    /// Bytes on disk.
    pub fn file_bytes(&self) -> u64 {
        self.trailer.pages * PAGE_BYTES as u64
            + (self.sources.len() * RUN_SOURCE_BYTES + self.guides.len() * PLACE_BYTES + RUN_TRAILER_BYTES) as u64
    }

    /// Bytes it takes in memory as long as it is open.
    pub fn memory_bytes(&self) -> usize {
        size_of_val(self.sources.as_slice()) + size_of_val(self.guides.as_slice())
    }

    /// Something of it could not be read: it is not asked again.
    pub(crate) fn spoil(&self) {
        self.spoilt.store(true, Ordering::Relaxed);
    }

    /// Whether something of it could not be read.
    pub(crate) fn is_spoilt(&self) -> bool {
        self.spoilt.load(Ordering::Relaxed)
    }

    /// A page of entries, from memory if it is there.
    pub(super) fn page(&self, number: u64) -> Result<Arc<Page>> {
        let key = self.key_of(number);
        if let Some(Block::Page(page)) = Blocks::shared().get(key) {
            return Ok(page);
        }
        let page = Arc::new(Page::check(self.read(number)?, number, self.trailer.salt)?);
        Blocks::shared().put(key, Block::Page(page.clone()), page.memory_bytes());
        Ok(page)
    }

    /// The guide page that is the i-th.
    pub(super) fn guide(&self, i: usize) -> Result<Arc<Guide>> {
        let number = self.guides.get(i).map(|place| place.page).ok_or(Malformed("a run without this guide"))?;
        let key = self.key_of(number);
        if let Some(Block::Guide(guide)) = Blocks::shared().get(key) {
            return Ok(guide);
        }
        let guide = Arc::new(Guide::check(&self.read(number)?, number, self.trailer.salt)?);
        Blocks::shared().put(key, Block::Guide(guide.clone()), size_of_val(guide.signs.as_slice()));
        Ok(guide)
    }

    fn key_of(&self, page: u64) -> BlockKey {
        BlockKey { owner: self.owner, file: 0, at: page }
    }

    fn read(&self, number: u64) -> Result<Box<[u8]>> {
        let mut bytes = vec![0; PAGE_BYTES].into_boxed_slice();
        self.file.read_exact_at(number * PAGE_BYTES as u64, &mut bytes)?;
        Ok(bytes)
    }
}

/// Reads a run from its start, many pages at a time.
#[derive(Debug)]
pub(crate) struct Pages<R> {
    run: R,
    next: u64,
    read: Vec<u8>,
    at: usize,
    /// What the next guide has to say.
    signs: Vec<Sign>,
    guides: usize,
}

/// Pages read at once, past the page cache where that is possible.
const READ_PAGES: u64 = 16;

impl<R: std::ops::Deref<Target = MergedRun>> Pages<R> {
    pub(super) fn new(run: R) -> Self {
        Self { run, next: 0, read: Vec::new(), at: 0, signs: Vec::new(), guides: 0 }
    }

    /// The next page of entries.
    pub(super) fn next(&mut self) -> Result<Option<Page>> {
        while self.next < self.run.trailer.pages {
            if self.at == self.read.len() {
                let count = READ_PAGES.min(self.run.trailer.pages - self.next);
                self.read.resize(usize::try_from(count).unwrap_or(0) * PAGE_BYTES, 0);
                self.run.file.read_exact_at(self.next * PAGE_BYTES as u64, &mut self.read)?;
                self.at = 0;
            }
            let bytes = &self.read[self.at..self.at + PAGE_BYTES];
            let (number, salt) = (self.next, self.run.trailer.salt);
            self.at += PAGE_BYTES;
            self.next += 1;
            if is_guide(bytes) {
                let guide = Guide::check(bytes, number, salt)?;
                let place = self.run.guides.get(self.guides);
                let longest = guide.signs.iter().map(|sign| sign.longest).max().unwrap_or(0);
                let told = guide.signs.first().map(|first| Place { sign: Sign { longest, ..*first }, page: number });
                if guide.signs != self.signs || place.copied() != told {
                    return Err(Malformed("a guide that does not say what its pages hold").into());
                }
                self.signs.clear();
                self.guides += 1;
                continue;
            }
            let page = Page::check(bytes.into(), number, salt)?;
            let longest = (0..page.len()).map(|i| page.key(i).1).max().unwrap_or(0);
            self.signs.push(Sign { key: page.key(0).0, longest });
            return Ok(Some(page));
        }
        Ok(None)
    }
}

impl<R> Pages<R> {
    /// What is read.
    pub(super) fn run(&self) -> &R {
        &self.run
    }
}

/// The items of a list at `from..to`.
fn section<T>(
    file: &dyn File,
    (from, to): (u64, u64),
    crc: u32,
    decode: impl Fn(&mut Reader<'_>) -> std::result::Result<T, Malformed>,
) -> Result<Vec<T>> {
    let mut bytes = vec![0; usize::try_from(to - from).unwrap_or(usize::MAX)];
    file.read_exact_at(from, &mut bytes)?;
    if crc32fast::hash(&bytes) != crc {
        return Err(Malformed("a list of a run that does not match its checksum").into());
    }
    let mut r = Reader::new(&bytes);
    let mut items = Vec::new();
    while !r.rest().is_empty() {
        items.push(decode(&mut r)?);
    }
    Ok(items)
}
