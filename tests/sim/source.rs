//! The protected volume: in memory, with a cache that a crash of the host loses as a disk's is lost.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use agent::base::{Data, Reads};
use agent::source::Storage;
use journal::disk::sim::Rng;
use journal::error::Result;
use journal::types::Sectors;

/// Data comes and goes in steps of this.
const BLOCK: usize = 4096;
const SECTOR: usize = 512;

#[derive(Debug)]
pub(crate) struct Source(Mutex<Content>);

#[derive(Debug)]
struct Content {
    /// What is read.
    live: Vec<u8>,
    /// What the last flush left, and what was written since.
    durable: Vec<u8>,
    pending: Vec<(usize, Vec<u8>)>,
}

impl Source {
    pub(crate) fn new(image: Vec<u8>) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Content { live: image.clone(), durable: image, pending: Vec::new() })))
    }

    pub(crate) fn image(&self) -> Vec<u8> {
        self.0.lock().unwrap().live.clone()
    }

    fn put(&self, offset: u64, data: Vec<u8>) {
        let content = &mut *self.0.lock().unwrap();
        let at = offset as usize;
        content.live[at..at + data.len()].copy_from_slice(&data);
        content.pending.push((at, data));
    }

    /// The host's power goes: of what was not flushed each sector is kept or lost, in any order.
    pub(crate) fn crash(&self, rng: &mut Rng) {
        let content = &mut *self.0.lock().unwrap();
        let lost = rng.below(5);
        for (at, data) in content.pending.drain(..) {
            for (sector, bytes) in data.chunks(SECTOR).enumerate() {
                if rng.below(4) >= lost {
                    content.durable[at + sector * SECTOR..][..bytes.len()].copy_from_slice(bytes);
                }
            }
        }
        content.live.clone_from(&content.durable);
    }
}

impl Storage for Source {
    fn size(&self) -> Sectors {
        Sectors::of_bytes(self.0.lock().unwrap().live.len() as u64).unwrap()
    }

    fn block_bytes(&self) -> u32 {
        512
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        buffer.copy_from_slice(&self.0.lock().unwrap().live[offset as usize..][..buffer.len()]);
        Ok(())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.put(offset, data.to_vec());
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let content = &mut *self.0.lock().unwrap();
        content.pending.clear();
        content.durable.clone_from(&content.live);
        Ok(())
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<bool> {
        self.put(offset, vec![0; length as usize]);
        Ok(true)
    }

    fn zero(&self, offset: u64, length: u64, _keep_space: bool) -> io::Result<()> {
        self.put(offset, vec![0; length as usize]);
        Ok(())
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        let live = &self.0.lock().unwrap().live;
        let is_data = |block: &usize| live[block * BLOCK..].iter().take(BLOCK).any(|byte| *byte != 0);
        let blocks = offset as usize / BLOCK..live.len().div_ceil(BLOCK);
        let Some(first) = blocks.clone().find(is_data) else { return Ok(None) };
        let end = (first..blocks.end).find(|block| !is_data(block)).unwrap_or(blocks.end);
        Ok(Some(offset.max((first * BLOCK) as u64)..((end * BLOCK).min(live.len())) as u64))
    }
}

/// Reads of a base: something may happen while they are under way.
pub(crate) struct SimReads {
    pub(crate) source: Arc<Source>,
    pub(crate) under_way: VecDeque<(u64, usize)>,
    pub(crate) rng: Rng,
    /// Called before and after a read.
    pub(crate) meanwhile: Arc<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for SimReads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimReads").field("under_way", &self.under_way).finish_non_exhaustive()
    }
}

impl Reads for SimReads {
    fn len_bytes(&self) -> u64 {
        self.source.size().bytes()
    }

    fn next_data(&self, at: u64) -> Result<Option<Range<u64>>> {
        let found = self.source.next_data(at).map_err(Into::into);
        (self.meanwhile)();
        found
    }

    fn has_room(&self) -> bool {
        self.under_way.len() < 8
    }

    fn submit(&mut self, offset: u64, length: usize) -> bool {
        self.under_way.push_back((offset, length));
        (self.meanwhile)();
        true
    }

    fn wait(&mut self) -> Result<Option<(u64, Result<Data>)>> {
        if self.under_way.is_empty() {
            return Ok(None);
        }
        (self.meanwhile)();
        let (offset, length) = self.under_way.remove(self.rng.below_len(self.under_way.len())).unwrap();
        let mut data = vec![0; length];
        self.source.read_at(offset, &mut data)?;
        (self.meanwhile)();
        Ok(Some((offset, Ok(Box::new(data) as Data))))
    }
}
