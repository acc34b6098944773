//! The list of points that are left where history was thinned: written, found, read.

use std::io::IoSlice;
use std::sync::Arc;

use super::Log;
use super::named::Named;
use super::open::Opening;
use crate::codec::{
    KEPT_POINT_BYTES, KeptPoint, ManifestEntry, POINTS_HEADER_BYTES, PointsHeader, Reader, Thinned, Writer,
};
use crate::disk::{Disk, Open, read_file};
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint::{self, Step};
use crate::limits::KEPT_POINTS;
use crate::retention::Kept;
use crate::types::{GroupId, SegmentNo, WallTime};

/// A list that is durable, and that no manifest names yet.
#[derive(Debug)]
pub struct PointsFile {
    number: SegmentNo,
    kept: Arc<Kept>,
}

impl PointsFile {
    /// Its number.
    pub fn number(&self) -> SegmentNo {
        self.number
    }

    /// What it says.
    pub fn kept(&self) -> &Kept {
        &self.kept
    }

    /// Writes a list, durably, under a number that nobody else has.
    ///
    /// # Errors
    /// When the disk fails or is full: then there is nothing of it.
    pub fn write(disk: &dyn Disk, group: GroupId, number: SegmentNo, kept: Kept) -> Result<Self> {
        if kept.points.len() > KEPT_POINTS {
            return Err(Error::invalid(format!("{} points are more than can be listed", kept.points.len())));
        }
        let mut w = Writer::with_capacity(kept.points.len() * KEPT_POINT_BYTES);
        kept.points.iter().for_each(|point| point.encode(&mut w));
        let points = w.finish();
        let header = PointsHeader {
            group,
            number,
            upto: kept.upto,
            upto_time: kept.upto_time,
            count: kept.points.len(),
            crc: crc32fast::hash(&points),
        };
        let name = number.points_name();
        // Where there is a file already, it is not ours to remove.
        let file = disk.open(&name, Open::CreateNew)?;
        let written = file
            .write_at(0, &[IoSlice::new(&header.encode()), IoSlice::new(&points)])
            .and_then(|()| file.sync())
            .and_then(|()| disk.sync_dir())
            .and_then(|()| failpoint::reached(Step::PointsWritten));
        if let Err(error) = written {
            // Nobody names it; what cannot be removed now is when the log is opened next.
            let _ = disk.remove(&name);
            return Err(error);
        }
        Ok(Self { number, kept: Arc::new(kept) })
    }
}

impl Log {
    /// Nothing is thinned or cleaned on top of a list that cannot be read.
    pub(super) fn check_points(&self) -> Result<()> {
        match self.lost_points {
            true => Err(Error::corrupt("which points are left cannot be read: nothing is thinned or cleaned")),
            false => Ok(()),
        }
    }

    /// From now on, below a place only listed points are points. Nothing else changes.
    ///
    /// # Errors
    /// `Invalid` for a list that would bring back what is gone. Any other closes the log.
    pub(crate) fn thin(&mut self, list: &PointsFile) -> Result<()> {
        self.check_open()?;
        self.check_points()?;
        let (old, new) = (self.kept.clone(), &list.kept);
        if let Some(old) = &old {
            let is_left = |point: &KeptPoint| old.offers(point.seq);
            if new.upto < old.upto || !new.points.iter().all(is_left) {
                return Err(Error::invalid("points that are gone do not come back"));
            }
        }
        self.shorten_manifest()?;
        self.use_number(list.number)?;
        let entry = ManifestEntry::Thinned(Thinned { list: list.number, upto: new.upto });
        let named = self.manifest.append(entry).and_then(|()| failpoint::reached(Step::HistoryThinned));
        self.close_on_error(named)?;
        let before = self.list.replace(list.number);
        self.kept = Some(Arc::clone(&list.kept));
        self.changed = true;
        if let Some(before) = before {
            // Should that fail, it is a stray.
            let _ = self.disk.remove(&before.points_name());
        }
        Ok(())
    }
}

impl Opening {
    /// Reads the list that the manifest names. Where that is damaged, a newer one is as true: a list only ever shrinks.
    pub(super) fn points(&mut self, named: &mut Named) -> Result<Option<Arc<Kept>>> {
        let names = self.disk.list()?;
        let mut lists: Vec<SegmentNo> = names.iter().filter_map(|name| SegmentNo::of_points(name)).collect();
        lists.sort_unstable();
        if let Some(last) = lists.last() {
            named.next = named.next.max(last.0 + 1);
        }
        let group = self.options.group;
        // X is where a sealed segment ends: without its list all of them may have been thinned.
        let is_cleaned = named.segments.values().any(|(created, _)| created.place != created.number);
        let ends = named.segments.values().filter_map(|(_, sealed)| sealed.and_then(|sealed| sealed.end));
        let cleaned = ends.max().filter(|_| is_cleaned);
        let wanted = named.thinned.map(|thinned| thinned.list);
        if wanted.is_none() && !self.read_only && !is_cleaned {
            return self.remove_strays(&lists, None).map(|()| None);
        }
        let mut why = String::new();
        let mut found = None;
        // The named one; else, and where the manifest cannot be believed, the newest that is whole.
        let newer = lists.iter().rev().filter(|number| Some(**number) > wanted);
        for &number in wanted.iter().filter(|_| !self.read_only).chain(newer).chain(wanted.iter()) {
            match read(&*self.disk, group, number) {
                Ok(kept) => {
                    found = Some((number, kept));
                    break;
                }
                // A disk that fails, or a newer version, says nothing of what is in it.
                Err(error) if !matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) => {
                    return Err(error.with_path(number.points_name()));
                }
                Err(error) => why = format!("{}: {error}", number.points_name()),
            }
        }
        let Some((number, kept)) = found else {
            let upto = match named.thinned.map(|thinned| thinned.upto) {
                // Nothing beyond was ever thinned, nor compacted.
                Some(upto) if !self.read_only => Some(upto),
                upto => upto.max(cleaned),
            };
            let Some(upto) = upto else { return Ok(None) };
            self.lost_points = true;
            self.report("points", format!("which points are left before {upto} cannot be read: {why}"), false);
            return Ok(Some(Arc::new(Kept { upto, upto_time: WallTime(0), points: Vec::new() })));
        };
        if Some(number) != wanted {
            self.report(number.points_name(), "it is used in the place of one that cannot be read", true);
            named.thinned = Some(Thinned { list: number, upto: kept.upto });
        }
        if !self.read_only {
            self.remove_strays(&lists, Some(number))?;
        }
        Ok(Some(Arc::new(kept)))
    }

    fn remove_strays(&self, lists: &[SegmentNo], but: Option<SegmentNo>) -> Result<()> {
        let strays: Vec<_> = lists.iter().filter(|number| Some(**number) != but).collect();
        strays.iter().try_for_each(|number| self.disk.remove(&number.points_name()))?;
        if strays.is_empty() { Ok(()) } else { self.disk.sync_dir() }
    }
}

fn read(disk: &dyn Disk, group: GroupId, number: SegmentNo) -> Result<Kept> {
    let most = (POINTS_HEADER_BYTES + KEPT_POINTS * KEPT_POINT_BYTES) as u64;
    let file = read_file(disk, &number.points_name(), most)?.ok_or_else(|| Error::not_found("it is gone"))?;
    let (first, points) = file.split_first_chunk().ok_or_else(|| Error::corrupt("it is too short"))?;
    let header = PointsHeader::decode(first).map_err(|why| match PointsHeader::is_intact(first) {
        true => Error::unsupported(why.0),
        false => Error::from(why),
    })?;
    if header.group != group || header.number != number {
        return Err(Error::corrupt("it is another list"));
    }
    if points.len() != header.count * KEPT_POINT_BYTES || crc32fast::hash(points) != header.crc {
        return Err(Error::corrupt("its points do not match their checksum"));
    }
    let mut r = Reader::new(points);
    let points = (0..header.count).map(|_| KeptPoint::decode(&mut r)).collect::<std::result::Result<Vec<_>, _>>()?;
    let is_ordered =
        points.is_sorted_by(|a, b| a.seq < b.seq) && points.last().is_none_or(|last| last.seq < header.upto);
    if !is_ordered {
        return Err(Error::corrupt("its points are out of order"));
    }
    Ok(Kept { upto: header.upto, upto_time: header.upto_time, points })
}
