//! The index of a sealed segment on disk.

use super::build::{Builder, Event, FrameSpot};
use super::entry::Entry;
use super::run::Run;
use crate::codec::{Malformed, Reader, Section, TRAILER_BYTES, Trailer, Writer};
use crate::disk::File;
use crate::error::Result;
use crate::types::{ChainHead, FrameNo, Salt, Seq};

/// A segment's index in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Footer {
    /// Where each version is.
    pub run: Run,
    /// CRCs of units that have several.
    pub pool: Vec<u32>,
    /// Where each frame is.
    pub frames: Vec<FrameSpot>,
    /// Records about the order itself.
    pub events: Vec<Event>,
}

/// What a segment ends with, besides its index.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ending {
    pub(crate) salt: Salt,
    pub(crate) footer_at: u64,
    pub(crate) end: Option<Seq>,
    pub(crate) head: ChainHead,
    pub(crate) last_frame: FrameNo,
}

impl From<Builder> for Footer {
    fn from(b: Builder) -> Self {
        Self { run: Run::new(b.entries), pool: b.pool, frames: b.frames, events: b.events }
    }
}

impl Footer {
    /// Footer and trailer.
    pub(crate) fn encode(&self, ending: &Ending) -> Vec<u8> {
        let mut sections = [const { Vec::new() }; 4];
        let mut w = Writer::with_capacity(self.run.entries().len() * Entry::BYTES);
        self.run.entries().iter().for_each(|entry| entry.encode(&mut w));
        sections[0] = w.finish();
        sections[1] = self.pool.iter().flat_map(|crc| crc.to_le_bytes()).collect();
        let mut w = Writer::default();
        self.frames.iter().for_each(|frame| frame.encode(&mut w));
        sections[2] = w.finish();
        let mut w = Writer::default();
        self.events.iter().for_each(|event| event.encode(&mut w));
        sections[3] = w.finish();
        let trailer = Trailer {
            salt: ending.salt,
            footer_at: ending.footer_at,
            sections: std::array::from_fn(|i| Section {
                bytes: sections[i].len() as u64,
                crc: crc32fast::hash(&sections[i]),
            }),
            end: ending.end,
            head: ending.head,
            last_frame: ending.last_frame,
        };
        let mut bytes = sections.concat();
        bytes.extend(trailer.encode());
        bytes
    }

    /// Both in one; `b` is the later.
    pub(crate) fn merged(a: &Self, b: &Self) -> Self {
        let shift = u32::try_from(a.pool.len()).unwrap_or(u32::MAX);
        let moved =
            |entry: &Entry| Entry { crc: if entry.has_many_crcs() { entry.crc + shift } else { entry.crc }, ..*entry };
        let entries = a.run.entries().iter().copied().chain(b.run.entries().iter().map(moved));
        Self {
            run: Run::new(entries.collect()),
            pool: [a.pool.as_slice(), &b.pool].concat(),
            frames: [a.frames.as_slice(), &b.frames].concat(),
            events: [a.events.as_slice(), &b.events].concat(),
        }
    }

    /// How much work it is to merge it.
    pub(crate) fn weight(&self) -> usize {
        self.run.entries().len() + self.pool.len() + self.frames.len()
    }

    /// Bytes it takes in memory, about.
    pub fn memory_bytes(&self) -> usize {
        size_of_val(self.run.entries()) + size_of_val(self.pool.as_slice()) + size_of_val(self.frames.as_slice())
    }
}

/// The whole index.
pub(crate) fn read_footer(file: &dyn File, trailer: &Trailer) -> Result<Footer> {
    let [entries, pool, frames, events] = trailer.sections;
    let mut at = trailer.footer_at;
    let mut next = |section| {
        let bytes = read_section(file, at, section);
        at += section.bytes;
        bytes
    };
    let (entries, pool, frames, events) = (next(entries)?, next(pool)?, next(frames)?, next(events)?);
    let entries = items(&entries, Entry::decode)?;
    if !entries.is_sorted_by(|a, b| a.order(b).is_le()) {
        return Err(Malformed("an index out of order").into());
    }
    Ok(Footer {
        run: Run::sorted(entries),
        pool: items(&pool, Reader::u32)?,
        frames: items(&frames, FrameSpot::decode)?,
        events: items(&events, Event::decode)?,
    })
}

/// Only where the frames are: what finding a record by its place or time needs.
pub(crate) fn read_frames(file: &dyn File, trailer: &Trailer) -> Result<Vec<FrameSpot>> {
    let [entries, pool, frames, _] = trailer.sections;
    let at = trailer.footer_at + entries.bytes + pool.bytes;
    items(&read_section(file, at, frames)?, FrameSpot::decode)
}

/// Only the events: what opening a journal needs of a sealed segment.
pub(crate) fn read_events(file: &dyn File, trailer: &Trailer) -> Result<Vec<Event>> {
    let [before @ .., events] = trailer.sections;
    let at = trailer.footer_at + before.iter().map(|section| section.bytes).sum::<u64>();
    items(&read_section(file, at, events)?, Event::decode)
}

/// The trailer at the end of a file of `file_bytes`.
pub(crate) fn read_trailer(file: &dyn File, file_bytes: u64, salt: Salt) -> Result<Trailer> {
    let at = file_bytes.checked_sub(TRAILER_BYTES as u64).ok_or(Malformed("too short for a sealed segment"))?;
    let mut bytes = [0; TRAILER_BYTES];
    file.read_exact_at(at, &mut bytes)?;
    let trailer = Trailer::decode(&bytes)?;
    if trailer.salt != salt || trailer.footer_at.checked_add(trailer.footer_bytes()) != Some(at) {
        return Err(Malformed("a trailer that belongs elsewhere").into());
    }
    Ok(trailer)
}

fn read_section(file: &dyn File, at: u64, section: Section) -> Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(section.bytes).unwrap_or(usize::MAX)];
    file.read_exact_at(at, &mut bytes)?;
    if crc32fast::hash(&bytes) != section.crc {
        return Err(Malformed("an index that does not match its checksum").into());
    }
    Ok(bytes)
}

fn items<'a, T>(
    bytes: &'a [u8],
    decode: impl Fn(&mut Reader<'a>) -> std::result::Result<T, Malformed>,
) -> Result<Vec<T>> {
    let mut r = Reader::new(bytes);
    let mut items = Vec::new();
    while !r.rest().is_empty() {
        items.push(decode(&mut r)?);
    }
    Ok(items)
}
