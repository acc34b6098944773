//! A source, an order and a receiver, as far as the log of hot extents is about them: what each extent holds is a number, that of the
//! change that made it.

use std::collections::{BTreeMap, BTreeSet};

use journal::disk::sim::Rng;
use journal::types::{Changed, ExtentRun, Sectors, VolumeNo, WallTime};

use super::tests::subject;
use super::{Claim, ExtentNo, Left, Testimony, ranges};

/// What an extent holds that differs before the run begins, and nobody knows.
const UNKNOWN: u64 = u64::MAX;

pub(super) struct Model {
    /// The extents of each record; the first one is at `Seq` 2.
    order: Vec<Vec<ExtentNo>>,
    /// A base: where it was sealed, and what it read. It ranks below all that comes after.
    sealed: Option<(u64, BTreeMap<ExtentNo, u64>)>,
    inherited: Vec<ExtentNo>,
    /// What is on the source durably, and what was written since: any of it may be what is left.
    source: BTreeMap<ExtentNo, Vec<u64>>,
    /// What the agent remembers durably that the receiver has.
    pub(super) durable: u64,
}

/// A state directory and a source at one instant, as a crash leaves them.
pub(super) struct Copy {
    hot: BTreeSet<ExtentNo>,
    source: BTreeMap<ExtentNo, u64>,
    durable: u64,
    /// Where the receiver may have been.
    pub(super) receiver: u64,
}

impl Model {
    /// What of the source differs from the receiver when the run begins.
    pub(super) fn new(inherited: &[ExtentNo]) -> Self {
        let source = inherited.iter().map(|extent| (*extent, vec![UNKNOWN])).collect();
        Self { order: Vec::new(), sealed: None, inherited: inherited.to_vec(), source, durable: 0 }
    }

    /// The last `Seq`.
    pub(super) fn captured(&self) -> u64 {
        self.order.len() as u64 + 1
    }

    /// The source is written to, through its cache; that is captured next.
    pub(super) fn write(&mut self, extents: &[ExtentNo]) {
        let version = self.captured() + 1;
        extents.iter().for_each(|extent| self.source.entry(*extent).or_insert_with(|| vec![0]).push(version));
    }

    pub(super) fn capture(&mut self, extents: &[ExtentNo]) {
        self.order.push(extents.to_vec());
    }

    /// A base that has read what was inherited counts from here on.
    pub(super) fn seal(&mut self) {
        let read = self.inherited.iter().map(|extent| (*extent, *self.source[extent].last().unwrap())).collect();
        self.order.push(Vec::new());
        self.sealed = Some((self.captured(), read));
    }

    pub(super) fn flush(&mut self) {
        self.source.values_mut().for_each(|versions| _ = versions.drain(..versions.len() - 1));
    }

    /// What the receiver's view as of `at` holds.
    fn view(&self, extent: ExtentNo, at: u64) -> u64 {
        let records = (2..).zip(&self.order).take_while(|(seq, _)| *seq <= at);
        let newest = records.filter(|(_, extents)| extents.contains(&extent)).map(|(seq, _)| seq).last().unwrap_or(0);
        match &self.sealed {
            Some((sealed, read)) if *sealed <= at && newest < *sealed => read.get(&extent).copied().unwrap_or(newest),
            _ => newest,
        }
    }

    /// As it is now, if these are hot. The source keeps of what was not flushed what it likes.
    pub(super) fn copy(&self, hot: BTreeSet<ExtentNo>, rng: &mut Rng) -> Copy {
        let pick = |(extent, versions): (&ExtentNo, &Vec<u64>)| (*extent, versions[rng.below_len(versions.len())]);
        let source = self.source.iter().map(pick).collect();
        let receiver = self.durable + rng.below(self.captured() - self.durable + 1);
        Copy { hot, source, durable: self.durable, receiver }
    }
}

impl Copy {
    /// Whether a receiver that is at `receiver` by now agrees with the log.
    pub(super) fn agrees(&self, model: &Model, receiver: u64) -> bool {
        let size: Sectors = subject(64).size;
        let left = Left::Only(ranges(self.hot.iter().copied(), size));
        let testimony = Testimony { left, noted: Some(WallTime(1)) };
        let claim = Claim::of(VolumeNo(0), size, &testimony).unwrap();
        let records = (2..).zip(&model.order).filter(|(seq, _)| (self.durable + 1..=receiver).contains(seq));
        let mut changed: BTreeSet<_> = records.flat_map(|(_, extents)| extents.iter().copied()).collect();
        if let Some((sealed, read)) = &model.sealed
            && (self.durable + 1..=receiver).contains(sealed)
        {
            changed.extend(read.keys());
        }
        let runs: Vec<_> = changed.into_iter().map(|first| ExtentRun { first, count: 1 }).collect();
        // In pages of two.
        let pages: Vec<_> = runs.chunks(2).collect();
        let mut first = 0;
        for (number, page) in pages.iter().enumerate() {
            let next = pages.get(number + 1).map(|next| next[0].first);
            match claim.check(first, &Changed { size: Some(size), next, runs: page.to_vec() }) {
                Ok(asked) => assert_eq!(asked, next),
                Err(_) => return false,
            }
            first = next.unwrap_or(first);
        }
        true
    }

    /// What is not hot is the same at a receiver that is at `receiver`.
    pub(super) fn check(&self, model: &Model, receiver: u64) {
        for extent in (0..64).filter(|extent| !self.hot.contains(extent)) {
            let (ours, theirs) = (self.source.get(&extent).copied().unwrap_or(0), model.view(extent, receiver));
            assert_eq!(
                ours,
                theirs,
                "extent {extent} is not hot, and differs: remembered {}, the receiver at {receiver} of {}",
                self.durable,
                model.captured()
            );
        }
    }
}
