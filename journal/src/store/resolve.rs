//! Which version of each sector a view shows. Pure: entries in, pieces out.

use crate::index::{Entry, Rank};
use crate::types::{Extent, Sector};

/// An entry that overlaps what is asked for, and the source it came from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) entry: Entry,
    /// Index of its segment and CRC pool in the caller's list.
    pub(super) source: usize,
}

/// A part of what is asked for, and the entry that has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    pub(super) extent: Extent,
    pub(super) candidate: Candidate,
}

/// Paints the candidates over `asked`, highest rank first. What no candidate covers is not in the result: it is zero.
pub(super) fn resolve(asked: Extent, mut candidates: Vec<Candidate>) -> Vec<Piece> {
    candidates.sort_unstable_by_key(|candidate| std::cmp::Reverse(rank(candidate)));
    let mut open = vec![asked];
    let mut pieces = Vec::new();
    for candidate in candidates {
        if open.is_empty() {
            break;
        }
        let extent = candidate.entry.extent();
        let first = open.partition_point(|hole| hole.end() <= extent.start());
        let last = open.partition_point(|hole| hole.start() < extent.end());
        let mut left: [Option<Extent>; 2] = [None; 2];
        for hole in open.get(first..last).unwrap_or_default() {
            let Some(extent_here) = hole.overlap(extent) else { continue };
            pieces.push(Piece { extent: extent_here, candidate });
            if let Some(before) = Extent::between(hole.start(), extent_here.start()) {
                left[0] = Some(before);
            }
            if let Some(after) = Extent::between(extent_here.end(), hole.end()) {
                left[1] = Some(after);
            }
        }
        open.splice(first..last.max(first), left.into_iter().flatten());
    }
    pieces.sort_unstable_by_key(|piece: &Piece| piece.extent.start());
    pieces
}

fn rank(candidate: &Candidate) -> (Rank, u64) {
    // One write cut into several records never overlaps itself; the sector only makes the order total.
    (candidate.entry.rank, candidate.entry.sector)
}

/// Sorted, and joined where they touch or overlap.
pub(super) fn joined(mut extents: Vec<Extent>) -> Vec<Extent> {
    extents.sort_unstable();
    let mut joined: Vec<Extent> = Vec::new();
    for extent in extents {
        match joined.last_mut() {
            Some(last) if extent.start() <= last.end() => {
                let end: Sector = last.end().max(extent.end());
                *last = Extent::between(last.start(), end).unwrap_or(*last);
            }
            _ => joined.push(extent),
        }
    }
    joined
}
