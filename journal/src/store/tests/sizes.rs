//! Volumes beyond 2 TiB and 16 TiB, of odd sizes, and of the largest size there is: a few writes where numbers overflow.

use std::sync::Arc;

use super::super::{Store, View};
use super::history::GROUP;
use super::model::{SEGMENT_BYTES, entropy};
use crate::codec::*;
use crate::disk::sim::Rng;
use crate::disk::{Disk, SimDisk};
use crate::error::ErrorKind;
use crate::frame::{FrameBuilder, FrameSeal};
use crate::types::*;

/// 2 TiB and 16 TiB in sectors: where 32 bits of sectors, and of 4 KiB blocks, end.
const EDGES: [u64; 2] = [1 << 32, 1 << 35];
/// 20 TiB, a size that nothing divides, and the largest.
const SIZES: [u64; 3] = [20 << 31, 1_000_003, (1 << 54) - 1];

struct Write {
    seq: u64,
    volume: u32,
    extent: Extent,
    /// Every byte of it; 0 in a discard.
    byte: u8,
}

fn extent(start: u64, end: u64) -> Extent {
    Extent::between(Sector::new(start).unwrap(), Sector::new(end).unwrap()).unwrap()
}

/// Sectors at which something may go wrong in a volume of this size.
fn places(size: u64) -> Vec<u64> {
    [0, size].into_iter().chain(EDGES).filter(|&place| place <= size).collect()
}

/// Writes, fills and discards around every place of every volume, in frames of a few.
fn write_all(store: &mut Store) -> Vec<Write> {
    let mut writes = Vec::new();
    let mut rng = Rng::new(20);
    let (mut builder, mut prev, mut seq, mut number) = (FrameBuilder::new(), ChainHead::START, 0, None);
    builder.push(WallTime(1), Body::EpochBegin(EpochBegin::FIRST));
    for (volume, size) in (0..).zip(SIZES) {
        let add = VolumeAdd { uuid: VolumeUuid([9; 16]), name: format!("v{volume}") };
        builder.push(WallTime(1), Body::VolumeAdd { volume: VolumeNo(volume), size: Sectors::new(size).unwrap(), add });
    }
    for round in 0..120 {
        for _ in 0..3 {
            let volume = usize::try_from(rng.below(3)).unwrap();
            let size = SIZES[volume];
            let places = places(size);
            let place = places[rng.below_len(places.len())];
            let start = (place + rng.below(20)).saturating_sub(10).min(size - 1);
            let end = start + 1 + rng.below(128.min(size - start));
            // From time to time one that goes over several places, or over all.
            let extent = match rng.below(12) {
                0 => extent(rng.below(9), size - rng.below(9)),
                1 => extent(rng.below(size / 2), size / 2 + rng.below(size / 2) + 1),
                _ => extent(start, end),
            };
            seq = writes.len() as u64 + 5;
            let (no, byte) = (VolumeNo(u32::try_from(volume).unwrap()), u8::try_from(1 + rng.below(255)).unwrap());
            let byte = match rng.below(4) {
                0 => {
                    builder.push(WallTime(1), Body::Discard { volume: no, extent });
                    0
                }
                1 | 2 if extent.bytes() <= 65_536 => {
                    let data = vec![byte; usize::try_from(extent.bytes()).unwrap()];
                    builder.write(WallTime(1), no, extent, &data);
                    byte
                }
                _ => {
                    builder.push(WallTime(1), Body::Pattern { volume: no, extent, fill: [byte; 8] });
                    byte
                }
            };
            writes.push(Write { seq, volume: no.0, extent, byte });
        }
        let first = Seq::new(seq + 1 - builder.records() as u64).unwrap();
        let no = FrameNo::following(number);
        let frame = builder.finish(&FrameSeal {
            kind: FrameKind::Live { first },
            group: GROUP,
            epoch: EpochId([1; 16]),
            number: no,
            prev,
            durable: None,
            wall: WallTime(1),
            boottime: WallTime(1),
            boot: BootId([5; 16]),
            compress: round % 2 == 0,
        });
        (prev, number) = (frame.head(), Some(no));
        store.append(&[frame], SessionId(1), WallTime(1)).unwrap();
    }
    store.sync().unwrap();
    writes
}

/// What a sector holds as of `seq`, and the last write that touched it.
fn newest(writes: &[Write], volume: u32, sector: u64, seq: u64) -> Option<&Write> {
    let holds = |w: &&Write| w.extent.start().index() <= sector && sector < w.extent.end().index();
    writes.iter().rev().find(|w| w.seq <= seq && w.volume == volume && holds(w))
}

/// The sectors around each place.
fn probes(size: u64) -> impl Iterator<Item = Extent> {
    places(size).into_iter().map(move |place| extent(place.saturating_sub(140), size.min(place + 140)))
}

fn covers(extents: &[Extent], sector: u64) -> bool {
    extents.iter().any(|e| e.start().index() <= sector && sector < e.end().index())
}

fn check(store: &Store, writes: &[Write]) {
    let version = store.library().now();
    let last = version.head().unwrap().seq.number();
    for seq in (4..=last).step_by(9).chain([last]) {
        let view = version.view(Seq::new(seq).unwrap()).unwrap();
        let from = Seq::new(seq - seq / 3);
        for (volume, size) in (0..).zip(SIZES) {
            let no = VolumeNo(volume);
            let whole = view.whole(no).unwrap();
            assert_eq!(whole.sectors().count(), size);
            let (data, changed) = (view.data(no, whole).unwrap(), view.changed_since(from, no, whole).unwrap());
            for probe in probes(size) {
                let mut got = vec![0xaa; usize::try_from(probe.bytes()).unwrap()];
                view.read(no, probe.byte(), &mut got).unwrap();
                for (sector, bytes) in (probe.start().index()..).zip(got.chunks(512)) {
                    let write = newest(writes, volume, sector, seq);
                    let byte = write.map_or(0, |write| write.byte);
                    assert!(bytes.iter().all(|&b| b == byte), "volume {volume}, sector {sector} as of {seq}");
                    assert_eq!(covers(&data, sector), byte != 0, "data: volume {volume}, sector {sector} as of {seq}");
                    let touched = write.is_some_and(|write| write.seq > Seq::encode(from));
                    assert_eq!(covers(&changed, sector), touched, "changed: volume {volume}, sector {sector}");
                }
            }
        }
    }
}

#[test]
fn numbers_of_any_size_are_kept_whole() {
    let disk = SimDisk::new(1);
    let open = || {
        let disk: Arc<dyn Disk> = Arc::new(disk.clone());
        Store::open(disk, GROUP, SEGMENT_BYTES, entropy).unwrap()
    };
    let (mut store, _) = open();
    let writes = write_all(&mut store);
    assert!(store.log().segments().count() > 3, "nothing was sealed");
    check(&store, &writes);
    drop(store);
    let (store, findings) = open();
    assert_eq!(findings, []);
    check(&store, &writes);
    println!("{} writes in volumes of {SIZES:?} sectors", writes.len());
}

/// The extents from `first` on, page by page.
fn pages(view: &View, from: Option<Seq>, volume: VolumeNo, (extents_max, runs_max): (u32, usize)) -> Vec<u32> {
    let (mut found, mut first) = (Vec::new(), Some(0));
    while let Some(at) = first {
        let page = view.changed_page(from, volume, at, extents_max, runs_max).unwrap();
        assert!(page.runs.len() <= runs_max && page.next.is_none_or(|next| at < next && next <= at + extents_max));
        found.extend(page.runs.iter().flat_map(|run| run.first..run.first + run.count));
        first = page.next;
    }
    found
}

#[test]
fn changed_extents_are_exactly_those_that_were_touched_page_by_page() {
    let (mut store, _) = super::model::open(&SimDisk::new(1)).unwrap();
    let writes = write_all(&mut store);
    let version = store.library().now();
    let last = version.head().unwrap().seq.number();
    let mut told = 0;
    for (from, to) in (0..last - 20).step_by(17).map(|from| (from, from + 20)) {
        let view = version.view(Seq::new(to).unwrap()).unwrap();
        for (volume, size) in (0..).zip(SIZES).take(2).filter(|_| to > 5) {
            let of = |sector: u64| u32::try_from(sector / CHANGED_EXTENT_SECTORS).unwrap();
            let since: Vec<_> =
                writes.iter().filter(|w| w.volume == volume && (from + 1..=to).contains(&w.seq)).collect();
            // Those that go over all of a large volume are for the other tests.
            if since.iter().any(|w| w.extent.sectors().count() > 1 << 30) {
                continue;
            }
            let touched = since.iter().flat_map(|w| of(w.extent.start().index())..=of(w.extent.end().index() - 1));
            let touched: Vec<u32> = touched.collect::<std::collections::BTreeSet<_>>().into_iter().collect();
            for page in [(7, 1), (1 << 20, 4096), (1 << 20, 2)].into_iter().skip(usize::from(size > 1 << 30)) {
                assert_eq!(pages(&view, Seq::new(from), VolumeNo(volume), page), touched, "({from}, {to}] by {page:?}");
            }
            told += touched.len();
        }
        let none = view.changed_extents(Seq::new(from), VolumeNo(77), 0).unwrap();
        assert_eq!(none, Changed::default(), "a volume that is not there");
    }
    println!("{told} extents");
    assert!(told > 100);
    let view = version.view(version.head().unwrap().seq).unwrap();
    assert_eq!(view.changed_extents(None, VolumeNo(2), 0).unwrap_err().kind(), ErrorKind::Unsupported);
    let beyond = view.changed_extents(None, VolumeNo(1), u32::MAX).unwrap();
    assert_eq!((beyond.next, beyond.runs.len()), (None, 0));
}

#[test]
fn a_read_across_the_end_is_refused() {
    let (mut store, _) = super::model::open(&SimDisk::new(1)).unwrap();
    write_all(&mut store);
    let version = store.library().now();
    let view = version.view(version.head().unwrap().seq).unwrap();
    for (volume, size) in (0..).zip(SIZES) {
        let read = |sector: u64, sectors: usize| {
            view.read(VolumeNo(volume), sector.saturating_mul(512), &mut vec![0; 512 * sectors]).map_err(|e| e.kind())
        };
        assert_eq!(read(size - 1, 1), Ok(()));
        for (sector, sectors) in [(size, 1), (size - 1, 2), (size + 1, 1), (1 << 54, 1), (u64::MAX / 512, 1)] {
            assert_eq!(read(sector, sectors), Err(ErrorKind::Invalid), "{sector}+{sectors} of {size}");
        }
    }
}

/// A segment's index names places beyond 4 GiB as well as small ones.
#[test]
fn places_in_files_are_64_bits() {
    use crate::index::{Builder, Entry};
    let (mut store, _) = super::model::open(&SimDisk::new(1)).unwrap();
    write_all(&mut store);
    let frame = store.log().locate(Seq::new(300).unwrap()).unwrap().unwrap().read().unwrap();
    let at = (5 << 40) + 512;
    let mut builder = Builder::default();
    builder.add(&frame, at, at + 64, true);
    assert_eq!(builder.frames[0].at, at);
    for entry in builder.entries.iter().filter(|entry| entry.stored > 0) {
        assert!(entry.at > at, "{entry:?}");
        let mut w = Writer::default();
        entry.encode(&mut w);
        assert_eq!(Entry::decode(&mut Reader::new(&w.finish())), Ok(*entry));
    }
    assert!(builder.entries.iter().any(|entry| entry.stored > 0), "no data in this frame");
}
