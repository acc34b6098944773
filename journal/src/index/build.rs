//! What a segment's index is made of, collected frame by frame.

use super::entry::{Entry, Rank};
use crate::codec::{Body, ClockKind, Codec, FrameKind, Malformed, Reader, Record, Writer};
use crate::frame::Frame;
use crate::limits::NOTE_BYTES;
use crate::types::{Extent, Sector, Seq, WallTime};

/// Where a frame is, and what it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameSpot {
    /// Its envelope's offset in the file.
    pub at: u64,
    /// Live: `Seq` of its first record. Base, compacted: its number.
    pub first: u64,
    /// Records in it.
    pub records: u32,
    /// Time of the first record.
    pub from: WallTime,
    /// Time of the last.
    pub to: WallTime,
}

/// Times of the first and the last record of these frames.
pub(crate) fn times(frames: &[FrameSpot]) -> (WallTime, WallTime) {
    (frames.first().map_or(WallTime(0), |frame| frame.from), frames.last().map_or(WallTime(0), |frame| frame.to))
}

/// A record about the order itself, which opening a journal must find without reading all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its place.
    pub seq: Seq,
    /// When and what.
    pub record: Record,
}

/// Collects a segment's index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Builder {
    /// In the order of the frames.
    pub entries: Vec<Entry>,
    /// CRCs of units that have several.
    pub pool: Vec<u32>,
    /// In order.
    pub frames: Vec<FrameSpot>,
    /// In order.
    pub events: Vec<Event>,
    /// The latest time so far. A record counts as no earlier than the one before it, also where its clock went back.
    pub latest: WallTime,
}

impl Builder {
    /// Adds a frame whose bytes start at `frame_at`, behind the envelope at `envelope_at`; with `entries`, also where its data is.
    pub fn add(&mut self, frame: &Frame, envelope_at: u64, frame_at: u64, entries: bool) {
        let payload_at = frame_at + frame.payload_at() as u64;
        let units = if entries { self.units(frame, payload_at) } else { Vec::new() };
        if frame.header().kind == FrameKind::Compacted {
            // Times are those of events only; nobody asks a compacted segment for others.
            frame
                .records()
                .zip(frame.ranks())
                .for_each(|(record, (seq, base))| self.add_record(record, Rank { seq, base }, &units, entries));
            let (first, records) = (frame.header().number.number(), frame.header().records);
            self.frames.push(FrameSpot { at: envelope_at, first, records, from: WallTime(0), to: WallTime(0) });
            return;
        }
        let (first, base) = match frame.header().kind {
            FrameKind::Live { first } => (first.number(), 0),
            FrameKind::Base { as_of, .. } => {
                (Seq::encode(as_of), u32::try_from(frame.header().number.number()).unwrap_or(u32::MAX))
            }
            // Dealt with above.
            FrameKind::Compacted => return,
        };
        let mut from = None;
        for (i, mut record) in (0u64..).zip(frame.records()) {
            self.latest = self.latest.max(record.time);
            record.time = self.latest;
            from.get_or_insert(record.time);
            let rank = if base == 0 { Rank { seq: first + i, base } } else { Rank { seq: first, base } };
            self.add_record(record, rank, &units, entries);
        }
        let first = if base == 0 { first } else { frame.header().number.number() };
        self.frames.push(FrameSpot {
            at: envelope_at,
            first,
            records: frame.header().records,
            from: from.unwrap_or_default(),
            to: self.latest,
        });
    }

    /// What was added behind these places, with CRC places counted anew.
    pub(crate) fn since(&self, entries: usize, pool: usize, frames: usize) -> Self {
        let shift = u32::try_from(pool).unwrap_or(u32::MAX);
        let moved =
            |entry: &Entry| Entry { crc: if entry.has_many_crcs() { entry.crc - shift } else { entry.crc }, ..*entry };
        Self {
            entries: self.entries.iter().skip(entries).map(moved).collect(),
            pool: self.pool.iter().skip(pool).copied().collect(),
            frames: self.frames.iter().skip(frames).copied().collect(),
            events: Vec::new(),
            latest: self.latest,
        }
    }

    /// A template entry for each unit.
    fn units(&mut self, frame: &Frame, payload_at: u64) -> Vec<Entry> {
        let mut units = Vec::new();
        for unit in frame.units() {
            let crc = match unit.crcs.as_slice() {
                [only] => *only,
                many => {
                    let place = u32::try_from(self.pool.len()).unwrap_or(u32::MAX);
                    self.pool.extend_from_slice(many);
                    place
                }
            };
            let entry = Entry {
                volume: 0,
                sector: 0,
                sectors: 1,
                rank: Rank { seq: 0, base: 0 },
                at: payload_at + u64::from(unit.entry.offset),
                stored: unit.entry.stored,
                decoded: unit.entry.decoded,
                codec: unit.entry.codec,
                crc,
                offset: 0,
            };
            units.push(entry);
        }
        units
    }

    fn add_record(&mut self, record: Record, rank: Rank, units: &[Entry], entries: bool) {
        let filled = |volume: u32, extent: Extent, fill: u64| Entry {
            volume,
            sector: extent.start().index(),
            sectors: extent.sectors().count(),
            rank,
            at: fill,
            stored: 0,
            decoded: 0,
            codec: Codec::Raw,
            crc: 0,
            offset: 0,
        };
        match &record.body {
            Body::Write { .. } | Body::Pattern { .. } | Body::Discard { .. } if !entries => {}
            Body::Write { volume, extent, place } => {
                let unit = units.get(usize::try_from(place.unit).unwrap_or(usize::MAX));
                self.entries.extend(unit.map(|unit| Entry {
                    volume: volume.0,
                    sector: extent.start().index(),
                    sectors: extent.sectors().count(),
                    rank,
                    offset: place.offset,
                    ..*unit
                }));
            }
            Body::Pattern { volume, extent, fill } => {
                self.entries.push(filled(volume.0, *extent, u64::from_le_bytes(*fill)));
            }
            Body::Discard { volume, extent } => self.entries.push(filled(volume.0, *extent, 0)),
            Body::Resize { volume, size } => {
                // What is cut off does not come back when the volume grows again.
                let cut = Sector::new(size.count()).and_then(|end| Extent::between(end, Sector::MAX));
                self.entries.extend(cut.filter(|_| entries).map(|cut| filled(volume.0, cut, 0)));
                self.events.extend(Seq::new(rank.seq).map(|seq| Event { seq, record }));
            }
            Body::Flush | Body::Clock(ClockKind::Report) | Body::Ignored => {}
            _ => self.events.extend(Seq::new(rank.seq).map(|seq| Event { seq, record })),
        }
    }
}

impl FrameSpot {
    pub(super) fn encode(&self, w: &mut Writer) {
        w.u64(self.at).u64(self.first).u32(self.records).u32(0).u64(self.from.0).u64(self.to.0);
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (at, first, records) = (r.u64()?, r.u64()?, r.u32()?);
        r.reserved(4)?;
        Ok(Self { at, first, records, from: WallTime(r.u64()?), to: WallTime(r.u64()?) })
    }
}

impl Event {
    pub(super) fn encode(&self, w: &mut Writer) {
        let mut notes = Vec::new();
        w.u64(self.seq.number());
        self.record.encode(w, &mut notes);
        w.u32(u32::try_from(notes.len()).unwrap_or(u32::MAX)).put(&notes);
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let seq = Seq::new(r.u64()?).ok_or(Malformed("an event without a place"))?;
        let record = *r;
        r.bytes(crate::codec::RECORD_BYTES)?;
        let len = usize::try_from(r.u32()?).unwrap_or(usize::MAX);
        if len > NOTE_BYTES {
            return Err(Malformed("a note longer than notes are"));
        }
        let notes = r.bytes(len)?;
        Ok(Self { seq, record: Record::decode(&mut { record }, notes)? })
    }
}
