//! Merges indexes of segments and runs into one run: a step is a bounded amount of work, whatever is merged.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use super::file::{MergedRun, Pages, RunNo};
use super::page::{Key, Page};
use super::write::{RunWriter, normal};
use crate::codec::{RunKind, RunSource};
use crate::disk::Disk;
use crate::error::Result;
use crate::index::entry::Entry;
use crate::index::footer::Footer;
use crate::types::{GroupId, Salt};

/// Entries taken in a step at most: a few milliseconds.
const STEP_ENTRIES: usize = 16 * 1024;
/// Bytes written in a step, about.
const STEP_BYTES: u64 = 1024 * 1024;

/// What is merged.
#[derive(Debug)]
pub(crate) enum Input {
    /// The index of a segment, which is this source of the new run.
    Footer { footer: Footer, source: u32, next: usize },
    /// A run, and which source of the new run each of its sources is; entries of those without one are left out.
    Run { pages: Pages<Arc<MergedRun>>, sources: Vec<Option<u32>>, page: Option<Page>, next: usize },
}

/// A merge under way.
#[derive(Debug)]
pub(crate) struct Merge {
    writer: RunWriter,
    inputs: Vec<Input>,
    /// The next key of each input.
    heads: BinaryHeap<Reverse<(Key, usize)>>,
    crcs: Vec<u32>,
}

impl Input {
    pub(crate) fn footer(footer: Footer, source: u32) -> Self {
        Self::Footer { footer, source, next: 0 }
    }

    pub(crate) fn run(run: Arc<MergedRun>, sources: Vec<Option<u32>>) -> Self {
        Self::Run { pages: Pages::new(run), sources, page: None, next: 0 }
    }

    /// The key of what comes next.
    fn head(&mut self) -> Result<Option<Key>> {
        match self {
            Self::Footer { footer, next, .. } => Ok(footer.run.entries().get(*next).map(Key::of)),
            Self::Run { pages, sources, page, next } => loop {
                let Some(open) = page.as_ref().filter(|open| *next < open.len()) else {
                    *page = pages.next().inspect_err(|_| pages.run().spoil())?;
                    *next = 0;
                    if page.is_none() {
                        return Ok(None);
                    }
                    continue;
                };
                if mapped(sources, open.source(*next)).is_some() {
                    return Ok(Some(open.key(*next).0));
                }
                *next += 1;
            },
        }
    }

    /// Takes what comes next: the entry, its source; its CRCs go to `crcs`.
    fn take(&mut self, crcs: &mut Vec<u32>) -> Result<Option<(Entry, u32)>> {
        crcs.clear();
        match self {
            Self::Footer { footer, source, next } => {
                let Some(entry) = footer.run.entries().get(*next) else { return Ok(None) };
                *next += 1;
                let pool = &footer.pool;
                let (entry, all) = normal(entry, |place| pool.get(place).copied())?;
                crcs.extend(all);
                Ok(Some((entry, *source)))
            }
            Self::Run { sources, page, next, .. } => {
                let Some(open) = page else { return Ok(None) };
                let (entry, source) = (open.entry(*next)?, mapped(sources, open.source(*next)));
                *next += 1;
                let Some(source) = source else { return Ok(None) };
                let (entry, all) = normal(&entry, |place| open.crc(place))?;
                crcs.extend(all);
                Ok(Some((entry, source)))
            }
        }
    }
}

fn mapped(sources: &[Option<u32>], source: u32) -> Option<u32> {
    sources.get(usize::try_from(source).ok()?).copied().flatten()
}

impl Merge {
    /// Begins: makes the file.
    pub(crate) fn begin(
        disk: &dyn Disk,
        name: (RunNo, Salt),
        of: (GroupId, RunKind),
        sources: Vec<RunSource>,
        mut inputs: Vec<Input>,
    ) -> Result<Self> {
        let mut heads = BinaryHeap::with_capacity(inputs.len());
        for (i, input) in inputs.iter_mut().enumerate() {
            heads.extend(input.head()?.map(|key| Reverse((key, i))));
        }
        Ok(Self { writer: RunWriter::begin(disk, name, of, sources)?, inputs, heads, crcs: Vec::new() })
    }

    /// Goes on a little; whether all is merged.
    pub(crate) fn step(&mut self) -> Result<bool> {
        let before = self.writer.written();
        for _ in 0..STEP_ENTRIES {
            let Some(Reverse((_, i))) = self.heads.pop() else { return Ok(true) };
            let Some(input) = self.inputs.get_mut(i) else { return Ok(true) };
            if let Some((entry, source)) = input.take(&mut self.crcs)? {
                self.writer.push(&entry, &self.crcs, source)?;
            }
            self.heads.extend(input.head()?.map(|key| Reverse((key, i))));
            if self.writer.written() - before >= STEP_BYTES {
                break;
            }
        }
        Ok(self.heads.is_empty())
    }

    /// Ends the file and gives it its name, durably.
    pub(crate) fn finish(self, disk: &dyn Disk) -> Result<RunNo> {
        self.writer.finish(disk)
    }
}
