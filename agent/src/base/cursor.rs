//! Where to look next: runs of data and of nothing, on the grid of blocks.

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
    /// All of a volume of `size` bytes.
    pub(super) fn new(size: u64) -> Self {
        Self { at: 0, size, data: 0..0 }
    }

    /// The piece from here on, at most `data_max` bytes of data or `hole_max` of none.
    pub(super) fn peek(&mut self, file: impl AsFd, data_max: u64, hole_max: u64) -> Result<Option<Piece>> {
        let Self { at, size, .. } = *self;
        if at >= size {
            return Ok(None);
        }
        if at >= self.data.end {
            let grid =
                |found: Range<u64>| found.start / BLOCK_BYTES * BLOCK_BYTES..found.end.next_multiple_of(BLOCK_BYTES);
            self.data = next_data(file, at)?.map_or(size..size, grid);
        }
        Ok(Some(match self.data.start <= at {
            true => Piece::Data(at..self.data.end.min(at + data_max).min(size)),
            false => Piece::Hole(at..self.data.start.min(at + hole_max).min(size)),
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
        let mut cursor = Cursor::new(SIZE);
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
}
