//! Which parts of versions nobody can see. Pure: entries in, what lives out.
//!
//! A version that counts from b on is asked of first at p = `Kept::sees(b)`. What another one of higher rank, that counts from p or before, covers
//! there is never seen again.

use crate::index::{Entry, Rank};
use crate::retention::Kept;
use crate::types::Extent;

/// The accused.
#[derive(Debug)]
pub(super) struct Judge<'k> {
    kept: &'k Kept,
    cases: Vec<Case>,
    /// Who may lose something yet, in order.
    seats: Vec<Seat>,
    /// Each class of lengths, and the seat one past its last.
    classes: Vec<(u32, usize)>,
    /// Seats of whom nothing is left.
    dead: usize,
}

#[derive(Debug)]
struct Case {
    extent: Extent,
    /// From where on it counts.
    birth: u64,
    /// Where it is asked of first.
    seen_at: u64,
    lives: Lives,
}

/// Where a case is found: in the order of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Seat {
    class: u32,
    volume: u32,
    start: u64,
    rank: Rank,
    case: usize,
    /// The last place where it is asked of first, or one before it that begins where it does.
    upto: u64,
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
        Self { kept, cases: Vec::new(), seats: Vec::new(), classes: Vec::new(), dead: 0 }
    }

    /// Adds a version that counts from `birth` on; its number.
    pub(super) fn accuse(&mut self, entry: &Entry, birth: u64) -> usize {
        let (case, seen_at) = (self.cases.len(), self.kept.sees(birth));
        self.cases.push(Case { extent: entry.extent(), birth, seen_at, lives: Lives::Whole });
        let Entry { volume, sector: start, rank, .. } = *entry;
        self.seats.push(Seat { class: entry.class(), volume, start, rank, case, upto: seen_at });
        case
    }

    /// All have been named. The lowest rank, and the last place where one is asked of: only what lies between matters.
    pub(super) fn range(&mut self) -> Option<(u64, u64)> {
        self.seats.sort_unstable();
        self.bury();
        self.seat();
        let oldest = self.seats.iter().map(|seat| seat.rank.seq).min()?;
        Some((oldest, self.seats.iter().map(|seat| seat.upto).max()?))
    }

    /// Of what was written again and again from one place on, all but the longest ones before each point are dead by what follows them:
    /// nobody needs to be heard.
    fn bury(&mut self) {
        let mut cover: Option<(Seat, Extent, u64)> = None;
        for seat in self.seats.iter().rev() {
            let Some(case) = self.cases.get_mut(seat.case) else { continue };
            let later = cover.filter(|(later, ..)| later.place() == seat.place() && later.rank > seat.rank);
            match later.filter(|(.., birth)| *birth <= case.seen_at) {
                Some((_, extent, _)) if extent.end() >= case.extent.end() => case.lives = Lives::Parts(Vec::new()),
                _ => cover = Some((*seat, case.extent, case.birth)),
            }
        }
    }

    /// Of whom something is left stays.
    fn seat(&mut self) {
        let cases = &self.cases;
        self.seats.retain(|seat| cases.get(seat.case).is_some_and(|case| !case.lives.is_nothing()));
        (self.dead, self.classes) = (0, Vec::new());
        let mut before: Option<Seat> = None;
        for (at, seat) in self.seats.iter_mut().enumerate() {
            let upto = before.filter(|before| before.place() == seat.place()).map_or(0, |before| before.upto);
            seat.upto = seat.upto.max(upto);
            before = Some(*seat);
            match self.classes.last_mut() {
                Some((class, end)) if *class == seat.class => *end = at + 1,
                _ => self.classes.push((seat.class, at + 1)),
            }
        }
    }

    /// What counts from `birth` on, and covers what is of lower rank.
    pub(super) fn hear(&mut self, entry: &Entry, birth: u64) {
        let extent = entry.extent();
        let end = (entry.volume, extent.end().index());
        let mut from = 0;
        for &(class, to) in &self.classes {
            let seats = self.seats.get(from..to).unwrap_or_default();
            from = to;
            let reach = 1_u64.checked_shl(class).unwrap_or(u64::MAX);
            let lowest = (entry.volume, (entry.sector + 1).saturating_sub(reach));
            let first = seats.partition_point(|seat| (seat.volume, seat.start) < lowest);
            let mut seats = seats.get(first..).unwrap_or_default();
            while let Some(first) = seats.first().filter(|seat| (seat.volume, seat.start) < end) {
                let count = match seats.get(1) {
                    Some(next) if next.start == first.start => seats.partition_point(|s| s.place() <= first.place()),
                    _ => 1,
                };
                let (here, behind) = seats.split_at(count);
                seats = behind;
                // Only those that no point saw before this one came.
                let late = here.get(here.partition_point(|seat| seat.upto < birth)..).unwrap_or_default();
                for seat in late.iter().take_while(|seat| seat.rank < entry.rank) {
                    let Some(case) = self.cases.get_mut(seat.case) else { continue };
                    if birth <= case.seen_at && !case.lives.is_nothing() && case.extent.overlap(extent).is_some() {
                        case.lives.lose(case.extent, extent);
                        self.dead += usize::from(case.lives.is_nothing());
                    }
                }
            }
        }
        if self.dead > self.seats.len() / 2 {
            self.seat();
        }
    }

    /// What is left of one.
    pub(super) fn verdict(&self, number: usize) -> &Lives {
        self.cases.get(number).map_or(&Lives::Whole, |case| &case.lives)
    }
}

impl Seat {
    fn place(&self) -> (u32, u32, u64) {
        (self.class, self.volume, self.start)
    }
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

    /// Whether it cannot be seen at all.
    pub(super) fn is_nothing(&self) -> bool {
        matches!(self, Self::Parts(parts) if parts.is_empty())
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
        assert_eq!(judge.seats.len(), 4);
        (1..=900).for_each(|seq| judge.hear(&entry((seq, 0), 100, 8), seq));
        judge.hear(&entry((901, 0), 100, 7), 901);
        let lives: Vec<usize> = (0..901).filter(|&case| judge.verdict(case) != &Lives::Parts(Vec::new())).collect();
        assert_eq!(lives, [9, 499, 899, 900]);
        assert_eq!(ranges(judge.verdict(899), entry((900, 0), 100, 8).extent()), [(107, 108)]);
    }

    /// Any order, any lengths: what lives is what a look at each pair says.
    #[test]
    fn verdicts_are_those_of_all_pairs() {
        let mut rng = crate::disk::sim::Rng::new(8);
        for _ in 0..300 {
            let kept = kept(&[10, 20, 25, 40], 60);
            let mut one = |seq| {
                let base = if rng.chance(1, 6) { 1 } else { 0 };
                let birth = if base == 1 { seq + 1 + rng.below(30) } else { seq };
                (entry((seq, base), 100 + rng.below(6), 1 + rng.below(12)), birth)
            };
            let all: Vec<(Entry, u64)> = (1..80).map(&mut one).collect();
            let mut judge = Judge::new(&kept);
            all.iter().enumerate().for_each(|(n, (entry, birth))| assert_eq!(judge.accuse(entry, *birth), n));
            judge.range().unwrap();
            all.iter().for_each(|(entry, birth)| judge.hear(entry, *birth));
            for (number, (accused, birth)) in all.iter().enumerate() {
                let killers = all.iter().filter(|(e, b)| e.rank > accused.rank && *b <= kept.sees(*birth));
                let is_left = |s: &u64| !killers.clone().any(|(e, _)| (e.sector..e.sector + e.sectors).contains(s));
                let expect: Vec<u64> = (accused.sector..accused.sector + accused.sectors).filter(is_left).collect();
                let got = ranges(judge.verdict(number), accused.extent());
                assert_eq!(got.into_iter().flat_map(|(from, to)| from..to).collect::<Vec<_>>(), expect, "{number}");
            }
        }
    }

    #[test]
    fn a_hot_place_of_many_lengths_is_judged_in_little_time() {
        let kept = kept(&(1..2000).map(|minute| minute * 100).collect::<Vec<_>>(), 300_000);
        let mut judge = Judge::new(&kept);
        let all = |seq: u64| entry((seq, 0), 100 + seq % 3, 9 + seq * 7 % 8);
        (1..=200_000).for_each(|seq| assert_eq!(judge.accuse(&all(seq), seq) as u64, seq - 1));
        judge.range().unwrap();
        assert!(judge.seats.len() < 2000 * 3 * 8, "{}", judge.seats.len());
        (1..=200_000).for_each(|seq| judge.hear(&all(seq), seq));
        assert!(judge.seats.len() < 2000 * 3 * 4 && judge.dead <= judge.seats.len() / 2, "{}", judge.seats.len());
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
