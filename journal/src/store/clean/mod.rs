//! Thins history and cleans what nobody can see any more: reads a version, writes new files beside the journal. The owner of the journal
//! is asked only for numbers, and to name what is done ([`Store::thin`](super::Store::thin), [`Store::replace`](super::Store::replace)).
//!
//! `docs/decisions/0019-thinned-then-cleaned.md` says what it rests on.

mod compact;
mod judge;
mod survey;
mod thinning;
mod units;

use std::ops::ControlFlow;
use std::sync::Arc;

use super::version::Version;
use crate::codec::SegmentKind;
use crate::error::Result;
use crate::index::Entry;
use crate::log::Segment;
use crate::retention::Kept;
use crate::types::{ResyncId, Seq};
use judge::Judge;

pub use compact::{Examined, Output};
pub use survey::{CompactPlan, Surveyed};

/// Hears of bytes dealt with; may wait, or stop it.
pub type Pace<'a> = &'a mut dyn FnMut(u64) -> ControlFlow<()>;

/// Versions heard until it is asked again whether to go on.
const HEARD_AT_ONCE: usize = 4096;

/// Works on one version of a journal.
#[derive(Clone, Debug)]
pub struct Cleaner {
    version: Arc<Version>,
}

/// A sealed segment below X, and the place from which its base counts.
#[derive(Clone, Debug)]
struct Thinned {
    segment: Arc<Segment>,
    /// Of a base: where it was sealed.
    sealed: Option<Seq>,
}

impl Cleaner {
    /// For the journal as it is in `version`.
    pub fn new(version: Arc<Version>) -> Self {
        Self { version }
    }

    /// The list that says what can be seen. Where it cannot be read nothing is known to be dead.
    fn kept(&self) -> Option<&Arc<Kept>> {
        self.version.timeline.kept().filter(|_| !self.version.has_lost_points)
    }

    /// The segments that lie wholly below X, each chain in its order. The newest sealed one is left alone: it says where the order ends.
    fn thinned(&self, kept: &Kept) -> Vec<Vec<Thinned>> {
        let is_below =
            |segment: &&Arc<Segment>| segment.sealed.and_then(|sealed| sealed.end).is_some_and(|end| end <= kept.upto);
        let live = self.version.live.iter().take_while(is_below);
        let live = live.map(|segment| Thinned { segment: Arc::clone(segment), sealed: None });
        let count = self.version.live.len().saturating_sub(1);
        let mut chains = vec![live.take(count).collect::<Vec<_>>()];
        let mut known: Vec<ResyncId> = Vec::new();
        for (segment, sealed) in self.version.bases.iter().filter(|(_, sealed)| *sealed < kept.upto) {
            let SegmentKind::Base { resync } = segment.header.kind else { continue };
            let at = known.iter().position(|id| *id == resync).unwrap_or_else(|| {
                known.push(resync);
                chains.push(Vec::new());
                known.len() - 1
            });
            if let Some(chain) = chains.get_mut(at + 1) {
                chain.push(Thinned { segment: Arc::clone(segment), sealed: Some(*sealed) });
            }
        }
        chains
    }

    /// Lets everything that overwrites something speak: all of the journal that a point up to X can see.
    fn confront(&self, kept: &Kept, judge: &mut Judge<'_>, pace: Pace<'_>) -> Result<ControlFlow<()>> {
        let Some((oldest, newest)) = judge.range() else { return Ok(ControlFlow::Continue(())) };
        let upto = newest.min(kept.upto.number());
        for (segment, sealed) in self.version.bases.iter() {
            // What a base read is older than the place where it was sealed.
            if sealed.number() > upto || sealed.number() <= oldest {
                continue;
            }
            let birth = |_: &Entry| sealed.number();
            if hear(judge, segment.footer()?.run.entries(), birth, pace).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        let birth = |entry: &Entry| entry.rank.seq;
        for segment in self.version.live.iter() {
            let (first, end) = super::version::span(segment);
            // Not from the cache: it is for who reads views.
            if first <= upto && oldest < end && hear(judge, segment.footer()?.run.entries(), birth, pace).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        for footer in self.version.tail.iter().flat_map(|(_, footers)| footers) {
            if hear(judge, footer.run.entries(), birth, pace).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// Lets these speak, and asks now and then whether to go on.
fn hear(judge: &mut Judge<'_>, entries: &[Entry], birth: impl Fn(&Entry) -> u64, pace: Pace<'_>) -> ControlFlow<()> {
    for some in entries.chunks(HEARD_AT_ONCE) {
        some.iter().for_each(|entry| judge.hear(entry, birth(entry)));
        pace(0)?;
    }
    ControlFlow::Continue(())
}
