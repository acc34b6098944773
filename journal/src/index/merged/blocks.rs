//! What readers keep in memory of what they have read and checked: one budget for the whole process, however many journals it has open.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::page::{Guide, Page};
use crate::index::build::FrameSpot;

/// Pages of runs, decoded units, frame directories.
const BUDGET_BYTES: usize = 64 * 1024 * 1024;
/// Readers of different blocks rarely meet.
const SHARDS: usize = 16;

/// Which block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct BlockKey {
    /// Who reads it: see [`Blocks::owner`].
    pub(crate) owner: u64,
    /// Its file.
    pub(crate) file: u64,
    /// Where in it.
    pub(crate) at: u64,
}

/// Something that was read and checked.
#[derive(Clone, Debug)]
pub(crate) enum Block {
    Page(Arc<Page>),
    Guide(Arc<Guide>),
    /// Decoded bytes of a unit.
    Unit(Arc<Vec<u8>>),
    /// Frames of a sealed segment.
    Frames(Arc<Vec<FrameSpot>>),
}

/// Keeps blocks up to a budget; those that are asked for again stay longest. No lock is held while anything is read.
#[derive(Debug)]
pub(crate) struct Blocks {
    shards: [Mutex<Shard>; SHARDS],
    budget: usize,
}

/// A clock: the hand passes what was used since it last came by.
#[derive(Debug, Default)]
struct Shard {
    places: HashMap<BlockKey, usize, BuildHasherDefault<Mix>>,
    kept: Vec<Kept>,
    hand: usize,
    bytes: usize,
}

#[derive(Debug)]
struct Kept {
    key: BlockKey,
    block: Block,
    bytes: usize,
    used: bool,
}

impl Blocks {
    /// Those of this process.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<Blocks> = OnceLock::new();
        SHARED.get_or_init(|| Self::new(BUDGET_BYTES))
    }

    pub(super) fn new(budget: usize) -> Self {
        Self { shards: Default::default(), budget }
    }

    /// A number that nobody else has: a file that is opened again may hold something else.
    pub(crate) fn owner() -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        NEXT.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn get(&self, key: BlockKey) -> Option<Block> {
        let mut shard = self.shard(key);
        let place = *shard.places.get(&key)?;
        let kept = shard.kept.get_mut(place)?;
        kept.used = true;
        Some(kept.block.clone())
    }

    pub(crate) fn put(&self, key: BlockKey, block: Block, bytes: usize) {
        let limit = self.budget / SHARDS;
        if bytes > limit {
            return;
        }
        let mut shard = self.shard(key);
        // Two readers may have read the same.
        if shard.places.contains_key(&key) {
            return;
        }
        let place = shard.kept.len();
        shard.bytes += bytes;
        shard.kept.push(Kept { key, block, bytes, used: false });
        shard.places.insert(key, place);
        while shard.bytes > limit {
            shard.evict(key);
        }
    }

    /// Bytes kept now.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.shards.iter().map(|shard| locked(shard).bytes).sum()
    }

    fn shard(&self, key: BlockKey) -> MutexGuard<'_, Shard> {
        let shard = usize::try_from(mixed(&key) >> 60).unwrap_or(0) % SHARDS;
        locked(&self.shards[shard])
    }
}

fn locked(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shard {
    /// Drops one block that was not used lately, and is not `newest`.
    fn evict(&mut self, newest: BlockKey) {
        loop {
            self.hand %= self.kept.len().max(1);
            let Some(kept) = self.kept.get_mut(self.hand) else { return };
            if kept.key == newest {
                kept.used = false;
            } else if !std::mem::take(&mut kept.used) {
                break;
            }
            self.hand += 1;
        }
        let gone = self.kept.swap_remove(self.hand);
        self.places.remove(&gone.key);
        self.bytes -= gone.bytes;
        if let Some(moved) = self.kept.get(self.hand) {
            self.places.insert(moved.key, self.hand);
        }
    }
}

/// Keys are numbers of ours: no peer chooses them, a few multiplications spread them.
#[derive(Debug, Default)]
struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u64(byte.into()));
    }

    fn write_u64(&mut self, number: u64) {
        let spread = (self.0.rotate_left(29) ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = spread ^ (spread >> 32);
    }
}

fn mixed(key: &BlockKey) -> u64 {
    use std::hash::Hash;
    let mut mix = Mix::default();
    key.hash(&mut mix);
    mix.finish().wrapping_mul(0xd6e8_feb8_6659_fd93)
}
