//! Decides what the log has to say next. Pure: no I/O, no clock.
//!
//! Whoever needs an extent asks for it and gets a *ticket*: the number of the batch after which it is durably said to be hot. One
//! batch at a time is on its way; what is asked for meanwhile goes with the next, so that many share one sync.
//!
//! | | asked for | cooled |
//! |---|---|---|
//! | said, or being said, hot | its batch's ticket | cold with the next batch, unless it is asked for first |
//! | not said | hot with the next batch | – |
//! | all is hot | at once | – |
//!
//! **Invariant:** what is on disk, or may be, calls hot whatever a ticket was redeemed for and that was not cooled since.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use super::ExtentNo;
use super::codec::{RUNS_MAX, Run};

/// Neighbours that are said to be hot along with an extent whose predecessor is: a stream pays once for 64 MiB.
const AHEAD: ExtentNo = 15;

/// The number of a batch, from 1.
pub(super) type Ticket = u64;

/// What to write next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Job {
    /// Nothing: all that is asked for is said.
    Nothing,
    /// Append these, and make them durable.
    Append(Vec<Run>),
    /// Say that all is hot, durably.
    All,
    /// Replace the log by one that says this and nothing else.
    Rewrite(Vec<Run>),
}

/// What the log says, and what is to be said.
#[derive(Debug)]
pub(super) struct Ledger {
    extents: ExtentNo,
    hot_max: usize,
    room: usize,
    /// All is hot, as of this batch.
    all: Option<Ticket>,
    /// Said hot, or on the way, by this batch.
    hot: BTreeMap<ExtentNo, Ticket>,
    /// To be said hot.
    asked: BTreeSet<ExtentNo>,
    /// Of `hot`, to be said cold.
    cooled: BTreeSet<ExtentNo>,
    /// All is to be said hot.
    overflow: bool,
    /// The log is to be written anew.
    rewrite: bool,
    /// Transactions in the file.
    used: usize,
    /// The last batch that was begun.
    begun: Ticket,
    /// The last batch that is durable.
    done: Ticket,
}

impl Ledger {
    /// Of a volume of so many extents, at most `hot_max` of them listed, in files of `room` transactions. All is hot, and the disk
    /// says so.
    pub(super) fn new(extents: ExtentNo, hot_max: usize, room: usize) -> Self {
        Self {
            extents,
            hot_max,
            room,
            all: Some(0),
            hot: BTreeMap::new(),
            asked: BTreeSet::new(),
            cooled: BTreeSet::new(),
            overflow: false,
            rewrite: false,
            used: 0,
            begun: 0,
            done: 0,
        }
    }

    /// Someone is about to change these. The ticket to wait for.
    pub(super) fn ask(&mut self, extents: impl IntoIterator<Item = ExtentNo>) -> Ticket {
        let mut ticket = 0;
        for extent in extents {
            ticket = ticket.max(self.ask_one(extent));
        }
        ticket
    }

    fn ask_one(&mut self, extent: ExtentNo) -> Ticket {
        if let Some(said) = self.all {
            return said;
        }
        // What is still hot on disk need not be said again.
        self.cooled.remove(&extent);
        if let Some(&said) = self.hot.get(&extent) {
            return said;
        }
        self.asked.insert(extent);
        let is_stream = extent.checked_sub(1).is_some_and(|before| self.hot.contains_key(&before));
        if is_stream {
            let last = extent.saturating_add(AHEAD).min(self.extents.saturating_sub(1));
            let new: Vec<_> = (extent + 1..=last).filter(|next| !self.hot.contains_key(next)).collect();
            if self.hot.len() + self.asked.len() + new.len() <= self.hot_max {
                self.asked.extend(new);
            }
        }
        if self.hot.len() + self.asked.len() > self.hot_max {
            self.overflow = true;
        }
        self.begun + 1
    }

    /// These need not be hot any more: whatever was captured of them is durable.
    pub(super) fn cool(&mut self, extent: ExtentNo) {
        if self.all.is_none() && self.hot.contains_key(&extent) {
            self.cooled.insert(extent);
        }
    }

    /// While all is hot: from now on only `open` are, and what is asked for. All changes of others must be covered.
    pub(super) fn list(&mut self, open: impl IntoIterator<Item = ExtentNo>) {
        if self.all.take().is_some() {
            self.asked.extend(open);
            self.rewrite = true;
        }
    }

    /// The extents that were asked for and are durably said to be hot.
    pub(super) fn is_hot(&self, extent: ExtentNo) -> bool {
        self.all.is_some_and(|said| said <= self.done)
            || (self.hot.get(&extent).is_some_and(|said| *said <= self.done) && !self.cooled.contains(&extent))
    }

    /// Whether what the ticket stands for is durable.
    pub(super) fn is_redeemed(&self, ticket: Ticket) -> bool {
        ticket <= self.done
    }

    /// Whether all counts as hot.
    pub(super) fn is_all(&self) -> bool {
        self.all.is_some()
    }

    /// Whether there is anything to say.
    pub(super) fn has_more(&self) -> bool {
        self.overflow || self.rewrite || !self.asked.is_empty() || !self.cooled.is_empty()
    }

    /// Whether so much is hot that it is worth an effort to have less.
    pub(super) fn is_crowded(&self) -> bool {
        self.is_all() || self.count() > self.hot_max / 2
    }

    /// Whether a list of so many is worth beginning: it should last.
    pub(super) fn fits(&self, count: usize) -> bool {
        count <= self.hot_max / 2
    }

    /// Extents listed, or about to be.
    pub(super) fn count(&self) -> usize {
        self.hot.len() + self.asked.len()
    }

    /// Begins the next batch. It ends with [`ended`](Self::ended); until then there is no other.
    ///
    /// # Panics
    /// If one is on its way.
    pub(super) fn begin(&mut self) -> Job {
        assert_eq!(self.begun, self.done, "one batch at a time");
        self.begun += 1;
        if self.all.is_some() {
            return Job::Nothing;
        }
        if self.overflow {
            self.all = Some(self.begun);
            self.forget();
            return Job::All;
        }
        let (asked, cooled) = (std::mem::take(&mut self.asked), std::mem::take(&mut self.cooled));
        cooled.iter().for_each(|extent| {
            self.hot.remove(extent);
        });
        let mut runs = runs(&cooled, false);
        runs.extend(self::runs(&asked, true));
        self.hot.extend(asked.into_iter().map(|extent| (extent, self.begun)));
        if runs.is_empty() && !self.rewrite {
            return Job::Nothing;
        }
        let transactions = runs.len().div_ceil(RUNS_MAX);
        // One stays free for "all".
        if self.rewrite || self.used + transactions + 1 > self.room {
            self.rewrite = false;
            let all: BTreeSet<_> = self.hot.keys().copied().collect();
            let runs = self::runs(&all, true);
            self.used = runs.len().div_ceil(RUNS_MAX);
            return Job::Rewrite(runs);
        }
        self.used += transactions;
        Job::Append(runs)
    }

    /// The batch is durable; or it is not, and the disk means "all" now.
    pub(super) fn ended(&mut self, durable: bool) {
        self.done = self.begun;
        if !durable {
            self.all = Some(self.done);
            self.forget();
        }
    }

    fn forget(&mut self) {
        self.hot.clear();
        self.asked.clear();
        self.cooled.clear();
        (self.overflow, self.rewrite, self.used) = (false, false, 0);
    }
}

/// Neighbours as one.
fn runs(extents: &BTreeSet<ExtentNo>, hot: bool) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for &extent in extents {
        match runs.last_mut() {
            Some(run) if run.first + run.count == extent => run.count += 1,
            _ => runs.push(Run { first: extent, count: 1, hot }),
        }
    }
    runs
}

/// The extents of a run of bytes that is not empty.
pub(super) fn covering(extent: journal::types::Extent) -> RangeInclusive<ExtentNo> {
    let number = |sector: u64| ExtentNo::try_from(sector / super::EXTENT_SECTORS).unwrap_or(ExtentNo::MAX);
    number(extent.start().index())..=number(extent.end().index() - 1)
}
