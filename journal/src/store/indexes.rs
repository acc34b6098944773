//! Where readers look: merged runs, and the indexes of segments that no run covers yet.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use super::cache::IndexCache;
use super::version::span;
use crate::codec::{RunKind, RunSource};
use crate::error::Result;
use crate::index::{Entry, Footer, MergedRun, Page, Query, Work};
use crate::log::{Segment, SegmentState};
use crate::types::{SegmentNo, Seq};

/// All indexes of one version. Immutable.
#[derive(Debug, Default)]
pub(super) struct Indexes {
    /// What may hold the newest first.
    places: Vec<Place>,
    /// Whether the directory may be written to.
    pub(super) is_writable: bool,
}

/// One place to look into.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) kind: RunKind,
    pub(super) index: Index,
    /// Live: its first `Seq`. Base: the `Seq` from which the first of it counts.
    from: u64,
    /// No rank in it is above this.
    until: u64,
}

#[derive(Debug)]
pub(super) enum Index {
    /// A run, and the segment that each of its sources is; `None`: that is gone, or another place covers it.
    Run(Arc<MergedRun>, Vec<Option<Indexed>>),
    /// The index of a single segment.
    Loose(Indexed),
}

/// A segment, and from where on it counts.
#[derive(Clone, Debug)]
pub(super) struct Indexed {
    pub(super) segment: Arc<Segment>,
    kind: RunKind,
    from: u64,
    until: u64,
}

/// An entry that was found, and what is needed to read it.
#[derive(Debug)]
pub(super) struct Hit {
    pub(super) entry: Entry,
    pub(super) segment: Arc<Segment>,
    pub(super) crcs: Crcs,
}

/// Where the CRCs of a unit are.
#[derive(Clone, Debug)]
pub(super) enum Crcs {
    Footer(Arc<Footer>),
    Page(Arc<Page>),
}

impl Crcs {
    /// The CRC with this place.
    pub(super) fn get(&self, place: usize) -> Option<u32> {
        match self {
            Self::Footer(footer) => footer.pool.get(place).copied(),
            Self::Page(page) => page.crc(place),
        }
    }
}

impl Indexed {
    fn live(segment: &Arc<Segment>) -> Self {
        let (from, end) = span(segment);
        Self { segment: segment.clone(), kind: RunKind::Live, from, until: end - 1 }
    }

    /// What a base was read after lies before where it is sealed.
    fn base(segment: &Arc<Segment>, sealed: Seq) -> Self {
        let sealed = sealed.number();
        Self { segment: segment.clone(), kind: RunKind::Base, from: sealed, until: sealed - 1 }
    }

    /// Whether anything in it can be asked for.
    fn counts(&self, query: &Query) -> bool {
        self.from <= query.newest.number()
            && match self.kind {
                RunKind::Live => self.until > query.after,
                RunKind::Base => self.from > query.after,
            }
    }
}

impl Indexes {
    /// The places to look into for these segments, as far as possible in `runs`, the largest first; those of no use are left out.
    pub(super) fn of(
        runs: &[Arc<MergedRun>],
        live: &[Arc<Segment>],
        bases: &[(Arc<Segment>, Seq)],
        is_writable: bool,
    ) -> Self {
        let all = live.iter().map(Indexed::live).chain(bases.iter().map(|(base, sealed)| Indexed::base(base, *sealed)));
        let mut loose: HashMap<SegmentNo, Indexed> = all.map(|known| (known.segment.header.number, known)).collect();
        // Those that cover most of what there is; of equals the newer one, which was made to replace the other.
        let covers =
            |run: &MergedRun| run.sources().iter().filter(|source| covered(run, source, &loose).is_some()).count();
        let good = runs.iter().filter(|run| !run.is_spoilt());
        let mut good: Vec<(usize, &Arc<MergedRun>)> = good.map(|run| (covers(run), run)).collect();
        good.sort_by_key(|(count, run)| Reverse((*count, run.number())));
        let mut places: Vec<Place> = good.into_iter().filter_map(|(_, run)| Place::of_run(run, &mut loose)).collect();
        places.extend(loose.into_values().map(Place::of_segment));
        places.sort_by_key(|place| Reverse((place.until, place.from)));
        Self { places, is_writable }
    }

    /// All places.
    pub(super) fn places(&self) -> &[Place] {
        &self.places
    }

    /// The runs that are of use.
    pub(super) fn runs(&self) -> impl Iterator<Item = &Arc<MergedRun>> {
        self.places.iter().filter_map(|place| match &place.index {
            Index::Run(run, _) => Some(run),
            Index::Loose(_) => None,
        })
    }

    /// Calls `found` with all that can matter to `query`. With `covered`, which says from which rank on all that is asked for is found, no
    /// further than needed.
    pub(super) fn search(
        &self,
        cache: &IndexCache,
        query: &Query,
        covered: Option<u64>,
        mut found: impl FnMut(Hit),
    ) -> Result<Work> {
        let (mut covered, stops) = (covered.unwrap_or(0), covered.is_some());
        let mut work = Work::default();
        for place in &self.places {
            if stops && covered > place.until {
                break;
            }
            if place.from > query.newest.number() {
                continue;
            }
            let mut look = |hit: Hit| {
                if hit.entry.extent().overlap(query.extent) == Some(query.extent) {
                    covered = covered.max(hit.entry.rank.seq);
                }
                found(hit);
            };
            match &place.index {
                Index::Loose(loose) => work += loose.search(cache, query, &mut look)?,
                Index::Run(run, sources) => work += search_run(run, sources, cache, query, &mut look)?,
            }
        }
        Ok(work)
    }
}

/// The segment that a run covers, if it is there as it was: a run proves itself by the salts and ends of its segments.
fn covered<'s>(run: &MergedRun, source: &RunSource, segments: &'s HashMap<SegmentNo, Indexed>) -> Option<&'s Indexed> {
    let is_it = |known: &&Indexed| {
        let Segment { header, sealed, state, .. } = &*known.segment;
        known.kind == run.kind()
            && header.salt == source.salt
            && sealed.is_some_and(|sealed| sealed.head == source.head)
            && !matches!(state, SegmentState::Damaged(_))
    };
    segments.get(&source.number).filter(is_it)
}

impl Place {
    /// A run as far as it covers what no other place does.
    fn of_run(run: &Arc<MergedRun>, loose: &mut HashMap<SegmentNo, Indexed>) -> Option<Self> {
        let mut claim = |source: &RunSource| {
            covered(run, source, loose)?;
            loose.remove(&source.number)
        };
        let sources: Vec<Option<Indexed>> = run.sources().iter().map(&mut claim).collect();
        let known = || sources.iter().flatten();
        let (from, until) = (known().map(|s| s.from).min()?, known().map(|s| s.until).max()?);
        Some(Self { kind: run.kind(), index: Index::Run(run.clone(), sources), from, until })
    }

    fn of_segment(loose: Indexed) -> Self {
        Self { kind: loose.kind, from: loose.from, until: loose.until, index: Index::Loose(loose) }
    }
}

impl Indexed {
    fn search(&self, cache: &IndexCache, query: &Query, found: &mut impl FnMut(Hit)) -> Result<Work> {
        if !self.counts(query) {
            return Ok(Work::default());
        }
        let footer = cache.footer(&self.segment)?;
        let query = Query { after: if self.kind == RunKind::Base { 0 } else { query.after }, ..*query };
        Ok(footer.run.search(&query, |&entry| {
            found(Hit { entry, segment: self.segment.clone(), crcs: Crcs::Footer(footer.clone()) });
        }))
    }
}

/// Looks into a run; if it cannot be read, into the indexes of its segments, now and from then on.
fn search_run(
    run: &Arc<MergedRun>,
    sources: &[Option<Indexed>],
    cache: &IndexCache,
    query: &Query,
    found: &mut impl FnMut(Hit),
) -> Result<Work> {
    let source = |i: u32| sources.get(usize::try_from(i).ok()?)?.as_ref();
    let after = if run.kind() == RunKind::Base { 0 } else { query.after };
    let mut work = Work::default();
    if !run.is_spoilt() {
        let counts = |i: u32| source(i).is_some_and(|known| known.counts(query));
        let looked = run.search(&Query { after, ..*query }, counts, |entry, i, page| {
            let hit = |known: &Indexed| Hit { entry, segment: known.segment.clone(), crcs: Crcs::Page(page.clone()) };
            source(i).map(hit).into_iter().for_each(&mut *found);
        });
        match looked {
            Ok(looked) => return Ok(looked),
            Err(_) => run.spoil(),
        }
    }
    for known in sources.iter().flatten() {
        work += known.search(cache, query, found)?;
    }
    Ok(work)
}
