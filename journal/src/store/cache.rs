//! What readers of a journal keep in memory: indexes of segments that no run covers yet, frame directories, decoded units.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::error::Result;
use crate::index::{Block, BlockKey, Blocks, Footer, FrameSpot};
use crate::log::Segment;
use crate::types::SegmentNo;

/// What indexes of single segments may take in memory, of all journals of this process: merging keeps few of them in use.
const BUDGET_BYTES: usize = 32 * 1024 * 1024;

/// In place of an offset: the frame directory.
const FRAMES: u64 = u64::MAX;

/// What was asked for last, of one journal as it was opened.
#[derive(Debug)]
pub(super) struct IndexCache {
    owner: u64,
}

#[derive(Debug, Default)]
struct Kept {
    footers: HashMap<(u64, SegmentNo), (Arc<Footer>, u64)>,
    bytes: usize,
    tick: u64,
}

impl IndexCache {
    pub(super) fn new() -> Self {
        Self { owner: Blocks::owner() }
    }

    /// The index of a sealed segment.
    pub(super) fn footer(&self, segment: &Segment) -> Result<Arc<Footer>> {
        let number = segment.header.number;
        if let Some(footer) = kept().get((self.owner, number)) {
            return Ok(footer);
        }
        // Read without the lock: two readers may both do it, neither waits for the other.
        let footer = Arc::new(segment.footer()?);
        self.keep(number, &footer);
        Ok(footer)
    }

    /// Remembers an index that is in memory anyway.
    pub(super) fn keep(&self, number: SegmentNo, footer: &Arc<Footer>) {
        kept().insert((self.owner, number), footer.clone());
    }

    /// Where the frames of a sealed segment are.
    pub(super) fn frames(&self, segment: &Segment) -> Result<Arc<Vec<FrameSpot>>> {
        let key = self.key(segment, FRAMES);
        if let Some(Block::Frames(frames)) = Blocks::shared().get(key) {
            return Ok(frames);
        }
        let frames = Arc::new(segment.frames()?);
        Blocks::shared().put(key, Block::Frames(frames.clone()), size_of_val(frames.as_slice()));
        Ok(frames)
    }

    /// The decoded unit at `at` in a segment's file, if it is in memory.
    pub(super) fn unit(&self, segment: &Segment, at: u64) -> Option<Arc<Vec<u8>>> {
        match Blocks::shared().get(self.key(segment, at)) {
            Some(Block::Unit(bytes)) => Some(bytes),
            _ => None,
        }
    }

    /// Remembers a decoded unit.
    pub(super) fn keep_unit(&self, segment: &Segment, at: u64, bytes: &Arc<Vec<u8>>) {
        Blocks::shared().put(self.key(segment, at), Block::Unit(bytes.clone()), bytes.len());
    }

    fn key(&self, segment: &Segment, at: u64) -> BlockKey {
        BlockKey { owner: self.owner, file: segment.header.number.0, at }
    }
}

impl Drop for IndexCache {
    fn drop(&mut self) {
        kept().forget(self.owner);
    }
}

fn kept() -> MutexGuard<'static, Kept> {
    static KEPT: OnceLock<Mutex<Kept>> = OnceLock::new();
    KEPT.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
}

impl Kept {
    fn get(&mut self, key: (u64, SegmentNo)) -> Option<Arc<Footer>> {
        self.tick += 1;
        let (footer, used) = self.footers.get_mut(&key)?;
        *used = self.tick;
        Some(footer.clone())
    }

    fn insert(&mut self, key: (u64, SegmentNo), footer: Arc<Footer>) {
        self.tick += 1;
        self.bytes += footer.memory_bytes();
        if let Some((old, _)) = self.footers.insert(key, (footer, self.tick)) {
            self.bytes -= old.memory_bytes();
        }
        while self.bytes > BUDGET_BYTES && self.footers.len() > 1 {
            let Some(oldest) = self.footers.iter().min_by_key(|(_, (_, used))| *used).map(|(&key, _)| key) else {
                break;
            };
            if let Some((footer, _)) = self.footers.remove(&oldest) {
                self.bytes -= footer.memory_bytes();
            }
        }
    }

    /// The journal is closed: nobody asks for its indexes again.
    fn forget(&mut self, owner: u64) {
        self.footers.retain(|(of, _), _| *of != owner);
        self.bytes = self.footers.values().map(|(footer, _)| footer.memory_bytes()).sum();
    }
}
