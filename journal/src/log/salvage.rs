//! What segments say of themselves, where the manifest cannot be believed. Nothing is changed.

use super::header::{read_header, resync_of};
use super::named::Named;
use super::open::Finding;
use super::scan::scan;
use crate::codec::{SegmentCreated, SegmentHeader, SegmentKind, SegmentSealed};
use crate::disk::{Disk, File, Open};
use crate::error::{ErrorKind, Result};
use crate::index::{read_footer, read_trailer, times};
use crate::types::{GroupId, SegmentNo};

/// Adds to `named` what a manifest has lost: segments that hold frames of this group, and ends of segments that have one. What is named
/// and not there is taken for dropped: if it was not, the next segment of its chain does not fit.
pub(super) fn salvage(disk: &dyn Disk, group: GroupId, named: &mut Named) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let (mut there, mut headers) = (Vec::new(), Vec::new());
    for number in disk.list()?.iter().filter_map(|name| SegmentNo::of_file(name)) {
        named.next = named.next.max(number.0 + 1);
        if named.dropped.contains(&number) {
            continue;
        }
        there.push(number);
        let name = number.file_name();
        let file = disk.open(&name, Open::ReadOnly)?;
        let header = match read_header(&*file) {
            Ok(header) if header.group == group && header.number == number => header,
            Err(error) if error.kind() == ErrorKind::Unsupported => return Err(error.with_path(&name)),
            _ => continue,
        };
        let known = named.find(number).copied();
        let Some(created) = known.map(|(created, _)| created).or_else(|| created(&*file, &header)) else { continue };
        if created.salt != header.salt {
            continue;
        }
        let sealed = known.and_then(|(_, sealed)| sealed).or_else(|| sealed(&*file, &header));
        // One that stands for others was written as a whole, or was never relied on.
        if sealed.is_some() || header.replaces.is_none() {
            headers.push((header, created, sealed));
        }
    }
    named.segments.retain(|_, (created, _)| {
        let is_there = there.contains(&created.number);
        if !is_there {
            let name = created.number.file_name();
            findings.push(Finding::damage(name, "the file is gone, and is taken for one that was dropped"));
        }
        is_there
    });
    // The newest first: what it stands for may still be there, and may have stood for others itself.
    headers.sort_unstable_by_key(|(header, ..)| std::cmp::Reverse(header.number));
    let covers: Vec<SegmentHeader> = headers.iter().map(|(header, ..)| *header).collect();
    for (header, created, sealed) in headers {
        if covers.iter().any(|newer| newer.number > header.number && stands_for(newer, &header)) {
            named.segments.retain(|_, (known, _)| known.number != header.number);
        } else {
            named.segments.insert(created.place, (created, sealed));
        }
    }
    Ok(findings)
}

/// Whether a compacted segment has in it all that `other` holds.
fn stands_for(newer: &SegmentHeader, other: &SegmentHeader) -> bool {
    let is_within = |last| (newer.first_frame..=last).contains(&other.first_frame);
    resync_of(newer) == resync_of(other) && newer.replaces.is_some_and(|replaces| is_within(replaces.last_frame))
}

/// The entry that made a segment; `None` if it holds no frames.
fn created(file: &dyn File, header: &SegmentHeader) -> Option<SegmentCreated> {
    let mut frames = 0;
    scan(file, header, file.len().ok()?, 0, |_| frames += 1).ok().filter(|_| frames > 0)?;
    let (resync, first) = match header.kind {
        SegmentKind::Live { first } => (None, Some(first)),
        SegmentKind::Base { resync } => (Some(resync), None),
    };
    Some(SegmentCreated { number: header.number, salt: header.salt, resync, first, place: header.place() })
}

/// How a segment ends, if it has an end.
fn sealed(file: &dyn File, header: &SegmentHeader) -> Option<SegmentSealed> {
    let file_bytes = file.len().ok()?;
    let trailer = read_trailer(file, file_bytes, header.salt).ok()?;
    let footer = read_footer(file, &trailer).ok()?;
    let (number, times) = (header.number, times(&footer.frames));
    Some(SegmentSealed {
        number,
        file_bytes,
        end: trailer.end,
        head: trailer.head,
        last_frame: trailer.last_frame,
        times,
    })
}
