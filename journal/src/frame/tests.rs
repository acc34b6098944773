//! Frames come back as they were built; no flipped bit and no truncation passes.

use bytes::Bytes;

use super::*;
use crate::codec::{Body, FrameKind, GapReason, Mark};
use crate::types::*;

fn seal(compress: bool) -> FrameSeal {
    FrameSeal {
        kind: FrameKind::Live { first: Seq::new(5).unwrap() },
        group: GroupId([1; 16]),
        epoch: EpochId([2; 16]),
        number: FrameNo::FIRST,
        prev: ChainHead::START,
        durable: None,
        wall: WallTime(100),
        boottime: WallTime(50),
        boot: BootId([3; 16]),
        compress,
    }
}

fn extent(sector: u64, count: u64) -> Extent {
    Extent::new(Sector::new(sector).unwrap(), Sectors::new(count).unwrap()).unwrap()
}

fn small(compress: bool) -> Frame {
    let mut b = FrameBuilder::new();
    b.write(WallTime(1), VolumeNo(0), extent(3, 9), &[7; 9 * 512]);
    b.push(WallTime(2), Body::Flush);
    b.push(WallTime(2), Body::Mark(Mark { locked_until: None, name: "a".into() }));
    b.finish(&seal(compress))
}

#[test]
fn what_was_built_passes_and_reads_the_same() {
    for compress in [false, true] {
        let built = small(compress);
        let read = Frame::check(built.bytes().clone()).unwrap();
        assert_eq!((read.header(), read.head()), (built.header(), built.head()));
        assert!(read.payload_intact());
        assert_eq!(read.records().count(), 3);
        assert_eq!(read.units().next().unwrap().entry.decoded, 9 * 512);
        assert_eq!(read.last_seq(), Seq::new(7));
        assert_eq!(compress, read.payload().len() < 9 * 512);
    }
}

#[test]
fn every_flipped_bit_and_every_truncation_is_refused() {
    for compress in [false, true] {
        let good = small(compress).bytes().to_vec();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Frame::check(bad.into()).is_err(), "bit {bit}");
        }
        for len in 0..good.len() {
            assert!(Frame::check(Bytes::copy_from_slice(&good[..len])).is_err(), "{len} bytes");
        }
    }
}

#[test]
fn a_full_frame_stays_within_the_limits() {
    for (sectors, compress) in [(128, false), (1, false), (127, true), (8, true)] {
        let mut b = FrameBuilder::new();
        let data = vec![0x5a; usize::try_from(sectors * 512).unwrap()];
        let mut n = 0;
        while !b.is_full() {
            b.write(WallTime(n), VolumeNo(1), extent(n * sectors, sectors), &data);
            n += 1;
        }
        let frame = b.finish(&seal(compress));
        let read = Frame::check(frame.bytes().clone()).unwrap();
        assert_eq!(read.records().count() as u64, n);
        assert!(b.is_empty() && b.payload_bytes() == 0);
    }
}

#[test]
fn notes_fill_a_frame_too() {
    let mut b = FrameBuilder::new();
    let gap = crate::codec::Gap { reason: GapReason::FirstCopy, text: "x".repeat(900) };
    while !b.is_full() {
        b.push(WallTime(1), Body::Gap(gap.clone()));
    }
    assert!(b.records() > 60);
    Frame::check(b.finish(&seal(false)).bytes().clone()).unwrap();
}
