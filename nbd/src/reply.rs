//! Replies: bytes out. Each function appends to `out` what goes before the data, if there is any.

use crate::export::{ErrorCode, Extent};
use crate::limits::EXTENTS_MAX;
use crate::wire::Put;

/// The id that `base:allocation` has on every connection.
pub const ALLOCATION_ID: u32 = 1;

/// The head of a reply without data that says how the request `cookie` went.
pub fn simple(out: &mut Vec<u8>, cookie: u64, outcome: Result<(), ErrorCode>) {
    out.put_u32(SIMPLE_MAGIC);
    out.put_u32(outcome.map_or_else(ErrorCode::number, |()| 0));
    out.put_u64(cookie);
}

/// The head of a structured read reply: `length` bytes of data from `offset` follow it.
pub fn read_chunk(out: &mut Vec<u8>, cookie: u64, offset: u64, length: u32) {
    chunk(out, OFFSET_DATA, cookie, 8 + length);
    out.put_u64(offset);
}

/// A structured reply that says that the request failed.
pub fn error_chunk(out: &mut Vec<u8>, cookie: u64, code: ErrorCode) {
    chunk(out, ERROR, cookie, 6);
    out.put_u32(code.number());
    out.put_u16(0);
}

/// A reply that says that the request failed, of the kind that was negotiated.
pub fn failure(out: &mut Vec<u8>, structured: bool, cookie: u64, code: ErrorCode) {
    if structured { error_chunk(out, cookie, code) } else { simple(out, cookie, Err(code)) }
}

/// The head of a reply with `length` bytes of data from `offset`, of the kind that was negotiated.
pub fn read(out: &mut Vec<u8>, structured: bool, cookie: u64, offset: u64, length: u32) {
    if structured { read_chunk(out, cookie, offset, length) } else { simple(out, cookie, Ok(())) }
}

/// A reply to a block status request for `length` bytes: at most what was asked for, in one extent if `one`.
/// `extents` that describe nothing are an error of the export.
pub fn block_status(
    out: &mut Vec<u8>,
    cookie: u64,
    length: u32,
    one: bool,
    extents: &[Extent],
) -> Result<(), ErrorCode> {
    let merged = merge(length, if one { 1 } else { EXTENTS_MAX }, extents);
    let Ok(count @ 1..) = u32::try_from(merged.len()) else { return Err(ErrorCode::Io) };
    chunk(out, BLOCK_STATUS, cookie, 4 + 8 * count);
    out.put_u32(ALLOCATION_ID);
    for (length, flags) in merged {
        out.put_u32(length);
        out.put_u32(flags);
    }
    Ok(())
}

/// Neighbours of one kind become one, so that `one` tells the client as much as it can; what lies beyond `length` is cut.
fn merge(length: u32, count_max: usize, extents: &[Extent]) -> Vec<(u32, u32)> {
    let mut merged: Vec<(u32, u32)> = Vec::new();
    let mut left = length;
    for extent in extents {
        let bytes = u32::try_from(extent.length_bytes).unwrap_or(u32::MAX).min(left);
        let flags = u32::from(extent.hole) | u32::from(extent.zero) << 1;
        let full = merged.len() == count_max;
        match merged.last_mut() {
            _ if bytes == 0 => continue,
            Some(last) if last.1 == flags => last.0 += bytes,
            _ if full => break,
            _ => merged.push((bytes, flags)),
        }
        left -= bytes;
    }
    merged
}

/// Every structured reply here is one chunk, the last one of its reply.
fn chunk(out: &mut Vec<u8>, kind: u16, cookie: u64, length: u32) {
    out.put_u32(STRUCTURED_MAGIC);
    out.put_u16(FLAG_DONE);
    out.put_u16(kind);
    out.put_u64(cookie);
    out.put_u32(length);
}

const SIMPLE_MAGIC: u32 = 0x6744_6698;
const STRUCTURED_MAGIC: u32 = 0x668e_33ef;
const FLAG_DONE: u16 = 1;
const OFFSET_DATA: u16 = 1;
const BLOCK_STATUS: u16 = 5;
const ERROR: u16 = 1 << 15 | 1;

#[cfg(test)]
mod tests {
    use super::{block_status, error_chunk, merge, read_chunk, simple};
    use crate::export::{ErrorCode, Extent};

    fn extent(length_bytes: u64, hole: bool, zero: bool) -> Extent {
        Extent { length_bytes, hole, zero }
    }

    #[test]
    fn bytes_of_each_reply() {
        let mut out = Vec::new();
        simple(&mut out, 7, Ok(()));
        assert_eq!(out, [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
        out.clear();
        simple(&mut out, 7, Err(ErrorCode::NoSpace));
        assert_eq!(out[4..8], [0, 0, 0, 28]);
        out.clear();
        read_chunk(&mut out, 7, 0x1000, 512);
        let head = [0x66, 0x8e, 0x33, 0xef, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 2, 8];
        assert_eq!(out[..20], head);
        assert_eq!(out[20..], [0, 0, 0, 0, 0, 0, 0x10, 0]);
        out.clear();
        error_chunk(&mut out, 7, ErrorCode::Io);
        assert_eq!(out[4..8], [0, 1, 0x80, 1]);
        assert_eq!(out[16..], [0, 0, 0, 6, 0, 0, 0, 5, 0, 0]);
        out.clear();
        block_status(&mut out, 7, 4096, false, &[extent(512, true, true), extent(9999, false, false)]).unwrap();
        assert_eq!(out[4..8], [0, 1, 0, 5]);
        assert_eq!(out[16..], [0, 0, 0, 20, 0, 0, 0, 1, 0, 0, 2, 0, 0, 0, 0, 3, 0, 0, 0x0e, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn extents_are_merged_cut_and_counted() {
        let (hole, data, zero) = (extent(512, true, true), extent(512, false, false), extent(512, false, true));
        assert_eq!(merge(4096, 9, &[hole, hole, data, zero]), [(1024, 3), (512, 0), (512, 2)]);
        assert_eq!(merge(4096, 1, &[hole, hole, data]), [(1024, 3)]);
        assert_eq!(merge(768, 9, &[hole, data, hole]), [(512, 3), (256, 0)]);
        assert_eq!(merge(512, 9, &[extent(0, false, false), extent(u64::MAX, true, false)]), [(512, 1)]);
        assert_eq!(merge(u32::MAX, 9, &[extent(u64::MAX, true, false), hole]), [(u32::MAX, 1)]);
        assert_eq!(merge(512, 9, &[]), []);
    }

    #[test]
    fn an_export_that_describes_nothing_failed() {
        let mut out = Vec::new();
        assert_eq!(block_status(&mut out, 7, 512, false, &[]), Err(ErrorCode::Io));
        assert_eq!(block_status(&mut out, 7, 512, true, &[extent(0, true, true)]), Err(ErrorCode::Io));
        assert!(out.is_empty());
    }
}
