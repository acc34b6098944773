//! Where to look next: runs of data and of nothing, on the grid of blocks.

use std::collections::VecDeque;
use std::ops::Range;
use std::os::fd::AsFd;

use journal::disk::next_data;

use super::BLOCK_BYTES;
use crate::Result;

/// The rest of a volume.
#[derive(Debug)]
pub(super) struct Cursor {
    at: u64,
    size: u64,
    /// What is to be looked at, in order, apart, of whole blocks.
    regions: VecDeque<Range<u64>>,
    /// Where data was last found; once `at` is past it, it is looked for again.
    data: Range<u64>,
}

/// A piece of the volume, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// It has to be read.
    Data(Range<u64>),
    /// It reads as zeroes.
    Hole(Range<u64>),
}

impl Cursor {
    /// All of a volume of `size` bytes, or all blocks of it that `only` touches: ranges in order, apart.
    pub(super) fn new(size: u64, only: Option<&[Range<u64>]>) -> Self {
        let mut regions: VecDeque<Range<u64>> = VecDeque::new();
        let all = 0..size;
        for range in only.unwrap_or_else(|| std::slice::from_ref(&all)).iter().filter(|range| !range.is_empty()) {
            let end = range.end.min(size).next_multiple_of(BLOCK_BYTES).min(size);
            let start = range.start / BLOCK_BYTES * BLOCK_BYTES;
            match regions.back_mut() {
                Some(last) if start <= last.end => last.end = last.end.max(end),
                _ if start < end => regions.push_back(start..end),
                _ => {}
            }
        }
        Self { at: 0, size, regions, data: 0..0 }
    }

    /// Bytes that are left to be looked at.
    pub(super) fn left(&self) -> u64 {
        self.regions.iter().map(|region| region.end - region.start.max(self.at).min(region.end)).sum()
    }

    /// Where the run of bytes to be looked at ends that `at` is in.
    pub(super) fn region_end(&self, at: u64) -> u64 {
        self.regions.iter().find(|region| region.contains(&at)).map_or(self.size, |region| region.end)
    }

    /// The piece from here on, at most `data_max` bytes of data or `hole_max` of none.
    pub(super) fn peek(&mut self, file: impl AsFd, data_max: u64, hole_max: u64) -> Result<Option<Piece>> {
        while self.regions.pop_front_if(|region| region.end <= self.at).is_some() {}
        let Some(region) = self.regions.front() else { return Ok(None) };
        let (at, size, end) = (self.at.max(region.start), self.size, region.end);
        if at >= self.data.end {
            let grid =
                |found: Range<u64>| found.start / BLOCK_BYTES * BLOCK_BYTES..found.end.next_multiple_of(BLOCK_BYTES);
            self.data = next_data(file, at)?.map_or(size..size, grid);
        }
        Ok(Some(match self.data.start <= at {
            true => Piece::Data(at..self.data.end.min(at + data_max).min(end)),
            false => Piece::Hole(at..self.data.start.min(at + hole_max).min(end)),
        }))
    }

    /// The piece is being dealt with.
    pub(super) fn pass(&mut self, piece: &Range<u64>) {
        self.at = piece.end;
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, SeekFrom, Write};

    use super::*;

    #[test]
    fn data_and_holes_take_turns_on_the_grid() {
        let mut file = tempfile::tempfile().unwrap();
        const SIZE: u64 = 10 * BLOCK_BYTES + 512;
        file.set_len(SIZE).unwrap();
        file.seek(SeekFrom::Start(3 * BLOCK_BYTES + 8192)).unwrap();
        file.write_all(&[1; 3 * 65536]).unwrap();
        let mut cursor = Cursor::new(SIZE, None);
        let mut seen = Vec::new();
        while let Some(piece) = cursor.peek(&file, 2 * BLOCK_BYTES, 2 * BLOCK_BYTES).unwrap() {
            let (Piece::Data(range) | Piece::Hole(range)) = &piece;
            cursor.pass(range);
            seen.push(piece);
        }
        let block = |from, to| from * BLOCK_BYTES..to * BLOCK_BYTES;
        assert_eq!(
            seen,
            [
                Piece::Hole(block(0, 2)),
                Piece::Hole(block(2, 3)),
                Piece::Data(block(3, 5)),
                Piece::Data(block(5, 7)),
                Piece::Hole(block(7, 9)),
                Piece::Hole(9 * BLOCK_BYTES..SIZE),
            ]
        );
    }

    #[test]
    fn only_what_is_asked_for_is_looked_at_in_whole_blocks() {
        let mut file = tempfile::tempfile().unwrap();
        const SIZE: u64 = 20 * BLOCK_BYTES + 512;
        file.set_len(SIZE).unwrap();
        file.seek(SeekFrom::Start(3 * BLOCK_BYTES)).unwrap();
        file.write_all(&[1; 8 * 65536]).unwrap();
        let block = |from, to| from * BLOCK_BYTES..to * BLOCK_BYTES;
        let only =
            [block(2, 3), block(4, 5), block(5, 6), 7 * BLOCK_BYTES + 512..7 * BLOCK_BYTES + 1024, block(20, 30)];
        let mut cursor = Cursor::new(SIZE, Some(&only));
        assert_eq!(cursor.left(), 4 * BLOCK_BYTES + 512);
        let mut seen = Vec::new();
        while let Some(piece) = cursor.peek(&file, 16 * BLOCK_BYTES, 16 * BLOCK_BYTES).unwrap() {
            let (Piece::Data(range) | Piece::Hole(range)) = &piece;
            assert_eq!(cursor.region_end(range.start), range.end);
            cursor.pass(range);
            seen.push(piece);
        }
        assert_eq!(
            seen,
            [
                Piece::Hole(block(2, 3)),
                Piece::Data(block(4, 6)),
                Piece::Data(block(7, 8)),
                Piece::Hole(20 * BLOCK_BYTES..SIZE),
            ]
        );
        assert_eq!(cursor.left(), 0);
        assert_eq!(Cursor::new(SIZE, Some(&[])).peek(&file, 1, 1).unwrap(), None);
    }
}
