//! Which blocks of a writable view are its own, and where in the scratch they are. Pure.
//!
//! An extent map, so that it is right at any size: what was written in one go, or discarded in one go, is one run.

use std::collections::BTreeMap;
use std::ops::Range;

/// What is copied before it is changed: a page, and what most file systems write at least.
pub const BLOCK_BYTES: u64 = 4096;
/// Runs of a map, used and free ones: some 150 MiB of memory. 16 GiB of blocks that all lie apart.
pub const RUNS_MAX: usize = 4 << 20;

/// Where a block's content is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// As it was: in the view.
    View,
    /// Nowhere: it is zero.
    Zero,
    /// In this block of the scratch.
    Slot(u64),
}

impl Place {
    /// The place of the block so many blocks further on in the same run.
    fn after(self, blocks: u64) -> Self {
        match self {
            Self::Slot(slot) => Self::Slot(slot + blocks),
            other => other,
        }
    }
}

/// Blocks in a row, and where their content is in a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Which blocks.
    pub blocks: Range<u64>,
    /// Where the first of them is.
    pub place: Place,
}

/// There is no room for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// The map.
///
/// **Invariant:** runs do not overlap, no slot is in two of them, and none that is free is in any.
#[derive(Debug)]
pub struct BlockMap {
    /// First block → one past the last, and where they are: never the view.
    runs: BTreeMap<u64, (u64, Place)>,
    /// First slot → one past the last: given back, below `next`.
    free: BTreeMap<u64, u64>,
    /// From here on no slot was ever used.
    next: u64,
    used: u64,
    limit: u64,
    runs_max: usize,
}

impl BlockMap {
    /// Nothing is changed yet; at most `limit` blocks may have content of their own.
    pub fn new(limit: u64) -> Self {
        Self { runs: BTreeMap::new(), free: BTreeMap::new(), next: 0, used: 0, limit, runs_max: RUNS_MAX }
    }

    /// Blocks of the scratch that are in use.
    pub fn used(&self) -> u64 {
        self.used
    }

    /// How many there may be.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Where all of these blocks are, in order.
    pub fn find(&self, blocks: Range<u64>) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut at = blocks.start;
        let first = self.runs.range(..=at).next_back().map_or(at, |(&start, _)| start);
        for (&start, &(end, place)) in self.runs.range(first..blocks.end) {
            let (from, to) = (start.max(blocks.start), end.min(blocks.end));
            if from >= to {
                continue;
            }
            if at < from {
                pieces.push(Piece { blocks: at..from, place: Place::View });
            }
            pieces.push(Piece { blocks: from..to, place: place.after(from - start) });
            at = to;
        }
        if at < blocks.end {
            pieces.push(Piece { blocks: at..blocks.end, place: Place::View });
        }
        pieces
    }

    /// Takes so many slots, in as few ranges as there are; `pieces` more runs will come of it at most.
    pub fn take(&mut self, count: u64, pieces: usize) -> Result<Vec<Range<u64>>, Full> {
        self.check_room(pieces)?;
        if count > self.limit - self.used {
            return Err(Full);
        }
        let mut taken = Vec::new();
        let fresh = count.min(self.limit - self.next);
        if fresh > 0 {
            taken.push(self.next..self.next + fresh);
            self.next += fresh;
        }
        let mut left = count - fresh;
        while left > 0 {
            let Some((start, end)) = self.free.pop_first() else { break };
            let stop = end.min(start.saturating_add(left));
            if stop < end {
                self.free.insert(stop, end);
            }
            taken.push(start..stop);
            left -= stop - start;
        }
        self.used += count - left;
        Ok(taken)
    }

    /// These slots are nobody's any more.
    pub fn give_back(&mut self, slots: Range<u64>) {
        if slots.is_empty() {
            return;
        }
        self.used -= slots.end - slots.start;
        let (mut start, mut end) = (slots.start, slots.end);
        if let Some((&before, &stop)) = self.free.range(..start).next_back()
            && stop == start
        {
            self.free.remove(&before);
            start = before;
        }
        if let Some(stop) = self.free.remove(&end) {
            end = stop;
        }
        self.free.insert(start, end);
    }

    /// Whether a change that splits runs into so many more can be noted.
    pub fn check_room(&self, pieces: usize) -> Result<(), Full> {
        // Each piece may split what it lies in, and free what was there.
        let more = pieces.saturating_mul(3).saturating_add(2);
        if self.runs.len() + self.free.len() + more > self.runs_max { Err(Full) } else { Ok(()) }
    }

    /// These blocks are there from now on. Returns the slots in which they were: the caller gives them back.
    pub fn put(&mut self, blocks: Range<u64>, place: Place) -> Vec<Range<u64>> {
        if blocks.is_empty() {
            return Vec::new();
        }
        let mut left = Vec::new();
        let first = self.runs.range(..=blocks.start).next_back().map_or(blocks.start, |(&start, _)| start);
        let hit: Vec<u64> = self.runs.range(first..blocks.end).map(|(&start, _)| start).collect();
        for start in hit {
            let Some(&(end, was)) = self.runs.get(&start).filter(|(end, _)| *end > blocks.start) else { continue };
            self.runs.remove(&start);
            if start < blocks.start {
                self.runs.insert(start, (blocks.start, was));
            }
            if end > blocks.end {
                self.runs.insert(blocks.end, (end, was.after(blocks.end - start)));
            }
            let (from, to) = (start.max(blocks.start), end.min(blocks.end));
            if let Place::Slot(slot) = was.after(from - start) {
                left.push(slot..slot + (to - from));
            }
        }
        if place != Place::View {
            self.insert(blocks, place);
        }
        left
    }

    /// Puts a run where none is, as part of its neighbours if it continues them.
    fn insert(&mut self, blocks: Range<u64>, place: Place) {
        let (mut start, mut end, mut place) = (blocks.start, blocks.end, place);
        if let Some((&before, &(stop, was))) = self.runs.range(..start).next_back()
            && stop == start
            && was.after(start - before) == place
        {
            (start, place) = (before, was);
        }
        if let Some(&(stop, behind)) = self.runs.get(&end)
            && place.after(end - start) == behind
        {
            self.runs.remove(&end);
            end = stop;
        }
        self.runs.insert(start, (end, place));
    }
}

#[cfg(test)]
mod tests {
    use journal::disk::sim::Rng;

    use super::*;

    const BLOCKS: u64 = 64;

    /// The same, block by block.
    struct Model {
        blocks: Vec<Place>,
    }

    fn flat(map: &BlockMap, blocks: Range<u64>) -> Vec<Place> {
        let pieces = map.find(blocks.clone());
        let mut at = blocks.start;
        for piece in &pieces {
            assert!(piece.blocks.start == at && piece.blocks.end > at, "{pieces:?}");
            at = piece.blocks.end;
        }
        assert_eq!(at, blocks.end);
        pieces
            .iter()
            .flat_map(|piece| piece.blocks.clone().map(|b| piece.place.after(b - piece.blocks.start)))
            .collect()
    }

    #[test]
    fn it_is_a_vector_of_places() {
        for seed in 0..40 {
            let mut rng = Rng::new(seed);
            let mut map = BlockMap::new(40);
            let mut model = Model { blocks: vec![Place::View; 64] };
            for _ in 0..400 {
                let start = rng.below(BLOCKS);
                let blocks = start..start + 1 + rng.below((BLOCKS - start).min(12));
                let range = usize::try_from(blocks.start).unwrap()..usize::try_from(blocks.end).unwrap();
                match rng.below(5) {
                    0 | 1 => {
                        let place = if rng.chance(1, 4) { Place::View } else { Place::Zero };
                        let left = map.put(blocks.clone(), place);
                        left.into_iter().for_each(|slots| map.give_back(slots));
                        model.blocks[range].fill(place);
                    }
                    _ => {
                        let in_use = map.used();
                        let Ok(slots) = map.take(blocks.end - blocks.start, 1) else {
                            assert!(in_use + (blocks.end - blocks.start) > 40);
                            continue;
                        };
                        let slots: Vec<u64> = slots.into_iter().flatten().collect();
                        for (block, slot) in blocks.clone().zip(slots) {
                            assert!(slot < 40 && !model.blocks.contains(&Place::Slot(slot)), "slot {slot} is in use");
                            let left = map.put(block..block + 1, Place::Slot(slot));
                            left.into_iter().for_each(|slots| map.give_back(slots));
                            model.blocks[usize::try_from(block).unwrap()] = Place::Slot(slot);
                        }
                    }
                }
                assert_eq!(flat(&map, 0..BLOCKS), model.blocks);
                let used = model.blocks.iter().filter(|place| matches!(place, Place::Slot(_))).count();
                assert_eq!(map.used(), used as u64);
                let part = rng.below(BLOCKS);
                assert_eq!(flat(&map, part..BLOCKS), model.blocks[usize::try_from(part).unwrap()..]);
            }
        }
    }

    #[test]
    fn what_continues_is_one_run() {
        let mut map = BlockMap::new(1 << 30);
        // 16 TiB, discarded in pieces and written from both ends.
        for piece in 0..1024 {
            map.put(piece << 22..(piece + 1) << 22, Place::Zero);
        }
        assert_eq!(map.runs.len(), 1);
        for block in 0..1000 {
            let slots = map.take(1, 1).unwrap();
            map.put(block..block + 1, Place::Slot(slots[0].start));
        }
        assert_eq!((map.runs.len(), map.used()), (2, 1000));
        let last = (1024 << 22) - 1;
        assert_eq!(map.find(last..last + 1), [Piece { blocks: last..last + 1, place: Place::Zero }]);
        assert_eq!(map.find(u64::MAX - 1..u64::MAX)[0].place, Place::View);
    }

    #[test]
    fn its_memory_has_an_end() {
        let mut map = BlockMap::new(1 << 40);
        map.runs_max = 100;
        let mut block = 0;
        while map.check_room(1).is_ok() {
            map.put(block..block + 1, Place::Zero);
            block += 2;
        }
        assert_eq!(map.take(1, 1), Err(Full));
        assert!(map.runs.len() <= 100 && map.runs.len() > 90, "{}", map.runs.len());
        assert_eq!(map.used(), 0);
    }
}
