//! Headers of segments: read, compared with what the manifest says, made again from the first frame.

use crate::codec::{
    ENVELOPE_BYTES, FRAME_HEADER_BYTES, FrameHeader, SEGMENT_HEADER_BYTES, SegmentCreated, SegmentHeader, SegmentKind,
};
use crate::disk::File;
use crate::error::{Error, Result};
use crate::types::{GroupId, ResyncId};

pub(super) fn resync_of(header: &SegmentHeader) -> Option<ResyncId> {
    match header.kind {
        SegmentKind::Live { .. } => None,
        SegmentKind::Base { resync } => Some(resync),
    }
}

/// The header as it must have been, from the manifest and the first frame.
pub(super) fn header_from_frame(
    file: &dyn File,
    created: &SegmentCreated,
    group: GroupId,
) -> Result<Option<SegmentHeader>> {
    if created.place != created.number {
        // Its frames do not say what it stands for.
        return Ok(None);
    }
    let kind = match (created.resync, created.first) {
        (Some(resync), _) => SegmentKind::Base { resync },
        (None, Some(first)) => SegmentKind::Live { first },
        (None, None) => return Ok(None),
    };
    let mut bytes = [0; FRAME_HEADER_BYTES];
    if file.read_at((SEGMENT_HEADER_BYTES + ENVELOPE_BYTES) as u64, &mut bytes)? < bytes.len() {
        return Ok(None);
    }
    let first = FrameHeader::decode(&bytes).ok().filter(|first| first.group == group);
    Ok(first.map(|first| SegmentHeader {
        group,
        epoch: first.epoch,
        salt: created.salt,
        number: created.number,
        kind,
        chain_in: first.prev,
        first_frame: first.number,
        created: first.wall,
        replaces: None,
    }))
}

pub(super) fn read_header(file: &dyn File) -> Result<SegmentHeader> {
    let mut bytes = [0; SEGMENT_HEADER_BYTES];
    file.read_exact_at(0, &mut bytes)?;
    SegmentHeader::decode(&bytes).map_err(|why| match SegmentHeader::is_intact(&bytes) {
        true => Error::unsupported(why.0),
        false => Error::from(why),
    })
}

pub(super) fn matches(header: &SegmentHeader, created: &SegmentCreated, group: GroupId) -> bool {
    let kind = match header.kind {
        SegmentKind::Live { first } => created.first == Some(first),
        SegmentKind::Base { resync } => created.resync == Some(resync),
    };
    let is_it = header.number == created.number && header.place() == created.place;
    kind && is_it && header.group == group && header.salt == created.salt
}
