//! A run finds exactly what a scan of all entries finds.

use super::*;
use crate::codec::Codec;
use crate::disk::sim::Rng;
use crate::types::*;

#[test]
fn a_search_finds_what_a_scan_finds() {
    let mut rng = Rng::new(7);
    for _ in 0..200 {
        let longest = if rng.chance(1, 4) { 200 } else { 8 };
        let entries: Vec<Entry> = (0..rng.below(60))
            .map(|i| Entry {
                volume: u32::try_from(rng.below(2)).unwrap(),
                sector: rng.below(300),
                sectors: 1 + rng.below(longest),
                rank: Rank { seq: rng.below(50), base: 0 },
                at: i,
                stored: 0,
                decoded: 0,
                codec: Codec::Raw,
                crc: 0,
                offset: 0,
            })
            .collect();
        let run = Run::new(entries.clone());
        for _ in 0..50 {
            let extent =
                Extent::new(Sector::new(rng.below(320)).unwrap(), Sectors::new(1 + rng.below(40)).unwrap()).unwrap();
            let newest = Rank { seq: rng.below(60), base: 0 };
            let mut found = Vec::new();
            run.find(VolumeNo(1), extent, newest, |e| found.push(e.at));
            let mut expect: Vec<u64> = entries
                .iter()
                .filter(|e| e.volume == 1 && e.rank <= newest && e.extent().overlap(extent).is_some())
                .map(|e| e.at)
                .collect();
            found.sort_unstable();
            expect.sort_unstable();
            assert_eq!(found, expect);
        }
    }
}
