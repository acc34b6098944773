//! Every maximum of the format and the wire, with its reason.

/// Decoded bytes of a unit. Large enough for BLAKE3 and LZ4 to run at full speed, small enough to decode for one 4 KiB read.
pub const UNIT_BYTES: usize = 64 * 1024;
/// A raw unit has a CRC for each of these, so that a 4 KiB read checks what it reads and no more.
pub const CRC_CHUNK_BYTES: usize = 4096;
/// Sectors of one write record: it lies in one unit.
pub const WRITE_SECTORS: u64 = UNIT_BYTES as u64 / 512;
/// Payload at which a frame is closed: BLAKE3 and io are at their best from here on.
pub const FRAME_PAYLOAD_TARGET: usize = 1024 * 1024;
/// Payload a frame may have at most: the target and one unit on top.
pub const FRAME_PAYLOAD_BYTES: usize = FRAME_PAYLOAD_TARGET + UNIT_BYTES;
/// Records in a frame: a megabyte of single sectors, and as many patterns and flushes.
pub const FRAME_RECORDS: usize = 4096;
/// Units in a frame. A unit may be closed early, when what comes next does not fit.
pub const FRAME_UNITS: usize = 2 * FRAME_PAYLOAD_BYTES / UNIT_BYTES + 2;
/// CRCs in a frame: one for each started chunk of each unit.
pub const FRAME_CRCS: usize = FRAME_PAYLOAD_BYTES / CRC_CHUNK_BYTES + FRAME_UNITS;
/// Bytes of notes in a frame.
pub const FRAME_NOTES_BYTES: usize = 64 * 1024;
/// A note, among them the longest name or reason.
pub const NOTE_BYTES: usize = 1024;
/// Tables of a frame.
pub const FRAME_TABLES_BYTES: usize = 16 * FRAME_UNITS + 4 * FRAME_CRCS + 48 * FRAME_RECORDS + FRAME_NOTES_BYTES + 8;
/// A whole frame.
pub const FRAME_BYTES: usize = 256 + FRAME_TABLES_BYTES + FRAME_PAYLOAD_BYTES;
/// A name of a group, volume or mark.
pub const NAME_BYTES: usize = 64;
/// Points listed where history was thinned: one a minute for nearly two years. 24 MiB.
pub const KEPT_POINTS: usize = 1 << 20;
/// Records of a compacted frame: with their ranks they take no more than those of another.
pub const COMPACTED_RECORDS: usize = FRAME_RECORDS * 48 / 60;
/// Runs of extents in one answer about what changed: 32 KiB.
pub const CHANGED_RUNS: usize = 4096;
/// Data in one message of a live rollback: long writes, little memory.
pub const ROLLBACK_DATA_BYTES: usize = 1024 * 1024;
/// Zeroes in one message of a live rollback: some files are all holes, and the tap holds the range meanwhile.
pub const ROLLBACK_ZERO_BYTES: u32 = 64 * 1024 * 1024;
/// Volumes in a group: a bound on what a hostile peer can make us remember.
pub const GROUP_VOLUMES: u32 = 256;
/// Content of a segment before it is sealed. Small enough that its index is built and checked in milliseconds.
pub const SEGMENT_BYTES: u64 = 64 * 1024 * 1024;
/// Entries of a manifest: 10^6 segments of 64 MiB are 64 TiB of history for one group.
pub const MANIFEST_BYTES: u64 = 512 * 4 * 1024 * 1024;
/// Footer of a segment: an entry for each sector written would be this much.
pub const FOOTER_BYTES: u64 = 512 * 1024 * 1024;
/// Segments that one merged run covers: as many as a manifest names, about.
pub const RUN_SOURCES: u32 = 1 << 20;
/// Guide pages of one merged run: 10^11 entries.
pub const RUN_GUIDES: u32 = 1 << 20;

const _: () = assert!(FRAME_BYTES < 2 * 1024 * 1024);
const _: () = assert!(NAME_BYTES < NOTE_BYTES && NOTE_BYTES < FRAME_NOTES_BYTES);
const _: () = assert!(SEGMENT_BYTES > 4 * FRAME_BYTES as u64);
