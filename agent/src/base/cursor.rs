//! Where to look next: runs of data and of nothing, on the grid of blocks as far as what is to be looked at is.

use std::ops::Range;
use std::sync::Arc;

use super::BLOCK_BYTES;
use crate::Result;
use crate::dirty::DirtyMap;

/// Of a longer dirty run the end is looked for later.
const RUN_BYTES: u64 = 1 << 30;

/// The rest of a volume, or of what of it is dirty.
#[derive(Debug)]
pub(super) struct Cursor {
    at: u64,
    size: u64,
    /// What is to be looked at; `None`: all of it.
    part: Option<Arc<DirtyMap>>,
    /// Where `at` is in it, or was.
    run: Range<u64>,
    /// Where data was last found; once `at` is past it, it is looked for again.
    data: Range<u64>,
}

/// A piece of the volume, in bytes: whole blocks, or within one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// It has to be read.
    Data(Range<u64>),
    /// It reads as zeroes.
    Hole(Range<u64>),
}

impl Cursor {
    /// All of a volume of `size` bytes, or what of it is in `part`.
    pub(super) fn new(size: u64, part: Option<Arc<DirtyMap>>) -> Self {
        let run = if part.is_none() { 0..size } else { 0..0 };
        Self { at: 0, size, part, run, data: 0..0 }
    }

    /// The piece from here on, at most `data_max` bytes of data or `hole_max` of none. `next_data` says where data comes next.
    pub(super) fn peek(
        &mut self,
        next_data: impl FnOnce(u64) -> Result<Option<Range<u64>>>,
        data_max: u64,
        hole_max: u64,
    ) -> Result<Option<Piece>> {
        let Some(end) = self.end() else { return Ok(None) };
        let Self { at, size, .. } = *self;
        if at >= self.data.end {
            let grid =
                |found: Range<u64>| found.start / BLOCK_BYTES * BLOCK_BYTES..found.end.next_multiple_of(BLOCK_BYTES);
            self.data = next_data(at)?.map_or(size..size, grid);
        }
        Ok(Some(match self.data.start <= at {
            true => Piece::Data(at..self.data.end.min(at + data_max).min(end)),
            false => Piece::Hole(at..self.data.start.min(at + hole_max).min(end)),
        }))
    }

    /// Where the piece from here on has to end; `None`: there is none.
    fn end(&mut self) -> Option<u64> {
        if self.at >= self.run.end {
            let found = self.part.as_ref()?.next(self.at, RUN_BYTES)?;
            self.run = found.start..found.end.min(self.size);
            self.at = found.start;
        }
        let Self { at, size, ref run, .. } = *self;
        let whole = run.end / BLOCK_BYTES * BLOCK_BYTES;
        Some(match at {
            _ if at >= run.end => return None,
            _ if !at.is_multiple_of(BLOCK_BYTES) => run.end.min(at.next_multiple_of(BLOCK_BYTES)),
            _ if run.end == size || whole == at => run.end,
            _ => whole,
        })
    }

    /// Whether the piece is whole blocks of what [`Compared`] finds.
    pub(super) fn is_comparable(&self, piece: &Range<u64>, worth: u64) -> bool {
        let is_long = self.part.is_none() || self.run.end - self.run.start >= worth;
        is_long && whole_blocks(piece, self.size) == *piece
    }

    /// The piece is being dealt with.
    pub(super) fn pass(&mut self, piece: &Range<u64>) {
        self.at = piece.end;
    }
}

/// The whole blocks among what is to be looked at, run by run, of runs at least `worth` bytes long: known before anybody looks.
#[derive(Debug)]
pub(super) struct Compared {
    at: u64,
    size: u64,
    part: Option<Arc<DirtyMap>>,
    worth: u64,
}

impl Compared {
    pub(super) fn new(size: u64, part: Option<Arc<DirtyMap>>, worth: u64) -> Self {
        Self { at: 0, size, part, worth }
    }

    /// The next of them.
    pub(super) fn next(&mut self) -> Option<Range<u64>> {
        while self.at < self.size {
            // As the cursor takes them.
            let (run, worth) = match &self.part {
                None => (self.at..self.size, 0),
                Some(part) => (part.next(self.at, RUN_BYTES)?, self.worth),
            };
            let run = run.start..run.end.min(self.size);
            self.at = run.end;
            let blocks = whole_blocks(&run, self.size);
            if run.end.saturating_sub(run.start) >= worth && !blocks.is_empty() {
                return Some(blocks);
            }
        }
        None
    }
}

/// The whole blocks of a range, of a volume of `size` bytes.
fn whole_blocks(range: &Range<u64>, size: u64) -> Range<u64> {
    let end = if range.end == size { size } else { range.end / BLOCK_BYTES * BLOCK_BYTES };
    range.start.next_multiple_of(BLOCK_BYTES)..end
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Seek, SeekFrom, Write};

    use super::*;

    fn of(file: &File) -> impl Fn(u64) -> Result<Option<Range<u64>>> {
        move |at| journal::disk::next_data(file, at)
    }

    #[test]
    fn data_and_holes_take_turns_on_the_grid() {
        let mut file = tempfile::tempfile().unwrap();
        const SIZE: u64 = 10 * BLOCK_BYTES + 512;
        file.set_len(SIZE).unwrap();
        file.seek(SeekFrom::Start(3 * BLOCK_BYTES + 8192)).unwrap();
        file.write_all(&[1; 3 * 65536]).unwrap();
        let mut cursor = Cursor::new(SIZE, None);
        let mut seen = Vec::new();
        while let Some(piece) = cursor.peek(of(&file), 2 * BLOCK_BYTES, 2 * BLOCK_BYTES).unwrap() {
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
    fn of_a_part_only_what_is_dirty_is_looked_at_whole_blocks_apart() {
        let mut file = tempfile::tempfile().unwrap();
        const SIZE: u64 = 10 * BLOCK_BYTES + 512;
        file.write_all(&vec![1; usize::try_from(SIZE).unwrap()]).unwrap();
        let mut dirty = DirtyMap::default();
        let block = |n: u64| n * BLOCK_BYTES;
        // Within a block; from within one over two whole ones into the next; the end.
        for (from, to) in [(8192, 12288), (block(2) + 4096, block(5) + 4096), (block(9), SIZE)] {
            dirty.mark(journal::types::Extent::of_bytes(from, to - from).unwrap());
        }
        let mut cursor = Cursor::new(SIZE, Some(Arc::new(dirty)));
        let mut seen = Vec::new();
        while let Some(Piece::Data(range)) = cursor.peek(of(&file), 16 * BLOCK_BYTES, BLOCK_BYTES).unwrap() {
            cursor.pass(&range);
            seen.push(range);
        }
        assert_eq!(
            seen,
            [8192..12288, block(2) + 4096..block(3), block(3)..block(5), block(5)..block(5) + 4096, block(9)..SIZE]
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
        let mut cursor = Cursor::new(SIZE, Some(Arc::new(crate::base::blocks_of(&only))));
        let mut seen = Vec::new();
        while let Some(piece) = cursor.peek(of(&file), 16 * BLOCK_BYTES, 16 * BLOCK_BYTES).unwrap() {
            let (Piece::Data(range) | Piece::Hole(range)) = &piece;
            assert!(cursor.is_comparable(range, 0));
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
        let none = Some(Arc::new(DirtyMap::default()));
        assert_eq!(Cursor::new(SIZE, none).peek(of(&file), 1, 1).unwrap(), None);
    }

    /// What is asked for ahead is what pieces are compared with, neither more nor less.
    #[test]
    fn what_is_comparable_is_known_ahead() {
        let mut file = tempfile::tempfile().unwrap();
        const SIZE: u64 = 40 * BLOCK_BYTES + 512;
        file.set_len(SIZE).unwrap();
        file.seek(SeekFrom::Start(5 * BLOCK_BYTES)).unwrap();
        file.write_all(&[1; 20 * 65536]).unwrap();
        let block = |n: u64| n * BLOCK_BYTES;
        let mut dirty = DirtyMap::default();
        let runs = [(0, 4096), (block(2) + 4096, block(9) + 4096), (block(12), block(13)), (block(20), SIZE)];
        for (from, to) in runs {
            dirty.mark(journal::types::Extent::of_bytes(from, to - from).unwrap());
        }
        for (part, worth) in [(None, 1 << 20), (Some(dirty.clone()), 0), (Some(dirty), 2 * BLOCK_BYTES)] {
            let part = part.map(Arc::new);
            let (mut cursor, mut ahead) = (Cursor::new(SIZE, part.clone()), Compared::new(SIZE, part.clone(), worth));
            let mut compared: Vec<Range<u64>> = Vec::new();
            while let Some(piece) = cursor.peek(of(&file), 2 * BLOCK_BYTES, 3 * BLOCK_BYTES).unwrap() {
                let (Piece::Data(range) | Piece::Hole(range)) = &piece;
                cursor.pass(range);
                match compared.last_mut().filter(|last| last.end == range.start) {
                    _ if !cursor.is_comparable(range, worth) => {}
                    Some(last) => last.end = range.end,
                    None => compared.push(range.clone()),
                }
            }
            let known: Vec<_> = std::iter::from_fn(|| ahead.next()).collect();
            assert_eq!(compared, known);
            assert_eq!(known.len(), if part.is_none() { 1 } else { 3 - usize::from(worth > 0) });
        }
    }
}
