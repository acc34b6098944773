//! The tap: an NBD export that captures what it writes.
//!
//! A change goes: hot-extent log → range lock → source → capture → unlock → reply. So a record stands where the change was complete, its time
//! lies between completion and reply, and changes that overlap are captured in the order the source saw them. Reads go straight
//! to the source; one that overlaps a write in flight may see either, as on any disk.
//!
//! | request | source | record |
//! |---|---|---|
//! | write | write | writes of at most 64 KiB, of one time |
//! | write zeroes | punched, zeroed or written | pattern |
//! | trim | punched, if it then reads as zeroes; else nothing | discard; else none |
//! | flush | `fdatasync`: covers the writes answered before it came | flush, after it |
//! | FUA | `fdatasync` before the reply, no order for others | none of its own |
//! | a change that fails | read again: any part may have happened | what is there; if it cannot be read, dirty, and a gap |
//!
//! Flush and FUA then wait until a receiver has what they cover, if that was agreed.

use std::io;
use std::sync::Arc;

use journal::codec::{Body, Gap, GapReason};
use journal::disk::AlignedBuf;
use journal::types::{Extent, VolumeNo};
use nbd::{Capabilities, ErrorCode, Export, Transfer};

use crate::Result;
use crate::capture::{Capture, Ranges};
use crate::hot::{Hot, Pass};
use crate::source::Storage;

/// Sectors that are read again at a time after a failure: 1 MiB.
const SALVAGE_SECTORS: u64 = 2048;

/// One volume, served and captured.
#[derive(Debug)]
pub struct Tap {
    volume: VolumeNo,
    source: Arc<dyn Storage>,
    capture: Arc<Capture>,
    ranges: Ranges,
    hot: Option<Arc<Hot>>,
}

impl Tap {
    /// Serves `source` as `volume` of the group that `capture` records.
    pub fn new(volume: VolumeNo, source: Arc<dyn Storage>, capture: Arc<Capture>) -> Self {
        Self { volume, source, capture, ranges: Ranges::default(), hot: None }
    }

    /// The same, behind the log of what is being changed, if there is one.
    #[must_use]
    pub fn behind(self, hot: Option<Arc<Hot>>) -> Self {
        Self { hot, ..self }
    }

    /// Waits until changes of these would be found again after a crash. What is returned is kept until they are captured.
    fn announce(&self, extents: &[Extent]) -> Option<Pass<'_>> {
        self.hot.as_deref().map(|hot| hot.enter(extents.iter().copied()))
    }

    fn change(
        &self,
        extent: Extent,
        fua: bool,
        on_source: impl FnOnce() -> io::Result<Option<Body>>,
        data: Option<&[u8]>,
    ) -> std::result::Result<(), ErrorCode> {
        if !self.fits(extent) {
            return Err(ErrorCode::NoSpace);
        }
        let announced = self.announce(&[extent]);
        let held = self.ranges.hold(extent);
        let seq = match (on_source(), data) {
            (Ok(_), Some(data)) => self.capture.record_write(self.volume, extent, data),
            (Ok(Some(body)), None) => self.capture.record(body),
            // Nothing changed.
            (Ok(None), None) => self.capture.last_seq(),
            (Err(error), _) => {
                self.salvage(extent, &error);
                return Err(ErrorCode::from(&error));
            }
        };
        drop((held, announced));
        if fua {
            self.sync()?;
            self.capture.confirm(seq);
        }
        Ok(())
    }

    /// Reads, and writes that do not overlap each other, all at the same time: the order above, once for all of them.
    fn transfer_together(&self, batch: &mut [Transfer<'_>]) -> Vec<std::result::Result<(), ErrorCode>> {
        let extents: Vec<_> = batch.iter().filter_map(written).collect();
        let announced = self.announce(&extents);
        let held = self.ranges.hold_all(&extents);
        let outcomes = self.source.transfer(batch);
        let changes = || batch.iter().zip(&outcomes).filter_map(|(one, outcome)| Some((written(one)?, one, outcome)));
        if changes().any(|(_, _, outcome)| outcome.is_ok()) {
            self.capture.record_writes(
                self.volume,
                changes().filter_map(|(extent, one, outcome)| match one {
                    Transfer::Write { data, .. } if outcome.is_ok() => Some((extent, *data)),
                    _ => None,
                }),
            );
        }
        changes().for_each(|(extent, _, outcome)| {
            if let Err(error) = outcome {
                self.salvage(extent, error);
            }
        });
        drop((held, announced));
        outcomes.into_iter().map(|outcome| outcome.map_err(|error| ErrorCode::from(&error))).collect()
    }

    /// Records what a failed change left in a range that is held.
    fn salvage(&self, extent: Extent, failure: &io::Error) {
        tracing::error!(volume = %self.volume, %extent, %failure, "the source failed a change: reading what is there");
        let Err(error) = self.record_found(extent) else { return };
        if self.source.was_cut() {
            // What is left of it is compared, once that was noticed; until then nothing here is a point.
            let text = format!("the source was cut by somebody else below {extent}");
            self.capture.record(Body::Gap(Gap { reason: GapReason::SourceError, text }));
        } else {
            let why = format!("the source failed a change of {extent}: {failure}; and cannot be read there: {error}");
            self.capture.lose(self.volume, extent, GapReason::SourceError, &why);
        }
    }

    fn record_found(&self, extent: Extent) -> Result<()> {
        for part in extent.chunks(SALVAGE_SECTORS) {
            let mut found = AlignedBuf::new(usize::try_from(part.bytes()).unwrap_or(usize::MAX))?;
            self.source.read_at(part.byte(), &mut found)?;
            if found.iter().all(|byte| *byte == 0) {
                self.capture.record(self.zeroes(part));
            } else {
                self.capture.record_write(self.volume, part, &found);
            }
        }
        Ok(())
    }

    /// Clients keep the size that they were told: what a cut source has lost is not to come back as nothing.
    fn fits(&self, extent: Extent) -> bool {
        extent.byte() + extent.bytes() <= self.source.size().bytes()
    }

    fn zeroes(&self, extent: Extent) -> Body {
        Body::Pattern { volume: self.volume, extent, fill: [0; 8] }
    }

    /// After a failed flush the source may have lost any write since the last good one, and still show it for a while: all of it is in
    /// doubt, and read again from the disk.
    fn sync(&self) -> std::result::Result<(), ErrorCode> {
        self.source.sync().map_err(|error| {
            tracing::error!(volume = %self.volume, %error, "the source failed a flush");
            if let Some(all) = Extent::of_bytes(0, self.source.size().bytes()) {
                let why = format!("the source failed a flush: {error}");
                self.capture.lose(self.volume, all, GapReason::SourceError, &why);
            }
            ErrorCode::from(&error)
        })
    }
}

/// What it writes to.
fn written(one: &Transfer<'_>) -> Option<Extent> {
    match one {
        Transfer::Write { offset, data } => Extent::of_bytes(*offset, crate::source::bytes(data.len())),
        Transfer::Read { .. } => None,
    }
}

/// How many of the first ones can be performed together: they are good, and no two of them write to the same sector.
fn apart(batch: &[Transfer<'_>]) -> usize {
    let mut extents: Vec<Extent> = Vec::with_capacity(batch.len());
    let fits = |one: &&Transfer<'_>| match (one, written(one)) {
        (Transfer::Read { .. }, _) => true,
        (_, Some(extent)) if extents.iter().all(|other| other.overlap(extent).is_none()) => {
            extents.push(extent);
            true
        }
        _ => false,
    };
    batch.iter().take_while(fits).count()
}

/// The server checks requests; whoever else calls gets the same answer.
fn extent(offset: u64, length: u64) -> std::result::Result<Extent, ErrorCode> {
    Extent::of_bytes(offset, length).ok_or(ErrorCode::Invalid)
}

impl Export for Tap {
    fn size_bytes(&self) -> u64 {
        self.source.size().bytes()
    }

    fn capabilities(&self) -> Capabilities {
        // Several connections are one source: a flush covers them all.
        Capabilities::ALL
    }

    fn min_block_bytes(&self) -> u32 {
        self.source.block_bytes()
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> std::result::Result<(), ErrorCode> {
        self.source.read_at(offset, buffer).map_err(|error| ErrorCode::from(&error))
    }

    fn write(&self, offset: u64, data: &[u8], fua: bool) -> std::result::Result<(), ErrorCode> {
        let extent = extent(offset, crate::source::bytes(data.len()))?;
        self.change(extent, fua, || self.source.write_at(offset, data).map(|()| None), Some(data))
    }

    fn transfer(&self, mut batch: &mut [Transfer<'_>]) -> Vec<std::result::Result<(), ErrorCode>> {
        let mut outcomes = Vec::with_capacity(batch.len());
        while !batch.is_empty() {
            let fit = batch.iter().take_while(|one| written(one).is_none_or(|extent| self.fits(extent))).count();
            let (now, later) = batch.split_at_mut(apart(batch).min(fit).max(1));
            match now {
                [one] => outcomes.push(one.perform(self)),
                many => outcomes.extend(self.transfer_together(many)),
            }
            batch = later;
        }
        outcomes
    }

    fn flush(&self) -> std::result::Result<(), ErrorCode> {
        // What was answered up to now is on its way to the receiver while the source is flushed.
        let before = self.capture.last_seq();
        self.sync()?;
        self.capture.flushed(before);
        Ok(())
    }

    fn trim(&self, offset: u64, length: u64, fua: bool) -> std::result::Result<(), ErrorCode> {
        let extent = extent(offset, length)?;
        let discard = || {
            let gone = self.source.discard(offset, length)?;
            Ok(gone.then_some(Body::Discard { volume: self.volume, extent }))
        };
        self.change(extent, fua, discard, None)
    }

    fn write_zeroes(&self, offset: u64, length: u64, no_hole: bool, fua: bool) -> std::result::Result<(), ErrorCode> {
        let extent = extent(offset, length)?;
        let zero = || self.source.zero(offset, length, no_hole).map(|()| Some(self.zeroes(extent)));
        self.change(extent, fua, zero, None)
    }

    fn allocation(&self, offset: u64, length: u64) -> std::result::Result<Vec<nbd::Extent>, ErrorCode> {
        let block = u64::from(self.source.block_bytes());
        let end = offset + length;
        let mut found = Vec::new();
        let mut at = offset;
        while at < end && found.len() + 2 <= nbd::limits::EXTENTS_MAX {
            let data = self.source.next_data(at).map_err(|error| ErrorCode::from(&error))?.unwrap_or(end..end);
            // Whole blocks, data if any of it is.
            let start = (data.start / block * block).clamp(at, end);
            let stop = data.end.next_multiple_of(block).clamp(start, end);
            let runs = [(start - at, true), (stop - start, false)];
            let runs = runs.into_iter().filter(|(length, _)| *length > 0);
            found.extend(runs.map(|(length_bytes, empty)| nbd::Extent { length_bytes, hole: empty, zero: empty }));
            at = stop;
        }
        Ok(found)
    }
}
