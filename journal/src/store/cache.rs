//! Indexes of sealed segments, kept in memory up to a budget.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::Result;
use crate::index::Footer;
use crate::log::Segment;
use crate::types::SegmentNo;

/// What indexes may take in memory: those of about 6 GiB of history written in 4 KiB blocks.
const BUDGET_BYTES: usize = 96 * 1024 * 1024;

/// Remembers the indexes that were asked for last.
#[derive(Debug, Default)]
pub(super) struct IndexCache {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    footers: HashMap<SegmentNo, (Arc<Footer>, u64)>,
    bytes: usize,
    tick: u64,
}

impl IndexCache {
    /// The index of a sealed segment.
    pub(super) fn footer(&self, segment: &Segment) -> Result<Arc<Footer>> {
        let number = segment.header.number;
        if let Some(footer) = self.kept().get(number) {
            return Ok(footer);
        }
        // Read without the lock: two readers may both do it, neither waits for the other.
        let footer = Arc::new(segment.footer()?);
        self.keep(number, &footer);
        Ok(footer)
    }

    /// Remembers an index that is in memory anyway.
    pub(super) fn keep(&self, number: SegmentNo, footer: &Arc<Footer>) {
        self.kept().insert(number, footer.clone());
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn get(&mut self, number: SegmentNo) -> Option<Arc<Footer>> {
        self.tick += 1;
        let (footer, used) = self.footers.get_mut(&number)?;
        *used = self.tick;
        Some(footer.clone())
    }

    fn insert(&mut self, number: SegmentNo, footer: Arc<Footer>) {
        self.tick += 1;
        self.bytes += footer.memory_bytes();
        if let Some((old, _)) = self.footers.insert(number, (footer, self.tick)) {
            self.bytes -= old.memory_bytes();
        }
        while self.bytes > BUDGET_BYTES && self.footers.len() > 1 {
            let Some(oldest) = self.footers.iter().min_by_key(|(_, (_, used))| *used).map(|(&number, _)| number) else {
                break;
            };
            if let Some((footer, _)) = self.footers.remove(&oldest) {
                self.bytes -= footer.memory_bytes();
            }
        }
    }
}
