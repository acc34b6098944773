//! BLAKE3 of a whole, from pieces that are hashed by several threads in any order.
//!
//! ```text
//!   pieces   0   1   2   3   4          each 1 MiB but the last
//!             ╲ ╱     ╲ ╱    │
//!              ╲_______╱     │          full subtrees are merged as they come
//!                   ╲_______╱           the last one only at the end: the root is made differently
//! ```

use std::collections::BTreeMap;

use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
use blake3::{Hash, Hasher};

/// Bytes of each piece but the last: a power of two.
pub(super) const PIECE_BYTES: u64 = 1024 * 1024;

/// One piece, hashed.
#[derive(Debug)]
pub(super) enum Piece {
    /// Of several.
    Part(ChainingValue),
    /// The whole.
    Only(Hash),
}

/// Hashes piece number `index` of `count`.
pub(super) fn hash_piece(index: u64, count: u64, bytes: &[u8]) -> Piece {
    let mut hasher = Hasher::new();
    if count <= 1 {
        return Piece::Only(hasher.update(bytes).finalize());
    }
    Piece::Part(hasher.set_input_offset(index * PIECE_BYTES).update(bytes).finalize_non_root())
}

/// Puts the pieces together.
#[derive(Debug, Default)]
pub(super) struct Tree {
    /// Came before their turn: few, for no thread is far ahead.
    waiting: BTreeMap<u64, Piece>,
    next: u64,
    /// Roots of full subtrees, larger ones first.
    full: Vec<ChainingValue>,
    last: Option<Piece>,
}

impl Tree {
    /// Takes the next piece, in any order.
    pub(super) fn add(&mut self, index: u64, piece: Piece) {
        self.waiting.insert(index, piece);
        while let Some(piece) = self.waiting.remove(&self.next) {
            if let Some(Piece::Part(mut subtree)) = self.last.replace(piece) {
                // `next` pieces are whole and not the last: merge as a binary counter carries.
                for _ in 0..self.next.trailing_zeros() {
                    let Some(left) = self.full.pop() else { break };
                    subtree = merge_subtrees_non_root(&left, &subtree, Mode::Hash);
                }
                self.full.push(subtree);
            }
            self.next += 1;
        }
    }

    /// The hash of all of it; of nothing if nothing was added.
    pub(super) fn finish(mut self) -> Hash {
        let mut right = match self.last {
            None => return blake3::hash(&[]),
            Some(Piece::Only(hash)) => return hash,
            Some(Piece::Part(last)) => last,
        };
        while self.full.len() > 1 {
            let Some(left) = self.full.pop() else { break };
            right = merge_subtrees_non_root(&left, &right, Mode::Hash);
        }
        match self.full.pop() {
            Some(left) => merge_subtrees_root(&left, &right, Mode::Hash),
            None => unreachable!("a part is one of several"),
        }
    }
}

#[cfg(test)]
mod tests {
    use journal::disk::sim::Rng;

    use super::*;

    #[test]
    fn it_is_the_hash_of_the_whole_in_any_order() {
        let mut rng = Rng::new(3);
        let size = usize::try_from(PIECE_BYTES).unwrap();
        for bytes in [0, 512, size - 512, size, size + 512, 2 * size, 3 * size, 4 * size, 5 * size + 1024, 8 * size] {
            let mut data = vec![0; bytes];
            rng.fill(&mut data);
            let mut pieces: Vec<(usize, &[u8])> = data.chunks(size).enumerate().collect();
            let count = pieces.len() as u64;
            for i in (1..pieces.len()).rev() {
                pieces.swap(i, rng.below_len(i + 1));
            }
            let mut tree = Tree::default();
            for (index, piece) in pieces {
                tree.add(index as u64, hash_piece(index as u64, count, piece));
            }
            assert_eq!(tree.finish(), blake3::hash(&data), "{bytes} bytes");
        }
    }
}
