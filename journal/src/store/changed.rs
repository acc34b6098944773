//! Which extents of a volume changed after a place in the order: coarse, a page at a time, in bounded memory. No data is read.

use super::view::View;
use crate::error::{Error, Result};
use crate::limits::CHANGED_RUNS;
use crate::types::{CHANGED_EXTENT_SECTORS, Changed, Extent, ExtentRun, Sector, Seq, VolumeNo};

/// Extents looked at for one page, at most: 4 TiB, for which a bit each takes 128 KiB.
const PAGE_EXTENTS: u32 = 1 << 20;

impl View {
    /// The extents of `volume` that records after `after` and up to this view's place, or bases sealed there, have touched: from
    /// extent `first` on, as many as a page holds. What a change of its size cut off or gave back counts as touched.
    pub fn changed_extents(&self, after: Option<Seq>, volume: VolumeNo, first: u32) -> Result<Changed> {
        self.changed_page(after, volume, first, PAGE_EXTENTS, CHANGED_RUNS)
    }

    pub(super) fn changed_page(
        &self,
        after: Option<Seq>,
        volume: VolumeNo,
        first: u32,
        extents_max: u32,
        runs_max: usize,
    ) -> Result<Changed> {
        let info = self.volumes().iter().find(|info| info.number == volume);
        let Some(size) = info.map(|info| info.size).filter(|size| size.count() > 0) else {
            return Ok(Changed::default());
        };
        let end = u32::try_from(size.count().div_ceil(CHANGED_EXTENT_SECTORS))
            .map_err(|_| Error::unsupported("a volume with more extents than can be numbered"))?;
        let stop = first.saturating_add(extents_max).min(end);
        let start_of = |extent: u32| Sector::new((u64::from(extent) * CHANGED_EXTENT_SECTORS).min(size.count()));
        let within = start_of(first).zip(start_of(stop)).and_then(|(start, end)| Extent::between(start, end));
        let mut touched = Bits::new(stop.saturating_sub(first));
        if let Some(within) = within {
            self.each_changed_since(after, volume, within, |extent| {
                let place = |sector: u64| sector / CHANGED_EXTENT_SECTORS - u64::from(first);
                touched.set(place(extent.start().index()), place(extent.end().index() - 1));
            })?;
        }
        let (runs, told) = touched.runs(runs_max);
        let next = first.saturating_add(told);
        let runs = runs.into_iter().map(|run| ExtentRun { first: first + run.first, ..run }).collect();
        Ok(Changed { size: Some(size), next: Some(next).filter(|next| *next < end), runs })
    }
}

/// A bit for each extent of a page.
struct Bits {
    words: Vec<u64>,
    len: u32,
}

impl Bits {
    fn new(len: u32) -> Self {
        let words = usize::try_from(len.div_ceil(u64::BITS)).unwrap_or(0);
        Self { words: vec![0; words], len }
    }

    fn place(at: u64) -> (usize, u64) {
        (usize::try_from(at / 64).unwrap_or(usize::MAX), 1 << (at % 64))
    }

    /// Both ends are in it.
    fn set(&mut self, from: u64, to: u64) {
        for at in from..=to {
            let (word, bit) = Self::place(at);
            if let Some(word) = self.words.get_mut(word) {
                *word |= bit;
            }
        }
    }

    fn is_set(&self, at: u32) -> bool {
        let (word, bit) = Self::place(at.into());
        self.words.get(word).is_some_and(|word| word & bit != 0)
    }

    /// The first `max` runs, and up to where nothing is left out.
    fn runs(&self, max: usize) -> (Vec<ExtentRun>, u32) {
        let mut runs: Vec<ExtentRun> = Vec::new();
        for at in (0..self.len).filter(|at| self.is_set(*at)) {
            let is_full = runs.len() == max;
            match runs.last_mut() {
                Some(run) if run.first + run.count == at => run.count += 1,
                _ if is_full => return (runs, at),
                _ => runs.push(ExtentRun { first: at, count: 1 }),
            }
        }
        (runs, self.len)
    }
}
