//! Bytes to structs and back, as `docs/FORMAT.md` says. Pure: no file, no clock; encoding cannot fail, decoding checks everything.

#![deny(clippy::indexing_slicing)]

mod bytes;
mod envelope;
mod frame;
mod manifest;
mod note;
mod points;
mod record;
mod run;
mod segment;
mod trailer;
mod unit;

pub use bytes::{Malformed, Reader, Writer};
pub use envelope::{ENVELOPE_BYTES, Envelope};
pub use frame::{FRAME_HEADER_BYTES, FrameHeader, FrameKind, RANK_BYTES};
pub use manifest::{
    MANIFEST_ENTRY_BYTES, ManifestEntry, ManifestLine, REPLACED_MAX, Replaced, SegmentCreated, SegmentSealed, Stopped,
    Thinned,
};
pub use note::{EpochBegin, Gap, GapReason, Mark, Sealed, VolumeAdd};
pub use points::{KEPT_POINT_BYTES, KeptPoint, POINTS_HEADER_BYTES, PointsHeader};
pub use record::{Body, ClockKind, PointClass, RECORD_BYTES, Record, UnitPlace};
pub use run::{RUN_SOURCE_BYTES, RUN_TRAILER_BYTES, RunKind, RunSource, RunTrailer};
pub use segment::{Replaces, SEGMENT_HEADER_BYTES, SegmentHeader, SegmentKind};
pub use trailer::{Section, TRAILER_BYTES, Trailer};
pub use unit::{Codec, UNIT_ENTRY_BYTES, UnitEntry};

#[cfg(test)]
mod tests;
