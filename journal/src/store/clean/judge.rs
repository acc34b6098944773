//! Which parts of versions nobody can see. Pure: entries in, what lives out.
//!
//! A version that counts from b on is asked of first at p = [`Kept::sees`](b). What another one of higher rank, that counts from p or before, covers
//! there is never seen again.

use crate::index::{Entry, Rank, Run};
use crate::retention::Kept;
use crate::types::{Extent, VolumeNo};

/// The accused.
#[derive(Debug)]
pub(super) struct Judge<'k> {
    kept: &'k Kept,
    /// Each entry's `at` is its place in `cases`.
    run: Run,
    cases: Vec<Case>,
    waiting: Vec<Entry>,
}

#[derive(Debug)]
struct Case {
    rank: Rank,
    /// From where on it counts.
    birth: u64,
    /// Where it is asked of first.
    seen_at: u64,
    lives: Lives,
}

/// What of a version can be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Lives {
    Whole,
    /// In order, not touching; empty: nothing.
    Parts(Vec<Extent>),
}

impl<'k> Judge<'k> {
    pub(super) fn new(kept: &'k Kept) -> Self {
        Self { kept, run: Run::default(), cases: Vec::new(), waiting: Vec::new() }
    }

    /// Adds a version that counts from `birth` on; its number.
    pub(super) fn accuse(&mut self, entry: &Entry, birth: u64) -> usize {
        let number = self.cases.len();
        self.cases.push(Case { rank: entry.rank, birth, seen_at: self.kept.sees(birth), lives: Lives::Whole });
        self.waiting.push(Entry { at: number as u64, ..*entry });
        number
    }

    /// All have been named. The lowest rank, and the last place where one is asked of: only what lies between matters.
    pub(super) fn range(&mut self) -> Option<(u64, u64)> {
        self.bury();
        let oldest = self.cases.iter().map(|case| case.rank.seq).min()?;
        Some((oldest, self.cases.iter().map(|case| case.seen_at).max()?))
    }

    /// Of what was written again and again in one place, all but the last before each point is dead by what follows it: nobody needs to be heard.
    fn bury(&mut self) {
        let all = Run::new(std::mem::take(&mut self.waiting));
        let mut left = Vec::new();
        for (at, entry) in all.entries().iter().enumerate() {
            let covers = |next: &&Entry| {
                (next.volume, next.sector) == (entry.volume, entry.sector)
                    && next.sectors >= entry.sectors
                    && next.rank > entry.rank
            };
            let next = all.entries().get(at + 1).filter(covers).and_then(|next| self.cases.get(place(next)));
            let birth = next.map(|next| next.birth);
            match self.cases.get_mut(place(entry)) {
                Some(case) if birth.is_some_and(|birth| birth <= case.seen_at) => case.lives = Lives::Parts(Vec::new()),
                _ => left.push(*entry),
            }
        }
        self.run = Run::new(left);
    }

    /// What counts from `birth` on, and covers what is of lower rank.
    pub(super) fn hear(&mut self, entry: &Entry, birth: u64) {
        let extent = entry.extent();
        let cases = &mut self.cases;
        self.run.versions(VolumeNo(entry.volume), extent, entry.rank, |accused| {
            if let Some(case) =
                cases.get_mut(place(accused)).filter(|case| case.rank < entry.rank && birth <= case.seen_at)
            {
                case.lives.lose(accused.extent(), extent);
            }
        });
    }

    /// What is left of one.
    pub(super) fn verdict(&self, number: usize) -> &Lives {
        self.cases.get(number).map_or(&Lives::Whole, |case| &case.lives)
    }
}

/// Which case it is.
fn place(accused: &Entry) -> usize {
    usize::try_from(accused.at).unwrap_or(usize::MAX)
}

impl Lives {
    fn lose(&mut self, whole: Extent, gone: Extent) {
        let before = match self {
            Self::Whole => vec![whole],
            Self::Parts(parts) => std::mem::take(parts),
        };
        let mut left = Vec::with_capacity(before.len());
        for part in before {
            if part.overlap(gone).is_none() {
                left.push(part);
                continue;
            }
            left.extend(Extent::between(part.start(), part.end().min(gone.start())));
            left.extend(Extent::between(part.start().max(gone.end()), part.end()));
        }
        *self = Self::Parts(left);
    }

    /// The parts of `whole` that live.
    pub(super) fn parts(&self, whole: Extent) -> Vec<Extent> {
        match self {
            Self::Whole => vec![whole],
            Self::Parts(parts) => parts.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Codec, KeptPoint, PointClass};
    use crate::types::{Seq, WallTime};

    fn entry(rank: (u64, u32), sector: u64, sectors: u64) -> Entry {
        let rank = Rank { seq: rank.0, base: rank.1 };
        Entry { volume: 0, sector, sectors, rank, at: 0, stored: 0, decoded: 0, codec: Codec::Raw, crc: 0, offset: 0 }
    }

    fn kept(points: &[u64], upto: u64) -> Kept {
        let point =
            |&seq: &u64| KeptPoint { seq: Seq::new(seq).unwrap(), time: WallTime(seq), class: PointClass::Write };
        Kept { upto: Seq::new(upto).unwrap(), upto_time: WallTime(upto), points: points.iter().map(point).collect() }
    }

    fn ranges(lives: &Lives, whole: Extent) -> Vec<(u64, u64)> {
        lives.parts(whole).iter().map(|part| (part.start().index(), part.end().index())).collect()
    }

    #[track_caller]
    fn check(accused: ((u64, u32), u64), killers: &[((u64, u32), u64, u64, u64)], expect: &[(u64, u64)]) {
        let kept = kept(&[10, 20], 30);
        let mut judge = Judge::new(&kept);
        let victim = entry(accused.0, 100, 10);
        judge.accuse(&victim, accused.1);
        judge.range().unwrap();
        for &(rank, birth, sector, sectors) in killers {
            judge.hear(&entry(rank, sector, sectors), birth);
        }
        assert_eq!(ranges(judge.verdict(0), victim.extent()), expect);
    }

    #[test]
    fn what_no_point_sees_is_dead_and_nothing_else() {
        let live = |seq, sector, sectors| ((seq, 0), seq, sector, sectors);
        check(((5, 0), 5), &[live(7, 100, 10)], &[]);
        check(((5, 0), 5), &[live(10, 100, 10)], &[]);
        check(((5, 0), 5), &[live(11, 100, 10)], &[(100, 110)]); // the point at 10 sees it
        check(((10, 0), 10), &[live(11, 100, 10)], &[(100, 110)]);
        check(((11, 0), 11), &[live(20, 103, 2), live(12, 108, 40)], &[(100, 103), (105, 108)]);
        check(((21, 0), 21), &[live(30, 90, 15)], &[(105, 110)]);
        check(((21, 0), 21), &[live(31, 90, 50)], &[(100, 110)]); // what is not thinned sees it
        check(((30, 0), 30), &[live(31, 90, 50)], &[(100, 110)]);
        check(((5, 0), 5), &[live(4, 90, 50)], &[(100, 110)]); // older ones do not overwrite
        check(((5, 0), 5), &[live(5, 100, 10)], &[(100, 110)]); // nor does it itself
    }

    #[test]
    fn of_a_place_that_is_written_for_ever_few_versions_are_left_to_judge() {
        let kept = kept(&[10, 500], 1000);
        let mut judge = Judge::new(&kept);
        (1..=900).for_each(|seq| assert_eq!(judge.accuse(&entry((seq, 0), 100, 8), seq) as u64, seq - 1));
        judge.accuse(&entry((901, 0), 100, 7), 901); // it is shorter: the one before lives on behind it
        judge.range().unwrap();
        assert_eq!(judge.run.entries().len(), 4);
        (1..=900).for_each(|seq| judge.hear(&entry((seq, 0), 100, 8), seq));
        judge.hear(&entry((901, 0), 100, 7), 901);
        let lives: Vec<usize> = (0..901).filter(|&case| judge.verdict(case) != &Lives::Parts(Vec::new())).collect();
        assert_eq!(lives, [9, 499, 899, 900]);
        assert_eq!(ranges(judge.verdict(899), entry((900, 0), 100, 8).extent()), [(107, 108)]);
    }

    #[test]
    fn a_base_counts_from_where_it_was_sealed() {
        // Read after 3, sealed at 15: what was written at 4 wins from the beginning, what was there before until 15.
        check(((3, 1), 15), &[((4, 0), 4, 100, 10)], &[]);
        check(((3, 1), 15), &[((3, 0), 3, 100, 10)], &[(100, 110)]);
        check(((3, 0), 3), &[((3, 1), 15, 100, 10)], &[(100, 110)]); // the point at 10 sees the write
        check(((3, 0), 3), &[((3, 1), 9, 100, 10)], &[]);
        check(((3, 1), 15), &[((3, 2), 15, 100, 4)], &[(104, 110)]); // the base read it again
    }
}
