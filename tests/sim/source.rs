//! A protected volume: in memory, with a cache that a crash of the host loses as a disk's is lost, and errors that are asked for.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use agent::base::{Data, Reads};
use agent::capture::Clock;
use agent::source::Storage;
use journal::disk::sim::Rng;
use journal::error::Result;
use journal::types::{Sectors, WallTime};

use crate::layout::Window;
use crate::time::Clocks;

/// Data comes and goes in steps of this.
const BLOCK: usize = 4096;
const SECTOR: usize = 512;
/// Input/output error.
const EIO: i32 = 5;

pub(crate) struct Source {
    windows: Vec<Window>,
    clocks: Arc<Clocks>,
    content: Mutex<Content>,
}

#[derive(Debug)]
struct Content {
    /// What is read, window by window.
    live: Vec<u8>,
    /// What the last flush left, and what was written since.
    durable: Vec<u8>,
    pending: Vec<(usize, Vec<u8>)>,
    size: Sectors,
    /// When it was last changed, and what of that a crash of the host leaves.
    changed: WallTime,
    changed_durable: WallTime,
    fault: Option<SourceFault>,
    /// As the product's source has it: since it was opened.
    flush_failed: bool,
    flushes_failed: u64,
    rng: Rng,
}

/// What goes wrong, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SourceFault {
    /// The next change: its first part is done.
    Write,
    /// The same, and then it cannot be read either.
    WriteAndRead,
    /// The next read.
    Read,
    /// The next flush: what it was to make durable is lost or not.
    Sync,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("windows", &self.windows).finish_non_exhaustive()
    }
}

impl Source {
    /// `row`: what all windows in a row hold.
    pub(crate) fn new(windows: Vec<Window>, size: Sectors, row: &[u8], clocks: Arc<Clocks>, seed: u64) -> Arc<Self> {
        let mut live = Vec::new();
        for window in &windows {
            let start = live.len();
            live.extend_from_slice(&row[window.row as usize..][..window.bytes as usize]);
            live[start + window.within(size) as usize..].fill(0);
        }
        let changed = clocks.wall();
        let content = Content {
            durable: live.clone(),
            live,
            pending: Vec::new(),
            size,
            changed,
            changed_durable: changed,
            fault: None,
            flush_failed: false,
            flushes_failed: 0,
            rng: Rng::new(seed),
        };
        Arc::new(Self { windows, clocks, content: Mutex::new(content) })
    }

    /// What its windows hold, in a row.
    pub(crate) fn image(&self) -> Vec<u8> {
        self.lock().live.clone()
    }

    /// When it was last changed.
    pub(crate) fn changed(&self) -> WallTime {
        self.lock().changed
    }

    pub(crate) fn flush_failed(&self) -> bool {
        self.lock().flush_failed
    }

    pub(crate) fn flushes_failed(&self) -> u64 {
        self.lock().flushes_failed
    }

    /// A process opens it.
    pub(crate) fn open(&self) {
        self.lock().flush_failed = false;
    }

    /// It is as large as this from now on; what it has more is zero, and what it has not any more is gone.
    pub(crate) fn resize(&self, size: Sectors) {
        let content = &mut *self.lock();
        content.changed = self.clocks.wall();
        let mut start = 0;
        for window in &self.windows {
            let (kept, end) = (start + window.within(size) as usize, start + window.bytes as usize);
            content.live[kept..end].fill(0);
            content.durable[kept..end].fill(0);
            content.pending.iter_mut().for_each(|(at, data)| {
                let (from, to) = (kept.clamp(*at, *at + data.len()), end.clamp(*at, *at + data.len()));
                data[from - *at..to - *at].fill(0);
            });
            start = end;
        }
        content.size = size;
    }

    pub(crate) fn fail(&self, fault: Option<SourceFault>) {
        self.lock().fault = fault;
    }

    /// Makes what was written durable, for the agent itself: a failure is still the clients' to hear of, and then takes something with it.
    pub(crate) fn sync_aside(&self) -> bool {
        let content = &mut *self.lock();
        content.flush_failed |= content.fault == Some(SourceFault::Sync);
        !content.flush_failed && content.sync().is_ok()
    }

    /// The host's power goes: of what was not flushed each sector is kept or lost, in any order.
    pub(crate) fn crash(&self, rng: &mut Rng) {
        let content = &mut *self.lock();
        content.lose(rng.below(5), rng);
        if rng.chance(1, 2) {
            content.changed = content.changed_durable;
        }
        content.fault = None;
    }

    fn lock(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap()
    }

    /// Where these bytes are, if they lie in a window.
    fn find(&self, offset: u64, length: usize) -> usize {
        let mut start = 0;
        for window in &self.windows {
            if offset >= window.at && offset + length as u64 <= window.at + window.bytes {
                return start + (offset - window.at) as usize;
            }
            start += window.bytes as usize;
        }
        panic!("nobody writes to {length} bytes at {offset}");
    }

    fn put(&self, offset: u64, mut data: Vec<u8>) -> io::Result<()> {
        let (at, changed) = (self.find(offset, data.len()), self.clocks.wall());
        let content = &mut *self.lock();
        let fault = content.take(&[SourceFault::Write, SourceFault::WriteAndRead]);
        if fault.is_some() {
            let sectors = data.len() / SECTOR;
            data.truncate(content.rng.below_len(sectors + 1) * SECTOR);
        }
        if fault == Some(SourceFault::WriteAndRead) {
            content.fault = Some(SourceFault::Read);
        }
        content.changed = changed;
        content.live[at..at + data.len()].copy_from_slice(&data);
        content.pending.push((at, data));
        fault.map_or(Ok(()), |_| Err(error()))
    }
}

impl Content {
    /// What goes wrong now, if it is one of these.
    fn take(&mut self, these: &[SourceFault]) -> Option<SourceFault> {
        self.fault.take_if(|fault| these.contains(fault))
    }

    /// Of what was not flushed so many of five sectors are lost.
    fn lose(&mut self, lost: u64, rng: &mut Rng) {
        for (at, data) in self.pending.drain(..) {
            for (sector, bytes) in data.chunks(SECTOR).enumerate() {
                if rng.below(4) >= lost {
                    self.durable[at + sector * SECTOR..][..bytes.len()].copy_from_slice(bytes);
                }
            }
        }
        self.live.clone_from(&self.durable);
    }

    fn sync(&mut self) -> io::Result<()> {
        if self.take(&[SourceFault::Sync]).is_some() {
            let mut rng = Rng::new(self.rng.u64());
            self.lose(rng.below(5), &mut rng);
            self.flush_failed = true;
            self.flushes_failed += 1;
            return Err(error());
        }
        self.pending.clear();
        self.durable.clone_from(&self.live);
        self.changed_durable = self.changed;
        Ok(())
    }
}

fn error() -> io::Error {
    io::Error::from_raw_os_error(EIO)
}

impl Storage for Source {
    fn size(&self) -> Sectors {
        self.lock().size
    }

    fn block_bytes(&self) -> u32 {
        512
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let content = &mut *self.lock();
        if content.take(&[SourceFault::Read]).is_some() {
            return Err(error());
        }
        buffer.fill(0);
        let (end, mut start) = (offset + buffer.len() as u64, 0);
        for window in &self.windows {
            let (from, to) = (offset.max(window.at), end.min(window.at + window.bytes));
            if from < to {
                let length = (to - from) as usize;
                let live = &content.live[start + (from - window.at) as usize..][..length];
                buffer[(from - offset) as usize..][..length].copy_from_slice(live);
            }
            start += window.bytes as usize;
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.put(offset, data.to_vec())
    }

    fn sync(&self) -> io::Result<()> {
        self.lock().sync()
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<bool> {
        self.put(offset, vec![0; length as usize]).map(|()| true)
    }

    fn zero(&self, offset: u64, length: u64, _keep_space: bool) -> io::Result<()> {
        self.put(offset, vec![0; length as usize])
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        let content = self.lock();
        let mut start = 0;
        for window in &self.windows {
            let live = &content.live[start..start + window.within(content.size) as usize];
            start += window.bytes as usize;
            let is_data = |block: &usize| live[block * BLOCK..].iter().take(BLOCK).any(|byte| *byte != 0);
            let skipped = (offset.saturating_sub(window.at) as usize / BLOCK).min(live.len().div_ceil(BLOCK));
            let blocks = skipped..live.len().div_ceil(BLOCK);
            let Some(first) = blocks.clone().find(is_data) else { continue };
            let end = (first..blocks.end).find(|block| !is_data(block)).unwrap_or(blocks.end);
            let (from, to) = (first * BLOCK, (end * BLOCK).min(live.len()));
            return Ok(Some(offset.max(window.at + from as u64)..window.at + to as u64));
        }
        Ok(None)
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
        let read = self.source.read_at(offset, &mut data);
        (self.meanwhile)();
        Ok(Some((offset, read.map(|()| Box::new(data) as Data).map_err(Into::into))))
    }
}
