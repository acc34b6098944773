//! Writes one compacted segment in the place of neighbours: what of them can be seen, and all their events.

use std::collections::HashSet;
use std::sync::Arc;

use super::judge::{Judge, Lives};
use super::survey::{stored, units};
use super::units::{Part, Rest, rest};
use super::{Cleaner, CompactPlan, Pace, Thinned};
use crate::codec::{Body, Codec, Replaces, SegmentHeader, SegmentKind, UnitPlace};
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::frame::CompactBuilder;
use crate::index::{Entry, Event, Footer, Rank};
use crate::limits::CRC_CHUNK_BYTES;
use crate::log::{Compacted, CompactedWriter, Segment};
use crate::types::{Extent, Salt, SegmentNo, Seq, VolumeNo, WallTime};

/// Versions judged together: some 50 MB of memory, and no more of a run but where one segment has more.
pub(super) const JUDGED_MAX: usize = 1 << 18;

/// Where and as what a compacted segment is written.
#[derive(Clone, Copy, Debug)]
pub struct Output<'d> {
    /// The journal's directory.
    pub disk: &'d dyn Disk,
    /// A number that nobody else has.
    pub number: SegmentNo,
    /// Random.
    pub salt: [u8; 16],
    /// The keeper's clock.
    pub now: WallTime,
}

/// A plan, and what of each version in it can be seen.
#[derive(Debug)]
pub struct Examined {
    plan: CompactPlan,
    segments: Vec<Verdicts>,
}

/// What is left of a segment.
#[derive(Debug)]
struct Verdicts {
    events: Vec<Event>,
    /// CRCs of units that have several.
    pool: Vec<u32>,
    units: Vec<Vec<(Entry, Lives)>>,
    fills: Vec<(Entry, Lives)>,
}

/// Versions that are judged together.
struct Slice<'k> {
    judge: Judge<'k>,
    /// Which segment, what, and its number.
    accused: Vec<(usize, Entry, usize)>,
}

impl Examined {
    /// What it is about.
    pub fn plan(&self) -> &CompactPlan {
        &self.plan
    }
}

impl Cleaner {
    /// How many of these plans are examined together.
    pub fn batch(plans: &[CompactPlan]) -> usize {
        let mut entries = 0;
        let fits = plans.iter().take_while(|plan| {
            entries += plan.entries;
            entries <= JUDGED_MAX
        });
        fits.count().max(1)
    }

    /// Finds out what of each version can be seen, of all plans together; `None` if `pace` stops it.
    pub fn examine(&self, plans: &[CompactPlan], pace: Pace<'_>) -> Result<Option<Vec<Examined>>> {
        self.examine_in(JUDGED_MAX, plans, pace)
    }

    /// The same in slices of about so many versions: what becomes of one does not depend on who is judged with it.
    pub(in super::super) fn examine_in(
        &self,
        most: usize,
        plans: &[CompactPlan],
        pace: Pace<'_>,
    ) -> Result<Option<Vec<Examined>>> {
        let Some(kept) = self.kept().map(Arc::clone) else { return Ok(Some(Vec::new())) };
        let mut left: Vec<Verdicts> = Vec::new();
        let mut slice = Slice { judge: Judge::new(&kept), accused: Vec::new() };
        for thinned in plans.iter().flat_map(|plan| &plan.segments) {
            let place = left.len();
            let mut done = 0;
            loop {
                // It is read again for each slice: nothing of it is in memory while all others are heard.
                let footer = thinned.segment.footer()?;
                if left.len() == place {
                    let events = self.kept_events(&footer).cloned().collect();
                    left.push(Verdicts { events, pool: footer.pool.clone(), units: Vec::new(), fills: Vec::new() });
                }
                let stored = stored(&footer);
                let mut fills: Vec<&Entry> = fills(&footer).collect();
                fills.sort_unstable_by_key(|entry| (entry.rank, entry.volume, entry.sector));
                let groups = units(&stored).chain(fills.iter().map(|fill| std::slice::from_ref(*fill)));
                let mut is_whole = true;
                for group in groups.skip(done) {
                    if slice.accused.len() >= most {
                        is_whole = false;
                        break;
                    }
                    let birth = |entry: &Entry| thinned.sealed.map_or(entry.rank.seq, Seq::number);
                    group.iter().for_each(|entry| slice.accuse(place, entry, birth(entry)));
                    done += 1;
                }
                if is_whole {
                    break;
                }
                drop(fills);
                drop((stored, footer));
                if self.confront(&kept, &mut slice.judge, pace)?.is_break() {
                    return Ok(None);
                }
                slice.close(&mut left);
                slice = Slice { judge: Judge::new(&kept), accused: Vec::new() };
            }
        }
        if self.confront(&kept, &mut slice.judge, pace)?.is_break() {
            return Ok(None);
        }
        slice.close(&mut left);
        let mut left = left.into_iter();
        let examined = plans
            .iter()
            .map(|plan| Examined { plan: plan.clone(), segments: left.by_ref().take(plan.segments.len()).collect() });
        Ok(Some(examined.collect()))
    }

    /// Writes what is left of a plan, durably. `None` if `pace` stops it. Nothing of the journal has changed then, nor after an error:
    /// what was written is removed, now or when the journal is opened next.
    pub fn compact(&self, examined: &Examined, output: Output<'_>, pace: Pace<'_>) -> Result<Option<Compacted>> {
        let header = header(&examined.plan.segments, output)?;
        let old = examined.plan.segments.iter().map(|thinned| Arc::clone(&thinned.segment)).collect();
        // Where there is a file already, it is not ours to remove.
        let file = CompactedWriter::create(output.disk, header, old)?;
        let written = self.write(examined, file, header, output, pace);
        if !matches!(written, Ok(Some(_))) {
            let _ = output.disk.remove(&output.number.file_name());
        }
        written
    }

    /// All events but marks that are none any more.
    pub(super) fn kept_events<'f>(&self, footer: &'f Footer) -> impl Iterator<Item = &'f Event> {
        let timeline = &self.version.timeline;
        footer.events.iter().filter(|event| !matches!(event.record.body, Body::Mark(_)) || timeline.is_point(event.seq))
    }

    fn write(
        &self,
        examined: &Examined,
        file: CompactedWriter,
        header: SegmentHeader,
        output: Output<'_>,
        pace: Pace<'_>,
    ) -> Result<Option<Compacted>> {
        let mut writing = Writing { file, frame: CompactBuilder::default(), header, now: output.now };
        for (thinned, verdicts) in examined.plan.segments.iter().zip(&examined.segments) {
            for Event { seq, record } in &verdicts.events {
                writing.push(Rank { seq: seq.number(), base: 0 }, record.time, record.body.clone())?;
            }
            for (entry, lives) in &verdicts.fills {
                for extent in lives.parts(entry.extent()) {
                    writing.push(entry.rank, WallTime(0), filled(entry, extent))?;
                }
            }
            for unit in &verdicts.units {
                let rest = rest(unit.iter().map(|(entry, lives)| (entry, lives)));
                let Some((first, _)) = unit.first().filter(|_| !rest.parts.is_empty()) else { continue };
                writing.unit(&thinned.segment, &verdicts.pool, first, &rest)?;
                if pace(rest.bytes(first)).is_break() {
                    return Ok(None);
                }
            }
        }
        if writing.file.next().0 == crate::types::FrameNo::FIRST && writing.frame.is_empty() {
            let first = match header.kind {
                SegmentKind::Live { first } => first.number(),
                SegmentKind::Base { .. } => 0,
            };
            writing.push(Rank { seq: first, base: 0 }, WallTime(0), Body::Flush)?;
        }
        writing.close_frame()?;
        writing.file.finish(output.disk).map(Some)
    }
}

impl Slice<'_> {
    fn accuse(&mut self, segment: usize, entry: &Entry, birth: u64) {
        let number = self.judge.accuse(entry, birth);
        self.accused.push((segment, *entry, number));
    }

    /// All were heard: adds what lives to what is left of the segments.
    fn close(&self, left: &mut [Verdicts]) {
        let is_one = |(of, a, _): &(usize, Entry, usize), (other, b, _): &(usize, Entry, usize)| {
            of == other && a.stored > 0 && b.stored > 0 && a.at == b.at
        };
        for unit in self.accused.chunk_by(is_one) {
            let Some((segment, first, _)) = unit.first() else { continue };
            let Some(left) = left.get_mut(*segment) else { continue };
            let judged = unit.iter().map(|(_, entry, number)| (*entry, self.judge.verdict(*number)));
            let mut living =
                judged.filter(|(_, lives)| !lives.is_nothing()).map(|(entry, lives)| (entry, lives.clone()));
            if first.stored == 0 {
                left.fills.extend(living);
            } else if let Some(one) = living.next() {
                left.units.push([one].into_iter().chain(living).collect());
            }
        }
    }
}

/// A compacted segment on its way.
struct Writing {
    file: CompactedWriter,
    frame: CompactBuilder,
    header: SegmentHeader,
    now: WallTime,
}

impl Writing {
    fn push(&mut self, rank: Rank, time: WallTime, body: Body) -> Result<()> {
        if self.frame.is_full_for(1) {
            self.close_frame()?;
        }
        self.frame.push((rank.seq, rank.base), time, body);
        Ok(())
    }

    /// Takes over what is left of a unit. What does not match its checksum is not taken anywhere.
    fn unit(&mut self, segment: &Segment, pool: &[u32], first: &Entry, rest: &Rest) -> Result<()> {
        if self.frame.is_full_for(rest.parts.len()) {
            self.close_frame()?;
        }
        let mut stored = vec![0; index(first.stored.into())];
        segment.file.read_exact_at(first.at, &mut stored)?;
        let lost = || {
            let name = segment.header.number.file_name();
            Error::corrupt("data does not match its checksum").with_path(name).with_offset(first.at)
        };
        let mut places: Vec<(u64, UnitPlace)> = Vec::new();
        match first.codec {
            Codec::Lz4 => {
                if crc32fast::hash(&stored) != first.crc {
                    return Err(lost());
                }
                places.push((0, self.frame.packed(&stored, first.decoded, first.crc)));
            }
            Codec::Raw => {
                for &(from, to) in &rest.chunks {
                    let start = index(from) * CRC_CHUNK_BYTES;
                    let end = (index(to) * CRC_CHUNK_BYTES).min(stored.len());
                    let bytes = stored.get(start..end).ok_or_else(lost)?;
                    let crcs: Vec<u32> = bytes.chunks(CRC_CHUNK_BYTES).map(crc32fast::hash).collect();
                    let known = |chunk: usize| match first.has_many_crcs() {
                        false => Some(first.crc),
                        true => pool.get(index(first.crc.into()) + chunk).copied(),
                    };
                    if !(index(from)..).zip(&crcs).all(|(chunk, crc)| known(chunk) == Some(*crc)) {
                        return Err(lost());
                    }
                    places.push((from * CRC_CHUNK_BYTES as u64, self.frame.raw(bytes, &crcs)));
                }
            }
        }
        for Part { entry, extent, offset } in &rest.parts {
            let run = places.iter().rev().find(|(start, _)| start <= offset).ok_or_else(lost)?;
            let inside = u32::try_from(offset - run.0).map_err(|_| lost())?;
            let place = UnitPlace { unit: run.1.unit, offset: run.1.offset + inside };
            self.frame.push(
                (entry.rank.seq, entry.rank.base),
                WallTime(0),
                Body::Write { volume: VolumeNo(entry.volume), extent: *extent, place },
            );
        }
        Ok(())
    }

    fn close_frame(&mut self) -> Result<()> {
        if self.frame.is_empty() {
            return Ok(());
        }
        let frame = self.frame.finish((self.header.group, self.header.epoch), self.file.next(), self.now);
        self.file.append(&frame, self.now)
    }
}

/// Versions without stored data, but for what resizes cut off: those come back with their events.
pub(super) fn fills(footer: &Footer) -> impl Iterator<Item = &Entry> {
    let resizes: HashSet<u64> = footer
        .events
        .iter()
        .filter(|event| matches!(event.record.body, Body::Resize { .. }))
        .map(|event| event.seq.number())
        .collect();
    let is_fill =
        move |entry: &&Entry| entry.stored == 0 && !(entry.rank.base == 0 && resizes.contains(&entry.rank.seq));
    footer.run.entries().iter().filter(is_fill)
}

fn filled(entry: &Entry, extent: Extent) -> Body {
    let volume = VolumeNo(entry.volume);
    match entry.at {
        0 => Body::Discard { volume, extent },
        fill => Body::Pattern { volume, extent, fill: fill.to_le_bytes() },
    }
}

/// The header of what is to stand for these.
fn header(segments: &[Thinned], output: Output<'_>) -> Result<SegmentHeader> {
    let ends = segments.first().zip(segments.last()).map(|(first, last)| (&first.segment, &last.segment));
    let (first, last) = ends.ok_or_else(|| Error::invalid("nothing to stand for"))?;
    let sealed = last.sealed.ok_or_else(|| Error::invalid("a segment without an end"))?;
    let (last_frame, chain_out, epoch) = match last.header.replaces {
        Some(replaces) => (replaces.last_frame, replaces.chain_out, last.header.epoch),
        None => (sealed.last_frame, sealed.head, last.last_epoch()?),
    };
    Ok(SegmentHeader {
        epoch,
        salt: Salt(output.salt),
        number: output.number,
        created: output.now,
        replaces: Some(Replaces { place: first.header.place(), end: sealed.end, chain_out, last_frame }),
        ..first.header
    })
}

/// A length or offset within a unit: it fits in memory.
fn index(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
