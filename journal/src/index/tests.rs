//! A run tells of each sector what a scan of all entries tells, whatever of it is passed over.

use super::*;
use crate::codec::Codec;
use crate::disk::sim::Rng;
use crate::types::*;

/// Entries of `volumes` volumes within 340 sectors, of some few hundred ranks.
pub(super) fn entries(rng: &mut Rng, count: u64, volumes: u64, longest: u64) -> Vec<Entry> {
    // What a base read before everything has the place 0.
    let rank = |seq| Rank { seq, base: u32::from(seq == 0) };
    let entry = |rng: &mut Rng, i| Entry {
        volume: u32::try_from(rng.below(volumes)).unwrap(),
        sector: rng.below(300),
        sectors: 1 + rng.below(longest),
        rank: rank(rng.below(500)),
        at: i,
        stored: 0,
        decoded: 0,
        codec: Codec::Raw,
        crc: 0,
        offset: 0,
    };
    (0..count).map(|i| entry(rng, i)).collect()
}

/// What to ask for.
pub(super) fn query(rng: &mut Rng) -> Query {
    let extent = Extent::new(Sector::new(rng.below(320)).unwrap(), Sectors::new(1 + rng.below(40)).unwrap()).unwrap();
    let after = if rng.chance(1, 2) { 0 } else { rng.below(300) };
    Query { volume: VolumeNo(1), extent, newest: Seq::new(1 + rng.below(520)).unwrap(), after }
}

/// The newest rank of each sector that is asked for.
pub(super) fn newest<'e>(query: &Query, entries: impl IntoIterator<Item = &'e Entry>) -> Vec<Option<Rank>> {
    let start = query.extent.start().index();
    let mut ranks = vec![None; usize::try_from(query.extent.sectors().count()).unwrap()];
    for e in entries {
        let is_after = query.after == 0 || query.after < e.rank.seq;
        let counts = e.volume == query.volume.0 && is_after && e.rank.seq <= query.newest.number();
        let Some(both) = e.extent().overlap(query.extent).filter(|_| counts) else { continue };
        for sector in both.start().index()..both.end().index() {
            let rank = &mut ranks[usize::try_from(sector - start).unwrap()];
            *rank = (*rank).max(Some(e.rank));
        }
    }
    ranks
}

#[test]
fn a_search_tells_what_a_scan_tells() {
    let mut rng = Rng::new(7);
    let mut of_bases = 0;
    for _ in 0..300 {
        let longest = if rng.chance(1, 4) { 200 } else { 8 };
        let most = if rng.chance(1, 3) { 2000 } else { 60 };
        let count = rng.below(most);
        let entries = entries(&mut rng, count, 2, longest);
        let run = Run::new(entries.clone());
        for _ in 0..50 {
            let query = query(&mut rng);
            let mut found = Vec::new();
            run.search(&query, |e| found.push(*e));
            let is_asked = |e: &Entry| {
                e.volume == 1
                    && (query.after == 0 || query.after < e.rank.seq)
                    && e.rank.seq <= query.newest.number()
                    && e.extent().overlap(query.extent).is_some()
            };
            assert!(found.iter().all(is_asked), "{query:?}: {found:?}");
            of_bases += found.iter().filter(|e| e.rank.seq == 0).count();
            assert_eq!(newest(&query, &found), newest(&query, &entries), "{query:?}");
        }
    }
    assert!(of_bases > 10, "{of_bases}");
}

#[test]
fn of_a_hot_sector_few_versions_are_looked_at() {
    let mut rng = Rng::new(8);
    let mut hot = entries(&mut rng, 10_000, 1, 1);
    for (seq, entry) in (1..).zip(&mut hot) {
        *entry = Entry { volume: 1, sector: 64, sectors: 8, rank: Rank { seq, base: 0 }, ..*entry };
    }
    let run = Run::new(hot);
    let extent = Extent::new(Sector::new(64).unwrap(), Sectors::new(8).unwrap()).unwrap();
    for newest in [1, 77, 5000, 10_000] {
        let query = Query { volume: VolumeNo(1), extent, newest: Seq::new(newest).unwrap(), after: 0 };
        let mut found = Vec::new();
        let work = run.search(&query, |e| found.push(e.rank.seq));
        assert_eq!(found, [newest]);
        assert!(work.entries <= 2, "{work:?}");
    }
}
